# SPDX-License-Identifier: MIT
"""Random requests, cancels, timeouts and closes on one loop, none of which may leave anything behind.

What it is: Storm; tests/test_asyncring_random.py runs it briefly, and tools/soak.py for a long time.
Must not know: how AsyncRing works.
Invariant: all choices come from the seed. The bytes sent are numbered, so that lost, duplicated and reordered
ones are detected; each buffer has canaries on both sides.
Read next: test_asyncring_random.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import select
import socket
import sys
from collections import Counter
from typing import Any

from rawuring import asyncring, buffers, ops, uapi
from rawuring.buffers import allocate, pin

CANARY = 64


class Room:
    """A buffer between two canaries."""

    def __init__(self, nbytes: int) -> None:
        self.memory = allocate(nbytes + 2 * CANARY)
        view = memoryview(self.memory)
        view[:CANARY] = view[CANARY + nbytes :] = b"\xa5" * CANARY
        self.nbytes = nbytes
        self.pin = pin(self.memory, True)
        self.address = self.pin.address + CANARY

    def take(self, count: int) -> bytes:
        return bytes(memoryview(self.memory)[CANARY : CANARY + count])

    def intact(self) -> bool:
        view = memoryview(self.memory)
        return view[:CANARY] == view[CANARY + self.nbytes :] == b"\xa5" * CANARY


class Line:
    """A stream of numbered bytes over a socket pair, received in every available way."""

    def __init__(self) -> None:
        self.a, self.b = socket.socketpair()
        self.a.setblocking(False)
        self.b.setblocking(False)
        self.sent = self.got = 0
        #: Bytes that a late completion of the kernel's own receive brought.
        self.late: list[bytes] = []

    def next(self, count: int) -> bytes:
        data = bytes((self.sent + i) % 251 for i in range(count))
        self.sent += count
        return data

    def check(self, data: bytes) -> None:
        wanted = bytes((self.got + i) % 251 for i in range(len(data)))
        assert data == wanted, f"bytes {self.got} to {self.got + len(data)} lost, duplicated or reordered"
        self.got += len(data)

    def close(self) -> None:
        self.a.close()
        self.b.close()


class Storm:
    """Requests whose number, kind and end the seed chooses."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.figures: Counter[str] = Counter()
        self.rooms = [Room(64) for _ in range(16)]

    async def run(self, requests: int) -> None:
        """Make at least so many awaited requests, then check what remains."""
        ring = asyncring.running()
        before = _in_flight(ring)
        lines = [Line() for _ in range(4)]
        try:
            while self.figures["requests"] < requests:
                await asyncio.gather(*(self.receive(ring, line) for line in lines), self.many(ring))
            for line in lines:
                while line.got < line.sent:
                    data = line.late.pop(0) if line.late else await ring.recv(line.b, 1000, timeout=60)
                    line.check(data)
        finally:
            for line in lines:
                line.close()
        for _ in range(10_000):
            if _in_flight(ring) <= before:
                break
            await asyncio.sleep(0.001)
        assert _in_flight(ring) <= before, ring.table.requests()
        assert all(room.intact() for room in self.rooms), "a byte outside a buffer was written"

    async def bounded(self, awaitable: Any) -> Any:
        """Await, and perhaps cancel or time out at a random moment; return None in that case."""
        self.figures["requests"] += 1
        how = self.random.randrange(6)
        if how < 2:
            try:
                return await asyncio.wait_for(awaitable, self.random.choice((0, 0.0001, 0.001)))
            except asyncio.TimeoutError:
                self.figures["timeouts"] += 1
                return None
        task = asyncio.ensure_future(awaitable)
        for _ in range(self.random.randrange(5)):
            await asyncio.sleep(0)
        if how == 2:
            asyncring.running().flush()
        task.cancel()
        if self.random.random() < 0.1:
            task.cancel()
        try:
            return await task
        except asyncio.CancelledError:
            self.figures["cancelled"] += 1
        except asyncio.TimeoutError:
            self.figures["timeouts"] += 1
        return None

    async def receive(self, ring: asyncring.AsyncRing, line: Line) -> None:
        """Send bytes and receive them in one of the ways, with an end in between."""
        line.a.send(line.next(self.random.randrange(1, 50)))
        if line.late:
            line.check(line.late.pop(0))
            return
        way = self.random.randrange(4)
        if way == 0:
            line.check(await self.bounded(self._recv(ring, line)) or b"")
        elif way == 1:
            room = bytearray(32)
            count = await self.bounded(ring.recv_into(line.b, room))
            line.check(bytes(room[: count or 0]))
        elif way == 2:
            await self.multishot(ring, line)
        else:
            line.check(await self.bounded(self.kernels_recv(ring, line)) or b"")
        with contextlib.suppress(BlockingIOError):
            line.a.send(line.next(1))

    async def _recv(self, ring: asyncring.AsyncRing, line: Line) -> bytes:
        return await ring.recv(line.b, self.random.randrange(1, 60))

    async def multishot(self, ring: asyncring.AsyncRing, line: Line) -> None:
        stream = ring.recv_multishot(line.b)
        for _ in range(self.random.randrange(1, 3)):
            piece = await self.bounded(stream.__anext__())
            if piece is not None:
                with piece as data:
                    line.check(bytes(data))
            line.a.send(line.next(3))
        if self.random.random() < 0.5:
            await stream.aclose()
        else:
            del stream  # forgotten: its request still ends
            await _until(lambda: not ring.table.entries or _in_flight(ring, "recv_multishot") == 0)

    async def kernels_recv(self, ring: asyncring.AsyncRing, line: Line) -> bytes:
        """Let the kernel receive: bytes that arrive too late belong to the next receiver."""
        if asyncring._late_of.get(line.b):  # a stream's, and older
            return await ring.recv(line.b, 100)
        room = Room(32)
        self.rooms[self.random.randrange(16)] = room
        res = await ring.call(
            ops.prep_recv, line.b.fileno(), room.address, 32, 0, holds=(room.pin,),
            late=lambda res: line.late.append(room.take(res)),
            timeout=self.random.choice((None, None, 0.0005)),
        )  # fmt: skip
        return room.take(res)

    async def many(self, ring: asyncring.AsyncRing) -> None:
        """Gather requests that complete, wait, or return descriptors, and end some of them."""
        r, w = os.pipe()
        try:
            await asyncio.gather(*(self.one(ring, r) for _ in range(self.random.randrange(40))))
        finally:
            os.close(r)
            os.close(w)

    async def one(self, ring: asyncring.AsyncRing, r: int) -> None:
        kind = self.random.randrange(6)
        room = self.rooms[self.random.randrange(16)]
        waits = (ops.prep_read, r, room.address, 64, 0)
        try:
            if kind == 0:
                await ring.call(ops.prep_nop)
                self.figures["requests"] += 1
            elif kind == 1:
                path = buffers.path("/dev/null")
                fd = await self.bounded(ring.call(ops.prep_openat, uapi.AT_FDCWD, path, os.O_RDONLY, 0))
                if fd is not None:
                    os.close(fd)
            elif kind == 2:
                timeout = self.random.choice((None, 0.001))
                await self.bounded(ring.call(*waits, holds=(room.pin,), timeout=timeout))
            elif kind == 3:
                waiting = (*waits, {"holds": (room.pin,)})
                await self.bounded(ring.chain(*[(ops.prep_nop,)] * self.random.randrange(3), waiting))
            elif kind == 4:
                await self.bounded(ring.poll(r, select.POLLIN))
            else:
                await self.bounded(ring.sleep_until(0))
        except asyncio.TimeoutError:
            self.figures["timeouts"] += 1


