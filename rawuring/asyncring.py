# SPDX-License-Identifier: MIT
# pyright: basic
"""Await any request: io_uring completions on the running asyncio loop.

What it is: AsyncRing, the ring of a loop, whose calls return futures.
Mirrors: QEMU's ``aio_add_sqe`` and ``luring_co_submit``; trio's ``wait_overlapped`` for cancellation.
Must not know: selectors, aio.py, the contents of files.
Invariant: whatever happens to a task, its request stays in the table until the final CQE, and the result of a
request that succeeded although it was cancelled goes to late(): no result is dropped.
Read next: aio.py.

Unless said otherwise, memory passed to a call may be freed when the call returns, only the thread that owns a
ring may use it (the one that runs the loop), and Linux 5.5 suffices.

Facts about asyncio and completions, and their consequences:

* SQEs queued in one turn of the loop are submitted by one io_uring_enter at its end, and completions that
  arrive inside that call are delivered in the same turn. On a loop whose selector has a ring (aio.py) that
  call is the selector's own; on any other loop a callback makes it, and the ring is private, behind
  add_reader().
* The descriptor of a ring with IORING_SETUP_DEFER_TASKRUN does not wake epoll, so a private ring has
  IORING_SETUP_COOP_TASKRUN. It has no IORING_SETUP_SINGLE_ISSUER: a loop may be closed, or collected, in
  another thread.
* asyncio's Future.cancel() ends the future at once. If a request's future did so, anything the kernel
  delivered afterwards would be lost (if data and cancel come in one turn: all of it). So cancel() asks the
  kernel, the future ends with the final CQE, and the result of a request that succeeds all the same is late:
  see RequestFuture.
* A socket is tried at once, without waiting. Where it would block, the ring waits for its readiness only, and
  the task itself takes the data afterwards: no data is taken for a cancelled task, no memory is tied to an
  idle connection, and O_NONBLOCK does not matter (before 5.19 it makes the kernel complete ACCEPT with
  EAGAIN). Multishot requests do take data; data that arrives too late goes to the next call on that socket.
* A task can be cancelled after its future is done and before the task runs. Then the result exists and the
  task does not take it: __await__ detects that, and the result is late, too.
* A cancellation misses a request that waits for its turn in a chain, or that is just being started: it is
  repeated until the request has ended.
"""

from __future__ import annotations

import array
import asyncio
import errno
import os
import socket
import sys
import time
import weakref
from _thread import get_ident
from collections import deque
from contextvars import copy_context
from functools import partial

from . import buffers, ops, register, rings, uapi
from .buffers import Pin, pin, timespec
from .inflight import InFlight, _refuse_handler
from .queues import RingClosed, SubmissionQueueFull, WrongThread
from .syscalls import REASON_OF_ERRNO, Unavailable, Uncopyable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
    from contextvars import Context
    from types import TracebackType
    from typing import Any

#: The attribute in which a loop that is not ours keeps its AsyncRing: each copy of this package has its own.
_ATTRIBUTE = "_" + __name__.replace(".", "_")

#: Setup flags of a private ring; see the head of this file.
_WISH = (
    uapi.IORING_SETUP_COOP_TASKRUN
    | uapi.IORING_SETUP_TASKRUN_FLAG
    | uapi.IORING_SETUP_SUBMIT_ALL
    | uapi.IORING_SETUP_NO_SQARRAY
)
_ENTRIES, _CQ_ENTRIES = 256, 1024

#: The delay before a cancellation that missed its request is repeated: the first, and the maximum.
_CANCEL_AGAIN, _CANCEL_AGAIN_MOST = 0.001, 1.0

#: Operations whose res is a descriptor: a late one is closed.
_DESCRIPTORS = {
    ops.prep_open, ops.prep_openat, ops.prep_openat2, ops.prep_accept, ops.prep_multishot_accept,
    ops.prep_socket, ops.prep_fixed_fd_install,
}  # fmt: skip
#: Operations that complete more than once: stream() is for them.
_MULTISHOT = {
    ops.prep_multishot_accept, ops.prep_multishot_accept_direct, ops.prep_poll_multishot,
    ops.prep_read_multishot, ops.prep_recv_multishot, ops.prep_recvmsg_multishot, ops.prep_recv_zc,
}  # fmt: skip
_SPECIAL = _DESCRIPTORS | _MULTISHOT

#: How long after a linked timeout the loop's own timer fires.
_GRACE = 0.005
#: How long consecutive awaits may go on without suspending.
_BREATH = 0.0002
#: The buffer group that recv_multishot() uses by default: number of buffers, and bytes in each.
_PIECES, _PIECE = 64, 8192
#: The first group number tried for it.
_GROUP = 0xA500

_POLLIN, _POLLOUT = 0x01, 0x04  # poll(2)
_MSG_NOSIGNAL = 0x4000  # PyPy has no such name
#: The res of a request that was stopped; 512 is ERESTARTSYS, which leaks out of splice (6.18).
_STOPPED = -errno.ECANCELED, -errno.EINTR, -512
_LINKS = uapi.IOSQE_IO_LINK | uapi.IOSQE_IO_HARDLINK
#: Prefixes of the operations that can transfer less than requested.
_TRANSFERS = "read", "recv", "send", "splice", "tee", "write"


# ------------------------------------------------------------------------------------------------------
# The ring of the running loop


def running() -> AsyncRing:
    """Return the ring of the running loop, made on first use.

    Returns: the loop's ``uring``, if it has one; else a private ring, which is closed with the loop.
    Raises: RuntimeError where no loop runs; Unavailable with cause and advice where io_uring is unavailable.
    """
    loop = asyncio.get_running_loop()
    found = getattr(loop, "uring", None)
    if not isinstance(found, AsyncRing):
        found = _private_ring(loop)
    if found._ring._owner != get_ident():
        return found._moved()
    return found


def _private_ring(loop: asyncio.AbstractEventLoop) -> AsyncRing:
    """Return the private ring of a loop, made on first use."""
    found = getattr(loop, _ATTRIBUTE, None)
    return AsyncRing(loop) if found is None else found


def available() -> bool:
    """Tell whether requests can be awaited here: in the running loop; if none runs, in a new one."""
    return not reason()


def reason() -> str:
    """Say why requests cannot be awaited here.

    Returns: cause and advice; an empty string where they can.
    """
    try:
        if asyncio._get_running_loop() is not None:
            running()
        else:
            _make_ring().close()
    except (Unavailable, ImportError) as error:
        return str(error)
    return ""


def _unavailable(error: OSError, what: str) -> Unavailable:
    code = error.errno or errno.EIO
    return Unavailable.because(code, what, REASON_OF_ERRNO.get(code, "unknown"))


def _make_ring() -> rings.Ring:
    try:
        ring = rings.Ring(_ENTRIES, wish=_WISH, cq_entries=_CQ_ENTRIES, min_entries=8)
    except Unavailable:
        raise
    except OSError as error:  # of mmap(2), for which Python duplicates the descriptor
        raise _unavailable(error, "mmap of the rings") from None
    if not ring.features & uapi.IORING_FEAT_NODROP:
        ring.close()
        raise Unavailable(
            errno.ENOSYS, "asyncring", "absent",
            "This kernel drops completions that find no room, and cannot cancel: use Linux 5.5 or newer.",
        )  # fmt: skip
    ring.owned = True  # asyncio itself warns of a loop that was not closed
    ring.dont_fork()
    return ring


# ------------------------------------------------------------------------------------------------------
# Futures


