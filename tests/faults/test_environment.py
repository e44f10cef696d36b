# SPDX-License-Identifier: MIT
"""The environment: every errno at every call, signals, limits, clocks, forks, threads, stops and kills."""

from __future__ import annotations

import ast
import errno
import mmap
import multiprocessing
import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import leaks
import pytest
from driver import need_opcode
from harness import PYPY, ROOT, SECCOMP, check_child, figures, run_child, strike

from rawuring import buffers, fdmon, gates, inflight, ops, params, register, rings, selector, syscalls, uapi
from rawuring.fakekernel import fake_ring

needs_ring = pytest.mark.requires_io_uring

#: Every errno except the two that mean "again" and "time is up" to io_uring_enter.
ERRNOS = sorted(set(errno.errorcode) - {errno.EINTR, errno.ETIME})


def refuse_with(code, calls=None):
    def refuse(*arguments, **keywords):
        if calls is not None:
            calls.append(arguments)
        raise OSError(code, os.strerror(code))

    return refuse


# ------------------------------------------------------------------------------------------------------
# Each errno, through the fake kernel


def test_setup_fails_with_any_errno_then_unavailable_with_a_cause(monkeypatch):
    monkeypatch.setattr(params.time, "sleep", lambda seconds: None)
    with leaks.nothing_left("descriptors"):
        for code in ERRNOS:
            monkeypatch.setattr(syscalls, "io_uring_setup", refuse_with(code))
            with pytest.raises(syscalls.Unavailable) as caught:
                rings.Ring(8, wish=rings.RECOMMENDED, min_entries=2)
            assert caught.value.errno == code
            assert caught.value.cause and caught.value.advice
            monitor = fdmon.setup()
            assert (monitor.backend, "io_uring failed" in monitor.reason) == ("poll", True)
            monitor.destroy()
            figures["faults injected"] += 2


@needs_ring
@pytest.mark.parametrize("position", [0, 1, 2])
def test_mmap_fails_with_any_errno_then_nothing_is_left(monkeypatch, position):
    real = mmap.mmap
    with leaks.nothing_left("descriptors"):
        for code in ERRNOS:
            calls = []

            def failing(*arguments, code=code, calls=calls, **keywords):
                calls.append(1)
                if len(calls) > position:
                    raise OSError(code, os.strerror(code))
                return real(*arguments, **keywords)

            monkeypatch.setattr(mmap, "mmap", failing)
            with pytest.raises(OSError, match=r".") as caught:
                rings.Ring(8, single_mmap=False)
            monkeypatch.setattr(mmap, "mmap", real)
            assert caught.value.errno == code
            del caught
            figures["faults injected"] += 1


@pytest.mark.parametrize("waiting", [False, True])
def test_enter_fails_with_any_errno_then_nothing_is_lost(waiting):
    for code in ERRNOS:
        with fake_ring(entries=8) as (kernel, ring):
            for i in range(5):
                ops.prep_nop(ring.get_sqe(), i + 1)
            kernel.failures.extend([code] * 3)
            for _ in range(3):
                with pytest.raises(OSError, match=r".") as caught:
                    ring.submit_and_wait(1, 10**9) if waiting else ring.submit()
                assert caught.value.errno == code
                assert ring.sq.pending() == 5
                if code == errno.EBUSY:
                    break
            kernel.failures.clear()
            assert ring.submit() == 5
            assert [cqe[0] for cqe in ring.reap()] == [1, 2, 3, 4, 5]
            figures["faults injected"] += 3
            figures["operations"] += 5


def registered(ring):
    """Return the registered objects, without those held after an error that did not come from the kernel."""
    return {key: value for key, value in ring.resources.items() if key[0] != "unsure"}


@needs_ring
def test_register_fails_with_any_errno_then_an_oserror_with_advice(monkeypatch):
    calls = [
        lambda ring: register.register_buffers_sparse(ring, 4),
        lambda ring: register.register_files(ring, [0]),
        lambda ring: register.register_probe(ring),
        lambda ring: register.register_eventfd(ring, 0),
        lambda ring: register.register_restrictions(ring, sqe_ops=[0]),
        lambda ring: register.setup_buf_ring(ring, 1, 4, 64),
        lambda ring: register.register_ring_fd(ring),
        lambda ring: register.register_iowq_max_workers(ring),
    ]
    with rings.Ring(4, wish=rings.RECOMMENDED) as ring:
        if ring.flags & uapi.IORING_SETUP_NO_SQARRAY:  # else it raises by itself, but on the newest kernels
            calls.append(lambda ring: register.resize_rings(ring, 8))
        for code in ERRNOS:
            for call in calls:
                made = []
                monkeypatch.setattr(syscalls, "io_uring_register", refuse_with(code, made))
                with pytest.raises(OSError, match=r".") as caught:
                    call(ring)
                # Before 5.18 the library makes no call for what the kernel lacks, and might hang on.
                assert caught.value.errno == (code if made else errno.EINVAL)
                assert made or gates.version(gates.running()) < (5, 18)
                assert registered(ring) == {}
                figures["faults injected"] += 1
        monkeypatch.undo()
        ops.prep_nop(ring.get_sqe(), 1)
        ring.submit_and_wait(1)
        assert ring.reap()[0][0] == 1


