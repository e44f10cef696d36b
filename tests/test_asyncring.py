# SPDX-License-Identifier: MIT
"""Awaited requests: the same tests on the stock loop, on uvloop and on rawuring.aio's.

What it is: the visible behaviour of AsyncRing, and the resources that it leaves behind.
Must not know: where the ring of a loop is stored.
Invariant: after each test the table is empty and no descriptor is left.
Read next: test_asyncring_random.py.
"""

from __future__ import annotations

import array
import asyncio
import concurrent.futures
import contextlib
import contextvars
import ctypes
import errno
import functools
import gc
import inspect
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from driver import in_a_thread

from rawuring import aio, asyncring, buffers, files, ops, register, uapi
from rawuring.buffers import allocate, pin
from rawuring.queues import RingClosed, WrongThread
from rawuring.syscalls import Unavailable

pytestmark = [
    pytest.mark.requires_io_uring, pytest.mark.leakcheck, pytest.mark.usefixtures("used_uvloop"),
]  # fmt: skip

PYPY = sys.implementation.name == "pypy"
NAME: contextvars.ContextVar[str] = contextvars.ContextVar("NAME", default="none")


def stock_loop() -> asyncio.AbstractEventLoop:
    return asyncio.SelectorEventLoop()


def uvloop_loop() -> asyncio.AbstractEventLoop:
    return pytest.importorskip("uvloop").new_event_loop()


@pytest.fixture(params=[stock_loop, uvloop_loop, aio.new_event_loop], ids=["stock", "uvloop", "ours"])
def loop(request: pytest.FixtureRequest):
    made = request.param()
    yield made
    if not made.is_closed():
        made.close()


