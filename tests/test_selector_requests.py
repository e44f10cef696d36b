# SPDX-License-Identifier: MIT
"""IoUringSelector.requests: requests of other code on the selector's ring, handled by select()."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import selectors
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
from refusal import skip_without_seccomp
from strategies import ready, selector_of, skip_if_too_old
from strikes import Struck
from test_probe import FILTER

from rawuring import ops, uapi
from rawuring.buffers import allocate, pin
from rawuring.selector import STRATEGIES, IoUringSelector

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
ROOT = Path(__file__).resolve().parent.parent
TIMEOUTS = [0, 30, None]


@pytest.fixture(params=list(STRATEGIES))
def sel(request, requires_io_uring):
    sel = selector_of(request.param)
    yield sel
    sel.close()


class Answers(list):
    """Handlers that record their results."""

    def by(self, name):
        return lambda res, flags: self.append((name, res))


@pytest.fixture
def told():
    return Answers()


def read(sel: IoUringSelector, fd: int, handler, count: int = 8):
    memory = allocate(count)
    sel.requests.start(ops.prep_read, fd, pin(memory, True), None, 0, handler=handler)
    return memory


# -- sending and handling


@pytest.mark.parametrize("timeout", TIMEOUTS)
@pytest.mark.parametrize("watched", [False, True])
def test_started_between_two_selects_then_sent_and_handled_by_the_next(sel, pair, told, timeout, watched):
    if watched:
        sel.register(pair[0], READ)
        assert ready(sel) == []
    sel.requests.start(ops.prep_nop, handler=told.by("nop"))
    assert told == []
    assert sel.select(timeout) == []
    assert told == [("nop", 0)]


def test_block_then_its_handler_gets_columns_and_select_waits_for_it(sel, pair):
    ended: list[int] = []
    sel.register(pair[0], READ)
    table = sel.requests
    table.start_block(ops.Block(3, ops.prep_nop), lambda indices, res, flags: ended.extend(indices))
    while len(ended) < 3:
        assert sel.select(30) == []
    polls = ops.Block(2, ops.prep_poll_add, pair[1].fileno(), 1)
    table.start_block(polls, lambda indices, res, flags: ended.extend(indices))
    assert sel.select(0) == []
    pair[0].send(b"x")
    while len(ended) < 5:
        assert sel.select(30) == []
    assert (sorted(ended[:3]), sorted(ended[3:])) == ([0, 1, 2], [0, 1])


@pytest.mark.parametrize("timeout", TIMEOUTS)
def test_one_turn_with_requests_then_one_io_uring_enter(sel, pair, told, timeout):
    sel.register(pair[0], READ)
    table = sel.requests
    for _ in range(3):
        table.start(ops.prep_nop, handler=told.by("warm"))
        assert ready(sel, timeout) == []
    before = sel.ring.statistics()
    for name in range(5):
        table.start(ops.prep_nop, handler=told.by(name))
    assert ready(sel, timeout) == []
    after = sel.ring.statistics()
    assert told[3:] == [(name, 0) for name in range(5)]
    assert after.enters - before.enters == 1


@pytest.mark.parametrize("timeout", TIMEOUTS)
def test_something_is_ready_in_every_turn_then_requests_are_sent_all_the_same(sel, pair, told, timeout):
    """Otherwise descriptors that were busy in the last turn are queried without the ring."""
    a, b = pair
    sel.register(a, READ)
    b.send(b"x")
    for _ in range(3):
        assert ready(sel, None) == [(a.fileno(), READ)]
    for turn in range(3):
        sel.requests.start(ops.prep_nop, handler=told.by(turn))
        found = ready(sel, timeout)
        assert found in ([], [(a.fileno(), READ)])
        assert told == [(each, 0) for each in range(turn + 1)]
    assert ready(sel, None) == [(a.fileno(), READ)]


@pytest.mark.parametrize("timeout", [None, 30])
def test_in_flight_for_several_selects_then_its_completion_ends_the_wait(
    sel, pair, blocking_pipe, told, timeout
):
    sel.register(pair[0], READ)
    memory = read(sel, blocking_pipe[0], told.by("read"))
    for short in (0, 0.001, 0):
        assert ready(sel, short) == []
    assert told == []
    writer = threading.Timer(0.01, os.write, (blocking_pipe[1], b"12345678"))
    writer.start()
    assert ready(sel, timeout) == []
    writer.join()
    assert (told, bytes(memory)[:8]) == ([("read", 8)], b"12345678")


def test_completed_between_two_selects_then_handled_without_waiting(sel, pair, blocking_pipe, told):
    sel.register(pair[0], READ)
    read(sel, blocking_pipe[0], told.by("read"))
    assert ready(sel) == []
    os.write(blocking_pipe[1], b"x")
    assert ready(sel, None) == []
    assert told == [("read", 1)]


def test_changes_and_requests_in_one_turn_then_both(sel, told, make_pairs):
    pairs = make_pairs(40)
    for a, b in pairs:
        sel.register(a, READ)
        b.send(b"x")
        sel.requests.start(ops.prep_nop, handler=told.by(a.fileno()))
    expected = sorted((a.fileno(), READ) for a, _ in pairs)
    assert sorted(told) == [] and ready(sel, None) in (expected, [])
    assert sorted(told) == [(fd, 0) for fd, _ in expected]
    assert ready(sel, None) == expected
    for a, b in pairs:
        sel.unregister(a)
        a.close()
        b.close()


@pytest.mark.parametrize("strategy", list(STRATEGIES))
@pytest.mark.parametrize("entries", [2, 4, 64])
@pytest.mark.parametrize("changes", [0, 1, 3, 20])
def test_queue_is_full_of_requests_then_changes_and_the_wait_find_room(
    requires_io_uring, told, strategy, entries, changes, make_pairs
):
    with selector_of(strategy, entries=entries) as sel:
        pairs = make_pairs(changes)  # after the possible skip
        for a, b in pairs:
            sel.register(a, WRITE)
            b.send(b"x")
        while sel.ring.sq.space_left():
            sel.requests.start(ops.prep_nop, handler=told.by("nop"))
        count = sel.ring.sq.ring_entries
        while len(told) < count:
            sel.select(None)
        assert told == [("nop", 0)] * count
        assert ready(sel, None if changes else 0) == sorted((a.fileno(), WRITE) for a, _ in pairs)


# -- actions of handlers


def test_handler_starts_further_requests_then_each_is_the_next_selects(sel, told):
    def again(res, flags):
        told.append(len(told))
        if len(told) < 4:
            sel.requests.start(ops.prep_nop, handler=again)

    sel.requests.start(ops.prep_nop, handler=again)
    for turn in range(4):
        assert told == list(range(turn))
        assert sel.select(None) == []
    assert told == [0, 1, 2, 3]
    assert sel.select(0) == []


def test_handler_changes_what_is_ready_then_only_what_it_left_is_reported(sel, told, make_pairs):
    pairs = make_pairs(4)
    for a, b in pairs:
        sel.register(a, READ)
        b.send(b"x")
    kept, modified, removed, again = (a for a, _ in pairs)

    def change(res, flags):
        told.append(res)
        sel.modify(modified, WRITE)
        sel.unregister(removed)
        sel.unregister(again)
        sel.register(again, READ, "anew")
        sel.register(pairs[0][1], WRITE)

    sel.requests.start(ops.prep_nop, handler=change)
    first = sel.select(0)
    assert told == [0]
    assert [key.fileobj for key, _ in first] in ([kept], [])
    everything = {(kept.fileno(), READ), (modified.fileno(), WRITE), (again.fileno(), READ)}
    assert set(ready(sel, None)) == everything | {(pairs[0][1].fileno(), WRITE)}
    assert sel.get_key(again).data == "anew"


@pytest.mark.parametrize("timeout", TIMEOUTS)
def test_handler_raises_then_select_does_and_the_next_runs_the_rest(sel, pair, told, timeout):
    def wrong(res, flags):
        raise LookupError("a handler's own")

    sel.register(pair[0], WRITE)
    sel.requests.start(ops.prep_nop, handler=told.by(1))
    sel.requests.start(ops.prep_nop, handler=wrong)
    sel.requests.start(ops.prep_nop, handler=told.by(2))
    with pytest.raises(LookupError, match="a handler's own"):
        sel.select(timeout)
    assert told == [(1, 0)]
    sel.select(timeout)
    assert told == [(1, 0), (2, 0)]
    assert ready(sel, None) == [(pair[0].fileno(), WRITE)]


def test_handler_selects_then_the_inner_one_serves_too(sel, told):
    def inner(res, flags):
        told.append("outer")
        sel.requests.start(ops.prep_nop, handler=told.by("inner"))
        assert sel.select(None) == []

    sel.requests.start(ops.prep_nop, handler=inner)
    assert sel.select(None) == []
    assert told == ["outer", ("inner", 0)]


def test_handler_closes_the_selector_then_select_returns(sel, pair, told):
    sel.register(pair[0], WRITE)
    sel.requests.start(ops.prep_nop, handler=lambda res, flags: sel.close())
    sel.requests.start(ops.prep_nop, handler=told.by("behind"))
    assert sel.select(None) == []
    assert told == [("behind", 0)]
    assert sel.requests is None


# -- cancelling and closing


def test_cancelled_then_its_completion_ends_the_wait(sel, blocking_pipe, told):
    table = sel.requests
    target = pin(allocate(8), True)
    token = table.start(ops.prep_read, blocking_pipe[0], target, None, 0, handler=told.by("read"))
    assert sel.select(0) == []
    table.cancel(token)
    while not told:
        assert sel.select(None) == []
    # On 5.10 and 6.1 a worker reads pipes, and a running request is interrupted there.
    assert told in ([("read", -errno.ECANCELED)], [("read", -errno.EINTR)])


def test_everything_cancelled_then_the_selector_goes_on(sel, pair, blocking_pipe, told):
    """ASYNC_CANCEL_ANY ends the selector's own requests, too."""
    a, b = pair
    sel.register(a, READ)
    read(sel, blocking_pipe[0], told.by("read"))
    assert sel.select(0.001) == []
    every = uapi.IORING_ASYNC_CANCEL_ALL | uapi.IORING_ASYNC_CANCEL_ANY
    sel.requests.start(ops.prep_cancel64, 0, every, handler=told.by("cancel"))
    while len(told) < 2:
        assert sel.select(None) == []
        if ("cancel", -errno.EINVAL) in told:  # the only completion in that case
            pytest.skip("IORING_ASYNC_CANCEL_ANY (Linux 5.19)")
    assert ("read", -errno.ECANCELED) in told or ("read", -errno.EINTR) in told
    assert sel.select(0.001) == []
    b.send(b"x")
    assert ready(sel, None) == [(a.fileno(), READ)]


