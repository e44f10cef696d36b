# SPDX-License-Identifier: MIT
# pyright: basic
"""register_*: the operations of io_uring_register, one function for each.

What it is: registered buffers and files, rings of provided buffers, and everything else that is set up once
and used often; and queries of the kernel.
Mirrors: liburing ``src/register.c``, under its names.
Must not know: operations, completions.
Invariant: memory that the kernel may still use after a call is referenced by ``ring.resources``, so that it
lives as long as the registration.
Read next: inflight.py.

Unless said otherwise, memory passed to a call may be freed when the call returns, only the thread that owns a
ring may use it, and Linux 5.1 suffices. Errors are OSError with the kernel's errno, and the message explains
what that errno means here.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import sys
from collections import namedtuple

from . import barriers, buffers, gates, rings, seccomp, syscalls, uapi
from .buffers import ProvidedBuffers, StructBuffer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from .rings import Ring

_ADVICE = {
    errno.EBUSY: "something is already registered: unregister it first",
    errno.ENXIO: "nothing is registered",
    errno.EACCES: "a restriction forbids it",
    errno.EPERM: "this process may not do this, or a seccomp filter forbids it",
    errno.EOPNOTSUPP: "this kernel was built without it, or this ring's setup flags exclude it",
    errno.EEXIST: "already taken, or the ring belongs to another thread",
    errno.EMFILE: "more than RLIMIT_NOFILE allows",
    errno.ENOMEM: "more than RLIMIT_MEMLOCK allows, or no memory",
    errno.EBADF: "a descriptor is not open",
    errno.EFAULT: "an address is not mapped, or not writable",
    errno.ENOENT: "no such request, or no such group",
    errno.EALREADY: "it is running and cannot be stopped; its own CQE will arrive",
    errno.ETIME: "the timeout has passed; cancelled requests still end with their own CQEs",
    errno.EOVERFLOW: "the entries in the ring do not fit",
    getattr(errno, "EBADFD", -1): "the ring is not disabled (IORING_SETUP_R_DISABLED), or no longer",
}


def _explained(error: OSError, opcode: int, blind: bool = False) -> OSError:
    """Add the meaning of the errno to the error of a registration."""
    code = error.errno or 0
    advice = _ADVICE.get(code, "")
    since = uapi.SINCE.get(uapi.name_of("IORING_REGISTER_", opcode), "?")
    kernel = f"this kernel{f' ({gates.running()})' if gates.running() else ''}"
    if code == errno.EINVAL:
        advice = f"an argument is wrong, or {kernel} is older than {since}"
    elif code == errno.EBADF and blind:
        advice = f"{kernel} is older than {since}, or a descriptor is not open"
    explained = OSError(code, f"{error.strerror}: {advice}") if advice else error
    explained.of_kernel = syscalls.is_of_kernel(error)  # type: ignore[attr-defined]
    return explained


def _register(ring: Ring, opcode: int, arg: Any, nr_args: int) -> int:
    try:
        return ring.register(opcode, arg, nr_args)
    except OSError as error:
        # Raised at once: a variable would be in a cycle with the traceback, and keep the ring in it.
        raise _explained(error, opcode) from None


def _register_blind(opcode: int, arg: Any, nr_args: int) -> int:
    """Register without a ring: descriptor -1."""
    seccomp.check()  # perhaps no ring has been created before, and so no other code has checked
    try:
        return syscalls.io_uring_register(-1, opcode, arg, nr_args)
    except OSError as error:
        raise _explained(error, opcode, blind=True) from None


@contextlib.contextmanager
def _held(ring: Ring, *memory: Any) -> Iterator[tuple[str, int]]:
    """Hold memory before the kernel learns of it, and until it is entered in its place.

    A signal handler may raise in between. Whether it was registered is then unknown: the ring holds it until
    it is closed.
    """
    key = ("unsure", next(_unsure))
    ring.resources[key] = memory
    try:
        yield key
    except OSError as error:
        if getattr(error, "of_kernel", False):
            ring.resources.pop(key, None)
        raise
    else:
        del ring.resources[key]


_unsure = itertools.count()


def _forget(ring: Ring, kind: str) -> None:
    for key in [key for key in ring.resources if key[0] == kind]:
        del ring.resources[key]


# ------------------------------------------------------------------------------------------------------
# Buffers


def _pins(memories: Iterable[Any]) -> list[buffers.Pin]:
    """Pin each memory; None means an empty slot."""
    empty = buffers.Pin(0, 0, None)
    given = buffers._objects_of("memories", memories, "buffers")
    return [empty if memory is None else buffers.pin(memory, writable=True) for memory in given]


def _keep_buffers(ring: Ring, off: int, pins: Sequence[buffers.Pin]) -> None:
    for index, pin in enumerate(pins, off):
        ring.resources["buffer", index] = pin


def _tag_array(tags: Sequence[int] | None, count: int) -> StructBuffer | None:
    if tags is None:
        return None
    if len(tags) != count:
        raise ValueError(f"{len(tags)} tags for {count} slots")
    return StructBuffer(b"".join(tag.to_bytes(8, sys.byteorder) for tag in tags))


def _address(block: StructBuffer | None) -> int:
    return 0 if block is None else block.address


def register_buffers(ring: Ring, memories: Iterable[Any]) -> list[buffers.Pin]:
    """Register buffers, to which READ_FIXED, WRITE_FIXED and others refer by number.

    The kernel maps them once instead of once for each request.

    Args: memories are writable buffers; the first is number 0.
    Returns: their pins, for the addresses.
    Raises: OSError; TypeError and BufferError as buffers.pin().
    Lifetime: none; the ring holds them until unregister_buffers() or close().
    Mirrors: liburing io_uring_register_buffers
    """
    pins = _pins(memories)
    vector = buffers.iovec(pins)
    with _held(ring, pins):
        _register(ring, uapi.IORING_REGISTER_BUFFERS, vector.address, len(pins))
        _keep_buffers(ring, 0, pins)
    return pins


def register_buffers_tags(
    ring: Ring, memories: Iterable[Any], tags: Sequence[int]
) -> list[buffers.Pin]:
    """Register buffers with a tag each: a CQE with that user_data signals when one is no longer in use.

    Args: memories are writable buffers, or None for an empty slot; a tag of 0 posts no CQE. Kernels up to
        6.12 post none when all are unregistered.
    Returns: their pins.
    Raises: OSError; ValueError for a different number of tags.
    Lifetime: none; the ring holds them until unregister_buffers() or close().
    Since: 5.13
    Mirrors: liburing io_uring_register_buffers_tags
    """
    pins = _pins(memories)
    vector, tag_array = buffers.iovec(pins), _tag_array(tags, len(pins))
    argument = StructBuffer(
        uapi.io_uring_rsrc_register.pack(nr=len(pins), data=vector.address, tags=_address(tag_array))
    )
    with _held(ring, pins):
        _register(ring, uapi.IORING_REGISTER_BUFFERS2, argument.address, argument.nbytes)
        _keep_buffers(ring, 0, pins)
    return pins


def register_buffers_sparse(ring: Ring, nr: int) -> None:
    """Create a table of registered buffers, all slots empty.

    Args: nr is the number of slots.
    Raises: OSError.
    Since: 5.19
    Mirrors: liburing io_uring_register_buffers_sparse
    """
    argument = StructBuffer(uapi.io_uring_rsrc_register.pack(nr=nr, flags=uapi.IORING_RSRC_REGISTER_SPARSE))
    _register(ring, uapi.IORING_REGISTER_BUFFERS2, argument.address, argument.nbytes)


def register_buffers_update_tag(
    ring: Ring, off: int, memories: Iterable[Any], tags: Sequence[int] | None = None
) -> list[buffers.Pin]:
    """Put other buffers into slots; requests in flight continue with the old ones.

    Args: off is the first slot; memories are writable buffers, or None to clear the slot; tags as in
        register_buffers_tags().
    Returns: the pins of those that were registered: fewer than memories if the kernel rejected a later one.
    Raises: OSError; ValueError for a different number of tags.
    Lifetime: none; but the old buffers until the final CQE of the requests that use them, or their tag's CQE.
    Since: 5.13
    Mirrors: liburing io_uring_register_buffers_update_tag
    """
    pins = _pins(memories)
    vector, tag_array = buffers.iovec(pins), _tag_array(tags, len(pins))
    argument = StructBuffer(
        uapi.io_uring_rsrc_update2.pack(
            offset=off, nr=len(pins), data=vector.address, tags=_address(tag_array)
        )
    )
    with _held(ring, *pins):
        done = _register(ring, uapi.IORING_REGISTER_BUFFERS_UPDATE, argument.address, argument.nbytes)
        del pins[done:]  # the kernel still has the earlier buffers
        _keep_buffers(ring, off, pins)
    return pins


def unregister_buffers(ring: Ring) -> None:
    """Unregister all buffers; requests in flight continue with them.

    Raises: OSError, ENXIO if none is registered.
    Lifetime: none; but the buffers until the final CQE of the requests that use them.
    Mirrors: liburing io_uring_unregister_buffers
    """
    _register(ring, uapi.IORING_UNREGISTER_BUFFERS, None, 0)
    _forget(ring, "buffer")


def clone_buffers(
    dst: Ring, src: Ring, dst_off: int = 0, src_off: int = 0, nr: int = 0, *, replace: bool = False
) -> None:
    """Share the registered buffers of one ring with another.

    Args: dst gets the buffers of src: nr of them, 0 for all, from slot src_off on, into the slots from
        dst_off on; replace allows slots that are in use.
    Raises: OSError, EBUSY if dst already has buffers and replace is False.
    Lifetime: none; both rings hold them.
    Threads: the owner of dst.
    Since: 6.12; offsets and replace 6.13
    Mirrors: liburing io_uring_clone_buffers, io_uring_clone_buffers_offset
    """
    argument = StructBuffer(
        uapi.io_uring_clone_buffers.pack(
            src_fd=src.fileno(), src_off=src_off, dst_off=dst_off, nr=nr,
            flags=uapi.IORING_REGISTER_DST_REPLACE if replace else 0,
        )
    )  # fmt: skip
    pins = {
        ("buffer", index - src_off + dst_off): pin
        for (kind, index), pin in list(src.resources.items())
        if kind == "buffer" and index >= src_off and (not nr or index < src_off + nr)
    }
    with _held(dst, pins):
        _register(dst, uapi.IORING_REGISTER_CLONE_BUFFERS, argument.address, 1)
        dst.resources.update(pins)


# ------------------------------------------------------------------------------------------------------
# Files


def register_files(ring: Ring, fds: Iterable[int]) -> None:
    """Register files, to which requests with IOSQE_FIXED_FILE refer by number.

    The ring holds the files themselves: the descriptors may be closed.

    Args: fds are descriptors, -1 for an empty slot; the first is number 0.
    Raises: OSError, EMFILE for more than RLIMIT_NOFILE allows.
    Since: 5.1; empty slots 5.5
    Mirrors: liburing io_uring_register_files
    """
    array = buffers.ints(fds)
    _register(ring, uapi.IORING_REGISTER_FILES, array.address, array.nbytes // 4)


def register_files_tags(ring: Ring, fds: Iterable[int], tags: Sequence[int]) -> None:
    """Register files with a tag each: a CQE with that user_data signals when one is no longer in use.

    Args: fds as in register_files(); a tag of 0 posts no CQE.
    Raises: OSError; ValueError for a different number of tags.
    Since: 5.13
    Mirrors: liburing io_uring_register_files_tags
    """
    array = buffers.ints(fds)
    count = array.nbytes // 4
    tag_array = _tag_array(tags, count)
    argument = StructBuffer(
        uapi.io_uring_rsrc_register.pack(nr=count, data=array.address, tags=_address(tag_array))
    )
    _register(ring, uapi.IORING_REGISTER_FILES2, argument.address, argument.nbytes)


def register_files_sparse(ring: Ring, nr: int) -> None:
    """Create a table of registered files, all slots empty: direct descriptors go there.

    Args: nr is the number of slots.
    Raises: OSError, EMFILE for more than RLIMIT_NOFILE allows.
    Since: 5.19
    Mirrors: liburing io_uring_register_files_sparse
    """
    argument = StructBuffer(uapi.io_uring_rsrc_register.pack(nr=nr, flags=uapi.IORING_RSRC_REGISTER_SPARSE))
    _register(ring, uapi.IORING_REGISTER_FILES2, argument.address, argument.nbytes)


def register_files_update(ring: Ring, off: int, fds: Iterable[int]) -> int:
    """Put other files into slots.

    Args: off is the first slot; fds are descriptors, -1 to clear the slot, IORING_REGISTER_FILES_SKIP to
        leave it.
    Returns: the number of changed slots.
    Raises: OSError.
    Since: 5.5
    Mirrors: liburing io_uring_register_files_update
    """
    array = buffers.ints(fds)
    argument = StructBuffer(uapi.io_uring_rsrc_update.pack(offset=off, data=array.address))
    return _register(ring, uapi.IORING_REGISTER_FILES_UPDATE, argument.address, array.nbytes // 4)


def register_files_update_tag(
    ring: Ring, off: int, fds: Iterable[int], tags: Sequence[int] | None = None
) -> int:
    """Put other files into slots, with tags.

    Args: as register_files_update() and register_files_tags().
    Returns: the number of changed slots.
    Raises: OSError; ValueError for a different number of tags.
    Since: 5.13
    Mirrors: liburing io_uring_register_files_update_tag
    """
    array = buffers.ints(fds)
    count = array.nbytes // 4
    tag_array = _tag_array(tags, count)
    argument = StructBuffer(
        uapi.io_uring_rsrc_update2.pack(offset=off, nr=count, data=array.address, tags=_address(tag_array))
    )
    return _register(ring, uapi.IORING_REGISTER_FILES_UPDATE2, argument.address, argument.nbytes)


def register_file_alloc_range(ring: Ring, off: int, length: int) -> None:
    """Set the range of slots from which IORING_FILE_INDEX_ALLOC chooses.

    Args: length slots from slot off on.
    Raises: OSError.
    Since: 6.0
    Mirrors: liburing io_uring_register_file_alloc_range
    """
    argument = StructBuffer(uapi.io_uring_file_index_range.pack(off=off, len=length))
    _register(ring, uapi.IORING_REGISTER_FILE_ALLOC_RANGE, argument.address, 0)


def unregister_files(ring: Ring) -> None:
    """Unregister all files; requests in flight continue with them.

    Raises: OSError, ENXIO if none is registered.
    Mirrors: liburing io_uring_unregister_files
    """
    _register(ring, uapi.IORING_UNREGISTER_FILES, None, 0)


# ------------------------------------------------------------------------------------------------------
# Rings of provided buffers


def setup_buf_ring(
    ring: Ring, bgid: int, count: int, size: int, *, kernel_memory: bool = False,
    incremental: bool = False, min_left: int = 0,
) -> ProvidedBuffers:  # fmt: skip
    """Create a group of buffers for requests with IOSQE_BUFFER_SELECT.

    Args: bgid is the group; count buffers of size bytes each; kernel_memory lets the kernel allocate the
        ring (IOU_PBUF_RING_MMAP, 6.4); incremental consumes a buffer piece by piece (IOU_PBUF_RING_INC,
        6.12); min_left, in bytes, ends an incremental buffer with less room left (7.1).
    Returns: the group, full.
    Raises: OSError, EEXIST if the group exists, EOPNOTSUPP where the kernel would crash (gates.py,
        pbuf-highmem); ValueError for sizes that no kernel accepts.
    Lifetime: none; the ring holds it until free_buf_ring() or close().
    Since: 5.19
    Mirrors: liburing io_uring_setup_buf_ring, which leaves the buffers to the caller
    """
    for name, value, least, most in (
        ("bgid", bgid, 0, 0xFFFF), ("count", count, 1, 32768), ("size", size, 1, 0xFFFFFFFF),
        ("min_left", min_left, 0, 0xFFFFFFFF),
    ):  # fmt: skip
        buffers._integer(name, value, least, most)
    if not kernel_memory and gates.applies("pbuf-highmem") and _has_high_memory():
        raise OSError(
            errno.EOPNOTSUPP,
            "IORING_REGISTER_PBUF_RING: this 32-bit kernel has high memory, and before Linux 6.6 it crashes "
            "when a ring of buffers lies there. From 6.4 pass kernel_memory=True; before, use "
            "prep_provide_buffers",
        )
    entries = 1 << (count - 1).bit_length()
    ring_memory = None if kernel_memory else buffers.allocate(entries * uapi.io_uring_buf.size)
    slab = buffers.allocate(count * size)
    flags = (uapi.IOU_PBUF_RING_MMAP if kernel_memory else 0) | (uapi.IOU_PBUF_RING_INC if incremental else 0)
    pin = None if ring_memory is None else buffers.pin(ring_memory, writable=True)
    argument = StructBuffer(
        uapi.io_uring_buf_reg.pack(
            ring_addr=0 if pin is None else pin.address, ring_entries=entries, bgid=bgid, flags=flags,
            min_left=min_left,
        )
    )  # fmt: skip
    with _held(ring, pin, ring_memory, slab) as key:
        _register(ring, uapi.IORING_REGISTER_PBUF_RING, argument.address, 1)
        try:
            if ring_memory is None:
                ring_memory = _map_pbuf_ring(ring, bgid, entries)
            group = ProvidedBuffers(buffers.BufferRing(ring_memory, entries), slab, size, bgid, count)
        except BaseException:
            _unregister_pbuf_ring(ring, bgid)
            del ring.resources[key]
            raise
        ring.resources["pbuf", bgid] = (group, pin, ring_memory, slab)
    return group


def _has_high_memory() -> bool:
    """Tell whether this kernel has memory that is not permanently mapped, as 32-bit ones do."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return any(line.startswith("HighTotal:") and line.split()[1] != "0" for line in file)
    except OSError:
        return sys.maxsize < 1 << 32  # no /proc: assume so


