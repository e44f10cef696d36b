# SPDX-License-Identifier: MIT
"""The common parts of the systems of run.py: their names, rounds, and answers on standard output."""

from __future__ import annotations

import ctypes
import importlib
import os
import resource
import signal
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, os.environ.get("RAWURING_ROOT") or str(Path(__file__).resolve().parent.parent))

Round = Callable[[], float]
clock = time.perf_counter_ns
SYSTEMS: dict[tuple[str, str], Callable[..., Round]] = {}
KEEP: list[object] = []


class Missing(Exception):
    """A system is unavailable here; the message says why."""


def system(workload: str, name: str) -> Callable[[Callable[..., Round]], Callable[..., Round]]:
    def note(make: Callable[..., Round]) -> Callable[..., Round]:
        SYSTEMS[workload, name] = make
        return make

    return note


def fastest(
    operation: Callable[[], object], count: int, repeat: int,
    before: Callable[[], object] | None = None, after: Callable[[], object] | None = None,
) -> Round:  # fmt: skip
    """Make a round: the fastest of some repetitions, divided by the number of operations in each.

    before and after set up and clean up each repetition and are not timed.
    """

    def one_round() -> float:
        best = 1 << 62
        for _ in range(repeat):
            if before is not None:
                before()
            start = clock()
            operation()
            best = min(best, clock() - start)
            if after is not None:
                after()
        return best / count

    return one_round


def median_of(operation: Callable[[], object], repeat: int) -> Round:
    def one_round() -> float:
        took = []
        for _ in range(repeat):
            start = clock()
            operation()
            took.append(clock() - start)
        return statistics.median(took)

    return one_round


def raise_nofile() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def compiled(name: str) -> Any:
    """Import a peer."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Missing(f"{name} cannot be imported: {error}") from None


def our_ring(entries: int = 512, wish: int | None = None) -> Any:
    from rawuring import Ring, rings

    ring = Ring(entries, wish=rings.RECOMMENDED if wish is None else wish)
    KEEP.append(ring)
    return ring


def our_monitor() -> Any:
    from rawuring import fdmon

    return fdmon.IoUringFDMon()


def serve_rounds(workload: str, name: str, arguments: list[str]) -> int:
    try:
        one_round = SYSTEMS[workload, name](*arguments)
    except KeyError:
        print(f"no system {name!r} in workload {workload!r}")
        return 2
    except (Missing, ImportError, AttributeError) as error:
        print(f"missing: {error}")
        return 3
    print("ready", flush=True)
    for line in sys.stdin:
        # A system call that nothing else makes: two of them delimit one round in a trace.
        if line.startswith("count"):
            os.getpriority(os.PRIO_PROCESS, 0)
        result = one_round()
        if line.startswith("count"):
            os.getpriority(os.PRIO_PROCESS, 0)
        print(f"{result:.1f}", flush=True)
    return 0


def end_with_parent() -> None:
    """Let the kernel end this process when run.py ends: a server would wait forever."""
    ctypes.CDLL(None).prctl(1, int(signal.SIGTERM))  # PR_SET_PDEATHSIG
