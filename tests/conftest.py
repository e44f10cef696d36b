# SPDX-License-Identifier: MIT
"""The shared configuration of all tests: the header of the report, markers, the hypothesis profiles.

What it is: pytest's configuration in Python.
Must not know: any test.
Invariant: no test depends on chance or on time; hypothesis draws the same examples in every run.
Read next: test_imports.py.
"""

from __future__ import annotations

import asyncio.constants
import contextlib
import errno
import gc
import json
import os
import platform
import re
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import hypothesis.strategies
import leaks
import pytest
from refusal import io_uring_refusal, workers_stay

if sys.flags.dev_mode:
    # In debug mode asyncio records the stack of each handle, future and task, here with all frames of pytest:
    # half of the time of its tests, for a message. With one frame its checks stay, and cost little. _asyncio
    # has bound the function, so the default of its limit changes.
    asyncio.constants.DEBUG_STACK_DEPTH = 1
    traceback.extract_stack.__defaults__ = (None, 1)

# No deadlines: a busy machine misses them, and an emulated one even more. Examples share the fixtures of a
# function, so tests whose examples change a file rewrite it.
_COMMON = hypothesis.settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.register_profile("default", _COMMON, max_examples=100)
hypothesis.settings.register_profile("small", _COMMON, max_examples=20)
hypothesis.settings.register_profile("ci", _COMMON, max_examples=300, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_report_header() -> str:
    """Describe the system that the tests run on."""
    return (
        f"kernel: {platform.system()} {platform.release()} {platform.machine()}; "
        f"{platform.python_implementation()} {platform.python_version()}"
    )


#: Tests that only compare bytes and values. PyPy has its own struct, a machine its own order of bytes, and a
#: copy its own text: see the marker bytes.
BYTES = {"test_fields.py", "test_ops.py", "test_uapi.py"}
#: Tests that prove little on another Python: they fail on purpose or start processes. See the marker alike.
ALIKE = BYTES | {
    "faults", "test_command_line.py", "test_denied.py", "test_evidence.py", "test_examples.py",
    "test_files_everywhere.py", "test_forbid.py", "test_imports.py", "test_inspect.py",
    "test_layout.py", "test_man_page.py", "test_operators.py", "test_probe_denied.py", "test_seccomp.py",
    "test_tour.py", "test_uncopyable.py", "test_vendored.py",
}  # fmt: skip
#: Tests of the checkout and its tools, which give the same result on each Python: see the marker once.
#: test_vendor.py makes copies with every Python, and compares them.
ONCE = {
    "test_bench.py", "test_build_python.py", "test_check_kernel.py", "test_docs.py", "test_docstrings.py",
    "test_kernel_matrix.py", "test_packages.py", "test_play_browser.py", "test_play_kernel.py",
    "test_readme.py", "test_skips.py", "test_uapi_header.py", "test_vendor.py",
}  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the files that are ALIKE on all Pythons, or needed ONCE."""
    for item in items:
        places = {item.path.name, item.path.parent.name}
        for names, marker in ((ALIKE, "alike"), (ONCE, "once"), (BYTES, "bytes")):
            if names & places:
                item.add_marker(marker)


def pytest_collection_finish() -> None:
    """Exclude the collected tests from later garbage collections, of which tests make thousands."""
    # Before hypothesis first uses its source of randomness, it asks the collector for its referrers; frozen
    # objects are not found.
    hypothesis.given(hypothesis.strategies.none())(lambda _: None)()
    # hypothesis times collections for its deadlines, which no test has. An exception that a test's signal
    # handler raises in that callback would be swallowed.
    if hasattr(gc, "callbacks"):  # PyPy lacks it
        mine = [each for each in gc.callbacks if not str(each.__module__).startswith("hypothesis")]
        gc.callbacks[:] = mine
    _freeze()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Freeze the reports of a file's tests, which would slow down later collections."""
    yield
    if nextitem is not None and nextitem.path != item.path:
        _freeze()


def _freeze() -> None:
    gc.collect()
    if hasattr(gc, "freeze"):  # PyPy lacks it
        gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _workers_stay() -> Iterator[None]:
    """Guard the tests in guests of the matrix, which make a ring each, against a bug of the kernel."""
    guest = os.environ.get("RAWURING_STRICT_SKIPS") == "1"
    with workers_stay() if guest else contextlib.nullcontext():
        yield


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Honour the marker requires_io_uring."""
    if item.get_closest_marker("unwatched") and os.environ.get("RAWURING_DEBUG", "0") not in ("", "0"):
        pytest.skip(f"not for RAWURING_DEBUG=1: {item.get_closest_marker('unwatched').args[0]}")
    if item.get_closest_marker("requires_io_uring") and io_uring_refusal():
        pytest.skip(f"io_uring (5.1): {io_uring_refusal()}")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Skip calls that the library rejects because the kernel would crash: see gates.py, pbuf-highmem."""
    outcome = yield
    error = outcome.excinfo and outcome.excinfo[1]
    if isinstance(error, OSError) and "this 32-bit kernel has high memory" in str(error):
        outcome.force_exception(pytest.skip.Exception("a ring of buffers in high memory (Linux 6.6)"))


@pytest.fixture
def requires_io_uring() -> None:
    """Skip if io_uring is unavailable; the marker's counterpart for parametrized tests and fixtures."""
    if io_uring_refusal():
        pytest.skip(f"io_uring (5.1): {io_uring_refusal()}")


#: PyPy and a free-threaded CPython take a tenth of a second. Elsewhere a test begins without leftovers.
QUICK_GC = sys.implementation.name == "cpython" and getattr(sys, "_is_gil_enabled", lambda: True)()


@pytest.fixture(autouse=True)
def _leakcheck(request: pytest.FixtureRequest) -> Iterator[None]:
    """Honour the marker leakcheck: the test must close everything that it opens."""
    if request.node.get_closest_marker("leakcheck") is None or not Path("/proc/self/fd").exists():
        yield
        return
    if QUICK_GC:
        gc.collect()
    before = leaks.descriptors()

    def opened() -> dict[int, str]:
        return {fd: file for fd, file in leaks.descriptors().items() if before.get(fd) != file}

    yield
    leaked = leaks.settles(opened, lambda found: not found)
    assert not leaked, f"left open: {leaked}"


# The exercised operations: "IORING_OP_NOP" -> outcomes of the tests that are marked with it.
_exercised: dict[str, list[str]] = {}
_PREFIXES = {"opcode": "IORING_OP_", "register_op": "IORING_"}


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Record the operations that a test exercised, or why not, and name a failure immediately.

    A run that exceeds its time prints neither summary nor tracebacks.
    """
    outcome = yield
    report = outcome.get_result()
    _fail_if_contradicted(report)
    terminal = item.config.pluginmanager.get_plugin("terminalreporter")
    if report.failed and terminal:
        where = str(getattr(report.longrepr, "reprcrash", ""))
        terminal.write_line(f"\nFAILED {report.nodeid}\n  {where[:500]}")
    if report.when == "call" or (report.when == "setup" and report.skipped):
        for kind, prefix in _PREFIXES.items():
            for marker in item.iter_markers(kind):
                why = report.longrepr[2] if report.skipped else ""
                _exercised.setdefault(prefix + marker.args[0], []).append(f"{report.outcome} {why}".strip())


def _fail_if_contradicted(report: pytest.TestReport) -> None:
    """Fail a test that skips for a feature, as in "EPOLL_WAIT (Linux 6.15)", if this kernel is new enough.

    Such a skip takes a defect for an old kernel. Only with RAWURING_STRICT_SKIPS=1, as in the matrix:
    a kernel may be built without a feature, and a filter may take it away.
    """
    if os.environ.get("RAWURING_STRICT_SKIPS") != "1" or sys.platform != "linux":
        return
    if not report.skipped or not isinstance(report.longrepr, tuple):
        return
    from rawuring import gates

    reason = report.longrepr[2].removeprefix("Skipped: ")
    named = re.findall(r"\((?:Linux )?(\d+\.\d+[^)]*)\)", reason)
    since = max(map(gates.version, re.findall(r"\d+(?:\.\d+)+", " ".join(named))), default=None)
    is_new = since is not None and since <= gates.version(platform.release())
    if is_new and "CONFIG_" not in reason and not io_uring_refusal():
        report.outcome = "failed"
        report.longrepr = f"skipped on Linux {platform.release()}: {reason}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Report the part of the kernel's interface that was exercised; RAWURING_TABLE names a file for it."""
    if not _exercised:
        return
    for is_operation, what in ((True, "operations"), (False, "registrations")):
        names = [name for name in _exercised if name.startswith("IORING_OP_") is is_operation]
        done = [name for name in names if any(each.startswith("passed") for each in _exercised[name])]
        missing = sorted(set(names) - set(done))
        terminalreporter.write_line(
            f"{what}: {len(done)} of {len(names)} exercised on {platform.release()}"
            + (f"; not: {' '.join(missing)}" if missing else "")
        )
    table = os.environ.get("RAWURING_TABLE")
    if table:
        facts = {"kernel": platform.release(), "machine": platform.machine(), "outcomes": _exercised}
        Path(table).write_text(json.dumps(facts, indent=1) + "\n")


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yield two connected nonblocking sockets, as selectors require."""
    a, b = socket.socketpair()
    with a, b:
        a.setblocking(False)
        b.setblocking(False)
        yield a, b


@pytest.fixture
def blocking_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yield two connected sockets on which requests wait: they fail with EAGAIN on nonblocking ones."""
    a, b = socket.socketpair()
    with a, b:
        yield a, b


@pytest.fixture
def make_pairs() -> Iterator[Callable[[int], list[tuple[socket.socket, socket.socket]]]]:
    """Yield a function that makes pairs of connected sockets, which are closed even if the test fails."""
    with contextlib.ExitStack() as stack:

        def make(count: int) -> list[tuple[socket.socket, socket.socket]]:
            made = []
            for _ in range(count):
                a, b = socket.socketpair()
                made.append((stack.enter_context(a), stack.enter_context(b)))
            return made

        yield make


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Yield the ends of a nonblocking pipe, which a test may close."""
    yield from _pipe(os.O_NONBLOCK)


@pytest.fixture
def blocking_pipe() -> Iterator[tuple[int, int]]:
    """Yield the ends of a pipe on which requests wait: they fail with EAGAIN on a nonblocking one."""
    yield from _pipe(0)


def _pipe(flags: int) -> Iterator[tuple[int, int]]:
    ends = os.pipe2(flags | os.O_CLOEXEC)
    pipe = os.fstat(ends[0])
    yield ends
    for end in ends:
        with contextlib.suppress(OSError):  # the test has closed it, and perhaps another file has its number
            if os.path.samestat(os.fstat(end), pipe):
                os.close(end)


@pytest.fixture(scope="session")
def used_uvloop() -> None:
    """Let uvloop, if installed, open the pipe that the process keeps, before descriptors are counted."""
    with contextlib.suppress(ImportError):
        import uvloop

        uvloop.new_event_loop().close()


#: Without the caches a call makes other requests, by the same code on each Python.
@pytest.fixture(
    params=["ring", "threads"]
    + [pytest.param(f"{each}, nothing cached", marks=pytest.mark.alike) for each in ("ring", "threads")]
)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let the ring or threads answer calls of files, with the caches before them or without."""
    from rawuring import fileops, files, filesync, syscalls

    def refuse(*args: object, **kwargs: object) -> None:
        raise syscalls.Unavailable.because(errno.EPERM, "io_uring_setup", "seccomp")

    if "threads" in request.param:
        monkeypatch.setattr(files, "_ring", lambda: None)
        monkeypatch.setattr(filesync, "Ring", refuse)
    elif files.backend != "io_uring":
        pytest.skip(f"io_uring (5.1): {files.reason}")
    if "nothing" in request.param:
        monkeypatch.setattr(fileops, "_RWF_NOWAIT", 0)
        monkeypatch.setattr(fileops._cached, "works", False)
    return str(request.param)
