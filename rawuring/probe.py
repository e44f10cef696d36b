# SPDX-License-Identifier: MIT
"""What this kernel offers, who forbids it, and proof: ``python -m rawuring.probe``.

What it is: evidence first, then questions to the kernel, then live requests; a verdict and a remedy.
Mirrors: bpftool feature probe, virt-host-validate.
Must not know: the monitor, or anything built on it.
Invariant: every answer is yes, no or unknown, found by trying and never by comparing versions; nothing is
left behind, neither a descriptor nor a child.
Read next: fdmon.py.

The first call of each kind is made in a child process: a seccomp filter may answer with a signal that kills.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import socket
import struct
import sys
from typing import NamedTuple

from . import barriers, buffers, ops, rings, syscalls, uapi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Optional

    Answer = Optional[bool]

SCHEMA = 1
USABLE, NOT_USABLE, USAGE, UNKNOWN = 0, 1, 2, 4

_COMPANIONS = {
    uapi.IORING_SETUP_SQ_AFF: uapi.IORING_SETUP_SQPOLL,
    uapi.IORING_SETUP_TASKRUN_FLAG: uapi.IORING_SETUP_COOP_TASKRUN,
    uapi.IORING_SETUP_DEFER_TASKRUN: uapi.IORING_SETUP_SINGLE_ISSUER,
    uapi.IORING_SETUP_REGISTERED_FD_ONLY: uapi.IORING_SETUP_NO_MMAP,
    uapi.IORING_SETUP_HYBRID_IOPOLL: uapi.IORING_SETUP_IOPOLL,
    uapi.IORING_SETUP_SQ_REWIND: uapi.IORING_SETUP_NO_SQARRAY,
}


class Capabilities(NamedTuple):
    """What was found out about this kernel and this process."""

    usable: Answer
    cause: str
    advice: str
    error: str
    evidence: tuple[str, ...]
    kernel: str
    features: dict[str, bool]
    setup_flags: dict[str, Answer]
    opcodes: dict[str, Answer]
    register_opcodes: int | None


_cached: Capabilities | None = None


def capabilities(refresh: bool = False) -> Capabilities:
    """Find out what the kernel offers to this process.

    Args: refresh asks again instead of returning the earlier answer.
    Returns: the answers; usable is None when they could not be found.
    Lifetime: none.
    Threads: any.
    Since: 5.1
    """
    global _cached
    if _cached is None or refresh:
        _cached = _examine()
    return _cached


def op_supported(name: str) -> Answer:
    """Tell whether this kernel knows an operation.

    Args: name such as "IORING_OP_READ".
    Returns: True, False, or None when the kernel cannot be asked (before 5.6).
    Lifetime: none.
    Since: 5.6
    Mirrors: liburing io_uring_opcode_supported
    """
    return capabilities().opcodes.get(name)


# ------------------------------------------------------------------------------------------------------
# Finding out


def _examine() -> Capabilities:
    kernel = _kernel()
    try:
        register_code = _first_calls()
        with rings.Ring(2) as ring:
            features = {name: bool(ring.features & bit) for name, bit in _family("IORING_FEAT_")}
            opcodes, probe_code = _probe_opcodes(ring)
    except syscalls.Unavailable as failure:
        return _refused(kernel, failure)
    except OSError as error:  # the child could, and this process cannot: a limit was met in between
        return _refused(kernel, syscalls.explain_setup_failure(error.errno or errno.EIO, _FIRST))
    return Capabilities(
        usable=True,
        cause="",
        advice=_usable_advice(opcodes, register_code or probe_code),
        error="",
        evidence=_evidence(),
        kernel=kernel,
        features=features,
        setup_flags={name: _try_flag(bit) for name, bit in _family("IORING_SETUP_")},
        opcodes=opcodes,
        register_opcodes=_query_register_opcodes(),
    )


def _refused(kernel: str, failure: syscalls.Unavailable) -> Capabilities:
    return Capabilities(
        usable=None if failure.cause == "unknown" else False,
        cause=failure.cause,
        advice=failure.advice,
        error=str(failure),
        evidence=failure.evidence + (_limits() if failure.cause in ("memlock", "nofile") else ()),
        kernel=kernel,
        features={},
        setup_flags={},
        opcodes={},
        # A filter that kills for one of the calls may kill for the others.
        register_opcodes=None if failure.cause in ("seccomp", "unknown") else _query_register_opcodes(),
    )


def _kernel() -> str:
    if not hasattr(os, "uname"):
        return sys.platform
    name = os.uname()
    return f"{name.sysname} {name.release} {name.machine}"


def _evidence() -> tuple[str, ...]:
    found = []
    for key in ("io_uring_disabled", "io_uring_group"):
        value = syscalls._read_text(f"/proc/sys/kernel/{key}")
        if value is not None:
            found.append(f"kernel.{key}={value}")
    seccomp = syscalls._status_field("Seccomp")
    if seccomp is not None:
        found.append(f"Seccomp={seccomp}")
    return tuple(found)


def _limits() -> tuple[str, ...]:
    try:
        import resource
    except ImportError:
        return ()
    words = {resource.RLIM_INFINITY: "unlimited"}
    found = []
    for name in ("RLIMIT_MEMLOCK", "RLIMIT_NOFILE"):
        soft, hard = resource.getrlimit(getattr(resource, name))
        found.append(f"{name}={words.get(soft, soft)} (hard {words.get(hard, hard)})")
    return tuple(found)


def _usable_advice(opcodes: dict[str, Answer], code: int) -> str:
    known = [answer for answer in opcodes.values() if answer is not None]
    if not known and code in (0, errno.EINVAL):
        return "This kernel is older than 5.6 and cannot tell which operations it knows: try them."
    if not known:
        return (
            f"io_uring_register answers {errno.errorcode.get(code, code)}, so it is unknown which operations "
            "there are: try them, or allow the call in the seccomp profile."
        )
    missing = known.count(False)
    return f"Newer kernels know {missing} more operations." if missing else "Nothing is missing."


def _family(prefix: str) -> list[tuple[str, int]]:
    return [(name, value) for name, value in vars(uapi).items() if name.startswith(prefix)]


_FIRST = "io_uring_setup(2 entries)"
_CALLS = (_FIRST, "io_uring_enter", "io_uring_register")
_REFUSALS = (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP)


def _first_calls() -> int:
    """Make the first call of each kind in a child.

    Returns: what io_uring_register was refused with, or 0; a ring works without it.
    Raises: Unavailable when one of the calls kills, or the other two are refused.
    """
    try:
        syscalls._load()
    except (AttributeError, ImportError) as error:
        advice = f"This Python cannot call into libc: {error}. Use one that has ctypes."
        raise syscalls.Unavailable(errno.ENOSYS, "ctypes", "absent", advice) from None
    codes, killer = _in_child(_make_three_calls)
    if len(codes) < len(_CALLS):
        raise _ended_early(_CALLS[len(codes)], killer)
    if codes[0]:
        raise syscalls.explain_setup_failure(codes[0], _FIRST)
    if codes[1] in _REFUSALS:
        advice = "A filter lets io_uring_setup pass but not io_uring_enter: allow both."
        raise syscalls.Unavailable(codes[1], _CALLS[1], "seccomp", advice, _evidence())
    return codes[2] if codes[2] in _REFUSALS else 0


def _make_three_calls(say: Callable[[int], object]) -> None:
    """Say the errno of each; where there is no ring, the other two are asked about descriptor -1.

    They are tried even then: the parent makes them too when it looks for the cause.
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
    attempt(lambda: syscalls.io_uring_enter(fd, 0, 0, 0))
    # Nothing is registered, so the kernel itself answers ENXIO, or EBADF to -1: neither is a refusal.
    attempt(lambda: syscalls.io_uring_register(fd, uapi.IORING_UNREGISTER_BUFFERS, None, 0))


