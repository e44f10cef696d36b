# SPDX-License-Identifier: MIT
"""Read a file through io_uring: the program in README.md."""

from rawuring import InFlight, Ring, ops, pin
from rawuring.buffers import allocate

with Ring(8) as ring, open(__file__, "rb") as file:
    inflight = InFlight(ring)
    memory = allocate(4096)
    target = pin(memory, writable=True)

    def done(res: int, flags: int) -> None:
        print(f"{res} bytes, the first 28: {memory[:28]!r}")

    # The table holds the memory until the kernel no longer uses it. None: as many bytes as it has.
    inflight.start(ops.prep_read, file.fileno(), target, None, 0, handler=done)
    ring.submit_and_wait(1)
    inflight.reap()
    inflight.dispatch()
