# SPDX-License-Identifier: MIT
"""The table of requests in flight: the lifetime of memory, and the end of the table."""

from __future__ import annotations

import errno
import functools
import gc
import os
import subprocess
import sys
import threading
import warnings
import weakref
from pathlib import Path

import pytest

from rawuring import buffers, fdmon, inflight, ops, rings, uapi
from rawuring.fakekernel import fake_ring
from rawuring.inflight import InFlight
from rawuring.rings import Ring
from rawuring.syscalls import Unavailable

MILLISECOND = 1_000_000
PYPY = sys.implementation.name == "pypy"


@pytest.fixture(params=[0, rings.RECOMMENDED], ids=["plain", "recommended"])
def ring(request):
    try:
        ring = Ring(8, wish=request.param)
    except Unavailable as error:
        pytest.skip(f"io_uring (Linux 5.1): {error}")
    yield ring
    ring.close()


class Memory:
    """Memory that supports weak references."""


def start_poll(ring: Ring, table: InFlight, fd: int, handler=None, *keepalive):
    token = table.hold(handler, *keepalive)
    ops.prep_poll_add(ring.get_sqe(), fd, 1, token)
    ring.submit()
    return token


def test_tokens_are_never_used_twice(ring):
    a, b = InFlight(ring), InFlight(ring)
    tokens = [table.hold(None) for table in (a, b, a, b)]
    assert len(set(tokens)) == 4
    assert 0 not in tokens
    a.entries.clear()
    b.entries.clear()


def test_complete_then_entry_gone_and_handler_called_once(ring):
    table = InFlight(ring)
    got = []
    token = table.hold(lambda res, flags: got.append((res, flags)))
    ops.prep_nop(ring.get_sqe(), token)
    ring.submit_and_wait(1)
    assert len(table) == 1
    assert table.dispatch(ring.reap()) == 1
    assert (got, len(table), token in table) == ([(0, 0)], 0, False)


def test_memory_lives_until_the_final_cqe_and_no_longer(ring):
    table = InFlight(ring)
    memory = Memory()
    watch = weakref.ref(memory)
    token = table.hold(None, memory)
    del memory
    more = uapi.IORING_CQE_F_MORE
    for _ in range(3):
        assert table.complete(token, 0, more)
        gc.collect()
        assert watch() is not None
    assert table.complete(token, 0, uapi.IORING_CQE_F_NOTIF)
    gc.collect()
    assert watch() is None
    assert not table.complete(token, 0, 0)
    assert table.unknown == 1


def test_handler_that_raises_then_the_others_run_at_the_next_dispatch(ring):
    table = InFlight(ring)
    got = []

    def broken(res: int, flags: int) -> None:
        raise KeyError("handler")

    for handler in (got.append, broken, got.append):
        wrapped = handler if handler is broken else (lambda res, flags: got.append(res))
        ops.prep_nop(ring.get_sqe(), table.hold(wrapped))
    ring.submit_and_wait(3)
    with pytest.raises(KeyError, match="handler"):
        table.dispatch(ring.reap())
    assert (len(table), table.has_work()) == (0, True)
    table.dispatch()
    assert got == [0, 0]


@pytest.mark.parametrize("how", ["all at once", "with each of them"])
def test_handlers_that_dispatch_then_each_completion_is_handled_once_and_in_order(ring, how):
    table, got = InFlight(ring), []

    def handler(number: int) -> None:
        got.append((number, table.dispatch() if how == "with each of them" or number == 1 else None))

    for number in range(4):
        table.start(ops.prep_nop, handler=lambda res, flags, number=number: handler(number))
    ring.submit_and_wait(4)
    table.reap()
    assert table.has_work()
    table.dispatch()
    if how == "all at once":
        assert got == [(0, None), (2, None), (3, None), (1, 2)]
    else:
        assert got == [(3, 0), (2, 1), (1, 1), (0, 1)]
    assert (len(table), table.has_work(), table.unknown) == (0, False, 0)


