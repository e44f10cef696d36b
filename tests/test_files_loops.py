# SPDX-License-Identifier: MIT
"""files on every loop, where io_uring is refused, and at the limits of a process.

What it is: one program that uses a little of everything, run on each loop and under a filter in a separate
process; a full disk, RLIMIT_FSIZE and RLIMIT_NOFILE.
Must not know: which layer answered.
Invariant: a limit leads to an exception or to a smaller depth, never to an endless wait.
Read next: the examples.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from refusal import skip_without_seccomp
from test_probe_denied import ERRNO, KILL, filtered

ROOT = Path(__file__).resolve().parent.parent
LINUX = sys.platform == "linux"
pytestmark = pytest.mark.skipif(not LINUX, reason="Linux only")

PROGRAM = """
import asyncio, errno, os, sys, tempfile
from rawuring import files

async def main(top):
    paths = [os.path.join(top, str(at)) for at in range(50)]
    writes = [files.write_bytes(path, b"x" * at * 100, sync=at % 2 == 0) for at, path in enumerate(paths)]
    await asyncio.gather(*writes)
    await files.write_bytes(paths[0], b"new", atomic=True, sync=True)
    assert await files.read_bytes(paths[0]) == b"new"
    assert [len(data) for data in await files.read_many(paths[1:])] == list(range(100, 5000, 100))
    assert [each.st_size for each in await files.stat_many(paths[1:])] == list(range(100, 5000, 100))
    assert len([item async for item in files.read_each(paths, depth=4)]) == 50
    fd = await files.open_fd(paths[1], os.O_RDWR)
    await files.pwrite(fd, b"abc", 10)
    assert await files.pread(fd, 5, 9) == b"xabcx"
    await files.fsync(fd)
    await files.close_fd(fd)
    reader, writer = os.pipe()
    reading = asyncio.ensure_future(files.read(reader, 10))
    await asyncio.sleep(0)
    assert await files.write(writer, b"pipe") == 4
    assert await reading == b"pipe"
    os.close(reader), os.close(writer)
    os.mkfifo(os.path.join(top, "fifo"))
    fifo = os.path.join(top, "fifo")
    waiting = [asyncio.ensure_future(files.open_fd(fifo, os.O_WRONLY)) for _ in range(40)]
    await asyncio.sleep(0)
    # Forty opens that never complete must not affect the rest.
    await files.copy_tree(top, top + "-copy", ignore=lambda *_: ["fifo"])
    for task in waiting:
        task.cancel()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(each, asyncio.CancelledError) for each in found), found
    assert await files.remove_tree(top + "-copy") == 51
    try:
        await files.unlink(os.path.join(top, "missing"))
    except FileNotFoundError as error:
        assert error.filename == os.path.join(top, "missing")
    return files.backend, files.reason

def scenario(run):
    with tempfile.TemporaryDirectory() as top:
        got = run(main(top))
        assert [len(data) for data in files.sync.read_many([os.path.join(top, "1")])] == [100]
    return got
"""
LOOPS = {
    "stock": "print(*scenario(asyncio.run), sep='|')",
    "ours": "from rawuring import aio\nprint(*scenario(aio.run), sep='|')",
    "uvloop": (
        "import uvloop\nloop = uvloop.new_event_loop()\n"
        "print(*scenario(loop.run_until_complete), sep='|')\n"
        "loop.close()"
    ),
}  # fmt: skip


def execute(code: str, *options: str) -> str:
    """Run a program and return its output."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *options, "-c", code]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    skip_without_seccomp(done)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


@pytest.mark.parametrize("loop", sorted(LOOPS))
def test_program_when_on_any_loop_then_it_works(loop: str) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    # Where io_uring is refused the loop must warn.
    warnings = "-W", "error", "-W", "ignore:io_uring cannot be used here:RuntimeWarning"
    assert execute(PROGRAM + LOOPS[loop], *warnings).startswith(("io_uring", "threads"))


