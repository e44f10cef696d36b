# SPDX-License-Identifier: MIT
"""Tests of IoUringSelector alone: the choice of a strategy, the fallbacks, and trusted descriptor numbers."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import queue
import selectors
import socket
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from refusal import skip_without_seccomp
from strategies import ready, selector_of, skip_if_too_old
from test_probe import FILTER

from rawuring import epollwait as module, ops, register, rings, syscalls, uapi
from rawuring.rings import ForkedRing
from rawuring.selector import STRATEGIES, IoUringSelector
from rawuring.syscalls import Unavailable

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(params=list(STRATEGIES))
def uring(request, requires_io_uring):
    sel = selector_of(request.param)
    yield sel
    sel.close()


@pytest.fixture(params=["io_uring:epoll_wait", "io_uring:epoll_poll"])
def in_set(request, requires_io_uring):
    """Strategies with an epoll set, trusting descriptor numbers."""
    sel = selector_of(request.param, trusting=True)
    yield sel
    sel.close()


# -- the choice


@pytest.mark.requires_io_uring
def test_without_a_wish_then_the_first_that_works_and_a_reason():
    with IoUringSelector() as sel:
        assert sel.backend in STRATEGIES
        names = list(STRATEGIES)
        for name in names[: names.index(sel.backend)]:
            assert f"{name} failed: " in sel.reason
        assert "works here" in sel.reason or "work here" in sel.reason
        assert sel.backend in repr(sel)


@pytest.mark.requires_io_uring
@pytest.mark.parametrize("missing", [59, 29])
def test_operation_unknown_to_the_kernel_then_the_next_strategy_and_the_reason(monkeypatch, missing):
    """An opcode that no kernel has stands for EPOLL_WAIT or EPOLL_CTL on a kernel that is too old."""
    if missing == 59:
        monkeypatch.setattr(module.EpollWait, "_wait_op", 200)
        monkeypatch.setattr(module.EpollPoll, "_wait_op", 200)
    else:
        monkeypatch.setattr(uapi, "IORING_OP_EPOLL_CTL", 200)
    with IoUringSelector() as sel:
        assert sel.backend == ("io_uring:epoll_poll" if missing == 59 else "io_uring:poll_add")
        assert "io_uring:epoll_wait failed" in sel.reason
        assert "Linux" in sel.reason


@pytest.mark.parametrize("name", ["EPERM", "ENOSYS", "ENOMEM", "EMFILE", "EOPNOTSUPP", "EINVAL", "EIO"])
def test_io_uring_fails_with_any_error_then_the_standard_library_and_a_warning(monkeypatch, pair, name):
    refuse_setup(monkeypatch, getattr(errno, name))
    with pytest.warns(RuntimeWarning, match=name) as caught:
        sel = IoUringSelector()
    assert caught[0].filename == __file__
    with sel:
        assert sel.backend == selectors.DefaultSelector.__name__.replace("Selector", "").lower()
        assert name in sel.reason
        assert sel.ring is None
        sel.register(pair[0], READ)
        pair[1].send(b"x")
        assert ready(sel, None) == [(pair[0].fileno(), READ)]


def test_io_uring_fails_and_no_fallback_is_wanted_then_the_cause(monkeypatch):
    refuse_setup(monkeypatch, errno.EPERM)
    with pytest.raises(Unavailable) as caught:
        IoUringSelector(fallback=False)
    assert caught.value.cause


def refuse_setup(monkeypatch, code: int) -> None:
    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(syscalls, "io_uring_setup", refuse)
    monkeypatch.setattr("rawuring.params.time.sleep", lambda _: None)


def test_unknown_strategy_then_value_error_that_names_the_known_ones():
    with pytest.raises(ValueError, match="io_uring:epoll_wait"):
        IoUringSelector("kqueues")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"strategy": 5}, TypeError, "strategy=5: must be a name, one of io_uring:epoll_wait"),
        ({"strategy": []}, TypeError, "strategy="),
        ({"entries": "8"}, TypeError, "entries='8': must be an int, the size of the ring"),
        ({"entries": None}, TypeError, "entries=None"),
        ({"entries": 2.5}, TypeError, "entries=2.5"),
        ({"entries": 0}, ValueError, "entries=0: must be between 1 and 32768, the size of the ring"),
        ({"entries": -1}, ValueError, "entries=-1"),
        ({"entries": 1 << 40}, ValueError, "entries="),
    ],
)
def test_no_strategy_or_no_size_then_the_argument_is_named(arguments, error, words):
    with pytest.raises(error, match=words):
        IoUringSelector(**arguments)


@pytest.mark.skipif(not hasattr(selectors, "EpollSelector"), reason="epoll (Linux)")
def test_standard_library_asked_for_then_no_warning():
    with IoUringSelector("epoll", fallback=False) as sel:
        assert (sel.backend, sel.reason) == ("epoll", "epoll was requested")


# -- io_uring is lost


LATER = """
import os, selectors, socket, sys, warnings
warnings.simplefilter("ignore", ResourceWarning)
from rawuring.selector import IoUringSelector
sel = IoUringSelector(sys.argv[2], fallback=False)
pairs = [socket.socketpair() for _ in range(4)]
watched = [a.fileno() for a, b in pairs]
for a, b in pairs[:2]:
    sel.register(a, selectors.EVENT_READ)
assert sel.select(0.001) == []
sel.register(pairs[2][0], selectors.EVENT_READ)  # not known to the kernel yet
sel.modify(pairs[1][0], selectors.EVENT_WRITE)
"""
AFTERWARDS = """
def ready(timeout):
    return sorted(watched.index(key.fd) for key, _ in sel.select(timeout))

for a, b in pairs:
    b.send(b"x")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    assert ready(0.5) == [0, 1, 2], "nothing may be lost"
[warning] = caught
assert issubclass(warning.category, RuntimeWarning), warning
assert "stopped working" in str(warning.message) and "stopped working" in sel.reason, sel.reason
assert not sel.backend.startswith("io_uring"), sel.backend
sel.register(pairs[3][0].fileno(), selectors.EVENT_READ)
sel.unregister(pairs[0][0])
pairs[0][0].recv(1)
pairs[0][0].close()
assert ready(None) == [1, 2, 3]
assert ready(0) == [1, 2, 3]
sel.modify(pairs[1][0], selectors.EVENT_READ)
for pair in pairs[1:]:
    pair[0].recv(1)
