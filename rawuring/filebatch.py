# SPDX-License-Identifier: MIT
# pyright: basic
"""Whole files and batches of files: procedures that yield operations, and Many, which runs them concurrently.

What it is: reading, writing, copying and removing as generators that yield each operation that they need and
are sent its result; Many, which keeps up to depth of them running.
Mirrors: h11's way of keeping I/O outside; os.walk, shutil's copytree and rmtree.
Must not know: asyncio, rings, threads; an engine performs the operations.
Invariant: at most depth procedures hold a descriptor, a buffer or a result not yet taken.
Read next: filesync.py.

An engine has ``start(op, done)``, which returns a handle and later, never before it has returned, calls
``done(result, error)``; and ``cancel(handle)``, after which done() is still called.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat as stat_module
from collections import deque, namedtuple
from functools import partial
from itertools import islice, repeat
from operator import index
from time import perf_counter
from types import GeneratorType

from . import fileops, ops
from .buffers import pin
from .fileops import Op, error_of, open_now, open_op, read_now, read_op, stat_now, stat_op, write_op
from .syscalls import Uncopyable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from typing import Any

    from .fileops import StrOrBytesPath

    Work = Generator[Op, Any, Any]

#: The buffer size of a procedure that reads a file of unknown size.
CHUNK = 1 << 16
#: A copy reports progress, and can be cancelled, after each chunk of this size.
COPY_CHUNK = 1 << 25
#: The most that one request reads: a cancelled read may have to run to its end.
REQUEST_MAX = 1 << 26
_O_BINARY = getattr(os, "O_BINARY", 0)


# ------------------------------------------------------------------------------------------------------
# Reading


class Opened(Uncopyable):
    """A file that is open but not read yet."""

    __slots__ = ("_fd", "fetching", "memory", "size")

    def __init__(self, fd: int, size: int, memory: Any, fetching: bool) -> None:
        self._fd = fd
        self.size = size
        #: A buffer of size + 1 bytes; None if the size is unknown, or too large for one step.
        self.memory = memory
        #: Whether the kernel is fetching the data.
        self.fetching = fetching

    def take(self) -> int:
        """Return the descriptor, which the caller closes."""
        fd, self._fd = self._fd, -1
        return fd

    def read_now(self) -> Any:
        """Return the whole file and close it if all of it has arrived; otherwise None."""
        return self._whole(read_now(self._fd, (self.memory,), 0, self.size + 1))

    def read(self) -> Any:
        """Wait for the whole file and close it; return None if its size has changed."""
        self.fetching = False
        return self._whole(fileops.plain_read(self._fd, [memoryview(self.memory)], 0))

    def _whole(self, got: int | None) -> Any:
        if got != self.size:
            return None
        os.close(self.take())
        return bytes(memoryview(self.memory)[: self.size])

    def close(self) -> None:
        """Close the file unless its descriptor was taken."""
        if getattr(self, "_fd", -1) >= 0:
            os.close(self.take())

    def __del__(self) -> None:
        self.close()


def read_file_now(path: StrOrBytesPath) -> Any:
    """Read a whole file from the caches.

    Returns: the bytes; an Opened if only the open was possible without waiting; otherwise None.
    """
    fd = open_now(path, os.O_RDONLY)
    return None if fd is None else _read_opened_now(fd)


def _read_opened_now(fd: int) -> Any:
    """Read a whole file from the page cache and close it; return an Opened if that would wait."""
    try:
        size = _size(fd)
        if 0 < size < fileops.INLINE_MAX:
            # One byte more than expected: a short read proves that the end was reached.
            memory = bytearray(size + 1)
            got = fileops.fetch_now(fd, (memory,))
            if got == size:
                del memory[size]
                data = bytes(memory)
                os.close(fd)
                return data
            if got is not None or stat_module.S_ISREG(os.fstat(fd).st_mode):
                return Opened(fd, size, memory, got is not None)
    except IsADirectoryError:
        pass  # the later read raises it, with the path
    except BaseException:
        os.close(fd)
        raise
    return Opened(fd, size, None, False)


def _size(fd: int) -> int:
    """Return the apparent size of a file; 0 if it has none.

    lseek() takes a third of the time of fstat(); the position that it moves is not used.
    """
    try:
        return os.lseek(fd, 0, os.SEEK_END)
    except OSError:  # a pipe, or a file of /proc
        return 0


def read_group_op(paths: list[Any], batch: Any = None) -> Op:
    """Return the operation that reads whole files in one thread, after making the kernel fetch them all.

    Args: batch is a Many that may be stopped meanwhile.
    Returns: an Op. Its result is a list with, for each file, the bytes, the exception, or an Opened if the
        file is too large for one step or not regular; and whether more threads would have waited less.
    """
    return Op(partial(_read_group, paths, batch), undo=_drop_group)


def _read_group(paths: list[Any], batch: Any) -> tuple[list[Any], bool]:
    found: list[Any] = []
    slow = False
    try:
        while len(found) < len(paths):
            begun = len(found)
            _, waited = _timed(partial(_open_group, paths, found, batch))
            if begun == len(found):
                break  # the batch was stopped
            fetched, late = _timed(partial(_read_opened, found, begun))
            slow = slow or waited or (late and not fetched)
    except BaseException:
        _drop_group((found, False))
        raise
    return found, slow


def _open_group(paths: list[Any], found: list[Any], batch: Any) -> tuple[None, int]:
    """Open as many files as the limits allow, and make the kernel fetch them."""
    begun = len(found)
    for path in paths[begun:]:
        if batch is not None and batch.stopping:
            break
        try:
            # os.open() accepts a bytearray with a warning; open() rejects it.
            fd = os.open(os.fspath(path), os.O_RDONLY | _O_BINARY | fileops.O_NONBLOCK | fileops.O_CLOEXEC)
            found.append(_read_opened_now(fd))
        except Exception as error:
            if len(found) > begun and getattr(error, "errno", 0) in TOO_MANY:
                break
            found.append(error)
    return None, len(found) - begun


def _read_opened(found: list[Any], begun: int) -> tuple[bool, int]:
    """Read the open files and close them; return whether the kernel was fetching all of them."""
    fetched = True
    for at in range(begun, len(found)):
        each = found[at]
        if each.__class__ is Opened and each.memory is not None:
            fetched = fetched and each.fetching
            try:
                found[at] = each.read() or each
            except Exception as error:
                each.close()
                found[at] = error
    return fetched, len(found) - begun


def _drop_group(result: Any) -> None:
    for each in result[0]:
        if each.__class__ is Opened:
            each.close()


def read_file(path: StrOrBytesPath, opened: Opened) -> Work:
    """Read a whole open file."""
    fd = opened.take()
    try:
        memory, size = opened.memory, opened.size
        if memory is not None:
            view = memoryview(memory)
            if (yield read_op(fd, [view], 0, True)) == size:
                return bytes(view[:size])
        found = os.fstat(fd)
        if not stat_module.S_ISREG(found.st_mode):
            if stat_module.S_ISDIR(found.st_mode):
                raise error_of(errno.EISDIR, path)
            return (yield fileops.read_special_op(path))
        return (yield from _read_rest(fd, found.st_size))
    finally:
        os.close(fd)


def _read_rest(fd: int, size: int) -> Work:
    """Read a regular file of about that size from its beginning to its current end."""
    parts: list[bytes] = []
    at = 0
    while True:
        length = min(size - at, fileops.MAX_RW_COUNT) if size > at else CHUNK
        memory = fileops.room(length)
        view = memoryview(memory)
        got = 0
        while got < length:
            res = read_now(fd, (view[got:],), at + got, length - got) if length <= CHUNK else None
            if not res:
                res = yield read_op(fd, [view[got : got + REQUEST_MAX]], at + got, True)
            if not res:
                break
            got += res
        parts.append(bytes(view[:got]))
        view.release()
        at += got
        # A file of /proc has size 0 and contents; a file that grew meanwhile also has more than its size.
        if got < length or (size and at >= size and fileops.at_end(fd, at)):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def read_range(file: Any, offset: int, length: int) -> Work:
    """Read a range of a path or a descriptor; the result is short only at the end of the file."""
    offset, length = index(offset), index(length)
    fileops.check_range(length, offset)
    if isinstance(file, int):
        return (yield from _read_part(file, offset, length))
    fd = open_now(file, os.O_RDONLY)
    if fd is None:
        fd = yield open_op(os.fspath(file), os.O_RDONLY | _O_BINARY, 0, None)
    try:
        return (yield from _read_part(fd, offset, length))
    finally:
        os.close(fd)


def _read_part(fd: int, offset: int, length: int) -> Work:
    memory = fileops.room(length)
    got = yield from read_into(fd, offset, memory)
    return bytes(memory) if got == length else bytes(memoryview(memory)[:got])


def read_into(fd: int, offset: int, memory: Any, direct: bool = False) -> Work:
    """Fill memory from an offset of a file; the result is short only at the end of the file."""
    view = memoryview(memory).cast("B")
    length, got = len(view), 0
    while got < length:
        rest = view[got:] if got else view
        res = None
        if not direct and length <= fileops.INLINE_MAX:
            res = read_now(fd, (rest,), offset + got, length - got)
        if res is None:
            rest = rest[:REQUEST_MAX]
            res = yield read_op(fd, [rest], offset + got)
        got += res
        # A short O_DIRECT read is the last one.
        if not res or (direct and res < len(rest)) or (got < length and fileops.at_end(fd, offset + got)):
            break
    return got


@contextlib.contextmanager
def into_all(
    fd: int, pairs: list[tuple[int, Any]], direct: bool
) -> Iterator[tuple[Callable[[Any], Any], int | None]]:
    """Yield a function that makes a procedure, or a Fill, for an (offset, buffer) of read_many_into().

    With it comes the descriptor whose reads may go to a ring as they are, or None.
    With direct the file is reopened with O_DIRECT for the duration of the block.
    """
    own = open_direct(fd) if direct else fd
    try:
        addresses = direct and check_direct(own, pairs)
        for offset, _ in pairs:
            fileops.check_range(0, offset)
        quick = addresses and not fileops.PYPY and stat_module.S_ISREG(os.fstat(own).st_mode)
        if quick:
            yield partial(Fill, own), own
        else:
            yield partial(_into_one, own, direct), None
    finally:
        if direct:
            os.close(own)


def _into_one(fd: int, direct: bool, pair: tuple[int, Any]) -> Work:
    return read_into(fd, pair[0], pair[1], direct)


class Fill(Uncopyable):
    """An O_DIRECT read of a regular file: a single request if it succeeds.

    A procedure would add twice the time of the request itself.
    """

    __slots__ = ("fd", "pair", "pin")

    def __init__(self, fd: int, pair: tuple[int, Any]) -> None:
        self.fd = fd
        self.pair = pair
        self.pin = pin(pair[1], True)

    def work(self) -> Work:
        """Return the procedure that takes over if the request failed or there is no ring."""
        return _into_one(self.fd, True, self.pair)


def reader() -> Callable[[Any], Any]:
    """Return a function that reads an item of read_many(): a path, or (file, offset, length).

    Returns: the function. It returns the bytes, the procedure that reads them, an Opened, or None for an
        uncached path, which read_group_op() reads together with others. After eight uncached paths in a row
        it tries the caches only for one path in eight.
    """
    misses = 0

    def read(item: Any) -> Any:
        nonlocal misses
        if isinstance(item, tuple):
            if len(item) != 3:
                raise ValueError(f"{item!r:.100}: expected a path or (file, offset, length)")
            return read_range(*item)
        found = None
        if misses < 8 or misses % 8 == 0:
            found = read_file_now(item)
        misses = misses + 1 if found is None else 0
        return found

    return read


def stater(follow_symlinks: bool) -> Callable[[Any], Any]:
    """Return a function that returns the status of a path, or the procedure that finds it."""
    return partial(_stat, follow_symlinks)


def _stat(follow_symlinks: bool, path: StrOrBytesPath) -> Any:
    try:
        found = stat_now(path, None, follow_symlinks)
    except fileops.WRONG:
        found = None  # os.stat() raises the right exception
    return _stat_file(path, follow_symlinks) if found is None else found


def _stat_file(path: StrOrBytesPath, follow_symlinks: bool) -> Work:
    return (yield stat_op(path, None, follow_symlinks))


#: Up to this many paths are statted one by one: starting a thread would take longer.
FEW = 16


def stat_pieces(
    pairs: Iterable[tuple[Any, Any]], follow_symlinks: bool, depth: int, most: int, engine: Any
) -> Many:
    """Return the batch that stats the paths of (key, path) pairs in threads.

    Args: most limits how many pairs are consumed before their results are taken.
    """
    items = iter(pairs)
    many = Many(engine, None, (), depth)
    pieces = Pieces(many)
    make = partial(_stat_piece, pieces, os.stat if follow_symlinks else os.lstat)
    # Whatever the number of threads, now and before, they and the waiting results hold at most this many.
    many.feed(make, iter(lambda: list(islice(items, most // many.depth)), []))
    return many


def stat_all(paths: list[Any], follow_symlinks: bool, depth: int, engine: Any) -> Many:
    """Return the batch that stats paths; the keys are their indices."""
    pairs = enumerate(paths)
    if len(paths) <= FEW:
        return Many(engine, stater(follow_symlinks), pairs, depth)
    return stat_pieces(pairs, follow_symlinks, depth, max(depth, 1024), engine)


def _stat_piece(pieces: Pieces, call: Any, pairs: list[tuple[Any, Any]]) -> Work:
    found = yield from pieces.do(partial(pieces.each, call, pairs))
    pieces.add(partial(_stat_piece, pieces, call), pairs[len(found) :])
    return found


# ------------------------------------------------------------------------------------------------------
# Writing


def write_file(path: StrOrBytesPath, data: Any, atomic: bool, sync: bool) -> Work:
    """Write a whole file.

    One thread does everything: workers of the kernel, one after the other, took longer, even a single one
    for the fsync.
    """
    view = fileops.as_view(data)
    name = target = os.fspath(path)
    if atomic:
        target = os.path.realpath(name) if os.path.islink(name) else name
        atomic = not _is_special(name)
    used = _beside(target) if atomic else name
    start = partial(_write_all, used, view, atomic and target, sync)
    try:
        special = yield Op(start, names=(path,), undo=_close_special)
        if special is not None:  # this open may wait forever
            yield fileops.write_special_op(path, special[0], view)
        if atomic:
            yield fileops.rename_op(used, target, None, None, True)
            used = None
            if sync:
                yield Op(partial(_sync_directory, os.path.dirname(target)))
    except OSError as error:
        if not atomic or error.errno is None:
            raise
        raise error_of(error.errno, path) from None  # the caller does not know the temporary name
    finally:
        if atomic and used is not None:
            with contextlib.suppress(OSError, ValueError):
                os.unlink(used)
    return len(view)


def _is_special(name: Any) -> bool:
    """Return whether a name is a device, a FIFO or a socket, which a file must not replace."""
    try:
        mode = os.stat(name).st_mode
    except (OSError, ValueError):
        return False  # the open raises it
    return not (stat_module.S_ISREG(mode) or stat_module.S_ISDIR(mode))


def _beside(name: Any) -> Any:
    """Return an unused name in the same directory."""
    directory, base = os.path.split(name)
    token = os.urandom(6).hex()  # noqa: TID251
    if isinstance(name, bytes):
        return os.path.join(directory, b"." + base[:200] + b"." + token.encode() + b".tmp")
    return os.path.join(directory, f".{base[:50]}.{token}.tmp")  # a character takes up to 4 bytes


def _write_all(name: Any, view: memoryview, like: Any, sync: bool) -> list[int | None] | None:
    """Create a file, write all of it, and close it.

    Args: like is the file whose permissions a new one takes over, if it exists.
    Returns: None; for a file that is not regular, and still has to be written, a list of the descriptor or of
        None.
    """
    flags = fileops.O_NONBLOCK | os.O_WRONLY | os.O_CREAT | _O_BINARY | (os.O_EXCL if like else os.O_TRUNC)
    try:
        fd = os.open(name, flags | getattr(os, "O_CLOEXEC", 0), 0o666)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a FIFO without a reader
            return [None]
        raise
    try:
        if not stat_module.S_ISREG(os.fstat(fd).st_mode):
            return [fd]
        if like and hasattr(os, "fchmod"):  # before the file has contents
            try:
                os.fchmod(fd, stat_module.S_IMODE(os.stat(like).st_mode))
            except FileNotFoundError:
                pass
        at = 0
        while at < len(view):
            at += os.write(fd, view[at : at + fileops.MAX_RW_COUNT] if at or len(view) > 1 << 30 else view)
        if sync:
            os.fsync(fd)
    except BaseException:
        os.close(fd)
        if like:
            os.unlink(name)
        raise
    os.close(fd)
    return None


def _close_special(special: list[int | None] | None) -> None:
    if special is not None and special[0] is not None:
        os.close(special[0])


def _sync_directory(directory: Any) -> None:
    if not hasattr(os, "O_DIRECTORY"):
        return
    fd = os.open(directory or os.curdir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# ------------------------------------------------------------------------------------------------------
# Copying

_FICLONE = 0x40049409  # Source: Linux include/uapi/linux/fs.h


def copy_file(src: StrOrBytesPath, dst: StrOrBytesPath, metadata: bool, progress: Any) -> Work:
    """Copy a file by sharing its blocks, inside the kernel, or through memory: the first that works."""
    started = yield Op(partial(_copy_start, src, dst, metadata), names=(src, dst), undo=_close_both)
    if isinstance(started, int):  # the copy is complete
        if progress is not None:
            progress(started, started)
        return started
    source, target, size = started
    try:
        at, in_kernel = 0, hasattr(os, "copy_file_range")
        while True:
            if in_kernel:
                got = yield Op(partial(_copy_range, source, target, at, size))
                if got is None:
                    in_kernel = False
                    continue
            else:
                got = yield from _copy_through_memory(source, target, at)
            at += got
            if not got:
                break
            if progress is not None:
                progress(at, max(size, at))
        if metadata:
            yield Op(partial(_copy_metadata, src, dst, source, target))
    finally:
        _close_both(started)
    return at


def _copy_start(
    src: StrOrBytesPath, dst: StrOrBytesPath, metadata: bool, unlike: set[Any] | None = None,
    new: bool = False,
) -> Any:  # fmt: skip
    """Open both files, and copy them if that takes only one step.

    Args: unlike is a set of pairs of devices that cannot share blocks; new says that the source was a regular
        file a moment ago, and that the target did not exist.
    Returns: the number of bytes if the copy is complete; otherwise both descriptors and the size.
    """
    src, dst = os.fspath(src), os.fspath(dst)
    for path in () if new else (src, dst):  # opening a FIFO would be visible to its other end
        try:
            is_fifo = stat_module.S_ISFIFO(os.stat(path).st_mode)
        except OSError:
            continue
        if is_fifo:
            raise _special(path, "a named pipe")
    source = os.open(src, os.O_RDONLY | _O_BINARY | fileops.O_NONBLOCK)
    try:
        found = os.fstat(source)
        if not stat_module.S_ISREG(found.st_mode):
            if stat_module.S_ISDIR(found.st_mode):
                raise error_of(errno.EISDIR, src)
            raise _special(src, "not a regular file")
        flags = os.O_WRONLY | os.O_CREAT | _O_BINARY | getattr(os, "O_CLOEXEC", 0) | fileops.O_NONBLOCK
        # With metadata, the copy must never be more readable than the file, not even for a moment.
        mode = stat_module.S_IMODE(found.st_mode) & 0o777 | 0o200 if metadata else 0o666
        target = os.open(dst, flags, mode)
    except BaseException:
        os.close(source)
        raise
    both = source, target, found.st_size
    try:
        there = os.fstat(target)
        if os.path.samestat(found, there):
            import shutil

            raise shutil.SameFileError(f"{os.fspath(src)!r} and {os.fspath(dst)!r} are the same file")
        if fileops.O_NONBLOCK and not stat_module.S_ISREG(there.st_mode):
            os.set_blocking(target, True)
        if there.st_size:
            os.ftruncate(target, 0)
        size = found.st_size
        devices = found.st_dev, there.st_dev
        if (unlike is not None and devices in unlike) or not _clone(source, target, size):
            if unlike is not None and size:
                unlike.add(devices)
            if size > COPY_CHUNK:
                return both
            size = _copy_at_once(source, target, size)
        if metadata:
            _copy_metadata(src, dst, source, target)
    except BaseException:
        _close_both(both)
        raise
    _close_both(both)
    return size


def _special(path: Any, kind: str) -> Exception:
    import shutil

    return shutil.SpecialFileError(f"`{os.fspath(path)!s}` is {kind}")


def _close_both(started: Any) -> None:
    if not isinstance(started, int):
        os.close(started[0])
        os.close(started[1])


# Errors of extended attributes that shutil.copystat() ignores.
_NO_XATTR = (errno.ENOTSUP, errno.ENODATA, errno.EINVAL)


def _copy_metadata(src: StrOrBytesPath, dst: StrOrBytesPath, source: int, target: int) -> None:
    """Do as shutil.copystat() does; on Linux through the descriptors, which takes a third of the time."""
    if not fileops.LINUX:
        import shutil

        shutil.copystat(src, dst)
        return
    try:
        found = os.fstat(source)
        os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
        try:
            names = os.listxattr(source) if hasattr(os, "listxattr") else []
        except OSError as error:
            if error.errno not in _NO_XATTR:
                raise
            names = []
        for name in names:
            try:
                os.setxattr(target, name, os.getxattr(source, name))
            except OSError as error:
                if error.errno not in _NO_XATTR and error.errno != errno.EPERM:
                    raise
        os.fchmod(target, stat_module.S_IMODE(found.st_mode))
    except OSError as error:
        error.filename = dst
        raise


def _clone(source: int, target: int, size: int) -> bool:
    if not fileops.LINUX or not size:
        return False
    try:
        fileops.fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False  # another file system, or one that cannot share blocks
    return True


_NOT_IN_KERNEL = (errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM)


def _copy_range(source: int, target: int, at: int, size: int) -> int | None:
    """Copy inside the kernel, and preserve holes.

    Returns: the distance to the start of the next copy, 0 at the end; None if the kernel cannot copy.
    """
    start, length = at, COPY_CHUNK
    try:
        if at < size and os.fstat(source).st_blocks * 512 < size:
            try:
                start = os.lseek(source, at, os.SEEK_DATA)
                length = min(length, os.lseek(source, start, os.SEEK_HOLE) - start)
            except OSError as error:
                if error.errno == errno.ENXIO:  # only a hole is left
                    os.ftruncate(target, size)
                    return size - at
        return start - at + os.copy_file_range(source, target, length, start, start)
    except OSError as error:
        if error.errno in _NOT_IN_KERNEL:
            return None
        raise


def _copy_at_once(source: int, target: int, size: int) -> int:
    """Copy a file in one step; return the number of bytes."""
    # A file of size 0 may have contents, as in /proc; a copy inside the kernel trusts the size.
    if not size or not hasattr(os, "copy_file_range"):
        return _copy_small(source, target)
    at = 0
    while at < size:
        got = _copy_range(source, target, at, size)
        if got is None:
            return _copy_small(source, target)
        if not got:
            break
        at += got
    return at


def _copy_small(source: int, target: int) -> int:
    os.lseek(source, 0, os.SEEK_SET)  # the search for holes has moved the position
    at = 0
    while True:
        data = os.read(source, 1 << 18)
        if not data:
            return at
        at += len(data)
        while data:
            data = data[os.write(target, data) :]


def _copy_through_memory(source: int, target: int, at: int) -> Work:
    memory = fileops.room(1 << 20)
    view = memoryview(memory)
    got: int = yield read_op(source, [view], at)
    put = 0
    while put < got:
        put += yield write_op(target, [view[put:got]], at + put)
    return got


# ------------------------------------------------------------------------------------------------------
# Trees


class Entry(namedtuple("Entry", "name path stat")):
    """One entry of a directory, with the result of lstat()."""

    __slots__ = ()

    name: Any
    path: Any
    stat: os.stat_result

    def is_dir(self) -> bool:
        """Return whether it is a directory, and not a link to one."""
        return stat_module.S_ISDIR(self.stat.st_mode)

    def is_file(self) -> bool:
        """Return whether it is a regular file, and not a link to one."""
        return stat_module.S_ISREG(self.stat.st_mode)

    def is_symlink(self) -> bool:
        """Return whether it is a symbolic link."""
        return stat_module.S_ISLNK(self.stat.st_mode)


def list_directory(path: Any, batch: Any = None) -> list[Entry]:
    """List a directory with the stat of each entry, without entries that vanish meanwhile.

    Args: batch is a Many that may be stopped meanwhile.
    """
    entries = []
    new = partial(tuple.__new__, Entry)  # half the time of Entry()
    with os.scandir(path) as found:
        for each in found:
            try:
                entries.append(new((each.name, each.path, each.stat(follow_symlinks=False))))
            except FileNotFoundError:
                continue
            if batch is not None and batch.stopping:
                break
    return entries


def walk_pieces(top: Any, depth: int, engine: Any) -> Many:
    """Return the batch that lists a tree in threads; its results are (directory, entries, exception)."""
    many = Many(engine, None, (), depth)
    pieces = Pieces(many)
    pieces.add(partial(_walk_piece, many, pieces, top), [top])
    return many


def _walk_piece(many: Many, pieces: Pieces, top: Any, waiting: list[Any]) -> Work:
    try:
        found = yield from pieces.do(partial(_list_some, many, top, waiting))
    except OSError as error:
        if error.errno in TOO_MANY and len(many.running) > 1:
            raise  # the directory is tried again
        found = Found([(waiting.pop(), None, error)])
    pieces.add(partial(_walk_piece, many, pieces, top), waiting)
    return found


def _list_some(many: Many, top: Any, waiting: list[Any]) -> tuple[Found, int]:
    """List the directories on a stack, and those below them, in a thread, until the piece's time is up."""
    found, count = Found(), 0
    until = perf_counter() + PIECE_S
    while waiting and not many.stopping:
        path = waiting.pop()
        if path is not top and os.path.islink(path):  # a directory was replaced by a link
            continue
        try:
            entries = list_directory(path, many)
        except OSError as error:
            if error.errno in TOO_MANY:
                waiting.append(path)
                if not found:
                    raise
                break
            found.append((path, None, error))
        else:
            found.append((path, entries, None))
            is_dir = stat_module.S_ISDIR
            waiting.extend([each.path for each in reversed(entries) if is_dir(each.stat.st_mode)])
            count += len(entries)
        count += 1
        if perf_counter() > until:
            break
    return found, count


