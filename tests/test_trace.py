# SPDX-License-Identifier: MIT
"""RAWURING_TRACE: the lines written, their summary, and no effect without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import hypothesis
import hypothesis.strategies
import leaks
import pytest

from rawuring import fakekernel, inflight, ops, play, playtrace, register, rings, trace, uapi

ROOT = str(Path(rings.__file__).parent.parent)


@pytest.fixture
def path(tmp_path, monkeypatch):
    found = tmp_path / "run.jsonl"
    monkeypatch.setenv("RAWURING_TRACE", str(found))
    monkeypatch.setattr(trace, "_logs", {})
    yield found
    for log in trace._logs.values():
        log.write()
        log.close()
        trace.atexit.unregister(log.write)


def write_all():
    for log in trace._logs.values():
        log.write()


def events(path, kind=""):
    write_all()
    found = [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]
    return [event for event in found if not kind or event[0] == kind]


def test_trace_when_requests_go_round_then_each_has_its_lines(path):
    before = time.monotonic_ns()
    with fakekernel.fake_ring(entries=4) as (_, ring):
        for turn in (ring.submit_and_reap, ring.submit_and_wait):
            for user_data in (1, 2):
                ops.prep_nop(ring.get_sqe(), user_data=user_data)
            turn(2)
            ring.reap()
    found = events(path)
    assert [event[0] for event in found] == ["r", *["s", "s", "e", "c", "c"] * 2, "x"]
    nop = uapi.IORING_OP_NOP
    assert [event[3:6] for event in found if event[0] == "s"] == [[1, nop, 0], [2, nop, 0]] * 2
    assert [event[3:] for event in found if event[0] == "c"] == [[1, 0, 0], [2, 0, 0]] * 2
    enter = events(path, "e")[0]
    assert enter[4:6] == [2, 2] and enter[7:] == [2, 0, 2]
    taken, submitted = ([event[at] for event in found if event[0] == "s"] for at in (6, 1))
    assert taken[0] <= taken[1] <= submitted[0] == submitted[1] <= taken[2] and found[0][1] <= taken[0]
    times = [event[1] for event in found]
    assert times == sorted(times) and before <= times[0] <= times[-1] <= time.monotonic_ns()


def test_trace_when_slots_are_given_back_then_the_times_are_those_of_the_others(path):
    with fakekernel.fake_ring(entries=8) as (kernel, ring):
        ops.prep_nop(ring.get_sqe(), user_data=5)
        assert len(ring.sq.taken) == 1
        assert ring.discard() == [5] and ring.sq.taken == []
        ring.push(bytes(128))
        first, second = ring.sq.taken
        assert first == second
        kernel.at_most.append(1)  # the other is submitted later, and is not a new line
        ring.submit()
        ring.put(bytes(64))
        ring.submit()
        ring.submit()
        assert len(ring.reap()) == 3 and ring.sq.taken == []
    lines = events(path, "s")
    assert [event[6] for event in lines[:2]] == [first, second] and len(lines) == 3


def test_trace_of_a_table_then_its_handlers_have_times_and_stay_themselves(path):
    def handler(res, flags):
        begun.append(time.monotonic_ns())

    begun = []
    with fakekernel.fake_ring(entries=4) as (kernel, ring):
        table = inflight.InFlight(ring)
        assert isinstance(table, trace.TracedInFlight)
        kernel.pipes[3] = bytearray()
        poll = table.start(ops.prep_poll_multishot, 3, 1, handler=handler)
        nop = table.start(ops.prep_nop, handler=handler)
        table.start(ops.prep_nop)  # has no handler
        token = table.hold(handler)
        ops.prep_nop(ring.get_sqe(), user_data=token)
        ring.submit()
        kernel.feed(3, b"1")
        kernel.feed(3, b"2")
        table.reap()
        assert table.dispatch() == 4
        assert [each.handler for each in table.requests()] == [handler]
    found = events(path, "h")
    assert [event[4] for event in found] == [nop, token, poll, poll, poll]  # the last one at the close
    assert len(begun) == 5
    assert all(event[1] <= at <= event[2] for event, at in zip(found, begun))


def test_trace_when_a_handler_raises_then_its_line_is_there_and_the_others_wait(path):
    with fakekernel.fake_ring(entries=4) as (_, ring):
        table = inflight.InFlight(ring)
        for _ in range(2):
            table.start(ops.prep_nop, handler=lambda res, flags: 1 // 0)
        ring.submit()
        table.reap()
        for count in (1, 2):
            with pytest.raises(ZeroDivisionError):
                table.dispatch()
            assert len(events(path, "h")) == count


@pytest.mark.requires_io_uring
def test_trace_of_a_worker_then_it_is_counted(path):
    with rings.Ring(4) as ring:
        if not ring.features & uapi.IORING_FEAT_NATIVE_WORKERS:
            pytest.skip("workers are threads of the process from 5.12 on (IORING_FEAT_NATIVE_WORKERS)")
        ops.prep_nop(ring.get_sqe(), user_data=1, flags=uapi.IOSQE_ASYNC)
        ring.submit_and_reap(1)
    looks = [event[3] for event in events(path, "w")]
    assert {event[2] for event in events(path, "w")} == {os.getpid()}
    assert len(looks) >= 2 and looks[-1] >= 1


@pytest.mark.requires_io_uring
def test_trace_of_an_fsync_then_a_worker_is_never_ruled_out(path, tmp_path):
    with rings.Ring(4) as ring, open(tmp_path / "file", "wb") as file:
        if not ring.features & uapi.IORING_FEAT_NATIVE_WORKERS:
            pytest.skip("workers are threads of the process from 5.12 on (IORING_FEAT_NATIVE_WORKERS)")
        for user_data in range(20):
            file.write(b"x")
            file.flush()
            ops.prep_fsync(ring.get_sqe(), file.fileno(), 0, user_data=user_data)
            ring.submit()
            ring.submit_and_reap(1)
    write_all()
    with open(path, encoding="utf-8") as lines:
        found = playtrace.summarise(lines)
    assert found["workers"] >= 1
    assert playtrace.NO_WORKER not in dict(found["operations"][0]["ways"])


def test_trace_when_the_kernel_refuses_a_call_then_its_errno(path):
    with fakekernel.fake_ring(entries=4) as (kernel, ring):
        kernel.failures.append(11)
        ops.prep_nop(ring.get_sqe(), user_data=1)
        with pytest.raises(OSError, match="11"):
            ring.submit()
        ring.submit()
        ring.reap()
    assert [event[7] for event in events(path, "e")] == [-11, 1]
    assert len(events(path, "s")) == 1  # published once


def test_trace_with_sqpoll_then_each_sqe_once(path):
    with fakekernel.fake_ring(entries=4, flags=uapi.IORING_SETUP_SQPOLL) as (kernel, ring):
        for user_data in range(6):
            ops.prep_nop(ring.get_sqe(), user_data=user_data)
            ring.submit()
            kernel.run_sq_thread()
        ring.reap()
    assert [event[3] for event in events(path, "s")] == list(range(6))


def test_trace_beside_debug_mode_then_both(path, monkeypatch):
    monkeypatch.setenv("RAWURING_DEBUG", "1")
    monkeypatch.setenv("RAWURING_DEBUG_LOG", "-")
    with fakekernel.fake_ring(entries=4) as (_, ring):
        table = inflight.InFlight(ring)
        seen = []
        table.start(ops.prep_nop, handler=lambda *cqe: seen.append(cqe[0]))
        ring.submit_and_wait(1)
        table.reap()
        table.dispatch()
        assert isinstance(ring, trace.TracedRing) and hasattr(ring, "check")
    assert len(seen) == 1 and len(events(path, "c")) == 1


@pytest.mark.requires_io_uring
def test_trace_when_the_ring_is_resized_then_it_goes_on(path):
    names = ("SINGLE_ISSUER", "DEFER_TASKRUN", "NO_SQARRAY")
    with rings.Ring(4, wish=sum(getattr(uapi, f"IORING_SETUP_{name}") for name in names)) as ring:
        try:
            register.resize_rings(ring, 8)
        except OSError as error:
            pytest.skip(f"RESIZE_RINGS (6.13): {error}")
        for user_data in (5, 6):
            ops.prep_nop(ring.get_sqe(), user_data=user_data)
        ring.submit_and_wait(2)
        assert len(ring.reap()) == 2
    assert [event[3] for event in events(path, "s")] == [5, 6]


@pytest.mark.requires_io_uring
def test_trace_on_this_kernel_then_the_sums_are_right(path):
    with rings.Ring(8) as ring:
        for _ in range(30):
            ops.prep_nop(ring.get_sqe(), user_data=1)
            ring.submit_and_reap(1)
        for user_data in range(8):
            ops.prep_nop(ring.get_sqe(), user_data=user_data)
        ring.submit()
        assert len(ring.reap()) == 8
    write_all()
    with open(path, encoding="utf-8") as lines:
        found = playtrace.summarise(lines)
    assert (found["requests"], found["done"], found["left_count"], found["calls"]) == (38, 38, 0, 31)
    assert found["batches"] == [(1, 30), (8, 1)] and (found["at_once"], found["offered"]) == (8, 8)
    assert [each["title"] for each in found["findings"]] == [
        "One request per enter: 30 of 31 calls that submitted", "Waits with an SQ half empty: 30 of 30",
    ]  # fmt: skip
    assert max(found["bins"]["in_flight"]) == 8


def test_trace_when_the_file_cannot_be_written_then_a_warning_and_the_ring_works(monkeypatch, tmp_path):
    monkeypatch.setenv("RAWURING_TRACE", str(tmp_path / "nowhere" / "run.jsonl"))
    with pytest.warns(RuntimeWarning, match="nothing is traced"):
        ring = fakekernel.FakeRing(fakekernel.FakeKernel(entries=2))
    with ring:
        ops.prep_nop(ring.get_sqe(), user_data=1)
        assert ring.submit_and_reap(1) == [(1, 0, 0)]
        assert not isinstance(ring, trace.TracedRing)


def test_without_the_variable_then_nothing_is_imported_and_the_ring_is_a_ring():
    program = (
        "import sys\nfrom rawuring import fakekernel\n"
        "with fakekernel.fake_ring(entries=2) as (_, ring):\n"
        "    assert type(ring) is fakekernel.FakeRing\n"
        "assert 'rawuring.trace' not in sys.modules"
    )
    environment = {key: value for key, value in os.environ.items() if key != "RAWURING_TRACE"}
    environment["PYTHONPATH"] = ROOT
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=60)


@pytest.fixture
def log(tmp_path):
    found = trace.Log(str(tmp_path / "run.jsonl"))
    yield found
    found.close()


def test_trace_when_two_threads_name_their_rings_at_once_then_differently(log, monkeypatch):
    names = []

    def getpid():
        if not names:
            names.append("")
            names[0] = log.name()  # as another thread may at this moment
        return 1

    monkeypatch.setattr(os, "getpid", getpid)
    names.append(log.name())
    assert len(set(names)) == 2


def test_trace_when_a_block_is_written_while_a_line_is_added_then_the_line_is_kept(log):
    class Lines(type(log._lines)):
        def append(self, line):
            log.write()  # as another thread may at this moment
            super().append(line)

    log._lines = Lines()
    log.add("1")
    log.add("2")
    log.write()
    assert Path(log.path).read_text(encoding="ascii") == "1\n2\n"


def test_trace_when_two_threads_write_then_the_lines_keep_their_order(log, monkeypatch):
    """The one that began first wrote last: a CQE stood before its SQE."""
    write, others = os.write, ["2"]

    def write_beside_another(fd, data):
        if others:
            log.add(others.pop())
            log.write()  # as another thread may at this moment
        return write(fd, data)

    monkeypatch.setattr(os, "write", write_beside_another)
    log.add("1")
    log.write()
    assert Path(log.path).read_text(encoding="ascii") == "1\n2\n"


def test_trace_when_two_threads_open_the_file_at_once_then_one_log(path, monkeypatch):
    """Each had a log, and so the names of their rings were the same."""
    real, logs = trace.Log, []

    def make(name):
        monkeypatch.setattr(trace, "Log", real)
        logs.append(trace._open_log(name))  # as another thread may at this moment
        return real(name)

    monkeypatch.setattr(trace, "Log", make)
    logs.append(trace._open_log(str(path)))
    assert logs[0] is logs[1]
    if sys.platform == "linux":
        assert list(leaks.descriptors().values()).count(str(path)) == 1


CHILD = """
import os, sys
from rawuring import fakekernel, ops
def turn(ring, user_data):
    ops.prep_nop(ring.get_sqe(), user_data=user_data)
    ring.submit_and_reap(1)
