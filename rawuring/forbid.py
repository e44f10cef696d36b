# SPDX-License-Identifier: MIT
# pyright: basic
"""Is io_uring closed here? A trial of every way in: ``python -m rawuring.probe --forbid``.

What it is: the three calls, with valid and with useless arguments, on descriptors that are not open, not a
ring or an inherited ring, and through the 32-bit system call tables; each tried in a child, because a filter
may kill.
Mirrors: the one-liners of sandbox test suites, which this replaces.
Must not know: rings, or how to use an open way in.
Invariant: closed means tried and refused; an answer that only the kernel's own code returns means open,
whatever the errno; no ring that is found is changed.
Read next: survey.py.

Unless said otherwise, memory passed to a call may be freed when the call returns, any thread may call, and
Linux 5.1 suffices.

A failure alone proves nothing. On an open kernel io_uring_setup(1, NULL) fails with EFAULT: the call was
about to create a ring, but the parameters were missing. A test that treats every failure as "blocked" passes.
A filter may inspect arguments, so valid ones must be tried as well. The kernel's io_uring_enter fails with
EBADF on descriptor -1, and with EOPNOTSUPP on one that is not a ring; a filter cannot distinguish these cases
and returns the same errno for both.

kernel.io_uring_disabled closes setup alone. A ring that was inherited, or received through a socket,
continues to work, and so do the queries of io_uring_register that need no ring.
"""

from __future__ import annotations

import errno
import os
import sys
from collections import namedtuple
from functools import partial

from . import barriers, command, evidence, seccomp, syscalls, uapi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Optional

    _Answer = tuple[int, Optional[int]]  # an errno and 0; 0 and a signal; 0 and None if nothing was tried
    _Said = dict[tuple[str, str, str], _Answer]  # table, call, way

SCHEMA = 1
CLOSED, OPEN, USAGE, UNKNOWN = 0, 1, 2, 4
CALLS = ("setup", "enter", "register")


class Attempt(namedtuple("Attempt", "call way abi answer state layer")):
    """One way in, and the result of trying it.

    ``answer`` is an errno's name, "ok", the signal that killed, or empty; ``state`` is open, refused, killed,
    unknown or not tried; ``layer`` names the source of the answer in words, or the reason why nothing was
    tried.
    """

    __slots__ = ()

    call: str
    way: str
    abi: str
    answer: str
    state: str
    layer: str


class Report(namedtuple("Report", "closed attempts facts kernel mode")):
    """All attempts; ``closed`` is None if that is unknown."""

    __slots__ = ()

    closed: bool | None
    attempts: tuple[Attempt, ...]
    facts: tuple[str, ...]
    kernel: str
    mode: str


# ------------------------------------------------------------------------------------------------------
# The ways in

_TRUE, _NULL, _NONE, _NO_RING = "true parameters", "NULL parameters", "descriptor -1", "no ring"
_PRESENT = "getpid"  # shows whether the table exists at all
#: way -> errnos that only the kernel's own code returns. Source: Linux 6.12 io_uring/io_uring.c, register.c
_OF_THE_KERNEL = {
    ("setup", _TRUE): (0,),
    ("setup", _NULL): (errno.EFAULT,),
    ("enter", _NONE): (errno.EBADF,),
    ("enter", _NO_RING): (errno.EOPNOTSUPP,),
    ("register", _NONE): (errno.EBADF, errno.EINVAL),  # before 6.13, and from then on
    ("register", _NO_RING): (errno.EOPNOTSUPP,),
}
_REFUSALS = (errno.EPERM, errno.EACCES, errno.ENOSYS)
_SHORT = (errno.ENOMEM, errno.EAGAIN)  # possible on an open kernel; descriptors are known to be available
_ENTRIES = 2
_NOT_MADE = 1 << 16  # no errno is as high


