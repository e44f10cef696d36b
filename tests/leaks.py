# SPDX-License-Identifier: MIT
"""The resources of the process, and the detection of leaks.

What it is: the one place where tests inspect descriptors, threads, children and mappings.
Must not know: any test.
Invariant: a difference is reported only if it persists. The state is that of the whole process, and may still
change: io-wq workers end by themselves after five seconds, a joined thread stays in /proc until the kernel
has ended it, and the collector closes objects that an earlier test left unreachable.
Read next: conftest.py.
"""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

#: How long a difference may stay before it counts. A leak waits that long, but those of tools/mutants.py.
PATIENCE_S = float(os.environ.get("RAWURING_TEST_PATIENCE_S", "60"))


def descriptors() -> dict[int, str]:
    """Return descriptor -> its target, without the one used for the listing."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[int(fd)] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:  # the listing's own descriptor
            continue
    return found


def is_ring(fd: int | str) -> bool:
    """Tell whether a number is a ring's descriptor."""
    try:
        return "io_uring" in os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return False


def threads() -> list[int]:
    """Return the threads of the process but io-wq workers, which are the kernel's and idle for seconds."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        try:
            if not (task / "comm").read_text().startswith("iou-wrk"):
                found.append(int(task.name))
        except OSError:  # it has ended meanwhile
            continue
    return sorted(found)


def footprint() -> dict[str, int]:
    """Count the resources of the process, and the objects that the collector has yet to free."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    return {
        "descriptors": len(descriptors()),
        "threads": len(threads()),
        "children": len(children.read_text().split()) if children.exists() else -1,
        "mappings": len(maps),
        "ring mappings": sum("io_uring" in line for line in maps),
    }


def settles(measure: Callable[[], Any], good: Callable[[Any], bool]) -> Any:
    """Measure until the result is good, or its time is up.

    Args: measure takes no arguments; good tells whether a result needs no further look.
    Returns: the last result.
    """
    deadline = time.monotonic() + PATIENCE_S
    pause_s = 0.01
    while True:
        result = measure()
        if good(result) or time.monotonic() >= deadline:
            return result
        gc.collect()
        time.sleep(pause_s)
        pause_s = min(1.5 * pause_s, 0.25)  # a collection takes longer than the first pause


@contextlib.contextmanager
def nothing_left(*names: str) -> Iterator[None]:
    """Require that a block leaves the process as it was.

    Args: names are those of footprint(); without any, all but the mappings, which are the heap's, too.
    """
    names = names or ("descriptors", "threads", "children", "ring mappings")

    def measure() -> dict[str, int]:
        found = footprint()
        return {name: found[name] for name in names}

    gc.collect()
    before, files = measure(), descriptors()
    yield
    # A decrease means that the kernel ended a leftover of an earlier test. Collections take PyPy long: the
    # next one is left to settles(), for without it there can only be more.
    after = settles(measure, lambda now: all(now[name] <= before[name] for name in names))
    more = {name: (before[name], after[name]) for name in names if after[name] > before[name]}
    new = {fd: file for fd, file in descriptors().items() if files.get(fd) != file}
    assert not more, f"more than before (before, after): {more}; descriptors that differ: {new}"
