# SPDX-License-Identifier: MIT
# pyright: basic
"""File operations, each in three forms: a try that never waits, a ring request, and the plain call.

What it is: for each operation of os a nonblocking try from the kernel's caches, the equivalent ring request,
and the call that a thread makes when neither is possible; the threads.
Mirrors: the functions of os, by name, argument order and exception; Seastar's and tokio's "try first".
Must not know: asyncio, rings, who waits for a result.
Invariant: a function whose name ends in _now never waits for a device; it answers, raises an error that holds
for the file, or returns None, which says nothing about the file.
Read next: filebatch.py.

Facts about nonblocking tries, and their consequences:

* preadv2() with RWF_NOWAIT copies data from the page cache and returns; EAGAIN means that the next byte is
  not cached. EOPNOTSUPP, ENOSYS, EPERM and EINVAL may concern the flag: tmpfs and /proc do not support it,
  and some filters reject preadv2() but allow preadv(). So only errors that cannot concern the flag are
  raised.
* A short read may mean the end of the file or the end of the cached data; some kernels return 0 bytes before
  the end. Only the size tells them apart.
* preadv2() takes an offset of -1 as the file position; pread() rejects it.
* openat2() with RESOLVE_CACHED (5.12) opens files whose path is cached. It rejects O_CREAT, O_TRUNC and
  O_TMPFILE. Only the path lookup does not wait: opening a FIFO waits for its other end unless O_NONBLOCK is
  given.
* The other end sees the open of a FIFO with O_NONBLOCK. If the descriptor were closed again at once, a writer
  that waited for a reader would fail with EPIPE; so it stays open until the requested open has completed.
* A descriptor opened with O_PATH answers fstat() without the device: the two are a stat() that never waits.
"""

from __future__ import annotations

import errno
import os
import stat as stat_module
import struct
import sys
import threading
from collections import deque, namedtuple
from functools import partial
from operator import index
from time import sleep

from . import ops, syscalls, uapi
from .buffers import StatxBuffer, StructBuffer, pin
from .syscalls import Uncopyable

# Imported here and not where they are used: without a free descriptor no import succeeds, and then files
# still have to be closed. buffers.allocate() uses mmap.
try:
    import fcntl as fcntl
    import mmap as mmap
except ImportError:  # Windows has no fcntl, WASI no mmap
    pass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Union

    StrOrBytesPath = Union[str, bytes, os.PathLike[str], os.PathLike[bytes]]

#: The most that one read or write transfers. Source: Linux include/linux/fs.h MAX_RW_COUNT
MAX_RW_COUNT = 0x7FFFF000
#: Larger transfers are not made in the loop's thread, cached or not: copying them takes too long.
INLINE_MAX = 1 << 18
#: From this size on a worker of the kernel copies cached data, instead of the loop's io_uring_enter().
WORKER_MIN = 1 << 20
#: A bytearray is zeroed, so all of it is resident, however small the file. Larger reads use mapped memory, as
#: malloc() does from this size on.
#: Source: glibc malloc.c DEFAULT_MMAP_THRESHOLD_MAX
_TOUCHED_MAX = 1 << 25
#: The most buffers that one call accepts. Source: Linux include/uapi/linux/uio.h UIO_MAXIOV
IOV_MAX = 1024
#: A writable pipe has room for at least this many bytes.
PIPE_BUF = 4096

PYPY = sys.implementation.name == "pypy"
LINUX = sys.platform == "linux"
_IOVEC = struct.Struct("PN")
_AT_FDCWD = -100
_AT_SYMLINK_NOFOLLOW = 0x100
_AT_REMOVEDIR = 0x200
_AT_SYMLINK_FOLLOW = 0x400
_RESOLVE_CACHED = 0x20
_OPENAT2 = 437  # on every architecture but alpha. Source: Linux scripts/syscall.tbl
_O_ACCMODE = 3  # PyPy's os lacks it
_O_PATH = getattr(os, "O_PATH", 0)
#: 0 on platforms without it.
O_CLOEXEC = getattr(os, "O_CLOEXEC", 0)
O_NONBLOCK = getattr(os, "O_NONBLOCK", 0)
_O_LARGEFILE = getattr(os, "O_LARGEFILE", 0)
_MORE = O_CLOEXEC | _O_LARGEFILE
_U32 = 0xFFFFFFFF
_O_DIRECT = getattr(os, "O_DIRECT", 0)
#: Flags that openat2() rejects together with RESOLVE_CACHED, or that have effects even in a try.
_O_NOT_CACHED = os.O_CREAT | os.O_TRUNC | (getattr(os, "O_TMPFILE", 0) & ~getattr(os, "O_DIRECTORY", 0))
#: Errors of preadv2() and pwritev2() that concern the file or the arguments, never the flag.
_OF_THE_FILE = frozenset((errno.EBADF, errno.EISDIR, errno.ESPIPE, errno.EFAULT))
#: The same for openat2(); ENOENT may come from a cached negative entry, which is just as valid.
_OF_THE_PATH = frozenset(
    (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE, errno.ENFILE)
)
#: Errors of a request that may mean that this kernel lacks the operation.
UNKNOWN = frozenset((errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS))