def copy_options(symlinks: bool, ignore: Any, dirs_exist_ok: bool) -> dict[str, Any]:
    """Return the state that the procedures of one copy_tree() share."""
    return {
        "symlinks": symlinks, "ignore": ignore, "dirs_exist_ok": dirs_exist_ok,
        "directories": [], "errors": [], "unlike": set(),
    }  # fmt: skip


def copy_pieces(src: Any, dst: Any, options: dict[str, Any], depth: int, engine: Any) -> Many:
    """Return the batch that copies a tree in threads; each result is a number of files."""
    many = Many(engine, None, (), depth)
    # Most of a copy is work of the kernel, during which the thread does not hold the interpreter.
    pieces = Pieces(many, os.cpu_count() or 1)
    options["top"] = os.fspath(src), os.fspath(dst), None
    pieces.add(partial(_copy_piece, many, pieces, options), [options["top"]])
    return many


def _copy_piece(many: Many, pieces: Pieces, options: dict[str, Any], waiting: list[Any]) -> Work:
    count, large = yield from pieces.do(partial(_copy_some, many, options, waiting))
    pieces.add(partial(_copy_piece, many, pieces, options), waiting)
    for src, dst in large:
        try:
            yield from copy_file(src, dst, True, None)
        except OSError as error:
            options["errors"].append((src, dst, str(error)))
    return count


