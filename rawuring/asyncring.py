# SPDX-License-Identifier: MIT
# pyright: basic
"""Await any request: io_uring's completions on the asyncio loop that is running.

What it is: AsyncRing, the ring of a loop, whose calls return futures.
Mirrors: QEMU's ``aio_add_sqe`` and ``luring_co_submit``; trio's ``wait_overlapped`` for what cancelling does.
Must not know: selectors, aio.py, what is in a file.
Invariant: whatever becomes of a task, its request stays in the table until the final CQE, and what a request
brought although it was cancelled goes to late(), never nowhere.
Read next: aio.py.

Unless said otherwise, memory passed to a call may be freed when the call returns, only the thread that owns a
ring may use it (the one that runs the loop), and Linux 5.5 suffices.

Facts about asyncio and completions, and what follows from them:

* SQEs that are queued in one turn of the loop travel in one io_uring_enter at its end, and what completes
  inside that call is delivered in the same turn. On a loop whose selector has a ring (aio.py) that call is
  the selector's own; on any other loop it is a callback, and the ring is private, behind add_reader().
* The descriptor of a ring with IORING_SETUP_DEFER_TASKRUN does not wake epoll, so a private ring has
  IORING_SETUP_COOP_TASKRUN. It has no IORING_SETUP_SINGLE_ISSUER: a loop may be closed, or collected, in
  another thread.
* Future.cancel() of asyncio ends the future at once. Done so with a completion, what the kernel delivers
  afterwards is lost (data and cancel in one turn: all of it). So cancel() asks the kernel, the future ends
  with the final CQE, and a success that comes all the same is late: see RequestFuture.
* A socket is tried at once, without waiting. Where it would block, its readiness is what the ring waits for,
  and the task itself takes the data afterwards: nothing is taken for a task that is cancelled, no memory is
  tied to an idle connection, and O_NONBLOCK does not matter, which before 5.19 makes the kernel answer ACCEPT
  with EAGAIN. Multishot requests do take data; what they brought too late the next call on that socket gets.
* A task can be cancelled after its future is done and before the task runs. Then the result is there and
  nobody takes it: __await__ sees that, and it is late, too.
* A cancellation misses a request that waits for its part of a chain, or that is just being started: it is
  asked for again until the request has ended.
"""

from __future__ import annotations

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

#: Where a loop that is not ours keeps its AsyncRing: each copy of this package has a name of its own.
_ATTRIBUTE = "_" + __name__.replace(".", "_")

#: Setup flags of a private ring; see the head of this file.
_WISH = (
    uapi.IORING_SETUP_COOP_TASKRUN
    | uapi.IORING_SETUP_TASKRUN_FLAG
    | uapi.IORING_SETUP_SUBMIT_ALL
    | uapi.IORING_SETUP_NO_SQARRAY
)
_ENTRIES, _CQ_ENTRIES = 256, 1024

#: How long until a cancellation that missed its request is asked for again, at first and at the most.
_CANCEL_AGAIN, _CANCEL_AGAIN_MOST = 0.001, 1.0

#: Operations whose res is a descriptor: a late one is closed.
_DESCRIPTORS = {
    ops.prep_open, ops.prep_openat, ops.prep_openat2, ops.prep_accept, ops.prep_multishot_accept,
    ops.prep_socket, ops.prep_fixed_fd_install,
}  # fmt: skip
#: Operations that complete more than once, which is for stream().
_MULTISHOT = {
    ops.prep_multishot_accept, ops.prep_multishot_accept_direct, ops.prep_poll_multishot,
    ops.prep_read_multishot, ops.prep_recv_multishot, ops.prep_recvmsg_multishot, ops.prep_recv_zc,
}  # fmt: skip
_SPECIAL = _DESCRIPTORS | _MULTISHOT

#: How much later than a linked timeout the loop's own timer comes.
_GRACE = 0.005
#: How long answers that do not suspend may follow each other.
_BREATH = 0.0002
#: The group of buffers that recv_multishot() uses by default: how many, and of how many bytes.
_PIECES, _PIECE = 64, 8192
#: The first group number that is tried for it.
_GROUP = 0xA500

_POLLIN, _POLLOUT = 0x01, 0x04  # poll(2)
_MSG_NOSIGNAL = 0x4000  # PyPy has no such name
#: What a request completes with that was stopped; 512 is ERESTARTSYS, which leaks out of splice (6.18).
_STOPPED = -errno.ECANCELED, -errno.EINTR, -512
_LINKS = uapi.IOSQE_IO_LINK | uapi.IOSQE_IO_HARDLINK
#: How the names of operations begin that can do less than they are asked for.
_TRANSFERS = "read", "recv", "send", "splice", "tee", "write"


