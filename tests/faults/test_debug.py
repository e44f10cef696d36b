# SPDX-License-Identifier: MIT
"""Debug mode: it finds damage, names its cause, and logs the traffic of the ring."""

from __future__ import annotations

import ctypes
import gc
import os
import re
import subprocess
import sys
import time
import warnings

import leaks
import pytest
from driver import need_opcode
from harness import PYPY, ROOT, check_child, figures, run_child

from rawuring import buffers, debug, inflight, ops, register, rings, uapi

needs_ring = pytest.mark.requires_io_uring


@pytest.fixture
def watched(monkeypatch, tmp_path):
    """Switch debug mode on; return the file of the trace."""
    log = tmp_path / "trace"
    monkeypatch.setenv("RAWURING_DEBUG", "1")
    monkeypatch.setenv("RAWURING_DEBUG_LOG", str(log))
    yield log
    debug.close_log()


def test_two_threads_write_the_first_lines_at_once_then_one_descriptor(watched, monkeypatch):
    """The one that was slower opened the log once more, and nobody closed the first descriptor."""
    opening, others = os.open, ["another's"]

    def open_beside_another(*arguments, **options):
        if others:
            debug.trace(others.pop())  # as another thread may at this moment
        return opening(*arguments, **options)

    monkeypatch.setattr(os, "open", open_beside_another)
    debug.trace("ours")
    assert list(leaks.descriptors().values()).count(str(watched)) == 1
    debug.close_log()
    assert str(watched) not in leaks.descriptors().values()
    assert re.findall(r"\w+'s|ours", watched.read_text()) == ["another's", "ours"]


# ------------------------------------------------------------------------------------------------------
# Switched off, it does not exist


def test_off_then_the_module_is_not_even_imported():
    script = """
        import sys, rawuring.rings as rings, rawuring.inflight as inflight
        try:
            ring = rings.Ring(2)
        except OSError:
            print("SKIP io_uring (5.1)")
            sys.exit()
        table = inflight.InFlight(ring)
        assert type(ring) is rings.Ring and type(table) is inflight.InFlight
        assert "rawuring.debug" not in sys.modules
        ring.close()
        """
    for value in ("", "0"):
        check_child(run_child(script, env={"RAWURING_DEBUG": value}))


def test_variable_then_read_where_rings_are_made_and_nowhere_else():
    text = (ROOT / "rawuring" / "handle.py").read_text()
    assert text.count("RAWURING_DEBUG") == text.count('os.environ.get("RAWURING_DEBUG"') == 1


# ------------------------------------------------------------------------------------------------------
# The decoder


def shapes():
    return [
        (name, base, places)
        for each in debug._shapes().values() for name, base, places in each
    ]  # fmt: skip


def test_decoder_then_it_knows_every_prep_function_of_one_operation():
    known = {name for name, _, _ in shapes()}
    general = {"rw", "send_set_addr", "uring_cmd_op"}
    wanted = {name[5:] for name in vars(ops) if name.startswith("prep_")} - general
    assert known == wanted


@pytest.mark.parametrize("name", sorted(n for n in vars(ops) if n.startswith("prep_") and n != "prep_rw"))
def test_decoded_then_the_arguments_that_were_given(name):
    found = [places for known, _, places in shapes() if known == name[5:]]
    if not found:
        pytest.skip(f"an SQE that {name} fills, instead of changing one")
    values = {argument: 3 for argument, _, _ in found[0]}
    values = {argument: bytes([3] * 16) if argument == "cmd" else 3 for argument in values}
    sqe = ops.filled(getattr(ops, name), **{**values, "user_data": 77})
    line = debug.decode_sqe(sqe)
    opcode = sqe[0]
    words = dict(word.split("=", 1) for word in line.split()[1:] if "=" in word)
    assert words["user_data"] == "77"
    same_opcode = {known for known, base, _ in shapes() if base[0] == opcode}
    assert line.split()[0] in same_opcode
    if line.split()[0] == name[5:]:
        assert all(int(words[argument], 0) & 3 == 3 for argument in values)


