# SPDX-License-Identifier: MIT
"""Memory: however a request ends, in any state, no freed memory is written."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import warnings
import zlib

import pytest
from driver import need_opcode
from harness import PYPY, ROOT, figures, name_of_status, run_child
from leaks import footprint, settles

from rawuring import buffers, inflight, ops, rings, uapi
from rawuring.debug import guarded

pytestmark = pytest.mark.requires_io_uring

NBYTES = 4096
FILL = b"\x5a" * NBYTES


class Scene:
    """A pipe, a socket pair, a ring with its table, and guarded memory."""

    def __init__(self, **options: int) -> None:
        self.r, self.w = os.pipe()
        self.one, self.two = socket.socketpair()
        self.ring = rings.Ring(8, **options)
        self.table = inflight.InFlight(self.ring)
        self.memory = guarded(NBYTES)
        self.memory.memory[:] = FILL
        self.answers: list[tuple[int, int]] = []

    def read(self, **options: int) -> int:
        return self.table.start(
            ops.prep_read,
            self.r,
            self.memory.address,
            NBYTES,
            -1,
            handler=self.note,
            holds=(self.memory,),
            **options,
        )

    def note(self, res: int, flags: int) -> None:
        self.answers.append((res, flags))

    def aftermath(self) -> None:
        """Reuse the memory, send data, and check that nothing writes there."""
        self.ring = self.table = None
        gc.collect()
        assert self.memory.damage() == ""
        self.memory.memory[:] = b"\xa7" * NBYTES
        with contextlib.suppress(OSError):
            os.write(self.w, b"late" * 256)
        with contextlib.suppress(OSError):
            self.two.send(b"late" * 256)
        assert bytes(self.memory.memory) == b"\xa7" * NBYTES, "written after the end"
        assert self.memory.damage() == ""
        figures["bytes verified"] += NBYTES + 128

    def close(self) -> None:
        os.close(self.r)
        os.close(self.w)
        self.one.close()
        self.two.close()


def held(scene: Scene) -> None:
    scene.table.entries[scene.table.hold(scene.note, scene.memory)] = (scene.note, (scene.memory,))
    scene.table.entries.clear()  # it was never queued, so it would never complete


def queued(scene: Scene) -> None:
    scene.read()


def waiting(scene: Scene) -> None:
    scene.read()
    scene.ring.submit()


def in_a_worker(scene: Scene) -> None:
    scene.read(flags=uapi.IOSQE_ASYNC)
    scene.ring.submit()


def cancel_queued(scene: Scene) -> None:
    token = scene.read()
    scene.ring.submit()
    scene.table.cancel(token)


def cancelled(scene: Scene) -> None:
    cancel_queued(scene)
    scene.ring.submit()


def linked(scene: Scene) -> None:
    scene.read(flags=uapi.IOSQE_IO_LINK)
    scene.read()
    scene.ring.submit()


def completed(scene: Scene) -> None:
    os.write(scene.w, b"early" * 10)
    scene.read()
    scene.ring.submit_and_wait(1)


def noted(scene: Scene) -> None:
    completed(scene)
    for cqe in scene.ring.reap():
        scene.table.complete(*cqe[:3])


def multishot_between_two(scene: Scene) -> None:
    scene.table.start(
        ops.prep_poll_multishot, scene.one.fileno(), 1, handler=scene.note, holds=(scene.memory,)
    )
    scene.ring.submit()
    scene.two.send(b"x")
    scene.ring.submit_and_wait(1, 1_000_000_000)
    scene.table.dispatch(scene.ring.reap())


def many_at_once(scene: Scene) -> None:
    for _ in range(8):
        scene.read()
    scene.ring.submit()
    for _ in range(8):
        scene.table.start(
            ops.prep_recv, scene.one.fileno(), scene.memory.address, NBYTES, 0, holds=(scene.memory,)
        )


STATES = (
    held, queued, waiting, in_a_worker, cancel_queued, cancelled, linked, completed, noted,
    multishot_between_two, many_at_once,
)  # fmt: skip


def by_close(scene: Scene) -> None:
    queued = set(scene.ring.discard())  # as close() itself does first
    waited_for = [
        token
        for token, entry in scene.table.entries.items()
        if entry[0] == scene.note and token not in queued
    ]
    before = len(scene.answers) + len(scene.table.ready)
    for token in queued:
        scene.table.entries.pop(token, None)
    scene.ring.close()
    # When close() returns, each request has completed; nothing is left for the kernel to finish later.
    assert len(scene.answers) == before + len(waited_for)
    assert len(scene.table) == 0


def by_forgetting(scene: Scene) -> None:
    entries = scene.table.entries
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        scene.ring = scene.table = None
        gc.collect()
    assert not entries, "forgotten without a wait for their completion"


def by_a_cycle(scene: Scene) -> None:
    scene.ring.me, scene.table.me = scene.table, scene.ring
    by_forgetting(scene)


def by_an_exception(scene: Scene) -> None:
    with pytest.raises(ZeroDivisionError), scene.ring:
        raise ZeroDivisionError


def by_a_handler_that_raises(scene: Scene) -> None:
    def explode(res: int, flags: int) -> None:
        raise ZeroDivisionError

    scene.table.entries = {token: (explode, *entry[1:]) for token, entry in scene.table.entries.items()}
    expected = bool(scene.table.entries) and scene.ring.statistics().submitted > 0
    with pytest.raises(ZeroDivisionError) if expected else contextlib.nullcontext():
        scene.ring.close()


def by_closing_its_descriptors(scene: Scene) -> None:
    other = os.open(os.devnull, os.O_RDWR)
    for fd in (scene.r, scene.one.fileno()):
        os.dup2(other, fd)
    os.close(other)
    scene.ring.close()


def in_another_thread(scene: Scene) -> None:
    def close() -> None:
        scene.ring.bind_thread()
        scene.ring.close()

    thread = threading.Thread(target=close)
    thread.start()
    thread.join(30)


ENDS = (
    by_close, by_forgetting, by_a_cycle, by_an_exception, by_a_handler_that_raises,
    by_closing_its_descriptors, in_another_thread,
)  # fmt: skip


@pytest.fixture
def scene():
    need_opcode("READ")
    made = Scene()
    yield made
    if made.ring is not None:
        made.ring.close()
    made.close()


@pytest.mark.parametrize("end", ENDS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("state", STATES, ids=lambda f: f.__name__)
def test_ended_in_any_state_then_the_memory_is_ours_again(scene, state, end):
    if PYPY and end in (by_forgetting, by_a_cycle):
        pytest.skip("reference counting (CPython): PyPy frees later")
    state(scene)
    figures["operations"] += 1
    end(scene)
    figures["requests ended by force"] += 1
    scene.aftermath()


@pytest.mark.parametrize("angry", [False, True])
@pytest.mark.parametrize("what", ["ring", "table"])
def test_handler_that_starts_again_while_all_is_closed_then_the_memory_is_ours_again(scene, what, angry):
    """A server that reads again after each answer did so on a ring that was being closed."""
    scene.read()
    scene.ring.submit()

    def again(res: int, flags: int) -> None:
        scene.note(res, flags)
        scene.read()
        scene.ring.submit()
        if angry:
            raise ZeroDivisionError

    ((token, entry),) = scene.table.entries.items()
    scene.table.entries[token] = (again, *entry[1:])
    table = scene.table
    with pytest.raises(ZeroDivisionError) if angry else contextlib.nullcontext():
        (scene.ring if what == "ring" else table).close()
    # A handler that raises while a ring is closed is called once more, with the second answer.
    assert (len(table), len(scene.answers)) == (0, 2 if angry and what == "ring" else 1)
    table.dispatch()
    ended = [res for res, _ in scene.answers]
    assert len(ended) == 2 and set(ended) <= {-errno.ECANCELED, -errno.EINTR}  # EINTR: 5.10, from a worker
    scene.ring.close()
    scene.aftermath()


@pytest.mark.parametrize("state", STATES, ids=lambda f: f.__name__)
def test_forgotten_by_its_owner_while_in_flight_then_alive(scene, state):
    """The caller drops its references; memory that the kernel may touch stays."""
    state(scene)
    address, count = scene.memory.address, sum(len(entry[1]) for entry in scene.table.entries.values())
    kept = [h.address for entry in scene.table.entries.values() for h in entry[1]]
    assert kept == [address] * count
    in_kernel = state in (waiting, in_a_worker, cancel_queued, cancelled, linked)
    assert not in_kernel or kept


def test_random_reads_then_every_checksum_is_right(tmp_path):
    need_opcode("READ")
    chance = random.Random(9)
    truth = bytes(chance.getrandbits(8) for _ in range(1 << 16)) * 4
    (tmp_path / "file").write_bytes(truth)
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        with rings.Ring(32) as ring:
            table = inflight.InFlight(ring)
            for _ in range(20):
                wanted = []
                for _ in range(16):
                    nbytes, offset = chance.randrange(1, 20000), chance.randrange(len(truth))
                    memory = guarded(nbytes)
                    results: list[int] = []
                    table.start(
                        ops.prep_read, fd, memory.address, nbytes, offset, holds=(memory,),
                        handler=lambda res, flags, results=results: results.append(res),
                        flags=chance.choice([0, uapi.IOSQE_ASYNC]),
                    )  # fmt: skip
                    wanted.append((memory, offset, results))
                while len(table):
                    ring.submit_and_wait(1, 10**10)
                    table.dispatch(ring.reap())
                for memory, offset, results in wanted:
                    (res,) = results
                    assert res == min(memory.nbytes, len(truth) - offset)
                    assert zlib.crc32(memory.memory[:res]) == zlib.crc32(truth[offset : offset + res])
                    assert memory.damage() == ""
                    figures["operations"] += 1
                    figures["bytes verified"] += res + 128
    finally:
        os.close(fd)


# ------------------------------------------------------------------------------------------------------
# The whole process ends, under allocators that detect misuse

EVERY_STATE = """
import gc, os, signal, sys, threading, warnings
sys.path.insert(0, sys.argv[2])
warnings.simplefilter("ignore", ResourceWarning)
import test_memory
scenes = []
for state in test_memory.STATES:
    scene = test_memory.Scene()
    state(scene)
    scenes.append(scene)
