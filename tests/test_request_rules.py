# SPDX-License-Identifier: MIT
"""The rules for requests of every kind: order, links, cancellation, retries, buffers, notifications.

What it is: one test for each rule of io_uring_enter(2) that programs rely on, on the real kernel.
Must not know: the layout of an SQE.
Invariant: order is inferred from effects that a wrong order could not have, never from time.
Read next: the examples.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from driver import Driver, kernel_release, lacks, need_opcode, release

from rawuring import buffers, ops, register, rings, uapi

pytestmark = [pytest.mark.requires_io_uring, pytest.mark.leakcheck]

LINK, HARDLINK = uapi.IOSQE_IO_LINK, uapi.IOSQE_IO_HARDLINK
SELECT = uapi.IOSQE_BUFFER_SELECT
MORE, NOTIF = uapi.IORING_CQE_F_MORE, uapi.IORING_CQE_F_NOTIF
CANCELLED = -errno.ECANCELED
MSG_NOSIGNAL = 0x4000  # the same on every Linux; PyPy's socket module lacks it


@pytest.fixture(params=[0, rings.RECOMMENDED], ids=["plain", "recommended"])
def do(request: pytest.FixtureRequest) -> Iterator[Driver]:
    with Driver(rings.Ring(16, wish=request.param)) as driver, open("/dev/zero", "rb", buffering=0) as zero:
        driver.zero = zero.fileno()
        yield driver


def read_of(do: Driver, fd: int, nbytes: int, offset: int = -1, **options: object) -> tuple[int, object]:
    memory = buffers.allocate(nbytes)
    pin = buffers.pin(memory, writable=True)
    return do.start(ops.prep_read, fd, pin.address, nbytes, offset, keep=pin, **options), memory


def write_of(do: Driver, fd: int, data: bytes, **options: object) -> int:
    pin = buffers.pin(data)
    return do.start(ops.prep_write, fd, pin.address, len(data), -1, keep=pin, **options)


def failing(do: Driver, **options: object) -> int:
    """Start a request that fails when it runs, not when it is submitted."""
    return do.start(ops.prep_read, do.zero, 8, 16, 0, **options)  # an invalid address


def results(do: Driver, *tokens: int) -> list[int]:
    do.finish(*tokens)
    return [do.results[token][-1][0] for token in tokens]


# ------------------------------------------------------------------------------------------------------
# Order


def test_link_then_the_second_starts_after_the_first(do, blocking_pipe):
    # Reading an empty pipe first would wait forever; the poll is not ready before the write.
    read, memory = read_of(do, blocking_pipe[0], 5, flags=LINK)
    second = write_of(do, blocking_pipe[1], b"after")
    do.ring.submit()
    do.table.dispatch(do.ring.reap())
    assert do.results[second] == []
    os.write(blocking_pipe[1], b"first")
    assert results(do, read, second) == [5, 5]
    assert memory[:] == b"first"
    assert os.read(blocking_pipe[0], 10) == b"after"


def test_link_when_the_first_fails_then_the_rest_is_cancelled(do, blocking_pipe):
    bad = failing(do, flags=LINK)
    second = write_of(do, blocking_pipe[1], b"x", flags=LINK)
    third = write_of(do, blocking_pipe[1], b"y")
    separate = write_of(do, blocking_pipe[1], b"z")
    assert results(do, bad, second, third, separate) == [-errno.EFAULT, CANCELLED, CANCELLED, 1]
    assert os.read(blocking_pipe[0], 10) == b"z"


def test_link_when_a_read_is_short_then_the_rest_is_cancelled(do, blocking_pipe, tmp_path):
    file = tmp_path / "short"
    file.write_bytes(b"12345")
    with file.open("rb", buffering=0) as source:
        short, memory = read_of(do, source.fileno(), 100, 0, flags=LINK)
        second = write_of(do, blocking_pipe[1], b"x")
        assert results(do, short, second) == [5, CANCELLED]
        assert memory[:5] == b"12345"


def test_hardlink_when_the_first_fails_then_the_second_runs_all_the_same(do, blocking_pipe):
    bad = failing(do, flags=HARDLINK)
    second = write_of(do, blocking_pipe[1], b"x")
    res = results(do, bad, second)
    assert res == [-errno.EFAULT, 1]
    assert os.read(blocking_pipe[0], 10) == b"x"


def test_drain_then_all_before_it_have_completed(do, blocking_pipe):
    first, _ = read_of(do, blocking_pipe[0], 1)
    drained = do.start(ops.prep_nop, flags=uapi.IOSQE_IO_DRAIN)
    behind = do.start(ops.prep_nop)
    do.ring.submit()
    do.table.dispatch(do.ring.reap())
    assert do.results[drained] == do.results[behind] == []
    os.write(blocking_pipe[1], b"x")
    do.finish(first, drained, behind)
    # Before about 6.1 the two may be swapped when both start.
    assert do.order[0] == first
    assert sorted(do.order) == [first, drained, behind]


def test_async_then_the_same_result_from_a_worker(do, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"by a worker")
    with file.open("rb", buffering=0) as source:
        token, memory = read_of(do, source.fileno(), 11, 0, flags=uapi.IOSQE_ASYNC)
        assert results(do, token) == [11]
        assert memory[:] == b"by a worker"


def test_link_at_the_end_of_a_batch_then_the_chain_ends_there(do, blocking_pipe):
    read, _ = read_of(do, blocking_pipe[0], 1, flags=LINK)
    do.ring.submit()
    other = do.start(ops.prep_nop)
    assert results(do, other) == [0]
    os.write(blocking_pipe[1], b"x")
    assert results(do, read) == [1]


# ------------------------------------------------------------------------------------------------------
# Links with a time limit


def test_link_timeout_when_it_is_in_time_then_the_timeout_is_cancelled(do, blocking_pipe):
    os.write(blocking_pipe[1], b"x")
    limit = buffers.timespec(60_000_000_000)
    read, _ = read_of(do, blocking_pipe[0], 1, flags=LINK)
    timeout = do.start(ops.prep_link_timeout, limit.address, 0, keep=limit)
    assert results(do, read, timeout) == [1, CANCELLED]


def test_link_timeout_when_it_is_late_then_the_chain_behind_is_cancelled_too(do, blocking_pipe):
    limit = buffers.timespec(1_000_000)
    poll = do.start(ops.prep_poll_add, blocking_pipe[0], select.POLLIN, flags=LINK)
    timeout = do.start(ops.prep_link_timeout, limit.address, 0, keep=limit, flags=LINK)
    behind = write_of(do, blocking_pipe[1], b"x")
    assert results(do, poll, timeout, behind) == [CANCELLED, -errno.ETIME, CANCELLED]


def test_timeout_that_counts_as_success_then_the_link_holds(do, blocking_pipe):
    limit = buffers.timespec(1_000_000)
    timeout = do.start(
        ops.prep_timeout, limit.address, 0, uapi.IORING_TIMEOUT_ETIME_SUCCESS, keep=limit, flags=LINK
    )
    behind = write_of(do, blocking_pipe[1], b"x")
    res = results(do, timeout, behind)
    if res[1] == CANCELLED:
        lacks("IORING_TIMEOUT_ETIME_SUCCESS", "5.16")
    assert res == [-errno.ETIME, 1]


# ------------------------------------------------------------------------------------------------------
# Omitted completions


def test_cqe_skip_then_only_failures_are_told(do, blocking_pipe):
    if not do.ring.features & uapi.IORING_FEAT_CQE_SKIP:
        lacks("IORING_FEAT_CQE_SKIP", "5.17")
    skip = uapi.IOSQE_CQE_SKIP_SUCCESS
    quiet = buffers.pin(b"quiet")
    ops.prep_write(do.ring.get_sqe(), blocking_pipe[1], quiet.address, 5, -1, 0, skip)
    ops.prep_read(do.ring.get_sqe(), 9999, 0, 1, 0, 77, skip)
    loud = do.start(ops.prep_nop)
    do.ring.submit_and_wait(2, 10_000_000_000)
    cqes = do.ring.reap()
    do.table.dispatch(cqes)
    assert sorted(cqe[:2] for cqe in cqes) == sorted([(77, -errno.EBADF), (loud, 0)])
    assert os.read(blocking_pipe[0], 10) == b"quiet"


# ------------------------------------------------------------------------------------------------------
# Short, not now, never


def test_short_read_then_the_end_of_the_file(do, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"0123456789")
    with file.open("rb", buffering=0) as source:
        token, memory = read_of(do, source.fileno(), 100, 4)
        beyond, _ = read_of(do, source.fileno(), 100, 10)
        assert results(do, token, beyond) == [6, 0]
        assert memory[:6] == b"456789"


def test_dontwait_then_eagain_and_without_it_the_request_waits(do, blocking_pair):
    left, right = blocking_pair
    left.setblocking(False)
    memory = buffers.allocate(16)
    pin = buffers.pin(memory, writable=True)
    now = do.start(ops.prep_recv, left.fileno(), pin.address, 16, socket.MSG_DONTWAIT, keep=pin)
    assert results(do, now) == [-errno.EAGAIN]
    # RECV ignores the descriptor's O_NONBLOCK.
    later = do.start(ops.prep_recv, left.fileno(), pin.address, 16, 0, keep=pin)
    do.ring.submit()
    do.table.dispatch(do.ring.reap())
    if do.results[later] == [(-errno.EAGAIN, 0)]:
        assert kernel_release() < release("5.11"), "O_NONBLOCK should be ignored"
        return
    assert do.results[later] == []
    right.send(b"at last")
    assert results(do, later) == [7]


def test_nowait_read_of_an_empty_pipe_then_eagain(do, blocking_pipe):
    token, _ = read_of(do, blocking_pipe[0], 5, rw_flags=uapi.RWF_NOWAIT)
    assert results(do, token)[0] in (-errno.EAGAIN, -errno.EOPNOTSUPP)


def test_cancel_then_the_request_answers_and_the_canceller_too(do, blocking_pair):
    memory = buffers.allocate(16)
    pin = buffers.pin(memory, writable=True)
    recv = do.start(ops.prep_recv, blocking_pair[0].fileno(), pin.address, 16, 0, keep=pin)
    assert do.run(ops.prep_cancel64, recv, 0) == 0
    assert do.finish(recv) == [(CANCELLED, 0)]
    blocking_pair[1].send(b"not lost")
    assert blocking_pair[0].recv(16) == b"not lost"


def test_waitall_when_cancelled_midway_then_what_had_come(do, blocking_pair):
    memory = buffers.allocate(16)
    pin = buffers.pin(memory, writable=True)
    recv = do.start(ops.prep_recv, blocking_pair[0].fileno(), pin.address, 16, socket.MSG_WAITALL, keep=pin)
    blocking_pair[1].send(b"half")
    do.ring.submit()
    if kernel_release() < release("5.19"):
        blocking_pair[1].shutdown(socket.SHUT_WR)
    do.run(ops.prep_cancel64, recv, 0)
    assert do.finish(recv)[-1][0] == 4
    assert memory[:4] == b"half"


# ------------------------------------------------------------------------------------------------------
# Multishot


def group_of(do: Driver, count: int, size: int) -> buffers.ProvidedBuffers:
    try:
        return register.setup_buf_ring(do.ring, 1, count, size)
    except OSError:
        lacks("IORING_REGISTER_PBUF_RING", "5.19")
        raise


def multishot_recv(do: Driver, sock: socket.socket) -> int:
    if kernel_release() < release("6.0"):
        lacks("IORING_RECV_MULTISHOT", "6.0")
    return do.start(ops.prep_recv_multishot, sock.fileno(), 0, 0, 0, flags=SELECT, buf_group=1)


def test_buffers_run_out_then_the_multishot_ends_and_goes_on_when_armed_again(do, blocking_pair):
    group = group_of(do, 2, 4)
    left, right = blocking_pair
    left.sendall(b"aaaabbbbccccdddd")
    token = multishot_recv(do, right)
    cqes = do.finish(token)
    assert cqes[-1] == (-errno.ENOBUFS, 0)
    assert [flags & MORE for _, flags in cqes[:-1]] == [MORE] * 2
    received = b"".join(group.copy(*cqe) for cqe in cqes[:-1])
    assert received == b"aaaabbbb"
    again = multishot_recv(do, right)
    # The end may be among them; see below.
    received += b"".join(group.copy(*cqe) for cqe in do.more(again, 2)[:2])
    assert received == b"aaaabbbbccccdddd"
    do.run(ops.prep_cancel64, again, 0)
    # Kernels up to 6.12 end it immediately, for lack of a buffer for future data.
    assert do.finish(again)[-1][0] in (CANCELLED, -errno.ENOBUFS)


def test_one_shot_without_a_buffer_then_enobufs_and_nothing_is_lost(do, blocking_pair):
    group = group_of(do, 1, 8)
    left, right = blocking_pair
    left.sendall(b"12345678abcdefgh")

    def receive() -> tuple[int, int]:
        return do.finish(do.start(ops.prep_recv, right.fileno(), 0, 8, 0, flags=SELECT, buf_group=1))[0]

    first = receive()
    assert receive() == (-errno.ENOBUFS, 0)
    assert group.copy(*first) == b"12345678"
    assert group.copy(*receive()) == b"abcdefgh"
    unknown = do.start(ops.prep_recv, right.fileno(), 0, 8, 0, flags=SELECT, buf_group=99)
    assert results(do, unknown) == [-errno.ENOBUFS]


def test_multishot_when_the_cq_overflows_then_it_ends_and_nothing_is_lost():
    with Driver(rings.Ring(4, cq_entries=4, wish=uapi.IORING_SETUP_SINGLE_ISSUER)) as do:
        group = group_of(do, 64, 1)
        left, right = socket.socketpair()
        with left, right:
            received, armed = b"", 0
            token = multishot_recv(do, right)
            do.ring.submit()
            expected = bytes(range(65, 65 + 40))
            for byte in expected:
                left.send(bytes([byte]))
            while len(received) < len(expected):
                seen = len(do.results[token])
                cqes = do.more(token, seen + 1)[seen:]
                received += b"".join(group.copy(*cqe) for cqe in cqes if cqe[0] > 0)
                if not cqes[-1][1] & MORE:
                    armed += 1
                    token = multishot_recv(do, right)
            assert received == expected
            assert armed
            do.run(ops.prep_cancel64, token, 0)
            do.finish(token)


def test_multishot_poll_when_updated_then_it_looks_again(do, blocking_pipe):
    if kernel_release() < release("5.13"):
        lacks("IORING_POLL_ADD_MULTI", "5.13")
    os.write(blocking_pipe[1], b"x")
    token = do.start(ops.prep_poll_multishot, blocking_pipe[0], select.POLLIN)
    assert do.more(token, 1)[0][1] & MORE
    # Edge-triggered: a state that persists is not reported again, unless the poll is updated to the same
    # mask.
    do.run(ops.prep_nop)
    assert len(do.results[token]) == 1
    update = uapi.IORING_POLL_UPDATE_EVENTS | uapi.IORING_POLL_ADD_MULTI
    assert do.run(ops.prep_poll_update, token, 0, select.POLLIN, update) == 0
    do.more(token, 2)
    do.run(ops.prep_poll_remove, token)
    do.finish(token)


# ------------------------------------------------------------------------------------------------------
# Zero copy


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        return client, server.accept()[0]


def test_zero_copy_then_first_the_result_and_then_the_notification(do):
    need_opcode("SEND_ZC")
    client, peer = tcp_pair()
    with client, peer:
        memory = buffers.allocate(8192)
        pin = buffers.pin(memory)
        report = uapi.IORING_SEND_ZC_REPORT_USAGE if kernel_release() >= release("6.2") else 0
        arguments = (client.fileno(), pin.address, 8192, 0, report)
        tokens = [do.start(ops.prep_send_zc, *arguments, keep=pin) for _ in range(3)]
        total = 0
        while total < 3 * 8192:
            do.pump(lambda: True)
            total += len(peer.recv(65536))
        do.finish(*tokens)
        for token in tokens:
            (sent, flags), (usage, notification) = do.results[token]
            assert (sent, flags) == (8192, MORE)
            assert notification == NOTIF
            assert usage in (0, uapi.IORING_NOTIF_USAGE_ZC_COPIED - 2**32 if report else 0)


def test_zero_copy_when_it_fails_then_the_notification_comes_all_the_same(do):
    need_opcode("SEND_ZC")
    client, peer = tcp_pair()
    with client, peer:
        client.shutdown(socket.SHUT_WR)
        pin = buffers.pin(bytes(64))
        token = do.start(
            ops.prep_send_zc, client.fileno(), pin.address, 64, MSG_NOSIGNAL, 0, keep=pin
        )
        cqes = do.finish(token)
        assert cqes[0][0] == -errno.EPIPE
        # The first CQE tells whether a second follows.
        assert len(cqes) == (2 if cqes[0][1] & MORE else 1)
        if len(cqes) == 2:
            assert cqes[1][1] == NOTIF


# ------------------------------------------------------------------------------------------------------
# A bad SQE among good ones


def test_bad_sqe_then_the_rest_of_the_batch_is_submitted_all_the_same(do):
    good = do.start(ops.prep_nop)
    bad = do.start(ops.prep_rw, 200, -1, 0, 0, 0)
    after = do.start(ops.prep_nop)
    assert results(do, good, bad, after) == [0, -errno.EINVAL, 0]


def test_direct_descriptor_that_is_used_in_the_same_chain_that_opens_it(do, tmp_path: Path):
    if not do.ring.features & uapi.IORING_FEAT_LINKED_FILE:
        lacks("IORING_FEAT_LINKED_FILE", "5.18")
    try:
        register.register_files_sparse(do.ring, 1)
    except OSError:
        lacks("IORING_RSRC_REGISTER_SPARSE", "5.19")
    file = tmp_path / "file"
    file.write_bytes(b"opened, read and closed in one batch")
    path = buffers.path(file)
    opened = do.start(
        ops.prep_openat_direct, uapi.AT_FDCWD, path.address, os.O_RDONLY, 0, 0, keep=path, flags=LINK
    )
    read, memory = read_of(do, 0, 36, 0, flags=uapi.IOSQE_FIXED_FILE | LINK)
    closed = do.start(ops.prep_close_direct, 0)
    enters = do.ring.statistics().enters
    assert results(do, opened, read, closed) == [0, 36, 0]
    assert memory[:] == file.read_bytes()
    assert do.ring.statistics().enters - enters <= 3


# ------------------------------------------------------------------------------------------------------
# The meaning of res in the docstrings of ops.py


def test_notification_that_reports_usage_then_res_is_a_flag_and_no_errno(do):
    server = socket.create_server(("127.0.0.1", 0))
    with server, socket.create_connection(server.getsockname()) as sock:
        pin = buffers.pin(b"x" * 100)
        report = uapi.IORING_SEND_ZC_REPORT_USAGE
        token = do.start(ops.prep_send_zc, sock.fileno(), pin.address, 100, 0, report, keep=pin)
        first, *rest = do.finish(token)
        if first[0] < 0:
            pytest.skip("IORING_SEND_ZC_REPORT_USAGE (Linux 6.2)")
        assert first[0] == 100
        copied = uapi.IORING_NOTIF_USAGE_ZC_COPIED - 2**32  # as on the loopback
        assert rest == [(copied, uapi.IORING_CQE_F_NOTIF)]


def test_slots_closed_in_vain_then_the_errno_that_is_documented(do):
    if kernel_release() < release("5.15"):
        lacks("closing a direct descriptor", "5.15")  # it would close descriptor 0
    assert do.run(ops.prep_close_direct, 0) == -errno.ENXIO
    register.register_files_sparse(do.ring, 2)
    assert do.run(ops.prep_close_direct, 0) == -errno.EBADF
    assert do.run(ops.prep_close_direct, 2) == -errno.EINVAL
    assert do.run(ops.prep_close_direct, 0, flags=uapi.IOSQE_FIXED_FILE) == -errno.EBADF
    assert do.run(ops.prep_close, 0, flags=uapi.IOSQE_FIXED_FILE) == -errno.EBADF


@pytest.mark.parametrize("success", [False, True])
def test_timeout_whose_end_is_no_failure_then_etime_all_the_same_and_the_link_holds(do, success):
    flags = uapi.IORING_TIMEOUT_ETIME_SUCCESS if success else 0
    if success and kernel_release() < release("5.16"):
        lacks("IORING_TIMEOUT_ETIME_SUCCESS", "5.16")
    ts = buffers.timespec(1000)
    timeout = do.start(ops.prep_timeout, ts.address, 0, flags, keep=ts, flags=LINK)
    behind = do.start(ops.prep_nop)
    got = results(do, timeout, behind)
    assert got == [-errno.ETIME, 0 if success else CANCELLED]
