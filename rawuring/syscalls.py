# SPDX-License-Identifier: MIT
# pyright: basic
"""io_uring_setup, io_uring_enter and io_uring_register through libc's syscall().

What it is: the three system calls, the numbers they have on each architecture, and the one place where
an errno becomes an OSError. libc has no wrappers for them, so they go through its variadic ``syscall()``.
Mirrors: liburing ``src/syscall.c`` and ``src/arch``.
Must not know: what a ring looks like in memory, or what an opcode means.
Invariant: every argument crosses at its full C width, and a failed call raises its own errno, whatever
other threads or signal handlers did in the meantime.
Read next: seccomp.py.

Unless said otherwise, memory passed to a call may be freed when the call returns, any thread may call, and
Linux 5.1 suffices.

How an argument crosses. ``syscall()`` is variadic and has no ctypes signature here, because on CPython a
signature doubles the price of the call (bench/run.py --only ways). Without one, ctypes passes

* an int as a 32-bit C int: right for the number, the descriptor and every u32 of the three calls, and
  wrong for anything wider, whose upper half would be left over from an earlier call;
* None as a NULL pointer: all of its bits are zero, so it also serves as a ``size_t`` of 0;
* a ctypes array as the address of its first byte, and ``c_size_t(n)`` as a full ``size_t``.

So pointers are ctypes objects, sizes are ``c_size_t`` or None, and everything else is an int that was
checked to fit 32 bits. PyPy is the other way round (a signature makes it four times faster) and gets one.

How errno stays exact. ctypes keeps a copy of errno for each thread (``use_errno=True``), which a failing
call sets and a successful one leaves alone. Other threads cannot touch it, but a Python signal handler
can: it may run between the return of our call and the reading of the copy, and make a failing call of its
own. ``set_errno(0)`` reads the copy and clears it in one step, so if we find 0 after a failure, a handler
took ours; a call that failed did nothing, so it is made again.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
import time
from operator import index

from . import uapi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Callable, NoReturn, TypeVar

    _Refusal = TypeVar("_Refusal", bound="Unavailable")

# ABI name -> (io_uring_setup, io_uring_enter, io_uring_register, membarrier).
# Source: Linux 6.12 system call tables of each architecture; fifteen of them also compiled against 7.2.
SYSCALL_NUMBERS: dict[str, tuple[int, int, int, int]] = {
    "x86_64": (425, 426, 427, 324),
    "x32": (0x40000000 + 425, 0x40000000 + 426, 0x40000000 + 427, 0x40000000 + 324),
    "i386": (425, 426, 427, 375),
    "arm": (425, 426, 427, 389),
    "aarch64": (425, 426, 427, 283),
    "riscv64": (425, 426, 427, 283),
    "riscv32": (425, 426, 427, 283),
    "loongarch64": (425, 426, 427, 283),
    "s390x": (425, 426, 427, 356),
    "ppc64": (425, 426, 427, 365),
    "ppc64le": (425, 426, 427, 365),
    "ppc": (425, 426, 427, 365),
    "mips_o32": (4425, 4426, 4427, 4358),
    "mips_n64": (5425, 5426, 5427, 5318),
    "mips_n32": (6425, 6426, 6427, 6322),
    "sparc64": (425, 426, 427, 351),
    "sparc": (425, 426, 427, 351),
    "alpha": (535, 536, 537, 517),  # the only table that does not count on from 425
    "m68k": (425, 426, 427, 374),
    "parisc": (425, 426, 427, 343),
    "sh": (425, 426, 427, 378),
    "xtensa": (425, 426, 427, 343),
    "microblaze": (425, 426, 427, 390),
    "arc": (425, 426, 427, 283),
    "csky": (425, 426, 427, 283),
    "hexagon": (425, 426, 427, 283),
    "openrisc": (425, 426, 427, 283),
    "nios2": (425, 426, 427, 283),
}

# uname's machine -> (ABI of a 64-bit process, ABI of a 32-bit process); "?" asks the ELF header.
_MACHINES: dict[str, tuple[str | None, str | None]] = {
    "x86_64": ("x86_64", "?"),
    "amd64": ("x86_64", "?"),
    "aarch64": ("aarch64", "arm"),
    "aarch64_be": ("aarch64", "arm"),
    "riscv64": ("riscv64", "riscv32"),
    "riscv32": (None, "riscv32"),
    "loongarch64": ("loongarch64", None),
    "s390x": ("s390x", None),
    "ppc64": ("ppc64", "ppc"),
    "ppc64le": ("ppc64le", None),
    "ppc": (None, "ppc"),
    "mips": ("mips_n64", "?"),
    "mips64": ("mips_n64", "?"),
    "sparc64": ("sparc64", "sparc"),
    "sparc": (None, "sparc"),
    "alpha": ("alpha", None),
    "m68k": (None, "m68k"),
    "parisc": (None, "parisc"),
    "parisc64": (None, "parisc"),
    "xtensa": (None, "xtensa"),
    "microblaze": (None, "microblaze"),
    "arc": (None, "arc"),
    "csky": (None, "csky"),
    "hexagon": (None, "hexagon"),
    "openrisc": (None, "openrisc"),
    "nios2": (None, "nios2"),
}

_U32_MAX = 0xFFFFFFFF
_POINTER_BITS = 8 * struct.calcsize("P")


class Uncopyable:
    """The base of every class whose objects own a descriptor, memory or a thread: no second owner is made."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """Reject copy.copy(), copy.deepcopy() and pickle, which all call this."""
        raise TypeError(
            f"cannot copy or pickle {type(self).__name__!r} object: it owns a descriptor, memory that the "
            "kernel uses or a place in a thread, and a copy would be a second owner"
        )


class Unavailable(OSError):
    """Raised where io_uring is not available; says what refuses it and what to do.

    It is an OSError with the kernel's errno. ``cause`` is one word from a fixed set (sysctl, group, seccomp,
    policy, absent, flags, memlock, nofile, not-linux, unknown), ``detail`` a finer one, such as
    "seccomp-kill" or "no-numbers", or the cause again, ``advice`` a sentence, ``evidence`` the facts that
    led to it.
    """

    def __init__(
        self, code: int, what: str, cause: str, advice: str, evidence: tuple[str, ...] = (), detail: str = ""
    ) -> None:
        """Store the parts; the message is assembled from all of them."""
        says = f"{_errno_name(code)} ({os.strerror(code)})"
        facts = f" [{'; '.join(evidence)}]" if evidence else ""
        super().__init__(code, f"{what}: {says}. Cause: {cause}.{facts} {advice}")
        self.cause = cause
        self.detail = detail or cause
        self.advice = advice
        self.evidence = evidence

    @classmethod
    def because(
        cls: type[_Refusal], code: int, what: str, detail: str, evidence: tuple[str, ...] = (), **words: Any
    ) -> _Refusal:
        """Build the exception for one of REASONS.

        Args: code, what and evidence as for the class; detail is a key of REASONS; words fill the gaps in its
            advice.
        """
        cause, advice = REASONS[detail]
        return cls(code, what, cause, advice.format(**words), evidence, detail)

    def __str__(self) -> str:
        """Return the message alone: it already contains the errno's name."""
        return str(self.args[1])


