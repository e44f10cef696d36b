# SPDX-License-Identifier: MIT
# pyright: basic
"""The table of the requests in flight: token -> (handler, objects that must stay alive).

What it is: the one owner of the memory that the kernel may still read or write, and the way from a CQE to its
handler.
Mirrors: CPython's IocpProactor cache, TigerBeetle's Completion.
Must not know: what an operation does, or its descriptor.
Invariant: an entry leaves the table with the last CQE of its request and not before, so its memory is
referenced from here at every moment at which the kernel may touch it.
Read next: debug.py, or at once monitor.py.

Unless said otherwise, memory passed to a call may be freed when the call returns, only the thread that owns a
ring may use it, and Linux 5.1 suffices.

Facts about completions, and their consequences:

* user_data is returned as it was sent. Here it is a token, from a counter that is never reset: a late CQE
  of a removed request is a miss in a dictionary, and a cancellation that comes too late completes with a
  clean -ENOENT. It is never an address. Tokens fill the range from TOKEN_BASE to 2 * TOKEN_BASE - 1, so a
  plain request whose user_data is a small number, a descriptor or an address cannot release the memory of
  another request.
* A request ends with its CQE without IORING_CQE_F_MORE. This one rule covers multishot requests and
  zero-copy sends, whose first CQE has F_MORE and whose last is the notification.
* IOSQE_CQE_SKIP_SUCCESS posts no CQE on success, so such a request must not be held here.
* Closing the descriptor cancels requests only some time later: a large read continued to fill its buffer for
  130 ms after close(). So close() cancels, waits for the last CQE, and requests that do not end in time stay
  referenced for ever, with a ResourceWarning: a leak is better than a write into another object's memory.
"""

from __future__ import annotations

import errno
import itertools
import struct
import sys
import weakref
from _thread import get_ident
from collections import deque, namedtuple
from collections.abc import Collection, Mapping
from itertools import repeat, starmap
from operator import length_hint
from time import monotonic_ns, sleep

from . import uapi
from .handle import watchers
from .ops import Block, memory_arguments, prep_cancel64, prep_nop
from .rings import _HANDLERS_RUN_AFTER_CALLS, RingClosed, call_all
from .syscalls import Uncopyable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from .queues import Columns, SubmissionQueue
    from .rings import Cqe, Ring

#: How long close() waits for requests to end, by default.
CLOSE_TIMEOUT_NS = 5_000_000_000

#: The first token. All have 1 in their highest byte, and no other user_data should. In addition, 0 is for
#: requests without a waiter, and 2**64 - 1 is the ring's own TIMEOUT.
TOKEN_BASE = 1 << 56

# One counter for the process: a token of one table must not be found in another.
_tokens = itertools.count(TOKEN_BASE)
next_token = _tokens.__next__

# Of a block of requests the upper 48 bits are one of these, and the rest is the place in the block. The bit
# 1 << 55 is epollwait.py's: no token has it.
_blocks = itertools.count((TOKEN_BASE | 1 << 54) >> 16)

# user_data of the requests of close(): not tokens, because no table waits for them.
_next_question = itertools.count(0xFFFFFFFF00000000).__next__

_NOTHING: tuple[Any, ...] = ()
_user_data = struct.Struct("=32xQ").unpack_from

# For functions of ops.py, the number of arguments between the SQE and user_data, and those that are
# addresses, from ops.memory_arguments().
_known: dict[Any, tuple[int, Any]] = {}
_WHOLE = slice(None)
# In the list of handlers to run, stands for a handler that is found when its columns are made.
_COLUMNS = (None,)
_MORE = uapi.IORING_CQE_F_MORE

# Entries that close() could not end. Never emptied; see the head of this file.
_kept: list[Any] = []


class Request(namedtuple("Request", "token operation handler age_ns holds place count", defaults=("", 1))):
    """A request that has not ended, or a block of them."""

    __slots__ = ()

    #: Its user_data.
    token: int
    #: The operation, such as "read"; empty when the request came through hold().
    operation: str
    #: Its handler.
    handler: Any
    #: Its age in nanoseconds; None unless RAWURING_DEBUG=1.
    age_ns: int | None
    #: The objects that it keeps alive.
    holds: tuple[Any, ...]
    #: The line that started it; known with RAWURING_DEBUG=1 only.
    place: str
    #: How many requests of a block have not ended.
    count: int

    def __str__(self) -> str:
        """Describe the request in one line."""
        held = ", ".join(map(repr, self.holds)) or "nothing"
        since = "" if self.age_ns is None else f"for {self.age_ns / 1e9:.3f} s, "
        many = f"{self.count} of a block, " if self.count > 1 else ""
        return (
            f"request {self.token}: {self.operation or 'unnamed'}, {many}{since}"
            f"holds {held}, answers {self.handler!r}" + (f", started at {self.place}" if self.place else "")
        )


