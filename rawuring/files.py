# SPDX-License-Identifier: MIT
# pyright: basic
"""Files for asyncio programs, without threads: on any event loop, ``from rawuring import files``.

What it is: the functions of os as coroutines, whole files and batches of them; ``files.sync`` has the same
for programs without asyncio.
Mirrors: os, by name, argument order and exception; pathlib's read_bytes, shutil's copy_file and copy_tree.
Must not know: rings; asyncring provides them.
Invariant: three layers are tried in order: the kernel's caches, which answer at once; the loop's ring; a
thread. All three produce the same result and the same exception.
Read next: fileobjects.py.

Benefits and limits: the loop is not blocked, many cold files are read concurrently, and no shared thread
pool fills up. Cached data are not read faster than by plain blocking calls.

* An answer from the caches does not suspend the task. After BUDGET_S of such answers in one turn of the loop
  the tasks that make a call wait for one of the next turns, so that timers and sockets are served.
* A cancelled task leaves at once if nothing can be lost. Otherwise the request is cancelled first: a
  descriptor that arrives nevertheless is closed, and memory stays alive until the kernel no longer uses it.
* ``files.backend`` is "io_uring" or "threads": the layer behind the caches. ``files.reason`` is the reason
  why no ring is used.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os as stdlib_os  # importers find the functions of aiofiles.os as files.os
import stat as stat_module
import threading
import types
import weakref
from collections import deque
from functools import partial
from operator import index
from time import perf_counter

from . import asyncring, filebatch, fileops, filesync as sync
from .buffers import allocate
from .filebatch import Entry, Many, check_depth
from .fileops import INLINE_MAX, UNKNOWN, Op, as_views, check_range, error_of, open_now, read_now, write_now
from .syscalls import Unavailable, Uncopyable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Iterable, Sequence
    from typing import Any

    from .fileops import StrOrBytesPath

__all__ = [
    "Entry", "access", "allocate", "call", "close_fd", "copy_file", "copy_tree", "fallocate", "fsync",
    "ftruncate", "getxattr", "link", "listdir", "lstat", "makedirs", "mkdir", "open_fd", "pread",
    "preadv_into", "pwrite", "pwritev", "read", "read_bytes", "read_each", "read_many",
    "read_many_into", "read_text", "readinto", "readinto_at", "readlink", "remove_tree", "rename",
    "replace", "rmdir", "setxattr", "stat", "stat_each", "stat_many", "symlink", "sync", "unlink",
    "walk", "write", "write_bytes", "write_text",
]  # fmt: skip

#: Time per turn of a loop in which the caches answer; after it a task has to wait for another turn.
BUDGET_S = 0.0002
#: How long a file that the kernel is fetching is polled: about the cost of a request, including the sleep.
FETCH_S = 0.0001
#: After a thread that read a group of files had to wait, each file gets its own thread for this long.
APART_S = 1.0
#: A group of this many files is started without waiting for more.
GROUP_MAX = 64


# ------------------------------------------------------------------------------------------------------
# Turns of the loop


class _Turn(threading.local):
    """The current turn of the loop that runs in this thread."""

    #: The time until which the caches may answer in this turn; 0 before a turn has begun.
    until = 0.0
    #: A weak reference to the _Turns of the loop.
    turns: Any = None
    #: A weak reference to the _Group that collects this turn's uncached files.
    group: Any = None


_turn = _Turn()


class _Turns(Uncopyable):
    """Consecutive turns of one loop, and the tasks that wait because a turn had no time left.

    The waiting tasks resume in order of arrival, some in each turn: after a turn with time for all of them
    twice as many, otherwise half as many. If every task resumed in every turn, resuming would take more time
    than answering, and the length of a turn would grow with the number of tasks.

    Only the loop's callback refers to this object, so that it does not keep the loop alive.
    """

    def __init__(self, loop: Any) -> None:
        self.loop = loop
        #: Whether a task has made a call in this turn.
        self.begun = False
        # Whether a task that found none waiting resumes in the loop's next turn; by a callback it would
        # resume one turn later.
        self._leads = False
        self._waiting: deque[Any] = deque()
        # The number of waiting tasks that resume in the next turn; whether one found this turn's time used
        # up.
        self._count = 1
        self._late = False
        # Returns the handle of the callback until the loop has called or lost it: a signal handler that
        # raises can make the loop lose it.
        self._to_come: Callable[[], Any] = asyncring._none

    def begin(self) -> None:
        """Start the time in which the caches may answer."""
        self.begun = True
        self._schedule()
        _turn.until = perf_counter() + BUDGET_S

    async def wait(self) -> None:
        """Wait for a turn with time left."""
        self._schedule()
        if self._leads or self._waiting:
            future = self.loop.create_future()
            self._waiting.append(future)
            count = await future
        else:
            self._leads = True
            count = 0
            await asyncring._suspend
        if not self.begun:
            self.begin()
        if perf_counter() <= _turn.until:
            self._count = max(self._count, 2 * count)
        elif not self._late:
            self._late = True
            self._count = max(1, self._count // 2)

    def _schedule(self) -> None:
        if self._to_come() is None:
            self._to_come = asyncring._reference(self.loop.call_soon(self._end))

    def _end(self) -> None:
        """End a turn, at the beginning of the loop's next one."""
        self._to_come = asyncring._none
        _turn.until = 0.0
        self.begun = self._leads = self._late = False
        waiting = self._waiting
        if not waiting:
            return
        try:
            self._schedule()
            count = min(self._count, len(waiting))
            for at in range(1, count + 1):
                if not waiting[0].done():
                    waiting[0].set_result(count if at == count else 0)  # the last one checks the time
                del waiting[0]
        except BaseException:  # a signal handler has raised
            self._schedule()
            raise


