# SPDX-License-Identifier: MIT
"""CLOCK_REALTIME is set forward and back while everything waits; only in a guest, where it is harmless.

``python3 tools/kernel_matrix run 6.12um -- CMD``, CMD being
``RAWURING_SET_CLOCK=1 python3 -m pytest tests/faults/test_clock.py``.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time

import pytest
from harness import figures

from rawuring import aio, buffers, fdmon, ops, rings, selector

pytestmark = [
    pytest.mark.requires_io_uring,
    pytest.mark.skipif(
        os.environ.get("RAWURING_SET_CLOCK") != "1", reason="a clock that may be set (RAWURING_SET_CLOCK=1)"
    ),
]

DAY_S = 86_400


@pytest.fixture
def jumping():
    """Set the wall clock a day ahead and back, a hundred times a second; return a counter."""
    stop, jumps = threading.Event(), [0]
    behind = time.clock_gettime(time.CLOCK_REALTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)

    def jump():
        while not stop.wait(0.01):
            days = (1, -1, 0)[jumps[0] % 3]
            now = time.clock_gettime(time.CLOCK_MONOTONIC) + behind
            time.clock_settime(time.CLOCK_REALTIME, now + days * DAY_S)
            jumps[0] += 1

    thread = threading.Thread(target=jump)
    thread.start()
    yield jumps
    stop.set()
    thread.join()
    time.clock_settime(time.CLOCK_REALTIME, time.clock_gettime(time.CLOCK_MONOTONIC) + behind)
    figures["clock jumps"] += jumps[0]


def took(wait):
    start = time.monotonic_ns()
    wait()
    return time.monotonic_ns() - start


def test_wall_clock_jumps_then_no_wait_and_no_timer_is_short_or_long(jumping):
    quarter = 250_000_000
    one, two = socket.socketpair()
    with one, two, rings.Ring(4) as ring, fdmon.IoUringFDMon() as monitor:
        ts = buffers.timespec(quarter)

        def timer():
            ops.prep_timeout(ring.get_sqe(), ts.address, 0, 0, 5)
            ring.submit_and_wait(1)
            assert [cqe[0] for cqe in ring.reap()] == [5]

        waits = {
            "ring": lambda: ring.submit_and_wait(1, quarter),
            "timer": timer,
            "monitor": lambda: monitor.wait(quarter),
        }
        chosen = []
        for name in selector.STRATEGIES:
            try:
                each = selector.IoUringSelector(name, fallback=False)
            except OSError:
                continue
            chosen.append(each)
            each.register(one, 1)
            waits[name] = lambda each=each: each.select(quarter / 1e9)
        for name, wait in waits.items():
            before = jumping[0]
            duration = took(wait)
            assert quarter <= duration < 240 * quarter, (name, duration)  # of a day
            assert jumping[0] - before > 3, name
        for each in chosen:
            each.close()


def test_wall_clock_jumps_then_asyncio_sleeps_as_long_as_it_should(jumping):
    loop = aio.IoUringEventLoop()
    assert 0.25e9 <= took(lambda: loop.run_until_complete(asyncio.sleep(0.25))) < 60e9
    loop.close()
    assert jumping[0] > 3
