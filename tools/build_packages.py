#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Build the wheel, the sdist and rawuring-probe.pyz, and verify them.

    python3 tools/build_packages.py                 into dist/; needs flit_core, and no network
    python3 tools/build_packages.py --check         also with twine and check-wheel-contents, and installed by
                                                    pip, uv and pipx, if available

Everything is built twice, from two copies of the checkout in different places and with different file times,
and once more from the unpacked sdist. All must produce the same bytes. The time inside is SOURCE_DATE_EPOCH;
without it, the time of the last commit, or a fixed one.

Must not know: the contents of the package; pyproject.toml and the folder define them.
Invariant: only dist/ is written in the checkout.
Read next: build_zipapp.py.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "tools")]

import build_zipapp  # noqa: E402

from rawuring import __version__  # noqa: E402

BUILD = "import sys; from flit_core import buildapi; buildapi.build_{kind}(sys.argv[1])"
IN_SDIST = ("LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "DESIGN.md", "pyproject.toml",
            "PKG-INFO", ".ci/run",
            "tests/conftest.py", "tests/data/abi.json", "tools/run_tests.py", "examples/readme.py",
            "docs/kernel-interface.md")  # fmt: skip


def main() -> int:
    """Run the command; return the exit code: 0 if everything is correct."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="check with other tools, and install")
    parser.add_argument("--output", type=Path, default=CHECKOUT / "dist")
    options = parser.parse_args()
    if importlib.util.find_spec("flit_core") is None:
        parser.error("flit_core is needed: python3 -m pip install flit_core")
    os.environ.setdefault("SOURCE_DATE_EPOCH", last_commit())
    try:
        with tempfile.TemporaryDirectory(prefix="rawuring-build-") as folder:
            packages = build_all(Path(folder))
            options.output.mkdir(parents=True, exist_ok=True)
            for name, data in packages.items():
                (options.output / name).write_bytes(data)
            os.chmod(options.output / "rawuring-probe.pyz", 0o755)
            if options.check:
                check(options.output, Path(folder))
    except (AssertionError, subprocess.CalledProcessError) as error:
        print(f"FAILED: {error}")
        return 1
    return 0


def last_commit() -> str:
    """Return the time of the last commit in seconds, or the earliest that a zip can hold."""
    command = ["git", "log", "-1", "--format=%ct"]
    done = subprocess.run(command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return done.stdout.strip() or "315532800"


# ------------------------------------------------------------------------------------------------------
# Building


def build_all(scratch: Path) -> dict[str, bytes]:
    """Build everything twice; return name -> bytes."""
    first = build(export(scratch / "a", 0), scratch / "first")
    second = build(export(scratch / "somewhere" / "else", 86_400), scratch / "second")
    assert first == second, "two builds differ"
    wheel, sdist = sorted(first, key=lambda name: not name.endswith(".whl"))
    with tarfile.open(scratch / "first" / sdist) as archive:
        names = archive.getnames()
        archive.extractall(scratch / "unpacked")
    (unpacked,) = (scratch / "unpacked").iterdir()
    assert build(unpacked, scratch / "third")[wheel] == first[wheel], "the sdist builds another wheel"
    check_names(wheel, scratch / "first" / wheel, {name.partition("/")[2] for name in names})
    epoch = os.environ["SOURCE_DATE_EPOCH"]
    print(f"{wheel}, {sdist}: the same bytes each time (SOURCE_DATE_EPOCH={epoch})")
    zipapp = build_zipapp.build()
    assert zipapp == build_zipapp.build()
    return {**first, "rawuring-probe.pyz": zipapp}


def export(target: Path, older_by_s: int) -> Path:
    """Copy the project's files with other file times."""
    done = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=CHECKOUT, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )
    if done.returncode == 0:
        for name in filter(None, done.stdout.split("\0")):
            if (CHECKOUT / name).is_file():
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(CHECKOUT / name, target / name)
    else:
        others = shutil.ignore_patterns(".git", ".venv*", "dist", "__pycache__")
        shutil.copytree(CHECKOUT, target, ignore=others)
    for path in target.rglob("*"):
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - older_by_s))
    return target


def build(checkout: Path, output: Path) -> dict[str, bytes]:
    """Build wheel and sdist as an installer does, without fetching the build tool from an index."""
    output.mkdir()
    for kind in ("wheel", "sdist"):
        subprocess.run([sys.executable, "-c", BUILD.format(kind=kind), str(output)], cwd=checkout, check=True)
    return {path.name: path.read_bytes() for path in output.iterdir()}