async def _breathe() -> None:
    """Begin a turn, or let other tasks run if this turn has used its budget."""
    loop = asyncio.get_running_loop()
    turns = None if _turn.turns is None else _turn.turns()
    if turns is None or turns.loop is not loop:
        turns = _Turns(loop)
        _turn.turns = weakref.ref(turns)
    if turns.begun:
        await turns.wait()
    else:
        turns.begin()


# ------------------------------------------------------------------------------------------------------
# Ring and threads

#: How long a refusal of io_uring is remembered: its cause may be a temporary one, such as EMFILE.
_REFUSAL_S = 5.0
_refusal: list[Any] = [0.0, ""]


def _ring() -> Any:
    """Return the AsyncRing of the running loop, or None if io_uring is unavailable."""
    if _refusal[0] and perf_counter() < _refusal[0]:
        return None
    try:
        return asyncring.running()
    except (Unavailable, ImportError) as error:
        _refusal[:] = [perf_counter() + _REFUSAL_S, str(error)]
        return None


def _why_no_ring() -> str:
    """Return the reason why there is no ring; empty if there is one."""
    return _refusal[1] if _refusal[0] and perf_counter() < _refusal[0] else asyncring.reason()


#: The modules that import this one; each is imported on first use.
_ELSEWHERE = {
    **dict.fromkeys(
        ("AsyncFile", "BufferedFile", "File", "RawFile", "TextFile", "WrappedFile", "open", "open_file",
         "stderr", "stderr_bytes", "stdin", "stdin_bytes", "stdout", "stdout_bytes", "wrap", "wrap_file"),
        "fileobjects",
    ),
    **dict.fromkeys(
        ("Path", "base", "install_as_aiofiles", "os", "ospath", "tempfile", "threadpool"), "filepath"
    ),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Return backend or reason, or import a name of a higher module."""
    if name == "backend":
        return "threads" if _why_no_ring() else "io_uring"
    if name == "reason":
        return _why_no_ring()
    if name in _ELSEWHERE:
        from importlib import import_module

        return getattr(import_module(f".{_ELSEWHERE[name]}", __package__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _Post(Uncopyable):
    """Jobs that threads have completed for one loop: one call_soon_threadsafe() serves many."""

    def __init__(self) -> None:
        self.done: deque[Any] = deque()
        self.wanted = False

    def put(self, job: _Job) -> None:
        self.done.append(job)
        if not self.wanted:
            self.wanted = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: no task waits
                job.loop.call_soon_threadsafe(self.deliver)

    def deliver(self) -> None:
        self.wanted = False
        done = self.done
        try:
            while done:
                done.popleft().settle()
        finally:
            if done:  # a signal handler has raised
                done[0].loop.call_soon(self.deliver)


#: Weak values: the jobs keep their post alive. A strong reference here would keep a loop alive that was
#: closed with jobs under way, and with it its tasks and their files.
_posts: weakref.WeakKeyDictionary[Any, weakref.ref[_Post]] = weakref.WeakKeyDictionary()


class _Job(Uncopyable):
    """One call in a thread, and the callback that waits for it."""

    __slots__ = (
        "_begin", "_undo", "abandoned", "call", "done", "ended", "error", "loop", "post", "result", "stop",
        "withdrawn",
    )  # fmt: skip

    def __init__(self, op: Op, done: Callable[[Any, BaseException | None], object]) -> None:
        self.call = op.plain
        self.stop = op.stop
        #: Called in the loop with the result and the exception, unless the job was abandoned.
        self.done = done
        # One-element lists, so that exactly one thread pops the right to begin and the duty to undo.
        self._begin = [True]
        self._undo = [] if op.undo is None else [op.undo]
        self.loop = loop = asyncio.get_running_loop()
        self.result: Any = None
        self.error: BaseException | None = None
        #: Whether the call has returned.
        self.ended = False
        #: Whether the waiter has gone, and whether it has kept the threads from making the call.
        self.abandoned = self.withdrawn = False
        known = _posts.get(loop)
        post = None if known is None else known()
        if post is None:
            post = _Post()
            _posts[loop] = weakref.ref(post)
        self.post = post

    def start(self, alone: bool) -> None:
        """Start the job in a thread."""
        if alone:
            fileops.start_thread(self.run)
        else:
            fileops.threads().put(self.run)

    def run(self) -> None:
        """Make the call, in a thread."""
        # After the loop was closed the descriptor may belong to another file.
        if self.loop.is_closed() or not self._takes_begin():
            return
        try:
            self.result = self.call()
        except BaseException as error:
            self.error = error
            self._undo.clear()
        # The order matters, here and in abandon(): at least one of the two threads sees both flags.
        self.ended = True
        if self.abandoned:
            self._revoke()
        else:
            self.post.put(self)

    def settle(self) -> None:
        """Deliver the result, in the loop's thread."""
        if not self.abandoned:
            self.done(self.result, self.error)

    def withdraw(self) -> bool:
        """Prevent the call if no thread has begun it; return whether none will."""
        if self._takes_begin():
            self.abandoned = self.withdrawn = True  # ended stays False: there is nothing to undo
        return self.withdrawn

    def abandon(self) -> None:
        """Undo the result, now or once the call returns."""
        self.abandoned = True
        if self.ended:
            self._revoke()
        else:
            self.hurry()

    def hurry(self) -> None:
        """Make a call that might wait forever return."""
        if self.stop is not None and not self.withdraw():
            fileops.start_thread(self.stop)

    def _takes_begin(self) -> bool:
        try:
            return self._begin.pop()
        except IndexError:
            return False

    def _revoke(self) -> None:
        try:
            undo = self._undo.pop()
        except IndexError:  # there is nothing to undo, or the other thread was first
            return
        undo(self.result)


async def _in_thread(op: Op) -> Any:
    """Make the plain call in a thread.

    A cancelled task leaves at once if no thread has begun the call, or if the call may wait forever.
    Otherwise it waits: a call that continued after its caller has left could write to a descriptor that has
    been closed and reused.
    """
    future = asyncio.get_running_loop().create_future()
    job = _Job(op, partial(_settle, future))
    job.start(op.alone)
    cancelled: BaseException | None = None
    while True:
        try:
            result = await (asyncio.shield(future) if cancelled is None else asyncio.wait((future,)))
        except asyncio.CancelledError as error:
            cancelled = error
            if not op.alone and not job.withdraw() and not future.done():
                continue
            job.abandon()
            raise
        except GeneratorExit:
            job.withdraw()
            job.abandon()
            raise
        if cancelled is None:
            return result
        job.abandon()
        if not future.cancelled():
            future.exception()  # avoids the "exception was never retrieved" message
        raise cancelled


def _settle(future: Any, result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


async def _do(op: Op) -> Any:
    """Run an operation that the caches could not answer: on the ring, or in a thread."""
    prep = op.prep
    if prep is None or prep in _unknown:
        return await _in_thread(op)
    ring = _ring()
    if ring is None:
        return await _in_thread(op)
    try:
        res = await ring.call(prep, *op.arguments, late=op.undo, **op.options)
    except OSError as error:
        code = error.errno or 0
        if code not in UNKNOWN:
            raise op.error(code) from None
    else:
        return op.result(res)
    # Either this kernel lacks the operation, or the arguments are invalid: the plain call tells which.
    result = await _in_thread(op)
    _unknown.add(prep)
    return result


#: The prep functions of operations that this kernel lacks.
_unknown: set[Any] = set()


# ------------------------------------------------------------------------------------------------------
# Descriptors: reading and writing

#: Buffers that pread() has used, at most one per thread that reads: new memory would have to be zeroed.
_spare: list[memoryview] = []


async def pread(fd: int, n: int, offset: int) -> bytes:
    """Read up to n bytes at an offset: os.pread().

    Returns: fewer than n bytes only at the end of the file.
    """
    if perf_counter() > _turn.until:
        await _breathe()
    if n.__class__ is not int or offset.__class__ is not int or n <= 0 or offset < 0:
        check_range(n, offset)
        n, offset = index(n), index(offset)
        if not n and fileops.LINUX:
            return stdlib_os.pread(fd, n, offset)  # rejects a directory, which preadv() of 0 bytes does not
    got, memory = None, None
    if n <= INLINE_MAX:
        try:
            memory = _spare.pop()
        except IndexError:
            memory = None
        if memory is None or len(memory) != n:
            memory = memoryview(bytearray(n))
        got = read_now(fd, (memory,), offset, n)
        if got == n:
            data = memory.tobytes()
            _spare.append(memory)
            return data
    return await _pread_rest(fd, n, offset, memory, got or 0)


async def _pread_rest(fd: int, n: int, offset: int, memory: memoryview | None, got: int) -> bytes:
    if got and memory is not None and fileops.at_end(fd, offset + got):
        return bytes(memory[:got])
    n = min(n, fileops.MAX_RW_COUNT)
    whole = memory if got and memory is not None else memoryview(fileops.room(n))
    res = await _do(fileops.read_op(fd, [whole[got:n]], offset + got))
    return bytes(whole[: got + res])


async def preadv_into(fd: int, buffers: Sequence[Any], offset: int) -> int:
    """Read into buffers, one after the other, at an offset: os.preadv().

    Returns: the number of bytes, less than the buffers' total length only at the end of the file.
    """
    if perf_counter() > _turn.until:
        await _breathe()
    check_range(0, offset)
    offset = index(offset)
    views = as_views(buffers)
    want = sum(map(len, views))
    got = None
    if want <= INLINE_MAX:
        got = read_now(fd, buffers, offset, want)
        if got is not None and (got == want or fileops.at_end(fd, offset + got)):
            return got
    got = got or 0
    res: int = await _do(fileops.read_op(fd, as_views(views, got), offset + got))
    return got + res


async def readinto_at(fd: int, buffer: Any, offset: int) -> int:
    """Read into one buffer at an offset.

    Returns: the number of bytes, less than the buffer's length only at the end of the file.
    """
    return await preadv_into(fd, (buffer,), offset)


async def pwrite(fd: int, data: Any, offset: int) -> int:
    """Write at an offset: os.pwrite().

    Returns: the number of bytes written; on a regular file all of them unless the device is full.
    """
    return await pwritev(fd, (data,), offset)


async def pwritev(fd: int, buffers: Sequence[Any], offset: int) -> int:
    """Write buffers, one after the other, at an offset: os.pwritev().

    Returns: the number of bytes written.
    """
    if perf_counter() > _turn.until:
        await _breathe()
    check_range(0, offset)
    offset = index(offset)
    views = as_views(buffers, 0, "pwritev")
    want = sum(map(len, views))
    got = (write_now(fd, views, offset) if want <= INLINE_MAX and views else None) or 0
    if got == want and views:
        return got
    rest = as_views(views, got) or [memoryview(b"")]
    return got + int(await _do(fileops.write_op(fd, rest, offset + got)))


async def read(fd: int, n: int) -> bytes:
    """Read up to n bytes at a file's position, or from a pipe, a socket or a terminal: os.read()."""
    if index(n) < 0:
        raise error_of(errno.EINVAL)
    memory = fileops.room(min(n, fileops.MAX_RW_COUNT))
    got = await readinto(fd, memory)
    return bytes(memoryview(memory)[:got])


async def readinto(fd: int, buffer: Any) -> int:
    """Read into a buffer at a file's position, or from a pipe, a socket or a terminal.

    A task that waits for a pipe can be cancelled, and then consumes nothing.

    Returns: the number of bytes; 0 at the end.
    """
    if perf_counter() > _turn.until:
        await _breathe()
    view = fileops.as_view(buffer)
    want = len(view)
    if want <= INLINE_MAX or not _is_regular(fd):
        got = read_now(fd, (view,), -1, want)
        if got is not None:
            return got
    while not _is_regular(fd):
        if not await _ready(fd, False):
            break
        got = read_now(fd, (view,), -1, want)
        if got is not None:
            return got
        if fileops.is_ready(fd, False):  # it lacks RWF_NOWAIT
            return fileops.plain_read(fd, [view], -1)
    return int(await _do(fileops.read_op(fd, [view], -1)))


async def write(fd: int, data: Any) -> int:
    """Write at a file's position, or to a pipe, a socket or a terminal: os.write().

    Returns: the number of bytes written, which may be less than the data when a pipe is full.
    """
    if perf_counter() > _turn.until:
        await _breathe()
    view = fileops.as_view(data)
    if len(view) <= INLINE_MAX or not _is_regular(fd):
        got = write_now(fd, (view,), -1)
        if got is not None:
            return got
    while not _is_regular(fd):
        if not await _ready(fd, True):
            break
        got = write_now(fd, (view,), -1)
        if got is not None:
            return got
        if fileops.is_ready(fd, True):
            return fileops.plain_write(fd, [view[: fileops.PIPE_BUF]], -1)
    here = stdlib_os.lseek(fd, 0, stdlib_os.SEEK_CUR) if _is_regular(fd) else -1
    put = int(await _do(fileops.write_op(fd, [view], -1)))
    if put < len(view) and here >= 0 and stdlib_os.lseek(fd, 0, stdlib_os.SEEK_CUR) == here:
        # A worker of the kernel writes the rest, and the position is not advanced if that fails.
        appends = fileops.status_flags(fd) & stdlib_os.O_APPEND
        offset, whence = (0, stdlib_os.SEEK_END) if appends else (here + put, stdlib_os.SEEK_SET)
        stdlib_os.lseek(fd, offset, whence)
    return put


def _is_regular(fd: int) -> bool:
    return stat_module.S_ISREG(stdlib_os.fstat(fd).st_mode)


async def _ready(fd: int, writing: bool) -> bool:
    """Wait until a pipe, a socket or a terminal can be read or written.

    Returns: False for a file that the loop cannot watch, such as /dev/zero, or that is not open for that.
    """
    if not fileops.is_open_for(fd, writing):
        return False
    loop = asyncio.get_running_loop()
    add, remove = ("add_writer", "remove_writer") if writing else ("add_reader", "remove_reader")
    future = loop.create_future()
    own = stdlib_os.dup(fd)  # the program may watch fd itself
    try:
        try:
            getattr(loop, add)(own, _wake, future)
        except (OSError, NotImplementedError):
            return False
        try:
            await future
        finally:
            getattr(loop, remove)(own)
    finally:
        stdlib_os.close(own)
    return True


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


# ------------------------------------------------------------------------------------------------------
# Descriptors: opening and closing


async def open_fd(path: StrOrBytesPath, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
    """Open a file: os.open().

    Opening a FIFO waits for its other end, and can be cancelled.

    Returns: a descriptor, not inheritable.
    """
    if perf_counter() > _turn.until:
        await _breathe()
    held: list[int] = []
    flags = index(flags)
    try:
        try:
            fd = open_now(path, flags, dir_fd) if mode.__class__ is int and 0 <= mode < 1 << 31 else None
        except fileops.WRONG:
            fd = None  # os.open() raises the right exception
        try:
            if fd is None:
                fd = await _do(fileops.open_op(path, flags, mode, dir_fd))
            fd = fileops.settle_open(fd, flags, held)
        except OSError as error:
            # A FIFO without a reader fails with ENXIO.
            if error.errno != errno.ENXIO or flags & stdlib_os.O_NONBLOCK:
                raise
            fd = None
        if fd is None:
            fd = int(await _in_thread(fileops.open_alone_op(path, flags, mode, dir_fd)))
        return fd
    finally:
        for each in held:
            stdlib_os.close(each)


@types.coroutine
def _finish(work: Any) -> Generator[Any, Any, Any]:
    """Run work to its end even if the task is cancelled; raise the cancellation afterwards.

    This is no separate task: asyncio.run() cancels all tasks at its end.
    """
    cancelled: BaseException | None = None
    try:
        while True:
            try:
                waits = work.send(None)
            except StopIteration as stop:
                if cancelled is not None:
                    raise cancelled from None
                return stop.value
            except Exception:
                if cancelled is not None:
                    raise cancelled from None
                raise
            if waits is not None:
                waits._asyncio_future_blocking = False  # this task does not wait for it
            while waits is None or not waits.done():
                try:
                    if waits is None:
                        yield
                        break
                    yield from asyncio.wait((waits,)).__await__()
                except asyncio.CancelledError as error:
                    cancelled = error
    finally:
        work.close()


async def close_fd(fd: int) -> None:
    """Close a descriptor: os.close().

    Descriptors of pipes, of regular files that were not written, and the like are closed at once. Others may
    have to wait for a server or a slow device; if the task is cancelled, they are closed in the background.
    """
    fd = index(fd)
    # Do not await before it is certain that the descriptor will be closed.
    if fd < 0 or fileops.closes_at_once(fd):
        stdlib_os.close(fd)
        return
    await _finish(_close(fd))


async def _close(fd: int) -> None:
    future = asyncio.get_running_loop().create_future()
    engine = _Engine()
    handle = engine.start(fileops.close_op(fd), partial(_close_ended, engine, fd, future))
    try:
        await future
    except GeneratorExit:  # the loop was closed, and no thread begins a job any more
        if isinstance(handle, _Job) and handle.withdraw():
            stdlib_os.close(fd)
        raise


def _close_ended(engine: _Engine, fd: int, future: Any, result: Any, error: Any) -> None:
    """Close a descriptor whose close request was never submitted because its loop was closed."""
    if error is not None and error.errno == errno.ECANCELED and not engine.lost:
        stdlib_os.close(fd)
        error = None
    _settle(future, None, error)


async def fsync(fd: Any, datasync: bool = False) -> None:
    """Flush written data to the device: os.fsync(), or os.fdatasync() with datasync."""
    await _do(fileops.fsync_op(fd, datasync))


async def fallocate(fd: Any, offset: int, length: int, *, mode: int = 0) -> None:
    """Reserve space on the device for a range of a file: os.posix_fallocate().

    Args: mode is a mask of FALLOC_FL_*, as for fallocate(2).
    Raises: OSError with EOPNOTSUPP for a nonzero mode where io_uring is unavailable.
    """
    await _do(fileops.fallocate_op(fd, offset, length, mode))


async def ftruncate(fd: Any, length: int) -> None:
    """Set the size of a file: os.ftruncate()."""
    await _do(fileops.ftruncate_op(fd, length))


async def stat(
    path: StrOrBytesPath | int, *, dir_fd: int | None = None, follow_symlinks: bool = True
) -> stdlib_os.stat_result:
    """Return the status of a file: os.stat()."""
    if perf_counter() > _turn.until:
        await _breathe()
    if isinstance(path, int):
        return stdlib_os.stat(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
    try:
        found = fileops.stat_now(path, dir_fd, follow_symlinks)
    except fileops.WRONG:
        found = None  # os.stat() raises the right exception
    if found is not None:
        return found
    result: stdlib_os.stat_result = await _do(fileops.stat_op(path, dir_fd, follow_symlinks))
    return result


async def lstat(path: StrOrBytesPath, *, dir_fd: int | None = None) -> stdlib_os.stat_result:
    """Return the status of a file, or of a link itself: os.lstat()."""
    if not isinstance(path, (str, bytes)) and not hasattr(path, "__fspath__"):
        return stdlib_os.lstat(path, dir_fd=dir_fd)
    return await stat(path, dir_fd=dir_fd, follow_symlinks=False)


async def rename(
    src: StrOrBytesPath, dst: StrOrBytesPath, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None
) -> None:
    """Rename a file: os.rename()."""
    await _do(fileops.rename_op(src, dst, src_dir_fd, dst_dir_fd, False))


async def replace(
    src: StrOrBytesPath, dst: StrOrBytesPath, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None
) -> None:
    """Rename a file, replacing an existing one on every platform: os.replace()."""
    await _do(fileops.rename_op(src, dst, src_dir_fd, dst_dir_fd, True))


async def unlink(path: StrOrBytesPath, *, dir_fd: int | None = None) -> None:
    """Remove a name: os.unlink()."""
    await _do(fileops.unlink_op(path, dir_fd))


async def rmdir(path: StrOrBytesPath, *, dir_fd: int | None = None) -> None:
    """Remove an empty directory: os.rmdir()."""
    await _do(fileops.rmdir_op(path, dir_fd))


async def mkdir(path: StrOrBytesPath, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
    """Make a directory: os.mkdir()."""
    await _do(fileops.mkdir_op(path, mode, dir_fd))


async def link(
    src: StrOrBytesPath, dst: StrOrBytesPath, *, src_dir_fd: int | None = None,
    dst_dir_fd: int | None = None, follow_symlinks: bool = True,
) -> None:  # fmt: skip
    """Make a hard link: os.link()."""
    await _do(fileops.link_op(src, dst, src_dir_fd, dst_dir_fd, follow_symlinks))


async def symlink(
    src: StrOrBytesPath, dst: StrOrBytesPath, target_is_directory: bool = False, *, dir_fd: int | None = None
) -> None:
    """Make a symbolic link: os.symlink()."""
    await _do(fileops.symlink_op(src, dst, target_is_directory, dir_fd))


async def readlink(path: StrOrBytesPath, *, dir_fd: int | None = None) -> Any:
    """Return the target of a symbolic link: os.readlink()."""
    return await call(stdlib_os.readlink, path, dir_fd=dir_fd)


async def getxattr(path: Any, attribute: StrOrBytesPath, *, follow_symlinks: bool = True) -> bytes:
    """Read an extended attribute of a path or a descriptor: os.getxattr()."""
    found: bytes = await call(stdlib_os.getxattr, path, attribute, follow_symlinks=follow_symlinks)
    return found


async def setxattr(
    path: Any, attribute: StrOrBytesPath, value: bytes, flags: int = 0, *, follow_symlinks: bool = True
) -> None:
    """Set an extended attribute of a path or a descriptor: os.setxattr()."""
    await call(stdlib_os.setxattr, path, attribute, value, flags, follow_symlinks=follow_symlinks)


async def listdir(path: Any = ".") -> list[Any]:
    """Return the names in a directory: os.listdir()."""
    names: list[Any] = await call(stdlib_os.listdir, path)
    return names


async def access(
    path: StrOrBytesPath, mode: int, *, dir_fd: int | None = None, effective_ids: bool = False,
    follow_symlinks: bool = True,
) -> bool:  # fmt: skip
    """Return whether a path may be accessed: os.access()."""
    options = {"dir_fd": dir_fd, "effective_ids": effective_ids, "follow_symlinks": follow_symlinks}
    allowed: bool = await call(stdlib_os.access, path, mode, **options)
    return allowed


async def makedirs(name: StrOrBytesPath, mode: int = 0o777, exist_ok: bool = False) -> None:
    """Make a directory and its parents: os.makedirs()."""
    await call(stdlib_os.makedirs, name, mode, exist_ok)


async def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call any blocking function in a thread of this module: asyncio.to_thread() without the shared pool.

    A cancelled task waits for the function if a thread has begun to call it.
    """
    return await _in_thread(Op(partial(function, *args, **kwargs)))


# ------------------------------------------------------------------------------------------------------
# Whole files


async def _drive(work: filebatch.Work) -> Any:
    """Run one procedure."""
    try:
        op = work.send(None)
        while True:
            try:
                result = await _do(op)
            except BaseException as error:
                op = work.throw(error)
            else:
                op = work.send(result)
    except StopIteration as stop:
        return stop.value
    finally:
        work.close()


async def read_bytes(path: StrOrBytesPath) -> bytes:
    """Read a whole file: pathlib's read_bytes().

    Files whose size is unknown, such as those of /proc, and files that grow or shrink meanwhile are read to
    their end.
    """
    if perf_counter() > _turn.until:
        await _breathe()
    found = filebatch.read_file_now(path)
    if found is None:
        found = await _grouped(path)
    if found.__class__ is not bytes:
        found = await _fetched(path, found)
    return found  # type: ignore[no-any-return]


class _Group(Uncopyable):
    """Uncached files that several tasks read in one turn: one thread reads them all."""

    def __init__(self, loop: Any) -> None:
        self.loop = loop
        self._seen = 1
        #: Each path, and the future of the task that waits for it.
        self.members: list[tuple[Any, Any]] = []

    def start(self) -> None:
        """Start one thread for all of them, or one for each if a thread had to wait long recently."""
        count = len(self.members)
        if self._seen < count < GROUP_MAX:
            # The budget of a turn suffices for some twenty names: the others arrive in the next turn.
            self._seen = count
            self.loop.call_soon(self.start)
            return
        _turn.group = None
        size = 1 if perf_counter() < _apart[0] else count
        for at in range(0, count, size):
            members = self.members[at : at + size]
            op = filebatch.read_group_op([path for path, _ in members])
            try:
                _Job(op, partial(self._end, members)).start(False)
            except Exception as error:
                self._end(members, None, error)

    def _end(self, members: Any, result: Any, error: BaseException | None) -> None:
        found, slow = ([error] * len(members), False) if error is not None else result
        if slow and len(members) >= 4:  # fewer files prove little
            _apart[0] = perf_counter() + APART_S
        for (_, future), each in zip(members, found):
            if future.done():
                if isinstance(each, filebatch.Opened):
                    each.close()
            elif isinstance(each, BaseException):
                future.set_exception(each)
            else:
                future.set_result(each)


#: The time until which files are not read in groups.
_apart = [0.0]


async def _grouped(path: StrOrBytesPath) -> Any:
    """Read an uncached file together with others; the result is as read_file_now()'s.

    A cancelled task leaves at once: the thread closes what it opens.
    """
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    group = None if _turn.group is None else _turn.group()
    if group is None or group.loop is not loop:
        group = _Group(loop)
        _turn.group = weakref.ref(group)  # the loop keeps it alive; a reference here would keep the loop
        loop.call_soon(group.start)
    group.members.append((path, future))
    return await future


async def _fetched(path: StrOrBytesPath, opened: filebatch.Opened) -> Any:
    """Read an open file: poll once per turn for as long as a request takes, then make a request."""
    try:
        until = perf_counter() + FETCH_S
        while opened.fetching:
            await asyncring._suspend
            if perf_counter() > _turn.until:
                await _breathe()
            data = opened.read_now()
            if data is not None:
                return data
            if perf_counter() > until:
                break
        return await _drive(filebatch.read_file(path, opened))
    finally:
        opened.close()


async def read_text(path: StrOrBytesPath, encoding: str | None = None, errors: str | None = None) -> str:
    """Read a whole file as text, with universal newlines: pathlib's read_text()."""
    return fileops.decode_text(await read_bytes(path), encoding, errors)


async def write_bytes(path: StrOrBytesPath, data: Any, *, atomic: bool = False, sync: bool = False) -> int:
    """Write a whole file: pathlib's write_bytes().

    Args: with atomic the file is written under a temporary name in the same directory, takes over the
        permissions of the old file, and is renamed: readers see either the old file or the new one; a device
        or a FIFO is written to as without atomic; with sync the data, and the new name, are on the device
        when the call returns.
    Returns: the number of bytes.
    """
    return int(await _drive(filebatch.write_file(path, data, atomic, sync)))


async def write_text(
    path: StrOrBytesPath, data: str, encoding: str | None = None, errors: str | None = None, *,
    atomic: bool = False, sync: bool = False,
) -> int:  # fmt: skip
    """Write a whole file of text: pathlib's write_text().

    Args: atomic and sync as for write_bytes().
    Returns: the number of characters.
    """
    await write_bytes(path, fileops.encode_text(data, encoding, errors), atomic=atomic, sync=sync)
    return len(data)


async def copy_file(
    src: StrOrBytesPath, dst: StrOrBytesPath, *, metadata: bool = True,
    progress: Callable[[int, int], object] | None = None,
) -> int:  # fmt: skip
    """Copy a file: shutil's copy2(), or copyfile() without metadata.

    The file system shares the blocks if it can; otherwise the kernel copies; otherwise the ring does.

    Args: progress is called as progress(bytes copied, total bytes).
    Returns: the number of bytes.
    Raises: as shutil.copyfile(). A partial copy is not removed.
    """
    return int(await _drive(filebatch.copy_file(src, dst, metadata, progress)))


# ------------------------------------------------------------------------------------------------------
# Many


class _Engine(filebatch.Engine):
    """The engine of the running loop, as filebatch requires it."""

    unknown = _unknown

    def __init__(self) -> None:
        self._ring = _ring()

    @property
    def lost(self) -> bool:
        """Return whether the ring is closed, which leaves the outcome of its requests unknown."""
        return self._ring is not None and self._ring.ring.closed

    def request(
        self, prep: Any, arguments: tuple[Any, ...], handler: Callable[[int, int], object],
        options: dict[str, Any] = fileops._NO_OPTIONS,
    ) -> Any:  # fmt: skip
        if self._ring is None or prep in _unknown:
            return None
        return self._ring.start(prep, *arguments, handler=handler, **options)

    def start_thread(self, op: Op, done: Callable[[Any, BaseException | None], object]) -> _Job:
        job = _Job(op, done)
        job.start(op.alone)
        return job

    def cancel(self, handle: Any) -> None:
        if isinstance(handle, int):
            self._ring.cancel(handle)
        elif handle is not None:
            if handle.withdraw():
                handle.loop.call_soon(handle.done, None, asyncio.CancelledError())
            else:
                handle.hurry()


async def _results(begin: Callable[[Any], Many]) -> AsyncIterator[tuple[Any, Any, BaseException | None]]:
    """Yield (key, result, exception) as procedures end; begin makes the batch."""
    many = begin(_Engine())
    try:
        while True:
            if perf_counter() > _turn.until:
                await _breathe()
            many.fill(_turn.until)
            if many.done:
                yield many.done.popleft()
            elif many.finished:
                return
            elif many.starved:
                await _woken(many)
    finally:
        await _end(many)


async def _end(many: Many) -> None:
    """Cancel the running procedures and wait for them, even if the task is cancelled."""
    many.stop()
    cancelled = None
    while many.running:
        try:
            await _woken(many)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


async def _woken(many: Many) -> None:
    """Wait until a procedure has ended."""
    future = asyncio.get_running_loop().create_future()
    many.wake = partial(_wake, future)
    await future


async def _each(begin: Callable[[Any], Many], return_exceptions: bool) -> AsyncIterator[tuple[Any, Any]]:
    running = _results(begin)
    try:
        async for key, result, error in running:
            if error is not None and not return_exceptions:
                raise error
            yield key, (result if error is None else error)
    finally:
        await running.aclose()  # type: ignore[attr-defined]


async def _all(many: Many, count: int, return_exceptions: bool) -> list[Any]:
    """Return the results in the order of their keys, which are numbers."""
    results: list[Any] = [None] * count
    done = many.done
    try:
        while not many.finished:
            if perf_counter() > _turn.until:
                await _breathe()
            many.fill(_turn.until)
            if not done and many.starved:
                await _woken(many)
            while done:
                at, result, error = done.popleft()
                if error is not None and not return_exceptions:
                    raise error
                results[at] = result if error is None else error
    finally:
        await _end(many)
    return results


def read_each(
    items: Iterable[Any], *, depth: int = 64, return_exceptions: bool = False
) -> AsyncIterator[tuple[Any, Any]]:
    """Read files and ranges, and yield (item, data) in the order of completion.

    For example, ``async for item, data in files.read_each(paths): ...``. Code that leaves the loop early must
    close the iterator (contextlib.aclosing), as with every asynchronous generator.

    Args: items are paths, or (file, offset, length) where file is a path or a descriptor; they may come from
        an endless generator; depth limits how many are read concurrently, how many files are open and how
        many results wait; with return_exceptions an exception takes the place of its item's data.
    Raises: the first exception, after the others have been cancelled. EMFILE and ENFILE reduce the depth, and
        are raised only if not even one file can be opened.
    """
    check_depth(depth)
    pairs = ((item, item) for item in items)
    begin = partial(Many, make=filebatch.reader(), work=pairs, depth=depth)
    return _each(begin, return_exceptions)


async def read_many(
    items: Iterable[Any], *, depth: int = 64, return_exceptions: bool = False
) -> list[Any]:
    """Read files and ranges, and return their data in the order of the items.

    All data are in memory at the end; for more than fits, use read_each().

    Args: as for read_each().
    """
    given = list(items)
    many = Many(_Engine(), filebatch.reader(), enumerate(given), depth)
    return await _all(many, len(given), return_exceptions)


async def read_many_into(
    fd: int, ranges: Iterable[tuple[int, Any]], *, depth: int = 64, direct: bool = False
) -> list[int]:
    """Read ranges of one file into memory.

    Args: ranges are (offset, buffer); with direct the file is reopened with O_DIRECT, which bypasses the page
        cache: offsets, lengths and addresses must then be aligned, as allocate() aligns memory. On PyPy that
        requires the ring: PyPy's preadv() reads into an intermediate buffer, which is not aligned.
    Returns: the number of bytes for each range, less than the buffer's length only at the end of the file.
    Raises: ValueError that names offset, length and address if O_DIRECT would reject them; OSError with
        EINVAL if the file system does not support O_DIRECT.
    """
    pairs = list(ranges)
    with filebatch.into_all(fd, pairs, direct) as (make, _):
        return await _all(Many(_Engine(), make, enumerate(pairs), depth), len(pairs), False)


def stat_each(
    paths: Iterable[StrOrBytesPath], *, follow_symlinks: bool = True, depth: int = 64,
    return_exceptions: bool = False,
) -> AsyncIterator[tuple[Any, Any]]:  # fmt: skip
    """Stat files, and yield (path, stat) in the order of completion."""
    check_depth(depth)
    pairs = ((path, path) for path in paths)
    return _each(partial(filebatch.stat_pieces, pairs, follow_symlinks, depth, depth), return_exceptions)


async def stat_many(
    paths: Iterable[StrOrBytesPath], *, follow_symlinks: bool = True, depth: int = 64,
    return_exceptions: bool = False,
) -> list[Any]:  # fmt: skip
    """Return the status of files, in the order of the paths.

    At most depth threads make the calls; one suffices while the caches have the answers. For a few paths the
    ring is used.
    """
    given = list(paths)
    many = filebatch.stat_all(given, follow_symlinks, depth, _Engine())
    return await _all(many, len(given), return_exceptions)


async def walk(
    top: StrOrBytesPath, *, onerror: Callable[[OSError], object] | None = None, depth: int = 4
) -> AsyncIterator[tuple[Any, list[Entry]]]:
    """Yield (directory, entries) for a directory and each below it, parents first.

    Links are not followed. Each entry has name, path and stat.

    Args: onerror is called with the exception if a directory cannot be listed; depth limits how many are
        listed concurrently.
    """
    results = _results(partial(filebatch.walk_pieces, stdlib_os.fspath(top), depth))
    try:
        async for directory, entries, error in results:
            if error is None:
                yield directory, entries
            elif not isinstance(error, OSError):
                raise error
            elif onerror is not None:
                onerror(error)
    finally:
        await results.aclose()  # type: ignore[attr-defined]


async def copy_tree(
    src: StrOrBytesPath, dst: StrOrBytesPath, *, symlinks: bool = False, ignore: Any = None,
    dirs_exist_ok: bool = False, depth: int = 8, progress: Callable[[int], object] | None = None,
) -> Any:  # fmt: skip
    """Copy a directory and its contents: shutil's copytree().

    Args: symlinks, ignore and dirs_exist_ok as for shutil.copytree(); ignore is called in a thread; progress
        is called as progress(files copied so far).
    Returns: dst.
    Raises: shutil.Error that lists what could not be copied, after the rest has been copied.
    """
    options = filebatch.copy_options(symlinks, ignore, dirs_exist_ok)
    count = 0
    results = _results(partial(filebatch.copy_pieces, src, dst, options, depth))
    try:
        async for _, result, error in results:
            if error is not None:
                raise error
            count += result
            if progress is not None and result:
                progress(count)
    finally:
        await results.aclose()  # type: ignore[attr-defined]
    await _drive(filebatch.end_copy_tree(options))
    return dst


async def remove_tree(
    path: StrOrBytesPath, *, ignore_errors: bool = False, progress: Callable[[int], object] | None = None
) -> int:
    """Remove a directory and its contents: shutil's rmtree().

    Links are not followed.

    Args: progress is called as progress(entries removed so far).
    Returns: the number of entries removed.
    """
    return int(await _drive(filebatch.remove_tree(path, ignore_errors, progress)))
