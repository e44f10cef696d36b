# SPDX-License-Identifier: MIT
# pyright: basic
"""Paths and temporary files for asyncio programs, and aiofiles' modules.

What it is: Path, whose methods are coroutines where they ask the file system; the functions of aiofiles.os,
aiofiles.tempfile and aiofiles.threadpool.
Mirrors: pathlib.Path and tempfile, each version's own; the names and signatures of anyio and aiofiles.
Must not know: rings, threads.
Invariant: a Path is a pathlib.PurePath, and each method answers what pathlib's answers.
Read next: DESIGN.md.

Arguments called loop, executor and limiter are accepted, and not used: there is no pool of threads.
"""

from __future__ import annotations

import errno
import io
import itertools
import os as stdlib_os
import pathlib
import stat as stat_module
import sys
import tempfile as stdlib_tempfile
from builtins import open as builtin_open
from functools import partial, wraps
from types import SimpleNamespace

from . import fileobjects, fileops, files
from .syscalls import Uncopyable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Callable, Iterator
    from typing import Any

    from .fileobjects import File

#: How many paths one thread finds before they are handed over.
GLOB_BATCH = 64
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EBADF, errno.ELOOP)


# ------------------------------------------------------------------------------------------------------
# Paths


class Path(type(pathlib.PurePath())):  # type: ignore[misc]
    """A pathlib.PurePath whose methods that ask the file system are coroutines, as anyio.Path's."""

    #: anyio's; kept by the paths that are made of this one.
    limiter: Any = None

    def __new__(cls, *args: Any, limiter: Any = None) -> Path:
        """Make a path of parts, as pathlib.Path()."""
        if sys.version_info >= (3, 12):
            path = super().__new__(cls, *args)
        else:
            path = cls._from_parts(args)  # pyright: ignore[reportAttributeAccessIssue]
            if limiter is not None:  # with_segments() does not exist
                path._from_parts = lambda parts: path._mine(type(path)._from_parts(parts))
                path._from_parsed_parts = lambda *parts: path._mine(type(path)._from_parsed_parts(*parts))
        if limiter is not None:
            path.limiter = limiter
        return path  # type: ignore[no-any-return]

    if sys.version_info >= (3, 12):

        def __init__(self, *args: Any, limiter: Any = None) -> None:
            """Make a path of parts, as pathlib.Path()."""
            super().__init__(*args)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.as_posix()!r})"

    def __reduce__(self) -> Any:
        return type(self), (str(self),)

    def with_segments(self, *pathsegments: Any) -> Path:
        """Make a path of the same class."""
        return type(self)(*pathsegments, limiter=self.limiter)

    def _mine(self, path: Any) -> Path:
        return type(self)(path, limiter=self.limiter)

    @property
    def parents(self) -> tuple[Path, ...]:
        """Return the directories above."""
        return tuple(self._mine(path) for path in super().parents)

    if sys.version_info < (3, 13):

        def with_stem(self, stem: str) -> Path:
            """Return a path with another stem, as Python 3.13 does: it may be empty if there is no suffix."""
            if self.suffix and not stem:
                raise ValueError(f"{self!r} has a non-empty suffix")
            return self.with_name(stem + self.suffix)  # type: ignore[no-any-return]

    async def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call pathlib's method in a thread; paths are pathlib's there and ours here."""
        args = tuple(pathlib.Path(arg) if isinstance(arg, Path) else arg for arg in args)
        result = await files.call(getattr(pathlib.Path(self), name), *args, **kwargs)
        return self._mine(result) if isinstance(result, pathlib.PurePath) else result

    async def _mode(self, follow_symlinks: bool = True) -> int:
        """Return st_mode, 0 for what is not there."""
        try:
            return (await files.stat(self, follow_symlinks=follow_symlinks)).st_mode
        except OSError as error:
            if error.errno in _ABSENT or sys.version_info >= (3, 14):
                return 0
            raise
        except ValueError:
            return 0

    # Questions

    async def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Tell about the file: os.stat()."""
        return await files.stat(self, follow_symlinks=follow_symlinks)

    async def lstat(self) -> os.stat_result:
        """Tell about the file, or about the link itself."""
        return await files.stat(self, follow_symlinks=False)

    async def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Tell whether there is such a file."""
        return bool(await self._mode(follow_symlinks))

    async def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Tell whether it is a directory."""
        return stat_module.S_ISDIR(await self._mode(follow_symlinks))

    async def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Tell whether it is a regular file."""
        return stat_module.S_ISREG(await self._mode(follow_symlinks))

    async def is_symlink(self) -> bool:
        """Tell whether it is a symbolic link."""
        return stat_module.S_ISLNK(await self._mode(False))

    async def is_block_device(self) -> bool:
        """Tell whether it is a block device."""
        return stat_module.S_ISBLK(await self._mode())

    async def is_char_device(self) -> bool:
        """Tell whether it is a character device."""
        return stat_module.S_ISCHR(await self._mode())

    async def is_fifo(self) -> bool:
        """Tell whether it is a FIFO."""
        return stat_module.S_ISFIFO(await self._mode())

    async def is_socket(self) -> bool:
        """Tell whether it is a socket."""
        return stat_module.S_ISSOCK(await self._mode())

    async def is_mount(self) -> bool:
        """Tell whether something is mounted there."""
        return bool(await files.call(stdlib_os.path.ismount, str(self)))

    async def is_junction(self) -> bool:
        """Tell whether it is a junction of Windows."""
        isjunction: Callable[[Any], bool] = getattr(stdlib_os.path, "isjunction", lambda path: False)
        return bool(await files.call(isjunction, str(self)))

    async def owner(self, **kwargs: bool) -> str:
        """Tell the name of the owner."""
        return str(await self._call("owner", **kwargs))

    async def group(self, **kwargs: bool) -> str:
        """Tell the name of the group."""
        return str(await self._call("group", **kwargs))

    async def samefile(self, other_path: Any) -> bool:
        """Tell whether two paths lead to the same file."""
        return bool(await self._call("samefile", other_path))

    # Other paths

    @classmethod
    async def cwd(cls, *, limiter: Any = None) -> Path:
        """Return the working directory."""
        return cls(stdlib_os.getcwd(), limiter=limiter)

    @classmethod
    async def home(cls, *, limiter: Any = None) -> Path:
        """Return the home directory."""
        return cls(await files.call(pathlib.Path.home), limiter=limiter)

    @classmethod
    def from_uri(cls, uri: str, *, limiter: Any = None) -> Path:
        """Return the path of a file: URI; Python 3.13."""
        return cls(pathlib.Path.from_uri(uri), limiter=limiter)  # type: ignore[attr-defined]

    async def absolute(self) -> Path:
        """Put the working directory in front."""
        return self._mine(pathlib.Path(self).absolute())

    async def expanduser(self) -> Path:
        """Put a home directory in the place of ~."""
        return await self._call("expanduser")  # type: ignore[no-any-return]

    async def resolve(self, strict: bool = False) -> Path:
        """Follow all symbolic links."""
        return await self._call("resolve", strict)  # type: ignore[no-any-return]

    async def readlink(self) -> Path:
        """Tell where the symbolic link leads to."""
        return self._mine(await files.readlink(self))

    # Directories

    async def iterdir(self) -> AsyncIterator[Path]:
        """Yield what is in the directory."""
        for name in await files.listdir(self):
            yield self / name

    def glob(self, pattern: Any, **kwargs: Any) -> AsyncIterator[Path]:
        """Yield what matches a pattern."""
        return self._each(pathlib.Path(self).glob(pattern, **kwargs))

    def rglob(self, pattern: Any, **kwargs: Any) -> AsyncIterator[Path]:
        """Yield what matches a pattern, here and below."""
        return self._each(pathlib.Path(self).rglob(pattern, **kwargs))

    async def _each(self, paths: Any) -> AsyncIterator[Path]:
        paths = iter(paths)
        while True:
            found = await files.call(list, itertools.islice(paths, GLOB_BATCH))
            if not found:
                return
            for path in found:
                yield self._mine(path)

    async def walk(
        self, top_down: bool = True, on_error: Callable[[OSError], object] | None = None,
        follow_symlinks: bool = False,
    ) -> AsyncIterator[tuple[Path, list[str], list[str]]]:  # fmt: skip
        """Yield each directory below with the names of its directories and files."""
        steps = _walk(str(self), top_down, on_error, follow_symlinks)
        while True:
            step = await files.call(next, steps, None)
            if step is None:
                return
            yield self._mine(step[0]), step[1], step[2]

    async def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Make the directory."""
        await self._call("mkdir", mode, parents, exist_ok)

    async def rmdir(self) -> None:
        """Remove the directory."""
        await files.rmdir(self)

    # Changes

    async def chmod(self, mode: int, *, follow_symlinks: bool = True) -> None:
        """Set the permissions."""
        await files.call(stdlib_os.chmod, self, mode, follow_symlinks=follow_symlinks)

    async def lchmod(self, mode: int) -> None:
        """Set the permissions of the link itself."""
        await self._call("lchmod", mode)

    async def touch(self, mode: int = 0o666, exist_ok: bool = True) -> None:
        """Make the file, or set its times."""
        await self._call("touch", mode, exist_ok)

    async def unlink(self, missing_ok: bool = False) -> None:
        """Remove the file."""
        try:
            await files.unlink(self)
        except FileNotFoundError:
            if not missing_ok:
                raise

    async def rename(self, target: Any) -> Path:
        """Rename the file.

        Returns: the new path.
        """
        await files.rename(self, target)
        return self._mine(target)

    async def replace(self, target: Any) -> Path:
        """Rename the file, over another one.

        Returns: the new path.
        """
        await files.replace(self, target)
        return self._mine(target)

    async def symlink_to(self, target: Any, target_is_directory: bool = False) -> None:
        """Make this path a symbolic link to a target."""
        await files.symlink(target, self, target_is_directory)

    async def hardlink_to(self, target: Any) -> None:
        """Make this path a hard link to a target."""
        await files.link(target, self)

    async def link_to(self, target: Any) -> None:
        """Make a target a hard link to this path."""
        await files.link(self, target)

    # Contents

    def open(
        self, mode: str = "r", buffering: int = -1, encoding: str | None = None, errors: str | None = None,
        newline: str | None = None,
    ) -> fileobjects.Opening:  # fmt: skip
        """Open the file.

        Returns: what can be awaited, or used with ``async with``.
        """
        return fileobjects.Opening(
            fileobjects.open_file(self, mode, buffering, encoding, errors, newline, limiter=self.limiter)
        )

    async def read_bytes(self) -> bytes:
        """Read all."""
        return await files.read_bytes(self)

    async def read_text(
        self, encoding: str | None = None, errors: str | None = None, newline: str | None = None
    ) -> str:
        """Read all as text."""
        async with self.open("r", -1, encoding, errors, newline) as file:
            return str(await file.read())

    async def write_bytes(self, data: Any) -> int:
        """Write all.

        Returns: how many bytes.
        """
        view = memoryview(data)
        async with self.open("wb") as file:
            return int(await file.write(view))

    async def write_text(
        self, data: str, encoding: str | None = None, errors: str | None = None, newline: str | None = None
    ) -> int:
        """Write all as text.

        Returns: how many characters.
        """
        if not isinstance(data, str):
            raise TypeError(f"data must be str, not {type(data).__name__}")
        async with self.open("w", -1, encoding, errors, newline) as file:
            return int(await file.write(data))


