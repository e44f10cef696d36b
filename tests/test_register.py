# SPDX-License-Identifier: MIT
"""register_*: the arguments that each function passes to io_uring_register, whatever this kernel supports.

What it is: a ring that only records calls, so that every operation is checked on every machine.
Must not know: the kernel.
Invariant: the structs are decoded by uapi.py's layouts, which a C compiler checked.
Read next: test_every_register_op.py.
"""

from __future__ import annotations

import ctypes
import errno
import io
import struct

import pytest

from rawuring import buffers, ops, register, syscalls, uapi


class Notes:
    """The part of a ring that register.py uses."""

    def __init__(self, result: int = 0, error: int = 0) -> None:
        self.calls: list[tuple[int, object, int]] = []
        self.resources: dict[tuple[str, int], object] = {}
        self.result, self.error = result, error
        self.index: int | None = None

    def register(self, opcode: int, arg: object = None, nr_args: int = 0) -> int:
        self.calls.append((opcode, arg, nr_args))
        self.image = ctypes.string_at(arg, size_of(opcode, nr_args)) if isinstance(arg, int) else None
        self.peeked = self.peek() if self.image else None
        if self.error:
            raise OSError(self.error, "io_uring_register(fd 3, X): no")
        return self.result

    def peek(self) -> dict[str, object] | None:
        """Read the memory that the struct points to, which is alive only during the call."""
        layout = STRUCTS.get(self.calls[-1][0])
        if layout is None:
            return None
        fields = layout.unpack(self.image)
        if self.calls[-1][0] in (uapi.IORING_REGISTER_RING_FDS, uapi.IORING_UNREGISTER_RING_FDS):
            return fields  # its data is a descriptor
        for pointer, count in (("data", "nr"), ("tags", "nr"), ("region_uptr", None), ("area_ptr", None)):
            if fields.get(pointer):
                size = 64 if count is None else 16 * max(1, fields.get(count, 1) or 1)
                fields["*" + pointer] = ctypes.string_at(fields[pointer], size)
        return fields

    def fileno(self) -> int:
        return 42

    def _close_wakeup_fd(self) -> None:
        pass

    def enter_by_index(self, index: int | None) -> int:
        before, self.index = self.index, index
        return before or 0


STRUCTS = {
    uapi.IORING_REGISTER_FILES_UPDATE: uapi.io_uring_rsrc_update,
    uapi.IORING_REGISTER_FILES2: uapi.io_uring_rsrc_register,
    uapi.IORING_REGISTER_FILES_UPDATE2: uapi.io_uring_rsrc_update2,
    uapi.IORING_REGISTER_BUFFERS2: uapi.io_uring_rsrc_register,
    uapi.IORING_REGISTER_BUFFERS_UPDATE: uapi.io_uring_rsrc_update2,
    uapi.IORING_REGISTER_RING_FDS: uapi.io_uring_rsrc_update,
    uapi.IORING_UNREGISTER_RING_FDS: uapi.io_uring_rsrc_update,
    uapi.IORING_REGISTER_PBUF_RING: uapi.io_uring_buf_reg,
    uapi.IORING_UNREGISTER_PBUF_RING: uapi.io_uring_buf_reg,
    uapi.IORING_REGISTER_SYNC_CANCEL: uapi.io_uring_sync_cancel_reg,
    uapi.IORING_REGISTER_FILE_ALLOC_RANGE: uapi.io_uring_file_index_range,
    uapi.IORING_REGISTER_PBUF_STATUS: uapi.io_uring_buf_status,
    uapi.IORING_REGISTER_NAPI: uapi.io_uring_napi,
    uapi.IORING_UNREGISTER_NAPI: uapi.io_uring_napi,
    uapi.IORING_REGISTER_CLOCK: uapi.io_uring_clock_register,
    uapi.IORING_REGISTER_CLONE_BUFFERS: uapi.io_uring_clone_buffers,
    uapi.IORING_REGISTER_ZCRX_IFQ: uapi.io_uring_zcrx_ifq_reg,
    uapi.IORING_REGISTER_MEM_REGION: uapi.io_uring_mem_region_reg,
    uapi.IORING_REGISTER_QUERY: uapi.io_uring_query_hdr,
    uapi.IORING_REGISTER_ZCRX_CTRL: uapi.zcrx_ctrl,
    uapi.IORING_REGISTER_BPF_FILTER: uapi.io_uring_bpf,
}


