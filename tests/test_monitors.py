# SPDX-License-Identifier: MIT
"""One contract for every monitor: the same tests run over each strategy, and select.poll is the oracle."""

from __future__ import annotations

import errno
import gc
import importlib.util
import io
import itertools
import os
import platform
import re
import select
import signal
import socket
import threading
import time
from pathlib import Path

import leaks
import pytest
from strikes import Leave, Strikes

from rawuring import buffers, fdmon, ops, syscalls
from rawuring.fdmon import POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT, POLLPRI, AioHandler
from rawuring.rings import ForkedRing, RingClosed, WrongThread
from rawuring.syscalls import Unavailable

MILLISECOND = 1_000_000


def make(backend: str) -> fdmon.FDMon:
    try:
        return fdmon.setup((backend,))
    except Unavailable as error:
        pytest.skip(f"io_uring (Linux 5.1): {error}")


@pytest.fixture(params=["io_uring", "poll"])
def monitor(request):
    mon = make(request.param)
    yield mon
    mon.destroy()


@pytest.fixture
def uring():
    mon = make("io_uring")
    yield mon
    mon.destroy()


# -- reported events


def test_wait_when_nothing_is_ready_then_empty_at_the_timeout(monitor, pipe):
    monitor.add(pipe[0], POLLIN)
    for timeout_ns in (0, -1, 3 * MILLISECOND):
        before = time.monotonic_ns()
        assert monitor.wait(timeout_ns) == []
        assert time.monotonic_ns() - before >= max(timeout_ns, 0)


def test_wait_without_handlers_then_empty(monitor):
    assert monitor.wait(0) == []


def test_readable_until_drained_then_level_triggered(monitor, pipe):
    node = monitor.add(pipe[0], POLLIN)
    os.write(pipe[1], b"ab")
    for _ in range(3):
        assert monitor.wait(None) == [(node, POLLIN)]
    os.read(pipe[0], 1)
    assert monitor.wait(0) == [(node, POLLIN)]
    os.read(pipe[0], 1)
    assert monitor.wait(0) == []


def test_ready_and_drained_between_two_waits_then_not_reported(monitor, pipe):
    monitor.add(pipe[0], POLLIN)
    assert monitor.wait(0) == []
    os.write(pipe[1], b"x")
    os.read(pipe[0], 1)
    assert monitor.wait(0) == []


def test_event_while_waiting_then_woken(monitor, pipe):
    node = monitor.add(pipe[0], POLLIN)
    started = threading.Event()

    def write() -> None:
        started.wait()
        os.write(pipe[1], b"x")

    thread = threading.Thread(target=write)
    thread.start()
    started.set()
    assert monitor.wait(None) == [(node, POLLIN)]
    thread.join()


def test_writable_and_readable_then_both_bits(monitor, pair):
    node = monitor.add(pair[0].fileno(), POLLIN | POLLOUT)
    assert monitor.wait(0) == [(node, POLLOUT)]
    pair[1].send(b"x")
    assert monitor.wait(0) == [(node, POLLIN | POLLOUT)]


def test_peer_closed_then_hup_even_with_no_events_wanted(monitor, pair):
    node = monitor.add(pair[0].fileno(), 0)
    assert monitor.wait(0) == []
    pair[1].close()
    assert monitor.wait(None) == [(node, POLLHUP)]


def test_reader_of_a_pipe_closed_then_err_on_the_writer(monitor, pipe):
    node = monitor.add(pipe[1], POLLOUT)
    os.close(pipe[0])
    assert monitor.wait(0) == [(node, POLLOUT | POLLERR)]


def test_descriptor_not_open_then_nval_each_time(monitor):
    fd = os.open("/dev/null", os.O_RDONLY)
    os.close(fd)
    node = monitor.add(fd, POLLIN)
    for _ in range(3):
        assert monitor.wait(0) == [(node, POLLNVAL)]


