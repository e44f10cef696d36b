# SPDX-License-Identifier: MIT
"""One contract for every selector: the same tests over io_uring, epoll and poll.

The standard library's EpollSelector passes the same tests, so that the contract is its behaviour, not our
opinion of it. If a strategy may differ, the test names it.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import random
import select
import selectors
import signal
import socket
import sys
import threading
import time

import pytest
from strategies import ready, selector_of
from strikes import Leave, Strikes

from rawuring import rings
from rawuring.selector import STRATEGIES

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
IN_RING = tuple(STRATEGIES)
STDLIB = ("epoll", "poll", "EpollSelector")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="epoll (Linux)")


def make(backend: str) -> selectors.BaseSelector:
    if backend == "EpollSelector":
        return selectors.EpollSelector()
    return selector_of(backend)


@pytest.fixture(params=IN_RING + STDLIB)
def backend(request) -> str:
    make(request.param).close()
    return request.param


@pytest.fixture
def sel(backend):
    sel = make(backend)
    yield sel
    sel.close()


# Behaviour of strategies over io_uring alone.
@pytest.fixture(params=IN_RING)
def uring(request):
    sel = make(request.param)
    yield sel
    sel.close()


def in_thread(function) -> threading.Thread:
    thread = threading.Thread(target=function)
    thread.start()
    return thread


# -- level triggering


def test_readable_until_drained_then_reported_each_time(sel, pair):
    a, b = pair
    sel.register(a, READ)
    assert ready(sel) == []
    b.send(b"xy")
    for timeout in (0, None, 1, 0.001):
        assert ready(sel, timeout) == [(a.fileno(), READ)]
    a.recv(1)
    assert ready(sel, None) == [(a.fileno(), READ)]
    a.recv(1)
    assert ready(sel) == []
    assert ready(sel, 0.002) == []


def test_ready_and_drained_between_two_selects_then_not_reported(sel, pair):
    a, b = pair
    sel.register(a, READ)
    for timeout in (0, 0.001, 0, 0.001):
        assert ready(sel, timeout) == []
        b.send(b"x")
        a.recv(1)
    assert ready(sel, 0.002) == []


def test_drained_after_a_select_that_timed_out_then_the_rest_is_right(sel, pair):
    """The request of the timed-out select() is still in the kernel, and its completion is out of date."""
    a, b = pair
    sel.register(a, READ)
    sel.register(b, READ)
    assert ready(sel, 0.001) == []
    b.send(b"x")
    a.send(b"y")
    a.recv(1)
    assert ready(sel, 1) == [(b.fileno(), READ)]
    b.recv(1)
    assert ready(sel, 0.001) == []


def test_write_interest_then_reported_while_there_is_room(sel, pair):
    a, b = pair
    sel.register(a, WRITE)
    assert ready(sel, None) == [(a.fileno(), WRITE)]
    while True:
        try:
            a.send(bytes(4096))
        except BlockingIOError:
            break
    assert ready(sel) == []
    while True:
        try:
            b.recv(1 << 16)
        except BlockingIOError:
            break
    assert ready(sel, 5) == [(a.fileno(), WRITE)]


def test_both_interests_then_both_events(sel, pair):
    a, b = pair
    sel.register(a, READ | WRITE)
    assert ready(sel) == [(a.fileno(), WRITE)]
    b.send(b"x")
    assert ready(sel) == [(a.fileno(), READ | WRITE)]


# -- hang-ups and errors


def test_peer_closed_then_readable(sel, pair):
    a, b = pair
    sel.register(a, READ)
    assert ready(sel) == []
    b.close()
    assert ready(sel, None) == [(a.fileno(), READ)]
    sel.modify(a, READ | WRITE)
    assert ready(sel, None) == [(a.fileno(), READ | WRITE)]


def test_reader_of_a_pipe_closed_then_the_writer_is_told(sel, pipe):
    r, w = pipe
    while True:
        try:
            os.write(w, bytes(65536))
        except BlockingIOError:
            break
    sel.register(w, WRITE)
    assert ready(sel) == []
    os.close(r)
    assert ready(sel, None) == [(w, WRITE)]


def test_writer_of_a_pipe_closed_then_the_reader_is_told(sel, pipe):
    r, w = pipe
    sel.register(r, READ)
    assert ready(sel, 0.001) == []
    os.close(w)
    assert ready(sel, None) == [(r, READ)]


def test_connection_refused_then_writable(sel):
    with socket.socket() as listener, socket.socket() as sock:
        listener.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        code = sock.connect_ex(listener.getsockname())
        assert code in (errno.EINPROGRESS, errno.ECONNREFUSED)
        sel.register(sock, WRITE)
        assert ready(sel, 5) == [(sock.fileno(), WRITE)]
        sel.unregister(sock)


def test_half_closed_peer_when_only_writing_is_of_interest_then_no_spinning(sel, pair):
    """RDHUP was not requested: a full socket whose peer shut down its side is not ready for anything."""
    a, b = pair
    while True:
        try:
            a.send(bytes(4096))
        except BlockingIOError:
            break
    sel.register(a, WRITE)
    b.shutdown(socket.SHUT_WR)
    assert ready(sel) == []
    ring = getattr(sel, "ring", None)
    before = ring.statistics().enters if ring else 0
    assert ready(sel, 0.02) == []
    assert (ring.statistics().enters if ring else 0) - before <= 3
    sel.modify(a, READ)
    assert ready(sel, None) == [(a.fileno(), READ)]


# -- changes


def test_modify_then_only_the_new_interest(sel, pair):
    a, b = pair
    sel.register(a, WRITE, "old")
    assert ready(sel) == [(a.fileno(), WRITE)]
    key = sel.modify(a, READ, "new")
    assert (key.events, key.data, sel.get_key(a)) == (READ, "new", key)
    assert ready(sel) == []
    assert ready(sel, 0.001) == []
    b.send(b"x")
    assert sel.select(None) == [(key, READ)]


def test_register_modify_unregister_in_one_turn_then_nothing_is_left(sel, pair):
    a, b = pair
    b.send(b"x")
    for _ in range(3):
        sel.register(a, READ)
        sel.modify(a, READ | WRITE)
        sel.unregister(a)
    assert ready(sel, 0.001) == []
    sel.register(a, READ)
    assert ready(sel) == [(a.fileno(), READ)]


def test_modify_of_data_alone_then_the_key_has_it(sel, pair):
    sel.register(pair[0], READ, 1)
    sel.modify(pair[0], READ, 2)
    pair[1].send(b"x")
    assert [key.data for key, _ in sel.select(None)] == [2]


def test_removed_in_a_callback_then_the_other_events_of_the_turn_stay_usable(sel, pair):
    a, b = pair
    a.send(b"x")
    b.send(b"x")
    sel.register(a, READ, a)
    sel.register(b, READ, b)
    events = sel.select(None)
    assert len(events) == 2
    first, second = (key.data for key, _ in events)
    sel.unregister(first)
    sel.unregister(second)
    second.close()
    assert ready(sel) == []
    # Its buffer had data, so the peer of a socket pair sees a reset.
    sel.register(first, READ)
    assert ready(sel, None) == [(first.fileno(), READ)]


def test_number_used_again_then_only_the_new_file_is_watched(sel):
    for timeout in (0, 0.001) * 10:
        r1, w1 = os.pipe()
        sel.register(r1, READ)
        assert ready(sel, timeout) == []
        sel.unregister(r1)
        os.close(r1)
        r2, w2 = os.pipe()
        assert r2 == r1
        sel.register(r2, READ)
        os.write(w2, b"x")
        assert ready(sel, None) == [(r2, READ)]
        sel.unregister(r2)
        for fd in (w1, r2, w2):
            os.close(fd)


def test_number_used_again_in_one_turn_then_only_the_new_file_is_watched(sel):
    a, b = socket.socketpair()
    sel.register(a, READ)
    sel.unregister(a)
    a.close()
    c, d = socket.socketpair()
    with b, c, d:
        sel.register(c, READ)
        b.close()
        assert ready(sel, 0.001) == []
        d.send(b"x")
        assert ready(sel, None) == [(c.fileno(), READ)]
        sel.unregister(c)


# -- rejected and closed descriptors


@pytest.mark.parametrize("events", [0, 4, 7, -1])
def test_bad_events_then_value_error_and_not_registered(sel, pair, events):
    with pytest.raises(ValueError):
        sel.register(pair[0], events)
    with pytest.raises(KeyError):
        sel.get_key(pair[0])


def test_modified_to_no_events_then_registered_and_silent(sel, pair):
    """EpollSelector.modify does not check events, and programs mute a socket that way."""
    pair[1].send(b"x")
    sel.register(pair[0], READ)
    for muted in (0, 8):
        assert sel.modify(pair[0], muted).events == muted
        assert sel.get_key(pair[0]).events == muted
        assert ready(sel, 0) == []
        with pytest.raises(TypeError):
            sel.modify(pair[0], "x")
        assert sel.get_key(pair[0]).events == muted
    sel.modify(pair[0], READ)
    assert ready(sel, 1) == [(pair[0].fileno(), READ)]


@pytest.mark.parametrize("fileobj", [-1, -10, None, "x", object()])
def test_no_file_object_then_value_error(sel, fileobj):
    with pytest.raises(ValueError):
        sel.register(fileobj, READ)


def test_registered_twice_then_key_error(sel, pair):
    sel.register(pair[0], READ)
    with pytest.raises(KeyError):
        sel.register(pair[0].fileno(), READ)


def test_not_registered_then_key_error(sel, pair):
    for call in (sel.unregister, sel.get_key, lambda fileobj: sel.modify(fileobj, READ)):
        with pytest.raises(KeyError):
            call(pair[0])


def test_regular_file_then_permission_error_as_epoll_has_it(sel, backend, tmp_path):
    if backend == "poll":
        pytest.skip("poll(2) accepts regular files")
    path = tmp_path / "file"
    path.write_bytes(b"x")
    with path.open("rb") as file:
        for fileobj in (file, file.fileno()):
            with pytest.raises(PermissionError):
                sel.register(fileobj, READ)
        assert len(sel.get_map()) == 0
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(PermissionError):
        sel.register(fd, READ)
    os.close(fd)


def test_number_that_is_not_open_then_bad_file_descriptor(sel, backend, pipe):
    if backend == "poll":
        pytest.skip("poll(2) accepts any number")
    os.close(pipe[0])
    with pytest.raises(OSError) as caught:
        sel.register(pipe[0], READ)
    assert caught.value.errno == errno.EBADF
    assert len(sel.get_map()) == 0


def test_closed_socket_then_value_error(sel, pair):
    pair[0].close()
    with pytest.raises(ValueError):
        sel.register(pair[0], READ)


def test_closed_without_unregister_then_silent_and_can_be_unregistered(sel, backend, pair):
    if backend == "poll":
        pytest.skip("poll(2) reports POLLNVAL")
    for timeout in (0, 0.001):
        a, b = socket.socketpair()
        sel.register(a, READ)
        assert ready(sel, timeout) == []
        key = sel.get_key(a)
        b.send(b"x")
        b.close()
        a.close()
        if backend != "io_uring:poll_add":  # its poll holds the file
            assert ready(sel, timeout) == []
            assert ready(sel, 0.001) == []
        assert sel.unregister(a) == key
        assert ready(sel) == []


def test_closed_before_the_first_select_then_silent(sel, backend):
    if backend == "poll":
        pytest.skip("poll(2) reports POLLNVAL")
    a, b = socket.socketpair()
    with b:
        sel.register(a, READ)
        a.close()
        assert ready(sel, 0.001) == []
        assert ready(sel) == []
        sel.unregister(a)


def test_closed_and_the_number_used_again_before_the_first_select_then_silent(sel, backend):
    if backend == "poll":
        pytest.skip("poll(2) watches numbers, not files")
    a, b = socket.socketpair()
    sel.register(a, READ)
    a.close()
    c, d = socket.socketpair()
    assert c.fileno() == sel.get_key(a).fd
    with b, c, d:
        d.send(b"x")
        assert ready(sel, 0.001) == []
        sel.unregister(a)


def test_modify_of_a_closed_socket_then_the_kernels_error(sel, backend):
    if backend == "poll":
        pytest.skip("poll(2) does not check numbers at registration")
    a, b = socket.socketpair()
    with b:
        sel.register(a, READ)
        assert ready(sel) == []
        a.close()
        with pytest.raises(OSError) as caught:
            sel.modify(a, WRITE)
        assert caught.value.errno == errno.EBADF
        assert len(sel.get_map()) == 0


def test_closed_while_a_copy_is_open_then_unregistered_and_no_endless_wait(sel, backend, pair):
    """epoll keeps reporting the closed number: select() must neither report it nor spin on it."""
    if backend == "poll":
        pytest.skip("poll(2) watches numbers, not files")
    a, b = pair
    fd = os.dup(a.fileno())
    sel.register(fd, READ)
    assert ready(sel, 0.001) == []
    os.close(fd)
    sel.unregister(fd)
    b.send(b"x")
    assert ready(sel, 0.001) == []
    assert ready(sel, 0) == []
    if backend != "io_uring:poll_add":
        assert ready(sel, 5) == []  # ends at once, with nothing
    sel.register(b, WRITE)
    # One event at a time here, alternating with the stray one.
    assert any((b.fileno(), WRITE) in ready(sel, 5) for _ in range(3))


def test_unregister_and_close_then_the_peer_sees_the_end_at_once(sel, pair):
    a, b = pair
    sel.register(a, READ)
    for timeout in (0, 0.001):
        assert ready(sel, timeout) == []
    sel.unregister(a)
    a.close()
    assert b.recv(1) == b""  # without another select(), and without waiting


def test_unregister_and_close_of_a_listener_then_the_port_is_free_at_once(sel):
    port = 0
    for _ in range(5):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            listener.listen()
            port = listener.getsockname()[1]
            sel.register(listener, READ)
            assert ready(sel, 0.001) == []
            sel.unregister(listener)


def test_close_of_the_selector_then_the_peer_sees_the_end(backend, pair):
    a, b = pair
    sel = make(backend)
    sel.register(a, READ)
    assert ready(sel, 0.001) == []
    sel.close()
    a.close()
    b.settimeout(5)
    assert b.recv(1) == b""


# -- time


def test_timeouts_then_never_early(sel, pair):
    sel.register(pair[0], READ)
    for timeout in (0.0001, 0.0005, 0.003, 0.0101):
        before = time.monotonic_ns()
        assert ready(sel, timeout) == []
        assert time.monotonic_ns() - before >= timeout * 1e9 - 1
    for timeout in (0, -1, -0.5):
        assert ready(sel, timeout) == []


def test_no_registration_then_the_timeout_holds(sel):
    before = time.monotonic_ns()
    assert sel.select(0.002) == []
    assert time.monotonic_ns() - before >= 2_000_000


def test_huge_timeout_then_accepted(sel, pair):
    sel.register(pair[0], WRITE)
    assert ready(sel, 1e6) == [(pair[0].fileno(), WRITE)]


def test_signals_while_waiting_then_handlers_run_and_the_wait_goes_on(sel, pair):
    ran = []
    old = signal.signal(signal.SIGALRM, lambda *_: ran.append(1))
    try:
        sel.register(pair[0], READ)
        signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
        before = time.monotonic_ns()
        assert sel.select(0.1) == []
        took = time.monotonic_ns() - before
        signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert took >= 100_000_000
    assert ran


# OSErrors: those that a handler constructs, and those of its own system calls.
@pytest.mark.parametrize(
    "error",
    [
        Leave(), TimeoutError("late"), BlockingIOError(errno.EAGAIN, "full"),
        PermissionError(errno.EPERM, "mine"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("timeout", [None, 5])
def test_signal_handler_that_raises_then_nothing_is_lost(sel, pair, timeout, error):
    calls = []

    def leave(*_: object) -> None:
        calls.append(1)
        raise error

    a, b = pair
    old = signal.signal(signal.SIGALRM, leave)
    gc.disable()  # whose callbacks swallow exceptions
    try:
        sel.register(a, READ)
        with pytest.raises(type(error)):  # noqa: PT012 - it may strike early
            # Repeatedly, so that a selector that swallows one does not wait forever.
            signal.setitimer(signal.ITIMER_REAL, 0.005, 0.5)
            sel.select(timeout)
        assert len(calls) == 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
        gc.enable()
    assert ready(sel) == []
    b.send(b"x")
    assert ready(sel, timeout) == [(a.fileno(), READ)]


def test_signal_handlers_that_raise_at_any_moment_then_select_stays_right(sel, make_pairs):
    """Strikes occur between any two bytecodes of select(); the oracle is poll(2)."""

    pairs = make_pairs(10)
    chance = random.Random(1)
    left = 0
    with Strikes() as strikes:
        for a, _ in pairs:
            sel.register(a, READ)
        deadline = time.monotonic() + 20
        while left < 11 or (left < 100 and time.monotonic() < deadline):
            a, b = chance.choice(pairs)
            b.send(b"x")
            for each, _ in pairs[::3]:
                sel.modify(each, sel.get_key(each).events ^ WRITE)
            strikes.arm(0.0003)
            with pytest.raises(Leave):  # noqa: PT012 - it strikes anywhere
                while True:
                    sel.select(0.00001)
            left += 1
            states = [(each.fileno(), now(each, sel.get_key(each).events)) for each, _ in pairs]
            assert ready(sel, 0.001) == sorted(state for state in states if state[1])
            if left % 5 == 0:
                for each, _ in pairs:
                    if now(each, READ):
                        each.recv(100)


def now(sock: socket.socket, events: int) -> int:
    """Ask poll(2) for the state of an open socket."""
    poll = select.poll()
    poll.register(sock, (select.POLLIN if events & READ else 0) | (select.POLLOUT if events & WRITE else 0))
    mask = poll.poll(0)[0][1] if poll.poll(0) else 0
    return (READ if mask & select.POLLIN else 0) | (WRITE if mask & select.POLLOUT else 0)


# -- many


@pytest.mark.long
def test_twenty_thousand_descriptors_then_all_are_reported(backend):
    """Many numbers for one pipe: the number of registrations counts."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 20_000 + 100
    if hard != resource.RLIM_INFINITY and hard < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
        except (ValueError, OSError):
            wanted = hard
    else:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    count = wanted - 200
    if count < 19_000:
        pytest.skip(f"RLIMIT_NOFILE of {hard} cannot be raised to 20100")
    r, w = os.pipe()
    fds: list[int] = []
    sel = make(backend)
    try:
        fds = [os.dup(r) for _ in range(count)]
        for fd in fds:
            sel.register(fd, READ)
        assert sel.select(0) == []
        os.write(w, b"x")
        for _ in range(2):
            assert {key.fd for key, _ in sel.select(None)} == set(fds)
        for fd in fds[::2]:
            sel.unregister(fd)
        assert len(sel.select(1)) == count // 2
        os.read(r, 1)
        assert sel.select(0) == []
    finally:
        for fd in (r, w, *fds):
            os.close(fd)
        sel.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


