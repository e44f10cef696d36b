# SPDX-License-Identifier: MIT
"""The rings: the same scenarios over the fake kernel and over the real one; then tests of the fake."""

from __future__ import annotations

import _thread
import errno
import gc
import json
import struct
import subprocess
import sys
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from refusal import needs_of

from rawuring import gates, ops, params, queues, rings, syscalls, uapi
from rawuring.fakekernel import POISON, FakeKernel, FakeRing, fake_ring
from rawuring.rings import Ring, RingClosed, SubmissionQueueFull, WrongThread
from rawuring.syscalls import Unavailable

ROOT = Path(__file__).resolve().parent.parent

MILLISECOND = 1_000_000
BAD_OPCODE = 200
SHAPES = {
    "plain": 0,
    "NO_SQARRAY": uapi.IORING_SETUP_NO_SQARRAY,
    "SQE128": uapi.IORING_SETUP_SQE128,
    "CQE32": uapi.IORING_SETUP_CQE32,
    "SQE128 and CQE32": uapi.IORING_SETUP_SQE128 | uapi.IORING_SETUP_CQE32,
}


@pytest.fixture(params=["fake", "kernel"])
def make(request):
    """Return a function that makes rings of the kind under test."""
    opened = []

    def make_ring(entries: int = 4, flags: int = 0, **options: int) -> Ring:
        if request.param == "fake":
            context = fake_ring(entries=entries, flags=flags, **options)
            opened.append(lambda: context.__exit__(None, None, None))
            return context.__enter__()[1]
        try:
            ring = Ring(entries, flags=flags, **options)
        except Unavailable as error:
            pytest.skip(f"{needs_of(flags)}: {error}")
        opened.append(ring.close)
        return ring

    yield make_ring
    for close in reversed(opened):
        close()


def put_nop(ring: Ring, user_data: int, opcode: int = uapi.IORING_OP_NOP) -> None:
    sqe = ring.get_sqe()
    sqe[64:] = bytes(len(sqe) - 64)
    ops.prep_rw(sqe, opcode, -1, 0, 0, 0, user_data)


def user_data_of(cqes) -> list[int]:
    return [cqe[0] for cqe in cqes]


# -- both kernels


@pytest.mark.parametrize("shape", SHAPES)
def test_batches_many_times_round_then_every_completion_in_order(make, shape):
    ring = make(4, SHAPES[shape])
    expected = 0
    for size in (1, 4, 3, 2, 4, 4, 1, 3) * 5:
        for i in range(size):
            put_nop(ring, expected + i)
        assert ring.submit_and_wait(size) == size
        cqes = ring.reap()
        assert user_data_of(cqes) == list(range(expected, expected + size))
        assert {cqe[1] for cqe in cqes} == {0}
        assert {len(cqe) for cqe in cqes} == {5 if "CQE32" in shape else 3}
        expected += size
    stats = ring.statistics()
    assert (stats.submitted, stats.reaped, stats.sq_pending, stats.cq_ready) == (expected, expected, 0, 0)


def test_blocks_pushed_over_the_wrap_then_every_completion_in_order(make):
    ring = make(8)
    expected = 0
    for size in (5, 8, 3, 7, 1, 8, 6):
        block = bytearray(64 * size)
        for i in range(size):
            ops.prep_nop(memoryview(block)[64 * i : 64 * i + 64], expected + i)
        assert ring.push(block) == size
        assert ring.submit_and_wait(size) == size
        assert user_data_of(ring.reap()) == list(range(expected, expected + size))
        expected += size


def test_push_that_does_not_fit_then_nothing_is_queued(make):
    ring = make(4)
    put_nop(ring, 1)
    with pytest.raises(SubmissionQueueFull, match="4 slots needed, 3 of 4 free"):
        ring.push(bytes(64 * 4))
    with pytest.raises(ValueError, match="whole number"):
        ring.push(bytes(65))
    ring.submit_and_wait(1)
    assert user_data_of(ring.reap()) == [1]


def test_full_queue_then_refused_and_nothing_lost(make):
    ring = make(4)
    for i in range(4):
        put_nop(ring, i)
    for _ in range(3):
        with pytest.raises(SubmissionQueueFull, match="submit"):
            ring.get_sqe()
    assert ring.submit() == 4
    put_nop(ring, 4)
    ring.submit_and_wait(5)
    assert user_data_of(ring.reap()) == [0, 1, 2, 3, 4]


