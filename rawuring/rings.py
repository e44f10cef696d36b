# SPDX-License-Identifier: MIT
# pyright: basic
"""A ring at work: submit, wait, reap.

What it is: Ring, which makes the kernel look at the two queues and takes the completions out. Mirrors:
liburing ``src/queue.c`` as far as it makes system calls.
Must not know: the meaning of an operation (an exception: the TIMEOUT with which kernels before 5.11 wait),
or the handler of a completion.
Invariant: a call counts consumed entries from the queues, never from a return value alone, and loses no
completion when a signal handler raises.
Read next: ops.py. On a first reading: Ring.submit and Ring.reap. The rest are variants of the same, and the
failures.
failures.

Unless said otherwise, memory passed to a call may be freed when the call returns, only the thread that owns a
ring may use it, and Linux 5.1 suffices.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
from _thread import get_ident
from collections import namedtuple

from . import barriers, syscalls, uapi
from .barriers import load_acquire, store_release

# Names imported "as" themselves are public here, too.
from .handle import (
    GONE as GONE,
    LOST as LOST,
    REFUSED as REFUSED,
    ForkedRing as ForkedRing,
    RingHandle,
    _pointer,
    call_all as call_all,
    this_thread as this_thread,
    thread_lives as thread_lives,
)
from .mapping import map_rings as map_rings, memory_sizes as memory_sizes
from .params import check_integers
from .queues import (
    _CQE16,
    _CQE16_AT,
    _CQES16,
    U32 as U32,
    Columns as Columns,
    CompletionQueue as CompletionQueue,
    RewindSubmissionQueue as RewindSubmissionQueue,
    RingClosed as RingClosed,
    SubmissionQueue as SubmissionQueue,
    SubmissionQueueFull as SubmissionQueueFull,
    WrongThread as WrongThread,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Iterable
    from typing import Any, Callable

    from .queues import Cqe as Cqe

#: user_data of the TIMEOUT that Ring itself submits before 5.11. Mirrors liburing's LIBURING_UDATA_TIMEOUT.
UDATA_TIMEOUT = 0xFFFFFFFFFFFFFFFF

#: The flags that a program with one submitting thread should wish for: task work runs when the program
#: fetches completions, a bad SQE does not stop its batch, and there is no index array.
RECOMMENDED = (
    uapi.IORING_SETUP_SINGLE_ISSUER
    | uapi.IORING_SETUP_DEFER_TASKRUN
    | uapi.IORING_SETUP_TASKRUN_FLAG
    | uapi.IORING_SETUP_SUBMIT_ALL
    | uapi.IORING_SETUP_NO_SQARRAY
)


# Whether statements with no call between them are one step: the no-call rule (queues.py).
_HANDLERS_RUN_AFTER_CALLS = sys.implementation.name == "cpython" and sys.version_info >= (3, 11)


class Statistics(
    namedtuple(
        "Statistics",
        "sq_pending sq_space_left cq_ready submitted reaped enters cq_overflow sq_dropped",
    )
):
    """A snapshot of a ring's counters."""

    __slots__ = ()

    sq_pending: int
    sq_space_left: int
    cq_ready: int
    submitted: int
    reaped: int
    enters: int
    cq_overflow: int
    sq_dropped: int


