# SPDX-License-Identifier: MIT
"""prep_*: fill an SQE for one operation.

What it is: one function per operation, named after liburing's, with liburing's arguments in liburing's order.
Mirrors: liburing ``src/include/liburing.h``.
Must not know: rings, Python objects, what happens to the SQE next.
Invariant: each function writes all 64 bytes of its SQE, in one pack, so nothing that the slot's last occupant
left behind survives.
Read next: buffers.py.

An SQE is any writable buffer of 64 bytes: what ring.get_sqe() returns, or bytearray(64). All arguments are
ints; an address comes from buffers.pin(). After liburing's arguments come two of ours, always: ``user_data``,
which the CQE brings back, and ``flags``, a mask of IOSQE_*. What is less often needed follows by keyword.
"""

from __future__ import annotations

import struct
import sys

from . import uapi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Union

    Sqe = Union[memoryview, bytearray]

# opcode flags ioprio fd, off, addr, len op_flags, user_data, buf_index personality file_index, addr3, pad
_SQE = struct.Struct("=BBHiQQIIQHHIQQ")
_pack = _SQE.pack_into
# The same 64 bytes for an operation without arguments: padding is written as zeros. With 5 values instead of
# 14, a batch of 256 NOPs takes 0.86 of the time (PyPy: prep_nop takes 2.5 times as long).
_pack_short = struct.Struct("=BBHi24xQ24x").pack_into
_U64 = 0xFFFFFFFFFFFFFFFF
_BIG_ENDIAN = sys.byteorder == "big"


def poll_mask(mask: int) -> int:
    """Order the halves of a poll mask as the kernel wants them.

    Args: mask of select.POLL* or EPOLL* bits, 32 bits wide.
    Returns: the mask itself; on a big-endian machine with its 16-bit halves swapped.
    Lifetime: none.
    Mirrors: liburing __io_uring_prep_poll_mask
    Source: Linux 6.12 io_uring/poll.c io_poll_parse_events
    """
    if _BIG_ENDIAN:
        return (mask >> 16) | (mask & 0xFFFF) << 16
    return mask


def prep_rw(
    sqe: Sqe, op: int, fd: int, addr: int, length: int, offset: int, user_data: int = 0, flags: int = 0,
    *, op_flags: int = 0, ioprio: int = 0, buf_index: int = 0, personality: int = 0, file_index: int = 0,
) -> None:  # fmt: skip
    """Fill the fields that most operations share.

    Args: op is an IORING_OP_*; offset is 64 bits, and -1 is the file position; op_flags is the field whose
        name and meaning depend on the operation (rw_flags, msg_flags, ...).
    CQE: depends on the operation.
    Raises: struct.error for a value that its field cannot hold.
    Lifetime: none.
    Since: 5.1
    Mirrors: liburing io_uring_prep_rw, plus the fields that it leaves to later assignments
    """
    _pack(
        sqe, 0, op, flags, ioprio, fd, offset & _U64, addr, length, op_flags, user_data, buf_index,
        personality, file_index, 0, 0,
    )  # fmt: skip


def prep_nop(sqe: Sqe, user_data: int = 0, flags: int = 0) -> None:
    """Do nothing, and complete.

    CQE: res is 0.
    Lifetime: none.
    Since: 5.1
    Mirrors: liburing io_uring_prep_nop
    """
    _pack_short(sqe, 0, uapi.IORING_OP_NOP, flags, 0, -1, user_data)


def prep_poll_add(sqe: Sqe, fd: int, mask: int, user_data: int = 0, flags: int = 0) -> None:
    """Wait once until a descriptor is ready.

    Args: mask of select.POLL* bits; ERR and HUP are always watched, and so is RDHUP, which then completes
        the request although nobody asked.
    CQE: res is the mask of events that are true, or -EBADF, -ECANCELED; 5.10 also sets bits that were not
        asked for.
    Lifetime: none; the open file is held until the final CQE.
    Since: 5.1; masks above 16 bits 5.9
    Mirrors: liburing io_uring_prep_poll_add
    """
    _pack(sqe, 0, uapi.IORING_OP_POLL_ADD, flags, 0, fd, 0, 0, 0, poll_mask(mask), user_data, 0, 0, 0, 0, 0)