def size_of(opcode: int, nr_args: int) -> int:
    """Return how many bytes may be read at the argument's address."""
    if opcode in STRUCTS:
        return STRUCTS[opcode].size
    each = {
        uapi.IORING_REGISTER_RESTRICTIONS: 16,
        uapi.IORING_REGISTER_BUFFERS: 16,
        uapi.IORING_REGISTER_IOWQ_AFF: 1,
    }
    return each.get(opcode, 4) * nr_args


TIMESPEC = {"tv_sec": 2, "tv_nsec": 5}
MEMORY = (ctypes.c_char * 4096)()

# function, arguments, opcode without IORING_, nr_args, members that are not zero
ENCODED = [
    (register.register_files_update, (3, [7, -1]), "REGISTER_FILES_UPDATE", 2, {"offset": 3}),
    (register.register_files_sparse, (5,), "REGISTER_FILES2", 32, {"nr": 5, "flags": 1}),
    (register.register_files_tags, ([7, 8], [1, 2]), "REGISTER_FILES2", 32, {"nr": 2}),
    (register.register_files_update_tag, (4, [7], [9]), "REGISTER_FILES_UPDATE2", 32, {"offset": 4, "nr": 1}),
    (register.register_buffers_sparse, (6,), "REGISTER_BUFFERS2", 32, {"nr": 6, "flags": 1}),
    (register.register_buffers_tags, ([MEMORY], [3]), "REGISTER_BUFFERS2", 32, {"nr": 1}),
    (
        register.register_buffers_update_tag, (2, [None]), "REGISTER_BUFFERS_UPDATE", 32,
        {"offset": 2, "nr": 1},
    ),
    (register.register_file_alloc_range, (10, 20), "REGISTER_FILE_ALLOC_RANGE", 0, {"off": 10, "len": 20}),
    (register.buf_ring_head, (9,), "REGISTER_PBUF_STATUS", 1, {"buf_group": 9}),
    (register.register_ring_fd, (), "REGISTER_RING_FDS", 1, {"offset": 0xFFFFFFFF, "data": 42}),
    (register.unregister_ring_fd, (), "UNREGISTER_RING_FDS", 1, {}),
    (register.register_napi, (50,), "REGISTER_NAPI", 1, {"busy_poll_to": 50}),
    (register.unregister_napi, (), "UNREGISTER_NAPI", 1, {}),
    (register.register_clock, (7,), "REGISTER_CLOCK", 0, {"clockid": 7}),
    (
        register.register_sync_cancel, (2_000_000_005,), "REGISTER_SYNC_CANCEL", 1,
        {"fd": -1, "timeout": TIMESPEC},
    ),
    (
        register.register_sync_cancel, (None,), "REGISTER_SYNC_CANCEL", 1,
        {"fd": -1, "timeout": {"tv_sec": -1, "tv_nsec": -1}},
    ),
    (register.register_region, (MEMORY, 1), "REGISTER_MEM_REGION", 1, {"flags": 1}),
    (
        register.register_bpf_filter, (18, bytes(16)), "REGISTER_BPF_FILTER", 1,
        {"cmd_type": 1, "filter": {"opcode": 18, "filter_len": 2}},
    ),
    (
        register.zcrx_ctrl, (6, uapi.ZCRX_CTRL_ARM_EVENT), "REGISTER_ZCRX_CTRL", 0, {"zcrx_id": 6, "op": 2},
    ),
]  # fmt: skip
POINTERS = {"data", "tags", "region_uptr", "filter_ptr", "area_ptr", "region_ptr", "event_desc", "ring_addr"}