class Op(
    namedtuple(
        "Op", "plain prep arguments finish names undo options alone stop",
        defaults=(None, (), None, (), None, {}, False, None),
    )
):  # fmt: skip
    """One operation: the plain call, the equivalent request, and the conversion of its res to the result."""

    __slots__ = ()

    #: Makes the call and returns its result.
    plain: Callable[[], Any]
    #: A function of ops.py; None if no request does this.
    prep: Callable[..., None] | None
    #: The arguments of prep, from the second on.
    arguments: tuple[Any, ...]
    #: Converts res to the result; None if the result is None.
    finish: Callable[[int], Any] | None
    #: The paths that an exception names.
    names: tuple[Any, ...]
    #: Disposes of a result that is no longer wanted.
    undo: Callable[[Any], object] | None
    #: Keyword arguments of prep.
    options: dict[str, Any]
    #: Whether the plain call may wait forever, so that it needs a thread to itself.
    alone: bool
    #: Makes the plain call return early; any thread may call it. None if that is impossible.
    stop: Callable[[], object] | None

    def error(self, code: int) -> OSError:
        """Return the exception that os would raise."""
        return error_of(code, *self.names)

    def result(self, res: int) -> Any:
        """Return the result that os would return."""
        return None if self.finish is None else self.finish(res)


#: The exceptions that invalid arguments raise.
WRONG = TypeError, ValueError, OverflowError, BufferError


def _op(plain: Callable[[], Any], prep: Callable[..., None], arguments: Callable[[], Any], *rest: Any) -> Op:
    """Make an operation; if an argument is invalid, make one whose plain call raises as os does."""
    try:
        return Op(plain, prep, arguments(), *rest)
    except (*WRONG, ImportError):  # without ctypes there are no addresses, and no ring
        return Op(plain)


def error_of(code: int, *names: Any) -> OSError:
    """Return the OSError for a positive errno and the one or two paths that it concerns."""
    names = tuple([os.fspath(name) if hasattr(name, "__fspath__") else name for name in names])
    if len(names) == 2:
        return OSError(code, os.strerror(code), names[0], None, names[1])
    return OSError(code, os.strerror(code), *names)


# ------------------------------------------------------------------------------------------------------
# Arguments


def descriptor(fd: Any) -> int:
    """Return the descriptor of an int, or of an object with fileno(), as os.fsync() does."""
    if isinstance(fd, int):
        return _not_negative(int(fd))
    fileno = getattr(fd, "fileno", None)
    if fileno is None:
        raise TypeError("argument must be an int, or have a fileno() method.")
    number = fileno()
    if not isinstance(number, int):
        raise TypeError("fileno() returned a non-integer")
    return _not_negative(number)


def _not_negative(fd: int) -> int:
    if c_int(fd) < 0:
        raise ValueError(f"file descriptor cannot be a negative integer ({fd})")
    return fd


def _directory(dir_fd: int | None) -> int:
    if dir_fd is None:
        return _AT_FDCWD
    if not hasattr(dir_fd, "__index__"):
        raise TypeError(f"argument should be integer or None, not {type(dir_fd).__name__}")
    number = index(dir_fd)
    if not -(1 << 31) <= number < 1 << 31:
        raise OverflowError(f"fd is {'less than minimum' if number < 0 else 'greater than maximum'}")
    return number


_FS_ENCODING = sys.getfilesystemencoding()
_FS_ERRORS = sys.getfilesystemencodeerrors()


def _encoded(path: StrOrBytesPath) -> bytes:
    """Return a path as bytes, as os.fsencode() does; reject a null byte, at which the kernel would stop."""
    # os.fsencode() alone took half as long as an open.
    encoded = path.encode(_FS_ENCODING, _FS_ERRORS) if type(path) is str else os.fsencode(path)
    if 0 in encoded:
        raise ValueError("embedded null byte")
    return encoded


def check_range(nbytes: int, offset: int) -> None:
    """Raise as pread() does for a negative length or offset; -1 must not become "at the position"."""
    if index(nbytes) < 0 or index(offset) < 0:
        for number in (nbytes, offset):
            c_long(number)
        raise error_of(errno.EINVAL)


def c_int(value: Any) -> int:
    """Return a number that fits a C int."""
    number = index(value)
    if not -(1 << 31) <= number < 1 << 31:
        raise OverflowError("Python int too large to convert to C int")
    return number


def c_long(value: Any) -> int:
    """Return a number that fits a C long."""
    number = index(value)
    if not -sys.maxsize - 1 <= number <= sys.maxsize:
        raise OverflowError("Python int too large to convert to C long")
    return number


def pin_path(path: StrOrBytesPath) -> Any:
    """Pin a path in half the time of buffers.path(), whose memory is mutable."""
    return pin(_encoded(path) + b"\0")


