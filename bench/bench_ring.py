# SPDX-License-Identifier: MIT
"""The steps of one request: slot, preparation, reaping, barriers, table.

    python3 bench/bench_ring.py [--quick] [--json FILE]
"""

from __future__ import annotations

import sys
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
    sqe, ready, slot_block = bytearray(64), bytes(64), bytes(64 * COUNT)
    load, store, fence = barriers.load_acquire, barriers.store_release, barriers.full_fence

    def slots() -> None:
        for _ in range(COUNT):
            ring.get_sqe()
        ring.discard()

    def slots_and_prep() -> None:
        for i in range(COUNT):
            ops.prep_nop(ring.get_sqe(), i)
        ring.discard()

    def stored() -> None:
        for _ in range(COUNT):
            ring.get_sqe()[:] = ready
        ring.discard()

    def pushed() -> None:
        ring.push(slot_block)
        ring.discard()

    def held() -> None:
        for _ in range(COUNT):
            table.complete(table.hold(None), 0, 0)

    def nops() -> None:
        ring.push(slot_block)
        ring.submit_and_wait(COUNT)

    def reaping() -> None:
        nops()
        ring.reap()

    def repeat(call):
        def many() -> None:
            for _ in range(COUNT):
                call()

        return many

    steps = {
        "an empty loop": repeat(lambda: None),
        "get_sqe": slots,
        "get_sqe, prep_nop": slots_and_prep,
        "get_sqe, a stored SQE": stored,
        "push of 256": pushed,
        "prep_nop alone": repeat(lambda: ops.prep_nop(sqe, 1)),
        "prep_read alone": repeat(lambda: ops.prep_read(sqe, 3, 4096, 512, 0, 1)),
        "hold and complete": held,
        "256 NOPs: push, submit, reap": reaping,
        "load_acquire": repeat(lambda: load(words, 3)),
        "store_release": repeat(lambda: store(words, 3, 7)),
        "full_fence": repeat(fence),
    }
    rounds = 5 if quick else 50
    return {"steps, per operation": {name: timed(step, COUNT, rounds) for name, step in steps.items()}}


KEEP: list[object] = []

if __name__ == "__main__":
    main(__doc__.splitlines()[0], benches)
    KEEP[0].close()
