# SPDX-License-Identifier: MIT
"""The reason why io_uring is unavailable here, for the skips of conftest.py."""

from __future__ import annotations

import functools


@functools.cache
def io_uring_refusal() -> str | None:
    """Return why there is no io_uring here, None where there is. Found by trying."""
    try:
        from rawuring.rings import Ring
        from rawuring.syscalls import Unavailable
    except ModuleNotFoundError as error:
        if error.name not in ("rawuring.rings", "rawuring.syscalls"):
            raise  # a file that was taken away is a reason to skip, a broken one is not
        return f"{error}"
    try:
        Ring(2).close()
    except Unavailable as error:
        return f"{error}"
    return None