def _ended_early(call: str, killer: int | None) -> syscalls.Unavailable:
    evidence = _evidence()
    if killer == signal.SIGSYS or (killer is None and "Seccomp=2" in evidence):
        return syscalls.Unavailable(
            errno.EPERM,
            f"{call}: killed by signal {int(signal.SIGSYS)}",
            "seccomp",
            f"A seccomp filter kills whoever makes this call ({call}): do not make it, or change the filter.",
            evidence,
        )
    ended = f"ended by signal {killer}" if killer else "ended without an answer"
    return syscalls.Unavailable(
        errno.EIO, f"{call}: the child that tried it {ended}", "unknown", "Run the probe again.", evidence
    )


def _in_child(work: Callable[[Callable[[int], object]], object]) -> tuple[list[int], int | None]:
    """Let a child process say numbers.

    Args: work is called in the child with the function that says one.
    Returns: what it said before it ended, and the signal that ended it: 0 for none, None when that cannot be
        known because somebody else reaps this process's children.
    Raises: Unavailable where there can be no child.
    """
    parent = os.getpid()
    try:
        read_end, write_end = os.pipe()
    except OSError as error:
        raise syscalls.explain_setup_failure(error.errno or errno.EIO, "pipe()") from None
    ends = [read_end, write_end]
    pid = 0
    status: int | None = None
    said = b""
    try:
        pid = os.fork()
        if pid:
            # Without our own end closed, a child that was killed would never be the end of the file.
            os.close(ends.pop())
            while True:
                data = os.read(read_end, 64)
                if not data:
                    break
                said += data
        else:
            work(lambda number: os.write(write_end, struct.pack("=i", number)))
    except OSError as error:
        code = error.errno or errno.EIO
        advice = "No child could be made to try the calls in: raise RLIMIT_NPROC, or free memory."
        raise syscalls.Unavailable(code, "fork()", "unknown", advice, _evidence()) from None
    finally:
        if os.getpid() != parent:
            os._exit(0)  # also when a signal handler raised: nothing of the caller's may run twice
        for fd in ends:
            os.close(fd)
        if pid:
            status = _reap(pid)
    numbers = [number for (number,) in struct.iter_unpack("=i", said)]
    if status is None:
        return numbers, None
    return numbers, os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def _reap(pid: int) -> int | None:
    try:
        return os.waitpid(pid, 0)[1]
    except ChildProcessError:  # SIGCHLD is ignored, or another thread waits for any child
        return None


