# SPDX-License-Identifier: MIT
# pyright: basic
"""Make an interactive page about the rings: ``python -m rawuring.play > ring.html``.

What it is: the tour as data, one event for each word that changes, in the order of the changes; and the page
around it, one HTML file that needs no network and no other file. With a file written by RAWURING_TRACE
(trace.py), a page about the activity of a program's own rings.
Mirrors: nothing; tour.py is the same as text, for those who cannot use the page.
Must not know: how the page shows its data (playpage.py), or what a trace means (playtrace.py).
Invariant: the same package gives the same bytes on any machine: the events are those of fakekernel.py, and
the facts about a word are found in the sources that run.
Read next: inspect.py.

Unless said otherwise, memory passed to a call may be freed when the call returns.
"""

from __future__ import annotations

import contextlib
import errno
import inspect
import os
import re
import sys
from typing import NamedTuple

from . import command, fakekernel, layout, ops, playpage, playtrace, queues, rings, tour, uapi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any, Callable

# ------------------------------------------------------------------------------------------------------
# The facts about a word


class Word(NamedTuple):
    """The page's facts about a word: the header's member, its partner, the function that accesses it."""

    member: str
    pair: str
    function: Any
    pattern: str


SQ, CQ = queues.SubmissionQueue, queues.CompletionQueue
WORDS = {
    "sq.sqe_tail": Word(
        "none: an int of ours (sqe_tail of liburing's struct io_uring_sq)",
        "none: only our thread reads it", SQ.get_sqe, "self.sqe_tail = tail + 1",
    ),
    "sq.ktail": Word(
        "io_rings.sq.tail, at sq_off.tail", "the kernel's smp_load_acquire in io_sqring_entries",
        SQ.flush, "store_release(",
    ),
    "sq.khead": Word(
        "io_rings.sq.head, at sq_off.head", "our load_acquire in pending() and flush()",
        SQ.pending, "load_acquire(",
    ),
    "sq.kflags": Word(
        "io_rings.sq_flags, at sq_off.flags",
        "none for CQ_OVERFLOW and TASKRUN: we enter, which orders everything. For NEED_WAKEUP: a full fence "
        "between our store of sq.ktail and this load, and one in io_sq_thread between the flag and the tail",
        SQ.flags, "load_acquire(",
    ),
    "cq.ktail": Word(
        "io_rings.cq.tail, at cq_off.tail", "our load_acquire in fetch()", CQ.fetch, "load_acquire(",
    ),
    "cq.khead": Word(
        "io_rings.cq.head, at cq_off.head",
        "a branch on it in io_get_cqe: the kernel writes no CQE before it has seen that there is room",
        CQ.fetch, "store_release(words, self._khead, head)",
    ),
    "cq.koverflow": Word(
        "io_rings.cq_overflow, at cq_off.overflow", "none: it is a statistic", CQ.overflow, "load_acquire(",
    ),
}  # fmt: skip
# The operations of the page, each with the function that fills its SQE.
PREPS = (
    "prep_nop", "prep_read", "prep_poll_add", "prep_poll_remove", "prep_cancel64", "prep_provide_buffers",
    "prep_timeout", "prep_fsync",
)  # fmt: skip

# The constants that playkernel.py and the page use by name.
CONSTANTS = (
    "IORING_SETUP_SQPOLL", "IORING_SETUP_SUBMIT_ALL", "IORING_SETUP_CQE32", "IORING_SETUP_SQE128",
    "IORING_SETUP_NO_SQARRAY", "IORING_ENTER_GETEVENTS", "IORING_ENTER_SQ_WAKEUP", "IORING_SQ_NEED_WAKEUP",
    "IORING_SQ_CQ_OVERFLOW", "IOSQE_IO_LINK", "IOSQE_BUFFER_SELECT", "IORING_CQE_F_BUFFER",
    "IORING_CQE_F_MORE", "IORING_CQE_BUFFER_SHIFT", "IORING_POLL_ADD_MULTI",
)  # fmt: skip


