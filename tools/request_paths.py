#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Find out how this kernel executes each operation: at once, after a poll, or in a worker thread (iou-wrk).

    python3 tools/request_paths.py [OP ...]       a table of all, or of some operations
    python3 tools/request_paths.py --json         the same as data, in one line
    python3 tools/request_paths.py --add < DATA   add such a line to docs/request-paths.json

docs/request-paths.json holds a line for each kernel, and tools/build_docs.py writes the pages from it:

    python3 tools/kernel_matrix run 6.12-amd64 -- TMPDIR=/disk python3 tools/request_paths.py --json |
        python3 tools/request_paths.py --add && python3 tools/build_docs.py

What it is: for each operation and situation a child process with a separate ring, which submits one
request, and then inspects its threads, the polls that fdinfo lists, and the CQ.
Must not know: the answer. A request that fails in an unexpected way is an error of this program.
Invariant: workers live for five seconds after their last request, and the child has no other thread, so the
answer does not depend on time; but a disk may complete before io_uring_enter returns, so each is tried ten
times.
Read next: docs/execution.md.

Workers must be threads of the process that submits (IORING_FEAT_NATIVE_WORKERS: Linux 5.12, and 5.10.162).
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import platform
import re
import select
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "docs" / "request-paths.json"
sys.path.insert(0, str(ROOT))

from rawuring import Ring, buffers, ops, register, uapi  # noqa: E402

#: The reported paths, and their meaning.
PATHS = {
    "at once": "the thread that submits has done it when io_uring_enter returns",
    "poll": "the kernel has armed a poll on the file; what is ready then is done by task work",
    "waits": "it is in another queue (of a page, timer, futex, child); no thread waits for it",
    "worker": "a thread of io-wq, iou-wrk-PID, does it, and may block",
}
FAR_NS, EPOLL_CTL_ADD = 10**12, 1
LACKING = "no such operation"
#: The size of a file and of all memory: a disk has seldom completed it when io_uring_enter returns.
SIZE = 1 << 20


