# SPDX-License-Identifier: MIT
# pyright: basic
"""Negotiation of a ring with this kernel: the rules of the setup flags, wishes and errors.

What it is: setup() calls io_uring_setup until it succeeds or the cause of the failure is known. Mirrors:
liburing ``src/setup.c`` as far as it fills io_uring_params.
Must not know: the layout of a ring in memory.
Invariant: the caller learns of every wished flag that was not granted.
Read next: mapping.py.
"""

from __future__ import annotations

import errno
import os
import time
from collections import namedtuple

from . import gates, seccomp, syscalls, uapi
from .syscalls import Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_ENTRIES = 32768  # IORING_MAX_ENTRIES in the kernel's io_uring.c; the CQ may have twice as many

# (a flag, the flags one of which it needs) and (a flag, one that it excludes). Source: Linux 7.2
# io_uring/io_uring.c io_uring_sanitise_params; checked against the running kernel in
# tests/test_rings_kernel.py.
_NEEDS = (
    (uapi.IORING_SETUP_SQ_AFF, uapi.IORING_SETUP_SQPOLL),
    (uapi.IORING_SETUP_TASKRUN_FLAG, uapi.IORING_SETUP_COOP_TASKRUN | uapi.IORING_SETUP_DEFER_TASKRUN),
    (uapi.IORING_SETUP_DEFER_TASKRUN, uapi.IORING_SETUP_SINGLE_ISSUER),
    (uapi.IORING_SETUP_REGISTERED_FD_ONLY, uapi.IORING_SETUP_NO_MMAP),
    (uapi.IORING_SETUP_HYBRID_IOPOLL, uapi.IORING_SETUP_IOPOLL),
    (uapi.IORING_SETUP_SQ_REWIND, uapi.IORING_SETUP_NO_SQARRAY),
)
_EXCLUDES = (
    (uapi.IORING_SETUP_SQPOLL, uapi.IORING_SETUP_COOP_TASKRUN),
    (uapi.IORING_SETUP_SQPOLL, uapi.IORING_SETUP_DEFER_TASKRUN),
    (uapi.IORING_SETUP_SQPOLL, uapi.IORING_SETUP_SQ_REWIND),
    (uapi.IORING_SETUP_CQE32, uapi.IORING_SETUP_CQE_MIXED),
    (uapi.IORING_SETUP_SQE128, uapi.IORING_SETUP_SQE_MIXED),
)


def broken_rule(flags: int) -> str | None:
    """Name the rule that a combination of setup flags breaks on every kernel.

    Args: flags is a mask of IORING_SETUP_*.
    Returns: the rule as a sentence, or None.
    Source: Linux 7.2 io_uring/io_uring.c io_uring_sanitise_params
    """
    for flag, needs in _NEEDS:
        if flags & flag and not flags & needs:
            return f"{flag_names(flag)} needs {' or '.join(uapi.names_of_flags('IORING_SETUP_', needs))}"
    for flag, other in _EXCLUDES:
        if flags & flag and flags & other:
            return f"{flag_names(flag)} excludes {flag_names(other)}"
    return None


def with_needed(flag: int) -> int:
    """Return a setup flag together with those that it needs on every kernel.

    Args: flag is an IORING_SETUP_*.
    """
    for wanting, needs in _NEEDS:
        if flag & wanting and not flag & needs:
            return with_needed(flag | needs & -needs)  # the oldest of several
    return flag


def flag_names(flags: int) -> str:
    """Return the names of setup flags, joined by |.

    Args: flags is a mask of IORING_SETUP_*.
    """
    return "|".join(uapi.names_of_flags("IORING_SETUP_", flags))


# Not typing.NamedTuple: importing typing takes 9 ms and 2 MiB, more than everything else that a ring needs.
class Dropped(namedtuple("Dropped", "flag errno")):
    """One wish that was not granted; errno is the kernel's, or 0 when a rule or gates.py forbids it."""

    __slots__ = ()

    flag: str
    errno: int


