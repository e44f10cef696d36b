# SPDX-License-Identifier: MIT
"""Open a file in one thread's ring and read it in another's: a direct descriptor travels from ring to ring.

    python examples/pass_fd.py FILE

No ordinary descriptor is ever used, and nothing is duplicated by hand. Needs Linux 6.0.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rawuring import Ring, buffers, ops, register, uapi

READY, FILE = 1, 2  # user_data of the completions in the reader's ring


def check(res: int) -> int:
    """Raise the error of a completion."""
    if res < 0:
        raise OSError(-res, os.strerror(-res))
    return res


def wait_for(ring: Ring, user_data: int) -> int:
    """Wait for one completion and return its res."""
    while True:
        ring.submit_and_wait(1)
        for cqe in ring.reap():
            if cqe[0] == user_data:
                return check(cqe[1])


def reader(born: threading.Event, ends: list[int], found: list[bytes]) -> None:
    """Wait for a file and read its beginning."""
    with Ring(8) as ring:
        register.register_files_sparse(ring, 4)
        ends.append(ring.fileno())
        born.set()
        slot = wait_for(ring, FILE)  # in this ring res is the chosen slot
        memory = buffers.allocate(4096)
        pin = buffers.pin(memory, writable=True)
        ops.prep_read(ring.get_sqe(), slot, pin.address, 4096, 0, READY, uapi.IOSQE_FIXED_FILE)
        found.append(memory[: wait_for(ring, READY)])


def pass_file(path: str) -> bytes:
    """Open here, read there; return the data."""
    born, ends, found = threading.Event(), [], []
    thread = threading.Thread(target=reader, args=(born, ends, found))
    with Ring(8) as ring:  # first: if it is refused, no thread that is refused as well is waited for
        thread.start()
        born.wait()
        register.register_files_sparse(ring, 1)
        name = buffers.path(path)
        # Two links of one chain: the message is sent when the file is open.
        ops.prep_openat_direct(
            ring.get_sqe(), uapi.AT_FDCWD, name.address, os.O_RDONLY, 0, 0, 1, uapi.IOSQE_IO_LINK
        )
        ops.prep_msg_ring_fd_alloc(ring.get_sqe(), ends[0], 0, FILE, 0, 2)
        wait_for(ring, 2)
    thread.join()
    return found[0]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.stdout.write(pass_file(sys.argv[1]).decode(errors="replace"))
