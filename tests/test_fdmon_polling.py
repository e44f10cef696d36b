# SPDX-License-Identifier: MIT
"""The monitor in production: userspace polling, SQPOLL, release(), and continuing without the ring."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from driver import in_a_thread
from refusal import needs_of, skip_without_seccomp
from test_probe import FILTER

from rawuring import fdmon, ops, syscalls, uapi
from rawuring.fdmon import POLLIN, POLLOUT, IoUringFDMon
from rawuring.syscalls import Unavailable

pytestmark = pytest.mark.requires_io_uring
ROOT = Path(__file__).resolve().parent.parent
MILLISECOND = 1_000_000


def monitor_with(**options) -> IoUringFDMon:
    try:
        return IoUringFDMon(**options)
    except Unavailable as error:
        pytest.skip(f"{needs_of(0, 'sq_thread_idle_ms' in options)}: {error}")


@pytest.fixture
def polling():
    with monitor_with(poll_max_ns=50 * MILLISECOND) as mon:
        yield mon


@pytest.fixture
def sqpoll():
    with monitor_with(sq_thread_idle_ms=50) as mon:
        yield mon


# -- userspace polling


def test_default_then_no_polling():
    with monitor_with() as mon:
        assert mon.poll_max_ns == 0


def test_event_while_polling_then_seen_without_waiting_in_the_kernel(polling, pair):
    a, b = pair
    node = polling.add(a.fileno(), POLLIN)
    assert polling.wait(0) == []
    polling.poll_ns = 10_000 * MILLISECOND
    polling.poll_max_ns = 10_000 * MILLISECOND
    waits = []
    original = polling.ring.submit_and_wait
    polling.ring.submit_and_wait = lambda *args, **kw: waits.append(args) or original(*args, **kw)
    thread = threading.Thread(target=b.send, args=(b"x",))
    thread.start()
    assert polling.wait(None) == [(node, POLLIN)]
    thread.join()
    assert waits == []
    assert polling.ring.statistics().enters <= 3


def test_event_that_is_there_then_level_triggered_as_without_polling(polling, pair):
    a, b = pair
    polling.poll_ns = 100_000
    node = polling.add(a.fileno(), POLLIN)
    b.send(b"xy")
    for _ in range(3):
        assert polling.wait(None) == [(node, POLLIN)]
    a.recv(2)
    assert polling.wait(0) == []
    assert polling.wait(MILLISECOND) == []


def test_nothing_happens_then_the_timeout_holds_and_polling_is_part_of_it(polling, pair):
    polling.add(pair[0].fileno(), POLLIN)
    polling.poll_ns = 5 * MILLISECOND
    before = time.monotonic_ns()
    assert polling.wait(20 * MILLISECOND) == []
    took = time.monotonic_ns() - before
    assert took >= 20 * MILLISECOND


@pytest.mark.parametrize(
    ("now", "max_ns", "grow", "shrink", "block_ns", "then"),
    [
        (0, 32_000, 0, 0, 10_000, 4_000),  # starts
        (4_000, 32_000, 0, 0, 10_000, 8_000),  # grows by 2
        (4_000, 32_000, 3, 0, 10_000, 12_000),  # grows by grow
        (20_000, 32_000, 0, 0, 30_000, 32_000),  # not beyond the limit
        (8_000, 32_000, 0, 0, 8_000, 8_000),  # just right
        (8_000, 32_000, 0, 0, 40_000, 0),  # too long to poll for
        (8_000, 32_000, 0, 2, 40_000, 4_000),  # shrinks by shrink
        (32_000, 32_000, 0, 0, 32_000, 32_000),
    ],
)
def test_polling_time_then_as_in_qemus_aio_posix(now, max_ns, grow, shrink, block_ns, then):
    with monitor_with(poll_max_ns=1) as mon:
        mon.set_poll_params(max_ns, grow, shrink)
        mon.poll_ns = now
        mon.adjust_polling_time(block_ns)
        assert mon.poll_ns == then


def test_wait_that_blocked_for_long_then_polling_time_falls_back_to_nothing(polling, pair):
    polling.set_poll_params(10_000)
    polling.poll_ns = 10_000
    polling.add(pair[0].fileno(), POLLIN)
    assert polling.wait(2 * MILLISECOND) == []
    assert polling.poll_ns == 0


def test_deferred_task_work_then_refused_with_the_flag():
    flags = uapi.IORING_SETUP_SINGLE_ISSUER | uapi.IORING_SETUP_DEFER_TASKRUN
    try:
        mon = IoUringFDMon(flags=flags)
    except Unavailable as error:
        pytest.skip(f"IORING_SETUP_DEFER_TASKRUN (Linux 6.1): {error}")
    with mon:
        with pytest.raises(ValueError, match="DEFER_TASKRUN"):
            mon.set_poll_params(1000)
        mon.set_poll_params(0)
    with pytest.raises(ValueError, match="DEFER_TASKRUN"):
        IoUringFDMon(flags=flags, poll_max_ns=1000)


def test_polling_monitor_then_no_cooperative_task_work(polling):
    assert not polling.ring.flags & uapi.IORING_SETUP_COOP_TASKRUN


@pytest.mark.parametrize("values", [(-1, 0, 0), (0, -1, 0), (0, 0, -1)])
def test_negative_parameters_then_refused(values):
    with monitor_with() as mon, pytest.raises(ValueError, match="negative"):
        mon.set_poll_params(*values)


def test_no_fence_then_refused(monkeypatch):
    monkeypatch.setattr(fdmon.barriers, "ordered", lambda: False)
    assert "fence" in fdmon.polling_refusal(0)
    assert fdmon.polling_refusal(uapi.IORING_SETUP_IOPOLL)


# -- SQPOLL


def test_sqpoll_then_every_event_comes(sqpoll, pair):
    a, b = pair
    assert sqpoll.ring.flags & uapi.IORING_SETUP_SQPOLL
    node = sqpoll.add(a.fileno(), POLLIN)
    assert sqpoll.wait(0) == []
    for _ in range(20):
        b.send(b"x")
        for _ in range(2):
            assert sqpoll.wait(None) == [(node, POLLIN)]
        a.recv(1)
        assert sqpoll.wait(MILLISECOND) == []
    node = sqpoll.modify(node, POLLOUT)
    assert sqpoll.wait(None) == [(node, POLLOUT)]


def test_sqpoll_with_more_changes_and_requests_than_slots_then_all_are_sent(pair):
    """The kernel's thread makes room at its own pace: wait() raised SubmissionQueueFull meanwhile."""
    a, b = pair
    b.send(b"x")
    results = []
    with monitor_with(entries=2, sq_thread_idle_ms=1) as mon:
        nodes = {mon.add(a.fileno(), POLLIN) for _ in range(50)}
        seen = set()
        while seen != nodes:
            seen |= {node for node, _ in mon.wait(10_000 * MILLISECOND)}
        for _ in range(50):
            mon.add_sqe(ops.prep_nop, lambda res, flags: results.append(res))
        while len(results) < 50:
            mon.dispatch(mon.wait(10_000 * MILLISECOND))
    assert results == [0] * 50


