# SPDX-License-Identifier: MIT
"""The time of one turn of the monitor, statement by statement: the second table of docs/costs.md.

    python3 bench/turn.py [--ready N] [--write docs/costs.md]

A clock is read between any two statements of the functions that a turn executes. The cost of a clock is the
difference to a turn without clocks, divided by their number; it is subtracted. The lower quartile of all
turns counts, because the machine may be busy.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import platform
import select
import socket
import statistics
import sys
import textwrap
import time
import types
from typing import Any

from readme_table import write_between
from rounds import our_monitor

BEGIN, END = "<!-- turn: begin -->", "<!-- turn: end -->"

#: The purpose of a statement, by its beginning; the others explain themselves.
WHY = {
    "if timeout_ns is not None and timeout_ns.__class__": "an int is used directly, anything else is checked",
    "self._waiting = True": "from here on requests of other threads go through the notifier",
    "if ring.sq.owner != get_ident()": "the ring belongs to one thread",
    "polling =": "userspace polling is off",
    "start = time": "a deadline, because the wait may end early with nothing to report",
    "if cq.ready() or cq.copied": "completions from before this turn are hints: they are dropped",
    "if self.submit_list": "additions, changes and removals since the last turn",
    "if self._rearm": "completed polls are submitted again, which makes them level-triggered",
    "if len(rearm) == 1": "one: no block is composed",
    "sq.put(sqe)": "64 bytes into the ring",
    "self._rearm = {}": "they are queued; until here an exception leaves them for the next turn",
    "if tail != sq.published": "is there something to publish",
    "before = ": "how many the kernel has not consumed: one load",
    "until, size = self._deadline": "the timeout in the kernel's form",
    "submitted = bare(": "**io_uring_enter**: ctypes, the kernel's work, the return",
    "count = (load_acquire(words": "how many have completed: one load",
    "cqes: list[Cqe] = [": "the completion as a tuple",
    "store_release(words, cq._khead": "the slot is free again: one store",
    "cq.copied = cqes": "from here on a signal handler that raises loses nothing",
    "if not load_acquire(sq._words, sq._kflags)": "does the kernel have more: overflow, task work",
    "for cqe in self._early": "each completion",
    "node, res = polls(": "its owner, by the token",
    "if node is not None and 0 < res": "alive, and only events that are requested and exact",
    "if self._early or not events": "were there others: removals, requests, errors",
    "if self._doubtful": "events that need a second look",
    "late = ": "an SQPOLL ring only",
    "if late and": "an SQPOLL ring, or handlers that epoll watches",
    "if self._woken": "was it the notifier",
    "if events or answers": "is there something to report",
    "if self._outer is not None": "is there a loop outside",
    "if inflight is not None and inflight.ready": "handlers of requests come first",
    "if not node.deleted": "an earlier handler may have removed it",
    "node.handler(": "**the handler**, which does nothing here",
    "(sqe,) =": "the SQE that was stored when the handler was added",
    "usual =": "a whole number of nanoseconds, or none",
    "if usual and": "the ring belongs to one thread, and supports this short path",
    "store_release(sq._words, sq._ktail": "publish the SQE: one store",
    "first =": "their place in the ring",
    "polls, rearm, others": "found by token; to be re-armed; left to process_cqe()",
    "self._rearm = rearm": "re-armed with the next turn's submit: level-triggered, without a call now",
    "self._early = others": "all but these are handled; one step with the previous line",
    "rearm[node.token]": "unchanged, as long as the handler exists",
    "events.append": "the result of wait()",
    "self.process_usual": "the completions of live handlers, in bulk",
    "self.fill_sq_ring": "changes and re-arming into the ring",
    "self._early = ring.submit": "the one system call of the turn",
    "if submitted == before": "the usual case, for this short path",
    "flags, until": "",
}


class Marks(ast.NodeTransformer):
    """Puts a clock reading before each statement."""

    def __init__(self, name: str, lines: list[str], found: dict[int, tuple[str, str]]) -> None:
        self.name, self.lines, self.found = name, lines, found

    def _marked(self, body: list[ast.stmt]) -> list[ast.stmt]:
        marked: list[ast.stmt] = []
        for statement in body:
            number = len(self.found)
            line = self.lines[statement.lineno - 1].strip()
            if not line.startswith(('"""', "try:")):
                self.found[number] = self.name, line
                marked += ast.parse(f"_log += ({number}, _clock())").body
            marked.append(self.visit(statement))
        return marked

    def generic_visit(self, node: ast.AST) -> ast.AST:
        for field in ("body", "orelse", "finalbody"):
            body = getattr(node, field, None)
            if isinstance(body, list) and body:
                setattr(node, field, self._marked(body))
        for handler in getattr(node, "handlers", ()):
            self.visit(handler)
        return node


