# SPDX-License-Identifier: MIT
"""Blocks of SQEs, turns in one call, completions by column: the same results as one by one."""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import threading
import time

import pytest
from hypothesis import given, strategies as st

from rawuring import ops, rings, uapi
from rawuring.ops import Block
from rawuring.rings import Columns, Ring

BAD = 255  # no operation has this number

# -- blocks


U32, U63, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**63 - 1), st.integers(0, 2**64 - 1)


@given(st.lists(st.tuples(U63, U63, U32), min_size=1, max_size=20))
def test_block_set_by_field_then_the_bytes_of_one_by_one(rows):
    block = Block(len(rows), ops.prep_read, 5, 0, 0, 0)
    block.set("addr", [row[0] for row in rows])
    block.set("off", [row[1] for row in rows])
    block.set("len", [row[2] for row in rows])
    expected = bytearray(64 * len(rows))
    for i, (addr, off, length) in enumerate(rows):
        ops.prep_read(memoryview(expected)[64 * i : 64 * i + 64], 5, addr, length, off, i)
    assert block.memory == expected
    assert bytes(block.first(1)) == expected[:64]
    assert bytes(block.sqe(len(rows) - 1)) == expected[-64:]
    assert len(block) == len(rows)


def test_block_with_fewer_values_then_the_first_are_set():
    block = Block(3, ops.prep_nop)
    block.set("user_data", [7, 8])
    assert [int.from_bytes(block.sqe(i)[32:40], sys.byteorder) for i in range(3)] == [7, 8, 2]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, list])
@pytest.mark.parametrize("name", ["opcode", "len", "off", "user_data"])
def test_block_set_to_bytes_then_each_is_a_number(kind, name):
    block, expected = Block(8), Block(8)
    block.set(name, kind(bytes(range(8, 0, -1))))
    expected.set(name, range(8, 0, -1))
    assert block.memory == expected.memory


def test_block_without_prep_then_each_sqe_is_filled_by_hand():
    block = Block(2)
    ops.prep_nop(block.sqe(0), 5)
    ops.prep_close(block.sqe(1), 9, 6)
    expected = bytearray(128)
    ops.prep_nop(memoryview(expected)[:64], 5)
    ops.prep_close(memoryview(expected)[64:], 9, 6)
    assert block.memory == expected


@pytest.mark.parametrize(
    ("name", "values", "error"),
    [
        ("nonsense", [1], TypeError),
        ("__pad2", [1], TypeError),
        ("len", [2**32, 1], OverflowError),
        ("fd", [2**31, 1], OverflowError),
        ("off", [1, 2, 3], ValueError),
    ],
)
def test_block_when_refused_then_unchanged(name, values, error):
    block = Block(2, ops.prep_read, 5, 6, 7, 8)
    before = bytes(block.memory)
    with pytest.raises(error):
        block.set(name, values)
    assert block.memory == before


def test_block_with_too_many_values_then_the_message_counts_them():
    with pytest.raises(ValueError, match="3 values of off for a block of 2 SQEs"):
        Block(2).set("off", [1, 2, 3])


@pytest.mark.parametrize("index", [-1, 2])
def test_block_outside_then_index_error(index):
    with pytest.raises(IndexError):
        Block(2).sqe(index)
    with pytest.raises(ValueError, match="block of 2"):
        Block(2).first(index if index < 0 else 3)


# -- turns

KINDS = {
    "plain": {},
    "recommended": {"wish": rings.RECOMMENDED},
    "defer without the flag": {
        "wish": uapi.IORING_SETUP_SINGLE_ISSUER | uapi.IORING_SETUP_DEFER_TASKRUN,
    },
    "sqpoll": {"wish": uapi.IORING_SETUP_SQPOLL},
    "cqe32": {"wish": uapi.IORING_SETUP_CQE32},
    "rewind": {"wish": uapi.IORING_SETUP_NO_SQARRAY | uapi.IORING_SETUP_SQ_REWIND},
}


@pytest.fixture(params=KINDS)
def ring(request):
    with Ring(8, **KINDS[request.param]) as ring:
        yield ring


def queue(ring: Ring, first: int, count: int) -> None:
    for i in range(first, first + count):
        ops.prep_nop(ring.get_sqe(), i)


@pytest.mark.requires_io_uring
def test_turns_of_every_size_then_every_request_once_and_in_order(ring):
    expected = 0
    for count in [1, 2, 8, 3, 5, 7, 8, 1] * 20:
        queue(ring, expected, count)
        found = ring.submit_and_reap(count)
        while len(found) < count:
            found += ring.submit_and_reap(1)
        assert [cqe[:3] for cqe in found] == [(expected + i, 0, 0) for i in range(count)]
        expected += count
    done = ring.statistics()
    assert (done.submitted, done.reaped, done.sq_pending, done.cq_ready) == (expected, expected, 0, 0)