class RequestFuture(Uncopyable, asyncio.Future):  # type: ignore[type-arg]
    """The future that call() returns, whose result is res.

    cancel() asks the kernel, and the future ends with the final CQE: cancelled, even if the request
    succeeded.
    """

    # Attributes that every request has are slots, set by call(): a dictionary for each took 0.2 us more. The
    # others are rarely set.
    __slots__ = ("_asked", "_at", "_first", "_prep", "_ring", "_taken", "token")

    #: Its user_data.
    token: int
    _ring: AsyncRing
    _prep: Any
    _at: int  # sq.sqe_tail behind its SQEs
    _asked: bool  # cancel() was called
    _taken: bool  # the result was returned
    _first: int | None  # res of a first CQE with IORING_CQE_F_MORE
    _unsent = False  # the kernel never saw the request
    _late: Any = None
    _message: Any = None

    def _set_up(self, ring: AsyncRing, prep: Any) -> None:
        """Set the slots, except _at and token, which are known when the request has started."""
        self._ring = ring
        self._prep = prep
        self._asked = self._taken = False
        self._first = None

    def _complete(self, res: int, flags: int) -> None:
        """Handle a CQE, the usual one with the fewest frames."""
        if flags or res < 0 or self._asked or self._first is not None or self._ring._closing or self.done():
            self._take(res, flags)
        else:
            self.set_result(res)

    def _take(self, res: int, flags: int) -> None:
        """Handle a CQE of any kind."""
        if flags & uapi.IORING_CQE_F_MORE:
            self._take_first(res)
        else:
            self._end(res if self._first is None else self._first)

    def _take_first(self, res: int) -> None:
        """Store the result of a zero-copy send; its notification, which frees the memory, ends the future."""
        if self._first is None:
            self._first = res
            if self._asked:  # the peer may take the bytes at any time, or never
                self._end(res)

    def _end(self, res: Any) -> None:
        if self.done():
            if self._first is None:
                self._give_late(res)
        elif self._asked or self._ring._closing:
            super().cancel(self._message)
            if not self._unsent:
                self._give_late(res)
        else:
            error = self._failure(res)
            if error is None:
                self.set_result(res)
            else:
                self.set_exception(error)
                if res == -errno.ECANCELED:
                    # The ring of a loop that was not closed may be closed before the loop: no message then,
                    # as for cancelled futures.
                    self._log_traceback = False

    def _failure(self, res: Any) -> BaseException | None:
        return self._ring._error(res, self._prep) if res < 0 else None

    def _give_late(self, res: Any) -> None:
        """Pass a result that is no longer awaited to late()."""
        if self._late is not None and res >= 0:
            self._ring._hand_over(self._late, res)

    def _abandon(self) -> None:
        """Pass on the result that the future has and its task will not take."""
        if not self.exception():
            self._give_late(self.result())

    def cancel(self, msg: Any = None) -> bool:
        """Ask the kernel to end the request; the future is cancelled with its final CQE.

        Args: msg as for asyncio.Future.
        Returns: False when the future is already done.
        """
        if self.done():
            return False
        self._message = msg
        asked, self._asked = self._asked, True
        try:
            if asked and self._in_flight():
                self._ring._remind()
            else:
                self._ask()
        except WrongThread:
            self._asked = asked
            raise
        return True

    def _ask(self) -> None:
        if self._first is not None:
            self._end(self._first)
            return
        slot = self._ring._slot_of(self._at - 1, self.token)
        if slot is not None:
            self._unsent = True  # first: if a signal handler raises, late() must not get the res of a NOP
            self._ring._withdraw(slot, self.token)
        elif not self._unsent:
            self._ring.cancel(self.token)
            self._give_up_later()

    def _in_flight(self) -> bool:
        return self.token in self._ring.table.entries

    def _give_up_later(self) -> None:
        if not self._in_flight():
            if self._ring._ring._state == "open":
                self._ring._loop.call_later(_CANCEL_AGAIN, self._give_up)
            else:
                self._give_up()

    def _give_up(self) -> None:
        """End a future whose completion was lost: a signal handler raised inside _complete()."""
        if self.done() or self._ring._loop.is_closed():
            return
        if self._ring._ring._state == "open" and (self._in_flight() or self._ring.table.has_work()):
            # The completion is still to come.
            self._give_up_later()
        else:
            super().cancel(self._message)
            self._give_rest()

    def _give_rest(self) -> None:
        """Pass on the results that did arrive."""

    def __await__(self) -> Any:
        ring = self._ring
        try:
            if self.done() or ring._answers_early(self):
                if ring._needs_breath():
                    yield
            else:
                self._asyncio_future_blocking = True
                yield self
        except BaseException as error:  # the task was cancelled or destroyed; or this is our own exception
            if not self.done():
                self.cancel()
            elif not (self._taken or self.cancelled() or self.exception() is error):
                self._taken = True
                self._abandon()
            raise
        self._taken = True
        return self.result()

    __iter__ = __await__


class _TimedFuture(RequestFuture):
    """A future with a linked timeout: it ends when both of its requests have ended."""

    # res of the LINK_TIMEOUT. If it ended a futex wait or a waitid, that is not -ETIME but 1
    # (io_uring/cancel.h: io_cancel_remove returns the number of requests found; seen on 6.18), and -ENOENT if
    # it ended a request that runs in a worker (a splice; seen on 6.1). One that was not needed completes with
    # -ECANCELED.
    _timer: int | None = None
    # A linked timeout does not start for a request that begins in a worker (splice; seen on 6.18): then the
    # loop's own timer ends the request, a little later.
    _guard: asyncio.TimerHandle
    _overdue = False
    _res: int | None = None
    _timer_token = 0

    def _end(self, res: int) -> None:
        self._res = res
        if self._timer is not None or self.done() or self._first is not None:
            super()._end(res)

    def _stop_at(self, seconds: float) -> None:
        self._guard = self._ring._loop.call_later(max(0, seconds) + _GRACE, self._is_overdue)
        self.add_done_callback(_stop_guard)

    def _is_overdue(self) -> None:
        if not self.done() and not self._asked:
            self._overdue = True
            self._ring.cancel(self.token)

    def _timer_ended(self, res: int, flags: int) -> None:
        self._timer = res
        if not self.done():
            if self._res is not None:
                super()._end(self._res)
            elif self._asked:
                self._give_up_later()

    def _failure(self, res: int) -> BaseException | None:
        fired = self._timer in (-errno.ETIME, -errno.EALREADY, -errno.ENOENT) or (self._timer or 0) > 0
        if (fired or self._overdue) and res in _STOPPED:
            return _timed_out(_operation(self._prep))
        if res == -errno.ECANCELED and self._timer == -errno.EINVAL:
            return self._ring._error(-errno.EINVAL, ops.prep_link_timeout)
        return super()._failure(res)

    def _in_flight(self) -> bool:
        return not self._ring.table.entries.keys().isdisjoint((self.token, self._timer_token))

    def _give_rest(self) -> None:
        if self._res is not None:
            self._give_late(self._res)


class ChainBroken(OSError):
    """Raised by a chain of which a part failed; the parts after it have completed with -ECANCELED.

    (A failed fsync, and before 5.15 a closed descriptor, does not stop them.) ``index`` is the number of that
    part, ``results`` holds the res of every part. The errno is that of the part; it is ECANCELED where a part
    transferred less than requested, such as a short read.
    """

    def __init__(self, index: int, results: list[int], prep: Any) -> None:
        """Say which part of how many broke the chain."""
        res, name = results[index], _operation(prep)
        code = -res if res < 0 else errno.ECANCELED
        says = os.strerror(code) if res < 0 else f"{res} is less than requested"
        super().__init__(code, f"part {index} of {len(results)} ({name}) broke the chain: {says}")
        self.index = index
        self.results = results


class _ChainFuture(RequestFuture):
    """The future of all results that chain() returns."""

    def __init__(self, preps: list[Any], loop: Any) -> None:
        super().__init__(loop=loop)
        self._preps = preps
        self._tokens: list[int] = []
        self._results: list[Any] = [None] * len(preps)
        self._missing = len(preps)

    def _part_ended(self, index: int, res: int, flags: int) -> None:
        if self._results[index] is None:
            self._results[index] = res
        if not flags & uapi.IORING_CQE_F_MORE:
            self._missing -= 1
            if not self._missing:
                self._end(self._results)
            elif self._asked:
                self._give_up_later()

    def _failure(self, res: list[int]) -> BaseException | None:
        if min(res) >= 0:
            return None
        canceled = -errno.ECANCELED
        bad = next((i for i, each in enumerate(res) if each < 0 and each != canceled), None)
        if bad is None:
            # The part before the first of these was short, if its operation can be. Else that one was
            # stopped.
            bad = res.index(canceled)
            if bad and _operation(self._preps[bad - 1]).startswith(_TRANSFERS):
                bad -= 1
        return ChainBroken(bad, res, self._preps[bad])

    def _abandon(self) -> None:
        self._give_late(self._results)

    def _give_late(self, res: Any) -> None:
        if self._late is not None:
            self._ring._hand_over(self._late, res)
            return
        for prep, each in zip(self._preps, res):
            if prep in _DESCRIPTORS and each >= 0:
                self._ring._hand_over(os.close, each)

    def _ask(self) -> None:
        first, drawn = self._at - len(self._tokens), 0
        for i, token in enumerate(self._tokens):
            slot = self._ring._slot_of(first + i, token)
            if slot is not None:
                self._results[i] = -errno.ECANCELED  # first, and not the res of the NOP
                self._ring._withdraw(slot, token)
                drawn += 1
        self._unsent = self._unsent or drawn == len(self._tokens)
        if not self._unsent:
            for token in self._tokens:
                self._ring.cancel(token)
            self._give_up_later()

    def _in_flight(self) -> bool:
        return not self._ring.table.entries.keys().isdisjoint(self._tokens)

    def _give_rest(self) -> None:
        self._give_late([-errno.EINTR if res is None else res for res in self._results])