class _Plan(namedtuple("_Plan", "call way abi run")):
    """One planned attempt; run returns an errno, 0 for a call that succeeded."""

    __slots__ = ()

    call: str
    way: str
    abi: str
    run: Callable[[], int]

    def make(self) -> int:
        """Make it; if it needs a descriptor and none is left, report that."""
        try:
            return self.run()
        except OSError:
            return _NOT_MADE


def _plans(rings: list[int]) -> list[_Plan]:
    abi = syscalls.abi()
    native = _Native(syscalls.SYSCALL_NUMBERS[abi][:3])
    plans = _of_table(abi, native)
    for fd in rings:
        way = f"inherited ring, descriptor {fd}"
        plans.append(_Plan("enter", way, abi, partial(native.enter, fd)))
        plans.append(_Plan("register", way, abi, partial(native.register, fd)))
    if abi == "x86_64":
        x32 = _Native(syscalls.SYSCALL_NUMBERS["x32"][:3])
        plans.append(_Plan("", _PRESENT, "x32", partial(x32.present, 0x40000000 + 39)))
        plans += _of_table("x32", x32)
        i386 = _Int80(syscalls.SYSCALL_NUMBERS["i386"][:3])
        plans.append(_Plan("", "executable memory", "i386", i386.prepare))
        plans.append(_Plan("", _PRESENT, "i386", partial(i386.present, 20)))
        plans += _of_table("i386", i386)
    return plans


def _of_table(abi: str, table: _Native) -> list[_Plan]:
    return [
        _Plan("setup", _TRUE, abi, partial(table.setup, True)),
        _Plan("setup", _NULL, abi, partial(table.setup, False)),
        _Plan("enter", _NONE, abi, partial(table.enter, -1)),
        _Plan("enter", _NO_RING, abi, partial(table.on_no_ring, table.enter)),
        _Plan("register", _NONE, abi, partial(table.register, -1)),
        _Plan("register", _NO_RING, abi, partial(table.on_no_ring, table.register)),
    ]


#: Other tables that processes on this machine could reach, and why they are not tried.
_NOT_TRIED = {
    "aarch64": ("arm", "a 64-bit process cannot make 32-bit calls: run the probe with a 32-bit Python"),
    "ppc64": ("ppc", "a 64-bit process cannot make 32-bit calls: run the probe with a 32-bit Python"),
    "s390x": ("s390", "a 64-bit process cannot make 31-bit calls: run the probe with a 31-bit Python"),
    "sparc64": ("sparc", "its 32-bit trap is unknown: run the probe with a 32-bit Python"),
    "mips_n64": ("mips_o32", "its numbers are for other processes: run the probe with a 32-bit Python"),
    "i386": ("x86_64", "a 32-bit process cannot make 64-bit calls: run the probe with a 64-bit Python"),
    "x32": ("x86_64", "run the probe with a 64-bit Python"),
}


class _Native(syscalls.Uncopyable):
    """The three calls through libc's syscall(), by their numbers in one table."""

    def __init__(self, numbers: tuple[int, ...]) -> None:
        self.numbers = numbers

    def call(self, number: int, *arguments: Any) -> int:
        padded = (*arguments, None, None, None, None, None, None)[:6]
        while True:
            result = int(syscalls._syscall(number, *padded))
            if result >= 0:
                return result
            code = syscalls._set_errno(0)
            if code not in (0, errno.EINTR):
                return -code

    def present(self, getpid: int) -> int:
        return -min(self.call(getpid, 0), 0)  # PyPy rejects None as the first argument

    def setup(self, true: bool) -> int:
        """Create a ring and close it; EEXIST if the returned descriptor cannot be a ring's."""
        expected, other = os.pipe()  # a ring gets the lowest free number
        os.close(expected)
        os.close(other)
        result = self.call(self.numbers[0], _ENTRIES, self.params() if true else None)
        if result < 0:
            return -result
        if result != expected:
            return errno.EEXIST  # a filter that returns 0 for everything
        os.close(result)
        return 0

    def params(self) -> Any:
        return syscalls._ctypes.create_string_buffer(uapi.io_uring_params.size)

    def enter(self, fd: int) -> int:
        return -min(self.call(self.numbers[1], fd, 0, 0, 0), 0)

    def register(self, fd: int) -> int:
        # Without memory to write to, every ring rejects it, and none is changed.
        return -min(self.call(self.numbers[2], fd, uapi.IORING_REGISTER_PROBE, None, 0), 0)

    def on_no_ring(self, call: Callable[[int], int]) -> int:
        read_end, write_end = os.pipe()
        try:
            return call(read_end)
        finally:
            os.close(read_end)
            os.close(write_end)