def without_zeros(fields: object) -> object:
    """Drop members that are zero, paddings, and pointers, whose value is unpredictable."""
    if not isinstance(fields, dict):
        return fields
    cleaned = {name: without_zeros(value) for name, value in fields.items()}
    return {
        name: value
        for name, value in cleaned.items()
        if value not in (0, {}) and not name.startswith("*") and not (name in POINTERS and value != 42)
        and not isinstance(value, tuple)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("function", "arguments", "name", "nr_args", "members"), ENCODED, ids=lambda v: getattr(v, "__name__", "")
)
def test_struct_then_what_was_asked_and_nothing_else(function, arguments, name, nr_args, members):
    ring = Notes()
    function(ring, *arguments)
    ((opcode, _, count),) = ring.calls
    assert (opcode, count) == (vars(uapi)["IORING_" + name], nr_args)
    assert without_zeros(ring.peeked) == members


def test_arrays_then_what_the_pointers_lead_to():
    ring = Notes()
    register.register_files_tags(ring, [7, -1], [11, 12])
    assert ring.peeked["*data"][:8] == struct.pack("=2i", 7, -1)
    assert ring.peeked["*tags"][:16] == struct.pack("=2Q", 11, 12)
    ring.result = 1  # the number of installed descriptors
    (pin,) = register.register_buffers_update_tag(ring, 5, [MEMORY], [13])
    assert ring.peeked["*data"][: struct.calcsize("@PN")] == struct.pack("@PN", pin.address, 4096)
    assert ring.resources["buffer", 5] is pin
    register.register_region(ring, MEMORY)
    region = uapi.io_uring_region_desc.unpack(ring.peeked["*region_uptr"])
    assert (region["size"], region["flags"]) == (4096, uapi.IORING_MEM_REGION_TYPE_USER)


def test_simple_registrations_then_their_opcodes():
    ring = Notes(result=5)
    assert register.register_personality(ring) == 5
    register.unregister_personality(ring, 5)
    register.register_eventfd(ring, 9)
    assert ctypes.string_at(ring.image, 4) == struct.pack("=i", 9)
    register.register_eventfd_async(ring, 9)
    register.unregister_eventfd(ring)
    register.unregister_iowq_aff(ring)
    register.unregister_files(ring)
    ring.resources["buffer", 0] = object()
    register.unregister_buffers(ring)
    assert not ring.resources
    names = [uapi.name_of("IORING_REGISTER_", opcode) for opcode, _, _ in ring.calls]
    assert names == [
        "IORING_REGISTER_PERSONALITY", "IORING_UNREGISTER_PERSONALITY", "IORING_REGISTER_EVENTFD",
        "IORING_REGISTER_EVENTFD_ASYNC", "IORING_UNREGISTER_EVENTFD", "IORING_UNREGISTER_IOWQ_AFF",
        "IORING_UNREGISTER_FILES", "IORING_UNREGISTER_BUFFERS",
    ]  # fmt: skip
    assert ring.calls[1][2] == 5


@pytest.mark.parametrize(("cpus", "expected"), [([0], 1), ([1, 3], 10), ([70], 1 << 70), ([], 0)])
def test_cpu_mask_then_bits_in_longs(cpus, expected):
    ring = Notes()
    register.register_iowq_aff(ring, cpus)
    nbytes = ring.calls[0][2]
    long = struct.calcsize("l")
    values = struct.unpack(f"@{nbytes // long}L", ring.image[:nbytes])
    assert sum(value << 8 * long * i for i, value in enumerate(values)) == expected


def test_restrictions_then_one_struct_each():
    ring = Notes()
    register.register_restrictions(
        ring, register_ops=[8], sqe_ops=[0, 22], sqe_flags_allowed=4, sqe_flags_required=16
    )
    assert ring.calls[0][2] == 5
    rows = [uapi.io_uring_restriction.unpack(ring.image, 16 * i) for i in range(5)]
    assert [(row["opcode"], row["sqe_op"]) for row in rows] == [(0, 8), (1, 0), (1, 22), (2, 4), (3, 16)]


