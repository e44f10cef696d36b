# SPDX-License-Identifier: MIT
"""Abuse: random bytes as requests, hostile arguments for everything public, state machines."""

from __future__ import annotations

import errno
import importlib
import inspect
import os
import select
import selectors
import socket
import struct
import subprocess
import sys

import pytest
from harness import PYPY, ROOT, check_child, figures, run_child
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rawuring import buffers, fdmon, inflight, ops, register, rings, selector, syscalls, uapi
from rawuring.fakekernel import fake_ring

needs_ring = pytest.mark.requires_io_uring

# ------------------------------------------------------------------------------------------------------
# Random bytes as SQEs

#: Operations that are safe with any arguments: they write to no memory by address, open no file, end no
#: process, and do not wait forever. The restriction excludes the rest.
HARMLESS = (
    "NOP",
    "POLL_ADD",
    "POLL_REMOVE",
    "TIMEOUT_REMOVE",
    "ASYNC_CANCEL",
    "FADVISE",
    "FSYNC",
    "SHUTDOWN",
)

RANDOM = """
import errno, os, random, sys
from rawuring import inflight, register, rings, uapi
seed, count, names = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split()
ring = rings.Ring(64, flags=uapi.IORING_SETUP_R_DISABLED)
allowed = [vars(uapi)["IORING_OP_" + name] for name in names]
try:
    flags = uapi.IOSQE_ASYNC | uapi.IOSQE_IO_LINK
    register.register_restrictions(ring, sqe_ops=allowed, sqe_flags_allowed=flags)
    ring.enable()
except OSError as error:
    print("SKIP IORING_REGISTER_RESTRICTIONS that works (Linux 5.10.162):", error)
    sys.exit()
os.closerange(ring.fileno() + 1, 100)
for fd in range(100):  # nothing of value is open
    if fd not in (1, 2, ring.fileno()) and os.path.exists(f"/proc/self/fd/{fd}"):
        os.close(fd)
chance = random.Random(seed)
answered = refused = 0
outstanding = set()
for number in range(1, count + 1):
    sqe = bytearray(chance.getrandbits(8 * 64).to_bytes(64, "little"))
    if chance.random() < 0.7:
        sqe[0] = chance.choice(allowed)
        sqe[1] &= uapi.IOSQE_ASYNC
        sqe[4:8] = chance.choice([-1, 0, 3, 99, 1 << 20]).to_bytes(4, sys.byteorder, signed=True)
        sqe[40:48] = bytes(8)
    sqe[32:40] = number.to_bytes(8, sys.byteorder)
    try:
        ring.put(sqe)
    except rings.SubmissionQueueFull:
        ring.submit()
        ring.put(sqe)
    outstanding.add(number)
    if number % 16 == 0:
        ring.submit()
        for cqe in ring.reap():
            outstanding.discard(cqe[0])
            answered += 1
            refused += cqe[1] in (-errno.EACCES, -errno.EINVAL)
while ring.sq.pending():
    ring.submit()
for cqe in ring.reap():
    outstanding.discard(cqe[0])
    answered += 1
ring.close()
assert answered and refused
assert len(outstanding) < count
print(answered, refused)
"""


@needs_ring
@pytest.mark.skipif(PYPY, reason="mappings without descriptors of their own (CPython)")
@pytest.mark.parametrize("seed", range(3))
def test_random_bytes_as_requests_then_answers_and_no_crash(seed):
    answer = check_child(run_child(RANDOM, str(seed), "2000", " ".join(HARMLESS)))
    answered, refused = map(int, answer.split())
    figures["random requests answered"] += answered
    figures["faults injected"] += refused


