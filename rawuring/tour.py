# SPDX-License-Identifier: MIT
# pyright: basic
"""Walk once through io_uring, word by word: ``python -m rawuring.tour``.

What it is: ten chapters that use a ring as programs do, and print after each step which words of the shared
memory changed, who changed them, and what orders the change. It runs on this machine's kernel, or on
fakekernel.py if that is unavailable (macOS, Windows, containers that forbid io_uring), and prints the same on
both. Mirrors: nothing; tests/test_nop_tutorial.py is its smallest part as a test.
Must not know: the offset of a word; it is read from io_uring_params.
Invariant: the text depends only on the chapters: no addresses, descriptors or times. Items without a fixed
order are sorted, and the text says so.
Read next: playkernel.py, and queues.py again, beside the output.
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
import textwrap
import time

from . import buffers, command, fakekernel, ops, rings, uapi
from .fakekernel import POLLIN
from .syscalls import Unavailable, Uncopyable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any, Callable

    Value = object
    Words = dict[str, Value]

IDLE_MS = 50  # how long the kernel's thread of chapter 10 waits for work before it sleeps
WIDTH = 100

# word -> (who changes it, what orders the change). The order is the order of printing.
WORDS = {
    "sq.sqe_tail": ("us", "nothing: it is private"),
    "sqe": ("us", "plain, before the release of sq.ktail"),
    "sq.ktail": ("us", "store_release in flush()"),
    "sq.khead": ("kernel", "release in io_commit_sqring"),
    "sq.kflags": ("kernel", "atomic or (up), atomic and (down)"),
    "cqe": ("kernel", "plain, before the release of cq.ktail"),
    "cq.ktail": ("kernel", "release in io_commit_cqring"),
    "cq.khead": ("us", "store_release in fetch()"),
    "cq.koverflow": ("kernel", "plain: a count for people"),
}


# ------------------------------------------------------------------------------------------------------
# Where the tour runs


class RealKernel(Uncopyable):
    """Rings, and a pipe, of this machine's kernel."""

    name = "kernel"

    @contextlib.contextmanager
    def ring(self, entries: int, cq_entries: int = 0, flags: int = 0) -> Iterator[rings.Ring]:
        """Make a ring for a chapter."""
        idle = IDLE_MS if flags & uapi.IORING_SETUP_SQPOLL else None
        with rings.Ring(
            entries, cq_entries=cq_entries or None, flags=flags, sq_thread_idle_ms=idle
        ) as ring:
            yield ring

    @contextlib.contextmanager
    def pipe(self) -> Iterator[int]:
        """Make a pipe; the chapters poll its read end."""
        reader, self._writer = os.pipe()
        try:
            yield reader
        finally:
            os.close(reader)
            os.close(self._writer)

    def write(self, fd: int, data: bytes = b"x") -> None:
        """Write data for the read end."""
        os.write(self._writer, data)

    def read(self, fd: int) -> None:
        """Read the last byte."""
        os.read(fd, 1)

    def fall_asleep(self, ring: rings.Ring) -> None:
        """Wait until the kernel's thread sleeps, as it does after its idle time."""
        deadline = time.monotonic() + 30
        while not ring.sq.flags() & uapi.IORING_SQ_NEED_WAKEUP:
            if time.monotonic() > deadline:
                raise RuntimeError("the SQPOLL thread did not go to sleep within 30 seconds")
            time.sleep(0.001)

    def answer(self, ring: rings.Ring) -> None:
        """Wait for one completion without submitting."""
        deadline = time.monotonic() + 30
        while not ring.cq.ready():
            if time.monotonic() > deadline:
                raise RuntimeError("no completion arrived within 30 seconds")
            time.sleep(0.001)