def on_each_loop(test: Callable[..., Any]) -> Callable[..., None]:
    """Run a coroutine function with the ring of a loop; require that it leaves no requests behind."""

    async def main(arguments: dict[str, Any]) -> None:
        ring = asyncring.running()
        before = in_flight(ring)
        await test(ring, **arguments)
        if in_flight(ring) > before:
            gc.collect()
        await settles(lambda: in_flight(ring) <= before)
        assert in_flight(ring) <= before, ring.table.requests()

    parameters = [each for name, each in inspect.signature(test).parameters.items() if name != "ring"]

    @functools.wraps(test)
    def run(loop: asyncio.AbstractEventLoop, **arguments: Any) -> None:
        loop.run_until_complete(main(arguments))

    of_loop = inspect.Parameter("loop", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__signature__ = inspect.Signature([of_loop, *parameters])  # type: ignore[attr-defined]
    del run.__wrapped__  # type: ignore[attr-defined]
    return run


def in_flight(ring: asyncring.AsyncRing) -> int:
    """Count the requests in flight, without a selector's own waits in the table of its ring."""
    return sum(callable(request.handler) for request in ring.table.requests())


async def settles(condition: Callable[[], bool]) -> None:
    """Let the loop turn until a condition holds, or for long enough."""
    until = time.monotonic() + 30
    while not condition() and time.monotonic() < until:
        await asyncio.sleep(0.001)


@contextlib.contextmanager
def a_pipe():
    r, w = os.pipe()
    try:
        yield r, w
    finally:
        os.close(r)
        os.close(w)


@contextlib.contextmanager
def a_pair():
    a, b = socket.socketpair()
    with a, b:
        a.setblocking(False)
        b.setblocking(False)
        yield a, b


@contextlib.contextmanager
def a_listener():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        listener.setblocking(False)
        yield listener


def needs(ring: asyncring.AsyncRing, opcode: int, since: str) -> None:
    if not ring.supports(opcode):
        pytest.skip(f"{uapi.name_of('IORING_OP_', opcode)} ({since}) on {os.uname().release}")


# -- call


@on_each_loop
async def test_call_when_awaited_then_res_and_a_future(ring) -> None:
    assert asyncring.running() is ring
    future = ring.call(ops.prep_nop)
    assert asyncio.isfuture(future)
    assert await future == 0
    assert await future == 0
    before = len(asyncio.all_tasks())
    gathered = asyncio.gather(*[ring.call(ops.prep_nop) for _ in range(10_000)])
    assert len(asyncio.all_tasks()) == before
    assert await gathered == [0] * 10_000


@on_each_loop
async def test_call_when_the_kernel_refuses_then_oserror_with_the_operation(ring) -> None:
    with pytest.raises(OSError, match="read: ") as caught:
        await ring.call(ops.prep_read, 1 << 20, pin(allocate(8), True), None, 0)
    assert caught.value.errno == errno.EBADF


@on_each_loop
async def test_call_when_arguments_are_wrong_then_nothing_is_queued(ring) -> None:
    pending = ring.ring.sq.pending()
    with pytest.raises(TypeError):
        ring.call(ops.prep_read, "no fd", 0, 0, 0)
    with pytest.raises(TypeError, match="stream"):
        ring.call(ops.prep_multishot_accept, 0, 0, 0, 0)
    with pytest.raises(ValueError, match="chain"):
        ring.call(ops.prep_nop, flags=uapi.IOSQE_IO_LINK)
    with pytest.raises(ValueError, match="nan"):
        ring.call(ops.prep_nop, timeout=float("nan"))
    with pytest.raises(TypeError):
        ring.call(ops.prep_read, "no fd", 0, 0, 0, timeout=1)
    with pytest.raises(ValueError, match="at least one part"):
        ring.chain()
    with pytest.raises(TypeError):
        ring.chain((ops.prep_nop,), (ops.prep_read, "no fd", 0, 0, 0))
    assert ring.ring.sq.pending() == pending
    assert await ring.call(ops.prep_nop) == 0


@on_each_loop
async def test_arguments_when_they_are_of_another_kind_then_type_error_in_words(ring) -> None:
    def refused(words: str):
        return pytest.raises(TypeError, match=words)

    for prep in (None, 5, "nop"):
        with refused("is not an operation"):
            ring.call(prep)
        with refused("is not an operation"):
            await ring.stream(prep).__anext__()
        with refused("is not an operation"):
            ring.chain((prep,))
    for part in (None, 5, (), "nop", {}):
        with refused("is not a part of a chain"):
            ring.chain((ops.prep_nop,), part)
    with refused("more than once"):
        ring.chain((ops.prep_multishot_accept, 0, 0, 0, 0))
    for late in (5, "x", []):
        with refused("is not callable"):
            ring.call(ops.prep_nop, late=late)
        with refused("is not callable"):
            ring.chain((ops.prep_nop,), late=late)
        with refused("is not callable"):
            ring.stream(ops.prep_poll_multishot, 0, 1, late=late)
    for call in (ring.recv, ring.recv_into, ring.send, ring.send_zc, ring.connect):
        with refused("is not a socket"):
            await call(5, b"x")
    for call in (ring.accept_multishot, ring.recv_multishot):
        with refused("is not a socket"):
            call(None)
    with refused("is not a socket"):
        await ring.sendmsg("x", [b"x"])
    with refused("is not a socket"):
        await ring.accept(b"x")
    with refused("neither a descriptor"):
        ring.poll("x", 1)
    with refused("is not a mailbox"):
        await ring.msg_ring(None, 1)
    mailbox = ring.mailbox()
    with refused("is not an int"):
        await ring.msg_ring(mailbox, "x")
    mailbox.close()
    with pytest.raises(ValueError, match="4 bytes"):
        ring.futex_wake((ctypes.c_char * 2)())
    with refused("group of buffers"):
        ring.stream(ops.prep_recv_multishot, 0, 0, 0, 0, buffers=5)
    for token in (None, "x", 0.5):
        with refused("is not a token"):
            ring.cancel(token)
    assert ring.ring.sq.pending() == 0


@on_each_loop
async def test_call_when_many_tasks_call_in_one_turn_then_one_enter(ring) -> None:
    async def one() -> int:
        return await ring.call(ops.prep_nop)

    tasks = [asyncio.ensure_future(one()) for _ in range(50)]
    before = ring.ring.statistics()
    await asyncio.wait(tasks)
    after = ring.ring.statistics()
    assert after.submitted - before.submitted >= 50
    # One, or two of a selector that waits; a turn without requests may enter, too.
    assert after.enters - before.enters <= 3


@pytest.mark.parametrize("make", [stock_loop, uvloop_loop])
def test_call_when_one_task_awaits_alone_then_it_is_sent_at_once(make, monkeypatch) -> None:
    class Counted:
        """Await, and count how often that suspends."""

        def __init__(self, future: Any) -> None:
            self.future, self.count = future, 0

        def __await__(self):
            steps = self.future.__await__()
            while True:
                try:
                    step = next(steps)
                except StopIteration as end:
                    return end.value
                self.count += 1
                yield step

    async def main() -> list[int]:
        ring = asyncring.running()
        monkeypatch.setattr(time, "monotonic", lambda: 1.0)  # as time passes it suspends now and then
        counts = []
        for _ in range(10):
            counted = Counted(ring.call(ops.prep_nop))
            assert await counted == 0
            counts.append(counted.count)
        monkeypatch.undo()
        return counts

    with contextlib.closing(make()) as loop:
        assert loop.run_until_complete(main())[2:] == [0] * 8


def eager(loop: asyncio.AbstractEventLoop) -> None:
    """Start tasks at their creation, as asyncio.eager_task_factory does (CPython 3.12)."""
    make = getattr(asyncio, "eager_task_factory", None)
    if make is None:
        pytest.skip("asyncio.eager_task_factory (CPython 3.12)")
    # uvloop passes on an argument that CPython before 3.13.3 rejects.
    loop.set_task_factory(lambda loop, coro, eager_start=True, **kwargs: make(loop, coro, **kwargs))


@on_each_loop
async def test_eager_tasks_when_their_requests_have_to_wait_then_they_travel_together(ring) -> None:
    """The first may be sent alone: nothing shows that more will follow."""
    eager(asyncio.get_running_loop())
    with a_pipe() as (r, w):
        before = ring.ring.statistics()

        async def wait() -> int:
            return await ring.poll(r, select.POLLIN)

        tasks = [asyncio.ensure_future(wait()) for _ in range(50)]
        ring.flush()
        after = ring.ring.statistics()
        os.write(w, b"1")
        assert await asyncio.gather(*tasks) == [select.POLLIN] * 50
    assert after.submitted - before.submitted == 50
    assert after.enters - before.enters <= 2


@on_each_loop
async def test_eager_tasks_when_they_await_requests_then_they_do_as_others(ring, tmp_path) -> None:
    """Calls, chains, streams, sockets, files, timeouts, groups and cancellation."""
    loop = asyncio.get_running_loop()
    eager(loop)

    async def nops() -> int:
        for _ in range(100):
            await ring.call(ops.prep_nop)
        return await ring.call(ops.prep_nop)

    async def first_of(stream: Any) -> Any:
        async with stream:
            return await stream.__anext__()

    assert await asyncio.gather(*[nops() for _ in range(10)]) == [0] * 10
    with a_pipe() as (r, w), a_pair() as (a, b), a_listener() as listener:
        async with asyncio.TaskGroup() as group:
            accepting = group.create_task(ring.accept(listener))
            several = group.create_task(first_of(ring.accept_multishot(listener)))
            receiving = group.create_task(ring.recv(a, 10))
            polled = group.create_task(first_of(ring.stream(ops.prep_poll_multishot, r, select.POLLIN)))
            chain = ring.chain((ops.prep_poll_add, r, select.POLLIN), (ops.prep_nop,))
            chained = group.create_task(_await(chain))
            with pytest.raises(TimeoutError):
                await asyncio.ensure_future(_await(ring.poll(b, select.POLLIN, timeout=0.01)))
            address = listener.getsockname()
            with socket.create_connection(address), socket.create_connection(address):
                os.write(w, b"1")
                b.send(b"x")
                conn, _ = await accepting
                with conn, await several:
                    pass
            assert await receiving == b"x"
            assert (await polled)[0] == select.POLLIN
            assert await chained == [select.POLLIN, 0]
        cancelled = asyncio.ensure_future(ring.recv(a, 10))
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        b.send(b"y")
        assert await ring.recv(a, 10) == b"y"
    (tmp_path / "file").write_bytes(b"abc")
    fd = await asyncio.ensure_future(files.open_fd(tmp_path / "file", os.O_RDONLY))
    assert await asyncio.gather(*[files.pread(fd, 10, 0) for _ in range(10)]) == [b"abc"] * 10
    await asyncio.ensure_future(files.close_fd(fd))


@on_each_loop
async def test_call_when_answers_follow_each_other_then_the_loop_is_not_starved(ring) -> None:
    ticks = []
    tick = asyncio.get_running_loop().call_soon
    tick(ticks.append, 1)
    for _ in range(100_000):
        await ring.call(ops.prep_nop)
        if ticks:
            break
    assert ticks


@on_each_loop
async def test_flush_when_called_then_what_completes_is_there(ring) -> None:
    future = ring.call(ops.prep_nop)
    ring.flush()
    assert ring.ring.sq.pending() == 0
    assert await future == 0


# -- start


@on_each_loop
async def test_start_when_completed_then_the_handler_runs(ring) -> None:
    got: list[tuple[int, int]] = []
    token = ring.start(ops.prep_nop, handler=lambda res, flags: got.append((res, flags)))
    assert token in ring.table
    await settles(lambda: bool(got))
    assert got == [(0, 0)]
    with pytest.raises(TypeError):
        ring.start(ops.prep_nop, handler=5)


@on_each_loop
async def test_start_when_it_has_a_context_then_the_handler_runs_in_it(ring) -> None:
    seen = []

    def handler(res: int, flags: int) -> None:
        seen.append(NAME.get())
        NAME.set("the handler's own")

    async def one(name: str) -> None:
        NAME.set(name)
        ring.start(ops.prep_nop, handler=handler)
        await ring.call(ops.prep_nop)
        assert NAME.get() == name

    await asyncio.gather(one("a"), one("b"))
    await settles(lambda: len(seen) == 2)
    assert sorted(seen) == ["a", "b"]
    assert NAME.get() == "none"


@on_each_loop
async def test_start_when_handlers_raise_then_the_loop_is_told_and_the_others_run(ring) -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
    got: list[int] = []

    def bad(res: int, flags: int) -> None:
        raise KeyError("of the handler")

    for _ in range(3):
        ring.start(ops.prep_nop, handler=bad)
        ring.start(ops.prep_nop, handler=lambda res, flags: got.append(res))
    await settles(lambda: len(got) == 3)
    assert len(got) == 3
    assert [type(context["exception"]) for context in told] == [KeyError] * 3


def test_start_when_a_handler_raises_keyboard_interrupt_then_the_rest_is_not_lost(loop) -> None:
    got: list[int] = []

    def strike(res: int, flags: int) -> None:
        raise KeyboardInterrupt

    async def main() -> None:
        ring = asyncring.running()
        ring.start(ops.prep_nop, handler=strike)
        for i in range(10):
            ring.start(ops.prep_nop, handler=lambda res, flags, i=i: got.append(i))
        await settles(lambda: len(got) == 10)

    async def wait() -> None:
        await settles(lambda: len(got) == 10)

    task = loop.create_task(main())
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(task)
    loop.run_until_complete(wait())
    assert got == list(range(10))
    loop.run_until_complete(task)


# -- cancelling


@on_each_loop
async def test_cancel_before_it_is_sent_then_the_kernel_does_not_see_it(ring) -> None:
    with a_pipe() as (r, w):
        os.set_blocking(r, False)
        future = ring.call(ops.prep_write, w, pin(b"unwanted"), None, 0)
        timed = ring.call(ops.prep_write, w, pin(b"unwanted"), None, 0, timeout=60)
        chain = ring.chain(*[(ops.prep_write, w, pin(b"unwanted"), None, 0)] * 3)
        for each in (future, timed, chain):
            assert each.cancel() and each.cancel()
        for each in (future, timed, chain):
            with pytest.raises(asyncio.CancelledError):
                await each
            assert each.cancelled() and not each.cancel()
        with pytest.raises(BlockingIOError):
            os.read(r, 100)


@on_each_loop
async def test_cancel_when_sent_then_cancelled_with_the_final_cqe(ring) -> None:
    with a_pipe() as (r, _w):
        for timeout in (None, 60):
            future = ring.call(ops.prep_read, r, pin(allocate(8), True), None, 0, timeout=timeout)
            ring.flush()
            assert future.cancel() and future.cancel()
            assert future.token in ring.table and not future.done()
            with pytest.raises(asyncio.CancelledError):
                await future
            assert future.token not in ring.table


@on_each_loop
async def test_cancel_when_the_request_succeeds_all_the_same_then_late_has_it(ring) -> None:
    got: list[int] = []
    with a_pipe() as (r, w):
        memory = allocate(8)
        future = ring.call(ops.prep_read, r, pin(memory, True), None, 0, late=got.append)
        ring.flush()
        os.write(w, b"late")
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
        assert got in ([4], []) and (got or os.read(r, 8) == b"late")


@on_each_loop
async def test_task_cancelled_when_its_result_is_there_then_late_has_it(ring) -> None:
    got: list[int] = []

    async def one() -> None:
        await ring.call(ops.prep_nop, late=got.append)

    for _ in range(100):
        task = asyncio.ensure_future(one())
        await asyncio.sleep(0)
        ring.flush()
        done = task.done()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert len(got) == (not done and task.cancelled())
        got.clear()


@on_each_loop
async def test_late_when_it_raises_then_the_loop_is_told(ring) -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))

    def bad(res: int) -> None:
        raise KeyError(res)

    future = ring.call(ops.prep_nop, late=bad)
    ring.ring.submit()
    future.cancel()
    with pytest.raises(asyncio.CancelledError):
        await future
    assert [type(context["exception"]) for context in told] == [KeyError]


