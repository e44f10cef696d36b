# SPDX-License-Identifier: MIT
# pyright: basic
"""A selectors.BaseSelector on io_uring, for everything that takes a selector, asyncio first of all.

What it is: IoUringSelector, and the strategies behind it, which share one small interface (Strategy).
Mirrors: CPython ``Lib/selectors.py`` EpollSelector, in what its users can see.
Must not know: asyncio.
Invariant: what select() returns was true inside that select(). Completions that came between two calls are
hints, and are asked for again.
Read next: asyncring.py.

Unless said otherwise, memory passed to a call may be freed when the call returns, any thread may call, and
Linux 5.1 suffices.

Facts, and what follows from them:

* One-shot polls cost 0.8 to 1.1 microseconds per event from Python, an epoll set 0.13. So descriptors
  live in an epoll set, and the ring carries what epoll is bad at: many changes, and a timeout in
  nanoseconds, in one system call (EPOLL_CTL and EPOLL_WAIT as requests). A wait without changes that has no
  timeout, or that must not wait, asks the set directly: one system call as well, and the cheaper one.
* An epoll set does not hold the files that it watches: a closed descriptor leaves it by itself, and the
  peer of a closed socket sees the end at once. A pending POLL_ADD holds its file.
* EPOLL_CTL as a request finds its descriptor when it runs. So additions and modifications may wait for
  the next select(), but a removal may not: the number could be another file by then.
* epoll refuses regular files, closed descriptors and some devices, and register() has to say so. Only the
  kernel knows, so a number costs one epoll_ctl. A socket object needs none: it is a socket, and its
  fileno() tells whether it is open. ``trusting`` takes numbers at their word, too.
* A request belongs to the thread that submitted it, and is cancelled when that ends. A selector that is
  used by another thread than before makes its requests anew.
"""

from __future__ import annotations

import errno
import math
import os
import select
import selectors
import stat
import struct
import sys
import time
import warnings
from _thread import get_ident
from array import array
from collections import deque, namedtuple
from collections.abc import Mapping
from functools import cache
from itertools import islice
from selectors import EVENT_READ, EVENT_WRITE, SelectorKey
from socket import socket

from . import buffers, fdmon, ops, rings, syscalls, uapi
from .inflight import InFlight, next_token

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Callable

    Ready = list[tuple[SelectorKey, int]]
    Keys = dict[int, SelectorKey]
    Changes = dict[int, int]  # fd -> a mask of poll bits, with _NEW for EPOLL_CTL_ADD

# poll(2)'s and epoll's bits; these five have the same values on every architecture.
_IN, _OUT = 0x01, 0x04
_BOTH = EVENT_READ | EVENT_WRITE
#: EVENT_READ | EVENT_WRITE, by which it is indexed, to a mask; other bits mean nothing, as in EpollSelector.
_MASK = (0, _IN, _OUT, _IN | _OUT)
# As in EpollSelector: whatever is not IN makes writable, whatever is not OUT makes readable, so that an error
# or a hang-up wakes whoever waits.
_EVENTS = tuple(
    (EVENT_WRITE if mask & ~_IN else 0) | (EVENT_READ if mask & ~_OUT else 0) for mask in range(32)
)
_ADD, _MOD = 1, 3  # EPOLL_CTL_ADD, EPOLL_CTL_MOD in linux/eventpoll.h
_MOST_FD = 0x7FFFFFFF  # an int in C
_FEW = 12  # so many changes are prepared one by one
_LONGEST, _LONGEST_NS = 9.2e9, 9_200_000_000 * 10**9  # 292 years: 63 bits of nanoseconds
_LONGEST_STDLIB = 2_000_000  # 23 days: poll(2) and epoll_wait(2) count milliseconds in an int
# The no-call rule (queues.py), which holds for other threads as well where there is a GIL.
_ONE_STEP = rings._HANDLERS_RUN_AFTER_CALLS and getattr(sys, "_is_gil_enabled", lambda: True)()
_NEW = 1 << 7  # beside the mask of a pending change: the set does not know the descriptor yet
# Pending changes as bytes, to the operation and to the mask of each; which byte of a word a mask fits into.
_CTL_OPS = bytes(_ADD if change & _NEW else _MOD for change in range(256))
_CTL_MASKS = bytes(change & ~_NEW for change in range(256))
_LOW = 3 if sys.byteorder == "big" else 0


# ------------------------------------------------------------------------------------------------------
# The machine

#: What the selector and its epoll set know of a descriptor, and what happens to it: state -> event -> state.
#: EpollWait.state() tells the state; an event that a row does not have cannot come; or it is a modify()
#: that nobody vouches for of what the set does not know, which raises and ends the registration.
#:
#: =========  ===========================================================================================
#: state      what it means
#: =========  ===========================================================================================
#: unknown    the set does not know it: not registered, or closed before the set could hear of it
#: noted      an addition waits for the next select()
#: adding     the addition is on its way
#: unsure     the set may know it: an exception came while the addition was on its way; it is added again
#: given      the set watches it as the key says
#: changed    a modification waits for the next select()
#: changing   the modification is on its way
#: overtaken  changed while an older change was on its way: made at once, and sent again after the older
#: abandoned  unregistered while a change was on its way; what comes of it is put out when it shows
#: refused    the set would not take it, although somebody vouched for it: reported as ready
#: =========  ===========================================================================================
#:
#: =========  ===========================================================================================
#: event      what happens
#: =========  ===========================================================================================
#: change     register() or modify() of what is known to be right
#: judge      the same of what nobody vouches for: the kernel judges, at once
#: remove     unregister(), at once
#: send       a select() takes all notes along
#: sent       the kernel has made it, and says so
#: struck     an exception ends that select() before it is known whether the kernel has
#: denied     the kernel answers that this file cannot be watched
#: closed     the file is closed when the select() takes its note
#: apply      notes are made without the ring: it is lost, or somebody watches fileno()
#: =========  ===========================================================================================
MACHINE: dict[str, dict[str, str]] = {
    "unknown": {"change": "noted", "judge": "given"},
    "noted": {
        "change": "noted", "judge": "given", "remove": "unknown",
        "send": "adding", "closed": "unknown", "apply": "given",
    },
    "adding": {
        "change": "overtaken", "judge": "overtaken", "remove": "abandoned",
        "sent": "given", "struck": "unsure", "denied": "refused",
    },
    "unsure": {
        "change": "unsure", "judge": "given", "remove": "unknown",
        "send": "adding", "closed": "unsure", "apply": "given",
    },
    "given": {"change": "changed", "judge": "given", "remove": "unknown"},
    "changed": {
        "change": "changed", "judge": "given", "remove": "unknown",
        "send": "changing", "closed": "given", "apply": "given",
    },
    "changing": {
        "change": "overtaken", "judge": "overtaken", "remove": "abandoned",
        "sent": "given", "struck": "changed",
    },
    "overtaken": {
        "change": "overtaken", "judge": "overtaken", "remove": "abandoned",
        "sent": "changed", "struck": "changed",
    },
    "abandoned": {"change": "overtaken", "judge": "overtaken", "sent": "unknown", "struck": "unknown"},
    "refused": {"change": "noted", "remove": "unknown"},
}  # fmt: skip


# ------------------------------------------------------------------------------------------------------
# The selector


