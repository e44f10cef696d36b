# SPDX-License-Identifier: MIT
"""Every workload, all systems in turn: rawuring beside C with liburing, compiled bindings, epoll and asyncio.

    python3 bench/run.py [--quick] [--install-peers] [--only REGEX] [--against GITREF] [--json FILE] ...

Each system is a separate process (systems.py, steps.py; oracle.c, compiled with liburing). All systems of a
table exist at the same time, but only one of them works at any moment: one round of A, one of B, one of C,
then A again. So a slow moment of the machine affects all of them: read the ratios. System calls are counted
in a separate round, under strace if it is installed. A system that is unavailable, or crashes, is left out
with a message.

--install-peers makes a virtual environment (.venv-bench in the checkout) with the compiled bindings and
uvloop; without that folder, only systems that this Python can import are measured.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import platform
import random
import re
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from steps import CALLS, STEPS

HERE = Path(__file__).resolve().parent
VENV = HERE.parent / ".venv-bench"
PEERS = ["uring-api", "liburing", "uvloop", "aiofiles"]
C = "C with liburing"
LIMIT_S = 60.0
#: asyncio receives into 256 KiB, for which glibc maps and unmaps memory each time, until a larger block has
#: been freed: several times the time per message, or not, by accident. So malloc is the same for all systems.
PINNED = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(64 << 20)}


class Gone(Exception):
    """A system no longer answers."""


@dataclasses.dataclass
class Table:
    """One comparison: which systems, with which arguments; the first is the baseline."""

    title: str
    workload: str
    arguments: list[str]
    systems: list[str]
    #: Its name in oracle.c; empty if C is not measured.
    oracle: str = ""
    #: Operations in one round, the divisor for the system calls.
    operations: int = 0
    #: Subtracted from each result: the requested duration.
    offset_ns: float = 0.0
    rounds: int = 0
    #: All systems are rawuring's own, whatever they are called.
    ours: bool = False
    #: A new process for each round, with malloc in its initial state.
    fresh: bool = False


class System:
    """A process that does one round for each line that it reads."""

    def __init__(
        self, name: str, command: list[str], trace: Path | None = None, root: str = "", pinned: bool = True
    ) -> None:
        self.name = name
        self.trace = trace
        if trace is not None:
            command = ["strace", "-f", "-qq", "-I2", "-o", str(trace), *command]
        env = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
        env.update({"PYTHONUNBUFFERED": "1", **(PINNED if pinned else {})})
        if root:
            env["RAWURING_ROOT"] = root
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
        )
        try:
            self.greeting = self._line()
        except BaseException:
            self.stop()
            raise

    def _line(self) -> str:
        """Read one line, within a time limit."""
        assert self._process.stdout is not None and self._process.stderr is not None
        if not select.select([self._process.stdout], [], [], LIMIT_S)[0]:
            raise Gone(f"no answer within {LIMIT_S:.0f} s")
        line = self._process.stdout.readline().strip()
        if line and not line.startswith(("missing: ", "no system ")):
            return line
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        code = self._process.poll()
        last = (self._process.stderr.read().strip().splitlines() or [""])[-1]
        how = f"died of signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        raise Gone(line.partition(": ")[2] or f"{how} {last}".strip())

    def round(self, order: str = "go") -> float:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(order + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # _line() reports the cause of its death
        return float(self._line())

    def stop(self) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(0 if self.greeting_is_port() else 5)
        except subprocess.TimeoutExpired:
            self._process.terminate()  # strace ends its tracee and writes its log
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def stay_on(self, cpu: int) -> None:
        os.sched_setaffinity(self._process.pid, {cpu})

    def greeting_is_port(self) -> bool:
        return getattr(self, "greeting", "").startswith("port")


class Echo:
    """A server, and the client that talks to it: C, or Python where there is no compiler."""

    def __init__(self, server: System, client: System) -> None:
        self.name, self.server, self.client = server.name, server, client

    def round(self, order: str = "go") -> float:
        return self.client.round(order)

    def stop(self) -> None:
        self.client.stop()
        self.server.stop()


class Bench:
    """The available means of measurement, and the place for results."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.folder = folder
        self.python = options.python or sys.executable
        if not options.python and (VENV / "bin" / "python").exists():
            self.python = str(VENV / "bin" / "python")
        self.oracle = compile_oracle(folder)
        self.strace = shutil.which("strace")
        self.left_out: list[str] = []
        self.said: set[str] = set()

    def leave_out(self, name: str, why: object) -> None:
        line = f"left out: {name}: {why}"
        if line not in self.said:
            self.said.add(line)
            self.left_out.append(line)
            print(line, flush=True)

    def start(self, table: Table, name: str, trace: Path | None = None) -> System | Echo | None:
        """Start a system, or report why it is unavailable."""
        python = [self.python, str(HERE / "systems.py")]
        base, _, ref = name.partition(" @")
        root = str(self.folder / "against") if ref else ""
        try:
            if table.workload == "echo":
                if not hasattr(os, "sched_setaffinity"):
                    raise Gone("this Python has no os.sched_setaffinity")
                command = [*python, "echo", base]
                if base.startswith(C):
                    command = self._c("serve")
                server = System(name, command, trace, root, not table.fresh)
                port = server.greeting.split()[1]
                try:
                    client = self._client(port, table.arguments)
                    # Otherwise it depends on the scheduler whether both share a CPU. On one CPU the sum of
                    # both is measured, and the client is the same for all.
                    cpu = max(os.sched_getaffinity(0))
                    server.stay_on(cpu)
                    client.stay_on(cpu)
                    return Echo(server, client)
                except BaseException:
                    server.stop()
                    raise
            if base.startswith(C):
                return System(name, self._c(base.partition(", ")[2] or table.oracle, *table.arguments), trace)
            return System(name, [*python, table.workload, base, *table.arguments], trace, root)
        except (Gone, OSError) as error:
            self.leave_out(f"{name} ({table.workload})", error)
            return None

    def _c(self, *arguments: str) -> list[str]:
        if self.oracle is None:
            raise Gone("no compiler, or no liburing.h")
        return [self.oracle, *arguments]

    def _client(self, port: str, arguments: list[str]) -> System:
        if self.oracle is not None:
            return System("client", [self.oracle, "talk", port, *arguments])
        return System("client", [self.python, str(HERE / "systems.py"), "talk", "client", port, *arguments])

    def compare(self, table: Table, rounds: int) -> dict[str, dict[str, float]]:
        """Measure all systems of a table in turn."""
        if table.fresh:
            return self.summary(table, self.compare_fresh(table, rounds))
        running = [each for name in self.names(table) if (each := self.start(table, name)) is not None]
        samples: dict[str, list[float]] = {each.name: [] for each in running}
        try:
            for _ in range(rounds):
                for each in list(running):
                    try:
                        samples[each.name].append(each.round() - table.offset_ns)
                    except Gone as error:
                        self.leave_out(f"{each.name} ({table.title})", error)
                        del samples[each.name]
                        running.remove(each)
                        each.stop()
        finally:
            for each in running:
                each.stop()
        return self.summary(table, samples)

    def compare_fresh(self, table: Table, rounds: int) -> dict[str, list[float]]:
        """Measure the first round of one new process after the other."""
        samples: dict[str, list[float]] = {name: [] for name in self.names(table)}
        for _ in range(rounds):
            for name in list(samples):
                each = self.start(table, name)
                if each is None:
                    del samples[name]
                    continue
                try:
                    samples[name].append(each.round() - table.offset_ns)
                except Gone as error:
                    self.leave_out(f"{name} ({table.title})", error)
                    del samples[name]
                finally:
                    each.stop()
        return samples

    def summary(self, table: Table, samples: dict[str, list[float]]) -> dict[str, dict[str, float]]:
        if not samples:
            return {}
        baseline = statistics.median(samples.get(table.systems[0]) or next(iter(samples.values())))
        return {
            name: {
                "median_ns": round(statistics.median(values), 1),
                "min_ns": round(min(values), 1),
                "ratio": round(statistics.median(values) / baseline, 3),
            }
            for name, values in samples.items()
        }

    def names(self, table: Table) -> list[str]:
        names = list(table.systems)
        if self.options.against:
            ours = [name for name in names if table.ours or "rawuring" in name]
            names += [f"{name} @{self.options.against}" for name in ours]
        return names

    def count(self, table: Table, name: str) -> float | None:
        """Count the system calls of one round, per operation."""
        if self.strace is None or not table.operations or name.startswith(C):
            return None
        if table.workload == "echo":
            # Both counts include a server's start and end: one round is the difference of two and one.
            table = dataclasses.replace(table, arguments=[table.arguments[0], "2000"])
            one, two = self._trace(table, name, ["go"]), self._trace(table, name, ["go", "go"])
            return round((len(two) - len(one)) / 2000, 4) if one and two else None
        found = self._trace(table, name, ["go", "count"])
        marks = [i for i, call in enumerate(found) if call == "getpriority"]
        return round((marks[1] - marks[0] - 1) / table.operations, 4) if len(marks) == 2 else None

    def _trace(self, table: Table, name: str, orders: list[str]) -> list[str]:
        """Run a system under strace and return the names of its calls."""
        trace = self.folder / "trace"
        trace.unlink(missing_ok=True)
        each = self.start(table, name, trace)
        if each is None:
            return []
        try:
            for order in orders:
                each.round(order)
        except Gone:
            return []
        finally:
            each.stop()
        # A call that another thread's call interrupted takes two lines, and counts once.
        return re.findall(r"^\d+ +(\w+)\(", trace.read_text(errors="replace"), re.MULTILINE)