@pytest.mark.parametrize(
    "action", [ERRNO | errno.EPERM, ERRNO | errno.ENOSYS, KILL], ids=["EPERM", "ENOSYS", "killed"]
)
def test_program_when_io_uring_is_refused_then_threads_do_it_and_say_why(action: int) -> None:
    code = "import ctypes, os, sys\n" + filtered(action) + PROGRAM + LOOPS["stock"]
    backend, _, reason = execute(code).partition("|")
    assert backend == "threads"
    assert "seccomp" in reason


#: Refuses one system call by its number on x86-64.
ONE = """
import ctypes, errno, os, struct, sys
def refuse(number, code):
    steps = (0x20, 0, 0, 0), (0x15, 0, 1, number), (6, 0, 0, 0x50000 | code), (6, 0, 0, 0x7FFF0000)
    program = b"".join(struct.pack("=HBBI", *step) for step in steps)
    memory = ctypes.create_string_buffer(program)
    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(Program(4, ctypes.addressof(memory)))):
        sys.exit(77)
"""


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "uname") or os.uname().machine != "x86_64", reason="numbers of x86-64")
@pytest.mark.parametrize("number", [327, 328, 437], ids=["preadv2", "pwritev2", "openat2"])
@pytest.mark.parametrize("code", ["EPERM", "ENOSYS"])
@pytest.mark.parametrize("ring", ["", "refuse(425, errno.EPERM)\n"], ids=["ring", "no ring"])
def test_program_when_a_filter_refuses_what_is_tried_first_then_it_works(
    number: int, code: str, ring: str
) -> None:
    refused = ONE + f"refuse({number}, errno.{code})\n{ring}"
    assert execute(refused + PROGRAM + LOOPS["stock"]).startswith(("io_uring", "threads"))


LIMITED = """
import asyncio, errno, os, resource, sys, tempfile
from rawuring import files, asyncring
if sys.argv[1:] == ["threads"]:
    files._ring = lambda: None
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

async def main(top):
    path = os.path.join(top, "file")
    for sync in (False, True):
        try:
            await files.write_bytes(path, b"x" * 50_000, sync=sync, atomic=sync)
        except OSError as error:
            assert error.errno == errno.EFBIG, error
        else:
            raise AssertionError("it was written")
    assert os.listdir(top) == ["file"] and os.path.getsize(path) == 10_000
    fd = await files.open_fd(path, os.O_RDWR)
    try:
        await files.pwrite(fd, b"x", 20_000)
    except OSError as error:
        assert error.errno == errno.EFBIG, error
    finally:
        await files.close_fd(fd)

with tempfile.TemporaryDirectory() as top:
    asyncio.run(main(top))
print("limited")
"""


@pytest.mark.parametrize("way", ["ring", "threads"])
def test_limit_of_the_file_size_when_met_then_efbig(way: str) -> None:
    code = f"import sys; sys.argv[1:] = [{way!r}]\n" + LIMITED
    assert execute(code, "-W", "error") == "limited\n"


FULL = """
import asyncio, ctypes, errno, os, sys, tempfile
from rawuring import files
top = tempfile.mkdtemp()
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x20000) or libc.mount(None, b"/", None, 0x44000, None):
    sys.exit(77)
if libc.mount(b"none", top.encode(), b"tmpfs", 0, b"size=64k"):
    sys.exit(77)

async def main():
    path = os.path.join(top, "file")
    await files.write_bytes(path, b"old")
    for atomic in (True, False):
        try:
            await files.write_bytes(path, b"x" * 1_000_000, atomic=atomic, sync=True)
        except OSError as error:
            assert error.errno == errno.ENOSPC, error
        else:
            raise AssertionError("it was written")
        if atomic:
            assert await files.read_bytes(path) == b"old"
            assert os.listdir(top) == ["file"]

asyncio.run(main())
libc.umount(top.encode())
os.rmdir(top)
print("full")
"""


def test_disk_when_it_is_full_then_enospc_and_an_atomic_write_leaves_the_old_file() -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", FULL], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode == 77:
        pytest.skip("a private mount namespace (root, or unprivileged user namespaces)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "full\n", "")
