# SPDX-License-Identifier: MIT
"""The reason why io_uring, a ring of some kind, or a seccomp filter is unavailable here: for skips."""

from __future__ import annotations

import contextlib
import functools
import subprocess
from collections.abc import Iterator

import pytest


@functools.cache
def io_uring_refusal() -> str | None:
    """Return why io_uring is unavailable here, None if a ring can be made."""
    try:
        from rawuring.rings import Ring
        from rawuring.syscalls import Unavailable
    except ModuleNotFoundError as error:
        if error.name not in ("rawuring.rings", "rawuring.syscalls"):
            raise  # a file that was removed is a reason to skip, a broken one is not
        return f"{error}"
    try:
        Ring(2).close()
    except Unavailable as error:
        return f"{error}"
    return None


@contextlib.contextmanager
def workers_stay() -> Iterator[None]:
    """Keep a ring open where workers leave without their requests: see gates.py, worker-leaves."""
    from rawuring import gates, rings

    with contextlib.ExitStack() as stack:
        if gates.applies("worker-leaves") and not io_uring_refusal():
            stack.enter_context(rings.Ring(2))
        yield


def needs_of(flags: int, sqpoll: bool = False) -> str:
    """Name a ring's requirements and their kernels, for a skip; sqpoll: a monitor on such a ring."""
    from rawuring import uapi

    since = [f"{name} (Linux {uapi.SINCE[name]})" for name in uapi.names_of_flags("IORING_SETUP_", flags)]
    if sqpoll:
        since.append("SQPOLL for every descriptor (Linux 5.11)")
    return ", ".join(since) or "io_uring (Linux 5.1)"


def skip_without_seccomp(done: subprocess.CompletedProcess[str]) -> None:
    """Skip if a process ended with exit code 77: it could not install its filter."""
    if done.returncode == 77:
        pytest.skip("seccomp filters (CONFIG_SECCOMP_FILTER, Linux 3.5)")