assert ready(0.01) == []
sel.close()
assert len(pairs[1][1].send(b"x").to_bytes(1, "big")) == 1
print("fine")
"""


@pytest.mark.requires_io_uring
@pytest.mark.parametrize("action", [0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS])
@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_filter_that_forbids_io_uring_while_it_is_in_use_then_nothing_is_lost(strategy, action):
    done = subprocess.run(
        [sys.executable, "-c", LATER + FILTER + AFTERWARDS, hex(action), strategy],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    skip_without_seccomp(done)
    skip_if_too_old(done.stderr)
    assert (done.stdout, done.returncode) == ("fine\n", 0), done.stderr


def test_ring_closed_behind_our_back_then_nothing_is_lost_and_no_number_is_closed_twice(uring, pair):
    a, b = pair
    uring.register(a, READ)
    assert ready(uring, 0.001) == []
    number = uring.ring.fileno()
    os.close(number)
    r, w = os.pipe()
    try:
        assert number in (r, w)
        uring.modify(a, READ | WRITE)
        b.send(b"x")
        with pytest.warns(RuntimeWarning, match="stopped working"):
            assert ready(uring, 1) == [(a.fileno(), READ | WRITE)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            uring.close()
        os.fstat(number)
    finally:
        os.close(r)
        os.close(w)


ENDS = {
    "closed": "sel.close(); sel.close(); loop.close()",
    "left open": "",
    "forgotten": "del sel; gc.collect(); del loop; gc.collect()",
    "used and left open": "sel.select(0); loop.run_until_complete(asyncio.sleep(0.001))",
    "used and forgotten": """
sel.select(0)
loop.run_until_complete(asyncio.sleep(0.001))
del sel; gc.collect(); del loop; gc.collect()""",
}
AT_THE_END = """
import asyncio, gc, os, socket, sys
from rawuring.selector import IoUringSelector
one, two = socket.socketpair()
sel = IoUringSelector(sys.argv[2], fallback=False)
sel.register(one, 1)
sel.select(0.001)
sel.modify(one, 3)
loop = asyncio.SelectorEventLoop(IoUringSelector(sys.argv[2], fallback=False))
loop.run_until_complete(asyncio.sleep(0.001))
"""
CLOSED = """
for each in (sel, loop._selector):
    os.close(each.ring.fileno())
del each
"""


@pytest.mark.long
@pytest.mark.requires_io_uring
@pytest.mark.parametrize("strategy", list(STRATEGIES))
@pytest.mark.parametrize("action", [0x00050000 | errno.EPERM, None], ids=["filter", "closed behind our back"])
@pytest.mark.parametrize("end", list(ENDS.values()), ids=list(ENDS))
def test_io_uring_is_gone_at_the_end_then_no_exception_and_nothing_on_stderr(strategy, action, end):
    taken = FILTER if action else CLOSED
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", AT_THE_END + taken + end, hex(action or 0), strategy],
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAWURING_DEBUG": "0"},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    skip_without_seccomp(done)
    skip_if_too_old(done.stderr)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


SCARCE = """
import os, resource, selectors, sys, warnings
from rawuring.selector import IoUringSelector
warnings.simplefilter("ignore")
for free in range(1, 12):
    with IoUringSelector():
        pass  # descriptors that are opened once and kept
    used = os.dup(0)
    os.close(used)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + free, hard))
    sel = IoUringSelector()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    print(free, sel.backend)
    sel.close()