# push rbx; push rbp; mov eax,edi; mov ebx,esi; xchg ecx,edx; mov esi,r8d; mov edi,r9d; xor ebp,ebp; int 0x80;
# pop rbp; pop rbx; ret: from the C convention of x86-64 to the registers of the 32-bit table.
_INT80 = "535589f889f387d14489c64489cf31edcd805d5bc3"
_MAP_32BIT = 0x40  # asm/mman.h


class _Int80(_Native):
    """The same through int 0x80, the entry of 32-bit programs, which 64-bit ones can also use."""

    function: Any = None
    low = 0

    def prepare(self) -> int:
        import mmap

        if self.function is not None:
            return 0
        address = barriers._executable(bytes.fromhex(_INT80))
        if not address:
            return errno.EACCES
        ctypes = syscalls._ctypes
        libc = ctypes.CDLL(None)
        libc.mmap.restype = ctypes.c_void_p
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_32BIT
        low = libc.mmap(None, ctypes.c_size_t(4096), mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, None)
        if low in (None, ctypes.c_void_p(-1).value):
            return errno.ENOMEM
        self.low = int(low)
        self.function = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_uint] * 6)(address)
        return 0

    def call(self, number: int, *arguments: Any) -> int:
        if self.prepare():
            return -errno.ENOEXEC
        padded = [(each or 0) & 0xFFFFFFFF for each in arguments] + [0] * (5 - len(arguments))
        while True:
            result = int(self.function(number, *padded))
            if result != -errno.EINTR:
                return result

    def params(self) -> Any:
        return self.low


# ------------------------------------------------------------------------------------------------------
# Trying


def examine() -> Report:
    """Try every way in that this process can try.

    Returns: the attempts, and whether all three calls were refused in every way that was tried.
    Raises: Unavailable if Python cannot make system calls at all, or no descriptor is left.
    Lifetime: none; neither a descriptor nor a child is left behind, and no ring that is found is changed.
    """
    facts = evidence.gather()
    if not sys.platform.startswith(("linux", "android")):
        elsewhere = tuple(Attempt(call, "", "", "", "refused", "this is not Linux") for call in CALLS)
        return Report(True, elsewhere, facts, evidence.kernel_name(), "")
    _load()
    mode = seccomp.state()[0]
    rings, looked = _inherited()
    plans = _plans(rings)
    answers = _try(plans, mode)
    attempts = _judge(plans, answers, mode, facts)
    attempts += [_by_memory(fd) for fd in rings if _has_sqpoll(fd)]
    if not looked:
        attempts.append(
            Attempt("enter", "inherited rings", syscalls.abi(), "", "not tried", "no /proc to find them in")
        )
    other = _NOT_TRIED.get(syscalls.abi())
    if other:
        attempts.append(Attempt("setup", "any", other[0], "", "not tried", other[1]))
    return Report(_conclude(attempts), tuple(attempts), facts, evidence.kernel_name(), mode)


def _load() -> None:
    try:
        syscalls._load()
    except (AttributeError, ImportError) as error:
        raise syscalls.Unavailable.because(errno.ENOSYS, "ctypes", "no-ctypes", error=error) from None