@pytest.mark.requires_io_uring
def test_turn_without_requests_then_what_is_there(ring):
    queue(ring, 0, 3)
    ring.submit_and_wait(3)
    assert [cqe[0] for cqe in ring.submit_and_reap(1)] == [0, 1, 2]
    assert ring.submit_and_reap(0) == []
    assert ring.submit_and_reap(1, timeout_ns=1_000_000) == []


@pytest.mark.requires_io_uring
def test_turn_that_waits_for_nothing_when_nothing_completes_then_it_enters_once():
    reader, writer = os.pipe()
    try:
        with Ring(8) as ring:
            if not ring.features & uapi.IORING_FEAT_EXT_ARG:
                pytest.skip(f"IORING_FEAT_EXT_ARG (5.11), for turns in one call, on {os.uname().release}")
            ops.prep_poll_add(ring.get_sqe(), reader, select.POLLIN, 1)
            before = ring.statistics()
            assert ring.submit_and_reap(0) == []
            after = ring.statistics()
            assert (after.submitted - before.submitted, after.enters - before.enters) == (1, 1)
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.requires_io_uring
def test_turn_with_a_timeout_then_it_lasts_as_long_and_enters_once(ring):
    reader, writer = os.pipe()
    try:
        for i, timeout_ns in enumerate([1_000_000, 20_000_000, 20_000_000, 1_000_000]):
            ops.prep_poll_add(ring.get_sqe(), reader, select.POLLIN, i)
            before, started = ring.statistics(), time.monotonic_ns()
            assert ring.submit_and_reap(1, timeout_ns) == []
            assert time.monotonic_ns() - started >= timeout_ns
            after = ring.statistics()
            in_call = bool(ring.features & uapi.IORING_FEAT_EXT_ARG)
            # Otherwise (before 5.11) a timeout is an SQE, unless the time is up before it is made.
            assert after.submitted - before.submitted in ((1,) if in_call else (1, 2))
            # Some rings always enter for completions, and the thread of an SQPOLL ring is woken.
            asked = ring.need_enter() or ring.flags & uapi.IORING_SETUP_SQPOLL
            if in_call and not asked:
                assert after.enters - before.enters == 1
        os.write(writer, b"x")
        found: list = []
        while len(found) < 4:
            found += ring.submit_and_reap(1, 10_000_000_000)
        # 5.10 does not restrict the masks: they contain POLLRDNORM, too.
        assert sorted((cqe[0], cqe[1] & select.POLLIN) for cqe in found) == [(i, 1) for i in range(4)]
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.requires_io_uring
def test_turn_after_completions_that_were_fetched_then_those_first(ring):
    queue(ring, 0, 2)
    ring.submit_and_wait(2)
    ring.cq.fetch()
    queue(ring, 2, 2)
    found = ring.submit_and_reap(4)
    assert [cqe[0] for cqe in found] == [0, 1, 2, 3]


@pytest.mark.requires_io_uring
def test_turn_with_an_sqe_that_stops_the_batch_then_the_rest_follows():
    with Ring(8) as ring:  # without SUBMIT_ALL
        queue(ring, 0, 1)
        sqe = ring.get_sqe()
        ops.prep_nop(sqe, 1)
        sqe[0] = BAD
        queue(ring, 2, 2)
        found = ring.submit_and_reap(4)
        # 6.1 and older complete the bad one first.
        assert sorted(cqe[:2] for cqe in found) == [(0, 0), (1, -errno.EINVAL), (2, 0), (3, 0)]


@pytest.mark.requires_io_uring
def test_turn_when_the_cq_overflows_then_all_of_them():
    with Ring(4, cq_entries=4) as ring:
        for first in (0, 4, 8):
            queue(ring, first, 4)
            ring.submit()
        queue(ring, 12, 2)
        found = ring.submit_and_reap(2)
        while len(found) < 14:
            found += ring.submit_and_reap(1)
        assert [cqe[0] for cqe in found] == list(range(14))


@pytest.mark.requires_io_uring
def test_turn_in_another_thread_or_after_close_then_refused():
    errors = []

    def elsewhere() -> None:
        for call in (ring.submit_and_reap, ring.reap_columns):
            try:
                call()
            except rings.WrongThread as error:
                errors.append(error)

    with Ring(4) as ring:
        queue(ring, 0, 1)
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert len(errors) == 2
        assert len(ring.submit_and_reap(1)) == 1
    for call in (ring.submit_and_reap, ring.reap_columns):
        with pytest.raises(rings.RingClosed):
            call()