@needs_ring
def test_taking_back_a_registration_fails_with_any_errno_then_its_memory_stays_held(monkeypatch):
    """The kernel still has it, so the registered objects must live on."""
    need_opcode("READ_FIXED")
    with rings.Ring(4) as ring:
        register.register_buffers(ring, [buffers.allocate(4096)])
        calls = [
            register.unregister_buffers,
            lambda ring: register.register_buffers_update_tag(ring, 0, [buffers.allocate(64)]),
        ]
        try:
            group = register.setup_buf_ring(ring, 1, 4, 64)
        except OSError:
            pass  # before 5.19
        else:
            calls.append(lambda ring: register.free_buf_ring(ring, group))
        before = dict(ring.resources)
        assert before
        for code in ERRNOS:
            for call in calls:
                made = []
                monkeypatch.setattr(syscalls, "io_uring_register", refuse_with(code, made))
                with pytest.raises(OSError, match=r".") as caught:
                    call(ring)
                # Before 5.13 the library makes no call for what the kernel lacks, and might hang on.
                assert caught.value.errno == (code if made else errno.EINVAL)
                assert made or gates.version(gates.running()) < (5, 13)
                assert registered(ring) == before
                figures["faults injected"] += 1
        monkeypatch.undo()
        register.unregister_buffers(ring)
        assert not [kind for kind, _ in ring.resources if kind == "buffer"]


def test_random_faults_short_submits_and_late_answers_then_each_request_answered_once():
    """Everything that a kernel may do to a batch, in random order."""
    for seed in range(30):
        chance = random.Random(seed)
        with fake_ring(entries=8, cq_entries=8, sq_start=2**32 - 3, cq_start=2**32 - 5) as (kernel, ring):
            kernel.slow_ops.add(uapi.IORING_OP_READ)
            table = inflight.InFlight(ring)
            answers: dict[int, int] = {}
            sent = 0
            while sent < 200 or len(table):
                if chance.random() < 0.3:
                    kernel.failures.append(
                        chance.choice([0, errno.EAGAIN, errno.EBUSY, errno.ENOMEM, errno.EPERM])
                    )
                if chance.random() < 0.3:
                    kernel.at_most.append(chance.randrange(1, 4))
                while sent < 200 and ring.sq.space_left() and chance.random() < 0.8:

                    def note(res, flags, number=sent, answers=answers):
                        answers[number] = answers.get(number, 0) + 1

                    prep = chance.choice([ops.prep_nop, ops.prep_read])
                    table.start(prep, *((0, 0, 0, 0) if prep is ops.prep_read else ()), handler=note)
                    sent += 1
                if kernel.late and chance.random() < 0.7:
                    kernel.complete_late(chance.randrange(len(kernel.late)))
                try:
                    ring.submit()
                    table.dispatch(ring.reap())
                except OSError:
                    figures["faults injected"] += 1
            assert answers == dict.fromkeys(range(200), 1)
            figures["operations"] += 200


# ------------------------------------------------------------------------------------------------------
# Each errno, through seccomp, in a child: one argument of the call selects it


@needs_ring
@pytest.mark.skipif(sys.byteorder != "little", reason="the filter's word order (little-endian)")
def test_seccomp_answers_setup_with_any_errno_then_unavailable():
    script = (
        SECCOMP
        + """
from rawuring import params, rings, syscalls, selector, fdmon
rings.Ring(1).close()
params.time.sleep = lambda seconds: None
filter(SETUP, 0)  # answers with the number of entries
before = os.listdir("/proc/self/fd")
for code in range(1, 134):
    if code == errno.EINTR:
        continue
    try:
        rings.Ring(code)
    except syscalls.Unavailable as error:
        assert error.errno == code, (error, code)
    else:
        raise AssertionError(code)
assert os.listdir("/proc/self/fd") == before
with __import__("warnings").catch_warnings():
    __import__("warnings").simplefilter("ignore")
    chosen = selector.IoUringSelector(entries=errno.EPERM)
    assert not chosen.backend.startswith("io_uring"), chosen
    chosen.close()
print("fine")
"""
    )
    assert check_child(run_child(script)) == "fine\n"
    figures["faults injected"] += 133


