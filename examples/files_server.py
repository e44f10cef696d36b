# SPDX-License-Identifier: MIT
"""Serve the files of a directory over HTTP: GET, whole files and ranges.

    python examples/files_server.py [DIRECTORY [PORT]]

The loop never waits for a disk: the cold file of one client delays nobody else.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from functools import partial
from pathlib import Path
from urllib.parse import unquote

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rawuring import files


async def send_file(fd: int, wanted: str, writer: asyncio.StreamWriter) -> None:
    """Send a file or a range of it."""
    size = os.fstat(fd).st_size
    part = re.search(r"(?im)^range: *bytes=(\d+)-(\d*)", wanted)
    start, end = (int(part[1]), min(int(part[2] or size) + 1, size)) if part else (0, size)
    status = f"206 Partial Content\r\nContent-Range: bytes {start}-{end - 1}/{size}" if part else "200 OK"
    if part and start >= end:
        status = f"416 Range Not Satisfiable\r\nContent-Range: bytes */{size}"
    writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {max(0, end - start)}\r\n\r\n".encode())
    while start < end:
        data = await files.pread(fd, min(1 << 18, end - start), start)
        if not data:
            raise ConnectionError("the file became shorter than the announced length")
        start += len(data)
        writer.write(data)
        await writer.drain()


async def answer(top: str, request: str, writer: asyncio.StreamWriter) -> None:
    """Answer one request, given with its headers."""
    _, target, _ = request.partition("\r\n")[0].split()
    fd = -1
    try:
        path = os.path.join(top, unquote(target.partition("?")[0]).lstrip("/"))
        path = await files.call(os.path.realpath, path)
        if request.startswith("GET") and os.path.commonpath((top, path)) == top:
            fd = await files.open_fd(path, os.O_RDONLY | os.O_NONBLOCK)
        if fd < 0 or not os.path.isfile(fd):
            raise FileNotFoundError(path)
        await send_file(fd, request, writer)
    except (FileNotFoundError, NotADirectoryError, PermissionError, ValueError):  # the last: %00 in a name
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
    finally:
        if fd >= 0:
            await files.close_fd(fd)


async def client(top: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the requests of one connection."""
    try:
        while True:
            await answer(top, (await reader.readuntil(b"\r\n\r\n")).decode("latin-1"), writer)
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError, ValueError):
        writer.close()


async def main(top: str = ".", port: str = "0") -> None:
    """Serve forever."""
    server = await asyncio.start_server(partial(client, os.path.realpath(top)), "127.0.0.1", int(port))
    print("http://{}:{}/".format(*server.sockets[0].getsockname()), flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
