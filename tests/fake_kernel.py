# SPDX-License-Identifier: MIT
"""The other side of the ring, in Python: a kernel over two bytearrays.

It consumes SQEs and posts CQEs as Linux does, and refuses what would corrupt a real ring. Tests decide when
things complete: at once, late (in any order), or never. It is itself verified: the scenarios of
test_rings.py run over it and over the real kernel.

    who moves what:   we read sq.ktail and cq.khead, and write sq.khead and cq.ktail
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections import deque
from collections.abc import Iterator

from rawuring import rings, syscalls, uapi

U32 = 0xFFFFFFFF
POISON = 0xEE  # what a consumed slot is filled with: an SQE that still shows it was not written whole
FEATURES = uapi.IORING_FEAT_SINGLE_MMAP | uapi.IORING_FEAT_NODROP | uapi.IORING_FEAT_EXT_ARG


class Memory(bytearray):
    """Memory that can be closed like an mmap; an exported bytearray refuses to be resized."""

    def close(self) -> None:
        self.clear()


class FakeKernel:
    """One ring, seen from the kernel."""

    def __init__(
        self, entries: int = 8, cq_entries: int = 0, flags: int = 0, sq_start: int = 0, cq_start: int = 0,
        features: int = FEATURES,
    ) -> None:  # fmt: skip
        """Lay out the memory; the indices may start anywhere."""
        self.sq_entries = 1 << (entries - 1).bit_length()
        self.cq_entries = 1 << ((cq_entries or 2 * self.sq_entries) - 1).bit_length()
        self.flags, self.features = flags, features
        self.cqe_size = 32 if flags & uapi.IORING_SETUP_CQE32 else 16
        self.sqe_size = 128 if flags & uapi.IORING_SETUP_SQE128 else 64
        self.no_array = bool(flags & uapi.IORING_SETUP_NO_SQARRAY)
        # Spaced as on no real kernel, so that nobody can rely on where the words stand.
        self.sq_off = {"head": 4, "tail": 64, "ring_mask": 24, "ring_entries": 12, "flags": 68, "dropped": 72}
        self.cq_off = {"head": 80, "tail": 128, "ring_mask": 96, "ring_entries": 84, "overflow": 88}
        self.cq_off["cqes"] = 192
        array = 192 + self.cq_entries * self.cqe_size
        self.sq_off["array"] = 0 if self.no_array else array
        self.ring = Memory(array + 4 * self.sq_entries)
        self.sqes = Memory([POISON] * (self.sq_entries * self.sqe_size))
        self.sq_head = self.sq_tail_seen = sq_start
        self.cq_tail = cq_start
        for offset, value in (
            (self.sq_off["head"], sq_start), (self.sq_off["tail"], sq_start),
            (self.sq_off["ring_mask"], self.sq_entries - 1), (self.sq_off["ring_entries"], self.sq_entries),
            (self.cq_off["head"], cq_start), (self.cq_off["tail"], cq_start),
            (self.cq_off["ring_mask"], self.cq_entries - 1), (self.cq_off["ring_entries"], self.cq_entries),
        ):  # fmt: skip
            self.store(offset, value)
        self.overflowed: deque[tuple[int, int, int]] = deque()
        #: Requests that complete when the test says so, or when somebody waits for them.
        self.late: list[tuple[int, int, int]] = []
        #: Opcodes whose requests go to ``late``.
        self.slow_ops: set[int] = set()
        #: How many SQEs the coming enters consume at most; empty means no limit.
        self.at_most: deque[int] = deque()
        #: Errnos that the coming enters fail with, 0 for none.
        self.failures: deque[int] = deque()
        self.enters = 0

    # -- shared words

    def load(self, offset: int) -> int:
        return struct.unpack_from("=I", self.ring, offset)[0]

    def store(self, offset: int, value: int) -> None:
        struct.pack_into("=I", self.ring, offset, value & U32)

    def set_flag(self, bit: int, on: bool) -> None:
        old = self.load(self.sq_off["flags"])
        self.store(self.sq_off["flags"], old | bit if on else old & ~bit)

    # -- submission

    def enter(self, fd: int, to_submit: int, min_complete: int, flags: int, timeout: object = None) -> int:
        """Answer io_uring_enter."""
        self.enters += 1
        code = self.failures.popleft() if self.failures else 0
        if code:
            raise OSError(code, os.strerror(code))
        submitted = self.submit(to_submit)
        if submitted < to_submit and submitted != self.published_before:
            return submitted
        if flags & uapi.IORING_ENTER_GETEVENTS:
            self.flush_overflow()
            while self.ready() < min(min_complete, self.cq_entries):
                if not self.late:
                    assert timeout is not None, "this wait would never end"
                    timeout.deadline_ns = 0
                    return submitted
                self.complete_late(0)
                self.flush_overflow()
        return submitted

    def submit(self, to_submit: int) -> int:
        tail = self.load(self.sq_off["tail"])
        moved = (tail - self.sq_tail_seen) & U32
        queued = (tail - self.sq_head) & U32
        assert moved <= self.sq_entries or queued <= self.sq_entries, "the tail went backwards"
        assert queued <= self.sq_entries, f"{queued} entries published on a ring of {self.sq_entries}"
        self.sq_tail_seen = tail
        self.published_before = queued
        count = min(to_submit, queued, self.at_most.popleft() if self.at_most else queued)
        done = 0
        while done < count:
            done += 1
            if not self.consume_one() and not self.flags & uapi.IORING_SETUP_SUBMIT_ALL:
                break
        self.store(self.sq_off["head"], self.sq_head)
        return done

    def consume_one(self) -> bool:
        """Take one SQE; return False when it is bad, which ends the batch."""
        index = self.sq_head & (self.sq_entries - 1)
        self.sq_head = (self.sq_head + 1) & U32
        if not self.no_array:
            index = self.load(self.sq_off["array"] + 4 * index)
            if index >= self.sq_entries:
                self.store(self.sq_off["dropped"], self.load(self.sq_off["dropped"]) + 1)
                return True
        start = index * self.sqe_size
        sqe = bytes(self.sqes[start : start + self.sqe_size])
        assert POISON not in sqe[56:64], "an SQE was published that was not written whole"
        self.sqes[start : start + self.sqe_size] = bytes([POISON]) * self.sqe_size
        fields = uapi.io_uring_sqe.unpack(sqe)
        user_data = fields["user_data"]
        if fields["opcode"] >= uapi.IORING_OP_LAST:
            self.post(user_data, -errno.EINVAL, 0)
            return False
        if fields["opcode"] in self.slow_ops:
            self.late.append((user_data, 0, 0))
        else:
            self.post(user_data, 0, 0)
        return True

    # -- completion

    def ready(self) -> int:
        return (self.cq_tail - self.load(self.cq_off["head"])) & U32

    def post(self, user_data: int, res: int, flags: int) -> None:
        """Post a CQE, or put it on the overflow list when there is no room or others wait there."""
        assert self.ready() <= self.cq_entries, "cq.khead overtook cq.ktail"
        if self.overflowed or self.ready() == self.cq_entries:
            self.overflowed.append((user_data, res, flags))
            self.set_flag(uapi.IORING_SQ_CQ_OVERFLOW, True)
            return
        offset = self.cq_off["cqes"] + (self.cq_tail & (self.cq_entries - 1)) * self.cqe_size
        struct.pack_into("=QiI", self.ring, offset, user_data, res, flags)
        if self.cqe_size == 32:
            struct.pack_into("=QQ", self.ring, offset + 16, user_data ^ U32, 32)
        self.cq_tail = (self.cq_tail + 1) & U32
        self.store(self.cq_off["tail"], self.cq_tail)

    def flush_overflow(self) -> None:
        waiting, self.overflowed = self.overflowed, deque()
        while waiting and self.ready() < self.cq_entries:
            self.post(*waiting.popleft())
        self.overflowed = waiting
        self.set_flag(uapi.IORING_SQ_CQ_OVERFLOW, bool(waiting))

    def complete_late(self, position: int) -> None:
        """Let one of the slow requests complete."""
        self.post(*self.late.pop(position))

    # -- setup

    def setup(self, entries: int, params: bytearray) -> int:
        """Answer io_uring_setup with a descriptor of /dev/null."""
        params[:] = uapi.io_uring_params.pack(
            sq_entries=self.sq_entries, cq_entries=self.cq_entries, flags=self.flags, features=self.features,
            sq_off=self.sq_off, cq_off=self.cq_off,
        )  # fmt: skip
        return os.open(os.devnull, os.O_RDWR)


@contextlib.contextmanager
def fake_ring(**options: int) -> Iterator[tuple[FakeKernel, rings.Ring]]:
    """Make a Ring whose system calls go to a FakeKernel."""
    kernel = FakeKernel(**options)
    saved = syscalls.io_uring_setup, syscalls.enter, rings.map_rings
    syscalls.io_uring_setup, syscalls.enter = kernel.setup, kernel.enter
    rings.map_rings = lambda fd, params, single_mmap=True: (kernel.ring, kernel.ring, kernel.sqes)
    try:
        with rings.Ring(kernel.sq_entries) as ring:
            yield kernel, ring
    finally:
        syscalls.io_uring_setup, syscalls.enter, rings.map_rings = saved
