# SPDX-License-Identifier: MIT
"""The steps of one request: slot, preparation, reaping, barriers, table.

    python3 bench/bench_ring.py [--quick] [--json FILE]
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import System, main, timed

from rawuring import InFlight, Ring, barriers, ops

COUNT = 256


def benches(quick: bool) -> dict[str, dict[str, System]]:
    ring = Ring(COUNT)
    KEEP.append(ring)
    table = InFlight(ring)
    KEEP.append(table)
    words = barriers.map_words(bytearray(64))
    view = memoryview(bytearray(64)).cast("I")
    array = (ctypes.c_uint32 * 16)()
    sqe, ready, slot_block = bytearray(64), bytes(64), bytes(64 * COUNT)
    load, store, fence = barriers.load_acquire, barriers.store_release, barriers.full_fence

    def slots() -> None:
        for _ in range(COUNT):
            ring.get_sqe()

    def prepared() -> None:
        for i in range(COUNT):
            ops.prep_nop(ring.get_sqe(), i)

    def read_prepared() -> None:
        for i in range(COUNT):
            ops.prep_read(ring.get_sqe(), 3, 4096, 512, 0, i)

    def stored() -> None:
        for _ in range(COUNT):
            ring.get_sqe()[:] = ready

    def pushed() -> None:
        ring.push(slot_block)

    def held() -> None:
        for _ in range(COUNT):
            table.complete(table.hold(None), 0, 0)

    def completed(size: int) -> Callable[[], None]:
        def submit() -> None:
            ring.push(slot_block[: 64 * size])
            ring.submit_and_wait(size)

        return submit

    def repeat(call):
        def many() -> None:
            for _ in range(COUNT):
                call()

        return many

    rounds = 5 if quick else 50
    steps = {
        "an empty loop": timed(repeat(lambda: None), COUNT, rounds),
        "get_sqe": timed(slots, COUNT, rounds, after=ring.discard),
        "get_sqe, prep_nop": timed(prepared, COUNT, rounds, after=ring.discard),
        "get_sqe, prep_read": timed(read_prepared, COUNT, rounds, after=ring.discard),
        "get_sqe, a stored SQE": timed(stored, COUNT, rounds, after=ring.discard),
        "push of 256": timed(pushed, COUNT, rounds, after=ring.discard),
        "flush, per call": timed(ring.sq.flush, 1, rounds, before=pushed, after=ring.discard),
        "discard of 256": timed(ring.discard, COUNT, rounds, before=slots),
        "prep_nop alone": timed(repeat(lambda: ops.prep_nop(sqe, 1)), COUNT, rounds),
        "prep_read alone": timed(repeat(lambda: ops.prep_read(sqe, 3, 4096, 512, 0, 1)), COUNT, rounds),
        "hold and complete": timed(held, COUNT, rounds),
        "reap of 1, per CQE": timed(ring.reap, 1, rounds, before=completed(1)),
        "reap of 32, per CQE": timed(ring.reap, 32, rounds, before=completed(32)),
        "reap of 256, per CQE": timed(ring.reap, 256, rounds, before=completed(256)),
        "load_acquire": timed(repeat(lambda: load(words, 3)), COUNT, rounds),
        "store_release": timed(repeat(lambda: store(words, 3, 7)), COUNT, rounds),
        "load, cast memoryview": timed(repeat(lambda: view[3]), COUNT, rounds),
        "load, ctypes array": timed(repeat(lambda: array[3]), COUNT, rounds),
        "full_fence": timed(repeat(fence), COUNT, rounds),
    }
    return {"steps, per operation": steps}


KEEP: list[object] = []

if __name__ == "__main__":
    main(__doc__.splitlines()[0], benches)
    KEEP[0].close()