with fakekernel.fake_ring(entries=2) as (_, ring):
    turn(ring, 1)
    child = os.fork()
    if not child:
        with fakekernel.fake_ring(entries=2) as (_, other):
            turn(other, 2)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    turn(ring, 3)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_trace_when_a_child_is_forked_then_no_line_is_written_twice(tmp_path):
    path = tmp_path / "run.jsonl"
    environment = {**os.environ, "PYTHONPATH": ROOT, "RAWURING_TRACE": str(path), "PYTHONWARNINGS": ""}
    subprocess.run([sys.executable, "-c", CHILD], env=environment, check=True, timeout=60)
    lines = [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]
    assert sorted(event[3] for event in lines if event[0] == "s") == [1, 2, 3]
    assert len({event[2] for event in lines if event[0] == "r"}) == 2


# ------------------------------------------------------------------------------------------------------
# Its evaluation


def invented(requests, per_call=4):
    yield '["r",0,"1.1",64,128,0]'
    for i in range(0, requests, per_call):
        for n in range(i, min(i + per_call, requests)):
            yield f'["s",{i * 100},"1.1",{n},22,0]'
        yield f'["e",{i * 100},{i * 100 + 10},"1.1",{per_call},1,1,{per_call},0,{per_call}]'
        for n in range(i, min(i + per_call, requests)):
            yield f'["c",{i * 100 + 50 + n},"1.1",{n},{-5 if n == 7 else 16},0]'


