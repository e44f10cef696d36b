# SPDX-License-Identifier: MIT
# pyright: basic
"""Show the rings of a process, or of all: ``python -m rawuring.inspect PID``, ``--all``.

What it is: a reader of /proc/PID/fdinfo. Does this program use io_uring, how full are its rings, what does it
poll, what is registered, does a kernel thread submit for it, and is any of that unusual? As text or JSON,
once or repeatedly. Mirrors: nothing; lsof(8), ss(8) and top(1) are its relatives.
Must not know: how to create a ring; it only reads files, and changes nothing.
Invariant: a figure that a kernel does not report is None in the data and "not told" in the text, never zero;
a process that ends meanwhile is not an error, and unreadable processes are counted.
Read next: DESIGN.md.

The figures that kernels report (io_uring/fdinfo.c):

    seen on 5.10  SqThread, SqThreadCpu, UserFiles, UserBufs and PollList
    seen on 6.1   the indices as well: SqMask, SqHead, SqTail, CachedSqHead, CqMask, CqHead, CqTail,
                  CachedCqTail, entries that wait (SQEs, CQEs), CqOverflowList
    seen on 6.12  SqTotalTime and SqWorkTime, NAPI

SqHead is the head that the application sees, CachedSqHead counts the SQEs that the kernel has consumed.
PollList names the opcode of a request that waits for its descriptor, but not the descriptor. The lists are
omitted while another thread holds the ring's lock. A ring with several descriptors (each mmap of Python
before 3.13 keeps one) is recognised by its inode if each ring has its own; on older kernels each descriptor
is shown.

Only the flags of a ring that leave a trace are shown: SQPOLL by its thread, CQE32 and SQE128 by the form of
waiting entries, NAPI. Memory is the mapped memory in /proc/PID/maps. That also shows rings whose descriptor
was closed after it was registered; for --all only processes with a descriptor are read so closely.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from functools import lru_cache
from typing import NamedTuple

from . import command, uapi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    Rows = dict[tuple[Any, ...], tuple[str, ...]]

RING_LINK = "anon_inode:[io_uring]"
PROC = "/proc"


# ------------------------------------------------------------------------------------------------------
# One ring


def parse_fdinfo(text: str) -> dict[str, Any]:
    """Parse the fdinfo of a ring.

    Args: text is the content of /proc/PID/fdinfo/FD.
    Returns: sq and cq with head, tail, entries, used, cached (None if the kernel does not report it);
        sq_thread, sq_cpu; user_files and user_bufs with their number and the listed ones; polls, opcode ->
        number, and polls_woken, the number of them with an event that was not yet delivered to their task;
        overflow, the user_data of CQEs that wait for room; waiting_sqes and waiting_cqes; flags, those that
        leave a trace; and raw, every line of the form "Name: value" that was found.
    """
    raw, lists = _split(text)
    return {
        "sq": _queue(raw, "Sq", "CachedSqHead"),
        "cq": _queue(raw, "Cq", "CachedCqTail"),
        "waiting_sqes": _number(raw.get("SQEs")),
        "waiting_cqes": _number(raw.get("CQEs")),
        "sq_thread": _thread(raw.get("SqThread")),
        "sq_cpu": _thread(raw.get("SqThreadCpu")),
        "sq_total_us": _number(raw.get("SqTotalTime")),
        "sq_work_us": _number(raw.get("SqWorkTime")),
        "user_files": {"count": _number(raw.get("UserFiles")), "listed": lists.get("UserFiles", [])},
        "user_bufs": {"count": _number(raw.get("UserBufs")), "listed": lists.get("UserBufs", [])},
        "polls": _polls(lists.get("PollList")) if "PollList" in raw else None,
        "polls_woken": _woken(lists.get("PollList", [])) if "PollList" in raw else None,
        "overflow": _overflow(lists.get("CqOverflowList", [])) if "CqOverflowList" in raw else None,
        "napi": raw.get("NAPI"),
        "flags": _flags(raw, lists),
        "raw": raw,
    }


def _split(text: str) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Separate the lines "Name: value" from the indented lines below some of them."""
    raw: dict[str, str] = {}
    lists: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        named = re.match(r"([A-Za-z_]+):\s*(.*)$", line)
        if named and not line[0].isspace():
            name = named[1]
            raw[name] = named[2].strip()
        elif line.strip():
            lists.setdefault(name, []).append(line.strip())
    return raw, lists


def _number(text: str | None) -> int | None:
    try:
        return None if text is None else int(text, 0)
    except ValueError:
        return None


def _thread(text: str | None) -> int | None:
    number = _number(text)
    return None if number is None or number < 0 else number


def _queue(raw: dict[str, str], letter: str, cached: str) -> dict[str, int | None]:
    mask = _number(raw.get(f"{letter}Mask"))
    head, tail = _number(raw.get(f"{letter}Head")), _number(raw.get(f"{letter}Tail"))
    used = None if head is None or tail is None else (tail - head) & 0xFFFFFFFF
    entries = None if mask is None else mask + 1
    return {"entries": entries, "head": head, "tail": tail, "used": used, "cached": _number(raw.get(cached))}


