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
* A task can be cancelled after its future is done and before the task runs. Then the result is there and
  nobody takes it: __await__ sees that, and it is late, too.
* A cancellation misses a request that waits for its part of a chain, or that is just being started: it is
  asked for again until the request has ended.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from _thread import get_ident
from functools import partial

from . import ops, rings, uapi
from .buffers import timespec
from .inflight import InFlight, _refuse_handler
from .queues import SubmissionQueueFull
from .syscalls import Unavailable, Uncopyable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any, Callable

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
    ops.prep_open, ops.prep_openat, ops.prep_openat2, ops.prep_accept, ops.prep_socket,
    ops.prep_fixed_fd_install,
}  # fmt: skip

_LINKS = uapi.IOSQE_IO_LINK | uapi.IOSQE_IO_HARDLINK
_LATE_SUCCESS = "a late result of a cancelled request could not be handed over"


# ------------------------------------------------------------------------------------------------------
# The running loop's


def running() -> AsyncRing:
    """Return the ring of the running loop, made on first use.

    Returns: the loop's ``uring``, if it has one; else a private ring, which ends with the loop.
    Raises: RuntimeError where no loop runs; Unavailable with cause and advice where io_uring is refused.
    """
    loop = asyncio.get_running_loop()
    found = getattr(loop, "uring", None)
    if found is None or not isinstance(found, AsyncRing):
        found = getattr(loop, _ATTRIBUTE, None)
        if found is None:
            return AsyncRing(loop)
    if found._ring._owner != get_ident():
        return found._moved()  # type: ignore[no-any-return]
    return found  # type: ignore[no-any-return]


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


class _LoopRing(rings.Ring):
    """A ring that ends with its loop: of a loop that is forgotten asyncio tells, and of its ring nobody."""

    def __del__(self) -> None:
        """Close the ring without a warning, in whatever thread the collector runs."""
        if getattr(self, "closed", True):
            return
        if self._state in ("closed", "forked"):  # half done
            self._release(self._state)
            return
        if self._state == "open":
            self._own()  # nobody else can reach it, and the kernel has bound it to no thread
        self._close(explicit=False)


def _make_ring() -> rings.Ring:
    ring = _LoopRing(_ENTRIES, wish=_WISH, cq_entries=_CQ_ENTRIES, min_entries=8)
    if not ring.features & uapi.IORING_FEAT_NODROP:
        ring.close()
        raise Unavailable(
            errno.ENOSYS, "asyncring", "absent",
            "This kernel drops completions that find no room and cannot cancel: use Linux 5.5 or newer.",
        )  # fmt: skip
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
    _prep: Callable[..., None]
    _at = 0  # where in the SQ it stands
    _asked = False  # cancel() was called
    _unsent = False  # the kernel never saw it
    _first: int | None = None  # res of a first CQE with IORING_CQE_F_MORE
    _late: Callable[[int], object] | None = None
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

    def _end(self, res: int) -> None:
        if self.done():
            if self._first is None:
                self._give_late(res)
        elif self._asked or self._ring._closing:
            super().cancel(self._message)
            if not self._unsent:
                self._give_late(res)
        elif res < 0:
            self.set_exception(_error(res, self._prep))
        else:
            self.set_result(res)

    def _give_late(self, res: int) -> None:
        """Hand a result to late() that nobody waits for any more."""
        late = self._late
        if late is not None and res >= 0:
            try:
                late(res)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self._ring._report(_LATE_SUCCESS, error, future=self)

    def cancel(self, msg: Any = None) -> bool:
        """Ask the kernel to end the request; the future is cancelled with its final CQE.

        Args: msg as for asyncio.Future.
        Returns: False when the future is done already.
        """
        if self.done():
            return False
        self._message = msg
        if not self._asked:
            self._asked = True
            if self._first is not None:
                self._end(self._first)
            else:
                self._ring._ask_to_cancel(self)
        return True


class _LateFuture(RequestFuture):
    """A future whose result must not get lost."""

    def __await__(self) -> Any:
        if not self.done():
            self._asyncio_future_blocking = True
            try:
                yield self
            except BaseException:  # thrown into the task: it is cancelled, or destroyed
                if not self.done():
                    self.cancel()
                elif not self.cancelled() and self.exception() is None:
                    self._give_late(self.result())
                raise
        return self.result()

    __iter__ = __await__


