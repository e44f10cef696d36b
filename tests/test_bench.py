# SPDX-License-Identifier: MIT
"""The benchmarks run and report; their figures are not judged here."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parent.parent / "bench"

#: Each system of each table once, in one process: starting so many processes would take long.
EVERYTHING = """
import argparse, dataclasses, json, os, pathlib, signal, sys
sys.path.insert(0, sys.argv[1])
import run, systems
from rounds import KEEP, SYSTEMS, Missing

folder = pathlib.Path(sys.argv[2])
bench = run.Bench(argparse.Namespace(against=None, python=None), folder)
file = run.fill(folder / "data", 1 << 20)
results, left_out, rounds = {}, [], {}


def close_all(thing):
    if isinstance(thing, (list, tuple)):
        for each in thing:
            close_all(each)
    elif hasattr(thing, "destroy"):
        thing.destroy()
    elif hasattr(thing, "close"):
        thing.close()


def serve(name):
    # Before any ring or thread exists, so that fork() is harmless.
    source, target = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(target, 1)
        try:
            SYSTEMS["echo", name]()
        except Missing as error:
            print("missing:", error, flush=True)
        finally:
            os._exit(1)
    os.close(target)
    return child, os.fdopen(source)


def one_round(table, name):
    if name.startswith(run.C):
        each = bench.start(table, name)
        if each is None:
            raise Missing("no C")
        try:
            return each.round()
        finally:
            each.stop()
    if table.workload != "echo":
        key = (table.workload, name, *table.arguments)
        if key not in rounds:
            rounds[key] = SYSTEMS[table.workload, name](*table.arguments)()
        return rounds[key]
    child, output = serve(name)
    try:
        word, _, port = output.readline().strip().partition(" ")
        if word != "port":
            raise Missing(port)
        return SYSTEMS["talk", "client"](port, *table.arguments)()
    finally:
        output.close()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


tables = sorted(run.tables(True, file), key=lambda table: table.workload != "echo")
for table in tables:
    rows = results[table.title] = {}
    for name in table.systems:
        try:
            rows[name] = {"median_ns": one_round(table, name)}
        except Missing as error:
            left_out.append((table.title, name, str(error)))
        close_all(KEEP[::-1])
        KEEP.clear()
