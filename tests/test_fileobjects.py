# SPDX-License-Identifier: MIT
"""File objects: order, cancellation, errors, pipes, O_DIRECT, wrapping, paths and temporary files.

What it is: behaviour without a counterpart in the builtin's open(), and the names of aiofiles and anyio.
Must not know: whether the caches, the ring or a thread answers a call.
Invariant: every test closes its loop, and no descriptor is left.
Read next: property/test_fileobjects_properties.py.
"""

from __future__ import annotations

import asyncio
import builtins
import errno
import gc
import importlib
import inspect
import io
import os
import pathlib
import signal
import sys
import threading
import warnings
from typing import Any
from unittest import mock

import pytest

from rawuring import fileobjects, fileops, files

pytestmark = pytest.mark.leakcheck


@pytest.fixture(params=["ring", "threads"])
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """Run a coroutine on a new loop, with the ring if available, and with threads only."""
    if request.param == "threads":
        monkeypatch.setattr(files, "_ring", lambda: None)
    return asyncio.run


@pytest.fixture
def cold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the page cache's answers."""
    monkeypatch.setattr(fileops, "read_now", lambda *args: None)
    monkeypatch.setattr(files, "read_now", lambda *args: None)


class Gate:
    """Delays reads at an offset until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()
        self.real = files.readinto_at
        monkeypatch.setattr(files, "readinto_at", self.readinto_at)

    async def readinto_at(self, fd: int, buffer: object, offset: int) -> int:
        self.reached.set()
        await self.opened.wait()
        return await self.real(fd, buffer, offset)


# ------------------------------------------------------------------------------------------------------
# Order and cancellation


def test_operations_when_one_waits_then_the_others_follow_in_the_order_of_their_calls(
    run, cold, tmp_path, monkeypatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one\ntwo\nthree\nfour\n")

    async def main() -> None:
        gate = Gate(monkeypatch)
        async with files.open(path, "rb") as file:
            tasks = [
                asyncio.ensure_future(each)
                for each in (file.readline(), file.read(2), file.tell(), file.__anext__(), file.read())
            ]
            await gate.reached.wait()
            gate.opened.set()
            assert await asyncio.gather(*tasks) == [b"one\n", b"tw", 6, b"o\n", b"three\nfour\n"]

    run(main())


def test_text_when_one_operation_waits_then_the_others_follow(run, cold, tmp_path, monkeypatch) -> None:
    path = tmp_path / "file"
    path.write_text("one\ntwo\nthree\n")

    async def main() -> None:
        gate = Gate(monkeypatch)
        async with files.open(path) as file:
            calls = file.readline(), file.__anext__(), file.read(3)
            tasks = [asyncio.ensure_future(each) for each in calls]
            await gate.reached.wait()
            gate.opened.set()
            assert await asyncio.gather(*tasks) == ["one\n", "two\n", "thr"]

    run(main())


@pytest.mark.parametrize("mode", ["rb", "r"])
@pytest.mark.parametrize("name", ["read", "readline", "readlines"])
def test_operation_when_cancelled_then_position_and_data_are_as_before(
    run, cold, tmp_path, monkeypatch, mode, name
) -> None:
    """A call that has read a part and is cancelled while it waits for the rest: the next one reads it all."""
    path = tmp_path / "file"
    content = b"x" * 5000 + b"y" * 9000 + b"\nz"
    path.write_bytes(content)

    async def main() -> None:
        async with files.open(path, mode, 4096) as file:
            if mode == "r":
                file._chunk = 4096
            assert len(await file.read(10)) == 10
            gate = Gate(monkeypatch)
            task = asyncio.ensure_future(getattr(file, name)())
            await gate.reached.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            gate.opened.set()
            if (mode, name) != ("r", "readlines"):  # which iterates, and so disables tell()
                assert await file.tell() == 10
            rest = await file.read()
            assert (rest if mode == "rb" else rest.encode()) == content[10:]

    run(main())


def test_operation_when_cancelled_while_it_waits_for_its_turn_then_the_next_has_it(
    run, cold, tmp_path, monkeypatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")

    async def main() -> None:
        gate = Gate(monkeypatch)
        async with files.open(path, "rb") as file:
            first = asyncio.ensure_future(file.read(1))
            await gate.reached.wait()
            second, third = (asyncio.ensure_future(file.read(n)) for n in (2, 3))
            await asyncio.sleep(0)
            second.cancel()
            gate.opened.set()
            assert await asyncio.gather(first, third) == [b"0", b"123"]

    run(main())


def test_operation_when_cancelled_after_the_one_before_has_ended_then_cancelled(
    run, cold, tmp_path, monkeypatch
) -> None:
    """The turn was passed over already, and is no longer in the queue."""
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")

    async def main() -> None:
        gate = Gate(monkeypatch)
        async with files.open(path, "rb") as file:
            first = asyncio.ensure_future(file.read(1))
            await gate.reached.wait()
            second = asyncio.ensure_future(file.read(2))
            await asyncio.sleep(0)

            def end(_: object) -> None:
                second.cancel()
                file._release()

            file._busy = True
            loop = asyncio.get_running_loop()
            loop.call_soon(end, None)
            with pytest.raises(asyncio.CancelledError):
                await second
            gate.opened.set()
            assert await first == b"0"

    run(main())


def test_line_of_a_raw_file_when_cancelled_then_the_position_is_as_before(
    run, cold, tmp_path, monkeypatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789\n")

    async def main() -> None:
        async with files.open(path, "rb", 0) as file:
            real, count = files.readinto_at, 0

            async def readinto_at(*args: object) -> int:
                nonlocal count
                count += 1
                if count == 5:
                    await asyncio.Event().wait()
                return await real(*args)

            monkeypatch.setattr(files, "readinto_at", readinto_at)
            task = asyncio.ensure_future(file.readline())
            while count < 5:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await file.tell() == 0
            assert await file.readline() == b"0123456789\n"

    run(main())


def test_pipe_when_a_read_is_cancelled_then_the_next_gets_its_bytes(run) -> None:
    reading, writing = os.pipe()

    async def main() -> None:
        async with files.open(reading, "rb") as file:
            os.write(writing, b"half a li")
            task = asyncio.ensure_future(file.readline())
            while file._raw.lacks or not file._busy:
                await asyncio.sleep(0)
            for _ in range(20):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            os.write(writing, b"ne\nand more")
            os.close(writing)
            assert await file.readline() == b"half a line\n"
            assert await file.read() == b"and more"

    run(main())


def test_async_with_when_cancelled_then_the_file_is_written_and_closed(run, tmp_path) -> None:
    path = tmp_path / "file"
    opened = []

    async def hold() -> None:
        async with files.open(path, "w") as file:
            opened.append(file)
            await file.write("text")
            await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.ensure_future(hold())
        while not opened:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert opened[0].closed

    run(main())
    assert path.read_text() == "text"


def test_appends_when_many_at_once_then_one_after_another(run, tmp_path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"begin\n")

    async def main() -> None:
        async with files.open(path, "ab", 16) as file:
            await asyncio.gather(*(file.write(b"%04d\n" % n * 20) for n in range(50)))
            assert await file.tell() == 6 + 50 * 100

    run(main())
    assert path.read_bytes() == b"begin\n" + b"".join(b"%04d\n" % n * 20 for n in range(50))


def test_positional_operations_then_beside_the_position(run, tmp_path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")

    async def main() -> None:
        async with files.open(path, "r+b") as file:
            assert await file.read(2) == b"01"
            assert await file.write_at(b"XY", 8) == 2
            assert await file.read_at(5, 6) == b"67XY"
            buffer = bytearray(3)
            assert await file.readinto_at(buffer, 1) == 3
            assert (buffer, await file.tell()) == (b"123", 2)
            with pytest.raises(OSError):
                await file.read_at(1, -1)
        async with files.open(path, "wb") as file:
            with pytest.raises(io.UnsupportedOperation):
                await file.read_at(1, 0)

    run(main())


@pytest.mark.parametrize("cancel", [False, True])
@pytest.mark.parametrize("mode", ["r+b", "rb"])
def test_close_when_a_positional_read_is_under_way_then_it_waits(
    run, tmp_path, monkeypatch, cancel, mode
) -> None:
    """It closed the number, and the read continued in the next file with that number."""
    path, other = tmp_path / "file", tmp_path / "other"
    path.write_bytes(b"right")
    other.write_bytes(b"wrong")

    async def main() -> None:
        gate = Gate(monkeypatch)
        file = await files.open(path, mode)
        number = file.fileno()
        reading = asyncio.ensure_future(file.read_at(5, 0))
        await gate.reached.wait()
        closing = asyncio.ensure_future(file.close())
        await asyncio.sleep(0)
        with pytest.raises(ValueError, match="closed file"):
            await file.read_at(1, 0)
        if cancel:
            closing.cancel()
            await asyncio.sleep(0)
        with open(other, "rb") as reused:
            assert reused.fileno() != number and not closing.done()
            gate.opened.set()
            assert await reading == b"right"
        assert (await asyncio.gather(closing, return_exceptions=True) == [None]) is not cancel
        with open(other, "rb") as reused:
            assert file.closed and reused.fileno() == number

    run(main())


@pytest.mark.skipif(not os.path.exists("/proc/thread-self/comm"), reason="/proc/thread-self (3.17)")
@pytest.mark.parametrize("kind", ["rb", "r", 0])
def test_file_of_proc_when_it_changes_while_it_is_read_then_what_the_builtin_reads(run, kind) -> None:
    """lseek(fd, 0, SEEK_CUR) made the kernel regenerate content that had been read, with other lengths."""
    home = f"/proc/self/task/{threading.get_native_id()}"
    arguments = ("rb", 0) if kind == 0 else (kind, 100)

    def rename(name: str) -> None:
        with open(f"{home}/comm", "w") as comm:
            comm.write(name)

    def words(read: str) -> list[str]:
        return [line.partition(":")[0] for line in read.split("\n")]

    def text(parts: list[Any]) -> str:
        return "".join(part if isinstance(part, str) else part.decode() for part in parts)

    async def main() -> list[Any]:
        async with files.open(f"{home}/status", *arguments) as file:
            first = [await file.read(100)]
            rename("a-longer-name")
            return [*first, *[await file.read(100) for _ in range(100)]]

    with open(f"{home}/comm") as comm:
        before = comm.read()
    try:
        rename("short")
        with open(f"{home}/status", *arguments) as file:
            first = file.read(100)
            rename("a-longer-name")
            wanted = text([first, *[file.read(100) for _ in range(100)]])
        rename("short")
        assert words(text(run(main()))) == words(wanted)
    finally:
        rename(before)


# ------------------------------------------------------------------------------------------------------
# Errors


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full")
@pytest.mark.parametrize("mode", ["wb", "w"])
def test_close_when_the_device_is_full_then_it_says_so_and_closes_all_the_same(run, mode) -> None:
    async def main() -> None:
        file = await files.open("/dev/full", mode)
        await file.write(b"lost" if mode == "wb" else "lost")
        with pytest.raises(OSError) as caught:
            await file.flush()
        assert caught.value.errno == errno.ENOSPC
        with pytest.raises(OSError) as caught:
            await file.close()
        assert caught.value.errno == errno.ENOSPC
        assert file.closed
        await file.close()

    run(main())


@pytest.mark.parametrize("mode", ["wb", "w"])
def test_close_when_only_the_close_finds_out_then_it_says_so_and_has_closed(
    run, tmp_path, monkeypatch, mode
) -> None:
    """A file system with quotas, or a server, may report EDQUOT only then."""
    closed = []

    def close_op(fd: int) -> fileops.Op:
        def close() -> None:
            os.close(fd)
            closed.append(fd)
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

        return fileops.Op(close)

    async def main() -> None:
        file = await files.open(tmp_path / "file", mode)
        number = file.fileno()
        await file.write(b"kept" if mode == "wb" else "kept")
        with pytest.raises(OSError) as caught:
            await file.close()
        assert caught.value.errno == errno.EDQUOT and file.closed
        await file.close()
        with pytest.raises(OSError) as caught:
            async with files.open(tmp_path / "file", mode.replace("w", "a")) as file:
                await file.write(b"too" if mode == "wb" else "too")
        assert caught.value.errno == errno.EDQUOT and file.closed
        assert closed == [number] * 2

    monkeypatch.setattr(fileops, "close_op", close_op)
    run(main())
    assert (tmp_path / "file").read_bytes() == b"kepttoo"


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
@pytest.mark.parametrize("kind", ["r+b", "raw", "r+"])
def test_file_when_larger_than_4_gib_then_positions_are_the_builtins(run, tmp_path, kind) -> None:
    path, far = tmp_path / "sparse", 5 << 30
    with path.open("wb") as file:
        file.seek(far)
        file.write("\xe9nd\nmore\n".encode())
    text = kind == "r+"
    arguments: dict[str, Any] = {"encoding": "utf-8"} if text else {"buffering": 0 if kind == "raw" else -1}
    mode = "r+b" if kind == "raw" else kind

    def given(word: str) -> Any:
        return word if text else word.encode()

    async def main() -> None:
        with builtins.open(path, mode, **arguments) as theirs:
            async with files.open(path, mode, **arguments) as ours:
                assert await ours.seek(far) == theirs.seek(far) == far
                assert await ours.read(2) == theirs.read(2)
                assert await ours.tell() == theirs.tell()
                assert await ours.readline() == theirs.readline()
                cookie = await ours.tell()
                assert cookie == theirs.tell() == far + 5
                assert await ours.readline() == given("more\n")
                await ours.seek(cookie)
                await ours.write(given("MORE"))
                await ours.flush()
                assert os.pread(theirs.fileno(), 4, far + 5) == b"MORE"
                assert await ours.seek(0, 2) == far + 10
                assert await ours.truncate(far + 2) == far + 2
                if not text:
                    assert await ours.read_at(9, far - 3) == bytes(3) + "\xe9".encode()
                    assert await ours.write_at(b"!", far + (1 << 20)) == 1
        assert path.stat().st_size == (far + 2 if text else far + (1 << 20) + 1)

    run(main())


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_write_when_it_fails_then_what_was_accepted_is_written_later(run, tmp_path) -> None:
    import resource

    path = tmp_path / "file"

    async def main() -> None:
        async with files.open(path, "wb", 64) as file:
            await file.write(b"a" * 60)
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
            for _ in range(2):
                with pytest.raises(OSError):
                    await file.write(b"b" * 60)
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            await file.write(b"c" * 60)

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        run(main())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert path.read_bytes() == b"a" * 60 + b"c" * 60


@pytest.mark.parametrize("cycle", [False, True])
@pytest.mark.parametrize(("mode", "data"), [("wb", b"data"), ("w", "data")])
def test_file_when_forgotten_then_written_and_closed_with_a_warning(tmp_path, mode, data, cycle) -> None:
    path = tmp_path / "file"

    async def main() -> None:
        file = await files.open(path, mode)
        await file.write(data)
        if cycle:  # the collector finalizes the raw file before the buffers
            file.me = file

    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        asyncio.run(main())
        for _ in range(3):
            gc.collect()
    assert [each for each in found if issubclass(each.category, ResourceWarning)]
    assert path.read_bytes() == b"data"


def test_directory_and_missing_file_then_the_builtins_words(run, tmp_path) -> None:
    for path in (str(tmp_path), str(tmp_path / "none")):
        with pytest.raises(OSError) as theirs:
            builtins.open(path)  # noqa: SIM115
        with pytest.raises(OSError) as ours:
            run(_close(files.open(path)))
        assert str(ours.value) == str(theirs.value)


async def _close(opening) -> None:
    await (await opening).close()


# ------------------------------------------------------------------------------------------------------
# Descriptors


def test_flush_and_fileno_then_the_descriptor_is_where_the_file_is(run, tmp_path) -> None:
    path = tmp_path / "file"

    async def main() -> None:
        async with files.open(path, "w") as file:
            await file.write("head\n")
            await file.flush()
            os.write(file.fileno(), b"from a child\n")

    run(main())
    assert path.read_bytes() == b"head\nfrom a child\n"


def test_descriptor_when_not_ours_then_left_open_where_the_file_was(run, tmp_path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    fd = os.open(path, os.O_RDONLY)

    async def main() -> None:
        async with files.open(fd, "rb", 0, closefd=False) as file:
            assert await file.read(4) == b"0123"

    try:
        run(main())
        assert os.read(fd, 2) == b"45"
    finally:
        os.close(fd)


def test_opener_then_called_in_a_thread_with_path_and_flags(run, tmp_path) -> None:
    calls = []

    def opener(path: str, flags: int) -> int:
        calls.append((path, flags & os.O_CREAT))
        return os.open(tmp_path / "other", flags, 0o600)

    async def main() -> None:
        async with files.open("name", "w", opener=opener) as file:
            assert file.name == "name"
            await file.write("x")
        for answer, error in ((-1, ValueError), ("x", TypeError)):
            with pytest.raises(error):
                await files.open("name", opener=lambda path, flags, answer=answer: answer)

    run(main())
    assert calls == [("name", os.O_CREAT)]
    assert (tmp_path / "other").read_text() == "x"


@pytest.mark.parametrize("kind", ["rb", "r"])
def test_detach_then_the_builtins_file_at_the_same_place(run, tmp_path, kind) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")

    async def main() -> None:
        file = await files.open(path, kind)
        with file.detach() as below:
            assert below.read(4) == b"0123"
        with pytest.raises(ValueError, match="detached"):
            await file.read()

    run(main())


def test_text_reconfigured_then_the_builtins_bytes_and_words(run, tmp_path) -> None:
    path, theirs = tmp_path / "file", tmp_path / "theirs"
    steps = [
        ({}, "a\n"), ({"encoding": "utf-16", "newline": "\r\n"}, "b\n"),
        ({"encoding": "ascii", "errors": "ignore"}, "\xe9c\n"),
        ({"newline": "\n"}, "d\n"), ({"line_buffering": True}, "e\n"), ({"write_through": True}, "f"),
    ]  # fmt: skip

    async def main() -> None:
        with builtins.open(theirs, "w+", encoding="utf-8") as expected:
            async with files.open(path, "w+", encoding="utf-8") as file:
                for changes, text in steps:
                    expected.reconfigure(**changes)
                    await file.reconfigure(**changes)
                    expected.write(text)
                    await file.write(text)
                assert await file.buffer.tell() == expected.buffer.tell()  # write_through: "f" is not kept
                names = "encoding", "errors", "line_buffering", "write_through"
                assert [getattr(file, name) for name in names] == [getattr(expected, name) for name in names]
                with pytest.raises(LookupError):
                    await file.reconfigure(encoding="no such encoding")
                await file.reconfigure(encoding="latin-1")
                await file.seek(0)
                await file.readline()
                with pytest.raises(io.UnsupportedOperation, match="after the first read"):
                    await file.reconfigure(encoding="utf-8")
        assert path.read_bytes() == theirs.read_bytes()

    run(main())


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="os.O_DIRECT (Linux)")
def test_direct_then_any_position_and_length(run, tmp_path) -> None:
    path = tmp_path / "file"
    content = bytes(range(256)) * 40 + b"tail"

    async def main() -> None:
        if sys.implementation.name == "pypy" and files._ring() is None:
            pytest.skip("PyPy's os.pwrite() copies to memory that is not aligned, which O_DIRECT rejects")
        async with files.open(path, "w+b", direct=True) as file:
            assert await file.write(content) == len(content)
            await file.seek(0)
            assert await file.read() == content
            await file.seek(5000)
            assert await file.read(100) == content[5000:5100]
            assert await file.read_at(30, 4090) == content[4090:4120]
            assert await file.write_at(b"HERE", 4094) == 4
        async with files.open(path, direct=True, encoding="latin-1") as file:
            assert len(await file.read()) == len(content)

    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT))
    except OSError as error:
        pytest.skip(f"O_DIRECT on this file system: {error}")
    run(main())
    assert path.read_bytes() == content[:4094] + b"HERE" + content[4098:]


class WatchedLock:
    """A lock that tells when a thread has to wait for it."""

    def __init__(self, lock: Any, has_to_wait: threading.Event) -> None:
        self.lock, self.has_to_wait = lock, has_to_wait

    def __enter__(self) -> None:
        if not self.lock.acquire(False):
            self.has_to_wait.set()
            self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="os.O_DIRECT (Linux)")
def test_direct_when_two_parts_of_blocks_are_written_at_once_then_both_and_it_stays_direct(
    run, tmp_path, monkeypatch
) -> None:
    """Each took O_DIRECT from the descriptor, and gave back what it had found: for one, a lack of it."""
    second, first_ended = threading.Event(), threading.Event()
    plain, calls = fileops.plain_write, []

    def write(fd: int, views: Any, offset: int) -> int:
        calls.append(offset)
        if len(calls) == 1:
            second.wait()  # it is here, or it waits for its turn
        else:
            second.set()
            first_ended.wait()
        return plain(fd, views, offset)

    async def main() -> None:
        if sys.implementation.name == "pypy" and files._ring() is None:
            pytest.skip("PyPy's os.pwrite() copies to memory that is not aligned, which O_DIRECT rejects")
        async with files.open(tmp_path / "file", "w+b", direct=True) as file:
            await file.write(bytes(8192))
            await file.flush()
            raw = file._raw
            for name, lock in vars(raw).items():
                if isinstance(lock, type(threading.Lock())):
                    setattr(raw, name, WatchedLock(lock, second))
            with monkeypatch.context() as patch:
                patch.setattr(fileops, "plain_write", write)
                tasks = [asyncio.ensure_future(file.write_at(b"xy", at)) for at in (10, 5000)]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                first_ended.set()
                await asyncio.gather(*tasks)
            assert fileops.status_flags(file.fileno()) & os.O_DIRECT

    try:
        os.close(os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT | os.O_DIRECT))
    except OSError as error:
        pytest.skip(f"O_DIRECT on this file system: {error}")
    run(main())
    data = (tmp_path / "file").read_bytes()
    assert data[10:12] == data[5000:5002] == b"xy"


# ------------------------------------------------------------------------------------------------------
# Other names


def test_wrap_then_objects_descriptors_and_nothing_else(run, tmp_path) -> None:
    path = tmp_path / "file"

    async def main() -> None:
        with path.open("w") as file:
            wrapped = files.wrap_file(file, limiter="limiter")
            assert wrapped.limiter == "limiter"
            assert await wrapped.write("one\ntwo\n") == 8
        async with files.wrap(path.open()) as wrapped:
            assert [line async for line in wrapped] == ["one\n", "two\n"]
            assert wrapped.encoding
        async with files.wrap(io.BytesIO(b"memory")) as wrapped:
            assert await wrapped.read(3) == b"mem"
        async with files.wrap(os.open(path, os.O_RDONLY)) as wrapped:
            assert isinstance(wrapped, fileobjects.BufferedFile)
            assert await wrapped.read() == b"one\ntwo\n"

    run(main())
    for thing in (int, [1], lambda: 0, io.FileIO, True):
        with pytest.raises(TypeError):
            files.wrap(thing)


def test_names_of_aiofiles_and_anyio_then_there(run, tmp_path) -> None:
    path = tmp_path / "file"

    async def main() -> None:
        async with await files.open_file(path, "w") as file:
            assert isinstance(file, files.AsyncFile)
            assert await file.writable()
            assert file.writable()
        assert (await files.os.stat(path)).st_size == 0
        assert await files.os.path.exists(path)
        await files.os.remove(path)
        async with files.threadpool.open(path, "w") as file:
            await file.write("x")

    run(main())
    assert files.os is not os


@pytest.fixture
def as_aiofiles():
    def theirs() -> dict[str, Any]:
        return {name: module for name, module in sys.modules.items() if name.split(".")[0] == "aiofiles"}

    before = theirs()
    for name in before:
        del sys.modules[name]
    files.install_as_aiofiles()
    yield
    for name in theirs():
        del sys.modules[name]
    sys.modules.update(before)


@pytest.mark.parametrize(
    "statement",
    [
        "import aiofiles; found = aiofiles.open",
        "import aiofiles.os; found = aiofiles.os.remove",
        "import aiofiles.os as aios; found = aios.path.exists",
        "from aiofiles import os as aios; found = aios.wrap",
        "from aiofiles import open as found",
        "from aiofiles.os import path, makedirs, scandir; found = makedirs",
        "from aiofiles.ospath import exists as found",
        "from aiofiles.tempfile import NamedTemporaryFile, TemporaryDirectory; found = TemporaryDirectory",
        "import aiofiles; found = aiofiles.tempfile.temptypes.AsyncTemporaryDirectory",
        "from aiofiles.tempfile.temptypes import AsyncSpooledTemporaryFile as found",
        "from aiofiles.threadpool.text import AsyncTextIndirectIOWrapper as found",
        "from aiofiles.threadpool import AsyncFileIO, open, sync_open, wrap; found = wrap",
        "from aiofiles.threadpool.binary import AsyncBufferedIOBase, AsyncBufferedReader as found",
        "import aiofiles; found = aiofiles.threadpool.text.AsyncTextIOWrapper",
        "from aiofiles.base import AiofilesContextManager as found, wrap; assert found[str, None]",
    ],
)
def test_program_that_imports_aiofiles_then_ours(as_aiofiles, statement) -> None:
    names: dict[str, Any] = {}
    exec(statement, names)
    assert callable(names["found"])
    loaded = [module for name, module in sys.modules.items() if name.split(".")[0] == "aiofiles"]
    ours = files.__name__.rpartition(".")[0]  # a copy has another name
    assert files in loaded and all(module.__name__.startswith(f"{ours}.") for module in loaded)


def test_classes_of_aiofiles_then_files_of_each_kind_are_their_instances(run, tmp_path) -> None:
    pool = files.threadpool
    text, buffered, reader, raw = (
        pool.text.AsyncTextIOWrapper, pool.binary.AsyncBufferedIOBase, pool.binary.AsyncBufferedReader,
        pool.binary.AsyncFileIO,
    )  # fmt: skip
    path = tmp_path / "file"

    async def main() -> None:
        def kinds(file: Any) -> set[Any]:
            return {kind for kind in (text, buffered, reader, raw) if isinstance(file, kind)}

        for mode, buffering, expected in (
            ("w", -1, {text}), ("r+", -1, {text}), ("wb", -1, {buffered}), ("rb", -1, {buffered, reader}),
            ("rb+", -1, {buffered, reader}), ("rb", 0, {raw}), ("ab", 0, {raw}),
        ):  # fmt: skip
            async with files.open(path, mode, buffering) as file:
                assert kinds(file) == expected, mode
            with open(path, mode, buffering) as plain:
                assert kinds(files.wrap(plain)) == expected, mode
        assert kinds(files.wrap(io.BytesIO())) == {buffered}
        assert kinds(files.wrap(io.StringIO())) == {text}
        assert not kinds(io.BytesIO())
        assert kinds(text(object())) == {text}

    run(main())


def test_sync_open_is_replaced_then_open_uses_it(run) -> None:
    # As aiofiles' documentation shows how to test a program.
    class Mock(mock.MagicMock):
        pass

    files.threadpool.wrap.register(Mock)(
        lambda *args, **kwargs: files.threadpool.AsyncBufferedIOBase(*args, **kwargs)
    )
    file = Mock()
    file.read.return_value = "text"

    async def main() -> None:
        async with files.open("name", "w", encoding="ascii") as opened:
            await opened.write("data")
            assert await opened.read() == "text"

    with mock.patch.object(files.threadpool, "sync_open", return_value=file) as replaced:
        run(main())
    replaced.assert_called_once_with(
        "name", mode="w", buffering=-1, encoding="ascii", errors=None, newline=None, closefd=True, opener=None
    )
    file.write.assert_called_once_with("data")


def test_functions_of_os_path_then_the_argument_has_its_name_there(run, tmp_path) -> None:
    async def main() -> None:
        for name in ("exists", "isdir", "isfile", "islink", "getsize", "getmtime", "abspath", "ismount"):
            function = getattr(os.path, name)
            argument = {next(iter(inspect.signature(function).parameters)): str(tmp_path)}
            assert await getattr(files.ospath, name)(**argument, loop=None) == function(str(tmp_path)), name

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 10), reason="aiofiles 25.1 and anyio 4.16 (Python 3.10)")
@pytest.mark.parametrize("place", ["", "os", "ospath", "tempfile", "anyio", "Path", "AsyncFile"])
def test_functions_of_aiofiles_and_anyio_then_ours_take_what_theirs_take(place) -> None:
    theirs: Any
    if place[:1] in ("a", "P", "A"):
        anyio = pytest.importorskip("anyio")
        theirs, ours = (anyio, files) if place == "anyio" else (getattr(anyio, place), getattr(files, place))
        names = ["open_file", "wrap_file"] if place == "anyio" else vars(theirs)
        if place == "AsyncFile":
            ours = fileobjects.WrappedFile
    else:
        pytest.importorskip("aiofiles")
        theirs = importlib.import_module(f"aiofiles.{place}".rstrip("."))
        ours, names = getattr(files, place) if place else files, theirs.__all__
    for name in names:
        function = getattr(theirs, name, None)
        if name.startswith("_") or not callable(function):
            assert name.startswith("_") or place == "AsyncFile" or hasattr(ours, name), name
            continue
        taken = inspect.signature(getattr(ours, name)).parameters
        any_name = any(each.kind is each.VAR_KEYWORD for each in taken.values())
        for each in inspect.signature(function).parameters.values():
            optional = each.default is not each.empty
            assert not optional or each.name in taken or any_name, (name, each)


def test_path_then_as_pathlibs(run, tmp_path) -> None:
    async def main() -> None:
        path = files.Path(tmp_path) / "a"
        assert isinstance(path, (files.Path, pathlib.PurePath))
        assert path == pathlib.PurePath(tmp_path, "a")
        await path.mkdir()
        assert await (path / "b").write_text("one\ntwo") == 7
        await (path / "link").symlink_to(path)
        assert await (path / "b").read_text() == "one\ntwo"
        assert await (path / "b").read_bytes() == b"one\ntwo"
        assert await (path / "b").is_file() and await path.is_dir()
        assert not await (path / "c").exists()
        assert sorted([each.name async for each in path.iterdir()]) == ["b", "link"]
        assert [each async for each in path.glob("b*")] == [path / "b"]
        assert [(str(root), folders, sorted(names)) async for root, folders, names in path.walk()] == [
            (str(path), [], ["b", "link"])
        ]
        async with path.joinpath("b").open() as file:
            assert await file.readlines() == ["one\n", "two"]
        assert await (await (path / "b").rename(path / "c")).exists()
        await (path / "c").unlink()
        await (path / "c").unlink(missing_ok=True)
        with pytest.raises(FileNotFoundError):
            await (path / "c").unlink()
        with pytest.raises(TypeError, match="data must be str, not bytes"):
            await (path / "c").write_text(b"x")

    run(main())


def test_temporary_files_then_gone_in_the_end(run, tmp_path) -> None:
    async def main() -> None:
        async with files.tempfile.TemporaryFile("w+") as file:
            await file.write("text")
            await file.seek(0)
            assert await file.read() == "text"
        async with files.tempfile.NamedTemporaryFile(dir=tmp_path) as file:
            assert await file.write(b"x") == 1
            await file.flush()
            assert os.path.getsize(file.name) == 1
        async with files.tempfile.SpooledTemporaryFile(max_size=4) as file:
            await file.write(b"1234")
            assert not file._file._rolled
            await file.write(b"5")
            assert file._file._rolled
            await file.seek(0)
            assert await file.read() == b"12345"
        async with files.tempfile.TemporaryDirectory(dir=tmp_path) as name:
            assert os.path.isdir(name)

    run(main())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", ["w+b", "w+", "r+"])
def test_named_temporary_file_when_closed_then_gone_unless_it_is_to_stay(run, tmp_path, mode) -> None:
    """A text file was removed only at the end of its block, and its descriptor stayed open until then."""

    async def main() -> None:
        data: Any = b"data" if "b" in mode else "data"
        file = await files.tempfile.NamedTemporaryFile(mode, dir=tmp_path)
        await file.write(data)
        number = file.fileno()
        await file.close()
        assert not os.path.exists(file.name)
        with pytest.raises(OSError):
            os.fstat(number)
        if sys.version_info >= (3, 12):
            async with files.tempfile.NamedTemporaryFile(mode, dir=tmp_path, delete_on_close=False) as file:
                await file.write(data)
                await file.close()
                assert pathlib.Path(file.name).read_bytes() == b"data"
            assert not os.path.exists(file.name)

    run(main())


def test_standard_streams_then_those_of_sys(run, capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("in\n"))

    async def main() -> None:
        assert await files.stdin.readline() == "in\n"
        await files.stdout.write("out")
        await files.stderr.write("err")

    run(main())
    assert capsys.readouterr() == ("out", "err")