class PythonKernel(Uncopyable):
    """The same, from fakekernel.py."""

    name = "python"

    @contextlib.contextmanager
    def ring(self, entries: int, cq_entries: int = 0, flags: int = 0) -> Iterator[rings.Ring]:
        """Make a ring for a chapter."""
        options = {"entries": entries, "cq_entries": cq_entries, "flags": flags, "poison": False}
        with fakekernel.fake_ring(**options) as (kernel, ring):
            self._kernel = kernel
            yield ring

    @contextlib.contextmanager
    def pipe(self) -> Iterator[int]:
        """Make a simulated pipe."""
        self._kernel.pipes[3] = bytearray()
        yield 3

    def write(self, fd: int, data: bytes = b"x") -> None:
        """Write data for the read end."""
        self._kernel.feed(fd, data)

    def read(self, fd: int) -> None:
        """Read the last byte."""
        self._kernel.pipes[fd].clear()
        self._kernel.wake(fd, 0)

    def fall_asleep(self, ring: rings.Ring) -> None:
        """Let the thread process the SQ, and then sleep."""
        self._kernel.run_sq_thread()
        self._kernel.put_sq_thread_to_sleep()

    def answer(self, ring: rings.Ring) -> None:
        """Let the thread poll the ring."""
        self._kernel.run_sq_thread()


def choose(wanted: str = "auto") -> tuple[RealKernel | PythonKernel, str]:
    """Choose the kernel.

    Args: wanted is "kernel", "python" or "auto": the machine's kernel if it allows io_uring.
    Returns: the kernel, and a sentence about it.
    Raises: Unavailable for "kernel" if it does not.
    """
    if wanted != "python":
        try:
            rings.Ring(2).close()
        except (Unavailable, OSError) as error:
            if wanted == "kernel":
                raise
            reason = str(error).splitlines()[0]
            return PythonKernel(), f"On the pure-Python kernel, because this machine's refused: {reason}"
        uname = os.uname()
        return RealKernel(), f"On this machine's kernel: {uname.sysname} {uname.release} {uname.machine}."
    return PythonKernel(), "On the pure-Python kernel (fakekernel.py)."


# ------------------------------------------------------------------------------------------------------
# What changed


def snapshot(ring: rings.Ring) -> Words:
    """Read every word that the chapters mention directly from the memory.

    Returns: name -> value; for slots a short description, for slots never written None.
    """
    sq_memory, cq_memory, sqes = ring._mappings
    params = ring.params
    words: Words = {"sq.sqe_tail": ring.sq.sqe_tail & rings.U32}
    size = ring.sq.sqe_size
    for i in range(params["sq_entries"]):
        words[f"sqe[{i}]"] = describe_sqe(bytes(sqes[i * size : i * size + 64]))
    for name, offset in (("ktail", "tail"), ("khead", "head"), ("kflags", "flags")):
        words[f"sq.{name}"] = _u32(sq_memory, params["sq_off"][offset])
    for i in range(params["cq_entries"]):
        start = params["cq_off"]["cqes"] + i * ring.cq.cqe_size
        words[f"cqe[{i}]"] = describe_cqe(bytes(cq_memory[start : start + 16]))
    for name, offset in (("ktail", "tail"), ("khead", "head"), ("koverflow", "overflow")):
        words[f"cq.{name}"] = _u32(cq_memory, params["cq_off"][offset])
    return words


def _u32(memory: Any, offset: int) -> int:
    value: int = struct.unpack("=I", bytes(memory[offset : offset + 4]))[0]
    return value


def describe_sqe(image: bytes) -> str | None:
    """Describe the request of an SQE in a few words.

    Args: image is its first 64 bytes.
    Returns: None for an SQE of zeros.
    """
    if not any(image):
        return None
    sqe = uapi.io_uring_sqe.unpack(image)
    parts = [uapi.name_of("IORING_OP_", sqe["opcode"]).replace("IORING_OP_", "")]
    parts += [name.replace("IOSQE_", "") for name in uapi.names_of_flags("IOSQE_", sqe["flags"])]
    if sqe["opcode"] == uapi.IORING_OP_POLL_REMOVE:
        parts.append(f"target={sqe['addr']}")
    if sqe["opcode"] == uapi.IORING_OP_READ:
        parts.append(f"len={sqe['len']}")
    return " ".join([*parts, f"user_data={sqe['user_data']}"])


def describe_cqe(image: bytes) -> str | None:
    """Describe a CQE in a few words.

    Args: image is its first 16 bytes.
    Returns: None for a CQE of zeros.
    """
    if not any(image):
        return None
    user_data, res, flags = struct.unpack("=QiI", image)
    return f"user_data={user_data} res={_res(res)} flags={flags}"


def _res(res: int) -> str:
    import errno

    if res < 0:
        return f"-{errno.errorcode.get(-res, -res)}"
    # Chapter 9 requests only POLLIN; Linux 5.10 reports related bits as well.
    return "POLLIN" if res & POLLIN else str(res)


