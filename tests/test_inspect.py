# SPDX-License-Identifier: MIT
"""Rings seen through /proc: texts from five kernels, and from this one."""

from __future__ import annotations

import builtins
import errno
import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import test_probe
import test_probe_denied

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
# A fake /proc


@pytest.fixture
def proc(tmp_path):
    processes = ((1, "init", 0), (10, "one", 1), (11, "two) (x", 10), (12, "three", 11), (20, "else", 1))
    for pid, name, parent in processes:
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
    assert list(inspect.all_processes(str(proc))) == [1, 10, 11, 12, 20]


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
        if mine[0]["sq"]["used"] is not None:  # known since 5.17
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
            pytest.skip(f"inspection of a child: {report['error']}")
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
    ("reports", "unreadable", "code"),
    [
        ([{"rings": [1], "error": None}, {"rings": [], "error": "no"}], 1, 0),
        ([{"rings": [], "error": "no"}, {"rings": [], "error": None}], 1, 4),
        ([{"rings": [], "error": None}], 0, 1),
        ([{"rings": [], "error": None, "without_descriptor": {5: 4096}}], 0, 0),
        ([], 3, 4),
    ],
)
def test_exit_code_then_found_or_cannot_tell_or_none(monkeypatch, reports, unreadable, code):
    found = {"processes": reports, "counts": {"unreadable": unreadable}, "hidden": False}
    monkeypatch.setattr(inspect, "_collect", lambda options: found)
    monkeypatch.setattr(inspect, "_print", lambda reports, options: None)
    assert inspect.main(["1"]) == code


# ------------------------------------------------------------------------------------------------------
# The inventory, of a fake host

DOCKER = "0::/system.slice/docker-" + "0123456789ab" + "c" * 52 + ".scope\n"
MAPS = (
    "7f00-8f00 rw-s 00000000 00:10 2749    anon_inode:[io_uring]\n"
    "1000000-1002000 rw-s 10000000 00:10 2749    anon_inode:[io_uring]\n"
    "2000000-2001000 rw-s 00000000 00:10 77    anon_inode:[io_uring]\n"
    "3000000-3001000 rw-s 00000000 00:10 2749    /dev/zero\n"
)
STATUS = "Name:\tx\nUid:\t4000123\t4000123\t4000123\t4000123\nVmPin:\t      16 kB\n"


def thread(name, state, ticks):
    return f"1 ({name}) {state} 1 1 1 0 -1 64 0 0 0 0 {ticks} 0 0 0 20 0 3 0 1 2 3"


def kernel(release):
    return os.uname_result(("Linux", "x", release, "#1", "x86_64"))


@pytest.fixture
def host(proc, monkeypatch):
    """Add a process with everything, and one with unreadable files, on a new kernel."""
    if hasattr(os, "uname"):
        monkeypatch.setattr(os, "uname", lambda: kernel("6.18.0"))
    (proc / "10" / "fdinfo" / "5").write_text(V6_1.replace("SqThread:\t-1", "SqThread:\t31"))
    (proc / "10" / "status").write_text(STATUS)
    (proc / "10" / "cmdline").write_bytes(b"prog\0--evil=\x1b[2J\0")
    (proc / "10" / "cgroup").write_text(DOCKER)
    (proc / "10" / "maps").write_text(MAPS)
    tick = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
    for number, stat in (
        (10, thread("one", "S", 0)), (31, thread("iou-sqp-10", "S", 2 * tick)),
        (32, thread("iou-wrk-10", "D", tick)), (33, thread("iou-wrk-10", "S", tick)),
    ):  # fmt: skip
        (proc / "10" / "task" / str(number)).mkdir(parents=True)
        (proc / "10" / "task" / str(number) / "stat").write_text(stat)
    (proc / "20" / "fd" / "3").symlink_to(inspect.RING_LINK)
    (proc / "20" / "fdinfo" / "3").write_text(V6_18.replace("SqMask", "ino:\t99\nSqMask", 1))
    return proc


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc of Linux")


