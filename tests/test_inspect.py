# SPDX-License-Identifier: MIT
"""Rings seen through /proc: texts of five kernels, and this one."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import pytest

from rawuring import inspect, ops, rings, uapi

# What the kernels printed for a ring of 8 with a pending poll.
V5_10 = """pos:\t0
flags:\t02000002
mnt_id:\t10
SqThread:\t-1
SqThreadCpu:\t-1
UserFiles:\t0
UserBufs:\t0
PollList:
  op=6, task_works=0
"""
V6_1 = """pos:\t0
flags:\t02000002
mnt_id:\t11
ino:\t2749
SqMask:\t0x7
SqHead:\t1
SqTail:\t1
CachedSqHead:\t1
CqMask:\t0xf
CqHead:\t0
CqTail:\t0
CachedCqTail:\t0
SQEs:\t0
CQEs:\t0
SqThread:\t-1
SqThreadCpu:\t-1
UserFiles:\t0
UserBufs:\t0
PollList:
  op=6, task_works=0
CqOverflowList:
"""
V6_18 = """SqMask:\t0x3
SqHead:\t4294967295
SqTail:\t1
CachedSqHead:\t4294967295
CqMask:\t0x3
CqHead:\t0
CqTail:\t4
CachedCqTail:\t4
SQEs:\t2
    0: opcode:NOP, fd:-1, flags:0, off:0, addr:0x0, rw_flags:0x0, buf_index:0 user_data:7
    1: opcode:NOP, fd:-1, flags:0, off:0, addr:0x0, rw_flags:0x0, buf_index:0 user_data:8
CQEs:\t4
    0: user_data:0, res:0, flag:0
SqThread:\t99
SqThreadCpu:\t1
SqTotalTime:\t500
SqWorkTime:\t20
UserFiles:\t2
    0: /dev/null
    1: <none>
UserBufs:\t1
    0: 0x7f0000000000/4096
PollList:
  op=6, task_works=0
  op=6, task_works=0
  op=11, task_works=0
CqOverflowList:
  user_data=2, res=0, flags=0
  user_data=3, res=0, flags=0
