# SPDX-License-Identifier: MIT
"""The probe: verdict, remedy and exit code, here and in hostile environments that the tests make."""

from __future__ import annotations

import ast
import errno
import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from refusal import skip_without_seccomp

import rawuring
from rawuring import evidence, probe, report, seccomp, survey, syscalls, uapi

ROOT = Path(__file__).resolve().parent.parent
LINUX = sys.platform.startswith("linux")

# Run in a new process before the probe: a seccomp filter for the three calls, made by hand.
FILTER = """
import ctypes, struct, sys
from rawuring import syscalls
numbers = syscalls.SYSCALL_NUMBERS[syscalls.abi()]
action = int(sys.argv[1], 0)
program = [(0x20, 0, 0, 0), (0x35, 0, 2, numbers[0]), (0x25, 1, 0, numbers[2])]
program += [(6, 0, 0, action), (6, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
class Fprog(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
fprog = Fprog(len(program), ctypes.addressof(code))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(fprog), 0, 0):
    sys.exit(77)
"""
MAIN = "from rawuring import probe; sys.exit(probe.main(sys.argv[2:]))"


def run(code: str, *arguments: str, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAWURING_DEBUG": "0", **env},  # which writes to stderr
        capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip


def run_filtered(action: int, *arguments: str) -> subprocess.CompletedProcess:
    done = run(FILTER + MAIN, hex(action), *arguments)
    skip_without_seccomp(done)
    return done


def test_text_then_verdict_first_and_hint_last():
    done = run("import sys\n" + MAIN, "-")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("io_uring: ")
    assert lines[-1].startswith("hint: ")
    assert done.stderr == ""
    assert done.returncode == (0 if "USABLE" in lines[0] else 1)


@pytest.mark.requires_io_uring
def test_live_proofs_then_all_ok():
    assert set(probe.prove().values()) == {"ok"}


@pytest.mark.requires_io_uring
@pytest.mark.leakcheck
def test_examined_then_no_descriptor_and_no_child_left():
    probe.capabilities(refresh=True)
    probe.prove()
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.requires_io_uring
def test_answers_agree_with_a_ring(request):
    from rawuring.rings import Ring

    found = probe.capabilities(refresh=True)
    assert found.usable is True
    with Ring(2) as ring:
        for name, answer in found.features.items():
            assert answer == bool(ring.features & getattr(uapi, name))
    assert found.opcodes["IORING_OP_NOP"] in (True, None)
    assert probe.op_supported("IORING_OP_NOP") == found.opcodes["IORING_OP_NOP"]
    assert probe.op_supported("IORING_OP_NO_SUCH") is None
    assert probe.capabilities() is probe.capabilities()


@pytest.mark.requires_io_uring
def test_operation_that_no_kernel_has_then_einval_or_before_5_5_ebadf():
    answer = survey._answer_to_unknown()
    assert answer in (-errno.EINVAL, -errno.EBADF)
    assert answer != survey.admitted_operations()[uapi.IORING_OP_NOP]


@pytest.mark.requires_io_uring
def test_setup_flags_agree_with_what_query_says():
    """The kernel's own oracle, from 6.18 on."""
    from rawuring import buffers

    answer = buffers.allocate(uapi.io_uring_query_opcode.size)
    header = buffers.allocate(uapi.io_uring_query_hdr.size)
    header[:] = uapi.io_uring_query_hdr.pack(
        query_data=buffers.pin(answer, writable=True).address,
        query_op=uapi.IO_URING_QUERY_OPCODES,
        size=uapi.io_uring_query_opcode.size,
    )
    address = buffers.pin(header, writable=True).address
    try:
        syscalls.io_uring_register(-1, uapi.IORING_REGISTER_QUERY, address, 0)
    except OSError as error:
        pytest.skip(f"IORING_REGISTER_QUERY (Linux 6.18): {error}")
    said = uapi.io_uring_query_opcode.unpack(answer)
    found = probe.capabilities(refresh=True)
    for name, tried in found.setup_flags.items():
        if tried is not None:
            assert tried == bool(said["ring_setup_flags"] & getattr(uapi, name)), name
    for name, supported in found.opcodes.items():
        assert supported is (getattr(uapi, name) < said["nr_request_opcodes"]), name
    assert found.register_opcodes == said["nr_register_opcodes"]


@pytest.mark.alike
@pytest.mark.skipif(not LINUX, reason="Linux only")
@pytest.mark.requires_io_uring
@pytest.mark.parametrize(
    ("call", "action", "word", "code"),
    [
        (0, 0x80000000, "DENIED by seccomp", 1),
        (1, 0x80000000, "DENIED by seccomp", 1),
        (2, 0x80000000, "DENIED by seccomp", 1),
        (0, 0x00050000 | errno.EPERM, "DENIED", 1),
        (1, 0x00050000 | errno.EPERM, "DENIED by seccomp", 1),
        (1, 0x00050000 | errno.ENOSYS, "DENIED by seccomp", 1),
        (2, 0x00050000 | errno.EPERM, "DEGRADED by seccomp", 0),
        (2, 0x00050000 | errno.ENOSYS, "DEGRADED by seccomp", 0),
    ],
)
def test_one_call_filtered_then_the_prober_survives_and_says_which(call, action, word, code):
    one = FILTER.replace("numbers[0]", f"numbers[{call}]").replace("numbers[2]", f"numbers[{call}]")
    done = run(one + MAIN, hex(action))
    skip_without_seccomp(done)
    lines = done.stdout.splitlines()
    assert done.returncode == code, done
    assert lines[0].startswith(f"io_uring: {word}")
    if word == "DENIED by seccomp":
        assert ("io_uring_setup", "io_uring_enter", "io_uring_register")[call] in lines[-1]
    if call == 2 and code == 0:
        assert ", at least " in lines[0]  # calls that do not fail with EINVAL reveal themselves
        assert "  monitor (fdmon): yes" in lines
        assert f"io_uring_register answers {errno.errorcode[action & 0xFFFF]}" in lines[-1]


@pytest.mark.skipif(not LINUX, reason="Linux only")
@pytest.mark.requires_io_uring
@pytest.mark.parametrize("deadly", [1, 2], ids=["enter", "register"])
def test_setup_refused_and_another_call_kills_then_the_prober_survives(deadly):
    """The diagnosis calls enter and register with descriptor -1, in the prober itself."""
    polite = FILTER.replace("numbers[2]", "numbers[0]")
    fatal = FILTER.replace("numbers[0]", f"numbers[{deadly}]").replace("numbers[2]", f"numbers[{deadly}]")
    fatal = fatal.replace("int(sys.argv[1], 0)", "0x80000000")
    done = run(polite + fatal + MAIN, hex(0x00050000 | errno.EPERM))
    skip_without_seccomp(done)
    assert done.stdout.startswith("io_uring: DENIED by seccomp"), done
    assert done.returncode == 1


@pytest.mark.alike
@pytest.mark.skipif(not LINUX, reason="Linux only")
@pytest.mark.requires_io_uring
@pytest.mark.parametrize(
    ("action", "word"),
    [
        (0x00050000 | errno.EPERM, "DENIED by seccomp"),
        (0x00050000 | errno.ENOSYS, "DENIED by seccomp"),
        (0x00050000 | errno.EACCES, "DENIED by seccomp"),
        (0x80000000, "DENIED by seccomp"),
        (0x00030000, "DENIED by seccomp"),
    ],
    ids=["EPERM", "ENOSYS", "EACCES", "KILL_PROCESS", "TRAP"],
)
def test_behind_a_seccomp_filter_then_it_is_named(action, word):
    done = run_filtered(action)
    lines = done.stdout.splitlines()
    assert word in lines[0], done
    assert done.returncode == 1
    assert "filter" in lines[-1]
    report = json.loads(run_filtered(action, "--json").stdout)
    assert (report["usable"], report["cause"], report["live"]) == (False, "seccomp", {})
    assert "REGISTER_QUERY=not asked (a filter may kill for it)" in report["evidence"]


# Loads everything that the probe loads late, and forgets the answer: a limit then affects only the probe.
WARM = """
import contextlib, io, os, sys
from rawuring import probe
with contextlib.redirect_stdout(io.StringIO()):
    probe.main([])
probe._cached = None
"""
BECOME_NOBODY = """
try:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
except OSError:
    sys.exit(77)
"""


@pytest.mark.alike
@pytest.mark.skipif(not LINUX, reason="Linux only")
@pytest.mark.requires_io_uring
@pytest.mark.parametrize("spare", range(8))
def test_few_descriptors_left_then_limited_or_usable_and_never_a_traceback(spare):
    code = WARM + (
        "import resource\n"
        "free = os.dup(0); os.close(free)\n"  # the lowest free number: nothing above it is open
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (free + {spare}, 4096))\n"
    )
    done = run(code + MAIN, "-")
    assert done.stderr == ""
    limited = done.stdout.startswith("io_uring: LIMITED")
    assert (limited, done.returncode) in ((True, 1), (False, 0)), done
    if spare < 3:  # two for the pipe, one for the ring: fewer give no answer
        assert limited
        assert "RLIMIT_NOFILE" in done.stdout.splitlines()[-1]
    if spare == 7:  # the ring's three, the socket's two, and two to spare
        assert not limited


