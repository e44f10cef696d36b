# SPDX-License-Identifier: MIT
# pyright: basic
"""The two rings, filled and emptied.

What it is: SubmissionQueue and CompletionQueue, which know only memory and indices.
Mirrors: the half of liburing ``src/queue.c`` that touches memory.
Must not know: the calls that make the kernel look at the rings, or the meaning of an operation (exceptions:
the NOP that fills a gap, and the SQEs of 128 bytes).
Invariant: indices run free. They only grow (discard() alone takes some back), wrap at 2**32 in shared memory,
and are masked only to find a slot. The tail is published once per batch, after everything that could fail
on our side.
Read next: handle.py; on a first reading, rings.py at once, and of this file the head, SubmissionQueue down to
pending(), and CompletionQueue.fetch. The rest are variants of the same.

Unless said otherwise, memory passed to a call may be freed when the call returns, only the thread that owns a
ring may use it, and Linux 5.1 suffices.

We write requests into the SQ, the submission queue, as entries of 64 bytes (SQE). The kernel writes answers
into the CQ, the completion queue, as entries of 16 bytes (CQE). Both are rings: the producer moves the tail,
the consumer moves the head.

The memory that mapping.py maps, shared with the kernel (offsets vary: they are read from io_uring_params)::

    mmap at IORING_OFF_SQ_RING                          mmap at IORING_OFF_SQES
    +-----------------------------------------+         +----------------------+
    | SQ: khead ktail mask entries kflags ... |         | sqe 0    (64 bytes)  |
    | CQ: khead ktail mask entries ...        |         | sqe 1                |
    | cqes[cq_entries]        (16 bytes each) |         | ...                  |
    | array[sq_entries]: index of an sqe      |-------->| sqe sq_entries - 1   |
    +-----------------------------------------+         +----------------------+

Before 5.4 the CQ half was a third, separate mapping. The index array maps places of the queue to slots of the
SQE mapping, so that a program may tie slots to its own structures and send them in any order. We fill it once
with 0, 1, 2 ... and never look at it again. From 6.6 it can be left out (NO_SQARRAY): place i is then slot i.

A word is a u32 of the mapping, reached through a memoryview (barriers.map_words), which CPython reads and
writes in one piece. load_acquire is a read that nothing after it can overtake, store_release a write that
overtakes nothing before it. On x86 every plain read and write is such a one; elsewhere barriers.py adds a
fence. Where no fence is available, ordered() is False, and rings.py calls io_uring_enter, which orders
everything, before it looks at the CQ. SQPOLL needs one barrier more, a full fence (see flags()).

Who moves what:

    ============  =========================  ==================================================
    word          written by                 read by
    ============  =========================  ==================================================
    sq.ktail      us, after the SQEs         the kernel, before it reads the SQEs
    sq.khead      the kernel, after reading  us, before an SQE slot is used again
    sq.kflags     the kernel                 us: NEED_WAKEUP, TASKRUN, and CQ_OVERFLOW (here, because
                                             the CQ had no flags word that the kernel writes)
    sq.kdropped   the kernel                 us, for statistics: SQEs with an impossible index
    cq.ktail      the kernel, after the CQE  us, before we read the CQEs
    cq.khead      us, after copying CQEs     the kernel, before it overwrites a CQE
    cq.koverflow  the kernel                 us, for statistics: CQEs that were lost
    array[]       us, once                   the kernel, to find the SQE
    ============  =========================  ==================================================

A ``k`` marks a word that both sides see, whoever writes it. Our private counters are plain ints: sqe_tail and
published grow beyond 32 bits and are truncated when they are stored, head is kept truncated, and the number
of entries is always ``(tail - head) & U32``: 0 in an empty ring, ring_entries in a full one. Masked indices
would be equal in both. ring_entries is a power of two, so it divides 2**32, and no slot is skipped at the
wrap; the mask is ring_entries - 1.

An SQE slot is free again when sq.khead has passed it, for then the kernel has copied the SQE. The memory that
the SQE points to is not free yet: the Lifetime of the function in ops.py says how long the request needs it,
most often until the final CQE, the one without IORING_CQE_F_MORE in its flags.

A full CQ does not keep requests from completing. Without IORING_FEAT_NODROP (before 5.5) a CQE without a slot
is lost and counted in cq.koverflow, so no more requests may be in flight than the CQ has free slots. With it
the kernel keeps the CQE on a list of its own, and from 5.8 raises CQ_OVERFLOW. The kernel does not notice a
store of cq.khead: after freeing slots, we fetch the CQE by io_uring_enter with GETEVENTS (Ring.reap).

The no-call rule. A Python signal handler may raise, and no request and no completion may be lost or counted
twice then. CPython 3.11 and newer run handlers where a function begins, where it jumps back (as a loop does,
in 3.12 also the end of an except clause) and where a call returns, nowhere else: statements with no call
between them are one step. Every call counts, len() and isinstance() too: CPython looks for signals after them
until it has specialised the call, which it never does when it is traced, or is free-threaded (3.13). Older
CPythons and PyPy run handlers between any two bytecodes; there the order is such that a step may be done
twice without harm. All files follow this rule and cite it.

Task work is the last step of a completion, which the kernel leaves to the thread that submitted. Usually it
interrupts that thread for it. With DEFER_TASKRUN only io_uring_enter with GETEVENTS does it, and with
TASKRUN_FLAG the flag IORING_SQ_TASKRUN says that some is waiting.
"""

