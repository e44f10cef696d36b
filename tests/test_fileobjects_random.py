# SPDX-License-Identifier: MIT
"""File objects under random cancels, killed loops and limits: no byte is lost, and nothing is left behind.

What it is: fileobjects_random.Storm in children, on each loop, with the ring and with threads, and with a
full disk, RLIMIT_FSIZE and RLIMIT_NOFILE.
Must not know: what a storm does.
Invariant: tools/soak.py --files runs the same for any time.
Read next: fileobjects_random.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rawuring import files

PROGRAM = Path(__file__).resolve().parent / "fileobjects_random.py"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")


def figures_of(*options: str) -> dict[str, int]:
    """Run a storm in a child and return its figures."""
    if "--threads" not in options and files.backend != "io_uring":
        pytest.skip(f"io_uring (5.1): {files.reason}")
    command = [sys.executable, str(PROGRAM), "--operations", "300", *options]
    env = {**os.environ, "PYTHONPATH": str(PROGRAM.parent.parent)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip("a private mount namespace (root, or unprivileged user namespaces)")
    assert done.returncode == 0, done.stderr[-5000:]
    words = done.stdout.split()
    return dict(zip(words[::2], map(int, words[1::2])))


@pytest.mark.long
@pytest.mark.parametrize("way", ["ring", "threads"])
@pytest.mark.parametrize("loop", ["stock", "uvloop", "rawuring"])
def test_storm_when_loops_are_killed_then_every_accepted_byte_is_there(loop: str, way: str) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    figures = figures_of("--loop", loop, *(["--threads"] if way == "threads" else []))
    assert figures["operations"] >= 300 and figures["kills"] == 3 and figures["forgotten"] == 18
    assert figures["cancelled"] > 10 and figures["bytes"] > 100_000


@pytest.mark.long
@pytest.mark.parametrize("way", ["ring", "threads"])
@pytest.mark.parametrize(("limit", "error"), [("space", "ENOSPC"), ("size", "EFBIG"), ("files", "EMFILE")])
def test_storm_when_a_limit_is_met_then_refused_and_nothing_is_lost(limit: str, error: str, way: str) -> None:
    figures = figures_of("--limits", limit, *(["--threads"] if way == "threads" else []))
    assert figures[error] > 0
