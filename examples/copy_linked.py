# SPDX-License-Identifier: MIT
"""Copy a file; each block is a read that is linked to its write, and the kernel continues by itself.

    python examples/copy_linked.py SOURCE DESTINATION

A link breaks when the read is short, and its write is cancelled. Blocks have the exact length, so that this
happens only if the file changes during the copy.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rawuring import InFlight, Ring, buffers, ops, uapi

BLOCK = 64 * 1024
DEPTH = 16  # pairs in flight


def copy(source: str, destination: str) -> int:
    """Copy a file; return its size."""
    with open(source, "rb", buffering=0) as reader, open(destination, "wb", buffering=0) as writer:
        size = os.fstat(reader.fileno()).st_size
        with Ring(2 * DEPTH) as ring:
            _copy_blocks(ring, reader.fileno(), writer.fileno(), size)
    return size


def _copy_blocks(ring: Ring, reader: int, writer: int, size: int) -> None:
    table = InFlight(ring)
    free = [buffers.pin(buffers.allocate(BLOCK), writable=True) for _ in range(DEPTH)]
    offset = 0
    while offset < size or len(table):
        while offset < size and free:
            pin, length = free.pop(), min(BLOCK, size - offset)

            def check(res: int, flags: int, expected: int = length) -> None:
                if res < 0:
                    raise OSError(-res, os.strerror(-res))
                if res != expected:
                    raise OSError(errno.EIO, f"{res} of {expected} bytes: did the file change?")

            def done(res: int, flags: int, pin: buffers.Pin = pin, check=check) -> None:
                free.append(pin)
                check(res, flags)

            table.start(
                ops.prep_read, reader, pin, length, offset, handler=check, flags=uapi.IOSQE_IO_LINK
            )
            table.start(ops.prep_write, writer, pin, length, offset, handler=done)
            offset += length
        ring.submit_and_wait(1)
        table.reap()
        table.dispatch()


def main(arguments: list[str]) -> int:
    """Run the command."""
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    print(f"{copy(*arguments)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
