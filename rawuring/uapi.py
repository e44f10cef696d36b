# SPDX-License-Identifier: MIT
# pyright: basic
"""The kernel's io_uring header in Python: constants, struct layouts, and since when they exist.

What it is: ``include/uapi/linux/io_uring.h`` of Linux 7.2 and the headers it leans on as data, in their order
and under their names, so that one grep works across C, QEMU and Python. Constants are plain ints: to combine
flags of the enum module costs ten to twenty times as much.
Must not know: how any of it is used.
Invariant: every number of the interface stands here and nowhere else. Sizes and offsets are the same on every
architecture (a C compiler checked sixteen of them). What differs between architectures, such as O_DIRECT or
SOCK_NONBLOCK, is not here: take it from os and socket.
Read next: gates.py, a table, or at once syscalls.py.

Some names begin with two underscores. Inside a class body Python rewrites ``uapi.__kernel_timespec``, so give
it a name of your own outside.
"""

from __future__ import annotations

import struct
from operator import index

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any


class Layout:
    """Lay out a struct as the kernel does: native byte order, and every gap is a member.

    A member's format is one of: a letter of the struct module; a number and a letter for an array ("3I"); a
    Layout; (Layout, number) for an array of structs. The number 0 makes a flexible array, which lies behind
    the struct. The members of a union overlap.
    """

    __slots__ = ("fields", "name", "size")

    def __init__(self, name: str, size: int, members: tuple[tuple[str, Any, int], ...]) -> None:
        """Take the table: name, format and offset of each member in header order."""
        self.name = name
        self.size = size
        self.fields = {member[0]: Field(*member) for member in members}

    def pack(self, /, **values: Any) -> bytes:
        """Build the struct; members that are not given are zero.

        Args: ints by member name; sequences for arrays, dicts for structs, or for both the exact bytes.
        Returns: size bytes.
        Raises: TypeError for an unknown member or a value of the wrong kind; ValueError for a value that does
            not fit, and for two members that overlap.
        """
        return _encode(self, self.name, values)

    def pack_into(self, buffer: Any, offset: int, /, **values: Any) -> None:
        """Write the whole struct into a buffer; members that are not given become zero.

        Nothing is written when a value is refused. Not for memory the kernel is reading at that moment.

        Args: buffer is writable; the struct begins at offset; values as for pack().
        Raises: as pack(); ValueError if the buffer is too small.
        """
        image = _encode(self, self.name, values)
        _check_room(self, buffer, offset)
        struct.pack_into(f"{self.size}s", buffer, offset, image)

    def unpack(self, buffer: Any, offset: int = 0) -> dict[str, Any]:
        """Read all members, those of a union under each of their names.

        Args: the struct begins at offset of buffer.
        Returns: by member name: ints, tuples for arrays, dicts for structs.
        Raises: ValueError if the buffer is too small.
        """
        _check_room(self, buffer, offset)
        return _decode(self, buffer, offset)

    def __repr__(self) -> str:
        """Show name and size."""
        return f"<struct {self.name}, {self.size} bytes>"


class Field:
    """Describe one member of a struct."""

    __slots__ = ("format", "name", "offset", "size")

    def __init__(self, name: str, format: str | Layout | tuple[Layout, int], offset: int) -> None:
        """Take a row of the table and work out the size."""
        self.name = name
        self.format = format
        self.offset = offset
        if isinstance(format, str):
            self.size = _SIZES[format[-1]] * int(format[:-1] or 1)
        elif isinstance(format, Layout):
            self.size = format.size
        else:
            self.size = format[0].size * format[1]

    def __repr__(self) -> str:
        """Show the row."""
        return f"<{self.name} {self.format!r} at {self.offset}, {self.size} bytes>"


_SIZES = {"B": 1, "H": 2, "I": 4, "Q": 8, "i": 4, "q": 8}

# fmt: off

# ------------------------------------------------------------------------------------------------------
# linux/time_types.h

__kernel_timespec = Layout("__kernel_timespec", 16, (("tv_sec", "q", 0), ("tv_nsec", "q", 8)))

__kernel_sock_timeval = Layout("__kernel_sock_timeval", 16, (("tv_sec", "q", 0), ("tv_usec", "q", 8)))

# ------------------------------------------------------------------------------------------------------
# linux/io_uring.h

io_uring_sqe = Layout("io_uring_sqe", 64, (
    ("opcode", "B", 0), ("flags", "B", 1), ("ioprio", "H", 2), ("fd", "i", 4),
    # union at 8; from here on most operations give the words names of their own
    ("off", "Q", 8), ("addr2", "Q", 8), ("cmd_op", "I", 8), ("__pad1", "I", 12),
    # union at 16
    ("addr", "Q", 16), ("splice_off_in", "Q", 16), ("level", "I", 16), ("optname", "I", 20),
    ("len", "I", 24),
    # union at 28
    ("rw_flags", "I", 28), ("fsync_flags", "I", 28), ("poll_events", "H", 28),
    ("poll32_events", "I", 28), ("sync_range_flags", "I", 28), ("msg_flags", "I", 28),
    ("timeout_flags", "I", 28), ("accept_flags", "I", 28), ("cancel_flags", "I", 28),
    ("open_flags", "I", 28), ("statx_flags", "I", 28), ("fadvise_advice", "I", 28),
    ("splice_flags", "I", 28), ("rename_flags", "I", 28), ("unlink_flags", "I", 28),
    ("hardlink_flags", "I", 28), ("xattr_flags", "I", 28), ("msg_ring_flags", "I", 28),
    ("uring_cmd_flags", "I", 28), ("waitid_flags", "I", 28), ("futex_flags", "I", 28),
    ("install_fd_flags", "I", 28), ("nop_flags", "I", 28), ("pipe_flags", "I", 28),
    ("user_data", "Q", 32),
    # union at 40
    ("buf_index", "H", 40), ("buf_group", "H", 40),
    ("personality", "H", 42),
    # union at 44
    ("splice_fd_in", "i", 44), ("file_index", "I", 44), ("zcrx_ifq_idx", "I", 44),
    ("optlen", "I", 44), ("addr_len", "H", 44), ("__pad3", "1H", 46), ("write_stream", "B", 44),
    ("__pad4", "3B", 45),
    # union at 48; cmd runs on to the end of a 128-byte SQE
    ("addr3", "Q", 48), ("__pad2", "1Q", 56), ("attr_ptr", "Q", 48), ("attr_type_mask", "Q", 56),
    ("optval", "Q", 48), ("cmd", "0B", 48),
))

# sqe.attr_type_mask
IORING_RW_ATTR_FLAG_PI = 1 << 0  # attr_ptr is an io_uring_attr_pi

io_uring_attr_pi = Layout("io_uring_attr_pi", 32, (  # protection information: sqe.attr_ptr
    ("flags", "H", 0), ("app_tag", "H", 2), ("len", "I", 4), ("addr", "Q", 8), ("seed", "Q", 16),
    ("rsvd", "Q", 24),
))

# sqe.file_index
IORING_FILE_INDEX_ALLOC = 0xFFFFFFFF  # the kernel picks a free slot and reports it in cqe.res

# Bit numbers of sqe.flags
IOSQE_FIXED_FILE_BIT = 0
IOSQE_IO_DRAIN_BIT = 1
IOSQE_IO_LINK_BIT = 2
IOSQE_IO_HARDLINK_BIT = 3
IOSQE_ASYNC_BIT = 4
IOSQE_BUFFER_SELECT_BIT = 5
IOSQE_CQE_SKIP_SUCCESS_BIT = 6

# sqe.flags
IOSQE_FIXED_FILE = 1 << IOSQE_FIXED_FILE_BIT  # fd is an index into the registered files
IOSQE_IO_DRAIN = 1 << IOSQE_IO_DRAIN_BIT  # starts after all before it, and before all after it
IOSQE_IO_LINK = 1 << IOSQE_IO_LINK_BIT  # the next SQE waits for this one and falls with it
IOSQE_IO_HARDLINK = 1 << IOSQE_IO_HARDLINK_BIT  # the next SQE waits for this one whatever its result
IOSQE_ASYNC = 1 << IOSQE_ASYNC_BIT  # straight to a worker thread, no attempt inline
IOSQE_BUFFER_SELECT = 1 << IOSQE_BUFFER_SELECT_BIT  # the kernel takes a buffer of group sqe.buf_group
IOSQE_CQE_SKIP_SUCCESS = 1 << IOSQE_CQE_SKIP_SUCCESS_BIT  # no CQE unless it fails

