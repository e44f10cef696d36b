#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Run the tests against copies of the package that rawuring.vendor makes.

    python3 tools/test_copies.py                   every kind of copy
    python3 tools/test_copies.py --brief           the same with fewer tests, for each change
    python3 tools/test_copies.py --kind one-file --python pypy3 -- -x -k nop
    python3 tools/test_copies.py --types           mypy --strict and pyright on copies in a host
    python3 tools/test_copies.py --table           the table of docs/vendoring.md: sizes and import times

Each copy gets a tree that contains the tests, but not the package. Its ``rawuring.py`` turns every import of
rawuring, in the tests and in the processes that they start, into an import of the copy. So the tests test the
copy; an additional test verifies that.

Must not know: the tests.
Invariant: the tree contains no rawuring but the copy.
Read next: rawuring/vendor.py.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import NamedTuple

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT))

from rawuring import vendor  # noqa: E402

# These read the source files of the checkout, or make copies themselves.
ABOUT_THE_CHECKOUT = {
    "test_bench.py",
    "test_build_python.py",
    "test_command_line.py",
    "test_denied.py",
    "test_docs.py",
    "test_docstrings.py",
    "test_imports.py",
    "test_man_page.py",
    "test_packages.py",
    "test_readme.py",
    "test_uapi_header.py",
    "test_vendor.py",
    "test_vendored.py",
}
# The first three test the checkout itself. The others are long, and test the kernel: once is enough.
SELECTED = (
    "not from_a_zip and not the_one_file_answers and not private_names_of_asyncio"
    " and not random_changes and not at_any_moment"
)


class Kind(NamedTuple):
    """A kind of copy, and the tests to run on it."""

    only: tuple[str, ...]
    one_file: bool
    zipped: bool
    tests: str  # a regular expression for the names of test files
    minimal: bool = False
    compiled: bool = False


_CORE = r"test_(rings\w*|nop_tutorial|ops|syscalls|inflight|monitors|request_rules)"
_PART = r"test_(rings|nop_tutorial|monitors)"
KINDS = {
    "folder": Kind((), False, False, rf"{_CORE}|test_(register|buffers|barriers|uapi|selector|aio|probe)"),
    "one-file": Kind((), True, False, r".*"),
    "zip": Kind((), False, True, _CORE),
    "one-file-in-zip": Kind((), True, True, r"test_(rings\w*|aio|probe)"),
    "part": Kind(("selector", "buffers", "fakekernel"), False, False, _PART),
    "part-in-one-file": Kind(("selector", "buffers", "fakekernel"), True, False, _PART),
    "minimal": Kind((), False, False, rf"{_CORE}|test_(register|buffers|selector|aio|probe)", minimal=True),
    "minimal-in-one-file": Kind((), True, False, _PART, minimal=True),
    "compiled-in-zip": Kind((), False, True, _PART, compiled=True),
}

#: With --brief all tests but the long ones run on these; on the others only those that import them.
THOROUGH = ("one-file", "minimal")
BRIEF = ["-m", "not long and not once and (bytes or not alike)"]

ALIAS = '''\
"""Every import of rawuring is an import of the copy {name}, which lies in {folder}."""
import importlib, importlib.machinery, importlib.util, sys

class Loader:
    def __init__(self, real):
        self.real = real
    def create_module(self, spec):
        return importlib.import_module(self.real.name)
    def exec_module(self, module):
        module.__spec__ = self.real  # the import system has set its own
    def get_code(self, fullname):
        return self.real.loader.get_code(self.real.name)
    def __getattr__(self, name):
        return getattr(self.real.loader, name)

class Finder:
    def find_spec(self, fullname, path=None, target=None):
        if not fullname.startswith("rawuring."):
            return None
        real = importlib.util.find_spec({name!r} + fullname[len("rawuring"):])
        return real and importlib.machinery.ModuleSpec(fullname, Loader(real), origin=real.origin)

sys.path.insert(0, {folder!r})
sys.meta_path.insert(0, Finder())
sys.modules["rawuring"] = importlib.import_module({name!r})
'''

IDENTITY = '''\
import subprocess, sys, importlib
import pytest
import rawuring

@pytest.mark.parametrize("name", {modules!r})
def test_modules_then_those_of_the_copy(name):
    module = importlib.import_module("rawuring." + name)
    assert module.__name__ == {name!r} + "." + name
    assert module.__file__.startswith({folder!r}), module.__file__
    assert sys.modules[module.__name__] is module is sys.modules["rawuring." + name]
    assert rawuring.__name__ == {name!r}

def test_child_process_then_the_copy():
    code = "import rawuring.uapi; print(rawuring.uapi.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd={root!r}, capture_output=True, text=True)
    assert done.stdout.startswith({folder!r}), done
'''