@linux
def test_inventory_then_every_figure_of_each_ring(host):
    found = inspect.inventory(str(host))
    assert found["counts"] == {"processes": 5, "with_rings": 2, "rings": 2, "ended": 0, "unreadable": 0}
    one, other = found["processes"]
    assert (one["pid"], one["name"], one["uid"], one["user"]) == (10, "one", 4000123, None)
    assert one["command"] == "prog --evil=\x1b[2J"
    assert one["container"] == "docker 0123456789ab"
    assert one["pinned"] == 16 * 1024
    assert one["workers"] == {"number": 2, "blocked": 1, "cpu_s": 2.0}
    assert one["without_descriptor"] == {77: 0x1000}
    assert one["unread"] == []
    (ring,) = one["rings"]
    assert (ring["inode"], ring["mapped"]) == (2749, 0x1000 + 0x2000)
    assert ring["sqpoll"] == {"state": "S", "cpu_s": 2.0}
    assert ring["flags"] == ["SQPOLL"]
    # Missing information is None, and is named; the inventory continues.
    assert (other["pid"], other["user"], other["container"], other["pinned"]) == (20, None, None, None)
    assert other["rings"][0]["mapped"] is None and other["workers"] is None
    assert {each.partition(":")[0] for each in other["unread"]} == {
        "status", "maps", "task", "cmdline", "cgroup",
    }  # fmt: skip


@linux
@pytest.mark.parametrize(("release", "told"), [("5.11.22", False), ("5.12.0-rc1", True), ("6.1.0-9", True)])
def test_workers_when_they_are_the_kernels_then_not_told_instead_of_none(host, monkeypatch, release, told):
    monkeypatch.setattr(os, "uname", lambda: kernel(release))
    report = inspect.look_at(10, str(host))
    assert (report["workers"] is not None) is told
    assert ("io-wq workers: not told" in inspect.describe(report)) is not told


@linux
def test_inventory_when_processes_end_or_refuse_then_they_are_counted(host, monkeypatch):
    real = os.listdir

    def listdir(path):
        if str(path).endswith("/11/fd"):
            raise ProcessLookupError(errno.ESRCH, "No such process")
        if str(path).endswith("/12/fd"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "listdir", listdir)
    found = inspect.inventory(str(host))
    assert found["counts"] == {"processes": 5, "with_rings": 2, "rings": 2, "ended": 1, "unreadable": 1}
    ((reason, number),) = found["unreadable"].items()
    assert number == 1 and "CAP_SYS_PTRACE" in reason


@linux
@pytest.mark.parametrize("number", [errno.ENOENT, errno.ESRCH])
def test_ring_when_it_goes_between_two_looks_then_it_is_none(host, monkeypatch, number):
    real = builtins.open

    def vanish(path, *arguments, **options):
        if "fdinfo" in str(path):
            raise OSError(number, "gone")
        return real(path, *arguments, **options)

    monkeypatch.setattr(builtins, "open", vanish)
    assert inspect.rings_of(10, str(host)) == []
    assert inspect.inventory(str(host))["counts"]["rings"] == 0


@linux
@pytest.mark.leakcheck
def test_inventory_of_this_host_then_nothing_is_left_behind():
    found = inspect.inventory()
    assert found["counts"]["processes"] >= 1
    assert len(found["processes"]) == found["counts"]["with_rings"]


@pytest.mark.parametrize(
    ("cgroup", "container"),
    [
        ("0::/\n", None),
        ("0::/system.slice/docker.service\n", None),
        ("0::/user.slice/user-0.slice/session-1.scope\n", None),
        (DOCKER, "docker 0123456789ab"),
        ("5:devices:/docker/" + "a" * 64 + "\n0::/\n", "docker aaaaaaaaaaaa"),
        ("0::/kubepods.slice/p.slice/cri-containerd-" + "b" * 64 + ".scope\n", "kubepods bbbbbbbbbbbb"),
        ("0::/machine.slice/libpod-" + "c" * 64 + ".scope/container\n", "libpod cccccccccccc"),
        ("0::/lxc.payload.web/init.scope\n", "lxc web"),
        ("0::/machine.slice/machine-web.scope/payload\n", "machine web"),
        ("0::/" + "d" * 64 + "\n", "container dddddddddddd"),
    ],
)  # fmt: skip
def test_container_then_kind_and_name(cgroup, container):
    assert inspect.container_of(cgroup) == container


@pytest.fixture
def command_on(host, monkeypatch, capsys):
    """Run the command on the fake host."""

    def run(*arguments):
        for function in ("inventory", "look_at", "descendants"):
            real = getattr(inspect, function)
            if not hasattr(real, "func"):
                partial = functools.partial(real, proc=str(host))
                monkeypatch.setattr(inspect, function, partial)
        code = inspect.main([str(each) for each in arguments])
        return code, capsys.readouterr().out

    return run