def prep_poll_multishot(sqe: Sqe, fd: int, mask: int, user_data: int = 0, flags: int = 0) -> None:
    """Report each time a descriptor becomes ready, edge-triggered.

    Args: mask of select.POLL* bits.
    CQE: one for each wake-up, res is the mask; the last is the one without IORING_CQE_F_MORE.
    Lifetime: none; the open file is held until the final CQE.
    Since: 5.13
    Mirrors: liburing io_uring_prep_poll_multishot
    """
    _pack(
        sqe, 0, uapi.IORING_OP_POLL_ADD, flags, 0, fd, 0, 0, uapi.IORING_POLL_ADD_MULTI, poll_mask(mask),
        user_data, 0, 0, 0, 0, 0,
    )  # fmt: skip


def prep_poll_remove(sqe: Sqe, target: int, user_data: int = 0, flags: int = 0) -> None:
    """End a poll.

    Args: target is the poll's user_data.
    CQE: res is 0 (the poll answers -ECANCELED), -ENOENT or -EALREADY (the poll answers with its event).
    Lifetime: none.
    Since: 5.1
    Mirrors: liburing io_uring_prep_poll_remove
    """
    _pack(sqe, 0, uapi.IORING_OP_POLL_REMOVE, flags, 0, -1, 0, target, 0, 0, user_data, 0, 0, 0, 0, 0)


def prep_poll_update(
    sqe: Sqe, target: int, new_user_data: int, mask: int, update: int, user_data: int = 0, flags: int = 0
) -> None:
    """Change the events or the user_data of a poll.

    Args: target is the poll's user_data; update is a mask of IORING_POLL_UPDATE_EVENTS,
        IORING_POLL_UPDATE_USER_DATA and IORING_POLL_ADD_MULTI.
    CQE: res is 0, -ENOENT or -EALREADY.
    Lifetime: none.
    Since: 5.13
    Mirrors: liburing io_uring_prep_poll_update
    """
    _pack(
        sqe, 0, uapi.IORING_OP_POLL_REMOVE, flags, 0, -1, new_user_data, target, update, poll_mask(mask),
        user_data, 0, 0, 0, 0, 0,
    )  # fmt: skip


def prep_timeout(
    sqe: Sqe, ts: int, count: int, timeout_flags: int, user_data: int = 0, flags: int = 0
) -> None:
    """Complete after a time, or after a number of other completions.

    Args: ts is the address of a __kernel_timespec (buffers.timespec); count of completions, 0 for none;
        timeout_flags is a mask of IORING_TIMEOUT_*.
    CQE: res is -ETIME when the time has passed, 0 when the count was reached, -ECANCELED.
    Lifetime: until submit returns; until the final CQE on an SQPOLL ring or before 5.5.
    Since: 5.4
    Mirrors: liburing io_uring_prep_timeout
    """
    _pack(
        sqe, 0, uapi.IORING_OP_TIMEOUT, flags, 0, -1, count, ts, 1, timeout_flags, user_data, 0, 0, 0, 0, 0
    )


def prep_timeout_remove(
    sqe: Sqe, target: int, timeout_flags: int, user_data: int = 0, flags: int = 0
) -> None:
    """End a timeout.

    Args: target is the timeout's user_data.
    CQE: res is 0 (the timeout answers -ECANCELED), -ENOENT or -EBUSY.
    Lifetime: none.
    Since: 5.5
    Mirrors: liburing io_uring_prep_timeout_remove
    """
    _pack(
        sqe, 0, uapi.IORING_OP_TIMEOUT_REMOVE, flags, 0, -1, 0, target, 0, timeout_flags, user_data,
        0, 0, 0, 0, 0,
    )  # fmt: skip


def prep_timeout_update(
    sqe: Sqe, ts: int, target: int, timeout_flags: int, user_data: int = 0, flags: int = 0
) -> None:
    """Give a timeout another time.

    Args: ts is the address of a __kernel_timespec; target is the timeout's user_data.
    CQE: res is 0, -ENOENT or -EBUSY.
    Lifetime: until submit returns; until the final CQE on an SQPOLL ring.
    Since: 5.11
    Mirrors: liburing io_uring_prep_timeout_update
    """
    _pack(
        sqe, 0, uapi.IORING_OP_TIMEOUT_REMOVE, flags, 0, -1, ts, target, 0,
        timeout_flags | uapi.IORING_TIMEOUT_UPDATE, user_data, 0, 0, 0, 0, 0,
    )  # fmt: skip


def prep_cancel64(sqe: Sqe, target: int, cancel_flags: int, user_data: int = 0, flags: int = 0) -> None:
    """Cancel requests by their user_data.

    Args: target is that user_data; cancel_flags is a mask of IORING_ASYNC_CANCEL_*.
    CQE: res is 0, or with IORING_ASYNC_CANCEL_ALL the number cancelled; -ENOENT; -EALREADY when the request
        runs and cannot be stopped.
    Lifetime: none.
    Since: 5.5; flags 5.19
    Mirrors: liburing io_uring_prep_cancel64
    """
    _pack(
        sqe, 0, uapi.IORING_OP_ASYNC_CANCEL, flags, 0, -1, 0, target, 0, cancel_flags, user_data,
        0, 0, 0, 0, 0,
    )  # fmt: skip