def find_line(function: Callable[..., object], pattern: str) -> tuple[str, str]:
    """Find the last line of a function that contains a text.

    Returns: "FILE:LINE" and the line; the file and "" if this Python has no sources.
    """
    function = inspect.unwrap(function)
    name = os.path.basename(function.__code__.co_filename)
    try:
        lines, first = inspect.getsourcelines(function)
    except OSError:
        return name, ""
    for number in range(len(lines) - 1, -1, -1):
        if pattern in lines[number] and not lines[number].lstrip().startswith("#"):
            return f"{name}:{first + number}", lines[number].strip()
    return name, ""


def words_as_data() -> dict[str, Any]:
    """Return the page's facts about each word."""
    found: dict[str, Any] = {}
    for name, word in WORDS.items():
        queue, _, short = name.partition(".")
        meanings = [row[2] for key, row in layout.WORDS.items() if (key[0], row[0]) == (queue, short)]
        who, order = tour.WORDS[name]
        where, code = find_line(word.function, word.pattern)
        found[name] = {
            "writer": who, "order": order, "member": word.member, "pair": word.pair, "where": where,
            "code": code, "meaning": meanings[0] if meanings else "",
        }  # fmt: skip
    found["sq.sqe_tail"]["meaning"] = "SQEs before this index are taken by us, published or not"
    return found


def operations_as_data() -> dict[str, Any]:
    """Return by opcode the contents of an operation's SQE, and the meaning of its result."""
    found: dict[str, Any] = {}
    for name in PREPS:
        operation = layout.learn(name)
        doc = inspect.getdoc(getattr(ops, name)) or ""
        said = re.search(r"^CQE: ((?:.|\n )+)", doc, re.MULTILINE)
        found[str(operation.opcode)] = {
            "name": uapi.name_of("IORING_OP_", operation.opcode).replace("IORING_OP_", ""),
            "call": operation.signature, "summary": operation.summary,
            "res": " ".join(said[1].split()) if said else "",
            "uses": [list(use) for use in operation.uses],
        }  # fmt: skip
    return found


