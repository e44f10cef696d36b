# SPDX-License-Identifier: MIT
"""Selectors: what an event, a change and a timeout cost, against selectors.EpollSelector.

    python3 bench/bench_selector.py [--quick] [--rounds N] [--json FILE]
"""

from __future__ import annotations

import asyncio
import selectors
import socket
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import System, main, timed

from rawuring.selector import STRATEGIES, IoUringSelector

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
KEEP: list[object] = []
ENDINGS: list[tuple] = []


def makers() -> dict[str, Callable[[], selectors.BaseSelector]]:
    """Return what can be measured here; the baseline first."""
    found: dict[str, Callable[[], selectors.BaseSelector]] = {"EpollSelector": selectors.EpollSelector}
    for name in STRATEGIES:
        try:
            IoUringSelector(name, fallback=False).close()
        except OSError as error:
            print(f"left out: {name}: {error}")
        else:
            found[name] = lambda name=name: IoUringSelector(name, fallback=False)
    return found


def ready_pairs(count: int) -> list[tuple[socket.socket, socket.socket]]:
    pairs = [socket.socketpair() for _ in range(count)]
    for _, b in pairs:
        b.send(b"x")
    KEEP.append(pairs)
    return pairs


def events(make, pairs, timeout: float | None, repeat: int) -> System:
    """Cost per event of a select() that finds all of them ready."""
    sel = make()
    KEEP.append(sel)
    for a, _ in pairs:
        sel.register(a, READ)
    assert len(sel.select(timeout)) == len(pairs)

    def turns() -> None:
        for _ in range(10):
            sel.select(timeout)

    return timed(turns, 10 * len(pairs), repeat)


def few_of_many(make, pairs, many, repeat: int) -> System:
    sel = make()
    KEEP.append(sel)
    for a, _ in pairs:
        sel.register(a, READ)
    for _, b in many:
        sel.register(b, READ)
    return timed(lambda: sel.select(1), 1, repeat)


def changes(make, pairs, repeat: int) -> System:
    """Cost per change of a turn in which every interest changes; none becomes ready."""
    sel = make()
    KEEP.append(sel)
    socks = [b for _, b in pairs]  # nothing to read there
    for b in socks:
        sel.register(b, READ)
    sel.select(0)

    def turn() -> None:
        for b in socks:
            sel.modify(b, READ | WRITE)
        for b in socks:
            sel.modify(b, READ)
        sel.select(0)

    return timed(turn, 2 * len(socks), repeat)


def connections(make, pairs, repeat: int) -> System:
    """Cost per socket of a turn that adds sockets, and one that removes them."""
    sel = make()
    KEEP.append(sel)
    socks = [b for _, b in pairs]

    def turn() -> None:
        for b in socks:
            sel.register(b, READ)
        sel.select(0)
        for b in socks:
            sel.unregister(b)

    return timed(turn, len(socks), repeat)


def idle(make, seconds: float, repeat: int) -> System:
    """The median time of a select() that times out."""
    sel = make()
    KEEP.append(sel)
    sel.register(ready_pairs(1)[0][1], READ)

    def one_round() -> float:
        took = []
        for _ in range(repeat):
            start = time.perf_counter_ns()
            sel.select(seconds)
            took.append(time.perf_counter_ns() - start)
        return statistics.median(took)

    return one_round


def sleeping(make, seconds: float, repeat: int) -> System:
    """The median time of an asyncio.sleep()."""
    loop = asyncio.SelectorEventLoop(make())
    KEEP.append(loop)

    async def sleep() -> float:
        took = []
        for _ in range(repeat):
            start = time.perf_counter_ns()
            await asyncio.sleep(seconds)
            took.append(time.perf_counter_ns() - start)
        return statistics.median(took)

    return lambda: loop.run_until_complete(sleep())


def echo(make, clients: int, repeat: int) -> System:
    """Cost per message of an echo through asyncio streams, server and clients on one loop."""
    loop = asyncio.SelectorEventLoop(make())
    KEEP.append(loop)

    async def serve(reader, writer) -> None:
        while data := await reader.read(4096):
            writer.write(data)
        writer.close()

    async def start():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        return server, [await asyncio.open_connection("127.0.0.1", port) for _ in range(clients)]

    server, streams = loop.run_until_complete(start())
    ENDINGS.append((loop, server, streams))

    async def talk(reader, writer) -> None:
        for _ in range(repeat):
            writer.write(b"x" * 100)
            await reader.readexactly(100)

    async def all_of_them() -> None:
        await asyncio.gather(*(talk(*stream) for stream in streams))

    return timed(lambda: loop.run_until_complete(all_of_them()), clients * repeat, 1)


def benches(quick: bool) -> dict[str, dict[str, System]]:
    every = makers()
    repeat = 3 if quick else 20
    tables: dict[str, dict[str, System]] = {}
    for count in (1, 10, 100) if quick else (1, 10, 100, 1000):
        pairs = ready_pairs(count)
        for timeout in (None, 1.0):
            title = f"{count} of {count} ready, select({timeout}), per event"
            tables[title] = {n: events(m, pairs, timeout, repeat) for n, m in every.items()}
    pairs, many = ready_pairs(10), ready_pairs(200 if quick else 1000)
    title = f"10 ready of {10 + len(many)}, select(1.0), per call"
    tables[title] = {n: few_of_many(m, pairs, many, repeat) for n, m in every.items()}
    for count in (10, 100):
        pairs = ready_pairs(count)
        tables[f"{2 * count} changes, per change"] = {n: changes(m, pairs, repeat) for n, m in every.items()}
        title = f"{count} sockets added and removed, per socket"
        tables[title] = {n: connections(m, pairs, repeat) for n, m in every.items()}
    title = "idle select(0.0002), median of a call"
    tables[title] = {n: idle(m, 0.0002, 5 * repeat) for n, m in every.items()}
    title = "asyncio.sleep(0.0005), median of a call"
    tables[title] = {n: sleeping(m, 0.0005, 5 * repeat) for n, m in every.items()}
    for clients in (1, 50):
        title = f"asyncio echo, {clients} clients, per message"
        tables[title] = {n: echo(m, clients, 20 * repeat // min(clients, 5)) for n, m in every.items()}
    return tables


def close_all() -> None:
    for loop, server, streams in ENDINGS:
        for _, writer in streams:
            writer.close()
        server.close()
        loop.run_until_complete(asyncio.sleep(0.05))
    for each in KEEP:
        if isinstance(each, (asyncio.SelectorEventLoop, selectors.BaseSelector)):
            each.close()


if __name__ == "__main__":
    main(__doc__.splitlines()[0], benches)
    close_all()
