# SPDX-License-Identifier: MIT
# pyright: basic
"""An epoll set whose changes and waits travel through a ring.

What it is: EpollWait, the strategy of IoUringSelector that uses EPOLL_CTL and EPOLL_WAIT, and EpollPoll, for
kernels before 6.15. MACHINE is the life of a descriptor in it, as a table.
Mirrors: h11 ``_state.py``, in that tables declare the machine.
Must not know: file objects, except whether one still has its number; asyncio.
Invariant: each descriptor is in a state of MACHINE, and moves only as its row says.
Read next: selector.py. On a first reading: MACHINE, EpollWait.change and EpollWait.wait.

Unless said otherwise, memory passed to a call may be freed when the call returns, and any thread may call.

Facts, and their consequences:

* One-shot polls cost 0.8 to 1.1 microseconds per event from Python, an epoll set 0.13. So descriptors
  live in an epoll set, and the ring does what epoll does badly: many changes and a timeout in nanoseconds,
  in one system call (EPOLL_CTL and EPOLL_WAIT as requests). A wait without changes that has no timeout, or
  that does not block, calls epoll_wait directly: also one system call, and a cheaper one.
* An epoll set holds no reference to the files it watches: closing a descriptor removes it, and the peer of
  a closed socket sees the end of file at once.
* An EPOLL_CTL request looks up its descriptor when it runs. Additions and modifications can therefore wait
  for the next select(); a removal cannot, because the number could be another file by then.
* An EPOLL_CTL request only tries the lock of the set. While another thread holds the lock, a worker runs the
  request later, perhaps after a newer one. So a change counts as made when its completion arrives, and until
  then no other request for that descriptor is sent.
* A request belongs to the thread that submitted it, and is cancelled when that thread ends. When another
  thread starts to use a selector, the strategy sends its requests again.
"""

from __future__ import annotations

import errno
import os
import select
import struct
import sys
import time
import warnings
from _thread import RLock, get_ident
from array import array
from collections import deque, namedtuple
from functools import cache
from itertools import islice
from selectors import EVENT_READ, SelectorKey
from socket import socket

from . import buffers, fdmon, ops, rings, syscalls, uapi
from .handle import _snapshot
from .inflight import InFlight, next_token
from .monitor import POLLIN
from .strategy import _BOTH, _EVENTS, _LONGEST_STDLIB, _MASK, Strategy, _still

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .strategy import Ready

    Changes = dict[int, int]  # fd -> a mask of poll bits, with _NEW for EPOLL_CTL_ADD

# ------------------------------------------------------------------------------------------------------
# The machine

#: What the selector and its epoll set know of a descriptor, and what can happen: state -> event -> state.
#: EpollWait.state() returns the state. An event that a row lacks cannot occur there, or it is a modify()
#: without knowledge that the descriptor is valid, of one that the set does not contain: that raises and ends
#: the registration.
#:
#: =========  ===========================================================================================
#: state      meaning
#: =========  ===========================================================================================
#: unknown    the set does not contain it: not registered, or closed before it was added
#: noted      an addition waits for the next select()
#: adding     the addition is on its way
#: unsure     the set may contain it: an exception interrupted the addition; it is added again
#: given      the set watches it as the key says
#: changed    a modification waits for the next select()
#: changing   the modification is on its way
#: overtaken  changed while an older change was on its way: made at once, and sent again after the older
#: abandoned  unregistered while a change was on its way; a leftover is removed when it reports an event
#: refused    the set rejected it, although the caller vouched for it: reported as ready
#: =========  ===========================================================================================
#:
#: =========  ===========================================================================================
#: event      meaning
#: =========  ===========================================================================================
#: change     register() or modify() of a descriptor that is known to be valid
#: judge      the same without that knowledge: the kernel decides, at once
#: remove     unregister(), at once
#: send       a select() sends all notes
#: sent       the change has completed
#: struck     an exception ends that select() before the change is known to have completed
#: denied     the kernel answers that this file cannot be watched
#: closed     the file is closed when the select() takes its note
#: apply      notes are carried out without the ring: it is lost, or other code watches fileno()
#: =========  ===========================================================================================
#:
#: Other threads call every method; signal handlers run after any call in here (before CPython 3.11 between
#: any two bytecodes), change registrations, and raise. Five rules keep the rows true:
#:
#: * **One store publishes.** Values that belong together are prepared first and published with one store.
#: * **Remove from the list only when done.** Making a change twice is harmless, losing it is not.
#: * **Publish, then look.** A thread that changes something stores the key, stores the note, and then checks
#:   that both are still in place and whether a select() is running. The thread that selects announces it
#:   first, then takes the list, then reads it. So one of the two sees the other.
#: * **The key is right.** A change that is made without the ring, or sent again, is what the key says at
#:   that time; the thread that made it then checks that the key is still the same.
#: * **The older one first.** A change that is sent again waits for the completion of the older one: a worker
#:   could otherwise make the older one last.
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
# An epoll set, changed and watched through a ring

