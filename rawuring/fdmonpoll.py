# SPDX-License-Identifier: MIT
# pyright: basic
"""The monitor without io_uring: poll(2).

What it is: PollFDMon, for kernels and sandboxes without io_uring, and for a monitor that loses its ring.
Mirrors: QEMU ``util/fdmon-poll.c``.
Must not know: rings, selectors, asyncio, what a handler does.
Invariant: as in monitor.py.
Read next: fdmon.py.

Unless said otherwise, only the waiter, the thread that calls wait(), may call.
"""

from __future__ import annotations

import errno
import select
import time

from .monitor import _ALWAYS, FDMON_IO_URING_ADD, POLLIN, POLLOUT, AioHandler, FDMon, _nanoseconds, _union

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .monitor import Event

# The answer of poll(2) for files without a poll method, such as regular files: the kernel's DEFAULT_POLLMASK.
_ALWAYS_READY = POLLIN | POLLOUT | 0x0040 | 0x0100


class PollFDMon(FDMon):
    """Watch descriptors with poll(2).

    Mirrors: QEMU util/fdmon-poll.c
    """

    backend = "poll"

    def __init__(self) -> None:
        """Create the poll object."""
        self._poll = select.poll()
        self._nodes: dict[int, list[AioHandler]] = {}
        self._set: select.epoll | None = None  # the same descriptors, for an outer loop
        self._unshown = False  # it is to be made by the next wait()
        self._always: set[int] = set()  # descriptors that epoll rejects and that are always ready
        self._marker: select.epoll | None = None  # always ready, in place of those
        super().__init__()

    def _apply(self) -> None:
        """Carry out the intents on the submit list."""
        for _ in range(len(self.submit_list)):
            # Removed from the list only when it is done: see IoUringFDMon.fill_sq_ring.
            node, flags = self.submit_list[0]
            nodes = self._nodes.setdefault(node.fd, [])
            new = not nodes
            if flags & FDMON_IO_URING_ADD:
                if not node.deleted and node not in nodes:
                    nodes.append(node)
            else:
                node.deleted = True
                if node in nodes:
                    nodes.remove(node)
            if nodes:
                self._poll.register(node.fd, _union(*nodes))
            else:
                del self._nodes[node.fd]
                self._unregister(node.fd)
            if self._set is not None:
                self._show(self._set, node.fd, new)
            self.dequeue()
        if self._unshown:
            assert self._outer is not None
            self._show_all(self._outer)
            self._unshown = False
        elif self._set is not None:
            for fd in tuple(self._always):  # a closed number may be open by now
                self._show(self._set, fd, False)

    def _unregister(self, fd: int) -> None:
        try:
            self._poll.unregister(fd)
        except KeyError:
            return  # it was removed before it was registered

    def _show_in(self, outer: select.epoll) -> None:
        """Let the next wait() make the set: only its thread may read the handlers."""
        self._outer, self._unshown = outer, True

    def _has_intents(self) -> bool:
        return bool(self.submit_list) or self._unshown

    def _show_all(self, outer: select.epoll) -> None:
        """Let an epoll set show what poll(2) would report, through an inner set that can be replaced."""
        inner = select.epoll()
        outer.register(inner, POLLIN)
        old, self._set = self._set, inner
        if old is not None:
            old.close()  # which removes it from the outer set
        self._always.clear()
        self._mark(inner)
        for fd in self._nodes:
            self._show(inner, fd, True, fresh=True)

    def _show(self, inner: select.epoll, fd: int, new: bool, *, fresh: bool = False) -> None:
        """Let the set show one descriptor after a change; a fresh set is not replaced."""
        taken = fd not in self._always
        self._always.discard(fd)
        try:
            if fd in self._nodes:
                mask = _union(*self._nodes[fd])
                change = inner.register if new or not taken else inner.modify
                change(fd, mask)
            elif taken:
                inner.unregister(fd)
        except OSError as error:
            if not fresh and (fd not in self._nodes or error.errno in (errno.ENOENT, errno.EEXIST)):
                # The number belongs to another file by now, or is closed; the old file may be open, and wake
                # us.
                assert self._outer is not None
                self._show_all(self._outer)
                return
            # epoll rejects files that are always ready; a closed descriptor is ready, too, even if its number
            # is now that of one of our own sets.
            if error.errno != errno.EPERM or mask & _ALWAYS_READY:
                self._always.add(fd)
        if bool(self._always) != (self._marker is not None):
            self._mark(inner)

    def _mark(self, inner: select.epoll) -> None:
        """Let the set show whether any descriptor is always ready."""
        marker, self._marker = self._marker, None
        if marker is not None:
            marker.close()
        if self._always:
            marker = select.epoll()
            marker.register(self._wake_fds[-1], POLLOUT)  # it always has room
            inner.register(marker, POLLIN)
            self._marker = marker

    def wait(self, timeout_ns: int | None = None) -> list[Event]:
        """Apply all changes and call poll(2), whose timeout counts milliseconds; see FDMon.wait."""
        if timeout_ns is not None and timeout_ns.__class__ is not int:
            timeout_ns = _nanoseconds(timeout_ns)
        deadline = None if not timeout_ns else time.monotonic_ns() + timeout_ns
        self._waiting = True
        try:
            while True:
                if not self._wake_fds:
                    self._check()
                if self.submit_list or self._always or self._unshown:
                    self._apply()
                # Rounded up: returning early would let the caller spin.
                timeout_ms = None
                if timeout_ns is not None:
                    timeout_ms = min(-(-max(timeout_ns, 0) // 1_000_000), 0x7FFFFFFF)  # an int to poll(2)
                events: list[Event] = []
                woken = False
                for fd, revents in self._poll.poll(timeout_ms):
                    for node in self._nodes.get(fd, ()):
                        mask = revents & (node.events | _ALWAYS)
                        if node is self._notifier:
                            self._take_notification()
                            woken = True
                        elif mask and not node.deleted:
                            events.append((node, mask))
                if events or woken or timeout_ns == 0:
                    return events
                if deadline is not None:
                    timeout_ns = max(0, deadline - time.monotonic_ns())
        finally:
            self._waiting = False
            if self._outer is not None and self.submit_list and self._wake_fds:
                self.notify()  # a signal handler raised: wait() must be called again

    def need_wait(self) -> bool:
        """Tell whether wait() has anything to do: always while a handler exists; see FDMon.need_wait.

        Only poll(2) detects readiness, so a loop that calls this before it waits must call poll(2).

        Mirrors: QEMU fdmon-poll.c, whose need_wait is aio_poll_disabled: does a handler without io_poll
            exist?
        """
        self._check()
        return bool(self.submit_list) or len(self._nodes) > 1 or self._notified

    def destroy(self) -> None:
        """Remove all handlers; see FDMon.destroy."""
        self._nodes.clear()
        for inner in (self._set, self._marker):
            if inner is not None:
                inner.close()
        self._poll = select.poll()  # the numbers may soon belong to other files
        super().destroy()
