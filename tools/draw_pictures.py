# SPDX-License-Identifier: MIT
"""The pictures of docs/execution.md and docs/memory.md: time runs to the right, with a lane for each actor.

What it is: a few shapes, and the pictures as data. tools/build_docs.py writes them.
Must not know: Markdown.
Invariant: a picture draws its own background, light or dark, so it is readable on any page.
Read next: docs/execution.md.
"""

from __future__ import annotations

import html
import textwrap
from typing import NamedTuple

STYLE = """
text { font: 13px sans-serif; fill: #1b1b1b } .b { font-weight: bold } .s { font-size: 12px; fill: #555 }
.card { fill: #fff } .ours { fill: #d7e5fb } .kernel { fill: #fbe3c8 } .wait { fill: #ececec }
.good { fill: #d8f0d5 } .bad { fill: #f8d3d3 } rect { stroke: #8a8a8a } .card { stroke: none }
line, path { stroke: #555; fill: none }
.mark { stroke-dasharray: 3 3; stroke: #999 } #tip path { fill: #555 }
@media (prefers-color-scheme: dark) {
text { fill: #e8e8e8 } .s { fill: #aaa } .card { fill: #16181d } .ours { fill: #26426e }
.kernel { fill: #6b4a1f } .wait { fill: #3a3d44 } .good { fill: #2b5a2a } .bad { fill: #6e2f2f }
rect { stroke: #777 } .card { stroke: none }
line, path { stroke: #aaa } .mark { stroke: #666 } #tip path { fill: #aaa } }
"""
WIDTH = 720
LEFT, RIGHT = 130, 710  # of the time axis
LANE, BOX = 46, 32


class Span(NamedTuple):
    """An action or a state between two times, in hundredths of the axis."""

    start: float
    end: float
    text: str
    kind: str = "kernel"


class Lane(NamedTuple):
    """A row."""

    name: str
    spans: tuple[Span, ...]


class Part(NamedTuple):
    """Some lanes with a headline, dashed marks and arrows (from time and lane to time and lane)."""

    title: str
    lanes: tuple[Lane, ...]
    marks: tuple[tuple[float, str], ...] = ()
    arrows: tuple[tuple[float, int, float, int], ...] = ()


