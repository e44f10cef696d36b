# SPDX-License-Identifier: MIT
"""The benchmarks run and report; what they report is not judged here."""

from __future__ import annotations

import json
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