def test_closed_with_requests_in_flight_then_they_end_and_their_memory_is_free(
    sel, pair, blocking_pipe, told, recwarn
):
    sel.register(pair[0], READ)
    read(sel, blocking_pipe[0], told.by("read"))
    assert sel.select(0.001) == []
    table = sel.requests
    sel.close()
    assert told in ([("read", -errno.ECANCELED)], [("read", -errno.EINTR)])  # as above
    assert len(table) == 0
    assert not [each for each in recwarn if each.category is ResourceWarning]


# -- threads


def test_used_by_one_thread_after_another_then_each_serves_its_own(sel, pair, told):
    """An event loop that was created in one thread and runs in another."""
    sel.register(pair[0], READ)

    def use(name):
        if sel.select(0) == [] and sel.requests is table:  # as a loop does before any callback runs
            table.start(ops.prep_nop, handler=told.by(name))
            assert sel.select(None) == []

    table = sel.requests
    use("main")
    for name in ("second", "third"):
        thread = threading.Thread(target=use, args=(name,))
        thread.start()
        thread.join()
    use("main")
    assert told == [(name, 0) for name in ("main", "second", "third", "main")]


@pytest.mark.parametrize("strategy", ["io_uring:epoll_wait", "io_uring:epoll_poll"])
def test_selected_in_another_thread_meanwhile_then_handlers_stay_where_they_are(
    requires_io_uring, pair, blocking_pipe, told, strategy
):
    a, b = pair
    with selector_of(strategy) as sel:
        sel.register(a, READ)
        where = []
        read(sel, blocking_pipe[0], lambda res, flags: where.append(threading.get_ident()))
        looked = threading.Event()
        found = []

        def look():
            while not found:  # until the other select() runs, so that this one is concurrent
                if sel._strategy._waiting:
                    b.send(b"x")
                    found.append(ready(sel, None))
            a.recv(1)
            os.write(blocking_pipe[1], b"x")
            looked.set()

        thread = threading.Thread(target=look)
        thread.start()
        while not where:
            sel.select(None)
        thread.join()
        assert looked.is_set()
        assert (found, where) == ([[(a.fileno(), READ)]], [threading.get_ident()])


