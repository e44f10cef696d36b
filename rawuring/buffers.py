# SPDX-License-Identifier: MIT
# pyright: basic
"""Pin Python memory, so that its address may be passed to the kernel, and build the structs that it reads.

What it is: Pin, an address together with the export that keeps it valid; a builder for each struct that an
operation takes; rings of provided buffers.
Mirrors: liburing ``src/include/liburing.h`` where it concerns memory (io_uring_buf_ring_add,
io_uring_recvmsg_out); the CMSG_* macros of libc.
Must not know: rings, operations.
Invariant: an address never leaves this file without an object that keeps the memory where it is.
Read next: register.py. inflight.py holds the pins until the kernel no longer uses them.

Unless said otherwise, memory passed to a call may be freed when the call returns, any thread may call, and
Linux 5.1 suffices.

While a Pin lives, its object's buffer is exported: Python itself then refuses to resize or free it
(``bytearray.extend`` raises BufferError). PyPy moves and resizes exported bytearrays nevertheless, so there
only memory outside the Python heap is accepted: allocate() returns such memory.
"""

from __future__ import annotations

import functools
import os
import struct
import sys
from collections import namedtuple

from . import barriers, syscalls, uapi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

_PYPY = sys.implementation.name == "pypy"
_U64 = 0xFFFFFFFFFFFFFFFF


class Pin(syscalls.Uncopyable):
    """An address in memory that stays valid while this object lives."""

    __slots__ = ("_export", "address", "nbytes", "readonly")

    def __init__(self, address: int, nbytes: int, export: Any, readonly: bool = False) -> None:
        """Tie an address to the object that keeps it valid; use pin() to create a Pin."""
        #: The address of the memory, an int for an SQE's addr field.
        self.address = address
        #: Its size in bytes.
        self.nbytes = nbytes
        #: Whether the kernel must not write there.
        self.readonly = readonly
        self._export = export

    @property
    def length(self) -> int:
        """Return the length argument for a prep function: bytes, or the items of an array."""
        return self.nbytes

    def __repr__(self) -> str:
        """Show address and size."""
        return f"<Pin {self.nbytes} bytes at {self.address:#x}>"


def pin(memory: Any, writable: bool = False) -> Pin:
    """Export an object's buffer and return its address.

    Args: memory is anything with a contiguous buffer (bytes, bytearray, memoryview, array, mmap, ctypes,
        numpy); writable says that the kernel will write into it.
    Returns: a Pin; keep it for the Lifetime of the operation.
    Raises: TypeError for read-only memory that the kernel would write, for memory that PyPy could move, and
        for objects without a buffer; BufferError for memory that is not contiguous.
    Lifetime: until the final CQE, unless the operation says less.
    """
    import ctypes

    try:
        view = memoryview(memory)
    except TypeError:
        wanted = "expected an object with a buffer, such as bytes, a bytearray or the result of allocate()"
        raise TypeError(f"memory={memory!r:.100}: {wanted}") from None
    if not view.c_contiguous:
        raise BufferError("memory must be contiguous to have one address")
    nbytes = view.nbytes
    if view.readonly and writable:
        raise TypeError(f"the kernel would write into a read-only {type(memory).__name__}")
    if not nbytes:
        return Pin(0, 0, view)
    if _PYPY and not isinstance(memory, bytes):
        _refuse_movable(memory)
    if not view.readonly:
        first = ctypes.c_char.from_buffer(memory)  # exports all of it; a type for each size would be a cycle
        view.release()  # only now: without an export another thread could resize the memory
        return Pin(ctypes.addressof(first), nbytes, first)
    if isinstance(memory, bytes):
        pointer = ctypes.c_char_p(memory)
        return Pin(ctypes.cast(pointer, ctypes.c_void_p).value or 0, nbytes, pointer, True)
    raw = _py_buffer()()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(view), ctypes.byref(raw), 0)
    address = raw.buf
    # The view itself is an export of the same memory, so this second one is released immediately.
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(raw))
    return Pin(address, nbytes, view, True)


def _refuse_movable(memory: Any) -> None:
    import ctypes
    import mmap

    if not isinstance(memory, (mmap.mmap, ctypes.Array)):
        raise TypeError(
            f"PyPy may move the memory of a {type(memory).__name__} while the kernel uses it: "
            "use buffers.allocate(), an mmap or a ctypes array"
        )


@functools.lru_cache(None)
def _py_buffer() -> Any:
    """Define Py_buffer, through which Python reveals the address of read-only memory; ctypes does not."""
    import ctypes

    class PyBuffer(ctypes.Structure):
        _fields_ = (
            ("buf", ctypes.c_void_p),
            ("obj", ctypes.py_object),
            ("len", ctypes.c_ssize_t),
            ("itemsize", ctypes.c_ssize_t),
            ("readonly", ctypes.c_int),
            ("ndim", ctypes.c_int),
            ("format", ctypes.c_char_p),
            ("shape", ctypes.c_void_p),
            ("strides", ctypes.c_void_p),
            ("suboffsets", ctypes.c_void_p),
            ("internal", ctypes.c_void_p),
        )

    return PyBuffer


def _integer(name: str, value: Any, least: int, most: int, what: str = "a number") -> Any:
    """Make sure that an argument is a number in its range; otherwise raise an error that names it."""
    if not hasattr(value, "__index__"):
        raise TypeError(f"{name}={value!r:.100}: expected {what}, an int")
    if not least <= value <= most:
        raise ValueError(f"{name}={value!r:.100}: {what} must be between {least} and {most}")
    return value


def _objects_of(name: str, values: Any, what: str) -> list[Any]:
    """Make sure that an argument is a collection, not memory; otherwise raise an error that names it."""
    if isinstance(values, (list, tuple)):
        return list(values)
    one = isinstance(values, (str, bytes, bytearray, memoryview)) or not hasattr(values, "__iter__")
    # PyPy's mmap is iterable. An array of ints is a list of ints.
    if one or type(values).__name__ == "mmap":
        raise TypeError(f"{name}={values!r:.100}: expected a list of {what}, not {type(values).__name__}")
    return list(values)


