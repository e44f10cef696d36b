# SPDX-License-Identifier: MIT
"""Pinning memory: the address is correct, the memory stays alive, and memory that could move is rejected."""

from __future__ import annotations

import array
import ctypes
import json
import mmap
import os
import random
import socket
import struct
import sys
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from rawuring import buffers, uapi

PYPY = sys.implementation.name == "pypy"
needs_cpython = pytest.mark.skipif(PYPY, reason="PyPy may move such memory")


def peek(pin: buffers.Pin) -> bytes:
    return ctypes.string_at(pin.address, pin.nbytes)


@pytest.mark.parametrize(
    "memory",
    [
        b"bytes",
        pytest.param(bytearray(b"bytearray"), marks=needs_cpython),
        pytest.param(array.array("i", [1, 2, 3]), marks=needs_cpython),
        pytest.param(memoryview(bytearray(b"0123456789"))[2:7], marks=needs_cpython),
        pytest.param(memoryview(b"read-only")[1:5], marks=needs_cpython),
        (ctypes.c_char * 5)(*b"ctype"),
    ],
    ids=lambda memory: type(memory).__name__,
)
def test_pin_then_the_address_holds_the_bytes(memory):
    assert peek(buffers.pin(memory)) == memoryview(memory).tobytes()


def test_pin_mmap_then_a_write_through_the_address_shows():
    memory = buffers.allocate(8192)
    pin = buffers.pin(memory, writable=True)
    assert pin.address % mmap.PAGESIZE == 0
    ctypes.memset(pin.address + 5000, 7, 1)
    assert memory[5000] == 7


def test_pin_read_only_for_writing_then_type_error():
    with pytest.raises(TypeError, match="read-only bytes"):
        buffers.pin(b"abc", writable=True)


def test_pin_empty_then_no_address():
    pin = buffers.pin(b"")
    assert (pin.address, pin.nbytes) == (0, 0)


def test_pin_in_pieces_then_buffer_error():
    with pytest.raises(BufferError, match="contiguous"):
        buffers.pin(memoryview(b"abcdef")[::2])


def test_pin_without_a_buffer_then_type_error():
    with pytest.raises(TypeError):
        buffers.pin("text")


@needs_cpython
def test_pinned_bytearray_then_cannot_be_resized_until_the_pin_goes():
    memory = bytearray(10)
    pin = buffers.pin(memory, writable=True)
    for change in (lambda: memory.append(1), memory.clear, lambda: memory.extend(b"12")):
        with pytest.raises(BufferError):
            change()
    del pin
    memory.clear()


@pytest.mark.skipif(not PYPY, reason="only PyPy moves memory")
def test_bytearray_on_pypy_then_refused_with_advice():
    with pytest.raises(TypeError, match="allocate"):
        buffers.pin(bytearray(10))


@pytest.mark.parametrize("ns", [0, 1, 999_999_999, 1_000_000_000, 12_345_678_901])
def test_timespec_then_seconds_and_nanoseconds(ns):
    pin = buffers.timespec(ns)
    assert pin.nbytes == uapi.__dict__["__kernel_timespec"].size
    assert struct.unpack("=qq", peek(pin)) == divmod(ns, 1_000_000_000)


def test_timespec_beyond_64_bits_then_value_error():
    longest = buffers.timespec(2**63 * 1_000_000_000 - 1)
    assert ctypes.string_at(longest.address, 16) == struct.pack("=qq", 2**63 - 1, 999_999_999)
    with pytest.raises(ValueError, match=r"timeout_ns=9.*: a time in nanoseconds must be between"):
        buffers.timespec(2**63 * 1_000_000_000)


def test_negative_timespec_then_value_error():
    with pytest.raises(ValueError, match=r"timeout_ns=-1: a time in nanoseconds must be between"):
        buffers.timespec(-1)


@needs_cpython
def test_pin_when_another_thread_shrinks_the_memory_meanwhile_then_it_is_refused(monkeypatch):
    """The view was released before the memory was exported: the Pin was longer than the memory."""
    memory = bytearray(64)

    class View:
        c_contiguous, nbytes, readonly = True, 64, False

        def __init__(self, memory):
            self.real = memoryview(memory)

        def release(self):
            self.real.release()
            with pytest.raises(BufferError):
                del memory[32:]  # as another thread may at this moment

    monkeypatch.setattr(buffers, "memoryview", View, raising=False)
    pin = buffers.pin(memory)
    assert pin.nbytes == len(memory)


