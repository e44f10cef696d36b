# SPDX-License-Identifier: MIT
# pyright: basic
"""io_uring from pure Python.

What it is: the names most programs need, each fetched from its module on first use.
Mirrors: nothing; the vocabulary below is the kernel's, liburing's and QEMU's.
Must not know: how anything works.
Invariant: importing this file imports no other file of the package and touches nothing of the system.
Read next: uapi.py, then syscalls.py, barriers.py, queues.py and rings.py.

Unless said otherwise, memory passed to a call may be freed when the call returns, any thread may call, and
Linux 5.1 suffices. A module whose functions differ in this states its own defaults in its head.

probe is left out on purpose: ``python -m rawuring.probe`` must find it not yet imported.
"""

# No __future__ import here: it would be a SyntaxError where the version must be reported.
import sys

if sys.version_info < (3, 9):  # noqa: UP036 (Python 3.6 can parse this file)
    _TOO_OLD = f"rawuring needs Python 3.9 or newer; this is Python 3.{sys.version_info[1]}"
    _frame = sys._getframe()
    while _frame and _frame.f_code.co_name != "_get_module_details":
        _frame = _frame.f_back
    if _frame and _frame.f_locals.get("pkg_name") == __name__:  # python -m rawuring.probe
        sys.exit(_TOO_OLD)
    raise ImportError(_TOO_OLD)

__version__ = "0.1.0"

__all__ = [
    "AioHandler",
    "FDMon",
    "ForkedRing",
    "InFlight",
    "Ring",
    "RingClosed",
    "SubmissionQueueFull",
    "Unavailable",
    "WrongThread",
    "__version__",
    "ops",
    "pin",
    "uapi",
]

# Public name -> the module that defines it. A module stands for itself.
_HOME: dict[str, str] = {
    "AioHandler": "fdmon",
    "FDMon": "fdmon",
    "ForkedRing": "handle",
    "InFlight": "inflight",
    "Ring": "rings",
    "RingClosed": "rings",
    "SubmissionQueueFull": "rings",
    "Unavailable": "syscalls",
    "WrongThread": "rings",
    "ops": "ops",
    "pin": "buffers",
    "uapi": "uapi",
}

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import ops, uapi
    from .buffers import pin
    from .fdmon import AioHandler, FDMon
    from .handle import ForkedRing
    from .inflight import InFlight
    from .rings import Ring, RingClosed, SubmissionQueueFull, WrongThread
    from .syscalls import Unavailable
else:
    # Hidden from type checkers, which would otherwise accept every misspelt name.
    def __getattr__(name):
        """Fetch a public name from its module and keep it (PEP 562)."""
        home = _HOME.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        module = import_module(f"{__name__}.{home}")
        value = module if name == home else getattr(module, name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
