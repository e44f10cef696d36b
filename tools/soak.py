#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Run everything concurrently for a long time: ``python3 tools/soak.py --seconds 600 [--seed N]``.

What it is: threads that read files with checksums, echo over sockets, change selectors and monitors next to
an oracle, cancel, overflow and close rings, while the main thread sends signals, forks, kills and stops
children, and uses a table, a monitor and selectors while its own signal handler raises at any moment.
Must not know: how the library works; everything is compared with our own data, epoll or poll(2).
Invariant: the exit code is 0 only if no event was lost, no byte was wrong, and the descriptors, threads,
children and mappings at the end are those of the start. 77 means that io_uring is not available here.
Read next: tests/faults.

All choices come from the seed; the behaviour of the kernel and the scheduler does not, so a run cannot be
repeated exactly. The first seconds are a warm-up, after which the resources of the process are counted; after
the run they are counted again.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import gc
import importlib.util
import os
import platform
import random
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
import zlib
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rawuring import buffers, fdmon, fileops, files, inflight, ops, rings, selector, uapi

CANARY = 64  # bytes before and after each buffer
SLOT = 8192
FILE_BYTES = 4 << 20
PATIENCE_NS = 60_000_000_000  # how long one round may take before its completions count as lost


class Lost(AssertionError):
    """A completion or an event was lost, duplicated or wrong."""


class Corrupt(AssertionError):
    """A byte had a wrong value."""


class Soak:
    """The shared state of the workers: the figures, the complaints, and the lock that keeps forks out."""

    def __init__(self, seed: int, scratch: Path) -> None:
        self.seed = seed
        self.scratch = scratch
        self.figures: Counter[str] = Counter()
        self.complaints: list[str] = []
        self.stop = threading.Event()
        #: Held by workers whose oracle would be confused by a child that shares their descriptors.
        self.no_forks = threading.Lock()
        self.fork_wanted = threading.Event()
        self.lock = threading.Lock()

    def count(self, **figures: int) -> None:
        with self.lock:
            self.figures.update(figures)

    def complain(self, what: str) -> None:
        with self.lock:
            self.complaints.append(what)
        self.stop.set()


class Worker(threading.Thread):
    """Repeat step() until told to stop; an exception is a complaint."""

    def __init__(self, soak: Soak, number: int) -> None:
        super().__init__(name=f"{type(self).__name__}-{number}", daemon=True)
        self.soak = soak
        self.random = random.Random(f"{soak.seed} {self.name}")

    def run(self) -> None:
        try:
            self.begin()
            while not self.soak.stop.is_set():
                self.step()
                self.soak.count(rounds=1)
            self.end()
        except BaseException:
            self.soak.complain(f"{self.name}:\n{traceback.format_exc()}")

    def begin(self) -> None:
        """Prepare."""

    def step(self) -> None:
        """Do one round; leave nothing in flight that the next round does not know."""
        raise NotImplementedError

    def end(self) -> None:
        """Clean up."""

    def ring(self, entries: int = 16, **options: object) -> tuple[rings.Ring, inflight.InFlight]:
        """Create a ring of a random kind."""
        wish = self.random.choice([0, rings.RECOMMENDED, uapi.IORING_SETUP_COOP_TASKRUN])
        ring = rings.Ring(entries, wish=wish, **options)
        self.soak.count(rings=1)
        return ring, inflight.InFlight(ring)

    def pump(self, ring: rings.Ring, table: inflight.InFlight, enough) -> None:
        """Submit, wait and dispatch until a condition holds."""
        deadline = time.monotonic_ns() + PATIENCE_NS
        while not enough():
            if time.monotonic_ns() > deadline:
                raise Lost("; ".join(map(str, table.requests())) or "a wait with nothing in flight")
            ring.submit_and_wait(1, 1_000_000_000)
            table.reap()
            table.dispatch()