@pytest.mark.skipif(not LINUX, reason="Linux only")
@pytest.mark.requires_io_uring
def test_no_locked_memory_then_limited_where_the_kernel_counts_it():
    code = WARM + "import resource\nresource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))\n" + BECOME_NOBODY
    done = run(code + MAIN, "-")
    if done.returncode == 77:
        pytest.skip("root, to become an unprivileged user")
    if done.stdout.startswith("io_uring: USABLE"):
        pytest.skip("ring memory counts against RLIMIT_MEMLOCK (before 5.12 and from 6.14 on)")
    assert done.stdout.startswith("io_uring: LIMITED by memlock"), done
    assert "evidence: RLIMIT_MEMLOCK=0 (hard 0)" in done.stdout
    assert done.returncode == 1


@pytest.mark.alike
@pytest.mark.skipif(not LINUX, reason="Linux only")
@pytest.mark.requires_io_uring
@pytest.mark.parametrize("filtered", [False, True])
def test_no_child_can_be_made_then_asked_here_unless_a_filter_could_kill(filtered):
    code = WARM + "import resource\nresource.setrlimit(resource.RLIMIT_NPROC, (0, 0))\n" + BECOME_NOBODY
    if filtered:
        code += FILTER
    done = run(code + MAIN, "0x80000000")
    if done.returncode == 77:
        pytest.skip("root, to become an unprivileged user; seccomp filters")
    assert done.stdout.startswith("io_uring: UNKNOWN" if filtered else "io_uring: USABLE"), done
    assert (done.returncode, done.stderr) == (4 if filtered else 0, "")
    if filtered:
        assert "RLIMIT_NPROC" in done.stdout.splitlines()[-1]


