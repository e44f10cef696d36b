# SPDX-License-Identifier: MIT
# pyright: basic
"""Record what rings do: RAWURING_TRACE=run.jsonl.

What it is: subclasses of Ring, SubmissionQueue and InFlight that write a line for each SQE, each CQE, each
io_uring_enter and each handler, with its time. ``python -m rawuring.play run.jsonl > run.html`` makes a page.
Mirrors: strace(1) -f -ttt -o in purpose.
Must not know: the meaning of an operation, or the reader of the lines (playtrace.py).
Invariant: without the variable nothing of this is imported. It is read when a Ring is created, never per
request, so it costs a request nothing when it is off; when it is on, 10 to 30 us (DESIGN.md). A program
behaves the same when the file cannot be written: it gets one warning, and is not traced.
Read next: command.py.

Unless said otherwise, only the thread that owns a ring may use it.

A line is a JSON array. Times are nanoseconds of time.monotonic_ns(), RING is "PID.NUMBER".

    ["r", TIME, RING, sq_entries, cq_entries, setup flags]      a ring was created
    ["s", TIME, RING, user_data, opcode, sqe flags, TAKEN]      an SQE is about to be submitted; its slot was
                                                                taken at TAKEN
    ["e", TIME, TIME, RING, to_submit, min_complete, flags, result, before, after]      io_uring_enter, with
                                                                the CQEs in the ring before and after it
    ["c", TIME, RING, user_data, res, flags]                    a CQE was copied out
    ["h", TIME, TIME, RING, user_data]                          a handler of a table (inflight.py) ran
    ["o", TIME, RING]                                           CQ_OVERFLOW was seen
    ["w", TIME, PID, NUMBER]                                    the number of io-wq workers of the process:
    once
                                                                a second, and when a ring begins and ends
    ["x", TIME, RING]                                           the ring was closed

Lines are written in blocks, when a ring is closed, and at exit of the interpreter; a process that is killed
loses its last block. Rings that a child of fork() inherited are its parent's; rings that the child creates
are traced into the same file. Code that bypasses Ring, such as ring.cq.fetch(), is not traced, nor is the
handler of a block: one call of it handles many requests. What the kernel does with a request cannot be seen
either. But a worker stays for five seconds after its last request: if none is seen, there was none. (Before
5.12 workers are not threads of the process, and are not counted.)
"""

from __future__ import annotations

import atexit
import os
from _thread import allocate_lock
from collections import deque
from itertools import count
from time import monotonic_ns

from . import uapi
from .handle import watched_class
from .inflight import InFlight, Request
from .queues import RewindSubmissionQueue, SubmissionQueue
from .rings import Ring
from .syscalls import Uncopyable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

BLOCK = 4096  # lines
LOOK_NS = 1_000_000_000  # between two counts of the workers: less than the five seconds that they stay


class Log(Uncopyable):
    """A file of lines, for all rings of this process."""

    def __init__(self, path: str) -> None:
        """Open the file for appending.

        Raises: OSError.
        """
        self.path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._numbers = count(1)
        #: The time of the last count of the workers.
        self.looked = 0
        self.begin()

    def begin(self) -> None:
        """Begin without lines; a forked child does, because its parent writes those that it has."""
        self._lines: deque[str] = deque()
        self._writing = allocate_lock()

    def close(self) -> None:
        """Close the file; lines that have not been written are lost."""
        os.close(self._fd)

    def name(self) -> str:
        """Return a name for another ring.

        Threads: any.
        """
        return f'"{os.getpid()}.{next(self._numbers)}"'

    def add(self, line: str) -> None:
        """Add a line; it is written with its block.

        Threads: any.
        """
        self._lines.append(line)
        if len(self._lines) >= BLOCK:
            self.write()

    def look(self, now: int) -> None:
        """Count the workers of io-wq.

        Args: now is the time.
        Threads: any.
        """
        self.looked = now
        workers = 0
        try:
            for task in os.listdir("/proc/self/task"):
                try:
                    with open(f"/proc/self/task/{task}/comm", "rb") as comm:
                        workers += comm.read().startswith(b"iou-wrk")
                except (FileNotFoundError, ProcessLookupError):
                    continue  # it has ended in between
        except OSError:
            return  # no /proc, or no descriptor left: the number is unknown
        self.add(f'["w",{now},{os.getpid()},{workers}]')

    def write(self) -> None:
        """Write the lines added so far; if that fails, drop them.

        Threads: any; none waits, because the one that is writing writes the lines of the others, too.
        """
        lines, writing = self._lines, self._writing
        while lines and writing.acquire(False):
            try:
                block = [lines.popleft() for _ in range(len(lines))]
                data = ("\n".join(block) + "\n").encode()
                while data:
                    data = data[os.write(self._fd, data) :]
            except OSError:
                continue
            finally:
                writing.release()