class Reads(Worker):
    """Read a file at random, into buffers with canaries; close the ring occasionally in the middle of it."""

    COUNT = 16

    def begin(self) -> None:
        self.truth = (self.soak.scratch / "truth").read_bytes()
        self.fd = os.open(self.soak.scratch / "truth", os.O_RDONLY)
        self.memory = buffers.allocate(self.COUNT * SLOT)
        self.pin = buffers.pin(self.memory, writable=True)

    def step(self) -> None:
        ring, table = self.ring()
        with ring:
            for _ in range(20):
                self.one_batch(ring, table)
            if self.random.random() < 0.5:
                self.start_batch(ring, table, {})
                ring.submit()  # and close with all of them in flight
        # Any write from now on would be a completion into memory that is no longer the request's.
        pattern = bytes([self.random.randrange(256)]) * len(self.memory)
        self.memory[:] = pattern
        if self.memory[:] != pattern:
            raise Corrupt("memory was written after the ring had been closed")
        self.soak.count(bytes_verified=len(pattern))

    def start_batch(self, ring: rings.Ring, table: inflight.InFlight, results: dict) -> list:
        self.memory[:] = b"\xc5" * len(self.memory)
        wanted = []
        for i in range(self.COUNT):
            nbytes = self.random.randrange(1, SLOT - 2 * CANARY)
            offset = self.random.randrange(FILE_BYTES + 100)
            start = i * SLOT + CANARY

            def note(res: int, flags: int, i: int = i) -> None:
                results.setdefault(i, []).append(res)

            table.start(
                ops.prep_read, self.fd, self.pin.address + start, nbytes, offset, handler=note,
                holds=(self.pin,), flags=self.random.choice([0, 0, 0, uapi.IOSQE_ASYNC]),
            )  # fmt: skip
            wanted.append((start, nbytes, offset))
        self.soak.count(operations=self.COUNT)
        return wanted

    def one_batch(self, ring: rings.Ring, table: inflight.InFlight) -> None:
        results: dict[int, list[int]] = {}
        wanted = self.start_batch(ring, table, results)
        if self.random.random() < 0.2:
            ring.submit()
            for token in self.random.sample(sorted(table.entries), min(4, len(table))):
                table.cancel(token)
            self.soak.count(cancels=4)
        self.pump(ring, table, lambda: not len(table))
        self.pump(ring, table, lambda: not ring.sq.pending())
        for i, (start, nbytes, offset) in enumerate(wanted):
            if len(results.get(i, ())) != 1:
                raise Lost(f"read {i} was answered with {results.get(i)}")
            self.verify(results[i][0], start, nbytes, offset)

    def verify(self, res: int, start: int, nbytes: int, offset: int) -> None:
        if res < 0 and -res not in (errno.ECANCELED, errno.EINTR):
            raise Lost(f"a read failed: {os.strerror(-res)}")
        got = max(res, 0)
        if res >= 0 and got != max(0, min(nbytes, FILE_BYTES - offset)):
            raise Lost(f"a read of {nbytes} at {offset} returned {res}")
        if zlib.crc32(self.memory[start : start + got]) != zlib.crc32(self.truth[offset : offset + got]):
            raise Corrupt(f"{got} bytes at {offset} are not those of the file")
        for at in (start - CANARY, start + max(got, 0 if res >= 0 else nbytes)):
            if self.memory[at : at + CANARY] != b"\xc5" * CANARY:
                raise Corrupt(f"bytes next to a buffer of {nbytes} were written (res {res})")
        self.soak.count(bytes_verified=got + 2 * CANARY)

    def end(self) -> None:
        os.close(self.fd)


class Echo(Worker):
    """Send random bytes over sockets to ourselves and back, all through one ring."""

    PAIRS = 6

    def step(self) -> None:
        ring, table = self.ring(64)
        pairs = [socket.socketpair() for _ in range(self.PAIRS)]
        with ring:
            for _ in range(self.random.randrange(1, 12)):
                talks = [Talk(self, table, *pair) for pair in pairs]
                self.pump(ring, table, lambda talks=talks: all(talk.done() for talk in talks))
                for talk in talks:
                    talk.verify()
        for one, two in pairs:
            one.close()
            two.close()


class Talk:
    """One message there and back."""

    SIZE = 16384

    def __init__(
        self, worker: Echo, table: inflight.InFlight, here: socket.socket, there: socket.socket
    ) -> None:  # fmt: skip
        self.worker, self.table, self.here, self.there = worker, table, here, there
        nbytes = worker.random.randrange(1, 3 * self.SIZE)
        self.message = worker.random.getrandbits(8 * nbytes).to_bytes(nbytes, "little")
        self.answer = bytearray()
        self.echoed = self.sent = 0
        self.blocks = [buffers.allocate(n) for n in (3 * self.SIZE, self.SIZE, self.SIZE)]
        self.blocks[0][:nbytes] = self.message
        self.pins = [buffers.pin(block, writable=True) for block in self.blocks]
        self.send()
        self.recv_there()
        self.recv_here()

    def start(self, prep, sock: socket.socket, number: int, at: int, nbytes: int, then) -> None:
        pin = self.pins[number]
        self.worker.soak.count(operations=1)
        self.table.start(prep, sock.fileno(), pin.address + at, nbytes, 0, handler=then, holds=(pin, sock))

    def send(self) -> None:
        left = len(self.message) - self.sent
        self.start(ops.prep_send, self.here, 0, self.sent, min(left, self.SIZE), self.was_sent)

    def was_sent(self, res: int, flags: int) -> None:
        self.check(res)
        self.sent += res
        if self.sent < len(self.message):
            self.send()

    def recv_there(self) -> None:
        self.start(ops.prep_recv, self.there, 1, 0, self.SIZE, self.was_received_there)

    def was_received_there(self, res: int, flags: int) -> None:
        self.check(res)
        self.pending, self.at = res, 0
        self.send_back()

    def send_back(self) -> None:
        self.start(ops.prep_send, self.there, 1, self.at, self.pending, self.was_sent_back)

    def was_sent_back(self, res: int, flags: int) -> None:
        self.check(res)
        self.pending -= res
        self.at += res
        self.echoed += res
        if self.pending:
            self.send_back()
        elif self.echoed < len(self.message):
            self.recv_there()

    def recv_here(self) -> None:
        self.start(ops.prep_recv, self.here, 2, 0, self.SIZE, self.was_received_here)

    def was_received_here(self, res: int, flags: int) -> None:
        self.check(res)
        self.answer += self.blocks[2][:res]
        if len(self.answer) < len(self.message):
            self.recv_here()

    def check(self, res: int) -> None:
        if res <= 0:
            raise Lost(f"a socket answered {res}")

    def done(self) -> bool:
        return len(self.answer) >= len(self.message)

    def verify(self) -> None:
        if bytes(self.answer) != self.message:
            raise Corrupt(f"{len(self.answer)} bytes came back for {len(self.message)}, not the same")
        self.worker.soak.count(bytes_verified=len(self.message))


