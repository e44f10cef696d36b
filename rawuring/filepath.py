# SPDX-License-Identifier: MIT
# pyright: basic
"""Paths and temporary files for asyncio programs, and aiofiles' modules.

What it is: Path, whose methods that access the file system are coroutines; the functions of aiofiles.os,
aiofiles.tempfile and aiofiles.threadpool.
Mirrors: pathlib.Path and tempfile of the running Python; the names and signatures of anyio and aiofiles.
Must not know: rings, threads.
Invariant: a Path is a pathlib.PurePath, and each method returns the same as pathlib's.
Read next: DESIGN.md.

The arguments loop, executor and limiter are accepted but not used: there is no pool of threads.
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
from functools import partial, wraps
from types import ModuleType

from . import fileobjects, fileops, files
from .syscalls import Uncopyable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from typing import Any

    from .fileobjects import File

#: The number of paths that a thread finds before it delivers them.
GLOB_BATCH = 64
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EBADF, errno.ELOOP)


# ------------------------------------------------------------------------------------------------------
# Paths


class Path(type(pathlib.PurePath())):  # type: ignore[misc]
    """A pathlib.PurePath with coroutines for the methods that access the file system, as anyio.Path."""

    #: As in anyio; inherited by paths derived from this one.
    limiter: Any = None

    def __new__(cls, *args: Any, limiter: Any = None) -> Path:
        """Make a path from parts, as pathlib.Path()."""
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
            """Make a path from parts, as pathlib.Path()."""
            super().__init__(*args)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.as_posix()!r})"

    def __reduce__(self) -> Any:
        return type(self), (str(self),)

    if sys.version_info >= (3, 14):  # where PurePath's is deprecated

        def as_uri(self) -> str:
            """Return the path as a file URI, as pathlib.Path.as_uri()."""
            return pathlib.Path(self).as_uri()

    def with_segments(self, *pathsegments: Any) -> Path:
        """Make a path of the same class."""
        return type(self)(*pathsegments, limiter=self.limiter)

    def _mine(self, path: Any) -> Path:
        return type(self)(path, limiter=self.limiter)

    @property
    def parents(self) -> tuple[Path, ...]:
        """Return the parent directories."""
        return tuple(self._mine(path) for path in super().parents)

    if sys.version_info < (3, 13):

        def with_stem(self, stem: str) -> Path:
            """Return a path with another stem, as Python 3.13 does: it may be empty if there is no suffix."""
            if self.suffix and not stem:
                raise ValueError(f"{self!r} has a non-empty suffix")
            return self.with_name(stem + self.suffix)  # type: ignore[no-any-return]

    async def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call pathlib's method in a thread, and convert paths to pathlib's and back."""
        args = tuple(pathlib.Path(arg) if isinstance(arg, Path) else arg for arg in args)
        result = await files.call(getattr(pathlib.Path(self), name), *args, **kwargs)
        return self._mine(result) if isinstance(result, pathlib.PurePath) else result

    async def _mode(self, follow_symlinks: bool = True) -> int:
        """Return st_mode, 0 if the path does not exist."""
        try:
            return (await files.stat(self, follow_symlinks=follow_symlinks)).st_mode
        except OSError as error:
            if error.errno in _ABSENT or sys.version_info >= (3, 14):
                return 0
            raise
        except ValueError:
            return 0

    # Questions

    async def stat(self, *, follow_symlinks: bool = True) -> stdlib_os.stat_result:
        """Return the status of the file: os.stat()."""
        return await files.stat(self, follow_symlinks=follow_symlinks)

    async def lstat(self) -> stdlib_os.stat_result:
        """Return the status of the file, or of a link itself."""
        return await files.stat(self, follow_symlinks=False)

    async def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Return whether the path exists."""
        return bool(await self._mode(follow_symlinks))

    async def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Return whether it is a directory."""
        return stat_module.S_ISDIR(await self._mode(follow_symlinks))

    async def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Return whether it is a regular file."""
        return stat_module.S_ISREG(await self._mode(follow_symlinks))

    async def is_symlink(self) -> bool:
        """Return whether it is a symbolic link."""
        return stat_module.S_ISLNK(await self._mode(False))

    async def is_block_device(self) -> bool:
        """Return whether it is a block device."""
        return stat_module.S_ISBLK(await self._mode())

    async def is_char_device(self) -> bool:
        """Return whether it is a character device."""
        return stat_module.S_ISCHR(await self._mode())

    async def is_fifo(self) -> bool:
        """Return whether it is a FIFO."""
        return stat_module.S_ISFIFO(await self._mode())

    async def is_socket(self) -> bool:
        """Return whether it is a socket."""
        return stat_module.S_ISSOCK(await self._mode())

    async def is_mount(self) -> bool:
        """Return whether it is a mount point."""
        return bool(await files.call(stdlib_os.path.ismount, str(self)))

    async def is_junction(self) -> bool:
        """Return whether it is a junction (Windows)."""
        isjunction: Callable[[Any], bool] = getattr(stdlib_os.path, "isjunction", lambda path: False)
        return bool(await files.call(isjunction, str(self)))

    async def owner(self, **kwargs: bool) -> str:
        """Return the name of the owner."""
        return str(await self._call("owner", **kwargs))

    async def group(self, **kwargs: bool) -> str:
        """Return the name of the group."""
        return str(await self._call("group", **kwargs))

    async def samefile(self, other_path: Any) -> bool:
        """Return whether two paths refer to the same file."""
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
        """Return the path prefixed with the working directory if it is relative."""
        return self._mine(pathlib.Path(self).absolute())

    async def expanduser(self) -> Path:
        """Return the path with ~ replaced by a home directory."""
        return await self._call("expanduser")  # type: ignore[no-any-return]

    async def resolve(self, strict: bool = False) -> Path:
        """Return the absolute path with all symbolic links resolved."""
        return await self._call("resolve", strict)  # type: ignore[no-any-return]

    async def readlink(self) -> Path:
        """Return the target of the symbolic link."""
        return self._mine(await files.readlink(self))

    # Directories

    async def iterdir(self) -> AsyncIterator[Path]:
        """Yield the entries of the directory."""
        for name in await files.listdir(self):
            yield self / name

    def glob(self, pattern: Any, **kwargs: Any) -> AsyncIterator[Path]:
        """Yield the paths that match a pattern."""
        return self._each(pathlib.Path(self).glob(pattern, **kwargs))

    def rglob(self, pattern: Any, **kwargs: Any) -> AsyncIterator[Path]:
        """Yield the paths that match a pattern, here and in all subdirectories."""
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
        """Create the file, or update its times."""
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
        """Rename the file, replacing an existing one.

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

        Returns: an object to await, or to use with ``async with``.
        """
        return fileobjects.Opening(
            fileobjects.open_file(self, mode, buffering, encoding, errors, newline, limiter=self.limiter)
        )

    async def read_bytes(self) -> bytes:
        """Read the file."""
        return await files.read_bytes(self)

    async def read_text(
        self, encoding: str | None = None, errors: str | None = None, newline: str | None = None
    ) -> str:
        """Read the file as text."""
        async with self.open("r", -1, encoding, errors, newline) as file:
            return str(await file.read())

    async def write_bytes(self, data: Any) -> int:
        """Write the file.

        Returns: the number of bytes.
        """
        view = memoryview(data)
        async with self.open("wb") as file:
            return int(await file.write(view))

    async def write_text(
        self, data: str, encoding: str | None = None, errors: str | None = None, newline: str | None = None
    ) -> int:
        """Write the file as text.

        Returns: the number of characters.
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
    """Do as pathlib's walk() does: os.walk() with links to directories listed among the files."""
    for root, folders, names in stdlib_os.walk(top, top_down, on_error, follow_symlinks):
        if not follow_symlinks:
            links = [name for name in folders if stdlib_os.path.islink(stdlib_os.path.join(root, name))]
            folders[:] = [name for name in folders if name not in links]
            names += links
        yield root, folders, names