def setup(
    entries: int, flags: int, wish: int, fields: dict[str, Any], min_entries: int
) -> tuple[int, dict[str, Any], list[Dropped]]:
    """Create a ring with the required flags and as many of the wishes as this kernel grants.

    Wishes that no kernel accepts together with the rest are dropped first. Wishes that this kernel rejects
    are dropped one by one, the newest flag first, together with those that need it. When memory is short the
    call is repeated for 50 ms (a closed ring's memory is freed late), then with half the entries, down to
    min_entries.

    Args: entries and min_entries are SQ sizes; flags and wish are masks of IORING_SETUP_*; fields are
        further members of io_uring_params.
    Returns: the descriptor, the filled params, and the wishes that were dropped.
    Raises: ValueError for flags that no kernel accepts together; Unavailable with the cause otherwise, also
        where a seccomp filter would kill the process for the call.
    Mirrors: liburing io_uring_queue_init_try_setup_flags
    """
    rule = broken_rule(flags)
    if rule:
        raise ValueError(f"setup flags {flag_names(flags)}: {rule}")
    wish &= ~flags
    dropped: list[Dropped] = []
    while broken_rule(flags | wish):
        wish = _drop_one(flags, wish, 0, dropped, _against_a_rule(flags, wish))
    if wish & uapi.IORING_SETUP_SQPOLL and gates.applies("sqpoll-burns"):
        wish = _drop_one(flags, wish, 0, dropped, uapi.IORING_SETUP_SQPOLL)
    seccomp.check()
    pauses = [0.002, 0.008, 0.02, 0.02]
    while True:
        params = bytearray(uapi.io_uring_params.pack(flags=flags | wish, **fields))
        try:
            fd = syscalls.io_uring_setup(entries, params)
            try:
                return fd, uapi.io_uring_params.unpack(params), dropped
            except BaseException:  # a signal handler raised, and no other code knows the descriptor yet
                if not (flags | wish) & uapi.IORING_SETUP_REGISTERED_FD_ONLY:
                    os.close(fd)
                raise
        except Unavailable:
            raise
        except OSError as error:
            code = error.errno or 0
            if code == errno.ENOMEM and pauses:
                time.sleep(pauses.pop(0))
            elif code == errno.ENOMEM and entries // 2 >= min_entries:
                entries //= 2
                fields = {**fields, "cq_entries": fields.get("cq_entries", 0) // 2}
            elif wish and code in _WISH_ERRNOS:
                wish = _drop_one(flags, wish, code, dropped)
            else:
                what = f"io_uring_setup({entries} entries, {flag_names(flags | wish) or 'no flags'})"
                refused = _refused_flags(flags) if code == errno.EINVAL else []
                if refused:
                    what += f": this kernel does not know {' '.join(refused)}"
                raise syscalls.explain_setup_failure(code, what, flags) from None


# EINVAL: unknown here. EPERM: SQPOLL before 5.13. ENOMEM: perhaps 32-byte CQEs needed too much.
_WISH_ERRNOS = (errno.EINVAL, errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.EFAULT, errno.ENOMEM)


def _against_a_rule(flags: int, wish: int) -> int:
    """Return the wish that breaks a rule; of two that exclude each other, the newer."""
    for flag, needs in _NEEDS:
        if wish & flag and not (flags | wish) & needs:
            return flag
    both = next(flag | other for flag, other in _EXCLUDES if not (flag | other) & ~(flags | wish))
    return _newest(both & wish)


def _newest(mask: int) -> int:
    return 1 << (mask.bit_length() - 1)  # the header numbers the flags in the order of their arrival


def _drop_one(flags: int, wish: int, code: int, dropped: list[Dropped], victim: int = 0) -> int:
    """Drop the newest wish, or the given one, and those that need it."""
    victim = victim or _newest(wish)
    while victim:
        wish &= ~victim
        dropped.append(Dropped(flag_names(victim), code))
        victim = next((flag for flag, needs in _NEEDS if wish & flag and not (flags | wish) & needs), 0)
    return wish


def _refused_flags(flags: int) -> list[str]:
    """Find the flags that this kernel does not know, by trying each on a tiny ring."""
    refused = []
    for bit in (1 << i for i in range(flags.bit_length())):
        if not flags & bit or bit in (uapi.IORING_SETUP_CQSIZE, uapi.IORING_SETUP_ATTACH_WQ):
            continue
        try:
            params = bytearray(uapi.io_uring_params.pack(flags=with_needed(bit)))
            os.close(syscalls.io_uring_setup(2, params))
        except OSError as error:
            if error.errno == errno.EINVAL:
                refused.append(flag_names(bit))
    return refused


def check_integers(**arguments: Any) -> None:
    """Reject arguments of a ring that are not integers, or that do not fit the kernel's field.

    Args: arguments by their names; None stands for one that was not passed.
    Raises: TypeError and ValueError, which name the argument.
    """
    for name, value in arguments.items():
        if value is None and name not in ("entries", "flags", "wish"):
            continue
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            wanted = _WHAT.get(name, "an int")
            raise TypeError(f"{name} must be {wanted}, not {type(value).__name__}: {value!r:.50}")
        limit = 0x7FFFFFFF if name == "wq_fd" else 0xFFFFFFFF
        if name not in ("entries", "cq_entries") and value is not None and not 0 <= value <= limit:
            raise ValueError(f"{name}={value} is not between 0 and {limit}")


_WHAT = {"flags": "a mask of IORING_SETUP_*", "wish": "a mask of IORING_SETUP_*", "wq_fd": "a descriptor"}


def check_sizes(
    entries: int, cq_entries: int | None, flags: int, wish: int, wq_fd: int | None = None
) -> None:  # fmt: skip
    """Reject sizes for which the kernel would return a bare EINVAL.

    Args: entries, cq_entries and wq_fd as for rings.Ring; flags and wish are masks of IORING_SETUP_*.
    Raises: ValueError.
    """
    if (flags | wish) & uapi.IORING_SETUP_CQSIZE and cq_entries is None:
        raise ValueError("IORING_SETUP_CQSIZE needs cq_entries, which sets it")
    if (flags | wish) & uapi.IORING_SETUP_ATTACH_WQ and wq_fd is None:
        raise ValueError("IORING_SETUP_ATTACH_WQ needs wq_fd, which sets it")
    clamp = (flags | wish) & uapi.IORING_SETUP_CLAMP
    if not 1 <= entries <= (0xFFFFFFFF if clamp else MAX_ENTRIES):
        raise ValueError(f"entries={entries} is not between 1 and {MAX_ENTRIES}")
    if cq_entries is not None:
        if not 1 <= cq_entries <= (0xFFFFFFFF if clamp else 2 * MAX_ENTRIES):
            raise ValueError(f"cq_entries={cq_entries} is not between 1 and {2 * MAX_ENTRIES}")
        if cq_entries < min(entries, MAX_ENTRIES):
            raise ValueError(f"cq_entries={cq_entries} is less than entries={entries}")
