# SPDX-License-Identifier: MIT
"""CPython's proactor transports on io_uring: a bridge for readers who know IOCP.

Run: python examples/proactor.py

asyncio has two families of transports. Selector loops wait until a socket is ready and then read.
Those of ProactorEventLoop, made for Windows, start a read and wait until it has completed, which is how
io_uring works, too. They reach the kernel through a small interface, in which IOCP and io_uring correspond:

    IOCP                              here
    CreateIoCompletionPort            the ring of the loop: aio.IoUringEventLoop.uring
    WSARecv with an OVERLAPPED        AsyncRing.start(ops.prep_recv, ..., handler=...)
    GetQueuedCompletionStatus         the loop's turn: one io_uring_enter sends requests and takes completions
    CancelIoEx                        AsyncRing.cancel(token), which is IORING_OP_ASYNC_CANCEL
    memory of an OVERLAPPED           a Pin, held by the in-flight table until the final CQE

Reasons why the library does not do this: in pure Python an echo takes 3 to 4 times the CPU time of the
selector transports (6 to 8 times if sends are requests as well). Each read needs a future, a Pin, an entry in
the table and a callback, while epoll reports in one call which sockets are ready, and recv() is one more. A
cancelled future ends at once, as on Windows, so bytes that arrive together with the cancellation are lost;
AsyncRing.call() loses none. And these classes are private to asyncio: they change in patch releases. Use it
to learn, not in production.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import sys
from asyncio import proactor_events, sslproto
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rawuring import aio, ops, pin

SEND_ALL = int(socket.MSG_WAITALL)
NEW_SOCKET = int(socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


# ------------------------------------------------------------------------------------------------------
# What the transports call: IocpProactor's part


class OperationFuture(asyncio.Future):
    """The future of an operation, like _OverlappedFuture: cancel() asks the kernel, and ends it at once."""

    _ring, _token = None, 0

    def cancel(self, msg=None) -> bool:
        """Cancel the operation; its memory stays in the table until the kernel has released it."""
        if not self.done() and self._ring is not None:
            self._ring.cancel(self._token)
        return super().cancel(msg=msg)


class IoUringProactor:
    """Start operations on the loop's ring."""

    def __init__(self, loop: aio.IoUringEventLoop) -> None:
        self._loop = loop

    def recv(self, sock: socket.socket, nbytes: int, flags: int = 0) -> OperationFuture:
        """Receive new bytes."""
        memory = bytearray(nbytes)
        return self._receive(sock, memory, flags, lambda count: bytes(memory[:count]))

    def recv_into(self, sock: socket.socket, buf: bytearray, flags: int = 0) -> OperationFuture:
        """Receive into the caller's memory and return the number of bytes."""
        return self._receive(sock, buf, flags, int)

    def send(self, sock: socket.socket, data: bytes, flags: int = 0) -> OperationFuture:
        """Send everything: what fits into the buffer at once, as asyncio expects, the rest as a request."""
        future, memory = OperationFuture(loop=self._loop), memoryview(data)

        def sent(count: int) -> None:
            nonlocal memory
            memory = memory[count:]
            if not memory and not future.done():
                future.set_result(len(data))
            elif not future.done():
                rest = pin(memory)
                request = (ops.prep_send, sock.fileno(), rest.address, rest.nbytes, flags | SEND_ALL)
                self._start(future, sent, *request, holds=(rest,))

        try:
            sent(sock.send(memory, flags))
        except BlockingIOError:
            sent(0)
        return future

    def accept(self, listener: socket.socket) -> OperationFuture:
        """Accept a connection: a socket and its peer's address."""
        future = OperationFuture(loop=self._loop)

        def accepted(fd: int) -> None:
            if future.done():
                os.close(fd)  # accepted although nobody waits any longer
                return
            conn, address = socket.socket(fileno=fd), None
            with contextlib.suppress(OSError):  # the peer has closed already
                address = conn.getpeername()
            future.set_result((conn, address))

        listener.setblocking(True)  # before Linux 5.19 the request would complete with EAGAIN
        return self._start(future, accepted, ops.prep_accept, listener.fileno(), 0, 0, NEW_SOCKET)

    def _receive(self, sock, memory, flags, result) -> OperationFuture:
        future, target = OperationFuture(loop=self._loop), pin(memory, writable=True)

        def received(count: int) -> None:
            if not future.done():
                future.set_result(result(count))

        request = (ops.prep_recv, sock.fileno(), target.address, target.nbytes, flags)
        return self._start(future, received, *request, holds=(target,))

    def _start(self, future: OperationFuture, succeeded, prep, *arguments, holds=()) -> OperationFuture:
        def completed(res: int, flags: int) -> None:
            if res >= 0:
                succeeded(res)
            elif res == -errno.ECANCELED:
                asyncio.Future.cancel(future)
            elif not future.done():
                future.set_exception(OSError(-res, os.strerror(-res)))

        future._ring = self._loop.uring
        future._token = future._ring.start(prep, *arguments, handler=completed, holds=holds)
        return future


