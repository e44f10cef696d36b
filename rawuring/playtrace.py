# SPDX-License-Identifier: MIT
# pyright: basic
"""The summary of a trace: the lines of trace.py, condensed for the page of play.py.

What it is: summarise(), which reads a trace once and returns plain data: suspicious findings, latencies by
operation and by stage, the ways in which requests completed, batch sizes, system calls, requests over time, a
sample of them, and the requests still in flight.
Mirrors: nothing.
Must not know: how the page shows it.
Invariant: the result has a bounded size, however long the trace is. Samples are marked as such; counts are
complete.
Read next: play.py.

Unless said otherwise, any thread may call.

A CQE is identified by its position among those of its ring. So the number of CQEs that a call leaves in the
ring tells which requests are done when it returns: the first call that sees a CQE gives the latest moment at
which its request can have completed, and user space cannot know more. A request was done at once, by the
kernel in our thread, if the call that submitted it did not wait and left its CQE in the ring.
"""

from __future__ import annotations

import errno
import json
from array import array
from collections import Counter, deque
from itertools import islice

from . import uapi
from .inflight import TOKEN_BASE
from .syscalls import Uncopyable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Callable

BINS = 200  # of time
BLOCK = 10_000  # lines
SAMPLE = 300  # requests that are drawn
SHOWN_LEFT = 50  # requests in flight at the end that are listed
HANDLED_LATER = 65_536  # the most requests that wait for their handlers' lines
SLOW_HANDLER_NS = 10_000_000
WORKER_STAYS_NS = 5_000_000_000  # an idle worker of io-wq
NO_FAILURE = (errno.ETIME, errno.ECANCELED)  # results that a program requested

OVERFLOW = (
    "Completions waited outside the ring, and fetching them took another call; a multishot request ends "
    "then. Reap more often, or set cq_entries."
)
IN_FLIGHT = (
    "Their final CQEs were not reaped, so their memory still belonged to the kernel. close() cancels and "
    "drains the requests of a table; it does not wait for others."
)
ALONE = "Each cost a separate system call. Queue all known requests, and submit them together."
HALF_EMPTY = "There was room for more requests in the call. If there was nothing more to do, all is well."
SLOW_HANDLER = (
    "Meanwhile the thread neither submitted nor reaped anything. Move long work to a separate thread."
)
CUT_OFF = "The end of a trace is missing if its process was killed."


# The ways in which a request completed.
AT_ONCE, IN_CALL, NO_WORKER = "at once", "in the call that submitted it", "later, without a worker"
WORKER, LATER = "by a worker (IOSQE_ASYNC)", "later"
STAGES = (
    "queued, until the call that submits it", "in the kernel, at most", "its CQE waits in the ring, at least",
    "reaped, until its handler begins", "in its handler",
)  # fmt: skip


class Request:
    """One request, and the facts known about it; an unknown time is 0."""

    __slots__ = (
        "ended", "flags", "handled", "opcode", "posted", "reaped", "res", "ring", "seen", "submitted",
        "taken", "user_data", "waited", "way",
    )  # fmt: skip

    def __init__(
        self, ring: str, user_data: int, opcode: int, flags: int, taken: int, submitted: int
    ) -> None:
        """Start with the submission."""
        self.ring, self.user_data, self.opcode, self.flags = ring, user_data, opcode, flags
        self.taken, self.submitted = taken, submitted
        self.seen = self.reaped = self.handled = self.ended = self.res = 0
        #: The number of CQEs posted to its ring when the call that submitted it returned, and whether that
        #: call waited.
        self.posted, self.waited, self.way = -1, False, LATER


class Known:
    """The facts known about a ring."""

    __slots__ = ("cq", "flags", "marks", "overflow", "reaped", "sq", "unsent")

    def __init__(self, sq: int, cq: int, flags: int) -> None:
        """Start with its sizes."""
        self.sq, self.cq, self.flags, self.overflow, self.reaped = sq, cq, flags, 0, 0
        #: Published but not yet consumed by a call.
        self.unsent: deque[Request] = deque()
        #: (time, number of CQEs posted by then) of each call.
        self.marks: deque[tuple[int, int]] = deque()


