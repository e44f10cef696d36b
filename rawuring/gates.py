# SPDX-License-Identifier: MIT
# pyright: basic
"""What kernels of a certain age do wrong or otherwise, and what the library does about it.

What it is: a table. Features are found by trying; this is for what no trying shows.
Mirrors: the checks of versions in libuv ``src/unix/linux.c``.
Must not know: anything else of the package.
Invariant: no row only says that something came with a release: that is uapi.SINCE.
Read next: syscalls.py.
"""

from __future__ import annotations

import os
import sys
from collections import namedtuple


class Gate(namedtuple("Gate", "name kernels what library source")):
    """Describe one behaviour of some kernels.

    ``kernels`` are pairs of the first release that has it and the first that has it no longer; empty is open.
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
        "Ring drops a wish for SQPOLL; a required flag is taken at its word", "libuv 4089, 4093",
    ),
    Gate(
        "close-etxtbsy", (("5.6", "5.15.90"), ("5.16", "6.1")),
        "a program that CLOSE has closed may answer ETXTBSY to execve",
        "never closes a descriptor of yours through the ring", "libuv 4059, 4141",
    ),
    Gate(
        "tty-poll", (("", "5.8"),), "POLL_ADD on a terminal answers EINVAL, for it waits in two queues",
        "the monitor watches through an epoll set what POLL_ADD does not take", "liburing 117",
    ),
    Gate(
        "enable-nothing", (("5.10", "5.10.162"),), "ENABLE_RINGS answers 0 and leaves the ring disabled",
        "Ring.enable() looks, and raises", _SEEN,
    ),
    Gate(
        "lost-poll-update",
        (
            ("5.10.162", "5.11"), ("5.19", "6.1.160"), ("6.2", "6.6.120"), ("6.7", "6.12.64"),
            ("6.13", "6.18.3"),
        ),
        "POLL_UPDATE of a one-shot poll to events that are there already answers 0 and loses the poll",
        "nothing: yours to mind: remove the poll and add another",
        "seen on 5.10.223 and 6.16.12; Linux commit 84230ad2d2af",
    ),
    Gate(
        "shared-buffers", (("", "5.12"),), "memory that is shared cannot be registered: EOPNOTSUPP",
        "buffers.allocate() asks for private memory", _SEEN,
    ),
    Gate(
        "msg-control", (("", "5.12"),),
        "SENDMSG refuses ancillary data with EINVAL, RECVMSG room for it, but on TCP",
        "nothing: yours to mind", _SEEN,
    ),
    Gate(
        "memlock", (("", "5.12"),), "the memory of rings counts against RLIMIT_MEMLOCK",
        "the refusal names the limit", "io_uring_setup(2)",
    ),
    Gate(
        "memlock-again", (("6.14", ""),), "the memory of rings counts against RLIMIT_MEMLOCK again",
        "the refusal names the limit", _SEEN,
    ),
    Gate(
        "provide-buffers-res", (("", "5.19"),),
        "PROVIDE_BUFFERS may answer with the number of the group or of the buffers, and not with 0",
        "nothing: yours to mind: a result that is not negative is success",
        "seen on 5.10.46, not on 6.1 (DESIGN.md); io_add_buffers of 5.19",
    ),
    Gate(
        "cancel-op-ignored", (("5.19", "6.6"),), "IORING_ASYNC_CANCEL_OP is ignored instead of refused",
        "nothing: yours to mind", _SEEN,
    ),
    Gate(
        "drain-starts", (("", "6.12"),),
        "DRAIN orders starts: the request behind the drained one may end first",
        "nothing: yours to mind: link what must end in order", "seen on 6.1, not on 6.12 (DESIGN.md)",
    ),
    Gate(
        "multishot-takes-first", (("5.19", "6.18"),),
        "a multishot receive takes a buffer before it looks for data, so an empty group ends it at once",
        "nothing: yours to mind: give buffers back, then arm again", "seen on 6.12, not on 6.18 (DESIGN.md)",
    ),
    Gate(
        "buffer-tags-silent", (("5.13", "6.13"),), "tags of buffers are not posted when all are unregistered",
        "nothing: yours to mind: update them one by one", _SEEN,
    ),
    Gate(
        "resize-wide", (("6.13", "6.18.27"), ("6.19", "7.0.4")),
        "resizing a ring mixes up waiting entries of a ring with SQE128 or CQE32",
        "resize_rings() refuses until none waits",
        "seen on 6.18.15, not on 6.18.44; Linux commit 45cd95763e19",
    ),
    Gate(
        "bundle-single", (("6.16", "6.17"),), "RECV with RECVSEND_BUNDLE takes one buffer at a time",
        "nothing: it costs speed only", "seen on 6.16.12, not on 6.12 and 6.17.13",
    ),
    Gate(
        "unix-scm-inq", (("6.17", "6.18.4"),),
        "RECVMSG on a UNIX stream adds SCM_INQ unasked; one that waited has lost the room of another item",
        "nothing: yours to mind: make room for two items more",
        "seen on 6.17.13, not on 6.18.15; Linux commit 4d1442979e4a",
    ),
    Gate(
        "pbuf-highmem", (("5.19", "6.6"),),
        "a 32-bit kernel with high memory crashes when it takes from a ring of buffers in user memory",
        "setup_buf_ring() refuses that where there is high memory; kernel_memory=True works from 6.4",
        "seen on 6.1.176 i386; fixed in io_uring/kbuf.c io_pin_pbuf_ring",
    ),
    Gate(
        "iowait", (("", "6.15"),), "an idle wait counts as iowait in the statistics",
        "waits ask for IORING_ENTER_NO_IOWAIT where the kernel has it", "io-uring list, 2025",
    ),
)  # fmt: skip


def version(release: str) -> tuple[int, ...]:
    """Return the numbers at the beginning of a kernel release.

    Args: release such as "5.10.46", "6.12.5-cloud-amd64" or "7.2".
    Returns: such as (5, 10, 46); empty for what does not begin with a number.
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
    """Return the release of the running kernel, with the number of its last stable patches.

    Distributions freeze what uname says: Debian's 5.10.0-32 is 5.10.223, and says so in another field; Ubuntu
    says it in a file of its own.

    Returns: such as "5.10.223"; empty for what is not Linux.
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
    """List what applies to a kernel.

    Args: release as uname says it; None is the running kernel.
    Returns: rows of GATES; none for what is not Linux.
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
