# SPDX-License-Identifier: MIT
"""The memory of requests: the short way to start one is the safe way, and mistakes are reported."""

from __future__ import annotations

import array
import ctypes
import gc
import inspect
import os
import re
import socket
import struct
import sys
from collections import deque

import pytest

from rawuring import barriers, buffers, debug, fdmon, inflight, ops, pin, register, rings, uapi
from rawuring.fakekernel import fake_ring
from rawuring.inflight import TOKEN_BASE, InFlight
from rawuring.syscalls import Unavailable

needs_ring = pytest.mark.requires_io_uring
PREP = {
    name: prep
    for name, prep in vars(ops).items()
    if name.startswith("prep_") and name not in ("prep_rw", "prep_send_set_addr")
}


def target(nbytes: int = 4096) -> buffers.Pin:
    return pin(buffers.allocate(nbytes), writable=True)


def parameters(prep) -> list[str]:
    code = prep.__code__
    return [n for n in code.co_varnames[1 : code.co_argcount] if n not in ("user_data", "flags")]


@pytest.fixture
def table():
    with fake_ring(entries=8) as (_, ring):
        table = InFlight(ring)
        yield table
        ring.discard()
        table.entries.clear()


def last_sqe(table: InFlight) -> bytes:
    sq = table.ring.sq
    return bytes(sq.slots[(sq.sqe_tail - 1) & sq.ring_mask])


# ------------------------------------------------------------------------------------------------------
# Objects as addresses


@pytest.mark.parametrize("name", PREP)
def test_pins_in_the_place_of_addresses_then_the_same_request_and_all_are_held(table, name):
    """The names of arguments, which are liburing's, also show which of them are addresses."""
    prep = PREP[name]
    pointers = (
        "buf iovecs fds ev ts msg optval path how statxbuf name value oldpath newpath infop futex linkpath "
        "sockaddr sockaddr_len"
    )
    expected = {n for n in parameters(prep) if n in pointers.split()}
    expected |= {"events"} & set(parameters(prep))
    if name == "prep_shutdown":
        expected = set()
    if "accept" in name:
        expected |= {"addr", "addrlen"}
    elif "cancel" not in name and "poll" not in name and "timeout" not in name:
        expected |= {"addr", "target"} & set(parameters(prep))
    plan = ops.memory_arguments(prep)
    names = parameters(prep)
    assert {names[place] for place, *_ in plan} == expected
    room = 4080  # a multiple of all sizes
    given = [0] * len(names)
    numbers = list(given)
    for place, counter, size, _ in plan:
        given[place] = pinned = target(room)
        numbers[place] = pinned.address
        if counter is not None:
            given[counter] = numbers[counter] = room // size
    options = {}
    if name.endswith("128"):
        pytest.skip("a request without memory: its slot has 128 bytes")
    token = table.start(prep, *given, **options)
    sqe = bytearray(64)
    prep(sqe, *numbers, token)
    assert last_sqe(table) == bytes(sqe)
    held = table.entries[token][1]
    assert [id(each) for each in held] == [id(given[place]) for place, *_ in plan]
    for place, counter, size, _ in plan:
        if counter is not None:
            more = list(given)
            more[counter] += 1
            words = rf"{name}\(\): {room + size} bytes requested, but <Pin {room}"
            with pytest.raises(ValueError, match=words):
                table.start(prep, *more)
        elif size > 1:
            more = list(given)
            more[place] = target(size - 1)
            with pytest.raises(ValueError, match=f"{size} bytes requested"):
                table.start(prep, *more)
    assert len(table) == 1


@pytest.mark.parametrize("name", PREP)
def test_docstring_of_an_operation_then_it_says_how_long_its_memory_must_stay_on_every_ring(name):
    """On an SQPOLL ring submit() returns before the kernel has read anything."""
    said = re.search(r"^Lifetime: (.*)", inspect.getdoc(PREP[name]) or "", re.MULTILINE)
    if ops.memory_arguments(PREP[name]):
        assert said, f"{name} names memory without its lifetime"
    if said and "until submit returns" in said[1]:
        assert "SQPOLL" in said[1]


