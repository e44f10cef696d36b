#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Run the tests: ``python3 tools/run_tests.py [options] [pytest's own arguments]``.

What it is: the one command a fresh checkout needs. It makes a virtual environment in .venv-tests, which git
does not see, installs pytest and hypothesis there, and runs the tests from the checkout. The next run
finds the environment ready. Only the standard library is used.
Must not know: what the tests test.
Invariant: the last line says ``N passed, N failed``, and the exit code is 0 only when nothing failed.
Read next: tests/conftest.py.
"""

import sys

# An older Python runs only these lines, so this file has no syntax newer than 3.6.
if sys.version_info < (3, 9):  # noqa: UP036
    sys.exit("rawuring needs Python 3.9 or newer; this is Python {}.{}.".format(*sys.version_info))

import argparse
import ast
import concurrent.futures
import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Optional
from xml.etree import ElementTree

CHECKOUT = Path(__file__).resolve().parent.parent
OLDEST = (3, 9)
#: The tests that --brief runs on CPythons between the oldest and the newest, and on the free-threaded one.
BRIEFEST = "not once and not long and not alike"
#: PyPy frees late, which matters where something goes wrong.
BRIEF_PYPY = "not once and not long and (faults or bytes or not alike)"
#: The time per byte of these test files, as a multiple of the others'.
SLOW = {
    "test_vendor.py": 6, "test_ring_promises.py": 2, "test_denied.py": 5, "test_command_line.py": 6,
    "test_hostile.py": 12,
}  # fmt: skip


class Python(NamedTuple):
    """An interpreter that was found and runs."""

    path: str
    implementation: str
    version: tuple[int, ...]
    abiflags: str

    @property
    def tag(self) -> str:
        """Return the name of its folder: py3.11, py3.13t, pypy3.9."""
        prefix = "py" if self.implementation == "cpython" else self.implementation
        return f"{prefix}{self.version[0]}.{self.version[1]}{self.abiflags}"


class Result(NamedTuple):
    """The outcome of one run of pytest."""

    tag: str
    passed: int
    failed: int
    skipped: int
    seconds: float
    code: int
    names: tuple[str, ...] = ()  # of the failed tests


def main() -> int:
    """Run the tests for each requested interpreter, report, return the exit code."""
    options, pytest_arguments = parse_arguments()
    # Deleted at the end; used only if the checkout is read-only.
    with tempfile.TemporaryDirectory(prefix="rawuring-tests-") as scratch:
        pythons = wanted_pythons(options)
        if options.list:
            print("\n".join(python.tag for python in pythons))
            return 0
        if not pythons:
            print("no other Python on this machine")
        chosen = pytest_arguments or options.brief
        if not chosen and not options.long:
            print("without the tests that take seconds each; --long runs these too", flush=True)
            pytest_arguments = ["-m", "not long"]
        if not chosen and len(pythons) == 1:
            results = [run_in_parts(pythons[0], options, pytest_arguments, Path(scratch))]
        else:
            results = run_each(pythons, options, pytest_arguments, Path(scratch))
    if len(results) > 1:
        print_table(results)
    for result in results:  # once more: the reports are far above
        for name in result.names:
            print(f"FAILED {name} ({result.tag})")
    passed, failed, skipped = (sum(result[column] for result in results) for column in (1, 2, 3))
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return next((result.code for result in results if result.code), 0)


def run_each(
    pythons: list[Python], options: argparse.Namespace, arguments: list[str], scratch: Path
) -> list[Result]:
    """Run the tests for each interpreter, options.jobs at a time."""
    if options.jobs > 1:  # the longest start first, so that no core waits for them at the end
        pythons.sort(key=lambda python: python.implementation == "cpython")
    everyone = all_pythons(pythons[0]) if options.brief and pythons else []
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        runs = [
            pool.submit(
                run, python, options, [*arguments, *(brief(python, everyone) if everyone else [])], scratch
            )
            for python in pythons
        ]
    return [each.result() for each in runs]


def brief(python: Python, pythons: list[Python]) -> list[str]:
    """Return the arguments that omit tests which another of these Pythons covers: see --brief."""
    if python.implementation != "cpython":
        return ["-m", BRIEF_PYPY]
    versions = [each.version for each in pythons if each.implementation == "cpython" and not each.abiflags]
    if python.abiflags or python.version not in (min(versions), max(versions)):
        return ["-m", BRIEFEST]
    # Signal handlers run at other places in the oldest: what goes wrong on purpose is tried there, too.
    return ["-m", "not once" if python.version == max(versions) else "not once and (faults or not long)"]


def run_in_parts(python: Python, options: argparse.Namespace, arguments: list[str], scratch: Path) -> Result:
    """Run the test files on all cores, a process for each part; the first is shown while it runs."""
    cores = min(4, os.cpu_count() or 1)
    at_a_time = cores + 1 if cores > 1 else 1  # a process waits now and then: for a child, a timeout, a disk
    # More parts than cores: it is unknown beforehand which takes longest here.
    parts = divide(sorted((CHECKOUT / "tests").rglob("test_*.py")), 3 * cores if cores > 1 else 1)
    commands = [[*arguments, *(str(each.relative_to(CHECKOUT)) for each in part)] for part in parts]
    started = time.monotonic()
    try:
        prepare(python, scratch, dict(os.environ), options.no_venv)  # once, not in each
    except SetupError as error:
        print(f"{python.tag}: {error}", flush=True)
        return Result(python.tag, 0, 1, 0, time.monotonic() - started, 1)
    with concurrent.futures.ThreadPoolExecutor(at_a_time) as pool:
        runs = [pool.submit(run, python, options, command, scratch, i) for i, command in enumerate(commands)]
    results = [each.result() for each in runs]
    passed, failed, skipped = (sum(each[column] for each in results) for column in (1, 2, 3))
    code = next((each.code for each in results if each.code), 0)
    names = tuple(name for each in results for name in each.names)
    return Result(python.tag, passed, failed, skipped, time.monotonic() - started, code, names)


def divide(files: list[Path], count: int) -> list[list[Path]]:
    """Divide test files into parts of about equal time, by their size and the known time of a few."""
    weights = {path: path.stat().st_size * SLOW.get(path.name, 1) for path in files}
    parts: list[list[Path]] = [[] for _ in range(count)]
    for path in sorted(files, key=lambda path: -weights[path]):
        min(parts, key=lambda part: sum(weights[each] for each in part)).append(path)
    parts.sort(key=lambda part: -sum(weights[each] for each in part))
    return [sorted(part) for part in parts if part]


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    """Split the command line into our options and pytest's."""
    parser = argparse.ArgumentParser(
        description="Run the tests in a virtual environment.",
        epilog="All other arguments go to pytest: -x, -k ring, tests/test_ops.py ...",
        allow_abbrev=False,
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--all-pythons", action="store_true", help="one run for each CPython X.Y and PyPy X.Y on this machine"
    )
    which.add_argument("--other-pythons", action="store_true", help="the same, without this interpreter")
    which.add_argument("--newest", action="store_true", help="run on the newest CPython on this machine")
    which.add_argument("--python", metavar="NAME", help="run on the Python with this name in --list (py3.9)")
    parser.add_argument("--list", action="store_true", help="print the names of these Pythons instead")
    parser.add_argument(
        "--no-venv", action="store_true", help="use the interpreter's own pytest and hypothesis (offline)"
    )
    parser.add_argument(
        "--brief",
        action="store_true",
        help="skip tests marked once; except on the newest CPython also those marked long, but the faults of "
        "these on the oldest; except on these two also those marked alike, and most random examples; PyPy "
        "runs the faults, and all random examples",
    )
    parser.add_argument("--long", action="store_true", help="also run the tests that take seconds each")
    parser.add_argument("--dev", action="store_true", help="run the interpreter with -X dev -W error")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="concurrent runs; each is shown when it has ended"
    )
    return parser.parse_known_args()