def with_clocks(function: Any, log: list[int], found: dict[int, tuple[str, str]]) -> Any:
    """Recompile a method."""
    source = textwrap.dedent(inspect.getsource(function))
    tree = ast.parse(source)
    definition = tree.body[0]
    assert isinstance(definition, ast.FunctionDef)
    Marks(definition.name, source.splitlines(), found).visit(definition)
    definition.body.insert(0, ast.parse("global _log").body[0])
    module = sys.modules[function.__module__]
    names = dict(vars(module), _log=log, _clock=time.perf_counter_ns)
    code = "from __future__ import annotations\n" + ast.unparse(tree)
    exec(compile(code, function.__code__.co_filename, "exec"), names)
    return names[function.__name__]


def measure(ready: int, count: int) -> tuple[float, list[tuple[str, str, float, float]]]:
    """Return the time of a turn, and (function, statement, count, nanoseconds) of its parts in order."""
    log: list[int] = []
    found: dict[int, tuple[str, str]] = {}
    with our_monitor() as monitor:
        pairs = [socket.socketpair() for _ in range(ready)]
        for a, b in pairs:
            b.send(b"x")
            monitor.add(a.fileno(), select.POLLIN, lambda node, mask: None)
        whole = usual([one_turn(monitor, ready) for _ in range(count)])
        for name in ("wait", "fill_sq_ring", "_arm_again", "process_usual", "dispatch", "submit_and_reap"):
            owner = monitor.ring if name == "submit_and_reap" else monitor
            function = with_clocks(getattr(type(owner), name), log, found)
            setattr(owner, name, types.MethodType(function, owner))
        turns: list[list[int]] = []
        for _ in range(count):
            del log[:]
            assert monitor.dispatch(monitor.wait(1_000_000_000)) == ready
            log += (-1, time.perf_counter_ns())
            turns.append([*log])
        for pair in pairs:
            for sock in pair:
                sock.close()
    turns = turns[count // 4 :]
    clocks = usual([turn[-1] - turn[1] for turn in turns]) - whole
    clock = clocks / statistics.median(len(turn) / 2 - 1 for turn in turns)
    took: dict[int, list[float]] = {}
    often: dict[int, int] = {}
    for turn in turns:
        sums: dict[int, float] = {}
        for i in range(0, len(turn) - 2, 2):
            sums[turn[i]] = sums.get(turn[i], 0.0) + turn[i + 3] - turn[i + 1] - clock
            often[turn[i]] = often.get(turn[i], 0) + 1
        for number, ns in sums.items():
            took.setdefault(number, []).append(ns)
    order = dict.fromkeys(number for number in turns[-1][::2] if number >= 0)
    rows = [(*found[n], often[n] / len(turns), max(0.0, usual(took[n]))) for n in order]
    return whole, rows


def usual(values: list[Any]) -> float:
    return float(sorted(values)[len(values) // 4])


def one_turn(monitor: Any, ready: int) -> int:
    start = time.perf_counter_ns()
    assert monitor.dispatch(monitor.wait(1_000_000_000)) == ready
    return time.perf_counter_ns() - start


def table(whole: float, rows: list[tuple[str, str, float, float]], ready: int) -> str:
    """Write the generated part of the page: statements that take a hundredth of a turn or more."""
    python, kernel = platform.python_version(), platform.release().partition("-")[0]
    here = f"{platform.python_implementation()} {python}, Linux {kernel}"
    lines = [
        f"One turn with {ready} of {ready} ready takes {whole:,.0f} ns ({here}). To measure again:",
        "`python3 bench/turn.py --write docs/costs.md`.",
        "",
        "| in | statement | ns | why |",
        "|---|---|---:|---|",
    ]
    rest, small = 0.0, 0
    for name, line, often, ns in rows:
        if ns < whole / 100:
            rest, small = rest + ns, small + 1
            continue
        times = f", {often:.0f} times" if often > 1.5 else ""
        why = next((WHY[start] for start in WHY if line.startswith(start)), "")
        code = line.replace("|", "\\|")
        lines.append(f"| `{name}` | `{code}`{times} | {ns:.0f} | {why} |")
    lines.append(f"| | {small} others, each less than 1 % of the turn | {rest:.0f} | |")
    return "\n".join(lines)


def main() -> None:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ready", type=int, default=1, help="the number of ready descriptors")
    parser.add_argument("--turns", type=int, default=4000)
    parser.add_argument("--write", metavar="FILE", help="the page to update")
    options = parser.parse_args()
    part = table(*measure(options.ready, options.turns), options.ready)
    print(part)
    if options.write:
        write_between(options.write, BEGIN, END, part)


if __name__ == "__main__":
    main()