def test_bad_sqe_in_the_middle_then_it_is_answered_and_the_rest_goes_on(make):
    ring = make(8)
    for i in range(5):
        put_nop(ring, i, BAD_OPCODE if i in (1, 3) else 0)
    assert ring.submit() == 5
    # 5.10 and 6.1 complete the bad ones first.
    results = {cqe[0]: cqe[1] for cqe in ring.reap()}
    assert results == {0: 0, 1: -errno.EINVAL, 2: 0, 3: -errno.EINVAL, 4: 0}


def test_bad_sqe_while_waiting_then_the_rest_goes_on(make):
    ring = make(8)
    for i in range(5):
        put_nop(ring, i, BAD_OPCODE if i == 2 else 0)
    assert ring.submit_and_wait(5) == 5
    assert sorted(user_data_of(ring.reap())) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("count", [9, 40])
def test_completion_queue_overflows_then_nothing_is_lost_and_order_is_kept(make, count):
    ring = make(2)
    if not ring.features & uapi.IORING_FEAT_NODROP:
        pytest.skip("IORING_FEAT_NODROP (Linux 5.5)")
    for i in range(count):
        put_nop(ring, i)
        ring.submit()
    found = []
    while len(found) < count:
        cqes = ring.reap()
        assert cqes
        found += user_data_of(cqes)
    assert found == list(range(count))
    assert ring.reap() == []
    assert ring.statistics().cq_overflow == 0


def test_nothing_to_reap_then_empty(make):
    ring = make()
    assert ring.reap() == []
    assert ring.submit() == 0
    assert ring.submit_and_wait(0) == 0


@pytest.mark.parametrize("timeout_ns", [0, -5, 1, 2 * MILLISECOND])
def test_wait_in_vain_then_returns_at_the_timeout_with_what_was_submitted(make, timeout_ns):
    ring = make()
    put_nop(ring, 7)
    assert ring.submit_and_wait(2, timeout_ns) == 1
    assert user_data_of(ring.reap()) == [7]
    assert ring.submit_and_wait(1, timeout_ns) == 0
    assert ring.reap() == []


def test_more_completions_wanted_than_fit_then_a_full_queue_is_enough(make):
    ring = make(2)
    if not ring.features & uapi.IORING_FEAT_NODROP:
        pytest.skip("IORING_FEAT_NODROP (Linux 5.5)")
    for i in range(4):
        put_nop(ring, i)
        ring.submit()
    ring.submit_and_wait(1000)
    assert user_data_of(ring.reap()) == [0, 1, 2, 3]


def test_discarded_then_never_submitted(make):
    ring = make(4)
    put_nop(ring, 1)
    ring.submit_and_wait(1)
    put_nop(ring, 2)
    put_nop(ring, 3)
    assert ring.discard() == [2, 3]
    put_nop(ring, 4)
    ring.sq.flush()
    put_nop(ring, 5)
    assert ring.discard() == [4, 5]
    put_nop(ring, 6)
    ring.submit_and_wait(1)
    assert user_data_of(ring.reap()) == [1, 6]


def test_need_enter_then_true_while_sqes_or_overflow_wait(make):
    ring = make(2)
    assert not ring.need_enter()
    put_nop(ring, 1)
    assert ring.need_enter()
    ring.submit()
    assert not ring.need_enter()
    ring.reap()


def test_closed_then_everything_says_so(make):
    ring = make()
    get_sqe = ring.get_sqe
    ring.close()
    ring.close()
    assert ring.closed
    assert ring.state == "closed"
    assert "closed" in repr(ring)
    calls = (
        ring.get_sqe, get_sqe, ring.submit, ring.submit_and_wait, ring.reap, ring.fileno, ring.statistics,
        ring.cq_ready, ring.need_enter, ring.discard, ring.bind_thread, ring.enable, ring.sqring_wait,
        lambda: ring.push(bytes(64)), lambda: ring.register(0), ring.sq.pending, ring.cq.ready, ring.sq.flags,
    )  # fmt: skip
    for call in calls:
        with pytest.raises(RingClosed):
            call()


