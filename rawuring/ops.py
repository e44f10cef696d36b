# SPDX-License-Identifier: MIT
# pyright: basic
"""prep_*: fill an SQE for one operation.

What it is: one function per operation and variant, named after liburing's, with liburing's arguments in
liburing's order; and a few functions that change an SQE after a prep function has filled it.
Mirrors: liburing ``src/include/liburing.h``.
Must not know: rings, Python objects, the further path of the SQE.
Invariant: each prep function writes all 64 bytes of its SQE (128 for the operations that need them), in one
pack, so nothing of the slot's previous content survives.
Read next: buffers.py.

Unless said otherwise, memory passed to a call may be freed when the call returns, and Linux 5.1 suffices.

An SQE is any writable buffer of 64 bytes: the slot that ring.get_sqe() returns, or bytearray(64). All
arguments are ints; an address comes from buffers.pin(). liburing's arguments are always followed by two more:
``user_data``, which the CQE returns, and ``flags``, a mask of IOSQE_*. Rarely needed fields follow by
keyword, and set_fields() reaches all others. On a ring with an InFlight table the user_data from 2**56 to
2**57 - 1 belong to the table.

A function without a Lifetime passes no memory. "Until submit returns" is for memory that the kernel copies
when it consumes the SQE; it means the submit() that consumes it. On an SQPOLL ring the kernel's thread makes
the copy some time after submit() has returned, and before 5.5 (IORING_FEAT_SUBMIT_STABLE) it may be made
later still; there, keep the memory until the final CQE. Every open file is held until the final CQE,
whatever happens to its number.

A number that its field cannot hold raises struct.error; C would truncate it silently. struct does not name
the argument: "required argument is not an integer" usually means an object instead of its address, which is
pin(obj).address. InFlight.start() takes the Pin itself, and its errors name the argument.
"""

from __future__ import annotations

import functools
import os
import struct
import sys
from array import array

from . import uapi
from .uapi import AT_FDCWD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Callable, Union

    Sqe = Union[memoryview, bytearray]

# opcode flags ioprio fd, off, addr, len op_flags, user_data, buf_index personality file_index, addr3, pad
_SQE = struct.Struct("=BBHiQQIIQHHIQQ")
_pack = _SQE.pack_into
# The same 64 bytes for an operation without arguments: padding is written as zeros. With 5 values instead of
# 14, a batch of 256 NOPs takes 0.86 of the time (on PyPy prep_nop takes 2.5 times as long).
_pack_short = struct.Struct("=BBHi24xQ24x").pack_into
_pack_poll = struct.Struct("=BBHi20xIQ24x").pack_into
# The same with all constant fields as one value: 0.9 of the time on CPython 3.11, 0.8 on 3.9 and 3.13.
_pack_nop = struct.Struct("=Q24xQ24x").pack_into
_pack_plain_poll = struct.Struct("=Ii20xIQ24x").pack_into
(_NOP,) = struct.unpack("=Q", struct.pack("=BBHi", uapi.IORING_OP_NOP, 0, 0, -1))
(_POLL,) = struct.unpack("=I", struct.pack("=BBH", uapi.IORING_OP_POLL_ADD, 0, 0))
_pack_short128 = struct.Struct("=BBHi24xQ88x").pack_into
# The command of a URING_CMD runs from byte 48 to the end of the slot.
_pack_cmd = struct.Struct("=BBHiQQIIQHHI16s").pack_into
_pack_cmd128 = struct.Struct("=BBHiQQIIQHHI80s").pack_into
_U64 = 0xFFFFFFFFFFFFFFFF
_U32 = 0xFFFFFFFF
_AT_FDCWD = AT_FDCWD & _U32
_BIG_ENDIAN = sys.byteorder == "big"
_ALLOC = uapi.IORING_FILE_INDEX_ALLOC


def poll_mask(mask: int) -> int:
    """Order the halves of a poll mask as the kernel expects them.

    Args: mask of select.POLL* or EPOLL* bits, 32 bits wide.
    Returns: the mask itself; on a big-endian machine with its 16-bit halves swapped.
    Mirrors: liburing __io_uring_prep_poll_mask
    Source: Linux 6.12 io_uring/poll.c io_poll_parse_events
    """
    if _BIG_ENDIAN:
        _unsigned(mask)
        return (mask >> 16) | (mask & 0xFFFF) << 16
    return mask


def _pair(first: int, second: int) -> int:
    """Put two 32-bit members, in the order of the header, into the 64 bits that they share."""
    if (first | second) >> 32:
        raise struct.error(f"{first} and {second} do not both fit into 32 bits")
    return first << 32 | second if _BIG_ENDIAN else second << 32 | first


def _slot(file_index: int, alloc: bool = True) -> int:
    """Number a direct descriptor as the SQE does: from 1, because 0 means an ordinary descriptor."""
    if alloc and file_index in (_ALLOC, -1):
        return _ALLOC
    if not 0 <= file_index < _ALLOC - 1:
        raise struct.error(f"file_index={file_index} is not a slot of a table of registered files")
    return file_index + 1


def _int(value: int) -> int:
    """Check a value that is an int in C, such as a descriptor, but is stored in a wider field."""
    if not -0x80000000 <= value <= 0x7FFFFFFF:
        raise struct.error(f"{value} does not fit into a 32-bit int")
    return value


def _unsigned(value: int) -> int:
    """Check a value that has 32 bits in C and in the kernel, but is stored in a 64-bit field."""
    if not 0 <= value <= _U32:
        raise struct.error(f"{value} does not fit into 32 bits")
    return value


# ------------------------------------------------------------------------------------------------------
# Many SQEs at once


class Block:
    """SQEs of 64 bytes that are prepared once, changed by field, and queued repeatedly.

        block = Block(32, prep_read, fd, address, 4096, 0)
        block.set("addr", [address + i * 4096 for i in range(32)])
        block.set("off", offsets)
        ring.push(block.memory)

    Setting a field of 256 SQEs costs a tenth of preparing them one by one, and pushing them costs two copies.
    The user_data are 0, 1, 2 ... until they are set.
    """

    __slots__ = ("_fields", "_numbering", "count", "memory")

    def __init__(self, count: int, prep: Any = None, *arguments: int, **options: int) -> None:
        """Prepare all SQEs identically.

        Args: count SQEs, at most as many as a ring can have; prep is a function of this file, arguments and
            options are its own, without user_data; without prep all bytes are 0, for the caller to fill: see
            sqe().
        Raises: ValueError for another count.
        """
        if not 0 <= count <= 32768:
            raise ValueError(f"a block of {count} SQEs: a ring has at most 32768")
        self.count = count
        one = bytearray(64)
        if prep is not None:
            prep(one, *arguments, **options)
        #: The argument for ring.push().
        self.memory = one * count
        self._fields: dict[str, tuple[str, memoryview]] = {}
        self._numbering: Any = None  # see _number()
        self.set("user_data", range(count))

    def set(self, name: str, values: Iterable[int]) -> None:
        """Assign to one member of the SQEs, from the first SQE on.

        Args: name is a member of struct io_uring_sqe, such as fd, off, addr, len, user_data; values has a
            number for each SQE, or for the first few of them.
        Raises: TypeError for an unknown name; OverflowError for a value that the member cannot hold;
            ValueError for more values than SQEs. Nothing is changed then.
        """
        format, column = self._fields.get(name) or self._column(name)
        # array() interprets bytes (on PyPy any memory) as raw cells, not as numbers.
        memory = isinstance(values, (bytes, bytearray, memoryview))
        cells = array(format, list(values) if memory else values)
        if len(cells) > self.count:
            raise ValueError(f"{len(cells)} values of {name} for a block of {self.count} SQEs")
        column[: len(cells)] = memoryview(cells)

    def _number(self, number: int, count: int) -> None:
        """Set user_data of the first to number << 16, and count up from there: a third of set()'s time."""
        if self._numbering is None:
            low, middle, high = (19, 18, 8) if _BIG_ENDIAN else (16, 17, 9)
            halves, words = memoryview(self.memory).cast("H"), memoryview(self.memory).cast("I")
            indices = memoryview(array("H", range(self.count)))
            self._numbering = halves[low::32], halves[middle::32], words[high::16], indices
        lows, middles, highs, indices = self._numbering
        lows[:count] = indices[:count]
        middles[:count] = memoryview(array("H", [number & 0xFFFF]) * count)
        highs[:count] = memoryview(array("I", [number >> 16]) * count)

    def first(self, count: int) -> memoryview:
        """Return the first SQEs, for ring.push().

        Args: count from 0 to the number of SQEs.
        Lifetime: none; push copies.
        """
        if not 0 <= count <= self.count:
            raise ValueError(f"{count} SQEs of a block of {self.count}")
        return memoryview(self.memory)[: count * 64]

    def _column(self, name: str) -> tuple[str, memoryview]:
        """View one member of all SQEs, 64 bytes apart."""
        field = uapi.io_uring_sqe.fields.get(name)
        if field is None or not isinstance(field.format, str) or len(field.format) != 1:
            raise TypeError(f"struct io_uring_sqe has no member {name!r} that holds one number")
        first, step = field.offset // field.size, 64 // field.size
        cells: Any = memoryview(self.memory).cast(field.format)  # type: ignore[call-overload]
        self._fields[name] = found = field.format, cells[first::step]
        return found

    def sqe(self, index: int) -> memoryview:
        """Return one SQE, for a prep function or set_fields().

        Args: index from 0 to count - 1.
        Returns: a writable view of 64 bytes.
        """
        if not 0 <= index < self.count:
            raise IndexError(f"SQE {index} of a block of {self.count}")
        return memoryview(self.memory)[index * 64 : index * 64 + 64]

    def __len__(self) -> int:
        """Count the SQEs."""
        return self.count


# ------------------------------------------------------------------------------------------------------
# Changing an SQE that is already filled. C assigns to the members of its struct; these do the same.


def set_fields(sqe: Sqe, **fields: int) -> None:
    """Assign to members of an SQE, as C does with ``sqe->ioprio = ...``.

    Args: ints by their names in struct io_uring_sqe, such as ioprio, personality, addr3, write_stream.
    Raises: TypeError for an unknown name; struct.error for a value that the member cannot hold.
    """
    for name, value in fields.items():
        field = uapi.io_uring_sqe.fields.get(name)
        if field is None or not isinstance(field.format, str) or len(field.format) != 1:
            raise TypeError(f"struct io_uring_sqe has no member {name!r} that holds one number")
        # Packed first, because pack_into clears the bytes even if the value does not fit.
        sqe[field.offset : field.offset + field.size] = struct.pack("=" + field.format, value)


def sqe_set_data64(sqe: Sqe, data: int) -> None:
    """Set the user_data, which the CQE returns.

    Args: data is 64 bits wide.
    Mirrors: liburing io_uring_sqe_set_data64
    """
    set_fields(sqe, user_data=data)


def sqe_set_data(sqe: Sqe, data: int) -> None:
    """Set the user_data; a pointer is an int here.

    Args: data is 64 bits wide.
    Mirrors: liburing io_uring_sqe_set_data
    """
    set_fields(sqe, user_data=data)


def sqe_set_flags(sqe: Sqe, flags: int) -> None:
    """Set the flags, replacing those that a prep function has set.

    Args: flags is a mask of IOSQE_*.
    Mirrors: liburing io_uring_sqe_set_flags
    """
    set_fields(sqe, flags=flags)


def sqe_set_buf_group(sqe: Sqe, bgid: int) -> None:
    """Set the group of provided buffers from which IOSQE_BUFFER_SELECT takes one.

    Args: bgid is 16 bits wide.
    Since: 5.7
    Mirrors: liburing io_uring_sqe_set_buf_group
    """
    set_fields(sqe, buf_group=bgid)


def set_target_fixed_file(sqe: Sqe, file_index: int) -> None:
    """Make an operation that opens a file store it in a slot of the registered files.

    Args: file_index counts from 0.
    Since: 5.15
    Mirrors: liburing __io_uring_set_target_fixed_file
    """
    set_fields(sqe, file_index=_slot(file_index, False))


def initialize_sqe(sqe: Sqe) -> None:
    """Clear the fields that liburing's prep functions leave unset; ours need no such step.

    Mirrors: liburing io_uring_initialize_sqe
    """
    for offset, size in ((1, 3), (28, 4), (40, 24)):
        sqe[offset : offset + size] = bytes(size)


def prep_send_set_addr(sqe: Sqe, dest_addr: int, addr_len: int) -> None:
    """Set the destination of a send that is already filled.

    Args: dest_addr is the address of a sockaddr (buffers.sockaddr); addr_len in bytes.
    CQE: as for the send.
    Lifetime: until submit returns; until the final CQE on an SQPOLL ring.
    Since: 6.0 with SEND_ZC, 6.1 with SEND
    Mirrors: liburing io_uring_prep_send_set_addr
    """
    set_fields(sqe, addr2=dest_addr, addr_len=addr_len)


# ------------------------------------------------------------------------------------------------------
# The memory of a request