def changes(before: Words, after: Words, either_order: bool = False) -> list[str]:
    """List the changes between two snapshots, one line for each word.

    Args: either_order sorts the CQEs, whose order the kernel does not guarantee.
    Returns: lines without line ends.
    """
    changed = {name: value for name, value in after.items() if before.get(name) != value}
    if either_order:
        slots = [name for name in changed if name.startswith("cqe[")]
        changed.update(zip(slots, sorted((changed[name] for name in slots), key=str)))
    lines = []
    for kind, (who, order) in WORDS.items():
        for name, value in changed.items():
            if name.partition("[")[0] == kind:
                lines.append(_line(name, before.get(name), value, who, order))
    return lines or ["    (no word changed)"]


def _line(name: str, old: Value, new: Value, who: str, order: str) -> str:
    if name == "sq.kflags":
        old, new = _flags(old), _flags(new)
    change = str(new) if name.endswith("]") else f"{old} -> {new}"
    return f"    {name:<12} {change:<43} {who:<6} {order}"


def _flags(value: Value) -> str:
    assert isinstance(value, int)
    names = [name.replace("IORING_SQ_", "") for name in uapi.names_of_flags("IORING_SQ_", value)]
    return "|".join(names) or "0"


# ------------------------------------------------------------------------------------------------------
# The guide


class Guide(Uncopyable):
    """Prints chapters and steps, and the changes of the ring after each."""

    def __init__(self, kernel: RealKernel | PythonKernel, write: Callable[[str], object]) -> None:
        """Take the kernel for the chapters, and the function that writes text."""
        self.kernel = kernel
        self._write = write
        self._ring: rings.Ring | None = None
        self._before: Words = {}
        self._step = self._chapter = 0

    def chapter(self, number: int, title: str, text: str) -> None:
        """Begin a chapter."""
        self._chapter, self._step = number, 0
        self._write(f"\n{number}. {title}\n{'=' * (len(title) + 3)}\n")
        self.say(text)

    def look_at(self, ring: rings.Ring) -> None:
        """Take the ring of a chapter; its present contents do not count as changes."""
        self._ring = ring
        self._before = snapshot(ring)
        self._before["sq.kflags"] = 0  # a kernel thread may be asleep already; the steps begin awake

    def say(self, text: str) -> None:
        """Print a paragraph."""
        self._write(textwrap.fill(" ".join(text.split()), WIDTH) + "\n")

    def step(self, title: str, text: str = "", either_order: bool = False) -> None:
        """Print the changes since the last step, and their explanation."""
        assert self._ring is not None
        self._step += 1
        after = snapshot(self._ring)
        self._write(f"\n{self._chapter}.{self._step} {title}\n")
        for line in changes(self._before, after, either_order):
            self._write(line.rstrip() + "\n")
        if text:
            self.say(text)
        self._before = after


def setup_and_mmap(guide: Guide) -> None:
    """Chapter 1."""
    guide.chapter(1, "Setup and mmap", """
        io_uring_setup(2, params) makes a ring of two SQEs and fills params: the number of entries of
        each queue, and the BYTE OFFSET of each word in the mapping. The offsets are not the
        values. Two calls of mmap on the new descriptor map the memory: one for the words of both
        queues, the CQEs and the index array, one for the SQEs.""")  # fmt: skip
    with guide.kernel.ring(2) as ring:
        params, sq_memory = ring.params, ring._mappings[0]
        mask = _u32(sq_memory, params["sq_off"]["ring_mask"])
        guide.say(f"""params.sq_entries is {params['sq_entries']} and params.cq_entries
            {params['cq_entries']}: an SQE slot is free again long before its completion arrives, so more
            requests can be in flight than the SQ has slots, and the CQ is twice as large. The mask, read
            FROM the mapping at params.sq_off.ring_mask, is {mask}. Every index starts at zero.""")
        guide.look_at(ring)
        array = [_u32(sq_memory, params["sq_off"]["array"] + 4 * i) for i in range(params["sq_entries"])]
        guide.say(f"""The index array maps each place in the queue to an SQE slot, for programs that fill
            slots in one order and submit them in another. We filled it once, with {array}, and never
            access it again. From Linux 6.6 on it can be omitted (IORING_SETUP_NO_SQARRAY); python
            -m rawuring.layout draws both.""")
        guide.step("The ring is mapped, and no word has changed yet.")


