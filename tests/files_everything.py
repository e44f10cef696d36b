# SPDX-License-Identifier: MIT
"""Every public function and method of files, called once and compared with its oracle, in one environment.

What it is: a program. Its first argument names the refused or missing feature, or the kind of file system,
loop or limit; test_files_everywhere.py runs it with each. The functions record that they were called, and the
public names are found by introspection, so a new method that is not called here fails the program. Exit code
77 means that the environment cannot be set up.
Must not know: which layer answered.
Invariant: each answer is that of os, of the builtin's file, or of pathlib, whatever is missing.
Read next: test_files_everywhere.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import inspect
import io
import os
import pathlib
import shutil
import stat
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any

HERE = globals()
DATA = b"one\ntwo\nthree\nfour\nfive"
LINES = [b"one\n", b"two\n", b"three\n", b"four\n", b"five"]
called: set[str] = set()


# ------------------------------------------------------------------------------------------------------
# The public names, and the called ones


def recorded(label: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Record the calls that this file makes; the library's own calls do not count."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        caller = sys._getframe(1)
        if caller.f_globals is HERE and caller.f_code is not call.__code__:
            called.add(label)
        return function(*args, **kwargs)

    return call


def watch(files: Any) -> set[str]:
    """Record the calls of all public names; return their labels."""
    labels = set()

    def replace(owner: Any, where: str, names: Any) -> None:
        for name in names:
            function = getattr(owner, name, None)
            if name.startswith("_") or inspect.isclass(function) or not callable(function):
                continue
            labels.add(f"{where}.{name}")
            found = recorded(f"{where}.{name}", function)
            of_the_class = inspect.isclass(owner) and inspect.ismethod(function)
            setattr(owner, name, staticmethod(found) if of_the_class else found)

    import rawuring.filepath as filepath

    kinds = [filepath.SpooledFile, filepath.TemporaryFolder]
    kinds += [files.RawFile, files.BufferedFile, files.TextFile, files.WrappedFile]
    for kind in kinds:
        replace(kind, kind.__name__, dir(kind))
    replace(files.Path, "Path", vars(files.Path))
    for owner, where in ((files.os, "os"), (files.os.path, "os.path"), (files.tempfile, "tempfile")):
        replace(owner, where, vars(owner))
    replace(files.sync, "sync", files.sync.__all__)
    replace(files, "files", [*files.__all__, "open", "open_file", "wrap", "wrap_file"])
    return labels


# ------------------------------------------------------------------------------------------------------
# Refused and missing features


def refuse(*numbers: int, code: int = errno.EPERM) -> None:
    """Let a filter refuse system calls by their numbers on x86-64."""
    import ctypes
    import struct

    if os.uname().machine != "x86_64":
        sys.exit(77)
    steps = [(0x20, 0, 0, 0)]
    for at, number in enumerate(numbers):
        steps.append((0x15, len(numbers) - at, 0, number))
    steps += [(6, 0, 0, 0x7FFF0000), (6, 0, 0, 0x50000 | code)]
    memory = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    program = Program(len(steps), ctypes.addressof(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(program)):
        sys.exit(77)


SETUP, PREADV2, PWRITEV2, OPENAT2, STATX = 425, 327, 328, 437, 332
#: The names of os that macOS and Windows lack. Source: the documentation of os, "Availability".
LINUX_ONLY = (
    "copy_file_range", "eventfd", "fdatasync", "getxattr", "listxattr", "memfd_create", "posix_fallocate",
    "preadv", "pwritev", "removexattr", "setxattr", "splice", "O_DIRECT", "O_PATH", "O_TMPFILE", "RWF_NOWAIT",
    "RWF_HIPRI", "RWF_DSYNC", "RWF_SYNC", "RWF_APPEND", "O_LARGEFILE",
)  # fmt: skip
UNIX_ONLY = (
    "chown", "fchmod", "fchown", "fwalk", "pread", "pwrite", "readv", "writev", "sendfile", "statvfs",
    "fstatvfs", "set_blocking", "get_blocking", "O_NONBLOCK", "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW",
    "SEEK_DATA", "SEEK_HOLE",
)  # fmt: skip


def lose(platform: str, *names: str) -> None:
    """Remove names from os, as on a platform that lacks them."""
    for name in names:
        if hasattr(os, name):
            delattr(os, name)
    shutil._copyxattr = lambda *_, **__: None  # type: ignore[attr-defined]  # both were chosen at the import
    tempfile._O_TMPFILE_WORKS = False  # type: ignore[attr-defined]
    sys.platform = platform


def be_windows() -> None:
    """Remove everything that Windows lacks; its loop cannot watch descriptors either."""

    def refused(*_: Any) -> Any:
        raise NotImplementedError

    lose("win32", *LINUX_ONLY, *UNIX_ONLY)
    shutil._use_fd_functions = False  # type: ignore[attr-defined]
    sys.modules["fcntl"] = sys.modules["resource"] = None  # type: ignore[assignment]
    for name in ("add_reader", "add_writer", "remove_reader", "remove_writer"):
        setattr(asyncio.SelectorEventLoop, name, refused)


def no_ctypes() -> None:
    """Simulate a Python that was built without ctypes."""
    sys.modules["ctypes"] = sys.modules["_ctypes"] = None  # type: ignore[assignment]


def no_ring() -> None:
    """Let threads do the work of the ring."""
    from rawuring import files

    files._ring = lambda: None


def few_descriptors() -> None:
    """Leave descriptors for a loop, its ring and a few files."""
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (28, 28))


def no_memory_to_lock() -> None:
    """Become nobody, who may lock no memory, and perhaps not read the library's files: import them first."""
    import resource

    from rawuring import files

    with tempfile.TemporaryDirectory() as top:
        for part in PARTS:
            asyncio.run(part(files, top))
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
    if os.getuid() == 0:
        os.environ.pop("TMPDIR", None)  # set for root's tests
        tempfile.tempdir = None
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)