#: The reasons why io_uring is unavailable: the detail -> the cause, and what to do about it. evidence.py
#: draws the conclusions that need more facts than a ring collects.
REASONS = {
    "sysctl": (
        "sysctl",
        "The administrator disabled io_uring for everybody: root enables it with sysctl -w "
        "kernel.io_uring_disabled=0.",
    ),
    "group": (
        "group",
        "Only members of the group in kernel.io_uring_group may use io_uring here: join it{gid}, or let root "
        "run sysctl -w kernel.io_uring_disabled=0.",
    ),
    "group-unset": (  # the kernel's default, until a group is set
        "group",
        "Only processes with CAP_SYS_ADMIN may use io_uring here, and kernel.io_uring_group names no "
        "group: let root name one of yours with sysctl -w kernel.io_uring_group=GID, or run sysctl -w "
        "kernel.io_uring_disabled=0.",
    ),
    "seccomp": (
        "seccomp",
        "A seccomp filter refuses io_uring, as container runtimes do by default: allow io_uring_setup, "
        "io_uring_enter and io_uring_register in its profile.",
    ),
    "seccomp-enter": (
        "seccomp", "A filter lets io_uring_setup pass but not io_uring_enter: allow both.",
    ),
    "seccomp-kill": (
        "seccomp",
        "A seccomp filter kills processes that make this call ({call}): avoid it, or change the filter.",
    ),
    "seccomp-untried": (
        "seccomp",
        "A seccomp filter is in force, and no child could be created to test whether it kills ({why}): "
        "allow this process a child, or run it without the filter.",
    ),
    "policy": ("policy", "A security module or sandbox refuses io_uring: ask its administrator."),
    "no-io-uring": ("absent", "This kernel has no io_uring: older than 5.1, built without it, or emulated."),
    "no-ctypes": ("absent", "This Python cannot call into libc: {error}. Use one that has ctypes."),
    "no-mmap": ("absent", "This Python cannot map the memory of a ring: {error}. Use one that has mmap."),
    "no-module": ("absent", "This Python cannot make a ring: {error}. Use one that has {module}."),
    "no-numbers": ("absent", "Add the machine's numbers to SYSCALL_NUMBERS in syscalls.py."),
    "flags": ("flags", "The kernel does not know all of these flags, or rejects them together."),
    "sqpoll-privilege": (
        "flags", "IORING_SETUP_SQPOLL needs privileges before Linux 5.13: wish for it instead.",
    ),
    "memlock": (
        "memlock",
        "Ring memory counts against RLIMIT_MEMLOCK (before 5.12 and from 6.14 on), over all processes of the "
        "user: use fewer entries, close rings, or raise the limit (ulimit -l).",
    ),
    "nofile": ("nofile", "This process has no descriptors left: raise RLIMIT_NOFILE (ulimit -n)."),
    "nofile-system": ("nofile", "The system has no descriptors left (fs.file-max)."),
    "not-linux": ("not-linux", "This is {platform}; io_uring is a part of Linux."),
    "no-pipe": ("unknown", "A child needs a pipe to answer through."),
    "no-child": (
        "unknown", "No child could be made to try the calls in: raise RLIMIT_NPROC, or free memory.",
    ),
    "no-fork": (
        "unknown", "No child could be made to try the calls in ({error}): ask in the main interpreter.",
    ),
    "child-ended": ("unknown", "Run the probe again."),
    "unknown": ("unknown", "Run the probe for details."),
}  # fmt: skip