def one_nop(guide: Guide) -> None:
    """Chapter 2."""
    guide.chapter(2, "One NOP", """
        A submission has four steps: take a slot, fill it, publish, enter. The third makes it visible to the
        kernel, which reads it in the fourth.""")  # fmt: skip
    with guide.kernel.ring(2) as ring:
        guide.look_at(ring)
        sqe = ring.get_sqe()
        guide.step("Take a slot: ring.get_sqe()", "A private counter moved. No shared word did.")
        ops.prep_nop(sqe, user_data=11)
        guide.step("Fill it: ops.prep_nop(sqe, user_data=11)", """
            All 64 bytes, in one write. Nothing remains of the slot's previous request.""")
        ring.sq.flush()
        guide.step("Publish: ring.sq.flush()", """
            One store covers every filled slot. It is a release: a reader that sees the new tail sees the
            SQEs. From here until sq.khead has passed it, the slot belongs to the kernel.""")
        ring.submit()
        guide.step("Enter: ring.submit(), which calls io_uring_enter(fd, 1, 0, 0)", """
            One SQE to submit, no CQE to wait for, no flags. The kernel loaded the SQ's tail (acquire), copied
            the SQE, did nothing, as requested, wrote a CQE and moved the CQ's tail past it (release). At the
            end of the batch it moved the SQ's head past all SQEs consumed (release): our slot is free again.
            user_data is returned unchanged: only removals and cancellations compare it. res is 0, as for
            any successful call that has nothing to count.""")
        ring.reap()
        guide.step("Reap: ring.reap()", """
            We loaded cq.ktail (acquire), copied the CQE, and only then moved cq.khead (release): from
            that store on the kernel may overwrite the CQE. All four indices have moved by one. Head and tail
            of each queue are equal again: it is empty.""")


def one_read(guide: Guide) -> None:
    """Chapter 3."""
    guide.chapter(3, "One read", """
        A request with memory. The SQE contains a descriptor, an ADDRESS, a length and an offset; the
        kernel writes to that address when it executes the request. The pipe is empty, so that will
        be later.""")  # fmt: skip
    with guide.kernel.ring(2) as ring, guide.kernel.pipe() as fd:
        memory = buffers.allocate(16)
        target = buffers.pin(memory, writable=True)
        guide.look_at(ring)
        ops.prep_read(ring.get_sqe(), fd, target.address, target.nbytes, -1, user_data=12)
        ring.submit()
        guide.step("Submit: ops.prep_read(sqe, fd, target.address, 16, -1, user_data=12)", """
            The kernel has copied the SQE, and its slot is free. But there is no CQE yet: the request, with
            the address in it, is now in the kernel. If Python freed the buffer here, the kernel would
            overwrite the next user of that memory. So the rule is not "until submit returns" but "until the
            final CQE", and inflight.py is the table that follows it.""")
        guide.kernel.write(fd, b"io_uring")
        ring.submit_and_wait(1)
        guide.step("Another program writes 8 bytes into the pipe", f"""
            res is the value that read(2) would have returned: 8, less than the 16 requested. The buffer now
            begins with {bytes(memory[:8])!r}. An error would be a negative errno, such as -EBADF, and
            not -1 with a separate errno.""")
        ring.reap()
        guide.step("ring.reap(): only now is the buffer ours again.")


def a_batch(guide: Guide) -> None:
    """Chapter 4."""
    guide.chapter(4, "A batch", """
        Three requests cost one store of the tail, one system call, one load of the CQ's tail and one store of
        its head. This is why io_uring is fast; a single request per call is not.""")  # fmt: skip
    with guide.kernel.ring(4) as ring:
        guide.look_at(ring)
        for user_data in (21, 22, 23):
            ops.prep_nop(ring.get_sqe(), user_data=user_data)
        guide.step("Fill three slots.", "The kernel does not see this: sq.ktail has not moved.")
        ring.submit()
        guide.step("ring.submit()", """
            sq.ktail moved once, by three. These three completed in order, because each was done at
            once. This order is not guaranteed: user_data, not the order, identifies a completion.""")
        ring.reap()
        guide.step("ring.reap() returns three tuples.")


