# SPDX-License-Identifier: MIT
"""Awaited requests beside asyncio.sleep(0), on the stock loop, uvloop and ours.

    python3 bench/awaiting.py [--rounds N]

Every loop runs each workload once, then all again; the fastest round of each counts. malloc is not pinned:
nothing here allocates large blocks. Loops that are not installed are left out.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

sys.path.insert(0, os.environ.get("RAWURING_ROOT") or str(Path(__file__).resolve().parent.parent))

from rawuring import aio, asyncring, ops

COUNT, GATHERED = 256, 64


async def sleep() -> None:
    for _ in range(COUNT):
        await asyncio.sleep(0)


async def nop() -> None:
    call = asyncring.running().call
    for _ in range(COUNT):
        await call(ops.prep_nop)


async def gather() -> None:
    call = asyncring.running().call
    for _ in range(COUNT // GATHERED):
        await asyncio.gather(*[call(ops.prep_nop) for _ in range(GATHERED)])


async def tasks() -> None:
    """Await one at a time in each of many tasks."""
    call = asyncring.running().call

    async def each() -> None:
        for _ in range(COUNT // GATHERED):
            await call(ops.prep_nop)

    await asyncio.gather(*[each() for _ in range(GATHERED)])


async def bare() -> None:
    """Do without futures and turns of the loop: the lower bound for any way to await."""
    table = asyncring.running().table
    for _ in range(COUNT):
        table.start(ops.prep_nop, handler=ended)
        table.submit_and_dispatch(0)


async def bare_gather() -> None:
    table = asyncring.running().table
    for _ in range(COUNT // GATHERED):
        for _ in range(GATHERED):
            table.start(ops.prep_nop, handler=ended)
        table.submit_and_dispatch(0)


def ended(res: int, flags: int) -> None:
    """Take a result and do nothing."""


async def plain() -> None:
    """Gather asyncio's own futures, all completed by one callback: the cost of any gather()."""
    loop = asyncio.get_running_loop()

    def end(futures: list[asyncio.Future[int]]) -> None:
        for future in futures:
            future.set_result(0)

    for _ in range(COUNT // GATHERED):
        futures = [loop.create_future() for _ in range(GATHERED)]
        loop.call_soon(end, futures)
        await asyncio.gather(*futures)


WORKLOADS: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
    "asyncio.sleep(0)": sleep,
    "one awaited NOP": nop,
    f"{GATHERED} gathered NOPs, each": gather,
    f"{GATHERED} tasks, each NOP": tasks,
    "one NOP, not awaited": bare,
    f"{GATHERED} NOPs, not awaited, each": bare_gather,
    f"{GATHERED} gathered futures, each": plain,
}


def main() -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description="Awaited requests beside asyncio.sleep(0).")
    parser.add_argument("--rounds", type=int, default=300)
    options = parser.parse_args()
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
        "stock": asyncio.SelectorEventLoop, "rawuring": aio.new_event_loop,
    }  # fmt: skip
    try:
        import uvloop

        factories["uvloop"] = uvloop.new_event_loop
    except ImportError:
        pass
    loops = {name: make() for name, make in factories.items()}
    best: dict[tuple[str, str], float] = {}
    for _ in range(options.rounds):
        for name, loop in loops.items():
            for what, work in WORKLOADS.items():
                begin = time.perf_counter()
                loop.run_until_complete(work())
                took = (time.perf_counter() - begin) / COUNT
                best[name, what] = min(took, best.get((name, what), took))
    print(f"{platform.python_implementation()} {platform.python_version()}, Linux {platform.release()}")
    for name, loop in loops.items():
        base = best[name, "asyncio.sleep(0)"]
        for what in WORKLOADS:
            took = best[name, what]
            print(f"{name:10}{what:32}{took * 1e6:8.2f} us{took / base:8.2f}")
        loop.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
