# SPDX-License-Identifier: MIT
"""Every row of epollwait.MACHINE: the state that the table names, and a correct selector afterwards.

Each state is reached by the shortest path in the table. Events while changes are on their way occur just
before the kernel consumes them or just after, from a signal handler (that is, inside the call) or from
another thread.
"""

from __future__ import annotations

import functools
import itertools
import os
import selectors
import socket
import tempfile
import threading

import pytest
from strategies import selector_of
from strikes import Struck

from rawuring.selector import MACHINE, IoUringSelector

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
ON_THE_WAY = {"adding", "changing", "overtaken", "abandoned"}
ENDS = {"sent", "struck", "denied"}


def way_to(state: str) -> list[str]:
    """Return the fewest events that lead from unknown to a state, but not past the end of the ring."""
    ways: dict[str, list[str]] = {"unknown": []}
    for current in (queue := ["unknown"]):
        for event, then in MACHINE[current].items():
            if then not in ways and event not in ("apply", "closed"):
                ways[then] = [*ways[current], event]
                queue.append(then)
    return ways[state]


class Play:
    """A selector with one descriptor, to which the events of a row happen."""

    def __init__(self, sel: IoUringSelector, monkeypatch, events, taken: bool, thread: bool) -> None:
        self.sel, self.events, self.taken, self.thread = sel, list(events), taken, thread
        self.inside = False
        # Before Linux 5.17 changes are sent first, with submit().
        for name in ("submit", "submit_and_wait"):
            monkeypatch.setattr(sel.ring, name, functools.partial(self.sent, getattr(sel.ring, name)))
        self.one, self.two = socket.socketpair()
        self.one.send(b"x")
        self.two.send(b"x")  # ready for everything
        # Only an object shows that it was closed; only a number is not vouched for.
        self.by_object = "closed" in events
        self.fd = self.one.fileno()
        if "denied" in events:
            with tempfile.TemporaryFile() as file:
                self.fd = os.dup(file.fileno())
        self.states = ["unknown"]
        self.closed = False

    def state(self) -> str:
        return self.sel._strategy.state(self.fd)

    def all(self) -> None:
        """Let all events happen, and check each state."""
        while self.events:
            event = self.events.pop(0)
            then = MACHINE[self.states[-1]][event]
            if event == "send":
                self.states.append(then)
                self.turn()
            else:
                self.happen(event)
                self.see(then)

    def see(self, state: str) -> None:
        self.states.append(state)
        assert self.state() == state, self.states

    def turn(self) -> None:
        """Run a select() until its changes are sent, or an exception is raised."""
        self.inside, self.then = True, None
        try:
            self.sel.select(0)
        except Struck:
            pass
        self.inside = False
        if self.then is not None:
            self.see(self.then)

    def sent(self, real, *arguments):
        if not self.inside:
            return real(*arguments)
        self.inside = False
        if self.taken:
            result = real(*arguments)
        assert self.state() == self.states[-1], self.states
        while self.events:
            event = self.events.pop(0)
            self.then = MACHINE[self.states[-1]][event]
            if event in ENDS:
                break
            if self.thread:
                thread = threading.Thread(target=self.happen, args=(event,))
                thread.start()
                thread.join()
            else:
                self.happen(event)
            self.see(self.then)
            self.then = None
        if self.then and event == "struck":
            raise Struck
        return result if self.taken else real(*arguments)

    def happen(self, event: str) -> None:
        sel, fd = self.sel, self.fd
        if "refused" in self.states and not os.path.samestat(os.fstat(fd), os.fstat(self.one.fileno())):
            os.dup2(self.one.fileno(), fd)  # now it can be watched
        if event in ("change", "judge"):
            sel.trusting = event == "change"
            file = self.one if self.by_object else fd
            if fd in sel.get_map():
                sel.modify(file, READ + WRITE - sel.get_key(fd).events)
            else:
                sel.register(file, READ)
        elif event == "remove":
            sel.unregister(fd)
        elif event == "closed":
            self.one.close()
            self.closed = True
            sel.select(0)
        elif event == "apply":
            sel.fileno()
        else:
            raise AssertionError(event)

    def check(self) -> None:
        """Require that exactly the registered descriptor is reported, once."""
        keys = self.sel.get_map()
        expected = [(key, key.events) for key in keys.values() if not self.closed]
        for timeout in (0, 0.001, 0):
            self.sel.select(timeout)  # abandoned numbers appear, and are removed
        for timeout in (0, 0.001):
            assert self.sel.select(timeout) == expected
        assert self.state() in ("unknown", "given", "refused") or self.closed

    def close(self) -> None:
        self.one.close()
        self.two.close()
        if "denied" in self.states or self.fd not in (self.one.fileno(), -1):
            try:
                os.close(self.fd)
            except OSError:
                return


ROWS = [(state, event) for state, row in MACHINE.items() for event in row]


@pytest.mark.parametrize("backend", ["io_uring:epoll_wait", "io_uring:epoll_poll"])
@pytest.mark.parametrize(("state", "event"), ROWS, ids=["-".join(row) for row in ROWS])
def test_row_of_the_machine_then_its_state_and_a_selector_that_is_right(
    requires_io_uring, monkeypatch, backend, state, event
):
    for taken, thread in itertools.product((False, True), repeat=2):
        with selector_of(backend, entries=8) as sel, monkeypatch.context() as patch:
            events = [*way_to(state), event]
            if event == "closed" and "judge" in events:
                events[:1] = ["change", "send", "sent"]  # an object is vouched for
            play = Play(sel, patch, events, taken, thread)
            play.all()
            assert play.states[-1] == MACHINE[state][event]
            play.check()
        play.close()


def test_machine_then_every_state_can_be_reached_and_left():
    assert {then for row in MACHINE.values() for then in row.values()} == set(MACHINE)
    assert all(way_to(state) or state == "unknown" for state in MACHINE)
    for state, row in MACHINE.items():
        assert ({"sent", "struck"} <= set(row)) == (state in ON_THE_WAY)