def _polls(lines: list[str] | None) -> dict[str, int]:
    """Count the requests that wait for a descriptor, by opcode."""
    found: dict[str, int] = {}
    for line in lines or []:
        opcode = re.search(r"\bop=(\d+)", line)
        if opcode:
            name = uapi.name_of("IORING_OP_", int(opcode[1])).replace("IORING_OP_", "")
            found[name] = found.get(name, 0) + 1
    return found


def _woken(lines: list[str]) -> int:
    return sum(1 for line in lines if re.search(r"\btask_works=[1-9]", line))


def _flags(raw: dict[str, str], lists: dict[str, list[str]]) -> list[str]:
    """Name the flags that leave a trace; a missing one proves nothing."""
    traces = {
        "SQPOLL": _thread(raw.get("SqThread")) is not None,
        "SQE128": any(re.search(r"\be0:0x", line) for line in lists.get("SQEs", [])),
        "CQE32": any("extra1:" in line for line in lists.get("CQEs", [])),
        "NAPI": raw.get("NAPI", "disabled") not in ("disabled", ""),
    }
    return [name for name, there in traces.items() if there]


def _overflow(lines: list[str]) -> list[int]:
    return [int(found[1]) for found in (re.search(r"user_data=(\d+)", line) for line in lines) if found]


# ------------------------------------------------------------------------------------------------------
# Processes

#: The errnos of a file of /proc that no longer exists.
_ENDED = (errno.ENOENT, errno.ESRCH)


def rings_of(pid: int | str, proc: str = PROC) -> list[dict[str, Any]]:
    """Read all rings of a process.

    Args: pid is a number or "self"; proc is where procfs is mounted.
    Returns: parse_fdinfo() of each ring, with "fd", "other_fds" and "inode".
    Raises: OSError: ENOENT if the process does not exist, EACCES without permission to look.
    """
    folder = f"{proc}/{pid}/fd"
    found: list[dict[str, Any]] = []
    by_inode: dict[int, dict[str, Any]] = {}
    for fd in sorted(_ring_descriptors(folder)):
        try:
            with open(f"{proc}/{pid}/fdinfo/{fd}", encoding="ascii", errors="replace") as file:
                ring = {"fd": fd, "other_fds": [], **parse_fdinfo(file.read())}
            inode = _number(ring["raw"].get("ino"))
            if inode is None:  # reported since 5.14
                inode = os.stat(f"{folder}/{fd}").st_ino
        except OSError as error:
            if error.errno in _ENDED:
                continue  # closed in the meantime
            raise
        own = inode if inode != _shared_inode() else None
        ring["inode"] = own
        first = ring if own is None else by_inode.setdefault(own, ring)
        if first is ring:
            found.append(ring)
        else:
            first["other_fds"].append(fd)
    return found


def _ring_descriptors(folder: str) -> list[int]:
    found = []
    for name in os.listdir(folder):
        try:
            if os.readlink(f"{folder}/{name}") == RING_LINK:
                found.append(int(name))
        except OSError as error:
            if error.errno not in _ENDED:
                raise
    return found


@lru_cache(maxsize=1)
def _shared_inode() -> int:
    """Return the inode that descriptors without their own share; rings were among them."""
    import select

    try:
        with select.epoll() as one:
            return os.fstat(one.fileno()).st_ino
    except (AttributeError, OSError):
        return -1


def look_at(pid: int | str, proc: str = PROC) -> dict[str, Any]:
    """Find out whether a process uses io_uring, and how.

    Args: as rings_of().
    Returns: pid, name, rings, and error: None, or a sentence that explains why there is no answer. With an
        answer, also the findings of details().
    """
    report: dict[str, Any] = {"pid": pid, "name": _name(pid, proc), "rings": [], "error": None}
    try:
        report["rings"] = rings_of(pid, proc)
    except OSError as error:
        report["error"] = explain(error, pid)
        return report
    return {**report, **details(pid, report["rings"], proc)}


def details(pid: int | str, rings: list[dict[str, Any]], proc: str = PROC) -> dict[str, Any]:
    """Read the facts about the process of some rings, and complete each ring from other files.

    Args: rings are from rings_of(); each gets "mapped", the bytes of it that the process has mapped, and
        "sqpoll": None, or state and cpu_s of its thread.
    Returns: command, uid, user, container (None if none is known), pinned (bytes of memory that cannot be
        moved, including registered buffers), workers (number, blocked and cpu_s of io-wq's threads),
        without_descriptor (mapped rings without a descriptor, inode -> bytes), and unread: the files of /proc
        that could not be read.
    """
    unread: list[str] = []

    def read(name: str) -> str:
        try:
            with open(f"{proc}/{pid}/{name}", encoding="utf-8", errors="backslashreplace") as file:
                return file.read()
        except OSError as error:
            unread.append(f"{name}: {error.strerror}")
            return ""

    status = dict(re.findall(r"^(\w+):\t(.*)$", read("status"), re.MULTILINE))
    uid = _number((status.get("Uid") or "x").split()[0])
    mapped = _mapped(read("maps"))
    threads = _threads(f"{proc}/{pid}/task", unread)
    could_map = not any(each.startswith("maps:") for each in unread)
    for ring in rings:
        ring["mapped"] = mapped.get(ring["inode"], 0) if could_map and ring["inode"] is not None else None
        ring["sqpoll"] = _sqpoll(ring["sq_thread"], threads, proc)
    known = {ring["inode"] for ring in rings} | {_shared_inode()}
    return {
        "command": read("cmdline").replace("\0", " ").strip() or None,
        "uid": uid,
        "user": None if uid is None else _user(uid),
        "container": container_of(read("cgroup")),
        "pinned": _kilobytes(status.get("VmPin")),
        "workers": None if threads is None or _workers_are_the_kernels() else _workers(threads),
        "without_descriptor": {inode: size for inode, size in mapped.items() if inode not in known},
        "unread": unread,
    }