def picture(title: str, body: list[str], height: float) -> str:
    """Return the SVG file."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" '
        f'height="{height:.0f}" role="img"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    )
    tip = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
        'orient="auto"><path d="M0 0L8 4L0 8z" stroke="none"/></marker></defs>'
    )
    card = f'<rect class="card" width="{WIDTH}" height="{height:.0f}"/>'
    return "\n".join([head, tip, card, *body, "</svg>"]) + "\n"


def words(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    """Write one line."""
    return f'<text x="{x:.0f}" y="{y:.0f}" class="{kind}" text-anchor="{anchor}">{html.escape(text)}</text>'


def box(x: float, y: float, width: float, height: float, text: str, kind: str) -> list[str]:
    """Draw a box with one or more centred lines of text."""
    lines = text.split("\n")
    top = y + height / 2 + 4.5 - 8 * (len(lines) - 1)
    place = f'x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{height:.0f}"'
    drawn = [f'<rect class="{kind}" {place} rx="4"/>']
    return drawn + [words(x + width / 2, top + 16 * i, line, "", "middle") for i, line in enumerate(lines)]


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    """Draw an arrow."""
    return f'<line x1="{x1:.0f}" y1="{y1:.0f}" x2="{x2:.0f}" y2="{y2:.0f}" marker-end="url(#tip)"/>'


def timeline(title: str, parts: tuple[Part, ...]) -> str:
    """Draw lanes below each other, with time to the right."""

    def at(time: float) -> float:
        return LEFT + (RIGHT - LEFT) * time / 100

    body: list[str] = []
    y = 8.0
    for part in parts:
        y += 20
        body.append(words(10, y, part.title, "b"))
        y += 14
        if part.marks:
            y += 12
        top, bottom = y, y + LANE * len(part.lanes) - (LANE - BOX)
        for time, text in part.marks:
            body.append(f'<line class="mark" x1="{at(time):.0f}" x2="{at(time):.0f}" y1="{top - 6:.0f}" '
                        f'y2="{bottom + 4:.0f}"/>')  # fmt: skip
            anchor = "start" if time < 10 else "end" if time > 90 else "middle"
            body.append(words(at(time), top - 10, text, "s", anchor))
        for number, lane in enumerate(part.lanes):
            row = top + LANE * number
            for i, line in enumerate(textwrap.wrap(lane.name, 17)):
                body.append(words(10, row + 14 + 15 * i, line, "s"))
            for span in lane.spans:
                body += box(at(span.start), row, at(span.end) - at(span.start), BOX, span.text, span.kind)
        for start, from_lane, end, to_lane in part.arrows:
            down = from_lane < to_lane
            body.append(arrow(at(start), top + LANE * from_lane + (BOX if down else 0),
                              at(end), top + LANE * to_lane + (0 if down else BOX)))  # fmt: skip
        y = bottom + 14
    return picture(title, body, y)


def execution() -> str:
    """Draw the ways of a request through the kernel."""
    body = [
        *box(250, 10, 220, 36, "io_uring_enter takes the SQE", "kernel"),
        *box(250, 80, 220, 36, "tried without waiting", "kernel"),
        *box(10, 166, 210, 52, "worker (io-wq):\niou-wrk does it, may block", "kernel"),
        *box(255, 166, 210, 52, "a poll is armed on the file,\nor another queue is joined", "wait"),
        *box(255, 256, 210, 36, "woken: task work for our task", "kernel"),
        *box(500, 166, 210, 52, "done at once,\nin our thread", "good"),
        *box(250, 340, 220, 36, "CQE", "good"),
        arrow(360, 46, 360, 80), arrow(360, 116, 360, 166), arrow(360, 218, 360, 256),
        arrow(470, 90, 640, 166), arrow(250, 98, 115, 166), arrow(360, 292, 360, 340),
        words(580, 122, "it can go on", "s"), words(368, 136, "it would wait", "s"),
        words(368, 152, "(pipe, page, timer)", "s"),
        words(164, 122, "it would block,", "s", "end"), words(150, 138, "or IOSQE_ASYNC", "s", "end"),
        '<path d="M115 218V358H250" marker-end="url(#tip)"/>',
        '<path d="M640 218V358H470" marker-end="url(#tip)"/>',
        '<path d="M465 274H486V106H470" marker-end="url(#tip)" stroke-dasharray="4 3"/>',
        words(496, 250, "and tried again", "s"),
    ]  # fmt: skip
    return picture("The ways of a request through the kernel", body, 392)


def sqpoll() -> str:
    """Draw the store and the load of either side, and the outcome that the fences exclude."""
    body = [
        words(180, 26, "we", "b", "middle"), words(540, 26, "the kernel's thread", "b", "middle"),
        *box(40, 40, 280, 36, "store sq.ktail  (there is work)", "ours"),
        *box(400, 40, 280, 36, "store NEED_WAKEUP  (I go to sleep)", "kernel"),
        *box(40, 92, 280, 28, "full fence", "good"), *box(400, 92, 280, 28, "full fence", "good"),
        *box(40, 136, 280, 36, "load NEED_WAKEUP: wake it?", "ours"),
        *box(400, 136, 280, 36, "load sq.ktail: anything to do?", "kernel"),
        arrow(320, 58, 400, 150), arrow(400, 58, 320, 150),
        words(360, 204, "With both fences at least one of the two sees the other's store.", "", "middle"),
        words(360, 224, "Without one, both loads may be old: it sleeps, and nobody wakes it.", "", "middle"),
    ]  # fmt: skip
    return picture("SQPOLL: a store, a fence and a load on either side", body, 240)


def short_submit() -> str:
    """Draw a submission queue before and after a submit of which the kernel consumed only a part."""
    body: list[str] = []
    rows = (
        (34, "to_submit: 4", ("ours", "ours", "ours", "ours"), "head", 0, "tail", 4),
        (120, "enter returned 2", ("good", "bad", "ours", "ours"), "head", 2, "tail", 4),
        (206, "entered again: 2", ("good", "good", "good", "good"), "head = tail", 4, "", 4),
    )
    names = ("SQE 1", "SQE 2: bad", "SQE 3", "SQE 4")
    for y, text, kinds, head, at_head, tail, at_tail in rows:
        body.append(words(10, y + 22, text, "b"))
        for i, kind in enumerate(kinds):
            body += box(200 + 120 * i, y, 112, 34, names[i] if y < 200 or i != 1 else "(taken before)", kind)
        body.append(words(196 + 120 * at_head, y + 54, f"^ {head}", "s"))
        if tail:
            body.append(words(196 + 120 * at_tail, y + 54, f"^ {tail}", "s", "end"))
    return picture("A short submit: what was not taken stays queued", body, 276)


def pictures() -> dict[str, str]:
    """Return each picture by its file name."""
    return {
        "execution.svg": execution(),
        "sqpoll.svg": sqpoll(),
        "short-submit.svg": short_submit(),
        "poll-shots.svg": timeline("One-shot and multishot poll", POLL_SHOTS),
        "task-work.svg": timeline("When task work runs", TASK_WORK),
        "lifetimes.svg": timeline("How long memory must live", LIFETIMES),
        "ownership.svg": timeline("Who owns a buffer", OWNERSHIP),
    }


POLL_SHOTS = (
    Part("One-shot: level-triggered, because we arm it again", (
        Lane("data in the pipe", (Span(12, 70, "some, not yet read", "wait"),)),
        Lane("the kernel's poll", (Span(2, 14, "armed"), Span(34, 36, ""), Span(52, 54, ""),
                                   Span(72, 98, "armed"))),
        Lane("we", (Span(18, 32, "CQE: read", "ours"), Span(38, 50, "CQE: read", "ours"),
                    Span(56, 70, "CQE: read", "ours"))),
    ), ((34, "armed again: ready, so it completes at once"), (72, "nothing is ready")),
        ((14, 1, 18, 2), (35, 1, 41, 2), (53, 1, 59, 2))),
    Part("Multishot: edge-triggered, armed once", (
        Lane("data in the pipe", (Span(12, 98, "some, not yet read", "wait"),)),
        Lane("the kernel's poll", (Span(2, 98, "armed"),)),
        Lane("we", (Span(16, 40, "CQE, F_MORE: read", "ours"),
                    Span(66, 90, "CQE, F_MORE: read", "ours"))),
    ), ((12, "data arrive"), (62, "more data arrive: the next wake-up")), ((14, 1, 18, 2), (63, 1, 68, 2))),
)  # fmt: skip

TASK_WORK = (
    Part("Neither flag: we are interrupted", (
        Lane("we", (Span(0, 38, "our code", "ours"), Span(38, 52, "task work"),
                    Span(52, 100, "our code goes on", "ours"))),
        Lane("CQ", (Span(52, 100, "the CQE is there", "good"),)),
    ), ((38, "data arrive"),), ((46, 0, 52, 1),)),
    Part("COOP_TASKRUN: at our next entry into the kernel, whatever it is for", (
        Lane("we", (Span(0, 62, "our code", "ours"), Span(62, 76, "a system call"),
                    Span(76, 100, "our code", "ours"))),
        Lane("CQ", (Span(76, 100, "the CQE is there", "good"),)),
    ), ((38, "data arrive"), (62, "write(2), say")), ((70, 0, 76, 1),)),
    Part("DEFER_TASKRUN: only when we ask for completions", (
        Lane("we", (Span(0, 52, "our code", "ours"), Span(52, 64, "write(2)", "wait"),
                    Span(64, 78, "our code", "ours"), Span(78, 92, "task work"), Span(92, 100, "", "ours"))),
        Lane("CQ", (Span(92, 100, "CQE", "good"),)),
    ), ((38, "data arrive"), (78, "io_uring_enter(GETEVENTS)")), ((86, 0, 92, 1),)),
)  # fmt: skip

LIFETIMES = (
    Part("What must be kept, and until when", (
        Lane("none", (Span(0, 4, "", "wait"),)),
        Lane("until submit returns", (Span(0, 25, "path, timespec, iovec", "ours"),)),
        Lane("until the final CQE", (Span(0, 70, "data; what the kernel writes", "ours"),)),
        Lane("until the notification CQE", (Span(0, 96, "data of a zero-copy send", "ours"),)),
    ), ((2, "prep"), (25, "submit returns"), (48, "CQE, F_MORE"), (70, "final CQE"), (96, "CQE, F_NOTIF"))),
)  # fmt: skip

OWNERSHIP = (
    Part("A buffer of one request", (
        Lane("may be used by", (Span(0, 20, "us", "ours"), Span(20, 78, "the kernel, cancelled or not"),
                                Span(78, 100, "us", "ours"))),
    ), ((20, "submit"), (52, "cancel: it only asks"), (78, "the final CQE is reaped"))),
    Part("Provided buffers: a group that goes round", (
        Lane("a buffer", (Span(0, 16, "us", "ours"), Span(16, 52, "the kernel's group"),
                          Span(52, 78, "us: read the data", "ours"), Span(78, 100, "the kernel's"))),
    ), ((16, "added"), (52, "CQE, F_BUFFER, its number"), (78, "recycle"))),
    Part("Registered buffers", (
        Lane("pages", (Span(0, 100, "held by the ring until it is closed or they are unregistered"),)),
        Lane("content", (Span(0, 30, "us", "ours"), Span(30, 60, "a request"), Span(60, 75, "us", "ours"),
                         Span(75, 100, "a request"))),
    )),
)  # fmt: skip