@pytest.mark.requires_io_uring
def test_children_reaped_by_somebody_else_then_usable():
    done = run("import signal, sys\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n" + MAIN, "-")
    assert done.stdout.startswith("io_uring: USABLE"), done
    done = run(FILTER + "import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n" + MAIN, "0x80000000")
    skip_without_seccomp(done)
    assert done.stdout.startswith("io_uring: DENIED by seccomp"), done


NO_PROC = """
import builtins, sys
real = builtins.open
def blind(path, *args, **kwargs):
    if str(path).startswith("/proc"):
        raise FileNotFoundError(2, "No such file or directory", path)
    return real(path, *args, **kwargs)
builtins.open = blind
"""


def test_no_proc_then_the_same_answer_with_less_evidence():
    usual, blind = run("import sys\n" + MAIN, "-", "--json"), run(NO_PROC + MAIN, "-", "--json")
    assert blind.stderr == ""
    expected, found = json.loads(usual.stdout), json.loads(blind.stdout)
    for key in ("usable", "features", "setup_flags", "opcodes", "live"):
        assert found[key] == expected[key]
    assert not [fact for fact in found["evidence"] if fact.startswith(("kernel.", "Seccomp"))]
    assert blind.returncode == usual.returncode


@pytest.mark.parametrize(
    ("code", "disabled", "seccomp", "bare", "cause"),
    [
        (errno.EPERM, "2", "0", errno.EBADF, "sysctl"),
        (errno.EPERM, "1", "0", errno.EBADF, "group"),
        (errno.EPERM, "0", "0", errno.EBADF, "policy"),
        (errno.EACCES, None, "0", errno.EBADF, "policy"),
        (errno.EPERM, "0", "2", errno.EPERM, "seccomp"),
        (errno.EOPNOTSUPP, "0", "2", errno.EOPNOTSUPP, "seccomp"),
        (errno.ENOSYS, None, "0", errno.ENOSYS, "absent"),
        (errno.ENOSYS, None, "2", errno.ENOSYS, "seccomp"),
        (errno.ENOMEM, "0", "0", errno.EBADF, "memlock"),
        (errno.EMFILE, "0", "0", errno.EBADF, "nofile"),
        (errno.EIO, "0", "0", errno.EBADF, "unknown"),
    ],
)
def test_setup_failure_then_the_layer_is_named(monkeypatch, code, disabled, seccomp, bare, cause):
    monkeypatch.setattr(syscalls, "_read_text", lambda path: disabled if path.endswith("disabled") else None)
    monkeypatch.setattr(syscalls, "_status_field", lambda name: seccomp)
    monkeypatch.setattr(syscalls, "_enter_errno", lambda: bare)
    error = syscalls.explain_setup_failure(code, "setup")
    assert (error.errno, error.cause) == (code, cause)
    name = "EOPNOTSUPP" if code == errno.EOPNOTSUPP else errno.errorcode[code]  # not Python's ENOTSUP
    assert f": {name} (" in str(error)
    assert error.advice in str(error)


@pytest.mark.parametrize(
    ("group", "told", "not_told"),
    [
        ("-1", "io_uring_group=GID", "join it"),
        ("1234", "join it (GID 1234)", "=GID"),
        (None, "join it,", "GID"),
    ],
)
def test_only_a_group_is_admitted_then_it_can_be_joined_or_must_be_named(monkeypatch, group, told, not_told):
    said = {"io_uring_disabled": "1", "io_uring_group": group}
    monkeypatch.setattr(syscalls, "_read_text", lambda path: said.get(path.rpartition("/")[2]))
    monkeypatch.setattr(syscalls, "_enter_errno", lambda: errno.EBADF)
    status, cause, advice = evidence.classify(syscalls.explain_setup_failure(errno.EPERM, "setup"), ())
    assert (status, cause) == ("denied", "group")
    assert told in advice
    assert not_told not in advice