def _stop_guard(future: Any) -> None:
    future._guard.cancel()


def _operation(prep: Any) -> str:
    return getattr(prep, "__name__", "request").replace("prep_", "", 1)


def _late_by_default(prep: Any, late: Any) -> Any:
    if prep in _MULTISHOT:
        raise TypeError(f"{_operation(prep)} completes more than once: use stream()")
    _check_late(late)
    return os.close if late is None and prep in _DESCRIPTORS else late


def _check_late(late: Any) -> None:
    if late is not None and not callable(late):
        raise TypeError(f"late={late!r:.100} is not callable; pass a function of the result, or None")


def _timed_out(what: str) -> Exception:
    kind = TimeoutError if sys.version_info >= (3, 11) else asyncio.TimeoutError
    return kind(f"{what} did not end in time")


# ------------------------------------------------------------------------------------------------------
# The ring of a loop


class AsyncRing(Uncopyable):
    """The ring of an asyncio loop: see running().

    ``table`` is its InFlight. The methods named after a system call do the same as the call, without
    blocking the loop; sockets must be non-blocking, as for asyncio. timeout is in seconds everywhere; when
    it expires the methods raise TimeoutError (asyncio.TimeoutError before Python 3.11).
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None, table: InFlight | None = None) -> None:
        """Make the ring of a loop.

        Args: loop is the running loop by default; table belongs to a ring that other code submits, waits for
            and reaps in each turn of the loop, running the table's handlers. Without one the ring is private,
            and is closed with the loop.
        Raises: Unavailable with cause and advice.
        """
        self._closing = False
        self._loop = loop = asyncio.get_running_loop() if loop is None else loop
        self._owned = table is None
        #: The callbacks that one of asyncio's own loops is about to run; None on other loops.
        ready = getattr(loop, "_ready", None)
        self._ready = ready if self._owned and isinstance(ready, deque) else None
        # The pending call of _turn(): on asyncio's own loops its handle and the handle's position, or one to
        # the right of it; elsewhere a weak reference. Where other code submits in each turn, one is always
        # pending.
        self._handle: Any = None
        self._place = 0
        self._to_come: Callable[[], Any] = _none if self._owned else _always
        self._has_to_wait = False  # a request that was sent early in this turn is not done
        self._alone = 0  # id of the task that awaited last
        self._rested = 0.0
        self._receivers: dict[RequestFuture, Any] = {}
        self._mailboxes: set[Mailbox] = set()
        self._opcodes: dict[int, bool] | None = None
        self._group: buffers.ProvidedBuffers | None = None
        self._starved: list[_Source] = []
        if table is not None:
            self._ring, self.table = table.ring, table
            return
        self._ring = _make_ring()
        try:
            #: The requests in flight.
            self.table = InFlight(self._ring)
            self._reader = self._ring.fileno()
            try:
                loop.add_reader(self._reader, self._turn)
            except OSError as error:
                raise _unavailable(error, "the loop's add_reader()") from None
            self._close_loop = loop.close
            loop.close = self._close_with_loop  # type: ignore[method-assign]
            setattr(loop, _ATTRIBUTE, self)
        except BaseException:
            self._ring.close()
            raise

    @property
    def ring(self) -> rings.Ring:
        """Return the ring."""
        return self._ring

    # -- requests

    def call(
        self, prep: Callable[..., None], *arguments: Any, holds: Collection[Any] = (),
        timeout: float | None = None, late: Callable[[int], object] | None = None, **options: Any,
    ) -> RequestFuture:  # fmt: skip
        """Start a request and return the future of its result.

        Args: prep, arguments, holds and options as for InFlight.start(): Pins and other objects of buffers.py
            stand for their addresses; timeout is a linked timeout in the kernel; late(res) takes the result
            of a request that succeeded although its future was cancelled, or its task before it ran. Without
            late the descriptor that an open, accept or socket returned is closed.
        Returns: an awaitable of res. It is not a coroutine, so gather() makes no task of it. A zero-copy send
            ends with its notification, when its memory is free again.
        Raises: as InFlight.start(); ValueError for IOSQE_IO_LINK (use chain()), TypeError for an operation
            that completes more than once (use stream()). The future raises OSError where res is a negative
            errno, and TimeoutError.
        Lifetime: until the final CQE.
        """
        if timeout is not None:
            return self._call_timed(prep, arguments, holds, timeout, late, options)
        future = RequestFuture(loop=self._loop)
        future._set_up(self, prep)
        if late is not None or prep in _SPECIAL:
            future._late = _late_by_default(prep, late)
        future.token = self._start(prep, arguments, future._complete, holds, options)
        future._at = self._ring.sq.sqe_tail
        return future

    def _call_timed(
        self, prep: Any, arguments: Any, holds: Any, timeout: float, late: Any, options: dict[str, Any]
    ) -> RequestFuture:
        """Start a request with a linked timeout."""
        nanoseconds = _nanoseconds(timeout)
        if nanoseconds is None:
            return self.call(prep, *arguments, holds=holds, late=late, **options)
        future = _TimedFuture(loop=self._loop)
        future._set_up(self, prep)
        future._late = _late_by_default(prep, late)
        _refuse_links(options)
        options["flags"] = options.get("flags", 0) | uapi.IOSQE_IO_LINK
        parts = [
            (prep, arguments, future._take, holds, options),
            (ops.prep_link_timeout, (timespec(nanoseconds), 0), future._timer_ended, (), {}),
        ]
        future.token, future._timer_token = self._start_linked(parts)
        future._at = self._ring.sq.sqe_tail - 1  # the request stands before its timeout
        future._stop_at(nanoseconds / 1e9)
        return future

    def chain(
        self, *parts: Sequence[Any], hard: bool = False, late: Callable[[list[int]], object] | None = None
    ) -> RequestFuture:
        """Start requests, each of which begins when the one before it has succeeded.

        Args: each part is (prep, argument, ...), as for call(), whose last item may be a dictionary of
            options; hard continues after a failure (IOSQE_IO_HARDLINK); late(results) takes the results of a
            chain that was cancelled; without it descriptors are closed.
        Returns: an awaitable of all results, in order.
        Raises: as InFlight.start(), and then no part is started; ValueError for no parts, and for more
            than fit into the SQ. The future raises ChainBroken, which says which part broke it; a short read
            or write breaks it, too.
        Lifetime: until the final CQE.
        """
        _check_late(late)
        if not parts:
            raise ValueError("chain() needs at least one part")
        for part in parts:
            if not isinstance(part, (tuple, list)) or not part:
                raise TypeError(f"{part!r:.100} is not a part of a chain, which is (prep, argument, ...)")
            _late_by_default(part[0], None)
        future = _ChainFuture([part[0] for part in parts], self._loop)
        future._set_up(self, None)
        future._late = late
        linked = []
        for i, (prep, *arguments) in enumerate(parts):
            options = dict(arguments.pop()) if arguments and isinstance(arguments[-1], dict) else {}
            _refuse_links(options)
            holds = options.pop("holds", ())
            if i + 1 < len(parts):
                link = uapi.IOSQE_IO_HARDLINK if hard else uapi.IOSQE_IO_LINK
                options["flags"] = options.get("flags", 0) | link
            linked.append((prep, tuple(arguments), partial(future._part_ended, i), holds, options))
        future._tokens = self._start_linked(linked)
        future.token = future._tokens[0]
        future._at = self._ring.sq.sqe_tail
        return future

    def start(
        self, prep: Callable[..., None], *arguments: Any, handler: Callable[[int, int], object] | None = None,
        holds: Collection[Any] = (), **options: Any,
    ) -> int:  # fmt: skip
        """Start a request with a plain handler.

        Args: as for InFlight.start(); handler(res, flags) runs in the loop, in a copy of the caller's
            context; an exception that it raises goes to the loop's exception handler.
        Returns: the token.
        Raises: as InFlight.start(); ValueError for IOSQE_IO_LINK (use chain()).
        Lifetime: until the final CQE.
        """
        if handler is not None:
            if not callable(handler):
                _refuse_handler(handler)
            handler = partial(self._run_handler, copy_context(), handler)
        return self._start(prep, arguments, handler, holds, options)

    def _start(
        self, prep: Any, arguments: tuple[Any, ...], handler: Any, holds: Any, options: dict[str, Any]
    ) -> int:
        if options:
            _refuse_links(options)
        try:
            token = self.table._start(prep, arguments, handler, holds, options)
        except (SubmissionQueueFull, WrongThread):
            self._make_room(1)
            token = self.table._start(prep, arguments, handler, holds, options)
        if self._ready is not None or self._to_come() is None:
            self._schedule()
        return token

    def _start_linked(self, parts: list[tuple[Any, Any, Any, Any, dict[str, Any]]]) -> list[int]:
        """Queue linked requests, all or none: an unterminated link would include the next request queued."""
        sq, table = self._ring.sq, self.table
        if len(parts) > sq.ring_entries:
            raise ValueError(f"{len(parts)} linked requests do not fit into a queue of {sq.ring_entries}")
        self._make_room(len(parts))
        tail, tokens = sq.sqe_tail, []
        try:
            for prep, arguments, handler, holds, options in parts:
                tokens.append(table._start(prep, arguments, handler, holds, options))
        except BaseException:
            # Nothing was submitted in between; a signal handler may have raised before the last token was
            # stored.
            for at in range(tail, sq.sqe_tail):
                table.entries.pop(_token_of(sq._slots[at & sq.ring_mask]), None)
            sq.sqe_tail = tail
            raise
        if self._ready is not None or self._to_come() is None:
            self._schedule()
        return tokens

    def stream(
        self, prep: Callable[..., None], *arguments: Any, holds: Collection[Any] = (),
        buffers: buffers.ProvidedBuffers | None = None, late: Callable[[Any], object] | None = None,
        **options: Any,
    ) -> Stream:  # fmt: skip
        """Iterate over the completions of a multishot request.

        Args: prep, arguments, holds and options as for call(); buffers is a group from which the request
            takes memory, as register.setup_buf_ring() makes it; late(item) takes items that arrive when the
            stream is closed. Without it descriptors are closed and Pieces released.
        Returns: an asynchronous iterator of (res, flags), and of (Piece, flags) with buffers. The request
            starts with the first step, and again with the next step after the kernel has ended it. A step
            that is cancelled loses nothing. Close the iterator: ``async with``, or aclose().
        Raises: as InFlight.start(), from a step; a step raises OSError where res is a negative errno, and the
            next step tries again.
        Lifetime: until the final CQE.
        Since: 5.13 for polls, 5.19 for accept, 6.0 for recv
        """
        _check_late(late)
        source = _Source(self, prep, arguments, holds, options, buffers)
        source.late = late or partial(_drop, prep)
        return Stream(source)

    def supports(self, opcode: int) -> bool:
        """Tell whether this kernel knows an operation.

        Args: opcode is an IORING_OP_*.
        """
        if self._opcodes is None:
            try:
                self._opcodes = register.register_probe(self._ring)
            except OSError:  # before 5.6
                self._opcodes = {}
        return self._opcodes.get(opcode, False)

    def _error(self, res: int, prep: Any) -> OSError:
        if res == -512:
            res = -errno.EINTR
        says = f"{_operation(prep)}: {os.strerror(-res)}"
        if res in (-errno.EINVAL, -errno.EOPNOTSUPP):
            sqe = ops.filled(prep) if ops.memory_arguments(prep) is not None else None
            if sqe is not None and not self.supports(sqe[0]):
                says += f"; this kernel has no {uapi.name_of('IORING_OP_', sqe[0])}"
        return OSError(-res, says)

    # -- cancelling

    def cancel(self, token: int) -> None:
        """Ask the kernel to end a request, whose handler still gets the final CQE.

        Args: token as start() returned it; the token of a request that has ended is ignored.
        Raises: TypeError for a value that cannot be a token.
        """
        if not isinstance(token, int):
            raise TypeError(f"token={token!r:.100} is not a token: start() returns one")
        self._cancel(token, _CANCEL_AGAIN)

    def _cancel(self, token: int, delay: float) -> None:
        if token not in self.table.entries or self._ring._state != "open":
            return
        try:
            self._start(ops.prep_cancel64, (token, 0), partial(self._cancelled, token, delay), (), {})
        except (SubmissionQueueFull, OSError):  # no room for now
            self._loop.call_later(delay, self._cancel, token, min(2 * delay, _CANCEL_AGAIN_MOST))

    def _cancelled(self, token: int, delay: float, res: int, flags: int) -> None:
        """Repeat a cancellation that missed a request that has not ended."""
        if res in (-errno.ENOENT, -errno.EALREADY) and token in self.table.entries and not self._closing:
            self._loop.call_later(delay, self._cancel, token, min(2 * delay, _CANCEL_AGAIN_MOST))

    def _slot_of(self, at: int, token: int) -> memoryview | None:
        """Find the slot of a request that the kernel has not seen yet."""
        sq = self._ring.sq
        if self._ring._state != "open":
            return None
        if self._ring._owner != get_ident():
            self._follow_loop()
        if at < sq.sqe_tail - sq.pending():
            return None
        slot: memoryview = sq._slots[at & sq.ring_mask]
        return slot if _token_of(slot) == token else None

    def _withdraw(self, slot: memoryview, token: int) -> None:
        """Turn a request into a NOP."""
        ops.prep_nop(slot, token, slot[1] & _LINKS)
        self._schedule()  # it must be sent all the same, and _turn() may have been lost

    def _hand_over(self, late: Callable[[Any], object], value: Any) -> None:
        try:
            late(value)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._report(f"Cannot pass a late result, {value!r:.100}, to {late!r}", error)

    # -- the turn

    def flush(self) -> None:
        """Submit queued requests now, instead of at the end of this turn.

        Completions that arrive inside this call are delivered before it returns; on a loop that has a ring in
        its selector, in this turn.

        Raises: OSError when the kernel accepts nothing for now.
        """
        if self._ring._owner != get_ident():
            self._follow_loop()
        if not self._owned:
            self._ring.submit()
            return
        try:
            sq = self._ring.sq
            if sq.sqe_tail != sq.published or sq.pending():
                self.table.submit_and_dispatch(0)
            else:
                self.table.reap()
                self.table.dispatch()
        except OSError:
            raise
        except BaseException:  # a handler raised, or a signal handler
            self._schedule()  # for those that are left
            raise

    def _schedule(self) -> None:
        """Let _turn() run at the beginning of the loop's next turn, once.

        The loop's queue is searched for the pending call; a flag would not do: when a signal handler raises,
        a loop may lose the callback that it was about to run.
        """
        ready, handle = self._ready, self._handle
        if ready is None:
            if self._to_come() is None:
                self._to_come = _reference(self._loop.call_soon(self._turn))
            return
        if handle is not None:
            # The loop takes handles from the left. So this one is where it was found the last time, or a few
            # places further left.
            at = min(self._place, len(ready) - 1)
            while at >= 0:
                if ready[at] is handle:
                    self._place = at
                    return
                at -= 1
        self._handle = self._loop.call_soon(self._turn)
        self._place = len(ready) - 1

    def _remind(self) -> None:
        """Make sure that queued requests will be sent."""
        if self._ring._state == "open":
            if self._ring._owner != get_ident():
                self._follow_loop()
            self._schedule()

    def _turn(self) -> None:
        """Do the ring's part of a turn: the callback of the loop and of the reader."""
        try:
            if self._owned:
                self._handle, self._to_come, self._has_to_wait = None, _none, False
            if self._ring._state == "open":
                self.flush()
        except OSError as error:
            if not self._ring.lost(error):  # no memory for now
                self._loop.call_later(0.001, self._schedule)
                raise
            self._lose(error)
        except BaseException:  # as in flush()
            self._schedule()
            raise

    def _answers_early(self, future: RequestFuture) -> bool:
        """Do at the end of this turn the work of the beginning of the next; tell whether the future is done.

        It is the end if nothing more will be queued: only our own callback is left to run. Where the loop
        hides its queue this is a guess: a task that awaits twice while no other task awaits in between is
        alone. A wrong guess costs a system call.
        """
        ready = self._ready
        if ready is not None:
            if len(ready) != 1 or ready[0] is not self._handle or self._has_to_wait:
                return False
        elif not self._owned:
            return False
        else:
            before, self._alone = self._alone, id(asyncio.current_task(self._loop))
            if before != self._alone:
                return False
        try:
            self.flush()
        except OSError:
            return future.done()  # _turn() tries again, and reports the error
        done = future.done()
        # The turn goes on if this task began eagerly: the next task's request would need another system call.
        self._has_to_wait = not done
        return done

    def _needs_breath(self) -> bool:
        """Tell whether consecutive awaits have gone on without suspending for long enough."""
        now = time.monotonic()
        if now - self._rested < _BREATH:
            return False
        self._rested = now
        return True

    def _follow_loop(self) -> None:
        """Bind the ring to this thread if its loop runs here; reject any other thread."""
        if asyncio._get_running_loop() is not self._loop:
            self._ring._refuse()
        self._ring.bind_thread()

    def _call_from_any_thread(self, callback: Callable[..., object], *arguments: Any) -> bool:
        """Call back in the loop; return False if it is closed."""
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:  # perhaps only just now, by its thread
            return False
        return True

    def _make_room(self, count: int) -> None:
        """Make room for SQEs: submit, and take completions off the CQ, without running handlers."""
        ring = self._ring
        if ring._owner != get_ident():
            self._follow_loop()
        if ring.sq.space_left() < count:
            ring.submit()
            if self._owned:
                self._schedule()  # first: nothing wakes the loop for the completions collected
                ring._collect()
            if ring.sq.space_left() < count:
                raise SubmissionQueueFull("the kernel accepts no more requests for now: await some of them")

    def _run_handler(
        self, context: Context, handler: Callable[[int, int], object], res: int, flags: int
    ) -> None:
        try:
            context.copy().run(handler, res, flags)  # a copy: a handler that flushes may be re-entered
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._report(f"Exception in the handler of a request: {handler!r}", error)

    def _report(self, message: str, error: BaseException) -> None:
        self._loop.call_exception_handler({"message": message, "exception": error})

    # -- the end

    def _moved(self) -> AsyncRing:
        """Follow the loop to another thread, or into a forked child."""
        state = self._ring._state
        if state == "open":
            self._ring.bind_thread()
            return self
        if state == "forked" and self._owned:
            self._leave_loop()
            return AsyncRing(self._loop)
        raise Unavailable(
            errno.EBADF, "asyncring", "unknown", "The ring of this loop is closed: make a new loop."
        )

    def close(self) -> None:
        """Cancel the requests in flight, wait for them and close the ring; closing the loop does this.

        Futures that have not ended are cancelled, and late results passed to late().

        Raises: WrongThread while the loop runs in another thread.
        """
        if self._closing:
            return
        if self._ring._owner != get_ident() and self._ring._state == "open" and self._loop.is_running():
            self._follow_loop()
        self._closing = True
        try:
            self._end_all()
        except BaseException:
            self._closing = self._ring.closed  # otherwise close() can be called again
            raise

    def _end_all(self) -> None:
        for mailbox in tuple(self._mailboxes):
            mailbox.close()
        for source in self._starved:
            source.wake()
        if self._owned:
            self._leave_loop()
        if self._ring._state == "open":
            if self._ring._owner != get_ident():
                self._ring.bind_thread()
            self.table.answer_unsent(-errno.ECANCELED)  # closing the table runs their handlers
        if self._owned:
            self._ring.close()
        else:
            self.table.close()

    def _close_with_loop(self) -> None:
        """Close the loop, after the ring."""
        if not self._loop.is_running() and not self._loop.is_closed():
            self.close()
        self._close_loop()

    def _leave_loop(self) -> None:
        loop = self._loop
        if getattr(loop, _ATTRIBUTE, None) is self:
            delattr(loop, _ATTRIBUTE)
        if not loop.is_closed():
            loop.remove_reader(self._reader)

    def _lose(self, error: OSError) -> None:
        """End everything when io_uring was taken away: memory stays, each request fails with the errno."""
        res = -(error.errno or errno.EIO)
        for mailbox in tuple(self._mailboxes):
            mailbox.close()
        self._leave_loop()
        self.table.answer_unsent(res)
        entries, blocks = self.table.entries, self.table._blocks  # the table drops them
        try:
            self._ring.close()
        finally:
            calls = [partial(entry[0], res, 0) for entry in entries.values() if entry[0] is not None]
            calls += [partial(source.handle, res, 0) for source in self._starved]
            for many in blocks.values():
                left = [index for index, still in enumerate(many.open) if still]
                if many.handler is not None:
                    calls.append(partial(many.handler, left, [res] * len(left), [0] * len(left)))
            try:
                rings.call_all(calls)
            finally:
                self._closing = True
                self._report("io_uring was taken away from this loop", error)

    def __repr__(self) -> str:
        """Show the ring and how much is in flight."""
        return f"<AsyncRing {len(self.table)} in flight on {self._ring!r}>"

    # -- sockets

    async def recv(
        self, sock: socket.socket, nbytes: int, flags: int = 0, *, timeout: float | None = None
    ) -> bytes:
        """Receive from a socket.

        Args: as for socket.recv().
        Returns: the bytes; b"" at end of file.
        Raises: OSError, TimeoutError; ValueError for a socket that blocks.
        """
        return await self._try(sock, _POLLIN, timeout, _recv, sock, nbytes, flags)  # type: ignore[no-any-return]

    async def recv_into(
        self, sock: socket.socket, buffer: Any, flags: int = 0, *, timeout: float | None = None
    ) -> int:
        """Receive from a socket into a buffer.

        Args: as for socket.recv_into().
        Returns: the number of bytes; 0 at end of file.
        Raises: OSError, TimeoutError; ValueError for a socket that blocks.
        """
        return await self._try(sock, _POLLIN, timeout, _recv_into, sock, buffer, flags)  # type: ignore[no-any-return]

    async def accept(
        self, sock: socket.socket, *, timeout: float | None = None
    ) -> tuple[socket.socket, Any]:
        """Accept a connection.

        Returns: a non-blocking socket and the address of its peer.
        Raises: OSError, TimeoutError; ValueError for a socket that blocks.
        """
        return await self._try(sock, _POLLIN, timeout, _accept, sock)  # type: ignore[no-any-return]

    async def connect(self, sock: socket.socket, address: Any, *, timeout: float | None = None) -> None:
        """Connect a socket.

        Args: address as for socket.connect(); the loop resolves a host name.
        Raises: OSError, TimeoutError; ValueError for a socket that blocks.
        """
        _check_socket(sock)
        if sock.family in (socket.AF_INET, socket.AF_INET6) and not _is_numeric(sock.family, address[0]):
            found = await self._loop.getaddrinfo(
                address[0], address[1], family=sock.family, type=sock.type, proto=sock.proto
            )
            address = found[0][4]
        end = _deadline(timeout)
        pause = 0.001
        while True:
            try:
                sock.connect(address)
                return
            except (BlockingIOError, InterruptedError) as error:
                if error.errno != errno.EAGAIN:
                    break
            # The backlog of a Unix socket is full, which poll does not report: the kernel's own request hung.
            if end is not None and time.monotonic() >= end:
                raise _timed_out("connect")
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.05)
        if end is not None:
            timeout = end - time.monotonic()
        await self.poll(sock, _POLLOUT, timeout=timeout)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, f"connect to {address!r}: {os.strerror(code)}")

    async def send(
        self, sock: socket.socket, data: Any, flags: int = 0, *, timeout: float | None = None
    ) -> int:
        """Send on a socket.

        Args: as for socket.send().
        Returns: the number of bytes accepted.
        Raises: OSError, TimeoutError; ValueError for a socket that blocks.
        """
        _check_socket(sock)
        return await self._try(sock, _POLLOUT, timeout, sock.send, data, flags)  # type: ignore[no-any-return]

    async def sendmsg(
        self, sock: socket.socket, buffers: Iterable[Any], ancdata: Iterable[Any] = (), flags: int = 0,
        address: Any = None, *, fds: Iterable[int] = (), timeout: float | None = None,
    ) -> int:  # fmt: skip
        """Send pieces, ancillary data and descriptors on a socket.

        Args: as for socket.sendmsg(); fds are descriptors to pass (SCM_RIGHTS, Unix sockets).
        Returns: the number of bytes accepted.
        Raises: OSError, TimeoutError; ValueError for a socket that blocks.
        """
        _check_socket(sock)
        passed = list(fds)
        control = list(ancdata)
        if passed:
            control.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", passed)))
        arguments: list[Any] = [list(buffers), control, flags]
        if address is not None:
            arguments.append(address)
        return await self._try(sock, _POLLOUT, timeout, sock.sendmsg, *arguments)  # type: ignore[no-any-return]

    async def send_zc(
        self, sock: socket.socket, data: Any, flags: int = 0, *, timeout: float | None = None
    ) -> int:
        """Send on a socket without copying, and wait until the memory is free again.

        Where the kernel or the socket does not support that, the bytes are copied. When the call is cancelled
        after the bytes were accepted, data must not be changed until the peer has received them.

        Args: as for socket.send(); data as for pin().
        Returns: the number of bytes accepted.
        Raises: OSError, TimeoutError; ValueError for a socket that blocks.
        Lifetime: until the notification CQE.
        Since: 6.0; earlier kernels copy, as send()
        """
        _check_socket(sock)
        if self.supports(uapi.IORING_OP_SEND_ZC):
            more = flags | _MSG_NOSIGNAL
            try:
                return await self.call(  # type: ignore[no-any-return]
                    ops.prep_send_zc, sock.fileno(), pin(data), None, more, 0, timeout=timeout
                )
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
        return await self.send(sock, data, flags, timeout=timeout)

    def poll(self, fd: Any, mask: int, *, timeout: float | None = None) -> RequestFuture:
        """Wait until a descriptor is ready.

        Args: fd is a descriptor or has a fileno(); mask holds select.POLL* bits.
        Returns: an awaitable of the bits that are set.
        """
        try:
            number = fd if isinstance(fd, int) else fd.fileno()
        except AttributeError:
            raise TypeError(f"fd={fd!r:.100} is neither a descriptor nor has a fileno()") from None
        return self.call(ops.prep_poll_add, number, mask, timeout=timeout)

    def accept_multishot(self, sock: socket.socket) -> AsyncIterator[socket.socket]:
        """Iterate over the connections of a listening socket, with a single request.

        Returns: an asynchronous iterator of non-blocking sockets, to be closed like that of stream(). A
            connection that arrives too late goes to the next accept().
        Raises: OSError from a step.
        Since: 5.19; earlier kernels use accept()
        """
        _check_socket(sock)
        flags = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        arguments = sock.fileno(), 0, 0, int(flags)
        source = _Source(self, ops.prep_multishot_accept, arguments, (sock,), {}, None)
        source.sock = sock
        source.convert = _connection
        source.late = lambda conn: self._put_back(sock, (conn, conn.getpeername()))
        source.instead = lambda: self._accept_one(sock)
        return Stream(source)

    async def _accept_one(self, sock: socket.socket) -> socket.socket:
        return (await self.accept(sock))[0]

    def recv_multishot(
        self, sock: socket.socket, buffers: buffers.ProvidedBuffers | None = None
    ) -> AsyncIterator[Piece]:
        """Iterate over the data that a socket receives, with a single request.

        Args: buffers is the group from which the kernel takes memory; by default the ring's own, of
            64 buffers of 8 KiB.
        Returns: an asynchronous iterator of Pieces, to be released after use. It ends when the peer has
            closed its end. It is closed like that of stream(), and data that arrives too late goes to the
            next recv().
        Raises: OSError from a step.
        Since: 6.0; earlier kernels use recv()
        """
        _check_socket(sock)
        group = buffers
        # SOCKET arrived in 5.19, too. Trying the registration instead would block: 5.10 rejects an unknown
        # one only when no request is in flight any more.
        if group is None and self._group is None and self.supports(uapi.IORING_OP_SOCKET):
            try:
                self._group = self._make_group()
            except OSError:  # before 5.19: the request would not work either
                self._group = None
        group = group or self._group
        source = _Source(self, ops.prep_recv_multishot, (sock.fileno(), 0, 0, 0), (sock,), {}, group)
        source.sock = sock
        source.convert = _received
        source.late = lambda piece: self._put_back(sock, piece.take())
        source.instead = lambda: self._recv_one(sock)
        # 5.10 does not reject the request: it receives nothing into no memory, which looks like end of file.
        source.unable = group is None
        return Stream(source)

    async def _recv_one(self, sock: socket.socket) -> Piece:
        data = await self.recv(sock, _PIECE)
        if not data:
            raise StopAsyncIteration
        return Piece(memoryview(data))

    def _make_group(self) -> buffers.ProvidedBuffers:
        for bgid in range(_GROUP, _GROUP + 256):
            if ("pbuf", bgid) not in self._ring.resources:
                break
        return register.setup_buf_ring(self._ring, bgid, _PIECES, _PIECE)

    async def _try(
        self, sock: socket.socket, mask: int, timeout: float | None, attempt: Callable[..., Any],
        *arguments: Any,
    ) -> Any:  # fmt: skip
        """Try a call that does not block, and wait in the ring while it would."""
        _check_socket(sock)
        if self._needs_breath():
            await _suspend  # before data is taken, which a cancelled task would lose
        end = _deadline(timeout)
        while True:
            try:
                return attempt(*arguments)
            except (BlockingIOError, InterruptedError):
                pass
            if end is not None:
                timeout = end - time.monotonic()
            future = self.poll(sock, mask, timeout=timeout)
            try:
                if mask == _POLLIN:
                    self._receivers[future] = sock
                await future
            except OSError as error:
                # _put_back() has cancelled it: data is available now.
                if error.errno != errno.ECANCELED or sock not in _late_of:
                    raise
            finally:
                self._receivers.pop(future, None)

    def _put_back(self, sock: socket.socket, value: Any) -> None:
        """Keep data that arrived too late for its request, and wake one task that waits for the socket."""
        _late_of.setdefault(sock, _LateItems()).append(value)
        for future, waited in self._receivers.items():
            if waited is sock and not future.done():
                self.cancel(future.token)
                break

    # -- time, children, other processes, files

    async def sleep_until(self, when: float, clock: int = time.CLOCK_MONOTONIC) -> None:
        """Sleep until a clock shows a time, even if that clock is set meanwhile.

        Args: when in seconds, as time.clock_gettime(clock) shows them; clock is time.CLOCK_MONOTONIC,
            CLOCK_REALTIME or CLOCK_BOOTTIME.
        Raises: ValueError for another clock; OSError where the kernel does not know it.
        Since: 5.5; CLOCK_REALTIME and CLOCK_BOOTTIME 5.15
        """
        flags = _CLOCKS.get(clock)
        if flags is None:
            raise ValueError(f"clock={clock!r}: CLOCK_MONOTONIC, CLOCK_REALTIME or CLOCK_BOOTTIME")
        nanoseconds = _nanoseconds(when, "when")
        until = timespec(1 << 62 if nanoseconds is None else nanoseconds)
        try:
            await self.call(ops.prep_timeout, until, 0, uapi.IORING_TIMEOUT_ABS | flags)
        except OSError as error:
            if error.errno == errno.EINVAL and flags:
                raise OSError(errno.EINVAL, f"clock={clock} in the ring needs Linux 5.15") from None
            if error.errno != errno.ETIME:
                raise

    async def waitid(
        self, idtype: int, id: int, options: int | None = None, *, timeout: float | None = None
    ) -> Any:
        """Wait until a child changes state, and reap it.

        Args: as for os.waitid(); options is os.WEXITED by default.
        Returns: an os.waitid_result.
        Raises: ChildProcessError, OSError, TimeoutError; NotImplementedError where this kernel does not
            support the arguments, and where os.waitid() does not exist (PyPy).
        Since: 6.7; 5.5 for the exit of one child
        """
        if not hasattr(os, "waitid"):
            raise NotImplementedError("waitid() needs os.waitid(), which this Python does not have")
        options = os.WEXITED if options is None else options
        while True:
            # The ring only looks, and the task reaps: a task that is cancelled has reaped no child.
            found = os.waitid(idtype, id, options | os.WNOHANG)
            if found is not None:
                return found
            if self.supports(uapi.IORING_OP_WAITID):
                look = options & ~os.WNOHANG | os.WNOWAIT
                await self.call(ops.prep_waitid, idtype, id, 0, look, 0, timeout=timeout)
            else:
                await self._wait_for_exit(idtype, id, options, timeout)

    async def _wait_for_exit(self, idtype: int, pid: int, options: int, timeout: float | None) -> None:
        if idtype != os.P_PID or options & (os.WSTOPPED | os.WCONTINUED) or not hasattr(os, "pidfd_open"):
            raise NotImplementedError(
                "waitid() for anything but the exit of one child needs IORING_OP_WAITID (Linux 6.7)"
            )
        fd = os.pidfd_open(pid)
        try:
            await self.poll(fd, _POLLIN, timeout=timeout)
        finally:
            os.close(fd)

    async def futex_wait(
        self, word: Any, expected: int, *, private: bool = False, timeout: float | None = None
    ) -> bool:
        """Wait until a futex is woken, by this process or another.

        Args: word is a Pin of 4 bytes, or writable memory as for pin(), such as an mmap; expected is the
            32-bit value that the word must have; private says that no other process uses the futex.
        Returns: True when woken; False when the word has another value. A wake-up that arrives too late for
            a cancelled call is passed on to the next waiter.
        Raises: OSError, also where the kernel has no such operation; TimeoutError.
        Lifetime: until the final CQE.
        Since: 6.7
        """
        memory, rest = _futex(word, private)

        def pass_on(res: int) -> None:
            self.start(ops.prep_futex_wake, memory.address, 1, *rest, holds=(memory,))

        try:
            await self.call(
                ops.prep_futex_wait, memory.address, expected, *rest, holds=(memory,), timeout=timeout,
                late=pass_on,
            )  # fmt: skip
        except BlockingIOError:
            return False
        return True

    def futex_wake(self, word: Any, count: int = 1, *, private: bool = False) -> RequestFuture:
        """Wake the waiters of a futex.

        Args: word and private as for futex_wait(); count is how many to wake.
        Returns: an awaitable of the number woken.
        Since: 6.7
        """
        memory, rest = _futex(word, private)
        return self.call(ops.prep_futex_wake, memory.address, count, *rest, holds=(memory,))

    def splice(
        self, fd_in: int, off_in: int, fd_out: int, off_out: int, nbytes: int, flags: int = 0, **options: Any
    ) -> RequestFuture:
        """Move bytes between two descriptors, one of which is a pipe.

        Args: as for ops.prep_splice(); options as for call().
        Returns: an awaitable of the number of bytes, 0 at end of file.
        Since: 5.7
        """
        return self.call(ops.prep_splice, fd_in, off_in, fd_out, off_out, nbytes, flags, **options)

    def tee(self, fd_in: int, fd_out: int, nbytes: int, flags: int = 0, **options: Any) -> RequestFuture:
        """Copy bytes from one pipe to another, without consuming them.

        Args: as for ops.prep_tee(); options as for call().
        Returns: an awaitable of the number of bytes, 0 at end of file.
        Since: 5.8
        """
        return self.call(ops.prep_tee, fd_in, fd_out, nbytes, flags, **options)

    def fsync(self, fd: int, *, datasync: bool = False) -> RequestFuture:
        """Flush a file to its storage.

        Args: datasync omits metadata that is not needed to read the data again, as os.fdatasync() does.
        Returns: an awaitable of 0.
        """
        return self.call(ops.prep_fsync, fd, uapi.IORING_FSYNC_DATASYNC if datasync else 0)

    # -- other loops

    def mailbox(self) -> Mailbox:
        """Open a mailbox of this loop's ring, to which other loops send numbers with msg_ring().

        Raises: RingClosed, WrongThread.
        """
        if self._closing:
            raise RingClosed("this ring is closed")
        if self._ring._owner != get_ident():
            self._follow_loop()
        return Mailbox(self)

    async def msg_ring(self, mailbox: Mailbox, value: int) -> None:
        """Post a number to a mailbox, usually that of another loop in another thread.

        Args: value is a signed 32-bit int.
        Raises: ValueError for a closed mailbox; OverflowError for a value out of range.
        Since: 6.3; earlier kernels use call_soon_threadsafe()
        """
        if not isinstance(mailbox, Mailbox):
            raise TypeError(f"{mailbox!r:.100} is not a mailbox: mailbox() opens one")
        if not isinstance(value, int):
            raise TypeError(f"value={value!r:.100} is not an int")
        if not -(1 << 31) <= value < 1 << 31:
            raise OverflowError(f"{value} does not fit into the 32 bits of res")
        if mailbox.closed:
            raise ValueError("the mailbox is closed")
        try:
            await self.call(
                ops.prep_msg_ring_cqe_flags, mailbox._ring._ring.fileno(), value & 0xFFFFFFFF, mailbox.token,
                0, uapi.IORING_CQE_F_MORE,
            )  # fmt: skip
        except OSError:  # the kernel lacks the operation, or the other ring has no room
            call = mailbox._ring._call_from_any_thread
            if mailbox.closed or not call(mailbox._take, value, uapi.IORING_CQE_F_MORE):
                raise ValueError("the mailbox is closed") from None


