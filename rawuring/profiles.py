# SPDX-License-Identifier: MIT
# pyright: basic
"""The io_uring features that programs need, checked here: ``python -m rawuring.probe --profile NAME``.

What it is: a table of programs, with the features that each uses, and the form of such tables in files.
Mirrors: virt-host-validate's list for each driver.
Must not know: how an answer is found; report.ask() has it.
Invariant: each row names its source: the place in the program's code.
Read next: credentials.py.

A file has the same form, as JSON:

    {"name": "mine", "rows": [{"what": "reads", "items": ["OP:READ"], "optional": false, "source": "mine.c"}]}
"""

from __future__ import annotations

from collections import namedtuple

from . import report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .survey import Answer, Capabilities

SCHEMA = 1


class Row(namedtuple("Row", "what items optional source")):
    """One activity of a program, and the items (as for --require) that it needs."""

    __slots__ = ()

    what: str
    items: tuple[str, ...]
    optional: bool
    source: str


def _rows(source: str, *rows: tuple[str, str, bool]) -> tuple[Row, ...]:
    return tuple(Row(what, tuple(items.split()), optional, source) for what, items, optional in rows)


_LIBUV = "libuv src/unix/linux.c"
_TOKIO = "tokio tokio/src/runtime/io/driver/uring.rs and tokio/src/io/uring"
_FIO = "fio engines/io_uring.c"
#: name -> the program's uses of io_uring. Without the optional ones it works with fewer features.
PROFILES: dict[str, tuple[Row, ...]] = {
    "qemu": (
        *_rows(
            "QEMU util/fdmon-io_uring.c",
            ("event loop", "OP:POLL_ADD OP:POLL_REMOVE OP:TIMEOUT", False),
        ),
        *_rows(
            "QEMU block/io_uring.c",
            ("disks with aio=io_uring", "OP:READV OP:WRITEV OP:FSYNC", False),
            ("the ring by its index", "REG:RING_FDS", True),
        ),
    ),
    "libuv": _rows(
        _LIBUV,
        ("any ring", "FEAT:RSRC_TAGS FEAT:SINGLE_MMAP FEAT:NODROP", False),
        ("changes of interest in batches", "OP:EPOLL_CTL", False),
        ("no array of indices", "SETUP:NO_SQARRAY", True),
        (
            "files, with UV_USE_IO_URING=1",
            "SETUP:SQPOLL OP:OPENAT OP:CLOSE OP:READV OP:WRITEV OP:FSYNC OP:STATX", True,
        ),
        (
            "links and names, with UV_USE_IO_URING=1",
            "OP:LINKAT OP:MKDIRAT OP:RENAMEAT OP:SYMLINKAT OP:UNLINKAT", True,
        ),
        ("ftruncate, with UV_USE_IO_URING=1", "OP:FTRUNCATE", True),
    ),
    "tokio": _rows(
        _TOKIO,
        ("list of the kernel's operations", "REG:PROBE", False),
        ("files", "OP:OPENAT OP:READ OP:WRITE", False),
        ("metadata", "OP:STATX", True),
        ("names", "OP:RENAMEAT OP:UNLINKAT OP:MKDIRAT OP:SYMLINKAT OP:LINKAT", True),
    ),
    "mariadb": _rows(
        "MariaDB tpool/aio_liburing.cc",
        ("reads and writes of InnoDB", "OP:READV OP:WRITEV", False),
        ("shutdown", "OP:NOP", False),
    ),
    "postgresql": _rows(
        "PostgreSQL src/backend/storage/aio/method_io_uring.c",
        ("io_method=io_uring", "OP:READ OP:READV OP:WRITE OP:WRITEV SQE:ASYNC", False),
        ("the rings of all backends in one allocation", "SETUP:NO_MMAP", True),
    ),
    "fio": _rows(
        _FIO,
        ("ioengine=io_uring", "OP:READV OP:WRITEV OP:FSYNC", False),
        ("without iovecs", "REG:PROBE OP:READ OP:WRITE", True),
        ("a CQ of its own size", "SETUP:CQSIZE", True),
        ("completions on demand", "SETUP:COOP_TASKRUN SETUP:SINGLE_ISSUER SETUP:DEFER_TASKRUN", True),
        ("fixedbufs", "REG:BUFFERS OP:READ_FIXED OP:WRITE_FIXED", True),
        ("registerfiles", "REG:FILES SQE:FIXED_FILE", True),
        ("sqthread_poll", "SETUP:SQPOLL REG:FILES SQE:FIXED_FILE", True),
        ("hipri", "SETUP:IOPOLL", True),
        ("ioengine=io_uring_cmd", "OP:URING_CMD SETUP:SQE128 SETUP:CQE32", True),
    ),
}  # fmt: skip

