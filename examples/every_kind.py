# SPDX-License-Identifier: MIT
"""Watch descriptors of every kind, change everything at random, and compare each answer with select.poll.

Run: python examples/every_kind.py [CHANGES] [SEED]

After every change (a byte written, a pipe drained, a timer set, a peer closed, a handler added, modified or
removed) the monitor's wait(0) must return exactly the result of select.poll: the same descriptors with the
same events. Both backends go through the same changes.
"""

from __future__ import annotations

import ctypes
import os
import random
import select
import socket
import struct
import sys
import tempfile
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rawuring import Ring, Unavailable, fdmon, ops

IN, PRI, OUT, RDHUP = select.POLLIN, select.POLLPRI, select.POLLOUT, getattr(select, "POLLRDHUP", 0x2000)
MASKS = (0, IN, OUT, IN | OUT, IN | RDHUP, IN | PRI, IN | PRI | OUT | RDHUP)
libc = ctypes.CDLL(None, use_errno=True)


class Thing:
    """Some descriptors to watch, and actions that change their state."""

    kind = ""

    def __init__(self) -> None:
        self.fds: list[int] = []
        self.actions: list = []

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


def settle(fd: int, mask: int, present: bool = True) -> None:
    """Wait until poll(2) sees a change that the kernel makes in the background (terminals, timers, TCP)."""
    poll = select.poll()
    poll.register(fd, mask)
    if present:
        assert poll.poll(5000), f"descriptor {fd} never showed {mask:#x}"
        return
    for _ in range(100_000):
        if not any(revents & mask for _, revents in poll.poll(0)):
            return
    raise AssertionError(f"descriptor {fd} still shows {mask:#x}")


def drain(fd: int) -> None:
    try:
        while os.read(fd, 65536):
            if not select.select([fd], [], [], 0)[0]:
                return
    except (BlockingIOError, ConnectionError):
        return
    except OSError as error:
        if error.errno != 5:  # EIO: the other side of a terminal is closed
            raise


class Pipe(Thing):
    kind = "pipe"

    def __init__(self) -> None:
        super().__init__()
        self.fds = list(os.pipe2(os.O_NONBLOCK))
        self.actions = [self.write, self.fill, lambda: drain(self.fds[0])]

    def write(self) -> None:
        try:
            os.write(self.fds[1], b"x")
        except BlockingIOError:
            drain(self.fds[0])

    def fill(self) -> None:
        try:
            while True:
                os.write(self.fds[1], bytes(65536))
        except BlockingIOError:
            return


class Socket(Thing):
    def __init__(self, pair: tuple[socket.socket, socket.socket]) -> None:
        super().__init__()
        self.pair = pair
        for sock in pair:
            sock.setblocking(False)
        self.fds = [sock.fileno() for sock in pair]
        self.down = [False, False]
        self.actions = [partial(self.send, 0), partial(self.send, 1)]
        self.actions += [partial(drain, fd) for fd in self.fds]
        if random.random() < 0.3:
            self.actions.append(lambda: self.shutdown(random.randrange(2)))

    def send(self, side: int, flags: int = 0) -> None:
        try:
            self.pair[side].send(b"x", flags)
        except (BlockingIOError, ConnectionError):
            return
        settle(self.fds[1 - side], IN)

    def shutdown(self, side: int) -> None:
        if self.down[side]:
            return
        self.down[side] = True
        self.pair[side].shutdown(socket.SHUT_WR)
        settle(self.fds[1 - side], RDHUP)
        if all(self.down):
            settle(self.fds[side], select.POLLHUP)
            settle(self.fds[1 - side], select.POLLHUP)

    def close(self) -> None:
        for sock in self.pair:
            sock.close()


class UnixSocket(Socket):
    kind = "UNIX socket"

    def __init__(self) -> None:
        super().__init__(socket.socketpair())


class TcpSocket(Socket):
    kind = "TCP socket"

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            client = socket.create_connection(server.getsockname())
            super().__init__((client, server.accept()[0]))
        self.actions.append(self.send_urgent)

    def send_urgent(self) -> None:
        try:
            self.pair[0].send(b"!", socket.MSG_OOB)
        except (BlockingIOError, ConnectionError):
            return
        settle(self.fds[1], PRI | IN)


class EventFd(Thing):
    kind = "eventfd"

    def __init__(self) -> None:
        super().__init__()
        self.fds = [libc.eventfd(0, os.O_NONBLOCK)]
        fd = self.fds[0]
        self.actions = [lambda: self.add(1), lambda: self.add(2**64 - 2), lambda: drain(fd)]

    def add(self, value: int) -> None:
        try:
            os.write(self.fds[0], struct.pack("=Q", value))
        except BlockingIOError:
            return


class TimerFd(Thing):
    kind = "timerfd"

    def __init__(self) -> None:
        super().__init__()
        self.fds = [libc.timerfd_create(1, os.O_NONBLOCK)]
        self.actions = [self.fire, lambda: drain(self.fds[0])]

    def fire(self) -> None:
        spec = (ctypes.c_long * 4)(0, 0, 0, 1)
        libc.timerfd_settime(self.fds[0], 0, spec, None)
        settle(self.fds[0], IN)


