# SPDX-License-Identifier: MIT
"""Random operations on file objects and batches, cancelled, killed with their loop, and at resource limits.

What it is: Storm; tests/test_fileobjects_random.py runs it briefly, and tools/soak.py for a long time. As a
program it also fills a disk (a small private tmpfs), lowers RLIMIT_FSIZE and RLIMIT_NOFILE, and prints its
figures; exit code 77 means that a limit cannot be set here.
Must not know: how file objects work, except the two functions that read the page cache.
Invariant: all choices come from the seed. A model holds the expected contents of each file, byte by byte:
it has accepted data in order and once; of cancelled or rejected data a prefix, as tell() reports.
Read next: test_fileobjects_random.py.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import gc
import os
import random
import sys
import tempfile
import time
import warnings
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rawuring import buffers, fileobjects, fileops, files

#: The effect of each limit on an operation.
ERRNOS = {"space": {errno.ENOSPC}, "size": {errno.EFBIG}, "files": {errno.EMFILE}}
LINES = "".join(f"{'é€x'[at % 3] * (at * 37 % 90)} {at}\n" for at in range(3000))


class Cache:
    """The page cache at random: it contains all, nothing, or a part."""

    def __init__(self, chance: random.Random) -> None:
        self.random = chance

    def __enter__(self) -> None:
        self.read, self.write = fileops.read_now, fileops.write_now
        fileops.read_now = files.read_now = self.read_now
        fileops.write_now = files.write_now = self.write_now

    def __exit__(self, *exception: object) -> None:
        fileops.read_now = files.read_now = self.read
        fileops.write_now = files.write_now = self.write

    def read_now(self, fd: int, views: Any, offset: int, want: int) -> int | None:
        chance = self.random.random()
        if chance < 0.5:
            return None
        if chance < 0.6 and len(views) == 1 and want > 1:
            want = self.random.randrange(1, want)
            views = (memoryview(views[0]).cast("B")[:want],)
        return self.read(fd, views, offset, want)

    def write_now(self, fd: int, views: Any, offset: int) -> int | None:
        chance = self.random.random()
        if chance < 0.5:
            return None
        if chance < 0.6 and len(views) == 1 and len(views[0]) > 1:
            views = (memoryview(views[0]).cast("B")[: self.random.randrange(1, len(views[0]))],)
        return self.write(fd, views, offset)


class Limits:
    """One limit of the process, in force or not."""

    def __init__(self, kinds: tuple[str, ...], folder: Path, chance: random.Random) -> None:
        self.kinds, self.folder, self.random = kinds, folder, chance
        self.kind = ""

    def set(self, kind: str = "", descriptors: int | None = None) -> None:
        """Put one of the limits in force, at a value that is soon reached."""
        if not self.kinds or self.kind:
            return
        self.kind = kind or self.random.choice(self.kinds)
        if self.kind == "space":
            self.fill()
        else:
            import resource

            which, value = resource.RLIMIT_FSIZE, self.random.choice([0, 1000, 9000, 50_000])
            if self.kind == "files":
                which = resource.RLIMIT_NOFILE
                with open(os.devnull) as file:
                    more = self.random.randrange(3) if descriptors is None else descriptors
                    value = file.fileno() + more
            resource.setrlimit(which, (value, resource.getrlimit(which)[1]))

    def fill(self) -> None:
        """Leave at most a few blocks free on the device."""
        with open(self.folder / "filler", "wb", buffering=0) as file:
            free = os.statvfs(self.folder)
            left = free.f_bavail * free.f_frsize - self.random.randrange(4) * 4096
            with contextlib.suppress(OSError):
                os.posix_fallocate(file.fileno(), 0, max(left, 1))

    def lift(self) -> None:
        """Remove the limit."""
        if self.kind == "space":
            os.unlink(self.folder / "filler")
        elif self.kind:
            import resource

            for which in (resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE):
                resource.setrlimit(which, (resource.getrlimit(which)[1],) * 2)
        self.kind = ""


def until(condition: Callable[[], bool], otherwise: str) -> None:
    """Collect forgotten objects until a condition holds: a thread may still refer to them."""
    for _ in range(600):
        gc.collect()
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(otherwise)


def descriptors() -> list[str]:
    """Return the open files, except the one that libffi opens for its first callback and keeps."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of listdir() itself
            found.append(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
    return sorted(each for each in found if "libffi" not in each)


def fits(content: bytes, pieces: list[tuple[bytes, bool]]) -> bool:
    """Tell whether content is the pieces in order; of those that are marked, a prefix."""
    places = {0}
    for data, whole in pieces:
        after = set()
        for place in places:
            if content.startswith(data, place):
                same, more = len(data), 0
            else:
                same, more = 0, len(data)
            while more:
                more //= 2
                while content.startswith(data[: same + more], place) and more:
                    same += more
            if not whole:
                after.update(range(place, place + same + 1))
            elif same == len(data):
                after.add(place + same)
        places = after
    return len(content) in places


class Storm:
    """The operations on one loop after the other, and the contents that must remain."""

    def __init__(self, seed: int, folder: Path, kinds: tuple[str, ...]) -> None:
        self.random = random.Random(seed)
        self.folder = folder
        self.limits = Limits(kinds, folder, self.random)
        self.figures: Counter[str] = Counter()
        self.lines = folder / "lines"
        self.lines.write_bytes(LINES.encode())
        self.small = [folder / f"small{at}" for at in range(30)]
        for at, path in enumerate(self.small):
            path.write_bytes(bytes([at]) * at * 50)
        #: Files that were forgotten with their loop: path, and the required content.
        self.forgotten: list[tuple[Path, list[tuple[bytes, bool]], tuple[str, int, bool]]] = []
        self.held: list[Any] = []
        self.raws: list[weakref.ref[Any]] = []
        self.complaints: list[str] = []
        self.number = 0

    def data(self) -> bytes:
        """Make bytes that do not repeat."""
        self.number += 1
        n = self.random.choice([1, 10, 100, 1000, 3000, 9000, 40_000])
        return (b"%d," % self.number * (n // 2 + 1))[:n]

    def path(self) -> Path:
        self.number += 1
        return self.folder / f"file{self.number}"

    def content(self, path: Path) -> bytes:
        """Read a file, which needs a descriptor."""
        self.limits.lift()
        return path.read_bytes()

    async def attempt(self, make: Callable[[], Awaitable[Any]], cancel: float = 0.3) -> tuple[str, Any]:
        """Do something, and perhaps cancel it; return "done", "cancelled" or "failed", and the result."""
        task = make()
        self.figures["operations"] += 1
        if cancel and self.random.random() < cancel:
            task = asyncio.ensure_future(task)
            for _ in range(self.random.randrange(8)):
                await asyncio.sleep(0)
            if self.random.random() < 0.3:
                await asyncio.sleep(0.0003)
            task.cancel()
        try:
            return "done", await task
        except asyncio.CancelledError:
            self.figures["cancelled"] += 1
            return "cancelled", None
        except OSError as error:
            if error.errno not in set().union(*(ERRNOS[kind] for kind in self.limits.kinds)):
                raise
            self.figures[errno.errorcode[error.errno or 0]] += 1
            return "failed", None

    async def surely(self, make: Callable[[], Awaitable[Any]]) -> Any:
        """Do something without limits; another task may set one meanwhile."""
        while True:
            self.limits.lift()
            found, result = await self.attempt(make, 0)
            if found == "done":
                return result

    async def close(self, file: Any) -> str:
        """Close a file: it is closed whatever happens, unless the task was cancelled before it began."""
        begun = False

        async def close() -> None:
            nonlocal begun
            begun = True
            await file.close()

        found, _ = await self.attempt(close)
        if not begun:
            found, _ = await self.attempt(close, 0)
        assert file.closed
        return found

    # The operations

    async def writes(self, mode: str, buffering: int, text: bool, kill: bool) -> None:
        """Write one piece after the other; tell() reports how much of a cancelled one was written."""
        path, encoding = self.path(), "utf-8" if text else None
        file = await self.surely(lambda: files.open(path, mode, buffering, encoding))
        truth = b""
        for _ in range(self.random.randrange(1, 30)):
            if self.random.random() < 0.2:
                self.limits.set()
            data = self.data()
            given = data.decode() if text else data
            found, _ = await self.attempt(lambda given=given: file.write(given))
            if found == "done" and buffering:
                truth += data
            else:
                end = await self.surely(file.tell)
                put = end - len(truth)
                assert 0 <= put <= len(data), (mode, buffering, found, put, len(data))
                truth += data[:put]
            if self.random.random() < 0.1:
                await self.attempt(self.random.choice([file.flush, file.fsync, file.tell]))
        if kill:
            pieces = [(truth, True)]
            for data in [self.data() for _ in range(self.random.randrange(3))]:
                self.held.append(asyncio.ensure_future(file.write(data.decode() if text else data)))
                pieces.append((data, False))
            self.forgotten.append((path, pieces, (mode, buffering, text)))
            self.held.append(file)
            self.raws.append(weakref.ref(file.wrapped.raw))
            await asyncio.sleep(0)
            return
        flushed = self.random.random() < 0.5
        if flushed:
            await self.surely(file.flush)
        found = await self.close(file)
        content = self.content(path)
        # A cancelled close raises CancelledError, not the error of the limit.
        whole = flushed or found == "done" or (found == "cancelled" and not self.limits.kinds)
        assert fits(content, [(truth, whole)]), (mode, buffering, found, len(content), len(truth))
        self.figures["bytes"] += len(content)
        path.unlink()

    async def burst(self) -> None:
        """Write and read concurrently: operations run in order, and those that did not begin do nothing."""
        path = self.path()
        file = await self.surely(lambda: files.open(path, "w+b", self.random.choice([-1, 16, 3000])))
        blocks = [self.data() for _ in range(20)]
        tasks = [asyncio.ensure_future(file.write(block)) for block in blocks]
        for _ in range(self.random.randrange(5)):
            await asyncio.sleep(0)
        for task in self.random.sample(tasks, self.random.randrange(6)):
            task.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        allowed = set().union(*(ERRNOS[kind] for kind in self.limits.kinds))
        for each in found:
            known = isinstance(each, OSError) and each.errno in allowed
            assert known or isinstance(each, (int, asyncio.CancelledError)), repr(each)
        await self.surely(file.flush)
        content = self.content(path)
        pieces = [(block, isinstance(each, int)) for block, each in zip(blocks, found)]
        assert fits(content, pieces), [(len(block), repr(each)) for block, each in zip(blocks, found)]
        await self.surely(lambda: file.seek(0))
        reads = [asyncio.ensure_future(file.read(self.random.randrange(2000))) for _ in range(20)]
        for _ in range(self.random.randrange(5)):
            await asyncio.sleep(0)
        for task in self.random.sample(reads, self.random.randrange(6)):
            task.cancel()
        parts = await asyncio.gather(*reads, return_exceptions=True)
        data = b"".join(part for part in parts if isinstance(part, bytes))
        assert content.startswith(data), "the bytes read are not the ones that follow"
        assert await file.read() == content[len(data) :]
        self.figures["bytes"] += 2 * len(content)
        await self.surely(file.close)
        path.unlink()

    async def updates(self, buffering: int) -> None:
        """Read and write one file at random; a cancelled operation leaves the position unchanged."""
        path = self.path()
        file = await self.surely(lambda: files.open(path, "w+b", buffering))
        truth, here, found = bytearray(), 0, ""
        log: list[Any] = []
        for _ in range(self.random.randrange(1, 60)):
            if self.random.random() < 0.1:
                self.limits.set()
            act = self.random.choice(["read", "read", "readline", "write", "write", "seek", "truncate", "at"])
            if act in ("read", "readline"):
                n = self.random.choice([1, 10, 500, 9000])
                found, got = await self.attempt(lambda act=act, n=n: getattr(file, act)(n))
                if found == "done":
                    end = bytes(truth).find(b"\n", here) + 1 if act == "readline" else 0
                    want = bytes(truth[here : here + n if not end else min(end, here + n)])
                    assert got == want or (not buffering and want.startswith(got)), (act, here, n)
                    here += len(got)
            elif act == "write":
                data = self.data()
                found, _ = await self.attempt(lambda data=data: file.write(data))
                end = await self.surely(file.tell)
                assert 0 <= end - here <= len(data), (found, here, end, len(data))
                if end > here:
                    truth += bytes(max(here - len(truth), 0))
                    truth[here:end] = data[: end - here]
                here = end
            elif act == "seek":
                there = self.random.randrange(len(truth) + 100)
                if (await self.attempt(lambda there=there: file.seek(there)))[0] == "done":
                    here = there
            elif act == "truncate":
                await self.surely(file.flush)
                size = self.random.randrange(len(truth) + 100)
                await self.attempt(lambda size=size: file.truncate(size))
                await self.surely(file.flush)
                now = os.path.getsize(path)
                assert now in (size, len(truth)), (now, size, len(truth))
                truth = truth[:now] + bytes(max(now - len(truth), 0))
            else:
                await self.surely(file.flush)
                at, data = self.random.randrange(len(truth) + 1), self.data()
                await self.surely(lambda at=at, data=data: file.write_at(data, at))
                truth[at : at + len(data)] = data
                n = len(data)
                assert await self.surely(lambda at=at, n=n: file.read_at(n, at)) == data
                here = await self.surely(lambda here=here: file.seek(here))
            log.append((act, found, here))
            now = await self.surely(file.tell)
            assert now == here, (buffering, now, log[-5:])
        await self.surely(file.flush)
        assert self.content(path) == truth
        self.figures["bytes"] += len(truth)
        await self.surely(file.close)
        path.unlink()

    async def reads(self) -> None:
        """Read text; a cancelled operation reads nothing, and tell() gives a position to return to."""
        buffering = self.random.choice([-1, 100, 5000])
        file = await self.surely(
            lambda: files.open(self.lines, "r", buffering, "utf-8", newline=self.random.choice([None, ""]))
        )
        file._chunk = self.random.choice([1 << 16, 1000, 10_000])
        here, tells, cookies = 0, True, [(0, 0)]
        for _ in range(self.random.randrange(1, 60)):
            act = self.random.choice(["read", "readline", "readlines", "__anext__", "tell", "seek"])
            if act == "seek":
                cookie, there = self.random.choice(cookies)
                if (await self.attempt(lambda cookie=cookie: file.seek(cookie)))[0] == "done":
                    here, tells = there, True
                else:  # the decoder may be anywhere
                    await self.surely(lambda cookie=cookie: file.seek(cookie))
                    here, tells = there, True
                continue
            if act == "tell":
                if tells:
                    cookies.append((await self.surely(file.tell), here))
                continue
            arguments = () if act == "__anext__" else (self.random.choice([1, 30, 1000, 50_000]),)
            if act in ("__anext__", "readlines"):
                if here == len(LINES):
                    continue
                tells = False
            found, got = await self.attempt(lambda act=act, args=arguments: getattr(file, act)(*args))
            if found == "done":
                text = "".join(got)
                assert LINES.startswith(text, here), (act, here, arguments)
                assert text or here == len(LINES), (act, here)
                if act == "read":
                    assert len(text) == min(arguments[0], len(LINES) - here)
                here += len(text)
        rest = await self.surely(file.read)
        assert rest == LINES[here:], (here, len(rest))
        self.figures["bytes"] += len(rest)
        await self.close(file)

    async def batches(self) -> None:
        """Read many files, replace one and copy a tree, all at the limits."""
        self.limits.lift()
        self.limits.set()
        depth = self.random.randrange(1, 20)
        found, got = await self.attempt(lambda: files.read_many(self.small, depth=depth))
        assert found != "done" or got == [bytes([at]) * at * 50 for at in range(30)]
        path, old, new = self.path(), self.data(), self.data()
        await self.surely(lambda: files.write_bytes(path, old))
        found, _ = await self.attempt(lambda: files.write_bytes(path, new, atomic=True))
        content = self.content(path) if found == "done" else await self.surely(lambda: files.read_bytes(path))
        assert content == new or (content == old and found != "done"), "neither the old content nor the new"
        self.figures["bytes"] += len(content)
        path.unlink()

    # All of them

    async def run(self, operations: int, kill: bool) -> None:
        """Do at least so many operations, five at a time; leave some of them to the end of the loop."""
        before = self.figures["operations"]

        async def one() -> None:
            while self.figures["operations"] - before < operations:
                await self.random.choice([
                    lambda: self.writes(*self.random.choice(WAYS), kill=False), self.burst, self.reads,
                    lambda: self.updates(self.random.choice([-1, 0, 16, 3000])), self.batches,
                ])()  # fmt: skip

        files._ring()  # it needs a descriptor
        if "files" in self.limits.kinds:  # at least once none is left, and nobody lifts the limit meanwhile
            self.limits.set("files", 0)
            assert await self.attempt(lambda: files.read_many(self.small), 0) == ("failed", None)
            self.limits.lift()
        await asyncio.gather(*(one() for _ in range(5)))
        politely = self.random.random() < 0.5
        for _ in range(6 * kill):
            await self.writes(*self.random.choice([way for way in WAYS if way[1]]), kill=True)
        self.limits.lift()
        if kill and politely:  # as asyncio.run() does
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def complain(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Record the loop's complaints, except those about killed tasks."""
        refused = isinstance(context.get("exception"), OSError) and self.limits.kinds
        if "Task was destroyed" not in context["message"] and not refused:
            self.complaints.append(str(context))

    def _complete(self, path: Path, pieces: list[tuple[bytes, bool]]) -> bool:
        return fits(self.content(path), pieces)

    def look_at_the_forgotten(self) -> None:
        """Check the files that the end of the loop left, once nothing refers to them."""
        until(lambda: not any(raw() for raw in self.raws), "unreferenced files are kept")
        self.raws.clear()
        for path, pieces, how in self.forgotten:
            if sys.implementation.name == "pypy":  # it clears weak references before it finalizes
                until(partial(self._complete, path, pieces), f"{how}: bytes are lost")
            content = self.content(path)
            lengths = [(len(data), whole) for data, whole in pieces]
            assert fits(content, pieces), (how, len(content), lengths)
            self.figures["bytes"] += len(content)
            self.figures["forgotten"] += 1
            path.unlink()
        self.forgotten.clear()
        assert not self.complaints, self.complaints


#: Mode, buffering, and whether it is text.
WAYS = [("wb", -1, False), ("wb", 0, False), ("xb", 16, False), ("ab", -1, False), ("ab", 0, False),
        ("ab", 3000, False), ("w+b", 100, False), ("w", -1, True), ("a", 3000, True),
        ("x+", 16, True)]  # fmt: skip


@contextlib.contextmanager
def by_threads(wanted: bool) -> Iterator[None]:
    """Remove the ring."""
    ring = files._ring
    if wanted:
        files._ring = lambda: None
    try:
        yield
    finally:
        files._ring = ring


def run_storm(
    make_loop: Callable[[], asyncio.AbstractEventLoop], seed: int, operations: int, folder: Path,
    kinds: tuple[str, ...] = (), threads: bool = False, kills: int = 3,
) -> Counter[str]:  # fmt: skip
    """Run a storm on one loop after the other, each of which is killed during operations."""
    storm = Storm(seed, folder, kinds)
    try:
        with by_threads(threads), Cache(storm.random), warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # of forgotten files
            for _ in range(kills):
                loop = make_loop()
                loop.set_exception_handler(storm.complain)
                try:
                    loop.run_until_complete(storm.run(operations // kills, True))
                finally:
                    storm.limits.lift()
                    loop.close()
                    asyncio.set_event_loop(None)
                    storm.held.clear()
                    del loop
                storm.look_at_the_forgotten()
                storm.figures["kills"] += 1
    finally:
        storm.limits.lift()
    return storm.figures


@contextlib.contextmanager
def mounted(folder: Path) -> Iterator[None]:
    """Mount a small tmpfs for this process only."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x20000) or libc.mount(None, b"/", None, 0x44000, None):
        sys.exit(77)
    if libc.mount(b"none", os.fsencode(folder), b"tmpfs", 0, b"size=4m"):
        sys.exit(77)
    try:
        yield
    finally:
        libc.umount2(os.fsencode(folder), 2)


def main() -> int:
    """Run storms at the limits for a while; raise an exception on a fault."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0, help="continue with the next seeds for so long")
    parser.add_argument("--operations", type=int, default=1500)
    parser.add_argument("--loop", choices=("stock", "uvloop", "rawuring"), default="stock")
    parser.add_argument("--threads", action="store_true", help="run without the ring")
    parser.add_argument("--limits", nargs="*", choices=sorted(ERRNOS), default=[])
    options = parser.parse_args()
    make: Any = asyncio.SelectorEventLoop
    if options.loop == "uvloop":
        import uvloop

        make = uvloop.new_event_loop
    elif options.loop == "rawuring":
        from rawuring import aio

        make = aio.new_event_loop
    make().close()  # opens the descriptors that the process keeps
    assert buffers.allocate and fileobjects.File  # imported before descriptors become scarce
    figures: Counter[str] = Counter()
    end, seed = time.monotonic() + options.seconds, options.seed
    with tempfile.TemporaryDirectory(prefix="rawuring-storm-") as top:
        folder = Path(top)
        with mounted(folder) if "space" in options.limits else contextlib.nullcontext():
            before = descriptors()
            while seed == options.seed or time.monotonic() < end:
                place = folder / str(seed)
                place.mkdir()
                if options.seconds:
                    print(f"seed {seed}", file=sys.stderr, flush=True)
                kinds = tuple(options.limits)
                figures += run_storm(make, seed, options.operations, place, kinds, options.threads)
                names = ["lines", *(f"small{at}" for at in range(30))]
                assert sorted(os.listdir(place)) == sorted(names), "files are left"
                files.sync.remove_tree(place)
                seed += 1
            until(lambda: descriptors() == before, "descriptors are left")
    print(" ".join(f"{name} {number}" for name, number in sorted(figures.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