@pytest.mark.parametrize("strategy", IN_RING)
def test_more_changes_than_the_ring_has_entries_then_all_are_made(strategy, make_pairs):
    with contextlib.ExitStack() as stack:
        sel = stack.enter_context(selector_of(strategy, entries=8))
        pairs = make_pairs(100)
        for a, b in pairs:
            sel.register(a, READ)
            b.send(b"x")
        assert ready(sel, 1) == sorted((a.fileno(), READ) for a, _ in pairs)
        for a, _ in pairs:
            sel.modify(a, WRITE)
        assert ready(sel, 1) == sorted((a.fileno(), WRITE) for a, _ in pairs)


# -- nesting


def test_selector_inside_another_then_the_outer_one_sees_it(backend, pair):
    if backend == "poll":
        pytest.skip("poll(2) has no descriptor to watch")
    a, b = pair
    with make(backend) as inner, selectors.EpollSelector() as outer:
        inner.register(a, READ)
        assert ready(inner) == []
        outer.register(inner.fileno(), READ)
        assert ready(outer) == []
        b.send(b"x")
        assert ready(outer, 5) == [(inner.fileno(), READ)]
        assert ready(inner) == [(a.fileno(), READ)]
        a.recv(1)
        assert ready(inner) == []
        assert ready(outer) == []