"""


@pytest.mark.requires_io_uring
def test_few_free_descriptors_then_epoll_and_never_single_polls():
    done = subprocess.run(
        [sys.executable, "-c", SCARCE], env={**os.environ, "PYTHONPATH": str(ROOT), "RAWURING_DEBUG": "0"},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    backends = [line.split()[1] for line in done.stdout.splitlines()]
    assert len(backends) == 11, done.stderr
    if backends[-1] == "io_uring:poll_add":
        pytest.skip("an epoll set in the ring: IORING_OP_EPOLL_CTL (Linux 5.6)")
    assert backends[0] == "epoll"
    assert set(backends) == {"epoll", backends[-1]}


# -- trusted numbers


def test_trusted_number_then_no_system_call_until_select(in_set, pair, monkeypatch):
    a, b = pair
    before = in_set.ring.statistics().enters
    in_set.register(a.fileno(), READ)
    in_set.modify(a.fileno(), READ | WRITE)
    in_set.modify(a.fileno(), READ)
    in_set.unregister(a.fileno())
    in_set.register(a.fileno(), READ)
    assert a.fileno() not in targets(in_set)
    assert in_set.ring.statistics().enters == before
    b.send(b"x")
    assert ready(in_set, 0) == [(a.fileno(), READ)]
    assert a.fileno() in targets(in_set)


def targets(sel: IoUringSelector) -> set[int]:
    """Ask the kernel for the content of the epoll set."""
    info = Path(f"/proc/self/fdinfo/{sel._strategy._epoll.fileno()}").read_text()
    return {int(line.split()[1]) for line in info.splitlines() if line.startswith("tfd:")}


def test_trusted_number_that_cannot_be_watched_then_ready_as_poll_says(in_set, tmp_path, pair):
    path = tmp_path / "file"
    path.write_bytes(b"x")
    with path.open("rb") as file:
        in_set.register(file.fileno(), READ)
        in_set.register(pair[0].fileno(), READ)
        for timeout in (0, 1, None):
            assert ready(in_set, timeout) == [(file.fileno(), READ)]
        pair[1].send(b"x")
        assert ready(in_set, None) == sorted([(file.fileno(), READ), (pair[0].fileno(), READ)])
        in_set.unregister(file.fileno())
    assert ready(in_set, None) == [(pair[0].fileno(), READ)]


def test_refused_number_that_is_modified_then_the_kernel_judges_anew(in_set, tmp_path, pair):
    with (tmp_path / "file").open("w") as file:
        fd = file.fileno()
        in_set.register(fd, READ)
        in_set.register(pair[0], READ)
        assert ready(in_set) == [(fd, READ)]
        in_set.modify(pair[0], WRITE)  # while another one is refused
        assert ready(in_set) == sorted([(fd, READ), (pair[0].fileno(), WRITE)])
        in_set.modify(pair[0], READ)
        os.dup2(pair[1].fileno(), fd)  # now it can be watched
        in_set.modify(fd, WRITE)
        assert ready(in_set, 1) == [(fd, WRITE)]
        in_set.modify(fd, READ)
        assert ready(in_set, 0.01) == []
        in_set.unregister(fd)


def test_trusted_number_that_is_closed_then_silent(in_set):
    r, w = os.pipe()
    in_set.register(r, READ)
    os.close(r)
    os.close(w)
    assert ready(in_set, 0.001) == []
    in_set.unregister(r)


def test_modify_of_a_number_that_is_another_file_by_now_then_that_one_is_not_watched(in_set, pair):
    """EpollSelector raises at once; a queued change detects it later, and is silent."""
    r1, w1 = os.pipe()
    in_set.register(r1, READ)
    assert ready(in_set) == []
    os.close(r1)
    number = os.dup(pair[0].fileno())
    assert number == r1
    for _ in range(2):
        in_set.modify(number, WRITE)
        assert ready(in_set, 0.001) == []
        in_set.modify(number, READ)
    in_set.trusting = False
    with pytest.raises(FileNotFoundError):
        in_set.modify(number, WRITE)
    assert number not in in_set.get_map()
    os.close(number)
    os.close(w1)


class Named:
    """A foreign file object."""

    def __init__(self, fd):
        self.fd = fd

    def fileno(self):
        return self.fd


@pytest.mark.parametrize("trusting", [False, True])
@pytest.mark.parametrize("kind", [int, Named])
def test_modified_while_open_then_closed_and_its_number_used_again_then_silent(
    any_selector, trusting, kind
):
    """EpollSelector makes the change at once; a change that waits for select() found the new file."""
    any_selector.trusting = trusting
    if any_selector.backend == "poll":
        pytest.skip("poll(2) watches numbers, not files")
    r, w = os.pipe()
    any_selector.register(kind(r), READ)
    assert ready(any_selector, 0.001) == []
    any_selector.modify(r, READ | WRITE)
    os.close(r)
    a, b = socket.socketpair()
    with a, b:
        assert a.fileno() == r
        for timeout in (0, 0.001, 0):
            assert ready(any_selector, timeout) == []
        any_selector.unregister(r)
        key = any_selector.register(a, WRITE)
        assert any_selector.select(1) == [(key, WRITE)]
    os.close(w)


@pytest.mark.parametrize("watched_directly", [False, True])
def test_modified_then_closed_and_its_number_used_again_then_the_new_file_is_not_watched(
    in_set, pair, watched_directly
):
    """The queued change finds the number, not the file; EpollSelector would have made it at once."""
    a, b = socket.socketpair()
    number = a.fileno()
    in_set.register(a, READ)
    assert ready(in_set, 0.001) == []
    in_set.modify(a, WRITE)
    a.close()
    stranger = socket.socket(fileno=os.dup(pair[0].fileno()))
    assert stranger.fileno() == number
    if watched_directly:
        in_set.fileno()
    assert ready(in_set, 0.001) == []
    stranger.close()
    b.close()


# -- guarantees for other parts


def test_map_then_a_live_view(uring, pair):
    view = uring.get_map()
    assert len(view) == 0
    key = uring.register(pair[0], READ, "data")
    assert view[pair[0]] == view[pair[0].fileno()] == view.get(pair[0]) == key
    assert view.get(pair[1]) is None
    assert list(view) == [pair[0].fileno()]
    assert pair[0] in view
    assert pair[1] not in view
    uring.unregister(pair[0])
    assert dict(view) == {}


@pytest.mark.parametrize("entries", [1, 2, 3])
@pytest.mark.requires_io_uring
def test_tiny_ring_then_changes_take_turns(entries, make_pairs):
    pairs = make_pairs(20)
    with IoUringSelector(entries=entries) as sel:
        for a, b in pairs:
            sel.register(a, READ)
            b.send(b"x")
        assert len(sel.select(1)) == 20


def test_memory_of_many_events_then_it_grows(uring, make_pairs):
    pairs = make_pairs(200)
    for i, (a, b) in enumerate(pairs):
        uring.register(a, READ)
        b.send(b"x")
        assert len(uring.select(1)) == i + 1


def test_closed_by_another_thread_than_the_one_that_selected_then_closed(uring, pair, recwarn):
    uring.register(pair[0], READ)
    selected, leave = threading.Event(), threading.Event()

    def select_and_stay() -> None:
        uring.select(0.001)  # its request is still in flight
        selected.set()
        leave.wait()

    thread = threading.Thread(target=select_and_stay)
    thread.start()
    try:
        assert selected.wait(10)
        uring.close()
        assert uring.ring.closed
        assert not recwarn.list
    finally:
        leave.set()
        thread.join()


# -- many at once


MANY = 36


@pytest.fixture
def crowd(in_set, make_pairs):
    """Sockets that are all ready."""
    pairs = make_pairs(MANY)
    for a, b in pairs:
        in_set.register(a, READ, "old")
        b.send(b"x")
    for _ in range(3):
        assert len(in_set.select(1)) == MANY
    return [a for a, _ in pairs]


@pytest.mark.parametrize("timeout", [0, 1, None])
def test_many_ready_when_the_data_of_one_changes_then_the_new_key(in_set, crowd, timeout):
    in_set.modify(crowd[5], READ, "new")
    found = in_set.select(timeout)
    assert sorted(key.data for key, _ in found) == ["new"] + ["old"] * (MANY - 1)
    assert all(key is in_set.get_key(key.fileobj) for key, _ in found)


@pytest.mark.parametrize("timeout", [0, 1, None])
def test_many_ready_when_the_interest_changes_then_the_new_one(in_set, crowd, timeout):
    in_set.modify(crowd[5], READ | WRITE, "both")
    in_set.modify(crowd[6], WRITE, "write")
    for _ in range(3):
        found = {key.data: events for key, events in in_set.select(timeout)}
        assert found == {"old": READ, "both": READ | WRITE, "write": WRITE}
    in_set.modify(crowd[5], READ, "old")
    for _ in range(3):
        assert {key.data: events for key, events in in_set.select(timeout)} == {"old": READ, "write": WRITE}


@pytest.mark.parametrize("timeout", [0, 1, None])
def test_many_ready_when_a_number_is_used_again_then_the_new_file(in_set, crowd, timeout):
    old = crowd[5]
    number = old.fileno()
    in_set.unregister(old)
    assert len(in_set.select(timeout)) == MANY - 1
    a, b = socket.socketpair()  # before the number is free, so that it is not theirs
    old.close()
    with a, b:
        os.dup2(a.fileno(), number)
        new = socket.socket(fileno=number)
        in_set.register(new, READ, "new")
        assert len(in_set.select(timeout)) == MANY - 1
        b.send(b"x")
        for _ in range(3):
            assert [key.fileobj for key, _ in in_set.select(timeout) if key.data == "new"] == [new]
        in_set.unregister(new)
        new.close()


def test_many_ready_when_fewer_are_then_only_those(in_set, crowd):
    for count in range(MANY - 1, -1, -1):
        crowd[count].recv(1)
        assert len(in_set.select(0)) == count
    assert in_set.select(0.001) == []


@pytest.mark.parametrize("entries", [2, 4, 64])
@pytest.mark.parametrize("count", [1, 3, 11, 12, 40, 200])
def test_changes_of_every_number_in_a_ring_of_every_size_then_all_are_made(
    entries, count, requires_io_uring, make_pairs
):
    sel = selector_of("io_uring:epoll_poll", entries=entries)
    pairs = make_pairs(count)
    with sel:
        for a, _ in pairs:
            sel.register(a, READ)
        assert sel.select(0) == []
        for a, _ in pairs:
            sel.modify(a, WRITE)
        assert len(sel.select(0)) == count
        for a, _ in pairs:
            sel.modify(a, READ)
        assert sel.select(0) == []


def test_additions_and_modifications_in_one_batch_then_each_is_what_it_is(in_set, make_pairs):
    pairs = make_pairs(60)
    for round_ in range(3):
        for number, (a, b) in enumerate(pairs):
            if round_ == 0 and number % 3 == 0:
                in_set.register(a, READ)
                b.send(b"x")
        if round_ == 1:  # the kernel knows a third by now
            for number, (a, b) in enumerate(pairs):
                if number % 3 == 0:
                    in_set.modify(a, WRITE)
                elif number % 3 == 1:
                    in_set.register(a, READ)
                    b.send(b"x")
        if round_ == 2:  # nothing but modifications
            for number, (a, _) in enumerate(pairs):
                if number % 3 < 2:
                    in_set.modify(a, WRITE if number % 3 else READ)
        expected = sorted(
            (a.fileno(), READ if (round_ + number) % 2 == 0 or round_ == 0 else WRITE)
            for number, (a, _) in ((n % 3, pair) for n, pair in enumerate(pairs))
            if number <= min(round_, 1)
        )
        assert ready(in_set, 1) == expected


def test_number_of_another_type_of_int_then_the_key_keeps_an_int(in_set, pair):
    class Number(int):
        pass

    class Odd:
        def fileno(self) -> int:
            return Number(pair[0].fileno())

    odd = Odd()
    in_set.register(odd, READ)
    assert ready(in_set) == []
    for events in (WRITE, READ, WRITE):
        assert type(in_set.modify(odd, events).fd) is int
        assert ready(in_set) == ([(pair[0].fileno(), WRITE)] if events == WRITE else [])
        assert all(type(fd) is int for fd in in_set.get_map())


# ------------------------------------------------------------------------------------------------------
# Common misuse


def every_strategy():
    return [*STRATEGIES, "epoll", "poll"]


@pytest.fixture(params=every_strategy())
def any_selector(request):
    with selector_of(request.param) as made:
        yield made


@pytest.mark.parametrize("timeout", [1e10, 1e300, float("inf"), 10**400])
def test_select_longer_than_the_kernel_can_count_then_it_waits(any_selector, timeout):
    """1e10 seconds raised OverflowError in the standard library's selectors, infinity in all."""
    one, two = socket.socketpair()
    with one, two:
        any_selector.register(one, 1)
        two.send(b"x")
        assert [key.fd for key, _ in any_selector.select(timeout)] == [one.fileno()]