@needs_ring
@pytest.mark.skipif(sys.byteorder != "little", reason="the filter's word order (little-endian)")
def test_seccomp_answers_enter_with_any_errno_then_nothing_is_lost():
    script = (
        SECCOMP
        + """
from rawuring import inflight, ops, rings
ring = rings.Ring(256)
table = inflight.InFlight(ring)
filter(ENTER, 1)  # answers with to_submit, and lets 0 through
for code in range(1, 134):
    table.start(ops.prep_nop)
    if code in (errno.EINTR, errno.EBUSY, errno.ETIME):
        continue
    try:
        ring.submit()
    except OSError as error:
        assert error.errno == code, (error, code)
    else:
        raise AssertionError(code)
    assert ring.sq.pending() == code == len(table)
    assert ring.reap() == []
ring.close()  # drops the queued SQEs
assert len(table) == 0
print("fine")
"""
    )
    assert check_child(run_child(script)) == "fine\n"
    figures["faults injected"] += 130


@needs_ring
@pytest.mark.skipif(sys.byteorder != "little", reason="the filter's word order (little-endian)")
def test_seccomp_answers_register_with_any_errno_then_an_oserror():
    script = (
        SECCOMP
        + """
from rawuring import register, rings
with rings.Ring(4) as ring:
    filter(REGISTER, 3)  # answers with nr_args
    for code in range(1, 134):
        if code == errno.EINTR:
            continue
        try:
            register.register_files(ring, [0] * code)
        except OSError as error:
            assert error.errno == code, (error, code)
        else:
            raise AssertionError(code)
        assert not ring.resources
print("fine")
"""
    )
    assert check_child(run_child(script)) == "fine\n"
    figures["faults injected"] += 132


@needs_ring
@pytest.mark.skipif(
    os.uname().machine not in ("x86_64", "aarch64"), reason="the number of mmap (x86-64, arm64)"
)
@pytest.mark.skipif(PYPY, reason="an mmap that closes its copy when it fails (CPython)")
@pytest.mark.parametrize("code", [errno.ENOMEM, errno.EPERM, errno.EAGAIN, errno.EINVAL, errno.EACCES])
def test_seccomp_answers_mmap_then_an_error_and_no_descriptor_is_left(code):
    script = (
        SECCOMP
        + f"""
from rawuring import rings
rings.Ring(2).close()
before = os.listdir("/proc/self/fd")
filter(MMAP, code={code}, only=(5, {uapi.IORING_OFF_SQES}))
try:
    rings.Ring(4)
except OSError as error:
    assert error.errno == {code}, error
else:
    raise AssertionError
assert os.listdir("/proc/self/fd") == before
assert "io_uring" not in open("/proc/self/maps").read()
print("fine")
"""
    )
    assert check_child(run_child(script)) == "fine\n"
    figures["faults injected"] += 1


# ------------------------------------------------------------------------------------------------------
# Queues


@needs_ring
@pytest.mark.parametrize("wish", [0, rings.RECOMMENDED], ids=["plain", "recommended"])
def test_overflow_storm_on_the_tiniest_ring_then_nothing_is_lost(wish):
    with rings.Ring(1, cq_entries=1, wish=wish) as ring:
        seen = []
        for i in range(3000):
            ops.prep_nop(ring.get_sqe(), i)
            ring.submit()
            if i % 701 == 700:
                seen += [cqe[0] for cqe in ring.reap()]
        while len(seen) < 3000:
            ring.submit_and_wait(1, 10**9)
            more = [cqe[0] for cqe in ring.reap()]
            assert more
            seen += more
        assert seen == list(range(3000))
        assert ring.statistics().cq_overflow == 0
    figures["operations"] += 3000


@needs_ring
def test_full_queue_again_and_again_then_each_entry_goes_once():
    with rings.Ring(4) as ring:
        seen, sent = [], 0
        while sent < 1000:
            try:
                ops.prep_nop(ring.get_sqe(), sent)
                sent += 1
            except rings.SubmissionQueueFull:
                ring.submit()
                seen += [cqe[0] for cqe in ring.reap()]
        ring.submit()
        seen += [cqe[0] for cqe in ring.reap()]
        assert seen == list(range(1000))
    figures["operations"] += 1000