def _futex(word: Any, private: bool) -> tuple[Pin, tuple[int, int, int]]:
    """Pin the word of a futex; return the arguments after its value as well: mask, futex_flags and flags."""
    memory = word if isinstance(word, Pin) else pin(word, True)
    if memory.nbytes < 4:
        raise ValueError(f"a futex is a word of 4 bytes, and {word!r:.100} has {memory.nbytes}")
    size = uapi.FUTEX2_SIZE_U32 | (uapi.FUTEX2_PRIVATE if private else 0)
    return memory, (uapi.FUTEX_BITSET_MATCH_ANY, size, 0)


# ------------------------------------------------------------------------------------------------------
# Multishot requests


class Piece(Uncopyable):
    """Data in a provided buffer, which returns to its group with release().

    ``data`` is a memoryview, valid until then; bytes(piece) is a copy.
    """

    __slots__ = ("__weakref__", "_bid", "_source", "data")

    def __init__(self, data: memoryview, source: _Source | None = None, bid: int = -1) -> None:
        """Hold data; source and bid say where its buffer belongs, bid -1 that it has none yet."""
        self.data = data
        self._source = source
        self._bid = bid

    def release(self) -> None:
        """Return the buffer to the kernel; may be called twice."""
        source, self._source = self._source, None
        self.data.release()
        if source is not None and self._bid >= 0:
            source.recycle(self._bid)

    def take(self) -> bytes:
        """Copy the data, and release the buffer."""
        data = bytes(self.data)
        self.release()
        return data

    def __bytes__(self) -> bytes:
        """Copy the data."""
        return bytes(self.data)

    def __len__(self) -> int:
        """Count the bytes."""
        return len(self.data)

    def __enter__(self) -> memoryview:
        """Return the data; leaving the block releases the buffer."""
        return self.data

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the buffer."""
        self.release()

    def __del__(self) -> None:
        """Release a buffer that was not released."""
        if getattr(self, "_source", None) is not None:
            try:
                self.release()
            except ValueError:
                return  # its group is gone


class _Source(Uncopyable):
    """The back of a Stream: the table's handler refers to it only, so an unclosed stream can be freed."""

    def __init__(
        self, ring: AsyncRing, prep: Any, arguments: tuple[Any, ...], holds: Any, options: dict[str, Any],
        group: Any,
    ) -> None:  # fmt: skip
        self.ring = ring
        self.request = prep, arguments, holds, options
        self.group = group
        if group is not None:
            if not isinstance(group, buffers.ProvidedBuffers):
                raise TypeError(f"buffers={group!r:.100}: register.setup_buf_ring() makes a group of buffers")
            options["flags"] = options.get("flags", 0) | uapi.IOSQE_BUFFER_SELECT
            options["buf_group"] = group.bgid
        #: The request in flight, 0 for none.
        self.token = 0
        self.items: deque[tuple[Any, int]] = deque()
        self.error: OSError | None = None
        self.closed = self.starved = self.unable = False
        self.waiter: asyncio.Future[None] | None = None
        #: convert makes the value of a step from (res or Piece, flags); late takes such a value when it
        #: arrives too late; instead is awaited in each step where the kernel does not support the request.
        self.convert: Callable[[Any, int], Any] = _both
        self.late: Callable[[Any], object] = partial(_drop, prep)
        self.instead: Callable[[], Awaitable[Any]] | None = None
        #: The socket whose late items are returned first.
        self.sock: socket.socket | None = None

    def arm(self) -> None:
        """Start the request."""
        prep, arguments, holds, options = self.request
        self.token = self.ring._start(prep, arguments, self.handle, holds, dict(options))

    def handle(self, res: int, flags: int) -> None:
        """Handle a CQE."""
        prep = self.request[0]
        if not flags & uapi.IORING_CQE_F_MORE:
            self.token = 0
        if res >= 0 or (prep is ops.prep_timeout and res == -errno.ETIME):
            self.take(res, flags)
        elif res == -errno.ENOBUFS and self.group is not None:
            self.starved = not len(self.group)
            if self.starved:
                self.ring._starved.append(self)
        elif res == -errno.EINVAL and self.instead is not None and not self.items:
            self.unable = True
        elif res != -errno.ECANCELED:  # that is our own cancellation, or the end of the submitting thread
            self.error = self.ring._error(res, prep)
        if self.closed or self.ring._closing:
            self.give_late()
        self.wake()

    def take(self, res: int, flags: int) -> None:
        """Append the item of a CQE."""
        if self.group is None:
            self.items.append((res, flags))
            return
        pieces = self.group.take(res, flags)
        for each in pieces:
            piece = Piece(each.data, self, each.bid if each.done else -1)
            self.items.append((piece, flags))
        if not pieces:
            self.items.append((Piece(memoryview(b"")), flags))

    def recycle(self, bid: int) -> None:
        """Return a buffer to the group; the garbage collector may call this, in another thread."""
        ring = self.ring
        if ring._ring._state != "open":
            return
        if ring._ring._owner != get_ident():
            if asyncio._get_running_loop() is not ring._loop:
                ring._call_from_any_thread(self.recycle, bid)
                return
            ring._ring.bind_thread()
        self.group.recycle(bid)
        starved, ring._starved = ring._starved, []
        for source in starved:
            source.starved = False
            source.wake()

    def wake(self) -> None:
        """Wake the step that waits."""
        if self.waiter is not None and not self.waiter.done() and not self.ring._loop.is_closed():
            self.waiter.set_result(None)

    async def wait(self) -> None:
        """Wait for the next wake()."""
        self.waiter = self.ring._loop.create_future()
        try:
            await self.waiter
        finally:
            self.waiter = None

    def give_late(self) -> None:
        """Pass the items that no step will take to late()."""
        while self.items:
            value = self.items.popleft()
            try:
                late = self.convert(*value)
            except StopAsyncIteration:
                continue
            self.ring._hand_over(self.late, late)

    def in_flight(self) -> bool:
        """Tell whether the request is still to end."""
        if self.token and not (self.token in self.ring.table.entries or self.ring.table.has_work()):
            self.token = 0  # it has ended, and a signal handler raised inside handle()
        return self.token != 0

    def end(self) -> None:
        """Ask the kernel to end the request."""
        self.closed = True
        self.give_late()
        if self.token:
            self.ring.cancel(self.token)