# io_uring_setup() flags: io_uring_params.flags
IORING_SETUP_IOPOLL = 1 << 0  # completions are found by polling the device
IORING_SETUP_SQPOLL = 1 << 1  # a kernel thread submits
IORING_SETUP_SQ_AFF = 1 << 2  # sq_thread_cpu counts
IORING_SETUP_CQSIZE = 1 << 3  # cq_entries counts
IORING_SETUP_CLAMP = 1 << 4  # sizes above the limit are cut, not refused
IORING_SETUP_ATTACH_WQ = 1 << 5  # share the workers of ring wq_fd
IORING_SETUP_R_DISABLED = 1 << 6  # nothing runs before IORING_REGISTER_ENABLE_RINGS
IORING_SETUP_SUBMIT_ALL = 1 << 7  # a bad SQE does not end the batch
IORING_SETUP_COOP_TASKRUN = 1 << 8  # no interrupt: completions wait until the task enters the kernel
IORING_SETUP_TASKRUN_FLAG = 1 << 9  # IORING_SQ_TASKRUN tells of them
IORING_SETUP_SQE128 = 1 << 10  # every SQE has 128 bytes
IORING_SETUP_CQE32 = 1 << 11  # every CQE has 32 bytes
IORING_SETUP_SINGLE_ISSUER = 1 << 12  # one task submits, others get EEXIST
IORING_SETUP_DEFER_TASKRUN = 1 << 13  # completions wait for IORING_ENTER_GETEVENTS
IORING_SETUP_NO_MMAP = 1 << 14  # the rings lie in memory of the application
IORING_SETUP_REGISTERED_FD_ONLY = 1 << 15  # an index instead of a file descriptor
IORING_SETUP_NO_SQARRAY = 1 << 16  # SQEs are taken in ring order, without the index array
IORING_SETUP_HYBRID_IOPOLL = 1 << 17  # sleeps before it polls
IORING_SETUP_CQE_MIXED = 1 << 18  # some CQEs have 32 bytes: IORING_CQE_F_32
IORING_SETUP_SQE_MIXED = 1 << 19  # some SQEs have 128 bytes: NOP128, URING_CMD128
IORING_SETUP_SQ_REWIND = 1 << 20  # every submit starts at index 0; head and tail stay 0

# sqe.opcode
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
IORING_OP_LAST = 65  # moves with every release

# sqe.uring_cmd_flags
IORING_URING_CMD_FIXED = 1 << 0  # sqe.buf_index names a registered buffer
IORING_URING_CMD_MULTISHOT = 1 << 1
IORING_URING_CMD_MASK = IORING_URING_CMD_FIXED | IORING_URING_CMD_MULTISHOT  # moves with the releases

# sqe.fsync_flags
IORING_FSYNC_DATASYNC = 1 << 0

# sqe.timeout_flags
IORING_TIMEOUT_ABS = 1 << 0  # a point in time, not a duration
IORING_TIMEOUT_UPDATE = 1 << 1  # TIMEOUT_REMOVE changes instead of removing
IORING_TIMEOUT_BOOTTIME = 1 << 2
IORING_TIMEOUT_REALTIME = 1 << 3
IORING_LINK_TIMEOUT_UPDATE = 1 << 4  # the same for a LINK_TIMEOUT
IORING_TIMEOUT_ETIME_SUCCESS = 1 << 5  # -ETIME does not break the link
IORING_TIMEOUT_MULTISHOT = 1 << 6
IORING_TIMEOUT_IMMEDIATE_ARG = 1 << 7  # sqe.addr holds nanoseconds, not the address of a timespec
IORING_TIMEOUT_CLOCK_MASK = IORING_TIMEOUT_BOOTTIME | IORING_TIMEOUT_REALTIME
IORING_TIMEOUT_UPDATE_MASK = IORING_TIMEOUT_UPDATE | IORING_LINK_TIMEOUT_UPDATE

# sqe.splice_flags, beside splice(2)'s own
SPLICE_F_FD_IN_FIXED = 1 << 31  # splice_fd_in is an index into the registered files

# sqe.len of POLL_ADD and POLL_REMOVE
IORING_POLL_ADD_MULTI = 1 << 0  # stays armed; CQEs carry IORING_CQE_F_MORE
IORING_POLL_UPDATE_EVENTS = 1 << 1
IORING_POLL_UPDATE_USER_DATA = 1 << 2
IORING_POLL_ADD_LEVEL = 1 << 3  # in the header only: kernels answer EINVAL

# sqe.cancel_flags, io_uring_sync_cancel_reg.flags
IORING_ASYNC_CANCEL_ALL = 1 << 0  # all that match, not the first
IORING_ASYNC_CANCEL_FD = 1 << 1  # match by fd
IORING_ASYNC_CANCEL_ANY = 1 << 2  # match everything
IORING_ASYNC_CANCEL_FD_FIXED = 1 << 3  # fd is an index into the registered files
IORING_ASYNC_CANCEL_USERDATA = 1 << 4  # match by user_data, as without any key
IORING_ASYNC_CANCEL_OP = 1 << 5  # match by opcode

# sqe.ioprio of the send and receive operations
IORING_RECVSEND_POLL_FIRST = 1 << 0  # wait for readiness before the first attempt
IORING_RECV_MULTISHOT = 1 << 1
IORING_RECVSEND_FIXED_BUF = 1 << 2  # sqe.buf_index names a registered buffer
IORING_SEND_ZC_REPORT_USAGE = 1 << 3  # the notification tells whether it was copied after all
IORING_RECVSEND_BUNDLE = 1 << 4  # several buffers of the group in one go
IORING_SEND_VECTORIZED = 1 << 5  # sqe.addr is an iovec array

# cqe.res of a CQE with IORING_CQE_F_NOTIF
IORING_NOTIF_USAGE_ZC_COPIED = 1 << 31

# sqe.ioprio of ACCEPT
IORING_ACCEPT_MULTISHOT = 1 << 0
IORING_ACCEPT_DONTWAIT = 1 << 1  # -EAGAIN rather than waiting
IORING_ACCEPT_POLL_FIRST = 1 << 2  # wait for readiness before the first attempt

# sqe.addr of MSG_RING
IORING_MSG_DATA = 0  # len becomes res, off becomes user_data over there
IORING_MSG_SEND_FD = 1  # a registered file goes over there

# sqe.msg_ring_flags
IORING_MSG_RING_CQE_SKIP = 1 << 0  # no CQE over there
IORING_MSG_RING_FLAGS_PASS = 1 << 1  # file_index becomes cqe.flags over there

# sqe.install_fd_flags
IORING_FIXED_FD_NO_CLOEXEC = 1 << 0

# sqe.nop_flags
IORING_NOP_INJECT_RESULT = 1 << 0  # sqe.len becomes cqe.res
IORING_NOP_FILE = 1 << 1
IORING_NOP_FIXED_FILE = 1 << 2
IORING_NOP_FIXED_BUFFER = 1 << 3
IORING_NOP_TW = 1 << 4  # completes through task work
IORING_NOP_CQE32 = 1 << 5

io_uring_cqe = Layout("io_uring_cqe", 16, (  # big_cqe: 16 more bytes of a 32-byte CQE
    ("user_data", "Q", 0), ("res", "i", 8), ("flags", "I", 12), ("big_cqe", "0Q", 16),
))

# cqe.flags
IORING_CQE_F_BUFFER = 1 << 0  # the buffer id stands above IORING_CQE_BUFFER_SHIFT
IORING_CQE_F_MORE = 1 << 1  # more CQEs of the same SQE follow
IORING_CQE_F_SOCK_NONEMPTY = 1 << 2  # more to receive
IORING_CQE_F_NOTIF = 1 << 3  # the second CQE of a zero-copy send: its memory is free
IORING_CQE_F_BUF_MORE = 1 << 4  # the buffer is not used up (IOU_PBUF_RING_INC)
IORING_CQE_F_SKIP = 1 << 5  # a filler before the end of the ring: ignore it
IORING_CQE_F_32 = 1 << 15  # this CQE has 32 bytes (IORING_SETUP_CQE_MIXED)
IORING_CQE_BUFFER_SHIFT = 16

# Offsets for mmap() of the ring file
IORING_OFF_SQ_RING = 0
IORING_OFF_CQ_RING = 0x8000000
IORING_OFF_SQES = 0x10000000
IORING_OFF_PBUF_RING = 0x80000000  # | bgid << IORING_OFF_PBUF_SHIFT
IORING_OFF_PBUF_SHIFT = 16
IORING_OFF_MMAP_MASK = 0xF8000000

io_sqring_offsets = Layout("io_sqring_offsets", 40, (  # where the words lie in the mapping
    ("head", "I", 0), ("tail", "I", 4), ("ring_mask", "I", 8), ("ring_entries", "I", 12),
    ("flags", "I", 16), ("dropped", "I", 20), ("array", "I", 24), ("resv1", "I", 28),
    ("user_addr", "Q", 32),
))