def _inherited() -> tuple[list[int], bool]:
    """Find the rings among the descriptors of this process; also return whether that was possible."""
    try:
        numbers = sorted(int(each) for each in os.listdir("/proc/self/fd"))
    except OSError:
        return _inherited_by_trying()
    found = []
    for fd in numbers:
        try:
            if "[io_uring]" in os.readlink(f"/proc/self/fd/{fd}"):
                found.append(fd)
        except OSError:  # the descriptor of the listing
            continue
    return found, True


def _inherited_by_trying() -> tuple[list[int], bool]:
    """Without /proc: enter does nothing with any open descriptor, and only a ring accepts it."""
    native = _Native(syscalls.SYSCALL_NUMBERS[syscalls.abi()][:3])
    candidates = []
    for fd in range(_HIGHEST):
        try:
            os.fstat(fd)
        except OSError:
            continue
        candidates.append(fd)
    try:
        codes, _ = seccomp.in_child(lambda say: [say(native.enter(fd)) for fd in candidates])
    except seccomp.NoChild:
        return [], False
    told = len(codes) == len(candidates) and not set(codes) & set(_REFUSALS)
    rings = [fd for fd, code in zip(candidates, codes) if code not in (errno.EOPNOTSUPP, errno.EBADF)]
    return (rings, True) if told else ([], False)


_HIGHEST = 1024


def _has_sqpoll(fd: int) -> bool:
    text = syscalls._read_text(f"/proc/self/fdinfo/{fd}") or ""
    fields = {name: value for name, _, value in (line.partition(":") for line in text.splitlines())}
    return fields.get("SqThread", "-1").strip() not in ("-1", "")


def _by_memory(fd: int) -> Attempt:
    return Attempt(
        "enter", f"inherited ring, descriptor {fd}", syscalls.abi(), "", "open",
        "a kernel thread (SQPOLL) takes requests from its memory: no filter of system calls sees that",
    )  # fmt: skip


def _try(plans: list[_Plan], mode: str) -> list[_Answer]:
    """Make the attempts, in each child as many as it survives.

    Returns: for each the errno and 0, or 0 and the signal that killed; None if no child could be created.
    """
    answers: list[_Answer] = []
    while len(answers) < len(plans):
        rest = plans[len(answers) :]
        try:
            codes, killer = seccomp.in_child(lambda say: [say(plan.make()) for plan in rest])  # noqa: B023
        except seccomp.NoChild:
            # Without a filter nothing kills but int 0x80 on a machine that lacks it.
            here = mode == "0"
            answers += [(plan.make(), 0) if here and plan.abi != "i386" else (0, None) for plan in rest]
            break
        answers += [(code, 0) for code in codes]
        if len(codes) < len(rest):
            answers.append((0, seccomp._sigsys() if killer is None and mode == "2" else killer or None))
    return answers


# ------------------------------------------------------------------------------------------------------
# Judging


def _judge(
    plans: list[_Plan], answers: list[_Answer], mode: str, facts: tuple[str, ...]
) -> list[Attempt]:
    said = {(plan.abi, plan.call, plan.way): answer for plan, answer in zip(plans, answers)}
    known = {name: value for name, _, value in (fact.partition("=") for fact in facts)}
    attempts: list[Attempt] = []
    for plan, (code, killer) in zip(plans, answers):
        if not plan.call:
            continue
        absent = _absent(plan.abi, said)
        if absent:
            attempts.append(Attempt(plan.call, plan.way, plan.abi, *absent))
        elif killer is None:
            why = "no child could be created to try it in, and a filter may kill"
            attempts.append(Attempt(plan.call, plan.way, plan.abi, "", "unknown", why))
        elif killer:
            by = "a seccomp filter" if killer == seccomp._sigsys() else "an unknown sender"
            state = "killed" if killer == seccomp._sigsys() else "unknown"
            attempts.append(Attempt(plan.call, plan.way, plan.abi, f"signal {killer}", state, by))
        else:
            attempts.append(_judge_one(plan, code, mode, said, known))
    return attempts