@pytest.mark.long
def test_summary_when_the_trace_is_long_then_it_is_sampled_and_says_so():
    requests = 50_000
    page = play.trace_page(invented(requests))
    assert page.isascii() and len(page) < 400_000
    found = playtrace.summarise(invented(requests))
    assert found["requests"] == found["done"] == requests
    assert found["lines"] == 1 + 2 * requests + requests // 4
    assert len(found["sample"]) <= playtrace.SAMPLE
    slowest = max(each["at"][3] - each["at"][1] for each in found["sample"])
    assert slowest == found["operations"][0]["max"] == 50 + requests - 1
    assert found["operations"][0]["count"] == requests
    assert sum(found["bins"]["submitted"]) == sum(found["bins"]["reaped"]) == requests


def test_summary_when_something_is_wrong_then_it_stands_first():
    lines = [
        *invented(40, per_call=1), '["o",9,"1.1"]', '["s",9,"1.1",77,6,0]', '["e",9,9,"1.1",1,0,0,-16,0,0]',
        '["s",9,"1.1",78', "nonsense", "[]", '["c",1]',
    ]  # fmt: skip
    found = playtrace.summarise(lines)
    assert [(each["level"], each["title"]) for each in found["findings"]] == [
        ("bad", "The CQ overflowed: seen 1 times"),
        ("bad", "io_uring_enter failed with EBUSY: 1 times"),
        ("bad", "1 request was still in flight at the end"),
        ("bad", "READ completed with -EIO: 1 times"),
        ("look", "One request per enter: 40 of 40 calls that submitted"),
        ("look", "Waits with an SQ half empty: 40 of 40"),
        ("look", f"4 of {len(lines)} lines could not be read"),
    ]
    assert found["left"] == [{"op": "POLL_ADD", "user_data": "77", "ring": "1.1", "since": 9}]


