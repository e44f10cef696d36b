# SPDX-License-Identifier: MIT
"""Every registration that this kernel admits is made, and its effect is verified.

What it is: a test for each opcode of io_uring_register, marked with its name.
Must not know: the layout of a struct.
Invariant: operations that cannot be run here (no network card with spare queues, an older kernel) are still
encoded, and test_register.py compares the bytes with the layout.
Read next: test_request_rules.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import random
import resource
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import leaks
import pytest
from driver import Driver, kernel_release, lacks, need_opcode, need_ring, release

from rawuring import buffers, gates, ops, register, rings, uapi

pytestmark = [pytest.mark.requires_io_uring, pytest.mark.leakcheck]

register_op = pytest.mark.register_op
FIXED = uapi.IOSQE_FIXED_FILE


@pytest.fixture(autouse=True)
def _skip_what_is_missing(request: pytest.FixtureRequest) -> None:
    for marker in request.node.iter_markers("register_op"):
        since = uapi.SINCE["IORING_" + marker.args[0]]
        # Stable kernels have unannounced backports: the tests of newer features try those.
        if release(since) > kernel_release():
            pytest.skip(f"IORING_{marker.args[0]} (Linux {since})")


@pytest.fixture
def do() -> Iterator[Driver]:
    with Driver() as driver:
        yield driver


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 16)
    return path


@pytest.fixture
def fd(file: Path) -> Iterator[int]:
    fd = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    yield fd
    os.close(fd)


def raises(code: int, function, *arguments, **options) -> None:
    with pytest.raises(OSError, match="io_uring") as caught:
        function(*arguments, **options)
    assert caught.value.errno == code, caught.value


def read_fixed(do: Driver, fd: int, pin: buffers.Pin, index: int, offset: int = 0) -> int:
    return do.run(ops.prep_read_fixed, fd, pin.address, 64, offset, index)


def read_slot(do: Driver, slot: int, nbytes: int = 64) -> bytes | int:
    memory = buffers.allocate(nbytes)
    pin = buffers.pin(memory, writable=True)
    res = do.run(ops.prep_read, slot, pin.address, nbytes, 0, keep=pin, flags=FIXED)
    return memory[:res] if res >= 0 else res


# ------------------------------------------------------------------------------------------------------
# Buffers


@register_op("REGISTER_BUFFERS")
@register_op("UNREGISTER_BUFFERS")
def test_buffers_then_usable_until_unregistered(do, fd, file):
    memory = buffers.allocate(4096)
    (pin,) = register.register_buffers(do.ring, [memory])
    raises(errno.EBUSY, register.register_buffers, do.ring, [memory])
    assert read_fixed(do, fd, pin, 0, 5) == 64
    assert memory[:64] == file.read_bytes()[5:69]
    register.unregister_buffers(do.ring)
    assert not do.ring.resources
    assert read_fixed(do, fd, pin, 0) == -errno.EFAULT
    raises(errno.ENXIO, register.unregister_buffers, do.ring)


@pytest.mark.skipif(sys.implementation.name == "pypy", reason="PyPy frees an mmap that is exported")
@register_op("REGISTER_BUFFERS")
def test_registered_buffer_then_held_until_the_ring_is_closed(do):
    memory = buffers.allocate(4096)
    register.register_buffers(do.ring, [memory])
    with pytest.raises(BufferError):
        memory.close()
    do.ring.close()
    do.ring.resources.clear()
    memory.close()


@register_op("REGISTER_BUFFERS2")
@register_op("REGISTER_BUFFERS_UPDATE")
def test_tagged_buffers_then_a_cqe_when_one_is_free(do, fd):
    first, second = buffers.allocate(4096), buffers.allocate(4096)
    register.register_buffers_tags(do.ring, [first, None], [0xA1, 0])
    (pin,) = register.register_buffers_update_tag(do.ring, 0, [second], [0xA2])
    do.ring.submit_and_wait(1, 10_000_000_000)
    assert do.ring.reap() == [(0xA1, 0, 0)]
    assert read_fixed(do, fd, pin, 0) == 64
    register.unregister_buffers(do.ring)
    if kernel_release() >= release("6.13"):  # 6.12 and older post no CQE when all are unregistered
        do.ring.submit_and_wait(1, 10_000_000_000)
        assert do.ring.reap() == [(0xA2, 0, 0)]
    with pytest.raises(ValueError, match="1 tags for 2 slots"):
        register.register_buffers_tags(do.ring, [first, second], [1])


@register_op("REGISTER_BUFFERS2")
@register_op("REGISTER_BUFFERS_UPDATE")
def test_sparse_buffers_then_filled_and_emptied(do, fd):
    try:
        register.register_buffers_sparse(do.ring, 4)
    except OSError:
        lacks("IORING_RSRC_REGISTER_SPARSE", "5.19")
    memory = buffers.allocate(4096)
    (pin,) = register.register_buffers_update_tag(do.ring, 2, [memory])
    assert read_fixed(do, fd, pin, 1) == -errno.EFAULT
    assert read_fixed(do, fd, pin, 2) == 64
    register.register_buffers_update_tag(do.ring, 2, [None])
    assert read_fixed(do, fd, pin, 2) == -errno.EFAULT


@register_op("REGISTER_BUFFERS_UPDATE")
def test_buffers_update_that_fails_half_way_then_the_old_buffer_is_still_held(do, fd):
    first, second, third = (buffers.allocate(4096) for _ in range(3))
    try:
        _, old = register.register_buffers(do.ring, [first, second])
        # An empty slot must have no tag: the kernel stops there.
        pins = register.register_buffers_update_tag(do.ring, 0, [third, None], [0, 7])
    except OSError:
        lacks("IORING_REGISTER_BUFFERS_UPDATE", "5.13")
    assert len(pins) == 1
    assert read_fixed(do, fd, old, 1) == 64  # the kernel still uses it, so it must live
    assert do.ring.resources["buffer", 1] is old
    assert do.ring.resources["buffer", 0] is pins[0]


@register_op("REGISTER_CLONE_BUFFERS")
def test_clone_buffers_then_both_rings_have_them(do, fd, file):
    memories = [buffers.allocate(4096) for _ in range(3)]
    pins = register.register_buffers(do.ring, memories)
    with Driver() as other, Driver() as third:
        register.clone_buffers(other.ring, do.ring)
        assert read_fixed(other, fd, pins[2], 2, 9) == 64
        assert memories[2][:64] == file.read_bytes()[9:73]
        raises(errno.EBUSY, register.clone_buffers, other.ring, do.ring)
        if kernel_release() >= release("6.13"):
            register.register_buffers_sparse(third.ring, 5)
            register.clone_buffers(third.ring, do.ring, 3, 1, 2, replace=True)
            assert read_fixed(third, fd, pins[2], 4) == 64
            assert read_fixed(third, fd, pins[0], 0) == -errno.EFAULT
            assert set(third.ring.resources) == {("buffer", 3), ("buffer", 4)}


# ------------------------------------------------------------------------------------------------------
# Files


@register_op("REGISTER_FILES")
@register_op("UNREGISTER_FILES")
def test_files_then_readable_although_the_descriptor_is_closed(do, file):
    fd = os.open(file, os.O_RDONLY)
    register.register_files(do.ring, [-1, fd])
    os.close(fd)
    assert read_slot(do, 1) == file.read_bytes()[:64]
    assert read_slot(do, 0) == -errno.EBADF
    raises(errno.EBUSY, register.register_files, do.ring, [-1])
    register.unregister_files(do.ring)
    assert read_slot(do, 1) == -errno.EBADF
    raises(errno.ENXIO, register.unregister_files, do.ring)


@register_op("REGISTER_FILES_UPDATE")
def test_files_update_then_other_files(do, fd, file):
    register.register_files(do.ring, [-1, -1, fd])
    skip = uapi.IORING_REGISTER_FILES_SKIP if kernel_release() >= release("5.12") else fd
    assert register.register_files_update(do.ring, 0, [fd, -1, skip]) == 3
    assert read_slot(do, 0) == file.read_bytes()[:64]
    assert read_slot(do, 1) == -errno.EBADF
    assert read_slot(do, 2) == file.read_bytes()[:64]


@register_op("REGISTER_FILES2")
@register_op("REGISTER_FILES_UPDATE2")
def test_tagged_files_then_a_cqe_when_one_is_free(do, fd, file):
    register.register_files_tags(do.ring, [fd, -1], [0xF1, 0])
    assert register.register_files_update_tag(do.ring, 0, [-1, fd], [0, 0xF2]) == 2
    do.ring.submit_and_wait(1, 10_000_000_000)
    assert do.ring.reap() == [(0xF1, 0, 0)]
    assert read_slot(do, 1) == file.read_bytes()[:64]


@register_op("REGISTER_FILES2")
@register_op("REGISTER_FILE_ALLOC_RANGE")
def test_alloc_range_then_only_those_slots(do, file):
    register.register_files_sparse(do.ring, 6)
    register.register_file_alloc_range(do.ring, 3, 2)
    path = buffers.path(file)
    alloc = uapi.IORING_FILE_INDEX_ALLOC
    slots = [
        do.run(ops.prep_openat_direct, uapi.AT_FDCWD, path.address, os.O_RDONLY, 0, alloc, keep=path)
        for _ in range(3)
    ]
    assert sorted(slots) == [-errno.ENFILE, 3, 4]


# ------------------------------------------------------------------------------------------------------
# Provided buffers


@register_op("REGISTER_PBUF_RING")
@register_op("UNREGISTER_PBUF_RING")
@pytest.mark.parametrize("kernel_memory", [False, True], ids=["ours", "kernel's"])
def test_pbuf_ring_then_buffers_are_taken_in_order_and_given_back(do, kernel_memory):
    if kernel_memory and kernel_release() < release("6.4"):
        lacks("IOU_PBUF_RING_MMAP", "6.4")
    group = register.setup_buf_ring(do.ring, 5, 3, 16, kernel_memory=kernel_memory)
    raises(errno.EEXIST, register.setup_buf_ring, do.ring, 5, 3, 16)
    left, right = socket.socketpair()
    with left, right:
        seen = []
        for i in range(50):
            left.send(b"%d" % i)
            token = do.start(
                ops.prep_recv, right.fileno(), 0, 16, 0, flags=uapi.IOSQE_BUFFER_SELECT, buf_group=5
            )
            res, flags = do.finish(token)[0]
            seen.append(flags >> uapi.IORING_CQE_BUFFER_SHIFT)
            assert group.copy(res, flags) == b"%d" % i
        assert seen[:6] == [0, 1, 2, 0, 1, 2]
    register.free_buf_ring(do.ring, group)
    raises(errno.ENOENT if kernel_release() >= release("6.8") else errno.EINVAL, _free_again, do.ring)
    assert ("pbuf", 5) not in do.ring.resources


def _free_again(ring: rings.Ring) -> None:
    register._unregister_pbuf_ring(ring, 5)


@register_op("REGISTER_PBUF_RING")
def test_pbuf_ring_when_the_tail_wraps_then_nothing_is_lost(do):
    group = register.setup_buf_ring(do.ring, 1, 16, 8)
    # 65,536 additions, of which the kernel takes every one, in batches as large as the ring of buffers.
    with open("/dev/zero", "rb", buffering=0) as zero:
        sqe = bytearray(64)
        ops.prep_read(sqe, zero.fileno(), 0, 8, 0, 1, uapi.IOSQE_BUFFER_SELECT, buf_group=1)
        taken = 0
        while taken < 66_000:
            do.ring.push(bytes(sqe) * 16)
            do.ring.submit_and_wait(16, 10_000_000_000)
            for _, res, flags in do.ring.reap():
                assert res == 8
                group.recycle(*(piece.bid for piece in group.take(res, flags)))
                taken += 1
    assert group.ring.tail > 0xFFFF
    assert len(group) == 16


@register_op("REGISTER_PBUF_STATUS")
def test_pbuf_status_then_how_many_were_taken(do):
    group = register.setup_buf_ring(do.ring, 1, 4, 8)
    assert register.buf_ring_head(do.ring, 1) == 0
    assert register.buf_ring_available(do.ring, group) == 4
    with open("/dev/zero", "rb", buffering=0) as zero:
        token = do.start(
            ops.prep_read, zero.fileno(), 0, 8, 0, flags=uapi.IOSQE_BUFFER_SELECT, buf_group=1
        )
        res, flags = do.finish(token)[0]
    assert register.buf_ring_head(do.ring, 1) == 1
    assert register.buf_ring_available(do.ring, group) == 3
    group.copy(res, flags)
    assert register.buf_ring_available(do.ring, group) == 4
    raises(errno.ENOENT, register.buf_ring_head, do.ring, 77)


@register_op("REGISTER_PBUF_RING")
def test_incremental_buffers_then_used_up_bit_by_bit(do):
    if kernel_release() < release("6.12"):
        lacks("IOU_PBUF_RING_INC", "6.12")
    group = register.setup_buf_ring(do.ring, 1, 2, 16, incremental=True)
    left, right = socket.socketpair()
    with left, right:
        story = []
        for data in (b"12345", b"67890", b"abcdef", b"xyz"):
            left.send(data)
            token = do.start(
                ops.prep_recv, right.fileno(), 0, 16, 0, flags=uapi.IOSQE_BUFFER_SELECT, buf_group=1
            )
            res, flags = do.finish(token)[0]
            (piece,) = group.take(res, flags)
            assert piece.data.tobytes() == data
            story.append((piece.bid, piece.done))
            if piece.done:
                group.recycle(piece.bid)
        assert story == [(0, False), (0, False), (0, True), (1, False)]


# ------------------------------------------------------------------------------------------------------
# Notification


@register_op("REGISTER_EVENTFD")
@register_op("UNREGISTER_EVENTFD")
def test_eventfd_then_it_counts_completions(do):
    with eventfd() as fd:
        register.register_eventfd(do.ring, fd)
        raises(errno.EBUSY, register.register_eventfd, do.ring, fd)
        do.run(ops.prep_nop)
        assert int.from_bytes(os.read(fd, 8), sys.byteorder) >= 1
        register.unregister_eventfd(do.ring)
        do.run(ops.prep_nop)
        assert select.select([fd], [], [], 0)[0] == []
        raises(errno.ENXIO, register.unregister_eventfd, do.ring)


@register_op("REGISTER_EVENTFD_ASYNC")
def test_eventfd_async_then_only_for_what_a_worker_did(file):
    with Driver(rings.Ring(8)) as do, eventfd() as fd, open(file, "rb", buffering=0) as source:
        register.register_eventfd_async(do.ring, fd)
        do.run(ops.prep_nop)
        assert select.select([fd], [], [], 0)[0] == []
        memory = buffers.allocate(64)
        pin = buffers.pin(memory, writable=True)
        do.run(
            ops.prep_read, source.fileno(), pin.address, 64, 0, keep=pin, flags=uapi.IOSQE_ASYNC
        )
        assert select.select([fd], [], [], 10)[0] == [fd]


class eventfd:
    """An eventfd for a block; os.eventfd exists from Python 3.10 on."""

    def __enter__(self) -> int:
        if hasattr(os, "eventfd"):
            self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            return self.fd
        self.fd = ctypes.CDLL(None).eventfd(0, 0o2000000 | 0o4000)
        assert self.fd >= 0
        return self.fd

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


# ------------------------------------------------------------------------------------------------------
# Permissions


@register_op("REGISTER_PERSONALITY")
@register_op("UNREGISTER_PERSONALITY")
def test_personality_then_requests_are_made_as_somebody_else(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("root, to become another user and return")
    secret = tmp_path / "secret"
    secret.write_text("for root only")
    secret.chmod(0o600)
    with Driver(rings.Ring(8)) as do:
        root = register.register_personality(do.ring)
        path = buffers.path(secret)
        results = {}
        os.seteuid(65534)
        try:
            for name, personality in (("nobody", 0), ("root", root)):
                token = do.start(
                    ops.prep_openat, uapi.AT_FDCWD, path.address, os.O_RDONLY | os.O_CLOEXEC, 0, keep=path
                )
                slot = do.ring.sq.slots[(do.ring.sq.sqe_tail - 1) & do.ring.sq.ring_mask]
                ops.set_fields(slot, personality=personality)
                results[name] = do.finish(token)[0][0]
        finally:
            os.seteuid(0)
        assert results["nobody"] == -errno.EACCES
        assert results["root"] >= 0
        os.close(results["root"])
        register.unregister_personality(do.ring, root)
        raises(errno.EINVAL, register.unregister_personality, do.ring, root)


@register_op("REGISTER_RESTRICTIONS")
@register_op("REGISTER_ENABLE_RINGS")
def test_restrictions_then_only_what_is_named(tmp_path):
    with Driver(need_ring(flags=uapi.IORING_SETUP_R_DISABLED)) as do:
        register.register_restrictions(
            do.ring,
            register_ops=[uapi.IORING_REGISTER_PROBE],
            sqe_ops=[uapi.IORING_OP_NOP, uapi.IORING_OP_ASYNC_CANCEL],
            sqe_flags_allowed=uapi.IOSQE_IO_LINK,
        )
        with pytest.raises(OSError, match="enable"):
            do.run(ops.prep_nop)
        do.table.entries.clear()
        do.ring.discard()
        try:
            do.ring.enable()
        except OSError as error:
            if "has not" not in str(error):
                raise
            pytest.skip(f"IORING_REGISTER_ENABLE_RINGS that works (Linux 5.10.162): {error}")
        assert do.run(ops.prep_nop) == 0
        pipe = os.pipe()
        assert do.run(ops.prep_poll_add, pipe[0], select.POLLIN) == -errno.EACCES
        assert do.run(ops.prep_nop, flags=uapi.IOSQE_ASYNC) == -errno.EACCES
        assert register.register_probe(do.ring)[uapi.IORING_OP_NOP]
        raises(errno.EACCES, register.register_files, do.ring, [-1])
        for end in pipe:
            os.close(end)


TASK_RESTRICTED = """
import sys
from rawuring import ops, register, rings, uapi
register.register_task_restrictions(sqe_ops=[uapi.IORING_OP_NOP], register_ops=[])
with rings.Ring(4) as ring:
    ops.prep_nop(ring.get_sqe(), 1)
    ops.prep_timeout_remove(ring.get_sqe(), 5, 0, 2)
    ring.submit_and_wait(2, 10_000_000_000)
    print(sorted(cqe[:2] for cqe in ring.reap()))