def test_handler_looks_at_the_table_then_what_was_reaped_with_its_own_has_ended(ring):
    table, got = InFlight(ring), []
    tokens = [table.start(ops.prep_nop, handler=lambda *cqe: got.append(len(table))) for _ in range(2)]
    ring.submit_and_wait(2)
    table.reap()
    assert table.dispatch() == 2
    assert got == [0, 0]
    assert tokens[1] not in table


def test_handler_closes_the_table_then_what_was_reaped_with_its_own_is_handled(ring):
    table, got = InFlight(ring), []

    def first(res: int, flags: int) -> None:
        table.close()
        got.append("first")

    for handler in (first, lambda *cqe: got.append("second")):
        table.start(ops.prep_nop, handler=handler)
    ring.submit_and_wait(2)
    table.reap()
    table.dispatch()
    assert (got, len(table)) == (["second", "first"], 0)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_submit_and_dispatch_then_sent_waited_for_and_handled(ring, count):
    table, got = InFlight(ring), []
    for number in range(count):
        table.start(ops.prep_nop, handler=lambda res, flags, number=number: got.append(number))
    assert table.submit_and_dispatch(count) == count
    assert got == list(range(count))
    assert table.submit_and_dispatch(1, MILLISECOND) == 0
    assert (len(table), table.unknown) == (0, 0)


def test_submit_and_dispatch_when_older_completions_wait_then_they_come_first(ring):
    table, got = InFlight(ring), []

    def broken(res: int, flags: int) -> None:
        got.append("broken")
        raise KeyError

    for handler in (broken, lambda *cqe: got.append("second")):
        table.start(ops.prep_nop, handler=handler)
    with pytest.raises(KeyError):
        table.submit_and_dispatch(2)
    table.answer(lambda *cqe: got.append("answer"), 0)
    table.start(ops.prep_nop, handler=lambda *cqe: got.append("third"))
    assert table.submit_and_dispatch(1) == 3
    assert (got[0], sorted(got[1:3]), got[3:]) == ("broken", ["answer", "second"], ["third"])
    assert len(table) == 0


def test_handler_that_submits_and_closes_then_nothing_breaks(ring):
    table = InFlight(ring)
    got = []

    def second(res: int, flags: int) -> None:
        got.append("second")
        ring.close()

    def first(res: int, flags: int) -> None:
        got.append("first")
        ops.prep_nop(ring.get_sqe(), table.hold(second))

    ops.prep_nop(ring.get_sqe(), table.hold(first))
    for _ in range(2):
        ring.submit_and_wait(1)
        table.dispatch(ring.reap())
    assert got == ["first", "second"]
    assert ring.closed


def test_cancel_then_the_cqe_says_so(ring, pair):
    table = InFlight(ring)
    got = []
    token = start_poll(ring, table, pair[0].fileno(), lambda res, flags: got.append(res))
    table.cancel(token)
    while not got:
        ring.submit_and_wait(1)
        table.dispatch(ring.reap())
    assert got == [-errno.ECANCELED]


def test_close_then_everything_in_flight_ends_and_its_handler_runs(ring, pair):
    table = InFlight(ring)
    got = []
    memory = Memory()
    watch = weakref.ref(memory)
    for _ in range(20):
        start_poll(ring, table, pair[0].fileno(), lambda res, flags: got.append(res), memory)
    del memory
    ring.close()
    assert got == [-errno.ECANCELED] * 20
    assert len(table) == 0
    gc.collect()
    assert watch() is None


def test_close_when_an_sqe_was_never_submitted_then_it_is_dropped(ring, pair):
    table = InFlight(ring)
    got = []
    token = table.hold(lambda res, flags: got.append(res))
    ops.prep_write(ring.get_sqe(), pair[0].fileno(), 0, 0, 0, token)
    ring.close()
    assert got == []
    assert len(table) == 0