def make_tree(root: Path, kind: Kind) -> None:
    """Make the copy, and the tree of tests around it."""
    name = "host._vendor.ring"
    place = root / "place"
    path = Path(
        vendor.copy(
            str(place / "host" / "_vendor"), only=kind.only, one_file=kind.one_file, name="ring",
            minimal=kind.minimal, compiled=kind.compiled,
        )
    )  # fmt: skip
    assert vendor.check(str(path)).code == vendor.DONE
    for package in ("host", "host/_vendor"):
        (place / package / "__init__.py").touch()
    folder = place
    if kind.zipped:
        folder = root / "copy.zip"
        with zipfile.ZipFile(folder, "w") as archive:
            for file in sorted(place.rglob("*.*")):
                archive.write(file, file.relative_to(place))
        shutil.rmtree(place)
    tree = root / "tree"
    for each in ("tests", "tools", "examples", "docs", "bench"):
        shutil.copytree(CHECKOUT / each, tree / each, ignore=shutil.ignore_patterns("__pycache__", "results"))
    for each in ("pyproject.toml", "README.md", "DESIGN.md", "CHANGELOG.md", "LICENSE"):
        shutil.copy(CHECKOUT / each, tree)
    facts = {"name": name, "folder": str(folder), "root": str(tree)}
    (tree / "rawuring.py").write_text(ALIAS.format(**facts))
    modules = [name for name in vendor.closure(kind.only or vendor.modules()) if name != "vendor"]
    (tree / "tests" / "test_this_copy.py").write_text(IDENTITY.format(modules=modules, **facts))


def run(name: str, options: argparse.Namespace) -> tuple[int, int]:
    """Run the tests on one kind of copy; return the numbers of passed and failed tests."""
    start, kind, arguments = time.monotonic(), KINDS[name], options.pytest
    if options.brief:
        arguments = [*BRIEF, *arguments]
        if name not in THOROUGH:
            kind = kind._replace(tests=_PART)
    with tempfile.TemporaryDirectory(prefix="rawuring-copy-") as folder:
        passed, failed = run_tree(Path(folder).resolve(), kind, options.python, arguments)
    print(f"{name:<20} {passed} passed, {failed} failed, {time.monotonic() - start:.0f} s", flush=True)
    return passed, failed


def run_tree(root: Path, kind: Kind, python: str, pytest_arguments: list[str]) -> tuple[int, int]:
    """Run the tests in a tree; return the numbers of passed and failed tests."""
    make_tree(root, kind)
    chosen = [
        f"tests/{path.name}"
        for path in sorted((root / "tree" / "tests").glob("test_*.py"))
        if path.name not in ABOUT_THE_CHECKOUT
        and (re.fullmatch(kind.tests, path.stem) or path.name == "test_this_copy.py")
    ]
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", SELECTED, *pytest_arguments]
    env = {"HYPOTHESIS_PROFILE": "small", **os.environ}  # a copy changes no value
    done = subprocess.run([*command, *chosen], cwd=root / "tree", stdout=subprocess.PIPE, text=True, env=env)
    summary = "".join(done.stdout.splitlines()[-1:])
    passed, failed = (
        sum(int(count) for count in re.findall(rf"(\d+) (?:{words})", summary))
        for words in ("passed", "failed|error")
    )
    if done.returncode:
        print(done.stdout)
    return passed, failed or int(done.returncode != 0)


# ------------------------------------------------------------------------------------------------------
# Type checkers, in the settings of a host

FORMS = {
    "folder, whole": (),
    "folder, whole, --minimal": ("--minimal",),
    "folder, --only fdmon": ("--only", "fdmon"),
    "folder, --only fdmon --minimal": ("--only", "fdmon", "--minimal"),
    "one file, whole": ("--single-file",),
    "one file, --only fdmon --minimal": ("--single-file", "--only", "fdmon", "--minimal"),
}
HOST = '''\
"""A program that uses the copy, and is checked as strictly as can be."""

from __future__ import annotations

from host._vendor.ring import FDMon, InFlight, Ring, ops, uapi


def one(ring: Ring, inflight: InFlight) -> int:
    """Use what the names stand for."""
    ops.prep_nop(ring.get_sqe(), user_data=1)
    return ring.submit() + len(inflight) + int(uapi.IORING_OP_NOP)


def two(monitor: FDMon) -> None:
    """Use a method."""
    monitor.destroy()
'''


