# SPDX-License-Identifier: MIT
"""Booting a cell with a folder in it, running a command there, and taking its status and output.

What it is: the archive that the kernel unpacks into memory, the command lines of user-mode Linux and qemu,
and the parser of the guest's console.
Must not know: the sources of kernels and trees, or what the command does.
Invariant: no guest outlives its time limit, and none is left behind.
Read next: __main__.py.
"""

from __future__ import annotations

import os
import platform
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .cells import Cell

HERE = Path(__file__).resolve().parent
MEMORY_MB, DISK_MB = 1024, 512
NO_REPORT, TOO_LATE = 125, 124
KVM, TCG = "kvm", "tcg,tb-size=256"
_WITH_SBIN = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}  # of mkfs
# Debian's architecture -> the machine whose CPU runs it without emulation.
_HOST_OF = {"amd64": "x86_64", "arm64": "aarch64", "s390x": "s390x", "ppc64el": "ppc64le"}

# Debian's architecture -> the program's suffix, the console, and what its machine needs.
_QEMU = {
    "amd64": ("x86_64", "ttyS0", "-M q35 -cpu max"),
    "i386": ("i386", "ttyS0", "-M q35 -cpu max"),
    "arm64": ("aarch64", "ttyAMA0", "-M virt -cpu cortex-a72"),
    "armhf": ("arm", "ttyAMA0", "-M virt -cpu cortex-a15"),
    "s390x": ("s390x", "ttysclp0", "-M s390-ccw-virtio -cpu max"),
    "riscv64": ("riscv64", "ttyS0", "-M virt -cpu rv64"),
    "ppc64el": (
        "ppc64", "hvc0",
        "-M pseries,x-vof=on,cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken,cap-ccf-assist=off -cpu power9",
    ),
    "loong64": ("loongarch64", "ttyS0", "-M virt -cpu la464"),
    "mips64el": ("mips64el", "ttyS0", "-M malta -cpu 5KEf"),
    "mipsel": ("mipsel", "ttyS0", "-M malta -cpu 24Kf"),
}  # fmt: skip


class Outcome(NamedTuple):
    """Hold the result of a guest: exit status (124 timed out, 125 never reported), output, seconds."""

    status: int
    output: str
    seconds: float


def run(cell: Cell, kernel: Path, root: Path, folder: Path, command: str, limit: float) -> Outcome:
    """Run a command in a guest, in a copy of a folder."""
    if _has_kvm(cell):
        outcome = _run(cell, kernel, root, folder, command, limit, KVM)
        if outcome.status != NO_REPORT:
            return outcome
        # A /dev/kvm that cannot run this kernel, as in some virtual machines.
    return _run(cell, kernel, root, folder, command, limit, TCG)


def _has_kvm(cell: Cell) -> bool:
    """Tell whether this machine's own CPU can run a cell's kernel."""
    if _HOST_OF.get(cell.machine) != platform.machine() or not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    if platform.machine() != "x86_64":
        return True
    try:
        return bool({"vmx", "svm"} & set(Path("/proc/cpuinfo").read_text(encoding="ascii").split()))
    except OSError:
        return False


def _run(
    cell: Cell, kernel: Path, root: Path, folder: Path, command: str, limit: float, accel: str
) -> Outcome:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kernel-matrix-") as scratch:
        initrd, console = Path(scratch, "initrd"), Path(scratch, "console")
        with initrd.open("wb") as file:
            for data in _archive(root, folder, command):
                file.write(data)
        words = _command_line(cell, kernel, initrd, Path(scratch), accel) + _disk(cell, Path(scratch, "disk"))
        with console.open("wb") as output:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "TMPDIR": scratch, "HOME": scratch, **_preload(cell, Path(scratch))},
            )  # fmt: skip
        try:
            late = _wait(process, console, began + limit)
        finally:
            # User-mode Linux consists of many processes.
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
        text = console.read_bytes().decode("utf-8", "replace").replace("\r", "")
    before, began_mark, rest = text.partition("MATRIX-BEGIN\n")
    said, end_mark, status = rest.rpartition("MATRIX-END ")
    if end_mark:
        code = int(status.split()[0])
    else:
        code = TOO_LATE if late else NO_REPORT
        if code == NO_REPORT and "could not load kernel" in before:
            raise FileNotFoundError(f"{words[0]} rejects this kernel; a newer one may accept it")
        said = rest if began_mark else "\n".join(before.splitlines()[-30:])
    return Outcome(code, said, time.monotonic() - began)


def _preload(cell: Cell, scratch: Path) -> dict[str, str]:
    """Return the environment in which user-mode kernels run on a processor with AMX; it needs cc."""
    if cell.machine != "uml" or "amx_tile" not in Path("/proc/cpuinfo").read_text(encoding="ascii").split():
        return {}
    library = compiled(HERE / "xstate.c", scratch / "xstate.so")
    return {"LD_PRELOAD": str(library)} if library else {}


