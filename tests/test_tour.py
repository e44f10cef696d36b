# SPDX-License-Identifier: MIT
"""The tour prints the same on every kernel, and its output is committed."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
from pathlib import Path

import driver
import pytest

from rawuring import buffers, fakekernel, handle, ops, rings, syscalls, tour, uapi

ROOT = Path(__file__).resolve().parent.parent
MORE = uapi.IORING_CQE_F_MORE
PAGE = ROOT / "docs" / "tour.md"


def text_on(kernel, chapters=()):
    parts = []
    tour.run(kernel, parts.append, chapters)
    return "".join(parts)


def golden():
    if not PAGE.exists():
        pytest.skip("docs/tour.md in this copy")
    page = PAGE.read_text(encoding="utf-8")

    def underlined(found):
        return f"\n\n{found[1]}. {found[2]}\n{'=' * (len(found[2]) + 3)}\n"

    page = re.sub(r"\n```\n\n## (\d+)\. (.*)\n\n```text\n", underlined, page)
    return re.search(r"```text\n(.*)```", page, re.DOTALL)[1]


def test_tour_on_the_python_kernel_then_the_committed_text():
    assert text_on(tour.PythonKernel()).strip("\n") == golden().strip("\n")


@pytest.mark.requires_io_uring
@pytest.mark.leakcheck
def test_tour_on_this_kernel_then_the_same_text():
    text = text_on(tour.RealKernel())
    if "(on the pure-Python kernel, because" in text:
        text = re.sub(r"\n\(on the pure-Python kernel, because[^\n]*\n", "", text)
    assert text.strip("\n") == golden().strip("\n")


ELSEWHERE = """
import ctypes, os, shutil, sys  # shutil first: it asks sys.platform which modules Python itself has

def no_libc(*arguments, **options):
    raise OSError("there is no such library")

sys.platform, ctypes.CDLL = sys.argv[1], no_libc
if sys.platform == "win32":
    del os.uname, os.register_at_fork