_ADD, _MOD = 1, 3  # EPOLL_CTL_ADD, EPOLL_CTL_MOD in linux/eventpoll.h
_FEW = 12  # up to this many changes are prepared one by one
# The no-call rule (queues.py), which holds for other threads as well where there is a GIL.
_ONE_STEP = rings._HANDLERS_RUN_AFTER_CALLS and getattr(sys, "_is_gil_enabled", lambda: True)()
_NEW = 1 << 7  # beside the mask of a pending change: the set does not contain the descriptor yet
# Pending changes as bytes, to the operation and to the mask of each; which byte of a word holds a mask.
_CTL_OPS = bytes(_ADD if change & _NEW else _MOD for change in range(256))
_CTL_MASKS = bytes(change & ~_NEW for change in range(256))
_LOW = 3 if sys.byteorder == "big" else 0
_CTL = 1 << 55  # marks the user_data of an EPOLL_CTL: no token has this bit, and the int is a short one

# The waiting request, with everything that belongs to it. One store replaces it as a whole: when a signal
# handler raises while the next one is made, the old one stays, never a new size with old memory.
_Request = namedtuple("_Request", "token capacity memory sqe held")


#: The pairs of operations (the waiting one, the changing one) that have worked in this process.
_WORKING: set[tuple[int, int]] = set()