@needs_ring
def test_harmful_operations_when_restricted_then_all_refused():
    """The restriction that the random requests rely on holds for every other opcode."""
    ring = rings.Ring(8, flags=uapi.IORING_SETUP_R_DISABLED)
    with ring:
        try:
            register.allow_only(ring, "NOP", ops.prep_poll_add)
            ring.enable()
        except OSError as error:
            pytest.skip(f"IORING_REGISTER_ENABLE_RINGS that works (Linux 5.10.162): {error}")
        allowed = {uapi.IORING_OP_NOP, uapi.IORING_OP_POLL_ADD}
        for opcode in range(uapi.IORING_OP_LAST):
            sqe = bytearray(64)
            ops.prep_rw(sqe, opcode, -1, 0, 0, 0, opcode + 1)
            ring.put(sqe)
            ring.submit_and_wait(1, 10**10)
            ((token, res, _),) = ring.reap()
            assert token == opcode + 1
            refused = (-errno.EACCES, -errno.EINVAL)  # EINVAL: an opcode that this kernel does not know
            assert (res in refused) == (opcode not in allowed), (opcode, res)
            figures["faults injected"] += 1
        with pytest.raises(OSError, match="restriction") as caught:
            register.register_probe(ring)
        assert caught.value.errno == errno.EACCES


# ------------------------------------------------------------------------------------------------------
# Hostile arguments: run in a child, so that a crash is detected

HOSTILE = """
import ctypes, importlib, inspect, os, signal, sys, warnings
warnings.simplefilter("ignore")
module_name = sys.argv[1]
module = importlib.import_module("rawuring." + module_name)
from rawuring import buffers, inflight, rings, uapi
rings.Ring(2).close()
FINE = (TypeError, ValueError, OverflowError, BufferError, OSError, KeyError, IndexError, AttributeError,
        RuntimeError, MemoryError, NotImplementedError, rings.SubmissionQueueFull, LookupError,
        ArithmeticError, EOFError, StopIteration, __import__("struct").error)
VALUES = [None, -1, 0, 1, 2**15, 2**31, 2**32, 2**63, 2**64, -(2**63), 1.5, "text", b"", b"bytes",
          bytearray(3), [], [-1], [2**40], (), {}, object(), float("nan"), "a" + chr(0) + "b", chr(0xd800),
          memoryview(b"abc"), range(3), True, lambda *a, **k: None]
#: Functions that would end, block or change the machine by design if their arguments happen to be valid.
SKIP = {"trace", "main", "run", "install", "thread_lives"}
os.chdir("/")
def attempt(function, arguments):
    global ATTEMPT
    ATTEMPT = function, str(arguments)[:200]
    signal.setitimer(signal.ITIMER_REAL, 3)
    try:
        result = function(*arguments)
        if inspect.isgenerator(result):
            list(result)
        for name in ("close", "destroy"):
            if hasattr(result, name) and not isinstance(result, type):
                getattr(result, name)()
    except FINE:
        return 1
    except TimeoutError:
        raise AssertionError(f"{function} hangs on {arguments}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return 0
class Hang(BaseException):
    pass
def hang(number, frame):
    raise Hang(ATTEMPT)
signal.signal(signal.SIGALRM, hang)
calls = refused = 0
for name, function in sorted(vars(module).items()):
    if name.startswith("_") or name in SKIP or not callable(function):
        continue
    if getattr(function, "__module__", "") != module.__name__:
        continue
    if inspect.isclass(function) and issubclass(function, BaseException):
        continue
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:
        continue
    needed = [p for p in parameters if p.default is p.empty and p.kind in (0, 1)]  # positional
    first_is_ring = bool(needed) and needed[0].name == "ring"
    first_is_sqe = bool(needed) and needed[0].name == "sqe"
    for position in range(len(needed)):
        for value in VALUES:
            ring = rings.Ring(2) if first_is_ring and position else None
            base = [0] * len(needed)
            if first_is_sqe:
                base[0] = bytearray(64)
            if ring:
                base[0] = ring
            base[position] = value
            refused += attempt(function, base)
            calls += 1
            if ring:
                ring.close()
print(calls, refused)
"""


MODULES = (
    "uapi",
    "syscalls",
    "barriers",
    "mapping",
    "queues",
    "handle",
    "rings",
    "ops",
    "buffers",
    "register",
    "inflight",
    "debug",
    "monitor",
    "fdmonpoll",
    "fdmon",
    "strategy",
    "epollwait",
    "selector",
)


@pytest.mark.long
@needs_ring
@pytest.mark.parametrize("module", MODULES)
def test_hostile_arguments_then_exceptions_and_no_crash(module, tmp_path):
    script = HOSTILE.replace("SKIP = {", 'SKIP = {"enter", "enter_reg", "io_uring_register", "membarrier", ')
    done = run_child(script, module, timeout=120)
    calls, refused = map(int, check_child(done).split())
    figures["hostile calls"] += calls
    figures["hostile calls refused"] += refused
    assert calls == 0 or refused or module in ("uapi", "rings")  # rings: Statistics, which accepts anything


