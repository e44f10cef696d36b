# SPDX-License-Identifier: MIT
# pyright: basic
"""A selectors.BaseSelector on io_uring, for all code that takes a selector, asyncio above all.

What it is: IoUringSelector, the strategies besides those of epollwait.py, and the choice among all of them.
Mirrors: CPython ``Lib/selectors.py`` EpollSelector, in its observable behaviour.
Must not know: asyncio.
Invariant: the events that select() returns were true inside that select(). Completions that arrive between
    two
calls are hints and are checked again.
Read next: asyncring.py.

Unless said otherwise, memory passed to a call may be freed when the call returns, any thread may call, and
Linux 5.1 suffices.

Facts, and their consequences:

* epoll rejects regular files, closed descriptors and some devices, and register() has to report this. Only
  the kernel knows, so registering a number costs one epoll_ctl. A socket object needs none: its fileno()
  shows whether it is open. ``trusting`` accepts numbers without this check.
* A pending POLL_ADD holds its file; an epoll set does not. So one-shot polls, which also cost eight times as
  much per event, are for kernels without EPOLL_CTL.
"""

from __future__ import annotations

import errno
import math
import os
import selectors
import stat
import time
import warnings
from _thread import RLock, get_ident
from collections.abc import Mapping
from selectors import EVENT_READ as EVENT_READ, EVENT_WRITE as EVENT_WRITE, SelectorKey
from socket import socket

from . import fdmon, rings, syscalls

# Names imported "as" themselves are public here, too.
from .epollwait import MACHINE as MACHINE, EpollPoll as EpollPoll, EpollWait as EpollWait
from .handle import _snapshot
from .inflight import InFlight
from .strategy import _BOTH, _EVENTS, _LONGEST_STDLIB, _MASK, Strategy as Strategy, _still

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Callable

    from .strategy import Keys, Ready