class Stream(Uncopyable):
    """The asynchronous iterator over the completions of a multishot request that stream() returns."""

    def __init__(self, source: _Source) -> None:
        """Wrap a source; use stream() to make a stream."""
        self._source = source

    def __aiter__(self) -> Stream:
        """Return the stream itself."""
        return self

    async def __anext__(self) -> Any:
        """Return the next item."""
        source = self._source
        if source.ring._needs_breath():
            await _suspend
        if source.waiter is not None:
            raise RuntimeError("another task already waits for the next item of this stream")
        while True:
            if _late_of and source.sock in _late_of:
                return _late_item(source.sock)
            if source.items:
                return source.convert(*source.items.popleft())
            if source.error is not None:
                error, source.error = source.error, None
                raise error
            if source.closed or source.ring._closing:
                raise StopAsyncIteration
            if source.unable and source.instead is not None:
                return await source.instead()
            if not source.in_flight() and not source.starved:
                source.arm()
            await source.wait()

    async def aclose(self) -> None:
        """End the request and wait until it has ended; items that still arrive are late."""
        source = self._source
        source.end()
        source.wake()
        while source.in_flight():
            if source.token in source.ring.table.entries:
                await source.wait()
            else:
                await _suspend

    async def __aenter__(self) -> Stream:
        """Return the stream itself; leaving the block closes it."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the stream."""
        await self.aclose()

    def __del__(self) -> None:
        """End the request of a stream that was not closed."""
        source = getattr(self, "_source", None)
        if source is None or (source.closed and not source.token) or source.ring._ring._state != "open":
            return
        if source.ring._ring._owner == get_ident():
            source.end()
        else:
            source.ring._call_from_any_thread(source.end)