# -- exceptions of signal handlers


@pytest.mark.parametrize("taken", [False, True])
@pytest.mark.parametrize("changes", [0, 1, 30])
@pytest.mark.parametrize("timeout", TIMEOUTS)
def test_signal_handler_raises_around_the_enter_then_each_request_completes_once(
    sel, monkeypatch, told, taken, changes, timeout, make_pairs
):
    pairs = make_pairs(max(changes, 1))
    for a, b in pairs[:changes]:
        sel.register(a, READ)
        b.send(b"x")
    sel.requests.start(ops.prep_nop, handler=told.by("first"))
    r, w = os.pipe()
    read(sel, r, told.by("read"))

    def strike(name):
        # The handler raises before the events from the ring are returned, so they are not lost.
        real = getattr(sel.ring, name.replace("submit_and_reap", "submit_and_wait"))

        def struck(*arguments):
            if taken:
                real(*arguments)
            raise Struck

        return struck

    with monkeypatch.context() as patch:
        for name in ("submit", "submit_and_wait", "submit_and_reap"):
            patch.setattr(sel.ring, name, strike(name))
        with pytest.raises(Struck):
            sel.select(timeout)
    sel.requests.start(ops.prep_nop, handler=told.by("last"))
    expected = [("first", 0), ("last", 0)]
    while len(told) < 2:
        sel.select(timeout)
    assert told == expected
    os.write(w, b"12")
    while len(told) < 3:
        sel.select(timeout)
    assert told == [*expected, ("read", 2)]
    assert ready(sel, 0.001) == sorted((a.fileno(), READ) for a, _ in pairs[:changes])
    for each in (*sum(pairs, ()),):
        each.close()
    os.close(r)
    os.close(w)