def test_decode_then_readable():
    sqe = memoryview(bytearray(64))
    ops.prep_read(sqe, 5, 0x7F00, 64, -1, 9, uapi.IOSQE_ASYNC | uapi.IOSQE_IO_LINK)
    line = debug.decode_sqe(sqe)
    assert line.startswith("read fd=5 buf=0x7f00 nbytes=64 offset=-1")
    assert line.endswith("user_data=9 flags=IO_LINK|ASYNC")
    assert debug.decode_sqe(b"\xfa" + bytes(63)).startswith("IORING_OP_<250>")
    assert debug.decode_cqe((7, -11, uapi.IORING_CQE_F_MORE)) == "user_data=7 res=-11 (EAGAIN) flags=MORE"
    assert debug.decode_cqe((7, 5, uapi.IORING_CQE_F_BUFFER | 3 << 16)).endswith("bid=3")


# ------------------------------------------------------------------------------------------------------
# The checks: each is silent on correct use, and reports the damage


@needs_ring
def test_all_is_well_then_traced_and_silent(watched, blocking_pipe):
    need_opcode("READ")
    r, w = blocking_pipe
    with rings.Ring(4) as ring:
        table = inflight.InFlight(ring)
        memory = debug.guarded(100)
        for _ in range(20):
            token = table.start(ops.prep_read, r, memory.address, 100, -1, holds=(memory,))
            os.write(w, b"hello")
            ring.submit_and_wait(1)
            table.dispatch(ring.reap())
        assert len(table) == 0
    text = watched.read_text()
    assert text.count(": sqe read ") == 20
    assert re.search(rf"cqe user_data={token} res=5 \[.*test_debug.py:\d+ in test_all_is_well", text)
    assert "closing" in text


def words_of(ring, where, offset):
    return where._words, getattr(where, offset)