def _copy_some(many: Many, options: dict[str, Any], waiting: list[Any]) -> tuple[Any, int]:
    """Copy the (source, target, how) items on a stack until the piece's time is up.

    Returns: the number of files, the large ones, which still have to be copied in steps, and the number of
        items.
    """
    count, items = 0, 0
    large = []
    until = perf_counter() + PIECE_S
    while waiting and not many.stopping:
        job = src, dst, copy = waiting.pop()
        items += 1
        try:
            if copy is None:
                waiting.extend(_plan_copy(src, dst, options))
            else:
                count += 1
                started = copy(src, dst, options["unlike"])
                if isinstance(started, tuple):
                    _close_both(started)
                    large.append((src, dst))
        except OSError as error:
            if job == options["top"]:
                raise
            options["errors"].append((src, dst, str(error)))
        if perf_counter() > until:
            break
    return (count, large), items


def _plan_copy(src: Any, dst: Any, options: dict[str, Any]) -> list[Any]:
    """Make a directory, and return the items to copy into it, files last."""
    with os.scandir(src) as found:
        entries = list(found)
    ignore = options["ignore"]
    ignored = set() if ignore is None else set(ignore(os.fspath(src), [each.name for each in entries]))
    os.makedirs(dst, exist_ok=options["dirs_exist_ok"])
    options["directories"].append((src, dst))
    directories: list[Any] = []
    others: list[Any] = []
    for each in entries:
        if each.name in ignored:
            continue
        target = os.path.join(dst, each.name)
        if options["symlinks"] and each.is_symlink():
            others.append((each.path, target, _copy_link))
        elif each.is_dir():
            directories.append((each.path, target, None))
        else:
            new = not options["dirs_exist_ok"] and each.is_file()
            others.append((each.path, target, _copy_new if new else _copy_old))
    return directories + others


