# SPDX-License-Identifier: MIT
"""tools/check_kernel.py: exit codes, and drift of every kind between uapi.py and a header."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from rawuring import probe, survey, uapi

ROOT = Path(__file__).resolve().parent.parent
TOOL = ROOT / "tools" / "check_kernel.py"


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-I", str(TOOL), *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))  # the tool puts the checkout on it
    spec = importlib.util.spec_from_file_location("check_kernel", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def found(**changes: object) -> probe.Capabilities:
    usable = probe.Capabilities(True, "", "", "", (), "Linux 5.4", {}, {}, {}, None)
    return usable._replace(**changes)


def test_bare_checkout_then_exit_code_tells(tmp_path):
    done = run(cwd=tmp_path)
    usable = probe.capabilities().usable
    assert done.returncode == (0 if usable else 1), done
    assert ("runs the library" in done.stdout) == bool(usable)
    assert done.stderr == ""


def test_names_missing_then_listed_by_release_oldest_first(tool, monkeypatch, capsys):
    there, not_there, unknown = (survey.Finding(answer, "", answer, "") for answer in (True, False, None))
    answers = found(
        findings={
            "IORING_FEAT_EXT_ARG": not_there, "IORING_FEAT_NODROP": there,
            "IORING_SETUP_DEFER_TASKRUN": not_there, "IORING_SETUP_SQPOLL": unknown,
            "IORING_OP_NOP128": not_there, "IORING_OP_SHUTDOWN": not_there,
            "IORING_REGISTER_ZCRX_CTRL": not_there, "IORING_ENTER_NO_IOWAIT": not_there,
            "IORING_REGISTER_ZCRX_IFQ": survey.Finding(True, "query", False, "tried"),
        }
    )  # fmt: skip
    monkeypatch.setattr(probe, "capabilities", lambda refresh: answers)
    monkeypatch.setattr(probe, "prove", lambda: {"NOP": "ok"})
    assert tool.main([]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "refused to this process: IORING_REGISTER_ZCRX_IFQ" in lines
    missing = [line for line in lines if "missing" in line]
    assert missing == [
        "missing here, in Linux 5.11: IORING_FEAT_EXT_ARG IORING_OP_SHUTDOWN",
        "missing here, in Linux 6.1: IORING_SETUP_DEFER_TASKRUN",
        "missing here, in Linux 6.15: IORING_ENTER_NO_IOWAIT",
        "missing here, in Linux 6.19: IORING_OP_NOP128 IORING_REGISTER_ZCRX_CTRL",
    ]


def test_no_io_uring_then_the_reason_and_1(tool, monkeypatch, capsys):
    error = "io_uring_setup: EPERM. Cause: policy. As the call saw it."
    answers = found(usable=False, status="denied", cause="lsm", error=error, advice="What to do.")
    monkeypatch.setattr(probe, "capabilities", lambda refresh: answers)
    monkeypatch.setattr(probe, "prove", lambda: pytest.fail("there is no ring for prove()"))
    assert tool.main([]) == 1
    text = capsys.readouterr().out
    assert "DENIED by lsm" in text
    assert "io_uring_setup: EPERM." in text
    assert "policy" not in text
    assert text.endswith("hint: What to do.\n")


def test_a_live_request_fails_then_1(tool, monkeypatch, capsys):
    monkeypatch.setattr(probe, "capabilities", lambda refresh: found())
    monkeypatch.setattr(probe, "prove", lambda: {"NOP": "failed: res -22"})
    assert tool.main([]) == 1
    text = capsys.readouterr().out
    assert text.startswith("io_uring: LIMITED")
    assert "FAILED NOP: failed: res -22" in text
    assert "cannot run the library" in text


@pytest.mark.parametrize(
    ("text", "code", "word"),
    [
        ("#define IORING_SETUP_IOPOLL (1U << 0)\n", 0, "agrees"),
        ("#define IORING_SETUP_IOPOLL (1U << 7)\n", 1, "IORING_SETUP_IOPOLL is 1 in uapi.py and 128"),
        ("#define IORING_SETUP_NEW_THING (1U << 25)\n", 1, "IORING_SETUP_NEW_THING is not in uapi.py"),
        ("enum { IORING_OP_NOP, IORING_OP_READV, IORING_OP_FSYNC };\n", 1, "IORING_OP_FSYNC is 3 in"),
        (
            "#define IORING_OFF_SQ_RING 0ULL\n"
            "struct io_uring_cqe { __u64 user_data; __u32 flags; __s32 res; };\n",
            1,
            "io_uring_cqe.res is at 8 with 4 bytes in uapi.py and at 12",
        ),
        (
            "#define IORING_OFF_SQ_RING 0ULL\n"
            "struct io_uring_cqe { __u64 user_data; __s32 res; __u32 flags; __u64 more; };\n",
            1,
            "struct io_uring_cqe has 16 bytes in uapi.py and 24",
        ),
    ],
    ids=["same", "value", "new name", "enum", "offset", "size"],
)
def test_header_then_drift_is_named(tmp_path, text, code, word):
    header = tmp_path / "io_uring.h"
    header.write_text(text)
    done = run("--header", header)
    assert (done.returncode, done.stderr) == (code, ""), done
    assert word in done.stdout


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "#define SOMETHING_ELSE 1\n",
        "#define IORING_SETUP_IOPOLL 1\nstruct io_uring_cqe { __u64 a;\n",
    ],
    ids=["no file", "empty", "another header", "cut off"],
)
def test_no_usable_header_then_2_and_never_agreement(tmp_path, text):
    header = tmp_path / "io_uring.h"
    if text is not None:
        header.write_text(text)
    done = run("--header", header)
    assert (done.returncode, done.stdout) == (2, ""), done
    assert "Traceback" not in done.stderr
    assert "io_uring.h" in done.stderr or "expected" in done.stderr


def test_header_of_this_system_then_no_drift():
    header = Path("/usr/include/linux/io_uring.h")
    if not header.exists():
        pytest.skip("the kernel's headers are not installed (linux-libc-dev)")
    done = run("--header", header)
    assert done.returncode == 0, done.stdout


def test_wrong_usage_then_2(tmp_path):
    header = tmp_path / "io_uring.h"
    header.write_text("#define IORING_SETUP_IOPOLL (1U << 0)\n", encoding="ascii")
    assert run("--header", header).returncode == 0
    assert run("--no-such-option").returncode == 2
    assert run("--kernels", "--header", header).returncode == 2  # one of the two would be ignored


def test_release_key_then_numbers_are_compared_as_numbers(tool):
    assert sorted(["6.1", "?", "5.19", "6.10", "5.6", "7.0"], key=tool._release_key) == [
        "5.6", "5.19", "6.1", "6.10", "7.0", "?"
    ]  # fmt: skip
    for release in set(uapi.SINCE.values()):
        tool._release_key(release)


def test_recorded_kernels_then_no_wrong_claim():
    done = run("--kernels")
    assert (done.returncode, done.stderr) == (0, "")
    assert "0 wrong claims about 36 recorded kernels" in done.stdout


@pytest.mark.parametrize(
    ("name", "since", "claim"),
    [
        ("IORING_OP_SEND_ZC", "6.9", "IORING_OP_SEND_ZC is present, and uapi.py says since 6.9"),
        ("IORING_OP_FUTEX_WAIT", "5.19", "IORING_OP_FUTEX_WAIT is missing, and uapi.py says since 5.19"),
        ("IORING_FEAT_EXT_ARG", "6.5", "IORING_FEAT_EXT_ARG is present, and uapi.py says since 6.5"),
        ("IORING_SETUP_DEFER_TASKRUN", None, "IORING_SETUP_DEFER_TASKRUN has no since-kernel"),
    ],
)
def test_wrong_since_kernel_then_found(tool, monkeypatch, capsys, name, since, claim):
    monkeypatch.setitem(uapi.SINCE, name, since) if since else monkeypatch.delitem(uapi.SINCE, name)
    assert tool.main(["--kernels"]) == 1
    assert claim in capsys.readouterr().out


def test_recorded_answers_unreadable_then_2(tool, tmp_path, capsys):
    assert tool.main(["--kernels", str(tmp_path / "none.json")]) == 2
    assert "not readable" in capsys.readouterr().err