def test_regular_file_then_always_ready_as_poll_says(monitor, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x")
    with path.open("rb") as file:
        node = monitor.add(file.fileno(), POLLIN | POLLOUT)
        oracle = select.poll()
        oracle.register(file.fileno(), POLLIN | POLLOUT)
        assert [(node.fd, mask) for node, mask in monitor.wait(None)] == oracle.poll(0) == [(node.fd, 5)]


def test_half_closed_peer_then_no_event_and_no_spinning(monitor, pair):
    """POLL_ADD completes for RDHUP, wanted or not: the monitor must neither report it nor spin on it."""
    node = monitor.add(pair[0].fileno(), 0)
    pair[1].shutdown(socket.SHUT_WR)
    assert monitor.wait(0) == []
    if monitor.backend == "io_uring":
        before = monitor.ring.statistics().enters
        assert monitor.wait(20 * MILLISECOND) == []
        assert monitor.ring.statistics().enters - before <= 2
    node = monitor.modify(node, POLLIN)
    assert monitor.wait(0) == [(node, POLLIN)]
    node = monitor.modify(node, POLLOUT)
    assert monitor.wait(0) == [(node, POLLOUT)]
    monitor.remove(node)
    assert monitor.wait(0) == []


def test_half_closed_peer_when_it_goes_then_hup(monitor, pair):
    node = monitor.add(pair[0].fileno(), 0)
    pair[1].shutdown(socket.SHUT_WR)
    assert monitor.wait(0) == []
    pair[1].close()
    assert monitor.wait(None) == [(node, POLLHUP)]
    assert monitor.wait(None) == [(node, POLLHUP)]


def test_two_half_closed_handlers_of_one_descriptor_then_each_its_own(monitor, pair):
    a = monitor.add(pair[0].fileno(), 0)
    b = monitor.add(pair[0].fileno(), 0)
    pair[1].shutdown(socket.SHUT_WR)
    assert monitor.wait(0) == []
    monitor.remove(a)
    assert monitor.wait(0) == []
    pair[1].close()
    assert monitor.wait(None) == [(b, POLLHUP)]


def test_many_descriptors_then_each_reported_once(monitor, make_pairs):
    pairs = make_pairs(400)
    nodes = {monitor.add(a.fileno(), POLLIN) for a, _ in pairs}
    assert monitor.wait(0) == []
    for _, b in pairs:
        b.send(b"x")
    events = monitor.wait(None)
    assert {node for node, _ in events} == nodes
    assert len(events) == len(nodes)


@pytest.mark.parametrize("events", [0, POLLIN | POLLPRI])
def test_parked_number_closed_while_its_file_lives_on_then_no_spinning(monitor, pair, events):
    """An epoll set keeps reporting such a file, and can no longer remove it."""
    pair[1].shutdown(socket.SHUT_WR)
    stays = monitor.add(pair[1], POLLPRI)
    number = os.dup(pair[0].fileno())
    node = monitor.add(number, events)
    monitor.wait(0)
    monitor.remove(node)
    os.close(number)
    assert monitor.wait(0) == []
    pair[0].shutdown(socket.SHUT_WR)  # hangs up on both
    if monitor.ring is not None:
        before = monitor.ring.statistics().enters
    assert monitor.wait(20 * MILLISECOND) == [(stays, POLLHUP)]
    monitor.remove(stays)
    assert monitor.wait(20 * MILLISECOND) == []
    if monitor.ring is not None:
        assert monitor.ring.statistics().enters - before <= 6


def test_regular_file_without_wanted_events_then_never_ready_and_no_spinning(monitor, tmp_path):
    """POLL_ADD completes with EINVAL, and epoll rejects regular files."""
    with (tmp_path / "file").open("wb") as file:
        for events in (0, POLLPRI):
            node = monitor.add(file, events)
            assert monitor.wait(0) == []
            if monitor.ring is not None:
                before = monitor.ring.statistics().enters
                assert monitor.wait(20 * MILLISECOND) == []
                assert monitor.ring.statistics().enters - before <= 2
            monitor.remove(node)
        node = monitor.add(file, POLLIN | POLLPRI)
        for _ in range(2):
            assert monitor.wait(0) == [(node, POLLIN)]
        monitor.remove(node)
        assert monitor.wait(0) == []


def test_no_descriptor_is_left_for_the_parking_lot_then_the_others_go_on(uring, pair, pipe, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    node = uring.add(pipe[0], POLLIN)
    os.write(pipe[1], b"x")
    half = uring.add(pair[0], 0)
    pair[1].shutdown(socket.SHUT_WR)
    with monkeypatch.context() as patch:
        patch.setattr(select, "epoll", full)
        for _ in range(3):
            assert uring.wait(0) == [(node, POLLIN)]
    pair[1].close()
    assert (half, POLLHUP) in uring.wait(0)


def test_poll_of_the_parking_lot_that_is_late_then_what_is_parked_is_reported_all_the_same(uring, pair):
    """The kernel completes it late if a file wakes its pollers while it is armed: here, never."""
    node = uring.add(pair[0], POLLIN | POLLPRI)
    assert uring.wait(0) == []
    pair[1].send(b"x")
    assert uring.wait(0) == [(node, POLLIN)]
    uring.fill_sq_ring()
    assert uring.ring.discard()
    assert uring.wait(0) == [(node, POLLIN)]


def _urgent():
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        peer = server.accept()[0]
    yield peer.fileno(), [client, peer], [
        (lambda: client.send(b"!", socket.MSG_OOB), POLLPRI),
        (lambda: client.send(b"x"), POLLIN),
        (lambda: peer.recv(1, socket.MSG_OOB), 0),
        (lambda: client.shutdown(socket.SHUT_WR), 0x2000),
    ]


def _unix():
    a, b = socket.socketpair()
    yield a.fileno(), [a, b], [
        (lambda: b.send(b"x"), POLLIN),
        (lambda: b.shutdown(socket.SHUT_WR), 0x2000),
        (lambda: a.recv(1), 0),
        (b.close, POLLHUP),
    ]


def _reading_pipe():
    r, w = os.pipe()
    files = [os.fdopen(r, "rb", 0), os.fdopen(w, "wb", 0)]
    yield r, files, [(lambda: files[1].write(b"x"), POLLIN), (files[1].close, POLLHUP)]


def _writing_pipe():
    r, w = os.pipe2(os.O_NONBLOCK)
    files = [os.fdopen(r, "rb", 0), os.fdopen(w, "wb", 0)]
    while files[1].write(bytes(65536)):
        pass
    yield w, files, [(lambda: files[0].read(1 << 20), POLLOUT), (files[0].close, POLLERR)]


def _terminal():
    master, slave = os.openpty()
    files = [os.fdopen(master, "rb+", 0), os.fdopen(slave, "rb+", 0)]
    yield master, files, [(lambda: files[1].write(b"x"), POLLIN), (files[1].close, POLLHUP)]


def _counter():
    if not hasattr(os, "eventfd"):
        pytest.skip("os.eventfd (Python 3.10)")
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    os.eventfd_write(fd, (1 << 64) - 2)
    file = os.fdopen(fd, "rb", 0)
    yield fd, [file], [(lambda: os.eventfd_read(fd), POLLOUT), (lambda: os.eventfd_write(fd, 1), POLLIN)]


@pytest.mark.parametrize("make_file", [_urgent, _unix, _reading_pipe, _writing_pipe, _terminal, _counter])
def test_every_mask_when_each_thing_happens_then_as_select_poll_says(monitor, make_file):
    bits = [POLLIN, POLLPRI, POLLOUT, POLLERR, POLLHUP, 0x40, 0x80, 0x100, 0x200, 0x2000]
    ((fd, files, steps),) = make_file()
    try:
        masks = [sum(chosen) for n in range(len(bits) + 1) for chosen in itertools.combinations(bits, n)]
        masks += [POLLNVAL, 0x400, 0x8000, 0xFFFF]
        if make_file is _terminal and [int(part) for part in platform.release().split(".")[:2]] < [6, 1]:
            # The terminals of 5.10 wake polls for POLLIN, but not for POLLRDNORM alone.
            masks = [mask for mask in masks if mask & POLLIN or not mask & 0x40]
        nodes = {monitor.add(fd, mask): mask for mask in masks}
        for step, shows in [(lambda: None, 0), *steps]:
            step()
            if shows:
                settled = select.poll()
                settled.register(fd, shows)
                assert settled.poll(20_000)
            expected = {}
            for mask in masks:
                oracle = select.poll()
                oracle.register(fd, mask)
                expected[mask] = oracle.poll(0)[0][1] if oracle.poll(0) else 0
            found = dict.fromkeys(masks, 0)
            for node, revents in monitor.wait(0):
                assert not found[nodes[node]]  # once each
                found[nodes[node]] = revents
            wrong = {mask: (found[mask], expected[mask]) for mask in masks if found[mask] != expected[mask]}
            assert not wrong
    finally:
        for file in files:
            file.close()


# -- changes


def test_modify_then_only_the_new_events(monitor, pair):
    node = monitor.add(pair[0].fileno(), POLLOUT)
    assert monitor.wait(0) == [(node, POLLOUT)]
    new = monitor.modify(node, POLLIN)
    assert monitor.wait(0) == []
    pair[1].send(b"x")
    assert monitor.wait(0) == [(new, POLLIN)]


def test_remove_before_it_was_ever_armed_then_nothing(monitor, pipe):
    os.write(pipe[1], b"x")
    node = monitor.add(pipe[0], POLLIN)
    monitor.remove(node)
    assert monitor.wait(0) == []


def test_remove_while_its_event_is_on_the_way_then_nothing(monitor, pipe):
    node = monitor.add(pipe[0], POLLIN)
    assert monitor.wait(0) == []
    os.write(pipe[1], b"x")
    monitor.remove(node)
    for _ in range(3):
        assert monitor.wait(0) == []


def test_event_that_crosses_the_removal_then_not_reported_and_not_armed_again(uring, pipe):
    node = uring.add(pipe[0], POLLIN)
    assert uring.wait(0) == []
    os.write(pipe[1], b"x")
    uring.remove(node)
    events: list = []
    while node.armed:  # the completion, as if it had arrived in the turn of the removal
        uring.process_cq_ring(events)
    assert events == []
    assert node.token not in uring.inflight.entries
    assert uring.submit_list.pop()[0] is node
    assert not uring.submit_list


def test_removed_node_cannot_be_started_again(monitor, pipe):
    node = monitor.add(pipe[0], POLLIN)
    monitor.remove(node)
    with pytest.raises(ValueError, match="removed before"):
        monitor.update(None, node)


def test_number_used_again_then_events_of_the_new_file_only(monitor):
    for _ in range(20):
        r1, w1 = os.pipe()
        old = monitor.add(r1, POLLIN)
        assert monitor.wait(0) == []
        monitor.remove(old)
        os.close(r1)
        r2, w2 = os.pipe()
        assert r2 == r1
        new = monitor.add(r2, POLLIN)
        assert monitor.wait(0) == []
        os.write(w2, b"x")
        assert monitor.wait(0) == [(new, POLLIN)]
        monitor.remove(new)
        for fd in (w1, r2, w2):
            os.close(fd)


def test_removed_then_the_peer_sees_the_end_after_the_next_wait(monitor, pair):
    """A pending poll holds the open file; the removal must release it."""
    node = monitor.add(pair[0].fileno(), POLLIN)
    assert monitor.wait(0) == []
    monitor.remove(node)
    pair[0].close()
    assert monitor.wait(0) == []
    pair[1].settimeout(5)
    assert pair[1].recv(1) == b""


def test_handlers_that_change_handlers_then_all_is_well(monitor, pair):
    a, b = pair
    a.send(b"x")
    b.send(b"x")
    ran = []

    def handler(node: AioHandler, revents: int) -> None:
        ran.append(node.opaque)
        other = nodes["b" if node.opaque == "a" else "a"]
        monitor.remove(other)
        monitor.remove(node)
        nodes["new"] = monitor.add(node.fd, POLLOUT, handler=lambda n, _: ran.append("new"))

    nodes = {}
    for name, sock in (("a", a), ("b", b)):
        nodes[name] = monitor.add(sock.fileno(), POLLIN, handler, name)
    assert monitor.dispatch(monitor.wait(None)) == 1
    assert len(ran) == 1
    assert monitor.dispatch(monitor.wait(None)) == 1
    assert ran[1:] == ["new"]


def test_handler_that_waits_itself_then_nested_events_arrive(monitor, pair):
    a, b = pair
    inner = []

    def handler(node: AioHandler, revents: int) -> None:
        a.recv(1)
        b.send(b"y")
        inner.extend(monitor.wait(None))

    node = monitor.add(a.fileno(), POLLIN, handler)
    b.send(b"x")
    monitor.dispatch(monitor.wait(None))
    assert inner == [(node, POLLIN)]
    assert monitor.wait(0) == [(node, POLLIN)]


def test_handler_that_raises_then_the_others_are_reported_again(monitor, pair):
    def broken(node: AioHandler, revents: int) -> None:
        raise KeyError("handler")

    ran = []
    monitor.add(pair[0].fileno(), POLLOUT, broken)
    other = monitor.add(pair[1].fileno(), POLLOUT, lambda node, _: ran.append(node))
    with pytest.raises(KeyError, match="handler"):
        monitor.dispatch(monitor.wait(None))
    assert (other, POLLOUT) in monitor.wait(0)


def test_need_wait_then_true_for_intents_and_where_only_wait_can_look(monitor, pipe):
    monitor.wait(0)
    assert not monitor.need_wait()
    monitor.notify()
    assert monitor.need_wait()
    for _ in range(2):  # the notifier is re-armed
        monitor.wait(0)
    assert not monitor.need_wait()
    monitor.add(pipe[0], POLLIN)
    assert monitor.need_wait()
    monitor.wait(0)
    assert monitor.need_wait() == (monitor.backend == "poll")  # which cannot check from user space


def _closed_socket() -> socket.socket:
    sock = socket.socket()
    sock.close()
    return sock


BAD = [
    ((-1, POLLIN), ValueError, "fd=-1"),
    ((1 << 31, POLLIN), ValueError, "fd=2147483648"),
    ((1 << 64, POLLIN), ValueError, "fd="),
    ((3.0, POLLIN), TypeError, "fd=3.0"),
    ((True, POLLIN), TypeError, "fd=True"),
    ((None, POLLIN), TypeError, "fd=None"),
    (("3", POLLIN), TypeError, "fd='3'"),
    ((_closed_socket(), POLLIN), ValueError, "fd=-1"),
    ((io.BytesIO(), POLLIN), ValueError, "fd=<_io.BytesIO"),
    ((0, -1), ValueError, "events="),
    ((0, 1 << 16), ValueError, "events="),
    ((0, 1 << 31), ValueError, "events="),
    ((0, 1 << 64), ValueError, "events="),
    ((0, 1.0), TypeError, "events=1.0"),
    ((0, True), TypeError, "events=True"),
    ((0, None), TypeError, "events=None"),
    ((0, "r"), TypeError, "events='r'"),
    ((0, POLLIN, 5), TypeError, "handler=5"),
    ((0, POLLIN, "print"), TypeError, "handler='print'"),
]


@pytest.mark.parametrize(("arguments", "kind", "name"), BAD, ids=[str(each[0]) for each in BAD])
def test_bad_arguments_then_refused_at_the_door_and_the_others_go_on(monitor, pipe, arguments, kind, name):
    """A value that fits no SQE field made every later wait() fail."""
    node = monitor.add(pipe[0], POLLIN)
    os.write(pipe[1], b"x")
    with pytest.raises(kind, match=re.escape(name)):
        monitor.add(*arguments)
    with pytest.raises(kind, match=re.escape(name)):
        AioHandler(*arguments)
    for _ in range(3):
        assert monitor.wait(0) == [(node, POLLIN)]


class Index:
    """A foreign integer type, such as numpy's."""

    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


def test_socket_or_foreign_integers_then_as_the_number(monitor, pair):
    pair[1].send(b"x")
    nodes = [monitor.add(pair[0], POLLIN), monitor.add(Index(pair[0].fileno()), Index(POLLIN))]
    assert [type(value) for node in nodes for value in (node.fd, node.events)] == [int] * 4
    assert sorted(monitor.wait(Index(0)), key=lambda event: nodes.index(event[0])) == [
        (node, POLLIN) for node in nodes
    ]
    assert monitor.modify(nodes[0], select.POLLIN).fd == pair[0].fileno()


@pytest.mark.parametrize("call", [
    lambda mon, node: mon.update(None, 5),
    lambda mon, node: mon.update(5, None),
    lambda mon, node: mon.update(node, None, 5),
    lambda mon, node: mon.modify(5, POLLIN),
    lambda mon, node: mon.modify(node, 1.0),
    lambda mon, node: mon.remove("node"),
    lambda mon, node: mon.enqueue("node", fdmon.FDMON_IO_URING_ADD),
    lambda mon, node: mon.enqueue(node, 6),
    lambda mon, node: mon.wait(1.5),
    lambda mon, node: mon.wait("1"),
    lambda mon, node: mon.wait(float("nan")),
])  # fmt: skip
def test_misuse_then_refused_in_words_and_nothing_has_changed(monitor, pipe, call):
    node = monitor.add(pipe[0], POLLIN)
    os.write(pipe[1], b"x")
    with pytest.raises((TypeError, ValueError), match=r"AioHandler|events=|flags=|timeout_ns="):
        call(monitor, node)
    for _ in range(3):
        assert monitor.wait(0) == [(node, POLLIN)]


@pytest.mark.parametrize("function", [5, "nop", None])
def test_request_that_cannot_be_made_or_answered_then_type_error(uring, function):
    with pytest.raises(TypeError, match="prep="):
        uring.add_sqe(function, print)
    if function is not None:
        with pytest.raises(TypeError, match="handler="):
            uring.add_sqe(ops.prep_nop, function)
    assert uring.wait(0) == []


def test_request_whose_answer_nobody_wants_then_sent_all_the_same(uring, pipe):
    before = len(uring.inflight)
    uring.add_sqe(ops.prep_nop, None)
    uring.add_sqe(lambda sqe, token: None, None)
    with pytest.raises(TypeError, match="user_data"):
        uring.wait(0)
    assert uring.dispatch(uring.wait(0)) == 0
    assert len(uring.inflight) <= before + 1


# -- threads and signals


def test_notify_from_a_thread_then_wait_returns(monitor):
    thread = threading.Thread(target=monitor.notify)
    thread.start()
    assert monitor.wait(None) == []
    thread.join()
    assert monitor.wait(0) == []


def test_ten_thousand_notifications_then_one_wake_up_and_no_blocking(monitor):
    for _ in range(10_000):
        monitor.notify()
    assert monitor.wait(None) == []
    assert monitor.wait(0) == []


def test_update_from_another_thread_then_seen_after_notify(monitor, pipe):
    os.write(pipe[1], b"x")
    nodes = []

    def other() -> None:
        nodes.append(monitor.add(pipe[0], POLLIN))
        monitor.notify()

    thread = threading.Thread(target=other)
    thread.start()
    events = monitor.wait(None)
    while not events:
        events = monitor.wait(None)
    thread.join()
    assert events == [(nodes[0], POLLIN)]


def test_updates_from_four_threads_then_none_lost(monitor, pair):
    def churn(sock: socket.socket) -> None:
        node = monitor.add(sock.fileno(), POLLOUT)
        for _ in range(500):
            node = monitor.modify(node, POLLOUT)
        last.append(node)

    last: list[AioHandler] = []
    threads = [threading.Thread(target=churn, args=(sock,)) for sock in pair for _ in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        monitor.wait(0)
    for thread in threads:
        thread.join()
    assert {node for node, _ in monitor.wait(0)} == set(last)


def test_signals_while_waiting_then_handlers_run_and_the_wait_goes_on(monitor):
    count = 0

    def handler(*_: object) -> None:
        nonlocal count
        count += 1

    old = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        before = time.monotonic_ns()
        assert monitor.wait(300 * MILLISECOND) == []
        took = time.monotonic_ns() - before
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert took >= 300 * MILLISECOND
    assert count


def test_signal_handler_that_raises_then_wait_leaves_and_nothing_is_lost(monitor, pipe):
    class Leave(Exception):
        pass

    def handler(*_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise Leave

    node = monitor.add(pipe[0], POLLIN)
    old = signal.signal(signal.SIGALRM, handler)
    try:
        with pytest.raises(Leave):  # noqa: PT012 - on a slow machine it strikes at once
            # Repeatedly: a signal just before the system call does not end its wait.
            signal.setitimer(signal.ITIMER_REAL, 0.01, 0.5)
            monitor.wait(None)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    os.write(pipe[1], b"x")
    assert monitor.wait(None) == [(node, POLLIN)]


@pytest.mark.unwatched("debug mode is hardly ever out of its own calls, where nothing is to strike")
def test_signal_handlers_that_raise_at_any_moment_then_no_handler_goes_dead(monitor, make_pairs):
    """An exception may strike anywhere inside wait(); afterwards everything is still watched."""

    pairs = make_pairs(20)
    nodes = [monitor.add(a.fileno(), POLLIN) for a, _ in pairs]
    oracle = select.poll()
    for a, _ in pairs:
        oracle.register(a.fileno(), POLLIN)
    left = 0
    with Strikes() as strikes:
        deadline = time.monotonic() + 20
        while left < 11 or (left < 100 and time.monotonic() < deadline):
            a, b = pairs[left % len(pairs)]
            b.send(b"x")
            for i in range(0, len(nodes), 3):
                nodes[i] = monitor.modify(nodes[i], POLLIN)
            strikes.arm(0.0003)
            with pytest.raises(Leave):  # noqa: PT012 - it strikes anywhere
                while True:
                    monitor.wait(0)
            left += 1
            got = sorted((node.fd, mask) for node, mask in monitor.wait(0))
            assert got == sorted(oracle.poll(0))
            for each, _ in pairs:
                if each.fileno() in dict(got):
                    each.recv(100)


def test_signal_handler_that_notifies_then_wait_returns(monitor):
    old = signal.signal(signal.SIGALRM, lambda *_: monitor.notify())
    try:
        # Repeatedly: a signal just before the system call does not end its wait.
        signal.setitimer(signal.ITIMER_REAL, 0.005, 0.5)
        assert monitor.wait(None) == []
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def test_waiting_in_another_thread_than_setup_then_it_works(monitor, pipe):
    node = monitor.add(pipe[0], POLLIN)
    os.write(pipe[1], b"x")
    got: list = []
    thread = threading.Thread(target=lambda: got.extend(monitor.wait(None)))
    thread.start()
    thread.join()
    assert got == [(node, POLLIN)]
    # The polls of a thread that ended are cancelled when they fire; they must be armed again.
    assert monitor.wait(None) == [(node, POLLIN)]


# -- the end


def test_destroy_then_no_descriptor_is_left(monitor, pair):
    backend = monitor.backend
    monitor.destroy()
    with leaks.nothing_left("descriptors"):
        before = leaks.descriptors()
        other = make(backend)
        other.add(pair[0].fileno(), POLLIN)
        other.add(pair[1].fileno(), POLLIN | POLLOUT)
        other.wait(0)
        assert leaks.descriptors().keys() > before.keys()
        other.destroy()
        other.destroy()


def test_forgotten_monitor_then_no_descriptor_is_left(monitor, pair):
    backend = monitor.backend
    monitor.destroy()
    with leaks.nothing_left("descriptors"):
        other = make(backend)
        other.add(pair[0].fileno(), POLLIN)
        other.wait(0)
        with pytest.warns(ResourceWarning) if backend == "io_uring" else _nothing():
            del other
            for _ in range(5):  # PyPy runs finalizers some time after it has found the garbage
                gc.collect()


class _nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def test_destroyed_by_a_handler_then_no_other_is_called(monitor):
    pipes = [os.pipe() for _ in range(3)]
    called = []

    def handler(node, revents) -> None:
        called.append(node)
        monitor.destroy()

    for r, w in pipes:
        monitor.add(r, POLLIN, handler)
        os.write(w, b"x")
    try:
        assert monitor.dispatch(monitor.wait(None)) == len(called) == 1
    finally:
        for fds in pipes:
            os.close(fds[0])
            os.close(fds[1])


def test_destroyed_while_a_handler_raises_then_no_descriptor_is_left(uring, pipe):
    def broken(res, flags) -> None:
        raise LookupError("broken")

    uring.destroy()
    with leaks.nothing_left("descriptors"):
        other = fdmon.IoUringFDMon()
        other.add_sqe(lambda sqe, token: ops.prep_poll_add(sqe, pipe[0], POLLIN, token), broken)
        other.wait(0)
        with pytest.raises(LookupError):
            other.destroy()


def test_used_after_destroy_then_refused_in_words_and_removing_is_fine(monitor, pipe):
    node = monitor.add(pipe[0], POLLIN)
    monitor.wait(0)
    if monitor.backend == "io_uring":
        monitor.fileno()  # from now on changes notify
    monitor.destroy()
    calls = [
        monitor.wait, lambda: monitor.wait(0), monitor.notify, monitor.need_wait, monitor.__enter__,
        lambda: monitor.add(pipe[0], POLLIN),
        lambda: monitor.update(None, AioHandler(pipe[0], POLLIN)),
        lambda: monitor.modify(node, POLLIN),
        lambda: monitor.enqueue(node, fdmon.FDMON_IO_URING_ADD),
    ]  # fmt: skip
    if monitor.backend == "io_uring":
        calls += [monitor.fileno, lambda: monitor.add_sqe(ops.prep_nop, print)]
    for call in calls:
        with pytest.raises(ValueError, match=r"closed|destroyed"):
            call()
    assert not monitor.submit_list
    monitor.remove(node)
    assert monitor.dispatch([(node, POLLIN)]) == 0


def test_destroy_then_the_peer_sees_the_end(monitor, pair):
    monitor.add(pair[0].fileno(), POLLIN)
    monitor.wait(0)
    monitor.destroy()
    pair[0].close()
    pair[1].settimeout(5)
    assert pair[1].recv(1) == b""


# -- io_uring only


def test_add_sqe_then_its_handler_gets_the_result(uring, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"hello")
    got = []
    memory = buffers.allocate(16)
    target = buffers.pin(memory, writable=True)
    with path.open("rb") as file:
        if not uring.ring.features & 1 << 3:
            pytest.skip("IORING_OP_READ (Linux 5.6)")
        uring.add_sqe(
            lambda sqe, token: ops.prep_read(sqe, file.fileno(), target.address, 16, 0, token),
            lambda res, flags: got.append(res),
            target,
        )
        assert uring.need_wait()
        while not got:
            uring.dispatch(uring.wait(None))
    assert got == [5]
    assert memory[:5] == b"hello"
    assert not uring.inflight.entries.keys() - {uring._notifier.token}


def test_add_sqe_whose_prep_raises_then_answered_and_nothing_is_in_flight(uring, pair):
    def broken(sqe, token) -> None:
        raise LookupError("broken")

    got = []
    uring.wait(0)
    before = len(uring.inflight)
    for prep in (broken, ops.prep_nop):
        uring.add_sqe(prep, lambda res, flags: got.append(res), pair)
    with pytest.raises(LookupError):
        uring.wait(0)
    assert len(uring.inflight) == before
    while len(got) < 2:
        uring.dispatch(uring.wait(None))
    assert got == [-errno.ECANCELED, 0]
    assert len(uring.inflight) == before


def test_add_sqe_more_than_the_ring_has_room_for_then_all_answer(uring):
    got = []
    count = 3 * uring.ring.sq.ring_entries
    for i in range(count):
        uring.add_sqe(ops.prep_nop, lambda res, flags, i=i: got.append(i))
    while len(got) < count:
        uring.dispatch(uring.wait(None))
    assert sorted(got) == list(range(count))


def test_one_system_call_for_any_number_of_changes(uring, make_pairs):
    pairs = make_pairs(100)
    for a, b in pairs:
        uring.add(a.fileno(), POLLIN)
        b.send(b"x")
    before = uring.ring.statistics().enters
    assert len(uring.wait(None)) == 100
    assert uring.ring.statistics().enters - before == 1


def test_more_handlers_than_the_rings_have_entries_then_all_reported(make_pairs):
    try:
        mon = fdmon.IoUringFDMon(8)
    except Unavailable as error:
        pytest.skip(f"io_uring (Linux 5.1): {error}")
    if not mon.ring.features & 1 << 1:
        mon.destroy()
        pytest.skip("IORING_FEAT_NODROP (Linux 5.5)")
    pairs = make_pairs(300)
    try:
        for a, b in pairs:
            mon.add(a.fileno(), POLLIN)
            b.send(b"x")
        for _ in range(3):
            assert len(mon.wait(None)) == 300
    finally:
        mon.destroy()


def test_ring_descriptor_when_something_is_ready_then_readable(uring, pipe):
    uring.add(pipe[0], POLLIN)
    uring.wait(0)
    oracle = select.poll()
    oracle.register(uring.fileno(), POLLIN)
    assert oracle.poll(0) == []
    os.write(pipe[1], b"x")
    assert oracle.poll(5000) == [(uring.fileno(), POLLIN)]


def test_in_a_forked_child_then_refused_and_the_parent_goes_on(uring, pipe):
    node = uring.add(pipe[0], POLLIN)
    uring.wait(0)
    r, w = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            uring.wait(0)
        except ForkedRing:
            os.write(w, b"F")
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(r, 1) == b"F"
    os.close(r)
    os.close(w)
    os.write(pipe[1], b"x")
    assert uring.wait(None) == [(node, POLLIN)]


def test_after_destroy_then_refused(uring):
    uring.destroy()
    with pytest.raises(RingClosed):
        uring.wait(0)


def test_destroyed_by_another_thread_while_the_waiter_lives_then_refused(uring):
    uring.wait(0)
    caught = []

    def other() -> None:
        try:
            uring.destroy()
        except WrongThread as error:
            caught.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert caught
    uring.notify()
    assert uring.wait(0) == []


# -- the choice


def test_setup_when_io_uring_fails_with_any_error_then_poll_and_the_reason(monkeypatch):
    for name in ("EPERM", "ENOSYS", "ENOMEM", "EOPNOTSUPP", "EMFILE", "EINVAL", "EIO"):
        code = getattr(errno, name)

        def refuse(*_: object, code: int = code) -> int:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(syscalls, "io_uring_setup", refuse)
        monkeypatch.setattr("rawuring.params.time.sleep", lambda _: None)
        mon = fdmon.setup()
        assert mon.backend == "poll"
        assert name in mon.reason
        mon.destroy()


def test_setup_when_the_last_choice_fails_then_its_error(monkeypatch):
    def refuse(*_: object) -> int:
        raise OSError(1, "no")

    monkeypatch.setattr(syscalls, "io_uring_setup", refuse)
    with pytest.raises(Unavailable):
        fdmon.setup(("io_uring",))


def test_setup_with_an_unknown_name_then_value_error():
    with pytest.raises(ValueError, match="select"):
        fdmon.setup(("select",))


# -- the workload of the example


def _every_kind():
    path = Path(__file__).parent.parent / "examples" / "every_kind.py"
    spec = importlib.util.spec_from_file_location("every_kind", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.long
@pytest.mark.parametrize("backend", ["io_uring", "poll"])
def test_random_changes_of_every_kind_then_each_answer_is_that_of_select_poll(backend, request):
    make(backend).destroy()
    changes = int(os.environ.get("RAWURING_CHANGES", "100000"))
    with leaks.nothing_left("descriptors"):
        seen = _every_kind().run(backend, changes, seed=20)
        assert sum(seen.values()) > changes
        assert len(seen) >= 8
