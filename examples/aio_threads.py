# SPDX-License-Identifier: MIT
"""Threads and asyncio over io_uring: executors, call_soon_threadsafe, and a loop in its own thread.

Run: python examples/aio_threads.py
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import threading
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rawuring import aio


async def in_executor() -> list[str]:
    """Let threads compute while the loop runs."""
    loop = asyncio.get_running_loop()
    jobs = [loop.run_in_executor(None, digest, bytes([i]) * 100_000) for i in range(8)]
    return await asyncio.gather(*jobs)


def digest(data: bytes) -> str:
    """Compute something slow."""
    return hashlib.sha256(data).hexdigest()


async def from_threads(count: int) -> int:
    """Count calls that four threads send to the loop."""
    loop = asyncio.get_running_loop()
    received, done = [], asyncio.Event()

    def receive(value: int) -> None:
        received.append(value)
        if len(received) == 4 * count:
            done.set()

    def send() -> None:
        for value in range(count):
            loop.call_soon_threadsafe(receive, value)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    await done.wait()
    for thread in threads:
        thread.join()
    return len(received)


def loop_in_a_thread() -> list[str]:
    """Create a loop here, run it in another thread, and use it from here."""
    loop = aio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        return asyncio.run_coroutine_threadsafe(in_executor(), loop).result(timeout=30)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


if __name__ == "__main__":
    print(f"{len(set(aio.run(in_executor())))} digests from an executor")
    print(f"{aio.run(from_threads(1000))} calls from four threads")
    print(f"{len(loop_in_a_thread())} digests from a loop in another thread")
