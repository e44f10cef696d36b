# SPDX-License-Identifier: MIT
"""Skips because of an old kernel: conftest.py makes them failures if the kernel is new enough.

Read next: driver.py.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import driver
import pytest

from rawuring import gates

TESTS = Path(__file__).resolve().parent
NOW = ".".join(map(str, gates.version(platform.release())))


OLD = [
    "X (Linux 1000.1)", "X (Linux 5.1), Y (Linux 1000.1)", "X (5.1, with Y 1000.1)",
    "X (CONFIG_X, Linux 5.1)", "X (Linux 5.1, CONFIG_X)", "X (CPython 3.11)", "X",
]  # fmt: skip
NEW = ["X (Linux 5.1): EINVAL", "X (5.1)", f"X (Linux {NOW})", "X (Linux 5.1), Y (5.1)"]


@pytest.mark.requires_io_uring
@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_skip_when_the_kernel_is_new_enough_then_it_fails(tmp_path):
    (tmp_path / "test_x.py").write_text(
        f"import pytest\n@pytest.fixture(params={OLD + NEW!r})\ndef x(request):\n    return request.param\n"
        "@pytest.fixture\ndef skipped(x):\n    pytest.skip(x)\n"
        "def test_x(x):\n    pytest.skip(x)\n"
        "def test_y(skipped):\n    pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "conftest", "-rs"]
    env = {**os.environ, "RAWURING_STRICT_SKIPS": "1", "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}"}
    done = subprocess.run(
        [*command, "test_x.py"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    said = done.stdout.splitlines()
    skipped = [line.partition(": ")[2] for line in said if line.startswith("SKIPPED ")]
    assert sorted(skipped) == sorted(OLD * 2), done.stdout
    for reason in NEW:
        assert said.count(f"skipped on Linux {platform.release()}: {reason}") == 2, done.stdout
    assert done.returncode == 1


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_lacks_when_the_kernel_is_new_enough_then_it_fails_everywhere(monkeypatch):
    monkeypatch.delenv("RAWURING_STRICT_SKIPS", raising=False)
    cases = [("5.1", "", pytest.fail), ("5.1", "CONFIG_X", pytest.skip), ("99.1", "", pytest.skip)]
    for since, config, outcome in cases:
        with pytest.raises((pytest.fail.Exception, pytest.skip.Exception)) as caught:
            driver.lacks("X", since, config)
        assert caught.type is outcome.Exception  # a skip that raises() does not expect would skip this test
