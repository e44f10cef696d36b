# SPDX-License-Identifier: MIT
"""The program in a guest: it reports its system, and runs the tests that suit the machine's speed.

    python3 tools/kernel_matrix/inside.py all|quick|emulated|ci|ci-emulated [--absent] [PYTEST ARGUMENTS]

With --absent io_uring's system calls fail with ENOSYS, as on a kernel without them.

Must not know: how the guest was built.
Invariant: the line that begins with MATRIX-FACTS is one JSON object; the exit status is pytest's.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Tests that do not depend on the kernel, and slow ones.
ELSEWHERE = (
    "test_vendor", "test_vendored", "test_packages", "test_docs", "test_readme", "test_bench",
    "test_kernel_matrix", "test_docstrings", "test_man_page", "test_uapi_header",
)  # fmt: skip
LONG = ("faults",)
# Where Python is 20 times slower, and for each change: the tests that depend on the kernel, the memory layout
# or the byte order.
EMULATED = (
    "test_uapi", "test_syscalls", "test_barriers", "test_rings", "test_rings_kernel", "test_nop_tutorial",
    "test_buffers", "test_inflight", "test_request_rules", "test_every_opcode", "test_every_register_op",
    "test_monitors", "test_selector", "test_gates", "test_probe_recorded",
)  # fmt: skip
# For each change, where Python is 20 times slower: the tests of the byte order and the memory layout.
LAYOUT = (
    "test_uapi", "test_syscalls", "test_barriers", "test_rings", "test_rings_kernel", "test_nop_tutorial",
    "test_buffers", "test_inflight", "test_every_opcode", "test_every_register_op",
)  # fmt: skip


def facts() -> dict[str, object]:
    """Describe this system."""
    sys.path.insert(0, str(ROOT))
    from rawuring import probe

    found = probe.capabilities()
    return {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "bits": 64 if sys.maxsize > 2**32 else 32,
        "endian": sys.byteorder,
        "page": os.sysconf("SC_PAGESIZE"),
        "libc": " ".join(platform.libc_ver()).strip() or "?",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "io_uring": found.status,
    }


def without_io_uring(command: list[str]) -> list[str]:
    """Return a command that runs another one, for which io_uring fails with ENOSYS."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from test_probe import FILTER

    script = f"sys.path.insert(0, {str(ROOT)!r})\n{FILTER}\nimport os; os.execvp(sys.argv[2], sys.argv[2:])"
    enosys = 0x50000 | errno.ENOSYS  # SECCOMP_RET_ERRNO
    return [sys.executable, "-c", f"import sys; {script}", hex(enosys), *command]


def main() -> int:
    """Print the facts and run the tests."""
    which, *arguments = sys.argv[1:]
    if "--absent" in arguments:
        arguments.remove("--absent")
        command = [sys.executable, __file__, which, *arguments]
        env = {**os.environ, "RAWURING_TEST_SYSCTL": ""}  # there the filter refuses, not the sysctl
        return subprocess.run(without_io_uring(command), env=env, check=False).returncode
    print("MATRIX-FACTS", json.dumps(facts()), flush=True)
    chosen = {"emulated": EMULATED, "ci": EMULATED, "ci-emulated": LAYOUT}.get(which)
    if chosen:
        tests = [f"tests/{name}.py" for name in chosen]
    else:
        tests = ["tests", *(f"--ignore=tests/{name}.py" for name in ELSEWHERE)]
    if which in ("ci", "ci-emulated"):
        tests += ["-m", "not long and not once and (bytes or not alike)"]
    if which == "quick":
        tests += [f"--ignore=tests/{name}" for name in LONG]
    # The guest belongs to the tests alone: its policy and its clock may be changed.
    ours = {"RAWURING_TEST_SYSCTL": "1", "RAWURING_STRICT_SKIPS": "1"}
    env = {**ours, **os.environ, "HYPOTHESIS_PROFILE": "small"}
    if which == "emulated":
        env.setdefault("RAWURING_CHANGES", "20000")  # 100,000 take a third of the time there
    code = 0
    if which == "all" and not arguments:
        # Alone and first (the last summary counts): old Pythons time faulthandler by the clock that it sets.
        code = run_pytest(["tests/faults/test_clock.py"], {**env, "RAWURING_SET_CLOCK": "1"}, 0)
    return run_pytest([*tests, *arguments], env, 600) or code


def run_pytest(arguments: list[str], env: dict[str, str], hangs_after_s: int) -> int:
    """Run pytest from the checkout; return its exit code."""
    command = [
        sys.executable, "-m", "pytest", "-q", "--assert=plain", "-p", "no:cacheprovider",
        "-o", "tmp_path_retention_policy=failed",  # /tmp is in the guest's memory, and would fill up
        "-o", f"faulthandler_timeout={hangs_after_s}", *arguments,
    ]  # fmt: skip
    return subprocess.run(command, cwd=ROOT, env=env, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