_MOST_FD = 0x7FFFFFFF  # an int in C
_LONGEST, _LONGEST_NS = 9.2e9, 9_200_000_000 * 10**9  # 292 years: 63 bits of nanoseconds


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
        """Choose the best strategy that works here.

        Args: strategy names one of STRATEGIES ("epoll", "poll" and "select" are the standard library's), None
            takes the first that works; fallback allows a selector of the standard library to replace it,
            with a RuntimeWarning that gives the reason; entries is the size of the ring, and so the number
            of changes that fit into one system call; trusting accepts plain numbers without a check, so
            register() and modify() make no system call for them either. A number that cannot be
            watched is reported as ready instead of being rejected, a closed one is silent, and one that was
            closed and reused between register() and the next select() watches the new file.
        Raises: Unavailable with the cause, without fallback; TypeError, ValueError for an unknown strategy
            and for entries outside 1 to 32768.
        Threads: any; the first select() binds the selector to a thread.
        Since: 5.1; 5.6 for an epoll set, 6.15 for one system call with it
        """
        self._map: Keys = {}
        self._view = _Map(self._map)  # refers to the dictionary, not to us: no cycle
        self._closed = False
        #: Whether plain numbers are accepted without a check.
        self.trusting = trusting
        self._strategy = _choose(strategy, fallback, entries)
        self._strategy.keys = self._map
        #: The table that ``requests`` has returned, after its first use.
        self._table: InFlight | None = None

    @property
    def backend(self) -> str:
        """Name the strategy in use.

        Returns: "io_uring:epoll_wait", "io_uring:epoll_poll" or "io_uring:poll_add"; or "epoll", "poll",
            "select" or "kqueue" where io_uring is not available.
        """
        return self._strategy.name

    @property
    def reason(self) -> str:
        """Return the reason why this strategy is in use, as a sentence."""
        return self._strategy.reason

    @property
    def ring(self) -> rings.Ring | None:
        """Return the ring, or None without one; its statistics() count the system calls."""
        return self._strategy.ring

    @property
    def requests(self) -> InFlight | None:
        """Return the table of the ring in use, on which any code may start requests of any kind.

        The io_uring_enter of the next select() sends them. select() runs their handlers and then returns,
        even with an empty list. Start and cancel requests as the table describes; do not reap or dispatch,
        because the selector's own completions are among theirs. A request with IOSQE_IO_DRAIN would wait
        for the selector's own requests, which wait for events. close() cancels requests in flight and waits
        for them. When the kernel takes the ring away, requests that were not sent complete with the errno,
        and so do requests that are started later.

        Returns: None without a ring, and after its loss.
        Raises: WrongThread as select(), with io_uring:poll_add.
        Threads: the one that calls select(), which may change.
        Mirrors: QEMU aio_add_sqe, which puts requests on the ring of the monitor
        """
        table = self._strategy.requests()
        if table is not None:
            self._table = table
        return table

    # -- changes

    def register(self, fileobj: Any, events: int, data: Any = None) -> SelectorKey:
        """Start to watch a file object.

        Makes no system call for socket objects: the next select() sends the change.

        Args: fileobj is a descriptor or has a fileno(); events is EVENT_READ, EVENT_WRITE or both; data is
            for the caller's own use.
        Returns: the key.
        Raises: as EpollSelector: ValueError, KeyError, PermissionError for a file that cannot be watched (a
            regular file), OSError for a closed descriptor.
        Lifetime: none; the file is not held.
        Threads: any; a running select() notices.
        Mirrors: CPython selectors.EpollSelector.register
        """
        if not events or events & ~_BOTH:
            raise ValueError(f"Invalid events: {events!r}")
        fd = self._view.fd_of(fileobj)
        key = _new_tuple(SelectorKey, (fileobj, fd, events, data))
        if fd in self._map:
            raise KeyError(f"{fileobj!r} (FD {fd}) is already registered")
        if fd > _MOST_FD:
            raise OverflowError(f"{fileobj!r}: {fd} is not a file descriptor, which is a 32-bit int")
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
        """Stop watching a file object; when this returns, the kernel has released it.

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
        except BaseException:  # a signal handler raised, perhaps before everything was done
            self._strategy.remove(key)
            self._map.pop(fd, None)
            raise
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> SelectorKey:
        """Change the events a file object is watched for, or its data.

        Makes no system call for an object with a fileno(): the next select() sends the change. A plain number
        costs one, as in register(): it may be closed and belong to another file by the next select().

        Args: as register().
        Returns: the new key.
        Raises: KeyError when it is not registered; OSError when the kernel no longer knows it, which ends the
            registration. Events without EVENT_READ and EVENT_WRITE are allowed: the file object stays
            registered, and nothing is reported.
        Mirrors: CPython selectors.EpollSelector.modify
        """
        # Shaped by speed (bench/run.py --only changes): one fileno() call on the usual object, and a change
        # that is only noted. Items of a key cost half as much as its members by name.
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

        Signal handlers run, and the wait continues (PEP 475).

        Args: timeout in seconds, counted to the nanosecond; None waits for ever, 0 and less do not wait; more
            than 292 years, infinity too, are 292 years.
        Returns: pairs (key, events) that are ready; perhaps none, after handlers of ``requests`` ran.
        Raises: ValueError after close(); ForkedRing in a forked child; the exception of a request's handler.
        Threads: one at a time.
        Mirrors: CPython selectors.EpollSelector.select, whose timeouts are rounded up to milliseconds
        """
        if timeout is not None:
            timeout = 0 if timeout <= 0 else _LONGEST_NS if timeout > _LONGEST else math.ceil(timeout * 1e9)
        if self._table is None:
            return self._strategy.wait(timeout)
        return self._wait_and_dispatch(self._table, timeout)

    def _wait_and_dispatch(self, table: InFlight, timeout_ns: int | None) -> Ready:
        """Wait, run the handlers of completed requests, and report only registrations they left unchanged."""
        found = self._strategy.wait(timeout_ns)
        ring = self._strategy.ring
        if not table.ready or (ring is not None and ring.owner not in (get_ident(), 0)):
            return found  # no handler is to run, or the ring belongs to another thread
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

        With io_uring:poll_add it may be readable although no file object is ready, for example after a
        change: select(0) then returns nothing.

        Raises: ValueError after close().
        """
        return self._strategy.fileno()

    def close(self) -> None:
        """Unregister all file objects and close what the selector opened; may be called twice.

        Threads: any, while none is in select().
        """
        self._map.clear()
        self._closed = True
        self._strategy.close()

    def __del__(self) -> None:
        """Close a selector that was not closed, without a warning, as EpollSelector does."""
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
    """The mapping that get_map() returns: file objects to keys."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def fd_of(self, fileobj: Any) -> int:
        """Return the number of a file object, even if it was closed while registered."""
        try:
            return _fileno(fileobj)
        except ValueError:
            for key in _snapshot(dict, self._keys).values():
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
# One-shot polls, as QEMU does it