def test_filter_that_does_not_show_answers_eopnotsupp_then_it_is_named(monkeypatch):
    """A filter outside the sandbox, as in managed services: no Seccomp field, EOPNOTSUPP for all calls."""
    monkeypatch.setattr(syscalls, "_read_text", lambda path: None)
    monkeypatch.setattr(syscalls, "_enter_errno", lambda: errno.EOPNOTSUPP)
    error = syscalls.explain_setup_failure(errno.EOPNOTSUPP, "setup")
    assert evidence.classify(error, ())[:2] == ("denied", "seccomp")


def test_sysctl_turned_off_then_named_and_restored():
    path = Path("/proc/sys/kernel/io_uring_disabled")
    if not os.environ.get("RAWURING_TEST_SYSCTL"):
        pytest.skip("RAWURING_TEST_SYSCTL, which allows a test that disables io_uring for the whole machine")
    if not path.exists():
        pytest.skip("kernel.io_uring_disabled (Linux 6.6)")
    before = path.read_text()
    try:
        path.write_text("2")
    except OSError:
        pytest.skip("root, to set a sysctl")
    try:
        done = run("import sys\n" + MAIN, "-")
    finally:
        path.write_text(before)
    assert "DENIED by sysctl" in done.stdout.splitlines()[0]
    assert "kernel.io_uring_disabled" in done.stdout.splitlines()[-1]
    assert done.returncode == 1


def test_not_linux_then_said_so():
    done = run("import sys; sys.platform = 'darwin'\n" + MAIN, "-")
    assert done.stdout.startswith("io_uring: NOT LINUX"), done
    assert "Run this on Linux" in done.stdout.splitlines()[-1]
    assert done.returncode == 1


def test_not_linux_on_an_unknown_machine_then_not_called_absent():
    code = """
import argparse, ctypes, gettext, json, locale, os, shutil, sys
os.uname = lambda: type("U", (), {"sysname": "Darwin", "release": "23", "machine": "arm64", "version": "x"})
sys.platform = "darwin"
"""
    done = run(code + MAIN, "-")
    assert done.stdout.startswith("io_uring: NOT LINUX"), done
    assert done.returncode == 1
    done = run(code + "del os.uname\nsys.platform = 'win32'\n" + MAIN, "-")
    assert done.stdout.splitlines()[0] == "io_uring: NOT LINUX (win32)", done
    assert done.returncode == 1


@pytest.mark.alike
def test_isolated_from_a_zip_then_the_same_verdict(tmp_path):
    archive = tmp_path / "rawuring.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for source in sorted((ROOT / "rawuring").glob("*.py")):
            file.write(source, f"rawuring/{source.name}")
    code = "import runpy, sys; sys.path.insert(0, sys.argv.pop(1))\n"
    code += "runpy.run_module('rawuring.probe', run_name='__main__', alter_sys=True)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(archive), "--quiet"],
        cwd=tmp_path, env={**os.environ, "RAWURING_DEBUG": "0"}, capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip
    usual = run("import sys\n" + MAIN, "-", "--quiet")
    assert (done.stdout, done.stderr, done.returncode) == (usual.stdout, "", usual.returncode)