def _map_pbuf_ring(ring: Ring, bgid: int, entries: int) -> Any:
    import mmap

    offset = uapi.IORING_OFF_PBUF_RING | bgid << uapi.IORING_OFF_PBUF_SHIFT
    access = mmap.PROT_READ | mmap.PROT_WRITE
    return mmap.mmap(ring.fileno(), entries * uapi.io_uring_buf.size, mmap.MAP_SHARED, access, offset=offset)


def _unregister_pbuf_ring(ring: Ring, bgid: int) -> None:
    argument = StructBuffer(uapi.io_uring_buf_reg.pack(bgid=bgid))
    _register(ring, uapi.IORING_UNREGISTER_PBUF_RING, argument.address, 1)


def free_buf_ring(ring: Ring, group: ProvidedBuffers) -> None:
    """Remove a group of buffers from the kernel.

    Args: group is from setup_buf_ring(). End the requests that use it first: one that has taken a buffer
        continues to use it.
    Raises: OSError, ENOENT if the group does not exist.
    Lifetime: until the final CQE of the requests that have taken a buffer: hold the group that long.
    Since: 5.19
    Mirrors: liburing io_uring_free_buf_ring
    """
    _unregister_pbuf_ring(ring, group.bgid)
    del ring.resources["pbuf", group.bgid]
    group.release()