def names_as_data() -> dict[str, Any]:
    """Return the constants that the page shows by name, and the errnos of this system."""
    codes = ("ENOENT", "EAGAIN", "EINVAL", "ECANCELED", "ETIME", "ENOBUFS", "EALREADY", "EBADF")
    return {
        "opcodes": {
            name.replace("IORING_OP_", ""): value for name, value in vars(uapi).items()
            if name.startswith("IORING_OP_") and name != "IORING_OP_LAST"
        },
        "last": uapi.IORING_OP_LAST,
        "constants": {name: getattr(uapi, name) for name in CONSTANTS},
        "sqe_flags": {name: value for name, value in vars(uapi).items() if re.fullmatch(r"IOSQE_\w+", name)
                      and not name.endswith("_BIT")},
        "errno": {name: getattr(errno, name) for name in codes if hasattr(errno, name)},
        "strerror": {str(getattr(errno, name)): os.strerror(getattr(errno, name)) for name in codes
                     if hasattr(errno, name)},
        "little": sys.byteorder == "little",
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------------
# The tour as data

SHOWN_ADDRESS = 0x7F0000001000  # shown instead of the buffer's, which differs each time


class Recorder(tour.Guide):
    """A guide that records each change when it happens, instead of printing it.

    An event is a dict: ``kind`` is "word" (name, old, new, by, order; ``bytes`` for an SQE, ``cqe`` for a
    CQE), "copy" (the kernel reads an SQE), "call" (we enter the kernel) or "outside" (another program acts).
    ``waits`` lists the requests that the kernel keeps, and ``overflow`` the CQEs that did not fit, if these
    lists have changed.
    """

    def __init__(self) -> None:
        """Start without a chapter."""
        super().__init__(RecordedKernels(self), lambda text: None)
        #: The recorded chapters.
        self.chapters: list[dict[str, Any]] = []
        self.watched: Recorded | None = None
        self._events: list[dict[str, Any]] = []
        self._shown: dict[str, Any] = {}

    def chapter(self, number: int, title: str, text: str) -> None:
        """Begin a chapter."""
        self.chapters.append({"number": number, "title": title, "text": [], "ring": None, "steps": []})
        self.say(text)

    def say(self, text: str) -> None:
        """Record a paragraph: of the chapter if it has no step yet, otherwise of its next step."""
        chapter = self.chapters[-1]
        target = chapter["steps"][-1] if chapter["steps"] else chapter
        target["text"].append(" ".join(text.split()))

    def look_at(self, ring: rings.Ring) -> None:
        """Take the ring of a chapter; its present contents do not count as changes."""
        super().look_at(ring)
        assert isinstance(ring, fakekernel.FakeRing) and isinstance(ring.kernel, Recorded)
        self.watched, self._events, self._shown = ring.kernel, [], {"waits": [], "overflow": []}
        self.chapters[-1]["ring"] = describe(ring, self._before)
        take = ring.get_sqe

        def get_sqe() -> memoryview:
            self.look()
            slot = take()
            self.look()
            return slot

        ring.get_sqe = get_sqe  # so that each of several slots is a separate event

    def step(self, title: str, text: str = "", either_order: bool = False) -> None:
        """End a step: the events since the last step belong to it."""
        self.look()
        events, self._events = self._events, []
        self.chapters[-1]["steps"].append({"title": title, "text": [], "events": events})
        if text:
            self.say(text)

    def look(self) -> None:
        """Record the changes since the last look."""
        ring, kernel = self._ring, self.watched
        if ring is None or kernel is None or ring.closed:
            return
        before, self._before = self._before, tour.snapshot(ring)
        for kind, (who, order) in tour.WORDS.items():
            for name, value in self._before.items():
                if name.partition("[")[0] == kind and before.get(name) != value:
                    event = {"kind": "word", "name": name, "old": before.get(name), "new": value}
                    event.update(by=who, order=order, **raw_slot(ring, name))
                    self._events.append(event)
        self._note_what_waits(kernel)

    def note(self, event: dict[str, Any]) -> None:
        """Record an event that changes no word."""
        self.look()
        if self._ring is not None:
            self._events.append(event)

    def _note_what_waits(self, kernel: Recorded) -> None:
        now = {"waits": kernel.waiting(), "overflow": [list(cqe) for cqe in kernel.overflowed]}
        for key, value in now.items():
            if value != self._shown[key]:
                self._shown[key] = value
                if not self._events:
                    self._events.append({"kind": "note", "text": "the kernel's own lists change"})
                self._events[-1][key] = value


def describe(ring: rings.Ring, words: tour.Words) -> dict[str, Any]:
    """Return the constants of a ring, and its words as they are now."""
    params = ring.params
    memory = ring._mappings[0]
    array = None
    if ring.sq.array_offset is not None:
        start = params["sq_off"]["array"]
        array = [tour._u32(memory, start + 4 * i) for i in range(params["sq_entries"])]
    slots = {name: raw_slot(ring, name) for name in words if name.endswith("]") and words[name]}
    return {
        "sq_entries": params["sq_entries"], "cq_entries": params["cq_entries"], "array": array,
        "sqpoll": bool(ring.flags & uapi.IORING_SETUP_SQPOLL), "words": dict(words), "slots": slots,
    }  # fmt: skip


def raw_slot(ring: rings.Ring, name: str) -> dict[str, Any]:
    """Return the contents of a slot for the page; nothing for a word."""
    kind, _, index = name.rstrip("]").partition("[")
    if kind == "sqe":
        start = int(index) * ring.sq.sqe_size
        image = bytearray(ring._mappings[2][start : start + 64])
        if image[0] == uapi.IORING_OP_READ:
            image[16:24] = SHOWN_ADDRESS.to_bytes(8, sys.byteorder)
        return {"bytes": image.hex()}
    if kind == "cqe":
        start = ring.params["cq_off"]["cqes"] + int(index) * ring.cq.cqe_size
        return {"cqe": list(queues._CQE16.unpack(bytes(ring._mappings[1][start : start + 16])))}
    return {}


class Recorded(fakekernel.FakeKernel):
    """A FakeKernel that shows a Recorder each of its stores."""

    recorder: Recorder | None = None

    def store(self, offset: int, value: int) -> None:
        """Store a word, and let the recorder look."""
        super().store(offset, value)
        if self.recorder is not None:
            self.recorder.look()

    def enter(self, fd: int, to_submit: int, min_complete: int, flags: int, timeout: Any = None) -> int:
        """Execute io_uring_enter as a FakeKernel does, after recording the call."""
        names = uapi.names_of_flags("IORING_ENTER_", flags)
        shown = "|".join(name.replace("IORING_ENTER_", "") for name in names) or "0"
        if self.recorder is not None:
            text = f"io_uring_enter(fd, {to_submit}, {min_complete}, {shown})"
            self.recorder.note({"kind": "call", "text": text})
        return super().enter(fd, to_submit, min_complete, flags, timeout)

    def consume_one(self) -> bool:
        """Take one SQE, after recording which."""
        if self.recorder is not None:
            index = self.sq_head & (self.sq_entries - 1)
            self.recorder.note({"kind": "copy", "name": f"sqe[{index}]", "index": self.sq_head})
        return super().consume_one()

    def feed(self, fd: int, data: bytes) -> None:
        """Write into a pipe as a FakeKernel does, after recording it."""
        if self.recorder is not None:
            self.recorder.note({"kind": "outside", "text": f"another program writes {data!r} into the pipe"})
        super().feed(fd, data)

    def waiting(self) -> list[list[Any]]:
        """List the requests that this kernel keeps: (user_data, the event that it waits for)."""
        found: list[list[Any]] = [[each["user_data"], "data in the pipe"] for each in self.reads]
        found += [[user_data, "an event of the pipe"] for user_data in self.polls]
        return found + [[late[0], "its end"] for late in self.late]


class RecordedKernels(tour.PythonKernel):
    """Rings on Recorded kernels."""

    def __init__(self, recorder: Recorder) -> None:
        """Take the recorder of the kernels' stores."""
        self._recorder = recorder

    @contextlib.contextmanager
    def ring(self, entries: int, cq_entries: int = 0, flags: int = 0) -> Iterator[rings.Ring]:
        """Make a ring for a chapter."""
        kernel = Recorded(entries, cq_entries, flags, poison=False)
        with fakekernel.FakeRing(kernel) as ring:
            self._kernel = kernel
            kernel.recorder = self._recorder
            yield ring
            kernel.recorder, self._recorder.watched = None, None


def record(chapters: Sequence[Callable[[tour.Guide], None]] = tour.CHAPTERS) -> list[dict[str, Any]]:
    """Walk through chapters of the tour, and return them as data.

    Returns: for each chapter number, title and text, the ring at its start, and the steps: title, text and
        events (see Recorder).
    """
    recorder = Recorder()
    for chapter in chapters:
        chapter(recorder)
    return recorder.chapters


# ------------------------------------------------------------------------------------------------------
# The page


def page() -> str:
    """Return the page: HTML in ASCII, so that no encoding of a terminal or a file can damage it."""
    data = {
        "kind": "rings", "chapters": record(), "words": words_as_data(),
        "slots": {name: dict(zip(("writer", "order"), tour.WORDS[name])) for name in ("sqe", "cqe")},
        "operations": operations_as_data(), "names": names_as_data(),
    }  # fmt: skip
    return playpage.fill(data, "Play with the rings of io_uring")


def trace_page(lines: Iterable[str]) -> str:
    """Return the page of a trace.

    Args: lines as trace.py wrote them.
    Raises: ValueError if they are not a trace.
    """
    return playpage.fill(playtrace.summarise(lines), "What the rings did")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the page.

    Args: arguments are the command line's by default.
    Returns: the exit code.
    """
    import argparse

    parser = argparse.ArgumentParser(
        prog="python -m rawuring.play",
        description="Write a page of HTML to stdout: rings to play with, or what the rings in a trace did.",
    )
    parser.add_argument("trace", nargs="?", help="a file written by RAWURING_TRACE=FILE python app.py")
    options = parser.parse_args(arguments)
    if sys.stdout.isatty():
        parser.error("this prints a page of HTML: python -m rawuring.play > ring.html")
    if options.trace is None:
        sys.stdout.write(page())
        return 0
    with open(options.trace, encoding="utf-8", errors="replace") as lines:
        try:
            text = trace_page(lines)
        except ValueError as error:
            parser.error(str(error))
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    command.run(main)