from __future__ import annotations

import struct
import sys
from _thread import get_ident

from . import barriers, uapi
from .barriers import load_acquire, store_release
from .syscalls import Uncopyable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    Cqe = tuple[int, ...]  # (user_data, res, flags), and two more words on a 32-byte CQE

U32 = 0xFFFFFFFF


class SubmissionQueueFull(Exception):
    """Raised when there are fewer free SQE slots than requested: submit first."""


class RingClosed(ValueError):
    """Raised by a ring that was closed; a ValueError, like that of a closed file."""


class WrongThread(RuntimeError):
    """Raised when a ring is used outside the thread that owns it."""


class _Released:
    """A replacement for the words of a closed ring: PyPy would let us read unmapped memory."""

    def __getitem__(self, index: int) -> int:
        raise RingClosed("this ring is closed, or belongs to the parent process")

    def __setitem__(self, index: int, value: int) -> None:
        raise RingClosed("this ring is closed, or belongs to the parent process")


_RELEASED = _Released()


def _bytes_of(memory: Any) -> memoryview:
    view = memoryview(memory)
    # PyPy's struct refuses slices of a cast view, so bytes are not cast to bytes.
    return view if view.format == "B" else view.cast("B")


# ------------------------------------------------------------------------------------------------------
# The submission queue


