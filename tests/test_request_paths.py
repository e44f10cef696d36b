# SPDX-License-Identifier: MIT
"""How the kernel executes a request: what tools/request_paths.py sees, and what the pages say of it.

What it is: cases whose answer is the same on every kernel, seen by the program; and the record that the pages
show, which names each operation.
Must not know: how the program looks.
Invariant: what depends on a file system is not expected here.
Read next: docs/execution.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from driver import kernel_release

from rawuring import uapi

ROOT = Path(__file__).resolve().parent.parent
TOOL = ROOT / "tools" / "request_paths.py"
RECORD = ROOT / "docs" / "request-paths.json"
#: Executed as others are, or of no use without a device.
NOT_MEASURED = {
    "LINK_TIMEOUT", "READV_FIXED", "WRITEV_FIXED", "FUTEX_WAITV", "NOP128", "URING_CMD128", "RECV_ZC",
}  # fmt: skip
EVERYWHERE = {
    ("NOP", "any"): "at once",
    ("NOP", "with IOSQE_ASYNC"): "worker",
    ("READ", "pipe, with data"): "at once",
    ("READ", "pipe, empty"): "poll",
    ("RECV", "with data"): "at once",
    ("RECV", "without data"): "poll",
    ("POLL_ADD", "ready"): "at once",
    ("POLL_ADD", "not ready"): "poll",
    ("FSYNC", "file"): "worker",
    ("STATX", "path in the caches"): "worker",
    ("TIMEOUT", "any"): "waits",
}


@pytest.mark.requires_io_uring
def test_request_when_executed_then_by_whom(tmp_path):
    if kernel_release() < (5, 12):
        pytest.skip("io-wq's workers as threads of the process (5.12)")
    found = tmp_path / "found.json"
    command = [sys.executable, str(TOOL), "--json", str(found), *sorted({opcode for opcode, _ in EVERYWHERE})]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    paths = json.loads(found.read_text())["paths"]
    assert {key: paths[key[0]][key[1]] for key in EVERYWHERE} == EVERYWHERE


@pytest.mark.skipif(not RECORD.exists(), reason="docs/ is not here")
def test_record_then_each_operation_is_there_and_none_failed():
    record = json.loads(RECORD.read_text())["paths"]
    numbers = [name for name in vars(uapi) if name.startswith("IORING_OP_") and name != "IORING_OP_LAST"]
    known = {name.partition("_OP_")[2] for name in numbers}
    assert set(record) | NOT_MEASURED == known
    assert {path for each in record.values() for path in each.values()} == {
        "at once", "poll", "waits", "worker",
    }  # fmt: skip
    assert {key: record[key[0]][key[1]] for key in EVERYWHERE} == EVERYWHERE