"""


@register_op("REGISTER_RESTRICTIONS")
def test_task_restrictions_then_for_all_rings_to_come():
    done = subprocess.run(
        [sys.executable, "-c", TASK_RESTRICTED], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode and kernel_release() < release("7.0"):
        assert "OSError" in done.stderr
        lacks("IORING_REGISTER_RESTRICTIONS without a ring", "7.0")
    assert done.stdout.strip() == f"[(1, 0), (2, {-errno.EACCES})]", done


@register_op("REGISTER_BPF_FILTER")
def test_bpf_filter_then_it_decides():
    with Driver(rings.Ring(8)) as do:
        deny = register.bpf_program([(0x06, 0, 0, 0)])  # ret 0
        register.register_bpf_filter(do.ring, uapi.IORING_OP_NOP, deny)
        assert do.run(ops.prep_nop) == -errno.EACCES
        assert do.run(ops.prep_timeout_remove, 1, 0) == -errno.ENOENT
    with Driver(rings.Ring(8)) as do:
        # Load family, the first word after the context's header, and let AF_UNIX pass.
        family = register.bpf_program(
            [(0x20, 0, 0, 16), (0x15, 0, 1, socket.AF_UNIX), (0x06, 0, 0, 1), (0x06, 0, 0, 0)]
        )
        size = uapi.io_uring_bpf_ctx.fields["socket"].size
        register.register_bpf_filter(do.ring, uapi.IORING_OP_SOCKET, family, pdu_size=size)
        fd = do.run(ops.prep_socket, socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC, 0, 0)
        assert fd >= 0
        os.close(fd)
        assert do.run(ops.prep_socket, socket.AF_INET, socket.SOCK_STREAM, 0, 0) == -errno.EACCES
        with pytest.raises(ValueError, match="not a BPF program"):
            register.register_bpf_filter(do.ring, uapi.IORING_OP_NOP, b"123")


# ------------------------------------------------------------------------------------------------------
# Queries


@register_op("REGISTER_PROBE")
def test_probe_then_what_is_known(do):
    known = register.register_probe(do.ring)
    assert known[uapi.IORING_OP_NOP]
    assert known[uapi.IORING_OP_READV]
    assert sorted(known) == list(range(len(known)))


@register_op("REGISTER_QUERY")
@pytest.mark.parametrize("with_ring", [False, True], ids=["blind", "ring"])
def test_query_then_numbers_that_agree_with_the_probe(do, with_ring):
    answer = register.query(uapi.IO_URING_QUERY_OPCODES, do.ring if with_ring else None)
    assert answer["nr_request_opcodes"] == len(register.register_probe(do.ring))
    assert answer["ring_setup_flags"] & uapi.IORING_SETUP_DEFER_TASKRUN
    assert answer["feature_flags"] == do.ring.features
    with pytest.raises(ValueError, match="is unknown"):
        register.query(4711)


@register_op("REGISTER_QUERY")
@pytest.mark.parametrize("name", ["IO_URING_QUERY_ZCRX", "IO_URING_QUERY_SCQ", "IO_URING_QUERY_ZCRX_EVENT"])
def test_query_of_the_others_then_an_answer_or_not_supported(name):
    try:
        answer = register.query(vars(uapi)[name])
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        lacks(name, uapi.SINCE[name], "CONFIG_PAGE_POOL")
    assert answer


# ------------------------------------------------------------------------------------------------------
# Workers and waiting


def workers() -> list[int]:
    """List the workers of this thread's rings; those of other threads end some time after these."""
    found, name = [], f"iou-wrk-{threading.get_native_id()}"
    for task in Path("/proc/self/task").iterdir():
        try:
            if (task / "comm").read_text().strip() == name:
                found.append(int(task.name))
        except OSError:  # it has ended meanwhile
            continue
    return found