def test_completions_that_were_taken_while_submitting_then_not_waited_for_again(pair):
    """When the kernel had no memory, completions were put aside, and wait() slept although it had them."""
    a, b = pair
    b.send(b"x")
    with monitor_with(entries=2) as mon:
        assert mon.wait(0) == []
        nodes = {mon.add(a.fileno(), POLLIN) for _ in range(3)}
        submit = mon.ring.submit

        def short_of_memory():
            mon.ring.submit = submit
            submit()
            raise BlockingIOError(errno.EAGAIN, "no memory")

        mon.ring.submit = short_of_memory
        waits = []
        wait = mon.ring.submit_and_wait
        mon.ring.submit_and_wait = lambda *args: waits.append(args) or wait(*args)
        assert {node for node, _ in mon.wait(None)} == nodes
        assert waits == [(0,)]


@pytest.mark.parametrize("idle_ms", [1, 1000])
def test_sqpoll_and_no_time_to_wait_then_what_is_ready_is_reported_each_time(pair, idle_ms):
    """The thread had not consumed the SQE yet, and the completion in between was only a hint."""
    a, b = pair
    with monitor_with(sq_thread_idle_ms=idle_ms) as mon:
        node = mon.add(a, POLLIN)
        b.send(b"x")
        for i in range(20):
            assert mon.wait(0) == [(node, POLLIN)]
            if i > 10:
                time.sleep(0.001)
        half = mon.add(b, POLLIN | select.POLLPRI)
        a.shutdown(socket.SHUT_WR)
        for _ in range(20):
            assert sorted(mon.wait(0), key=lambda event: event[0] is half) == [(node, POLLIN), (half, POLLIN)]
        a.recv(1)
        mon.remove(half)
        mon.notify()
        for _ in range(3):
            assert mon.wait(0) == []