@pytest.mark.requires_io_uring
def test_turn_that_the_kernel_refuses_then_its_error_and_nothing_lost(monkeypatch):
    with Ring(4) as ring:
        queue(ring, 0, 1)
        enter, (bare, number, no_size) = ring._call, ring._bare
        monkeypatch.setattr(ring, "_call", lambda fd, *rest: enter(-1, *rest))
        monkeypatch.setattr(ring, "_bare", (lambda nr, fd, *rest: bare(nr, -1, *rest), number, no_size))
        with pytest.raises(OSError, match="descriptor is gone"):
            ring.submit_and_reap(1)
        with pytest.raises(OSError, match="descriptor is gone"):
            ring.submit_and_wait(1)
        monkeypatch.undo()
        assert ring.submit_and_reap(1) == [(0, 0, 0)]


@pytest.mark.requires_io_uring
def test_turn_when_a_signal_comes_then_it_goes_on():
    hits = []

    def handler(*_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        hits.append(os.write(w, b"x"))

    r, w = os.pipe()
    old = signal.signal(signal.SIGALRM, handler)
    try:
        with Ring(4) as ring:
            ops.prep_poll_add(ring.get_sqe(), r, 1, 7)
            # Repeatedly: a signal just before the system call does not end its wait.
            signal.setitimer(signal.ITIMER_REAL, 0.01, 0.5)
            assert [cqe[0] for cqe in ring.submit_and_reap(1)] == [7]
            assert hits == [1]
    finally:
        signal.signal(signal.SIGALRM, old)
        os.close(r)
        os.close(w)


# -- columns


@pytest.mark.requires_io_uring
@pytest.mark.parametrize("kind", ["plain", "recommended", "defer without the flag", "sqpoll", "rewind"])
def test_columns_over_the_wrap_then_what_reap_says(kind):
    with Ring(8, **KINDS[kind]) as ring:
        first = 0
        for count in [3, 8, 5, 7, 1, 8] * 10:
            queue(ring, first, count)
            ring.submit_and_wait(count)
            found = ring.reap_columns()
            assert len(found) == count
            assert found.user_data == list(range(first, first + count))
            assert found.res == found.flags == [0] * count
            assert list(found) == [(first + i, 0, 0) for i in range(count)]
            first += count
        assert len(ring.reap_columns()) == 0
        assert ring.statistics().reaped == first


@pytest.mark.requires_io_uring
def test_columns_when_the_cq_overflowed_then_all_of_them():
    with Ring(4, cq_entries=4) as ring:
        for first in (0, 4, 8):
            queue(ring, first, 4)
            ring.submit()
        assert ring.reap_columns().user_data == list(range(12))


@pytest.mark.requires_io_uring
def test_columns_after_completions_that_were_fetched_then_those_first():
    with Ring(4) as ring:
        queue(ring, 0, 2)
        ring.submit_and_wait(2)
        ring.cq.fetch()
        queue(ring, 2, 2)
        ring.submit_and_wait(4)
        assert ring.reap_columns().user_data == [0, 1, 2, 3]


@pytest.mark.requires_io_uring
def test_columns_of_wide_completions_then_refused():
    with Ring(4, wish=uapi.IORING_SETUP_CQE32) as ring:
        if not ring.flags & uapi.IORING_SETUP_CQE32:
            pytest.skip("IORING_SETUP_CQE32 (Linux 5.19)")
        with pytest.raises(ValueError, match="reap"):
            ring.reap_columns()


@given(st.lists(st.tuples(U64, st.integers(-(2**31), 2**31 - 1), U32)))
def test_columns_of_any_completions_then_their_numbers(cqes):
    columns = Columns(b"".join(rings._CQE16.pack(*cqe) for cqe in cqes))
    assert list(columns) == cqes
    assert list(zip(columns.user_data, columns.res, columns.flags)) == cqes


@pytest.mark.requires_io_uring
@pytest.mark.parametrize("call", ["submit_and_wait", "submit_and_reap"])
def test_turn_when_a_handler_raises_an_oserror_then_it_leaves(call):
    def late(*_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise TimeoutError("mine")

    old = signal.signal(signal.SIGALRM, late)
    r, w = os.pipe()
    try:
        with Ring(4) as ring:
            ops.prep_poll_add(ring.get_sqe(), r, 1, 7)
            with pytest.raises(TimeoutError, match="mine"):  # noqa: PT012 - on a slow machine it strikes at once
                # Repeatedly: a signal just before the system call does not end its wait.
                signal.setitimer(signal.ITIMER_REAL, 0.01, 0.5)
                getattr(ring, call)(1)
            os.write(w, b"x")
            assert [cqe[0] for cqe in ring.submit_and_reap(1)] == [7]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
        os.close(r)
        os.close(w)
