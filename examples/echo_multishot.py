# SPDX-License-Identifier: MIT
"""TCP echo server: one accept, and one receive per connection, armed once, on a ring of provided buffers.

    python examples/echo_multishot.py [PORT]

The kernel picks a buffer when data arrives, so idle connections cost no memory. Needs Linux 6.0.
"""

import errno
import os
import socket
import sys
from collections import deque
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rawuring import InFlight, Ring, buffers, ops, register, rings, uapi


def echo(table: InFlight, group: buffers.ProvidedBuffers, fd: int) -> None:
    """Echo the data of a connection, one piece at a time: two concurrent sends would mix their bytes."""
    waiting: deque[bytes] = deque()  # an empty piece marks the end

    def receive() -> None:
        select = {"flags": uapi.IOSQE_BUFFER_SELECT, "buf_group": group.bgid}
        table.start(ops.prep_recv_multishot, fd, 0, 0, 0, handler=received, **select)

    def received(res: int, flags: int) -> None:
        data = group.copy(res, flags) if res > 0 else b""
        if data:
            waiting.append(data)
            if len(waiting) == 1:
                send()
        if flags & uapi.IORING_CQE_F_MORE:
            return
        if res > 0 or res == -errno.ENOBUFS:  # buffers have been returned meanwhile
            receive()
        elif waiting:
            waiting.append(b"")
        else:
            os.close(fd)

    def send() -> None:
        table.start(ops.prep_send, fd, buffers.pin(waiting[0]), None, socket.MSG_WAITALL, handler=sent)

    def sent(res: int, flags: int) -> None:
        waiting.popleft()
        if waiting and waiting[0]:
            send()
        elif waiting:
            os.close(fd)

    receive()


def serve(listener: socket.socket) -> None:
    """Accept and echo forever."""
    with Ring(1024, wish=rings.RECOMMENDED) as ring:
        table, group = InFlight(ring), register.setup_buf_ring(ring, 0, 256, 4096)
        def accepted(res: int = -1, flags: int = 0) -> None:
            if res >= 0:
                echo(table, group, res)
            if not flags & uapi.IORING_CQE_F_MORE:
                fd, cloexec = listener.fileno(), socket.SOCK_CLOEXEC
                table.start(ops.prep_multishot_accept, fd, 0, 0, cloexec, handler=accepted)

        accepted()
        while True:
            ring.submit_and_wait(1)
            table.reap()
            table.dispatch()


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", int((sys.argv[1:] or ["0"])[0]))) as server:
        print(f"listening on port {server.getsockname()[1]}", flush=True)
        serve(server)
