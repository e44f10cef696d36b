# SPDX-License-Identifier: MIT
# pyright: basic
"""File objects for asyncio programs: open() as the builtin, with methods that are coroutines.

What it is: open() and wrap(), the classes of files that they return, and the standard streams.
Mirrors: the module io, class by class; the names of aiofiles and of anyio.
Must not know: rings; of threads only that an append in a thread may outlive its loop.
Invariant: a method returns the same as the builtin's method, and suspends only if it has to wait for data.
Read next: filepath.py.

How it works: binary files keep the builtin's buffers, over a raw file that never waits. A read returns what
is in the page cache and notes how much is missing; a write is only noted. After each call the notes are
carried out, and the call is repeated for the rest. So results, positions and exceptions are the builtin's.
Text has its own layer, because TextIOWrapper would take missing data for the end of the file.

* The operations of one file run in call order; for an operation that does not suspend this costs one test.
  The positional ones, read_at(), readinto_at() and write_at(), run concurrently with them and see the
  contents of the file, not of the buffers; only close() waits for them.
* A cancelled operation leaves position and buffers unchanged, except for data already written.
* close() closes the file whatever happens before, including a cancellation, which it raises afterwards.
* The file keeps its own position. seek(), flush(), fileno() and close() move the descriptor's position to it.
"""

from __future__ import annotations

import asyncio
import builtins
import codecs
import contextlib
import errno
import functools
import io
import os
import sys
import threading
import types
import warnings
from collections import deque
from operator import index
from time import perf_counter

from . import filebatch, fileops, files
from .syscalls import Uncopyable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterable
    from typing import Any

#: The chunk that a read-only text file decodes at a time; other text files use the builtin's chunk size.
CHUNK_SIZE = 1 << 16
# The minimum buffer size of a file opened with O_DIRECT, of which only whole blocks are written.
_DIRECT_SIZE = 1 << 17


class _Flag(int):
    """A truth value that can be awaited: aiofiles has coroutines where anyio has functions."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, bool]:
        return bool(self)
        yield

    def __repr__(self) -> str:
        return repr(bool(self))


# ------------------------------------------------------------------------------------------------------
# The raw file


class _Raw(Uncopyable, io.FileIO):
    """The raw file under the builtin's buffers: it never waits, and notes what File has to wait for."""

    def __init__(self, file: Any, fd: int, mode: str, closefd: bool) -> None:
        self._owns = False
        #: The number of bytes that reads lacked since this was set to 0.
        self.lacks = 0
        # In order: [offset, bytes] for a write, [size, None] for a truncate().
        self._notes: deque[list[Any]] = deque()
        # Data read for the next call.
        self._stash: memoryview | None = None
        self._at_end = False
        # Set by jump().
        self._target: int | None = None
        #: Data that a text file has encoded but not passed to the buffers yet.
        self.text: list[bytes] = []
        #: Whether it waits as an ordinary raw file does: after detach().
        self.waits = False
        #: Whether it is under buffers, whose finalizer closes it. In a cycle the oldest object is finalized
        #: first, and the contents of the buffers could no longer be written.
        self.covered = False
        super().__init__(fd, mode, closefd=False)
        self.name = file
        self.can_read = self.readable()
        self.appends = mode.startswith("a")
        #: The position; None if the file has none.
        self.here: int | None = os.lseek(fd, 0, os.SEEK_CUR) if self.seekable() else None
        #: Held by an append in a thread, which may outlive its loop: a retry would append the data twice.
        self._appending = threading.Lock() if self.appends and self.here is not None else None
        self._owns = closefd

    def __del__(self) -> None:
        if self._owns and not self.covered:
            self.close()

    # The methods that the buffers call

    def readinto(self, buffer: Any) -> int | None:
        """Read the available data; return None if there are none, and set lacks to the missing amount."""
        if not self.can_read or self.closed:
            return super().readinto(buffer)
        want = len(buffer)
        stash = self._stash
        if stash is not None:
            got = min(want, len(stash))
            buffer[:got] = stash[:got]
            self._stash = stash[got:] if got < len(stash) else None
        elif self._at_end:
            self._at_end = False
            return 0
        elif self.waits:
            got = fileops.plain_read(self.fileno(), [memoryview(buffer)], self._offset())
        elif self._notes or want > fileops.INLINE_MAX or not self._may_try():
            self.lacks = want
            return None
        else:
            now = fileops.read_now(self.fileno(), (buffer,), self._offset(), want)
            if now is None:
                self.lacks = want
                return None
            got = now
        if self.here is not None:
            self.here += got
        return got

    def _may_try(self) -> bool:
        return perf_counter() <= files._turn.until

    def _offset(self) -> int:
        return -1 if self.here is None else self.here

    def read(self, size: int | None = -1) -> bytes | None:  # type: ignore[override]
        """Read up to size bytes, or all."""
        if isinstance(size, int) and fileops._TOUCHED_MAX < size <= sys.maxsize:
            # As much as io.FileIO reads; io.RawIOBase would take memory for all that is asked for.
            memory = fileops.room(min(size, fileops.MAX_RW_COUNT))
            got = self.readinto(memory)
            return None if got is None else bytes(memoryview(memory)[:got])
        return io.RawIOBase.read(self, -1 if size is None else size)

    def readall(self) -> bytes | None:  # type: ignore[override]
        """Read until no more data are available."""
        parts = []
        want = io.DEFAULT_BUFFER_SIZE
        if self.can_read and not self.closed and self.here is not None:
            want = max(os.fstat(self.fileno()).st_size - self.here, 0) + 1
        while True:
            stash = self._stash
            if stash is not None:
                self._stash = None
                parts.append(bytes(stash))
                if self.here is not None:
                    self.here += len(stash)
                    want = max(want - len(stash), 1)
                continue
            if want > fileops.INLINE_MAX and not self.waits and not self._at_end:
                self.lacks, got = want, None
            else:
                memory = bytearray(want)
                got = self.readinto(memoryview(memory))
            if got is None and not parts:
                return None
            if not got:
                return b"".join(parts)
            parts.append(bytes(memoryview(memory)[:got]))
            want = io.DEFAULT_BUFFER_SIZE

    def write(self, data: Any) -> int:
        """Note data to write."""
        if self.closed or not self.writable():
            return super().write(data)
        view = memoryview(data).cast("B")
        if self.waits:
            put = fileops.plain_write(self.fileno(), [view], -1 if self.appends else self._offset())
        else:
            put = len(view)
            self._notes.append([self.here, bytes(view)])
            self._stash, self._at_end = None, False
        if self.here is not None:
            self.here += put
        return put

    def seek(self, offset: int, whence: int = 0) -> int:
        """Set the position, the descriptor's too."""
        if self._target is not None:
            self.here = self._target
            return self.here
        if self.here is None or self.closed:
            return super().seek(offset, whence)
        if whence == 1:
            offset, whence = self.here + offset, 0
        before, self.here = self.here, super().seek(offset, whence)
        if self.here != before:  # before each read the buffers seek to the current position
            self._stash, self._at_end = None, False
        return self.here

    def tell(self) -> int:
        """Return the position."""
        if self.here is None or self.closed:
            return super().tell()
        return self.here

    def truncate(self, size: int | None = None) -> int:
        """Note the size to truncate to."""
        if self.closed or self.waits or not self.writable() or self.here is None:
            return super().truncate(size)
        size = self.here if size is None else index(size)
        if size < 0:
            raise fileops.error_of(errno.EINVAL)
        self._notes.append([size, None])
        return size

    def close(self) -> None:
        """Close the file without a loop: write the noted data, and wait for that."""
        if self.closed:
            return
        fd, owns = self.fileno(), self._owns
        if owns and not self.waits:
            warnings.warn(f"unclosed file {self!r}", ResourceWarning, source=self, stacklevel=2)
        try:
            if self.text:
                self.write(b"".join(self.text))
            self.wait_from_now_on()
        finally:
            self._owns = False
            super().close()
            if owns:
                os.close(fd)

    # The methods that the file objects call

    def wait_from_now_on(self) -> None:
        """Become an ordinary raw file; write the noted data, and wait for that."""
        with self._appending or contextlib.nullcontext():
            self.waits = True
        self.show_position()
        notes, self._notes = self._notes, deque()
        for offset, data in notes:
            if data is None:
                os.ftruncate(self.fileno(), offset)
                continue
            while data:
                at = -1 if self.appends or offset is None else offset
                put = fileops.plain_write(self.fileno(), [memoryview(data)], at)
                data, offset = data[put:], None if offset is None else offset + put
        self._note_end()

    def show_position(self) -> None:
        """Set the descriptor's position to this file's."""
        if self.here is not None:
            super().seek(self.here)

    def jump(self, buffers: Any, position: int) -> None:
        """Set the position and discard the buffers; their own seek() would keep matching contents."""
        self._target, self._stash, self._at_end = position, None, False
        try:
            buffers.seek(0, os.SEEK_END)
        finally:
            self._target = None

    def put_back(self, buffers: Any, data: bytes) -> None:
        """Undo a read of data: the buffers are empty."""
        if not data:
            return
        if self.here is not None:
            self.jump(buffers, buffers.tell() - len(data))
        else:
            rest = b"" if self._stash is None else bytes(self._stash)
            self._stash, self._at_end = memoryview(data + rest), False

    async def fetch(self) -> None:
        """Wait for the data that a read lacked; the read succeeds when repeated."""
        want, self.lacks = self.lacks, 0
        if self._notes:
            await self.settle()
        if self._stash is not None or self._at_end:
            return  # data read for a cancelled operation are left
        memory = fileops.room(want)
        got = await self._read(memory)
        self._stash = memoryview(memory)[:got] if got else None
        self._at_end = not got

    async def _read(self, memory: Any) -> int:
        if self.here is None:
            return await files.readinto(self.fileno(), memory)
        got, view = 0, memoryview(memory)
        while True:
            part = view[got : got + filebatch.REQUEST_MAX]
            now = await files.readinto_at(self.fileno(), part, self.here + got)
            got += now
            if now < len(part) or got == len(view):
                return got

    async def settle(self) -> None:
        """Carry out the notes; a note whose operation fails stays, except a truncate()."""
        if self.here is None:
            await self._settle()
        elif not self._settle_now():
            await files._finish(self._settle())

    def _settle_now(self) -> bool:
        """Carry out the notes that need no waiting."""
        notes = self._notes
        while notes:
            offset, data = notes[0]
            if data is None or not self._may_try():
                return False
            put = fileops.write_now(self.fileno(), (data,), -1 if self.appends else offset)
            if put != len(data):
                if put:
                    notes[0][:] = offset + put, data[put:]
                return False
            self._noted()
        return True

    async def _settle(self) -> None:
        notes = self._notes
        while notes:
            offset, data = notes[0]
            if data is None:
                notes.popleft()
                await files.ftruncate(self.fileno(), offset)
                continue
            if self._appending is not None:
                await self._append(notes[0], data)
            else:
                self._advance(notes[0], data, await self._write(data, offset))
            if not notes[0][1]:
                self._noted()

    def _advance(self, note: list[Any], data: bytes, put: int) -> None:
        """Shorten a note by the data written, once: an append may end after its loop."""
        if note[1] is data:
            note[:] = None if note[0] is None else note[0] + put, data[put:]

    async def _append(self, note: list[Any], data: bytes) -> None:
        advance = functools.partial(self._advance, note, data)
        op = fileops.write_op(self.fileno(), [memoryview(data)], -1)
        op = op._replace(plain=functools.partial(self._append_in_thread, op.plain, advance))
        future = asyncio.get_running_loop().create_future()

        def done(put: int, error: BaseException | None) -> None:
            # Immediately, not when the task resumes: its loop may be closed before that.
            if error is None:
                advance(put)
            files._settle(future, None, error)
            if error is not None:
                future.exception()  # avoids the "exception was never retrieved" message

        files._Engine().start(op, done)
        await future

    def _append_in_thread(self, write: Callable[[], int], advance: Callable[[int], None]) -> int:
        assert self._appending is not None
        with self._appending:
            if self.waits:
                return 0  # the file was finalized meanwhile
            put = write()
            advance(put)
        return put

    def _noted(self) -> None:
        self._notes.popleft()
        self._note_end()

    def _note_end(self) -> None:
        """Find the end of the appends, if all are written."""
        if self.appends and self.here is not None and not self._notes:
            self.here = os.lseek(self.fileno(), 0, os.SEEK_CUR)

    async def _write(self, data: Any, offset: int | None) -> int:
        if offset is None or self.appends:
            return await files.write(self.fileno(), data)
        return await files.pwrite(self.fileno(), data, offset)

    async def write_through(self, view: memoryview) -> int:
        """Write at the position without a note, as much as the kernel accepts at once."""
        if self.here is None:
            return await self._write(view, None)
        return int(await files._finish(self._write_through(view)))

    async def _write_through(self, view: memoryview) -> int:
        put = await self._write(view, self.here)
        assert self.here is not None
        self.here += put
        self._note_end()
        return put

    async def read_at(self, buffer: Any, offset: int) -> int:
        """Read at an offset, concurrently with everything else."""
        return await files.readinto_at(self.fileno(), buffer, offset)

    async def write_at(self, data: Any, offset: int) -> int:
        """Write at an offset, concurrently with everything else."""
        return await files.pwrite(self.fileno(), data, offset)

    def release(self) -> int:
        """Release the descriptor, -1 if it must not be closed; noted data are lost."""
        self.show_position()
        self._notes.clear()
        self.text.clear()
        owns, self._owns = self._owns, False
        return self.fileno() if owns else -1


