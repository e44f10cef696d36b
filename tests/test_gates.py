# SPDX-License-Identifier: MIT
"""gates.py: the rows that apply to a kernel, and their use in the library."""

from __future__ import annotations

import errno
import importlib.util
import os
import re
import select
import types
from pathlib import Path

import pytest

from rawuring import fdmon, gates, params, register, syscalls, uapi

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("release", "numbers"),
    [("5.10.46", (5, 10, 46)), ("6.12.113-cloud-amd64", (6, 12, 113)), ("7.2", (7, 2)),
     ("6.18.44-fc", (6, 18, 44)), ("5.15.0-91-generic", (5, 15, 0)), ("6.8rc3", (6, 8)), ("", ()), ("x", ())],
)  # fmt: skip
def test_release_then_its_numbers(release, numbers):
    assert gates.version(release) == numbers


@pytest.mark.parametrize(
    ("release", "there", "not_there"),
    [
        ("5.10.46", {"sqpoll-burns", "enable-nothing", "memlock"}, {"memlock-again", "resize-wide"}),
        ("5.10.185-x", {"sqpoll-burns"}, {"enable-nothing"}),
        ("5.10.186", set(), {"sqpoll-burns"}),
        ("5.10.223-1", {"lost-poll-update"}, {"enable-nothing"}),
        ("5.7.19", {"tty-poll"}, set()),
        ("5.8.0", set(), {"tty-poll"}),
        ("5.15.90", set(), {"close-etxtbsy"}),
        ("5.16", {"close-etxtbsy"}, {"lost-poll-update"}),
        ("6.1.159", {"drain-starts", "lost-poll-update"}, {"close-etxtbsy"}),
        ("6.1.160", {"drain-starts"}, {"lost-poll-update"}),
        ("6.14", {"memlock-again", "resize-wide"}, {"memlock"}),
        ("6.16.12", {"bundle-single"}, {"unix-scm-inq"}),
        ("6.18.3", {"unix-scm-inq"}, {"bundle-single"}),
        ("6.18.10", set(), {"worker-leaves"}),
        ("6.18.11", {"worker-leaves"}, set()),
        ("6.18.27", set(), {"resize-wide", "unix-scm-inq"}),
        ("6.19", set(), {"worker-leaves"}),
        ("6.19.14", {"resize-wide"}, {"lost-poll-update"}),
        ("7.0.4", set(), {"resize-wide"}),
        ("7.2", {"memlock-again", "worker-leaves"}, {"iowait"}),
        ("", set(), {gate.name for gate in gates.GATES}),
    ],
)
def test_release_then_the_rows_that_apply(release, there, not_there):
    names = {gate.name for gate in gates.applying(release)}
    assert there <= names
    assert not names & not_there
    assert all(gates.applies(name, release) for name in names)


@pytest.mark.parametrize(
    ("release", "version", "found"),
    [
        ("5.10.0-32-cloud-amd64", "#1 SMP Debian 5.10.223-1 (2024-08-10)", "5.10.223-1"),
        ("6.12.113", "#1 Thu Nov  5 17:06:45 UTC 2026", "6.12.113"),
        ("6.18.44-fc", "#1 SMP PREEMPT_DYNAMIC @0", "6.18.44-fc"),
        ("6.12.9-x", "#1 SMP Debian 5.10.223-1", "6.12.9-x"),  # of another kernel: ignored
    ],
)
def test_distribution_that_freezes_the_release_then_the_real_one(monkeypatch, release, version, found):
    name = type("U", (), {"release": release, "version": version, "machine": "x86_64"})
    monkeypatch.setattr(os, "uname", lambda: name)
    assert gates.running() == found


def test_rows_then_ranges_and_sources():
    assert len({gate.name for gate in gates.GATES}) == len(gates.GATES)
    for gate in gates.GATES:
        assert gate.kernels, gate
        assert gate.name and gate.what and gate.library and gate.source, gate
        bounds = [gates.version(bound) for kernels in gate.kernels for bound in kernels]
        bounds[-1] = bounds[-1] or (9999,)
        assert bounds == sorted(set(bounds)), gate