def _try_flag(bit: int) -> Answer:
    """Try one setup flag, together with the one that it needs."""
    flags = bit | _COMPANIONS.get(bit, 0)
    try:
        if bit == uapi.IORING_SETUP_ATTACH_WQ:
            with rings.Ring(2) as other:
                rings.Ring(2, wq_fd=other.fileno()).close()
        else:
            cq_entries = 4 if bit == uapi.IORING_SETUP_CQSIZE else None
            # CPU 0 may be offline or another container's, and would be refused with EINVAL.
            cpu = min(os.sched_getaffinity(0)) if bit == uapi.IORING_SETUP_SQ_AFF else None
            rings.Ring(2, flags=flags, cq_entries=cq_entries, sq_thread_cpu=cpu).close()
    except OSError as error:
        return False if error.errno == errno.EINVAL else None
    except (AttributeError, ValueError):
        return None  # no sched_getaffinity in this Python; no fence on this machine
    return True


def _probe_opcodes(ring: rings.Ring) -> tuple[dict[str, Answer], int]:
    """Ask REGISTER_PROBE (5.6); return the answers, and the errno when there are none."""
    names = [(name, value) for name, value in _family("IORING_OP_") if value < uapi.IORING_OP_LAST]
    header, each = uapi.io_uring_probe, uapi.io_uring_probe_op
    memory = buffers.allocate(header.size + 256 * each.size)
    address = buffers.pin(memory, writable=True)
    try:
        ring.register(uapi.IORING_REGISTER_PROBE, address.address, 256)
    except OSError as error:
        return {name: None for name, _ in names}, error.errno or errno.EIO
    count = header.unpack(memory)["ops_len"]
    answers: dict[str, Answer] = {}
    for name, value in names:
        entry = each.unpack(memory, header.size + value * each.size)
        answers[name] = value < count and bool(entry["flags"] & uapi.IO_URING_OP_SUPPORTED)
    return answers, 0


def _query_register_opcodes() -> int | None:
    """Ask REGISTER_QUERY (6.18) for the number of register operations; it needs no ring, no permission."""
    try:
        answer = buffers.allocate(uapi.io_uring_query_opcode.size)
        header = buffers.allocate(uapi.io_uring_query_hdr.size)
        # Both pins live until the call is over.
        data, pointer = buffers.pin(answer, writable=True), buffers.pin(header, writable=True)
        query = uapi.io_uring_query_hdr.pack(
            query_data=data.address,
            query_op=uapi.IO_URING_QUERY_OPCODES,
            size=uapi.io_uring_query_opcode.size,
        )
        header[: len(query)] = query
        syscalls.io_uring_register(-1, uapi.IORING_REGISTER_QUERY, pointer.address, 0)
    except (OSError, AttributeError, ImportError):
        return None
    if uapi.io_uring_query_hdr.unpack(header)["result"] < 0:
        return None
    return int(uapi.io_uring_query_opcode.unpack(answer)["nr_register_opcodes"])


