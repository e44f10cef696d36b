# SPDX-License-Identifier: MIT
"""Signal handlers that raise at random moments.

What it is: an exception that SIGALRM's handler raises inside the package, once each time it is armed.
Must not know: any test.
Invariant: a strike reaches the test. In a finalizer, in a callback of the collector or outside the package
the exception could be swallowed, so the handler tries again a moment later.
Read next: test_monitors.py.
"""

from __future__ import annotations

import importlib
import selectors
import signal
from types import FrameType, TracebackType

OURS = (
    "barriers", "queues", "handle", "rings", "ops", "inflight", "monitor", "fdmonpoll", "fdmon",
    "epollwait", "selector", "syscalls",
)  # fmt: skip
#: In a copy in one file all modules are the same file.
INSIDE = {selectors.__file__, *(importlib.import_module(f"rawuring.{name}").__file__ for name in OURS)}


class Leave(Exception):
    """Raised by the handler."""


class Struck(BaseException):
    """Raised by a test at a chosen moment, in place of a handler; no ``except Exception`` catches it."""


def inside(frame: FrameType | None) -> bool:
    """Tell whether a frame belongs to the package or selectors, with no finalizer among its callers."""
    if frame is None or frame.f_code.co_filename not in INSIDE:
        return False
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return False
        frame = frame.f_back
    return True


class Strikes:
    """Raise Leave once after each arm(), at the first signal that arrives inside the package."""

    def __init__(self) -> None:
        self.armed = False

    def __enter__(self) -> Strikes:
        self._old = signal.signal(signal.SIGALRM, self._strike)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.disarm()
        signal.signal(signal.SIGALRM, self._old)

    def arm(self, seconds: float) -> None:
        """Strike once, that many seconds from now or a little later."""
        self.armed = True
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def disarm(self) -> None:
        """Stop striking."""
        self.armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _strike(self, _: int, frame: FrameType | None) -> None:
        if not self.armed:
            return
        if not inside(frame):
            signal.setitimer(signal.ITIMER_REAL, 0.0001)  # one at a time, however slow the machine
            return
        self.armed = False
        raise Leave