def kernel(release):
    return type("U", (), {"release": release, "version": "#1", "machine": "x86_64"})


def test_wish_for_sqpoll_on_a_kernel_that_burns_then_dropped(monkeypatch):
    given = []

    def setup(entries, params):
        given.append(uapi.io_uring_params.unpack(params)["flags"])
        return 3

    monkeypatch.setattr(syscalls, "io_uring_setup", setup)
    monkeypatch.setattr(os, "uname", lambda: kernel("5.10.46"))
    wish = uapi.IORING_SETUP_SQPOLL | uapi.IORING_SETUP_SQ_AFF | uapi.IORING_SETUP_CLAMP
    _, _, dropped = params.setup(4, 0, wish, {}, 4)
    assert given == [uapi.IORING_SETUP_CLAMP]
    assert dropped == [("IORING_SETUP_SQPOLL", 0), ("IORING_SETUP_SQ_AFF", 0)]
    params.setup(4, uapi.IORING_SETUP_SQPOLL, 0, {}, 4)
    assert given[-1] == uapi.IORING_SETUP_SQPOLL
    monkeypatch.setattr(os, "uname", lambda: kernel("5.10.186"))
    params.setup(4, 0, wish, {}, 4)
    assert given[-1] == wish


@pytest.mark.parametrize(
    ("release", "high", "refused"),
    [("6.1.176", True, True), ("6.1.176", False, False), ("6.6", True, False), ("5.18.2", True, False)],
)
def test_buffer_ring_where_the_kernel_would_crash_then_refused_before_the_call(
    monkeypatch, release, high, refused
):
    """Linux 6.1 on i386 crashed in io_buffer_select, during the test."""
    monkeypatch.setattr(gates, "running", lambda: release)
    monkeypatch.setattr(register, "_has_high_memory", lambda: high)

    class Called(Exception):
        pass

    def call(*arguments):
        raise Called("the kernel")

    monkeypatch.setattr(register, "_register", call)
    ring = types.SimpleNamespace(resources={})
    expected = (OSError, "kernel_memory=True") if refused else (Called, "the kernel")
    with pytest.raises(expected[0], match=expected[1]):
        register.setup_buf_ring(ring, 1, 4, 64)
    with pytest.raises(Called):
        register.setup_buf_ring(ring, 1, 4, 64, kernel_memory=True)


@pytest.mark.parametrize(
    ("text", "high"), [("HighTotal: 0 kB\n", False), ("MemTotal: 1\nHighTotal: 9 kB\n", True), ("", False)]
)
def test_high_memory_then_as_meminfo_says(monkeypatch, tmp_path, text, high):
    path = tmp_path / "meminfo"
    path.write_text(text, encoding="ascii")
    monkeypatch.setattr("builtins.open", lambda *_, **__: path.open(encoding="ascii"))
    assert register._has_high_memory() is high


@pytest.mark.requires_io_uring
def test_poll_that_answers_einval_then_watched_through_epoll():
    """A terminal before 5.8, simulated: the answer is invented, and the descriptor is a pipe."""
    monitor = fdmon.IoUringFDMon()
    r, w = os.pipe()
    try:
        assert monitor.wait(0) == []  # arms the monitor's own descriptor
        node = monitor.add(r, select.POLLIN, lambda *_: None)
        monitor.fill_sq_ring()
        assert monitor.ring.discard() == [node.token]
        events = []
        monitor.process_cqe(events, (node.token, -errno.EINVAL, 0))
        assert events == []
        assert monitor.wait(0) == []
        os.write(w, b"x")
        for _ in range(2):  # level-triggered
            assert monitor.wait(2_000_000_000) == [(node, select.POLLIN)]
        os.read(r, 1)
        assert monitor.wait(0) == []
    finally:
        monitor.destroy()
        os.close(r)
        os.close(w)


def test_page_of_kernels_then_every_row():
    spec = importlib.util.spec_from_file_location("gates_table", ROOT / "tools" / "gates_table.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    text = (ROOT / "docs" / "kernels.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- gates -->\n(.*)<!-- end -->", text, re.DOTALL)
    assert found[1] == tool.table(), "run python3 tools/gates_table.py"