# ------------------------------------------------------------------------------------------------------
# Limits


@needs_ring
def test_descriptors_run_out_at_any_point_then_a_clear_error_and_none_is_left():
    script = """
        import os, resource, warnings
        from rawuring import fdmon, inflight, rings, selector, syscalls
        warnings.simplefilter("ignore")
        rings.Ring(2).close()
        selector.IoUringSelector().close()
        held = [os.open("/dev/null", os.O_RDONLY) for _ in range(3)]
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        makers = [lambda: rings.Ring(4), fdmon.IoUringFDMon, selector.IoUringSelector,
                  lambda: selector.IoUringSelector(fallback=False)]
        for make in makers:
            outcomes = []
            for room in range(9):
                before = os.listdir("/proc/self/fd")
                resource.setrlimit(resource.RLIMIT_NOFILE, (held[-1] + 1 + room, hard))
                try:
                    made = make()
                except OSError as error:
                    outcomes.append(error.errno)
                    del error
                else:
                    outcomes.append("made")
                    getattr(made, "close", None) and made.close() or getattr(made, "destroy", int)()
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
                assert os.listdir("/proc/self/fd") == before, (make, room, outcomes)
            assert outcomes[0] == 24 and outcomes[-1] == "made", outcomes
        print("fine")
        """
    assert check_child(run_child(script)) == "fine\n"
    figures["faults injected"] += 36


@needs_ring
@pytest.mark.skipif(os.getuid() != 0, reason="root, to become a user whose memory is limited")
def test_memory_that_may_be_locked_runs_out_then_a_clear_error():
    script = """
        import errno, os, resource
        from rawuring import buffers, register, rings, syscalls
        rings.Ring(2).close()  # imports modules that another user may not read
        buffers.pin(buffers.allocate(64))
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
        os.setgid(54321)
        os.setuid(54321)
        made = []
        try:
            while len(made) < 60:
                made.append(rings.Ring(256))
        except syscalls.Unavailable as error:
            assert error.cause in ("memlock", "nofile", "group", "policy"), error
        for ring in made:
            ring.close()
        try:
            with rings.Ring(2) as ring:
                big = buffers.allocate(1 << 20)
                register.register_buffers(ring, [big])
        except syscalls.Unavailable:
            pass
        except OSError as error:
            assert error.errno == errno.ENOMEM and "RLIMIT_MEMLOCK" in str(error), error
        else:
            raise AssertionError("a mebibyte was locked")
        print("fine")
        """
    assert check_child(run_child(script)) == "fine\n"
    figures["faults injected"] += 2


# ------------------------------------------------------------------------------------------------------
# Signals and clocks


@pytest.fixture
def thousand_signals():
    """Interrupt the main thread 1,000 times a second; return a counter."""
    count = [0]

    def handler(number, frame):
        count[0] += 1

    saved = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    yield count
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, saved)
    figures["signals"] += count[0]


def waiters():
    ring = rings.Ring(4)
    yield "ring", lambda ns: ring.submit_and_wait(1, ns)
    monitor = fdmon.IoUringFDMon()
    yield "monitor", monitor.wait
    chosen = selector.IoUringSelector()
    chosen.select(0)
    yield "selector", lambda ns: chosen.select(ns / 1e9)
    yield "end", lambda ns: [each() for each in (ring.close, monitor.destroy, chosen.close)]


@needs_ring
def test_interrupted_a_thousand_times_a_second_then_waits_are_neither_short_nor_long(thousand_signals):
    for name, wait in waiters():
        if name == "end":
            wait(0)
            break
        before, start = thousand_signals[0], time.monotonic_ns()
        wait(250_000_000)
        took = time.monotonic_ns() - start
        assert 250_000_000 <= took < 60_000_000_000, (name, took)
        assert thousand_signals[0] - before > 20, name


@needs_ring
def test_interrupted_a_thousand_times_a_second_without_a_deadline_then_the_wait_goes_on(thousand_signals):
    with rings.Ring(4) as ring:
        ts = buffers.timespec(250_000_000)
        ops.prep_timeout(ring.get_sqe(), ts.address, 0, 0, 5)
        start = time.monotonic_ns()
        ring.submit_and_wait(1)
        assert [cqe[0] for cqe in ring.reap()] == [5]
        assert time.monotonic_ns() - start >= 250_000_000
        assert thousand_signals[0] > 20


