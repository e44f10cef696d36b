# SPDX-License-Identifier: MIT
# pyright: basic
"""A survey of io_uring on this machine: evidence, the kernel's own lists, and the operations it permits.

What it is: the questions behind probe.py, in the order in which they are asked, with three-valued answers.
Mirrors: bpftool feature probe, virt-host-validate, Docker's check-config.sh.
Must not know: how an answer is printed, or the monitor.
Invariant: every answer is yes, no or unknown, and records how it was learned; versions decide nothing;
neither a descriptor nor a child is left behind.
Read next: report.py.

Unless said otherwise, memory passed to a call may be freed when the call returns, only the thread that owns a
ring may use it, and Linux 5.1 suffices.

The first call of each kind is made in a child process: a seccomp filter may answer with a signal that kills.

Supported and admitted are two questions. The kernel lists the operations that it was built with; restrictions
(of a task, from 7.0 on) and filters may still refuse them. An SQE with a personality that does not exist
tells them apart and does nothing: the kernel checks restrictions first (EACCES), then the personality
(EINVAL), and only then the operation. BPF filters (7.0) run after these checks, so with filters each
operation is submitted once more, with all fields zero and descriptor -1.
Source: Linux 6.12 io_uring/io_uring.c io_init_req; Linux 7.2 answers of a restricted task.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import sys
import time
from _thread import _local
from types import MappingProxyType
from typing import NamedTuple

from . import buffers, evidence, ops, register, rings, seccomp, syscalls, uapi
from .params import with_needed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Callable, Optional

    Answer = Optional[bool]

#: The kinds of items that the survey answers for -> the prefixes of their names.
KINDS = {
    "OP": "IORING_OP_",
    "SETUP": "IORING_SETUP_",
    "FEAT": "IORING_FEAT_",
    "REG": "IORING_REGISTER_",
    "ENTER": "IORING_ENTER_",
    "SQE": "IOSQE_",
}


class Finding(NamedTuple):
    """Tell whether the kernel has one item and lets this process use it, and how that was learned.

    The two ``how`` are "query" (REGISTER_QUERY), "probe" (REGISTER_PROBE), "tried", "inferred", or empty if
    nothing could be learned.
    """

    supported: Answer
    how: str
    admitted: Answer
    admitted_how: str


class Capabilities(NamedTuple):
    """Hold the findings about this kernel and this process.

    ``status`` is usable, degraded, denied, absent, limited, not-linux or unknown; ``cause`` names the layer.
    ``lasting`` is False if the answer may change at any moment: a limit was reached, or no child could be
    created.
    """

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
    status: str = "usable"
    findings: Mapping[str, Finding] = MappingProxyType({})
    denied: tuple[str, ...] = ()
    lasting: bool = True


#: The monitor cannot work without these.
CORE = ("IORING_OP_POLL_ADD", "IORING_OP_POLL_REMOVE")

#: The finding when nothing was learned.
NOTHING = Finding(None, "", None, "")
_NO_SUCH_PERSONALITY = 0xFFFF
_REFUSALS = (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP)


def family(kind: str) -> list[tuple[str, int]]:
    """List the entries of one kind in the tables, in the header's order.

    Args: kind is a key of KINDS.
    Returns: names with their values.
    """
    found = list(uapi._family(KINDS[kind]))
    if kind == "REG":  # flags of the registrations have the same prefix
        order = list(vars(uapi))
        last = order.index("IORING_REGISTER_LAST")
        found = [(name, value) for name, value in found if order.index(name) < last]
    return found


def examine() -> Capabilities:
    """Ask everything.

    Returns: the answers; usable is None when they could not be determined.
    Threads: any.
    """
    facts = evidence.gather()
    _met.limits = ()
    try:
        register_code = _first_calls()
        with rings.Ring(2) as ring:
            mask = ring.features
    except syscalls.Unavailable as failure:
        return _refused(facts, failure)
    except ImportError as error:  # a module that rings.py imports when it creates one
        return _refused(facts, _lacking(error))
    except OSError as error:  # the child could, and this process cannot: a limit was reached in between
        return _refused(facts, syscalls.explain_setup_failure(error.errno or errno.EIO, _FIRST))
    answer = _query() or {}
    findings, denied = _all_findings(answer, mask, register_code)
    usable = not set(CORE) & set(denied)
    cause = "task-restriction" if denied else "seccomp" if register_code else ""
    return Capabilities(
        usable=usable,
        cause=cause,
        advice=_usable_advice(findings, register_code, denied),
        error="",
        evidence=(*facts, *_asked(answer), f"{_FIRST}=ok", *_met_facts()),
        kernel=evidence.kernel_name(),
        features={name: bool(findings[name].supported) for name, _ in family("FEAT")},
        setup_flags={name: findings[name].admitted for name, _ in family("SETUP")},
        opcodes={name: findings[name].supported for name, _ in family("OP")},
        register_opcodes=answer.get("nr_register_opcodes"),
        status=("degraded" if cause else "usable") if usable else "denied",
        findings=findings,
        denied=denied,
        lasting=not _met.limits,
    )


_met = _local()  # .limits: errnos of the limits that this thread reached while it asked
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)


def _note_limit(error: OSError) -> None:
    """Remember that an answer is missing for lack of a resource that may be available the next time."""
    if error.errno in _PASSING:
        _met.limits = (*getattr(_met, "limits", ()), error.errno)


def _met_facts() -> tuple[str, ...]:
    names = sorted({syscalls._errno_name(code) for code in _met.limits})
    return (f"limits met while asking={' '.join(names)}",) if names else ()


def _usable_advice(findings: dict[str, Finding], code: int, denied: tuple[str, ...]) -> str:
    if denied:
        return (
            f"A restriction or filter that this process inherited refuses {len(denied)} things that the "
            f"kernel has ({', '.join(denied[:4])}{', ...' if len(denied) > 4 else ''}): start it outside "
            "that sandbox, or have the sandbox allow them."
        )
    if code:
        return (
            f"io_uring_register answers {syscalls._errno_name(code)}, so not all can be known: try the "
            "operations themselves, or allow the call in the seccomp profile."
        )
    known = [findings[name].supported for name, _ in family("OP")]
    if None in known:  # trying shows a NOP on every kernel
        return "This kernel does not list its operations (before 5.6 it cannot): try them."
    missing = [finding.supported for finding in findings.values()].count(False)
    more = f"Newer kernels have {missing} more {'features' if missing > 1 else 'feature'}." if missing else ""
    return f"Nothing needs to be done. {more or 'Nothing is missing.'}"


def _asked(answer: dict[str, int]) -> tuple[str, ...]:
    if not answer:
        return ("REGISTER_QUERY=not answered (it came with Linux 6.18)",)
    operations, registrations = answer["nr_request_opcodes"], answer["nr_register_opcodes"]
    return (f"REGISTER_QUERY={operations} operations and {registrations} register operations",)


# ------------------------------------------------------------------------------------------------------
# Why not


def _refused(facts: tuple[str, ...], failure: syscalls.Unavailable) -> Capabilities:
    status, cause, advice = evidence.classify(failure, facts)
    # A filter that kills for one of the calls may kill for the others.
    dangerous = failure.cause in ("seccomp", "unknown", "not-linux")
    answer = {} if dangerous else _query() or {}
    findings = dict.fromkeys((name for kind in KINDS for name, _ in family(kind)), NOTHING)
    if status == "absent":
        findings = dict.fromkeys(findings, Finding(False, "inferred", False, "inferred"))
    elif answer:
        findings.update(_by_masks(answer))
        findings.update(_by_counts(answer))
    asked = ("REGISTER_QUERY=not asked (a filter may kill for it)",) if dangerous else _asked(answer)
    own = (*facts, *asked) if status != "not-linux" else facts
    return Capabilities(
        usable=None if status == "unknown" else False,
        cause=cause,
        advice=advice,
        error=str(failure),
        evidence=own + tuple(fact for fact in failure.evidence if fact not in facts),
        kernel=evidence.kernel_name(),
        features={},
        setup_flags={},
        opcodes={},
        register_opcodes=answer.get("nr_register_opcodes"),
        status=status,
        findings=findings,
        lasting=status in ("denied", "absent", "not-linux"),
    )


# ------------------------------------------------------------------------------------------------------
# The first calls, in a child

_FIRST = seccomp.CALLS[0]


def _first_calls() -> int:
    """Make the first call of each kind in a child.

    Returns: the errno with which io_uring_register was refused, or 0; a ring works without it.
    Raises: Unavailable if one of the calls kills, or one of the other two is refused.
    """
    try:
        syscalls._load()
    except (AttributeError, ImportError) as error:
        raise _lacking(error) from None
    codes, killer = _three_calls()
    if len(codes) < len(seccomp.CALLS):
        raise seccomp.ended_early(seccomp.CALLS[len(codes)], killer)
    if codes[0]:
        failure = syscalls.explain_setup_failure(codes[0], _FIRST)
        failure.evidence += tuple(f"PR_GET_SECCOMP={mode}" for mode in codes[3:])
        raise failure
    if codes[1] in _REFUSALS:
        raise syscalls.Unavailable.because(codes[1], seccomp.CALLS[1], "seccomp-enter")
    return codes[2] if codes[2] in _REFUSALS else 0


def _lacking(error: Exception) -> syscalls.Unavailable:
    """Build the exception for a Python that was built without a module that a ring needs."""
    module = getattr(error, "name", None) or "ctypes"
    detail = {"ctypes": "no-ctypes", "mmap": "no-mmap"}.get(module, "no-module")
    return syscalls.Unavailable.because(errno.ENOSYS, module, detail, error=error, module=module)


def _three_calls() -> tuple[list[int], int | None]:
    """Make the calls in a child; if none can be created and no filter is in force, make them here."""
    try:
        return seccomp.in_child(seccomp.make_three_calls)
    except seccomp.NoChild:
        if seccomp.state()[0] != "0":
            raise
    codes: list[int] = []
    seccomp.make_three_calls(codes.append)
    return codes, 0


# ------------------------------------------------------------------------------------------------------
# The kernel's operations, and which of them it permits


def _all_findings(
    answer: dict[str, int], features: int, register_code: int
) -> tuple[dict[str, Finding], tuple[str, ...]]:
    """Answer for every name of the tables; also return those that the kernel refuses with EACCES."""
    findings = _by_masks(answer)
    for name, bit in family("FEAT"):
        there = bool(features & bit)
        findings[name] = Finding(there, "tried", there, "tried")
    for name, bit in family("SETUP"):
        findings[name] = _setup_finding(findings[name], _try_flag(bit))
    for name, bit in family("ENTER"):
        findings[name] = _admit(findings[name], _try_enter_flag(bit))
    registrations, denied_registrations = _registrations(answer, register_code)
    findings.update(registrations)
    filters = bool(registrations["IORING_REGISTER_BPF_FILTER"].supported)
    operations, denied = _operations(answer, filters)
    findings.update(operations)
    findings.update(_sqe_flags(findings))
    return findings, denied + denied_registrations


def _by_masks(answer: dict[str, int]) -> dict[str, Finding]:
    """Answer for flags by the masks of REGISTER_QUERY; all unknown without one."""
    masks = {
        "FEAT": "feature_flags", "SETUP": "ring_setup_flags", "ENTER": "enter_flags", "SQE": "sqe_flags",
    }  # fmt: skip
    return {
        name: Finding(bool(answer[masks[kind]] & bit), "query", None, "") if answer else NOTHING
        for kind in masks
        for name, bit in family(kind)
    }


def _by_counts(answer: dict[str, int]) -> dict[str, Finding]:
    """Answer for operations by the counts of REGISTER_QUERY."""
    counts = {"OP": "nr_request_opcodes", "REG": "nr_register_opcodes"}
    return {
        name: Finding(value < answer[counts[kind]], "query", None, "") if answer else NOTHING
        for kind in counts
        for name, value in family(kind)
    }


def _admit(finding: Finding, code: int | None) -> Finding:
    """Complete a finding by the errno of an attempt: 0 if it succeeded, None if it could not be made."""
    if code is None:
        return finding
    if code == errno.EINVAL:
        if finding.supported:
            return finding._replace(admitted=None, admitted_how="")
        return Finding(False, finding.how or "tried", False, "tried")
    how = finding.how or "tried"
    refused = code in _REFUSALS
    supported = finding.supported if finding.supported is not None or refused else True
    return Finding(supported, how if supported is not None else "", not refused, "tried")


def _setup_finding(finding: Finding, code: int | None) -> Finding:
    if code in _PASSING:
        return finding  # a limit was reached, which says nothing about the flag
    return _admit(finding, code)


def _try_flag(bit: int) -> int | None:
    """Try one setup flag, together with the one that it needs; return the errno, 0, or None."""
    flags = with_needed(bit)
    try:
        if bit == uapi.IORING_SETUP_ATTACH_WQ:
            with rings.Ring(2) as other:
                rings.Ring(2, wq_fd=other.fileno()).close()
        else:
            cq_entries = 4 if bit == uapi.IORING_SETUP_CQSIZE else None
            # CPU 0 may be offline or belong to another container, and would be rejected with EINVAL.
            cpu = min(os.sched_getaffinity(0)) if bit == uapi.IORING_SETUP_SQ_AFF else None
            rings.Ring(2, flags=flags, cq_entries=cq_entries, sq_thread_cpu=cpu).close()
    except OSError as error:
        _note_limit(error)
        return error.errno or errno.EIO
    except (AttributeError, ValueError):
        return None  # no sched_getaffinity in this Python; no fence on this machine
    return 0


def _try_enter_flag(bit: int) -> int | None:
    """Enter with one flag and nothing to do."""
    try:
        with rings.Ring(2) as ring:
            syscalls.io_uring_enter(ring.fileno(), 0, 0, bit)
    except OSError as error:
        _note_limit(error)
        if error.errno in _PASSING:
            return None
        # The ring's descriptor is not a registered index, so a kernel with the flag returns EBADF.
        return 0 if error.errno == errno.EBADF else error.errno
    return 0


def _query() -> dict[str, int] | None:
    """Ask REGISTER_QUERY (6.18) for all counts and masks; it needs no ring, no permission."""
    try:
        return register.query(uapi.IO_URING_QUERY_OPCODES)
    except (OSError, AttributeError, ImportError) as error:
        if isinstance(error, OSError):
            _note_limit(error)
        return None


# ------------------------------------------------------------------------------------------------------
# Operations


def _operations(answer: dict[str, int], filters: bool) -> tuple[dict[str, Finding], tuple[str, ...]]:
    counted = _by_counts(answer)
    findings = {name: counted[name] for name, _ in family("OP")}
    try:
        listed = _probe_operations()
        first = admitted_operations(personality=_NO_SUCH_PERSONALITY)
        # If nothing lists the operations, an attempt shows those that do not complete with EINVAL.
        second = admitted_operations() if filters or not (listed or answer) else {}
        unknown = 0 if listed or answer else _answer_to_unknown()
    except OSError as error:
        _note_limit(error)
        return findings, ()
    denied = []
    filtered = -errno.EACCES in second.values()
    for name, value in family("OP"):
        finding, tried = findings[name], second.get(value)
        if listed:
            finding = Finding(listed.get(value, False), "probe", None, "")
        elif not answer and _knows(tried, unknown):
            finding = Finding(True, "tried", True, "tried")
        if finding.supported is False:
            finding = finding._replace(admitted=False, admitted_how="inferred")
        elif finding.supported:
            finding = _admit_operation(finding, first.get(value), tried, filters, filtered)
            if finding.admitted is False:
                denied.append(name)
        findings[name] = finding
    return findings, tuple(denied)


def _knows(tried: int | None, unknown: int | None) -> bool:
    """Compare an attempt with that of an unknown operation, to tell whether the kernel has the operation."""
    if tried is None or unknown is None or tried == unknown:
        return False
    return tried >= 0 or -tried in (errno.EBADF, errno.ENOENT, errno.EFAULT)


def _answer_to_unknown() -> int | None:
    """Submit an operation that no kernel has.

    Kernels before 5.5 look up the descriptor first, and every operation on -1 fails with EBADF.
    Source: Linux 5.4 fs/io_uring.c io_op_needs_file
    """
    with rings.Ring(2) as ring:
        ring.get_sqe()[:] = uapi.io_uring_sqe.pack(opcode=_NO_SUCH_OPERATION, fd=-1, user_data=1)
        ring.submit_and_wait(1, 500_000_000)
        results = [cqe[1] for cqe in ring.reap()]
    return results[0] if results else None


_NO_SUCH_OPERATION = 0xFF


def _admit_operation(
    finding: Finding, first: int | None, second: int | None, filters: bool, filtered: bool
) -> Finding:
    if -errno.EACCES in (first, second):
        return finding._replace(admitted=False, admitted_how="tried")
    if first is None:
        return finding
    issued = second is not None and (second >= 0 or -second in (errno.EBADF, errno.ENOENT))
    if issued or not filters:
        return finding._replace(admitted=True, admitted_how="tried")
    # Its preparation failed, and the filter runs only after that.
    return finding if filtered else finding._replace(admitted=True, admitted_how="inferred")


def _probe_operations() -> dict[int, bool]:
    """Ask REGISTER_PROBE (5.6) for the operations; return nothing if it fails."""
    try:
        with rings.Ring(2) as ring:
            return register.register_probe(ring)
    except OSError as error:
        _note_limit(error)
        return {}


def admitted_operations(
    personality: int = 0, ring: rings.Ring | None = None, flags: int = 0
) -> dict[int, int]:
    """Submit every operation once, in a way that does nothing, and collect the results.

    All fields are zero except the descriptor, which is -1, and the personality. So none of the operations has
    an effect: paths and timespecs are NULL, lengths 0.

    Args: a personality that does not exist stops the kernel before it checks the operation; ring is an idle
        ring to use instead of a new one; flags is a mask of IOSQE_*.
    Returns: by operation, the result: -EACCES if a restriction or filter refuses it.
    Source: Linux 6.12 io_uring/io_uring.c io_init_req
    """
    if ring is None:
        # A ring with 64-byte SQEs rejects operations of 128 bytes before it checks any restriction.
        with rings.Ring(128, wish=uapi.IORING_SETUP_SQE128) as own:
            return admitted_operations(personality, own, flags)
    numbers = [value for _, value in family("OP")]
    results: dict[int, int] = {}
    while numbers:
        batch, numbers = numbers[: ring.sq.ring_entries], numbers[ring.sq.ring_entries :]
        for value in batch:
            sqe = ring.get_sqe()
            image = uapi.io_uring_sqe.pack(
                opcode=value, flags=flags, fd=-1, personality=personality, user_data=value + 1
            )
            sqe[:] = image.ljust(len(sqe), b"\0")
        # Zero-copy sends complete twice: the first res is the answer, and counting would end too early.
        waited, deadline = set(batch), time.monotonic_ns() + 500_000_000
        while waited:
            ring.submit_and_wait(1, max(0, deadline - time.monotonic_ns()))
            cqes = ring.reap()
            if not cqes:
                break
            for cqe in cqes:
                results.setdefault(cqe[0] - 1, cqe[1])
                waited.discard(cqe[0] - 1)
    return results


def _sqe_flags(findings: dict[str, Finding]) -> dict[str, Finding]:
    """Submit a NOP with each flag of an SQE."""
    found = {}
    for name, bit in family("SQE"):
        try:
            with rings.Ring(2) as ring:
                sqe = ring.get_sqe()
                image = uapi.io_uring_sqe.pack(opcode=uapi.IORING_OP_NOP, fd=-1, flags=bit, user_data=1)
                sqe[:] = image
                ring.submit()
                results = [cqe[1] for cqe in ring.reap()]
        except OSError as error:
            _note_limit(error)
            found[name] = findings[name]
            continue
        # The NOP may fail, not be waited for, or post no completion: anything but EINVAL means a known flag.
        code = -results[0] if results and results[0] in (-errno.EINVAL, -errno.EACCES) else 0
        found[name] = _admit(findings[name], code)
    return found


# ------------------------------------------------------------------------------------------------------
# Register operations

_BAD_ADDRESS = 16  # in the first page, which no process maps
# In one of these forms each operation rejects the bad address, or has nothing to unregister. The last one
# unregisters the personality that the one before it registered.
_ATTEMPTS = (*((_BAD_ADDRESS, count) for count in (1, 32, 2, 0)), (None, 0), (None, 1))
_BLIND = (uapi.IORING_REGISTER_SEND_MSG_RING,)  # must be called on descriptor -1


def _registrations(
    answer: dict[str, int], register_code: int
) -> tuple[dict[str, Finding], tuple[str, ...]]:
    """Try each register operation with arguments that cannot work; unknown ones are EINVAL in every form."""
    counted = _by_counts(answer)
    findings = {name: counted[name] for name, _ in family("REG")}
    if register_code:
        return {
            name: finding._replace(admitted=False, admitted_how="tried") for name, finding in findings.items()
        }, ()
    # The operations for zero-copy receive and for resizing exist on such rings only.
    wish = uapi.IORING_SETUP_SINGLE_ISSUER | uapi.IORING_SETUP_DEFER_TASKRUN | uapi.IORING_SETUP_CQE32
    denied = []
    try:
        with rings.Ring(2, wish=wish) as ring:
            for name, value in family("REG"):
                if findings[name].supported is False:
                    findings[name] = findings[name]._replace(admitted=False, admitted_how="inferred")
                    continue
                code = _try_registration(ring, value)
                findings[name] = _registration_finding(findings[name], code)
                if code == errno.EACCES:
                    denied.append(name)
    except OSError as error:
        _note_limit(error)
        return findings, ()
    return findings, tuple(denied)


def _registration_finding(finding: Finding, code: int | None) -> Finding:
    if code == errno.EINVAL and finding.supported:
        # A restriction would have refused it before the kernel checked its arguments.
        return finding._replace(admitted=True, admitted_how="inferred")
    if code != errno.EINVAL and finding.supported is None:
        finding = finding._replace(supported=True, how="tried")  # an unknown one is always EINVAL
    return _admit(finding, code)


def _try_registration(ring: rings.Ring, opcode: int) -> int | None:
    fd = -1 if opcode in _BLIND else ring.fileno()
    for address, count in _ATTEMPTS:
        try:
            syscalls.io_uring_register(fd, opcode, address, count)
        except OSError as error:
            if error.errno == errno.EINVAL:
                continue
            if fd == -1 and error.errno == errno.EBADF:
                return errno.EINVAL  # without a ring this kernel registers nothing, so it lacks it
            return error.errno
        return 0
    return errno.EINVAL


# ------------------------------------------------------------------------------------------------------
# One ring

_RESTRICTED = (
    "This ring was restricted for good (IORING_REGISTER_RESTRICTIONS) before it was enabled: use another "
    "ring for the refused operations, or allow them when the ring is created."
)


def examine_ring(ring: rings.Ring, process: Capabilities) -> Capabilities:
    """Find out which of the kernel's items one ring allows.

    Args: ring is enabled and idle; process is the result of examine().
    Returns: the answers for this ring; status is "degraded" if it refuses anything, "denied" if it refuses
        every operation.
    Raises: ValueError for a ring with unreaped completions or queued requests.
    Since: 5.10, the first kernel with restrictions
    """
    if ring.cq_ready() or ring.sq.pending():
        raise ValueError("the ring is not idle: reap first, so that no completion is mistaken for an answer")
    answers = admitted_operations(_NO_SUCH_PERSONALITY, ring)
    there = [name for name, _ in family("OP") if process.findings[name].supported is not False]
    asked = [getattr(uapi, name) for name in there if name not in _WIDE]
    if all(answers.get(value) == -errno.EACCES for value in asked):  # perhaps for lack of a required flag
        answers = admitted_operations(_NO_SUCH_PERSONALITY, ring, uapi.IOSQE_FIXED_FILE)
    findings, denied = dict(process.findings), list(process.denied)
    for name, value in family("OP"):
        _narrow(findings, denied, name, answers.get(value) != -errno.EACCES)
    for name, value in family("REG"):
        if value not in _BLIND:
            _narrow(findings, denied, name, _register_in_vain(ring, value) != errno.EACCES)
    refused = [name for name in denied if name not in process.denied]
    if not refused:
        return process._replace(findings=findings)
    if not ring.flags & (uapi.IORING_SETUP_SQE128 | uapi.IORING_SETUP_SQE_MIXED):
        for name in _WIDE:  # rejected for their size, before any restriction is checked
            findings[name] = findings[name]._replace(admitted=None, admitted_how="")
    usable = any(findings[name].admitted for name, _ in family("OP"))
    return process._replace(
        usable=usable,
        status="degraded" if usable else "denied",
        cause="ring-restriction",
        advice=_RESTRICTED,
        findings=findings,
        denied=tuple(denied),
    )


_WIDE = ("IORING_OP_NOP128", "IORING_OP_URING_CMD128")


def _narrow(findings: dict[str, Finding], denied: list[str], name: str, admitted: bool) -> None:
    """Record that a ring refuses an item that is admitted elsewhere; a ring cannot allow more."""
    finding = findings.get(name, NOTHING)
    if not admitted and finding.supported is not False and finding.admitted is not False:
        findings[name] = finding._replace(admitted=False, admitted_how="tried")
        denied.append(name)


def _register_in_vain(ring: rings.Ring, opcode: int) -> int:
    """Register at an address that no process maps: earlier registrations stay unchanged."""
    try:
        syscalls.io_uring_register(ring.fileno(), opcode, _BAD_ADDRESS, 1)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


# ------------------------------------------------------------------------------------------------------
# Proof


def prove() -> dict[str, str]:
    """Run a NOP, a timeout, and a poll on a pipe, a socket and an eventfd.

    Returns: for each, "ok" or the failure; the polls must return the events that select.poll returns.
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
        raise OSError(errno.EIO, f"expected one completion, got {cqes}")
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