@register_op("REGISTER_IOWQ_AFF")
@register_op("UNREGISTER_IOWQ_AFF")
def test_iowq_affinity_then_workers_keep_to_it(file):
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("os.sched_getaffinity in this Python")
    cpu = max(os.sched_getaffinity(0))
    with Driver(rings.Ring(8)) as do, open(file, "rb", buffering=0) as source:
        register.register_iowq_aff(do.ring, [cpu])
        memory = buffers.allocate(64)
        pin = buffers.pin(memory, writable=True)

        def affinities() -> list[set[int]]:
            do.run(ops.prep_read, source.fileno(), pin.address, 64, 0, keep=pin, flags=uapi.IOSQE_ASYNC)
            found = []
            for worker in workers():
                with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                    found.append(os.sched_getaffinity(worker))
            return found

        found = leaks.settles(affinities, lambda found: bool(found) and all(each == {cpu} for each in found))
        assert found
        assert all(each == {cpu} for each in found)
        register.unregister_iowq_aff(do.ring)


@register_op("REGISTER_IOWQ_MAX_WORKERS")
def test_iowq_max_workers_of_a_thread_when_never_set_then_its_first_ring_has_decided():
    """As docs/execution.md has it; io_init_wq_offload of io_uring/tctx.c."""
    found = []

    def first_rings_of_a_thread():
        for entries in (2, 64):
            with rings.Ring(entries) as ring:
                found.append(register.register_iowq_max_workers(ring))

    thread = threading.Thread(target=first_rings_of_a_thread)
    thread.start()
    thread.join()
    processes = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    assert found == [(2, processes if processes != resource.RLIM_INFINITY else 2**32 - 1)] * 2


