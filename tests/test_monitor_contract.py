# SPDX-License-Identifier: MIT
"""Everything public of a monitor, on both backends, before and after a loss of io_uring; and nested ones."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from refusal import needs_of, skip_without_seccomp
from test_probe import FILTER

from rawuring import fdmon, ops, uapi
from rawuring.fdmon import POLLIN, POLLOUT, FDMon, IoUringFDMon, PollFDMon
from rawuring.syscalls import Unavailable

ROOT = Path(__file__).resolve().parent.parent

#: Called by the waiter alone, under QEMU's names; not part of the interface.
INSIDE = {
    "put_sqe", "add_poll_add_sqe", "add_poll_remove_sqe", "fill_sq_ring", "process_cqe_aio_handler",
    "process_cqe", "process_usual", "process_cq_ring",
    "try_poll_mode", "run_poll_handlers", "adjust_polling_time", "WISH",
}  # fmt: skip


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def test_both_backends_then_the_same_public_names():
    assert public(PollFDMon) == public(FDMon)
    assert public(IoUringFDMon) - public(FDMon) == INSIDE


#: Runs in a child: sys.argv is the errno of the refusal in hex, the state, and whether another loop watches.
CONTRACT = r"""
import errno, os, select, socket, sys
from rawuring import fdmon, ops
from rawuring.fdmon import POLLIN, POLLOUT, FDMon, AioHandler
from rawuring.syscalls import Unavailable

state, nested = sys.argv[2], sys.argv[3] == "nested"
on_poll, lost = state == "poll", state in ("refused", "closed")
mon = fdmon.setup(("poll",) if on_poll else ("io_uring",))
pairs = [socket.socketpair() for _ in range(6)]
ran = []
outer = select.epoll()
if nested:
    number = mon.fileno()
    outer.register(number, POLLIN)

def note(node, revents):
    ran.append((node.opaque, revents))
    pairs[node.opaque][0].recv(9)

nodes = [mon.add(a, POLLIN, note, i) for i, (a, b) in enumerate(pairs[:3])]
assert mon.dispatch(mon.wait(0)) == 0
if state == "closed":
    os.close(mon.ring.fileno())
elif state == "refused":
    exec(FILTER)

def turn(expected=()):
    "Dispatch what is ready, as the outer loop does if there is one; these must run, and no others."
    for _ in range(1000):
        if nested and not outer.poll(20 if sorted(ran) != sorted(expected) else 0.01):
            break
        mon.dispatch(mon.wait(0 if nested else 20_000_000))
        if not nested and sorted(ran) == sorted(expected):
            break
    else:
        raise AssertionError("the descriptor stays readable")
    assert sorted(ran) == sorted(expected), (ran, expected)
    ran.clear()

def send(*which):
    for i in which:
        pairs[i][1].send(b"x")

def add():
    nodes.append(mon.add(pairs[3][0], POLLIN, note, 3))
    send(3)
    turn([(3, POLLIN)])

def modify():
    nodes[3] = mon.modify(nodes[3], 0)
    send(3)
    turn()
    nodes[3] = mon.modify(nodes[3], POLLIN)
    turn([(3, POLLIN)])

def remove():
    mon.remove(nodes.pop())
    send(3)
    turn()

def update():
    old, new = nodes[2], AioHandler(pairs[4][0], POLLIN, note, 4)
    mon.update(old, new)
    nodes[2] = new
    send(2, 4)
    turn([(4, POLLIN)])

def enqueue():
    node = AioHandler(pairs[5][0], POLLIN, note, 5)
    mon.enqueue(node, fdmon.FDMON_IO_URING_ADD)
    mon.notify()
    send(5)
    turn([(5, POLLIN)])
    mon.enqueue(node, fdmon.FDMON_IO_URING_REMOVE)
    mon.notify()
    send(5)
    turn()

def dequeue():
    node = mon.add(pairs[3][0], POLLIN)
    entries = []
    while entries[-1:] != [None]:
        entries.append(mon.dequeue())
    assert (node, fdmon.FDMON_IO_URING_ADD) in entries
    for entry in entries[:-1]:
        if entry[0] is not node:
            mon.enqueue(*entry)
    turn()

