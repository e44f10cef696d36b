# SPDX-License-Identifier: MIT
# pyright: basic
"""Batches of files for programs without asyncio: ``from rawuring.files import sync``.

What it is: the names of files.py as plain functions and iterators, on a private ring, or in threads if
io_uring is unavailable.
Mirrors: files.py, name by name.
Must not know: asyncio.
Invariant: a batch owns its ring, and closes it before it ends, whatever ended it.
Read next: files.py.

A single file is read and written with plain calls: nothing is faster. Each batch makes a ring, which takes
some 0.2 ms and pays off from about ten uncached files on.
"""

from __future__ import annotations

import errno
import os
from contextlib import closing
from functools import partial
from itertools import islice
from queue import SimpleQueue
from time import perf_counter

from . import filebatch, fileops, ops
from .buffers import allocate, pin
from .filebatch import Entry, Many, check_depth
from .fileops import Op, error_of
from .inflight import InFlight
from .queues import SubmissionQueueFull
from .rings import RECOMMENDED, Ring
from .syscalls import Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from typing import Any

    from .fileops import StrOrBytesPath

__all__ = [
    "Entry", "allocate", "copy_file", "copy_tree", "read_bytes", "read_each", "read_many", "read_many_into",
    "read_text", "remove_tree", "stat_each", "stat_many", "walk", "write_bytes", "write_text",
]  # fmt: skip

#: How long a batch runs between two checks for completions.
_LOOK_S = 0.0005


class Engine(filebatch.Engine):
    """The engine of one thread, on a private ring or in threads."""

    def __init__(self, entries: int) -> None:
        """Start nothing yet; the first request makes the ring.

        Args: entries is the usual number of operations in flight.
        """
        self._entries = entries
        self._ring: Ring | None = None
        # Whether io_uring is unavailable.
        self._refused = False
        self._answers: Any = SimpleQueue()
        # The number of plain calls under way, and the call that no thread has, if it is the only one.
        self._jobs = 0
        self._own: Any = None
        self.unknown = set()

    def request(
        self, prep: Any, arguments: tuple[Any, ...], handler: Callable[[int, int], object],
        options: dict[str, Any] = fileops._NO_OPTIONS,
    ) -> Any:  # fmt: skip
        """Start a request, whose handler wait() calls."""
        ring = None if prep in self.unknown else self._ring or self._make_ring()
        if ring is None:
            return None
        try:
            return self._table.start(prep, *arguments, handler=handler, **options)
        except SubmissionQueueFull:
            ring.submit()
            return self._table.start(prep, *arguments, handler=handler, **options)

    def _make_ring(self) -> Ring | None:
        if not self._refused:
            try:
                self._ring = Ring(min(max(8, self._entries), 4096), wish=RECOMMENDED, min_entries=8)
                self._ring.owned = True
                self._table = InFlight(self._ring)
            except (Unavailable, ImportError):
                self._refused = True
        return self._ring

    def start_thread(self, op: Op, done: Callable[[Any, BaseException | None], object]) -> Op:
        """Make the plain call in a thread; return a handle.

        If it is the only call, and must not overlap with a request, wait() makes it, which is faster.
        """
        self._jobs += 1
        if self._jobs == 1 and op.prep is None and not op.alone:
            self._own = op, done
        else:
            self._give_own()
            self._put(op, done)
        return op

    def _put(self, op: Op, done: Any) -> None:
        job = partial(_run, op.plain, done, self._answers)
        if op.alone:
            fileops.start_thread(job)
        else:
            fileops.threads().put(job)

    def _give_own(self) -> None:
        own, self._own = self._own, None
        if own is not None:
            self._put(*own)

    def cancel(self, handle: Any) -> None:
        """Cancel an operation, which still ends with done(); a call that a thread has begun is waited for."""
        if isinstance(handle, Op):
            if self._own is not None and self._own[0] is handle:
                (_, done), self._own = self._own, None
                self._answers.put((done, None, error_of(errno.ECANCELED)))
            elif handle.stop is not None:
                handle.stop()
        elif handle is not None and self._ring is not None and handle in self._table:
            try:
                self._table.cancel(handle)
            except SubmissionQueueFull:
                self._ring.submit()
                self._table.cancel(handle)

    def wait(self) -> None:
        """Wait until at least one operation has ended, and call its done()."""
        ring = self._ring
        if ring is not None and self._table.entries:
            self._give_own()
            # Threads do not wake a ring: if both are at work, they are polled alternately.
            ring.submit_and_wait(1, 1_000_000 if self._jobs else None)
            self._table.reap()
            self._table.dispatch()
        elif self._jobs:
            if self._own is not None:
                op, done = self._own
                _run(op.plain, done, self._answers)
                self._own = None  # only after it has ended: a signal handler may raise until then
            self._take(self._answers.get())
        while self._jobs and not self._answers.empty():
            self._take(self._answers.get())

    def _take(self, answer: Any) -> None:
        self._jobs -= 1
        done, result, error = answer
        done(result, error)

    def poll(self) -> None:
        """Submit the queued requests, and call done() of those that have completed."""
        if self._ring is not None and self._table.entries:
            self._ring.submit_and_wait(0)
            self._table.reap()
            self._table.dispatch()

    def close(self) -> None:
        """Close the ring."""
        if self._ring is not None:
            self._ring.close()