def _kilobytes(text: str | None) -> int | None:
    number = _number((text or "x").split()[0])
    return None if number is None else number * 1024


def _mapped(maps: str) -> dict[int, int]:
    """Return inode -> bytes of the rings that a process has mapped."""
    found: dict[int, int] = {}
    for line in maps.splitlines():
        if line.endswith(RING_LINK):
            where, _, _, _, inode = line.split()[:5]
            start, _, end = where.partition("-")
            found[int(inode)] = found.get(int(inode), 0) + int(end, 16) - int(start, 16)
    return found


class _Thread(NamedTuple):
    name: str
    state: str
    cpu_s: float


def _threads(folder: str, unread: list[str]) -> dict[int, _Thread] | None:
    try:
        numbers = [int(name) for name in os.listdir(folder)]
    except OSError as error:
        unread.append(f"task: {error.strerror}")
        return None
    found = {number: _read_thread(f"{folder}/{number}/stat") for number in numbers}
    return {number: thread for number, thread in found.items() if thread}


def _read_thread(path: str) -> _Thread | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            head, _, rest = file.read().rpartition(")")
        fields = rest.split()
        ticks = int(fields[11]) + int(fields[12])
        return _Thread(head.partition("(")[2], fields[0], ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, IndexError, ValueError):
        return None


def _sqpoll(number: int | None, threads: dict[int, _Thread] | None, proc: str) -> dict[str, Any] | None:
    """Return the state of a ring's thread; before 5.12 it belongs to the kernel, not to the process."""
    if number is None:
        return None
    thread = (threads or {}).get(number) or _read_thread(f"{proc}/{number}/stat")
    if thread is None or not thread.name.startswith(("iou-sqp", "io_uring-sq")):
        return {"state": None, "cpu_s": None}
    return {"state": thread.state, "cpu_s": thread.cpu_s}


def _workers_are_the_kernels() -> bool:
    """Return whether workers are not threads of their process, as before 5.12: their owner is unknown."""
    release = re.match(r"(\d+)\.(\d+)", os.uname().release if hasattr(os, "uname") else "")
    return release is not None and (int(release[1]), int(release[2])) < (5, 12)


def _workers(threads: dict[int, _Thread]) -> dict[str, Any]:
    found = [thread for thread in threads.values() if thread.name.startswith("iou-wrk")]
    blocked = sum(1 for thread in found if thread.state == "D")
    return {"number": len(found), "blocked": blocked, "cpu_s": sum(thread.cpu_s for thread in found)}


@lru_cache(maxsize=1024)
def _user(uid: int) -> str | None:
    try:
        import pwd

        return pwd.getpwuid(uid).pw_name
    except (ImportError, KeyError, OSError):
        return None


_RUNTIMES = ("kubepods", "docker", "libpod", "containerd", "crio", "buildkit", "garden")


def container_of(cgroup: str) -> str | None:
    """Name the container of a process, as far as its control group tells.

    Args: cgroup is the content of /proc/PID/cgroup.
    Returns: kind and the first 12 characters of the name, such as "docker 0123456789ab"; None if none is
        known.
    """
    identified = re.search(r"[0-9a-f]{64}", cgroup)
    if identified:
        kind = next((name for name in _RUNTIMES if name in cgroup), "container")
        return f"{kind} {identified[0][:12]}"
    named = re.search(r"/(lxc)(?:\.payload\.|/)([^/\n]+)|/(machine)-([^/\n]+)\.scope", cgroup)
    return f"{named[1] or named[3]} {(named[2] or named[4])[:12]}" if named else None