@register_op("REGISTER_IOWQ_MAX_WORKERS")
def test_iowq_max_workers_then_no_more_threads_than_that():
    with Driver(rings.Ring(32)) as do:
        before = register.register_iowq_max_workers(do.ring)
        assert min(before) > 0
        assert register.register_iowq_max_workers(do.ring, 0, 2) == before
        assert register.register_iowq_max_workers(do.ring) == (before[0], 2)
        pipe = os.pipe()
        # Blocking reads, each in a separate worker, up to the limit.
        memory = buffers.allocate(4096)
        pin = buffers.pin(memory, writable=True)
        tokens = [
            do.start(
                ops.prep_read, pipe[0], pin.address + i, 1, -1, keep=pin, flags=uapi.IOSQE_ASYNC
            )
            for i in range(8)
        ]
        older = workers()
        do.ring.submit()
        os.write(pipe[1], b"12345678")
        do.finish(*tokens)
        assert len(set(workers()) - set(older)) <= 2
        register.register_iowq_max_workers(do.ring, *before)  # per thread, not per ring
        assert sorted(memory[:8]) == sorted(b"12345678")
        for end in pipe:
            os.close(end)


@register_op("REGISTER_RING_FDS")
@register_op("UNREGISTER_RING_FDS")
def test_ring_fd_then_entered_by_index(do):
    index = register.register_ring_fd(do.ring)
    assert do.run(ops.prep_nop) == 0
    assert do.ring._enter_fd == index
    # The index is used: the descriptor may even be closed for a moment.
    spare = os.dup(do.ring.fileno())
    os.close(do.ring.fileno())
    try:
        assert do.run(ops.prep_nop) == 0
    finally:
        os.dup2(spare, do.ring.fileno(), inheritable=False)
        os.close(spare)
    register.unregister_ring_fd(do.ring)
    assert do.run(ops.prep_nop) == 0
    with pytest.raises(ValueError, match="not entered by an index"):
        register.unregister_ring_fd(do.ring)


