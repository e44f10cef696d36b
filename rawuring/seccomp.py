# SPDX-License-Identifier: MIT
# pyright: basic
"""Seccomp filters that kill: detected in advance, and probed in a child.

What it is: check(), which precedes the first io_uring call of a ring, and the child that makes the three
calls first when a filter is in force.
Mirrors: systemd's ``seccomp_restrict_*`` tests and QEMU's, which try a filter in a forked child.
Must not know: rings, or the meaning of any answer but a signal.
Invariant: no io_uring call is made in this process before it is known that none of the three kills, provided
that the kernel reveals the filter; neither a descriptor nor a child is left behind.
Read next: barriers.py.

Unless said otherwise, memory passed to a call may be freed when the call returns, and any thread may call.

A filter may answer with a signal that cannot be handled (SECCOMP_RET_KILL_PROCESS, and systemd's default), so
a fallback that begins with the call comes too late. /proc reports whether the thread has a filter
("Seccomp: 2") and how many; prctl(PR_GET_SECCOMP) reports the former in a fiftieth of the time, but a filter
that kills may kill for that call as well. So /proc is read first, and prctl is called only later, to notice a
filter that was loaded since. Filters cannot be removed: a child's result is valid as long as their number
stays the same.

A process cannot survive a filter that kills and is loaded while a ring is in use: the ring's next enter kills
the process. Load filters first, or let them return an errno.
"""

from __future__ import annotations

import errno
import os
import struct
import sys

from . import syscalls, uapi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

#: The calls that the child tries, in this order.
CALLS = ("io_uring_setup(2 entries)", "io_uring_enter", "io_uring_register")
_PR_GET_SECCOMP, _PR_SET_DUMPABLE = 21, 4  # linux/prctl.h
_LIMITS = (errno.EMFILE, errno.ENFILE)

_clean = False  # no filter was in force at the last check
_deadly: dict[str, str] = {}  # number of filters -> the call that they kill for, or nothing


def check() -> None:
    """Raise Unavailable if an io_uring call would kill the process.

    Without a filter this costs one prctl(), the first time one read of /proc. Under a filter a child makes
    the three calls once, and later checks compare the number of filters (kernels before 5.9 do not report it,
    and the first result stays valid).

    Raises: Unavailable if a filter kills for one of the three calls, or if one is in force and no child could
        be created to find out.
    Threads: any; filters belong to threads, and this checks the calling one.
    """
    global _clean
    if not sys.platform.startswith(("linux", "android")):
        return
    if _clean and syscalls._libc is not None and not _prctl_mode():
        return
    mode, filters = state()
    _clean = mode == "0"
    if mode != "2":
        return
    if filters not in _deadly:
        try:
            codes, killer = in_child(make_three_calls)
        except NoChild as failure:
            raise _not_tried(failure) from None
        if len(codes) < len(CALLS) and not _was_filter(killer):
            raise ended_early(CALLS[len(codes)], killer)
        _deadly[filters] = CALLS[len(codes)] if len(codes) < len(CALLS) else ""
    if _deadly[filters]:
        raise ended_early(_deadly[filters], _sigsys())


def state() -> tuple[str, str]:
    """Return whether a filter is in force for the calling thread.

    Returns: the mode as in /proc ("0" none, "2" filters), and the number of filters, empty if the kernel does
        not count them (before 5.9); the mode is empty if nothing reports it.
    Raises: Unavailable if no descriptor is left to read /proc with, and so none for a ring.
    """
    text = _status()
    if text is None:
        if syscalls._libc is None:
            try:
                syscalls._load()
            except (OSError, ImportError, AttributeError):
                return "", ""
        return {0: "0", 2: "2"}.get(_prctl_mode(), ""), "?"
    fields = {name: value for name, _, value in (line.partition(b":") for line in text.splitlines())}
    mode, filters = (fields.get(key, b"").strip().decode() for key in (b"Seccomp", b"Seccomp_filters"))
    return mode or "0", filters  # a kernel that does not report it has none


def _status() -> bytes | None:
    for path in ("/proc/thread-self/status", "/proc/self/status"):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in _LIMITS:
                raise _no_descriptors(error.errno or 0, f"open({path!r})") from None
            continue
        try:
            return os.read(fd, 1 << 16)
        except OSError:
            continue
        finally:
            os.close(fd)
    return None


def _prctl_mode() -> int:
    return int(syscalls._libc.prctl(_PR_GET_SECCOMP, None, None, None, None))


def _no_descriptors(code: int, what: str) -> syscalls.Unavailable:
    return syscalls.Unavailable.because(code, what, syscalls.REASON_OF_ERRNO[code])


def _not_tried(failure: NoChild) -> syscalls.Unavailable:
    what = f"{CALLS[0]}: not tried, because a filter may kill for it; treated as"
    return syscalls.Unavailable.because(errno.EPERM, what, "seccomp-untried", ("Seccomp=2",), why=failure)


# ------------------------------------------------------------------------------------------------------
# The calls that go first