def _explain(
    error: Exception, prep: Callable[..., None], arguments: Iterable[Any], options: dict[str, Any]
) -> Exception:
    """Name the argument that struct, or the arithmetic before it, rejected."""
    name = getattr(prep, "__name__", "prep")
    for argument in (*arguments, *(value for key, value in options.items() if key != "cmd")):
        if not hasattr(argument, "__index__"):
            wanted = f"{name}(): {argument!r:.100} is not an integer"
            return TypeError(
                f"{wanted}; pass memory as pin(object), and None only as the length of a Pin"
            )
    # An argument is missing, or one too many; or prep has its own rules. PyPy raises this for a negative
    # number.
    if isinstance(error, TypeError) or (isinstance(error, ValueError) and "negative" not in str(error)):
        return error
    given = ", ".join(f"{argument!r:.40}" for argument in (*arguments, *options.values()))
    return OverflowError(f"{name}({given}): an argument does not fit its field: {error}")


def _refuse_handler(handler: Any) -> None:
    raise TypeError(f"handler={handler!r:.100} is not callable; pass a function of (res, flags), or None")


def _objects(holds: Any) -> tuple[Any, ...]:
    """Make sure that holds is a collection of objects, and not the contents of one or a mere address."""
    if not isinstance(holds, (tuple, list)) and (
        isinstance(holds, (str, Mapping)) or not isinstance(holds, Collection) or _is_buffer(holds)
    ):
        raise TypeError(
            f"holds={holds!r:.100}: it must be a collection of objects, such as (pin,), not a "
            f"{type(holds).__name__}"
        )
    held = tuple(holds)
    for each in held:
        if isinstance(each, int):
            _refuse_number(each)
    return held


def _refuse_number(number: int) -> None:
    raise TypeError(f"{number:#x} is a number, which keeps no memory alive: hold the Pin itself")


def _is_buffer(value: Any) -> bool:
    try:
        memoryview(value).release()
    except TypeError:
        return False
    return True


def _addresses(
    prep: Callable[..., None], plan: Any, arguments: tuple[Any, ...], options: dict[str, Any]
) -> tuple[list[Any], list[Any]]:
    """Replace objects by their addresses, and None by lengths.

    Returns: the arguments, and the objects to hold. The options are changed.
    """
    values: list[Any] = list(arguments)
    found: list[Any] = []
    if plan is None:  # a function that is not from ops.py
        for i, value in enumerate(arguments):
            if hasattr(value, "address"):
                values[i] = value.address
                found.append(value)
        for name, value in options.items():
            if hasattr(value, "address"):
                options[name] = value.address
                found.append(value)
        return values, found
    for at, counter, size, written in plan:
        if at >= len(values):
            break
        memory = arguments[at]
        if memory.__class__ is int:
            continue
        try:
            values[at] = memory.address
        except AttributeError:
            if memory is None and hasattr(arguments[at - 1], "addrlen"):  # a SockaddrBuffer
                values[at] = arguments[at - 1].addrlen
            continue
        found.append(memory)
        if counter is not None and counter < len(values):
            count = values[counter]
            if count is None:
                values[counter] = count = memory.length
            size = count * size if isinstance(count, int) else 0
        if size > memory.nbytes:
            raise ValueError(
                f"{prep.__name__}(): {size} bytes requested, but {memory!r} has {memory.nbytes}"
            )
        if written and memory.readonly:
            raise TypeError(f"{prep.__name__}() writes into its memory, and {memory!r} is read-only")
    return values, found


def _learn(prep: Callable[..., None]) -> tuple[int, Any]:
    """Compute the entry of _known for a function; (-1, None) for one that is not from ops.py."""
    if not callable(prep):
        raise TypeError(f"{prep!r:.100} is not an operation: pass a function prep_* of ops.py")
    plan = memory_arguments(prep)
    if plan is None:
        return -1, None
    code = prep.__code__
    _known[prep] = found = code.co_varnames[: code.co_argcount].index("user_data") - 1, plan
    return found


def _unanswered(prep: Callable[..., None], token: int, sqe: bytearray) -> Exception:
    """Explain why no CQE would ever have the token of a request, which would be held for ever."""
    name = getattr(prep, "__name__", "prep")
    if sqe[32:40] != token.to_bytes(8, sys.byteorder):
        return TypeError(
            f"{name}() did not use {token} as user_data: an argument is missing, or user_data was given"
        )
    return ValueError(f"{name}(): with IOSQE_CQE_SKIP_SUCCESS no CQE says when the memory is free")


class _Many:
    """The one entry of a block of requests."""

    __slots__ = ("handler", "holds", "noted", "opcode", "open")

    def __init__(self, handler: Any, holds: tuple[Any, ...], opcode: int, count: int) -> None:
        self.handler, self.holds, self.opcode = handler, holds, opcode
        # 1 for each request that has not ended.
        self.open = bytearray(b"\1") * count
        # Completions, (index, res, flags), that complete() has recorded.
        self.noted: list[tuple[int, int, int]] = []


