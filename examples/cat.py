# SPDX-License-Identifier: MIT
"""cat: write files to standard output, reading ahead of the writing.

    python examples/cat.py FILE...

Several reads of one file are in flight at a time; their data are written in order.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rawuring import InFlight, Ring, buffers, ops

BLOCK = 128 * 1024
DEPTH = 8


def cat(table: InFlight, path: str) -> None:
    """Write one file."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    memories = [buffers.allocate(BLOCK) for _ in range(DEPTH)]
    pins = [buffers.pin(memory, writable=True) for memory in memories]
    arrived: dict[int, int] = {}  # block -> its number of bytes, or a negative errno

    def read(block: int) -> None:
        table.start(
            ops.prep_read, fd, pins[block % DEPTH], None, block * BLOCK,
            handler=lambda res, flags: arrived.update({block: res}),
        )  # fmt: skip

    try:
        for block in range(DEPTH):
            read(block)
        block = 0
        while True:
            while block not in arrived:
                table.ring.submit_and_wait(1)
                table.reap()
                table.dispatch()
            if (res := arrived.pop(block)) < 0:
                raise OSError(-res, os.strerror(-res), path)
            write_all(memories[block % DEPTH][:res])
            if res < BLOCK:
                break  # a regular file ends where a read is short
            read(block + DEPTH)
            block += 1
        while len(table):  # reads beyond the end
            table.ring.submit_and_wait(1)
            table.reap()
            table.dispatch()
    finally:
        os.close(fd)


def write_all(data: bytes) -> None:
    """Write to standard output, even if it takes little at a time."""
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def main(paths: list[str]) -> int:
    """Write all files."""
    with Ring(DEPTH) as ring:
        table = InFlight(ring)
        for path in paths:
            cat(table, path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