@register_op("REGISTER_NAPI")
@register_op("UNREGISTER_NAPI")
def test_napi_then_the_former_setting_comes_back(do):
    try:
        before = register.register_napi(do.ring, 50, prefer_busy_poll=True)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        lacks("IORING_REGISTER_NAPI", "6.9", "CONFIG_NET_RX_BUSY_POLL")
    assert before == register.Napi(0, False)
    assert register.register_napi(do.ring, 60) == register.Napi(50, True)
    assert register.unregister_napi(do.ring) == register.Napi(60, False)


@register_op("REGISTER_CLOCK")
def test_clock_then_accepted_or_refused(do):
    for clock in (time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME):
        register.register_clock(do.ring, clock)
        start = time.monotonic_ns()
        do.ring.submit_and_wait(1, 3_000_000)
        assert time.monotonic_ns() - start >= 3_000_000
    raises(errno.EINVAL, register.register_clock, do.ring, time.CLOCK_REALTIME)


@register_op("REGISTER_SYNC_CANCEL")
def test_sync_cancel_then_ended_before_it_returns(do):
    pipe = os.pipe()
    tokens = [do.start(ops.prep_poll_add, pipe[0], select.POLLIN) for _ in range(3)]
    do.ring.submit()
    assert register.register_sync_cancel(do.ring, 5_000_000_000, target=tokens[0]) == 0
    assert do.finish(tokens[0]) == [(-errno.ECANCELED, 0)]
    flags = uapi.IORING_ASYNC_CANCEL_FD | uapi.IORING_ASYNC_CANCEL_ALL
    assert register.register_sync_cancel(do.ring, None, fd=pipe[0], cancel_flags=flags) == 2
    assert do.finish(*tokens) == [(-errno.ECANCELED, 0)]
    raises(errno.ENOENT, register.register_sync_cancel, do.ring, 5_000_000_000, target=tokens[0])
    for end in pipe:
        os.close(end)


