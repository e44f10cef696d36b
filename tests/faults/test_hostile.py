# SPDX-License-Identifier: MIT
"""Hostile values for every public method of every public class: the sweep of hostile.py, in children."""

from __future__ import annotations

import json
import struct
import sys

import hostile
import pytest
from harness import ROOT, figures, run_child

from rawuring import buffers, inflight, ops, rings, syscalls
from rawuring.fakekernel import fake_ring

needs_ring = pytest.mark.requires_io_uring


@pytest.mark.long
@needs_ring
@pytest.mark.parametrize("module", hostile.MODULES)
def test_hostile_values_for_every_method_then_clear_errors_and_nothing_left(module):
    folder = str(ROOT / "tests" / "faults")
    script = f"import sys; sys.path.insert(0, {folder!r}); import hostile; hostile.main(sys.argv[1])"
    done = run_child(script, module, timeout=110, env={"RAWURING_DEBUG": "", "RAWURING_DEBUG_LOG": "-"})
    assert done.returncode == 0, f"{done.returncode}\n{done.stderr[-3000:]}"
    answer = json.loads(done.stdout)
    assert not answer["found"], "\n".join([f"{len(answer['found'])} in all:", *answer["found"][:30]])
    assert answer["refused"] or module in ("barriers",)
    figures["hostile calls"] += answer["calls"]
    figures["hostile calls refused"] += answer["refused"]


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
@pytest.mark.parametrize("part", ["files", "sync", "os", "Path", "r+b", "r+", "raw"])
def test_hostile_values_for_all_of_files_then_clear_errors_and_nothing_left(part, tmp_path):
    script = f"""
        import os, sys
        sys.path.insert(0, {str(ROOT / "tests" / "faults")!r})
        os.chdir(sys.argv[2])
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        import hostile_files
        hostile_files.main(sys.argv[1])
    """
    done = run_child(script, part, str(tmp_path), timeout=300, env={"RAWURING_DEBUG": ""})
    assert done.returncode == 0, f"{done.returncode}\n{done.stderr[-3000:]}"
    answer = json.loads(done.stderr)
    assert not answer["found"], "\n".join([f"{len(answer['found'])} in all:", *answer["found"][:30]])
    assert answer["refused"] > answer["calls"] / 2 > 250
    figures["hostile calls"] += answer["calls"]
    figures["hostile calls refused"] += answer["refused"]


def test_every_public_class_then_the_sweep_knows_how_to_make_one():
    """This needs no ring: a new class must be noticed even where the sweep is skipped."""
    known = {label for module in hostile.MODULES for label, _ in hostile.public_classes(module)}
    assert known == set(hostile.MAKERS)


@needs_ring
@pytest.mark.parametrize("queued", [False, True])
@pytest.mark.parametrize("name", ["submit_and_wait", "submit_and_reap"])
@pytest.mark.parametrize(("wait_nr", "error"), [(-1, ValueError), (0.5, TypeError), ("x", TypeError)])
def test_wait_for_what_is_no_number_then_refused_and_not_for_ever(queued, name, wait_nr, error):
    """-1 was 2**32 - 1 to the kernel: a wait that never ended."""
    with rings.Ring(1, cq_entries=2) as ring:
        if queued:
            ops.prep_nop(ring.get_sqe(), 7)
        with pytest.raises(error, match=r"wait_nr|not supported between"):
            getattr(ring, name)(wait_nr)
        assert ring.sq.pending() == queued


def test_cancel_of_what_is_no_token_then_no_slot_is_taken():
    """The slot kept the request before last, which would have been submitted a second time."""
    with fake_ring(entries=4) as (_, ring):
        table = inflight.InFlight(ring)
        for token in (None, "x", -1, 2**64, 0.5):
            with pytest.raises(ValueError, match="token"):
                table.cancel(token)
        assert ring.sq.pending() == 0


def test_dispatch_of_what_is_no_completion_then_refused_once_and_the_others_are_handled():
    with fake_ring(entries=4) as (_, ring):
        table = inflight.InFlight(ring)
        seen = []
        table.start(ops.prep_nop, handler=lambda res, flags: seen.append(res))
        ring.submit()
        with pytest.raises(TypeError, match="not a CQE"):
            table.dispatch(["nonsense", None, *ring.reap()])
        table.dispatch()
        assert (seen, len(table), table.has_work()) == ([0], 0, False)


@needs_ring
def test_entered_by_what_is_no_index_then_the_ring_can_still_be_closed():
    """close() raised before it closed the descriptor."""
    ring = rings.Ring(2)
    for index in (-1, 2**32, "x", 0.5):
        with pytest.raises((TypeError, ValueError), match="index"):
            ring.enter_by_index(index)
    ring.close()


@pytest.mark.parametrize("arg", ["text", b"bytes", 0.5, [], object()])
def test_register_with_an_argument_that_is_no_address_then_typeerror(arg):
    """bytes went to the kernel as memory that it may write to."""
    with pytest.raises(TypeError, match="address"):
        syscalls.io_uring_register(0, 8, arg, 1)


@pytest.mark.parametrize("signals", [[0], [-1], [65 + 64], [2**40]])
def test_sigmask_with_what_is_no_signal_then_valueerror(signals):
    with pytest.raises(ValueError, match="signal"):
        syscalls.GeteventsArg().start(0, 0, signals)


def test_buffer_that_does_not_fit_then_valueerror_and_none_is_added():
    ring = buffers.BufferRing(buffers.allocate(4096), 4)
    for values in ((-1, 0, 0), (0, 2**32, 0), (0, 0, 2**16), (None, 0, 0)):
        with pytest.raises(ValueError, match="addr="):
            ring.add(*values)
    assert ring.tail == 0
    ring.release()


def test_prep_functions_then_struct_error_is_documented():
    """Each is one pack, so they raise struct's errors: see the head of ops.py."""
    assert "struct.error" in ops.__doc__
    with pytest.raises((struct.error, ValueError)):  # the latter on PyPy
        ops.prep_nop(bytearray(64), -1)
