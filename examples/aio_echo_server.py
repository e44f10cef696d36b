# SPDX-License-Identifier: MIT
"""A TCP echo server and ten clients on one asyncio loop over io_uring.

Run: python examples/aio_echo_server.py            serve, talk to itself, and end
     python examples/aio_echo_server.py 8888       serve on that port until Ctrl-C
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rawuring import aio


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Echo the data until the client has finished."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def client(port: int, number: int) -> int:
    """Send a megabyte, and return the number of bytes that came back unchanged."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    message = bytes([number]) * 1_000_000

    async def send() -> None:
        writer.write(message)
        await writer.drain()
        writer.write_eof()

    answer, _ = await asyncio.gather(reader.read(), send())
    writer.close()
    await writer.wait_closed()
    return len(answer) if answer == message else -1


async def main(port: int | None = None) -> list[int]:
    """Serve; without a port, also run the clients."""
    server = await asyncio.start_server(echo, "127.0.0.1", port or 0)
    loop = asyncio.get_running_loop()
    selector = loop.selector
    port_in_use = server.sockets[0].getsockname()[1]
    print(f"port {port_in_use}, on {getattr(selector, 'backend', type(selector).__name__)}")
    async with server:
        if port is not None:
            await server.serve_forever()
        return await asyncio.gather(*(client(port_in_use, number) for number in range(10)))


if __name__ == "__main__":
    try:
        echoed = aio.run(main(*map(int, sys.argv[1:2])))
    except KeyboardInterrupt:
        sys.exit(0)
    print(f"{sum(echoed)} bytes echoed to {len(echoed)} clients")
    sys.exit(echoed != [1_000_000] * 10)
