# SPDX-License-Identifier: MIT
# pyright: basic
"""The memory of a ring: its sizes, its mapping, and whether it agrees with the kernel's answer.

What it is: map_rings(), which maps the memory that queues.py explains, and check_layout(); for NO_MMAP,
memory of our own.
Mirrors: liburing ``src/setup.c``, the half that touches memory, and the assertions of Zig's IoUring.init.
Must not know: the meaning of the words in that memory.
Invariant: no word is read or written before its place in the memory has been checked.
Read next: queues.py, which draws this memory. On a first reading this file can be skipped.

Unless said otherwise, memory passed to a call may be freed when the call returns, any thread may call, and
Linux 5.1 suffices.
"""

from __future__ import annotations

import os
import struct
import sys

from . import uapi
from .params import MAX_ENTRIES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_U32 = struct.Struct("=I")


def memory_sizes(params: dict[str, Any]) -> tuple[int, int, int]:
    """Compute how many bytes a ring needs.

    Args: params is the unpacked io_uring_params that the kernel filled.
    Returns: the sizes of the SQ ring, the CQ ring and the SQE array.
    Mirrors: liburing get_sq_cq_mmap_size, io_uring_mmap
    """
    flags = params["flags"]
    cqe_size = 32 if flags & uapi.IORING_SETUP_CQE32 else 16
    sqe_size = 128 if flags & uapi.IORING_SETUP_SQE128 else 64
    sq_size = params["sq_off"]["array"] + params["sq_entries"] * 4
    cq_size = params["cq_off"]["cqes"] + params["cq_entries"] * cqe_size
    return sq_size, cq_size, params["sq_entries"] * sqe_size


def map_rings(fd: int, params: dict[str, Any], single_mmap: bool = True) -> tuple[Any, Any, Any]:
    """Map the memory that a ring shares with us.

    Args: fd is the ring's descriptor; params is the unpacked io_uring_params; single_mmap False maps the
        CQ ring separately even where one mapping is enough, as before 5.4.
    Returns: the SQ ring, the CQ ring (the same object when they share a mapping) and the SQE array.
    Raises: OSError from mmap(2).
    Lifetime: none; the mappings stay until they are closed and every view of them is gone.
    Since: 5.1; one mapping for both rings 5.4
    Mirrors: liburing io_uring_mmap
    """
    import mmap

    flags = params["flags"]
    sq_size, cq_size, sqes_size = memory_sizes(params)
    single_mmap = single_mmap and bool(params["features"] & uapi.IORING_FEAT_SINGLE_MMAP)
    # Without an index array sq_off.array is 0, and sq_size is meaningless.
    if single_mmap or flags & uapi.IORING_SETUP_NO_SQARRAY:
        sq_size = cq_size = max(sq_size, cq_size)

    def map_at(size: int, offset: int) -> mmap.mmap:
        # Populated, so that no page fault occurs later between us and the kernel.
        populate = getattr(mmap, "MAP_POPULATE", 0)
        return mmap.mmap(
            fd, size, mmap.MAP_SHARED | populate, mmap.PROT_READ | mmap.PROT_WRITE, offset=offset
        )

    done: list[mmap.mmap] = []
    pypy = sys.implementation.name == "pypy"
    known = _ring_fds() if pypy else set()
    try:
        done.append(map_at(sq_size, uapi.IORING_OFF_SQ_RING))
        done.append(done[0] if single_mmap else map_at(cq_size, uapi.IORING_OFF_CQ_RING))
        done.append(map_at(sqes_size, uapi.IORING_OFF_SQES))
    except BaseException:
        for memory in done:
            memory.close()
        raise
    finally:
        if pypy:
            # Its mmap keeps a copy of the descriptor that is not close-on-exec.
            for copy in _ring_fds() - known:
                _keep_from_programs(copy)
    return done[0], done[1], done[2]


def _keep_from_programs(fd: int) -> None:
    try:
        os.set_inheritable(fd, False)
    except OSError:
        return  # another thread's ring, closed by now


def _ring_fds() -> set[int]:
    found = set()
    try:
        for name in os.listdir("/proc/self/fd"):
            try:
                if "io_uring" in os.readlink(f"/proc/self/fd/{name}"):
                    found.add(int(name))
            except OSError:
                continue  # closed meanwhile, as the listing's own descriptor is
    except OSError:
        pass  # no /proc
    return found


def unmap(mappings: Sequence[Any]) -> None:
    """Close mappings; one of which a view still exists is unmapped with the last view.

    Args: mappings may hold the same one twice.
    """
    for memory in {id(m): m for m in mappings}.values():
        try:
            memory.close()
        except BufferError:
            continue


