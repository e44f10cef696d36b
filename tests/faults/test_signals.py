# SPDX-License-Identifier: MIT
"""Signal handlers that raise at any moment, and real signals: lossless calls stay lossless."""

from __future__ import annotations

import sys
from collections import deque

import pytest
from harness import PYPY, figures, strike, strike_anywhere
from strikes import Leave, Strikes

from rawuring import inflight, ops, rings, uapi
from rawuring.fakekernel import fake_ring

needs_ring = pytest.mark.requires_io_uring
needs_few_moments = pytest.mark.skipif(
    PYPY or sys.version_info < (3, 11), reason="signal handlers that run after calls only (CPython 3.11)"
)
unwatched = pytest.mark.unwatched("debug mode makes additional calls")


def completed(ring, table, count=4):
    """Complete requests of a table; return the list that their handlers fill."""
    calls: list[list[int]] = [[] for _ in range(count)]
    for call in calls:
        # In C, so that a strike after the call is one after the handler.
        table.start(ops.prep_nop, handler=call.insert)
    ring.submit()
    return calls


def answer(table):
    table.reap()
    table.dispatch()


@needs_few_moments
@unwatched
@pytest.mark.parametrize("how", ["reap, dispatch", "submit_and_dispatch", "submit_and_dispatch of one"])
def test_table_reaps_and_a_signal_handler_raises_at_any_moment_then_each_handler_is_called_once(how):
    struck, at = [0], 0
    while struck:
        with fake_ring(entries=8) as (_, ring):
            table = inflight.InFlight(ring)
            calls = completed(ring, table, 1 if "one" in how else 4)
            with strike(at) as struck:
                if how == "reap, dispatch":
                    answer(table)
                else:
                    table.submit_and_dispatch(0)
            answer(table)
            assert {len(call) for call in calls} == {1}, struck
            assert (len(table), table.unknown) == (0, 0)
        at += 1
        figures["signals"] += 1
    assert at > 8


@needs_few_moments
@unwatched
@pytest.mark.parametrize("nested", [False, True], ids=["raises", "dispatches"])
@pytest.mark.parametrize("mixed", [False, True], ids=["alone", "among others"])
def test_signal_handler_strikes_at_any_moment_of_a_block_then_each_completion_is_handled_once(mixed, nested):
    struck, at = [0], 0
    while struck:
        with fake_ring(entries=16) as (_, ring):
            table, ended, calls = inflight.InFlight(ring), [], [[]]
            if mixed:
                calls = completed(ring, table, 3)
            block = ops.Block(3, ops.prep_nop)
            table.start_block(block, handler=lambda *columns, ended=ended: ended.extend(columns[0]))
            ring.submit()
            handler = (lambda table=table: answer(table)) if nested else None
            with strike(at, handler, ("inflight.py",) if nested else ()) as struck:
                answer(table)
            answer(table)
            assert sorted(ended) == [0, 1, 2], struck
            assert not mixed or [len(call) for call in calls] == [1] * 3, struck
            assert (len(table), table.unknown, table.has_work()) == (0, 0, False), struck
        at += 1
        figures["signals"] += 1
    assert at > 10


@pytest.mark.skipif(PYPY, reason="tracing of single instructions (CPython)")
@unwatched
def test_signal_handler_raises_between_any_instructions_of_a_block_then_nothing_is_forgotten(monkeypatch):
    """As CPython before 3.11 and PyPy run handlers."""
    for module in (rings, inflight):
        monkeypatch.setattr(module, "_HANDLERS_RUN_AFTER_CALLS", False)
    struck, at = [0], 0
    while struck:
        with fake_ring(entries=8) as (_, ring):
            table, ended = inflight.InFlight(ring), []
            block = ops.Block(3, ops.prep_nop)
            table.start_block(block, handler=lambda *columns, ended=ended: ended.extend(columns[0]))
            ring.submit()
            with strike_anywhere(at) as struck:
                answer(table)
            answer(table)
            assert (set(ended), len(table)) == ({0, 1, 2}, 0), struck
        at += 7
        figures["signals"] += 1
    assert at > 100


@needs_few_moments
@unwatched
@pytest.mark.parametrize("how", ["reap, dispatch", "submit_and_dispatch"])
def test_signal_handler_uses_the_table_at_any_moment_then_all_is_done_once(how):
    """It starts a request, reaps and dispatches during a call, for which the queues are not made."""
    struck, at = [0], 0
    while struck:
        with fake_ring(entries=16) as (_, ring):
            table, nested = inflight.InFlight(ring), []
            calls = completed(ring, table, 3)

            def handler(table=table, ring=ring, nested=nested):
                table.start(ops.prep_nop, handler=nested.insert)
                answer(table)

            with strike(at, handler, ("inflight.py", "ops.py")) as struck:
                table.start(ops.prep_nop, handler=calls[0].insert)
                ring.submit()
                answer(table) if how == "reap, dispatch" else table.submit_and_dispatch(0)
            ring.submit()
            answer(table)
            assert [len(call) for call in (*calls, nested)] == [2, 1, 1, bool(struck)], struck
            assert (len(table), table.unknown) == (0, 0), struck
        at += 1
        figures["signals"] += 1
    assert at > 10