# ------------------------------------------------------------------------------------------------------
# Proof


def prove() -> dict[str, str]:
    """Let the kernel do a NOP, a timeout, and a poll on a pipe, a socket and an eventfd.

    Returns: for each, "ok" or what went wrong; the polls must say what select.poll says.
    Lifetime: none.
    Threads: any.
    Since: 5.4 for the timeout
    """
    proofs: dict[str, Callable[[rings.Ring], str]] = {
        "NOP": _prove_nop,
        "timeout of 1 ms": _prove_timeout,
        "poll on a pipe": lambda ring: _prove_poll(ring, _Pipe()),
        "poll on a socket": lambda ring: _prove_poll(ring, _Socket()),
        "poll on an eventfd": lambda ring: _prove_poll(ring, _Eventfd()),
    }
    results = {}
    for name, proof in proofs.items():
        try:
            with rings.Ring(4) as ring:
                results[name] = proof(ring)
        except (OSError, AttributeError) as error:
            results[name] = f"failed: {error}"
    return results


def _one_result(ring: rings.Ring) -> int:
    ring.submit_and_wait(1, 2_000_000_000)
    cqes = ring.reap()
    if len(cqes) != 1 or cqes[0][0] != 1:
        raise OSError(errno.EIO, f"one completion was expected, and came: {cqes}")
    return cqes[0][1]


def _prove_nop(ring: rings.Ring) -> str:
    ops.prep_nop(ring.get_sqe(), 1)
    res = _one_result(ring)
    return "ok" if res == 0 else f"failed: res {res}"


def _prove_timeout(ring: rings.Ring) -> str:
    timespec = buffers.timespec(1_000_000)
    ops.prep_timeout(ring.get_sqe(), timespec.address, 0, 0, 1)
    res = _one_result(ring)
    return "ok" if res == -errno.ETIME else f"failed: res {res}"


class _Pipe:
    def __init__(self) -> None:
        self.fds = list(os.pipe())

    def make_ready(self) -> None:
        os.write(self.fds[-1], b"12345678")

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


class _Eventfd(_Pipe):
    def __init__(self) -> None:
        make = getattr(os, "eventfd", None)  # Python 3.10
        self.fds = [make(0) if make else _libc_eventfd()]

    def make_ready(self) -> None:
        os.write(self.fds[0], (1).to_bytes(8, sys.byteorder))


def _libc_eventfd() -> int:
    fd = int(syscalls._libc.eventfd(0, os.O_CLOEXEC))
    if fd < 0:
        raise OSError(errno.ENOSYS, "eventfd")
    return fd


class _Socket(_Pipe):
    def __init__(self) -> None:
        self.fds = [sock.detach() for sock in socket.socketpair()]


def _prove_poll(ring: rings.Ring, thing: _Pipe) -> str:
    """Arm a poll, see that it waits, make it ready, and compare with select.poll."""
    try:
        fd = thing.fds[0]
        ops.prep_poll_add(ring.get_sqe(), fd, select.POLLIN, 1)
        ring.submit_and_wait(0)
        early = ring.reap()
        if early:
            return f"failed: completed before anything was there: {early}"
        thing.make_ready()
        # On 5.10 a poll that was woken also says RDNORM and more, which nobody asked for.
        res = _one_result(ring) & (select.POLLIN | select.POLLERR | select.POLLHUP | select.POLLNVAL)
        oracle = select.poll()
        oracle.register(fd, select.POLLIN)
        return "ok" if oracle.poll(0) == [(fd, res)] else f"failed: res {res}, poll says {oracle.poll(0)}"
    finally:
        thing.close()


# ------------------------------------------------------------------------------------------------------
# Saying so


def verdict(found: Capabilities, live: dict[str, str] | None = None) -> str:
    """Sum up in one line.

    Args: found as capabilities() returned it; live as prove() returned it, if it was called.
    Returns: a line that begins with "io_uring: " and one word in capitals.
    Lifetime: none.
    """
    failed = [name for name, result in (live or {}).items() if result != "ok"]
    if found.usable and failed:
        return f"io_uring: LIMITED ({found.kernel}, a ring is there but failed: {', '.join(failed)})"
    if found.usable:
        known = list(found.opcodes.values()).count(True)
        detail = f"{known} of {len(found.opcodes)} known operations" if known else "operations unknown"
        return f"io_uring: USABLE ({found.kernel}, {detail})"
    word = {
        "absent": "ABSENT", "not-linux": "NOT LINUX", "memlock": "LIMITED", "nofile": "LIMITED",
        "unknown": "UNKNOWN",
    }.get(found.cause, "DENIED")  # fmt: skip
    by = f" by {found.cause}" if word in ("DENIED", "LIMITED") else ""
    return f"io_uring: {word}{by} ({found.kernel})"


