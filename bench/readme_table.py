# SPDX-License-Identifier: MIT
"""The table of docs/speed.md, and some of its rows for the README, made from a stored run of run.py.

    python3 bench/readme_table.py [--write README.md]        some rows there, all in its docs/speed.md
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- speed: begin -->", "<!-- speed: end -->"
C = "C with liburing"

IN_FLIGHT = "InFlight, batch of {}, from start to handler, per request"
MONITOR = "monitor, {} of {} ready, a wait of at most 1 s and a handler each, per event"

#: The rows: their name, the table of run.py, our system, and the systems to compare it with.
ROWS: list[tuple[str, str, str, list[str]]] = [
    ("NOP, 256 at a time, prepared block", "NOP, batch of 256, per operation", "rawuring, block",
     [C, "liburing (Python)"]),
    ("the same, one by one", "NOP, batch of 256, per operation", "rawuring, one by one",
     [C, "liburing (Python)"]),
    ("poll, 256 at a time, prepared block", "poll, ready, batch of 256, per operation", "rawuring, block",
     [C, "uring-api", "liburing (Python)"]),
    ("the same, one by one", "poll, ready, batch of 256, per operation", "rawuring, one by one",
     [C, "uring-api", "liburing (Python)"]),
    ("poll, 32 at a time, prepared block", "poll, ready, batch of 32, per operation", "rawuring, block",
     [C, "uring-api", "liburing (Python)"]),
    ("poll, one at a time", "poll, ready, batch of 1, per operation", "rawuring, one by one",
     [C, "uring-api", "liburing (Python)"]),
    ("InFlight, 256 at a time, start() to handler", IN_FLIGHT.format(256), "rawuring, in flight, start",
     [C, "uring-api, handlers", "liburing (Python), handlers"]),
    ("InFlight, 256 at a time, hold() to handler", IN_FLIGHT.format(256), "rawuring, in flight",
     [C, "uring-api, handlers", "liburing (Python), handlers"]),
    ("InFlight, 256 at a time, start_block() to handler", IN_FLIGHT.format(256), "rawuring, in flight, block",
     [C, "uring-api, handlers", "liburing (Python), handlers"]),
    ("InFlight, one request, start() to handler", IN_FLIGHT.format(1), "rawuring, in flight, start, one call",
     [C, "uring-api, handlers", "liburing (Python), handlers"]),
    ("fdmon, 1 of 1 ready", MONITOR.format(1, 1), "rawuring, fdmon", ["EpollSelector", f"{C}, monitor"]),
    ("fdmon, 100 of 100 ready", MONITOR.format(100, 100), "rawuring, fdmon",
     ["EpollSelector", f"{C}, monitor"]),
    ("fdmon, 10 of 10,000 ready", MONITOR.format(10, 10000), "rawuring, fdmon",
     ["EpollSelector", f"{C}, monitor"]),
    ("select(), 1,000 of 1,000 ready", "select(), 1000 of 1000 ready, per event", "rawuring",
     ["EpollSelector", f"{C}, ready"]),
    ("select(), 100 of 100 ready", "select(), 100 of 100 ready, per event", "rawuring",
     ["EpollSelector", f"{C}, ready"]),
    ("select(), 10 of 100 ready", "select(), 10 of 100 ready, per event", "rawuring",
     ["EpollSelector", f"{C}, ready"]),
    ("select(), 1 of 1,000 ready", "select(), 1 of 1000 ready, per event", "rawuring",
     ["EpollSelector", f"{C}, ready"]),
    ("interest changes, 100 at a time", "interest changes, 100 at a time, per change", "rawuring",
     ["EpollSelector", "select.epoll alone", f"{C}, change"]),
    ("interest changes, 1 at a time", "interest changes, 1 at a time, per change", "rawuring",
     ["EpollSelector", "select.epoll alone", f"{C}, change"]),
    ("wait of 200 us, too long by", "wait of 200 us, overshoot", "rawuring, selector",
     ["EpollSelector", f"{C}, wait"]),
    ("asyncio.sleep of 200 us, too long by", "asyncio.sleep of 200 us, overshoot", "asyncio on rawuring",
     ["asyncio", "uvloop"]),
    ("4 KiB O_DIRECT reads, 32 in flight", "random 4 KiB reads, O_DIRECT, depth 32, per read",
     "rawuring, block", [C, "uring-api", "os.pread in a thread pool"]),
    ("4 KiB reads, page cache, 32 in flight", "random 4 KiB reads, page cache, depth 32, per read",
     "rawuring, block", [C, "uring-api", "os.pread", "os.pread in a thread pool", "aiofiles"]),
    ("TCP echo, 100 connections, no asyncio",
     "TCP echo, 100 connections, server and client on one CPU, per message", "rawuring, multishot",
     [C, "EpollSelector by hand"]),
    ("the same, asyncio protocol", "TCP echo, 100 connections, server and client on one CPU, per message",
     "asyncio on rawuring, protocol", ["asyncio, protocol", "uvloop, protocol"]),
]  # fmt: skip

#: The rows in the README: wins and losses.
IN_README = (
    "poll, 256 at a time, prepared block", "poll, one at a time", "select(), 100 of 100 ready",
    "select(), 1 of 1,000 ready", "interest changes, 1 at a time", "asyncio.sleep of 200 us, too long by",
    "4 KiB O_DIRECT reads, 32 in flight", "4 KiB reads, page cache, 32 in flight",
    "TCP echo, 100 connections, no asyncio", "the same, asyncio protocol",
)  # fmt: skip


def stored() -> dict[str, Any]:
    """Read the newest stored run."""
    found = sorted((HERE / "results").glob("*-run.json"))
    report: dict[str, Any] = json.loads(found[-1].read_text())
    return report


def number(ns: float) -> str:
    """Round to three digits: the rest is noise."""
    digits = len(str(abs(int(ns)))) - 3
    return f"{round(ns, -digits if digits > 0 else 0):,.0f}"


def table(report: dict[str, Any], only: tuple[str, ...] = ()) -> str:
    """Write the table, or some of its rows, in nanoseconds."""
    here = report["machine"]
    lines = [
        f"{here['python']}, Linux {here['kernel']}, {here['cpu']}, {here['date']}; medians of "
        f"{report['rounds']} interleaved rounds, nanoseconds per operation.",
        "",
        "| workload | rawuring | others (and our time as a part of theirs) |",
        "|---|---:|---|",
    ]
    for name, title, ours, others in ROWS:
        rows = report["results"].get(title, {})
        if ours not in rows or (only and name not in only):
            continue
        mine = rows[ours]["median_ns"]
        beside = []
        for other in others:
            if other in rows:
                theirs = rows[other]["median_ns"]
                ratio = f" ({mine / theirs:.2f})" if theirs > 0 else " (too early)"
                short = other.partition(", ready")[0].partition(", change")[0]
                short = short.partition(", monitor")[0].partition(", handlers")[0]
                beside.append(f"{short} {number(theirs)}{ratio}")
        lines.append(f"| {name} | {number(mine)} | {', '.join(beside)} |")
    return "\n".join(lines)


def between(page: str, begin: str, end: str, part: str) -> str:
    """Replace the text between two marks of a page."""
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"the page lacks the marks {begin} and {end}")
    return f"{before}{begin}\n{part}\n{end}{after}"


def write_between(path: str, begin: str, end: str, part: str) -> None:
    """Update the text between two marks in a page's file."""
    page = Path(path)
    page.write_text(between(page.read_text(encoding="utf-8"), begin, end, part), encoding="utf-8")


def main() -> None:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", metavar="FILE", help="the README, in a folder that has docs/speed.md")
    options = parser.parse_args()
    part = table(stored())
    print(part)
    if options.write:
        write_between(options.write, BEGIN, END, table(stored(), IN_README))
        write_between(str(Path(options.write).parent / "docs" / "speed.md"), BEGIN, END, part)


if __name__ == "__main__":
    main()