def print_table(results: list[Result]) -> None:
    """Print one line for each run."""
    print(f"\n{'python':<12}{'passed':>8}{'failed':>8}{'skipped':>9}{'seconds':>9}{'exit':>6}")
    for result in results:
        print(
            f"{result.tag:<12}{result.passed:>8}{result.failed:>8}{result.skipped:>9}"
            f"{result.seconds:>9.1f}{result.code:>6}"
        )
    print()


# ------------------------------------------------------------------------------------------------------
# One run


def run(
    python: Python, options: argparse.Namespace, arguments: list[str], scratch: Path, part: int = 0
) -> Result:
    """Run pytest under one interpreter, and count by its report."""
    shown = options.jobs == 1 and not part
    started = time.monotonic()
    environment = dict(os.environ)
    title = f"==== {python.tag}: {python.path}" + (f", part {part + 1}" if part else "")
    if shown:
        print(title, flush=True)
    try:
        executable = prepare(python, scratch, environment, options.no_venv)
    except SetupError as error:
        print(f"{python.tag}: {error}", flush=True)
        return Result(python.tag, 0, 1, 0, time.monotonic() - started, 1)
    if BRIEFEST in arguments:  # random tests are thorough elsewhere
        environment.setdefault("HYPOTHESIS_PROFILE", "small")
    report = scratch / f"{python.tag}.{part}.xml"
    command = [executable]
    if options.dev:
        command += ["-X", "dev", "-W", "error"]
    command += ["-m", "pytest", f"--junitxml={report}"]
    if options.dev:  # concurrent runs remove each other's old folders, and warn of what they do not find
        command += ["--basetemp", str(scratch / f"t{part}")]
    command += arguments
    if part or not os.access(CHECKOUT, os.W_OK):
        command += ["-p", "no:cacheprovider"]
    if shown:
        code = subprocess.run(command, cwd=CHECKOUT, env=environment).returncode
    else:
        with (scratch / f"{python.tag}.{part}.log").open("w+", encoding="utf-8", errors="replace") as log:
            code = subprocess.run(command, cwd=CHECKOUT, env=environment, stdout=log, stderr=log).returncode
            log.seek(0)
            print(f"{title}\n{log.read()}", end="", flush=True)
    passed, failed, skipped, names = count(report)
    if code and not failed:
        failed = 1  # it ended before it could count: a crash, a usage error, nothing collected
    return Result(python.tag, passed, failed, skipped, time.monotonic() - started, code, names)


