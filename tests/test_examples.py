# SPDX-License-Identifier: MIT
"""The examples, run as their users run them, and short enough to be read.

What it is: each example in a separate process, from another working directory, with its result compared to
that of the standard library.
Must not know: how an example works.
Invariant: an example that cannot run here says so, and is skipped for a feature that has a name.
Read next: the examples.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import random
import socket
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from driver import kernel_release, lacks, need_opcode, release

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
NAMES = ("cat", "copy_linked", "random_reader", "echo_multishot", "pass_fd", "walk_statx")

pytestmark = pytest.mark.requires_io_uring


def command(name: str, *arguments: object) -> list[str]:
    return [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py"), *map(str, arguments)]


def run(name: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess:
    done = subprocess.run(command(name, *arguments), capture_output=True, cwd=cwd, timeout=120, check=False)
    assert done.returncode == 0, done
    assert done.stderr == b"", done
    return done


FILES = ("files_server", "files_hash", "files_follow", "files_copy", "files_loader")


@pytest.mark.parametrize("name", [*NAMES, *FILES])
def test_example_then_under_80_lines(name):
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 80


def test_proactor_then_the_only_one_that_is_longer():
    """The loop of examples/proactor.py cannot be shorter: it is the bridge for readers who know IOCP."""
    assert len((EXAMPLES / "proactor.py").read_text().splitlines()) < 250


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(random.Random(1).getrandbits(8 * 3_000_001).to_bytes(3_000_001, "little"))
    return path


def test_cat_then_the_files_one_after_the_other(file, tmp_path):
    need_opcode("READ")
    small, empty = tmp_path / "small", tmp_path / "empty"
    small.write_bytes(b"small")
    empty.touch()
    done = run("cat", file, empty, small, file, cwd=tmp_path)
    assert done.stdout == file.read_bytes() + b"small" + file.read_bytes()


def test_copy_linked_then_the_same_bytes(file, tmp_path):
    need_opcode("READ")
    done = run("copy_linked", file, tmp_path / "copy", cwd=tmp_path)
    assert done.stdout == b"3000001 bytes\n"
    assert (tmp_path / "copy").read_bytes() == file.read_bytes()


@pytest.fixture
def direct_file() -> Iterator[Path]:
    """Give a file on a file system that has O_DIRECT; tmpfs had none before 6.6."""
    for folder in (tempfile.gettempdir(), EXAMPLES, "/var/tmp"):
        try:
            with tempfile.NamedTemporaryFile(dir=folder) as file:
                file.write(random.Random(2).getrandbits(8 * 4096 * 64).to_bytes(4096 * 64, "little"))
                file.flush()
                os.close(os.open(file.name, os.O_RDONLY | os.O_DIRECT))
                yield Path(file.name)
                return
        except OSError:
            continue
    pytest.skip("O_DIRECT on a writable file system")


def test_random_reader_then_the_checksums_of_the_blocks(direct_file, tmp_path):
    sys.path.insert(0, str(EXAMPLES))
    try:
        import random_reader
    finally:
        sys.path.remove(str(EXAMPLES))
    blocks = [random.Random(3).randrange(64) for _ in range(500)] + list(range(64))
    content = direct_file.read_bytes()
    expected = sum(zlib.crc32(content[block * 4096 : (block + 1) * 4096]) for block in blocks)
    checksum, _ = random_reader.read_blocks(str(direct_file), blocks, 16)
    assert checksum == expected
    done = run("random_reader", direct_file, 100, 8, cwd=tmp_path)
    assert done.stdout.startswith(b"100 reads of 4096 bytes")


def test_echo_then_every_connection_gets_its_own_bytes_back(tmp_path):
    if kernel_release() < release("6.0"):
        lacks("IORING_RECV_MULTISHOT", "6.0")
    with subprocess.Popen(command("echo_multishot"), stdout=subprocess.PIPE, cwd=tmp_path) as server:
        try:
            port = int(server.stdout.readline().split()[-1])
            clients = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(40)]
            size = 20_000
            messages = [random.Random(i).getrandbits(8 * size).to_bytes(size, "little") for i in range(40)]
            for client, message in zip(clients, messages):
                client.sendall(message)
            for client, message in zip(clients, messages):
                client.shutdown(socket.SHUT_WR)
                received = b""
                while True:
                    data = client.recv(65536)
                    if not data:
                        break
                    received += data
                assert received == message
                client.close()
        finally:
            server.kill()


def test_pass_fd_then_read_over_there(tmp_path):
    if kernel_release() < release("6.0"):
        lacks("IORING_MSG_SEND_FD", "6.0")
    (tmp_path / "text").write_text("passed from ring to ring\n")
    assert run("pass_fd", "text", cwd=tmp_path).stdout == b"passed from ring to ring\n"


def test_walk_then_as_os_walk(tmp_path):
    need_opcode("STATX")
    for i in range(30):
        folder = tmp_path / f"d{i % 5}" / f"e{i % 7}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"f{i}").write_bytes(b"x" * i * 100)
    (tmp_path / "dangling").symlink_to("nowhere")
    paths = [tmp_path, *tmp_path.rglob("*")]
    size = sum(path.lstat().st_size for path in paths)
    blocks = sum(path.lstat().st_blocks for path in paths)
    expected = f"{len(paths)} files and directories, {size} bytes, {blocks * 512} on disk\n"
    assert run("walk_statx", tmp_path, cwd=tmp_path).stdout.decode() == expected


def test_proactor_then_it_echoes(tmp_path):
    need_opcode("SEND")
    if sys.implementation.name != "cpython":
        pytest.skip("CPython: PyPy may move the bytearray into which its transports receive")
    assert run("proactor", cwd=tmp_path).stdout == b"1000 messages echoed by _ProactorSocketTransport\n"


#: Runs CPython's own tests of sockets over the example's loop.
CPYTHON = """
import asyncio, sys, unittest
sys.path.insert(0, sys.argv[1])
import proactor
from test.test_asyncio import test_events, test_sendfile, test_streams
Loop = proactor.ProactorEventLoop
asyncio.SelectorEventLoop = asyncio.new_event_loop = Loop
test_events.EPollEventLoopTests.create_event_loop = lambda self: Loop()
loader = unittest.TestLoader()
about = ("connection", "server", "accept", "eof", "ssl", "sendfile", "remove_fds")
loader.testNamePatterns = [f"*{name}*" for name in about]
tests = [
    loader.loadTestsFromTestCase(test_events.EPollEventLoopTests), loader.loadTestsFromModule(test_streams),
    loader.loadTestsFromTestCase(test_sendfile.EPollEventLoopTests),
]
result = unittest.TextTestRunner(stream=sys.stdout).run(unittest.TestSuite(tests))
print(result.testsRun)
sys.exit(not result.wasSuccessful())
"""


@pytest.mark.long
def test_proactor_then_tests_of_asyncio_pass(tmp_path):
    need_opcode("SEND")
    home = subprocess.run(
        [sys.executable, "-c", "import test.test_asyncio"], capture_output=True, cwd=tmp_path, check=False
    )
    if home.returncode:
        pytest.skip("CPython's tests: this Python has no test package")
    done = subprocess.run(
        [sys.executable, "-c", CPYTHON, str(EXAMPLES)], capture_output=True, text=True, cwd=tmp_path,
        timeout=300, env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert int(done.stdout.split()[-1]) > 50


# ------------------------------------------------------------------------------------------------------
# Files


def test_files_hash_then_what_hashlib_says_with_asyncio_and_without(file, tmp_path):
    small = tmp_path / "small"
    small.write_bytes(b"small")
    expected = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path}\n" for path in (file, small))
    for options in ((), ("--sync",)):
        assert run("files_hash", *options, file, small, cwd=tmp_path).stdout.decode() == expected
        bad = command("files_hash", *options, file, "missing", tmp_path, small)
        done = subprocess.run(bad, capture_output=True, cwd=tmp_path, timeout=120, check=False)
        assert (done.returncode, done.stdout.decode()) == (1, expected)
        complaints = f"missing: {os.strerror(errno.ENOENT)}", f"{tmp_path}: {os.strerror(errno.EISDIR)}"
        assert sorted(done.stderr.decode().splitlines()) == sorted(complaints)


@pytest.mark.parametrize("name", ["files_copy", "files_loader"])
def test_files_examples_when_the_file_cannot_be_used_then_one_line_says_why(tmp_path, name):
    (tmp_path / "small").write_bytes(b"small")
    for path in ("missing", "small"):
        arguments = (path, "small") if name == "files_copy" else (path,)
        done = subprocess.run(command(name, *arguments), capture_output=True, cwd=tmp_path, check=False)
        lines = done.stderr.decode().splitlines()
        assert done.returncode == 1 and len(lines) == 1 and path in lines[0], lines
    assert (tmp_path / "small").read_bytes() == b"small"


def test_files_follow_then_lines_before_and_after_a_rotation(tmp_path):
    done = run("files_follow", cwd=tmp_path)
    assert done.stdout == b"['first', 'second']\nafter the rotation\n"


def test_files_copy_then_files_and_trees_are_the_same(file, tmp_path):
    assert run("files_copy", file, tmp_path / "copy", cwd=tmp_path).stdout == b"3000001 bytes\n"
    assert (tmp_path / "copy").read_bytes() == file.read_bytes()
    (tmp_path / "tree" / "below").mkdir(parents=True)
    (tmp_path / "tree" / "below" / "a").write_bytes(b"a")
    assert run("files_copy", tmp_path / "tree", tmp_path / "other", cwd=tmp_path).stdout == b"1 files\n"
    assert (tmp_path / "other" / "below" / "a").read_bytes() == b"a"


def test_files_loader_then_the_checksum_of_the_records(file, tmp_path):
    order, records = random.Random(0), 3_000_001 // 4096
    content, total = file.read_bytes(), 0
    for _ in range(3):
        places = [order.randrange(records) * 4096 for _ in range(64)]
        total += zlib.crc32(b"".join(content[place : place + 4096] for place in places))
    done = run("files_loader", file, 3, cwd=tmp_path)
    assert done.stdout.decode().endswith(f"checksum {total:#x}\n")


def test_files_server_then_files_ranges_and_nothing_else(file, tmp_path):
    (tmp_path / "directory").mkdir()
    with subprocess.Popen(command("files_server", tmp_path), stdout=subprocess.PIPE, cwd=tmp_path) as server:
        try:
            port = int(server.stdout.readline().decode().rstrip("/\n").rpartition(":")[2])
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            for headers, status, start, end in (
                ({}, 200, 0, 3_000_001), ({"Range": "bytes=100-199"}, 206, 100, 200),
                ({"Range": "bytes=2999990-"}, 206, 2_999_990, 3_000_001),
            ):  # fmt: skip
                client.request("GET", "/file", headers=headers)
                answer = client.getresponse()
                assert (answer.status, answer.read()) == (status, file.read_bytes()[start:end])
            client.request("GET", "/file", headers={"Range": "bytes=3000001-"})
            answer = client.getresponse()
            assert (answer.status, answer.getheader("Content-Range")) == (416, "bytes */3000001")
            answer.read()
            for path in ("/missing", "/directory", "/../../etc/hostname", "/%00", "/file/x"):
                client.request("GET", path)
                answer = client.getresponse()
                assert (answer.status, answer.read()) == (404, b"")
            client.close()
        finally:
            server.kill()
