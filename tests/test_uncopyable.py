# SPDX-License-Identifier: MIT
"""Nothing that owns a descriptor, memory or a thread can be copied or pickled."""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import pickle
import pkgutil
import socket
from pathlib import Path

import pytest

import rawuring
from rawuring import aio, buffers, debug, fakekernel, fdmon, inflight, register, rings, syscalls, tour
from rawuring.selector import IoUringSelector

#: Classes of plain values, whose copies are independent of the original or equivalent to it, with the reason.
VALUES = {
    "aio.IoUringEventLoopPolicy": "holds a loop only in a threading.local(), as its base class does",
    "asyncring._LateItems": "made by its module only, which hands out none",
    "asyncring._Suspend": "has no state",
    "barriers.Words": "a protocol, for type checkers only",
    "buffers.PyBuffer": "the layout of a C struct",
    "fakekernel.Memory": "a bytearray: its copy has its own bytes",
    "fileobjects._Flag": "a number",
    "fileobjects._Kind": "a type of classes; its classes cannot be copied",
    "filebatch.Found": "a list",
    "filepath.Path": "text, as pathlib's",
    "fileops._Worker": "made by its pool only, which hands out none",
    "files._Turn": "a threading.local(), which cannot be copied either",
    "inflight._Many": "made by its table only, which hands out none",
    "inflight._Sample": "has no state",
    "ops.Block": "bytes that are copied into a queue, and that nobody else reads",
    "playtrace.Known": "numbers and lists of a page that is being made",
    "playtrace.Request": "numbers",
    "queues.Columns": "bytes that were copied out of a queue",
    "queues._Released": "has no state",
    "selector._Map": "a view of a dictionary, as in selectors",
    "trace._Timed": "a handler, and where to write when it runs",
    "uapi.Field": "numbers",
    "uapi.Layout": "numbers",
}


def classes() -> dict[str, type | None]:
    """Find every class of the package: name -> class, None if it is defined inside a function."""
    found: dict[str, type | None] = {}
    for module in pkgutil.iter_modules(rawuring.__path__):
        if module.name == "__main__":
            continue
        loaded = importlib.import_module(f"rawuring.{module.name}")
        source = Path(loaded.__file__).read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ClassDef):
                found[f"{module.name}.{node.name}"] = vars(loaded).get(node.name)
    return found


def test_every_class_then_it_is_a_value_or_cannot_be_copied():
    wrong = []
    for name, kind in classes().items():
        is_value = name in VALUES or (kind is not None and issubclass(kind, (tuple, BaseException)))
        is_base = kind is syscalls.Uncopyable
        if not is_value and not is_base and (kind is None or not issubclass(kind, syscalls.Uncopyable)):
            wrong.append(name)
    assert not wrong, "make it a syscalls.Uncopyable, or give the reason in VALUES why a copy is harmless"
    if (Path(rawuring.__file__).parents[1] / "pyproject.toml").exists():  # else a copy, which may be partial
        assert set(VALUES) <= set(classes())


def test_no_class_then_overrides_the_refusal():
    names = ("__copy__", "__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__", "__getnewargs__")
    for name, kind in classes().items():
        if inspect.isclass(kind) and syscalls.Uncopyable in kind.__mro__[1:]:
            assert not [each for each in names if each in vars(kind)], name


def copies(thing) -> list:
    """Return every way to make a second one."""
    ways = [lambda: copy.copy(thing), lambda: copy.deepcopy(thing), lambda: copy.deepcopy([{"in": thing}])]
    protocols = range(pickle.HIGHEST_PROTOCOL + 1)
    return ways + [lambda p=protocol: pickle.dumps(thing, p) for protocol in protocols]


def assert_uncopyable(thing) -> None:
    for way in copies(thing):
        with pytest.raises(TypeError, match=f"cannot copy or pickle '{type(thing).__name__}'"):
            way()


def test_memory_then_cannot_be_copied():
    # The pure-Python kernel needs no io_uring.
    kernel, pin = fakekernel.FakeKernel(), buffers.pin(buffers.allocate(8))
    things = [
        pin, buffers.iovec([pin]), buffers.timespec(1), buffers.path("/"),
        buffers.SockaddrBuffer(), buffers.StatxBuffer(), buffers.ints([1]), debug.guarded(8),
        syscalls.GeteventsArg(), kernel, rings.CompletionQueue(kernel.ring, kernel.cq_off, 0),
        rings.SubmissionQueue(kernel.ring, kernel.sqes, kernel.sq_off, 0), fdmon.AioHandler(0, 1),
        tour.PythonKernel(),
    ]  # fmt: skip
    for thing in things:
        assert_uncopyable(thing)


@pytest.mark.requires_io_uring
@pytest.mark.leakcheck
def test_ring_table_monitor_selector_and_loop_then_cannot_be_copied():
    with rings.Ring(4) as ring, IoUringSelector() as selector:
        monitor = fdmon.setup()
        loop = aio.IoUringEventLoop()
        try:
            for thing in (ring, ring.sq, ring.cq, inflight.InFlight(ring), monitor, selector, loop):
                assert_uncopyable(thing)
            first, second = socket.socketpair()
            with first, second:
                selector.register(first, 1)
                second.send(b"x")
                assert [key.fd for key, _ in selector.select(5)] == [first.fileno()]
        finally:
            loop.close()
            monitor.destroy()


def test_strategies_without_io_uring_then_cannot_be_copied():
    monitor = fdmon.PollFDMon()
    try:
        assert_uncopyable(monitor)
    finally:
        monitor.destroy()


@pytest.mark.requires_io_uring
def test_what_register_makes_then_cannot_be_copied():
    with rings.Ring(4) as ring:
        try:
            group = register.setup_buf_ring(ring, 1, 4, 64)
        except OSError as error:
            pytest.skip(f"PBUF_RING (Linux 5.19): {error}")
        assert_uncopyable(group)
        assert_uncopyable(group.ring)