@needs_ring
def test_interrupted_a_thousand_times_a_second_then_no_completion_is_lost(thousand_signals):
    need_opcode("READ")
    r, w = os.pipe()
    with rings.Ring(16) as ring:
        table = inflight.InFlight(ring)
        memory = bytearray(8) if not PYPY else __import__("rawuring.buffers").buffers.allocate(8)
        pin = buffers.pin(memory, writable=True)
        for i in range(2000):
            table.start(ops.prep_read, r, pin.address, 8, -1, holds=(pin,))
            os.write(w, i.to_bytes(8, "little"))
            while len(table):
                ring.submit_and_wait(1, 10**10)
                table.dispatch(ring.reap())
            assert int.from_bytes(memory[:8], "little") == i
            figures["bytes verified"] += 8
    os.close(r)
    os.close(w)
    figures["operations"] += 2000


needs_few_moments = pytest.mark.skipif(
    PYPY or sys.version_info < (3, 11), reason="signal handlers that run after calls only (CPython 3.11)"
)


@needs_few_moments
@pytest.mark.unwatched("debug mode makes additional calls")
def test_signal_handler_raises_at_any_moment_in_dispatch_then_each_handler_is_called_once():
    struck, at = [0], 0
    while struck:
        with fake_ring(entries=8) as (_, ring):
            table = inflight.InFlight(ring)
            calls: list[list[int]] = [[], [], []]
            # In C, so that a strike after the call is one after the handler.
            tokens = [table.hold(call.insert) for call in calls]
            more = uapi.IORING_CQE_F_MORE
            table._todo.extend([(tokens[0], 0, more), *((token, 0, 0) for token in tokens)])
            with strike(at) as struck:
                table.dispatch()
            table.dispatch()
            assert [len(call) for call in calls] == [2, 1, 1], struck
            assert len(table) == 0
        at += 1
        figures["signals"] += 1
    assert at > 5


@needs_ring
@needs_few_moments
@pytest.mark.unwatched("debug mode makes additional calls")
@pytest.mark.parametrize("lost", [False, True], ids=["ring", "ring lost"])
def test_signal_handler_raises_at_any_moment_in_a_monitor_then_each_request_is_answered_once(
    monkeypatch, lost
):
    struck, at = [0], 0
    while struck:
        with fdmon.IoUringFDMon(2) as monitor:
            monitor.wait(0)
            if lost:
                with monkeypatch.context() as patch:
                    patch.setattr(syscalls, "enter", refuse_with(errno.EPERM))
                    patch.setattr(monitor.ring, "_call", refuse_with(errno.EPERM))
                    patch.setattr(monitor.ring, "submit_and_wait", refuse_with(errno.EPERM))
                    monitor.wait(0)
                assert monitor.backend == "poll"
            calls: list[list[int]] = [[], [], [], []]
            for call in calls:
                monitor.add_sqe(ops.prep_nop, call.insert)
            with strike(at) as struck:
                monitor.dispatch(monitor.wait(0))
            for _ in range(4):
                monitor.dispatch(monitor.wait(0))
            assert [len(call) for call in calls] == [1] * 4, struck
        at += 1
        figures["signals"] += 1
    assert at > 10


@needs_ring
@needs_few_moments
@pytest.mark.unwatched("debug mode makes additional calls")
@pytest.mark.parametrize("change", ["unregister", "modify", "data", "select"])
def test_signal_handler_raises_at_any_moment_in_a_change_then_no_answer_is_out_of_date(change, make_pairs):
    """Answers are cached for busy descriptors; one that outlived its key was returned forever."""
    struck, at = [0], 0
    while struck:
        pairs = make_pairs(16)
        with selector.IoUringSelector() as sel:
            for a, b in pairs:
                sel.register(a, selector.EVENT_READ, "old")
                b.send(b"x")
            a = pairs[0][0]
            for _ in range(2 if change == "select" else 3):
                sel.select(0)
            if change == "select":
                sel.modify(a, selector.EVENT_READ, "older")
                sel.select(0.001)  # in the ring: the next one queries the set, and caches the answer
            with strike(at) as struck:
                if change == "select":
                    sel.select(0)
                elif change == "unregister":
                    sel.unregister(a)
                else:
                    events = selector.EVENT_READ | (selector.EVENT_WRITE if change == "modify" else 0)
                    sel.modify(a, events, "new")
            if change == "select":
                sel.modify(a, selector.EVENT_READ, "newest")
            for _ in range(3):
                assert all(key is sel.get_map().get(key.fd) for key, _ in sel.select(0)), struck
            if a not in sel.get_map():
                sel.register(a, selector.EVENT_READ, "again")
            for _ in range(3):
                found = sel.select(0)
            assert sel.get_key(a) in [key for key, _ in found], struck
        for pair in pairs:
            for sock in pair:
                sock.close()
        at += 1
        figures["signals"] += 1
    assert at > 2