@linux
def test_all_then_a_table_that_a_terminal_can_show(command_on):
    code, out = command_on("--all")
    lines = out.splitlines()
    assert code == 0
    assert lines[0].split() == list(inspect._COLUMNS)
    assert lines[1].split()[:12] == [
        "10", "5", "4000123", "docker", "0123456789ab", "0/8", "0/16", "0", "1", "0", "0", "12KiB",
    ]  # fmt: skip
    assert lines[1].endswith(r"2.00s  2     SQPOLL prog --evil=\x1b[2J")
    assert lines[2].split()[:4] == ["20", "3", "?", "-"] and lines[2].endswith(" else")
    assert lines[3] == "5 processes, 2 with io_uring; rings: 2"
    assert "of 1 not everything could be read, for example 20: status" in lines[4]
    assert "\x1b" not in out


@linux
def test_all_when_proc_hides_processes_then_it_says_so_and_cannot_tell(command_on, host):
    for name in ("1", "10", "20"):
        (host / name).rename(host / f"gone-{name}")
    code, out = command_on("--all")
    assert code == 4
    assert "process 1 is not listed: /proc hides" in out


@linux
def test_all_as_json_then_the_processes_with_rings_and_the_counts(command_on):
    code, out = command_on("--all", "--json")
    data = json.loads(out)
    assert code == 0 and data["schema"] == 1
    assert [each["pid"] for each in data["processes"]] == [10, 20]
    assert data["counts"]["processes"] == 5 and data["unreadable"] == {}
    assert [each["what"] for each in data["processes"][1]["rings"][0]["unusual"]] == [
        "the CQ overflows: 2 CQEs wait in the kernel for room",
        "its SQPOLL thread is gone",
    ]


@linux
def test_explain_then_each_figure_what_is_unusual_and_where_it_is_written(command_on, monkeypatch):
    monkeypatch.setattr(inspect, "_MOMENT_S", 0)
    code, out = command_on("10", "20", "11", "--explain")
    assert code == 0
    for fact in (
        "10 (one)", "command: prog --evil=\\x1b[2J", "container: docker 0123456789ab",
        "submission queue: 0 of 8", "memory: 12 KiB mapped", "SQPOLL: thread 31", "2.00 s of CPU time",
        "io-wq workers: 2, 2.00 s of CPU",
        "UNUSUAL: 1 of 2 io-wq workers of the process are blocked", "UNUSUAL: the CQ overflows: 2 CQEs",
        "UNUSUAL: 2 entries of the SQ wait, and none was taken meanwhile", "11 (two) (x): no io_uring",
        "see docs/confusions.md, 6. The SQ reports CQ overflow",
    ):  # fmt: skip
        assert fact in out, fact
    assert "\x1b" not in out


@linux
def test_watch_without_a_terminal_then_a_line_for_each_change(command_on, host, monkeypatch):
    later = iter([
        lambda: (host / "10" / "fdinfo" / "5").write_text(V6_1.replace("SqTail:\t1", "SqTail:\t3")),
        lambda: None,
        lambda: (host / "20" / "fd" / "3").unlink(),
    ])  # fmt: skip
    monkeypatch.setattr("time.sleep", lambda seconds: next(later)())
    monkeypatch.setattr("time.strftime", lambda form: "12:00:00")
    code, out = command_on("--all", "--watch", "7", "--count", "4")
    assert code == 0
    lines = [line.partition(" ")[2] for line in out.splitlines()]
    assert [line[:14] for line in lines[:2]] == ["+ PID 10 FD 5 ", "+ PID 20 FD 3 "]
    assert lines[2] == "5 processes, 2 with io_uring; rings: 2"
    assert lines[4:] == [
        "  PID 10 FD 5: SQ 2/8 (was 0/8), SQPOLL - (was 2.00s), FLAGS - (was SQPOLL)",
        "- PID 20 FD 3: gone",
    ]