def place(memory: tuple[Any, Any] | None, entries: int, cq_entries: int, flags: int) -> tuple[Any, Any]:
    """Find memory for a NO_MMAP ring: the header, CQEs and index array in one block, the SQEs in another.

    Args: memory is the caller's pair of buffers, or None; entries, cq_entries (0 for the default) and flags
        as for the ring.
    Returns: the pair of buffers.
    Raises: ValueError for buffers that are too small for such a ring.
    """
    import mmap

    if memory is not None:
        # The kernel trusts the addresses: if the memory is too small, it would write beyond its end.
        check_room(*memory, _least_sizes(entries, cq_entries, flags))
        return memory
    _, rings, sqes = _least_sizes(entries, cq_entries, flags & ~uapi.IORING_SETUP_NO_SQARRAY)
    # The header is 5 cache lines at most, and cache lines are 256 bytes at most.
    return mmap.mmap(-1, 8 * 256 + rings), mmap.mmap(-1, sqes)


def _least_sizes(entries: int, cq_entries: int, flags: int) -> tuple[int, int, int]:
    """Compute a lower bound of memory_sizes(), which knows how many words precede the CQEs."""
    sq = 1 << (min(entries, MAX_ENTRIES) - 1).bit_length()
    cq = 1 << (min(max(cq_entries, sq) if cq_entries else 2 * sq, 2 * MAX_ENTRIES) - 1).bit_length()
    nowhere = {"sq_off": {"array": 0}, "cq_off": {"cqes": 0}}
    array, cqes, sqes = memory_sizes({"flags": flags, "sq_entries": sq, "cq_entries": cq, **nowhere})
    if flags & uapi.IORING_SETUP_NO_SQARRAY:
        array = 0
    return array, cqes + array, sqes


def check_room(rings: Any, sqes: Any, sizes: tuple[int, int, int]) -> None:
    """Reject memory that is too small for a ring.

    Args: rings and sqes are the buffers of a NO_MMAP ring; sizes as memory_sizes() returns them.
    Raises: ValueError.
    """
    for name, memory, wanted in (("rings", rings, max(sizes[:2])), ("SQEs", sqes, sizes[2])):
        nbytes = memoryview(memory).nbytes
        if nbytes < wanted:
            raise ValueError(f"memory: {nbytes} bytes for the {name} are too few, {wanted} are needed")


_WORDS = ("head", "tail", "ring_mask", "ring_entries")
_SQ_WORDS = [(f"sq_off.{word}", word) for word in (*_WORDS, "flags", "dropped")]
_CQ_WORDS = [(f"cq_off.{word}", word) for word in (*_WORDS, "overflow")]


def check_layout(mappings: Sequence[Any], params: dict[str, Any]) -> None:
    """Reject offsets and sizes that do not describe the memory: we would write outside of it.

    Args: mappings are the SQ ring, the CQ ring and the SQE array; params is the unpacked io_uring_params that
        the kernel filled.
    Raises: RuntimeError, which names the word.
    Mirrors: the assertions of Zig's IoUring.init
    """
    sq_off, cq_off = params["sq_off"], params["cq_off"]
    sq_size, cq_size, sqes_size = memory_sizes(params)
    # (its start, its length, its alignment, its name)
    sq = [(sq_off[word], 4, 4, name) for name, word in _SQ_WORDS]
    cq = [(cq_off[word], 4, 4, name) for name, word in _CQ_WORDS]
    cq.append((cq_off["cqes"], cq_size - cq_off["cqes"], 8, "cq_off.cqes"))
    if not params["flags"] & uapi.IORING_SETUP_NO_SQARRAY:
        sq.append((sq_off["array"], sq_size - sq_off["array"], 4, "sq_off.array"))
    shared = mappings[0] is mappings[1]
    _check_parts(mappings[0], sq + cq if shared else sq)
    if not shared:
        _check_parts(mappings[1], cq)
    _check_parts(mappings[2], [(0, sqes_size, 1, "the place of the SQEs")])
    for ring, memory, offsets in (("sq", mappings[0], sq_off), ("cq", mappings[1], cq_off)):
        found, told = _U32.unpack_from(memory, offsets["ring_entries"])[0], params[f"{ring}_entries"]
        if found != told:
            raise RuntimeError(f"{ring}.ring_entries is {found}, but io_uring_params says {told}")


def _check_parts(memory: Any, parts: list[tuple[int, int, int, str]]) -> None:
    with memoryview(memory) as view:
        room = view.nbytes
    end, before = 0, ""  # of the previous part
    parts.sort()
    for start, nbytes, alignment, name in parts:
        if start % alignment:
            raise RuntimeError(f"{name} is {start}, which is not a multiple of {alignment}")
        if start + nbytes > room:
            raise RuntimeError(f"{name} is {start}, where {nbytes} bytes exceed a mapping of {room}")
        if start < end:
            raise RuntimeError(f"{name} is {start}, which lies in {before}")
        end, before = start + nbytes, name
