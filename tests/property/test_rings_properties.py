# SPDX-License-Identifier: MIT
"""Whatever is done to a ring, every request completes exactly once: a state machine over the fake kernel."""

from __future__ import annotations

from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rawuring import ops, uapi
from rawuring.fakekernel import fake_ring
from rawuring.rings import SubmissionQueueFull

STARTS = st.one_of(st.sampled_from([0, 2**32 - 1, 2**31 - 1, 2**32 - 5]), st.integers(0, 2**32 - 1))
FLAGS = st.sampled_from(
    [
        0,
        uapi.IORING_SETUP_NO_SQARRAY,
        uapi.IORING_SETUP_CQE32,
        uapi.IORING_SETUP_SQE128,
        uapi.IORING_SETUP_SUBMIT_ALL,
        uapi.IORING_SETUP_NO_SQARRAY | uapi.IORING_SETUP_SQE128 | uapi.IORING_SETUP_CQE32,
    ]
)


class RingMachine(RuleBasedStateMachine):
    """Drive a Ring and compare it with a model: a list and two counters."""

    @initialize(
        entries=st.sampled_from([1, 2, 4, 8, 64]), flags=FLAGS, sq_start=STARTS, cq_start=STARTS,
        extra=st.sampled_from([1, 2]),
    )  # fmt: skip
    def begin(self, entries: int, flags: int, sq_start: int, cq_start: int, extra: int) -> None:
        self.context = fake_ring(
            entries=entries, cq_entries=entries * extra, flags=flags, sq_start=sq_start, cq_start=cq_start
        )
        self.kernel, self.ring = self.context.__enter__()
        self.next = 1
        self.queued: list[int] = []
        self.submitted: set[int] = set()
        self.reaped: list[int] = []

    def teardown(self) -> None:
        if hasattr(self, "context"):
            self.kernel.failures.clear()
            self.kernel.at_most.clear()
            self.submit()
            while self.kernel.late:
                self.complete(0)
            self.reap()
            assert self.ring.cq_ready() == 0
            assert sorted(self.reaped) == list(range(1, self.next))
            self.context.__exit__(None, None, None)

    @rule(bad=st.booleans(), slow=st.booleans())
    def put(self, bad: bool, slow: bool) -> None:
        try:
            sqe = self.ring.get_sqe()
        except SubmissionQueueFull:
            assert len(self.queued) == self.ring.sq.ring_entries
            return
        sqe[64:] = bytes(len(sqe) - 64)
        opcode = 250 if bad else uapi.IORING_OP_READ if slow else uapi.IORING_OP_NOP
        ops.prep_rw(sqe, opcode, -1, 0, 0, 0, self.next)
        self.queued.append(self.next)
        self.next += 1

    @rule(count=st.integers(0, 9))
    def push(self, count: int) -> None:
        size = self.ring.sq.sqe_size
        block = bytearray(size * count)
        for i in range(count):
            ops.prep_nop(memoryview(block)[size * i : size * i + size], self.next + i)
        try:
            self.ring.push(block)
        except SubmissionQueueFull:
            assert len(self.queued) + count > self.ring.sq.ring_entries
            return
        self.queued += range(self.next, self.next + count)
        self.next += count

    @rule()
    def submit(self) -> None:
        before = self.ring.sq.pending()
        assert before == len(self.queued)
        count = self.ring.submit()
        self.submitted.update(self.queued[:count])
        del self.queued[:count]
        assert self.ring.sq.pending() == len(self.queued) == before - count

    @rule(limit=st.integers(0, 3))
    def limit_the_next_submit(self, limit: int) -> None:
        self.kernel.slow_ops.add(uapi.IORING_OP_READ)
        self.kernel.at_most.append(limit)

    @precondition(lambda self: self.kernel.late)
    @rule(position=st.integers(0, 100))
    def complete(self, position: int) -> None:
        self.kernel.complete_late(position % len(self.kernel.late))

    @rule()
    def reap(self) -> None:
        self.reaped += [cqe[0] for cqe in self.ring.reap()]
        assert not self.kernel.overflowed

    @rule(wanted=st.integers(0, 4))
    def submit_and_wait(self, wanted: int) -> None:
        reachable = (
            len(self.queued) + len(self.kernel.late) + self.ring.cq_ready() + len(self.kernel.overflowed)
        )
        count = self.ring.submit_and_wait(min(wanted, reachable), 10**12)
        self.submitted.update(self.queued[:count])
        del self.queued[:count]

    @rule()
    def discard(self) -> None:
        forgotten = self.ring.discard()
        assert forgotten == self.queued
        self.reaped += forgotten  # they never complete, and are accounted for
        self.queued.clear()

    @invariant()
    def nothing_invented(self) -> None:
        if hasattr(self, "ring"):
            assert len(set(self.reaped)) == len(self.reaped)
            assert set(self.reaped) <= set(range(1, self.next))
            assert self.ring.sq.pending() == len(self.queued)
            assert self.ring.sq.space_left() + len(self.queued) == self.ring.sq.ring_entries


RingMachine.TestCase.settings = settings(deadline=None, max_examples=60, stateful_step_count=40)
TestRing = RingMachine.TestCase


@given(start=STARTS, count=st.integers(1, 50), entries=st.sampled_from([1, 2, 8]))
def test_overflow_from_any_index_then_order_is_kept(start, count, entries):
    with fake_ring(entries=entries, cq_entries=entries, sq_start=start, cq_start=start) as (_, ring):
        for i in range(count):
            ops.prep_nop(ring.get_sqe(), i)
            ring.submit()
        assert [cqe[0] for cqe in ring.reap()] == list(range(count))
        assert ring.reap() == []