def mount(kind: bytes, options: bytes) -> None:
    """Mount a private file system over the folder, in a private namespace."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    folder = os.environ["TMPDIR"].encode()
    if libc.unshare(0x20000) or libc.mount(None, b"/", None, 0x44000, None):
        sys.exit(77)
    if kind == b"overlay":
        if libc.mount(b"none", folder, b"tmpfs", 0, None):
            sys.exit(77)
        for name in (b"lower", b"upper", b"work", b"merged"):
            os.mkdir(os.path.join(folder, name))
        options = b"lowerdir=%b/lower,upperdir=%b/upper,workdir=%b/work" % (folder, folder, folder)
        folder += b"/merged"
    if libc.mount(b"none", folder, kind, 0, options):
        sys.exit(77)
    os.environ["TMPDIR"] = folder.decode()


def no_imports() -> None:
    """Let every later import of the library fail, as if no descriptor were left to open a module with."""
    import ctypes  # as for the first ring

    from rawuring import filepath, files, filesync

    assert ctypes and filepath and filesync and files.tempfile

    class Finder:
        def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
            frame: Any = sys._getframe(1)
            while frame.f_globals["__name__"].startswith("importlib"):
                frame = frame.f_back
            by = frame.f_globals["__name__"]
            if by.startswith("rawuring"):
                raise ImportError(errno.EMFILE, f"{by}:{frame.f_lineno} imports {name}")

    sys.meta_path.insert(0, Finder())  # type: ignore[arg-type]


#: The preparations by name; "BEFORE the import" where that matters.
ENVIRONMENTS: dict[str, Callable[[], object]] = {
    "ring": lambda: None,
    "threads": no_ring,
    "io_uring refused": lambda: refuse(SETUP),
    "io_uring unknown": lambda: refuse(SETUP, code=errno.ENOSYS),
    "no ctypes": no_ctypes,
    "no imports": no_imports,
    "no imports, threads": lambda: (no_imports(), no_ring()),
    "preadv2 refused": lambda: refuse(PREADV2),
    "preadv2 unknown": lambda: refuse(PREADV2, code=errno.ENOSYS),
    "pwritev2 refused": lambda: refuse(PWRITEV2),
    "openat2 refused": lambda: refuse(OPENAT2),
    "openat2 unknown": lambda: refuse(OPENAT2, code=errno.ENOSYS),
    "all refused": lambda: refuse(SETUP, PREADV2, PWRITEV2, OPENAT2),
    "all unknown": lambda: refuse(SETUP, PREADV2, PWRITEV2, OPENAT2, code=errno.ENOSYS),
    "macOS": lambda: lose("darwin", *LINUX_ONLY),
    "Windows": be_windows,
    "tmpfs": lambda: mount(b"tmpfs", b""),
    "overlay": lambda: mount(b"overlay", b""),
    "few descriptors": few_descriptors,
    "few descriptors, threads": lambda: (few_descriptors(), no_ring()),
    "no memory to lock": no_memory_to_lock,
    "eager tasks": lambda: None,
    "rawuring": lambda: None,
    "uvloop": lambda: None,
    "subinterpreter": lambda: None,
    "subinterpreter, threads": no_ring,
}


def new_loop(environment: str) -> Any:
    """Make the loop of an environment."""
    if environment == "rawuring":
        from rawuring import aio

        return aio.new_event_loop()
    if environment == "uvloop":
        try:
            import uvloop
        except ImportError:
            sys.exit(77)
        return uvloop.new_event_loop()
    make: Any = getattr(asyncio, "eager_task_factory", None)
    if environment == "eager tasks" and make is None:
        sys.exit(77)
    loop = asyncio.SelectorEventLoop()
    if environment == "eager tasks":
        loop.set_task_factory(make)
    return loop


# ------------------------------------------------------------------------------------------------------
# The functions


@contextlib.contextmanager
def expect(*kinds: type[BaseException]) -> Any:
    """Require an exception."""
    try:
        yield
    except kinds:
        return
    raise AssertionError(f"none of {kinds}")


async def descriptors(files: Any, top: str) -> None:
    """Use the functions of descriptors."""
    path = os.path.join(top, "descriptor")
    fd = await files.open_fd(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)
    assert os.stat(path).st_mode & 0o777 == 0o640 and not os.get_inheritable(fd)
    assert await files.pwrite(fd, DATA, 5) == len(DATA)
    assert await files.pwritev(fd, [b"ab", b"cde"], 0) == 5
    content = b"abcde" + DATA
    assert await files.pread(fd, 100, 3) == content[3:]
    buffers = [bytearray(4), bytearray(7)]
    assert await files.preadv_into(fd, buffers, 2) == 11 and b"".join(buffers) == content[2:13]
    memory = bytearray(6)
    assert await files.readinto_at(fd, memory, 1) == 6 and memory == content[1:7]
    assert os.lseek(fd, 0, os.SEEK_CUR) == 0
    for call in (
        files.pread(fd, 1, -1), files.pwrite(fd, b"x", -1), files.pwritev(fd, [b"x"], -1),
        files.preadv_into(fd, [memory], -1), files.readinto_at(fd, memory, -1),
    ):  # fmt: skip
        with expect(OSError):
            await call  # and the position is unused
    assert os.lseek(fd, 0, os.SEEK_CUR) == 0 and os.stat(path).st_size == len(content)
    assert await files.read(fd, 7) == content[:7]
    assert await files.readinto(fd, memory) == 6 and memory == content[7:13]
    assert await files.write(fd, b"W") == 1 and os.lseek(fd, 0, os.SEEK_CUR) == 14
    await files.fsync(fd)
    await files.fsync(fd, datasync=True)
    if hasattr(os, "posix_fallocate"):
        await files.fallocate(fd, 0, 10_000)
        assert os.stat(path).st_size == 10_000
    else:
        with expect(OSError):
            await files.fallocate(fd, 0, 10_000)
    await files.ftruncate(fd, 3)
    assert os.stat(path).st_size == 3
    await files.close_fd(fd)
    with expect(OSError):
        os.fstat(fd)
    reader, writer = os.pipe()
    reading = asyncio.ensure_future(files.read(reader, 100))
    await asyncio.sleep(0)
    assert await files.write(writer, b"through") == 7 and await reading == b"through"
    os.close(writer)
    assert await files.read(reader, 1) == b""
    await files.close_fd(reader)


async def names(files: Any, top: str) -> None:
    """Use the functions of paths."""
    base = os.path.join(top, "names")
    await files.mkdir(base, 0o750)
    await files.makedirs(f"{base}/x/y", exist_ok=True)
    assert await files.write_bytes(f"{base}/a", DATA) == len(DATA)
    await files.symlink("a", f"{base}/s")
    assert await files.readlink(f"{base}/s") == "a"
    await files.link(f"{base}/a", f"{base}/b")
    assert (await files.stat(f"{base}/b")).st_nlink == 2
    assert await files.stat(f"{base}/s") == os.stat(f"{base}/a")
    assert await files.lstat(f"{base}/s") == os.lstat(f"{base}/s")
    await files.rename(f"{base}/b", f"{base}/c")
    await files.replace(f"{base}/c", f"{base}/d")
    assert sorted(await files.listdir(base)) == ["a", "d", "s", "x"]
    await files.unlink(f"{base}/d")
    await files.rmdir(f"{base}/x/y")
    assert await files.access(f"{base}/a", os.R_OK) and not await files.access(f"{base}/d", os.F_OK)
    try:
        await files.setxattr(f"{base}/a", "user.x", b"value")
        assert await files.getxattr(f"{base}/a", "user.x") == b"value" == os.getxattr(f"{base}/a", "user.x")
    except (AttributeError, OSError):  # os or the file system lacks it
        with expect(AttributeError, OSError):
            await files.getxattr(f"{base}/a", "user.x")
    assert await files.access(f"{base}/s", os.R_OK, follow_symlinks=True)
    assert await files.call(int, "7", base=8) == 7
    assert len(files.allocate(8192)) == 8192
    for call in (files.stat, files.unlink, files.rmdir, files.readlink, files.listdir, files.read_bytes):
        kind, words = await outcome_of(call(f"{base}/missing"))
        assert kind is FileNotFoundError and f"'{base}/missing'" in words, call


async def whole(files: Any, top: str) -> None:
    """Use the functions of whole files, with asyncio and without."""

    async def here(result: Any) -> Any:
        if hasattr(result, "__aiter__"):
            return [each async for each in result]
        if inspect.isgenerator(result):
            return list(result)
        return await result if hasattr(result, "__await__") else result

    for at, module in enumerate((files, files.sync)):
        base = os.path.join(top, f"whole{at}")
        os.makedirs(f"{base}/tree/below")
        paths = [f"{base}/tree/{at}" for at in range(40)]
        for each in paths:
            data = each.encode() * 50
            options: Any = {"atomic": each[-1] in "13", "sync": each[-1] in "12"}
            assert await here(module.write_bytes(each, data, **options)) == len(data)
        assert await here(module.read_bytes(paths[3])) == paths[3].encode() * 50
        assert await here(module.write_text(f"{base}/text", "Zeile\n\u20ac", "utf-8")) == 7
        assert await here(module.read_text(f"{base}/text", "utf-8")) == "Zeile\n\u20ac"
        expected = [each.encode() * 50 for each in paths]
        assert await here(module.read_many(paths)) == expected
        ranges = [(each, 3, 9) for each in paths]
        assert await here(module.read_many(ranges, depth=5)) == [data[3:12] for data in expected]
        assert sorted(await here(module.read_each(paths))) == sorted(zip(paths, expected))
        stats = [os.stat(each) for each in paths]
        assert await here(module.stat_many(paths)) == stats
        assert sorted(await here(module.stat_each(paths))) == sorted(zip(paths, stats))
        memory = module.allocate(4096)
        with open(paths[5], "rb") as file:
            fill = [(0, memoryview(memory)[:10]), (3, memoryview(memory)[10:20])]
            assert await here(module.read_many_into(file.fileno(), fill)) == [10, 10]
            assert bytes(memory[:20]) == expected[5][:10] + expected[5][3:13]
            if not hasattr(os, "O_DIRECT"):
                with expect(ValueError):
                    await here(module.read_many_into(file.fileno(), fill, direct=True))
        steps: dict[int, int] = {}
        size = await here(module.copy_file(paths[0], f"{base}/copy", progress=steps.__setitem__))
        assert steps == {size: size} and pathlib.Path(f"{base}/copy").read_bytes() == expected[0]
        await here(module.copy_tree(f"{base}/tree", f"{base}/copied"))
        walked = await here(module.walk(base))
        found = {path: sorted(each.name for each in entries) for path, entries in walked}
        assert found == {root: sorted(folders + names) for root, folders, names in os.walk(base)}
        assert found[f"{base}/copied"] == found[f"{base}/tree"]
        assert await here(module.remove_tree(f"{base}/copied")) == 42 and not os.path.exists(f"{base}/copied")
    if os.path.exists("/proc/self/status") and sys.platform == "linux":
        assert b"VmPeak" in await files.read_bytes("/proc/self/status")
        assert b"VmPeak" in files.sync.read_bytes("/proc/self/status")


# ------------------------------------------------------------------------------------------------------
# File objects


async def reads_and_writes(file: Any, text: bool, like_a_file: bool = True) -> None:
    """Use the methods that all files have, except close(); the file is empty, readable and writable.

    Before Python 3.11 a SpooledTemporaryFile lacks some methods of a file.
    """

    def given(data: bytes) -> Any:
        return data.decode() if text else data

    def same(found: Any, data: Any) -> bool:
        return bool(found == ([given(each) for each in data] if isinstance(data, list) else given(data)))

    assert await file.write(given(b"one\ntwo\n")) == 8
    await file.writelines([given(b"three\nfour\n"), given(b"five")])
    await file.flush()
    assert await file.seek(0) == 0 or not like_a_file
    assert same(await file.read(3), b"one") and await file.tell() == 3
    assert same(await file.readline(), b"\n") and same(await file.readline(2), b"tw")
    await file.seek(0)
    assert same(await file.readlines(), LINES)
    await file.seek(0)
    assert same([line async for line in file], LINES)
    await file.seek(0)
    assert same(await file.read(), DATA)
    await file.seek(0, 2)
    assert await file.tell() == len(DATA)
    await file.truncate(len(DATA))
    assert not await file.isatty() and not file.isatty()
    for method in (file.readable, file.writable, file.seekable):
        if like_a_file:
            assert await method() and method()
        else:
            with expect(AttributeError):
                method()


async def positions(file: Any) -> None:
    """Use the positional methods, fsync() and fileno()."""
    await file.fsync()
    here = await file.tell()
    assert await file.read_at(5, 4) == DATA[4:9]
    memory = bytearray(6)
    assert await file.readinto_at(memory, 2) == 6 and memory == DATA[2:8]
    assert await file.write_at(DATA[5:9], 5) == 4
    for call in (file.read_at(1, -1), file.readinto_at(memory, -1), file.write_at(b"x", -1)):
        with expect(OSError):
            await call
    assert await file.tell() == here
    assert os.fstat(file.fileno()).st_size == len(DATA) and os.lseek(file.fileno(), 0, os.SEEK_CUR) == here


async def buffers(file: Any, raw: bool = False) -> None:
    """Use the methods that read into memory and from the buffer."""
    await file.seek(0)
    memory = bytearray(6)
    assert await file.readinto(memory) == 6 and memory == DATA[:6]
    if not raw:
        assert (await file.peek(1)).startswith(DATA[6:7])
        assert await file.read1(4) == DATA[6:10]
        assert await file.readinto1(memory) == 6 and memory == DATA[10:16]
    else:
        rest = DATA[await file.tell() :]
        assert await file.readall() == rest


async def objects(files: Any, top: str) -> None:
    """Use each class of files."""
    for at, (mode, buffering) in enumerate((("w+b", 0), ("w+b", -1), ("w+b", 16), ("w+", -1), ("w+", 16))):
        path, text = os.path.join(top, f"object{at}"), "b" not in mode
        async with files.open(path, mode, buffering, encoding="utf-8" if text else None) as file:
            await reads_and_writes(file, text)
            if text:
                await file.fsync()
                assert file.fileno() >= 0
                await file.reconfigure(line_buffering=True)
            else:
                await positions(file)
                await buffers(file, not buffering)
        assert file.closed and pathlib.Path(path).read_bytes() == DATA
        with expect(ValueError):
            await file.read()
        file = await files.open_file(path, "r+" if text else "r+b", buffering)
        if buffering:
            with file.detach() as below:
                assert below.read(3) in (b"one", "one")
            continue
        with expect(io.UnsupportedOperation):
            file.detach()
        await file.close()
        await file.aclose()
    for mode in ("rb", "r"):
        file = await files.open(path, mode)
        await file.aclose()
        file = await files.open(path, mode)
        await file.close()
    fd = os.open(path, os.O_RDONLY)
    async with files.wrap(fd) as file:
        assert await file.read() == DATA
    async with await files.open_file(path, "ab") as file:
        await asyncio.gather(*[file.write(b"%d" % at) for at in range(10)])
    assert pathlib.Path(path).read_bytes() == DATA + b"0123456789"


async def wrapped(files: Any, top: str) -> None:
    """Wrap files that others have opened, and use temporary files."""
    path = os.path.join(top, "wrapped")
    for at, mode in enumerate(("w+b", "w+")):
        plain: Any = open(path, mode)  # noqa: SIM115
        file = files.wrap(plain) if at else files.wrap_file(plain)
        await reads_and_writes(file, "b" not in mode)
        if "b" in mode:
            await buffers(file)
        assert file.fileno() == plain.fileno()
        await (file.close if at else file.aclose)()
        assert plain.closed
    file = files.wrap(open(path, "rb", 0))  # noqa: SIM115
    assert await file.read(size=3) == DATA[:3] and await file.readall() == DATA[3:]
    await file.close()
    file = files.wrap(open(path, "rb"))  # noqa: SIM115
    with file.detach() as raw:
        assert raw.read() == DATA
    make = files.tempfile
    for mode in ("w+b", "w+"):
        async with make.TemporaryFile(mode, dir=top) as file:
            await reads_and_writes(file, "b" not in mode)
        async with make.NamedTemporaryFile(mode, dir=top) as file:
            await reads_and_writes(file, "b" not in mode)
            name = file.name
            assert os.path.exists(name)
        assert not os.path.exists(name)
        for size in (0, 10, 10_000):
            async with make.SpooledTemporaryFile(size, mode, dir=top) as file:
                await file.write(b"" if "b" in mode else "")
                await file.writelines([])
                await reads_and_writes(file, "b" not in mode, sys.version_info >= (3, 11))
                await file.rollover()
                assert await file.fileno() >= 0
    for close in ("close", "aclose"):
        file = await make.SpooledTemporaryFile(dir=top)
        await file.write(DATA)
        await file.seek(0)
        memory = bytearray(4)
        for name in ("read1", "readinto", "readinto1", "peek", "readall", "detach"):
            args = [memory] if "into" in name else [3] if "1" in name else []
            if hasattr(tempfile.SpooledTemporaryFile, name) and name != "detach":  # which leaves it unusable
                with contextlib.suppress(io.UnsupportedOperation):
                    assert await getattr(file, name)(*args)
            else:
                with expect(AttributeError, io.UnsupportedOperation):
                    answer = getattr(file, name)(*args)
                    await answer if hasattr(answer, "__await__") else None
        await getattr(file, close)()
        assert file.closed
    folder = await make.TemporaryDirectory(dir=top)
    assert os.path.isdir(folder.name)
    await folder.cleanup()
    assert not os.path.exists(folder.name)
    folder = await make.TemporaryDirectory(dir=top)
    await folder.close()
    assert not os.path.exists(folder.name)


# ------------------------------------------------------------------------------------------------------
# Path, and the functions of aiofiles.os


async def questions(files: Any, top: str) -> None:
    """Compare Path with pathlib.Path."""
    base = os.path.join(top, "paths")
    os.makedirs(f"{base}/folder/below")
    pathlib.Path(base, "file").write_bytes(DATA)
    os.symlink("file", f"{base}/link")
    os.symlink("folder", f"{base}/folder link")
    os.symlink("nothing", f"{base}/dangling")
    kinds = "dir", "file", "symlink", "block_device", "char_device", "fifo", "socket", "mount"
    asked = ["exists", "stat", "lstat", "owner", "group", "absolute", "resolve", "expanduser", "readlink"]
    asked += [f"is_{kind}" for kind in kinds] + ["is_junction"]
    for name in ("", "file", "link", "folder", "folder link", "dangling", "missing", "file/x", "~"):
        for question in asked:
            if hasattr(pathlib.Path, question):
                theirs = outcome(getattr(pathlib.Path(base, name), question))
                ours = await outcome_of(getattr(files.Path(base, name), question)())
                assert ours == theirs, (name, question, ours, theirs)
    path = files.Path(base)
    assert not await path.is_junction()
    assert await (path / "file").samefile(path / "link")
    assert await files.Path.cwd() == pathlib.Path.cwd() and await files.Path.home() == pathlib.Path.home()
    if hasattr(files.Path, "from_uri"):
        assert files.Path.from_uri(path.as_uri()) == path
    assert files.Path("a.b").with_stem("c") == files.Path("c.b")
    assert path.with_segments("a", "b") == files.Path("a/b")
    assert sorted([each.name async for each in path.iterdir()]) == sorted(os.listdir(base))
    for method in ("glob", "rglob"):
        theirs = sorted(map(str, getattr(pathlib.Path(base), method)("f*")))
        assert sorted([str(each) async for each in getattr(path, method)("f*")]) == theirs
    found = {str(root): (sorted(folders), sorted(names)) async for root, folders, names in path.walk()}
    assert found[base] == (["folder"], ["dangling", "file", "folder link", "link"])


async def changes(files: Any, top: str) -> None:
    """Use the methods of Path that change files."""
    path = files.Path(top, "changes")
    await path.mkdir(0o755, parents=True, exist_ok=True)
    file = path / "file"
    await file.touch()
    await file.chmod(0o600)
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    with contextlib.suppress(NotImplementedError, OSError):
        await file.lchmod(0o600)  # Linux lacks it
    assert await file.write_bytes(DATA) == len(DATA) and await file.read_bytes() == DATA
    assert await file.write_text("Zeile\n") == 6 and await file.read_text() == "Zeile\n"
    async with file.open("rb") as opened:
        assert await opened.read() == b"Zeile\n"
    assert await file.rename(path / "other") == path / "other"
    assert await (path / "other").replace(file) == file
    await (path / "link").symlink_to("file")
    await (path / "hard").hardlink_to(file)
    await file.link_to(path / "harder")
    assert os.stat(file).st_nlink == 3
    for name in ("copy", "move"):
        if hasattr(pathlib.Path, name):
            await getattr(path / "hard", name)(path / name)
            await (path / name).unlink()
    if hasattr(pathlib.Path, "copy_into"):
        for name in ("below", "above"):
            await (path / name).mkdir()
        await file.copy_into(path / "below")
        await (path / "below" / "file").move_into(path / "above")
        shutil.rmtree(path / "below")
        shutil.rmtree(path / "above")
    for name in ("file", "link", "hard", "harder"):
        await (path / name).unlink(missing_ok=True)
    await path.rmdir()
    assert not os.path.exists(path)


def outcome(function: Callable[[], Any]) -> Any:
    """Return a result, a path as text, or the exception's type and message."""
    try:
        result = function()
    except Exception as error:
        return type(error), str(error)
    return str(result) if isinstance(result, pathlib.PurePath) else result