class Cancels(Worker):
    """Start requests that wait, cancel them, close or drop the ring; each completes exactly once."""

    def step(self) -> None:
        r, w = os.pipe()
        ring, table = self.ring(32)
        answers: Counter[int] = Counter()
        memory = buffers.allocate(32 * 256)
        pin = buffers.pin(memory, writable=True)
        memory[:] = b"\x3c" * len(memory)
        tokens = []
        for i in range(self.random.randrange(1, 24)):

            def note(res: int, flags: int, i: int = i) -> None:
                if not flags & uapi.IORING_CQE_F_MORE:
                    answers[i] += 1

            if self.random.random() < 0.7:
                address = pin.address + i * 256 + 64
                tokens.append(table.start(ops.prep_read, r, address, 128, -1, handler=note, holds=(pin,)))
            else:
                ts = buffers.timespec(self.random.choice([1, 10_000, 10_000_000_000]))
                tokens.append(table.start(ops.prep_timeout, ts.address, 0, 0, handler=note, holds=(ts,)))
        self.soak.count(operations=len(tokens))
        ring.submit()
        for _ in range(self.random.randrange(3)):
            os.write(w, b"\x01" * 16)
        for token in self.random.sample(tokens, self.random.randrange(len(tokens) + 1)):
            if not ring.sq.space_left():
                ring.submit()
            table.cancel(token)
            self.soak.count(cancels=1)
        if self.random.random() < 0.3:
            ring.submit()
            table.reap()
            table.dispatch()
        # PyPy finalizes in the collecting thread, which cannot cancel anything: memory is kept then.
        forget = platform.python_implementation() == "CPython" and self.random.random() < 0.3
        if forget:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                del ring, table, note
                gc.collect()
            self.soak.count(rings_forgotten=1)
        else:
            ring.close()
            if answers != Counter(range(len(tokens))):
                raise Lost(f"{len(tokens)} requests were answered so: {answers}")
        after = memory[:]
        os.write(w, b"\x02" * 4096)  # data for a request that is still alive
        if memory[:] != after:
            raise Corrupt("a request wrote after its ring was closed")
        for i in range(32):
            slot = after[i * 256 : (i + 1) * 256]
            if slot[:64] != b"\x3c" * 64 or slot[192:] != b"\x3c" * 64:
                raise Corrupt(f"bytes next to buffer {i} were written")
        self.soak.count(bytes_verified=len(after))
        os.close(r)
        os.close(w)


class Storms(Worker):
    """Overflow tiny completion queues; every number is returned once, and in order."""

    def step(self) -> None:
        entries = self.random.choice([1, 2, 4])
        ring, _ = self.ring(entries, cq_entries=entries)
        with ring:
            total, seen, sent = self.random.randrange(1, 400), [], 0
            while sent < total:
                while sent < total and ring.sq.space_left():
                    ops.prep_nop(ring.get_sqe(), sent + 1)
                    sent += 1
                ring.submit()
                if self.random.random() < 0.1:
                    seen += [cqe[0] for cqe in ring.reap()]
            deadline = time.monotonic_ns() + PATIENCE_NS
            while len(seen) < total and time.monotonic_ns() < deadline:
                ring.submit_and_wait(1, 100_000_000)
                seen += [cqe[0] for cqe in ring.reap()]
            if seen != list(range(1, total + 1)):
                raise Lost(f"{len(seen)} of {total} completions, or not in order")
            self.soak.count(operations=total, overflow_storms=1)


class Churn(Worker):
    """Change a set of descriptors at random; both ways of polling must agree."""

    SIZE = 24

    def begin(self) -> None:
        self.pairs: dict[int, tuple[socket.socket, socket.socket]] = {}

    def let_forks_go_first(self) -> None:
        # Locks are not fair: without this the forking thread would rarely get it.
        while self.soak.fork_wanted.is_set() and not self.soak.stop.is_set():
            time.sleep(0.001)

    def open(self) -> socket.socket:
        one, two = socket.socketpair()
        one.setblocking(False)
        two.setblocking(False)
        self.pairs[one.fileno()] = one, two
        return one

    def disturb(self) -> None:
        """Make a descriptor readable, drained, shut or full."""
        one, two = self.random.choice(list(self.pairs.values()))
        act = self.random.randrange(6)
        try:
            if act < 2:
                two.send(b"x" * self.random.randrange(1, 100))
            elif act < 4:
                one.recv(1 << 16)
            elif act == 4:
                one.send(b"y" * 300_000)
            else:
                two.shutdown(self.random.choice([socket.SHUT_RD, socket.SHUT_WR]))
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN):
                raise

    def close_all(self) -> None:
        for one, two in self.pairs.values():
            one.close()
            two.close()
        self.pairs.clear()