@pytest.mark.parametrize(
    ("tty", "env", "coloured"),
    [
        (True, {"TERM": "xterm"}, True),
        (False, {"TERM": "xterm"}, False),
        (True, {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (True, {"TERM": "xterm", "NO_COLOR": ""}, True),  # as specified by https://no-color.org
        (True, {"TERM": "dumb"}, False),
    ],
)
def test_colours_then_only_on_a_terminal_that_did_not_object(monkeypatch, capsys, tty, env, coloured):
    monkeypatch.delenv("NO_COLOR", raising=False)
    for key, value in env.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: tty, raising=False)
    probe.main([])
    text = capsys.readouterr().out
    assert ("\x1b[" in text) == coloured
    assert "io_uring: " in text.splitlines()[0]
    probe.main(["--json"])
    assert "\x1b[" not in capsys.readouterr().out


def test_ring_made_but_a_live_request_fails_then_limited(monkeypatch, capsys):
    found = probe.Capabilities(True, "", "Nothing is missing.", "", (), "Linux x", {}, {}, {}, None)
    monkeypatch.setattr(probe, "capabilities", lambda: found)
    monkeypatch.setattr(probe, "prove", lambda: {"NOP": "ok", "poll on a pipe": "failed: res 0"})
    monkeypatch.setattr(report.barriers, "fence_kind", lambda: "lock")
    for arguments in ([], ["--quiet"], ["--json"]):
        assert probe.main(arguments) == probe.NOT_USABLE
        text = capsys.readouterr().out
        assert arguments != ["--json"] or json.loads(text)["usable"] is False
        assert "io_uring: LIMITED" in text
        assert "USABLE" not in text
        assert "poll on a pipe" in text


def tell(*arguments: str) -> subprocess.CompletedProcess:
    return run("import sys\n" + MAIN, "-", *arguments)


@pytest.mark.alike
@pytest.mark.parametrize(
    "arguments",
    [
        ["--no-such-option"], ["--require", "OP:FOO"], ["--require", "FOO:RECV"], ["--require", "KERNEL:six"],
        ["--require", "KERNEL:6.18.99"], ["--require", "KERNEL:6.1x"], ["--require", "KERNEL:6"],
        ["--require", "RECV"], ["--explain", "EFOO"], ["--json", "--python"], ["--quiet", "--verbose"],
        ["--compare", "no-such-file", "no-such-file"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_wrong_usage_then_exit_code_2_and_the_reason(arguments):
    done = tell(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "error:" in done.stderr.splitlines()[-1]
    assert arguments[-1].rpartition(":")[2] in done.stderr or arguments[0] in ("--json", "--quiet")


@pytest.mark.alike
@pytest.mark.requires_io_uring
def test_required_then_exit_code_and_a_line_for_each():
    there = tell("--require", "OP:POLL_ADD, REG:BUFFERS,SQE:FIXED_FILE,KERNEL:5.1")
    assert there.returncode == 0
    lines = [line for line in there.stdout.splitlines() if line.startswith("required: ")]
    assert [line.split(": ")[1] for line in lines] == [
        "OP:POLL_ADD", "REG:BUFFERS", "SQE:FIXED_FILE", "KERNEL:5.1",
    ]  # fmt: skip
    missing = tell("--quiet", "--require", "OP:POLL_ADD,KERNEL:99.0")
    assert missing.returncode == 3
    assert [line for line in missing.stdout.splitlines() if line.startswith("required: ")] == [
        "required: KERNEL:99.0: no (inferred)"
    ]
    assert "KERNEL:99.0" in tell("--require", "KERNEL:99.0").stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("call", "hint"),
    [
        (lambda: report.name_of("OP:RCV"), "did you mean RECV?"),
        (lambda: report.name_of("SETUP:single_isuer"), "did you mean SINGLE_ISSUER?"),
        (lambda: report.name_of("OP:XYZZY"), "contain no IORING_OP_XYZZY"),
        (lambda: report.explain("EPRM"), "did you mean EPERM?"),
    ],
)
def test_name_misspelt_then_the_nearest_is_named(call, hint):
    with pytest.raises(ValueError, match=re.escape(hint) + "$"):
        call()


def test_required_in_full_or_short_then_the_same_item():
    assert report.name_of("OP:RECV") == report.name_of("IORING_OP_RECV") == "IORING_OP_RECV"
    assert report.name_of("REG:PBUF_RING") == "IORING_REGISTER_PBUF_RING"
    assert report.name_of("REG:UNREGISTER_BUFFERS") == "IORING_UNREGISTER_BUFFERS"
    assert report.name_of("SQE:IO_LINK") == "IOSQE_IO_LINK"


@pytest.mark.parametrize(
    ("finding", "answer"),
    [
        ((True, "probe", True, "tried"), True),
        ((True, "probe", False, "tried"), False),  # the kernel has it, and refuses it
        ((False, "probe", None, ""), False),
        ((True, "probe", None, ""), None),
        ((None, "", None, ""), None),
    ],
)
def test_supports_then_supported_and_admitted(monkeypatch, finding, answer):
    findings = {"IORING_OP_RECV": survey.Finding(*finding)}
    findings["IORING_OP_SEND"] = survey.Finding(False, "", None, "")
    found = probe.Capabilities(True, "", "x", "", (), "Linux 6.1 x", {}, {}, {}, None, "usable", findings)
    monkeypatch.setattr(probe, "capabilities", lambda: found)
    assert probe.supports("OP:RECV") is answer
    assert probe.supports("OP:RECV", "KERNEL:6.1") is answer
    assert probe.supports("OP:RECV", "KERNEL:6.2") is False
    assert probe.supports("OP:RECV", "OP:SEND") is False


def test_refused_then_no_release_is_told_as_if_that_were_the_reason(monkeypatch, capsys):
    findings = {"IORING_OP_SEND_ZC": survey.Finding(True, "probe", False, "tried")}
    found = probe.Capabilities(True, "", "x", "", (), "Linux 6.1 x", {}, {}, {}, None, "usable", findings)
    monkeypatch.setattr(probe, "capabilities", lambda: found)
    monkeypatch.setattr(probe, "prove", dict)
    monkeypatch.setattr(report.barriers, "fence_kind", lambda: "lock")
    assert probe.main(["--require", "OP:SEND_ZC,IORING_OP_SEND_ZC,OP:POLL_ADD"]) == 3
    lines = capsys.readouterr().out.splitlines()
    assert "  zero-copy send: no (OP:SEND_ZC, refused to this process)" in lines
    assert "required: OP:SEND_ZC: no (tried, refused to this process)" in lines
    assert "required: IORING_OP_SEND_ZC: no (tried, refused to this process)" in lines
    assert "required: OP:POLL_ADD: unknown (nothing could be learned, Linux 5.1)" in lines


@pytest.mark.parametrize("status", ["usable", "degraded"])
@pytest.mark.parametrize(
    ("finding", "code", "told"),
    [
        ((True, "probe", False, "tried"), 3, "has OP:RECV and refuses it"),
        ((False, "probe", False, "inferred"), 3, "lacks required items (OP:RECV, Linux 5.6)"),
        ((None, "", None, ""), 4, "whether OP:RECV may be used"),
        ((True, "probe", True, "tried"), 0, "The advice."),
    ],
)
def test_required_then_all_forms_advise_about_it_first(monkeypatch, capsys, status, finding, code, told):
    findings = {"IORING_OP_RECV": survey.Finding(*finding)}
    found = probe.Capabilities(
        True, "", "The advice.", "", (), "Linux 6.1 x", {}, {}, {}, None, status, findings
    )
    monkeypatch.setattr(probe, "capabilities", lambda: found)
    monkeypatch.setattr(probe, "prove", dict)
    monkeypatch.setattr(report.barriers, "fence_kind", lambda: "lock")
    assert probe.main(["--require", "OP:RECV"]) == code
    hint = capsys.readouterr().out.splitlines()[-1]
    assert told in hint
    assert ("The advice." in hint) is (status == "degraded" or not code)
    assert probe.main(["--require", "OP:RECV", "--json"]) == code
    assert f"hint: {json.loads(capsys.readouterr().out)['advice']}" == hint


def test_kernel_required_where_there_is_none_then_no(monkeypatch):
    found = probe.Capabilities(
        False, "not-linux", "x", "", (), "Darwin 23.1.0 arm64", {}, {}, {}, None, "not-linux"
    )
    monkeypatch.setattr(probe, "capabilities", lambda: found)
    assert probe.supports("KERNEL:6.1") is False


def test_python_literal_then_the_same_as_json():
    literal = ast.literal_eval(tell("--python").stdout)
    assert literal == json.loads(tell("--json").stdout)


def test_list_then_all_that_is_known_without_a_system_call(monkeypatch, capsys):
    for name in ("io_uring_setup", "io_uring_enter", "io_uring_register", "_load"):
        monkeypatch.setattr(syscalls, name, lambda *arguments: pytest.fail("a call was made"))
    assert probe.main(["--list"]) == 0
    text = capsys.readouterr().out
    assert probe.main(["--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    names = [name for kind in survey.KINDS for name, _ in survey.family(kind)]
    assert [name for kind in listed.values() for name in kind] == names
    assert len(listed["operations"]) == uapi.IORING_OP_LAST
    assert len(listed["register operations"]) == uapi.IORING_REGISTER_LAST
    for name in names:
        assert f"  {name} " in text
    assert listed["operations"]["IORING_OP_RECV"] == uapi.SINCE["IORING_OP_RECV"] == "5.6"


def test_verbose_then_every_name_with_both_columns_and_how():
    text = tell("--verbose").stdout
    for kind in survey.KINDS:
        for name, _ in survey.family(kind) if "USABLE" in text else ():
            assert f"  {name} " in text


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("EPERM", "seccomp"), ("eperm", "io_uring_group"), ("1", "EPERM"), ("-105", "provided buffer"),
        ("ENOMEM", "RLIMIT_MEMLOCK"), ("EXDEV", "not specific to io_uring"), ("EWOULDBLOCK", "EAGAIN"),
    ],
)  # fmt: skip
def test_explain_then_what_it_means_here(word, expected, capsys):
    assert probe.main(["--explain", word]) == 0
    assert expected in capsys.readouterr().out


def test_explain_eperm_then_the_same_release_as_the_refusal_itself_names(monkeypatch, capsys):
    monkeypatch.setattr(syscalls, "_read_text", lambda path: None)
    monkeypatch.setattr(syscalls, "_enter_errno", lambda: errno.EBADF)
    advice = syscalls.explain_setup_failure(errno.EPERM, "setup", uapi.IORING_SETUP_SQPOLL).advice
    (release,) = re.findall(r"\d+\.\d+", advice)
    assert probe.main(["--explain", "EPERM"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "SQPOLL" in line]
    assert line.endswith(f"before {release}")


@pytest.mark.alike
def test_compare_then_each_difference(tmp_path):
    here = json.loads(tell("--json").stdout)
    a, b, junk = (tmp_path / name for name in ("a.json", "b.json", "junk.json"))
    a.write_text(json.dumps(here), encoding="utf-8")
    done = tell("--compare", str(a), str(a))
    assert (done.returncode, done.stdout) == (0, "no difference\n")
    here["findings"]["IORING_OP_NOP"].update(supported=True, admitted=False)
    here["kernel"] = "Linux 9.9 z80"
    here["evidence"].append("container=docker")
    b.write_text(json.dumps(here), encoding="utf-8")
    done = tell("--compare", str(a), str(b))
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert any(line.startswith("kernel: ") and line.endswith("-> Linux 9.9 z80") for line in lines)
    assert any(line.endswith("supported yes, admitted no") for line in lines)
    junk.write_text("[1]", encoding="utf-8")
    done = tell("--compare", str(a), str(junk))
    assert done.returncode == 2
    assert "not a report" in done.stderr
    junk.write_text("[" * 200_000, encoding="utf-8")
    done = tell("--compare", str(a), str(junk))
    assert done.returncode == 2
    assert "no JSON" in done.stderr


def test_quiet_then_one_line():
    assert len(run("import sys\n" + MAIN, "-", "--quiet").stdout.splitlines()) == 1


def test_json_then_stable_keys():
    report = json.loads(run("import sys\n" + MAIN, "-", "--json").stdout)
    assert report["schema"] == 1
    keys = "verdict usable cause advice kernel features setup_flags opcodes live"
    assert set(keys.split()) <= set(report)


def test_child_then_what_it_said_and_how_it_ended():
    def say_and_die(say):
        say(7)
        os.kill(os.getpid(), signal.SIGSYS)

    def say_and_raise(say):
        say(3)
        raise OSError(errno.ENXIO, "x")

    assert seccomp.in_child(lambda say: (say(0), say(errno.EPERM))) == ([0, errno.EPERM], 0)
    assert seccomp.in_child(say_and_die) == ([7], signal.SIGSYS)
    assert seccomp.in_child(say_and_raise) == ([3], 0)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.parametrize(
    ("killer", "mode", "cause"),
    [
        (int(signal.SIGSYS), None, "seccomp"),
        (None, "2", "seccomp"),
        (None, "0", "unknown"),
        (int(signal.SIGKILL), "2", "unknown"),
        (0, None, "unknown"),
    ],
)
def test_child_ended_early_then_a_filter_is_blamed_only_where_it_shows(monkeypatch, killer, mode, cause):
    monkeypatch.setattr(seccomp, "state", lambda: (mode or "", ""))
    assert seccomp.ended_early("io_uring_enter", killer).cause == cause


# ------------------------------------------------------------------------------------------------------
# Answers that do not last, and places without children


@pytest.mark.alike
@pytest.mark.skipif(not LINUX, reason="Linux only")
@pytest.mark.requires_io_uring
def test_descriptors_ran_short_while_asking_then_asked_again_the_next_time():
    """Not only a refusal is temporary: with few descriptors the answer is "usable", with unknown flags."""
    code = WARM + """
import resource
usual = probe.capabilities(refresh=True)
assert usual.lasting and probe.capabilities() is usual
free = os.dup(0)
os.close(free)
seen = set()
for spare in range(9):
    probe._cached = None
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + spare, 4096))
    short = probe.capabilities()
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 4096))
    seen.add((short.status, short.lasting))
    assert short.lasting is (short.findings == usual.findings), spare
    assert probe.capabilities().findings == usual.findings, spare
    assert probe.capabilities() is probe.capabilities()
assert seen == {("limited", False), ("usable", False), ("usable", True)}, seen
print("fine")
"""
    done = run(code, RAWURING_DEBUG="0")
    assert (done.stdout.splitlines()[-1:], done.stderr) == (["fine"], "")


@pytest.mark.skipif(not LINUX, reason="Linux only")
@pytest.mark.requires_io_uring
def test_child_could_not_be_made_then_asked_again_the_next_time():
    code = FILTER.replace("int(sys.argv[1], 0)", "0x7FFF0000") + """
import posix
from rawuring import probe
def refuse():
    raise OSError(11, "no child")
real, posix.fork = posix.fork, refuse
assert probe.capabilities().usable is None
posix.fork = real
assert probe.capabilities().usable is True
print("fine")
"""
    done = run(code, RAWURING_DEBUG="0")
    skip_without_seccomp(done)
    assert (done.stdout, done.stderr) == ("fine\n", "")


@pytest.mark.requires_io_uring
@pytest.mark.skipif(sys.implementation.name == "pypy", reason="subinterpreters (CPython)")
@pytest.mark.parametrize("filtered", [False, True])
def test_subinterpreter_that_may_not_fork_then_an_answer_or_unknown_with_a_reason(filtered):
    code = (FILTER if filtered else "import sys\n") + """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
interpreter = interpreters.create()
problem = interpreters.run_string(interpreter, '''
import sys
sys.path[:] = PATH
from rawuring import fdmon, probe
found = probe.capabilities()
print(found.usable, found.cause, found.advice)
print(fdmon.setup().backend)
'''.replace("PATH", repr(sys.path)))
assert problem is None, problem
"""
    done = run(code, "0x80000000", PYTHONWARNINGS="ignore", RAWURING_DEBUG="0")
    skip_without_seccomp(done)
    assert done.stderr == ""
    answer, backend = done.stdout.splitlines()
    if sys.version_info[:2] == (3, 12):  # whose _ctypes does not load there, whatever the kernel
        assert answer.startswith("False ") and backend == "poll"
        return
    if filtered:
        assert answer.startswith("None unknown ") and "interpreter" in answer
    else:
        assert answer.startswith("True ")
    assert backend == ("poll" if filtered else "io_uring")


# ------------------------------------------------------------------------------------------------------
# A report that can be pasted


def test_report_then_versions_ids_and_what_could_not_be_read():
    facts = dict(fact.partition("=")[::2] for fact in json.loads(tell("--json").stdout)["evidence"])
    assert facts["rawuring"] == rawuring.__version__
    assert facts["Python"] == f"{sys.implementation.name} {sys.version.split()[0]}"
    if LINUX:
        groups = " ".join(map(str, os.getgroups())) or "none"
        assert facts["ids"] == f"uid {os.getuid()} gid {os.getgid()}, groups {groups}"
    blind = run(NO_PROC + MAIN, "-")
    (line,) = [line for line in blind.stdout.splitlines() if line.startswith("  evidence: not read=")]
    assert "/proc/self/status (No such file or directory)" in line
    assert "/proc/sys/kernel/io_uring_disabled (No such file or directory)" in line


@pytest.mark.skipif(not LINUX, reason="Linux only")
@pytest.mark.requires_io_uring
def test_effective_ids_are_others_then_told():
    code = "import os, sys\nfrom rawuring import evidence\nevidence.gather()\n"
    code += "try:\n    os.setegid(65534); os.seteuid(65534)\nexcept OSError:\n    sys.exit(77)\n"
    done = run(code + "print(*evidence.gather(), sep='\\n')")
    if done.returncode == 77:
        pytest.skip("root, to become another user")
    (ids,) = [line for line in done.stdout.splitlines() if line.startswith("ids=")]
    assert ids.startswith("ids=uid 0 gid 0 (effective uid 65534 gid 65534), groups ")


def test_version_then_the_package_s():
    assert tell("--version").stdout == f"rawuring {rawuring.__version__}\n"


@pytest.mark.alike
@pytest.mark.skipif(not LINUX, reason="Linux only")
@pytest.mark.requires_io_uring
@pytest.mark.parametrize("code", [errno.EPERM, errno.EACCES, errno.ENOSYS])
def test_register_refused_then_what_is_registered_is_no_and_not_unknown(code):
    one = FILTER.replace("numbers[0]", "numbers[2]")
    done = run(one + MAIN, hex(0x00050000 | code), "--require", "REG:BUFFERS,REG:PBUF_RING")
    skip_without_seccomp(done)
    lines = done.stdout.splitlines()
    (line,) = [line for line in lines if line.startswith("  registered buffers: ")]
    assert line.startswith("  registered buffers: no (REG:BUFFERS, refused to this process")
    assert any(line.startswith("  rings of provided buffers: no (") for line in lines)
    assert "required: REG:BUFFERS: no (tried, refused to this process)" in lines
    assert done.returncode == 3
    assert "REG:BUFFERS, REG:PBUF_RING" in lines[-1] and "to this process" in lines[-1]


def test_item_named_in_full_behind_its_kind_then_the_same():
    assert report.name_of("OP:IORING_OP_READ") == "IORING_OP_READ"
    assert report.name_of("SQE:IOSQE_IO_LINK") == "IOSQE_IO_LINK"
    assert report.name_of("REG:IORING_UNREGISTER_BUFFERS") == "IORING_UNREGISTER_BUFFERS"
    with pytest.raises(ValueError, match="contain no"):
        report.name_of("OP:IORING_SETUP_SQPOLL")


@pytest.mark.alike
@pytest.mark.parametrize("module", ["mmap", "ctypes"])
@pytest.mark.requires_io_uring
def test_python_without_a_module_then_python_is_named_and_no_traceback(module):
    code = f"import sys\nsys.modules[{module!r}] = None\n"
    done = run(code + MAIN, "-")
    assert done.stdout.startswith("io_uring: ABSENT (python) ("), done
    assert (done.returncode, done.stderr) == (1, "")
    assert module in done.stdout.splitlines()[-1]
    forbidden = run(code + "from rawuring import probe; sys.exit(probe.main(['--forbid']))")
    assert (forbidden.returncode in (1, 4), forbidden.stderr) == (True, "")


def test_text_then_words_that_say_what_they_mean():
    text = tell().stdout
    assert "known of this release" not in text
    if text.startswith("io_uring: USABLE"):
        (line,) = [line for line in text.splitlines() if line.startswith("  memory barriers: ")]
        assert "(" in line
