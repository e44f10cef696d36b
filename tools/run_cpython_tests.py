#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Run CPython's own test_selectors and test_asyncio over IoUringSelector.

    python3 tools/run_cpython_tests.py [--python PATH] [--strategy NAME] [--only test_asyncio] [-k NAME]

What it is: test_selectors with SELECTOR = IoUringSelector, and test_asyncio with selectors.DefaultSelector
and selectors.EpollSelector replaced by it, on every Python that has the ``test`` package. A failed test is
run again, alone, and then on the default loop: only one that fails twice here and passes there counts.
Must not know: how the selector works.
Invariant: the last line says ``N passed, N failed``, and the exit code is 0 only if nothing failed.
Read next: rawuring/selector.py.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
SUITES = ("test_selectors", "test_asyncio")
STRATEGIES = ("io_uring:epoll_wait", "io_uring:epoll_poll", "io_uring:poll_add")
LOOP = "aio"  # rawuring.aio's loop, in place of every SelectorEventLoop
DEFAULT = "default"  # the unchanged loop and selectors

# Runs in the interpreter under test. The arguments are in sys.argv[1] as JSON; the result goes to a file.
CHILD = r"""
import json, sys, unittest
checkout, strategy, suite, names, pattern, answer = json.loads(sys.argv[1])
sys.path.append(checkout)
import selectors

if strategy == "aio":
    import asyncio, asyncio.unix_events
    from rawuring import aio

    aio.install()
    for place in (asyncio, asyncio.unix_events):
        place.SelectorEventLoop = place.EventLoop = aio.IoUringEventLoop
    strategy = "io_uring:epoll_wait"

if strategy != "default":
    from rawuring.selector import IoUringSelector

    class Under(IoUringSelector):
        def __init__(self):
            super().__init__(strategy, fallback=False)

    Under.__name__ = Under.__qualname__ = "IoUringSelector"

if suite == "test_selectors":
    from test import test_selectors as module

    if strategy != "default":
        class IoUringSelectorTestCase(
            module.BaseSelectorTestCase, module.ScalableSelectorMixIn, unittest.TestCase
        ):
            SELECTOR = Under

            test_register_file = module.EpollSelectorTestCase.test_register_file

        module.IoUringSelectorTestCase = IoUringSelectorTestCase
        for name in list(vars(module)):
            if name.endswith("TestCase") and name not in ("BaseSelectorTestCase", "IoUringSelectorTestCase"):
                delattr(module, name)
        del module.BaseSelectorTestCase
else:
    if strategy != "default":
        selectors.DefaultSelector = selectors.EpollSelector = Under
    from test import test_asyncio as module

loader = unittest.TestLoader()
if pattern:
    loader.testNamePatterns = ["*" + pattern + "*"]
tests = loader.loadTestsFromNames(names) if names else loader.loadTestsFromModule(module)


class Result(unittest.TextTestResult):
    def stopTest(self, test):
        super().stopTest(test)
        with open(answer, "w") as file:
            json.dump(report(self), file)


def report(result, done=False):
    bad = result.failures + result.errors
    return {
        "run": result.testsRun,
        "failed": sorted({getattr(test, "id", lambda: str(test))() for test, _ in bad}),
        "skipped": len(result.skipped),
        "traces": {getattr(test, "id", lambda: str(test))(): trace for test, trace in bad},
        "done": done,
    }


runner = unittest.TextTestRunner(stream=sys.stderr, verbosity=2, resultclass=Result)
result = runner.run(tests)
with open(answer, "w") as file:
    json.dump(report(result, True), file)
"""