class IoUringSelector(syscalls.Uncopyable, selectors.BaseSelector):
    """Watch descriptors as EpollSelector does, with changes that cost no system call and exact timeouts."""

    def __init__(
        self,
        strategy: str | None = None,
        *,
        fallback: bool = True,
        entries: int = 1024,
        trusting: bool = False,
    ) -> None:
        """Take the best strategy that works here.

        Args: strategy names one of STRATEGIES ("epoll", "poll" and "select" are the standard library's), None
            takes the first that works; fallback says whether a selector of the standard library may take
            its place, with a RuntimeWarning that names the reason; entries is the size of the ring, and so
            the number of changes that fit into one system call; trusting takes plain numbers at their
            word: register() and modify() then make no system call for them either. A number that cannot be
            watched is reported as ready instead of being refused, and one that was closed is silent; one
            that was closed and used again between register() and the next select() is the new file's.
        Raises: Unavailable with the cause, without fallback; TypeError, ValueError for an unknown strategy
            and for entries that are no number from 1 to 32768.
        Threads: any; the first select() binds it to a thread.
        Since: 5.1; 5.6 for an epoll set, 6.15 for one system call with it
        """
        self._map: Keys = {}
        self._view = _Map(self._map)  # knows the dictionary, not us: no cycle
        self._closed = False
        #: Take descriptors that are plain numbers at their word.
        self.trusting = trusting
        self._strategy = _choose(strategy, fallback, entries)
        self._strategy.keys = self._map
        #: What ``requests`` has returned, once somebody has asked.
        self._table: InFlight | None = None

    @property
    def backend(self) -> str:
        """Name the strategy in use.

        Returns: "io_uring:epoll_wait", "io_uring:epoll_poll" or "io_uring:poll_add"; or "epoll", "poll",
            "select" or "kqueue" where io_uring cannot be had.
        """
        return self._strategy.name

    @property
    def reason(self) -> str:
        """Say in words why this strategy is in use."""
        return self._strategy.reason

    @property
    def ring(self) -> rings.Ring | None:
        """Return the ring, None where there is none; its statistics() count the system calls."""
        return self._strategy.ring

    @property
    def requests(self) -> InFlight | None:
        """Return the table of the ring in use, on which anybody may start requests of any kind.

        They are sent by the io_uring_enter of the next select(), which also runs their handlers, and then
        returns, even with an empty list. Start and cancel them as the table describes; do not reap and do
        not dispatch, for completions of the selector's own are among theirs. A request with IOSQE_IO_DRAIN
        would wait for the selector's own, which wait for events. close() ends what is in flight. When the
        kernel takes the ring away, a request that was not sent completes with the errno, also one that is
        started later.

        Returns: None where there is no ring, and after it was lost.
        Raises: WrongThread as select(), with io_uring:poll_add.
        Threads: the one that calls select(), which may be another one than before.
        Mirrors: QEMU aio_add_sqe, which puts requests on the ring of the monitor
        """
        table = self._strategy.requests()
        if table is not None:
            self._table = table
        return table

    # -- changes

    def register(self, fileobj: Any, events: int, data: Any = None) -> SelectorKey:
        """Start to watch a file object.

        Costs no system call for socket objects: the kernel hears of them with the next select().

        Args: fileobj is a descriptor or has a fileno(); events is EVENT_READ, EVENT_WRITE or both; data is
            the caller's own.
        Returns: the key.
        Raises: as EpollSelector: ValueError, KeyError, PermissionError for what cannot be watched (regular
            files), OSError for what is not open.
        Lifetime: none; the file is not held.
        Threads: any; a select() that is going on takes notice.
        Mirrors: CPython selectors.EpollSelector.register
        """
        if not events or events & ~_BOTH:
            raise ValueError(f"Invalid events: {events!r}")
        fd = self._view.fd_of(fileobj)
        key = _new_tuple(SelectorKey, (fileobj, fd, events, data))
        if fd in self._map:
            raise KeyError(f"{fileobj!r} (FD {fd}) is already registered")
        if fd > _MOST_FD:
            raise OverflowError(f"{fileobj!r}: {fd} is no file descriptor, which is an int of 32 bits")
        known = isinstance(fileobj, socket) or self.trusting
        try:
            self._map[fd] = key
            self._strategy.add(key, known)
        except BaseException:
            self._map.pop(fd, None)
            self._strategy.remove(key)
            raise
        return key

    def unregister(self, fileobj: Any) -> SelectorKey:
        """Stop watching a file object; when this returns, the kernel has let go of it.

        Args: fileobj as it was registered, or its number.
        Returns: the key that it had.
        Raises: KeyError when it is not registered.
        Mirrors: CPython selectors.EpollSelector.unregister
        """
        try:
            fd = self._view.fd_of(fileobj)
            key = self._map[fd]
        except KeyError:
            raise KeyError(f"{fileobj!r} is not registered") from None
        try:
            del self._map[fd]
            self._strategy.remove(key)
        except BaseException:  # a signal handler has raised, maybe before all was done
            self._strategy.remove(key)
            self._map.pop(fd, None)
            raise
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> SelectorKey:
        """Change what a file object is watched for, or the data that belongs to it.

        Costs no system call for what has a fileno(): the kernel hears of it with the next select(). A plain
        number costs one, as in register(): it may be closed, and another file's, by the next select().

        Args: as register().
        Returns: the new key.
        Raises: KeyError when it is not registered; OSError when the kernel no longer knows it, which ends the
            registration. Events without EVENT_READ and EVENT_WRITE are fine: the
            file object stays registered, and nothing is reported.
        Mirrors: CPython selectors.EpollSelector.modify
        """
        # Shaped by speed (bench/run.py --only changes): the usual object, asked once for its number, and a
        # change that only has to be noted. Items of a key cost half of what its members by name do.
        try:
            if type(fileobj) is int:
                key, known = self._map[fileobj], self.trusting
            else:
                key = self._map[fileobj.fileno()]
                known = key[0] is fileobj
        except (KeyError, AttributeError, TypeError, ValueError):
            key, known = self._view[fileobj], False
        if events == key[2]:
            if data != key.data:
                key = key._replace(data=data)
                self._map[key.fd] = key
            return key
        mask = _MASK[events & _BOTH]  # a TypeError, before anything has changed
        fd = key[1]
        changed = _new_tuple(SelectorKey, (key[0], fd, events, data))
        try:
            self._strategy.change(changed, mask, known or bool(_still(key)))
        except BaseException:
            self._map.pop(fd, None)
            self._strategy.remove(changed)
            raise
        return changed

    # -- waiting

    def select(self, timeout: float | None = None) -> Ready:
        """Wait until a registered file object is ready, in one system call.

        Signal handlers run, and the wait goes on (PEP 475).

        Args: timeout in seconds, counted to the nanosecond; None is for ever, 0 and less do not wait; more
            than 292 years, infinity too, are 292 years.
        Returns: pairs (key, events) that are ready; none of them may be, after handlers of ``requests`` ran.
        Raises: ValueError after close(); ForkedRing in a forked child; what a handler of a request raises.
        Threads: one at a time.
        Mirrors: CPython selectors.EpollSelector.select, whose timeouts are rounded up to milliseconds
        """
        if timeout is not None:
            timeout = 0 if timeout <= 0 else _LONGEST_NS if timeout > _LONGEST else math.ceil(timeout * 1e9)
        if self._table is None:
            return self._strategy.wait(timeout)
        return self._wait_and_dispatch(self._table, timeout)

    def _wait_and_dispatch(self, table: InFlight, timeout_ns: int | None) -> Ready:
        """Wait, run the handlers of completed requests, and report what they have left as it was."""
        found = self._strategy.wait(timeout_ns)
        ring = self._strategy.ring
        if not table.ready or (ring is not None and ring.owner not in (get_ident(), 0)):
            return found  # nothing to run, or not in this thread, which has not the ring
        table.dispatch()
        return [(key, events) for key, events in found if self._map.get(key.fd) is key]

    # -- the rest

    def get_key(self, fileobj: Any) -> SelectorKey:
        """Return the key of a registered file object.

        Raises: KeyError; RuntimeError after close().
        """
        if self._closed:
            raise RuntimeError("Selector is closed")
        return self._view[fileobj]

    def get_map(self) -> Mapping[Any, SelectorKey]:
        """Return a view of all keys; None after close()."""
        return None if self._closed else self._view  # type: ignore[return-value]

    def fileno(self) -> int:
        """Return a descriptor that is readable when select(0) would return something.

        With io_uring:poll_add it may be readable although there is nothing, after a change for example:
        select(0) finds out.

        Raises: ValueError after close().
        """
        return self._strategy.fileno()

    def close(self) -> None:
        """Forget all file objects and close what the selector opened; may be called twice.

        Threads: any, while nobody is in select().
        """
        self._map.clear()
        self._closed = True
        self._strategy.close()

    def __del__(self) -> None:
        """Close a selector that was forgotten, without a warning, as EpollSelector does."""
        if hasattr(self, "_strategy") and not self._closed:
            self._strategy.close()

    def __repr__(self) -> str:
        """Show the strategy and how many file objects are registered."""
        return f"<IoUringSelector {self.backend} registered={len(self._map)}>"