def as_view(buffer: Any) -> memoryview:
    """Return a buffer as a view of bytes; raise as os.write() does if it is not a buffer."""
    try:
        view = memoryview(buffer)
    except TypeError:
        raise TypeError(f"a bytes-like object is required, not '{type(buffer).__name__}'") from None
    if not view.c_contiguous:
        raise BufferError("memoryview: underlying buffer is not C-contiguous")
    return view.cast("B")


def as_views(buffers: Sequence[Any], skip: int = 0, name: str = "preadv2") -> list[memoryview]:
    """Return buffers as views of bytes, without the first skip bytes and without empty views."""
    if not hasattr(buffers, "__getitem__") or isinstance(buffers, dict):
        raise TypeError(f"{name}() arg 2 must be a sequence")
    if len(buffers) > IOV_MAX:
        raise error_of(errno.EINVAL)
    views = []
    for buffer in buffers:
        view = as_view(buffer)
        nbytes = len(view)
        if skip < nbytes:
            views.append(view[skip:] if skip else view)
            skip = 0
        else:
            skip -= nbytes
    return views


def encode_text(text: str, encoding: str | None, errors: str | None) -> bytes:
    """Encode text as open(path, "w", encoding, errors) would write it."""
    import io

    if not isinstance(text, str):
        raise TypeError(f"data must be str, not {type(text).__name__}")
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, errors=errors, write_through=True)
    file.write(text)
    file.flush()
    return raw.getvalue()


def decode_text(data: bytes, encoding: str | None, errors: str | None) -> str:
    """Decode text as open(path, "r", encoding, errors) would read it."""
    import io

    return io.TextIOWrapper(io.BytesIO(data), encoding=encoding, errors=errors).read()


# ------------------------------------------------------------------------------------------------------
# Without waiting

_RWF_NOWAIT = 8 if hasattr(os, "RWF_NOWAIT") and hasattr(os, "preadv") else 0
_preadv: Any = getattr(os, "preadv", None)
_pwritev: Any = getattr(os, "pwritev", None)


def read_now(fd: int, buffers: Sequence[Any], offset: int, want: int) -> int | None:
    """Read from the page cache.

    Args: offset has been checked by the caller, -1 means the position; want is the length of all buffers.
    Returns: the number of bytes, less than want only at the end of the file or of the cached data; 0 only at
        the end; None if a read would have to wait.
    Raises: OSError for a file that is not regular and cannot be read at an offset; TypeError as os.preadv().
    """
    if not _RWF_NOWAIT:
        return None
    try:
        got: int = _preadv(fd, buffers, offset, _RWF_NOWAIT)
    except OSError as error:
        if error.errno in _OF_THE_FILE:
            raise
        return None
    if not got and want and not at_end(fd, offset):
        return None
    return got


def fetch_now(fd: int, buffers: Sequence[Any]) -> int | None:
    """Read from the page cache, from the start of a regular file, and make the kernel fetch the rest.

    Returns: as read_now(), and -1 if nothing is cached yet; None if nothing is being fetched.
    """
    if not _RWF_NOWAIT:
        return None
    try:
        return _preadv(fd, buffers, 0, _RWF_NOWAIT)  # type: ignore[no-any-return]
    except BlockingIOError:
        return -1
    except OSError as error:
        if error.errno in _OF_THE_FILE:
            raise
        return None


def at_end(fd: int, offset: int) -> bool:
    """Return whether an offset, or with -1 the position, is at or beyond the end of a regular file."""
    found = os.fstat(fd)
    if offset < 0:
        if not stat_module.S_ISREG(found.st_mode):
            return True  # a pipe: 0 bytes mean the end
        offset = os.lseek(fd, 0, os.SEEK_CUR)
    return stat_module.S_ISREG(found.st_mode) and offset >= found.st_size


def write_now(fd: int, buffers: Sequence[Any], offset: int) -> int | None:
    """Write if that does not wait (XFS, btrfs, pipes); otherwise as read_now()."""
    if not _RWF_NOWAIT:
        return None
    try:
        return _pwritev(fd, buffers, offset, _RWF_NOWAIT)  # type: ignore[no-any-return]
    except OSError as error:
        if error.errno in _OF_THE_FILE or error.errno in (errno.EPIPE, errno.EFBIG):
            raise
        return None


