# SPDX-License-Identifier: MIT
"""Where CPython runs signal handlers, and the except clauses after which an exception must lose nothing.

What it is: the facts behind the no-call rule (queues.py), verified; and the list of the places where the end
of an except clause is not the end of the function, each with the reason why an exception there loses nothing.
CPython 3.12 runs handlers at these places, and all versions do where a loop continues.
Must not know: how the files work.
Invariant: a place that is not on the list fails the test. Read the function, then add it.
Read next: faults/test_moments.py.
"""

from __future__ import annotations

import ast
import fcntl
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rawuring

PACKAGE = Path(rawuring.__file__).parent
FILES = ("queues", "handle", "rings", "inflight", "strategy", "epollwait", "fdmon", "monitor", "asyncring")

NOTHING_HELD = "nothing is held here"
RETRIED = "the change is still noted, and is made again"
LEVEL = "epoll reports the rest again"
REVIEWED = {
    "queues.SubmissionQueue.release": "each step may be repeated: the next close() does",
    "handle.RingHandle._tell": "_close() calls it once more",
    "handle.call_all": "_close() calls all that have not returned once more",
    "handle.watchers": NOTHING_HELD,
    "handle._snapshot": NOTHING_HELD,
    "handle._after_fork_in_child": "a new process, before it could have received a signal",
    "rings.Ring._turn": "completions are in cq.copied, and the finally clause counts what was submitted",
    "rings.Ring.enable": "the next enable() finds the ring running",
    "inflight._addresses": NOTHING_HELD,
    "inflight.InFlight._start": "before a token or a slot is taken",
    "inflight.InFlight.dispatch": "the completion is in _others, the rest in _left",
    "inflight.InFlight._close": "the table is empty, or keeps its memory forever",
    "inflight.InFlight._end": "the finally clause keeps what is left",
    "epollwait.EpollWait.change": "before the change is noted",
    "epollwait.EpollWait._apply": RETRIED,
    "epollwait.EpollWait._control": RETRIED,
    "epollwait.EpollWait._ask_epoll": LEVEL,
    "epollwait.EpollWait._collect": LEVEL,
    "epollwait.EpollWait._take_what_is_left": "completions are in the table",
    "epollwait.EpollWait._queue": "nothing has been sent, and _drop_queued() finds what is queued",
    "epollwait.EpollWait.close": "the set was closed in the finally clause, and close() may be repeated",
    "fdmon.IoUringFDMon._reap_the_rest": "the finally clause completes what was taken",
    "fdmon.IoUringFDMon.destroy": "the finally clause does the rest, and destroy() may be repeated",
    "fdmon.IoUringFDMon._park": "the handler is in the lot, or on the list of changes",
    "fdmon.ParkingLot.add": "the caller adds the handler again, or removes it",
    "fdmon.ParkingLot._renew": "the old set is in place until the new one is whole",
    "fdmon.setup": NOTHING_HELD,
    "monitor._integer": NOTHING_HELD,
    "asyncring.AsyncRing._start": "the next request, or the end of the turn, sends it",
    "asyncring.AsyncRing.supports": NOTHING_HELD,
    "asyncring.AsyncRing.send_zc": NOTHING_HELD,
    "asyncring.AsyncRing.recv_multishot": "before the request is started",
    "asyncring.AsyncRing.connect": "the socket continues to connect, as after any exception of connect()",
    "asyncring.AsyncRing._try": "before the poll is started, or after it has ended",
    "asyncring._Source.give_late": "the item had no value",
}  # fmt: skip


def leaves(body: list[ast.stmt]) -> bool:
    """Tell whether a block always ends in raise or return."""
    last = body[-1]
    if isinstance(last, ast.If):
        return bool(last.orelse) and leaves(last.body) and leaves(last.orelse)
    return isinstance(last, (ast.Raise, ast.Return))


def places(body: list[ast.stmt], at_the_end: bool) -> Iterator[ast.ExceptHandler]:
    """Yield the except clauses after which a function continues."""
    for node in body:
        ends = at_the_end and node is body[-1]
        if isinstance(node, ast.Try):
            tail = ends and not node.finalbody
            yield from places(node.body, tail and not node.orelse)
            yield from places(node.orelse, tail)
            yield from places(node.finalbody, ends)
            for clause in node.handlers:
                yield from places(clause.body, tail)
                jumps = any(isinstance(each, (ast.Break, ast.Continue)) for each in ast.walk(clause))
                if not tail and (jumps or not leaves(clause.body)):
                    yield clause
        elif isinstance(node, ast.If):
            yield from places(node.body, ends)
            yield from places(node.orelse, ends)
        elif isinstance(node, (ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith)):
            yield from places(node.body, False)
            yield from places(getattr(node, "orelse", []), ends)


def functions(node: ast.AST, name: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Yield each function of a file with its name."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            if not isinstance(child, ast.ClassDef):
                yield f"{name}.{child.name}", child
            yield from functions(child, f"{name}.{child.name}")
        elif not isinstance(child, ast.expr):
            yield from functions(child, name)


def test_except_clauses_behind_which_a_function_goes_on_then_each_was_read() -> None:
    found = {
        name
        for file in FILES
        if (PACKAGE / f"{file}.py").exists()
        for name, function in functions(ast.parse((PACKAGE / f"{file}.py").read_text("utf-8")), file)
        if any(places(function.body, True))
    }
    assert found - set(REVIEWED) == set(), "read them: is anything held that an exception there would lose?"
    if (PACKAGE.parent / "pyproject.toml").exists():  # else a copy, which may be partial
        assert set(REVIEWED) == found


# ------------------------------------------------------------------------------------------------------
# Where handlers run


class Struck(Exception):
    """Raised by the handler, with the name of the interrupted function."""


def clause(box: Any) -> str:
    done = "begun"
    try:
        box["no such item"]
    except TypeError:
        del box[0]
        done = "caught"
    done = "left"
    done = "returned"
    return done  # noqa: RET504


def loop(box: list[socket.socket]) -> str:
    del box[0]
    for done in ("once", "returned"):  # noqa: B007
        continue
    return done


def line(box: list[socket.socket]) -> str:
    del box[0]
    done = "returned"
    return done  # noqa: RET504


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.skipif(
    sys.implementation.name != "cpython" or sys.version_info < (3, 11) or sys.gettrace() is not None,
    reason="handlers run between any two bytecodes (before CPython 3.11)",
)
@pytest.mark.parametrize(
    ("function", "interrupted"), [(clause, sys.version_info[:2] == (3, 12)), (loop, True), (line, False)]
)
def test_signal_comes_between_two_calls_then_its_handler_runs_where_the_rule_says(
    function, interrupted: bool
) -> None:
    """The statement `del` frees a socket, and its peer sends SIGIO at once, without a call in Python."""
    left, right = socket.socketpair()
    fcntl.fcntl(right, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(right, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
    box, places = [left], []
    del left

    def handler(number, frame) -> None:
        places.append(frame.f_code.co_name)
        if frame.f_code is function.__code__:
            raise Struck

    old = signal.signal(signal.SIGIO, handler)
    try:
        if interrupted:
            with pytest.raises(Struck):
                function(box)
        else:
            assert function(box) == "returned"
    finally:
        signal.signal(signal.SIGIO, old)
        right.close()
    assert len(places) == 1
    assert (places == [function.__name__]) is interrupted