#: path -> its log.
_logs: dict[str, Log] = {}


def _open_log(path: str) -> Log | None:
    log = _logs.get(path)
    if log is None:
        import warnings

        try:
            made = Log(path)
        except OSError as error:
            warnings.warn(f"RAWURING_TRACE: {error}; nothing is traced", RuntimeWarning, stacklevel=5)
            return None
        log = _logs.setdefault(path, made)
        if log is not made:  # another thread was faster
            made.close()
            return log
        atexit.register(log.write)
        if hasattr(os, "register_at_fork"):  # not on Windows
            os.register_at_fork(after_in_child=log.begin)
    return log


class _TracedQueue(SubmissionQueue):
    """A queue that records when each slot is taken.

    All code that takes one (get_sqe, put, push, InFlight.start) ends with a store of sqe_tail, so this sees
    it.
    """

    __slots__ = ("_tail", "taken")

    #: The times of the slots whose SQEs have no line yet; the last is that of the slot before sqe_tail.
    taken: list[int]

    @property
    def sqe_tail(self) -> int:
        """The index of the next slot."""
        return self._tail

    @sqe_tail.setter
    def sqe_tail(self, tail: int) -> None:
        more = tail - self._tail
        self._tail: int = tail
        if more > 0:
            self.taken += [monotonic_ns()] * more
        elif more < 0:  # discarded, or consumed, on a ring whose batches start at slot 0
            del self.taken[max(len(self.taken) + more, 0) :]


class _TracedRewindQueue(_TracedQueue, RewindSubmissionQueue):
    __slots__ = ()


def _watch_queue(queue: SubmissionQueue) -> _TracedQueue:
    """Make a queue that replaces a new one: on the same memory, with nothing in it."""
    rewind = isinstance(queue, RewindSubmissionQueue)
    kind = _TracedRewindQueue if rewind else _TracedQueue
    traced: Any = kind.__new__(kind)
    traced._tail, traced.taken = queue.sqe_tail, []
    for name in SubmissionQueue.__slots__:
        setattr(traced, name, getattr(queue, name))
    return traced  # type: ignore[no-any-return]


