# SPDX-License-Identifier: MIT
"""Selectors with a given strategy, for tests, and the skips if the kernel is too old for it.

What it is: the library's message, "IORING_OP_EPOLL_WAIT (Linux 6.15)", as the reason.
Must not know: the requirements of a strategy.
Invariant: an error that does not name a kernel fails the test, and so does one that this kernel contradicts:
see conftest.py.
Read next: test_selector.py.
"""

from __future__ import annotations

import re
from selectors import BaseSelector
from typing import Any

import pytest

from rawuring.selector import IoUringSelector
from rawuring.syscalls import Unavailable


def selector_of(strategy: str | None, **options: Any) -> IoUringSelector:
    """Create a selector, or skip, naming what is missing."""
    try:
        return IoUringSelector(strategy, fallback=False, **options)
    except Unavailable as error:
        pytest.skip(f"io_uring (Linux 5.1): {error}")
    except OSError as error:
        skip_if_too_old(f"{error}")
        raise


def ready(sel: BaseSelector, timeout: float | None = 0) -> list[tuple[int, int]]:
    """Return the descriptors that select() reports, each with its events, in order."""
    return sorted((key.fd, events) for key, events in sel.select(timeout))


def skip_if_too_old(said: str) -> None:
    """Skip if an error, or the output of a program, says that the kernel is too old for a strategy."""
    if found := re.search(r"IORING_OP_EPOLL_(CTL|WAIT) \(Linux .*", said):
        pytest.skip(found[0])