def test_pin_numpy_then_the_address_holds_the_bytes():
    numpy = pytest.importorskip("numpy", reason="numpy, which is not needed otherwise")
    array_ = numpy.arange(10, dtype="uint32")
    if PYPY:
        with pytest.raises(TypeError):
            buffers.pin(array_)
    else:
        assert peek(buffers.pin(array_, writable=True)) == array_.tobytes()


# ------------------------------------------------------------------------------------------------------
# Small structs


@pytest.mark.parametrize("name", ["a/path", b"bytes\xff", Path("/some/where"), "\udc80surrogate", ""])
def test_path_then_as_the_file_system_wants_it(name):
    assert peek(buffers.path(name)) == os.fsencode(name) + b"\0"


def test_path_with_a_zero_byte_then_value_error():
    with pytest.raises(ValueError, match="zero byte"):
        buffers.path("a\0b")


def test_ints_then_read_again():
    values = buffers.ints([3, -1, 2**31 - 1])
    assert peek(values) == struct.pack("=3i", 3, -1, 2**31 - 1)
    ctypes.memset(values.address, 0, 4)
    assert values.values() == [0, -1, 2**31 - 1]


def test_open_how_then_three_numbers():
    assert struct.unpack("=3Q", peek(buffers.open_how(5, 0o600, 8))) == (5, 0o600, 8)


def test_futex_waitv_then_an_array():
    pin = buffers.futex_waitv([(0x1000, 7, 2), (0x2000, 8, 130)])
    assert struct.unpack("=QQIIQQII", peek(pin)) == (7, 0x1000, 2, 0, 8, 0x2000, 130, 0)
    for count in (0, 129):
        with pytest.raises(ValueError, match="futexes"):
            buffers.futex_waitv([(0, 0, 0)] * count)


def test_statx_then_readable():
    buffer = buffers.StatxBuffer()
    image = uapi.statx.pack(
        stx_mode=0o100644, stx_size=5, stx_dev_major=8, stx_dev_minor=3,
        stx_btime={"tv_sec": -1, "tv_nsec": 999_999_999}, stx_mtime={"tv_sec": 2, "tv_nsec": 5},
    )  # fmt: skip
    ctypes.memmove(buffer.address, image, len(image))
    result = buffer.result()
    assert (result.st_mode, result.st_size, result.st_dev) == (0o100644, 5, os.makedev(8, 3))
    assert (result.st_birthtime_ns, result.st_mtime_ns) == (-1, 2_000_000_005)


# ------------------------------------------------------------------------------------------------------
# Socket addresses, compared with the kernel's and with those of Python's socket module


def raw_name(sock: socket.socket) -> bytes:
    """Fetch the address of a socket as the kernel gives it, through libc."""
    room = ctypes.create_string_buffer(128)
    length = ctypes.c_uint32(128)
    assert ctypes.CDLL(None).getsockname(sock.fileno(), room, ctypes.byref(length)) == 0
    return room.raw[: length.value]


def bound(family: str, kind: int, address: object, protocol: int = 0) -> socket.socket:
    number = getattr(socket, family, None)
    if number is None:
        pytest.skip(f"socket.{family} in this Python")
    try:
        sock = socket.socket(number, kind, protocol)
    except OSError as error:
        pytest.skip(f"{family} in this kernel: {error}")
    try:
        sock.bind(address)
    except OSError as error:
        sock.close()
        pytest.skip(f"{family} {address}: {error}")
    return sock


ADDRESSES = [
    ("AF_INET", socket.SOCK_STREAM, ("127.0.0.1", 0), 0),
    ("AF_INET", socket.SOCK_DGRAM, ("127.1.2.3", 0), 0),
    ("AF_INET6", socket.SOCK_STREAM, ("::1", 0), 0),
    ("AF_UNIX", socket.SOCK_STREAM, b"\0abstract \0 with zeros", 0),
    ("AF_NETLINK", socket.SOCK_RAW, (0, 0), 0),
    ("AF_PACKET", socket.SOCK_RAW, ("lo", 3), 0),
    ("AF_VSOCK", socket.SOCK_STREAM, (0xFFFFFFFF, 5555), 0),
    ("AF_QIPCRTR", socket.SOCK_DGRAM, (1, 5555), 0),
]