def _absent(abi: str, said: _Said) -> tuple[str, str, str] | None:
    """Report that a system call table does not exist, or could not be tried."""
    memory = said.get((abi, "", "executable memory"), (0, 0))
    if memory[0] or memory[1]:
        return "", "not tried", "int 0x80 needs a page of executable memory, which is refused here"
    code, killer = said.get((abi, "", _PRESENT), (0, 0))
    if killer and killer != seccomp._sigsys():
        return "", "refused", f"this machine has no {abi} system calls (signal {killer})"
    if code == errno.ENOSYS:
        return "ENOSYS", "refused", f"this kernel has no {abi} system calls"
    return None


def _judge_one(
    plan: _Plan, code: int, mode: str, said: _Said, known: dict[str, str]
) -> Attempt:
    answer = "ok" if not code else syscalls._errno_name(code)
    # For two useless calls the kernel returns two different errnos, a filter one.
    ways = (_TRUE, _NULL) if plan.call == "setup" else (_NONE, _NO_RING)
    same = len({said[plan.abi, plan.call, way] for way in ways}) == 1
    filtered = mode == "2" and (same or (plan.call == "setup" and code not in (0, *_SHORT, errno.EFAULT)))
    expected = _OF_THE_KERNEL.get((plan.call, plan.way))
    if code == _NOT_MADE:
        answer, state, layer = "", "unknown", "no descriptor was left to try it with"
    elif plan.call == "setup" and code == errno.EEXIST:
        state, layer = "refused", "a seccomp filter (it returns success, without a ring)"
        answer = "ok"
    elif code in _REFUSALS:
        state, layer = "refused", _layer(plan, code, mode, said, known)
    elif expected is None:  # an inherited ring: any answer shows that it was reached
        state, layer = "open", "the ring"
    elif code in expected and not filtered:
        state, layer = "open", "the kernel"
    elif filtered:
        state, layer = "refused", "a seccomp filter"
    elif code in (*_SHORT, errno.EMFILE, errno.ENFILE) and mode == "0":
        state, layer = "open", "the kernel, which is short of memory or descriptors just now"
    else:
        state, layer = "unknown", "no rule of this probe explains this answer"
    return Attempt(plan.call, plan.way, plan.abi, answer, state, layer)


def _layer(
    plan: _Plan, code: int, mode: str, said: _Said, known: dict[str, str]
) -> str:
    """Name the layer that refuses with EPERM, EACCES or ENOSYS."""
    reached = said[plan.abi, "enter", _NONE] == (errno.EBADF, 0)  # the kernel's own answer
    disabled = known.get("kernel.io_uring_disabled", "0")
    sysctl = plan.call == "setup" and code == errno.EPERM and disabled != "0"
    if sysctl and reached:
        by = f"kernel.io_uring_disabled={disabled}"
        return by if mode != "2" else f"a seccomp filter, or {by}"
    if mode == "2":
        return "a seccomp filter"
    if code == errno.ENOSYS:
        if "emulator" in known:
            return f"an emulator ({known['emulator']}) without io_uring"
        return "a kernel without io_uring, or a hidden filter"
    if plan.call == "setup" and reached:
        return f"a security module (active here: {known.get('LSM', 'unknown')})"
    return "a hidden filter (outside of this sandbox)"


def _conclude(attempts: list[Attempt]) -> bool | None:
    states = {attempt.state for attempt in attempts}
    if "open" in states:
        return False
    for call in CALLS:
        if not any(each.call == call and each.state in ("refused", "killed") for each in attempts):
            return None
    return None if "unknown" in states else True


# ------------------------------------------------------------------------------------------------------
# Programs, and the refusals that they handle