@on_each_loop
async def test_descriptor_when_it_comes_too_late_then_it_is_closed(ring) -> None:
    before = set(os.listdir("/proc/self/fd"))
    futures = [
        ring.call(ops.prep_openat, uapi.AT_FDCWD, buffers.path("/dev/null"), os.O_RDONLY, 0)
        for _ in range(100)
    ]
    chain = ring.chain(
        (ops.prep_openat, uapi.AT_FDCWD, buffers.path("/dev/null"), os.O_RDONLY, 0), (ops.prep_nop,)
    )
    ring.ring.submit()
    for each in (*futures, chain):
        each.cancel()
    for each in (*futures, chain):
        with pytest.raises(asyncio.CancelledError):
            await each
    assert set(os.listdir("/proc/self/fd")) <= before


@on_each_loop
async def test_asyncio_when_its_ways_to_cancel_are_used_then_they_do_as_with_sockets(ring) -> None:
    with a_pipe() as (r, w):
        memory = allocate(8)

        def read() -> Any:
            return ring.call(ops.prep_read, r, pin(memory, True), None, 0)

        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(read(), 0.001)
        future = read()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(future), 0.001)
        assert not future.done()
        os.write(w, b"x")
        assert await future == 1
        gathered = asyncio.gather(read(), read())
        await asyncio.sleep(0)
        gathered.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gathered
        done, pending = await asyncio.wait([read(), ring.call(ops.prep_nop)], timeout=0.001)
        assert len(done) == len(pending) == 1
        pending.pop().cancel()
        await asyncio.sleep(0)
        if sys.version_info >= (3, 11):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await read()
            with pytest.raises(BaseException, match="unhandled errors") as group:
                await _group(read())
            assert [type(each) for each in group.value.exceptions] == [KeyError]


@on_each_loop
async def test_cancel_when_the_kernel_takes_nothing_for_now_then_it_is_asked_again(ring, monkeypatch) -> None:
    with a_pipe() as (r, _w):
        future = ring.poll(r, select.POLLIN)
        ring.flush()
        while ring.ring.sq.space_left():
            ring.call(ops.prep_nop)

        def busy(*arguments: Any) -> int:
            raise BlockingIOError(errno.EAGAIN, "no memory")

        monkeypatch.setattr(ring.ring, "submit", busy)
        assert future.cancel()
        monkeypatch.undo()
        with pytest.raises(asyncio.CancelledError):
            await future


@on_each_loop
async def test_chain_when_it_breaks_and_its_task_is_cancelled_then_its_descriptors_are_closed(ring) -> None:
    needs(ring, uapi.IORING_OP_OPENAT, "5.6")
    path = pin(os.fsencode(os.devnull) + b"\0")
    opened = len(os.listdir("/proc/self/fd"))
    broken = 0
    for i in range(30):
        parts = (ops.prep_openat, -100, path, os.O_RDONLY, 0), (ops.prep_poll_remove, 1)
        future = ring.chain(*parts)
        task = asyncio.ensure_future(_await(future))
        while not future.done():
            await asyncio.sleep(0)
            ring.flush()
        for _ in range(i % 2):
            await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except asyncring.ChainBroken as error:  # it was too late to cancel the task
            os.close(error.results[0])
        except asyncio.CancelledError:
            broken += 1
    assert broken
    assert len(os.listdir("/proc/self/fd")) == opened


async def _await(future: Any) -> Any:
    return await future


async def _group(future: Any) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_await(future))
        tasks.create_task(_fail())


async def _fail() -> None:
    await asyncio.sleep(0)
    raise KeyError


@on_each_loop
async def test_coroutine_when_it_is_closed_while_it_waits_then_its_request_is_cancelled(ring) -> None:
    with a_pipe() as (r, _w):
        coroutine = _await(ring.call(ops.prep_read, r, pin(allocate(8), True), None, 0))
        coroutine.send(None)
        coroutine.close()
        await settles(lambda: in_flight(ring) == 0)


# -- timeouts


@on_each_loop
async def test_timeout_when_it_is_no_usual_number_then_it_is_over_or_never_or_refused(ring) -> None:
    with a_pair() as (_a, b):
        for seconds in (0, -1, -1e300, -float("inf")):
            with pytest.raises((TimeoutError, asyncio.TimeoutError)):
                await ring.poll(b, select.POLLIN, timeout=seconds)
            with pytest.raises((TimeoutError, asyncio.TimeoutError)):
                await ring.recv(b, 1, timeout=seconds)
            await ring.sleep_until(seconds)
        for bad, kind in ((float("nan"), ValueError), ("x", TypeError), (1j, TypeError), ([], TypeError)):
            with pytest.raises(kind, match=r"timeout=.* is not a number of seconds"):
                await ring.poll(b, select.POLLIN, timeout=bad)
            with pytest.raises(kind, match=r"timeout=.* is not a number of seconds"):
                await ring.recv(b, 1, timeout=bad)
            with pytest.raises(kind, match=r"when=.* is not a number of seconds"):
                await ring.sleep_until(bad)
        for seconds in (1e300, float("inf"), 10**400):
            future = ring.poll(b, select.POLLIN, timeout=seconds)
            await asyncio.sleep(0)
            assert not future.done()
            future.cancel()
            await asyncio.wait([future])


@on_each_loop
async def test_timeout_when_it_passes_then_timeout_error_and_nothing_in_flight(ring) -> None:
    with a_pipe() as (r, w):
        memory = allocate(8)
        for timeout in (-1, 0, 0.001):
            with pytest.raises(asyncio.TimeoutError, match="read did not end in time"):
                await ring.call(ops.prep_read, r, pin(memory, True), None, 0, timeout=timeout)
        future = ring.call(ops.prep_read, r, pin(memory, True), None, 0, timeout=60)
        os.write(w, b"in time")
        assert await future == 7
        assert await ring.call(ops.prep_nop, timeout=float("inf")) == 0
        with pytest.raises(OSError, match="read: "):
            await ring.call(ops.prep_read, 1 << 20, pin(memory, True), None, 0, timeout=60)


@on_each_loop
async def test_timeout_when_the_request_begins_in_a_worker_then_it_passes_all_the_same(ring) -> None:
    needs(ring, uapi.IORING_OP_SPLICE, "5.7")
    with a_pipe() as (r, _w), a_pipe() as (_r2, w2):
        future = ring.splice(r, -1, w2, -1, 100, timeout=0.001)
        with pytest.raises(asyncio.TimeoutError, match="splice did not end in time"):
            await future


@on_each_loop
async def test_timeout_when_it_races_with_completions_then_one_of_the_two(ring) -> None:
    with a_pipe() as (r, w):
        memory, written, read = allocate(8), 0, 0
        for i in range(200):
            future = ring.call(ops.prep_read, r, pin(memory, True), 1, 0, timeout=i / 1e6)
            ring.flush()
            written += os.write(w, b"x")
            with contextlib.suppress(asyncio.TimeoutError):
                read += await future
        os.set_blocking(r, False)
        with contextlib.suppress(BlockingIOError):
            read += len(os.read(r, 1000))
        assert read == written


@on_each_loop
async def test_sleep_until_when_the_time_comes_then_it_returns(ring) -> None:
    await ring.sleep_until(time.monotonic() - 1)
    before = time.monotonic()
    await ring.sleep_until(before + 0.005)
    assert time.monotonic() >= before + 0.005
    try:
        before = time.time()
        await ring.sleep_until(before + 0.005, time.CLOCK_REALTIME)
    except OSError as error:
        if "5.15" not in str(error):
            raise
    else:
        assert time.time() >= before + 0.005
    with pytest.raises(ValueError, match="CLOCK_REALTIME"):
        await ring.sleep_until(0, time.CLOCK_PROCESS_CPUTIME_ID)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(ring.sleep_until(float("inf")), 0.001)


# -- chains