# -- the ring is lost

LOST = """
import errno, os, selectors, socket, sys, warnings
warnings.simplefilter("ignore")
from rawuring import ops
from rawuring.buffers import allocate, pin
from rawuring.selector import IoUringSelector
sel = IoUringSelector(sys.argv[2], fallback=False)
a, b = socket.socketpair()
sel.register(a, selectors.EVENT_READ)
r, w = os.pipe()
told, memory = {}, allocate(8)
def by(name):
    return lambda res, flags: told.setdefault(name, res)
table = sel.requests
table.start(ops.prep_read, r, pin(memory, True), None, 0, handler=by("in flight"))
assert sel.select(0.001) == []
table.start(ops.prep_nop, handler=by("queued"))
"""
THEN = """
assert sel.select(None) == [], "a handler ran"
assert told == {"queued": -int(sys.argv[3])}, told
assert sel.requests is None and not sel.backend.startswith("io_uring"), sel.backend
table.start(ops.prep_nop, handler=by("too late"))
assert sel.select(None) == []
assert told.pop("too late") == -int(sys.argv[3])
b.send(b"x")
assert [key.fileobj for key, _ in sel.select(None)] == [a]
a.recv(1)
os.write(w, b"12345678")
while "in flight" not in told:
    assert sel.select(None) == []
assert (told["in flight"], bytes(memory)[:8]) == (8, b"12345678")
b.send(b"x")
assert [key.fileobj for key, _ in sel.select(None)] == [a]
sel.close()
print("fine")
"""
CLOSED = """
os.close(sel.ring.fileno())
"""


