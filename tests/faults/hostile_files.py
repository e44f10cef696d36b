# SPDX-License-Identifier: MIT
"""The sweep of files, files.sync, file objects and Path with hostile values, in a child of test_hostile.py.

What it is: each parameter of each function and method in turn gets each value of hostile.py, in a separate
folder.
Must not know: what the functions do, except the few values that would harm the sweep itself.
Invariant: a call ends in success or in one of the errors of hostile.FINE with words, and leaves nothing open.
Read next: test_hostile.py.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import pathlib
import resource
import signal
import sys
import warnings

import hostile
import leaks
from refusal import workers_stay

from rawuring import files

#: Functions that close their descriptor or call their argument: they get no descriptor of the sweep.
OWN = {"close_fd": {"fd"}, "call": {"function"}}
#: Errors of the standard library without a message.
SILENT = (MemoryError, asyncio.CancelledError, RecursionError)


class Hang(BaseException):
    """A call took too long."""


def on_alarm(number, frame):
    raise Hang


def usual(name, fd):
    """Return the value of a parameter while another one is abused."""
    return {
        "fd": fd, "path": "file", "src": "file", "dst": "copy", "name": "made", "top": "tree",
        "items": ["file"], "paths": ["file"], "ranges": [(0, bytearray(4))], "buffer": bytearray(4),
        "buffers": [bytearray(4)], "data": b"data", "n": 4, "nbytes": 4096, "flags": 0, "mode": 0o600,
        "attribute": "user.x", "value": b"x", "function": len, "offset": 0, "length": 1,
    }.get(name, 0)  # fmt: skip


def forbidden(label, parameter, value):
    """Tell whether a value would close or fill a descriptor that the sweep itself needs."""
    number = value if isinstance(value, int) else None
    if parameter in OWN.get(label, ()) and number is not None and 0 <= number < 3:
        return True
    return parameter in ("length", "nbytes") and number is not None and 1 << 20 < number < 1 << 40


async def consume(found):
    """Await an awaitable result, and take a few steps of an iterable one."""
    if hasattr(found, "__aiter__"):
        try:
            for _ in range(3):
                await found.__anext__()
        except StopAsyncIteration:
            return
        finally:
            await found.aclose()
    elif hasattr(found, "__await__"):
        result = await found
        if getattr(found, "__name__", "") == "open_fd":
            os.close(result)
        elif hasattr(result, "aclose"):  # of Path.open()
            await result.aclose()


def one_call(function, label, parameters, place, value, found):
    """Call once; record what no caller should see; return whether it was rejected."""
    fd = os.open("file", os.O_RDWR)
    what = f"{label}({parameters[place].name}) with {type(value).__name__} {ascii(value)[:60]}"
    positional, keywords = [], {}
    for at, each in enumerate(parameters):
        given = value if at == place else usual(each.name, fd)
        if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
            continue
        if each.kind is each.KEYWORD_ONLY:
            if at == place:
                keywords[each.name] = given
        elif at == place or each.default is each.empty or at < place:
            positional.append(given if at == place or each.default is each.empty else each.default)
    signal.setitimer(signal.ITIMER_REAL, 20)
    try:
        result = function(*positional, **keywords)
        if inspect.isgenerator(result):
            list(zip(range(3), result))
            result.close()
        else:
            asyncio.run(consume(result))
    except Hang:
        found.append(f"{what}: hangs")
    except SILENT:
        return True
    except hostile.FINE as error:
        if not str(error).strip() or str(error) == "None":
            found.append(f"{what}: {type(error).__name__} without a message")
        return True
    except BaseException as error:
        # The caller's own object lacks an attribute, or raises when it is called.
        theirs = parameters[place].name in ("ignore", "items", "paths")
        ours = isinstance(error, AttributeError) and not theirs
        if ours or not isinstance(error, Exception):
            found.append(f"{what}: {type(error).__name__}: {error}")
        return True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.close(fd)
    return False


def method_of(kind, label):
    """Return a function that makes an object, calls a method and closes it; its parameters are the method's.

    Args: kind is "Path", the mode of a file, or "raw".
    """

    async def call(*positional, **keywords):
        if kind == "Path":
            try:
                await consume(getattr(files.Path("file"), label)(*positional, **keywords))
            except AttributeError as error:
                try:
                    getattr(pathlib.Path("file"), label)(*positional, **keywords)
                except AttributeError:
                    raise TypeError("as pathlib") from error
                raise
            return
        async with make(kind) as file:
            found = getattr(file, label)(*positional, **keywords)
            await consume(found)
            if label == "detach":
                await found.result.close()

    async def example():
        if kind == "Path":
            return getattr(files.Path("file"), label)
        async with make(kind) as file:
            return getattr(file, label)

    call.__signature__ = inspect.signature(asyncio.run(example()))
    return call


def make(kind):
    """Return a function that opens a file of a kind; wrapped files contain data written by others."""
    return files.open("file", "r+b", 0) if kind == "raw" else files.open("file", kind)


def methods(kind):
    """List the public methods of a kind of object, with a function that calls each."""

    async def names():
        if kind == "Path":
            return dir(files.Path("file"))
        async with make(kind) as file:
            return [name for name in dir(file) if callable(getattr(file, name, None))]

    for label in asyncio.run(names()):
        if not label.startswith("_") and callable(getattr(files.Path, label, len)):
            yield f"{kind}.{label}", method_of(kind, label)


def functions(part):
    """List the swept functions, each with a label."""
    if part in ("Path", "r+b", "r+", "raw"):
        yield from methods(part)
        return
    if part == "os":
        for place in (files.os, files.ospath):
            for label, function in vars(place).items():
                if inspect.isfunction(function) and label != "wrap":
                    yield f"os.{label}", function
        return
    module = files if part == "files" else files.sync
    for label in module.__all__:
        if inspect.isfunction(getattr(module, label)):
            yield label, getattr(module, label)


def fill():
    """Make the files that the calls use, if an earlier call has removed them."""
    os.makedirs(os.path.join("tree", "below"), exist_ok=True)
    for path in ("file", os.path.join("tree", "file")):
        if not os.path.isfile(path):
            with open(path, "wb") as file:
                file.write(b"content\n" * 100)


def main(part):
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, on_alarm)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 22, 1 << 22))
    found, calls, refused = [], 0, 0
    fill()
    asyncio.run(files.read_bytes("file"))
    with workers_stay(), leaks.nothing_left("descriptors"):  # each call has a loop, and so a ring, of its own
        for label, function in functions(part):
            parameters = list(inspect.signature(function).parameters.values())
            for place in range(len(parameters)):
                for value in hostile.hostile_values():
                    if not forbidden(label, parameters[place].name, value):
                        fill()
                        calls += 1
                        refused += one_call(function, label, parameters, place, value, found)
    print(json.dumps({"calls": calls, "refused": refused, "found": found}), file=sys.stderr)