class _Cached(Uncopyable):
    """openat2() with RESOLVE_CACHED: the call, loaded once, and whether the kernel supports it."""

    def __init__(self) -> None:
        self._call: Any = None
        self._hows: dict[int, Any] = {}
        #: Whether a try is worthwhile.
        self.works = LINUX
        self._failures = 0

    def open(self, encoded: bytes, flags: int, dfd: int = _AT_FDCWD) -> int:
        """Return a descriptor or a negative errno; -EAGAIN if the open would have to wait."""
        call = self._call or self._load()
        if call is None:
            return -errno.EAGAIN
        how = self._hows.get(flags)
        if how is None:
            how = self._how(flags)
        fd: int = call(_OPENAT2, dfd, encoded, how, 24)
        if fd >= 0:
            return fd
        code = self._errno(0)
        if code in (errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.E2BIG):
            # The cause is most likely the flag or the call. A file can cause EPERM and EINVAL as well, but
            # not every time, while a kernel without the flag does.
            self._failures += 1
            if self._failures >= 16:  # more if several threads count at once
                self.works = False
            return -errno.EAGAIN
        self._failures = 0
        return -(code or errno.EAGAIN)

    def _how(self, flags: int) -> Any:
        import ctypes

        if len(self._hows) > 64:
            self._hows.clear()
        image = uapi.open_how.pack(flags=flags | O_CLOEXEC, mode=0, resolve=_RESOLVE_CACHED)
        how = self._hows[flags] = ctypes.create_string_buffer(image, 24)
        return how

    def _load(self) -> Any:
        try:
            import ctypes
        except ImportError:  # a Python that was built without it
            self.works = False
            return None
        libc = ctypes.CDLL(None, use_errno=True)
        self._errno = ctypes.set_errno
        call = libc.syscall
        if PYPY:  # a signature makes the call faster on PyPy, and slower on CPython
            call.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t]
            call.restype = ctypes.c_long
            self._call = call
        else:
            self._call = call
        if syscalls.abi() == "alpha":
            self.works = False
        return self._call


_cached = _Cached()


def open_now(path: StrOrBytesPath, flags: int, dir_fd: int | None = None) -> int | None:
    """Open a file from the kernel's caches, with O_NONBLOCK; settle_open() completes the open.

    Returns: a descriptor, not inheritable; None if the open would have to wait, and for flags that create or
        truncate.
    Raises: OSError for a path that certainly cannot be opened; TypeError, ValueError as os.open().
    """
    if not _cached.works or flags & _O_NOT_CACHED:
        return None
    dfd = _AT_FDCWD if dir_fd is None else _directory(dir_fd)
    fd = _cached.open(_encoded(path), flags | O_NONBLOCK, dfd)
    if fd >= 0:
        return fd
    if -fd in _OF_THE_PATH:
        raise error_of(-fd, path)
    return None


def stat_now(path: StrOrBytesPath, dir_fd: int | None, follow_symlinks: bool) -> os.stat_result | None:
    """Return the status of a file from the caches; otherwise as open_now()."""
    if not _cached.works:
        return None
    flags = _O_PATH if follow_symlinks else _O_PATH | os.O_NOFOLLOW
    fd = _cached.open(_encoded(path), flags, _AT_FDCWD if dir_fd is None else _directory(dir_fd))
    if fd < 0:
        if -fd in (errno.ENOENT, errno.ENOTDIR):
            raise error_of(-fd, path)
        return None
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


# ------------------------------------------------------------------------------------------------------
# As requests and as plain calls


def pinned(view: memoryview, writable: bool) -> tuple[Any, memoryview | None]:
    """Pin memory for the kernel; on PyPy, whose objects move, pin a copy that does not.

    Returns: the Pin, and the copy or None.
    """
    if not PYPY:
        return pin(view, writable), None
    from .buffers import allocate

    try:
        return pin(view.obj if len(view) == memoryview(view.obj).nbytes else view, writable), None
    except TypeError:
        copy = memoryview(allocate(len(view)))
        if not writable:
            copy[:] = view
        return pin(copy.obj, writable), copy


def room(nbytes: int) -> Any:
    """Return memory that the kernel can read into."""
    if not nbytes or (nbytes <= _TOUCHED_MAX and not PYPY):
        return bytearray(nbytes)
    from .buffers import allocate

    try:
        return allocate(nbytes)
    except (OSError, ValueError):
        raise MemoryError from None


def read_op(fd: int, views: list[memoryview], offset: int, regular: bool = False) -> Op:
    """Read into views, at an offset or, with -1, at the position; regular says that fd is a regular file."""
    if offset >= 0 and not regular:
        _check_position(fd)
    if len(views) == 1 and len(views[0]) > MAX_RW_COUNT:
        views = [views[0][:MAX_RW_COUNT]]
    plain = partial(plain_read, fd, views, offset)
    pins, copies = [], []
    try:
        for view in views:
            each, copy = pinned(view, True)
            pins.append(each)
            copies.append(copy)
    except ImportError:  # as in _op()
        return Op(plain)
    finish = index if not any(copy is not None for copy in copies) else partial(_scatter, views, copies)
    options = _by_worker(fd, views)
    if len(pins) == 1:
        return Op(plain, ops.prep_read, (fd, pins[0], None, offset), finish, options=options)
    vector = _vector(pins)
    return Op(plain, ops.prep_readv, (fd, vector, len(pins), offset), finish, options=options)


def _check_position(fd: int) -> None:
    """Raise as pread() does for a pipe; a request on a pipe ignores the offset."""
    # No lseek() on a regular file: one of /proc would discard its state and generate its text anew.
    if not stat_module.S_ISREG(os.fstat(fd).st_mode):
        os.lseek(fd, 0, os.SEEK_CUR)


def _vector(pins: list[Any]) -> Any:
    image = b"".join(_IOVEC.pack(each.address, each.nbytes) for each in pins)
    return StructBuffer(image, *pins)


