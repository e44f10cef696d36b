# SPDX-License-Identifier: MIT
# pyright: basic
"""What a trace says: the lines of trace.py, summed up for the page of play.py.

What it is: summarise(), which reads a trace once and returns plain data: what looks wrong, latencies by
operation, sizes of batches, system calls, requests over time, a sample of them, and what was still in flight.
Mirrors: nothing.
Must not know: how the page shows it.
Invariant: the result has a bounded size, however long the trace is. What is sampled says so; what is counted
is counted in full.
Read next: play.py.

Unless said otherwise, any thread may call.
"""

from __future__ import annotations

import errno
import json
from array import array
from collections import Counter
from itertools import islice

from . import uapi
from .syscalls import Uncopyable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Callable

    Request = tuple[int, int, str, int, int, int]  # submitted, reaped, ring, user_data, opcode, res

BINS = 200  # of time
BLOCK = 10_000  # lines
SAMPLE = 300  # requests that are drawn
SHOWN_LEFT = 50  # requests in flight at the end that are listed
NO_FAILURE = (errno.ETIME, errno.ECANCELED)  # what a program asks for

OVERFLOW = (
    "Completions waited outside the ring, each fetched with one call more; a multishot request ends there. "
    "Reap more often, or give cq_entries."
)
IN_FLIGHT = (
    "No final CQE of theirs was reaped. The memory that they name was still the kernel's: close() cancels "
    "and drains those of a table; for others nobody waited."
)
ALONE = "Each paid for a system call of its own. Queue what is known, and submit it together."
HALF_EMPTY = "There was room for more requests in the call. If there was nothing more to do, all is well."
CUT_OFF = "The end of a trace is cut off when its process is killed."