async def outcome_of(awaitable: Any) -> Any:
    """Return the same for a coroutine."""
    try:
        result = await awaitable
    except Exception as error:
        return type(error), str(error)
    return str(result) if isinstance(result, pathlib.PurePath) else result


async def of_aiofiles(files: Any, top: str) -> None:
    """Use the functions of aiofiles.os and aiofiles.ospath."""
    theirs, base = files.os, os.path.join(top, "aiofiles")
    await theirs.makedirs(f"{base}/a/b")
    await theirs.mkdir(f"{base}/c")
    pathlib.Path(base, "file").write_bytes(DATA)
    await theirs.symlink("file", f"{base}/link")
    await theirs.link(f"{base}/file", f"{base}/hard")
    assert await theirs.readlink(f"{base}/link") == "file"
    assert await theirs.stat(f"{base}/link") == os.stat(f"{base}/file")
    assert await theirs.access(f"{base}/file", os.R_OK) and await theirs.getcwd() == os.getcwd()
    names = ["a", "c", "file", "hard", "link"]
    assert sorted(await theirs.listdir(base)) == names
    with await theirs.scandir(base) as entries:
        assert sorted(each.name for each in entries) == names
    asked = "exists", "getatime", "getctime", "getmtime", "getsize", "isdir", "isfile", "islink", "ismount"
    for name in asked:
        for path in (base, f"{base}/file", f"{base}/link", f"{base}/missing", "a\0b", 10_000):
            answer = outcome(lambda name=name, path=path: getattr(os.path, name)(path))
            assert await outcome_of(getattr(theirs.path, name)(path)) == answer, (name, path)
    assert await theirs.path.abspath("x") == os.path.abspath("x")
    assert await theirs.path.samefile(f"{base}/file", f"{base}/link")
    with open(f"{base}/file", "rb") as one, open(f"{base}/hard", "r+b") as other:
        assert await theirs.path.sameopenfile(one.fileno(), other.fileno())
        if hasattr(theirs, "sendfile") and hasattr(os, "sendfile"):
            with open(f"{base}/sent", "wb") as out:
                assert await theirs.sendfile(out.fileno(), one.fileno(), 0, 5) == 5
    if hasattr(theirs, "statvfs") and hasattr(os, "statvfs"):
        assert (await theirs.statvfs(base)).f_bsize == os.statvfs(base).f_bsize
    assert await theirs.wrap(len)("four") == 4 and await theirs.path.wrap(len)("four") == 4
    await theirs.rename(f"{base}/hard", f"{base}/harder")
    await theirs.replace(f"{base}/harder", f"{base}/hard")
    await theirs.renames(f"{base}/hard", f"{base}/d/hard")
    await theirs.unlink(f"{base}/link")
    await theirs.remove(f"{base}/d/hard")
    await theirs.rmdir(f"{base}/c")
    await theirs.removedirs(f"{base}/a/b")
    assert not os.path.exists(f"{base}/a")