@needs_ring
@needs_few_moments
@pytest.mark.unwatched("debug mode makes additional calls")
@pytest.mark.parametrize("change", ["register", "unregister", "modify"])
def test_signal_handler_raises_at_any_moment_in_a_change_then_no_poll_is_left_over(change):
    """It answered for the next file with that number."""
    struck, at = [0], 0
    while struck:
        (a, b), (c, d) = socket.socketpair(), socket.socketpair()
        with selector.IoUringSelector("io_uring:poll_add") as sel, a, b, c, d:
            if change != "register":
                sel.register(a, selector.EVENT_READ)
                assert sel.select(0) == []
            with strike(at) as struck:
                if change == "register":
                    sel.register(a, selector.EVENT_READ)
                elif change == "unregister":
                    sel.unregister(a)
                else:
                    sel.modify(a, selector.EVENT_WRITE | selector.EVENT_READ)
            b.send(b"x")  # to the old file, which a poll would keep open
            sel.select(0)
            if a in sel.get_map():
                sel.unregister(a)
            os.dup2(c.fileno(), a.fileno())
            key = sel.register(a, selector.EVENT_READ)
            for _ in range(2):
                assert sel.select(0) == [], struck
            d.send(b"x")
            for _ in range(2):
                assert sel.select(1) == [(key, selector.EVENT_READ)], struck
        at += 1
        figures["signals"] += 1
    assert at > 4


class Clock:
    """A monotonic clock set by the test."""

    def __init__(self):
        self.ahead = 0
        self.jumps = []

    def __call__(self):
        if self.jumps:
            self.ahead += self.jumps.pop(0)
        return self.real() + self.ahead

    real = staticmethod(time.monotonic_ns)


@needs_ring
def test_clock_jumps_ahead_in_a_wait_then_it_ends_and_requests_go_on(monkeypatch):
    """As after the suspension of a virtual machine: late, but not stuck, and nothing is lost."""
    clock = Clock()
    with rings.Ring(4) as ring:
        monkeypatch.setattr(syscalls.time, "monotonic_ns", clock)
        ops.prep_poll_add(ring.get_sqe(), 1 << 20, 1, 5)  # not a descriptor: completes at once
        clock.jumps = [0, 3600 * 10**9]
        ring.submit_and_wait(1, 10**9)
        assert [cqe[0] for cqe in ring.reap()] == [5]
        clock.jumps = [0, 3600 * 10**9]
        start = time.perf_counter()
        ring.submit_and_wait(1, 10**9)
        assert time.perf_counter() - start < 60  # of an hour


def test_wall_clock_then_nobody_looks_at_it():
    """CLOCK_REALTIME may be set at any time, so no deadline may depend on it."""
    for path in (ROOT / "rawuring").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Attribute):
                names = [node.attr] if isinstance(node.value, ast.Name) and node.value.id == "time" else []
            elif isinstance(node, ast.ImportFrom) and node.module in ("time", "datetime"):
                names = [node.module, *(alias.name for alias in node.names)][node.module == "time" :]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names if alias.name == "datetime"]
            for name in names:
                assert name not in ("time", "time_ns", "gmtime", "localtime", "datetime"), (
                    f"{path.name}:{node.lineno}"
                )


# ------------------------------------------------------------------------------------------------------
# Processes, threads, interpreters


def own_ring(inherited_state):
    """Run in a child of any kind; return its observations."""
    with rings.Ring(4) as ring:
        for i in range(20):
            ops.prep_nop(ring.get_sqe(), i)
            ring.submit_and_wait(1)
            assert [cqe[0] for cqe in ring.reap()] == [i]
    return inherited_state


def child_of(method):
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        assert pool.map(own_ring, range(4)) == list(range(4))
        pool.close()
        pool.join()


