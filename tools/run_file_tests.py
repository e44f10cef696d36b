#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Run aiofiles' own tests and anyio's test_fileio with rawuring.files in place of their files.

    python3 tools/run_file_tests.py [--python PATH] [--loop NAME] [--only aiofiles] [-k NAME]

What it is: the source distributions of both, fetched by pip, and their tests run on the stock event loop, on
ours, and on uvloop if pip finds one. Failed tests are run once more with the original: only those that
pass there count. With ``--without-ring`` threads do the work of the ring.
Must not know: how the file objects work.
Invariant: the last line says ``N passed, N failed``; the exit code is 0 only if nothing failed, and 77 if
pip reaches no index.
Read next: rawuring/fileobjects.py.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
SOURCES = {"aiofiles": "aiofiles==25.1.0", "anyio": "anyio"}
NEEDS = {"aiofiles": ["pytest", "pytest-asyncio"], "anyio": ["pytest", "trustme", "psutil"]}
LOOPS = ("stock", "rawuring", "uvloop")
SKIPPED = 77

# A pytest plugin that replaces their names with ours, and sets the loop.
PLUGIN = r"""
import json, os, sys
checkout, suite, loop, refuse = json.loads(os.environ["RAWURING_FILE_TESTS"])
sys.path.append(checkout)
from rawuring import files
if refuse:
    files._ring = lambda: None

if suite == "aiofiles":
    files.install_as_aiofiles()
elif suite == "anyio":
    import anyio
    for name in ("AsyncFile", "Path", "open_file", "wrap_file"):
        setattr(anyio, name, getattr(files, name))
if loop == "rawuring":
    from rawuring import aio
    aio.install()
elif loop == "uvloop":
    import uvloop
    uvloop.install()


def pytest_unconfigure():
    print("files:", "threads" if refuse else f"{files.backend} {files.reason}".rstrip())
"""


#: A line of pytest's summary. The log of a test that passed has lines that begin with ERROR, too: asyncio
#: before Python 3.12 writes one when a server's task is cancelled with its loop, as in test_slow_file on
#: a busy machine, also with aiofiles' own threads.
FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+\.py\b.*)", re.MULTILINE)


class NoIndex(Exception):
    """pip cannot reach an index."""


def main() -> int:
    """Run the requested tests, print a table, return the exit code."""
    options = parse_arguments()
    rows, passed, failed = [], 0, 0
    with tempfile.TemporaryDirectory(prefix="rawuring-files-") as name:
        folder = Path(name)
        try:
            for suite in options.only or SOURCES:
                tests = fetch(options.python, suite, folder)
                for loop in options.loop or LOOPS:
                    if loop == "uvloop" and not (folder / suite / "site" / "uvloop").exists():
                        rows.append((suite, loop, 0, [], "no uvloop for this Python"))
                        continue
                    rows.append((suite, loop, *run(options, suite, loop, tests, folder)))
        except NoIndex as error:
            print(f"skipped: {error}")
            return SKIPPED
    print(f"\n{'suite':<12}{'loop':<12}{'passed':>8}{'failed':>8}")
    for suite, loop, good, bad, note in rows:
        passed, failed = passed + good, failed + len(bad)
        print(f"{suite:<12}{loop:<12}{good:>8}{len(bad):>8}  {note}")
        for each in bad:
            print(f"    FAILED: {each}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=sys.executable, metavar="PATH", help="default: this one")
    parser.add_argument("--loop", action="append", choices=LOOPS)
    parser.add_argument("--only", action="append", choices=tuple(SOURCES))
    parser.add_argument("--without-ring", action="store_true", help="refuse io_uring: threads do the work")
    parser.add_argument("-k", metavar="NAME", help="only tests whose name contains NAME")
    parser.add_argument("-v", "--verbose", action="store_true", help="print pytest's output")
    options = parser.parse_args()
    found = shutil.which(options.python)
    if found is None:
        parser.error(f"argument --python: no such program: {options.python}")
    # Absolute, as the tests run in another directory; but not resolved: a venv is found by its own link.
    options.python = os.path.abspath(found)
    return options


def pip(python: str, *arguments: str) -> str:
    """Run pip; return its error output, empty on success."""
    command = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stderr.strip() or "pip failed" if done.returncode else ""


def fetch(python: str, suite: str, folder: Path) -> Path:
    """Fetch the tests of a suite and their requirements; return the folder of the tests."""
    home = folder / suite
    source = ["download", "--no-deps", "--no-binary", suite, "--dest", str(home), SOURCES[suite]]
    needs = ["install", "--target", str(home / "site"), SOURCES[suite], *NEEDS[suite]]
    for arguments in (source, needs):
        complaint = pip(python, *arguments)
        if complaint:
            raise NoIndex(complaint.splitlines()[-1])
    pip(python, "install", "--target", str(home / "site"), "uvloop")
    archive = next(home.glob("*.tar.gz"))
    with tarfile.open(archive) as tar:
        tar.extractall(home, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    tests = home / archive.name[: -len(".tar.gz")] / "tests"
    # The package beside the tests is not the one under test.
    (tests.parent / "src").rename(tests.parent / "theirs")
    return tests


def run(
    options: argparse.Namespace, suite: str, loop: str, tests: Path, folder: Path
) -> tuple[int, list[str], str]:
    """Run the tests on one loop; return the number passed, the failures, and the layer that did the work."""
    (folder / "rawuring_file_names.py").write_text(PLUGIN)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(folder / suite / "site"), str(folder))),
        "RAWURING_FILE_TESTS": json.dumps([str(CHECKOUT), suite, loop, options.without_ring]),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    command = [options.python, "-m", "pytest", "-p", "rawuring_file_names", "-p", "no:cacheprovider", "-rA"]
    command += ["--tb=short", "-q", "-o", "addopts=", "-o", "filterwarnings="]
    if suite == "aiofiles":
        command += ["-p", "pytest_asyncio.plugin", "-o", "asyncio_mode=auto", str(tests)]
        pattern = options.k
    else:
        command += ["-p", "anyio.pytest_plugin", str(tests / "test_fileio.py")]
        # One of anyio's own three backends is the loop chosen here.
        pattern = "not trio and not uvloop"
        if loop == "uvloop":  # uvloop 0.23 has no eager tasks, and their failure closes the others' runner
            pattern += " and not eager"
        if options.k:
            pattern += f" and ({options.k})"
    if pattern:
        command += ["-k", pattern]
    print(f"==== {suite} {loop}", flush=True)
    done = subprocess.run(command, cwd=tests.parent, env=environment, capture_output=True, text=True)
    if FAILED.search(done.stdout):
        environment["RAWURING_FILE_TESTS"] = json.dumps([str(CHECKOUT), "", loop, False])
        original = subprocess.run(command, cwd=tests.parent, env=environment, capture_output=True, text=True)
        excused = {each.split()[0] for each in FAILED.findall(original.stdout)}
    else:
        excused = set()
    if options.verbose or done.returncode not in (0, 1):
        print(done.stdout, done.stderr)
    passed = re.findall(r"^PASSED (\S+)", done.stdout, re.MULTILINE)
    failed = FAILED.findall(done.stdout)
    note = re.findall(r"^files: (.*)", done.stdout, re.MULTILINE)
    for each in [each for each in failed if each.split()[0] in excused]:
        failed.remove(each)
        print(f"    fails with the original, too: {each}")
    if done.returncode not in (0, 1):
        failed.append(f"pytest ended with {done.returncode}")
    return len(passed), failed, note[-1] if note else ""


if __name__ == "__main__":
    sys.exit(main())