def _scatter(views: list[memoryview], copies: list[memoryview | None], got: int) -> int:
    left = got
    for view, copy in zip(views, copies):
        part = min(left, len(view))
        if copy is not None and part:
            view[:part] = copy[:part]
        left -= part
    return got


def write_op(fd: int, views: list[memoryview], offset: int) -> Op:
    """Write views, at an offset or, with -1, at the position."""
    if offset >= 0:
        _check_position(fd)
    if len(views) == 1 and len(views[0]) > MAX_RW_COUNT:
        views = [views[0][:MAX_RW_COUNT]]
    plain = partial(plain_write, fd, views, offset)
    try:
        pins = [pinned(view, False)[0] for view in views]
    except ImportError:  # as in _op()
        return Op(plain)
    options = _by_worker(fd, views)
    if len(pins) == 1:
        return Op(plain, ops.prep_write, (fd, pins[0], None, offset), index, options=options)
    return Op(plain, ops.prep_writev, (fd, _vector(pins), len(pins), offset), index, options=options)


_NO_OPTIONS: dict[str, Any] = {}


def _by_worker(fd: int, views: list[memoryview]) -> dict[str, Any]:
    if sum(map(len, views)) < WORKER_MIN:
        return _NO_OPTIONS
    if status_flags(fd) & _O_DIRECT:  # nothing has to be copied
        return _NO_OPTIONS
    return {"flags": uapi.IOSQE_ASYNC}


_seeking = threading.Lock()


def plain_read(fd: int, views: list[memoryview], offset: int) -> int:
    """Read with the plain call, which may wait; for a thread."""
    if offset < 0:
        return _read_at_position(fd, views)
    if _preadv is not None:
        try:
            return _preadv(fd, views, offset)  # type: ignore[no-any-return]
        except PermissionError:  # a filter: CPython calls preadv2(2), which an old filter rejects
            pass
    done = 0
    for view in views:
        if hasattr(os, "pread"):
            data = os.pread(fd, len(view), offset + done)
        else:
            with _seeking:  # Windows has no positional call
                here = os.lseek(fd, 0, os.SEEK_CUR)
                os.lseek(fd, offset + done, os.SEEK_SET)
                data = os.read(fd, len(view))
                os.lseek(fd, here, os.SEEK_SET)
        view[: len(data)] = data
        done += len(data)
        if len(data) < len(view):
            break
    return done


def _read_at_position(fd: int, views: list[memoryview]) -> int:
    if hasattr(os, "readv"):
        return os.readv(fd, views)
    data = os.read(fd, len(views[0]))
    views[0][: len(data)] = data
    return len(data)


def plain_write(fd: int, views: list[memoryview], offset: int) -> int:
    """Write with the plain call, which may wait; for a thread."""
    if offset < 0:
        return os.writev(fd, views) if hasattr(os, "writev") else os.write(fd, views[0])
    if _pwritev is not None:
        try:
            return _pwritev(fd, views, offset)  # type: ignore[no-any-return]
        except PermissionError:  # as above; a sealed file rejects pwrite(2) as well
            pass
    done = 0
    for view in views:
        if hasattr(os, "pwrite"):
            put = os.pwrite(fd, view, offset + done)
        else:
            with _seeking:
                here = os.lseek(fd, 0, os.SEEK_CUR)
                os.lseek(fd, offset + done, os.SEEK_SET)
                put = os.write(fd, view)
                os.lseek(fd, here, os.SEEK_SET)
        done += put
        if put < len(view):
            break
    return done


def open_op(path: StrOrBytesPath, flags: int, mode: int, dir_fd: int | None) -> Op:
    """Open a file without waiting for the other end of a FIFO; settle_open() completes the open."""
    flags = index(flags) | O_NONBLOCK
    if dir_fd is None:
        plain = partial(os.open, path, flags, mode)
    else:
        plain = partial(os.open, path, flags, mode, dir_fd=dir_fd)
    op = _op(
        plain, ops.prep_openat,
        lambda: (_directory(dir_fd), pin_path(path), c_int(flags) & _U32 | _MORE, c_int(mode) & _U32),
        index, (path,),
    )  # fmt: skip
    return op._replace(undo=os.close)


def settle_open(fd: int, flags: int, held: list[int]) -> int | None:
    """Clear O_NONBLOCK on a descriptor if the caller of the open did not request it.

    Args: held receives the descriptor of a FIFO, which the caller closes after it has opened the FIFO again
        without O_NONBLOCK.
    Returns: the descriptor; None for a FIFO, and for a block device, whose open must check the medium.
    """
    if flags & O_NONBLOCK or not O_NONBLOCK:
        return fd
    kind = stat_module.S_IFMT(os.fstat(fd).st_mode)
    if kind in (stat_module.S_IFIFO, stat_module.S_IFBLK):
        held.append(fd)
        return None
    os.set_blocking(fd, True)
    return fd