def inventory(proc: str = PROC) -> dict[str, Any]:
    """List every process that has a ring.

    Returns: processes, as look_at() reports them; counts of all processes, of those with_rings, of rings, of
        those that ended meanwhile, and of the unreadable ones; unreadable, reason -> number; hidden, whether
        /proc hides processes: then process 1 is missing.
    Raises: OSError if /proc is missing or empty.
    """
    found: list[dict[str, Any]] = []
    reasons: dict[str, int] = {}
    counts = {"processes": 0, "with_rings": 0, "rings": 0, "ended": 0, "unreadable": 0}
    pids = list(all_processes(proc))
    if not pids:
        raise FileNotFoundError(errno.ENOENT, "no process is listed")
    for pid in pids:
        counts["processes"] += 1
        try:
            if not _ring_descriptors(f"{proc}/{pid}/fd"):
                continue
            rings = rings_of(pid, proc)
        except OSError as error:
            if error.errno in _ENDED:
                counts["ended"] += 1
            else:
                counts["unreadable"] += 1
                reason = explain(error, "PID")
                reasons[reason] = reasons.get(reason, 0) + 1
            continue
        if rings:
            base = {"pid": pid, "name": _name(pid, proc), "rings": rings, "error": None}
            found.append({**base, **details(pid, rings, proc)})
            counts["with_rings"] += 1
            counts["rings"] += len(rings)
    return {"processes": found, "counts": counts, "unreadable": reasons, "hidden": pids[0] != 1}


def explain(error: OSError, pid: int | str) -> str:
    """Explain an error of rings_of(), with advice.

    Args: pid as passed to it.
    """
    if not sys.platform.startswith(("linux", "android")):
        return "there is no /proc/PID/fdinfo on this system"
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"may not look at process {pid}: it belongs to another user, or has made itself undumpable. "
            "Ask as its user, or as root (the right is the one to ptrace it: CAP_SYS_PTRACE)"
        )
    if error.errno in _ENDED:
        return f"there is no process {pid} (any more), or /proc is mounted with hidepid"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{error.strerror}: no descriptor is free to read /proc (ulimit -n)"
    return f"process {pid}: {error.strerror}"