def test_none_then_the_length_of_what_stands_before_it(table):
    memory, vector = target(100), buffers.iovec([buffers.allocate(10), buffers.allocate(20)], writable=True)
    peer, to = buffers.SockaddrBuffer(), buffers.sockaddr(socket.AF_INET, ("127.0.0.1", 9))
    ints, name = buffers.ints([1, 2, 3]), buffers.path("user.x")
    events = buffers.EpollEvents(7)
    words = [target(4) for _ in range(2)]
    waiters = buffers.futex_waitv([(word, 0, 2) for word in words])
    assert waiters.read() == buffers.futex_waitv([(word.address, 0, 2) for word in words]).read()
    assert waiters._export[1][0] == words
    for prep, given, numbers in [
        (ops.prep_read, (5, memory, None, 0), (5, memory.address, 100, 0)),
        (ops.prep_write, (5, memory, None, -1), (5, memory.address, 100, -1)),
        (ops.prep_recv, (5, memory, None, 0), (5, memory.address, 100, 0)),
        (ops.prep_send, (5, memory, None, 0), (5, memory.address, 100, 0)),
        (ops.prep_read_fixed, (5, memory, None, 0, 0), (5, memory.address, 100, 0, 0)),
        (ops.prep_sendto, (5, memory, None, 0, to, None), (5, memory.address, 100, 0, to.address, 16)),
        (ops.prep_connect, (5, to, None), (5, to.address, 16)),
        (ops.prep_readv, (5, vector, None, 0), (5, vector.address, 2, 0)),
        (ops.prep_accept, (5, peer, None, 0), (5, peer.address, peer.addrlen, 0)),
        (ops.prep_cmd_getsockname, (5, peer, None, 1), (5, peer.address, peer.addrlen, 1)),
        (ops.prep_files_update, (ints, None, 0), (ints.address, 3, 0)),
        (ops.prep_epoll_wait, (5, events, None, 0), (5, events.address, 7, 0)),
        (ops.prep_futex_waitv, (waiters, None, 0), (waiters.address, 2, 0)),
        (ops.prep_fgetxattr, (5, name, memory, None), (5, name.address, memory.address, 100)),
    ]:
        token = table.start(prep, *given)
        sqe = bytearray(64)
        prep(sqe, *numbers, token)
        assert last_sqe(table) == bytes(sqe), prep.__name__
        table.ring.discard()
        table.entries.clear()


def test_none_where_no_length_belongs_then_refused(table):
    for prep, arguments in [
        (ops.prep_read, (0, target(), 8, None)),
        (ops.prep_openat, (0, buffers.path("x"), None, 0)),
        (ops.prep_provide_buffers, (target(), None, 1, 0, 0)),
        (ops.prep_read, (0, 0, None, 0)),
        (ops.prep_close_direct, (None,)),
        (ops.prep_linkat, (0, buffers.path("a"), None, buffers.path("b"), 0)),
    ]:
        with pytest.raises(TypeError, match="None is not an integer"):
            table.start(prep, *arguments)
    assert (len(table), table.ring.sq.pending()) == (0, 0)


def test_read_only_memory_that_would_be_written_then_refused(table):
    constant = pin(b"constant")
    vector = buffers.iovec([b"constant"])
    for prep, arguments in [
        (ops.prep_read, (0, constant, None, 0)),
        (ops.prep_recv, (0, constant, None, 0)),
        (ops.prep_readv, (0, vector, None, 0)),
        (ops.prep_recvmsg, (0, buffers.msghdr([b"constant"]), 0)),
        (ops.prep_statx, (0, buffers.path("/"), 0, 0, pin(bytes(256)))),
    ]:
        with pytest.raises(TypeError, match="read-only"):
            table.start(prep, *arguments)
    assert len(table) == 0
    table.start(ops.prep_write, 0, constant, None, 0)
    table.start(ops.prep_writev, 0, vector, None, 0)