@linux
def test_watch_as_json_then_an_object_on_each_line(command_on, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    _, out = command_on("10", "--watch", "0", "--count", "3", "--json")
    assert [json.loads(line)["processes"][0]["pid"] for line in out.splitlines()] == [10, 10, 10]


@linux
def test_watch_on_a_terminal_then_a_page_that_fits_and_what_changed_is_bold(command_on, host, monkeypatch):
    change = (host / "10" / "fdinfo" / "5").write_text
    monkeypatch.setattr("time.sleep", lambda seconds: change(V6_1.replace("SqTail:\t1", "SqTail:\t3")))
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("LINES", "7")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    _, out = command_on("--all", "--watch", "--count", "2")
    first, second = out.split("\x1b[H")[1:]
    for page in (first, second):
        lines = re.sub(r"\x1b\[[0-9]*[mKJ]", "", page).splitlines()
        assert len(lines) <= 6 and max(map(len, lines)) <= 40
    assert "\x1b[1m" not in first
    assert "\x1b[1m2/8" in second


@pytest.mark.parametrize(
    "arguments",
    [("--all", "--explain"), ("1", "--explain", "--watch"), ("1", "--watch", "-1"), ("1", "--watch", "nan")],
    ids=" ".join,
)
def test_command_line_when_options_do_not_go_together_then_a_usage_error(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        inspect.main(arguments)
    assert left.value.code == 2
    capsys.readouterr()


def test_command_when_there_is_no_proc_then_4_and_one_line(monkeypatch, capsys):
    def refuse(path):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(os, "listdir", refuse)
    assert inspect.main(["--all"]) == 4
    error = capsys.readouterr().err
    assert error.startswith("rawuring.inspect: cannot list /proc: ") and error.count("\n") == 1


# ------------------------------------------------------------------------------------------------------
# Unusual findings


def ring_of(text, **changed):
    ring = {"fd": 3, "other_fds": [], "inode": 1, "mapped": 0, "sqpoll": None, **inspect.parse_fdinfo(text)}
    return {**ring, **changed}


FULL = V6_1.replace("SqTail:\t1", "SqTail:\t9")
DAMAGED = V6_1.replace("SqTail:\t1", "SqTail:\t900")
WAITS = V6_1.replace("SqTail:\t1", "SqTail:\t2")
CQ_FULL = V6_1.replace("CqTail:\t0\nCached", "CqTail:\t16\nCached")
CQ_WAITS = V6_1.replace("CqTail:\t0\nCached", "CqTail:\t3\nCached")
OVERFLOWS = CQ_FULL + "  user_data=5, res=0, flags=0\n"
WOKEN = V6_1.replace("task_works=0", "task_works=1")
LOCKED = V6_1.partition("UserFiles")[0]
SPINS = V6_1.replace("UserFiles", "SqTotalTime:\t500\nSqWorkTime:\t20\nUserFiles")


@pytest.mark.parametrize(
    ("text", "before", "what"),
    [
        (V6_1, V6_1, None),
        (V5_10, V5_10, None),
        (FULL, None, "the SQ is full"),
        (DAMAGED, None, "the SQ says that 899 of its 8 entries are used"),
        (WAITS, None, None),
        (WAITS, V6_1, None),
        (WAITS, WAITS, "1 entries of the SQ wait"),
        (CQ_FULL, None, "the CQ is full"),
        (OVERFLOWS, None, "the CQ overflows: 1 CQEs"),
        (CQ_WAITS, None, None),
        (CQ_WAITS, CQ_WAITS, "3 CQEs wait, and none was reaped"),
        (WOKEN, None, None),
        (WOKEN, V6_1, None),
        (WOKEN, WOKEN, "1 polls hang"),
        (LOCKED, V6_1, None),
        (LOCKED, LOCKED, "the ring's lock was held"),
        (SPINS.replace("500", "900"), SPINS, "its SQPOLL thread spins without work"),
        (SPINS.replace("500", "900").replace("20", "30"), SPINS, None),
    ],
)
def test_unusual_then_it_is_found_and_a_healthy_ring_has_nothing(text, before, what):
    ring, earlier = ring_of(text), before and ring_of(before)
    found = inspect.unusual(ring, earlier)
    assert [odd.what[: len(what or "")] for odd in found] == ([what] if what else [])
    explained = inspect.explain_ring(ring, earlier)
    assert ("UNUSUAL" in explained) is bool(what)
    assert ("nothing unusual" in explained) is not bool(what)


def test_unusual_when_the_sqpoll_thread_is_gone_then_it_is_found():
    ring = ring_of(V6_1, sq_thread=31, sqpoll={"state": None, "cpu_s": None})
    assert [odd.what for odd in inspect.unusual(ring)] == ["its SQPOLL thread is gone"]


@pytest.mark.parametrize("page", sorted(set(inspect._PAGES.values())))
def test_pages_then_they_have_such_a_section(page):
    file, _, heading = page.partition(", ")
    root = Path(__file__).resolve().parent.parent
    assert f"\n## {heading}\n" in (root / file).read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------------------
# This kernel, as a whole


@pytest.mark.requires_io_uring
def test_details_of_this_process_then_memory_and_user_are_those_of_other_sources():
    with rings.Ring(64) as ring:
        report = inspect.look_at("self")
        (mine,) = (r for r in report["rings"] if ring.fileno() in (r["fd"], *r["other_fds"]))
        assert report["uid"] == os.getuid()
        assert str(sys.executable).rpartition("/")[2][:4] in report["command"]
        assert report["unread"] == []
        if mine["inode"] is not None:
            assert mine["mapped"] >= 64 * 64 + 128 * 16  # SQEs and CQEs
            assert mine["mapped"] % 4096 == 0
    text = inspect.describe(report)
    assert "memory" in text and "user: " in text


@pytest.mark.requires_io_uring
def test_ring_with_an_overflow_then_it_is_told_as_unusual():
    with rings.Ring(2, flags=uapi.IORING_SETUP_CQSIZE, cq_entries=2) as ring:
        for _ in range(4):
            ops.prep_nop(ring.get_sqe(), user_data=1)
            ring.submit()
        report = inspect.look_at("self")
        (mine,) = (r for r in report["rings"] if ring.fileno() in (r["fd"], *r["other_fds"]))
        if mine["overflow"] is None:
            pytest.skip("CqOverflowList in fdinfo (5.17)")
        assert [odd.what for odd in inspect.unusual(mine)] == [
            "the CQ overflows: 2 CQEs wait in the kernel for room"
        ]
        assert len(ring.reap()) == 4


UNPRIVILEGED = """
import contextlib, io, os, sys
sys.path.insert(0, sys.argv[1])
from rawuring import inspect
with contextlib.redirect_stdout(io.StringIO()):
    inspect.main(["self"])  # imports modules that the user nobody may be unable to read
os.setgroups([]); os.setgid(65534); os.setuid(65534)
sys.exit(inspect.main(["--all"]))
"""


@linux
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="root, to become another user")
def test_all_as_nobody_then_what_may_not_be_read_is_counted():
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    done = subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED, root], capture_output=True, text=True, timeout=60, cwd="/"
    )
    assert done.stderr == ""
    assert done.returncode in (0, 4)
    assert "could not be looked at: may not look at process" in done.stdout


