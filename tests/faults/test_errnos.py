# SPDX-License-Identifier: MIT
"""Every errno at every call, for all its callers: the result that the user sees, and no leaks.

The table is CALLS times OBJECTS times every errno of this C library. Errors are injected below the library's
handling, where libc's syscall() returns -1.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import mmap
import os
import warnings
from functools import partial

import leaks
import pytest
from harness import figures
from strategies import selector_of

from rawuring import aio, fdmon, ops, params, rings, selector, syscalls, uapi

pytestmark = pytest.mark.requires_io_uring

EVERY = sorted(errno.errorcode)
#: These mean that the ring is lost for good; monitors and selectors continue without it.
GONE = {errno.EBADF, errno.EOPNOTSUPP, errno.ENXIO}
LOST = {errno.EPERM, errno.EACCES, errno.ENOSYS, *GONE}


class Injection:
    """Let one call of libc fail for a while."""

    def __init__(self, monkeypatch):
        self.left = self.done = self.code = 0
        syscalls._load()
        self.monkeypatch = monkeypatch

    def fail(self):
        self.left -= 1
        self.done += 1
        ctypes.set_errno(self.code)
        return -1

    def enter(self):
        with contextlib.suppress(OSError):
            syscalls.enter(-1, 0, 0, 0)  # the first call loads the function
        real = syscalls._syscall_enter
        replaced = lambda *arguments: self.fail() if self.left > 0 else real(*arguments)  # noqa: E731
        self.monkeypatch.setattr(syscalls, "_syscall_enter", replaced)

    def setup(self):
        real = syscalls._syscall

        def replaced(number, *arguments):
            return self.fail() if self.left > 0 and number == syscalls._nr_setup else real(number, *arguments)

        self.monkeypatch.setattr(syscalls, "_syscall", replaced)
        self.monkeypatch.setattr(params.time, "sleep", lambda seconds: None)

    def mmap(self):
        real = mmap.mmap

        def replaced(fd, *arguments, **keywords):
            if self.left > 0 and fd >= 0:
                self.left -= 1
                self.done += 1
                raise OSError(self.code, os.strerror(self.code))
            return real(fd, *arguments, **keywords)

        self.monkeypatch.setattr(mmap, "mmap", replaced)

    def start(self, code, times):
        self.code, self.left = code, times


@pytest.fixture
def inject(monkeypatch):
    return Injection(monkeypatch)


@pytest.fixture
def readable(pair):
    """Yield a socket with a byte to read, and its peer."""
    pair[1].send(b"x")
    return pair


@pytest.fixture
def nothing_left():
    """Require that the test leaves no more resources than it found."""
    rings.Ring(2).close()
    with leaks.nothing_left():
        yield


def seen(call):
    """Return the errno that a caller gets, 0 for none; require that exceptions have a message."""
    try:
        call()
    except OSError as error:
        code, words = error.errno, str(error)
    else:
        return 0
    assert os.strerror(code) in words or errno.errorcode[code] in words, words
    return code


# ------------------------------------------------------------------------------------------------------
# io_uring_enter


@pytest.mark.parametrize("timeout_ns", [None, 10**9])
@pytest.mark.parametrize("queued", [0, 1, 3])
def test_enter_fails_then_the_ring_says_so_or_goes_on_and_nothing_is_lost(
    inject, nothing_left, timeout_ns, queued
):
    inject.enter()
    for code in EVERY:
        with rings.Ring(8) as ring:
            for i in range(queued):
                ops.prep_nop(ring.get_sqe(), i)
            inject.start(code, 5)
            found = seen(lambda: ring.submit_and_wait(queued, timeout_ns if queued else None))
            timed = bool(timeout_ns and queued)
            # Before 5.11 a wait with a timeout is a request of the ring's own, and enter has no ETIME.
            own = timed and not ring.features & uapi.IORING_FEAT_EXT_ARG
            again = code == errno.EINTR or (code == errno.ETIME and timed and not own)
            assert found == (0 if again else code), errno.errorcode[code]
            if found:
                assert ring.sq.pending() == queued + own
            inject.start(code, 0)
            ring.submit_and_wait(queued)
            assert [cqe[0] for cqe in ring.reap()] == list(range(queued))
        figures["faults injected"] += 5


@pytest.mark.parametrize("times", [1, 3])
def test_enter_fails_then_the_monitor_says_so_or_goes_on_and_reports(inject, nothing_left, readable, times):
    inject.enter()
    for code in EVERY:
        with fdmon.IoUringFDMon(4) as monitor:
            node, fd = monitor.add(readable[0].fileno(), 1), monitor.ring.fileno()
            inject.start(code, times)
            found = seen(lambda: monitor.wait(10**9))
            assert found in (0, code), errno.errorcode[code]
            lost = code in LOST and times > 1  # once is temporary: the call is repeated
            assert (monitor.backend == "poll") == lost, (errno.errorcode[code], monitor.reason)
            if lost:
                assert found == 0
                assert errno.errorcode[code] in monitor.reason or os.strerror(code) in monitor.reason
            inject.start(code, 0)
            assert monitor.wait(10**9) == [(node, 1)]
            if lost and code in GONE:  # left to the code that closed it: here nobody did
                os.close(fd)
        figures["faults injected"] += times


@pytest.mark.parametrize("old", [False, True], ids=["", "timeouts are requests"])  # as before Linux 5.11
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("name", list(selector.STRATEGIES))
def test_enter_fails_then_the_selector_says_so_or_goes_on_and_reports(
    inject, nothing_left, readable, name, times, old
):
    selector_of(name).close()
    inject.enter()
    for code in EVERY:
        chosen = selector.IoUringSelector(name, entries=4)
        with chosen, warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            fd = chosen.ring.fileno()
            if old:
                chosen.ring.features &= ~uapi.IORING_FEAT_EXT_ARG
                chosen.ring._quick = False
            chosen.register(readable[0], 1)
            inject.start(code, times)
            found = seen(partial(chosen.select, 1))
            assert found in (0, code), errno.errorcode[code]
            lost = code in LOST and times > 1
            assert chosen.backend.startswith("io_uring") != lost, errno.errorcode[code]
            if lost:
                assert found == 0 and "continuing with" in str(said[0].message)
            inject.start(code, 0)
            assert [key.fd for key, _ in chosen.select(1)] == [readable[0].fileno()]
            if lost and code in GONE:
                os.close(fd)
        figures["faults injected"] += times


async def a_little_work(one, two):
    """Read available data, wait for more, and sleep."""
    loop = asyncio.get_running_loop()
    assert await loop.sock_recv(one, 1) == b"x"
    loop.call_later(0.001, two.send, b"x")
    assert await loop.sock_recv(one, 1) == b"x"
    await asyncio.sleep(0.0005)
    two.send(b"x")


def test_enter_fails_then_the_loop_goes_on(inject, nothing_left, readable):
    """A loop cannot report it: it loses the ring and continues with epoll."""
    inject.enter()
    for code in sorted({*LOST, errno.EINTR, errno.ETIME}):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            chosen = selector.IoUringSelector(entries=4)
            fd = chosen.ring.fileno()
            loop = aio.IoUringEventLoop(chosen)
            inject.start(code, 2)
            loop.run_until_complete(a_little_work(*readable))
            inject.start(code, 0)
            loop.close()
            if code in GONE:
                os.close(fd)
        figures["faults injected"] += 2


# ------------------------------------------------------------------------------------------------------
# io_uring_setup and mmap


def make_ring():
    rings.Ring(8).close()


def make_monitor():
    monitor = fdmon.setup()
    assert (monitor.backend, "io_uring failed" in monitor.reason) == ("poll", True)
    monitor.destroy()


def make_selector():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        selector.IoUringSelector(entries=4).close()
    assert "is used instead" in str(said[0].message)


def make_strict_selector():
    selector.IoUringSelector(entries=4, fallback=False).close()


def make_loop():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loop = aio.IoUringEventLoop()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


@pytest.mark.parametrize("call", ["setup", "mmap"])
@pytest.mark.parametrize(
    ("make", "told"),
    [(make_ring, True), (make_strict_selector, True), (make_monitor, False), (make_selector, False),
     (make_loop, False)],
)  # fmt: skip
def test_ring_cannot_be_made_then_an_error_with_the_errno_or_the_fallback(
    inject, nothing_left, call, make, told
):
    getattr(inject, call)()
    for code in EVERY:
        if code == errno.EINTR and call == "setup":
            continue  # the call is repeated
        inject.start(code, 1000)
        found = seen(make)
        inject.start(code, 0)
        assert found == (code if told else 0), errno.errorcode[code]
        figures["faults injected"] += 1
    assert inject.done >= len(EVERY) - 1