# The flags word of the SQ ring: the kernel writes
IORING_SQ_NEED_WAKEUP = 1 << 0  # the SQPOLL thread sleeps: IORING_ENTER_SQ_WAKEUP
IORING_SQ_CQ_OVERFLOW = 1 << 1  # completions wait outside the CQ ring for a GETEVENTS
IORING_SQ_TASKRUN = 1 << 2  # completions wait for the task to enter the kernel

io_cqring_offsets = Layout("io_cqring_offsets", 40, (
    ("head", "I", 0), ("tail", "I", 4), ("ring_mask", "I", 8), ("ring_entries", "I", 12),
    ("overflow", "I", 16), ("cqes", "I", 20), ("flags", "I", 24), ("resv1", "I", 28),
    ("user_addr", "Q", 32),
))

# The flags word of the CQ ring: the application writes
IORING_CQ_EVENTFD_DISABLED = 1 << 0

# io_uring_enter() flags
IORING_ENTER_GETEVENTS = 1 << 0
IORING_ENTER_SQ_WAKEUP = 1 << 1
IORING_ENTER_SQ_WAIT = 1 << 2  # until the SQ ring has room (SQPOLL)
IORING_ENTER_EXT_ARG = 1 << 3  # arg is an io_uring_getevents_arg, not a sigset
IORING_ENTER_REGISTERED_RING = 1 << 4  # fd is an index from IORING_REGISTER_RING_FDS
IORING_ENTER_ABS_TIMER = 1 << 5  # the timeout is a point in time
IORING_ENTER_EXT_ARG_REG = 1 << 6  # arg is an offset into the registered wait region
IORING_ENTER_NO_IOWAIT = 1 << 7  # waiting does not count as iowait

io_uring_params = Layout("io_uring_params", 120, (
    ("sq_entries", "I", 0), ("cq_entries", "I", 4), ("flags", "I", 8), ("sq_thread_cpu", "I", 12),
    ("sq_thread_idle", "I", 16), ("features", "I", 20), ("wq_fd", "I", 24), ("resv", "3I", 28),
    ("sq_off", io_sqring_offsets, 40), ("cq_off", io_cqring_offsets, 80),
))

# io_uring_params.features, filled in by the kernel
IORING_FEAT_SINGLE_MMAP = 1 << 0  # one mapping holds both rings
IORING_FEAT_NODROP = 1 << 1  # a full CQ ring loses nothing
IORING_FEAT_SUBMIT_STABLE = 1 << 2  # arguments may go once the SQE is consumed
IORING_FEAT_RW_CUR_POS = 1 << 3  # offset -1 is the file position
IORING_FEAT_CUR_PERSONALITY = 1 << 4  # runs with the submitter's credentials
IORING_FEAT_FAST_POLL = 1 << 5  # not ready is polled, not handed to a worker
IORING_FEAT_POLL_32BITS = 1 << 6  # poll32_events is read in full
IORING_FEAT_SQPOLL_NONFIXED = 1 << 7  # SQPOLL takes unregistered files
IORING_FEAT_EXT_ARG = 1 << 8
IORING_FEAT_NATIVE_WORKERS = 1 << 9  # workers are threads of the process
IORING_FEAT_RSRC_TAGS = 1 << 10
IORING_FEAT_CQE_SKIP = 1 << 11
IORING_FEAT_LINKED_FILE = 1 << 12  # a file is looked up when the SQE starts, not when it is submitted
IORING_FEAT_REG_REG_RING = 1 << 13  # IORING_REGISTER_USE_REGISTERED_RING works
IORING_FEAT_RECVSEND_BUNDLE = 1 << 14
IORING_FEAT_MIN_TIMEOUT = 1 << 15  # io_uring_getevents_arg.min_wait_usec works
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
IORING_REGISTER_FILES2 = 13  # with tags, as the next three
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
IORING_REGISTER_SEND_MSG_RING = 31  # needs no ring
IORING_REGISTER_ZCRX_IFQ = 32
IORING_REGISTER_RESIZE_RINGS = 33
IORING_REGISTER_MEM_REGION = 34
IORING_REGISTER_QUERY = 35  # needs no ring
IORING_REGISTER_ZCRX_CTRL = 36
IORING_REGISTER_BPF_FILTER = 37
IORING_REGISTER_LAST = 38  # moves with every release
IORING_REGISTER_USE_REGISTERED_RING = 1 << 31  # added to the opcode: fd is an index

# Index into the pair of IORING_REGISTER_IOWQ_MAX_WORKERS
IO_WQ_BOUND = 0  # work that ends by itself, such as file I/O
IO_WQ_UNBOUND = 1  # work that may wait for ever, such as sockets

io_uring_files_update = Layout("io_uring_files_update", 16, (  # replaced by io_uring_rsrc_update
    ("offset", "I", 0), ("resv", "I", 4), ("fds", "Q", 8),
))

# io_uring_region_desc.flags
IORING_MEM_REGION_TYPE_USER = 1  # the memory is at user_addr

io_uring_region_desc = Layout("io_uring_region_desc", 64, (
    ("user_addr", "Q", 0), ("size", "Q", 8), ("flags", "I", 16), ("id", "I", 20),
    ("mmap_offset", "Q", 24), ("__resv", "4Q", 32),
))

# io_uring_mem_region_reg.flags
IORING_MEM_REGION_REG_WAIT_ARG = 1  # holds io_uring_reg_wait entries

io_uring_mem_region_reg = Layout("io_uring_mem_region_reg", 32, (
    ("region_uptr", "Q", 0), ("flags", "Q", 8), ("__resv", "2Q", 16),
))

# io_uring_rsrc_register.flags
IORING_RSRC_REGISTER_SPARSE = 1 << 0  # nr empty slots; data stays 0

io_uring_rsrc_register = Layout("io_uring_rsrc_register", 32, (
    ("nr", "I", 0), ("flags", "I", 4), ("resv2", "Q", 8), ("data", "Q", 16), ("tags", "Q", 24),
))

io_uring_rsrc_update = Layout("io_uring_rsrc_update", 16, (
    ("offset", "I", 0), ("resv", "I", 4), ("data", "Q", 8),
))

io_uring_rsrc_update2 = Layout("io_uring_rsrc_update2", 32, (
    ("offset", "I", 0), ("resv", "I", 4), ("data", "Q", 8), ("tags", "Q", 16), ("nr", "I", 24),
    ("resv2", "I", 28),
))

# A descriptor in an update of registered files
IORING_REGISTER_FILES_SKIP = -2  # leaves the slot as it is

# io_uring_probe_op.flags
IO_URING_OP_SUPPORTED = 1 << 0

io_uring_probe_op = Layout("io_uring_probe_op", 8, (
    ("op", "B", 0), ("resv", "B", 1), ("flags", "H", 2), ("resv2", "I", 4),
))

io_uring_probe = Layout("io_uring_probe", 16, (
    ("last_op", "B", 0), ("ops_len", "B", 1), ("resv", "H", 2), ("resv2", "3I", 4),
    ("ops", (io_uring_probe_op, 0), 16),
))

io_uring_restriction = Layout("io_uring_restriction", 16, (
    ("opcode", "H", 0),
    ("register_op", "B", 2), ("sqe_op", "B", 2), ("sqe_flags", "B", 2),  # union
    ("resv", "B", 3), ("resv2", "3I", 4),
))

io_uring_task_restriction = Layout("io_uring_task_restriction", 16, (
    ("flags", "H", 0), ("nr_res", "H", 2), ("resv", "3I", 4),
    ("restrictions", (io_uring_restriction, 0), 16),
))

io_uring_clock_register = Layout("io_uring_clock_register", 16, (("clockid", "I", 0), ("__resv", "3I", 4)))

# io_uring_clone_buffers.flags
IORING_REGISTER_SRC_REGISTERED = 1 << 0  # src_fd is an index
IORING_REGISTER_DST_REPLACE = 1 << 1  # slots in use are replaced

io_uring_clone_buffers = Layout("io_uring_clone_buffers", 32, (
    ("src_fd", "I", 0), ("flags", "I", 4), ("src_off", "I", 8), ("dst_off", "I", 12),
    ("nr", "I", 16), ("pad", "3I", 20),
))

io_uring_buf = Layout("io_uring_buf", 16, (
    ("addr", "Q", 0), ("len", "I", 8), ("bid", "H", 12), ("resv", "H", 14),
))

io_uring_buf_ring = Layout("io_uring_buf_ring", 16, (  # union: tail lies in bufs[0].resv
    ("resv1", "Q", 0), ("resv2", "I", 8), ("resv3", "H", 12), ("tail", "H", 14),
    ("bufs", (io_uring_buf, 0), 0),
))