# ------------------------------------------------------------------------------------------------------
# The calls


def io_uring_setup(entries: int, params: bytearray) -> int:
    """Create a ring and return its descriptor; the kernel fills params.

    Args: entries is the SQ size (u32); params is a bytearray of exactly 120 bytes, see
        uapi.io_uring_params.
    Returns: a close-on-exec descriptor, or the registered index with IORING_SETUP_REGISTERED_FD_ONLY.
    Raises: OSError with the kernel's errno; Unavailable where the call does not exist.
    Mirrors: liburing io_uring_setup
    """
    if len(params) != uapi.io_uring_params.size:
        raise ValueError(f"params holds {len(params)} bytes, not {uapi.io_uring_params.size}")
    _check_u32("entries", entries)
    _load()
    memory = _ctypes.byref(_ctypes.c_char.from_buffer(params))
    while True:
        result: int = _syscall(_nr_setup, entries, memory, None, None, None, None)
        if result >= 0:
            return result
        code = _set_errno(0)
        if code not in (0, errno.EINTR):
            raise OSError(code, f"io_uring_setup({entries}): {os.strerror(code)}")


def io_uring_enter(
    fd: int, to_submit: int, min_complete: int, flags: int, timeout: GeteventsArg | None = None
) -> int:
    """Submit SQEs, wait for CQEs, or both.

    A signal that interrupts the call runs its Python handler; the call is then repeated for the remaining
    time (PEP 475). An exception of the handler propagates, and then only the SQ ring's head shows what the
    kernel had consumed: never trust the return value for that.

    Args: all are u32 except fd; timeout holds the deadline and is passed with IORING_ENTER_EXT_ARG.
    Returns: how many SQEs were consumed; 0 when the deadline passed and nothing was to be submitted.
    Raises: OSError with the kernel's errno, but neither EINTR nor ETIME.
    Threads: any thread, as far as the ring's flags allow.
    Since: 5.1; timeout 5.11
    Mirrors: liburing io_uring_enter2, plus the retry that PEP 475 requires
    """
    _check_fd(fd)
    if (to_submit | min_complete | flags) >> 32:  # true for a negative number too
        raise ValueError(f"to_submit={to_submit}, min_complete={min_complete}, flags={flags}: not all u32")
    return enter(fd, to_submit, min_complete, flags, timeout)


