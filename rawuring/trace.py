# SPDX-License-Identifier: MIT
# pyright: basic
"""Write down what rings do: RAWURING_TRACE=run.jsonl.

What it is: a subclass of Ring that writes a line for each SQE, each CQE and each io_uring_enter, with its
time. ``python -m rawuring.play run.jsonl > run.html`` makes a page of them.
Mirrors: strace(1) -f -ttt -o in purpose.
Must not know: what an operation means, or what is made of the lines (playtrace.py).
Invariant: without the variable nothing of this is imported. It is read when a Ring is created, never per
request, so it costs a request nothing when it is off. A program behaves the same when the file cannot be
written: it is warned once, and not traced.
Read next: command.py.

Unless said otherwise, only the thread that owns a ring may use it.

A line is a JSON array. Times are nanoseconds of time.monotonic_ns(), RING is "PID.NUMBER".

    ["r", TIME, RING, sq_entries, cq_entries, setup flags]      a ring was made
    ["s", TIME, RING, user_data, opcode, sqe flags]             an SQE is about to be submitted
    ["e", TIME, TIME, RING, to_submit, min_complete, flags, result, before, after]      io_uring_enter, with
                                                                the CQEs in the ring before and after it
    ["c", TIME, RING, user_data, res, flags]                    a CQE was copied out
    ["o", TIME, RING]                                           CQ_OVERFLOW was seen
    ["x", TIME, RING]                                           the ring was closed

Lines are written in blocks, when a ring is closed, and when the interpreter ends; a process that is killed
loses its last block. Rings that a child of fork() inherited are its parent's; those that it makes are traced
into the same file. What bypasses Ring, such as ring.cq.fetch(), is not seen.
"""

from __future__ import annotations

import atexit
import os
import sys
from time import monotonic_ns

from . import uapi
from .rings import Ring
from .syscalls import Uncopyable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

BLOCK = 4096  # lines


class Log(Uncopyable):
    """A file of lines, for all rings of this process."""

    def __init__(self, path: str) -> None:
        """Open it for appending.

        Raises: OSError.
        """
        self.path = path
        self._pid = os.getpid()
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._lines: list[str] = []
        self._rings = 0
        atexit.register(self.write)

    def name(self) -> str:
        """Return a name for another ring."""
        self._rings += 1
        return f'"{os.getpid()}.{self._rings}"'

    def add(self, line: str) -> None:
        """Add a line; it is written with its block.

        Threads: any.
        """
        self._lines.append(line)
        if len(self._lines) >= BLOCK:
            self.write()

    def write(self) -> None:
        """Write what has been added; if that fails, drop it.

        Threads: any.
        """
        lines, self._lines = self._lines, []
        if os.getpid() != self._pid:  # a copy of the parent's, who writes them itself
            self._pid = os.getpid()
            return
        data = ("\n".join(lines) + "\n").encode() if lines else b""
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError:
            return


_shared: Log | None = None


def _open_log(path: str) -> Log | None:
    global _shared
    if _shared is None or _shared.path != path:
        import warnings

        try:
            _shared = Log(path)
        except OSError as error:
            warnings.warn(f"RAWURING_TRACE: {error}; nothing is traced", RuntimeWarning, stacklevel=5)
            return None
    elif _shared._pid != os.getpid():
        _shared.write()  # drops what the parent writes
    return _shared


class TracedRing(Ring):
    """A Ring that writes down what it does; watch() turns a Ring into one."""

    def _begin_to_trace(self, log: Log) -> None:
        self._plain = self._quick = self._direct = False  # every turn goes through _enter and _fetch
        self._trace_log = log
        self._trace_pid = os.getpid()
        self._trace_name = log.name()
        self._trace_next = self.sq.published
        sizes = f"{self.params['sq_entries']},{self.params['cq_entries']},{self.flags}"
        log.add(f'["r",{monotonic_ns()},{self._trace_name},{sizes}]')

    def _enter(self, to_submit: int, min_complete: int, flags: int, timeout: Any = None) -> int:
        if to_submit and not self._sqpoll:
            self._log_sqes(self.sq.sqe_tail if self._rewind else self.sq.published)
        ready, start, result = self.cq.ready(), monotonic_ns(), 0
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
        first = 0 if self._rewind else min(self._trace_next, tail)
        index, lines = first, []
        while index < tail:
            slot = sq.slots[index & sq.ring_mask]
            user_data = int.from_bytes(slot[32:40], sys.byteorder)
            lines.append(f'["s",{now},{name},{user_data},{slot[0]},{slot[1]}]')
            index += 2 if sq._mixed and slot[0] in (uapi.IORING_OP_NOP128, uapi.IORING_OP_URING_CMD128) else 1
        self._trace_next = tail
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
        try:
            super()._close(explicit)
        finally:
            if self._trace_pid == os.getpid():
                self._trace_log.add(f'["x",{monotonic_ns()},{self._trace_name}]')
                self._trace_log.write()


_classes: dict[type[Any], type[Any]] = {}


def watch(ring: Ring) -> None:
    """Turn a ring into one that is traced; its constructor calls this if RAWURING_TRACE is set.

    Args: ring is open and new.
    """
    log = _open_log(os.environ["RAWURING_TRACE"])
    if log is None:
        return
    kind = type(ring)
    if not issubclass(kind, TracedRing):
        if kind not in _classes:  # created once: a class is a cycle, which only the collector frees
            _classes[kind] = type(kind.__name__, (TracedRing,) if kind is Ring else (TracedRing, kind), {})
        ring.__class__ = _classes[kind]
    assert isinstance(ring, TracedRing)
    ring._begin_to_trace(log)
