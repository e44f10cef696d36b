# SPDX-License-Identifier: MIT
"""files: the functions of os as coroutines, against os itself.

What it is: each operation compared with the same operation of os: results, exceptions, and the files
afterwards; on the ring if it is available, and in threads.
Must not know: which layer answered.
Invariant: no test waits for time to pass.
Read next: test_files_batches.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Coroutine, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import hypothesis.strategies as st
import leaks
import pytest

from rawuring import fileops, files

pytestmark = [pytest.mark.leakcheck, pytest.mark.usefixtures("way")]
LINUX = sys.platform == "linux"
ROOT = Path(__file__).resolve().parent.parent


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run on the stock loop."""
    return asyncio.run(coroutine)


def outcome(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Return the result, or the identity of the exception."""
    try:
        result = function(*args, **kwargs)
        if asyncio.iscoroutine(result):
            result = run(result)
    except OSError as error:
        return type(error), error.errno, error.filename, error.filename2
    except (TypeError, ValueError, OverflowError) as error:
        return type(error)
    return result


def preadv(fd: int, buffers: Any, offset: int, flags: int = 0) -> int:
    """Do the work of os.preadv(), which PyPy lacks."""
    if hasattr(os, "preadv"):
        return os.preadv(fd, buffers, offset)
    done = 0
    for buffer in buffers:
        data = os.pread(fd, len(buffer), offset + done)
        buffer[: len(data)] = data
        done += len(data)
    return done


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    """Open a file of 10,000 known bytes."""
    path = tmp_path / "file"
    path.write_bytes(bytes(range(250)) * 40)
    fd = os.open(path, os.O_RDWR)
    yield fd
    os.close(fd)


def test_pipe_when_it_is_the_other_end_then_the_error_of_os() -> None:
    """That end is never ready: if nothing can be tried at once, the wait for it never ended."""
    reader, writer = os.pipe()
    try:
        for call in (files.read(writer, 1), files.readinto(writer, bytearray(1)), files.write(reader, b"x")):
            with pytest.raises(OSError, match="Bad file descriptor"):
                run(call)
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("n", [0, 1, 4096, 10_000, 20_000, 1_000_000])
@pytest.mark.parametrize("offset", [0, 1, 9_999, 10_000, 10_001, 1 << 40])
def test_pread_when_anywhere_then_what_os_reads(file: int, n: int, offset: int) -> None:
    assert run(files.pread(file, n, offset)) == os.pread(file, n, offset)


@pytest.mark.parametrize(
    "args", [(-1, 0), (1, -1), ("1", 0), (1, "0"), (None, 0), (1, None), (1.0, 0), (1, 1 << 64)], ids=str
)
def test_pread_when_arguments_are_bad_then_the_exception_of_os(file: int, args: Any) -> None:
    assert outcome(files.pread, file, *args) == outcome(os.pread, file, *args)


@pytest.mark.parametrize("fd", [-1, 9999, "0", None, 1.5], ids=str)
def test_pread_when_the_descriptor_is_bad_then_the_exception_of_os(fd: Any) -> None:
    assert outcome(files.pread, fd, 10, 0) == outcome(os.pread, fd, 10, 0)


def test_pread_when_it_is_a_directory_or_a_pipe_then_the_exception_of_os(tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    ends = os.pipe()
    try:
        for fd in (directory, ends[0]):
            assert outcome(files.pread, fd, 10, 0) == outcome(os.pread, fd, 10, 0)
    finally:
        for fd in (directory, *ends):
            os.close(fd)


@hypothesis.given(
    lengths=st.lists(st.integers(0, 5000), max_size=5), offset=st.integers(0, 12_000), write=st.booleans()
)
@hypothesis.settings(max_examples=30)
def test_vectors_when_of_any_lengths_then_what_os_reads_and_writes(
    file: int, lengths: list[int], offset: int, write: bool
) -> None:
    ours, theirs = [bytearray(n) for n in lengths], [bytearray(n) for n in lengths]
    if write:
        data = [bytes([n & 255]) * n for n in lengths]
        wrote = run(files.pwritev(file, data, offset))
        assert wrote == sum(lengths)
        assert os.pread(file, wrote, offset) == b"".join(data)
    assert run(files.preadv_into(file, ours, offset)) == preadv(file, theirs, offset)
    assert ours == theirs


def test_position_when_read_and_written_then_as_os(file: int) -> None:
    async def main() -> None:
        assert await files.read(file, 100) == bytes(range(100))
        assert os.lseek(file, 0, os.SEEK_CUR) == 100
        assert await files.write(file, b"xyz") == 3
        assert os.pread(file, 5, 99) == bytes([99]) + b"xyz" + bytes([103])
        os.lseek(file, 0, os.SEEK_END)
        assert await files.read(file, 100) == b""
        memory = bytearray(10)
        assert await files.readinto_at(file, memory, 9_995) == 5
        assert await files.readinto(file, memory) == 0

    run(main())


@pytest.mark.parametrize("flags", [0, os.O_APPEND], ids=["at the position", "append"])
def test_position_when_a_write_is_cut_short_then_after_what_was_written(
    tmp_path: Path, way: str, flags: int
) -> None:
    """Linux 6.18 leaves it unchanged if the worker that tries the rest fails."""
    resource = pytest.importorskip("resource")
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT | flags)

    async def main() -> None:
        assert await files.write(fd, b"a" * 5000) == 5000
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_345, limits[1]))
        try:
            assert await files.write(fd, b"b" * 20_000) == 7345
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert os.lseek(fd, 0, os.SEEK_CUR) == 12_345
        assert await files.write(fd, b"c" * 10) == 10
        assert os.pread(fd, 20_000, 0) == b"a" * 5000 + b"b" * 7345 + b"c" * 10

    try:
        run(main())
    finally:
        os.close(fd)


def test_pipe_when_read_before_it_is_written_then_the_loop_goes_on(way: str) -> None:
    async def main() -> None:
        reader, writer = os.pipe()
        try:
            reading = asyncio.ensure_future(files.read(reader, 100))
            await asyncio.sleep(0)
            os.write(writer, b"late")
            assert await reading == b"late"
            reading = asyncio.ensure_future(files.read(reader, 100))
            await asyncio.sleep(0)
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
            os.write(writer, b"kept")
            assert await files.read(reader, 100) == b"kept"
            os.close(writer)
            assert await files.read(reader, 100) == b""
        finally:
            os.close(reader)

    run(main())


def test_pipe_when_it_is_full_then_a_write_waits_for_the_reader() -> None:
    async def main() -> None:
        reader, writer = os.pipe()
        try:
            data, sent, got = random.randbytes(1 << 18), 0, b""

            async def send() -> None:
                nonlocal sent
                while sent < len(data):
                    sent += await files.write(writer, data[sent : sent + 100_000])
                os.close(writer)

            sending = asyncio.ensure_future(send())
            while True:
                part = await files.read(reader, 70_000)
                if not part:
                    break
                got += part
            await sending
            assert got == data
        finally:
            os.close(reader)

    run(main())


# ------------------------------------------------------------------------------------------------------
# Names


def test_names_when_made_and_removed_then_the_disk_is_as_os_leaves_it(tmp_path: Path) -> None:
    async def main() -> None:
        base = str(tmp_path)
        await files.mkdir(f"{base}/d", 0o700)
        assert os.stat(f"{base}/d").st_mode & 0o777 == 0o700
        fd = await files.open_fd(f"{base}/d/a", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        assert not os.get_inheritable(fd)
        assert await files.pwrite(fd, b"hello", 0) == 5
        await files.fallocate(fd, 0, 8192)
        assert os.fstat(fd).st_size == 8192
        await files.ftruncate(fd, 3)
        await files.fsync(fd)
        await files.fsync(fd, datasync=True)
        await files.close_fd(fd)
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(fd)
        await files.link(f"{base}/d/a", f"{base}/b")
        await files.symlink("d/a", f"{base}/s")
        assert await files.readlink(f"{base}/s") == "d/a"
        assert os.stat(f"{base}/b").st_nlink == 2
        for follow in (True, False):
            ours = await files.stat(f"{base}/s", follow_symlinks=follow)
            assert ours == os.stat(f"{base}/s", follow_symlinks=follow)
            for name in ("st_mtime_ns", "st_mtime", "st_ctime_ns", "st_blocks", "st_blksize", "st_rdev"):
                assert getattr(ours, name) == getattr(os.stat(f"{base}/s", follow_symlinks=follow), name)
        await files.rename(f"{base}/b", f"{base}/c")
        await files.replace(f"{base}/c", f"{base}/d/a")
        await files.unlink(f"{base}/d/a")
        await files.unlink(f"{base}/s")
        assert await files.listdir(f"{base}/d") == ["a"] if os.path.exists(f"{base}/d/a") else True
        await files.makedirs(f"{base}/x/y/z", exist_ok=True)
        await files.rmdir(f"{base}/x/y/z")
        assert not os.path.exists(f"{base}/x/y/z")

    run(main())


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("open_fd", ("missing", os.O_RDONLY)), ("open_fd", (".", os.O_WRONLY)),
        ("open_fd", ("a\0b", os.O_RDONLY)), ("open_fd", ("file\0b", os.O_RDONLY)), ("stat", ("file\0b",)),
        ("open_fd", (b"file\0b", os.O_RDONLY)),
        ("open_fd", (None, os.O_RDONLY)), ("open_fd", ("file/x", os.O_RDONLY)), ("open_fd", ("x" * 300, 0)),
        ("open_fd", ("", 0)), ("open_fd", ("file", os.O_CREAT | os.O_EXCL)), ("open_fd", ("file", "r")),
        ("stat", ("missing",)), ("stat", ("a\0b",)), ("stat", (None,)), ("stat", (b"missing",)),
        ("stat", ("",)),
        ("stat", (9999,)), ("stat", (1.5,)), ("lstat", ("file/",)),
        ("rename", ("missing", "other")), ("rename", ("file", "no/such")), ("rename", (".", "x")),
        ("replace", ("missing", "other")), ("unlink", ("missing",)), ("unlink", (".",)), ("rmdir", ("file",)),
        ("rmdir", ("missing",)), ("mkdir", ("file",)), ("mkdir", ("no/such",)), ("link", ("missing", "x")),
        ("link", ("file", "file")), ("symlink", ("a", "file")), ("readlink", ("file",)),
        ("listdir", ("missing",)),
        ("getxattr", ("missing", "user.x")), ("fsync", ("x",)), ("fsync", (9999,)), ("ftruncate", (9999, 1)),
        ("ftruncate", ("x", 1)), ("close_fd", (9999,)),
    ],
    ids=str,
)  # fmt: skip
def test_name_when_it_cannot_be_then_the_exception_of_os(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, args: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_bytes(b"x")
    original = getattr(os, {"open_fd": "open", "close_fd": "close"}.get(name, name))
    theirs = outcome(original, *args)
    assert outcome(getattr(files, name), *args) == theirs


def test_directory_descriptor_when_given_then_paths_start_there(tmp_path: Path) -> None:
    async def main() -> None:
        await files.mkdir("d", dir_fd=top)
        fd = await files.open_fd("d/f", os.O_CREAT | os.O_WRONLY, dir_fd=top)
        await files.close_fd(fd)
        await files.rename("d/f", "g", src_dir_fd=top, dst_dir_fd=top)
        assert (await files.stat("g", dir_fd=top)).st_size == 0
        await files.link("g", "h", src_dir_fd=top, dst_dir_fd=top)
        await files.symlink("g", "s", dir_fd=top)
        assert await files.readlink("s", dir_fd=top) == "g"
        await files.unlink("g", dir_fd=top)
        await files.rmdir("d", dir_fd=top)

    top = os.open(tmp_path, os.O_RDONLY)
    try:
        run(main())
    finally:
        os.close(top)
    assert sorted(os.listdir(tmp_path)) == ["h", "s"]


# ------------------------------------------------------------------------------------------------------
# FIFOs and cancellation


@pytest.mark.skipif(not LINUX, reason="Linux only")
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY])
def test_fifo_when_its_open_is_cancelled_then_it_ends(tmp_path: Path, flags: int) -> None:
    async def main() -> None:
        opening = asyncio.ensure_future(files.open_fd(path, flags))
        await asyncio.sleep(0.01)  # not needed: it must end whenever it is cancelled
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening

    path = tmp_path / "fifo"
    os.mkfifo(path)
    run(main())


@pytest.mark.skipif(not LINUX, reason="Linux only")
def test_fifo_when_its_directory_is_closed_after_a_cancel_then_the_open_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that was to end the open() found no FIFO in a closed directory."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    directory = os.open(tmp_path, os.O_RDONLY)
    still_open = [directory]
    free = fileops.free_opener

    def free_later(*args: Any) -> bool:
        with contextlib.suppress(IndexError):  # once: the number may soon belong to another file
            os.close(still_open.pop())
        return free(*args)

    monkeypatch.setattr(fileops, "free_opener", free_later)
    before = threading.enumerate()

    def waiting() -> list[threading.Thread]:
        new = [each for each in threading.enumerate() if each not in before]
        return [each for each in new if each.name == "rawuring-files-wait"]

    async def main() -> None:
        opening = asyncio.ensure_future(files.open_fd("fifo", os.O_RDONLY, dir_fd=directory))
        while not waiting():  # the thread is in its open(), or about to be
            await asyncio.sleep(0.001)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening

    run(main())
    try:
        for each in waiting():
            each.join(20)
            assert not each.is_alive()
    finally:
        for each in still_open:  # no thread had begun
            os.close(each)
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))


@pytest.mark.skipif(not LINUX, reason="Linux only")
def test_fifo_when_no_thread_has_begun_to_open_it_then_none_waits_for_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the loop was closed meanwhile, a thread opened the other end again and again, for ever."""
    os.mkfifo(tmp_path / "fifo")
    jobs: list[Any] = []
    monkeypatch.setattr(fileops, "start_thread", jobs.append)

    async def main() -> None:
        opening = asyncio.ensure_future(files.open_fd(tmp_path / "fifo", os.O_RDONLY))
        while not jobs:
            await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening

    run(main())
    assert len(jobs) == 1
    jobs[0]()  # does not wait


@pytest.mark.skipif(not LINUX, reason="Linux only")
def test_fifo_when_both_ends_are_opened_then_both_opens_return(tmp_path: Path) -> None:
    async def main() -> None:
        ends = await asyncio.gather(files.open_fd(path, os.O_RDONLY), files.open_fd(path, os.O_WRONLY))
        try:
            await files.write(ends[1], b"through")
            assert await files.read(ends[0], 100) == b"through"
        finally:
            for fd in ends:
                await files.close_fd(fd)

    path = tmp_path / "fifo"
    os.mkfifo(path)
    run(main())


def test_open_when_cancelled_at_every_moment_then_no_descriptor_is_lost(tmp_path: Path) -> None:
    async def main() -> None:
        for turns in range(6):
            for flags in (os.O_RDONLY, os.O_RDWR | os.O_CREAT):
                opening = asyncio.ensure_future(files.open_fd(path, flags))
                for _ in range(turns):
                    await asyncio.sleep(0)
                if opening.done():
                    os.close(opening.result())
                    continue
                opening.cancel()
                try:
                    os.close(await opening)
                except asyncio.CancelledError:
                    pass

    path = tmp_path / "file"
    path.write_bytes(b"x")
    run(main())


def _needs_caches(way: str, file: int) -> None:
    if "nothing" in way or not hasattr(os, "RWF_NOWAIT"):  # PyPy 3.9 lacks it
        pytest.skip("answers from the caches, which this way lacks")
    try:
        os.preadv(file, [bytearray(1)], 0, os.RWF_NOWAIT)
    except OSError as error:
        pytest.skip(f"RWF_NOWAIT on this file system: {error}")


@pytest.mark.parametrize("what", ["pread", "read_bytes", "stat", "File.read", "lines", "lines of text"])
def test_ready_answers_when_many_tasks_ask_then_the_loop_turns(
    tmp_path: Path, file: int, way: str, what: str
) -> None:
    _needs_caches(way, file)
    path = tmp_path / "lines"
    path.write_bytes(b"a line\n" * 100)

    async def main() -> int:
        turns, ending = 0, False

        async def read() -> None:
            if what.startswith(("File", "lines")):
                async with files.open(path, "r" if "text" in what else "rb") as opened:
                    while what == "File.read" and await opened.read(10):
                        pass
                    async for _ in opened:
                        pass
                return
            for _ in range(50 if what == "pread" else 10):
                if what == "pread":
                    await files.pread(file, 4096, 0)
                else:
                    await getattr(files, what)(path)

        def turn() -> None:
            nonlocal turns
            turns += 1
            if not ending:
                asyncio.get_running_loop().call_soon(turn)

        turn()
        await asyncio.gather(*[read() for _ in range(200)])
        ending = True
        await asyncio.sleep(0)
        return turns

    # All of it takes at least 4 ms, and a turn has a budget of 0.2.
    assert run(main()) > 10


@pytest.fixture
def no_time(file: int, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """Give turns of the loop no time for answers from the caches."""
    _needs_caches(way, file)
    monkeypatch.setattr(files, "BUDGET_S", -1.0)


async def _wait_in_line(file: int, count: int) -> tuple[list[Any], list[int]]:
    """Let tasks read in turns without time; return them, and the growing list of those that have read."""
    read_by: list[int] = []

    async def read(number: int) -> None:
        await files.pread(file, 100, 0)
        read_by.append(number)

    tasks = [asyncio.ensure_future(read(number)) for number in range(count)]
    await asyncio.sleep(0)
    return tasks, read_by


@pytest.mark.usefixtures("no_time")
def test_ready_answers_when_many_tasks_wait_for_a_turn_then_few_go_on_in_each_and_in_order(
    file: int,
) -> None:
    async def main() -> None:
        tasks, read_by = await _wait_in_line(file, 50)
        most = 0
        for _ in range(100):
            before = len(read_by)
            await asyncio.sleep(0)
            most = max(most, len(read_by) - before)
        assert read_by == list(range(50))
        assert most <= 3  # all of them in one turn, if each continued in every turn
        await asyncio.gather(*tasks)

    run(main())


@pytest.mark.usefixtures("no_time")
def test_ready_answers_when_there_is_time_again_then_all_that_wait_go_on_soon(
    file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        tasks, read_by = await _wait_in_line(file, 100)
        monkeypatch.setattr(files, "BUDGET_S", 3600.0)
        for _ in range(20):  # 1, 1, 2, 2, 4, 4, ...
            await asyncio.sleep(0)
        assert read_by == list(range(100))
        await asyncio.gather(*tasks)

    run(main())


@pytest.mark.usefixtures("no_time")
def test_ready_answers_when_a_task_that_waits_is_cancelled_then_the_others_go_on(
    file: int,
) -> None:
    async def main() -> None:
        tasks, read_by = await _wait_in_line(file, 30)
        for task in tasks[1::3]:  # including the one that continues next
            task.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert read_by == [number for number in range(30) if number % 3 != 1]
        assert sum(isinstance(each, asyncio.CancelledError) for each in found) == 10

    run(main())


@pytest.mark.usefixtures("no_time")
def test_ready_answers_when_a_signal_handler_raises_between_two_turns_then_who_waits_goes_on(
    file: int,
) -> None:
    reported = []

    class Strikes:
        """Stands for a waiting task; the handler raises when it is examined."""

        def done(self) -> bool:
            if not reported:
                raise InterruptedError
            return True

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        tasks, _ = await _wait_in_line(file, 10)
        files._turn.turns()._waiting.appendleft(Strikes())
        for _ in range(100):
            await asyncio.sleep(0)
        assert all(task.done() for task in tasks)
        assert len(reported) == 1

    run(main())


def test_refusal_when_it_is_about_the_flag_then_the_data_come_all_the_same(
    file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for code in (errno.EAGAIN, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EINVAL):

        def refuse(*args: Any, code: int = code) -> int:
            raise OSError(code, os.strerror(code))

        def refusing(*args: Any) -> int:
            return refuse() if len(args) == 4 else preadv(*args)

        monkeypatch.setattr(fileops, "_preadv", refusing)
        assert run(files.pread(file, 100, 5)) == os.pread(file, 100, 5)


@pytest.mark.parametrize("got", [0, 1, 50])
def test_short_answer_when_the_file_has_more_then_the_rest_is_read(
    file: int, monkeypatch: pytest.MonkeyPatch, got: int
) -> None:
    def short(fd: int, buffers: Any, offset: int, flags: int = 0) -> int:
        if not flags:
            return preadv(fd, buffers, offset)
        return preadv(fd, [memoryview(buffers[0])[:got]], offset) if got else 0

    monkeypatch.setattr(fileops, "_preadv", short)
    assert run(files.pread(file, 100, 5)) == os.pread(file, 100, 5)
    if not got:
        assert run(files.read(file, 100)) == os.pread(file, 100, 0)
    memory = bytearray(100)
    assert run(files.preadv_into(file, [memory], 7)) == 100
    assert memory == os.pread(file, 100, 7)


@pytest.mark.skipif(not LINUX, reason="Linux only")
@pytest.mark.parametrize("offset", [(1 << 32) - 2, 5 << 30])
def test_offset_when_it_needs_more_than_32_bits_then_what_os_reads_and_writes(
    tmp_path: Path, offset: int
) -> None:
    async def main() -> None:
        fd = await files.open_fd(path, os.O_RDWR | os.O_CREAT)
        try:
            assert await files.pwrite(fd, b"far", offset) == 3
            assert await files.pwritev(fd, [b" aw", b"ay"], offset + 3) == 5
            assert os.pread(fd, 100, offset) == b"far away"
            assert await files.pread(fd, 100, offset - 2) == b"\0\0far away"
            memory = bytearray(100)
            assert await files.readinto_at(fd, memory, offset + 4) == 4 and memory[:4] == b"away"
            assert await files.read_many([(path, offset, 3), (fd, offset + 4, 9)]) == [b"far", b"away"]
            assert files.sync.read_many([(path, offset, 3), (fd, offset + 4, 9)]) == [b"far", b"away"]
            assert await files.read_many_into(fd, [(offset, memory)]) == [8] and memory[:8] == b"far away"
            os.lseek(fd, offset, os.SEEK_SET)
            assert await files.read(fd, 3) == b"far" and await files.write(fd, b"-") == 1
            await files.ftruncate(fd, offset + 5)
            assert (await files.stat(path)).st_size == offset + 5 == os.lseek(fd, 0, os.SEEK_END)
            if hasattr(os, "copy_file_range"):  # PyPy would copy the hole byte by byte
                assert await files.copy_file(path, tmp_path / "copy") == offset + 5
                assert (await files.stat(tmp_path / "copy")).st_blocks * 512 < 1 << 20  # its holes are kept
                assert await files.read_many([(tmp_path / "copy", offset, 9)]) == [b"far-a"]
        finally:
            await files.close_fd(fd)

    path = tmp_path / "sparse"
    run(main())


@contextlib.contextmanager
def interrupted(threads: Any = None) -> Iterator[list[int]]:
    """Send a signal that Python handles again and again; yield the list of those handled.

    Args: threads names the threads that get it; without it the kernel chooses one.
    """
    came: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: came.append(number))
    ended = threading.Event()

    def send() -> None:
        while not ended.wait(0.0005):
            if threads is None:
                os.kill(os.getpid(), signal.SIGUSR1)
            for each in threading.enumerate() if threads is not None else ():
                if each.name == threads and each.ident is not None:
                    with contextlib.suppress(ProcessLookupError):
                        signal.pthread_kill(each.ident, signal.SIGUSR1)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield came
    finally:
        ended.set()
        sender.join()
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # drops pending ones
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.skipif(not LINUX, reason="Linux only")
def test_signals_when_they_interrupt_every_wait_then_nobody_sees_eintr(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "file"
        while len(came) < 50:
            await files.write_bytes(path, b"x" * 300_000, sync=True)
            ranges = [(path, at, 9000) for at in range(20)]
            assert await files.read_many(ranges) == files.sync.read_many(ranges) == [b"x" * 9000] * 20
            assert (await files.stat(path)).st_size == 300_000
            async with files.open(path, "r+b") as opened:
                assert len(await opened.read()) == 300_000
                await opened.write(b"y")
            reader, writer = os.pipe()
            reading = asyncio.ensure_future(files.read(reader, 10))
            await asyncio.sleep(0)
            assert await files.write(writer, b"through") == 7 and await reading == b"through"
            await files.close_fd(reader)
            await files.close_fd(writer)

    with interrupted() as came:
        run(main())


@pytest.mark.skipif(not LINUX, reason="Linux only")
def test_signals_when_they_interrupt_the_thread_of_a_fifo_then_it_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)

    async def main() -> None:
        for _ in range(5):
            before = len(came)
            reading = asyncio.ensure_future(files.read_bytes(path))
            while len(came) < before + 5:
                await asyncio.sleep(0.001)
            writer = await files.open_fd(path, os.O_WRONLY)
            while len(came) < before + 10:
                await asyncio.sleep(0.001)
            assert await files.write(writer, b"through") == 7
            await files.close_fd(writer)
            assert await reading == b"through"

    with interrupted("rawuring-files-wait") as came:
        run(main())


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="os.openpty (pseudo-terminals)")
def test_terminal_when_read_and_written_then_it_waits_without_a_thread_and_loses_nothing() -> None:
    import termios

    user, terminal = os.openpty()
    settings = termios.tcgetattr(terminal)
    settings[3] &= ~termios.ECHO
    termios.tcsetattr(terminal, termios.TCSANOW, settings)

    async def main() -> None:
        before = threading.active_count()
        reading = asyncio.ensure_future(files.read(terminal, 100))
        await asyncio.sleep(0)
        os.write(user, b"typed\n")
        assert await reading == b"typed\n"
        reading = asyncio.ensure_future(files.read(terminal, 100))
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        os.write(user, b"kept\nand more\n")
        assert await files.read(terminal, 100) == b"kept\n"
        assert await files.write(terminal, b"shown\n") == 6
        assert os.read(user, 100) == b"shown\r\n"
        async with files.open(terminal, "r", closefd=False) as text:
            assert await text.isatty() and await text.readline() == "and more\n"
        async with files.open(terminal, "w", closefd=False) as text:
            await text.write("by lines\n")
            assert os.read(user, 100) == b"by lines\r\n"  # without flush(), as the builtin's file
        async with files.open(terminal, "r+b", 0, closefd=False) as raw:
            reading = asyncio.ensure_future(raw.readline())
            await asyncio.sleep(0)
            os.write(user, b"raw\n")
            assert await reading == b"raw\n"
            with pytest.raises(OSError):
                await raw.seek(0)
        assert threading.active_count() == before

    try:
        run(main())
    finally:
        os.close(user)
        os.close(terminal)


def test_memory_when_files_are_in_memory_only_then_they_are_read(tmp_path: Path) -> None:
    if not os.path.isdir("/dev/shm"):
        pytest.skip("/dev/shm")
    path = f"/dev/shm/rawuring-{os.getpid()}"
    try:
        Path(path).write_bytes(b"tmpfs" * 1000)
        fd = run(files.open_fd(path, os.O_RDONLY))
        assert run(files.pread(fd, 10_000, 0)) == b"tmpfs" * 1000
        os.close(fd)
    finally:
        os.unlink(path)


# ------------------------------------------------------------------------------------------------------
# Threads


def test_job_when_abandoned_while_a_thread_makes_it_then_its_result_is_undone(tmp_path: Path) -> None:
    undone: list[int] = []

    async def main() -> None:
        job = files._Job(fileops.Op(lambda: 5, undo=undone.append), lambda result, error: None)
        job.abandoned = True  # as abandon() does before the call has returned
        job.run()

    run(main())
    assert undone == [5]


def test_task_when_cancelled_after_a_thread_has_begun_then_it_waits_for_the_thread() -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), []

    def work() -> None:
        begun.set()
        go_on.wait()
        ended.append(True)

    async def main() -> None:
        task = asyncio.ensure_future(files.call(work))
        while not begun.is_set():
            await asyncio.sleep(0)
        task.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not task.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended

    run(main())


def test_threads_when_each_job_waits_for_the_next_then_there_are_enough_of_them() -> None:
    pool = fileops.Threads(4)
    barrier = threading.Barrier(5)
    for _ in range(4):
        pool.put(barrier.wait)
    barrier.wait(60)
    assert pool.count == 4


def test_threads_when_they_end_and_start_all_the_time_then_no_job_is_forgotten(monkeypatch) -> None:
    """A free thread was counted twice, ended, and the next job waited for it forever."""
    monkeypatch.setattr(fileops, "IDLE_S", 0.0005)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    pool = fileops.Threads(4)
    try:
        for i in range(2000):
            done = threading.Event()
            pool.put(done.set)
            assert done.wait(60)
            if i % 5 == 0:  # some threads end meanwhile
                time.sleep(i % 7 * 0.0002)
    finally:
        sys.setswitchinterval(interval)
    assert not leaks.settles(lambda: pool.count, lambda found: not found)


def test_threads_when_a_job_comes_as_the_last_one_gives_up_then_it_does_the_job(monkeypatch) -> None:
    pool = fileops.Threads(4)
    done = threading.Event()

    class Late:
        def __init__(self) -> None:
            self.lock, self.times = threading.Lock(), 0
            self.lock.acquire()
            self.release = self.lock.release

        def acquire(self, timeout: float = -1) -> bool:
            self.times += timeout >= 0
            if timeout >= 0 and self.times == 1:
                pool.put(done.set)
                return False
            return self.lock.acquire(timeout=timeout)

    monkeypatch.setattr(fileops, "IDLE_S", 0.0)
    monkeypatch.setattr(fileops._Worker, "__init__", lambda worker: setattr(worker, "given", Late()))
    pool.put(lambda: None)
    assert done.wait(60)
    assert not leaks.settles(lambda: pool.count, lambda found: not found)


def test_threads_when_none_can_be_started_then_one_that_there_is_does_the_job(monkeypatch) -> None:
    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    pool = fileops.Threads(4)
    begun, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait()

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            pool.put(done.set)
    assert (pool.count, done.is_set()) == (0, False)
    pool.put(work)
    begun.wait()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        pool.put(done.set)
    assert (pool.count, done.is_set()) == (1, False)
    go_on.set()
    assert done.wait(60)


def test_close_when_the_task_is_cancelled_at_once_then_it_is_closed(tmp_path: Path, way: str) -> None:
    async def main() -> None:
        for flags in (os.O_RDONLY, os.O_RDWR | os.O_CREAT):
            for turns in range(4):
                fd = os.open(tmp_path / "file", flags | os.O_CREAT)
                await files._breathe()
                files._turn.until = 0.0  # used up
                begun: list[int] = []
                closing = asyncio.ensure_future(close(fd, begun))
                for _ in range(turns):
                    await asyncio.sleep(0)
                closing.cancel()
                await asyncio.gather(closing, return_exceptions=True)
                if begun:
                    assert not _is_open(fd)
                else:  # a task that is cancelled before it begins never begins
                    assert not turns
                    os.close(fd)
                await asyncio.sleep(0)

    async def close(fd: int, begun: list[int]) -> None:
        begun.append(fd)
        await files.close_fd(fd)

    run(main())


@pytest.mark.parametrize("turns", range(1, 4))
@pytest.mark.parametrize("ends", ["asyncio.run", "loop.close"])
def test_close_when_the_loop_ends_meanwhile_then_it_is_closed(
    tmp_path: Path, way: str, turns: int, ends: str
) -> None:
    if ends == "loop.close" and "ring" not in way:
        pytest.skip("no thread begins a call for a closed loop")
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    tasks = []

    async def main() -> None:
        tasks.append(asyncio.ensure_future(files.close_fd(fd)))
        for _ in range(turns):
            await asyncio.sleep(0)

    if ends == "asyncio.run":
        asyncio.run(main())
        assert not _is_open(fd)
        return
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)  # the task is destroyed, but it is pending
    loop.run_until_complete(main())
    loop.close()
    assert not _is_open(fd)


