# SPDX-License-Identifier: MIT
"""Signal handlers that raise between any two instructions of the monitor, as before CPython 3.11."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import warnings

import leaks
import pytest
from driver import in_a_thread
from harness import PYPY, ROOT, Struck, figures, finalizing
from strategies import selector_of

from rawuring import buffers, fdmon, ops, pin, rings, selector
from rawuring.fdmon import POLLIN, POLLOUT
from rawuring.inflight import InFlight
from rawuring.selector import EVENT_READ, EVENT_WRITE

pytestmark = [
    pytest.mark.requires_io_uring,
    pytest.mark.skipif(PYPY, reason="the instructions of PyPy's compiled loops are not traced"),
    pytest.mark.unwatched("debug mode makes additional calls"),
]

FILES = ["monitor.py", "fdmonpoll.py", "fdmon.py", "inflight.py"]
if sys.version_info < (3, 11):
    # From 3.11 on these assume that handlers run only after calls.
    FILES += ["queues.py", "handle.py", "rings.py"]


OPCODES = sys.version_info < (3, 12)


@contextlib.contextmanager
def strike_anywhere(at, *files):
    """Raise before the at-th instruction of these files, or before a line from CPython 3.12 on.

    Yields a list, empty if the block ended first.
    """
    struck, seen = [], 0
    names = {str(ROOT / "rawuring" / name) for name in files}

    def trace(frame, event, arg):
        nonlocal seen
        if frame.f_code.co_filename not in names:
            return None
        if OPCODES:
            frame.f_trace_lines, frame.f_trace_opcodes = False, True
        if event == ("opcode" if OPCODES else "line") and not struck:
            seen += 1
            if seen > at and not finalizing(frame):
                struck.append(f"{frame.f_code.co_name}:{frame.f_lineno}")
                sys.settrace(None)
                raise Struck
        return trace

    old = sys.gettrace()
    try:
        sys.settrace(trace)
        yield struck
    except Struck:
        assert struck
    finally:
        sys.settrace(old)


@pytest.mark.parametrize("change", ["register", "unregister", "modify"])
def test_interrupted_anywhere_in_a_change_of_poll_add_then_each_key_once_and_nothing_is_left(change):
    struck, at = [""], 0
    while struck:
        (a, b), (c, d) = socket.socketpair(), socket.socketpair()
        with selector.IoUringSelector("io_uring:poll_add") as sel, a, b, c, d:
            sel.register(c, EVENT_READ, "bystander")
            if change != "register":
                sel.register(a, EVENT_READ, "first")
            assert sel.select(0) == []
            with strike_anywhere(at, "selector.py", "monitor.py", "fdmon.py") as struck:
                if change == "register":
                    sel.register(a, EVENT_WRITE, "second")
                elif change == "unregister":
                    sel.unregister(a)
                else:
                    sel.modify(a, EVENT_WRITE, "second")
            if a in sel.get_map():
                sel.unregister(a)
            key = sel.register(a, EVENT_WRITE, "third")
            for _ in range(2):
                assert sel.select(0) == [(key, EVENT_WRITE)], struck
            sel.unregister(a)
            d.send(b"x")
            assert [key.data for key, _ in sel.select(1)] == ["bystander"], struck
            c.recv(1)
            before = sel.ring.statistics().enters
            assert sel.select(0.001) == []
            assert sel.ring.statistics().enters - before < 4, struck  # no busy loop
            a.close()
            b.setblocking(False)
            assert b.recv(1) == b"", struck  # no poll holds the file
        at += 1
        figures["signals"] += 1
    assert at > 10


@pytest.mark.skipif(sys.version_info >= (3, 11), reason="handlers run after calls only (CPython 3.11)")
@pytest.mark.parametrize("strategy", selector.STRATEGIES)
@pytest.mark.parametrize("change", ["register", "unregister", "modify"])
def test_interrupted_anywhere_in_a_change_then_what_is_still_registered_is_reported(strategy, change):
    struck, at = [""], 0
    while struck:
        sel = selector_of(strategy)
        a, b = socket.socketpair()
        with sel, a, b:
            if change != "register":
                sel.register(a.fileno(), EVENT_WRITE if change == "unregister" else EVENT_READ, "first")
                sel.select(0)
            with strike_anywhere(at, "selector.py", "epollwait.py", "monitor.py", "fdmon.py") as struck:
                if change == "register":
                    sel.register(a.fileno(), EVENT_WRITE, "second")
                elif change == "unregister":
                    sel.unregister(a.fileno())
                else:
                    sel.modify(a.fileno(), EVENT_WRITE, "second")
            if a.fileno() in sel.get_map():
                key = sel.get_key(a.fileno())
                expected = [(key, EVENT_WRITE)] if key.events & EVENT_WRITE else []
                assert sel.select(0) == expected, struck
                key = sel.modify(a.fileno(), EVENT_READ | EVENT_WRITE)
                assert sel.select(0) == [(key, EVENT_WRITE)], struck
            else:
                assert sel.select(0) == [], struck
        at += 1
        figures["signals"] += 1
    assert at > 10


@pytest.mark.parametrize("backend", ["io_uring", "poll"])
@pytest.mark.parametrize("change", ["add", "modify", "remove", "wait", "arm"])
def test_interrupted_anywhere_in_the_monitor_then_what_was_done_is_done_and_nothing_is_lost(backend, change):
    """A caller interrupted in modify() names the nodes that its next change may affect."""
    struck, at = [""], 0
    while struck:
        (a, b), (c, d) = socket.socketpair(), socket.socketpair()
        with fdmon.setup((backend,)) as mon, a, b, c, d:
            bystander = mon.add(c, POLLIN)
            first = fdmon.AioHandler(a, POLLIN)
            if change != "add":
                mon.update(None, first)
            assert mon.wait(0) == []
            d.send(b"x")
            second = fdmon.AioHandler(a, POLLIN | (0 if change == "arm" else POLLOUT))
            if change == "arm":
                mon.update(first, second)
            with strike_anywhere(at, *FILES) as struck:
                if change == "add":
                    mon.update(None, first)
                elif change == "modify":
                    mon.update(first, second)
                elif change == "remove":
                    mon.remove(first)
                else:
                    mon.wait(0)
            found = [node for node, _ in mon.wait(0)]
            assert found.count(bystander) == 1, struck
            assert found.count(second) <= 1, struck
            if change == "wait":
                b.send(b"x")
                assert sorted(mask for _, mask in mon.wait(0)) == [POLLIN, POLLIN], struck
            third = fdmon.AioHandler(a, POLLOUT)
            mon.update(first, third, second)
            for _ in range(2):
                assert sorted(node.fd for node, _ in mon.wait(0)) == sorted([a.fileno(), c.fileno()]), struck
            mon.remove(third)
            assert [node for node, _ in mon.wait(0)] == [bystander], struck
            if change == "wait":
                a.recv(1)
            a.close()
            b.setblocking(False)
            assert b.recv(1) == b"", struck
        at += 1
        figures["signals"] += 1
    assert at > 5


@pytest.mark.parametrize("entries", [2, 128])
def test_interrupted_anywhere_in_the_rearming_of_polls_then_each_is_in_the_kernel_once(entries, make_pairs):
    """With two entries they are submitted in pieces."""
    struck, at = [""], 0
    while struck:
        pairs = make_pairs(5)
        with fdmon.IoUringFDMon(entries) as mon:
            nodes = [mon.add(a, POLLOUT) for a, _ in pairs]
            for _ in range(2):
                assert sorted(node.fd for node, _ in mon.wait(0)) == sorted(node.fd for node in nodes)
            with strike_anywhere(at, *FILES) as struck:
                mon.wait(0)
            found = [node.fd for node, _ in mon.wait(0)]
            assert sorted(found) == sorted(node.fd for node in nodes), struck
            for node in nodes:
                mon.remove(node)
            assert mon.wait(0) == []
            for a, b in pairs:
                a.close()
                b.setblocking(False)
                assert b.recv(1) == b"", struck  # no second poll holds the file
                b.close()
        at += 1
        figures["signals"] += 1
    assert at > 5


def test_interrupted_anywhere_in_a_release_that_borrows_the_ring_then_another_thread_may_wait(pair):
    """A thread that had kept the ring would count as the one that waits."""
    struck, at = [""], 0
    while struck:
        with fdmon.IoUringFDMon(8) as mon:
            node = mon.add(pair[0], POLLIN)
            assert in_a_thread(lambda mon=mon: mon.wait(0)) == []
            owner = mon.ring.owner
            with strike_anywhere(at, *FILES) as struck:
                mon.release(node)
            assert mon.ring.owner == mon.ring.sq.owner == owner, struck
            if not struck or not struck[0].startswith("release:"):  # which may end without releasing its lock
                assert in_a_thread(lambda mon=mon: mon.wait(0)) == [], struck
            assert node.deleted or struck
        at += 1
        figures["signals"] += 1
    assert at > 5


def test_borrowed_ring_is_closed_by_the_call_then_nobody_owns_it():
    ring = in_a_thread(lambda: rings.Ring(2))
    ring._borrow(ring.close)
    assert (ring.state, ring.owner, ring.sq.owner) == ("closed", 0, 0)


def test_interrupted_anywhere_in_close_then_the_table_has_drained_its_request():
    """A table that was skipped would free memory to which the kernel still writes."""
    struck, at = [""], 0
    while struck:
        ring, (a, b), memory = rings.Ring(8), socket.socketpair(), buffers.allocate(64)
        fd = ring.fileno()
        told: list[object] = []
        ring.before_close.append(lambda ring, explicit, told=told: told.append("first"))
        table = InFlight(ring)
        ring.before_close.append(lambda ring, explicit, told=told: told.append("last"))

        def answer(res, flags, told=told):
            told.append(res)

        with a, b:
            table.start(ops.prep_read, a.fileno(), pin(memory, writable=True), None, 0, handler=answer)
            ring.submit()
            with warnings.catch_warnings(record=True) as kept, strike_anywhere(at, "handle.py") as struck:
                warnings.simplefilter("always")
                ring.close()
            ring.close()  # it repeats nothing that has been done
            assert ring.closed
            assert len(table) == 0, struck
            # The first was struck while draining: the memory is kept, with a warning.
            assert told.count(-errno.ECANCELED) + len(kept) == 1, struck
            assert {"first", "last"} <= set(told), struck
        if leaks.is_ring(fd):  # between two instructions, between which CPython 3.11 and newer run no handler
            assert struck[0].startswith("_close_fd:")
            os.close(fd)
        at += 1
        figures["signals"] += 1
    assert at > 10
