# SPDX-License-Identifier: MIT
# pyright: basic
"""Look at the rings of a process: ``python -m rawuring.inspect PID``.

What it is: a reader of /proc/PID/fdinfo. Does this program use io_uring, how full are its rings, what does it
poll, what is registered, does a kernel thread submit for it? As text or JSON. Mirrors: nothing; lsof(8) and
ss(8) are its relatives.
Must not know: rings of its own; it only reads files, and changes nothing.
Invariant: what a kernel does not tell is None in the data and "not told" in the text, never a zero.
Read next: DESIGN.md.

What the kernels tell (io_uring/fdinfo.c):

    seen on 5.10  SqThread, SqThreadCpu, UserFiles, UserBufs and PollList
    seen on 6.1   the indices as well: SqMask, SqHead, SqTail, CachedSqHead, CqMask, CqHead, CqTail,
                  CachedCqTail, entries that wait (SQEs, CQEs), CqOverflowList
    seen on 6.12  SqTotalTime and SqWorkTime, NAPI

SqHead is what the application sees, CachedSqHead what the kernel has really taken. PollList names the opcode
of a request that waits for its descriptor, but not the descriptor. The lists are left out while somebody
holds the ring's lock. A ring with several descriptors (each mmap of Python before 3.13 keeps one) is
recognised by its inode where rings have inodes of their own; on older kernels each descriptor is shown.
"""

from __future__ import annotations

import errno
import os
import re
import sys

from . import command, uapi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

RING_LINK = "anon_inode:[io_uring]"
PROC = "/proc"


# ------------------------------------------------------------------------------------------------------
# One ring


def parse_fdinfo(text: str) -> dict[str, Any]:
    """Turn the fdinfo of a ring into data.

    Args: text is the content of /proc/PID/fdinfo/FD.
    Returns: sq and cq with head, tail, entries, used, cached (None where the kernel does not tell);
        sq_thread, sq_cpu; user_files and user_bufs with their number and what is listed; polls, opcode ->
        number; overflow, the user_data of CQEs that wait for room; waiting_sqes and waiting_cqes; and raw,
        every line of the form "Name: value" that was found.
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
        "overflow": _overflow(lists.get("CqOverflowList", [])) if "CqOverflowList" in raw else None,
        "napi": raw.get("NAPI"),
        "raw": raw,
    }


def _split(text: str) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Part the lines "Name: value" from the indented lines below some of them."""
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
    """Count what waits for a descriptor, by opcode."""
    found: dict[str, int] = {}
    for line in lines or []:
        opcode = re.search(r"\bop=(\d+)", line)
        if opcode:
            name = uapi.name_of("IORING_OP_", int(opcode[1])).replace("IORING_OP_", "")
            found[name] = found.get(name, 0) + 1
    return found


def _overflow(lines: list[str]) -> list[int]:
    return [int(found[1]) for found in (re.search(r"user_data=(\d+)", line) for line in lines) if found]


# ------------------------------------------------------------------------------------------------------
# Processes


def rings_of(pid: int | str, proc: str = PROC) -> list[dict[str, Any]]:
    """Read all rings of a process.

    Args: pid is a number or "self"; proc is where procfs is mounted.
    Returns: parse_fdinfo() of each ring, with "fd" and "other_fds".
    Raises: OSError: ENOENT when there is no such process, EACCES when we may not look.
    Lifetime: none.
    """
    folder = f"{proc}/{pid}/fd"
    found: list[dict[str, Any]] = []
    by_inode: dict[int, dict[str, Any]] = {}
    for fd in sorted(map(int, os.listdir(folder))):
        try:
            if os.readlink(f"{folder}/{fd}") != RING_LINK:
                continue
            with open(f"{proc}/{pid}/fdinfo/{fd}", encoding="ascii", errors="replace") as file:
                ring = {"fd": fd, "other_fds": [], **parse_fdinfo(file.read())}
            inode = os.stat(f"{folder}/{fd}").st_ino
            first = ring if inode == _shared_inode() else by_inode.setdefault(inode, ring)
            if first is ring:
                found.append(ring)
            else:
                first["other_fds"].append(fd)
        except FileNotFoundError:
            continue  # closed in the meantime, or the descriptor of our own listing
    return found


def _shared_inode() -> int:
    """Return the inode that descriptors without one of their own share; rings were among them."""
    import select

    if not hasattr(select, "epoll"):
        return -1
    with select.epoll() as one:
        return os.fstat(one.fileno()).st_ino


def look_at(pid: int | str, proc: str = PROC) -> dict[str, Any]:
    """Find out whether a process uses io_uring, and how.

    Args: as rings_of().
    Returns: pid, name, rings, and error: None, or a sentence that says why there is no answer.
    Lifetime: none.
    """
    report: dict[str, Any] = {"pid": pid, "name": _name(pid, proc), "rings": [], "error": None}
    try:
        report["rings"] = rings_of(pid, proc)
    except OSError as error:
        report["error"] = explain(error, pid)
    return report


def explain(error: OSError, pid: int | str) -> str:
    """Say what an error of rings_of() means, and what to do.

    Args: pid as given to it.
    """
    if not sys.platform.startswith(("linux", "android")):
        return "there is no /proc/PID/fdinfo on this system"
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"may not look at process {pid}: it belongs to somebody else, or has made itself undumpable. "
            "Ask as its user, or as root (the right is the one to ptrace it: CAP_SYS_PTRACE)"
        )
    if error.errno in (errno.ENOENT, errno.ESRCH):
        return f"there is no process {pid} (any more), or /proc is mounted with hidepid"
    return f"process {pid}: {error.strerror}"