def enter(
    fd: int, to_submit: int, min_complete: int, flags: int, timeout: GeteventsArg | int | None = None
) -> int:
    """Do what io_uring_enter does, without checking the width of the arguments.

    For rings.py, whose arguments fit by construction. Shaped by speed: bench/run.py --only ways.

    Args: as io_uring_enter; a timeout that is an int is the offset that enter_reg() takes.
    Returns: as io_uring_enter.
    Raises: as io_uring_enter.
    Mirrors: liburing __sys_io_uring_enter2
    """
    if timeout is not None:
        if isinstance(timeout, int):
            return enter_reg(fd, to_submit, min_complete, flags, timeout)
        return _enter_until(fd, to_submit, min_complete, flags, timeout)
    result: int = _syscall_enter(_nr_enter, fd, to_submit, min_complete, flags, None, _NO_SIZE)
    while result < 0:
        code = _set_errno(0)
        if code not in (0, errno.EINTR):
            raise OSError(code, f"io_uring_enter(fd {fd}): {os.strerror(code)}")
        result = _syscall_enter(_nr_enter, fd, to_submit, min_complete, flags, None, _NO_SIZE)
    return result


def bare_enter() -> tuple[Callable[..., int], int, Any]:
    """Return the parts of enter(), for a loop that saves its frame: a function and two of its arguments.

    Returns: (function, number, no_size). function(number, fd, to_submit, min_complete, flags, None, no_size),
        or with IORING_ENTER_EXT_ARG and GeteventsArg.begin() and its size instead of the last two,
        returns -1 where enter() would raise or repeat: call enter() then.
    Raises: Unavailable where the call does not exist.
    """
    _load()
    return _syscall_enter, _nr_enter, _NO_SIZE


def io_uring_register(fd: int, opcode: int, arg: Any, nr_args: int) -> int:
    """Register a resource with a ring, or query one.

    Args: fd is a ring's descriptor, or -1 for the operations that need none (6.13 and newer); opcode
        and nr_args are u32; arg must be None, an address as an int, or a ctypes object that is passed by
        reference.
    Returns: the result of the operation, 0 or more.
    Raises: OSError with the kernel's errno.
    Lifetime: none, but the registered resource lives on: see register.py.
    Mirrors: liburing io_uring_register
    """
    _check_fd(fd)
    _check_u32("opcode", opcode)
    _check_u32("nr_args", nr_args)
    _load()
    pointer = arg
    if isinstance(arg, int):
        if arg < 0 or arg >> _POINTER_BITS:
            raise ValueError(f"arg={arg:#x} is not an address on this machine")
        # A bare int would be passed as 32 bits and become another address.
        pointer = _ctypes.c_void_p(arg)
    elif isinstance(arg, (str, bytes)):
        raise _not_an_argument(arg)  # ctypes would pass memory that must not be written
    while True:
        try:
            result: int = _syscall(_nr_register, fd, opcode, pointer, nr_args, None, None)
        except _ctypes.ArgumentError:
            raise _not_an_argument(arg) from None
        if result >= 0:
            return result
        code = _set_errno(0)
        if code not in (0, errno.EINTR):
            raise_registration(code, fd, opcode)


def raise_registration(code: int, fd: int, opcode: int) -> NoReturn:
    """Raise the error of a registration.

    Args: code is the kernel's errno, or the one that it would return.
    Raises: OSError with that errno.
    """
    name = uapi.name_of("IORING_REGISTER_", opcode & ~uapi.IORING_REGISTER_USE_REGISTERED_RING)
    raise OSError(code, f"io_uring_register(fd {fd}, {name}): {os.strerror(code)}")


def is_of_kernel(error: BaseException) -> bool:
    """Tell whether an exception reports the kernel's answer, and was not raised by a signal handler.

    Args: error was caught, and comes from a call of this file.
    Returns: False when the call may have succeeded.
    """
    raised_in = _raised_in(error)
    return raised_in is not None and raised_in is globals()


def is_ours(error: BaseException) -> bool:
    """Tell whether an exception comes from this package, and not from a signal handler that ran inside it.

    Handlers run between any two of our instructions, and many raise TimeoutError, which is an OSError.

    Args: error was caught.
    """
    raised_in = _raised_in(error)
    return raised_in is None or raised_in.get("__package__") == __package__