# ------------------------------------------------------------------------------------------------------
# aiofiles.os


def _module(name: str, **contents: Any) -> ModuleType:
    module = ModuleType(f"{files.__name__}.{name}")
    vars(module).update(contents)
    return module


def _awaitable(function: Callable[..., Any]) -> Callable[..., Any]:
    """Convert a blocking function to a coroutine function: aiofiles.os.wrap()."""

    @wraps(function)
    async def run(*args: Any, loop: Any = None, executor: Any = None, **kwargs: Any) -> Any:
        return await files.call(function, *args, **kwargs)

    return run


def _ours(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a coroutine function of files accept aiofiles' additional arguments."""

    @wraps(function)
    async def run(*args: Any, loop: Any = None, executor: Any = None, **kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    return run


def _field(name: str, field: str) -> Callable[..., Any]:
    """Return a function of os.path that returns a field of a stat; the caches answer it."""

    @wraps(getattr(stdlib_os.path, name))
    async def get(filename: Any, *, loop: Any = None, executor: Any = None) -> Any:
        return getattr(await files.stat(filename), field)

    return get


def _question(
    name: str, test: Callable[[int], bool], follow_symlinks: bool = True,
    path_of: Callable[..., Any] = lambda path: path,
) -> Callable[..., Any]:  # fmt: skip
    """Return a function of os.path that asks for the mode in a stat; the caches answer it."""

    @wraps(getattr(stdlib_os.path, name))
    async def ask(*args: Any, loop: Any = None, executor: Any = None, **kwargs: Any) -> bool:
        path = path_of(*args, **kwargs)
        try:
            found = await (files.stat(path) if follow_symlinks else files.lstat(path))
        except (OSError, ValueError):
            return False
        return test(found.st_mode)

    return ask


_PATH_FUNCTIONS = "abspath", "ismount", "samefile", "sameopenfile"
_OS_FUNCTIONS = ("getcwd", "removedirs", "renames", "scandir", "sendfile", "statvfs")
_OWN_FUNCTIONS = (
    "access", "link", "listdir", "makedirs", "mkdir", "readlink", "rename", "replace", "rmdir", "stat",
    "symlink", "unlink",
)  # fmt: skip

#: The functions of aiofiles.ospath, which is aiofiles.os.path.
ospath = _module(
    "ospath",
    wrap=_awaitable,
    exists=_question("exists", bool),
    isdir=_question("isdir", stat_module.S_ISDIR, path_of=lambda s: s),
    isfile=_question("isfile", stat_module.S_ISREG),
    islink=_question("islink", stat_module.S_ISLNK, follow_symlinks=False),
    **{f"get{each}": _field(f"get{each}", f"st_{each}") for each in ("atime", "ctime", "mtime", "size")},
    **{name: _awaitable(getattr(stdlib_os.path, name)) for name in _PATH_FUNCTIONS},
)
#: The functions of aiofiles.os.
os = _module(
    "os",
    wrap=_awaitable,
    path=ospath,
    **{name: _awaitable(getattr(stdlib_os, name)) for name in _OS_FUNCTIONS if hasattr(stdlib_os, name)},
    **{name: _ours(getattr(files, name)) for name in _OWN_FUNCTIONS},
    remove=_ours(files.unlink),
)


# ------------------------------------------------------------------------------------------------------
# aiofiles.tempfile


class TemporaryOpening(fileobjects.Opening):
    """The result of TemporaryFile() and NamedTemporaryFile(): await it, or use it with ``async with``."""

    __slots__ = ()

    async def __aexit__(self, *exception: object) -> None:
        file, self._obj = self._obj, None
        try:
            await file.close()
        finally:
            # This also removes a file that close() was told to keep.
            await files._finish(files.call(file._keeper.__exit__, None, None, None))


async def _temporary(
    make: Callable[..., Any], mode: str, buffering: int, encoding: str | None, newline: str | None,
    errors: str | None, **where: Any,
) -> File:  # fmt: skip
    if "b" not in mode:
        io.TextIOWrapper(io.BytesIO(), encoding, errors, newline)  # checks the arguments
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
    # A text file leaves the closing to its binary file.
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
    """Open a file that is removed at the end: tempfile.NamedTemporaryFile().

    Args: delete_on_close is as in Python 3.12.
    """
    where: dict[str, Any] = {"suffix": suffix, "prefix": prefix, "dir": dir, "delete": delete}
    if not delete_on_close:
        where["delete_on_close"] = False
    make = stdlib_tempfile.NamedTemporaryFile
    return TemporaryOpening(_temporary(make, mode, buffering, encoding, newline, errors, **where))


class SpooledFile(fileobjects.WrappedFile):
    """A file that is kept in memory until it exceeds a size: tempfile.SpooledTemporaryFile."""

    def _at_once(self) -> bool:
        return not self._sync._rolled

    async def write(self, data: Any) -> Any:
        """Write data; move the file to disk if it becomes too large."""
        return await self._put("write", data, len(data))

    async def writelines(self, lines: Any) -> None:
        """Write lines; move the file to disk if it becomes too large."""
        lines = list(lines)
        await self._put("writelines", lines, sum(map(len, lines)))

    async def _put(self, name: str, data: Any, size: int) -> Any:
        most = self._sync._max_size
        if self._at_once() and most and self._sync.tell() + size > most:
            return await self._in_turn(files.call, getattr(self._sync, name), data)
        return await self._call(name, data)

    async def rollover(self) -> None:
        """Move the file to disk now."""
        await self._in_turn(files.call, self._sync.rollover)

    async def fileno(self) -> Any:
        """Move the file to disk now; return the descriptor."""
        return await self._in_turn(files.call, self._sync.fileno)


def SpooledTemporaryFile(
    max_size: int = 0, mode: str = "w+b", buffering: int = -1, encoding: str | None = None,
    newline: str | None = None, suffix: Any = None, prefix: Any = None, dir: Any = None, loop: Any = None,
    executor: Any = None, *, errors: str | None = None,
) -> fileobjects.Opening:  # fmt: skip
    """Open a file that is kept in memory at first: tempfile.SpooledTemporaryFile()."""
    make = partial(
        stdlib_tempfile.SpooledTemporaryFile, max_size=max_size, mode=mode, buffering=buffering,
        encoding=encoding, newline=newline, suffix=suffix, prefix=prefix, dir=dir, errors=errors,
    )  # fmt: skip
    return fileobjects.Opening(_spooled(make))


async def _spooled(make: Callable[[], Any]) -> SpooledFile:
    return SpooledFile(make())


class TemporaryFolder(Uncopyable):
    """A directory that is removed at the end: tempfile.TemporaryDirectory."""

    def __init__(self, folder: Any) -> None:
        """Store the directory; TemporaryDirectory() calls this."""
        self._file = folder
        self.name: Any = folder.name

    async def cleanup(self) -> None:
        """Remove the directory and its contents, even if the task is cancelled."""
        await files._finish(files.call(self._file.cleanup))

    async def close(self) -> None:
        """Remove the directory and its contents."""
        await self.cleanup()


class FolderOpening(fileobjects.Opening):
    """The result of TemporaryDirectory(): await it, or use it with ``async with`` for its name."""

    __slots__ = ()

    async def __aenter__(self) -> Any:
        return (await self).name


def TemporaryDirectory(
    suffix: Any = None, prefix: Any = None, dir: Any = None, loop: Any = None, executor: Any = None
) -> FolderOpening:
    """Make a directory that is removed at the end: tempfile.TemporaryDirectory()."""
    return FolderOpening(_folder(partial(stdlib_tempfile.TemporaryDirectory, suffix, prefix, dir)))


async def _folder(make: Callable[[], Any]) -> TemporaryFolder:
    return TemporaryFolder(await files._in_thread(fileops.Op(make, undo=_clean)))


def _clean(folder: Any) -> None:
    folder.cleanup()


#: The names of aiofiles.tempfile and of its module temptypes.
tempfile = _module(
    "tempfile", NamedTemporaryFile=NamedTemporaryFile, SpooledTemporaryFile=SpooledTemporaryFile,
    TemporaryDirectory=TemporaryDirectory, TemporaryFile=TemporaryFile,
    AsyncSpooledTemporaryFile=SpooledFile, AsyncTemporaryDirectory=TemporaryFolder,
    AiofilesContextManagerTempDir=FolderOpening,
)  # fmt: skip
vars(tempfile).update(temptypes=tempfile)


# ------------------------------------------------------------------------------------------------------
# aiofiles itself

#: The names of aiofiles.base.
base = _module(
    "base", AiofilesContextManager=fileobjects.Opening, AsyncBase=fileobjects.File, wrap=_awaitable
)
threadpool = fileobjects


def install_as_aiofiles() -> None:
    """Make every later ``import aiofiles`` in this process import rawuring.files.

    For programs that import names from aiofiles' modules, and packages that use aiofiles: call it before
    they are imported. aiofiles need not be installed.
    """
    modules = {
        "": files, ".base": base, ".os": os, ".ospath": ospath,
        ".tempfile": tempfile, ".tempfile.temptypes": tempfile,
        ".threadpool": threadpool, ".threadpool.binary": threadpool, ".threadpool.text": threadpool,
    }  # fmt: skip
    sys.modules.update({f"aiofiles{name}": module for name, module in modules.items()})
