#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Run aiohttp, uvicorn, websockets, anyio, tornado and twisted on asyncio over IoUringSelector.

    python3 tools/try_libraries.py [--python PATH] [NAME ...]

What it is: a virtual environment in a temporary folder, into which pip installs the libraries, and a server
and clients for each of them, run through ``python -m rawuring.aio``; also those of their own tests that count
the objects that a loop leaves behind. It needs a package index, so no test runs it.
Must not know: how the loop works.
Invariant: the last line says ``N passed, N failed``, and the exit code is 0 only if nothing failed.
Read next: rawuring/aio.py.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent

START = """
import asyncio, importlib.metadata, sys

def check_loop():
    selector = asyncio.get_running_loop()._selector
    assert selector.backend.startswith("io_uring"), selector
    return selector.backend

def report(name, what):
    print(f"{name} {importlib.metadata.version(name)}: {what}")
"""

AIOHTTP = """
import aiohttp
from aiohttp import web

async def hello(request):
    return web.Response(body=await request.read())

async def stream(request):
    response = web.StreamResponse()
    await response.prepare(request)
    for i in range(100):
        await response.write(bytes([i]) * 10000)
    return response

async def socket(request):
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    async for message in ws:
        await ws.send_str(message.data[::-1])
    return ws

async def main():
    backend = check_loop()
    app = web.Application()
    app.add_routes([web.post("/", hello), web.get("/stream", stream), web.get("/ws", socket)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = "http://127.0.0.1:%d" % runner.addresses[0][1]
    async with aiohttp.ClientSession() as session:
        async def post(i):
            async with session.post(url, data=b"x" * i) as response:
                return len(await response.read())
        assert await asyncio.gather(*map(post, range(200))) == list(range(200))
        async with session.get(url + "/stream") as response:
            assert len(await response.read()) == 1_000_000
        async with session.ws_connect(url + "/ws") as ws:
            await ws.send_str("drawer")
            assert (await ws.receive()).data == "reward"
        try:
            async with session.get("http://127.0.0.1:1", timeout=aiohttp.ClientTimeout(total=1)):
                raise AssertionError
        except aiohttp.ClientConnectionError:
            pass
    await runner.cleanup()
    report("aiohttp", f"200 requests, a stream, a web socket on {backend}")

asyncio.run(main())
"""

UVICORN = """
import uvicorn

async def app(scope, receive, send):
    assert scope["type"] == "http"
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-echo", b"yes")]})
    await send({"type": "http.response.body", "body": body})

async def request(port, body):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST / HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n"
    writer.write(head.encode() + body)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.partition(b"\\r\\n\\r\\n")[2]

async def main():
    backend = check_loop()
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="off"))
    serving = asyncio.ensure_future(server.serve())
    while not server.started:
        await asyncio.sleep(0.001)
    port = server.servers[0].sockets[0].getsockname()[1]
    bodies = [bytes([i]) * i * 100 for i in range(1, 100)]
    answers = await asyncio.gather(*(request(port, body) for body in bodies))
    assert all(body in answer for body, answer in zip(bodies, answers))
    server.should_exit = True
    await serving
    report("uvicorn", f"99 requests on {backend}")

asyncio.run(main())
"""

WEBSOCKETS = """
import websockets

async def echo(ws):
    async for message in ws:
        await ws.send(message)

async def main():
    backend = check_loop()
    async with websockets.serve(echo, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]

        async def talk(n):
            async with websockets.connect(f"ws://127.0.0.1:{port}") as ws:
                for i in range(20):
                    message = bytes([n]) * i * 1000
                    await ws.send(message)
                    assert await ws.recv() == message
                await (await ws.ping())
        await asyncio.gather(*map(talk, range(20)))
    report("websockets", f"20 clients, 400 messages on {backend}")

asyncio.run(main())
"""

ANYIO = """
import anyio, os, signal, tempfile
from anyio import from_thread, to_thread

async def main():
    backend = check_loop()

    async def serve(client):
        async with client:
            async for data in client:
                await client.send(data)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)

        async def talk(n):
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.send(bytes([n]) * 1000)
                received = b""
                while len(received) < 1000:
                    received += await stream.receive()
                assert received == bytes([n]) * 1000

        async with anyio.create_task_group() as talks:
            for n in range(50):
                talks.start_soon(talk, n)
        done = await anyio.run_process(["cat"], input=b"hello")
        assert done.stdout == b"hello"
        assert await to_thread.run_sync(lambda: from_thread.run(anyio.sleep, 0.001)) is None
        with anyio.move_on_after(0.01) as scope:
            await anyio.sleep(10)
        assert scope.cancelled_caught
        with anyio.open_signal_receiver(signal.SIGUSR1) as signals:
            os.kill(os.getpid(), signal.SIGUSR1)
            async for number in signals:
                break
        async with await anyio.open_file(__file__) as file:
            assert await file.read(7)
        group.cancel_scope.cancel()
    await listener.aclose()
    report("anyio", f"50 TCP clients, processes, threads, signals, files on {backend}")

anyio.run(main)
"""