def _raised_in(error: BaseException) -> dict[str, Any] | None:
    """Return the globals of the frame that raised an exception; None if it is unknown."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return None if trace is None else trace.tb_frame.f_globals


def membarrier(command: int, flags: int = 0) -> int:
    """Issue a memory barrier through the kernel; barriers.py says why.

    Args: command is one of uapi's MEMBARRIER_CMD_*.
    Returns: 0, or a bit mask of commands for MEMBARRIER_CMD_QUERY.
    Raises: OSError with the kernel's errno.
    Since: 4.3
    Mirrors: membarrier(2)
    """
    _load()
    result: int = _syscall(_nr_membarrier, command, flags, None, None, None, None)
    if result < 0:
        code = _set_errno(0)
        raise OSError(code, f"membarrier({command}): {os.strerror(code)}")
    return result


_array_types: dict[tuple[Any, int], Any] = {}


def array_type(kind: Any, length: int) -> Any:
    """Return kind * length, a type that is created once: each is a cycle, which only the collector frees.

    Args: kind is a ctypes type; length takes few values, because the types are kept.
    """
    found = _array_types.get((kind, length))
    if found is None:
        found = _array_types[kind, length] = kind * length
    return found


def forget_array_types() -> None:
    """Start with an empty table in a forked child.

    A dictionary has a lock on free-threaded Python, which another thread may have held.
    """
    global _array_types
    _array_types = {}


def eventfd(initval: int = 0) -> int:
    """Create a non-blocking, close-on-exec eventfd.

    Args: initval is its first value; it is readable unless that is 0.
    Returns: the descriptor.
    Raises: OSError.
    Since: Linux 2.6.27
    Mirrors: eventfd(2), os.eventfd of Python 3.10
    """
    flags = os.O_CLOEXEC | os.O_NONBLOCK  # EFD_* are defined as O_* on every architecture
    if hasattr(os, "eventfd"):
        return int(os.eventfd(initval, flags))
    _load()
    fd = int(_libc.eventfd(initval, flags))
    if fd < 0:
        code = _set_errno(0)
        raise OSError(code, f"eventfd(): {os.strerror(code)}")
    return fd


def read_eventfd(fd: int) -> int:
    """Read the count of an eventfd, which resets it to 0.

    Args: fd is a non-blocking eventfd.
    Returns: the count; 0 when it was not readable.
    Raises: OSError.
    Mirrors: eventfd_read(3)
    """
    try:
        return int.from_bytes(os.read(fd, 8), sys.byteorder)
    except BlockingIOError:
        return 0


class GeteventsArg(Uncopyable):
    """The limits of one wait: an io_uring_getevents_arg, and the timespec and mask to which it points.

    The kernel copies them when the call begins, so one object may serve many calls, one after another.
    """

    __slots__ = (
        "_address", "_alone_ns", "_memory", "_sigmask_size", "_view", "deadline_ns", "min_wait_usec",
        "sigmask", "size",
    )  # fmt: skip

    def __init__(self) -> None:
        """Allocate 56 bytes: the first 24 point to the 16 behind them and to the last 16."""
        # Without _load(), which rejects systems other than Linux: rings of fakekernel.py wait there as well.
        import ctypes

        self._memory = array_type(ctypes.c_uint64, 7)()
        self._address = ctypes.addressof(self._memory) + _GETEVENTS.size
        self._view = memoryview(self._memory).cast("B")
        self.size = ctypes.c_size_t(_GETEVENTS.size)
        self._sigmask_size = 0  # known when a mask is set
        self._alone_ns = -1  # the timeout that begin() has left in the memory; 0 while it writes
        self.deadline_ns: int | None = 0
        self.min_wait_usec = 0
        self.sigmask: int | None = None

    def start(
        self, timeout_ns: int | None, min_wait_usec: int = 0, sigmask: Iterable[int] | None = None
    ) -> None:
        """Set the deadline, counted from now on the monotonic clock.

        Args: timeout_ns in nanoseconds, negative counts as 0, None waits for ever; min_wait_usec in
            microseconds, 6.12; sigmask are the signals that are blocked during the wait, None leaves the
            thread's own mask.
        Raises: TypeError and ValueError for a value that is not a time, and for numbers that are not signals.
        """
        self.deadline_ns = None if timeout_ns is None else time.monotonic_ns() + index(timeout_ns)
        if min_wait_usec:
            _check_u32("min_wait_usec", min_wait_usec)
        self.min_wait_usec = min_wait_usec
        self.sigmask = None if sigmask is None else self._mask_of(sigmask)

    def begin(self, timeout_ns: int) -> Any:
        """Do what start() and fill() do for a timeout without a mask and a minimum.

        Shaped by speed: successive waits of the same length write the memory once.

        Args: timeout_ns is 1 or more.
        Returns: as fill().
        Raises: TypeError for a value that is not an int.
        """
        if timeout_ns != self._alone_ns:
            timeout_ns = index(timeout_ns)
            self.min_wait_usec, self.sigmask = 0, None
            seconds, nanoseconds = divmod(timeout_ns, 1_000_000_000)
            if seconds > _SECONDS_MAX:
                seconds = _SECONDS_MAX
            self._alone_ns = 0
            _GETEVENTS_TIMESPEC.pack_into(self._view, 0, 0, 0, 0, self._address, seconds, nanoseconds)
            if not self._alone_ns:  # otherwise a signal handler has used the object in between
                self._alone_ns = timeout_ns
        self.deadline_ns = time.monotonic_ns() + timeout_ns
        return self._memory

    def _mask_of(self, signals: Iterable[int]) -> int:
        self._sigmask_size = 16 if abi().startswith("mips") else 8  # the kernel's sigset_t, not libc's
        mask = 0
        for number in signals:
            if not 1 <= number <= 8 * self._sigmask_size:
                raise ValueError(f"sigmask: {number} is not a signal of this machine")
            mask |= 1 << (number - 1)
        return mask

    def remaining_ns(self) -> int:
        """Return the nanoseconds to the deadline, 0 when it has passed."""
        return _FOR_EVER if self.deadline_ns is None else max(0, self.deadline_ns - time.monotonic_ns())

    def fill(self) -> Any:
        """Write the remaining time and return the memory to be passed.

        Returns: the ctypes array, whose first 24 bytes are the io_uring_getevents_arg.
        """
        self._alone_ns = -1
        seconds, nanoseconds = divmod(self.remaining_ns(), 1_000_000_000)
        _TIMESPEC.pack_into(self._view, _GETEVENTS.size, min(seconds, _SECONDS_MAX), nanoseconds)
        ts = 0 if self.deadline_ns is None else self._address
        if self.sigmask is None:
            _GETEVENTS.pack_into(self._view, 0, 0, 0, self.min_wait_usec, ts)
        else:
            self._write_sigmask(self.sigmask)
            at = self._address + _TIMESPEC.size
            _GETEVENTS.pack_into(self._view, 0, at, self._sigmask_size, self.min_wait_usec, ts)
        return self._memory

    def _write_sigmask(self, mask: int) -> None:
        """Write the mask in the kernel's format: an array of longs."""
        long = struct.calcsize("l")
        for i in range(self._sigmask_size // long):
            word = mask >> 8 * long * i & (1 << 8 * long) - 1
            struct.pack_into("@L", self._view, _GETEVENTS.size + _TIMESPEC.size + i * long, word)


_GETEVENTS = struct.Struct("=QIIQ")  # io_uring_getevents_arg: sigmask, sigmask_sz, min_wait_usec, ts
_TIMESPEC = struct.Struct("=qq")  # __kernel_timespec
_GETEVENTS_TIMESPEC = struct.Struct("=QIIQqq")  # both
_FOR_EVER = 1 << 62
_SECONDS_MAX = 1 << 40  # 35,000 years: far below the kernel's own limit of 2**63 ns, where it saturates


def _enter_until(fd: int, to_submit: int, min_complete: int, flags: int, timeout: GeteventsArg) -> int:
    flags |= uapi.IORING_ENTER_EXT_ARG
    while True:
        # Rewritten for every attempt: time has passed, and a signal handler may have used the object.
        result: int = _syscall_enter(
            _nr_enter, fd, to_submit, min_complete, flags, timeout.fill(), timeout.size
        )
        if result >= 0:
            return result
        code = _set_errno(0)
        if code == errno.ETIME:
            return 0
        if code not in (0, errno.EINTR):
            raise OSError(code, f"io_uring_enter(fd {fd}): {os.strerror(code)}")


def enter_reg(fd: int, to_submit: int, min_complete: int, flags: int, offset: int) -> int:
    """Enter with a wait that is described in a registered region, once.

    Args: as io_uring_enter; offset in bytes of the io_uring_reg_wait in the region.
    Returns: how many SQEs were consumed; 0 when the time passed or a signal arrived and nothing was to be
        submitted.
    Raises: OSError with the kernel's errno, but neither EINTR nor ETIME.
    Since: 6.13
    Mirrors: liburing io_uring_submit_and_wait_reg
    """
    _check_u32("min_complete", min_complete)
    flags |= uapi.IORING_ENTER_EXT_ARG | uapi.IORING_ENTER_EXT_ARG_REG
    size = _ctypes.c_size_t(uapi.io_uring_reg_wait.size)
    result: int = _syscall_enter(
        _nr_enter, fd, to_submit, min_complete, flags, _ctypes.c_void_p(offset), size
    )
    if result >= 0:
        return result
    code = _set_errno(0)
    if code in (0, errno.EINTR, errno.ETIME):
        return 0
    raise OSError(code, f"io_uring_enter(fd {fd}, region at {offset}): {os.strerror(code)}")


def _check_fd(fd: int) -> None:
    # ctypes would truncate it to 32 bits, and so reach another file.
    if not isinstance(fd, int):
        raise TypeError(f"a descriptor must be an int, not {type(fd).__name__}")
    if not -0x80000000 <= fd <= 0x7FFFFFFF:
        raise ValueError(f"fd={fd} is not a C int")


def _not_an_argument(arg: Any) -> TypeError:
    return TypeError(f"arg must be None, an address or a ctypes object, not {type(arg).__name__}")


def _check_u32(name: str, value: int) -> None:
    if not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if not 0 <= value <= _U32_MAX:
        raise ValueError(f"{name}={value} is not a u32")


# ------------------------------------------------------------------------------------------------------
# libc and the system call numbers, looked up on first use


def abi() -> str:
    """Name the system call table of this process, a key of SYSCALL_NUMBERS.

    The machine's name is not enough: a 32-bit process on a 64-bit kernel sees the kernel's name, and x32
    and MIPS n32 processes also have 32-bit pointers. There the interpreter's own ELF header decides.

    Raises: Unavailable for a machine that is not in the table; a guess could call anything.
    Source: Linux 6.12 system call tables
    """
    machine = os.uname().machine
    wide = struct.calcsize("P") == 8
    found = _lookup_abi(machine, wide, "/proc/self/exe")
    if found is None:
        what = f"system call numbers of machine {machine!r} with {struct.calcsize('P') * 8}-bit pointers"
        raise Unavailable.because(errno.ENOSYS, what, "no-numbers")
    return found


def _lookup_abi(machine: str, wide: bool, executable: str) -> str | None:
    if machine.startswith("armv") or machine == "arm":
        name = None if wide else "arm"
    elif len(machine) == 4 and machine[0] == "i" and machine.endswith("86"):
        name = None if wide else "i386"
    elif machine.startswith("sh") and machine[2:3] in ("3", "4"):
        name = None if wide else "sh"
    else:
        name = _MACHINES.get(machine, (None, None))[0 if wide else 1]
    return _abi_of_elf(executable) if name == "?" else name


def _abi_of_elf(path: str) -> str | None:
    """Tell i386 from x32 and MIPS o32 from n32 by e_machine and e_flags."""
    try:
        with open(path, "rb") as file:
            header = file.read(52)
    except OSError:
        return None
    if len(header) < 52 or header[:5] != b"\x7fELF\x01":
        return None
    order = "<" if header[5] == 1 else ">"
    (e_machine,) = struct.unpack_from(order + "H", header, 18)
    (e_flags,) = struct.unpack_from(order + "I", header, 36)
    if e_machine == 3:
        return "i386"
    if e_machine == 62:
        return "x32"
    if e_machine == 8:
        return "mips_n32" if e_flags & 0x20 else "mips_o32"  # EF_MIPS_ABI2
    return None


_ctypes: Any = None
_libc: Any = None
_nr_setup = _nr_enter = _nr_register = _nr_membarrier = 0
_NO_SIZE: Any = None  # a size_t of 0: see the head of this file


def _not_loaded(value: int) -> int:
    raise AssertionError("replaced by _load()")


_set_errno: Callable[[int], int] = _not_loaded


def _first_syscall(number: int, *args: Any) -> int:
    """Stand in for libc's syscall() until the first enter: importing this file must not touch libc."""
    _load()
    return int(_syscall_enter(_nr_enter, *args[:-1], _NO_SIZE if args[-1] is None else args[-1]))


_syscall_enter: Callable[..., Any] = _first_syscall
_syscall: Callable[..., Any]


def _load() -> None:
    """Find libc's syscall() and this machine's numbers, once."""
    global _ctypes, _libc, _syscall, _syscall_enter, _set_errno, _NO_SIZE
    global _nr_setup, _nr_enter, _nr_register, _nr_membarrier
    if _libc is not None:
        return
    if not sys.platform.startswith(("linux", "android")):
        raise Unavailable.because(errno.ENOSYS, "io_uring", "not-linux", platform=sys.platform)
    import ctypes

    numbers = SYSCALL_NUMBERS[abi()]
    # The process itself: whichever libc it runs on, glibc or musl, exports syscall().
    libc = ctypes.CDLL(None, use_errno=True)
    enter_function, function = libc["syscall"], libc["syscall"]
    enter_function.restype = function.restype = ctypes.c_long
    if sys.implementation.name == "pypy":
        word, u32, pointer = ctypes.c_long, ctypes.c_uint, ctypes.c_void_p
        enter_function.argtypes = (word, word, u32, u32, u32, pointer, ctypes.c_size_t)
        function.argtypes = (word, word, pointer, pointer, pointer, pointer, pointer)
        _NO_SIZE = 0
    _ctypes = ctypes
    _nr_setup, _nr_enter, _nr_register, _nr_membarrier = numbers
    _set_errno = ctypes.set_errno
    _syscall = function
    _syscall_enter = enter_function
    _libc = libc  # last: another thread that sees it set may use the rest


# ------------------------------------------------------------------------------------------------------
# Which layer refused


def explain_setup_failure(code: int, what: str, flags: int = 0) -> Unavailable:
    """Build the exception for a failed io_uring_setup, with the likeliest cause on this machine.

    io_uring_enter on descriptor -1 tells the layers apart: a kernel that has io_uring returns EBADF
    before it checks any policy, so another errno comes from a filter in front of the kernel.

    Args: code is the errno of io_uring_setup; what describes the call; flags are the setup flags.
    Returns: the exception, to be raised by the caller.
    Source: Linux 6.12 io_uring/io_uring.c io_uring_allowed; Documentation/admin-guide/sysctl/kernel.rst
    """
    evidence: list[str] = []
    disabled = _read_text("/proc/sys/kernel/io_uring_disabled")
    if disabled is not None:
        evidence.append(f"kernel.io_uring_disabled={disabled}")
    seccomp = _status_field("Seccomp")
    if seccomp is not None:
        evidence.append(f"Seccomp={seccomp}")
    bare = _enter_errno()
    evidence.append(f"io_uring_enter(-1)={_errno_name(bare)}")
    group = _read_text("/proc/sys/kernel/io_uring_group") if disabled == "1" else None
    detail = _diagnose(code, flags, disabled, seccomp, bare, group)
    gid = f" (GID {group})" if group else ""
    return Unavailable.because(code, what, detail, tuple(evidence), gid=gid)


def _diagnose(
    code: int, flags: int, disabled: str | None, seccomp: str | None, bare: int, group: str | None
) -> str:
    """Choose the reason, a key of REASONS."""
    refused = (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP)
    filtered = bare != errno.EBADF
    if code == errno.ENOSYS or code in refused:
        if filtered and seccomp == "2":
            return "seccomp"
        if code == errno.ENOSYS:
            return "no-io-uring"
    if code in refused:
        if disabled == "2":
            return "sysctl"
        if disabled == "1":
            return "group-unset" if group == "-1" else "group"
        return "sqpoll-privilege" if flags & uapi.IORING_SETUP_SQPOLL else "policy"
    return REASON_OF_ERRNO.get(code, "unknown")


#: The reason that an errno alone implies: a key of REASONS.
REASON_OF_ERRNO = {
    errno.EINVAL: "flags",
    errno.ENOMEM: "memlock",
    errno.EMFILE: "nofile",
    errno.ENFILE: "nofile-system",
}


def _errno_name(code: int) -> str:
    """Name an errno as the kernel does: Python has two names for one number, and prefers ENOTSUP."""
    return "EOPNOTSUPP" if code == errno.EOPNOTSUPP else errno.errorcode.get(code, str(code))


def _enter_errno() -> int:
    try:
        io_uring_enter(-1, 0, 0, 0)
    except OSError as error:
        return error.errno or 0
    return 0


def _read_text(path: str) -> str | None:
    try:
        # Not ASCII: its codec is a file, which may be unreachable by now, unlike UTF-8's.
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return None


def _status_field(name: str) -> str | None:
    for line in (_read_text("/proc/self/status") or "").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return value.strip()
    return None