@needs_ring
@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: rings.Ring(0), ValueError),
        (lambda: rings.Ring(-1), ValueError),
        (lambda: rings.Ring(2**40), ValueError),
        (lambda: rings.Ring(4, cq_entries=2), ValueError),
        (lambda: rings.Ring(4, flags=1 << 31), OSError),
        (lambda: rings.Ring(4, wq_fd=0), OSError),
        (lambda: rings.Ring(4, wq_fd=2**40), ValueError),
        (lambda: ops.prep_read(bytearray(64), 2**31, 0, 0, 0), struct.error),
        (lambda: ops.prep_read(bytearray(64), 0, 2**64, 0, 0), struct.error),
        (lambda: ops.prep_read(bytearray(64), 0, 0, 2**32, 0), struct.error),
        (lambda: ops.prep_read(bytearray(63), 0, 0, 0, 0), struct.error),
        (lambda: ops.prep_read(b"\0" * 64, 0, 0, 0, 0), TypeError),
        (lambda: fdmon.AioHandler(-1, 1), ValueError),
        (lambda: fdmon.AioHandler(0, 2**32), ValueError),
        (lambda: selector.IoUringSelector("nonsense"), ValueError),
    ],
)  # fmt: skip
def test_sizes_and_numbers_out_of_range_then_a_clear_error(call, error):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value)
    figures["hostile calls"] += 1


# ------------------------------------------------------------------------------------------------------
# State machines: InFlight over the fake kernel; FDMon and IoUringSelector over the real one


class InFlightMachine(RuleBasedStateMachine):
    """Start, complete, cancel, raise; memory lives exactly as long as the request."""

    @initialize(entries=st.sampled_from([1, 2, 8]), start=st.sampled_from([0, 2**32 - 2]))
    def begin(self, entries, start):
        self.context = fake_ring(entries=entries, sq_start=start, cq_start=start)
        self.kernel, self.ring = self.context.__enter__()
        self.kernel.slow_ops.add(uapi.IORING_OP_READ)
        self.table = inflight.InFlight(self.ring)
        self.answers = {}
        self.started = []

    @rule(slow=st.booleans(), angry=st.booleans())
    def start(self, slow, angry):
        number = len(self.started)

        def handler(res, flags):
            self.answers[number] = self.answers.get(number, 0) + 1
            if angry:
                raise ZeroDivisionError

        before = dict(self.table.entries)
        try:
            if slow:
                token = self.table.start(ops.prep_read, 0, 0, 0, 0, handler=handler, holds=(object(),))
            else:
                token = self.table.start(ops.prep_nop, handler=handler, holds=(object(),))
        except rings.SubmissionQueueFull:
            assert self.table.entries == before
            return
        self.started.append(token)
        figures["operations"] += 1

    @rule()
    def submit(self):
        self.ring.submit()

    @rule(code=st.sampled_from([errno.EAGAIN, errno.ENOMEM, errno.EPERM]))
    def submit_in_vain(self, code):
        self.kernel.failures.append(code)
        pending = self.ring.sq.pending()
        try:
            self.ring.submit()
        except OSError:
            assert self.ring.sq.pending() == pending
        self.kernel.failures.clear()
        figures["faults injected"] += 1

    @precondition(lambda self: self.kernel.late)
    @rule(position=st.integers(0, 50))
    def answer(self, position):
        self.kernel.complete_late(position % len(self.kernel.late))

    @rule()
    def dispatch(self):
        try:
            self.table.dispatch(self.ring.reap())
        except ZeroDivisionError:
            pass

    @rule()
    def discard(self):
        for token in self.ring.discard():
            self.table.entries.pop(token)
            self.answers[self.started.index(token)] = 1

    @invariant()
    def consistent(self):
        if hasattr(self, "table"):
            assert all(count == 1 for count in self.answers.values())
            open_tokens = {token for i, token in enumerate(self.started) if i not in self.answers}
            assert set(self.table.entries) <= open_tokens
            assert len(self.table.requests()) == len(self.table)

    def teardown(self):
        if hasattr(self, "context"):
            while self.ring.sq.pending():
                self.ring.submit()
            while self.kernel.late:
                self.kernel.complete_late(0)
            for _ in range(len(self.started)):  # each ends at least one, whatever handlers raise
                self.dispatch()
            assert len(self.answers) == len(self.started)
            self.consistent()
            self.context.__exit__(None, None, None)


