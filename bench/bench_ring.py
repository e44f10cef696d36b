# SPDX-License-Identifier: MIT
"""The steps of one request: slot, preparation, reaping, barriers, table.

    python3 bench/bench_ring.py [--quick] [--json FILE]
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import System, main, timed

from rawuring import InFlight, Ring, barriers, inflight, ops, rings, syscalls, uapi

COUNT = 256


def benches(quick: bool) -> dict[str, dict[str, System]]:
    ring = Ring(COUNT, wish=rings.RECOMMENDED)
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

    def turns(size: int, columns: bool = False) -> Callable[[], None]:
        """Whole turns of prepared NOPs: what is left besides the steps is the kernel's."""
        one = slot_block[: 64 * size]

        def turn() -> None:
            ring.push(one)
            if columns:
                ring.submit_and_wait(size)
                ring.reap_columns()
            else:
                ring.submit_and_reap(size)

        return turn

    def dispatched() -> None:
        table.dispatch(answers)

    def holding() -> None:
        answers[:] = [(table.hold(handler), 0, 0) for _ in range(COUNT)]

    answers: list[tuple[int, int, int]] = []

    def handler(res: int, flags: int) -> None:
        return None

    block = ops.Block(COUNT, ops.prep_nop)
    numbers = list(range(COUNT))
    fd = ring.fileno()
    getevents = uapi.IORING_ENTER_GETEVENTS
    rounds = 5 if quick else 50
    steps = {
        "an empty loop": timed(repeat(lambda: None), COUNT, rounds),
        "token": timed(repeat(inflight.next_token), COUNT, rounds),
        "hold": timed(holding, COUNT, rounds, after=lambda: table.dispatch(answers)),
        "dispatch, per completion": timed(dispatched, COUNT, rounds, before=holding),
        "enter, nothing to do": timed(repeat(lambda: syscalls.enter(fd, 0, 0, 0)), COUNT, rounds),
        "enter, GETEVENTS": timed(repeat(lambda: syscalls.enter(fd, 0, 0, getevents)), COUNT, rounds),
        "getppid, a system call of the os module": timed(repeat(os.getppid), COUNT, rounds),
        "a turn of 1 NOP": timed(turns(1), 1, 10 * rounds),
        "a turn of 32 NOPs, per NOP": timed(turns(32), 32, rounds),
        "a turn of 256 NOPs, per NOP": timed(turns(256), 256, rounds),
        "a turn of 256 NOPs by column, per NOP": timed(turns(256, True), 256, rounds),
        "Block.set, per value": timed(lambda: block.set("off", numbers), COUNT, rounds),
        "get_sqe": timed(slots, COUNT, rounds, after=ring.discard),
        "get_sqe, prep_nop": timed(prepared, COUNT, rounds, after=ring.discard),
        "get_sqe, prep_read": timed(read_prepared, COUNT, rounds, after=ring.discard),
        "get_sqe, a stored SQE": timed(stored, COUNT, rounds, after=ring.discard),
        "push of 256": timed(pushed, COUNT, rounds, after=ring.discard),
        "flush, per call": timed(ring.sq.flush, 1, rounds, before=pushed, after=ring.discard),
        "discard of 256": timed(ring.discard, COUNT, rounds, before=slots),
        "prep_nop alone": timed(repeat(lambda: ops.prep_nop(sqe, 1)), COUNT, rounds),
        "prep_poll_add alone": timed(repeat(lambda: ops.prep_poll_add(sqe, 3, 1, 1)), COUNT, rounds),
        "prep_read alone": timed(repeat(lambda: ops.prep_read(sqe, 3, 4096, 512, 0, 1)), COUNT, rounds),
        "hold and complete": timed(held, COUNT, rounds),
        "reap of 1, per CQE": timed(ring.reap, 1, rounds, before=completed(1)),
        "reap of 32, per CQE": timed(ring.reap, 32, rounds, before=completed(32)),
        "reap of 256, per CQE": timed(ring.reap, 256, rounds, before=completed(256)),
        "reap_columns of 256 and its user_data, per CQE": timed(
            lambda: ring.reap_columns().user_data, 256, rounds, before=completed(256)
        ),
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
