# SPDX-License-Identifier: MIT
"""Every public function and method of files in each environment: each refusal, each platform, each loop.

What it is: files_everything.py in a child for each of its environments. A fallback is only as good as its
least tested method, so the child finds the public names by introspection and fails if one was not called.
Must not know: which functions are called, and how.
Invariant: nothing here depends on the layer that this process would use.
Read next: files_everything.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import files_everything
import pytest
from refusal import io_uring_refusal

PROGRAM = Path(files_everything.__file__)
LINUX = sys.platform == "linux"
#: The reason if an environment is unavailable.
LACKS = {
    "tmpfs": "a private mount namespace (root)", "overlay": "overlay, in a mount namespace (root)",
    "eager tasks": "asyncio.eager_task_factory (CPython 3.12)", "uvloop": "uvloop",
    "subinterpreter": "isolated subinterpreters with ctypes (CPython 3.13)",
    "subinterpreter, threads": "isolated subinterpreters with ctypes (CPython 3.13)",
}  # fmt: skip

#: Environments without a ring.
WITHOUT = (
    "io_uring refused", "io_uring unknown", "all refused", "all unknown", "no ctypes", "macOS", "Windows",
)  # fmt: skip


@pytest.mark.skipif(not LINUX, reason="Linux only")
@pytest.mark.parametrize(
    "environment",
    [
        pytest.param(each, marks=[] if each in ("ring", "no ctypes", "no imports") else pytest.mark.long)
        for each in files_everything.ENVIRONMENTS
    ],
)
def test_everything_when_in_any_environment_then_the_answers_of_os(environment: str, tmp_path: Path) -> None:
    if environment != "threads" and environment not in WITHOUT and io_uring_refusal():
        pytest.skip(f"io_uring (5.1): {io_uring_refusal()}")
    if environment in ("macOS", "Windows") and sys.version_info >= (3, 14):
        pytest.skip("a standard library that does not notice the change of platform (CPython before 3.14)")
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(PROGRAM), environment], env=env, capture_output=True, text=True, check=False
    )
    if done.returncode == 77:
        pytest.skip(LACKS.get(environment, "seccomp filters (CONFIG_SECCOMP_FILTER, Linux 3.5)"))
    assert (done.returncode, done.stderr) == (0, "")
    backend, count = done.stdout.split()
    assert int(count) > 200
    if environment in WITHOUT:
        assert backend == "threads"