def test_close_when_the_loop_is_closed_before_a_thread_begins_then_it_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Neither the thread, which found its loop closed, nor the task, which was destroyed, closed it."""
    if "ring" in way:
        pytest.skip("threads, which this way does not use")
    jobs: list[Any] = []
    monkeypatch.setattr(fileops, "threads", lambda: SimpleNamespace(put=jobs.append))
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)  # the task is destroyed, but it is pending
    task = loop.create_task(files.close_fd(fd))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    jobs.pop()()  # as a thread does; the job has kept the task until now
    assert not jobs and _is_open(fd)
    del task
    leaks.settles(lambda: _is_open(fd), lambda found: not found)
    assert not _is_open(fd)


def test_close_when_asyncio_run_ends_meanwhile_then_what_was_written_is_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    file: Any = path.open("wb")

    async def write(wrapped: Any) -> None:
        await wrapped.write(b"x" * 100_000)
        began.set()
        await wrapped.close()

    async def main() -> None:
        nonlocal began
        began = asyncio.Event()
        task = asyncio.ensure_future(write(files.wrap(file)))
        await began.wait()
        tasks.append(task)

    began: Any = None
    tasks: list[Any] = []
    asyncio.run(main())
    assert file.closed
    assert path.stat().st_size == 100_000


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@pytest.mark.skipif(sys.platform != "linux", reason="comparison with os on Linux")
@pytest.mark.parametrize("bad", [None, 1.5, [], object(), -(1 << 70), 1 << 31, 1 << 70], ids=repr)
def test_any_function_when_an_argument_is_bad_then_the_words_of_os(
    file: int, tmp_path: Path, bad: Any
) -> None:
    here, gone = str(tmp_path), str(tmp_path / "gone" / "gone")
    calls: list[Any] = [
        (os.open, files.open_fd, (here, bad)), (os.open, files.open_fd, (here, os.O_RDONLY, bad)),
        (os.fsync, files.fsync, (bad,)), (os.ftruncate, files.ftruncate, (bad, 1)),
        (os.mkdir, files.mkdir, (gone, bad)),
    ]  # fmt: skip
    for name in ("stat", "unlink", "rmdir", "mkdir"):
        function, own = getattr(os, name), getattr(files, name)
        calls.append((partial(function, dir_fd=bad), partial(own, dir_fd=bad), ("gone/gone",)))
        if not isinstance(bad, int):
            calls.append((function, own, (bad,)))
    if not isinstance(bad, int):
        calls += [(os.lstat, files.lstat, (bad,)), (os.close, files.close_fd, (bad,))]
        calls += [(os.pwrite, files.pwrite, (file, bad, 0)), (os.write, files.write, (file, bad))]
        calls += [(os.open, files.open_fd, (bad, 0))]
        if hasattr(os, "preadv"):
            calls += [(os.preadv, files.preadv_into, (file, [bad], 0))]
            calls += [(os.pwritev, files.pwritev, (file, [bad], 0))]
        calls += [(os.rename, files.rename, (bad, gone)), (os.rename, files.rename, (gone, bad))]
        calls += [(os.link, files.link, (bad, gone)), (os.symlink, files.symlink, (gone, bad))]
    for expected, found, args in calls:
        assert outcome_of(found, args) == outcome_of(expected, args), (expected, args)


WORDS = sys.version_info >= (3, 10) and sys.implementation.name == "cpython"


def outcome_of(function: Any, args: Any) -> Any:
    """Call a function, or run a coroutine; return type and message of the exception."""
    try:
        result = function(*args)
        if asyncio.iscoroutine(result):
            result = asyncio.run(result)
    except Exception as error:
        # The message for an argument that is not a number changed in 3.10, and PyPy has its own.
        return type(error), (str(error) if WORDS or isinstance(error, OSError) else "")
    return result


@pytest.mark.skipif(sys.platform != "linux", reason="comparison with os on Linux")
def test_numbers_when_they_are_objects_with_an_index_then_as_ints(file: int) -> None:
    class Three:
        def __index__(self) -> int:
            return 3

    three: Any = Three()

    async def main() -> None:
        assert await files.pread(file, three, three) == os.pread(file, 3, 3)
        assert await files.pwrite(file, b"abc", three) == 3
        assert os.pread(file, 3, 3) == b"abc"

    asyncio.run(main())


@pytest.mark.skipif(fileops.PYPY, reason="PyPy's os writes such buffers")
def test_buffers_when_they_are_not_contiguous_then_the_exception_of_os(file: int) -> None:
    data = memoryview(b"abcdef")[::2]
    assert outcome_of(files.write, (file, data)) == outcome_of(os.write, (file, data))


@pytest.mark.parametrize("count", [1024, 1025, 5000])
def test_vectors_when_there_are_very_many_then_all_or_the_exception_of_os(file: int, count: int) -> None:
    """The first 1,024 were read, and the short count looked like the end of the file."""
    buffers = [bytearray(1) for _ in range(count)]
    assert outcome(files.preadv_into, file, buffers, 7) == outcome(preadv_limited, file, buffers, 7)
    assert outcome(files.pwritev, file, buffers, 7) == outcome(preadv_limited, file, buffers, 7)
    for function in (files.preadv_into, files.pwritev):
        with pytest.raises(TypeError, match="must be a sequence"):
            run(function(file, {0: bytearray(1)}, 0))


def preadv_limited(fd: int, buffers: Any, offset: int) -> int:
    """Do the work of os.preadv(), and reject what it rejects on PyPy, too."""
    if len(buffers) > 1024:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return preadv(fd, buffers, offset)


def test_nothing_when_read_from_a_directory_then_the_exception_of_os(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert outcome(files.pread, fd, 0, 0) == outcome(os.pread, fd, 0, 0)
    finally:
        os.close(fd)


HUGE = """
import asyncio, sys
from rawuring import files
if sys.argv[1] == "threads":
    files._ring = lambda: None

