# SPDX-License-Identifier: MIT
# pyright: basic
"""The defects and differences of kernels of a certain age, and how the library handles them.

What it is: a table. Features are probed; this table lists what probing cannot reveal.
Mirrors: the checks of versions in libuv ``src/unix/linux.c``.
Must not know: any other module of the package.
Invariant: no row merely says that a release introduced something: that is uapi.SINCE.
Read next: syscalls.py.
"""

from __future__ import annotations

import os
import sys
from collections import namedtuple


class Gate(namedtuple("Gate", "name kernels what library source")):
    """Describe one behaviour of some kernels.

    ``kernels`` are pairs of the first release with the behaviour and the first without it; an empty string is
    an open end.
    """

    __slots__ = ()

    name: str
    kernels: tuple[tuple[str, str], ...]
    what: str
    library: str
    source: str


_SEEN = "seen here (DESIGN.md)"

GATES = (
    Gate(
        "sqpoll-burns", (("", "5.10.186"),), "an idle SQPOLL thread takes a whole CPU",
        "Ring drops a wish for SQPOLL; a required flag is passed on", "libuv 4089, 4093",
    ),
    Gate(
        "close-etxtbsy", (("5.6", "5.15.90"), ("5.16", "6.1")),
        "a program that CLOSE has closed may answer ETXTBSY to execve",
        "never closes a descriptor of yours through the ring", "libuv 4059, 4141",
    ),
    Gate(
        "tty-poll", (("", "5.8"),),
        "POLL_ADD on a terminal fails with EINVAL, because a terminal waits in two queues",
        "the monitor watches descriptors that POLL_ADD rejects through an epoll set", "liburing 117",
    ),
    Gate(
        "enable-nothing", (("5.10", "5.10.162"),), "ENABLE_RINGS returns 0 and leaves the ring disabled",
        "Ring.enable() checks, and raises", _SEEN,
    ),
    Gate(
        "lost-poll-update",
        (
            ("5.10.162", "5.11"), ("5.19", "6.1.160"), ("6.2", "6.6.120"), ("6.7", "6.12.64"),
            ("6.13", "6.18.3"),
        ),
        "POLL_UPDATE of a one-shot poll to events that are already true returns 0 and loses the poll",
        "no workaround, your code must handle it: remove the poll and add another",
        "seen on 5.10.223 and 6.16.12; Linux commit 84230ad2d2af",
    ),
    Gate(
        "shared-buffers", (("", "5.12"),), "registering shared memory fails with EOPNOTSUPP",
        "buffers.allocate() maps private memory", _SEEN,
    ),
    Gate(
        "msg-control", (("", "5.12"),),
        "SENDMSG with ancillary data, and RECVMSG with room for it, fail with EINVAL except on TCP",
        "no workaround, your code must handle it", _SEEN,
    ),
    Gate(
        "memlock", (("", "5.12"),), "the memory of rings counts against RLIMIT_MEMLOCK",
        "the error names the limit", "io_uring_setup(2)",
    ),
    Gate(
        "memlock-again", (("6.14", ""),), "the memory of rings counts against RLIMIT_MEMLOCK again",
        "the error names the limit", _SEEN,
    ),
    Gate(
        "provide-buffers-res", (("", "5.19"),),
        "PROVIDE_BUFFERS may complete with the number of the group or of the buffers instead of 0",
        "no workaround, your code must handle it: any result that is not negative is success",
        "seen on 5.10.46, not on 6.1 (DESIGN.md); io_add_buffers of 5.19",
    ),
    Gate(
        "cancel-op-ignored", (("5.19", "6.6"),), "IORING_ASYNC_CANCEL_OP is ignored instead of rejected",
        "no workaround, your code must handle it", _SEEN,
    ),
    Gate(
        "drain-starts", (("", "6.12"),),
        "DRAIN orders only the starts: the request after the drained one may end first",
        "no workaround, your code must handle it: link requests that must end in order",
        "seen on 6.1, not on 6.12 (DESIGN.md)",
    ),
    Gate(
        "multishot-takes-first", (("5.19", "6.18"),),
        "a multishot receive takes a buffer before it looks for data, so an empty group ends it at once",
        "no workaround, your code must handle it: return buffers, then arm again",
        "seen on 6.12, not on 6.18 (DESIGN.md)",
    ),
    Gate(
        "buffer-tags-silent", (("5.13", "6.13"),), "tags of buffers are not posted when all are unregistered",
        "no workaround, your code must handle it: update them one by one", _SEEN,
    ),
    Gate(
        "resize-wide", (("6.13", "6.18.27"), ("6.19", "7.0.4")),
        "resizing a ring with SQE128 or CQE32 mixes up its waiting entries",
        "resize_rings() raises until no entry waits",
        "seen on 6.18.15, not on 6.18.44; Linux commit 45cd95763e19",
    ),
    Gate(
        "bundle-single", (("6.16", "6.17"),), "RECV with RECVSEND_BUNDLE takes one buffer at a time",
        "no workaround: only speed is lost", "seen on 6.16.12, not on 6.12 and 6.17.13",
    ),
    Gate(
        "unix-scm-inq", (("6.17", "6.18.4"),),
        "RECVMSG on a UNIX stream adds SCM_INQ unasked; one that had to wait has lost room for another item",
        "no workaround, your code must handle it: make room for two more items",
        "seen on 6.17.13, not on 6.18.15; Linux commit 4d1442979e4a",
    ),
    Gate(
        "pbuf-highmem", (("5.19", "6.6"),),
        "a 32-bit kernel with high memory crashes when it takes a buffer from a ring in user memory",
        "setup_buf_ring() rejects it on machines with high memory; kernel_memory=True works from 6.4 on",
        "seen on 6.1.176 i386; fixed in io_uring/kbuf.c io_pin_pbuf_ring",
    ),
    Gate(
        "worker-leaves", (("6.18.11", "6.19"), ("6.19.1", "")),
        "a request for a worker may never start if the thread just closed its last ring and made another: "
        "the worker that was to take it ends, and only the thread's next such request starts one",
        "no workaround, your code must handle it: keep a ring open in a thread that makes and closes many",
        "seen on 7.2 in user mode, 1 of 10,000 rings; Linux commits 38aa434ab933, 912146614894",
    ),
    Gate(
        "iowait", (("", "6.15"),), "an idle wait counts as iowait in the statistics",
        "waits set IORING_ENTER_NO_IOWAIT where the kernel supports it", "io-uring list, 2025",
    ),
)  # fmt: skip