PARTS = descriptors, names, whole, objects, wrapped, questions, changes, of_aiofiles


def in_subinterpreter(environment: str) -> None:
    """Do what main() does in an isolated subinterpreter, and end it."""
    try:
        import _interpreters as interpreters  # type: ignore[import-not-found]
    except ImportError:
        sys.exit(77)
    inner = interpreters.create()
    code = "import sys; sys.path[:] = path; import files_everything; files_everything.main(environment)"
    failure = interpreters.exec(inner, code, shared={"path": tuple(sys.path), "environment": environment})
    interpreters.destroy(inner)
    if failure:
        sys.exit(failure.errdisplay)


def main(environment: str) -> None:
    """Set up an environment, call everything, and report what was not called."""
    import subprocess  # noqa: F401  it needs what Windows has not

    if environment in ("macOS", "Windows", "no ctypes"):
        ENVIRONMENTS[environment]()
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
    from rawuring import files

    if environment not in ("macOS", "Windows", "no ctypes"):
        ENVIRONMENTS[environment]()
    public = watch(files)
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "io_uring cannot be used here", RuntimeWarning)
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as top:
        for part in PARTS:
            loop = new_loop(environment)
            try:
                loop.run_until_complete(part(files, top))
            finally:
                loop.close()
    missing = sorted(public - called)
    assert not missing, f"not called: {' '.join(missing)}"
    assert threading.active_count() <= 20
    print(files.backend, len(public))


if __name__ == "__main__":
    (in_subinterpreter if "subinterpreter" in sys.argv[1] else main)(sys.argv[1])
