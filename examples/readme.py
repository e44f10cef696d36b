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

    token = inflight.hold(done, target)  # keeps the memory until the kernel has let go of it
    ops.prep_read(ring.get_sqe(), file.fileno(), target.address, target.nbytes, 0, user_data=token)
    ring.submit_and_wait(1)
    inflight.dispatch(ring.reap())
