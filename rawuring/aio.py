# SPDX-License-Identifier: MIT
# pyright: basic
"""asyncio on io_uring: stock event loops over IoUringSelector.

What it is: a loop class, a factory for asyncio.run and Runner, a policy for Pythons that need one, and
``python -m rawuring.aio script.py``, which runs a program as it is.
Mirrors: ``asyncio.SelectorEventLoop``, ``asyncio.run``; uvloop's names install() and run().
Must not know: rings.
Invariant: the loop is CPython's own. It differs in the selector underneath, and in how much a transport reads
at a time.
Read next: fileops.py. DESIGN.md lists the private names of asyncio that this file needs.

    asyncio.run(main(), loop_factory=rawuring.aio.new_event_loop)     # Python 3.12 and newer
    rawuring.aio.run(main())                                          # any
    asyncio.SelectorEventLoop(rawuring.selector.IoUringSelector())    # any, by hand
"""

from __future__ import annotations

import asyncio
import functools
import selectors
import sys
from socket import AF_INET, AF_INET6

from . import asyncring, command
from .selector import IoUringSelector
from .syscalls import Uncopyable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Coroutine
    from typing import Any, Callable, TypeVar

    T = TypeVar("T")

#: The size of a transport's reads. asyncio reads 256 KiB, more than the size from which glibc's malloc maps
#: memory anew for each block (128 KiB): in a young process every read then costs an mmap, page faults and a
#: munmap, five times the rest of an echo. See docs/costs.md.
_MAX_SIZE = 64 * 1024