class InFlight(Uncopyable):
    """The requests of one ring that have not yet completed.

    In use: ``table.start(ops.prep_read, fd, pin(memory, True), None, 0, handler=...)``, or by hand
    ``token = table.hold(handler, pin)`` and an SQE with user_data=token. Then submit, ``table.reap()`` and
    ``table.dispatch()``. Closing the ring closes the table first.
    """

    def __init__(self, ring: Ring) -> None:
        """Make the table of a ring; a ring should have one.

        Args: ring is where the requests will be submitted and cancelled.
        """
        # Weak: the ring owns its table. Otherwise a ring that is dropped with requests in flight would be a
        # cycle, whose weak references are cleared before anything could be drained.
        self._ring = weakref.ref(ring)
        #: token -> (handler, objects that must stay alive), and the prep function if it is known. An entry
        #: leaves when the final CQE has been reaped and its handler is about to run.
        self.entries: dict[int, tuple[Any, ...]] = {}
        #: CQEs whose token was not in the table: late ones, or those of another table. CQEs whose user_data
        #: is not a token are not counted.
        self.unknown = 0
        #: The calls that dispatch() is about to make, if any: (handler, res, flags); where signal handlers
        #: run at any moment, a starmap that makes the call once.
        self.ready: deque[Any] = deque()
        # Completions on their way from the ring to their handlers: reaped; being dispatched, with the
        # previous _begin; and of those the ones that dispatch() leaves to complete().
        self._todo: Any = [] if _HANDLERS_RUN_AFTER_CALLS else deque()
        self._begin = iter(self._todo)
        self._left: Iterator[Cqe] | tuple[()] = ()
        self._others: deque[Cqe] = deque()
        self._noting = False
        # Blocks in flight, by the upper 48 bits of their tokens; those with recorded completions; and
        # completions that were reaped by column, which are older than those on the other lists.
        self._blocks: dict[int, _Many] = {}
        self._noted: dict[int, _Many] = {}
        self._columns: deque[Columns] = deque()
        self._sq = ring.sq
        self._sqe: bytearray | None = None
        # By the no-call rule (queues.py) dispatch() can take completions off an iterator; not in debug mode.
        self._quick = _HANDLERS_RUN_AFTER_CALLS
        if not _HANDLERS_RUN_AFTER_CALLS:
            # Takes the first starmap off the list and runs it, with no moment in between.
            self._run_next = map(next, map(deque.popleft, repeat(self.ready))).__next__
        _free_forgotten(ring.before_close)
        ring.before_close.append(self._close)
        for module in watchers():
            module.watch_table(self, ring)

    def hold(self, handler: Any, *keepalive: Any) -> int:
        """Enter a request and keep objects alive until it has ended.

        Args: handler is called as handler(res, flags) for each CQE, or None; keepalive are the objects that
            the kernel may touch: pins, timespecs, iovecs, paths.
        Returns: the token, to be used as the SQE's user_data, once.
        Raises: TypeError for a handler that is not callable, and for a number instead of a Pin.
        Lifetime: until the final CQE.
        """
        if handler is not None and not callable(handler):
            _refuse_handler(handler)
        if keepalive:
            for each in keepalive:
                if type(each) is int:
                    _refuse_number(each)
        token = next(_tokens)
        self.entries[token] = (handler, keepalive)
        return token

    def start(
        self, prep: Callable[..., None], *arguments: Any, handler: Any = None,
        holds: Collection[Any] = _NOTHING, **options: Any,
    ) -> int:  # fmt: skip
        """Queue a request and hold it, or neither.

        Args: prep is a function of ops.py; arguments are its own, from the second on and without user_data;
            options are its keywords; handler as for hold(). For an address, pass a Pin or another object of
            buffers.py, which is then held; None as its length means all of it. holds are further objects to
            hold: those whose address is passed as a number.
        Returns: the token, which is the request's user_data.
        Raises: SubmissionQueueFull; TypeError for anything that is neither an integer nor has an address, for
            a missing argument, for a handler that is not callable, for holds that is not a collection of
            objects, and for read-only memory that the kernel would write; OverflowError for a value that does
            not fit its field; ValueError for more bytes than a Pin has, and for IOSQE_CQE_SKIP_SUCCESS; other
            exceptions of prep.
        Lifetime: until the final CQE.
        """
        if handler is not None and not callable(handler):
            _refuse_handler(handler)
        return self._start(prep, arguments, handler, holds, options)

    def _start(
        self, prep: Any, arguments: tuple[Any, ...], handler: Any, holds: Any, options: dict[str, Any]
    ) -> int:
        """Do what start() does, for a caller that has packed the arguments and checked the handler."""
        if holds is not _NOTHING:
            holds = _objects(holds)
        try:
            count, plan = _known[prep]
        except (KeyError, TypeError):
            count, plan = _learn(prep)
        given: Any = arguments
        if plan or plan is None:  # it may name memory
            for argument in (*arguments, *options.values()) if options else arguments:
                if type(argument) is not int:
                    if plan is None:
                        options = dict(options)  # it is changed
                    given, found = _addresses(prep, plan, arguments, options)
                    if found:
                        holds = (*found, *holds)
                    break
        token = next(_tokens)
        if len(arguments) == count and not options:
            # Our own buffer, not the slot, which a request that a signal handler starts in between would
            # take. A function of ops.py writes all of it, so it need not be zeroed.
            sqe, self._sqe = self._sqe, None
            if sqe is None:
                sqe = bytearray(self._sq.sqe_size)
            try:
                if not count:  # 150 ns less than the last way, as are the next two
                    prep(sqe, token)
                elif count == 2:
                    prep(sqe, given[0], given[1], token)
                elif count == 4:
                    prep(sqe, given[0], given[1], given[2], given[3], token)
                else:
                    prep(sqe, *given, token)
            except (struct.error, TypeError, ValueError) as error:
                raise _explain(error, prep, given, options) from None
        else:
            sqe = bytearray(self._sq.sqe_size)
            try:
                prep(sqe, *given, token, **options)
            except (struct.error, TypeError, ValueError) as error:
                raise _explain(error, prep, given, options) from None
            if _user_data(sqe)[0] != token or sqe[1] & uapi.IOSQE_CQE_SKIP_SUCCESS:
                raise _unanswered(prep, token, sqe)
        sq = self._sq
        if get_ident() != sq.owner:
            sq = self._with_room()
        while (tail := sq.sqe_tail) >= sq._limit:
            sq = self._with_room()
        # SubmissionQueue.put() written out. Held before it is queued, and no call from here on: one step, by
        # the no-call rule (queues.py); before CPython 3.11 a signal handler may raise between the two.
        try:
            self.entries[token] = (handler, holds, prep)
            sq._slots[tail & sq.ring_mask][_WHOLE] = sqe
            sq.sqe_tail = tail + 1
        except BaseException:
            if sq.sqe_tail == tail:
                self.entries.pop(token, None)
            raise
        self._sqe = sqe
        return token

    def start_block(
        self, block: Block, handler: Callable[[list[int], list[int], list[int]], object] | None = None,
        holds: Collection[Any] = _NOTHING, count: int | None = None,
    ) -> int:  # fmt: skip
        """Queue a block of requests and hold them with one entry, or none of them.

        The cheapest way for many requests of one kind: their completions are handled by column. The user_data
        of the block are replaced; it may be changed and started again as soon as this call returns.

        Args: block of ops.py; handler is called as handler(indices, res, flags), three lists of equal length,
            with the completions that one dispatch() finds: their places in the block, results and flags;
            holds are objects that must stay alive until the last request has ended, pins above all; count
            says how many to start, from the first; by default all.
        Returns: the token of the first; each next one's is 1 more.
        Raises: SubmissionQueueFull when they do not all fit; TypeError as start(); ValueError for a count
            that the block does not have, for IOSQE_CQE_SKIP_SUCCESS, and on a ring with 128-byte SQEs.
        Lifetime: until the final CQE of the last.
        """
        if handler is not None and not callable(handler):
            _refuse_handler(handler)
        if holds is not _NOTHING:
            holds = _objects(holds)
        if not isinstance(block, Block):
            raise TypeError(f"block={block!r:.100} is not an ops.Block")
        if count is None:
            count = block.count
        sqes = block.first(count)
        if not count:
            raise ValueError("a block needs at least one request")
        sq = self.ring.sq
        if sq.sqe_size != 64:
            raise ValueError("a block consists of 64-byte SQEs, and this ring has others")
        flags = block.memory[1 : 64 * count : 64]
        if flags.strip(b"\0") and any(mask & uapi.IOSQE_CQE_SKIP_SUCCESS for mask in flags):
            raise ValueError("with IOSQE_CQE_SKIP_SUCCESS no CQE says when the memory is free")
        number = next(_blocks)
        block._number(number, count)
        many = _Many(handler, tuple(holds), sqes[0], count)
        tail = sq.sqe_tail
        try:
            self._blocks[number] = many
            sq.push(sqes)
        finally:
            if sq.sqe_tail == tail:
                self._blocks.pop(number, None)
        return number << 16

    def _with_room(self) -> SubmissionQueue:
        """Return the queue that the ring has now, with a free slot, or raise."""
        sq = self._sq = self.ring.sq
        sq._need_room(1)
        return sq

    def expect(self, token: int) -> None:
        """Enter a request whose CQEs the caller takes itself: close() cancels it and waits for it, too.

        It ends with complete(), after which the token may be entered and used again. Entering a token twice
        has no further effect. No memory is kept for it.

        Args: token is from next_token(), and the user_data of the request.
        Raises: ValueError for a value that cannot be a token.
        """
        if not isinstance(token, int) or not 0 <= token < 1 << 64:
            raise ValueError(f"token={token!r:.100} is not a user_data: 0 to 2**64 - 1")
        self.entries[token] = (None, ())

    def answer(self, handler: Callable[[int, int], object], res: int) -> None:
        """Let the next dispatch() call the handler of a request that was never sent.

        Args: handler is called as handler(res, 0).
        Raises: TypeError for a handler that is not callable.
        """
        if not callable(handler):
            _refuse_handler(handler)
        # No call from here on: by the no-call rule (queues.py) the caller takes the request off its own list
        # in the same step; see complete().
        ready = self.ready
        ready += ((handler, res, 0),)

    def answer_unsent(self, res: int) -> None:
        """Let the next dispatch() call the handlers of requests that were queued and will never be sent.

        Args: res is the result of each.
        """
        ring = self._ring()
        for user_data in () if ring is None else ring.discard():
            if user_data in self:
                self.complete(user_data, res, 0)

    def requests(self) -> list[Request]:
        """List the requests in flight, the objects that they hold, and in debug mode their ages.

        Returns: the requests, the oldest first.
        """
        if self._left:
            self._note_left()
        found = []
        for token, entry in self.entries.items():
            handler, holds, prep = (*entry, None)[:3]
            operation = getattr(prep, "__name__", "").replace("prep_", "", 1)  # a partial() has no name
            found.append(Request(token, operation, handler, None, holds))
        for number, many in self._blocks.items():
            left, first = many.open.count(1), number << 16 | many.open.index(1)
            operation = uapi.name_of("IORING_OP_", many.opcode).replace("IORING_OP_", "", 1).lower()
            found.append(Request(first, operation, many.handler, None, many.holds, count=left))
        return found

    def complete(self, user_data: int, res: int, flags: int) -> bool:
        """Account for one CQE; its handler runs at the next dispatch().

        Args: the three parts of a CQE.
        Returns: False if no request waits for it; it is counted in unknown if its user_data is a token.
        """
        entry = self.entries.get(user_data)
        if entry is None:
            if self._blocks and self._complete_one_of_many(user_data, res, flags):
                return True
            if user_data >> 56 == 1:  # a token
                self.unknown += 1
            return False
        handler, ready = entry[0], self.ready
        wanted = callable(handler)  # neither None nor a monitor's node
        # From here until the CQE is taken off its list there is no call but that one: one step, by the
        # no-call rule (queues.py). Before CPython 3.11 the handler is recorded first, at worst twice.
        if wanted:
            if _HANDLERS_RUN_AFTER_CALLS:
                ready += ((handler, res, flags),)
            else:
                ready += (starmap(handler, ((res, flags),)),)
        if not flags & uapi.IORING_CQE_F_MORE:
            del self.entries[user_data]
        return True

    def _complete_one_of_many(self, user_data: int, res: int, flags: int) -> bool:
        number, index = user_data >> 16, user_data & 0xFFFF
        many = self._blocks.get(number)
        if many is None or index >= len(many.open) or not many.open[index]:
            return False
        # No call from here on, as in complete().
        if number not in self._noted:
            ready = self.ready  # which shows that dispatch() has something to do
            ready += (_COLUMNS,)
        many.noted += ((index, res, flags),)
        self._noted[number] = many
        if not flags & _MORE:
            many.open[index] = 0
            if 1 not in many.open:
                del self._blocks[number]
        return True

    def reap(self) -> int:
        """Take the completions off the ring; their handlers run at the next dispatch().

        With ``table.reap(); table.dispatch()`` no completion is lost, whatever a signal handler raises, at
        any moment: at every moment it is in the ring, in the table, or its handler has been called. A handler
        is called exactly once for it on CPython 3.11 and newer; on older versions and PyPy, at least once.
        ``table.dispatch(ring.reap())`` cannot promise that: between the two calls no object holds the list.

        Returns: the number of completions for dispatch().
        CQE: as Ring.reap().
        Raises: as Ring.reap().
        """
        ring = self._ring()
        if ring is None or not self._quick:
            self.ring.reap_into(self._todo)
        elif (self._blocks or self._columns) and not (
            ring.cq.wide or self._todo or self._left or self._others  # columns would overtake these
        ):
            columns = ring.reap_columns()
            self._columns += (columns,)
            return sum(map(len, self._columns))
        else:
            cqes = ring.reap()
            self._todo += cqes  # no call in between: see Ring.reap()
        return len(self._todo)

    def submit_and_dispatch(self, wait_nr: int = 1, timeout_ns: int | None = None) -> int:
        """Submit, wait, reap and run the handlers, in one call: the cheapest turn for a few requests.

        No completion is lost, as with reap() and dispatch().

        Args: as for Ring.submit_and_wait().
        Returns: the number of handlers that ran.
        Raises: as Ring.submit_and_wait(), reap() and dispatch().
        """
        ring = self._ring()
        if ring is None or not self._quick or self._blocks or self._columns:
            self.ring.submit_and_wait(wait_nr, timeout_ns)
            self.reap()
        else:
            cqes = ring.submit_and_reap(wait_nr, timeout_ns)
            # dispatch() for one request, written out: 200 ns less. No call until the handler's, or until they
            # are on the list: the no-call rule (queues.py). Nor an except clause: CPython 3.12 jumps
            # backwards from its end, and runs signal handlers there.
            if cqes and cqes[0] is cqes[-1] and not cqes[0][3:] and cqes[0][0] in self.entries:
                token, res, flags = cqes[0]
                handler = self.entries[token][0]
                if handler is not None and not (self._left or self._todo or self.ready):
                    if not flags & _MORE:
                        del self.entries[token]
                    handler(res, flags)
                    return 1
            self._todo += cqes
        return self.dispatch()

    def dispatch(self, cqes: Iterable[Cqe] = ()) -> int:
        """Account for completions, then run the handlers of all completed requests.

        A handler may submit, reap, dispatch and close. If one raises, the others stay queued for the next
        call.

        Args: cqes as Ring.reap() returned them; none after this table's own reap(), the form that loses
            nothing if signal handlers raise.
        Returns: the number of handlers that ran.
        Raises: the exception of a handler; TypeError for anything but a CQE.
        """
        if not self._quick:
            self._todo.extend(cqes)
            self._note(self._todo)
            return self._run_ready()
        if self._columns:
            self._note_columns()
        if cqes:
            self._todo.extend(cqes)
        ran = self._run_ready() if self.ready or self._noted else 0
        # Almost all completions: without a call but the handler's, 120 ns each where complete() and a list
        # of handlers take 330 (CPython 3.11, bench/run.py --only steps). The iterator is the list that they
        # stand on: taken off it, out of the table and handled in one step, by the no-call rule.
        fresh: list[Cqe] = []
        begin, entries = iter(fresh), self.entries
        if self._left:  # older ones
            self._todo[:0] = self._left
        self._left = left = self._begin
        self._todo, self._begin = fresh, begin
        for cqe in left:
            try:
                token, res, flags = cqe
                handler = entries[token][0]
                if not flags & _MORE:
                    del entries[token]
            except (LookupError, TypeError, ValueError):
                self._others += (cqe,)
                continue
            if handler is not None:
                ran += 1
                handler(res, flags)
        if self._left is left:
            self._left = ()
        if self._others or self.ready or self._noted:
            self._note(self._others)
            ran += self._run_ready()
        return ran

    def has_work(self) -> bool:
        """Tell whether dispatch() has anything to do: reaped completions, or answers."""
        waiting = self.ready or self._todo or self._others or self._noted or self._columns
        return bool(waiting or length_hint(self._left))

    def _note_left(self) -> None:
        """Account for all reaped completions: from here on their requests have ended."""
        if self._quick:
            self._note_columns()
            self._others += self._left
            self._left = ()
            self._others += self._todo
            del self._todo[:]
            self._note(self._others)
        else:
            self._note(self._todo)

    def _note(self, todo: deque[Cqe]) -> None:
        """Account for completions, which are taken off their list."""
        if self._noting:  # this is a signal handler's dispatch(), inside another one
            return
        # The next call accounts for the completions that are left when a signal handler raises.
        try:
            self._noting = self._quick  # elsewhere a signal handler may raise before it is reset
            while todo:
                cqe = todo[0]
                try:
                    self.complete(cqe[0], cqe[1], cqe[2])
                except (TypeError, LookupError):
                    if _is_cqe(cqe):
                        raise
                    # Otherwise they would block the list for ever.
                    for _ in range(len(todo)):
                        each = todo[0]
                        del todo[0]
                        if _is_cqe(each):
                            todo.append(each)
                    raise TypeError(f"{cqe!r} is not a CQE") from None
                if todo and todo[0] is cqe:
                    del todo[0]
        finally:
            self._noting = False

    def _note_columns(self) -> None:
        """Account for completions reaped by column: all of one block, or one by one like any others."""
        while self._columns:
            columns = self._columns[0]
            number = columns._of_one_block() if len(columns) else -1
            many = self._blocks.get(number)
            if many is None:
                cqes = [*columns]
                if self._columns and self._columns[0] is columns:  # no call from here on
                    self._todo += cqes
                    del self._columns[0]
                continue
            indices, res, flags = columns._indices(), columns.res, columns.flags
            ended = indices
            if flags.count(0) < len(flags):
                ended = [index for index, mask in zip(indices, flags) if not mask & _MORE]
            left: bytearray | None = None
            if len(ended) < many.open.count(1):
                left = bytearray(many.open)
                for index in ended:
                    left[index] = 0
            if self._columns and self._columns[0] is columns:  # no call from here on
                if left is None:
                    del self._blocks[number]
                else:
                    many.open = left
                if many.handler is not None:
                    self.ready += ((many.handler, indices, res, flags),)
                del self._columns[0]

    def _note_blocks(self) -> None:
        """Pass the completions of blocks that complete() has recorded to their handlers, by column."""
        while self._noted:
            (number, *_) = self._noted
            many, ready = self._noted[number], self.ready
            noted = many.noted
            count = len(noted)
            columns = [list(column) for column in zip(*noted)]
            call: Any = (many.handler, *columns)
            if not _HANDLERS_RUN_AFTER_CALLS:
                call = starmap(many.handler, (columns,))
            if many.noted is noted and number in self._noted:  # no call from here on
                if many.handler is not None and count:
                    ready += (call,)
                many.noted = noted[count:]
                if not many.noted:
                    del self._noted[number]

    def _run_ready(self) -> int:
        """Run the handlers of accounted completions."""
        if self._noted:
            self._note_blocks()
        if not _HANDLERS_RUN_AFTER_CALLS:
            return self._run_each_once()
        ready, ran = self.ready, 0
        while ready:
            handler, *arguments = ready[0]
            ran += handler is not None
            del ready[0]  # not popleft(), a call: by the no-call rule (queues.py) this one might never run
            if handler is not None:
                handler(*arguments)
        return ran

    def _run_each_once(self) -> int:
        """Run the second half of dispatch() where a signal handler may raise between any two bytecodes."""
        ready, ran = self.ready, 0
        while ready:
            first = ready[0]
            if first is _COLUMNS:
                del ready[0]
                continue
            if type(first) is tuple:  # the monitor's
                ready[0] = starmap(first[0], (first[1:],))
            ran += 1
            self._run_next()
        return ran

    def cancel(self, token: int) -> None:
        """Queue the cancellation of one request; its CQE still arrives, with -ECANCELED or its result.

        Args: token is from hold().
        Raises: SubmissionQueueFull; ValueError for a value that cannot be a token.
        Since: 5.5
        """
        if not isinstance(token, int) or not 0 <= token < 1 << 64:
            raise ValueError(f"{token!r} is not a token")  # before a slot is taken
        prep_cancel64(self.ring.get_sqe(), token, 0)

    @property
    def ring(self) -> Ring:
        """Return the ring whose requests these are."""
        ring = self._ring()
        if ring is None:
            raise RingClosed("the ring of this table no longer exists")
        return ring

    def close(self, timeout_ns: int = CLOSE_TIMEOUT_NS) -> None:
        """Cancel everything and wait until the kernel has ended it.

        Queued SQEs that were not submitted are dropped. Handlers of requests that end here run; requests that
        they start are ended too, and answered by the next dispatch(). Handlers of requests that do not end in
        time never run, and their memory is kept for ever. If the ring was never closed, or the interpreter is
        exiting, no handlers run: the memory is safe nevertheless.

        Args: timeout_ns in nanoseconds.
        Raises: the exception of a handler, after everything has been drained.
        Threads: the ring's owner; another thread cannot cancel anything, so memory is kept.
        Since: one request cancels all from 5.19, each its own from 5.5; earlier kernels only wait
        """
        ring = self._ring()
        if ring is not None:
            self._close(ring, True, timeout_ns)

    def _close(self, ring: Ring, explicit: bool, timeout_ns: int = CLOSE_TIMEOUT_NS) -> None:
        # Takes the ring as an argument: when a dropped ring calls this, weak references to it are dead.
        try:
            self._end(ring, timeout_ns)
        except OSError:
            if explicit:
                raise
            # Otherwise there is no caller to tell that io_uring was taken away; the memory is kept.
        if explicit:
            try:
                call_all(iter(self._dispatch_the_rest, None))
            finally:
                if self.entries or self._blocks:  # requests that the handlers have started
                    self._end(ring, timeout_ns)

    def _dispatch_the_rest(self) -> Any:
        """Return the function that runs the next handlers; an exception from one must not stop the others."""
        return self.dispatch if self.has_work() else None

    def _end(self, ring: Ring, timeout_ns: int) -> None:
        try:
            self._note_left()
            if not ring.closed and ring.owner == get_ident():
                self._drain(ring, timeout_ns)
        except OSError:
            if ring.answers():
                raise
            # A filter now refuses io_uring, or the descriptor is closed: nothing can be cancelled. A poll of
            # a monitor uses no memory, so there is nothing to keep for it, or to warn of.
            self.entries = {token: entry for token, entry in self.entries.items() if entry[1]}
            self._blocks = {number: many for number, many in self._blocks.items() if many.holds}
        finally:
            if self.entries or self._blocks:
                self._keep_for_ever(ring)

    def _drain(self, ring: Ring, timeout_ns: int) -> None:
        for user_data in ring.discard():
            if self.entries.pop(user_data, None) is None:
                self._drop_one_of_many(user_data)
        deadline = monotonic_ns() + timeout_ns
        pause_ns, sweep, last = 1_000_000, 0, 0
        # The purpose of our own requests, by their user_data, and their results; purpose 0 is the last one's.
        asked: dict[int, int] = {}
        answers: dict[int, int] = {}
        while self.entries or self._blocks:
            # Repeated with growing pauses: one sweep misses a request that is just being started, and a
            # cancelled link may start another. The thread of an SQPOLL ring may not have made room yet.
            if ring.sq.space_left() and not last:
                missing = [token for token in self._tokens_left() if answers.get(token) != -errno.ENOENT]
                if not missing and 0 not in answers:
                    # The kernel finds none of them: they were never submitted, or their CQEs were lost. Or it
                    # cannot find them, as with direct I/O: so a NOP that waits for all others decides.
                    last = _next_question()
                    asked[last] = 0
                    prep_nop(ring.get_sqe(), last, uapi.IOSQE_IO_DRAIN)
                else:
                    self._cancel_all(ring, missing if sweep % 2 else [], asked)
            self._reap(ring, 0, asked, answers)
            left = deadline - monotonic_ns()
            if (self.entries or self._blocks) and left > 0:
                wait_ns = min(left, pause_ns)
                if not ring.features & uapi.IORING_FEAT_EXT_ARG:
                    # Before 5.11 a TIMEOUT ends the wait, and would itself wait behind IOSQE_IO_DRAIN.
                    sleep(wait_ns / 1e9)
                    wait_ns = 0
                self._reap(ring, wait_ns, asked, answers)
            if last and 0 in answers:
                last = 0
                if answers[0] == 0:
                    self.entries.clear()
                    self._blocks.clear()
            if left <= 0:
                return
            pause_ns, sweep = pause_ns * 2, sweep + 1

    def _tokens_left(self) -> Iterator[int]:
        yield from self.entries
        for number, many in self._blocks.items():
            for index, still in enumerate(many.open):
                if still:
                    yield number << 16 | index

    def _drop_one_of_many(self, user_data: int) -> None:
        many = self._blocks.get(user_data >> 16)
        if many is not None:
            many.open[user_data & 0xFFFF] = 0
            if 1 not in many.open:
                del self._blocks[user_data >> 16]

    def _holds_of(self, token: int) -> tuple[Any, ...] | None:
        """Return the objects that a request holds; None when it is not in the table."""
        if token in self.entries:
            return self.entries[token][1]  # type: ignore[no-any-return]
        many = self._blocks.get(token >> 16)
        known = many is not None and (token & 0xFFFF) < len(many.open) and many.open[token & 0xFFFF]
        return many.holds if many is not None and known else None

    def _reap(self, ring: Ring, timeout_ns: int, asked: dict[int, int], answers: dict[int, int]) -> None:
        ring.submit_and_wait(1, timeout_ns)
        todo = self._others
        ring.reap_into(todo)
        while todo:
            cqe = todo[0]
            if cqe[0] in asked:
                answers[asked[cqe[0]]] = cqe[1]
            else:
                self.complete(*cqe[:3])
            del todo[0]

    def _cancel_all(self, ring: Ring, tokens: list[int], asked: dict[int, int]) -> None:
        """Queue cancellations one by one (5.5), or of everything by one request (5.19) if tokens is empty."""
        if not tokens:
            every = uapi.IORING_ASYNC_CANCEL_ALL | uapi.IORING_ASYNC_CANCEL_ANY
            prep_cancel64(ring.get_sqe(), 0, every)
            return
        for token in tokens[: ring.sq.space_left()]:
            ours = _next_question()
            asked[ours] = token
            prep_cancel64(ring.get_sqe(), token, 0, ours)

    def _keep_for_ever(self, ring: Ring) -> None:
        import warnings

        if ring.state == "forked":
            self.entries.clear()  # the kernel writes to the parent's memory; these pages are copies
            self._blocks.clear()
            return
        requests = self.requests()
        count, oldest = sum(request.count for request in requests), requests[0]
        # Requests may also use resources that are registered with the ring.
        memory = self.entries, ring.resources, self._blocks
        _kept.append(memory)
        _immortalize(memory)
        self.entries, self._blocks = {}, {}
        warnings.warn(
            f"{count} requests could not be ended before their ring is closed; the memory that the kernel "
            f"may still use is kept until the process ends. The oldest: {oldest}",
            ResourceWarning,
            stacklevel=3,
        )

    def __len__(self) -> int:
        """Count the requests in flight, without those whose completion dispatch() is handling."""
        if self._left:
            self._note_left()
        return len(self.entries) + sum(many.open.count(1) for many in self._blocks.values())

    def __contains__(self, token: object) -> bool:
        """Tell whether a token is in flight."""
        if self._left:
            self._note_left()
        return token in self.entries or (isinstance(token, int) and self._holds_of(token) is not None)