class SelectorChurn(Churn):
    """Change an IoUringSelector next to an EpollSelector."""

    def begin(self) -> None:
        super().begin()
        names = [name for name in selector.STRATEGIES if name.startswith("io_uring:")]
        self.names = [name for name in names if usable(name)]

    def step(self) -> None:
        self.let_forks_go_first()
        with self.soak.no_forks:
            mine = selector.IoUringSelector(self.random.choice(self.names))
            oracle = selectors.EpollSelector()
            for _ in range(self.SIZE):
                self.add(mine, oracle)
            for _ in range(200):
                self.change(mine, oracle)
                self.compare(mine, oracle)
            mine.close()
            oracle.close()
            self.close_all()

    def add(self, *both: selectors.BaseSelector) -> None:
        sock, events = self.open(), self.random.randrange(1, 4)
        for each in both:
            each.register(sock if self.random.random() < 0.5 else sock.fileno(), events, None)

    def change(self, *both: selectors.BaseSelector) -> None:
        self.soak.count(changes=1)
        act = self.random.randrange(8)
        fd = self.random.choice(list(self.pairs))
        if act == 0:
            events = self.random.randrange(1, 4)
            for each in both:
                each.modify(fd, events, None)
        elif act == 1:
            # Unregistered, closed, and the number reused immediately.
            for each in both:
                each.unregister(fd)
            for sock in self.pairs.pop(fd):
                sock.close()
            self.add(*both)
        elif act == 2:
            for each in both:
                each.unregister(fd)
            events = self.random.randrange(1, 4)
            for each in both:
                each.register(fd, events, None)
        else:
            self.disturb()

    def compare(self, mine: selectors.BaseSelector, oracle: selectors.BaseSelector) -> None:
        compare_with_epoll(self.soak, mine, oracle, self.random.choice([0, 0, 0, 0.001]))


def compare_with_epoll(
    soak: Soak, mine: selectors.BaseSelector, oracle: selectors.BaseSelector, timeout: float
) -> None:
    expected = {(key.fd, events) for key, events in oracle.select(0)}
    found = {(key.fd, events) for key, events in mine.select(timeout)}
    if found != expected:
        # The standard library's own, on free-threaded 3.13 with signals and forks, returned nothing once in a
        # million times while all were ready, and the right answer a moment later. Ours has one try.
        expected = {(key.fd, events) for key, events in oracle.select(0)}
    if found != expected:
        raise Lost(f"{mine!r}: {sorted(found ^ expected)} differ from EpollSelector's answer")
    soak.count(events_compared=len(found))


def usable(name: str) -> bool:
    try:
        selector.IoUringSelector(name, fallback=False).close()
    except OSError:
        return False
    return True


class MonitorChurn(Churn):
    """Change a monitor next to poll(2)."""

    def step(self) -> None:
        self.let_forks_go_first()
        with self.soak.no_forks:
            monitor = fdmon.IoUringFDMon(self.random.choice([4, 128]))
            nodes: dict[int, fdmon.AioHandler] = {}
            for _ in range(self.SIZE):
                fd = self.open().fileno()
                nodes[fd] = monitor.add(fd, self.random.choice([1, 4, 5]))
            for _ in range(150):
                self.change(monitor, nodes)
                compare_with_poll(self.soak, monitor, nodes)
            monitor.destroy()
            self.close_all()

    def change(self, monitor: fdmon.FDMon, nodes: dict[int, fdmon.AioHandler]) -> None:
        self.soak.count(changes=1)
        act = self.random.randrange(8)
        fd = self.random.choice(list(self.pairs))
        if act == 0:
            nodes[fd] = monitor.modify(nodes[fd], self.random.choice([1, 4, 5]))
        elif act == 1:
            monitor.remove(nodes.pop(fd))
            for sock in self.pairs.pop(fd):
                sock.close()
            fd = self.open().fileno()
            nodes[fd] = monitor.add(fd, self.random.choice([1, 4, 5]))
        else:
            self.disturb()



def compare_with_poll(soak: Soak, monitor: fdmon.FDMon, nodes: dict[int, fdmon.AioHandler]) -> None:
    oracle = select.poll()
    for fd, node in nodes.items():
        oracle.register(fd, node.events)
    expected = set(oracle.poll(0))
    found = {(node.fd, revents) for node, revents in monitor.wait(0)}
    if found != expected:
        raise Lost(f"{monitor.backend}: {sorted(found ^ expected)} differ from poll(2)'s answer")
    soak.count(events_compared=len(found))


