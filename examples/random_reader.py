# SPDX-License-Identifier: MIT
"""Read 4 KiB blocks of a file at random places, past the page cache, into registered buffers.

    python examples/random_reader.py FILE [READS] [DEPTH]

O_DIRECT needs aligned memory and offsets: buffers.allocate() returns whole pages. Registering the buffers
saves the kernel mapping them for each read, registering the file saves it a look-up.
"""

from __future__ import annotations

import os
import random
import sys
import time
import zlib
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rawuring import Ring, buffers, ops, register, rings, uapi

BLOCK = 4096


def read_blocks(path: str, blocks: list[int], depth: int = 32) -> tuple[int, float]:
    """Read blocks by number; return the sum of their checksums, and the time in seconds."""
    with Ring(depth, wish=rings.RECOMMENDED) as ring:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
        register.register_files(ring, [fd])
        os.close(fd)  # the ring holds the file
        memory = buffers.allocate(depth * BLOCK)
        (pin,) = register.register_buffers(ring, [memory])
        waiting = iter(blocks)
        checksum = running = 0
        start = time.perf_counter()

        def read(slot: int) -> int:
            block = next(waiting, None)
            if block is None:
                return 0
            ops.prep_read_fixed(
                ring.get_sqe(), 0, pin.address + slot * BLOCK, BLOCK, block * BLOCK, 0,
                slot, uapi.IOSQE_FIXED_FILE,
            )  # fmt: skip
            return 1

        for slot in range(depth):
            running += read(slot)
        while running:
            ring.submit_and_wait(1)
            for slot, res, _ in ring.reap():
                if res < 0:
                    raise OSError(-res, os.strerror(-res), path)
                checksum += zlib.crc32(memory[slot * BLOCK : slot * BLOCK + res])
                running += read(slot) - 1
        return checksum, time.perf_counter() - start


def main(arguments: list[str]) -> int:
    """Run the command, and print the speed."""
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    count, depth = int((arguments[1:] or ["1000"])[0]), int((arguments[2:] or ["32"])[0])
    total = os.stat(arguments[0]).st_size // BLOCK
    blocks = [random.randrange(total) for _ in range(count)]
    checksum, seconds = read_blocks(arguments[0], blocks, depth)
    print(f"{count} reads of {BLOCK} bytes, checksum {checksum:#x}, {count / seconds:,.0f} a second")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