def version(release: str) -> tuple[int, ...]:
    """Return the numbers at the beginning of a kernel release.

    Args: release such as "5.10.46", "6.12.5-cloud-amd64" or "7.2".
    Returns: such as (5, 10, 46); empty for a text that does not begin with a number.
    """
    numbers = []
    for part in release.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
        if digits != part:
            break
    return tuple(numbers)


def running() -> str:
    """Return the release of the running kernel, including the number of its latest stable release.

    Distributions freeze the release in uname: Debian's 5.10.0-32 is 5.10.223, which another field of uname
    contains; Ubuntu has it in a separate file.

    Returns: such as "5.10.223"; empty on systems other than Linux.
    """
    if not sys.platform.startswith(("linux", "android")):
        return ""
    name = os.uname()
    try:
        with open("/proc/version_signature", encoding="ascii", errors="replace") as file:
            words = file.read().split()
    except OSError:
        words = []
    words += name.version.partition("Debian ")[2].split()[:1]
    same = [word for word in words if version(word)[:2] == version(name.release)[:2]]
    return max([name.release, *same], key=version)


def applying(release: str | None = None) -> tuple[Gate, ...]:
    """List the rows that apply to a kernel.

    Args: release as uname reports it; None means the running kernel.
    Returns: rows of GATES; none on systems other than Linux.
    """
    if release is None:
        release = running()
    numbers = version(release)
    if not numbers:
        return ()
    return tuple(
        gate
        for gate in GATES
        if any(
            version(since) <= numbers and (not below or numbers < version(below))
            for since, below in gate.kernels
        )
    )


def applies(name: str, release: str | None = None) -> bool:
    """Tell whether one row applies to a kernel.

    Args: name of a row; release as for applying().
    """
    return any(gate.name == name for gate in applying(release))
