# SPDX-License-Identifier: MIT
"""Subprocesses on asyncio over io_uring: pipes in both directions, and exit codes.

Run: python examples/aio_subprocess.py
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rawuring import aio

CHILD = """
import sys
data = sys.stdin.buffer.read()
sys.stdout.buffer.write(data[::-1])
sys.exit(len(data) % 7)
"""


async def reverse(data: bytes) -> tuple[bytes, int]:
    """Let another process reverse some bytes."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    answer, _ = await process.communicate(data)
    return answer, process.returncode


async def main() -> list[tuple[bytes, int]]:
    """Run three of them concurrently."""
    messages = [b"stressed", b"drawer" * 50_000, b""]
    results = await asyncio.gather(*map(reverse, messages))
    for message, (answer, code) in zip(messages, results):
        assert answer == message[::-1]
        assert code == len(message) % 7
        print(f"{len(message)} bytes reversed, exit code {code}")
    return results


if __name__ == "__main__":
    aio.run(main())