# io_uring_buf_reg.flags
IOU_PBUF_RING_MMAP = 1  # the kernel allocates, the application maps
IOU_PBUF_RING_INC = 2  # a buffer is used up bit by bit

io_uring_buf_reg = Layout("io_uring_buf_reg", 40, (
    ("ring_addr", "Q", 0), ("ring_entries", "I", 8), ("bgid", "H", 12), ("flags", "H", 14),
    ("min_left", "I", 16), ("resv", "5I", 20),
))

io_uring_buf_status = Layout("io_uring_buf_status", 40, (
    ("buf_group", "I", 0), ("head", "I", 4), ("resv", "8I", 8),
))

# io_uring_napi.opcode
IO_URING_NAPI_REGISTER_OP = 0
IO_URING_NAPI_STATIC_ADD_ID = 1
IO_URING_NAPI_STATIC_DEL_ID = 2

# io_uring_napi.op_param of IO_URING_NAPI_REGISTER_OP
IO_URING_NAPI_TRACKING_DYNAMIC = 0
IO_URING_NAPI_TRACKING_STATIC = 1
IO_URING_NAPI_TRACKING_INACTIVE = 255

io_uring_napi = Layout("io_uring_napi", 16, (
    ("busy_poll_to", "I", 0), ("prefer_busy_poll", "B", 4), ("opcode", "B", 5), ("pad", "2B", 6),
    ("op_param", "I", 8), ("resv", "I", 12),
))

# io_uring_restriction.opcode
IORING_RESTRICTION_REGISTER_OP = 0
IORING_RESTRICTION_SQE_OP = 1
IORING_RESTRICTION_SQE_FLAGS_ALLOWED = 2
IORING_RESTRICTION_SQE_FLAGS_REQUIRED = 3  # each SQE must have them
IORING_RESTRICTION_LAST = 4  # moves with the releases

# io_uring_reg_wait.flags
IORING_REG_WAIT_TS = 1 << 0  # ts counts

io_uring_reg_wait = Layout("io_uring_reg_wait", 64, (
    ("ts", __kernel_timespec, 0), ("min_wait_usec", "I", 16), ("flags", "I", 20),
    ("sigmask", "Q", 24), ("sigmask_sz", "I", 32), ("pad", "3I", 36), ("pad2", "2Q", 48),
))

io_uring_getevents_arg = Layout("io_uring_getevents_arg", 24, (  # sigmask, ts: addresses
    ("sigmask", "Q", 0), ("sigmask_sz", "I", 8), ("min_wait_usec", "I", 12), ("ts", "Q", 16),
))

io_uring_sync_cancel_reg = Layout("io_uring_sync_cancel_reg", 64, (
    ("addr", "Q", 0), ("fd", "i", 8), ("flags", "I", 12), ("timeout", __kernel_timespec, 16),
    ("opcode", "B", 32), ("pad", "7B", 33), ("pad2", "3Q", 40),
))

io_uring_file_index_range = Layout("io_uring_file_index_range", 16, (
    ("off", "I", 0), ("len", "I", 4), ("resv", "Q", 8),
))

io_uring_recvmsg_out = Layout("io_uring_recvmsg_out", 16, (  # heads each buffer of a multishot RECVMSG
    ("namelen", "I", 0), ("controllen", "I", 4), ("payloadlen", "I", 8), ("flags", "I", 12),
))

# sqe.cmd_op of a URING_CMD on a socket
SOCKET_URING_OP_SIOCINQ = 0
SOCKET_URING_OP_SIOCOUTQ = 1
SOCKET_URING_OP_GETSOCKOPT = 2
SOCKET_URING_OP_SETSOCKOPT = 3
SOCKET_URING_OP_TX_TIMESTAMP = 4
SOCKET_URING_OP_GETSOCKNAME = 5

# cqe.flags of SOCKET_URING_OP_TX_TIMESTAMP
IORING_TIMESTAMP_HW_SHIFT = 16
IORING_TIMESTAMP_TYPE_SHIFT = IORING_TIMESTAMP_HW_SHIFT + 1
IORING_CQE_F_TSTAMP_HW = 1 << IORING_TIMESTAMP_HW_SHIFT  # taken by the hardware

io_timespec = Layout("io_timespec", 16, (  # the second half of a timestamp CQE
    ("tv_sec", "Q", 0), ("tv_nsec", "Q", 8),
))

# ------------------------------------------------------------------------------------------------------
# linux/io_uring/zcrx.h

io_uring_zcrx_rqe = Layout("io_uring_zcrx_rqe", 16, (("off", "Q", 0), ("len", "I", 8), ("__pad", "I", 12)))

io_uring_zcrx_cqe = Layout("io_uring_zcrx_cqe", 16, (  # the second half of a 32-byte CQE
    ("off", "Q", 0), ("__pad", "Q", 8),
))

# io_uring_zcrx_cqe.off: area above, offset below
IORING_ZCRX_AREA_SHIFT = 48
IORING_ZCRX_AREA_MASK = 0xFFFF << IORING_ZCRX_AREA_SHIFT

io_uring_zcrx_offsets = Layout("io_uring_zcrx_offsets", 32, (
    ("head", "I", 0), ("tail", "I", 4), ("rqes", "I", 8), ("__resv2", "I", 12),
    ("__resv", "2Q", 16),
))

# io_uring_zcrx_area_reg.flags
IORING_ZCRX_AREA_DMABUF = 1  # dmabuf_fd instead of addr

io_uring_zcrx_area_reg = Layout("io_uring_zcrx_area_reg", 48, (
    ("addr", "Q", 0), ("len", "Q", 8), ("rq_area_token", "Q", 16), ("flags", "I", 24),
    ("dmabuf_fd", "I", 28), ("__resv2", "2Q", 32),
))

# io_uring_zcrx_ifq_reg.flags
ZCRX_REG_IMPORT = 1
ZCRX_REG_NODEV = 2  # without a device: everything is copied

# io_uring_query_zcrx.features
ZCRX_FEATURE_RX_PAGE_SIZE = 1 << 0
ZCRX_FEATURE_EVENT = 1 << 1

# zcrx_ctrl_arm_event.event_type, bits of zcrx_event_desc.type_mask
ZCRX_EVENT_ALLOC_FAIL = 0
ZCRX_EVENT_COPY = 1
__ZCRX_EVENT_TYPE_LAST = 2  # moves with the releases

# zcrx_event_desc.flags
ZCRX_EVENT_DESC_FLAG_STATS = 1 << 0  # stats_offset counts

zcrx_stats = Layout("zcrx_stats", 16, (("copy_count", "Q", 0), ("copy_bytes", "Q", 8)))

zcrx_event_desc = Layout("zcrx_event_desc", 96, (
    ("user_data", "Q", 0), ("type_mask", "I", 8), ("flags", "I", 12), ("stats_offset", "Q", 16),
    ("__resv2", "9Q", 24),
))

io_uring_zcrx_ifq_reg = Layout("io_uring_zcrx_ifq_reg", 96, (
    ("if_idx", "I", 0), ("if_rxq", "I", 4), ("rq_entries", "I", 8), ("flags", "I", 12),
    ("area_ptr", "Q", 16), ("region_ptr", "Q", 24), ("offsets", io_uring_zcrx_offsets, 32),
    ("zcrx_id", "I", 64), ("rx_buf_len", "I", 68), ("event_desc", "Q", 72), ("__resv", "2Q", 80),
))

# zcrx_ctrl.op
ZCRX_CTRL_FLUSH_RQ = 0
ZCRX_CTRL_EXPORT = 1
ZCRX_CTRL_ARM_EVENT = 2
__ZCRX_CTRL_LAST = 3  # moves with the releases

zcrx_ctrl_flush_rq = Layout("zcrx_ctrl_flush_rq", 48, (("__resv", "6Q", 0),))

zcrx_ctrl_export = Layout("zcrx_ctrl_export", 48, (("zcrx_fd", "I", 0), ("__resv1", "11I", 4)))

zcrx_ctrl_arm_event = Layout("zcrx_ctrl_arm_event", 48, (("event_type", "I", 0), ("__resv", "11I", 4)))

zcrx_ctrl = Layout("zcrx_ctrl", 72, (
    ("zcrx_id", "I", 0), ("op", "I", 4), ("__resv", "2Q", 8),
    ("zc_export", zcrx_ctrl_export, 24), ("zc_flush", zcrx_ctrl_flush_rq, 24),  # union
    ("zc_arm_event", zcrx_ctrl_arm_event, 24),
))

# ------------------------------------------------------------------------------------------------------
# linux/io_uring/query.h