class _Opener(Uncopyable):
    """An open that may wait forever, such as a FIFO's, and that another thread can end."""

    __slots__ = ("_dir_fd", "_opened", "_path")

    def __init__(self, path: StrOrBytesPath, dir_fd: int | None = None) -> None:
        self._path = path
        # A duplicate: code that cancels an open may close the directory before the open has ended.
        self._dir_fd = os.dup(dir_fd) if dir_fd is not None and dir_fd >= 0 else dir_fd
        self._opened = False

    def __del__(self) -> None:
        own = getattr(self, "_dir_fd", None)
        if own is not None and own >= 0:
            os.close(own)

    def open(self, flags: int, mode: int = 0o777) -> int:
        """Open the file as os.open() does."""
        call: Callable[[], int] = _with_directories(os.open, self._path, flags, mode, dir_fd=self._dir_fd)
        try:
            return call()
        finally:
            self._opened = True

    def stop(self) -> None:
        """Make the thread return from its open(), which it may not have reached yet."""
        while not self._opened and free_opener(self._path, self._dir_fd):
            sleep(0.001)


def open_alone_op(path: StrOrBytesPath, flags: int, mode: int, dir_fd: int | None) -> Op:
    """Open a file whose open may wait forever, such as a FIFO."""
    opener = _Opener(path, dir_fd)
    plain = partial(opener.open, flags, mode)
    return Op(plain, names=(path,), undo=os.close, alone=True, stop=opener.stop)


class _Special(_Opener):
    """A FIFO, a terminal or a device that a thread reads or writes until it is told to stop."""

    __slots__ = ("_stopped",)

    def __init__(self, path: StrOrBytesPath) -> None:
        super().__init__(path)
        self._stopped = False

    def stop(self) -> None:
        """Make the thread stop waiting, wherever it waits."""
        self._stopped = True
        super().stop()

    def _is_ready(self, fd: int, writing: bool) -> bool:
        """Wait for fd; return False if the thread is to stop."""
        while not self._stopped:
            if not LINUX or is_ready(fd, writing, 50):
                return True
        return False

    def read(self) -> bytes:
        """Read to the end."""
        fd = self.open(os.O_RDONLY)
        parts = []
        try:
            while self._is_ready(fd, False):
                data = os.read(fd, 1 << 16)
                if not data:
                    break
                parts.append(data)
        finally:
            os.close(fd)
        return b"".join(parts)

    def write(self, fd: int | None, view: memoryview) -> None:
        """Write all data, to a descriptor if the file is open already."""
        if fd is None:
            fd = self.open(os.O_WRONLY)
        self._opened = True
        try:
            if O_NONBLOCK:
                os.set_blocking(fd, False)
            at = 0
            while at < len(view) and self._is_ready(fd, True):
                try:
                    at += os.write(fd, view[at : at + INLINE_MAX])
                except BlockingIOError:
                    continue
        finally:
            os.close(fd)


def read_special_op(path: StrOrBytesPath) -> Op:
    """Read a FIFO, a terminal or a device to its end."""
    special = _Special(path)
    return Op(special.read, names=(path,), alone=True, stop=special.stop)


def write_special_op(path: StrOrBytesPath, fd: int | None, view: memoryview) -> Op:
    """Write to a FIFO, a terminal or a device, and close fd."""
    special = _Special(path)
    return Op(partial(special.write, fd, view), names=(path,), alone=True, stop=special.stop)


def free_opener(path: StrOrBytesPath, dir_fd: int | None) -> bool:
    """Open the other end of a FIFO briefly, so that a thread's open() returns; return False if that fails."""
    try:
        if not stat_module.S_ISFIFO(os.stat(path, dir_fd=dir_fd).st_mode):
            return False
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK | O_CLOEXEC, dir_fd=dir_fd))
    except OSError:
        return False
    return True


def status_flags(fd: int) -> int:
    """Return the access mode and the flags of an open file, as open() takes them; not on Windows."""
    return fcntl.fcntl(fd, fcntl.F_GETFL)


def closes_at_once(fd: int) -> bool:
    """Return whether close() has nothing to flush to a device or a server."""
    if not LINUX:
        return False
    return status_flags(fd) & _O_ACCMODE == os.O_RDONLY or not stat_module.S_ISREG(os.fstat(fd).st_mode)


def is_open_for(fd: int, writing: bool) -> bool:
    """Return whether a descriptor is open for writing, or reading: a pipe's other end never becomes ready."""
    if sys.platform == "win32":
        return True
    return status_flags(fd) & _O_ACCMODE != (os.O_RDONLY if writing else os.O_WRONLY)


def is_ready(fd: int, writing: bool, wait_ms: int = 0) -> bool:
    """Return whether a pipe, a socket or a terminal becomes readable or writable within wait_ms."""
    import select

    poll = select.poll()
    poll.register(fd, select.POLLOUT if writing else select.POLLIN)
    return bool(poll.poll(wait_ms))


def close_op(fd: int) -> Op:
    """Close a descriptor."""
    return Op(partial(os.close, fd), ops.prep_close, (fd,))