#: name -> its behaviour if io_uring_setup is refused with EPERM or ENOSYS, with EACCES, and killed; source.
CALLERS: dict[str, tuple[str, str, str, str]] = {
    "libuv from 1.52 on (Node.js)": (
        "continues with epoll", "continues with epoll",
        "is killed in its first loop: it calls io_uring_setup regardless of UV_USE_IO_URING",
        "libuv src/unix/linux.c uv__iou_init, uv__use_io_uring",
    ),
    "tokio, with its unstable io-uring": (
        "continues with its thread pool", "file operations fail", "is killed by the first file operation",
        "tokio tokio/src/runtime/io/driver/uring.rs check_and_init",
    ),
    "MariaDB": (
        "warns, continues with libaio or threads", "warns, continues with libaio or threads",
        "is killed at start",
        "MariaDB tpool/aio_liburing.cc create_uring",
    ),
    "PostgreSQL with io_method=io_uring": (
        "does not start", "does not start", "does not start",
        "PostgreSQL src/backend/storage/aio/method_io_uring.c pgaio_uring_shmem_init",
    ),
    "QEMU's event loop": (
        "continues with poll(2) and epoll", "continues with poll(2) and epoll", "is killed at start",
        "QEMU util/fdmon-io_uring.c fdmon_io_uring_setup",
    ),
    "fio with ioengine=io_uring": (
        "the job fails", "the job fails", "the job is killed", "fio engines/io_uring.c fio_ioring_post_init",
    ),
    "this library": (
        "monitor, selector and asyncio continue with poll(2) and epoll", "the same",
        "the same, where /proc or prctl() tells of the filter", "rawuring/seccomp.py",
    ),
}  # fmt: skip


def advice(report: Report) -> str:
    """Return the advice.

    Args: report as examine() returned it.
    """
    opened = [attempt for attempt in report.attempts if attempt.state == "open"]
    if report.closed is None:
        return (
            "Some ways in could not be tried or judged: allow this process a child, mount /proc, and run the "
            "probe once more."
        )
    if report.closed:
        if any(attempt.state == "killed" for attempt in report.attempts):
            return (
                "Closed. A filter that kills also kills programs that only probe for io_uring, "
                "and would continue without it: EPERM or ENOSYS keeps it closed, and them alive."
            )
        return "Closed. Nothing needs to be done."
    if {attempt.abi for attempt in opened}.isdisjoint({report.attempts[0].abi}):
        tables = ", ".join(sorted({attempt.abi for attempt in opened}))
        return f"The native table is closed and {tables} is not: let the filter refuse other architectures."
    if any("inherited" in attempt.way for attempt in opened):
        return (
            "A ring was inherited: close it before the sandbox begins (the kernel makes them close-on-exec), "
            "and refuse io_uring_enter and io_uring_register as well."
        )
    calls = [call for call in CALLS if any(attempt.call == call for attempt in opened)]
    if "setup" not in calls and report.mode != "2":
        return (
            f"New rings are refused, and io_uring_{' and io_uring_'.join(calls)} reach the kernel: rings "
            "that are inherited or received work. Only a seccomp filter that refuses all three calls closes "
            "that."
        )
    return f"Let a seccomp filter refuse io_uring_{', io_uring_'.join(calls)} with EPERM or ENOSYS."


def verdict(report: Report) -> str:
    """Sum up in one line."""
    tried = [attempt for attempt in report.attempts if attempt.state != "not tried"]
    opened = sum(attempt.state == "open" for attempt in tried)
    left = len(report.attempts) - len(tried)
    ways = f"{len(tried)} ways tried{f', {left} not' if left else ''}"
    if report.closed is None:
        return f"io_uring: UNKNOWN whether it is closed ({report.kernel}, {ways})"
    if report.closed:
        return f"io_uring: CLOSED: setup, enter and register are refused ({report.kernel}, {ways})"
    return f"io_uring: OPEN: {opened} of {ways} reach the kernel ({report.kernel})"