def release():
    a, b = socket.socketpair()
    node = mon.add(a, POLLIN)
    turn()
    mon.release(node)
    a.close()
    b.settimeout(20)
    assert b.recv(1) == b""
    b.close()
    turn()

def wait():
    if not nested:
        send(0, 1)
        found = mon.wait(None)
        assert sorted(node.opaque for node, _ in found) == [0, 1], found
        assert mon.dispatch(found) == 2 and len(ran) == 2
        ran.clear()
        assert mon.wait(2_000_000) == []
    else:
        send(0, 1)
        turn([(0, POLLIN), (1, POLLIN)])

def dispatch():
    send(0)
    turn([(0, POLLIN)])
    assert mon.dispatch([]) == 0

def notify():
    mon.notify()
    if nested:
        assert outer.poll(20)
    assert mon.wait(None if not nested else 0) == []
    turn()

def wake_waiter():
    mon.wake_waiter()
    turn()

def need_wait():
    assert mon.need_wait() in (True, False)
    mon.notify()
    assert mon.need_wait()
    turn()
    if mon.backend == "poll":
        assert mon.need_wait()

def fileno():
    first = mon.fileno()
    assert mon.fileno() == first
    os.fstat(first)
    if nested:
        assert first == number

def add_sqe():
    got = []
    try:
        mon.add_sqe(ops.prep_nop, lambda res, flags: got.append(res), None)
    except Unavailable as error:
        assert on_poll and "poll" in str(error) and mon.reason in str(error)
        return
    assert not on_poll
    for _ in range(100):
        if not got:
            turn()
    assert got == [0] if not lost else got[0] < 0, got

def set_poll_params():
    mon.set_poll_params(0)
    try:
        mon.set_poll_params(1000, 2, 2)
        mon.set_poll_params(0)
    except (Unavailable, ValueError) as error:
        assert on_poll or lost, error
        assert mon.reason in str(error)
    for bad in (-1, "1", 1.0, True):
        try:
            mon.set_poll_params(bad)
        except (TypeError, ValueError) as error:
            assert "max_ns" in str(error)
        else:
            raise AssertionError(bad)

def attributes():
    assert mon.backend == ("io_uring" if state == "io_uring" else "poll"), mon.backend
    assert ("stopped working" in mon.reason) == lost, mon.reason
    assert (mon.ring is None) == on_poll
    assert (mon.poll_max_ns, mon.poll_ns) == (0, 0)
    assert len(mon.submit_list) >= 0

def destroy():
    fds = len(os.listdir("/proc/self/fd"))
    mon.destroy()
    mon.destroy()
    fdmon.destroy(mon)
    assert len(os.listdir("/proc/self/fd")) < fds
    if nested:
        assert outer.poll(0) == []

CALLS = dict(
    add=add, modify=modify, remove=remove, update=update, wait=wait, backend=attributes, reason=attributes,
    ring=attributes, poll_max_ns=attributes, poll_ns=attributes, submit_list=attributes, enqueue=enqueue,
    dequeue=dequeue, release=release, dispatch=dispatch, notify=notify, wake_waiter=wake_waiter,
    need_wait=need_wait, fileno=fileno, add_sqe=add_sqe, set_poll_params=set_poll_params, destroy=destroy,
)
missing = {name for name in [*dir(FDMon), *vars(mon)] if not name.startswith("_")} - {*CALLS}
missing -= {"inflight", "poll_grow", "poll_shrink"}
assert not missing, missing
before = len(os.listdir("/proc/self/fd"))
for name, call in CALLS.items():
    try:
        call()
    except BaseException:
        print(name)
        raise
    assert not ran, (name, ran)
for a, b in pairs:
    a.close()
    b.close()