def check_names(wheel: str, path: Path, in_sdist: set[str]) -> None:
    """Compare the contents of the wheel and the sdist with the expected ones."""
    assert wheel == f"rawuring-{__version__}-py3-none-any.whl", wheel
    names = set(zipfile.ZipFile(path).namelist())
    modules = {f"rawuring/{each.name}" for each in (CHECKOUT / "rawuring").glob("*.py")}
    assert {name for name in names if name.startswith("rawuring/")} == modules | {"rawuring/py.typed"}, names
    assert any(name.endswith("/LICENSE") for name in names), names
    assert any(name.endswith("/entry_points.txt") for name in names), names
    assert sum(name.endswith(".data/data/share/man/man1/rawuring.1") for name in names) == 1, names
    assert {name for name in IN_SDIST if name not in in_sdist} == set()
    assert modules <= in_sdist
    junk = {name for name in in_sdist if "__pycache__" in name or name.startswith((".venv", "dist"))}
    assert not junk, junk


# ------------------------------------------------------------------------------------------------------
# Checking


def check(output: Path, scratch: Path) -> None:
    """Check the packages with other tools, and install them."""
    wheel = output / f"rawuring-{__version__}-py3-none-any.whl"
    sdist = output / f"rawuring-{__version__}.tar.gz"
    tool("twine", "check", "--strict", wheel, sdist)
    tool("check-wheel-contents", wheel)
    probe([sys.executable, "-I", "-S", str(output / "rawuring-probe.pyz")], "rawuring-probe.pyz with -I -S")
    subprocess.run([sys.executable, "-m", "venv", str(scratch / "pip")], check=True)
    for package in (wheel, sdist):
        # flit_core comes from the environment that runs this; no index is used.
        python = scratch / "pip" / "bin" / "python"
        flags = ["--no-index", "--no-deps", "--force-reinstall", "--quiet", "--disable-pip-version-check"]
        if package is sdist:
            flags.append("--no-build-isolation")
        subprocess.run(
            [python, "-m", "pip", "install", *flags, package], check=True,
            env={**os.environ, "PYTHONPATH": build_tools()} if package is sdist else None,
        )
        probe([str(scratch / "pip" / "bin" / "rawuring-probe")], f"pip install {package.name}")
        assert (scratch / "pip" / "share" / "man" / "man1" / "rawuring.1").exists(), "man rawuring"
    if tool("uv", "venv", "--quiet", "--offline", "--python", sys.executable, scratch / "uv"):
        python = scratch / "uv" / "bin" / "python"
        tool("uv", "pip", "install", "--quiet", "--offline", "--python", python, wheel)
        probe([str(scratch / "uv" / "bin" / "rawuring-probe")], "uv pip install")
    homes = {"PIPX_HOME": scratch / "pipx", "PIPX_BIN_DIR": scratch / "bin", "PIPX_MAN_DIR": scratch / "man"}
    if tool("pipx", "install", "--python", sys.executable, wheel, **homes):
        probe([str(scratch / "bin" / "rawuring-probe")], "pipx install")


def build_tools() -> str:
    """Return the folder that holds flit_core."""
    import flit_core

    return str(Path(str(flit_core.__file__)).parent.parent)


def tool(name: str, *arguments: object, **environment: object) -> bool:
    """Run a tool from this interpreter's folder or from the path; report if it is not installed."""
    beside = str(Path(sys.executable).parent)
    path = shutil.which(name, path=os.pathsep.join([beside, os.environ.get("PATH", "")]))
    if path is None:
        print(f"NOT CHECKED: {name} is not installed")
        return False
    env = {**os.environ, **{key: str(value) for key, value in environment.items()}}
    done = subprocess.run(
        [path, *map(str, arguments)], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, f"{name}: {done.stdout}"
    print(f"{name} {arguments[0] if name != 'check-wheel-contents' else ''}: good")
    return True


def probe(command: list[str], what: str) -> None:
    """Run an installed probe, outside the checkout."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([*command, "--quiet"], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode in (0, 1, 4) and done.stdout.startswith("io_uring:"), f"{what}: {done}"
    print(f"{what}: {done.stdout.strip()}")


if __name__ == "__main__":
    sys.exit(main())