class _TimedFuture(_LateFuture):
    """A future with a linked timeout: it ends when both of its requests have."""

    _timer: int | None = None  # res of the LINK_TIMEOUT
    _res: int | None = None

    def _end(self, res: int) -> None:
        self._res = res
        if self._timer is not None or self.done():
            self._end_both(res, self._timer or 0)

    def _timer_ended(self, res: int, flags: int) -> None:
        self._timer = res
        if self._res is not None:
            self._end_both(self._res, res)

    def _end_both(self, res: int, timer: int) -> None:
        if self._asked or self.done() or self._ring._closing:
            super()._end(res)
        elif res in (-errno.ECANCELED, -errno.EINTR) and timer in (-errno.ETIME, -errno.EALREADY):
            self.set_exception(_timed_out(self._prep))
        elif res == -errno.ECANCELED and timer == -errno.EINVAL:
            what = "timeout= needs IORING_OP_LINK_TIMEOUT (Linux 5.5)"
            self.set_exception(OSError(errno.EINVAL, what))
        else:
            super()._end(res)


def _operation(prep: Any) -> str:
    return getattr(prep, "__name__", "request").replace("prep_", "", 1)


def _error(res: int, prep: Any) -> OSError:
    return OSError(-res, f"{_operation(prep)}: {os.strerror(-res)}")


def _timed_out(prep: Any) -> Exception:
    kind = TimeoutError if sys.version_info >= (3, 11) else asyncio.TimeoutError
    return kind(f"{_operation(prep)} did not end in time")


# ------------------------------------------------------------------------------------------------------
# The ring of a loop