def wrap_around(guide: Guide) -> None:
    """Chapter 5."""
    guide.chapter(5, "Wrap-around", """
        Indices are never reset. They run free, through 2**32 back to 0, and are masked only to find a slot:
        index & ring_mask. So the number of entries is always (tail - head) mod 2**32: 0 in an empty ring, the
        number of slots in a full one.""")  # fmt: skip
    with guide.kernel.ring(2) as ring:
        for user_data in (31, 32, 33):
            ops.prep_nop(ring.get_sqe(), user_data=user_data)
            ring.submit()
        ring.reap()
        guide.look_at(ring)
        guide.say("""A new ring, with 2 slots in the SQ and 4 in the CQ, which has already executed three
            NOPs: all four indices are 3.""")
        ops.prep_nop(ring.get_sqe(), user_data=34)
        ops.prep_nop(ring.get_sqe(), user_data=35)
        guide.step("Fill two more.", "Index 3 is slot 3 & 1 = 1, index 4 is slot 4 & 1 = 0: a wrap-around.")
        ring.submit()
        guide.step("ring.submit()", "CQEs 3 and 4 are in slots 3 & 3 = 3 and 4 & 3 = 0.")
        full = ""
        ring.get_sqe()
        ring.get_sqe()
        try:
            ring.get_sqe()
        except rings.SubmissionQueueFull:
            full = "SubmissionQueueFull"
        guide.step("Take two slots, and a third", f"""
            The third attempt raised {full}: (sqe_tail - sq.khead) is already 2. If we filled a slot
            now, we would overwrite an SQE that the kernel has not read.""")
        ring.discard()
        guide.step("ring.discard()", "Slots that were not published can be returned.")


def overflow(guide: Guide) -> None:
    """Chapter 6."""
    guide.chapter(6, "Overflow", """
        A new ring with two slots in each queue, and four completions. From 5.5 (IORING_FEAT_NODROP)
        nothing is lost: the kernel keeps completions that do not fit on an internal list, and from 5.8 on
        raises a flag. The flag is in the SQ's flags word, because the CQ had no flags word that the
        kernel writes; it is not a typo in the header.""")  # fmt: skip
    with guide.kernel.ring(2, cq_entries=2) as ring:
        guide.look_at(ring)
        for user_data in (41, 42):
            ops.prep_nop(ring.get_sqe(), user_data=user_data)
        ring.submit()
        guide.step("Two NOPs: the CQ is full.")
        for user_data in (43, 44):
            ops.prep_nop(ring.get_sqe(), user_data=user_data)
        ring.submit()
        guide.step("Two more", """
            The SQEs were consumed and executed, but cq.ktail did not move: its distance to cq.khead is 2,
            the number of slots. CQ_OVERFLOW reports this. cq.koverflow stays 0: it counts what is lost.""")
        ring.cq.fetch()
        guide.step("Copy two CQEs out: ring.cq.fetch()", """
            There is room again, but the kernel does not notice a store. A program that only watched
            cq.ktail, without entering the kernel, would now wait forever.""")
        ring.reap()
        guide.step("ring.reap() sees the flag and enters with IORING_ENTER_GETEVENTS", """
            In that call the kernel moved the waiting CQEs into the ring and lowered the flag.""")


def linked_pair(guide: Guide) -> None:
    """Chapter 7."""
    guide.chapter(7, "A linked pair", """
        IOSQE_IO_LINK makes the next SQE wait for this one, and be cancelled if this one fails. Requests
        that are not linked run in any order.""")  # fmt: skip
    with guide.kernel.ring(4) as ring:
        guide.look_at(ring)
        ops.prep_nop(ring.get_sqe(), user_data=51, flags=uapi.IOSQE_IO_LINK)
        ops.prep_nop(ring.get_sqe(), user_data=52)
        ring.submit_and_wait(2)
        guide.step("Two NOPs, linked", "51 succeeded, so 52 ran, after 51.")
        ring.reap()
        guide.step("ring.reap()")
        ops.prep_poll_remove(ring.get_sqe(), 999, user_data=53, flags=uapi.IOSQE_IO_LINK)
        ops.prep_nop(ring.get_sqe(), user_data=54)
        ring.submit_and_wait(2)
        guide.step("The removal of a poll that does not exist, linked to a NOP", """
            53 failed with -ENOENT, so 54 was not run: -ECANCELED. Both have a CQE: each SQE
            gets at least one (unless IOSQE_CQE_SKIP_SUCCESS suppresses it on success). A read
            that returns less than requested breaks a link as well.""")
        ring.reap()