def count(report: Path) -> tuple[int, int, int, tuple[str, ...]]:
    """Add up pytest's JUnit report, and name the failures; all zero without a report."""
    if not report.exists():
        return 0, 0, 0, ()
    total = failed = skipped = 0
    root = ElementTree.parse(report).getroot()
    for suite in root.iter("testsuite"):
        total += int(suite.get("tests", 0))
        failed += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped += int(suite.get("skipped", 0))
    names = tuple(
        f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
        for case in root.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    )
    return total - failed - skipped, failed, skipped, names


# ------------------------------------------------------------------------------------------------------
# The environment


class SetupError(Exception):
    """No environment could be made; the message gives the remedy."""


def prepare(python: Python, scratch: Path, environment: dict[str, str], no_venv: bool) -> str:
    """Make the environment, unless it is ready, and return the interpreter to run."""
    if no_venv:
        if not succeeds(python.path, "-c", "import pytest, hypothesis"):
            raise SetupError(f"{python.path} has no pytest and hypothesis: install them, or omit --no-venv.")
        return python.path
    parent = CHECKOUT if os.access(CHECKOUT, os.W_OK) else scratch
    folder = parent / ".venv-tests" / python.tag
    inside = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    packages = folder / "packages"  # without venv
    stamp = folder / "stamp.json"
    needed = requirements(python)
    wanted = json.dumps([needed, requirements(python, "test-loops"), python])
    with only_one(parent / ".venv-tests" / f"{python.tag}.lock"):
        if not (stamp.exists() and stamp.read_text() == wanted):
            print(f"making {folder.relative_to(parent)} with {', '.join(needed)}", flush=True)
            shutil.rmtree(folder, ignore_errors=True)
            make(python, folder, inside, packages, needed)
            if inside.exists():
                add_loops(python, inside)
            stamp.write_text(wanted)  # last: a half-made environment has none
    if inside.exists():
        return str(inside)
    old = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = str(packages) + (os.pathsep + old if old else "")
    return python.path


@contextlib.contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Let one process at a time into the block; the others wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        if os.name == "posix":
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make(python: Python, folder: Path, inside: Path, packages: Path, needed: list[str]) -> None:
    """Try venv, then virtualenv, then a plain folder filled by the interpreter's own pip."""
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", *needed]
    # venv names a missing ensurepip only after it has made half of the folder, so ask first.
    if succeeds(python.path, "-c", "import ensurepip, venv"):
        check(python.path, "-m", "venv", str(folder))
        check(str(inside), *install)
    elif succeeds(python.path, "-c", "import virtualenv"):
        check(python.path, "-m", "virtualenv", "--quiet", str(folder))
        check(str(inside), *install)
    elif succeeds(python.path, "-m", "pip", "--version"):
        check(python.path, *install, "--target", str(packages))
    else:
        raise SetupError(
            f"{python.path} has none of venv, virtualenv and pip. On Debian and Ubuntu, install the package "
            f"python3-venv (or python{python.version[0]}.{python.version[1]}-venv); or install pytest and "
            "hypothesis in any other way and add --no-venv."
        )