@register_op("REGISTER_SEND_MSG_RING")
def test_sync_msg_then_a_completion_without_a_ring_of_ours(do):
    sqe = bytearray(64)
    ops.prep_msg_ring(sqe, do.ring.fileno(), 11, 0x123456789ABCDEF0, 0)
    sender = threading.Thread(target=register.register_sync_msg, args=(sqe,))
    sender.start()
    do.ring.submit_and_wait(1, 10_000_000_000)
    sender.join()
    assert do.ring.reap() == [(0x123456789ABCDEF0, 11, 0)]


@register_op("REGISTER_RESIZE_RINGS")
@pytest.mark.parametrize(("entries", "cq_entries"), [(32, 128), (4, None)], ids=["larger", "smaller"])
def test_resize_then_nothing_is_lost(entries, cq_entries):
    with Driver(need_ring(entries=8, flags=rings.RECOMMENDED)) as do:
        for _ in range(2):
            ops.prep_nop(do.ring.get_sqe(), 1)
        do.ring.submit()
        ops.prep_nop(do.ring.get_sqe(), 2)  # queued, not submitted yet
        register.resize_rings(do.ring, entries, cq_entries)
        assert do.ring.sq.ring_entries == entries
        assert do.ring.cq.ring_entries == (cq_entries or 2 * entries)
        ops.prep_nop(do.ring.get_sqe(), 3)
        do.ring.submit_and_wait(4, 10_000_000_000)
        assert [cqe[0] for cqe in do.ring.reap()] == [1, 1, 2, 3]
        for _ in range(3 * entries):
            assert do.run(ops.prep_nop) == 0