def _run(call: Callable[[], Any], done: Any, answers: Any) -> None:
    try:
        result = call()
    except BaseException as error:
        answers.put((done, None, error))
    else:
        answers.put((done, result, None))


def _results(
    begin: Callable[[Engine], Many], depth: int
) -> Generator[tuple[Any, Any, BaseException | None], None, None]:
    """Yield (key, result, exception) as procedures end; begin makes the batch."""
    engine = Engine(check_depth(depth))
    many = begin(engine)
    try:
        while True:
            more = many.fill(perf_counter() + _LOOK_S)  # whether there may be more to start
            if more and many.running:
                engine.poll()
            if many.done:
                while many.done:
                    yield many.done.popleft()
                    if many.running:
                        break  # keep the depth filled
            elif many.finished:
                return
            elif many.running and not more:
                engine.wait()
    finally:
        try:
            many.stop()
            while many.running:
                engine.wait()
        finally:
            engine.close()


def _plainly(work: filebatch.Work) -> Any:
    """Run one procedure with plain calls."""
    result: Any = None
    error: BaseException | None = None
    while True:
        try:
            op = work.send(result) if error is None else work.throw(error)
        except StopIteration as stop:
            return stop.value
        result = error = None
        try:
            result = op.plain()
        except BaseException as failed:
            error = failed


# ------------------------------------------------------------------------------------------------------
# One file


def read_bytes(path: StrOrBytesPath) -> bytes:
    """Read a whole file."""
    with open(os.fspath(path), "rb", buffering=0) as file:
        return file.read()


def read_text(path: StrOrBytesPath, encoding: str | None = None, errors: str | None = None) -> str:
    """Read a whole file as text: pathlib's read_text()."""
    with open(os.fspath(path), encoding=encoding, errors=errors) as file:
        return file.read()


def write_bytes(path: StrOrBytesPath, data: Any, *, atomic: bool = False, sync: bool = False) -> int:
    """Write a whole file: see files.write_bytes()."""
    return int(_plainly(filebatch.write_file(path, data, atomic, sync)))


def write_text(
    path: StrOrBytesPath, data: str, encoding: str | None = None, errors: str | None = None, *,
    atomic: bool = False, sync: bool = False,
) -> int:  # fmt: skip
    """Write a whole file of text: see files.write_text()."""
    _plainly(filebatch.write_file(path, fileops.encode_text(data, encoding, errors), atomic, sync))
    return len(data)


def copy_file(
    src: StrOrBytesPath, dst: StrOrBytesPath, *, metadata: bool = True,
    progress: Callable[[int, int], object] | None = None,
) -> int:  # fmt: skip
    """Copy a file: see files.copy_file()."""
    return int(_plainly(filebatch.copy_file(src, dst, metadata, progress)))


# ------------------------------------------------------------------------------------------------------
# Many


def read_each(
    items: Iterable[Any], *, depth: int = 64, return_exceptions: bool = False
) -> Iterator[tuple[Any, Any]]:
    """Read files and ranges, and yield (item, data) in the order of completion: see files.read_each()."""
    check_depth(depth)
    pairs = ((item, item) for item in items)
    begin = partial(Many, make=filebatch.reader(), work=pairs, depth=depth)
    return _each(begin, depth, return_exceptions)


def _each(
    begin: Callable[[Engine], Many], depth: int, return_exceptions: bool
) -> Iterator[tuple[Any, Any]]:
    with closing(_results(begin, depth)) as running:  # PyPy would close it at some later time
        for key, result, error in running:
            if error is not None and not return_exceptions:
                raise error
            yield key, (result if error is None else error)


def _all(begin: Callable[[Engine], Many], count: int, depth: int, return_exceptions: bool) -> list[Any]:
    """Return the results in the order of their keys, which are numbers."""
    results: list[Any] = [None] * count
    for at, result in _each(begin, depth, return_exceptions):
        results[at] = result
    return results


def read_many(items: Iterable[Any], *, depth: int = 64, return_exceptions: bool = False) -> list[Any]:
    """Read files and ranges, and return their data in the order of the items: see files.read_many()."""
    given = list(items)
    begin = partial(Many, make=filebatch.reader(), work=enumerate(given), depth=depth)
    return _all(begin, len(given), depth, return_exceptions)