class Ring(RingHandle):
    """An io_uring: a descriptor, its submission queue and its completion queue.

    A ring belongs to one thread, the one that created it, until bind_thread() or enable() gives it to
    another: two threads in one queue would overwrite each other's entries, so all others are rejected.

    ``sq`` and ``cq`` are the queues, ``params`` is the io_uring_params that the kernel filled, and
    ``dropped`` lists the wishes that the kernel did not grant, each with the errno.
    """

    # The kind of a ring decides how a call proceeds. _attach() sets these; "then" says what changes one
    # later.
    #
    # name              true when                                  read by
    # ----------------  -----------------------------------------  -----------------------------------------
    # _sqpoll           SQPOLL: the kernel's thread submits        submit, _turn, discard, sqring_wait
    # _rewind           SQ_REWIND: each batch starts at slot 0     _enter
    # _plain            neither of these: sq.head shows the SQEs   submit_and_wait, for its short way
    #                   consumed; debug.py: False
    # _direct           a load orders what follows it (barriers),  reap, _collect: without it through _fetch
    #                   then not after wakeup_fd(); debug.py:
    #                   False
    # _enter_to_reap    IOPOLL, DEFER_TASKRUN without              reap, _collect, _fetch_with_help,
    #                   TASKRUN_FLAG, or loads order nothing: no   need_enter; _fetch, which has a fence to
    #                   word reports completions                   replace
    # _quick            _plain, _direct, not _enter_to_reap, all   submit_and_reap and reap_columns, for their
    #                   CQEs have 16 bytes, and no TIMEOUT of      short ways
    #                   ours is among them (EXT_ARG)

    before_close: list[Callable[[Ring, bool], None]]

    def _attach(self, single_mmap: bool) -> None:
        """Map the ring, and derive the booleans above from its flags."""
        super()._attach(single_mmap)
        self._rewind = bool(self.flags & uapi.IORING_SETUP_SQ_REWIND)
        self._sqpoll = bool(self.flags & uapi.IORING_SETUP_SQPOLL)
        self._plain = not (self._sqpoll or self._rewind)
        silent = uapi.IORING_SETUP_DEFER_TASKRUN | uapi.IORING_SETUP_TASKRUN_FLAG
        self._direct = barriers.ordered()
        self._enter_to_reap = (
            bool(self.flags & uapi.IORING_SETUP_IOPOLL)
            or (self.flags & silent) == uapi.IORING_SETUP_DEFER_TASKRUN
            or not self._direct
        )
        self._quick = (
            self._plain and not self._enter_to_reap and not self.cq.wide
            and bool(self.features & uapi.IORING_FEAT_EXT_ARG)
        )  # fmt: skip
        self._deadline = syscalls.GeteventsArg()
        # Before 5.11: the timespec of each TIMEOUT whose CQE may still come, and how many CQEs have come.
        self._timeouts: list[Any] = []
        self._timeouts_ended = 0
        self._submitted = self._reaped = self._enters = 0

    # -- submitting

    def put(self, sqe: bytes | bytearray | memoryview) -> None:
        """Queue one complete SQE: see SubmissionQueue.put.

        Args: sqe is a whole SQE.
        Raises: SubmissionQueueFull, ValueError.
        Lifetime: none; the memory that the SQE points to has the lifetime of its operation.
        """
        self.sq.put(sqe)

    def push(self, sqes: bytes | bytearray | memoryview) -> int:
        """Queue a block of complete SQEs: see SubmissionQueue.push.

        Args: sqes is a contiguous buffer of whole SQEs.
        Returns: their number.
        Raises: SubmissionQueueFull, ValueError.
        Lifetime: none; the memory that the SQEs point to has the lifetime of each operation.
        Mirrors: tokio-rs/io-uring push_multiple
        """
        return self.sq.push(sqes)

    def submit(self) -> int:
        """Submit every queued SQE to the kernel.

        The kernel stops a batch at an SQE that it rejects (and posts a CQE for that one); the call is
        repeated for the rest. SQEs that are still not consumed stay queued.

        Returns: how many SQEs were consumed; on an SQPOLL ring, how many were published.
        Raises: OSError when nothing was consumed (EAGAIN: no memory; EBUSY: completions overflow and no room
            could be made).
        Mirrors: liburing io_uring_submit, which does not repeat
        """
        if get_ident() != self._owner:
            self._refuse()
        if self._sqpoll:
            return self._submit_sqpoll(0)
        return self._turn(0, 0, 0, None)

    def _submit_sqpoll(self, flags: int) -> int:
        """Publish, and wake the kernel's thread if it sleeps."""
        published = self.sq.sqe_tail - self.sq.published
        self.sq.flush()
        self._submitted += published
        # The tail must be seen before we check whether the thread sleeps; otherwise it may go to sleep
        # on the old tail while we read the old flag. Pairs with the barrier between setting NEED_WAKEUP
        # and re-reading the tail in the kernel's io_sq_thread.
        barriers.full_fence()
        if self.sq.flags() & uapi.IORING_SQ_NEED_WAKEUP:
            flags |= uapi.IORING_ENTER_SQ_WAKEUP
        if flags:
            # The kernel's thread submits, so the number is ignored; but 5.10.46 answers a 0 with
            # EOWNERDEAD, after it has woken the thread.
            self._enter(published or 1, 0, flags)
        return published

    def submit_and_wait(
        self, wait_nr: int = 1, timeout_ns: int | None = None, *, min_wait_usec: int = 0,
        sigmask: Iterable[int] | None = None,
    ) -> int:  # fmt: skip
        """Submit every queued SQE to the kernel and wait for completions.

        Returns when wait_nr CQEs are available, or at the timeout, never just because of a signal: handlers
        run and the wait goes on (PEP 475). Reap afterwards.

        Args: wait_nr counts CQEs, those of 32 bytes among smaller ones as two, no more than fit into the CQ;
            0 waits for none but lets the kernel finish completions that are ready; timeout_ns in nanoseconds,
            None waits for ever; min_wait_usec in microseconds: wait at least that long for wait_nr,
            afterwards one CQE is enough; sigmask are the signals blocked during the wait, and no others, as
            with ppoll(2).
        Returns: the number of consumed SQEs.
        Raises: OSError as submit(); ValueError where min_wait_usec or sigmask is not supported, and for a
            negative wait_nr.
        Since: 5.1; min_wait_usec 6.12, sigmask 5.11; before that a timeout waits behind IOSQE_IO_DRAIN, too
        Mirrors: liburing io_uring_submit_and_wait_timeout, io_uring_submit_and_wait_min_timeout
        """
        if get_ident() != self._owner:
            self._refuse()
        submitted: int = 0
        sq, cq = self.sq, self.cq
        if timeout_ns is None and sigmask is None and not min_wait_usec and self._plain and not cq.copied:
            # _turn() for the common case, written out: with reap(), 0.72 of the time for one NOP (CPython
            # 3.11, bench/run.py --only "batch of 1,"; the long way with _plain = _quick = False). Each access
            # pairs as in SubmissionQueue.flush, SubmissionQueue.pending and CompletionQueue.ready.
            tail = sq.sqe_tail
            if tail != sq.published:
                store_release(sq._words, sq._ktail, tail & U32)
                sq.published = tail
            before = (tail - load_acquire(sq._words, sq._khead)) & U32
            if before and 0 <= wait_nr <= cq.ring_entries:
                self._enters += 1
                bare, nr, no_size = self._bare
                # syscalls.enter without its frame. It returns -1 for an error and raises nothing: an OSError
                # here would be a signal handler's.
                try:
                    submitted = bare(nr, self._enter_fd, before, wait_nr, self._turn_flags, None, no_size)
                except Exception:
                    if isinstance(wait_nr, int) and wait_nr <= U32:
                        raise
                    raise _not_a_count(wait_nr) from None
                if submitted == before and ((load_acquire(cq._words, cq._ktail) - cq.head) & U32) >= wait_nr:
                    self._submitted += submitted
                    return submitted
            # When enter fails, nothing was consumed: _wait() tries again, and handles the error.
        if submitted <= 0:
            return self._wait(wait_nr, timeout_ns, min_wait_usec, sigmask)
        self._submitted += submitted
        return submitted + self._wait(wait_nr, timeout_ns, min_wait_usec, sigmask)

    def submit_and_reap(self, wait_nr: int = 1, timeout_ns: int | None = None) -> list[Cqe]:
        """Do submit_and_wait() and reap() in one call: the cheapest turn for a few requests.

        Args: wait_nr counts CQEs, 0 waits for none; timeout_ns in nanoseconds, None waits for ever.
        Returns: as reap(); fewer than wait_nr after the timeout.
        CQE: as reap().
        Raises: as submit_and_wait() and reap().
        Mirrors: liburing io_uring_submit_and_wait, io_uring_for_each_cqe and io_uring_cq_advance in one step
        """
        # submit_and_wait(), fetch() and reap() for a turn in which nothing fails, written out: 0.82 of
        # the time for one NOP (CPython 3.11, bench/run.py --only "batch of 1,"; the long way with _quick =
        # False). Each access pairs as it does there.
        sq, cq = self.sq, self.cq
        tail, words = sq.sqe_tail, cq._words
        usual = timeout_ns is None or (timeout_ns.__class__ is int and timeout_ns > 0)
        if usual and self._quick and get_ident() == self._owner:
            if tail != sq.published:
                store_release(sq._words, sq._ktail, tail & U32)
                sq.published = tail
            before = (tail - load_acquire(sq._words, sq._khead)) & U32
            head = cq.head
            if before and wait_nr >= 0 and not cq.copied:
                self._enters += 1
                bare, nr, no_size = self._bare
                # syscalls.enter without its frame. When it fails, nothing was consumed, and
                # submit_and_wait tries again and reports the error.
                flags, until, size = self._turn_flags, None, no_size
                if timeout_ns is not None:
                    until, size = self._deadline.begin(timeout_ns), self._deadline.size
                    flags |= uapi.IORING_ENTER_EXT_ARG
                try:
                    submitted = bare(nr, self._enter_fd, before, wait_nr, flags, until, size)
                except Exception:
                    if isinstance(wait_nr, int) and wait_nr <= U32:
                        raise
                    raise _not_a_count(wait_nr) from None
                if submitted > 0:
                    self._submitted += submitted
                count = (load_acquire(words, cq._ktail) - head) & U32
                first = head & cq.ring_mask
                if submitted == before and count >= wait_nr and 0 < count <= cq.ring_entries - first:
                    if count == 1:
                        cqes: list[Cqe] = [_CQE16_AT(cq._cqes, first << 4)]
                    else:
                        cqes = list(_CQES16(cq._cqes[first << 4 : (first + count) << 4]))
                    head = (head + count) & U32
                    # As in CompletionQueue.fetch: found exactly once, whatever a signal handler does.
                    cq.copied = cqes
                    cq.head = head
                    store_release(words, cq._khead, head)
                    if not load_acquire(sq._words, sq._kflags):
                        cq.copied = []
                        self._reaped += count
                        return cqes
                    return self.reap()
                if submitted == before and count >= wait_nr:  # none is needed, or they wrap at the end
                    return self.reap()
                if timeout_ns is not None:
                    timeout_ns = self._deadline.remaining_ns()
                    if not timeout_ns and submitted == before:
                        return self.reap()
        self.submit_and_wait(wait_nr, timeout_ns)
        return self.reap()

    def _wait(
        self, wait_nr: int, timeout_ns: int | None, min_wait_usec: int, sigmask: Iterable[int] | None
    ) -> int:
        """Check the arguments of submit_and_wait(), and do its turn."""
        if not isinstance(wait_nr, int) or wait_nr < 0:
            raise _not_a_count(wait_nr)
        wait_nr = min(wait_nr, self.cq.ring_entries)  # more never fit at once
        if min_wait_usec and not self.features & uapi.IORING_FEAT_MIN_TIMEOUT:
            raise ValueError("min_wait_usec needs IORING_FEAT_MIN_TIMEOUT (Linux 6.12)")
        ext_arg = self.features & uapi.IORING_FEAT_EXT_ARG
        if sigmask is not None and not ext_arg:
            raise ValueError("sigmask needs IORING_FEAT_EXT_ARG (Linux 5.11)")
        if timeout_ns is not None and timeout_ns <= 0:
            wait_nr = 0
        timeout = None
        if wait_nr and (timeout_ns is not None or sigmask is not None or min_wait_usec):
            timeout = self._deadline
            timeout.start(timeout_ns, min_wait_usec, sigmask)
            if not ext_arg:
                return self._wait_with_timeout_sqe(wait_nr, timeout)
        return self._turn(wait_nr, min(1, wait_nr) if min_wait_usec else wait_nr, self._wait_flags, timeout)

    def _turn(self, wait_nr: int, enough: int, flags: int, timeout: syscalls.GeteventsArg | None) -> int:
        """Enter until everything is submitted and enough has completed, or the timeout expires.

        The one loop behind submit() and every kind of submit_and_wait(), as _io_uring_get_cqe is in liburing.
        With flags 0 it does not enter for completions alone.
        """
        sq, cq, sqpoll = self.sq, self.cq, self._sqpoll
        submitted = 0
        try:
            while True:
                before = self._submit_sqpoll(0) if sqpoll else sq.flush()
                if not before and (not flags or (wait_nr and len(cq.copied) + cq.ready() >= wait_nr)):
                    break
                try:
                    self._enter(before, max(0, wait_nr - len(cq.copied)) if wait_nr else 0, flags, timeout)
                except OSError as error:
                    if error.errno == errno.EBUSY and self._relieve():
                        continue
                    if submitted and not flags:
                        break  # return the consumed SQEs; the next call reports the error, if it persists
                    raise
                left = 0 if sqpoll else sq.pending()
                submitted += before - left
                # An interrupted or timed-out wait that submitted SQEs returns only their number, so the queue
                # and the clock decide, not the return value.
                if not left or left == before:
                    if not enough or len(cq.copied) + cq.ready() >= enough:
                        break
                    if timeout is not None and timeout.remaining_ns() == 0:
                        break
        finally:  # statistics() includes SQEs that were consumed before an error
            if not sqpoll:
                self._submitted += submitted
        return submitted

    def submit_and_wait_reg(self, wait_nr: int, index: int) -> int:
        """Submit every queued SQE and wait as described by an entry of a registered region.

        Unlike submit_and_wait() it enters once, so a signal ends the wait: check the result of reap().

        Args: wait_nr counts CQEs; index is an entry of register.register_wait_reg().
        Returns: the number of consumed SQEs.
        Raises: OSError as submit(); EFAULT for an index outside the region.
        Since: 6.13
        Mirrors: liburing io_uring_submit_and_wait_reg
        """
        if get_ident() != self._owner:
            self._refuse()
        check_integers(index=index)
        before = self._submit_sqpoll(0) if self._sqpoll else self.sq.flush()
        consumed = self._enter(before, wait_nr, self._wait_flags, index * uapi.io_uring_reg_wait.size)
        if not self._sqpoll:
            self._submitted += consumed
        return consumed

    def _relieve(self) -> bool:
        """Make room in a CQ that has overflowed, because older kernels (5.10) submit nothing before that.

        Returns: False if nothing could be removed.
        """
        before = len(self.cq.copied)
        self._fetch()
        if len(self.cq.copied) == before:
            self._enter(0, 0, uapi.IORING_ENTER_GETEVENTS)
            self._fetch()
        return len(self.cq.copied) > before

    def _wait_with_timeout_sqe(self, wait_nr: int, timeout: syscalls.GeteventsArg) -> int:
        """Wait as liburing does before 5.11: with a TIMEOUT that ends after wait_nr completions.

        A wait relies on its own TIMEOUT. That of an earlier wait may be pending, and end much later: the
        requests of its batch completed before it began to count, or a signal handler raised.
        """
        submitted, ended = 0, -1
        while True:
            self._fetch()
            there, remaining = len(self.cq.copied), timeout.remaining_ns()
            if there >= wait_nr or not remaining:
                return submitted + self.submit()
            # Whose TIMEOUT has ended is unknown, as all have the same user_data. One too many does no harm.
            if ended != self._timeouts_ended:
                if not self.sq.space_left():
                    submitted += self.submit()
                ended = self._timeouts_ended
                self._add_timeout_sqe(wait_nr - there, remaining)
                submitted -= 1  # it is the library's, not the caller's
            submitted += self._turn(there + 1, there + 1, self._wait_flags, None)

    def _add_timeout_sqe(self, count: int, timeout_ns: int) -> None:
        import ctypes

        # Kept until its CQE: the kernel reads the timespec when it consumes the SQE, which on an SQPOLL
        # ring is after we returned.
        timespec = syscalls.array_type(ctypes.c_int64, 2)(*divmod(timeout_ns, 1_000_000_000))
        sqe = uapi.io_uring_sqe.pack(
            opcode=uapi.IORING_OP_TIMEOUT, fd=-1, addr=ctypes.addressof(timespec), len=1, off=count,
            user_data=UDATA_TIMEOUT,
        ).ljust(self.sq.sqe_size, b"\0")  # fmt: skip
        self._timeouts.append(timespec)  # one whose SQE is not sent stays, and does no harm
        self.sq.put(sqe)

    def enable(self) -> None:
        """Start a ring that was created with IORING_SETUP_R_DISABLED, and make the calling thread its owner.

        Raises: OSError with the kernel's errno (EBADFD: it was not disabled); WrongThread for a ring that has
            an index and no descriptor.
        Threads: the new owner.
        Since: 5.10
        Mirrors: liburing io_uring_enable_rings
        """
        if self._state != "open":
            self._refuse()
        self._refuse_to_move()
        try:
            self._register(uapi.IORING_REGISTER_ENABLE_RINGS, None, 0)
        except OSError as error:
            # The ring may be enabled: a signal handler raised after an earlier call had succeeded.
            known = self.flags & uapi.IORING_SETUP_R_DISABLED
            if not known or error.errno != getattr(errno, "EBADFD", -1):
                raise
        self._own()
        try:
            self._enter(0, 0, 0)
        except OSError as error:
            if error.errno != getattr(errno, "EBADFD", -1):
                raise
            raise OSError(
                error.errno,
                "the kernel claims that it has enabled the ring, and has not (Linux 5.10.46 does so): create "
                "the ring without IORING_SETUP_R_DISABLED",
            ) from None
        self.flags &= ~uapi.IORING_SETUP_R_DISABLED

    def _enter(
        self, to_submit: int, min_complete: int, flags: int,
        timeout: syscalls.GeteventsArg | int | None = None,
    ) -> int:  # fmt: skip
        """Enter the kernel, and explain its errors; return the number of SQEs that it reports as consumed.

        All calls enter here, except answers() and the short paths of submit_and_wait() and submit_and_reap(),
        which come here in unusual cases.
        """
        self._enters += 1
        call = self._call  # not called in one expression: CPython 3.11 would look among the methods first
        try:
            consumed = call(self._enter_fd, to_submit, min_complete, flags | self._enter_flags, timeout)
        except OSError as error:
            if error.errno is None:
                self.sq.consumed(to_submit)  # a signal handler's exception: see RewindSubmissionQueue
            advice = _ENTER_ADVICE.get(error.errno or 0)
            if advice is None:
                raise
            # With the old traceback, by which epollwait.py tells the kernel's error from a handler's.
            explained = OSError(error.errno, f"{error.strerror}. {advice}")
            raise explained.with_traceback(error.__traceback__) from None
        except BaseException:
            self.sq.consumed(to_submit)
            raise
        if self._rewind:
            self.sq.consumed(consumed)
        return consumed

    # -- reaping

    def reap(self) -> list[Cqe]:
        """Copy out every available completion, without waiting.

        It also fetches CQEs that had overflowed the ring, and runs pending task work. A ring with
        IORING_SETUP_DEFER_TASKRUN and without IORING_SETUP_TASKRUN_FLAG cannot report task work, and is
        always entered.

        Returns: tuples (user_data, res, flags) in the order of completion; with two more u64 where the CQE
            has 32 bytes. They are copies: the slots are free again, and handlers may do anything.
        CQE: res is 0 or more, or a negative errno; flags are IORING_CQE_F_*.
        Raises: OSError with EBADR if the kernel had to drop CQEs. An exception of a signal handler replaces
            the list: use InFlight.reap() or reap_into() if a handler raises.
        Mirrors: liburing io_uring_peek_batch_cqe and io_uring_cq_advance
        """
        # _collect() written out: 0.91 of the time where nothing has completed, 0.985 of a turn with one NOP
        # (CPython 3.11, the same benchmark).
        if get_ident() != self._owner:
            self._refuse()
        cq = self.cq
        if self._timeouts or not self._direct:
            self._fetch()
        else:
            cq.fetch()
        kflags = load_acquire(self.sq._words, self.sq._kflags)
        if kflags or (self._enter_to_reap and not cq.copied):
            self._fetch_with_help(kflags)
        self._reaped += len(cq.copied)
        # No call from here on, len() included: the caller gets the CQEs, or the next call finds them here.
        cqes, cq.copied = cq.copied, []
        return cqes

    def reap_columns(self) -> Columns:
        """Copy out every available completion, with each field in one list: for large batches.

        Returns: the completions of reap(), with lists of user_data, res and flags on demand.
        CQE: as reap().
        Raises: as reap(); ValueError on a ring with 32-byte CQEs.
        Lifetime: none; these are copies.
        """
        cq = self.cq
        if cq.wide:
            raise ValueError("reap_columns() is for rings whose CQEs all have 16 bytes: use reap()")
        # Overflow and task work are left to reap(), which loses nothing if the kernel returns an error.
        plain = self._quick and not cq.copied and get_ident() == self._owner
        if plain and not load_acquire(self.sq._words, self.sq._kflags):
            cq._fetch_columns()
            columns: Columns = cq.copied  # type: ignore[assignment]
        else:
            reaped = self._reaped
            cq.copied = self.reap()  # back to where they are found if a signal handler raises
            self._reaped = reaped
            columns = Columns(b"".join(_CQE16.pack(*cqe) for cqe in cq.copied))
        self._reaped += len(columns)
        cq.copied = []  # no call from here on: as in reap()
        return columns

    def reap_into(self, target: deque[Cqe]) -> None:
        """Do the same as reap(), but put the completions into a deque.

        A signal handler that raises cannot lose a completion on its way, as it can with the result of reap():
        it is in the deque, or will be there after the next call. Before CPython 3.11, where handlers run
        between any two bytecodes, it may come twice.

        Args: target is extended.
        Raises: as reap().
        """
        cq = self._collect()
        self._reaped += len(cq.copied)
        if _HANDLERS_RUN_AFTER_CALLS:
            # After extend(), a handler may run, but then nothing is left that could be taken again.
            cqes, cq.copied = cq.copied, []
            target.extend(cqes)
        else:
            target.extend(cq.copied)
            cq.copied = []

    def _collect(self) -> CompletionQueue:
        """Move every available completion to ``copied`` of the queue, and return the queue."""
        if get_ident() != self._owner:
            self._refuse()
        cq, sq = self.cq, self.sq
        if self._timeouts or not self._direct:
            self._fetch()
        else:
            cq.fetch()
        # SubmissionQueue.flags without a call: this is a part of every turn.
        kflags = load_acquire(sq._words, sq._kflags)
        if kflags or (self._enter_to_reap and not cq.copied):
            self._fetch_with_help(kflags)
        return cq

    def _fetch(self) -> None:
        cq = self.cq
        if self._enter_to_reap and not barriers.ordered():
            # Without our own fence: a system call orders the accesses before and after it.
            self._enter(0, 0, uapi.IORING_ENTER_GETEVENTS)
        cq.fetch()
        if self._wakeup_fd >= 0 and not cq.copied:
            # Only a reap that finds nothing makes it unreadable. Completions that arrived before that are
            # found below, or as task work in the flags.
            syscalls.read_eventfd(self._wakeup_fd)
            cq.fetch()
        if self._timeouts:
            kept = [cqe for cqe in cq.copied if cqe[0] != UDATA_TIMEOUT]
            ended = len(cq.copied) - len(kept)
            # In this order, as a signal handler may raise in between: rather a TIMEOUT or timespec too many.
            self._timeouts_ended += ended
            cq.copied = kept
            del self._timeouts[:ended]  # the kernel reads them in the order of the SQEs

    def _fetch_with_help(self, kflags: int) -> None:
        """Enter the kernel while it holds back completions that only an enter posts."""
        # Task work is run once, when there is nothing else to return; further task work is left to the next
        # call.
        pull = uapi.IORING_SQ_CQ_OVERFLOW | (0 if self.cq.copied else uapi.IORING_SQ_TASKRUN)
        if not self.cq.copied and self._enter_to_reap:
            kflags |= pull
        while kflags & pull:
            self._enter(0, 0, uapi.IORING_ENTER_GETEVENTS)
            self._fetch()
            kflags = self.sq.flags()
            pull = uapi.IORING_SQ_CQ_OVERFLOW

    # -- the rest

    def cq_ready(self) -> int:
        """Count the completions that reap() would return without entering the kernel.

        Returns: the current number; a CQE of 32 bytes among smaller ones counts as two.
        Mirrors: liburing io_uring_cq_ready
        """
        if get_ident() != self._owner:
            self._refuse()
        return len(self.cq.copied) + self.cq.ready()

    def need_enter(self) -> bool:
        """Tell whether the kernel holds back completions that only an enter posts.

        Returns: True for CQ overflow, for pending task work and for queued SQEs; always on a ring that cannot
            report it (IORING_SETUP_IOPOLL; DEFER_TASKRUN without TASKRUN_FLAG).
        Mirrors: liburing cq_ring_needs_enter
        """
        if get_ident() != self._owner:
            self._refuse()
        pull = uapi.IORING_SQ_CQ_OVERFLOW | uapi.IORING_SQ_TASKRUN
        return self._enter_to_reap or bool(self.sq.flags() & pull) or self.sq.pending() > 0

    def discard(self) -> list[int]:
        """Discard the SQEs that the kernel has not consumed, valid ones included.

        Returns: the user_data of every entry that will now never complete.
        """
        if get_ident() != self._owner:
            self._refuse()
        forgotten = self.sq.discard(published_too=not self._sqpoll)
        return [user_data for user_data in forgotten if user_data != UDATA_TIMEOUT]

    def sqring_wait(self) -> None:
        """Wait until an SQPOLL thread has freed a slot.

        Since: 5.10
        Mirrors: liburing io_uring_sqring_wait
        """
        if get_ident() != self._owner:
            self._refuse()
        if self._sqpoll and not self.sq.space_left():
            self._submit_sqpoll(uapi.IORING_ENTER_SQ_WAIT)

    def wakeup_fd(self) -> int:
        """Return a descriptor that wakes select, poll, epoll and asyncio when completions are available.

        It is readable until reap() or reap_into() returns nothing: reap whenever it is. The descriptor is
        fileno() if that wakes them all; otherwise an eventfd that is registered with the ring, which replaces
        register.register_eventfd(), and which no other code may read.

        Returns: the same descriptor at every call; the ring closes it.
        Raises: ValueError with IORING_SETUP_IOPOLL, whose completions the kernel posts only when we enter;
            OSError, EBUSY if register.register_eventfd() was called before.
        Lifetime: none; the descriptor stays open until close().
        Since: 5.1; 5.2 with an eventfd
        Source: Linux 6.12 io_uring/io_uring.c: io_req_local_work_add signals the eventfd and does not wake
            pollers of the ring
        """
        if get_ident() != self._owner:
            self._refuse()
        if self.flags & uapi.IORING_SETUP_IOPOLL:
            raise ValueError(
                "with IORING_SETUP_IOPOLL completions appear only when reap() enters the kernel: none wakes"
            )
        if not self._registered_only and not self.flags & uapi.IORING_SETUP_DEFER_TASKRUN:
            return self._fd
        if self._wakeup_fd < 0:
            # Readable immediately: requests that complete before it is registered do not signal it.
            fd = syscalls.eventfd(1)
            try:
                self._register(uapi.IORING_REGISTER_EVENTFD, _pointer(bytearray(struct.pack("=i", fd))), 1)
            except BaseException as error:
                os.close(fd)
                if isinstance(error, OSError) and error.errno == errno.EBUSY:
                    what = f"{error.strerror}: this ring already has an eventfd (register.register_eventfd)"
                    raise OSError(error.errno, what) from None
                raise
            self._wakeup_fd = fd
            self._direct = self._quick = False  # every reap goes through _fetch
        return self._wakeup_fd

    def statistics(self) -> Statistics:
        """Take a snapshot of the counters.

        Returns: sq_pending, sq_space_left, cq_ready; totals of SQEs submitted, CQEs reaped and
            io_uring_enter calls; and the kernel's counts of CQEs lost and SQEs dropped.
        """
        if get_ident() != self._owner:
            self._refuse()
        return Statistics(
            sq_pending=self.sq.pending(),
            sq_space_left=self.sq.space_left(),
            cq_ready=self.cq_ready(),
            submitted=self._submitted,
            reaped=self._reaped,
            enters=self._enters,
            cq_overflow=self.cq.overflow(),
            sq_dropped=self.sq.dropped(),
        )


_ENTER_ADVICE = {
    errno.EBUSY: "Completions are waiting to be reaped: call reap(), then submit again; nothing was lost.",
    errno.EAGAIN: "The kernel had no memory for the request: reap(), then submit again; nothing was lost.",
    errno.EEXIST: "The kernel bound this ring to another thread (IORING_SETUP_SINGLE_ISSUER).",
    errno.EBADR: "The kernel had no memory for some completions: those requests are done, the results lost.",
    getattr(errno, "EBADFD", -1): "The ring is disabled (IORING_SETUP_R_DISABLED): call enable() first.",
    errno.EOPNOTSUPP: "The descriptor is not an io_uring: was it closed behind the ring's back?",
    errno.EBADF: "The descriptor is gone: was it closed behind the ring's back?",
}


def _not_a_count(wait_nr: Any) -> Exception:
    if isinstance(wait_nr, int):
        return ValueError(f"wait_nr={wait_nr} is not a number of completions")
    return TypeError(f"wait_nr must be an int, not {type(wait_nr).__name__}")