@register_op("REGISTER_RESIZE_RINGS")
@pytest.mark.parametrize("wide", [0, uapi.IORING_SETUP_CQE32, uapi.IORING_SETUP_SQE128], ids=hex)
@pytest.mark.parametrize("array", [True, False], ids=["array", "no array"])
def test_resize_at_random_moments_then_every_completion_comes_once(array, wide):
    """6.18 leaves sq_off.array zero: the identity was written over the ring's heads and masks."""
    flags = uapi.IORING_SETUP_DEFER_TASKRUN | uapi.IORING_SETUP_SINGLE_ISSUER | wide
    chance, sent, got = random.Random(7), [], []
    ring = need_ring(entries=8, flags=flags | (0 if array else uapi.IORING_SETUP_NO_SQARRAY))
    resized = 0
    with ring:
        for _ in range(300):
            for _ in range(chance.randrange(5)):
                if ring.sq.space_left():
                    sent.append(len(sent) + 1)
                    ops.prep_nop(ring.get_sqe(), sent[-1])
            action = chance.randrange(4)
            if action == 0:
                ring.submit()
            elif action == 1:
                got += [cqe[0] for cqe in ring.reap()]
            else:
                sizes = chance.choice([4, 8, 16, 64]), chance.choice([None, 64, 128])
                try:
                    register.resize_rings(ring, *sizes)
                    resized += 1
                    assert ring.sq.ring_entries == sizes[0]
                except OSError as error:
                    if error.errno == errno.EOPNOTSUPP and array:
                        lacks("resizing a ring with an index array", "7.2")
                    if error.errno == errno.EBUSY and wide:  # gates.py, resize-wide
                        ring.submit()
                        got += [cqe[0] for cqe in ring.reap()]
                        register.resize_rings(ring, *sizes)
                        resized += 1
                    elif error.errno != errno.EOVERFLOW:
                        raise
        while len(got) < len(sent):
            ring.submit_and_wait(1, 5_000_000_000)
            cqes = ring.reap()
            assert cqes
            got += [cqe[0] for cqe in cqes]
    assert got == sent
    assert resized > 20


@register_op("REGISTER_RESIZE_RINGS")
@pytest.mark.parametrize("release", ["6.18.26", "7.0.3"])
def test_resize_of_wide_entries_where_the_kernel_mixes_them_up_then_refused_until_none_waits(
    monkeypatch, release
):
    """Linux 6.18.15 returned a user_data other than the one sent."""
    wide = uapi.IORING_SETUP_SQE128 | uapi.IORING_SETUP_CQE32
    flags = uapi.IORING_SETUP_DEFER_TASKRUN | uapi.IORING_SETUP_SINGLE_ISSUER | uapi.IORING_SETUP_NO_SQARRAY
    with Driver(need_ring(entries=8, flags=flags | wide)) as do:
        register.resize_rings(do.ring, 16)
        monkeypatch.setattr(gates, "running", lambda: release)
        token = do.start(ops.prep_nop)
        raises(errno.EBUSY, register.resize_rings, do.ring, 4)
        do.ring.submit()
        raises(errno.EBUSY, register.resize_rings, do.ring, 4)
        assert do.finish(token) == [(0, 0)]
        register.resize_rings(do.ring, 4)
        assert do.ring.sq.ring_entries == 4
        assert do.run(ops.prep_nop) == 0


