# SPDX-License-Identifier: MIT
# pyright: basic
"""The interface of a file-descriptor monitor: which of these descriptors are ready?

What it is: FDMon, the interface of both strategies, with the parts they share: the handlers, the submit list,
the notifier, nesting in another loop.
Mirrors: QEMU ``include/block/aio.h`` (FDMonOps, AioHandler), the submit list of ``util/fdmon-io_uring.c``.
Must not know: how a strategy waits, selectors, asyncio, what a handler does.
Invariant: the set that a strategy watches changes only inside wait(). All other code queues an intent on the
submit list, from any thread and from signal handlers; therefore these need no lock.
Read next: fdmonpoll.py, or at once fdmon.py.

Unless said otherwise, memory passed to a call may be freed when the call returns, only the waiter, the thread
that calls wait(), may call, and Linux 5.1 suffices.
"""

from __future__ import annotations

import errno
import operator
import os
import select
import sys
from _thread import RLock
from collections import deque

from . import syscalls
from .inflight import _refuse_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .inflight import InFlight
    from .rings import Ring

    Event = tuple["AioHandler", int]
    IoHandler = Callable[["AioHandler", int], object]
    CqeHandler = Callable[[int, int], object]

#: The intents on the submit list. QEMU keeps them as bits of the node; here the list holds (node, flag).
FDMON_IO_URING_ADD = 1 << 1
FDMON_IO_URING_REMOVE = 1 << 2

# poll(2)'s bits, from asm-generic/poll.h; those used below are the same on all architectures.
POLLIN, POLLPRI, POLLOUT, POLLERR, POLLHUP, POLLNVAL = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_ALWAYS = POLLERR | POLLHUP | POLLNVAL
# IN, OUT, ERR, HUP and RDHUP of a wake-up are exact. RDHUP is 0x800 on SPARC.
_EXACT = POLLIN | POLLOUT | POLLERR | POLLHUP | POLLNVAL | 0x2000 | 0x0040


class AioHandler(syscalls.Uncopyable):
    """One registration of one descriptor; never reused for another.

    Mirrors: QEMU AioHandler
    """

    __slots__ = ("armed", "deleted", "events", "exact", "fd", "handler", "opaque", "parked", "sqe", "token")

    def __init__(self, fd: int, events: int, handler: IoHandler | None = None, opaque: Any = None) -> None:
        """Describe what to watch; FDMon.update() starts it.

        Args: fd is a descriptor, or an object that has a fileno(), which is not held; events is a mask of
            select.POLL*; handler is called by dispatch() as handler(node, revents); opaque is for the
            caller's own use.
        Raises: TypeError and ValueError, naming the argument.
        """
        # Every value accepted here must fit its field: otherwise it would fail in every later turn.
        if fd.__class__ is not int:
            fd = _descriptor_of(fd)
        if not 0 <= fd <= 0x7FFFFFFF:
            raise ValueError(f"fd={fd} is not a descriptor")
        if events.__class__ is not int:
            events = _integer("events", events, "a mask of select.POLL*")
        if not 0 <= events <= 0xFFFF:
            raise ValueError(f"events={events:#x} is not a mask of select.POLL*, which has 16 bits")
        if handler is not None and not callable(handler):
            raise TypeError(f"handler={handler!r:.100} is not callable, and not None")
        self.fd = fd
        self.events = events
        #: The events that process_usual() reports unchanged when no others come with them.
        self.exact = events & _EXACT
        self.handler = handler
        self.opaque = opaque
        #: Set by update() when the node is removed; no event is reported for it afterwards.
        self.deleted = False
        #: A POLL_ADD of this node is in the kernel, or is sent with the next submit. Only wait() reads this
        #: and the next three.
        self.armed = False
        self.parked = False
        self.token = 0
        self.sqe = b""

    def __repr__(self) -> str:
        """Show descriptor, events and state."""
        state = "deleted" if self.deleted else "armed" if self.armed else "idle"
        return f"<AioHandler fd={self.fd} events={self.events:#x} {state}>"


def _integer(name: str, value: Any, wanted: str) -> int:
    """Return a caller's number as a plain int; reject a bool."""
    if not isinstance(value, bool):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise TypeError(f"{name}={value!r:.100} is not an int: {name} is {wanted}")


def _descriptor_of(fd: Any) -> int:
    wanted = "a descriptor, or an object with a fileno()"
    if not hasattr(fd, "fileno"):
        return _integer("fd", fd, wanted)
    try:
        return _integer("fd", fd.fileno(), wanted)
    except ValueError as error:  # io.UnsupportedOperation, a closed file
        raise ValueError(f"fd={fd!r:.100} has no descriptor: {error}") from None


