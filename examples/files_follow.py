# SPDX-License-Identifier: MIT
"""Print the lines that are added to a log, as ``tail -F`` does, even after it was rotated or truncated.

    python examples/files_follow.py FILE

Without an argument it follows a log that it writes itself, and ends.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rawuring import files


async def follow(path: str, from_end: bool = True) -> AsyncIterator[bytes]:
    """Yield the lines of a log as they arrive, forever."""
    fd, at, rest = -1, 0, b""
    try:
        while True:
            try:
                if fd < 0:
                    fd = await files.open_fd(path, os.O_RDONLY)
                    at, rest = (os.fstat(fd).st_size if from_end else 0), b""
                    from_end = False
                data = await files.pread(fd, 1 << 16, at)
                at += len(data)
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    yield line
                if data:
                    continue
                there, here = await files.stat(path), os.fstat(fd)
                if not os.path.samestat(there, here) or here.st_size < at:
                    await files.close_fd(fd)
                    fd = -1
                    continue
            except FileNotFoundError:
                pass  # between the two halves of a rotation
            await asyncio.sleep(0.05)
    finally:
        if fd >= 0:
            await files.close_fd(fd)


async def demonstrate() -> None:
    """Write a log and rotate it while following it."""
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "log")
        await files.write_bytes(path, b"first\nsecond\n")
        lines = follow(path, from_end=False)
        print([(await lines.__anext__()).decode() for _ in range(2)])
        await files.rename(path, path + ".1")
        await files.write_bytes(path, b"after the rotation\n")
        print((await lines.__anext__()).decode())
        await lines.aclose()  # type: ignore[attr-defined]


async def main(path: str) -> None:
    """Follow a log."""
    async for line in follow(path):
        print(line.decode(errors="replace"), flush=True)


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]) if sys.argv[1:] else demonstrate())
    except KeyboardInterrupt:  # the usual end
        pass
