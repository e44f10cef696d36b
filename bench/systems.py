# SPDX-License-Identifier: MIT
"""The Python systems that run.py compares, one per process.

    python3 bench/systems.py WORKLOAD SYSTEM ARGUMENT...

Prints "ready" (echo servers: "port N"), then one number, nanoseconds per operation, for each line on standard
input. An unavailable system raises Missing: one line, and exit code 3. The C systems are in oracle.c.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import select
import selectors
import socket
import statistics
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import steps
from rounds import (
    KEEP,
    SYSTEMS,
    Missing,
    Round,
    clock,
    compiled,
    end_with_parent,
    fastest,
    median_of,
    our_ring,
    raise_nofile,
    serve_rounds,
    system,
)

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
BLOCK = 4096
MESSAGE = b"x" * 100


# ------------------------------------------------------------------------------------------------------
# Batches: NOPs, and polls of a ready eventfd


def our_batch(what: str) -> tuple[Any, tuple[int, ...]]:
    from rawuring import ops

    if what == "nop":
        return ops.prep_nop, ()
    return ops.prep_poll_add, (ready_eventfd(), select.POLLIN)


def ready_eventfd() -> int:
    if not hasattr(os, "eventfd"):
        raise Missing("os.eventfd needs Python 3.10")
    return os.eventfd(1)


def one_turn(ring: Any) -> Callable[[int], list[Any]]:
    """Return a function that submits, waits and reaps; an older package (--against) lacks the one call."""

    def two_calls(wait_nr: int) -> list[Any]:
        ring.submit_and_wait(wait_nr)
        return ring.reap()

    return getattr(ring, "submit_and_reap", two_calls)


def ours_one_by_one(what: str, size: int, repeat: int) -> Round:
    from rawuring import ops

    ring = our_ring()
    turn = one_turn(ring)
    fd, mask = ready_eventfd(), int(select.POLLIN)

    def nops() -> None:
        get_sqe, prep = ring.get_sqe, ops.prep_nop
        for i in range(size):
            prep(get_sqe(), i)
        assert len(turn(size)) == size

    def polls() -> None:
        get_sqe, prep = ring.get_sqe, ops.prep_poll_add
        for i in range(size):
            prep(get_sqe(), fd, mask, i)
        assert len(turn(size)) == size

    return fastest(nops if what == "nop" else polls, size, repeat)


def ours_block(what: str, size: int, repeat: int, wish: int | None = None) -> Round:
    """Queue requests prepared once; for larger batches, reap by column."""
    ring = our_ring(wish=wish)
    turn = one_turn(ring)
    prep, arguments = our_batch(what)
    block = bytearray(64 * size)
    for i in range(size):
        prep(memoryview(block)[64 * i : 64 * i + 64], *arguments, i)
    sqes = bytes(block)
    total = size * (size - 1) // 2
    queue = ring.put if size == 1 else ring.push

    def short() -> None:
        queue(sqes)
        assert len(turn(size)) == size

    def long() -> None:
        ring.push(sqes)
        ring.submit_and_wait(size)
        assert sum(ring.reap_columns().user_data) == total

    return fastest(long if size >= 64 and hasattr(ring, "reap_columns") else short, size, repeat)


def ours_block_plain(what: str, size: int, repeat: int) -> Round:
    return ours_block(what, size, repeat, 0)


def nothing(res: int, flags: int) -> None:
    return None


def all_alike(indices: list[int], res: list[int], flags: list[int]) -> None:
    return None


def ours_in_flight(what: str, size: int, repeat: int, way: str = "") -> Round:
    """Hold requests until their handlers run, in each available way; an older package lacks some."""
    from rawuring import InFlight, ops

    ring = our_ring()
    table = InFlight(ring)
    KEEP.append(table)
    hold, dispatch, get_sqe, turn = table.hold, table.dispatch, ring.get_sqe, ring.submit_and_wait
    handler = None if way == "no handlers" else nothing
    fd, mask = ready_eventfd(), int(select.POLLIN)
    if way.endswith("one call") or way == "block":
        if not hasattr(table, "start_block"):
            raise Missing("this rawuring has no submit_and_dispatch(), or no start_block()")
        whole_turn, start_block = table.submit_and_dispatch, table.start_block

    def by_hand() -> None:
        if what == "nop":
            prep = ops.prep_nop
            for _ in range(size):
                prep(get_sqe(), hold(handler))
        else:
            prep_poll = ops.prep_poll_add
            for _ in range(size):
                prep_poll(get_sqe(), fd, mask, hold(handler))

    def started() -> None:
        start = table.start
        if what == "nop":
            prep = ops.prep_nop
            for _ in range(size):
                start(prep, handler=nothing)
        else:
            prep_poll = ops.prep_poll_add
            for _ in range(size):
                start(prep_poll, fd, mask, handler=nothing)

    def of_a_list() -> None:
        by_hand()
        turn(size)
        assert dispatch(ring.reap()) == (size if handler else 0)

    queue = started if way.startswith("start") else by_hand

    def by_the_table() -> None:
        queue()
        turn(size)
        table.reap()
        assert dispatch() == size

    def in_one_call() -> None:
        queue()
        assert whole_turn(size) == size

    if way == "block":
        prep, arguments = our_batch(what)
        block = ops.Block(size, prep, *arguments)

        def by_column() -> None:
            start_block(block, all_alike)
            assert whole_turn(size) == 1

        return fastest(by_column, size, repeat)
    if way.endswith("one call"):
        return fastest(in_one_call, size, repeat)
    return fastest(of_a_list if way in ("", "no handlers") else by_the_table, size, repeat)


def ctypes_alone(what: str, size: int, repeat: int) -> Round:
    """The minimum of a turn through ctypes: store the tail, call the kernel, store the head.

    All slots were filled once, and no completion is read. A library's work is added to this.
    """
    from rawuring import syscalls, uapi

    ring = our_ring()
    prep, arguments = our_batch(what)
    sq, cq = ring.sq, ring.cq
    for slot in sq.slots:
        prep(slot, *arguments, 1)
    words, tail, head = sq._words, sq._ktail, cq._khead
    call, number, fd, none = syscalls._syscall_enter, syscalls._nr_enter, ring.fileno(), syscalls._NO_SIZE
    flags = uapi.IORING_ENTER_GETEVENTS
    done = 0

    def turn() -> None:
        nonlocal done
        done += size
        words[tail] = done
        assert call(number, fd, size, size, flags, None, none) == size
        words[head] = done

    return fastest(turn, size, repeat)


def one_frame(what: str, size: int, repeat: int) -> Round:
    """A turn of one request in one frame, with local variables, without the cost of structure and safety.

    It checks no thread, counts nothing, detects no overflow and explains no error. No Python code that
    fills a slot and returns the completion can take less.
    """
    from rawuring import rings, syscalls, uapi

    ring = our_ring()
    prep, arguments = our_batch(what)
    sqe = bytearray(64)
    prep(sqe, *arguments, 1)
    sq, cq = ring.sq, ring.cq
    words, sq_tail, cq_tail, cq_head, slots = sq._words, sq._ktail, cq._ktail, cq._khead, sq.slots
    sq_mask, cq_mask, cqes, unpack = sq.ring_mask, cq.ring_mask, cq._cqes, rings._CQE16.unpack_from
    call, number, fd, none = syscalls._syscall_enter, syscalls._nr_enter, ring.fileno(), syscalls._NO_SIZE
    flags = uapi.IORING_ENTER_GETEVENTS
    done = 0

    def turn() -> None:
        nonlocal done
        slots[done & sq_mask][:] = sqe
        words[sq_tail] = done + 1
        assert call(number, fd, 1, 1, flags, None, none) == 1
        assert words[cq_tail] == done + 1
        found = [unpack(cqes, (done & cq_mask) << 4)]
        done += 1
        words[cq_head] = done
        assert len(found) == 1

    return fastest(turn, size, repeat)


def one_frame_checked(what: str, size: int, repeat: int) -> Round:
    """A turn of one request in one frame, with local variables, that checks and counts what Ring does.

    Ring.put() and Ring.submit_and_reap() can save at most the difference to this.
    """
    from _thread import get_ident

    from rawuring import rings, syscalls

    ring = our_ring()
    prep, arguments = our_batch(what)
    sqe = bytearray(64)
    prep(sqe, *arguments, 1)
    sq, cq = ring.sq, ring.cq
    words, sq_tail, sq_head, sq_flags, slots = sq._words, sq._ktail, sq._khead, sq._kflags, sq.slots
    cq_tail, cq_head, unpack, cqes = cq._ktail, cq._khead, rings._CQE16.unpack_from, cq._cqes
    sq_mask, cq_mask, entries, u32 = sq.ring_mask, cq.ring_mask, cq.ring_entries, rings.U32
    call, number, none = syscalls._syscall_enter, syscalls._nr_enter, syscalls._NO_SIZE

    def turn(wait_nr: int = 1) -> None:
        tail = sq.sqe_tail
        if tail >= sq._limit or get_ident() != ring._owner:
            sq._need_room(1)
        slots[tail & sq_mask][:] = sqe
        sq.sqe_tail = tail = tail + 1
        words[sq_tail] = tail & u32
        sq.published = tail
        before = (tail - words[sq_head]) & u32
        assert before and wait_nr >= 0 and not cq.copied
        ring._enters += 1
        submitted = call(number, ring._enter_fd, before, wait_nr, ring._turn_flags, None, none)
        head = cq.head
        count = (words[cq_tail] - head) & u32
        first = head & cq_mask
        assert submitted == before and wait_nr <= count <= entries - first
        found = [unpack(cqes, first << 4)]
        cq.head = head = (head + count) & u32
        words[cq_head] = head
        ring._submitted += submitted
        ring._reaped += count
        assert not words[sq_flags] and len(found) == 1

    return fastest(turn, size, repeat)


def liburing_python(what: str, size: int, repeat: int) -> Round:
    lib = compiled("liburing")
    fd = ready_eventfd()
    ring, cqe = lib.Ring(), lib.Cqe()
    flags = lib.IORING_SETUP_SINGLE_ISSUER | lib.IORING_SETUP_DEFER_TASKRUN
    lib.io_uring_queue_init(512, ring, int(flags))
    get_sqe, prep_nop, prep_poll = lib.io_uring_get_sqe, lib.io_uring_prep_nop, lib.io_uring_prep_poll_add
    follow = lib.io_uring_cqe_iter_next
    mask = int(select.POLLIN)

    def batch() -> None:
        if what == "nop":
            for i in range(size):
                sqe = get_sqe(ring)
                prep_nop(sqe)
                sqe.user_data = i + 1
        else:
            for i in range(size):
                sqe = get_sqe(ring)
                prep_poll(sqe, fd, mask)
                sqe.user_data = i + 1
        lib.io_uring_submit_and_wait(ring, size)
        done = []
        cqes = lib.io_uring_cqe_iter_init(ring)
        while follow(cqes, cqe):
            entry = cqe[0]
            done.append((entry.user_data, entry.res))
        lib.io_uring_cq_advance(ring, len(done))
        assert len(done) == size

    return fastest(batch, size, repeat)


def uring_api_ring() -> Any:
    lib = compiled("uring_api")
    wanted = lib.IORING_SETUP_SINGLE_ISSUER | lib.IORING_SETUP_DEFER_TASKRUN
    ring = lib.Ring(512, wanted, auto_submit=False)
    KEEP.append(ring)
    return ring


def uring_api_handlers(size: int, repeat: int) -> Round:
    """Call a handler for each completion: the binding keeps any object as user_data."""
    ring, fd = uring_api_ring(), ready_eventfd()
    mask = int(select.POLLIN)

    def batch() -> None:
        prepare = ring.prepare_poll
        for _ in range(size):
            prepare(fd, mask, nothing)
        ring.submit()
        done = 0
        while done < size:
            for completion in ring.wait(1.0):
                completion.user_data(completion.res, 0)
                done += 1

    return fastest(batch, size, repeat)


def liburing_handlers(size: int, repeat: int) -> Round:
    """Find a handler by user_data, and call it."""
    lib = compiled("liburing")
    fd = ready_eventfd()
    ring, cqe = lib.Ring(), lib.Cqe()
    lib.io_uring_queue_init(512, ring, int(lib.IORING_SETUP_SINGLE_ISSUER | lib.IORING_SETUP_DEFER_TASKRUN))
    get_sqe, prep_poll, follow = lib.io_uring_get_sqe, lib.io_uring_prep_poll_add, lib.io_uring_cqe_iter_next
    handlers: dict[int, Callable[[int, int], None]] = {}
    mask = int(select.POLLIN)

    def batch() -> None:
        for i in range(1, size + 1):
            sqe = get_sqe(ring)
            prep_poll(sqe, fd, mask)
            sqe.user_data = i
            handlers[i] = nothing
        lib.io_uring_submit_and_wait(ring, size)
        done = 0
        cqes = lib.io_uring_cqe_iter_init(ring)
        while follow(cqes, cqe):
            entry = cqe[0]
            handlers.pop(entry.user_data)(entry.res, entry.flags)
            done += 1
        lib.io_uring_cq_advance(ring, done)
        assert done == size

    return fastest(batch, size, repeat)


def uring_api_poll(size: int, repeat: int) -> Round:
    ring, fd = uring_api_ring(), ready_eventfd()
    mask = int(select.POLLIN)

    def batch() -> None:
        prepare = ring.prepare_poll
        for i in range(size):
            prepare(fd, mask, i)
        ring.submit()
        done = 0
        while done < size:
            for completion in ring.wait(1.0):
                assert completion.res > 0
                done += 1

    return fastest(batch, size, repeat)


for _what in ("nop", "poll"):
    for _name, _make in (
        ("rawuring, block", ours_block),
        ("rawuring, block, plain ring", ours_block_plain),
        ("rawuring, one by one", ours_one_by_one),
        ("rawuring, in flight", ours_in_flight),
        ("ctypes alone, completions unread", ctypes_alone),
        ("one frame of Python, nothing checked", one_frame),
        ("one frame of Python, all checked", one_frame_checked),
        ("liburing (Python)", liburing_python),
    ):
        SYSTEMS[_what, _name] = lambda size, repeat, what=_what, make=_make: make(
            what, int(size), int(repeat)
        )
SYSTEMS["poll", "uring-api"] = lambda size, repeat: uring_api_poll(int(size), int(repeat))
for _way in ("start", "start, one call", "one call", "table.reap", "no handlers", "block"):
    SYSTEMS["poll", f"rawuring, in flight, {_way}"] = lambda size, repeat, way=_way: ours_in_flight(
        "poll", int(size), int(repeat), way
    )
SYSTEMS["poll", "uring-api, handlers"] = lambda size, repeat: uring_api_handlers(int(size), int(repeat))
SYSTEMS["poll", "liburing (Python), handlers"] = lambda size, repeat: liburing_handlers(
    int(size), int(repeat)
)


# ------------------------------------------------------------------------------------------------------
# Selectors: events, changes


def our_selector(strategy: str | None = None) -> Any:
    from rawuring.selector import IoUringSelector

    try:
        return IoUringSelector(strategy, fallback=False)
    except OSError as error:
        raise Missing(str(error)) from None


def sockets(ready: int, of: int) -> list[socket.socket]:
    """Make sockets, the first of which are readable; each takes one descriptor."""
    raise_nofile()
    watched = [socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(of)]
    for sock in watched[:ready]:
        sock.bind("")  # the kernel chooses the name
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x", sock.getsockname())
    KEEP.append(watched)
    return watched


def full_sockets(count: int) -> list[socket.socket]:
    """Make socket objects that are neither readable nor writable; one open file with many descriptors."""
    raise_nofile()
    a, b = socket.socketpair()
    a.setblocking(False)
    try:
        while True:
            a.send(bytes(4096))
    except BlockingIOError:
        watched = [a.dup() for _ in range(count)]
    KEEP.extend([a, b, watched])
    return watched


def events(sel: Any, ready: int, of: int, repeat: int, timeout: float | None) -> Round:
    for sock in sockets(ready, of):
        sel.register(sock, READ)
    KEEP.append(sel)
    assert len(sel.select(timeout)) == ready

    def turns() -> None:
        for _ in range(10):
            sel.select(timeout)

    return fastest(turns, 10 * ready, repeat)


def changes(sel: Any, count: int, repeat: int) -> Round:
    """Change every interest, forth in one turn and back in the next; each time the kernel is told."""
    socks = full_sockets(count)
    for sock in socks:
        sel.register(sock, READ)
    KEEP.append(sel)
    assert not sel.select(0)

    def turns() -> None:
        for sock in socks:
            sel.modify(sock, READ | WRITE)
        assert not sel.select(0)
        for sock in socks:
            sel.modify(sock, READ)
        assert not sel.select(0)

    return fastest(turns, 2 * count, repeat)


def connections(sel: Any, count: int, repeat: int) -> Round:
    """Add sockets, tell the kernel, and remove them."""
    socks = full_sockets(count)
    KEEP.append(sel)

    def turn() -> None:
        for sock in socks:
            sel.register(sock, READ)
        assert not sel.select(0)
        for sock in socks:
            sel.unregister(sock)

    return fastest(turn, count, repeat)


def raw_changes(count: int, repeat: int) -> Round:
    """epoll.modify itself, without a selector."""
    socks = [sock.fileno() for sock in full_sockets(count)]
    epoll = select.epoll()
    for fd in socks:
        epoll.register(fd, select.EPOLLIN)
    KEEP.append(epoll)
    both = select.EPOLLIN | select.EPOLLPRI

    def turns() -> None:
        for fd in socks:
            epoll.modify(fd, both)
        for fd in socks:
            epoll.modify(fd, select.EPOLLIN)

    return fastest(turns, 2 * count, repeat)


SELECTORS: dict[str, Callable[[], Any]] = {
    "EpollSelector": selectors.EpollSelector,
    "rawuring": our_selector,
    "rawuring, epoll_poll": lambda: our_selector("io_uring:epoll_poll"),
    "rawuring, poll_add": lambda: our_selector("io_uring:poll_add"),
}
for _name, _sel in SELECTORS.items():
    SYSTEMS["ready", _name] = lambda ready, of, repeat, make=_sel: events(
        make(), int(ready), int(of), int(repeat), None
    )
    SYSTEMS["ready with timeout", _name] = lambda ready, of, repeat, make=_sel: events(
        make(), int(ready), int(of), int(repeat), 1.0
    )
    SYSTEMS["change", _name] = lambda count, repeat, make=_sel: changes(make(), int(count), int(repeat))
    SYSTEMS["connect", _name] = lambda count, repeat, make=_sel: connections(make(), int(count), int(repeat))
SYSTEMS["change", "select.epoll alone"] = lambda count, repeat: raw_changes(int(count), int(repeat))


@system("ready", "select.epoll alone")
def raw_ready(ready: str, of: str, repeat: str) -> Round:
    epoll = select.epoll()
    for sock in sockets(int(ready), int(of)):
        epoll.register(sock, select.EPOLLIN)
    KEEP.append(epoll)

    def turns() -> None:
        for _ in range(10):
            epoll.poll(-1, int(of))

    return fastest(turns, 10 * int(ready), int(repeat))


# ------------------------------------------------------------------------------------------------------
# Monitors: a wait, and a handler for each event

SECOND_NS = 1_000_000_000


def called(node: Any, mask: int) -> None:
    return None


def handled(sel: Any, ready: int, of: int, repeat: int) -> Round:
    """Do with a selector what a monitor does: its data are handlers."""
    for sock in sockets(ready, of):
        sel.register(sock, READ, called)
    KEEP.append(sel)
    assert len(sel.select(1.0)) == ready

    def turns() -> None:
        for _ in range(10):
            for key, mask in sel.select(1.0):
                key.data(key, mask)

    return fastest(turns, 10 * ready, repeat)


def monitored(strategy: str, ready: int, of: int, repeat: int) -> Round:
    from rawuring import fdmon

    try:
        monitor = fdmon.setup((strategy,))
    except OSError as error:
        raise Missing(str(error)) from None
    for sock in sockets(ready, of):
        monitor.add(sock.fileno(), select.POLLIN, called)
    KEEP.append(monitor)
    wait, dispatch = monitor.wait, monitor.dispatch
    assert dispatch(wait(SECOND_NS)) == ready

    def turns() -> None:
        for _ in range(10):
            assert dispatch(wait(SECOND_NS)) == ready

    return fastest(turns, 10 * ready, repeat)


for _name in ("EpollSelector", "rawuring", "rawuring, poll_add"):
    SYSTEMS["monitor", _name] = lambda ready, of, repeat, make=SELECTORS[_name]: handled(
        make(), int(ready), int(of), int(repeat)
    )
for _name, _strategy in (("rawuring, fdmon", "io_uring"), ("rawuring, fdmon, poll backend", "poll")):
    SYSTEMS["monitor", _name] = lambda ready, of, repeat, strategy=_strategy: monitored(
        strategy, int(ready), int(of), int(repeat)
    )


# ------------------------------------------------------------------------------------------------------
# asyncio


def stock_loop() -> asyncio.AbstractEventLoop:
    return asyncio.SelectorEventLoop(selectors.EpollSelector())


def our_loop() -> asyncio.AbstractEventLoop:
    from rawuring import aio

    our_selector().close()  # raises Missing if io_uring is unavailable
    return aio.new_event_loop()


def uvloop_loop() -> Any:
    return compiled("uvloop").new_event_loop()


LOOPS: dict[str, Callable[[], Any]] = {
    "asyncio": stock_loop,
    "asyncio on rawuring": our_loop,
    "uvloop": uvloop_loop,
}


def callbacks(loop: Any, ready: int, of: int, repeat: int) -> Round:
    """The cost of one add_reader() callback; all descriptors are always ready."""
    count = 0
    turns = 10

    def readable() -> None:
        nonlocal count
        count += 1
        if count >= turns * ready:
            loop.stop()

    for sock in sockets(ready, of):
        loop.add_reader(sock.fileno(), readable)
    KEEP.append(loop)

    def run() -> None:
        nonlocal count
        count = 0
        loop.run_forever()

    return fastest(run, turns * ready, repeat)


def sleeps(loop: Any, usec: int, repeat: int) -> Round:
    KEEP.append(loop)

    async def sleep() -> float:
        took = []
        for _ in range(repeat):
            start = clock()
            await asyncio.sleep(usec / 1e6)
            took.append(clock() - start)
        return statistics.median(took)

    return lambda: loop.run_until_complete(sleep())


for _name, _loop in LOOPS.items():
    SYSTEMS["callback", _name] = lambda ready, of, repeat, make=_loop: callbacks(
        make(), int(ready), int(of), int(repeat)
    )
    SYSTEMS["sleep", _name] = lambda usec, repeat, make=_loop: sleeps(make(), int(usec), int(repeat))


# ------------------------------------------------------------------------------------------------------
# Timers


def waits(sel: Any, usec: int, repeat: int) -> Round:
    sel.register(sockets(0, 1)[0], READ)
    KEEP.append(sel)
    return median_of(lambda: sel.select(usec / 1e6), repeat)


for _name, _sel in (("EpollSelector", selectors.EpollSelector), ("rawuring, selector", our_selector)):
    SYSTEMS["wait", _name] = lambda usec, repeat, make=_sel: waits(make(), int(usec), int(repeat))


@system("wait", "rawuring, ring")
def ring_waits(usec: str, repeat: str) -> Round:
    ring = our_ring(8)
    return median_of(lambda: ring.submit_and_wait(1, int(usec) * 1000), int(repeat))


# ------------------------------------------------------------------------------------------------------
# Random reads of 4 KiB, with a constant number in flight


class File:
    """A file to read at random places."""

    def __init__(self, path: str, direct: str) -> None:
        try:
            self.fd = os.open(path, os.O_RDONLY | (os.O_DIRECT if int(direct) else 0))
        except OSError as error:
            raise Missing(f"O_DIRECT: {error}") from None
        self.blocks = os.fstat(self.fd).st_size // BLOCK
        self.random = random.Random(1)

    def offsets(self, count: int) -> list[int]:
        """Choose places before the clock starts."""
        return [int(x * self.blocks) * BLOCK for x in self.random_floats(count)]

    def random_floats(self, count: int) -> list[float]:
        draw = self.random.random
        return [draw() for _ in range(count)]


def timed_reads(file: File, count: int, run: Callable[[list[int]], int]) -> Round:
    def one_round() -> float:
        offsets = file.offsets(count)
        start = clock()
        done = run(offsets)
        took = clock() - start
        assert done == count * BLOCK, done
        return took / count

    return one_round


def os_preadv() -> Any:
    if not hasattr(os, "preadv"):
        raise Missing("this Python has no os.preadv")
    return os.preadv


@system("read", "os.pread")
def read_pread(path: str, direct: str, depth: str, count: str) -> Round:
    file = File(path, direct)
    import mmap

    memory = mmap.mmap(-1, BLOCK)
    KEEP.append(memory)
    fd, preadv = file.fd, os_preadv()

    def run(offsets: list[int]) -> int:
        return sum([preadv(fd, [memory], offset) for offset in offsets])

    return timed_reads(file, int(count), run)


@system("read", "os.pread in a thread pool")
def read_threads(path: str, direct: str, depth: str, count: str) -> Round:
    import mmap
    from concurrent.futures import ThreadPoolExecutor
    from threading import local

    file = File(path, direct)
    pool = ThreadPoolExecutor(int(depth))
    own = local()
    fd, preadv = file.fd, os_preadv()

    def read(offset: int) -> int:
        try:
            memory = own.memory
        except AttributeError:
            memory = own.memory = mmap.mmap(-1, BLOCK)
        return preadv(fd, [memory], offset)

    def run(offsets: list[int]) -> int:
        return sum(pool.map(read, offsets))

    return timed_reads(file, int(count), run)


@system("read", "aiofiles")
def read_aiofiles(path: str, direct: str, depth: str, count: str) -> Round:
    aiofiles = compiled("aiofiles")
    if int(direct):
        raise Missing("aiofiles has no O_DIRECT")
    file = File(path, direct)
    loop = asyncio.new_event_loop()
    KEEP.append(loop)

    async def worker(offsets: Any) -> int:
        done = 0
        async with aiofiles.open(path, "rb", buffering=0) as opened:
            for offset in offsets:
                await opened.seek(offset)
                done += len(await opened.read(BLOCK))
        return done

    async def run(offsets: list[int]) -> int:
        todo = iter(offsets)
        return sum(await asyncio.gather(*(worker(todo) for _ in range(int(depth)))))

    return timed_reads(file, int(count), lambda offsets: loop.run_until_complete(run(offsets)))


@system("read", "rawuring, one by one")
def read_one_by_one(path: str, direct: str, depth: str, count: str) -> Round:
    from rawuring import buffers, ops, pin

    file = File(path, direct)
    ring, n = our_ring(256), int(depth)
    memory = buffers.allocate(n * BLOCK)
    address = pin(memory, writable=True).address
    KEEP.append(memory)
    fd, prep = file.fd, ops.prep_read

    def run(offsets: list[int]) -> int:
        get_sqe, todo, done, left = ring.get_sqe, iter(offsets), 0, len(offsets)
        for slot in range(n):
            prep(get_sqe(), fd, address + slot * BLOCK, BLOCK, next(todo), slot)
        while left:
            ring.submit_and_wait(1)
            cqes = ring.reap()
            left -= len(cqes)
            for slot, res, _ in cqes:
                done += res
                for offset in todo:
                    prep(get_sqe(), fd, address + slot * BLOCK, BLOCK, offset, slot)
                    break
        return done

    return timed_reads(file, int(count), run)


@system("talk", "client")
def talk(port: str, connections: str, messages: str) -> Round:
    """Do the work of oracle.c without a compiler; slower, so the differences between servers shrink."""
    raise_nofile()
    socks = [socket.create_connection(("127.0.0.1", int(port))) for _ in range(int(connections))]
    epoll, by_fd = select.epoll(), {sock.fileno(): sock for sock in socks}
    for sock in socks:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        epoll.register(sock, select.EPOLLIN)

    def one_round() -> float:
        start, sent, done = clock(), len(socks), 0
        for sock in socks:
            sock.send(MESSAGE)
        while done < int(messages):
            for fd, _ in epoll.poll(10):
                done += len(by_fd[fd].recv(len(MESSAGE), socket.MSG_WAITALL)) // len(MESSAGE)
                if sent < int(messages):
                    by_fd[fd].send(MESSAGE)
                    sent += 1
        return (clock() - start) / int(messages)

    return one_round


@system("read", "rawuring, block")
def read_block(path: str, direct: str, depth: str, count: str) -> Round:
    """A block with one read per buffer, prepared once: offsets change, completed reads are pushed again."""
    from rawuring import buffers, ops, pin

    file = File(path, direct)
    ring, n = our_ring(256), int(depth)
    turn = one_turn(ring)
    memory = buffers.allocate(n * BLOCK)
    address = pin(memory, writable=True).address
    KEEP.append(memory)
    block = ops.Block(n, ops.prep_read, file.fd, 0, BLOCK, 0)
    block.set("addr", [address + slot * BLOCK for slot in range(n)])
    sqes = [block.sqe(slot) for slot in range(n)]
    words = memoryview(block.memory).cast("Q")  # the second of each SQE is its offset

    def run(offsets: list[int]) -> int:
        slots, todo, done, left = list(range(n)), iter(offsets), 0, len(offsets)
        while left:
            ready = []
            for slot, offset in zip(slots, todo):
                words[8 * slot + 1] = offset
                ready.append(sqes[slot])
            ring.push(b"".join(ready))
            ended = turn(1)
            slots = [cqe[0] for cqe in ended]
            done += sum([cqe[1] for cqe in ended])
            left -= len(ended)
        return done

    return timed_reads(file, int(count), run)


@system("read", "rawuring, in flight")
def read_in_flight(path: str, direct: str, depth: str, count: str) -> Round:
    from rawuring import InFlight, buffers, ops, pin

    file = File(path, direct)
    ring, n = our_ring(256), int(depth)
    table = InFlight(ring)
    KEEP.append(table)
    pins = [pin(buffers.allocate(BLOCK), writable=True) for _ in range(n)]
    fd = file.fd

    def run(offsets: list[int]) -> int:
        todo, done, left = iter(offsets), 0, len(offsets)

        def start(target: Any) -> None:
            for offset in todo:
                token = table.hold(lambda res, flags: finish(target, res), target)
                ops.prep_read(ring.get_sqe(), fd, target.address, BLOCK, offset, token)
                return

        def finish(target: Any, res: int) -> None:
            nonlocal done
            done += res
            start(target)

        for target in pins:
            start(target)
        while left:
            ring.submit_and_wait(1)
            left -= table.dispatch(ring.reap())
        return done

    return timed_reads(file, int(count), run)


@system("read", "uring-api")
def read_uring_api(path: str, direct: str, depth: str, count: str) -> Round:
    import mmap

    file = File(path, direct)
    ring, n = uring_api_ring(), int(depth)
    memories = [mmap.mmap(-1, BLOCK) for _ in range(n)]
    fd = file.fd

    def run(offsets: list[int]) -> int:
        todo, done, left, prepare = iter(offsets), 0, len(offsets), ring.prepare_read
        for memory in memories:
            prepare(fd, memory, next(todo), memory)
        while left:
            ring.submit()
            for completion in ring.wait(5.0):
                done += completion.res
                left -= 1
                for offset in todo:
                    memory = completion.user_data
                    prepare(fd, memory, offset, memory)
                    break
        return done

    return timed_reads(file, int(count), run)


@system("read", "liburing (Python)")
def read_liburing(path: str, direct: str, depth: str, count: str) -> Round:
    lib = compiled("liburing")
    if int(direct):
        raise Missing("liburing (Python) reads into bytearrays, which are not aligned")
    file = File(path, direct)
    ring, cqe, n = lib.Ring(), lib.Cqe(), int(depth)
    lib.io_uring_queue_init(256, ring, int(lib.IORING_SETUP_SINGLE_ISSUER | lib.IORING_SETUP_DEFER_TASKRUN))
    memories = [bytearray(BLOCK) for _ in range(n)]
    fd = file.fd
    get_sqe, prep, follow = lib.io_uring_get_sqe, lib.io_uring_prep_read, lib.io_uring_cqe_iter_next

    def run(offsets: list[int]) -> int:
        todo, done, left = iter(offsets), 0, len(offsets)
        slots = list(range(n))
        while left:
            for slot, offset in zip(slots, todo):
                sqe = get_sqe(ring)
                prep(sqe, fd, memories[slot], offset)
                sqe.user_data = slot + 1
            lib.io_uring_submit_and_wait(ring, 1)
            slots = []
            cqes = lib.io_uring_cqe_iter_init(ring)
            while follow(cqes, cqe):
                entry = cqe[0]
                slots.append(entry.user_data - 1)
                done += entry.res
            lib.io_uring_cq_advance(ring, len(slots))
            left -= len(slots)
        return done

    return timed_reads(file, int(count), run)


# ------------------------------------------------------------------------------------------------------
# Echo servers; the client is another process, the same for all


class Echo(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


def serve_asyncio(loop: Any) -> Round:
    raise_nofile()
    server = loop.run_until_complete(loop.create_server(Echo, "127.0.0.1", 0, backlog=4096))
    print("port", server.sockets[0].getsockname()[1], flush=True)
    loop.run_forever()
    raise AssertionError


def serve_streams(loop: Any) -> Round:
    raise_nofile()

    async def serve(reader: Any, writer: Any) -> None:
        while data := await reader.read(4096):
            writer.write(data)
        writer.close()

    start: Coroutine[Any, Any, Any] = asyncio.start_server(serve, "127.0.0.1", 0, backlog=4096)
    server = loop.run_until_complete(start)
    print("port", server.sockets[0].getsockname()[1], flush=True)
    loop.run_forever()
    raise AssertionError


for _name, _loop in LOOPS.items():
    SYSTEMS["echo", f"{_name}, protocol"] = lambda make=_loop: serve_asyncio(make())
    SYSTEMS["echo", f"{_name}, streams"] = lambda make=_loop: serve_streams(make())


@system("echo", "EpollSelector by hand")
def serve_selector() -> Round:
    return serve_by_hand(selectors.EpollSelector())


@system("echo", "rawuring, selector by hand")
def serve_our_selector() -> Round:
    return serve_by_hand(our_selector())


def serve_by_hand(sel: Any) -> Round:
    raise_nofile()
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    print("port", listener.getsockname()[1], flush=True)
    sel.register(listener, READ)
    while True:
        for key, _ in sel.select():
            sock = key.fileobj
            if sock is listener:
                client, _ = listener.accept()
                client.setblocking(False)
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sel.register(client, READ)
                continue
            data = sock.recv(4096)
            if data:
                sock.send(data)
            else:
                sel.unregister(sock)
                sock.close()


@system("echo", "rawuring, multishot")
def serve_multishot() -> Round:
    """Multishot accept and receive on provided buffers, sent from where they lie."""
    from rawuring import ops, register, uapi

    raise_nofile()
    ring = our_ring(4096)
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    print("port", listener.getsockname()[1], flush=True)
    group = register.setup_buf_ring(ring, 0, 4096, 256)
    accepted, sent = 1 << 32, 2 << 32
    more = uapi.IORING_CQE_F_MORE
    get_sqe, reap, prep_send, close = ring.get_sqe, ring.reap, ops.prep_send, os.close
    address, size = group.address, group.size

    def receive(fd: int) -> None:
        select_buffer = uapi.IOSQE_BUFFER_SELECT
        ops.prep_recv_multishot(get_sqe(), fd, 0, 0, 0, fd, flags=select_buffer, buf_group=group.bgid)

    ops.prep_multishot_accept(get_sqe(), listener.fileno(), 0, 0, 0, accepted)
    while True:
        ring.submit_and_wait(1)
        free = []
        for data, res, flags in reap():
            if data >= sent:
                free.append(data - sent)
            elif data >= accepted:
                sock = socket.socket(fileno=res)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                receive(sock.detach())
            elif res > 0:
                bid = group.claim(flags)
                prep_send(get_sqe(), data, address + bid * size, res, 0, sent + bid)
                if not flags & more:
                    receive(data)
            elif res == -errno.ENOBUFS:
                receive(data)
            else:
                close(data)
        if free:
            group.recycle(*free)


SYSTEMS.update(steps.systems())

if __name__ == "__main__":
    end_with_parent()
    code = serve_rounds(sys.argv[1], sys.argv[2], sys.argv[3:])
    sys.stdout.flush()
    os._exit(code)  # the end of rings, loops and pools is not measured