# _new_tuple(SelectorKey, ...) is SelectorKey(...) without its Python frame: half the time.
_new_tuple: Callable[[type[SelectorKey], tuple[Any, ...]], SelectorKey] = tuple.__new__


def _fileno(fileobj: Any) -> int:
    fd = fileobj
    if not isinstance(fileobj, int):
        try:
            fd = int(fileobj.fileno())
        except (AttributeError, TypeError, ValueError):
            raise ValueError(f"Invalid file object: {fileobj!r}") from None
    if fd < 0:
        raise ValueError(f"Invalid file descriptor: {fd}")
    return int(fd)


class _Map(Mapping):  # type: ignore[type-arg]
    """What get_map() returns: file objects to keys."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def fd_of(self, fileobj: Any) -> int:
        """Return the number of a file object, also of one that was closed while it was registered."""
        try:
            return _fileno(fileobj)
        except ValueError:
            for key in self._keys.values():
                if key.fileobj is fileobj:
                    return key.fd
            raise

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, fileobj: Any) -> SelectorKey:
        key = self._keys.get(self.fd_of(fileobj))
        if key is None:
            raise KeyError(f"{fileobj!r} is not registered")
        return key

    def get(self, fileobj: Any, default: Any = None) -> Any:
        return self._keys.get(self.fd_of(fileobj), default)

    def __iter__(self) -> Iterator[int]:
        return iter(self._keys)


# ------------------------------------------------------------------------------------------------------
# The interface


class Strategy(syscalls.Uncopyable):
    """What every way of watching offers to the selector."""

    #: What IoUringSelector.backend and reason say.
    name = ""
    reason = ""
    ring: rings.Ring | None = None
    #: What is registered: descriptors to keys, the selector's own dictionary.
    keys: Keys
    def add(self, key: SelectorKey, known: bool) -> None:
        """Start to watch.

        Args: known says that the descriptor is certainly open and fit to be watched.
        Raises: OSError when it is not.
        """
        raise NotImplementedError

    def change(self, key: SelectorKey, mask: int, known: bool) -> None:
        """Watch for other events.

        Args: key is the new one, which goes into keys; mask are its events as poll bits; known as for add().
        Raises: OSError.
        """
        raise NotImplementedError

    def remove(self, key: SelectorKey) -> None:
        """Stop watching, and let go of the file before returning.

        Args: key is no longer in the map.
        """
        raise NotImplementedError

    def wait(self, timeout_ns: int | None) -> Ready:
        """Wait as select() does, but leave the handlers of requests to it; return as soon as one is to run.

        Args: timeout_ns in nanoseconds.
        Returns: pairs (key, events).
        """
        raise NotImplementedError

    def requests(self) -> InFlight | None:
        """Bind the ring to the calling thread and return its table, None without a ring."""
        return None

    def fileno(self) -> int:
        """Return the descriptor for nesting."""
        raise NotImplementedError

    def close(self) -> None:
        """Close everything; may be called twice."""
        raise NotImplementedError


# ------------------------------------------------------------------------------------------------------
# An epoll set, changed and watched through a ring

_CTL = 1 << 55  # marks the user_data of an EPOLL_CTL: no token has this bit, and the int is a short one
_USER_DATA = struct.Struct("=Q")
_NOP = bytes(64)  # an SQE that does nothing, and whose completion nobody knows

# The request that waits, with all that belongs to it. It is replaced as a whole, by one store: when a signal
# handler raises while the next one is made, the old one stays, and never a new size with old memory.
_Request = namedtuple("_Request", "token capacity memory sqe held")


#: The operations (that which waits, that which changes) that have worked in this process.
_WORKING: set[tuple[int, int]] = set()


class EpollWait(Strategy):
    """Send changes as EPOLL_CTL and wait with EPOLL_WAIT, all in one io_uring_enter (6.15).

    What happens to a descriptor is the table MACHINE. Other threads call every method, and signal handlers
    run after any call in here (before CPython 3.11 between any two bytecodes), change what they like, and
    raise. Four rules make the rows true all the same:

    * **One store publishes.** What belongs together is made aside, and is there with one store.
    * **Off the list only when it is done.** To make a change twice is harmless, to lose it is not.
    * **Publish, then look.** Who changes something stores the key, stores the note, and looks then whether
      both are still in their places and whether a select() is going on. Who selects says so first, then
      takes the list away, then reads it. So one of the two sees the other.
    * **The key is right.** What is made without the ring, or is sent again, is what the key says by then,
      and who has made it looks whether the key is still the same.
    """

    name = "io_uring:epoll_wait"
    reason = "EPOLL_CTL and EPOLL_WAIT work here (Linux 6.15): one system call for changes and events"
    _wait_op: int = uapi.IORING_OP_EPOLL_WAIT

    def __init__(self, entries: int) -> None:
        """Create the ring and the set, and see whether they work together.

        Args: entries is the SQ size.
        Raises: Unavailable when there is no ring; OSError when the kernel does not know an operation.
        """
        self.keys = {}
        #: Notes: what the next select() sends, fd -> mask, with _NEW for an addition.
        self._pending: Changes = {}
        #: What a select() has taken from there and sends, or is about to send.
        self._on_the_way: Changes = {}
        #: Those of them that are overtaken.
        self._overtaken: set[int] = set()
        #: The user_data of the changes that were queued and not answered by the kernel.
        self._unanswered: list[int] = []
        #: The descriptors that the set knows, and what a change of each has beside its mask: 0, or _NEW as
        #: long as the set may not know it.
        self._known: dict[int, int] = {}
        self._refused: set[int] = set()
        #: A wait is going on.
        self._waiting = False
        #: Neither that, nor the next.
        self._idle = True
        #: Changes are made at once: somebody watches the set's own descriptor, or the ring was lost.
        self._direct = self._lost = False
        #: A descriptor that is always ready: in the set it ends a wait.
        self._waker = -1
        #: How many events the last wait brought, and whether there was one that could not be put out.
        self._found, self._strayed = 0, False
        #: Completions that are not handled yet.
        self._cqes: deque[rings.Cqe] = deque()
        #: The thread whose request waits in the kernel.
        self._thread = 0
        #: Others may have requests on the ring; that, or it is lost; the errno with which it was.
        self._serving = self._special = False
        self._code = 0
        #: Where in the queue (sq.sqe_tail) the wait was put; whether an exception may have left SQEs there.
        self._armed_at, self._unclean = 0, False
        wish = fdmon.IoUringFDMon.WISH
        # Two at least: one for the wait, one for changes.
        self.ring: rings.Ring = rings.Ring(max(entries, 2), wish=wish, min_entries=2)
        try:
            self.ring.dont_fork()
            self._inflight = InFlight(self.ring)
            self._epoll = select.epoll()
        except BaseException:
            self.ring.close()
            raise
        try:
            self._sender = _Sender(self.ring, self._epoll.fileno())
            self._prepare_wait(64)
            self._try_out()
        except BaseException:
            self.close()
            raise

    def _try_out(self) -> None:
        """Find out by trying whether this kernel knows the operations; once, for kernels do not change."""
        self._waker, w = os.pipe()
        os.close(w)  # a pipe that nobody can write to is ready
        operations = self._wait_op, uapi.IORING_OP_EPOLL_CTL
        if operations in _WORKING:
            return
        key = SelectorKey(self._waker, self._waker, EVENT_READ, None)
        self.keys[key.fd] = key
        self._note(key.fd)
        if self._wait_in_ring(1_000_000_000) != [(key, EVENT_READ)]:
            raise OSError(errno.EIO, f"{self.name} does not report what is ready")
        self.remove(key)
        self.keys = {}
        _WORKING.add(operations)

    def state(self, fd: int) -> str:
        """Name the row of MACHINE that a descriptor is in.

        Args: fd is the descriptor.
        """
        known = self._known.get(fd)
        if fd in self._refused:
            return "refused"
        if fd in self._on_the_way:
            if fd not in self.keys:
                return "abandoned"
            return "overtaken" if fd in self._overtaken else "changing" if known == 0 else "adding"
        if known:
            return "unsure"
        if fd in self._pending:
            return "noted" if known is None else "changed"
        return "unknown" if known is None else "given"

    # -- changes

    def add(self, key: SelectorKey, known: bool) -> None:
        """Note the addition of what is known to be right; let the kernel judge the rest."""
        if self.ring.closed:
            self._check_ring()
        fd = key[1]
        self._known.pop(fd, None)  # left when it was abandoned: unknown
        if not known:
            self._judge(key, _MASK[key[2] & _BOTH] | _NEW)
            return
        self._note(fd)
        if not self._idle:
            self._apply_newer(fd)

    def change(self, key: SelectorKey, mask: int, known: bool) -> None:
        """Note a modification of what is known to be right; let the kernel judge the rest."""
        # Shaped by speed (bench/run.py --only changes): the usual change is a note.
        fd, pending = key[1], self._pending
        if self.ring.closed:
            self._check_ring()
        if known:
            try:
                change = mask | self._known[fd]
            except KeyError:  # unknown, noted or refused
                change = mask | _NEW
                self._refused.discard(fd)
            self.keys[fd] = key
            pending[fd] = change
            if self._idle and (_ONE_STEP or (self.keys.get(fd) is key and self._pending is pending)):
                return
            self._note(fd)
            if not self._idle:
                self._apply_newer(fd)
            return
        self.keys[fd] = key
        self._refused.discard(fd)
        # What is no longer open is not added, and a number only while its addition waits: it may have been
        # closed, and be another file's.
        new = 0 if _still(key) is False else self._known.get(fd, pending.get(fd, 0) & _NEW)
        self._judge(key, mask | new)

    def remove(self, key: SelectorKey) -> None:
        """Take a descriptor out of the set at once: its number may be another file's soon."""
        fd = key[1]
        self._pending.pop(fd, None)
        self._refused.discard(fd)
        if fd in self._known:
            if not self._epoll.closed and self.ring.state != "forked":
                self._put_out(fd)  # what is closed the set has forgotten by itself
            self._known.pop(fd, None)

    def _note(self, fd: int) -> None:
        """Let the next select() send what the key says."""
        while True:
            key, pending = self.keys.get(fd), self._pending
            if key is None:
                pending.pop(fd, None)
                return
            pending[fd] = _MASK[key[2] & _BOTH] | self._known.get(fd, _NEW)
            if self.keys.get(fd) is key and self._pending is pending:
                return

    def _judge(self, key: SelectorKey, change: int) -> None:
        """Make a change at once; its error is the caller's."""
        fd = key[1]
        self._pending.pop(fd, None)
        self._overtake(fd)
        self._control(key, change)
        if self.keys.get(fd) is not key:
            self._apply(fd)

    def _apply_newer(self, fd: int) -> None:
        """Make a change at once, while a wait is going on that may be sending an older one."""
        self._overtake(fd)
        self._apply(fd)

    def _apply(self, fd: int) -> None:
        """Make what the key says without the ring."""
        while True:
            key = self.keys.get(fd)
            if key is not None:
                change = _MASK[key[2] & _BOTH] | self._known.get(fd, _NEW)
                try:
                    if not (change & _NEW and _still(key) is False):
                        self._control(key, change)
                except OSError as error:
                    if not syscalls.is_ours(error):
                        raise
                    self._fail(fd, error.errno)
            self._pending.pop(fd, None)
            if self.keys.get(fd) is key:
                return

    def _apply_all(self) -> None:
        """Make all changes without the ring, those that are on their way, too."""
        for fd in {**_snapshot(self._on_the_way), **_snapshot(self._pending)}:
            self._apply(fd)

    def _overtake(self, fd: int) -> None:
        """End the wait that is going on if it sends an older change: it goes on at once with the newer."""
        if fd in self._on_the_way:
            self._overtaken.add(fd)
            try:
                self._epoll.register(self._waker, _IN)
            except OSError as error:
                if not syscalls.is_ours(error):
                    raise
                return  # somebody has done so already

    def _control(self, key: SelectorKey, change: int) -> None:
        """Call epoll_ctl; what is there already is modified, and what is gone is added.

        The latter only if a socket says that it still has the number, which may be another file's by now.
        """
        fd, mask = key[1], change & ~_NEW
        self._known.setdefault(fd, _NEW)  # first: whoever removes it meanwhile has to know
        if change & _NEW:
            try:
                self._epoll.register(fd, mask)
            except FileExistsError:
                self._epoll.modify(fd, mask)
        else:
            try:
                self._epoll.modify(fd, mask)
            except FileNotFoundError:
                if not (isinstance(key[0], socket) and _still(key)):
                    raise
                self._epoll.register(fd, mask)
        if fd in self._known:
            self._known[fd] = 0

    def _fail(self, fd: int, code: int | None) -> None:
        """Take note that a change failed which somebody had vouched for.

        A descriptor that was closed in the meantime is silent, as in EpollSelector. Anything else is reported
        as ready from now on, as poll(2) does with regular files, so that whoever waits finds out.
        """
        if code not in (errno.EBADF, errno.ENOENT, errno.EEXIST) and fd in self.keys:
            self._refused.add(fd)
            self._known.pop(fd, None)
            if fd not in self.keys:  # unregistered meanwhile, and nobody else would end it
                self._refused.discard(fd)

    def _put_out(self, fd: int) -> bool:
        try:
            self._epoll.unregister(fd)
        except OSError as error:
            if not syscalls.is_ours(error):
                raise
            return False
        return True

    def _check_ring(self) -> None:
        # In a forked child the set is still the parent's, and would be changed there.
        if self.ring.closed and not self._lost:
            self.ring.fileno()

    # -- waiting

    def wait(self, timeout_ns: int | None) -> Ready:
        """Send all changes and wait, in one system call."""
        if self._waiting:
            # A signal handler, or another thread: epoll itself does not mind. Or, before CPython 3.11, what a
            # handler raised has struck before the end of a wait was noted. Or the parent's thread.
            if self.ring.closed:
                self._check_ring()
            self._apply_all()
            return self._ask_epoll(timeout_ns)
        if self._refused:
            timeout_ns = 0
        self._waiting, self._idle = True, False
        try:
            if self._special:
                if self._lost:
                    return self._wait_without_ring(timeout_ns)
                if self._has_requests():
                    return self._wait_in_ring(timeout_ns)
            if not (self._pending or self._unclean or timeout_ns):
                # One system call as well, and the cheaper one: see the head of this file.
                if self.ring.closed:
                    self._check_ring()
                return self._ask_epoll(timeout_ns)
            if self._found and not self._pending:
                # What was busy in the last turn is asked without waiting first: a fifth of the ring's turn.
                self._check_ring()
                ready = self._ask_epoll(0)
                if ready:
                    return ready
            return self._wait_in_ring(timeout_ns)
        except OSError as error:
            if self._epoll.closed:  # by a signal handler: nothing was taken away
                raise ValueError("this selector was closed while it waited") from None
            lost = not self._lost and self.ring.lost(error)
            if not lost and (error.errno in rings.LOST or not syscalls.is_ours(error)):
                raise
            self._give_up_ring(error, lost)
            if lost:
                return self._wait_without_ring(timeout_ns)
            return self._ask_epoll(0 if self._serving else timeout_ns)  # requests are sent by the next turn
        finally:
            self._waiting, self._idle = False, not self._direct

    def _ask_epoll(self, timeout_ns: int | None) -> Ready:
        """Wait without the ring, for whole milliseconds."""
        keys = self.keys
        # -1 and not None, for PyPy.
        timeout = -1 if timeout_ns is None else min(-(-timeout_ns // 1_000_000) / 1000, _LONGEST_STDLIB)
        ready: Ready = []
        found = self._epoll.poll(timeout, len(keys) or 1)
        self._found = len(found)
        for fd, mask in found:  # shaped by speed: a third of what EpollSelector's own loop takes
            try:
                key = keys[fd]
            except KeyError:
                self._stray(fd)
                continue
            events = _EVENTS[mask & 31] & key[2]
            if events:
                ready.append((key, events))
        if timeout_ns is None and not ready and [fd for fd, _ in found] == [self._waker]:
            return self._ask_epoll(timeout_ns)  # the wait that it was for had ended by then
        return self._with_refused(ready) if self._refused else ready

    def _with_refused(self, ready: Ready) -> Ready:
        # epoll_poll comes here twice in one wait.
        current = (self.keys.get(fd) for fd in self._refused - {key.fd for key, _ in ready})
        return ready + [(key, key.events) for key in current if key is not None]

    def _give_up_ring(self, error: OSError, lost: bool) -> None:
        """Make what is noted without the ring, for now or, if it was taken away, for good."""
        self._apply_all()
        if lost:
            self._code = error.errno or errno.EIO
            self._lost = self._direct = self._special = True
            self._on_the_way = {}
            self._overtaken.clear()
            self.reason = f"{self.name} stopped working: {error}"
            self.name = "epoll"
            warnings.warn(f"{self.reason}; going on with epoll", RuntimeWarning, stacklevel=4)

    # -- requests of others

    def requests(self) -> InFlight | None:
        """Bind the ring to the calling thread and return its table, None when it is lost or closed."""
        if self._lost or self.ring.closed:
            return None
        if self._thread != get_ident() and not self._waiting:
            self._bind()
        self._serving = self._special = True
        return self._inflight

    def _has_requests(self) -> bool:
        """Tell whether requests of others are to be sent, in flight, or to be handled, by this thread."""
        if self._thread != get_ident():
            self._bind()
        table, sq = self._inflight, self.ring.sq
        ours = self._wait.token in table.entries
        return bool(table.ready or sq.sqe_tail != sq.published or len(table.entries) > ours)

    def _wait_without_ring(self, timeout_ns: int | None) -> Ready:
        """Wait when the ring is lost, and look again and again for what is still in flight there."""
        if not self._serving:
            return self._ask_epoll(timeout_ns)
        table = self._inflight
        deadline = time.monotonic_ns() + (timeout_ns or 0)
        while True:
            left = None if timeout_ns is None else max(0, deadline - time.monotonic_ns())
            more = self._take_what_is_left()
            if table.ready:
                left = 0
            elif more:
                left = fdmon.LOOK_NS if left is None else min(left, fdmon.LOOK_NS)
            ready = self._ask_epoll(left)
            if ready or left == 0 or not more:
                return ready

    def _take_what_is_left(self) -> bool:
        """Answer what cannot be sent any more; tell whether something is in flight on the lost ring."""
        ring, table = self.ring, self._inflight
        if ring.owner != get_ident():
            ring.bind_thread()
        for user_data in ring.discard():
            if user_data in table:
                table.complete(user_data, -self._code, 0)
        try:
            self._take_completions(False)
        except OSError:
            pass  # what has overflowed is out of reach
        return len(table.entries) > (self._wait.token in table.entries)

    def _wait_in_ring(self, timeout_ns: int | None) -> Ready:
        # Shaped by speed (bench/run.py --only ready): this is an iteration of a busy loop.
        ring, answers = self.ring, self._inflight.ready
        deadline = time.monotonic_ns() + timeout_ns if timeout_ns else 0
        new: list[int] = []
        try:
            if self._thread != get_ident():
                self._bind()
            if self._unclean:
                self._drop_queued()
            # What completed between two waits is a hint, and may be out of date: dropped, and armed again.
            if self._cqes or ring.cq.ready():
                self._take_completions(False)
            while True:
                self._unclean = True
                if self._pending:
                    new = self._queue_changes()
                if self._wait.token not in self._inflight.entries:
                    self._arm()
                # The answers to changes come at once, and besides the one that is waited for.
                if timeout_ns == 0 or answers:
                    ring.submit_and_wait(len(self._unanswered))
                else:
                    ring.submit_and_wait(1 + len(self._unanswered), timeout_ns)
                ready = self._take_completions(True)
                if self._on_the_way:
                    while self._unanswered:
                        # Somebody held the lock of the set, and a worker of the kernel's makes the change.
                        ring.submit_and_wait(1)
                        ready += self._take_completions(True)
                    self._note_sent(new)
                self._unclean = False
                if self._refused:
                    return self._with_refused(ready)
                if ready or timeout_ns == 0 or answers:
                    return ready
                if self._strayed:
                    self._strayed = False
                    return ready
                if deadline:
                    timeout_ns = deadline - time.monotonic_ns()
                    if timeout_ns <= 0:
                        return ready
        except BaseException:
            self._drop_queued()
            raise

    def _queue_changes(self) -> list[int]:
        """Turn notes into requests: send.

        Returns: the descriptors that are added.
        """
        # Shaped by speed (bench/run.py --only changes): no Python for each, if none is new.
        pending = self._on_the_way = self._pending
        self._pending = {}
        changes = _snapshot(pending)
        masks, new = bytes(list(changes.values())), []
        if not masks.isascii():  # _NEW is what is not ASCII
            for fd, change in list(changes.items()):
                if change & _NEW:
                    key = self.keys.get(fd)
                    if key is not None and _still(key) is False:
                        del changes[fd]  # closed
                    else:
                        new.append(fd)
            masks = bytes(list(changes.values()))
            self._known.update(dict.fromkeys(new, _NEW))
        fds, most = list(changes), self._sender.most
        while len(fds) > most:
            self._queue(fds[:most], masks[:most])
            _send(self.ring)
            self._take_completions(False)
            del fds[:most]
            masks = masks[most:]
        if fds:
            self._queue(fds, masks)
        return new

    def _queue(self, fds: list[int], masks: bytes) -> None:
        sqes, user_data = self._sender.fill(fds, masks)
        try:
            self.ring.push(sqes)
        except rings.SubmissionQueueFull:  # of requests of others
            _send(self.ring)
            self.ring.push(sqes)
        # Until here nothing is sent, and what stands in the queue _drop_queued finds there.
        self._unanswered = self._unanswered + user_data if self._unanswered else user_data

    def _note_sent(self, new: list[int]) -> None:
        """Take note that the kernel has made what was on its way: sent."""
        known = self._known
        for fd in new:
            if fd in known:
                known[fd] = 0
        if self._overtaken:
            for fd in tuple(self._overtaken):
                self._note(fd)
                self._overtaken.discard(fd)
        self._on_the_way = {}

    def _drop_queued(self) -> None:
        """Let what was queued and not sent do nothing, and note again what was on its way: struck."""
        if not self.ring.closed:
            sq = self.ring.sq
            head, token = sq.sqe_tail - sq.pending(), self._wait.token
            if head <= self._armed_at:  # the kernel has not taken the wait
                self._inflight.entries.pop(token, None)
            slots = [sq.slots[index & sq.ring_mask] for index in range(head, sq.sqe_tail)]
            unsent = {_USER_DATA.unpack_from(slot, 32)[0]: slot for slot in slots}
            self._unanswered = [each for each in self._unanswered if each not in unsent]
            for user_data, slot in unsent.items():
                if user_data & _CTL or user_data == token:
                    slot[:] = _NOP  # in its place: requests of others stand beside it
            while self._unanswered:  # or what is sent again could be made before what was sent first
                self._take_completions(False)
                if self._unanswered:
                    self.ring.submit_and_wait(1)
        for fd in tuple(_snapshot(self._on_the_way)):
            self._note(fd)
        self._overtaken.clear()
        self._on_the_way = {}
        self._unclean = False

    def _bind(self) -> None:
        """Move to the calling thread; the request of the old one is abandoned, with its memory."""
        self.ring.bind_thread()
        if self._unclean:
            self._drop_queued()
        if self._wait.token in self._inflight.entries:
            self._unclean = True
            self._inflight.cancel(self._wait.token)
            self.ring.submit()
            self._unclean = False
            self._prepare_wait(self._wait.capacity)
        self._thread = get_ident()  # last: what an exception has interrupted is done again

    def _prepare_wait(self, capacity: int) -> None:
        """Make the request that waits, with memory of its own."""
        memory = buffers.allocate(capacity * _event_layout().size)
        pin = buffers.pin(memory, writable=True)
        sqe, token = bytearray(self.ring.sq.sqe_size), next_token()
        ops.prep_rw(sqe, self._wait_op, self._epoll.fileno(), pin.address, capacity, 0, token)
        self._wait = _Request(token, capacity, memoryview(memory), bytes(sqe), (None, (pin, memory)))

    def _arm(self) -> None:
        """Queue the request that waits."""
        count = len(self.keys)
        if count > self._wait.capacity:
            self._prepare_wait(1 << (count - 1).bit_length())
        ring, wait = self.ring, self._wait
        # Held before it is queued; what of this an exception leaves behind _drop_queued undoes.
        self._armed_at = ring.sq.sqe_tail
        # The same token again: each request has exactly one completion, and it has come.
        self._inflight.entries[wait.token] = wait.held
        try:
            ring.put(wait.sqe)
        except rings.SubmissionQueueFull:
            _send(ring)
            ring.put(wait.sqe)

    def _take_completions(self, report: bool) -> Ready:
        """Handle every completion; events that are not to be reported are only hints."""
        ready: Ready = []
        self.ring.reap_into(self._cqes)
        count, cqes = len(self._unanswered), self._cqes
        if count > 3 and self._unanswered == [cqe[0] for cqe in islice(cqes, count) if not cqe[1]]:
            # Almost always: all changes were made, in their order.
            self._unanswered = []
            self._cqes = cqes = deque(islice(cqes, count, None))
        while cqes:
            user_data, res, flags = cqes[0]
            if user_data & _CTL:
                if res < 0:
                    self._control_failed(user_data & ~_CTL, -res)
                self._unanswered = [each for each in self._unanswered if each != user_data]
            elif user_data == self._wait.token:
                if self._inflight.entries.pop(user_data, None) and report:
                    ready += self._collect(res)
            else:
                self._inflight.complete(user_data, res, flags)
            cqes.popleft()
        return ready

    def _control_failed(self, fd: int, code: int) -> None:
        if code in (errno.EINVAL, errno.EOPNOTSUPP) and not self._known.keys() - {fd}:
            raise OSError(code, "this kernel has no IORING_OP_EPOLL_CTL (Linux 5.6)")
        if code in (errno.EEXIST, errno.ENOENT):  # closed and opened again, or made twice
            if fd not in self._pending:  # else it was overtaken, and is sent again
                self._apply(fd)
        else:
            self._fail(fd, code)  # denied

    def _collect(self, res: int) -> Ready:
        """Read what EPOLL_WAIT wrote."""
        if res < 0:
            if -res in (errno.ECANCELED, errno.EINTR, errno.EAGAIN):
                return []
            raise OSError(-res, f"IORING_OP_EPOLL_WAIT (Linux 6.15): {os.strerror(-res)}")
        self._found = res
        ready: Ready = []
        keys, event = self.keys, _event_layout()
        for mask, fd in event.iter_unpack(self._wait.memory[: res * event.size]):
            try:
                key = keys[fd]
            except KeyError:
                self._stray(fd)
                continue
            events = _EVENTS[mask & 31] & key[2]
            if events:
                ready.append((key, events))
        return ready

    def _stray(self, fd: int) -> None:
        """Put out what nobody has registered: a number that was abandoned, or used again before it was added.

        What cannot be put out (a copy of a closed descriptor, open elsewhere) ends the wait, as in
        EpollSelector.
        """
        if not self._put_out(fd):
            self._strayed = True
        if fd in self.keys:
            # Another thread has registered it meanwhile, and what was put out may have been that.
            self._known.pop(fd, None)
            self._note(fd)
            if self._direct:
                self._apply(fd)

    # -- the rest

    def fileno(self) -> int:
        """Return the descriptor of the set, which from now on knows of every change at once."""
        self._check_ring()
        self._direct, self._idle = True, False
        self._apply_all()
        return self._epoll.fileno()

    def close(self) -> None:
        """Close ring and set."""
        while self._cqes:  # else the ring would wait for completions that have come already
            self._inflight.complete(*self._cqes[0][:3])
            self._cqes.popleft()
        if not self.ring.closed:
            if self.ring.owner != get_ident() and not self._waiting:
                self.ring.bind_thread()
            try:
                self.ring.close()
            except OSError as error:
                taken_away = error.errno in rings.LOST and syscalls.is_ours(error)
                if not (self._lost or taken_away):
                    raise
            finally:
                if self.ring.closed:  # not refused
                    self._close_set()
        self._pending.clear()
        self._known.clear()
        self._close_set()

    def _close_set(self) -> None:
        self._epoll.close()
        waker, self._waker = self._waker, -1
        if waker >= 0:
            os.close(waker)


@cache
def _event_layout() -> struct.Struct:
    return buffers.epoll_event_struct("i4x")


def _events_memory(count: int) -> tuple[memoryview, int, int, buffers.Pin, Any]:
    """Make memory for struct epoll_events.

    Returns: its words, how many an event has and which of them is the descriptor, and what owns the memory.
    """
    size = _event_layout().size
    memory = buffers.allocate(size * count)
    words = memoryview(memory).cast("B").cast("I")[: size * count // 4]
    return words, size // 4, 2 if size == 16 else 1, buffers.pin(memory), memory


class _Sender(syscalls.Uncopyable):
    """What makes EPOLL_CTL requests of changes."""

    def __init__(self, ring: rings.Ring, epfd: int) -> None:
        """Make room for the struct epoll_events of a few changes.

        Args: ring has one slot more than there are changes in a batch; epfd is the set.
        """
        self._epfd = epfd
        #: So many changes go into a batch: one slot is for the wait.
        self.most = ring.sq.ring_entries - 1
        self._least = few = min(_FEW, self.most)
        self._few = _events_memory(few)
        # Not filled in the queue: what stands there is always a whole request, of which one can tell whose.
        self._sqes = memoryview(bytearray(few * 64))
        self._slots = [self._sqes[at : at + 64] for at in range(0, few * 64, 64)]
        # What sends many; a few hundred microseconds, which most selectors never need.
        self._block: _CtlBlock | None = None

    def fill(self, fds: list[int], masks: bytes) -> tuple[memoryview, list[int]]:
        """Make requests of changes.

        Args: fds are at most as many as go into a batch; masks are what each is changed to.
        Returns: the SQEs, for Ring.push(), and the user_data of each.
        Lifetime: until they were submitted: the kernel reads an event when it takes the request.
        """
        if len(fds) <= self._least:
            words, step, at, pin, _ = self._few
            for i, fd in enumerate(fds):
                change = masks[i]
                # Not through columns: PyPy 8.0 puts every item of a view with a step first.
                words[i * step], words[i * step + at] = change & ~_NEW, fd
                ops.prep_rw(
                    self._slots[i], uapi.IORING_OP_EPOLL_CTL, self._epfd, pin.address + 4 * i * step,
                    _ADD if change & _NEW else _MOD, fd, _CTL | fd,
                )  # fmt: skip
            return self._sqes[: len(fds) * 64], [_CTL | fd for fd in fds]
        block = self._block
        if block is None:
            block = self._block = _CtlBlock(self.most, self._epfd)
        return block.fill(fds, masks)


def _send(ring: rings.Ring) -> None:
    """Send all that is queued."""
    ring.submit()
    if ring.sq.pending():
        raise OSError(errno.EAGAIN, "the kernel takes no more requests for now")


class _CtlBlock(syscalls.Uncopyable):
    """EPOLL_CTL requests with their struct epoll_events, of which only what differs is written, by column."""

    def __init__(self, count: int, epfd: int) -> None:
        """Make them.

        Args: count requests; epfd is the set.
        """
        words, step, at, self._pin, self._memory = _events_memory(count)
        self._size = size = 4 * step
        self._sqes = ops.Block(count, ops.prep_rw, uapi.IORING_OP_EPOLL_CTL, epfd, 0, _MOD, 0)
        self._sqes.set("addr", range(self._pin.address, self._pin.address + size * count, size))
        self._sqes.set("user_data", [_CTL] * count)
        #: Some of the requests are additions.
        self._adds = False
        cells, low = memoryview(self._sqes.memory).cast("I"), sys.byteorder == "big"
        self._user_data = memoryview(self._sqes.memory).cast("Q")[4::8]
        #: Where a descriptor goes: into the event, and into the lower half of off and of user_data.
        self._fds = words[at::step], cells[2 + low :: 16], cells[8 + low :: 16]

    def fill(self, fds: list[int], masks: bytes) -> tuple[memoryview, list[int]]:
        """Write changes into the first requests.

        Args: fds are no more than the requests; masks are what each is changed to.
        Returns: the SQEs, for Ring.push(), and the user_data of each.
        Lifetime: until they were submitted: the kernel reads an event when it takes the request.
        """
        count = len(fds)
        if not masks.isascii():
            self._adds = True
            self._sqes.set("len", masks.translate(_CTL_OPS))
            masks = masks.translate(_CTL_MASKS)
        elif self._adds:
            self._sqes.set("len", [_MOD] * self._sqes.count)
            self._adds = False
        self._memory[_LOW : count * self._size : self._size] = masks  # a tenth of what words cost
        numbers = memoryview(array("I", fds))
        for column in self._fds:
            column[:count] = numbers
        return self._sqes.first(count), self._user_data[:count].tolist()


class EpollPoll(EpollWait):
    """Send changes as EPOLL_CTL, watch the set with POLL_ADD, and ask the set when it is ready (5.6)."""

    name = "io_uring:epoll_poll"
    _wait_op = uapi.IORING_OP_POLL_ADD
    reason = "EPOLL_CTL works here (Linux 5.6): one system call for changes, one for events"

    def _prepare_wait(self, capacity: int) -> None:
        sqe, token = bytearray(self.ring.sq.sqe_size), next_token()
        ops.prep_poll_add(sqe, self._epoll.fileno(), _IN, token)
        self._wait = _Request(token, capacity, memoryview(b""), bytes(sqe), (None, ()))

    def _collect(self, res: int) -> Ready:
        return self._ask_epoll(0)


def _still(key: SelectorKey) -> bool | None:
    """Tell whether a file object still has its number; None for a plain number, which cannot tell.

    False when it was closed, or detached: a socket does not say which.
    """
    file = key[0]
    if isinstance(file, int):
        return None
    try:
        return bool(file.fileno() == key[1])
    except (AttributeError, TypeError, ValueError):  # as register() does
        return False


def _file_of(fd: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _snapshot(changes: Changes) -> Changes:
    """Copy a dictionary that other threads may be changing."""
    while True:
        try:
            return dict(changes)
        except RuntimeError:  # PyPy: it changed on the way
            continue


# ------------------------------------------------------------------------------------------------------
# One-shot polls, as QEMU does it


class PollAdd(Strategy):
    """Watch each descriptor with a poll of its own, through the monitor of fdmon.py (5.1).

    A pending poll holds its file, so a socket that is closed without being unregistered stays open until it
    is unregistered. And a poll belongs to a thread, so while the thread that selected lives, no other one may
    select. In all else this strategy behaves like the others.
    """

    name = "io_uring:poll_add"
    reason = "POLL_ADD works here (Linux 5.1)"

    def __init__(self, entries: int) -> None:
        """Create the monitor.

        Args: entries is the SQ size.
        Raises: Unavailable.
        """
        self._monitor = fdmon.IoUringFDMon(entries)
        self.ring: rings.Ring = self._monitor.ring
        # The nodes of each number that may be in the monitor. Which of them is there, if a signal handler has
        # raised, nobody has to know: the next change gives all up, in the step in which it starts a new one.
        self._nodes: dict[int, tuple[fdmon.AioHandler, ...]] = {}
        # What the next wait arms by its number, with the file that it was, as far as that was asked.
        self._unarmed: dict[int, tuple[int, int] | None] = {}

    def add(self, key: SelectorKey, known: bool) -> None:
        """Refuse what epoll would refuse, as far as fstat can tell; the rest is done by the next wait."""
        file = None
        if not known:
            found = os.fstat(key.fd)
            if stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode):
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
            file = found.st_dev, found.st_ino
        for left in self._nodes.get(key.fd, ()):  # when a signal handler raised in unregister()
            self._monitor.release(left)
        self._unarmed[key.fd] = file
        self._replace(key.fd, _MASK[key.events & _BOTH])

    def change(self, key: SelectorKey, mask: int, known: bool) -> None:
        """Replace the handler; the kernel hears of it with the next wait."""
        if key.fd not in self._nodes:  # see _drop_closed
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if not (known and isinstance(key.fileobj, socket)):
            found = os.fstat(key.fd)
            self._unarmed.setdefault(key.fd, (found.st_dev, found.st_ino))
        else:
            self._unarmed.setdefault(key.fd, None)
        self.keys[key.fd] = key
        self._replace(key.fd, mask)

    def _drop_closed(self) -> None:
        """Give up what was closed since it was added or modified: its number may be another file's by now."""
        for fd, file in list(self._unarmed.items()):
            key = self.keys.get(fd)
            if key is not None and (_still(key) is False or (file is not None and file != _file_of(fd))):
                for node in self._nodes.pop(fd, ()):
                    self._monitor.remove(node)
        self._unarmed.clear()

    def _replace(self, fd: int, mask: int) -> None:
        old = self._nodes.get(fd, ())
        new = fdmon.AioHandler(fd, mask)
        self._nodes[fd] = (*old, new)  # known here before the monitor has it
        self._monitor.update(None, new, *old)
        self._nodes[fd] = (new,)
        self._monitor.wake_waiter()

    def remove(self, key: SelectorKey) -> None:
        """End the poll, so that the file is free."""
        for node in self._nodes.get(key.fd, ()):
            self._monitor.release(node)
        self._unarmed.pop(key.fd, None)
        self._nodes.pop(key.fd, None)  # last, as in add()

    def wait(self, timeout_ns: int | None) -> Ready:
        """Wait in the monitor; a closed descriptor is silent, as in EpollSelector."""
        keys, monitor = self.keys, self._monitor
        answers = monitor.inflight.ready
        deadline = None if not timeout_ns else time.monotonic_ns() + timeout_ns
        if self._unarmed:
            self._drop_closed()
        while True:
            found = monitor.wait(timeout_ns)
            if monitor.backend != "io_uring" and self.name != monitor.backend:
                self._note_loss()
            try:  # shaped by speed (bench/run.py --only ready)
                ready = [
                    (key, events) for node, mask in found for key in (keys[node.fd],)
                    for events in (_EVENTS[mask] & key[2],) if events
                ]  # fmt: skip
            except LookupError:
                ready = self._sort_out(found)
            if ready or timeout_ns == 0 or answers:
                return ready
            if deadline is not None:
                timeout_ns = max(0, deadline - time.monotonic_ns())
                if not timeout_ns:
                    return ready

    def _sort_out(self, found: list[fdmon.Event]) -> Ready:
        """Remove what was closed, and what is not registered any more: a signal handler raised meanwhile."""
        for node, mask in found:
            if mask & fdmon.POLLNVAL or node.fd not in self.keys:
                self._monitor.remove(node)  # or it would wake us for ever
        current = ((self.keys.get(node.fd), mask) for node, mask in found if not mask & fdmon.POLLNVAL)
        ready = [(key, _EVENTS[mask & 31] & key[2]) for key, mask in current if key is not None]
        return [pair for pair in ready if pair[1]]

    def requests(self) -> InFlight | None:
        """Return the monitor's table; None when its ring is lost or closed."""
        monitor = self._monitor
        if monitor.backend != "io_uring" or self.ring.closed:
            return None
        if self.ring.owner != get_ident() and not monitor._waiting:
            monitor._bind()
        return monitor.inflight

    def _note_loss(self) -> None:
        """Say that the monitor has gone on without the ring."""
        self.name, self.reason = self._monitor.backend, self._monitor.reason
        warnings.warn(f"{self.reason}; going on with {self.name}", RuntimeWarning, stacklevel=4)

    def fileno(self) -> int:
        """Return the ring's descriptor."""
        return self._monitor.fileno()

    def close(self) -> None:
        """Destroy the monitor."""
        ring = self.ring
        if not ring.closed and ring.owner != get_ident() and not self._monitor._waiting:
            ring.bind_thread()
        self._monitor.destroy()
        self._nodes.clear()


# ------------------------------------------------------------------------------------------------------
# The standard library's


class Stdlib(Strategy):
    """Hand everything to a selector of the standard library."""

    def __init__(self, kind: type[selectors.BaseSelector]) -> None:
        """Create it.

        Args: kind is one of the classes in selectors.
        """
        self.name = kind.__name__.replace("Selector", "").lower()
        self._selector = kind()

    def add(self, key: SelectorKey, known: bool) -> None:
        """Register the number."""
        self._selector.register(key.fd, key.events)

    def change(self, key: SelectorKey, mask: int, known: bool) -> None:
        """Modify the number's registration."""
        self._selector.modify(key.fd, key.events)
        self.keys[key.fd] = key

    def remove(self, key: SelectorKey) -> None:
        """Unregister the number."""
        try:
            self._selector.unregister(key.fd)
        except KeyError:
            return  # done already

    def wait(self, timeout_ns: int | None) -> Ready:
        """Wait for as long as that selector can count."""
        timeout = None if timeout_ns is None else min(timeout_ns / 1e9, _LONGEST_STDLIB)
        found = self._selector.select(timeout)
        current = ((self.keys.get(key.fd), events) for key, events in found)
        return [(key, events) for key, events in current if key is not None]

    def fileno(self) -> int:
        """Return the selector's descriptor; AttributeError where it has none."""
        return int(self._selector.fileno())  # type: ignore[attr-defined]

    def close(self) -> None:
        """Close the selector."""
        self._selector.close()


# ------------------------------------------------------------------------------------------------------
# Choosing

#: The strategies over io_uring, the best first: see bench/run.py --only ready.
STRATEGIES: dict[str, type[EpollWait] | type[PollAdd]] = {
    each.name: each for each in (EpollWait, EpollPoll, PollAdd)
}


def _choose(wanted: str | None, fallback: bool, entries: int) -> Strategy:
    """Create the first strategy that works here, and let it know why."""
    if wanted is not None and not isinstance(wanted, str):
        raise TypeError(f"strategy={wanted!r}: a name is wanted, one of {', '.join(STRATEGIES)}")
    if not hasattr(entries, "__index__"):
        raise TypeError(f"entries={entries!r}: the size of the ring is wanted, an int")
    if not 1 <= entries <= 32768:
        raise ValueError(f"entries={entries!r}: the size of the ring lies between 1 and 32768")
    strategy: Strategy
    if wanted in _STDLIB:
        strategy = Stdlib(_STDLIB[wanted])
        strategy.reason = f"{wanted} was asked for"
        return strategy
    if wanted is not None and wanted not in STRATEGIES:
        raise ValueError(f"no strategy is called {wanted!r}: choose from {', '.join(STRATEGIES)}")
    failures: list[str] = []
    last: Exception = OSError("no strategy")
    for name in [wanted] if wanted else STRATEGIES:
        try:
            strategy = STRATEGIES[name](entries)
        except (OSError, ImportError, AttributeError) as error:
            failures.append(f"{name} failed: {error}")
            last = error.with_traceback(None)  # whose frames hold what is closed by now
            if isinstance(error, syscalls.Unavailable):
                break  # without a ring there is no other strategy
            if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
                break  # epoll needs one descriptor, poll_add as many as this
            continue
        strategy.reason = "; ".join([*failures, strategy.reason])
        return strategy
    if not fallback:
        raise last
    strategy = _first_of_stdlib()
    strategy.reason = "; ".join(failures)
    message = f"io_uring cannot be used here, {strategy.name} takes its place: {strategy.reason}"
    warnings.warn(message, RuntimeWarning, stacklevel=3)
    return strategy


#: The standard library's selectors, the best first, as they were when this file was imported: aio.install()
#: puts IoUringSelector in the place of DefaultSelector, and without a ring it would look for itself there.
_STDLIB: dict[str, type[selectors.BaseSelector]] = {
    name: getattr(selectors, name.capitalize() + "Selector")
    for name in ("epoll", "kqueue", "devpoll", "poll", "select")
    if hasattr(selectors, name.capitalize() + "Selector")
}


def _first_of_stdlib() -> Stdlib:
    """Create the first of the standard library's that works here."""
    for kind in list(_STDLIB.values())[:-1]:
        try:
            return Stdlib(kind)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise  # as EpollSelector() does
            continue  # this kernel, or a filter, does not know it
    return Stdlib(list(_STDLIB.values())[-1])