class Threads(Worker):
    """Start and end threads with their own rings; some end with requests in flight."""

    def begin(self) -> None:
        self.strays: list[rings.Ring] = []

    def close_strays(self) -> None:
        """Close rings whose owners have ended, unless a thread of files has the owner's number by now."""
        strays, self.strays = self.strays, []
        for ring in strays:
            try:
                ring.close()
            except rings.WrongThread:
                self.strays.append(ring)

    def end(self) -> None:
        deadline = time.monotonic() + 30
        while self.strays and time.monotonic() < deadline:  # threads of files end when they are idle
            time.sleep(0.1)
            self.close_strays()
        if self.strays:
            raise Lost(f"{len(self.strays)} rings of threads that have ended cannot be closed")

    def step(self) -> None:
        failures: list[str] = []

        def life(tidy: bool) -> None:
            try:
                ring, _ = self.ring(8)
                for i in range(50):
                    ops.prep_nop(ring.get_sqe(), i + 1)
                    ring.submit_and_wait(1)
                    if [cqe[0] for cqe in ring.reap()] != [i + 1]:
                        raise Lost("a NOP was not answered once")
                self.soak.count(operations=50)
                if tidy:
                    ring.close()
                else:
                    left.append(ring)
            except BaseException:
                failures.append(traceback.format_exc())

        left: list[rings.Ring] = []
        threads = [threading.Thread(target=life, args=(self.random.random() < 0.7,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.strays += left
        self.close_strays()
        self.soak.count(threads=len(threads))
        if failures:
            raise Lost(failures[0])


class Files(Worker):
    """Use files on a new loop: batches, positional writes, atomic writes, cancelled at any moment.

    In every other round threads replace the ring.
    """

    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(dir=self.soak.scratch))
        self.truth = (self.soak.scratch / "truth").read_bytes()
        self.rounds = 0

    def step(self) -> None:
        self.rounds += 1
        ring = files._ring
        if self.rounds % 2:  # this worker is the only user of files
            files._ring = lambda: None
        try:
            asyncio.run(self.tasks())
        finally:
            files._ring = ring

    async def tasks(self) -> None:
        """Do eight operations concurrently."""
        await asyncio.gather(*[self.task(number) for number in range(8)])

    async def task(self, number: int) -> None:
        """Do one operation, and perhaps cancel it."""
        act = self.random.choice([self.ranges, self.whole, self.opens, self.sync])
        task = asyncio.ensure_future(act(number))
        for _ in range(self.random.randrange(40)):
            await asyncio.sleep(0)
        if self.random.random() < 0.4 and task.cancel():
            self.soak.count(cancelled_files=1)
        try:
            await task
        except asyncio.CancelledError:
            pass

    async def ranges(self, number: int) -> None:
        """Read ranges of a file of known content."""
        path = self.soak.scratch / "truth"
        asked = [(path, self.random.randrange(FILE_BYTES), self.random.randrange(SLOT)) for _ in range(20)]
        async for (_, offset, length), data in files.read_each(asked, depth=self.random.randrange(1, 20)):
            if data != self.truth[offset : offset + length]:
                raise Corrupt(f"{length} bytes at {offset} of a file")
            self.soak.count(file_ranges=1)

    async def whole(self, number: int) -> None:
        """Replace a file; readers see one version or the other, never a part."""
        path = self.folder / f"whole{number % 3}"
        for _ in range(4):
            mark = self.random.randrange(256)
            await files.write_bytes(path, bytes([mark]) * self.random.randrange(1, 200_000), atomic=True)
            data = await files.read_bytes(path)
            if data.count(data[:1]) != len(data):
                raise Corrupt("a file is a mixture of two versions")
            self.soak.count(file_versions=1)

    async def opens(self, number: int) -> None:
        """Open, write and close; a file whose operation was cancelled is closed as well."""
        for at in range(8):
            fd = await files.open_fd(self.folder / f"open{number}", os.O_RDWR | os.O_CREAT)
            try:
                data = bytes([at]) * 1000
                await files.pwrite(fd, data, at * 1000)
                if await files.pread(fd, 1000, at * 1000) != data:
                    raise Corrupt("the data read are not those written")
            finally:
                await files.close_fd(fd)
            self.soak.count(file_opens=1)

    async def sync(self, number: int) -> None:
        """Make a batch without a loop, in a thread."""
        path = self.soak.scratch / "truth"
        offsets = [self.random.randrange(FILE_BYTES) for _ in range(20)]
        # No large blocks: each thread has its own arena, which keeps them.
        found = await files.call(files.sync.read_many, [(path, offset, SLOT) for offset in offsets], depth=8)
        if found != [self.truth[offset : offset + SLOT] for offset in offsets]:
            raise Corrupt("ranges that were read without a loop")

    def end(self) -> None:
        files.sync.remove_tree(self.folder)
        deadline = time.monotonic() + 60
        while fileops.threads().count and time.monotonic() < deadline:  # idle threads end by themselves
            time.sleep(0.1)


WORKERS = (Reads, Echo, Cancels, Storms, SelectorChurn, MonitorChurn, Threads, Files)


# ------------------------------------------------------------------------------------------------------
# Meanwhile in the main thread


class Struck(Exception):
    """The exception of the signal handler."""


class Strikes(Churn):
    """Calls in which a signal handler raises: nothing is lost, from CPython 3.11 on nothing is duplicated.

    The interpreter runs signal handlers in the main thread only, so this worker is never started: the main
    thread calls step().
    """

    EXACTLY_ONCE = platform.python_implementation() == "CPython" and sys.version_info >= (3, 11)

    def begin(self) -> None:
        super().begin()
        self.armed = False
        self.truth = (self.soak.scratch / "truth").read_bytes()
        self.fd = os.open(self.soak.scratch / "truth", os.O_RDONLY)
        self.names = [name for name in selector.STRATEGIES if usable(name)]

    def step(self) -> None:
        self.random.choice([self.requests, self.requests, self.monitor, self.selector])()
        self.close_all()

    def end(self) -> None:
        os.close(self.fd)

    def on_signal(self, number: int, frame: object) -> None:
        """Handle the signal."""
        if self.armed:
            self.armed = False
            raise Struck

    def strike(self, act) -> None:
        """Do something until the signal handler raises in it, or it is done."""
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, self.random.randrange(1, 1000) * 1e-6, 0.005)
                self.armed = True
                act()
            finally:
                self.armed = False
        except Struck:
            self.soak.count(strikes=1)

    def check(self, boxes: list[list[int]], started: int, what: str) -> None:
        """All earlier ones must have completed; whether the interrupted start did is unknown."""
        for i, box in enumerate(boxes):
            wanted = (1,) if i < started else (0, 1) if i == started else (0,)
            if len(box) not in wanted and (self.EXACTLY_ONCE or not box or i > started):
                raise Lost(f"{what} {i} of {started} was answered {len(box)} times")

    def requests(self) -> None:
        ring, table = self.ring(64)
        memory = buffers.allocate(16 * SLOT)
        pin = buffers.pin(memory, writable=True)
        with ring:
            for _ in range(20):
                # list.insert() records, because it is written in C: a Python function may be struck before it
                # begins.
                boxes: list[list[int]] = [[] for _ in range(16)]
                offsets = [self.random.randrange(FILE_BYTES - SLOT) for _ in boxes]
                memory[:] = bytes(len(memory))
                started = 0

                def act(boxes=boxes, offsets=offsets) -> None:
                    nonlocal started
                    for i, (box, offset) in enumerate(zip(boxes, offsets)):
                        if i % 2:
                            table.start(ops.prep_nop, handler=box.insert)
                        else:
                            table.start(
                                ops.prep_read, self.fd, pin.address + i * SLOT, SLOT, offset,
                                handler=box.insert, holds=(pin,),
                            )  # fmt: skip
                        started += 1
                    ring.submit()
                    while len(table):
                        ring.submit_and_wait(1, 1_000_000_000)
                        table.reap()
                        table.dispatch()

                self.strike(act)
                self.pump(ring, table, lambda: not len(table) and not ring.sq.pending())
                table.dispatch()
                self.check(boxes, started, "request")
                for i in range(0, started, 2):
                    if memory[i * SLOT : (i + 1) * SLOT] != self.truth[offsets[i] : offsets[i] + SLOT]:
                        raise Corrupt(f"a read at {offsets[i]} that was struck has other bytes")
                self.soak.count(operations=started, bytes_verified=(started + 1) // 2 * SLOT)

    def pump(self, ring: rings.Ring, table: inflight.InFlight, enough) -> None:
        deadline = time.monotonic_ns() + PATIENCE_NS
        while not enough():
            if time.monotonic_ns() > deadline:
                raise Lost("; ".join(map(str, table.requests())) or "a wait with nothing in flight")
            ring.submit_and_wait(0)
            table.reap()
            table.dispatch()

    def monitor(self) -> None:
        monitor = fdmon.IoUringFDMon(32)
        nodes = {}
        for _ in range(8):
            fd = self.open().fileno()
            nodes[fd] = monitor.add(fd, self.random.choice([1, 4, 5]))
        for _ in range(20):
            self.disturb()
            boxes: list[list[int]] = [[] for _ in range(8)]
            started = 0

            def act(boxes=boxes) -> None:
                nonlocal started
                for box in boxes:
                    monitor.add_sqe(ops.prep_nop, box.insert)
                    started += 1
                while not all(boxes):
                    monitor.dispatch(monitor.wait(1_000_000_000))

            self.strike(act)
            deadline = time.monotonic_ns() + PATIENCE_NS
            while not all(boxes[:started]) and time.monotonic_ns() < deadline:
                monitor.dispatch(monitor.wait(1_000_000))
            monitor.dispatch(monitor.wait(0))
            self.check(boxes, started, "add_sqe()")
            compare_with_poll(self.soak, monitor, nodes)
            self.soak.count(operations=started)
        monitor.destroy()

    def selector(self) -> None:
        mine, oracle = selector.IoUringSelector(self.random.choice(self.names)), selectors.EpollSelector()
        for _ in range(8):
            fd, events = self.open().fileno(), self.random.randrange(1, 4)
            for each in (mine, oracle):
                each.register(fd, events)
        for _ in range(20):
            self.disturb()
            fd, events = self.random.choice(list(self.pairs)), self.random.randrange(1, 4)
            change = self.random.choice([None, mine.modify, mine.unregister])

            def act(change=change, fd=fd, events=events) -> None:
                if change == mine.modify:
                    change(fd, events, None)
                elif change is not None:
                    change(fd)
                    mine.register(fd, events)
                while self.armed:
                    mine.select(0)

            self.strike(act)
            if change is not None:  # its progress is unknown
                oracle.modify(fd, events, None)
                if fd in mine.get_map():
                    mine.modify(fd, events, None)
                else:
                    mine.register(fd, events)
            compare_with_epoll(self.soak, mine, oracle, 0)
            self.soak.count(changes=change is not None)
        mine.close()
        oracle.close()


class Disturber:
    """Signals, forks, kills and stops."""

    def __init__(self, soak: Soak, workers: list[Worker]) -> None:
        self.soak, self.workers = soak, workers
        self.random = random.Random(f"{soak.seed} disturber")
        self.signals = 0
        self.strikes = Strikes(soak, len(workers))

    def run(self, seconds: float) -> None:
        numbers = (signal.SIGALRM, signal.SIGUSR1)
        saved = [(number, signal.signal(number, self.on_signal)) for number in numbers]
        signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
        try:
            self.strikes.begin()
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline and not self.soak.stop.is_set():
                self.disturb()
                self.be_struck()
            self.strikes.end()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in saved:
                signal.signal(number, handler)
            self.soak.count(signals=self.signals)

    def on_signal(self, number: int, frame: object) -> None:
        self.signals += 1
        self.strikes.on_signal(number, frame)

    def be_struck(self) -> None:
        for _ in range(8):
            try:
                self.strikes.step()
            except Exception:
                self.soak.complain(f"{self.strikes.name}, in the main thread:\n{traceback.format_exc()}")
                return

    def disturb(self) -> None:
        for _ in range(40):
            worker = self.random.choice(self.workers)
            if worker.is_alive() and worker.ident:
                signal.pthread_kill(worker.ident, signal.SIGUSR1)
            time.sleep(0.005)
        self.fork()
        if self.random.random() < 0.2:
            gc.collect()

    def fork(self) -> None:
        kind = self.random.choice(["own ring", "own ring", "kill", "stop"])
        r, w = os.pipe()
        self.soak.fork_wanted.set()
        with self.soak.no_forks:
            self.soak.fork_wanted.clear()
            pid = os.fork()
            if not pid:
                child(kind, w)
            os.close(w)
            os.read(r, 1)  # it has closed our descriptors
        if kind == "kill":
            time.sleep(0.002)
            os.kill(pid, signal.SIGKILL)
        elif kind == "stop":
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.01)
            os.kill(pid, signal.SIGCONT)
        status = wait_for(pid)
        os.close(r)
        self.soak.count(children=1)
        expected = signal.SIGKILL if kind == "kill" else 0
        if status != expected:
            self.soak.complain(f"a child ({kind}) ended with status {status:#x}")


def wait_for(pid: int) -> int:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1] | 0x10000