def _copy_link(src: Any, dst: Any, _unlike: set[Any]) -> None:
    import shutil

    os.symlink(os.readlink(src), dst)
    shutil.copystat(src, dst, follow_symlinks=False)


def _copy_new(src: Any, dst: Any, unlike: set[Any]) -> Any:
    return _copy_start(src, dst, True, unlike, True)


def _copy_old(src: Any, dst: Any, unlike: set[Any]) -> Any:
    return _copy_start(src, dst, True, unlike)


def end_copy_tree(options: dict[str, Any]) -> Work:
    """Copy the directories' metadata, innermost first, and report the errors."""
    yield Op(partial(_end_directories, options))
    if options["errors"]:
        import shutil

        raise shutil.Error(options["errors"])


def _end_directories(options: dict[str, Any]) -> None:
    import shutil

    for src, dst in reversed(options["directories"]):
        try:
            shutil.copystat(src, dst)
        except OSError as error:
            options["errors"].append((src, dst, str(error)))


def remove_tree(path: Any, ignore_errors: bool, progress: Any) -> Work:
    """Remove a directory and its contents."""
    removed = 0
    with contextlib.closing(_removing(path, ignore_errors)) as removing:
        while True:
            got, ended = yield Op(partial(_advance, removing))
            removed += got
            if progress is not None and got:
                progress(removed)
            if ended:
                return removed