def test_sqpoll_when_the_thread_moves_the_head_late_then_each_is_reported_once(pair, monkeypatch):
    """A poll whose CQE was handled was queued twice: the original, and the re-armed one."""
    a, b = pair
    with monitor_with(sq_thread_idle_ms=1000) as mon:
        node = mon.add(a, POLLIN)
        b.send(b"x")
        pending = type(mon.ring.sq).pending
        monkeypatch.setattr(type(mon.ring.sq), "pending", lambda sq: min(pending(sq) + 1, sq.sqe_tail))
        for _ in range(200):
            assert mon.wait(0) == [(node, POLLIN)]


def test_sqpoll_when_released_then_the_peer_sees_the_end_at_once(sqpoll, pair):
    a, b = pair
    node = sqpoll.add(a.fileno(), POLLIN)
    assert sqpoll.wait(0) == []
    sqpoll.release(node)
    a.close()
    b.settimeout(5)
    assert b.recv(1) == b""


# -- release


def test_released_then_the_peer_sees_the_end_without_another_wait(pair):
    a, b = pair
    with monitor_with() as mon:
        node = mon.add(a.fileno(), POLLIN)
        assert mon.wait(0) == []
        before = mon.ring.statistics().enters
        mon.release(node)
        assert mon.ring.statistics().enters - before == 1
        a.close()
        assert b.recv(1) == b""
        assert mon.wait(0) == []


def test_released_before_it_was_armed_then_no_system_call(pair):
    with monitor_with() as mon:
        mon.wait(0)
        before = mon.ring.statistics().enters
        mon.release(mon.add(pair[0].fileno(), POLLIN))
        assert mon.ring.statistics().enters == before


def test_released_by_another_thread_while_one_waits_then_soon(pair):
    a, b = pair
    with monitor_with() as mon:
        node = mon.add(a.fileno(), POLLIN)
        assert mon.wait(0) == []

        def other() -> None:
            while not mon._waiting:
                continue
            mon.release(node)

        thread = threading.Thread(target=other)
        thread.start()
        assert mon.wait(None) == []  # woken
        thread.join()
        mon.wait(0)
        a.close()
        b.settimeout(5)
        assert b.recv(1) == b""


def test_released_by_another_thread_between_two_waits_then_the_waiter_keeps_the_ring(pair):
    """The thread that created the monitor was not recorded as its waiter: it lost the ring."""
    a, b = pair
    with monitor_with() as mon:
        node = mon.add(a.fileno(), POLLIN)
        assert mon.wait(0) == []
        released, end = threading.Event(), threading.Event()

        def other() -> None:
            mon.release(node)
            released.set()
            end.wait()  # alive until the waiter has waited

        thread = threading.Thread(target=other)
        thread.start()
        try:
            released.wait()
            assert mon.wait(0) == []
        finally:
            end.set()
            thread.join()
        a.close()
        b.settimeout(5)
        assert b.recv(1) == b""


@pytest.mark.parametrize("options", [{}, {"sq_thread_idle_ms": 50}], ids=["plain", "sqpoll"])
def test_released_after_the_waiter_has_ended_then_at_once_and_another_thread_may_wait(options, pair):
    """The thread that called release() kept the ring: wait() in any other raised WrongThread."""
    a, b = pair
    with monitor_with(**options) as mon:
        node = mon.add(a.fileno(), POLLIN)
        assert in_a_thread(lambda: mon.wait(0)) == []
        mon.release(node)
        a.close()
        b.settimeout(5)
        assert b.recv(1) == b""
        assert in_a_thread(lambda: mon.wait(0)) == []


