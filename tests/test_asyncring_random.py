# SPDX-License-Identifier: MIT
"""Random cancels, timeouts and closes: no byte, descriptor or request is lost (the short form).

What it is: asyncring_random.Storm on the stock loop, uvloop and rawuring.aio's, from several seeds.
Must not know: what a storm does.
Invariant: tools/soak.py runs the same for a million requests.
Read next: asyncring_random.py.
"""

from __future__ import annotations

import asyncio

import asyncring_random
import pytest

from rawuring import aio

pytestmark = [
    pytest.mark.requires_io_uring, pytest.mark.leakcheck, pytest.mark.usefixtures("used_uvloop"),
]  # fmt: skip


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.long) for seed in (2, 3))])
@pytest.mark.parametrize("name", ["stock", "uvloop", "ours"])
def test_storm_when_it_is_over_then_nothing_is_left_and_no_byte_is_lost(name: str, seed: int) -> None:
    make = {"stock": asyncio.SelectorEventLoop, "ours": aio.new_event_loop}.get(name)
    if make is None:
        make = pytest.importorskip("uvloop").new_event_loop
    figures = asyncring_random.run_storm(make, seed, 1500, closes=3)
    assert figures["requests"] >= 1500 and figures["closes"] == 3
    assert figures["cancelled"] > 100 and figures["timeouts"] > 50