@pytest.mark.long
@needs_ring
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_then_each_child_has_its_own_ring(method):
    script = f"""
        import os, sys
        sys.path.insert(0, {str(ROOT / "tests" / "faults")!r})
        from test_environment import child_of
        from rawuring import inflight, ops, rings
        if __name__ == "__main__":
            r, w = os.pipe()
            ring = rings.Ring(4)
            answers = []
            ops.prep_poll_add(ring.get_sqe(), r, 1, 7)
            ring.submit()
            child_of({method!r})
            os.write(w, b"x")
            ring.submit_and_wait(1, 10**10)
            assert [cqe[0] for cqe in ring.reap()] == [7]
            ring.close()
            if {method!r} == "forkserver":
                from multiprocessing import forkserver, resource_tracker
                forkserver._forkserver._stop()
            print("fine")
        """
    if PYPY and method == "forkserver":
        pytest.skip("forkserver's private stop (CPython)")
    assert "fine\n" in check_child(run_child(script, flags=("-W", "ignore")))
    figures["child processes"] += 2


@needs_ring
def test_forked_with_requests_in_flight_then_the_child_is_refused_and_the_parent_gets_them():
    r, w = os.pipe()
    with rings.Ring(4) as ring:
        ops.prep_poll_add(ring.get_sqe(), r, 1, 7)
        ring.submit()
        pid = os.fork()
        if not pid:
            code = 1
            try:
                refusals = 0
                for call in (
                    ring.get_sqe,
                    ring.submit,
                    ring.reap,
                    ring.fileno,
                    ring.bind_thread,
                    ring.statistics,
                ):
                    try:
                        call()
                    except rings.ForkedRing:
                        refusals += 1
                ring.close()
                maps = "io_uring" in Path("/proc/self/maps").read_text()
                code = 0 if refusals == 6 and not maps and own_ring(3) == 3 else 2
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        os.write(w, b"x")
        ring.submit_and_wait(1, 10**10)
        assert [cqe[0] for cqe in ring.reap()] == [7]
    os.close(r)
    os.close(w)
    figures["forks"] += 1


@needs_ring
def test_exec_then_no_descriptor_goes_along():
    """Close-on-exec: a started program inherits no ring (CVE-2024-22017), and no other descriptor of ours."""
    def seen():
        script = "import os; print(*[os.readlink(f'/proc/self/fd/{n}') for n in range(3, 200)"
        script += " if os.path.islink(f'/proc/self/fd/{n}')])"
        done = subprocess.run(
            [sys.executable, "-S", "-c", script], close_fds=False, capture_output=True, text=True, timeout=60
        )
        assert (done.stderr, done.returncode) == ("", 0), done
        figures["child processes"] += 1
        return done.stdout.split()

    before = seen()
    one, two = socket.socketpair()
    two.shutdown(socket.SHUT_WR)
    monitors = fdmon.IoUringFDMon(), fdmon.PollFDMon()
    with one, two, rings.Ring(2), monitors[0] as monitor, monitors[1], warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about selectors that replace others
        monitor.add(one.fileno(), select.POLLPRI)
        monitor.wait(0)  # parks it: one more descriptor
        chosen = [selector.IoUringSelector(name) for name in selector.STRATEGIES]
        after = seen()
        for each in chosen:
            each.close()
    assert after == before


@needs_ring
def test_threads_with_rings_of_their_own_then_nobody_disturbs_anybody():
    failures = []

    def life(number):
        try:
            with rings.Ring(8, wish=rings.RECOMMENDED) as ring:
                for i in range(300):
                    ops.prep_nop(ring.get_sqe(), number << 32 | i)
                    ring.submit_and_wait(1)
                    assert [cqe[0] for cqe in ring.reap()] == [number << 32 | i]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=life, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    figures["operations"] += 16 * 300


@needs_ring
def test_one_ring_and_many_threads_then_every_other_thread_is_refused():
    with rings.Ring(8) as ring:
        refused = []

        def intrude():
            for call in (ring.get_sqe, ring.submit, ring.reap, ring.submit_and_wait, ring.discard):
                try:
                    call()
                except rings.WrongThread:
                    refused.append(1)

        threads = [threading.Thread(target=intrude) for _ in range(8)]
        for thread in threads:
            thread.start()
        for i in range(500):
            ops.prep_nop(ring.get_sqe(), i)
            ring.submit_and_wait(1)
            assert [cqe[0] for cqe in ring.reap()] == [i]
        for thread in threads:
            thread.join(60)
        assert len(refused) == 40


