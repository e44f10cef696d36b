# SPDX-License-Identifier: MIT
"""The system calls: their numbers everywhere, the width of arguments, errno, signals, deadlines."""

from __future__ import annotations

import errno
import json
import os
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rawuring import buffers, syscalls, uapi

ABI = json.loads((Path(__file__).parent / "data" / "abi.json").read_text())
ROOT = Path(__file__).resolve().parent.parent


def test_numbers_then_those_of_the_kernels_tables():
    known = {name: row for name, row in ABI["syscalls"].items() if name != "aarch64_compat32"}
    names = ("io_uring_setup", "io_uring_enter", "io_uring_register", "membarrier")
    assert {
        name: tuple(row[each] for each in names) for name, row in known.items()
    } == syscalls.SYSCALL_NUMBERS
    compat = ABI["syscalls"]["aarch64_compat32"]
    assert tuple(compat[each] for each in names) == syscalls.SYSCALL_NUMBERS["arm"]


@pytest.mark.parametrize(
    ("machine", "wide", "expected"),
    [
        ("x86_64", True, "x86_64"),
        ("i686", False, "i386"),
        ("i386", False, "i386"),
        ("i686", True, None),
        ("aarch64", True, "aarch64"),
        ("aarch64", False, "arm"),
        ("armv7l", False, "arm"),
        ("armv8l", False, "arm"),
        ("armv7l", True, None),
        ("riscv64", True, "riscv64"),
        ("s390x", True, "s390x"),
        ("s390x", False, None),
        ("ppc64le", True, "ppc64le"),
        ("ppc64", True, "ppc64"),
        ("ppc64", False, "ppc"),
        ("mips64", True, "mips_n64"),
        ("alpha", True, "alpha"),
        ("sparc64", True, "sparc64"),
        ("sparc64", False, "sparc"),
        ("sh4", False, "sh"),
        ("loongarch64", True, "loongarch64"),
        ("ia64", True, None),
        ("toaster", True, None),
        ("toaster", False, None),
    ],
)
def test_machine_then_its_table_or_none(machine, wide, expected):
    assert syscalls._lookup_abi(machine, wide, "/nonexistent") == expected


@pytest.mark.parametrize(
    ("machine", "e_machine", "e_flags", "big", "expected"),
    [
        ("x86_64", 3, 0, False, "i386"),
        ("x86_64", 62, 0, False, "x32"),
        ("mips64", 8, 0x20, True, "mips_n32"),
        ("mips64", 8, 0x20, False, "mips_n32"),
        ("mips64", 8, 0, True, "mips_o32"),
        ("mips", 8, 0x1000, False, "mips_o32"),
        ("x86_64", 40, 0, False, None),
    ],
)
def test_32_bit_process_then_its_elf_header_decides(tmp_path, machine, e_machine, e_flags, big, expected):
    order = ">" if big else "<"
    header = b"\x7fELF\x01" + bytes([2 if big else 1]) + bytes(10)
    header += struct.pack(order + "HHIIIIIHHHHHH", 2, e_machine, 1, 0, 0, 0, e_flags, 52, 0, 0, 0, 0, 0)
    path = tmp_path / "python"
    path.write_bytes(header)
    assert syscalls._lookup_abi(machine, False, str(path)) == expected


def test_not_an_elf_file_then_none(tmp_path):
    path = tmp_path / "python"
    for content in (b"", b"#!/bin/sh\n" * 10, b"\x7fELF\x02" + bytes(60)):
        path.write_bytes(content)
        assert syscalls._abi_of_elf(str(path)) is None
    assert syscalls._abi_of_elf(str(tmp_path / "absent")) is None


def test_unknown_machine_then_an_error_never_a_guess(monkeypatch):
    monkeypatch.setattr(syscalls.os, "uname", lambda: os.uname_result(("Linux", "n", "6.1", "v", "toaster")))
    with pytest.raises(syscalls.Unavailable, match="toaster"):
        syscalls.abi()


def test_the_abi_of_this_process_is_known():
    assert syscalls.abi() in syscalls.SYSCALL_NUMBERS


@pytest.mark.parametrize(
    "arguments", [(-1, 0, 0), (0, -1, 0), (0, 0, -1), (2**32, 0, 0), (0, 2**32, 0), (0, 0, 2**40)]
)
def test_enter_with_arguments_that_are_not_u32_then_value_error(arguments):
    with pytest.raises(ValueError, match="u32"):
        syscalls.io_uring_enter(-1, *arguments)


def test_other_calls_with_arguments_that_are_not_u32_then_value_error():
    with pytest.raises(ValueError, match="entries"):
        syscalls.io_uring_setup(2**32, bytearray(120))
    with pytest.raises(ValueError, match="120"):
        syscalls.io_uring_setup(1, bytearray(119))
    with pytest.raises(ValueError, match="opcode"):
        syscalls.io_uring_register(-1, -1, None, 0)
    with pytest.raises(ValueError, match="nr_args"):
        syscalls.io_uring_register(-1, 0, None, 2**32)


@pytest.mark.requires_io_uring
def test_negative_descriptor_then_ebadf():
    with pytest.raises(OSError) as caught:
        syscalls.io_uring_enter(-1, 0, 0, 0)
    assert caught.value.errno == errno.EBADF