@register_op("REGISTER_RESIZE_RINGS")
def test_resize_too_small_for_what_is_there_then_refused_and_usable():
    with Driver(need_ring(entries=8, flags=rings.RECOMMENDED)) as do:
        tokens = [do.start(ops.prep_nop) for _ in range(8)]
        do.ring.submit()
        do.ring.sq.flush()
        raises(errno.EOVERFLOW, register.resize_rings, do.ring, 1)
        assert do.finish(*tokens) == [(0, 0)]


@register_op("REGISTER_MEM_REGION")
def test_wait_region_then_the_wait_takes_as_long_as_it_says():
    flags = rings.RECOMMENDED | uapi.IORING_SETUP_R_DISABLED
    with Driver(need_ring(flags=flags)) as do:
        region = register.register_wait_reg(do.ring, 3)
        assert region.entries == mmap.PAGESIZE // 64
        do.ring.enable()
        region.set(1, 4_000_000)
        region.set(2, None)
        start = time.monotonic_ns()
        assert do.ring.submit_and_wait_reg(1, 1) == 0
        assert time.monotonic_ns() - start >= 4_000_000
        ops.prep_nop(do.ring.get_sqe(), 5)
        assert do.ring.submit_and_wait_reg(1, 2) == 1
        assert do.ring.reap() == [(5, 0, 0)]
        with pytest.raises(IndexError):
            region.set(region.entries, 0)
        raises(errno.EFAULT, do.ring.submit_and_wait_reg, 1, region.entries)
        raises(errno.EBUSY, register.register_region, do.ring, buffers.allocate(mmap.PAGESIZE))


# ------------------------------------------------------------------------------------------------------
# Zero-copy receive, as far as it goes without a network card


def nodev_ring() -> Driver:
    flags = rings.RECOMMENDED | uapi.IORING_SETUP_CQE32
    return Driver(need_ring(entries=16, flags=flags))


@register_op("REGISTER_ZCRX_IFQ")
def test_zcrx_without_a_card_then_refused():
    if os.geteuid() != 0:
        pytest.skip("CAP_NET_ADMIN")
    area = buffers.allocate(16 * mmap.PAGESIZE)
    with nodev_ring() as do:
        with pytest.raises(OSError, match="IORING_REGISTER_ZCRX_IFQ") as caught:
            register.register_ifq(do.ring, 1, 0, 16, area)  # the loopback device
        assert caught.value.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.ERANGE)


@register_op("REGISTER_ZCRX_CTRL")
def test_zcrx_nodev_then_data_arrives_in_the_area():
    if kernel_release() < release("7.1"):
        lacks("ZCRX_REG_NODEV", "7.1")
    need_opcode("RECV_ZC")
    with nodev_ring() as do:
        area = buffers.allocate(64 * mmap.PAGESIZE)
        queue = register.register_ifq(do.ring, 0, 0, 64, area, flags=uapi.ZCRX_REG_NODEV)
        with socket.create_server(("127.0.0.1", 0)) as server:
            client = socket.create_connection(server.getsockname())
            peer, _ = server.accept()
        with client, peer:
            ops.prep_recv_zc(do.ring.get_sqe(), peer.fileno(), 0, queue.zcrx_id, 7)
            do.ring.submit()
            expected, received = b"", b""
            for i in range(50):
                data = b"%d" % i * 100
                expected += data
                client.sendall(data)
                while len(received) < len(expected):
                    do.ring.submit_and_wait(1, 10_000_000_000)
                    for cqe in do.ring.reap():
                        assert cqe[1] > 0, cqe
                        received += queue.data(cqe).tobytes()
                        queue.refill(cqe)
            assert received == expected
            register.zcrx_ctrl(do.ring, queue.zcrx_id, uapi.ZCRX_CTRL_FLUSH_RQ)
            exported = register.zcrx_ctrl(do.ring, queue.zcrx_id, uapi.ZCRX_CTRL_EXPORT)
            os.close(exported["zc_export"]["zcrx_fd"])
        raises(errno.ENXIO, register.zcrx_ctrl, do.ring, 999, uapi.ZCRX_CTRL_FLUSH_RQ)


# ------------------------------------------------------------------------------------------------------
# Completeness


def test_every_register_op_has_a_test():
    marked = set()
    for function in list(globals().values()):
        for marker in getattr(function, "pytestmark", []) if callable(function) else []:
            if marker.name == "register_op":
                marked.add("IORING_" + marker.args[0])
    names = {
        name
        for name, value in vars(uapi).items()
        if name.startswith(("IORING_REGISTER_", "IORING_UNREGISTER_")) and uapi_is_op(name, value)
    }
    assert marked == names
    assert len(names) == 38


def uapi_is_op(name: str, value: int) -> bool:
    return uapi.name_of("IORING_REGISTER_", value) == name and name not in (
        "IORING_REGISTER_LAST", "IORING_REGISTER_FILES_SKIP", "IORING_REGISTER_USE_REGISTERED_RING",
    )  # fmt: skip