NAPI:\tdisabled
"""


def test_parse_when_5_10_then_what_is_not_told_is_none():
    ring = inspect.parse_fdinfo(V5_10)
    assert ring["sq"] == {"entries": None, "head": None, "tail": None, "used": None, "cached": None}
    assert ring["polls"] == {"POLL_ADD": 1}
    assert ring["overflow"] is None
    assert ring["user_files"] == {"count": 0, "listed": []}
    assert ring["sq_thread"] is None


def test_parse_when_6_1_then_the_indices():
    ring = inspect.parse_fdinfo(V6_1)
    assert ring["sq"] == {"entries": 8, "head": 1, "tail": 1, "used": 0, "cached": 1}
    assert ring["cq"]["entries"] == 16
    assert ring["overflow"] == []


def test_parse_when_6_18_then_wrap_overflow_files_and_the_thread():
    ring = inspect.parse_fdinfo(V6_18)
    assert ring["sq"]["used"] == 2  # from 2**32 - 1 to 1
    assert ring["cq"]["used"] == 4
    assert ring["overflow"] == [2, 3]
    assert ring["polls"] == {"POLL_ADD": 2, "TIMEOUT": 1}
    assert ring["user_files"] == {"count": 2, "listed": ["0: /dev/null", "1: <none>"]}
    assert (ring["sq_thread"], ring["sq_cpu"], ring["sq_total_us"], ring["sq_work_us"]) == (99, 1, 500, 20)
    assert ring["napi"] == "disabled"


def test_parse_when_the_lock_is_held_then_no_lists():
    ring = inspect.parse_fdinfo(V6_18.partition("UserFiles")[0])
    assert ring["polls"] is None
    assert ring["user_files"]["count"] is None
    seen = [{"fd": 3, "other_fds": [], **ring}]
    text = inspect.describe({"pid": 1, "name": "x", "rings": seen, "error": None})
    assert "not told" in text


def test_describe_then_every_fact_is_in_the_text():
    ring = {"fd": 3, "other_fds": [4], **inspect.parse_fdinfo(V6_18)}
    text = inspect.describe({"pid": 7, "name": "prog", "rings": [ring], "error": None})
    for fact in (
        "7 (prog): uses io_uring, 1 ring", "descriptor 3, also 4", "2 of 4 used", "2 more wait for room",
        "2 x POLL_ADD", "1 x TIMEOUT", "/dev/null", "thread 99 on CPU 1, 20 of 500 us at work",
    ):  # fmt: skip
        assert fact in text


# ------------------------------------------------------------------------------------------------------
# A made-up /proc


@pytest.fixture
def proc(tmp_path):
    for pid, name, parent in ((10, "one", 1), (11, "two) (x", 10), (12, "three", 11), (20, "else", 1)):
        folder = tmp_path / str(pid)
        (folder / "fd").mkdir(parents=True)
        (folder / "fdinfo").mkdir()
        (folder / "comm").write_text(f"{name}\n")
        (folder / "stat").write_text(f"{pid} ({name}) S {parent} 1 1")
    (tmp_path / "10" / "fd" / "5").symlink_to(inspect.RING_LINK)
    (tmp_path / "10" / "fd" / "6").symlink_to("/dev/null")
    return tmp_path


def test_descendants_then_children_of_children(proc):
    assert inspect.descendants(10, str(proc)) == [10, 11, 12]
    assert list(inspect.all_processes(str(proc))) == [10, 11, 12, 20]


def test_look_at_when_refused_then_the_reason_and_what_to_do(proc, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "listdir", refuse)
    monkeypatch.setattr(sys, "platform", "linux")
    report = inspect.look_at(10, str(proc))
    assert report["rings"] == []
    assert "CAP_SYS_PTRACE" in report["error"]
    assert "unknown" in inspect.describe(report)


def test_look_at_when_there_is_no_such_process_then_it_says_so(proc):
    assert "no process 99" in inspect.look_at(99, str(proc))["error"] or not sys.platform.startswith("linux")


def test_explain_when_not_linux_then_there_is_no_such_thing(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "on this system" in inspect.explain(OSError(2, "x"), 1)


# ------------------------------------------------------------------------------------------------------
# This kernel


@pytest.mark.requires_io_uring
def test_this_process_when_it_has_a_ring_then_found_with_its_poll_and_fill(capsys):
    reader, writer = os.pipe()
    with rings.Ring(4) as ring:
        ops.prep_poll_add(ring.get_sqe(), reader, 1, user_data=1)
        ops.prep_nop(ring.get_sqe(), user_data=2)
        ring.submit()
        report = inspect.look_at("self")
        mine = [found for found in report["rings"] if ring.fileno() in (found["fd"], *found["other_fds"])]
        assert report["error"] is None
        assert len(mine) == 1
        if mine[0]["sq"]["used"] is not None:  # told since 5.17
            assert mine[0]["sq"] == {"entries": 4, "head": 2, "tail": 2, "used": 0, "cached": 2}
            assert mine[0]["cq"]["used"] == 1
        assert mine[0]["polls"] in ({"POLL_ADD": 1}, None)
        assert inspect.main(["self"]) == 0
        assert "uses io_uring" in capsys.readouterr().out
        assert inspect.main([str(os.getpid()), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["processes"][0]["pid"] == os.getpid()
    os.close(reader)
    os.close(writer)


@pytest.mark.requires_io_uring
def test_ring_with_several_descriptors_then_one_ring_where_inodes_are_its_own():
    with rings.Ring(4) as ring:
        second = os.dup(ring.fileno())
        found = [each for each in inspect.rings_of("self") if second in (each["fd"], *each["other_fds"])]
        assert len(found) == 1
        shared = os.fstat(ring.fileno()).st_ino == inspect._shared_inode()
        assert shared or ring.fileno() in (found[0]["fd"], *found[0]["other_fds"])
        os.close(second)


@pytest.mark.requires_io_uring
def test_child_with_a_ring_then_found_from_outside():
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from rawuring import Ring\n"
        "r = Ring(2); print(1, flush=True); input(); r.close()"
    )
    root = os.path.dirname(os.path.dirname(inspect.__file__))
    command = [sys.executable, "-c", script, root]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline().strip() == b"1"
        report = inspect.look_at(child.pid)
        if report["error"]:
            child.communicate(b"\n")
            pytest.skip(f"looking at a child: {report['error']}")
        assert report["rings"]
        assert child.pid in inspect.descendants(os.getpid())
        child.communicate(b"\n")


@pytest.mark.requires_io_uring
def test_sqpoll_ring_then_its_thread_is_named():
    try:
        ring = rings.Ring(2, flags=uapi.IORING_SETUP_SQPOLL)
    except OSError as error:
        pytest.skip(f"SQPOLL (5.11 without privileges): {error}")
    with ring:
        found = [r for r in inspect.rings_of("self") if ring.fileno() in (r["fd"], *r["other_fds"])]
        assert found[0]["sq_thread"] or found[0]["polls"] is None


def test_command_line_when_used_wrongly_then_a_usage_error(capsys):
    for arguments in ([], ["x"], ["1", "--all"]):
        with pytest.raises(SystemExit):
            inspect.main(arguments)
    capsys.readouterr()


@pytest.mark.parametrize(
    ("reports", "code"),
    [
        ([{"rings": [1], "error": None}, {"rings": [], "error": "no"}], 0),
        ([{"rings": [], "error": "no"}, {"rings": [], "error": None}], 4),
        ([{"rings": [], "error": None}], 1),
    ],
)
def test_exit_code_then_found_or_cannot_tell_or_none(monkeypatch, reports, code):
    monkeypatch.setattr(inspect, "_collect", lambda options: reports)
    monkeypatch.setattr(inspect, "_print", lambda reports, options: None)
    assert inspect.main(["1"]) == code