# ------------------------------------------------------------------------------------------------------
# The running loop's


def running() -> AsyncRing:
    """Return the ring of the running loop, made on first use.

    Returns: the loop's ``uring``, if it has one; else a private ring, which ends with the loop.
    Raises: RuntimeError where no loop runs; Unavailable with cause and advice where io_uring is refused.
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
    """Tell whether requests can be awaited here: in the running loop, or in a loop, if none runs."""
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
    except OSError as error:  # of mmap(2), which Python gives a descriptor of its own
        raise _unavailable(error, "mmap of the rings") from None
    if not ring.features & uapi.IORING_FEAT_NODROP:
        ring.close()
        raise Unavailable(
            errno.ENOSYS, "asyncring", "absent",
            "This kernel drops completions that find no room and cannot cancel: use Linux 5.5 or newer.",
        )  # fmt: skip
    ring.owned = True  # of a loop that is forgotten asyncio tells
    ring.dont_fork()
    return ring


# ------------------------------------------------------------------------------------------------------
# Futures


class RequestFuture(Uncopyable, asyncio.Future):  # type: ignore[type-arg]
    """What call() returns: a future whose result is res.

    cancel() asks the kernel, and the future ends with the final CQE: cancelled, even if the request succeeded
    all the same.
    """

    #: Its user_data.
    token = 0
    _ring: AsyncRing
    _prep: Any = None
    _at = 0  # sq.sqe_tail behind its SQEs
    _asked = False  # cancel() was called
    _unsent = False  # the kernel never saw it
    _taken = False  # somebody has the result
    _first: int | None = None  # res of a first CQE with IORING_CQE_F_MORE
    _late: Any = None
    _message: Any = None

    def _complete(self, res: int, flags: int) -> None:
        """Take a CQE: the table's handler."""
        if flags & uapi.IORING_CQE_F_MORE:
            self._take_first(res)
        else:
            self._end(res if self._first is None else self._first)

    def _take_first(self, res: int) -> None:
        """Note the result of a zero-copy send; the notification, which frees the memory, ends the future."""
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
                    # The ring of a forgotten loop may be closed before the loop: no sound then, as of futures
                    # that are cancelled.
                    self._log_traceback = False

    def _failure(self, res: Any) -> BaseException | None:
        return self._ring._error(res, self._prep) if res < 0 else None

    def _give_late(self, res: Any) -> None:
        """Hand a result to late() that nobody waits for any more."""
        if self._late is not None and res >= 0:
            self._ring._hand_over(self._late, res)

    def _abandon(self) -> None:
        """Hand over what the future has, and its task will not take."""
        if not self.exception():
            self._give_late(self.result())

    def cancel(self, msg: Any = None) -> bool:
        """Ask the kernel to end the request; the future is cancelled with its final CQE.

        Args: msg as for asyncio.Future.
        Returns: False when the future is done already.
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
            self._unsent = True  # first: if a signal handler raises, late() must not get what a NOP says
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
        """End a future whose completion was lost: a signal handler has raised in the midst of _complete()."""
        if self.done() or self._ring._loop.is_closed():
            return
        if self._ring._ring._state == "open" and (self._in_flight() or self._ring.table.has_work()):
            # It is to come.
            self._give_up_later()
        else:
            super().cancel(self._message)
            self._give_rest()

    def _give_rest(self) -> None:
        """Hand over what did come."""

    def __await__(self) -> Any:
        ring = self._ring
        try:
            if not self.done() and ring._ends_turn():
                ring._flush_early(self)
            if not self.done():
                self._asyncio_future_blocking = True
                yield self
            elif ring._needs_breath():
                yield
        except BaseException as error:  # the task is cancelled, or destroyed; or this is our own exception
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
    """A future with a linked timeout: it ends when both of its requests have."""

    # res of the LINK_TIMEOUT. When it has ended a futex wait or a waitid that is not -ETIME but 1 (io_uring/
    # cancel.h io_cancel_remove returns how many it has found; seen on 6.18), and -ENOENT when it has ended
    # what runs in a worker (a splice; seen on 6.1). One that was not needed completes with -ECANCELED.
    _timer: int | None = None
    # A linked timeout does not start for a request that begins in a worker (splice; seen on 6.18): then the
    # loop's own timer ends it, a little later.
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
    """Raised by a chain of which a part failed; the parts behind it have completed with -ECANCELED.

    (A failed fsync, and before 5.15 a closed descriptor, does not stop them.) ``index`` is the number of that
    part, ``results`` are the res of all parts. The errno is that of the part; it is ECANCELED where a part
    did less than it was asked for, such as a short read.
    """

    def __init__(self, index: int, results: list[int], prep: Any) -> None:
        """Say which part of how many broke the chain."""
        res, name = results[index], _operation(prep)
        code = -res if res < 0 else errno.ECANCELED
        says = os.strerror(code) if res < 0 else f"{res} is less than was asked for"
        super().__init__(code, f"part {index} of {len(results)} ({name}) broke the chain: {says}")
        self.index = index
        self.results = results


class _ChainFuture(RequestFuture):
    """What chain() returns: a future of all results."""

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
            # What stands before the first of these did too little, if it can. Else that one was stopped.
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
                self._results[i] = -errno.ECANCELED  # first, and not what the NOP will say
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
        raise TypeError(f"late={late!r:.100} cannot be called; a function of the result is, or None")


def _timed_out(what: str) -> Exception:
    kind = TimeoutError if sys.version_info >= (3, 11) else asyncio.TimeoutError
    return kind(f"{what} did not end in time")


# ------------------------------------------------------------------------------------------------------
# The ring of a loop


class AsyncRing(Uncopyable):
    """The ring of an asyncio loop: see running().

    ``table`` is its InFlight. The methods that are named after a system call do what it does, without
    blocking the loop; sockets have to be non-blocking, as for asyncio. timeout is in seconds everywhere; when
    it has passed they raise TimeoutError (asyncio.TimeoutError before Python 3.11).
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None, table: InFlight | None = None) -> None:
        """Make the ring of a loop.

        Args: loop is the running loop by default; table belongs to a ring that somebody else submits, waits
            for and reaps in each turn of the loop, running the table's handlers. Without one the ring is
            private, and ends with the loop.
        Raises: Unavailable with cause and advice.
        """
        self._closing = False
        self._loop = loop = asyncio.get_running_loop() if loop is None else loop
        self._owned = table is None
        #: What asyncio's own loops are about to run, None elsewhere.
        ready = getattr(loop, "_ready", None)
        self._ready = ready if self._owned and isinstance(ready, deque) else None
        # The call of _turn() that is to come: there, and its place, or one on the right of it; elsewhere a
        # weak reference. Where somebody else submits in each turn, there is always one to come.
        self._handle: Any = None
        self._place = 0
        self._to_come: Callable[[], Any] = _none if self._owned else _always
        self._has_to_wait = False  # what was sent early in this turn
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
            #: What is in flight.
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
            it a descriptor that an open, accept or socket brought is closed.
        Returns: an awaitable of res, which is no coroutine: gather() makes no task of it. A zero-copy send
            ends with its notification, when its memory is free again.
        Raises: as InFlight.start(); ValueError for IOSQE_IO_LINK, which is chain()'s, TypeError for what
            completes more than once, which is stream()'s. The future raises OSError where res is a negative
            errno, and TimeoutError.
        Lifetime: until the final CQE.
        """
        if timeout is not None:
            return self._call_timed(prep, arguments, holds, timeout, late, options)
        future = RequestFuture(loop=self._loop)
        future._ring = self
        future._prep = prep
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
        future._ring = self
        future._prep = prep
        future._late = _late_by_default(prep, late)
        _refuse_links(options)
        options["flags"] = options.get("flags", 0) | uapi.IOSQE_IO_LINK
        parts = [
            (prep, arguments, future._complete, holds, options),
            (ops.prep_link_timeout, (timespec(nanoseconds), 0), future._timer_ended, (), {}),
        ]
        future.token, future._timer_token = self._start_linked(parts)
        future._at = self._ring.sq.sqe_tail - 1  # the request stands before its timeout
        future._stop_at(nanoseconds / 1e9)
        return future

    def chain(
        self, *parts: Sequence[Any], hard: bool = False, late: Callable[[list[int]], object] | None = None
    ) -> RequestFuture:
        """Start requests of which each begins when the one before it has succeeded.

        Args: each part is (prep, argument, ...), as for call(), whose last item may be a dictionary of
            options; hard goes on after a failure (IOSQE_IO_HARDLINK); late(results) takes the results of a
            chain that was cancelled; without it descriptors are closed.
        Returns: an awaitable of all results, in order.
        Raises: as InFlight.start(), for which no part is started; ValueError for no parts, and for more
            than fit into the SQ. The future raises ChainBroken, which says which part broke it; a short read
            or write breaks it, too.
        Lifetime: until the final CQE.
        """
        _check_late(late)
        if not parts:
            raise ValueError("chain() links requests, and none are given")
        for part in parts:
            if not isinstance(part, (tuple, list)) or not part:
                raise TypeError(f"{part!r:.100} is no part of a chain: (prep, argument, ...) is")
            _late_by_default(part[0], None)
        future = _ChainFuture([part[0] for part in parts], self._loop)
        future._ring = self
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
            context; what it raises goes to the loop's exception handler.
        Returns: the token.
        Raises: as InFlight.start(); ValueError for IOSQE_IO_LINK, which is chain()'s.
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
            token = self.table.start(prep, *arguments, handler=handler, holds=holds, **options)
        except (SubmissionQueueFull, WrongThread):
            self._make_room(1)
            token = self.table.start(prep, *arguments, handler=handler, holds=holds, **options)
        if self._ready is not None or self._to_come() is None:
            self._schedule()
        return token

    def _start_linked(self, parts: list[tuple[Any, Any, Any, Any, dict[str, Any]]]) -> list[int]:
        """Queue requests that are linked, all or none: a link that hangs would take whoever comes next."""
        sq, table = self._ring.sq, self.table
        if len(parts) > sq.ring_entries:
            raise ValueError(f"{len(parts)} linked requests do not fit into a queue of {sq.ring_entries}")
        self._make_room(len(parts))
        tail, tokens = sq.sqe_tail, []
        try:
            for prep, arguments, handler, holds, options in parts:
                tokens.append(table.start(prep, *arguments, handler=handler, holds=holds, **options))
        except BaseException:
            # Nothing was submitted in between; a signal handler may have raised before the last token came.
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
            takes memory, as register.setup_buf_ring() makes it; late(item) takes what comes when the stream
            is closed. Without it descriptors are closed and Pieces released.
        Returns: an asynchronous iterator of (res, flags), and of (Piece, flags) with buffers. The request
            starts with the first step, and when the kernel has ended it, again with the next. A step that is
            cancelled loses nothing. Close it: ``async with``, or aclose().
        Raises: as InFlight.start(), from a step; a step raises OSError where res is a negative errno, and the
            next one tries again.
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
        """Ask the kernel to end a request; its handler still gets the final CQE.

        Args: token as start() returned it; one that has ended is left alone.
        Raises: TypeError for what is no token.
        """
        if not isinstance(token, int):
            raise TypeError(f"token={token!r:.100} is no token: start() returns one")
        self._cancel(token, _CANCEL_AGAIN)

    def _cancel(self, token: int, delay: float) -> None:
        if token not in self.table.entries or self._ring._state != "open":
            return
        try:
            self._start(ops.prep_cancel64, (token, 0), partial(self._cancelled, token, delay), (), {})
        except (SubmissionQueueFull, OSError):  # no room for now
            self._loop.call_later(delay, self._cancel, token, min(2 * delay, _CANCEL_AGAIN_MOST))

    def _cancelled(self, token: int, delay: float, res: int, flags: int) -> None:
        """Ask again if the cancellation missed a request that has not ended."""
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
        """Make a NOP of a request."""
        ops.prep_nop(slot, token, slot[1] & _LINKS)
        self._schedule()  # it is to be sent all the same, and _turn() may have been lost

    def _hand_over(self, late: Callable[[Any], object], value: Any) -> None:
        try:
            late(value)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._report(f"A late result, {value!r:.100}, could not be handed over to {late!r}", error)

    # -- the turn

    def flush(self) -> None:
        """Send now what is queued, instead of at the end of this turn.

        What completes inside this call is delivered before it returns; on a loop that has a ring in its
        selector, in this turn.

        Raises: OSError when the kernel takes nothing for now.
        """
        if self._ring._owner != get_ident():
            self._follow_loop()
        if not self._owned:
            self._ring.submit()
            return
        try:
            if self._ring.sq.pending():
                self.table.submit_and_dispatch(0)
            else:
                self.table.reap()
                self.table.dispatch()
        except OSError:
            raise
        except BaseException:  # a handler has raised, or that of a signal
            self._schedule()  # for those that are left
            raise

    def _schedule(self) -> None:
        """Let _turn() run at the beginning of the loop's next turn, once.

        Whether it will is looked up, and not noted: when a signal handler raises, a loop may lose what it was
        about to call.
        """
        ready, handle = self._ready, self._handle
        if ready is None:
            if self._to_come() is None:
                self._to_come = _reference(self._loop.call_soon(self._turn))
            return
        if handle is not None:
            # What is called leaves on the left. So it stands where it was found the last time, or a few
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
        """Make sure that what is queued will be sent."""
        if self._ring._state == "open":
            if self._ring._owner != get_ident():
                self._follow_loop()
            self._schedule()

    def _turn(self) -> None:
        """Do the ring's part of a turn: the loop's callback, and the reader's."""
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

    def _ends_turn(self) -> bool:
        """Tell whether nothing will be queued in this turn any more: only our own callback is to run.

        Where the loop hides its queue this is a guess: a task that awaits twice without another one that
        awaits in between is alone. A wrong one costs a system call.
        """
        if self._ready is not None:
            return len(self._ready) == 1 and self._ready[0] is self._handle and not self._has_to_wait
        if not self._owned:
            return False
        before, self._alone = self._alone, id(asyncio.current_task(self._loop))
        return before == self._alone

    def _flush_early(self, future: RequestFuture) -> None:
        """Do at the end of this turn what would be done at the beginning of the next."""
        try:
            self.flush()
        except OSError:
            return  # _turn() tries again, and says what is to be said
        # The turn goes on if this was a task that began eagerly: the next one's would be a call of its own.
        self._has_to_wait = not future.done()

    def _needs_breath(self) -> bool:
        """Tell whether answers that do not suspend have followed each other for long enough."""
        now = time.monotonic()
        if now - self._rested < _BREATH:
            return False
        self._rested = now
        return True

    def _follow_loop(self) -> None:
        """Bind the ring to this thread, if its loop runs here; refuse any other."""
        if asyncio._get_running_loop() is not self._loop:
            self._ring._refuse()
        self._ring.bind_thread()

    def _make_room(self, count: int) -> None:
        """Make room for SQEs: submit, and take completions out of the CQ, without running handlers."""
        ring = self._ring
        if ring._owner != get_ident():
            self._follow_loop()
        if ring.sq.space_left() < count:
            ring.submit()
            if self._owned:
                self._schedule()  # first: nothing wakes the loop for what was collected
                ring._collect()
            if ring.sq.space_left() < count:
                raise SubmissionQueueFull("the kernel takes no more requests for now: await some of them")

    def _run_handler(
        self, context: Context, handler: Callable[[int, int], object], res: int, flags: int
    ) -> None:
        try:
            context.copy().run(handler, res, flags)  # a copy: a handler that flushes may run within itself
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
        """Cancel what is in flight, wait for it and close the ring; the loop does this when it is closed.

        Futures that have not ended are cancelled, and late results handed over.

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
            self._closing = self._ring.closed  # else close() can be called again
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
        """Do what close() of the loop does, after the ring's end."""
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
        entries, blocks = self.table.entries, self.table._blocks  # the table lets go of them
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
        Returns: the bytes; none at the end.
        Raises: OSError, TimeoutError; ValueError for a socket that blocks.
        """
        return await self._try(sock, _POLLIN, timeout, _recv, sock, nbytes, flags)  # type: ignore[no-any-return]

    async def recv_into(
        self, sock: socket.socket, buffer: Any, flags: int = 0, *, timeout: float | None = None
    ) -> int:
        """Receive from a socket into a buffer.

        Args: as for socket.recv_into().
        Returns: the number of bytes; 0 at the end.
        Raises: OSError, TimeoutError; ValueError for a socket that blocks.
        """
        return await self._try(sock, _POLLIN, timeout, _recv_into, sock, buffer, flags)  # type: ignore[no-any-return]

    async def accept(
        self, sock: socket.socket, *, timeout: float | None = None
    ) -> tuple[socket.socket, Any]:
        """Take a connection.

        Returns: a non-blocking socket and the address of its peer.
        Raises: OSError, TimeoutError; ValueError for a socket that blocks.
        """
        return await self._try(sock, _POLLIN, timeout, _accept, sock)  # type: ignore[no-any-return]

    async def connect(self, sock: socket.socket, address: Any, *, timeout: float | None = None) -> None:
        """Connect a socket.

        Args: address as for socket.connect(); a host's name is looked up by the loop.
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
            # The backlog of a Unix socket is full, for which there is no poll: the kernel's own request hung.
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
        Returns: the number of bytes that were taken.
        Raises: OSError, TimeoutError; ValueError for a socket that blocks.
        """
        _check_socket(sock)
        return await self._try(sock, _POLLOUT, timeout, sock.send, data, flags)  # type: ignore[no-any-return]

    async def sendmsg(
        self, sock: socket.socket, buffers: Iterable[Any], ancdata: Iterable[Any] = (), flags: int = 0,
        address: Any = None, *, fds: Iterable[int] = (), timeout: float | None = None,
    ) -> int:  # fmt: skip
        """Send pieces, ancillary data and descriptors on a socket.

        Args: as for socket.sendmsg(); fds are descriptors to be passed along (SCM_RIGHTS, Unix sockets).
        Returns: the number of bytes that were taken.
        Raises: OSError, TimeoutError; ValueError for a socket that blocks.
        """
        _check_socket(sock)
        passed = list(fds)
        control = list(ancdata)
        if passed:
            import array

            control.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", passed)))
        arguments: list[Any] = [list(buffers), control, flags]
        if address is not None:
            arguments.append(address)
        return await self._try(sock, _POLLOUT, timeout, sock.sendmsg, *arguments)  # type: ignore[no-any-return]

    async def send_zc(
        self, sock: socket.socket, data: Any, flags: int = 0, *, timeout: float | None = None
    ) -> int:
        """Send on a socket without copying, and wait until the memory is free again.

        Where the kernel or the socket cannot do so, the bytes are copied. When the call is cancelled after
        the bytes were taken, data must not be changed until the peer has them.

        Args: as for socket.send(); data as for pin().
        Returns: the number of bytes that were taken.
        Raises: OSError, TimeoutError; ValueError for a socket that blocks.
        Lifetime: until the notification CQE.
        Since: 6.0, before that as send()
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

        Args: fd is a descriptor or has a fileno(); mask of select.POLL* bits.
        Returns: an awaitable of the bits that are true.
        """
        try:
            number = fd if isinstance(fd, int) else fd.fileno()
        except AttributeError:
            raise TypeError(f"fd={fd!r:.100} is neither a descriptor nor has a fileno()") from None
        return self.call(ops.prep_poll_add, number, mask, timeout=timeout)

    def accept_multishot(self, sock: socket.socket) -> AsyncIterator[socket.socket]:
        """Iterate over the connections of a listening socket, with one request for all.

        Returns: an asynchronous iterator of non-blocking sockets, to be closed as that of stream(). A
            connection that comes too late is the next accept()'s.
        Raises: OSError from a step.
        Since: 5.19, before that by accept()
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
        """Iterate over what a socket receives, with one request for all.

        Args: buffers is the group from which the kernel takes memory; by default one of this ring's own, of
            64 times 8 KiB.
        Returns: an asynchronous iterator of Pieces, to be released when they are done with, that ends where
            the peer has closed. It is closed as that of stream(), and what comes too late is the next
            recv()'s.
        Raises: OSError from a step.
        Since: 6.0, before that by recv()
        """
        _check_socket(sock)
        group = buffers
        # SOCKET is of 5.19, too. Not by trying: 5.10 answers a registration that it does not know only when
        # nothing is in flight any more.
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
        # 5.10 does not refuse the request: it receives nothing into no memory, which looks like the end.
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
        """Try a call that does not block, and wait in the ring as long as it would."""
        _check_socket(sock)
        if self._needs_breath():
            await _suspend  # before anything is taken, which a cancelled task would lose
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
                # _put_back() has cancelled it: there is something now.
                if error.errno != errno.ECANCELED or sock not in _late_of:
                    raise
            finally:
                self._receivers.pop(future, None)

    def _put_back(self, sock: socket.socket, value: Any) -> None:
        """Keep what came too late for its request, and wake one who waits for the socket."""
        _late_of.setdefault(sock, _LateItems()).append(value)
        for future, waited in self._receivers.items():
            if waited is sock and not future.done():
                self.cancel(future.token)
                break

    # -- time, children, other processes, files

    async def sleep_until(self, when: float, clock: int = time.CLOCK_MONOTONIC) -> None:
        """Sleep until a clock shows a time, also if somebody sets that clock.

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
        """Wait until a child changes its state, and reap it.

        Args: as for os.waitid(); options is os.WEXITED by default.
        Returns: an os.waitid_result.
        Raises: ChildProcessError, OSError, TimeoutError; NotImplementedError for what this kernel cannot do,
            and where there is no os.waitid() (PyPy).
        Since: 6.7; 5.5 for the exit of one child
        """
        if not hasattr(os, "waitid"):
            raise NotImplementedError("waitid() needs os.waitid(), which this Python does not have")
        options = os.WEXITED if options is None else options
        while True:
            # Looked at in the ring, and reaped by the task: a task that is cancelled has reaped nobody.
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
                "waitid() for other than the exit of one child needs IORING_OP_WAITID (Linux 6.7)"
            )
        fd = os.pidfd_open(pid)
        try:
            await self.poll(fd, _POLLIN, timeout=timeout)
        finally:
            os.close(fd)

    async def futex_wait(
        self, word: Any, expected: int, *, private: bool = False, timeout: float | None = None
    ) -> bool:
        """Wait until somebody, in another process, too, wakes a futex.

        Args: word is a Pin of 4 bytes, or writable memory as for pin(), such as an mmap; expected is the
            value of 32 bits that it has to have; private says that no other process uses it.
        Returns: True when woken; False when the word has another value. A wake-up that comes too late for a
            call that is cancelled is passed on to the next who waits.
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
        """Wake those who wait for a futex.

        Args: word and private as for futex_wait(); count is how many to wake.
        Returns: an awaitable of how many were woken.
        Since: 6.7
        """
        memory, rest = _futex(word, private)
        return self.call(ops.prep_futex_wake, memory.address, count, *rest, holds=(memory,))

    def splice(
        self, fd_in: int, off_in: int, fd_out: int, off_out: int, nbytes: int, flags: int = 0, **options: Any
    ) -> RequestFuture:
        """Move bytes between two descriptors, one of which is a pipe.

        Args: as for ops.prep_splice(); options as for call().
        Returns: an awaitable of the number of bytes, 0 at the end.
        Since: 5.7
        """
        return self.call(ops.prep_splice, fd_in, off_in, fd_out, off_out, nbytes, flags, **options)

    def tee(self, fd_in: int, fd_out: int, nbytes: int, flags: int = 0, **options: Any) -> RequestFuture:
        """Copy bytes from one pipe to another and leave them in the first.

        Args: as for ops.prep_tee(); options as for call().
        Returns: an awaitable of the number of bytes, 0 at the end.
        Since: 5.8
        """
        return self.call(ops.prep_tee, fd_in, fd_out, nbytes, flags, **options)

    def fsync(self, fd: int, *, datasync: bool = False) -> RequestFuture:
        """Let a file reach its storage.

        Args: datasync leaves out what is not needed to read the data again, as os.fdatasync().
        Returns: an awaitable of 0.
        """
        return self.call(ops.prep_fsync, fd, uapi.IORING_FSYNC_DATASYNC if datasync else 0)

    # -- other loops

    def mailbox(self) -> Mailbox:
        """Open a mailbox of this loop's ring, to which other loops send numbers by msg_ring().

        Raises: RingClosed, WrongThread.
        """
        if self._closing:
            raise RingClosed("this ring is closed")
        if self._ring._owner != get_ident():
            self._follow_loop()
        return Mailbox(self)

    async def msg_ring(self, mailbox: Mailbox, value: int) -> None:
        """Post a number to a mailbox, usually that of another loop in another thread.

        Args: value is an int of 32 bits, signed.
        Raises: ValueError for a mailbox that is closed; OverflowError for another number.
        Since: 6.3, before that by call_soon_threadsafe()
        """
        if not isinstance(mailbox, Mailbox):
            raise TypeError(f"{mailbox!r:.100} is no mailbox: mailbox() opens one")
        if not isinstance(value, int):
            raise TypeError(f"value={value!r:.100} is no int")
        if not -(1 << 31) <= value < 1 << 31:
            raise OverflowError(f"{value} does not fit into the 32 bits of res")
        if mailbox.closed:
            raise ValueError("the mailbox is closed")
        try:
            await self.call(
                ops.prep_msg_ring_cqe_flags, mailbox._ring._ring.fileno(), value & 0xFFFFFFFF, mailbox.token,
                0, uapi.IORING_CQE_F_MORE,
            )  # fmt: skip
        except OSError:  # no such operation, or no room over there
            if mailbox.closed:
                raise ValueError("the mailbox is closed") from None
            mailbox._ring._loop.call_soon_threadsafe(mailbox._take, value, uapi.IORING_CQE_F_MORE)