def allocate(nbytes: int) -> Any:
    """Allocate zeroed, page-aligned memory outside the Python heap.

    Args: nbytes is more than 0.
    Returns: an mmap.mmap: a buffer that fits O_DIRECT, registered buffers and PyPy.
    Raises: ValueError for 0 or less; OSError if there is no memory.
    Lifetime: none; free it with close() or by dropping it.
    """
    import mmap

    _integer("nbytes", nbytes, 1, sys.maxsize, "a size in bytes")
    if hasattr(mmap, "MAP_PRIVATE"):
        # Private, unlike the default: shared memory is a file, and before 5.12 registering such a buffer
        # fails with EOPNOTSUPP.
        return mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return mmap.mmap(-1, nbytes)


class StructBuffer(Pin):
    """Memory of a struct that was built here; the base of all builders that can be read back."""

    __slots__ = ()

    def __init__(self, image: bytes, *keepalive: Any) -> None:
        """Copy the image to separate memory.

        Args: image is the struct; keepalive is the memory to which its pointers point.
        """
        import ctypes

        if not isinstance(image, bytes):  # memmove() would take an int as an address
            raise TypeError(f"the image of a struct must be bytes, not {type(image).__name__}")
        # Of 64-bit words, so that it is aligned for every struct; a power of two of them, so that few types
        # exist.
        memory = syscalls.array_type(ctypes.c_uint64, 1 << (max(len(image) - 1, 0) // 8).bit_length())()
        ctypes.memmove(memory, image, len(image))
        super().__init__(ctypes.addressof(memory), len(image), (memory, keepalive))

    def read(self) -> bytes:
        """Copy the current content of the memory.

        Returns: nbytes bytes.
        """
        import ctypes

        return ctypes.string_at(self.address, self.nbytes)


class Array(StructBuffer):
    """Consecutive structs; their number is the length argument for a prep function."""

    __slots__ = ("_count",)

    def __init__(self, image: bytes, count: int, *keepalive: Any, readonly: bool = False) -> None:
        """Copy the image to separate memory.

        Args: image and keepalive as for StructBuffer; count is the number of structs; readonly says that the
            kernel must not write the memory that they point to.
        """
        super().__init__(image, *keepalive)
        self._count = count
        self.readonly = readonly

    @property
    def length(self) -> int:
        """Return the number of structs."""
        return self._count


# ------------------------------------------------------------------------------------------------------
# Small structs


def timespec(timeout_ns: int) -> Pin:
    """Build a __kernel_timespec.

    Args: timeout_ns in nanoseconds, 0 or more.
    Returns: a Pin of 16 bytes.
    Raises: TypeError for anything but an int, such as seconds in a float; ValueError for less than 0.
    Lifetime: until submit returns; until the final CQE on an SQPOLL ring or before 5.5.
    Source: Linux include/uapi/linux/time_types.h
    """
    import ctypes

    _integer("timeout_ns", timeout_ns, 0, (10**9 << 63) - 1, "a time in nanoseconds")
    words = syscalls.array_type(ctypes.c_uint64, 2)(*divmod(timeout_ns, 1_000_000_000))
    return Pin(ctypes.addressof(words), 16, words)


def path(name: str | bytes | os.PathLike[Any]) -> Pin:
    """Build a path, or any other string that ends with a zero byte.

    Args: name is encoded as os.fsencode does.
    Returns: a Pin.
    Raises: ValueError for a zero byte inside; TypeError for anything but a path.
    Lifetime: until submit returns; until the final CQE on an SQPOLL ring, and of a STATX before 5.18.
    """
    try:
        encoded = os.fsencode(name)
    except TypeError:
        raise TypeError(f"name={name!r:.100}: expected a str, bytes or os.PathLike") from None
    if b"\0" in encoded:
        raise ValueError(f"the path {encoded!r} contains a zero byte")
    return StructBuffer(encoded + b"\0")


def ints(values: Iterable[int]) -> Ints:
    """Build an array of C ints, mostly descriptors.

    Args: values are signed, of 32 bits.
    Returns: an Ints, which can be read back.
    Raises: ValueError for anything else.
    Lifetime: until the final CQE.
    """
    return Ints(values)


def _int_image(value: int) -> bytes:
    try:
        return struct.pack("=i", value)
    except struct.error as error:
        raise ValueError(f"{value!r:.100} is not a 32-bit int, such as a descriptor: {error}") from None


class Ints(Array):
    """An array of C ints in memory."""

    __slots__ = ()

    def __init__(self, values: Iterable[int]) -> None:
        """Build the array: see ints()."""
        image = b"".join(map(_int_image, _objects_of("values", values, "ints")))
        super().__init__(image, len(image) // 4)

    def values(self) -> list[int]:
        """Return the current values."""
        return [value for (value,) in struct.iter_unpack("=i", self.read())]


def open_how(open_flags: int, mode: int = 0, resolve: int = 0) -> Pin:
    """Build a struct open_how.

    Args: open_flags is a mask of os.O_*; mode is the permissions of a new file, 0 without os.O_CREAT;
        resolve is a mask of RESOLVE_*.
    Returns: a Pin of 24 bytes.
    Lifetime: until submit returns; until the final CQE on an SQPOLL ring.
    Source: Linux include/uapi/linux/openat2.h
    """
    for name, value in (("open_flags", open_flags), ("mode", mode), ("resolve", resolve)):
        _integer(name, value, 0, _U64, "a 64-bit mask")
    return StructBuffer(uapi.open_how.pack(flags=open_flags, mode=mode, resolve=resolve))


def futex_waitv(waiters: Sequence[tuple[int, int, int]]) -> Pin:
    """Build the array that FUTEX_WAITV takes.

    Args: waiters are (Pin or address of the word, its expected value, mask of FUTEX2_*).
    Returns: a Pin of 24 bytes for each, which holds the Pins of the words.
    Raises: ValueError for none, or more than FUTEX_WAITV_MAX.
    Lifetime: until the final CQE.
    """
    waiters = _objects_of("waiters", waiters, "(address, value, flags)")
    if not 1 <= len(waiters) <= uapi.FUTEX_WAITV_MAX:
        raise ValueError(f"{len(waiters)} futexes: one request can wait for 1 to {uapi.FUTEX_WAITV_MAX}")
    image = b""
    for waiter in waiters:
        try:
            word, value, futex_flags = waiter
            address = word.address if isinstance(word, Pin) else word
            image += uapi.futex_waitv.pack(uaddr=address, val=value, flags=futex_flags)
        except (TypeError, ValueError, struct.error) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            wanted = "expected (address of a word, its expected value, a mask of FUTEX2_*)"
            raise kind(f"waiter {waiter!r:.100}: {wanted}: {error}") from None
    return Array(image, len(waiters), [waiter[0] for waiter in waiters])


def epoll_event_struct(data: str = "Q") -> struct.Struct:
    """Return the layout of struct epoll_event, packed on x86-64 only.

    Args: data is the format of the 64 bits of data, in struct's letters: "Q", or "i4x" for data.fd.
    Source: Linux include/uapi/linux/eventpoll.h; if 64-bit members are aligned to 32 bits it has no gap
        either
    """
    packed = syscalls.abi() in ("x86_64", "x32") or struct.calcsize("@IQ") == 12
    return struct.Struct(f"=I{data}" if packed else f"=I4x{data}")


def epoll_event(events: int, data: int) -> Pin:
    """Build one struct epoll_event.

    Args: events is a mask of select.EPOLL*; data is 64 bits wide and is returned with the event.
    Returns: a Pin.
    Lifetime: until submit returns; until the final CQE on an SQPOLL ring.
    """
    _integer("events", events, 0, 0xFFFFFFFF, "a mask of select.EPOLL*")
    _integer("data", data, 0, _U64, "a 64-bit number")
    return StructBuffer(epoll_event_struct().pack(events, data))


class EpollEvents(Array):
    """Room for the events that EPOLL_WAIT fetches."""

    __slots__ = ()

    def __init__(self, maxevents: int) -> None:
        """Allocate the room.

        Args: maxevents is 1 or more.
        Lifetime: until the final CQE.
        """
        _integer("maxevents", maxevents, 1, 0x7FFFFFFF // 16, "a number of events")
        super().__init__(bytes(epoll_event_struct().size * maxevents), maxevents)

    def events(self, count: int) -> list[tuple[int, int]]:
        """Read the fetched events.

        Args: count is the CQE's res.
        Returns: (events, data) for each.
        Raises: the OSError of a negative res.
        """
        if count < 0:
            raise OSError(-count, f"EPOLL_WAIT: {os.strerror(-count)}")
        layout = epoll_event_struct()
        return list(layout.iter_unpack(self.read()[: count * layout.size]))


class Statx(
    namedtuple(
        "Statx",
        "st_mode st_ino st_dev st_nlink st_uid st_gid st_size st_atime_ns st_mtime_ns st_ctime_ns "
        "st_birthtime_ns st_blocks st_blksize st_rdev stx_mask stx_attributes stx_attributes_mask "
        "stx_mnt_id stx_dio_mem_align stx_dio_offset_align",
    )
):
    """The result of STATX; member names are those of os.stat_result where it has them."""

    __slots__ = ()

    st_mode: int
    st_ino: int
    st_dev: int
    st_nlink: int
    st_uid: int
    st_gid: int
    st_size: int
    st_atime_ns: int
    st_mtime_ns: int
    st_ctime_ns: int
    st_birthtime_ns: int
    st_blocks: int
    st_blksize: int
    st_rdev: int
    #: The members that the file system filled in: a mask of STATX_*.
    stx_mask: int
    stx_attributes: int
    stx_attributes_mask: int
    stx_mnt_id: int
    stx_dio_mem_align: int
    stx_dio_offset_align: int


# uapi.statx in one piece, up to the last member of Statx: reading it member by member took 29 us.
_STATX = struct.Struct("=IIQIIIH2xQQQQ" + "qI4x" * 4 + "IIIIQII")


class StatxBuffer(StructBuffer):
    """A struct statx for the kernel to fill."""

    __slots__ = ()

    def __init__(self) -> None:
        """Allocate the struct.

        Lifetime: until the final CQE.
        """
        super().__init__(bytes(uapi.statx.size))

    def result(self) -> Statx:
        """Read the struct that the kernel filled in.

        Returns: a Statx; a member whose bit is not set in stx_mask is 0 or a guess of the file system.
        """
        (
            mask, blksize, attributes, nlink, uid, gid, mode, ino, size, blocks, attributes_mask,
            atime, atime_ns, btime, btime_ns, ctime, ctime_ns, mtime, mtime_ns,
            rdev_major, rdev_minor, dev_major, dev_minor, mnt_id, dio_mem_align, dio_offset_align,
        ) = _STATX.unpack_from(self._export[0])  # fmt: skip
        return Statx(
            mode, ino, os.makedev(dev_major, dev_minor), nlink, uid, gid, size,
            atime * 1_000_000_000 + atime_ns, mtime * 1_000_000_000 + mtime_ns,
            ctime * 1_000_000_000 + ctime_ns, btime * 1_000_000_000 + btime_ns,
            blocks, blksize, os.makedev(rdev_major, rdev_minor), mask, attributes, attributes_mask, mnt_id,
            dio_mem_align, dio_offset_align,
        )  # fmt: skip


class Siginfo(StructBuffer):
    """A siginfo_t for WAITID to fill; the attributes are those of os.waitid()'s result."""

    __slots__ = ()

    def __init__(self) -> None:
        """Allocate the struct.

        Lifetime: until the final CQE.
        """
        super().__init__(bytes(128))

    def _three(self) -> tuple[int, ...]:
        signo, second, third = struct.unpack_from("=iii", self.read())
        if os.uname().machine.startswith("mips"):  # where si_code and si_errno are swapped
            second, third = third, second
        return signo, second, third

    def _child(self) -> tuple[int, ...]:
        # The union behind the three ints holds pointers, so it is aligned like one.
        return struct.unpack_from("=iIi", self.read(), 16 if struct.calcsize("P") == 8 else 12)

    @property
    def si_signo(self) -> int:
        """Return signal.SIGCHLD, or 0 if no child was ready (os.WNOHANG)."""
        return self._three()[0]

    @property
    def si_code(self) -> int:
        """Return os.CLD_EXITED, os.CLD_KILLED and so on."""
        return self._three()[2]

    @property
    def si_pid(self) -> int:
        """Return the child's process id."""
        return self._child()[0]

    @property
    def si_uid(self) -> int:
        """Return the child's real user id."""
        return self._child()[1]

    @property
    def si_status(self) -> int:
        """Return the child's exit status, or the signal that ended or stopped it."""
        return self._child()[2]


# ------------------------------------------------------------------------------------------------------
# Several buffers at once


def iovec(memories: Iterable[Any], writable: bool = False) -> Pin:
    """Build an array of struct iovec, one for each buffer.

    Args: memories as pin() takes them, or Pins; writable says that the kernel will write into them.
    Returns: a Pin that also holds the buffers; their number, nr_vecs, is its length.
    Raises: as pin().
    Lifetime: until the final CQE, because of the buffers.
    """
    given = _objects_of("memories", memories, "buffers or Pins")
    pins = [memory if isinstance(memory, Pin) else pin(memory, writable) for memory in given]
    image = b"".join(struct.pack("@PN", each.address, each.nbytes) for each in pins)
    return Array(image, len(pins), pins, readonly=any(each.readonly for each in pins))


# ------------------------------------------------------------------------------------------------------
# Socket addresses


def sockaddr(family: int, address: Any) -> Pin:
    """Build a struct sockaddr.

    Args: family is a socket.AF_*; address as the socket module takes it for this family, with numbers instead
        of host names: IPv4, IPv6, UNIX (str, or bytes; a leading zero byte means abstract), NETLINK, PACKET,
        VSOCK, CAN, ALG, QIPCRTR. For any other family: the bytes that follow sa_family.
    Returns: a Pin; its nbytes is addrlen.
    Raises: ValueError for an address that is invalid in the family.
    Lifetime: until submit returns; until the final CQE on an SQPOLL ring or before 5.5.
    """
    return StructBuffer(pack_sockaddr(family, address))


def pack_sockaddr(family: int, address: Any) -> bytes:
    """Pack a struct sockaddr into bytes.

    Args: as sockaddr().
    Returns: the bytes, as many as the kernel expects for this address.
    Raises: ValueError for an address that is invalid in the family.
    """
    _integer("family", family, 0, 0xFFFF, "a socket.AF_*")
    raw = family != _AF_UNIX and isinstance(address, (bytes, bytearray))
    encode = _codec(family, raw)[0]
    try:
        encoded: bytes = encode(address)
        return struct.pack("=H", family) + encoded
    except (AttributeError, TypeError, ValueError, OSError, struct.error) as error:
        raise ValueError(f"{address!r} is not an address of family {family}: {error}") from None


def unpack_sockaddr(data: bytes) -> tuple[int, Any]:
    """Read a struct sockaddr.

    Args: data as the kernel filled it in, cut to the length that it reported.
    Returns: (family, address), address as the socket module returns it; for an unknown family, the bytes that
        follow sa_family. (0, None) if data is empty.
    """
    if len(data) < 2:
        return 0, None
    family = int(struct.unpack_from("=H", data)[0])
    try:
        return family, _codec(family)[1](data[2:])
    except (ValueError, OSError, struct.error):
        return family, data[2:]


class SockaddrBuffer(Pin):
    """A struct sockaddr and its size for the kernel to fill: ACCEPT, GETSOCKNAME, RECVMSG.

    ``address`` is that of the struct, ``addrlen`` that of the size; both go into the SQE.
    """

    __slots__ = ("addrlen",)

    def __init__(self, nbytes: int = 128) -> None:
        """Allocate the struct and its size.

        Args: nbytes for the struct; 128 are enough for every family.
        Lifetime: until the final CQE.
        """
        _integer("nbytes", nbytes, 0, 0x7FFFFFFF, "a size in bytes")
        length = StructBuffer(struct.pack("=I", nbytes))
        room = StructBuffer(bytes(nbytes))
        super().__init__(room.address, nbytes, (room, length))
        #: The address of the size, which the kernel overwrites.
        self.addrlen = length.address

    @property
    def length(self) -> int:
        """Return the address of the size, the length argument of ACCEPT."""
        return self.addrlen

    def result(self) -> tuple[int, Any]:
        """Read the struct that the kernel filled in.

        Returns: (family, address) as unpack_sockaddr().
        """
        room, length = self._export
        filled = struct.unpack("=I", length.read())[0]
        return unpack_sockaddr(room.read()[:filled])


_AF_UNIX = 1


def _encode_unix(address: Any) -> bytes:
    name = bytes(os.fsencode(address) if isinstance(address, (str, os.PathLike)) else address)
    if len(name) > 107 + (name[:1] == b"\0"):
        raise ValueError("longer than 107 bytes")
    # An abstract name has no terminator; a path ends with a zero byte.
    return name if name[:1] in (b"", b"\0") else name + b"\0"


def _decode_unix(data: bytes) -> Any:
    return data if data[:1] == b"\0" else os.fsdecode(data.partition(b"\0")[0])


def _encode_inet(address: Any) -> bytes:
    import socket

    host, port = address
    return struct.pack("!H", port) + socket.inet_pton(socket.AF_INET, host or "0.0.0.0") + bytes(8)


def _decode_inet(data: bytes) -> Any:
    import socket

    return socket.inet_ntop(socket.AF_INET, data[2:6]), struct.unpack_from("!H", data)[0]


def _completed(address: Any, *defaults: Any) -> list[Any]:
    """Add the optional values after the second, which the socket module allows to be omitted."""
    return [*address, *defaults[len(address) - 2 :]]


def _encode_inet6(address: Any) -> bytes:
    import socket

    host, port, flowinfo, scope_id = _completed(address, 0, 0)
    packed = socket.inet_pton(socket.AF_INET6, host or "::")
    return struct.pack("!HI", port, flowinfo) + packed + struct.pack("=I", scope_id)


def _decode_inet6(data: bytes) -> Any:
    import socket

    port, flowinfo = struct.unpack_from("!HI", data)
    return socket.inet_ntop(socket.AF_INET6, data[6:22]), port, flowinfo, *struct.unpack_from("=I", data, 22)


def _encode_netlink(address: Any) -> bytes:
    pid, groups = address
    return struct.pack("=HII", 0, pid, groups)


def _decode_netlink(data: bytes) -> Any:
    return struct.unpack_from("=II", data, 2)


_IFREQ = struct.Struct("16si20x")  # ifr_name, ifr_ifindex
_SIOCGIFNAME, _SIOCGIFINDEX = 0x8910, 0x8933


def _need_room(what: str, value: bytes, most: int) -> None:
    if len(value) > most:  # struct would truncate it
        raise ValueError(f"the {what} has at most {most} bytes")


def _index_of(interface: str) -> int:
    _need_room("interface's name", interface.encode(), 15)
    return _ask_interface(_SIOCGIFINDEX, interface.encode(), 0)[1] if interface else 0


def _name_of_index(index: int) -> str:
    return _ask_interface(_SIOCGIFNAME, b"", index)[0].rstrip(b"\0").decode() if index else ""


def _ask_interface(request: int, name: bytes, index: int) -> tuple[Any, ...]:
    """Convert an interface's name to its number, or the reverse; PyPy's socket module cannot."""
    import fcntl
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        return _IFREQ.unpack(fcntl.ioctl(sock.fileno(), request, _IFREQ.pack(name, index)))


def _encode_packet(address: Any) -> bytes:
    interface, protocol, pkttype, hatype, hardware = _completed(address, 0, 0, b"")
    _need_room("hardware address", hardware, 8)
    rest = struct.pack("=iHBB8s", _index_of(interface), hatype, pkttype, len(hardware), hardware)
    return struct.pack("!H", protocol) + rest


def _decode_packet(data: bytes) -> Any:
    # The kernel's struct ends with the last byte of the hardware address.
    index, hatype, pkttype, length, hardware = struct.unpack_from("=iHBB8s", data.ljust(18, b"\0"), 2)
    return _name_of_index(index), struct.unpack_from("!H", data)[0], pkttype, hatype, hardware[:length]


def _encode_can(address: Any) -> bytes:
    interface, *ids = address
    index = _index_of(interface)
    if len(ids) == 3:  # CAN_J1939: name, pgn, addr
        return struct.pack("=HiQIB3x", 0, index, *ids)
    rx_id, tx_id = ids or (0, 0)  # CAN_ISOTP
    return struct.pack("=HiII8x", 0, index, rx_id, tx_id)


def _decode_can(data: bytes) -> Any:
    return (_name_of_index(struct.unpack_from("=i", data, 2)[0]),)


def _encode_alg(address: Any) -> bytes:
    kind, name, feat, mask = _completed(address, 0, 0)
    _need_room("type", kind.encode(), 13)
    _need_room("name", name.encode(), 63)
    return struct.pack("=14sII64s", kind.encode(), feat, mask, name.encode())


def _decode_alg(data: bytes) -> Any:
    kind, feat, mask, name = struct.unpack_from("=14sII64s", data)
    return kind.rstrip(b"\0").decode(), name.rstrip(b"\0").decode(), feat, mask


def _encode_vsock(address: Any) -> bytes:
    cid, port = address
    return struct.pack("=HIIB3x", 0, port, cid, 0)


def _decode_vsock(data: bytes) -> Any:
    port, cid = struct.unpack_from("=II", data, 2)
    return cid, port


def _encode_qipcrtr(address: Any) -> bytes:
    node, port = address
    return struct.pack("=HII", 0, node, port)


# The numbers of the families are the same on every Linux.
_CODECS: dict[int, tuple[Any, Any]] = {
    _AF_UNIX: (_encode_unix, _decode_unix),
    2: (_encode_inet, _decode_inet),
    10: (_encode_inet6, _decode_inet6),
    16: (_encode_netlink, _decode_netlink),
    17: (_encode_packet, _decode_packet),
    29: (_encode_can, _decode_can),
    38: (_encode_alg, _decode_alg),
    40: (_encode_vsock, _decode_vsock),
    42: (_encode_qipcrtr, _decode_netlink),
}


def _raw_bytes(address: Any) -> bytes:
    # bytes() of an int would be that many zeros: 2 GiB of them were seen.
    return bytes(memoryview(address))


def _codec(family: int, raw: bool = False) -> tuple[Any, Any]:
    return (_raw_bytes, bytes) if raw else _CODECS.get(family, (_raw_bytes, bytes))


# ------------------------------------------------------------------------------------------------------
# Messages: several buffers, an address, ancillary data

_CMSGHDR = struct.Struct("@Nii")  # cmsg_len, cmsg_level, cmsg_type


def _cmsg_align(nbytes: int) -> int:
    word = struct.calcsize("N")
    return (nbytes + word - 1) // word * word


def cmsg_space(nbytes: int) -> int:
    """Compute the space that one item of ancillary data needs.

    Args: nbytes of its payload.
    Returns: bytes, for msghdr(control_size=...).
    Mirrors: libc CMSG_SPACE
    """
    return _CMSGHDR.size + _cmsg_align(_integer("nbytes", nbytes, 0, sys.maxsize >> 1, "a size in bytes"))


def pack_control(items: Iterable[tuple[int, int, Any]]) -> bytes:
    """Build ancillary data.

    Args: items are (level, type, data) as socket.sendmsg takes them; data has a buffer, such as
        array.array("i", fds) for socket.SCM_RIGHTS.
    Returns: the bytes.
    Mirrors: libc CMSG_FIRSTHDR, CMSG_NXTHDR
    """
    packed = b""
    for item in _objects_of("control", items, "(level, type, data)"):
        try:
            level, kind, data = item
            _integer("level", level, -0x80000000, 0x7FFFFFFF)
            _integer("type", kind, -0x80000000, 0x7FFFFFFF)
            payload = memoryview(data).tobytes()
            header = _CMSGHDR.pack(_CMSGHDR.size + len(payload), level, kind)
        except (TypeError, ValueError) as error:
            failed = TypeError if isinstance(error, TypeError) else ValueError
            wanted = "expected (level, type, data), two ints and an object with a buffer"
            raise failed(f"control item {item!r:.100}: {wanted}: {error}") from None
        packed += header + payload.ljust(_cmsg_align(len(payload)), b"\0")
    return packed


def unpack_control(data: bytes) -> list[tuple[int, int, bytes]]:
    """Read ancillary data.

    Args: data as the kernel filled it in, cut to the length that it reported.
    Returns: (level, type, data) as socket.recvmsg returns them. Descriptors of socket.SCM_RIGHTS are then
        open and belong to the caller.
    Mirrors: libc CMSG_FIRSTHDR, CMSG_NXTHDR
    """
    items = []
    offset = 0
    while offset + _CMSGHDR.size <= len(data):
        length, level, kind = _CMSGHDR.unpack_from(data, offset)
        if length < _CMSGHDR.size:
            break
        items.append((level, kind, data[offset + _CMSGHDR.size : offset + length]))
        offset += _cmsg_align(length)
    return items


class Msghdr(Pin):
    """A struct msghdr with everything that it points to: see msghdr()."""

    __slots__ = ("_control", "_header", "_name", "control_size", "name_size")

    #: name, namelen, iov, iovlen, control, controllen, flags; the kernel's user_msghdr
    _LAYOUT = struct.Struct("@PiPNPNI0P")

    def __init__(self, vector: Pin, name: StructBuffer, control: StructBuffer) -> None:
        """Tie the parts together; use msghdr() to create a Msghdr."""
        self._name, self._control = name, control
        #: The room for the address and for ancillary data, in bytes.
        self.name_size, self.control_size = name.nbytes, control.nbytes
        nr_vecs = vector.nbytes // struct.calcsize("@PN")
        self._header = header = StructBuffer(
            self._LAYOUT.pack(
                name.address if name.nbytes else 0, name.nbytes, vector.address if nr_vecs else 0, nr_vecs,
                control.address if control.nbytes else 0, control.nbytes, 0,
            )
        )  # fmt: skip
        super().__init__(header.address, header.nbytes, (header, vector, name, control), vector.readonly)

    def name(self) -> tuple[int, Any]:
        """Read the source address of the message.

        Returns: (family, address) as unpack_sockaddr().
        """
        length = self._LAYOUT.unpack(self._header.read())[1]
        return unpack_sockaddr(self._name.read()[:length])

    def control(self) -> list[tuple[int, int, bytes]]:
        """Read the ancillary data.

        Returns: as unpack_control().
        """
        length = self._LAYOUT.unpack(self._header.read())[5]
        return unpack_control(self._control.read()[:length])

    def reset(self) -> None:
        """Restore the full room, before the header is reused for another RECVMSG.

        The kernel leaves the lengths that it wrote in the header, and the next request would use them as the
        room: a longer address would be truncated, and more ancillary data lost. Call it only while no request
        uses the header.
        """
        import ctypes

        fields = list(self._LAYOUT.unpack(self._header.read()))
        fields[1], fields[5], fields[6] = self.name_size, self.control_size, 0
        image = self._LAYOUT.pack(*fields)
        ctypes.memmove(self._header.address, image, len(image))

    @property
    def msg_flags(self) -> int:
        """Return the flags of the message: socket.MSG_TRUNC, socket.MSG_CTRUNC, ..."""
        return int(self._LAYOUT.unpack(self._header.read())[6])


def msghdr(
    memories: Iterable[Any] = (), *, name: Pin | bytes | None = None, control: Iterable[Any] = (),
    name_size: int = 0, control_size: int = 0, writable: bool = False,
) -> Msghdr:  # fmt: skip
    """Build a struct msghdr.

    Args: memories are buffers, or Pins, for the data; name is a destination from sockaddr() or
        pack_sockaddr(); control is ancillary data to send, as for pack_control(); name_size and control_size
        make room for receiving, in bytes (128 and cmsg_space() of the payload); writable for RECVMSG.
    Returns: a Msghdr; after RECVMSG it returns name, ancillary data and flags; call its reset() before
        another RECVMSG.
    Raises: as pin().
    Lifetime: until the final CQE; with zero copy until the notification CQE.
    """
    import ctypes

    if isinstance(name, Pin):
        name = ctypes.string_at(name.address, name.nbytes)
    elif not isinstance(name, (bytes, type(None))):
        raise TypeError(f"name={name!r:.100}: expected the result of sockaddr() or pack_sockaddr()")
    _integer("name_size", name_size, 0, 0x7FFFFFFF, "a size in bytes")
    _integer("control_size", control_size, 0, sys.maxsize >> 1, "a size in bytes")
    return Msghdr(
        iovec(memories, writable),
        StructBuffer(name or bytes(name_size)),
        StructBuffer(pack_control(control) or bytes(control_size)),
    )


class RecvmsgOut(namedtuple("RecvmsgOut", "name control payload payloadlen flags")):
    """One message of a multishot RECVMSG."""

    __slots__ = ()

    #: (family, address) as unpack_sockaddr() returns them.
    name: tuple[int, Any]
    #: (level, type, data) as unpack_control() returns them.
    control: list[tuple[int, int, bytes]]
    #: The data, as far as it fits into the buffer.
    payload: memoryview
    #: The length of the message; more than the payload if it was truncated.
    payloadlen: int
    #: socket.MSG_TRUNC and others.
    flags: int


def recvmsg_out(data: Any, msg: Msghdr) -> RecvmsgOut:
    """Parse the message that a multishot RECVMSG put into a provided buffer.

    Args: data is the buffer, cut to the CQE's res; msg is the header of the request.
    Returns: the parts; payload is a view of data.
    Raises: ValueError if data is too short for the sizes that it claims.
    Since: 6.0
    Mirrors: liburing io_uring_recvmsg_validate, _name, _cmsg_firsthdr, _payload, _payload_length
    """
    if not isinstance(msg, Msghdr):
        raise TypeError(f"msg={msg!r:.100}: expected the Msghdr of the request")
    view = memoryview(data)
    head = uapi.io_uring_recvmsg_out
    name_at = head.size
    control_at = name_at + msg.name_size
    payload_at = control_at + msg.control_size
    if len(view) < payload_at:
        raise ValueError(f"{len(view)} bytes hold no message whose head, name and control need {payload_at}")
    raw = head.unpack(view)
    # Data that did not fit is truncated, but its whole length is reported.
    namelen, controllen = min(raw["namelen"], msg.name_size), min(raw["controllen"], msg.control_size)
    return RecvmsgOut(
        unpack_sockaddr(bytes(view[name_at : name_at + namelen])),
        unpack_control(bytes(view[control_at : control_at + controllen])),
        view[payload_at : payload_at + raw["payloadlen"]],
        raw["payloadlen"],
        raw["flags"],
    )


# ------------------------------------------------------------------------------------------------------
# Rings of provided buffers
# A third ring, in which we are again the producer: of empty buffers. Its tail is a 16-bit word inside the
# first entry, in a member that entries do not use:
#
#     byte 0        8      12    14      16             24
#     +------------+------+-----+-------+--------------+-----
#     | addr       | len  | bid | tail  | addr         | len ...
#     +------------+------+-----+-------+--------------+-----
#       entry 0 ........................  entry 1 ..........
#
# An entry is therefore written as 14 bytes, never as 16. The kernel's head is not in this memory:
# register.buf_ring_head() queries it.

_BUF = struct.Struct("=QIH")  # io_uring_buf without resv
_BID = struct.Struct("=H")
_TAIL_WORD = 3  # bytes 12 to 15, as a 32-bit word


class BufferRing(syscalls.Uncopyable):
    """The ring through which the kernel gets buffers, on any memory, such as that of a test.

    An addition becomes visible with advance(), like an SQE with flush().
    """

    __slots__ = ("_bid0", "_bytes", "_words", "mask", "ring_entries", "tail")

    def __init__(self, memory: Any, entries: int) -> None:
        """Take the memory and start with an empty ring.

        Args: memory is a writable buffer of 16 bytes for each entry; entries is a power of two, up to 32768.
        Raises: ValueError for sizes that no kernel accepts; RuntimeError on a machine that cannot store a
            tail in one piece.
        Mirrors: liburing io_uring_buf_ring_init
        """
        _integer("entries", entries, 1, 32768, "a power of two")
        if entries & (entries - 1):
            raise ValueError(f"entries={entries} is not a power of two between 1 and 32768")
        if len(memory) < entries * uapi.io_uring_buf.size:
            raise ValueError(f"{len(memory)} bytes are too few for {entries} entries of 16")
        self.ring_entries = entries
        self.mask = entries - 1
        self._bytes = memoryview(memory)
        self._words = barriers.map_words(memory)
        if not barriers.whole_words(self._words):
            raise RuntimeError("a buffer ring needs whole stores, for which this CPU needs libatomic.so.1")
        #: Runs free; the kernel sees the lower 16 bits of what advance() has published.
        self.tail = 0
        # Next to the tail is the bid of entry 0, which is stored together with it.
        self._bid0: int = _BID.unpack_from(self._bytes, 12)[0]
        self.advance()

    def add(self, addr: int, length: int, bid: int) -> None:
        """Write one buffer into the next entry.

        If more than ring_entries buffers have not been taken by the kernel, they overwrite each other,
        undetected.

        Args: addr is an address, length in bytes, bid the number that the CQE will contain.
        Raises: ValueError for a value that does not fit.
        Lifetime: until the final CQE of the request that takes the buffer.
        Threads: one at a time.
        Since: 5.19
        Mirrors: liburing io_uring_buf_ring_add
        """
        index = self.tail & self.mask
        try:
            _BUF.pack_into(self._bytes, index * 16, addr, length, bid)
        except (struct.error, ValueError, TypeError) as error:
            what = f"addr={addr!r}, length={length!r}, bid={bid!r}"
            raise ValueError(f"{what} do not describe a buffer: {error}") from None
        if index == 0:
            self._bid0 = bid
        self.tail += 1

    def advance(self) -> None:
        """Publish every buffer added so far.

        Threads: one at a time.
        Mirrors: liburing io_uring_buf_ring_advance
        """
        tail = self.tail & 0xFFFF
        # Tail and bid of entry 0 share a word, and only we write to either. One store: the kernel must never
        # see half a tail.
        word = self._bid0 | tail << 16 if sys.byteorder == "little" else self._bid0 << 16 | tail
        # The entries must be seen before the tail that covers them. Pairs with the kernel's
        # smp_load_acquire of the tail in io_ring_buffer_select.
        barriers.store_release(self._words, _TAIL_WORD, word)

    def release(self) -> None:
        """Release the memory, so that it can be unmapped.

        Threads: one at a time.
        """
        barriers.release_words(self._words)
        self._bytes.release()


class Piece(namedtuple("Piece", "bid data done length")):
    """Data that arrived in a provided buffer."""

    __slots__ = ()

    #: The buffer, to be returned with recycle().
    bid: int
    #: The data, in place.
    data: memoryview
    #: False if the kernel continues to fill the same buffer (IOU_PBUF_RING_INC), which must not be returned
    #: yet.
    done: bool
    #: The length of the data; more than len(data) if the rest was truncated (socket.MSG_TRUNC).
    length: int


class ProvidedBuffers(syscalls.Uncopyable):
    """A group of equal-sized buffers, which requests take with IOSQE_BUFFER_SELECT.

    register.setup_buf_ring() creates one. The memory is one block, divided into buffers 0, 1, 2 ... A buffer
    belongs to the kernel until a CQE names it, then to the program until recycle() returns it.
    """

    def __init__(self, ring: BufferRing, memory: Any, size: int, bgid: int, count: int) -> None:
        """Put all buffers into the ring.

        Args: memory is a writable buffer of count times size bytes; bgid is the group.
        """
        self.ring = ring
        #: The group: sqe.buf_group.
        self.bgid = bgid
        #: Bytes in each buffer.
        self.size = size
        self.count = count
        self._pin = pin(memory, writable=True)
        #: Of buffer 0; buffer i is i * size bytes after it.
        self.address = self._pin.address
        self._memory = memoryview(memory)
        self._used = [0] * count  # the filled bytes of an incremental buffer
        self._ours = [True] * count
        # The buffer at each place of the ring, and the reverse: a bundle fills buffers in the order of the
        # ring, not of their numbers.
        self._order = [0] * ring.ring_entries
        self._place = [0] * count
        # Whether recycle() runs, and the buffers that calls of it inside that one have left to it.
        self._recycling = False
        self._more: list[int] = []
        self.recycle(*range(count))

    def recycle(self, *bids: int) -> None:
        """Return buffers to the kernel; views of their data become invalid.

        Args: bids as take() returned them.
        Raises: ValueError for a buffer that the kernel already has.
        Lifetime: until the final CQE of the request that takes them.
        Threads: one at a time. A signal handler, or a finalizer that the garbage collector runs, may call it
            at any moment.
        """
        if self._recycling:
            self._more += bids
            return
        self._recycling = True
        try:
            for bid in bids:
                if not 0 <= bid < self.count or not self._ours[bid]:
                    self.ring.advance()  # the buffers before it are returned
                    raise ValueError(f"buffer {bid} of group {self.bgid} is not ours to return")
                self._ours[bid] = False
                self._used[bid] = 0
                self._place[bid] = self.ring.tail
                self._order[self.ring.tail & self.ring.mask] = bid
                self.ring.add(self._pin.address + bid * self.size, self.size, bid)
            self.ring.advance()
        finally:
            self._recycling = False
            while self._more:
                self.recycle(self._more.pop())

    def claim(self, flags: int) -> int:
        """Take the single buffer of a CQE as a whole, without looking at its data.

        For requests that continue with the memory in place, at ``address + bid * size``: cheaper than take().
        It supports neither bundles nor incremental groups.

        Args: flags of the CQE.
        Returns: the bid, which is ours until recycle().
        Raises: RuntimeError for a CQE without a buffer, or with one that the kernel cannot have filled.
        Threads: one at a time.
        """
        bid = flags >> uapi.IORING_CQE_BUFFER_SHIFT
        if not flags & uapi.IORING_CQE_F_BUFFER or bid >= self.count or self._ours[bid]:
            raise RuntimeError(f"flags={flags:#x}: no buffer of group {self.bgid} that the kernel has")
        self._ours[bid] = True
        return bid

    def take(self, res: int, flags: int, *, bundle: bool = False) -> list[Piece]:
        """Find the data of a CQE.

        A res that exceeds the buffer has two meanings, which only the code that made the request can tell
        apart: the data continues in the next buffers, or the data that did not fit is lost.

        Args: res and flags of the CQE; bundle says that the request had IORING_RECVSEND_BUNDLE.
        Returns: the pieces in order: none if the CQE names no buffer, several for a bundle. Completed ones
            belong to the caller until recycle(). Without bundle a res that exceeds the buffer yields one
            piece, truncated, with res as its length (socket.MSG_TRUNC).
        Raises: the OSError of a negative res, after returning a buffer that came with it;
            RuntimeError for a buffer that the kernel cannot have filled. Nothing is taken then.
        Threads: one at a time.
        Mirrors: liburing has no such call; its examples do this by hand
        """
        if res < 0:
            if flags & uapi.IORING_CQE_F_BUFFER:
                self.recycle(self.claim(flags))
            raise OSError(-res, f"no data for group {self.bgid}: {os.strerror(-res)}")
        if not flags & uapi.IORING_CQE_F_BUFFER:
            return []
        bid = flags >> uapi.IORING_CQE_BUFFER_SHIFT
        left = res
        pieces: list[Piece] = []
        while True:
            if bid >= self.count or self._ours[bid] or len(pieces) == self.count:
                raise RuntimeError(f"the CQE names buffer {bid} of group {self.bgid}, which it cannot have")
            used = self._used[bid]
            taken = min(left, self.size - used)
            length, left = (taken, left - taken) if bundle else (left, 0)
            start = bid * self.size + used
            more = not left and bool(flags & uapi.IORING_CQE_F_BUF_MORE)
            pieces.append(Piece(bid, self._memory[start : start + taken], not more, length))
            if not left:
                break
            bid = self._order[(self._place[bid] + 1) & self.ring.mask]
        for piece in pieces:
            self._used[piece.bid] += len(piece.data)
            self._ours[piece.bid] = piece.done
        return pieces

    def copy(self, res: int, flags: int, *, bundle: bool = False) -> bytes:
        """Copy the data of a CQE, and return its buffers.

        Args: as take().
        Returns: the data, as far as it fits into the buffer.
        Raises: as take().
        Threads: one at a time.
        """
        pieces = self.take(res, flags, bundle=bundle)
        data = b"".join(piece.data for piece in pieces)
        self.recycle(*(piece.bid for piece in pieces if piece.done))
        return data

    def __len__(self) -> int:
        """Count the buffers that the kernel has, according to the CQEs so far."""
        return self._ours.count(False)

    def release(self) -> None:
        """Release the memory. register.free_buf_ring() calls this.

        Threads: one at a time.
        """
        self._memory.release()
        self.ring.release()