class Watching(RuleBasedStateMachine):
    """Sockets that are written to, drained, shut and closed, for both kinds of watcher."""

    def __init__(self):
        super().__init__()
        self.pairs = {}

    @rule()
    def open(self):
        if len(self.pairs) < 12:
            one, two = socket.socketpair()
            one.setblocking(False)
            two.setblocking(False)
            self.pairs[one.fileno()] = one, two

    @precondition(lambda self: self.pairs)
    @rule(which=st.integers(0, 11), act=st.integers(0, 3))
    def disturb(self, which, act):
        one, two = self.pick(which)[1]
        try:
            if act == 0:
                two.send(b"x" * 50)
            elif act == 1:
                one.recv(1000)
            elif act == 2:
                one.send(b"y" * 400_000)
            else:
                two.shutdown(socket.SHUT_WR)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN):
                raise

    def pick(self, which):
        fd = sorted(self.pairs)[which % len(self.pairs)]
        return fd, self.pairs[fd]

    def teardown(self):
        for one, two in self.pairs.values():
            one.close()
            two.close()


class MonitorMachine(Watching):
    """FDMon next to poll(2)."""

    def __init__(self):
        super().__init__()
        self.monitor = fdmon.IoUringFDMon(4)
        self.nodes = {}

    @precondition(lambda self: self.pairs)
    @rule(which=st.integers(0, 11), events=st.sampled_from([1, 4, 5]))
    def watch(self, which, events):
        fd, _ = self.pick(which)
        old = self.nodes.get(fd)
        self.nodes[fd] = self.monitor.modify(old, events) if old else self.monitor.add(fd, events)

    @precondition(lambda self: self.nodes)
    @rule(which=st.integers(0, 11))
    def unwatch(self, which):
        fd = sorted(self.nodes)[which % len(self.nodes)]
        self.monitor.remove(self.nodes.pop(fd))

    @precondition(lambda self: self.pairs)
    @rule(which=st.integers(0, 11))
    def close(self, which):
        fd, (one, two) = self.pick(which)
        if fd in self.nodes:
            self.monitor.remove(self.nodes.pop(fd))
        del self.pairs[fd]
        one.close()
        two.close()

    @rule()
    def compare(self):
        oracle = select.poll()
        for fd, node in self.nodes.items():
            oracle.register(fd, node.events)
        found = {(node.fd, revents) for node, revents in self.monitor.wait(0)}
        assert found == set(oracle.poll(0))
        figures["events compared"] += len(found)

    def teardown(self):
        self.compare()
        self.monitor.destroy()
        super().teardown()


class SelectorMachine(Watching):
    """IoUringSelector next to EpollSelector."""

    def __init__(self):
        super().__init__()
        self.mine, self.oracle = selector.IoUringSelector(entries=4), selectors.EpollSelector()

    @precondition(lambda self: self.pairs)
    @rule(which=st.integers(0, 11), events=st.integers(0, 4), by_number=st.booleans())
    def register(self, which, events, by_number):
        fd, (one, _) = self.pick(which)
        outcomes = []
        for each in (self.mine, self.oracle):
            try:
                each.register(fd if by_number else one, events)
                outcomes.append("done")
            except (ValueError, KeyError) as error:
                outcomes.append(type(error))
        assert outcomes[0] == outcomes[1]

    @precondition(lambda self: self.pairs)
    @rule(which=st.integers(0, 11), events=st.integers(1, 3))
    def modify(self, which, events):
        fd, _ = self.pick(which)
        outcomes = []
        for each in (self.mine, self.oracle):
            try:
                outcomes.append(each.modify(fd, events).events)
            except KeyError as error:
                outcomes.append(type(error))
        assert outcomes[0] == outcomes[1]

    @precondition(lambda self: self.pairs)
    @rule(which=st.integers(0, 11), close=st.booleans())
    def unregister(self, which, close):
        fd, (one, two) = self.pick(which)
        if fd in self.oracle.get_map():
            self.mine.unregister(fd)
            self.oracle.unregister(fd)
        if close:
            del self.pairs[fd]
            one.close()
            two.close()

    @rule(timeout=st.sampled_from([0, 0, 0.0005]))
    def compare(self, timeout):
        expected = {(key.fd, events) for key, events in self.oracle.select(0)}
        assert {(key.fd, events) for key, events in self.mine.select(timeout)} == expected
        assert dict(self.mine.get_map()).keys() == dict(self.oracle.get_map()).keys()
        figures["events compared"] += len(expected)

    def teardown(self):
        self.compare(0)
        self.mine.close()
        self.oracle.close()
        super().teardown()