def _advance(removing: Iterator[None]) -> tuple[int, bool]:
    """Remove entries for the time of a piece; return their number, and whether they were the last."""
    until = perf_counter() + PIECE_S
    count = 0
    for _ in removing:
        count += 1
        if perf_counter() > until:
            return count, False
    return count, True


def _removing(path: Any, ignore_errors: bool) -> Generator[None, None, None]:
    """Remove entries one after the other; never follow a link, even if one replaces a directory meanwhile."""
    if ignore_errors and (os.path.islink(path) or not os.path.isdir(path)):
        return
    if os.path.islink(path):
        raise OSError("Cannot call remove_tree on a symbolic link")
    if not stat_module.S_ISDIR(os.lstat(path).st_mode):
        raise error_of(errno.ENOTDIR, path)

    def refuse(error: OSError) -> None:
        if not ignore_errors:
            raise error

    walking: Any
    if hasattr(os, "fwalk") and os.unlink in os.supports_dir_fd:
        walking = os.fwalk(path, topdown=False, onerror=refuse, follow_symlinks=False)
    else:
        walking = ((*each, None) for each in os.walk(path, topdown=False, onerror=refuse))
    for directory, names, files, fd in walking:
        for kind, every in ((os.unlink, files), (os.rmdir, names)):
            for name in every:
                try:
                    if fd is None:
                        kind(os.path.join(directory, name))
                    else:
                        kind(name, dir_fd=fd)
                except OSError:  # _remove() tries again, and tells the cases apart
                    if not _remove(kind, directory, name, fd, ignore_errors):
                        continue
                yield
    if _remove(os.rmdir, path, "", None, ignore_errors):
        yield