def fsync_op(fd: Any, datasync: bool) -> Op:
    """Flush a file to the device."""
    fd = descriptor(fd)
    call = os.fdatasync if datasync and hasattr(os, "fdatasync") else os.fsync
    # No request: the kernel gives it to a worker, and 64 of them took three times as long as in threads.
    return Op(partial(call, fd))


def fallocate_op(fd: int, offset: int, length: int, mode: int) -> Op:
    """Allocate space, or with a mode of FALLOC_FL_* punch holes and more."""
    fd, offset, length = c_int(fd), c_long(offset), c_long(length)
    if offset < 0 or length <= 0:
        raise error_of(errno.EINVAL)
    plain = partial(_plain_fallocate, fd, offset, length, mode)
    return Op(plain, ops.prep_fallocate, (fd, mode, offset, length))


def _plain_fallocate(fd: int, offset: int, length: int, mode: int) -> None:
    if mode or not hasattr(os, "posix_fallocate"):
        raise error_of(errno.EOPNOTSUPP)
    os.posix_fallocate(fd, offset, length)


def ftruncate_op(fd: int, length: int) -> Op:
    """Set the size of a file."""
    fd, length = c_int(fd), c_long(length)
    if length < 0:
        raise error_of(errno.EINVAL)
    return Op(partial(os.ftruncate, fd, length), ops.prep_ftruncate, (fd, length))


_STATX_BASIC_STATS = 0x7FF
#: Buffers whose request has completed; those of cancelled requests are not reused.
_statx_buffers: list[StatxBuffer] = []