def poll_and_removal(guide: Guide) -> None:
    """Chapter 8."""
    guide.chapter(8, "A poll", """
        POLL_ADD completes when a descriptor is ready. fdmon.py and QEMU's
        util/fdmon-io_uring.c are based on it. It completes once: for the next event, arm
        it again.""")  # fmt: skip
    with guide.kernel.ring(4) as ring, guide.kernel.pipe() as fd:
        guide.look_at(ring)
        ops.prep_poll_add(ring.get_sqe(), fd, POLLIN, user_data=61)
        ring.submit()
        guide.step("A poll for POLLIN on an empty pipe", """
            As with the read: the SQE is consumed, its slot is free, and there is no CQE yet.""")
        guide.kernel.write(fd)
        ring.submit_and_wait(1)
        guide.step("Another program writes a byte", "res is a mask of the ready events, as from poll(2).")
        ring.reap()
        guide.kernel.read(fd)
        guide.step("ring.reap(); the byte is read. The poll is over: it would not report a second byte.")


def removal_race(guide: Guide) -> None:
    """Chapter 9."""
    guide.chapter(9, "The removal race", """
        POLL_REMOVE names its target by user_data, not by descriptor. Between our decision to remove and the
        kernel's execution of it, the poll may complete. So a program must always be
        prepared for both results.""")  # fmt: skip
    with guide.kernel.ring(4) as ring, guide.kernel.pipe() as fd:
        guide.look_at(ring)
        ops.prep_poll_add(ring.get_sqe(), fd, POLLIN, user_data=71)
        ring.submit()
        guide.step("Arm a poll, user_data 71.")
        ops.prep_poll_remove(ring.get_sqe(), 71, user_data=72)
        ring.submit_and_wait(2)
        guide.step("Remove it in time: target 71, user_data 72", """
            Two CQEs. Their order differs between kernels: they are shown sorted, and the
            slots may be the other way round. The removal's res 0 means that the poll was found; the
            poll itself completes with -ECANCELED. Only with that CQE is it over.""", either_order=True)
        ring.reap()
        ops.prep_poll_add(ring.get_sqe(), fd, POLLIN, user_data=73)
        ring.submit()
        guide.step("Reap; arm another poll, user_data 73.")
        guide.kernel.write(fd)
        ring.submit_and_wait(1)
        guide.step("This time a byte arrives first", "The CQE is posted, but not reaped yet.")
        ops.prep_poll_remove(ring.get_sqe(), 73, user_data=74)
        ring.submit_and_wait(2)
        guide.step("Remove it too late", """
            -ENOENT: the poll no longer exists (or -EALREADY, on a ring whose owner has to enter before
            completions are posted: DEFER_TASKRUN). The completion of 73 is in the ring, and will be reaped
            after the program has removed 73. If 73 were the address of a handler that is freed now,
            reaping would use freed memory; if it were the number of the descriptor, and
            another file had that number by now, the wrong handler would run. So fdmon.py uses tokens
            that are never reused (inflight.py), and releases a handler only with its CQE.""")
        ring.reap()


def sqpoll(guide: Guide) -> None:
    """Chapter 10."""
    guide.chapter(10, "SQPOLL's wake-up", """
        With IORING_SETUP_SQPOLL a kernel thread polls sq.ktail, and no call is needed, until the thread
        has been idle for a while. Then it raises NEED_WAKEUP and sleeps.""")  # fmt: skip
    with guide.kernel.ring(4, flags=uapi.IORING_SETUP_SQPOLL) as ring:
        guide.look_at(ring)
        ops.prep_nop(ring.get_sqe(), user_data=81)
        ring.submit()
        guide.kernel.answer(ring)
        guide.kernel.fall_asleep(ring)
        guide.step("A NOP, and then nothing for a while", "The thread executed it, and now sleeps.")
        ring.reap()
        ops.prep_nop(ring.get_sqe(), user_data=82)
        ring.sq.flush()
        guide.step("Reap; fill a slot and publish it, no more", """
            sq.khead does not follow: the thread sleeps. A program that stopped here would wait forever. We
            must load sq.kflags AFTER the store of sq.ktail. A release and an acquire do not order a
            store before a later load, even on x86: the CPU may keep the store in its store buffer and load
            the old flag, while the thread raises the flag and loads the old tail. Each would miss the
            other's store. So each side has a full fence between the two (barriers.full_fence here, a full
            barrier in io_sq_thread there). Everywhere else acquire and release suffice.""")
        ring.submit()
        guide.kernel.answer(ring)
        guide.kernel.fall_asleep(ring)
        guide.step("ring.submit(): fence, load, enter with IORING_ENTER_SQ_WAKEUP", """
            The flag was cleared, the thread executed the request, and then went to sleep again,
            so the flag shows no change.""")
        ring.reap()