@pytest.mark.parametrize(
    ("family", "kind", "address", "protocol"), ADDRESSES, ids=lambda v: v if isinstance(v, str) else ""
)
def test_sockaddr_then_as_the_kernel_has_it(family, kind, address, protocol):
    with bound(family, kind, address, protocol) as sock:
        raw, name, number = raw_name(sock), sock.getsockname(), int(sock.family)
        if family == "AF_UNIX":
            assert buffers.unpack_sockaddr(raw) == (number, name)
        elif family == "AF_PACKET":
            assert buffers.unpack_sockaddr(raw)[1][:2] == name[:2]
            assert buffers.pack_sockaddr(number, name)[:8] == raw[:8]
            return
        else:
            assert buffers.unpack_sockaddr(raw) == (number, name)
        assert buffers.pack_sockaddr(number, name) == raw
        pin = buffers.sockaddr(number, name)
        assert peek(pin) == raw


def test_sockaddr_of_a_path_then_as_the_kernel_has_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("name")
        assert buffers.pack_sockaddr(socket.AF_UNIX, "name") == raw_name(sock)
        assert buffers.unpack_sockaddr(raw_name(sock)) == (socket.AF_UNIX, "name")
    with socket.socket(socket.AF_UNIX) as sock:
        assert buffers.unpack_sockaddr(raw_name(sock)) == (socket.AF_UNIX, "")


def test_sockaddr_of_can_and_alg_then_as_the_header_lays_them_out():
    lo = int(Path("/sys/class/net/lo/ifindex").read_text())
    can = struct.pack("=HHiII8x", 29, 0, lo, 5, 6)
    assert buffers.pack_sockaddr(29, ("lo", 5, 6)) == can
    assert buffers.unpack_sockaddr(can) == (29, ("lo",))
    assert len(buffers.pack_sockaddr(29, ("lo", 2**40, 7, 9))) == 24
    alg = struct.pack("=H14sII64s", 38, b"hash", 0, 0, b"sha256")
    assert buffers.pack_sockaddr(38, ("hash", "sha256")) == alg
    assert buffers.unpack_sockaddr(alg) == (38, ("hash", "sha256", 0, 0))


def test_sockaddr_of_another_family_then_its_bytes():
    assert buffers.pack_sockaddr(31, b"bluetooth") == struct.pack("=H", 31) + b"bluetooth"
    assert buffers.unpack_sockaddr(struct.pack("=H", 31) + b"bluetooth") == (31, b"bluetooth")
    assert buffers.unpack_sockaddr(b"") == (0, None)
    assert buffers.pack_sockaddr(2, b"raw too") == struct.pack("=H", 2) + b"raw too"


@pytest.mark.parametrize(
    ("family", "address"),
    [
        (2, ("localhost", 80)), (2, ("1.2.3.4", 70000)), (2, 5), (10, ("::1",)), (10, ("nonsense", 1)),
        (1, "x" * 108), (17, ("no such interface", 0)), (16, (1,)), (31, "text"),
        (17, ("lo", 0, 0, 0, b"nine bytes")), (29, ("sixteen letters!",)), (38, ("x" * 14, "name")),
        (38, ("hash", "x" * 64)),
    ],
)  # fmt: skip
def test_sockaddr_of_nonsense_then_value_error_that_shows_it(family, address):
    with pytest.raises(ValueError, match=f"is not an address of family {family}"):
        buffers.sockaddr(family, address)


# ------------------------------------------------------------------------------------------------------
# Messages


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300), st.binary(max_size=40)), max_size=5))
def test_control_data_then_the_same_again(items):
    packed = buffers.pack_control(items)
    assert buffers.unpack_control(packed) == items
    assert len(packed) == sum(buffers.cmsg_space(len(data)) for *_, data in items)
    for length in range(len(packed)):
        for level, kind, data in buffers.unpack_control(packed[:length]):
            assert any((level, kind) == item[:2] and item[2].startswith(data) for item in items)