async def main():
    with open(sys.argv[2], "rb") as file:
        for n in (1 << 30, 1 << 60):
            assert await files.pread(file.fileno(), n, 1) == b"mall"
            assert await files.read(file.fileno(), n) == b"small"
            file.seek(0)
    async with files.open(sys.argv[2], "rb") as file:
        assert await file.read_at(1 << 30, 1) == b"mall"
        if sys.implementation.name != "pypy":  # its own buffers allocate the requested size
            assert await file.read(1 << 30) == b"small"
    if sys.implementation.name != "pypy":
        async with files.open(sys.argv[2], "rb", 0) as file:
            assert await file.read(1 << 60) == b"small"
    assert await files.read_many([(sys.argv[2], 1, 1 << 30)]) == [b"mall"]

asyncio.run(main())
# ru_maxrss is at least what the parent took.
with open("/proc/self/status") as status:
    print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not LINUX, reason="/proc: Linux only")
def test_memory_when_far_more_is_asked_for_than_there_is_then_it_is_not_taken(
    tmp_path: Path, way: str
) -> None:
    """A bytearray is filled with zeros: a pread() of 2 GiB took 2 GiB and half a second, whatever arrived."""
    if os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < 2 << 30:
        pytest.skip("2 GiB of memory, without which Linux (overcommit_memory) refuses the allocation")
    path = tmp_path / "file"
    path.write_bytes(b"small")
    command = [sys.executable, "-c", HUGE, way.split(",")[0], str(path)]
    env = {**os.environ, "PYTHONPATH": str(Path(files.__file__).parent.parent)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 500_000


FIRST_USE = """
from rawuring import fileops
real, found = fileops.Threads, []
def make():
    fileops.Threads = real
    found.append(fileops.threads())  # as another thread may at this moment
    return real()
fileops.Threads = make
found.append(fileops.threads())
assert len(set(map(id, found))) == 1
"""


def test_threads_when_two_threads_use_them_first_then_the_same() -> None:
    """Each had threads of its own: the limit did not hold."""
    subprocess.run([sys.executable, "-c", FIRST_USE], cwd=ROOT, check=True, timeout=60)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="os.fork")