def test_read_that_waits_when_the_ring_is_closed_then_memory_is_not_written_later(ring, blocking_pair):
    """The kernel must have released the buffer when close() returns."""
    if not ring.features & uapi.IORING_FEAT_RW_CUR_POS:
        pytest.skip("IORING_OP_READ (Linux 5.6)")
    table = InFlight(ring)
    memory = buffers.allocate(4096)
    target = buffers.pin(memory, writable=True)
    token = table.hold(None, target)
    ops.prep_read(ring.get_sqe(), blocking_pair[0].fileno(), target.address, 4096, 0, token)
    ring.submit()
    ring.close()
    blocking_pair[1].send(b"late")
    assert blocking_pair[0].recv(100) == b"late"
    assert memory[:] == bytes(4096)


@pytest.mark.parametrize("how", ["table first", "ring first", "cycle"])
def test_forgotten_table_then_requests_are_ended_before_their_memory_goes(ring, pair, how):
    owner = Ring(8, wish=ring.flags)
    table = InFlight(owner)
    memory = Memory()
    ended = []

    # Recorded when the memory is freed: by then completions must have emptied the table.
    weakref.finalize(memory, lambda: ended.append(state()))
    before = len(inflight._kept)

    def state() -> int:
        return len(inflight._kept) - before

    start_poll(owner, table, pair[0].fileno(), None, memory)
    del memory
    if how == "cycle":
        table.myself = table
        table.ring_again = owner
    box = [owner, table] if how == "ring first" else [table, owner]
    del owner, table

    def forget() -> None:
        while box:
            del box[0]
        for _ in range(3):
            gc.collect()

    with pytest.warns(ResourceWarning, match="unclosed"):
        forget()
    assert ended == [0]
    pair[0].close()
    pair[1].settimeout(5)
    assert pair[1].recv(1) == b""


def test_table_that_cannot_be_drained_then_memory_is_kept_with_a_warning(ring, pair, monkeypatch):
    kept: list = []
    monkeypatch.setattr(inflight, "_kept", kept)
    monkeypatch.setattr(inflight, "_immortalize", lambda memory: None)
    monkeypatch.setattr(ops, "prep_cancel64", None)
    monkeypatch.setattr(inflight, "prep_cancel64", lambda sqe, *_: ops.prep_nop(sqe))
    table = InFlight(ring)
    memory = Memory()
    watch = weakref.ref(memory)
    start_poll(ring, table, pair[0].fileno(), None, memory)
    del memory
    with pytest.warns(ResourceWarning, match="1 requests could not be ended"):
        table.close(5 * MILLISECOND)
    gc.collect()
    assert watch() is not None
    assert len(table) == 0
    assert len(kept) == 1


def test_ring_forgotten_in_another_thread_then_memory_is_kept(ring, pair, monkeypatch):
    kept: list = []
    monkeypatch.setattr(inflight, "_kept", kept)
    monkeypatch.setattr(inflight, "_immortalize", lambda memory: None)
    box = [Ring(8, wish=ring.flags)]
    start_poll(box[0], InFlight(box[0]), pair[0].fileno())

    def forget() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            box.clear()
            gc.collect()

    thread = threading.Thread(target=forget)
    thread.start()
    thread.join()
    assert len(kept) == 1


def test_ring_closed_after_its_thread_ended_then_drained_as_far_as_the_kernel_allows(ring, pair, monkeypatch):
    kept: list = []
    monkeypatch.setattr(inflight, "_kept", kept)
    monkeypatch.setattr(inflight, "_immortalize", lambda memory: None)
    box = []

    def start() -> None:
        box.append(Ring(8, wish=ring.flags))
        start_poll(box[0], InFlight(box[0]), pair[0].fileno())

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    if box[0].flags & uapi.IORING_SETUP_SINGLE_ISSUER:
        with pytest.warns(ResourceWarning, match="1 requests"):
            box[0].close()
        assert len(kept) == 1
    else:
        box[0].close()
        assert kept == []


def test_fork_then_the_child_drops_its_copies_silently(ring, pair):
    table = InFlight(ring)
    start_poll(ring, table, pair[0].fileno())
    r, w = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            table.close()
            os.write(w, b"%d" % len(table))
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(r, 10) == b"0"
    os.close(r)
    os.close(w)
    assert len(table) == 1