def test_without_a_ring_then_descriptor_minus_one(monkeypatch):
    calls = []
    sizes = {
        uapi.IORING_REGISTER_RESTRICTIONS: 16 + 2 * 16,
        uapi.IORING_REGISTER_BPF_FILTER: uapi.io_uring_bpf.size,
        uapi.IORING_REGISTER_SEND_MSG_RING: 64,
        uapi.IORING_REGISTER_QUERY: uapi.io_uring_query_hdr.size,
    }

    def note(fd: int, opcode: int, arg: int, nr_args: int) -> int:
        calls.append((fd, opcode, ctypes.string_at(arg, sizes[opcode]), nr_args))
        return 0

    monkeypatch.setattr(syscalls, "io_uring_register", note)
    register.register_task_restrictions(sqe_ops=[0, 1])
    register.register_bpf_filter(None, 3, bytes(8))
    register.register_sync_msg(bytearray(range(64)))
    register.query(uapi.IO_URING_QUERY_SCQ)
    assert [(fd, opcode, nr) for fd, opcode, _, nr in calls] == [
        (-1, uapi.IORING_REGISTER_RESTRICTIONS, 1), (-1, uapi.IORING_REGISTER_BPF_FILTER, 1),
        (-1, uapi.IORING_REGISTER_SEND_MSG_RING, 1), (-1, uapi.IORING_REGISTER_QUERY, 0),
    ]  # fmt: skip
    head = uapi.io_uring_task_restriction.unpack(calls[0][2])
    assert (head["flags"], head["nr_res"]) == (0, 2)
    assert uapi.io_uring_restriction.unpack(calls[0][2], 16 + 16)["sqe_op"] == 1
    assert calls[2][2][:64] == bytes(range(64))
    header = uapi.io_uring_query_hdr.unpack(calls[3][2])
    assert (header["query_op"], header["size"]) == (uapi.IO_URING_QUERY_SCQ, 16)


class FilledByTheKernel(Notes):
    """Returns what a kernel with a zero-copy queue would."""

    def register(self, opcode: int, arg: object = None, nr_args: int = 0) -> int:
        super().register(opcode, arg, nr_args)
        if opcode == uapi.IORING_REGISTER_ZCRX_IFQ:
            fields = uapi.io_uring_zcrx_ifq_reg.unpack(self.image)
            offsets = {"head": 0, "tail": 64, "rqes": 128}
            entries = fields["rq_entries"]
            answer = uapi.io_uring_zcrx_ifq_reg.pack(zcrx_id=3, rq_entries=entries, offsets=offsets)
            ctypes.memmove(arg, answer, len(answer))
            area = uapi.io_uring_zcrx_area_reg.unpack(ctypes.string_at(fields["area_ptr"], 48))
            token = uapi.io_uring_zcrx_area_reg.pack(
                addr=area["addr"], len=area["len"], rq_area_token=7 << uapi.IORING_ZCRX_AREA_SHIFT
            )
            ctypes.memmove(fields["area_ptr"], token, len(token))
            region = uapi.io_uring_region_desc.unpack(ctypes.string_at(fields["region_ptr"], 64))
            self.region = region["user_addr"]
        return 0


def test_zcrx_queue_then_data_is_found_and_given_back():
    ring = FilledByTheKernel()
    area = buffers.allocate(8192)
    queue = register.register_ifq(ring, 5, 1, 4, area)
    assert (ring.peeked["if_idx"], ring.peeked["if_rxq"], ring.peeked["rq_entries"]) == (5, 1, 4)
    area[100:105] = b"hello"
    cqe = (0, 5, 1 << 1, 9 << uapi.IORING_ZCRX_AREA_SHIFT | 100, 0)
    assert queue.data(cqe).tobytes() == b"hello"
    for _ in range(4):
        queue.refill(cqe)
    with pytest.raises(BufferError, match="refill ring"):
        queue.refill(cqe)
    tail = struct.unpack("=I", ctypes.string_at(ring.region + 64, 4))[0]
    assert tail == 4
    rqe = uapi.io_uring_zcrx_rqe.unpack(ctypes.string_at(ring.region + 128, 16))
    assert (rqe["off"], rqe["len"]) == (7 << uapi.IORING_ZCRX_AREA_SHIFT | 100, 5)
    assert ("zcrx", 3) in ring.resources