def make_three_calls(say: Callable[[int], object]) -> None:
    """Make each of the three calls and report its errno, then the seccomp mode.

    Without a ring the other two use descriptor -1: the diagnosis of a refusal needs their answers, too.

    Args: say takes a number: 0 for a call that succeeded.
    """

    def attempt(call: Callable[[], int]) -> int:
        try:
            result = call()
        except OSError as error:
            say(error.errno or errno.EIO)
            return -1
        say(0)
        return result

    fd = attempt(lambda: syscalls.io_uring_setup(2, bytearray(uapi.io_uring_params.size)))
    try:
        attempt(lambda: syscalls.io_uring_enter(fd, 0, 0, 0))
        # Nothing is registered, so the kernel itself returns ENXIO, or EBADF for -1; a restricted task gets
        # EACCES, which is no refusal of the call.
        try:
            syscalls.io_uring_register(fd, uapi.IORING_UNREGISTER_BUFFERS, None, 0)
        except OSError as error:
            restricted = error.errno == errno.EACCES and fd >= 0
            say(0 if restricted else error.errno or errno.EIO)
        else:
            say(0)
        say(_prctl_mode())  # for systems without /proc
    finally:
        if fd >= 0:
            os.close(fd)


def ended_early(call: str, killer: int | None) -> syscalls.Unavailable:
    """Build the exception for a child that did not survive a call.

    Args: call is the one that it did not survive; killer is from in_child().
    Returns: the exception, to be raised by the caller: cause "seccomp" if a filter killed it, else "unknown".
    """
    if _was_filter(killer):
        what = f"{call}: killed by signal {_sigsys()} (SIGSYS), treated as"
        return syscalls.Unavailable.because(errno.EPERM, what, "seccomp-kill", call=call)
    ended = f"ended by signal {killer}" if killer else "ended without an answer"
    what = f"{call}: the child that tried it {ended}"
    return syscalls.Unavailable.because(errno.EIO, what, "child-ended")


def _was_filter(killer: int | None) -> bool:
    """Return whether a filter ended the child; if other code has reaped it, a filter is likely."""
    return killer == _sigsys() or (killer is None and state()[0] == "2")


def _sigsys() -> int:
    import signal  # it imports enum, which a ring does not need

    return int(signal.SIGSYS)


# ------------------------------------------------------------------------------------------------------
# A child


class NoChild(syscalls.Unavailable):
    """Report that no child could be created for a trial."""


def in_child(work: Callable[[Callable[[int], object]], object]) -> tuple[list[int], int | None]:
    """Run work in a child process that reports numbers.

    The child is created by the interpreter's own fork(), even if another (gevent's) replaces it in os, and
    its end is awaited before its numbers are read: a process that another thread created meanwhile may hold
    the pipe open.

    Args: work is called in the child with the function that reports one number, at most a thousand times.
    Returns: the numbers that it reported before it ended, and the signal that ended it: 0 for none, None if
        that is unknown because other code reaps this process's children. A child that is killed leaves no
        core dump.
    Raises: NoChild if no child can be created; Unavailable if no descriptors are left for a pipe.
    """
    syscalls._load()  # not in the child: another thread may hold the loader's lock
    numbers, killer = _in_child(work, dump_core=False)
    if killer and not numbers:  # it did not survive prctl(), which says nothing about the work
        numbers, killer = _in_child(work, dump_core=True)
    return numbers[1:], killer


def _in_child(
    work: Callable[[Callable[[int], object]], object], dump_core: bool
) -> tuple[list[int], int | None]:
    import posix

    parent = os.getpid()
    try:
        ends = list(os.pipe())
    except OSError as error:
        code = error.errno or errno.EIO
        if code in _LIMITS:
            raise _no_descriptors(code, "pipe()") from None
        raise NoChild.because(code, "pipe()", "no-pipe") from None
    read_end, write_end = ends
    pid = 0
    status: int | None = None
    said = b""
    try:
        pid = _fork(posix.fork)
        if pid:
            status = _reap(posix.waitpid, pid)
            pid = 0
            os.close(ends.pop())
            os.set_blocking(read_end, False)
            said = _read_all(read_end)
        else:
            if not dump_core:
                syscalls._libc.prctl(_PR_SET_DUMPABLE, None, None, None, None)
            os.write(write_end, struct.pack("=i", 0))
            work(lambda number: os.write(write_end, struct.pack("=i", number)))
    except OSError as error:
        code = error.errno or errno.EIO
        raise NoChild.because(code, "fork()", "no-child") from None
    except RuntimeError as error:  # an isolated subinterpreter; -W error of a warning about threads
        raise NoChild.because(errno.EAGAIN, "fork()", "no-fork", error=error) from None
    finally:
        if os.getpid() != parent:
            os._exit(0)  # also when a signal handler raised: no code of the caller may run twice
        for fd in ends:
            os.close(fd)
        if pid:
            _reap(posix.waitpid, pid)
    numbers = [number for (number,) in struct.iter_unpack("=i", said[: len(said) // 4 * 4])]
    if status is None:
        return numbers, None
    return numbers, os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def _fork(fork: Callable[[], int]) -> int:
    try:
        import warnings
    except ImportError:  # unreadable, perhaps, for a process that has dropped its privileges
        return fork()
    if sys.version_info < (3, 12):
        return fork()
    with warnings.catch_warnings():
        # It warns of threads; this child makes a few system calls and never returns to the caller.
        warnings.simplefilter("ignore", DeprecationWarning)
        return fork()


def _reap(waitpid: Callable[[int, int], tuple[int, int]], pid: int) -> int | None:
    try:
        return waitpid(pid, 0)[1]
    except ChildProcessError:  # SIGCHLD is ignored, or another thread waits for any child
        return None


def _read_all(fd: int) -> bytes:
    data = b""
    while True:
        try:
            more = os.read(fd, 4096)
        except BlockingIOError:  # everything was read, and another process has the other end open
            return data
        if not more:
            return data
        data += more