def _remove(call: Any, directory: Any, name: Any, fd: int | None, ignore_errors: bool) -> bool:
    path = os.path.join(directory, name) if name else directory
    keywords: dict[str, Any] = {} if fd is None else {"dir_fd": fd}
    try:
        try:
            call(path if fd is None else name, **keywords)
        except NotADirectoryError:
            if not name:
                raise
            # It is a link to a directory.
            os.unlink(path if fd is None else name, **keywords)
    except OSError as error:
        if ignore_errors:
            return False
        error.filename = path
        raise
    return True


# ------------------------------------------------------------------------------------------------------
# O_DIRECT

_STATX_DIOALIGN = 0x2000
NO_DIRECT = "direct=True: this platform has no O_DIRECT; omit it"


def open_direct(fd: int) -> int:
    """Reopen an open file with O_DIRECT.

    Raises: OSError with EINVAL if the file system does not support O_DIRECT; ValueError if the platform
        has none.
    """
    if not fileops._O_DIRECT:
        raise ValueError(NO_DIRECT)
    flags = fileops.status_flags(fd) & fileops._O_ACCMODE
    return os.open(f"/proc/self/fd/{fd}", flags | os.O_DIRECT | os.O_CLOEXEC)


def alignment(fd: int) -> tuple[int, int]:
    """Return the alignment that O_DIRECT requires of memory, and that of offsets and lengths.

    Source: STATX_DIOALIGN (6.1); before that the block size that the file system reports, which suffices.
    """
    from .buffers import StatxBuffer

    block = max(os.fstat(fd).st_blksize, 512)
    try:
        found = StatxBuffer()
        told = _statx(fd, _STATX_DIOALIGN, found)
    except ImportError:  # no ctypes
        told = False
    if told:
        x = found.result()
        if x.stx_mask & _STATX_DIOALIGN and x.stx_dio_offset_align:
            return x.stx_dio_mem_align, x.stx_dio_offset_align
    return min(block, 4096), block


def _statx(fd: int, mask: int, found: Any) -> bool:
    """Call statx() of libc, which exists since glibc 2.28."""
    import ctypes

    try:
        call = ctypes.CDLL(None).statx
    except (AttributeError, OSError):
        return False
    call.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p]
    return call(fd, b"", 0x1000, mask, found.address) == 0  # type: ignore[no-any-return]


def check_direct(fd: int, ranges: Iterable[tuple[int, Any]]) -> bool:
    """Check that O_DIRECT accepts each range.

    Returns: whether this Python can determine addresses, which requires ctypes.
    Raises: ValueError that names offset, length and address.
    """
    memory_align, align = alignment(fd)
    addresses = True
    for offset, buffer in ranges:
        if fileops.PYPY and isinstance(buffer, memoryview) and not buffer.readonly:
            nbytes, address = buffer.nbytes, 0  # a buffer may move, so the kernel reads into an aligned copy
        else:
            try:
                found = pin(buffer, True)
                nbytes, address = found.nbytes, found.address
            except ImportError:  # the kernel will return EINVAL
                nbytes, address, addresses = memoryview(buffer).nbytes, 0, False
        if offset % align or nbytes % align or address % memory_align:
            raise ValueError(
                f"O_DIRECT: offset {offset} and length {nbytes} must be multiples of {align}, and the "
                f"address {address:#x} one of {memory_align}: files.allocate() makes such memory"
            )
    return addresses


# ------------------------------------------------------------------------------------------------------
# Many at a time

#: Errors that pass once other procedures close their files.
TOO_MANY = (errno.EMFILE, errno.ENFILE)


def check_depth(depth: int) -> int:
    """Return a depth, or raise ValueError if it is below 1."""
    if index(depth) < 1:
        raise ValueError(f"depth={depth}: expected at least 1")
    return index(depth)


class Engine(Uncopyable):
    """The common part of the engines: an operation that this kernel lacks becomes the plain call."""

    #: The prep functions of operations that this kernel lacks.
    unknown: set[Any]

    def start(self, op: Op, done: Callable[[Any, BaseException | None], object]) -> Any:
        """Start an operation.

        Args: done is called with the result and the exception.
        Returns: a handle for cancel().
        """
        handle = None
        if op.prep is not None:
            handle = self.request(op.prep, op.arguments, partial(self.completed, op, done), op.options)
        return self.start_thread(op, done) if handle is None else handle

    def request(
        self, prep: Any, arguments: tuple[Any, ...], handler: Callable[[int, int], object],
        options: dict[str, Any] = fileops._NO_OPTIONS,
    ) -> Any:  # fmt: skip
        """Start a request; return a handle for cancel(), or None if no ring can take it."""
        raise NotImplementedError

    def start_thread(self, op: Op, done: Callable[[Any, BaseException | None], object]) -> Any:
        """Make the plain call in a thread; return a handle."""
        raise NotImplementedError

    def completed(
        self, op: Op, done: Callable[[Any, BaseException | None], object], res: int, _flags: int
    ) -> None:
        """Receive the CQE of a request; this is the handler in the table."""
        if res >= 0:
            done(op.result(res), None)
        elif -res in fileops.UNKNOWN:
            self.start_thread(op, partial(self._learn, op, done))
        else:
            done(None, op.error(-res))

    def _learn(self, op: Op, done: Any, result: Any, error: BaseException | None) -> None:
        """Note that this kernel lacks an operation if the plain call has succeeded."""
        if error is None:
            self.unknown.add(op.prep)
        done(result, error)


