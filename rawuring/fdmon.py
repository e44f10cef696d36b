# SPDX-License-Identifier: MIT
# pyright: basic
"""The file-descriptor monitor on io_uring: which of these descriptors are ready?

What it is: IoUringFDMon, and setup(), which creates the first monitor that works here and records why.
Mirrors: QEMU ``util/fdmon-io_uring.c`` (its behaviour of 10.2), under its names.
Must not know: selectors, asyncio, what a handler does.
Invariant: the rings change only inside wait().
Read next: strategy.py.

Unless said otherwise, memory passed to a call may be freed when the call returns, only the waiter, the thread
that calls wait(), may call, and Linux 5.1 suffices.

Facts about polling through io_uring, and their consequences:

* IORING_OP_POLL_ADD is one-shot: it completes once, with the events that are true. Submitted again while
  they are still true it completes at once, inside the submitting call. So handlers that are re-armed after
  every event, with the next submit, are level-triggered. (Multishot polls are edge-triggered.)
* A pending poll completes with the mask of one wake-up, which may be out of date when we read it: another
  reader may have taken the data. A completion that arrives between two waits is therefore only a hint: the
  poll is re-armed with the next submit, and the answer to that one counts. This costs no system call, and
  makes the answers equal to those of poll(2), event for event.
* Socket wake-ups report POLLPRI and the band events together with POLLIN, true or not. A completion with
  those bits is polled once more before it is reported.
* POLL_ADD always watches RDHUP too (IO_POLL_UNMASK in the kernel), requested or not. On a socket whose peer
  has shut down its side, a handler that waits for something else would complete at once, again and
  again. Such a handler is parked in an epoll set, which does not do that, and the set is watched.
* POLL_ADD does not wake for POLLPRI (io_uring/poll.c, IO_ASYNC_POLL_COMMON): it reports the event if it is
  true at first, and sleeps when it occurs later, unless another bit wakes it. Handlers for it are parked from
  the start.
* A pending poll follows the file, not the number. If the descriptor is closed and its number reused,
  the old poll stays with the old file: every registration has a token of its own, and the old token is
  removed with the old handler.
* POLL_REMOVE and the event can cross. The poll completes in any case, with -ECANCELED or with the event,
  and only then is its token removed (QEMU frees the handler there).
* A poll is cancelled, and its event lost, when the thread that submitted it ends. -ECANCELED for a handler
  that was not removed therefore means: arm it again.
* On an SQPOLL ring the kernel's thread takes SQEs when it gets to them. A shorter wait calls poll(2) for the
  handlers whose SQEs the thread has not taken, so wait(0) reports ready descriptors as on other rings.
Userspace polling looks for completions in memory, for up to poll_max_ns, before it blocks. Whether they
appear there depends on the setup flags of the ring:

    =======================  ==========================================  =======================
    setup flags              a completion appears in memory              poll_max_ns
    =======================  ==========================================  =======================
    none, SINGLE_ISSUER      by itself: our thread is interrupted        allowed; the default flags
    SQPOLL                   by itself: the kernel's thread writes it    allowed; no enter at all
    COOP_TASKRUN             when our thread next enters the kernel, at  allowed, but late by up
                             the latest at the next timer tick           to a tick (4 ms seen)
    DEFER_TASKRUN            never, only by io_uring_enter               refused
    IOPOLL                   never, only by io_uring_enter               refused
    any, without a fence     (see barriers.py)                           refused
    =======================  ==========================================  =======================
"""

from __future__ import annotations

import errno
import os
import select
import time
from _thread import get_ident
from collections import deque
from functools import partial
from itertools import islice

from . import barriers, ops, rings, syscalls, uapi
from .fdmonpoll import PollFDMon as PollFDMon
from .inflight import InFlight, next_token

