# SPDX-License-Identifier: MIT
"""The kernel's io_uring header in Python: constants, struct layouts, and since when they exist.

What it is: ``include/uapi/linux/io_uring.h`` and its companions of Linux 7.2 as data, in the header's order
and under its names, so that one grep works across C, QEMU and Python. Constants are plain ints: flags of the
enum module cost ten to twenty times as much to combine.
Must not know: how any of it is used.
Invariant: every number of the ABI stands here and nowhere else. Sizes and offsets are the same on every
architecture (checked with a C compiler on sixteen of them); what differs between architectures, such as
O_DIRECT or MSG_*, does not belong here: take it from os, socket and select.
Read next: syscalls.py.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Field:
    """One member of a struct; members of a union share an offset."""

    __slots__ = ("count", "format", "layout", "name", "offset", "size")

    def __init__(self, name: str, kind: Any, offset: int) -> None:
        """Work out the size: kind is a struct format, a Layout, or (Layout, count)."""
        self.name = name
        self.offset = offset
        self.layout: Layout | None = None
        self.format = ""
        if isinstance(kind, str):
            self.format = kind
            self.count = int(kind[:-1]) if len(kind) > 1 else None
            self.size = struct.calcsize("=" + kind)
        elif isinstance(kind, Layout):
            self.layout, self.count, self.size = kind, None, kind.size
        else:
            self.layout, self.count = kind
            self.size = kind[0].size * kind[1]

    def pack(self, where: str, value: Any) -> bytes:
        """Turn a value into this member's bytes.

        Args: where names the member in error messages; value is an int, a sequence, a dict or bytes.
        Returns: exactly size bytes.
        Raises: ValueError, TypeError.
        """
        if isinstance(value, (bytes, bytearray, memoryview)):
            if len(value) != self.size:
                raise ValueError(f"{where} takes {self.size} bytes, not {len(value)}")
            return bytes(value)
        if self.layout is not None:
            values = [value] if self.count is None else list(value)
            if self.count is not None and len(values) != self.count:
                raise ValueError(f"{where} takes {self.count} items, not {len(values)}")
            return b"".join(self.layout.pack(**each) for each in values)
        try:
            return struct.pack("=" + self.format, *([value] if self.count is None else value))
        except struct.error as error:
            raise ValueError(f"{where}={value!r}: {error}") from None

    def unpack(self, buffer: Any, offset: int) -> Any:
        """Turn this member's bytes into an int, a tuple, a dict or a tuple of dicts.

        Args: buffer holds the struct, which begins at offset.
        Returns: the value.
        """
        start = offset + self.offset
        if self.layout is not None:
            if self.count is None:
                return self.layout.unpack(buffer, start)
            return tuple(self.layout.unpack(buffer, start + i * self.layout.size) for i in range(self.count))
        values = struct.unpack_from("=" + self.format, buffer, start)
        return values[0] if self.count is None else values


class Layout:
    """A struct as the kernel lays it out."""

    __slots__ = ("fields", "name", "size")

    def __init__(self, name: str, size: int, fields: tuple[tuple[str, Any, int], ...]) -> None:
        """Take the table of members: name, kind, offset."""
        self.name = name
        self.size = size
        self.fields = {field: Field(field, kind, offset) for field, kind, offset in fields}

    def pack(self, **values: Any) -> bytes:
        """Build the struct; members that are not named are zero.

        Args: values by member name: ints, sequences for arrays, dicts for structs, or bytes.
        Returns: size bytes.
        Raises: TypeError for an unknown member; ValueError for a value that does not fit, and for two members
            of one union.
        """
        buffer = bytearray(self.size)
        self.pack_into(buffer, 0, **values)
        return bytes(buffer)

    def pack_into(self, buffer: Any, offset: int, **values: Any) -> None:
        """Write members into a buffer and leave the others as they are.

        Args: buffer is writable; the struct begins at offset; values as for pack().
        Raises: as pack().
        """
        taken: dict[int, str] = {}
        for name, value in values.items():
            field = self.fields.get(name)
            if field is None:
                raise TypeError(f"struct {self.name} has no member {name!r}")
            for byte in range(field.offset, field.offset + field.size):
                if byte in taken:
                    raise ValueError(f"struct {self.name}: {taken[byte]} and {name} share memory")
                taken[byte] = name
            start = offset + field.offset
            buffer[start : start + field.size] = field.pack(f"{self.name}.{name}", value)

    def unpack(self, buffer: Any, offset: int = 0) -> dict[str, Any]:
        """Read every member, those of unions under each of their names.

        Args: buffer holds the struct, which begins at offset.
        Returns: a dict by member name.
        """
        return {name: field.unpack(buffer, offset) for name, field in self.fields.items()}

    def __repr__(self) -> str:
        """Show name and size."""
        return f"<struct {self.name}, {self.size} bytes>"


# ------------------------------------------------------------------------------------------------------
# linux/io_uring.h

io_uring_sqe = Layout(
    "io_uring_sqe", 64,
    (
        ("opcode", "B", 0),
        ("flags", "B", 1),
        ("ioprio", "H", 2),
        ("fd", "i", 4),
        ("off", "Q", 8),
        ("addr2", "Q", 8),
        ("cmd_op", "I", 8),
        ("__pad1", "I", 12),
        ("addr", "Q", 16),
        ("splice_off_in", "Q", 16),
        ("level", "I", 16),
        ("optname", "I", 20),
        ("len", "I", 24),
        ("rw_flags", "I", 28),
        ("fsync_flags", "I", 28),
        ("poll_events", "H", 28),
        ("poll32_events", "I", 28),
        ("sync_range_flags", "I", 28),
        ("msg_flags", "I", 28),
        ("timeout_flags", "I", 28),
        ("accept_flags", "I", 28),
        ("cancel_flags", "I", 28),
        ("open_flags", "I", 28),
        ("statx_flags", "I", 28),
        ("fadvise_advice", "I", 28),
        ("splice_flags", "I", 28),
        ("rename_flags", "I", 28),
        ("unlink_flags", "I", 28),
        ("hardlink_flags", "I", 28),
        ("xattr_flags", "I", 28),
        ("msg_ring_flags", "I", 28),
        ("uring_cmd_flags", "I", 28),
        ("waitid_flags", "I", 28),
        ("futex_flags", "I", 28),
        ("install_fd_flags", "I", 28),
        ("nop_flags", "I", 28),
        ("pipe_flags", "I", 28),
        ("user_data", "Q", 32),
        ("buf_index", "H", 40),
        ("buf_group", "H", 40),
        ("personality", "H", 42),
        ("splice_fd_in", "i", 44),
        ("file_index", "I", 44),
        ("zcrx_ifq_idx", "I", 44),
        ("optlen", "I", 44),
        ("addr_len", "H", 44),
        ("__pad3", "1H", 46),
        ("write_stream", "B", 44),
        ("__pad4", "3B", 45),
        ("addr3", "Q", 48),
        ("__pad2", "1Q", 56),
        ("attr_ptr", "Q", 48),
        ("attr_type_mask", "Q", 56),
        ("optval", "Q", 48),
        ("cmd", "0B", 48),
    ),
)

IORING_RW_ATTR_FLAG_PI = 1 << 0

io_uring_attr_pi = Layout(
    "io_uring_attr_pi", 32,
    (
        ("flags", "H", 0),
        ("app_tag", "H", 2),
        ("len", "I", 4),
        ("addr", "Q", 8),
        ("seed", "Q", 16),
        ("rsvd", "Q", 24),
    ),
)

IORING_FILE_INDEX_ALLOC = 0xFFFFFFFF

# Bit numbers of sqe.flags
IOSQE_FIXED_FILE_BIT = 0
IOSQE_IO_DRAIN_BIT = 1
IOSQE_IO_LINK_BIT = 2
IOSQE_IO_HARDLINK_BIT = 3
IOSQE_ASYNC_BIT = 4
IOSQE_BUFFER_SELECT_BIT = 5
IOSQE_CQE_SKIP_SUCCESS_BIT = 6

# sqe.flags
IOSQE_FIXED_FILE = 1 << 0
IOSQE_IO_DRAIN = 1 << 1
IOSQE_IO_LINK = 1 << 2
IOSQE_IO_HARDLINK = 1 << 3
IOSQE_ASYNC = 1 << 4
IOSQE_BUFFER_SELECT = 1 << 5
IOSQE_CQE_SKIP_SUCCESS = 1 << 6

# io_uring_setup() flags
IORING_SETUP_IOPOLL = 1 << 0
IORING_SETUP_SQPOLL = 1 << 1
IORING_SETUP_SQ_AFF = 1 << 2
IORING_SETUP_CQSIZE = 1 << 3
IORING_SETUP_CLAMP = 1 << 4
IORING_SETUP_ATTACH_WQ = 1 << 5
IORING_SETUP_R_DISABLED = 1 << 6
IORING_SETUP_SUBMIT_ALL = 1 << 7
IORING_SETUP_COOP_TASKRUN = 1 << 8
IORING_SETUP_TASKRUN_FLAG = 1 << 9
IORING_SETUP_SQE128 = 1 << 10
IORING_SETUP_CQE32 = 1 << 11
IORING_SETUP_SINGLE_ISSUER = 1 << 12
IORING_SETUP_DEFER_TASKRUN = 1 << 13
IORING_SETUP_NO_MMAP = 1 << 14
IORING_SETUP_REGISTERED_FD_ONLY = 1 << 15
IORING_SETUP_NO_SQARRAY = 1 << 16
IORING_SETUP_HYBRID_IOPOLL = 1 << 17
IORING_SETUP_CQE_MIXED = 1 << 18
IORING_SETUP_SQE_MIXED = 1 << 19
IORING_SETUP_SQ_REWIND = 1 << 20

# Opcodes: sqe.opcode
IORING_OP_NOP = 0
IORING_OP_READV = 1
IORING_OP_WRITEV = 2
IORING_OP_FSYNC = 3
IORING_OP_READ_FIXED = 4
IORING_OP_WRITE_FIXED = 5
IORING_OP_POLL_ADD = 6
IORING_OP_POLL_REMOVE = 7
IORING_OP_SYNC_FILE_RANGE = 8
IORING_OP_SENDMSG = 9
IORING_OP_RECVMSG = 10
IORING_OP_TIMEOUT = 11
IORING_OP_TIMEOUT_REMOVE = 12
IORING_OP_ACCEPT = 13
IORING_OP_ASYNC_CANCEL = 14
IORING_OP_LINK_TIMEOUT = 15
IORING_OP_CONNECT = 16
IORING_OP_FALLOCATE = 17
IORING_OP_OPENAT = 18
IORING_OP_CLOSE = 19
IORING_OP_FILES_UPDATE = 20
IORING_OP_STATX = 21
IORING_OP_READ = 22
IORING_OP_WRITE = 23
IORING_OP_FADVISE = 24
IORING_OP_MADVISE = 25
IORING_OP_SEND = 26
IORING_OP_RECV = 27
IORING_OP_OPENAT2 = 28
IORING_OP_EPOLL_CTL = 29
IORING_OP_SPLICE = 30
IORING_OP_PROVIDE_BUFFERS = 31
IORING_OP_REMOVE_BUFFERS = 32
IORING_OP_TEE = 33
IORING_OP_SHUTDOWN = 34
IORING_OP_RENAMEAT = 35
IORING_OP_UNLINKAT = 36
IORING_OP_MKDIRAT = 37
IORING_OP_SYMLINKAT = 38
IORING_OP_LINKAT = 39
IORING_OP_MSG_RING = 40
IORING_OP_FSETXATTR = 41
IORING_OP_SETXATTR = 42
IORING_OP_FGETXATTR = 43
IORING_OP_GETXATTR = 44
IORING_OP_SOCKET = 45
IORING_OP_URING_CMD = 46
IORING_OP_SEND_ZC = 47
IORING_OP_SENDMSG_ZC = 48
IORING_OP_READ_MULTISHOT = 49
IORING_OP_WAITID = 50
IORING_OP_FUTEX_WAIT = 51
IORING_OP_FUTEX_WAKE = 52
IORING_OP_FUTEX_WAITV = 53
IORING_OP_FIXED_FD_INSTALL = 54
IORING_OP_FTRUNCATE = 55
IORING_OP_BIND = 56
IORING_OP_LISTEN = 57
IORING_OP_RECV_ZC = 58
IORING_OP_EPOLL_WAIT = 59
IORING_OP_READV_FIXED = 60
IORING_OP_WRITEV_FIXED = 61
IORING_OP_PIPE = 62
IORING_OP_NOP128 = 63
IORING_OP_URING_CMD128 = 64
IORING_OP_LAST = 65

# sqe.uring_cmd_flags
IORING_URING_CMD_FIXED = 1 << 0
IORING_URING_CMD_MULTISHOT = 1 << 1
IORING_URING_CMD_MASK = 3

# sqe.fsync_flags
IORING_FSYNC_DATASYNC = 1 << 0

# sqe.timeout_flags
IORING_TIMEOUT_ABS = 1 << 0
IORING_TIMEOUT_UPDATE = 1 << 1
IORING_TIMEOUT_BOOTTIME = 1 << 2
IORING_TIMEOUT_REALTIME = 1 << 3
IORING_LINK_TIMEOUT_UPDATE = 1 << 4
IORING_TIMEOUT_ETIME_SUCCESS = 1 << 5
IORING_TIMEOUT_MULTISHOT = 1 << 6
IORING_TIMEOUT_IMMEDIATE_ARG = 1 << 7
IORING_TIMEOUT_CLOCK_MASK = 12
IORING_TIMEOUT_UPDATE_MASK = 18

# sqe.splice_flags, beside splice(2)'s own
SPLICE_F_FD_IN_FIXED = 1 << 31

# sqe.len of POLL_ADD and POLL_REMOVE
IORING_POLL_ADD_MULTI = 1 << 0
IORING_POLL_UPDATE_EVENTS = 1 << 1
IORING_POLL_UPDATE_USER_DATA = 1 << 2
IORING_POLL_ADD_LEVEL = 1 << 3

# sqe.cancel_flags
IORING_ASYNC_CANCEL_ALL = 1 << 0
IORING_ASYNC_CANCEL_FD = 1 << 1
IORING_ASYNC_CANCEL_ANY = 1 << 2
IORING_ASYNC_CANCEL_FD_FIXED = 1 << 3
IORING_ASYNC_CANCEL_USERDATA = 1 << 4
IORING_ASYNC_CANCEL_OP = 1 << 5

# sqe.ioprio of send and receive operations
IORING_RECVSEND_POLL_FIRST = 1 << 0
IORING_RECV_MULTISHOT = 1 << 1
IORING_RECVSEND_FIXED_BUF = 1 << 2
IORING_SEND_ZC_REPORT_USAGE = 1 << 3
IORING_RECVSEND_BUNDLE = 1 << 4
IORING_SEND_VECTORIZED = 1 << 5

IORING_NOTIF_USAGE_ZC_COPIED = 1 << 31

# sqe.ioprio of ACCEPT
IORING_ACCEPT_MULTISHOT = 1 << 0
IORING_ACCEPT_DONTWAIT = 1 << 1
IORING_ACCEPT_POLL_FIRST = 1 << 2

# sqe.addr of MSG_RING
IORING_MSG_DATA = 0
IORING_MSG_SEND_FD = 1

# sqe.msg_ring_flags
IORING_MSG_RING_CQE_SKIP = 1 << 0
IORING_MSG_RING_FLAGS_PASS = 1 << 1

IORING_FIXED_FD_NO_CLOEXEC = 1 << 0

# sqe.nop_flags
IORING_NOP_INJECT_RESULT = 1 << 0
IORING_NOP_FILE = 1 << 1
IORING_NOP_FIXED_FILE = 1 << 2
IORING_NOP_FIXED_BUFFER = 1 << 3
IORING_NOP_TW = 1 << 4
IORING_NOP_CQE32 = 1 << 5

io_uring_cqe = Layout(
    "io_uring_cqe", 16,
    (
        ("user_data", "Q", 0),
        ("res", "i", 8),
        ("flags", "I", 12),
        ("big_cqe", "0Q", 16),
    ),
)

# cqe.flags
IORING_CQE_F_BUFFER = 1 << 0
IORING_CQE_F_MORE = 1 << 1
IORING_CQE_F_SOCK_NONEMPTY = 1 << 2
IORING_CQE_F_NOTIF = 1 << 3
IORING_CQE_F_BUF_MORE = 1 << 4
IORING_CQE_F_SKIP = 1 << 5
IORING_CQE_F_32 = 1 << 15
IORING_CQE_BUFFER_SHIFT = 16

# Offsets for mmap()
IORING_OFF_SQ_RING = 0
IORING_OFF_CQ_RING = 0x8000000
IORING_OFF_SQES = 0x10000000
IORING_OFF_PBUF_RING = 0x80000000
IORING_OFF_PBUF_SHIFT = 16
IORING_OFF_MMAP_MASK = 0xf8000000

io_sqring_offsets = Layout(
    "io_sqring_offsets", 40,
    (
        ("head", "I", 0),
        ("tail", "I", 4),
        ("ring_mask", "I", 8),
        ("ring_entries", "I", 12),
        ("flags", "I", 16),
        ("dropped", "I", 20),
        ("array", "I", 24),
        ("resv1", "I", 28),
        ("user_addr", "Q", 32),
    ),
)

# Flags in the SQ ring
IORING_SQ_NEED_WAKEUP = 1 << 0
IORING_SQ_CQ_OVERFLOW = 1 << 1
IORING_SQ_TASKRUN = 1 << 2

io_cqring_offsets = Layout(
    "io_cqring_offsets", 40,
    (
        ("head", "I", 0),
        ("tail", "I", 4),
        ("ring_mask", "I", 8),
        ("ring_entries", "I", 12),
        ("overflow", "I", 16),
        ("cqes", "I", 20),
        ("flags", "I", 24),
        ("resv1", "I", 28),
        ("user_addr", "Q", 32),
    ),
)

# Flags in the CQ ring
IORING_CQ_EVENTFD_DISABLED = 1 << 0

# io_uring_enter() flags
IORING_ENTER_GETEVENTS = 1 << 0
IORING_ENTER_SQ_WAKEUP = 1 << 1
IORING_ENTER_SQ_WAIT = 1 << 2
IORING_ENTER_EXT_ARG = 1 << 3
IORING_ENTER_REGISTERED_RING = 1 << 4
IORING_ENTER_ABS_TIMER = 1 << 5
IORING_ENTER_EXT_ARG_REG = 1 << 6
IORING_ENTER_NO_IOWAIT = 1 << 7

io_uring_params = Layout(
    "io_uring_params", 120,
    (
        ("sq_entries", "I", 0),
        ("cq_entries", "I", 4),
        ("flags", "I", 8),
        ("sq_thread_cpu", "I", 12),
        ("sq_thread_idle", "I", 16),
        ("features", "I", 20),
        ("wq_fd", "I", 24),
        ("resv", "3I", 28),
        ("sq_off", io_sqring_offsets, 40),
        ("cq_off", io_cqring_offsets, 80),
    ),
)

# io_uring_params.features
IORING_FEAT_SINGLE_MMAP = 1 << 0
IORING_FEAT_NODROP = 1 << 1
IORING_FEAT_SUBMIT_STABLE = 1 << 2
IORING_FEAT_RW_CUR_POS = 1 << 3
IORING_FEAT_CUR_PERSONALITY = 1 << 4
IORING_FEAT_FAST_POLL = 1 << 5
IORING_FEAT_POLL_32BITS = 1 << 6
IORING_FEAT_SQPOLL_NONFIXED = 1 << 7
IORING_FEAT_EXT_ARG = 1 << 8
IORING_FEAT_NATIVE_WORKERS = 1 << 9
IORING_FEAT_RSRC_TAGS = 1 << 10
IORING_FEAT_CQE_SKIP = 1 << 11
IORING_FEAT_LINKED_FILE = 1 << 12
IORING_FEAT_REG_REG_RING = 1 << 13
IORING_FEAT_RECVSEND_BUNDLE = 1 << 14
IORING_FEAT_MIN_TIMEOUT = 1 << 15
IORING_FEAT_RW_ATTR = 1 << 16
IORING_FEAT_NO_IOWAIT = 1 << 17

# io_uring_register() opcodes
IORING_REGISTER_BUFFERS = 0
IORING_UNREGISTER_BUFFERS = 1
IORING_REGISTER_FILES = 2
IORING_UNREGISTER_FILES = 3
IORING_REGISTER_EVENTFD = 4
IORING_UNREGISTER_EVENTFD = 5
IORING_REGISTER_FILES_UPDATE = 6
IORING_REGISTER_EVENTFD_ASYNC = 7
IORING_REGISTER_PROBE = 8
IORING_REGISTER_PERSONALITY = 9
IORING_UNREGISTER_PERSONALITY = 10
IORING_REGISTER_RESTRICTIONS = 11
IORING_REGISTER_ENABLE_RINGS = 12
IORING_REGISTER_FILES2 = 13
IORING_REGISTER_FILES_UPDATE2 = 14
IORING_REGISTER_BUFFERS2 = 15
IORING_REGISTER_BUFFERS_UPDATE = 16
IORING_REGISTER_IOWQ_AFF = 17
IORING_UNREGISTER_IOWQ_AFF = 18
IORING_REGISTER_IOWQ_MAX_WORKERS = 19
IORING_REGISTER_RING_FDS = 20
IORING_UNREGISTER_RING_FDS = 21
IORING_REGISTER_PBUF_RING = 22
IORING_UNREGISTER_PBUF_RING = 23
IORING_REGISTER_SYNC_CANCEL = 24
IORING_REGISTER_FILE_ALLOC_RANGE = 25
IORING_REGISTER_PBUF_STATUS = 26
IORING_REGISTER_NAPI = 27
IORING_UNREGISTER_NAPI = 28
IORING_REGISTER_CLOCK = 29
IORING_REGISTER_CLONE_BUFFERS = 30
IORING_REGISTER_SEND_MSG_RING = 31
IORING_REGISTER_ZCRX_IFQ = 32
IORING_REGISTER_RESIZE_RINGS = 33
IORING_REGISTER_MEM_REGION = 34
IORING_REGISTER_QUERY = 35
IORING_REGISTER_ZCRX_CTRL = 36
IORING_REGISTER_BPF_FILTER = 37

IORING_REGISTER_LAST = 38
IORING_REGISTER_USE_REGISTERED_RING = 1 << 31

# io-wq
IO_WQ_BOUND = 0
IO_WQ_UNBOUND = 1

io_uring_files_update = Layout(
    "io_uring_files_update", 16,
    (
        ("offset", "I", 0),
        ("resv", "I", 4),
        ("fds", "Q", 8),
    ),
)

# Memory regions
IORING_MEM_REGION_TYPE_USER = 1

io_uring_region_desc = Layout(
    "io_uring_region_desc", 64,
    (
        ("user_addr", "Q", 0),
        ("size", "Q", 8),
        ("flags", "I", 16),
        ("id", "I", 20),
        ("mmap_offset", "Q", 24),
        ("__resv", "4Q", 32),
    ),
)

# Memory regions
IORING_MEM_REGION_REG_WAIT_ARG = 1

io_uring_mem_region_reg = Layout(
    "io_uring_mem_region_reg", 32,
    (
        ("region_uptr", "Q", 0),
        ("flags", "Q", 8),
        ("__resv", "2Q", 16),
    ),
)

IORING_RSRC_REGISTER_SPARSE = 1 << 0

io_uring_rsrc_register = Layout(
    "io_uring_rsrc_register", 32,
    (
        ("nr", "I", 0),
        ("flags", "I", 4),
        ("resv2", "Q", 8),
        ("data", "Q", 16),
        ("tags", "Q", 24),
    ),
)

io_uring_rsrc_update = Layout(
    "io_uring_rsrc_update", 16,
    (
        ("offset", "I", 0),
        ("resv", "I", 4),
        ("data", "Q", 8),
    ),
)

io_uring_rsrc_update2 = Layout(
    "io_uring_rsrc_update2", 32,
    (
        ("offset", "I", 0),
        ("resv", "I", 4),
        ("data", "Q", 8),
        ("tags", "Q", 16),
        ("nr", "I", 24),
        ("resv2", "I", 28),
    ),
)

IORING_REGISTER_FILES_SKIP = -2

IO_URING_OP_SUPPORTED = 1 << 0

io_uring_probe_op = Layout(
    "io_uring_probe_op", 8,
    (
        ("op", "B", 0),
        ("resv", "B", 1),
        ("flags", "H", 2),
        ("resv2", "I", 4),
    ),
)

io_uring_probe = Layout(
    "io_uring_probe", 16,
    (
        ("last_op", "B", 0),
        ("ops_len", "B", 1),
        ("resv", "H", 2),
        ("resv2", "3I", 4),
        ("ops", (io_uring_probe_op, 0), 16),
    ),
)

io_uring_restriction = Layout(
    "io_uring_restriction", 16,
    (
        ("opcode", "H", 0),
        ("register_op", "B", 2),
        ("sqe_op", "B", 2),
        ("sqe_flags", "B", 2),
        ("resv", "B", 3),
        ("resv2", "3I", 4),
    ),
)

io_uring_task_restriction = Layout(
    "io_uring_task_restriction", 16,
    (
        ("flags", "H", 0),
        ("nr_res", "H", 2),
        ("resv", "3I", 4),
        ("restrictions", (io_uring_restriction, 0), 16),
    ),
)

io_uring_clock_register = Layout(
    "io_uring_clock_register", 16,
    (
        ("clockid", "I", 0),
        ("__resv", "3I", 4),
    ),
)

IORING_REGISTER_SRC_REGISTERED = 1 << 0
IORING_REGISTER_DST_REPLACE = 1 << 1

io_uring_clone_buffers = Layout(
    "io_uring_clone_buffers", 32,
    (
        ("src_fd", "I", 0),
        ("flags", "I", 4),
        ("src_off", "I", 8),
        ("dst_off", "I", 12),
        ("nr", "I", 16),
        ("pad", "3I", 20),
    ),
)

io_uring_buf = Layout(
    "io_uring_buf", 16,
    (
        ("addr", "Q", 0),
        ("len", "I", 8),
        ("bid", "H", 12),
        ("resv", "H", 14),
    ),
)

io_uring_buf_ring = Layout(
    "io_uring_buf_ring", 16,
    (
        ("resv1", "Q", 0),
        ("resv2", "I", 8),
        ("resv3", "H", 12),
        ("tail", "H", 14),
        ("bufs", (io_uring_buf, 0), 0),
    ),
)

# Provided-buffer rings
IOU_PBUF_RING_MMAP = 1
IOU_PBUF_RING_INC = 2

io_uring_buf_reg = Layout(
    "io_uring_buf_reg", 40,
    (
        ("ring_addr", "Q", 0),
        ("ring_entries", "I", 8),
        ("bgid", "H", 12),
        ("flags", "H", 14),
        ("min_left", "I", 16),
        ("resv", "5I", 20),
    ),
)

io_uring_buf_status = Layout(
    "io_uring_buf_status", 40,
    (
        ("buf_group", "I", 0),
        ("head", "I", 4),
        ("resv", "8I", 8),
    ),
)

# NAPI
IO_URING_NAPI_REGISTER_OP = 0
IO_URING_NAPI_STATIC_ADD_ID = 1
IO_URING_NAPI_STATIC_DEL_ID = 2
IO_URING_NAPI_TRACKING_DYNAMIC = 0
IO_URING_NAPI_TRACKING_STATIC = 1
IO_URING_NAPI_TRACKING_INACTIVE = 255

io_uring_napi = Layout(
    "io_uring_napi", 16,
    (
        ("busy_poll_to", "I", 0),
        ("prefer_busy_poll", "B", 4),
        ("opcode", "B", 5),
        ("pad", "2B", 6),
        ("op_param", "I", 8),
        ("resv", "I", 12),
    ),
)

# Restrictions
IORING_RESTRICTION_REGISTER_OP = 0
IORING_RESTRICTION_SQE_OP = 1
IORING_RESTRICTION_SQE_FLAGS_ALLOWED = 2
IORING_RESTRICTION_SQE_FLAGS_REQUIRED = 3
IORING_RESTRICTION_LAST = 4

IORING_REG_WAIT_TS = 1 << 0

__kernel_timespec = Layout(
    "__kernel_timespec", 16,
    (
        ("tv_sec", "q", 0),
        ("tv_nsec", "q", 8),
    ),
)

io_uring_reg_wait = Layout(
    "io_uring_reg_wait", 64,
    (
        ("ts", __kernel_timespec, 0),
        ("min_wait_usec", "I", 16),
        ("flags", "I", 20),
        ("sigmask", "Q", 24),
        ("sigmask_sz", "I", 32),
        ("pad", "3I", 36),
        ("pad2", "2Q", 48),
    ),
)

io_uring_getevents_arg = Layout(
    "io_uring_getevents_arg", 24,
    (
        ("sigmask", "Q", 0),
        ("sigmask_sz", "I", 8),
        ("min_wait_usec", "I", 12),
        ("ts", "Q", 16),
    ),
)

io_uring_sync_cancel_reg = Layout(
    "io_uring_sync_cancel_reg", 64,
    (
        ("addr", "Q", 0),
        ("fd", "i", 8),
        ("flags", "I", 12),
        ("timeout", __kernel_timespec, 16),
        ("opcode", "B", 32),
        ("pad", "7B", 33),
        ("pad2", "3Q", 40),
    ),
)

io_uring_file_index_range = Layout(
    "io_uring_file_index_range", 16,
    (
        ("off", "I", 0),
        ("len", "I", 4),
        ("resv", "Q", 8),
    ),
)

io_uring_recvmsg_out = Layout(
    "io_uring_recvmsg_out", 16,
    (
        ("namelen", "I", 0),
        ("controllen", "I", 4),
        ("payloadlen", "I", 8),
        ("flags", "I", 12),
    ),
)

# Commands of a socket URING_CMD
SOCKET_URING_OP_SIOCINQ = 0
SOCKET_URING_OP_SIOCOUTQ = 1
SOCKET_URING_OP_GETSOCKOPT = 2
SOCKET_URING_OP_SETSOCKOPT = 3
SOCKET_URING_OP_TX_TIMESTAMP = 4
SOCKET_URING_OP_GETSOCKNAME = 5

# Companions: transmit timestamps
IORING_TIMESTAMP_HW_SHIFT = 16
IORING_TIMESTAMP_TYPE_SHIFT = 17

# cqe.flags
IORING_CQE_F_TSTAMP_HW = 1 << 16

io_timespec = Layout(
    "io_timespec", 16,
    (
        ("tv_sec", "Q", 0),
        ("tv_nsec", "Q", 8),
    ),
)

# ------------------------------------------------------------------------------------------------------
# linux/io_uring/zcrx.h

io_uring_zcrx_rqe = Layout(
    "io_uring_zcrx_rqe", 16,
    (
        ("off", "Q", 0),
        ("len", "I", 8),
        ("__pad", "I", 12),
    ),
)

io_uring_zcrx_cqe = Layout(
    "io_uring_zcrx_cqe", 16,
    (
        ("off", "Q", 0),
        ("__pad", "Q", 8),
    ),
)

# Zero-copy receive
IORING_ZCRX_AREA_SHIFT = 48
IORING_ZCRX_AREA_MASK = 0xFFFF000000000000

io_uring_zcrx_offsets = Layout(
    "io_uring_zcrx_offsets", 32,
    (
        ("head", "I", 0),
        ("tail", "I", 4),
        ("rqes", "I", 8),
        ("__resv2", "I", 12),
        ("__resv", "2Q", 16),
    ),
)

# Zero-copy receive
IORING_ZCRX_AREA_DMABUF = 1

io_uring_zcrx_area_reg = Layout(
    "io_uring_zcrx_area_reg", 48,
    (
        ("addr", "Q", 0),
        ("len", "Q", 8),
        ("rq_area_token", "Q", 16),
        ("flags", "I", 24),
        ("dmabuf_fd", "I", 28),
        ("__resv2", "2Q", 32),
    ),
)

# Zero-copy receive
ZCRX_REG_IMPORT = 1
ZCRX_REG_NODEV = 2
ZCRX_FEATURE_RX_PAGE_SIZE = 1 << 0
ZCRX_FEATURE_EVENT = 1 << 1
ZCRX_EVENT_ALLOC_FAIL = 0
ZCRX_EVENT_COPY = 1
ZCRX_EVENT_DESC_FLAG_STATS = 1 << 0

zcrx_stats = Layout(
    "zcrx_stats", 16,
    (
        ("copy_count", "Q", 0),
        ("copy_bytes", "Q", 8),
    ),
)

zcrx_event_desc = Layout(
    "zcrx_event_desc", 96,
    (
        ("user_data", "Q", 0),
        ("type_mask", "I", 8),
        ("flags", "I", 12),
        ("stats_offset", "Q", 16),
        ("__resv2", "9Q", 24),
    ),
)

io_uring_zcrx_ifq_reg = Layout(
    "io_uring_zcrx_ifq_reg", 96,
    (
        ("if_idx", "I", 0),
        ("if_rxq", "I", 4),
        ("rq_entries", "I", 8),
        ("flags", "I", 12),
        ("area_ptr", "Q", 16),
        ("region_ptr", "Q", 24),
        ("offsets", io_uring_zcrx_offsets, 32),
        ("zcrx_id", "I", 64),
        ("rx_buf_len", "I", 68),
        ("event_desc", "Q", 72),
        ("__resv", "2Q", 80),
    ),
)

# Zero-copy receive
ZCRX_CTRL_FLUSH_RQ = 0
ZCRX_CTRL_EXPORT = 1
ZCRX_CTRL_ARM_EVENT = 2

zcrx_ctrl_flush_rq = Layout(
    "zcrx_ctrl_flush_rq", 48,
    (
        ("__resv", "6Q", 0),
    ),
)

zcrx_ctrl_export = Layout(
    "zcrx_ctrl_export", 48,
    (
        ("zcrx_fd", "I", 0),
        ("__resv1", "11I", 4),
    ),
)

zcrx_ctrl_arm_event = Layout(
    "zcrx_ctrl_arm_event", 48,
    (
        ("event_type", "I", 0),
        ("__resv", "11I", 4),
    ),
)

zcrx_ctrl = Layout(
    "zcrx_ctrl", 72,
    (
        ("zcrx_id", "I", 0),
        ("op", "I", 4),
        ("__resv", "2Q", 8),
        ("zc_export", zcrx_ctrl_export, 24),
        ("zc_flush", zcrx_ctrl_flush_rq, 24),
        ("zc_arm_event", zcrx_ctrl_arm_event, 24),
    ),
)

# ------------------------------------------------------------------------------------------------------
# linux/io_uring/query.h

io_uring_query_hdr = Layout(
    "io_uring_query_hdr", 40,
    (
        ("next_entry", "Q", 0),
        ("query_data", "Q", 8),
        ("query_op", "I", 16),
        ("size", "I", 20),
        ("result", "i", 24),
        ("__resv", "3I", 28),
    ),
)

# REGISTER_QUERY
IO_URING_QUERY_OPCODES = 0
IO_URING_QUERY_ZCRX = 1
IO_URING_QUERY_SCQ = 2
IO_URING_QUERY_ZCRX_EVENT = 3

io_uring_query_opcode = Layout(
    "io_uring_query_opcode", 48,
    (
        ("nr_request_opcodes", "I", 0),
        ("nr_register_opcodes", "I", 4),
        ("feature_flags", "Q", 8),
        ("ring_setup_flags", "Q", 16),
        ("enter_flags", "Q", 24),
        ("sqe_flags", "Q", 32),
        ("nr_query_opcodes", "I", 40),
        ("__pad", "I", 44),
    ),
)

io_uring_query_zcrx = Layout(
    "io_uring_query_zcrx", 40,
    (
        ("register_flags", "Q", 0),
        ("area_flags", "Q", 8),
        ("nr_ctrl_opcodes", "I", 16),
        ("features", "I", 20),
        ("rq_hdr_size", "I", 24),
        ("rq_hdr_alignment", "I", 28),
        ("__resv2", "Q", 32),
    ),
)

io_uring_query_zcrx_event = Layout(
    "io_uring_query_zcrx_event", 48,
    (
        ("event_flags", "I", 0),
        ("stats_size", "I", 4),
        ("stats_off_alignment", "I", 8),
        ("__resv1", "I", 12),
        ("__resv2", "4Q", 16),
    ),
)

io_uring_query_scq = Layout(
    "io_uring_query_scq", 16,
    (
        ("hdr_size", "Q", 0),
        ("hdr_alignment", "Q", 8),
    ),
)

# ------------------------------------------------------------------------------------------------------
# linux/io_uring/bpf_filter.h

io_uring_bpf_ctx = Layout(
    "io_uring_bpf_ctx", 40,
    (
        ("user_data", "Q", 0),
        ("opcode", "B", 8),
        ("sqe_flags", "B", 9),
        ("pdu_size", "B", 10),
        ("pad", "5B", 11),
        ("socket", "12s", 16),
        ("socket.family", "I", 16),
        ("socket.type", "I", 20),
        ("socket.protocol", "I", 24),
        ("open", "24s", 16),
        ("open.flags", "Q", 16),
        ("open.mode", "Q", 24),
        ("open.resolve", "Q", 32),
        ("connect", "24s", 16),
        ("connect.family", "I", 16),
        ("connect.port", "H", 20),
        ("connect.pad", "2B", 22),
        ("connect.v4_addr", "I", 24),
        ("connect.v6_addr", "16B", 24),
    ),
)

# BPF filters
IO_URING_BPF_FILTER_DENY_REST = 1
IO_URING_BPF_FILTER_SZ_STRICT = 2

io_uring_bpf_filter = Layout(
    "io_uring_bpf_filter", 64,
    (
        ("opcode", "I", 0),
        ("flags", "I", 4),
        ("filter_len", "I", 8),
        ("pdu_size", "B", 12),
        ("resv", "3B", 13),
        ("filter_ptr", "Q", 16),
        ("resv2", "5Q", 24),
    ),
)

# BPF filters
IO_URING_BPF_CMD_FILTER = 1

io_uring_bpf = Layout(
    "io_uring_bpf", 72,
    (
        ("cmd_type", "H", 0),
        ("cmd_flags", "H", 2),
        ("resv", "I", 4),
        ("filter", io_uring_bpf_filter, 8),
    ),
)

# ------------------------------------------------------------------------------------------------------
# What the header takes from others

__kernel_sock_timeval = Layout(
    "__kernel_sock_timeval", 16,
    (
        ("tv_sec", "q", 0),
        ("tv_usec", "q", 8),
    ),
)

futex_waitv = Layout(
    "futex_waitv", 24,
    (
        ("val", "Q", 0),
        ("uaddr", "Q", 8),
        ("flags", "I", 16),
        ("__reserved", "I", 20),
    ),
)

open_how = Layout(
    "open_how", 24,
    (
        ("flags", "Q", 0),
        ("mode", "Q", 8),
        ("resolve", "Q", 16),
    ),
)

# Companions: linux/futex.h
FUTEX2_SIZE_U8 = 0
FUTEX2_SIZE_U16 = 1
FUTEX2_SIZE_U32 = 2
FUTEX2_SIZE_MASK = 3
FUTEX2_SIZE_U64 = 3
FUTEX2_NUMA = 4
FUTEX2_MPOL = 8
FUTEX2_PRIVATE = 128
FUTEX_PRIVATE_FLAG = 128
FUTEX_WAITV_MAX = 128
FUTEX_BITSET_MATCH_ANY = 0xFFFFFFFF

# Companions: linux/membarrier.h
MEMBARRIER_CMD_QUERY = 0
MEMBARRIER_CMD_FLAG_CPU = 1
MEMBARRIER_CMD_GLOBAL = 1
MEMBARRIER_CMD_SHARED = 1
MEMBARRIER_CMD_GLOBAL_EXPEDITED = 2
MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED = 4
MEMBARRIER_CMD_PRIVATE_EXPEDITED = 8
MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED = 16
MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE = 32
MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE = 64
MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ = 128
MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ = 256
MEMBARRIER_CMD_GET_REGISTRATIONS = 512

# REGISTER_QUERY
__IO_URING_QUERY_MAX = 4

# Companions: linux/openat2.h
RESOLVE_NO_XDEV = 1
RESOLVE_NO_MAGICLINKS = 2
RESOLVE_NO_SYMLINKS = 4
RESOLVE_BENEATH = 8
RESOLVE_IN_ROOT = 16
RESOLVE_CACHED = 32

# Companions: linux/fs.h, flags of preadv2(2)
RWF_HIPRI = 1
RWF_DSYNC = 2
RWF_SYNC = 4
RWF_NOWAIT = 8
RWF_APPEND = 16
RWF_NOAPPEND = 32
RWF_ATOMIC = 64
RWF_DONTCACHE = 128
RWF_NOSIGNAL = 256

# Zero-copy receive
__ZCRX_EVENT_TYPE_LAST = 2
__ZCRX_CTRL_LAST = 3

# ------------------------------------------------------------------------------------------------------
# History: the first release whose header has the name; what is older than io_uring counts as 5.1. Stable
# kernels may carry more (5.10.y has the io_uring of 5.15), so this is for people to read: programs try.
_HISTORY = {
    "5.1": """
        io_uring_sqe IOSQE_FIXED_FILE IORING_SETUP_IOPOLL IORING_SETUP_SQPOLL IORING_SETUP_SQ_AFF
        IORING_OP_NOP IORING_OP_READV IORING_OP_WRITEV IORING_OP_FSYNC IORING_OP_READ_FIXED
        IORING_OP_WRITE_FIXED IORING_OP_POLL_ADD IORING_OP_POLL_REMOVE IORING_FSYNC_DATASYNC io_uring_cqe
        IORING_OFF_SQ_RING IORING_OFF_CQ_RING IORING_OFF_SQES io_sqring_offsets IORING_SQ_NEED_WAKEUP
        io_cqring_offsets IORING_ENTER_GETEVENTS IORING_ENTER_SQ_WAKEUP io_uring_params
        IORING_REGISTER_BUFFERS IORING_UNREGISTER_BUFFERS IORING_REGISTER_FILES IORING_UNREGISTER_FILES
        FUTEX_PRIVATE_FLAG FUTEX_BITSET_MATCH_ANY MEMBARRIER_CMD_QUERY MEMBARRIER_CMD_GLOBAL
        MEMBARRIER_CMD_SHARED MEMBARRIER_CMD_GLOBAL_EXPEDITED MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED
        MEMBARRIER_CMD_PRIVATE_EXPEDITED MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED
        MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE
        RWF_HIPRI RWF_DSYNC RWF_SYNC RWF_NOWAIT RWF_APPEND
    """,
    "5.2": """
        io_uring_sqe.sync_range_flags IOSQE_IO_DRAIN IORING_OP_SYNC_FILE_RANGE IORING_REGISTER_EVENTFD
        IORING_UNREGISTER_EVENTFD
    """,
    "5.3": """
        io_uring_sqe.msg_flags IOSQE_IO_LINK IORING_OP_SENDMSG IORING_OP_RECVMSG
    """,
    "5.4": """
        io_uring_sqe.timeout_flags IORING_OP_TIMEOUT io_uring_params.features IORING_FEAT_SINGLE_MMAP
    """,
    "5.5": """
        io_uring_sqe.accept_flags io_uring_sqe.addr2 io_uring_sqe.cancel_flags IOSQE_IO_HARDLINK
        IORING_SETUP_CQSIZE IORING_OP_TIMEOUT_REMOVE IORING_OP_ACCEPT IORING_OP_ASYNC_CANCEL
        IORING_OP_LINK_TIMEOUT IORING_OP_CONNECT IORING_OP_LAST IORING_TIMEOUT_ABS IORING_FEAT_NODROP
        IORING_FEAT_SUBMIT_STABLE IORING_REGISTER_FILES_UPDATE io_uring_files_update
    """,
    "5.6": """
        io_uring_sqe.fadvise_advice io_uring_sqe.open_flags io_uring_sqe.personality
        io_uring_sqe.statx_flags IOSQE_FIXED_FILE_BIT IOSQE_IO_DRAIN_BIT IOSQE_IO_LINK_BIT
        IOSQE_IO_HARDLINK_BIT IOSQE_ASYNC_BIT IOSQE_ASYNC IORING_SETUP_CLAMP IORING_SETUP_ATTACH_WQ
        IORING_OP_FALLOCATE IORING_OP_OPENAT IORING_OP_CLOSE IORING_OP_FILES_UPDATE IORING_OP_STATX
        IORING_OP_READ IORING_OP_WRITE IORING_OP_FADVISE IORING_OP_MADVISE IORING_OP_SEND IORING_OP_RECV
        IORING_OP_OPENAT2 IORING_OP_EPOLL_CTL io_uring_params.wq_fd IORING_FEAT_RW_CUR_POS
        IORING_FEAT_CUR_PERSONALITY IORING_REGISTER_EVENTFD_ASYNC IORING_REGISTER_PROBE
        IORING_REGISTER_PERSONALITY IORING_UNREGISTER_PERSONALITY IO_URING_OP_SUPPORTED io_uring_probe_op
        io_uring_probe RESOLVE_NO_XDEV RESOLVE_NO_MAGICLINKS RESOLVE_NO_SYMLINKS RESOLVE_BENEATH
        RESOLVE_IN_ROOT
    """,
    "5.7": """
        io_uring_sqe.buf_group io_uring_sqe.splice_fd_in io_uring_sqe.splice_flags
        io_uring_sqe.splice_off_in IOSQE_BUFFER_SELECT_BIT IOSQE_BUFFER_SELECT IORING_OP_SPLICE
        IORING_OP_PROVIDE_BUFFERS IORING_OP_REMOVE_BUFFERS SPLICE_F_FD_IN_FIXED IORING_CQE_F_BUFFER
        IORING_CQE_BUFFER_SHIFT IORING_FEAT_FAST_POLL
    """,
    "5.8": """
        IORING_OP_TEE IORING_SQ_CQ_OVERFLOW io_cqring_offsets.flags io_cqring_offsets.resv1
        IORING_CQ_EVENTFD_DISABLED
    """,
    "5.9": """
        io_uring_sqe.poll32_events IORING_FEAT_POLL_32BITS
    """,
    "5.10": """
        IORING_SETUP_R_DISABLED IORING_ENTER_SQ_WAIT IORING_REGISTER_RESTRICTIONS
        IORING_REGISTER_ENABLE_RINGS IORING_REGISTER_LAST io_uring_restriction
        IORING_RESTRICTION_REGISTER_OP IORING_RESTRICTION_SQE_OP IORING_RESTRICTION_SQE_FLAGS_ALLOWED
        IORING_RESTRICTION_SQE_FLAGS_REQUIRED IORING_RESTRICTION_LAST MEMBARRIER_CMD_FLAG_CPU
        MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ
    """,
    "5.11": """
        io_uring_sqe.rename_flags io_uring_sqe.unlink_flags IORING_OP_SHUTDOWN IORING_OP_RENAMEAT
        IORING_OP_UNLINKAT IORING_TIMEOUT_UPDATE IORING_ENTER_EXT_ARG IORING_FEAT_SQPOLL_NONFIXED
        IORING_FEAT_EXT_ARG io_uring_getevents_arg
    """,
    "5.12": """
        IORING_FEAT_NATIVE_WORKERS io_uring_rsrc_update IORING_REGISTER_FILES_SKIP RESOLVE_CACHED
    """,
    "5.13": """
        IORING_POLL_ADD_MULTI IORING_POLL_UPDATE_EVENTS IORING_POLL_UPDATE_USER_DATA IORING_CQE_F_MORE
        IORING_FEAT_RSRC_TAGS IORING_REGISTER_FILES2 IORING_REGISTER_FILES_UPDATE2
        IORING_REGISTER_BUFFERS2 IORING_REGISTER_BUFFERS_UPDATE io_uring_rsrc_register
        io_uring_rsrc_update2
    """,
    "5.14": """
        IORING_REGISTER_IOWQ_AFF IORING_UNREGISTER_IOWQ_AFF
    """,
    "5.15": """
        io_uring_sqe.file_index io_uring_sqe.hardlink_flags IORING_OP_MKDIRAT IORING_OP_SYMLINKAT
        IORING_OP_LINKAT IORING_TIMEOUT_BOOTTIME IORING_TIMEOUT_REALTIME IORING_LINK_TIMEOUT_UPDATE
        IORING_TIMEOUT_CLOCK_MASK IORING_TIMEOUT_UPDATE_MASK IORING_REGISTER_IOWQ_MAX_WORKERS IO_WQ_BOUND
        IO_WQ_UNBOUND
    """,
    "5.16": """
        IORING_TIMEOUT_ETIME_SUCCESS FUTEX_WAITV_MAX
    """,
    "5.17": """
        IOSQE_CQE_SKIP_SUCCESS_BIT IOSQE_CQE_SKIP_SUCCESS IORING_FEAT_CQE_SKIP
    """,
    "5.18": """
        IORING_SETUP_SUBMIT_ALL IORING_OP_MSG_RING IORING_ENTER_REGISTERED_RING IORING_FEAT_LINKED_FILE
        IORING_REGISTER_RING_FDS IORING_UNREGISTER_RING_FDS
    """,
    "5.19": """
        io_uring_sqe.__pad1 io_uring_sqe.addr3 io_uring_sqe.cmd io_uring_sqe.cmd_op
        io_uring_sqe.xattr_flags IORING_FILE_INDEX_ALLOC IORING_SETUP_COOP_TASKRUN
        IORING_SETUP_TASKRUN_FLAG IORING_SETUP_SQE128 IORING_SETUP_CQE32 IORING_OP_FSETXATTR
        IORING_OP_SETXATTR IORING_OP_FGETXATTR IORING_OP_GETXATTR IORING_OP_SOCKET IORING_OP_URING_CMD
        IORING_ASYNC_CANCEL_ALL IORING_ASYNC_CANCEL_FD IORING_ASYNC_CANCEL_ANY IORING_RECVSEND_POLL_FIRST
        IORING_ACCEPT_MULTISHOT io_uring_cqe.big_cqe IORING_CQE_F_SOCK_NONEMPTY IORING_SQ_TASKRUN
        IORING_REGISTER_PBUF_RING IORING_UNREGISTER_PBUF_RING IORING_RSRC_REGISTER_SPARSE
        io_uring_rsrc_register.flags io_uring_buf io_uring_buf_ring io_uring_buf_reg
    """,
    "6.0": """
        io_uring_sqe.__pad3 io_uring_sqe.addr_len io_uring_sqe.msg_ring_flags IORING_SETUP_SINGLE_ISSUER
        IORING_OP_SEND_ZC IORING_POLL_ADD_LEVEL IORING_ASYNC_CANCEL_FD_FIXED IORING_RECV_MULTISHOT
        IORING_RECVSEND_FIXED_BUF IORING_MSG_DATA IORING_MSG_SEND_FD IORING_MSG_RING_CQE_SKIP
        IORING_CQE_F_NOTIF IORING_REGISTER_SYNC_CANCEL IORING_REGISTER_FILE_ALLOC_RANGE
        io_uring_sync_cancel_reg io_uring_file_index_range io_uring_recvmsg_out
    """,
    "6.1": """
        io_uring_sqe.uring_cmd_flags IORING_SETUP_DEFER_TASKRUN IORING_OP_SENDMSG_ZC
        IORING_URING_CMD_FIXED
    """,
    "6.2": """
        IORING_SEND_ZC_REPORT_USAGE IORING_NOTIF_USAGE_ZC_COPIED
    """,
    "6.3": """
        IORING_MSG_RING_FLAGS_PASS IORING_FEAT_REG_REG_RING IORING_REGISTER_USE_REGISTERED_RING
        MEMBARRIER_CMD_GET_REGISTRATIONS
    """,
    "6.4": """
        IORING_TIMEOUT_MULTISHOT IORING_OFF_PBUF_RING IORING_OFF_PBUF_SHIFT IORING_OFF_MMAP_MASK
        IOU_PBUF_RING_MMAP
    """,
    "6.5": """
        IORING_SETUP_NO_MMAP IORING_SETUP_REGISTERED_FD_ONLY io_sqring_offsets.user_addr
        io_cqring_offsets.user_addr
    """,
    "6.6": """
        IORING_SETUP_NO_SQARRAY IORING_ASYNC_CANCEL_USERDATA IORING_ASYNC_CANCEL_OP
        io_uring_sync_cancel_reg.opcode io_uring_sync_cancel_reg.pad2 SOCKET_URING_OP_SIOCINQ
        SOCKET_URING_OP_SIOCOUTQ
    """,
    "6.7": """
        io_uring_sqe.futex_flags io_uring_sqe.level io_uring_sqe.optlen io_uring_sqe.optname
        io_uring_sqe.optval io_uring_sqe.waitid_flags IORING_OP_READ_MULTISHOT IORING_OP_WAITID
        IORING_OP_FUTEX_WAIT IORING_OP_FUTEX_WAKE IORING_OP_FUTEX_WAITV IORING_URING_CMD_MASK
        SOCKET_URING_OP_GETSOCKOPT SOCKET_URING_OP_SETSOCKOPT FUTEX2_SIZE_U8 FUTEX2_SIZE_U16
        FUTEX2_SIZE_U32 FUTEX2_SIZE_MASK FUTEX2_SIZE_U64 FUTEX2_NUMA FUTEX2_PRIVATE
    """,
    "6.8": """
        io_uring_sqe.install_fd_flags IORING_OP_FIXED_FD_INSTALL IORING_FIXED_FD_NO_CLOEXEC
        IORING_REGISTER_PBUF_STATUS io_uring_buf_status
    """,
    "6.9": """
        IORING_OP_FTRUNCATE IORING_REGISTER_NAPI IORING_UNREGISTER_NAPI io_uring_napi RWF_NOAPPEND
    """,
    "6.10": """
        io_uring_sqe.nop_flags IORING_RECVSEND_BUNDLE IORING_ACCEPT_DONTWAIT IORING_ACCEPT_POLL_FIRST
        IORING_NOP_INJECT_RESULT IORING_FEAT_RECVSEND_BUNDLE
    """,
    "6.11": """
        IORING_OP_BIND IORING_OP_LISTEN RWF_ATOMIC
    """,
    "6.12": """
        IORING_CQE_F_BUF_MORE IORING_ENTER_ABS_TIMER IORING_FEAT_MIN_TIMEOUT IORING_REGISTER_CLOCK
        IORING_REGISTER_CLONE_BUFFERS io_uring_clock_register IORING_REGISTER_SRC_REGISTERED
        io_uring_clone_buffers IOU_PBUF_RING_INC io_uring_getevents_arg.min_wait_usec
    """,
    "6.13": """
        IORING_SETUP_HYBRID_IOPOLL IORING_NOP_FILE IORING_NOP_FIXED_FILE IORING_NOP_FIXED_BUFFER
        IORING_ENTER_EXT_ARG_REG IORING_REGISTER_SEND_MSG_RING IORING_REGISTER_RESIZE_RINGS
        IORING_REGISTER_MEM_REGION IORING_MEM_REGION_TYPE_USER io_uring_region_desc
        IORING_MEM_REGION_REG_WAIT_ARG io_uring_mem_region_reg IORING_REGISTER_DST_REPLACE
        io_uring_clone_buffers.dst_off io_uring_clone_buffers.nr io_uring_clone_buffers.src_off
        IO_URING_NAPI_REGISTER_OP IO_URING_NAPI_STATIC_ADD_ID IO_URING_NAPI_STATIC_DEL_ID
        IO_URING_NAPI_TRACKING_DYNAMIC IO_URING_NAPI_TRACKING_STATIC IO_URING_NAPI_TRACKING_INACTIVE
        io_uring_napi.op_param io_uring_napi.opcode IORING_REG_WAIT_TS io_uring_reg_wait
    """,
    "6.14": """
        io_uring_sqe.attr_ptr io_uring_sqe.attr_type_mask IORING_RW_ATTR_FLAG_PI io_uring_attr_pi
        IORING_FEAT_RW_ATTR RWF_DONTCACHE
    """,
    "6.15": """
        io_uring_sqe.zcrx_ifq_idx IORING_OP_RECV_ZC IORING_OP_EPOLL_WAIT IORING_OP_READV_FIXED
        IORING_OP_WRITEV_FIXED IORING_ENTER_NO_IOWAIT IORING_FEAT_NO_IOWAIT IORING_REGISTER_ZCRX_IFQ
        io_uring_zcrx_rqe io_uring_zcrx_cqe IORING_ZCRX_AREA_SHIFT IORING_ZCRX_AREA_MASK
        io_uring_zcrx_offsets io_uring_zcrx_area_reg io_uring_zcrx_ifq_reg
    """,
    "6.16": """
        io_uring_sqe.__pad4 io_uring_sqe.pipe_flags io_uring_sqe.write_stream IORING_OP_PIPE
        IORING_ZCRX_AREA_DMABUF io_uring_zcrx_area_reg.dmabuf_fd FUTEX2_MPOL
    """,
    "6.17": """
        IORING_SEND_VECTORIZED IORING_NOP_TW SOCKET_URING_OP_TX_TIMESTAMP IORING_TIMESTAMP_HW_SHIFT
        IORING_TIMESTAMP_TYPE_SHIFT IORING_CQE_F_TSTAMP_HW io_timespec
    """,
    "6.18": """
        IORING_SETUP_CQE_MIXED IORING_URING_CMD_MULTISHOT IORING_NOP_CQE32 IORING_CQE_F_SKIP
        IORING_CQE_F_32 IORING_REGISTER_QUERY io_uring_query_hdr IO_URING_QUERY_OPCODES
        io_uring_query_opcode __IO_URING_QUERY_MAX RWF_NOSIGNAL
    """,
    "6.19": """
        IORING_SETUP_SQE_MIXED IORING_OP_NOP128 IORING_OP_URING_CMD128 IORING_REGISTER_ZCRX_CTRL
        SOCKET_URING_OP_GETSOCKNAME ZCRX_REG_IMPORT ZCRX_CTRL_FLUSH_RQ ZCRX_CTRL_EXPORT zcrx_ctrl_flush_rq
        zcrx_ctrl_export zcrx_ctrl IO_URING_QUERY_ZCRX IO_URING_QUERY_SCQ io_uring_query_zcrx
        io_uring_query_scq __ZCRX_CTRL_LAST
    """,
    "7.0": """
        IORING_SETUP_SQ_REWIND IORING_REGISTER_BPF_FILTER io_uring_task_restriction
        ZCRX_FEATURE_RX_PAGE_SIZE io_uring_zcrx_ifq_reg.rx_buf_len io_uring_query_zcrx.features
        IO_URING_BPF_FILTER_DENY_REST IO_URING_BPF_FILTER_SZ_STRICT IO_URING_BPF_CMD_FILTER
    """,
    "7.1": """
        IORING_TIMEOUT_IMMEDIATE_ARG io_uring_buf_reg.min_left ZCRX_REG_NODEV
    """,
    "7.2": """
        ZCRX_FEATURE_EVENT ZCRX_EVENT_ALLOC_FAIL ZCRX_EVENT_COPY ZCRX_EVENT_DESC_FLAG_STATS zcrx_stats
        zcrx_event_desc io_uring_zcrx_ifq_reg.event_desc ZCRX_CTRL_ARM_EVENT zcrx_ctrl_arm_event
        zcrx_ctrl.zc_arm_event IO_URING_QUERY_ZCRX_EVENT io_uring_query_zcrx_event __ZCRX_EVENT_TYPE_LAST
    """,
}

#: Name of a constant, struct or field ("io_uring_sqe.addr3") -> first kernel release that has it.
SINCE = {name: release for release, names in _HISTORY.items() for name in names.split()}

#: Names whose release is not certain.
SINCE_UNCERTAIN = frozenset(
    (
        "FUTEX2_MPOL",
        "IO_URING_BPF_CMD_FILTER",
        "IO_URING_BPF_FILTER_DENY_REST",
        "IO_URING_BPF_FILTER_SZ_STRICT",
        "RWF_DONTCACHE",
        "RWF_NOSIGNAL",
    )
)


# ------------------------------------------------------------------------------------------------------
# Names, for display


def name_of(prefix: str, value: int) -> str:
    """Find the name of a value.

    Args: prefix chooses the family, such as "IORING_OP_".
    Returns: the first such name in header order, or prefix and the number in angle brackets.
    """
    for name, number in globals().items():
        if number == value and name.startswith(prefix) and not name.endswith("_LAST"):
            return name
    return f"{prefix}<{value}>"


def names_of_flags(prefix: str, mask: int) -> list[str]:
    """Find the names of the bits of a mask.

    Args: prefix chooses the family, such as "IORING_SETUP_".
    Returns: the names in the order of the bits; bits without a name as one hexadecimal number at the end.
    """
    names: dict[int, str] = {}
    for name, bit in globals().items():
        if not name.startswith(prefix) or not isinstance(bit, int):
            continue
        if bit > 0 and not bit & (bit - 1) and mask & bit:
            names.setdefault(bit, name)
    rest = mask & ~sum(names)
    return [names[bit] for bit in sorted(names)] + ([hex(rest)] if rest else [])
