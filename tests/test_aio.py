# SPDX-License-Identifier: MIT
"""asyncio over IoUringSelector; CPython's own suite tests the rest (tools/run_cpython_tests.py)."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import errno
import gc
import os
import selectors
import shutil
import socket
import subprocess
import sys
import threading
import warnings
from asyncio import selector_events, unix_events
from pathlib import Path

import pytest
from refusal import skip_without_seccomp
from strategies import selector_of, skip_if_too_old
from test_probe import FILTER

from rawuring import aio
from rawuring.selector import STRATEGIES, IoUringSelector

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.requires_io_uring


def python(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120, **options,
    )  # fmt: skip


# -- loops


def test_run_then_the_result_and_a_loop_over_io_uring():
    async def main() -> str:
        await asyncio.sleep(0.0005)
        return asyncio.get_running_loop().selector.backend

    assert aio.run(main()) in STRATEGIES


def test_run_then_exceptions_come_out_and_nothing_stays_behind():
    async def main() -> None:
        raise KeyError("inside")

    policy = type(current_policy())
    with pytest.raises(KeyError, match="inside"):
        aio.run(main(), debug=True)
    assert type(current_policy()) is policy


def current_policy() -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.14
        return asyncio.get_event_loop_policy()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.Runner (Python 3.11)")
def test_runner_with_the_factory_then_our_loop():
    async def main() -> type:
        return type(asyncio.get_running_loop())

    with asyncio.Runner(loop_factory=aio.new_event_loop) as runner:
        assert runner.run(main()) is aio.IoUringEventLoop


@pytest.mark.parametrize("strategy", [*STRATEGIES, "epoll"])
def test_stock_loop_over_the_selector_then_sockets_timers_and_cancellation_work(strategy):
    async def main() -> bytes:
        a, b = socket.socketpair()
        a.setblocking(False)
        b.setblocking(False)
        loop = asyncio.get_running_loop()
        with a, b:
            waiting = loop.create_task(loop.sock_recv(a, 10))
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.shield(waiting), 0.001)
            await loop.sock_sendall(b, b"hello")
            got = await waiting
            cancelled = loop.create_task(loop.sock_recv(a, 10))
            await asyncio.sleep(0)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            return got

    loop = asyncio.SelectorEventLoop(selector_of(strategy))
    try:
        assert loop.run_until_complete(main()) == b"hello"
    finally:
        loop.close()


@pytest.mark.parametrize("make", [aio.new_event_loop, lambda: asyncio.SelectorEventLoop(IoUringSelector())])
def test_regular_file_as_reader_or_writer_then_permission_error(make, tmp_path):
    if IoUringSelector().backend == "io_uring:poll_add":
        pytest.skip("an epoll set in the ring: IORING_OP_EPOLL_CTL (Linux 5.6)")
    loop = make()
    try:
        with (tmp_path / "file").open("w+b") as file:
            with pytest.raises(PermissionError):
                loop.add_reader(file, print)
            with pytest.raises(PermissionError):
                loop.add_writer(file.fileno(), print)
    finally:
        loop.close()


def test_transport_sockets_then_no_system_call_when_they_are_added(make_pairs):
    """The loop vouches for the numbers of its own sockets."""

    async def main() -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        pairs = make_pairs(50)
        for a, _ in pairs:
            a.setblocking(False)
        tasks = [loop.create_task(loop.sock_recv(a, 1)) for a, _ in pairs]
        selector = loop.selector
        before = selector.ring.statistics().enters
        await asyncio.sleep(0)  # the tasks start, and their sockets are added
        added = sum(selector._strategy.state(a.fileno()) == "noted" for a, _ in pairs)
        enters = selector.ring.statistics().enters - before
        await asyncio.sleep(0)
        enters_then = selector.ring.statistics().enters - before
        for _, b in pairs:
            b.send(b"x")
        assert await asyncio.gather(*tasks) == [b"x"] * 50
        for pair in pairs:
            for sock in pair:
                sock.close()
        silent = bool(selector.ring.features & 1 << 11)  # CQE_SKIP (5.17); without it a separate call
        return added, enters_then - enters - (not silent)

    if not IoUringSelector().backend.startswith("io_uring:epoll"):
        pytest.skip("an epoll set in the ring: IORING_OP_EPOLL_CTL (Linux 5.6)")
    added, enters = aio.run(main())
    assert added == 50
    assert enters <= 1


STRACED = """
import os, selectors, socket
from rawuring.selector import IoUringSelector
sel = IoUringSelector("io_uring:epoll_wait", fallback=False)
pairs = [socket.socketpair() for _ in range(100)]
for a, b in pairs:
    b.send(b"x")
