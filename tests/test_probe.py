# SPDX-License-Identifier: MIT
"""The probe: verdict, remedy and exit code, here and in environments that the tests make hostile."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from rawuring import probe, syscalls, uapi

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
        env={**os.environ, "PYTHONPATH": str(ROOT), **env}, capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip


def run_filtered(action: int, *arguments: str) -> subprocess.CompletedProcess:
    done = run(FILTER + MAIN, hex(action), *arguments)
    if done.returncode == 77:
        pytest.skip("seccomp filters (CONFIG_SECCOMP_FILTER, Linux 3.5)")
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
def test_setup_flags_agree_with_what_query_says():
    """An oracle of the kernel's own, from 6.18 on."""
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


@pytest.mark.skipif(not LINUX, reason="Linux only")
@pytest.mark.requires_io_uring
def test_no_descriptors_left_then_limited():
    code = """
import resource, os, sys
from rawuring import probe, syscalls
syscalls._load()
import json, argparse, select, socket
resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 1, 4096))
real = syscalls.io_uring_setup
def crowded(entries, params):
    raise OSError(24, "Too many open files")
syscalls.io_uring_setup = crowded
sys.exit(probe.main([]))
"""
    done = run(code)
    assert done.stdout.startswith("io_uring: LIMITED by nofile"), done
    assert done.returncode == 1
    assert "RLIMIT_NOFILE" in done.stdout.splitlines()[-1]


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
    assert errno.errorcode[code] in str(error)
    assert error.advice in str(error)


def test_sysctl_turned_off_then_named_and_restored():
    path = Path("/proc/sys/kernel/io_uring_disabled")
    if not os.environ.get("RAWURING_TEST_SYSCTL"):
        pytest.skip("RAWURING_TEST_SYSCTL is not set: this turns io_uring off for the whole machine")
    if not path.exists():
        pytest.skip("kernel.io_uring_disabled (Linux 6.6)")
    before = path.read_text()
    try:
        path.write_text("2")
    except OSError:
        pytest.skip("only root may set a sysctl")
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
    assert done.returncode == 1


def test_wrong_usage_then_exit_code_2():
    assert run("import sys\n" + MAIN, "-", "--no-such-option").returncode == 2


def test_quiet_then_one_line():
    assert len(run("import sys\n" + MAIN, "-", "--quiet").stdout.splitlines()) == 1


def test_json_then_stable_keys():
    report = json.loads(run("import sys\n" + MAIN, "-", "--json").stdout)
    assert report["schema"] == 1
    keys = "verdict usable cause advice kernel features setup_flags opcodes live"
    assert set(keys.split()) <= set(report)


def test_check_kernel_from_a_bare_checkout_then_exit_code_tells(tmp_path):
    done = subprocess.run(
        [sys.executable, "-I", str(ROOT / "tools" / "check_kernel.py")],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    usable = probe.capabilities().usable
    assert done.returncode == (0 if usable else 1), done
    assert ("runs the library" in done.stdout) == bool(usable)


def test_check_header_when_a_value_differs_then_drift(tmp_path):
    header = tmp_path / "io_uring.h"
    tool = [sys.executable, "-I", str(ROOT / "tools" / "check_kernel.py"), "--header", str(header)]
    for text, code, word in (
        ("#define IORING_SETUP_IOPOLL (1U << 0)\n", 0, "agrees"),
        ("#define IORING_SETUP_IOPOLL (1U << 7)\n", 1, "IORING_SETUP_IOPOLL"),
        ("#define IORING_SETUP_NEW_THING (1U << 25)\n", 1, "IORING_SETUP_NEW_THING"),
    ):
        header.write_text(text)
        done = subprocess.run(tool, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, word in done.stdout) == (code, True), done
    header.unlink()
    assert subprocess.run(tool, capture_output=True, check=False, timeout=60).returncode == 2


def test_killed_child_then_reported_with_its_signal():
    code, killer = probe._in_child(lambda: os.kill(os.getpid(), 31))
    assert (code, killer) == (0, 31)
    code, killer = probe._in_child(lambda: (_ for _ in ()).throw(OSError(errno.ENXIO, "x")))
    assert (code, killer) == (errno.ENXIO, 0)
    assert struct.calcsize("=i") == ctypes.sizeof(ctypes.c_int)