class _Pipe(syscalls.Uncopyable):
    def __init__(self) -> None:
        self.fds = list(os.pipe())

    def make_ready(self) -> None:
        os.write(self.fds[-1], b"12345678")

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


class _Eventfd(_Pipe):
    def __init__(self) -> None:
        self.fds = [syscalls.eventfd()]

    def make_ready(self) -> None:
        os.write(self.fds[0], (1).to_bytes(8, sys.byteorder))


class _Socket(_Pipe):
    def __init__(self) -> None:
        self.fds = [sock.detach() for sock in socket.socketpair()]


def _prove_poll(ring: rings.Ring, thing: _Pipe) -> str:
    """Arm a poll, check that it waits, make the file ready, and compare with select.poll."""
    try:
        fd = thing.fds[0]
        ops.prep_poll_add(ring.get_sqe(), fd, select.POLLIN, 1)
        ring.submit_and_wait(0)
        early = ring.reap()
        if early:
            return f"failed: completed before the file was ready: {early}"
        thing.make_ready()
        # On 5.10 a poll that was woken also reports RDNORM and more, which were not requested.
        res = _one_result(ring) & (select.POLLIN | select.POLLERR | select.POLLHUP | select.POLLNVAL)
        oracle = select.poll()
        oracle.register(fd, select.POLLIN)
        return "ok" if oracle.poll(0) == [(fd, res)] else f"failed: res {res}, poll says {oracle.poll(0)}"
    finally:
        thing.close()