def _name(pid: int | str, proc: str) -> str | None:
    try:
        with open(f"{proc}/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return None


def all_processes(proc: str = PROC) -> Iterator[int]:
    """Yield the number of every process.

    Raises: OSError without /proc.
    """
    yield from sorted(int(name) for name in os.listdir(proc) if name.isdecimal())


def descendants(pid: int, proc: str = PROC) -> list[int]:
    """List a process and all its descendants.

    Args: pid is a number.
    """
    parents: dict[int, list[int]] = {}
    for other in all_processes(proc):
        try:
            with open(f"{proc}/{other}/stat", encoding="utf-8", errors="replace") as file:
                # The name in brackets may contain anything, so count from its end: state, parent.
                parents.setdefault(int(file.read().rpartition(")")[2].split()[1]), []).append(other)
        except (OSError, IndexError, ValueError):
            continue
    found = [pid]
    for parent in found:
        found += parents.get(parent, [])
    return found


# ------------------------------------------------------------------------------------------------------
# Unusual findings


class Oddity(NamedTuple):
    """A finding that a healthy ring does not show for long."""

    what: str
    means: str
    do: str
    page: str


_PAGES = {
    "queues": "docs/concepts.md, Two queues",
    "calls": "docs/concepts.md, Three system calls, and mmap",
    "memory": "docs/concepts.md, How long memory must live",
    "overflow": "docs/confusions.md, 6. The SQ reports CQ overflow",
    "indices": "docs/confusions.md, 4. Who writes which index",
    "sqpoll": "docs/faq.md, Do I need SQPOLL?",
    "polls": "docs/faq.md, Why does POLL_ADD report a descriptor only once?",
    "workers": "docs/faq.md, What are the iou-wrk threads?",
    "life": "docs/concepts.md, Life of a request",
}


def unusual(
    ring: dict[str, Any], before: dict[str, Any] | None = None, process: dict[str, Any] | None = None
) -> list[Oddity]:
    """List the unusual findings about a ring.

    Args: ring as look_at() reports it; before is the same ring a moment earlier, without which nothing can be
        called stuck. process is the report that the ring is part of.
    Returns: nothing for a healthy ring.
    """
    found = list(_odd_queues(ring, before)) + list(_odd_polls(ring, before))
    polled = ring.get("sqpoll")
    if polled and polled["state"] is None:
        found.append(Oddity(
            "its SQPOLL thread is gone", "its entries are no longer taken", "close the ring",
            _PAGES["sqpoll"],
        ))  # fmt: skip
    elif before and _grew(ring, before, "sq_total_us") and not _grew(ring, before, "sq_work_us"):
        found.append(Oddity(
            "its SQPOLL thread spins without work", "it takes a CPU, and finds no entries",
            "choose a shorter sq_thread_idle, or go without SQPOLL", _PAGES["sqpoll"],
        ))  # fmt: skip
    workers = (process or {}).get("workers")
    if workers and workers["blocked"]:
        found.append(Oddity(
            f"{workers['blocked']} of {workers['number']} io-wq workers of the process are blocked (state D)",
            "the requests that they run wait for a disk or a network file system",
            "look at that file system; IORING_REGISTER_IOWQ_MAX_WORKERS limits them", _PAGES["workers"],
        ))  # fmt: skip
    return found


def _grew(ring: dict[str, Any], before: dict[str, Any], key: str) -> bool:
    return (ring[key] or 0) > (before[key] or 0)


def _odd_queues(ring: dict[str, Any], before: dict[str, Any] | None) -> Iterator[Oddity]:
    for key, name in (("sq", "SQ"), ("cq", "CQ")):
        used, entries = ring[key]["used"], ring[key]["entries"]
        if used is not None and entries is not None and used > entries:
            yield Oddity(
                f"the {name} says that {used} of its {entries} entries are used",
                "a head or a tail was overwritten: shared memory is damaged", "close the ring; look for a "
                "program that writes an index of the other side", _PAGES["indices"],
            )  # fmt: skip
    if _is_full(ring["sq"]):
        yield Oddity(
            "the SQ is full", "the program has published entries that the kernel has not taken: without "
            "SQPOLL, it has not called io_uring_enter since; with SQPOLL, the thread sleeps or is busy",
            "submit before the next entry, or ask for a larger ring", _PAGES["queues"],
        )  # fmt: skip
    elif _stands_still(ring, before, "sq"):
        yield Oddity(
            f"{ring['sq']['used']} entries of the SQ wait, and none was taken meanwhile",
            "they were published, but io_uring_enter was not called", "call submit()", _PAGES["life"],
        )  # fmt: skip
    if ring["overflow"]:
        yield Oddity(
            f"the CQ overflows: {len(ring['overflow'])} CQEs wait in the kernel for room",
            "completions come faster than the program reaps them; multishot requests end", "reap more often, "
            "or ask for a larger CQ (IORING_SETUP_CQSIZE)", _PAGES["overflow"],
        )  # fmt: skip
    elif _is_full(ring["cq"]):
        yield Oddity(
            "the CQ is full", "the next completion overflows", "reap; or ask for a larger CQ "
            "(IORING_SETUP_CQSIZE)", _PAGES["overflow"],
        )  # fmt: skip
    elif _stands_still(ring, before, "cq"):
        yield Oddity(
            f"{ring['cq']['used']} CQEs wait, and none was reaped meanwhile",
            "the program is busy elsewhere, or no longer reaps", "find out what its thread does "
            "(/proc/PID/stack, py-spy)", _PAGES["life"],
        )  # fmt: skip


def _is_full(queue: dict[str, int | None]) -> bool:
    return queue["entries"] is not None and queue["used"] == queue["entries"]


def _stands_still(ring: dict[str, Any], before: dict[str, Any] | None, key: str) -> bool:
    queue = ring[key]
    return bool(before and queue["used"] and before[key]["used"] and queue["head"] == before[key]["head"])


def _odd_polls(ring: dict[str, Any], before: dict[str, Any] | None) -> Iterator[Oddity]:
    if before is None:
        return
    if ring["polls_woken"] and before["polls_woken"]:
        yield Oddity(
            f"{ring['polls_woken']} polls hang: their events arrived, and are not delivered",
            "the thread that started them runs no task work: it does not enter the kernel, or (with "
            "DEFER_TASKRUN) does not wait on this ring", "find out what that thread does", _PAGES["polls"],
        )  # fmt: skip
    if ring["polls"] is None and before["polls"] is None:
        yield Oddity(
            "the ring's lock was held, twice", "a thread submits or waits permanently, or is stuck in "
            "io_uring_enter", "look again; then at /proc/PID/task/*/stack", _PAGES["calls"],
        )  # fmt: skip


# ------------------------------------------------------------------------------------------------------
# As text


def describe(report: dict[str, Any]) -> str:
    """Turn the result of look_at() into text."""
    who = f"{report['pid']}" + (f" ({_printable(report['name'])})" if report["name"] else "")
    if report["error"]:
        return f"{who}: unknown: {report['error']}\n"
    closed = report.get("without_descriptor") or {}
    also = f", and {len(closed)} whose descriptor was closed, still mapped" if closed else ""
    count = len(report["rings"])
    if not report["rings"] and not closed:
        return f"{who}: no io_uring (a ring that was registered, closed and never mapped is not seen here)\n"
    text = f"{who}: uses io_uring, {count} ring{'s' if count != 1 else ''}{also}\n{_describe_process(report)}"
    return text + "".join(_describe_ring(ring) for ring in report["rings"])


def _printable(text: str) -> str:
    """Escape control sequences: a process chooses its name and arguments freely."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def _describe_process(report: dict[str, Any]) -> str:
    lines = []
    if report.get("command"):
        lines.append(f"command: {_printable(report['command'])}")
    if report.get("uid") is not None:
        lines.append(f"user: {report['user'] or report['uid']}")
    if report.get("container"):
        lines.append(f"container: {_printable(report['container'])}")
    if report.get("pinned") is not None:
        lines.append(f"pinned memory: {_size(report['pinned'])}")
    workers = report.get("workers")
    if workers is None:
        lines.append("io-wq workers: not told")
    else:
        lines.append(f"io-wq workers: {workers['number']}, {workers['cpu_s']:.2f} s of CPU time")
    if report.get("unread"):
        lines.append(f"could not be read: {'; '.join(report['unread'])}")
    return "".join(f"  {line}\n" for line in lines)


def _size(number: int | None) -> str:
    """Write a number of bytes for people."""
    if number is None:
        return "not told"
    for unit in ("B", "KiB", "MiB"):
        if number < 1024 or unit == "MiB":
            break
        number //= 1024
    return f"{number} {unit}"


def _describe_ring(ring: dict[str, Any]) -> str:
    others = f", also {', '.join(map(str, ring['other_fds']))}" if ring["other_fds"] else ""
    flags = f" ({', '.join(ring['flags'])})" if ring["flags"] else ""
    lines = [f"  descriptor {ring['fd']}{others}{flags}"]
    lines += [f"    {name}: {value}" for name, value, _, _ in _figures(ring)]
    for key, what in (("user_files", "files"), ("user_bufs", "buffers")):
        lines += [f"      {what[:-1]} {_printable(line)}" for line in ring[key]["listed"]]
    lines += [f"    unusual: {odd.what}" for odd in unusual(ring)]
    return "\n".join(lines) + "\n"


def _figures(ring: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Yield each figure: its name, the value, the meaning, and the page that explains it."""
    yield (
        "submission queue", _fill(ring["sq"]),
        "entries that the program has published by moving the tail, and the kernel has not taken",
        _PAGES["queues"],
    )  # fmt: skip
    yield (
        "completion queue", _fill(ring["cq"]) + _waiting(ring["overflow"]),
        "completions that the kernel has put there, and that the program has not reaped; those that do not "
        "fit wait in the kernel", _PAGES["overflow"],
    )  # fmt: skip
    named = ", ".join(f"{number} x {name}" for name, number in sorted((ring["polls"] or {}).items()))
    yield (
        "waits for descriptors",
        "not told (the ring's lock is held)" if ring["polls"] is None else named or "none",
        "requests in flight that wait for a ready descriptor, by operation; which one is not reported",
        _PAGES["polls"],
    )  # fmt: skip
    for key, what in (("user_files", "registered files"), ("user_bufs", "registered buffers")):
        count = ring[key]["count"]
        yield (
            what, "not told" if count is None else str(count),
            "slots of the table, which the ring holds until it is unregistered or the ring is closed",
            _PAGES["memory"],
        )  # fmt: skip
    if ring.get("mapped") is not None:
        yield (
            "memory", f"{_size(ring['mapped'])} mapped",
            "the two mappings: the words with the CQEs, and the SQEs; a process that got the descriptor from "
            "another one has mapped nothing", _PAGES["calls"],
        )  # fmt: skip
    if ring["sq_thread"] is not None:
        yield (
            "SQPOLL", f"thread {ring['sq_thread']}{_busy(ring)}",
            "a kernel thread that takes the entries, so that the program need not enter the kernel",
            _PAGES["sqpoll"],
        )  # fmt: skip


def _fill(queue: dict[str, int | None]) -> str:
    if queue["used"] is None:
        return "not told"
    text = f"{queue['used']} of {queue['entries']} used" if queue["entries"] else f"{queue['used']} used"
    return f"{text} (head {queue['head']}, tail {queue['tail']})"


def _waiting(overflow: list[int] | None) -> str:
    return f", {len(overflow)} more wait for room (overflow)" if overflow else ""


def _busy(ring: dict[str, Any]) -> str:
    text = "" if ring["sq_cpu"] is None else f" on CPU {ring['sq_cpu']}"
    if ring["sq_total_us"]:
        text += f", {ring['sq_work_us']} of {ring['sq_total_us']} us at work"
    polled = ring.get("sqpoll")
    return text + (f", {polled['cpu_s']:.2f} s of CPU time" if polled and polled["cpu_s"] is not None else "")


def explain_ring(
    ring: dict[str, Any], before: dict[str, Any] | None = None, process: dict[str, Any] | None = None
) -> str:
    """Explain each figure of a ring and the unusual findings, with the pages that treat them.

    Args: as unusual().
    """
    lines = [f"descriptor {ring['fd']}"]
    for name, value, means, page in _figures(ring):
        lines += [f"  {name}: {value}", f"    {means}", f"    see {page}"]
    odd = unusual(ring, before, process)
    for each in odd:
        lines += [f"  UNUSUAL: {each.what}", f"    it means: {each.means}", f"    do: {each.do}"]
        lines.append(f"    see {each.page}")
    if not odd:
        when = "in two looks" if before else "in one look; what stands still shows in two"
        lines.append(f"  nothing unusual {when}")
    return "\n".join(lines) + "\n"


# ------------------------------------------------------------------------------------------------------
# The inventory, once or repeatedly

_COLUMNS = ("PID", "FD", "USER", "CONTAINER", "SQ", "CQ", "OVFL", "PENDING", "FILES", "BUFS", "MEMORY",
            "SQPOLL", "IO-WQ", "FLAGS", "COMMAND")  # fmt: skip


def _rows_of(processes: Iterable[dict[str, Any]]) -> Rows:
    """Return a row of text for each ring, by its identity: pid, descriptor and inode."""
    found: Rows = {}
    for report in processes:
        workers = report.get("workers")
        for ring in report["rings"]:
            polled = ring.get("sqpoll")
            found[report["pid"], ring["fd"], ring["inode"]] = (
                str(report["pid"]), str(ring["fd"]),
                _printable(report["user"] or str("?" if report["uid"] is None else report["uid"])),
                _printable(report["container"] or "-"), _short(ring["sq"]), _short(ring["cq"]),
                _or_unknown(ring["overflow"] and len(ring["overflow"]), ring["overflow"] is None),
                _or_unknown(sum((ring["polls"] or {}).values()), ring["polls"] is None),
                _or_unknown(ring["user_files"]["count"]), _or_unknown(ring["user_bufs"]["count"]),
                "?" if ring["mapped"] is None else _size(ring["mapped"]).replace(" ", ""),
                "-" if not polled else "gone" if polled["cpu_s"] is None else f"{polled['cpu_s']:.2f}s",
                "?" if workers is None else str(workers["number"]), ",".join(ring["flags"]) or "-",
                _printable(report["command"] or report["name"] or "?"),
            )  # fmt: skip
    return found


def _short(queue: dict[str, int | None]) -> str:
    return "?" if queue["used"] is None else f"{queue['used']}/{_or_unknown(queue['entries'])}"


def _or_unknown(number: Any, unknown: bool = False) -> str:
    return "?" if unknown or number is None else str(number or 0)


def _table(rows: Rows, before: Rows | None = None, width: int = 0) -> list[str]:
    """Return the lines of a table.

    Args: before are the rows a moment earlier: changes are shown bold. width cuts the lines; 0 does not.
    """
    widths = [max(map(len, column)) for column in zip(_COLUMNS, *rows.values())]
    lines = [_line(_COLUMNS, widths, width, ())]
    for key, row in rows.items():
        old = (before or {}).get(key, ("",) * len(row))
        lines.append(_line(row, widths, width, old if before is not None else ()))
    return lines


def _line(cells: tuple[str, ...], widths: list[int], width: int, old: tuple[str, ...]) -> str:
    line, shown = "", 0
    for index, cell in enumerate(cells):
        text = (cell if index == len(cells) - 1 else cell.ljust(widths[index])) + " "
        if width:
            text = text[: max(width - shown, 0)]
        shown += len(text)
        line += f"\x1b[1m{text}\x1b[0m" if old and old[index] != cell else text
    return line.rstrip()


def _summary(found: dict[str, Any]) -> list[str]:
    """Summarize how much of the machine was seen."""
    counts = found["counts"]
    seen = f"{counts['processes']} processes, {counts['with_rings']} with io_uring; rings: {counts['rings']}"
    lines = [seen]
    if counts["ended"]:
        lines[0] += f"; {counts['ended']} ended meanwhile"
    if found["hidden"]:
        lines.append("process 1 is not listed: /proc hides the processes of others (hidepid); ask as root")
    for reason, number in found["unreadable"].items():
        lines.append(f"{number} could not be looked at: {reason}")
    missing = sum(1 for report in found["processes"] if report.get("unread"))
    if missing:
        one = next(report for report in found["processes"] if report.get("unread"))
        example = f"{one['pid']}: {one['unread'][0]}"
        lines.append(f"of {missing} not everything could be read, for example {example}")
    return lines


def _changes(rows: Rows, before: Rows) -> list[str]:
    """List new, changed and vanished rings in plain lines."""
    lines = []
    for key, row in rows.items():
        named = [f"{name} {value}" for name, value in zip(_COLUMNS, row)]
        if key not in before:
            lines.append("+ " + " ".join(named))
        elif before[key] != row:
            differ = [f"{text} (was {old})" for text, new, old in zip(named, row, before[key]) if new != old]
            lines.append(f"  {named[0]} {named[1]}: {', '.join(differ)}")
    lines += [f"- PID {row[0]} FD {row[1]}: gone" for key, row in before.items() if key not in rows]
    return lines


# ------------------------------------------------------------------------------------------------------
# The command


def main(arguments: Sequence[str] | None = None) -> int:
    """Show the rings of the named processes.

    Args: arguments are the command line's by default.
    Returns: the exit code: 0 if at least one ring was found, 1 if none, 4 if unknown.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if bool(options.pid) == options.all:
        parser.error("name processes, or say --all")
    for pid in options.pid:
        if pid != "self" and not pid.isdecimal():
            parser.error(f"{pid!r} is neither a number nor self")
    if options.explain and (options.all or options.watch is not None):
        parser.error("--explain needs process numbers, and excludes --watch")
    if options.watch is not None and not 0 <= options.watch < 1e6:
        parser.error(f"--watch {options.watch}: the seconds between two looks are expected")
    try:
        if options.watch is not None:
            return _watch(options)
        found = _collect(options)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE):
            raise
        mount = "; mount procfs there" if error.errno == errno.ENOENT and not options.pid else ""
        print(f"rawuring.inspect: cannot list {PROC}: {error.strerror}{mount}", file=sys.stderr)
        return 4
    _print(found, options)
    return _exit_code(found)


def _parser() -> Any:
    import argparse

    parser = argparse.ArgumentParser(
        prog="python -m rawuring.inspect",
        description="Say whether a program uses io_uring, and show the state of its rings.",
        epilog="Exit code: 0 a ring was found, 1 none, 2 wrong usage, 4 none, but not all could be seen.",
    )  # fmt: skip
    parser.add_argument("pid", nargs="*", help="process numbers, or self")
    parser.add_argument("--all", action="store_true", help="every process that has a ring, as a table")
    parser.add_argument("--children", action="store_true", help="the children of the processes as well")
    parser.add_argument("--explain", action="store_true", help="look twice, and explain each figure")
    parser.add_argument(
        "--watch", metavar="SECONDS", nargs="?", type=float, const=2.0,
        help="look repeatedly: a page on a terminal, else a line for each change (default: 2)",
    )  # fmt: skip
    parser.add_argument("--count", metavar="N", type=int, default=0, help="with --watch: end after N looks")
    parser.add_argument("--json", action="store_true", help="data; with --watch, one object on each line")
    return parser


def _exit_code(found: dict[str, Any]) -> int:
    if any(report["rings"] or report.get("without_descriptor") for report in found["processes"]):
        return 0
    unread = found["counts"]["unreadable"] or any(report["error"] for report in found["processes"])
    return 4 if unread or found["hidden"] else 1


def _collect(options: Any) -> dict[str, Any]:
    """Read all requested processes; the form is the same for all and for some."""
    if options.all:
        return inventory()
    pids: list[int] = []
    for pid in options.pid:
        number = os.getpid() if pid == "self" else int(pid)
        pids += descendants(number) if options.children else [number]
    reports = [look_at(pid) for pid in dict.fromkeys(pids)]
    found = [report for report in reports if report["rings"]]
    counts = {"processes": len(reports), "with_rings": len(found), "ended": 0}
    counts["rings"] = sum(len(report["rings"]) for report in found)
    counts["unreadable"] = sum(1 for report in reports if report["error"])
    return {"processes": reports, "counts": counts, "unreadable": {}, "hidden": False}


def _print(found: dict[str, Any], options: Any) -> None:
    if options.json:
        import json

        print(json.dumps({"schema": 1, **_with_oddities(found)}, indent=1 if options.watch is None else None))
    elif options.all:
        rows = _rows_of(found["processes"])
        print(*(_table(rows) if rows else []), *_summary(found), sep="\n")
    elif options.explain:
        _print_explained(found, options)
    else:
        for report in found["processes"]:
            sys.stdout.write(describe(report))


def _with_oddities(found: dict[str, Any]) -> dict[str, Any]:
    for report in found["processes"]:
        for ring in report["rings"]:
            ring["unusual"] = [odd._asdict() for odd in unusual(ring, None, report)]
    return found


def _print_explained(found: dict[str, Any], options: Any) -> None:
    """Look once more, a moment later, to show stuck rings."""
    import time

    time.sleep(_MOMENT_S)
    before = {report["pid"]: {ring["fd"]: ring for ring in report["rings"]} for report in found["processes"]}
    for report in _collect(options)["processes"]:
        if report["error"] or not report["rings"]:
            sys.stdout.write(describe(report))
            continue
        print(f"{report['pid']} ({_printable(report['name'] or '?')})")
        sys.stdout.write(_describe_process(report))
        for ring in report["rings"]:
            earlier = before.get(report["pid"], {}).get(ring["fd"])
            sys.stdout.write(explain_ring(ring, earlier, report))


_MOMENT_S = 0.2


def _watch(options: Any) -> int:
    """Look repeatedly, until interrupted or as often as requested."""
    import time

    page = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb" and not options.json
    before: Rows | None = None
    looks = 0
    while True:
        found = _collect(options)
        rows = _rows_of(report for report in found["processes"] if report["rings"])
        if options.json:
            _print(found, options)
        elif page:
            _print_page(found, rows, before)
        else:
            now = time.strftime("%H:%M:%S")
            print(*(f"{now} {line}\n" for line in _changes(rows, before or {})), sep="", end="")
            if before is None:
                print(*(f"{now} {line}" for line in _summary(found)), sep="\n")
        sys.stdout.flush()
        before = rows
        looks += 1
        if looks == options.count:
            return _exit_code(found)
        time.sleep(options.watch)


def _print_page(found: dict[str, Any], rows: Rows, before: Rows | None) -> None:
    """Draw from the top left corner, each line to its end, so that nothing flickers."""
    import shutil
    import time

    width, height = shutil.get_terminal_size()
    head = [f"{time.strftime('%H:%M:%S')} {line}"[:width] for line in _summary(found)]
    gone = [line[:width] for line in _changes(rows, before or {}) if line.startswith("- ")]
    lines = [*head, "", *_table(rows, before, width), *gone]
    if len(lines) >= height:
        lines = [*lines[: max(height - 2, 1)], f"... and {len(lines) - height + 2} lines more"]
    sys.stdout.write("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J")


if __name__ == "__main__":
    command.run(main)