class Trace(Uncopyable):
    """The sums of a trace, while it is read."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.lines = self.broken = 0
        self.rings: dict[str, dict[str, Any]] = {}
        self.open: dict[tuple[str, int], list[tuple[int, int]]] = {}
        self.latencies: dict[int, array[int]] = {}
        self.errors: dict[int, Counter[int]] = {}
        self.batches: Counter[int] = Counter()
        self.submitted, self.reaped, self.entered = array("q"), array("q"), array("q")
        self.begun = array("q")  # of the submitted ones, those that have a final CQE
        self.sample: list[Request] = []
        self.slowest: list[Request] = []
        self.more = self.at_once = self.offered = self.waits = self.half_empty = self.calls = 0
        self.failed_calls: Counter[int] = Counter()
        self._step, self._seen = 1, 0

    def read(self, lines: Iterable[str]) -> None:
        """Read lines; one that is cut off or damaged is counted and passed over."""
        waiting = iter(lines)
        while True:
            block = list(islice(waiting, BLOCK))
            if not block:
                return
            self.lines += len(block)
            try:
                events = json.loads(f"[{','.join(block)}]")  # half the time of one call for each line
            except ValueError:
                events = []
                for line in block:
                    try:
                        events.append(json.loads(line))
                    except ValueError:
                        self.broken += 1
            self._take(events)

    def _take(self, events: list[Any]) -> None:
        readers: dict[str, Callable[..., None]] = {"s": self._sqe, "c": self._cqe}
        readers["e"] = self._enter
        for event in events:
            try:
                kind = event[0]
                reader = readers.get(kind)
                if reader is not None:
                    reader(*event[1:])
                elif kind == "r":
                    _, _, name, sq, cq, flags = event
                    self.rings[name] = {"sq": sq, "cq": cq, "flags": flags, "overflow": 0}
                elif kind == "o":
                    self.rings[event[2]]["overflow"] += 1
                elif kind != "x":
                    self.broken += 1
            except (LookupError, TypeError):
                self.broken += 1

    def _sqe(self, time: int, ring: str, user_data: int, opcode: int, flags: int) -> None:
        self.submitted.append(time)
        if not flags & uapi.IOSQE_CQE_SKIP_SUCCESS:
            self.begun.append(time)
            self.open.setdefault((ring, user_data), []).append((time, opcode))

    def _cqe(self, time: int, ring: str, user_data: int, res: int, flags: int) -> None:
        waiting = self.open.get((ring, user_data))
        if flags & uapi.IORING_CQE_F_MORE or not waiting:
            self.more += 1
            return
        begin, opcode = waiting.pop(0)
        if not waiting:
            del self.open[ring, user_data]
        self.reaped.append(time)
        if opcode not in self.latencies:
            self.latencies[opcode], self.errors[opcode] = array("q"), Counter()
        self.latencies[opcode].append(time - begin)
        if res < 0 and -res not in NO_FAILURE:
            self.errors[opcode][-res] += 1
        self._keep((begin, time, ring, user_data, opcode, res))

    def _keep(self, request: Request) -> None:
        """Keep every n-th request, and the slowest."""
        self._seen += 1
        if self._seen % self._step == 0:
            self.sample.append(request)
            if len(self.sample) > 2 * SAMPLE:
                self.sample, self._step = self.sample[1::2], 2 * self._step
        slowest = self.slowest
        if len(slowest) < 2 * SAMPLE or request[1] - request[0] > self._bar:
            slowest.append(request)
            if len(slowest) > 4 * SAMPLE:
                slowest.sort(key=_latency, reverse=True)
                del slowest[SAMPLE:]
                self._bar = _latency(slowest[-1])

    _bar = 0

    def _enter(
        self, begin: int, end: int, ring: str, to_submit: int, wanted: int, flags: int, result: int,
        before: int, after: int,
    ) -> None:  # fmt: skip
        self.calls += 1
        self.entered.append(begin)
        if result < 0:
            self.failed_calls[-result] += 1
        elif result:
            self.batches[result] += 1
            if not wanted:
                self.at_once += max(0, min(after - before, result))
                self.offered += result
        if wanted:
            self.waits += 1
            self.half_empty += 2 * to_submit < self.rings[ring]["sq"]


def _latency(request: Request) -> int:
    return request[1] - request[0]


def summarise(lines: Iterable[str]) -> dict[str, Any]:
    """Read a trace and return what the page shows.

    Args: lines are those that trace.py wrote.
    Raises: ValueError if there is no line of a trace among them.
    """
    trace = Trace()
    trace.read(lines)
    times = [each for each in (trace.submitted, trace.reaped, trace.entered) if each]
    if not times:
        raise ValueError("this is no trace, or nothing was submitted: RAWURING_TRACE=run.jsonl python app.py")
    first = min(min(each) for each in times)
    last = max(max(each) for each in times)
    left = [
        {"op": _op(opcode), "user_data": str(user_data), "ring": ring, "since": time - first}
        for (ring, user_data), waiting in trace.open.items()
        for time, opcode in waiting
    ]
    requests = len(trace.submitted)
    return {
        "kind": "trace", "lines": trace.lines, "broken": trace.broken, "duration": last - first,
        "requests": requests, "done": len(trace.reaped), "more": trace.more, "calls": trace.calls,
        "at_once": trace.at_once, "offered": trace.offered, "rings": _rings(trace),
        "findings": _findings(trace, left), "operations": _operations(trace),
        "batches": sorted(trace.batches.items()), "bins": _bins(trace, first, last),
        "sample": _sample(trace, first), "left": left[:SHOWN_LEFT], "left_count": len(left),
    }  # fmt: skip


def _op(opcode: int) -> str:
    return uapi.name_of("IORING_OP_", opcode).replace("IORING_OP_", "")


def _rings(trace: Trace) -> list[dict[str, Any]]:
    found = []
    for name, ring in list(trace.rings.items())[:SHOWN_LEFT]:
        flags = uapi.names_of_flags("IORING_SETUP_", ring["flags"])
        shown = " ".join(flag.replace("IORING_SETUP_", "") for flag in flags) or "no flags"
        found.append({"name": name, "sq": ring["sq"], "cq": ring["cq"], "flags": shown})
    return found


def _findings(trace: Trace, left: list[dict[str, Any]]) -> list[dict[str, str]]:
    """List what looks wrong, the worst first; "look" for what may be meant so."""
    found = []

    def add(level: str, title: str, text: str = "") -> None:
        found.append({"level": level, "title": title, "text": text})

    overflows = sum(ring["overflow"] for ring in trace.rings.values())
    if overflows:
        add("bad", f"The CQ overflowed: seen {overflows} times", OVERFLOW)
    for code, count in trace.failed_calls.most_common():
        add("bad", f"io_uring_enter failed with {_errno(code)}: {count} times")
    if left:
        many = "1 request was" if len(left) == 1 else f"{len(left)} requests were"
        add("bad", f"{many} still in flight at the end", IN_FLIGHT)
    for opcode, codes in trace.errors.items():
        for code, count in codes.most_common(3):
            add("bad", f"{_op(opcode)} completed with -{_errno(code)}: {count} times")
    submits = sum(trace.batches.values())
    alone = trace.batches.get(1, 0)
    if submits >= 20 and 2 * alone >= submits:
        add("look", f"One request per enter: {alone} of {submits} calls that submitted", ALONE)
    if trace.waits >= 20 and 2 * trace.half_empty >= trace.waits:
        add("look", f"Waits with an SQ half empty: {trace.half_empty} of {trace.waits}", HALF_EMPTY)
    if trace.broken:
        add("look", f"{trace.broken} of {trace.lines} lines could not be read", CUT_OFF)
    return found


def _errno(code: int) -> str:
    return errno.errorcode.get(code, str(code))


def _operations(trace: Trace) -> list[dict[str, Any]]:
    found = []
    for opcode, latencies in trace.latencies.items():
        ordered = sorted(latencies)
        count = len(ordered)
        at = {f"p{p}": ordered[min(count - 1, count * p // 100)] for p in (50, 90, 99)}
        failed = sum(trace.errors[opcode].values())
        found.append({"name": _op(opcode), "count": count, "failed": failed, "max": ordered[-1], **at})
    return sorted(found, key=lambda each: -int(each["count"]))


def _bins(trace: Trace, first: int, last: int) -> dict[str, Any]:
    """Count by time what was submitted and reaped, the calls, and the most that was in flight."""
    width = max(1, -(-(last - first + 1) // BINS))
    counts = {}
    for name, times in (("submitted", trace.submitted), ("reaped", trace.reaped), ("calls", trace.entered)):
        row = [0] * BINS
        for time in times:
            row[(time - first) // width] += 1
        counts[name] = row
    in_flight, ended, at = [0] * BINS, sorted(trace.reaped), 0
    for number, time in enumerate(sorted(trace.begun), 1):
        while at < len(ended) and ended[at] < time:
            at += 1
        place = (time - first) // width
        in_flight[place] = max(in_flight[place], number - at)
    return {"width": width, **counts, "in_flight": in_flight}


def _sample(trace: Trace, first: int) -> list[dict[str, Any]]:
    slow = sorted(trace.slowest, key=_latency, reverse=True)[: SAMPLE // 3]
    others = trace.sample[:: max(1, len(trace.sample) // (SAMPLE - len(slow)))][: SAMPLE - len(slow)]
    return [
        {"from": begin - first, "to": end - first, "user_data": str(user_data), "op": _op(opcode), "res": res}
        for begin, end, _, user_data, opcode, res in sorted({*slow, *others})
    ]  # fmt: skip