class AsyncRing(Uncopyable):
    """The ring of an asyncio loop: see running().

    ``table`` is its InFlight, ``ring`` the Ring.
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
        # Where somebody else submits in each turn, nothing is to be scheduled.
        self._scheduled = not self._owned
        if table is not None:
            self._ring, self.table = table.ring, table
            return
        self._ring = _make_ring()
        try:
            #: What is in flight.
            self.table = InFlight(self._ring)
            self._reader = self._ring.fileno()
            loop.add_reader(self._reader, self._turn)
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
            stand for their addresses; timeout in seconds is a linked timeout in the kernel; late(res) takes
            the result of a request that succeeded although its future was cancelled. Without it a
            descriptor that an open, accept or socket brought is closed.
        Returns: an awaitable of res, which is no coroutine: gather() makes no task of it. A zero-copy send
            ends with its notification, when its memory is free again.
        Raises: as InFlight.start(); ValueError for IOSQE_IO_LINK, which is chain()'s. The future raises
            OSError where res is a negative errno, and TimeoutError.
        Lifetime: until the final CQE.
        """
        if timeout is not None:
            return self._call_timed(prep, arguments, holds, timeout, late, options)
        if late is None and prep not in _DESCRIPTORS:
            future = RequestFuture(loop=self._loop)
        else:
            future = _LateFuture(loop=self._loop)
            future._late = late or os.close
        future._ring = self
        future._prep = prep
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
        future._late = late or (os.close if prep in _DESCRIPTORS else None)
        pin = timespec(nanoseconds)
        self._need_room(2)
        sq, table = self._ring.sq, self.table
        tail = sq.sqe_tail
        _refuse_links(options)
        options["flags"] = options.get("flags", 0) | uapi.IOSQE_IO_LINK
        token = 0
        try:
            token = table.start(prep, *arguments, handler=future._complete, holds=holds, **options)
            future._at = sq.sqe_tail
            table.start(ops.prep_link_timeout, pin, 0, handler=future._timer_ended)
        except BaseException:
            sq.sqe_tail = tail  # nothing was submitted in between
            table.entries.pop(token, None)
            raise
        future.token = token
        self._schedule()
        return future

    def start(
        self, prep: Callable[..., None], *arguments: Any, handler: Callable[[int, int], object] | None = None,
        holds: Collection[Any] = (), **options: Any,
    ) -> int:  # fmt: skip
        """Start a request with a plain handler.

        Args: as for InFlight.start(); handler(res, flags) runs in the loop; what it raises goes to the loop's
            exception handler.
        Returns: the token.
        Raises: as InFlight.start(); ValueError for IOSQE_IO_LINK, which is chain()'s.
        Lifetime: until the final CQE.
        """
        if handler is not None:
            if not callable(handler):
                _refuse_handler(handler)
            handler = partial(self._run_handler, handler)
        return self._start(prep, arguments, handler, holds, options)

    def _start(
        self, prep: Any, arguments: tuple[Any, ...], handler: Any, holds: Any, options: dict[str, Any]
    ) -> int:
        if options:
            _refuse_links(options)
        try:
            token = self.table.start(prep, *arguments, handler=handler, holds=holds, **options)
        except SubmissionQueueFull:
            self._need_room(1)
            token = self.table.start(prep, *arguments, handler=handler, holds=holds, **options)
        if not self._scheduled:
            self._schedule()
        return token

    def cancel(self, token: int) -> None:
        """Ask the kernel to end a request; its handler still gets the final CQE.

        Args: token as start() returned it; one that has ended is left alone.
        """
        self._cancel(token, _CANCEL_AGAIN)

    # -- cancelling

    def _ask_to_cancel(self, future: RequestFuture) -> None:
        """End the request of a future; one that the kernel has not seen yet becomes a NOP."""
        if future.token not in self.table.entries or self._ring._state != "open":
            return
        sq = self._ring.sq
        at = future._at - 1
        if at >= sq.sqe_tail - sq.pending():
            slot = sq._slots[at & sq.ring_mask]
            ops.prep_nop(slot, future.token, slot[1] & _LINKS)
            future._unsent = True
            return
        self._cancel(future.token, _CANCEL_AGAIN)

    def _cancel(self, token: int, delay: float) -> None:
        if token in self.table.entries and self._ring._state == "open":
            self._start(ops.prep_cancel64, (token, 0), partial(self._cancelled, token, delay), (), {})

    def _cancelled(self, token: int, delay: float, res: int, flags: int) -> None:
        """Ask again if the cancellation missed a request that has not ended."""
        if res in (-errno.ENOENT, -errno.EALREADY) and token in self.table.entries and not self._closing:
            self._loop.call_later(delay, self._cancel, token, min(2 * delay, _CANCEL_AGAIN_MOST))

    # -- the turn

    def flush(self) -> None:
        """Send now what is queued, instead of at the end of this turn.

        What completes inside this call is delivered before it returns; on a loop that has a ring in its
        selector, in this turn.

        Raises: OSError when the kernel takes nothing for now.
        """
        if not self._owned:
            self._ring.submit()
            return
        self._ring.submit_and_wait(0)
        self.table.reap()
        self.table.dispatch()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Do the ring's part of a turn: the loop's callback, and the reader's."""
        self._scheduled = False
        ring = self._ring
        if ring._owner != get_ident():
            self._moved()
        try:
            self.flush()
        except OSError as error:
            if ring.answers():  # no memory for now
                self._loop.call_later(0.001, self._schedule)
                raise
            self._lose(error)
        finally:
            if self.table.has_work():  # what is left when a signal handler has raised
                self._schedule()

    def _need_room(self, count: int) -> None:
        """Make room for SQEs: submit, and take completions out of the CQ, without running handlers."""
        ring = self._ring
        if ring.sq.space_left() < count:
            ring.submit()
            ring._collect()
            if self._owned:
                self._schedule()

    def _run_handler(self, handler: Callable[[int, int], object], res: int, flags: int) -> None:
        try:
            handler(res, flags)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._report(f"Exception in the handler of a request: {handler!r}", error)

    def _report(self, message: str, error: BaseException, **context: Any) -> None:
        self._loop.call_exception_handler({"message": message, "exception": error, **context})

    # -- the end

    def _moved(self) -> AsyncRing:
        """Follow the loop to another thread, or into a forked child."""
        state = self._ring._state
        if state == "open":
            self._ring.bind_thread()
            return self
        if state == "forked":
            self._leave_loop()
            return AsyncRing(self._loop)
        raise Unavailable(
            errno.EBADF, "asyncring", "unknown", "The ring of this loop is closed: make a new loop."
        )

    def close(self) -> None:
        """Cancel what is in flight, wait for it and close the ring; the loop does this when it is closed.

        Futures that have not ended are cancelled, and late results handed over.
        """
        if self._closing:
            return
        self._closing = True
        if self._owned:
            self._leave_loop()
            if self._ring._state == "open" and self._ring._owner != get_ident():
                self._ring.bind_thread()
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
        """End everything when io_uring was taken away: the memory stays, each request gets -ECANCELED."""
        handlers = [entry[0] for entry in self.table.entries.values() if entry[0] is not None]
        self._closing = True
        self._leave_loop()
        try:
            self._ring.close()
        finally:
            for handler in handlers:
                handler(-errno.ECANCELED, 0)
            self._report("io_uring was taken away from this loop", error)

    def __repr__(self) -> str:
        """Show the ring and how much is in flight."""
        return f"<AsyncRing {len(self.table)} in flight on {self._ring!r}>"


def _refuse_links(options: dict[str, Any]) -> None:
    flags = options.get("flags", 0)
    if isinstance(flags, int) and flags & _LINKS:
        raise ValueError("IOSQE_IO_LINK would link whatever is queued next: chain() links requests")


def _nanoseconds(timeout: float) -> int | None:
    """Count a timeout in seconds, less than 0 as 0; None for one that never comes."""
    if timeout != timeout:
        raise ValueError("timeout=nan is no number of seconds")
    if timeout > 9.2e9:
        return None
    return max(0, round(timeout * 1e9))