class Mailbox(Uncopyable):
    """An asynchronous iterator over the numbers that other loops have sent: see AsyncRing.mailbox()."""

    def __init__(self, ring: AsyncRing) -> None:
        """Open a mailbox; use AsyncRing.mailbox() instead."""
        self._ring = ring
        self._values: deque[int] = deque()
        self._waiter: asyncio.Future[None] | None = None
        #: It accepts nothing any more.
        self.closed = False
        #: user_data of the completions that others post for it.
        self.token = ring.table.hold(self._take)
        ring._mailboxes.add(self)

    def _take(self, res: int, flags: int) -> None:
        self._values.append(res)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __aiter__(self) -> Mailbox:
        """Return the mailbox itself."""
        return self

    async def __anext__(self) -> int:
        """Return the next number."""
        while not self._values:
            if self.closed:
                raise StopAsyncIteration
            if self._waiter is not None:
                raise RuntimeError("another task already waits for the next number of this mailbox")
            self._waiter = self._ring._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._values.popleft()

    def close(self) -> None:
        """Accept nothing any more; numbers that have arrived can still be read."""
        self.closed = True
        self._ring._mailboxes.discard(self)
        self._ring.table.entries.pop(self.token, None)
        if not self._ring._loop.is_closed():
            self._wake()