class Trace(Uncopyable):
    """The sums of a trace while it is read."""

    def __init__(self) -> None:
        """Start empty."""
        self.lines = self.broken = 0
        self.rings: dict[str, Known] = {}
        self.open: dict[tuple[str, int], list[Request]] = {}
        self.latencies: dict[int, array[int]] = {}
        self.ways: dict[int, Counter[str]] = {}
        self.errors: dict[int, Counter[int]] = {}
        self.batches: Counter[int] = Counter()
        self.submitted, self.reaped, self.entered = array("q"), array("q"), array("q")
        self.begun = array("q")  # of the submitted ones, those that have a final CQE
        self.stages = tuple(array("q") for _ in STAGES)
        self.sample: list[Request] = []
        self.slowest: list[Request] = []
        self.slowest_handler: Request | None = None
        self.more = self.at_once = self.offered = self.waits = self.half_empty = self.calls = 0
        self.workers = -1  # the most at a time; -1 if they were not counted
        self.failed_calls: Counter[int] = Counter()
        self._step, self._seen = 1, 0
        self._unhandled: dict[tuple[str, int], Request] = {}
        self._undecided: dict[str, list[Request]] = {}  # by the PID of their process

    def read(self, lines: Iterable[str]) -> None:
        """Read lines; count and skip those that are truncated or damaged."""
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
        readers: dict[str, Callable[..., None]] = {
            "s": self._sqe, "c": self._cqe, "e": self._enter, "h": self._handler, "w": self._look,
        }  # fmt: skip
        for event in events:
            try:
                kind = event[0]
                reader = readers.get(kind)
                if reader is not None:
                    reader(*event[1:])
                elif kind == "r":
                    _, _, name, sq, cq, flags = event
                    self.rings[name] = Known(sq | 0, cq | 0, flags | 0)
                elif kind == "o":
                    self.rings[event[2]].overflow += 1
                elif kind != "x":
                    self.broken += 1
            except (LookupError, OverflowError, TypeError, ValueError):
                self.broken += 1

    def _sqe(self, time: int, ring: str, user_data: int, opcode: int, flags: int, taken: int = 0) -> None:
        # "| 0" rejects anything but integers, so that arithmetic on the stored values works.
        request = Request(ring, user_data | 0, opcode | 0, flags | 0, taken | 0, time | 0)
        self.submitted.append(time)
        if not flags & uapi.IOSQE_CQE_SKIP_SUCCESS:
            self.begun.append(time)
            self.open.setdefault((ring, user_data), []).append(request)
        if ring in self.rings:
            self.rings[ring].unsent.append(request)

    def _cqe(self, time: int, ring: str, user_data: int, res: int, flags: int) -> None:
        known = self.rings.get(ring)
        place, seen = -1, time
        if known is not None:
            place, marks = known.reaped, known.marks
            known.reaped += 1
            while marks and marks[0][1] <= place:
                marks.popleft()
            if marks:
                seen = marks[0][0]
        waiting = self.open.get((ring, user_data))
        if flags & uapi.IORING_CQE_F_MORE or not waiting:
            self.more += 1
            return
        request = waiting.pop(0)
        if not waiting:
            del self.open[ring, user_data]
        opcode = request.opcode
        request.seen, request.reaped, request.res = max(seen, request.submitted), time, res
        self.reaped.append(time)
        if opcode not in self.latencies:
            self.latencies[opcode], self.errors[opcode] = array("q"), Counter()
            self.ways[opcode] = Counter()
        self.latencies[opcode].append(time - request.submitted)
        if res < 0 and -res not in NO_FAILURE:
            self.errors[opcode][-res] += 1
        if request.flags & uapi.IOSQE_ASYNC:
            request.way = WORKER
        elif 0 <= place < request.posted:
            request.way = IN_CALL if request.waited else AT_ONCE
        else:
            pid = str(ring).partition(".")[0]
            undecided = self._undecided.setdefault(pid, [])
            undecided.append(request)
            if len(undecided) > HANDLED_LATER:  # the workers are not counted
                self._decide(pid, time, -1)
        if request.way != LATER:
            self.ways[opcode][request.way] += 1
        queued, in_kernel, waiting_cqe = self.stages[:3]
        if request.taken:
            queued.append(request.submitted - request.taken)
        in_kernel.append(request.seen - request.submitted)
        waiting_cqe.append(time - request.seen)
        if user_data >> 56 == 1:  # a token of a table, which may have a handler
            self._unhandled[ring, user_data] = request
            if len(self._unhandled) > HANDLED_LATER:
                self._unhandled.clear()
        self._keep(request)

    def _handler(self, begin: int, end: int, ring: str, user_data: int) -> None:
        request = self._unhandled.pop((ring, user_data), None)
        if request is None:  # not the last CQE of a multishot request
            return
        self.stages[3].append(begin - request.reaped)
        self.stages[4].append(end - begin)
        request.handled, request.ended = begin, end
        slowest = self.slowest_handler
        if slowest is None or end - begin > slowest.ended - slowest.handled:
            self.slowest_handler = request

    def _look(self, time: int, pid: int, workers: int) -> None:
        self.workers = max(self.workers, workers)
        self._decide(str(pid), time, workers)

    def _decide(self, pid: str, time: int, workers: int) -> None:
        """Decide the way of requests that completed later, from their process's number of workers."""
        for request in self._undecided.pop(pid, ()):
            if not workers and time - request.submitted < WORKER_STAYS_NS:
                request.way = NO_WORKER
            self.ways[request.opcode][request.way] += 1

    def _keep(self, request: Request) -> None:
        """Keep every n-th request, and the slowest."""
        self._seen += 1
        if self._seen % self._step == 0:
            self.sample.append(request)
            if len(self.sample) > 2 * SAMPLE:
                self.sample, self._step = self.sample[1::2], 2 * self._step
        slowest = self.slowest
        if len(slowest) < 2 * SAMPLE or _latency(request) > self._bar:
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
        known = self.rings[ring]
        for time, posted in ((begin, known.reaped + before), (end, known.reaped + after)):
            if posted > (known.marks[-1][1] if known.marks else known.reaped):
                known.marks.append((time, posted))
        if result > 0 and not known.flags & uapi.IORING_SETUP_SQPOLL:
            for _ in range(min(result, len(known.unsent))):
                request = known.unsent.popleft()
                request.posted, request.waited = known.reaped + after, bool(wanted)
        if result < 0:
            self.failed_calls[-result] += 1
        elif result:
            self.batches[result] += 1
            if not wanted:
                self.at_once += max(0, min(after - before, result))
                self.offered += result
        if wanted:
            self.waits += 1
            self.half_empty += 2 * to_submit < known.sq