def test_another_thread_then_everything_is_refused(make):
    ring = make()
    put_nop(ring, 1)
    calls = (
        ring.get_sqe, ring.submit, ring.submit_and_wait, ring.reap, ring.statistics, ring.cq_ready,
        ring.discard, ring.need_enter, ring.close, lambda: ring.push(bytes(64)), lambda: ring.register(0),
    )  # fmt: skip
    refused = []

    def use() -> None:
        for call in calls:
            try:
                call()
            except WrongThread as error:
                refused.append(str(error))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert len(refused) == len(calls)
    assert all("belongs to thread" in message for message in refused)
    ring.submit_and_wait(1)
    assert user_data_of(ring.reap()) == [1]


def test_bound_to_another_thread_then_it_works_there_and_no_longer_here(make):
    ring = make()
    found = []

    def use() -> None:
        ring.bind_thread()
        put_nop(ring, 5)
        ring.submit_and_wait(1)
        found.extend(ring.reap())

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert found == [(5, 0, 0)]
    with pytest.raises(WrongThread):
        ring.get_sqe()
    ring.close()  # the owner has ended, so anybody may


def test_owner_was_not_started_by_threading_then_it_counts_as_alive(make):
    """threading.enumerate() does not list it, so any thread could close its ring."""
    ring = make()  # here: a thread cannot skip the test, and we would wait for it for ever
    owned, end, ended = threading.Event(), threading.Event(), threading.Event()

    def own() -> None:
        ring.bind_thread()
        owned.set()
        end.wait()
        ring.close()
        ended.set()

    _thread.start_new_thread(own, ())
    owned.wait()
    try:
        with pytest.raises(WrongThread):
            ring.close()
    finally:
        end.set()
        ended.wait()


def test_ident_of_an_ended_owner_belongs_to_another_thread_then_anybody_may_close(make, monkeypatch):
    """That thread counted as the owner, and the ring could not be closed before it ended."""
    ring = make()
    with ThreadPoolExecutor(1) as executor:
        executor.submit(ring.bind_thread).result()
    gc.collect()  # for PyPy
    monkeypatch.setattr("rawuring.handle.thread_lives", lambda ident: True)  # a thread that has it now
    ring.close()


@pytest.mark.parametrize("flags", [0, uapi.IORING_SETUP_NO_SQARRAY])
def test_view_of_a_slot_kept_after_close_then_an_error_not_a_crash(make, flags):
    ring = make(4, flags)
    sqe = ring.get_sqe()
    ring.close()
    with pytest.raises(ValueError, match="released"):
        sqe[0] = 1


# -- the fake kernel only


def test_short_submits_then_the_rest_stays_queued_and_goes_next():
    with fake_ring(entries=8) as (kernel, ring):
        for i in range(8):
            put_nop(ring, i)
        kernel.at_most.extend([3, 0])
        assert ring.submit() == 3
        assert ring.statistics().sq_pending == 5
        assert ring.submit() == 5
        assert user_data_of(ring.reap()) == list(range(8))


def test_enter_fails_then_nothing_is_lost():
    with fake_ring(entries=8) as (kernel, ring):
        for i in range(4):
            put_nop(ring, i)
        for code in (errno.EAGAIN, errno.EBUSY, errno.ENXIO):
            kernel.failures.append(code)
            if code == errno.EBUSY:
                kernel.failures.append(0)
            with pytest.raises(OSError) as caught:
                ring.submit()
            assert caught.value.errno == code
            assert ring.statistics().sq_pending == 4
        assert ring.submit() == 4
        assert user_data_of(ring.reap()) == [0, 1, 2, 3]


def test_busy_with_completions_waiting_then_room_is_made_and_order_kept():
    with fake_ring(entries=4) as (kernel, ring):
        for i in range(4):
            put_nop(ring, i)
        ring.submit()
        for i in range(4, 7):
            put_nop(ring, i)
        kernel.failures.append(errno.EBUSY)
        assert ring.submit() == 3
        kernel.failures.append(errno.EBUSY)
        put_nop(ring, 7)
        assert ring.submit_and_wait(8) == 1
        assert ring.cq_ready() == 8
        assert user_data_of(ring.reap()) == list(range(8))


def test_late_completions_out_of_order_then_reaped_as_they_come():
    with fake_ring(entries=4) as (kernel, ring):
        kernel.slow_ops.add(uapi.IORING_OP_NOP)
        for i in range(4):
            put_nop(ring, i)
        ring.submit()
        assert ring.reap() == []
        for position, user_data in ((2, 2), (0, 0), (1, 3)):
            kernel.complete_late(position)
            assert user_data_of(ring.reap()) == [user_data]
        ring.submit_and_wait(1)
        assert user_data_of(ring.reap()) == [1]