# ------------------------------------------------------------------------------------------------------
# Hostile environments: those of the probe's tests

IN_ENVIRONMENT = """
import contextlib, io, os, sys
from rawuring import command, inspect
with contextlib.redirect_stdout(io.StringIO()):
    inspect.main(["self", "--json"])  # imports modules that could not be read in there
{environment}
command.run(lambda: inspect.main(sys.argv[2:]))
"""


@pytest.mark.long
@linux
@pytest.mark.requires_io_uring
@pytest.mark.parametrize("arguments", [("--all",), ("--all", "--json"), ("self", "--explain")], ids=" ".join)
@pytest.mark.parametrize("name", test_probe_denied.ENVIRONMENTS)
def test_environment_then_an_answer_or_one_line_and_its_exit_code(name, arguments):
    environment, *_, feature = test_probe_denied.ENVIRONMENTS[name]
    environment = environment.replace(test_probe.WARM, "")
    done = test_probe.run(IN_ENVIRONMENT.format(environment=environment), "-", *arguments)
    if done.returncode == 77:
        pytest.skip(feature)
    assert "Traceback" not in done.stderr
    if name in ("no descriptors", "hidden /proc") and arguments[0] == "--all":
        assert done.returncode == 4
        assert done.stderr.startswith("rawuring.inspect: cannot list /proc: ")
        assert done.stderr.count("\n") == 1
    else:
        assert done.stderr == "" and done.stdout
        assert done.returncode in (0, 1, 4)
        if "--json" in arguments:
            assert json.loads(done.stdout)["counts"]["processes"] >= 1