os.getppid()
for a, b in pairs:
    sel.register(a, selectors.EVENT_READ)
os.getppid()
assert len(sel.select(1)) == 100
os.getppid()
for a, b in pairs:
    sel.modify(a, selectors.EVENT_READ | selectors.EVENT_WRITE)
os.getppid()
assert len(sel.select(None)) == 100
os.getppid()
assert len(sel.select(None)) == 100
os.getppid()
for a, b in pairs:
    sel.unregister(a)
os.getppid()
sel.close()
"""


def test_strace_then_one_call_for_each_turn_and_none_for_changes(tmp_path):
    """The outside witness for what Ring.statistics() counts."""
    if not shutil.which("strace"):
        pytest.skip("strace")
    log = tmp_path / "log"
    done = subprocess.run(
        ["strace", "-o", str(log), sys.executable, "-c", STRACED],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    if "Linux 6.15" in done.stderr:
        pytest.skip("IORING_OP_EPOLL_WAIT (Linux 6.15)")
    if "ptrace" in done.stderr:
        pytest.skip("strace is not allowed to trace here (ptrace)")
    assert done.returncode == 0, done.stderr
    between: list[list[str]] = [[]]
    for line in log.read_text().splitlines():
        name = line.partition("(")[0]
        if name == "getppid":
            between.append([])
        # Python's own memory, and its locks if it is free-threaded.
        elif name not in ("mmap", "munmap", "brk", "madvise", "rt_sigreturn", "sched_yield"):
            between[-1].append(name)
    add, first, change, second, third, remove = between[1:7]
    assert (add, change) == ([], [])
    assert first == second == ["io_uring_enter"]
    assert third in (["epoll_wait"], ["epoll_pwait"], ["io_uring_enter"])
    assert remove == ["epoll_ctl"] * 100


# -- the size of a transport's reads, and the private names that setting it requires


class Collect(asyncio.DatagramProtocol, asyncio.Protocol):
    """Record the transport and the received data."""

    def __init__(self) -> None:
        self.got = asyncio.get_running_loop().create_future()

    def connection_made(self, transport) -> None:
        self.transport = transport

    def datagram_received(self, data, addr) -> None:
        self.got.set_result(len(data))


def test_transports_then_they_read_64_kib_at_a_time():
    """glibc's malloc maps 256 KiB separately, and unmaps them, for each read."""

    async def main() -> dict[str, int]:
        loop = asyncio.get_running_loop()
        sizes = {}
        server = await loop.create_server(Collect, "127.0.0.1", 0)
        client, _ = await loop.create_connection(Collect, *server.sockets[0].getsockname())
        sizes["socket"] = client.max_size
        read, write = os.pipe()
        pipe, _ = await loop.connect_read_pipe(Collect, os.fdopen(read, "rb"))
        sizes["pipe"] = pipe.max_size
        datagrams, _ = await loop.create_datagram_endpoint(Collect, ("127.0.0.1", 0))
        sizes["datagrams"] = datagrams.max_size
        os.close(write)
        server.close()
        for transport in (client, pipe, datagrams):
            transport.close()
        await asyncio.sleep(0)
        await server.wait_closed()
        return sizes

    assert aio.run(main()) == {"socket": 65536, "pipe": 65536, "datagrams": 65536}


def test_tls_then_the_transport_below_it_reads_64_kib_at_a_time():
    ssl = pytest.importorskip("ssl")

    async def main() -> int:
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        here.setblocking(False)
        connecting = loop.create_task(
            loop.create_connection(Collect, sock=here, ssl=ssl.create_default_context(), server_hostname="x")
        )
        while here.fileno() not in loop._transports:
            await asyncio.sleep(0)
        size = loop._transports[here.fileno()].max_size
        there.close()
        with pytest.raises(OSError):
            await connecting
        return size

    assert aio.run(main()) == 65536