def read_many_into(
    fd: int, ranges: Iterable[tuple[int, Any]], *, depth: int = 64, direct: bool = False
) -> list[int]:
    """Read ranges of one file into memory: see files.read_many_into()."""
    pairs = list(ranges)
    counts = [-1] * len(pairs)
    depth = check_depth(depth)
    with filebatch.into_all(fd, pairs, direct) as (make, own):
        if own is not None and pairs:
            _fill_in_blocks(own, pairs, depth, counts)
        left = [at for at, count in enumerate(counts) if count < 0]
        begin = partial(Many, make=make, work=enumerate([pairs[at] for at in left]), depth=depth)
        for at, count in zip(left, _all(begin, len(left), depth, False)):
            counts[at] = count
    return counts


def _fill_in_blocks(fd: int, pairs: list[tuple[int, Any]], depth: int, counts: list[int]) -> None:
    """Read with a block of requests per turn, which takes less time than a procedure for each.

    Args: fd is open with O_DIRECT; counts receives the results, negative numbers for requests that failed,
        after which no others are started.
    """
    try:
        ring = Ring(min(max(8, depth), 4096), wish=RECOMMENDED, min_entries=8)
    except (Unavailable, ImportError):
        return
    with ring:
        table = InFlight(ring)
        block = ops.Block(min(depth, ring.sq.ring_entries), ops.prep_read, fd, 0, 0, 0)
        left = iter(range(len(pairs)))
        in_flight = 0

        def done(part: list[int], places: list[int], res: list[int], _flags: list[int]) -> None:
            nonlocal in_flight, left
            in_flight -= len(places)
            for place, count in zip(places, res):
                counts[part[place]] = count
            if min(res) < 0:
                left = iter(())

        while True:
            pins = [(at, pin(pairs[at][1], True)) for at in islice(left, block.count - in_flight)]
            pins = [each for each in pins if each[1].nbytes <= filebatch.REQUEST_MAX]
            if pins:
                part, memory = map(list, zip(*pins))
                block.set("addr", [each.address for each in memory])
                block.set("len", [each.nbytes for each in memory])
                block.set("off", [pairs[at][0] for at in part])
                table.start_block(block, partial(done, part), memory, len(part))
                in_flight += len(part)
            elif not in_flight:
                return
            # A turn for a quarter of them, during which the device has the other three.
            ring.submit_and_wait(max(1, in_flight // 4))
            table.reap()
            table.dispatch()


def stat_each(
    paths: Iterable[StrOrBytesPath], *, follow_symlinks: bool = True, depth: int = 64,
    return_exceptions: bool = False,
) -> Iterator[tuple[Any, Any]]:  # fmt: skip
    """Stat files, and yield (path, stat) in the order of completion."""
    check_depth(depth)
    pairs = ((path, path) for path in paths)
    begin = partial(filebatch.stat_pieces, pairs, follow_symlinks, depth, depth)
    return _each(begin, depth, return_exceptions)


def stat_many(
    paths: Iterable[StrOrBytesPath], *, follow_symlinks: bool = True, depth: int = 64,
    return_exceptions: bool = False,
) -> list[Any]:  # fmt: skip
    """Return the status of files, in the order of the paths: see files.stat_many()."""
    given = list(paths)
    begin = partial(filebatch.stat_all, given, follow_symlinks, depth)
    return _all(begin, len(given), depth, return_exceptions)


def walk(
    top: StrOrBytesPath, *, onerror: Callable[[OSError], object] | None = None
) -> Iterator[tuple[Any, list[Entry]]]:
    """Yield (directory, entries) for a directory and each below it: see files.walk()."""
    top = os.fspath(top)
    waiting = [top]
    while waiting:
        directory = waiting.pop()
        if directory is not top and os.path.islink(directory):  # a directory was replaced by a link
            continue
        try:
            entries = filebatch.list_directory(directory)
        except OSError as error:
            if onerror is not None:
                onerror(error)
            continue
        yield directory, entries
        waiting.extend(each.path for each in reversed(entries) if each.is_dir())


def copy_tree(
    src: StrOrBytesPath, dst: StrOrBytesPath, *, symlinks: bool = False, ignore: Any = None,
    dirs_exist_ok: bool = False, depth: int = 8, progress: Callable[[int], object] | None = None,
) -> Any:  # fmt: skip
    """Copy a directory and its contents: see files.copy_tree()."""
    options = filebatch.copy_options(symlinks, ignore, dirs_exist_ok)
    count = 0
    begin = partial(filebatch.copy_pieces, src, dst, options, depth)
    with closing(_results(begin, depth)) as running:
        for _, result, error in running:
            if error is not None:
                raise error
            count += result
            if progress is not None and result:
                progress(count)
    _plainly(filebatch.end_copy_tree(options))
    return dst


def remove_tree(
    path: StrOrBytesPath, *, ignore_errors: bool = False, progress: Callable[[int], object] | None = None
) -> int:
    """Remove a directory and its contents: see files.remove_tree()."""
    return int(_plainly(filebatch.remove_tree(path, ignore_errors, progress)))