def test_buffer_group_when_it_cannot_be_set_up_then_unregistered_again():
    ring = Notes()
    with pytest.raises(ValueError, match="between 1 and 32768"):
        register.setup_buf_ring(ring, 1, 0, 10)
    assert not ring.calls
    group = register.setup_buf_ring(ring, 1, 5, 10, min_left=3)
    assert ring.peeked["ring_entries"] == 8
    assert ring.peeked["min_left"] == 3
    assert len(group) == 5
    with pytest.raises(OSError, match="Bad file descriptor"):  # descriptor 42 does not exist
        register.setup_buf_ring(ring, 2, 5, 10, kernel_memory=True)
    assert [call[0] for call in ring.calls[1:]] == [
        uapi.IORING_REGISTER_PBUF_RING, uapi.IORING_UNREGISTER_PBUF_RING,
    ]  # fmt: skip
    assert list(ring.resources) == [("pbuf", 1)]


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.EINVAL, "older than 5.1"), (errno.EBUSY, "unregister it first"), (errno.EACCES, "restriction"),
        (errno.ENXIO, "nothing is registered"), (errno.ENOMEM, "RLIMIT_MEMLOCK"),
        (errno.EMFILE, "RLIMIT_NOFILE"), (errno.ENOENT, "no such"), (errno.EFAULT, "not mapped"),
        (errno.ETIME, "timeout"), (errno.EALREADY, "its own CQE"), (errno.EOVERFLOW, "do not fit"),
        (errno.EBADF, "is not open$"), (errno.EPERM, "seccomp"), (errno.EEXIST, "thread"),
        (errno.EOPNOTSUPP, "built without"),
    ],
)  # fmt: skip
def test_refusal_then_the_message_says_what_it_means_here(code, advice):
    ring = Notes(error=code)
    with pytest.raises(OSError, match=advice) as caught:
        register.register_files(ring, [1])
    assert caught.value.errno == code


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EBADF])
def test_blind_refusal_then_the_age_of_the_kernel_is_the_first_suspect(code, monkeypatch):
    def refuse(fd, opcode, arg, nr_args):
        raise OSError(code, "no")

    monkeypatch.setattr(syscalls, "io_uring_register", refuse)
    monkeypatch.setattr(register.gates, "running", lambda: "5.10.46")
    with pytest.raises(OSError, match=r"this kernel \(5.10.46\) is older than 6.18"):
        register.query(uapi.IO_URING_QUERY_OPCODES)


def test_wait_region_when_it_describes_nothing_then_refused_in_words():
    with pytest.raises(ValueError, match="entries=0"):
        register.register_wait_reg(Notes(), 0)


def test_refusal_then_nothing_is_kept():
    ring = Notes(error=errno.ENOMEM)
    with pytest.raises(OSError, match="MEMLOCK"):
        register.register_buffers(ring, [MEMORY])
    with pytest.raises(OSError, match="MEMLOCK"):
        register.setup_buf_ring(ring, 1, 4, 16)
    # "unsure" is memory that the ring holds because this error did not come from the kernel: see
    # test_ring_promises.py.
    assert not [key for key in ring.resources if key[0] != "unsure"]


def test_allow_only_then_names_numbers_and_prep_functions_mean_the_same(monkeypatch):
    seen = []
    monkeypatch.setattr(register, "register_restrictions", lambda ring, **named: seen.append(named))
    register.allow_only(None, "read", uapi.IORING_OP_WRITE, ops.prep_poll_multishot, ops.prep_uring_cmd128)
    names = ("READ", "WRITE", "POLL_ADD", "URING_CMD128")
    assert seen[0]["sqe_ops"] == [vars(uapi)[f"IORING_OP_{name}"] for name in names]
    assert seen[0]["register_ops"] == [uapi.IORING_REGISTER_ENABLE_RINGS]
    for wrong in (("READD",), (256,), ()):
        with pytest.raises(ValueError):
            register.allow_only(None, *wrong)


