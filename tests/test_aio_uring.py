# SPDX-License-Identifier: MIT
"""IoUringEventLoop.uring: requests awaited on the ring of the loop's selector."""

from __future__ import annotations

import asyncio
import os
import select
import selectors
import socket
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
from strategies import selector_of

from rawuring import aio, asyncring, ops
from rawuring.buffers import allocate, pin
from rawuring.selector import STRATEGIES, IoUringSelector

ROOT = Path(__file__).resolve().parent.parent
pytestmark = [pytest.mark.requires_io_uring, pytest.mark.leakcheck]


@pytest.fixture(params=list(STRATEGIES))
def loop(request):
    made = aio.IoUringEventLoop(selector_of(request.param, trusting=True))
    yield made
    made.close()


def read(ring: asyncring.AsyncRing, fd: int):
    return ring.call(ops.prep_read, fd, pin(allocate(8), True), None, 0)


def test_running_then_the_ring_of_the_selector(loop):
    async def main() -> None:
        ring = asyncring.running()
        assert ring is loop.uring is asyncring.running()
        assert ring.ring is loop.selector.ring
        assert await ring.call(ops.prep_nop) == 0

    loop.run_until_complete(main())


@pytest.mark.parametrize("count", [1, 64])
def test_turns_that_await_requests_then_one_io_uring_enter_each(loop, count):
    async def main() -> int:
        ring = loop.uring
        for _ in range(3):
            await ring.call(ops.prep_nop)
        before = ring.ring.statistics().enters
        for _ in range(50):
            futures = [ring.call(ops.prep_nop) for _ in range(count)]
            await futures[-1]
        return ring.ring.statistics().enters - before

    assert loop.run_until_complete(main()) == 50