class RealRingMachine(RuleBasedStateMachine):
    """A Ring over the real kernel; the one over the fake kernel is in tests/property."""

    def __init__(self):
        super().__init__()
        self.ring = rings.Ring(4, cq_entries=4, wish=rings.RECOMMENDED)
        self.sent, self.seen, self.dropped = 0, [], []

    @rule(count=st.integers(1, 6))
    def put(self, count):
        for _ in range(count):
            try:
                ops.prep_nop(self.ring.get_sqe(), self.sent)
            except rings.SubmissionQueueFull:
                assert self.ring.sq.space_left() == 0
                return
            self.sent += 1
            figures["operations"] += 1

    @rule()
    def submit(self):
        self.ring.submit()

    @rule(wanted=st.integers(0, 5))
    def wait(self, wanted):
        self.ring.submit_and_wait(min(wanted, self.sent - len(self.seen) - len(self.dropped)), 10**9)

    @rule()
    def reap(self):
        self.seen += [cqe[0] for cqe in self.ring.reap()]

    @rule()
    def discard(self):
        self.dropped += self.ring.discard()

    @invariant()
    def once(self):
        assert len({*self.seen, *self.dropped}) == len(self.seen) + len(self.dropped) <= self.sent

    def teardown(self):
        self.ring.submit()
        self.reap()
        assert sorted(self.seen + self.dropped) == list(range(self.sent))
        self.ring.close()


def machine(kind, examples, *marks):
    kind.TestCase.settings = settings(deadline=None, max_examples=examples, stateful_step_count=40)
    for mark in marks:
        kind.TestCase = mark(kind.TestCase)
    return kind.TestCase


TestInFlight = machine(InFlightMachine, 40)
TestRealRing = machine(RealRingMachine, 25, needs_ring)
TestMonitor = machine(MonitorMachine, 25, needs_ring)
TestSelector = machine(SelectorMachine, 25, needs_ring)


# ------------------------------------------------------------------------------------------------------
# The short soak


@pytest.mark.long
@needs_ring
def test_everything_at_once_for_a_second_then_nothing_lost_corrupt_or_left():
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "soak.py"), "--seconds", "1"], capture_output=True, text=True,
        timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 lost, 0 corrupt, 0 other" in done.stdout
    assert os.WEXITSTATUS(0) == 0 and importlib and inspect


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: syscalls.io_uring_register(2**32, 0, None, 0), ValueError, "not a C int"),
        (lambda: syscalls.io_uring_enter(2**32 - 1, 0, 0, 0), ValueError, "not a C int"),
        (lambda: syscalls.io_uring_enter("text", 0, 0, 0), TypeError, "not str"),
        (lambda: syscalls.io_uring_register(-1, 1.5, None, 0), TypeError, "opcode must be an int, not float"),
        (lambda: rings.Ring(1.5), TypeError, "entries must be an int, not float"),
        (lambda: buffers.StructBuffer(4096), TypeError, "bytes, not int"),
        (lambda: buffers.pack_sockaddr(99, 2**31), ValueError, "not an address of family 99"),
    ],
)
def test_arguments_that_ctypes_would_cut_or_misread_then_refused_in_words(call, error, words):
    """A descriptor of 2**32 + 3 became 3; an int in place of bytes was read as an address, and crashed."""
    with pytest.raises(error, match=words):
        call()