fresh = next(table for table in tables if table.fresh)
fresh = dataclasses.replace(fresh, systems=["asyncio, protocol"], arguments=["1", "1"])
report = {
    "results": results, "left_out": left_out, "machine": run.machine(sys.executable), "rounds": 1,
    "fresh": bench.compare(fresh, 1), "imports": run.import_cost(sys.executable, 1, folder, ["rawuring"]),
}
(folder / "report.json").write_text(json.dumps(report))
sys.stdout.flush()
os._exit(0)  # as systems.py ends
"""


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    done = subprocess.run(
        [sys.executable, "-c", EVERYTHING, str(BENCH), str(folder)],
        capture_output=True, text=True, cwd=folder, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "report.json"


@pytest.mark.long
@pytest.mark.requires_io_uring
def test_run_when_each_system_of_each_table_does_a_round_then_all_but_what_is_missing_report(everything):
    """Only peers, C, and features that this kernel, file system or Python lacks may be missing."""
    found = json.loads(everything.read_text())
    for title, name, why in found["left_out"]:
        peer = re.match(r"uvloop|aiofiles|uring-api|liburing|C with", name)
        lacking = re.search(r"Python 3\.10|this Python has no|O_DIRECT|Linux|io_uring", why)
        assert peer or lacking, (title, name, why)
    for title, rows in found["results"].items():
        assert all(row["median_ns"] > 0 for row in rows.values()), (title, rows)
    if hasattr(os, "sched_setaffinity"):
        assert found["fresh"]["asyncio, protocol"]["ratio"] == 1
    assert found["imports"]["rawuring"]["median_ms"] > 0


@pytest.mark.requires_io_uring
def test_costs_when_written_from_a_run_then_the_page_has_its_steps(everything, tmp_path):
    page = BENCH.parent / "docs" / "costs.md"
    copy = tmp_path / "costs.md"
    copy.write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
    command = [sys.executable, str(BENCH / "costs.py"), str(everything), "--write", str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    new, old = copy.read_text(encoding="utf-8"), page.read_text(encoding="utf-8")
    assert steps_of(new) == steps_of(old)
    assert new.partition("<!-- costs: end -->")[2] == old.partition("<!-- costs: end -->")[2]


@pytest.mark.requires_io_uring
@pytest.mark.skipif(sys.version_info < (3, 11), reason="a turn takes the same statements (CPython 3.11)")
@pytest.mark.parametrize("ready", ["1", "3"])
def test_turn_when_written_then_the_page_says_which_statement_takes_what(tmp_path, ready):
    page = BENCH.parent / "docs" / "costs.md"
    copy = tmp_path / "costs.md"
    copy.write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
    command = [
        sys.executable, str(BENCH / "turn.py"), "--turns", "40", "--ready", ready, "--write", str(copy),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    new, old = copy.read_text(encoding="utf-8"), page.read_text(encoding="utf-8")
    assert "| `submit_and_reap` | `submitted = bare(" in new
    assert new.partition("<!-- turn: end -->")[2] == old.partition("<!-- turn: end -->")[2]


def steps_of(page: str) -> list[str]:
    found = re.findall(r"^\| (.*) \| \d+ \| .* \|$", page, re.MULTILINE)
    assert len(found) > 15
    return found


@pytest.mark.long
@pytest.mark.requires_io_uring
def test_run_when_quick_then_it_measures_in_turn_and_says_what_is_missing(tmp_path):
    report, tables = tmp_path / "report.json", tmp_path / "tables.md"
    command = [
        sys.executable, str(BENCH / "run.py"), "--quick", "--only", "^select.., 1 of 1 ready",
        "--json", str(report), "--markdown", str(tables), "--scratch", str(tmp_path),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text())
    assert found["machine"]["python"]
    assert len(found["results"]) == 1
    for title, rows in found["results"].items():
        ours = [name for name in rows if "rawuring" in name]
        said = [line for line in found["left_out"] if "rawuring" in line]
        assert ours or said, (title, found["left_out"])
        assert all(row["median_ns"] >= row["min_ns"] > 0 for row in rows.values())
    assert all(line in tables.read_text() for line in found["left_out"])


def test_run_when_the_systems_are_listed_then_each_is_known():
    """A name in run.py that systems.py does not have would be skipped, with an unnoticed line."""
    run, systems = modules("run", "systems")
    listed = set()
    for quick in (False, True):
        for table in run.tables(quick, BENCH):
            for name in table.systems:
                known = name.startswith(run.C) or (table.workload, name) in systems.SYSTEMS
                assert known, (table.title, name)
                listed.add((table.workload, name))
    # Every workload has a table, but not every system: some are defined in a loop with listed ones.
    workloads = {workload for workload, _ in listed}
    assert {workload for workload, _ in systems.SYSTEMS} - workloads == {"talk"}


def test_every_python_figure_of_the_readme_then_from_the_stored_results():
    (readme_table,) = modules("readme_table")
    readme, speed = (
        (BENCH.parent / name).read_text(encoding="utf-8") for name in ("README.md", "docs/speed.md")
    )
    assert readme_table.table(readme_table.stored()) in speed
    assert readme_table.table(readme_table.stored(), readme_table.IN_README) in readme
    assert set(readme_table.IN_README) <= {name for name, *_ in readme_table.ROWS}


def test_readme_table_when_its_rows_are_looked_up_then_run_measures_them():
    """A row that a stored run lacks is not shown, so a row that no run can have would go unnoticed."""
    run, readme_table = modules("run", "readme_table")
    measured = {table.title: table.systems for table in run.tables(False, BENCH)}
    for _, title, ours, others in readme_table.ROWS:
        assert {ours, *others} <= set(measured[title]), title


def test_files_when_stored_then_a_column_for_each_loop_and_python(tmp_path, monkeypatch):
    (bench,) = modules("files")
    machine = {"date": "2026-11-30", "cpu": "cpu", "kernel": "6.18", "python": "CPython 3.11.7"}
    (tmp_path / "results").mkdir()
    for number, loop in enumerate(("stock", "rawuring"), 1):
        rows = {
            "plain": {"median_ns": 2_000_000, "ratio": 1.0},
            "files": {"median_ns": 2_000_000 * number, "ratio": float(number)},
            "to_thread": {"median_ns": 100_000_000, "ratio": 50.0},
        }
        late = {"files.pread": {"median_ns": 1_500_000, "ratio": None}}
        report = {"machine": machine, "loop": loop, "rounds": 5, "results": {"reads": rows, bench.LATE: late}}
        path = tmp_path / "results" / f"2026-11-30-files-{loop}-py3.11.json"
        path.write_text(json.dumps(report), encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(f"before\n{bench.BEGIN}\n{bench.END}\nafter\n", encoding="utf-8")
    monkeypatch.setattr(bench, "HERE", tmp_path)
    monkeypatch.syspath_prepend(str(BENCH))
    bench.write_table(str(page))
    written = page.read_text(encoding="utf-8")
    assert "| reads | 2.0 ms | 1.00 | 2.00 | to_thread 50.00 |" in written
    assert f"| {bench.LATE} |  | 1.5 ms | 1.5 ms |  |" in written


def modules(*names: str):
    sys.path.insert(0, str(BENCH))
    try:
        return [__import__(name) for name in names]
    finally:
        sys.path.remove(str(BENCH))
