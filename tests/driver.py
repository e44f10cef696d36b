# SPDX-License-Identifier: MIT
"""Run requests one by one on a real ring, for tests.

What it is: prepare, submit, wait, and return the CQEs; the ways to skip a test for a missing kernel feature;
and a thread that ends.
Must not know: the meaning of an operation.
Invariant: a request that does not complete in time fails the test; nothing waits forever.
Read next: test_every_opcode.py.
"""

from __future__ import annotations

import errno
import functools
import gc
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rawuring import gates, register, rings, syscalls, uapi
from rawuring.inflight import InFlight

TIMEOUT_NS = 20_000_000_000


@functools.cache
def kernel_release() -> tuple[int, int]:
    """Return the running kernel's release, to tell a feature that is missing from one that is broken."""
    return release(os.uname().release)


def release(since: str) -> tuple[int, int]:
    major, minor, *_ = gates.version(since)
    return major, minor


def lacks(feature: str, since: str, config: str = "") -> None:
    """Skip the test for lack of a feature, unless this kernel is new enough to have it.

    config names the option without which a kernel lacks it.
    """
    if "PBUF_RING" in feature and gates.applies("pbuf-highmem") and register._has_high_memory():
        pytest.skip("a ring of buffers on a kernel with high memory (Linux 6.6)")
    if not config and kernel_release() >= release(since):
        pytest.fail(f"{feature} is in Linux {since}, and this is {os.uname().release}")
    pytest.skip(f"{feature} (Linux {since}{', ' + config if config else ''})")


@functools.cache
def supported_opcodes() -> frozenset[int] | None:
    """Return the opcodes that REGISTER_PROBE lists, None if it is unavailable (before 5.6)."""
    with rings.Ring(2) as ring:
        try:
            return frozenset(op for op, known in register.register_probe(ring).items() if known)
        except OSError:
            return None


def need_opcode(name: str) -> None:
    """Skip when this kernel does not admit an operation."""
    known = supported_opcodes()
    opcode = vars(uapi)["IORING_OP_" + name]
    if known is None:
        if release(uapi.SINCE["IORING_OP_" + name]) > kernel_release():
            pytest.skip(f"IORING_OP_{name} (Linux {uapi.SINCE['IORING_OP_' + name]})")
    elif opcode not in known:
        since = uapi.SINCE["IORING_OP_" + name]
        lacks(f"IORING_OP_{name}", since, BUILT_OUT.get(name, ""))


#: Operations that a kernel of the right age may be built without.
BUILT_OUT = {
    "EPOLL_CTL": "CONFIG_EPOLL",
    "EPOLL_WAIT": "CONFIG_EPOLL",
    "FUTEX_WAIT": "CONFIG_FUTEX",
    "FUTEX_WAKE": "CONFIG_FUTEX",
    "FUTEX_WAITV": "CONFIG_FUTEX",
    "RECV_ZC": "CONFIG_PAGE_POOL",
    "MADVISE": "CONFIG_ADVISE_SYSCALLS",
    "FADVISE": "CONFIG_ADVISE_SYSCALLS",
}


def need_ring(**options: Any) -> rings.Ring:
    """Create a ring or skip, naming the flags that are missing."""
    flags = options.get("flags", 0)
    try:
        return rings.Ring(options.pop("entries", 8), **options)
    except syscalls.Unavailable as error:
        names = uapi.names_of_flags("IORING_SETUP_", flags)
        since = max((uapi.SINCE[name] for name in names), key=release, default="5.1")
        if error.errno == errno.EINVAL and release(since) > kernel_release():
            pytest.skip(f"{'|'.join(names)} (Linux {since})")
        raise


class Driver:
    """A ring, its table, and the results of its requests."""

    def __init__(self, ring: rings.Ring | None = None) -> None:
        """Take a ring, or make one."""
        self.ring = ring or rings.Ring(16, wish=rings.RECOMMENDED)
        self.table = InFlight(self.ring)
        self.results: dict[int, list[tuple[int, int]]] = {}
        self.order: list[int] = []
        self.zero = -1  # a descriptor of /dev/zero, for tests that need one

    def __enter__(self) -> Driver:
        """Return the driver itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the ring."""
        self.ring.close()

    def start(self, prep: Callable[..., None], *arguments: Any, keep: Any = (), **options: Any) -> int:
        """Queue a request; return its token. The slot may be one of 128 bytes."""
        results: list[tuple[int, int]] = []
        wide = options.pop("wide", False)
        token = self.table.hold(None, *(keep if isinstance(keep, (tuple, list)) else (keep,)))
        handler = functools.partial(self._note, token, results)
        self.table.entries[token] = (handler, *self.table.entries[token][1:])
        self.results[token] = results
        prep(self.ring.sq.get_sqe128() if wide else self.ring.get_sqe(), *arguments, token, **options)
        return token

    def _note(self, token: int, results: list[tuple[int, int]], res: int, flags: int) -> None:
        results.append((res, flags))
        self.order.append(token)

    def pump(self, enough: Callable[[], bool]) -> None:
        """Submit, wait and dispatch until a condition holds."""
        deadline = time.monotonic_ns() + TIMEOUT_NS
        self.ring.submit()
        self.table.dispatch(self.ring.reap())
        while not enough():
            left = deadline - time.monotonic_ns()
            assert left > 0, f"no completion in {TIMEOUT_NS / 1e9} s; so far: {self.results}"
            self.ring.submit_and_wait(1, left)
            self.table.dispatch(self.ring.reap())

    def finish(self, *tokens: int) -> list[tuple[int, int]]:
        """Wait for the last CQE of each; return all CQEs of the first."""
        self.pump(lambda: not any(token in self.table for token in tokens))
        return self.results[tokens[0]]

    def more(self, token: int, count: int) -> list[tuple[int, int]]:
        """Wait until a request has posted that many CQEs; return them."""
        self.pump(lambda: len(self.results[token]) >= count)
        return self.results[token]

    def run(self, prep: Callable[..., None], *arguments: Any, keep: Any = (), **options: Any) -> int:
        """Make one request; return the res of its last CQE."""
        return self.finish(self.start(prep, *arguments, keep=keep, **options))[-1][0]


def in_a_thread(function: Callable[[], Any]) -> Any:
    """Call a function in a thread of its own, which has ended then, and return its result."""
    with ThreadPoolExecutor(1) as executor:
        future = executor.submit(function)
    if sys.implementation.name == "pypy":
        gc.collect()  # the objects of a thread are freed late, and its ident may be that of the next one
    return future.result()