@pytest.mark.parametrize("flags", ["0", "rings.RECOMMENDED"])
@pytest.mark.unwatched("debug mode warns of objects left open")
def test_interpreter_ends_with_work_in_flight_then_exit_is_clean(flags, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import os, sys
from rawuring import buffers, ops, rings
from rawuring.inflight import InFlight
from rawuring.syscalls import Unavailable
try:
    ring = rings.Ring(8, wish={flags})
except Unavailable:
    sys.exit(77)
table = InFlight(ring)
a, b = os.pipe()
memory = buffers.allocate(1 << 16)
pin = buffers.pin(memory, writable=True)
ops.prep_read(ring.get_sqe(), a, pin.address, pin.nbytes, 0, table.hold(None, pin))
ring.submit()
"""
    )
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip("io_uring (Linux 5.1)")
    assert (done.returncode, done.stderr) == (0, "")


def test_start_then_queued_held_and_answered(ring, blocking_pair):
    table = InFlight(ring)
    got = []
    memory = buffers.allocate(16)
    pin = buffers.pin(memory, writable=True)
    token = table.start(
        ops.prep_recv, blocking_pair[0].fileno(), pin.address, 16, 0,
        handler=lambda *cqe: got.append(cqe), holds=[pin],
    )  # fmt: skip
    assert table.entries[token][1] == (pin,)
    blocking_pair[1].send(b"hello")
    ring.submit_and_wait(1)
    table.dispatch(ring.reap())
    assert (got[0][0], memory[:5], len(table)) == (5, b"hello", 0)


def test_start_when_the_queue_is_full_or_the_arguments_are_wrong_then_nothing_is_held(ring):
    table = InFlight(ring)
    for _ in range(8):
        table.start(ops.prep_nop)
    with pytest.raises(rings.SubmissionQueueFull):
        table.start(ops.prep_nop)
    assert len(table) == 8
    with pytest.raises(TypeError):
        table.start(ops.prep_read, 1)
    assert (len(table), ring.sq.pending()) == (8, 8)
    ring.submit_and_wait(8)
    assert table.dispatch(ring.reap()) == 0
    assert len(table) == 0


@pytest.mark.unwatched("debug mode knows more")
def test_requests_then_what_they_are_and_what_they_hold(ring, pair):
    table = InFlight(ring)
    pin = buffers.pin(bytes(10))
    first = table.start(ops.prep_poll_add, pair[0].fileno(), 1, holds=[pin, "memory"])
    second = start_poll(ring, table, pair[1].fileno(), print)
    one, two = table.requests()
    assert (one.token, one.operation, one.handler, one.holds) == (first, "poll_add", None, (pin, "memory"))
    assert (two.token, two.operation, two.handler, two.holds) == (second, "", print, ())
    assert one.age_ns is two.age_ns is None
    line = str(one)
    assert line.startswith(f"request {first}: poll_add, holds ")
    assert repr(pin) in line


def test_prep_without_a_name_then_told_as_unnamed(ring):
    table = InFlight(ring)
    table.start(functools.partial(ops.prep_nop))
    (one,) = table.requests()
    assert one.operation == ""
    assert "unnamed" in str(one)
    ring.submit_and_wait(1)
    assert table.dispatch(ring.reap()) == 0
    assert len(table) == 0


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((0, b"abc", 3, 0), TypeError, r"prep_read\(\): b.abc. is not an integer; .* as pin\(object\)"),
        ((0, 0, None, 0), TypeError, "None is not an integer"),
        ((0, 0, -1, 0), OverflowError, r"prep_read\(0, 0, -1, 0\): an argument does not fit"),
        ((2**31, 0, 1, 0), OverflowError, "does not fit its field"),
    ],
)
def test_start_with_what_no_field_takes_then_said_which_and_nothing_is_queued(arguments, error, words):
    with fake_ring(entries=2) as (_, ring):
        inflight = InFlight(ring)
        with pytest.raises(error, match=words):
            inflight.start(ops.prep_read, *arguments)
        assert not inflight.entries
        assert ring.sq.pending() == 0


def test_start_when_an_argument_is_missing_then_refused_instead_of_held_for_ever(ring, pair):
    """The token would be taken for the offset, and the CQE would have user_data 0."""
    table = InFlight(ring)
    pin = buffers.pin(buffers.allocate(16), writable=True)
    with pytest.raises(TypeError, match="an argument is missing"):
        table.start(ops.prep_read, pair[0].fileno(), pin.address, 16)
    with pytest.raises(TypeError, match="user_data was given"):
        table.start(lambda sqe, token: ops.prep_nop(sqe, 7))
    assert (len(table), ring.sq.pending()) == (0, 0)


def test_start_when_no_cqe_would_come_on_success_then_refused(ring):
    table = InFlight(ring)
    with pytest.raises(ValueError, match="CQE_SKIP_SUCCESS"):
        table.start(ops.prep_nop, flags=uapi.IOSQE_CQE_SKIP_SUCCESS)
    assert (len(table), ring.sq.pending()) == (0, 0)


def test_close_when_the_kernel_cannot_cancel_all_at_once_then_one_by_one(ring, pair, monkeypatch):
    """IORING_ASYNC_CANCEL_ALL exists since 5.19; older kernels reject it."""
    cancel_all = InFlight._cancel_all

    def as_before_5_19(table, ring, tokens, asked):
        if tokens:
            cancel_all(table, ring, tokens, asked)

    table = InFlight(ring)
    got = []
    start_poll(ring, table, pair[0].fileno(), lambda *cqe: got.append(cqe[0]))
    monkeypatch.setattr(InFlight, "_cancel_all", as_before_5_19)
    table.close()
    assert got == [-errno.ECANCELED]


def test_memory_that_is_kept_then_with_what_is_registered_and_for_good(ring, pair, monkeypatch):
    kept: list = []
    immortal: list = []
    monkeypatch.setattr(inflight, "_kept", kept)
    monkeypatch.setattr(inflight, "_immortalize", immortal.append)
    monkeypatch.setattr(InFlight, "_cancel_all", lambda *arguments, **named: None)
    table = InFlight(ring)
    start_poll(ring, table, pair[0].fileno())
    entries = table.entries
    with pytest.warns(ResourceWarning):
        table.close(5 * MILLISECOND)
    assert kept[0][0] is entries and kept[0][1] is ring.resources
    assert immortal == kept


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="reference counts are CPython's")
def test_immortalize_then_one_reference_more_than_anybody_has():
    memory = [object()]
    before = sys.getrefcount(memory)
    inflight._immortalize(memory)
    assert sys.getrefcount(memory) == before + 1


def test_ring_forgotten_then_no_handler_runs(pair):
    try:
        box = [Ring(8)]
    except Unavailable as error:
        pytest.skip(f"io_uring (Linux 5.1): {error}")
    got = []
    start_poll(box[0], InFlight(box[0]), pair[0].fileno(), lambda *cqe: got.append(cqe))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        box.clear()
        gc.collect()
    assert got == []


def test_closed_before_the_thread_of_an_sqpoll_ring_has_made_room_then_drained():
    """There was no slot for the cancellation: close() raised, and the memory was kept forever."""
    with fake_ring(entries=2, flags=uapi.IORING_SETUP_SQPOLL) as (_, ring):
        table = InFlight(ring)
        results = []
        for _ in range(2):
            table.start(ops.prep_read, 0, 0, 0, 0, handler=lambda res, flags: results.append(res))
        ring.submit()  # that thread has not looked yet
        assert (ring.sq.space_left(), results) == (0, [])
        ring.close()
    assert (len(table), results) == (0, [0, 0])


# ------------------------------------------------------------------------------------------------------
# Blocks: one entry for many requests


def noted(answers):
    """Return a handler of a block that records its arguments."""
    return lambda *columns: answers.append(columns)


def test_block_then_one_call_with_columns_and_the_block_is_free_for_the_next(ring):
    table, answers, memory = InFlight(ring), [], Memory()
    watch = weakref.ref(memory)
    block = ops.Block(4, ops.prep_nop)
    for _ in range(2):
        token = table.start_block(block, noted(answers), holds=[memory])
        assert (len(table), token in table, token + 3 in table, token + 4 in table) == (4, True, True, False)
        block.set("user_data", [0] * 4)
        assert table.submit_and_dispatch(4) == 1
        assert (len(table), token in table, table.unknown, table.has_work()) == (0, False, 0, False)
    assert answers == [([0, 1, 2, 3], [0] * 4, [0] * 4)] * 2
    del memory
    gc.collect()
    assert watch() is None


def test_block_of_which_one_ends_first_then_the_memory_of_all_is_held(ring, make_pairs):
    table, answers, memory = InFlight(ring), [], Memory()
    watch = weakref.ref(memory)
    pairs = make_pairs(3)
    try:
        block = ops.Block(4, ops.prep_poll_add, 0, 1)
        block.set("fd", [a.fileno() for a, _ in pairs])
        token = table.start_block(block, noted(answers), [memory], count=3)
        del memory
        pairs[1][1].send(b"x")
        while not answers:
            table.submit_and_dispatch(1)
        assert answers.pop() == ([1], [1], [0])
        gc.collect()
        assert watch() is not None
        assert (len(table), token + 1 in table) == (2, False)
        (request,) = table.requests()
        assert (request.token, request.operation, request.count) == (token, "poll_add", 2)
        assert "poll_add, 2 of a block, " in str(request)
        del request
        table.start(ops.prep_nop, handler=lambda *cqe: answers.append(cqe))
        for _, b in pairs[::2]:
            b.send(b"x")
        while len(table):
            table.submit_and_dispatch(1)
        assert (0, 0) in answers
        ended = sorted(index for columns in answers if len(columns) == 3 for index in columns[0])
        assert (ended, table.unknown) == ([0, 2], 0)
    finally:
        for pair in pairs:
            for sock in pair:
                sock.close()
    gc.collect()
    assert watch() is None


def test_block_among_other_requests_then_each_is_handled_as_what_it_is(ring):
    table, answers = InFlight(ring), []
    block = ops.Block(3, ops.prep_nop)
    table.start(ops.prep_nop, handler=lambda *cqe: answers.append(cqe))
    table.start_block(block, noted(answers))
    table.start_block(block)
    ops.prep_nop(ring.get_sqe(), 7)
    ring.submit_and_wait(8)
    assert table.reap() == 8
    assert table.dispatch() == 2
    assert sorted(answers, key=len) == [(0, 0), ([0, 1, 2], [0] * 3, [0] * 3)]
    assert (len(table), table.unknown, table.has_work()) == (0, 0, False)


def test_block_whose_requests_complete_more_than_once_then_each_ends_with_its_last(ring):
    table, answers, more = InFlight(ring), [], uapi.IORING_CQE_F_MORE
    token = table.start_block(ops.Block(2, ops.prep_nop), noted(answers))
    ring.discard()
    for index, flags in ((1, more), (0, more), (1, 0)):
        assert table.complete(token + index, 5, flags)
    assert not table.complete(token + 1, 5, 0)
    assert (len(table), table.unknown) == (1, 1)
    assert table.dispatch() == 1
    assert table.dispatch([(token, 6, more), (token, 7, 0), (token, 8, 0)]) == 1
    assert answers == [([1, 0, 1], [5] * 3, [more, more, 0]), ([0, 0], [6, 7], [more, 0])]
    assert (len(table), table.unknown) == (0, 2)


@pytest.mark.parametrize("kind", ["full", "skip", "handler", "holds", "count", "empty"])
def test_block_that_cannot_be_started_then_nothing_is_held_or_queued(ring, kind):
    table = InFlight(ring)
    block = ops.Block(9 if kind == "full" else 3, ops.prep_nop)
    if kind == "skip":
        ops.prep_nop(block.sqe(2), 0, uapi.IOSQE_CQE_SKIP_SUCCESS)
    ops.prep_nop(block.sqe(1), 0, uapi.IOSQE_ASYNC)  # which is allowed
    error, arguments = {
        "full": (rings.SubmissionQueueFull, {}),
        "skip": (ValueError, {}),
        "handler": (TypeError, {"handler": 5}),
        "holds": (TypeError, {"holds": [1 << 40]}),
        "count": (ValueError, {"count": 4}),
        "empty": (ValueError, {"count": 0}),
    }[kind]
    with pytest.raises(error):
        table.start_block(block, **arguments)
    assert (len(table), ring.sq.pending(), table.requests()) == (0, 0, [])


def test_block_on_a_ring_with_large_sqes_then_rejected():
    with fake_ring(entries=8, flags=uapi.IORING_SETUP_SQE128) as (_, ring):
        table = InFlight(ring)
        with pytest.raises(ValueError, match="64-byte"):
            table.start_block(ops.Block(4, ops.prep_nop))


def test_block_on_a_ring_with_large_cqes_then_as_everywhere():
    with fake_ring(entries=8, flags=uapi.IORING_SETUP_CQE32) as (_, ring):
        table, answers = InFlight(ring), []
        table.start_block(ops.Block(4, ops.prep_nop), noted(answers))
        ring.submit()
        table.reap()
        assert table.dispatch() == 1
        assert (answers, len(table)) == ([([0, 1, 2, 3], [0] * 4, [0] * 4)], 0)


def test_blocks_then_no_token_is_another_ones(ring):
    table, block = InFlight(ring), ops.Block(4, ops.prep_nop)
    tokens = {table.start_block(block) >> 16, table.start_block(block) >> 16, table.hold(None) >> 16}
    assert len(tokens) == 3
    assert {token >> 39 for token in tokens} == {2}  # the selector's own tokens have that bit
    table.entries.clear()


def test_block_on_the_ring_of_a_monitor_then_its_handler_runs_in_the_monitors_dispatch():
    try:
        monitor = fdmon.IoUringFDMon(8)
    except OSError as error:
        pytest.skip(f"io_uring (Linux 5.1): {error}")
    answers: list = []
    with monitor:
        monitor.inflight.start_block(ops.Block(3, ops.prep_nop), noted(answers))
        while sum(len(columns[0]) for columns in answers) < 3:
            monitor.dispatch(monitor.wait(5_000 * MILLISECOND))
        assert "nop" not in [request.operation for request in monitor.inflight.requests()]
    assert sorted(index for columns in answers for index in columns[0]) == [0, 1, 2]


@pytest.mark.parametrize("how", ["all at once", "one by one"])
@pytest.mark.parametrize("sent", [True, False])
def test_close_with_a_block_in_flight_then_it_ends_and_its_handler_runs(ring, pair, monkeypatch, how, sent):
    if how == "one by one":  # as before 5.19
        cancel_all = InFlight._cancel_all
        monkeypatch.setattr(
            InFlight, "_cancel_all",
            lambda table, ring, tokens, asked: cancel_all(table, ring, tokens, asked) if tokens else None,
        )  # fmt: skip
    table, answers = InFlight(ring), []
    table.start_block(ops.Block(3, ops.prep_poll_add, pair[0].fileno(), 1), noted(answers))
    if sent:
        ring.submit()
    table.close()
    ended = sorted(index for columns in answers for index in columns[0])
    assert ended == ([0, 1, 2] if sent else [])
    assert {res for columns in answers for res in columns[1]} <= {-errno.ECANCELED}
    assert (len(table), table.requests(), ring.sq.pending()) == (0, [], 0)


def test_block_that_cannot_be_ended_then_its_memory_is_kept(ring, pair, monkeypatch):
    kept: list = []
    monkeypatch.setattr(inflight, "_kept", kept)
    monkeypatch.setattr(inflight, "_immortalize", lambda memory: None)
    monkeypatch.setattr(InFlight, "_cancel_all", lambda *arguments, **named: None)
    table, memory = InFlight(ring), Memory()
    watch = weakref.ref(memory)
    table.start_block(ops.Block(3, ops.prep_poll_add, pair[0].fileno(), 1), holds=[memory])
    del memory
    ring.submit()
    with pytest.warns(ResourceWarning, match="3 requests could not be ended"):
        table.close(5 * MILLISECOND)
    gc.collect()
    assert (watch() is not None, len(table)) == (True, 0)