@on_each_loop
async def test_chain_when_all_succeed_then_their_results_in_order(ring) -> None:
    with a_pipe() as (r, w):
        memory = allocate(3)
        written = (ops.prep_write, w, pin(b"abc"), None, 0)
        read = (ops.prep_read, r, pin(memory, True), None, 0)
        assert await ring.chain(written, read, (ops.prep_nop,)) == [3, 3, 0]
        assert bytes(memory) == b"abc"
        assert await ring.chain((ops.prep_nop, {"flags": uapi.IOSQE_ASYNC, "holds": (memory,)})) == [0]


@on_each_loop
async def test_chain_when_a_part_fails_then_it_says_which(ring) -> None:
    with a_pipe() as (r, w):
        memory = allocate(8)
        bad = (ops.prep_accept, r, 0, 0, 0)
        with pytest.raises(asyncring.ChainBroken, match=r"part 1 of 3 \(accept\)") as caught:
            await ring.chain((ops.prep_nop,), bad, (ops.prep_nop,))
        assert caught.value.index == 1
        assert caught.value.errno == errno.ENOTSOCK
        assert caught.value.results == [0, -errno.ENOTSOCK, -errno.ECANCELED]
        os.write(w, b"abc")
        with pytest.raises(asyncring.ChainBroken, match="3 is less than requested") as caught:
            await ring.chain((ops.prep_read, r, pin(memory, True), None, 0), (ops.prep_nop,))
        assert caught.value.index == 0
        with pytest.raises(asyncring.ChainBroken) as caught:
            await ring.chain((ops.prep_nop,), bad, (ops.prep_nop,), hard=True)
        assert caught.value.results == [0, -errno.ENOTSOCK, 0]


@on_each_loop
async def test_chain_when_somebody_stops_a_part_then_it_says_that_one(ring) -> None:
    """As the kernel does when the starting thread ends; the requests before it cannot be short."""
    needs(ring, uapi.IORING_OP_SEND_ZC, "IORING_ASYNC_CANCEL_FD, 5.19; 6.0")
    with a_pipe() as (r, _):
        chain = ring.chain((ops.prep_nop,), (ops.prep_poll_add, r, select.POLLIN), (ops.prep_nop,))
        ring.flush()
        await asyncio.sleep(0)
        assert await ring.call(ops.prep_cancel_fd, r, 0) == 0
        with pytest.raises(asyncring.ChainBroken, match=r"part 1 of 3 \(poll_add\) broke") as broken:
            await chain
        assert broken.value.index == 1
        assert broken.value.results == [0, -errno.ECANCELED, -errno.ECANCELED]


@on_each_loop
async def test_chain_when_cancelled_then_none_of_its_parts_is_left(ring) -> None:
    with a_pipe() as (r, _w):
        read = (ops.prep_read, r, pin(allocate(8), True), None, 0)
        got: list[list[int]] = []
        for behind in range(3):
            parts = [(ops.prep_nop,)] * 2 + [read] + [(ops.prep_nop,)] * behind
            chain = ring.chain(*parts, late=got.append)
            await asyncio.sleep(0.001)
            chain.cancel()
            with pytest.raises(asyncio.CancelledError):
                await chain
            assert got.pop()[:2] == [0, 0]