def _delegate(name: str) -> Any:
    async def method(self: Path, *args: Any, **kwargs: Any) -> Any:
        return await self._call(name, *args, **kwargs)

    method.__name__ = name
    method.__doc__ = f"Call pathlib's {name}() in a thread."
    return method


for _name in ("copy", "copy_into", "move", "move_into"):  # Python 3.14
    if hasattr(pathlib.Path, _name):
        setattr(Path, _name, _delegate(_name))
if hasattr(pathlib.Path, "info"):
    Path.info = property(lambda self: pathlib.Path(self).info)  # type: ignore[attr-defined]
if not hasattr(pathlib.Path, "from_uri"):
    del Path.from_uri


def _walk(top: str, top_down: bool, on_error: Any, follow_symlinks: bool) -> Iterator[Any]:
    """Do what pathlib's walk() does: os.walk() with links to directories among the files."""
    for root, folders, names in stdlib_os.walk(top, top_down, on_error, follow_symlinks):
        if not follow_symlinks:
            links = [name for name in folders if stdlib_os.path.islink(stdlib_os.path.join(root, name))]
            folders[:] = [name for name in folders if name not in links]
            names += links
        yield root, folders, names


# ------------------------------------------------------------------------------------------------------
# aiofiles.os


def _awaitable(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a coroutine function of one that blocks: aiofiles.os.wrap()."""

    @wraps(function)
    async def run(*args: Any, loop: Any = None, executor: Any = None, **kwargs: Any) -> Any:
        return await files.call(function, *args, **kwargs)

    return run


def _ours(function: Callable[..., Any]) -> Callable[..., Any]:
    """Take aiofiles' arguments from a coroutine function of files."""

    @wraps(function)
    async def run(*args: Any, loop: Any = None, executor: Any = None, **kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    return run


_PATH_FUNCTIONS = (
    "abspath", "exists", "getatime", "getctime", "getmtime", "getsize", "isdir", "isfile", "islink",
    "ismount", "samefile", "sameopenfile",
)  # fmt: skip
_OS_FUNCTIONS = ("getcwd", "removedirs", "renames", "scandir", "sendfile", "statvfs")
_OWN_FUNCTIONS = (
    "access", "link", "listdir", "makedirs", "mkdir", "readlink", "rename", "replace", "rmdir", "stat",
    "symlink", "unlink",
)  # fmt: skip

_path_functions = {name: _awaitable(getattr(stdlib_os.path, name)) for name in _PATH_FUNCTIONS}

#: The functions of aiofiles.os and of aiofiles.ospath.
os_functions = SimpleNamespace(
    wrap=_awaitable,
    path=SimpleNamespace(wrap=_awaitable, **_path_functions),
    **{name: _awaitable(getattr(stdlib_os, name)) for name in _OS_FUNCTIONS if hasattr(stdlib_os, name)},
    **{name: _ours(getattr(files, name)) for name in _OWN_FUNCTIONS},
    remove=_ours(files.unlink),
)


# ------------------------------------------------------------------------------------------------------
# aiofiles.tempfile


class TemporaryOpening(fileobjects.Opening):
    """What TemporaryFile() and NamedTemporaryFile() return: await it, or use it with ``async with``."""

    __slots__ = ()

    async def __aexit__(self, *exception: object) -> None:
        file, self._obj = self._obj, None
        try:
            await file.close()
        finally:
            # It also removes a file that close() was told to leave there.
            await files._finish(files.call(file._keeper.__exit__, None, None, None))


async def _temporary(
    make: Callable[..., Any], mode: str, buffering: int, encoding: str | None, newline: str | None,
    errors: str | None, **where: Any,
) -> File:  # fmt: skip
    if "b" not in mode:
        io.TextIOWrapper(io.BytesIO(), encoding, errors, newline)  # says what is wrong with them
    binary = mode.replace("t", "") + ("" if "b" in mode else "b")
    making = fileops.Op(partial(make, mode=binary, buffering=0, **where), undo=_close)
    keeper = await files._in_thread(making)
    try:
        found = fileobjects._assemble(
            keeper.name, keeper.fileno(), mode, buffering, encoding, errors, newline, False, False
        )
    except BaseException:
        keeper.close()
        raise
    # A text file leaves the closing to the binary file beneath.
    found._keeper = getattr(found, "_binary", found)._keeper = keeper
    found.delete = where.get("delete", True)
    return found


def _close(file: Any) -> None:
    file.close()


def TemporaryFile(
    mode: str = "w+b", buffering: int = -1, encoding: str | None = None, newline: str | None = None,
    suffix: Any = None, prefix: Any = None, dir: Any = None, loop: Any = None, executor: Any = None, *,
    errors: str | None = None,
) -> TemporaryOpening:  # fmt: skip
    """Open a file without a name: tempfile.TemporaryFile()."""
    make = stdlib_tempfile.TemporaryFile
    return TemporaryOpening(
        _temporary(make, mode, buffering, encoding, newline, errors, suffix=suffix, prefix=prefix, dir=dir)
    )


def NamedTemporaryFile(
    mode: str = "w+b", buffering: int = -1, encoding: str | None = None, newline: str | None = None,
    suffix: Any = None, prefix: Any = None, dir: Any = None, delete: bool = True,
    delete_on_close: bool = True, loop: Any = None, executor: Any = None, *, errors: str | None = None,
) -> TemporaryOpening:  # fmt: skip
    """Open a file that is removed in the end: tempfile.NamedTemporaryFile().

    Args: delete_on_close is Python 3.12's.
    """
    where: dict[str, Any] = {"suffix": suffix, "prefix": prefix, "dir": dir, "delete": delete}
    if not delete_on_close:
        where["delete_on_close"] = False
    make = stdlib_tempfile.NamedTemporaryFile
    return TemporaryOpening(_temporary(make, mode, buffering, encoding, newline, errors, **where))


class SpooledFile(fileobjects.WrappedFile):
    """A file that is in memory until it is too large for that: tempfile.SpooledTemporaryFile."""

    def _at_once(self) -> bool:
        return not self._sync._rolled

    async def write(self, data: Any) -> Any:
        """Write, to the disk what is too much for memory."""
        return await self._put("write", data, len(data))

    async def writelines(self, lines: Any) -> None:
        """Write lines, to the disk what is too much for memory."""
        lines = list(lines)
        await self._put("writelines", lines, sum(map(len, lines)))

    async def _put(self, name: str, data: Any, size: int) -> Any:
        most = self._sync._max_size
        if self._at_once() and most and self._sync.tell() + size > most:
            return await self._in_turn(files.call, getattr(self._sync, name), data)
        return await self._call(name, data)

    async def rollover(self) -> None:
        """Go to the disk now."""
        await self._in_turn(files.call, self._sync.rollover)

    async def fileno(self) -> Any:
        """Go to the disk now; return the descriptor."""
        return await self._in_turn(files.call, self._sync.fileno)


def SpooledTemporaryFile(
    max_size: int = 0, mode: str = "w+b", buffering: int = -1, encoding: str | None = None,
    newline: str | None = None, suffix: Any = None, prefix: Any = None, dir: Any = None, loop: Any = None,
    executor: Any = None, *, errors: str | None = None,
) -> fileobjects.Opening:  # fmt: skip
    """Open a file that is in memory at first: tempfile.SpooledTemporaryFile()."""
    make = partial(
        stdlib_tempfile.SpooledTemporaryFile, max_size=max_size, mode=mode, buffering=buffering,
        encoding=encoding, newline=newline, suffix=suffix, prefix=prefix, dir=dir, errors=errors,
    )  # fmt: skip
    return fileobjects.Opening(_spooled(make))


async def _spooled(make: Callable[[], Any]) -> SpooledFile:
    return SpooledFile(make())


class TemporaryFolder(Uncopyable):
    """A directory that is removed in the end: tempfile.TemporaryDirectory."""

    def __init__(self, folder: Any) -> None:
        """Keep the directory; TemporaryDirectory() calls this."""
        self._file = folder
        self.name: Any = folder.name

    async def cleanup(self) -> None:
        """Remove the directory and all that is in it, also when the task is cancelled."""
        await files._finish(files.call(self._file.cleanup))

    async def close(self) -> None:
        """Remove the directory and all that is in it."""
        await self.cleanup()


class FolderOpening(fileobjects.Opening):
    """What TemporaryDirectory() returns: await it, or use it with ``async with`` for its name."""

    __slots__ = ()

    async def __aenter__(self) -> Any:
        return (await self).name


def TemporaryDirectory(
    suffix: Any = None, prefix: Any = None, dir: Any = None, loop: Any = None, executor: Any = None
) -> FolderOpening:
    """Make a directory that is removed in the end: tempfile.TemporaryDirectory()."""
    return FolderOpening(_folder(partial(stdlib_tempfile.TemporaryDirectory, suffix, prefix, dir)))


async def _folder(make: Callable[[], Any]) -> TemporaryFolder:
    return TemporaryFolder(await files._in_thread(fileops.Op(make, undo=_clean)))


def _clean(folder: Any) -> None:
    folder.cleanup()


#: The functions of aiofiles.tempfile.
tempfile = SimpleNamespace(
    NamedTemporaryFile=NamedTemporaryFile, SpooledTemporaryFile=SpooledTemporaryFile,
    TemporaryDirectory=TemporaryDirectory, TemporaryFile=TemporaryFile,
)  # fmt: skip


# ------------------------------------------------------------------------------------------------------
# aiofiles.threadpool


def _pool_open(file: Any, *args: Any, loop: Any = None, executor: Any = None, **kwargs: Any) -> Any:
    """Open a file as open() does, or with what a test has put in the place of sync_open."""
    if threadpool.sync_open is builtin_open:
        return fileobjects.open(file, *args, **kwargs)
    return fileobjects.Opening(_open_with(partial(threadpool.sync_open, file, *args, **kwargs)))


async def _open_with(opening: Callable[[], Any]) -> Any:
    return fileobjects.wrap(await files.call(opening))


#: The names of aiofiles.threadpool; tests replace sync_open, and register types with wrap().
threadpool = SimpleNamespace(
    AsyncBufferedIOBase=fileobjects.WrappedFile, AsyncBufferedReader=fileobjects.WrappedFile,
    AsyncFileIO=fileobjects.WrappedFile, AsyncTextIOWrapper=fileobjects.WrappedFile,
    open=_pool_open, stderr=fileobjects.stderr, stderr_bytes=fileobjects.stderr_bytes,
    stdin=fileobjects.stdin, stdin_bytes=fileobjects.stdin_bytes, stdout=fileobjects.stdout,
    stdout_bytes=fileobjects.stdout_bytes, sync_open=builtin_open, wrap=fileobjects.wrap,
)  # fmt: skip
