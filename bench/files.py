# SPDX-License-Identifier: MIT
"""Files: rawuring.files beside plain blocking calls, thread pools, aiofiles, anyio, caio, urio and turbofile.

    python3 bench/files.py [--quick] [--loop stock|uvloop|rawuring] [--python PATH] [--json FILE] [...]
    python3 bench/files.py --write docs/files.md         the table there, from the stored results

Every system runs a workload once, then the next one, then all again: read the ratios. The first is the plain
blocking loop. malloc is the same for all (the process restarts itself with PINNED). "Cold" means that the
page cache and the dentries were dropped before (root only; otherwise the workload is left out). Systems that
are not installed are left out; C with liburing is compiled as in run.py. A very slow system does less work,
and its time is scaled up. Results are stored as by run.py.
"""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import contextlib
import json
import os
import random
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, os.environ.get("RAWURING_ROOT") or str(Path(__file__).resolve().parent.parent))

from readme_table import write_between
from run import C, System, compile_oracle, machine, versions

from rawuring import files

PINNED = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(64 << 20)}
SMALL, TREE, COPIED, HOT, LINES = 2000, 20_000, 2000, 3000, 600_000
#: workload -> system -> a function that does it once, and may return the seconds that it took.
WORKLOADS: dict[str, dict[str, Callable[[], Any]]] = {}
COLD: set[str] = set()
#: The workloads that start with an empty place.out.
WRITING: set[str] = set()
#: The factor for the time of a system that does less work than the others.
FACTORS: dict[tuple[str, str], int] = {}
HERE = Path(__file__).resolve().parent
LATE = "a timer of 1 ms while 200 tasks read hot data, late by"