outer.close()
print("fine")
"""


def in_child(code: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", f"FILTER = {FILTER!r}\n{code}", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAWURING_DEBUG": "0"}, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    skip_without_seccomp(done)
    assert (done.stdout, done.stderr, done.returncode) == ("fine\n", "", 0)


STATES = ["poll", "io_uring", "closed", "refused EPERM", "refused ENOSYS", "refused EACCES"]


@pytest.mark.parametrize("nested", ["nested", "alone"])
@pytest.mark.parametrize("state", [
    pytest.param(state, marks=[] if state == "poll" else pytest.mark.requires_io_uring) for state in STATES
])  # fmt: skip
def test_everything_public_then_it_works_or_says_why_not(state, nested):
    word, _, code = state.partition(" ")
    action = 0x00050000 | getattr(errno, code or "EPERM")
    in_child(CONTRACT, hex(action), word, nested)


#: io_uring becomes unavailable, and the monitor is destroyed, or forgotten, before anybody has noticed.
END = r"""
import os, socket, sys
from rawuring import fdmon
from rawuring.fdmon import POLLIN
mon = fdmon.setup(("io_uring",))
a, b = socket.socketpair()
if sys.argv[2] == "nested":
    mon.fileno()
mon.add(a, POLLIN)
half = mon.add(b, 0)
a.shutdown(socket.SHUT_WR)
mon.wait(0)
how = sys.argv[3]
if how == "closed":
    os.close(mon.ring.fileno())
    others = os.pipe()  # one of them has the ring's number
else:
    exec(FILTER)
if how == "left":
    keep = mon  # until the interpreter exits, also silently
else:
    mon.destroy()
    a.close()
    b.settimeout(20)
    while b.recv(1):
        pass
    if how == "closed":
        for fd in others:
            os.close(fd)