def test_select_for_no_number_then_valueerror(any_selector):
    with pytest.raises(ValueError, match="NaN"):
        any_selector.select(float("nan"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="os.fork (POSIX)")
def test_every_method_in_a_forked_child_then_refused(any_selector):
    """PollAdd.change() queued its change there, and nobody ever made it."""
    if not any_selector.backend.startswith("io_uring"):
        pytest.skip("a ring, which a child cannot use")
    one, two = socket.socketpair()
    with one, two:
        any_selector.register(one, 1)
        any_selector.select(0)
        pid = os.fork()
        if not pid:
            refused = 0
            try:
                for call in (
                    lambda: any_selector.modify(one, 2),
                    lambda: any_selector.register(two, 1),
                    lambda: any_selector.register(two.fileno(), 1),
                    lambda: any_selector.select(0),
                    any_selector.fileno,
                ):
                    try:
                        call()
                    except rings.ForkedRing:
                        refused += 1
            finally:
                os._exit(refused)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5


def test_detached_then_an_event_unless_the_kernel_never_heard_of_it(any_selector):
    """detach() keeps the file open under its number. Before the first select() it looks like a close()."""
    one, two = socket.socketpair()
    with two:
        any_selector.register(one, 1)
        any_selector.select(0)
        fd = one.detach()
        two.send(b"x")
        assert [key.fd for key, _ in any_selector.select(0)] == [fd]
        any_selector.unregister(fd)
        os.close(fd)
    three, four = socket.socketpair()
    with four:
        any_selector.register(three, 1)
        fd = three.detach()
        four.send(b"x")
        silent = any_selector.backend in STRATEGIES
        assert [key.fd for key, _ in any_selector.select(0)] == ([] if silent else [fd])
        any_selector.unregister(fd)
        any_selector.register(fd, 1)  # a number stands for itself
        assert [key.fd for key, _ in any_selector.select(0)] == [fd]
        any_selector.unregister(fd)
        os.close(fd)


@pytest.mark.requires_io_uring
def test_closed_when_the_kernel_refuses_then_said_and_no_descriptor_is_left(monkeypatch, pair):
    chosen = IoUringSelector()
    if not chosen.backend.startswith("io_uring:epoll"):
        chosen.close()
        pytest.skip("an epoll set in the ring: IORING_OP_EPOLL_CTL (Linux 5.6)")
    chosen.register(pair[0], READ)
    chosen.select(0)
    epoll = chosen._strategy._epoll
    monkeypatch.setattr(chosen.ring, "submit_and_wait", refuse)
    with pytest.warns(ResourceWarning, match="could not be ended"), pytest.raises(OSError, match="refused"):
        chosen.close()
    assert epoll.closed


def refuse(*arguments):
    raise OSError(errno.EIO, "refused")


@pytest.mark.parametrize("direct", [False, True])
def test_registered_by_a_thread_while_its_old_event_is_put_out_then_watched(uring, pair, direct):
    """An unregistered number is removed from the set; a thread may have registered it by then."""
    if uring.backend == "io_uring:poll_add":
        pytest.skip("single polls have no epoll set")
    a, b = pair
    b.send(b"x")
    if direct:
        uring.fileno()
    key = uring.register(a.fileno(), READ)
    assert uring.select(0) == [(key, READ)]
    strategy, fd = uring._strategy, a.fileno()

    class Late:
        """An epoll set that lets the other thread run just before it removes a number."""

        def __init__(self, epoll):
            self.epoll = epoll

        def __getattr__(self, name):
            return getattr(self.epoll, name)

        def unregister(self, number):
            uring._map[fd] = key  # done by that thread; the number is in the set already
            strategy._known[fd] = 0
            return self.epoll.unregister(number)

    del uring._map[fd]  # it is between unregister() and register()
    real, strategy._epoll = strategy._epoll, Late(strategy._epoll)
    uring.select(0)
    strategy._epoll = real
    assert uring.select(1) == [(key, READ)]


def test_modified_by_a_thread_while_the_old_event_of_its_number_is_put_out_then_no_error(in_set, pair):
    """The new registration was removed: modify() of the number raised FileNotFoundError, and ended it."""
    a, b = pair
    b.send(b"x")
    in_set.trusting = False
    fd, strategy = a.fileno(), in_set._strategy
    key = in_set.register(fd, READ)
    removed, ready_to_modify = threading.Event(), threading.Event()

    class Late:
        """An epoll set out of which a number is removed after a thread has added it."""

        def __init__(self, epoll):
            self.epoll, self.executor, self.changed = epoll, ThreadPoolExecutor(1), None

        def __getattr__(self, name):
            return getattr(self.epoll, name)

        def unregister(self, number):
            if self.changed is None:
                self.changed = self.executor.submit(self.change)
                ready_to_modify.wait(0.2)  # in vain if that thread has to wait for this one
                self.epoll.unregister(number)
                removed.set()
                wait([self.changed], 0.2)  # in vain, too
            else:
                self.epoll.unregister(number)

        def change(self):
            in_set.register(fd, READ)
            ready_to_modify.set()
            removed.wait()
            in_set.modify(fd, READ | WRITE)

    del in_set._map[fd]  # it was unregistered after the set had reported it
    late = strategy._epoll = Late(strategy._epoll)
    try:
        in_set.select(0)
        late.changed.result()
    finally:
        strategy._epoll = late.epoll
        late.executor.shutdown()
    key = in_set.get_key(fd)
    assert in_set.select(1) == [(key, READ | WRITE)]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("timeout", [None, 0])
def test_closed_by_a_signal_handler_while_it_waits_then_value_error_and_no_warning(uring, pair, timeout):
    """It was taken for a lost ring."""
    if uring.backend == "io_uring:poll_add":
        pytest.skip("single polls have no epoll set")
    uring.register(pair[0], READ)
    uring.select(0)

    class Struck:
        """An epoll set whose wait a handler interrupts to close the selector, and which continues."""

        def __init__(self, epoll):
            self.epoll = epoll

        def __getattr__(self, name):
            return getattr(self.epoll, name)

        def poll(self, *arguments):
            uring.close()
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    uring._strategy._epoll = Struck(uring._strategy._epoll)
    with pytest.raises(ValueError, match="closed while it waited"):
        uring.select(timeout)


def struck_after(monkeypatch, target, name, strike):
    """Call strike() after the first call of a method."""
    real, calls = getattr(target, name), []

    def method(*arguments):
        result = real(*arguments)
        calls.append(arguments)
        if len(calls) == 1:
            strike()
        return result

    monkeypatch.setattr(target, name, method)


def struck_before(monkeypatch, ring, strike):
    """Call strike() once, just before the kernel consumes the queued SQEs."""
    real, left = ring.submit_and_wait, [strike]

    def submit_and_wait(*arguments):
        if left:
            left.pop()()
        return real(*arguments)

    monkeypatch.setattr(ring, "submit_and_wait", submit_and_wait)


def test_unregistered_while_its_modification_is_on_its_way_then_select_still_waits(
    in_set, pair, monkeypatch
):
    """It was taken for a number that the kernel rejects: every later select() returned at once."""
    in_set.register(pair[0], READ)
    in_set.register(pair[1], READ)
    assert in_set.select(0) == []
    in_set.modify(pair[0], READ | WRITE)
    struck_after(monkeypatch, in_set._strategy, "_queue_changes", lambda: in_set.unregister(pair[0]))
    assert in_set.select(0.001) == []
    start = time.monotonic()
    assert in_set.select(0.2) == []
    assert time.monotonic() - start > 0.15


def in_a_thread(function, *arguments):
    thread = threading.Thread(target=function, args=arguments)
    thread.start()
    thread.join()


@pytest.mark.parametrize("entries", [2, 16, 1024])
@pytest.mark.parametrize("count", [1, 40])
def test_changed_by_a_thread_while_an_older_change_is_on_its_way_then_the_wait_ends(
    in_set, monkeypatch, entries, count, make_pairs
):
    """The older one was made last, and select() slept on it."""
    pairs = make_pairs(count)
    a, b = pairs[0]
    with IoUringSelector(in_set.backend, fallback=False, entries=entries) as sel:
        for one, _ in pairs:
            sel.register(one, READ)
        assert sel.select(0) == []
        for one, _ in pairs:
            sel.modify(one, 0)

        def resume():
            in_a_thread(sel.modify, a, READ)

        strategy = sel._strategy
        if count > 1:
            struck_after(monkeypatch, strategy.ring, "push", resume)  # the first block, perhaps of several
        else:
            struck_after(monkeypatch, strategy, "_queue_changes", resume)
        timer = threading.Timer(0.1, b.send, (b"x",))
        timer.start()
        assert sel.select(5) == [(sel.get_key(a), READ)]
        timer.join()
        a.recv(1)
        assert sel.select(0.001) == []


def test_number_registered_anew_by_a_thread_while_an_older_change_is_on_its_way_then_the_wait_ends(
    in_set, pair, monkeypatch
):
    a, b = pair
    in_set.register(a.fileno(), READ)
    assert in_set.select(0) == []
    in_set.modify(a.fileno(), 0)

    def again():
        in_set.trusting = False
        in_set.unregister(a.fileno())
        in_set.register(a.fileno(), READ)

    struck_after(monkeypatch, in_set._strategy, "_queue_changes", lambda: in_a_thread(again))
    timer = threading.Timer(0.1, b.send, (b"x",))
    timer.start()
    assert in_set.select(5) == [(in_set.get_key(a), READ)]
    timer.join()


def test_woken_when_the_wait_had_ended_then_the_next_one_waits_all_the_same(in_set, pair):
    in_set.register(pair[0], READ)
    assert in_set.select(0) == []
    in_set._strategy._on_the_way = {pair[0].fileno(): READ}
    in_set._strategy._overtake(pair[0].fileno())
    in_set._strategy._on_the_way = {}
    timer = threading.Timer(0.1, pair[1].send, (b"x",))
    timer.start()
    assert in_set.select(None) == [(in_set.get_key(pair[0]), READ)]
    timer.join()


def test_signal_handler_raises_after_a_thread_has_changed_what_was_on_its_way_then_the_newer_wins(
    in_set, pair, monkeypatch
):
    a, b = pair
    in_set.register(a, READ)
    assert in_set.select(0) == []
    in_set.modify(a, 0)
    struck_after(monkeypatch, in_set._strategy, "_queue_changes", lambda: in_a_thread(in_set.modify, a, READ))

    def leave():
        raise KeyboardInterrupt

    struck_after(monkeypatch, in_set._strategy.ring, "submit_and_wait", leave)
    with pytest.raises(KeyboardInterrupt):
        in_set.select(1)
    b.send(b"x")
    assert in_set.select(1) == [(in_set.get_key(a), READ)]
    assert in_set.select(1) == [(in_set.get_key(a), READ)]


def test_change_completes_while_a_thread_ends_the_newer_one_then_the_newer_wins(in_set, pair, monkeypatch):
    """The thread took the note that sends its change again off the list: it had made it before the older."""
    a, b = pair
    in_set.register(a, READ)
    assert in_set.select(0) == []
    in_set.modify(a, WRITE)
    strategy, made, end = in_set._strategy, threading.Event(), threading.Event()
    control = strategy._control

    def control_and_stay(key, change):
        control(key, change)
        made.set()
        end.wait()

    thread = threading.Thread(target=in_set.modify, args=(a, READ))

    def change():
        monkeypatch.setattr(strategy, "_control", control_and_stay)
        thread.start()
        made.wait()

    def end_it():
        end.set()
        thread.join()

    struck_after(monkeypatch, strategy, "_queue_changes", change)
    struck_after(monkeypatch, strategy, "_note_sent", end_it)
    try:
        assert in_set.select(0) == []
    finally:
        end_it()
    b.send(b"x")
    assert in_set.select(1) == [(in_set.get_key(a), READ)]


class Growing(set):
    """Descriptors, to which another thread adds one while they are iterated over."""

    def __iter__(self):
        for fd in super().copy():
            yield fd
            if not self.done:
                self.done = True
                self.add(-1)
                raise RuntimeError("Set changed size during iteration")

    done = True


def test_overtaken_by_another_thread_while_the_select_sends_it_again_then_no_error(in_set, pair, monkeypatch):
    """RuntimeError, seen on free-threaded CPython."""
    a, b = pair
    in_set.register(a, READ)
    assert in_set.select(0) == []
    in_set.modify(a, 0)
    strategy = in_set._strategy
    strategy._overtaken = Growing()

    def overtake():
        in_a_thread(in_set.modify, a, READ)
        strategy._overtaken.done = False

    struck_after(monkeypatch, strategy, "_queue_changes", overtake)
    in_set.select(0)
    strategy._overtaken.done = True
    b.send(b"x")
    assert in_set.select(1) == [(in_set.get_key(a), READ)]


def test_paused_and_resumed_by_another_thread_then_every_event_comes(in_set, pair):
    """The loop pauses a socket; another thread, which gets it, resumes it while the loop starts to wait."""
    a, b = pair
    paused: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def work():
        while paused.get():
            in_set.modify(a, READ)
            b.send(b"x")

    in_set.register(a, READ)
    thread = threading.Thread(target=work)
    thread.start()
    try:
        b.send(b"x")
        for _ in range(200):
            assert in_set.select(10) == [(in_set.get_key(a), READ)]
            a.recv(1)
            in_set.modify(a, 0)
            paused.put(True)
    finally:
        paused.put(False)
        thread.join()


def test_signal_handler_raises_before_the_wait_is_sent_then_the_next_turn_has_one_of_its_own(in_set, pair):
    a, b = pair
    in_set.register(a, READ)
    b.send(b"x")
    assert ready(in_set, None) == [(a.fileno(), READ)]
    a.recv(1)

    def strike(*_):
        del in_set.ring.submit_and_wait
        raise KeyboardInterrupt

    in_set.ring.submit_and_wait = strike
    with pytest.raises(KeyboardInterrupt):
        in_set.select(5)
    b.send(b"x")
    in_set.modify(a, READ | WRITE)
    assert ready(in_set, 0) == [(a.fileno(), READ | WRITE)]


@contextlib.contextmanager
def late(sel: IoUringSelector):
    """Have changes made by a worker, as the kernel does while the set's lock is taken; the worker is busy.

    Yields a function that lets the worker continue.
    """
    (r, w), out = os.pipe(), os.pipe()
    try:
        try:
            register.register_iowq_max_workers(sel.ring, 1, 1)
        except OSError as error:
            pytest.skip(f"IORING_REGISTER_IOWQ_MAX_WORKERS (Linux 5.15): {error}")
        push = sel.ring.push

        def push_late(sqes):
            block = bytearray(sqes)
            for at in range(0, len(block), 64):
                if block[at] == uapi.IORING_OP_EPOLL_CTL:
                    block[at + 1] |= uapi.IOSQE_ASYNC
            return push(block)

        sel.requests.start(ops.prep_splice, r, -1, out[1], -1, 8, 0)  # always run by a worker, which waits
        assert sel.select(0) == []
        sel.ring.push = push_late
        yield lambda: os.write(w, b"go on")
        assert len(sel.requests) <= 1
    finally:
        vars(sel.ring).pop("push", None)
        for fd in (r, w, *out):
            os.close(fd)


def test_change_that_a_worker_makes_then_made_before_select_returns(in_set, pair):
    a, b = pair
    in_set.register(a, READ)
    assert ready(in_set) == []
    with late(in_set) as go_on:
        timer = threading.Timer(0.1, go_on)
        b.send(b"x")
        in_set.modify(a, 0)
        timer.start()
        assert ready(in_set) == []
    in_set.modify(a, READ)
    for _ in range(2):
        assert ready(in_set, 5) == [(a.fileno(), READ)]
        timer.join()


def test_changed_by_a_thread_while_a_worker_makes_an_older_change_then_the_newer_wins(in_set, pair):
    a, b = pair
    in_set.register(a, READ)
    assert ready(in_set) == []
    with late(in_set) as go_on:
        resumed = threading.Event()
        wait = in_set.ring.submit_and_wait

        def resume():
            in_set.modify(a, READ)
            b.send(b"x")
            resumed.wait(0.1)
            go_on()

        def wait_and_resume(*arguments):
            del in_set.ring.submit_and_wait
            thread.start()
            return wait(*arguments)

        thread = threading.Thread(target=resume)
        in_set.ring.submit_and_wait = wait_and_resume
        in_set.modify(a, 0)
        found = ready(in_set, 5)
    resumed.set()
    assert found in ([(a.fileno(), READ)], [])
    for _ in range(2):
        assert ready(in_set, 5) == [(a.fileno(), READ)]
        thread.join()


def test_signal_handler_raises_while_a_worker_makes_a_change_then_that_is_made_first(in_set, pair):
    a, b = pair
    in_set.register(a, READ)
    assert ready(in_set) == []
    with late(in_set) as go_on:
        b.send(b"x")
        wait = in_set.ring.submit_and_wait
        timer = threading.Timer(0.1, go_on)

        def strike(nr, timeout_ns=None):
            del in_set.ring.submit_and_wait
            wait(0)
            raise KeyboardInterrupt

        in_set.modify(a, 0)
        in_set.ring.submit_and_wait = strike
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            in_set.select(0)
    in_set.modify(a, READ)
    for _ in range(2):
        assert ready(in_set, 5) == [(a.fileno(), READ)]
        timer.join()


def test_number_registered_anew_after_its_addition_was_on_its_way_then_watched(in_set, pair, monkeypatch):
    """The addition was made after unregister(), and register() failed with FileExistsError."""
    a, b = pair
    in_set.register(b, READ)
    assert in_set.select(0) == []
    in_set.register(a, READ)
    struck_after(monkeypatch, in_set._strategy, "_queue_changes", lambda: in_set.unregister(a))
    assert in_set.select(0.001) == []
    in_set.trusting = False
    key = in_set.register(a.fileno(), WRITE)
    assert in_set.select(1) == [(key, WRITE)]


def test_forked_while_a_thread_waits_then_the_child_is_refused(in_set, pair):
    """The child lacks that thread, and its select() used the parent's set."""
    in_set.register(pair[0], READ)
    in_set._strategy._waiting = True  # as inherited by the child
    in_set.modify(pair[0], WRITE)
    pid = os.fork()
    if not pid:
        try:
            in_set.select(0)
        except ForkedRing:
            os._exit(7)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 7 << 8
    in_set._strategy._waiting = False


@pytest.mark.parametrize("moment", ["before", "between", "after"])
@pytest.mark.parametrize("one_step", [True, False])
def test_modified_by_a_signal_handler_inside_modify_then_kernel_and_key_agree(
    in_set, pair, monkeypatch, one_step, moment
):
    a, b = pair
    strategy = in_set._strategy
    if not one_step:
        monkeypatch.setattr(module, "_ONE_STEP", False)
    elif moment != "before":
        pytest.skip("a call after which a handler can run")
    b.send(b"x")
    in_set.register(a, READ)
    assert in_set.select(0) == [(in_set.get_key(a), READ)]
    left = [lambda: in_set.modify(a, READ | WRITE)]

    class Struck(dict):
        def __getitem__(self, fd):
            if left and moment == "before":
                left.pop()()
            return dict.__getitem__(self, fd)

        def __setitem__(self, fd, change):
            if left and moment == "between":
                left.pop()()
            dict.__setitem__(self, fd, change)
            if left and moment == "after":
                left.pop()()

    strategy._known, strategy._pending = Struck(strategy._known), Struck(strategy._pending)
    in_set.modify(a, 0)
    assert not left
    key = in_set.get_key(a)
    assert key.events == (0 if moment == "before" else READ | WRITE)
    assert in_set.select(0.1) == ([(key, READ | WRITE)] if key.events else [])


def test_selected_by_threads_in_turn_with_changes_then_old_requests_end(in_set, pair):
    """Their cancellation was dropped together with SQEs that an exception would have left in the queue."""
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as two:
        in_set.register(pair[0], READ)
        for turn in range(40):
            in_set.modify(pair[0], READ, turn)
            in_set.modify(pair[0], 0)
            in_set.modify(pair[0], READ)
            assert (one, two)[turn % 2].submit(in_set.select, 0.001).result() == []
        assert len(in_set._strategy._inflight) <= 3


def test_number_registered_anew_after_unregister_was_interrupted_then_no_old_change_is_sent(
    in_set, pair, monkeypatch
):
    a, b = pair
    in_set.trusting = False
    in_set.register(a.fileno(), READ)
    in_set.modify(a.fileno(), 0)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(in_set._strategy, "remove", interrupted)
        with pytest.raises(KeyboardInterrupt):
            in_set.unregister(a.fileno())
    key = in_set.register(a.fileno(), READ)
    b.send(b"x")
    for _ in range(2):
        assert in_set.select(1) == [(key, READ)]


def test_wait_goes_on_while_a_thread_looks_what_it_sends_then_one_look_counts(in_set, pair):
    in_set.register(pair[0], READ)
    assert in_set.select(0) == []
    strategy = in_set._strategy
    looks = [{}]

    class Hurried(type(strategy)):
        @property
        def _on_the_way(self):
            return looks.pop() if looks else None

    usual, strategy.__class__ = type(strategy), Hurried
    try:
        strategy._overtake(pair[0].fileno())
    finally:
        strategy.__class__ = usual
    assert strategy._epoll.poll(0) == []


# -- invalid file objects, events and numbers: the standard library's EpollSelector is the oracle

NO_FILE = [
    -1, -(2**31), -(2**70), 2**31 - 1, 2**31, 2**32 + 3, 2**63, 2**64, 2**70, 3.0, 1e300, float("nan"),
    float("inf"), None, "3", "", b"3", (), (3,), [3], {}, object(), int, 1j, Named(-1), Named(2**31),
    Named(2**70), Named(None), Named("x"), Named(-(2**40)),
]  # fmt: skip
NO_EVENTS = [
    0, 0.0, 1.0, 2.0, 3.0, 0.5, float("nan"), None, "", "r", b"r", (), (1,), [1], {}, object(), 4, 8, 5,
    1 << 31, 1 << 40, (1 << 70) | 1, 1 << 70, -1, -4, 1j,
]  # fmt: skip


def answer(call):
    try:
        call()
    except Exception as error:
        return type(error)
    return None


@pytest.mark.skipif(not hasattr(selectors, "EpollSelector"), reason="epoll (Linux)")
@pytest.mark.parametrize("trusting", [False, True])
@pytest.mark.parametrize("value", NO_FILE, ids=repr)
def test_no_file_object_then_the_exception_of_epoll_selector_and_the_others_go_on(
    any_selector, pair, value, trusting
):
    """With trusting, 2**31 was accepted, and every later select() failed."""
    any_selector.trusting = trusting
    with selectors.EpollSelector() as oracle:
        key = any_selector.register(pair[0], WRITE)
        oracle.register(pair[0], WRITE)
        for name, *arguments in [("get_key",), ("unregister",), ("modify", READ), ("register", READ)]:
            calls = [
                lambda sel=sel: getattr(sel, name)(value, *arguments)  # noqa: B023 - called at once
                for sel in (any_selector, oracle)
            ]
            if name == "register" and value == 2**31 - 1 and (trusting or any_selector.backend == "poll"):
                continue  # a number that a file may have
            assert answer(calls[0]) is answer(calls[1]), name
        for timeout in (0, 0.001, None):
            assert any_selector.select(timeout) == [(key, WRITE)]
        assert len(any_selector.get_map()) == 1


@pytest.mark.skipif(not hasattr(selectors, "EpollSelector"), reason="epoll (Linux)")
@pytest.mark.parametrize("trusting", [False, True])
@pytest.mark.parametrize("number", [False, True])
@pytest.mark.parametrize("value", NO_EVENTS, ids=repr)
def test_no_events_then_the_exception_of_epoll_selector_and_the_others_go_on(
    any_selector, pair, value, trusting, number
):
    """modify(1.0) was accepted, because 1.0 is the key 1 of a dictionary, and every later select() failed."""
    any_selector.trusting = trusting
    a, b = (sock.fileno() if number else sock for sock in pair)
    with selectors.EpollSelector() as oracle:
        key = any_selector.register(a, WRITE)
        oracle.register(a, WRITE)
        expected = answer(lambda: oracle.register(b, value))
        assert answer(lambda: any_selector.register(b, value)) is expected
        for sel in (any_selector, oracle):
            sel.register(b, READ)
        expected = answer(lambda: oracle.modify(b, value, "data"))
        assert answer(lambda: any_selector.modify(b, value, "data")) is expected
        for timeout in (0, 0.001, None):
            assert (key, WRITE) in any_selector.select(timeout)
        assert ready(any_selector) == ready(oracle)


@pytest.mark.skipif(not hasattr(selectors, "EpollSelector"), reason="epoll (Linux)")
@pytest.mark.parametrize("timeout", ["1", float("nan"), 1j, (), object()], ids=repr)
def test_no_timeout_then_the_exception_of_epoll_selector(any_selector, timeout):
    with selectors.EpollSelector() as oracle:
        assert answer(lambda: any_selector.select(timeout)) is answer(lambda: oracle.select(timeout))


def test_modified_after_an_exception_kept_its_addition_from_being_sent_then_added(in_set, pair, monkeypatch):
    """It was believed to be in the set, and a number is not added when its modification fails."""
    fd = pair[0].fileno()
    in_set.register(fd, WRITE)

    def struck(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(in_set.ring, "submit", struck)
        patch.setattr(in_set.ring, "submit_and_wait", struck)
        with pytest.raises(KeyboardInterrupt):
            in_set.select(0)
    in_set.modify(fd, READ | WRITE)
    assert ready(in_set, 1) == [(fd, WRITE)]
    in_set.unregister(fd)
    assert fd not in targets(in_set)


def test_handler_raises_while_an_event_is_reaped_then_it_is_not_reported_later(uring, pair, monkeypatch):
    """The completion had left the CQ but not reached the selector: the next wait took it for its own."""
    uring.register(pair[0], READ)
    for _ in range(3):  # after a turn with events the set would be queried first
        assert ready(uring, 0.001) == []
    pair[1].send(b"x")

    def struck(target):
        uring.ring.cq.fetch()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(uring.ring, "reap_into", struck)
        patch.setattr(uring.ring, "submit_and_reap", lambda *_: struck(None))
        with pytest.raises(KeyboardInterrupt):
            uring.select(1)
    assert pair[0].recv(1) == b"x"
    assert ready(uring, 0.001) == []
    pair[1].send(b"y")
    assert ready(uring, 1) == [(pair[0].fileno(), READ)]


@pytest.mark.parametrize("change", ["register", "modify a noted one", "modify a given one"])
def test_changed_while_another_thread_selects_at_any_call_then_the_change_is_made(uring, pair, change):
    """A modification of one that waited for its addition was lost: noted on a list that had been sent."""
    a, _ = pair
    struck = True
    for at in itertools.count(1):
        if not struck:  # there are no more calls
            break
        if change != "register":
            uring.register(a, READ)
        if change == "modify a given one":
            assert uring.select(0) == []
        calls, struck = 0, False

        def select(frame, event, _, at=at):
            """Do what another thread can do where the interpreter switches to it; so can a signal handler."""
            nonlocal calls, struck
            calls += event in ("call", "c_call")
            if calls == at and not struck:
                struck = True
                uring.select(0)

        sys.setprofile(select)
        try:
            (uring.register if change == "register" else uring.modify)(a, WRITE)
        finally:
            sys.setprofile(None)
        assert uring.select(0) == [(uring.get_key(a), WRITE)], f"at call {at}"
        uring.unregister(a)
        assert uring.select(0) == []


def test_number_registered_anew_by_a_thread_while_select_looks_at_its_old_file_then_watched(uring, pair):
    """With io_uring:poll_add the new registration was dropped instead of the old one."""
    number = os.dup(pair[0].fileno())
    selecting = replaced = False

    class File:
        def fileno(self) -> int:
            if selecting and not replaced:
                in_a_thread(replace)
                return -1  # closed
            return number

    def replace():
        nonlocal replaced
        replaced = True
        uring.unregister(file)
        os.dup2(pair[1].fileno(), number)
        uring.register(number, WRITE)

    file = File()
    uring.register(file, READ)
    selecting = True
    try:
        assert uring.select(0) == ([(uring.get_key(number), WRITE)] if replaced else [])
        if not replaced:
            replace()
        assert uring.select(0) == [(uring.get_key(number), WRITE)]
    finally:
        os.close(number)


class Vanishing(dict):
    """The keys, from which another thread removes each one as soon as it is found."""

    def __contains__(self, fd: object) -> bool:
        found = super().__contains__(fd)
        self.pop(fd, None)
        return found


def test_unregistered_by_another_thread_between_two_steps_of_a_wait_then_no_key_error(any_selector, pair):
    key = any_selector.register(pair[0], READ)
    pair[1].send(b"x")
    strategy = any_selector._strategy
    strategy.keys = Vanishing({key.fd: key})
    assert [key.fd for key, _ in strategy.wait(0)] == [key.fd]
    if any_selector.backend.startswith("io_uring:epoll"):  # files that epoll rejects are always ready
        strategy._refused.add(key.fd)
        assert strategy.wait(0)


def test_handler_raises_while_a_change_is_made_at_once_then_it_is_made_later(in_set, pair, monkeypatch):
    def struck(*_):
        raise KeyboardInterrupt

    in_set.register(pair[0], WRITE)
    assert in_set.select(0) == [(in_set.get_key(pair[0]), WRITE)]
    monkeypatch.setattr(in_set._strategy, "_control", struck)
    pair[1].send(b"x")
    struck_before(monkeypatch, in_set.ring, lambda: in_set.modify(pair[0], READ))
    in_set.modify(pair[0], 0)
    with pytest.raises(KeyboardInterrupt):
        in_set.select(1)
    monkeypatch.undo()
    assert pair[0].fileno() not in in_set.get_map()
    in_set.register(pair[0], READ)
    assert in_set.select(1) == [(in_set.get_key(pair[0]), READ)]


def test_an_exception_kept_a_wait_from_noting_its_end_then_requests_are_sent_all_the_same(
    monkeypatch, in_set
):
    """Possible before CPython 3.11 and on PyPy; a nested wait, or one in a thread, is still detected."""
    monkeypatch.setattr(rings, "_HANDLERS_RUN_AFTER_CALLS", False)
    got = []
    in_set.requests.start(ops.prep_nop, handler=lambda res, flags: got.append((res, in_set.select(0))))
    in_set._strategy._waiting = True
    assert in_set.select(20) == []
    assert (got, in_set._strategy._waiting) == ([(0, [])], False)


@pytest.mark.parametrize("thread", [False, True])
def test_forgotten_in_a_cycle_then_the_ring_goes_first_without_a_sound(uring, pair, thread, recwarn):
    """A collector finalizes a cycle in any order, and in any thread."""
    uring.register(pair[0], READ)
    uring.select(0)
    ring = uring.ring
    if thread:
        other = threading.Thread(target=ring.__del__)
        other.start()
        other.join()
    else:
        ring.__del__()
    assert ring.closed
    uring.__del__()
    assert not recwarn.list