class Place:
    """The files to read and write."""

    def __init__(self, parent: str | None, scale: int) -> None:
        self.top = Path(tempfile.mkdtemp(prefix="rawuring-bench-", dir=parent))
        (self.top / "small").mkdir()
        self.small = [str(self.top / "small" / f"{at}") for at in range(SMALL // scale)]
        for at, path in enumerate(self.small):
            Path(path).write_bytes(random.randbytes(1000 + (at * 7919) % 15000))
        self.hot = os.open(self.small[5], os.O_RDONLY)
        self.tree = self.top / "tree"
        for at in range(TREE // scale):
            directory = self.tree / f"{at // 100}"
            directory.mkdir(parents=True, exist_ok=True)
            (directory / f"{at}").write_bytes(b"x" * (at % 4096))
        self.part = self.top / "part"
        for at in range(COPIED // scale):
            directory = self.part / f"{at // 100}"
            directory.mkdir(parents=True, exist_ok=True)
            (directory / f"{at}").write_bytes(b"x" * (at % 4096))
        self.lines, self.few_lines = str(self.top / "lines"), str(self.top / "few lines")
        for path, n in ((self.lines, LINES // scale), (self.few_lines, LINES // scale // 100)):
            with open(path, "w") as text:
                text.writelines(f"{at:08} {'x' * (at * 7919 % 150)}\n" for at in range(n))
        self.out = self.top / "out"
        self.out.mkdir()
        self.big = str(self.top / "big")
        with open(self.big, "wb") as file:
            for _ in range(max(1, 64 // scale)):
                file.write(random.randbytes(1 << 20))
        self.scale = scale

    def clear(self) -> None:
        """Remove the written files, on the device too, so that the next writes do not wait for it."""
        shutil.rmtree(self.out)
        self.out.mkdir()
        os.sync()

    def close(self) -> None:
        os.close(self.hot)
        shutil.rmtree(self.top)


def system(
    workload: str, name: str, cold: bool = False, factor: int = 1, writes: bool = False
) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    def note(run: Callable[[], Any]) -> Callable[[], Any]:
        FACTORS[workload, name] = factor
        WORKLOADS.setdefault(workload, {})[name] = run
        if cold:
            COLD.add(workload)
        if writes:
            WRITING.add(workload)
        return run

    return note


#: urio and turbofile exist for Python 3.12 and newer.
PEERS = ("aiofiles", "anyio", "caio", "urio", "turbofile")


def peer(name: str) -> Any:
    with contextlib.suppress(ImportError):
        return __import__(name)
    return None


def caio_context(caio: Any) -> Callable[[], Any]:
    """Return a function that gives caio's context of the running loop."""
    contexts: dict[Any, Any] = {}

    def context() -> Any:
        loop = asyncio.get_running_loop()
        if loop not in contexts:
            for each in contexts.values():
                each.close()
            contexts.clear()
            contexts[loop] = caio.AsyncioContext(max_requests=512)
        return contexts[loop]

    return context


def positional(path: str) -> dict[str, Callable[[], Any]]:
    """Return, by system, a context manager that opens a file and yields a function reading (n, offset)."""
    _, _, caio, urio, turbofile = map(peer, PEERS)
    found: dict[str, Callable[[], Any]] = {}
    if caio is not None:
        context = caio_context(caio)

        @contextlib.asynccontextmanager
        async def by_caio() -> Any:
            with open(path, "rb", buffering=0) as file:
                fd = file.fileno()
                yield lambda n, offset: context().read(n, fd, offset)

        found["caio (opens plainly)"] = by_caio
    if urio is not None:

        @contextlib.asynccontextmanager
        async def by_urio() -> Any:
            async with urio.open(path, "rb") as file:

                async def one(n: int, offset: int) -> Any:
                    await file.seek(offset)
                    return await file.read(n)

                yield one

        found["urio (seek and read)"] = by_urio
    if turbofile is not None:

        @contextlib.asynccontextmanager
        async def by_turbofile() -> Any:
            async with turbofile.open(path, "rb") as file:
                yield lambda n, offset: file.read_at(offset, n)

        found["turbofile"] = by_turbofile
    return found


def writers() -> dict[str, Callable[[str, bytes, bool], Any]]:
    """Return a function that writes a whole file, by system."""
    aiofiles, _, caio, urio, turbofile = map(peer, PEERS)
    found: dict[str, Callable[[str, bytes, bool], Any]] = {}

    async def thread(path: str, data: bytes, sync: bool) -> None:
        await asyncio.to_thread(plain_write, path, data, sync)

    found["to_thread"] = thread

    async def alike(module: Any, path: str, data: bytes, sync: bool) -> None:
        async with module.open(path, "wb") as file:
            await file.write(data)
            if sync:
                await file.flush()
                await asyncio.to_thread(os.fsync, file.fileno())

    if aiofiles is not None:
        found["aiofiles"] = partial(alike, aiofiles)
    if caio is not None:
        context = caio_context(caio)

        async def by_caio(path: str, data: bytes, sync: bool) -> None:
            with open(path, "wb", buffering=0) as file:
                await context().write(data, file.fileno(), 0)
                if sync:
                    await context().fsync(file.fileno())

        found["caio (opens plainly)"] = by_caio
    if urio is not None:
        found["urio"] = partial(alike, urio)
    if turbofile is not None:

        async def by_turbofile(path: str, data: bytes, sync: bool) -> None:
            if not sync:
                await turbofile.write_bytes(path, data)
                return
            async with turbofile.open(path, "wb") as file:
                await file.write(data)
                await file.flush()
                await asyncio.to_thread(os.fsync, await file.fileno())

        found["turbofile"] = by_turbofile
    return found


async def at_a_time(count: int, work: list[Any], one: Callable[[Any], Any]) -> None:
    """Let count tasks share the work."""
    left = iter(work)

    async def worker() -> None:
        for each in left:
            await one(each)

    await asyncio.gather(*[worker() for _ in range(count)])


def plain_read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read()


def plain_write(path: str, data: bytes, sync: bool) -> None:
    with open(path, "wb", buffering=0) as file:
        file.write(data)
        if sync:
            os.fsync(file.fileno())


def readers() -> dict[str, Callable[[str], Any]]:
    """Return a function that reads a whole file, by system."""
    aiofiles, anyio, caio, urio, turbofile = map(peer, PEERS)

    async def thread(path: str) -> Any:
        return await asyncio.to_thread(plain_read, path)

    found: dict[str, Callable[[str], Any]] = {"to_thread": thread}
    if aiofiles is not None:

        async def by_aiofiles(path: str) -> Any:
            async with aiofiles.open(path, "rb") as file:
                return await file.read()

        found["aiofiles"] = by_aiofiles
    if anyio is not None:

        async def by_anyio(path: str) -> Any:
            return await anyio.Path(path).read_bytes()

        found["anyio"] = by_anyio
    if caio is not None:
        context = caio_context(caio)

        async def by_caio(path: str) -> Any:
            # caio neither opens nor closes: these are plain calls, which block the loop.
            with open(path, "rb", buffering=0) as file:
                return await context().read(os.fstat(file.fileno()).st_size, file.fileno(), 0)

        found["caio (opens plainly)"] = by_caio
    if urio is not None:

        async def by_urio(path: str) -> Any:
            return await urio.Path(path).read_bytes()

        found["urio"] = by_urio
    if turbofile is not None:
        found["turbofile"] = turbofile.read_bytes
    return found


def add_all(place: Place, running: list[Any]) -> None:
    """Register every workload and system; running collects the programs to stop."""
    oracle = compile_oracle(place.top)
    hot, small, scale = place.hot, place.small, place.scale
    count = HOT // scale
    pool = concurrent.futures.ThreadPoolExecutor(8)
    whole = readers()

    data = random.randbytes(4096)

    name = "one hot 4 KiB pread after another"

    @system(name, "plain")
    def _() -> None:
        for _ in range(count):
            os.pread(hot, 4096, 0)

    @system(name, "files")
    async def _() -> None:
        for _ in range(count):
            await files.pread(hot, 4096, 0)

    @system(name, "a coroutine around preadv2")
    async def _() -> None:
        async def read() -> bytes:
            memory = bytearray(4096)
            os.preadv(hot, (memory,), 0, os.RWF_NOWAIT)
            return bytes(memory)

        for _ in range(count):
            await read()

    @system(name, "to_thread", factor=10)
    async def _() -> None:
        for _ in range(count // 10):
            await asyncio.to_thread(os.pread, hot, 4096, 0)

    name = "the same, 32 tasks"
    WORKLOADS[name] = {"plain": WORKLOADS["one hot 4 KiB pread after another"]["plain"]}

    @system(name, "files")
    async def _() -> None:
        await at_a_time(32, list(range(count)), lambda _: files.pread(hot, 4096, 0))

    @system(name, "to_thread", factor=10)
    async def _() -> None:
        await at_a_time(32, list(range(count // 10)), lambda _: asyncio.to_thread(os.pread, hot, 4096, 0))

    for other, read_at in positional(place.small[5]).items():
        for name, width in (("one hot 4 KiB pread after another", 1), ("the same, 32 tasks", 32)):

            @system(name, other)
            async def _(width: int = width, read_at: Any = read_at) -> None:
                async with read_at() as one:
                    await at_a_time(width, list(range(count)), lambda _: one(4096, 0))

    for cold in (False, True):
        for width in (1, 64):
            name = f"{len(small)} small files whole, {'cold' if cold else 'hot'}, {width} at a time"

            @system(name, "plain", cold)
            def _() -> None:
                for path in small:
                    plain_read(path)

            @system(name, "files.read_bytes", cold)
            async def _(width: int = width) -> None:
                await at_a_time(width, small, files.read_bytes)

            if width > 1:

                @system(name, "files.read_many", cold)
                async def _(width: int = width) -> None:
                    await files.read_many(small, depth=width)

                @system(name, "files.sync.read_many", cold)
                def _(width: int = width) -> None:
                    files.sync.read_many(small, depth=width)

                @system(name, "a pool of 8 threads", cold)
                def _() -> None:
                    list(pool.map(plain_read, small))

            for other, read in whole.items():

                @system(name, other, cold)
                async def _(width: int = width, read: Any = read) -> None:
                    await at_a_time(width, small, read)

    for sync in (False, True):
        name = f"small files written, 64 at a time{', with fsync' if sync else ''}"
        name = f"{len(small)} {name}"
        given = list(range(len(small)))

        @system(name, "plain", writes=True)
        def _(given: list[int] = given, sync: bool = sync) -> None:
            out = place.out
            for at in given:
                plain_write(f"{out}/{at}", data, sync)

        @system(name, "files.write_bytes")
        async def _(given: list[int] = given, sync: bool = sync) -> None:
            out = place.out
            await at_a_time(64, given, lambda at: files.write_bytes(f"{out}/{at}", data, sync=sync))

        @system(name, "files.sync.write_bytes")
        def _(given: list[int] = given, sync: bool = sync) -> None:
            out = place.out
            for at in given:
                files.sync.write_bytes(f"{out}/{at}", data, sync=sync)

        for other, write in writers().items():

            @system(name, other)
            async def _(given: list[int] = given, sync: bool = sync, write: Any = write) -> None:
                await at_a_time(64, given, lambda at: write(f"{place.out}/{at}", data, sync))

    for cold in (False, True):
        name = f"stat of {len(small)} files, {'cold' if cold else 'hot'}"

        @system(name, "plain", cold)
        def _() -> None:
            for path in small:
                os.stat(path)

        @system(name, "files.stat_many", cold)
        async def _() -> None:
            await files.stat_many(small)

        @system(name, "files.sync.stat_many", cold)
        def _() -> None:
            files.sync.stat_many(small)

        @system(name, "a pool of 8 threads", cold)
        def _() -> None:
            list(pool.map(os.stat, small))

    name = f"walk with the stat of {TREE // scale} files"

    @system(name, "plain")
    def _() -> None:
        for directory, _, names in os.walk(place.tree):
            for each in names:
                os.lstat(os.path.join(directory, each))

    @system(name, "files.walk")
    async def _() -> None:
        async for _ in files.walk(place.tree):
            pass

    @system(name, "to_thread")
    async def _() -> None:
        def walk() -> None:
            for directory, _, names in os.walk(place.tree):
                for each in names:
                    os.lstat(os.path.join(directory, each))

        await asyncio.to_thread(walk)

    name = f"copy_tree of {COPIED // scale} files"

    @system(name, "plain", writes=True)
    def _() -> None:
        shutil.copytree(place.part, place.out / "copy")

    @system(name, "files.copy_tree")
    async def _() -> None:
        await files.copy_tree(place.part, place.out / "copy")

    @system(name, "to_thread")
    async def _() -> None:
        await asyncio.to_thread(shutil.copytree, place.part, place.out / "copy")

    name = f"{os.path.getsize(place.lines) >> 20} MiB of text by lines"

    @system(name, "plain")
    def _() -> None:
        with open(place.lines) as file:
            for _ in file:
                pass

    @system(name, "files.open, async for")
    async def _() -> None:
        async with files.open(place.lines) as file:
            async for _ in file:
                pass

    @system(name, "files.open, readlines(65536)")
    async def _() -> None:
        async with files.open(place.lines) as file:
            while lines := await file.readlines(65536):
                for _ in lines:
                    pass

    @system(name, "async for over next()")
    async def _() -> None:
        class Floor:
            def __aiter__(self) -> Any:
                return self

            async def __anext__(self) -> str:
                try:
                    return next(file)
                except StopIteration:
                    raise StopAsyncIteration from None

        with open(place.lines) as file:
            async for _ in Floor():
                pass

    for other in ("aiofiles", "anyio", "urio", "turbofile"):
        module = peer(other)
        if module is not None:

            @system(name, other, factor=100)
            async def _(other: str = other, module: Any = module) -> None:
                opening = None if other == "anyio" else module.open(place.few_lines)
                async with opening or await module.open_file(place.few_lines) as file:
                    async for _ in file:
                        pass

    for width in (32, 128):
        name = f"O_DIRECT 4 KiB, {width} in flight"
        size = os.path.getsize(place.big)
        order = random.Random(width)
        offsets = [order.randrange(size // 4096) * 4096 for _ in range(2000 // scale)]
        memory = [files.allocate(4096) for _ in offsets]

        @system(name, "plain")
        def _(offsets: Any = offsets, memory: Any = memory) -> None:
            fd = os.open(place.big, os.O_RDONLY | os.O_DIRECT)
            for offset, buffer in zip(offsets, memory):
                os.preadv(fd, [buffer], offset)
            os.close(fd)

        if oracle is not None:
            reads = str(len(offsets))
            compiled = System(C, [oracle, "read", place.big, "1", str(width), reads])
            running.append(compiled)

            @system(name, C)
            def _(compiled: Any = compiled, n: int = len(offsets)) -> float:
                return float(compiled.round()) * n / 1e9

        @system(name, "files.read_many_into")
        async def _(offsets: Any = offsets, memory: Any = memory, width: int = width) -> None:
            with open(place.big, "rb") as file:
                await files.read_many_into(file.fileno(), zip(offsets, memory), depth=width, direct=True)

        @system(name, "files.sync.read_many_into")
        def _(offsets: Any = offsets, memory: Any = memory, width: int = width) -> None:
            with open(place.big, "rb") as file:
                files.sync.read_many_into(file.fileno(), zip(offsets, memory), depth=width, direct=True)


def cool() -> None:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def runner(loop: str) -> Callable[[Any], Any]:
    if loop == "stock":
        return asyncio.run
    if loop == "uvloop":
        import uvloop

        return lambda main: _run_on(uvloop.new_event_loop(), main)
    from rawuring import aio

    return aio.run


def _run_on(loop: Any, main: Any) -> Any:
    try:
        return loop.run_until_complete(main)
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def lateness(run: Callable[[Any], Any], fd: int) -> list[float]:
    """Measure how many ms late a timer of 1 ms is while 200 tasks read hot data."""

    async def main() -> list[float]:
        late: list[float] = []
        ending = False

        async def read() -> None:
            while not ending:
                await files.pread(fd, 4096, 0)

        tasks = [asyncio.ensure_future(read()) for _ in range(200)]
        for _ in range(200):
            start = time.perf_counter()
            await asyncio.sleep(0.001)
            late.append((time.perf_counter() - start - 0.001) * 1000)
        ending = True
        await asyncio.gather(*tasks)
        return sorted(late)

    return run(main())  # type: ignore[no-any-return]


def measure(run: Callable[[Any], Any], rounds: int, only: str, place: Place) -> dict[str, Any]:
    """Run all workloads and print them."""
    results: dict[str, Any] = {}
    for name, systems in WORKLOADS.items():
        if not re.search(only, name):
            continue
        if name in COLD and not os.access("/proc/sys/vm/drop_caches", os.W_OK):
            print(f"\n{name}: left out, only root can drop the caches")
            continue
        took: dict[str, list[tuple[float, float]]] = {each: [] for each in systems}
        for _ in range(rounds):
            for each, work in systems.items():
                if name in COLD:
                    cool()
                elif name in WRITING:
                    place.clear()
                else:
                    run(work()) if asyncio.iscoroutinefunction(work) and not took[each] else None
                start, cpu = time.perf_counter(), time.process_time()
                said = run(work()) if asyncio.iscoroutinefunction(work) else work()
                wall = said if isinstance(said, float) else time.perf_counter() - start
                took[each].append((wall, time.process_time() - cpu))
        print(f"\n{name}")
        base = statistics.median(wall for wall, _ in took["plain"])
        rows = results[name] = {}
        for each, times in took.items():
            factor = FACTORS.get((name, each), 1)
            wall = statistics.median(wall for wall, _ in times) * factor
            cpu = statistics.median(cpu for _, cpu in times) * factor
            print(
                f"    {each:28} {wall * 1e3:10.2f} ms  x {wall / base:6.2f}   CPU {cpu * 1e3:9.2f} ms",
                flush=True,
            )
            least = min(wall for wall, _ in times) * factor
            rows[each] = {
                "median_ns": round(wall * 1e9), "min_ns": round(least * 1e9),
                "ratio": round(wall / base, 3), "cpu_ns": round(cpu * 1e9), "calls": None,
            }  # fmt: skip
    if re.search(only, LATE):
        late = lateness(run, place.hot)
        print(f"\n{LATE}: median {statistics.median(late):.2f} ms, 99 % {late[197]:.2f} ms")
        results[LATE] = {
            "files.pread": {
                "median_ns": round(statistics.median(late) * 1e6), "min_ns": round(late[0] * 1e6),
                "p99_ns": round(late[197] * 1e6), "ratio": None, "calls": None,
            }
        }  # fmt: skip
    return results


BEGIN, END = "<!-- files: begin -->", "<!-- files: end -->"
#: The systems for the columns: the first that a workload has; its other systems go into the last column.
OURS = ("files", "files.read_bytes", "files.write_bytes", "files.stat_many", "files.walk", "files.copy_tree",
        "files.read_many_into", "files.open, async for", "files.pread")  # fmt: skip


def table(reports: list[dict[str, Any]]) -> str:
    """Write the ratios of the stored runs, a column each, and the peers from the first run that has them."""
    first = reports[0]
    names = [f"{each['loop']}, {each['machine']['python'].rpartition('.')[0]}" for each in reports]
    here = first["machine"]
    lines = [
        f"Linux {here['kernel']}, {here['cpu']}, {here['date']}; medians of {first['rounds']} interleaved",
        "rounds, as a multiple of the plain blocking loop in the same run.",
        "",
        f"| workload | plain | {' | '.join(names)} | others ({names[0]}) |",
        "|---|---:|" + "---:|" * len(names) + "---|",
    ]
    for title, rows in first["results"].items():
        ours = next(each for each in OURS if each in rows)
        cells = []
        for report in reports:
            row = report["results"].get(title, {}).get(ours)
            cells.append("" if row is None else f"{row['median_ns'] / 1e6:.1f} ms" if row["ratio"] is None
                         else f"{row['ratio']:.2f}")  # fmt: skip
        others = [
            f"{each} {row['ratio']:.2f}" for each, row in rows.items() if each not in ("plain", ours)
        ]
        shown = set(rows)
        for report, name in zip(reports, names):  # peers that exist only for a newer Python
            for each, row in report["results"].get(title, {}).items():
                if each not in shown:
                    shown.add(each)
                    others.append(f"{each} {row['ratio']:.2f} ({name.rpartition(' ')[2]})")
        plain = f"{rows['plain']['median_ns'] / 1e6:.1f} ms" if "plain" in rows else ""
        lines.append(f"| {title} | {plain} | {' | '.join(cells)} | {', '.join(others)} |")
    return "\n".join(lines)


def write_table(page: str) -> None:
    """Update the table of a page from the newest stored results of each loop and Python."""
    newest: dict[Any, Any] = {}
    for path in sorted((HERE / "results").glob("*-files-*.json")):
        report = json.loads(path.read_text())
        newest[report["machine"]["python"].rpartition(".")[0], report["loop"]] = report
    order = ["stock", "uvloop", "rawuring"]
    found = [newest[key] for key in sorted(newest, key=lambda key: (key[0], order.index(key[1])))]
    if not found:
        raise SystemExit("bench/results has no results of files.py")
    write_between(page, BEGIN, END, table(found))


def main() -> int:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of everything, once, as a smoke test")
    parser.add_argument("--loop", choices=("stock", "uvloop", "rawuring"), default="stock")
    parser.add_argument("--python", metavar="PATH", help="another Python, with the packages installed there")
    parser.add_argument("--only", default="", help="a regular expression for workloads")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", help="the folder for the files; not a tmpfs")
    parser.add_argument("--json", metavar="FILE", help="bench/results/DATE-files-LOOP-PYTHON.json")
    parser.add_argument("--write", metavar="PAGE", help="measure nothing: write the table from bench/results")
    options = parser.parse_args()
    if options.write:
        write_table(options.write)
        return 0
    python = options.python or sys.executable
    if options.python or any(os.environ.get(name) != value for name, value in PINNED.items()):
        arguments = [each for each in sys.argv if each not in ("--python", options.python)]
        os.execve(python, [python, *arguments], {**os.environ, **PINNED})
    place, running = Place(options.directory, 10 if options.quick else 1), []
    try:
        add_all(place, running)
        run = runner(options.loop)
        rounds = 1 if options.quick else options.rounds
        here = machine(sys.executable)
        print(f"{'; '.join(here.values())}; loop {options.loop}; {files.backend}; {rounds} rounds")
        left_out = [f"{each} is not installed" for each in PEERS if peer(each) is None]
        for line in left_out:
            print(f"left out: {line}")
        report = {
            "machine": here, "loop": options.loop, "peers": versions(sys.executable), "rounds": rounds,
            "results": measure(run, rounds, options.only, place), "left_out": left_out,
        }  # fmt: skip
        if options.json:
            Path(options.json).write_text(json.dumps(report, indent=1) + "\n")
    finally:
        for each in running:
            each.stop()
        place.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