# ------------------------------------------------------------------------------------------------------
# Items that arrived too late


class _LateItems(deque):  # type: ignore[type-arg]
    """Items that multishot requests brought for a socket after they were closed, the oldest first."""

    def __del__(self) -> None:
        for item in self:
            if isinstance(item, tuple):
                item[0].close()


#: Per socket: bytes, or a connection with its address.
_late_of: weakref.WeakKeyDictionary[socket.socket, _LateItems] = weakref.WeakKeyDictionary()


def _take_late(sock: socket.socket) -> Any:
    items = _late_of.get(sock)
    if items is None:
        return None
    item = items.popleft()
    if not items:
        del _late_of[sock]
    return item


def _late_item(sock: Any) -> Any:
    """Take an item as a stream would have returned it: a Piece, or a connection."""
    item = _take_late(sock)
    return item[0] if isinstance(item, tuple) else Piece(memoryview(item))


def _recv(sock: socket.socket, nbytes: int, flags: int) -> bytes:
    if not _late_of or sock not in _late_of:
        return sock.recv(nbytes, flags)
    data: bytes = _take_late(sock)
    rest = data[nbytes:] if sock.type == socket.SOCK_STREAM else b""
    if rest or flags & socket.MSG_PEEK:
        _late_of.setdefault(sock, _LateItems()).appendleft(data if flags & socket.MSG_PEEK else rest)
    return data[:nbytes]


