# SPDX-License-Identifier: MIT
# pyright: basic
"""The probe as another user would see it: ``--as USER`` and ``--unprivileged``.

What it is: a child that drops its privileges and does the rest; its output and exit code are the parent's.
Mirrors: bpftool feature probe unprivileged, setpriv(1).
Must not know: the questions.
Invariant: this process keeps its credentials; the child never gets them back.
Read next: probe.py.

Unless said otherwise, any thread may call.
"""

from __future__ import annotations

import io
import os
import sys
from collections import namedtuple

from . import seccomp, syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

NOBODY = 65534  # the kernel's overflowuid


class Identity(namedtuple("Identity", "uid gid groups")):
    """The user to become."""

    __slots__ = ()

    uid: int
    gid: int
    groups: tuple[int, ...]


UNPRIVILEGED = Identity(NOBODY, NOBODY, ())


def find(user: str | None) -> Identity:
    """Look up a user by name or number.

    Args: user is a name, or a number, which may be unknown to this machine; None means nobody, in no group.
    Returns: the user with their groups; an unknown number has itself as its only group.
    Raises: ValueError for a name that is unknown.
    """
    if user is None:
        return UNPRIVILEGED
    try:
        import pwd

        entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except (KeyError, OverflowError):
        if user.isdecimal() and int(user) < 1 << 32:
            return Identity(int(user), int(user), ())
        raise ValueError(f"--as {user}: this machine knows no such user") from None
    except ImportError:
        raise ValueError("--as: this system has no users in the sense of Unix") from None
    return Identity(entry.pw_uid, entry.pw_gid, tuple(os.getgrouplist(entry.pw_name, entry.pw_gid)))


def run_as(whom: Identity, work: Callable[[], int]) -> int:
    """Run work in a child that has become another user, and print the child's output.

    Args: work prints to sys.stdout and returns an exit code; its modules should be imported before, because
        the child may be unable to read them.
    Returns: the exit code that work returned.
    Raises: OSError if this process may not become that user, with the advice to run as root.
    Threads: the main thread.
    """
    import posix

    sys.stdout.flush()
    read_end, write_end = os.pipe()
    pid = seccomp._fork(posix.fork)
    if not pid:
        code = 255
        try:
            os.close(read_end)
            code = _work_as(whom, work, write_end)
        finally:
            os._exit(code)
    os.close(write_end)
    with open(read_end, "rb") as file:
        status, _, text = file.read().partition(b"\n")
    posix.waitpid(pid, 0)
    kind, _, value = status.decode().partition(" ")
    if kind == "refused":
        what = f"become uid {whom.uid}: {os.strerror(int(value))}: run this as root"
        raise PermissionError(int(value), what)
    if kind != "done":
        raise OSError(f"the child that became uid {whom.uid} ended early")
    sys.stdout.write(text.decode())
    return int(value)


def _work_as(whom: Identity, work: Callable[[], int], out: int) -> int:
    try:
        if (os.getuid(), os.getgid(), set(os.getgroups())) != (whom.uid, whom.gid, set(whom.groups)):
            os.setgroups(whom.groups)
            os.setgid(whom.gid)
            os.setuid(whom.uid)
    except OSError as error:
        os.write(out, f"refused {error.errno}\n".encode())
        return 0
    _stay_readable()
    sys.stdout = io.StringIO()
    code = work()
    with open(out, "wb") as file:
        file.write(f"done {code}\n".encode() + sys.stdout.getvalue().encode())
    return 0


def _stay_readable() -> None:
    """Regain access to /proc/self, which belongs to root after a change of the user."""
    try:
        syscalls._load()
    except (OSError, ImportError, AttributeError):
        return
    syscalls._libc.prctl(seccomp._PR_SET_DUMPABLE, 1, None, None, None)