def test_released_by_two_threads_after_the_waiter_has_ended_then_both_at_once(pair, monkeypatch):
    """Both took the ring, and one of them got WrongThread."""
    a, b = pair
    c, d = socket.socketpair()
    with monitor_with() as mon, c, d, ThreadPoolExecutor(1) as executor:
        first, other = mon.add(a.fileno(), POLLIN), mon.add(c.fileno(), POLLIN)
        assert in_a_thread(lambda: mon.wait(0)) == []
        submit, released = mon.ring.submit, []

        def submit_while_another_releases():
            if not released:
                released.append(executor.submit(mon.release, other))
                while not (released[0].done() or other.deleted):
                    continue
            return submit()

        monkeypatch.setattr(mon.ring, "submit", submit_while_another_releases)
        mon.release(first)
        released[0].result()
        for sock, peer in ((a, b), (c, d)):
            sock.close()
            peer.settimeout(5)
            assert peer.recv(1) == b""


def test_sqpoll_when_released_after_its_completion_was_taken_off_then_not_waited_for(pair, monkeypatch):
    """It was removed, and its removal was sent by the release of another: it was waited for without end."""
    with monitor_with(sq_thread_idle_ms=50) as mon:
        removed, released = (mon.add(sock.fileno(), POLLIN) for sock in pair)
        assert mon.wait(0) == []
        mon.remove(removed)
        mon.release(released)
        while len(mon._early) + mon.ring.cq_ready() < 4:  # of two polls and two removals
            continue
        monkeypatch.setattr(mon, "_wait_for_end", lambda node: pytest.fail("it has ended"))
        mon.release(removed)


# -- nesting, and many


def test_monitor_inside_asyncio_then_its_events_are_dispatched_there(pair):
    a, b = pair
    got = []
    with monitor_with() as mon:

        async def main() -> None:
            loop = asyncio.get_running_loop()
            done = asyncio.Event()

            def handler(node, revents) -> None:
                got.append((revents, a.recv(1)))
                if len(got) == 3:
                    done.set()
                else:
                    b.send(b"x")

            mon.add(a.fileno(), POLLIN, handler)
            assert mon.dispatch(mon.wait(0)) == 0
            loop.add_reader(mon.fileno(), lambda: mon.dispatch(mon.wait(0)))
            b.send(b"x")
            await asyncio.wait_for(done.wait(), 10)
            # Changes while nobody is in wait(): the outer loop is told.
            c, d = socket.socketpair()
            with c, d:
                added = asyncio.Event()
                d.send(b"x")
                node = mon.add(c.fileno(), POLLIN, lambda node, revents: (mon.remove(node), added.set()))
                await asyncio.wait_for(added.wait(), 10)
                assert node.deleted
            loop.remove_reader(mon.fileno())

        asyncio.run(main())
    assert got == [(POLLIN, b"x")] * 3


@pytest.mark.long
@pytest.mark.parametrize("backend", ["io_uring", "poll"])
def test_twenty_thousand_handlers_then_each_is_reported_each_time(backend):
    resource = pytest.importorskip("resource")
    soft, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    hard = limit
    if hard != resource.RLIM_INFINITY and hard < 20_000:
        pytest.skip(f"RLIMIT_NOFILE is {hard}")
    if hard == resource.RLIM_INFINITY or hard > 20_200:
        hard = 20_200
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard), limit))
    r, w = os.pipe()
    fds: list[int] = []
    mon = fdmon.setup((backend,))
    try:
        if backend == "io_uring" and not mon.ring.features & uapi.IORING_FEAT_NODROP:
            pytest.skip("IORING_FEAT_NODROP (Linux 5.5)")
        fds = [os.dup(r) for _ in range(hard - 200)]
        nodes = {mon.add(fd, POLLIN) for fd in fds}
        assert mon.wait(0) == []
        os.write(w, b"x")
        for _ in range(2):
            found = set()
            while len(found) < len(nodes):
                found |= {node for node, _ in mon.wait(None)}
            assert found == nodes
        os.read(r, 1)
        assert mon.wait(0) == []
    finally:
        mon.destroy()
        for fd in (r, w, *fds):
            os.close(fd)


