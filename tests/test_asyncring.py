# SPDX-License-Identifier: MIT
"""Requests that are awaited, on the stock loop, on uvloop and on ours."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from rawuring import aio, asyncring, ops
from rawuring.buffers import allocate, pin
from rawuring.syscalls import Unavailable

pytestmark = [pytest.mark.requires_io_uring, pytest.mark.leakcheck]

Runner = Callable[[Coroutine[Any, Any, Any]], Any]


def stock_loop() -> asyncio.AbstractEventLoop:
    return asyncio.SelectorEventLoop()


def uvloop_loop() -> asyncio.AbstractEventLoop:
    return pytest.importorskip("uvloop").new_event_loop()


@pytest.fixture(scope="module", autouse=True)
def _uvloop_opens_what_it_keeps() -> None:
    """Let uvloop open the pipe that the process keeps, before descriptors are counted."""
    with contextlib.suppress(pytest.skip.Exception):
        uvloop_loop().close()


@pytest.fixture(params=[stock_loop, uvloop_loop, aio.new_event_loop], ids=["stock", "uvloop", "ours"])
def loop(request: pytest.FixtureRequest):
    made = request.param()
    yield made
    if not made.is_closed():
        made.close()


def in_flight(ring: asyncring.AsyncRing) -> int:
    """Count requests; beside them a selector's own waits in the table of its ring."""
    return sum(callable(request.handler) for request in ring.table.requests())


@pytest.fixture
def run(loop) -> Runner:
    return loop.run_until_complete


def test_call_when_awaited_then_res_and_a_future(run: Runner) -> None:
    async def main() -> None:
        ring = asyncring.running()
        assert asyncring.running() is ring
        future = ring.call(ops.prep_nop)
        assert asyncio.isfuture(future)
        assert await future == 0
        assert await asyncio.gather(*[ring.call(ops.prep_nop) for _ in range(10_000)]) == [0] * 10_000
        assert in_flight(ring) == 0

    run(main())


def test_call_when_the_kernel_refuses_then_oserror_with_the_operation(run: Runner) -> None:
    async def main() -> None:
        with pytest.raises(OSError, match="read: ") as caught:
            await asyncring.running().call(ops.prep_read, 1 << 20, pin(allocate(8), True), None, 0)
        assert caught.value.errno == 9

    run(main())


def test_running_when_no_loop_runs_then_runtime_error_and_available_says_whether() -> None:
    with pytest.raises(RuntimeError):
        asyncring.running()
    assert asyncring.available() and asyncring.reason() == ""


def test_running_when_refused_then_unavailable_with_advice(monkeypatch, run: Runner) -> None:
    def refuse() -> None:
        raise Unavailable(1, "io_uring_setup", "sysctl", "Ask root.")

    monkeypatch.setattr(asyncring, "_make_ring", refuse)

    async def main() -> None:
        if hasattr(asyncio.get_running_loop(), "uring"):
            pytest.skip("the loop has a ring of its own")
        assert not asyncring.available()
        assert "Ask root." in asyncring.reason()
        with pytest.raises(Unavailable, match="Ask root"):
            asyncring.running()

    run(main())


def test_timeout_when_it_passes_then_timeout_error_and_nothing_in_flight(run: Runner) -> None:
    async def main() -> None:
        ring = asyncring.running()
        r, w = os.pipe()
        memory = allocate(8)
        try:
            with pytest.raises(asyncio.TimeoutError, match="read did not end in time"):
                await ring.call(ops.prep_read, r, pin(memory, True), None, 0, timeout=0.001)
            assert in_flight(ring) == 0
            future = ring.call(ops.prep_read, r, pin(memory, True), None, 0, timeout=60)
            os.write(w, b"in time")
            assert await future == 7
        finally:
            os.close(r)
            os.close(w)

    run(main())


def test_cancel_before_it_is_sent_then_the_kernel_does_not_see_it(run: Runner) -> None:
    async def main() -> None:
        ring = asyncring.running()
        r, w = os.pipe()
        future = ring.call(ops.prep_write, w, pin(b"unwanted"), None, 0)
        assert future.cancel() and future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
        os.close(w)
        assert os.read(r, 100) == b""
        os.close(r)

    run(main())


def test_cancel_when_sent_then_cancelled_with_the_final_cqe(run: Runner) -> None:
    async def main() -> None:
        ring = asyncring.running()
        r, w = os.pipe()
        future = ring.call(ops.prep_read, r, pin(allocate(8), True), None, 0)
        ring.flush()
        assert future.cancel()
        assert future.token in ring.table
        with pytest.raises(asyncio.CancelledError):
            await future
        assert future.token not in ring.table
        os.close(r)
        os.close(w)

    run(main())
