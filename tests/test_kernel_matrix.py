# SPDX-License-Identifier: MIT
"""tools/kernel_matrix without a kernel: its cells, its archive, and its parser of a guest's output."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import stat
import struct
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from refusal import skip_without_seccomp

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools.kernel_matrix import (  # noqa: E402
    __main__ as tool,
    debian,
    guest,
    inside,
)
from tools.kernel_matrix.cells import CELLS, SETS  # noqa: E402


def test_sets_then_cells_that_exist():
    for name, cells in SETS.items():
        assert set(cells) <= set(CELLS), name
        assert len(set(cells)) == len(cells)
    assert set(SETS["full"]) == set(CELLS)
    for cell in CELLS.values():
        re.compile(cell.package)
        assert cell.machine == "uml" or cell.machine in guest._QEMU
    assert "s390x" in SETS["quick"][-1] and "16k" in SETS["quick"][-2]


def test_emulated_tests_then_files_that_exist():
    for name in (*inside.EMULATED, *inside.LAYOUT, *inside.ELSEWHERE):
        assert (ROOT / "tests" / f"{name}.py").is_file()


@pytest.mark.parametrize(
    ("cell", "name", "which"),
    [
        ("5.10um", "ci", "ci"),
        ("6.12-s390x", "ci", "ci-emulated"),
        ("5.10um", "quick", "quick"),
        ("6.12-s390x", "quick", "emulated"),
        ("5.10um", "full", "all"),
        ("6.12um-absent", "full", "all --absent"),
    ],
)
def test_cell_of_a_set_then_the_tests_that_it_has_time_for(cell, name, which):
    assert tool.command_for(CELLS[cell], name).endswith(f"/inside.py {which}")


def unpack_newc(data: bytes) -> dict[str, tuple[int, bytes]]:
    """Read the format as the kernel does, from its description: an oracle for guest._entry."""
    found, at = {}, 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        name = data[at + 110 : at + 110 + fields[11] - 1].decode()
        at = (at + 110 + fields[11] + 3) & ~3
        if name == "TRAILER!!!":
            assert at == len(data)
            return found
        found[name] = (fields[1], data[at : at + fields[6]])
        at = (at + fields[6] + 3) & ~3


def test_archive_then_as_the_kernel_reads_it(tmp_path):
    root, folder = tmp_path / "root", tmp_path / "folder"
    (root / "usr/bin").mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    (root / "usr/bin/python3").write_bytes(b"\x7fELF")
    (root / "usr/bin/python3").chmod(0o755)
    (folder / "tests/data").mkdir(parents=True)
    (folder / "tests/data/x.json").write_bytes(b"{}\n")
    (folder / "setup").write_bytes(b"12345")
    found = unpack_newc(b"".join(guest._archive(root, folder, "echo hello")))
    assert found["bin"] == (stat.S_IFLNK | 0o777, b"usr/bin")
    assert found["usr/bin/python3"] == (stat.S_IFREG | 0o755, b"\x7fELF")
    assert stat.S_ISDIR(found["project/tests/data"][0])
    assert found["project/tests/data/x.json"][1] == b"{}\n"
    assert found["project/setup"][1] == b"12345"
    assert found["command"][1] == b"echo hello\n"
    assert found["init"][1].startswith(b"#!/bin/busybox sh")
    names = list(found)
    order = [names.index(f"project/tests{rest}") for rest in ("", "/data", "/data/x.json")]
    assert order == sorted(order)


def test_checkout_then_what_git_knows_and_what_is_new(tmp_path):
    git = ["git", "-c", "init.defaultBranch=main", "-C", str(tmp_path)]
    try:
        subprocess.run([*git, "init", "-q"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("git")
    for name in ("kept", "new", "ignored", "gone"):
        (tmp_path / name).write_text("x", encoding="ascii")
    (tmp_path / ".gitignore").write_text("ignored\n", encoding="ascii")
    subprocess.run([*git, "add", "kept", "gone", ".gitignore"], check=True)
    (tmp_path / "gone").unlink()
    assert guest._files_of(tmp_path) == [".gitignore", "kept", "new"]


FACTS = '{"kernel": "6.12.1", "machine": "s390x", "endian": "big", "page": 4096, "io_uring": "usable"}'


@pytest.mark.parametrize(
    ("summary", "counts"),
    [
        ("386 passed, 20 skipped in 300.12s (0:05:00)", {"passed": 386, "skipped": 20}),
        ("1 failed, 3 passed, 2 skipped in 3.1s", {"failed": 1, "passed": 3, "skipped": 2}),
        ("2 passed, 1 error in 0.5s", {"passed": 2, "error": 1}),
        ("== 5 passed in 0.1s ==", {"passed": 5}),
        ("Killed", {}),
    ],
)
def test_output_of_a_guest_then_a_row(summary, counts):
    outcome = guest.Outcome(0, f"MATRIX-FACTS {FACTS}\n..s.\n{summary}\n", 12.4)
    row = tool.row_of(CELLS["6.12-s390x"], outcome)
    assert {key: row[key] for key in ("cell", "kernel", "endian", "seconds")} == {
        "cell": "6.12-s390x", "kernel": "6.12.1", "endian": "big", "seconds": 12,
    }  # fmt: skip
    assert {key: row[key] for key in counts} == counts
    assert tool.table([row]).count("\n") == 2
    assert "| passed |" in tool.table([row])


def test_set_with_a_failure_then_1_and_without_any_cell_then_126(tmp_path, monkeypatch, capsys):
    outcomes = {
        "6.1um": guest.Outcome(0, "1 passed in 1s\n", 1.0),
        "6.12um": guest.Outcome(1, "1 failed in 1s\n", 1.0),
    }
    monkeypatch.setattr(tool, "build", lambda cells, options: {})
    monkeypatch.setattr(tool, "run_in", lambda cell, command, options: outcomes[cell.name])
    logs = ["--logs", str(tmp_path)]
    assert tool.main(["set", "6.1um", *logs]) == 0
    assert tool.main(["set", "6.1um,6.12um", *logs]) == 1
    text = capsys.readouterr().out
    assert text.endswith("kernels: 1 passed, 1 failed, 0 unavailable\n")
    assert "1 failed" in (tmp_path / "6.12um.log").read_text(encoding="utf-8")
    monkeypatch.setattr(tool, "build", lambda cells, options: {cell.name: "no qemu" for cell in cells})
    assert tool.main(["set", "quick", *logs]) == tool.NOT_TO_BE_HAD
    with pytest.raises(SystemExit) as raised:
        tool.main(["set", "6.1um,9.9um", *logs])
    assert raised.value.code == 2


def test_cell_that_cannot_be_had_then_another_stands_in_for_it(tmp_path, monkeypatch, capsys):
    missing = {"6.12-s390x": "half a mirror"}
    monkeypatch.setattr(
        tool, "build", lambda cells, options: {c.name: missing[c.name] for c in cells if c.name in missing}
    )
    outcome = guest.Outcome(0, "1 passed in 1s\n", 1.0)
    monkeypatch.setattr(tool, "run_in", lambda cell, command, options: outcome)
    assert tool.main(["set", "6.1um,6.12-s390x", "--logs", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "instead: 6.1-s390x\n" in text
    assert text.endswith("kernels: 2 passed, 0 failed, 1 unavailable\n")


def test_cell_that_does_not_run_here_then_another_stands_in_for_it_once(tmp_path, monkeypatch, capsys):
    began = []
    monkeypatch.setattr(tool, "build", lambda cells, options: {})

    def run_in(cell, command, options):
        began.append((cell.name, command.split()[-1]))
        status = tool.NOT_TO_BE_HAD if cell.machine == "uml" else 0
        return guest.Outcome(status, "1 passed in 1s\n", 1.0)

    monkeypatch.setattr(tool, "run_in", run_in)
    monkeypatch.setitem(tool.SETS, "quick", ("6.1um", "6.12um", "6.12-amd64"))
    assert tool.main(["set", "quick", "--logs", str(tmp_path), "-j", "1"]) == 0
    assert began == [
        ("6.12-amd64", "emulated"), ("6.1um", "quick"), ("6.12um", "quick"), ("6.1-amd64", "emulated"),
    ]  # fmt: skip
    text = capsys.readouterr().out
    assert "instead: 6.1-amd64\n" in text
    assert text.endswith("kernels: 2 passed, 0 failed, 2 unavailable\n")
    for name, other in tool.STAND_INS.items():
        assert {name, other} <= set(CELLS)


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["python3", "-c", "print('a b')"], "python3 -c 'print('\"'\"'a b'\"'\"')'"),
        (["cd tests && ls"], "cd tests && ls"),
        ([], "python3 tools/kernel_matrix/inside.py all"),
    ],
)
def test_words_after_two_dashes_then_the_same_words_in_the_guest(monkeypatch, words, command):
    seen = []
    outcome = guest.Outcome(0, "", 1.0)
    monkeypatch.setattr(tool, "run_in", lambda cell, command, options: seen.append(command) or outcome)
    assert tool.main(["run", "6.1um", "--", *words]) == 0
    assert seen == [command]


def test_guest_that_never_ends_then_killed_with_its_children(tmp_path, monkeypatch):
    """The kernel is a shell script here: it reports its start, and sleeps."""
    kernel = tmp_path / "vmlinuz"
    begin = "#!/bin/sh\necho MATRIX-BEGIN\n"
    said, clock = tmp_path / "said", time.monotonic
    kernel.write_text(f"{begin}echo one line\ntouch {said}\nsleep 1000 & sleep 1000\n", encoding="ascii")
    kernel.chmod(0o755)
    (tmp_path / "root").mkdir()
    with monkeypatch.context() as patch:  # time passes once the line is written, however slow the machine
        patch.setattr(time, "monotonic", lambda: clock() + 3600 * said.exists())
        outcome = guest.run(CELLS["6.1um"], kernel, tmp_path / "root", tmp_path / "root", "true", 600)
    assert (outcome.status, outcome.output) == (guest.TOO_LATE, "one line\n")
    kernel.write_text(f"{begin}echo hello\necho MATRIX-END 3\nsleep 1000\n", encoding="ascii")
    outcome = guest.run(CELLS["6.1um"], kernel, tmp_path / "root", tmp_path / "root", "true", 60)
    assert (outcome.status, outcome.output) == (3, "hello\n")
    kernel.write_text("#!/bin/sh\necho Kernel panic\n", encoding="ascii")
    outcome = guest.run(CELLS["6.1um"], kernel, tmp_path / "root", tmp_path / "root", "true", 60)
    assert (outcome.status, outcome.output) == (guest.NO_REPORT, "Kernel panic")


def test_kernel_that_qemu_does_not_take_then_not_to_be_had_instead_of_failed(tmp_path):
    kernel = tmp_path / "vmlinuz"
    kernel.write_text("#!/bin/sh\necho \"qemu: could not load kernel 'x'\"\nexit 1\n", encoding="ascii")
    kernel.chmod(0o755)
    (tmp_path / "root").mkdir()
    with pytest.raises(FileNotFoundError, match="rejects this kernel"):
        guest.run(CELLS["6.1um"], kernel, tmp_path / "root", tmp_path / "root", "true", 60)


@pytest.mark.parametrize(
    ("cell", "word"), [("7.2um", "ubd0="), ("6.12-amd64", "nvme,drive=disk,serial=disk"), ("6.12-s390x", "")]
)
def test_disk_then_an_ext4_for_the_machines_that_can_mount_it(tmp_path, cell, word):
    image = tmp_path / "disk"
    words = guest._disk(CELLS[cell], image)
    if word and not words:
        pytest.skip("mkfs.ext4")
    assert words == [] if not word else words[-1].startswith(word)
    if words:
        with open(image, "rb") as file:
            assert file.seek(1080) and file.read(2) == b"\x53\xef", "ext4's magic number"
        assert image.stat().st_blocks * 512 < guest.DISK_MB << 18, "the image is sparse"


#: A child stops; its SSE registers are written from a buffer without room for AMX, and read again.
SET_XMM0 = """
import ctypes, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long
TRACEME, PEEKUSER, KILL, GETREGSET, SETREGSET = 0, 3, 8, 0x4204, 0x4205
NT_X86_XSTATE, NO_AMX, XMM0, RIP = 0x202, 2696, 160, 16 * 8
pid = os.fork()
if pid == 0:
    libc.ptrace(TRACEME, 0, None, None)
    os.kill(os.getpid(), signal.SIGSTOP)