def succeeds(*command: str) -> bool:
    """Tell whether a command exits with 0; hide its output."""
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


def check(*command: str) -> None:
    """Run a command; show its output only if it failed."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise SetupError(
            f"{' '.join(command)} failed:\n{done.stdout}\n"
            "Without a network, use an interpreter that has pytest and hypothesis, and add --no-venv."
        )


def requirements(python: Python, extra: str = "test") -> list[str]:
    """Read an extra from pyproject.toml; tomllib is too new to be used."""
    text = (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(rf"^{extra} = (\[.*\])$", text, re.MULTILINE)
    assert found, f"pyproject.toml: no line starting with '{extra} = ['"
    needed: list[str] = ast.literal_eval(found[1])
    if "t" in python.abiflags:  # newer ones are compiled, but not for 3.13t
        needed = [f"{each},<6.131" if each.startswith("hypothesis") else each for each in needed]
    return needed


def add_loops(python: Python, inside: Path) -> None:
    """Install the extra named test-loops from wheels; without it, the tests that need it are skipped."""
    if python.implementation != "cpython" or "t" in python.abiflags:
        return  # not compiled for these, or enabling the GIL
    wanted = requirements(python, "test-loops")
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"]
    if not succeeds(str(inside), *install, *wanted):
        print(f"continuing without {', '.join(wanted)}: no wheel for {python.tag}", flush=True)


# ------------------------------------------------------------------------------------------------------
# The interpreters


def wanted_pythons(options: argparse.Namespace) -> list[Python]:
    """List the interpreters to run on."""
    this = ask(sys.executable)
    assert this is not None, f"{sys.executable} does not run"
    if options.all_pythons:
        return all_pythons(this)
    if options.other_pythons:
        return all_pythons(this)[1:]
    if options.python:
        named = [python for python in all_pythons(this) if python.tag == options.python]
        if not named:
            sys.exit(f"no {options.python} on this machine: --all-pythons --list names the available ones")
        return named
    if options.newest:
        # Free-threaded only if there is nothing else.
        def rank(python: Python) -> tuple[bool, bool, tuple[int, ...]]:
            return python.implementation == "cpython", not python.abiflags, python.version

        return [max(all_pythons(this), key=rank)]
    return [this]


def all_pythons(first: Python) -> list[Python]:
    """Find one interpreter for each implementation and X.Y: this one, else the newest Z."""
    found = {first.tag: first}
    for path in candidates():
        python = ask(path)
        if python is None or python.version[:2] < OLDEST:
            continue
        known = found.get(python.tag)
        if known is None or (known is not first and known.version < python.version):
            found[python.tag] = python
    found.pop(first.tag)
    return [first, *sorted(found.values(), key=lambda python: (python.implementation, python.version))]


def candidates() -> list[str]:
    """List the files that may be interpreters, each file once."""
    name = re.compile(r"(python3|python3\.\d+t?|pypy3|pypy3\.\d+)")
    folders = [Path(folder) for folder in os.get_exec_path() if folder and Path(folder).is_dir()]
    # A pyenv shim runs only the versions that are switched on, so look behind the shims.
    folders += sorted(Path.home().glob(".pyenv/versions/*/bin"))
    folders += sorted(built_pythons().glob("python*/bin"))
    found: dict[str, str] = {}
    for folder in folders:
        for path in sorted(folder.iterdir()):
            if name.fullmatch(path.name) and os.access(path, os.X_OK):
                found.setdefault(os.path.realpath(path), str(path))
    return list(found.values())


def built_pythons() -> Path:
    """Return the folder of those that tools/build_python.py has built."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rawuring"


def ask(path: str) -> Optional[Python]:
    """Let an interpreter describe itself; return None if it does not run."""
    question = (
        "import json, sys; print(json.dumps([sys.executable, sys.implementation.name,"
        " sys.version_info[:3], getattr(sys, 'abiflags', '')]))"
    )
    try:
        done = subprocess.run([path, "-I", "-c", question], capture_output=True, text=True, timeout=60)
        executable, implementation, version, abiflags = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return Python(executable, implementation, tuple(version), abiflags)


if __name__ == "__main__":
    sys.exit(main())
