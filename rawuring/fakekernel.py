# SPDX-License-Identifier: MIT
# pyright: basic
"""The other side of the ring: a kernel in Python, over two bytearrays.

What it is: FakeKernel consumes SQEs and posts CQEs as Linux does, and raises BrokenRing for accesses that
would corrupt a real ring. The caller decides when requests complete: immediately, late (in any order), or
never. It serves tests, the tour, and readers who want to know how the kernel uses the words that queues.py
shares with it. Mirrors: Linux io_uring/io_uring.c, its submission and completion halves, without any
operation that does real work.
Must not know: how SubmissionQueue and CompletionQueue work; it sees only the bytes they leave.
Invariant: an SQE is consumed and its slot poisoned in one step (unless told otherwise), so no code can rely
on a slot that belongs to the kernel. Verified by the scenarios of tests/test_rings.py, which run over it and
over the real kernel.
Read next: layout.py, then tour.py.

Unless said otherwise, memory passed to a call may be freed when the call returns.

Who moves what, seen from here:

    ============  =====================================================  ============================
    word          what this side does                                    in this file
    ============  =====================================================  ============================
    sq.ktail      loads it: how many SQEs wait for us                    submit
    sq.khead      stores it, after the SQEs were copied                  submit
    sq.kflags     raises and lowers bits                                 set_flag
    cq.ktail      stores it, after the CQE is complete                   post
    cq.khead      loads it: which CQE slots are free again               ready
    ============  =====================================================  ============================

Everything runs in one thread, so nothing needs a barrier; comments name the real kernel's barriers.
Implemented: NOP; READ, POLL_ADD (also multishot) and POLL_REMOVE on simulated pipes; ASYNC_CANCEL by
user_data; PROVIDE_BUFFERS; links (IOSQE_IO_LINK); overflow; SQPOLL with a thread that runs on command. Every
other known opcode completes with 0. playkernel.py is the same in JavaScript, and must behave the same.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import sys
from collections import deque

from . import params, rings, syscalls, uapi
from .queues import U32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

POLLIN = 1
POISON = 0xEE  # the filling of a consumed slot: an SQE that still contains it was not written completely
FEATURES = uapi.IORING_FEAT_SINGLE_MMAP | uapi.IORING_FEAT_NODROP | uapi.IORING_FEAT_EXT_ARG


class BrokenRing(AssertionError):
    """Raised when the other side did something that would corrupt a real ring."""


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise BrokenRing(what)


class Memory(bytearray):
    """Memory that can be closed like an mmap; an exported bytearray cannot be resized."""

    def close(self) -> None:
        """Release the bytes; BufferError while a view exists."""
        self.clear()


class FakeKernel(syscalls.Uncopyable):
    """One ring, from the kernel's point of view."""

    def __init__(
        self, entries: int = 8, cq_entries: int = 0, flags: int = 0, sq_start: int = 0, cq_start: int = 0,
        features: int = FEATURES, poison: bool = True,
    ) -> None:  # fmt: skip
        """Lay out the memory.

        Args: entries and cq_entries are rounded up to powers of two; flags is a mask of IORING_SETUP_*;
            the indices start at sq_start and cq_start; features are those that setup will report; poison
            False leaves the slots of consumed SQEs unchanged, as Linux does.
        """
        self.sq_entries = 1 << (entries - 1).bit_length()
        self.cq_entries = 1 << ((cq_entries or 2 * self.sq_entries) - 1).bit_length()
        self.flags, self.features = flags, features
        self.cqe_size = 32 if flags & uapi.IORING_SETUP_CQE32 else 16
        self.sqe_size = 128 if flags & uapi.IORING_SETUP_SQE128 else 64
        self.no_array = bool(flags & uapi.IORING_SETUP_NO_SQARRAY)
        # Spaced unlike any real kernel, so that no code can rely on the offsets of the words.
        self.sq_off = {"head": 4, "tail": 64, "ring_mask": 24, "ring_entries": 12, "flags": 68, "dropped": 72}
        self.cq_off = {"head": 80, "tail": 128, "ring_mask": 96, "ring_entries": 84, "overflow": 88}
        self.cq_off["cqes"] = 192
        array = 192 + self.cq_entries * self.cqe_size
        self.sq_off["array"] = 0 if self.no_array else array
        self.ring = Memory(array + 4 * self.sq_entries)
        self.poison = poison
        self.sqes = Memory([POISON if poison else 0] * (self.sq_entries * self.sqe_size))
        self.sq_head = self.sq_tail_seen = sq_start
        self.published_before = 0
        self.cq_tail = cq_start
        for offset, value in (
            (self.sq_off["head"], sq_start), (self.sq_off["tail"], sq_start),
            (self.sq_off["ring_mask"], self.sq_entries - 1), (self.sq_off["ring_entries"], self.sq_entries),
            (self.cq_off["head"], cq_start), (self.cq_off["tail"], cq_start),
            (self.cq_off["ring_mask"], self.cq_entries - 1), (self.cq_off["ring_entries"], self.cq_entries),
        ):  # fmt: skip
            self.store(offset, value)
        #: CQEs that found no room: (user_data, res, flags).
        self.overflowed: deque[tuple[int, int, int]] = deque()
        #: Requests that complete when the test says so, or when a call waits for them.
        self.late: list[tuple[int, int, int]] = []
        #: Opcodes whose requests go to ``late``.
        self.slow_ops: set[int] = set()
        #: Polls that wait for their descriptor: user_data -> (fd, mask).
        self.polls: dict[int, tuple[int, int]] = {}
        #: Those of them that stay armed: IORING_POLL_ADD_MULTI.
        self.multishot: set[int] = set()
        #: Provided buffers: group -> (address, length, id), the next one first.
        self.buffers: dict[int, deque[tuple[int, int, int]]] = {}
        #: Descriptors that are ready: fd -> mask. wake() fills it.
        self.ready_fds: dict[int, int] = {}
        #: Pipes: fd -> bytes that were written and not yet read. feed() fills them.
        self.pipes: dict[int, bytearray] = {}
        #: READs that wait for data, the oldest first.
        self.reads: deque[dict[str, Any]] = deque()
        #: The most SQEs that each of the next enters consumes; empty means no limit.
        self.at_most: deque[int] = deque()
        #: Errnos with which the next enters fail, 0 for none.
        self.failures: deque[int] = deque()
        self.enters = 0
        self._in_link = self._link_failed = False

    # -- shared words

    def load(self, offset: int) -> int:
        """Load the u32 at a byte offset of the ring memory."""
        return int.from_bytes(self.ring[self._place(offset)], sys.byteorder)

    def store(self, offset: int, value: int) -> None:
        """Store a u32 at a byte offset of the ring memory."""
        self.ring[self._place(offset)] = (value & U32).to_bytes(4, sys.byteorder)

    def _place(self, offset: int) -> slice:
        if not 0 <= offset <= len(self.ring) - 4:
            raise ValueError(f"offset={offset} is outside the ring memory")
        return slice(offset, offset + 4)

    def set_flag(self, bit: int, on: bool) -> None:
        """Raise or lower a bit of sq.kflags; the real kernel does so with an atomic or, and an atomic and."""
        old = self.load(self.sq_off["flags"])
        self.store(self.sq_off["flags"], old | bit if on else old & ~bit)

    # -- submission

    def enter(self, fd: int, to_submit: int, min_complete: int, flags: int, timeout: Any = None) -> int:
        """Execute io_uring_enter.

        Args: as those of syscalls.enter().
        Returns: the number of consumed SQEs.
        Raises: OSError from ``failures``, and EFAULT for a wait that a region describes, because there is
            none; BrokenRing for a wait that would never end.
        """
        self.enters += 1
        code = self.failures.popleft() if self.failures else 0
        if isinstance(timeout, int):
            code = errno.EFAULT
        if code:
            raise OSError(code, os.strerror(code))
        if self.flags & uapi.IORING_SETUP_SQPOLL:
            self._wake_sq_thread(flags)
            submitted = to_submit
        else:
            submitted = self.submit(to_submit)
            if submitted < to_submit and submitted != self.published_before:
                return submitted
        if flags & uapi.IORING_ENTER_GETEVENTS:
            self.flush_overflow()
            while self.ready() < min(min_complete, self.cq_entries):
                if not self.late:
                    _require(timeout is not None, "this wait would never end")
                    timeout.deadline_ns = 0  # pyright: ignore[reportAttributeAccessIssue]
                    return submitted
                self.complete_late(0)
                self.flush_overflow()
        return submitted

    def submit(self, to_submit: int) -> int:
        """Consume up to to_submit SQEs and return their number.

        The real kernel loads the tail with smp_load_acquire (io_sqring_entries): what was stored before the
        tail is there when the tail is. It stores the head with smp_store_release (io_commit_sqring), after
        the SQEs are copied: a head that moved means that the slots may be filled again.
        """
        tail = self.load(self.sq_off["tail"])
        moved = (tail - self.sq_tail_seen) & U32
        queued = (tail - self.sq_head) & U32
        _require(moved <= self.sq_entries or queued <= self.sq_entries, "the tail went backwards")
        _require(
            queued <= self.sq_entries, f"{queued} entries published on a ring of {self.sq_entries}"
        )
        self.sq_tail_seen = tail
        self.published_before = queued
        count = min(to_submit, queued, self.at_most.popleft() if self.at_most else queued)
        done = 0
        while done < count:
            done += 1
            if not self.consume_one() and not self.flags & uapi.IORING_SETUP_SUBMIT_ALL:
                break
        self.store(self.sq_off["head"], self.sq_head)
        self._in_link = self._link_failed = False  # a chain ends with its batch
        return done

    def consume_one(self) -> bool:
        """Take one SQE; return False if it is bad, which ends the batch."""
        index = self.sq_head & (self.sq_entries - 1)
        self.sq_head = (self.sq_head + 1) & U32
        if not self.no_array:
            index = self.load(self.sq_off["array"] + 4 * index)
            if index >= self.sq_entries:
                self.store(self.sq_off["dropped"], self.load(self.sq_off["dropped"]) + 1)
                return True
        start = index * self.sqe_size
        sqe = bytes(self.sqes[start : start + self.sqe_size])
        if self.poison:
            _require(POISON not in sqe[56:64], "an SQE was published that was not written whole")
            self.sqes[start : start + self.sqe_size] = bytes([POISON]) * self.sqe_size
        fields = uapi.io_uring_sqe.unpack(sqe)
        return self._issue_in_chain(fields)

    def _issue_in_chain(self, fields: dict[str, Any]) -> bool:
        """Issue a request, or cancel it if an earlier one in its chain has failed."""
        if not self._in_link:
            self._link_failed = False
        self._in_link = bool(fields["flags"] & uapi.IOSQE_IO_LINK)
        if self._link_failed:
            self.post(fields["user_data"], -errno.ECANCELED, 0)
            return True
        if fields["opcode"] >= uapi.IORING_OP_LAST:
            self.post(fields["user_data"], -errno.EINVAL, 0)
            self._link_failed = True
            return False
        self._issue(fields)
        return True

    def _issue(self, fields: dict[str, Any]) -> None:
        opcode, user_data = fields["opcode"], fields["user_data"]
        if opcode in self.slow_ops:
            self.late.append((user_data, 0, 0))
        elif opcode == uapi.IORING_OP_POLL_ADD and fields["len"] in (0, uapi.IORING_POLL_ADD_MULTI):
            self.polls[user_data] = (fields["fd"], fields["poll32_events"])
            self.multishot.discard(user_data)
            if fields["len"]:
                self.multishot.add(user_data)
            self._answer_poll(user_data)
        elif opcode == uapi.IORING_OP_POLL_REMOVE and not fields["len"]:
            self._end(user_data, fields["addr"], self._forget_poll(fields["addr"]))
        elif opcode == uapi.IORING_OP_ASYNC_CANCEL and not fields["cancel_flags"]:
            self._end(user_data, fields["addr"], self._forget(fields["addr"]))
        elif opcode == uapi.IORING_OP_PROVIDE_BUFFERS:
            group = self.buffers.setdefault(fields["buf_group"], deque())
            for i in range(fields["fd"]):
                group.append((fields["addr"] + i * fields["len"], fields["len"], fields["off"] + i))
            self.post(user_data, 0, 0)
        elif opcode == uapi.IORING_OP_READ and fields["fd"] in self.pipes:
            self._read(fields)
        else:
            self.post(user_data, 0, 0)

    # -- pipes and polls

    def feed(self, fd: int, data: bytes) -> None:
        """Write into a pipe: complete the READs that wait for it, then the polls."""
        if fd not in self.pipes:
            raise ValueError(f"fd={fd!r} is no pipe of this kernel")
        self.pipes[fd] += data
        self._answer_reads(fd)
        self.wake(fd, POLLIN if self.pipes[fd] else 0)

    def _read(self, fields: dict[str, Any]) -> None:
        select = fields["flags"] & uapi.IOSQE_BUFFER_SELECT
        # It looks for a buffer before it looks for data.
        if select and not self.buffers.get(fields["buf_group"]):
            self._link_failed = True
            self.post(fields["user_data"], -errno.ENOBUFS, 0)
            return
        self.reads.append(fields)
        self._answer_reads(fields["fd"])

    def _answer_reads(self, fd: int) -> None:
        import ctypes

        for fields in [each for each in self.reads if each["fd"] == fd]:
            address, nbytes, flags = fields["addr"], fields["len"], 0
            if not self.pipes[fd]:
                return
            self.reads.remove(fields)
            if fields["flags"] & uapi.IOSQE_BUFFER_SELECT:
                group = self.buffers[fields["buf_group"]]
                if not group:
                    self.post(fields["user_data"], -errno.ENOBUFS, 0)
                    continue
                address, room, number = group.popleft()
                nbytes = min(nbytes or room, room)
                flags = uapi.IORING_CQE_F_BUFFER | number << uapi.IORING_CQE_BUFFER_SHIFT
            data = bytes(self.pipes[fd][:nbytes])
            del self.pipes[fd][: len(data)]
            # The caller's memory is written only now: it must have lived until here.
            ctypes.memmove(address, data, len(data))
            self.post(fields["user_data"], len(data), flags)

    def wake(self, fd: int, mask: int) -> None:
        """Make a descriptor ready (or not, with mask 0), and complete the polls that wait for it."""
        self.ready_fds[fd] = mask
        self._answer_polls(fd)

    def _answer_polls(self, fd: int) -> None:
        for user_data, (polled, _) in list(self.polls.items()):
            if polled == fd:
                self._answer_poll(user_data)

    def _answer_poll(self, user_data: int) -> None:
        fd, mask = self.polls[user_data]
        events = self.ready_fds.get(fd, 0) & mask
        if not events:
            return
        # A multishot poll ends as well where its CQE finds no room.
        more = user_data in self.multishot and not self.overflowed and self.ready() < self.cq_entries
        if not more:
            self._forget_poll(user_data)
        self.post(user_data, events, uapi.IORING_CQE_F_MORE if more else 0)

    def _forget_poll(self, user_data: int) -> bool:
        """Look up a poll by its user_data; a completed one no longer exists."""
        self.multishot.discard(user_data)
        return self.polls.pop(user_data, None) is not None

    def _forget(self, user_data: int) -> bool:
        """Look up any request that waits: a poll, a READ or a late one."""
        if self._forget_poll(user_data):
            return True
        for waiting in (self.reads, self.late):
            for each in waiting:
                if user_data == (each["user_data"] if isinstance(each, dict) else each[0]):
                    waiting.remove(each)  # type: ignore[arg-type]
                    return True
        return False

    def _end(self, user_data: int, target: int, found: bool) -> None:
        """Answer a request that ends another one."""
        if found:
            self.post(user_data, 0, 0)
            self.post(target, -errno.ECANCELED, 0)
        else:
            self._link_failed = True
            self.post(user_data, -errno.ENOENT, 0)

    # -- the thread of an SQPOLL ring

    def run_sq_thread(self) -> int:
        """Let the SQPOLL thread poll the ring once.

        Returns: the number of SQEs that it consumed; 0 while it sleeps.
        """
        if self.load(self.sq_off["flags"]) & uapi.IORING_SQ_NEED_WAKEUP:
            return 0
        return self.submit(self.sq_entries)

    def put_sq_thread_to_sleep(self) -> None:
        """Put the SQPOLL thread to sleep, as after sq_thread_idle.

        It raises the flag first and then loads the tail again, with a full barrier in between; our side
        stores the tail first and then loads the flag, with a full barrier in between. So one of the two sees
        what the other did.
        """
        self.set_flag(uapi.IORING_SQ_NEED_WAKEUP, True)
        if self.load(self.sq_off["tail"]) != self.sq_head:
            self.set_flag(uapi.IORING_SQ_NEED_WAKEUP, False)
            self.run_sq_thread()

    def _wake_sq_thread(self, enter_flags: int) -> None:
        if enter_flags & uapi.IORING_ENTER_SQ_WAKEUP:
            self.set_flag(uapi.IORING_SQ_NEED_WAKEUP, False)
        self.run_sq_thread()

    # -- completion

    def ready(self) -> int:
        """Count the CQEs that were posted and not yet taken."""
        return (self.cq_tail - self.load(self.cq_off["head"])) & U32

    def post(self, user_data: int, res: int, flags: int) -> None:
        """Post a CQE, or put it on the overflow list if there is no room or others wait there.

        The real kernel stores the tail with smp_store_release (io_commit_cqring), after the CQE.
        """
        _require(self.ready() <= self.cq_entries, "cq.khead overtook cq.ktail")
        if self.overflowed or self.ready() == self.cq_entries:
            self.overflowed.append((user_data, res, flags))
            self.set_flag(uapi.IORING_SQ_CQ_OVERFLOW, True)
            return
        offset = self.cq_off["cqes"] + (self.cq_tail & (self.cq_entries - 1)) * self.cqe_size
        try:
            struct.pack_into("=QiI", self.ring, offset, user_data, res, flags)
        except struct.error as error:
            raise ValueError(f"({user_data!r}, {res!r}, {flags!r}) is no CQE: {error}") from None
        if self.cqe_size == 32:
            struct.pack_into("=QQ", self.ring, offset + 16, user_data ^ U32, 32)
        self.cq_tail = (self.cq_tail + 1) & U32
        self.store(self.cq_off["tail"], self.cq_tail)

    def flush_overflow(self) -> None:
        """Move waiting CQEs into the ring as far as there is room, as an enter with GETEVENTS does."""
        waiting, self.overflowed = self.overflowed, deque()
        while waiting and self.ready() < self.cq_entries:
            self.post(*waiting.popleft())
        self.overflowed = waiting
        self.set_flag(uapi.IORING_SQ_CQ_OVERFLOW, bool(waiting))

    def complete_late(self, position: int) -> None:
        """Complete one of the late requests."""
        self.post(*self.late.pop(position))

    # -- setup

    def setup(self, entries: int, params: bytearray) -> int:
        """Execute io_uring_setup; return a descriptor of the null device.

        Args: entries is ignored; params is filled as by the kernel.
        Returns: the descriptor.
        """
        params[:] = uapi.io_uring_params.pack(
            sq_entries=self.sq_entries, cq_entries=self.cq_entries, flags=self.flags, features=self.features,
            sq_off=self.sq_off, cq_off=self.cq_off,
        )  # fmt: skip
        return os.open(os.devnull, os.O_RDWR)