def test_unix_datagram_of_100_kib_then_it_arrives_whole(tmp_path):
    async def main() -> int:
        loop = asyncio.get_running_loop()
        receiver, protocol = await loop.create_datagram_endpoint(
            Collect, str(tmp_path / "socket"), family=socket.AF_UNIX
        )
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 400_000)
            sender.sendto(bytes(100_000), str(tmp_path / "socket"))
        got = await protocol.got
        receiver.close()
        return got

    assert aio.run(main()) == 100_000


def test_program_that_reads_less_then_it_still_does(monkeypatch):
    monkeypatch.setattr(selector_events._SelectorTransport, "max_size", 1000)

    async def main() -> int:
        a, b = socket.socketpair()
        transport, _ = await asyncio.get_running_loop().create_connection(Collect, sock=a)
        size = transport.max_size
        transport.close()
        b.close()
        return size

    assert aio.run(main()) == 1000


#: The private names of asyncio in aio.py, and their owners; DESIGN.md has the same table, with versions.
PRIVATE = {
    "_closed": ("loop",), "_selector": ("loop",), "_transports": ("loop",), "_remove_reader": ("loop",),
    "_make_socket_transport": ("loop",), "_make_ssl_transport": ("loop",),
    "_make_datagram_transport": ("loop",), "_make_read_pipe_transport": ("loop",),
    "_get_running_loop": ("asyncio",), "_loop_factory": ("policy",),
    "max_size": ("_SelectorSocketTransport", "_SelectorDatagramTransport", "_UnixReadPipeTransport"),
}  # fmt: skip


def test_private_names_of_asyncio_then_this_python_has_them():
    owners = {"asyncio": asyncio}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.14
        owners["policy"] = asyncio.DefaultEventLoopPolicy
    for module in (selector_events, unix_events):
        owners.update(vars(module))
    loop = owners["loop"] = asyncio.SelectorEventLoop()
    loop.close()
    asked = [(owner, name) for name in PRIVATE for owner in PRIVATE[name]]
    assert [(owner, name) for owner, name in asked if not hasattr(owners[owner], name)] == []


def test_private_names_of_asyncio_then_the_table_is_complete():
    tree = ast.parse((ROOT / "rawuring" / "aio.py").read_text())
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    hooks = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    used |= {getattr(node, "name", "") for hook in hooks for node in hook.body}
    used |= {name.id for hook in hooks for node in hook.body for name in getattr(node, "targets", ())}
    own = {"_checked", "_uring", "_private_ring", "_closing"}
    private = {name for name in used if name.startswith("_") and not name.startswith("__")} - own
    assert private == {name for name in PRIVATE if name.startswith("_")}


# -- for every program


SCRIPT = """
import asyncio, sys
async def main():
    selector = asyncio.get_running_loop()._selector
    print(getattr(selector, "backend", "stock").partition(":")[0], *sys.argv[1:], __name__, sep=",")
asyncio.run(main())
asyncio.SelectorEventLoop().close()
sys.exit(7)
"""


def test_command_with_a_script_then_it_runs_on_io_uring_with_its_arguments(tmp_path):
    (tmp_path / "script.py").write_text("import helper" + SCRIPT)
    (tmp_path / "helper.py").write_text("")
    done = python("-X", "dev", "-W", "error", "-m", "rawuring.aio", str(tmp_path / "script.py"), "-v", "--x")
    assert (done.stdout, done.returncode) == ("io_uring,-v,--x,__main__\n", 7), done.stderr
    assert done.stderr == ""