class Place:
    """Everything that requests need, made on demand in a folder of one child."""

    def __init__(self, folder: str, ring: Ring) -> None:
        self.folder, self.ring = folder, ring
        self.kept: list[Any] = []
        #: Fulfils the condition that the request waits for.
        self.wake: Callable[[], object] = lambda: None
        self.room = buffers.allocate(SIZE)
        self.pin = buffers.pin(self.room, writable=True)
        self.memory = self.pin.address

    def keep(self, thing: Any) -> Any:
        self.kept.append(thing)
        return thing

    def path(self, name: str) -> int:
        """Return the address of a path in the folder."""
        return int(self.keep(buffers.path(os.path.join(self.folder, name))).address)

    def file(self, name: str = "file", cold: bool = False, flags: int = 0) -> int:
        """Open a file whose pages are in the cache or not, also for O_DIRECT."""
        path = os.path.join(self.folder, name)
        with open(path, "wb") as file:
            file.write(bytes(SIZE))
            file.flush()
            if cold or flags & os.O_DIRECT:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return os.open(path, os.O_RDWR | flags)

    def pipe(self, data: bytes = b"") -> tuple[int, int]:
        reader, writer = os.pipe()
        os.write(writer, data)
        self.wake = lambda: os.write(writer, b"data")
        return reader, writer

    def pair(self, data: bytes = b"") -> int:
        """Return a connected socket, with data to read or without."""
        a, b = socket.socketpair()
        self.keep((a, b))
        b.send(data)
        self.wake = lambda: b.send(b"data")
        return a.fileno()

    def full(self) -> int:
        """Return a connected socket whose buffer is full."""
        a, b = socket.socketpair()
        self.keep((a, b))
        a.setblocking(False)
        try:
            while True:
                a.send(bytes(65536))
        except BlockingIOError:
            a.setblocking(True)

        def read_all() -> None:
            b.setblocking(False)
            try:
                while b.recv(1 << 20):
                    pass
            except BlockingIOError:
                pass

        self.wake = read_all
        return a.fileno()

    def listener(self, connected: bool) -> int:
        server = self.keep(socket.create_server(("127.0.0.1", 0)))

        def connect() -> None:
            self.keep(socket.create_connection(server.getsockname()))

        if connected:
            connect()
        self.wake = connect
        return int(server.fileno())

    def tcp(self) -> int:
        server = self.keep(socket.create_server(("127.0.0.1", 0)))
        client = self.keep(socket.create_connection(server.getsockname()))
        self.keep(server.accept())
        return int(client.fileno())

    def msghdr(self) -> int:
        return int(self.keep(buffers.msghdr([self.room])).address)

    def iovec(self) -> int:
        return int(self.keep(buffers.iovec([self.room])).address)

    def timespec(self, ns: int) -> int:
        return int(self.keep(buffers.timespec(ns)).address)

    def fixed(self) -> int:
        """Register the memory as buffer 0."""
        register.register_buffers(self.ring, [self.room])
        return self.memory

    def child(self, ended: bool) -> int:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
        self.wake = lambda: os.close(writer)
        if ended:
            os.close(writer)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        return pid

    def group(self) -> None:
        """Provide a buffer as group 1."""
        self.do(ops.prep_provide_buffers, self.memory, SIZE, 1, 1, 0)

    def pending(self, user_data: int = 99) -> None:
        """Start a request that waits: a poll of an empty pipe."""
        self.start(ops.prep_poll_add, self.pipe()[0], select.POLLIN, user_data=user_data)

    def start(self, prep: Callable[..., None], *arguments: Any, **options: Any) -> None:
        prep(self.ring.get_sqe(), *arguments, **options)
        self.ring.submit()

    def do(self, prep: Callable[..., None], *arguments: Any) -> None:
        self.start(prep, *arguments)
        assert self.ring.submit_and_reap(1)[0][1] >= 0

    def named(self, name: str) -> int:
        """Make a file and return the address of its path."""
        os.close(self.file(name))
        return self.path(name)

    def address(self) -> tuple[int, int]:
        """Return the address and the size of a listener's sockaddr."""
        server = self.keep(socket.create_server(("127.0.0.1", 0)))
        found = self.keep(buffers.sockaddr(socket.AF_INET, server.getsockname()))
        return found.address, found.nbytes

    def other_ring(self) -> int:
        return int(self.keep(Ring(2)).fileno())

    def epoll(self, ready: bool) -> int:
        epoll = self.keep(select.epoll())
        epoll.register(self.pipe(b"x" * ready)[0], select.EPOLLIN)
        return int(epoll.fileno())


class Case(NamedTuple):
    """One operation in one situation."""

    opcode: str
    situation: str
    #: Makes its resources; returns the function of ops and its arguments, with options in a dict at the end.
    request: Callable[[Place], tuple[Any, ...]]
    #: Errnos that are a valid result; and those that mean that the kernel lacks this form of the operation.
    errnos: tuple[int, ...] = ()
    lacks: tuple[int, ...] = ()