class PollAdd(Strategy):
    """Watch each descriptor with its own poll, through the monitor of fdmon.py (5.1).

    A pending poll holds its file, so a socket that is closed without unregister() stays open until
    unregister(). A poll belongs to a thread, so no other thread may select while that thread lives. Otherwise
    this strategy behaves like the others.
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
        self.ring.owned = True
        # The nodes of each number that may be in the monitor. After an exception of a signal handler it does
        # not matter which of them are: the next change removes all of them as it adds a new one.
        self._nodes: dict[int, tuple[fdmon.AioHandler, ...]] = {}
        # The nodes that the next wait arms, each with its file when it was added, if that was looked up.
        self._unarmed: dict[fdmon.AioHandler, tuple[int, int] | None] = {}
        # Held while a node is replaced: of two that replaced the same one, one would stay in the monitor.
        self._replacing = RLock()

    def add(self, key: SelectorKey, known: bool) -> None:
        """Reject what epoll would reject, as far as fstat can tell; the next wait does the rest."""
        file = None
        if not known:
            found = os.fstat(key.fd)
            if stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode):
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
            file = found.st_dev, found.st_ino
        for left in self._nodes.get(key.fd, ()):  # if a signal handler raised in unregister()
            self._monitor.release(left)
        with self._replacing:
            self._replace(key.fd, _MASK[key.events & _BOTH], file)

    def change(self, key: SelectorKey, mask: int, known: bool) -> None:
        """Replace the handler; the next wait tells the kernel."""
        file = None
        if not (known and isinstance(key.fileobj, socket)):
            found = os.fstat(key.fd)
            file = found.st_dev, found.st_ino
        with self._replacing:
            nodes = self._nodes.get(key.fd)
            if not nodes or nodes[-1].deleted:  # see _drop_closed
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            self.keys[key.fd] = key
            self._replace(key.fd, mask, file)

    def _drop_closed(self) -> None:
        """Remove descriptors closed since they were added or modified: their numbers may have been reused."""
        # By node, not by number: another thread may meanwhile register another file under the number.
        for node, file in _snapshot(dict, self._unarmed).items():
            key = self.keys.get(node.fd)
            if key is not None and (_still(key) is False or (file is not None and file != _file_of(node.fd))):
                self._monitor.remove(node)
            self._unarmed.pop(node, None)

    def _replace(self, fd: int, mask: int, file: tuple[int, int] | None) -> None:
        unarmed, old = self._unarmed, self._nodes.get(fd, ())
        new = fdmon.AioHandler(fd, mask)
        for node in old:
            file = unarmed.get(node) or file  # of the first of those that were never armed
        unarmed[new] = file
        self._nodes[fd] = (*old, new)  # recorded here before the monitor has it
        self._monitor.update(None, new, *old)
        self._nodes[fd] = (new,)
        for node in old:
            unarmed.pop(node, None)
        self._monitor.wake_waiter()

    def remove(self, key: SelectorKey) -> None:
        """End the poll, so that the file is released."""
        for node in self._nodes.get(key.fd, ()):
            self._monitor.release(node)
            self._unarmed.pop(node, None)
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
                if len(found) == 1:  # 150 ns less
                    [(node, mask)] = found
                    key = keys[node.fd]
                    events = _EVENTS[mask] & key[2]
                    ready = [(key, events)] if events else []
                else:
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
        """Remove closed descriptors, and those that an exception of a signal handler left registered."""
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
        """Warn that the monitor continues without the ring."""
        self.name, self.reason = self._monitor.backend, self._monitor.reason
        warnings.warn(f"{self.reason}; continuing with {self.name}", RuntimeWarning, stacklevel=4)

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


def _file_of(fd: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino


# ------------------------------------------------------------------------------------------------------
# Selectors of the standard library


class Stdlib(Strategy):
    """Delegate to a selector of the standard library."""

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
            return  # already done

    def wait(self, timeout_ns: int | None) -> Ready:
        """Wait, for no longer than that selector can count."""
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
    """Create the first strategy that works here, and record why."""
    if wanted is not None and not isinstance(wanted, str):
        raise TypeError(f"strategy={wanted!r}: must be a name, one of {', '.join(STRATEGIES)}")
    if not hasattr(entries, "__index__"):
        raise TypeError(f"entries={entries!r}: must be an int, the size of the ring")
    if not 1 <= entries <= 32768:
        raise ValueError(f"entries={entries!r}: must be between 1 and 32768, the size of the ring")
    strategy: Strategy
    if wanted in _STDLIB:
        strategy = Stdlib(_STDLIB[wanted])
        strategy.reason = f"{wanted} was requested"
        return strategy
    if wanted is not None and wanted not in STRATEGIES:
        raise ValueError(f"there is no strategy {wanted!r}: choose from {', '.join(STRATEGIES)}")
    failures: list[str] = []
    last: Exception = OSError("no strategy")
    for name in [wanted] if wanted else STRATEGIES:
        try:
            strategy = STRATEGIES[name](entries)
        except (OSError, ImportError, AttributeError) as error:
            failures.append(f"{name} failed: {error}")
            last = error.with_traceback(None)  # its frames hold closed objects
            if isinstance(error, syscalls.Unavailable):
                break  # every other strategy needs a ring, too
            if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
                break  # epoll needs one descriptor, poll_add as many as this
            continue
        strategy.reason = "; ".join([*failures, strategy.reason])
        return strategy
    if not fallback:
        raise last
    strategy = _first_of_stdlib()
    strategy.reason = "; ".join(failures)
    message = f"io_uring cannot be used here, {strategy.name} is used instead: {strategy.reason}"
    warnings.warn(message, RuntimeWarning, stacklevel=3)
    return strategy


#: The standard library's selectors, the best first, as of the import of this file: aio.install()
#: replaces DefaultSelector by IoUringSelector, which without a ring would choose itself.
_STDLIB: dict[str, type[selectors.BaseSelector]] = {
    name: getattr(selectors, name.capitalize() + "Selector")
    for name in ("epoll", "kqueue", "devpoll", "poll", "select")
    if hasattr(selectors, name.capitalize() + "Selector")
}


def _first_of_stdlib() -> Stdlib:
    """Create the first selector of the standard library that works here."""
    for kind in list(_STDLIB.values())[:-1]:
        try:
            return Stdlib(kind)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise  # as EpollSelector() does
            continue  # this kernel lacks it, or a filter forbids it
    return Stdlib(list(_STDLIB.values())[-1])