def use_a_ring(seconds: float = 0) -> None:
    """Run a child's work; also run once at the start, to see whether it works here."""
    r, w = os.pipe()
    with rings.Ring(8) as ring:
        table = inflight.InFlight(ring)
        memory = buffers.allocate(4096)
        pin = buffers.pin(memory, writable=True)
        table.start(ops.prep_read, r, pin.address, 4096, -1, holds=(pin,))
        for _ in range(20):
            ops.prep_nop(ring.get_sqe(), 0)
            ring.submit_and_wait(1)
            table.reap()
            table.dispatch()
        time.sleep(seconds)
    os.close(r)
    os.close(w)


def child(kind: str, w: int) -> None:
    """Drop the inherited objects, use our own ring, and exit silently."""
    code = 1
    try:
        os.dup2(w, 3)
        os.closerange(4, 4096)
        os.write(3, b"x")
        use_a_ring(60 if kind == "kill" else 0)
        code = 0
    finally:
        os._exit(code)


# ------------------------------------------------------------------------------------------------------
# Resources that must not grow


class Footprint:
    """The resources of the process."""

    def __init__(self) -> None:
        gc.collect()
        self.descriptors = sorted(os.listdir("/proc/self/fd"), key=int)
        self.threads = len(os.listdir("/proc/self/task"))
        self.children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        maps = Path("/proc/self/maps").read_text().splitlines()
        self.mappings = len(maps)
        self.ring_mappings = sum("io_uring" in line for line in maps)
        anonymous = [line for line in maps if line.split()[1][:2] == "rw" and len(line.split()) == 5]
        self.anonymous_kib = sum(map(kib, anonymous))
        self.kept = len(inflight._kept)

    def complaints(self, before: Footprint) -> list[str]:
        """Report the resources that have grown."""
        found = []
        for name in ("descriptors", "threads", "children", "ring_mappings", "kept"):
            if getattr(self, name) != getattr(before, name):
                found.append(f"{name}: {getattr(before, name)} before, {getattr(self, name)} after")
        # The allocators' arenas come and go, so these two have tolerance; PyPy's heap and compiled code grow.
        if self.mappings > before.mappings + 100:
            found.append(f"mappings: {before.mappings} before, {self.mappings} after")
        tolerated = 65536 if sys.implementation.name == "cpython" else 262_144
        if self.anonymous_kib > before.anonymous_kib + tolerated:
            found.append(f"anonymous memory: {before.anonymous_kib} KiB before, {self.anonymous_kib} after")
        return found

    def __str__(self) -> str:
        return (
            f"{len(self.descriptors)} descriptors, {self.threads} threads, {len(self.children)} children, "
            f"{self.ring_mappings} ring mappings, {self.mappings} mappings, {self.anonymous_kib} KiB"
        )