def _in_flight(ring: asyncring.AsyncRing, operation: str = "") -> int:
    found = [each for each in ring.table.requests() if callable(each.handler)]
    return sum(not operation or each.operation == operation for each in found)


async def _until(condition: Any) -> None:
    for turn in range(60_000):
        if condition():
            return
        if turn % 1000 == 0 and sys.implementation.name != "cpython":
            gc.collect()  # frees forgotten objects; the objects they refer to need one more collection
        await asyncio.sleep(0)
    raise AssertionError("requests or tasks remain")


def run_storm(make_loop: Any, seed: int, requests: int, closes: int = 1) -> Counter[str]:
    """Run storms on one loop after the other, each of which is closed with requests in flight."""
    storm = Storm(seed)
    for part in range(closes):
        loop = make_loop()
        r, w = os.pipe()
        try:
            loop.run_until_complete(storm.run(requests * (part + 1) // closes))

            async def leave_some(r: int = r) -> None:
                ring = asyncring.running()
                for room in storm.rooms:
                    ring.call(ops.prep_read, r, room.address, 64, 0, holds=(room.pin,))

            loop.run_until_complete(leave_some())
        finally:
            loop.close()
            os.close(r)
            os.close(w)
        storm.figures["closes"] += 1
        assert all(room.intact() for room in storm.rooms), "a byte outside a buffer was written"
    return storm.figures