def compile_oracle(folder: Path) -> str | None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    binary = str(folder / "oracle")
    command = [compiler, "-O2", str(HERE / "oracle.c"), "-o", binary, "-luring"]
    return binary if subprocess.run(command, capture_output=True, check=False).returncode == 0 else None


def install_peers() -> None:
    """Make a virtual environment; install each peer separately, since not all are available everywhere."""
    subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    for peer in PEERS:
        pip = [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
        done = subprocess.run([*pip, "install", "--quiet", peer], capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"left out: {peer}: {(done.stderr.strip().splitlines() or ['pip failed'])[-1]}")


# ------------------------------------------------------------------------------------------------------
# The workloads

OURS = ["rawuring, block", "rawuring, one by one", "rawuring, in flight"]
STEPS_TITLE = "steps of one request, per operation"
#: The limits of the language: no library in pure Python can take less than these.
LEAST = ["ctypes alone, completions unread", "one frame of Python, nothing checked",
         "one frame of Python, all checked"]  # fmt: skip


def tables(quick: bool, file: Path) -> Iterator[Table]:
    """Name everything that is measured."""
    repeat = 5 if quick else 200
    for size in (1, 32, 256):
        n = [str(size), str(repeat)]
        peers = [C, *OURS, *(LEAST if size == 1 else LEAST[:1]), "liburing (Python)"]
        nops = [*peers, "rawuring, block, plain ring"]
        yield Table(f"NOP, batch of {size}, per operation", "nop", n, nops, "nop", size * repeat)
        peers.append("uring-api")
        yield Table(f"poll, ready, batch of {size}, per operation", "poll", n, peers, "poll", size * repeat)
        ways = ("", ", table.reap", ", one call", ", start", ", start, one call", ", no handlers", ", block")
        forms = [f"rawuring, in flight{way}" for way in ways]
        peers = [C, *forms, "rawuring, one by one", "rawuring, block", "uring-api, handlers", "uring-api",
                 "liburing (Python), handlers", "liburing (Python)"]  # fmt: skip
        title = f"InFlight, batch of {size}, from start to handler, per request"
        yield Table(title, "poll", n, peers, "poll", size * repeat)
    repeat = 2 if quick else 20
    every = ["EpollSelector", "rawuring", "select.epoll alone", f"{C}, ready"]
    more = ["EpollSelector", "rawuring", "rawuring, epoll_poll", "rawuring, poll_add"]
    sizes = [(1, 1), (10, 10), (100, 100), (1000, 1000), (10, 100), (1, 1000), (10, 10000), (10000, 10000)]
    for ready, of in sizes[:5] if quick else sizes:
        times = str(max(2, repeat * 100 // max(ready, 100)))
        n = [str(ready), str(of), times]
        calls = ready * 10 * int(times)
        yield Table(f"select(), {ready} of {of} ready, per event", "ready", n, every, operations=calls)
        title = f"select(1.0), {ready} of {of} ready, per event"
        yield Table(title, "ready with timeout", n, more, operations=calls)
    monitors = ["EpollSelector", "rawuring, fdmon", "rawuring, poll_add", "rawuring, fdmon, poll backend",
                "rawuring", f"{C}, monitor"]  # fmt: skip
    sizes = [(1, 1), (10, 10), (100, 100), (1, 1000), (10, 1000), (1000, 1000), (10, 10000)]
    for ready, of in sizes[:4] if quick else sizes:
        times = max(2, repeat * 100 // max(ready, 100))
        title = f"monitor, {ready} of {of} ready, a wait of at most 1 s and a handler each, per event"
        n = [str(ready), str(of), str(times)]
        yield Table(title, "monitor", n, monitors, operations=ready * 10 * times)
    for count in (1, 100) if quick else (1, 10, 100, 1000, 10000):
        n = [str(count), str(max(2, repeat * 100 // max(count, 100)))]
        names = [*more, "select.epoll alone", f"{C}, change"]
        title = f"interest changes, {count} at a time, per change"
        yield Table(title, "change", n, names, operations=2 * count * int(n[1]))
        title = f"sockets added and removed, {count} at a time, per socket"
        yield Table(title, "connect", n, more, operations=count * int(n[1]))
    loops = ["asyncio", "asyncio on rawuring", "uvloop"]
    for ready, of in [(1, 1), (100, 100), (10, 1000)]:
        n = [str(ready), str(of), str(repeat)]
        title = f"add_reader() callbacks, {ready} of {of} ready, per callback"
        yield Table(title, "callback", n, loops, operations=10 * ready * repeat)
    times = "5" if quick else "100"
    for usec in (50, 200, 1000):
        n, offset = [str(usec), times], usec * 1000.0
        names = ["EpollSelector", "rawuring, selector", "rawuring, ring", f"{C}, wait", f"{C}, epoll"]
        yield Table(f"wait of {usec} us, overshoot", "wait", n, names, offset_ns=offset)
        yield Table(f"asyncio.sleep of {usec} us, overshoot", "sleep", n, loops, offset_ns=offset)
    readers = [
        C, "rawuring, block", "rawuring, one by one", "rawuring, in flight", "os.pread",
        "os.pread in a thread pool", "aiofiles", "uring-api", "liburing (Python)",
    ]  # fmt: skip
    for direct in (0, 1):
        for depth in (1, 32, 128):
            count = 200 if quick else 5000 if direct else 10000
            n = [str(file), str(direct), str(depth), str(max(count, depth))]
            kind = "O_DIRECT" if direct else "page cache"
            title = f"random 4 KiB reads, {kind}, depth {depth}, per read"
            yield Table(title, "read", n, readers, "read", max(count, depth))
    servers = [
        "asyncio, protocol", "asyncio on rawuring, protocol", "uvloop, protocol", "asyncio, streams",
        "asyncio on rawuring, streams", "uvloop, streams", "EpollSelector by hand",
        "rawuring, selector by hand", "rawuring, multishot", C,
    ]  # fmt: skip
    for connections in (1, 10) if quick else (1, 10, 100, 1000):
        messages = 200 if quick else 10000
        n = [str(connections), str(messages)]
        title = f"TCP echo, {connections} connections, server and client on one CPU, per message"
        yield Table(title, "echo", n, servers, operations=messages)
    for connections in (10,) if quick else (10, 100):
        n = [str(connections), "200" if quick else "10000"]
        title = f"TCP echo, {connections} connections, fresh servers, malloc as it starts, per message"
        yield Table(title, "echo", n, servers[:6], fresh=True)
    n = ["256", "5" if quick else "50"]
    yield Table(STEPS_TITLE, "step", n, list(STEPS), ours=True)
    yield Table("ways to call io_uring_enter, per call", "call", n, CALLS, ours=True)


MODULES = ["rawuring", "from rawuring import Ring", "rawuring.selector", "select, selectors", "asyncio",
           "rawuring.aio", "uvloop", "uring_api", "liburing"]  # fmt: skip


def import_cost(
    python: str, rounds: int, folder: Path, modules: list[str] = MODULES
) -> dict[str, dict[str, float]]:
    """Time and memory that an import adds to a bare interpreter, the fastest of some runs each."""
    code = (
        "import sys,time\n"
        "def rss():\n"
        " return next(int(x.split()[1]) for x in open('/proc/self/status') if x.startswith('VmRSS'))\n"
        "rss(); before=rss(); start=time.perf_counter_ns()\n"
        "{statement}\n"
        "print(time.perf_counter_ns()-start, rss()-before)"
    )
    env = {**os.environ, "PYTHONPATH": str(HERE.parent), "PYTHONPYCACHEPREFIX": str(folder / "cache")}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # compiled once, as an installed package is
    samples: dict[str, list[tuple[int, int]]] = {name: [] for name in modules}
    for turn in range(rounds + 1):
        for name in modules:
            statement = name if name.startswith("from ") else f"import {name}"
            done = subprocess.run(
                [python, "-c", code.format(statement=statement)],
                capture_output=True, text=True, env=env, check=False,
            )  # fmt: skip
            if done.returncode == 0 and turn:
                took, grown = done.stdout.split()
                samples[name].append((int(took), int(grown)))
    return {
        name: {
            "median_ms": round(statistics.median(took for took, _ in values) / 1e6, 2),
            "min_ms": round(min(took for took, _ in values) / 1e6, 2),
            "kib": statistics.median(grown for _, grown in values),
        }
        for name, values in samples.items()
        if values
    }


# ------------------------------------------------------------------------------------------------------
# Reports


def machine(python: str) -> dict[str, str]:
    model = platform.machine()
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        model = found.group(1) if found else model
    version = subprocess.check_output(
        [python, "-c", "import platform as p; print(p.python_implementation(), p.python_version())"],
        text=True,
    ).strip()
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": f"{model}, {os.cpu_count()} CPUs",
        "kernel": platform.release().partition("-")[0],
        "python": version,
    }


def versions(python: str) -> dict[str, str]:
    code = (
        "import importlib.metadata as m\n"
        f"for n in {PEERS!r}:\n"
        " try: print(n, m.version(n))\n"
        " except m.PackageNotFoundError: pass"
    )
    lines = subprocess.check_output([python, "-c", code], text=True).split("\n")
    return dict(line.split() for line in lines if line)


def one_table(title: str, rows: dict[str, dict[str, float]]) -> str:
    lines = [f"| {title} | median ns | min ns | ratio | system calls |", "|---|---:|---:|---:|---:|"]
    for name, row in rows.items():
        calls = "" if row.get("calls") is None else f"{row['calls']:.3g}"
        numbers = f"{row['median_ns']:.0f} | {row['min_ns']:.0f} | {row['ratio']:.2f}"
        lines.append(f"| {name} | {numbers} | {calls} |")
    return "\n".join(lines)


def import_table(rows: dict[str, dict[str, float]]) -> str:
    lines = ["| import | median ms | min ms | KiB |", "|---|---:|---:|---:|"]
    for name, row in rows.items():
        lines.append(f"| `{name}` | {row['median_ms']:.2f} | {row['min_ms']:.2f} | {row['kib']:.0f} |")
    return "\n".join(lines)


@contextlib.contextmanager
def checked_out(ref: str | None, folder: Path) -> Iterator[None]:
    """Extract the package as of a git reference into folder/against."""
    if ref is not None:
        archive = subprocess.run(
            ["git", "archive", ref, "rawuring"], cwd=HERE.parent, check=True, capture_output=True
        ).stdout
        (folder / "against").mkdir()
        subprocess.run(["tar", "-x", "-C", str(folder / "against")], input=archive, check=True)
    yield


def fill(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        block = random.Random(0).randbytes(1 << 20)
        for _ in range(size >> 20):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    return path


def measure(options: argparse.Namespace, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    bench = Bench(options, folder)
    rounds = 2 if options.quick else options.rounds
    here = machine(bench.python)
    say("; ".join(here.values()) + f"; {rounds} rounds")
    report: dict[str, Any] = {
        "machine": here, "peers": versions(bench.python), "rounds": rounds, "results": {}, "left_out": [],
    }  # fmt: skip
    if bench.oracle is None:
        bench.leave_out(C, "no compiler, or no liburing.h (Debian: liburing-dev)")
    file = fill(folder / "data", (8 if options.quick else 256) << 20)
    for table in tables(options.quick, file):
        if options.only and not re.search(options.only, table.title):
            continue
        rows = bench.compare(table, table.rounds or rounds)
        for name in rows if options.calls and not options.quick else ():
            calls = bench.count(table, name)
            if calls is not None:
                rows[name]["calls"] = calls
        report["results"][table.title] = rows
        say("\n" + one_table(table.title, rows))
    if not options.only or re.search(options.only, "import"):
        report["imports"] = import_cost(bench.python, rounds, folder)
        say("\n" + import_table(report["imports"]))
    report["left_out"] = bench.left_out
    return report


def main() -> int:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two short rounds of less work, as a smoke test")
    parser.add_argument("--rounds", type=int, default=7, help="at least 7 for figures to quote")
    parser.add_argument("--only", metavar="REGEX", help="only the tables whose title matches")
    parser.add_argument("--against", metavar="GITREF", help="also measure rawuring as of that commit")
    parser.add_argument("--python", metavar="PATH", help="another Python, with the packages installed there")
    parser.add_argument("--no-calls", dest="calls", action="store_false", help="do not count system calls")
    parser.add_argument("--install-peers", action="store_true", help="make .venv-bench, with the peers")
    parser.add_argument("--scratch", metavar="DIR", help="the folder for the file to read; not a tmpfs")
    parser.add_argument("--json", metavar="FILE", help="store the results")
    parser.add_argument("--markdown", metavar="FILE", help="store the tables")
    options = parser.parse_args()
    if options.install_peers:
        install_peers()
    said: list[str] = []

    def say(text: str) -> None:
        print(text, flush=True)
        said.append(text)

    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        folder = Path(name)
        with checked_out(options.against, folder):
            report = measure(options, folder, say)
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")
    if options.markdown:
        Path(options.markdown).write_text("\n".join([*said, "", *report["left_out"]]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