def _futex(word: Any, private: bool) -> tuple[Pin, tuple[int, int, int]]:
    """Pin the word of a futex; return the arguments behind its value: mask, futex_flags and flags, too."""
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
        """Hold data; source and bid say where its buffer belongs, -1 nowhere yet."""
        self.data = data
        self._source = source
        self._bid = bid

    def release(self) -> None:
        """Give the buffer back to the kernel; may be called twice."""
        source, self._source = self._source, None
        self.data.release()
        if source is not None and self._bid >= 0:
            source.recycle(self._bid)

    def take(self) -> bytes:
        """Copy the data, and release it."""
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
        """Return the data; leaving the block releases it."""
        return self.data

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the data."""
        self.release()

    def __del__(self) -> None:
        """Release what was forgotten."""
        if getattr(self, "_source", None) is not None:
            try:
                self.release()
            except ValueError:
                return  # its group is gone


class _Source(Uncopyable):
    """The back of a Stream: what the table's handler knows, so that a stream that is forgotten is freed."""

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
        #: The request in flight, 0 when there is none.
        self.token = 0
        self.items: deque[tuple[Any, int]] = deque()
        self.error: OSError | None = None
        self.closed = self.starved = self.unable = False
        self.waiter: asyncio.Future[None] | None = None
        #: What a step returns, of (res or Piece, flags); who takes such a value when it comes too late; what
        #: to await in each step where the kernel does not know the request.
        self.convert: Callable[[Any, int], Any] = _both
        self.late: Callable[[Any], object] = partial(_drop, prep)
        self.instead: Callable[[], Awaitable[Any]] | None = None
        #: The socket whose late items come first.
        self.sock: socket.socket | None = None

    def arm(self) -> None:
        """Start the request."""
        prep, arguments, holds, options = self.request
        self.token = self.ring._start(prep, arguments, self.handle, holds, dict(options))

    def handle(self, res: int, flags: int) -> None:
        """Take a CQE: the table's handler."""
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
        elif res != -errno.ECANCELED:  # that is ours, or of a thread that has ended
            self.error = self.ring._error(res, prep)
        if self.closed or self.ring._closing:
            self.give_late()
        self.wake()

    def take(self, res: int, flags: int) -> None:
        """Note what a CQE brought."""
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
        """Give a buffer back to the group; it may be the collector, in another thread, who does."""
        ring = self.ring
        if ring._ring._state != "open":
            return
        if ring._ring._owner != get_ident():
            ring._loop.call_soon_threadsafe(self.recycle, bid)
            return
        self.group.recycle(bid)
        starved, ring._starved = ring._starved, []
        for source in starved:
            source.starved = False
            source.wake()

    def wake(self) -> None:
        """Let the step go on that waits."""
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
        """Hand over what nobody will ask for any more."""
        while self.items:
            value = self.items.popleft()
            try:
                late = self.convert(*value)
            except StopAsyncIteration:
                continue
            self.ring._hand_over(self.late, late)

    def in_flight(self) -> bool:
        """Tell whether the request is to end yet."""
        if self.token and not (self.token in self.ring.table.entries or self.ring.table.has_work()):
            self.token = 0  # it has, and a signal handler has raised in the midst of handle()
        return self.token != 0

    def end(self) -> None:
        """Ask the kernel to end the request."""
        self.closed = True
        self.give_late()
        if self.token:
            self.ring.cancel(self.token)