def _exit_code(found: Capabilities, live: dict[str, str]) -> int:
    if found.usable is None:
        return UNKNOWN
    return USABLE if found.usable and all(result == "ok" for result in live.values()) else NOT_USABLE


def _hint(found: Capabilities, live: dict[str, str]) -> str:
    if found.usable and any(result != "ok" for result in live.values()):
        return "A ring can be made, but not everything works: see what the failed requests say."
    return found.advice


def _colour(text: str, code: int) -> str:
    """Colour the text for somebody who reads it on a terminal and did not object (https://no-color.org)."""
    wanted = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return f"\x1b[{code}m{text}\x1b[0m" if wanted else text


_RED, _GREEN, _YELLOW = 31, 32, 33


def _coloured_verdict(found: Capabilities, live: dict[str, str]) -> str:
    colours = {USABLE: _GREEN, NOT_USABLE: _RED, UNKNOWN: _YELLOW}
    return _colour(verdict(found, live), colours[_exit_code(found, live)])


def as_dict(found: Capabilities, live: dict[str, str]) -> dict[str, Any]:
    """Put everything into a dict that JSON can hold.

    Args: found as capabilities() returned it; live as prove() returned it.
    Returns: a dict with the key "schema" and stable keys.
    Lifetime: none.
    """
    return {
        "schema": SCHEMA,
        "verdict": verdict(found, live),
        **found._asdict(),
        "evidence": list(found.evidence),
        "python": sys.version.split()[0],
        "implementation": sys.implementation.name,
        "fence": barriers.fence_kind() if found.usable else None,
        "live": live,
    }


def _print_text(found: Capabilities, live: dict[str, str], verbose: bool) -> None:
    word: dict[Answer, str] = {True: "yes", False: "no", None: "unknown"}
    print(_coloured_verdict(found, live))
    if found.error:
        print(f"  error: {found.error}")
    for fact in found.evidence:
        print(f"  evidence: {fact}")
    if found.register_opcodes is not None:
        print(f"  evidence: REGISTER_QUERY says that there are {found.register_opcodes} register operations")
    if found.usable:
        print(f"  fence: {barriers.fence_kind()}")
    for title, prefix, answers in (
        ("features", "IORING_FEAT_", found.features),
        ("setup flags", "IORING_SETUP_", found.setup_flags),
        ("operations", "IORING_OP_", found.opcodes),
    ):
        for answer in (True, False, None):
            names = [name[len(prefix) :] for name, value in answers.items() if value is answer]
            if names:
                since = [f"{name} ({uapi.SINCE.get(prefix + name, '?')})" for name in names]
                print(f"{title}, {word[answer]}:")
                _print_wrapped(since if verbose or answer is False else names)
    for name, result in live.items():
        print(f"live: {name}: {_colour(result, _GREEN if result == 'ok' else _RED)}")
    print(f"hint: {_hint(found, live)}")


def _print_wrapped(words: list[str]) -> None:
    line = " "
    for item in words:
        if len(line) + len(item) > 98:
            print(line)
            line = " "
        line += " " + item
    print(line)


def main(arguments: list[str] | None = None) -> int:
    """Run the command.

    Args: arguments without the program's name; by default those of the process.
    Returns: the exit code: 0 usable, 1 not usable, 2 wrong usage, 4 cannot tell.
    Lifetime: none.
    """
    import argparse

    parser = argparse.ArgumentParser(
        prog="python -m rawuring.probe",
        description="Say whether io_uring can be used here, what this kernel offers, and who forbids it.",
        epilog="Exit code: 0 usable, 1 not usable, 2 wrong usage, 4 cannot tell.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quiet", action="store_true", help="print the verdict only")
    parser.add_argument("--verbose", action="store_true", help="say since which kernel each name exists")
    options = parser.parse_args(arguments)
    found = capabilities()
    live = prove() if found.usable else {}
    if options.json:
        print(json.dumps(as_dict(found, live), indent=1))
    elif options.quiet:
        print(_coloured_verdict(found, live))
    else:
        _print_text(found, live, options.verbose)
    return _exit_code(found, live)


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