@pytest.mark.parametrize("nbytes", [0, 1, 4, 8, 13, 100])
def test_cmsg_space_then_as_libc_has_it(nbytes):
    assert buffers.cmsg_space(nbytes) == socket.CMSG_SPACE(nbytes)


def test_msghdr_then_as_libc_lays_it_out():
    class Libc(ctypes.Structure):
        _fields_ = (
            ("msg_name", ctypes.c_void_p), ("msg_namelen", ctypes.c_uint32), ("msg_iov", ctypes.c_void_p),
            ("msg_iovlen", ctypes.c_size_t), ("msg_control", ctypes.c_void_p),
            ("msg_controllen", ctypes.c_size_t), ("msg_flags", ctypes.c_int),
        )  # fmt: skip

    message = buffers.msghdr([b"abc", b"defg"], name=b"12345678", control=[(1, 2, b"xyz")])
    header = Libc.from_address(message.address)
    assert message.nbytes == ctypes.sizeof(Libc)
    assert ctypes.string_at(header.msg_name, header.msg_namelen) == b"12345678"
    parts = (ctypes.c_size_t * (2 * header.msg_iovlen)).from_address(header.msg_iov)
    assert [ctypes.string_at(parts[i], parts[i + 1]) for i in (0, 2)] == [b"abc", b"defg"]
    control = ctypes.string_at(header.msg_control, header.msg_controllen)
    assert control == buffers.pack_control([(1, 2, b"xyz")])
    nothing = buffers.msghdr()
    empty = Libc.from_address(nothing.address)
    assert not (empty.msg_name or empty.msg_iov or empty.msg_control)


def test_recvmsg_out_when_it_is_too_short_or_lies_then_no_harm():
    message = buffers.msghdr(name_size=16, control_size=32)
    with pytest.raises(ValueError, match="hold no message"):
        buffers.recvmsg_out(bytes(63), message)
    lie = uapi.io_uring_recvmsg_out.pack(namelen=2**31, controllen=2**31, payloadlen=2**31)
    out = buffers.recvmsg_out(lie + bytes(48) + b"payload", message)
    assert out.payload.tobytes() == b"payload"
    assert out.payloadlen == 2**31


# ------------------------------------------------------------------------------------------------------
# Provided buffers

VECTORS = json.loads((Path(__file__).parent / "data" / "sqe_vectors.json").read_text())["buf_ring"]
little = pytest.mark.skipif(sys.byteorder == "big", reason="the vectors are from a little-endian machine")