def buf_ring_head(ring: Ring, bgid: int) -> int:
    """Return the kernel's position in a ring of buffers.

    Args: bgid is the group.
    Returns: the kernel's head, a free-running 16-bit number.
    Raises: OSError, ENOENT if the group does not exist.
    Since: 6.8
    Mirrors: liburing io_uring_buf_ring_head
    """
    argument = StructBuffer(uapi.io_uring_buf_status.pack(buf_group=bgid))
    _register(ring, uapi.IORING_REGISTER_PBUF_STATUS, argument.address, 1)
    return int(uapi.io_uring_buf_status.unpack(argument.read())["head"])


def buf_ring_available(ring: Ring, group: ProvidedBuffers) -> int:
    """Count the buffers that the kernel has not yet taken.

    Args: group as setup_buf_ring() returned it.
    Returns: 0 to its count, at this moment.
    Raises: OSError.
    Since: 6.8
    Mirrors: liburing io_uring_buf_ring_available
    """
    return (group.ring.tail - buf_ring_head(ring, group.bgid)) & 0xFFFF


# ------------------------------------------------------------------------------------------------------
# Notification of completions


def register_eventfd(ring: Ring, fd: int) -> None:
    """Signal an eventfd for each completion.

    Args: fd is an eventfd.
    Raises: OSError, EBUSY if one is registered.
    Lifetime: none; the file stays open until unregister_eventfd() or close().
    Since: 5.2
    Mirrors: liburing io_uring_register_eventfd
    """
    array = buffers.ints([fd])
    _register(ring, uapi.IORING_REGISTER_EVENTFD, array.address, 1)


