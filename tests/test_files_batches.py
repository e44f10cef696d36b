# SPDX-License-Identifier: MIT
"""Whole files, batches and trees, on asyncio and without it, against open(), os and shutil.

What it is: each function of files and its counterpart in files.sync, with the ring and in threads, with the
caches and without.
Must not know: which layer answered.
Invariant: no test waits for time to pass; a batch closes what it opened, however it ends.
Read next: test_files_loops.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import inspect
import os
import random
import shutil
import stat
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import leaks
import pytest

from rawuring import asyncring, filebatch, fileops, files, filesync, ops, register

pytestmark = [pytest.mark.leakcheck, pytest.mark.usefixtures("way")]
LINUX = sys.platform == "linux"


class Both:
    """A function of files and its twin, called alike."""

    def __init__(self, asynchronous: bool) -> None:
        self.asynchronous = asynchronous

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # hypothesis looks for _repr_pretty_
            raise AttributeError(name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if not self.asynchronous:
                result = getattr(files.sync, name)(*args, **kwargs)
                return list(result) if inspect.isgenerator(result) else result
            return asyncio.run(self._await(getattr(files, name), args, kwargs))

        return call

    async def _await(self, function: Any, args: Any, kwargs: Any) -> Any:
        found = function(*args, **kwargs)
        if hasattr(found, "__aiter__"):
            return [each async for each in found]
        return await found


@pytest.fixture(params=[True, False], ids=["async", "sync"])
def do(request: pytest.FixtureRequest) -> Both:
    """Call the functions of files, or of files.sync."""
    return Both(request.param)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Make a small tree."""
    top = tmp_path / "tree"
    for at in range(40):
        path = top / f"d{at % 4}" / f"e{at % 3}" / f"file{at}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([at]) * (at * 1000))
    (top / "link").symlink_to("d0")
    (top / "dangling").symlink_to("nowhere")
    (top / "empty").mkdir()
    return top


def regular(tree: Path) -> list[Path]:
    """List the regular files of a tree."""
    return sorted(path for path in tree.rglob("*") if path.is_file() and not path.is_symlink())


# ------------------------------------------------------------------------------------------------------
# One file