# -- the ring is lost

BEFORE = """
import os, socket, sys
from rawuring import fdmon, ops
from rawuring.fdmon import POLLIN, POLLOUT
mon = fdmon.setup(("io_uring",))
pairs = [socket.socketpair() for _ in range(5)]
nodes = [mon.add(a.fileno(), POLLIN) for a, b in pairs[:3]]
r, w = os.pipe()
done = []
mon.add_sqe(lambda sqe, token: ops.prep_poll_add(sqe, r, POLLIN, token), lambda res, flags: done.append(res))
half = mon.add(pairs[4][0].fileno(), 0)
pairs[4][1].shutdown(socket.SHUT_WR)
assert mon.wait(0) == []
nodes.append(mon.add(pairs[3][0].fileno(), POLLIN))  # an intent
nodes[1] = mon.modify(nodes[1], POLLOUT)
mon.remove(nodes[2])
mon.add_sqe(lambda sqe, token: ops.prep_nop(sqe, token), lambda res, flags: done.append(("nop", res)))
"""
AFTER = """
for a, b in pairs[:4]:
    b.send(b"x")

def wait(timeout_ns):
    return sorted((nodes.index(node), mask) for node, mask in mon.wait(timeout_ns))

expected = [(0, POLLIN), (1, POLLOUT), (3, POLLIN)]
events = wait(500_000_000)
mon.dispatch([])
code = -(int(sys.argv[1], 16) & 0xFFFF)
assert done == [("nop", code)], done  # it could not be submitted, and fails
assert events in ([], expected), events
assert wait(500_000_000) == expected
assert mon.backend == "poll" and "stopped working" in mon.reason, (mon.backend, mon.reason)
os.write(w, b"x")  # the request in flight still completes
while len(done) < 2:
    mon.dispatch(mon.wait(1_000_000_000))
assert done[1] & 1, done
mon.add_sqe(lambda sqe, token: None, lambda res, flags: done.append(res))
mon.dispatch(mon.wait(None))
assert done[2] == code, done
pairs[4][1].close()
nodes.append(half)
assert (4, 0x10) in wait(None)
mon.notify()
mon.remove(half)
for index in (0, 3):
    pairs[index][0].recv(1)
new = mon.modify(nodes[1], POLLIN)
nodes[1] = new
assert wait(None) == [(1, POLLIN)]
pairs[1][0].recv(1)
mon.notify()
assert mon.wait(None) == []
assert mon.wait(2_000_000) == []
assert mon.need_wait()  # only poll(2) can tell
mon.destroy()
pairs[0][0].close()
pairs[0][1].settimeout(5)
assert pairs[0][1].recv(1) == b""
print("fine")
"""


@pytest.mark.parametrize("action", [0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS])
def test_filter_that_forbids_io_uring_while_it_is_in_use_then_nothing_is_lost(action):
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", BEFORE + FILTER + AFTER, hex(action)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    skip_without_seccomp(done)
    assert (done.stdout, done.returncode) == ("fine\n", 0), done.stderr


def test_ring_closed_behind_our_back_then_poll_goes_on_and_the_number_is_left_alone(pair):
    a, b = pair
    mon = monitor_with()
    node = mon.add(a.fileno(), POLLIN)
    assert mon.wait(0) == []
    number = mon.ring.fileno()
    os.close(number)
    r, w = os.pipe()
    assert number in (r, w)
    b.send(b"x")
    assert mon.wait(None) == [(node, POLLIN)]
    assert mon.backend == "poll"
    mon.destroy()
    os.fstat(number)
    os.close(r)
    os.close(w)


