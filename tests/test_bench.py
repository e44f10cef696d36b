# SPDX-License-Identifier: MIT
"""The benchmarks run and report; what they report is not judged here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parent.parent / "bench"


@pytest.mark.requires_io_uring
@pytest.mark.parametrize("script", sorted(BENCH.glob("bench_*.py")), ids=lambda path: path.stem)
def test_bench_when_run_quickly_then_it_reports(script, tmp_path):
    report = tmp_path / "report.json"
    command = [sys.executable, str(script), "--quick", "--json", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())
    assert found["machine"]["python"]
    for results in found["results"].values():
        for row in results.values():
            assert row["median_ns"] >= row["min_ns"] > 0


@pytest.mark.requires_io_uring
def test_costs_when_run_quickly_then_the_page_has_its_steps(tmp_path):
    page = BENCH.parent / "docs" / "costs.md"
    copy = tmp_path / "costs.md"
    copy.write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
    command = [sys.executable, str(BENCH / "costs.py"), "--quick", "--write", str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    new, old = copy.read_text(encoding="utf-8"), page.read_text(encoding="utf-8")
    assert steps_of(new) == steps_of(old)
    assert new.partition("<!-- costs: end -->")[2] == old.partition("<!-- costs: end -->")[2]
    assert all(float(ns) >= 0 for ns in re.findall(r"^\| .* \| (\d+) \| .* \|$", new, re.MULTILINE))


def steps_of(page: str) -> list[str]:
    found = re.findall(r"^\| (.*) \| \d+ \| .* \|$", page, re.MULTILINE)
    assert len(found) > 15
    return found


@pytest.mark.requires_io_uring
@pytest.mark.skipif(sys.implementation.name != "cpython", reason="the peers are for CPython")
def test_run_when_quick_then_ours_are_measured_and_what_is_missing_is_said(tmp_path):
    """Only the tables that need no second process group: the rest is a matter of minutes."""
    report, tables = tmp_path / "report.json", tmp_path / "tables.md"
    command = [
        sys.executable, str(BENCH / "run.py"), "--quick", "--only",
        "batch of 32|1 of 1 ready, per event|import|echo, 10", "--json", str(report),
        "--markdown", str(tables), "--scratch", str(tmp_path),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text())
    assert len(found["results"]) >= 4
    for title, rows in found["results"].items():
        ours = [name for name in rows if "rawuring" in name]
        said = [line for line in found["left_out"] if "rawuring" in line]
        assert ours or said, (title, found["left_out"])
        assert all(row["median_ns"] >= row["min_ns"] for row in rows.values())
    assert found["imports"]["rawuring"]["median_ms"] > 0
    assert all(line in tables.read_text() for line in found["left_out"])


def test_run_when_the_systems_are_listed_then_each_is_known():
    """A name in run.py that systems.py does not have would be left out, with a line nobody reads."""
    sys.path.insert(0, str(BENCH))
    try:
        import run
        import systems
    finally:
        sys.path.remove(str(BENCH))
    for quick in (False, True):
        for table in run.tables(quick, BENCH):
            for name in table.systems:
                known = name.startswith(run.C) or (table.workload, name) in systems.SYSTEMS
                assert known, (table.title, name)


def test_every_python_figure_of_the_readme_then_from_the_stored_results():
    sys.path.insert(0, str(BENCH))
    try:
        import readme_table
    finally:
        sys.path.remove(str(BENCH))
    readme = (BENCH.parent / "README.md").read_text(encoding="utf-8")
    assert readme_table.table(readme_table.stored()) in readme