class Terminal(Thing):
    kind = "tty"

    def __init__(self) -> None:
        super().__init__()
        import tty

        self.fds = list(os.openpty())
        tty.setraw(self.fds[1])
        for fd in self.fds:
            os.set_blocking(fd, False)
        self.actions = [partial(self.write, 0), partial(self.write, 1)]
        self.actions += [partial(drain, fd) for fd in self.fds]

    def write(self, side: int) -> None:
        try:
            os.write(self.fds[side], b"x")
        except BlockingIOError:
            return
        settle(self.fds[1 - side], IN)


class Inotify(Thing):
    kind = "inotify"

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.fds = [libc.inotify_init1(os.O_NONBLOCK)]
        libc.inotify_add_watch(self.fds[0], self.folder.name.encode(), 0x100)
        self.count = 0
        self.actions = [self.create, lambda: drain(self.fds[0])]

    def create(self) -> None:
        path = Path(self.folder.name, str(self.count))
        self.count += 1
        path.touch()
        path.unlink()

    def close(self) -> None:
        super().close()
        self.folder.cleanup()


class Epoll(Thing):
    kind = "epoll"

    def __init__(self) -> None:
        super().__init__()
        self.pipe = Pipe()
        self.epoll = select.epoll()
        self.epoll.register(self.pipe.fds[0], select.EPOLLIN)
        self.fds = [self.epoll.fileno()]
        self.actions = self.pipe.actions

    def close(self) -> None:
        self.epoll.close()
        self.pipe.close()


class OtherRing(Thing):
    kind = "io_uring"

    def __init__(self) -> None:
        super().__init__()
        self.ring = Ring(4)
        self.fds = [self.ring.fileno()]
        self.actions = [self.nop, self.ring.reap]

    def nop(self) -> None:
        if self.ring.cq_ready() < 8:
            ops.prep_nop(self.ring.get_sqe())
            self.ring.submit()

    def close(self) -> None:
        self.ring.close()


KINDS = (Pipe, UnixSocket, TcpSocket, EventFd, TimerFd, Terminal, Inotify, Epoll)


def run(backend: str, changes: int, seed: int) -> dict[str, int]:
    """Make random changes and compare after each; return the count of each kind of event."""
    random.seed(seed)
    seen: dict[str, int] = {}
    monitor = fdmon.setup((backend,))
    oracle = select.poll()
    things: list[Thing] = []
    nodes: dict[int, fdmon.AioHandler] = {}
    kinds = list(KINDS)
    try:
        OtherRing().close()
        kinds.append(OtherRing)
    except Unavailable:
        seen["io_uring (not available)"] = 0
    try:
        for change in range(changes):
            step(monitor, oracle, things, nodes, kinds, change)
            compare(monitor, oracle, nodes, things, seen, change)
    finally:
        monitor.destroy()
        for thing in things:
            thing.close()
    return seen


def step(monitor, oracle, things, nodes, kinds, change) -> None:
    dice = random.random()
    if len(things) < 2 * len(kinds) and (dice < 0.02 or len(things) < len(kinds)):
        things.append(kinds[change % len(kinds)]())
    elif dice < 0.04:
        thing = things.pop(random.randrange(len(things)))
        for fd in thing.fds:
            if fd in nodes:
                monitor.remove(nodes.pop(fd))
                oracle.unregister(fd)
        thing.close()
    elif dice < 0.3:
        fd = random.choice(random.choice(things).fds)
        mask = random.choice(MASKS)
        if fd not in nodes:
            nodes[fd] = monitor.add(fd, mask)
            oracle.register(fd, mask)
        elif dice < 0.15:
            monitor.remove(nodes.pop(fd))
            oracle.unregister(fd)
        else:
            nodes[fd] = monitor.modify(nodes[fd], mask)
            oracle.register(fd, mask)
    else:
        random.choice(random.choice(things).actions)()


def compare(monitor, oracle, nodes, things, seen, change) -> None:
    want = dict(oracle.poll(0))
    while True:
        events = monitor.wait(0)
        again = dict(oracle.poll(0))
        if want == again:
            break
        want = again  # the kernel changed something in the background: poll once more
    got = {node.fd: revents for node, revents in events}
    kind_of = {fd: thing.kind for thing in things for fd in thing.fds}
    assert len(got) == len(events), f"change {change}: a descriptor was reported twice: {events}"
    if got != want:
        wrong = [fd for fd in {*got, *want} if got.get(fd) != want.get(fd)]
        details = [(kind_of[fd], f"wanted {nodes[fd].events:#x}", got.get(fd), want.get(fd)) for fd in wrong]
        raise AssertionError(f"change {change}: {monitor.backend} and poll differ: {details}")
    for fd in got:
        seen[kind_of[fd]] = seen.get(kind_of[fd], 0) + 1


def main() -> None:
    changes = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    for backend in ("io_uring", "poll"):
        try:
            seen = run(backend, changes, seed)
        except Unavailable as error:
            print(f"{backend}: skipped: {error}")
            continue
        total = sum(seen.values())
        print(f"{backend}: {changes} changes, {total} events, each as select.poll gave it")
        for kind, count in sorted(seen.items()):
            print(f"    {kind:12} {count}")


if __name__ == "__main__":
    main()