a.close()
b.close()
print("fine")
"""


@pytest.mark.requires_io_uring
@pytest.mark.parametrize("nested", ["nested", "alone"])
@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS])
@pytest.mark.parametrize("how", ["destroyed", "left", "closed"])
def test_destroyed_after_a_loss_that_nobody_noticed_then_silent(code, nested, how):
    in_child(END, hex(0x00050000 | code), nested, how)


# -- nested in another loop

FLAGS = {
    "poll": None,
    "recommended": {},
    "no flags": {"wish": 0},
    "DEFER_TASKRUN": {"flags": uapi.IORING_SETUP_SINGLE_ISSUER | uapi.IORING_SETUP_DEFER_TASKRUN, "wish": 0},
    "DEFER_TASKRUN, TASKRUN_FLAG": {
        "flags": uapi.IORING_SETUP_SINGLE_ISSUER | uapi.IORING_SETUP_DEFER_TASKRUN
        | uapi.IORING_SETUP_TASKRUN_FLAG, "wish": 0,
    },
    "SQPOLL": {"sq_thread_idle_ms": 20},
    "NO_MMAP": {"flags": uapi.IORING_SETUP_NO_MMAP, "wish": 0},
}  # fmt: skip


class Poll:
    """select.poll and select.epoll under one interface, as the loop that watches."""

    def __init__(self, kind, fd):
        self.watcher, self.factor = kind(), 1000 if kind is select.poll else 1
        self.watcher.register(fd, POLLIN)

    def ready(self, seconds):
        return bool(self.watcher.poll(seconds * self.factor))


@pytest.fixture(params=list(FLAGS))
def nested(request):
    options = FLAGS[request.param]
    if options is None:
        monitor: FDMon = PollFDMon()
    else:
        try:
            monitor = IoUringFDMon(**options)
        except Unavailable as error:
            pytest.skip(f"{needs_of(options.get('flags', 0), 'sq_thread_idle_ms' in options)}: {error}")
    yield monitor
    monitor.destroy()


def settle(monitor, loop, limit=1000):
    """Run the outer loop until nothing is left to do; return the number of runs."""
    ran = 0
    for _ in range(limit):
        if not loop.ready(0.02):
            return ran
        ran += monitor.dispatch(monitor.wait(0))
    raise AssertionError("the descriptor stays readable")


def until(monitor, loop, done):
    for _ in range(1000):
        if done():
            return
        assert loop.ready(20)
        monitor.dispatch(monitor.wait(0))
    raise AssertionError("the descriptor stays readable")


@pytest.mark.parametrize("kind", [select.poll, select.epoll], ids=["poll", "epoll"])
@pytest.mark.parametrize("waited", [False, True], ids=["fresh", "waited"])
def test_nested_then_the_outer_loop_is_woken_for_everything(nested, pair, kind, waited):
    a, b = pair
    if waited:
        nested.wait(0)
    loop = Poll(kind, nested.fileno())
    got = []
    node = nested.add(a, POLLIN, lambda node, revents: got.append(a.recv(9)))
    b.send(b"1")
    until(nested, loop, lambda: got == [b"1"])
    assert settle(nested, loop) == 0
    b.send(b"2")  # while nobody waits
    until(nested, loop, lambda: got == [b"1", b"2"])
    nested.notify()
    assert loop.ready(20)
    assert settle(nested, loop) == 0
    changed = nested.modify(node, POLLOUT)
    changed.handler = lambda node, revents: (got.append(revents), nested.remove(node))
    until(nested, loop, lambda: got[2:] == [POLLOUT])
    assert settle(nested, loop) == 0
    if nested.ring is not None:
        nested.add_sqe(ops.prep_nop, lambda res, flags: got.append(res))
        until(nested, loop, lambda: got[3:] == [0])
        # A handler starts another request.
        again = lambda res, flags: nested.add_sqe(ops.prep_nop, lambda res, flags: got.append("second"))  # noqa: E731
        nested.add_sqe(ops.prep_nop, again)
        until(nested, loop, lambda: got[4:] == ["second"])
        assert settle(nested, loop) == 0


def test_nested_and_notified_then_one_turn_takes_the_notification(nested, monkeypatch):
    """Even if the thread of an SQPOLL ring has not looked yet: the outer loop would spin until it does."""
    nested.fileno()
    nested.wait(0)
    while nested.ring is not None and nested.ring.sq.pending():
        os.sched_yield()  # until the thread has armed the poll
    nested.notify()
    with monkeypatch.context() as late:
        if nested.ring is not None and nested.ring.flags & uapi.IORING_SETUP_SQPOLL:
            late.setattr(type(nested.ring), "submit_and_wait", lambda ring, count: ring.sq.flush())
            late.setattr(type(nested), "process_cq_ring", lambda monitor, events: 0)
        nested.wait(0)
    assert not Poll(select.poll, nested._wake_fds[0]).ready(0)


def test_nested_and_a_handler_raises_then_the_outer_loop_is_woken_again(nested, pair):
    a, b = pair
    loop = Poll(select.epoll, nested.fileno())
    got = []

    def broken(node, revents):
        a.recv(1)
        raise LookupError("broken")

    nested.add(a, POLLIN, broken)
    settle(nested, loop)
    b.send(b"12")
    if nested.ring is not None:

        def fails(res, flags):
            raise LookupError("broken")

        for handler in (fails, lambda res, flags: got.append(res)):
            nested.add_sqe(ops.prep_nop, handler)
    raised, expected = 0, 2 + bool(nested.ring)
    while raised < expected:
        assert loop.ready(30)  # however late an SQPOLL thread is
        try:
            nested.dispatch(nested.wait(0))
        except LookupError:
            raised += 1
    settle(nested, loop)
    assert got == ([0] if nested.ring is not None else [])


def test_nested_in_asyncio_then_its_handlers_run(nested, pair):
    a, b = pair
    got = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(nested.fileno(), lambda: nested.dispatch(nested.wait(0)))
        done = asyncio.Event()
        nested.add(a, POLLIN, lambda node, revents: (got.append(a.recv(1)), done.set()))
        for _ in range(3):
            b.send(b"x")
            await asyncio.wait_for(done.wait(), 60)
            done.clear()
        loop.remove_reader(nested.fileno())

    asyncio.run(main())
    assert got == [b"x"] * 3


def test_nested_and_files_that_epoll_refuses_then_readable_as_poll_says(nested, tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    loop = Poll(select.epoll, nested.fileno())
    with (tmp_path / "file").open("rb") as file:
        node = nested.add(file, 0)
        assert settle(nested, loop) == 0
        for events, expected in ((POLLIN, [POLLIN]), (0, []), (POLLOUT, [POLLOUT])):
            node = nested.modify(node, events)
            found = []
            for _ in range(1000):
                if not loop.ready(0.02):
                    break
                found = [mask for each, mask in nested.wait(0) if each is node]
                if expected and found == expected:
                    break
            assert found == expected
            if expected:
                assert loop.ready(20)
            else:
                settle(nested, loop)  # it may wake once more: an eventfd notifies an eventfd with RCU's delay
        nested.remove(node)
        assert settle(nested, loop) == 0


def test_nested_and_a_number_used_again_while_its_file_lives_on_then_no_busy_loop(nested, pair):
    """An epoll set keeps reporting a file whose number was closed, and can no longer remove it."""
    a, b = pair
    loop = Poll(select.epoll, nested.fileno())
    for _ in range(3):
        number = os.dup(a.fileno())
        other = os.dup(a.fileno())
        node = nested.add(number, POLLIN)
        assert settle(nested, loop) == 0
        nested.remove(node)
        os.close(number)
        r, w = os.pipe()
        assert number in (r, w)
        again = nested.add(r, POLLIN)
        b.send(b"x")  # to the old file
        assert settle(nested, loop) == 0
        os.write(w, b"x")
        found = []
        while not found:
            assert loop.ready(20)
            found = nested.wait(0)
        assert found == [(again, POLLIN)]
        nested.remove(again)
        a.recv(1)
        for fd in (r, w, other):
            os.close(fd)
        settle(nested, loop)


def test_nested_and_closed_numbers_are_reused_by_the_monitor_itself_then_the_others_are_watched(
    nested, pair, tmp_path
):
    """The sets of the poll monitor took numbers that it had still to remove; it replaced them for ever."""
    a, b = pair
    lowest, low = os.dup(b.fileno()), os.dup(b.fileno())
    with open(tmp_path / "regular", "wb") as regular:  # always ready: epoll rejects it
        nested.fileno()
        first = nested.add(lowest, POLLIN)
        always = nested.add(regular, POLLOUT)
        second, watched = nested.add(low, POLLIN), nested.add(a, POLLIN)
        assert nested.wait(0) == [(always, POLLOUT)]
        for node in (first, second):
            nested.remove(node)
            os.close(node.fd)
        assert nested.wait(0) == [(always, POLLOUT)]
        nested.remove(always)
        b.send(b"x")
        loop = Poll(select.epoll, nested.fileno())
        while not (found := nested.wait(0)):
            assert loop.ready(20)
        assert found == [(watched, POLLIN)]


def test_descriptor_asked_for_by_two_threads_at_once_then_the_same(nested, monkeypatch):
    """Each made one, and that of the first was closed."""
    epoll, numbers = select.epoll, []
    with ThreadPoolExecutor(1) as executor:

        def make_while_another_asks():
            if not numbers:
                numbers.append(executor.submit(ask))
                while not (asked or numbers[0].done()):
                    continue
            return epoll()

        asked = []

        def ask():
            asked.append(True)
            return nested.fileno()

        monkeypatch.setattr(select, "epoll", make_while_another_asks)
        number = nested.fileno()
        assert numbers[0].result() == number == nested.fileno()


def test_descriptor_of_another_loop_when_destroyed_then_nothing_is_left(nested):
    number = nested.fileno()
    loop = Poll(select.epoll, number)
    nested.wait(0)
    nested.destroy()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
    assert not loop.ready(0)


def test_iopoll_then_refused_because_polls_never_complete():
    with pytest.raises(ValueError, match="IOPOLL"):
        fdmon.setup(flags=uapi.IORING_SETUP_IOPOLL)