class SubmissionQueue(Uncopyable):
    """The ring on which we are the producer.

    It works on any memory with the layout: the kernel's, or a bytearray whose other end a test drives.
    """

    __slots__ = (
        "_cut", "_first", "_khead", "_ktail", "_kdropped", "_kflags", "_limit", "_mixed", "_slots", "_sqes",
        "_words", "array_offset", "owner", "published", "ring_entries", "ring_mask", "sqe_size", "sqe_tail",
    )  # fmt: skip

    def __init__(self, ring_memory: Any, sqes_memory: Any, sq_off: dict[str, Any], setup_flags: int) -> None:
        """Read the constants of the ring and fill its index array.

        Args: ring_memory and sqes_memory are writable buffers; sq_off holds the byte offsets of
            io_sqring_offsets; setup_flags are the flags that the ring was created with.
        """
        self._words = words = barriers.map_words(ring_memory)
        self._khead = sq_off["head"] // 4
        self._ktail = sq_off["tail"] // 4
        self._kflags = sq_off["flags"] // 4
        self._kdropped = sq_off["dropped"] // 4
        # The offsets say where; the value itself has to be read from the mapping.
        self.ring_mask = words[sq_off["ring_mask"] // 4]
        self.ring_entries = words[sq_off["ring_entries"] // 4]
        _check_words("sq", self, words)
        self._mixed = bool(setup_flags & uapi.IORING_SETUP_SQE_MIXED)
        self.sqe_size = 128 if setup_flags & uapi.IORING_SETUP_SQE128 else 64
        self._sqes = _bytes_of(sqes_memory)
        self._slots: list[Any] = [None] * self.ring_entries
        self.array_offset = None if setup_flags & uapi.IORING_SETUP_NO_SQARRAY else sq_off["array"] // 4
        if self.array_offset is not None:
            # Bytes, not words: the kernel reads none of them before the tail is stored.
            array = struct.pack(f"={self.ring_entries}I", *range(self.ring_entries))
            _bytes_of(ring_memory)[sq_off["array"] : sq_off["array"] + len(array)] = array
        #: The thread that may fill slots; get_sqe() refuses others.
        self.owner = get_ident()
        #: The index of the next slot to take, and that of the next to publish.
        self.sqe_tail = self.published = load_acquire(words, self._ktail)
        self._limit = 0  # the index that may not be taken before the kernel's head has been looked at again
        self._cut = self._first = self.sqe_tail  # up to _cut, slots have views: see _cut_slots()

    def get_sqe(self) -> memoryview:
        """Take the next free slot.

        The slot keeps its previous content: write all of it, as every function in ops.py does, before
        anything else can fail; after an exception, fill it (with a NOP), or discard() the whole queue. It
        belongs to the next submit() and must not be written afterwards: the kernel may read it until sq.khead
        has passed it, which on an SQPOLL ring may be after submit() has returned.

        Returns: a writable view of 64 bytes (128 on an SQE128 ring).
        Raises: SubmissionQueueFull; WrongThread, RingClosed and ForkedRing from a ring's queue.
        Lifetime: until submit returns.
        Mirrors: liburing io_uring_get_sqe, which returns NULL when full and clears some of the fields
        """
        # Shaped by speed (bench/run.py --only NOP): private words only; the kernel's head is read again (the
        # acquire of pending()) when we reach the limit. An old head is safe: it only moves forward, so it
        # shows too few free slots.
        tail = self.sqe_tail
        if tail >= self._limit or get_ident() != self.owner:
            self._need_room(1)
        self.sqe_tail = tail + 1
        return self._slots[tail & self.ring_mask]  # type: ignore[no-any-return]

    def get_sqe128(self) -> memoryview:
        """Take a slot of 128 bytes: any slot of an SQE128 ring, or two neighbours of an SQE_MIXED ring.

        Two neighbours must not wrap, so a single last slot is filled with a NOP without a CQE.

        Returns: a writable view of 128 bytes.
        Raises: as get_sqe; ValueError on a ring that has no such slots.
        Lifetime: until submit returns.
        Since: 5.19 (SQE128), 6.19 (SQE_MIXED)
        Mirrors: liburing io_uring_get_sqe128
        """
        if self.sqe_size == 128:
            return self.get_sqe()
        if not self._mixed:
            raise ValueError("128-byte SQEs need a ring with IORING_SETUP_SQE128 or IORING_SETUP_SQE_MIXED")
        alone = (self.sqe_tail & self.ring_mask) == self.ring_mask
        self._need_room(min(3, self.ring_entries) if alone else 2)
        if alone:
            _SQE_HEAD.pack_into(
                self.get_sqe(), 0, uapi.IORING_OP_NOP, uapi.IOSQE_CQE_SKIP_SUCCESS, 0, 0, bytes(56)
            )
            self._need_room(2)  # a ring of two has no third: there the NOP stays, and submitting makes room
        index = self.sqe_tail & self.ring_mask
        self.sqe_tail += 2
        return self._sqes[index * 64 : index * 64 + 128]

    def put(self, sqe: bytes | bytearray | memoryview) -> None:
        """Copy one complete SQE into the next slot.

        Unlike get_sqe() and a prep function, it takes the slot only when it is filled, so an exception of a
        signal handler cannot leave a slot with old content in the batch.

        Args: sqe is a whole SQE of this ring's size.
        Raises: as get_sqe; ValueError for another size.
        Lifetime: none; the memory that the SQE points to has the lifetime of its operation.
        """
        tail = self.sqe_tail
        if tail >= self._limit or get_ident() != self.owner:
            self._need_room(1)
        self._slots[tail & self.ring_mask][:] = sqe
        self.sqe_tail = tail + 1

    def push(self, sqes: bytes | bytearray | memoryview) -> int:
        """Copy complete SQEs into the next slots, all of them or none.

        For batches: a block that was prepared once (in a bytearray of n * 64 bytes, through slices of it)
        is queued repeatedly for the price of two memory copies.

        Args: sqes is a contiguous buffer of whole SQEs of this ring's size.
        Returns: the number of SQEs.
        Raises: SubmissionQueueFull when they do not all fit; ValueError for a broken SQE.
        Lifetime: none; the memory that the SQEs point to has the lifetime of each operation.
        Mirrors: tokio-rs/io-uring push_multiple; liburing has no such call
        """
        nbytes, size, tail = len(sqes), self.sqe_size, self.sqe_tail
        count = nbytes // size
        if count * size != nbytes:
            raise ValueError(f"{nbytes} bytes are not a whole number of {size}-byte SQEs")
        if tail + count > self._limit or get_ident() != self.owner:
            self._need_room(count)
        start = (tail & self.ring_mask) * size
        before_wrap = self.ring_entries * size - start
        if nbytes <= before_wrap:
            self._sqes[start : start + nbytes] = sqes
        else:
            with memoryview(sqes) as block:
                self._sqes[start:] = block[:before_wrap]
                self._sqes[: nbytes - before_wrap] = block[before_wrap:]
        self.sqe_tail = tail + count
        return count

    def flush(self) -> int:
        """Publish every slot taken so far to the kernel.

        One store covers all. The kernel reads the tail in io_uring_enter, and consumes as many SQEs as that
        call asks it to submit. On an SQPOLL ring its thread reads the tail at any time, unless it sleeps.

        Returns: the number of entries that the kernel has yet to consume.
        Mirrors: liburing __io_uring_flush_sq
        """
        tail = self.sqe_tail
        if tail != self.published:
            # The SQEs must be seen before the tail that covers them.
            # Pairs with the kernel's smp_load_acquire of sq.tail in io_sqring_entries.
            store_release(self._words, self._ktail, tail & U32)
            self.published = tail
        # pending() without its frame: this is a part of every submit().
        return (tail - load_acquire(self._words, self._khead)) & U32

    def pending(self) -> int:
        """Count the entries, published or not, that the kernel has not consumed.

        Returns: 0 to ring_entries, from the kernel's own head: the return value of enter may have been lost
            to an exception.
        Mirrors: liburing io_uring_sq_ready
        """
        # The kernel must be done with a slot before we count it as free. Pairs with its smp_store_release
        # of sq.head in io_commit_sqring.
        return (self.sqe_tail - load_acquire(self._words, self._khead)) & U32

    def space_left(self) -> int:
        """Count the free slots.

        Returns: 0 to ring_entries.
        Mirrors: liburing io_uring_sq_space_left
        """
        return self.ring_entries - self.pending()

    def flags(self) -> int:
        """Load the flags that the kernel raises in the SQ ring.

        Returns: a mask of IORING_SQ_NEED_WAKEUP, IORING_SQ_CQ_OVERFLOW and IORING_SQ_TASKRUN, as of now.
        """
        # No partner is needed: the kernel raises a flag with atomic_or, each makes us enter, and that orders
        # everything. But a release does not keep a later load behind it. So a full fence stands between the
        # store of sq.ktail and a look at NEED_WAKEUP (Ring._submit_sqpoll). It pairs with the full barrier
        # between raising the flag and reading sq.tail in the kernel's io_sq_thread.
        return load_acquire(self._words, self._kflags)

    def dropped(self) -> int:
        """Load the kernel's count of entries with an index outside the ring.

        Returns: a free-running u32; 0 unless the index array was damaged.
        """
        return load_acquire(self._words, self._kdropped)

    def consumed(self, count: int) -> None:
        """Record the number of SQEs that an enter consumed; a plain ring reads it from the kernel's head.

        Args: count is the return value of io_uring_enter.
        """

    def discard(self, published_too: bool = True) -> list[int]:
        """Discard the entries that the kernel has not consumed.

        Args: published_too is False on an SQPOLL ring, where the kernel may be reading the published entries.
        Returns: the user_data of every entry that will now never complete.
        """
        tail = self.sqe_tail
        head = tail - self.pending() if published_too else self.published
        forgotten = [user_data for _, _, _, user_data in self.walk(head, tail)]
        self.sqe_tail = head
        if head < self.published:
            # The kernel reads this tail only when we enter, so it may go back.
            store_release(self._words, self._ktail, head & U32)
            self.published = head
        self._move_limit()
        return forgotten

    def walk(self, first: int, tail: int) -> Iterator[tuple[int, int, memoryview, int]]:
        """Go through SQEs that are queued.

        Args: first is the index of the first of them, and tail that after the last.
        Returns: for each its index, that of the next one, its slot and its user_data.
        Raises: ValueError for more than the queue holds.
        """
        if tail - first > self.ring_entries:
            raise ValueError(f"SQEs {first} to {tail}: this queue holds {self.ring_entries}")
        while first < tail:
            slot = self.slots[first & self.ring_mask]
            after = first + (2 if self._mixed and slot[0] in _SQE128_OPS else 1)
            yield first, after, slot, _USER_DATA.unpack_from(slot, 32)[0]
            first = after

    def _need_room(self, count: int) -> None:
        """Make sure that count slots are free; otherwise raise an exception that says why not."""
        if self.owner <= 0:
            raise RingClosed("this ring is closed or broken, or belongs to the parent process")
        if get_ident() != self.owner:
            raise WrongThread(
                f"this queue belongs to thread {self.owner} and was used in thread {get_ident()}"
            )
        space = self.space_left()
        if count > space:
            raise SubmissionQueueFull(
                f"{count} slots needed, {space} of {self.ring_entries} free: submit() first, or create the "
                "ring with more entries"
            )
        if self.sqe_tail + count > self._cut:
            self._cut_slots(count)
        self._move_limit()

    def _move_limit(self) -> None:
        self._limit = min(self.sqe_tail + self.space_left(), self._cut)

    def _cut_slots(self, count: int) -> None:
        """Make the views of the next slots: get_sqe() allocates none, and an idle ring has none.

        Each is an object for the garbage collector, and a half-idle ring of 1,024 would add a thousand.
        """
        size, entries = self.sqe_size, self.ring_entries
        done = self._cut - self._first
        end = min(entries, max(2 * done, done + count, 8))
        for i in range(self._cut, self._first + end):
            index = i & self.ring_mask
            self._slots[index] = self._sqes[index * size : (index + 1) * size]
        self._cut = self._first + end if end < entries else _ALL_CUT

    @property
    def slots(self) -> list[memoryview]:
        """Return a writable view of each slot."""
        if self._cut != _ALL_CUT:
            self._cut_slots(self.ring_entries)
        return self._slots

    def release(self) -> None:
        """Release the memory, so that it can be unmapped.

        Raises: BufferError while a view of a slot exists.
        """
        self._limit = self.owner = 0
        busy = 0
        for view in (*[slot for slot in self._slots if slot is not None], self._sqes):
            try:
                view.release()
            except BufferError:
                busy += 1
        barriers.release_words(self._words)
        self._words = _RELEASED
        if busy:
            raise BufferError(f"{busy} views of the SQE array are still in use")


_ALL_CUT = 1 << 63  # above every index
_SQE_HEAD = struct.Struct("=BBHi56s")
_USER_DATA = struct.Struct("=Q")
_SQE128_OPS = (uapi.IORING_OP_NOP128, uapi.IORING_OP_URING_CMD128)


class RewindSubmissionQueue(SubmissionQueue):
    """A submission queue whose batches always start at slot 0 (IORING_SETUP_SQ_REWIND, 7.0).

    The kernel neither reads sq.tail nor moves sq.head here, so only the return value of io_uring_enter shows
    the number of consumed SQEs. If a signal handler's exception swallows that value, the batch
    counts as consumed: submitting an operation twice would be worse.
    """

    __slots__ = ()

    def flush(self) -> int:
        """Return the length of the batch; nothing is published, the kernel reads from slot 0."""
        return self.sqe_tail

    def pending(self) -> int:
        """Count the slots of the batch that is being filled."""
        return self.sqe_tail

    def consumed(self, count: int) -> None:
        """Move the remaining SQEs down to slot 0.

        Args: count is the return value of io_uring_enter.
        """
        size, left = self.sqe_size, self.sqe_tail - count
        if left > 0 and count > 0:
            self._sqes[: left * size] = bytes(self._sqes[count * size : self.sqe_tail * size])
        self.sqe_tail = max(left, 0)
        self._move_limit()


# ------------------------------------------------------------------------------------------------------
# The completion queue

_CQE16 = struct.Struct("=QiI")  # user_data, res, flags
_CQE32 = struct.Struct("=QiIQQ")  # and big_cqe[2]
_CQE16_AT, _CQES16 = _CQE16.unpack_from, _CQE16.iter_unpack


class CompletionQueue(Uncopyable):
    """The ring on which we are the consumer."""

    __slots__ = (
        "_cqe", "_cqes", "_khead", "_koverflow", "_ktail", "_mixed", "_words", "copied", "cqe_size", "head",
        "ring_entries", "ring_mask", "wide",
    )  # fmt: skip

    def __init__(self, ring_memory: Any, cq_off: dict[str, Any], setup_flags: int) -> None:
        """Read the constants of the ring.

        Args: ring_memory is a writable buffer; cq_off holds the byte offsets of io_cqring_offsets;
            setup_flags are the flags that the ring was created with.
        """
        self._words = words = barriers.map_words(ring_memory)
        self._khead = cq_off["head"] // 4
        self._ktail = cq_off["tail"] // 4
        self._koverflow = cq_off["overflow"] // 4
        self.ring_mask = words[cq_off["ring_mask"] // 4]
        self.ring_entries = words[cq_off["ring_entries"] // 4]
        _check_words("cq", self, words)
        self._mixed = bool(setup_flags & uapi.IORING_SETUP_CQE_MIXED)
        self._cqe = _CQE32 if setup_flags & uapi.IORING_SETUP_CQE32 else _CQE16
        self.cqe_size = size = self._cqe.size
        #: CQEs may have 32 bytes.
        self.wide = self._mixed or size == 32
        start = cq_off["cqes"]
        self._cqes = _bytes_of(ring_memory)[start : start + self.ring_entries * size]
        self.head = load_acquire(words, self._khead)
        #: CQEs that were copied out of the ring and not yet returned.
        self.copied: list[Cqe] = []

    def ready(self) -> int:
        """Count the slots that hold CQEs.

        Returns: 0 to ring_entries, as of now; more may arrive at any time.
        Mirrors: liburing io_uring_cq_ready
        """
        # No CQE is read here, so nothing has to be ordered; the load is the same as in fetch().
        return (load_acquire(self._words, self._ktail) - self.head) & U32

    def reap(self) -> list[Cqe]:
        """Copy all CQEs out, free their slots and return the copies.

        Returns: tuples (user_data, res, flags); with two more u64 where the CQE has 32 bytes.
        Raises: RuntimeError when the indices are impossible, which means that the memory was damaged.
        Lifetime: none; these are copies.
        Since: 5.1; 32-byte CQEs 5.19, mixed sizes 6.18
        Mirrors: liburing io_uring_for_each_cqe and io_uring_cq_advance in one step
        """
        self.fetch()
        cqes, self.copied = self.copied, []
        return cqes

    def fetch(self) -> None:
        """Copy all CQEs to ``copied`` and free their slots.

        Raises: RuntimeError when the indices are impossible, which means that the memory was damaged.
        Lifetime: none; these are copies.
        """
        # Shaped by speed (bench/run.py --only NOP): one load, at most two unpacking loops in C, one store.
        words = self._words
        head = self.head
        # The CQEs must be read after the tail that covers them. Pairs with the kernel's smp_store_release
        # of cq.tail in io_commit_cqring.
        count = (load_acquire(words, self._ktail) - head) & U32
        if not count:
            # Again, in case a signal handler raised between the two stores below, of self.head and cq.khead:
            # a CQ that is full for the kernel and empty for us would stay so for ever.
            store_release(words, self._khead, head)
            if self.copied:
                self.copied = list(self.copied)  # perhaps the result that reap_columns() was about to return
            return
        entries = self.ring_entries
        if count > entries:
            raise RuntimeError(f"the CQ of {entries} entries claims to hold {count}: its memory was damaged")
        first = head & self.ring_mask
        size = self.cqe_size
        if count == 1:
            cqes: list[Cqe] = [self._cqe.unpack_from(self._cqes, first * size)]
        elif first + count <= entries:
            cqes = list(self._cqe.iter_unpack(self._cqes[first * size : (first + count) * size]))
        else:
            cqes = list(self._cqe.iter_unpack(self._cqes[first * size :]))
            cqes += self._cqe.iter_unpack(self._cqes[: (first + count - entries) * size])
        if self._mixed:
            cqes = _join_mixed(cqes)
        if self.copied:
            cqes = [*self.copied, *cqes]
        head = (head + count) & U32
        # One step, by the no-call rule: the copies are found here exactly once (before CPython 3.11, at
        # least once), even if a signal handler raises.
        self.copied = cqes
        self.head = head
        # The copies must be complete before the kernel may overwrite the slots. Pairs with a control
        # dependency: the kernel's io_get_cqe branches on cq.head before it writes, and no store overtakes the
        # branch that it depends on.
        store_release(words, self._khead, head)

    def _fetch_columns(self) -> None:
        """Do the same as fetch, without unpacking the CQEs; nothing may be left in ``copied``."""
        words, head = self._words, self.head
        count = (load_acquire(words, self._ktail) - head) & U32
        entries, first, size = self.ring_entries, head & self.ring_mask, self.cqe_size
        if count > entries:
            raise RuntimeError(f"the CQ of {entries} entries claims to hold {count}: its memory was damaged")
        memory = bytes(self._cqes[first * size : (first + count) * size])
        if first + count > entries:
            memory += self._cqes[: (first + count - entries) * size]
        columns, head = Columns(memory), (head + count) & U32
        self.copied = columns  # type: ignore[assignment]  # see fetch()
        self.head = head
        store_release(words, self._khead, head)

    def overflow(self) -> int:
        """Load the kernel's count of CQEs that were lost for good.

        Returns: a free-running u32; with IORING_FEAT_NODROP (5.5) it stays 0 unless the kernel has no memory.
        """
        return load_acquire(self._words, self._koverflow)

    def release(self) -> None:
        """Release the memory, so that it can be unmapped."""
        self._cqes.release()
        barriers.release_words(self._words)
        self._words = _RELEASED


_UPPER_BYTES, _LOWER_HALF = (range(2, 8), 0) if sys.byteorder == "little" else (range(6), 3)


class Columns:
    """Completions by field: ``user_data``, ``res`` and ``flags`` are lists of equal length.

    Unpacking 256 CQEs in one step per field costs half as much as making 256 tuples. Iterating yields the
    tuples that reap() returns.
    """

    __slots__ = ("_bytes",)

    def __init__(self, memory: bytes) -> None:
        """Keep the CQEs as they are.

        Args: memory holds whole CQEs of 16 bytes.
        """
        self._bytes = memory

    @property
    def user_data(self) -> list[int]:
        """Return the user_data of each."""
        return memoryview(self._bytes).cast("Q")[::2].tolist()

    @property
    def res(self) -> list[int]:
        """Return the result of each: 0 or more, or a negative errno."""
        return memoryview(self._bytes).cast("i")[2::4].tolist()

    @property
    def flags(self) -> list[int]:
        """Return the IORING_CQE_F_* mask of each."""
        return memoryview(self._bytes).cast("I")[3::4].tolist()

    def _of_one_block(self) -> int:
        """Return the upper 48 bits of user_data, which requests of a block share, or -1 if they differ."""
        memory = self._bytes
        count = len(memory) >> 4
        for byte in _UPPER_BYTES:
            if memory[byte::16].count(memory[byte]) != count:
                return -1
        return int.from_bytes(memory[:8], sys.byteorder) >> 16

    def _indices(self) -> list[int]:
        """Return the lower 16 bits of each user_data."""
        return memoryview(self._bytes).cast("H")[_LOWER_HALF::8].tolist()

    def __len__(self) -> int:
        """Count the completions."""
        return len(self._bytes) >> 4

    def __iter__(self) -> Iterator[Cqe]:
        """Iterate over the completions as tuples (user_data, res, flags)."""
        return _CQE16.iter_unpack(self._bytes)


def _join_mixed(slots: list[Cqe]) -> list[Cqe]:
    """Join 32-byte CQEs from two slots each, and omit the fillers at the end of the ring."""
    cqes: list[Cqe] = []
    it = iter(slots)
    for cqe in it:
        flags = cqe[2]
        if flags & uapi.IORING_CQE_F_SKIP:
            continue
        if flags & uapi.IORING_CQE_F_32:
            extra = _CQE16.pack(*next(it))
            cqe += struct.unpack("=QQ", extra)
        cqes.append(cqe)
    return cqes


def _check_words(name: str, queue: SubmissionQueue | CompletionQueue, words: barriers.Words) -> None:
    """Reject sizes and indices that no ring has: with them we would write outside the ring."""
    entries, mask = queue.ring_entries, queue.ring_mask
    if not entries or entries & (entries - 1):
        raise RuntimeError(f"{name}.ring_entries is {entries}, which is not a power of two")
    if mask != entries - 1:
        raise RuntimeError(f"{name}.ring_mask is {mask:#x}, which does not fit {entries} entries")
    tail, head = load_acquire(words, queue._ktail), load_acquire(words, queue._khead)
    if (tail - head) & U32 > entries:
        raise RuntimeError(f"{name}.head is {head} and {name}.tail is {tail}: more than {entries} entries")