def kib(line: str) -> int:
    start, _, end = line.split()[0].partition("-")
    return (int(end, 16) - int(start, 16)) // 1024


def settle() -> None:
    """Wait until the kernel has ended the joined threads (io-wq workers end by themselves)."""
    deadline = time.monotonic() + 15
    while len(os.listdir("/proc/self/task")) > 1 and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.05)


def run(seed: int, seconds: float, scratch: Path) -> Soak:
    """Run everything for a while."""
    soak = Soak(seed, scratch)
    workers = [kind(soak, number) for number, kind in enumerate(WORKERS)]
    for worker in workers:
        worker.start()
    try:
        Disturber(soak, workers).run(seconds)
    finally:
        soak.stop.set()
        for worker in workers:
            worker.join(120)
            if worker.is_alive():
                soak.complain(f"{worker.name} does not end")
    settle()
    return soak


def main() -> int:
    """Rehearse, run, compare, report."""
    parser = argparse.ArgumentParser(description="Run everything concurrently for a long time.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--requests", type=int, help="instead, await this many requests on each kind of loop")
    parser.add_argument("--files", type=float, metavar="SECONDS", help="instead, use file objects that long")
    options = parser.parse_args()
    if options.files:
        return use_files(options.seed, options.files)
    try:
        use_a_ring()
    except OSError as error:
        print(f"soak: io_uring is not available here: {error}")
        return 77
    if options.requests:
        return await_requests(options.seed, options.requests)
    # Threads and fork() together are the point.
    warnings.filterwarnings("ignore", message=".*multi-threaded.*fork.*", category=DeprecationWarning)
    with tempfile.TemporaryDirectory(prefix="rawuring-soak-") as folder:
        scratch = Path(folder)
        (scratch / "truth").write_bytes(random.Random(options.seed).randbytes(FILE_BYTES))
        rehearsal = run(options.seed + 1, min(5, options.seconds / 4), scratch_of(scratch, options.seed + 1))
        before = Footprint()
        soak = run(options.seed, options.seconds, scratch)
        after = Footprint()
    complaints = rehearsal.complaints + soak.complaints + after.complaints(before)
    report(options, soak, before, after, complaints)
    return 1 if complaints else 0


