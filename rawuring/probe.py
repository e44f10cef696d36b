# SPDX-License-Identifier: MIT
"""What this kernel offers, who forbids it, and proof: ``python -m rawuring.probe``.

What it is: evidence first, then questions to the kernel, then live requests; a verdict and a remedy.
Mirrors: bpftool feature probe, virt-host-validate.
Must not know: the monitor, or anything built on it.
Invariant: every answer is yes, no or unknown, found by trying and never by comparing versions; nothing is
left behind, neither a descriptor nor a child.
Read next: fdmon.py.

The first io_uring_setup is made in a child process: a seccomp filter may answer it with a signal that kills.
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
    failure = _first_setup()
    if failure is not None:
        return Capabilities(
            usable=None if failure.cause == "unknown" else False,
            cause=failure.cause,
            advice=failure.advice,
            error=str(failure),
            evidence=failure.evidence,
            kernel=kernel,
            features={},
            setup_flags={},
            opcodes={},
            # A filter that kills for one of the calls may kill for the others.
            register_opcodes=None if failure.cause == "seccomp" else _query_register_opcodes(),
        )
    with rings.Ring(2) as ring:
        features = {name: bool(ring.features & bit) for name, bit in _family("IORING_FEAT_")}
        opcodes = _probe_opcodes(ring)
    return Capabilities(
        usable=True,
        cause="",
        advice=_usable_advice(opcodes),
        error="",
        evidence=_evidence(),
        kernel=kernel,
        features=features,
        setup_flags={name: _try_flag(bit) for name, bit in _family("IORING_SETUP_")},
        opcodes=opcodes,
        register_opcodes=_query_register_opcodes(),
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


def _usable_advice(opcodes: dict[str, Answer]) -> str:
    known = [answer for answer in opcodes.values() if answer is not None]
    if not known:
        return "This kernel is older than 5.6 and cannot tell which operations it knows: try them."
    missing = known.count(False)
    return f"Newer kernels know {missing} more operations." if missing else "Nothing is missing."


def _family(prefix: str) -> list[tuple[str, int]]:
    return [(name, value) for name, value in vars(uapi).items() if name.startswith(prefix)]


def _first_setup() -> syscalls.Unavailable | None:
    """Create the first ring in a child; return why that failed."""
    what = "io_uring_setup(2 entries)"
    try:
        syscalls.abi()
        syscalls._load()
    except syscalls.Unavailable as error:
        return error
    except (AttributeError, ImportError, OSError) as error:
        return syscalls.Unavailable(errno.ENOSYS, what, "not-linux", f"This is {sys.platform}: {error}.")
    code, killer = _in_child(lambda: syscalls.io_uring_setup(2, bytearray(uapi.io_uring_params.size)))
    if killer:
        return syscalls.Unavailable(
            errno.EPERM,
            f"{what}: killed by signal {killer}",
            "seccomp",
            "A seccomp filter kills whoever calls io_uring_setup: do not call it here, or change the filter.",
            _evidence(),
        )
    return syscalls.explain_setup_failure(code, what) if code else None


def _in_child(call: Callable[[], object]) -> tuple[int, int]:
    """Make a call in a child process; return its errno and the signal that killed it."""
    read_end, write_end = os.pipe()
    try:
        pid = os.fork()
        if not pid:
            code = errno.EIO
            try:
                call()
                code = 0
            except OSError as error:
                code = error.errno or errno.EIO
            finally:
                os.write(write_end, struct.pack("=i", code))
                os._exit(0)
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            return 0, os.WTERMSIG(status)
        return struct.unpack("=i", os.read(read_end, 4))[0], 0
    finally:
        os.close(read_end)
        os.close(write_end)


def _try_flag(bit: int) -> Answer:
    """Try one setup flag, together with the one that it needs."""
    flags = bit | _COMPANIONS.get(bit, 0)
    try:
        if bit == uapi.IORING_SETUP_ATTACH_WQ:
            with rings.Ring(2) as other:
                rings.Ring(2, wq_fd=other.fileno()).close()
        else:
            cq_entries = 4 if bit == uapi.IORING_SETUP_CQSIZE else None
            rings.Ring(2, flags=flags, cq_entries=cq_entries).close()
    except OSError as error:
        return False if error.errno == errno.EINVAL else None
    except ValueError:
        return None  # no fence on this machine
    return True


def _probe_opcodes(ring: rings.Ring) -> dict[str, Answer]:
    names = [(name, value) for name, value in _family("IORING_OP_") if value < uapi.IORING_OP_LAST]
    header, each = uapi.io_uring_probe, uapi.io_uring_probe_op
    memory = buffers.allocate(header.size + 256 * each.size)
    address = buffers.pin(memory, writable=True)
    try:
        ring.register(uapi.IORING_REGISTER_PROBE, address.address, 256)
    except OSError:
        return {name: None for name, _ in names}
    count = header.unpack(memory)["ops_len"]
    answers: dict[str, Answer] = {}
    for name, value in names:
        entry = each.unpack(memory, header.size + value * each.size)
        answers[name] = value < count and bool(entry["flags"] & uapi.IO_URING_OP_SUPPORTED)
    return answers


def _query_register_opcodes() -> int | None:
    """Ask REGISTER_QUERY (6.18) for the number of register operations; it needs no ring, no permission."""
    try:
        answer = buffers.allocate(uapi.io_uring_query_opcode.size)
        header = buffers.allocate(uapi.io_uring_query_hdr.size)
        query = uapi.io_uring_query_hdr.pack(
            query_data=buffers.pin(answer, writable=True).address,
            query_op=uapi.IO_URING_QUERY_OPCODES,
            size=uapi.io_uring_query_opcode.size,
        )
        header[: len(query)] = query
        syscalls.io_uring_register(
            -1, uapi.IORING_REGISTER_QUERY, buffers.pin(header, writable=True).address, 0
        )
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


def verdict(found: Capabilities) -> str:
    """Sum up in one line.

    Args: found as capabilities() returned it.
    Returns: a line that begins with "io_uring: " and one word in capitals.
    Lifetime: none.
    """
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


def as_dict(found: Capabilities, live: dict[str, str]) -> dict[str, Any]:
    """Put everything into a dict that JSON can hold.

    Args: found as capabilities() returned it; live as prove() returned it.
    Returns: a dict with the key "schema" and stable keys.
    Lifetime: none.
    """
    return {
        "schema": SCHEMA,
        "verdict": verdict(found),
        **found._asdict(),
        "evidence": list(found.evidence),
        "python": sys.version.split()[0],
        "implementation": sys.implementation.name,
        "fence": barriers.fence_kind() if found.usable else None,
        "live": live,
    }


def _print_text(found: Capabilities, live: dict[str, str], verbose: bool) -> None:
    word: dict[Answer, str] = {True: "yes", False: "no", None: "unknown"}
    print(verdict(found))
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
        print(f"live: {name}: {result}")
    print(f"hint: {found.advice}")


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
    live = prove() if found.usable and not options.quiet else {}
    if options.json:
        print(json.dumps(as_dict(found, live), indent=1))
    elif options.quiet:
        print(verdict(found))
    else:
        _print_text(found, live, options.verbose)
    if found.usable is None:
        return UNKNOWN
    failed = [name for name, result in live.items() if result != "ok"]
    return USABLE if found.usable and not failed else NOT_USABLE


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