class _DirectRaw(_Raw):
    """A raw file opened with O_DIRECT: whole blocks, from and to aligned memory."""

    def __init__(self, file: Any, fd: int, mode: str, closefd: bool) -> None:
        super().__init__(file, fd, mode, closefd)
        self._appending = None  # appends write whole blocks at the known end
        #: Held while the descriptor lacks O_DIRECT, which several threads may take from it.
        self._without = threading.Lock()
        #: The alignment of offsets and lengths; memory is aligned to pages.
        self.block = filebatch.alignment(fd)[1]

    def _may_try(self) -> bool:
        return False

    async def _read(self, memory: Any) -> int:
        assert self.here is not None
        return await self.read_at(memory, self.here)

    async def read_at(self, buffer: Any, offset: int) -> int:
        from .buffers import allocate

        view = memoryview(buffer).cast("B")
        fileops.check_range(len(view), offset)
        if not view:
            return 0
        start = offset - offset % self.block
        blocks = allocate(-(-(offset + len(view) - start) // self.block) * self.block)
        got = await files.readinto_at(self.fileno(), blocks, start) - (offset - start)
        got = max(min(got, len(view)), 0)
        view[:got] = memoryview(blocks)[offset - start : offset - start + got]
        return got

    async def _write(self, data: Any, offset: int | None) -> int:
        if self.appends:
            offset = os.fstat(self.fileno()).st_size
        assert offset is not None
        put = await self.write_at(data, offset)
        if self.appends:
            os.lseek(self.fileno(), offset + put, os.SEEK_SET)
        return put

    async def write_at(self, data: Any, offset: int) -> int:
        from .buffers import allocate

        view = memoryview(data).cast("B")
        whole = 0 if offset % self.block else len(view) - len(view) % self.block
        if not whole:
            return int(await files.call(self._write_without, view, offset))
        blocks = allocate(whole)
        memoryview(blocks)[:] = view[:whole]
        return await files.pwrite(self.fileno(), blocks, offset)

    def _write_without(self, view: memoryview, offset: int) -> int:
        """Write part of a block without O_DIRECT, as dd does at the end."""
        fd, fcntl = self.fileno(), fileops.fcntl
        with self._without:
            flags = fileops.status_flags(fd)
            fcntl.fcntl(fd, fcntl.F_SETFL, flags & ~fileops._O_DIRECT)
            try:
                return fileops.plain_write(fd, [view], offset)
            finally:
                fcntl.fcntl(fd, fcntl.F_SETFL, flags)

    def wait_from_now_on(self) -> None:
        fd, fcntl = self.fileno(), fileops.fcntl
        with self._without:
            fcntl.fcntl(fd, fcntl.F_SETFL, fileops.status_flags(fd) & ~fileops._O_DIRECT)
        super().wait_from_now_on()


# ------------------------------------------------------------------------------------------------------
# The base of all files


class File(Uncopyable):
    """An open file: the base of all classes of files. open() and wrap() make them.

    If a file is not closed, its finalizer flushes and closes it, without the loop, with a ResourceWarning.
    """

    #: The builtin's object that does the work; it provides the answers that need no waiting.
    _sync: Any
    #: The argument of anyio's functions; kept but not used: there is no pool of threads to limit.
    limiter: Any = None

    def __init__(self) -> None:
        self._busy = False
        self._queue: deque[asyncio.Future[None]] = deque()
        #: An object closed instead of the file, in a thread: a temporary file; and whether that removes it.
        self._keeper: Any = None
        self.delete = False

    def __repr__(self) -> str:
        return f"<{type(self).__module__}.{type(self).__name__} of {self._sync!r}>"

    @property
    def _file(self) -> Any:  # aiofiles' name
        return self._sync

    @property
    def wrapped(self) -> Any:
        """Return the underlying object of the builtin; its methods do not wait."""
        return self._sync

    @property
    def closed(self) -> bool:
        """Return whether the file is closed."""
        return bool(self._sync.closed)

    @property
    def name(self) -> Any:
        """Return the path or descriptor that was opened."""
        return self._sync.name

    @property
    def mode(self) -> str:
        """Return the mode, as the builtin's file reports it."""
        return str(self._sync.mode)

    async def __aenter__(self) -> File:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    def __aiter__(self) -> File:
        return self

    # The order of the operations

    async def _acquire(self) -> None:
        if not self._busy:
            self._busy = True
            return
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn
        except BaseException:
            if turn.cancelled():
                with contextlib.suppress(ValueError):  # _release() has removed it
                    self._queue.remove(turn)
            else:
                self._release()
            raise

    def _release(self) -> None:
        queue = self._queue
        while queue:
            turn = queue.popleft()
            if not turn.done():
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    turn.set_result(None)
                return
        self._busy = False

    async def _in_turn(self, operation: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        await self._acquire()
        try:
            return await operation(*args)
        finally:
            self._release()

    # Methods that never wait

    def readable(self) -> Any:
        """Return whether the file was opened for reading."""
        return _Flag(self._sync.readable())

    def writable(self) -> Any:
        """Return whether the file was opened for writing."""
        return _Flag(self._sync.writable())

    def seekable(self) -> Any:
        """Return whether the file has a position."""
        return _Flag(self._sync.seekable())

    def isatty(self) -> Any:
        """Return whether the file is a terminal."""
        return _Flag(self._sync.isatty())

    # Methods that the classes implement

    async def read(self, size: int | None = -1) -> Any:
        """Read up to size bytes or characters, or all."""
        raise io.UnsupportedOperation("read")

    async def readline(self, size: int | None = -1) -> Any:
        """Read a line, or up to size bytes or characters of it."""
        raise io.UnsupportedOperation("readline")

    async def readlines(self, hint: int | None = -1) -> list[Any]:
        """Read lines until their total exceeds hint bytes or characters, or all."""
        if hint is None or index(hint) <= 0:
            hint = sys.maxsize
        lines, total = [], 0
        async for line in self:
            lines.append(line)
            total += len(line)
            if total > hint:
                break
        return lines

    async def __anext__(self) -> Any:
        line = await self.readline()
        if line:
            return line
        raise StopAsyncIteration

    async def write(self, data: Any) -> int:
        """Write bytes or text."""
        raise io.UnsupportedOperation("write")

    async def writelines(self, lines: Iterable[Any]) -> None:
        """Write each of lines."""
        if self.closed:
            self._sync.writelines(())
        for line in lines:
            await self.write(line)

    async def flush(self) -> None:
        """Write the buffers out to the file; fsync() flushes it to the device."""

    async def close(self) -> None:
        """Flush the buffers and close the file."""
        raise io.UnsupportedOperation("close")

    async def aclose(self) -> None:
        """Close the file: anyio's name."""
        await self.close()


# ------------------------------------------------------------------------------------------------------
# Binary files


class _OnRaw(File):
    """A file over a _Raw."""

    _raw: _Raw

    def __init__(self) -> None:
        super().__init__()
        # The number of positional operations that use the descriptor, and the waiter for their end.
        self._beside = 0
        self._left_alone: asyncio.Future[None] | None = None
        self._closing = False

    def fileno(self) -> int:
        """Return the descriptor, after setting its position to the file's."""
        fd: int = self._sync.fileno()
        self._raw.show_position()
        return fd

    async def tell(self) -> int:
        """Return the position."""
        if self._busy:
            return int(await self._in_turn(self._tell))
        return int(self._sync.tell())

    async def _tell(self) -> int:
        return int(self._sync.tell())

    async def fsync(self, datasync: bool = False) -> None:
        """Flush the buffers, and flush the file to the device: os.fsync(), os.fdatasync()."""
        await self.flush()
        await self._besides(files.fsync, self._sync.fileno(), datasync)

    async def _besides(self, operation: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        """Run a positional operation; close() waits for it, because the descriptor may then be reused."""
        if self._closing:
            raise ValueError("I/O operation on closed file")
        self._beside += 1
        try:
            return await operation(*args)
        finally:
            self._beside -= 1
            if not self._beside and self._left_alone is not None:
                files._wake(self._left_alone)

    async def _be_alone(self) -> None:
        while self._beside:
            self._left_alone = asyncio.get_running_loop().create_future()
            await self._left_alone

    async def close(self) -> None:
        """Flush the buffers and close the file, even if the flush fails.

        Operations that were called before complete first.
        """
        if self.closed:
            return
        self._closing = True
        try:
            await self._acquire()
        except asyncio.CancelledError:
            await files._finish(self._in_turn(self._close))
            raise
        try:
            await self._close()
        finally:
            self._release()

    async def _close(self) -> None:
        if self.closed:
            return
        try:
            self._sync.flush()
            await self._raw.settle()
        finally:
            try:
                if self._beside:
                    await files._finish(self._be_alone())
            finally:
                fd = self._raw.release()
                self._sync.close()
                if self._keeper is not None:
                    await files._finish(files.call(self._keeper.close))
                elif fd >= 0:
                    await files.close_fd(fd)

    async def read_at(self, n: int, offset: int) -> bytes:
        """Read up to n bytes at an offset, independently of the position: os.pread().

        Returns: fewer than n bytes only at the end of the file.
        """
        self._check("can_read", "read")
        fileops.check_range(n, offset)
        memory = fileops.room(n)
        got = await self._besides(self._raw.read_at, memory, offset)
        return bytes(memoryview(memory)[:got])

    async def readinto_at(self, buffer: Any, offset: int) -> int:
        """Read into a buffer at an offset, independently of the position: os.preadv().

        Returns: the number of bytes, less than the buffer's length only at the end of the file.
        """
        self._check("can_read", "read")
        return await self._besides(self._raw.read_at, buffer, offset)  # type: ignore[no-any-return]

    async def write_at(self, data: Any, offset: int) -> int:
        """Write all of data at an offset, independently of the position: os.pwrite().

        Returns: the length of data in bytes.
        """
        self._check("writable", "write")
        return await self._besides(self._write_at, memoryview(data).cast("B"), offset)  # type: ignore[no-any-return]

    async def _write_at(self, view: memoryview, offset: int) -> int:
        put = 0
        while put < len(view):
            put += await self._raw.write_at(view[put:], offset + put)
        return put

    def _check(self, may: str, what: str) -> None:
        self._sync.fileno()
        allowed = getattr(self._raw, may)
        if not (allowed() if callable(allowed) else allowed):
            raise io.UnsupportedOperation(what)


class RawFile(_OnRaw):
    """An unbuffered binary file, as io.FileIO."""

    def __init__(self, raw: _Raw) -> None:
        """Wrap a raw file; open() calls this."""
        super().__init__()
        self._raw = self._sync = raw

    async def read(self, size: int | None = -1) -> bytes:
        """Read up to size bytes with one call, or all."""
        return await self._in_turn(self._read, size)  # type: ignore[no-any-return]

    async def _read(self, size: int | None) -> bytes:
        raw = self._raw
        parts: list[bytes] = []
        raw.lacks = 0
        try:
            while True:
                got = raw.read(size)
                if not raw.lacks:
                    return b"".join([*parts, got or b""])
                if got:
                    parts.append(got)
                await raw.fetch()
        except BaseException:
            self._unread(b"".join(parts))
            raise

    async def readall(self) -> bytes:
        """Read all."""
        return await self.read()

    async def readinto(self, buffer: Any) -> int:
        """Read into a buffer with one call."""
        return await self._in_turn(self._readinto, buffer)  # type: ignore[no-any-return]

    async def _readinto(self, buffer: Any) -> int:
        raw = self._raw
        raw.lacks = 0
        view = buffer if not raw.can_read or raw.closed else memoryview(buffer).cast("B")
        while True:
            got = raw.readinto(view)
            if not raw.lacks:
                return got or 0
            await raw.fetch()

    async def readline(self, size: int | None = -1) -> bytes:
        """Read a line byte by byte, or up to size bytes of it."""
        return await self._in_turn(self._readline, size)  # type: ignore[no-any-return]

    async def _readline(self, size: int | None) -> bytes:
        size = -1 if size is None else index(size)
        line = bytearray()
        try:
            while size < 0 or len(line) < size:
                byte = await self._read(1)
                line += byte
                if byte in (b"", b"\n"):
                    break
        except BaseException:
            self._unread(bytes(line))
            raise
        return bytes(line)

    def _unread(self, data: bytes) -> None:
        """Undo a read of data."""
        raw = self._raw
        if raw.here is None:
            raw.put_back(raw, data)
        elif data:
            raw.seek(raw.here - len(data))

    async def write(self, data: Any) -> int:
        """Write bytes with one call.

        Returns: the number of bytes written.
        """
        return await self._in_turn(self._write, data)  # type: ignore[no-any-return]

    async def _write(self, data: Any) -> int:
        raw = self._raw
        if raw.closed or not raw.writable():
            return raw.write(data)
        return await raw.write_through(_view(data))

    async def seek(self, offset: int, whence: int = 0) -> int:
        """Set the position."""
        return await self._in_turn(self._seek, offset, whence)  # type: ignore[no-any-return]

    async def _seek(self, offset: int, whence: int) -> int:
        return self._raw.seek(offset, whence)

    async def truncate(self, size: int | None = None) -> int:
        """Set the size of the file, by default to the position."""
        return await self._in_turn(self._truncate, size)  # type: ignore[no-any-return]

    async def _truncate(self, size: int | None) -> int:
        size = self._raw.truncate(size)
        await self._raw.settle()
        return size

    async def flush(self) -> None:
        """Do nothing: there is no buffer."""
        self._raw.flush()

    def detach(self) -> Any:
        """Raise io.UnsupportedOperation: nothing is layered on the raw file."""
        raise io.UnsupportedOperation("detach")


def _view(data: Any) -> memoryview:
    try:
        return memoryview(data).cast("B")
    except TypeError:
        raise TypeError(f"a bytes-like object is required, not {type(data).__name__!r}") from None


class BufferedFile(_OnRaw):
    """A binary file, as io.BufferedReader, BufferedWriter and BufferedRandom."""

    def __init__(self, buffers: Any, size: int) -> None:
        """Wrap the builtin's buffers over a raw file; open() calls this."""
        super().__init__()
        self._sync = buffers
        self._raw = buffers.raw
        self._raw.covered = True
        self._size = size
        self._writes = buffers.writable()
        # An upper bound of the data written since the last flush.
        self._pending = 0

    @property
    def raw(self) -> Any:
        """Return the raw file."""
        return self._sync.raw

    # Each reading method calls the buffers', and returns if they lacked nothing.

    async def read(self, size: int | None = -1) -> bytes:
        """Read size bytes, fewer only at the end of the file, or all."""
        if self._busy:
            return await self._in_turn(self._read, size)  # type: ignore[no-any-return]
        got = self._sync.read(size)
        if not self._raw.lacks:
            return got  # type: ignore[no-any-return]
        return await self._in_turn(self._read, size, got)  # type: ignore[no-any-return]

    async def _read(self, size: int | None, got: Any = None) -> bytes:
        return await self._gather(self._sync.read, -1 if size is None else size, got)

    async def readline(self, size: int | None = -1) -> bytes:
        """Read a line, or up to size bytes of it."""
        if self._busy:
            return await self._in_turn(self._readline, size)  # type: ignore[no-any-return]
        got = self._sync.readline(size)
        if not self._raw.lacks:
            return got  # type: ignore[no-any-return]
        return await self._in_turn(self._readline, size, got)  # type: ignore[no-any-return]

    async def _readline(self, size: int | None, got: Any = None) -> bytes:
        return await self._gather(self._sync.readline, -1 if size is None else size, got)

    async def __anext__(self) -> bytes:
        if self._busy:
            line = await self.readline()
        else:
            line = self._sync.readline()
            if self._raw.lacks:
                line = await self._in_turn(self._readline, -1, line)
        if line:
            return line
        raise StopAsyncIteration

    async def _gather(self, method: Callable[[int], Any], size: int, got: Any) -> bytes:
        """Call a method for the rest until it lacks nothing; got is its result so far."""
        raw = self._raw
        parts: list[bytes] = []
        try:
            if not raw.lacks:
                got = method(size)
            while raw.lacks:
                if got:
                    parts.append(got)
                    if size >= 0:
                        size -= len(got)
                await raw.fetch()
                got = method(size)
        except BaseException:
            raw.lacks = 0
            raw.put_back(self._sync, b"".join(parts))
            raise
        return b"".join([*parts, got or b""]) if parts else got or b""

    async def readlines(self, hint: int | None = -1) -> list[bytes]:
        """Read lines until their total exceeds hint bytes, or all."""
        return await self._in_turn(self._readlines, hint)  # type: ignore[no-any-return]

    async def _readlines(self, hint: int | None) -> list[bytes]:
        raw = self._raw
        lines: list[bytes] = self._sync.readlines(hint)
        left = sys.maxsize if hint is None or hint <= 0 else hint
        part = b""
        try:
            while raw.lacks:
                if lines and not lines[-1].endswith(b"\n"):
                    part = lines.pop()
                await raw.fetch()
                rest = left - sum(map(len, lines)) - len(part)
                more = self._sync.readlines(rest) if rest > 0 else [self._sync.readline()]
                if more == [b""]:
                    more = []
                if part and more:
                    more[0] = part + more[0]
                    part = b""
                lines += more
        except BaseException:
            raw.lacks = 0
            raw.put_back(self._sync, b"".join([*lines, part]))
            raise
        return [*lines, part] if part else lines

    async def read1(self, size: int = -1) -> bytes:
        """Read up to size bytes with at most one call, or return the buffer's contents."""
        return await self._once(self._sync.read1, size)  # type: ignore[no-any-return]

    async def peek(self, size: int = 0) -> bytes:
        """Return the buffer's contents, filling it if it is empty, without moving the position."""
        return await self._once(self._peek, size)  # type: ignore[no-any-return]

    def _peek(self, size: int) -> bytes:
        return self._sync.peek(size)  # type: ignore[no-any-return]

    async def readinto1(self, buffer: Any) -> int:
        """Read into a buffer with at most one call."""
        return await self._once(self._sync.readinto1, buffer) or 0

    async def _once(self, method: Callable[[Any], Any], argument: Any) -> Any:
        if not self._busy:
            got = method(argument)
            if not self._raw.lacks:
                return got
        return await self._in_turn(self._until_done, method, argument)

    async def _until_done(self, method: Callable[[Any], Any], argument: Any) -> Any:
        if not self._raw.lacks:
            got = method(argument)
        while self._raw.lacks:
            await self._raw.fetch()
            got = method(argument)
        return got

    async def readinto(self, buffer: Any) -> int:
        """Read into a buffer until it is full or the file ends."""
        return await self._in_turn(self._readinto, buffer)  # type: ignore[no-any-return]

    async def _readinto(self, buffer: Any) -> int:
        raw = self._raw
        got = self._sync.readinto(buffer) or 0
        if not raw.lacks:
            return got
        view = memoryview(buffer)
        if view.format != "B" or view.ndim != 1:
            view = view.cast("B")  # PyPy treats a cast view as read-only
        try:
            while raw.lacks:
                await raw.fetch()
                got += self._sync.readinto(view[got:]) or 0
        except BaseException:
            raw.lacks = 0
            raw.put_back(self._sync, bytes(view[:got]))
            raise
        return got

    async def write(self, data: Any) -> int:
        """Write bytes to the buffer, and the excess to the file.

        Returns: the number of bytes: all.
        """
        if not self._busy:
            n = len(data) if data.__class__ is bytes else _length(data)
            fits = self._pending + n <= self._size and not self._raw._notes
            if fits or not self._writes or self.closed:
                put: int = self._sync.write(data)
                self._pending += put
                if self._raw._notes:
                    await self._in_turn(self._raw.settle)
                return put
        return await self._in_turn(self._write, data)  # type: ignore[no-any-return]

    async def _write(self, data: Any) -> int:
        if not self._writes or self.closed:
            return self._sync.write(data)  # type: ignore[no-any-return]
        view = _view(data)
        n, put = len(view), 0
        if self._pending + n > self._size or self._raw._notes:
            await self._flush()
            while n - put > self._size:
                put += await self._raw.write_through(view[put:])
            if put and self._raw.here is not None:
                self._sync.tell()  # the buffers cache the raw file's position
        self._pending += self._sync.write(view[put:])
        await self._raw.settle()
        return n

    async def _take_encoded(self, text: list[bytes]) -> None:
        """Accept the data that a text file has encoded: all, or none if earlier data cannot be written."""
        await self._in_turn(self._take, text)

    async def _take(self, text: list[bytes]) -> None:
        data = b"".join(text)
        if self._pending + len(data) > self._size or self._raw._notes:
            await self._flush()
        self._pending += self._sync.write(data)
        text.clear()
        await self._raw.settle()

    async def writelines(self, lines: Iterable[Any]) -> None:
        """Write each of lines."""
        if self.closed or not self._writes:
            self._sync.writelines(lines)
        for line in lines:
            await self.write(line)

    async def flush(self) -> None:
        """Write the buffer out to the file; fsync() flushes it to the device."""
        await self._in_turn(self._flush)
        self._raw.show_position()

    async def _flush(self) -> None:
        self._sync.flush()
        self._pending = 0
        await self._raw.settle()

    async def seek(self, offset: int, whence: int = 0) -> int:
        """Set the position."""
        if self._busy or self._pending or (whence != 0 and self._writes):
            return await self._in_turn(self._seek, offset, whence)  # type: ignore[no-any-return]
        return self._sync.seek(offset, whence)  # type: ignore[no-any-return]

    async def _seek(self, offset: int, whence: int) -> int:
        if self._writes and not self.closed:
            await self._flush()
        return self._sync.seek(offset, whence)  # type: ignore[no-any-return]

    async def truncate(self, size: int | None = None) -> int:
        """Set the size of the file, by default to the position."""
        return await self._in_turn(self._truncate, size)  # type: ignore[no-any-return]

    async def _truncate(self, size: int | None) -> int:
        if self._writes and not self.closed:
            await self._flush()
        new: int = self._sync.truncate(size)
        await self._raw.settle()
        return new

    def detach(self) -> Any:
        """Return the raw file as the builtin's kind, which waits; this file becomes unusable."""
        raw = self._sync.detach()
        raw.covered = False
        raw.wait_from_now_on()
        return raw


def _length(data: Any) -> int:
    try:
        return memoryview(data).nbytes
    except TypeError:
        return 0  # the buffers raise the exception


# ------------------------------------------------------------------------------------------------------
# Text files

_NO_LINES: Any = io.StringIO()


class TextFile(File):
    """A text file, as io.TextIOWrapper."""

    def __init__(
        self, binary: BufferedFile, encoding: str | None = None, errors: str | None = None,
        newline: str | None = None, line_buffering: bool = False,
    ) -> None:  # fmt: skip
        """Wrap a binary file; open() calls this."""
        super().__init__()
        # The builtin checks the arguments, and provides the attributes that are not defined here.
        like = self._like = io.TextIOWrapper(io.BytesIO(), encoding, errors, newline)
        self._binary = binary
        self._sync: Any = binary._sync
        self.line_buffering = line_buffering
        self._seekable = bool(self._sync.seekable())
        self._telling = self._seekable
        self._mode: str | None = None
        self._detached = False
        self._configure(newline)
        self._chunk = CHUNK_SIZE if self._encoder is None else like._CHUNK_SIZE  # type: ignore[attr-defined]
        # Decoded but unread text: whole lines as an iterator, and the rest.
        self._lines: Any = _NO_LINES
        self._tail = ""
        # The number of characters read since the snapshot and before _lines.
        self._before = 0
        # The decoder's state before the last chunk, and the chunk: tell() counts from here.
        self._snapshot: tuple[int, bytes] | None = None
        # Bytes that a cancelled operation has read.
        self._unread = b""
        # Data encoded but not yet passed to the binary file.
        self._encoded = binary._raw.text
        self._encoded_size = 0

    def _configure(self, newline: str | None) -> None:
        """Set the attributes derived from encoding, errors and newline."""
        self.encoding, self.errors = encoding, errors = self._like.encoding, self._like.errors
        self._newline = newline
        self._line_end = newline or "\n"
        self._crlf = newline == ""
        written_end = os.linesep if newline is None else newline
        self._written_end = None if written_end in ("", "\n") else written_end
        #: Decoders and encoders.
        self._decoder: Any = None
        self._encoder: Any = None
        if self._sync.readable():
            self._decoder = codecs.getincrementaldecoder(encoding)(errors or "strict")
            if newline in (None, ""):
                self._decoder = io.IncrementalNewlineDecoder(self._decoder, newline is None)
        if self._sync.writable():
            self._encoder = codecs.getincrementalencoder(encoding)(errors or "strict")
            if self._seekable and self._sync.tell() != 0:
                self._encoder.setstate(0)

    async def reconfigure(
        self, *, encoding: str | None = None, errors: str | None = None, newline: Any = ...,
        line_buffering: bool | None = None, write_through: bool | None = None,
    ) -> None:  # fmt: skip
        """Flush, and change parameters, as io.TextIOWrapper.

        Raises: io.UnsupportedOperation if encoding, errors or newline would change after text was decoded.
        """
        changes = {"encoding": encoding, "errors": errors}
        if newline is not ...:
            changes["newline"] = newline
        for name, value in changes.items():
            if value is not None and not isinstance(value, str):  # CPython 3.11.2 frees it once too often
                kind = type(value).__name__
                raise TypeError(f"reconfigure() argument {name!r} must be str or None, not {kind}")
        await self._in_turn(self._reconfigure, changes, line_buffering, write_through)

    async def _reconfigure(self, changes: dict[str, Any], by_lines: Any, write_through: Any) -> None:
        self._check()
        if decodes := len(changes) > 2 or any(each is not None for each in changes.values()):
            text, used = self._take_text()
            self._set_text(text, used)
            if text or used or (self._decoder is not None and self._decoder.getstate()[0]):
                raise io.UnsupportedOperation(
                    "It is not possible to set the encoding or newline of stream after the first read"
                )
        await self._flush()
        by_lines = self.line_buffering if by_lines is None else by_lines
        self._like.reconfigure(**changes, line_buffering=by_lines, write_through=write_through)
        self.line_buffering = self._like.line_buffering
        if decodes:
            self._forget()
            self._configure(changes.get("newline", self._newline))

    # Attributes

    @property
    def buffer(self) -> BufferedFile:
        """Return the underlying binary file."""
        return self._binary

    @property
    def mode(self) -> str:
        """Return the mode that was given."""
        return self._mode if self._mode is not None else str(self._sync.mode)

    @property
    def newlines(self) -> Any:
        """Return the line endings found so far, as io.TextIOWrapper does."""
        return getattr(self._decoder, "newlines", None)

    @property
    def write_through(self) -> bool:
        """Return whether each write() passes its text to the binary file immediately."""
        return bool(self._like.write_through)

    def fileno(self) -> int:
        """Return the descriptor, after setting its position to the binary file's."""
        self._not_detached()
        return self._binary.fileno()

    def _not_detached(self) -> None:
        if self._detached:
            raise ValueError("underlying buffer has been detached")

    def _check(self) -> None:
        if self._detached or self._sync.closed:
            self._not_detached()
            raise ValueError("I/O operation on closed file.")

    @property
    def closed(self) -> bool:
        """Return whether the file is closed."""
        self._not_detached()
        return bool(self._sync.closed)

    # Reading

    def _set_text(self, text: str, before: int) -> None:
        """Keep text for the next reader; before characters were read since the snapshot."""
        end = self._line_end
        cut = text.rfind(end) + len(end) if end in text else 0
        if self._crlf:
            cut = max(cut, text.rfind("\r") + 1)
        self._tail = text[cut:]
        self._before = before
        self._lines = self._split(text[:cut]) if cut else _NO_LINES

    def _split(self, text: str) -> Any:
        """Return an iterator of lines."""
        end = self._line_end
        if end == "\n":
            return io.StringIO(text, "" if self._crlf else "\n")
        lines: Any = io.StringIO(newline=end)
        lines.__setstate__((text, end, 0, None))  # the constructor would translate
        return lines

    def _take_text(self) -> tuple[str, int]:
        """Take all decoded text; the second value is the number of characters read since the snapshot."""
        used = self._before + self._lines.tell()
        text = self._lines.read() + self._tail
        self._lines, self._tail = _NO_LINES, ""
        return text, used

    def _forget(self) -> None:
        self._lines, self._tail = _NO_LINES, ""
        self._before, self._snapshot = 0, None

    async def __anext__(self) -> str:
        self._telling = False
        try:
            return next(self._lines)  # type: ignore[no-any-return]
        except StopIteration:
            pass
        line = await self._in_turn(self._slowly, self._readline, -1)
        if line:
            return line  # type: ignore[no-any-return]
        self._telling = self._seekable
        self._snapshot = None
        raise StopAsyncIteration

    async def readline(self, size: int = -1) -> str:  # type: ignore[override]
        """Read a line, or up to size characters of it."""
        if index(size) < 0:
            line = self._lines.readline()
            if line:
                return line  # type: ignore[no-any-return]
        return await self._in_turn(  # type: ignore[no-any-return]
            self._slowly, self._readline, index(size)
        )

    async def read(self, size: int | None = -1) -> str:
        """Read up to size characters, or all."""
        if size is not None and size > 0:
            text = self._lines.read(size)
            if len(text) == size:
                return text  # type: ignore[no-any-return]
            self._lines.seek(self._lines.tell() - len(text))
        return await self._in_turn(  # type: ignore[no-any-return]
            self._slowly, self._read, -1 if size is None else index(size)
        )

    async def readlines(self, hint: int | None = -1) -> list[str]:
        """Read lines until their total exceeds hint characters, or all."""
        if hint is None or index(hint) <= 0:
            self._telling = False  # as in the builtin, whose readlines() iterates
            text = await self.read()
            self._telling = self._seekable
            return list(self._split(text))
        lines: list[str] = []
        try:
            while hint >= 0:
                self._telling = False
                more = self._lines.readlines(hint) if hint else None
                lines += more or [await self.__anext__()]
                hint -= sum(map(len, more)) if more else len(lines[-1])
        except StopAsyncIteration:
            pass
        except BaseException:
            read = "".join(lines)
            text, used = self._take_text()
            self._set_text(read + text, used - len(read))
            raise
        return lines

    async def _slowly(self, reader: Callable[..., Awaitable[str]], size: int) -> str:
        """Read beyond the decoded text; put everything back if that fails."""
        self._check()
        if self._decoder is None:
            raise io.UnsupportedOperation("not readable")
        if self._encoded:
            await self._write_out()
        text, used = self._take_text()
        snapshot, state = self._snapshot, self._decoder.getstate()
        raw: list[bytes] = []
        try:
            return await reader(text, used, size, raw)
        except UnicodeError:
            raise  # as the builtin: undecodable data are skipped
        except BaseException:
            self._decoder.setstate(state)
            self._unread = b"".join([*raw, self._unread])
            self._snapshot = snapshot
            self._set_text(text, used)
            raise

    async def _next_chunk(self, raw: list[bytes], size: int) -> tuple[str, bool]:
        """Decode the next chunk; return its text, and whether more may follow."""
        state = self._decoder.getstate() if self._telling else None
        if self._unread:
            data, self._unread = self._unread, b""
        else:
            data = await self._binary.read1(size)
        raw.append(data)
        text = self._decoder.decode(data, not data)
        self._snapshot = None if state is None else (state[1], state[0] + data)
        return text, bool(data)

    async def _readline(self, text: str, used: int, size: int, raw: list[bytes]) -> str:
        parts: list[str] = []
        done, chunk = 0, self._chunk
        while True:
            end = self._end_of_line(text)
            if size >= 0 and (end < 0 or end > size - done) and len(text) >= size - done:
                end = size - done
            if end >= 0:
                break
            # A line ending may begin in this chunk and end in the next.
            keep = 1 if len(self._line_end) == 2 and text.endswith("\r") else 0
            parts.append(text[: len(text) - keep])
            done += len(text) - keep
            kept = text[len(text) - keep :]
            text, more = await self._next_chunk(raw, chunk)
            while more and not text:
                text, more = await self._next_chunk(raw, chunk)
            text, used = kept + text, -keep
            if not more:
                if not text:
                    self._snapshot = None
                elif self._end_of_line(text) < 0 and (size < 0 or len(text) <= size - done):
                    end = len(text)
                    break
            chunk = min(2 * chunk, 1 << 20) if self._encoder is None else chunk
            if not more and not text:
                end = 0
                break
        parts.append(text[:end])
        self._set_text(text[end:], used + end)
        return "".join(parts)

    def _end_of_line(self, text: str) -> int:
        """Return the end of the first line, -1 if the text does not contain it."""
        end = text.find(self._line_end)
        if self._crlf:
            other = text.find("\r")
            if other >= 0 and (end < 0 or other < end):
                return other + (2 if text.startswith("\n", other + 1) else 1)
        return end if end < 0 else end + len(self._line_end)

    async def _read(self, text: str, used: int, size: int, raw: list[bytes]) -> str:
        if size < 0:
            data = [self._unread, await self._binary.read()]
            self._unread = b""
            raw += data
            rest = self._decoder.decode(b"".join(data), True)
            self._forget()
            return text + rest  # type: ignore[no-any-return]
        parts: list[str] = []
        done = 0
        while len(text) < size - done:
            parts.append(text)
            done += len(text)
            text, more = await self._next_chunk(raw, self._chunk)
            used = 0
            if not more:
                break
        end = min(size - done, len(text))
        parts.append(text[:end])
        self._set_text(text[end:], used + end)
        return "".join(parts)

    # Writing

    async def write(self, text: str) -> int:
        """Write text.

        Returns: the number of characters: all.
        """
        return await self._in_turn(self._write, text)  # type: ignore[no-any-return]

    async def _write(self, text: str) -> int:
        self._check()
        if not isinstance(text, str):
            self._like.write(text)
        if self._encoder is None:
            raise io.UnsupportedOperation("not writable")
        n = len(text)
        has_end = (self._written_end is not None or self.line_buffering) and "\n" in text
        if has_end and self._written_end is not None:
            text = text.replace("\n", self._written_end)
        data = self._encoder.encode(text)
        if self._encoded_size + len(data) > self._like._CHUNK_SIZE:  # type: ignore[attr-defined]
            await self._write_out()
        self._encoded.append(data)
        self._encoded_size += len(data)
        self._forget()
        if self._decoder is not None:
            self._decoder.reset()
        if self.line_buffering and (has_end or "\r" in text):
            await self._write_out()
            await self._binary.flush()
        elif self.write_through or self._encoded_size >= self._like._CHUNK_SIZE:  # type: ignore[attr-defined]
            await self._write_out()
        return n

    async def _write_out(self) -> None:
        """Pass the encoded data to the binary file; keep them if it accepts none."""
        if self._encoded:
            try:
                await self._binary._take_encoded(self._encoded)
            finally:
                self._encoded_size = sum(map(len, self._encoded))

    async def writelines(self, lines: Iterable[str]) -> None:
        """Write each of lines."""
        self._check()
        for line in lines:
            await self.write(line)

    async def flush(self) -> None:
        """Write the buffers out to the file; fsync() flushes it to the device."""
        await self._in_turn(self._flush)

    async def _flush(self) -> None:
        self._check()
        self._telling = self._seekable
        await self._write_out()
        await self._binary.flush()

    async def fsync(self, datasync: bool = False) -> None:
        """Flush the buffers, and flush the file to the device: os.fsync(), os.fdatasync()."""
        await self.flush()
        await self._binary.fsync(datasync)

    async def truncate(self, size: int | None = None) -> int:
        """Set the size of the file in bytes, by default to the position of the binary file."""
        return await self._in_turn(self._truncate, size)  # type: ignore[no-any-return]

    async def _truncate(self, size: int | None) -> int:
        await self._flush()
        return await self._binary.truncate(size)

    # Positions. A cookie has the format of CPython's TextIOWrapper. From the lowest bit: 64 bits of offset;
    # 32 bits each of the decoder's state there, of the number of bytes to feed it, and of the number of
    # characters of these to skip; and whether they include the end of the file.

    async def tell(self) -> int:
        """Return the position as an opaque number, valid only for seek()."""
        return await self._in_turn(self._tell)  # type: ignore[no-any-return]

    async def _tell(self) -> int:
        self._check()
        if not self._seekable:
            raise io.UnsupportedOperation("underlying stream is not seekable")
        if not self._telling:
            raise OSError("telling position disabled by next() call")
        await self._flush()
        position: int = await self._binary.tell() - len(self._unread)
        if self._decoder is None or self._snapshot is None:
            return position
        flags, data = self._snapshot
        position -= len(data)
        used = self._before + self._lines.tell()
        if used < 0:
            raise OSError("telling position disabled by next() call")  # or by a cancelled readlines()
        if not used:
            return position | flags << 64
        state = self._decoder.getstate()
        try:
            return self._cookie(position, flags, data, used)
        finally:
            self._decoder.setstate(state)

    def _cookie(self, position: int, flags: int, data: bytes, used: int) -> int:
        decoder = self._decoder

        def characters(n: int, final: bool = False) -> int:
            decoder.setstate((b"", flags))
            return len(decoder.decode(data[:n], final))

        # The fewest bytes that decode to the characters read.
        low, high, need_eof = 0, len(data), False
        if characters(high) < used:
            need_eof = True
        else:
            while high - low > 1:
                middle = (low + high) // 2
                if characters(middle) >= used:
                    high = middle
                else:
                    low = middle
        # The last offset before that at which the decoder has no pending input.
        for safe in range(high, -1, -1):
            count = characters(safe)
            buffered, safe_flags = decoder.getstate()
            if not buffered and count <= used:
                break
        skip = used - count
        cookie: int = position + safe | safe_flags << 64
        if skip:
            cookie |= high - safe << 96 | skip << 128 | need_eof << 160
        return cookie

    async def seek(self, cookie: int, whence: int = 0) -> int:
        """Set the position to a result of tell(); or, depending on whence, to the end or where it is."""
        return await self._in_turn(self._seek, cookie, whence)  # type: ignore[no-any-return]

    async def _seek(self, cookie: int, whence: int) -> int:
        self._check()
        if not self._seekable:
            raise io.UnsupportedOperation("underlying stream is not seekable")
        if whence not in (0, 1, 2) or (whence and cookie) or (not whence and not cookie >= 0):
            self._like.seek(cookie, whence)
        cookie = index(cookie)
        if whence == 1:
            cookie = await self._tell()
        await self._flush()
        self._unread = b""
        if whence == 2:
            self._forget()
            if self._decoder is not None:
                self._decoder.reset()
            cookie = await self._binary.seek(0, 2)
            self._restart_encoder(cookie)
            return cookie
        mask = 0xFFFFFFFF
        position, flags = cookie & 0xFFFFFFFFFFFFFFFF, cookie >> 64 & mask
        feed, skip, need_eof = cookie >> 96 & mask, cookie >> 128 & mask, bool(cookie >> 160)
        await self._binary.seek(position)
        self._forget()
        if self._decoder is not None:
            if cookie:
                self._decoder.setstate((b"", flags))
            else:
                self._decoder.reset()
            self._snapshot = flags, b""
            if skip:
                await self._skip(flags, feed, skip, need_eof)
        self._restart_encoder(cookie)
        return cookie

    async def _skip(self, flags: int, feed: int, skip: int, need_eof: bool) -> None:
        data = await self._binary.read(feed)
        text = self._decoder.decode(data, need_eof)
        if len(text) < skip:
            raise OSError("can't restore logical file position")
        self._snapshot = flags, data
        self._set_text(text[skip:], skip)

    def _restart_encoder(self, cookie: int) -> None:
        if self._encoder is not None:
            if cookie:
                self._encoder.setstate(0)
            else:
                self._encoder.reset()

    # The end

    async def close(self) -> None:
        """Flush the buffers and close the file, even if the flush fails."""
        if self.closed:
            return
        self._forget()
        if self._encoder is None:
            await self._binary.close()
        elif self._seekable:
            await files._finish(self._close())
        else:
            await self._close()

    async def _close(self) -> None:
        try:
            if not self._sync.closed:
                await self.flush()
        finally:
            await self._binary.close()

    def detach(self) -> Any:
        """Return the binary file as the builtin's kind, which waits; this file becomes unusable."""
        self._not_detached()
        self._binary._raw.wait_from_now_on()
        if self._encoded:
            self._sync.write(b"".join(self._encoded))
            self._encoded.clear()
        self._sync.flush()
        self._detached = True
        self._forget()
        return self._sync


# ------------------------------------------------------------------------------------------------------
# Other file-like objects


def _given(argument: Any) -> tuple[Any, ...]:
    """Return the argument for an object's method, none if none was given: the default is the object's own."""
    return () if argument is ... else (argument,)


class WrappedFile(File):
    """Any file-like object; its methods are called in a thread, or directly if it is in memory."""

    # Whether a method may wait forever, so that a cancelled task does not wait for it.
    _may_wait = False

    def __init__(self, file: Any, loop: Any = None, executor: Any = None) -> None:
        """Wrap an object.

        Args: loop and executor are accepted as in aiofiles, and not used.
        """
        super().__init__()
        self._sync = file
        self._here = isinstance(file, (io.BytesIO, io.StringIO))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._sync, name)

    async def _call(self, name: str, *args: Any) -> Any:
        method = getattr(self._sync, name)
        if self._at_once():
            return method(*args)
        op = fileops.Op(functools.partial(method, *args), alone=self._may_wait)
        return await self._in_turn(files._in_thread, op)

    def _at_once(self) -> bool:
        return self._here

    async def read(self, size: Any = ...) -> Any:
        """Call the object\'s read()."""
        return await self._call("read", *_given(size))

    async def read1(self, size: Any = ...) -> Any:
        """Call the object\'s read1()."""
        return await self._call("read1", *_given(size))

    async def readall(self) -> Any:
        """Call the object\'s readall()."""
        return await self._call("readall")

    async def readinto(self, buffer: Any) -> Any:
        """Call the object\'s readinto()."""
        return await self._call("readinto", buffer)

    async def readinto1(self, buffer: Any) -> Any:
        """Call the object\'s readinto1()."""
        return await self._call("readinto1", buffer)

    async def peek(self, size: Any = ...) -> Any:
        """Call the object\'s peek()."""
        return await self._call("peek", *_given(size))

    async def readline(self, size: Any = ...) -> Any:
        """Call the object\'s readline()."""
        return await self._call("readline", *_given(size))

    async def readlines(self, hint: Any = ...) -> Any:
        """Call the object\'s readlines()."""
        return await self._call("readlines", *_given(hint))

    async def write(self, data: Any) -> Any:
        """Call the object\'s write()."""
        return await self._call("write", data)

    async def writelines(self, lines: Iterable[Any]) -> None:
        """Call the object\'s writelines()."""
        await self._call("writelines", lines)

    async def seek(self, offset: int, whence: int = 0) -> Any:
        """Call the object\'s seek()."""
        return await self._call("seek", offset, whence)

    async def tell(self) -> Any:
        """Call the object\'s tell()."""
        return await self._call("tell")

    async def truncate(self, size: Any = ...) -> Any:
        """Call the object\'s truncate()."""
        return await self._call("truncate", *_given(size))

    async def flush(self) -> None:
        """Call the object\'s flush()."""
        await self._call("flush")

    async def close(self) -> None:
        """Close the object, even if the task is cancelled."""
        if self._at_once():
            self._sync.close()
        else:
            await files._finish(files.call(self._sync.close))

    def fileno(self) -> Any:
        """Call the object\'s fileno()."""
        return self._sync.fileno()

    def detach(self) -> Any:
        """Call the object\'s detach()."""
        return self._sync.detach()


@functools.singledispatch
def wrap(file: Any, *, loop: Any = None, executor: Any = None) -> Any:
    """Make a file from an open descriptor or a file-like object.

    A descriptor gives a binary file, which closes it. The methods of an object are called in a thread, so
    that changes that other code makes to it are seen; wrap.register() adds types, as in aiofiles.

    Args: loop and executor are accepted as in aiofiles, and not used.
    Raises: TypeError for anything else.
    """
    like = hasattr(file, "close") and (hasattr(file, "read") or hasattr(file, "write"))
    if isinstance(file, type) or not like:
        raise TypeError(f"Unsupported io type: {file}.")
    return WrappedFile(file)


@wrap.register(int)
def _wrap_descriptor(file: int, *, loop: Any = None, executor: Any = None) -> File:
    if isinstance(file, bool):
        raise TypeError(f"Unsupported io type: {file}.")
    mode = "rb+"
    if sys.platform != "win32":
        access = fileops.status_flags(file)
        mode = {os.O_RDONLY: "rb", os.O_WRONLY: "wb"}.get(access & fileops._O_ACCMODE, "rb+")
        if access & os.O_APPEND and mode != "rb":
            mode = mode.replace("wb", "ab").replace("rb+", "ab+")
    return _assemble(file, file, mode, -1, None, None, None, True, False)


class _Standard(WrappedFile):
    """One of the standard streams, looked up in sys at each call."""

    _may_wait = True

    def __init__(self, find: Callable[[], Any]) -> None:
        File.__init__(self)
        self._find = find
        self._here = False

    @property
    def _sync(self) -> Any:
        return self._find()

    def _at_once(self) -> bool:
        return isinstance(self._sync, (io.BytesIO, io.StringIO))


stdin = _Standard(lambda: sys.stdin)
stdout = _Standard(lambda: sys.stdout)
stderr = _Standard(lambda: sys.stderr)
stdin_bytes = _Standard(lambda: sys.stdin.buffer)
stdout_bytes = _Standard(lambda: sys.stdout.buffer)
stderr_bytes = _Standard(lambda: sys.stderr.buffer)


# ------------------------------------------------------------------------------------------------------
# Opening


class _Asked(Exception):
    """Carries the path and flags that the builtin's open() passes to its opener, after its checks."""


def _ask(path: Any, flags: int) -> int:
    raise _Asked(path, flags)


class Opening(Uncopyable):
    """The result of open(): await it, or use it with ``async with``."""

    __slots__ = ("_coro", "_obj")

    #: For annotations.
    __class_getitem__: Any = classmethod(types.GenericAlias)

    def __init__(self, coroutine: Any) -> None:
        """Wrap the coroutine that opens the file."""
        self._coro = coroutine
        self._obj: Any = None

    def __await__(self) -> Generator[Any, Any, Any]:
        if self._obj is None:
            self._obj = yield from self._coro.__await__()
        return self._obj

    async def __aenter__(self) -> Any:
        return await self

    async def __aexit__(self, *exception: object) -> None:
        file, self._obj = self._obj, None
        await file.close()


def open(
    file: Any, mode: str = "r", buffering: int = -1, encoding: str | None = None, errors: str | None = None,
    newline: str | None = None, closefd: bool = True, opener: Callable[[Any, int], int] | None = None, *,
    direct: bool = False, loop: Any = None, executor: Any = None,
) -> Opening:  # fmt: skip
    """Open a file: the builtin's open().

    Args: direct opens it with O_DIRECT: transfers go to the device, in whole blocks, past the page cache.
        opener is called in a thread. loop and executor are accepted as in aiofiles, and not used.
    Returns: an object to await, or to use with ``async with``, for a File.
    """
    if sync_open is not builtins.open:
        return Opening(_open_with_mock(
            file, mode=mode, buffering=buffering, encoding=encoding, errors=errors, newline=newline,
            closefd=closefd, opener=opener,
        ))  # fmt: skip
    return Opening(_open(file, mode, buffering, encoding, errors, newline, closefd, opener, direct))


async def _open_with_mock(*args: Any, **kwargs: Any) -> Any:
    return wrap(await files.call(sync_open, *args, **kwargs), loop=None, executor=None)


async def _open(
    file: Any, mode: str, buffering: int, encoding: str | None, errors: str | None, newline: str | None,
    closefd: bool, opener: Any, direct: bool,
) -> File:  # fmt: skip
    rest = mode, buffering, encoding, errors, newline, closefd
    if direct and not fileops._O_DIRECT:
        raise ValueError(filebatch.NO_DIRECT)
    if isinstance(file, int):
        builtins.open(file, *rest[:-1], False).close()
        return _assemble(file, file, *rest, direct)
    try:
        builtins.open(file, *rest, _ask)  # noqa: SIM115
    except _Asked as asked:
        path, flags = asked.args
    if direct:
        flags |= fileops._O_DIRECT
    if opener is None:
        fd = await files.open_fd(path, flags, 0o666)
    else:
        opening = fileops.Op(functools.partial(opener, path, flags), undo=_close_opened)
        fd = await files._in_thread(opening)
        if not isinstance(fd, int):
            raise TypeError("expected integer from opener")
        if fd < 0:
            raise ValueError(f"opener returned {fd}")
        os.set_inheritable(fd, False)
    return _assemble(path, fd, *rest, direct)


def _close_opened(fd: Any) -> None:
    if isinstance(fd, int) and fd >= 0:
        os.close(fd)


def _assemble(
    file: Any, fd: int, mode: str, buffering: int, encoding: str | None, errors: str | None,
    newline: str | None, closefd: bool, direct: bool,
) -> File:  # fmt: skip
    """Assemble the layers on a descriptor, as the builtin's open() does."""
    try:
        raw: Any = (_DirectRaw if direct else _Raw)(file, fd, mode.replace("b", "").replace("t", ""), closefd)
    except OSError as error:
        if file is not fd:
            os.close(fd)
            if error.errno == errno.EISDIR:
                raise fileops.error_of(errno.EISDIR, file) from None
        raise
    try:
        binary = "b" in mode
        line_buffering = buffering == 1 or (buffering < 0 and raw.isatty())
        if buffering < 0 or buffering == 1:
            buffering = _buffer_size(fd)
        if direct:
            buffering = -(-max(buffering, _DIRECT_SIZE) // raw.block) * raw.block
        if not buffering:
            if binary:
                return RawFile(raw)
            raise ValueError("can't have unbuffered text I/O")
        kind: Any = io.BufferedReader if mode.startswith(("r", "br", "tr")) else io.BufferedWriter
        found = BufferedFile((io.BufferedRandom if "+" in mode else kind)(raw, buffering), buffering)
        if binary:
            return found
        text = TextFile(found, encoding, errors, newline, line_buffering)
        text._mode = mode
        return text
    except BaseException:
        raw.waits = True
        raw.close()
        raise


def _buffer_size(fd: int) -> int:
    size: int = getattr(os.fstat(fd), "st_blksize", 0)
    if sys.version_info >= (3, 14):
        return max(min(size, 8192 * 1024), io.DEFAULT_BUFFER_SIZE)
    return size if size > 1 else io.DEFAULT_BUFFER_SIZE


# ------------------------------------------------------------------------------------------------------
# aiofiles' names: this module takes the place of aiofiles.threadpool

#: open() opens with this if it is not the builtin's open(): tests replace it with a mock, as aiofiles'
#: documentation shows, and register the mock's class with wrap().
sync_open = builtins.open
#: The modules of aiofiles.threadpool.
binary = text = sys.modules[__name__]


class _Kind(type):
    """The type of aiofiles' classes. Their instances are all files over the builtin's class of that name."""

    #: The builtin's class.
    kind: Any

    def __instancecheck__(cls, file: Any) -> bool:
        if isinstance(file, File) and isinstance(getattr(file, "_like", file._sync), cls.kind):
            return True
        return super().__instancecheck__(file)


class AsyncBufferedIOBase(WrappedFile, metaclass=_Kind):
    """A buffered binary file."""

    kind: Any = io.BufferedIOBase


class AsyncBufferedReader(AsyncBufferedIOBase):
    """A buffered binary file that can be read."""

    kind = io.BufferedReader, io.BufferedRandom


class AsyncFileIO(WrappedFile, metaclass=_Kind):
    """An unbuffered binary file."""

    kind = io.FileIO


class AsyncTextIOWrapper(WrappedFile, metaclass=_Kind):
    """A text file."""

    kind = io.TextIOBase


#: The classes of the standard streams.
AsyncTextIndirectIOWrapper = AsyncIndirectBufferedIOBase = _Standard


# ------------------------------------------------------------------------------------------------------
# anyio's names

AsyncFile = File


async def open_file(
    file: Any, mode: str = "r", buffering: int = -1, encoding: str | None = None, errors: str | None = None,
    newline: str | None = None, closefd: bool = True, opener: Callable[[Any, int], int] | None = None, *,
    limiter: Any = None,
) -> File:  # fmt: skip
    """Open a file: anyio's open_file(); see open().

    Args: limiter is kept but not used: there is no pool of threads to limit.
    """
    found: File = await open(file, mode, buffering, encoding, errors, newline, closefd, opener)
    found.limiter = limiter
    return found


def wrap_file(file: Any, *, limiter: Any = None) -> File:
    """Wrap an open file: anyio's wrap_file(); see wrap()."""
    found: File = wrap(file)
    found.limiter = limiter
    return found