def _name(pid: int | str, proc: str) -> str | None:
    try:
        with open(f"{proc}/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return None


def all_processes(proc: str = PROC) -> Iterator[int]:
    """Yield the number of every process.

    Raises: OSError where there is no /proc.
    """
    yield from sorted(int(name) for name in os.listdir(proc) if name.isdecimal())


def descendants(pid: int, proc: str = PROC) -> list[int]:
    """List a process and its children, their children, and so on.

    Args: pid is a number.
    """
    parents: dict[int, list[int]] = {}
    for other in all_processes(proc):
        try:
            with open(f"{proc}/{other}/stat", encoding="utf-8", errors="replace") as file:
                # The name in brackets may hold anything, so count from its end: state, parent.
                parents.setdefault(int(file.read().rpartition(")")[2].split()[1]), []).append(other)
        except (OSError, IndexError, ValueError):
            continue
    found = [pid]
    for parent in found:
        found += parents.get(parent, [])
    return found


# ------------------------------------------------------------------------------------------------------
# The command


def describe(report: dict[str, Any]) -> str:
    """Turn what look_at() returned into text."""
    who = f"{report['pid']}" + (f" ({report['name']})" if report["name"] else "")
    if report["error"]:
        return f"{who}: unknown: {report['error']}\n"
    if not report["rings"]:
        return f"{who}: no io_uring (a ring that was registered and then closed is not seen here)\n"
    count = len(report["rings"])
    text = f"{who}: uses io_uring, {count} ring{'s' if count > 1 else ''}\n"
    return text + "".join(map(_describe_ring, report["rings"]))


def _describe_ring(ring: dict[str, Any]) -> str:
    others = f", also {', '.join(map(str, ring['other_fds']))}" if ring["other_fds"] else ""
    lines = [f"  descriptor {ring['fd']}{others}"]
    lines.append(f"    submission queue: {_fill(ring['sq'])}")
    lines.append(f"    completion queue: {_fill(ring['cq'])}{_waiting(ring['overflow'])}")
    polls = ring["polls"]
    if polls is None:
        lines.append("    waits for descriptors: not told (somebody holds the ring's lock)")
    else:
        named = ", ".join(f"{number} x {name}" for name, number in sorted(polls.items()))
        lines.append(f"    waits for descriptors: {named or 'none'}")
    for key, what in (("user_files", "registered files"), ("user_bufs", "registered buffers")):
        count = ring[key]["count"]
        lines.append(f"    {what}: {'not told' if count is None else count}")
        lines += [f"      {line}" for line in ring[key]["listed"]]
    if ring["sq_thread"] is not None:
        lines.append(f"    SQPOLL: thread {ring['sq_thread']}{_busy(ring)}")
    return "\n".join(lines) + "\n"


def _fill(queue: dict[str, int | None]) -> str:
    if queue["used"] is None:
        return "not told"
    text = f"{queue['used']} of {queue['entries']} used" if queue["entries"] else f"{queue['used']} used"
    return f"{text} (head {queue['head']}, tail {queue['tail']})"


def _waiting(overflow: list[int] | None) -> str:
    return f", {len(overflow)} more wait for room (overflow)" if overflow else ""


def _busy(ring: dict[str, Any]) -> str:
    cpu = "" if ring["sq_cpu"] is None else f" on CPU {ring['sq_cpu']}"
    if not ring["sq_total_us"]:
        return cpu
    return f"{cpu}, {ring['sq_work_us']} of {ring['sq_total_us']} us at work"


def main(arguments: Sequence[str] | None = None) -> int:
    """Look at the processes that were named.

    Args: arguments are the command line's by default.
    Returns: the exit code: 0 when at least one ring was found, 1 when none, 4 when it could not be told.
    """
    import argparse

    parser = argparse.ArgumentParser(
        prog="python -m rawuring.inspect", description="Does this program use io_uring, and how?",
        epilog="Exit code: 0 a ring was found, 1 none, 2 wrong usage, 4 none, but not all could be seen.",
    )  # fmt: skip
    parser.add_argument("pid", nargs="*", help="process numbers, or self")
    parser.add_argument("--all", action="store_true", help="every process; only those with rings are shown")
    parser.add_argument("--children", action="store_true", help="the children of the processes as well")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if bool(options.pid) == options.all:
        parser.error("name processes, or say --all")
    for pid in options.pid:
        if pid != "self" and not pid.isdecimal():
            parser.error(f"{pid!r} is neither a number nor self")
    try:
        reports = _collect(options)
    except OSError as error:
        print(f"rawuring.inspect: {explain(error, 'self')}", file=sys.stderr)
        return 4
    _print(reports, options)
    if any(report["rings"] for report in reports):
        return 0
    return 4 if any(report["error"] for report in reports) else 1


def _collect(options: Any) -> list[dict[str, Any]]:
    pids: list[int | str] = list(all_processes()) if options.all else []
    for pid in options.pid:
        number = os.getpid() if pid == "self" else int(pid)
        pids += descendants(number) if options.children else [number]
    return [look_at(pid) for pid in pids]


def _print(reports: list[dict[str, Any]], options: Any) -> None:
    if options.json:
        import json

        print(json.dumps({"schema": 1, "processes": reports}, indent=1))
        return
    hidden = sum(1 for report in reports if report["error"])
    for report in reports:
        if not options.all or report["rings"]:
            sys.stdout.write(describe(report))
    if options.all:
        print(f"{len(reports)} processes, {sum(bool(report['rings']) for report in reports)} with io_uring")
        if hidden:
            reason = next(report["error"] for report in reports if report["error"])
            print(f"{hidden} could not be looked at, for example: {reason}")


if __name__ == "__main__":
    command.run(main)