@pytest.mark.parametrize("start", [0, 2**32 - 1, 2**32 - 2, 2**31 - 1])
def test_indices_that_wrap_at_32_bits_then_nobody_notices(start):
    with fake_ring(entries=4, sq_start=start, cq_start=start) as (_, ring):
        for i in range(20):
            for j in range(3):
                put_nop(ring, 3 * i + j)
            assert ring.submit_and_wait(3) == 3
            assert user_data_of(ring.reap()) == [3 * i, 3 * i + 1, 3 * i + 2]


@pytest.mark.unwatched("it damages the indices, and debug mode finds that first")
def test_damaged_indices_then_an_error_not_garbage():
    with fake_ring(entries=4) as (kernel, ring):
        kernel.store(kernel.cq_off["tail"], 1000)
        with pytest.raises(RuntimeError, match="damaged"):
            ring.reap()
        kernel.store(kernel.cq_off["tail"], 0)


def test_columns_when_the_kernel_answers_the_overflow_with_an_error_then_nothing_is_lost():
    with fake_ring(entries=2) as (kernel, ring):
        for i in range(6):  # the CQ holds 4
            put_nop(ring, i)
            ring.submit()
        kernel.failures.append(errno.EBADR)
        with pytest.raises(OSError, match="no memory"):
            ring.reap_columns()
        assert ring.reap_columns().user_data == list(range(6))


def test_wide_slot_in_a_mixed_ring_of_two_then_there_is_one_after_a_submit():
    with fake_ring(entries=2, flags=uapi.IORING_SETUP_SQE_MIXED) as (_, ring):
        put_nop(ring, 1)
        ring.submit()
        with pytest.raises(SubmissionQueueFull):
            ring.sq.get_sqe128()  # one slot is left before the wrap: it becomes a NOP
        ring.submit()
        assert len(ring.sq.get_sqe128()) == 128


def test_wide_slots_when_discarded_then_each_is_named_once():
    with fake_ring(entries=4, flags=uapi.IORING_SETUP_SQE_MIXED) as (_, ring):
        put_nop(ring, 1)
        ops.prep_nop128(ring.sq.get_sqe128(), 2)
        put_nop(ring, 3)
        assert ring.discard() == [1, 2, 3]


def test_wait_fails_after_something_was_consumed_then_the_statistics_know():
    with fake_ring(entries=4) as (kernel, ring):
        kernel.at_most.append(1)
        kernel.failures.extend([0, errno.EAGAIN])
        put_nop(ring, 1)
        put_nop(ring, 2)
        with pytest.raises(OSError, match="no memory"):
            ring.submit_and_wait(2)
        assert ring.statistics().submitted == 1
        assert ring.sq.pending() == 1
        ring.submit()
        assert ring.statistics().submitted == 2


