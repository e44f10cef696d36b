# SPDX-License-Identifier: MIT
"""The steps of one request, and the ways to call io_uring_enter through ctypes, each as a separate system."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from rounds import KEEP, Round, fastest, our_ring

#: Each step, and its description in docs/costs.md, empty if it is not on that page.
STEPS = {
    "an empty loop": "",
    "token": "user_data from the counter of inflight.py",
    "hold": "`InFlight.hold()`: token, handler and memory into the table",
    "start": "`InFlight.start(ops.prep_poll_add, fd, mask, handler=)`: all of these in one call",
    "start_block of 256": "`InFlight.start_block()`, per SQE",
    "get_sqe": "`ring.get_sqe()`",
    "prep_nop alone": "`ops.prep_nop()`",
    "prep_poll_add alone": "`ops.prep_poll_add()`",
    "prep_read alone": "`ops.prep_read()`, as most operations",
    "get_sqe, prep_nop": "",
    "get_sqe, prep_read": "",
    "get_sqe, a stored SQE": "64 ready bytes into a slot: `ring.get_sqe()[:] = sqe`",
    "push of 256": "`ring.push()` of a prepared block, per SQE",
    "Block.set, per value": "one field of a block, per SQE",
    "flush, per call": "publish: one store of the tail, one load of the head",
    "discard of 256": "",
    "enter, nothing to do": "io_uring_enter through ctypes, of which the system call is about half",
    "enter, GETEVENTS": "the same, with a look for completions",
    "reap of 1, per CQE": "`ring.reap()` of one completion",
    "reap of 32, per CQE": "of 32, each",
    "reap of 256, per CQE": "of 256, each",
    "reap_columns of 256 and its user_data, per CQE": "`ring.reap_columns().user_data`, each",
    "dispatch, per completion": "`InFlight.dispatch()`: find, release, call the handler",
    "dispatch of a block, per completion": "the same by column, with one call of the handler",
    "hold and complete": "",
    "load_acquire": "",
    "store_release": "",
    "load, cast memoryview": "",
    "load, ctypes array": "",
    "full_fence": "needed by SQPOLL only",
    "a turn of 1 NOP": "push, `submit_and_reap(1)`: everything, the kernel's work included",
    "a turn of 32 NOPs, per NOP": "the same with 32, each",
    "a turn of 256 NOPs, per NOP": "with 256, each",
    "a turn of 256 NOPs by column, per NOP": "with `reap_columns()`, each",
    "getppid, a system call of the os module": "for comparison: what any system call costs from Python",
}

#: Those that are repeated in a Python loop and contain one turn of it; the others handle whole batches.
LOOPED = [
    "token", "prep_nop alone", "prep_poll_add alone", "prep_read alone", "enter, nothing to do",
    "enter, GETEVENTS", "full_fence", "getppid, a system call of the os module",
]  # fmt: skip

#: CPython is fastest without a signature, PyPy with one.
CALLS = [
    "syscalls.enter",
    "syscalls.io_uring_enter",
    "ints, no signature, errno (syscalls.py on CPython)",
    "signature, errno (syscalls.py on PyPy)",
    "no signature, errno lost",
    "signature, errno lost",
    "CFUNCTYPE prototype, errno",
    "ready-made ctypes objects",
    "ready-made c_long",
    "os.getppid, the floor",
]


def repeated(call: Callable[[], object], count: int) -> Callable[[], None]:
    def many() -> None:
        for _ in range(count):
            call()

    return many


def step(name: str, count: int, repeat: int) -> Round:
    """Make one step of a request; count is the number of SQEs, and of turns of a loop."""
    import ctypes

    from rawuring import InFlight, barriers, inflight, ops, syscalls, uapi

    ring = our_ring(count)
    table = InFlight(ring)
    KEEP.append(table)
    words = barriers.map_words(bytearray(64))
    view = memoryview(bytearray(64)).cast("I")
    array = (ctypes.c_uint32 * 16)()
    sqe, ready, nops = bytearray(64), bytes(64), bytes(64 * count)
    answers: list[tuple[int, int, int]] = []
    load, store = barriers.load_acquire, barriers.store_release
    block, numbers = ops.Block(count, ops.prep_nop), list(range(count))
    fd, getevents = ring.fileno(), uapi.IORING_ENTER_GETEVENTS

    def handler(res: int, flags: int) -> None:
        return None

    def by_column(indices: list[int], res: list[int], flags: list[int]) -> None:
        return None

    def slots() -> None:
        for _ in range(count):
            ring.get_sqe()

    def prepared() -> None:
        for i in range(count):
            ops.prep_nop(ring.get_sqe(), i)

    def read_prepared() -> None:
        for i in range(count):
            ops.prep_read(ring.get_sqe(), 3, 4096, 512, 0, i)

    def stored() -> None:
        for _ in range(count):
            ring.get_sqe()[:] = ready

    def pushed() -> None:
        ring.push(nops)

    def holding() -> None:
        answers[:] = [(table.hold(handler), 0, 0) for _ in range(count)]

    def dispatched() -> None:
        table.dispatch(answers)

    def started() -> None:
        for _ in range(count):
            table.start(ops.prep_poll_add, 3, 1, handler=handler)

    def block_started() -> None:
        table.start_block(block, by_column)

    def block_reaped() -> None:
        block_started()
        ring.submit_and_wait(count)
        table.reap()

    def forgotten() -> None:
        ring.discard()
        table.entries.clear()
        if hasattr(table, "_blocks"):
            table._blocks.clear()

    def held() -> None:
        for _ in range(count):
            table.complete(table.hold(None), 0, 0)

    def loop(call: Callable[[], object]) -> Round:
        return fastest(repeated(call, count), count, repeat)

    def queued(fill: Callable[[], object]) -> Round:
        return fastest(fill, count, repeat, after=ring.discard)

    def reaped(size: int, reap: Callable[[], object] = ring.reap) -> Round:
        def completed() -> None:
            ring.push(nops[: 64 * size])
            ring.submit_and_wait(size)

        return fastest(reap, size, repeat, before=completed)

    def turns(size: int) -> Round:
        """Whole turns of prepared NOPs: the time beyond the steps is the kernel's."""
        one = nops[: 64 * size]

        def turn() -> None:
            ring.push(one)
            ring.submit_and_reap(size)

        return fastest(turn, size, repeat * (10 if size == 1 else 1))

    def turns_by_column() -> Round:
        def turn() -> None:
            ring.push(nops)
            ring.submit_and_wait(count)
            ring.reap_columns()

        return fastest(turn, count, repeat)

    makers: dict[str, Callable[[], Round]] = {
        "an empty loop": lambda: loop(lambda: None),
        "token": lambda: loop(inflight.next_token),
        "hold": lambda: fastest(holding, count, repeat, after=dispatched),
        "start": lambda: fastest(started, count, repeat, after=forgotten),
        "start_block of 256": lambda: fastest(block_started, count, repeat, after=forgotten),
        "get_sqe": lambda: queued(slots),
        "prep_nop alone": lambda: loop(lambda: ops.prep_nop(sqe, 1)),
        "prep_poll_add alone": lambda: loop(lambda: ops.prep_poll_add(sqe, 3, 1, 1)),
        "prep_read alone": lambda: loop(lambda: ops.prep_read(sqe, 3, 4096, 512, 0, 1)),
        "get_sqe, prep_nop": lambda: queued(prepared),
        "get_sqe, prep_read": lambda: queued(read_prepared),
        "get_sqe, a stored SQE": lambda: queued(stored),
        "push of 256": lambda: queued(pushed),
        "Block.set, per value": lambda: fastest(lambda: block.set("off", numbers), count, repeat),
        "flush, per call": lambda: fastest(ring.sq.flush, 1, repeat, before=pushed, after=ring.discard),
        "discard of 256": lambda: fastest(ring.discard, count, repeat, before=slots),
        "enter, nothing to do": lambda: loop(lambda: syscalls.enter(fd, 0, 0, 0)),
        "enter, GETEVENTS": lambda: loop(lambda: syscalls.enter(fd, 0, 0, getevents)),
        "reap of 1, per CQE": lambda: reaped(1),
        "reap of 32, per CQE": lambda: reaped(32),
        "reap of 256, per CQE": lambda: reaped(256),
        "reap_columns of 256 and its user_data, per CQE": lambda: reaped(
            256, lambda: ring.reap_columns().user_data
        ),
        "dispatch, per completion": lambda: fastest(dispatched, count, repeat, before=holding),
        "dispatch of a block, per completion": lambda: fastest(
            table.dispatch, count, repeat, before=block_reaped
        ),
        "hold and complete": lambda: fastest(held, count, repeat),
        "load_acquire": lambda: loop(lambda: load(words, 3)),
        "store_release": lambda: loop(lambda: store(words, 3, 7)),
        "load, cast memoryview": lambda: loop(lambda: view[3]),
        "load, ctypes array": lambda: loop(lambda: array[3]),
        "full_fence": lambda: loop(barriers.full_fence),
        "a turn of 1 NOP": lambda: turns(1),
        "a turn of 32 NOPs, per NOP": lambda: turns(32),
        "a turn of 256 NOPs, per NOP": lambda: turns(256),
        "a turn of 256 NOPs by column, per NOP": turns_by_column,
        "getppid, a system call of the os module": lambda: loop(os.getppid),
    }
    return makers[name]()