@pytest.mark.requires_io_uring
@pytest.mark.leakcheck
def test_address_given_as_an_int_then_all_64_bits_arrive():
    params = bytearray(120)
    fd = syscalls.io_uring_setup(2, params)
    try:
        memory = buffers.allocate(16 + 256 * 8)
        address = buffers.pin(memory, writable=True).address
        try:
            syscalls.io_uring_register(fd, uapi.IORING_REGISTER_PROBE, address, 256)
        except OSError as error:
            pytest.skip(f"IORING_REGISTER_PROBE (Linux 5.6): {error}")
        assert memory[0] > 20
        wrong = address + (1 << 60)
        if struct.calcsize("P") == 4:
            with pytest.raises(ValueError, match="address"):
                syscalls.io_uring_register(fd, uapi.IORING_REGISTER_PROBE, wrong, 256)
            return
        with pytest.raises(OSError) as caught:
            syscalls.io_uring_register(fd, uapi.IORING_REGISTER_PROBE, wrong, 256)
        assert caught.value.errno == errno.EFAULT
    finally:
        os.close(fd)


@pytest.mark.requires_io_uring
def test_calls_failing_in_eight_threads_then_each_sees_its_own_errno():
    read_end, write_end = os.pipe()
    wrong = []
    barrier = threading.Barrier(8)

    def fail(fd: int, expected: int) -> None:
        barrier.wait()
        for _ in range(2000):
            try:
                syscalls.io_uring_enter(fd, 0, 0, 0)
            except OSError as error:
                if error.errno != expected:
                    wrong.append((error.errno, expected))

    threads = [
        threading.Thread(target=fail, args=pair)
        for pair in [(-1, errno.EBADF), (read_end, errno.EOPNOTSUPP)] * 4
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.close(read_end)
    os.close(write_end)
    assert wrong == []


def test_interrupted_calls_then_repeated(monkeypatch):
    syscalls._load()
    answers = [-1, -1, -1, 5]
    errnos = [errno.EINTR, 0, errno.EINTR]  # 0: a failing call of a signal handler consumed ours
    for name in ("_syscall", "_syscall_enter"):
        monkeypatch.setattr(syscalls, name, lambda *_: answers.pop(0))
    monkeypatch.setattr(syscalls, "_set_errno", lambda _: errnos.pop(0))
    assert syscalls.io_uring_enter(3, 0, 0, 0) == 5
    answers, errnos = [-1, -1, 6], [0, errno.EINTR]
    assert syscalls.io_uring_register(3, 0, None, 0) == 6
    answers, errnos = [-1, -1, 7], [0, errno.EINTR]
    assert syscalls.io_uring_setup(3, bytearray(120)) == 7


def test_interrupted_wait_then_the_time_that_is_left(monkeypatch):
    timeout = syscalls.GeteventsArg()
    timeout.start(100_000_000_000)
    seen = []

    def call(*arguments) -> int:
        seen.append(struct.unpack_from("=qq", bytes(arguments[5]), 24))
        timeout.deadline_ns -= 10_000_000_000
        return -1 if len(seen) < 4 else 0

    monkeypatch.setattr(syscalls, "_syscall_enter", call)
    monkeypatch.setattr(syscalls, "_set_errno", lambda _: errno.EINTR)
    assert syscalls.io_uring_enter(3, 0, 1, 1, timeout) == 0
    left = [seconds + nanoseconds / 1e9 for seconds, nanoseconds in seen]
    assert left == sorted(left, reverse=True)
    assert 0 < left[-1] < 71


def test_deadline_passed_then_0_and_no_error(monkeypatch):
    monkeypatch.setattr(syscalls, "_syscall_enter", lambda *_: -1)
    monkeypatch.setattr(syscalls, "_set_errno", lambda _: errno.ETIME)
    assert syscalls.io_uring_enter(3, 0, 1, 1, syscalls.GeteventsArg()) == 0


@pytest.mark.parametrize(
    ("timeout_ns", "expected"),
    [(-5, (0, 0)), (0, (0, 0)), (1 << 90, (1 << 40, None)), (3_600_000_000_000, (3599, None))],
)
def test_getevents_arg_then_laid_out_as_the_header_says(timeout_ns, expected):
    arg = syscalls.GeteventsArg()
    arg.start(timeout_ns, min_wait_usec=7)
    memory = bytes(arg.fill())
    fields = uapi.io_uring_getevents_arg.unpack(memory)
    assert arg.size.value == uapi.io_uring_getevents_arg.size
    assert (fields["sigmask"], fields["sigmask_sz"], fields["min_wait_usec"]) == (0, 0, 7)
    assert fields["ts"] % 8 == 0
    seconds, nanoseconds = struct.unpack_from("=qq", memory, arg.size.value)
    assert seconds == expected[0]
    assert 0 <= nanoseconds < 10**9


def test_timeouts_begun_one_after_another_then_each_stands_in_the_memory_alone():
    arg = syscalls.GeteventsArg()
    for timeout_ns in (1, 5_000_000_007, 5_000_000_007, None, 5_000_000_007, 1 << 90, 3, 3):
        if timeout_ns is None:
            arg.start(2, min_wait_usec=7, sigmask=[1])
            arg.fill()
            continue
        memory = bytes(arg.begin(timeout_ns))
        fields = uapi.io_uring_getevents_arg.unpack(memory)
        assert (fields["sigmask"], fields["sigmask_sz"], fields["min_wait_usec"]) == (0, 0, 0)
        seconds, nanoseconds = divmod(timeout_ns, 10**9)
        assert struct.unpack_from("=qq", memory, arg.size.value) == (min(seconds, 1 << 40), nanoseconds)


def test_remaining_time_never_negative():
    arg = syscalls.GeteventsArg()
    arg.start(1)
    while time.monotonic_ns() <= arg.deadline_ns:
        continue
    assert arg.remaining_ns() == 0


def test_other_systems_then_unavailable_not_a_crash():
    code = (
        "import sys; sys.platform = 'darwin'\nfrom rawuring import syscalls, uapi\n"
        "try:\n syscalls.io_uring_setup(2, bytearray(120))\n"
        "except syscalls.Unavailable as error:\n print(error.cause, error.errno, error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith(f"not-linux {errno.ENOSYS} ")