DAMAGE = {
    "sq mask": lambda ring: (ring.sq._words, ring.params["sq_off"]["ring_mask"] // 4, 9),
    "cq entries": lambda ring: (ring.cq._words, ring.params["cq_off"]["ring_entries"] // 4, 9),
    "sq tail": lambda ring: (ring.sq._words, ring.sq._ktail, 1),
    "sq head": lambda ring: (ring.sq._words, ring.sq._khead, 1000),
    "cq tail": lambda ring: (ring.cq._words, ring.cq._ktail, 1000),
    "index array": lambda ring: (ring.sq._words, ring.sq.array_offset + 1, 7),
    "index array's end": lambda ring: (ring.sq._words, ring.sq.array_offset + 3, 7),
    "dropped": lambda ring: (ring.sq._words, ring.sq._kdropped, 1),
    "overflow": lambda ring: (ring.cq._words, ring.cq._koverflow, 1),
}


@needs_ring
@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_ring_then_said_before_the_kernel_is_entered(watched, what):
    with rings.Ring(4) as ring:
        words, index, value = DAMAGE[what](ring)
        before, enters = words[index], ring._enters
        words[index] = value
        try:
            with pytest.raises(debug.Damaged, match="before io_uring_enter"):
                ring._enter(0, 0, uapi.IORING_ENTER_GETEVENTS)
            assert ring._enters == enters
        finally:
            words[index] = before
        ring.check()
    figures["damages found by debug mode"] += 1


@needs_ring
def test_place_of_a_request_then_forgotten_with_the_request(watched, blocking_pipe):
    with rings.Ring(4) as ring:
        table = inflight.InFlight(ring)
        token = table.start(ops.prep_nop)
        assert list(table.places) == [token]
        ring.submit_and_wait(1)
        table.dispatch(ring.reap())
        assert not table.places


@needs_ring
def test_block_then_its_place_is_known_and_memory_that_it_does_not_hold_is_refused(watched, blocking_pipe):
    need_opcode("READ")
    with rings.Ring(4) as ring:
        table = inflight.InFlight(ring)
        memory = debug.guarded(100)
        block = ops.Block(2, ops.prep_read, blocking_pipe[0], memory.address, 50, 0)
        with pytest.raises(debug.Damaged, match="no object held by the request"):
            table.start_block(block)
        assert (len(table), ring.sq.pending()) == (0, 0)
        table.start_block(ops.Block(2, ops.prep_nop))
        (request,) = table.requests()
        assert (request.count, request.age_ns >= 0) == (2, True)
        assert "test_debug.py" in request.place
        ring.submit_and_wait(2)
        table.reap()
        assert (table.dispatch(), len(table), table.places, table.times) == (0, 0, {}, {})
        table.start_block(block, holds=[memory])
    figures["damages found by debug mode"] += 1


@needs_ring
@pytest.mark.parametrize("at", [-1, 100])
def test_canary_overwritten_then_said_with_the_place_that_started_it(watched, blocking_pipe, at):
    need_opcode("READ")
    with rings.Ring(4) as ring:
        table = inflight.InFlight(ring)
        memory = debug.guarded(100)
        table.start(ops.prep_read, blocking_pipe[0], memory.address, 100, -1, holds=(memory,))
        old = ctypes.string_at(memory.address + at, 1)
        ctypes.memmove(memory.address + at, b"\0", 1)
        with pytest.raises(debug.Damaged, match=r"test_debug.py:\d+ in test_canary"):
            ring.submit()
        ctypes.memmove(memory.address + at, old, 1)
    figures["damages found by debug mode"] += 1


@needs_ring
def test_bytes_behind_a_mapping_overwritten_then_said(watched, blocking_pipe):
    need_opcode("READ")
    with rings.Ring(4) as ring:
        table = inflight.InFlight(ring)
        memory = buffers.allocate(100)
        pin = buffers.pin(memory, writable=True)
        if getattr(pin._export, "_objects", None) is None:
            pytest.skip("the owner of a pin's memory (CPython)")
        table.start(ops.prep_nop, holds=(pin,))
        ops.prep_read(ring.get_sqe(), blocking_pipe[0], pin.address, 200, -1, 7)  # beyond its end
        os.write(blocking_pipe[1], b"x" * 200)
        with pytest.raises(debug.Damaged, match=r"after <Pin 100 bytes.*test_debug.py"):
            _ = ring.submit_and_wait(2), ring.reap()
        ctypes.memset(pin.address + 100, 0, 100)
        table.dispatch(ring.reap())
    figures["damages found by debug mode"] += 1


@needs_ring
def test_answer_to_nothing_then_said(watched):
    with rings.Ring(4) as ring:
        table = inflight.InFlight(ring)
        token = table.hold(None)
        with pytest.raises(debug.Damaged, match="without having been submitted"):
            ring._note_end((token, 0, 0))
        table.entries.clear()


@needs_ring
def test_owner_of_memory_then_named(watched, blocking_pipe):
    need_opcode("READ")
    with rings.Ring(4) as ring:
        table = inflight.InFlight(ring)
        memory = debug.guarded(100)
        token = table.start(ops.prep_read, blocking_pipe[0], memory.address, 100, -1, holds=(memory,))
        owner = table.owner_of(memory.address + 99)
        assert owner.token == token
        assert re.search(r"test_debug.py:\d+ in test_owner_of_memory", owner.place)
        assert str(owner).endswith(owner.place)
        assert table.owner_of(memory.address + 100) is None
        assert table.owner_of(memory.address - 1) is None


@needs_ring
@pytest.mark.skipif(PYPY, reason="reference counting (CPython)")
def test_forgotten_ring_then_the_warning_names_the_place(watched):
    with pytest.warns(ResourceWarning, match=r"created at .*test_debug.py:\d+ in test_forgotten_ring"):
        _ = rings.Ring(2) and gc.collect()


@needs_ring
def test_held_and_never_submitted_then_a_warning_with_the_place(watched, monkeypatch):
    ring = rings.Ring(2)
    table = inflight.InFlight(ring)
    table.hold(None, b"memory")
    monkeypatch.setattr(debug.WatchedInFlight, "_drain", lambda self, *a: self.entries.clear())
    with pytest.warns(ResourceWarning, match=r"never submitted.*test_debug.py:\d+ in test_held"):
        ring.close()


@needs_ring
def test_ring_left_at_the_end_of_the_interpreter_then_a_warning_with_the_place():
    script = """
        import rawuring
        def leaky():
            global ring
            ring = rawuring.Ring(2)
        leaky()
        """
    env = {"RAWURING_DEBUG": "1", "RAWURING_DEBUG_LOG": "-"}
    done = run_child(script, env=env, flags=("-W", "always"))
    assert done.returncode == 0
    assert re.search(r"ResourceWarning: unclosed when the interpreter ended.*in leaky", done.stderr), (
        done.stderr
    )
    assert "sqe" not in done.stderr


@needs_ring
def test_trace_then_on_stderr_unless_told_otherwise():
    script = """
        import rawuring
        with rawuring.Ring(2) as ring:
            rawuring.ops.prep_nop(ring.get_sqe(), 7)
            ring.submit_and_wait(1)
            ring.reap()
        """
    done = run_child(script, env={"RAWURING_DEBUG": "1", "RAWURING_DEBUG_LOG": ""})
    assert done.returncode == 0
    lines = [line.split(": ", 1)[1] for line in done.stderr.splitlines()]
    assert [line.split()[0] for line in lines] == ["created,", "sqe", "enter", "cqe", "closing"]
    assert lines[1].startswith("sqe nop") and "user_data=7" in lines[1]
    assert lines[3] == "cqe user_data=7 res=0"


@needs_ring
@pytest.mark.parametrize(
    "flags", [0, uapi.IORING_SETUP_SQPOLL, uapi.IORING_SETUP_SQE128 | uapi.IORING_SETUP_CQE32]
)
def test_rings_of_other_kinds_then_watched_too(watched, flags):
    with rings.Ring(4, wish=flags) as ring:
        sqe = bytearray(ring.sq.sqe_size)
        for i in range(30):
            ops.prep_nop(memoryview(sqe)[:64], i + 1)
            ring.put(sqe)
            ring.submit_and_wait(1, 10**10)
            assert [cqe[0] for cqe in ring.reap()] == [i + 1]
    assert watched.read_text().count(": sqe nop") == 30


@needs_ring
def test_wait_that_a_region_describes_then_its_requests_are_watched(watched):
    with rings.Ring(4, flags=uapi.IORING_SETUP_R_DISABLED) as ring:
        try:
            region = register.register_wait_reg(ring, 1)
        except OSError as error:
            pytest.skip(f"IORING_REGISTER_MEM_REGION (Linux 6.13): {error}")
        ring.enable()
        region.set(0, None)
        table, answers = inflight.InFlight(ring), []
        table.start(ops.prep_nop, handler=lambda res, flags: answers.append(res))
        assert ring.submit_and_wait_reg(1, 0) == 1
        table.dispatch(ring.reap())
    assert answers == [0] and watched.read_text().count(": sqe nop") == 1


# ------------------------------------------------------------------------------------------------------


@pytest.mark.long
@needs_ring
def test_the_other_tests_pass_in_debug_mode_too():
    """The invariants hold wherever the library is used as its own tests use it."""
    files = ["test_inflight.py"]
    if os.environ.get("RAWURING_FAULTS") == "all":
        files += [
            "test_request_rules.py",
            "test_monitors.py",
            "test_rings_kernel.py",
            "test_selector_conformance.py",
        ]
    unfit = ("thousand", "raise", "100", "requests_then", "one_system_call", "interpreter_ends")
    chosen = " and ".join(f"not {word}" for word in unfit)
    command = [
        sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", chosen,
        *(str(ROOT / "tests" / name) for name in files),
    ]  # fmt: skip
    env = {**os.environ, "RAWURING_DEBUG": "1", "RAWURING_DEBUG_LOG": "-"}
    started = time.monotonic()
    done = subprocess.run(
        command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert time.monotonic() - started < 300


@needs_ring
def test_watched_ring_then_still_a_ring_of_its_class(watched):
    class Mine(rings.Ring):
        pass

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Mine(2) as ring:
            assert isinstance(ring, Mine) and isinstance(ring, debug.WatchedRing)
            assert type(ring).__name__ == "Mine"