@pytest.mark.parametrize("code", [errno.EPERM, errno.EACCES, errno.ENOSYS])
def test_every_refusal_in_the_middle_of_a_wait_then_the_timeout_still_holds(monkeypatch, pair, code):
    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    with monitor_with() as mon:
        mon.add(pair[0].fileno(), POLLIN)
        break_enter(monkeypatch, mon.ring, refuse)
        assert mon.wait(3 * MILLISECOND) == []
        assert errno.errorcode[code] in mon.reason or os.strerror(code) in mon.reason


def break_enter(patch, ring, function):
    """Let every enter end in a function, to which the quick turns of rings.py fall back on failure."""
    patch.setattr(ring, "_bare", (lambda *_: -1, 0, None))
    patch.setattr(ring, "_call", function)
    patch.setattr(syscalls, "enter", function)


@pytest.mark.parametrize("code", [errno.EPERM, errno.EBADF, errno.EIO])
def test_signal_handler_that_raises_oserror_then_it_comes_out_and_the_ring_stays(pair, code):
    """It looks like the kernel's refusal, but is not."""

    def handler(*_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise OSError(code, "mine")

    old = signal.signal(signal.SIGALRM, handler)
    try:
        with monitor_with() as mon:
            node = mon.add(pair[0].fileno(), POLLIN)
            with pytest.raises(OSError, match="mine"):  # noqa: PT012 - on a slow machine it strikes at once
                # Repeatedly: a signal just before the system call does not end its wait.
                signal.setitimer(signal.ITIMER_REAL, 0.005, 0.5)
                mon.wait(5_000 * MILLISECOND)
            assert mon.backend == "io_uring"
            pair[1].send(b"x")
            assert mon.wait(5_000 * MILLISECOND) == [(node, POLLIN)]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def test_error_that_is_not_a_refusal_then_raised(monkeypatch, pair):
    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "broken")

    with monitor_with() as mon:
        mon.add(pair[0].fileno(), POLLIN)
        with monkeypatch.context() as patch:
            break_enter(patch, mon.ring, fail)
            with pytest.raises(OSError, match="broken"):
                mon.wait(0)
        assert mon.backend == "io_uring"
        assert mon.wait(0) == []


def test_requests_of_others_then_still_alive_after_the_monitor_is_destroyed_in_order(pair):
    """A request in flight when the ring is lost is not forgotten by destroy()."""
    done = []
    mon = monitor_with()
    mon.add_sqe(
        lambda sqe, token: ops.prep_poll_add(sqe, pair[0].fileno(), POLLIN, token),
        lambda res, flags: done.append(res),
    )
    assert mon.wait(0) == []
    mon.destroy()
    assert done == [-errno.ECANCELED]


def test_completions_taken_out_to_make_room_before_polling_then_the_wait_ends():
    with IoUringFDMon(4, poll_max_ns=1) as monitor:
        r, w = os.pipe()
        try:
            monitor.wait(0)
            monitor.poll_ns = 1
            node = monitor.add(r, POLLIN)
            os.write(w, b"x")
            real = monitor._submit

            def submit() -> None:  # as if the kernel had no memory for more
                real()
                monitor.ring.reap_into(monitor._early)

            monitor._submit = submit
            start = time.monotonic()
            assert monitor.wait(60_000_000_000) == [(node, POLLIN)]
            assert time.monotonic() - start < 50
        finally:
            os.close(r)
            os.close(w)


def test_nested_and_completions_taken_out_to_make_room_then_its_descriptor_shows_it():
    with IoUringFDMon(4) as monitor:
        r, w = os.pipe()
        try:
            outer = select.poll()
            outer.register(monitor.fileno(), POLLIN)
            node = monitor.add(r, POLLIN)
            os.write(w, b"x")
            real = monitor._submit

            def submit() -> None:
                real()
                monitor.ring.reap_into(monitor._early)

            monitor._submit = submit
            assert monitor.wait(0) == [(node, POLLIN)]
            monitor._submit = real
            assert outer.poll(2000)
            found = []
            while not found and outer.poll(2000):
                found = monitor.wait(0)
            assert found == [(node, POLLIN)]
        finally:
            os.close(r)
            os.close(w)