def test_handler_raises_before_the_head_is_stored_then_the_next_reap_stores_it(monkeypatch):
    """The CQ would be full for the kernel and empty for us: overflowed CQEs would never arrive."""
    with fake_ring(entries=2) as (_, ring):
        for i in range(6):  # the CQ holds 4
            put_nop(ring, i)
            ring.submit()

        def interrupted(words, index, value):
            raise KeyboardInterrupt

        monkeypatch.setattr(queues, "store_release", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ring.reap()
        monkeypatch.undo()
        assert user_data_of(ring.reap()) == list(range(6))


@pytest.mark.skipif(not rings._HANDLERS_RUN_AFTER_CALLS, reason="exact from CPython 3.11 on")
def test_handler_raises_after_completions_were_handed_over_then_they_do_not_come_twice():
    class Interrupted(deque):
        def extend(self, cqes):
            super().extend(cqes)
            raise KeyboardInterrupt  # a handler runs when a call returns

    target = Interrupted()
    with fake_ring(entries=4) as (_, ring):
        put_nop(ring, 1)
        ring.submit()
        with pytest.raises(KeyboardInterrupt):
            ring.reap_into(target)
        with pytest.raises(KeyboardInterrupt):
            ring.reap_into(target)
    assert user_data_of(target) == [1]


def test_timeouts_without_ext_arg_then_a_timeout_sqe_that_nobody_sees():
    with fake_ring(entries=4, features=uapi.IORING_FEAT_SINGLE_MMAP) as (kernel, ring):
        kernel.slow_ops.add(uapi.IORING_OP_TIMEOUT)
        put_nop(ring, 1)
        assert ring.submit_and_wait(1, 10_000 * MILLISECOND) == 1
        assert user_data_of(ring.reap()) == [1]
        assert len(kernel.late) == 1  # the TIMEOUT, whose count the fake does not implement
        kernel.complete_late(0)
        assert ring.reap() == []
        assert ring._timeouts == []


@pytest.mark.parametrize(
    "vector",
    json.loads((Path(__file__).parent / "data" / "sq_vectors.json").read_text())["sq"],
    ids=lambda v: f"{v['helper']}-{v['setup_flags']:#x}-{v['khead']}-{v['sqe_tail']}",
)
def test_slots_are_those_that_liburing_takes(vector):
    kernel = FakeKernel(entries=vector["entries"], flags=vector["setup_flags"])
    kernel.store(kernel.sq_off["head"], vector["khead"])
    kernel.store(kernel.sq_off["tail"], vector["sqe_tail"])
    queue = rings.SubmissionQueue(kernel.ring, kernel.sqes, kernel.sq_off, vector["setup_flags"])
    take = queue.get_sqe128 if "128" in vector["helper"] else queue.get_sqe
    before = queue.sqe_tail
    if vector["returns_offset"] is None:
        with pytest.raises((SubmissionQueueFull, ValueError)):
            take()
        assert queue.sqe_tail == before
        return
    sqe = take()
    sqe[0] = 0x5A
    assert kernel.sqes.index(0x5A) == vector["returns_offset"]
    assert queue.sqe_tail & 0xFFFFFFFF == vector["sqe_tail_after"]
    if vector["helper"].endswith("128") and queue.sqe_size == 64:
        assert len(sqe) == 128
        if vector["sqe_tail"] & 3 == 3:  # the last slot is a filler
            filler = uapi.io_uring_sqe.unpack(kernel.sqes, 3 * 64)
            assert (filler["opcode"], filler["flags"]) == (uapi.IORING_OP_NOP, uapi.IOSQE_CQE_SKIP_SUCCESS)
    del sqe
    queue.release()


def test_mixed_completions_then_joined_and_fillers_left_out():
    flags = uapi.IORING_SETUP_CQE_MIXED
    with fake_ring(entries=4, flags=flags) as (kernel, ring):
        kernel.post(1, 10, 0)
        kernel.post(2, 20, uapi.IORING_CQE_F_32)
        kernel.post(0x1122334455667788, 0x0A0B0C0D, 0x01020304)  # the second half of the previous CQE
        kernel.post(0, 0, uapi.IORING_CQE_F_SKIP)
        kernel.post(3, 30, 0)
        words = struct.unpack("=QQ", struct.pack("=QiI", 0x1122334455667788, 0x0A0B0C0D, 0x01020304))
        assert ring.reap() == [(1, 10, 0), (2, 20, uapi.IORING_CQE_F_32, *words), (3, 30, 0)]


def test_rewind_queue_then_each_batch_starts_at_slot_0_and_leftovers_move_down():
    flags = uapi.IORING_SETUP_SQ_REWIND | uapi.IORING_SETUP_NO_SQARRAY
    kernel = FakeKernel(entries=4, flags=flags)
    queue = rings.RewindSubmissionQueue(kernel.ring, kernel.sqes, kernel.sq_off, flags)
    for i in range(3):
        ops.prep_nop(queue.get_sqe(), 10 + i)
    assert queue.flush() == 3
    queue.consumed(2)
    assert (queue.flush(), queue.space_left()) == (1, 3)
    assert uapi.io_uring_sqe.unpack(kernel.sqes)["user_data"] == 12
    queue.consumed(1)
    for _ in range(4):
        queue.get_sqe()
    with pytest.raises(SubmissionQueueFull):
        queue.get_sqe()
    assert kernel.load(kernel.sq_off["tail"]) == 0
    queue.release()


@pytest.mark.unwatched("it damages the index array, which debug mode finds")
def test_bad_index_in_the_array_then_dropped_is_counted():
    with fake_ring(entries=4) as (kernel, ring):
        kernel.store(kernel.sq_off["array"], 99)
        put_nop(ring, 1)
        put_nop(ring, 2)
        ring.submit()
        assert user_data_of(ring.reap()) == [2]
        assert ring.statistics().sq_dropped == 1


def test_the_fake_kernel_sees_an_sqe_that_was_not_written_whole():
    with fake_ring(entries=4) as (kernel, ring):
        ring.get_sqe()[:60] = bytes(60)
        with pytest.raises(AssertionError, match="not written whole"):
            ring.submit()
        assert kernel.sqes[60:64] == bytes([POISON] * 4)


# -- arguments


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"entries": 0}, "entries=0"),
        ({"entries": 32769}, "32768"),
        ({"entries": 8, "cq_entries": 4}, "less than entries"),
        ({"entries": 8, "cq_entries": 70000}, "65536"),
        ({"flags": uapi.IORING_SETUP_DEFER_TASKRUN}, "DEFER_TASKRUN needs IORING_SETUP_SINGLE_ISSUER"),
        ({"flags": uapi.IORING_SETUP_SQ_AFF}, "needs IORING_SETUP_SQPOLL"),
        ({"flags": uapi.IORING_SETUP_SQPOLL | uapi.IORING_SETUP_COOP_TASKRUN}, "excludes"),
        ({"flags": uapi.IORING_SETUP_CQE32 | uapi.IORING_SETUP_CQE_MIXED}, "excludes"),
    ],
)
def test_arguments_that_no_kernel_takes_then_refused_before_the_call(monkeypatch, arguments, words):
    monkeypatch.setattr(syscalls, "io_uring_setup", lambda *_: pytest.fail("the kernel was called"))
    with pytest.raises(ValueError, match=words):
        Ring(**arguments)