def _recv_into(sock: socket.socket, buffer: Any, flags: int) -> int:
    if not _late_of or sock not in _late_of:
        return sock.recv_into(buffer, 0, flags)
    with memoryview(buffer) as view, view.cast("B") as room:
        data = _recv(sock, len(room), flags)
        room[: len(data)] = data
    return len(data)


def _accept(sock: socket.socket) -> tuple[socket.socket, Any]:
    if _late_of and sock in _late_of:
        return _take_late(sock)  # type: ignore[no-any-return]
    conn, address = sock.accept()
    conn.setblocking(False)
    return conn, address


# ------------------------------------------------------------------------------------------------------
# Helpers


class _Suspend:
    """Suspend once: the task goes on in the next turn."""

    def __await__(self) -> Any:
        yield


_suspend = _Suspend()

_CLOCKS = {
    getattr(time, name, None): flag
    for name, flag in (
        ("CLOCK_MONOTONIC", 0), ("CLOCK_REALTIME", uapi.IORING_TIMEOUT_REALTIME),
        ("CLOCK_BOOTTIME", uapi.IORING_TIMEOUT_BOOTTIME),
    )
}  # fmt: skip


def _none() -> Any:
    return None


def _always() -> Any:
    return True


def _reference(handle: Any) -> Callable[[], Any]:
    """Return a function that returns the handle until the loop has run it, or lost it."""
    try:
        return weakref.ref(handle)
    except TypeError:
        return lambda: handle


def _both(value: Any, flags: int) -> Any:
    return value, flags


def _drop(prep: Any, item: Any) -> None:
    if prep in _DESCRIPTORS:
        os.close(item[0])
    elif isinstance(item[0], Piece):
        item[0].release()


def _connection(res: int, flags: int) -> socket.socket:
    conn = socket.socket(fileno=res)
    conn.setblocking(False)  # the descriptor is non-blocking already, the object does not know it
    return conn


def _received(piece: Piece, flags: int) -> Piece:
    if not len(piece):
        raise StopAsyncIteration
    return piece


def _check_socket(sock: Any) -> None:
    if not isinstance(sock, socket.socket):
        raise TypeError(f"{sock!r:.100} is not a socket")
    if sock.gettimeout() != 0:
        raise ValueError(f"{sock!r} blocks: call its setblocking(False) first")


def _is_numeric(family: int, host: Any) -> bool:
    try:
        socket.inet_pton(family, host)
    except OSError:
        return False
    return True


def _token_of(slot: memoryview) -> int:
    return int.from_bytes(slot[32:40], sys.byteorder)


def _refuse_links(options: dict[str, Any]) -> None:
    flags = options.get("flags", 0)
    if isinstance(flags, int) and flags & _LINKS:
        raise ValueError("IOSQE_IO_LINK would link whichever request is queued next: use chain()")


def _nanoseconds(seconds: float, name: str = "timeout") -> int | None:
    """Convert seconds, negative ones to 0; return None for a time that never comes."""
    try:
        if seconds > 9.2e9:
            return None
        if seconds < 0:
            return 0
        return round(seconds * 1e9)
    except (TypeError, ValueError):
        kind = ValueError if isinstance(seconds, float) else TypeError
        raise kind(f"{name}={seconds!r:.100} is not a number of seconds") from None


def _deadline(timeout: float | None) -> float | None:
    """Return the time at which a timeout expires, by time.monotonic()."""
    nanoseconds = None if timeout is None else _nanoseconds(timeout)
    return None if nanoseconds is None else time.monotonic() + nanoseconds / 1e9