io_uring_query_hdr = Layout("io_uring_query_hdr", 40, (
    ("next_entry", "Q", 0), ("query_data", "Q", 8), ("query_op", "I", 16), ("size", "I", 20),
    ("result", "i", 24), ("__resv", "3I", 28),
))

# io_uring_query_hdr.query_op
IO_URING_QUERY_OPCODES = 0
IO_URING_QUERY_ZCRX = 1
IO_URING_QUERY_SCQ = 2
IO_URING_QUERY_ZCRX_EVENT = 3
__IO_URING_QUERY_MAX = 4  # moves with the releases

io_uring_query_opcode = Layout("io_uring_query_opcode", 48, (
    ("nr_request_opcodes", "I", 0), ("nr_register_opcodes", "I", 4), ("feature_flags", "Q", 8),
    ("ring_setup_flags", "Q", 16), ("enter_flags", "Q", 24), ("sqe_flags", "Q", 32),
    ("nr_query_opcodes", "I", 40), ("__pad", "I", 44),
))

io_uring_query_zcrx = Layout("io_uring_query_zcrx", 40, (
    ("register_flags", "Q", 0), ("area_flags", "Q", 8), ("nr_ctrl_opcodes", "I", 16),
    ("features", "I", 20), ("rq_hdr_size", "I", 24), ("rq_hdr_alignment", "I", 28),
    ("__resv2", "Q", 32),
))

io_uring_query_zcrx_event = Layout("io_uring_query_zcrx_event", 48, (
    ("event_flags", "I", 0), ("stats_size", "I", 4), ("stats_off_alignment", "I", 8),
    ("__resv1", "I", 12), ("__resv2", "4Q", 16),
))

io_uring_query_scq = Layout("io_uring_query_scq", 16, (("hdr_size", "Q", 0), ("hdr_alignment", "Q", 8)))

# ------------------------------------------------------------------------------------------------------
# linux/io_uring/bpf_filter.h

io_uring_bpf_ctx = Layout("io_uring_bpf_ctx", 40, (
    ("user_data", "Q", 0), ("opcode", "B", 8), ("sqe_flags", "B", 9), ("pdu_size", "B", 10),
    ("pad", "5B", 11),
    # union at 16, of structs that have no name of their own; port and addresses in network byte order
    ("socket", Layout("socket", 12, (("family", "I", 0), ("type", "I", 4), ("protocol", "I", 8))), 16),
    ("open", Layout("open", 24, (("flags", "Q", 0), ("mode", "Q", 8), ("resolve", "Q", 16))), 16),
    ("connect", Layout("connect", 24, (
        ("family", "I", 0), ("port", "H", 4), ("pad", "2B", 6),
        ("v4_addr", "I", 8), ("v6_addr", "16B", 8),  # union
    )), 16),
))

# io_uring_bpf_filter.flags
IO_URING_BPF_FILTER_DENY_REST = 1  # opcodes without a filter are refused
IO_URING_BPF_FILTER_SZ_STRICT = 2  # pdu_size must match

io_uring_bpf_filter = Layout("io_uring_bpf_filter", 64, (
    ("opcode", "I", 0), ("flags", "I", 4), ("filter_len", "I", 8), ("pdu_size", "B", 12),
    ("resv", "3B", 13), ("filter_ptr", "Q", 16), ("resv2", "5Q", 24),
))

# io_uring_bpf.cmd_type
IO_URING_BPF_CMD_FILTER = 1

io_uring_bpf = Layout("io_uring_bpf", 72, (
    ("cmd_type", "H", 0), ("cmd_flags", "H", 2), ("resv", "I", 4),
    ("filter", io_uring_bpf_filter, 8),
))

# ------------------------------------------------------------------------------------------------------
# linux/fs.h: sqe.rw_flags, as of preadv2(2)

RWF_HIPRI = 0x1
RWF_DSYNC = 0x2
RWF_SYNC = 0x4
RWF_NOWAIT = 0x8
RWF_APPEND = 0x10
RWF_NOAPPEND = 0x20  # overrides the file's O_APPEND
RWF_ATOMIC = 0x40
RWF_DONTCACHE = 0x80  # drops the pages afterwards
RWF_NOSIGNAL = 0x100  # EPIPE without SIGPIPE

# ------------------------------------------------------------------------------------------------------
# linux/openat2.h

open_how = Layout("open_how", 24, (("flags", "Q", 0), ("mode", "Q", 8), ("resolve", "Q", 16)))

RESOLVE_NO_XDEV = 0x1
RESOLVE_NO_MAGICLINKS = 0x2
RESOLVE_NO_SYMLINKS = 0x4
RESOLVE_BENEATH = 0x8
RESOLVE_IN_ROOT = 0x10
RESOLVE_CACHED = 0x20  # EAGAIN rather than waiting for the disk

# ------------------------------------------------------------------------------------------------------
# linux/fcntl.h: what os lacks. Sentinels for a directory descriptor, and flags of the *at operations

AT_FDCWD = -100  # the working directory
AT_SYMLINK_NOFOLLOW = 0x100
AT_EACCESS = 0x200
AT_REMOVEDIR = 0x200  # unlinkat removes a directory
AT_SYMLINK_FOLLOW = 0x400
AT_NO_AUTOMOUNT = 0x800
AT_EMPTY_PATH = 0x1000  # an empty path means the descriptor itself
AT_STATX_SYNC_AS_STAT = 0x0000
AT_STATX_FORCE_SYNC = 0x2000
AT_STATX_DONT_SYNC = 0x4000

# ------------------------------------------------------------------------------------------------------
# linux/fs.h: sqe.rename_flags, sqe.sync_range_flags

RENAME_NOREPLACE = 1 << 0
RENAME_EXCHANGE = 1 << 1
RENAME_WHITEOUT = 1 << 2

SYNC_FILE_RANGE_WAIT_BEFORE = 1
SYNC_FILE_RANGE_WRITE = 2
SYNC_FILE_RANGE_WAIT_AFTER = 4

# ------------------------------------------------------------------------------------------------------
# linux/falloc.h: sqe.len of FALLOCATE

FALLOC_FL_KEEP_SIZE = 0x01
FALLOC_FL_PUNCH_HOLE = 0x02
FALLOC_FL_NO_HIDE_STALE = 0x04
FALLOC_FL_COLLAPSE_RANGE = 0x08
FALLOC_FL_ZERO_RANGE = 0x10
FALLOC_FL_INSERT_RANGE = 0x20
FALLOC_FL_UNSHARE_RANGE = 0x40

# ------------------------------------------------------------------------------------------------------
# linux/stat.h: sqe.len of STATX, and what it fills

STATX_TYPE = 0x00000001
STATX_MODE = 0x00000002
STATX_NLINK = 0x00000004
STATX_UID = 0x00000008
STATX_GID = 0x00000010
STATX_ATIME = 0x00000020
STATX_MTIME = 0x00000040
STATX_CTIME = 0x00000080
STATX_INO = 0x00000100
STATX_SIZE = 0x00000200
STATX_BLOCKS = 0x00000400
STATX_BASIC_STATS = 0x000007FF
STATX_BTIME = 0x00000800
STATX_MNT_ID = 0x00001000
STATX_DIOALIGN = 0x00002000
STATX_MNT_ID_UNIQUE = 0x00004000
STATX_SUBVOL = 0x00008000
STATX_WRITE_ATOMIC = 0x00010000
STATX_DIO_READ_ALIGN = 0x00020000

statx_timestamp = Layout("statx_timestamp", 16, (
    ("tv_sec", "q", 0), ("tv_nsec", "I", 8), ("__reserved", "i", 12),
))

statx = Layout("statx", 256, (
    ("stx_mask", "I", 0), ("stx_blksize", "I", 4), ("stx_attributes", "Q", 8), ("stx_nlink", "I", 16),
    ("stx_uid", "I", 20), ("stx_gid", "I", 24), ("stx_mode", "H", 28), ("__spare0", "1H", 30),
    ("stx_ino", "Q", 32), ("stx_size", "Q", 40), ("stx_blocks", "Q", 48), ("stx_attributes_mask", "Q", 56),
    ("stx_atime", statx_timestamp, 64), ("stx_btime", statx_timestamp, 80),
    ("stx_ctime", statx_timestamp, 96), ("stx_mtime", statx_timestamp, 112),
    ("stx_rdev_major", "I", 128), ("stx_rdev_minor", "I", 132), ("stx_dev_major", "I", 136),
    ("stx_dev_minor", "I", 140), ("stx_mnt_id", "Q", 144), ("stx_dio_mem_align", "I", 152),
    ("stx_dio_offset_align", "I", 156), ("stx_subvol", "Q", 160), ("stx_atomic_write_unit_min", "I", 168),
    ("stx_atomic_write_unit_max", "I", 172), ("stx_atomic_write_segments_max", "I", 176),
    ("stx_dio_read_offset_align", "I", 180), ("stx_atomic_write_unit_max_opt", "I", 184),
    ("__spare2", "1I", 188), ("__spare3", "8Q", 192),
))