def fail_with(codes):
    """Make an io_uring_setup that fails with these errnos in turn, then with ENXIO; and its record."""
    calls = []

    def setup(entries: int, params: bytearray) -> int:
        calls.append((entries, uapi.io_uring_params.unpack(params)["flags"]))
        code = codes[len(calls) - 1] if len(calls) <= len(codes) else errno.ENXIO
        raise OSError(code, "no")

    return setup, calls


def test_wishes_not_granted_then_dropped_newest_first_with_those_that_need_them(monkeypatch):
    setup, calls = fail_with([errno.EINVAL] * 10)
    monkeypatch.setattr(syscalls, "io_uring_setup", setup)
    with pytest.raises(Unavailable):
        Ring(8, wish=rings.RECOMMENDED)
    tried = [uapi.names_of_flags("IORING_SETUP_", flags) for _, flags in calls]
    short = [[name[len("IORING_SETUP_") :] for name in names] for names in tried]
    assert short == [
        ["SUBMIT_ALL", "TASKRUN_FLAG", "SINGLE_ISSUER", "DEFER_TASKRUN", "NO_SQARRAY"],
        ["SUBMIT_ALL", "TASKRUN_FLAG", "SINGLE_ISSUER", "DEFER_TASKRUN"],
        ["SUBMIT_ALL", "SINGLE_ISSUER"],  # TASKRUN_FLAG needs DEFER_TASKRUN here
        ["SUBMIT_ALL"],
        [],
    ]


@pytest.mark.parametrize(
    ("flags", "wish", "granted", "dropped"),
    [
        ("SQPOLL", "RECOMMENDED", "SINGLE_ISSUER SUBMIT_ALL NO_SQARRAY SQPOLL", "DEFER_TASKRUN TASKRUN_FLAG"),
        ("", "SQPOLL COOP_TASKRUN TASKRUN_FLAG CLAMP", "SQPOLL CLAMP", "COOP_TASKRUN TASKRUN_FLAG"),
        ("", "SQE128 SQE_MIXED CLAMP", "SQE128 CLAMP", "SQE_MIXED"),
        ("CQE32", "CQE_MIXED SQ_REWIND", "CQE32", "CQE_MIXED SQ_REWIND"),
    ],
)
def test_wishes_that_no_kernel_takes_with_the_rest_then_only_they_are_dropped(
    monkeypatch, flags, wish, granted, dropped
):
    def mask(names):
        return sum(
            rings.RECOMMENDED if name == "RECOMMENDED" else getattr(uapi, f"IORING_SETUP_{name}")
            for name in names.split()
        )

    given = []

    def setup(entries, params):
        given.append(uapi.io_uring_params.unpack(params)["flags"])
        return 3

    monkeypatch.setattr(syscalls, "io_uring_setup", setup)
    monkeypatch.setattr(gates, "running", lambda: "7.0")  # SQPOLL is not requested on old kernels
    told = params.setup(4, mask(flags), mask(wish), {}, 4)[2]
    assert given == [mask(granted)]
    assert sorted(told) == sorted((f"IORING_SETUP_{name}", 0) for name in dropped.split())