# Places in _SQE
_FLAGS, _IOPRIO, _FD, _OFF, _ADDR, _LEN, _OP_FLAGS, _FILE_INDEX, _ADDR3 = 1, 2, 3, 4, 5, 6, 7, 11, 12
_IOVEC = struct.calcsize("@PN")
_MSGHDR = struct.calcsize("@PiPNPNI0P")
_IN, _OUT = False, True
# The memory of each operation: the member with the address; the member that counts the items there, or -1;
# the bytes of each item, or in total; whether the kernel writes there, or to where an iovec there points. Of
# a string one byte is certain, of an address to be filled none, of an epoll_event the bytes that all machines
# have.
_PATH: tuple[tuple[int, int, int, bool], ...] = ((_ADDR, -1, 1, _IN),)
_TWO_PATHS = (*_PATH, (_OFF, -1, 1, _IN))
_TIME = ((_ADDR, -1, 16, _IN),)
_NEW_TIME = ((_OFF, -1, 16, _IN),)
_MEMORY: dict[int, tuple[tuple[int, int, int, bool], ...]] = {
    uapi.IORING_OP_READ: ((_ADDR, _LEN, 1, _OUT),),
    uapi.IORING_OP_WRITE: ((_ADDR, _LEN, 1, _IN),),
    uapi.IORING_OP_READV: ((_ADDR, _LEN, _IOVEC, _OUT),),
    uapi.IORING_OP_WRITEV: ((_ADDR, _LEN, _IOVEC, _IN),),
    uapi.IORING_OP_READ_FIXED: ((_ADDR, _LEN, 1, _OUT),),
    uapi.IORING_OP_WRITE_FIXED: ((_ADDR, _LEN, 1, _IN),),
    uapi.IORING_OP_READV_FIXED: ((_ADDR, _LEN, _IOVEC, _OUT),),
    uapi.IORING_OP_WRITEV_FIXED: ((_ADDR, _LEN, _IOVEC, _IN),),
    uapi.IORING_OP_PIPE: ((_ADDR, -1, 8, _OUT),),
    uapi.IORING_OP_EPOLL_CTL: ((_ADDR, -1, 12, _IN),),
    uapi.IORING_OP_EPOLL_WAIT: ((_ADDR, _LEN, 12, _OUT),),
    uapi.IORING_OP_TIMEOUT: _TIME,
    uapi.IORING_OP_TIMEOUT_REMOVE: _NEW_TIME,
    uapi.IORING_OP_LINK_TIMEOUT: _TIME,
    uapi.IORING_OP_BIND: ((_ADDR, _OFF, 1, _IN),),
    uapi.IORING_OP_CONNECT: ((_ADDR, _OFF, 1, _IN),),
    uapi.IORING_OP_ACCEPT: ((_ADDR, -1, 0, _OUT), (_OFF, -1, 4, _OUT)),
    uapi.IORING_OP_SEND: ((_ADDR, _LEN, 1, _IN), (_OFF, _FILE_INDEX, 1, _IN)),
    uapi.IORING_OP_SEND_ZC: ((_ADDR, _LEN, 1, _IN), (_OFF, _FILE_INDEX, 1, _IN)),
    uapi.IORING_OP_SENDMSG: ((_ADDR, -1, _MSGHDR, _IN),),
    uapi.IORING_OP_SENDMSG_ZC: ((_ADDR, -1, _MSGHDR, _IN),),
    uapi.IORING_OP_RECV: ((_ADDR, _LEN, 1, _OUT),),
    uapi.IORING_OP_RECVMSG: ((_ADDR, -1, _MSGHDR, _OUT),),
    uapi.IORING_OP_PROVIDE_BUFFERS: ((_ADDR, _LEN, 1, _OUT),),
    uapi.IORING_OP_OPENAT: _PATH,
    uapi.IORING_OP_OPENAT2: (*_PATH, (_OFF, _LEN, 1, _IN)),
    uapi.IORING_OP_FILES_UPDATE: ((_ADDR, _LEN, 4, _IN),),
    uapi.IORING_OP_MADVISE: ((_ADDR, _LEN, 1, _IN),),
    uapi.IORING_OP_STATX: (*_PATH, (_OFF, -1, uapi.statx.size, _OUT)),
    uapi.IORING_OP_GETXATTR: (*_PATH, (_OFF, _LEN, 1, _OUT), (_ADDR3, -1, 1, _IN)),
    uapi.IORING_OP_SETXATTR: (*_PATH, (_OFF, _LEN, 1, _IN), (_ADDR3, -1, 1, _IN)),
    uapi.IORING_OP_FGETXATTR: (*_PATH, (_OFF, _LEN, 1, _OUT)),
    uapi.IORING_OP_FSETXATTR: (*_PATH, (_OFF, _LEN, 1, _IN)),
    uapi.IORING_OP_UNLINKAT: _PATH,
    uapi.IORING_OP_RENAMEAT: _TWO_PATHS,
    uapi.IORING_OP_MKDIRAT: _PATH,
    uapi.IORING_OP_SYMLINKAT: _TWO_PATHS,
    uapi.IORING_OP_LINKAT: _TWO_PATHS,
    uapi.IORING_OP_WAITID: ((_OFF, -1, 128, _OUT),),
    uapi.IORING_OP_FUTEX_WAKE: ((_ADDR, -1, 4, _IN),),
    uapi.IORING_OP_FUTEX_WAIT: ((_ADDR, -1, 4, _IN),),
    uapi.IORING_OP_FUTEX_WAITV: ((_ADDR, _LEN, uapi.futex_waitv.size, _IN),),
    uapi.IORING_OP_URING_CMD: (),
}
_SOCKET_COMMANDS: dict[int, tuple[tuple[int, int, int, bool], ...]] = {
    uapi.SOCKET_URING_OP_GETSOCKOPT: ((_ADDR3, _FILE_INDEX, 1, _OUT),),
    uapi.SOCKET_URING_OP_SETSOCKOPT: ((_ADDR3, _FILE_INDEX, 1, _IN),),
    uapi.SOCKET_URING_OP_GETSOCKNAME: ((_ADDR, -1, 0, _OUT), (_ADDR3, -1, 4, _OUT)),
}


def memory_of(sqe: Sqe, registered: bool = False) -> list[tuple[int, int, bool]]:
    """List the memory to which a request refers.

    Args: sqe is filled; registered includes the buffers that are registered with the ring.
    Returns: (address, nbytes, written) for each address that is not 0: the minimal number of bytes that are
        used, and whether the kernel writes there, or to where an iovec there points. Of driver commands
        only those of sockets are known.
    """
    op = sqe[0]
    rows = _MEMORY.get(op)
    if rows is None:
        return []
    cells = list(_SQE.unpack_from(sqe))
    if op in (uapi.IORING_OP_READ_FIXED, uapi.IORING_OP_WRITE_FIXED):
        rows = rows if registered else ()
    elif op in (uapi.IORING_OP_READ, uapi.IORING_OP_RECV, uapi.IORING_OP_SEND, uapi.IORING_OP_SEND_ZC):
        ioprio = cells[_IOPRIO] if op != uapi.IORING_OP_READ else 0  # in READ it is a priority
        fixed = ioprio & uapi.IORING_RECVSEND_FIXED_BUF
        if cells[_FLAGS] & uapi.IOSQE_BUFFER_SELECT or (fixed and not registered):
            rows = rows[1:]
        elif ioprio & uapi.IORING_SEND_VECTORIZED and op != uapi.IORING_OP_RECV:
            rows = ((_ADDR, _LEN, _IOVEC, _IN), *rows[1:])
        if _BIG_ENDIAN:
            cells[_FILE_INDEX] >>= 16  # addr_len of 16 bits; see _half()
    elif op == uapi.IORING_OP_PROVIDE_BUFFERS:
        cells[_LEN] *= cells[_FD]
    elif op == uapi.IORING_OP_MADVISE:
        cells[_LEN] = cells[_LEN] or cells[_OFF]
    elif op == uapi.IORING_OP_TIMEOUT_REMOVE and not cells[_OP_FLAGS] & uapi.IORING_TIMEOUT_UPDATE_MASK:
        return []
    elif op == uapi.IORING_OP_URING_CMD:
        rows = _SOCKET_COMMANDS.get(cells[_OFF] >> 32 if _BIG_ENDIAN else cells[_OFF] & _U32, ())
    if rows in (_TIME, _NEW_TIME) and cells[_OP_FLAGS] & uapi.IORING_TIMEOUT_IMMEDIATE_ARG:
        return []
    return [
        (cells[address], size if count < 0 else cells[count] * size, written)
        for address, count, size, written in rows
        if cells[address]
    ]


# ------------------------------------------------------------------------------------------------------
# The bytes that a prep function writes, learned by trying it: no table repeats the functions below

# These write any operation that their caller chooses, or change an SQE that is already filled.
_GENERAL = ("prep_rw", "prep_uring_cmd_op", "prep_send_set_addr")
_WIDEST = tuple((1 << bits) - 1 for bits in (64, 63, 32, 31, 16, 8))


def fillers() -> dict[str, Callable[..., Any]]:
    """List the functions of this file that fill an SQE for one operation.

    Returns: the functions by their names.
    """
    return {
        name: value
        for name, value in list(globals().items())  # PyPy: module dictionaries change while they are read
        if name.startswith("prep_") and callable(value) and name not in _GENERAL
    }


def parameters(prep: Callable[..., None]) -> tuple[str, ...]:
    """Name the parameters of a prep function that follow the SQE.

    Args: prep is a Python function.
    """
    code = prep.__code__
    return code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]


def filled(prep: Callable[..., None], **arguments: Any) -> bytes | None:
    """Fill an SQE, with 0 for each parameter that is not given.

    Args: prep is a function of this file; arguments are its own, by name.
    Returns: 128 bytes; None when prep rejects the arguments.
    """
    sqe = bytearray(128)
    zeros = {name: b"" if name == "cmd" else 0 for name in parameters(prep)}
    try:
        prep(sqe, **{**zeros, **arguments})
    except (struct.error, ValueError, OverflowError, TypeError):
        return None
    return bytes(sqe)


@functools.lru_cache(None)
def written(prep: Callable[..., None]) -> tuple[bytes, dict[str, tuple[int, ...]]]:
    """Find which bytes of an SQE each argument of a prep function affects.

    Args: prep is a function of this file.
    Returns: the SQE with 0 for every argument, whose nonzero bytes the function itself sets; and per
        parameter the positions of the bytes that its values change.
    Raises: ValueError for a function that rejects zeros.
    """
    base = filled(prep)
    if base is None:
        raise ValueError(f"{prep.__name__}() rejects zeros")
    places = {}
    for name in parameters(prep):
        values = (b"\xff" * (80 if "128" in prep.__name__ else 16),) if name == "cmd" else _WIDEST
        changed = 0
        for image in (filled(prep, **{name: value}) for value in values):
            changed |= int.from_bytes(image or base, "little") ^ int.from_bytes(base, "little")
        places[name] = tuple(i for i in range(128) if changed >> i * 8 & 0xFF)
    return base, places


@functools.lru_cache(None)
def memory_arguments(prep: Any) -> tuple[tuple[int, int | None, int, bool], ...] | None:
    """Tell which arguments of a prep function are addresses.

    Args: prep is any callable.
    Returns: for each address (its position after the SQE, the position of the argument that counts the items,
        or None, the bytes of each item, or in total, and whether the kernel writes there); None for anything
        but a function of this file, and for prep_rw(), whose operation is an argument.
    """
    code: Any = getattr(prep, "__code__", None)
    if code is None or globals().get(getattr(prep, "__name__", "")) is not prep or prep is prep_rw:
        return None
    positional = parameters(prep)[: code.co_argcount - 1]
    names = [name for name in positional if name not in ("user_data", "flags")]
    found: list[tuple[int, int | None, int, bool]] = []
    for place, name in enumerate(names):
        for size, kernel_writes in _marked(prep, {name: _MARK}):
            counter = None
            for i, other in enumerate(names):
                more = _marked(prep, {other: 1, name: _MARK})
                if more and more[0][0] > size:
                    counter, size = i, more[0][0]
            found.append((place, counter, size, kernel_writes))
    return tuple(found)


_MARK = 1 << 40  # too wide for any member but addresses, offsets and user_data


def _marked(prep: Any, arguments: dict[str, int]) -> list[tuple[int, bool]]:
    """Find the memory that a request uses at the mark; the other arguments are 0."""
    if prep is prep_cmd_sock:
        arguments = {"cmd_op": uapi.SOCKET_URING_OP_SETSOCKOPT, **arguments}
    sqe = filled(prep, **arguments)
    if sqe is None:
        return []
    return [(nbytes, writes) for where, nbytes, writes in memory_of(bytearray(sqe), True) if where == _MARK]


# ------------------------------------------------------------------------------------------------------
# Any operation, and none


def prep_rw(
    sqe: Sqe, op: int, fd: int, addr: int, length: int, offset: int, user_data: int = 0, flags: int = 0,
    *, op_flags: int = 0, ioprio: int = 0, buf_index: int = 0, personality: int = 0, file_index: int = 0,
) -> None:  # fmt: skip
    """Fill the fields that most operations share.

    Args: op is an IORING_OP_*; offset is 64 bits, and -1 is the file position; op_flags is the field whose
        name and meaning depend on the operation (rw_flags, msg_flags, ...).
    CQE: depends on the operation.
    Raises: struct.error for a value that its field cannot hold.
    Mirrors: liburing io_uring_prep_rw, plus the fields that it leaves to later assignments
    """
    if offset == -1:
        offset = _U64
    _pack(
        sqe, 0, op, flags, ioprio, fd, offset, addr, length, op_flags, user_data, buf_index,
        personality, file_index, 0, 0,
    )  # fmt: skip


def prep_nop(sqe: Sqe, user_data: int = 0, flags: int = 0) -> None:
    """Do nothing, and complete.

    CQE: res is 0; with IORING_NOP_INJECT_RESULT in nop_flags (6.10) the value of len.
    Mirrors: liburing io_uring_prep_nop
    """
    # Shaped by speed (bench/run.py --only "batch of 256"), as prep_poll_add.
    if flags != 0:
        _pack_short(sqe, 0, uapi.IORING_OP_NOP, flags, 0, -1, user_data)
    else:
        _pack_nop(sqe, 0, _NOP, user_data)


def prep_nop128(sqe: Sqe, user_data: int = 0, flags: int = 0) -> None:
    """Do nothing, in a slot of 128 bytes.

    Args: sqe is from get_sqe128().
    CQE: res is 0.
    Since: 6.19
    Mirrors: liburing io_uring_prep_nop128
    """
    _pack_short128(sqe, 0, uapi.IORING_OP_NOP128, flags, 0, -1, user_data)


