# SPDX-License-Identifier: MIT
"""Run a command, or the tests, on other kernels and machines.

    python3 tools/kernel_matrix list                       the cells and the sets
    python3 tools/kernel_matrix run 6.12-s390x -- COMMAND   its output, and its exit status
    python3 tools/kernel_matrix set quick                   the tests in every cell of a set, and a table
    python3 tools/kernel_matrix page                        docs/kernels.md from the records of set --record

What it is: Debian's kernels, as user-mode Linux (a kernel that is a program, nearly as fast as this one) or
under qemu-system, with Debian's Python of the same era. Everything is fetched once, into a cache folder.
Needs: apt-get and dpkg-deb (Debian; on Ubuntu also --mirror and debian-archive-keyring), pip; patchelf for
user-mode kernels that are newer than this system, and cc for those before 7.2 on a processor with AMX;
qemu-system-* for other machines; qemu 10 and zstd for loong64. No privileges.
Invariant: run exits with the command's status, 124 if it took too long, 125 if the guest did not report, 126
if the cell is not available here; set exits with 0 only if no cell failed.
Read next: cells.py.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import re
import shlex
import sys
import time
from pathlib import Path

if not __package__:  # run as a folder: python3 tools/kernel_matrix
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    __package__ = "tools.kernel_matrix"

from tools.kernel_matrix import debian, guest
from tools.kernel_matrix.cells import CELLS, SETS, STAND_INS, Cell

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "kernels.md"
RECORDED = Path(__file__).resolve().parent / "recorded.json"
NOT_TO_BE_HAD = 126


def default_cache() -> Path:
    """Return the cache folder: XDG_CACHE_HOME/rawuring-kernel-matrix."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rawuring-kernel-matrix"


def run_in(cell: Cell, command: str, options: argparse.Namespace) -> guest.Outcome:
    """Build the parts of a cell and run a command in it."""
    try:
        kernel = debian.kernel(options.cache, cell, options.mirror)
        root = debian.root(options.cache, cell.root, cell.user, options.mirror, cell.python)
        outcome = guest.run(cell, kernel, root, options.folder, command, options.timeout)
        if outcome.status == guest.NO_REPORT and "fatal_sigsegv" in outcome.output:
            # Before 7.2 it panics at its first process, with AMX and without a C compiler (see xstate.c).
            raise debian.NotToBeHad("this user-mode kernel has no room for the registers of this processor")
        return outcome
    except (debian.NotToBeHad, FileNotFoundError) as error:
        return guest.Outcome(NOT_TO_BE_HAD, f"{cell.name} is unavailable here: {error}\n", 0.0)


def command_for(cell: Cell, name: str) -> str:
    """Return the command that runs the tests in a cell of a set."""
    which = "emulated" if cell.emulated else "quick" if name == "quick" else "all"
    if name == "ci":
        which = "ci-emulated" if cell.emulated else "ci"
    return f"python3 tools/kernel_matrix/inside.py {which}" + (" --absent" if cell.absent else "")


def row_of(cell: Cell, outcome: guest.Outcome) -> dict[str, object]:
    """Parse the facts and the counts from a guest's output."""
    row: dict[str, object] = {"cell": cell.name, "status": outcome.status, "seconds": round(outcome.seconds)}
    found = re.search(r"^MATRIX-FACTS (\{.*\})$", outcome.output, re.MULTILINE)
    row.update(json.loads(found[1]) if found else {})
    summary = re.findall(_SUMMARY, outcome.output, re.MULTILINE)
    for count, word in re.findall(r"(\d+) (\w+)", summary[-1] if summary else ""):
        row[word.rstrip("s") if word.startswith("error") else word] = int(count)
    return row


_SUMMARY = r"^(?:=+ )?((?:\d+ (?:passed|failed|skipped|errors?|warnings?)[, ]*)+) in "
COLUMNS = (
    "cell", "kernel", "machine", "bits", "endian", "page", "libc", "python", "io_uring", "passed", "skipped",
    "failed", "seconds",
)  # fmt: skip
_WORDS = {
    0: "passed", guest.TOO_LATE: "too late", guest.NO_REPORT: "no report", NOT_TO_BE_HAD: "unavailable",
}  # fmt: skip