@pytest.mark.long
@pytest.mark.skipif(PYPY, reason="tracing of single instructions (CPython)")
@unwatched
def test_table_reaps_and_a_signal_handler_raises_between_any_instructions_then_no_handler_is_forgotten(
    monkeypatch,
):
    """As CPython before 3.11 and PyPy run handlers."""
    for module in (rings, inflight):
        monkeypatch.setattr(module, "_HANDLERS_RUN_AFTER_CALLS", False)
    struck, at = [0], 0
    while struck:
        with fake_ring(entries=8) as (_, ring):
            table = inflight.InFlight(ring)
            calls = completed(ring, table)
            table.ready.append((calls[0].insert, 0, 0))  # as the monitor does
            with strike_anywhere(at) as struck:
                answer(table)
            answer(table)
            assert len(calls[0]) in (2, 3) and {len(call) for call in calls[1:]} <= {1, 2}, struck
            assert len(table) == 0
        at += 1
        figures["signals"] += 1
    assert at > 100


def test_handler_raises_and_dispatches_where_each_runs_in_one_step_then_as_everywhere(monkeypatch):
    """As before CPython 3.11 and on PyPy: StopIteration is a handler's own, and nested calls continue."""
    monkeypatch.setattr(inflight, "_HANDLERS_RUN_AFTER_CALLS", False)
    with fake_ring(entries=8) as (_, ring):
        table, ran = inflight.InFlight(ring), []

        def stops(res, flags):
            ran.append("stops")
            raise StopIteration

        def nests(res, flags):
            ran.append(table.dispatch())

        for handler in (stops, nests, lambda res, flags: ran.append("last")):
            table.start(ops.prep_nop, handler=handler)
        ring.submit()
        table.reap()
        with pytest.raises(StopIteration):
            table.dispatch()
        assert table.dispatch() == 1
        assert ran == ["stops", "last", 1]
        assert table.dispatch() == 0


@needs_few_moments
@unwatched
@pytest.mark.parametrize("overflown", [False, True], ids=["in the ring", "with some that were taken out"])
@pytest.mark.parametrize("method", ["reap", "reap_columns", "submit_and_reap", "cq.reap", "reap_into"])
def test_signal_handler_raises_at_any_moment_of_reaping_then_what_is_not_returned_comes_next(
    method, overflown
):
    """A completion that is bound to a name at once is seen once; len() is a call like any other."""
    struck, at = [0], 0
    while struck:
        with fake_ring(entries=4, cq_entries=8) as (_, ring):
            for i in range(6):
                ops.prep_nop(ring.get_sqe(), i + 1)
                ring.submit()
                if overflown and i == 2:
                    ring.cq.fetch()
            into: deque = deque()
            call = {
                "reap": ring.reap, "reap_columns": ring.reap_columns, "cq.reap": ring.cq.reap,
                "submit_and_reap": lambda ring=ring: ring.submit_and_reap(0),
                "reap_into": lambda ring=ring, into=into: ring.reap_into(into),
            }[method]  # fmt: skip
            found = None
            with strike(at) as struck:
                found = call()
            later = ring.reap() if method == "reap_columns" and at % 2 else call()
            seen = [cqe[0] for cqe in (*(found or ()), *(later or ()), *into)]
            assert seen == [1, 2, 3, 4, 5, 6], struck
            if method != "reap_into":
                columns = method == "reap_columns"
                assert type(later) is (rings.Columns if columns and not at % 2 else list)
            if method != "cq.reap":
                assert ring.statistics().reaped == 6, struck
        at += 1
        figures["signals"] += 1
    assert at > 3


@needs_ring
@pytest.mark.parametrize("kind", ["nop", "poll"])
def test_signals_arrive_all_the_time_and_their_handler_raises_then_the_table_loses_nothing(kind):
    """Real signals: each handler runs exactly once on CPython 3.11 and newer, elsewhere at least once."""
    exactly = not PYPY and sys.version_info >= (3, 11)
    with rings.Ring(32) as ring, Strikes() as strikes:
        table = inflight.InFlight(ring)
        for turn in range(400):
            calls: list[list[int]] = [[] for _ in range(16)]
            for call in calls:
                if kind == "nop":
                    table.start(ops.prep_nop, handler=call.insert)
                else:
                    table.start(ops.prep_poll_add, 1 << 20, 1, handler=call.insert)  # -EBADF
            ring.submit()
            try:
                strikes.arm((1 + turn % 50) * 1e-6)
                while strikes.armed and not (len(table) == 0 and all(calls)):
                    answer(table)
                strikes.disarm()
            except Leave:
                figures["signals"] += 1
            answer(table)
            counts = {len(call) for call in calls}
            assert counts == {1} if exactly else counts <= {1, 2}, (turn, counts)
            assert len(table) == 0
            figures["operations"] += 16


@needs_few_moments
@unwatched
def test_signal_handler_raises_at_any_moment_of_a_multishot_completion_then_the_last_one_ends_it():
    struck, at = [0], 0
    while struck:
        with fake_ring(entries=8) as (_, ring):
            table = inflight.InFlight(ring)
            call: list[int] = []
            token = table.hold(call.insert)
            table._todo.extend([(token, 1, uapi.IORING_CQE_F_MORE), (token, 2, 0)])
            with strike(at) as struck:
                table.dispatch()
            table.dispatch()
            assert (len(call), len(table), table.unknown) == (2, 0, 0), struck
        at += 1
    assert at > 3


@pytest.mark.skipif(PYPY, reason="the instructions of PyPy's compiled loops are not traced")
@unwatched
def test_signal_handler_raises_anywhere_in_start_then_the_request_is_held_and_queued_or_neither():
    struck, at = [0], 0
    while struck:
        with fake_ring(entries=8) as (_, ring):
            table = inflight.InFlight(ring)
            with strike_anywhere(at) as struck:
                table.start(ops.prep_nop, handler=print)
            if struck and sys.version_info >= (3, 11):
                # Not every instruction is such a moment: a queued request must be held.
                assert len(table) >= ring.sq.pending()
            else:
                assert len(table) == ring.sq.pending(), struck
            ring.discard()
            table.entries.clear()
        at += 1
    assert at > 10
