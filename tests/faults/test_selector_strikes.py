# SPDX-License-Identifier: MIT
"""Signal handlers that raise at every moment of a selector's calls, one after the other.

The kernel must write only to memory passed to it, whatever a handler interrupts: canaries follow each piece.
Afterwards the selector must be correct: it reports the registered descriptors, once, as does an EpollSelector
that went through the same.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import selectors
import socket
from collections.abc import Callable, Iterator

import pytest
from harness import figures, strike
from strategies import selector_of

from rawuring import buffers
from rawuring.selector import STRATEGIES, IoUringSelector

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
FENCE = b"\xc5" * 8192


@pytest.fixture(params=list(STRATEGIES))
def make(request, requires_io_uring) -> Callable[..., IoUringSelector]:
    return functools.partial(selector_of, request.param, entries=8)


@pytest.fixture(autouse=True)
def no_finalizer_is_struck() -> Iterator[None]:
    """A finalizer of the previous test's selector would swallow a strike and print it to stderr."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def fences(monkeypatch) -> Iterator[Callable[[], None]]:
    """Put canaries behind all memory that the package allocates; yield a function that checks them."""
    made, real = [], buffers.allocate

    def allocate(nbytes: int) -> object:
        memory = real(nbytes + len(FENCE))
        memory[nbytes:] = FENCE
        made.append((memory, nbytes))
        return memory

    def look() -> None:
        for memory, nbytes in made:
            assert memory[nbytes:] == FENCE, "the kernel wrote past the end of its memory"
        del made[:]

    monkeypatch.setattr(buffers, "allocate", allocate)
    yield look
    look()


@pytest.fixture
def fds() -> Iterator[list[int]]:
    """Descriptors that are always readable and writable."""
    made: list[int] = []
    for _ in range(35):
        one, two = socket.socketpair()
        one.send(b"x")
        two.send(b"x")
        made += [one.detach(), two.detach()]
    yield made
    for fd in made:
        os.close(fd)


def reported(sel: selectors.BaseSelector, timeout: float = 0) -> list[tuple[int, int]]:
    return sorted((key.fd, events) for key, events in sel.select(timeout))


def registered(sel: selectors.BaseSelector) -> list[tuple[int, int]]:
    return sorted((key.fd, key.events) for key in sel.get_map().values())


def check(sel: selectors.BaseSelector) -> None:
    """Everything that is registered is ready."""
    for timeout in (0, 0.01, 0):  # stray events may cost a turn, as in EpollSelector
        found = reported(sel, timeout)
        assert len(found) == len(dict(found))
    for timeout in (0, 1):
        assert reported(sel, timeout) == registered(sel)


@pytest.mark.unwatched("debug mode makes additional calls")
@pytest.mark.parametrize(("before", "more"), [(16, 4), (64, 3)])
def test_memory_grows_while_a_handler_raises_at_every_moment_then_the_kernel_stays_inside(
    make, fences, fds, before, more
):
    """The capacity was recorded before the memory was allocated: epoll_wait() then wrote past the old one."""
    with make() as sel:
        if sel.backend == "io_uring:poll_add":
            pytest.skip("single polls: the kernel writes no events into our memory")
    moments, ended = 0, False
    while not ended:
        with make(trusting=True) as sel:
            for fd in fds[:before]:
                sel.register(fd, READ)
            for timeout in (0.001, 0, 0):
                assert len(sel.select(timeout)) == before
            for fd in fds[before : before + more]:
                sel.register(fd, READ)
            if before < 64:
                sel.select(0)  # tells the kernel; the next one queries without the ring
            with strike(moments) as struck:
                sel.select(0)
            ended = not struck
            check(sel)
            fences()
        moments += 1
    figures["strikes at a selector"] += moments
    assert moments > 5


def use(sel: selectors.BaseSelector, fds: list[int]) -> None:
    sel.register(fds[0], READ)
    sel.modify(fds[1], WRITE, "other")
    sel.modify(fds[2], READ, "data")
    sel.unregister(fds[3])
    sel.select(0)
    sel.unregister(fds[4])
    sel.modify(fds[0], READ | WRITE)
    sel.register(fds[3], WRITE)
    sel.select(0.001)
    sel.modify(fds[1], READ)
    sel.select(0)


@pytest.mark.long
@pytest.mark.unwatched("debug mode makes additional calls")
@pytest.mark.parametrize("trusting", [False, True])
def test_handler_raises_at_every_moment_of_every_call_then_what_is_registered_is_reported_once(
    make, fences, fds, trusting
):
    moments, ended = 0, False
    while not ended:
        with make(trusting=trusting) as sel:
            for fd in fds[1:6]:
                sel.register(fd, READ)
            assert len(sel.select(0)) == 5
            with strike(moments) as struck:
                use(sel, fds)
            ended = not struck
            check(sel)
            for fd in fds[:6]:
                with contextlib.suppress(KeyError):
                    sel.unregister(fd)
            assert reported(sel) == []
            for fd in fds[:3]:
                sel.register(fd, WRITE)
            check(sel)
            fences()
        moments += 1
    figures["strikes at a selector"] += moments
    assert moments > 100