@pytest.mark.requires_io_uring
@pytest.mark.parametrize("how", [errno.EPERM, errno.ENOSYS, errno.EBADF])
@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_ring_is_lost_then_every_request_is_answered_and_what_was_in_flight_completes(strategy, how):
    program = LOST + (CLOSED if how == errno.EBADF else FILTER) + THEN
    done = subprocess.run(
        [sys.executable, "-c", program, hex(0x00050000 | how), strategy, str(how)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    skip_without_seccomp(done)
    skip_if_too_old(done.stderr)
    assert (done.stdout, done.returncode) == ("fine\n", 0), done.stderr


def test_without_a_ring_then_none():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with IoUringSelector("poll") as sel:
            assert sel.requests is None
            assert sel.select(0) == []


def test_closed_then_none(sel):
    sel.close()
    assert sel.requests is None


# -- asyncio


def test_handler_calls_soon_then_the_loop_runs_it_at_once(sel):
    """A loop with nothing else to do waits forever."""
    loop = asyncio.SelectorEventLoop(sel)

    async def ask(count):
        for _ in range(count):
            future = loop.create_future()
            sel.requests.start(ops.prep_nop, handler=lambda res, flags, future=future: future.set_result(res))
            assert await future == 0
        return count

    try:
        assert loop.run_until_complete(ask(20)) == 20
        assert loop.run_until_complete(asyncio.wait_for(ask(5), 30)) == 5
    finally:
        loop.close()


# -- everything at once


@pytest.mark.parametrize("seed", range(3))
def test_random_changes_and_requests_then_every_request_completes_once_and_events_are_right(
    sel, seed, make_pairs
):
    chance = random.Random(seed)
    pairs = make_pairs(6)
    pipes = [os.pipe() for _ in range(3)]
    started, told, waiting = 0, [], {}
    watched, full = {}, set()

    def handler(name, fd=None):
        def note(res, flags):
            told.append(name)
            waiting.pop(fd, None)

        return note

    for _ in range(300):
        what, i = chance.randrange(6), chance.randrange(6)
        a, b = pairs[i]
        if what == 0 and a not in watched:
            sel.register(a, READ)
            watched[a] = READ
        elif what == 1 and a in watched:
            sel.unregister(a)
            del watched[a]
        elif what == 2:
            if a in full:
                a.recv(1)
                full.discard(a)
            else:
                b.send(b"x")
                full.add(a)
        elif what == 3:
            sel.requests.start(ops.prep_nop, handler=handler(started))
            started += 1
        elif what == 4:
            r, w = pipes[i % 3]
            if r not in waiting:
                read(sel, r, handler(started, r), 1)
                waiting[r] = started
                started += 1
            elif chance.random() < 0.5:
                sel.select(0)
                os.write(w, b"y")
                while r in waiting:
                    sel.select(None)
        if chance.random() < 0.5:
            expected = sorted((each.fileno(), READ) for each in watched if each in full)
            before = len(told)
            found = ready(sel, chance.choice((0, 0.0001)))
            assert found == expected or (len(told) > before and set(found) <= set(expected))
    for r, w in pipes:
        if r in waiting:
            sel.select(0)
            os.write(w, b"z")
    while len(told) < started:
        sel.select(None)
    assert sorted(told) == list(range(started))
    for each in (*sum(pairs, ()),):
        each.close()
    for each in (*sum(pipes, ()),):
        os.close(each)