@pytest.mark.parametrize("cpus", [[-1], [0, 1 << 40]])
def test_iowq_aff_when_a_cpu_cannot_be_then_refused_in_words(cpus):
    ring = Notes()
    with pytest.raises(ValueError, match="CPUs are numbered from 0"):
        register.register_iowq_aff(ring, cpus)
    assert not ring.calls


def test_unregister_when_the_kernel_refuses_then_the_buffers_stay_held():
    ring = Notes()
    register.register_buffers(ring, [MEMORY])
    ring.error = errno.ENXIO
    with pytest.raises(OSError, match="nothing is registered"):
        register.unregister_buffers(ring)
    assert list(ring.resources) == [("buffer", 0)]


def test_clone_buffers_of_a_range_then_only_those_are_held():
    source, target = Notes(), Notes()
    register.register_buffers(source, [MEMORY] * 4)
    source.resources["pbuf", 1] = None
    register.clone_buffers(target, source, 5, 1, 2)
    assert set(target.resources) == {("buffer", 5), ("buffer", 6)}


def test_region_then_held_until_the_ring_is_closed():
    ring = Notes()
    register.register_region(ring, MEMORY)
    assert ring.resources["region", 0].nbytes == 4096


def test_available_when_the_tail_has_wrapped_then_counted_in_16_bits(monkeypatch):
    group = register.setup_buf_ring(Notes(), 1, 4, 16)
    group.ring.tail = 0x20002
    monkeypatch.setattr(register, "buf_ring_head", lambda ring, bgid: 0xFFFF)
    assert register.buf_ring_available(None, group) == 3


@pytest.mark.parametrize(
    ("meminfo", "maxsize", "high"),
    [
        ("MemTotal: 5 kB\nHighTotal:       1234 kB\n", 1 << 62, True),
        ("MemTotal: 5 kB\nHighTotal:          0 kB\n", 1 << 30, False),
        ("MemTotal: 5 kB\n", 1 << 30, False),
        (None, 1 << 30, True),
        (None, 1 << 62, False),
    ],
)
def test_high_memory_then_as_proc_says_and_suspected_without_proc(monkeypatch, meminfo, maxsize, high):
    def open_meminfo(path, **options):
        assert path == "/proc/meminfo"
        if meminfo is None:
            raise OSError
        return io.StringIO(meminfo)

    monkeypatch.setattr(register, "open", open_meminfo, raising=False)
    monkeypatch.setattr(register.sys, "maxsize", maxsize)
    assert register._has_high_memory() is high


def test_buffer_group_when_the_kernel_would_crash_then_only_its_own_memory_is_allowed(monkeypatch):
    monkeypatch.setattr(register.gates, "applies", lambda name: name == "pbuf-highmem")
    monkeypatch.setattr(register, "_has_high_memory", lambda: True)
    monkeypatch.setattr(register, "_map_pbuf_ring", lambda ring, bgid, entries: buffers.allocate(4096))
    ring = Notes()
    with pytest.raises(OSError, match="high memory"):
        register.setup_buf_ring(ring, 1, 4, 16)
    assert not ring.calls
    try:
        register.setup_buf_ring(ring, 1, 4, 16, kernel_memory=True)
    except OSError as error:  # conftest.py would skip it as the kernel's
        pytest.fail(str(error))
    assert list(ring.resources) == [("pbuf", 1)]


@pytest.mark.parametrize("program", [b"", b"1234567"])
def test_bpf_filter_when_the_program_is_not_whole_then_refused_in_words(program):
    with pytest.raises(ValueError, match="are not a BPF program"):
        register.register_bpf_filter(Notes(), 0, program)


def test_cpu_mask_when_a_long_has_32_bits_then_the_lower_half_comes_first(monkeypatch):
    monkeypatch.setattr(struct, "calcsize", lambda format: 4)
    assert struct.unpack("@LL", register._long_words(5 << 32 | 3)) == (3, 5)