def test_a_function_of_somebody_else_then_its_pins_are_held_too(table):
    memory, other = target(), target()

    def prep(sqe, fd, buf, user_data, *, more):
        ops.prep_read(sqe, fd, buf, 16, more, user_data)

    token = table.start(prep, 3, memory, more=other)
    sqe = bytearray(64)
    ops.prep_read(sqe, 3, memory.address, 16, other.address, token)
    assert last_sqe(table) == bytes(sqe)
    assert table.entries[token][1] == (memory, other)
    token = table.start(ops.prep_rw, uapi.IORING_OP_READ, 3, memory, 16, 0)
    assert table.entries[token][1] == (memory,)


@needs_ring
def test_pin_that_only_the_table_holds_then_the_kernel_writes_into_live_memory():
    with rings.Ring(4) as ring:
        table, r, w = InFlight(ring), *os.pipe()
        got = []
        memory = buffers.allocate(64)
        vector = buffers.iovec([memory], writable=True)
        table.start(ops.prep_readv, r, vector, None, -1, handler=lambda *cqe: got.append(cqe))
        del vector
        ring.submit()
        os.write(w, b"hello")
        ring.submit_and_wait(1)
        table.dispatch(ring.reap())
        os.close(r)
        os.close(w)
    assert (got, memory[:5]) == ([(5, 0)], b"hello")


# ------------------------------------------------------------------------------------------------------
# Slips


@pytest.mark.parametrize(
    "holds",
    [
        b"bytes", bytearray(8), memoryview(b"12"), array.array("i", [1]), "text", {"memory": 1}, 7, None,
        object(), (each for each in [object()]), range(3), [1], (2**40,), {5}, iter([object()]),
    ],
    ids=lambda holds: type(holds).__name__,
)  # fmt: skip
def test_holds_that_would_hold_nothing_then_refused(table, holds):
    with pytest.raises(TypeError, match="hold"):
        table.start(ops.prep_nop, holds=holds)
    assert (len(table), table.ring.sq.pending()) == (0, 0)


def test_holds_that_is_memory_or_a_pin_then_refused(table):
    memory = buffers.allocate(64)
    for holds in (memory, pin(memory), pin(memory).address, (pin(memory).address,)):
        with pytest.raises(TypeError, match="hold"):
            table.start(ops.prep_nop, holds=holds)
    assert len(table) == 0


def keys(values):
    return dict.fromkeys(values).keys()


@pytest.mark.parametrize("kind", [tuple, list, set, frozenset, deque, keys])
def test_holds_of_every_collection_then_held(table, kind):
    memory = target()
    token = table.start(ops.prep_nop, holds=kind([memory]))
    assert table.entries[token][1] == (memory,)


def test_hold_of_an_address_then_refused(table):
    memory = target()
    with pytest.raises(TypeError, match="hold the Pin itself"):
        table.hold(None, memory.address)
    with pytest.raises(TypeError, match="is not callable"):
        table.hold(memory)
    assert len(table) == 0


@pytest.mark.parametrize("handler", ["done", 7, object(), [print], False, b""], ids=repr)
def test_handler_that_cannot_be_called_then_refused(table, handler):
    for start in (lambda: table.start(ops.prep_nop, handler=handler), lambda: table.hold(handler)):
        with pytest.raises(TypeError, match=r"handler=.*is not callable"):
            start()
    assert (len(table), table.ring.sq.pending()) == (0, 0)
    table.start(ops.prep_nop, handler=None)


# ------------------------------------------------------------------------------------------------------
# The owners of user_data


def test_tokens_lie_in_a_range_of_their_own(table):
    tokens = [table.hold(None), table.start(ops.prep_nop), inflight.next_token()]
    assert TOKEN_BASE == 1 << 56
    assert all(TOKEN_BASE <= token < 2 * TOKEN_BASE for token in tokens)
    assert len(set(tokens)) == 3
    table.entries.clear()


def test_unknown_then_only_tokens_are_counted(table):
    late = inflight.next_token()
    for user_data in (0, 1, 5, 2**47, TOKEN_BASE - 1, 2 * TOKEN_BASE, 2**63, 2**64 - 1):
        assert not table.complete(user_data, 0, 0)
    assert table.unknown == 0
    assert not table.complete(late, 0, 0)
    assert table.unknown == 1