def _is_cqe(cqe: Any) -> bool:
    return isinstance(cqe, (tuple, list)) and len(cqe) >= 3


def _free_forgotten(callbacks: list[Any]) -> None:
    """Drop empty tables to which only their ring refers: a program may make one for each connection.

    A weak reference would not do: see InFlight.__init__. Where references are not counted (PyPy), the
    tables stay until the ring is closed.
    """
    count = len(callbacks)
    now = count < 16 or not count & (count - 1)  # not always when there are many
    if now and hasattr(sys, "getrefcount"):
        alone = _references([_Sample().method], 0)
        callbacks[:] = [
            callback for i, callback in enumerate(callbacks)
            if not _is_idle(callback) or _references(callbacks, i) > alone
        ]  # fmt: skip


class _Sample:
    def method(self) -> None:
        """Stand for InFlight._close."""


def _is_idle(callback: Any) -> bool:
    table = getattr(callback, "__self__", None)
    return isinstance(table, InFlight) and not (table.entries or table._blocks or table.has_work())


def _references(methods: list[Any], index: int) -> int:
    return sys.getrefcount(methods[index].__self__)


def _immortalize(memory: Any) -> None:
    """Let an object survive the interpreter's cleanup, in which module globals are freed."""
    if sys.implementation.name == "cpython":
        import ctypes

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(memory))