def table(rows: list[dict[str, object]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(COLUMNS) + " | result |", "|" + "---|" * (len(COLUMNS) + 1)]
    for row in rows:
        cells = [str(row.get(column, "")) for column in COLUMNS]
        lines.append("| " + " | ".join([*cells, _WORDS.get(int(str(row["status"])), "FAILED")]) + " |")
    return "\n".join(lines)


def record(rows: list[dict[str, object]], path: Path) -> None:
    """Write the rows of the cells that were run into a file, replacing older ones."""
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    known = {row["cell"]: row for row in old}
    today = time.strftime("%Y-%m-%d")
    known.update({row["cell"]: {**row, "date": today} for row in rows if row["status"] != NOT_TO_BE_HAD})
    ordered = [known[name] for name in CELLS if name in known]
    lines = ",\n".join(json.dumps(row) for row in ordered)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def page() -> str:
    """Return docs/kernels.md with the table of recorded runs between its marks."""
    heads = "cell | kernel | machine | page | libc | Python | io_uring | passed | skipped | failed | date"
    lines = [f"| {heads} |", "|---" * 11 + "|"]
    for row in json.loads(RECORDED.read_text(encoding="utf-8")):
        how = "emulated" if CELLS[str(row["cell"])].emulated else "user mode"
        order = ", big endian" if row.get("endian") == "big" else ""
        machine = f"{row['machine']}, {row['bits']} bits{order}, {how}"
        kernel = str(row["kernel"]).partition("+")[0]
        counts = [f"{row.get(key, 0):,}" for key in ("passed", "skipped", "failed")]
        if row["status"] not in (0, 1):
            counts[2] = _WORDS.get(row["status"], "no result")
        cells = [
            row["cell"], kernel, machine, f"{int(row['page']) // 1024} KiB", row["libc"], row["python"],
            row["io_uring"], *counts, row["date"],
        ]  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    text = PAGE.read_text(encoding="utf-8")
    marked = re.compile(r"(?<=<!-- matrix -->\n).*(?=<!-- end matrix -->)", re.DOTALL)
    return marked.sub(lambda _: "\n".join(lines) + "\n", text)


def run_set(options: argparse.Namespace) -> int:
    """Run a set, print each outcome and the table; return the exit code."""
    cells = [CELLS[name] for name in SETS.get(options.name) or options.name.split(",")]
    options.logs.mkdir(parents=True, exist_ok=True)
    missing: dict[str, str] = {}
    done: dict[str, dict[str, object]] = {}

    def one(cell: Cell) -> dict[str, object]:
        if cell.name in missing:
            outcome = guest.Outcome(NOT_TO_BE_HAD, missing[cell.name], 0.0)
        else:
            command = options.command or command_for(cell, options.name)
            outcome = run_in(cell, command, options)
        (options.logs / f"{cell.name}.log").write_text(outcome.output, encoding="utf-8")
        row = row_of(cell, outcome)
        last = (outcome.output.strip().splitlines() or [""])[-1]
        print(f"{cell.name}: status {outcome.status}, {row['seconds']} s: {last[:150]}", flush=True)
        if outcome.status not in (0, NOT_TO_BE_HAD):
            lines = outcome.output.splitlines()
            # Failures are named immediately, perhaps long before the end.
            names = [line for line in lines[:-40] if line.startswith("FAILED ")]
            rest = [line for line in lines if not line.startswith("SKIPPED ")][-40:]
            print("\n".join(f"  {line}" for line in [*names, *rest]), flush=True)
        return row

    waiting = list(cells)
    while waiting:
        missing.update(build(waiting, options))
        # The longest runs start first, so that no core waits for them at the end.
        order = sorted(waiting, key=lambda cell: not cell.emulated)
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            done.update({cell.name: row for cell, row in zip(order, pool.map(one, order))})
        names = [STAND_INS.get(c.name, c.name) for c in waiting if done[c.name]["status"] == NOT_TO_BE_HAD]
        waiting = [CELLS[name] for name in dict.fromkeys(names) if CELLS[name] not in cells]
        if waiting:
            print(f"instead: {' '.join(cell.name for cell in waiting)}", flush=True)
        cells += waiting
    rows = [done[cell.name] for cell in cells]
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if options.record:
        record(rows, RECORDED)
    counted = {status: [row["status"] for row in rows].count(status) for status in (0, NOT_TO_BE_HAD)}
    failed = len(rows) - sum(counted.values())
    print(f"kernels: {counted[0]} passed, {failed} failed, {counted[NOT_TO_BE_HAD]} unavailable")
    return 1 if failed else 0 if counted[0] else NOT_TO_BE_HAD


def build(cells: list[Cell], options: argparse.Namespace) -> dict[str, str]:
    """Fetch the parts of cells one by one, because they share packages; return the reasons for failures."""
    began, missing = time.monotonic(), {}
    for cell in cells:
        try:
            debian.kernel(options.cache, cell, options.mirror)
            debian.root(options.cache, cell.root, cell.user, options.mirror, cell.python)
        except (debian.NotToBeHad, OSError) as error:
            missing[cell.name] = f"{cell.name} is unavailable here: {error}"
            print(missing[cell.name], flush=True)
    print(f"built in {time.monotonic() - began:.0f} s", flush=True)
    return missing


def print_cells() -> None:
    """Print the cells and the sets."""
    for cell in CELLS.values():
        how = "user-mode Linux" if cell.machine == "uml" else f"qemu-system, {cell.machine}"
        print(f"{cell.name:18} {how:24} {cell.python} of {cell.root} {cell.user:9} {cell.note}".rstrip())
    for name, cells in SETS.items():
        print(f"set {name}: {' '.join(cells)}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--cache", type=Path, default=default_cache(), help="for kernels and trees")
    shared.add_argument("--mirror", help="a Debian mirror, instead of the one that apt is configured for")
    shared.add_argument("--folder", type=Path, default=ROOT, help="the folder for /project in the guest")
    shared.add_argument("--timeout", type=float, default=900, metavar="SECONDS", help="for each guest")
    parser = argparse.ArgumentParser(
        prog="python3 tools/kernel_matrix",
        description=__doc__.split("\n")[0],
        epilog="Behind -- stands the command that runs in the guest; by default that is the tests.",
    )
    commands = parser.add_subparsers(dest="action", required=True)
    commands.add_parser("list", help="print the cells and the sets")
    one = commands.add_parser("run", parents=[shared], help="run a command in one cell")
    one.add_argument("cell", choices=CELLS, metavar="CELL")
    many = commands.add_parser("set", parents=[shared], help="run the tests, or a command, in a set of cells")
    many.add_argument("name", metavar="SET", help=f"one of {', '.join(SETS)}, or cells with commas")
    many.add_argument("-j", "--jobs", type=int, default=2, help="guests at a time")
    many.add_argument("--json", type=Path, metavar="FILE", help="also write the table's rows to this file")
    many.add_argument("--record", action="store_true", help="record them for the page: see page")
    commands.add_parser("page", help="write the table of docs/kernels.md from the records")
    logs = default_cache() / "logs"
    many.add_argument("--logs", type=Path, default=logs, help="the folder for the output of each guest")
    given = sys.argv[1:] if arguments is None else arguments
    at = given.index("--") if "--" in given else len(given)
    options = parser.parse_args(given[:at])
    rest = given[at + 1 :]
    options.command = rest[0] if len(rest) == 1 else shlex.join(rest)
    if options.action == "page":
        PAGE.write_text(page(), encoding="utf-8")
        return 0
    if options.action != "list":
        options.cache = options.cache.absolute()  # apt resolves relative paths in its own folder
    if options.action == "list":
        print_cells()
        return 0
    if options.action == "set":
        unknown = [name for name in options.name.split(",") if name not in CELLS]
        if options.name not in SETS and unknown:
            parser.error(f"neither a set nor cells: {', '.join(unknown)}")
        return run_set(options)
    cell = CELLS[options.cell]
    outcome = run_in(cell, options.command or command_for(cell, ""), options)
    print(outcome.output, end="")
    return outcome.status


if __name__ == "__main__":
    sys.exit(main())