S, E, C = '["s",10,"1.1",7,0,0]', '["e",10,20,"1.1",1,0,0,1,0,1]', '["c",60,"1.1",7,0,0]'
NOTHING, FOUND = '["e",10,20,"1.1",1,0,0,1,0,0]', '["e",40,50,"1.1",0,0,1,0,1,1]'
WAYS = [  # a request submitted at 10 and reaped at 60, the path derived, and when it was first seen
    ([S, E, C], playtrace.AT_ONCE, 20),
    ([S, '["e",10,20,"1.1",1,1,1,1,0,1]', C], playtrace.IN_CALL, 20),
    (['["s",10,"1.1",7,0,16]', E, C], playtrace.WORKER, 20),
    # The CQE available when the call returned belonged to another request.
    (['["s",10,"1.1",6,0,0]', S, '["e",10,20,"1.1",2,0,0,2,0,1]', '["c",30,"1.1",6,0,0]',
      '["e",40,50,"1.1",0,1,1,0,0,1]', C, '["w",70,1,0]'], playtrace.NO_WORKER, 50),
    (['["e",1,2,"1.1",0,0,1,0,0,1]', S, '["e",10,20,"1.1",1,0,0,1,1,2]', '["c",30,"1.1",1,0,0]', C],
     playtrace.AT_ONCE, 20),
    ([S, NOTHING, FOUND, C, '["w",70,1,1]'], playtrace.LATER, 40),
    ([S, NOTHING, FOUND, C, '["w",70,1,0]'], playtrace.NO_WORKER, 40),
    ([S, NOTHING, FOUND, C, '["w",6000000000,1,0]'], playtrace.LATER, 40),  # it may have ended by then
    ([S, NOTHING, FOUND, C, '["w",70,2,0]'], playtrace.LATER, 40),  # another process has no workers
    # Not consumed by the first call, nor by one that took the SQE before it.
    (['["s",10,"1.1",6,0,0]', S, '["e",10,20,"1.1",2,0,0,1,0,1]', '["c",30,"1.1",6,0,0]',
      '["e",40,50,"1.1",1,0,0,1,0,1]', C], playtrace.AT_ONCE, 50),
    ([S, '["e",10,20,"1.1",1,0,0,-11,0,0]', '["e",40,50,"1.1",1,0,0,1,0,1]', C], playtrace.AT_ONCE, 50),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "way", "seen"), WAYS)