class FakeRing(rings.Ring):
    """A Ring whose kernel is a FakeKernel: all of Ring except its system calls."""

    def __init__(self, kernel: FakeKernel) -> None:
        """Attach to the kernel's memory.

        Args: kernel has not been given to another ring.
        """
        #: The other side.
        self.kernel = kernel
        super().__init__(kernel.sq_entries)

    def _setup(self, entries: int, *_: Any) -> tuple[int, dict[str, Any], list[params.Dropped]]:
        filled = bytearray(uapi.io_uring_params.size)
        fd = self.kernel.setup(entries, filled)
        return fd, uapi.io_uring_params.unpack(filled), []

    def _map(self, params: dict[str, Any], single_mmap: bool = True) -> tuple[Any, Any, Any]:
        return self.kernel.ring, self.kernel.ring, self.kernel.sqes

    def _bind(self) -> None:
        self._call = self.kernel.enter
        self._bare = lambda *arguments: -1, 0, None  # so the short paths of a turn continue with the long one


@contextlib.contextmanager
def fake_ring(**options: Any) -> Iterator[tuple[FakeKernel, rings.Ring]]:
    """Create a FakeKernel and a ring on it, which is closed at the end of the block.

    Args: options as for FakeKernel.
    Returns: the kernel and the ring.
    Lifetime: none; all memory belongs to Python.
    """
    kernel = FakeKernel(**options)
    with FakeRing(kernel) as ring:
        yield kernel, ring