@needs_ring
def test_plain_requests_with_small_numbers_then_no_hold_ends_early():
    with rings.Ring(64) as ring:
        table, r, w = InFlight(ring), *os.pipe()
        token = table.start(ops.prep_poll_add, r, 1)
        for user_data in range(50):
            ops.prep_nop(ring.get_sqe(), user_data)
        ring.submit_and_wait(50)
        table.dispatch(ring.reap())
        assert (token in table, table.unknown) == (True, 0)
        os.write(w, b"x")
        ring.submit_and_wait(1)
        table.dispatch(ring.reap())
        assert len(table) == 0
        os.close(r)
        os.close(w)


# ------------------------------------------------------------------------------------------------------
# Debug mode


@pytest.fixture
def watched(monkeypatch):
    monkeypatch.setenv("RAWURING_DEBUG", "1")
    monkeypatch.setenv("RAWURING_DEBUG_LOG", "-")
    try:
        ring = rings.Ring(8)
    except Unavailable as error:
        pytest.skip(f"io_uring (5.1): {error}")
    with ring:
        yield ring, InFlight(ring)


def here() -> str:
    return re.escape(f"{__file__}:{sys._getframe(1).f_lineno + 2} in")


def test_watched_address_that_nothing_held_covers_then_refused_with_the_line(watched):
    ring, table = watched
    memory = target(100)
    where = here()
    with pytest.raises(debug.Damaged, match="keeps 100 bytes at.*pass the Pin itself to start.*" + where):
        table.start(ops.prep_read, 0, memory.address, 100, 0)
    with pytest.raises(debug.Damaged, match="keeps 101 bytes at"):
        table.start(ops.prep_read, 0, memory.address, 101, 0, holds=(memory,))
    with pytest.raises(debug.Damaged, match="keeps 16 bytes at"):
        table.start(ops.prep_timeout, buffers.timespec(1).address, 0, 0, holds=(memory,))
    constant = pin(b"constant")
    with pytest.raises(debug.Damaged, match="read-only"):
        table.start(ops.prep_read, 0, constant.address, 8, 0, holds=[constant])
    assert (len(table), ring.sq.pending()) == (0, 0)
    table.start(ops.prep_write, 1 << 20, memory.address, 100, 0, holds=(memory,))
    table.start(ops.prep_nop)
    ring.submit_and_wait(2)
    table.dispatch(ring.reap())
    assert len(table) == 0


def test_watched_hold_of_nothing_then_refused_at_submit_with_the_line_and_the_rest_goes_on(watched):
    ring, table = watched
    memory, got = target(100), []
    where = here()

    token = table.hold(lambda *cqe: got.append(cqe[0]))
    ops.prep_write(ring.get_sqe(), 1, memory.address, 100, 0, user_data=token)
    table.start(ops.prep_nop, handler=lambda *cqe: got.append(cqe[0]))
    with pytest.raises(debug.Damaged, match="keeps 100 bytes at.*write fd=1.*" + where):
        ring.submit()
    while len(table):
        ring.submit_and_wait(1)
        table.dispatch(ring.reap())
    assert sorted(got) == [-22, 0]


def test_watched_token_used_twice_then_refused(watched):
    ring, table = watched
    got = []
    token = table.hold(lambda *cqe: got.append(cqe))
    for _ in range(2):
        ops.prep_nop(ring.get_sqe(), token)
    with pytest.raises(debug.Damaged, match=r"its token is in use.*test_request_memory\.py"):
        ring.submit()
    while len(table):
        ring.submit_and_wait(1)
        table.dispatch(ring.reap())
    assert got == [(0, 0)]
    ops.prep_nop(ring.get_sqe(), token)
    with pytest.raises(debug.Damaged, match="no table waits for it"):
        ring.submit()


def test_watched_plain_request_with_a_user_data_of_the_range_then_refused(watched):
    ring, table = watched
    for user_data in (TOKEN_BASE, 2 * TOKEN_BASE - 1):
        ops.prep_nop(ring.get_sqe(), user_data)
        with pytest.raises(debug.Damaged, match="range of tokens"):
            ring.submit()
        ring.submit_and_wait(1)
        ring.reap()
    for user_data in (0, 1, TOKEN_BASE - 1, 2 * TOKEN_BASE):
        ops.prep_nop(ring.get_sqe(), user_data)
    ring.submit_and_wait(4)
    assert len(ring.reap()) == 4
    assert table.unknown == 0


