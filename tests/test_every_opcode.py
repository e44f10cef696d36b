# SPDX-License-Identifier: MIT
"""Every operation that this kernel admits is executed, and its effect is verified by other means.

What it is: a test for each IORING_OP_*, marked with its name; the other means are os, socket, /proc and
the peer of a connection. The summary at the end of a run is the table of the exercised operations.
Must not know: the layout of an SQE.
Invariant: an operation is skipped only if the kernel reports that it lacks it.
Read next: test_request_rules.py.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import mmap
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from driver import Driver, kernel_release, lacks, need_opcode, need_ring, release

from rawuring import buffers, gates, ops, register, rings, syscalls, uapi
from rawuring.uapi import AT_FDCWD

pytestmark = [pytest.mark.requires_io_uring, pytest.mark.leakcheck]

opcode = pytest.mark.opcode
ALLOC = uapi.IORING_FILE_INDEX_ALLOC
# Constants that PyPy's os and socket lack; these numbers are the same on every Linux.
MSG_CMSG_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0x40000000)
P_PID, WEXITED, WNOWAIT, CLD_EXITED, CLD_KILLED = 1, 4, 0x01000000, 1, 2


@pytest.fixture(autouse=True)
def _skip_what_is_missing(request: pytest.FixtureRequest) -> None:
    for marker in request.node.iter_markers("opcode"):
        need_opcode(marker.args[0])


@pytest.fixture
def do() -> Iterator[Driver]:
    with Driver() as driver:
        yield driver


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 40)
    return path


def opened(path: Path, flags: int = os.O_RDWR) -> int:
    return os.open(path, flags | os.O_CLOEXEC)


class Closing:
    """Descriptors that are closed at the end of a block."""

    def __init__(self, *fds: int) -> None:
        self.fds = list(fds)

    def __enter__(self) -> Closing:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self.fds:
            os.close(fd)


def room(nbytes: int, fill: bytes = b"\0") -> mmap.mmap:
    memory = buffers.allocate(nbytes)
    memory[:] = fill * nbytes
    return memory


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        peer, _ = server.accept()
    return client, peer


# ------------------------------------------------------------------------------------------------------
# Nothing


@opcode("NOP")
def test_nop_then_zero(do):
    assert do.run(ops.prep_nop) == 0


@opcode("NOP")
def test_nop_with_an_injected_result_then_that(do):
    token = do.start(ops.prep_nop)
    slot = do.ring.sq.slots[(do.ring.sq.sqe_tail - 1) & do.ring.sq.ring_mask]
    ops.set_fields(slot, nop_flags=uapi.IORING_NOP_INJECT_RESULT, len=4711)
    res = do.finish(token)[0][0]
    if res in (0, -errno.EINVAL):
        lacks("IORING_NOP_INJECT_RESULT", "6.10")
    assert res == 4711


@opcode("NOP128")
def test_nop128_then_zero():
    with Driver(need_ring(flags=uapi.IORING_SETUP_SQE_MIXED)) as do:
        first = do.start(ops.prep_nop)
        wide = do.start(ops.prep_nop128, wide=True)
        last = do.start(ops.prep_nop)
        do.finish(wide, first, last)
        assert [do.results[token] for token in (first, wide, last)] == [[(0, 0)]] * 3


# ------------------------------------------------------------------------------------------------------
# Reading and writing


@opcode("READ")
def test_read_then_the_bytes_of_the_file(do, file):
    memory = room(4096)
    pin = buffers.pin(memory, writable=True)
    with Closing(opened(file)) as open_:
        assert do.run(ops.prep_read, open_.fds[0], pin.address, 1000, 77, keep=pin) == 1000
    assert memory[:1000] == file.read_bytes()[77:1077]
    assert memory[1000:] == bytes(3096)


@opcode("READ")
def test_read_at_minus_one_then_the_position_moves(do, file):
    memory = room(512)
    pin = buffers.pin(memory, writable=True)
    with Closing(opened(file)) as open_:
        os.lseek(open_.fds[0], 300, os.SEEK_SET)
        assert do.run(ops.prep_read, open_.fds[0], pin.address, 100, -1, keep=pin) == 100
        assert os.lseek(open_.fds[0], 0, os.SEEK_CUR) == 400
    assert memory[:100] == file.read_bytes()[300:400]


@opcode("WRITE")
def test_write_then_the_file_has_the_bytes(do, file):
    pin = buffers.pin(b"written through a ring")
    with Closing(opened(file)) as open_:
        assert do.run(ops.prep_write, open_.fds[0], pin.address, pin.nbytes, 5000, keep=pin) == pin.nbytes
    assert file.read_bytes()[5000 : 5000 + pin.nbytes] == b"written through a ring"


@opcode("WRITE")
def test_write_with_append_then_at_the_end(do, file):
    pin = buffers.pin(b"tail")
    before = file.stat().st_size
    with Closing(opened(file)) as open_:
        res = do.run(ops.prep_write, open_.fds[0], pin.address, 4, 0, keep=pin, rw_flags=uapi.RWF_APPEND)
    assert res == 4
    assert file.stat().st_size == before + 4
    assert file.read_bytes().endswith(b"tail")


@opcode("READV")
@pytest.mark.parametrize("rw_flags", [None, 0, uapi.RWF_NOWAIT])
def test_readv_then_scattered(do, file, rw_flags):
    parts = [room(10), room(100), room(1000)]
    vector = buffers.iovec(parts, writable=True)
    with Closing(opened(file)) as open_:
        if rw_flags is None:
            res = do.run(ops.prep_readv, open_.fds[0], vector.address, 3, 1, keep=vector)
        else:
            res = do.run(ops.prep_readv2, open_.fds[0], vector.address, 3, 1, rw_flags, keep=vector)
    if rw_flags and res in (-errno.EAGAIN, -errno.EOPNOTSUPP):
        pytest.skip("RWF_NOWAIT on this file system")
    assert res == 1110
    assert b"".join(part[:] for part in parts) == file.read_bytes()[1:1111]


@opcode("WRITEV")
@pytest.mark.parametrize("rw_flags", [None, uapi.RWF_DSYNC])
def test_writev_then_gathered(do, file, rw_flags):
    vector = buffers.iovec([b"one ", b"two ", b"three"])
    with Closing(opened(file)) as open_:
        if rw_flags is None:
            res = do.run(ops.prep_writev, open_.fds[0], vector.address, 3, 9, keep=vector)
        else:
            res = do.run(ops.prep_writev2, open_.fds[0], vector.address, 3, 9, rw_flags, keep=vector)
    assert res == 13
    assert file.read_bytes()[9:22] == b"one two three"


@opcode("READ_FIXED")
def test_read_fixed_then_in_the_registered_buffer(do, file):
    memory = room(8192)
    pins = register.register_buffers(do.ring, [room(100), memory])
    with Closing(opened(file)) as open_:
        assert do.run(ops.prep_read_fixed, open_.fds[0], pins[1].address + 100, 500, 10, 1) == 500
        outside = do.run(ops.prep_read_fixed, open_.fds[0], pins[1].address + 8000, 500, 10, 1)
    assert memory[100:600] == file.read_bytes()[10:510]
    assert outside == -errno.EFAULT


@opcode("WRITE_FIXED")
def test_write_fixed_then_from_the_registered_buffer(do, file):
    memory = room(4096)
    memory[200:206] = b"fixed!"
    pins = register.register_buffers(do.ring, [memory])
    with Closing(opened(file)) as open_:
        assert do.run(ops.prep_write_fixed, open_.fds[0], pins[0].address + 200, 6, 3, 0) == 6
    assert file.read_bytes()[3:9] == b"fixed!"


@opcode("READV_FIXED")
def test_readv_fixed_then_scattered_in_the_registered_buffer(do, file):
    memory = room(8192)
    (pin,) = register.register_buffers(do.ring, [memory])
    parts = [buffers.Pin(pin.address + 5000, 20, pin), buffers.Pin(pin.address + 10, 30, pin)]
    vector = buffers.iovec(parts)
    with Closing(opened(file)) as open_:
        res = do.run(ops.prep_readv_fixed, open_.fds[0], vector.address, 2, 0, 0, 0, keep=vector)
    assert res == 50
    assert memory[5000:5020] + memory[10:40] == file.read_bytes()[:50]


@opcode("WRITEV_FIXED")
def test_writev_fixed_then_gathered_from_the_registered_buffer(do, file):
    memory = room(4096)
    memory[0:3], memory[1000:1003] = b"abc", b"xyz"
    (pin,) = register.register_buffers(do.ring, [memory])
    parts = [buffers.Pin(pin.address + 1000, 3, pin), buffers.Pin(pin.address, 3, pin)]
    vector = buffers.iovec(parts)
    with Closing(opened(file)) as open_:
        res = do.run(ops.prep_writev_fixed, open_.fds[0], vector.address, 2, 0, 0, 0, keep=vector)
    assert res == 6
    assert file.read_bytes()[:6] == b"xyzabc"


@opcode("READ_MULTISHOT")
def test_read_multishot_then_each_arrival_in_a_buffer(do):
    group = register.setup_buf_ring(do.ring, 3, 4, 64)
    with Closing(*os.pipe()) as pipe:
        token = do.start(ops.prep_read_multishot, pipe.fds[0], 0, -1, 3)
        for i, data in enumerate([b"first", b"second"], 1):
            os.write(pipe.fds[1], data)
            res, flags = do.more(token, i)[-1]
            assert flags & uapi.IORING_CQE_F_MORE
            assert group.copy(res, flags) == data
        os.close(pipe.fds.pop())
        res, flags = do.finish(token)[-1]
        assert (res, flags & uapi.IORING_CQE_F_MORE) == (0, 0)
    register.free_buf_ring(do.ring, group)


@opcode("SPLICE")
def test_splice_then_moved_from_file_to_pipe(do, file):
    with Closing(opened(file), *os.pipe()) as open_:
        res = do.run(ops.prep_splice, open_.fds[0], 100, open_.fds[2], -1, 50, 0)
        assert res == 50
        assert os.read(open_.fds[1], 100) == file.read_bytes()[100:150]


@opcode("TEE")
def test_tee_then_copied_and_still_there(do):
    with Closing(*os.pipe(), *os.pipe()) as pipes:
        os.write(pipes.fds[1], b"both")
        assert do.run(ops.prep_tee, pipes.fds[0], pipes.fds[3], 100, 0) == 4
        assert os.read(pipes.fds[0], 10) == os.read(pipes.fds[2], 10) == b"both"


@opcode("PIPE")
def test_pipe_then_two_connected_descriptors(do):
    fds = buffers.ints([-1, -1])
    assert do.run(ops.prep_pipe, fds.address, os.O_CLOEXEC | os.O_NONBLOCK, keep=fds) == 0
    with Closing(*fds.values()) as pipe:
        os.write(pipe.fds[1], b"through")
        assert os.read(pipe.fds[0], 10) == b"through"
        assert not os.get_inheritable(pipe.fds[0])
        assert not os.get_blocking(pipe.fds[0])


@opcode("PIPE")
def test_pipe_direct_then_two_slots(do):
    register.register_files_sparse(do.ring, 4)
    fds = buffers.ints([-1, -1])
    assert do.run(ops.prep_pipe_direct, fds.address, 0, ALLOC, keep=fds) == 0
    reader, writer = fds.values()
    pin = buffers.pin(b"direct")
    fixed = uapi.IOSQE_FIXED_FILE
    assert do.run(ops.prep_write, writer, pin.address, 6, -1, keep=pin, flags=fixed) == 6
    memory = room(16)
    pin = buffers.pin(memory, writable=True)
    assert do.run(ops.prep_read, reader, pin.address, 16, -1, keep=pin, flags=fixed) == 6
    assert memory[:6] == b"direct"


# ------------------------------------------------------------------------------------------------------
# Readiness


@opcode("POLL_ADD")
def test_poll_add_then_when_it_is_ready(do):
    with Closing(*os.pipe()) as pipe:
        token = do.start(ops.prep_poll_add, pipe.fds[0], select.POLLIN)
        do.ring.submit()
        do.table.dispatch(do.ring.reap())
        assert do.results[token] == []
        os.write(pipe.fds[1], b"x")
        res, flags = do.finish(token)[0]
        assert res & select.POLLIN
        assert not flags & uapi.IORING_CQE_F_MORE


@opcode("POLL_ADD")
def test_poll_multishot_then_each_wake_up(do):
    with Closing(*os.pipe()) as pipe:
        token = do.start(ops.prep_poll_multishot, pipe.fds[0], select.POLLIN)
        do.ring.submit()
        for i in (1, 2, 3):
            os.write(pipe.fds[1], b"x")
            results = do.more(token, i)
            if results[-1][0] == -errno.EINVAL:
                lacks("IORING_POLL_ADD_MULTI", "5.13")
            assert results[-1][0] & select.POLLIN
            assert results[-1][1] & uapi.IORING_CQE_F_MORE
            os.read(pipe.fds[0], 1)
        do.run(ops.prep_poll_remove, token)
        assert do.finish(token)[-1] == (-errno.ECANCELED, 0)


@opcode("POLL_REMOVE")
def test_poll_remove_then_cancelled(do):
    with Closing(*os.pipe()) as pipe:
        token = do.start(ops.prep_poll_add, pipe.fds[0], select.POLLIN)
        assert do.run(ops.prep_poll_remove, token) == 0
        assert do.finish(token) == [(-errno.ECANCELED, 0)]
        assert do.run(ops.prep_poll_remove, token) == -errno.ENOENT


def update_poll(do: Driver, fd: int, mask: int) -> tuple[int, list[tuple[int, int]]]:
    """Add a poll, change its events and user_data; return its first token and its completions."""
    token = do.start(ops.prep_poll_add, fd, 0)
    other = do.table.hold(None)
    update = uapi.IORING_POLL_UPDATE_EVENTS | uapi.IORING_POLL_UPDATE_USER_DATA
    results: list[tuple[int, int]] = []
    do.table.entries[other] = (lambda res, flags: results.append((res, flags)), ())
    res = do.run(ops.prep_poll_update, token, other, mask, update)
    if res == -errno.EINVAL:
        del do.table.entries[other]
        lacks("IORING_POLL_UPDATE_EVENTS", "5.13")
    assert res == 0
    return token, results


@opcode("POLL_REMOVE")
def test_poll_update_then_other_events_and_user_data(do):
    with Closing(*os.pipe()) as pipe:
        token, results = update_poll(do, pipe.fds[0], select.POLLIN)
        assert results == []
        os.write(pipe.fds[1], b"x")
        do.pump(lambda: bool(results))
        assert results[0][0] & select.POLLIN
        del do.table.entries[token]  # its CQE arrived under the other token


@opcode("POLL_REMOVE")
def test_poll_update_to_what_is_there_already_then_completed_at_once(do):
    if gates.applies("lost-poll-update"):
        pytest.skip("POLL_UPDATE to true events (Linux 6.1.160, 6.6.120, 6.12.64, 6.18.3; lost before)")
    with Closing(*os.pipe()) as pipe:
        token, results = update_poll(do, pipe.fds[1], select.POLLOUT)
        do.pump(lambda: bool(results))
        assert results[0][0] & select.POLLOUT
        del do.table.entries[token]


@opcode("EPOLL_CTL")
def test_epoll_ctl_then_epoll_sees_it(do):
    with select.epoll() as epoll, Closing(*os.pipe()) as pipe:
        # Python reads 32 of the 64 bits; the byte order decides which half.
        event = buffers.epoll_event(select.EPOLLIN, 99 << 32 | 99)
        assert do.run(ops.prep_epoll_ctl, epoll.fileno(), pipe.fds[0], 1, event.address, keep=event) == 0
        assert epoll.poll(0) == []
        os.write(pipe.fds[1], b"x")
        assert epoll.poll(10) == [(99, select.EPOLLIN)]
        assert do.run(ops.prep_epoll_ctl, epoll.fileno(), pipe.fds[0], 2, 0) == 0
        assert epoll.poll(0) == []


@opcode("EPOLL_WAIT")
def test_epoll_wait_then_the_events(do):
    with select.epoll() as epoll, Closing(*os.pipe()) as pipe:
        epoll.register(pipe.fds[0], select.EPOLLIN)
        events = buffers.EpollEvents(4)
        token = do.start(ops.prep_epoll_wait, epoll.fileno(), events.address, 4, 0, keep=events)
        do.ring.submit()
        os.write(pipe.fds[1], b"x")
        assert do.finish(token)[0][0] == 1
        ((mask, data),) = events.events(1)
        assert mask == select.EPOLLIN
        assert pipe.fds[0] in (data & 0xFFFFFFFF, data >> 32)  # which Python stored in 32 bits


# ------------------------------------------------------------------------------------------------------
# Time


@opcode("TIMEOUT")
@pytest.mark.parametrize(
    ("flags", "clock"),
    [
        (0, None),
        (uapi.IORING_TIMEOUT_ABS, "CLOCK_MONOTONIC"),
        (uapi.IORING_TIMEOUT_ABS | uapi.IORING_TIMEOUT_REALTIME, "CLOCK_REALTIME"),
        (uapi.IORING_TIMEOUT_ABS | uapi.IORING_TIMEOUT_BOOTTIME, "CLOCK_BOOTTIME"),
    ],
)
def test_timeout_then_not_earlier(do, flags, clock):
    start = time.monotonic_ns()
    now = time.clock_gettime_ns(getattr(time, clock)) if clock else 0
    ts = buffers.timespec(now + 20_000_000)
    res = do.run(ops.prep_timeout, ts.address, 0, flags, keep=ts)
    if res == -errno.EINVAL:
        lacks("IORING_TIMEOUT_BOOTTIME", "5.15" if flags & uapi.IORING_TIMEOUT_CLOCK_MASK else "5.5")
    assert res == -errno.ETIME
    assert time.monotonic_ns() - start >= 20_000_000 - (1_000_000 if clock == "CLOCK_REALTIME" else 0)


@opcode("TIMEOUT")
def test_timeout_with_a_count_then_after_that_many_completions(do):
    ts = buffers.timespec(60_000_000_000)
    token = do.start(ops.prep_timeout, ts.address, 2, 0, keep=ts)
    do.start(ops.prep_nop)
    do.start(ops.prep_nop)
    assert do.finish(token) == [(0, 0)]


@opcode("TIMEOUT")
def test_timeout_multishot_then_again_and_again(do):
    ts = buffers.timespec(2_000_000)
    token = do.start(ops.prep_timeout, ts.address, 3, uapi.IORING_TIMEOUT_MULTISHOT, keep=ts)
    results = do.finish(token)
    if results[0][0] == -errno.EINVAL:
        lacks("IORING_TIMEOUT_MULTISHOT", "6.4")
    assert [res for res, _ in results] == [-errno.ETIME] * 3
    assert [flags & uapi.IORING_CQE_F_MORE for _, flags in results] == [2, 2, 0]


@opcode("TIMEOUT_REMOVE")
def test_timeout_remove_then_cancelled(do):
    ts = buffers.timespec(60_000_000_000)
    token = do.start(ops.prep_timeout, ts.address, 0, 0, keep=ts)
    assert do.run(ops.prep_timeout_remove, token, 0) == 0
    assert do.finish(token) == [(-errno.ECANCELED, 0)]


@opcode("TIMEOUT_REMOVE")
def test_timeout_update_then_the_new_time_counts(do):
    late, soon = buffers.timespec(60_000_000_000), buffers.timespec(1_000_000)
    token = do.start(ops.prep_timeout, late.address, 0, 0, keep=late)
    res = do.run(ops.prep_timeout_update, soon.address, token, 0, keep=soon)
    if res == -errno.EINVAL:
        lacks("IORING_TIMEOUT_UPDATE", "5.11")
    assert res == 0
    assert do.finish(token) == [(-errno.ETIME, 0)]


@opcode("LINK_TIMEOUT")
def test_link_timeout_then_the_request_before_is_cancelled(do):
    ts = buffers.timespec(1_000_000)
    with Closing(*os.pipe()) as pipe:
        poll = do.start(ops.prep_poll_add, pipe.fds[0], select.POLLIN, flags=uapi.IOSQE_IO_LINK)
        timeout = do.start(ops.prep_link_timeout, ts.address, 0, keep=ts)
        assert do.finish(poll, timeout) == [(-errno.ECANCELED, 0)]
        assert do.results[timeout] == [(-errno.ETIME, 0)]


# ------------------------------------------------------------------------------------------------------
# Cancelling


@opcode("ASYNC_CANCEL")
@pytest.mark.parametrize("prep", [ops.prep_cancel, ops.prep_cancel64])
def test_cancel_by_user_data_then_that_one(do, prep):
    with Closing(*os.pipe()) as pipe:
        tokens = [do.start(ops.prep_poll_add, pipe.fds[0], select.POLLIN) for _ in range(2)]
        assert do.run(prep, tokens[1], 0) == 0
        assert do.finish(tokens[1]) == [(-errno.ECANCELED, 0)]
        assert do.results[tokens[0]] == []
        assert do.run(prep, 123456789, 0) == -errno.ENOENT


@opcode("ASYNC_CANCEL")
def test_cancel_by_fd_any_and_op_then_those(do):
    with Closing(*os.pipe(), *os.pipe()) as pipes:
        here, _, there, _ = pipes.fds
        first, second, other = (
            do.start(ops.prep_poll_add, fd, select.POLLIN) for fd in (here, here, there)
        )
        res = do.run(ops.prep_cancel_fd, pipes.fds[0], uapi.IORING_ASYNC_CANCEL_ALL)
        if res in (-errno.EINVAL, -errno.ENOENT):
            lacks("IORING_ASYNC_CANCEL_FD", "5.19")
        assert res == 2
        do.finish(first, second)
        assert do.results[other] == []
        ts = buffers.timespec(60_000_000_000)
        timeout = do.start(ops.prep_timeout, ts.address, 0, 0, keep=ts)
        by_op = uapi.IORING_ASYNC_CANCEL_OP | uapi.IORING_ASYNC_CANCEL_ALL
        res = do.run(ops.prep_cancel64, 0, by_op, opcode=uapi.IORING_OP_POLL_ADD)
        if kernel_release() >= release("6.6"):  # 6.1 neither obeys nor rejects the flag
            assert res == 1
            assert do.finish(other) == [(-errno.ECANCELED, 0)]
            assert do.results[timeout] == []
        assert do.run(ops.prep_cancel64, 0, uapi.IORING_ASYNC_CANCEL_ANY) >= 1
        do.finish(timeout)


@opcode("ASYNC_CANCEL")
def test_cancel_by_direct_descriptor_then_that(do):
    with Closing(*os.pipe()) as pipe:
        register.register_files(do.ring, [pipe.fds[0]])
        token = do.start(ops.prep_poll_add, 0, select.POLLIN, flags=uapi.IOSQE_FIXED_FILE)
        res = do.run(ops.prep_cancel_fd, 0, uapi.IORING_ASYNC_CANCEL_FD_FIXED)
        if res in (-errno.EINVAL, -errno.ENOENT):
            lacks("IORING_ASYNC_CANCEL_FD_FIXED", "6.0")
        assert res == 0
        assert do.finish(token) == [(-errno.ECANCELED, 0)]


# ------------------------------------------------------------------------------------------------------
# Sockets


@opcode("SOCKET")
def test_socket_then_a_socket(do):
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
    fd = do.run(ops.prep_socket, socket.AF_INET, kind, 0, 0)
    with socket.socket(fileno=fd) as made:
        assert (made.family, made.type) == (socket.AF_INET, socket.SOCK_DGRAM)
        assert not os.get_inheritable(fd)


@opcode("SOCKET")
@pytest.mark.parametrize("prep", [ops.prep_socket_direct, ops.prep_socket_direct_alloc])
def test_socket_direct_then_in_a_slot(do, prep):
    register.register_files_sparse(do.ring, 3)
    slot = [2] if prep is ops.prep_socket_direct else []
    assert do.run(prep, socket.AF_UNIX, socket.SOCK_STREAM, 0, *slot, 0) == 0
    assert do.run(ops.prep_close_direct, slot[0] if slot else 0) == 0


@opcode("BIND")
@opcode("LISTEN")
def test_bind_and_listen_then_somebody_can_connect(do):
    address = buffers.sockaddr(socket.AF_INET, ("127.0.0.1", 0))
    with socket.socket() as server, socket.socket() as client:
        assert do.run(ops.prep_bind, server.fileno(), address.address, address.nbytes, keep=address) == 0
        assert server.getsockname()[0] == "127.0.0.1"
        client.settimeout(5)
        with pytest.raises((ConnectionRefusedError, TimeoutError, socket.timeout)):
            client.connect(server.getsockname())
        assert do.run(ops.prep_listen, server.fileno(), 5) == 0
        with socket.create_connection(server.getsockname()):
            pass


@opcode("CONNECT")
@opcode("ACCEPT")
def test_connect_and_accept_then_connected(do):
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        source = buffers.SockaddrBuffer()
        accept = do.start(
            ops.prep_accept, server.fileno(), source.address, source.addrlen, socket.SOCK_CLOEXEC, keep=source
        )
        address = buffers.sockaddr(socket.AF_INET, server.getsockname())
        connect = do.start(ops.prep_connect, client.fileno(), address.address, address.nbytes, keep=address)
        fd = do.finish(accept, connect)[0][0]
        assert do.results[connect] == [(0, 0)]
        with socket.socket(fileno=fd) as peer:
            assert source.result() == (socket.AF_INET, client.getsockname())
            assert peer.getpeername() == client.getsockname()
            client.sendall(b"hello")
            assert peer.recv(10) == b"hello"


@opcode("CONNECT")
def test_connect_to_nobody_then_refused(do):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        nobody = buffers.sockaddr(socket.AF_INET, address)
    with socket.socket() as client:
        client.settimeout(5)
        try:
            client.connect(address)
        except ConnectionRefusedError:
            pass
        except OSError as error:  # seen in one emulated machine
            pytest.skip(f"a loopback that refuses connections without a listener: {error}")
    with socket.socket() as client:
        res = do.run(ops.prep_connect, client.fileno(), nobody.address, nobody.nbytes, keep=nobody)
        assert res == -errno.ECONNREFUSED


@opcode("ACCEPT")
def test_accept_multishot_then_one_completion_each(do):
    with socket.create_server(("127.0.0.1", 0)) as server:
        token = do.start(ops.prep_multishot_accept, server.fileno(), 0, 0, socket.SOCK_CLOEXEC)
        clients, accepted = [], Closing()
        with accepted:
            for i in (1, 2, 3):
                clients.append(socket.create_connection(server.getsockname()))
                res, flags = do.more(token, i)[-1]
                if res == -errno.EINVAL:
                    for client in clients:
                        client.close()
                    lacks("IORING_ACCEPT_MULTISHOT", "5.19")
                accepted.fds.append(res)
                assert flags & uapi.IORING_CQE_F_MORE
            names = [client.getsockname() for client in clients]
            peers = [socket.socket(fileno=os.dup(fd)) for fd in accepted.fds]
            assert [peer.getpeername() for peer in peers] == names
            for sock in clients + peers:
                sock.close()
        do.run(ops.prep_cancel64, token, 0)
        assert do.finish(token)[-1] == (-errno.ECANCELED, 0)


@opcode("ACCEPT")
@pytest.mark.parametrize("multishot", [False, True], ids=["one", "multishot"])
def test_accept_direct_then_in_a_slot(do, multishot):
    try:
        register.register_files_sparse(do.ring, 2)
    except OSError:
        lacks("IORING_RSRC_REGISTER_SPARSE", "5.19")
    with socket.create_server(("127.0.0.1", 0)) as server:
        if multishot:
            token = do.start(ops.prep_multishot_accept_direct, server.fileno(), 0, 0, 0)
        else:
            token = do.start(ops.prep_accept_direct, server.fileno(), 0, 0, 0, 1)
        with socket.create_connection(server.getsockname()) as client:
            res, flags = do.more(token, 1)[0]
            assert res == 0  # the slot if the kernel chose it, else success
            slot = 0 if multishot else 1
            pin = buffers.pin(b"from a slot")
            fixed = uapi.IOSQE_FIXED_FILE
            assert do.run(ops.prep_send, slot, pin.address, 11, 0, keep=pin, flags=fixed) == 11
            assert client.recv(20) == b"from a slot"
        if multishot:
            assert flags & uapi.IORING_CQE_F_MORE
            do.run(ops.prep_cancel64, token, 0)
            do.finish(token)


@opcode("SEND")
@opcode("RECV")
def test_send_and_recv_then_the_bytes(do):
    left, right = socket.socketpair()
    with left, right:
        memory = room(64)
        pin = buffers.pin(memory, writable=True)
        recv = do.start(ops.prep_recv, right.fileno(), pin.address, 64, 0, keep=pin)
        data = buffers.pin(b"over the socket")
        assert do.run(ops.prep_send, left.fileno(), data.address, data.nbytes, 0, keep=data) == 15
        assert do.finish(recv)[0][0] == 15
        assert memory[:15] == b"over the socket"
        assert do.run(ops.prep_send, right.fileno(), data.address, 4, 0, keep=data) == 4
        assert left.recv(10) == b"over"


@opcode("SEND")
def test_sendto_then_at_that_address(do):
    with socket.socket(type=socket.SOCK_DGRAM) as here, socket.socket(type=socket.SOCK_DGRAM) as there:
        there.bind(("127.0.0.1", 0))
        there.settimeout(10)
        to = buffers.sockaddr(socket.AF_INET, there.getsockname())
        data = buffers.pin(b"datagram")
        res = do.run(
            ops.prep_sendto, here.fileno(), data.address, 8, 0, to.address, to.nbytes, keep=(data, to)
        )
        if res in (-errno.EINVAL, -errno.EDESTADDRREQ):
            lacks("SEND with an address", "6.1")
        assert res == 8
        assert there.recv(20) == b"datagram"


@opcode("SEND")
def test_send_vectorized_then_gathered(do):
    left, right = socket.socketpair()
    with left, right:
        vector = buffers.iovec([b"one", b"two"])
        res = do.run(
            ops.prep_send, left.fileno(), vector.address, 2, 0, keep=vector,
            ioprio=uapi.IORING_SEND_VECTORIZED,
        )  # fmt: skip
        if res == -errno.EINVAL or kernel_release() < release("6.17"):
            lacks("IORING_SEND_VECTORIZED", "6.17")
        assert res == 6
        assert right.recv(10) == b"onetwo"


def receive_bundles(do: Driver, sock: socket.socket, nbytes: int) -> Iterator[tuple[int, int]]:
    while nbytes > 0:
        token = do.start(
            ops.prep_recv, sock.fileno(), 0, 1000, 0, flags=uapi.IOSQE_BUFFER_SELECT,
            ioprio=uapi.IORING_RECVSEND_BUNDLE, buf_group=1,
        )  # fmt: skip
        ((res, flags),) = do.finish(token)
        assert res > 0
        nbytes -= res
        yield res, flags


@opcode("SEND")
@opcode("RECV")
def test_send_and_recv_bundle_then_several_buffers_at_once(do):
    if not do.ring.features & uapi.IORING_FEAT_RECVSEND_BUNDLE:
        lacks("IORING_FEAT_RECVSEND_BUNDLE", "6.10")
    group = register.setup_buf_ring(do.ring, 1, 8, 4)
    left, right = socket.socketpair()
    with left, right:
        left.sendall(b"abcdefghij")
        pieces = [piece for cqe in receive_bundles(do, right, 10) for piece in group.take(*cqe, bundle=True)]
        assert [piece.data.tobytes() for piece in pieces] == [b"abcd", b"efgh", b"ij"]
        group.recycle(*(piece.bid for piece in reversed(pieces)))
        # Returned in another order: a bundle uses the order of the ring, not of the numbers.
        left.sendall(b"0123456789" * 3)
        received = [group.copy(*cqe, bundle=True) for cqe in receive_bundles(do, right, 30)]
        assert b"".join(received) == b"0123456789" * 3
        assert max(map(len, received)) > 4 or gates.applies("bundle-single")
        # The buffers contain the data to send.
        for i in range(8):
            group._memory[i * 4 : i * 4 + 4] = bytes([65 + i]) * 4
        token = do.start(
            ops.prep_send_bundle, left.fileno(), 0, 0, flags=uapi.IOSQE_BUFFER_SELECT, buf_group=1
        )
        results = do.finish(token)
        assert results[0][0] > 0
        sent = sum(res for res, _ in results if res > 0)
        received = b""
        while len(received) < sent:
            received += right.recv(100)
        assert sorted(received) == sorted(b"".join(bytes([65 + i]) * 4 for i in range(8)))


@opcode("RECV")
def test_recv_multishot_then_each_arrival_in_a_buffer(do):
    try:
        group = register.setup_buf_ring(do.ring, 9, 4, 32)
    except OSError:
        lacks("IORING_REGISTER_PBUF_RING", "5.19")
    left, right = socket.socketpair()
    with left, right:
        token = do.start(
            ops.prep_recv_multishot, right.fileno(), 0, 0, 0, flags=uapi.IOSQE_BUFFER_SELECT, buf_group=9
        )
        for i in range(1, 8):
            left.sendall(b"message %d" % i)
            res, flags = do.more(token, i)[-1]
            if res == -errno.EINVAL:
                lacks("IORING_RECV_MULTISHOT", "6.0")
            assert group.copy(res, flags) == b"message %d" % i
            assert flags & uapi.IORING_CQE_F_MORE
        left.close()
        res, flags = do.finish(token)[-1]
        assert (res, flags & uapi.IORING_CQE_F_MORE) == (0, 0)
        assert group.copy(res, flags) == b""
        assert len(group) == 4


def asked_for(items: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """Remove the control message that some kernels add: gates.py, unix-scm-inq."""
    scm_inq = 84 if gates.applies("unix-scm-inq") else None
    return [item for item in items if item[1] != scm_inq]


@opcode("SENDMSG")
@opcode("RECVMSG")
def test_sendmsg_and_recvmsg_then_data_and_descriptors(do, file):
    left, right = socket.socketpair()
    with left, right, Closing(opened(file, os.O_RDONLY)) as open_:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", open_.fds))]
        message = buffers.msghdr([b"here is ", b"a file"], control=rights)
        parts = [room(4), room(64)]
        # Room for three: gates.py, unix-scm-inq.
        answer = buffers.msghdr(parts, control_size=3 * buffers.cmsg_space(4), writable=True)
        recv = do.start(
            ops.prep_recvmsg, right.fileno(), answer.address, MSG_CMSG_CLOEXEC, keep=answer
        )
        res = do.run(ops.prep_sendmsg, left.fileno(), message.address, 0, keep=message)
        if res == -errno.EINVAL:
            do.run(ops.prep_cancel64, recv, 0)
            lacks("ancillary data in SENDMSG", "5.12")
        assert res == 14
        assert do.finish(recv)[0][0] == 14
        assert parts[0][:] + parts[1][:10] == b"here is a file"
        ((level, kind, data),) = asked_for(answer.control())
        assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
        with Closing(*array.array("i", data)) as received:
            assert os.path.samestat(os.fstat(received.fds[0]), file.stat())


@opcode("SENDMSG")
@opcode("RECVMSG")
def test_sendmsg_and_recvmsg_with_addresses_then_from_where(do):
    with socket.socket(type=socket.SOCK_DGRAM) as here, socket.socket(type=socket.SOCK_DGRAM) as there:
        here.bind(("127.0.0.1", 0))
        there.bind(("127.0.0.1", 0))
        to = buffers.sockaddr(socket.AF_INET, there.getsockname())
        message = buffers.msghdr([b"too long"], name=to)
        memory = room(3)
        answer = buffers.msghdr([memory], name_size=128, writable=True)
        assert do.run(ops.prep_sendmsg, here.fileno(), message.address, 0, keep=message) == 8
        assert do.run(ops.prep_recvmsg, there.fileno(), answer.address, 0, keep=answer) == 3
        assert memory[:] == b"too"
        assert answer.name() == (socket.AF_INET, here.getsockname())
        assert answer.msg_flags & socket.MSG_TRUNC


@opcode("RECVMSG")
@pytest.mark.parametrize("kind", ["unix stream", "unix datagram", "tcp", "udp"])
def test_recvmsg_with_room_for_ancillary_data_then_taken_or_refused_by_kind_of_socket(do, kind):
    with contextlib.ExitStack() as stack:
        if kind.startswith("unix"):
            type_ = socket.SOCK_STREAM if kind == "unix stream" else socket.SOCK_DGRAM
            here, there = map(stack.enter_context, socket.socketpair(type=type_))
        else:
            type_ = socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM
            there = stack.enter_context(socket.socket(type=type_))
            there.bind(("127.0.0.1", 0))
            here = stack.enter_context(socket.socket(type=type_))
            if kind == "tcp":
                there.listen()
            here.connect(there.getsockname())
            if kind == "tcp":
                there = stack.enter_context(there.accept()[0])
        here.send(b"data")
        answer = buffers.msghdr([room(8)], control_size=64, writable=True)
        res = do.run(ops.prep_recvmsg, there.fileno(), answer.address, 0, keep=answer)
        if res == -errno.EINVAL and kind != "tcp":
            lacks("room for ancillary data in RECVMSG", "5.12")
        assert res == 4
        assert asked_for(answer.control()) == []


@opcode("RECVMSG")
def test_header_used_for_a_second_recvmsg_then_the_room_is_whole_again(do):
    names = [f"\0rawuring-{os.getpid()}", f"\0rawuring-{os.getpid()}-with-a-longer-name"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as there:
        there.bind(f"\0rawuring-{os.getpid()}-there")
        answer = buffers.msghdr([room(8)], name_size=128, control_size=64, writable=True)
        for name in names:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as here:
                here.bind(name)
                here.sendto(b"data", there.getsockname())
            res = do.run(ops.prep_recvmsg, there.fileno(), answer.address, 0, keep=answer)
            if res == -errno.EINVAL:
                lacks("room for ancillary data in RECVMSG", "5.12")
            assert res == 4
            assert answer.name() == (socket.AF_UNIX, os.fsencode(name))
            answer.reset()


@opcode("RECVMSG")
def test_recvmsg_multishot_then_taken_apart(do):
    try:
        group = register.setup_buf_ring(do.ring, 2, 4, 256)
    except OSError:
        lacks("IORING_REGISTER_PBUF_RING", "5.19")
    with socket.socket(type=socket.SOCK_DGRAM) as here, socket.socket(type=socket.SOCK_DGRAM) as there:
        here.bind(("127.0.0.1", 0))
        there.bind(("127.0.0.1", 0))
        ip_pktinfo = 8
        there.setsockopt(socket.IPPROTO_IP, ip_pktinfo, 1)
        message = buffers.msghdr(name_size=32, control_size=buffers.cmsg_space(12))
        token = do.start(
            ops.prep_recvmsg_multishot, there.fileno(), message.address, 0, keep=message,
            flags=uapi.IOSQE_BUFFER_SELECT, buf_group=2,
        )  # fmt: skip
        do.ring.submit()
        for i, data in enumerate([b"one", b"x" * 300], 1):
            here.sendto(data, there.getsockname())
            res, flags = do.more(token, i)[-1]
            if res == -errno.EINVAL:
                lacks("IORING_RECV_MULTISHOT", "6.0")
            (piece,) = group.take(res, flags)
            out = buffers.recvmsg_out(piece.data, message)
            assert out.name == (socket.AF_INET, here.getsockname())
            ((level, kind, info),) = out.control
            assert (level, kind, info[8:]) == (socket.IPPROTO_IP, ip_pktinfo, socket.inet_aton("127.0.0.1"))
            assert bool(out.flags & socket.MSG_TRUNC) == (len(data) == 300)
            assert data.startswith(out.payload.tobytes())
            assert len(out.payload) == min(len(data), 256 - 16 - 32 - buffers.cmsg_space(12))
            del out
            group.recycle(piece.bid)
            del piece
        do.run(ops.prep_cancel64, token, 0)
        do.finish(token)


def zero_copy(do: Driver, *arguments: object, **options: object) -> list[tuple[int, int]]:
    results = do.finish(do.start(*arguments, **options))
    assert results[-1][1] & uapi.IORING_CQE_F_NOTIF or len(results) == 1
    return results


@opcode("SEND_ZC")
@pytest.mark.parametrize("fixed", [False, True], ids=["plain", "fixed"])
def test_send_zc_then_the_bytes_and_a_notification(do, fixed):
    client, peer = tcp_pair()
    with client, peer:
        memory = room(4096, b"z")
        if fixed:
            (pin,) = register.register_buffers(do.ring, [memory])
            results = zero_copy(do, ops.prep_send_zc_fixed, client.fileno(), pin.address, 4096, 0, 0, 0)
        else:
            pin = buffers.pin(memory)
            results = zero_copy(do, ops.prep_send_zc, client.fileno(), pin.address, 4096, 0, 0, keep=pin)
        if results[0][0] == -errno.EOPNOTSUPP:
            pytest.skip("zero-copy send on loopback (CONFIG_INET)")
        assert results[0] == (4096, uapi.IORING_CQE_F_MORE)
        assert results[1][1] == uapi.IORING_CQE_F_NOTIF
        received = b""
        while len(received) < 4096:
            received += peer.recv(4096)
        assert received == b"z" * 4096


@opcode("SEND_ZC")
def test_send_zc_to_an_address_then_there(do):
    with socket.socket(type=socket.SOCK_DGRAM) as here, socket.socket(type=socket.SOCK_DGRAM) as there:
        there.bind(("127.0.0.1", 0))
        there.settimeout(10)
        to = buffers.sockaddr(socket.AF_INET, there.getsockname())
        data = buffers.pin(b"zero-copy datagram")
        token = do.start(ops.prep_send_zc, here.fileno(), data.address, data.nbytes, 0, 0, keep=(data, to))
        slot = do.ring.sq.slots[(do.ring.sq.sqe_tail - 1) & do.ring.sq.ring_mask]
        ops.prep_send_set_addr(slot, to.address, to.nbytes)
        assert do.finish(token)[0][0] == 18
        assert there.recv(20) == b"zero-copy datagram"


@opcode("SENDMSG_ZC")
@pytest.mark.parametrize("fixed", [False, True], ids=["plain", "fixed"])
def test_sendmsg_zc_then_the_bytes_and_a_notification(do, fixed):
    client, peer = tcp_pair()
    with client, peer:
        memory = room(4096)
        memory[0:3], memory[100:103] = b"abc", b"def"
        (pin,) = register.register_buffers(do.ring, [memory])
        parts = [buffers.Pin(pin.address + 100, 3, pin), buffers.Pin(pin.address, 3, pin)]
        message = buffers.msghdr(parts)
        sock, msg = client.fileno(), message.address
        if fixed:
            results = zero_copy(do, ops.prep_sendmsg_zc_fixed, sock, msg, 0, 0, keep=message)
            if results[0][0] == -errno.EINVAL:
                lacks("SENDMSG_ZC with a registered buffer", "6.15")
        else:
            results = zero_copy(do, ops.prep_sendmsg_zc, sock, msg, 0, keep=message)
        assert results[0][0] == 6
        assert results[0][1] & uapi.IORING_CQE_F_MORE
        assert peer.recv(10) == b"defabc"


@opcode("SHUTDOWN")
def test_shutdown_then_the_peer_sees_the_end(do):
    left, right = socket.socketpair()
    with left, right:
        assert do.run(ops.prep_shutdown, left.fileno(), socket.SHUT_WR) == 0
        assert right.recv(1) == b""
        right.sendall(b"still")
        assert left.recv(10) == b"still"


@opcode("RECV_ZC")
def test_recv_zc_without_a_queue_then_refused(do):
    # The part that needs no network card is in test_every_register_op.py: ZCRX_REG_NODEV.
    client, peer = tcp_pair()
    with client, peer:
        assert do.run(ops.prep_recv_zc, peer.fileno(), 0, 0) == -errno.EINVAL


@opcode("URING_CMD")
def test_socket_commands_then_as_the_socket_module_says(do):
    client, peer = tcp_pair()
    with client, peer:
        client.sendall(b"12345")
        select.select([peer], [], [], 10)
        res = do.run(ops.prep_cmd_sock, uapi.SOCKET_URING_OP_SIOCINQ, peer.fileno(), 0, 0, 0, 0)
        if res == -errno.EOPNOTSUPP:
            lacks("SOCKET_URING_OP_SIOCINQ", "6.6")
        assert res == 5
        assert do.run(ops.prep_cmd_sock, uapi.SOCKET_URING_OP_SIOCOUTQ, peer.fileno(), 0, 0, 0, 0) == 0
        value = buffers.ints([0])
        res = do.run(
            ops.prep_cmd_sock, uapi.SOCKET_URING_OP_GETSOCKOPT, peer.fileno(), socket.SOL_SOCKET,
            socket.SO_RCVBUF, value.address, 4, keep=value,
        )  # fmt: skip
        if res == -errno.EOPNOTSUPP:
            lacks("SOCKET_URING_OP_GETSOCKOPT", "6.7")
        assert res == 4
        assert value.values() == [peer.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)]
        one = buffers.ints([1])
        res = do.run(
            ops.prep_cmd_sock, uapi.SOCKET_URING_OP_SETSOCKOPT, peer.fileno(), socket.IPPROTO_TCP,
            socket.TCP_NODELAY, one.address, 4, keep=one,
        )  # fmt: skip
        assert res == 0
        assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@opcode("URING_CMD")
def test_getsockname_then_as_the_socket_module_says(do):
    client, peer = tcp_pair()
    with client, peer:
        for which, expected in ((0, client.getsockname()), (1, client.getpeername())):
            answer = buffers.SockaddrBuffer()
            res = do.run(
                ops.prep_cmd_getsockname, client.fileno(), answer.address, answer.addrlen, which, keep=answer
            )
            if res == -errno.EOPNOTSUPP:
                lacks("SOCKET_URING_OP_GETSOCKNAME", "6.19")
            assert res == 0
            assert answer.result() == (socket.AF_INET, expected)


@opcode("URING_CMD")
def test_uring_cmd_where_there_are_none_then_refused(do, file):
    with Closing(opened(file)) as open_:
        assert do.run(ops.prep_uring_cmd, 1, open_.fds[0], cmd=b"0123456789abcdef") == -errno.EOPNOTSUPP
        # No block device is needed: the command reaches the file, which is not one.
        assert do.run(ops.prep_cmd_discard, open_.fds[0], 0, 512) == -errno.EOPNOTSUPP
        assert do.run(ops.prep_cmd_zone_reset_all, open_.fds[0]) == -errno.EOPNOTSUPP


@opcode("URING_CMD128")
def test_uring_cmd128_then_the_socket_answers():
    with Driver(need_ring(flags=uapi.IORING_SETUP_SQE_MIXED)) as do:
        left, right = socket.socketpair()
        with left, right:
            token = do.start(
                ops.prep_uring_cmd128, uapi.SOCKET_URING_OP_SIOCINQ, right.fileno(), wide=True, cmd=bytes(80)
            )
            # A TCP socket supports SIOCINQ by this command, a Unix socket does not: either way it was asked.
            assert do.finish(token)[0][0] in (0, -errno.EOPNOTSUPP)
        client, peer = tcp_pair()
        with client, peer:
            client.sendall(b"1234567")
            select.select([peer], [], [], 10)
            token = do.start(
                ops.prep_uring_cmd128, uapi.SOCKET_URING_OP_SIOCINQ, peer.fileno(), wide=True, cmd=bytes(80)
            )
            assert do.finish(token)[0][0] == 7


# ------------------------------------------------------------------------------------------------------
# Provided buffers of the older kind


@opcode("PROVIDE_BUFFERS")
@opcode("REMOVE_BUFFERS")
def test_provide_and_remove_buffers_then_a_read_takes_one(do, file):
    memory = room(4 * 64)
    pin = buffers.pin(memory, writable=True)
    assert do.run(ops.prep_provide_buffers, pin.address, 64, 4, 7, 10, keep=pin) >= 0  # 5.10: the group
    with Closing(opened(file)) as open_:
        token = do.start(
            ops.prep_read, open_.fds[0], 0, 64, 100, flags=uapi.IOSQE_BUFFER_SELECT, buf_group=7, keep=pin
        )
        res, flags = do.finish(token)[0]
    assert (res, flags & uapi.IORING_CQE_F_BUFFER) == (64, uapi.IORING_CQE_F_BUFFER)
    bid = flags >> uapi.IORING_CQE_BUFFER_SHIFT
    assert 10 <= bid < 14
    assert memory[(bid - 10) * 64 : (bid - 9) * 64] == file.read_bytes()[100:164]
    assert do.run(ops.prep_remove_buffers, 10, 7) == 3
    assert do.run(ops.prep_remove_buffers, 10, 7) in (0, -errno.ENOENT)  # an empty group may be deleted
    assert do.run(ops.prep_remove_buffers, 10, 99) == -errno.ENOENT


# ------------------------------------------------------------------------------------------------------
# Opening and closing


@opcode("OPENAT")
def test_openat_then_the_file_is_open(do, tmp_path):
    with Closing(opened(tmp_path, os.O_RDONLY | os.O_DIRECTORY)) as directory:
        name = buffers.path("new")
        flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC
        fd = do.run(ops.prep_openat, directory.fds[0], name.address, flags, 0o640, keep=name)
        with Closing(fd):
            assert os.path.samestat(os.fstat(fd), (tmp_path / "new").stat())
            assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o640 & ~umask()
            assert not os.get_inheritable(fd)
        name = buffers.path("absent")
        assert do.run(ops.prep_openat, directory.fds[0], name.address, 0, 0, keep=name) == -errno.ENOENT


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@opcode("OPENAT")
def test_open_then_below_the_working_directory(do, file, monkeypatch):
    monkeypatch.chdir(file.parent)
    name = buffers.path("file")
    fd = do.run(ops.prep_open, name.address, os.O_RDONLY | os.O_CLOEXEC, 0, keep=name)
    with Closing(fd):
        assert os.path.samestat(os.fstat(fd), file.stat())


def read_slot(do: Driver, slot: int, nbytes: int) -> bytes:
    memory = room(nbytes)
    pin = buffers.pin(memory, writable=True)
    res = do.run(ops.prep_read, slot, pin.address, nbytes, 0, keep=pin, flags=uapi.IOSQE_FIXED_FILE)
    assert res == nbytes, res
    return memory[:]


def sparse_files(do: Driver, nr: int) -> None:
    try:
        register.register_files_sparse(do.ring, nr)
    except OSError:
        lacks("IORING_RSRC_REGISTER_SPARSE", "5.19")


@opcode("OPENAT")
@opcode("OPENAT2")
@opcode("CLOSE")
@pytest.mark.parametrize("index", [2, ALLOC], ids=["slot", "alloc"])
@pytest.mark.parametrize("which", ["openat", "open", "openat2"])
def test_open_direct_then_in_a_slot_until_it_is_closed(do, file, which, index):
    sparse_files(do, 4)
    name, how = buffers.path(file), buffers.open_how(os.O_RDONLY)
    if which == "openat":
        res = do.run(ops.prep_openat_direct, AT_FDCWD, name.address, os.O_RDONLY, 0, index, keep=name)
    elif which == "open":
        res = do.run(ops.prep_open_direct, name.address, os.O_RDONLY, 0, index, keep=name)
    else:
        res = do.run(ops.prep_openat2_direct, AT_FDCWD, name.address, how.address, index, keep=(name, how))
    assert res == 0
    slot = 0 if index == ALLOC else 2
    assert read_slot(do, slot, 300) == file.read_bytes()[:300]
    assert do.run(ops.prep_close_direct, slot) == 0
    assert do.run(ops.prep_close_direct, slot) == -errno.EBADF


@opcode("OPENAT2")
def test_openat2_then_only_below_the_directory(do, file, tmp_path):
    with Closing(opened(tmp_path, os.O_RDONLY | os.O_DIRECTORY)) as directory:
        how = buffers.open_how(os.O_RDONLY | os.O_CLOEXEC, resolve=uapi.RESOLVE_BENEATH)
        name, outside = buffers.path("file"), buffers.path("../outside")
        fd = do.run(ops.prep_openat2, directory.fds[0], name.address, how.address, keep=(name, how))
        with Closing(fd):
            assert os.path.samestat(os.fstat(fd), file.stat())
        res = do.run(ops.prep_openat2, directory.fds[0], outside.address, how.address, keep=(outside, how))
        assert res == -errno.EXDEV


@opcode("CLOSE")
def test_close_then_closed(do, file):
    fd = opened(file)
    assert do.run(ops.prep_close, fd) == 0
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    assert do.run(ops.prep_close, fd) == -errno.EBADF


@opcode("FILES_UPDATE")
def test_files_update_then_in_the_slots(do, file):
    register.register_files(do.ring, [-1, -1, -1])
    with Closing(opened(file)) as open_:
        array_ = buffers.ints(open_.fds)
        assert do.run(ops.prep_files_update, array_.address, 1, 1, keep=array_) == 1
    assert read_slot(do, 1, 100) == file.read_bytes()[:100]


@opcode("FILES_UPDATE")
def test_files_update_with_alloc_then_in_a_free_slot(do, file):
    register.register_files(do.ring, [-1, -1, -1])
    with Closing(opened(file)) as open_:
        array_ = buffers.ints(open_.fds)
        res = do.run(ops.prep_files_update, array_.address, 1, ALLOC, keep=array_)
        if res in (-errno.EINVAL, -errno.EOVERFLOW):
            lacks("FILES_UPDATE with IORING_FILE_INDEX_ALLOC", "5.19")
        assert res == 1
        assert array_.values()[0] in (0, 1, 2)
        assert read_slot(do, array_.values()[0], 100) == file.read_bytes()[:100]


@opcode("FIXED_FD_INSTALL")
def test_fixed_fd_install_then_a_descriptor(do, file):
    sparse_files(do, 1)
    name = buffers.path(file)
    assert do.run(ops.prep_openat_direct, AT_FDCWD, name.address, os.O_RDONLY, 0, 0, keep=name) == 0
    for install_flags, inheritable in ((0, False), (uapi.IORING_FIXED_FD_NO_CLOEXEC, True)):
        fd = do.run(ops.prep_fixed_fd_install, 0, install_flags)
        with Closing(fd):
            assert os.path.samestat(os.fstat(fd), file.stat())
            assert os.get_inheritable(fd) is inheritable


# ------------------------------------------------------------------------------------------------------
# Whole files


@opcode("FSYNC")
@pytest.mark.parametrize("fsync_flags", [0, uapi.IORING_FSYNC_DATASYNC])
def test_fsync_then_as_os_fsync(do, file, fsync_flags):
    with Closing(opened(file), *os.pipe()) as open_:
        assert do.run(ops.prep_fsync, open_.fds[0], fsync_flags) == 0
        with pytest.raises(OSError) as refused:
            os.fsync(open_.fds[1])
        assert do.run(ops.prep_fsync, open_.fds[1], fsync_flags) == -refused.value.errno


@opcode("SYNC_FILE_RANGE")
def test_sync_file_range_then_files_only(do, file):
    with Closing(opened(file), *os.pipe()) as open_:
        flags = uapi.SYNC_FILE_RANGE_WRITE | uapi.SYNC_FILE_RANGE_WAIT_AFTER
        assert do.run(ops.prep_sync_file_range, open_.fds[0], 4096, 0, flags) == 0
        assert do.run(ops.prep_sync_file_range, open_.fds[1], 4096, 0, flags) == -errno.ESPIPE


@opcode("FALLOCATE")
def test_fallocate_then_the_size_and_a_hole(do, file):
    with Closing(opened(file)) as open_:
        res = do.run(ops.prep_fallocate, open_.fds[0], 0, 0, 100_000)
        if res == -errno.EOPNOTSUPP:
            pytest.skip("fallocate on this file system")
        assert res == 0
        assert file.stat().st_size == 100_000
        hole = uapi.FALLOC_FL_PUNCH_HOLE | uapi.FALLOC_FL_KEEP_SIZE
        assert do.run(ops.prep_fallocate, open_.fds[0], hole, 10, 100) == 0
    assert file.read_bytes()[9:111] == b"\x09" + bytes(100) + b"\x6e"


@opcode("FTRUNCATE")
def test_ftruncate_then_the_size(do, file):
    with Closing(opened(file)) as open_:
        assert do.run(ops.prep_ftruncate, open_.fds[0], 1234) == 0
    assert file.stat().st_size == 1234


@opcode("FADVISE")
@pytest.mark.parametrize("prep", [ops.prep_fadvise, ops.prep_fadvise64])
def test_fadvise_then_as_os_posix_fadvise(do, file, prep):
    with Closing(opened(file), *os.pipe()) as open_:
        res = do.run(prep, open_.fds[0], 0, 4096, os.POSIX_FADV_WILLNEED)
        if res == -errno.EINVAL and prep is ops.prep_fadvise64:
            lacks("FADVISE with 64-bit length", "6.11")
        assert res == 0
        with pytest.raises(OSError) as refused:
            os.posix_fadvise(open_.fds[1], 0, 0, os.POSIX_FADV_WILLNEED)
        assert do.run(prep, open_.fds[1], 0, 4096, os.POSIX_FADV_WILLNEED) == -refused.value.errno


@opcode("MADVISE")
@pytest.mark.parametrize("prep", [ops.prep_madvise, ops.prep_madvise64])
def test_madvise_dontneed_then_the_page_is_zero(do, prep):
    memory = mmap.mmap(-1, 2 * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[:] = b"x" * len(memory)
    pin = buffers.pin(memory, writable=True)
    res = do.run(prep, pin.address, mmap.PAGESIZE, 4, keep=pin)
    if res == -errno.EINVAL and prep is ops.prep_madvise64:
        lacks("MADVISE with 64-bit length", "6.11")
    assert res == 0
    assert memory[: mmap.PAGESIZE] == bytes(mmap.PAGESIZE)
    assert memory[mmap.PAGESIZE :] == b"x" * mmap.PAGESIZE


@opcode("STATX")
def test_statx_then_as_os_stat(do, file):
    name, answer = buffers.path(file), buffers.StatxBuffer()
    mask = uapi.STATX_BASIC_STATS | uapi.STATX_BTIME
    assert do.run(ops.prep_statx, AT_FDCWD, name.address, 0, mask, answer.address, keep=(name, answer)) == 0
    result, expected = answer.result(), file.stat()
    for member in (
        "st_mode", "st_ino", "st_dev", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks", "st_blksize",
        "st_mtime_ns", "st_ctime_ns", "st_rdev",
    ):  # fmt: skip
        assert getattr(result, member) == getattr(expected, member), member
    assert result.stx_mask & uapi.STATX_BASIC_STATS == uapi.STATX_BASIC_STATS


@opcode("STATX")
def test_statx_of_a_descriptor_then_that_file(do, file):
    name, answer = buffers.path(""), buffers.StatxBuffer()
    with Closing(opened(file)) as open_:
        res = do.run(
            ops.prep_statx, open_.fds[0], name.address, uapi.AT_EMPTY_PATH, uapi.STATX_INO, answer.address,
            keep=(name, answer),
        )  # fmt: skip
    assert res == 0
    assert answer.result().st_ino == file.stat().st_ino


def needs_xattr(path: Path) -> None:
    if not hasattr(os, "setxattr"):
        pytest.skip("os.setxattr (Python 3.11 has none on musl)")
    try:
        os.setxattr(path, "user.try", b"")
        os.removexattr(path, "user.try")
    except OSError as error:
        pytest.skip(f"user extended attributes on this file system: {error}")


@opcode("SETXATTR")
@opcode("GETXATTR")
def test_xattr_then_as_os_getxattr(do, file):
    needs_xattr(file)
    name, path, value = buffers.path("user.colour"), buffers.path(file), buffers.pin(b"green")
    keep = (name, path, value)
    assert do.run(ops.prep_setxattr, name.address, value.address, path.address, 0, 5, keep=keep) == 0
    assert os.getxattr(file, "user.colour") == b"green"
    again = do.run(
        ops.prep_setxattr, name.address, value.address, path.address, os.XATTR_CREATE, 5, keep=keep
    )
    assert again == -errno.EEXIST
    os.setxattr(file, "user.colour", b"blue!!")
    memory = room(32)
    pin = buffers.pin(memory, writable=True)
    assert do.run(ops.prep_getxattr, name.address, 0, path.address, 0, keep=(name, path)) == 6
    assert do.run(ops.prep_getxattr, name.address, pin.address, path.address, 32, keep=(*keep, pin)) == 6
    assert memory[:6] == b"blue!!"


@opcode("FSETXATTR")
@opcode("FGETXATTR")
def test_fxattr_then_as_os_getxattr(do, file):
    needs_xattr(file)
    name, value, memory = buffers.path("user.size"), buffers.pin(b"large"), room(32)
    pin = buffers.pin(memory, writable=True)
    with Closing(opened(file)) as open_:
        fd = open_.fds[0]
        assert do.run(ops.prep_fsetxattr, fd, name.address, value.address, 0, 5, keep=(name, value)) == 0
        assert os.getxattr(file, "user.size") == b"large"
        assert do.run(ops.prep_fgetxattr, fd, name.address, pin.address, 32, keep=(name, pin)) == 5
    assert memory[:5] == b"large"


# ------------------------------------------------------------------------------------------------------
# Names


@pytest.fixture(params=["at", "plain"])
def names(request, tmp_path, monkeypatch) -> Iterator[tuple[bool, int]]:
    """Give a directory to the *at functions, and change to it for those without."""
    monkeypatch.chdir(tmp_path)
    with Closing(opened(tmp_path, os.O_RDONLY | os.O_DIRECTORY)) as directory:
        yield request.param == "at", directory.fds[0]


@opcode("MKDIRAT")
@opcode("UNLINKAT")
def test_mkdir_and_unlink_then_listed_and_gone(do, names, tmp_path):
    at, dfd = names
    name, plain = buffers.path("folder"), buffers.path("file")
    (tmp_path / "file").touch()
    if at:
        assert do.run(ops.prep_mkdirat, dfd, name.address, 0o700, keep=name) == 0
    else:
        assert do.run(ops.prep_mkdir, name.address, 0o700, keep=name) == 0
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o700
    for pin, flags in ((name, uapi.AT_REMOVEDIR), (plain, 0)):
        if at:
            assert do.run(ops.prep_unlinkat, dfd, pin.address, flags, keep=pin) == 0
        else:
            assert do.run(ops.prep_unlink, pin.address, flags, keep=pin) == 0
    assert os.listdir(tmp_path) == []


@opcode("RENAMEAT")
def test_rename_then_under_the_other_name(do, names, tmp_path):
    at, dfd = names
    (tmp_path / "old").write_text("content")
    old, new = buffers.path("old"), buffers.path("new")
    if at:
        args = (dfd, old.address, dfd, new.address, uapi.RENAME_NOREPLACE)
        assert do.run(ops.prep_renameat, *args, keep=(old, new)) == 0
        (tmp_path / "old").touch()
        assert do.run(ops.prep_renameat, *args, keep=(old, new)) == -errno.EEXIST
    else:
        assert do.run(ops.prep_rename, old.address, new.address, keep=(old, new)) == 0
    assert (tmp_path / "new").read_text() == "content"


@opcode("SYMLINKAT")
def test_symlink_then_read_back(do, names, tmp_path):
    at, dfd = names
    target, link = buffers.path("where/it/points"), buffers.path("link")
    if at:
        assert do.run(ops.prep_symlinkat, target.address, dfd, link.address, keep=(target, link)) == 0
    else:
        assert do.run(ops.prep_symlink, target.address, link.address, keep=(target, link)) == 0
    assert os.readlink(tmp_path / "link") == "where/it/points"


@opcode("LINKAT")
def test_link_then_the_same_file_twice(do, names, tmp_path):
    at, dfd = names
    (tmp_path / "old").touch()
    old, new = buffers.path("old"), buffers.path("new")
    if at:
        assert do.run(ops.prep_linkat, dfd, old.address, AT_FDCWD, new.address, 0, keep=(old, new)) == 0
    else:
        assert do.run(ops.prep_link, old.address, new.address, 0, keep=(old, new)) == 0
    assert (tmp_path / "old").stat().st_nlink == 2
    assert (tmp_path / "old").samefile(tmp_path / "new")


# ------------------------------------------------------------------------------------------------------
# From ring to ring


@opcode("MSG_RING")
def test_msg_ring_then_a_completion_over_there(do):
    with rings.Ring(4) as other:
        assert do.run(ops.prep_msg_ring, other.fileno(), 123, 0xDEADBEEF12345678, 0) == 0
        skip = uapi.IORING_MSG_RING_CQE_SKIP  # only descriptors can be sent without a completion
        assert do.run(ops.prep_msg_ring, other.fileno(), 123, 1, skip) == -errno.EINVAL
        other.submit_and_wait(1, 10_000_000_000)
        assert other.reap() == [(0xDEADBEEF12345678, 123, 0)]
        res = do.run(ops.prep_msg_ring_cqe_flags, other.fileno(), 5, 6, 0, 0x40)
        if res == -errno.EINVAL:
            lacks("IORING_MSG_RING_FLAGS_PASS", "6.3")
        other.submit_and_wait(1, 10_000_000_000)
        assert other.reap() == [(6, 5, 0x40)]


@opcode("MSG_RING")
@pytest.mark.parametrize("alloc", [False, True], ids=["slot", "alloc"])
def test_msg_ring_fd_then_the_file_over_there(do, file, alloc):
    with Driver(rings.Ring(8)) as other:
        sparse_files(other, 4)
        with Closing(opened(file)) as open_:
            register.register_files(do.ring, open_.fds)
        fd = other.ring.fileno()
        if alloc:
            res = do.run(ops.prep_msg_ring_fd_alloc, fd, 0, 77, 0)
        else:
            res = do.run(ops.prep_msg_ring_fd, fd, 0, 3, 77, 0)
        if res == -errno.EINVAL:
            lacks("IORING_MSG_SEND_FD", "6.0")
        assert res == 0
        other.ring.submit_and_wait(1, 10_000_000_000)
        assert [cqe[0] for cqe in other.ring.reap()] == [77]
        assert read_slot(other, 0 if alloc else 3, 64) == file.read_bytes()[:64]


# ------------------------------------------------------------------------------------------------------
# Processes and futexes


@opcode("WAITID")
@pytest.mark.parametrize(
    ("code", "expected"),
    [("raise SystemExit(7)", (CLD_EXITED, 7)), ("import os; os.kill(os.getpid(), 9)", (CLD_KILLED, 9))],
    ids=["exit", "kill"],
)
def test_waitid_then_how_the_child_ended(do, code, expected):
    child = subprocess.Popen([sys.executable, "-I", "-S", "-c", code])
    info = buffers.Siginfo()
    res = do.run(ops.prep_waitid, P_PID, child.pid, info.address, WEXITED | WNOWAIT, 0, keep=info)
    returncode = child.wait()  # possible only because the request left the child waitable
    assert res == 0
    assert (info.si_signo, info.si_pid, info.si_uid) == (signal.SIGCHLD, child.pid, os.getuid())
    assert (info.si_code, info.si_status) == expected
    assert returncode == (expected[1] if expected[0] == CLD_EXITED else -expected[1])
    assert do.run(ops.prep_waitid, P_PID, child.pid, 0, WEXITED, 0) == -errno.ECHILD


FUTEX = uapi.FUTEX2_SIZE_U32 | uapi.FUTEX2_PRIVATE
ANY = uapi.FUTEX_BITSET_MATCH_ANY


def futex_word(value: int) -> tuple[ctypes.c_uint32, buffers.Pin]:
    word = ctypes.c_uint32(value)
    return word, buffers.Pin(ctypes.addressof(word), 4, word)


def libc_futex_wake(pin: buffers.Pin) -> int:
    """Wake by the system call, as another program would (FUTEX_WAKE_PRIVATE)."""
    numbers = {
        "x86_64": 202, "i386": 240, "aarch64": 98, "arm": 240, "riscv64": 98, "loongarch64": 98, "s390x": 238,
        "ppc64": 221, "ppc64le": 221, "mips_n64": 5194,
    }  # fmt: skip
    number = numbers.get(syscalls.abi())  # not the machine's name: a 32-bit process sees the kernel's
    if number is None:
        pytest.skip(f"the number of futex(2) for {syscalls.abi()}")
    return ctypes.CDLL(None).syscall(number, ctypes.c_void_p(pin.address), 129, 10, None, None, 0)


@opcode("FUTEX_WAIT")
def test_futex_wait_then_until_somebody_wakes_us(do):
    _, pin = futex_word(5)
    assert do.run(ops.prep_futex_wait, pin.address, 4, ANY, FUTEX, 0, keep=pin) == -errno.EAGAIN
    token = do.start(ops.prep_futex_wait, pin.address, 5, ANY, FUTEX, 0, keep=pin)
    do.ring.submit()
    assert libc_futex_wake(pin) == 1
    assert do.finish(token) == [(0, 0)]


@opcode("FUTEX_WAKE")
def test_futex_wake_then_a_thread_goes_on(do):
    _, pin = futex_word(0)
    with Driver() as other:
        token = other.start(ops.prep_futex_wait, pin.address, 0, ANY, FUTEX, 0, keep=pin)
        other.ring.submit()
        assert do.run(ops.prep_futex_wake, pin.address, 5, ANY, FUTEX, 0, keep=pin) == 1
        assert other.finish(token) == [(0, 0)]
        assert do.run(ops.prep_futex_wake, pin.address, 5, ANY, FUTEX, 0, keep=pin) == 0


@opcode("FUTEX_WAITV")
def test_futex_waitv_then_the_index_of_the_one(do):
    pins = [futex_word(i)[1] for i in range(3)]
    vector = buffers.futex_waitv([(pin.address, i, FUTEX) for i, pin in enumerate(pins)])
    token = do.start(ops.prep_futex_waitv, vector.address, 3, 0, keep=(vector, *pins))
    do.ring.submit()
    assert libc_futex_wake(pins[2]) == 1
    assert do.finish(token) == [(2, 0)]


# ------------------------------------------------------------------------------------------------------
# Completeness


def test_every_opcode_has_a_test():
    marked = set()
    for function in list(globals().values()):
        for marker in getattr(function, "pytestmark", []) if callable(function) else []:
            if marker.name == "opcode":
                marked.add("IORING_OP_" + marker.args[0])
    opcodes = {name for name in vars(uapi) if name.startswith("IORING_OP_")} - {"IORING_OP_LAST"}
    assert marked == opcodes