def test_memory_short_then_tried_again_then_halved_down_to_the_least(monkeypatch):
    setup, calls = fail_with([errno.ENOMEM] * 50)
    monkeypatch.setattr(syscalls, "io_uring_setup", setup)
    slept = []
    monkeypatch.setattr(params.time, "sleep", slept.append)
    with pytest.raises(Unavailable) as caught:
        Ring(256, min_entries=32)
    assert [entries for entries, _ in calls] == [256] * 5 + [128, 64, 32]
    assert 0.04 < sum(slept) < 0.06
    assert caught.value.cause == "memlock"


@pytest.mark.parametrize("flags", [1 << 31, 1 << 31 | uapi.IORING_SETUP_CLAMP])
def test_unknown_required_flag_then_named(flags):
    try:
        Ring(2).close()
    except Unavailable as error:
        pytest.skip(f"io_uring (Linux 5.1): {error}")
    with pytest.raises(Unavailable, match="does not know 0x80000000") as caught:
        Ring(2, flags=flags)
    assert caught.value.cause == "flags"


# ------------------------------------------------------------------------------------------------------
# Invalid rings are rejected


def words_of(kernel):
    """Yield (name, offset) for each word of a ring."""
    for ring, offsets in (("sq", kernel.sq_off), ("cq", kernel.cq_off)):
        for name, offset in offsets.items():
            yield f"{ring}_off.{name}", offset


OFFSETS = [name for name, _ in words_of(FakeKernel())]


def refused(monkeypatch, spoil, flags=0):
    """Make a ring on a kernel that spoil() has altered; return the text of the RuntimeError."""
    good = FakeKernel.setup

    def setup(kernel, entries, params):
        spoil(kernel)
        return good(kernel, entries, params)

    monkeypatch.setattr(FakeKernel, "setup", setup)
    with pytest.raises(RuntimeError) as caught, fake_ring(entries=8, flags=flags):
        pass
    return str(caught.value)


@pytest.mark.parametrize("what", ["odd", "outside", "far outside", "just outside", "its neighbour's"])
@pytest.mark.parametrize("name", OFFSETS)
def test_offset_that_is_wrong_then_the_ring_is_refused_and_the_offset_named(monkeypatch, name, what):
    ring, _, word = name.partition("_off.")

    def spoil(kernel):
        offsets = kernel.sq_off if ring == "sq" else kernel.cq_off
        offsets[word] = {
            "odd": offsets[word] + 2,
            "outside": len(kernel.ring),
            "far outside": 0xFFFFFFFC,
            "just outside": len(kernel.ring) - 2,
            "its neighbour's": next(at for each, at in words_of(kernel) if each != name),
        }[what]

    message = refused(monkeypatch, spoil)
    other = next(each for each in OFFSETS if each != name)
    assert name in message or (what == "its neighbour's" and other in message), message


@pytest.mark.parametrize("value", [0, 1, 3, 7, 16, 0xFFFFFFFF])
@pytest.mark.parametrize("word", ["ring_mask", "ring_entries"])
@pytest.mark.parametrize("ring", ["sq", "cq"])
def test_mask_or_size_that_is_wrong_then_refused_and_the_word_named(monkeypatch, ring, word, value):
    def spoil(kernel):
        offsets = kernel.sq_off if ring == "sq" else kernel.cq_off
        right = kernel.load(offsets[word])
        kernel.store(offsets[word], value if value != right else right + 1)

    assert f"{ring}.{word} is " in refused(monkeypatch, spoil)


@pytest.mark.parametrize("ring", ["sq", "cq"])
def test_sizes_that_are_no_powers_of_two_then_refused(monkeypatch, ring):
    def spoil(kernel):
        setattr(kernel, f"{ring}_entries", 6)
        offsets = kernel.sq_off if ring == "sq" else kernel.cq_off
        kernel.store(offsets["ring_entries"], 6)
        kernel.store(offsets["ring_mask"], 5)

    assert refused(monkeypatch, spoil) == f"{ring}.ring_entries is 6, which is not a power of two"