def stat_op(path: StrOrBytesPath, dir_fd: int | None, follow_symlinks: bool) -> Op:
    """Stat a file."""
    if dir_fd is None:  # Windows has no dir_fd, and rejects even None
        plain = partial(os.stat, path, follow_symlinks=follow_symlinks)
    else:
        plain = partial(os.stat, path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
    try:
        found = _statx_buffers.pop()
    except IndexError:
        try:
            found = StatxBuffer()
        except ImportError:  # as in _op()
            return Op(plain)
    flags = 0 if follow_symlinks else _AT_SYMLINK_NOFOLLOW
    return _op(
        plain, ops.prep_statx,
        lambda: (_directory(dir_fd), pin_path(path), flags, _STATX_BASIC_STATS, found),
        partial(_stat_result, found), (path,),
    )  # fmt: skip


def _stat_result(found: StatxBuffer, res: int) -> os.stat_result:
    """Make an os.stat_result of a struct statx."""
    x = found.result()
    if len(_statx_buffers) < 256:
        _statx_buffers.append(found)
    ten = (x.st_mode, x.st_ino, x.st_dev, x.st_nlink, x.st_uid, x.st_gid, x.st_size)
    more: dict[str, Any] = {"st_blksize": x.st_blksize, "st_blocks": x.st_blocks, "st_rdev": x.st_rdev}
    seconds = []
    for name, time_ns in (("atime", x.st_atime_ns), ("mtime", x.st_mtime_ns), ("ctime", x.st_ctime_ns)):
        whole, rest = divmod(time_ns, 1_000_000_000)
        seconds.append(whole)
        more[f"st_{name}"] = whole + 1e-9 * rest  # rounded as CPython does
        more[f"st_{name}_ns"] = time_ns
        if PYPY:
            more[f"nsec_{name}"] = rest  # PyPy derives both from it; CPython has no such field (3.13)
    return os.stat_result((*ten, *seconds), more)


def _with_directories(call: Callable[..., Any], *paths: Any, **directories: int | None) -> Callable[[], Any]:
    """Bind a call with those dir_fd arguments that are given: platforms without them reject even None."""
    return partial(call, *paths, **{name: fd for name, fd in directories.items() if fd is not None})


def rename_op(
    src: StrOrBytesPath, dst: StrOrBytesPath, src_dir_fd: int | None, dst_dir_fd: int | None, replace: bool
) -> Op:
    """Rename a file; replace selects os.replace(), which differs on Windows."""
    call = os.replace if replace else os.rename
    plain = _with_directories(call, src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
    return _op(
        plain, ops.prep_renameat,
        lambda: (_directory(src_dir_fd), pin_path(src), _directory(dst_dir_fd), pin_path(dst), 0),
        None, (src, dst),
    )  # fmt: skip


def unlink_op(path: StrOrBytesPath, dir_fd: int | None) -> Op:
    """Remove a name."""
    plain = _with_directories(os.unlink, path, dir_fd=dir_fd)
    return _op(plain, ops.prep_unlinkat, lambda: (_directory(dir_fd), pin_path(path), 0), None, (path,))


def rmdir_op(path: StrOrBytesPath, dir_fd: int | None) -> Op:
    """Remove an empty directory."""
    plain = _with_directories(os.rmdir, path, dir_fd=dir_fd)
    return _op(
        plain, ops.prep_unlinkat, lambda: (_directory(dir_fd), pin_path(path), _AT_REMOVEDIR), None, (path,)
    )


def mkdir_op(path: StrOrBytesPath, mode: int, dir_fd: int | None) -> Op:
    """Make a directory."""
    plain = _with_directories(os.mkdir, path, mode, dir_fd=dir_fd)
    return _op(
        plain, ops.prep_mkdirat, lambda: (_directory(dir_fd), pin_path(path), c_int(mode) & _U32), None,
        (path,),
    )  # fmt: skip


def link_op(
    src: StrOrBytesPath, dst: StrOrBytesPath, src_dir_fd: int | None, dst_dir_fd: int | None,
    follow_symlinks: bool,
) -> Op:  # fmt: skip
    """Make a hard link."""
    options: dict[str, Any] = {} if follow_symlinks else {"follow_symlinks": False}
    call = partial(os.link, **options)
    plain = _with_directories(call, src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
    # On Linux os.link() follows no links by default, whatever its follow_symlinks says: it calls link().
    plain_link = src_dir_fd is None and dst_dir_fd is None
    flags = _AT_SYMLINK_FOLLOW if follow_symlinks and not plain_link else 0
    return _op(
        plain, ops.prep_linkat,
        lambda: (_directory(src_dir_fd), pin_path(src), _directory(dst_dir_fd), pin_path(dst), flags),
        None, (src, dst),
    )  # fmt: skip


def symlink_op(
    src: StrOrBytesPath, dst: StrOrBytesPath, target_is_directory: bool, dir_fd: int | None
) -> Op:
    """Make a symbolic link."""
    plain = _with_directories(os.symlink, src, dst, target_is_directory, dir_fd=dir_fd)
    return _op(
        plain, ops.prep_symlinkat,
        lambda: (pin_path(src), _directory(dir_fd), pin_path(dst)),
        None, (src, dst),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------
# Threads

#: How long a thread waits for its next job before it ends.
IDLE_S = 5.0


class _Worker:
    """An idle thread, and the job that put() hands to it."""

    __slots__ = ("given", "job")

    def __init__(self) -> None:
        self.given = threading.Lock()  # released when there is a job
        self.given.acquire()
        self.job: Any = None


class Threads(Uncopyable):
    """A few daemon threads that call functions; an idle thread takes a job, and ends if none comes.

    An isolated subinterpreter has no daemon threads, and its end waits for the others: there none is idle.
    Under the lock, a job is with a thread, or it waits because the maximum number of threads is busy. Each of
    them looks for waiting jobs before it becomes idle.
    """

    def __init__(self, limit: int = 16) -> None:
        """Start no thread yet.

        Args: limit is the maximum number of threads.
        """
        self.limit = limit
        self._jobs: deque[Callable[[], object]] = deque()
        self._idle: list[_Worker] = []
        # Reentrant: a signal handler may put a job, too. At worst there is one more thread then.
        self._lock = threading.RLock()
        #: The number of threads.
        self.count = 0

    def put(self, job: Callable[[], object]) -> None:
        """Call a function, which must not raise, in a thread."""
        with self._lock:
            if self._hand_over(job):
                return
            self.count += 1
        first = [job]
        try:
            _thread(partial(self._work, first), "rawuring-files").start()
        except BaseException as error:
            with self._lock:
                if not first:
                    raise  # a signal handler raised, and the thread has begun
                first.clear()
                self.count -= 1
                if not self.count or not isinstance(error, Exception):
                    raise  # no thread is left for the job
                if not self._hand_over(job):
                    self._jobs.append(job)

    def _hand_over(self, job: Callable[[], object]) -> bool:
        """Leave a job to a thread that there is; False if another one may be started."""
        if self._idle:
            worker = self._idle.pop()  # the last one, so that the others can end
            worker.job = job
            worker.given.release()
        elif self.count < self.limit:
            return False
        else:
            self._jobs.append(job)
        return True

    def _work(self, first: list[Callable[[], object]]) -> None:
        worker, job = _Worker(), None
        with self._lock:
            if first:
                job = first.pop()
        while job is not None:
            job()
            job = None
            with self._lock:
                if self._jobs:
                    job = self._jobs.popleft()
                    continue
                if not threading.current_thread().daemon:
                    self.count -= 1
                    return
                self._idle.append(worker)
            if not worker.given.acquire(timeout=IDLE_S):
                with self._lock:
                    if worker in self._idle:
                        self._idle.remove(worker)
                        self.count -= 1
                        return
                worker.given.acquire()  # put() was faster
            job, worker.job = worker.job, None


_threads = Threads()


def _after_fork_in_child() -> None:
    global _threads
    _threads = Threads()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork_in_child)


def threads() -> Threads:
    """Return the threads of this process; a forked child gets its own."""
    return _threads


def start_thread(job: Callable[[], object]) -> None:
    """Call a function that may wait forever, such as the open of a FIFO, in a separate thread."""
    _thread(job, "rawuring-files-wait").start()


def _thread(target: Callable[[], object], name: str) -> threading.Thread:
    try:
        return threading.Thread(target=target, name=name, daemon=True)
    except RuntimeError:  # an isolated subinterpreter
        return threading.Thread(target=target, name=name, daemon=False)