def main() -> int:
    """Run the requested tests, print a table, return the exit code."""
    options = parse_arguments()
    rows, passed, failed = [], 0, 0
    for python in options.python or found_pythons():
        if not has_test_package(python):
            print(f"{python}: no test package, skipped")
            continue
        for suite in options.only or SUITES:
            every = STRATEGIES if suite == "test_selectors" else (STRATEGIES[0], LOOP)
            for strategy in options.strategy or every:
                row = compare(python, strategy, suite, options.k)
                rows.append(row)
                passed += row["passed"]
                failed += len(row["guilty"])
    print(f"\n{'python':<16}{'suite':<16}{'strategy':<22}{'run':>6}{'failed':>8}{'seconds':>9}")
    for row in rows:
        print(
            f"{row['version']:<16}{row['suite']:<16}{row['strategy']:<22}{row['run']:>6}"
            f"{len(row['guilty']):>8}{row['seconds']:>9.0f}"
        )
        for name in row["guilty"]:
            print(f"    FAILED: {name}")
        for name in row["excused"]:
            print(f"    fails on the default loop too, or passed when run alone: {name}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not rows else 0


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", action="append", metavar="PATH", help="default: all found")
    parser.add_argument("--strategy", action="append", choices=(*STRATEGIES, LOOP))
    parser.add_argument("--only", action="append", choices=SUITES)
    parser.add_argument("-k", metavar="NAME", help="only tests whose name contains NAME")
    return parser.parse_args()


def found_pythons() -> list[str]:
    """Return one interpreter for each version on this machine."""
    sys.path.insert(0, str(CHECKOUT / "tools"))
    import run_tests

    this = run_tests.ask(sys.executable)
    return [each.path for each in run_tests.all_pythons(this)]


def has_test_package(python: str) -> bool:
    """Tell whether an interpreter includes CPython's tests."""
    code = "import test.test_selectors, test.test_asyncio"
    return subprocess.run([python, "-c", code], capture_output=True).returncode == 0


def compare(python: str, strategy: str, suite: str, pattern: str | None) -> dict:
    """Run one suite; repeat failed tests alone, and on the default loop."""
    started = time.monotonic()
    print(f"==== {python} {suite} {strategy}", flush=True)
    first = run(python, strategy, suite, [], pattern)
    guilty, excused = [], []
    for name in first["failed"]:
        testable = name.startswith("test.")
        again = run(python, strategy, suite, [name], None) if testable else first
        if testable and not again["failed"] and again["run"]:
            excused.append(name)
            continue
        default = run(python, DEFAULT, suite, [name], None) if suite != "test_selectors" else {"failed": []}
        if default["failed"]:
            excused.append(name)
        else:
            guilty.append(name)
            print(first["traces"].get(name, ""))
    if not first["done"]:
        guilty.append(f"{suite} did not end")
    return {
        "version": first["version"], "suite": suite, "strategy": strategy, "run": first["run"],
        "passed": first["run"] - len(first["failed"]) - first["skipped"], "guilty": guilty,
        "excused": excused, "seconds": time.monotonic() - started,
    }  # fmt: skip


def run(python: str, strategy: str, suite: str, names: list[str], pattern: str | None) -> dict:
    """Run tests in a separate interpreter and return their report."""
    with tempfile.TemporaryDirectory(prefix="rawuring-cpython-") as folder:
        answer = Path(folder) / "answer.json"
        arguments = json.dumps([str(CHECKOUT), strategy, suite, names, pattern, str(answer)])
        environment = {**os.environ, "TMPDIR": folder}
        log = Path(os.environ.get("RAWURING_LOG", os.devnull))
        with log.open("a") as output:
            try:
                subprocess.run(
                    [python, "-c", CHILD, arguments], cwd=folder, env=environment, timeout=1500,
                    stdout=output, stderr=output, stdin=subprocess.DEVNULL,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                print("stopped after 1500 s")
        empty = {"run": 0, "failed": [], "skipped": 0, "traces": {}, "done": False}
        found = json.loads(answer.read_text()) if answer.exists() else empty
    version = subprocess.run([python, "-V"], capture_output=True, text=True).stdout.split()[-1]
    return {**found, "version": version}


if __name__ == "__main__":
    sys.exit(main())
