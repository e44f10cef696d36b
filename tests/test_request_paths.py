# SPDX-License-Identifier: MIT
"""How the kernel executes a request: the findings of tools/request_paths.py, and the pages about them.

What it is: cases with the same answer on every kernel, as the program finds them; and the record behind the
pages, which must name each operation.
Must not know: how the program finds out.
Invariant: nothing that depends on a file system is expected here.
Read next: docs/execution.md.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from rawuring import uapi

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools import request_paths  # noqa: E402

TOOL = ROOT / "tools" / "request_paths.py"
RECORD = ROOT / "docs" / "request-paths.json"
#: Executed like others, or useless without a device.
NOT_MEASURED = {
    "LINK_TIMEOUT", "READV_FIXED", "WRITEV_FIXED", "FUTEX_WAITV", "NOP128", "URING_CMD128", "RECV_ZC",
}  # fmt: skip
EVERYWHERE = {
    ("NOP", "any"): "at once",
    ("NOP", "with IOSQE_ASYNC"): "worker",
    ("RECV", "with data"): "at once",
    ("RECV", "without data"): "poll",
    ("POLL_ADD", "ready"): "at once",
    ("POLL_ADD", "not ready"): "poll",
    ("FSYNC", "file"): "worker",
    ("STATX", "path in the caches"): "worker",
    ("TIMEOUT", "any"): "waits",
}


@pytest.mark.requires_io_uring
def test_request_when_executed_then_by_whom():
    command = [sys.executable, str(TOOL), "--json", *sorted({opcode for opcode, _ in EVERYWHERE})]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode == 77:
        pytest.skip("io-wq's workers as threads of the process (5.12)")
    assert done.returncode == 0, done.stdout + done.stderr
    paths = json.loads(done.stdout)["paths"]
    assert {key: paths[key[0]][key[1]] for key in EVERYWHERE} == EVERYWHERE


@pytest.mark.skipif(not RECORD.exists(), reason="docs/ in this copy")
def test_record_then_each_operation_is_there_on_each_kernel_and_none_failed():
    records = json.loads(RECORD.read_text(encoding="utf-8"))
    kernels = [".".join(record["kernel"].split(".")[:2]) for record in records]
    assert kernels == ["5.10", "6.1", "6.12", "6.18", "7.2"]
    numbers = [name for name in vars(uapi) if name.startswith("IORING_OP_") and name != "IORING_OP_LAST"]
    known = {name.partition("_OP_")[2] for name in numbers}
    for record in records:
        paths = record["paths"]
        assert set(paths) | NOT_MEASURED == known
        seen = {path for each in paths.values() for path in each.values()}
        assert seen - {"no such operation"} == {"at once", "poll", "waits", "worker"}
        assert {key: paths[key[0]][key[1]] for key in EVERYWHERE} == EVERYWHERE
    assert "no such operation" not in json.dumps(records[-1])


def test_add_then_in_the_place_of_the_same_series_and_in_order(tmp_path):
    record = tmp_path / "record.json"
    for kernel, path in (("6.12.3", "poll"), ("6.1.5", "worker"), ("6.12.40", "at once")):
        line = json.dumps({"kernel": kernel, "filesystem": "ext4", "paths": {"NOP": {"any": path}}})
        request_paths.add(f"said before\n{line}\nsaid after\n", record)
    found = [(each["kernel"], each["paths"]["NOP"]["any"]) for each in json.loads(record.read_text())]
    assert found == [("6.1.5", "worker"), ("6.12.40", "at once")]


@pytest.mark.parametrize(
    ("release", "version", "kernel"),
    [
        ("5.10.0-32-cloud-amd64", "#1 SMP Debian 5.10.223-1 (2024-08-10)", "5.10.223"),
        ("6.12.117+deb13-cloud-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.12.117-1 (2026-11-12)", "6.12.117"),
        ("6.18.44-fc-v657", "#1 SMP", "6.18.44"),
    ],
)
def test_kernel_then_its_version_also_where_the_release_names_a_series(monkeypatch, release, version, kernel):
    monkeypatch.setattr(platform, "release", lambda: release)
    monkeypatch.setattr(platform, "version", lambda: version)
    assert request_paths.kernel() == kernel