# ------------------------------------------------------------------------------------------------------
# linux/futex.h: sqe.fd of FUTEX_WAIT and FUTEX_WAKE, futex_waitv.flags

FUTEX_PRIVATE_FLAG = 128
FUTEX2_SIZE_U8 = 0x0
FUTEX2_SIZE_U16 = 0x1
FUTEX2_SIZE_U32 = 0x2
FUTEX2_SIZE_U64 = 0x3
FUTEX2_NUMA = 0x4  # a node number follows the futex word
FUTEX2_MPOL = 0x8
FUTEX2_PRIVATE = FUTEX_PRIVATE_FLAG
FUTEX2_SIZE_MASK = 0x3
FUTEX_WAITV_MAX = 128

futex_waitv = Layout("futex_waitv", 24, (
    ("val", "Q", 0), ("uaddr", "Q", 8), ("flags", "I", 16), ("__reserved", "I", 20),
))

FUTEX_BITSET_MATCH_ANY = 0xFFFFFFFF

# ------------------------------------------------------------------------------------------------------
# linux/membarrier.h

MEMBARRIER_CMD_QUERY = 0
MEMBARRIER_CMD_GLOBAL = 1 << 0
MEMBARRIER_CMD_GLOBAL_EXPEDITED = 1 << 1
MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED = 1 << 2
MEMBARRIER_CMD_PRIVATE_EXPEDITED = 1 << 3
MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED = 1 << 4
MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE = 1 << 5
MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE = 1 << 6
MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ = 1 << 7
MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ = 1 << 8
MEMBARRIER_CMD_GET_REGISTRATIONS = 1 << 9
MEMBARRIER_CMD_SHARED = MEMBARRIER_CMD_GLOBAL  # the old name of GLOBAL
MEMBARRIER_CMD_FLAG_CPU = 1 << 0  # in flags, not a command

# fmt: on

# ------------------------------------------------------------------------------------------------------
# History: the first release whose header has the name. A name older than io_uring counts as 5.1. Stable
# kernels may hold more (5.10.y has the io_uring of 5.15), so this is for people to read: a program finds
# out by trying. A member is listed when it is younger than its struct. Not listed, for want of a source:
# the structs of bpf_filter.h, time_types.h, futex.h and openat2.h, and all of fcntl.h, fs.h (but RWF_*),
# falloc.h and stat.h.