def register_eventfd_async(ring: Ring, fd: int) -> None:
    """Signal an eventfd only for completions from a worker thread.

    Requests that complete during submission do not signal: a loop that sleeps on this eventfd alone may sleep
    for ever.

    Args: fd is an eventfd.
    Raises: OSError, EBUSY if one is registered.
    Lifetime: none; the file stays open until unregister_eventfd() or close().
    Since: 5.6
    Mirrors: liburing io_uring_register_eventfd_async
    """
    array = buffers.ints([fd])
    _register(ring, uapi.IORING_REGISTER_EVENTFD_ASYNC, array.address, 1)


def unregister_eventfd(ring: Ring) -> None:
    """Stop signalling the eventfd, also that of Ring.wakeup_fd(), which is closed.

    Raises: OSError, ENXIO if none is registered.
    Since: 5.2
    Mirrors: liburing io_uring_unregister_eventfd
    """
    _register(ring, uapi.IORING_UNREGISTER_EVENTFD, None, 0)
    ring._close_wakeup_fd()


# ------------------------------------------------------------------------------------------------------
# Permissions and credentials


def register_personality(ring: Ring) -> int:
    """Register the caller's credentials, so that later requests can use them.

    Returns: the id for sqe.personality.
    Raises: OSError.
    Since: 5.6
    Mirrors: liburing io_uring_register_personality
    """
    return _register(ring, uapi.IORING_REGISTER_PERSONALITY, None, 0)


def unregister_personality(ring: Ring, personality: int) -> None:
    """Unregister credentials.

    Args: personality as register_personality() returned it.
    Raises: OSError, EINVAL if the id does not exist.
    Since: 5.6
    Mirrors: liburing io_uring_unregister_personality
    """
    _register(ring, uapi.IORING_UNREGISTER_PERSONALITY, None, personality)


def _restrictions(
    register_ops: Iterable[int], sqe_ops: Iterable[int], sqe_flags_allowed: int, sqe_flags_required: int
) -> list[bytes]:
    pack = uapi.io_uring_restriction.pack
    packed = [pack(opcode=uapi.IORING_RESTRICTION_REGISTER_OP, register_op=op) for op in register_ops]
    packed += [pack(opcode=uapi.IORING_RESTRICTION_SQE_OP, sqe_op=op) for op in sqe_ops]
    for kind, flags in (
        (uapi.IORING_RESTRICTION_SQE_FLAGS_ALLOWED, sqe_flags_allowed),
        (uapi.IORING_RESTRICTION_SQE_FLAGS_REQUIRED, sqe_flags_required),
    ):
        if flags:
            packed.append(pack(opcode=kind, sqe_flags=flags))
    return packed


def register_restrictions(
    ring: Ring, *, register_ops: Iterable[int] = (), sqe_ops: Iterable[int] = (),
    sqe_flags_allowed: int = 0, sqe_flags_required: int = 0,
) -> None:  # fmt: skip
    """Restrict a ring to the given operations for good, before enable() starts it.

    Args: register_ops are the IORING_REGISTER_* that are allowed, sqe_ops the IORING_OP_*; sqe_flags_allowed
        and sqe_flags_required are masks of IOSQE_*. Everything else fails with EACCES; required flags
        are also allowed.
    Raises: OSError, EBADFD if the ring is already enabled.
    Since: 5.10
    Mirrors: liburing io_uring_register_restrictions
    """
    packed = _restrictions(register_ops, sqe_ops, sqe_flags_allowed, sqe_flags_required)
    argument = StructBuffer(b"".join(packed))
    _register(ring, uapi.IORING_REGISTER_RESTRICTIONS, argument.address, len(packed))


def allow_only(
    ring: Ring, *operations: str | int | Callable[..., Any], register_ops: Iterable[int] = (),
    sqe_flags: int = 0,
) -> None:  # fmt: skip
    """Restrict a ring to these operations for good: least privilege in one call, before enable().

    Args: ring was made with IORING_SETUP_R_DISABLED; operations are names ("READ"), numbers
        (IORING_OP_READ) or prep functions (ops.prep_read); register_ops are the IORING_REGISTER_* that remain
        allowed in addition to ENABLE_RINGS; sqe_flags are the IOSQE_* that remain allowed.
    Raises: ValueError for an unknown operation, and for no operation; OSError, EBADFD if the ring is already
        enabled.
    Since: 5.10
    """
    if not operations:
        raise ValueError("name the operations that remain allowed: a ring without any is useless")
    allowed = [_opcode_of(operation) for operation in operations]
    # At least one of each kind, so that no kernel treats a kind as unrestricted.
    registrations = [uapi.IORING_REGISTER_ENABLE_RINGS, *register_ops]
    register_restrictions(ring, register_ops=registrations, sqe_ops=allowed, sqe_flags_allowed=sqe_flags)


def _opcode_of(operation: str | int | Callable[..., Any]) -> int:
    if callable(operation):
        sqe = bytearray(128)
        needed = operation.__code__.co_argcount - 1 - len(operation.__defaults__ or ())
        operation(sqe if operation.__name__.endswith("128") else memoryview(sqe)[:64], *[0] * needed)
        return sqe[0]
    if isinstance(operation, str):
        number = vars(uapi).get("IORING_OP_" + operation.upper())
        if number is None:
            raise ValueError(f"no such operation: IORING_OP_{operation.upper()}")
        return int(number)
    if not 0 <= operation < 256:
        raise ValueError(f"{operation} is not an opcode")
    return operation


