# SPDX-License-Identifier: MIT
"""The cells of the matrix: which kernel, for which machine, under which Python, and the sets of them.

What it is: data. A kernel is named by a pattern for Debian's package names, of which the newest is used.
Must not know: how cells are fetched or booted.
Invariant: a cell's name says everything that matters.
Read next: debian.py.
"""

from __future__ import annotations

from typing import NamedTuple


class Cell(NamedTuple):
    """Name one kernel and one user land. ``machine`` is Debian's name, or "uml" for user-mode Linux."""

    name: str
    suite: str
    machine: str
    package: str
    root: str
    user: str
    boot: str = ""
    cpu: str = ""
    note: str = ""
    python: str = "python3"
    #: Its io_uring system calls fail with ENOSYS, through a filter.
    absent: bool = False

    @property
    def emulated(self) -> bool:
        """Tell whether its Python is 10 to 30 times slower than here."""
        return self.machine != "uml"


def _uml(
    name: str, suite: str, boot: str = "", note: str = "", python: str = "python3", absent: bool = False
) -> Cell:
    return Cell(name, suite, "uml", "user-mode-linux", suite, "amd64", boot, "", note, python, absent)


def _debian(
    name: str, suite: str, machine: str, package: str, root: str = "", cpu: str = "", note: str = "",
    boot: str = "",
) -> Cell:  # fmt: skip
    return Cell(name, suite, machine, package, root or suite, machine, boot, cpu, note)


_OFF = "sysctl.kernel.io_uring_disabled=2"
_NEWER = "trixie-backports"


def _cloud(release: str, kind: str = "image") -> str:
    return rf"linux-{kind}-{release}\.[0-9]+\+deb13[.0-9]*-cloud-amd64"