_HISTORY = {
    "5.1": """
        io_uring_sqe IOSQE_FIXED_FILE IORING_SETUP_IOPOLL IORING_SETUP_SQPOLL IORING_SETUP_SQ_AFF
        IORING_OP_NOP IORING_OP_READV IORING_OP_WRITEV IORING_OP_FSYNC IORING_OP_READ_FIXED
        IORING_OP_WRITE_FIXED IORING_OP_POLL_ADD IORING_OP_POLL_REMOVE IORING_FSYNC_DATASYNC io_uring_cqe
        IORING_OFF_SQ_RING IORING_OFF_CQ_RING IORING_OFF_SQES io_sqring_offsets IORING_SQ_NEED_WAKEUP
        io_cqring_offsets IORING_ENTER_GETEVENTS IORING_ENTER_SQ_WAKEUP io_uring_params
        IORING_REGISTER_BUFFERS IORING_UNREGISTER_BUFFERS IORING_REGISTER_FILES IORING_UNREGISTER_FILES
        RWF_HIPRI RWF_DSYNC RWF_SYNC RWF_NOWAIT RWF_APPEND FUTEX_PRIVATE_FLAG FUTEX_BITSET_MATCH_ANY
        MEMBARRIER_CMD_QUERY MEMBARRIER_CMD_GLOBAL MEMBARRIER_CMD_GLOBAL_EXPEDITED
        MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED MEMBARRIER_CMD_PRIVATE_EXPEDITED
        MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE
        MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE MEMBARRIER_CMD_SHARED""",
    "5.2": """
        io_uring_sqe.sync_range_flags IOSQE_IO_DRAIN IORING_OP_SYNC_FILE_RANGE IORING_REGISTER_EVENTFD
        IORING_UNREGISTER_EVENTFD""",
    "5.3": "io_uring_sqe.msg_flags IOSQE_IO_LINK IORING_OP_SENDMSG IORING_OP_RECVMSG",
    "5.4": """
        io_uring_sqe.timeout_flags IORING_OP_TIMEOUT io_uring_params.features IORING_FEAT_SINGLE_MMAP""",
    "5.5": """
        io_uring_sqe.addr2 io_uring_sqe.accept_flags io_uring_sqe.cancel_flags IOSQE_IO_HARDLINK
        IORING_SETUP_CQSIZE IORING_OP_TIMEOUT_REMOVE IORING_OP_ACCEPT IORING_OP_ASYNC_CANCEL
        IORING_OP_LINK_TIMEOUT IORING_OP_CONNECT IORING_OP_LAST IORING_TIMEOUT_ABS IORING_FEAT_NODROP
        IORING_FEAT_SUBMIT_STABLE IORING_REGISTER_FILES_UPDATE io_uring_files_update""",
    "5.6": """
        io_uring_sqe.open_flags io_uring_sqe.statx_flags io_uring_sqe.fadvise_advice
        io_uring_sqe.personality IOSQE_FIXED_FILE_BIT IOSQE_IO_DRAIN_BIT IOSQE_IO_LINK_BIT
        IOSQE_IO_HARDLINK_BIT IOSQE_ASYNC_BIT IOSQE_ASYNC IORING_SETUP_CLAMP IORING_SETUP_ATTACH_WQ
        IORING_OP_FALLOCATE IORING_OP_OPENAT IORING_OP_CLOSE IORING_OP_FILES_UPDATE IORING_OP_STATX
        IORING_OP_READ IORING_OP_WRITE IORING_OP_FADVISE IORING_OP_MADVISE IORING_OP_SEND IORING_OP_RECV
        IORING_OP_OPENAT2 IORING_OP_EPOLL_CTL io_uring_params.wq_fd IORING_FEAT_RW_CUR_POS
        IORING_FEAT_CUR_PERSONALITY IORING_REGISTER_EVENTFD_ASYNC IORING_REGISTER_PROBE
        IORING_REGISTER_PERSONALITY IORING_UNREGISTER_PERSONALITY IO_URING_OP_SUPPORTED io_uring_probe_op
        io_uring_probe RESOLVE_NO_XDEV RESOLVE_NO_MAGICLINKS RESOLVE_NO_SYMLINKS RESOLVE_BENEATH
        RESOLVE_IN_ROOT""",
    "5.7": """
        io_uring_sqe.splice_off_in io_uring_sqe.splice_flags io_uring_sqe.buf_group
        io_uring_sqe.splice_fd_in IOSQE_BUFFER_SELECT_BIT IOSQE_BUFFER_SELECT IORING_OP_SPLICE
        IORING_OP_PROVIDE_BUFFERS IORING_OP_REMOVE_BUFFERS SPLICE_F_FD_IN_FIXED IORING_CQE_F_BUFFER
        IORING_CQE_BUFFER_SHIFT IORING_FEAT_FAST_POLL""",
    "5.8": """
        IORING_OP_TEE IORING_SQ_CQ_OVERFLOW io_cqring_offsets.flags io_cqring_offsets.resv1
        IORING_CQ_EVENTFD_DISABLED""",
    "5.9": "io_uring_sqe.poll32_events IORING_FEAT_POLL_32BITS",
    "5.10": """
        IORING_SETUP_R_DISABLED IORING_ENTER_SQ_WAIT IORING_REGISTER_RESTRICTIONS
        IORING_REGISTER_ENABLE_RINGS IORING_REGISTER_LAST io_uring_restriction
        IORING_RESTRICTION_REGISTER_OP IORING_RESTRICTION_SQE_OP IORING_RESTRICTION_SQE_FLAGS_ALLOWED
        IORING_RESTRICTION_SQE_FLAGS_REQUIRED IORING_RESTRICTION_LAST
        MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ
        MEMBARRIER_CMD_FLAG_CPU""",
    "5.11": """
        io_uring_sqe.rename_flags io_uring_sqe.unlink_flags IORING_OP_SHUTDOWN IORING_OP_RENAMEAT
        IORING_OP_UNLINKAT IORING_TIMEOUT_UPDATE IORING_ENTER_EXT_ARG IORING_FEAT_SQPOLL_NONFIXED
        IORING_FEAT_EXT_ARG io_uring_getevents_arg""",
    "5.12": "IORING_FEAT_NATIVE_WORKERS io_uring_rsrc_update IORING_REGISTER_FILES_SKIP RESOLVE_CACHED",
    "5.13": """
        IORING_POLL_ADD_MULTI IORING_POLL_UPDATE_EVENTS IORING_POLL_UPDATE_USER_DATA IORING_CQE_F_MORE
        IORING_FEAT_RSRC_TAGS IORING_REGISTER_FILES2 IORING_REGISTER_FILES_UPDATE2
        IORING_REGISTER_BUFFERS2 IORING_REGISTER_BUFFERS_UPDATE io_uring_rsrc_register
        io_uring_rsrc_update2""",
    "5.14": "IORING_REGISTER_IOWQ_AFF IORING_UNREGISTER_IOWQ_AFF",
    "5.15": """
        io_uring_sqe.hardlink_flags io_uring_sqe.file_index IORING_OP_MKDIRAT IORING_OP_SYMLINKAT
        IORING_OP_LINKAT IORING_TIMEOUT_BOOTTIME IORING_TIMEOUT_REALTIME IORING_LINK_TIMEOUT_UPDATE
        IORING_TIMEOUT_CLOCK_MASK IORING_TIMEOUT_UPDATE_MASK IORING_REGISTER_IOWQ_MAX_WORKERS IO_WQ_BOUND
        IO_WQ_UNBOUND""",
    "5.16": "IORING_TIMEOUT_ETIME_SUCCESS FUTEX_WAITV_MAX",
    "5.17": "IOSQE_CQE_SKIP_SUCCESS_BIT IOSQE_CQE_SKIP_SUCCESS IORING_FEAT_CQE_SKIP",
    "5.18": """
        IORING_SETUP_SUBMIT_ALL IORING_OP_MSG_RING IORING_ENTER_REGISTERED_RING IORING_FEAT_LINKED_FILE
        IORING_REGISTER_RING_FDS IORING_UNREGISTER_RING_FDS""",
    "5.19": """
        io_uring_sqe.cmd_op io_uring_sqe.__pad1 io_uring_sqe.xattr_flags io_uring_sqe.addr3
        io_uring_sqe.cmd IORING_FILE_INDEX_ALLOC IORING_SETUP_COOP_TASKRUN IORING_SETUP_TASKRUN_FLAG
        IORING_SETUP_SQE128 IORING_SETUP_CQE32 IORING_OP_FSETXATTR IORING_OP_SETXATTR IORING_OP_FGETXATTR
        IORING_OP_GETXATTR IORING_OP_SOCKET IORING_OP_URING_CMD IORING_ASYNC_CANCEL_ALL
        IORING_ASYNC_CANCEL_FD IORING_ASYNC_CANCEL_ANY IORING_RECVSEND_POLL_FIRST IORING_ACCEPT_MULTISHOT
        io_uring_cqe.big_cqe IORING_CQE_F_SOCK_NONEMPTY IORING_SQ_TASKRUN IORING_REGISTER_PBUF_RING
        IORING_UNREGISTER_PBUF_RING IORING_RSRC_REGISTER_SPARSE io_uring_rsrc_register.flags io_uring_buf
        io_uring_buf_ring io_uring_buf_reg""",
    "6.0": """
        io_uring_sqe.msg_ring_flags io_uring_sqe.addr_len io_uring_sqe.__pad3 IORING_SETUP_SINGLE_ISSUER
        IORING_OP_SEND_ZC IORING_POLL_ADD_LEVEL IORING_ASYNC_CANCEL_FD_FIXED IORING_RECV_MULTISHOT
        IORING_RECVSEND_FIXED_BUF IORING_MSG_DATA IORING_MSG_SEND_FD IORING_MSG_RING_CQE_SKIP
        IORING_CQE_F_NOTIF IORING_REGISTER_SYNC_CANCEL IORING_REGISTER_FILE_ALLOC_RANGE
        io_uring_sync_cancel_reg io_uring_file_index_range io_uring_recvmsg_out""",
    "6.1": """
        io_uring_sqe.uring_cmd_flags IORING_SETUP_DEFER_TASKRUN IORING_OP_SENDMSG_ZC
        IORING_URING_CMD_FIXED""",
    "6.2": "IORING_SEND_ZC_REPORT_USAGE IORING_NOTIF_USAGE_ZC_COPIED",
    "6.3": """
        IORING_MSG_RING_FLAGS_PASS IORING_FEAT_REG_REG_RING IORING_REGISTER_USE_REGISTERED_RING
        MEMBARRIER_CMD_GET_REGISTRATIONS""",
    "6.4": """
        IORING_TIMEOUT_MULTISHOT IORING_OFF_PBUF_RING IORING_OFF_PBUF_SHIFT IORING_OFF_MMAP_MASK
        IOU_PBUF_RING_MMAP""",
    "6.5": """
        IORING_SETUP_NO_MMAP IORING_SETUP_REGISTERED_FD_ONLY io_sqring_offsets.user_addr
        io_cqring_offsets.user_addr""",
    "6.6": """
        IORING_SETUP_NO_SQARRAY IORING_ASYNC_CANCEL_USERDATA IORING_ASYNC_CANCEL_OP
        io_uring_sync_cancel_reg.opcode io_uring_sync_cancel_reg.pad2 SOCKET_URING_OP_SIOCINQ
        SOCKET_URING_OP_SIOCOUTQ""",
    "6.7": """
        io_uring_sqe.level io_uring_sqe.optname io_uring_sqe.waitid_flags io_uring_sqe.futex_flags
        io_uring_sqe.optlen io_uring_sqe.optval IORING_OP_READ_MULTISHOT IORING_OP_WAITID
        IORING_OP_FUTEX_WAIT IORING_OP_FUTEX_WAKE IORING_OP_FUTEX_WAITV IORING_URING_CMD_MASK
        SOCKET_URING_OP_GETSOCKOPT SOCKET_URING_OP_SETSOCKOPT FUTEX2_SIZE_U8 FUTEX2_SIZE_U16
        FUTEX2_SIZE_U32 FUTEX2_SIZE_U64 FUTEX2_NUMA FUTEX2_PRIVATE FUTEX2_SIZE_MASK""",
    "6.8": """
        io_uring_sqe.install_fd_flags IORING_OP_FIXED_FD_INSTALL IORING_FIXED_FD_NO_CLOEXEC
        IORING_REGISTER_PBUF_STATUS io_uring_buf_status""",
    "6.9": "IORING_OP_FTRUNCATE IORING_REGISTER_NAPI IORING_UNREGISTER_NAPI io_uring_napi RWF_NOAPPEND",
    "6.10": """
        io_uring_sqe.nop_flags IORING_RECVSEND_BUNDLE IORING_ACCEPT_DONTWAIT IORING_ACCEPT_POLL_FIRST
        IORING_NOP_INJECT_RESULT IORING_FEAT_RECVSEND_BUNDLE""",
    "6.11": "IORING_OP_BIND IORING_OP_LISTEN RWF_ATOMIC",
    "6.12": """
        IORING_CQE_F_BUF_MORE IORING_ENTER_ABS_TIMER IORING_FEAT_MIN_TIMEOUT IORING_REGISTER_CLOCK
        IORING_REGISTER_CLONE_BUFFERS io_uring_clock_register IORING_REGISTER_SRC_REGISTERED
        io_uring_clone_buffers IOU_PBUF_RING_INC io_uring_getevents_arg.min_wait_usec""",
    "6.13": """
        IORING_SETUP_HYBRID_IOPOLL IORING_NOP_FILE IORING_NOP_FIXED_FILE IORING_NOP_FIXED_BUFFER
        IORING_ENTER_EXT_ARG_REG IORING_REGISTER_SEND_MSG_RING IORING_REGISTER_RESIZE_RINGS
        IORING_REGISTER_MEM_REGION IORING_MEM_REGION_TYPE_USER io_uring_region_desc
        IORING_MEM_REGION_REG_WAIT_ARG io_uring_mem_region_reg IORING_REGISTER_DST_REPLACE
        io_uring_clone_buffers.src_off io_uring_clone_buffers.dst_off io_uring_clone_buffers.nr
        IO_URING_NAPI_REGISTER_OP IO_URING_NAPI_STATIC_ADD_ID IO_URING_NAPI_STATIC_DEL_ID
        IO_URING_NAPI_TRACKING_DYNAMIC IO_URING_NAPI_TRACKING_STATIC IO_URING_NAPI_TRACKING_INACTIVE
        io_uring_napi.opcode io_uring_napi.op_param IORING_REG_WAIT_TS io_uring_reg_wait""",
    "6.14": """
        io_uring_sqe.attr_ptr io_uring_sqe.attr_type_mask IORING_RW_ATTR_FLAG_PI io_uring_attr_pi
        IORING_FEAT_RW_ATTR RWF_DONTCACHE""",
    "6.15": """
        io_uring_sqe.zcrx_ifq_idx IORING_OP_RECV_ZC IORING_OP_EPOLL_WAIT IORING_OP_READV_FIXED
        IORING_OP_WRITEV_FIXED IORING_ENTER_NO_IOWAIT IORING_FEAT_NO_IOWAIT IORING_REGISTER_ZCRX_IFQ
        io_uring_zcrx_rqe io_uring_zcrx_cqe IORING_ZCRX_AREA_SHIFT IORING_ZCRX_AREA_MASK
        io_uring_zcrx_offsets io_uring_zcrx_area_reg io_uring_zcrx_ifq_reg""",
    "6.16": """
        io_uring_sqe.pipe_flags io_uring_sqe.write_stream io_uring_sqe.__pad4 IORING_OP_PIPE
        IORING_ZCRX_AREA_DMABUF io_uring_zcrx_area_reg.dmabuf_fd FUTEX2_MPOL""",
    "6.17": """
        IORING_SEND_VECTORIZED IORING_NOP_TW SOCKET_URING_OP_TX_TIMESTAMP IORING_TIMESTAMP_HW_SHIFT
        IORING_TIMESTAMP_TYPE_SHIFT IORING_CQE_F_TSTAMP_HW io_timespec""",
    "6.18": """
        IORING_SETUP_CQE_MIXED IORING_URING_CMD_MULTISHOT IORING_NOP_CQE32 IORING_CQE_F_SKIP
        IORING_CQE_F_32 IORING_REGISTER_QUERY io_uring_query_hdr IO_URING_QUERY_OPCODES
        __IO_URING_QUERY_MAX io_uring_query_opcode RWF_NOSIGNAL""",
    "6.19": """
        IORING_SETUP_SQE_MIXED IORING_OP_NOP128 IORING_OP_URING_CMD128 IORING_REGISTER_ZCRX_CTRL
        SOCKET_URING_OP_GETSOCKNAME ZCRX_REG_IMPORT ZCRX_CTRL_FLUSH_RQ ZCRX_CTRL_EXPORT __ZCRX_CTRL_LAST
        zcrx_ctrl_flush_rq zcrx_ctrl_export zcrx_ctrl IO_URING_QUERY_ZCRX IO_URING_QUERY_SCQ
        io_uring_query_zcrx io_uring_query_scq""",
    "7.0": """
        IORING_SETUP_SQ_REWIND IORING_REGISTER_BPF_FILTER io_uring_task_restriction
        ZCRX_FEATURE_RX_PAGE_SIZE io_uring_zcrx_ifq_reg.rx_buf_len io_uring_query_zcrx.features
        IO_URING_BPF_FILTER_DENY_REST IO_URING_BPF_FILTER_SZ_STRICT IO_URING_BPF_CMD_FILTER""",
    "7.1": "IORING_TIMEOUT_IMMEDIATE_ARG io_uring_buf_reg.min_left ZCRX_REG_NODEV",
    "7.2": """
        ZCRX_FEATURE_EVENT ZCRX_EVENT_ALLOC_FAIL ZCRX_EVENT_COPY __ZCRX_EVENT_TYPE_LAST
        ZCRX_EVENT_DESC_FLAG_STATS zcrx_stats zcrx_event_desc io_uring_zcrx_ifq_reg.event_desc
        ZCRX_CTRL_ARM_EVENT zcrx_ctrl_arm_event zcrx_ctrl.zc_arm_event IO_URING_QUERY_ZCRX_EVENT
        io_uring_query_zcrx_event""",
}

