# SPDX-License-Identifier: MIT
"""Where the time goes: measure each step, and write it into docs/costs.md.

    python3 bench/costs.py [--quick] [--rounds N] [--write FILE]

Only what stands between the two marks of the page is replaced. The page quotes the steps by
name, and tests/test_bench.py sees to it that the names are those of the script.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import bench_ring
from harness import compare, machine

BEGIN, END = "<!-- costs: begin -->", "<!-- costs: end -->"

#: What the table shows, and what it says about it.
STEPS = {
    "token": "user_data from the counter of inflight.py",
    "hold": "`InFlight.hold()`: token, handler and memory into the table",
    "get_sqe": "`ring.get_sqe()`",
    "prep_nop alone": "`ops.prep_nop()`",
    "prep_poll_add alone": "`ops.prep_poll_add()`",
    "prep_read alone": "`ops.prep_read()`, as most operations",
    "get_sqe, a stored SQE": "64 ready bytes into a slot: `ring.get_sqe()[:] = sqe`",
    "push of 256": "`ring.push()` of a prepared block, per SQE",
    "Block.set, per value": "one field of a block, per SQE",
    "flush, per call": "publish: one store of the tail, one load of the head",
    "enter, nothing to do": "io_uring_enter through ctypes, of which the system call is about half",
    "enter, GETEVENTS": "the same, with a look for completions",
    "reap of 1, per CQE": "`ring.reap()` of one completion",
    "reap of 32, per CQE": "of 32, each",
    "reap of 256, per CQE": "of 256, each",
    "reap_columns of 256 and its user_data, per CQE": "`ring.reap_columns().user_data`, each",
    "dispatch, per completion": "`InFlight.dispatch()`: find, release, call the handler",
    "full_fence": "needed by SQPOLL only",
    "a turn of 1 NOP": "push, `submit_and_reap(1)`: everything, the kernel's work included",
    "a turn of 32 NOPs, per NOP": "the same with 32, each",
    "a turn of 256 NOPs, per NOP": "with 256, each",
    "a turn of 256 NOPs by column, per NOP": "with `reap_columns()`, each",
    "getppid, a system call of the os module": "for comparison: what any system call costs from Python",
}


def table(quick: bool, rounds: int) -> str:
    """Measure, and write the part of the page that is generated."""
    (systems,) = bench_ring.benches(quick).values()
    results = compare({name: systems[name] for name in ["an empty loop", *STEPS]}, rounds)
    loop = results["an empty loop"]["median_ns"]
    here = "; ".join(machine().values())
    lines = [
        f"Measured by `python3 bench/costs.py --write docs/costs.md`: {here}; medians of {rounds} rounds.",
        "",
        "| step | ns | what it is |", "|---|---:|---|",
    ]  # fmt: skip
    # Steps that were repeated in a Python loop contain one turn of it; those of whole batches do not.
    looped = ("token", "enter, nothing to do", "enter, GETEVENTS", "full_fence")
    for name, what in STEPS.items():
        ns = results[name]["median_ns"]
        if name.endswith("alone") or name.startswith("getppid") or name in looped:
            ns = max(0.1, ns - loop)
        lines.append(f"| {name} | {ns:.0f} | {what} |")
    return "\n".join(lines)


def replace(page: str, part: str) -> str:
    """Put the generated part between the marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"the page lacks the marks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{part}\n{END}{after}"


def main() -> None:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two short rounds, to see that it works")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--write", metavar="FILE", help="the page to be brought up to date")
    options = parser.parse_args()
    part = table(options.quick, 2 if options.quick else options.rounds)
    print(part)
    if options.write:
        path = Path(options.write)
        path.write_text(replace(path.read_text(encoding="utf-8"), part), encoding="utf-8")
    for thing in bench_ring.KEEP:
        close = getattr(thing, "close", None)
        if close is not None:
            close()


if __name__ == "__main__":
    main()