def test_threads_when_forked_then_the_child_has_its_own() -> None:
    before = fileops.threads()
    pid = os.fork()
    if not pid:
        os._exit(fileops.threads() is before)
    assert os.waitpid(pid, 0)[1] == 0 and fileops.threads() is before


def test_open_now_when_two_threads_fail_for_the_last_time_then_it_is_not_tried_again() -> None:
    """Each counted one failure more, and neither found the number at which to stop."""

    class Cached(fileops._Cached):
        count = 0

        @property
        def _failures(self) -> int:
            return self.count

        @_failures.setter
        def _failures(self, count: int) -> None:
            self.count = count
            if count == 16:
                self.open(b"x", 0)  # as another thread may at this moment

        _call = staticmethod(lambda *_: -1)
        _errno = staticmethod(lambda _: errno.ENOSYS)

        def __init__(self) -> None:
            self._hows, self.works = {0: b""}, True

    cached = Cached()
    for _ in range(16):
        assert cached.open(b"x", 0) == -errno.EAGAIN
    assert cached.count == 17 and not cached.works


def test_call_when_the_delivery_of_another_is_interrupted_then_it_is_delivered(monkeypatch) -> None:
    """It waited until a thread completed one more job."""
    arrived, put, settle = threading.Semaphore(0), files._Post.put, files._settle

    def put_and_tell(post: Any, job: Any) -> None:
        put(post, job)
        arrived.release()

    def interrupt(*arguments: Any) -> None:
        settle(*arguments)
        if not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt  # as a signal handler may

    async def begin() -> list[Any]:
        monkeypatch.setattr(files, "_settle", interrupt)
        tasks = [asyncio.ensure_future(files.call(os.getpid)) for _ in range(2)]
        await asyncio.sleep(0)
        for _ in tasks:
            arrived.acquire()  # in one delivery
        made.extend(tasks)
        return await asyncio.gather(*tasks)

    async def go_on() -> bool:
        for _ in range(5):
            await asyncio.sleep(0)
        return all(task.done() for task in made)

    made: list[Any] = []
    interrupted: list[bool] = []
    monkeypatch.setattr(files._Post, "put", put_and_tell)
    loop = asyncio.SelectorEventLoop()
    with contextlib.closing(loop):
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(begin())
        assert loop.run_until_complete(go_on())