def call(name: str, count: int, repeat: int) -> Round:
    """Make one way to call io_uring_enter(fd, 0, 0, IORING_ENTER_GETEVENTS, NULL, 0)."""
    import ctypes

    from rawuring import syscalls

    fd, number = our_ring(4).fileno(), syscalls.SYSCALL_NUMBERS[syscalls.abi()][1]
    word, u32, pointer, size = ctypes.c_long, ctypes.c_uint, ctypes.c_void_p, ctypes.c_size_t
    signature = (word, word, u32, u32, u32, pointer, size)

    def function(signed: bool, use_errno: bool = True) -> Any:
        found = ctypes.CDLL(None, use_errno=use_errno)["syscall"]
        found.restype = word
        if signed:
            found.argtypes = signature
        return found

    plain, signed = function(False), function(True)
    deaf, signed_deaf = function(False, use_errno=False), function(True, use_errno=False)
    prototype = ctypes.CFUNCTYPE(word, *signature, use_errno=True)(("syscall", ctypes.CDLL(None)))
    longs = [word(value) for value in (number, fd, 0, 0, 1, 0, 0)]
    boxed = [word(number), ctypes.c_int(fd), u32(0), u32(0), u32(1), pointer(None), size(0)]
    calls: dict[str, Callable[[], object]] = {
        "syscalls.enter": lambda: syscalls.enter(fd, 0, 0, 1),
        "syscalls.io_uring_enter": lambda: syscalls.io_uring_enter(fd, 0, 0, 1),
        "ints, no signature, errno (syscalls.py on CPython)": lambda: plain(number, fd, 0, 0, 1, None, None),
        "signature, errno (syscalls.py on PyPy)": lambda: signed(number, fd, 0, 0, 1, None, 0),
        "no signature, errno lost": lambda: deaf(number, fd, 0, 0, 1, None, None),
        "signature, errno lost": lambda: signed_deaf(number, fd, 0, 0, 1, None, 0),
        "CFUNCTYPE prototype, errno": lambda: prototype(number, fd, 0, 0, 1, None, 0),
        "ready-made ctypes objects": lambda: plain(*boxed),
        "ready-made c_long": lambda: plain(*longs),
        "os.getppid, the floor": os.getppid,
    }
    assert calls[name]() is not None
    return fastest(repeated(calls[name], count), count, repeat)


def systems() -> dict[tuple[str, str], Callable[..., Round]]:
    """Name them as run.py does."""
    found: dict[tuple[str, str], Callable[..., Round]] = {}
    for name in STEPS:
        found["step", name] = lambda count, repeat, name=name: step(name, int(count), int(repeat))
    for name in CALLS:
        found["call", name] = lambda count, repeat, name=name: call(name, int(count), int(repeat))
    return found
