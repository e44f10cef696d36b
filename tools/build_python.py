#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Build a CPython for which this machine has no package: ``python3 tools/build_python.py 3.13t``.

What it is: Debian's source package of python3.X, fetched by apt with a separate state and built in a few
minutes, free-threaded when the name ends in t. tools/run_tests.py --all-pythons finds it afterwards.
Must not know: the tests.
Invariant: the machine's apt configuration, lists and packages are not changed, and the installation at the
prefix is complete: it is made under another name and then renamed. Exit code 77 means that it cannot be built
here; the last line gives the reason.
Read next: tools/run_tests.py.

Needs: Debian's apt-get, dpkg-source and debian-archive-keyring; make and a C compiler; for a Python that can
run the tests, libffi-dev, zlib1g-dev and libssl-dev. Debian's patches are not applied: with them virtual
environments of a free-threaded Python do not find their own packages.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from kernel_matrix.debian import Apt, NotToBeHad, run
from run_tests import built_pythons

#: The suites to search, in this order.
SUITES = ("trixie", "forky", "sid")
TOOLS = ("apt-get", "apt-cache", "dpkg-source", "make", "cc")
#: The modules that the tests need, and the packages that provide them.
MODULES = {"ctypes": "libffi-dev", "zlib": "zlib1g-dev", "ssl": "libssl-dev"}
QUESTION = (
    "import sys, sysconfig; print('%d.%d' % sys.version_info[:2] + "
    "('t' if sysconfig.get_config_var('Py_GIL_DISABLED') else ''))"
)


def main() -> int:
    """Build it, unless it exists, and print its path."""
    parser = argparse.ArgumentParser(description="Build a CPython from Debian's source package.")
    parser.add_argument("name", nargs="?", default="3.13t", help="X.Y, or X.Yt: free-threaded (3.13t)")
    parser.add_argument("--prefix", type=Path, help="where to install it (default: where run_tests.py looks)")
    parser.add_argument("--mirror", help="a Debian mirror, instead of the one that apt is configured for")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    if not re.fullmatch(r"3\.\d+t?", options.name):
        parser.error(f"{options.name} is no version: X.Y or X.Yt")
    prefix = (options.prefix or built_pythons() / f"python{options.name}").absolute()
    program = prefix / "bin" / f"python{options.name}"
    try:
        if answer(program) != options.name:
            build(options.name, prefix, options.mirror, options.jobs)
    except NotToBeHad as reason:
        print(f"build_python: {options.name} cannot be built here: {reason}")
        return 77
    print(program)
    return 0


def answer(program: Path) -> str:
    """Return the name that an interpreter reports; "" if it does not run."""
    try:
        done = subprocess.run(
            [str(program), "-I", "-c", QUESTION], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def build(name: str, prefix: Path, mirror: str | None, jobs: int) -> None:
    """Fetch, configure, make, install, verify, and move it to its place."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise NotToBeHad(f"no {', '.join(missing)}")
    prefix.parent.mkdir(parents=True, exist_ok=True)
    # On the same file system, so that the last step is one rename.
    with tempfile.TemporaryDirectory(prefix=".build-", dir=prefix.parent) as folder:
        scratch, log = Path(folder), prefix.parent / f"{prefix.name}.log"
        source = fetch(name, scratch, mirror)
        building, installed = scratch / "build", scratch / "installed"
        building.mkdir()
        configure = [source / "configure", f"--prefix={prefix}", "--disable-test-modules"]
        if name.endswith("t"):
            configure.append("--disable-gil")
        with log.open("w", encoding="utf-8") as output:
            for command in (
                configure,
                ["make", f"-j{jobs}"],
                ["make", "install", "ENSUREPIP=no", f"DESTDIR={installed}"],
            ):
                step([str(word) for word in command], building, output, log)
        new = Path(f"{installed}{prefix}")
        program = new / "bin" / f"python{name}"
        if answer(program) != name:
            raise NotToBeHad(f"the result does not report that it is {name}; see {log}")
        for module, package in MODULES.items():
            if subprocess.run([str(program), "-I", "-c", f"import {module}"], check=False).returncode:
                raise NotToBeHad(f"it was built without {module}: install {package}, and build again")
        shutil.rmtree(prefix, ignore_errors=True)
        new.rename(prefix)
        log.unlink()


def fetch(name: str, scratch: Path, mirror: str | None) -> Path:
    """Download the source package and unpack it."""
    package = f"python{name.rstrip('t')}"
    failure = NotToBeHad(f"no source package {package} in {', '.join(SUITES)}")
    tried = set()
    for suite in SUITES:
        try:
            apt = Apt(scratch, suite, "source", mirror)
            shown = run("apt-cache", *apt.options, "showsrc", package)
        except NotToBeHad as error:
            failure = error
            continue
        versions = re.findall(r"^Version: (\S+)$", shown, re.MULTILINE)
        for version in sorted(versions, key=numbers, reverse=True):
            if version in tried:
                continue
            tried.add(version)
            print(f"fetching {package} {version} from {suite}", flush=True)
            try:  # a mirror may list packages that it does not serve
                run(
                    "apt-get", *apt.options, "-qq", "--download-only", "source", f"{package}={version}",
                    cwd=scratch,
                )  # fmt: skip
            except NotToBeHad as error:
                failure = error
                continue
            description = next(scratch.glob(f"{package}_{version.partition(':')[2] or version}.dsc"))
            # apt has compared the checksums with the archive's signed ones.
            run("dpkg-source", "--no-check", "--skip-patches", "-x", description, "source", cwd=scratch)
            return scratch / "source"
    raise failure


def numbers(version: str) -> list[int]:
    """Return the sort key of versions."""
    return [int(number) for number in re.findall(r"\d+", version)]


def step(command: list[str], folder: Path, output: object, log: Path) -> None:
    """Run one program of the build; raise NotToBeHad if it fails."""
    print(f"running {' '.join(command)}", flush=True)
    # It takes half of the time of -O3, and the tests run for only minutes.
    environment = {"CFLAGS": "-O1 -g0", **os.environ}
    done = subprocess.run(
        command, cwd=folder, stdout=output, stderr=subprocess.STDOUT, timeout=3600, check=False,
        env=environment,
    )  # fmt: skip
    if done.returncode:
        raise NotToBeHad(f"{Path(command[0]).name} failed with {done.returncode}; see {log}")


if __name__ == "__main__":
    sys.exit(main())