def prep_cancel_fd(sqe: Sqe, fd: int, cancel_flags: int, user_data: int = 0, flags: int = 0) -> None:
    """Cancel requests on a descriptor, which must still be open.

    Args: fd; cancel_flags is a mask of IORING_ASYNC_CANCEL_*, IORING_ASYNC_CANCEL_FD is added.
    CQE: as prep_cancel64, and -EBADF.
    Lifetime: none.
    Since: 5.19
    Mirrors: liburing io_uring_prep_cancel_fd
    """
    _pack(
        sqe, 0, uapi.IORING_OP_ASYNC_CANCEL, flags, 0, fd, 0, 0, 0,
        cancel_flags | uapi.IORING_ASYNC_CANCEL_FD, user_data, 0, 0, 0, 0, 0,
    )  # fmt: skip


def prep_read(
    sqe: Sqe, fd: int, buf: int, nbytes: int, offset: int, user_data: int = 0, flags: int = 0,
    *, rw_flags: int = 0, ioprio: int = 0, buf_group: int = 0, personality: int = 0,
) -> None:  # fmt: skip
    """Read from a file.

    Args: buf is an address; nbytes in bytes; offset in bytes, -1 for the file position, pipes and sockets;
        rw_flags is a mask of RWF_*; buf_group goes with IOSQE_BUFFER_SELECT.
    CQE: res is the number of bytes, 0 at the end of the file, or a negative errno.
    Lifetime: until the final CQE.
    Since: 5.6
    Mirrors: liburing io_uring_prep_read
    """
    _pack(
        sqe, 0, uapi.IORING_OP_READ, flags, ioprio, fd, offset & _U64, buf, nbytes, rw_flags, user_data,
        buf_group, personality, 0, 0, 0,
    )  # fmt: skip


def prep_write(
    sqe: Sqe, fd: int, buf: int, nbytes: int, offset: int, user_data: int = 0, flags: int = 0,
    *, rw_flags: int = 0, ioprio: int = 0, personality: int = 0,
) -> None:  # fmt: skip
    """Write to a file.

    Args: as prep_read.
    CQE: res is the number of bytes, or a negative errno.
    Lifetime: until the final CQE.
    Since: 5.6
    Mirrors: liburing io_uring_prep_write
    """
    _pack(
        sqe, 0, uapi.IORING_OP_WRITE, flags, ioprio, fd, offset & _U64, buf, nbytes, rw_flags, user_data, 0,
        personality, 0, 0, 0,
    )  # fmt: skip


def prep_send(
    sqe: Sqe, sockfd: int, buf: int, length: int, msg_flags: int, user_data: int = 0, flags: int = 0,
    *, ioprio: int = 0,
) -> None:  # fmt: skip
    """Send on a connected socket.

    Args: buf is an address; length in bytes; msg_flags is a mask of MSG_*; ioprio of IORING_RECVSEND_*.
    CQE: res is the number of bytes, or a negative errno.
    Lifetime: until the final CQE.
    Since: 5.6
    Mirrors: liburing io_uring_prep_send
    """
    _pack(
        sqe, 0, uapi.IORING_OP_SEND, flags, ioprio, sockfd, 0, buf, length, msg_flags, user_data,
        0, 0, 0, 0, 0,
    )  # fmt: skip


def prep_recv(
    sqe: Sqe, sockfd: int, buf: int, length: int, msg_flags: int, user_data: int = 0, flags: int = 0,
    *, ioprio: int = 0, buf_group: int = 0,
) -> None:  # fmt: skip
    """Receive from a socket.

    Args: buf is an address; length in bytes; msg_flags is a mask of MSG_*; ioprio of IORING_RECVSEND_*;
        buf_group goes with IOSQE_BUFFER_SELECT.
    CQE: res is the number of bytes, 0 when the peer has closed, or a negative errno.
    Lifetime: until the final CQE.
    Since: 5.6
    Mirrors: liburing io_uring_prep_recv
    """
    _pack(
        sqe, 0, uapi.IORING_OP_RECV, flags, ioprio, sockfd, 0, buf, length, msg_flags, user_data, buf_group,
        0, 0, 0, 0,
    )  # fmt: skip