def await_requests(seed: int, requests: int) -> int:
    """Run the storms of tests/asyncring_random.py on each kind of loop; they raise on a fault."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    import asyncring_random

    from rawuring import aio

    loops = {"stock": asyncio.SelectorEventLoop, "rawuring": aio.new_event_loop}
    try:
        import uvloop

        loops["uvloop"] = uvloop.new_event_loop
        uvloop.new_event_loop().close()  # opens the descriptors that the process keeps
    except ImportError:
        pass
    before = len(os.listdir("/proc/self/fd"))
    for name, make in loops.items():
        figures = asyncring_random.run_storm(make, seed, requests, closes=50)
        gc.collect()
        left = len(os.listdir("/proc/self/fd")) - before
        print(f"soak: {name}, seed {seed}: {dict(figures)}, {left} descriptors left")
        if left:
            return 1
    return 0


def use_files(seed: int, seconds: float) -> int:
    """Run the storms of tests/fileobjects_random.py in children: by the ring and threads, at each limit."""
    program = Path(__file__).resolve().parent.parent / "tests" / "fileobjects_random.py"
    loops = ["stock", "rawuring"] + ["uvloop"] * (importlib.util.find_spec("uvloop") is not None)
    limits = "space", "size", "files"
    kinds = [["--loop", loop] for loop in loops] + [["--limits", limit] for limit in limits]
    kinds.append(["--limits", *limits, "--loop", "rawuring"])
    kinds = [[*kind, *way] for kind in kinds for way in ([], ["--threads"])]
    failed = 0
    for kind in kinds:
        arguments = [*kind, "--seed", str(seed), "--seconds", str(seconds / len(kinds))]
        done = subprocess.run([sys.executable, str(program), *arguments], capture_output=True, text=True)
        print(f"soak: {' '.join(kind)}: {done.stdout.strip() or done.returncode}", flush=True)
        if done.returncode not in (0, 77):
            failed += 1
            print(done.stderr[-3000:])
    return 1 if failed else 0


def scratch_of(scratch: Path, seed: int) -> Path:
    folder = scratch / str(seed)
    folder.mkdir()
    (folder / "truth").write_bytes(random.Random(seed).randbytes(FILE_BYTES))
    return folder


def report(
    options: argparse.Namespace, soak: Soak, before: Footprint, after: Footprint, complaints: list[str]
) -> None:
    """Print the figures."""
    name = f"{platform.python_implementation()} {platform.python_version()}, Linux {platform.release()}"
    print(f"soak: {name}, {options.seconds:g} s, seed {options.seed}")
    for figure, value in sorted(soak.figures.items()):
        print(f"  {figure:<18}{value:>14,}")
    print(f"  before: {before}\n  after:  {after}")
    for complaint in complaints:
        print(f"  WRONG: {complaint}")
    lost = sum("Lost" in each for each in complaints)
    corrupt = sum("Corrupt" in each for each in complaints)
    print(f"{lost} lost, {corrupt} corrupt, {len(complaints) - lost - corrupt} other complaints")


if __name__ == "__main__":
    sys.exit(main())