def test_command_with_a_module_then_it_runs_on_io_uring(tmp_path):
    (tmp_path / "module_to_run.py").write_text(SCRIPT)
    done = python("-m", "rawuring.aio", "-v", "-m", "module_to_run", "arg", cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("io_uring,arg,__main__\n", 7), done.stderr
    assert done.stderr.startswith("asyncio on io_uring")


def test_command_without_a_program_then_says_what_would_be_used():
    done = python("-m", "rawuring.aio")
    assert done.stdout.startswith("asyncio on io_uring:"), done.stderr
    assert done.returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_command_where_io_uring_is_denied_then_the_line_says_so_and_no_warning_besides():
    main = "from rawuring import aio; sys.exit(aio.main([]))"
    done = python("-W", "error", "-c", FILTER + main, "0x00050001")  # SECCOMP_RET_ERRNO, EPERM
    skip_without_seccomp(done)
    assert done.stdout.startswith("asyncio on epoll: ") and "seccomp" in done.stdout, done.stderr
    assert (done.stdout.count("\n"), done.stderr, done.returncode) == (1, "", 0)


def test_installed_then_asyncio_run_uses_io_uring():
    done = python("-W", "error", "-c", "from rawuring import aio; aio.install()" + SCRIPT)
    assert (done.stdout, done.returncode) == ("io_uring,__main__\n", 7), done.stderr


# -- where io_uring is refused, and names that a program may have replaced

REPLACED = """
import asyncio, selectors, sys
from rawuring import aio
from rawuring.selector import IoUringSelector
aio.install()
for name in ("DefaultSelector", "EpollSelector", "PollSelector", "SelectSelector"):
    setattr(selectors, name, IoUringSelector)
asyncio.SelectorEventLoop = aio.IoUringEventLoop
asyncio.new_event_loop = aio.new_event_loop
asyncio.run = aio.run
asyncio.Runner = None
asyncio.set_event_loop_policy = asyncio.get_event_loop_policy = None
"""
DENIED = [0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS, 0x00050000 | errno.EMFILE]


@pytest.mark.parametrize("action", DENIED)
@pytest.mark.parametrize("before", ["from rawuring import aio; aio.install()", REPLACED])
def test_denied_when_names_of_the_standard_library_are_ours_then_it_runs_on_the_librarys_own(before, action):
    """The fallback's selector was looked up where install() had put ours: RecursionError."""
    done = python("-W", "ignore", "-c", FILTER + before + SCRIPT, hex(action))
    skip_without_seccomp(done)
    words = done.stdout.strip().split(",")
    assert (words[0], words[-1], done.returncode, done.stderr) == ("epoll", "__main__", 7, "")


@pytest.mark.parametrize("action", DENIED)
def test_denied_command_with_a_script_then_it_runs_on_the_librarys_own(tmp_path, action):
    (tmp_path / "script.py").write_text(SCRIPT)
    script = str(tmp_path / "script.py")
    command = f"""
import os
os.execv(sys.executable, [sys.executable, "-W", "ignore", "-m", "rawuring.aio", {script!r}])
"""
    done = python("-c", FILTER + command, hex(action))
    skip_without_seccomp(done)
    assert (done.stdout, done.returncode, done.stderr) == ("epoll,__main__\n", 7, "")


def test_replaced_names_where_io_uring_works_then_it_is_used():
    done = python("-c", REPLACED + SCRIPT)
    assert (done.stdout, done.returncode, done.stderr) == ("io_uring,__main__\n", 7, "")


def test_run_in_two_threads_at_once_then_the_process_keeps_its_policy():
    """Before 3.11 our policy was set for a moment, and the other thread took it for the previous one."""
    policies, ran = [], []
    both = threading.Barrier(2)

    async def main() -> None:
        both.wait()
        policies.append(current_policy())
        ran.append(type(asyncio.get_running_loop()))
        both.wait()

    before = current_policy()
    threads = [threading.Thread(target=lambda: aio.run(main())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ran == [aio.IoUringEventLoop] * 2
    assert {id(policy) for policy in (*policies, current_policy())} == {id(before)}


def test_run_then_tasks_generators_and_executor_are_ended_as_asyncio_does():
    seen = []

    async def endless() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            seen.append("cancelled")

    async def numbers():
        try:
            yield 1
        finally:
            seen.append("closed")

    async def main() -> object:
        asyncio.get_running_loop().create_task(endless())
        generator = numbers()
        seen.append(await generator.__anext__())
        seen.append(generator)
        unused = asyncio.sleep(0)
        with contextlib.closing(unused), pytest.raises(RuntimeError, match="running event loop"):
            aio.run(unused)
        return asyncio.get_running_loop()

    loop = aio.run(main(), debug=True)
    assert [seen[0], *seen[2:]] == [1, "cancelled", "closed"]
    assert loop.get_debug()
    assert loop.is_closed()
    with pytest.raises((ValueError, TypeError), match="coroutine"):  # TypeError: as in asyncio.run of 3.14
        aio.run(None)


# -- forgotten loops, and their leftovers


FORGOTTEN = """
import asyncio, gc, sys, warnings
from rawuring import aio
from rawuring.selector import IoUringSelector
warnings.simplefilter("ignore", ResourceWarning)
make = eval(sys.argv[1])
def work():
    loop = make()
    loop.run_until_complete(asyncio.sleep(0))
for threshold in range(4, 100, 3):  # the younger go first: sometimes the loop, sometimes the socket
    getattr(gc, "set_threshold", print)(threshold, 1000, 1000)  # PyPy has none
    work()
    gc.collect()
"""


@pytest.mark.parametrize("make", [
    "aio.new_event_loop", *(f"lambda: aio.IoUringEventLoop(IoUringSelector({name!r}))" for name in STRATEGIES)
])  # fmt: skip
def test_loop_that_is_forgotten_then_nothing_on_stderr(make):
    """Its own socket may be finalized first, and then has no number when the loop removes it."""
    done = python("-c", FORGOTTEN, make)
    skip_if_too_old(done.stderr)
    assert (done.returncode, done.stderr) == (0, "")


def test_loop_that_could_not_be_made_then_the_reason_and_nothing_from_its_finalizer(recwarn):
    with pytest.raises(TypeError, match="selector='x': must be a selector"):
        aio.IoUringEventLoop("x")
    main = "import rawuring.aio as aio\ntry: aio.new_event_loop()\nexcept RuntimeWarning: print('refused')"
    done = python("-W", "error", "-c", FILTER + main, hex(DENIED[0]))
    skip_without_seccomp(done)
    assert (done.stdout, done.stderr) == ("refused\n", "")


def left_over(use) -> int:
    """Count the objects that only the collector frees."""
    for _ in range(2):
        use()
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        use()
        return gc.collect()
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="reference counts")
@pytest.mark.unwatched("debug mode keeps the objects it watches")
@pytest.mark.parametrize("strategy", [None, *STRATEGIES, "epoll"])
def test_selector_and_loop_used_and_closed_then_no_more_cycles_than_with_epoll_selector(strategy, make_pairs):
    selector_of(strategy).close()
    pairs = make_pairs(30)

    def use(make) -> None:
        with make() as sel:
            for a, _ in pairs:
                sel.register(a, selectors.EVENT_WRITE)
            for timeout in (0, 0, 0.001, None):
                sel.select(timeout)
        loop = asyncio.SelectorEventLoop(make())
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    expected = left_over(lambda: use(selectors.EpollSelector))
    assert left_over(lambda: use(lambda: IoUringSelector(strategy))) <= expected
    assert left_over(lambda: aio.new_event_loop().close()) <= expected


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="the collector's count of objects")
@pytest.mark.unwatched("debug mode keeps the objects it watches")
@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_selector_then_a_hundred_objects_at_most(strategy):
    """It was more than a thousand: a view for each slot of its queue."""
    selector_of(strategy).close()
    gc.collect()
    gc.disable()
    try:
        before = len(gc.get_objects())
        sel = IoUringSelector(strategy)
        assert len(gc.get_objects()) - before <= 100
        sel.close()
    finally:
        gc.enable()


# -- examples


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("aio_echo_server", "10000000 bytes echoed to 10 clients"),
        ("aio_subprocess", "0 bytes reversed, exit code 0"),
        ("aio_signals", "Ctrl-C ends the loop: True"),
        ("aio_threads", "8 digests from a loop in another thread"),
    ],
)
def test_example_then_it_says_what_it_should(name, last):
    path = ROOT / "examples" / f"{name}.py"
    assert len(path.read_text().splitlines()) < 80
    done = python("-X", "dev", "-W", "error", str(path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == last, done.stdout