def test_summary_then_the_way_of_a_request_is_what_is_known(lines, way, seen):
    found = playtrace.summarise(['["r",0,"1.1",4,8,0]', *lines])
    (last,) = (each for each in found["sample"] if each["user_data"] == "7")
    assert last["way"] == way
    assert dict(found["operations"][0]["ways"])[way] >= 1
    first = min(json.loads(lines[0])[1], 10)
    assert last["at"][2] == seen - first


PARTS = hypothesis.strategies.one_of(
    hypothesis.strategies.sampled_from(("1.1", "</script><b>", 7, 6, 0, 1, 16)),
    hypothesis.strategies.integers(-(2**70), 2**70), hypothesis.strategies.none(),
    hypothesis.strategies.floats(), hypothesis.strategies.lists(hypothesis.strategies.integers(), max_size=1),
)  # fmt: skip
EVENTS = hypothesis.strategies.tuples(
    hypothesis.strategies.sampled_from("rsechowx"), hypothesis.strategies.lists(PARTS, max_size=9)
)


@hypothesis.given(hypothesis.strategies.lists(EVENTS, max_size=12))
def test_page_of_any_lines_then_it_is_made_and_what_they_say_is_no_markup(drawn):
    lines = [
        '["r",0,"1.1",4,8,0]', '["r",0,"</script><b>",4,8,0]', '["s",10,"</script><b>",7,0,0]',
        *(json.dumps([kind, *parts]) for kind, parts in drawn),
    ]  # fmt: skip
    data = play.trace_page(lines).partition('id="data">')[2].partition("</script>\n<script>")[0]
    assert "<" not in data and "</script><b>" in json.dumps(json.loads(data))


def test_summary_then_each_stage_has_its_time():
    token = inflight.TOKEN_BASE + 3
    lines = [
        '["r",1,"1.1",4,8,0]', f'["s",100,"1.1",{token},22,0,90]', '["e",100,120,"1.1",1,1,1,1,0,1]',
        f'["c",150,"1.1",{token},16,0]', f'["h",200,20000200,"1.1",{token}]',
    ]  # fmt: skip
    found = playtrace.summarise(lines)
    assert [(each["name"], each["max"]) for each in found["stages"]] == list(
        zip(playtrace.STAGES, (10, 20, 30, 50, 20_000_000))
    )
    assert found["sample"] == [
        {"op": "READ", "user_data": "#3", "res": 16, "way": playtrace.IN_CALL,
         "at": [-10, 0, 20, 50, 100, 20_000_100]},
    ]  # fmt: skip
    assert [each["title"] for each in found["findings"]] == ["A handler ran for 20 ms: READ #3"]


@pytest.mark.long
def test_summary_of_a_million_lines_then_the_page_is_as_small():
    assert len(play.trace_page(invented(445_000))) < 100_000


def test_summary_of_multishot_requests_then_they_end_with_the_last_cqe():
    lines = ['["r",0,"1.1",4,8,0]', '["s",5,"1.1",3,6,0]', '["c",7,"1.1",3,1,2]', '["c",9,"1.1",3,-125,0]']
    found = playtrace.summarise(lines)
    assert (found["done"], found["more"], found["left_count"], found["findings"]) == (1, 1, 0, [])
    assert found["operations"][0]["max"] == 4


def test_command_when_the_file_is_no_trace_then_2_and_a_reason(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    path = tmp_path / "other"
    path.write_bytes(b"\xff\xfe nothing\n" * 3)
    with pytest.raises(SystemExit) as caught:
        play.main([str(path)])
    assert caught.value.code == 2 and "this is no trace" in capsys.readouterr().err
    path.write_text("\n".join(invented(8)), encoding="ascii")
    assert play.main([str(path)]) == 0
    assert capsys.readouterr().out.startswith("<!DOCTYPE html>")