# ------------------------------------------------------------------------------------------------------
# Reading and writing


def prep_read(
    sqe: Sqe, fd: int, buf: int, nbytes: int, offset: int, user_data: int = 0, flags: int = 0,
    *, rw_flags: int = 0, ioprio: int = 0, buf_group: int = 0, personality: int = 0,
) -> None:  # fmt: skip
    """Read from a file.

    Args: buf is an address; nbytes in bytes; offset in bytes, -1 for the file position, pipes and sockets;
        rw_flags is a mask of RWF_*; buf_group goes with IOSQE_BUFFER_SELECT.
    CQE: res is the number of bytes, 0 at end of file, or a negative errno.
    Lifetime: until the final CQE.
    Since: 5.6
    Mirrors: liburing io_uring_prep_read
    """
    if offset == -1:
        offset = _U64
    _pack(
        sqe, 0, uapi.IORING_OP_READ, flags, ioprio, fd, offset, buf, nbytes, rw_flags, user_data,
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
    if offset == -1:
        offset = _U64
    _pack(
        sqe, 0, uapi.IORING_OP_WRITE, flags, ioprio, fd, offset, buf, nbytes, rw_flags, user_data, 0,
        personality, 0, 0, 0,
    )  # fmt: skip


def prep_readv(
    sqe: Sqe, fd: int, iovecs: int, nr_vecs: int, offset: int, user_data: int = 0, flags: int = 0
) -> None:
    """Read from a file into several buffers.

    Args: iovecs is the address of nr_vecs iovecs (buffers.iovec); offset as in prep_read.
    CQE: res is the number of bytes over all buffers, or a negative errno.
    Lifetime: until the final CQE; the iovecs, except on an SQPOLL ring or before 5.5, until submit returns.
    Mirrors: liburing io_uring_prep_readv
    """
    if offset == -1:
        offset = _U64
    _pack(
        sqe, 0, uapi.IORING_OP_READV, flags, 0, fd, offset, iovecs, nr_vecs, 0, user_data,
        0, 0, 0, 0, 0,
    )  # fmt: skip


def prep_readv2(
    sqe: Sqe, fd: int, iovecs: int, nr_vecs: int, offset: int, rw_flags: int, user_data: int = 0,
    flags: int = 0,
) -> None:  # fmt: skip
    """Read from a file into several buffers, with the flags of preadv2(2).

    Args: rw_flags is a mask of RWF_*; the others as in prep_readv.
    CQE: as prep_readv; -EAGAIN with RWF_NOWAIT if it would block.
    Lifetime: until the final CQE; the iovecs, except on an SQPOLL ring or before 5.5, until submit returns.
    Mirrors: liburing io_uring_prep_readv2
    """
    if offset == -1:
        offset = _U64
    _pack(
        sqe, 0, uapi.IORING_OP_READV, flags, 0, fd, offset, iovecs, nr_vecs, rw_flags, user_data,
        0, 0, 0, 0, 0,
    )  # fmt: skip


def prep_writev(
    sqe: Sqe, fd: int, iovecs: int, nr_vecs: int, offset: int, user_data: int = 0, flags: int = 0
) -> None:
    """Write several buffers to a file.

    Args: as prep_readv.
    CQE: res is the number of bytes over all buffers, or a negative errno.
    Lifetime: until the final CQE; the iovecs, except on an SQPOLL ring or before 5.5, until submit returns.
    Mirrors: liburing io_uring_prep_writev
    """
    if offset == -1:
        offset = _U64
    _pack(
        sqe, 0, uapi.IORING_OP_WRITEV, flags, 0, fd, offset, iovecs, nr_vecs, 0, user_data,
        0, 0, 0, 0, 0,
    )  # fmt: skip


def prep_writev2(
    sqe: Sqe, fd: int, iovecs: int, nr_vecs: int, offset: int, rw_flags: int, user_data: int = 0,
    flags: int = 0,
) -> None:  # fmt: skip
    """Write several buffers to a file, with the flags of pwritev2(2).

    Args: rw_flags is a mask of RWF_*; the others as in prep_readv.
    CQE: as prep_writev; -EAGAIN with RWF_NOWAIT if it would block.
    Lifetime: until the final CQE; the iovecs, except on an SQPOLL ring or before 5.5, until submit returns.
    Mirrors: liburing io_uring_prep_writev2
    """
    if offset == -1:
        offset = _U64
    _pack(
        sqe, 0, uapi.IORING_OP_WRITEV, flags, 0, fd, offset, iovecs, nr_vecs, rw_flags, user_data,
        0, 0, 0, 0, 0,
    )  # fmt: skip


def prep_read_fixed(
    sqe: Sqe, fd: int, buf: int, nbytes: int, offset: int, buf_index: int, user_data: int = 0,
    flags: int = 0, *, rw_flags: int = 0, ioprio: int = 0,
) -> None:  # fmt: skip
    """Read from a file into a registered buffer.

    Args: buf is an address inside the registered buffer number buf_index; the others as in prep_read.
    CQE: res is the number of bytes, or a negative errno; -EFAULT for an address outside the buffer.
    Lifetime: until the final CQE.
    Mirrors: liburing io_uring_prep_read_fixed
    """
    if offset == -1:
        offset = _U64
    _pack(
        sqe, 0, uapi.IORING_OP_READ_FIXED, flags, ioprio, fd, offset, buf, nbytes, rw_flags,
        user_data, buf_index, 0, 0, 0, 0,
    )  # fmt: skip


def prep_write_fixed(
    sqe: Sqe, fd: int, buf: int, nbytes: int, offset: int, buf_index: int, user_data: int = 0,
    flags: int = 0, *, rw_flags: int = 0, ioprio: int = 0,
) -> None:  # fmt: skip
    """Write a registered buffer, or a part of it, to a file.

    Args: as prep_read_fixed.
    CQE: res is the number of bytes, or a negative errno; -EFAULT for an address outside the buffer.
    Lifetime: until the final CQE.
    Mirrors: liburing io_uring_prep_write_fixed
    """
    if offset == -1:
        offset = _U64
    _pack(
        sqe, 0, uapi.IORING_OP_WRITE_FIXED, flags, ioprio, fd, offset, buf, nbytes, rw_flags,
        user_data, buf_index, 0, 0, 0, 0,
    )  # fmt: skip


def prep_readv_fixed(
    sqe: Sqe, fd: int, iovecs: int, nr_vecs: int, offset: int, rw_flags: int, buf_index: int,
    user_data: int = 0, flags: int = 0,
) -> None:  # fmt: skip
    """Read from a file into several parts of one registered buffer.

    Args: iovecs is the address of nr_vecs iovecs that point into the registered buffer number buf_index;
        rw_flags is a mask of RWF_*.
    CQE: res is the number of bytes, or a negative errno.
    Lifetime: until the final CQE; the iovecs, except on an SQPOLL ring, until submit returns.
    Since: 6.15
    Mirrors: liburing io_uring_prep_readv_fixed
    """
    if offset == -1:
        offset = _U64
    _pack(
        sqe, 0, uapi.IORING_OP_READV_FIXED, flags, 0, fd, offset, iovecs, nr_vecs, rw_flags,
        user_data, buf_index, 0, 0, 0, 0,
    )  # fmt: skip


def prep_writev_fixed(
    sqe: Sqe, fd: int, iovecs: int, nr_vecs: int, offset: int, rw_flags: int, buf_index: int,
    user_data: int = 0, flags: int = 0,
) -> None:  # fmt: skip
    """Write several parts of one registered buffer to a file.

    Args: as prep_readv_fixed.
    CQE: res is the number of bytes, or a negative errno.
    Lifetime: until the final CQE; the iovecs, except on an SQPOLL ring, until submit returns.
    Since: 6.15
    Mirrors: liburing io_uring_prep_writev_fixed
    """
    if offset == -1:
        offset = _U64
    _pack(
        sqe, 0, uapi.IORING_OP_WRITEV_FIXED, flags, 0, fd, offset, iovecs, nr_vecs, rw_flags,
        user_data, buf_index, 0, 0, 0, 0,
    )  # fmt: skip


def prep_read_multishot(
    sqe: Sqe, fd: int, nbytes: int, offset: int, buf_group: int, user_data: int = 0, flags: int = 0
) -> None:
    """Read repeatedly, each time into a provided buffer, whenever data is available.

    Args: fd is a file that can be polled, such as a pipe or a tty; nbytes limits each read, 0 means the
        buffer's size; offset is -1; buf_group is a group of provided buffers; IOSQE_BUFFER_SELECT is added.
    CQE: one for each read, res is the number of bytes and the buffer id is in flags; the last is the one
        without IORING_CQE_F_MORE: -ENOBUFS when the group is empty, 0 at end of file, -EBADFD for a file that
        cannot be polled.
    Lifetime: none; the buffers belong to the group.
    Since: 6.7
    Mirrors: liburing io_uring_prep_read_multishot
    """
    if offset == -1:
        offset = _U64
    _pack(
        sqe, 0, uapi.IORING_OP_READ_MULTISHOT, flags | uapi.IOSQE_BUFFER_SELECT, 0, fd, offset, 0,
        nbytes, 0, user_data, buf_group, 0, 0, 0, 0,
    )  # fmt: skip


def prep_splice(
    sqe: Sqe, fd_in: int, off_in: int, fd_out: int, off_out: int, nbytes: int, splice_flags: int,
    user_data: int = 0, flags: int = 0,
) -> None:  # fmt: skip
    """Move bytes between two descriptors, one of which is a pipe.

    Args: off_in and off_out in bytes, -1 for a pipe or the file position; nbytes in bytes; splice_flags is a
        mask of os.SPLICE_F_* and SPLICE_F_FD_IN_FIXED. IOSQE_FIXED_FILE applies to fd_out.
    CQE: res is the number of bytes, 0 at end of file, or a negative errno.
    Since: 5.7
    Mirrors: liburing io_uring_prep_splice
    """
    if off_out == -1:
        off_out = _U64
    if off_in == -1:
        off_in = _U64
    fd_in = _int(fd_in) & _U32
    _pack(
        sqe, 0, uapi.IORING_OP_SPLICE, flags, 0, fd_out, off_out, off_in, nbytes,
        splice_flags, user_data, 0, 0, fd_in, 0, 0,
    )  # fmt: skip


def prep_tee(
    sqe: Sqe, fd_in: int, fd_out: int, nbytes: int, splice_flags: int, user_data: int = 0, flags: int = 0
) -> None:
    """Copy bytes from one pipe to another, without consuming them.

    Args: as prep_splice.
    CQE: res is the number of bytes, or a negative errno.
    Since: 5.8
    Mirrors: liburing io_uring_prep_tee
    """
    fd_in = _int(fd_in) & _U32
    _pack(
        sqe, 0, uapi.IORING_OP_TEE, flags, 0, fd_out, 0, 0, nbytes, splice_flags, user_data,
        0, 0, fd_in, 0, 0,
    )  # fmt: skip


def prep_pipe(sqe: Sqe, fds: int, pipe_flags: int, user_data: int = 0, flags: int = 0) -> None:
    """Create a pipe.

    Args: fds is the address of two ints, which are filled with the read end and the write end; pipe_flags is
        a mask of os.O_CLOEXEC, os.O_NONBLOCK, os.O_DIRECT.
    CQE: res is 0, or a negative errno.
    Lifetime: until the final CQE.
    Since: 6.16
    Mirrors: liburing io_uring_prep_pipe
    """
    _pack(sqe, 0, uapi.IORING_OP_PIPE, flags, 0, 0, 0, fds, 0, pipe_flags, user_data, 0, 0, 0, 0, 0)


def prep_pipe_direct(
    sqe: Sqe, fds: int, pipe_flags: int, file_index: int, user_data: int = 0, flags: int = 0
) -> None:
    """Create a pipe whose ends are direct descriptors.

    Args: file_index is the slot of the read end, the write end takes the next one; or
        IORING_FILE_INDEX_ALLOC, and fds is filled with the slots.
    CQE: res is 0, or a negative errno.
    Lifetime: until the final CQE.
    Since: 6.16
    Mirrors: liburing io_uring_prep_pipe_direct
    """
    _pack(
        sqe, 0, uapi.IORING_OP_PIPE, flags, 0, 0, 0, fds, 0, pipe_flags, user_data,
        0, 0, _slot(file_index), 0, 0,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------
# Waiting for readiness


def prep_poll_add(sqe: Sqe, fd: int, mask: int, user_data: int = 0, flags: int = 0) -> None:
    """Wait once until a descriptor is ready.

    Args: mask of select.POLL* bits; ERR and HUP are always watched, and so is RDHUP, which then completes the
        request even if it was not requested.
    CQE: res is the mask of events that are true, or -EBADF, -ECANCELED; 5.10 also sets bits that were not
        requested.
    Lifetime: none; the open file is held until the final CQE.
    Since: 5.1; masks above 16 bits 5.9
    Mirrors: liburing io_uring_prep_poll_add
    """
    if _BIG_ENDIAN:
        mask = poll_mask(mask)
    if flags != 0:
        _pack_poll(sqe, 0, uapi.IORING_OP_POLL_ADD, flags, 0, fd, mask, user_data)
    else:
        _pack_plain_poll(sqe, 0, _POLL, fd, mask, user_data)


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
    """Remove a poll.

    Args: target is the poll's user_data.
    CQE: res is 0 (the poll completes with -ECANCELED), -ENOENT or -EALREADY (the poll completes with its
        event).
    Mirrors: liburing io_uring_prep_poll_remove
    """
    _pack(sqe, 0, uapi.IORING_OP_POLL_REMOVE, flags, 0, -1, 0, target, 0, 0, user_data, 0, 0, 0, 0, 0)


def prep_poll_update(
    sqe: Sqe, target: int, new_user_data: int, mask: int, update: int, user_data: int = 0, flags: int = 0
) -> None:
    """Change the events or the user_data of a poll.

    Args: target is the poll's user_data; update is a mask of IORING_POLL_UPDATE_EVENTS,
        IORING_POLL_UPDATE_USER_DATA and IORING_POLL_ADD_MULTI.
    CQE: res is 0, -ENOENT or -EALREADY. Many kernels before 2026 lose a poll that is updated to events that
        are already true (gates.py, lost-poll-update).
    Since: 5.13
    Mirrors: liburing io_uring_prep_poll_update
    """
    _pack(
        sqe, 0, uapi.IORING_OP_POLL_REMOVE, flags, 0, -1, new_user_data, target, update, poll_mask(mask),
        user_data, 0, 0, 0, 0, 0,
    )  # fmt: skip


def prep_epoll_ctl(
    sqe: Sqe, epfd: int, fd: int, op: int, ev: int, user_data: int = 0, flags: int = 0
) -> None:
    """Change the interest list of an epoll descriptor.

    Args: op is 1 (add), 2 (delete) or 3 (modify); ev is the address of a struct epoll_event
        (buffers.epoll_event), or 0 for delete.
    CQE: res is 0, or a negative errno.
    Lifetime: until submit returns; until the final CQE on an SQPOLL ring.
    Since: 5.6
    Mirrors: liburing io_uring_prep_epoll_ctl
    """
    fd = _int(fd) & _U32
    _pack(sqe, 0, uapi.IORING_OP_EPOLL_CTL, flags, 0, epfd, fd, ev, op, 0, user_data, 0, 0, 0, 0, 0)


def prep_epoll_wait(
    sqe: Sqe, fd: int, events: int, maxevents: int, epoll_flags: int, user_data: int = 0, flags: int = 0
) -> None:
    """Wait until an epoll descriptor has events, and fetch them.

    Args: events is the address of maxevents structs epoll_event (buffers.epoll_events); epoll_flags is 0.
    CQE: res is the number of events, or a negative errno.
    Lifetime: until the final CQE.
    Since: 6.15
    Mirrors: liburing io_uring_prep_epoll_wait
    """
    _pack(
        sqe, 0, uapi.IORING_OP_EPOLL_WAIT, flags, 0, fd, 0, events, maxevents, epoll_flags, user_data,
        0, 0, 0, 0, 0,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------
# Time


def prep_timeout(
    sqe: Sqe, ts: int, count: int, timeout_flags: int, user_data: int = 0, flags: int = 0
) -> None:
    """Complete after a time, or after a number of other completions.

    Args: ts is the address of a __kernel_timespec (buffers.timespec); count is a number of completions, 0 for
        none, with IORING_TIMEOUT_MULTISHOT (6.4) of expirations, 0 for ever; timeout_flags is a mask of
        IORING_TIMEOUT_*.
    CQE: res is -ETIME when the time has passed, 0 when the count was reached, -ECANCELED. It is -ETIME with
        IORING_TIMEOUT_ETIME_SUCCESS too, which only keeps it from breaking a link. With
        IORING_TIMEOUT_MULTISHOT one for each expiration, the last without IORING_CQE_F_MORE.
    Lifetime: until submit returns; until the final CQE on an SQPOLL ring or before 5.5.
    Since: 5.4
    Mirrors: liburing io_uring_prep_timeout
    """
    _unsigned(count)
    _pack(
        sqe, 0, uapi.IORING_OP_TIMEOUT, flags, 0, -1, count, ts, 1, timeout_flags, user_data, 0, 0, 0, 0, 0
    )


def prep_timeout_remove(
    sqe: Sqe, target: int, timeout_flags: int, user_data: int = 0, flags: int = 0
) -> None:
    """Remove a timeout.

    Args: target is the timeout's user_data.
    CQE: res is 0 (the timeout completes with -ECANCELED), -ENOENT or -EALREADY (it completes with -ETIME).
    Since: 5.5
    Mirrors: liburing io_uring_prep_timeout_remove
    Source: Linux 6.12 io_uring/timeout.c io_timeout_extract
    """
    _pack(
        sqe, 0, uapi.IORING_OP_TIMEOUT_REMOVE, flags, 0, -1, 0, target, 0, timeout_flags, user_data,
        0, 0, 0, 0, 0,
    )  # fmt: skip


def prep_timeout_update(
    sqe: Sqe, ts: int, target: int, timeout_flags: int, user_data: int = 0, flags: int = 0
) -> None:
    """Change the time of a timeout.

    Args: ts is the address of a __kernel_timespec; target is the timeout's user_data.
    CQE: res is 0, -ENOENT or -EALREADY.
    Lifetime: until submit returns; until the final CQE on an SQPOLL ring.
    Since: 5.11
    Mirrors: liburing io_uring_prep_timeout_update
    """
    _pack(
        sqe, 0, uapi.IORING_OP_TIMEOUT_REMOVE, flags, 0, -1, ts, target, 0,
        timeout_flags | uapi.IORING_TIMEOUT_UPDATE, user_data, 0, 0, 0, 0, 0,
    )  # fmt: skip


def prep_link_timeout(sqe: Sqe, ts: int, timeout_flags: int, user_data: int = 0, flags: int = 0) -> None:
    """Cancel the request before this one, which is linked to it, if it takes too long.

    Args: ts is the address of a __kernel_timespec (buffers.timespec); timeout_flags is a mask of
        IORING_TIMEOUT_ABS, IORING_TIMEOUT_BOOTTIME, IORING_TIMEOUT_REALTIME. The SQE before must have
        IOSQE_IO_LINK.
    CQE: res is -ETIME (the request completes with -ECANCELED), -ECANCELED when the request was in time,
        -EALREADY when it could not be stopped, -ENOENT; -EINVAL when the SQE before has no IOSQE_IO_LINK.
    Lifetime: until submit returns; until the final CQE on an SQPOLL ring.
    Since: 5.5
    Mirrors: liburing io_uring_prep_link_timeout
    """
    _pack(
        sqe, 0, uapi.IORING_OP_LINK_TIMEOUT, flags, 0, -1, 0, ts, 1, timeout_flags, user_data, 0, 0, 0, 0, 0
    )


# ------------------------------------------------------------------------------------------------------
# Cancelling


def prep_cancel64(
    sqe: Sqe, target: int, cancel_flags: int, user_data: int = 0, flags: int = 0, *, opcode: int = 0
) -> None:
    """Cancel requests by their user_data, or by the criterion in cancel_flags.

    Args: target is that user_data; cancel_flags is a mask of IORING_ASYNC_CANCEL_*: ALL for every request
        that matches and not only the first, ANY for all requests, OP to match opcode, which is an
        IORING_OP_*.
    CQE: res is 0, or with IORING_ASYNC_CANCEL_ALL or _ANY the number cancelled; -ENOENT; -EALREADY when the
        request runs and cannot be stopped.
    Since: 5.5; flags 5.19, OP 6.6 (ignored, not rejected, on 6.1)
    Mirrors: liburing io_uring_prep_cancel64
    """
    _pack(
        sqe, 0, uapi.IORING_OP_ASYNC_CANCEL, flags, 0, -1, 0, target, opcode, cancel_flags, user_data,
        0, 0, 0, 0, 0,
    )  # fmt: skip


def prep_cancel(sqe: Sqe, target: int, cancel_flags: int, user_data: int = 0, flags: int = 0) -> None:
    """Cancel requests by their user_data; a pointer is an int here.

    Args: as prep_cancel64.
    CQE: as prep_cancel64.
    Since: 5.5; flags 5.19
    Mirrors: liburing io_uring_prep_cancel
    """
    _pack(
        sqe, 0, uapi.IORING_OP_ASYNC_CANCEL, flags, 0, -1, 0, target, 0, cancel_flags, user_data,
        0, 0, 0, 0, 0,
    )  # fmt: skip


def prep_cancel_fd(
    sqe: Sqe, fd: int, cancel_flags: int, user_data: int = 0, flags: int = 0, *, opcode: int = 0
) -> None:
    """Cancel requests on a descriptor, which must still be open.

    Args: fd; cancel_flags is a mask of IORING_ASYNC_CANCEL_*, IORING_ASYNC_CANCEL_FD is added; with
        IORING_ASYNC_CANCEL_FD_FIXED fd is a slot of the registered files; opcode as in prep_cancel64.
    CQE: as prep_cancel64, and -EBADF.
    Since: 5.19; FD_FIXED 6.0, OP 6.6
    Mirrors: liburing io_uring_prep_cancel_fd
    """
    _pack(
        sqe, 0, uapi.IORING_OP_ASYNC_CANCEL, flags, 0, fd, 0, 0, opcode,
        cancel_flags | uapi.IORING_ASYNC_CANCEL_FD, user_data, 0, 0, 0, 0, 0,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------
# Sockets


def prep_socket(
    sqe: Sqe, domain: int, type: int, protocol: int, socket_flags: int, user_data: int = 0, flags: int = 0
) -> None:
    """Create a socket.

    Args: domain, type and protocol as socket(2) takes them (socket.AF_INET, socket.SOCK_STREAM |
        socket.SOCK_CLOEXEC, 0); socket_flags is 0.
    CQE: res is the descriptor, or a negative errno.
    Since: 5.19
    Mirrors: liburing io_uring_prep_socket
    """
    type = _int(type) & _U64
    _pack(
        sqe, 0, uapi.IORING_OP_SOCKET, flags, 0, domain, type, 0, protocol, socket_flags, user_data,
        0, 0, 0, 0, 0,
    )  # fmt: skip


def prep_socket_direct(
    sqe: Sqe, domain: int, type: int, protocol: int, file_index: int, socket_flags: int,
    user_data: int = 0, flags: int = 0,
) -> None:  # fmt: skip
    """Create a socket as a direct descriptor.

    Args: type excludes socket.SOCK_CLOEXEC, which such a descriptor cannot have; file_index is the slot, or
        IORING_FILE_INDEX_ALLOC; the others as in prep_socket.
    CQE: res is 0, with IORING_FILE_INDEX_ALLOC the slot; or a negative errno, -ENFILE if none is free.
    Since: 5.19
    Mirrors: liburing io_uring_prep_socket_direct
    """
    type = _int(type) & _U64
    _pack(
        sqe, 0, uapi.IORING_OP_SOCKET, flags, 0, domain, type, 0, protocol, socket_flags, user_data,
        0, 0, _slot(file_index), 0, 0,
    )  # fmt: skip


def prep_socket_direct_alloc(
    sqe: Sqe, domain: int, type: int, protocol: int, socket_flags: int, user_data: int = 0, flags: int = 0
) -> None:
    """Create a socket as a direct descriptor in a free slot.

    Args: as prep_socket_direct.
    CQE: res is the slot, or a negative errno, -ENFILE if none is free.
    Since: 5.19
    Mirrors: liburing io_uring_prep_socket_direct_alloc
    """
    type = _int(type) & _U64
    _pack(
        sqe, 0, uapi.IORING_OP_SOCKET, flags, 0, domain, type, 0, protocol, socket_flags, user_data,
        0, 0, _ALLOC, 0, 0,
    )  # fmt: skip


def prep_bind(sqe: Sqe, fd: int, addr: int, addrlen: int, user_data: int = 0, flags: int = 0) -> None:
    """Bind a socket to an address.

    Args: addr is the address of a sockaddr (buffers.sockaddr) of addrlen bytes.
    CQE: res is 0, or a negative errno.
    Lifetime: until submit returns; until the final CQE on an SQPOLL ring.
    Since: 6.11
    Mirrors: liburing io_uring_prep_bind
    """
    _unsigned(addrlen)
    _pack(sqe, 0, uapi.IORING_OP_BIND, flags, 0, fd, addrlen, addr, 0, 0, user_data, 0, 0, 0, 0, 0)


def prep_listen(sqe: Sqe, fd: int, backlog: int, user_data: int = 0, flags: int = 0) -> None:
    """Make a socket accept connections.

    Args: backlog as listen(2) takes it.
    CQE: res is 0, or a negative errno.
    Since: 6.11
    Mirrors: liburing io_uring_prep_listen
    """
    _pack(sqe, 0, uapi.IORING_OP_LISTEN, flags, 0, fd, 0, 0, backlog, 0, user_data, 0, 0, 0, 0, 0)


def prep_connect(sqe: Sqe, fd: int, addr: int, addrlen: int, user_data: int = 0, flags: int = 0) -> None:
    """Connect a socket.

    Args: addr is the address of a sockaddr (buffers.sockaddr) of addrlen bytes.
    CQE: res is 0, or a negative errno.
    Lifetime: until submit returns; until the final CQE on an SQPOLL ring.
    Since: 5.5
    Mirrors: liburing io_uring_prep_connect
    """
    _unsigned(addrlen)
    _pack(sqe, 0, uapi.IORING_OP_CONNECT, flags, 0, fd, addrlen, addr, 0, 0, user_data, 0, 0, 0, 0, 0)


def prep_accept(
    sqe: Sqe, fd: int, addr: int, addrlen: int, accept_flags: int, user_data: int = 0, flags: int = 0,
    *, ioprio: int = 0,
) -> None:  # fmt: skip
    """Accept one connection.

    Args: addr and addrlen are 0, or the addresses of a sockaddr and of its size (buffers.sockaddr_buffer);
        accept_flags is a mask of socket.SOCK_CLOEXEC and socket.SOCK_NONBLOCK; ioprio of IORING_ACCEPT_*.
    CQE: res is the descriptor, or a negative errno.
    Lifetime: until the final CQE.
    Since: 5.5; ioprio 6.10
    Mirrors: liburing io_uring_prep_accept
    """
    _pack(
        sqe, 0, uapi.IORING_OP_ACCEPT, flags, ioprio, fd, addrlen, addr, 0, accept_flags, user_data,
        0, 0, 0, 0, 0,
    )  # fmt: skip


def prep_accept_direct(
    sqe: Sqe, fd: int, addr: int, addrlen: int, accept_flags: int, file_index: int, user_data: int = 0,
    flags: int = 0, *, ioprio: int = 0,
) -> None:  # fmt: skip
    """Accept one connection as a direct descriptor.

    Args: accept_flags without socket.SOCK_CLOEXEC; file_index is the slot, or IORING_FILE_INDEX_ALLOC (5.19);
        the others as in prep_accept.
    CQE: res is 0, with IORING_FILE_INDEX_ALLOC the slot; or a negative errno, -ENFILE if none is free.
    Lifetime: until the final CQE.
    Since: 5.15
    Mirrors: liburing io_uring_prep_accept_direct
    """
    _pack(
        sqe, 0, uapi.IORING_OP_ACCEPT, flags, ioprio, fd, addrlen, addr, 0, accept_flags, user_data,
        0, 0, _slot(file_index), 0, 0,
    )  # fmt: skip


def prep_multishot_accept(
    sqe: Sqe, fd: int, addr: int, addrlen: int, accept_flags: int, user_data: int = 0, flags: int = 0,
    *, ioprio: int = 0,
) -> None:  # fmt: skip
    """Accept connections, one after the other.

    Args: as prep_accept. All connections write to the same addr, so it is better to pass 0 and call
        getpeername().
    CQE: one for each connection, res is the descriptor; the last is the one without IORING_CQE_F_MORE.
    Lifetime: until the final CQE.
    Since: 5.19
    Mirrors: liburing io_uring_prep_multishot_accept
    """
    _pack(
        sqe, 0, uapi.IORING_OP_ACCEPT, flags, ioprio | uapi.IORING_ACCEPT_MULTISHOT, fd, addrlen, addr, 0,
        accept_flags, user_data, 0, 0, 0, 0, 0,
    )  # fmt: skip


def prep_multishot_accept_direct(
    sqe: Sqe, fd: int, addr: int, addrlen: int, accept_flags: int, user_data: int = 0, flags: int = 0,
    *, ioprio: int = 0,
) -> None:  # fmt: skip
    """Accept connections, one after the other, as direct descriptors in free slots.

    Args: as prep_accept_direct.
    CQE: one for each connection, res is the slot; the last is the one without IORING_CQE_F_MORE, with -ENFILE
        if no slot is free.
    Lifetime: until the final CQE.
    Since: 5.19
    Mirrors: liburing io_uring_prep_multishot_accept_direct
    """
    _pack(
        sqe, 0, uapi.IORING_OP_ACCEPT, flags, ioprio | uapi.IORING_ACCEPT_MULTISHOT, fd, addrlen, addr, 0,
        accept_flags, user_data, 0, 0, _ALLOC, 0, 0,
    )  # fmt: skip


def prep_send(
    sqe: Sqe, sockfd: int, buf: int, length: int, msg_flags: int, user_data: int = 0, flags: int = 0,
    *, ioprio: int = 0, buf_group: int = 0,
) -> None:  # fmt: skip
    """Send on a connected socket.

    Args: buf is an address, with IORING_SEND_VECTORIZED that of length iovecs; length in bytes; msg_flags
        is a mask of MSG_*; ioprio of IORING_RECVSEND_* and IORING_SEND_*; buf_group goes with
        IOSQE_BUFFER_SELECT.
    CQE: res is the number of bytes, or a negative errno.
    Lifetime: until the final CQE.
    Since: 5.6; IOSQE_BUFFER_SELECT 6.10, IORING_SEND_VECTORIZED 6.17
    Mirrors: liburing io_uring_prep_send
    """
    _pack(
        sqe, 0, uapi.IORING_OP_SEND, flags, ioprio, sockfd, 0, buf, length, msg_flags, user_data,
        buf_group, 0, 0, 0, 0,
    )  # fmt: skip


def prep_send_bundle(
    sqe: Sqe, sockfd: int, length: int, msg_flags: int, user_data: int = 0, flags: int = 0,
    *, buf_group: int = 0,
) -> None:  # fmt: skip
    """Send all available provided buffers with one request.

    Args: length in bytes, 0 for all available data; msg_flags is a mask of MSG_*; flags must contain
        IOSQE_BUFFER_SELECT, and buf_group names the group.
    CQE: res is the number of bytes over consecutive buffers, of which the first is in flags; or a negative
        errno. The last is the one without IORING_CQE_F_MORE.
    Lifetime: none; the buffers belong to the group.
    Since: 6.10
    Mirrors: liburing io_uring_prep_send_bundle
    """
    _pack(
        sqe, 0, uapi.IORING_OP_SEND, flags, uapi.IORING_RECVSEND_BUNDLE, sockfd, 0, 0, length, msg_flags,
        user_data, buf_group, 0, 0, 0, 0,
    )  # fmt: skip


def prep_sendto(
    sqe: Sqe, sockfd: int, buf: int, length: int, msg_flags: int, addr: int, addrlen: int,
    user_data: int = 0, flags: int = 0, *, ioprio: int = 0,
) -> None:  # fmt: skip
    """Send to an address.

    Args: addr is the address of a sockaddr (buffers.sockaddr) of addrlen bytes; the others as in prep_send.
    CQE: res is the number of bytes, or a negative errno.
    Lifetime: until the final CQE.
    Since: 6.1
    Mirrors: liburing io_uring_prep_sendto
    """
    _pack(
        sqe, 0, uapi.IORING_OP_SEND, flags, ioprio, sockfd, addr, buf, length, msg_flags, user_data,
        0, 0, _half(addrlen), 0, 0,
    )  # fmt: skip


def prep_send_zc(
    sqe: Sqe, sockfd: int, buf: int, length: int, msg_flags: int, zc_flags: int, user_data: int = 0,
    flags: int = 0,
) -> None:  # fmt: skip
    """Send on a socket without copying the bytes.

    Args: zc_flags is a mask of IORING_RECVSEND_POLL_FIRST, IORING_SEND_ZC_REPORT_USAGE and
        IORING_SEND_VECTORIZED; the others as in prep_send. prep_send_set_addr() adds a destination.
    CQE: two. The res of the first is the number of bytes sent, or a negative errno; with IORING_CQE_F_MORE
        the second follows, with IORING_CQE_F_NOTIF, and means that the memory is free. Its res is not an
        errno: 0, or with IORING_SEND_ZC_REPORT_USAGE -2**31, which is IORING_NOTIF_USAGE_ZC_COPIED in the 32
        bits of res, where the kernel copied the bytes after all.
    Lifetime: until the notification CQE.
    Since: 6.0; REPORT_USAGE 6.2, VECTORIZED 6.17
    Mirrors: liburing io_uring_prep_send_zc
    """
    _pack(
        sqe, 0, uapi.IORING_OP_SEND_ZC, flags, zc_flags, sockfd, 0, buf, length, msg_flags, user_data,
        0, 0, 0, 0, 0,
    )  # fmt: skip


def prep_send_zc_fixed(
    sqe: Sqe, sockfd: int, buf: int, length: int, msg_flags: int, zc_flags: int, buf_index: int,
    user_data: int = 0, flags: int = 0,
) -> None:  # fmt: skip
    """Send a registered buffer, or a part of it, on a socket without copying the bytes.

    Args: buf is an address inside the registered buffer number buf_index; the others as in prep_send_zc.
    CQE: as prep_send_zc.
    Lifetime: until the notification CQE.
    Since: 6.0
    Mirrors: liburing io_uring_prep_send_zc_fixed
    """
    _pack(
        sqe, 0, uapi.IORING_OP_SEND_ZC, flags, zc_flags | uapi.IORING_RECVSEND_FIXED_BUF, sockfd, 0, buf,
        length, msg_flags, user_data, buf_index, 0, 0, 0, 0,
    )  # fmt: skip


def prep_sendmsg(
    sqe: Sqe, fd: int, msg: int, msg_flags: int, user_data: int = 0, flags: int = 0, *, ioprio: int = 0
) -> None:
    """Send a message: several buffers, a destination, ancillary data.

    Args: msg is the address of a struct msghdr (buffers.msghdr); msg_flags is a mask of MSG_*.
    CQE: res is the number of bytes, or a negative errno.
    Lifetime: until the final CQE.
    Since: 5.3; ancillary data 5.12, -EINVAL before
    Mirrors: liburing io_uring_prep_sendmsg
    """
    _pack(
        sqe, 0, uapi.IORING_OP_SENDMSG, flags, ioprio, fd, 0, msg, 1, msg_flags, user_data, 0, 0, 0, 0, 0
    )


def prep_sendmsg_zc(
    sqe: Sqe, fd: int, msg: int, msg_flags: int, user_data: int = 0, flags: int = 0, *, ioprio: int = 0
) -> None:
    """Send a message without copying the bytes.

    Args: as prep_sendmsg.
    CQE: as prep_send_zc.
    Lifetime: until the notification CQE.
    Since: 6.1
    Mirrors: liburing io_uring_prep_sendmsg_zc
    """
    _pack(
        sqe, 0, uapi.IORING_OP_SENDMSG_ZC, flags, ioprio, fd, 0, msg, 1, msg_flags, user_data, 0, 0, 0, 0, 0
    )


def prep_sendmsg_zc_fixed(
    sqe: Sqe, fd: int, msg: int, msg_flags: int, buf_index: int, user_data: int = 0, flags: int = 0
) -> None:
    """Send a message from parts of a registered buffer without copying the bytes.

    Args: msg is the address of a struct msghdr whose iovecs point into the registered buffer number
        buf_index; msg_flags is a mask of MSG_*.
    CQE: as prep_send_zc.
    Lifetime: until the notification CQE.
    Since: 6.15
    Mirrors: liburing io_uring_prep_sendmsg_zc_fixed
    """
    _pack(
        sqe, 0, uapi.IORING_OP_SENDMSG_ZC, flags, uapi.IORING_RECVSEND_FIXED_BUF, fd, 0, msg, 1, msg_flags,
        user_data, buf_index, 0, 0, 0, 0,
    )  # fmt: skip


def prep_recv(
    sqe: Sqe, sockfd: int, buf: int, length: int, msg_flags: int, user_data: int = 0, flags: int = 0,
    *, ioprio: int = 0, buf_group: int = 0,
) -> None:  # fmt: skip
    """Receive from a socket.

    Args: buf is an address; length in bytes; msg_flags is a mask of MSG_*; ioprio of IORING_RECVSEND_*;
        buf_group goes with IOSQE_BUFFER_SELECT.
    CQE: res is the number of bytes, 0 when the peer has closed or for an empty datagram, or a negative errno.
        With socket.MSG_TRUNC it is the whole length of the datagram, which may be more than length. flags may
        have IORING_CQE_F_SOCK_NONEMPTY.
    Lifetime: until the final CQE.
    Since: 5.6
    Mirrors: liburing io_uring_prep_recv
    """
    _pack(
        sqe, 0, uapi.IORING_OP_RECV, flags, ioprio, sockfd, 0, buf, length, msg_flags, user_data, buf_group,
        0, 0, 0, 0,
    )  # fmt: skip


def prep_recv_multishot(
    sqe: Sqe, sockfd: int, buf: int, length: int, msg_flags: int, user_data: int = 0, flags: int = 0,
    *, ioprio: int = 0, buf_group: int = 0,
) -> None:  # fmt: skip
    """Receive from a socket repeatedly, each time into a provided buffer.

    Args: buf and length are 0; flags must contain IOSQE_BUFFER_SELECT, and buf_group names the group;
        ioprio is a mask of IORING_RECVSEND_*.
    CQE: one for each arrival, res is the number of bytes and the buffer id is in flags; the last is the one
        without IORING_CQE_F_MORE: 0 when the peer has closed, -ENOBUFS when the group is empty.
    Lifetime: none; the buffers belong to the group.
    Since: 6.0
    Mirrors: liburing io_uring_prep_recv_multishot
    """
    _pack(
        sqe, 0, uapi.IORING_OP_RECV, flags, ioprio | uapi.IORING_RECV_MULTISHOT, sockfd, 0, buf, length,
        msg_flags, user_data, buf_group, 0, 0, 0, 0,
    )  # fmt: skip


def prep_recvmsg(
    sqe: Sqe, fd: int, msg: int, msg_flags: int, user_data: int = 0, flags: int = 0,
    *, ioprio: int = 0, buf_group: int = 0,
) -> None:  # fmt: skip
    """Receive a message: into several buffers, with its source and ancillary data.

    Args: msg is the address of a struct msghdr (buffers.msghdr), which is filled; msg_flags is a mask of
        MSG_*.
    CQE: res is the number of bytes, 0 when the peer has closed, or a negative errno; with socket.MSG_TRUNC
        the whole length of the datagram.
    Lifetime: until the final CQE.
    Since: 5.3; room for ancillary data on other sockets than TCP's 5.12, -EINVAL before
    Mirrors: liburing io_uring_prep_recvmsg
    """
    _pack(
        sqe, 0, uapi.IORING_OP_RECVMSG, flags, ioprio, fd, 0, msg, 1, msg_flags, user_data, buf_group,
        0, 0, 0, 0,
    )  # fmt: skip


def prep_recvmsg_multishot(
    sqe: Sqe, fd: int, msg: int, msg_flags: int, user_data: int = 0, flags: int = 0,
    *, ioprio: int = 0, buf_group: int = 0,
) -> None:  # fmt: skip
    """Receive messages repeatedly, each into a provided buffer.

    Args: msg is the address of a struct msghdr, of which only msg_namelen and msg_controllen are used: they
        reserve room in each buffer (buffers.recvmsg_out reads it); flags must contain IOSQE_BUFFER_SELECT,
        and buf_group names the group.
    CQE: one for each message, res is the number of bytes in the buffer, its head included, and the buffer id
        is in flags; the last is the one without IORING_CQE_F_MORE.
    Lifetime: until submit returns; until the final CQE on an SQPOLL ring. The buffers belong to the group.
    Since: 6.0
    Mirrors: liburing io_uring_prep_recvmsg_multishot
    """
    _pack(
        sqe, 0, uapi.IORING_OP_RECVMSG, flags, ioprio | uapi.IORING_RECV_MULTISHOT, fd, 0, msg, 1,
        msg_flags, user_data, buf_group, 0, 0, 0, 0,
    )  # fmt: skip


def prep_recv_zc(
    sqe: Sqe, sockfd: int, length: int, zcrx_ifq_idx: int, user_data: int = 0, flags: int = 0
) -> None:
    """Receive repeatedly into memory that the network card itself writes.

    Args: length in bytes, 0 for no limit; zcrx_ifq_idx is from register.register_ifq().
    CQE: one of 32 bytes for each piece, res is its length and big_cqe an io_uring_zcrx_cqe; the last is the
        one without IORING_CQE_F_MORE.
    Lifetime: none; the memory belongs to the registered area.
    Since: 6.15
    Mirrors: liburing has no helper; its zcrx example fills the SQE in this way
    """
    _pack(
        sqe, 0, uapi.IORING_OP_RECV_ZC, flags, uapi.IORING_RECV_MULTISHOT, sockfd, 0, 0, length, 0,
        user_data, 0, 0, zcrx_ifq_idx, 0, 0,
    )  # fmt: skip


def prep_shutdown(sqe: Sqe, fd: int, how: int, user_data: int = 0, flags: int = 0) -> None:
    """Shut down a connection, in one direction or both.

    Args: how is socket.SHUT_RD, socket.SHUT_WR or socket.SHUT_RDWR.
    CQE: res is 0, or a negative errno.
    Since: 5.11
    Mirrors: liburing io_uring_prep_shutdown
    """
    _pack(sqe, 0, uapi.IORING_OP_SHUTDOWN, flags, 0, fd, 0, 0, how, 0, user_data, 0, 0, 0, 0, 0)


def prep_cmd_sock(
    sqe: Sqe, cmd_op: int, fd: int, level: int, optname: int, optval: int, optlen: int,
    user_data: int = 0, flags: int = 0,
) -> None:  # fmt: skip
    """Query a socket, or set an option.

    Args: cmd_op is a SOCKET_URING_OP_*; level, optname as getsockopt(2) takes them; optval is an address and
        optlen in bytes, both 0 for SIOCINQ and SIOCOUTQ.
    CQE: GETSOCKOPT: res is the size of the value; SIOCINQ and SIOCOUTQ: res is the value; SETSOCKOPT: res is
        0; or a negative errno.
    Lifetime: until the final CQE.
    Since: 6.6 (SIOCINQ, SIOCOUTQ); 6.7 (GETSOCKOPT at SOL_SOCKET, SETSOCKOPT); 6.17 (TX_TIMESTAMP)
    Mirrors: liburing io_uring_prep_cmd_sock
    """
    _pack(
        sqe, 0, uapi.IORING_OP_URING_CMD, flags, 0, fd, _pair(cmd_op, 0), _pair(level, optname), 0, 0,
        user_data, 0, 0, optlen, optval, 0,
    )  # fmt: skip


def prep_cmd_getsockname(
    sqe: Sqe, fd: int, sockaddr: int, sockaddr_len: int, peer: int, user_data: int = 0, flags: int = 0
) -> None:
    """Get the address of a socket or of its peer.

    Args: sockaddr and sockaddr_len are the addresses of a sockaddr and of its size (buffers.sockaddr_buffer);
        peer is 0 for the socket's own address, 1 for the peer's.
    CQE: res is 0, or a negative errno.
    Lifetime: until the final CQE.
    Since: 6.19
    Mirrors: liburing io_uring_prep_cmd_getsockname
    """
    _pack(
        sqe, 0, uapi.IORING_OP_URING_CMD, flags, 0, fd, _pair(uapi.SOCKET_URING_OP_GETSOCKNAME, 0),
        sockaddr, 0, 0, user_data, 0, 0, peer, sockaddr_len, 0,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------
# Provided buffers of the older kind; buffers.BufferRing is the newer kind


def prep_provide_buffers(
    sqe: Sqe, addr: int, length: int, nr: int, bgid: int, bid: int, user_data: int = 0, flags: int = 0
) -> None:
    """Provide the kernel with buffers for IOSQE_BUFFER_SELECT.

    Args: addr is the address of nr buffers of length bytes each; bgid is their group, bid the id of the
        first.
    CQE: res is not negative: 0, on older kernels the number of the group or of the buffers; or a negative
        errno.
    Lifetime: until the final CQE of the request that takes the buffer, or of prep_remove_buffers.
    Since: 5.7
    Mirrors: liburing io_uring_prep_provide_buffers
    """
    bid = _int(bid) & _U64
    _pack(
        sqe, 0, uapi.IORING_OP_PROVIDE_BUFFERS, flags, 0, nr, bid, addr, length, 0, user_data, bgid,
        0, 0, 0, 0,
    )  # fmt: skip


def prep_remove_buffers(sqe: Sqe, nr: int, bgid: int, user_data: int = 0, flags: int = 0) -> None:
    """Remove buffers that prep_provide_buffers provided.

    Args: nr is the maximal number; bgid is their group.
    CQE: res is the number of removed buffers, or -ENOENT if the group does not exist, on 5.10 also if it is
        empty.
    Since: 5.7
    Mirrors: liburing io_uring_prep_remove_buffers
    """
    _pack(sqe, 0, uapi.IORING_OP_REMOVE_BUFFERS, flags, 0, nr, 0, 0, 0, 0, user_data, bgid, 0, 0, 0, 0)


# ------------------------------------------------------------------------------------------------------
# Opening and closing


def prep_openat(
    sqe: Sqe, dfd: int, path: int, open_flags: int, mode: int, user_data: int = 0, flags: int = 0
) -> None:
    """Open a file.

    Args: dfd is a directory or AT_FDCWD; path is the address of a path (buffers.path); open_flags is a mask
        of os.O_*, which should include os.O_CLOEXEC; mode is the permissions of a new file. On a 32-bit
        Python add O_LARGEFILE for files beyond 2 GiB.
    CQE: res is the descriptor, or a negative errno.
    Lifetime: until submit returns; until the final CQE on an SQPOLL ring.
    Since: 5.6
    Mirrors: liburing io_uring_prep_openat
    """
    _pack(
        sqe, 0, uapi.IORING_OP_OPENAT, flags, 0, dfd, 0, path, mode, open_flags, user_data, 0, 0, 0, 0, 0
    )


def prep_openat_direct(
    sqe: Sqe, dfd: int, path: int, open_flags: int, mode: int, file_index: int, user_data: int = 0,
    flags: int = 0,
) -> None:  # fmt: skip
    """Open a file as a direct descriptor.

    Args: open_flags without os.O_CLOEXEC; file_index is the slot, or IORING_FILE_INDEX_ALLOC (5.19); the
        others as in prep_openat.
    CQE: res is 0, with IORING_FILE_INDEX_ALLOC the slot; or a negative errno, -ENFILE if none is free.
    Lifetime: until submit returns; until the final CQE on an SQPOLL ring.
    Since: 5.15
    Mirrors: liburing io_uring_prep_openat_direct
    """
    _pack(
        sqe, 0, uapi.IORING_OP_OPENAT, flags, 0, dfd, 0, path, mode, open_flags, user_data,
        0, 0, _slot(file_index), 0, 0,
    )  # fmt: skip


def prep_open(
    sqe: Sqe, path: int, open_flags: int, mode: int, user_data: int = 0, flags: int = 0
) -> None:
    """Open a file below the working directory.

    Args: as prep_openat.
    CQE: as prep_openat.
    Lifetime: until submit returns; until the final CQE on an SQPOLL ring.
    Since: 5.6
    Mirrors: liburing io_uring_prep_open
    """
    _pack(
        sqe, 0, uapi.IORING_OP_OPENAT, flags, 0, AT_FDCWD, 0, path, mode, open_flags, user_data,
        0, 0, 0, 0, 0,
    )  # fmt: skip


def prep_open_direct(
    sqe: Sqe, path: int, open_flags: int, mode: int, file_index: int, user_data: int = 0, flags: int = 0
) -> None:
    """Open a file below the working directory as a direct descriptor.

    Args: as prep_openat_direct.
    CQE: as prep_openat_direct.
    Lifetime: until submit returns; until the final CQE on an SQPOLL ring.
    Since: 5.15
    Mirrors: liburing io_uring_prep_open_direct
    """
    _pack(
        sqe, 0, uapi.IORING_OP_OPENAT, flags, 0, AT_FDCWD, 0, path, mode, open_flags, user_data,
        0, 0, _slot(file_index), 0, 0,
    )  # fmt: skip


def prep_openat2(sqe: Sqe, dfd: int, path: int, how: int, user_data: int = 0, flags: int = 0) -> None:
    """Open a file under restrictions.

    Args: how is the address of a struct open_how (buffers.open_how); the others as in prep_openat.
    CQE: res is the descriptor, or a negative errno: -EXDEV or -ELOOP for a path that leaves the permitted
        tree, -EAGAIN with RESOLVE_CACHED.
    Lifetime: until submit returns; until the final CQE on an SQPOLL ring.
    Since: 5.6
    Mirrors: liburing io_uring_prep_openat2
    """
    _pack(
        sqe, 0, uapi.IORING_OP_OPENAT2, flags, 0, dfd, how, path, uapi.open_how.size, 0, user_data,
        0, 0, 0, 0, 0,
    )  # fmt: skip


def prep_openat2_direct(
    sqe: Sqe, dfd: int, path: int, how: int, file_index: int, user_data: int = 0, flags: int = 0
) -> None:
    """Open a file under restrictions as a direct descriptor.

    Args: as prep_openat2 and prep_openat_direct.
    CQE: as prep_openat_direct.
    Lifetime: until submit returns; until the final CQE on an SQPOLL ring.
    Since: 5.15
    Mirrors: liburing io_uring_prep_openat2_direct
    """
    _pack(
        sqe, 0, uapi.IORING_OP_OPENAT2, flags, 0, dfd, how, path, uapi.open_how.size, 0, user_data,
        0, 0, _slot(file_index), 0, 0,
    )  # fmt: skip


def prep_close(sqe: Sqe, fd: int, user_data: int = 0, flags: int = 0) -> None:
    """Close a descriptor.

    Args: fd; a request that is in flight on it keeps the file open.
    CQE: res is 0, or a negative errno: -EBADF when it is not open, or with IOSQE_FIXED_FILE.
    Since: 5.6
    Mirrors: liburing io_uring_prep_close
    """
    _pack(sqe, 0, uapi.IORING_OP_CLOSE, flags, 0, fd, 0, 0, 0, 0, user_data, 0, 0, 0, 0, 0)


def prep_close_direct(sqe: Sqe, file_index: int, user_data: int = 0, flags: int = 0) -> None:
    """Clear a slot of the registered files.

    Args: file_index is the slot.
    CQE: res is 0; -EBADF when it is empty, or with IOSQE_FIXED_FILE; -EINVAL for a slot beyond the table;
        -ENXIO without a table.
    Since: 5.15
    Mirrors: liburing io_uring_prep_close_direct
    """
    _pack(
        sqe, 0, uapi.IORING_OP_CLOSE, flags, 0, 0, 0, 0, 0, 0, user_data, 0, 0, _slot(file_index, False), 0, 0
    )


def prep_files_update(
    sqe: Sqe, fds: int, nr_fds: int, offset: int, user_data: int = 0, flags: int = 0
) -> None:
    """Put descriptors into slots of the registered files.

    Args: fds is the address of nr_fds ints: a descriptor, -1 to clear the slot, IORING_REGISTER_FILES_SKIP to
        leave it; offset is the first slot, or IORING_FILE_INDEX_ALLOC, and fds is filled with the slots.
    CQE: res is the number of slots, which is less than nr_fds if one fails; or a negative errno if the first
        one fails, -ENXIO without a table.
    Lifetime: until the final CQE.
    Since: 5.6; IORING_FILE_INDEX_ALLOC 5.19
    Mirrors: liburing io_uring_prep_files_update
    """
    if offset != _ALLOC:
        offset = _int(offset) & _U64
    _pack(
        sqe, 0, uapi.IORING_OP_FILES_UPDATE, flags, 0, -1, offset, fds, nr_fds, 0, user_data,
        0, 0, 0, 0, 0,
    )  # fmt: skip


def prep_fixed_fd_install(
    sqe: Sqe, fd: int, install_fd_flags: int, user_data: int = 0, flags: int = 0
) -> None:
    """Make an ordinary descriptor from a direct one, which remains.

    Args: fd is the slot; install_fd_flags is 0 or IORING_FIXED_FD_NO_CLOEXEC. IOSQE_FIXED_FILE is added.
    CQE: res is the descriptor, or a negative errno, -EBADF when the slot is empty.
    Since: 6.8
    Mirrors: liburing io_uring_prep_fixed_fd_install
    """
    _pack(
        sqe, 0, uapi.IORING_OP_FIXED_FD_INSTALL, flags | uapi.IOSQE_FIXED_FILE, 0, fd, 0, 0, 0,
        install_fd_flags, user_data, 0, 0, 0, 0, 0,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------
# Whole files


def prep_fsync(sqe: Sqe, fd: int, fsync_flags: int, user_data: int = 0, flags: int = 0) -> None:
    """Flush a file to the disk, without waiting for writes that are in flight: link it to them.

    Args: fsync_flags is 0 or IORING_FSYNC_DATASYNC. set_fields(off=..., len=...) restricts it to a range.
    CQE: res is 0, or a negative errno.
    Mirrors: liburing io_uring_prep_fsync
    """
    _pack(sqe, 0, uapi.IORING_OP_FSYNC, flags, 0, fd, 0, 0, 0, fsync_flags, user_data, 0, 0, 0, 0, 0)


def prep_sync_file_range(
    sqe: Sqe, fd: int, length: int, offset: int, sync_range_flags: int, user_data: int = 0, flags: int = 0
) -> None:
    """Flush a part of a file's data to the disk.

    Args: length and offset in bytes; sync_range_flags is a mask of SYNC_FILE_RANGE_*.
    CQE: res is 0, or a negative errno.
    Since: 5.2
    Mirrors: liburing io_uring_prep_sync_file_range
    """
    _pack(
        sqe, 0, uapi.IORING_OP_SYNC_FILE_RANGE, flags, 0, fd, offset, 0, length, sync_range_flags,
        user_data, 0, 0, 0, 0, 0,
    )  # fmt: skip


def prep_fallocate(
    sqe: Sqe, fd: int, mode: int, offset: int, length: int, user_data: int = 0, flags: int = 0
) -> None:
    """Reserve, free or move a file's blocks.

    Args: mode is a mask of FALLOC_FL_*; offset and length in bytes.
    CQE: res is 0, or a negative errno.
    Since: 5.6
    Mirrors: liburing io_uring_prep_fallocate
    """
    _pack(
        sqe, 0, uapi.IORING_OP_FALLOCATE, flags, 0, fd, offset, length, mode, 0, user_data, 0, 0, 0, 0, 0
    )


def prep_ftruncate(sqe: Sqe, fd: int, length: int, user_data: int = 0, flags: int = 0) -> None:
    """Set a file's size.

    Args: length in bytes.
    CQE: res is 0, or a negative errno.
    Since: 6.9
    Mirrors: liburing io_uring_prep_ftruncate
    """
    _pack(sqe, 0, uapi.IORING_OP_FTRUNCATE, flags, 0, fd, length, 0, 0, 0, user_data, 0, 0, 0, 0, 0)


def prep_fadvise(
    sqe: Sqe, fd: int, offset: int, length: int, advice: int, user_data: int = 0, flags: int = 0
) -> None:
    """Tell the kernel how a part of a file will be used.

    Args: offset and length in bytes, length 32 bits wide, 0 for the rest; advice is an os.POSIX_FADV_*.
    CQE: res is 0, or a negative errno.
    Since: 5.6
    Mirrors: liburing io_uring_prep_fadvise
    """
    _pack(
        sqe, 0, uapi.IORING_OP_FADVISE, flags, 0, fd, offset, 0, length, advice, user_data, 0, 0, 0, 0, 0
    )


def prep_fadvise64(
    sqe: Sqe, fd: int, offset: int, length: int, advice: int, user_data: int = 0, flags: int = 0
) -> None:
    """Tell the kernel how a part of a file will be used, with a 64-bit length.

    Args: as prep_fadvise.
    CQE: res is 0, or a negative errno, -EINVAL on older kernels.
    Since: 6.11
    Mirrors: liburing io_uring_prep_fadvise64
    """
    _pack(
        sqe, 0, uapi.IORING_OP_FADVISE, flags, 0, fd, offset, length, 0, advice, user_data, 0, 0, 0, 0, 0
    )


def prep_madvise(
    sqe: Sqe, addr: int, length: int, advice: int, user_data: int = 0, flags: int = 0
) -> None:
    """Tell the kernel how a part of our memory will be used.

    Args: addr is a page's address; length in bytes, 32 bits wide; advice is an mmap.MADV_*.
    CQE: res is 0, or a negative errno.
    Lifetime: until the final CQE.
    Since: 5.6
    Mirrors: liburing io_uring_prep_madvise
    """
    _pack(sqe, 0, uapi.IORING_OP_MADVISE, flags, 0, -1, 0, addr, length, advice, user_data, 0, 0, 0, 0, 0)


def prep_madvise64(
    sqe: Sqe, addr: int, length: int, advice: int, user_data: int = 0, flags: int = 0
) -> None:
    """Tell the kernel how a part of our memory will be used, with a 64-bit length.

    Args: as prep_madvise.
    CQE: res is 0, or a negative errno, -EINVAL on older kernels.
    Lifetime: until the final CQE.
    Since: 6.11
    Mirrors: liburing io_uring_prep_madvise64
    """
    _pack(sqe, 0, uapi.IORING_OP_MADVISE, flags, 0, -1, length, addr, 0, advice, user_data, 0, 0, 0, 0, 0)


def prep_statx(
    sqe: Sqe, dfd: int, path: int, statx_flags: int, mask: int, statxbuf: int, user_data: int = 0,
    flags: int = 0,
) -> None:  # fmt: skip
    """Read a file's metadata.

    Args: dfd is a directory or AT_FDCWD; path is an address (buffers.path); statx_flags is a mask of AT_*;
        mask is a mask of STATX_*; statxbuf is the address of a struct statx (buffers.StatxBuffer).
    CQE: res is 0, or a negative errno.
    Lifetime: until the final CQE; the path, except on an SQPOLL ring or before 5.18, until submit returns.
    Since: 5.6
    Mirrors: liburing io_uring_prep_statx
    """
    _pack(
        sqe, 0, uapi.IORING_OP_STATX, flags, 0, dfd, statxbuf, path, mask, statx_flags, user_data,
        0, 0, 0, 0, 0,
    )  # fmt: skip


def prep_getxattr(
    sqe: Sqe, name: int, value: int, path: int, length: int, user_data: int = 0, flags: int = 0
) -> None:
    """Read an extended attribute of a file.

    Args: name and path are the addresses of strings (buffers.path); value is an address of length bytes, to
        be filled; length 0 queries the size.
    CQE: res is the size of the value, or a negative errno: -ENODATA, -ERANGE.
    Lifetime: until the final CQE; name and path, except on an SQPOLL ring, until submit returns.
    Since: 5.19
    Mirrors: liburing io_uring_prep_getxattr
    """
    _pack(
        sqe, 0, uapi.IORING_OP_GETXATTR, flags, 0, 0, value, name, length, 0, user_data, 0, 0, 0, path, 0
    )


def prep_setxattr(
    sqe: Sqe, name: int, value: int, path: int, xattr_flags: int, length: int, user_data: int = 0,
    flags: int = 0,
) -> None:  # fmt: skip
    """Write an extended attribute of a file.

    Args: xattr_flags is 0, os.XATTR_CREATE or os.XATTR_REPLACE; the others as in prep_getxattr.
    CQE: res is 0, or a negative errno.
    Lifetime: until submit returns; until the final CQE on an SQPOLL ring.
    Since: 5.19
    Mirrors: liburing io_uring_prep_setxattr
    """
    _pack(
        sqe, 0, uapi.IORING_OP_SETXATTR, flags, 0, 0, value, name, length, xattr_flags, user_data,
        0, 0, 0, path, 0,
    )  # fmt: skip


def prep_fgetxattr(
    sqe: Sqe, fd: int, name: int, value: int, length: int, user_data: int = 0, flags: int = 0
) -> None:
    """Read an extended attribute of an open file.

    Args: as prep_getxattr.
    CQE: as prep_getxattr.
    Lifetime: until the final CQE; the name, except on an SQPOLL ring, until submit returns.
    Since: 5.19
    Mirrors: liburing io_uring_prep_fgetxattr
    """
    _pack(
        sqe, 0, uapi.IORING_OP_FGETXATTR, flags, 0, fd, value, name, length, 0, user_data, 0, 0, 0, 0, 0
    )


def prep_fsetxattr(
    sqe: Sqe, fd: int, name: int, value: int, xattr_flags: int, length: int, user_data: int = 0,
    flags: int = 0,
) -> None:  # fmt: skip
    """Write an extended attribute of an open file.

    Args: as prep_setxattr.
    CQE: res is 0, or a negative errno.
    Lifetime: until submit returns; until the final CQE on an SQPOLL ring.
    Since: 5.19
    Mirrors: liburing io_uring_prep_fsetxattr
    """
    _pack(
        sqe, 0, uapi.IORING_OP_FSETXATTR, flags, 0, fd, value, name, length, xattr_flags, user_data,
        0, 0, 0, 0, 0,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------
# Names in directories. The variants without a descriptor start at the working directory.


def prep_unlinkat(
    sqe: Sqe, dfd: int, path: int, unlink_flags: int, user_data: int = 0, flags: int = 0
) -> None:
    """Remove a name.

    Args: dfd is a directory or AT_FDCWD; path is an address (buffers.path); unlink_flags is 0 or
        AT_REMOVEDIR.
    CQE: res is 0, or a negative errno.
    Lifetime: until submit returns; until the final CQE on an SQPOLL ring.
    Since: 5.11
    Mirrors: liburing io_uring_prep_unlinkat
    """
    _pack(
        sqe, 0, uapi.IORING_OP_UNLINKAT, flags, 0, dfd, 0, path, 0, unlink_flags, user_data, 0, 0, 0, 0, 0
    )


def prep_unlink(sqe: Sqe, path: int, unlink_flags: int, user_data: int = 0, flags: int = 0) -> None:
    """Remove a name below the working directory.

    Args: as prep_unlinkat.
    CQE: res is 0, or a negative errno.
    Lifetime: until submit returns; until the final CQE on an SQPOLL ring.
    Since: 5.11
    Mirrors: liburing io_uring_prep_unlink
    """
    _pack(
        sqe, 0, uapi.IORING_OP_UNLINKAT, flags, 0, AT_FDCWD, 0, path, 0, unlink_flags, user_data,
        0, 0, 0, 0, 0,
    )  # fmt: skip


def prep_renameat(
    sqe: Sqe, olddfd: int, oldpath: int, newdfd: int, newpath: int, rename_flags: int,
    user_data: int = 0, flags: int = 0,
) -> None:  # fmt: skip
    """Rename a file.

    Args: olddfd and newdfd are directories or AT_FDCWD; oldpath and newpath are addresses (buffers.path);
        rename_flags is a mask of RENAME_*.
    CQE: res is 0, or a negative errno.
    Lifetime: until submit returns; until the final CQE on an SQPOLL ring.
    Since: 5.11
    Mirrors: liburing io_uring_prep_renameat
    """
    newdfd = _int(newdfd) & _U32
    _pack(
        sqe, 0, uapi.IORING_OP_RENAMEAT, flags, 0, olddfd, newpath, oldpath, newdfd, rename_flags,
        user_data, 0, 0, 0, 0, 0,
    )  # fmt: skip


def prep_rename(sqe: Sqe, oldpath: int, newpath: int, user_data: int = 0, flags: int = 0) -> None:
    """Rename a file; both names are below the working directory.

    Args: oldpath and newpath are addresses (buffers.path).
    CQE: res is 0, or a negative errno.
    Lifetime: until submit returns; until the final CQE on an SQPOLL ring.
    Since: 5.11
    Mirrors: liburing io_uring_prep_rename
    """
    _pack(
        sqe, 0, uapi.IORING_OP_RENAMEAT, flags, 0, AT_FDCWD, newpath, oldpath, _AT_FDCWD, 0,
        user_data, 0, 0, 0, 0, 0,
    )  # fmt: skip


def prep_mkdirat(sqe: Sqe, dfd: int, path: int, mode: int, user_data: int = 0, flags: int = 0) -> None:
    """Create a directory.

    Args: dfd is a directory or AT_FDCWD; path is an address (buffers.path); mode is the permissions.
    CQE: res is 0, or a negative errno.
    Lifetime: until submit returns; until the final CQE on an SQPOLL ring.
    Since: 5.15
    Mirrors: liburing io_uring_prep_mkdirat
    """
    _pack(sqe, 0, uapi.IORING_OP_MKDIRAT, flags, 0, dfd, 0, path, mode, 0, user_data, 0, 0, 0, 0, 0)


def prep_mkdir(sqe: Sqe, path: int, mode: int, user_data: int = 0, flags: int = 0) -> None:
    """Create a directory below the working directory.

    Args: as prep_mkdirat.
    CQE: res is 0, or a negative errno.
    Lifetime: until submit returns; until the final CQE on an SQPOLL ring.
    Since: 5.15
    Mirrors: liburing io_uring_prep_mkdir
    """
    _pack(sqe, 0, uapi.IORING_OP_MKDIRAT, flags, 0, AT_FDCWD, 0, path, mode, 0, user_data, 0, 0, 0, 0, 0)


def prep_symlinkat(
    sqe: Sqe, target: int, newdirfd: int, linkpath: int, user_data: int = 0, flags: int = 0
) -> None:
    """Create a symbolic link.

    Args: target and linkpath are addresses (buffers.path); newdirfd is a directory or AT_FDCWD.
    CQE: res is 0, or a negative errno.
    Lifetime: until submit returns; until the final CQE on an SQPOLL ring.
    Since: 5.15
    Mirrors: liburing io_uring_prep_symlinkat
    """
    _pack(
        sqe, 0, uapi.IORING_OP_SYMLINKAT, flags, 0, newdirfd, linkpath, target, 0, 0, user_data,
        0, 0, 0, 0, 0,
    )  # fmt: skip


def prep_symlink(sqe: Sqe, target: int, linkpath: int, user_data: int = 0, flags: int = 0) -> None:
    """Create a symbolic link below the working directory.

    Args: as prep_symlinkat.
    CQE: res is 0, or a negative errno.
    Lifetime: until submit returns; until the final CQE on an SQPOLL ring.
    Since: 5.15
    Mirrors: liburing io_uring_prep_symlink
    """
    _pack(
        sqe, 0, uapi.IORING_OP_SYMLINKAT, flags, 0, AT_FDCWD, linkpath, target, 0, 0, user_data,
        0, 0, 0, 0, 0,
    )  # fmt: skip


def prep_linkat(
    sqe: Sqe, olddfd: int, oldpath: int, newdfd: int, newpath: int, hardlink_flags: int,
    user_data: int = 0, flags: int = 0,
) -> None:  # fmt: skip
    """Create a hard link to a file.

    Args: as prep_renameat; hardlink_flags is a mask of AT_EMPTY_PATH and AT_SYMLINK_FOLLOW.
    CQE: res is 0, or a negative errno.
    Lifetime: until submit returns; until the final CQE on an SQPOLL ring.
    Since: 5.15
    Mirrors: liburing io_uring_prep_linkat
    """
    newdfd = _int(newdfd) & _U32
    _pack(
        sqe, 0, uapi.IORING_OP_LINKAT, flags, 0, olddfd, newpath, oldpath, newdfd, hardlink_flags,
        user_data, 0, 0, 0, 0, 0,
    )  # fmt: skip


def prep_link(
    sqe: Sqe, oldpath: int, newpath: int, hardlink_flags: int, user_data: int = 0, flags: int = 0
) -> None:
    """Create a hard link to a file; both names are below the working directory.

    Args: as prep_linkat.
    CQE: res is 0, or a negative errno.
    Lifetime: until submit returns; until the final CQE on an SQPOLL ring.
    Since: 5.15
    Mirrors: liburing io_uring_prep_link
    """
    _pack(
        sqe, 0, uapi.IORING_OP_LINKAT, flags, 0, AT_FDCWD, newpath, oldpath, _AT_FDCWD,
        hardlink_flags, user_data, 0, 0, 0, 0, 0,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------
# From ring to ring


def prep_msg_ring(
    sqe: Sqe, fd: int, length: int, data: int, msg_ring_flags: int, user_data: int = 0, flags: int = 0
) -> None:
    """Post a completion in another ring.

    Args: fd is the other ring's; length becomes res there, data becomes user_data; msg_ring_flags is 0:
        IORING_MSG_RING_CQE_SKIP is for descriptors, and fails with -EINVAL here.
    CQE: res is 0, or a negative errno: -EOVERFLOW if its CQ has no room, -EBADFD if fd is not a ring.
    Since: 5.18
    Mirrors: liburing io_uring_prep_msg_ring
    """
    _pack(
        sqe, 0, uapi.IORING_OP_MSG_RING, flags, 0, fd, data, 0, length, msg_ring_flags, user_data,
        0, 0, 0, 0, 0,
    )  # fmt: skip


def prep_msg_ring_cqe_flags(
    sqe: Sqe, fd: int, length: int, data: int, msg_ring_flags: int, cqe_flags: int, user_data: int = 0,
    flags: int = 0,
) -> None:  # fmt: skip
    """Post a completion in another ring, with flags of the caller's choice.

    Args: cqe_flags becomes flags in that ring; the others as in prep_msg_ring.
    CQE: as prep_msg_ring.
    Since: 6.3
    Mirrors: liburing io_uring_prep_msg_ring_cqe_flags
    """
    _pack(
        sqe, 0, uapi.IORING_OP_MSG_RING, flags, 0, fd, data, 0, length,
        msg_ring_flags | uapi.IORING_MSG_RING_FLAGS_PASS, user_data, 0, 0, cqe_flags, 0, 0,
    )  # fmt: skip


def prep_msg_ring_fd(
    sqe: Sqe, fd: int, source_fd: int, target_fd: int, data: int, msg_ring_flags: int,
    user_data: int = 0, flags: int = 0,
) -> None:  # fmt: skip
    """Pass a direct descriptor to another ring.

    Args: fd is the other ring's; source_fd is the slot here, target_fd the slot there or
        IORING_FILE_INDEX_ALLOC; data becomes user_data of the completion there; msg_ring_flags is 0 or
        IORING_MSG_RING_CQE_SKIP, for no completion there.
    CQE: res is 0, with IORING_FILE_INDEX_ALLOC the slot; or a negative errno. The completion there has the
        same res.
    Since: 6.0
    Mirrors: liburing io_uring_prep_msg_ring_fd
    """
    _pack(
        sqe, 0, uapi.IORING_OP_MSG_RING, flags, 0, fd, data, uapi.IORING_MSG_SEND_FD, 0, msg_ring_flags,
        user_data, 0, 0, _slot(target_fd), _int(source_fd) & _U64, 0,
    )  # fmt: skip


def prep_msg_ring_fd_alloc(
    sqe: Sqe, fd: int, source_fd: int, data: int, msg_ring_flags: int, user_data: int = 0, flags: int = 0
) -> None:
    """Pass a direct descriptor to a free slot of another ring.

    Args: as prep_msg_ring_fd.
    CQE: res is the slot, or a negative errno.
    Since: 6.0
    Mirrors: liburing io_uring_prep_msg_ring_fd_alloc
    """
    _pack(
        sqe, 0, uapi.IORING_OP_MSG_RING, flags, 0, fd, data, uapi.IORING_MSG_SEND_FD, 0, msg_ring_flags,
        user_data, 0, 0, _ALLOC, _int(source_fd) & _U64, 0,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------
# Processes and futexes


def prep_waitid(
    sqe: Sqe, idtype: int, id: int, infop: int, options: int, waitid_flags: int, user_data: int = 0,
    flags: int = 0,
) -> None:  # fmt: skip
    """Wait for a child process to change state.

    Args: idtype is os.P_PID, os.P_PGID, os.P_ALL or os.P_PIDFD; id is the number of that kind; infop is 0 or
        the address of a siginfo (buffers.Siginfo); options is a mask of os.WEXITED, os.WSTOPPED, os.WNOWAIT
        and the like; waitid_flags is 0.
    CQE: res is 0, or a negative errno, -ECHILD.
    Lifetime: until the final CQE.
    Since: 6.7
    Mirrors: liburing io_uring_prep_waitid
    """
    _pack(
        sqe, 0, uapi.IORING_OP_WAITID, flags, 0, id, infop, 0, idtype, waitid_flags, user_data,
        0, 0, options, 0, 0,
    )  # fmt: skip


def prep_futex_wake(
    sqe: Sqe, futex: int, val: int, mask: int, futex_flags: int, op_flags: int, user_data: int = 0,
    flags: int = 0,
) -> None:  # fmt: skip
    """Wake the waiters of a futex.

    Args: futex is the address of the word; val is the number of waiters to wake; mask of the bits that must
        match, FUTEX_BITSET_MATCH_ANY for all; futex_flags is a mask of FUTEX2_*; op_flags is 0.
    CQE: res is the number of woken waiters, or a negative errno.
    Lifetime: until the final CQE.
    Since: 6.7
    Mirrors: liburing io_uring_prep_futex_wake
    """
    _pack(
        sqe, 0, uapi.IORING_OP_FUTEX_WAKE, flags, 0, futex_flags, val, futex, 0, op_flags, user_data,
        0, 0, 0, mask, 0,
    )  # fmt: skip


def prep_futex_wait(
    sqe: Sqe, futex: int, val: int, mask: int, futex_flags: int, op_flags: int, user_data: int = 0,
    flags: int = 0,
) -> None:  # fmt: skip
    """Wait until a futex is woken, if it holds the expected value.

    Args: val is that value; the others as in prep_futex_wake.
    CQE: res is 0 when woken; -EAGAIN when the word holds another value; -ECANCELED.
    Lifetime: until the final CQE.
    Since: 6.7
    Mirrors: liburing io_uring_prep_futex_wait
    """
    _pack(
        sqe, 0, uapi.IORING_OP_FUTEX_WAIT, flags, 0, futex_flags, val, futex, 0, op_flags, user_data,
        0, 0, 0, mask, 0,
    )  # fmt: skip


def prep_futex_waitv(
    sqe: Sqe, futex: int, nr_futex: int, op_flags: int, user_data: int = 0, flags: int = 0
) -> None:
    """Wait until one of several futexes is woken.

    Args: futex is the address of nr_futex structs futex_waitv (buffers.futex_waitv); op_flags is 0.
    CQE: res is the index of the woken futex; -EAGAIN when a word holds another value; -ECANCELED.
    Lifetime: until the final CQE.
    Since: 6.7
    Mirrors: liburing io_uring_prep_futex_waitv
    """
    _pack(
        sqe, 0, uapi.IORING_OP_FUTEX_WAITV, flags, 0, 0, 0, futex, nr_futex, op_flags, user_data,
        0, 0, 0, 0, 0,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------
# Commands for drivers


def prep_uring_cmd_op(
    sqe: Sqe, op: int, cmd_op: int, fd: int, user_data: int = 0, flags: int = 0,
    *, cmd: bytes = b"", uring_cmd_flags: int = 0, buf_index: int = 0,
) -> None:  # fmt: skip
    """Send a command to a driver, with either of the two operations for commands.

    Args: op is IORING_OP_URING_CMD or IORING_OP_URING_CMD128; cmd_op is defined by the driver; cmd is up to
        16 bytes, up to 80 if the slot has 128 bytes; uring_cmd_flags is a mask of IORING_URING_CMD_*;
        buf_index names a registered buffer.
    CQE: defined by the driver, with two more words in a 32-byte CQE; -EOPNOTSUPP if the file has no commands.
    Raises: ValueError if cmd is too long.
    Lifetime: until the final CQE for memory that cmd points to; cmd itself is copied.
    Since: 5.19
    Mirrors: liburing __io_uring_prep_uring_cmd, which leaves cmd to the caller
    """
    room = 80 if len(sqe) >= 128 else 16
    if len(cmd) > room:
        raise ValueError(f"a command of {len(cmd)} bytes does not fit into the {room} of this SQE")
    pack_into = _pack_cmd128 if room == 80 else _pack_cmd
    pack_into(
        sqe, 0, op, flags, 0, fd, _pair(cmd_op, 0), 0, 0, uring_cmd_flags, user_data, buf_index, 0, 0, cmd
    )


def prep_uring_cmd(
    sqe: Sqe, cmd_op: int, fd: int, user_data: int = 0, flags: int = 0,
    *, cmd: bytes = b"", uring_cmd_flags: int = 0, buf_index: int = 0,
) -> None:  # fmt: skip
    """Send a command to a driver.

    Args: as prep_uring_cmd_op.
    CQE: as prep_uring_cmd_op.
    Raises: ValueError if cmd is too long.
    Lifetime: until the final CQE for memory that cmd points to; cmd itself is copied.
    Since: 5.19
    Mirrors: liburing io_uring_prep_uring_cmd
    """
    prep_uring_cmd_op(
        sqe, uapi.IORING_OP_URING_CMD, cmd_op, fd, user_data, flags,
        cmd=cmd, uring_cmd_flags=uring_cmd_flags, buf_index=buf_index,
    )  # fmt: skip


def prep_uring_cmd128(
    sqe: Sqe, cmd_op: int, fd: int, user_data: int = 0, flags: int = 0,
    *, cmd: bytes = b"", uring_cmd_flags: int = 0, buf_index: int = 0,
) -> None:  # fmt: skip
    """Send a command of up to 80 bytes to a driver.

    Args: sqe is from get_sqe128(); the others as in prep_uring_cmd_op.
    CQE: as prep_uring_cmd_op.
    Raises: ValueError if cmd is too long, or the slot does not have 128 bytes.
    Lifetime: until the final CQE for memory that cmd points to; cmd itself is copied.
    Since: 6.19
    Mirrors: liburing io_uring_prep_uring_cmd128
    """
    if len(sqe) < 128:
        raise ValueError(f"URING_CMD128 needs a slot of 128 bytes, not {len(sqe)}: see get_sqe128()")
    prep_uring_cmd_op(
        sqe, uapi.IORING_OP_URING_CMD128, cmd_op, fd, user_data, flags,
        cmd=cmd, uring_cmd_flags=uring_cmd_flags, buf_index=buf_index,
    )  # fmt: skip


def prep_cmd_discard(
    sqe: Sqe, fd: int, offset: int, nbytes: int, user_data: int = 0, flags: int = 0
) -> None:
    """Tell a block device that a range of it is no longer needed.

    Args: fd is a block device; offset and nbytes in bytes, whole sectors.
    CQE: res is 0, or a negative errno.
    Since: 6.12
    Mirrors: liburing io_uring_prep_cmd_discard
    """
    _pack(
        sqe, 0, uapi.IORING_OP_URING_CMD, flags, 0, fd, _pair(_block_command(0), 0), offset, 0, 0,
        user_data, 0, 0, 0, nbytes, 0,
    )  # fmt: skip


def prep_cmd_zone_reset_all(sqe: Sqe, fd: int, user_data: int = 0, flags: int = 0) -> None:
    """Reset all zones of a zoned block device.

    Args: fd is a block device.
    CQE: res is 0, or a negative errno.
    Since: not certain; liburing has it since 2.16
    Mirrors: liburing io_uring_prep_cmd_zone_reset_all
    """
    _pack(
        sqe, 0, uapi.IORING_OP_URING_CMD, flags, 0, fd, _pair(_block_command(1), 0), 0, 0, 0, user_data,
        0, 0, 0, 0, 0,
    )  # fmt: skip


def _block_command(number: int) -> int:
    """Compute a block device's command, _IO(0x12, number), as this machine's ioctls are numbered."""
    machine = os.uname().machine if hasattr(os, "uname") else ""  # Windows has no uname; layout.py runs there
    none = 1 << 29 if machine.startswith(("mips", "ppc", "sparc", "alpha")) else 0
    return none | 0x12 << 8 | number


def _half(addrlen: int) -> int:
    """Put the 16-bit addr_len where the 32-bit file_index is: they begin at the same byte."""
    if not 0 <= addrlen <= 0xFFFF:
        raise struct.error(f"addrlen={addrlen} does not fit into 16 bits")
    return addrlen << 16 if _BIG_ENDIAN else addrlen