def _latency(request: Request) -> int:
    return request.reaped - request.submitted


def summarise(lines: Iterable[str]) -> dict[str, Any]:
    """Read a trace and return the data of the page.

    Args: lines as trace.py wrote them.
    Raises: ValueError if none of them is a line of a trace.
    """
    trace = Trace()
    trace.read(lines)
    for pid in list(trace._undecided):
        trace._decide(pid, 0, -1)
    times = [each for each in (trace.submitted, trace.reaped, trace.entered) if each]
    if not times:
        raise ValueError("this is no trace, or nothing was submitted: RAWURING_TRACE=run.jsonl python app.py")
    first = min(min(each) for each in times)
    last = max(max(each) for each in times)
    left = [
        {"op": _op(each.opcode), "user_data": _whose(each.user_data), "ring": each.ring,
         "since": each.submitted - first}
        for waiting in trace.open.values()
        for each in waiting
    ]
    requests = len(trace.submitted)
    return {
        "kind": "trace", "lines": trace.lines, "broken": trace.broken, "duration": last - first,
        "requests": requests, "done": len(trace.reaped), "more": trace.more, "calls": trace.calls,
        "at_once": trace.at_once, "offered": trace.offered, "rings": _rings(trace),
        "findings": _findings(trace, left), "operations": _operations(trace),
        "batches": sorted(trace.batches.items()), "bins": _bins(trace, first, last),
        "stages": _stages(trace), "workers": trace.workers, "sample": _sample(trace, first),
        "left": left[:SHOWN_LEFT], "left_count": len(left),
    }  # fmt: skip