def check_types(cache: str) -> int:
    """Run mypy and pyright on each form, in a host; return the number of failed runs."""
    beside = os.pathsep.join([str(Path(sys.executable).parent), str(CHECKOUT / ".venv-ci" / "bin")])
    path = os.pathsep.join([beside, os.environ.get("PATH", "")])
    checkers = {name: shutil.which(name, path=path) for name in ("mypy", "pyright")}
    passed = failed = 0
    for name, executable in checkers.items():
        if executable is None:
            print(f"NOT CHECKED: {name} is not installed")
            continue
        for form, options in FORMS.items():
            with tempfile.TemporaryDirectory(prefix="rawuring-types-") as folder:
                host = Path(folder).resolve() / "host"
                make(host / "_vendor", *options)
                for package in (host, host / "_vendor"):
                    (package / "__init__.py").touch()
                (host / "app.py").write_text(HOST)
                settings = {"include": ["host"], "typeCheckingMode": "strict"}
                (host.parent / "pyrightconfig.json").write_text(json.dumps(settings))
                # A separate cache: a folder in one form is a file in the next.
                arguments = ["--strict", "--cache-dir", f"{cache}/{form}", "host"] if name == "mypy" else []
                done = subprocess.run([executable, *arguments], cwd=folder, capture_output=True, text=True)
            said = done.stdout + done.stderr if done.returncode else "good"
            print(f"{name}, {form}: {said}", flush=True)
            passed, failed = passed + (not done.returncode), failed + bool(done.returncode)
    print(f"{passed} passed, {failed} failed")
    return failed


def make(folder: Path, *options: str) -> Path:
    """Make a copy called ring as the command does."""
    command = [sys.executable, "-m", "rawuring.vendor", str(folder), "--name", "ring", *options]
    subprocess.run(command, cwd=CHECKOUT, check=True, stdout=subprocess.DEVNULL)
    return folder / ("ring.py" if "--single-file" in options else "ring")


# ------------------------------------------------------------------------------------------------------
# Sizes and import times of the forms

TIMED = """
import sys, ctypes, mmap, select, socket, struct, threading, zipimport, zlib
sys.path.insert(0, sys.argv[1])
from time import process_time  # independent of the machine's load
start = process_time()
from ring import FDMon, InFlight, Ring, ops
print((process_time() - start) * 1e3)
"""


def table(rounds: int = 15) -> None:
    """Print the table of docs/vendoring.md."""
    print("| form | KB | KB, zipped | import from a folder, ms | from a zip, ms |")
    print("|---|---:|---:|---:|---:|")
    forms = {**FORMS, "folder, whole, --compiled": ("--compiled",)}
    forms["folder, --only fdmon --minimal --compiled"] = ("--only", "fdmon", "--minimal", "--compiled")
    for form, options in forms.items():
        with tempfile.TemporaryDirectory(prefix="rawuring-table-") as folder:
            path = make(Path(folder) / "in", *options)
            files = [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]
            size = sum(each.stat().st_size for each in files)
            archive = Path(shutil.make_archive(str(Path(folder) / "copy"), "zip", path.parent))
            zipped = archive.stat().st_size
            folder_ms, zip_ms = (median_ms(str(where), rounds) for where in (path.parent, archive))
        sizes = f"{size / 1e3:.0f} | {zipped / 1e3:.0f}"
        print(f"| {form} | {sizes} | {folder_ms:.0f} | {zip_ms:.0f} |", flush=True)


def median_ms(where: str, rounds: int) -> float:
    """Return the time of an import in a new process; the first one may write __pycache__."""
    command = [sys.executable, "-I", "-S", "-c", TIMED, where]
    runs = [float(subprocess.check_output(command)) for _ in range(rounds + 1)]
    return statistics.median(runs[1:])


def main() -> int:
    """Run the command; return the exit code: 0 if nothing failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", action="append", choices=sorted(KINDS), help="default: every kind")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has pytest")
    parser.add_argument("--brief", action="store_true", help="fewer tests, for each change")
    parser.add_argument("--types", action="store_true", help="run type checkers instead of the tests")
    parser.add_argument("--table", action="store_true", help="print sizes and import times instead")
    parser.add_argument("pytest", nargs="*", metavar="ARGUMENT", help="for pytest, after --")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="copies at a time")
    options = parser.parse_args()
    if options.types:
        with tempfile.TemporaryDirectory(prefix="rawuring-types-cache-") as cache:
            return 1 if check_types(cache) else 0
    if options.table:
        table()
        return 0
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        results = list(pool.map(lambda name: run(name, options), options.kind or KINDS))
    passed, failed = (sum(column) for column in zip(*results))
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