def test_watched_memory_that_is_held_in_other_ways_then_taken(watched):
    ring, table = watched
    a, b = socket.socketpair()
    with a, b:
        peer = buffers.SockaddrBuffer()
        table.start(ops.prep_accept, 1 << 20, peer.address, peer.addrlen, 0, holds=[peer])
        data = buffers.allocate(16)
        message = buffers.msghdr([data], name=buffers.sockaddr(socket.AF_INET, ("127.0.0.1", 9)))
        table.start(ops.prep_sendmsg, 1 << 20, message.address, 0, holds=(message,))
        inner = pin(data)
        table.start(ops.prep_send, 1 << 20, inner.address, 16, 0, holds=[[inner]])
        vector = buffers.iovec([inner])
        table.start(ops.prep_send, 1 << 20, inner.address + 8, 8, 0, holds=[vector])
        ring.submit_and_wait(4)
        table.dispatch(ring.reap())
    assert len(table) == 0


def test_watched_memory_of_a_group_then_taken(watched):
    ring, table = watched
    try:
        group = register.setup_buf_ring(ring, 1, 4, 64)
    except OSError as error:
        pytest.skip(f"rings of provided buffers (5.19): {error}")
    table.start(ops.prep_write, 1 << 20, group.address + 64, 64, 0)
    ring.submit_and_wait(1)
    table.dispatch(ring.reap())
    assert len(table) == 0


def test_memory_of_every_kind_of_request_then_known():
    """Arguments whose meaning depends on a flag."""
    sqe = bytearray(64)
    select, at = uapi.IOSQE_BUFFER_SELECT, 1 << 40
    iovec = struct.calcsize("@PN")
    for prep, arguments, options, expected in [
        (ops.prep_recv, (0, at, 9, 0), {"flags": select}, []),
        (ops.prep_send, (0, at, 3, 0), {"ioprio": uapi.IORING_SEND_VECTORIZED}, [(at, 3 * iovec, False)]),
        (ops.prep_send_zc_fixed, (0, at, 3, 0, 0, 1), {}, []),
        (ops.prep_read_fixed, (0, at, 3, 0, 0), {}, []),
        (ops.prep_read, (0, at, 3, 0), {"ioprio": uapi.IORING_SEND_VECTORIZED}, [(at, 3, True)]),
        (ops.prep_timeout, (at, 0, uapi.IORING_TIMEOUT_IMMEDIATE_ARG), {}, []),
        (ops.prep_timeout_update, (at, 5, 0), {}, [(at, 16, False)]),
        (ops.prep_timeout_update, (at, 5, uapi.IORING_TIMEOUT_IMMEDIATE_ARG), {}, []),
        (ops.prep_timeout_remove, (at, 0), {}, []),
        (ops.prep_provide_buffers, (at, 100, 7, 0, 0), {}, [(at, 700, True)]),
        (ops.prep_madvise64, (at, 1 << 33, 0), {}, [(at, 1 << 33, False)]),
        (ops.prep_cmd_sock, (uapi.SOCKET_URING_OP_GETSOCKOPT, 0, 1, 2, at, 4), {}, [(at, 4, True)]),
        (ops.prep_cmd_sock, (uapi.SOCKET_URING_OP_SIOCINQ, 0, 1, 2, 0, 0), {}, []),
        (ops.prep_sendto, (0, at, 3, 0, at + 8, 16), {}, [(at, 3, False), (at + 8, 16, False)]),
        (ops.prep_splice, (0, at, 0, at, 0, 0), {}, []),
        (ops.prep_cancel64, (at, 0), {}, []),
        (ops.prep_fallocate, (0, 0, at, at), {}, []),
    ]:
        prep(sqe, *arguments, 7, **options)
        assert ops.memory_of(sqe) == expected, prep.__name__


# ------------------------------------------------------------------------------------------------------
# One field, two meanings: a res that exceeds the buffer


def new_group() -> buffers.ProvidedBuffers:
    """Make a group of 4 buffers of 100 bytes."""
    ring = buffers.BufferRing(buffers.allocate(64), 4)
    return buffers.ProvidedBuffers(ring, buffers.allocate(400), 100, 1, 4)