class Stream(Uncopyable):
    """What stream() returns: an asynchronous iterator over the completions of a multishot request."""

    def __init__(self, source: _Source) -> None:
        """Show a source; use stream() to make one."""
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
            raise RuntimeError("another task waits for the next item of this stream already")
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
        """End the request and wait until it has ended; what it still brings is late."""
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
        """End the request of a stream that was forgotten."""
        source = getattr(self, "_source", None)
        if source is None or (source.closed and not source.token) or source.ring._ring._state != "open":
            return
        if source.ring._ring._owner == get_ident():
            source.end()
        elif not source.ring._loop.is_closed():
            source.ring._loop.call_soon_threadsafe(source.end)


class Mailbox(Uncopyable):
    """Numbers that other loops have sent: an asynchronous iterator, see AsyncRing.mailbox()."""

    def __init__(self, ring: AsyncRing) -> None:
        """Open a mailbox; use mailbox() to do so."""
        self._ring = ring
        self._values: deque[int] = deque()
        self._waiter: asyncio.Future[None] | None = None
        #: It takes nothing any more.
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
                raise RuntimeError("another task waits for the next number of this mailbox already")
            self._waiter = self._ring._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._values.popleft()

    def close(self) -> None:
        """Take nothing any more; what has come can still be read."""
        self.closed = True
        self._ring._mailboxes.discard(self)
        self._ring.table.entries.pop(self.token, None)
        if not self._ring._loop.is_closed():
            self._wake()