def compiled(source: Path, library: Path) -> Path | None:
    """Compile a library; return None without a compiler."""
    try:
        command = ["cc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library), str(source)]
        subprocess.run(command, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return library


def _wait(process: subprocess.Popen[bytes], console: Path, deadline: float) -> bool:
    """Wait until the guest has reported or ended; return whether it timed out."""
    while process.poll() is None:
        if b"MATRIX-END " in console.read_bytes()[-200:]:
            return False
        if time.monotonic() > deadline:
            return True
        time.sleep(0.2)
    return False


def _command_line(cell: Cell, kernel: Path, initrd: Path, scratch: Path, accel: str = TCG) -> list[str]:
    common = f"rdinit=/init quiet loglevel=3 panic=-1 random.trust_cpu=on {cell.boot}".split()
    if cell.machine == "uml":
        return [
            str(kernel), f"mem={MEMORY_MB}M", f"initrd={initrd}", "con=null", "con0=fd:0,fd:1", "ssl=null",
            f"uml_dir={scratch}/uml", *common,
        ]  # fmt: skip
    suffix, console, machine = _QEMU[cell.machine]
    words = [f"qemu-system-{suffix}", *machine.split(), "-nodefaults", "-display", "none", "-no-reboot"]
    if cell.cpu or accel == KVM:
        words[words.index("-cpu") + 1] = "host" if accel == KVM else cell.cpu
    if cell.machine == "s390x":
        words += ["-chardev", "stdio,id=c", "-device", "sclpconsole,chardev=c"]
    else:
        words += ["-serial", "stdio"] + (["-vga", "none"] if cell.machine == "ppc64el" else [])
    # One CPU: qemu before 8 damages the flags of emulated x86-64 machines with several.
    words += ["-accel", accel, "-m", str(MEMORY_MB), "-smp", "1"]
    line = f"console={console} mitigations=off {' '.join(common)}"
    return [*words, "-kernel", str(kernel), "-initrd", str(initrd), "-append", line]


def _disk(cell: Cell, image: Path) -> list[str]:
    """Make a disk, which init mounts at /disk; return its arguments, none if it is unavailable.

    Reads of a tmpfs need a worker; those of ext4 do not. These kernels have it and the driver built in.
    """
    if cell.machine not in ("uml", "amd64"):
        return []
    image.touch()
    os.truncate(image, DISK_MB << 20)
    try:
        subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], capture_output=True, check=True, env=_WITH_SBIN)
    except (OSError, subprocess.CalledProcessError):
        return []
    if cell.machine == "uml":
        return [f"ubd0={image}"]
    return ["-drive", f"file={image},format=raw,if=none,id=disk", "-device", "nvme,drive=disk,serial=disk"]


# ------------------------------------------------------------------------------------------------------
# The archive, in the format newc (Linux Documentation/driver-api/early-userspace/buffer-format.rst)


def _archive(root: Path, folder: Path, command: str) -> Iterator[bytes]:
    number = 1
    for path in sorted(root.rglob("*")):
        yield _entry(str(path.relative_to(root)), number, *_of(path))
        number += 1
    made = {""}
    for name in _files_of(folder):
        for parent in reversed(Path(name).parents):
            if str(parent) not in made and str(parent) != ".":
                made.add(str(parent))
                yield _entry(f"project/{parent}", number, stat.S_IFDIR | 0o755, b"")
                number += 1
        yield _entry(f"project/{name}", number, *_of(folder / name))
        number += 1
    seed = os.urandom(64)  # noqa: TID251
    own = {"init": (HERE / "init").read_bytes(), "command": f"{command}\n".encode(), "seed": seed}
    for name, data in own.items():
        yield _entry(name, number, stat.S_IFREG | 0o755, data)
        number += 1
    yield _entry("TRAILER!!!", 0, 0, b"")


def _files_of(folder: Path) -> list[str]:
    """List the files of a checkout as git sees them, including those not yet added."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=folder, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):  # no git, or no checkout
        listed = b""
    names = {name for name in listed.decode().split("\0") if name}
    if names:
        return sorted(name for name in names if (folder / name).is_file())
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and not {"__pycache__", ".git"} & set(path.parts)
    )


def _of(path: Path) -> tuple[int, bytes]:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return mode, os.readlink(path).encode()
    return mode, path.read_bytes() if stat.S_ISREG(mode) else b""


def _entry(name: str, number: int, mode: int, data: bytes) -> bytes:
    encoded = name.encode() + b"\0"
    # The time matters: a zip file cannot hold times before 1980.
    fields = (number, mode, 0, 0, 1, int(time.time()), len(data), 0, 0, 0, 0, len(encoded), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)