# ------------------------------------------------------------------------------------------------------
# The loop: sockets by completion, the rest as in SelectorEventLoop


class SocketTransport(proactor_events._ProactorSocketTransport):
    """CPython's transport, with the differences of Linux."""

    def __init__(self, loop, sock, *args, **kwargs) -> None:
        super().__init__(loop, sock, *args, **kwargs)
        loop._transports[sock.fileno()] = self  # so that add_reader() rejects the descriptor

    def _call_connection_lost(self, exc) -> None:
        if self._sock is not None:
            with contextlib.suppress(OSError):  # ENOTCONN if the peer has closed; Windows reports none
                self._sock.shutdown(socket.SHUT_RDWR)
            self._sock = ShutSocket(self._sock)
        super()._call_connection_lost(exc)


class ShutSocket:
    """A socket that has been shut down, without a second shutdown()."""

    def __init__(self, sock: socket.socket) -> None:
        self.close, self.fileno = sock.close, sock.fileno


class ProactorEventLoop(aio.IoUringEventLoop):
    """An event loop whose socket transports and servers are CPython's proactor ones."""

    def __init__(self, selector=None) -> None:
        super().__init__(selector)
        self._proactor = IoUringProactor(self)
        self._accept_futures = {}

    def _make_socket_transport(self, sock, protocol, waiter=None, *, extra=None, server=None, **kwargs):
        return SocketTransport(self, sock, protocol, waiter, extra, server, **kwargs)

    def _make_ssl_transport(
        self, rawsock, protocol, sslcontext, waiter=None, *,
        server_side=False, server_hostname=None, extra=None, server=None, **kwargs,
    ):  # fmt: skip
        below = {name: kwargs.pop(name) for name in ("context",) if name in kwargs}  # Python 3.15
        ssl_protocol = sslproto.SSLProtocol(
            self, protocol, sslcontext, waiter, server_side, server_hostname, **kwargs
        )
        SocketTransport(self, rawsock, ssl_protocol, extra=extra, server=server, **below)
        return ssl_protocol._app_transport

    _start_serving = proactor_events.BaseProactorEventLoop._start_serving

    async def _sendfile_native(self, transport, file, offset, count):
        """Send with add_writer(), which must accept this descriptor meanwhile."""
        fd = transport._sock.fileno()
        del self._transports[fd]
        try:
            native = proactor_events.BaseProactorEventLoop._sendfile_native
            return await native(self, transport, file, offset, count)
        finally:
            if not transport.is_closing():
                self._transports[fd] = transport

    def _stop_serving(self, sock: socket.socket) -> None:
        accepting = self._accept_futures.pop(sock.fileno(), None)
        if accepting is not None:
            accepting.cancel()
        super()._stop_serving(sock)

    def close(self) -> None:
        """Stop accepting, then close the loop, which ends the operations in flight."""
        if not self.is_running() and not self.is_closed():
            proactor_events.BaseProactorEventLoop._stop_accept_futures(self)
        super().close()


async def main() -> None:
    """Echo through the transports."""
    ended = asyncio.Event()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()
        ended.set()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    for i in range(1, 1001):
        writer.write(bytes([i % 256]) * i)
        assert await reader.readexactly(i) == bytes([i % 256]) * i
    writer.close()
    await writer.wait_closed()
    await ended.wait()
    server.close()
    await server.wait_closed()
    print(f"1000 messages echoed by {type(writer.transport).__mro__[1].__name__}")


if __name__ == "__main__":
    loop = ProactorEventLoop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