def _whose(user_data: int) -> str:
    """Shorten the tokens of tables (inflight.py), which all begin with the same digits."""
    return f"#{user_data - TOKEN_BASE}" if user_data >> 54 == TOKEN_BASE >> 54 else str(user_data)


def _op(opcode: int) -> str:
    return uapi.name_of("IORING_OP_", opcode).replace("IORING_OP_", "")


def _rings(trace: Trace) -> list[dict[str, Any]]:
    found = []
    for name, ring in list(trace.rings.items())[:SHOWN_LEFT]:
        flags = uapi.names_of_flags("IORING_SETUP_", ring.flags)
        shown = " ".join(flag.replace("IORING_SETUP_", "") for flag in flags) or "no flags"
        found.append({"name": name, "sq": ring.sq, "cq": ring.cq, "flags": shown})
    return found


def _findings(trace: Trace, left: list[dict[str, Any]]) -> list[dict[str, str]]:
    """List suspicious findings, the worst first; the level "look" marks those that may be intended."""
    found = []

    def add(level: str, title: str, text: str = "") -> None:
        found.append({"level": level, "title": title, "text": text})

    overflows = sum(ring.overflow for ring in trace.rings.values())
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
    slowest = trace.slowest_handler
    if slowest is not None and slowest.ended - slowest.handled >= SLOW_HANDLER_NS:
        took = (slowest.ended - slowest.handled) / 1e6
        what = f"{_op(slowest.opcode)} {_whose(slowest.user_data)}"
        add("look", f"A handler ran for {took:.0f} ms: {what}", SLOW_HANDLER)
    if trace.broken:
        add("look", f"{trace.broken} of {trace.lines} lines could not be read", CUT_OFF)
    return found


def _errno(code: int) -> str:
    return errno.errorcode.get(code, str(code))


def _operations(trace: Trace) -> list[dict[str, Any]]:
    found = []
    for opcode, latencies in trace.latencies.items():
        failed = sum(trace.errors[opcode].values())
        ways = trace.ways[opcode].most_common()
        found.append({"name": _op(opcode), "failed": failed, "ways": ways, **_spread(latencies)})
    return sorted(found, key=lambda each: -int(each["count"]))


def _spread(times: array[int]) -> dict[str, int]:
    ordered = sorted(times)
    count = len(ordered)
    at = {f"p{p}": ordered[min(count - 1, count * p // 100)] for p in (50, 90, 99)}
    return {"count": count, "max": ordered[-1], **at}


def _stages(trace: Trace) -> list[dict[str, Any]]:
    return [{"name": name, **_spread(times)} for name, times in zip(STAGES, trace.stages) if times]


def _bins(trace: Trace, first: int, last: int) -> dict[str, Any]:
    """Count submitted and reaped requests, calls, and the maximum in flight, by time."""
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
    kept = sorted({id(each): each for each in (*slow, *others)}.values(), key=lambda each: each.submitted)
    moments = ("taken", "submitted", "seen", "reaped", "handled", "ended")
    return [
        {
            "op": _op(each.opcode), "user_data": _whose(each.user_data), "res": each.res, "way": each.way,
            "at": [time - first if time else None for time in (getattr(each, name) for name in moments)],
        }
        for each in kept
    ]  # fmt: skip