TORNADO = """
import tornado.httpclient, tornado.httpserver, tornado.ioloop, tornado.netutil, tornado.web, tornado.websocket

class Echo(tornado.web.RequestHandler):
    def post(self):
        self.write(self.request.body)

class Reverse(tornado.websocket.WebSocketHandler):
    def on_message(self, message):
        self.write_message(message[::-1])

async def main():
    backend = check_loop()
    app = tornado.web.Application([("/", Echo), ("/ws", Reverse)])
    server = tornado.httpserver.HTTPServer(app)
    sockets = tornado.netutil.bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    port = sockets[0].getsockname()[1]
    client = tornado.httpclient.AsyncHTTPClient()

    async def post(i):
        response = await client.fetch(f"http://127.0.0.1:{port}/", method="POST", body=b"x" * i)
        return len(response.body)
    assert await asyncio.gather(*map(post, range(100))) == list(range(100))
    ws = await tornado.websocket.websocket_connect(f"ws://127.0.0.1:{port}/ws")
    await ws.write_message("drawer")
    assert await ws.read_message() == "reward"
    ws.close()
    await tornado.ioloop.IOLoop.current().run_in_executor(None, str)
    server.stop()
    await server.close_all_connections()
    report("tornado", f"100 requests, a web socket on {backend}")

asyncio.run(main())
"""

OWN_LOOP = """
def check_new_loop():
    loop = asyncio.new_event_loop()
    backend = loop._selector.backend
    loop.close()
    assert backend.startswith("io_uring"), backend
    return backend
"""

CIRCLEREFS = OWN_LOOP + """
from tornado.test import runtests

backend = check_new_loop()
sys.argv = ["runtests", "tornado.test.circlerefs_test"]
try:
    runtests.main()
except SystemExit as ended:
    assert not ended.code, ended
report("tornado", f"circlerefs_test on {backend}")
"""

TWISTED = OWN_LOOP + """
from twisted.trial.reporter import Reporter
from twisted.trial.runner import TestLoader, TrialRunner

backend = check_new_loop()
suite = TestLoader().loadByName("twisted.internet.test.test_asyncioreactor")
# In a separate folder, which is removed afterwards.
result = TrialRunner(Reporter, workingDirectory=sys.argv[0] + ".trial").run(suite)
assert result.wasSuccessful() and result.testsRun > len(result.skips)
report("twisted", f"test_asyncioreactor: {result.testsRun} tests on {backend}")
"""

PROGRAMS = {
    "aiohttp": AIOHTTP, "uvicorn": UVICORN, "websockets": WEBSOCKETS, "anyio": ANYIO, "tornado": TORNADO,
    "tornado-circlerefs": CIRCLEREFS, "twisted-asyncioreactor": TWISTED,
}  # fmt: skip


def main() -> int:
    """Install, run, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=sys.executable, metavar="PATH")
    parser.add_argument("names", nargs="*", choices=[*PROGRAMS, []], metavar="NAME")
    options = parser.parse_args()
    names = options.names or list(PROGRAMS)
    passed = 0
    with tempfile.TemporaryDirectory(prefix="rawuring-libraries-") as folder:
        subprocess.run([options.python, "-m", "venv", folder], check=True)
        python = Path(folder, "bin", "python")
        packages = dict.fromkeys(name.partition("-")[0] for name in names)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
        subprocess.run(install, check=True)
        for name in names:
            script = Path(folder, f"try_{name}.py")
            script.write_text(START + PROGRAMS[name])
            # Their tests count objects, some of which asyncio's development mode keeps.
            flags = [] if "-" in name else ["-X", "dev"]
            command = [python, *flags, "-m", "rawuring.aio", script]
            environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
            try:
                code = subprocess.run(command, env=environment, timeout=120).returncode
            except subprocess.TimeoutExpired:
                code = -1
            passed += code == 0
            if code:
                print(f"{name}: exit code {code}")
    print(f"{passed} passed, {len(names) - passed} failed")
    return 0 if passed == len(names) else 1


if __name__ == "__main__":
    sys.exit(main())