CHAPTERS = (
    setup_and_mmap,
    one_nop,
    one_read,
    a_batch,
    wrap_around,
    overflow,
    linked_pair,
    poll_and_removal,
    removal_race,
    sqpoll,
)

LEGEND = """
io_uring is two queues in memory that a program shares with the kernel. We write requests into the submission
queue (SQ): each is a submission queue entry (SQE) of 64 bytes. The kernel writes completions into the
completion queue (CQ): each is a completion queue entry (CQE) of 16 bytes, with the user_data of its request
(a number of our choice), the result res, and flags.

Each queue is a ring: an array whose slots are reused in turn. The producer of entries moves its tail, the
consumer moves its head. So each of the four indices has one writer, and no lock is needed.

A step is followed by one line for each word (or slot) of the ring that it changed:

    name         old -> new, or the slot's contents now      by     what orders the change for the other side

The lines have a fixed order, which is not the order in time: our writes to the SQ, the kernel's writes, our
reads from the CQ. sqe[i] and cqe[i] are slots: i is an index & mask. A k marks words that both sides see,
whichever side writes them. Each release has a partner on the other side, which ensures that earlier writes
are seen:

    word                 released by               partner
    sq.ktail             us, flush()               the kernel's acquire, io_sqring_entries
    sq.khead             the kernel                our acquire, pending()
    cq.ktail             the kernel                our acquire, fetch()
    cq.khead             us, fetch()               a branch on it in the kernel's io_get_cqe, before it writes
    sq.kflags            (an atomic or)            none for CQ_OVERFLOW: we enter; NEED_WAKEUP: see chapter 10

A release means: a reader that sees this store sees everything stored before it. An acquire means: no access
after this load happens before it. The names are functions of queues.py and of Linux's io_uring.c.
"""


def run(
    kernel: RealKernel | PythonKernel, write: Callable[[str], object], chapters: Sequence[int] = ()
) -> None:
    """Walk through the chapters.

    Args: write takes text; chapters are numbers from 1, all by default.
    Raises: Unavailable or OSError if the kernel refuses a chapter's requirement.
    """
    parts: list[str] = []
    guide = Guide(kernel, parts.append)
    write(LEGEND)
    for number, chapter in enumerate(CHAPTERS, 1):
        if chapters and number not in chapters:
            continue
        parts.clear()
        try:
            chapter(guide)
        except OSError as error:
            # SQPOLL needs a privilege before 5.13. The pure-Python kernel can always show it.
            if chapter is not sqpoll:
                raise
            parts[:] = [f"\n(on the pure-Python kernel, because: {str(error).splitlines()[0]})\n"]
            guide.kernel = PythonKernel()
            chapter(guide)
        write("".join(parts))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tour.

    Args: arguments are the command line's by default.
    Returns: the exit code: 1 if the requested kernel is unavailable.
    """
    import argparse

    parser = argparse.ArgumentParser(
        prog="python -m rawuring.tour",
        description="Run a ring step by step, and print each word that changes, and who changed it.",
    )
    parser.add_argument(
        "--on", choices=("auto", "kernel", "python"), default="auto",
        help="this machine's kernel, the pure-Python one, or the first that works (default)",
    )  # fmt: skip
    parser.add_argument(
        "chapter", nargs="*", type=int, help=f"only these (1 to {len(CHAPTERS)})"
    )
    options = parser.parse_args(arguments)
    if not set(options.chapter) <= set(range(1, len(CHAPTERS) + 1)):
        parser.error(f"chapters are numbered from 1 to {len(CHAPTERS)}")
    try:
        kernel, sentence = choose(options.on)
    except Unavailable as error:
        print(f"{error}", file=sys.stderr)
        return 1
    print(sentence)
    run(kernel, sys.stdout.write, options.chapter)
    return 0


if __name__ == "__main__":
    command.run(main)
