# SPDX-License-Identifier: MIT
# pyright: basic
"""Watch rings and tables at work: RAWURING_DEBUG=1.

What it is: subclasses of Ring and InFlight that check every invariant at every step, record where each
request and each ring was created, warn of leaks with that place, and log every SQE and CQE as text.
Mirrors: liburing ``src/sanitize.c`` in purpose, strace(1) in the form of its lines.
Must not know: the meaning of an operation; the names of its arguments are taken from the functions of ops.py.
Invariant: without the variable nothing of this is imported. It is read when a Ring or an InFlight is created,
never per request, so it costs a request nothing when it is off.
Read next: trace.py.

Unless said otherwise, memory passed to a call may be freed when the call returns, and only the thread that
owns a ring may use it.

===================  ===================================================================================
RAWURING_DEBUG       unset, empty or 0: off; otherwise rings and tables created from now on are watched
RAWURING_DEBUG_LOG   unset: the trace goes to stderr; a path: it is appended there; ``-``: no trace
===================  ===================================================================================

Before and after every io_uring_enter, and after every reap, these are checked: masks, sizes and index array
are unchanged; no queue holds more entries than its size, or fewer than none; the tail in memory is the
published one; the kernel has dropped no SQE and no CQE; no request has ended twice; and the canaries are
intact: the bytes around guarded() memory, and those between the end of a mapping and the end of its last
page. A check that fails raises Damaged, with the place that started each request that could be the cause.

Three kinds of requests are rejected with Damaged before the kernel sees them: one of a table that refers to
memory without holding an object that keeps it in place (usually a Pin), one with a token that is in use, and
one whose user_data is in the range of tokens while no table waits for it. start() raises immediately; for an
SQE that was filled by hand the call that submits it raises, the request completes with -EINVAL, and the next
call submits the rest.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections import deque
from time import monotonic_ns

from . import ops, uapi
from .buffers import Pin, ProvidedBuffers, pin
from .handle import watched_class
from .inflight import CLOSE_TIMEOUT_NS, InFlight
from .rings import U32, UDATA_TIMEOUT, Ring
from .syscalls import Uncopyable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from typing import Any, Callable

    from .inflight import Request
    from .ops import Block

CANARY = b"\xca\x4a\x52\x59\xc0\xff\xee\x99" * 8
_PAGE = 4096


class Damaged(RuntimeError):
    """Report a broken invariant: memory was overwritten, or a rule violated."""


def place() -> str:
    """Name the line of the program, outside this package, that is being executed.

    Returns: "FILE:LINE in FUNCTION".
    """
    package = os.path.dirname(__file__)
    frame = sys._getframe(1)
    while frame.f_back is not None and os.path.dirname(frame.f_code.co_filename) == package:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


# ------------------------------------------------------------------------------------------------------
# SQEs and CQEs as text


@functools.lru_cache(None)
def _shapes() -> dict[int, list[tuple[str, bytes, list[tuple[str, int, int]]]]]:
    """List by opcode (name, constants, [(argument, offset, size)]) of each prep function."""
    found: dict[int, list[tuple[str, bytes, list[tuple[str, int, int]]]]] = {}
    for name, prep in ops.fillers().items():
        base, reached = ops.written(prep)
        places = []
        for argument, changed in reached.items():
            seen = [i for i in changed if i < 64]
            in_one_piece = seen and seen[-1] - seen[0] == len(seen) - 1
            if argument not in ("user_data", "flags") and in_one_piece:
                places.append((argument, seen[0], len(seen)))
        found.setdefault(base[0], []).append((name[5:], base[:64], places))
    return found


def _fits(sqe: bytes, base: bytes) -> int:
    """Count the constants of a prep function that an SQE has; -1 if it lacks one."""
    constant = [i for i in range(1, 32) if base[i]] + [i for i in range(40, 64) if base[i]]
    return len(constant) if all(sqe[i] & base[i] == base[i] for i in constant) else -1


def decode_sqe(sqe: bytes | bytearray | memoryview) -> str:
    """Describe an SQE, with the names of the prep function that fills such SQEs.

    Args: sqe has 64 bytes or more.
    Returns: a line such as "read fd=5 buf=0x7f00 nbytes=64 offset=0 user_data=7 flags=ASYNC". Members that
        correspond to no argument follow as "+OFFSET=VALUE".
    """
    raw = bytes(sqe[:64])
    best = max(
        (
            (_fits(raw, base), -len(places), name, base, places)
            for name, base, places in _shapes().get(raw[0], ())
        ),
        default=(-1, 0, "", b"", []),
    )
    if best[0] < 0:
        return f"{uapi.name_of('IORING_OP_', raw[0])} {raw[1:].hex(' ', -8)}"
    _, _, name, base, places = best
    words, explained = [name], set(range(2)) | set(range(32, 40))
    for argument, offset, size in places:
        explained.update(range(offset, offset + size))
        value = int.from_bytes(raw[offset : offset + size], sys.byteorder, signed=offset == 4)
        words.append(f"{argument}={_readable(value, offset, size)}")
    words.append(f"user_data={int.from_bytes(raw[32:40], sys.byteorder)}")
    if raw[1]:
        words.append("flags=" + _short_names("IOSQE_", raw[1]))
    words += [f"+{i}={raw[i]:#x}" for i in range(64) if i not in explained and raw[i] != base[i]]
    return " ".join(words)


def _short_names(prefix: str, mask: int) -> str:
    return "|".join(name.replace(prefix, "") for name in uapi.names_of_flags(prefix, mask))


def _readable(value: int, offset: int, size: int) -> str:
    if size == 8 and value == (1 << 64) - 1:
        return "-1"
    return hex(value) if size >= 7 and offset in (16, 48) else str(value)


def decode_cqe(cqe: tuple[int, ...]) -> str:
    """Describe a CQE.

    Args: cqe as Ring.reap() returns it.
    Returns: a line such as "user_data=7 res=-11 (EAGAIN) flags=MORE".
    """
    import errno

    user_data, res, flags = cqe[:3]
    words = [f"user_data={user_data} res={res}"]
    if res < 0:
        words.append(f"({errno.errorcode.get(-res, '?')})")
    if flags & 0xFFFF:
        words.append("flags=" + _short_names("IORING_CQE_F_", flags & 0xFFFF))
    if flags & uapi.IORING_CQE_F_BUFFER:
        words.append(f"bid={flags >> uapi.IORING_CQE_BUFFER_SHIFT}")
    if len(cqe) > 3:
        words.append(f"big_cqe={cqe[3]:#x},{cqe[4]:#x}")
    return " ".join(words)


#: path -> the descriptor of the log. Not a file object, which would warn if it is not closed at the end.
_logs: dict[str, int] = {}


def trace(line: str) -> None:
    """Write one line to the trace; if that fails, drop it.

    A program must not behave differently because its stderr is closed or the disk is full.

    Args: line without its end.
    """
    target = os.environ.get("RAWURING_DEBUG_LOG")
    if target == "-":
        return
    text = f"rawuring {time.monotonic():.6f} {line}\n"
    try:
        if target:
            os.write(_open_log(target), text.encode("utf-8", "backslashreplace"))
        elif sys.stderr is not None:
            sys.stderr.write(text)
    except (OSError, ValueError):
        return


def _open_log(target: str) -> int:
    fd = _logs.get(target)
    if fd is None:
        made = os.open(target, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        fd = _logs.setdefault(target, made)
        if fd != made:  # another thread was faster
            os.close(made)
    return fd


def close_log() -> None:
    """Close the log that RAWURING_DEBUG_LOG names; the next line of the trace opens it again.

    Threads: any, while no other one uses a ring.
    """
    while _logs:
        os.close(_logs.popitem()[1])


# ------------------------------------------------------------------------------------------------------
# Canaries


class Guarded(Uncopyable):
    """Memory between two canaries; hold it like a Pin, and a watched table checks it."""

    def __init__(self, nbytes: int) -> None:
        """Allocate the memory: see guarded()."""
        import ctypes
        import mmap

        self._whole = mmap.mmap(-1, nbytes + 2 * len(CANARY))
        self._export = ctypes.c_char.from_buffer(self._whole)
        start, end = len(CANARY), len(CANARY) + nbytes
        self._whole[:start] = self._whole[end:] = CANARY
        #: As in a Pin.
        self.address = ctypes.addressof(self._export) + start
        self.nbytes = self.length = nbytes
        self.readonly = False
        #: The memory between the canaries.
        self.memory = memoryview(self._whole)[start:end]

    def damage(self) -> str:
        """Name the canary that was overwritten, "" if both are intact."""
        start, end = len(CANARY), len(CANARY) + self.nbytes
        if self._whole[:start] != CANARY:
            return f"the bytes before {self!r} were overwritten"
        if self._whole[end:] != CANARY:
            return f"the bytes after {self!r} were overwritten"
        return ""

    def __repr__(self) -> str:
        """Show size and address."""
        return f"<Guarded {self.nbytes} bytes at {self.address:#x}>"


def guarded(nbytes: int) -> Guarded:
    """Allocate memory with a canary on each side.

    Args: nbytes is 1 or more.
    Returns: a Guarded with ``address``, ``nbytes`` and ``memory``; pass it to InFlight among the held
        objects.
    Lifetime: until the final CQE, as a Pin.
    """
    return Guarded(nbytes)


def damage_beside(held: Any) -> str:
    """Check the canaries of one held object.

    Args: held is any object that an in-flight table holds.
    Returns: the fault; "" if there is none, or nothing to check.
    """
    import mmap

    if isinstance(held, Guarded):
        return held.damage()
    owners = getattr(getattr(held, "_export", None), "_objects", None)
    owner = next(iter(owners.values()), None) if isinstance(owners, dict) else owners
    memory = getattr(owner, "obj", owner)  # a memoryview of it on CPython
    if not isinstance(memory, mmap.mmap) or memory.closed or len(memory) != held.nbytes:
        return ""
    # Anonymous memory is mapped by pages, and no code may touch the bytes after its end.
    slack = -held.nbytes % _PAGE
    if any(_bytes_at(held.address + held.nbytes, slack)):
        return f"the bytes after {held!r} were overwritten"
    return ""


def _spans(held: Any) -> Iterator[tuple[int, int, bool]]:
    """Yield (address, nbytes, readonly) of the memory that an object keeps in place."""
    import ctypes

    if isinstance(held, (tuple, list)):
        for each in held:
            yield from _spans(each)
    elif isinstance(held, (Pin, Guarded)):
        yield held.address, held.nbytes, held.readonly
        yield from _spans(held._export)
    elif isinstance(held, ProvidedBuffers):
        yield from _spans(held._pin)
    elif isinstance(held, (bytes, memoryview)):
        pinned = pin(held)
        yield pinned.address, pinned.nbytes, pinned.readonly
    elif isinstance(held, (ctypes._SimpleCData, ctypes.Structure, ctypes.Union, ctypes.Array)):
        yield ctypes.addressof(held), ctypes.sizeof(held), False


def uncovered(sqe: bytes | bytearray | memoryview, held: Any) -> str:
    """Find memory to which a request refers and that no held object keeps in place.

    Args: sqe is filled; held are the objects that live as long as the request, usually pins.
    Returns: the fault, "" for none. Addresses in the first page are left to the kernel, which returns
        -EFAULT.
    """
    spans = None
    for address, nbytes, written in ops.memory_of(sqe):  # type: ignore[arg-type]
        spans = list(_spans(held)) if spans is None else spans
        around = [
            span for span in spans if span[0] <= address and address + nbytes <= span[0] + span[1]
        ]
        what = f"{nbytes} bytes at {address:#x}"
        if address >= _PAGE and not around:
            return f"no object held by the request keeps {what} in place: pass the Pin itself to start()"
        if written and around and all(readonly for _, _, readonly in around):
            return f"the kernel would write {what}, which are read-only"
    return ""


def _bytes_at(address: int, nbytes: int) -> bytes:
    import ctypes

    return ctypes.string_at(address, nbytes)


# ------------------------------------------------------------------------------------------------------
# A ring that is watched


class WatchedRing(Ring):
    """A Ring that checks itself at every step; watch() turns a Ring into one."""

    _made_at = ""

    def _begin_to_watch(self) -> None:
        self._made_at = place()
        self._plain = self._quick = self._direct = False  # every turn goes through _enter and _fetch
        self._traced = self.sq.published
        self._told = False
        #: user_data -> the number of requests with it that the kernel has and has not ended.
        self._outstanding: dict[int, int] = {}
        #: Completions that were counted and are still in cq.copied: a signal handler may raise half-way.
        self._noted: list[tuple[int, ...]] = []
        #: The tables of this ring.
        self._tables: list[WatchedInFlight] = []
        words = self.sq._words
        self._constants = {
            index: words[index]
            for off in (self.params["sq_off"], self.params["cq_off"])
            for index in (off["ring_mask"] // 4, off["ring_entries"] // 4)
        }
        trace(f"ring {self._fd}: created, {self!r}")

    # -- every step

    def _enter(self, to_submit: int, min_complete: int, flags: int, timeout: Any = None) -> int:
        if to_submit or not self._rewind:
            self._trace_sqes()
        self.check("before io_uring_enter")
        consumed = super()._enter(to_submit, min_complete, flags, timeout)
        names = _short_names("IORING_ENTER_", flags) or "no flags"
        trace(f"ring {self._fd}: enter to_submit={to_submit} min_complete={min_complete} {names}")
        self.check("after io_uring_enter")
        return consumed

    def _submit_sqpoll(self, flags: int) -> int:
        self._trace_sqes(self.sq.sqe_tail)  # once published, they belong to the kernel
        return super()._submit_sqpoll(flags)

    def _fetch(self) -> None:
        cq = self.cq
        self.check("before reaping")
        super()._fetch()
        if not (self._noted and cq.copied and self._noted[0] is cq.copied[0]):
            self._noted = []
        for cqe in cq.copied[len(self._noted) :]:
            self._note_end(cqe)
        self.check("after reaping")

    def _trace_sqes(self, tail: int | None = None) -> None:
        sq = self.sq
        tail = sq.published if tail is None else tail
        if self._rewind:
            first, tail = 0, sq.sqe_tail
        else:
            first = min(self._traced, tail)
        outstanding, refused = self._outstanding, ""
        for _, after, slot, user_data in sq.walk(first, tail):
            refused = self._refuse_sqe(slot, user_data) or refused
            counted = user_data != UDATA_TIMEOUT and not slot[1] & uapi.IOSQE_CQE_SKIP_SUCCESS
            renamed = slot[0] == uapi.IORING_OP_POLL_REMOVE and slot[24] & uapi.IORING_POLL_UPDATE_USER_DATA
            new = int.from_bytes(slot[8:16], sys.byteorder)  # its new name
            count, of_new = outstanding.get(user_data, 0) + 1, outstanding.get(new, 0) + 1
            # Counted once: these are one step, by the no-call rule (queues.py).
            if counted:
                outstanding[user_data] = count
            if renamed:
                outstanding[new] = of_new + (counted and new == user_data)
            self._traced = after
            trace(f"ring {self._fd}: sqe {decode_sqe(slot)}{self._whose(user_data)}")
        self._traced = tail
        if refused:
            raise Damaged(refused)

    def _refuse_sqe(self, slot: memoryview, user_data: int) -> str:
        """Turn an SQE that breaks a rule of tokens into one that fails with -EINVAL; return the reason."""
        if user_data >> 56 != 1 or not self._tables:
            return ""
        held = None
        for table in self._tables:
            held = table._holds_of(user_data)
            if held is not None:
                break
        if held is None:
            found = "user_data is in the range of tokens, but no table waits for it (any longer)"
        elif user_data in self._outstanding:
            found = "its token is in use: each request needs its own"
        else:
            found = uncovered(slot, (held, list(self.resources.values())))
            if not found:
                return ""
        request = f"{decode_sqe(slot)}{self._whose(user_data)}"
        slot[0] = 0xFF
        if held is None or user_data in self._outstanding:
            slot[32:40] = bytes(8)  # its completion has no owner
        return f"{found}: {request}"

    def _whose(self, user_data: int) -> str:
        for table in self._tables:
            if user_data in table.places:
                return f" [{table.places[user_data]}]"
        return ""

    def _note_end(self, cqe: tuple[int, ...]) -> None:
        user_data = cqe[0]
        trace(f"ring {self._fd}: cqe {decode_cqe(cqe)}{self._whose(user_data)}")
        outstanding, noted = self._outstanding, self._noted
        if cqe[2] & uapi.IORING_CQE_F_MORE or user_data == UDATA_TIMEOUT:
            noted += (cqe,)
            return
        left = outstanding.get(user_data, 0)
        # No call between the two, as in _trace_sqes().
        if left > 1:
            outstanding[user_data] = left - 1
        elif left:
            del outstanding[user_data]
        noted += (cqe,)
        # Numbers that no table knows may come from another source: another ring's MSG_RING, a resource's tag.
        if not left and any(user_data in table.places for table in self._tables):
            raise Damaged(f"request {user_data} ended without having been submitted{self._whose(user_data)}")

    # -- the checks

    def check(self, when: str = "now") -> None:
        """Check every invariant of the ring and of its tables.

        Args: when is for the message.
        Raises: Damaged.
        """
        found = self._faults()
        for table in self._tables:
            found += table._faults()
        if found:
            suspects = [f"  {request}" for table in self._tables for request in table.requests()]
            what = f"{self!r}, {when}: {'; '.join(found)}. In flight:"
            raise Damaged("\n".join([what, *(suspects or ["  nothing"])]))

    def _faults(self) -> list[str]:
        if self._state != "open" or not self._made_at:
            return []
        sq, cq, words = self.sq, self.cq, self.sq._words
        found = []
        for index, value in self._constants.items():
            if words[index] != value:
                found.append(f"a constant of the ring changed from {value} to {words[index]}")
        if not 0 <= sq.sqe_tail - sq.published <= sq.ring_entries and not self._rewind:
            found.append(f"{sq.sqe_tail - sq.published} entries are queued in {sq.ring_entries} slots")
        if not 0 <= sq.pending() <= sq.ring_entries:
            found.append(f"the SQ claims to hold {sq.pending()} of {sq.ring_entries} entries")
        if not self._rewind and words[sq._ktail] != sq.published & U32:
            found.append(f"sq.tail is {words[sq._ktail]} and should be {sq.published & U32}")
        if sq.array_offset is not None:
            start = sq.array_offset
            if any(words[start + i] != i for i in range(sq.ring_entries)):
                found.append("the index array was overwritten")
        if cq.ready() > cq.ring_entries:
            found.append(f"the CQ claims to hold {cq.ready()} of {cq.ring_entries} entries")
        if sq.dropped():
            found.append(f"the kernel dropped {sq.dropped()} SQEs")
        if cq.overflow():
            found.append(f"the kernel lost {cq.overflow()} CQEs")
        return found

    def _map_again(self, params: dict[str, Any]) -> None:
        super()._map_again(params)
        self._made_at, made_at = "", self._made_at
        tables, outstanding = self._tables, self._outstanding
        self._begin_to_watch()
        self._made_at, self._tables, self._outstanding = made_at, tables, outstanding

    # -- leaks

    def _close(self, explicit: bool) -> None:
        trace(f"ring {self._fd}: closing")
        try:
            self._warn_of_queued()
            if not explicit and not self._told:
                self._told = True
                self._warn_of_leak("when the interpreter ended")
        finally:  # even if warnings are errors
            super()._close(explicit)

    def _warn_of_queued(self) -> None:
        import warnings

        if self._state != "open":
            return
        sq = self.sq
        count = sq.sqe_tail - sq.published if self._sqpoll else sq.pending()
        if count:
            first = decode_sqe(sq.slots[(sq.sqe_tail - count) & sq.ring_mask])
            what = f"{count} SQEs were queued and never submitted, and are dropped; the first: {first}"
            warnings.warn(f"{what}: {self!r}", ResourceWarning, source=self, stacklevel=4)

    def _warn_of_leak(self, when: str) -> None:
        import warnings

        warnings.warn(f"unclosed {when}: {self!r}", ResourceWarning, source=self, stacklevel=3)

    def __del__(self) -> None:
        """Close a ring that was not closed, with a warning that names the place where it was created."""
        self._told = True
        super().__del__()

    def __repr__(self) -> str:
        """Show the text of a Ring, and the place where it was created."""
        return f"{super().__repr__()[:-1]} created at {self._made_at}>"


# ------------------------------------------------------------------------------------------------------
# A table that is watched


class WatchedInFlight(InFlight):
    """An InFlight that knows where each request was started; watch_table() turns an InFlight into one."""

    def _begin_to_watch(self, ring: Ring) -> None:
        #: token -> the place that started the request.
        self.places: dict[int, str] = {}
        #: token -> when it was started, on time.monotonic_ns()'s clock.
        self.times: dict[int, int] = {}
        self._quick, self._todo = False, deque()  # each completion goes through complete()
        ring.before_close[-1] = self._close  # the constructor put InFlight's own there
        if isinstance(ring, WatchedRing):
            ring._tables.append(self)

    def hold(self, handler: Any, *keepalive: Any) -> int:
        """Enter a request and record the place; see InFlight.hold."""
        token = super().hold(handler, *keepalive)
        self.places[token], self.times[token] = place(), monotonic_ns()
        return token

    def _start(
        self, prep: Any, arguments: tuple[Any, ...], handler: Any, holds: Any, options: dict[str, Any]
    ) -> int:
        """Queue a request and record the place, or reject it; see InFlight.start."""
        ring = self.ring
        tail = ring.sq.sqe_tail
        token = super()._start(prep, arguments, handler, holds, options)
        where = place()
        slot = ring.sq.slots[tail & ring.sq.ring_mask]
        found = uncovered(slot, (self.entries[token][1], list(ring.resources.values())))
        if found:
            request = decode_sqe(slot)
            ring.sq.sqe_tail = tail
            del self.entries[token]
            raise Damaged(f"{found}: {request} [{where}]")
        self.places[token], self.times[token] = where, monotonic_ns()
        return token

    def start_block(
        self, block: Block, handler: Callable[[list[int], list[int], list[int]], object] | None = None,
        holds: Collection[Any] = (), count: int | None = None,
    ) -> int:  # fmt: skip
        """Queue a block of requests and record the place, or reject it; see InFlight.start_block."""
        ring, sq = self.ring, self.ring.sq
        tail = sq.sqe_tail
        token = super().start_block(block, handler, holds, count)
        where, held = place(), (self._holds_of(token), list(ring.resources.values()))
        for at in range(tail, sq.sqe_tail):
            slot = sq.slots[at & sq.ring_mask]
            found = uncovered(slot, held)
            if found:
                request = decode_sqe(slot)
                sq.sqe_tail = tail
                del self._blocks[token >> 16]
                raise Damaged(f"{found}: {request} [{where}]")
        self.places[token], self.times[token] = where, monotonic_ns()
        return token

    def complete(self, user_data: int, res: int, flags: int) -> bool:
        """Account for one CQE, and check the canaries of its request; see InFlight.complete."""
        holds = self._holds_of(user_data)
        damage = self._damage(user_data, holds) if holds else ""
        known = super().complete(user_data, res, flags)
        if damage:
            raise Damaged(damage)
        if user_data not in self.entries and user_data >> 16 not in self._blocks:
            for token in (user_data, user_data >> 16 << 16):
                self.places.pop(token, None)
                self.times.pop(token, None)
        return known

    def requests(self) -> list[Request]:
        """List the requests in flight, their ages and where each was started; see InFlight.requests."""
        now, found = monotonic_ns(), []
        for request in super().requests():
            token = request.token
            age_ns = now - self.times[token] if token in self.times else None
            found.append(request._replace(place=self.places.get(token, ""), age_ns=age_ns))
        return found

    def owner_of(self, address: int) -> Request | None:
        """Find the request that owns memory.

        Args: address is an address in memory.
        Returns: the request that holds a Pin of it, or None.
        """
        for request in self.requests():
            for held in request.holds:
                start = getattr(held, "address", None)
                if start is not None and start <= address < start + held.nbytes:
                    return request
        return None

    def _damage(self, token: int, holds: tuple[Any, ...]) -> str:
        found = [damage for damage in map(damage_beside, holds) if damage]
        where = self.places.get(token, "?")
        return f"{'; '.join(found)}: request {token}, started at {where}" if found else ""

    def _faults(self) -> list[str]:
        found = [self._damage(token, entry[1]) for token, entry in self.entries.items()]
        found += [self._damage(number << 16, many.holds) for number, many in self._blocks.items()]
        return [damage for damage in found if damage]

    def _close(self, ring: Ring, explicit: bool, timeout_ns: int = CLOSE_TIMEOUT_NS) -> None:
        try:
            if isinstance(ring, WatchedRing) and ring.state == "open":
                self._warn_of_idle(ring)
        finally:
            super()._close(ring, explicit, timeout_ns)

    def _warn_of_idle(self, ring: WatchedRing) -> None:
        import warnings

        queued = {user_data for _, _, _, user_data in ring.sq.walk(ring._traced, ring.sq.sqe_tail)}
        for request in self.requests():
            token = request.token
            if token in self.places and token not in queued and token not in ring._outstanding:
                what = "held, and never submitted, or reaped and not dispatched"
                warnings.warn(f"{what}: {request}", ResourceWarning, stacklevel=4)


# ------------------------------------------------------------------------------------------------------


def watch(ring: Ring) -> None:
    """Turn a ring into a watched one; its constructor calls this if RAWURING_DEBUG is set.

    Args: ring is open and new.
    """
    ring.__class__ = watched_class(type(ring), WatchedRing)
    assert isinstance(ring, WatchedRing)
    ring._begin_to_watch()


def watch_table(table: InFlight, ring: Ring) -> None:
    """Turn a table into a watched one; its constructor calls this if RAWURING_DEBUG is set.

    Args: table is new; ring is its ring.
    """
    table.__class__ = watched_class(type(table), WatchedInFlight)
    assert isinstance(table, WatchedInFlight)
    table._begin_to_watch(ring)