class IoUringEventLoop(Uncopyable, asyncio.SelectorEventLoop):
    """A SelectorEventLoop over an IoUringSelector.

    Transports and the sock_* methods pass numbers of sockets that are open, so the selector accepts numbers
    without a check; numbers passed to add_reader() and add_writer() are checked by the kernel.
    """

    #: Until __init__ has finished: asyncio's __del__ closes a loop that is open.
    _closed = True
    _uring: asyncring.AsyncRing | None = None

    def __init__(self, selector: selectors.BaseSelector | None = None) -> None:
        """Make a loop.

        Args: selector is used instead of IoUringSelector(trusting=True), if given.
        Raises: TypeError for an object that is not a selector.
        """
        if selector is not None and not callable(getattr(selector, "select", None)):
            raise TypeError(f"selector={selector!r}: must be a selector, as in the module selectors")
        super().__init__(IoUringSelector(trusting=True) if selector is None else selector)

    @property
    def selector(self) -> selectors.BaseSelector:
        """Return the selector; its ``backend`` and ``reason`` say what is in use."""
        return self._selector  # type: ignore[attr-defined, no-any-return]

    @property
    def uring(self) -> asyncring.AsyncRing:
        """Return the ring on which requests can be awaited in this loop, made on first use.

        It is the selector's own: requests queued in one turn of the loop are sent with its wait, in one
        system call. Where the selector has no ring, or has lost it, the ring is a private one.

        Raises: RuntimeError after close(); Unavailable where io_uring is unavailable.
        """
        if self.is_closed():
            raise RuntimeError("Event loop is closed")
        table = getattr(self._selector, "requests", None)  # type: ignore[attr-defined]
        found = self._uring
        if found is None or found.table is not table or found._closing:
            if table is None:
                return asyncring._private_ring(self)
            found = self._uring = asyncring.AsyncRing(self, table)
        return found

    def close(self) -> None:
        """Close the loop, after the requests of its ring have ended: see asyncio."""
        found = self._uring
        if found is not None and not self.is_running() and not self.is_closed():
            if self._selector.requests is found.table:  # type: ignore[attr-defined]
                found.close()
            self._uring = None  # last: a signal handler may raise, and close() be called again
        super().close()

    def add_reader(  # type: ignore[override]
        self, fd: Any, callback: Callable[..., Any], *args: Any
    ) -> None:
        """Call back when a descriptor is readable: see asyncio.

        Args: fd, callback and args as for asyncio.
        Raises: PermissionError for regular files; OSError for a descriptor that is not open.
        """
        self._checked(super().add_reader, fd, callback, args)

    def add_writer(  # type: ignore[override]
        self, fd: Any, callback: Callable[..., Any], *args: Any
    ) -> None:
        """Call back when a descriptor is writable: see asyncio.

        Args: fd, callback and args as for asyncio.
        Raises: PermissionError for regular files; OSError for a descriptor that is not open.
        """
        self._checked(super().add_writer, fd, callback, args)

    # Hooks of asyncio, with any arguments that this Python passes them (3.15 added one).

    def _make_socket_transport(self, *args: Any, **kwargs: Any) -> Any:
        return _read_less(super()._make_socket_transport(*args, **kwargs))  # type: ignore[misc]

    def _make_ssl_transport(self, rawsock: Any, *args: Any, **kwargs: Any) -> Any:
        transport = super()._make_ssl_transport(rawsock, *args, **kwargs)  # type: ignore[misc]
        _read_less(self._transports[rawsock.fileno()])  # type: ignore[attr-defined]
        return transport

    def _make_datagram_transport(self, sock: Any, *args: Any, **kwargs: Any) -> Any:
        transport = super()._make_datagram_transport(sock, *args, **kwargs)  # type: ignore[misc]
        # Datagrams of other families may be longer, and the rest would be lost.
        return _read_less(transport) if sock.family in (AF_INET, AF_INET6) else transport

    def _make_read_pipe_transport(self, *args: Any, **kwargs: Any) -> Any:
        return _read_less(super()._make_read_pipe_transport(*args, **kwargs))  # type: ignore[misc]

    def _remove_reader(self, fd: Any, **kwargs: Any) -> Any:
        # A loop that was not closed closes itself when it is collected, perhaps after its own socket, which
        # has no number any more. (asyncio's has so few objects that the collector takes them in their order.)
        if isinstance(fd, int) and fd < 0:
            return False
        return super()._remove_reader(fd, **kwargs)  # type: ignore[misc]

    def _checked(
        self, method: Callable[..., Any], fd: Any, callback: Callable[..., Any], args: tuple[Any, ...]
    ) -> None:
        selector: Any = self.selector
        trusting = getattr(selector, "trusting", False)
        if not trusting:
            method(fd, callback, *args)
            return
        selector.trusting = False
        try:
            method(fd, callback, *args)
        finally:
            selector.trusting = trusting


def _read_less(transport: Any) -> Any:
    if transport.max_size > _MAX_SIZE:  # otherwise the program has chosen the size
        transport.max_size = _MAX_SIZE
    return transport


def new_event_loop() -> IoUringEventLoop:
    """Make a loop: the loop_factory for asyncio.run() and asyncio.Runner().

    Returns: a new loop, not set as the current one.
    """
    return IoUringEventLoop()


def run(main: Coroutine[Any, Any, T], *, debug: bool | None = None) -> T:
    """Do what asyncio.run() does, on io_uring.

    Args: main is a coroutine; debug as for asyncio.run().
    Returns: the result of the coroutine.
    Raises: the exception of the coroutine; RuntimeError inside a running loop.
    """
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("rawuring.aio.run() cannot be called from a running event loop")
    if sys.version_info >= (3, 11):
        with _Runner(debug=debug, loop_factory=new_event_loop) as runner:
            return runner.run(main)
    return _run_before_311(main, debug)


# Looked up at import: a program may replace asyncio.run by run().
if sys.version_info >= (3, 11):
    _Runner = asyncio.Runner