CWD = uapi.AT_FDCWD
SELECT = {"flags": uapi.IOSQE_BUFFER_SELECT, "buf_group": 1}
HOT, COLD, DIRECT = "file, in the page cache", "file, not in the page cache", "file, O_DIRECT"
ANY = "any"
CASES = [
    Case("NOP", ANY, lambda p: (ops.prep_nop,)),
    Case("NOP", "with IOSQE_ASYNC", lambda p: (ops.prep_nop, {"flags": uapi.IOSQE_ASYNC})),
    Case("READ", HOT, lambda p: (ops.prep_read, p.file(), p.memory, 4096, 0)),
    Case("READ", COLD, lambda p: (ops.prep_read, p.file(cold=True), p.memory, SIZE, 0)),
    Case("READ", DIRECT, lambda p: (ops.prep_read, p.file(flags=os.O_DIRECT), p.memory, SIZE, 0)),
    Case("READ", "/proc", lambda p: (ops.prep_read, os.open("/proc/self/stat", 0), p.memory, 4096, 0)),
    Case("READ", "pipe, with data", lambda p: (ops.prep_read, p.pipe(b"x")[0], p.memory, 4096, -1)),
    Case("READ", "pipe, empty", lambda p: (ops.prep_read, p.pipe()[0], p.memory, 4096, -1)),
    Case("READV", HOT, lambda p: (ops.prep_readv, p.file(), p.iovec(), 1, 0)),
    Case("READ_FIXED", HOT, lambda p: (ops.prep_read_fixed, p.file(), p.fixed(), 4096, 0, 0)),
    Case("READ_MULTISHOT", "pipe, empty", lambda p: (
        p.group(), ops.prep_read_multishot, p.pipe()[0], 0, -1, 1)[1:]),
    Case("WRITE", "file", lambda p: (ops.prep_write, p.file(), p.memory, 4096, 0)),
    Case("WRITE", "file, at its end", lambda p: (ops.prep_write, p.file(), p.memory, 4096, SIZE)),
    Case("WRITE", DIRECT, lambda p: (ops.prep_write, p.file(flags=os.O_DIRECT), p.memory, SIZE, 0)),
    Case("WRITE", "pipe, with room", lambda p: (ops.prep_write, p.pipe()[1], p.memory, 10, -1)),
    Case("WRITEV", "file", lambda p: (ops.prep_writev, p.file(), p.iovec(), 1, 0)),
    Case("WRITE_FIXED", "file", lambda p: (ops.prep_write_fixed, p.file(), p.fixed(), 4096, 0, 0)),
    Case("SPLICE", "from pipe to pipe", lambda p: (
        ops.prep_splice, p.pipe(b"x")[0], -1, p.pipe()[1], -1, 1, 0)),
    Case("TEE", "from pipe to pipe", lambda p: (ops.prep_tee, p.pipe(b"x")[0], p.pipe()[1], 1, 0)),
    Case("PIPE", ANY, lambda p: (ops.prep_pipe, p.memory, 0)),
    Case("FSYNC", "file", lambda p: (ops.prep_fsync, p.file(), 0)),
    Case("SYNC_FILE_RANGE", "file", lambda p: (ops.prep_sync_file_range, p.file(), 4096, 0, 2)),
    Case("FALLOCATE", "file", lambda p: (ops.prep_fallocate, p.file(), 0, 0, 2 * SIZE)),
    Case("FTRUNCATE", "file", lambda p: (ops.prep_ftruncate, p.file(), 100)),
    Case("FADVISE", "POSIX_FADV_SEQUENTIAL", lambda p: (ops.prep_fadvise, p.file(), 0, 0, 2)),
    Case("FADVISE", "POSIX_FADV_WILLNEED", lambda p: (ops.prep_fadvise, p.file(), 0, 0, 3)),
    Case("MADVISE", "MADV_DONTNEED", lambda p: (ops.prep_madvise, p.memory, 4096, 4)),
    Case("OPENAT", "path in the caches", lambda p: (ops.prep_openat, CWD, p.named("x"), os.O_RDONLY, 0)),
    Case("OPENAT", "O_CREAT", lambda p: (ops.prep_openat, CWD, p.path("y"), os.O_CREAT | os.O_WRONLY, 0o600)),
    Case("OPENAT2", "path in the caches", lambda p: (
        ops.prep_openat2, CWD, p.named("x"), p.keep(buffers.open_how(os.O_RDONLY)).address)),
    Case("CLOSE", "file", lambda p: (ops.prep_close, p.file())),
    Case("STATX", "path in the caches", lambda p: (ops.prep_statx, CWD, p.named("x"), 0, 0x7FF, p.memory)),
    Case("GETXATTR", ANY, lambda p: (
        ops.prep_getxattr, p.keep(buffers.path("user.a")).address, p.memory, p.named("x"), 100),
        (errno.ENODATA, errno.EOPNOTSUPP)),
    Case("SETXATTR", ANY, lambda p: (
        ops.prep_setxattr, p.keep(buffers.path("user.a")).address, p.memory, p.named("x"), 0, 1),
        (errno.EOPNOTSUPP,)),
    Case("FGETXATTR", ANY, lambda p: (
        ops.prep_fgetxattr, p.file(), p.keep(buffers.path("user.a")).address, p.memory, 100),
        (errno.ENODATA, errno.EOPNOTSUPP)),
    Case("FSETXATTR", ANY, lambda p: (
        ops.prep_fsetxattr, p.file(), p.keep(buffers.path("user.a")).address, p.memory, 0, 1),
        (errno.EOPNOTSUPP,)),
    Case("UNLINKAT", ANY, lambda p: (ops.prep_unlinkat, CWD, p.named("x"), 0)),
    Case("RENAMEAT", ANY, lambda p: (ops.prep_renameat, CWD, p.named("x"), CWD, p.path("y"), 0)),
    Case("MKDIRAT", ANY, lambda p: (ops.prep_mkdirat, CWD, p.path("d"), 0o700)),
    Case("SYMLINKAT", ANY, lambda p: (ops.prep_symlinkat, p.path("x"), CWD, p.path("s"))),
    Case("LINKAT", ANY, lambda p: (ops.prep_linkat, CWD, p.named("x"), CWD, p.path("y"), 0)),
    Case("SOCKET", ANY, lambda p: (ops.prep_socket, socket.AF_INET, socket.SOCK_STREAM, 0, 0)),
    Case("BIND", ANY, lambda p: (
        ops.prep_bind, p.keep(socket.socket()).fileno(),
        p.keep(buffers.sockaddr(socket.AF_INET, ("127.0.0.1", 0))).address, 16)),
    Case("LISTEN", ANY, lambda p: (ops.prep_listen, p.keep(socket.socket()).fileno(), 5)),
    Case("CONNECT", "to this host", lambda p: (
        ops.prep_connect, p.keep(socket.socket()).fileno(), *p.address())),
    Case("ACCEPT", "somebody waits", lambda p: (ops.prep_accept, p.listener(True), 0, 0, 0)),
    Case("ACCEPT", "nobody waits", lambda p: (ops.prep_accept, p.listener(False), 0, 0, 0)),
    Case("SEND", "with room", lambda p: (ops.prep_send, p.pair(), p.memory, 10, 0)),
    Case("SEND", "without room", lambda p: (ops.prep_send, p.full(), p.memory, 10, 0)),
    Case("SENDMSG", "with room", lambda p: (ops.prep_sendmsg, p.tcp(), p.msghdr(), 0)),
    Case("SEND_ZC", "with room", lambda p: (ops.prep_send_zc, p.tcp(), p.memory, 10, 0, 0)),
    Case("SENDMSG_ZC", "with room", lambda p: (ops.prep_sendmsg_zc, p.tcp(), p.msghdr(), 0)),
    Case("RECV", "with data", lambda p: (ops.prep_recv, p.pair(b"x"), p.memory, 10, 0)),
    Case("RECV", "without data", lambda p: (ops.prep_recv, p.pair(), p.memory, 10, 0)),
    Case("RECV", "multishot, without data", lambda p: (
        p.group(), ops.prep_recv_multishot, p.pair(), 0, 0, 0, SELECT)[1:], (), (errno.EINVAL,)),
    Case("RECVMSG", "without data", lambda p: (ops.prep_recvmsg, p.pair(), p.msghdr(), 0)),
    Case("SHUTDOWN", ANY, lambda p: (ops.prep_shutdown, p.pair(), socket.SHUT_WR)),
    Case("URING_CMD", "a socket, SIOCINQ", lambda p: (
        ops.prep_cmd_sock, uapi.SOCKET_URING_OP_SIOCINQ, p.tcp(), 0, 0, 0, 0), (), (errno.EOPNOTSUPP,)),
    Case("POLL_ADD", "ready", lambda p: (ops.prep_poll_add, p.pipe(b"x")[0], select.POLLIN)),
    Case("POLL_ADD", "not ready", lambda p: (ops.prep_poll_add, p.pipe()[0], select.POLLIN)),
    Case("POLL_REMOVE", ANY, lambda p: (p.pending(), ops.prep_poll_remove, 99)[1:]),
    Case("EPOLL_CTL", ANY, lambda p: (
        ops.prep_epoll_ctl, p.keep(select.epoll()).fileno(), p.pipe()[0], EPOLL_CTL_ADD,
        p.keep(buffers.epoll_event(select.EPOLLIN, 1)).address)),
    Case("EPOLL_WAIT", "ready", lambda p: (ops.prep_epoll_wait, p.epoll(True), p.memory, 1, 0)),
    Case("EPOLL_WAIT", "not ready", lambda p: (ops.prep_epoll_wait, p.epoll(False), p.memory, 1, 0)),
    Case("TIMEOUT", ANY, lambda p: (
        setattr(p, "wake", lambda: p.start(ops.prep_timeout_remove, TOKEN, 0, 98)),
        ops.prep_timeout, p.timespec(FAR_NS), 0, 0)[1:], (errno.ECANCELED,)),
    Case("TIMEOUT_REMOVE", ANY, lambda p: (
        p.start(ops.prep_timeout, p.timespec(FAR_NS), 0, 0, 99), ops.prep_timeout_remove, 99, 0)[1:]),
    Case("ASYNC_CANCEL", "what waits", lambda p: (p.pending(), ops.prep_cancel64, 99, 0)[1:]),
    Case("FILES_UPDATE", ANY, lambda p: (
        register.register_files(p.ring, [-1] * 4), ops.prep_files_update,
        p.keep(buffers.ints([p.file()])).address, 1, 0)[1:]),
    Case("FIXED_FD_INSTALL", ANY, lambda p: (
        register.register_files(p.ring, [p.file()]), ops.prep_fixed_fd_install, 0, 0)[1:]),
    Case("PROVIDE_BUFFERS", ANY, lambda p: (ops.prep_provide_buffers, p.memory, SIZE, 1, 1, 0)),
    Case("REMOVE_BUFFERS", ANY, lambda p: (p.group(), ops.prep_remove_buffers, 1, 1)[1:]),
    Case("MSG_RING", "to a ring of this thread", lambda p: (ops.prep_msg_ring, p.other_ring(), 0, 7, 0)),
    Case("WAITID", "a child that has ended", lambda p: (ops.prep_waitid, 1, p.child(True), p.memory, 4, 0)),
    Case("WAITID", "a child that runs", lambda p: (ops.prep_waitid, 1, p.child(False), p.memory, 4, 0)),
    Case("FUTEX_WAIT", "nobody has woken it", lambda p: (
        setattr(p, "wake", lambda: p.start(ops.prep_futex_wake, p.memory, 1, 0xFFFFFFFF, 2, 0, 98)),
        ops.prep_futex_wait, p.memory, 0, 0xFFFFFFFF, 2, 0)[1:]),
    Case("FUTEX_WAKE", ANY, lambda p: (ops.prep_futex_wake, p.memory, 1, 0xFFFFFFFF, 2, 0)),
]  # fmt: skip
TOKEN = 77