def register_task_restrictions(
    *, register_ops: Iterable[int] = (), sqe_ops: Iterable[int] = (), sqe_flags_allowed: int = 0,
    sqe_flags_required: int = 0,
) -> None:  # fmt: skip
    """Restrict the calling thread's future rings, and its children's, to the given operations for good.

    Args: as register_restrictions().
    Raises: OSError.
    Since: 7.0
    Mirrors: liburing io_uring_register_task_restrictions
    """
    packed = _restrictions(register_ops, sqe_ops, sqe_flags_allowed, sqe_flags_required)
    argument = StructBuffer(uapi.io_uring_task_restriction.pack(nr_res=len(packed)) + b"".join(packed))
    _register_blind(uapi.IORING_REGISTER_RESTRICTIONS, argument.address, 1)


def bpf_program(instructions: Iterable[tuple[int, int, int, int]]) -> bytes:
    """Pack classic BPF instructions into bytes, for register_bpf_filter().

    Args: instructions are (code, jt, jf, k) as in struct sock_filter.
    Returns: 8 bytes for each.
    Source: Linux include/uapi/linux/filter.h
    """
    import struct

    return b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)


def register_bpf_filter(
    ring: Ring | None, opcode: int, program: bytes, *, pdu_size: int = 0, flags: int = 0
) -> None:
    """Let a classic BPF program decide about each request of one operation.

    The program reads struct io_uring_bpf_ctx; 0 rejects the request with EACCES, any other value allows it.
    Several programs must all allow it.

    Args: ring, or None for the calling thread's future rings and its children's; opcode is an IORING_OP_*;
        program is from bpf_program(); pdu_size is the size in bytes of the data that it reads after the head
        of the context; flags is a mask of IO_URING_BPF_FILTER_*.
    Raises: OSError; ValueError for a program that is empty or not made of whole instructions.
    Lifetime: none; the kernel copies the program.
    Since: 7.0
    Mirrors: liburing io_uring_register_bpf_filter, io_uring_register_bpf_filter_task
    """
    count, rest = divmod(len(program), 8)
    if rest or not count:
        raise ValueError(f"{len(program)} bytes are not a BPF program: each instruction has 8")
    code = StructBuffer(program)
    argument = StructBuffer(
        uapi.io_uring_bpf.pack(
            cmd_type=uapi.IO_URING_BPF_CMD_FILTER,
            filter={
                "opcode": opcode,
                "flags": flags,
                "filter_len": count,
                "pdu_size": pdu_size,
                "filter_ptr": code.address,
            },
        )
    )
    if ring is None:
        _register_blind(uapi.IORING_REGISTER_BPF_FILTER, argument.address, 1)
    else:
        _register(ring, uapi.IORING_REGISTER_BPF_FILTER, argument.address, 1)


# ------------------------------------------------------------------------------------------------------
# Queries


def register_probe(ring: Ring) -> dict[int, bool]:
    """List the operations of this kernel.

    Returns: IORING_OP_* -> whether it can be used, for each that the kernel knows.
    Raises: OSError, EINVAL before 5.6.
    Since: 5.6
    Mirrors: liburing io_uring_get_probe_ring
    """
    head, each = uapi.io_uring_probe, uapi.io_uring_probe_op
    argument = StructBuffer(bytes(head.size + 256 * each.size))
    _register(ring, uapi.IORING_REGISTER_PROBE, argument.address, 256)
    answer = argument.read()
    entries = (each.unpack(answer, head.size + i * each.size) for i in range(head.unpack(answer)["ops_len"]))
    return {entry["op"]: bool(entry["flags"] & uapi.IO_URING_OP_SUPPORTED) for entry in entries}


_QUERIES = {
    uapi.IO_URING_QUERY_OPCODES: uapi.io_uring_query_opcode,
    uapi.IO_URING_QUERY_ZCRX: uapi.io_uring_query_zcrx,
    uapi.IO_URING_QUERY_SCQ: uapi.io_uring_query_scq,
    uapi.IO_URING_QUERY_ZCRX_EVENT: uapi.io_uring_query_zcrx_event,
}


def query(query_op: int, ring: Ring | None = None) -> dict[str, Any]:
    """Query the kernel about its interface; it needs neither a ring nor the permission to create one.

    Args: query_op is an IO_URING_QUERY_*; ring may be one to query through.
    Returns: the members of the struct io_uring_query_* that belongs to it.
    Raises: OSError: EBADF or EINVAL before 6.18, EOPNOTSUPP for a query that this kernel does not know;
        ValueError for a query that this library does not know.
    Since: 6.18
    Mirrors: liburing io_uring_query
    """
    layout = _QUERIES.get(query_op)
    if layout is None:
        raise ValueError(f"query_op={query_op} is unknown")
    answer = StructBuffer(bytes(layout.size))
    argument = StructBuffer(
        uapi.io_uring_query_hdr.pack(query_data=answer.address, query_op=query_op, size=layout.size)
    )
    if ring is None:
        _register_blind(uapi.IORING_REGISTER_QUERY, argument.address, 0)
    else:
        _register(ring, uapi.IORING_REGISTER_QUERY, argument.address, 0)
    result = uapi.io_uring_query_hdr.unpack(argument.read())["result"]
    if result < 0:
        name = uapi.name_of("IO_URING_QUERY_", query_op)
        raise OSError(-result, f"io_uring_register(IORING_REGISTER_QUERY): this kernel has no {name}")
    return layout.unpack(answer.read())


# ------------------------------------------------------------------------------------------------------
# Workers and waiting


