# SPDX-License-Identifier: MIT
"""Load random records of a file in batches, past the page cache, as for a training loop.

    python examples/files_loader.py [FILE [BATCHES]]

Each batch is read while the previous one is being used: two sets of buffers, one call for each. No asyncio.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rawuring import files

RECORD, BATCH = 4096, 64


class Loader:
    """Batches of records, in an order that the seed decides."""

    def __init__(self, path: str, seed: int = 0) -> None:
        self.fd = os.open(path, os.O_RDONLY)
        self.records = os.fstat(self.fd).st_size // RECORD
        if not self.records:
            raise ValueError(f"{path}: contains no record of {RECORD} bytes")
        self.order = random.Random(seed)
        self.memory = [files.allocate(RECORD * BATCH) for _ in range(2)]
        self.direct = True

    def fill(self, memory: memoryview) -> None:
        """Read one batch."""
        places = [self.order.randrange(self.records) * RECORD for _ in range(BATCH)]
        ranges = [(place, memory[at * RECORD : (at + 1) * RECORD]) for at, place in enumerate(places)]
        try:
            files.sync.read_many_into(self.fd, ranges, depth=BATCH, direct=self.direct)
        except (OSError, ValueError):
            if not self.direct:
                raise
            self.direct = False  # this file system lacks O_DIRECT, or requires larger blocks
            files.sync.read_many_into(self.fd, ranges, depth=BATCH)

    def batches(self, count: int) -> Iterator[memoryview]:
        """Yield batches; each is valid until the next one is requested."""
        views = [memoryview(memory) for memory in self.memory]
        self.fill(views[0])
        for at in range(count):
            ahead = threading.Thread(target=self.fill, args=(views[(at + 1) % 2],))
            ahead.start()
            yield views[at % 2]
            ahead.join()


def main(path: str = sys.executable, count: str = "4") -> None:
    """Load some batches and show their checksums."""
    loader = Loader(path)
    total = sum(zlib.crc32(batch) for batch in loader.batches(int(count)))
    os.close(loader.fd)
    print(f"{count} batches of {BATCH} records, O_DIRECT: {loader.direct}, checksum {total:#x}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (OSError, ValueError) as error:
        sys.exit(f"{error}")