def test_res_beyond_the_buffer_then_one_piece_that_was_cut_unless_a_bundle_was_asked_for():
    buffer = uapi.IORING_CQE_F_BUFFER
    group = new_group()
    (piece,) = group.take(150, buffer)
    assert (piece.bid, len(piece.data), piece.done, piece.length, len(group)) == (0, 100, True, 150, 3)
    assert group.copy(150, buffer | 1 << 16) == bytes(100)
    assert len(group) == 3
    pieces = group.take(150, buffer | 2 << 16, bundle=True)
    assert [(each.bid, len(each.data), each.done) for each in pieces] == [(2, 100, True), (3, 50, True)]
    assert [each.length for each in pieces] == [100, 50]
    assert len(group) == 1


def test_bundle_that_cannot_be_then_nothing_is_taken():
    group = new_group()
    buffer = uapi.IORING_CQE_F_BUFFER
    group.take(1, buffer | 2 << 16)
    for res in (201, 10**6):
        with pytest.raises(RuntimeError, match="cannot have"):
            group.take(res, buffer, bundle=True)
    assert len(group) == 3
    assert [piece.bid for piece in group.take(200, buffer, bundle=True)] == [0, 1]


@needs_ring
@pytest.mark.parametrize("multishot", [False, True])
def test_datagram_longer_than_its_buffer_then_cut_and_the_next_one_is_whole(multishot):
    """The kernel's rule: with MSG_TRUNC res is the length of the datagram."""
    with rings.Ring(8) as ring:
        try:
            group = register.setup_buf_ring(ring, 1, 4, 100)
        except OSError as error:
            pytest.skip(f"rings of provided buffers (5.19): {error}")
        table, answers = InFlight(ring), []
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        prep = ops.prep_recv_multishot if multishot else ops.prep_recv
        select = {"flags": uapi.IOSQE_BUFFER_SELECT, "buf_group": 1}

        def note(res, flags):
            answers.append((res, flags))

        with here, there:
            there.send(b"A" * 150)
            there.send(b"B" * 20)
            while len(answers) < 2:
                if not len(table):
                    length = 0 if multishot else 100
                    table.start(prep, here.fileno(), 0, length, socket.MSG_TRUNC, handler=note, **select)
                ring.submit_and_wait(1)
                table.dispatch(ring.reap())
                if answers and answers[-1][0] == -22:
                    pytest.skip("IORING_RECV_MULTISHOT (6.0)")
            pieces = [piece for cqe in answers for piece in group.take(*cqe)]
            assert [bytes(piece.data) for piece in pieces] == [b"A" * 100, b"B" * 20]
            assert [piece.done for piece in pieces] == [True, True]
            assert pieces[0].length in (150, 100)  # multishot with MSG_TRUNC: depends on the kernel
            assert multishot or pieces[0].length == 150
            assert len(group) == 2


def test_error_of_a_receive_then_raised_and_not_taken_for_the_end():
    group = new_group()
    for take in (group.copy, group.take):
        with pytest.raises(ConnectionResetError, match="group 1"):
            take(-104, 0)
        tail = group.ring.tail
        with pytest.raises(OSError, match="group 1"):
            take(-105, uapi.IORING_CQE_F_BUFFER | 2 << 16)  # with a buffer, which is returned
        assert (len(group), group.ring.tail) == (4, tail + 1)
        assert not take(0, 0)
    with pytest.raises(OSError, match="EPOLL_WAIT"):
        buffers.EpollEvents(4).events(-9)


