# SPDX-License-Identifier: MIT
"""Signals on asyncio over io_uring: the loop's own handlers, and Ctrl-C.

Run: python examples/aio_signals.py
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rawuring import aio


async def main() -> list[str]:
    """Send signals to this process while the loop waits in io_uring_enter."""
    loop = asyncio.get_running_loop()
    seen: asyncio.Queue[str] = asyncio.Queue()
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        loop.add_signal_handler(number, seen.put_nowait, number.name)
    timer = signal.setitimer(signal.ITIMER_REAL, 0)
    loop.add_signal_handler(signal.SIGALRM, seen.put_nowait, "SIGALRM")
    signal.setitimer(signal.ITIMER_REAL, 0.01)  # arrives while nothing else happens
    names = [await seen.get()]
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        os.kill(os.getpid(), number)
        names.append(await seen.get())
    signal.setitimer(signal.ITIMER_REAL, *timer)
    return names


def interrupted() -> bool:
    """Run a loop that waits forever, and end it as Ctrl-C does."""

    async def wait() -> None:
        # Repeatedly: a signal that arrives just before the system call does not end its wait.
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.5)
        await asyncio.Event().wait()

    old = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        aio.run(wait())
    except KeyboardInterrupt:
        return True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    return False


if __name__ == "__main__":
    print("handled:", ", ".join(aio.run(main())))
    print("Ctrl-C ends the loop:", interrupted())