#: Name of a constant, a struct or a member ("io_uring_sqe.addr3") -> the first release that has it.
SINCE = {name: release for release, names in _HISTORY.items() for name in names.split()}

#: The names whose release is not certain.
SINCE_UNCERTAIN = frozenset((
    "IO_URING_BPF_FILTER_DENY_REST", "IO_URING_BPF_FILTER_SZ_STRICT", "IO_URING_BPF_CMD_FILTER",
    "RWF_DONTCACHE", "RWF_NOSIGNAL", "FUTEX2_MPOL",
))  # fmt: skip

# ------------------------------------------------------------------------------------------------------
# From values to bytes and back, by the tables alone


def _encode(layout: Layout, path: str, values: Mapping[str, Any]) -> bytes:
    image = bytearray(layout.size)
    given: list[Field] = []
    for name, value in values.items():
        field = layout.fields.get(name)
        if field is None:
            raise TypeError(f"struct {layout.name} has no member {name!r}")
        for other in given:
            if field.offset < other.offset + other.size and other.offset < field.offset + field.size:
                raise ValueError(f"{path}: {other.name} and {name} share bytes of a union, give one of them")
        given.append(field)
        image[field.offset : field.offset + field.size] = _encode_member(
            f"{path}.{name}", field.format, field.size, value
        )
    return bytes(image)


def _encode_member(path: str, format: Any, size: int, value: Any) -> bytes:
    if isinstance(format, str) and len(format) == 1:
        return _encode_int(path, format, value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        image = bytes(value)
        if len(image) != size:
            raise ValueError(f"{path} takes {size} bytes, not {len(image)}")
        return image
    if isinstance(format, Layout):
        if not isinstance(value, dict):
            raise TypeError(f"{path} takes a dict or bytes, not {type(value).__name__}")
        return _encode(format, path, value)
    one, count = (format[-1], int(format[:-1])) if isinstance(format, str) else format
    if isinstance(value, (str, dict)) or not hasattr(value, "__iter__"):
        raise TypeError(f"{path} takes a sequence or bytes, not {type(value).__name__}")
    items = list(value)
    if len(items) != count:
        hint = "" if count else ": a flexible array lies behind the struct"
        raise ValueError(f"{path} takes {count} items, not {len(items)}{hint}")
    return b"".join(
        _encode_member(f"{path}[{number}]", one, size // count, item) for number, item in enumerate(items)
    )


def _encode_int(path: str, letter: str, value: Any) -> bytes:
    try:
        number = index(value)
    except TypeError:
        raise TypeError(f"{path} takes an int, not {type(value).__name__}") from None
    bits = 8 * _SIZES[letter]
    low, high = (0, 2**bits - 1) if letter.isupper() else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    if not low <= number <= high:
        raise ValueError(f"{path}={number} is outside {low}..{high}")
    return struct.pack("=" + letter, number)


def _decode(layout: Layout, buffer: Any, offset: int) -> dict[str, Any]:
    return {
        name: _decode_member(field.format, buffer, offset + field.offset)
        for name, field in layout.fields.items()
    }


def _decode_member(format: Any, buffer: Any, offset: int) -> Any:
    if isinstance(format, str):
        numbers = struct.unpack_from("=" + format, buffer, offset)
        return numbers[0] if len(format) == 1 else numbers
    if isinstance(format, Layout):
        return _decode(format, buffer, offset)
    layout, count = format
    return tuple(_decode(layout, buffer, offset + number * layout.size) for number in range(count))


def _check_room(layout: Layout, buffer: Any, offset: int) -> None:
    room = memoryview(buffer).nbytes
    if not 0 <= offset <= room - layout.size:
        raise ValueError(
            f"struct {layout.name} takes {layout.size} bytes: it does not fit at {offset} of {room}"
        )


# ------------------------------------------------------------------------------------------------------
# Names, for display only


def name_of(prefix: str, value: int) -> str:
    """Find the name of a value.

    Args: prefix names the family, such as "IORING_OP_".
    Returns: the family's first name of that value, or the prefix with the number in angle brackets.
    """
    for name, number in _family(prefix):
        if number == value:
            return name
    return f"{prefix}<{value}>"


def names_of_flags(prefix: str, mask: int) -> list[str]:
    """Find the names of the bits of a mask.

    Args: prefix names the family, such as "IORING_SETUP_".
    Returns: the names from the lowest bit up, then the bits without a name as one number, such as "0x80".
    """
    names: dict[int, str] = {}
    for name, bit in _family(prefix):
        if bit > 0 and not bit & (bit - 1) and mask & bit:
            names.setdefault(bit, name)
    rest = mask & ~sum(names)
    return [names[bit] for bit in sorted(names)] + ([hex(rest)] if rest else [])


def _family(prefix: str) -> Iterator[tuple[str, int]]:
    # One list of opcodes has names of two beginnings.
    prefixes = (prefix, prefix.replace("_REGISTER_", "_UNREGISTER_"))
    for name, value in globals().items():
        if (
            isinstance(value, int)
            and name.startswith(prefixes)
            and not name.endswith(("_BIT", "_SHIFT", "_MASK", "_LAST", "_MAX"))
        ):
            yield name, value