def register_iowq_aff(ring: Ring, cpus: Iterable[int]) -> None:
    """Restrict the ring's worker threads to certain CPUs.

    Args: cpus as for os.sched_setaffinity.
    Raises: OSError; ValueError for anything but a CPU number.
    Since: 5.14
    Mirrors: liburing io_uring_register_iowq_aff
    """
    numbers = set(cpus)
    if not all(0 <= cpu < 1 << 16 for cpu in numbers):
        raise ValueError(f"{numbers}: CPUs are numbered from 0")
    mask = sum(1 << cpu for cpu in numbers)
    # The kernel reads an array of longs, in this machine's byte order.
    words = max(1, (mask.bit_length() + 63) // 64)
    longs = [mask >> 64 * i & 0xFFFFFFFFFFFFFFFF for i in range(words)]
    argument = StructBuffer(b"".join(_long_words(long) for long in longs))
    _register(ring, uapi.IORING_REGISTER_IOWQ_AFF, argument.address, argument.nbytes)


def _long_words(value: int) -> bytes:
    """Split 64 bits into C longs: one, or two if a long has 32 bits."""
    import struct

    if struct.calcsize("l") == 8:
        return struct.pack("@Q", value)
    return struct.pack("@LL", value & 0xFFFFFFFF, value >> 32)


def unregister_iowq_aff(ring: Ring) -> None:
    """Allow the ring's worker threads on all CPUs of its owner.

    Raises: OSError.
    Since: 5.14
    Mirrors: liburing io_uring_unregister_iowq_aff
    """
    _register(ring, uapi.IORING_UNREGISTER_IOWQ_AFF, None, 0)


def register_iowq_max_workers(ring: Ring, bounded: int = 0, unbounded: int = 0) -> tuple[int, int]:
    """Limit the ring's worker threads, or return the limits.

    Args: bounded for work that always ends, such as file I/O; unbounded for work that may wait for ever, such
        as sockets; 0 leaves a limit unchanged.
    Returns: the previous limits.
    Raises: OSError.
    Since: 5.15
    Mirrors: liburing io_uring_register_iowq_max_workers
    """
    argument = buffers.ints([bounded, unbounded])
    _register(ring, uapi.IORING_REGISTER_IOWQ_MAX_WORKERS, argument.address, 2)
    before = argument.values()
    return before[uapi.IO_WQ_BOUND], before[uapi.IO_WQ_UNBOUND]


_ANY_INDEX = 0xFFFFFFFF


def register_ring_fd(ring: Ring) -> int:
    """Enter the ring by an index from now on, which saves the kernel a look-up.

    Returns: the index, which is valid for this thread only: see Ring.bind_thread().
    Raises: OSError, EBUSY if all 16 are taken.
    Since: 5.18
    Mirrors: liburing io_uring_register_ring_fd
    """
    argument = StructBuffer(uapi.io_uring_rsrc_update.pack(offset=_ANY_INDEX, data=ring.fileno()))
    index = _ANY_INDEX
    try:
        _register(ring, uapi.IORING_REGISTER_RING_FDS, argument.address, 1)
        index = int(uapi.io_uring_rsrc_update.unpack(argument.read())["offset"])
        ring.enter_by_index(index)
    except BaseException:
        # A signal handler may have raised after the kernel assigned an index, which would then leak.
        taken = int(uapi.io_uring_rsrc_update.unpack(argument.read())["offset"])
        if taken != _ANY_INDEX:
            if ring._by_index() and ring._enter_fd == taken:
                ring.enter_by_index(None)
            _unregister_index(ring, taken)
        raise
    return index


def _unregister_index(ring: Ring, index: int) -> None:
    argument = StructBuffer(uapi.io_uring_rsrc_update.pack(offset=index))
    _register(ring, uapi.IORING_UNREGISTER_RING_FDS, argument.address, 1)


def unregister_ring_fd(ring: Ring) -> None:
    """Enter the ring by its descriptor again.

    Raises: OSError; ValueError if register_ring_fd() was not called.
    Since: 5.18
    Mirrors: liburing io_uring_unregister_ring_fd
    """
    _unregister_index(ring, ring.enter_by_index(None))


class Napi(namedtuple("Napi", "busy_poll_usec prefer_busy_poll")):
    """The network polling of a ring."""

    __slots__ = ()

    busy_poll_usec: int
    prefer_busy_poll: bool


def register_napi(
    ring: Ring, busy_poll_usec: int, *, prefer_busy_poll: bool = False,
    opcode: int = uapi.IO_URING_NAPI_REGISTER_OP, op_param: int = 0,
) -> Napi:  # fmt: skip
    """Poll the network card for a while before waiting.

    Args: busy_poll_usec in microseconds; prefer_busy_poll as of SO_PREFER_BUSY_POLL; opcode is an
        IO_URING_NAPI_*, op_param an IO_URING_NAPI_TRACKING_* or a NAPI id (6.13).
    Returns: the previous settings.
    Raises: OSError, EINVAL on a kernel without CONFIG_NET_RX_BUSY_POLL.
    Since: 6.9
    Mirrors: liburing io_uring_register_napi
    """
    argument = StructBuffer(
        uapi.io_uring_napi.pack(
            busy_poll_to=busy_poll_usec, prefer_busy_poll=int(prefer_busy_poll), opcode=opcode,
            op_param=op_param,
        )
    )  # fmt: skip
    _register(ring, uapi.IORING_REGISTER_NAPI, argument.address, 1)
    return _napi(argument)


def unregister_napi(ring: Ring) -> Napi:
    """Stop polling the network card.

    Returns: the previous settings.
    Raises: OSError.
    Since: 6.9
    Mirrors: liburing io_uring_unregister_napi
    """
    argument = StructBuffer(uapi.io_uring_napi.pack())
    _register(ring, uapi.IORING_UNREGISTER_NAPI, argument.address, 1)
    return _napi(argument)


def _napi(argument: StructBuffer) -> Napi:
    before = uapi.io_uring_napi.unpack(argument.read())
    return Napi(before["busy_poll_to"], bool(before["prefer_busy_poll"]))


def register_clock(ring: Ring, clockid: int) -> None:
    """Choose the clock of the timeouts of io_uring_enter.

    submit_and_wait() converts its absolute deadlines itself, so this matters only to direct calls of
    io_uring_enter and to IORING_ENTER_ABS_TIMER.

    Args: clockid is time.CLOCK_MONOTONIC or time.CLOCK_BOOTTIME.
    Raises: OSError.
    Since: 6.12
    Mirrors: liburing io_uring_register_clock
    """
    argument = StructBuffer(uapi.io_uring_clock_register.pack(clockid=clockid))
    _register(ring, uapi.IORING_REGISTER_CLOCK, argument.address, 0)


def register_sync_cancel(
    ring: Ring, timeout_ns: int | None, *, target: int = 0, fd: int = -1, cancel_flags: int = 0,
    opcode: int = 0,
) -> int:  # fmt: skip
    """Cancel requests and wait until they have ended.

    Their CQEs arrive nevertheless. On a DEFER_TASKRUN ring a call without a timeout can hang for ever on a
    request that a worker executes: ASYNC_CANCEL and reap() do not.

    Args: timeout_ns in nanoseconds, None waits for ever; target is the user_data, or fd and cancel_flags and
        opcode choose as in ops.prep_cancel_fd().
    Returns: 0, or with IORING_ASYNC_CANCEL_ALL or _ANY the number of cancelled requests.
    Raises: OSError: ENOENT if no request matches, ETIME at the timeout, EALREADY.
    Since: 6.0
    Mirrors: liburing io_uring_register_sync_cancel
    """
    # -1 in both members means no timeout.
    seconds, nanoseconds = (-1, -1) if timeout_ns is None else divmod(timeout_ns, 1_000_000_000)
    argument = StructBuffer(
        uapi.io_uring_sync_cancel_reg.pack(
            addr=target, fd=fd, flags=cancel_flags, opcode=opcode,
            timeout={"tv_sec": seconds, "tv_nsec": nanoseconds},
        )
    )  # fmt: skip
    return _register(ring, uapi.IORING_REGISTER_SYNC_CANCEL, argument.address, 1)


def register_sync_msg(sqe: bytes | bytearray | memoryview) -> int:
    """Send a message to a ring without having a ring.

    Args: sqe as ops.prep_msg_ring() filled it; only messages with data, not with descriptors.
    Returns: 0.
    Raises: OSError, EINVAL before 6.13.
    Since: 6.13
    Mirrors: liburing io_uring_register_sync_msg
    """
    argument = StructBuffer(bytes(sqe[:64]))
    return _register_blind(uapi.IORING_REGISTER_SEND_MSG_RING, argument.address, 1)


def resize_rings(ring: Ring, entries: int, cq_entries: int | None = None) -> None:
    """Change the sizes of a ring; queued SQEs and unreaped CQEs are moved.

    Args: entries of the SQ and cq_entries of the CQ, by default twice as many, rounded up to powers of two.
    Raises: OSError: EINVAL without DEFER_TASKRUN; EOVERFLOW if the entries do not fit; EOPNOTSUPP for a ring
        with an index array if the kernel does not report its new offset; EBUSY for queued SQEs of 128 bytes
        and unreaped CQEs of 32 bytes if the kernel would mix them up (gates.py, resize-wide); the errno of
        mmap(2) after the kernel has moved the rings: the ring is then broken, see Ring.remap(); ValueError
        for a ring without a descriptor.
    Lifetime: none; views of old slots become invalid.
    Since: 6.13; rings with an index array 7.2 or near it
    Mirrors: liburing io_uring_resize_rings, which writes the index array over the heads and tails there
    Source: seen on 6.18.44, which leaves sq_off.array zero, and on 7.2.6, which does not
    """
    if not ring.flags & uapi.IORING_SETUP_NO_SQARRAY and not _tells_where_the_array_is():
        raise OSError(
            errno.EOPNOTSUPP,
            "IORING_REGISTER_RESIZE_RINGS: this kernel moves the index array and does not report it: create "
            "the ring with IORING_SETUP_NO_SQARRAY (rings.RECOMMENDED wishes for it)",
        )
    if _waiting_and_wide(ring) and gates.applies("resize-wide"):
        raise OSError(
            errno.EBUSY,
            f"io_uring_register(IORING_REGISTER_RESIZE_RINGS) was not called: this kernel ({gates.running()})"
            " mixes up SQEs of 128 bytes and waiting CQEs of 32 bytes: submit the"
            " queued SQEs and reap the CQEs, then resize",
        )
    try:
        ring._resize(_sizes(entries, cq_entries))
    except OSError as error:
        if ring.state != "open":
            raise
        raise _explained(error, uapi.IORING_REGISTER_RESIZE_RINGS) from None


def _waiting_and_wide(ring: Ring) -> bool:
    # Nothing is added meanwhile: with DEFER_TASKRUN only the owner's io_uring_enter posts completions.
    queued = ring.flags & uapi.IORING_SETUP_SQE128 and ring.sq.pending()
    return bool(queued or (ring.flags & uapi.IORING_SETUP_CQE32 and ring.cq.ready()))


def _sizes(entries: int, cq_entries: int | None) -> StructBuffer:
    fields = {"sq_entries": entries}
    flags = 0
    if cq_entries is not None:
        flags |= uapi.IORING_SETUP_CQSIZE
        fields["cq_entries"] = cq_entries
    return StructBuffer(uapi.io_uring_params.pack(flags=flags, **fields))


def _tells_where_the_array_is() -> bool:
    """Resize a small ring, and look at the answer."""
    flags = uapi.IORING_SETUP_SINGLE_ISSUER | uapi.IORING_SETUP_DEFER_TASKRUN
    with rings.Ring(2, flags=flags) as ring:
        argument = _sizes(4, None)
        _register(ring, uapi.IORING_REGISTER_RESIZE_RINGS, argument.address, 1)
        return bool(uapi.io_uring_params.unpack(argument.read())["sq_off"]["array"])


# ------------------------------------------------------------------------------------------------------
# Regions


class WaitRegion(syscalls.Uncopyable):
    """Memory that is registered with a ring, in which waits are described once for frequent use.

    register_wait_reg() creates one; ring.submit_and_wait_reg(n, index) waits as entry index describes.
    """

    def __init__(self, memory: Any) -> None:
        """Take the memory; use register_wait_reg() to create a WaitRegion."""
        self._memory = memory
        #: The number of waits that it can describe.
        self.entries = len(memory) // uapi.io_uring_reg_wait.size

    def set(self, index: int, timeout_ns: int | None, *, min_wait_usec: int = 0) -> None:
        """Describe a wait.

        Args: index of the entry; timeout_ns in nanoseconds, None waits for ever; min_wait_usec as in
            Ring.submit_and_wait().
        Raises: IndexError.
        Threads: one at a time.
        """
        if not 0 <= index < self.entries:
            raise IndexError(f"index={index} of {self.entries} entries")
        seconds, nanoseconds = divmod(timeout_ns or 0, 1_000_000_000)
        uapi.io_uring_reg_wait.pack_into(
            self._memory, index * uapi.io_uring_reg_wait.size, min_wait_usec=min_wait_usec,
            flags=0 if timeout_ns is None else uapi.IORING_REG_WAIT_TS,
            ts={"tv_sec": seconds, "tv_nsec": nanoseconds},
        )  # fmt: skip


def register_region(ring: Ring, memory: Any, flags: int = 0) -> None:
    """Share a region of memory with the kernel for parameters.

    Args: memory is a writable buffer of whole pages, page-aligned (buffers.allocate); flags is 0 or
        IORING_MEM_REGION_REG_WAIT_ARG, which needs a ring that is not yet enabled.
    Raises: OSError, EBUSY if a region is registered.
    Lifetime: none; the ring holds it until close().
    Since: 6.13
    Mirrors: liburing io_uring_register_region
    """
    pin = buffers.pin(memory, writable=True)
    region = StructBuffer(
        uapi.io_uring_region_desc.pack(
            user_addr=pin.address, size=pin.nbytes, flags=uapi.IORING_MEM_REGION_TYPE_USER
        )
    )
    argument = StructBuffer(uapi.io_uring_mem_region_reg.pack(region_uptr=region.address, flags=flags))
    with _held(ring, pin):
        _register(ring, uapi.IORING_REGISTER_MEM_REGION, argument.address, 1)
        ring.resources["region", 0] = pin


def register_wait_reg(ring: Ring, entries: int) -> WaitRegion:
    """Register memory in which waits are described, on a ring that is not yet enabled.

    Args: entries is their number; it is rounded up to fill pages.
    Returns: the region, every entry a wait without a timeout.
    Raises: OSError, EINVAL on a ring without IORING_SETUP_R_DISABLED; ValueError for no entries.
    Lifetime: none; the ring holds it until close().
    Since: 6.13
    Mirrors: liburing io_uring_register_wait_reg
    """
    import mmap

    if entries < 1:
        raise ValueError(f"entries={entries}: must be at least 1")
    pages = -(-entries * uapi.io_uring_reg_wait.size // mmap.PAGESIZE)
    memory = buffers.allocate(pages * mmap.PAGESIZE)
    register_region(ring, memory, uapi.IORING_MEM_REGION_REG_WAIT_ARG)
    return WaitRegion(memory)


# ------------------------------------------------------------------------------------------------------
# Zero-copy receive


class ZcrxIfq(syscalls.Uncopyable):
    """A receive queue of a network card that writes into our memory: see register_ifq().

    It has an additional ring, in which we are the producer: of pieces of memory that the card may fill again.
    """

    def __init__(
        self, zcrx_id: int, area: Any, token: int, region: Any, offsets: dict[str, Any], entries: int
    ) -> None:
        """Take the registered queue; use register_ifq() to create a ZcrxIfq."""
        #: The number for ops.prep_recv_zc() and zcrx_ctrl().
        self.zcrx_id = zcrx_id
        self._area = memoryview(area)
        self._token = token
        self._bytes = memoryview(region)
        self._words = barriers.map_words(region)
        self._ktail = offsets["tail"] // 4
        self._khead = offsets["head"] // 4
        self._rqes = offsets["rqes"]
        #: The number of pieces that fit into the refill ring.
        self.ring_entries = entries
        self.tail = barriers.load_acquire(self._words, self._ktail)

    def data(self, cqe: tuple[int, ...]) -> memoryview:
        """Find the data of a CQE.

        Args: cqe as Ring.reap() returned it, of 32 bytes.
        Returns: a view; the memory belongs to the card again after refill().
        """
        start = cqe[3] & ~uapi.IORING_ZCRX_AREA_MASK
        return self._area[start : start + cqe[1]]

    def refill(self, cqe: tuple[int, ...]) -> None:
        """Return the memory of a CQE to the card.

        Args: cqe as for data().
        Raises: BufferError if the refill ring is full.
        Threads: one at a time.
        """
        # The kernel must be done with an entry before we write it again. Pairs with its store of the head.
        if (self.tail - barriers.load_acquire(self._words, self._khead)) & 0xFFFFFFFF >= self.ring_entries:
            raise BufferError(f"all {self.ring_entries} entries of the refill ring wait for the kernel")
        offset = self._rqes + (self.tail & self.ring_entries - 1) * uapi.io_uring_zcrx_rqe.size
        off = cqe[3] & ~uapi.IORING_ZCRX_AREA_MASK | self._token
        uapi.io_uring_zcrx_rqe.pack_into(self._bytes, offset, off=off, len=cqe[1])
        self.tail += 1
        # The entry must be seen before the tail that covers it. Pairs with the kernel's smp_load_acquire.
        barriers.store_release(self._words, self._ktail, self.tail & 0xFFFFFFFF)


def register_ifq(
    ring: Ring, if_idx: int, if_rxq: int, rq_entries: int, area: Any, *, flags: int = 0, rx_buf_len: int = 0
) -> ZcrxIfq:
    """Let a network card's receive queue write into our memory.

    Args: if_idx is an interface (socket.if_nametoindex) and if_rxq one of its queues, which the driver
        reserves for us; rq_entries is a power of two; area is a writable buffer of whole pages, page-aligned;
        flags is 0 or ZCRX_REG_NODEV (7.1), which needs no card and copies; rx_buf_len in bytes, 0 for a page.
        The ring must have IORING_SETUP_DEFER_TASKRUN and 32-byte CQEs.
    Returns: the queue.
    Raises: OSError, EPERM without CAP_NET_ADMIN, EOPNOTSUPP if the card does not support it.
    Lifetime: none; the ring holds area until close().
    Since: 6.15
    Mirrors: liburing io_uring_register_ifq
    """
    import mmap

    # The head comes first; IO_URING_QUERY_ZCRX reports its size, if that exists. A page is enough.
    size = mmap.PAGESIZE + rq_entries * uapi.io_uring_zcrx_rqe.size
    region = buffers.allocate(-(-size // mmap.PAGESIZE) * mmap.PAGESIZE)
    pin, region_pin = buffers.pin(area, writable=True), buffers.pin(region, writable=True)
    region_desc = StructBuffer(
        uapi.io_uring_region_desc.pack(
            user_addr=region_pin.address, size=region_pin.nbytes, flags=uapi.IORING_MEM_REGION_TYPE_USER
        )
    )
    area_reg = StructBuffer(uapi.io_uring_zcrx_area_reg.pack(addr=pin.address, len=pin.nbytes))
    argument = StructBuffer(
        uapi.io_uring_zcrx_ifq_reg.pack(
            if_idx=if_idx, if_rxq=if_rxq, rq_entries=rq_entries, flags=flags, area_ptr=area_reg.address,
            region_ptr=region_desc.address, rx_buf_len=rx_buf_len,
        )
    )  # fmt: skip
    with _held(ring, pin, region_pin):
        _register(ring, uapi.IORING_REGISTER_ZCRX_IFQ, argument.address, 1)
        filled = uapi.io_uring_zcrx_ifq_reg.unpack(argument.read())
        token = uapi.io_uring_zcrx_area_reg.unpack(area_reg.read())["rq_area_token"]
        ring.resources["zcrx", filled["zcrx_id"]] = (pin, region_pin)
    return ZcrxIfq(filled["zcrx_id"], area, token, region, filled["offsets"], filled["rq_entries"])


def zcrx_ctrl(ring: Ring, zcrx_id: int, op: int, **member: dict[str, int]) -> dict[str, Any]:
    """Control a queue of register_ifq().

    Args: zcrx_id is the queue's; op is a ZCRX_CTRL_*; member is the corresponding member of struct zcrx_ctrl,
        such as zc_arm_event={"event_type": ZCRX_EVENT_COPY}.
    Returns: the members of struct zcrx_ctrl as the kernel left them; for ZCRX_CTRL_EXPORT zc_export.zcrx_fd
        is the descriptor.
    Raises: OSError, ENXIO if the queue does not exist.
    Since: 6.19
    Mirrors: liburing io_uring_register_zcrx_ctrl
    """
    argument = StructBuffer(uapi.zcrx_ctrl.pack(zcrx_id=zcrx_id, op=op, **member))
    _register(ring, uapi.IORING_REGISTER_ZCRX_CTRL, argument.address, 0)
    return uapi.zcrx_ctrl.unpack(argument.read())