from rawuring import layout, tour
assert layout.main(["--ops"]) == layout.main(["--op", "RECV"]) == layout.main([]) == 0
print("==== tour")
assert tour.main([]) == 0
"""


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_tour_and_layout_on_another_system_then_the_same_text(platform):
    command = [sys.executable, "-c", ELSEWHERE, platform]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    sentence, _, text = done.stdout.partition("==== tour\n")[2].partition("\n")
    assert sentence.startswith("On the pure-Python kernel") and f"This is {platform}" in sentence
    assert text.strip("\n") == golden().strip("\n")


def test_fake_ring_when_it_waits_then_no_system_call_is_made(monkeypatch):
    def forbidden(*arguments):
        raise AssertionError("a fake ring called the real io_uring_enter")

    monkeypatch.setattr(syscalls, "_syscall_enter", forbidden)
    monkeypatch.setattr(syscalls, "_syscall", forbidden, raising=False)
    with fakekernel.fake_ring(entries=2) as (_, ring):
        for turn in (ring.submit_and_wait, ring.submit_and_reap):
            ops.prep_nop(ring.get_sqe(), user_data=1)
            turn(1)
    assert syscalls._syscall_enter is forbidden


def test_tour_when_a_step_changes_a_word_then_the_line_says_who_and_how():
    text = text_on(tour.PythonKernel(), [2])
    lines = [line for line in text.splitlines() if line.startswith("    ") and "->" in line]
    assert [(line.split()[0], "kernel" in line) for line in lines if line.split()[0] != "name"] == [
        ("sq.sqe_tail", False),
        ("sq.ktail", False),
        ("sq.khead", True),
        ("cq.ktail", True),
        ("cq.khead", False),
    ]


def test_changes_when_a_word_moves_then_it_is_noticed():
    with fakekernel.fake_ring(entries=2, poison=False) as (kernel, ring):
        before = tour.snapshot(ring)
        assert tour.changes(before, tour.snapshot(ring)) == ["    (no word changed)"]
        kernel.store(kernel.cq_off["overflow"], 3)
        assert "0 -> 3" in tour.changes(before, tour.snapshot(ring))[0]


def test_choose_when_the_kernel_refuses_then_python_and_the_reason(monkeypatch):
    def refuse(entries):
        raise OSError(1, "forbidden here")

    monkeypatch.setattr(rings, "Ring", refuse)
    kernel, sentence = tour.choose("auto")
    assert isinstance(kernel, tour.PythonKernel)
    assert "forbidden here" in sentence
    with pytest.raises(OSError, match="forbidden here"):
        tour.choose("kernel")


def test_sqpoll_chapter_when_refused_then_shown_on_the_python_kernel(monkeypatch):
    class Refusing(tour.PythonKernel):
        def ring(self, entries, cq_entries=0, flags=0):
            if flags:
                raise syscalls.Unavailable(1, "setup", "policy", "")
            return super().ring(entries, cq_entries, flags)

    text = text_on(Refusing(), [1, 10])
    assert "on the pure-Python kernel, because" in text
    assert "NEED_WAKEUP" in text


def test_command_line_when_a_chapter_is_named_then_only_that(capsys):
    assert tour.main(["--on", "python", "4"]) == 0
    out = capsys.readouterr().out
    assert "4. A batch" in out
    assert "5. Wrap" not in out
    with pytest.raises(SystemExit):
        tour.main(["--on", "python", "11"])


# ------------------------------------------------------------------------------------------------------
# The fake kernel's newer parts, compared with the real one


@pytest.fixture(params=["python", "kernel"])
def kernel(request):
    if request.param == "kernel":
        request.getfixturevalue("requires_io_uring")
        return tour.RealKernel()
    return tour.PythonKernel()


def test_link_when_the_first_fails_then_the_rest_of_the_chain_is_cancelled_and_the_next_is_not(kernel):
    with kernel.ring(8) as ring:
        ops.prep_poll_remove(ring.get_sqe(), 99, user_data=1, flags=uapi.IOSQE_IO_LINK)
        ops.prep_nop(ring.get_sqe(), user_data=2, flags=uapi.IOSQE_IO_LINK)
        ops.prep_nop(ring.get_sqe(), user_data=3)
        ops.prep_nop(ring.get_sqe(), user_data=4)
        ring.submit_and_wait(4)
        assert sorted(ring.reap()) == [(1, -2, 0), (2, -125, 0), (3, -125, 0), (4, 0, 0)]


def test_poll_when_ready_already_then_at_once_and_only_once(kernel):
    with kernel.ring(4) as ring, kernel.pipe() as fd:
        kernel.write(fd)
        ops.prep_poll_add(ring.get_sqe(), fd, 1, user_data=5)
        ring.submit_and_wait(1)
        ((user_data, res, flags),) = ring.reap()
        assert (user_data, res & 1, flags) == (5, 1, 0)
        ops.prep_poll_remove(ring.get_sqe(), 5, user_data=6)
        ring.submit_and_wait(1)
        assert ring.reap() == [(6, -2, 0)]


def test_sq_thread_when_work_came_just_before_sleep_then_it_does_not_sleep():
    with fakekernel.fake_ring(entries=2, flags=uapi.IORING_SETUP_SQPOLL) as (kernel, ring):
        ops.prep_nop(ring.get_sqe(), user_data=1)
        ring.sq.flush()
        kernel.put_sq_thread_to_sleep()
        assert ring.sq.flags() == 0
        assert ring.reap() == [(1, 0, 0)]


def test_rings_where_fork_hooks_do_not_exist_then_they_work(monkeypatch):
    monkeypatch.delattr("os.register_at_fork", raising=False)
    monkeypatch.setattr(handle, "_hooked", False)
    with fakekernel.fake_ring(entries=2) as (_, ring):
        assert not ring.closed


def test_multishot_poll_when_events_come_then_more_until_it_is_removed_or_finds_no_room(kernel):
    if kernel.name == "kernel" and driver.kernel_release() < (5, 13):
        pytest.skip("IORING_POLL_ADD_MULTI (Linux 5.13)")
    with kernel.ring(4) as ring, kernel.pipe() as fd:
        ops.prep_poll_multishot(ring.get_sqe(), fd, 1, user_data=5)
        ring.submit()
        for _ in range(2):
            kernel.write(fd)
            ring.submit_and_wait(1)
            assert [(cqe[0], cqe[1] & 1, cqe[2] & MORE) for cqe in ring.reap()] == [(5, 1, MORE)]
        ops.prep_cancel64(ring.get_sqe(), 5, 0, user_data=6)
        ring.submit_and_wait(2)
        assert sorted(ring.reap()) == [(5, -errno.ECANCELED, 0), (6, 0, 0)]
        ops.prep_cancel64(ring.get_sqe(), 5, 0, user_data=7)
        ring.submit_and_wait(1)
        assert ring.reap() == [(7, -errno.ENOENT, 0)]


def test_read_when_it_waits_then_a_cancel_ends_it(kernel):
    with kernel.ring(4) as ring, kernel.pipe() as fd:
        memory = buffers.allocate(16)
        target = buffers.pin(memory, writable=True)
        ops.prep_read(ring.get_sqe(), fd, target.address, 16, -1, user_data=5)
        ring.submit()
        ops.prep_cancel64(ring.get_sqe(), 5, 0, user_data=6)
        ring.submit_and_wait(2)
        assert sorted(ring.reap()) == [(5, -errno.ECANCELED, 0), (6, 0, 0)]


def test_read_with_provided_buffers_then_it_says_which_and_fails_where_there_is_none(kernel):
    if kernel.name == "kernel" and driver.kernel_release() < (5, 15):
        pytest.skip("PROVIDE_BUFFERS that completes with 0 (Linux 5.15)")
    with kernel.ring(4) as ring, kernel.pipe() as fd:
        memory = buffers.allocate(64)
        pool = buffers.pin(memory, writable=True)
        ops.prep_provide_buffers(ring.get_sqe(), pool.address, 32, 2, 9, 7, user_data=1)
        ring.submit_and_wait(1)
        assert ring.reap() == [(1, 0, 0)]
        for number, data in ((7, b"first"), (8, b"second")):
            kernel.write(fd, data)
            sqe = ring.get_sqe()
            ops.prep_read(sqe, fd, 0, 32, -1, user_data=2, flags=uapi.IOSQE_BUFFER_SELECT)
            ops.set_fields(sqe, buf_group=9)
            ring.submit_and_wait(1)
            flags = uapi.IORING_CQE_F_BUFFER | number << uapi.IORING_CQE_BUFFER_SHIFT
            assert [(cqe[0], cqe[1], cqe[2] & ~4) for cqe in ring.reap()] == [(2, len(data), flags)]
            assert bytes(memory[32 * (number - 7) :][: len(data)]) == data
        kernel.write(fd)
        sqe = ring.get_sqe()
        ops.prep_read(sqe, fd, 0, 32, -1, user_data=3, flags=uapi.IOSQE_BUFFER_SELECT)
        ops.set_fields(sqe, buf_group=9)
        ring.submit_and_wait(1)
        assert ring.reap() == [(3, -errno.ENOBUFS, 0)]