def test_change_after_fileno_then_the_outer_one_sees_it_without_a_select(backend, pair):
    if backend == "poll":
        pytest.skip("poll(2) has no descriptor to watch")
    a, b = pair
    with make(backend) as inner, selectors.EpollSelector() as outer:
        assert ready(inner) == []
        outer.register(inner.fileno(), READ)
        b.send(b"x")
        inner.register(a, READ)
        assert ready(outer) == [(inner.fileno(), READ)]
        inner.unregister(a)
        if backend == "io_uring:poll_add":  # may be readable without cause until select()
            assert ready(inner) == []
        assert ready(outer) == []


def test_selector_of_the_same_kind_inside_then_both_work(backend, pair):
    if backend == "poll":
        pytest.skip("poll(2) has no descriptor to watch")
    a, b = pair
    with make(backend) as inner, make(backend) as outer:
        inner.register(a, READ)
        assert ready(inner) == []
        outer.register(inner.fileno(), READ)
        assert ready(outer, 0.001) == []
        b.send(b"x")
        assert ready(outer, 5) == [(inner.fileno(), READ)]
        assert ready(inner, 5) == [(a.fileno(), READ)]
        outer.unregister(inner.fileno())


def test_select_inside_a_callback_then_events_arrive(sel, pair):
    a, b = pair
    sel.register(a, READ)
    b.send(b"x")
    for key, _ in sel.select(None):
        key.fileobj.recv(1)
        assert ready(sel) == []
        b.send(b"y")
        assert ready(sel, None) == [(a.fileno(), READ)]