@pytest.mark.parametrize("size", [0, 1, 1000, 65_535, 65_536, 65_537, 262_143, 262_144, 3_000_000])
def test_read_bytes_when_of_any_size_then_the_content(do: Both, tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(random.randbytes(size))
    assert do.read_bytes(path) == path.read_bytes()
    assert do.read_bytes(os.fsencode(path)) == do.read_bytes(str(path)) == path.read_bytes()


@pytest.mark.skipif(not LINUX, reason="Linux only")
@pytest.mark.parametrize("path", ["/proc/self/maps", "/proc/cpuinfo", "/sys/kernel/mm/ksm/run"])
def test_read_bytes_when_the_size_is_unknown_then_to_the_end(do: Both, path: str) -> None:
    if not os.path.exists(path):
        pytest.skip(f"{path} on this kernel")
    data = do.read_bytes(path)
    assert data.endswith(b"\n")
    assert do.read_many([path])[0].endswith(b"\n")


@pytest.mark.parametrize(("told", "is_there"), [(10_000, 50_000), (300_000, 10**6), (50_000, 10), (10, 0)])
def test_read_bytes_when_the_file_grows_or_shrinks_then_to_its_end(
    do: Both, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: int, is_there: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(random.randbytes(is_there))
    real = os.fstat
    lies = [True]

    def fstat(fd: int) -> Any:
        found = real(fd)
        if found.st_size == is_there and lies:
            lies.clear()
            return os.stat_result((*found[:6], told, *found[7:10]))
        return found

    monkeypatch.setattr(os, "fstat", fstat)
    assert do.read_many([path]) == [path.read_bytes()]


@pytest.mark.parametrize("path", ["missing", ".", "file/x", "a\0b", "file\0b", None, 1.5], ids=str)
def test_read_bytes_when_it_cannot_be_then_the_exception_of_open(
    do: Both, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_bytes(b"x")
    with pytest.raises((OSError, ValueError, TypeError)) as theirs:
        open(path, "rb").close()
    for function, argument in ((do.read_bytes, path), (do.read_many, [path])):
        with pytest.raises(type(theirs.value)) as ours:
            function(argument)
        if isinstance(theirs.value, OSError):
            assert isinstance(ours.value, OSError)
            assert (ours.value.errno, ours.value.filename) == (theirs.value.errno, theirs.value.filename)


def test_text_when_written_and_read_then_as_pathlib_does(do: Both, tmp_path: Path) -> None:
    path, oracle = tmp_path / "a", tmp_path / "b"
    text = "Zeile\r\nzwei\rdrei\n\u00e4\u20ac\U0001f600"
    for encoding in ("utf-8", "utf-16", "utf-8-sig"):
        assert do.write_text(path, text, encoding) == oracle.write_text(text, encoding) == len(text)
        assert path.read_bytes() == oracle.read_bytes()
        assert do.read_text(path, encoding) == oracle.read_text(encoding)
    with pytest.raises(UnicodeDecodeError):
        do.read_text(path, "ascii")
    assert do.read_text(path, "ascii", "replace") == oracle.read_text("ascii", "replace")
    with pytest.raises(TypeError):
        do.write_text(path, b"bytes")


@pytest.mark.parametrize("atomic", [False, True])
@pytest.mark.parametrize("sync", [False, True])
def test_write_bytes_when_there_is_an_old_file_then_it_is_replaced(
    do: Both, tmp_path: Path, atomic: bool, sync: bool
) -> None:
    path = tmp_path / "file"
    for data in (b"first" * 1000, b"", memoryview(b"second"), bytearray(b"x" * 3_000_000)):
        assert do.write_bytes(path, data, atomic=atomic, sync=sync) == len(data)
        assert path.read_bytes() == bytes(data)
        if data == b"":
            path.chmod(0o640)
    assert path.stat().st_mode & 0o777 == 0o640
    link = tmp_path / "link"
    link.symlink_to("file")
    do.write_bytes(str(link), b"through", atomic=atomic, sync=sync)
    assert link.is_symlink() and path.read_bytes() == b"through"
    assert sorted(os.listdir(tmp_path)) == ["file", "link"]


@pytest.mark.parametrize("atomic", [False, True])
def test_write_bytes_when_it_fails_then_nothing_is_left(do: Both, tmp_path: Path, atomic: bool) -> None:
    (tmp_path / "directory").mkdir()
    for path, kind in ((tmp_path / "no" / "file", FileNotFoundError), (tmp_path / "directory", OSError)):
        with pytest.raises(kind):
            do.write_bytes(path, b"data", atomic=atomic, sync=True)
    with pytest.raises(TypeError):
        do.write_bytes(tmp_path / "file", "text", atomic=atomic)
    assert os.listdir(tmp_path) == ["directory"]


@pytest.mark.skipif(not LINUX, reason="Linux only")
@pytest.mark.parametrize("sync", [False, True])
def test_write_bytes_when_the_device_is_full_then_enospc(do: Both, sync: bool) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("/dev/full")
    with pytest.raises(OSError, match="No space") as caught:
        do.write_bytes("/dev/full", b"data", sync=sync)
    assert caught.value.errno == errno.ENOSPC


# ------------------------------------------------------------------------------------------------------
# Many


@pytest.mark.parametrize("depth", [1, 2, 64, 1000])
def test_read_many_when_of_any_depth_then_in_the_order_of_the_items(do: Both, tree: Path, depth: int) -> None:
    paths = regular(tree)
    assert do.read_many(paths, depth=depth) == [path.read_bytes() for path in paths]
    assert do.read_many([], depth=depth) == []
    found = do.read_each(iter(paths), depth=depth)
    assert sorted(found) == sorted((path, path.read_bytes()) for path in paths)


def test_read_many_when_ranges_then_what_pread_reads(do: Both, tree: Path) -> None:
    path = regular(tree)[-1]
    data = path.read_bytes()
    fd = os.open(path, os.O_RDONLY)
    try:
        parts = (0, 5), (7, 0), (100, 10**6)
        ranges = [(each, offset, length) for each in (path, fd) for offset, length in parts]
        assert do.read_many(ranges) == [data[offset : offset + length] for _, offset, length in ranges]
    finally:
        os.close(fd)
    for wrong in [(path, -1, 5), (path, 0, -5)]:
        with pytest.raises(OSError, match="Invalid argument"):
            do.read_many([wrong])
    for item, kind in (((path, 1), ValueError), ((path, "0", 1), TypeError), (5, TypeError)):
        with pytest.raises(kind):
            do.read_many([item])


def test_read_many_when_some_are_missing_then_their_exceptions(do: Both, tree: Path) -> None:
    paths = regular(tree)
    paths[3] = paths[3].with_name("missing")
    found = do.read_many(paths, return_exceptions=True)
    assert isinstance(found[3], FileNotFoundError) and os.fspath(found[3].filename) == str(paths[3])
    del found[3], paths[3]
    assert found == [path.read_bytes() for path in paths]
    with pytest.raises(FileNotFoundError):
        do.read_many([*paths, "missing", *paths])


@pytest.mark.parametrize("depth", [0, -1])
def test_batches_when_the_depth_is_none_then_an_exception(do: Both, depth: int) -> None:
    for function in (do.read_many, do.read_each, do.stat_many):
        with pytest.raises(ValueError, match="at least 1"):
            function([], depth=depth)
        with pytest.raises(TypeError):
            function([], depth="many")


@pytest.mark.parametrize("name", ["read_each", "stat_each"])
@pytest.mark.parametrize("depth", [1, 3, 8])
def test_each_when_there_are_very_many_then_never_more_than_depth_are_taken(
    tree: Path, depth: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    always_slow(monkeypatch)
    paths = regular(tree)
    given = taken = 0

    def items() -> Iterator[Path]:
        nonlocal given
        while True:  # forever
            given += 1
            yield paths[given % len(paths)]

    each: Any = getattr(files.sync, name)(items(), depth=depth)
    for _ in each:
        taken += 1
        assert given - taken <= depth
        if taken == 100:
            break
    each.close()  # PyPy would close them some time later

    async def main() -> None:
        nonlocal given, taken
        given = taken = 0
        running = getattr(files, name)(items(), depth=depth)
        async for _ in running:
            taken += 1
            assert given - taken <= depth
            if taken == 100:
                break
        await running.aclose()

    asyncio.run(main())


@pytest.mark.skipif(not LINUX, reason="Linux only")
def test_read_many_when_few_descriptors_are_left_then_the_depth_becomes_smaller(
    do: Both, tree: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    import resource

    paths = regular(tree) * 5
    expected = [path.read_bytes() for path in paths]
    if "cached" not in way:
        monkeypatch.setattr(fileops, "_RWF_NOWAIT", 0)  # so that files stay open for a while
    taken = [os.dup(0)]
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 40, before[1]))
    try:
        while True:
            taken.append(os.dup(0))
    except OSError:
        for _ in range(16):  # a loop, its ring, and some files
            os.close(taken.pop())
    try:
        assert do.read_many(paths, depth=64) == expected
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for fd in taken:
            os.close(fd)


def test_stat_many_when_asked_then_what_os_says(do: Both, tree: Path) -> None:
    paths = [str(path) for path in tree.rglob("*") if path.exists()]
    assert do.stat_many(paths) == [os.stat(path) for path in paths]
    paths = [str(path) for path in tree.rglob("*")]
    assert do.stat_many(paths, follow_symlinks=False) == [os.lstat(path) for path in paths]
    found = do.stat_each(paths, follow_symlinks=False)
    assert sorted(found) == sorted((path, os.lstat(path)) for path in paths)
    with pytest.raises(FileNotFoundError):
        do.stat_many(paths)
    assert isinstance(do.stat_many(["missing"], return_exceptions=True)[0], FileNotFoundError)


def test_batch_when_cancelled_at_any_time_then_nothing_is_left_open(tree: Path) -> None:
    paths = regular(tree) * 3

    async def main() -> None:
        for turns in range(8):
            task = asyncio.ensure_future(files.read_many(paths, depth=16))
            for _ in range(turns):
                await asyncio.sleep(0)
            if task.cancel():  # else it had completed
                with pytest.raises(asyncio.CancelledError):
                    await task

    asyncio.run(main())


def test_batch_when_an_exception_comes_while_it_runs_then_nothing_is_left_open(tree: Path) -> None:
    paths = regular(tree) * 3
    running = files.sync.read_each(paths)
    for at, _ in enumerate(running):
        if at == 20:
            break
    with pytest.raises(ZeroDivisionError):
        running.throw(ZeroDivisionError)  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------------------------
# Data outside the page cache


class Cold:
    """Let the page cache answer as lists of choices say, and count the queries."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, choices: list[Any], again: list[bool]) -> None:
        self.choices, self.again = choices, again
        self.asked = self.asked_again = 0
        monkeypatch.setattr(fileops, "fetch_now", self.fetch_now)
        monkeypatch.setattr(filebatch, "read_now", self.read_now)

    def fetch_now(self, fd: int, buffers: Any) -> Any:
        """Read all or a part, or answer with -1 or None."""
        choice = self.choices[self.asked % len(self.choices)]
        self.asked += 1
        if choice not in ("whole", "part"):
            return choice
        view = memoryview(buffers[0])
        return fileops.plain_read(fd, [view if choice == "whole" else view[: len(view) // 2]], 0)

    def read_now(self, fd: int, buffers: Any, offset: int, want: int) -> Any:
        """Read all, or answer with None."""
        there = self.again[self.asked_again % len(self.again)]
        self.asked_again += 1
        return fileops.plain_read(fd, [memoryview(buffers[0])], offset) if there else None


def needs_caches(tree: Path) -> None:
    """Skip if the kernel opens nothing from its caches, so that nothing is read from them either."""
    fd = fileops.open_now(regular(tree)[0], os.O_RDONLY)
    if fd is None:
        pytest.skip("openat2() with RESOLVE_CACHED (5.12)")
    os.close(fd)


@pytest.mark.long
@pytest.mark.skipif(not LINUX, reason="preadv2: Linux only")
@hypothesis.given(
    choices=st.lists(st.sampled_from(["whole", "part", -1, -1, None]), min_size=1, max_size=20),
    again=st.lists(st.booleans(), min_size=1, max_size=20), depth=st.integers(1, 20),
    budget=st.sampled_from([0.0, files.BUDGET_S, 1.0]),
)  # fmt: skip
@hypothesis.settings(max_examples=30)
def test_read_many_when_the_cache_answers_anything_then_the_content(
    do: Both, tree: Path, choices: list[Any], again: list[bool], depth: int, budget: float
) -> None:
    missing = tree / "missing"
    items: list[Any] = [*regular(tree), missing, "/proc/self/limits", (regular(tree)[5], 10, 300)]
    with pytest.MonkeyPatch.context() as monkeypatch:
        Cold(monkeypatch, choices, again)
        monkeypatch.setattr(files, "BUDGET_S", budget)
        monkeypatch.setattr(filesync, "_LOOK_S", budget)
        *data, error, limits, part = do.read_many(items, depth=depth, return_exceptions=True)
    assert data == [path.read_bytes() for path in regular(tree)]
    assert isinstance(error, FileNotFoundError)
    assert limits.startswith(b"Limit")
    assert part == items[-1][0].read_bytes()[10:310]


@pytest.mark.skipif(not LINUX, reason="preadv2: Linux only")
@hypothesis.given(
    choices=st.lists(st.sampled_from(["whole", "part", -1, -1, None]), min_size=1, max_size=20),
    again=st.lists(st.booleans(), min_size=1, max_size=20), patience=st.sampled_from([0.0, files.FETCH_S]),
    budget=st.sampled_from([0.0, files.BUDGET_S, 1.0]),
)  # fmt: skip
@hypothesis.settings(max_examples=20)
def test_read_bytes_when_the_cache_answers_anything_then_the_content(
    tree: Path, choices: list[Any], again: list[bool], patience: float, budget: float
) -> None:
    paths = regular(tree)

    async def main() -> list[bytes]:
        return await asyncio.gather(*map(files.read_bytes, paths))

    with pytest.MonkeyPatch.context() as monkeypatch:
        Cold(monkeypatch, choices, again)
        monkeypatch.setattr(files, "FETCH_S", patience)
        monkeypatch.setattr(files, "BUDGET_S", budget)
        data = asyncio.run(main())
    assert data == [path.read_bytes() for path in paths]


@pytest.mark.skipif(not LINUX, reason="preadv2: Linux only")
def test_read_bytes_when_cancelled_while_the_file_is_fetched_then_it_is_closed(
    tree: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if "nothing" in way:
        pytest.skip("answers from the caches, which this way lacks")
    needs_caches(tree)
    cold = Cold(monkeypatch, [-1], [False])
    monkeypatch.setattr(files, "FETCH_S", 1e9)

    async def main() -> None:
        before = set(os.listdir("/proc/self/fd"))
        task = asyncio.ensure_future(files.read_bytes(regular(tree)[5]))
        while cold.asked_again < 3 and not task.done():
            await asyncio.sleep(0)
        assert set(os.listdir("/proc/self/fd")) != before
        task.cancel()
        (error,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(error, asyncio.CancelledError)  # its traceback refers to anything left open
        assert set(os.listdir("/proc/self/fd")) == before

    asyncio.run(main())


@pytest.mark.skipif(not LINUX, reason="preadv2: Linux only")
@pytest.mark.parametrize(
    ("fetched", "again", "expected"),
    [
        (-1, [True], []),
        (-1, [False], [8] * 32 + [*range(7, 0, -1)]),
        (None, [True], [8] * 32 + [*range(7, 0, -1)]),
        # The first three allow only one request; the fifth follows its end, as do two of the next three.
        (-1, [True, True, True, False, True, False, False, False] + [True] * 100, [1, 1, 2, 1]),
    ],
    ids=["fetched and there", "fetched and late", "not fetched", "some late"],
)  # fmt: skip
def test_cold_files_when_the_kernel_fetches_them_then_few_become_requests(
    tree: Path, monkeypatch: pytest.MonkeyPatch, way: str, fetched: Any, again: list[bool], expected: Any
) -> None:
    if "nothing" in way:
        pytest.skip("answers from the caches, which this way lacks")
    needs_caches(tree)
    Cold(monkeypatch, [fetched], again)
    paths = [path for path in regular(tree) if path.stat().st_size]
    started: list[Any] = []

    class Engine(filebatch.Engine):
        def start(self, op: fileops.Op, done: Any) -> Any:
            started.append((op, done))
            return None

    many = filebatch.Many(Engine(), filebatch.reader(), enumerate(paths), 8)
    results: dict[int, bytes] = {}
    in_flight = []
    while not many.finished:
        many.fill(0.0)  # one step
        assert len(many.running) + len(many.done) <= 8
        if not many.done and many.starved:
            in_flight.append(len(started))
            op, done = started.pop(0)
            done(op.plain(), None)
        while many.done:
            key, data, error = many.done.popleft()
            assert error is None
            results[key] = data
    assert [results[at] for at in range(len(paths))] == [path.read_bytes() for path in paths]
    assert in_flight == expected


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="posix_fadvise: Linux only")
def test_fetch_now_when_nothing_is_cached_then_the_kernel_fetches_it(tmp_path: Path, way: str) -> None:
    """A read with RWF_NOWAIT that misses starts a readahead.

    Source: Linux mm/filemap.c filemap_get_pages(), which returns early for IOCB_NOIO only.
    """
    if "nothing" in way:
        pytest.skip("answers from the caches, which this way lacks")
    path = tmp_path / "file"
    path.write_bytes(bytes(10_000))
    with path.open("rb") as file:
        os.fdatasync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        memory = bytearray(10_001)
        if fileops.fetch_now(file.fileno(), (memory,)) != -1:
            pytest.skip("a file system with RWF_NOWAIT and a page cache that can be dropped (ext4, XFS)")
        got = leaks.settles(
            lambda: fileops.read_now(file.fileno(), (memory,), 0, 10_001), lambda found: found is not None
        )
        if got is None:
            pytest.skip("readahead for RWF_NOWAIT (5.9)")
        assert got == 10_000


def test_workers_when_thousands_are_asked_for_at_once_then_no_more_than_four_for_each_cpu(
    tree: Path, way: str
) -> None:
    """A batch starts few threads, whatever its depth.

    Source: Linux io_uring/tctx.c io_init_wq_offload().
    """
    if "ring" not in way:
        pytest.skip("the workers of a ring")
    paths = [tree / f"{at}" for at in range(2000)]
    before = set(os.listdir("/proc/self/task"))

    async def main() -> int:
        await asyncio.gather(*[files.stat(path) for path in paths], return_exceptions=True)
        try:
            return register.register_iowq_max_workers(asyncring.running().ring)[0]
        except OSError as error:
            pytest.skip(f"IORING_REGISTER_IOWQ_MAX_WORKERS (5.15): {error}")

    most = asyncio.run(main())
    assert 0 < most <= 4 * (os.cpu_count() or 1)
    workers = 0
    for task in set(os.listdir("/proc/self/task")) - before:  # those of other tests live for five seconds
        with contextlib.suppress(OSError):  # it has ended
            workers += Path(f"/proc/self/task/{task}/comm").read_text().startswith("iou-wrk")
    assert workers <= most


class Groups:
    """Names outside the caches, and the queries to the thread that reads their files."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self._real = filebatch._read_group
        monkeypatch.setattr(fileops._cached, "works", False)
        monkeypatch.setattr(filebatch, "_read_group", self)
        monkeypatch.setattr(files, "_apart", [0.0])

    def __call__(self, paths: list[Any], batch: Any) -> Any:
        self.sizes.append(len(paths))
        assert self.go_on.wait(60)
        return self._real(paths, batch)


def test_read_bytes_when_many_tasks_ask_for_unknown_names_then_one_thread_reads_them(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = Groups(monkeypatch)
    paths = regular(tree)
    paths[1].write_bytes(random.randbytes(300_000))  # too large for a step
    monkeypatch.setattr(files, "APART_S", 3600.0)
    monkeypatch.setattr(files, "BUDGET_S", 3600.0)  # one turn is enough
    monkeypatch.setattr(filebatch, "SLOW_S", 3600.0)

    async def main() -> list[Any]:
        given = [*paths, tree / "missing", tree, Path("/proc/self/status" if LINUX else paths[0])]
        return await asyncio.gather(*map(files.read_bytes, given), return_exceptions=True)

    *found, missing, directory, special = asyncio.run(main())
    assert found == [path.read_bytes() for path in paths]
    assert (type(missing), type(directory)) == (FileNotFoundError, IsADirectoryError)
    assert missing.filename == tree / "missing" or missing.filename == str(tree / "missing")
    assert not LINUX or special.startswith(b"Name:")
    assert groups.sizes == [len(paths) + 3]
    always_slow(monkeypatch)
    asyncio.run(main())
    asyncio.run(main())
    assert groups.sizes[1:] == [len(paths) + 3] + [1] * (len(paths) + 3)


def test_read_bytes_when_cancelled_while_a_thread_reads_then_it_leaves_and_the_others_stay(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = Groups(monkeypatch)
    groups.go_on.clear()
    large, small = tree / "large", regular(tree)[-1]
    large.write_bytes(random.randbytes(300_000))  # it is returned open

    async def main() -> None:
        tasks = [asyncio.ensure_future(files.read_bytes(path)) for path in (large, small)]
        while not groups.sizes:
            await asyncio.sleep(0)
        tasks[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        groups.go_on.set()
        assert await tasks[1] == small.read_bytes()

    asyncio.run(main())


def test_read_many_when_threads_wait_then_they_read_smaller_groups(
    do: Both, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = Groups(monkeypatch)
    always_slow(monkeypatch)
    paths = regular(tree) * 10
    assert do.read_many(paths, depth=32) == [path.read_bytes() for path in paths]
    at = next(at for at, size in enumerate(groups.sizes) if size >= 4)
    # Those that had begun; from then on there are as many groups as threads.
    assert max(groups.sizes[at + 1 :]) <= 32 // fileops.threads().limit


def test_read_bytes_when_a_directory_has_a_size_then_the_exception_names_it(
    do: Both, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filebatch, "_size", lambda fd: 4096)  # as on XFS
    with pytest.raises(IsADirectoryError) as caught:
        do.read_many([tree])
    assert os.fspath(caught.value.filename) == str(tree)


@pytest.mark.parametrize("few", [True, False])
def test_read_group_when_descriptors_are_few_then_all_are_read(
    tree: Path, monkeypatch: pytest.MonkeyPatch, few: bool
) -> None:
    paths, real, left = regular(tree)[1:], os.open, 5  # an empty one is returned open

    def opening(*args: Any, **kwargs: Any) -> int:
        nonlocal left
        left -= 1
        if not few or left < 0:
            left = 5
            raise OSError(errno.EMFILE, "too many")
        return real(*args, **kwargs)

    monkeypatch.setattr(os, "open", opening)
    try:
        found, _ = filebatch.read_group_op(paths).plain()
    finally:
        monkeypatch.undo()
    if few:
        assert found == [path.read_bytes() for path in paths]
    else:
        assert {each.errno for each in found} == {errno.EMFILE}


@pytest.mark.skipif(not LINUX, reason="preadv2: Linux only")
def test_batch_when_left_while_files_are_fetched_then_they_are_closed(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Cold(monkeypatch, [-1], [True, False])
    paths = [path for path in regular(tree) if path.stat().st_size]
    before = set(os.listdir("/proc/self/fd"))
    each: Any = files.sync.read_each(paths, depth=16)
    next(each)
    each.close()
    assert set(os.listdir("/proc/self/fd")) == before

    async def main() -> None:
        await files.read_many(paths)  # makes the ring of the loop
        before = set(os.listdir("/proc/self/fd"))
        each: Any = files.read_each(paths, depth=16)
        await each.__anext__()
        await each.aclose()
        assert set(os.listdir("/proc/self/fd")) == before

    asyncio.run(main())


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="posix_fadvise: Linux only")
@hypothesis.given(
    sizes=st.lists(st.sampled_from([0, 1, 4095, 4096, 70_000, 262_143, 300_000]), max_size=30),
    depth=st.integers(1, 20),
)
@hypothesis.settings(max_examples=10)
def test_read_many_when_files_are_cold_then_the_content(
    do: Both, tmp_path: Path, sizes: list[int], depth: int
) -> None:
    expected = []
    paths = [tmp_path / f"{at}" for at in range(len(sizes))]
    for path, size in zip(paths, sizes):
        expected.append(random.randbytes(size))
        with path.open("wb") as file:
            file.write(expected[-1])
            file.flush()
            os.fdatasync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    assert do.read_many(paths, depth=depth) == expected


# ------------------------------------------------------------------------------------------------------
# Trees


def without_atime(found: os.stat_result) -> list[Any]:
    """Return the metadata that reading a directory does not change."""
    return [getattr(found, name) for name in dir(found) if name.startswith("st_") and "atime" not in name]


def test_walk_when_asked_then_what_os_walk_finds(do: Both, tree: Path) -> None:
    expected = {
        (directory, name) for directory, names, found in os.walk(tree) for name in (*names, *found)
    }
    found = do.walk(tree)
    assert {(directory, each.name) for directory, entries in found for each in entries} == expected
    seen = set()
    for directory, entries in found:
        assert directory == str(tree) or os.path.dirname(directory) in seen
        seen.add(directory)
        for each in entries:
            assert without_atime(each.stat) == without_atime(os.lstat(each.path))
            assert (each.is_dir(), each.is_symlink(), each.is_file()) == (
                os.path.isdir(each.path) and not os.path.islink(each.path), os.path.islink(each.path),
                os.path.isfile(each.path) and not os.path.islink(each.path),
            )  # fmt: skip
    errors: list[OSError] = []
    assert do.walk(tree / "missing", onerror=errors.append) == []
    assert [error.errno for error in errors] == [errno.ENOENT]


def always_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each thread seem to wait for a device, so that the maximum of threads soon runs."""
    monkeypatch.setattr(filebatch, "SLOW_S", -1.0)
    monkeypatch.setattr(filebatch, "count_waits", lambda: None)


def test_stat_many_when_threads_wait_then_there_are_more_of_them(
    do: Both, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    always_slow(monkeypatch)
    monkeypatch.setattr(filebatch, "PIECE_S", 0.0)  # a path is a piece
    paths = regular(tree) * 3
    expected = [os.stat(path) for path in paths]
    real, calls, together = os.stat, 0, threading.Barrier(4)

    def stat(path: Any, **kwargs: Any) -> Any:
        nonlocal calls
        if path in paths:  # not the requests of others
            calls += 1
            if 8 < calls <= 12:
                together.wait(60)  # it breaks, and raises, unless four threads arrive
        return real(path, **kwargs)

    monkeypatch.setattr(os, "stat", stat)
    try:
        assert do.stat_many(paths, depth=4) == expected
    finally:
        monkeypatch.undo()


@pytest.mark.parametrize("name", ["stat_many", "walk", "copy_tree"])
def test_pieces_when_cancelled_then_the_thread_ends_after_the_item_it_is_at(
    tree: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(filebatch, "PIECE_S", 3600.0)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    entered, left = threading.Event(), threading.Event()
    paths, target, calls = [str(path) for path in regular(tree)], str(tree) + "-copy", 0

    def slow(call: Any) -> Any:
        def wait(path: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            if str(path).startswith(str(tree)):  # not the requests of others
                calls += 1
                entered.set()
                assert left.wait(60)
            return call(path, *args, **kwargs)

        return wait

    async def every() -> None:
        async for _ in files.walk(tree):
            raise AssertionError("not cancelled before the end")

    async def main() -> None:
        if name == "stat_many":
            monkeypatch.setattr(os, "stat", slow(os.stat))
            task = asyncio.ensure_future(files.stat_many(paths))
        elif name == "walk":
            monkeypatch.setattr(os, "scandir", slow(os.scandir))
            task = asyncio.ensure_future(every())
        else:
            monkeypatch.setattr(filebatch, "_copy_start", slow(filebatch._copy_start))
            task = asyncio.ensure_future(files.copy_tree(tree, target))
        while not entered.is_set():
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        left.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    try:
        asyncio.run(main())
    finally:
        monkeypatch.undo()
    assert calls == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_pieces_without_asyncio_when_a_signal_handler_raises_then_it_comes_out(
    tree: Path, error: type[BaseException]
) -> None:
    class Interrupting:
        def __fspath__(self) -> str:
            raise error

    paths: list[Any] = [*regular(tree), Interrupting()]
    with pytest.raises(error):
        files.sync.stat_many(paths)


@pytest.mark.parametrize("ends", [True, False])
def test_walk_when_few_descriptors_are_left_then_it_goes_on(
    tree: Path, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    always_slow(monkeypatch)
    monkeypatch.setattr(filebatch, "PIECE_S", 0.0)
    real, refused = filebatch.list_directory, []

    def listing(path: Any, batch: Any = None) -> Any:
        if os.path.basename(path).startswith("e") and not (ends and path in refused):
            refused.append(path)
            raise OSError(errno.EMFILE, "too many", path)
        return real(path, batch)

    monkeypatch.setattr(filebatch, "list_directory", listing)
    errors: list[Any] = []

    async def main() -> set[str]:
        return {directory async for directory, _ in files.walk(tree, onerror=errors.append)}

    found = asyncio.run(main()) | {error.filename for error in errors}
    assert found == {directory for directory, _, _ in os.walk(tree)}
    assert ends or {error.errno for error in errors} == {errno.EMFILE}


def same_trees(one: Path, other: Path) -> None:
    """Compare names, contents, permissions and times."""
    names = sorted(path.relative_to(one) for path in one.rglob("*"))
    assert sorted(path.relative_to(other) for path in other.rglob("*")) == names
    for name in names:
        a, b = one / name, other / name
        assert a.is_symlink() == b.is_symlink()
        if a.is_symlink():
            assert os.readlink(a) == os.readlink(b)
        elif a.is_file():
            assert a.read_bytes() == b.read_bytes()
            assert (a.stat().st_mode, a.stat().st_mtime_ns) == (b.stat().st_mode, b.stat().st_mtime_ns)
        else:
            assert (a.stat().st_mode, a.stat().st_mtime_ns) == (b.stat().st_mode, b.stat().st_mtime_ns)


def test_copy_tree_when_asked_then_what_shutil_copies(do: Both, tree: Path, tmp_path: Path) -> None:
    (tree / "d0").chmod(0o750)
    os.utime(tree / "d1" / "e1" / "file1", (1, 2))
    counts: list[int] = []
    assert do.copy_tree(tree, tmp_path / "ours", symlinks=True, progress=counts.append) == tmp_path / "ours"
    shutil.copytree(tree, tmp_path / "theirs", symlinks=True)
    same_trees(tmp_path / "theirs", tmp_path / "ours")
    assert counts == sorted(counts) and counts[-1] == len(regular(tree)) + 2
    with pytest.raises(FileExistsError):
        do.copy_tree(tree, tmp_path / "ours", symlinks=True)
    os.unlink(tmp_path / "ours" / "link")
    os.unlink(tmp_path / "ours" / "dangling")
    do.copy_tree(
        tree, tmp_path / "ours", symlinks=True, dirs_exist_ok=True,
    )
    with pytest.raises(shutil.Error) as caught:  # the dangling link
        do.copy_tree(tree, tmp_path / "followed", ignore=shutil.ignore_patterns("file1*"))
    assert [os.path.basename(src) for src, _, _ in caught.value.args[0]] == ["dangling"]
    assert not list((tmp_path / "followed").rglob("file1*"))
    assert (tmp_path / "followed" / "link" / "e0").is_dir()


@pytest.mark.parametrize("size", [0, 1, 70_000, 5_000_000])
@pytest.mark.parametrize("by", ["clone or kernel", "memory", "steps"])
def test_copy_file_when_by_any_way_then_the_same_content(
    do: Both, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, by: str
) -> None:
    src, dst = tmp_path / "src", tmp_path / "dst"
    src.write_bytes(random.randbytes(size))
    src.chmod(0o640)
    os.utime(src, (1, 2))
    dst.write_bytes(b"old" * 3_000_000)
    if by != "clone or kernel":
        monkeypatch.setattr(filebatch, "COPY_CHUNK", 1 << 16)
        monkeypatch.setattr(filebatch, "_clone", lambda *args: False)
    if by == "memory":
        monkeypatch.setattr(filebatch, "_copy_range", lambda *args: None)
    steps: list[tuple[int, int]] = []
    assert do.copy_file(src, dst, progress=lambda done, total: steps.append((done, total))) == size
    assert dst.read_bytes() == src.read_bytes()
    assert (dst.stat().st_mode, dst.stat().st_mtime_ns) == (src.stat().st_mode, src.stat().st_mtime_ns)
    if size:
        assert steps[-1] == (size, size) and steps == sorted(steps)
    do.copy_file(src, tmp_path / "other", metadata=False)
    assert (tmp_path / "other").stat().st_mtime_ns != 2_000_000_000


def test_copy_file_when_it_cannot_be_then_the_exception_of_shutil(do: Both, tmp_path: Path) -> None:
    src = tmp_path / "src"
    src.write_bytes(b"x")
    os.mkfifo(tmp_path / "fifo")
    for a, b in ((tmp_path / "no", src), (src, tmp_path / "no" / "x"), (src, src), (tmp_path / "fifo", src)):
        with pytest.raises(OSError) as theirs:
            shutil.copyfile(a, b)
        with pytest.raises(type(theirs.value)):
            do.copy_file(a, b)
    assert src.read_bytes() == b"x"


def test_copy_file_when_it_is_of_proc_then_all_of_it(do: Both, tmp_path: Path) -> None:
    if not os.path.exists("/proc/cpuinfo"):
        pytest.skip("/proc")
    do.copy_file("/proc/cpuinfo", tmp_path / "copy", metadata=False)
    assert (tmp_path / "copy").stat().st_size > 100


def test_remove_tree_when_asked_then_nothing_is_left_and_links_are_not_followed(
    do: Both, tree: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(b"x")
    (tree / "d0" / "out").symlink_to(outside)
    counts: list[int] = []
    expected = len(list(tree.rglob("*"))) + 1
    assert do.remove_tree(tree, progress=counts.append) == expected
    assert counts[-1] == expected and not tree.exists() and (outside / "kept").exists()
    with pytest.raises(FileNotFoundError):
        do.remove_tree(tree)
    assert do.remove_tree(tree, ignore_errors=True) == 0
    (tmp_path / "l").symlink_to(outside)
    with pytest.raises(OSError, match="symbolic link"):
        do.remove_tree(tmp_path / "l")


# ------------------------------------------------------------------------------------------------------
# O_DIRECT


def test_read_many_into_when_buffers_are_given_then_they_are_filled(do: Both, tree: Path) -> None:
    path = regular(tree)[-1]
    data = path.read_bytes()
    fd = os.open(path, os.O_RDONLY)
    try:
        memory = files.allocate(50_000)
        view = memoryview(memory)
        ranges = [(at, view[at : at + 7_000]) for at in range(0, 49_000, 7_000)]
        counts = do.read_many_into(fd, ranges, depth=3)
        assert counts == [max(0, min(7_000, len(data) - at)) for at, _ in ranges]
        assert view[: sum(counts)] == data[:49_000]
        with pytest.raises(OSError, match="Invalid argument"):
            do.read_many_into(fd, [(-1, bytearray(5))])
    finally:
        os.close(fd)


def test_read_many_into_when_direct_then_the_same_bytes_or_a_clear_no(do: Both, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(random.randbytes(100_000))
    fd = os.open(path, os.O_RDONLY)
    memory = files.allocate(1 << 17)
    view = memoryview(memory)
    try:
        try:
            ranges = [(at, view[at : at + 8192]) for at in range(0, 1 << 17, 8192)]
            counts = do.read_many_into(fd, ranges, direct=True)
        except OSError as error:
            if error.errno == errno.EINVAL:
                pytest.skip("O_DIRECT on this file system")
            raise
        assert sum(counts) == 100_000
        assert view[:100_000] == path.read_bytes()
        with pytest.raises(ValueError, match=r"offset 1 and length 4096 .* address 0x"):
            do.read_many_into(fd, [(1, view[:4096])], direct=True)
        if not fileops.PYPY:  # where memory may move, and ours is aligned
            with pytest.raises(ValueError, match="O_DIRECT"):
                do.read_many_into(fd, [(0, view[1:4097])], direct=True)
    finally:
        os.close(fd)


def direct(path: Path, way: str = "threads") -> tuple[int, Any, list[tuple[int, Any]]]:
    """Open a file of sixteen blocks, and make memory for all of them."""
    if fileops.PYPY and "threads" in way:
        pytest.skip("O_DIRECT without a ring: PyPy's preadv() reads into unaligned memory")
    path.write_bytes(random.randbytes(16 * 4096))
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except OSError as error:
        pytest.skip(f"O_DIRECT on this file system: {error}")
    memory = files.allocate(16 * 4096)
    view = memoryview(memory)
    ranges = [(at, view[at : at + 4096]) for at in range(0, 16 * 4096, 4096)]
    return os.open(path, os.O_RDONLY), memory, ranges


def test_read_many_into_when_a_direct_request_fails_then_its_error(
    do: Both, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd, _, ranges = direct(tmp_path / "file", way)
    monkeypatch.setattr(
        filebatch, "open_direct", lambda _: os.open(tmp_path / "file", os.O_WRONLY | os.O_DIRECT)
    )
    before = os.listdir("/proc/self/fd")
    try:
        with pytest.raises(OSError, match="Bad file descriptor"):
            do.read_many_into(fd, ranges, depth=4, direct=True)
    finally:
        os.close(fd)
    assert len(os.listdir("/proc/self/fd")) == len(before) - 1


def test_read_many_into_when_direct_and_more_than_a_request_takes_then_in_parts(
    do: Both, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd, memory, _ = direct(tmp_path / "file", way)
    monkeypatch.setattr(filebatch, "REQUEST_MAX", 8192)
    try:
        assert do.read_many_into(fd, [(0, memory), (4096, bytearray(0))], direct=True) == [16 * 4096, 0]
    finally:
        os.close(fd)
    assert bytes(memory) == (tmp_path / "file").read_bytes()


def test_read_many_into_when_direct_ranges_have_all_sizes_then_each_is_read_whole(
    do: Both, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd, memory, _ = direct(tmp_path / "file", way)
    monkeypatch.setattr(filebatch, "REQUEST_MAX", 8192)
    view, ranges, at = memoryview(memory), [], 0
    for blocks in (1, 3, 0, 2, 4, 1, 1, 3, 1):  # those of 3 and 4 blocks take several requests
        ranges.append((at, view[at : at + blocks * 4096]))
        at += blocks * 4096
    ranges.append((at, files.allocate(4096)))  # at the end of the file
    for depth in (1, 2, 7):
        view[:] = bytes(len(view))
        try:
            counts = do.read_many_into(fd, ranges, depth=depth, direct=True)
        except BaseException:
            os.close(fd)
            raise
        assert counts == [*(len(part) for _, part in ranges[:-1]), 0]
        assert bytes(memory) == (tmp_path / "file").read_bytes()
    os.close(fd)


def test_read_many_into_without_asyncio_when_a_signal_handler_raises_then_the_ring_is_closed(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "threads" in way or fileops.PYPY:
        pytest.skip("the ring, which threads and PyPy, whose memory moves, do not use")
    fd, _, ranges = direct(tmp_path / "file")
    before = os.listdir("/proc/self/fd")
    turns = []

    class Table(filesync.InFlight):
        def reap(self) -> int:
            turns.append(len(self))
            if len(turns) == 2:
                raise KeyboardInterrupt
            return super().reap()

    monkeypatch.setattr(filesync, "InFlight", Table)
    try:
        with pytest.raises(KeyboardInterrupt):
            files.sync.read_many_into(fd, ranges, depth=4, direct=True)
        assert os.listdir("/proc/self/fd") == before
        assert turns == [4, 4]  # as many as the depth
    finally:
        os.close(fd)


def test_read_many_into_when_the_kernel_knows_no_read_then_by_plain_calls(
    do: Both, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd, memory, ranges = direct(tmp_path / "file")
    # An unknown opcode: it completes with -EINVAL, as READ does before 5.6.
    monkeypatch.setattr(
        ops, "prep_read",
        lambda sqe, fd, memory, length, offset, user_data=0: ops.prep_rw(sqe, 0xFE, fd, 0, 0, 0, user_data),
    )  # fmt: skip
    monkeypatch.setattr(files, "_unknown", set())
    monkeypatch.setattr(files._Engine, "unknown", files._unknown)
    try:
        assert do.read_many_into(fd, ranges, depth=4, direct=True) == [4096] * 16
    finally:
        os.close(fd)
    assert bytes(memory) == (tmp_path / "file").read_bytes()


@hypothesis.given(
    sizes=st.lists(st.integers(0, 200_000), max_size=12), depth=st.integers(1, 20),
    order=st.randoms(use_true_random=False),
)
@hypothesis.settings(max_examples=15)
def test_batches_when_of_anything_then_each_item_gets_its_own_data(
    do: Both, tmp_path: Path, sizes: list[int], depth: int, order: Any
) -> None:
    paths = []
    for at, size in enumerate(sizes):
        path = tmp_path / f"{at}"
        path.write_bytes(bytes([at]) * size)
        paths.append(path)
    ranges = [(path, order.randrange(0, 1000), order.randrange(0, 300_000)) for path in paths]
    items: list[Any] = [*paths, *ranges]
    order.shuffle(items)
    expected = [
        each[0].read_bytes()[each[1] : each[1] + each[2]] if isinstance(each, tuple) else each.read_bytes()
        for each in items
    ]
    assert do.read_many(items, depth=depth) == expected


# ------------------------------------------------------------------------------------------------------
# Files that must not be harmed, or waited for


def test_remove_tree_when_it_is_a_file_then_it_stays(do: Both, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"precious")
    with pytest.raises(NotADirectoryError):
        do.remove_tree(file)
    do.remove_tree(file, ignore_errors=True)
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    with pytest.raises(OSError, match="symbolic link"):
        do.remove_tree(link)
    do.remove_tree(link, ignore_errors=True)
    assert file.read_bytes() == b"precious"
    assert link.is_symlink()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="os.mkfifo (FIFOs)")
def test_copy_file_when_an_end_is_a_fifo_then_an_exception(do: Both, tmp_path: Path) -> None:
    file, fifo = tmp_path / "file", tmp_path / "fifo"
    file.write_bytes(b"x")
    os.mkfifo(fifo)
    for src, dst in ((file, fifo), (fifo, file)):
        with pytest.raises(shutil.SpecialFileError, match="is a named pipe"):
            do.copy_file(src, dst)
    assert file.read_bytes() == b"x"


@pytest.mark.skipif(not hasattr(os, "copy_file_range"), reason="os has no copy_file_range() (PyPy, macOS)")
@pytest.mark.parametrize("size", [1 << 20, 5 << 30])
def test_copy_file_when_it_has_holes_then_the_copy_has_them(do: Both, tmp_path: Path, size: int) -> None:
    src, dst = tmp_path / "src", tmp_path / "dst"
    with open(src, "wb") as file:
        file.write(b"begin")
        file.seek(size // 2)
        file.write(b"middle")
        file.truncate(size)
    used = os.stat(src).st_blocks
    if used * 512 >= size:
        pytest.skip(f"holes on the file system of {tmp_path}")
    assert do.copy_file(src, dst) == size == os.stat(dst).st_size
    assert os.stat(dst).st_blocks <= 2 * used + 64
    with open(dst, "rb") as file:
        assert file.read(7) == b"begin\0\0"
        file.seek(size // 2 - 1)
        assert file.read(8) == b"\0middle\0"


@pytest.mark.skipif(sys.platform == "win32", reason="permissions (POSIX)")
def test_copy_file_when_without_metadata_then_the_permissions_of_a_new_file(do: Both, tmp_path: Path) -> None:
    src, dst, like = tmp_path / "src", tmp_path / "dst", tmp_path / "like"
    src.write_bytes(b"x")
    src.chmod(0o700)
    do.copy_file(src, dst, metadata=False)
    shutil.copyfile(src, like)
    assert dst.stat().st_mode == like.stat().st_mode


def test_copy_tree_when_a_directory_cannot_be_copied_then_the_rest_is(do: Both, tmp_path: Path) -> None:
    src, dst, like = tmp_path / "src", tmp_path / "dst", tmp_path / "like"
    (src / "sub").mkdir(parents=True)
    (src / "file").write_bytes(b"x")
    for each in (dst, like):
        each.mkdir()
        (each / "sub").write_bytes(b"in the way")
    with pytest.raises(shutil.Error) as expected:
        shutil.copytree(src, like, dirs_exist_ok=True)
    with pytest.raises(shutil.Error) as found:
        do.copy_tree(src, dst, dirs_exist_ok=True)
    assert str(found.value).replace(str(dst), str(like)) == str(expected.value)
    assert (dst / "file").read_bytes() == b"x"


def test_write_bytes_when_atomic_and_it_fails_then_the_exception_names_the_path(
    do: Both, tmp_path: Path
) -> None:
    (tmp_path / "directory").mkdir()
    for path in (tmp_path / "directory", tmp_path / "missing" / "file"):
        with pytest.raises(OSError) as found:
            do.write_bytes(path, b"x", atomic=True)
        with pytest.raises(OSError) as expected:
            open(path, "wb")  # noqa: SIM115
        assert str(found.value) == str(expected.value)
        assert found.value.filename2 is None
    name = tmp_path / ("\u20ac" * 80)
    assert do.write_bytes(name, b"x", atomic=True) == 1
    assert sorted(os.listdir(tmp_path)) == sorted(["directory", name.name])


@pytest.mark.skipif(sys.platform == "win32", reason="permissions (POSIX)")
def test_write_bytes_when_atomic_then_nobody_else_can_read_it_meanwhile(
    do: Both, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"old")
    path.chmod(0o600)
    modes, write = [], os.write

    def write_and_look(fd: int, data: Any) -> int:
        if bytes(data) == b"new":  # the loop writes, too
            modes.append(os.fstat(fd).st_mode & 0o777)
        return write(fd, data)

    monkeypatch.setattr(os, "write", write_and_look)
    do.write_bytes(path, b"new", atomic=True)
    assert modes == [0o600]


async def _take(items: Any) -> None:
    async for _ in files.read_each(items):
        pass


@pytest.mark.skipif(not LINUX, reason="FIFOs of Linux")
@pytest.mark.parametrize(
    "what", ["read_bytes", "read_many", "read_each", "write_bytes", "write_text, a reader that does not read"]
)
def test_fifo_when_the_task_is_cancelled_then_its_thread_ends(tmp_path: Path, what: str) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    make: Any = {
        "read_bytes": lambda: files.read_bytes(fifo), "read_many": lambda: files.read_many([fifo, fifo]),
        "read_each": lambda: _take([fifo]), "write_bytes": lambda: files.write_bytes(fifo, b"x"),
    }.get(what, lambda: files.write_text(fifo, "x" * (1 << 21)))  # fmt: skip

    async def main() -> None:
        before = threading.active_count()
        other = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK) if "reader" in what else -1
        task = asyncio.ensure_future(make())
        while not _waiting():
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while _waiting():
            await asyncio.sleep(0.001)
        if other >= 0:
            os.close(other)
        assert threading.active_count() <= before + fileops.threads().limit

    asyncio.run(asyncio.wait_for(main(), 60))


@pytest.mark.skipif(not LINUX, reason="FIFOs of Linux")
def test_fifo_when_the_loop_ends_before_the_thread_opens_it_then_the_thread_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fifo, opens, goes_on, real = tmp_path / "fifo", threading.Event(), threading.Event(), os.open
    os.mkfifo(fifo)

    def late(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if path == fifo and not flags & os.O_NONBLOCK:
            opens.set()
            goes_on.wait()
        return real(path, flags, *args, **kwargs)

    async def main() -> None:
        task = asyncio.ensure_future(files.open_fd(fifo, os.O_WRONLY))
        while not opens.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    monkeypatch.setattr(os, "open", late)
    asyncio.run(main())
    goes_on.set()
    for thread in _waiting():
        thread.join(60)
    assert not _waiting()


def _waiting() -> list[Any]:
    return [each for each in threading.enumerate() if each.name == "rawuring-files-wait"]


@pytest.mark.skipif(not LINUX, reason="FIFOs of Linux")
def test_fifo_when_a_batch_without_asyncio_is_left_then_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesync, "_LOOK_S", 0.0)  # it looks after each item, and continues
    fifo, file = tmp_path / "fifo", tmp_path / "file"
    os.mkfifo(fifo)
    file.write_bytes(b"x")
    each: Any = filesync.read_each([fifo, file])
    assert next(each) == (file, b"x")
    each.close()
    while _waiting():
        time.sleep(0.001)


@pytest.mark.skipif(not LINUX, reason="FIFOs of Linux")
def test_fifo_when_whole_then_read_and_written(tmp_path: Path) -> None:
    fifo, data = tmp_path / "fifo", bytes(range(256)) * 2000

    async def main() -> None:
        os.mkfifo(fifo)
        found = await asyncio.gather(files.read_bytes(fifo), files.write_bytes(fifo, data))
        assert found == [data, len(data)]

    asyncio.run(asyncio.wait_for(main(), 60))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes")
def test_write_bytes_when_atomic_on_what_is_no_regular_file_then_it_stays_what_it_is(
    do: Both, tmp_path: Path
) -> None:
    """A file replaced a FIFO or a device, even /dev/null if permitted."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    try:
        for name in ("fifo", "link"):
            assert do.write_bytes(tmp_path / name, b"data", atomic=True) == 4
            assert os.read(reader, 10) == b"data"
    finally:
        os.close(reader)
    assert sorted(os.listdir(tmp_path)) == ["fifo", "link"]
    assert stat.S_ISFIFO(os.stat(tmp_path / "fifo").st_mode)


@pytest.mark.parametrize("path", [0, bytearray(b"x"), memoryview(b"x"), None, 1.5])
def test_path_when_it_is_none_then_the_exception_of_pathlib(
    do: Both, tmp_path: Path, path: Any, recwarn: pytest.WarningsRecorder
) -> None:
    """sync.read_bytes(0) read the standard input, and closed it."""
    (tmp_path / "file").write_bytes(b"content")
    for call in (
        lambda: do.read_bytes(path), lambda: do.read_text(path), lambda: do.read_many([path]),
        lambda: do.read_many([(path, 0, 1)]) if path != 0 else do.read_many([path]),
        lambda: do.write_bytes(path, b""), lambda: do.copy_file(path, tmp_path / "copy"),
        lambda: do.copy_file(tmp_path / "file", path), lambda: do.copy_tree(path, tmp_path / "copy"),
    ):  # fmt: skip
        with pytest.raises(TypeError):
            call()
    os.fstat(0)
    assert not recwarn.list
    assert os.listdir(tmp_path) == ["file"]


def test_read_when_it_takes_several_requests_then_the_whole_content(
    do: Both, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One request read up to 2 GiB, and a cancelled task waited for all of it."""
    monkeypatch.setattr(filebatch, "REQUEST_MAX", 100_000)
    monkeypatch.setattr(filebatch, "read_now", lambda *args: None)
    monkeypatch.setattr(fileops, "fetch_now", lambda *args: None)
    lengths = []
    read_op = fileops.read_op

    def watched(fd: int, views: Any, *rest: Any) -> Any:
        lengths.append(sum(map(len, views)))
        return read_op(fd, views, *rest)

    monkeypatch.setattr(filebatch, "read_op", watched)
    data = bytes(range(251)) * 4000
    path = tmp_path / "file"
    path.write_bytes(data)
    assert do.read_many([path, (path, 5, 700_000)]) == [data, data[5:700_005]]
    assert max(lengths) == 100_000
    if do.asynchronous:

        async def main() -> None:
            async with files.open(path, "rb") as file:
                assert await file.read() == data
                assert await file.read_at(10, 5) == data[5:15]

        asyncio.run(main())


def swapped(directory: Path, outside: Path) -> None:
    """Replace a directory with a link to another directory."""
    directory.rename(directory.with_name(f"{directory.name}-moved"))
    directory.symlink_to(outside)


@pytest.mark.skipif(not LINUX, reason="Linux only")
def test_remove_tree_when_a_directory_becomes_a_link_meanwhile_then_it_is_not_followed(
    do: Both, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    for each in (outside, tmp_path / "top" / "a" / "c", tmp_path / "top" / "b" / "c"):
        each.mkdir(parents=True)
        (each / "file").write_bytes(b"keep")
    fwalk, swaps = os.fwalk, []

    def walking(*args: Any, **kwargs: Any) -> Iterator[Any]:
        for each in fwalk(*args, **kwargs):
            if not swaps:  # the other one is a link by its turn
                swaps.append(tmp_path / "top" / ("b" if "/a" in os.fspath(each[0]) else "a"))
                swapped(swaps[0], outside)
            yield each

    monkeypatch.setattr(os, "fwalk", walking)
    with contextlib.suppress(OSError):  # the moved directory makes the last rmdir() fail
        do.remove_tree(tmp_path / "top")
    assert swaps and not os.path.lexists(swaps[0])
    assert (outside / "file").read_bytes() == b"keep"


@pytest.mark.skipif(not LINUX, reason="Linux only")
def test_walk_when_a_directory_becomes_a_link_meanwhile_then_it_is_not_followed(
    do: Both, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """os.walk() also checks before it enters a directory."""
    outside = tmp_path / "outside"
    (outside / "secret").mkdir(parents=True)
    (tmp_path / "top" / "a").mkdir(parents=True)
    (tmp_path / "link").symlink_to("top")
    listing = filebatch.list_directory

    def list_and_swap(path: Any, *rest: Any) -> Any:
        entries = listing(path, *rest)
        if not (tmp_path / "top" / "a").is_symlink():
            swapped(tmp_path / "top" / "a", outside)
        return entries

    monkeypatch.setattr(filebatch, "list_directory", list_and_swap)
    found = do.walk(tmp_path / "link")
    assert [directory for directory, _ in found] == [str(tmp_path / "link")]