@on_each_loop
async def test_chain_when_a_signal_handler_raises_within_it_then_none_is_left(ring, monkeypatch) -> None:
    start, started = ring.table._start, []

    def interrupted(*arguments: Any) -> int:
        started.append(start(*arguments))
        if len(started) == 2:
            raise KeyboardInterrupt
        return started[-1]

    pending = ring.ring.sq.pending()
    monkeypatch.setattr(ring.table, "_start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ring.chain((ops.prep_nop,), (ops.prep_nop,), (ops.prep_nop,))
    monkeypatch.undo()
    assert ring.ring.sq.pending() == pending
    assert not any(token in ring.table for token in started)


@on_each_loop
async def test_chain_when_it_is_longer_than_the_queue_then_value_error(ring) -> None:
    size = ring.ring.sq.ring_entries
    with pytest.raises(ValueError, match="do not fit"):
        ring.chain(*[(ops.prep_nop,)] * (size + 1))
    assert await ring.chain(*[(ops.prep_nop,)] * size) == [0] * size


# -- sockets


@on_each_loop
async def test_sockets_when_there_is_something_then_it_is_taken_at_once(ring) -> None:
    with a_pair() as (a, b):
        assert await ring.send(a, b"hello") == 5
        assert await ring.recv(b, 3) == b"hel"
        room = bytearray(8)
        assert await ring.recv_into(b, room) == 2 and bytes(room[:2]) == b"lo"
        with pytest.raises(asyncio.TimeoutError):
            await ring.recv(b, 3, timeout=0.001)
        waiting = asyncio.ensure_future(ring.recv(b, 100, timeout=60))
        await asyncio.sleep(0)
        a.send(b"later")
        assert await waiting == b"later"
        a.close()
        assert await ring.recv(b, 100) == b""
        b.setblocking(True)
        with pytest.raises(ValueError, match="setblocking"):
            await ring.recv(b, 1)


@on_each_loop
async def test_send_when_the_peer_does_not_read_then_it_waits(ring) -> None:
    with a_pair() as (a, b):
        sent = 0
        with contextlib.suppress(asyncio.TimeoutError):
            while sent < 1 << 30:
                sent += await ring.send(a, bytes(1 << 16), timeout=0.001)
        waiting = asyncio.ensure_future(ring.send(a, b"end"))
        await asyncio.sleep(0)
        left, data = sent + 3, b""
        while left:
            data = await ring.recv(b, 1 << 16)
            left -= len(data)
        assert await waiting == 3
        assert data.endswith(b"end"[-len(data) :])


@on_each_loop
async def test_sendmsg_when_descriptors_are_passed_then_they_arrive(ring) -> None:
    with a_pair() as (a, b), a_pipe() as (r, w):
        assert await ring.sendmsg(a, [b"one", b"two"], fds=[w]) == 6
        data, control, _, _ = b.recvmsg(10, socket.CMSG_SPACE(4))
        assert data == b"onetwo"
        fds = array.array("i", control[0][2])
        os.write(fds[0], b"x")
        assert os.read(r, 8) == b"x"
        os.close(fds[0])


@on_each_loop
async def test_accept_and_connect_when_awaited_then_two_sockets(ring) -> None:
    with a_listener() as listener, socket.socket() as client:
        client.setblocking(False)
        accepted = asyncio.ensure_future(ring.accept(listener))
        await asyncio.sleep(0)
        await ring.connect(client, ("localhost", listener.getsockname()[1]))
        conn, address = await accepted
        with conn:
            assert conn.gettimeout() == 0
            assert address == client.getsockname()
            for data in (b"zero copy", bytearray(1 << 20) if not PYPY else allocate(1 << 20)):
                waiting = asyncio.ensure_future(ring.send_zc(client, data))
                left = len(data)
                while left:
                    left -= len(await ring.recv(conn, 1 << 20)) or 1 << 30
                assert await waiting == len(data)
        with pytest.raises(asyncio.TimeoutError):
            await ring.accept(listener, timeout=0.001)
    with socket.socket() as client:
        client.setblocking(False)
        with pytest.raises(ConnectionRefusedError):
            await ring.connect(client, ("127.0.0.1", 1))


@on_each_loop
async def test_connect_when_a_unix_backlog_is_full_then_it_waits(ring, tmp_path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as stack:
        name = os.path.relpath(tmp_path / "s")
        listener.bind(name)
        listener.listen(0)
        clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(3)]
        for client in clients:
            client.setblocking(False)
        waiting = [asyncio.ensure_future(ring.connect(client, name)) for client in clients]
        listener.setblocking(False)
        for _ in clients:
            conn, _ = await ring.accept(listener)
            conn.close()
        await asyncio.gather(*waiting)


@on_each_loop
async def test_send_zc_when_the_socket_cannot_then_the_bytes_are_copied(ring) -> None:
    with a_pair() as (a, b):
        assert await ring.send_zc(a, b"copied") == 6
        assert b.recv(10) == b"copied"


@on_each_loop
async def test_poll_when_ready_then_the_mask(ring) -> None:
    with a_pipe() as (r, w):
        assert await ring.poll(w, select.POLLOUT) & select.POLLOUT
        waiting = ring.poll(r, select.POLLIN, timeout=60)
        os.write(w, b"x")
        assert await waiting == select.POLLIN


# -- streams


@on_each_loop
async def test_stream_when_polled_then_items_and_a_cancelled_step_loses_nothing(ring) -> None:
    with a_pipe() as (r, w):
        async with ring.stream(ops.prep_poll_multishot, r, select.POLLIN) as stream:
            os.write(w, b"x")
            try:
                res, _ = await stream.__anext__()
            except OSError as error:
                pytest.skip(f"multishot polls (Linux 5.13): {error}")
            assert res & select.POLLIN
            os.read(r, 8)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(stream.__anext__(), 0.001)
            waiting = asyncio.ensure_future(stream.__anext__())
            await settles(lambda: stream._source.waiter is not None)
            with pytest.raises(RuntimeError, match="another task"):
                await stream.__anext__()
            os.write(w, b"x")
            assert (await waiting)[0] & select.POLLIN
        with pytest.raises(StopAsyncIteration):
            await stream.__anext__()


@on_each_loop
async def test_stream_when_the_kernel_ends_it_then_it_is_started_again(ring) -> None:
    second = buffers.timespec(1_000_000)
    stream = ring.stream(ops.prep_timeout, second, 2, uapi.IORING_TIMEOUT_MULTISHOT)
    async with stream:
        got = []
        try:
            async for res, _ in stream:
                got.append(res)
                if len(got) == 5:
                    break
        except OSError as error:
            pytest.skip(f"IORING_TIMEOUT_MULTISHOT (Linux 6.4): {error}")
        assert got == [-errno.ETIME] * 5


@on_each_loop
async def test_stream_when_forgotten_then_its_request_ends(ring) -> None:
    with a_pipe() as (r, _w):
        stream = ring.stream(ops.prep_poll_multishot, r, select.POLLIN)
        step: Any = asyncio.ensure_future(stream.__anext__())
        while not (step.done() or in_flight(ring)):
            await asyncio.sleep(0)
        ring.flush()
        if step.done():
            pytest.skip(f"multishot polls (Linux 5.13): {step.exception()}")
        step.cancel()
        await asyncio.wait([step])
        if not step.cancelled():
            pytest.skip(f"multishot polls (Linux 5.13): {step.exception()}")
        del stream
        step = None

        def has_ended() -> bool:
            gc.collect()  # PyPy needs more than one
            return not in_flight(ring)

        await settles(has_ended)
        assert not in_flight(ring)


@on_each_loop
async def test_recv_multishot_when_data_come_then_pieces_that_return(ring) -> None:
    with a_pair() as (a, b):
        got = b""
        async with ring.recv_multishot(b) as stream:
            for i in range(200):  # more than the number of buffers
                a.send(b"%05d" % i)
                piece = await stream.__anext__()
                assert len(piece) == 5
                with piece as data:
                    got += data
                piece.release()
            assert got == b"".join(b"%05d" % i for i in range(200))
            a.send(b"end")
            a.close()
            assert [bytes(piece) async for piece in stream] == [b"end"]


@on_each_loop
async def test_recv_multishot_when_the_kernel_has_no_groups_then_it_is_not_asked(ring, monkeypatch) -> None:
    """5.10.46 does not reject a multishot RECV, and reports the end of the stream."""
    monkeypatch.setattr(asyncring.AsyncRing, "supports", lambda ring, opcode: False)
    monkeypatch.setattr(asyncring.ops, "prep_recv_multishot", None)
    with a_pair() as (a, b):
        async with ring.recv_multishot(b) as stream:
            a.send(b"data")
            assert bytes(await stream.__anext__()) == b"data"
            a.close()
            assert [piece async for piece in stream] == []


@on_each_loop
async def test_recv_multishot_when_all_pieces_are_held_then_it_goes_on_with_the_first_released(ring) -> None:
    with a_pair() as (a, b):
        needs(ring, uapi.IORING_OP_SOCKET, "5.19, as PBUF_RING")
        group = register.setup_buf_ring(ring.ring, 7, 4, 64)
        try:
            async with ring.recv_multishot(b, group) as stream:
                held = []
                for _ in range(4):
                    a.send(b"x" * 64)
                    held.append(await stream.__anext__())
                a.send(b"y" * 64)
                waiting = asyncio.ensure_future(stream.__anext__())
                done, _ = await asyncio.wait([waiting], timeout=0.005)
                assert not done or bytes(waiting.result()) == b"y" * 64  # without multishot it is copied
                held.pop(0).release()
                held.append(await waiting)
                assert [bytes(each) for each in held] == [b"x" * 64] * 3 + [b"y" * 64]
                for each in held:
                    each.release()
        finally:
            register.free_buf_ring(ring.ring, group)


@on_each_loop
async def test_recv_multishot_when_it_is_closed_then_what_came_is_the_next_recvs(ring) -> None:
    with a_pair() as (a, b):
        for _ in range(200):
            stream = ring.recv_multishot(b)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(stream.__anext__(), 0)
            ring.flush()
            a.send(b"abc")
            closing = asyncio.ensure_future(stream.aclose())
            a.send(b"def")
            await closing
            got = b""
            while len(got) < 6:
                got += await ring.recv(b, 2)
            assert got == b"abcdef"


@on_each_loop
async def test_recv_when_another_stream_is_closed_then_the_one_who_waits_is_woken(ring) -> None:
    with a_pair() as (_a, b):
        waiting = asyncio.ensure_future(ring.recv(b, 10))
        await asyncio.sleep(0)
        ring._put_back(b, b"late")
        assert await waiting == b"late"
        room = bytearray(10)
        ring._put_back(b, b"more")
        assert await ring.recv(b, 10, socket.MSG_PEEK) == b"more"
        assert await ring.recv_into(b, room) == 4 and room[:4] == b"more"


@on_each_loop
async def test_accept_multishot_when_clients_come_then_sockets_and_the_late_ones_are_the_next_accepts(
    ring,
) -> None:
    with a_listener() as listener, contextlib.ExitStack() as stack:
        async with ring.accept_multishot(listener) as stream:
            for _ in range(3):
                client = stack.enter_context(socket.create_connection(listener.getsockname()))
                conn = stack.enter_context(await stream.__anext__())
                assert conn.getpeername() == client.getsockname() and conn.gettimeout() == 0
            clients = [
                stack.enter_context(socket.create_connection(listener.getsockname())) for _ in range(5)
            ]
        found = set()
        for _ in clients:
            conn, address = await ring.accept(listener)
            stack.enter_context(conn)
            found.add(address)
        assert found == {client.getsockname() for client in clients}


@on_each_loop
async def test_accept_when_a_late_connection_is_left_then_it_goes_with_the_listener(ring) -> None:
    with a_listener() as listener, socket.create_connection(listener.getsockname()) as client:
        ring._put_back(listener, (await ring.accept(listener)))
        del listener
        gc.collect()
        client.settimeout(60)


@on_each_loop
async def test_multishot_when_the_kernel_lacks_it_then_one_by_one(ring, monkeypatch) -> None:
    def lacking(sqe, *arguments, **options) -> None:
        ops.prep_rw(sqe, 255, 0, 0, 0, 0, arguments[-1])

    monkeypatch.setattr(ops, "prep_multishot_accept", lacking)
    monkeypatch.setattr(ops, "prep_recv_multishot", lacking)
    with a_listener() as listener, socket.create_connection(listener.getsockname()) as client:
        async with ring.accept_multishot(listener) as stream:
            conn = await stream.__anext__()
        with conn:
            client.send(b"hello")
            client.shutdown(socket.SHUT_WR)
            async with ring.recv_multishot(conn) as stream:
                assert [bytes(piece) async for piece in stream] == [b"hello"]


# -- data and cancel in one turn


@pytest.mark.long
@on_each_loop
async def test_data_and_cancel_when_they_come_in_one_turn_then_no_byte_is_lost(ring) -> None:
    await _data_and_cancel(ring, lambda sock: ring.recv(sock, 100))


@pytest.mark.long
@on_each_loop
async def test_data_and_cancel_when_the_kernel_receives_then_late_gets_the_bytes(ring) -> None:
    memory, kept = allocate(100), []

    async def receive(sock: socket.socket) -> bytes:
        if kept:
            return kept.pop(0)
        res = await ring.call(
            ops.prep_recv, sock.fileno(), pin(memory, True), None, 0,
            late=lambda res: kept.append(bytes(memory[:res])),
        )  # fmt: skip
        return bytes(memory[:res])

    await _data_and_cancel(ring, receive)


async def _data_and_cancel(ring, receive: Callable[[socket.socket], Any]) -> None:
    slow = asyncio.get_running_loop().get_debug() or PYPY
    times = 1000 if slow else 10_000
    with a_pair() as (a, b):
        cancelled = 0
        for i in range(times):
            task = asyncio.ensure_future(receive(b))
            for _ in range(i % 4):
                await asyncio.sleep(0)
            sent = b"%d" % i
            a.send(sent)
            if i % 3 == 0:
                ring.flush()
            task.cancel()
            try:
                got = await task
            except asyncio.CancelledError:
                cancelled += 1
                got = b""
            while len(got) < len(sent):
                got += await asyncio.wait_for(receive(b), 60)
            assert got == sent
        assert cancelled > times // 4


# -- children, other processes, other loops, files


@on_each_loop
async def test_waitid_when_a_child_ends_then_it_is_reaped_once(ring, monkeypatch) -> None:
    if not hasattr(os, "waitid"):
        with pytest.raises(NotImplementedError, match=r"os\.waitid"):
            await ring.waitid(0, os.getpid())
        pytest.skip("os.waitid() in this Python")
    for lacking in (False, True):
        if lacking:
            monkeypatch.setattr(ring.__class__, "supports", lambda self, opcode: False)
            if not hasattr(os, "pidfd_open"):
                continue
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        with pytest.raises(asyncio.TimeoutError):
            await ring.waitid(os.P_PID, child.pid, timeout=0.001)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(ring.waitid(os.P_PID, child.pid), 0.001)
        child.stdin.close()
        result = await ring.waitid(os.P_PID, child.pid)
        assert (result.si_pid, result.si_code) == (child.pid, os.CLD_EXITED)
        with pytest.raises(ChildProcessError):
            await ring.waitid(os.P_PID, child.pid)
        child.returncode = result.si_status
    with pytest.raises((NotImplementedError, ChildProcessError), match=r"6\.7|child"):
        await ring.waitid(os.P_ALL, 0)


@on_each_loop
async def test_futex_when_another_process_wakes_then_true(ring) -> None:
    word = mmap.mmap(-1, 4096)  # closed when the last request releases it
    if not ring.supports(uapi.IORING_OP_FUTEX_WAIT):
        with pytest.raises(OSError, match="this kernel has no IORING_OP_FUTEX_WAIT"):
            await ring.futex_wait(word, 0)
        return
    memory = pin(word, True)
    assert await ring.futex_wait(memory, 1) is False
    with pytest.raises(asyncio.TimeoutError):
        await ring.futex_wait(memory, 0, timeout=0.001)
    waiting = asyncio.ensure_future(ring.futex_wait(memory, 0))
    woken = 0
    while not woken:
        woken = await ring.futex_wake(memory)
    assert woken == 1 and await waiting is True
    # A wake-up that arrives too late is passed on.
    first = asyncio.ensure_future(ring.futex_wait(memory, 0))
    await asyncio.sleep(0)
    ring.flush()
    second = asyncio.ensure_future(ring.futex_wait(memory, 0))
    await asyncio.sleep(0)
    ring.flush()
    wake = ring.futex_wake(memory)
    ring.ring.submit()
    first.cancel()
    assert await wake == 1
    with contextlib.suppress(asyncio.CancelledError):
        await first
    if first.cancelled():
        assert await asyncio.wait_for(second, 60) is True
    second.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await second


@on_each_loop
async def test_splice_tee_and_fsync_when_awaited_then_bytes_move(ring, tmp_path) -> None:
    needs(ring, uapi.IORING_OP_TEE, "5.8")
    with a_pipe() as (r, w), a_pipe() as (r2, w2), open(tmp_path / "f", "w+b") as file:
        os.write(w, b"hello")
        assert await ring.tee(r, w2, 5) == 5
        assert await ring.splice(r, -1, file.fileno(), 0, 5) == 5
        assert await ring.fsync(file.fileno()) == 0
        assert await ring.fsync(file.fileno(), datasync=True) == 0
        assert os.read(r2, 8) == b"hello" and os.pread(file.fileno(), 8, 0) == b"hello"


@on_each_loop
async def test_msg_ring_when_sent_from_another_loop_then_the_numbers_arrive_in_order(ring) -> None:
    mailbox = ring.mailbox()
    numbers = [0, 1, -1, (1 << 31) - 1, -(1 << 31)]

    async def send() -> None:
        for number in numbers:
            await asyncring.running().msg_ring(mailbox, number)

    thread = threading.Thread(target=lambda: _run(send()))
    thread.start()
    got = [await mailbox.__anext__() for _ in numbers]
    thread.join()
    assert got == numbers
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(mailbox.__anext__(), 0.001)
    await ring.msg_ring(mailbox, 7)
    with pytest.raises(OverflowError):
        await ring.msg_ring(mailbox, 1 << 31)
    waiting = [number async for number in _closing(mailbox)]
    assert waiting == [7]
    with pytest.raises(ValueError, match="closed"):
        await ring.msg_ring(mailbox, 1)


def test_msg_ring_when_the_other_loop_is_being_closed_then_the_mailbox_is_closed(loop, monkeypatch) -> None:
    """It raised RuntimeError: Event loop is closed."""

    def lacking(sqe, *arguments, **options) -> None:
        ops.prep_rw(sqe, 255, 0, 0, 0, 0, arguments[-1])

    async def open_mailbox() -> asyncring.Mailbox:
        return asyncring.running().mailbox()

    with contextlib.closing(stock_loop()) as other:
        mailbox = other.run_until_complete(open_mailbox())
        call_soon = other.call_soon_threadsafe

        def close_first(*arguments: Any) -> Any:
            other.close()  # as its thread may at this moment
            return call_soon(*arguments)

        async def send() -> None:
            with pytest.raises(ValueError, match="closed"):
                await asyncring.running().msg_ring(mailbox, 1)

        monkeypatch.setattr(ops, "prep_msg_ring_cqe_flags", lacking)
        monkeypatch.setattr(other, "call_soon_threadsafe", close_first)
        loop.run_until_complete(send())


async def _closing(mailbox: asyncring.Mailbox):
    asyncio.get_running_loop().call_soon(mailbox.close)
    async for number in mailbox:
        yield number


def _run(coroutine: Any) -> Any:
    loop = asyncio.SelectorEventLoop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.close()


# -- where the ring lives, and how it ends


def test_running_when_no_loop_runs_then_runtime_error_and_available_says_whether() -> None:
    with pytest.raises(RuntimeError):
        asyncring.running()
    assert asyncring.available() and asyncring.reason() == ""


def test_running_when_refused_then_unavailable_with_advice(monkeypatch, loop) -> None:
    def refuse() -> None:
        raise Unavailable(1, "io_uring_setup", "sysctl", "Ask root.")

    monkeypatch.setattr(asyncring, "_make_ring", refuse)

    async def main() -> None:
        if getattr(loop, "uring", None) is not None:
            pytest.skip("the loop has its own ring")
        assert not asyncring.available()
        assert "Ask root." in asyncring.reason()
        with pytest.raises(Unavailable, match="Ask root"):
            asyncring.running()

    loop.run_until_complete(main())


def test_loop_when_closed_with_requests_in_flight_then_they_end_and_nothing_is_said(loop) -> None:
    with a_pipe() as (r, _w), a_listener() as listener, warnings.catch_warnings():
        warnings.simplefilter("error")
        made: list[Any] = []

        async def main() -> None:
            ring = asyncring.running()
            made.append(ring)
            for _ in range(3):
                made.append(ring.call(ops.prep_read, r, pin(allocate(8), True), None, 0))
                made.append(ring.call(ops.prep_read, r, pin(allocate(8), True), None, 0, timeout=60))
                made.append(ring.chain((ops.prep_nop,), (ops.prep_read, r, pin(allocate(8), True), None, 0)))
            stream = ring.accept_multishot(listener)
            made.append(stream)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(stream.__anext__(), 0.001)
            made.append(ring.mailbox())

        def queue_and_stop() -> None:
            made.append(made[0].call(ops.prep_nop))
            made.append(made[0].call(ops.prep_nop, timeout=60))
            loop.stop()

        loop.run_until_complete(main())
        ring = made[0]
        loop.call_soon(queue_and_stop)
        loop.run_forever()
        unsent = ring.ring.sq.pending()  # none with uvloop: it ends its turn first
        loop.close()
        assert loop.is_closed()
        assert in_flight(ring) == 0 and ring.ring.closed
        ended = [each for each in made if asyncio.isfuture(each) and not each.cancelled()]
        assert all(each.done() for each in ended)
        assert len(ended) == (0 if unsent else 2)
        loop.close()


def test_loop_when_closed_then_late_results_are_handed_over(loop) -> None:
    got: list[int] = []

    async def main() -> asyncring.AsyncRing:
        ring = asyncring.running()
        ring.call(ops.prep_nop, late=got.append)
        ring.ring.submit()
        return ring

    ring = loop.run_until_complete(main())
    if in_flight(ring):
        loop.close()
        assert got == [0]


@pytest.mark.parametrize("make", [stock_loop, aio.new_event_loop])  # uvloop never frees a forgotten loop
def test_loop_when_forgotten_then_its_ring_goes_without_a_sound(make, recwarn) -> None:
    def forget() -> None:
        loop = make()

        async def main() -> None:
            ring = asyncring.running()
            ring.call(ops.prep_timeout, buffers.timespec(60 * 10**9), 0, 0)
            await ring.call(ops.prep_nop)

        loop.run_until_complete(main())

    forget()
    for _ in range(4):
        gc.collect()
    ours = [str(each.message) for each in recwarn if "Ring" in str(each.message)]
    assert not ours


def test_threads_when_each_has_a_loop_then_each_has_a_ring() -> None:
    found: list[Any] = []

    async def main() -> None:
        ring = asyncring.running()
        found.append(ring)
        assert await asyncio.gather(*[ring.call(ops.prep_nop) for _ in range(100)]) == [0] * 100

    threads = [threading.Thread(target=_run, args=(main(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 4


def test_loop_when_it_runs_in_another_thread_then_its_ring_follows(loop) -> None:
    async def main() -> None:
        assert await asyncring.running().call(ops.prep_nop) == 0

    loop.run_until_complete(main())
    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    thread.join()
    loop.run_until_complete(main())
    thread = threading.Thread(target=loop.close)
    thread.start()
    thread.join()


@on_each_loop
async def test_thread_when_it_is_not_the_loops_then_wrong_thread_and_nothing_has_changed(ring) -> None:
    with a_pair() as (a, b):
        future = ring.poll(b, select.POLLIN)
        sent = ring.poll(a, select.POLLIN)
        calls = [
            lambda: ring.call(ops.prep_nop), lambda: ring.chain((ops.prep_nop,)), ring.flush, ring.close,
            lambda: ring.start(ops.prep_nop), lambda: ring.cancel(future.token), future.cancel, sent.cancel,
            ring.mailbox,
        ]  # fmt: skip
        errors: list[Any] = []

        def other() -> None:
            for call in calls:
                try:
                    errors.append(call())
                except Exception as error:
                    errors.append(error)

        for _ in range(2):
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
            ring.flush()
            await asyncio.sleep(0)
        assert [type(error) for error in errors] == [WrongThread] * 2 * len(calls)
        a.send(b"x")
        assert await future & select.POLLIN
        sent.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sent


def test_loop_when_it_runs_in_another_thread_then_an_object_that_was_kept_follows(loop) -> None:
    kept: list[Any] = []

    async def first() -> None:
        kept.append(asyncring.running())
        kept.append(kept[0].poll(r, select.POLLIN))
        await asyncio.sleep(0)

    async def then() -> None:
        kept[1].cancel()
        assert await kept[0].call(ops.prep_nop) == 0
        with pytest.raises((asyncio.CancelledError, OSError)):
            await kept[1]

    with a_pipe() as (r, _w):
        loop.run_until_complete(first())
        thread = threading.Thread(target=lambda: kept.append(loop.run_until_complete(then())))
        thread.start()
        thread.join()
        assert len(kept) == 3
        loop.close()


async def a_piece(sock: socket.socket, peer: socket.socket) -> tuple[Any, Any]:
    """Return a piece of two bytes, and the group that has lacked its buffer since."""
    ring = asyncring.running()
    needs(ring, uapi.IORING_OP_SEND_ZC, "6.0, as RECV_MULTISHOT")
    group = register.setup_buf_ring(ring.ring, 7, 2, 64)
    async with ring.recv_multishot(sock, group) as stream:
        peer.send(b"xy")
        piece = await stream.__anext__()
    assert len(group) == 1
    return piece, group


def test_piece_when_the_loop_runs_in_another_thread_then_it_returns_in_the_next_turn(loop, pair) -> None:
    """The loop called recycle() in each turn, until a request made the ring follow it."""
    piece, group = loop.run_until_complete(a_piece(*pair))

    async def release() -> int:
        piece.release()
        await asyncio.sleep(0)
        return len(group)

    assert in_a_thread(lambda: loop.run_until_complete(release())) == 2


@contextlib.contextmanager
def closed_first(loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch):
    """Close the loop in this thread at the moment at which another calls its call_soon_threadsafe()."""
    call_soon, called, closed = loop.call_soon_threadsafe, threading.Event(), threading.Event()

    def wait_for_the_end(*arguments: Any) -> Any:
        called.set()
        closed.wait()
        return call_soon(*arguments)

    monkeypatch.setattr(loop, "call_soon_threadsafe", wait_for_the_end)
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        yield executor, called
        called.wait()
        try:
            loop.close()
        finally:
            closed.set()


def test_piece_when_the_loop_is_being_closed_then_it_is_released(loop, pair, monkeypatch) -> None:
    piece, _ = loop.run_until_complete(a_piece(*pair))
    with closed_first(loop, monkeypatch) as (executor, _):
        released = executor.submit(piece.release)
    assert released.result() is None


def test_stream_when_forgotten_while_the_loop_is_being_closed_then_silence(loop, monkeypatch) -> None:
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)

    async def begin() -> Any:
        stream = asyncring.running().stream(ops.prep_poll_multishot, r, select.POLLIN)
        step = asyncio.ensure_future(stream.__anext__())
        await asyncio.sleep(0)
        step.cancel()
        await asyncio.wait([step])
        return [stream]

    def forget() -> None:
        streams.clear()
        while not called.is_set():
            gc.collect()  # PyPy needs more than one

    with a_pipe() as (r, _):
        streams = loop.run_until_complete(begin())
        with closed_first(loop, monkeypatch) as (executor, called):
            executor.submit(forget)
    assert unraisable == []


def test_ring_when_it_was_closed_then_mailboxes_are_refused_and_the_loop_has_another(loop) -> None:
    async def main() -> None:
        ring = asyncring.running()
        await ring.call(ops.prep_nop)
        ring.close()
        with pytest.raises(RingClosed):
            ring.mailbox()
        other = asyncring.running()
        assert other is not ring
        assert await other.call(ops.prep_nop) == 0

    loop.run_until_complete(main())


def test_running_when_no_descriptor_is_left_for_the_mapping_then_unavailable(loop, monkeypatch) -> None:
    """Python's mmap duplicates the descriptor."""

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def main() -> None:
        if hasattr(loop, "uring"):
            pytest.skip("the loop has its own ring")
        monkeypatch.setattr(mmap, "mmap", full)
        assert not asyncring.available()
        assert "RLIMIT_NOFILE" in asyncring.reason()
        with pytest.raises(Unavailable, match="RLIMIT_NOFILE") as caught:
            asyncring.running()
        assert caught.value.cause == "nofile"
        monkeypatch.undo()
        assert asyncring.available()

    loop.run_until_complete(main())


def test_child_when_forked_then_it_starts_afresh(loop) -> None:
    if "User Mode Linux" in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace"):
        pytest.skip(f"a child of a process with rings hangs on user-mode Linux {os.uname().release}")

    async def nop() -> int:
        return await asyncring.running().call(ops.prep_nop)

    async def parent() -> None:
        ring = asyncring.running()
        with a_pipe() as (r, w):
            waiting = ring.call(ops.prep_read, r, pin(allocate(8), True), None, 0)
            ring.flush()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # 3.12: threads
                pid = os.fork()
            if not pid:
                code = 1
                try:
                    asyncio._set_running_loop(None)
                    code = _run(nop())
                finally:
                    os._exit(code)
            assert os.waitpid(pid, 0)[1] == 0
            os.write(w, b"x")
            assert await waiting == 1

    loop.run_until_complete(parent())


def take_away(monkeypatch, ring: asyncring.AsyncRing) -> None:
    """Refuse every call for a ring from now on, as a filter does."""

    def gone(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.EPERM, "a filter")

    for name in ("submit", "submit_and_wait", "submit_and_reap"):
        monkeypatch.setattr(ring.ring, name, gone)
    monkeypatch.setattr(ring.ring, "answers", lambda: False)


def test_ring_when_io_uring_is_taken_away_then_requests_fail_and_running_says_so(monkeypatch) -> None:
    loop = stock_loop()
    told: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda loop, context: told.append(context))

    async def main() -> None:
        ring = asyncring.running()
        handled: list[Any] = []
        blocks: list[Any] = []
        with a_pipe() as (r, w):
            waiting = ring.call(ops.prep_read, r, pin(allocate(8), True), None, 0)
            ring.start(ops.prep_poll_add, r, select.POLLIN, handler=lambda res, flags: handled.append(res))
            polls = ops.Block(3, ops.prep_poll_add, r, select.POLLIN | select.POLLOUT)
            polls.set("fd", [r, w, r])  # the one in the middle ends at once
            ring.table.start_block(polls, lambda *columns: blocks.append(columns))
            mailbox = ring.mailbox()
            mail = asyncio.ensure_future(mailbox.__anext__())
            ring.flush()
            await asyncio.sleep(0)
            assert blocks == [([1], [select.POLLOUT], [0])]
            take_away(monkeypatch, ring)
            queued = ring.call(ops.prep_nop)
            nops = ops.Block(2, ops.prep_nop)
            ring.table.start_block(nops, lambda *columns: blocks.append(columns))
            for future in (waiting, queued):
                with pytest.raises(PermissionError, match=r"(read|nop): "):
                    await future
            with pytest.raises(StopAsyncIteration):
                await mail
            code = -errno.EPERM
            assert handled == [code]
            assert sorted(blocks[1:]) == [([0, 1], [code] * 2, [0] * 2), ([0, 2], [code] * 2, [0] * 2)]
            monkeypatch.undo()
        assert "taken away" in told[0]["message"]
        assert await asyncring.running().call(ops.prep_nop) == 0  # a ring is available again

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        loop.run_until_complete(main())
    loop.close()


def test_ring_when_it_is_taken_away_then_a_stream_without_buffers_says_so(monkeypatch) -> None:
    loop = stock_loop()
    loop.set_exception_handler(lambda loop, context: None)

    async def main() -> None:
        ring = asyncring.running()
        needs(ring, uapi.IORING_OP_SEND_ZC, "6.0, as RECV_MULTISHOT")
        group = register.setup_buf_ring(ring.ring, 9, 2, 64)
        with a_pair() as (a, b):
            stream = ring.recv_multishot(b, group)
            pieces = []
            for _ in range(2):
                a.send(b"x" * 64)
                pieces.append(await stream.__anext__())
            a.send(b"more")
            step = asyncio.ensure_future(stream.__anext__())
            await settles(lambda: not in_flight(ring))  # it has ended for lack of buffers
            take_away(monkeypatch, ring)
            ring.call(ops.prep_nop)
            with pytest.raises(PermissionError):
                await step
            monkeypatch.undo()
            assert bytes(pieces[0]) == b"x" * 64
            b.close()

    with contextlib.closing(loop), warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        loop.run_until_complete(main())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a strike may hit a finalizer
def test_signal_handler_when_it_raises_at_any_moment_then_later_requests_end(loop) -> None:
    """In the package only: asyncio's own run_forever() does not survive an exception in its last lines."""
    armed = False

    def strike(number: int, frame: Any) -> None:
        if not armed:
            return
        if os.path.dirname(frame.f_code.co_filename) == os.path.dirname(asyncring.__file__):
            raise KeyboardInterrupt
        signal.setitimer(signal.ITIMER_REAL, 0.00005)  # soon again

    async def begin() -> None:
        asyncring.running()  # first: a strike where io_uring_setup returns may lose a descriptor

    async def some() -> None:
        ring = asyncring.running()
        for _ in range(300):
            await asyncio.gather(*[ring.call(ops.prep_nop) for _ in range(20)])

    async def end() -> None:
        ring = asyncring.running()
        assert await ring.call(ops.prep_nop) == 0
        await settles(lambda: in_flight(ring) == 0)
        assert in_flight(ring) == 0

    loop.run_until_complete(begin())
    old = signal.signal(signal.SIGALRM, strike)
    loop.set_exception_handler(lambda loop, context: None)
    loop.run_until_complete(end())  # makes the ring: a strike may lose a new descriptor, as os.open()'s
    try:
        for i in range(20):
            task = loop.create_task(some())
            try:
                armed = True
                signal.setitimer(signal.ITIMER_REAL, 0.0005 + i / 5000)
                loop.run_until_complete(asyncio.wait([task], timeout=1))
            except KeyboardInterrupt:
                pass
            finally:
                armed = False
                signal.setitimer(signal.ITIMER_REAL, 0)
                task.cancel()
            loop.run_until_complete(end())
    finally:
        signal.signal(signal.SIGALRM, old)


@contextlib.contextmanager
def a_strike_where_it_begins(name: str):
    """Raise KeyboardInterrupt at the start of a function of the package, as a signal handler may."""
    ours = os.path.dirname(asyncring.__file__)
    struck: list[str] = []

    def trace(frame: Any, event: str, arg: Any) -> None:
        if frame.f_code.co_name == name and os.path.dirname(frame.f_code.co_filename) == ours and not struck:
            struck.append(name)
            sys.settrace(None)
            raise KeyboardInterrupt

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield struck
    finally:
        sys.settrace(before)


@pytest.mark.parametrize(
    "name", ["_turn", "_complete", "_take", "_end", "_timer_ended", "_part_ended", "handle"]
)
def test_signal_handler_when_it_raises_where_a_function_begins_then_nobody_waits_for_ever(loop, name) -> None:
    """Later requests complete, and so do tasks that are cancelled, as asyncio.run() does then."""
    rounds = {"_part_ended": 2, "handle": 3, "_timer_ended": 4, "_take": 4, "_end": 4}

    async def some(r: int) -> None:
        ring = asyncring.running()
        what = rounds.get(name, 1)
        if what == 1:
            await asyncio.gather(ring.call(ops.prep_nop), ring.call(ops.prep_nop))
        elif what == 2:
            await ring.chain((ops.prep_nop,), (ops.prep_nop,))
        elif what == 3:
            async with ring.stream(ops.prep_poll_multishot, r, select.POLLIN) as stream:
                async for _ in stream:
                    break
        else:
            await ring.call(ops.prep_nop, timeout=60)

    async def end() -> None:
        ring = asyncring.running()
        assert await asyncio.gather(*[ring.call(ops.prep_nop) for _ in range(3)]) == [0, 0, 0]

    async def others() -> None:
        for _ in range(100):
            await asyncio.sleep(0)

    async def first() -> None:
        asyncring.running()

    def ends(*tasks: Any) -> None:
        loop.run_until_complete(asyncio.wait(tasks, timeout=30))
        assert all(task.done() for task in tasks), tasks

    loop.run_until_complete(first())
    with a_pipe() as (r, w):
        os.write(w, b"1")
        task = loop.create_task(some(r))
        with a_strike_where_it_begins(name) as struck, contextlib.suppress(KeyboardInterrupt):
            loop.run_until_complete(task)
        if not struck:
            assert name == "_turn" and isinstance(loop, aio.IoUringEventLoop)  # which has no separate turn
        # The loop is kept busy: an empty list of callbacks must not be what reveals it.
        busy = [loop.create_task(others()) for _ in range(3)]
        ends(loop.create_task(end()))
        task.cancel()
        ends(task, *busy)
        if not task.cancelled():
            task.exception()  # retrieve it, so that it is not logged
        loop.close()


@pytest.mark.parametrize("name", ["_end_all", "answer_unsent"])
def test_close_when_a_signal_handler_raises_then_it_can_be_called_again(loop, name) -> None:
    async def begin(r: int) -> tuple[asyncring.AsyncRing, Any]:
        ring = asyncring.running()
        future = ring.poll(r, select.POLLIN)
        ring.flush()
        return ring, future

    with a_pipe() as (r, _):
        ring, future = loop.run_until_complete(begin(r))
        with a_strike_where_it_begins(name) as struck, contextlib.suppress(KeyboardInterrupt):
            loop.close()
        assert struck and not loop.is_closed()
        loop.close()
        assert ring.ring.closed and future.cancelled()


@on_each_loop
async def test_chain_when_it_is_cancelled_unsent_then_no_nop_is_taken_for_a_descriptor(ring) -> None:
    """A withdrawn part completes with 0, as a NOP does; descriptor 0 belongs to somebody."""
    got: list[list[int]] = []
    with open(os.devnull, "rb") as file:
        name = buffers.path("/")
        chain = ring.chain(
            (ops.prep_nop,), (ops.prep_openat, -100, name, os.O_RDONLY, 0), late=got.append
        )
        # As if the kernel had consumed the first part only.
        slot_of = ring._slot_of
        ring._slot_of = lambda at, token: None if token == chain.token else slot_of(at, token)
        try:
            chain.cancel()
        finally:
            del ring._slot_of
        with pytest.raises(asyncio.CancelledError):
            await chain
        assert got == [[0, -errno.ECANCELED]]
        os.fstat(file.fileno())


def test_ring_when_its_descriptor_was_closed_and_its_number_is_used_again_then_that_file_stays_open() -> None:
    """Ring.lost() abandons a number that is no longer the ring's."""
    reported: list[dict[str, Any]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reported.append(context))
        ring = asyncring.running()
        number = ring.ring.fileno()
        os.close(number)
        other = os.open(os.devnull, os.O_RDONLY)
        try:
            assert other == number
            with pytest.raises(OSError, match="nop: "):
                await ring.call(ops.prep_nop)
            os.fstat(other)
        finally:
            os.close(other)

    loop = asyncio.SelectorEventLoop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
    assert any("taken away" in context["message"] for context in reported)