def _run_before_311(main: Coroutine[Any, Any, T], debug: bool | None) -> T:
    """Do what asyncio.run() of 3.9 and 3.10 does, which asks the policy for its loop.

    A policy belongs to the whole process: another one must not be set while another thread may read it.
    """
    if not asyncio.iscoroutine(main):
        raise ValueError(f"a coroutine was expected, got {main!r}")
    loop = new_event_loop()
    try:
        asyncio.set_event_loop(loop)  # of this thread
        if debug is not None:
            loop.set_debug(debug)
        return loop.run_until_complete(main)
    finally:
        try:
            _cancel_all_tasks(loop)
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            asyncio.set_event_loop(None)
            loop.close()


def _cancel_all_tasks(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    for task in tasks:
        if not task.cancelled() and task.exception() is not None:
            loop.call_exception_handler({
                "message": "unhandled exception during rawuring.aio.run() shutdown",
                "exception": task.exception(),
                "task": task,
            })  # fmt: skip


def event_loop_policy() -> Any:
    """Make a policy whose loops run on io_uring, for programs that ask asyncio for their loop.

    Returns: an asyncio.DefaultEventLoopPolicy. Python 3.14 deprecates policies: use new_event_loop().
    """

    return _policy_class()()


@functools.cache  # a class for each call would be a cycle for each call
def _policy_class() -> Any:
    class IoUringEventLoopPolicy(asyncio.DefaultEventLoopPolicy):
        _loop_factory = IoUringEventLoop

    return IoUringEventLoopPolicy


def install() -> None:
    """Let every loop that this process makes from now on run on io_uring.

    It replaces selectors.DefaultSelector, and up to Python 3.13 (3.14 deprecates policies) sets the policy.
    """
    selectors.DefaultSelector = IoUringSelector  # type: ignore[misc, assignment]
    if sys.version_info < (3, 14):
        asyncio.set_event_loop_policy(event_loop_policy())


# ------------------------------------------------------------------------------------------------------
# python -m rawuring.aio


def main(arguments: list[str] | None = None) -> int:
    """Run the command.

    Args: arguments without the program's name; by default those of the process.
    Returns: the exit code, 0 unless the script exits with another.
    """
    import argparse
    import runpy

    parser = argparse.ArgumentParser(
        prog="python -m rawuring.aio",
        description="Run an asyncio program on io_uring. Without a program, say what would be used.",
    )
    parser.add_argument("-m", dest="module", action="store_true", help="PROGRAM is a module, not a file")
    parser.add_argument("-v", "--verbose", action="store_true", help="say what is used, on stderr")
    parser.add_argument("program", nargs="?", metavar="PROGRAM", help="a file; with -m, a module")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGUMENTS", help="for PROGRAM")
    options = parser.parse_args(arguments)
    if options.program is None or options.verbose:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # the fallback's: the line says the same
            selector = IoUringSelector()
        with selector:
            line = f"asyncio on {selector.backend}: {selector.reason}"
        print(line, file=sys.stderr if options.program else sys.stdout)
    if options.program is None:
        return 0
    install()
    _find(parser, options)
    sys.argv = [options.program, *options.arguments]
    if options.module:
        # As python -m does it: the module's own folder is not put on the path.
        runpy.run_module(options.program, run_name="__main__", alter_sys=True)
        return 0
    import os

    sys.path[0] = os.path.dirname(os.path.abspath(options.program))
    runpy.run_path(options.program, run_name="__main__")
    return 0


def _find(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Reject a program that does not exist: runpy would do so with a traceback that seems to be ours."""
    import importlib.util
    import os

    if not options.module:
        if not os.path.exists(options.program):
            parser.error(f"there is no file {options.program!r}; -m runs a module")
        return
    try:
        found = importlib.util.find_spec(options.program)
    except ModuleNotFoundError as error:
        if not f"{options.program}.".startswith(f"{error.name}."):
            raise  # a module that a package above it imports
        found = None
    if found is None:
        parser.error(f"there is no module {options.program!r}")


if __name__ == "__main__":
    # A program's output and exceptions are its own.
    command.run(main) if len(sys.argv) == 1 else sys.exit(main())