os.write(1, b"ready\\n")
how = sys.argv[1]
if how == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
elif how == "os._exit":
    os._exit(7)
elif how == "sys.exit":
    sys.exit(7)
elif how == "raise":
    raise KeyboardInterrupt
elif how == "thread":
    def life():
        mine = test_memory.Scene()
        test_memory.waiting(mine)
        scenes.append(mine)
        done.set()
        threading.Event().wait(60)
    done = threading.Event()
    threading.Thread(target=life, daemon=True).start()
    done.wait(30)
elif how == "gc":
    del scene
    while scenes:
        scenes.pop().close()
        gc.collect()
elif how == "abort":
    os.abort()
"""
HOW = {
    "end": 0, "kill": -9, "os._exit": 7, "sys.exit": 7, "raise": -2, "thread": 0, "gc": 0, "abort": -6,
}  # fmt: skip


def libc_malloc_debug() -> str:
    """Find the library that implements MALLOC_CHECK_ from glibc 2.34 on."""
    for folder in ("/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu", "/lib64", "/usr/lib64", "/usr/lib"):
        if os.path.exists(f"{folder}/libc_malloc_debug.so.0"):
            return f"{folder}/libc_malloc_debug.so.0"
    return ""


ALLOCATORS = {
    "plain": {},
    "glibc": {"MALLOC_PERTURB_": "165", "MALLOC_CHECK_": "3", "LD_PRELOAD": libc_malloc_debug()},
    "python": {"PYTHONMALLOC": "debug"},
}


@pytest.mark.long
@pytest.mark.parametrize(
    ("how", "allocator"),
    [(how, "plain") for how in HOW] + [(how, name) for how in ("end", "gc") for name in ("glibc", "python")],
)
def test_process_ends_with_every_state_in_flight_then_as_it_should(how, allocator):
    need_opcode("READ")
    env = {key: value for key, value in ALLOCATORS[allocator].items() if value}
    done = run_child(EVERY_STATE, how, str(ROOT / "tests" / "faults"), env=env)
    assert done.stdout == "ready\n", done.stderr
    if how == "raise" and done.returncode in (1, 130):
        return
    assert done.returncode == HOW[how], f"{name_of_status(done.returncode)}: {done.stderr}"
    noise = ("Fatal Python error: Aborted", "faulthandler")
    assert not done.stderr or how in ("raise",) or any(word in done.stderr for word in noise), done.stderr
    figures["processes ended with work in flight"] += 1


@pytest.mark.skipif(PYPY or not os.environ.get("RAWURING_VALGRIND"), reason="RAWURING_VALGRIND=1 (30 s)")
@pytest.mark.parametrize("how", ["end", "gc"])
def test_under_valgrind_then_no_write_where_none_is_allowed(how):
    """PYTHONMALLOC=malloc, so that valgrind sees each object."""
    if not shutil.which("valgrind"):
        pytest.skip("valgrind")
    env = {**os.environ, "PYTHONMALLOC": "malloc", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    command = [
        "valgrind",
        "--error-exitcode=99",
        "--undef-value-errors=no",
        sys.executable,
        "-c",
        EVERY_STATE,
    ]
    done = subprocess.run(
        [*command, how, str(ROOT / "tests" / "faults")], env=env, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Invalid write" not in done.stderr


def test_allocate_many_times_then_no_mapping_is_left():
    gc.collect()
    before = footprint()["mappings"]
    for _ in range(200):
        memory = buffers.allocate(8192)
        pin = buffers.pin(memory, writable=True)
        del memory, pin
    assert settles(lambda: footprint()["mappings"], lambda now: now <= before + 20) <= before + 20