def path_of(case: Case, folder: str, ring: Ring) -> str:
    """Do the request; return its path."""
    place = Place(folder, ring)
    prep, *arguments = case.request(place)
    options = arguments.pop() if arguments and isinstance(arguments[-1], dict) else {}
    prep(ring.get_sqe(), *arguments, user_data=TOKEN, **options)
    ring.submit()
    at_once = bool(ring.cq.ready())
    polls = [] if at_once else polls_of(ring)
    if not at_once and not workers():
        place.wake()
    results = {}
    while TOKEN not in results:
        cqes = ring.submit_and_reap(1, 10 * 10**9)
        if not cqes:
            return "no answer"
        results.update((user_data, res) for user_data, res, _ in reversed(cqes))
    res = results[TOKEN]
    if -res in case.lacks:
        return LACKING
    if res < 0 and -res not in case.errnos:
        return f"failed: {errno.errorcode.get(-res, res)}"
    if workers():
        return "worker"
    return "at once" if at_once else "poll" if polls else "waits"


def workers() -> int:
    """Count the other threads of this process."""
    return len(os.listdir("/proc/self/task")) - 1


def polls_of(ring: Ring) -> list[str]:
    """List the polls that the kernel has armed for the requests of a ring."""
    lines = Path(f"/proc/self/fdinfo/{ring.fileno()}").read_text().splitlines()
    return [line for line in lines[lines.index("PollList:") + 1 :] if line.startswith("  op=")]