class EpollWait(Strategy):
    """Send changes as EPOLL_CTL and wait with EPOLL_WAIT, all in one io_uring_enter (6.15).

    The tables and rules of MACHINE describe the life of a descriptor.
    """

    name = "io_uring:epoll_wait"
    reason = "EPOLL_CTL and EPOLL_WAIT work here (Linux 6.15): one system call for changes and events"
    _wait_op: int = uapi.IORING_OP_EPOLL_WAIT

    def __init__(self, entries: int) -> None:
        """Create the ring and the set, and try them together.

        Args: entries is the SQ size.
        Raises: Unavailable without a ring; OSError when the kernel does not know an operation.
        """
        self.keys = {}
        #: Notes: the changes that the next select() sends, fd -> mask, with _NEW for an addition.
        self._pending: Changes = {}
        #: The notes that a select() has taken and sends, or is about to send.
        self._on_the_way: Changes = {}
        #: Those among them that are overtaken.
        self._overtaken: set[int] = set()
        #: The user_data of changes that were queued and have not completed.
        self._unanswered: list[int] = []
        #: The descriptors in the set, and the bit that a change of each has beside its mask: _NEW as long as
        #: the set may lack it, otherwise 0.
        self._known: dict[int, int] = {}
        self._refused: set[int] = set()
        # Held while epoll_ctl is called directly, and while a stray event is removed, whose number a thread
        # may register: a modification of that would fail.
        self._controlling = RLock()
        #: A wait is running.
        self._waiting = False
        #: Neither _waiting nor _direct.
        self._idle = True
        #: Changes are made at once: other code watches the set's own descriptor, or the ring was lost.
        self._direct = False
        #: The errno with which the ring was lost, 0 while it works.
        self._lost = 0
        #: A descriptor that is always ready: adding it to the set ends a wait.
        self._waker = -1
        #: How many events the last wait returned, and whether one of them could not be removed.
        self._found, self._strayed = 0, False
        #: Completions that have not been handled yet.
        self._cqes: deque[rings.Cqe] = deque()
        #: The thread whose waiting request is in the kernel.
        self._thread = 0
        #: Other code may have requests on the ring.
        self._serving = False
        #: The place of the wait in the queue (sq.sqe_tail); whether an exception may have left SQEs there.
        self._armed_at, self._unclean = 0, False
        wish = fdmon.IoUringFDMon.WISH
        # At least two: one for the wait, one for changes.
        self.ring: rings.Ring = rings.Ring(max(entries, 2), wish=wish, min_entries=2)
        self.ring.owned = True
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
        """Try the operations once per process: kernels do not change."""
        self._waker, w = os.pipe()
        os.close(w)  # a pipe without a writer is ready
        operations = self._wait_op, uapi.IORING_OP_EPOLL_CTL
        if operations in _WORKING:
            return
        key = SelectorKey(self._waker, self._waker, EVENT_READ, None)
        self.keys[key.fd] = key
        self._note(key.fd)
        if self._wait_in_ring(1_000_000_000) != [(key, EVENT_READ)]:
            raise OSError(errno.EIO, f"{self.name} does not report ready descriptors")
        self.remove(key)
        self.keys = {}
        _WORKING.add(operations)

    def state(self, fd: int) -> str:
        """Return the row of MACHINE that a descriptor is in.

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
        """Note the addition of a descriptor known to be valid; let the kernel decide about others."""
        if self.ring.closed:
            self._check_ring()
        fd = key[1]
        self._known.pop(fd, None)  # left over when it was abandoned: unknown
        if not known:
            self._judge(key, _MASK[key[2] & _BOTH] | _NEW)
            return
        self._note(fd)
        if not self._idle:
            self._apply_newer(fd)

    def change(self, key: SelectorKey, mask: int, known: bool) -> None:
        """Note the modification of a descriptor known to be valid; let the kernel decide about others."""
        # Shaped by speed (bench/run.py --only changes): the usual change is a note.
        fd, pending = key[1], self._pending
        if self.ring.closed:
            self._check_ring()
        if known:
            try:
                change = mask | self._known[fd]
            except KeyError:  # unknown, noted or refused
                self._refused.discard(fd)  # a call, during which other threads select: both are read anew
                change, pending = mask | self._known.get(fd, _NEW), self._pending
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
        # A closed object is not added, and a number only while its addition waits: it may have been closed
        # and belong to another file.
        new = 0 if _still(key) is False else self._known.get(fd, pending.get(fd, 0) & _NEW)
        self._judge(key, mask | new)

    def remove(self, key: SelectorKey) -> None:
        """Remove a descriptor from the set at once: its number may soon belong to another file."""
        fd = key[1]
        self._pending.pop(fd, None)
        self._refused.discard(fd)
        if fd in self._known:
            if not self._epoll.closed and self.ring.state != "forked":
                self._put_out(fd)  # fails for a closed one, which the kernel has already dropped from the set
            self._known.pop(fd, None)

    def _note(self, fd: int) -> None:
        """Let the next select() send the mask in the key."""
        while True:
            key, pending = self.keys.get(fd), self._pending
            if key is None:
                pending.pop(fd, None)
                return
            pending[fd] = _MASK[key[2] & _BOTH] | self._known.get(fd, _NEW)
            if self.keys.get(fd) is key and self._pending is pending:
                return

    def _judge(self, key: SelectorKey, change: int) -> None:
        """Make a change at once; its error is raised to the caller."""
        fd = key[1]
        self._pending.pop(fd, None)
        self._overtake(fd)
        self._control(key, change)
        if self.keys.get(fd) is not key:
            self._apply(fd)

    def _apply_newer(self, fd: int) -> None:
        """Make a change at once, while a running wait may be sending an older one."""
        self._overtake(fd)
        self._apply(fd)

    def _apply(self, fd: int) -> None:
        """Apply the mask in the key without the ring."""
        while True:
            try:
                self._pending.pop(fd, None)  # before the look at the key: a later note stays
                key = self.keys.get(fd)
                if key is not None:
                    change = _MASK[key[2] & _BOTH] | self._known.get(fd, _NEW)
                    if not (change & _NEW and _still(key) is False):
                        self._control(key, change)
            except BaseException as error:
                if not (isinstance(error, OSError) and syscalls.is_ours(error)):
                    self._note(fd)
                    raise
                self._fail(fd, error.errno)
            if self.keys.get(fd) is key:
                return

    def _apply_all(self) -> None:
        """Apply all changes without the ring, including those on their way."""
        for fd in {**_snapshot(dict, self._on_the_way), **_snapshot(dict, self._pending)}:
            self._apply(fd)

    def _overtake(self, fd: int) -> None:
        """End the running wait if it sends an older change: it continues at once with the newer one."""
        if fd in self._on_the_way:
            self._overtaken.add(fd)
            try:
                self._epoll.register(self._waker, POLLIN)
            except OSError as error:
                if not syscalls.is_ours(error):
                    raise
                return  # the waker is in the set already

    def _control(self, key: SelectorKey, change: int) -> None:
        """Call epoll_ctl; modify a descriptor that the set contains, and add one that is gone.

        The latter only for a socket that still has the number, which could otherwise belong to another file.
        """
        fd, mask = key[1], change & ~_NEW
        with self._controlling:
            self._known.setdefault(fd, _NEW)  # publish, then look: remove() does the same
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
        """Record that a change failed although the caller had vouched for the descriptor.

        A descriptor that has been closed is silent, as in EpollSelector. Any other is reported as ready from
        now on, as poll(2) does with regular files, so that the waiter notices.
        """
        if code not in (errno.EBADF, errno.ENOENT, errno.EEXIST) and fd in self.keys:
            self._refused.add(fd)
            self._known.pop(fd, None)
            if fd not in self.keys:  # publish, then look
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
        # In a forked child the set is still shared with the parent, and would change there.
        if self.ring.closed and not self._lost:
            self.ring.fileno()

    # -- waiting

    def wait(self, timeout_ns: int | None) -> Ready:
        """Send all changes and wait, in one system call."""
        if self._waiting:
            # Below this signal handler; or in another thread, which epoll allows; or this is a forked child.
            if self.ring.closed:
                self._check_ring()
            if rings._HANDLERS_RUN_AFTER_CALLS or self._is_under_way(sys._getframe()):
                self._apply_all()
                return self._ask_epoll(timeout_ns)
        if self._refused:
            timeout_ns = 0
        # Where _ONE_STEP, a second thread that begins at this moment is noticed: no call since the look at
        # _waiting. Elsewhere both would use the ring, which is why select() is for one thread at a time.
        self._waiting, self._idle = True, False
        try:
            if self._lost:
                return self._wait_without_ring(timeout_ns)
            if self._serving and self._has_requests():
                return self._wait_in_ring(timeout_ns)
            if not (self._pending or self._unclean or timeout_ns):
                # Also one system call, and a cheaper one: see the head of this file.
                if self.ring.closed:
                    self._check_ring()
                return self._ask_epoll(timeout_ns)
            if self._found and not self._pending:
                # After a busy turn epoll_wait is called first, without waiting: a fifth of the ring's turn.
                self._check_ring()
                ready = self._ask_epoll(0)
                if ready:
                    return ready
            return self._wait_in_ring(timeout_ns)
        except OSError as error:
            if self._epoll.closed:  # by a signal handler: the ring is not lost
                raise ValueError("this selector was closed while it waited") from None
            lost = not self._lost and self.ring.lost(error)
            if not lost and (error.errno in rings.LOST or not syscalls.is_ours(error)):
                raise
            self._give_up_ring(error, lost)
            if lost:
                return self._wait_without_ring(timeout_ns)
            return self._ask_epoll(0 if self._serving else timeout_ns)  # the next turn sends requests
        finally:
            self._waiting, self._idle = False, not self._direct

    def _is_under_way(self, this: Any) -> bool:
        """Tell whether any thread is in wait(), apart from this frame.

        Before CPython 3.11 and on PyPy an exception may keep a wait from recording its end. Requests, which
        only a wait in the ring sends, would never be sent.
        """
        for frame in sys._current_frames().values():
            each: Any = frame
            while each is not None:
                if each.f_code is this.f_code and each is not this and each.f_locals.get("self") is self:
                    return True
                each = each.f_back
        return False

    def _ask_epoll(self, timeout_ns: int | None) -> Ready:
        """Wait without the ring, for whole milliseconds."""
        keys = self.keys
        # -1 and not None, for PyPy.
        timeout = -1 if timeout_ns is None else min(-(-timeout_ns // 1_000_000) / 1000, _LONGEST_STDLIB)
        ready: Ready = []
        found = self._epoll.poll(timeout, len(keys) or 1)
        self._found = len(found)
        for fd, mask in found:  # shaped by speed: a third of the time of EpollSelector's own loop
            try:
                key = keys[fd]
            except KeyError:
                self._stray(fd)
                continue
            events = _EVENTS[mask & 31] & key[2]
            if events:
                ready.append((key, events))
        if timeout_ns is None and not ready and [fd for fd, _ in found] == [self._waker]:
            return self._ask_epoll(timeout_ns)  # the waker was for a wait that had ended
        return self._with_refused(ready) if self._refused else ready

    def _with_refused(self, ready: Ready) -> Ready:
        # Called twice in one wait of epoll_poll.
        current = (self.keys.get(fd) for fd in self._refused - {key.fd for key, _ in ready})
        return ready + [(key, key.events) for key in current if key is not None]

    def _give_up_ring(self, error: OSError, lost: bool) -> None:
        """Apply the notes without the ring, for now or, after its loss, for good."""
        self._apply_all()
        if lost:
            self._lost, self._direct = error.errno or errno.EIO, True
            self._on_the_way = {}
            self._overtaken.clear()
            self.reason = f"{self.name} stopped working: {error}"
            self.name = "epoll"
            warnings.warn(f"{self.reason}; continuing with epoll", RuntimeWarning, stacklevel=4)

    # -- requests of other code

    def requests(self) -> InFlight | None:
        """Bind the ring to the calling thread and return its table; None after loss or close()."""
        if self._lost or self.ring.closed:
            return None
        if self._thread != get_ident() and not self._waiting:
            self._bind()
        self._serving = True
        return self._inflight

    def _has_requests(self) -> bool:
        """Bind the ring to this thread; tell if other code has requests queued, in flight or completed."""
        if self._thread != get_ident():
            self._bind()
        table, sq = self._inflight, self.ring.sq
        ours = self._wait.token in table.entries
        return bool(table.ready or sq.sqe_tail != sq.published or len(table) > ours)

    def _wait_without_ring(self, timeout_ns: int | None) -> Ready:
        """Wait after the loss of the ring, and check regularly for requests still in flight on it."""
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
        """Answer requests that can no longer be sent; tell whether any is in flight on the lost ring."""
        ring, table = self.ring, self._inflight
        if ring.owner != get_ident():
            ring.bind_thread()
        table.answer_unsent(-self._lost)
        try:
            self._take_completions(False)
        except OSError:
            pass  # overflowed completions are unreachable
        return len(table) > (self._wait.token in table.entries)

    def _wait_in_ring(self, timeout_ns: int | None) -> Ready:
        # Shaped by speed (bench/run.py --only ready): this is an iteration of a busy loop.
        ring, answers = self.ring, self._inflight.ready
        cq = ring.cq
        deadline = time.monotonic_ns() + timeout_ns if timeout_ns else 0
        new: list[int] = []
        try:
            if self._thread != get_ident():
                self._bind()
            if self._unclean:
                self._drop_queued()
            # An event that completed between two waits is a hint and may be out of date: it is dropped, and
            # the wait is armed again.
            if self._cqes or cq.copied or cq.ready():
                self._take_completions(False)
            while True:
                self._unclean = True
                if self._pending:
                    new = self._queue_changes()
                if self._wait.token not in self._inflight.entries:
                    self._arm()
                # Changes complete at once; their completions are counted in addition to the one waited for.
                if timeout_ns == 0 or answers:
                    ring.submit_and_wait(len(self._unanswered))
                else:
                    ring.submit_and_wait(1 + len(self._unanswered), timeout_ns)
                ready = self._take_completions(True)
                if self._on_the_way:
                    while self._unanswered:
                        # The lock of the set was held: a worker makes the change.
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

        Returns: the descriptors to be added.
        """
        # Shaped by speed (bench/run.py --only changes): no Python per change, if none is new.
        pending = self._on_the_way = self._pending
        self._pending = {}
        changes = _snapshot(dict, pending)
        masks, new = bytes(list(changes.values())), []
        if not masks.isascii():  # a change with _NEW is not ASCII
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
        except rings.SubmissionQueueFull:  # filled by requests of other code
            _send(self.ring)
            self.ring.push(sqes)
        # Nothing has been sent up to here, and _drop_queued finds the SQEs in the queue.
        self._unanswered = self._unanswered + user_data if self._unanswered else user_data

    def _note_sent(self, new: list[int]) -> None:
        """Record that the changes on their way have completed: sent."""
        known = self._known
        for fd in new:
            if fd in known:
                known[fd] = 0
        if self._overtaken:
            for fd in self._overtaken.copy():  # in one step: without a GIL, tuple() is none
                self._note(fd)
                self._overtaken.discard(fd)
        self._on_the_way = {}

    def _drop_queued(self) -> None:
        """Turn our unsent SQEs into NOPs, and note again the changes that were on their way: struck."""
        if not self.ring.closed:
            sq, token = self.ring.sq, self._wait.token
            if sq.sqe_tail <= self._armed_at:  # the wait was not queued
                self._inflight.entries.pop(token, None)
            unsent = set()
            for _, _, slot, user_data in sq.walk(sq.sqe_tail - sq.pending(), sq.sqe_tail):
                unsent.add(user_data)
                change = _CTL <= user_data < 2 * _CTL  # a TIMEOUT of the ring's (before 5.11) has all bits
                if change and user_data not in self._unanswered:
                    self._unanswered = [*self._unanswered, user_data]
                if change or user_data == token:
                    slot[0] = uapi.IORING_OP_NOP  # in place: requests of other code stand beside it
                if user_data == token:
                    self._prepare_wait(self._wait.capacity)  # the old one ends as a NOP
            # The older one first.
            while not unsent.issuperset(self._unanswered):
                self._take_completions(False)
                if not unsent.issuperset(self._unanswered):
                    self.ring.submit_and_wait(1)
        for fd in tuple(_snapshot(dict, self._on_the_way)):
            self._note(fd)
        self._overtaken.clear()
        self._on_the_way = {}
        self._unclean = False

    def _bind(self) -> None:
        """Move to the calling thread; the old thread's request is abandoned, with its memory."""
        self.ring.bind_thread()
        if self._unclean:
            self._drop_queued()
        if self._wait.token in self._inflight.entries:
            self._unclean = True
            self._inflight.cancel(self._wait.token)
            self.ring.submit()
            self._unclean = False
            self._prepare_wait(self._wait.capacity)
        self._thread = get_ident()  # last: after an exception all of this is done again

    def _prepare_wait(self, capacity: int) -> None:
        """Make the waiting request, with memory of its own."""
        memory = buffers.allocate(capacity * _event_layout().size)
        pin = buffers.pin(memory, writable=True)
        sqe, token = bytearray(self.ring.sq.sqe_size), next_token()
        ops.prep_rw(sqe, self._wait_op, self._epoll.fileno(), pin.address, capacity, 0, token)
        self._wait = _Request(token, capacity, memoryview(memory), bytes(sqe), (None, (pin, memory)))

    def _arm(self) -> None:
        """Queue the waiting request."""
        count = len(self.keys)
        if count > self._wait.capacity:
            self._prepare_wait(1 << (count - 1).bit_length())
        ring, wait = self.ring, self._wait
        # Held before it is queued; after an exception _drop_queued undoes both.
        self._armed_at = ring.sq.sqe_tail
        # The token is reused: each request has exactly one completion, and that of the last has arrived.
        self._inflight.entries[wait.token] = wait.held
        try:
            ring.put(wait.sqe)
        except rings.SubmissionQueueFull:
            _send(ring)
            ring.put(wait.sqe)

    def _take_completions(self, report: bool) -> Ready:
        """Handle every completion; unless they are to be reported, events are only hints."""
        ready: Ready = []
        self.ring.reap_into(self._cqes)
        count, cqes = len(self._unanswered), self._cqes
        if count > 3 and self._unanswered == [cqe[0] for cqe in islice(cqes, count) if not cqe[1]]:
            # Almost always: all changes have completed, in order.
            self._unanswered = []
            self._cqes = cqes = deque(islice(cqes, count, None))
        while cqes:
            user_data, res, flags = cqes[0]
            if user_data & _CTL:
                if res < 0:
                    self._control_failed(user_data & ~_CTL, -res)
                if user_data in self._unanswered:
                    at = self._unanswered.index(user_data)
                    self._unanswered = self._unanswered[:at] + self._unanswered[at + 1 :]
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
        if code in (errno.EEXIST, errno.ENOENT):  # closed and reopened, or made twice
            if fd not in self._pending:  # otherwise it was overtaken, and is sent again
                self._apply(fd)
        else:
            self._fail(fd, code)  # denied

    def _collect(self, res: int) -> Ready:
        """Read the events that EPOLL_WAIT wrote."""
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
        """Remove a descriptor that nobody registered: abandoned, or reused before our EPOLL_CTL_ADD ran.

        One that cannot be removed (a duplicate of a closed descriptor is open elsewhere) ends the wait, as in
        EpollSelector.
        """
        with self._controlling:
            if fd not in self.keys and not self._put_out(fd):
                self._strayed = True
        if fd in self.keys:
            # Publish, then look: it was registered in between, and perhaps this call removed it.
            self._known.pop(fd, None)
            self._note(fd)
            if self._direct:
                self._apply(fd)

    # -- the rest

    def fileno(self) -> int:
        """Return the descriptor of the set; from now on every change is made at once."""
        self._check_ring()
        self._direct, self._idle = True, False
        self._apply_all()
        return self._epoll.fileno()

    def close(self) -> None:
        """Close ring and set."""
        while self._cqes:  # otherwise the ring would wait for completions that have already arrived
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
                if self.ring.closed:  # close() was not rejected
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

    Returns: its words, the number of words per event, the index of the descriptor among them, a Pin, and
        the memory.
    """
    size = _event_layout().size
    memory = buffers.allocate(size * count)
    words = memoryview(memory).cast("B").cast("I")[: size * count // 4]
    return words, size // 4, 2 if size == 16 else 1, buffers.pin(memory), memory


class _Sender(syscalls.Uncopyable):
    """Builds EPOLL_CTL requests from changes."""

    def __init__(self, ring: rings.Ring, epfd: int) -> None:
        """Make room for the struct epoll_events of a few changes.

        Args: ring has one slot more than a batch has changes; epfd is the set.
        """
        self._epfd = epfd
        #: The maximal number of changes in a batch: one slot is for the wait.
        self.most = ring.sq.ring_entries - 1
        self._least = few = min(_FEW, self.most)
        self._few = _events_memory(few)
        # Filled outside the queue, which thus holds only whole requests, whose user_data shows the owner.
        self._sqes = memoryview(bytearray(few * 64))
        self._slots = [self._sqes[at : at + 64] for at in range(0, few * 64, 64)]
        # For many changes; it takes a few hundred microseconds to make, and most selectors never need it.
        self._block: _CtlBlock | None = None

    def fill(self, fds: list[int], masks: bytes) -> tuple[memoryview, list[int]]:
        """Build requests from changes.

        Args: fds has at most as many descriptors as fit into a batch; masks has the new mask of each.
        Returns: the SQEs, for Ring.push(), and the user_data of each.
        Lifetime: until they are submitted: the kernel reads an event when it consumes the request.
        """
        if len(fds) <= self._least:
            words, step, at, pin, _ = self._few
            for i, fd in enumerate(fds):
                change = masks[i]
                # Not by column: PyPy 8.0 writes every item of a strided view to the first place.
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
    """Send all queued SQEs."""
    ring.submit()
    if ring.sq.pending():
        raise OSError(errno.EAGAIN, "the kernel accepts no more requests for now")


class _CtlBlock(syscalls.Uncopyable):
    """EPOLL_CTL requests with their struct epoll_events; only fields that differ are written, by column."""

    def __init__(self, count: int, epfd: int) -> None:
        """Make the requests.

        Args: count is their number; epfd is the set.
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
        #: The fields of a descriptor: in the event, and in the lower half of off and of user_data.
        self._fds = words[at::step], cells[2 + low :: 16], cells[8 + low :: 16]

    def fill(self, fds: list[int], masks: bytes) -> tuple[memoryview, list[int]]:
        """Write changes into the first requests.

        Args: fds has no more descriptors than there are requests; masks has the new mask of each.
        Returns: the SQEs, for Ring.push(), and the user_data of each.
        Lifetime: until they are submitted: the kernel reads an event when it consumes the request.
        """
        count = len(fds)
        if not masks.isascii():
            self._adds = True
            self._sqes.set("len", masks.translate(_CTL_OPS))
            masks = masks.translate(_CTL_MASKS)
        elif self._adds:
            self._sqes.set("len", [_MOD] * self._sqes.count)
            self._adds = False
        self._memory[_LOW : count * self._size : self._size] = masks  # a tenth of the cost of words
        numbers = memoryview(array("I", fds))
        for column in self._fds:
            column[:count] = numbers
        return self._sqes.first(count), self._user_data[:count].tolist()


class EpollPoll(EpollWait):
    """Send changes as EPOLL_CTL, watch the set with POLL_ADD, and call epoll_wait when it is ready (5.6)."""

    name = "io_uring:epoll_poll"
    _wait_op = uapi.IORING_OP_POLL_ADD
    reason = "EPOLL_CTL works here (Linux 5.6): one system call for changes, one for events"

    def _prepare_wait(self, capacity: int) -> None:
        sqe, token = bytearray(self.ring.sq.sqe_size), next_token()
        ops.prep_poll_add(sqe, self._epoll.fileno(), POLLIN, token)
        self._wait = _Request(token, capacity, memoryview(b""), bytes(sqe), (None, ()))

    def _collect(self, res: int) -> Ready:
        return self._ask_epoll(0)