def _nanoseconds(timeout_ns: Any) -> int:
    return _integer("timeout_ns", timeout_ns, "a number of nanoseconds, or None to wait for ever")


def _node(node: Any) -> AioHandler:
    if not isinstance(node, AioHandler):
        raise TypeError(f"{node!r:.100} is not an AioHandler, as add() returns it")
    return node


def _union(*nodes: AioHandler) -> int:
    mask = 0
    for node in nodes:
        mask |= node.events
    return mask


# ------------------------------------------------------------------------------------------------------
# The interface


class FDMon(syscalls.Uncopyable):
    """The interface of every strategy.

    Mirrors: QEMU FDMonOps
    """

    #: The name of the strategy: "io_uring" or "poll".
    backend = ""
    #: Why it was chosen, as a sentence; set by setup().
    reason = ""
    #: The ring, or None without one.
    ring: Ring | None = None
    #: Userspace polling, see set_poll_params(): the maximal and the current time; 0 disables it.
    poll_max_ns = poll_ns = 0
    #: The requests of add_sqe() and their results; None without a ring.
    inflight: InFlight | None = None

    def __init__(self) -> None:
        """Prepare the submit list and the means to wake a waiter."""
        self._outer: select.epoll | None = None  # the descriptor of fileno(), once another loop watches us
        self._source = -1  # the descriptor in it that shows completions
        self._waiting = self._busy = False  # wait() is running; dispatch() for another loop is running
        self._notified = False
        # Held by a thread that makes the descriptor of fileno(), or takes the ring of one that has ended.
        self._taking = RLock()
        self.submit_list: deque[tuple[AioHandler, int]] = deque()
        self._wake_fds: tuple[int, ...] = _open_notifier()
        self._notifier = AioHandler(self._wake_fds[0], POLLIN)
        self._notifier.exact = 0  # its completions are never usual ones
        self.update(None, self._notifier)

    def update(
        self, old_node: AioHandler | None, new_node: AioHandler | None, *older: AioHandler
    ) -> None:
        """Remove a handler, add one, or replace one by another.

        Takes effect in the next wait(); events of old_node are not reported from now on. A waiter in another
        thread continues to wait until notify().

        The update is one step, done or not done when a signal handler raises. A caller that does not know
        whether it was done keeps both nodes and passes those that may remain as older with the next call:
        removing a node twice, or one that was never added, is harmless.

        Args: old_node and older are removed; new_node is fresh.
        Raises: TypeError for an object that is not a node; ValueError for a new_node that was removed before,
            and for a new_node after destroy().
        Threads: any, and signal handlers.
        Mirrors: QEMU fdmon_io_uring_update
        """
        intents = []
        if new_node is not None:
            if _node(new_node).deleted:
                raise ValueError(f"{new_node!r} was removed before: make a new AioHandler")
            self._check()
            intents.append((new_node, FDMON_IO_URING_ADD))
        olds = older if old_node is None else (old_node, *older)
        intents += [(_node(node), FDMON_IO_URING_REMOVE) for node in olds]
        if self._wake_fds:
            # The one step. The rest is optional: the waiter marks the nodes, too.
            self.submit_list.extend(intents)
        for node in olds:
            node.deleted = True
        if self._outer is not None and not self._busy and self._wake_fds:
            self.notify()  # the outer loop must call wait()

    def _check(self) -> None:
        if not self._wake_fds:
            raise ValueError("this monitor was destroyed")

    def enqueue(self, node: AioHandler, flags: int) -> None:
        """Put an intent on the submit list.

        Args: flags is FDMON_IO_URING_ADD or FDMON_IO_URING_REMOVE.
        Raises: TypeError, ValueError; ValueError after destroy().
        Threads: any: appending to a deque is atomic.
        Mirrors: QEMU enqueue; one entry per intent instead of bits in the node, so nothing is read and
            written back across threads
        """
        if flags not in (FDMON_IO_URING_ADD, FDMON_IO_URING_REMOVE):
            raise ValueError(f"flags={flags!r}: must be FDMON_IO_URING_ADD or FDMON_IO_URING_REMOVE")
        self._check()
        self.submit_list.append((_node(node), flags))

    def dequeue(self) -> tuple[AioHandler, int] | None:
        """Take the oldest intent off the submit list.

        Returns: a node and its flag, or None.
        Mirrors: QEMU dequeue
        """
        try:
            return self.submit_list.popleft()
        except IndexError:
            return None

    def add(self, fd: int, events: int, handler: IoHandler | None = None, opaque: Any = None) -> AioHandler:
        """Watch a descriptor: update() with a new AioHandler.

        Args: fd (a number or an object with a fileno(), such as a socket), events (a mask of select.POLL*),
            handler(node, revents) and opaque, as AioHandler has them.
        Returns: the node, for remove() or modify().
        Raises: TypeError and ValueError, naming the argument; ValueError after destroy().
        Threads: any.
        """
        node = AioHandler(fd, events, handler, opaque)
        self.update(None, node)
        return node

    def modify(self, node: AioHandler, events: int) -> AioHandler:
        """Watch the same descriptor for other events.

        Args: node is removed; events is the new mask.
        Returns: the node that replaces it.
        Threads: any.
        """
        _node(node)
        new_node = AioHandler(node.fd, events, node.handler, node.opaque)
        self.update(node, new_node)
        return new_node

    def remove(self, node: AioHandler) -> None:
        """Stop watching a descriptor.

        The strategy may hold the open file until the next wait().

        Args: node is removed.
        Threads: any.
        """
        self.update(node, None)

    def release(self, node: AioHandler) -> None:
        """Remove a handler and release its open file before returning.

        One system call, or none for a handler without a poll in the kernel. While another thread is in
        wait(), that thread is woken and does it; while a thread that has called wait() lives, its next wait()
        does.

        Args: node is removed.
        Threads: any; before returning only in the waiter's.
        """
        self.remove(node)
        self.wake_waiter()

    def wake_waiter(self) -> None:
        """Let a running wait() notice an intent that was just queued.

        Threads: any.
        """
        if self._waiting:
            self.notify()

    def add_sqe(
        self, prep: Callable[[bytearray, int], None], handler: CqeHandler | None, *keepalive: Any
    ) -> None:
        """Send another request through the monitor's ring.

        Args: prep is called as prep(sqe, user_data) inside the next wait() and must fill the SQE; handler is
            called as handler(res, flags) by dispatch(), for each CQE, and with -ECANCELED when prep or a
            signal handler raised before it was queued, or None; keepalive are objects that the kernel may
            touch.
        Raises: TypeError for a prep or handler that is not callable; ValueError after destroy(); Unavailable,
            with the reason, on a monitor made for poll(2). After a loss the handler gets the error.
        Lifetime: until the final CQE; the monitor holds it.
        Threads: any; notify() lets a waiter in another thread send it at once.
        Mirrors: QEMU aio_add_sqe; the waiter fills the SQE later, so that any thread may call
        """
        for name, function in (("prep", prep), ("handler", handler)):
            if not callable(function) and (function is not None or name == "prep"):
                raise TypeError(f"{name}={function!r:.100} is not callable")
        for each in keepalive:
            if isinstance(each, int):
                _refuse_number(each)
        self._check()
        self._queue_request(prep, handler, keepalive)

    def _queue_request(self, prep: Any, handler: CqeHandler | None, keepalive: tuple[Any, ...]) -> None:
        raise syscalls.Unavailable(
            errno.EOPNOTSUPP, "add_sqe() on a monitor that uses poll(2)", "absent",
            f"Requests need io_uring. Why it is not used: {self.reason or 'this is a PollFDMon'}.",
        )  # fmt: skip

    def set_poll_params(self, max_ns: int, grow: int = 0, shrink: int = 0) -> None:
        """Look for completions in memory before blocking, for a time that adapts.

        The time starts at 4 microseconds, grows while events arrive soon enough, and shrinks when they do
        not. Python threads share one interpreter lock: a polling thread keeps the others from running.

        Args: max_ns in nanoseconds, 0 disables polling; grow is the factor by which the time grows, 0
            means 2; shrink is the divisor by which it shrinks, 0 resets it to 0.
        Raises: ValueError where completions do not appear in memory: see the head of fdmon.py; Unavailable
            on poll(2), which has no completions.
        Threads: any; a running wait() may still use the old values.
        Mirrors: QEMU aio_context_set_poll_params
        """
        for name, value in (("max_ns", max_ns), ("grow", grow), ("shrink", shrink)):
            if _integer(name, value, "a number") < 0:
                raise ValueError(f"{name}={value} is negative")
        self._check()
        if max_ns and self.backend == "poll":
            raise syscalls.Unavailable(
                errno.EOPNOTSUPP, "userspace polling on a monitor that uses poll(2)", "absent",
                f"Completions need io_uring. Why it is not used: {self.reason or 'this is a PollFDMon'}.",
            )  # fmt: skip
        self._set_poll_params(max_ns, grow, shrink)

    def _set_poll_params(self, max_ns: int, grow: int, shrink: int) -> None:
        return  # polling is off already

    def wait(self, timeout_ns: int | None = None) -> list[Event]:
        """Wait until a descriptor is ready, and return those that are.

        Returns only with an event, with a completed request, after notify(), or at the timeout. Signal
        handlers run, and the wait continues.

        Args: timeout_ns in nanoseconds; 0 does not wait, None waits for ever.
        Returns: pairs (node, revents), where revents is a mask as poll(2) returns it.
        Raises: OSError when the kernel returns an error; ValueError after destroy(); TypeError for a timeout
            that is not an int.
        Threads: one waiter at a time; the first call binds the monitor to its thread.
        Mirrors: QEMU FDMonOps.wait, with the timeout as an argument that may be None instead of -1
        """
        raise NotImplementedError

    def need_wait(self) -> bool:
        """Tell whether wait() has anything to do without waiting.

        Returns: True when intents, completions or deferred work are pending; where only wait() detects
            readiness, also while a handler exists, so that none starves in ``if timeout_ns or need_wait()``.
        Raises: ValueError after destroy().
        Mirrors: QEMU FDMonOps.need_wait
        """
        raise NotImplementedError

    def dispatch(self, events: list[Event]) -> int:
        """Call the handlers of completed requests, then those of the events that wait() returned.

        A handler that an earlier one in the list has removed is not called; after destroy(), none is.

        Args: events as wait() returned them.
        Returns: how many handlers ran.
        Raises: the exception of a handler; the next wait() reports the remaining events, being
            level-triggered.
        Mirrors: QEMU aio_dispatch_ready_handlers
        """
        if self._outer is not None and not self._busy:
            return self._dispatch_nested(events)
        ran, inflight = 0, self.inflight
        if inflight is not None and inflight.ready:
            ran = inflight.dispatch()
        for node, revents in events:
            if not node.deleted and node.handler is not None and self._wake_fds:
                node.handler(node, revents)
                ran += 1
        return ran

    def _dispatch_nested(self, events: list[Event]) -> int:
        """Call the handlers, and notify the outer loop once of all their changes."""
        self._busy = True
        try:
            return self.dispatch(events)
        finally:
            self._busy = False
            if self._wake_fds and self._has_intents():
                self.notify()

    def _has_intents(self) -> bool:
        return bool(self.submit_list)

    def fileno(self) -> int:
        """Return a descriptor that is readable when wait(0) would report something, or has work to do.

        For watching the monitor from another event loop: call dispatch(wait(0)) whenever it is readable. It
        is the monitor's own epoll set, which wakes every watcher: with any setup flags, also before the
        first wait(), and after the kernel has taken io_uring away. From now on changes notify, and handlers
        are armed again at the end of each wait() instead of with the next one, which might never be called:
        this costs one more system call.

        Returns: the same number at every call, until destroy().
        Raises: OSError when no descriptor is left; ValueError after destroy().
        Threads: any.
        """
        self._check()
        with self._taking:
            outer = self._outer
            if outer is None:
                outer = select.epoll()
                outer.register(self._wake_fds[0], POLLIN)
                self._show_in(outer)
                self._outer = outer
                if self._has_intents():
                    self.notify()
            return outer.fileno()

    def _show_in(self, outer: select.epoll) -> None:
        """Let the descriptor of fileno() show readiness."""
        raise NotImplementedError

    def notify(self) -> None:
        """Let the running wait(), or the next one, return soon.

        Raises: ValueError after destroy().
        Threads: any, and signal handlers.
        Mirrors: QEMU event_notifier_set
        """
        self._check()
        self._notified = True
        try:
            os.write(self._wake_fds[-1], _ONE)
        except BlockingIOError:
            return  # the counter is at its maximum: one more notification changes nothing

    def _take_notification(self) -> None:
        self._notified = False  # before the read: a notification may arrive in between
        try:
            os.read(self._wake_fds[0], 4096)
        except BlockingIOError:
            return

    def destroy(self) -> None:
        """Remove all handlers and close what the monitor opened; may be called twice.

        Threads: the waiter, or any thread once that has ended.
        Mirrors: QEMU fdmon_io_uring_destroy
        """
        fds, self._wake_fds = {*self._wake_fds, self._source} - {-1}, ()
        self._source = -1
        for fd in fds:
            os.close(fd)
        if self._outer is not None:
            self._outer.close()
        self.submit_list.clear()

    def __enter__(self) -> FDMon:
        """Return the monitor; leaving the block destroys it."""
        self._check()
        return self

    def __exit__(self, *exc: object) -> None:
        """Destroy the monitor."""
        self.destroy()

    def __del__(self) -> None:
        """Close the descriptors of a monitor that was not destroyed."""
        if getattr(self, "_wake_fds", ()):
            FDMon.destroy(self)


_ONE = (1).to_bytes(8, sys.byteorder)


def _open_notifier() -> tuple[int, ...]:
    eventfd = getattr(os, "eventfd", None)  # Python 3.10
    if eventfd is None:
        return os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    fd = eventfd(0, os.O_CLOEXEC | os.O_NONBLOCK)  # EFD_* are defined as O_* on every architecture
    return fd, fd