def in_a_child(case: Case) -> str:
    """Return the path of a request, in a process without any worker so far."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        with open(reader, encoding="utf-8") as answer:
            found = answer.read()
        os.waitpid(pid, 0)
        return found
    try:
        with tempfile.TemporaryDirectory(prefix="rawuring-paths-") as folder, Ring(8) as ring:
            os.write(writer, path_of(case, folder, ring).encode())
    except Exception as error:
        os.write(writer, f"failed: {type(error).__name__}: {error}".encode())
    finally:
        os._exit(0)


def measure(names: list[str]) -> dict[str, dict[str, str]]:
    """Return the path of each case, by operation and situation."""
    with Ring(2) as ring:
        known = register.register_probe(ring)
    found: dict[str, dict[str, str]] = {}
    for case in CASES:
        if names and case.opcode not in names:
            continue
        if not known.get(getattr(uapi, f"IORING_OP_{case.opcode}")):
            path = LACKING
        else:
            path = in_a_child(case)
        for _ in range(9):
            if case.situation in (COLD, DIRECT) and path == "at once":
                path = in_a_child(case)  # the disk may have completed before the system call returned
        found.setdefault(case.opcode, {})[case.situation] = path
    return found


def main() -> int:
    """Run the command; return 1 if a request failed unexpectedly."""
    parser = argparse.ArgumentParser(description="Find out how this kernel executes each operation.")
    parser.add_argument("names", nargs="*", metavar="OP", help="an operation such as READ (default: all)")
    parser.add_argument("--json", action="store_true", help="print one line of data instead")
    parser.add_argument("--add", action="store_true", help=f"add such a line from stdin to {RECORD.name}")
    options = parser.parse_args()
    wrong = set(options.names) - {case.opcode for case in CASES}
    if wrong:
        parser.error(f"no such operation here: {', '.join(sorted(wrong))}")
    if options.add:
        add(sys.stdin.read(), RECORD)
        return 0
    with Ring(2) as ring:
        if not ring.features & uapi.IORING_FEAT_NATIVE_WORKERS:
            print("this kernel has no workers that are threads of the process (5.12)", file=sys.stderr)
            return 77
    found = measure(options.names)
    if options.json:
        print(json.dumps({"kernel": kernel(), "filesystem": filesystem(), "paths": found}))
    else:
        for opcode, situations in found.items():
            for situation, path in situations.items():
                print(f"{opcode:18}{situation:30}{path}")
    paths = [path for situations in found.values() for path in situations.values()]
    return 1 if any(path.startswith(("failed", "no answer")) for path in paths) else 0


def kernel() -> str:
    """Return the kernel's version; Debian's releases name a series: 5.10.0-32 may be 5.10.223."""
    named = re.search(r"Debian ([0-9.]+)", platform.version()) or re.match(r"([0-9.]+)", platform.release())
    assert named
    return named[1]


def add(text: str, record: Path) -> None:
    """Put the line of data in a text into a file of lines, replacing that of the same kernel series."""
    new = json.loads(next(line for line in text.splitlines() if line.startswith("{")))
    old = json.loads(record.read_text(encoding="utf-8")) if record.exists() else []
    known = {series(each["kernel"]): each for each in [*old, new]}
    lines = ",\n".join(json.dumps(known[key]) for key in sorted(known))
    record.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def series(kernel: str) -> tuple[int, ...]:
    """Return (6, 12) for 6.12.117."""
    return tuple(int(part) for part in kernel.split(".")[:2])


def filesystem() -> str:
    """Return the type of the files' file system."""
    here, kind, best = os.path.realpath(tempfile.gettempdir()), "?", -1
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, name = line.split()[:3]
        if os.path.commonpath((here, where)) == where and len(where) > best:
            kind, best = name, len(where)
    return kind


if __name__ == "__main__":
    sys.exit(main())