def adopt(before: bytes, tail: int) -> tuple[bytearray, buffers.BufferRing]:
    memory = bytearray(before)
    ring = buffers.BufferRing(memory, len(before) // 16)
    ring.tail = tail
    memory[:] = before  # creating the ring has set the tail to 0
    return memory, ring


@little
@pytest.mark.parametrize("vector", [v for v in VECTORS if "before" in v], ids=lambda v: v["helper"])
def test_buffer_ring_then_the_same_bytes_as_liburing(vector):
    before, args, tail = bytes.fromhex(vector["before"]), vector["args"], vector["tail"]
    if vector["helper"] == "io_uring_buf_ring_init":
        memory = bytearray(before)
        buffers.BufferRing(memory, vector["entries"])
    elif vector["helper"] == "io_uring_buf_ring_add":
        memory, ring = adopt(before, tail + args["buf_offset"])
        ring.add(int(args["addr"], 0), args["len"], args["bid"])
    else:
        memory, ring = adopt(before, tail + args.get("count", args.get("buf_count")))
        ring.advance()
    assert memory.hex() == vector["after"]


def test_buffer_ring_of_a_wrong_size_then_value_error():
    for entries in (0, 3, 65536):
        with pytest.raises(ValueError, match="power of two"):
            buffers.BufferRing(bytearray(16), entries)
    with pytest.raises(ValueError, match="too few"):
        buffers.BufferRing(bytearray(31), 2)


class BufferRingKernel:
    """The other end of a buffer ring: it takes buffers in order, and fills them."""

    def __init__(self, memory: bytearray, slab: mmap.mmap, base: int, head: int, incremental: bool) -> None:
        self.memory, self.slab, self.base, self.head = memory, slab, base, head
        self.incremental, self.offset = incremental, 0

    def entry(self) -> tuple[int, int, int] | None:
        tail = struct.unpack_from("=H", self.memory, 14)[0]
        if tail == self.head & 0xFFFF:
            return None
        index = self.head & (len(self.memory) // 16 - 1)
        return struct.unpack_from("=QIH", self.memory, index * 16)

    def receive(self, data: bytes, bundle: bool) -> tuple[int, int]:
        """Put data into one buffer, or into as many as it takes; return res and flags."""
        taken, first, more = 0, None, False
        while data:
            entry = self.entry()
            if entry is None:
                break
            addr, length, bid = entry
            first = bid if first is None else first
            part, data = data[: length - self.offset], data[length - self.offset :]
            start = addr - self.base + self.offset
            self.slab[start : start + len(part)] = part
            taken += len(part)
            self.offset += len(part)
            more = self.incremental and self.offset < length
            if not more:
                self.offset = 0
                self.head += 1
            if not bundle or more:
                break
        if first is None:
            return -105, 0
        flags = uapi.IORING_CQE_F_BUFFER | first << uapi.IORING_CQE_BUFFER_SHIFT
        return taken, flags | (uapi.IORING_CQE_F_BUF_MORE if more else 0)


@given(
    seed=st.integers(0, 2**32), count=st.integers(1, 8), size=st.integers(1, 9),
    start=st.sampled_from([0, 1, 65530, 65535]), incremental=st.booleans(), bundle=st.booleans(),
)  # fmt: skip
def test_provided_buffers_then_every_byte_arrives_once_and_in_order(
    seed, count, size, start, incremental, bundle
):
    chance = random.Random(seed)
    entries = 1 << (count - 1).bit_length()
    memory, slab = buffers.allocate(entries * 16), buffers.allocate(count * size)
    ring = buffers.BufferRing(memory, entries)
    ring.tail = start
    ring.advance()
    group = buffers.ProvidedBuffers(ring, slab, size, 1, count)
    kernel = BufferRingKernel(memory, slab, group._pin.address, start, incremental)
    sent = received = b""
    held: list[int] = []
    for _ in range(60):
        data = bytes(chance.randrange(256) for _ in range(chance.randrange(1, 3 * size + 1)))
        res, flags = kernel.receive(data, bundle)
        sent += data[: max(res, 0)]
        pieces = group.take(res, flags, bundle=bundle) if res >= 0 else []
        received += b"".join(piece.data for piece in pieces)
        held += [piece.bid for piece in pieces if piece.done]
        chance.shuffle(held)
        back = held[: chance.randrange(len(held) + 1)]
        del held[: len(back)]
        del pieces
        group.recycle(*back)
        assert len(group) == count - len(held)
    assert received == sent


def test_provided_buffers_when_the_cqe_is_impossible_or_given_back_twice_then_an_error():
    ring = buffers.BufferRing(buffers.allocate(64), 4)
    group = buffers.ProvidedBuffers(ring, buffers.allocate(16), 4, 1, 4)
    buffer = uapi.IORING_CQE_F_BUFFER
    assert group.take(5, 0) == []
    with pytest.raises(RuntimeError, match="buffer 9"):
        group.take(4, buffer | 9 << 16)
    with pytest.raises(ValueError, match="not ours"):
        group.recycle(2)
    (piece,) = group.take(4, buffer | 2 << 16)
    with pytest.raises(RuntimeError, match="buffer 2"):
        group.take(4, buffer | 2 << 16)
    with pytest.raises(ValueError, match="not ours"):
        group.recycle(piece.bid, piece.bid)
    # The first of the two belongs to the kernel: it is in the ring, before the tail.
    assert struct.unpack_from("=H", ring._bytes, 14)[0] == ring.tail == 5
    with pytest.raises(ValueError, match="not ours"):
        group.recycle(2)
    with pytest.raises(RuntimeError, match="cannot have"):
        group.take(100, buffer, bundle=True)


def test_provided_buffer_claimed_as_a_whole_then_ours_until_given_back():
    slab = buffers.allocate(16)
    ring = buffers.BufferRing(buffers.allocate(64), 4)
    group = buffers.ProvidedBuffers(ring, slab, 4, 1, 4)
    buffer = uapi.IORING_CQE_F_BUFFER
    assert group.address == buffers.pin(slab).address
    assert group.claim(buffer | 2 << 16) == 2
    assert len(group) == 3
    for flags in (buffer | 2 << 16, buffer | 4 << 16, 1 << 16):
        with pytest.raises(RuntimeError, match="no buffer of group 1"):
            group.claim(flags)
    group.recycle(2)
    assert group.claim(buffer | 2 << 16) == 2


class InterruptedRing(buffers.BufferRing):
    """A ring that calls a function at one moment: before or after an addition or a store of the tail."""

    moments, interrupt = 0, staticmethod(lambda: None)

    def moment(self):
        InterruptedRing.moments -= 1
        if InterruptedRing.moments == 0:
            self.interrupt()

    def add(self, addr, length, bid):
        self.moment()
        super().add(addr, length, bid)
        self.moment()

    def advance(self):
        self.moment()
        super().advance()
        self.moment()


@pytest.mark.parametrize("moment", range(1, 7))
def test_buffer_returned_while_others_are_then_each_is_in_the_ring_once_and_in_order(monkeypatch, moment):
    """The collector returns a forgotten piece of asyncring at any moment: the order was lost."""
    ring = InterruptedRing(buffers.allocate(64), 4)
    group = buffers.ProvidedBuffers(ring, buffers.allocate(16), 4, 1, 4)
    buffer = uapi.IORING_CQE_F_BUFFER
    assert [group.claim(buffer | bid << 16) for bid in range(4)] == [0, 1, 2, 3]
    monkeypatch.setattr(InterruptedRing, "interrupt", lambda ring: group.recycle(3))
    monkeypatch.setattr(InterruptedRing, "moments", moment)
    group.recycle(2, 0)
    order = [struct.unpack_from("=H", ring._bytes, at * 16 + 12)[0] for at in range(3)]
    assert sorted(order) == [0, 2, 3] and len(group) == 3
    assert struct.unpack_from("=H", ring._bytes, 14)[0] == ring.tail == 7
    pieces = group.take(12, buffer | order[0] << 16, bundle=True)
    assert [piece.bid for piece in pieces] == order


@pytest.mark.parametrize("nbytes", [0, -1])
def test_allocate_when_nothing_is_wanted_then_refused_in_words(nbytes):
    with pytest.raises(ValueError, match=f"nbytes={nbytes}"):
        buffers.allocate(nbytes)


@pytest.mark.parametrize("value", ["a", None, 1.5, 1 << 31])
def test_ints_when_a_value_is_no_descriptor_then_the_message_names_it(value):
    with pytest.raises(ValueError, match=rf"^{value!r} is not a 32-bit int"):
        buffers.ints([3, value])


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="no /proc/self/maps")
def test_allocate_then_the_memory_is_private():
    """Kernels before 5.12 do not register shared memory."""
    memory = buffers.allocate(1 << 20)
    address = buffers.pin(memory, writable=True).address
    with open("/proc/self/maps", encoding="ascii") as file:
        for line in file:
            first, last = (int(end, 16) for end in line.split()[0].split("-"))
            if first <= address < last:
                assert line.split()[1] == "rw-p"
                return
    raise AssertionError("not mapped at all")


def test_recvmsg_out_when_name_and_control_were_cut_then_the_parts_do_not_overlap():
    msg = buffers.msghdr(name_size=4, control_size=32)
    head = uapi.io_uring_recvmsg_out.pack(namelen=100, controllen=1000, payloadlen=3, flags=0)
    name = struct.pack("=HH", 12345, 7)
    control = buffers.pack_control([(1, 2, b"\1\2\3\4")]).ljust(32, b"\0")
    # The following bytes would be taken for one more item.
    out = buffers.recvmsg_out(head + name + control + buffers.pack_control([(8, 9, b"")]), msg)
    assert out.name == (12345, name[2:])
    assert out.control == [(1, 2, b"\1\2\3\4")]


def test_msghdr_reset_then_lengths_and_flags_as_before():
    msg = buffers.msghdr(name_size=16, control_size=24)
    fields = list(msg._LAYOUT.unpack(msg._header.read()))
    image = msg._LAYOUT.pack(fields[0], 1, *fields[2:5], 2, 32)
    ctypes.memmove(msg.address, image, len(image))
    assert msg.msg_flags == 32
    msg.reset()
    assert list(msg._LAYOUT.unpack(msg._header.read())) == fields