os.waitpid(pid, 0)
states = (ctypes.c_char * NO_AMX)()
iovec = (ctypes.c_size_t * 2)(ctypes.addressof(states), NO_AMX)
def call(request):
    if libc.ptrace(request, pid, NT_X86_XSTATE, ctypes.addressof(iovec)) < 0:
        sys.exit(os.strerror(ctypes.get_errno()))
call(GETREGSET)
states[XMM0], states[512] = b"A", bytes([ord(states[512]) | 2])
call(SETREGSET)
states[XMM0] = b"B"
call(GETREGSET)
rip = libc.ptrace(PEEKUSER, pid, RIP, None)
libc.ptrace(KILL, pid, None, None)
os.waitpid(pid, 0)
print(states[XMM0], rip != 0)
"""


def test_registers_when_written_without_room_for_amx_then_as_user_mode_kernels_wish(tmp_path):
    if guest.platform.machine() != "x86_64":
        pytest.skip("x86-64")
    library = guest.compiled(guest.HERE / "xstate.c", tmp_path / "xstate.so")
    if not library:
        pytest.skip("a C compiler")
    env = {**os.environ, "LD_PRELOAD": str(library)}
    command = [sys.executable, "-c", SET_XMM0]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    if "not permitted" in done.stderr:
        pytest.skip("ptrace(2)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "b'A' True\n", "")


def test_preload_then_for_user_mode_kernels_on_a_processor_with_amx_only(tmp_path, monkeypatch):
    monkeypatch.setattr(guest, "compiled", lambda source, library: library)
    cases = (("sse amx_tile", "6.1um", True), ("sse", "6.1um", False), ("amx_tile", "6.1-amd64", False))
    for flags, cell, found in cases:
        monkeypatch.setattr(guest.Path, "read_text", lambda path, encoding, flags=flags: f"flags : {flags}")
        assert ("LD_PRELOAD" in guest._preload(CELLS[cell], tmp_path)) is found


def test_no_compiler_then_no_library(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert guest.compiled(guest.HERE / "xstate.c", tmp_path / "xstate.so") is None


def test_disk_without_mkfs_then_none(tmp_path, monkeypatch):
    monkeypatch.setattr(guest, "_WITH_SBIN", {"PATH": str(tmp_path)})
    monkeypatch.setenv("PATH", str(tmp_path))
    assert guest._disk(CELLS["6.12-amd64"], tmp_path / "disk") == []


def test_kernel_inside_an_efi_program_then_taken_out():
    try:
        packed = subprocess.run(["zstd", "-c"], input=b"kernel" * 9, capture_output=True, check=True).stdout
    except OSError:
        pytest.skip("zstd")
    head = b"MZ\0\0zimg" + struct.pack("<II8x", 64, len(packed)) + b"zstd".ljust(40, b"\0")
    assert debian.unpacked(head + packed + b"\0" * 99) == b"kernel" * 9
    gzip = head.replace(b"zstd", b"gzip") + packed
    assert debian.unpacked(gzip) == gzip, "qemu unpacks gzip itself"
    assert debian.unpacked(b"\x7fELF") == b"\x7fELF"
    with pytest.raises(debian.NotToBeHad, match="zstd"):
        debian.unpacked(head + b"junk")


def test_emulated_cells_then_first_to_begin_and_where_they_were_in_the_table(tmp_path, monkeypatch, capsys):
    began = []
    monkeypatch.setattr(tool, "build", lambda cells, options: {})

    def run_in(cell, command, options):
        began.append(cell.name)
        return guest.Outcome(0, "1 passed in 1s\n", 1.0)

    monkeypatch.setattr(tool, "run_in", run_in)
    assert tool.main(["set", "6.1um,6.12-s390x,6.12um", "--logs", str(tmp_path), "-j", "1"]) == 0
    assert began == ["6.12-s390x", "6.1um", "6.12um"]
    table = capsys.readouterr().out.partition("| cell")[2]
    assert re.findall(r"^\| (6\S+)", table, re.MULTILINE) == ["6.1um", "6.12-s390x", "6.12um"]


def test_packages_of_an_old_layout_then_merged(tmp_path, monkeypatch):
    archive = tmp_path / "x.tar"
    with tarfile.open(archive, "w") as tar:
        for name, data in (("./lib/libc.so.6", b"C"), ("./usr/bin/tool", b"T"), ("./usr/share/doc/x", b"D")):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755
            tar.addfile(info, io.BytesIO(data))

    def members(package):
        with tarfile.open(package) as tar:
            for member in tar:
                yield tar, member

    monkeypatch.setattr(debian, "members", members)
    tree = tmp_path / "tree"
    (tree / "usr/lib").mkdir(parents=True)
    (tree / "lib").symlink_to("usr/lib")
    debian._unpack(archive, tree)
    assert (tree / "usr/lib/libc.so.6").read_bytes() == b"C"
    assert os.access(tree / "usr/bin/tool", os.X_OK)
    assert not (tree / "usr/share").exists()


def test_newest_package_then_by_numbers_and_not_by_letters():
    names = ["linux-image-5.10.0-9-686", "linux-image-5.10.0-32-686", "linux-image-5.10.0-10-686"]
    assert max(names, key=debian._by_version) == "linux-image-5.10.0-32-686"


@pytest.mark.parametrize(("said", "status"), [("[<604af645>] fatal_sigsegv+0x39", 126), ("panic", 125)])
def test_user_mode_kernel_without_room_for_registers_then_not_to_be_had(tmp_path, monkeypatch, said, status):
    monkeypatch.setattr(debian, "kernel", lambda *args: tmp_path)
    monkeypatch.setattr(debian, "root", lambda *args: tmp_path)
    monkeypatch.setattr(guest, "run", lambda *args: guest.Outcome(guest.NO_REPORT, said, 1.0))
    options = argparse.Namespace(cache=tmp_path, mirror=None, folder=tmp_path, timeout=1)
    assert tool.run_in(CELLS["5.10um"], "true", options).status == status


def test_kvm_when_the_cpu_can_then_used_and_without_it_when_the_guest_says_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(guest.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(guest.os, "access", lambda path, mode: path == "/dev/kvm")
    monkeypatch.setattr(guest.Path, "read_text", lambda path, encoding: "flags : fpu svm sse")
    assert guest._has_kvm(CELLS["6.12-amd64"])
    assert not guest._has_kvm(CELLS["6.12-s390x"])
    assert not guest._has_kvm(CELLS["6.12um"])
    ways = []

    def boot(cell, kernel, root, folder, command, limit, accel):
        words = guest._command_line(cell, kernel, tmp_path, tmp_path, accel)
        ways.append((words[words.index("-accel") + 1], words[words.index("-cpu") + 1]))
        return guest.Outcome(guest.NO_REPORT if accel == guest.KVM else 0, "", 1.0)

    monkeypatch.setattr(guest, "_run", boot)
    outcome = guest.run(CELLS["6.12-amd64"], tmp_path, tmp_path, tmp_path, "true", 1)
    assert outcome.status == 0
    assert ways == [("kvm", "host"), ("tcg,tb-size=256", "max")]
    monkeypatch.setattr(guest.Path, "read_text", lambda path, encoding: "flags : fpu sse")
    assert not guest._has_kvm(CELLS["6.12-amd64"]), "a device without a CPU behind it"


def test_record_then_the_rows_that_were_run_take_the_place_of_older_ones(tmp_path):
    path = tmp_path / "recorded.json"
    tool.record([{"cell": "6.12um", "status": 0, "passed": 1}, {"cell": "5.10um", "status": 0}], path)
    tool.record([{"cell": "6.12um", "status": 1, "passed": 2}, {"cell": "7.2um", "status": 126}], path)
    rows = json.loads(path.read_text(encoding="utf-8"))
    assert [(row["cell"], row.get("passed")) for row in rows] == [("5.10um", None), ("6.12um", 2)]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", row["date"]) for row in rows)


def test_page_then_what_was_recorded():
    if not tool.PAGE.exists():
        pytest.skip("docs/kernels.md in this copy")
    assert tool.page() == tool.PAGE.read_text(encoding="utf-8")


@pytest.mark.requires_io_uring
def test_absent_then_the_command_finds_no_io_uring():
    probe = [sys.executable, "-m", "rawuring.probe", "--quiet"]
    command = inside.without_io_uring(probe)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    skip_without_seccomp(done)
    assert done.returncode == 1
    assert done.stdout.startswith(("io_uring: DENIED by seccomp", "io_uring: ABSENT"))