def test_select_in_a_signal_handler_then_both_answer(sel, backend, pair):
    if backend in ("poll", "io_uring:poll_add"):
        pytest.skip("a strategy with several waiters")
    a, b = pair
    got = []

    def handler(*_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        b.send(b"x")
        got.extend(ready(sel, 0))

    old = signal.signal(signal.SIGALRM, handler)
    try:
        sel.register(a, READ)
        # Repeatedly: a signal just before the system call does not end its wait.
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.5)
        assert ready(sel, 5) == [(a.fileno(), READ)]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert got in ([(a.fileno(), READ)], [])


# -- threads


def test_made_in_one_thread_and_used_in_another_then_it_works(backend, pair):
    a, b = pair
    made: list = []
    in_thread(lambda: made.append(make(backend))).join()
    with made[0] as sel:
        sel.register(a, READ)
        b.send(b"x")
        assert ready(sel, 1) == [(a.fileno(), READ)]


def test_used_by_one_thread_after_another_then_nothing_is_lost(sel, pair):
    """asyncio allows a loop to run in one thread, then in another, while both are alive."""
    a, b = pair
    got: list = []
    sel.register(a, READ)
    for turn in range(6):
        use = (lambda: got.append(ready(sel, 0.001))) if turn % 2 else (lambda: got.append(ready(sel, 5)))
        if not turn % 2:
            b.send(b"x")
        if turn < 3:
            in_thread(use).join()
        else:
            use()
        if not turn % 2:
            a.recv(1)
    assert got == [[(a.fileno(), READ)], []] * 3


