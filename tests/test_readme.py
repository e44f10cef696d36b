# SPDX-License-Identifier: MIT
"""The README is correct: its program is the example, and prints the stated output."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_imports import ORDER

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
FILES, PROGRAM = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[:2]


def test_program_then_the_one_in_examples_and_at_most_15_lines():
    example = (ROOT / "examples" / "readme.py").read_text()
    assert example.partition('"""\n\n')[2].strip() == PROGRAM.strip()
    assert len([line for line in PROGRAM.splitlines() if line.strip()]) <= 15


def test_first_program_then_it_reads_a_file_within_ten_lines_and_does_what_it_says(tmp_path):
    lines = [line for line in FILES.splitlines() if line.strip()]
    assert any("await files.read_bytes(" in line for line in lines[:10])
    program = tmp_path / "program.py"
    program.write_text(FILES)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", str(program)]
    done = subprocess.run(
        command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"```python\n{FILES}```\n\n```text\n{done.stdout}```\n" in README
    assert (tmp_path / "copy").read_text() == FILES


@pytest.mark.requires_io_uring
def test_program_then_it_prints_what_the_readme_says():
    command = [sys.executable, str(ROOT / "examples" / "readme.py")]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
    if "EINVAL" in done.stdout or done.stdout.startswith("-22"):
        pytest.skip("IORING_OP_READ (Linux 5.6)")
    assert done.stderr == ""
    assert f"    {done.stdout.strip()}\n" in README


def test_files_named_in_the_readme_then_they_exist():
    for name in re.findall(r"`((?:tests|tools|bench|examples)/[\w./]*)`", README):
        assert (ROOT / name).exists(), name


@pytest.mark.skipif(not (ROOT / "docs").exists(), reason="docs/ in this copy")
def test_reading_order_then_the_import_order():
    page = (ROOT / "docs" / "modules.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)\.py` \|", page, re.MULTILINE)
    assert listed == [name for name in ORDER if name in listed]
    assert {path.stem for path in (ROOT / "rawuring").glob("*.py")} - {"__init__", "__main__"} == set(listed)
