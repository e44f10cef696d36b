# SPDX-License-Identifier: MIT
# pyright: basic
"""The interface between a selector and the strategy that watches its descriptors.

What it is: Strategy, and the parts that both sides share: keys, ready lists, poll bits.
Mirrors: CPython ``Lib/selectors.py``, in how events become poll bits and back.
Must not know: how a strategy watches, asyncio.
Invariant: a strategy reads the selector's registrations, and only change() writes there.
Read next: epollwait.py.

Unless said otherwise, any thread may call.
"""

from __future__ import annotations

from selectors import EVENT_READ, EVENT_WRITE, SelectorKey

from . import syscalls
from .inflight import InFlight
from .monitor import POLLIN, POLLOUT  # epoll's bits have the same values
from .rings import Ring

TYPE_CHECKING = False
if TYPE_CHECKING:
    Ready = list[tuple[SelectorKey, int]]
    Keys = dict[int, SelectorKey]

_BOTH = EVENT_READ | EVENT_WRITE
#: Indexed by EVENT_READ | EVENT_WRITE, gives a mask; other bits are ignored, as in EpollSelector.
_MASK = (0, POLLIN, POLLOUT, POLLIN | POLLOUT)
# As in EpollSelector: any bit but IN means writable, any bit but OUT means readable, so that an error or a
# hang-up wakes every waiter.
_EVENTS = tuple(
    (EVENT_WRITE if mask & ~POLLIN else 0) | (EVENT_READ if mask & ~POLLOUT else 0) for mask in range(32)
)
_LONGEST_STDLIB = 2_000_000  # 23 days: poll(2) and epoll_wait(2) count milliseconds in an int


class Strategy(syscalls.Uncopyable):
    """The interface of every strategy."""

    #: IoUringSelector.backend and reason.
    name = ""
    reason = ""
    ring: Ring | None = None
    #: The registrations, descriptor -> key: the selector's own dictionary.
    keys: Keys

    def add(self, key: SelectorKey, known: bool) -> None:
        """Start to watch.

        Args: known says that the descriptor is certainly open and can be watched.
        Raises: OSError when it is not.
        """
        raise NotImplementedError

    def change(self, key: SelectorKey, mask: int, known: bool) -> None:
        """Watch for other events.

        Args: key is the new one, which is put into keys; mask has its events as poll bits; known as for
            add().
        Raises: OSError.
        """
        raise NotImplementedError

    def remove(self, key: SelectorKey) -> None:
        """Stop watching, and release the file before returning.

        Args: key is no longer in the map.
        """
        raise NotImplementedError

    def wait(self, timeout_ns: int | None) -> Ready:
        """Wait as select() does, and return as soon as the handler of a request is to run.

        Args: timeout_ns in nanoseconds.
        Returns: pairs (key, events).
        """
        raise NotImplementedError

    def requests(self) -> InFlight | None:
        """Bind the ring to the calling thread and return its table, None without a ring."""
        return None

    def fileno(self) -> int:
        """Return the descriptor for nesting."""
        raise NotImplementedError

    def close(self) -> None:
        """Close everything; may be called twice."""
        raise NotImplementedError


def _still(key: SelectorKey) -> bool | None:
    """Tell whether a file object still has its number; None for a plain number, for which this is unknown.

    False for one that was closed or detached: a socket does not distinguish these.
    """
    file = key[0]
    if isinstance(file, int):
        return None
    try:
        return bool(file.fileno() == key[1])
    except (AttributeError, TypeError, ValueError):  # as register() does
        return False