@pytest.mark.parametrize(("head", "tail"), [(1, 0), (0, 17), (5, 4), (0, 0x80000000), (0xFFFFFFFF, 16)])
@pytest.mark.parametrize("ring", ["sq", "cq"])
def test_indices_further_apart_than_the_ring_is_long_then_refused(monkeypatch, ring, head, tail):
    def spoil(kernel):
        offsets = kernel.sq_off if ring == "sq" else kernel.cq_off
        kernel.store(offsets["head"], head)
        kernel.store(offsets["tail"], tail)

    assert f"{ring}.head is {head} and {ring}.tail is {tail}" in refused(monkeypatch, spoil)


@pytest.mark.parametrize("flags", [0, uapi.IORING_SETUP_SQE128, uapi.IORING_SETUP_NO_SQARRAY])
def test_mapping_that_is_too_short_then_refused(monkeypatch, flags):
    assert "the place of the SQEs" in refused(monkeypatch, lambda kernel: kernel.sqes.pop(), flags)
    part = "cq_off.cqes" if flags & uapi.IORING_SETUP_NO_SQARRAY else "sq_off.array"

    def cut(kernel):
        del kernel.ring[kernel.cq_off["cqes"] + kernel.cq_entries * 16 + 4 * kernel.sq_entries - 1 :]
        if flags & uapi.IORING_SETUP_NO_SQARRAY:
            del kernel.ring[kernel.cq_off["cqes"] + kernel.cq_entries * 16 - 1 :]

    assert part in refused(monkeypatch, cut, flags)


def test_what_is_right_then_taken_wherever_it_stands(monkeypatch):
    with fake_ring(entries=1, cq_entries=1, sq_start=0xFFFFFFFF, cq_start=0xFFFFFFFF) as (_, ring):
        ops.prep_nop(ring.get_sqe(), 1)
        assert ring.submit_and_reap(1) == [(1, 0, 0)]


# ------------------------------------------------------------------------------------------------------
# A ring of another kernel


def test_two_fake_rings_at_once_then_each_has_its_own_kernel():
    with fake_ring(entries=2) as (one, first), fake_ring(entries=8) as (two, second):
        for number, ring in ((1, first), (2, second)):
            ops.prep_nop(ring.get_sqe(), number)
            assert ring.submit_and_reap(1) == [(number, 0, 0)]
        assert (one.enters, two.enters) == (1, 1)


@pytest.mark.requires_io_uring
def test_real_ring_beside_a_fake_one_then_each_enters_its_own_kernel():
    with Ring(2) as real, fake_ring(entries=2) as (kernel, fake), Ring(2) as later:
        for number, ring in enumerate((real, fake, later)):
            ops.prep_nop(ring.get_sqe(), number)
            assert ring.submit_and_wait(1) == 1
            assert ring.reap() == [(number, 0, 0)]
        assert kernel.enters == 1


@pytest.mark.parametrize("call", ["submit", "submit_and_wait", "submit_and_reap"])
def test_handler_raises_oserror_when_sqes_were_consumed_then_it_comes_out(call):
    class Interrupting(FakeKernel):
        def enter(self, *arguments):
            super().enter(*arguments)
            raise OSError(errno.EIO, "a handler's")

    with FakeRing(Interrupting(entries=4)) as ring:
        ops.prep_nop(ring.get_sqe(), 1)
        with pytest.raises(OSError, match="a handler's"):
            getattr(ring, call)()
        assert ring.reap() == [(1, 0, 0)]


AT_EXIT = """
import weakref
more = []
class Live(weakref.WeakSet):
    def __iter__(self):
        for each in super().__iter__():
            if more:
                kept.append(more.pop()())  # as another thread may at this moment
            yield each
weakref.WeakSet = Live
from rawuring import fakekernel
def make():
    ring = fakekernel.FakeRing(fakekernel.FakeKernel(entries=2))
    ring.before_close.append(lambda ring, explicit: print("closed"))
    return ring
kept = [make()]
more.append(make)
"""


def test_exit_while_another_thread_makes_a_ring_then_the_others_are_closed():
    """None was closed: "Set changed size during iteration"."""
    program = [sys.executable, "-c", AT_EXIT]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert "closed" in done.stdout.split() and done.stderr == ""