def test_requests_between_sockets_and_timers_then_all_go_on(loop):
    async def echo(reader, writer) -> None:
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    async def talk(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for i in range(1, 30):
            writer.write(bytes([i]) * i)
            assert await reader.readexactly(i) == bytes([i]) * i
        writer.close()
        await writer.wait_closed()

    async def requests() -> None:
        for _ in range(100):
            assert await loop.uring.call(ops.prep_nop) == 0

    async def timers() -> None:
        for _ in range(20):
            await asyncio.sleep(0.0001)

    async def main() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        await asyncio.gather(*[talk(port) for _ in range(5)], *[requests() for _ in range(5)], timers())
        server.close()
        await server.wait_closed()

    loop.run_until_complete(main())


def test_request_that_ends_while_the_loop_waits_then_it_wakes_the_loop(loop, blocking_pipe):
    async def main() -> int:
        future = read(loop.uring, blocking_pipe[0])
        writer = threading.Timer(0.01, os.write, (blocking_pipe[1], b"bytes"))
        writer.start()
        result = await future
        writer.join()
        return result

    assert loop.run_until_complete(main()) == 5


def test_loop_is_closed_then_requests_have_ended_and_their_futures_are_cancelled(loop, blocking_pipe):
    async def main() -> asyncio.Future:
        future = read(loop.uring, blocking_pipe[0])
        await asyncio.sleep(0.001)
        return future

    future = loop.run_until_complete(main())
    table = loop.uring.table
    assert future.token in table
    loop.close()
    assert future.cancelled()
    assert len(table) == 0
    with pytest.raises(RuntimeError, match="closed"):
        loop.uring  # noqa: B018
    loop.close()


def test_ring_is_closed_then_the_loop_goes_on(loop):
    async def main() -> bytes:
        a, b = socket.socketpair()
        a.setblocking(False)
        with a, b:
            await asyncio.wait_for(asyncio.sleep(0), 5)
            loop.uring.close()
            threading.Timer(0.01, b.send, (b"x",)).start()
            return await loop.sock_recv(a, 1)

    assert loop.run_until_complete(main()) == b"x"


def test_loop_moves_to_another_thread_then_its_ring_does(loop, blocking_pipe):
    async def main() -> int:
        assert await asyncring.running().call(ops.prep_nop) == 0
        future = read(asyncring.running(), blocking_pipe[0])
        await asyncio.sleep(0)
        os.write(blocking_pipe[1], b"x")
        return await future

    results = [loop.run_until_complete(main())]
    thread = threading.Thread(target=lambda: results.append(loop.run_until_complete(main())))
    thread.start()
    thread.join()
    results.append(loop.run_until_complete(main()))
    assert results == [1, 1, 1]


@pytest.mark.parametrize("make", [lambda: IoUringSelector("epoll"), selectors.EpollSelector])
def test_selector_without_a_ring_then_a_private_one(make, blocking_pipe):
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ring = loop.uring
        assert ring is asyncring.running() is loop.uring
        future = read(ring, blocking_pipe[0])
        os.write(blocking_pipe[1], b"x")
        assert await future == 1

    loop = aio.IoUringEventLoop(make())
    loop.run_until_complete(main())
    ring = loop.uring.ring
    loop.close()
    assert ring.closed


def test_ring_is_lost_then_requests_fail_and_a_private_ring_takes_over(loop, blocking_pipe):
    async def main() -> None:
        ring = loop.uring
        await ring.call(ops.prep_nop)
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        number.append(ring.ring.fileno())
        os.dup2(null, number[0], inheritable=False)
        os.close(null)
        future = ring.call(ops.prep_nop)
        with pytest.raises((OSError, asyncio.CancelledError)):
            await future
        assert loop.uring is not ring
        assert await loop.uring.call(ops.prep_nop) == 0

    number: list[int] = []
    with pytest.warns(RuntimeWarning, match="continuing with"):
        loop.run_until_complete(main())
    loop.close()
    os.close(number[0])


def test_ring_is_lost_then_blocks_are_answered_or_go_on(loop, blocking_pipe):
    """Submitted requests still complete; others, and those started later, fail with the errno."""
    answers = {}

    def block(name, fds):
        made = ops.Block(len(fds), ops.prep_poll_add, fds[0], select.POLLIN)
        made.set("fd", fds)
        loop.uring.table.start_block(made, lambda *columns: answers.setdefault(name, columns))

    async def main() -> None:
        ring = loop.uring
        block("sent", [r, r])
        ring.flush()
        await asyncio.sleep(0)
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        number.append(ring.ring.fileno())
        os.dup2(null, number[0], inheritable=False)
        os.close(null)
        block("unsent", [r, r, r])
        while "unsent" not in answers:
            await asyncio.sleep(0)
        os.write(w, b"x")
        while "sent" not in answers:
            await asyncio.sleep(0.001)

    r, w = blocking_pipe
    number: list[int] = []
    with pytest.warns(RuntimeWarning, match="continuing with"):
        loop.run_until_complete(main())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the selector's own wait never completes
        loop.close()
    os.close(number[0])
    indices, results, _ = answers["sent"]
    results = [res & select.POLLIN for res in results]  # 5.10 does not restrict the mask of a woken poll
    assert (sorted(indices), results) == ([0, 1], [select.POLLIN] * 2)
    indices, results, flags = answers["unsent"]
    assert (indices, flags) == ([0, 1, 2], [0, 0, 0])
    assert len(set(results)) == 1
    assert results[0] < 0


FORGOTTEN = """
import asyncio, gc, os, warnings
from rawuring import aio, asyncring, ops
from rawuring.buffers import allocate, pin
warnings.simplefilter("ignore", ResourceWarning)
r, w = os.pipe()
def work():
    loop = aio.new_event_loop()
    async def main():
        loop.uring.call(ops.prep_read, r, pin(allocate(8), True), None, 0)
        await asyncio.sleep(0)
    loop.run_until_complete(main())
for _ in range(5):
    work()
    gc.collect()
"""


def test_loop_with_a_request_is_forgotten_then_nothing_on_stderr():
    done = subprocess.run(
        [sys.executable, "-c", FORGOTTEN], capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAWURING_DEBUG": "0"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