@needs_ring
@pytest.mark.skipif(PYPY, reason="subinterpreters (CPython)")
def test_subinterpreter_then_a_ring_or_a_clear_refusal():
    script = """
        import sys
        code = '''
        import sys
        try:
            from rawuring import ops, rings
            with rings.Ring(4) as ring:
                for i in range(50):
                    ops.prep_nop(ring.get_sqe(), i)
                    ring.submit_and_wait(1)
                    assert [cqe[0] for cqe in ring.reap()] == [i]
        except ImportError as error:
            assert "interpreter" in str(error), error
        '''
        import textwrap
        code = textwrap.dedent(code)
        for name in ("_interpreters", "_xxsubinterpreters"):
            try:
                interpreters = __import__(name)
                break
            except ImportError:
                continue
        else:
            print("SKIP subinterpreters (CPython 3.8)")
            sys.exit()
        for _ in range(3):
            made = interpreters.create()
            run = getattr(interpreters, "run_string")
            problem = run(made, f"import sys; sys.path[:] = {sys.path!r}\\n{code}")
            assert problem is None, problem
            interpreters.destroy(made)
        print("fine")
        """
    assert check_child(run_child(script, flags=("-W", "ignore"))) == "fine\n"


STOPPED = """
import os, sys
from rawuring import buffers, fdmon, gates, inflight, ops, rings, selector
def by_ring():
    with rings.Ring(8) as ring:
        table = inflight.InFlight(ring)
        memory = buffers.allocate(4096)
        pin = buffers.pin(memory, writable=True)
        while True:
            results = []
            table.start(ops.prep_read, 0, pin.address, 4096, -1, holds=(pin,),
                        handler=lambda res, flags: results.append(res))
            while not results:
                ring.submit_and_wait(1, 100_000_000)
                table.dispatch(ring.reap())
            yield memory[: results[0]]
def by_monitor():
    with fdmon.IoUringFDMon() as monitor:
        node = monitor.add(0, 1)
        while True:
            assert monitor.wait(None) == [(node, 1)]
            yield os.read(0, 4096)
def by_selector():
    with selector.IoUringSelector() as chosen:
        key = chosen.register(0, 1)
        while True:
            assert chosen.select(60) == [(key, 1)]
            yield os.read(0, 4096)
got = {"ring": by_ring, "monitor": by_monitor, "selector": by_selector}[sys.argv[1]]()
print("ready", flush=True)
total = 0
while total < 60:
    data = next(got)
    assert data == bytes(range(total, total + len(data))), data
    total += len(data)
got.close()
print("fine", flush=True)
"""


@needs_ring
@pytest.mark.parametrize("wait", ["ring", "monitor", "selector"])
def test_stopped_and_continued_in_any_wait_then_nothing_is_lost(wait):
    """SIGSTOP cannot be handled: the wait is interrupted in the kernel, and continues."""
    need_opcode("READ")
    command = [sys.executable, "-c", STOPPED, wait]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    try:
        assert child.stdout.readline() == b"ready\n"
        for i in range(60):
            os.kill(child.pid, signal.SIGSTOP)
            os.waitpid(child.pid, os.WUNTRACED)  # until it has stopped (PyPy lacks waitid)
            if i % 2:
                child.stdin.write(bytes([i]))
            os.kill(child.pid, signal.SIGCONT)
            if not i % 2:
                child.stdin.write(bytes([i]))
        assert child.stdout.readline() == b"fine\n"
        assert child.wait(30) == 0
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()
    figures["signals"] += 120


@needs_ring
def test_peer_killed_then_every_request_on_its_socket_ends():
    need_opcode("RECV")
    here, there = socket.socketpair()
    r, w = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            here.close()
            os.close(r)
            there.send(b"alive")
            time.sleep(60)
        finally:
            os._exit(0)
    there.close()
    os.close(w)
    with rings.Ring(8) as ring, here:
        table = inflight.InFlight(ring)
        memory = buffers.allocate(4096)
        pin = buffers.pin(memory, writable=True)
        results = []

        def note(res, flags):
            results.append(res)

        def pump(count):
            while len(results) < count:
                ring.submit_and_wait(1, 10**10)
                table.dispatch(ring.reap())

        table.start(ops.prep_recv, here.fileno(), pin.address, 4096, 0, handler=note, holds=(pin,))
        pump(1)
        assert results == [5]
        table.start(ops.prep_recv, here.fileno(), pin.address, 4096, 0, handler=note, holds=(pin,))
        table.start(ops.prep_poll_add, here.fileno(), 1, handler=note)
        table.start(ops.prep_read, r, pin.address, 4096, -1, handler=note, holds=(pin,))
        ring.submit()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        pump(4)
        assert sorted(results)[:2] == [0, 0] or -errno.ECONNRESET in results
    os.close(r)
    figures["forks"] += 1