def test_moves_between_two_living_threads_then_nothing_is_lost(backend, pair):
    a, b = pair
    if backend == "io_uring:poll_add":
        pytest.skip("one-shot polls belong to a thread while it lives")
    with make(backend) as sel:
        sel.register(a, READ)
        mine, theirs = threading.Semaphore(0), threading.Semaphore(0)
        got: list = []

        def other() -> None:
            for _ in range(10):
                theirs.acquire()
                got.append(ready(sel, 0.0005))
                mine.release()

        thread = in_thread(other)
        for _ in range(10):
            assert ready(sel, 0.0005) == []
            b.send(b"x")
            theirs.release()
            mine.acquire()
            a.recv(1)
        thread.join()
    assert got == [[(a.fileno(), READ)]] * 10


def test_registered_by_another_thread_while_waiting_then_noticed(sel, backend, pair):
    if backend == "poll":
        pytest.skip("poll(2) copies the set")
    a, b = pair
    b.send(b"x")
    entered = threading.Semaphore(0)
    main = threading.get_native_id()

    def other() -> None:
        entered.acquire()
        while not waits_in_the_kernel(main):
            continue
        sel.register(a, READ)

    for timeout in (None, 10):
        thread = in_thread(other)
        entered.release()
        assert ready(sel, timeout) == [(a.fileno(), READ)]
        thread.join()
        sel.unregister(a)