class _Run(Uncopyable):
    """One running procedure."""

    __slots__ = ("handle", "item", "key", "make", "op", "opened", "seen", "work")

    def __init__(self, key: Any, make: Callable[[Any], Any], item: Any, seen: int) -> None:
        self.key = key
        self.make = make
        self.item = item
        #: The number of procedures that had ended when this one began.
        self.seen = seen
        self.work: Any = None
        self.op: Any = None
        self.handle: Any = None
        #: The file that it is about to read, while the kernel fetches its data.
        self.opened: Any = None


class Many(Uncopyable):
    """A batch of procedures, at most depth of them at a time, and their results."""

    def __init__(
        self, engine: Any, make: Callable[[Any], Any] | None, work: Iterable[tuple[Any, Any]], depth: int
    ) -> None:
        """Start nothing yet.

        Args: work yields pairs of a key, which is returned with the result, and an item, which make() turns
            into a procedure or directly into the result.
        """
        self.engine = engine
        self.depth = check_depth(depth)
        self.running: set[_Run] = set()
        #: (key, result, exception) of each procedure that has ended, until it is taken.
        self.done: deque[tuple[Any, Any, BaseException | None]] = deque()
        #: Called once when a procedure has ended.
        self.wake: Callable[[], object] | None = None
        self._make: Any = make
        self._work = iter(work)
        # (key, make, item) of the procedures that wait to be started.
        self._more: deque[tuple[Any, Callable[[Any], Any], Any]] = deque()
        self._exhausted = False
        #: Whether starting has ended; threads check it between two items.
        self.stopping = False
        self._ended = 0
        # Procedures whose data the kernel is fetching, oldest first; those that have become requests; the
        # limit of these; and whether one has ended since _follow() last looked at a file.
        self._fetched: deque[_Run] = deque()
        self._awaited: set[_Run] = set()
        self._limit = self.depth
        self._one_ended = False
        # Procedures that have an uncached file to read; the number of groups of them that threads are
        # reading; and its limit.
        self._unknown: deque[_Run] = deque()
        self._groups, self._most_groups = 0, 1

    def feed(self, make: Callable[[Any], Any], items: Iterable[Any]) -> None:
        """Replace the source of the work with items, which have no keys."""
        self._make, self._work = make, zip(repeat(None), items)

    def add(self, key: Any, make: Callable[[Any], Any], item: Any = None) -> None:
        """Add a procedure to those that wait to be started."""
        self._more.append((key, make, item))

    @property
    def finished(self) -> bool:
        """Return whether nothing runs and nothing is left."""
        return not (self.running or self.done or self._more) and (self._exhausted or self.stopping)

    @property
    def starved(self) -> bool:
        """Return whether no procedure can be started before another has ended."""
        if self._fetched and len(self._awaited) < self._limit:
            return False
        count = len(self.running)
        return count >= self.depth or (count > 0 and self._exhausted and not self._more)

    def fill(self, until: float) -> bool:
        """Start procedures until depth of them run, or until a time of perf_counter().

        Returns: whether the time came first.
        """
        more = self._fill(until)
        unknown = len(self._unknown)
        if unknown and (not self.done or 2 * unknown >= self.depth):
            self._read_groups()
        return more

    def _fill(self, until: float) -> bool:
        running, done, work = self.running, self.done, self._work
        while len(running) + len(done) < self.depth and not self.stopping:
            if self._more:
                key, make, item = self._more.popleft()
            elif self._exhausted:
                break
            else:
                make = self._make
                try:
                    key, item = next(work)
                except StopIteration:
                    self._exhausted = True
                    break
            try:
                found = make(item)
            except Exception as error:
                self._end(_Run(key, make, item, self._ended), None, error)
            else:
                kind = found.__class__
                if kind is GeneratorType:
                    run = _Run(key, make, item, self._ended)
                    run.work = found
                    running.add(run)
                    self._step(run, None, None)
                elif kind is Fill:
                    run = _Run(key, make, item, self._ended)
                    running.add(run)
                    self._send(run, found)
                elif kind is Opened:
                    run = _Run(key, make, item, self._ended)
                    running.add(run)
                    self._begin(run, found)
                elif found is None:
                    run = _Run(key, make, item, self._ended)
                    running.add(run)
                    self._unknown.append(run)
                else:
                    self._ended += 1
                    done.append((key, found, None))
            if perf_counter() > until:
                return True
        while self._fetched and not done and len(self._awaited) < self._limit:
            self._follow(self._fetched.popleft())
            if perf_counter() > until:
                return True
        return False

    def _send(self, run: _Run, fill: Fill) -> None:
        """Start the request of a Fill."""
        try:
            if fill.pin.nbytes <= REQUEST_MAX:
                arguments = fill.fd, fill.pin, None, fill.pair[0]
                run.handle = self.engine.request(ops.prep_read, arguments, partial(self._filled, run, fill))
        except Exception as error:
            self._end(run, None, error)
            return
        if run.handle is None:
            run.work = fill.work()
            self._step(run, None, None)

    def _filled(self, run: _Run, fill: Fill, res: int, _flags: int) -> None:
        """Receive the CQE of a Fill, as the handler in the table; a short O_DIRECT read is the last one."""
        if res >= 0 and not self.stopping:
            self._end(run, res, None)
        else:
            run.work = fill.work()
            self._step(run, None, None)

    def _begin(self, run: _Run, opened: Opened) -> None:
        """Let a procedure that has opened its file wait until the kernel has fetched the data."""
        run.opened = opened
        if opened.fetching:
            self._fetched.append(run)
        else:
            self._read(run)

    def _read(self, run: _Run) -> None:
        run.work = read_file(run.item, run.opened)
        self._step(run, None, None)

    def _follow(self, run: _Run) -> None:
        """Take the data of the oldest file if they have arrived, or let a request wait for them.

        A kernel that fetches the data missed by RWF_NOWAIT does not need a request for each file: the end of
        one request, for the oldest file, tells when to check the files behind it. So a file whose data have
        arrived halves the number of requests; one whose data have not, although its predecessor's have,
        doubles it. If the kernel fetches nothing, or the device is slower than this program, every file
        becomes a request.
        """
        try:
            data = run.opened.read_now()
        except Exception as error:
            run.opened.close()
            self._end(run, None, error)
            return
        one_ended, self._one_ended = self._one_ended, False
        if data is None:
            if one_ended:
                self._limit = min(2 * self._limit, self.depth)
            self._awaited.add(run)
            self._read(run)
        else:
            self._limit = max(1, self._limit // 2)
            self._end(run, data, None)

    def _read_groups(self) -> None:
        """Read the uncached files in a thread; in more threads if one has waited long."""
        size = max(1, self.depth // self._most_groups)
        while self._unknown and self._groups < self._most_groups:
            runs = [self._unknown.popleft() for _ in range(min(size, len(self._unknown)))]
            op = read_group_op([run.item for run in runs], self)
            self._groups += 1
            try:
                handle = self.engine.start(op, partial(self._group_ended, runs))
            except Exception as error:
                self._group_ended(runs, None, error)
            else:
                for run in runs:
                    run.handle = handle

    def _group_ended(self, runs: list[_Run], result: Any, error: BaseException | None) -> None:
        self._groups -= 1
        if self.stopping:
            if error is None:
                _drop_group(result)
            self.running.difference_update(runs)
        elif error is not None:
            for run in runs:
                self._end(run, None, error)
        else:
            found, slow = result
            if len(runs) * self._most_groups >= 4:  # fewer files prove little
                self._most_groups = fileops.threads().limit if slow else 1
            for run, each in zip(runs, found):
                run.handle = None
                if each.__class__ is Opened:
                    self._begin(run, each)
                elif each.__class__ is bytes:
                    self._end(run, each, None)
                else:
                    self._end(run, None, each)
        self._call_wake()

    def _step(self, run: _Run, result: Any, error: BaseException | None) -> None:
        """Resume a procedure with the result of its operation, up to its next operation."""
        if self.stopping:
            self._drop(run, result, error)
            return
        while True:
            try:
                op = run.work.send(result) if error is None else run.work.throw(error)
            except StopIteration as stop:
                self._end(run, stop.value, None)
                return
            except Exception as failed:
                self._end(run, None, failed)
                return
            except BaseException:
                self.running.discard(run)
                raise
            run.op = op
            try:
                run.handle = self.engine.start(op, partial(self._step, run))
            except Exception as failed:
                result, error = None, failed
            else:
                return

    def _end(self, run: _Run, result: Any, error: BaseException | None) -> None:
        self.running.discard(run)
        if run in self._awaited:
            self._awaited.discard(run)
            self._one_ended = True
        run.work = run.op = run.opened = None
        others = self.running or self._ended != run.seen
        if isinstance(error, OSError) and error.errno in TOO_MANY and others:
            # The others close their files, or have done so by now. The reduced depth stays.
            self.depth = max(1, len(self.running))
            self._more.appendleft((run.key, run.make, run.item))
        else:
            self._ended += 1
            if result.__class__ is Found:
                self.done.extend(result)
            else:
                self.done.append((run.key, result, error))
        self._call_wake()

    def _call_wake(self) -> None:
        wake, self.wake = self.wake, None
        if wake is not None:
            wake()

    def _drop(self, run: _Run, result: Any, error: BaseException | None) -> None:
        if error is None and run.op is not None and run.op.undo is not None:
            run.op.undo(result)
        self.running.discard(run)
        try:
            run.work.close()
        except RuntimeError:
            pass  # it yielded one more operation, which is not performed
        self._call_wake()

    def stop(self) -> None:
        """Stop starting procedures and cancel the running ones; the batch has ended when running is empty."""
        self.stopping = True
        self.done.clear()
        self._more.clear()
        while self._fetched:
            run = self._fetched.popleft()
            run.opened.close()
            self.running.discard(run)
        self.running.difference_update(self._unknown)
        for run in list(self.running):
            self.engine.cancel(run.handle)


# ------------------------------------------------------------------------------------------------------
# Pieces of work for a thread

#: How long a thread works before it delivers its results and leaves the interpreter to the loop.
PIECE_S = 0.002
#: Longer than one cached item takes, even if the thread has to wait for the interpreter.
SLOW_S = 0.0002


class Found(list):  # type: ignore[type-arg]
    """Many results of one procedure, as (key, result, exception)."""

    __slots__ = ()


class Pieces(Uncopyable):
    """A batch of plain calls that runs in pieces, in one thread, or in more if that is faster.

    If the caches have the answers, several threads wait for the interpreter and take longer than one. If the
    calls wait for a device or a server, several threads wait concurrently.
    """

    __slots__ = ("_few", "_many", "_most")

    def __init__(self, many: Many, few: int = 1) -> None:
        """Begin a batch with few threads; its depth limits their number."""
        self._many = many
        self._most = min(many.depth, fileops.threads().limit)
        many.depth = self._few = min(few, self._most)

    def do(self, call: Callable[[], tuple[Any, int]]) -> Work:
        """Run a piece in a thread; call returns its result and the number of items."""
        found, slow = yield Op(partial(_timed, call))
        self._many.depth = self._most if slow else self._few
        return found

    def each(self, call: Callable[[Any], Any], pairs: list[tuple[Any, Any]]) -> tuple[Found, int]:
        """Call a function for the items of (key, item) pairs, in a thread, until the piece's time is up."""
        found, many = Found(), self._many
        until = perf_counter() + PIECE_S
        for key, item in pairs:
            try:
                found.append((key, call(item), None))
            except Exception as error:
                found.append((key, None, error))
            if perf_counter() > until or many.stopping:
                break
        return found, len(found)

    def add(self, make: Callable[[Any], Work], items: list[Any]) -> None:
        """Divide items among the current number of threads."""
        step = max(1, len(items) // self._many.depth)
        for at in range(0, len(items), step):
            self._many.add(None, make, items[at : at + step])


def _timed(call: Callable[[], tuple[Any, int]]) -> tuple[Any, bool]:
    """Run a piece; return its result, and whether it was slow: a long wait at every second item or more."""
    start, waits = perf_counter(), count_waits()
    found, count = call()
    slow = perf_counter() - start > SLOW_S * count
    return found, slow and (waits is None or 2 * (count_waits() - waits) >= count)


def count_waits() -> Any:
    """Return how often this thread has waited, not counting preemption; None if there is no counter."""
    try:
        import resource

        return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
    except (ImportError, AttributeError):
        return None