# The parts of this library: the features of report.LIBRARY that they need, and all that they use.
_ONE_SHOT, _MONITOR = "selector and asyncio, one-shot polls", "monitor (fdmon)"
_PARTS = {
    "rawuring": ((_MONITOR, _ONE_SHOT), tuple(report.LIBRARY)),
    "fdmon": (
        (_MONITOR,),
        (
            _MONITOR, "monitor of more descriptors than the ring has entries",
            "timeouts without a request of their own", "idle waits that do not count as iowait",
            "submission by a kernel thread",
        ),
    ),
    "selector": (
        (_ONE_SHOT,),
        (
            _ONE_SHOT, "selector and asyncio, an epoll set",
            "selector and asyncio, an epoll set in one system call",
            "timeouts without a request of their own",
        ),
    ),
}  # fmt: skip
_PARTS["aio"] = _PARTS["selector"]
PROFILES.update({
    name: tuple(
        Row(feature, report.LIBRARY[feature], feature not in needed, "rawuring/report.py LIBRARY")
        for feature in used
    )
    for name, (needed, used) in _PARTS.items()
})
PROFILES["node"] = PROFILES["libuv"]


def load(name: str) -> tuple[str, tuple[Row, ...]]:
    """Find a profile by its name, or read it from a file.

    Args: name is a key of PROFILES, or the path of a file.
    Returns: the name and the rows.
    Raises: ValueError for an unknown name, and for a file that is not a profile.
    """
    if name in PROFILES:
        return name, PROFILES[name]
    import json

    try:
        with open(name, encoding="utf-8") as file:
            data = json.load(file)
    except OSError as error:
        known = ", ".join(PROFILES)
        raise ValueError(f"{name!r} is neither a profile ({known}) nor a file: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: not JSON: {error}") from None
    try:
        rows = tuple(_row(row) for row in data["rows"])
        title = data.get("name", name)
    except (KeyError, TypeError, AttributeError) as error:
        form = "a list of rows with what and items"
        raise ValueError(f"{name}: not a profile, which has {form}: {error!r}") from None
    if not isinstance(title, str) or not rows:
        raise ValueError(f"{name}: not a profile, which has a string as its name, and rows")
    return title, rows


def _row(row: dict[str, Any]) -> Row:
    what, items = row["what"], row["items"]
    optional, source = row.get("optional", False), row.get("source", "")
    if not isinstance(what, str) or not isinstance(source, str) or not isinstance(optional, bool):
        raise TypeError("what and source are strings, and optional is true or false")
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise TypeError("items is a list of strings such as OP:READ")
    for item in items:
        report.check(item)
    return Row(what, tuple(items), optional, source)


def answer(found: Capabilities, row: Row) -> tuple[Answer, list[str]]:
    """Return whether the items of one row are available here.

    Args: found as probe.capabilities() returned it.
    Returns: yes, no or unknown, and the items that prevent a yes.
    """
    if not found.usable:
        return found.usable, ["a ring"]
    answers = {item: report.ask(found, item)[0] for item in row.items}
    whole: Answer = False if False in answers.values() else None if None in answers.values() else True
    return whole, [item for item, each in answers.items() if each is whole] if not whole else []


def conclude(found: Capabilities, rows: tuple[Row, ...]) -> Answer:
    """Return whether every item that is not optional is available."""
    answers = [answer(found, row)[0] for row in rows if not row.optional]
    return False if False in answers else None if None in answers else True


def as_dict(found: Capabilities, name: str, rows: tuple[Row, ...], verdict: str) -> dict[str, Any]:
    """Return profile and answers as a dict that JSON can hold; docs/profile.schema.json describes it."""
    told = []
    for row in rows:
        each, missing = answer(found, row)
        told.append({**row._asdict(), "items": list(row.items), "answer": each, "missing": missing})
    return {
        "schema": SCHEMA, "verdict": verdict, "profile": name, "answer": conclude(found, rows), "rows": told,
        "advice": found.advice,
    }  # fmt: skip


def print_text(found: Capabilities, name: str, rows: tuple[Row, ...], verdict: str) -> None:
    """Print profile and answers for a person."""
    print(verdict)
    words: dict[Answer, str] = {True: "yes", False: "no", None: "unknown"}
    for row in rows:
        each, missing = answer(found, row)
        lacking = f" ({', '.join(missing)})" if missing else ""
        optional = " (optional)" if row.optional else ""
        print(f"  {row.what}{optional}: {words[each]}{lacking}")
        print(f"      {' '.join(row.items) or 'a memory fence'}{f'; {row.source}' if row.source else ''}")
    whole = {
        True: "every required item is available",
        False: "a required item is missing",
        None: "not every answer could be determined",
    }[conclude(found, rows)]
    print(f"profile {name}: {whole}")
    print(f"hint: {found.advice}")