CELLS = {
    cell.name: cell
    for cell in (
        _uml("5.10um", "bullseye", note="5.10.46; the later 5.10 of Debian have the io_uring of 5.15"),
        _uml("6.1um", "bookworm"),
        _uml("6.12um", "trixie"),
        _uml("7.2um", "sid"),
        _uml("6.12um-off", "trixie", _OFF, "kernel.io_uring_disabled=2: only the fallbacks work"),
        _uml("7.2um-off", "sid", _OFF, "kernel.io_uring_disabled=2: only the fallbacks work"),
        _uml("6.12um-absent", "trixie", note="ENOSYS, as before 5.1 or without CONFIG_IO_URING", absent=True),
        _uml("7.2um-python3.15", "sid", python="python3.15", note="the newest CPython"),
        _uml("7.2um-pypy3", "sid", python="pypy3"),
        _debian("5.10-amd64", "bullseye", "amd64", r"linux-image-5\.10\.0-[0-9]+-cloud-amd64"),
        _debian("6.1-amd64", "bookworm", "amd64", r"linux-image-6\.1\.0-[0-9]+-cloud-amd64"),
        _debian("6.12-amd64", "trixie", "amd64", _cloud(r"6\.12")),
        _debian("6.16-amd64", _NEWER, "amd64", _cloud(r"6\.16"), "trixie"),
        _debian("6.17-amd64", _NEWER, "amd64", _cloud(r"6\.17"), "trixie"),
        _debian("6.18-amd64", _NEWER, "amd64", _cloud(r"6\.18"), "trixie"),
        _debian("6.19-amd64", _NEWER, "amd64", _cloud(r"6\.19", "binary"), "trixie"),
        _debian("7.0-amd64", _NEWER, "amd64", _cloud(r"7\.0", "binary"), "trixie"),
        _debian("7.1-amd64", _NEWER, "amd64", _cloud(r"7\.1", "binary"), "trixie"),
        _debian("7.2-amd64", _NEWER, "amd64", _cloud(r"7\.2", "binary"), "sid"),
        _debian("7.3-amd64", _NEWER, "amd64", _cloud(r"7\.3", "binary"), "sid"),
        _debian("5.10-i386", "bullseye", "i386", r"linux-image-5\.10\.0-[0-9]+-686"),
        _debian("6.1-i386", "bookworm", "i386", r"linux-image-6\.1\.0-[0-9]+-686-pae"),
        Cell(
            "6.12-amd64-i386", "trixie", "amd64", _cloud(r"6\.12"), "trixie", "i386",
            note="a 32-bit Python on the 64-bit kernel",
        ),
        _debian("5.10-arm64", "bullseye", "arm64", r"linux-image-5\.10\.0-[0-9]+-cloud-arm64"),
        _debian("6.1-arm64", "bookworm", "arm64", r"linux-image-6\.1\.0-[0-9]+-cloud-arm64"),
        _debian("6.12-arm64", "trixie", "arm64", _cloud(r"6\.12").replace("amd64", "arm64")),
        _debian(
            "6.12-arm64-16k", "trixie", "arm64", r"linux-image-6\.12\.[0-9]+\+deb13[.0-9]*-arm64-16k",
            cpu="cortex-a76", note="16 KiB pages",
        ),
        _debian("7.3-arm64", _NEWER, "arm64", _cloud(r"7\.3", "binary").replace("amd64", "arm64"), "sid"),
        _debian("6.1-armhf", "bookworm", "armhf", r"linux-image-6\.1\.0-[0-9]+-armmp-lpae"),
        _debian("6.12-armhf", "trixie", "armhf", r"linux-image-6\.12\.[0-9]+\+deb13[.0-9]*-armmp-lpae"),
        _debian("6.1-s390x", "bookworm", "s390x", r"linux-image-6\.1\.0-[0-9]+-s390x", note="big endian"),
        _debian(
            "6.12-s390x", "trixie", "s390x", r"linux-image-6\.12\.[0-9]+\+deb13[.0-9]*-s390x",
            note="big endian",
        ),
        _debian(
            "7.2-s390x", "sid", "s390x", r"linux-binary-7\.[0-9]+\.[0-9]+\+deb14[.0-9]*-s390x",
            note="big endian",
        ),
        _debian("6.12-riscv64", "trixie", "riscv64", r"linux-image-6\.12\.[0-9]+\+deb13[.0-9]*-riscv64"),
        _debian("7.2-riscv64", "sid", "riscv64", r"linux-binary-7\.[0-9]+\.[0-9]+\+deb14[.0-9]*-riscv64"),
        _debian(
            "7.2-loong64", "sid", "loong64", r"linux-binary-7\.[0-9]+\.[0-9]+\+deb14[.0-9]*-loong64",
            note="16 KiB pages; qemu 10 or newer",
            boot="initcall_blacklist=i8042_init",  # it probes for a keyboard at ports that this machine lacks
        ),
        _debian("6.1-ppc64el", "bookworm", "ppc64el", r"linux-image-6\.1\.0-[0-9]+-powerpc64le"),
        _debian(
            "6.12-ppc64el", "trixie", "ppc64el", r"linux-image-6\.12\.[0-9]+\+deb13[.0-9]*-powerpc64le",
        ),
        _debian(
            "6.12-ppc64el-64k", "trixie", "ppc64el",
            r"linux-image-6\.12\.[0-9]+\+deb13[.0-9]*-powerpc64le-64k", note="64 KiB pages",
        ),
        _debian("6.1-mips64el", "bookworm", "mips64el", r"linux-image-6\.1\.0-[0-9]+-5kc-malta"),
        _debian("6.1-mipsel", "bookworm", "mipsel", r"linux-image-6\.1\.0-[0-9]+-4kc-malta"),
    )
}  # fmt: skip

STAND_INS = {
    # If a mirror is in the middle of an update, an older suite is often complete.
    "6.12-s390x": "6.1-s390x", "6.12-arm64": "6.1-arm64", "6.12-armhf": "6.1-armhf",
    # User-mode kernels before 7.2 do not run on a processor with AMX.
    "5.10um": "5.10-amd64", "6.1um": "6.1-amd64", "6.12um": "6.12-amd64", "6.12um-off": "7.2um-off",
}  # fmt: skip

SETS = {
    "uml": (
        "5.10um", "6.1um", "6.12um", "7.2um", "6.12um-off", "7.2um-off", "6.12um-absent", "7.2um-python3.15",
        "7.2um-pypy3",
    ),
    "quick": ("5.10um", "6.1um", "6.12um", "7.2um", "6.12um-off", "6.12-arm64-16k", "6.12-s390x"),
    # For a change: the oldest, the newest CPython, big endian.
    "ci": ("5.10um", "7.2um", "6.12-s390x"),
    "arch": (
        "6.1-i386", "6.12-arm64", "6.12-arm64-16k", "6.12-armhf", "6.12-riscv64", "6.12-s390x",
        "6.12-ppc64el-64k", "6.1-mips64el",
    ),
    "full": tuple(CELLS),
}  # fmt: skip