# ------------------------------------------------------------------------------------------------------
# Builders: the argument, and the expected type


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: pin(5), "memory=5"),
        (lambda: pin("text"), "memory='text'"),
        (lambda: buffers.allocate("8"), "nbytes='8'"),
        (lambda: buffers.allocate(1.5), "nbytes=1.5"),
        (lambda: buffers.timespec(1.5), "timeout_ns=1.5: expected a time in nanoseconds, an int"),
        (lambda: buffers.timespec(None), "timeout_ns=None"),
        (lambda: buffers.path(5), "name=5"),
        (lambda: buffers.ints(5), "values=5"),
        (lambda: buffers.ints(b"ab"), "values=b'ab'"),
        (lambda: buffers.open_how("r"), "open_flags='r'"),
        (lambda: buffers.open_how(0, "rw"), "mode='rw'"),
        (lambda: buffers.open_how(0, 0, None), "resolve=None"),
        (lambda: buffers.futex_waitv(7), "waiters=7"),
        (lambda: buffers.futex_waitv([7]), "waiter 7"),
        (lambda: buffers.futex_waitv([("x", 0, 2)]), "waiter .*'x'"),
        (lambda: buffers.epoll_event("r", 0), "events='r'"),
        (lambda: buffers.epoll_event(1, None), "data=None"),
        (lambda: buffers.EpollEvents("8"), "maxevents='8'"),
        (lambda: buffers.iovec(b"bytes"), "memories=b'bytes'"),
        (lambda: buffers.iovec(5), "memories=5"),
        (lambda: buffers.iovec([5]), "memory=5"),
        (lambda: buffers.sockaddr("inet", ("127.0.0.1", 1)), "family='inet'"),
        (lambda: buffers.SockaddrBuffer("128"), "nbytes='128'"),
        (lambda: buffers.cmsg_space("4"), "nbytes='4'"),
        (lambda: buffers.pack_control(5), "control=5"),
        (lambda: buffers.pack_control([5]), "control item 5"),
        (lambda: buffers.pack_control([(1, 1, "text")]), "control item .*'text'"),
        (lambda: buffers.pack_control([(1.5, 1, b"x")]), "control item .*1.5"),
        (lambda: buffers.msghdr(b"bytes"), "memories=b'bytes'"),
        (lambda: buffers.msghdr(name="peer"), "name='peer'"),
        (lambda: buffers.msghdr(name_size="4"), "name_size='4'"),
        (lambda: buffers.msghdr(control_size=None), "control_size=None"),
        (lambda: buffers.recvmsg_out(b"", None), "msg=None"),
        (lambda: buffers.BufferRing(bytearray(64), "4"), "entries='4'"),
        (lambda: register.setup_buf_ring(None, "1", 4, 4), "bgid='1'"),
        (lambda: register.setup_buf_ring(None, 1, "4", 4), "count='4'"),
        (lambda: register.setup_buf_ring(None, 1, 4, 4.0), "size=4.0"),
    ],
)
def test_builder_given_what_it_cannot_take_then_the_argument_is_named(build, words):
    with pytest.raises(TypeError, match=words):
        build()


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: buffers.allocate(0), "nbytes=0"),
        (lambda: buffers.open_how(-1), "open_flags=-1"),
        (lambda: buffers.open_how(0, 2**64), "mode=1844"),
        (lambda: buffers.futex_waitv([(0, 2**64, 2)]), "waiter"),
        (lambda: buffers.epoll_event(2**32, 0), "events=4294967296"),
        (lambda: buffers.epoll_event(1, -1), "data=-1"),
        (lambda: buffers.EpollEvents(0), "maxevents=0"),
        (lambda: buffers.EpollEvents(-4), "maxevents=-4"),
        (lambda: buffers.sockaddr(-1, b""), "family=-1"),
        (lambda: buffers.sockaddr(2**16, b""), "family=65536"),
        (lambda: buffers.SockaddrBuffer(-1), "nbytes=-1"),
        (lambda: buffers.cmsg_space(-1), "nbytes=-1"),
        (lambda: buffers.pack_control([(2**31, 1, b"x")]), "control item"),
        (lambda: buffers.msghdr(name_size=-1), "name_size=-1"),
        (lambda: buffers.BufferRing(bytearray(64), 0), "entries=0"),
        (lambda: register.setup_buf_ring(None, 2**16, 4, 4), "bgid=65536"),
        (lambda: register.setup_buf_ring(None, 1, 0, 4), "count=0"),
        (lambda: register.setup_buf_ring(None, 1, 4, 0), "size=0"),
    ],
)
def test_builder_given_a_number_out_of_range_then_the_argument_is_named(build, words):
    with pytest.raises(ValueError, match=words):
        build()


