# SPDX-License-Identifier: MIT
"""NOPs in batches of 1, 32 and 256: C with liburing beside pure Python.

    python3 bench/bench_nop.py [--quick] [--json FILE]

The C side is compiled with liburing, or where that is missing with bare system calls; without a compiler it
is left out. "one by one" is get_sqe, prep_nop, submit_and_wait, reap; "block" pushes a block of SQEs that was
prepared once; "in flight" also takes a token per request and dispatches a handler for each completion.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import System, main, timed

from rawuring import InFlight, Ring, ops, rings

SIZES = (1, 32, 256)


def c_program(folder: str) -> tuple[str, str] | None:
    """Compile nop.c, or nop_raw.c without liburing; return a name and the program."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        print("C: left out, no compiler")
        return None
    for name, source, libraries in (
        ("C with liburing", "nop.c", ["-luring"]),
        ("C with system calls", "nop_raw.c", []),
    ):
        binary = str(Path(folder, "nop"))
        command = [compiler, "-O2", str(Path(__file__).with_name(source)), "-o", binary, *libraries]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return name, binary
        print(f"{name}: left out, a header or library is missing")
    return None


def prepared(size: int) -> bytes:
    """Prepare a block of NOPs."""
    sqes = bytearray(64 * size)
    for i in range(size):
        ops.prep_nop(memoryview(sqes)[64 * i : 64 * i + 64], i)
    return bytes(sqes)


def one_by_one(ring: Ring, size: int) -> None:
    for i in range(size):
        ops.prep_nop(ring.get_sqe(), i)
    ring.submit_and_wait(size)
    assert len(ring.reap()) == size


def block(ring: Ring, sqes: bytes, size: int) -> None:
    ring.push(sqes)
    ring.submit_and_wait(size)
    assert len(ring.reap()) == size


def in_flight(table: InFlight, size: int) -> None:
    ring = table.ring
    for _ in range(size):
        ops.prep_nop(ring.get_sqe(), table.hold(handler))
    ring.submit_and_wait(size)
    assert table.dispatch(ring.reap()) == size


def handler(res: int, flags: int) -> None:
    return None


def benches(quick: bool) -> dict[str, dict[str, System]]:
    folder = tempfile.TemporaryDirectory()
    KEEP.append(folder)
    program = c_program(folder.name)
    repeat = 20 if quick else 200
    found: dict[str, dict[str, System]] = {}
    for size in SIZES:
        systems: dict[str, System] = {}
        if program is not None:
            name, binary = program
            command = [binary, str(size), str(repeat)]
            systems[name] = lambda command=command: float(subprocess.check_output(command))
        for name, wish in (("plain ring", 0), ("recommended", rings.RECOMMENDED)):
            ring = Ring(256, wish=wish)
            KEEP.append(ring)
            table = InFlight(ring)
            KEEP.append(table)
            for way, call in (
                ("one by one", partial(one_by_one, ring, size)),
                ("block", partial(block, ring, prepared(size), size)),
                ("in flight", partial(in_flight, table, size)),
            ):
                systems[f"{way}, {name}"] = timed(call, size, repeat)
        found[f"NOP, batch of {size}, per operation"] = systems
    return found


KEEP: list[object] = []

if __name__ == "__main__":
    main(__doc__.splitlines()[0], benches)
    for thing in KEEP:
        if isinstance(thing, Ring):
            thing.close()
        elif isinstance(thing, tempfile.TemporaryDirectory):
            thing.cleanup()