class TracedRing(Ring):
    """A Ring that records what it does; watch() turns a Ring into one."""

    sq: _TracedQueue

    def _begin_to_trace(self, log: Log) -> None:
        self._plain = self._quick = self._direct = False  # every turn goes through _enter and _fetch
        self._trace_log = log
        self._trace_pid = os.getpid()
        self._trace_name = log.name()
        self._trace_queue()
        sizes = f"{self.params['sq_entries']},{self.params['cq_entries']},{self.flags}"
        log.add(f'["r",{monotonic_ns()},{self._trace_name},{sizes}]')
        self._look_at_workers(monotonic_ns())

    def _trace_queue(self) -> None:
        self.sq = _watch_queue(self.sq)
        self.get_sqe = self.sq.get_sqe

    def _attach_queues(self, params: dict[str, Any]) -> None:  # again, when the kernel has moved them
        super()._attach_queues(params)
        self._trace_queue()

    def _look_at_workers(self, now: int) -> None:
        if self.features & uapi.IORING_FEAT_NATIVE_WORKERS:
            self._trace_log.look(now)

    def _enter(self, to_submit: int, min_complete: int, flags: int, timeout: Any = None) -> int:
        if to_submit and not self._sqpoll:
            self._log_sqes(self.sq.sqe_tail if self._rewind else self.sq.published)
        ready, start, result = self.cq.ready(), monotonic_ns(), 0
        if start - self._trace_log.looked > LOOK_NS:
            self._look_at_workers(start)
        try:
            result = super()._enter(to_submit, min_complete, flags, timeout)
            return result
        except OSError as error:
            result = -(error.errno or 0)
            raise
        finally:
            calls = f"{start},{monotonic_ns()},{self._trace_name},{to_submit},{min_complete},{flags}"
            self._trace_log.add(f'["e",{calls},{result},{ready},{self.cq.ready()}]')

    def _submit_sqpoll(self, flags: int) -> int:
        self._log_sqes(self.sq.sqe_tail)  # once published, they belong to the kernel
        return super()._submit_sqpoll(flags)

    def _log_sqes(self, tail: int) -> None:
        sq, name, now = self.sq, self._trace_name, monotonic_ns()
        taken = sq.taken
        first = sq.sqe_tail - len(taken)
        lines = [
            f'["s",{now},{name},{user_data},{slot[0]},{slot[1]},{taken[index - first]}]'
            for index, _, slot, user_data in sq.walk(first, tail)
        ]
        del taken[: tail - first]
        if lines:
            self._trace_log.add("\n".join(lines))

    def _fetch(self) -> None:
        cq = self.cq
        known = len(cq.copied)
        super()._fetch()
        name, now = self._trace_name, monotonic_ns()
        lines = [f'["c",{now},{name},{cqe[0]},{cqe[1]},{cqe[2]}]' for cqe in cq.copied[known:]]
        if self.sq.flags() & uapi.IORING_SQ_CQ_OVERFLOW:
            lines.append(f'["o",{now},{name}]')
        if lines:
            self._trace_log.add("\n".join(lines))

    def _close(self, explicit: bool) -> None:
        if self._trace_pid == os.getpid() and not self.closed:
            self._look_at_workers(monotonic_ns())
        try:
            super()._close(explicit)
        finally:
            if self._trace_pid == os.getpid():
                self._trace_log.add(f'["x",{monotonic_ns()},{self._trace_name}]')
                self._trace_log.write()


class _Timed:
    """A handler that records when it runs."""

    __slots__ = ("handler", "log", "whose")

    def __init__(self, handler: Callable[[int, int], object], log: Log, whose: str) -> None:
        self.handler, self.log, self.whose = handler, log, whose

    def __call__(self, res: int, flags: int) -> None:
        """Call the handler."""
        begin = monotonic_ns()
        try:
            self.handler(res, flags)
        finally:
            self.log.add(f'["h",{begin},{monotonic_ns()},{self.whose}]')


class TracedInFlight(InFlight):
    """An InFlight that records when its handlers run; watch_table() turns an InFlight into one."""

    def _begin_to_trace(self, ring: TracedRing) -> None:
        self._trace_log, self._trace_name = ring._trace_log, ring._trace_name
        self._quick, self._todo = False, deque()  # each completion goes through complete()
        self._sq = ring.sq

    def complete(self, user_data: int, res: int, flags: int) -> bool:
        """Account for one CQE whose handler will be timed; see InFlight.complete."""
        entry = self.entries.get(user_data)
        if entry is not None and callable(entry[0]) and type(entry[0]) is not _Timed:
            timed = _Timed(entry[0], self._trace_log, f"{self._trace_name},{user_data}")
            self.entries[user_data] = (timed, *entry[1:])
        return super().complete(user_data, res, flags)

    def requests(self) -> list[Request]:
        """List the requests in flight, with their own handlers; see InFlight.requests."""
        found = super().requests()
        for i, each in enumerate(found):
            if type(each.handler) is _Timed:
                found[i] = each._replace(handler=each.handler.handler)
        return found


def watch(ring: Ring) -> None:
    """Turn a ring into a traced one; its constructor calls this if RAWURING_TRACE is set.

    Args: ring is open and new.
    """
    log = _open_log(os.environ["RAWURING_TRACE"])
    if log is None:
        return
    ring.__class__ = watched_class(type(ring), TracedRing)
    assert isinstance(ring, TracedRing)
    ring._begin_to_trace(log)


def watch_table(table: InFlight, ring: Ring) -> None:
    """Turn a table into a traced one; its constructor calls this if RAWURING_TRACE is set.

    Args: table is new; ring is its ring.
    """
    if isinstance(ring, TracedRing):  # otherwise the file could not be written
        table.__class__ = watched_class(type(table), TracedInFlight)
        assert isinstance(table, TracedInFlight)
        table._begin_to_trace(ring)