# ------------------------------------------------------------------------------------------------------
# Cost


def test_statx_read_in_one_piece_then_as_member_by_member():
    """Compare with uapi's layout of distinct bytes, and with os.stat()."""
    answer = buffers.StatxBuffer()
    image = bytearray((7 * i + 3) & 0xFF for i in range(256))
    struct.pack_into("=IIII", image, 128, 4000, 70, 259, 1_000_000)  # devices that makedev() accepts
    ctypes.memmove(answer.address, bytes(image), 256)
    raw, got = uapi.statx.unpack(image), answer.result()
    for name, value in got._asdict().items():
        member = name if name.startswith("stx_") else name.replace("st_", "stx_", 1)
        if name.endswith("time_ns"):
            part = raw[member[:-3].replace("birthtime", "btime")]
            assert value == part["tv_sec"] * 10**9 + part["tv_nsec"], name
        elif name in ("st_dev", "st_rdev"):
            assert value == os.makedev(raw[f"{member}_major"], raw[f"{member}_minor"]), name
        else:
            assert value == raw[member], name


BUILDERS = {
    "pin bytes": lambda: pin(b"x" * 4099),
    "pin view": lambda: pin(memoryview(b"x" * 4099)[5:]),
    "pin writable": lambda: pin(buffers.allocate(4099), writable=True),
    "timespec": lambda: buffers.timespec(1),
    "path": lambda: buffers.path("/some/path/of/its/own"),
    "ints": lambda: buffers.ints(range(77)),
    "open_how": lambda: buffers.open_how(0),
    "futex_waitv": lambda: buffers.futex_waitv([(8, 0, 2)]),
    "epoll_event": lambda: buffers.epoll_event(1, 1),
    "EpollEvents": lambda: buffers.EpollEvents(33),
    "StatxBuffer": lambda: buffers.StatxBuffer().result(),
    "Siginfo": lambda: buffers.Siginfo().si_pid,
    "iovec": lambda: buffers.iovec([b"a", b"b", b"c"]),
    "sockaddr": lambda: buffers.sockaddr(socket.AF_INET, ("127.0.0.1", 1)),
    "SockaddrBuffer": lambda: buffers.SockaddrBuffer().result(),
    "msghdr": lambda: buffers.msghdr([b"x"], name_size=128, control_size=64),
    "words": lambda: barriers.release_words(barriers.map_words(buffers.allocate(64))),
    "words of libatomic": lambda: barriers._libatomic()
    and barriers._AtomicWords(buffers.allocate(64), barriers._libatomic()),
    "guarded": lambda: debug.guarded(55),
}


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="reference counts are CPython's")
@pytest.mark.parametrize("name", BUILDERS)
def test_memory_made_and_forgotten_then_nothing_for_the_collector(name):
    """A ctypes type made per call is a reference cycle of some 30 objects."""
    build = BUILDERS[name]
    build()
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            build()
        assert gc.collect() == 0
    finally:
        gc.enable()


@needs_ring
def test_address_given_to_a_monitor_in_the_place_of_a_pin_then_refused_at_the_door():
    """Inside wait() the waiter would get the error."""
    memory = target()
    monitor = fdmon.IoUringFDMon(8)
    try:
        with pytest.raises(TypeError, match="hold the Pin itself"):
            monitor.add_sqe(ops.prep_nop, None, memory.address)
        monitor.wait(0)
    finally:
        monitor.destroy()


def test_one_buffer_in_the_place_of_a_list_then_refused_before_the_call():
    """Its bytes or numbers would be taken for buffers."""
    for memory in (b"bytes", bytearray(8), memoryview(b"12"), buffers.allocate(4096), target(), "text", 5):
        for register_them in (
            lambda memory=memory: register.register_buffers(None, memory),
            lambda memory=memory: register.register_buffers_tags(None, memory, [1]),
            lambda memory=memory: register.register_buffers_update_tag(None, 0, memory, [1]),
            lambda memory=memory: buffers.iovec(memory),
            lambda memory=memory: buffers.msghdr(memory),
        ):
            with pytest.raises(TypeError, match="memories="):
                register_them()