def waits_in_the_kernel(thread: int) -> bool:
    with open(f"/proc/self/task/{thread}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "S"


def test_changes_from_four_threads_while_one_selects_then_none_is_lost(sel, backend):
    if backend == "poll":
        pytest.skip("select.poll is not thread-safe")
    with contextlib.ExitStack() as stack:  # also if it fails: the next test would get the warnings
        pairs = [tuple(map(stack.enter_context, socket.socketpair())) for _ in range(5)]
        change_from_threads(sel, *pairs)


def change_from_threads(sel, pair_to_wake, *pairs):
    wake, waker = pair_to_wake

    def churn(sock: socket.socket) -> None:
        for _ in range(200):
            sel.register(sock, WRITE)
            sel.modify(sock, READ)
            sel.unregister(sock)
        sel.register(sock, WRITE)
        waker.send(b"x")

    sel.register(wake, READ)
    threads = [in_thread(lambda sock=a: churn(sock)) for a, _ in pairs]
    try:
        while any(thread.is_alive() for thread in threads):
            sel.select(0.001)
    finally:
        for thread in threads:
            thread.join()
    expected = sorted([(wake.fileno(), READ), *((a.fileno(), WRITE) for a, _ in pairs)])
    assert ready(sel, 1) == expected


# -- the end, and fork


def test_after_close_then_refused(backend, pair):
    sel = make(backend)
    sel.register(pair[0], READ)
    mapping = sel.get_map()
    sel.close()
    sel.close()
    with pytest.raises(RuntimeError):
        sel.get_key(pair[0])
    with pytest.raises(KeyError):
        mapping[pair[0]]
    if backend != "poll":
        with pytest.raises(ValueError):
            sel.select(0)
        with pytest.raises(ValueError):
            sel.register(pair[1], READ)
        with pytest.raises(ValueError):
            sel.fileno()


@pytest.mark.leakcheck
def test_closed_or_forgotten_then_no_descriptor_is_left(backend, pair):
    for forget in (False, True):
        sel = make(backend)
        sel.register(pair[0], READ)
        assert sel.select(0.001) == []
        if not forget:
            sel.close()
        del sel  # leakcheck collects what is left


def test_in_a_forked_child_then_the_parent_is_not_disturbed(backend, pair):
    a, b = pair
    with make(backend) as sel:
        sel.register(a, READ)
        assert ready(sel, 0.001) == []
        pid = os.fork()
        if not pid:
            try:
                sel.close()
                os._exit(0)
            except BaseException:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        b.send(b"x")
        assert ready(sel, 1) == [(a.fileno(), READ)]


def test_forked_child_that_modifies_then_forked_ring(uring, pair):
    uring.register(pair[0], READ)
    assert ready(uring, 0.001) == []
    pid = os.fork()
    if not pid:
        try:
            uring.modify(pair[0], READ | WRITE)
        except rings.ForkedRing:
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_forked_child_that_unregisters_then_the_parent_still_hears(uring, pair):
    """With EpollSelector the child would remove the descriptor from the parent's set."""
    a, b = pair
    uring.register(a, READ)
    assert ready(uring, 0.001) == []
    pid = os.fork()
    if not pid:
        try:
            uring.unregister(a)
            try:
                uring.select(0)
            except OSError:
                os._exit(3)
            except RuntimeError as error:
                os._exit(0 if "fork" in str(error) else 4)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    b.send(b"x")
    assert ready(uring, 1) == [(a.fileno(), READ)]


# -- system calls


@pytest.mark.parametrize("timeout", [0, 1, None])
def test_any_number_of_changes_and_events_then_one_system_call(uring, timeout, make_pairs):
    """Only io_uring_enter is counted: a watched epoll set needs an epoll_wait as well."""
    pairs = make_pairs(300)
    enters = lambda: uring.ring.statistics().enters  # noqa: E731
    for a, b in pairs:
        uring.register(a, READ)
        b.send(b"x")
    before = enters()
    assert len(uring.select(timeout)) == 300
    assert enters() - before == 1
    for a, _ in pairs:
        uring.modify(a, WRITE)
    assert enters() - before == 1
    assert len(uring.select(timeout)) == 300
    assert enters() - before == 2
    assert len(uring.select(timeout)) == 300
    assert enters() - before <= 3
    for a, _ in pairs:
        before = enters()
        uring.unregister(a)
        assert enters() - before <= 1


def test_idle_select_then_one_system_call(uring, pair):
    uring.register(pair[0], READ)
    uring.select(0)
    for _ in range(3):
        before = uring.ring.statistics().enters
        assert uring.select(0.001) == []
        assert uring.ring.statistics().enters - before == 1


# -- against the oracle


@pytest.mark.parametrize("seed", range(4))
def test_random_changes_then_every_answer_is_that_of_epoll_selector(uring, seed):
    """Two selectors watch the same sockets through the same changes; exceptions are compared, too."""
    chance = random.Random(seed)
    oracle = selectors.EpollSelector()
    pairs = [socket.socketpair() for _ in range(8)]
    try:
        for pair in pairs:
            for sock in pair:
                sock.setblocking(False)
        for _ in range(1500):
            index = chance.randrange(len(pairs))
            a, b = pairs[index]
            action = chance.randrange(8)
            fileobj = a if chance.random() < 0.5 or a.fileno() < 0 else a.fileno()
            events = chance.choice([READ, WRITE, READ | WRITE])
            if action == 0:
                both(uring, oracle, lambda sel, f=fileobj, e=events: sel.register(f, e))
            elif action == 1:
                both(uring, oracle, lambda sel, f=fileobj: sel.unregister(f))
            elif action == 2:
                both(uring, oracle, lambda sel, f=fileobj, e=events: sel.modify(f, e))
            elif action == 3:
                attempt(lambda b=b: b.send(b"x"))
            elif action == 4:
                attempt(lambda a=a: a.recv(10))
            elif action == 5:
                attempt(lambda b=b: b.shutdown(socket.SHUT_WR))
            elif action == 6 and chance.random() < 0.3:
                both(uring, oracle, lambda sel, a=a: sel.unregister(a))
                a.close()
                b.close()
                pairs[index] = socket.socketpair()
                for sock in pairs[index]:
                    sock.setblocking(False)
            timeout = chance.choice([0, 0, 0.00001])
            assert ready(uring, timeout) == ready(oracle, timeout)
            assert dict(uring.get_map()) == dict(oracle.get_map())
    finally:
        oracle.close()
        for pair in pairs:
            for sock in pair:
                sock.close()


def attempt(action):
    try:
        return action()
    except (OSError, ValueError, KeyError) as error:
        return type(error), getattr(error, "errno", None)


def both(one, other, action) -> None:
    first, second = (attempt(lambda sel=sel: action(sel)) for sel in (one, other))
    assert first == second
