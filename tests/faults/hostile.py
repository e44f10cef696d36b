# SPDX-License-Identifier: MIT
"""The sweep of every public method with hostile values; a child of test_hostile.py runs it.

What it is: a way to make an object of each public class; then each parameter of each method in turn gets each
hostile value, on a separate object. Methods are found by introspection, so new ones are covered as well.
Must not know: what the methods do, except the few that are named in the tables.
Invariant: a call ends in success or in one of the errors of FINE with words, and the object can be closed.
Read next: test_hostile.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import io
import json
import os
import selectors
import signal
import socket
import struct
import sys
import warnings

import leaks

from rawuring import (
    buffers,
    fakekernel,
    fdmon,
    handle,
    inflight,
    ops,
    register,
    rings,
    selector,
    syscalls,
    uapi,
)

MODULES = (
    "uapi", "syscalls", "barriers", "queues", "handle", "rings", "ops", "buffers", "register",
    "inflight", "debug", "monitor", "fdmonpoll", "fdmon", "strategy", "epollwait", "selector", "asyncring",
    "aio", "fakekernel",
)  # fmt: skip

#: The errors that a caller may get, with a message: Python's own for wrong values, and the library's.
FINE = (TypeError, ValueError, OverflowError, OSError, BufferError, LookupError, NotImplementedError,
        MemoryError, rings.SubmissionQueueFull, rings.WrongThread, fakekernel.BrokenRing,
        asyncio.TimeoutError)  # fmt: skip


class Sabotage(ValueError):
    """Raised by a hostile object, and passed through to the caller."""


class RaisingIndex:
    def __index__(self):
        raise Sabotage("__index__ raises")


class LyingIndex:
    def __index__(self):
        return "not an int"


class RaisingFileno:
    def fileno(self):
        raise Sabotage("fileno() raises")


class Fileno:
    def __init__(self, answer):
        self.answer = answer

    def fileno(self):
        return self.answer


class RaisingIter:
    def __iter__(self):
        raise Sabotage("__iter__ raises")


def hostile_values():
    """Make them anew: some can be exhausted."""
    with open(os.devnull) as closed:
        pass
    gone = socket.socket()
    gone.close()
    view = memoryview(bytearray(64))
    view.release()
    return [
        None, True, -1, 0, 1, 2**15, 2**16, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, -(2**31) - 1,
        -(2**63), 10**30, 0.5, -1.5, 1e10, 1e300, float("nan"), float("inf"), -float("inf"), 1j, "text", "",
        "a\0b", "\ud800", b"", b"bytes", bytes(64), bytearray(3), bytearray(64), [], [-1], [2**40], ["x"], (),
        (1, 2), (1, 2, 3), {}, {"head": -1}, {1}, object(), closed, gone, view, memoryview(b"abc"),
        memoryview(bytearray(64))[::2], range(3), lambda *a, **k: None, RaisingIndex(), LyingIndex(),
        RaisingFileno(), Fileno("x"), Fileno(-5), Fileno(2**64), Fileno(None), RaisingIter(), int, ops,
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------------
# How to make one of each


@contextlib.contextmanager
def pipes():
    r, w = os.pipe()
    try:
        yield r, w
    finally:
        os.close(r)
        os.close(w)


@contextlib.contextmanager
def a_ring(kind=rings.Ring, **options):
    with kind(4, **options) as ring:
        yield ring


@contextlib.contextmanager
def a_fake_ring():
    with fakekernel.fake_ring(entries=4) as (_, ring):
        yield ring


@contextlib.contextmanager
def a_queue(name, **options):
    with a_ring(**options) as ring:
        yield getattr(ring, name)


@contextlib.contextmanager
def a_table(kind=inflight.InFlight):
    with a_ring() as ring:
        yield kind(ring)


@contextlib.contextmanager
def a_monitor(kind, *arguments):
    with kind(*arguments) as monitor:
        yield monitor


@contextlib.contextmanager
def a_watched(kind):
    """Objects of debug mode are made by the classes they stand for."""
    os.environ["RAWURING_DEBUG"] = "1"
    try:
        with rings.Ring(4) as ring:
            yield ring if kind == "ring" else inflight.InFlight(ring)
    finally:
        del os.environ["RAWURING_DEBUG"]


@contextlib.contextmanager
def a_strategy(kind, *arguments):
    made = kind(*arguments)
    made.keys = {}
    try:
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def a_selector(**options):
    with selector.IoUringSelector(**options) as made:
        yield made


@contextlib.contextmanager
def provided():
    memory, room = buffers.allocate(4096), buffers.allocate(4096)
    made = buffers.ProvidedBuffers(buffers.BufferRing(memory, 4), room, 64, 1, 4)
    yield made
    with contextlib.suppress(ValueError):
        made.release()


@contextlib.contextmanager
def buffer_ring():
    made = buffers.BufferRing(buffers.allocate(4096), 4)
    yield made
    with contextlib.suppress(ValueError):
        made.release()


@contextlib.contextmanager
def a_loop():
    from rawuring import aio

    loop = aio.IoUringEventLoop(selector.IoUringSelector(entries=4))
    try:
        yield loop
    finally:
        loop.close()


#: The socket of the ring that is being swept; the first entry stands for none.
sockets = [None]


@contextlib.contextmanager
def on_an_async_ring(make):
    """Make something on the private ring of a loop, which awaits the results of calls."""
    from rawuring import asyncring

    loop = asyncio.SelectorEventLoop()
    loop.set_exception_handler(lambda loop, context: None)
    a, b = socket.socketpair()
    try:
        for each in (a, b):
            each.setblocking(False)
        sockets.append(a)
        yield make(asyncring.AsyncRing(loop), a)
    finally:
        sockets.remove(a)
        loop.close()
        a.close()
        b.close()


def run_what_was_returned(thing, result):
    """Await an awaitable result for a moment; take one step of an iterable one."""
    source = getattr(thing, "_source", None)
    loop = getattr(getattr(source or thing, "ring" if source else "_ring", thing), "_loop", None)
    if hasattr(result, "__anext__"):
        result = result.__anext__()
    if loop is None or not hasattr(result, "__await__"):
        return
    if loop.is_closed():
        if hasattr(result, "close"):
            result.close()
        return

    async def main():
        task = asyncio.ensure_future(result)
        await asyncio.wait([task], timeout=0.001)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            with contextlib.suppress(StopAsyncIteration):
                task.result()

    loop.run_until_complete(main())


@contextlib.contextmanager
def a_lot():
    made = fdmon.ParkingLot()
    try:
        yield made
    finally:
        made.close()


def plain(make):
    return lambda: contextlib.nullcontext(make())


def zcrx():
    area, region = buffers.allocate(8192), buffers.allocate(8192)
    offsets = {"head": 0, "tail": 4, "rqes": 64}
    return register.ZcrxIfq(0, area, 0, region, offsets, 8)


#: Class -> how to make one. A class that is missing here fails the test: add a way, or the reason for none.
MAKERS = {
    "asyncring.AsyncRing": lambda: on_an_async_ring(lambda ring, sock: ring),
    "asyncring.Mailbox": lambda: on_an_async_ring(lambda ring, sock: ring.mailbox()),
    "asyncring.Piece": plain(lambda: importlib.import_module("rawuring.asyncring").Piece(memoryview(b"x"))),
    "asyncring.RequestFuture": lambda: on_an_async_ring(lambda ring, sock: ring.call(ops.prep_nop)),
    "asyncring.Stream": lambda: on_an_async_ring(lambda ring, sock: ring.recv_multishot(sock)),
    "aio.IoUringEventLoop": a_loop,
    "buffers.Array": plain(lambda: buffers.Array(bytes(32), 2)),
    "buffers.StructBuffer": plain(lambda: buffers.StructBuffer(bytes(16))),
    "buffers.BufferRing": buffer_ring,
    "buffers.EpollEvents": plain(lambda: buffers.EpollEvents(4)),
    "buffers.Ints": plain(lambda: buffers.ints([1, 2])),
    "buffers.Msghdr": plain(lambda: buffers.msghdr([buffers.allocate(16)], name_size=128, control_size=64)),
    "buffers.Pin": plain(lambda: buffers.pin(buffers.allocate(16))),
    "buffers.ProvidedBuffers": provided,
    "buffers.Siginfo": plain(buffers.Siginfo),
    "buffers.SockaddrBuffer": plain(buffers.SockaddrBuffer),
    "buffers.StatxBuffer": plain(buffers.StatxBuffer),
    "debug.Guarded": plain(lambda: importlib.import_module("rawuring.debug").Guarded(64)),
    "debug.WatchedInFlight": lambda: a_watched("table"),
    "debug.WatchedRing": lambda: a_watched("ring"),
    "fakekernel.FakeKernel": plain(fakekernel.FakeKernel),
    "fakekernel.FakeRing": a_fake_ring,
    "fakekernel.Memory": plain(lambda: fakekernel.Memory(64)),
    "handle.RingHandle": lambda: handle.RingHandle(4),
    "monitor.AioHandler": plain(lambda: fdmon.AioHandler(0, 1)),
    "monitor.FDMon": lambda: a_monitor(fdmon.FDMon),
    "fdmon.IoUringFDMon": lambda: a_monitor(fdmon.IoUringFDMon, 4),
    "fdmon.ParkingLot": a_lot,
    "fdmonpoll.PollFDMon": lambda: a_monitor(fdmon.PollFDMon),
    "inflight.InFlight": a_table,
    "ops.Block": plain(lambda: ops.Block(4, ops.prep_nop)),
    "register.WaitRegion": plain(lambda: register.WaitRegion(buffers.allocate(4096))),
    "register.ZcrxIfq": plain(zcrx),
    "queues.Columns": plain(lambda: rings.Columns(bytes(32))),
    "queues.CompletionQueue": lambda: a_queue("cq"),
    "queues.RewindSubmissionQueue": lambda: a_queue(
        "sq", flags=uapi.IORING_SETUP_NO_SQARRAY | uapi.IORING_SETUP_SQ_REWIND
    ),
    "rings.Ring": a_ring,
    "queues.SubmissionQueue": lambda: a_queue("sq"),
    "epollwait.EpollPoll": lambda: a_strategy(selector.EpollPoll, 4),
    "epollwait.EpollWait": lambda: a_strategy(selector.EpollWait, 4),
    "selector.IoUringSelector": lambda: a_selector(entries=4),
    "selector.PollAdd": lambda: a_strategy(selector.PollAdd, 4),
    "selector.Stdlib": lambda: a_strategy(selector.Stdlib, selectors.EpollSelector),
    "strategy.Strategy": plain(selector.Strategy),
    "syscalls.Uncopyable": plain(syscalls.Uncopyable),
    "syscalls.GeteventsArg": plain(syscalls.GeteventsArg),
    "uapi.Field": plain(lambda: uapi.Field("x", "I", 0)),
    "uapi.Layout": plain(lambda: uapi.io_uring_params),
}

@contextlib.contextmanager
def with_request(make):
    """Make a ring, or an object that has one, with a queued request."""
    with make() as thing:
        ring = thing if isinstance(thing, rings.Ring) else thing.ring
        ops.prep_nop(ring.get_sqe(), 7)
        yield thing


@contextlib.contextmanager
def closed(make):
    """Make something that was closed before its use."""
    with contextlib.ExitStack() as stack:
        thing = stack.enter_context(make())
        stack.close()
        yield thing


def variants(label, make):
    """Name the states in which a class is swept."""
    yield label, make
    if label in ("rings.Ring", "inflight.InFlight", "debug.WatchedRing", "debug.WatchedInFlight"):
        yield f"{label} with a request", lambda: with_request(make)
    if not isinstance(make(), contextlib.nullcontext):
        yield f"closed {label}", lambda: closed(make)


#: Parameters that take an object of this library or of the caller's, which is used unchecked: a wrong one
#: raises Python's own AttributeError, which names the missing attribute.
OBJECTS = {
    "node", "old_node", "new_node", "key", "keys", "events of dispatch", "prep", "handler", "msg", "target",
    "callback", "ring",
}  # fmt: skip

#: Waits that may last forever if the value is valid; the alarm ends them.
WAITS = {"wait_nr", "timeout_ns", "timeout", "max_ns", "block_ns", "min_wait_usec"}


def usual(name, thing, fds):
    """Return the value of a parameter while another one is abused."""
    if name == "mailbox":
        return None if thing.ring.closed else thing.mailbox()
    node = fdmon.AioHandler(fds[0], 1)
    return {
        "fd": fds[0], "fileobj": fds[0], "events": 1, "node": node, "old_node": None, "new_node": node,
        "key": selectors.SelectorKey(fds[0], fds[0], 1, None), "keys": {}, "known": True, "flags": 0,
        "timeout": 0, "timeout_ns": 0, "wait_nr": 0, "max_ns": 0, "block_ns": 0, "sqe": bytes(64),
        "sqes": bytes(64), "prep": ops.prep_nop, "handler": None, "callback": print, "target": [],
        "cqe": (1, 0, 0), "cqes": [], "params": {}, "name": "user_data", "values": [1], "opcode": 8,
        "sock": sockets[-1], "nbytes": 1, "data": b"x", "word": bytearray(8), "mask": 1, "buffers": [b"x"],
        "address": "/nowhere", "idtype": 1, "id": os.getpid(), "fd_in": fds[0], "fd_out": fds[1],
        "arg": None, "buffer": bytearray(256), "token": 1, "index": 0, "offset": 0, "position": 0,
    }.get(name, 0)  # fmt: skip


# ------------------------------------------------------------------------------------------------------
# The sweep


class Hang(BaseException):
    pass


#: A call is running: an alarm after its end must not hit the code that follows.
calling = False


def on_alarm(number, frame):
    global calling
    if calling:
        calling = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise Hang


def public_classes(module_name):
    module = importlib.import_module(f"rawuring.{module_name}")
    for name, kind in sorted(vars(module).items()):
        if name.startswith("_") or not inspect.isclass(kind) or kind.__module__ != module.__name__:
            continue
        if not issubclass(kind, (BaseException, tuple)):
            yield f"{module_name}.{name}", kind


def methods_of(kind):
    """Name the callables for users: public names that this library defines, and a few special ones."""
    for name in sorted(dir(kind)):
        found = inspect.getattr_static(kind, name)
        special = name in ("__getitem__", "__contains__", "__len__", "__iter__", "__repr__")
        if (name.startswith("_") and not special) or not inspect.isroutine(found):
            continue
        home = next(base for base in kind.__mro__ if name in vars(base))
        if home.__module__.startswith("rawuring."):
            yield name


class Sweep:
    def __init__(self, found):
        self.found = found
        self.calls = self.refused = 0
        self.left_out = []

    def complain(self, what, value, problem):
        self.found.append(f"{what} with {type(value).__name__} {ascii(value)[:60]}: {problem}")

    def attempt(self, what, name, function, arguments, keywords, value, parameter):
        """Call once; record everything that no caller should see."""
        global calling
        self.calls += 1
        waits = parameter in WAITS
        # Repeatedly: a signal just before a system call does not end its wait.
        signal.setitimer(signal.ITIMER_REAL, 0.02 if waits else 5, 0.5)
        try:
            try:
                calling = True
                result = function(*arguments, **keywords)
                run_what_was_returned(getattr(function, "__self__", None), result)
                if inspect.isgenerator(result):
                    list(result)
            finally:
                calling = False
            if name == "setup":
                os.close(result)
        except Hang:
            if not waits:
                self.complain(what, value, "hangs")
        except FINE as error:
            self.refused += 1
            words = str(error)
            if (not isinstance(error, NotImplementedError) and not words.strip()) or words == "None":
                self.complain(what, value, f"{type(error).__name__} without words")
        except asyncio.CancelledError:
            self.refused += 1  # by a future whose loop is closed
        except struct.error as error:
            self.refused += 1
            if parameter != "arguments" or not str(error):  # of a prep function: see the head of ops.py
                self.complain(what, value, f"struct.error: {error}")
        except AttributeError as error:
            self.refused += 1
            if parameter not in OBJECTS:
                self.complain(what, value, f"AttributeError: {error}")
        except RuntimeError as error:
            self.refused += 1
            if not str(error).strip():
                self.complain(what, value, "RuntimeError without a message")
        except BaseException as error:
            self.complain(what, value, f"{type(error).__module__}.{type(error).__name__}: {error}")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def one_call(self, label, make, name, parameters, place, value, fds):
        with contextlib.ExitStack() as stack:
            thing = stack.enter_context(make())
            function = getattr(thing, name)
            # disown_fd() leaves the closing to other code.
            fd = thing.fileno() if name == "disown_fd" and not thing.closed else None
            positional, keywords = [], {}
            for i, each in enumerate(parameters):
                given = value if i == place else usual(each.name, thing, fds)
                if each.kind is each.VAR_POSITIONAL:
                    positional += [given] if i == place else []
                elif each.kind is each.VAR_KEYWORD:
                    keywords.update({"nonsense": given} if i == place else {})
                elif each.kind is each.KEYWORD_ONLY:
                    if i == place:
                        keywords[each.name] = given
                elif i == place or each.default is each.empty or i < place:
                    positional.append(given)
            what = f"{label}.{name}({parameters[place].name if parameters else ''})"
            parameter = parameters[place].name if parameters else ""
            if parameter == "events" and name == "dispatch":
                parameter = "events of dispatch"
            self.attempt(what, name, function, positional, keywords, value, parameter)
            # A request that was never made, or has another token, never completes.
            if isinstance(thing, inflight.InFlight):
                with contextlib.suppress(rings.RingClosed):  # the ring is closed as well
                    thing.ring.discard()
                thing.entries.clear()
            if fd is not None:
                os.close(fd)

    def method(self, label, make, name, fds):
        with make() as thing:
            parameters = list(inspect.signature(getattr(thing, name)).parameters.values())
        for place in range(max(len(parameters), 1)):
            for value in hostile_values() if parameters else [None]:
                try:
                    self.one_call(label, make, name, parameters, place, value, fds)
                except Hang:
                    self.complain(f"{label}.{name}", value, "hangs afterwards")
                except BaseException as error:
                    if name == "answer" and isinstance(value, type):
                        continue  # int(res, flags): as a handler it raises when called
                    self.complain(f"{label}.{name}", value, f"closing afterwards: {error!r}")

    def klass(self, label, kind, fds):
        make = MAKERS.get(label)
        if make is None:
            self.found.append(f"{label}: hostile.MAKERS has no way to make one")
            return
        try:
            with make():
                pass
        except (OSError, ValueError) as error:
            self.left_out.append(f"{label}: {error}")
            return
        for state, make_it in variants(label, make):
            for name in methods_of(kind):
                self.method(state, make_it, name, fds)


def main(module_name):
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, on_alarm)
    found = []
    sweep = Sweep(found)
    rings.Ring(2).close()
    with contextlib.redirect_stdout(io.StringIO()), pipes() as fds:
        for label, kind in public_classes(module_name):
            try:
                with leaks.nothing_left():
                    sweep.klass(label, kind, fds)
            except AssertionError as error:
                found.append(f"{label} leaks: {error}")
    answer = {"calls": sweep.calls, "refused": sweep.refused, "found": found, "left out": sweep.left_out}
    print(json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1])