# Names imported "as" themselves are public here, too.
from .monitor import (
    _ALWAYS,
    _EXACT,
    FDMON_IO_URING_ADD as FDMON_IO_URING_ADD,
    FDMON_IO_URING_REMOVE as FDMON_IO_URING_REMOVE,
    POLLERR as POLLERR,
    POLLHUP as POLLHUP,
    POLLIN as POLLIN,
    POLLNVAL as POLLNVAL,
    POLLOUT as POLLOUT,
    POLLPRI as POLLPRI,
    AioHandler as AioHandler,
    FDMon as FDMon,
    _nanoseconds,
    _union,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .monitor import CqeHandler, Event as Event

FDMON_IO_URING_ENTRIES = 128

#: The initial time of adaptive polling. Mirrors QEMU aio-posix.c adjust_polling_time.
POLL_START_NS = 4000

#: How long to wait for an SQPOLL thread before looking at its queue again.
_PAUSE_NS = 100_000
#: How often to look for completions on a lost ring, which wakes no waiter.
LOOK_NS = 10_000_000


class IoUringFDMon(FDMon):
    """Watch descriptors with one-shot polls on a ring, all changes of a turn in one system call.

    When the kernel takes io_uring away while it is in use, the monitor continues with poll(2): ``backend``
    and ``reason`` change, no handler is lost, and requests that cannot be sent complete with the error.

    Mirrors: QEMU util/fdmon-io_uring.c
    """

    backend = "io_uring"
    ring: rings.Ring
    inflight: InFlight

    #: Flags that help a monitor. Not DEFER_TASKRUN: with COOP_TASKRUN completions appear in the ring by
    #: themselves, so a wait() needs one system call even after events since the last one.
    WISH = (
        uapi.IORING_SETUP_CLAMP
        | uapi.IORING_SETUP_SUBMIT_ALL
        | uapi.IORING_SETUP_COOP_TASKRUN
        | uapi.IORING_SETUP_NO_SQARRAY
    )

    def __init__(
        self,
        entries: int = FDMON_IO_URING_ENTRIES,
        *,
        flags: int = 0,
        wish: int | None = None,
        poll_max_ns: int = 0,
        sq_thread_idle_ms: int | None = None,
    ) -> None:
        """Create the ring.

        Args: entries is the SQ size; flags and wish are setup flags as for rings.Ring; poll_max_ns in
            nanoseconds enables userspace polling (set_poll_params()); sq_thread_idle_ms in
            milliseconds enables SQPOLL, a kernel thread that submits for us and keeps a CPU busy until it
            has been idle for that long.
        Raises: Unavailable with the cause; ValueError for polling that these flags rule out.
        Since: 5.1; 5.5 for more descriptors than the CQ has entries; SQPOLL 5.11, without privilege 5.13
        Mirrors: QEMU fdmon_io_uring_setup
        """
        if wish is None:
            wish = self.WISH
            if poll_max_ns or sq_thread_idle_ms is not None or flags & uapi.IORING_SETUP_SQPOLL:
                wish &= ~uapi.IORING_SETUP_COOP_TASKRUN
        if sq_thread_idle_ms is not None:
            flags |= uapi.IORING_SETUP_SQPOLL
        if flags & uapi.IORING_SETUP_IOPOLL:
            raise ValueError("flags: a ring with IORING_SETUP_IOPOLL accepts no polls, as a monitor needs")
        #: The ring; add_sqe() and ``inflight`` submit other requests on it.
        self.ring = rings.Ring(entries, flags=flags, wish=wish, sq_thread_idle_ms=sq_thread_idle_ms)
        self._instead: PollFDMon | None = None
        try:
            self.ring.dont_fork()
            _check_sqpoll(self.ring)
            self.inflight = InFlight(self.ring)
            super().__init__()
            self.set_poll_params(poll_max_ns)
        except BaseException:
            self.ring.close()
            if hasattr(self, "_wake_fds"):
                FDMon.destroy(self)
            raise
        self._requests: deque[tuple[Any, CqeHandler | None, tuple[Any, ...]]] = deque()
        #: token -> handler: the polls that are in the kernel, or are sent with the next submit.
        self._polls: dict[int, AioHandler] = {}
        #: token -> SQE, of polls that have completed and are submitted again.
        self._rearm: dict[int, bytes] = {}
        self._woken = self._doubtful = False  # see process_cqe_aio_handler
        self._bound = False
        self._sqpoll = bool(self.ring.flags & uapi.IORING_SETUP_SQPOLL)
        self._quick = rings._HANDLERS_RUN_AFTER_CALLS and not self._sqpoll
        #: Whether the ring's flags report that completions wait for an enter.
        self._flagged = bool(self.ring.flags & uapi.IORING_SETUP_TASKRUN_FLAG)
        self._early: Any = []
        self._lot: ParkingLot | None = None

    def _check(self) -> None:
        if self.ring.closed and self._instead is None:
            self.ring.fileno()  # raises RingClosed or ForkedRing
        super()._check()

    # -- QEMU's functions in QEMU's order; only they touch the rings, inside wait()

    def put_sqe(self, sqe: bytes | bytearray) -> None:
        """Queue a complete SQE, submitting first when no slot is free.

        Args: sqe is a whole SQE of the ring's size.
        Lifetime: none; a poll needs no memory.
        Mirrors: QEMU get_sqe, whose callers fill the slot: between the two a signal handler may raise here
        """
        try:
            self.ring.put(sqe)
        except rings.SubmissionQueueFull:
            self._make_room()
            self.ring.put(sqe)

    def _make_room(self) -> None:
        """Submit; on an SQPOLL ring, wait until the kernel's thread has taken an SQE."""
        self._submit()
        ring = self.ring
        while ring.flags & uapi.IORING_SETUP_SQPOLL and not ring.sq.space_left():
            # Not sqring_wait(): before 5.13 that thread stops while completions overflow, until we reap.
            ring.reap_into(self._early)
            ring.submit_and_wait(1, _PAUSE_NS)

    def _submit(self) -> None:
        try:
            self.ring.submit()
        except BlockingIOError:  # EAGAIN: no memory; reaping frees some
            self.ring.reap_into(self._early)
            self.ring.submit()

    def _queue_request(self, prep: Any, handler: CqeHandler | None, keepalive: tuple[Any, ...]) -> None:
        self._requests.append((prep, handler, keepalive))
        if self._outer is not None and not self._busy:
            self.notify()  # the outer loop must call wait()

    def add_poll_add_sqe(self, node: AioHandler) -> None:
        """Arm a handler.

        Args: node is idle and not removed.
        Lifetime: until the final CQE.
        Mirrors: QEMU add_poll_add_sqe; the SQE is prepared once and stored again at each re-arming
        """
        if not node.sqe:
            if node.events & POLLPRI and self._park(node, asked=False):
                return
            node.token = next_token()
            sqe = bytearray(self.ring.sq.sqe_size)
            ops.prep_poll_add(sqe, node.fd, node.events, node.token)
            node.sqe = bytes(sqe)
        self._polls[node.token] = node
        self.inflight.expect(node.token)
        self.put_sqe(node.sqe)
        node.armed = True

    def add_poll_remove_sqe(self, node: AioHandler) -> None:
        """Cancel a handler's poll; its own CQE still arrives.

        Args: node is armed and removed.
        Mirrors: QEMU add_poll_remove_sqe, with an explicit user_data of 0
        """
        sqe = bytearray(self.ring.sq.sqe_size)
        ops.prep_poll_remove(sqe, node.token, 0)
        self.put_sqe(sqe)

    def fill_sq_ring(self) -> None:
        """Turn the intents on the submit list into SQEs.

        Mirrors: QEMU fill_sq_ring; add_timeout_sqe, which follows it there, is in Ring.submit_and_wait, where
            5.11 and newer take the timeout without an SQE
        """
        if self.submit_list:
            self._carry_out()
        if self._rearm:
            self._arm_again()
        lot = self._lot
        if lot is not None and not lot.watched:
            self.add_poll_add_sqe(lot.node)
            lot.watched = True
        if self._requests:
            for _ in range(len(self._requests)):
                self._start_request()

    def _carry_out(self) -> None:
        """Carry out the intents on the submit list."""
        sq, node = self.ring.sq, None
        tail = sq.sqe_tail
        try:
            # Later intents belong to the next turn, so that a busy producer cannot hold us here.
            for _ in range(len(self.submit_list)):
                # Removed from the list only when it is done: a signal handler may raise at any moment, and
                # doing it twice is harmless.
                node, flags = self.submit_list[0]
                if flags & FDMON_IO_URING_ADD:
                    if not node.deleted and not node.armed:
                        self.add_poll_add_sqe(node)
                else:
                    node.deleted = True
                    if node.armed and node.token not in self._rearm:
                        self.add_poll_remove_sqe(node)
                    else:
                        self._forget(node)
                    if node.parked and self._lot is not None:
                        self._lot.remove(node)
                tail = sq.sqe_tail
                self.dequeue()
        except BaseException:
            if node is not None and sq.sqe_tail != tail and not node.deleted:
                node.armed = True  # or a second poll would be sent with the same token
            raise

    def _start_request(self) -> None:
        """Send the oldest request of add_sqe()."""
        requests, sq = self._requests, self.ring.sq
        request = prep, handler, keepalive = requests[0]
        if not sq.space_left():
            self._make_room()
        tail = sq.sqe_tail
        try:
            self.inflight.start(prep, handler=handler, holds=keepalive)
            del requests[0]
        except BaseException:
            # Removed from the list together with its SQE, or with the answer that it was not sent.
            if requests and requests[0] is request:
                # In this order: otherwise, before CPython 3.11, a signal handler that raises in between loses
                # it.
                if sq.sqe_tail == tail and handler is not None:
                    self.inflight.answer(handler, -errno.ECANCELED)
                del requests[0]
            raise

    def process_cqe_aio_handler(self, events: list[Event], node: AioHandler, res: int) -> None:
        """Report the completion of a handler's poll, and arm the handler again.

        Args: events as for process_cqe; res is the result of the poll.
        Mirrors: QEMU process_cqe_aio_handler
        """
        if node.deleted or not node.armed:
            self._forget(node)  # its POLL_REMOVE, if still to be sent, will find the node idle
            return
        if res == -errno.EINVAL or (res > 0 and not res & (node.events | _ALWAYS)):
            # EINVAL: a terminal before 5.8, see gates.py, or a file that never wakes.
            self._park(node, asked=True)
            self._forget(node)
            return  # epoll reports it
        # One-shot: armed again with the next submit, which makes it level-triggered.
        self._rearm[node.token] = node.sqe
        if res < 0:
            if res == -errno.ECANCELED:
                return
            res = POLLNVAL if res == -errno.EBADF else POLLERR
        self._report(events, node, res)

    def _report(self, events: list[Event], node: AioHandler, revents: int) -> None:
        """Add a handler's events to the list; two handlers are our own."""
        mask = revents & (node.events | _ALWAYS)
        if self._lot is not None and node is self._lot.node:
            events += self._lot.events()
        elif node is self._notifier:
            self._woken = True
        elif mask:
            events.append((node, mask))
            if mask & ~_EXACT:
                self._doubtful = True

    def process_cqe(self, events: list[Event], cqe: rings.Cqe) -> None:
        """Handle one completion.

        Args: events receives the events to report.
        Mirrors: QEMU process_cqe
        """
        user_data = cqe[0]
        if not user_data:
            return  # a POLL_REMOVE: the poll itself completes too
        node = self._polls.get(user_data)
        if node is not None:
            self.process_cqe_aio_handler(events, node, cqe[1])
        else:
            self.inflight.complete(user_data, cqe[1], cqe[2])

    def process_usual(self, events: list[Event]) -> None:
        """Handle the usual completions in bulk, and leave the others to process_cqe.

        A usual completion belongs to a handler that was not removed, and reports only events that are wanted
        and exact. Each costs 120 ns here and 370 in process_cqe (900 at once, CPython 3.11).

        Args: events as for process_cqe.
        """
        polls, rearm, others = self._polls.get, {}, []
        for cqe in self._early:
            node, res = polls(cqe[0]), cqe[1]
            if node is not None and 0 < res == res & node.exact and not node.deleted:
                events.append((node, res))
                rearm[node.token] = node.sqe
            else:
                others.append(cqe)
        if self._rearm:
            rearm = {**self._rearm, **rearm}
        # One step, by the no-call rule (queues.py). Where a handler can raise in the middle of it, all of
        # this is done once more, without harm.
        self._rearm = rearm
        self._early = others

    def process_cq_ring(self, events: list[Event]) -> int:
        """Handle every available completion, overflowed ones included.

        Args: events as for process_cqe.
        Returns: the number of completions.
        Mirrors: QEMU process_cq_ring
        """
        self.ring.reap_into(self._early)
        count = len(self._early)
        if count:
            self.process_usual(events)
        early = self._early
        if len(early) > 9:
            self._early = early = deque(early)
        while early:
            self.process_cqe(events, early[0])
            del early[0]  # only when it is done, as in fill_sq_ring
        return count

    def wait(self, timeout_ns: int | None = None) -> list[Event]:
        """Submit all changes and wait, in one system call; see FDMon.wait."""
        if timeout_ns is not None and timeout_ns.__class__ is not int:
            timeout_ns = _nanoseconds(timeout_ns)
        self._waiting = True
        try:
            if self._instead is not None:
                return self._wait_instead(self._instead, timeout_ns)
            ring, cq = self.ring, self.ring.cq
            if ring.sq.owner != get_ident():
                self._bind()
            polling = self.poll_max_ns and timeout_ns != 0
            start = time.monotonic_ns() if timeout_ns or polling else 0
            deadline = start + timeout_ns if timeout_ns else None
            answers = self.inflight.ready
            if cq.ready() or cq.copied or self._early or (self._flagged and ring.sq.flags()):
                # Only hints: their events are dropped, and the answer to the next submit counts.
                self.process_cq_ring([])
            while True:
                self.fill_sq_ring()
                events: list[Event] = []
                self._woken = self._doubtful = False
                if timeout_ns == 0 or answers or self._early:
                    ring.submit_and_wait(0)
                elif polling:
                    if not self.try_poll_mode(timeout_ns):
                        left = None if deadline is None else max(1, deadline - time.monotonic_ns())
                        ring.submit_and_wait(0 if self._early else 1, left)
                elif self._quick:
                    # One step, by the no-call rule (queues.py): the return and the store.
                    self._early = ring.submit_and_reap(1, timeout_ns)
                    self.process_usual(events)
                else:
                    ring.submit_and_wait(1, timeout_ns)
                late = self._late() if self._sqpoll else ()  # before completions are handled
                if self._early or not events:
                    self.process_cq_ring(events)
                if self._doubtful:
                    events = self._ask_again(events)
                if late and timeout_ns is not None:
                    rearm = self._rearm
                    self._ask_poll([node for node in late if node.armed and node.token not in rearm], events)
                elif self._lot is not None and timeout_ns == 0 and self._lot.node.token not in self._rearm:
                    # A file that wakes its pollers while it is being armed leaves the completion to later
                    # task work; arming a set of many files takes long.
                    events += self._lot.events()
                # An SQPOLL thread may complete the poll late; until then an outer loop would spin.
                if self._woken or (timeout_ns == 0 and self._sqpoll and self._notified):
                    self._take_notification()
                    break
                # A removal or a lost poll completes, too, without anything to report.
                if events or answers or timeout_ns == 0:
                    break
                if deadline is not None:
                    timeout_ns = deadline - time.monotonic_ns()
                    if timeout_ns <= 0:
                        break
            if polling:
                self.adjust_polling_time(time.monotonic_ns() - start)
            if self._outer is not None:
                self._arm_all(self._outer)
            return events
        except OSError as error:
            if self._instead is not None or not self.ring.lost(error):
                raise
            return self._wait_instead(self._downgrade(error), timeout_ns)
        finally:
            self._waiting = False
            if self._outer is not None:
                self._tell_outer()

    def need_wait(self) -> bool:
        """Tell whether wait() has anything to do; see FDMon.need_wait.

        Returns: True for intents, requests, ready or overflowed CQEs, queued SQEs and deferred work.
        Mirrors: QEMU fdmon_io_uring_need_wait
        """
        self._check()
        if self._has_intents():
            return True
        if self._instead is not None:
            return self._instead.need_wait()
        return bool(self.ring.cq_ready() or self.ring.need_enter())

    def _show_in(self, outer: select.epoll) -> None:
        if self._instead is not None:
            self._instead._show_in(outer)
        elif self._source < 0 and self.ring.owner == get_ident():  # or the waiter's next wait() does it
            try:
                # A duplicate: other code may close the ring's number, which could then not be unregistered.
                self._source = os.dup(self.ring.wakeup_fd())
                outer.register(self._source, POLLIN)
            except OSError as error:
                if error.errno not in rings.GONE:
                    raise

    def _arm_all(self, outer: select.epoll) -> None:
        """Send all changes, so that the ring's descriptor shows when a file becomes ready."""
        self._show_in(outer)
        self.fill_sq_ring()
        self._submit()

    def destroy(self) -> None:
        """Cancel and drain everything, then close the ring; see FDMon.destroy."""
        ring = self.ring
        try:
            if not ring.closed:
                self._requests.clear()
                while self._early:  # otherwise close() would wait for completions that have already arrived
                    self.process_cqe([], self._early.pop())
                for token in list(self._rearm):
                    self._forget(self._polls[token])
                if ring.owner == get_ident():
                    self._ask_ring()
                ring.close()
        except OSError:
            if self._instead is None:
                raise
        finally:  # also when a handler of a request that ends here raises
            if ring.closed:  # close() was not rejected
                if self._lot is not None:
                    self._lot.close()
                if self._instead is not None:
                    self._instead.destroy()
                super().destroy()

    def _ask_ring(self) -> None:
        """Disown a descriptor that other code has closed: the number may belong to another file by now."""
        try:
            syscalls.enter(self.ring._enter_fd, 0, 0, self.ring._enter_flags)
        except OSError as error:
            self.ring.lost(error)

    # -- below, not in QEMU: handlers that POLL_ADD does not suit

    def _forget(self, node: AioHandler) -> None:
        """Record that no poll of a handler is in the kernel, and that none is to be submitted."""
        self._rearm.pop(node.token, None)
        if node.token in self._polls:
            self.inflight.complete(node.token, -errno.ECANCELED, 0)
            del self._polls[node.token]
        node.armed = False

    def _arm_again(self) -> None:
        """Queue the SQEs in _rearm, in one piece where there is room."""
        rearm, sq = self._rearm, self.ring.sq
        tail = sq.sqe_tail
        try:
            if len(rearm) == 1:  # 300 ns less
                (sqe,) = rearm.values()
                sq.put(sqe)
            else:
                sq.push(b"".join(rearm.values()))
            self._rearm = {}
        except rings.SubmissionQueueFull:
            self._arm_in_pieces()
        except BaseException:
            if sq.sqe_tail != tail:
                self._rearm = {}  # or second polls would be sent with the same tokens
            raise

    def _arm_in_pieces(self) -> None:
        rearm, sq = self._rearm, self.ring.sq
        sqes = [*rearm.values()]
        # How many were queued, the tail, and how many are being queued. One value, so that whenever a signal
        # handler raises it is known which SQEs were queued.
        state = 0, 0, 0
        try:
            while state[0] < len(sqes):
                if not sq.space_left():
                    self._make_room()
                block = sqes[state[0] : state[0] + sq.space_left()]
                state = state[0], sq.sqe_tail, len(block)
                sq.push(b"".join(block))
                state = state[0] + len(block), 0, 0
            self._rearm = {}
        except BaseException:
            done, tail, count = state
            if count and sq.sqe_tail != tail:
                done += count
            self._rearm = dict(islice(rearm.items(), done, None))
            raise

    def _park(self, node: AioHandler, *, asked: bool) -> bool:
        """Let epoll watch a handler: one on which POLL_ADD has failed, or would sleep.

        Returns: False when POLL_ADD has to be tried.
        """
        if node.parked:
            return True
        try:
            if self._lot is None:
                self._lot = ParkingLot()
            self._lot.add(node)
        except OSError as error:
            if not asked:
                return False
            if error.errno == errno.EPERM and self._lot is not None:
                self._lot.keep(node)  # always ready, but for other events
            else:  # closed without remove(), which the next POLL_ADD reports; or no descriptor is left
                self.submit_list.append((node, FDMON_IO_URING_ADD))
        return True

    # -- inexact wake-ups, and SQPOLL

    def _ask_again(self, events: list[Event]) -> list[Event]:
        """Arm everything again and return the current events."""
        if self._sqpoll:
            again: list[Event] = []
            self._ask_poll([node for node, _ in events], again)
            return again
        self.fill_sq_ring()
        self.ring.submit_and_wait(0)
        again = []
        self.process_cq_ring(again)
        return again

    def _late(self) -> list[AioHandler]:
        """Return the handlers whose polls an SQPOLL thread has not taken yet."""
        sq, polls = self.ring.sq, self._polls
        waiting = sq.walk(sq.sqe_tail - sq.pending(), sq.sqe_tail)
        # A poll that has completed and was armed again is found twice: the thread moves the head after it has
        # posted the CQE.
        return [*{token: polls[token] for _, _, _, token in waiting if token in polls}.values()]

    def _ask_poll(self, nodes: list[AioHandler], events: list[Event]) -> None:
        """Get the current events of some handlers from poll(2), and report them."""
        poll = select.poll()
        by_fd: dict[int, list[AioHandler]] = {}
        for node in nodes:
            if not node.deleted:
                by_fd.setdefault(node.fd, []).append(node)
        for fd, each in by_fd.items():
            poll.register(fd, _union(*each))
        for fd, revents in poll.poll(0):
            for node in by_fd[fd]:
                self._report(events, node, revents)

    def _wait_for_end(self, node: AioHandler) -> None:
        """Wait for a poll's last completion: on an SQPOLL ring submit() does not wait for it."""
        while not any(cqe[0] == node.token for cqe in self._early):
            self.ring.submit_and_wait(1)
            self.ring.reap_into(self._early)

    # -- threads, and nesting in another loop

    def release(self, node: AioHandler) -> None:
        """Remove a handler and release its open file before returning; see FDMon.release."""
        self.remove(node)
        if self._waiting:
            self.notify()  # even if it is not armed: the waiter may be about to arm it
            return
        if self.ring.closed or not node.armed or node.token in self._rearm:
            return
        if self.ring.owner == get_ident():
            self._release_now(node)
            return
        with self._taking:
            # A waiter announces itself before it takes the ring.
            if self._waiting:
                self.notify()
            elif not self.ring._owner_lives():  # otherwise its next wait() does it
                # Only borrowed: this thread does not wait.
                self.ring._borrow(partial(self._release_now, node))

    def _release_now(self, node: AioHandler) -> None:
        """Send a handler's removal, with all other intents."""
        try:
            if self._early:  # a signal handler raised
                self.process_cq_ring([])
            self._carry_out()  # no requests of add_sqe(): they would end with this thread
            self._submit()
            if self._sqpoll and node.armed:  # not if its last completion was among those taken off early
                self._wait_for_end(node)
        except OSError as error:
            if not self.ring.lost(error):
                raise
            self._downgrade(error)

    def _bind(self) -> None:
        """Bind the ring to the waiting thread: once from its creator, then when the last waiter has ended."""
        with self._taking:
            if not self._bound or not self.ring._owner_lives():
                self.ring.bind_thread()
                self._bound = True
        self.ring.cq_ready()  # raises WrongThread in any other

    def _has_intents(self) -> bool:
        ours = self._rearm or self._requests or self._early or self.inflight.ready
        return bool(ours or self.submit_list or (self._instead is not None and self._instead._has_intents()))

    def _tell_outer(self) -> None:
        """Have wait() called again when work is left that its descriptor does not show.

        A signal handler raised, or completions were taken off the ring to make room.
        """
        left = self.submit_list or self._rearm or self._requests or self._early
        if self._wake_fds and (left or self.ring.sq.sqe_tail != self.ring.sq.published):
            self.notify()

    # -- userspace polling; mirrors QEMU aio-posix.c

    def _set_poll_params(self, max_ns: int, grow: int, shrink: int) -> None:
        why = polling_refusal(self.ring.flags) if max_ns else None
        if why:
            raise ValueError(f"userspace polling is not possible: {why}")
        self.poll_ns = 0
        self.poll_max_ns, self.poll_grow, self.poll_shrink = max_ns, grow, shrink

    def try_poll_mode(self, timeout_ns: int | None) -> bool:
        """Submit, and look for completions in memory for a while.

        Args: timeout_ns in nanoseconds; None waits for ever.
        Returns: True when something has completed.
        Mirrors: QEMU aio-posix.c try_poll_mode
        """
        max_ns = self.poll_ns if timeout_ns is None else min(self.poll_ns, timeout_ns)
        if not max_ns:
            return False
        self._submit()
        return self.run_poll_handlers(max_ns)

    def run_poll_handlers(self, max_ns: int) -> bool:
        """Look for completions in memory.

        Args: max_ns in nanoseconds.
        Returns: True when something has completed.
        Mirrors: QEMU aio-posix.c run_poll_handlers, with the CQ ring in place of the handlers' io_poll
        """
        ready, clock = self.ring.cq.ready, time.monotonic_ns
        end = clock() + max_ns
        while not ready():
            if clock() >= end:
                return False
        return True

    def adjust_polling_time(self, block_ns: int) -> None:
        """Let the polling time grow or shrink after a wait.

        Args: block_ns is how long the wait took, in nanoseconds.
        Mirrors: QEMU aio-posix.c adjust_polling_time, with one time for the monitor, as before QEMU 10.0
        """
        if block_ns <= self.poll_ns:
            return  # the time is right
        if block_ns > self.poll_max_ns:
            self.poll_ns = self.poll_ns // self.poll_shrink if self.poll_shrink else 0
        elif self.poll_ns < self.poll_max_ns:
            longer = self.poll_ns * (self.poll_grow or 2) if self.poll_ns else POLL_START_NS
            self.poll_ns = min(longer, self.poll_max_ns)

    # -- continuing without the ring

    def _downgrade(self, error: OSError) -> PollFDMon:
        """Move every handler to poll(2); the ring stays only for requests still in flight on it."""
        ring, inflight = self.ring, self.inflight
        self._code = code = error.errno or errno.EIO
        nodes = list(self._polls.values())
        if self._lot is not None:
            nodes += self._lot.nodes()
        instead = PollFDMon()
        if self._outer is not None:
            instead._show_in(self._outer)
            self._hide_source(self._outer)
        for node in nodes:
            self._forget(node)
            node.parked = False
            if not node.deleted and (self._lot is None or node is not self._lot.node):
                instead.enqueue(node, FDMON_IO_URING_ADD)
        if self._lot is not None:
            self._lot.close()
            self._lot = None
        self.inflight.answer_unsent(-self._code)
        self._ring_node = AioHandler(max(ring._fd, 0), POLLIN)
        if len(inflight) and code not in rings.GONE:
            instead.enqueue(self._ring_node, FDMON_IO_URING_ADD)
        self.backend = instead.backend
        self.reason = f"io_uring stopped working: {error}"
        self.poll_max_ns = 0
        self._instead = instead  # last: from here on nothing uses the ring
        return instead

    def _hide_source(self, outer: select.epoll) -> None:
        source, self._source = self._source, -1
        if source >= 0:
            outer.unregister(source)
            os.close(source)

    def _wait_instead(self, instead: PollFDMon, timeout_ns: int | None) -> list[Event]:
        deadline = None if not timeout_ns else time.monotonic_ns() + timeout_ns
        inflight = self.inflight
        while True:
            left = timeout_ns
            while self.submit_list:
                instead.submit_list.append(self.submit_list[0])
                self.dequeue()
            while self._requests:
                handler = self._requests[0][1]
                if handler is not None:
                    inflight.answer(handler, -self._code)
                del self._requests[0]  # as in _start_request
            self._reap_the_rest()
            if inflight.ready:
                left = 0
            elif self._code in rings.GONE and not self.ring.closed:  # nothing wakes us for its completions
                left = LOOK_NS if left is None else min(left, LOOK_NS)
            events = instead.wait(left)
            ours = [node for node, _ in events if node is self._ring_node or node is self._notifier]
            events = [event for event in events if event[0] not in ours]
            if not self._reap_the_rest() and self._ring_node in ours:
                instead.remove(self._ring_node)  # the rest needs io_uring_enter, and would wake us for ever
            woken = self._notifier in ours
            if woken:
                self._take_notification()
            if events or woken or inflight.ready or timeout_ns == 0:
                return events
            if deadline is not None:
                timeout_ns = max(0, deadline - time.monotonic_ns())

    def _reap_the_rest(self) -> int:
        """Take late completions off the ring without entering the kernel; close it after the last."""
        if self.ring.closed:
            return 0
        count = 0
        self.inflight.answer_unsent(-self._code)
        try:
            self.ring.reap_into(self._early)
        except OSError:
            pass  # overflowed completions are unreachable
        finally:
            while self._early:
                count += 1
                self.inflight.complete(*self._early[0][:3])
                del self._early[0]
        if not (len(self.inflight) or self.inflight.ready):  # close() would run their handlers
            if self._instead is not None:
                self._instead.remove(self._ring_node)
            self.ring.close()
        return count


def _check_sqpoll(ring: rings.Ring) -> None:
    if ring.flags & uapi.IORING_SETUP_SQPOLL and not ring.features & uapi.IORING_FEAT_SQPOLL_NONFIXED:
        raise syscalls.Unavailable(
            errno.EINVAL, "a monitor on an SQPOLL ring", "flags",
            "Before Linux 5.11 an SQPOLL ring accepts registered files only: use a ring without SQPOLL.",
        )  # fmt: skip


def polling_refusal(flags: int) -> str | None:
    """Return why completions do not appear in memory; the table is in the head of this file.

    Args: flags are a ring's setup flags.
    Returns: the reason, or None where userspace polling works.
    """
    for flag in (uapi.IORING_SETUP_DEFER_TASKRUN, uapi.IORING_SETUP_IOPOLL):
        if flags & flag:
            name = uapi.names_of_flags("IORING_SETUP_", flag)[0]
            return f"with {name} completions appear only when io_uring_enter is called"
    if not barriers.ordered():
        return "this machine has no memory fence (see barriers.py)"
    return None


class ParkingLot(syscalls.Uncopyable):
    """An epoll set for handlers on which POLL_ADD fails, sleeps or completes endlessly: see the head."""

    def __init__(self) -> None:
        """Create the set and the node that watches it."""
        # A set within a set, so that the inner one can be replaced while the outer one is watched.
        self._outer, self._epoll = select.epoll(), select.epoll()
        self._outer.register(self._epoll, POLLIN)
        self._nodes: dict[int, list[AioHandler]] = {}
        #: Whether a poll for the node below is in the kernel.
        self.watched = False
        #: Ready when one of the parked handlers is.
        self.node = AioHandler(self._outer.fileno(), POLLIN)
        self.node.exact = 0  # its completions are never usual ones

    def add(self, node: AioHandler) -> None:
        """Park a handler.

        Args: node is idle.
        Raises: OSError when its descriptor is closed.
        """
        mask = _union(node, *self._nodes.get(node.fd, ()))
        try:
            self._epoll.register(node.fd, mask)
        except FileExistsError:
            self._epoll.modify(node.fd, mask)
        self.keep(node)

    def keep(self, node: AioHandler) -> None:
        """Park a handler of a file that epoll rejects because it never becomes ready for the wanted events.

        Args: node is idle.
        """
        nodes = self._nodes.setdefault(node.fd, [])
        if node not in nodes:
            nodes.append(node)
        node.parked = True

    def remove(self, node: AioHandler) -> None:
        """Unpark a removed handler.

        Args: node is parked.
        """
        node.parked = False
        nodes = [each for each in self._nodes.pop(node.fd, ()) if each is not node]
        try:
            if nodes:
                self._nodes[node.fd] = nodes
                self._epoll.modify(node.fd, _union(*nodes))
            else:
                self._epoll.unregister(node.fd)
        except OSError:
            self._renew()

    def _renew(self) -> None:
        """Replace the set: a number was closed, but its file may still be open and would wake us."""
        try:
            epoll = select.epoll()
        except OSError:
            return  # no descriptor is left
        for fd, nodes in self._nodes.items():
            try:
                epoll.register(fd, _union(*nodes))
            except OSError:
                continue  # closed as well, or never ready
        # Only now: a signal handler's exception before this must not leave handlers without a set.
        self._outer.register(epoll, POLLIN)
        old, self._epoll = self._epoll, epoll
        old.close()

    def events(self) -> list[Event]:
        """Return the events of the parked handlers.

        Returns: pairs (node, revents).
        """
        found = []
        for fd, revents in self._epoll.poll(0, max(1, len(self._nodes))):
            for node in self._nodes.get(fd, ()):
                mask = revents & (node.events | _ALWAYS)
                if mask and not node.deleted:
                    found.append((node, mask))
        return found

    def nodes(self) -> list[AioHandler]:
        """Return the parked handlers."""
        return [node for nodes in self._nodes.values() for node in nodes]

    def close(self) -> None:
        """Close the set; may be called twice."""
        self._epoll.close()
        self._outer.close()


# ------------------------------------------------------------------------------------------------------
# Choosing


def setup(prefer: tuple[str, ...] = ("io_uring", "poll"), **options: Any) -> FDMon:
    """Create the first monitor that works here.

    If a strategy fails in any way, the next one is tried, and the cause is kept in ``reason``.

    Args: prefer names strategies in order; options are passed to IoUringFDMon.
    Returns: a monitor whose ``backend`` and ``reason`` say what was chosen and why.
    Raises: ValueError for an unknown name; the last strategy's error when none works.
    Mirrors: QEMU aio_context_setup
    """
    strategies: dict[str, Callable[[], FDMon]] = {
        "io_uring": lambda: IoUringFDMon(**options),
        "poll": PollFDMon,
    }
    for name in prefer:
        if name not in strategies:
            raise ValueError(f"there is no strategy {name!r}: choose from {', '.join(strategies)}")
    failures: list[str] = []
    for position, name in enumerate(prefer):
        try:
            monitor = strategies[name]()
        except (OSError, ImportError, AttributeError) as error:
            failures.append(f"{name} failed: {error}")
            if position == len(prefer) - 1:
                raise
            continue
        monitor.reason = "; ".join(failures) or f"{name} works here"
        return monitor
    raise ValueError("no strategy was named")


def destroy(monitor: FDMon) -> None:
    """Destroy a monitor: QEMU's name for FDMon.destroy.

    Args: monitor as setup() returned it.
    Mirrors: QEMU fdmon_io_uring_destroy
    """
    monitor.destroy()