_WORST_FIRST = ("open", "unknown", "killed", "refused")


def as_dict(report: Report) -> dict[str, Any]:
    """Return everything as a dict that JSON can hold; docs/forbid.schema.json describes it."""
    calls = {}
    for call in CALLS:
        own = [attempt for attempt in report.attempts if attempt.call == call]
        states = [attempt.state for attempt in own]
        worst = next((each for each in _WORST_FIRST if each in states), "not tried")
        first = next((attempt for attempt in own if attempt.state == worst), None)
        calls[call] = {
            "state": worst,
            "answer": first.answer if first else "",
            "layer": first.layer if first else "",
        }
    return {
        "schema": SCHEMA,
        "verdict": verdict(report),
        "closed": report.closed,
        "advice": advice(report),
        "calls": calls,
        "attempts": [attempt._asdict() for attempt in report.attempts],
        "callers": {
            name: dict(zip(("EPERM or ENOSYS", "EACCES", "killed", "source"), row))
            for name, row in CALLERS.items()
        },
        "evidence": list(report.facts),
        "kernel": report.kernel,
        "python": sys.version.split()[0],
    }


def print_text(report: Report) -> None:
    """Print the report for a person."""
    print(verdict(report))
    for attempt in report.attempts:
        answer = f"{attempt.state}{f' ({attempt.answer})' if attempt.answer else ''}"
        print(f"  {attempt.call:9}{attempt.way:32}{attempt.abi:10}{answer:22}{attempt.layer}".rstrip())
    if any(attempt.way == _NULL and attempt.answer == "EFAULT" for attempt in report.attempts):
        print("note: EFAULT is an open kernel's answer to NULL parameters; it is not a refusal.")
    for fact in report.facts:
        print(f"  evidence: {fact}")
    if report.closed:
        print("programs (EPERM or ENOSYS; EACCES; killed):")
        for name, row in CALLERS.items():
            print(f"  {name}: {'; '.join(row[:3])}")
    print(f"hint: {advice(report)}")


def tell(form: str = "") -> int:
    """Examine and print.

    Args: form is "json", "python", "quiet" or empty.
    Returns: 0 closed, 1 open, 4 cannot tell.
    """
    try:
        report = examine()
    except syscalls.Unavailable as failure:
        why = (Attempt("setup", _TRUE, "", "", "unknown", str(failure)),)
        report = Report(None, why, evidence.gather(), evidence.kernel_name(), "")
    if form == "json":
        import json

        print(json.dumps(as_dict(report), indent=1))
    elif form == "python":
        from pprint import pprint

        pprint(as_dict(report), width=100)
    elif form == "quiet":
        print(verdict(report))
    else:
        print_text(report)
    return {True: CLOSED, False: OPEN, None: UNKNOWN}[report.closed]


_HELP = """usage: python -m rawuring.forbid [-h] [--json | --python | -q]

Say whether io_uring is closed here, by trying every way in; the same as rawuring.probe --forbid.

options:
  -h, --help   show this help message and exit
  --json       print one JSON object
  --python     print one Python literal
  -q, --quiet  print the verdict

exit code: 0 closed: all three calls are refused in every way that was tried; 1 something is open; 2 wrong
usage; 4 cannot tell; 74 the output could not be written.
"""


def main() -> int:
    """Run the command without argparse, which takes as long as everything else.

    Returns: as tell(); 2 for an unknown option.
    """
    forms = {"--json": "json", "--python": "python", "--quiet": "quiet", "-q": "quiet"}
    words = [word for word in sys.argv[1:] if word != "--forbid"]
    if words in (["-h"], ["--help"]):
        print(_HELP, end="")
        return 0
    if len(words) > 1 or (words and words[0] not in forms):
        print(_HELP.partition("\n")[0], file=sys.stderr)
        return USAGE
    return tell(forms[words[0]] if words else "")


if __name__ == "__main__":
    command.run(main)