# ------------------------------------------------------------------------------------------------------
# What came too late


class _LateItems(deque):  # type: ignore[type-arg]
    """What multishot requests brought for a socket after they were closed, the oldest first."""

    def __del__(self) -> None:
        for item in self:
            if isinstance(item, tuple):
                item[0].close()


#: By the socket: bytes, or a connection with its address.
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
    """Take what a stream would have returned: a Piece, or a connection."""
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
    """Return a function that returns the handle until the loop has called it, or lost it."""
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
    conn.setblocking(False)  # it is, and does not know
    return conn


def _received(piece: Piece, flags: int) -> Piece:
    if not len(piece):
        raise StopAsyncIteration
    return piece


def _check_socket(sock: Any) -> None:
    if not isinstance(sock, socket.socket):
        raise TypeError(f"{sock!r:.100} is no socket")
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
        raise ValueError("IOSQE_IO_LINK would link whatever is queued next: chain() links requests")


def _nanoseconds(seconds: float, name: str = "timeout") -> int | None:
    """Count seconds, less than 0 as 0; None for a time that never comes."""
    try:
        if seconds > 9.2e9:
            return None
        if seconds < 0:
            return 0
        return round(seconds * 1e9)
    except (TypeError, ValueError):
        kind = ValueError if isinstance(seconds, float) else TypeError
        raise kind(f"{name}={seconds!r:.100} is no number of seconds") from None


def _deadline(timeout: float | None) -> float | None:
    """Return when a timeout has passed, by time.monotonic()."""
    nanoseconds = None if timeout is None else _nanoseconds(timeout)
    return None if nanoseconds is None else time.monotonic() + nanoseconds / 1e9
