# SPDX-License-Identifier: MIT
# pyright: basic
"""Evidence about the system, and the layer that refused io_uring.

What it is: sysctls, seccomp state, limits, kernel configuration, hints of containers, emulators and security
modules; and the rules that turn an errno and these facts into one word and one piece of advice.
Mirrors: Docker's check-config.sh, kvm-ok.
Must not know: rings. Nothing here makes an io_uring call.
Invariant: a file that cannot be read is reported with the reason, and is never an error.
Read next: forbid.py.
"""

from __future__ import annotations

import errno
import os
import sys

from . import gates, syscalls


def gather() -> tuple[str, ...]:
    """Read the evidence about this system, without any io_uring call.

    Returns: "name=value" each, in the order in which they explain a refusal; the last one names the files
        that could not be read, and why.
    """
    unread: list[str] = []

    def read(path: str) -> str:
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                return file.read().strip()
        except OSError as error:
            unread.append(f"{path} ({error.strerror})")
            return ""

    python = f"{sys.implementation.name} {sys.version.split()[0]}"
    found = [("rawuring", own_version()), ("Python", python), ("libc", _libc_version())]
    found.append(("platform", sys.platform))
    if hasattr(os, "uname"):
        found.append(("uname", f"{kernel_name()} {os.uname().version}"))
    found.append(("ids", _ids()))
    if sys.platform.startswith(("linux", "android")):
        for key in ("io_uring_disabled", "io_uring_group"):
            found.append((f"kernel.{key}", read(f"/proc/sys/kernel/{key}")))
        status = read("/proc/self/status")
        fields = {name: value for name, _, value in (line.partition(":") for line in status.splitlines())}
        for key in ("Seccomp", "NoNewPrivs", "CapEff"):
            found.append((key, fields.get(key, "").strip()))
        found += _limits()
        found.append(("CONFIG_IO_URING", _kernel_config()))
        found.append(("container", _container()))
        found.append(("emulator", _emulator()))
        found.append(("LSM", read("/sys/kernel/security/lsm")))
        found.append(("LSM context", read("/proc/self/attr/current").rstrip("\0")))
    found.append(("not read", ", ".join(unread)))
    return tuple(f"{key}={value}" for key, value in found if value)


def own_version() -> str:
    """Return the version of this library, under any name that a copy has."""
    return str(getattr(sys.modules.get(__name__.rpartition(".")[0]), "__version__", ""))


def _libc_version() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, OSError, ValueError):
        return "musl" if "musl" in str(getattr(sys.implementation, "_multiarch", "")) else ""


def _ids() -> str:
    """Name the credentials on which kernel.io_uring_group depends."""
    if not hasattr(os, "getuid"):
        return ""
    groups = " ".join(map(str, os.getgroups())) or "none"
    effective = ""
    if (os.geteuid(), os.getegid()) != (os.getuid(), os.getgid()):
        effective = f" (effective uid {os.geteuid()} gid {os.getegid()})"
    return f"uid {os.getuid()} gid {os.getgid()}{effective}, groups {groups}"


def _limits() -> list[tuple[str, str]]:
    try:
        import resource
    except ImportError:
        return []
    words = {resource.RLIM_INFINITY: "unlimited"}
    found = []
    for name in ("RLIMIT_MEMLOCK", "RLIMIT_NOFILE"):
        soft, hard = resource.getrlimit(getattr(resource, name))
        found.append((name, f"{words.get(soft, soft)} (hard {words.get(hard, hard)})"))
    return found


def _kernel_config() -> str:
    """Find CONFIG_IO_URING where distributions keep the configuration: y, n, or empty."""
    release = os.uname().release
    for path in ("/proc/config.gz", f"/boot/config-{release}", f"/lib/modules/{release}/config"):
        try:
            with open(path, "rb") as file:
                data = file.read()
            if path.endswith(".gz"):
                import zlib

                data = zlib.decompress(data, 31)
        except (OSError, ImportError, ValueError):
            continue
        except Exception:  # zlib.error, whose name is unknown without zlib
            continue
        if b"\nCONFIG_IO_URING=y" in data:
            return "y"
        return "n" if b"CONFIG_" in data else ""
    return ""


def _container() -> str:
    for path, name in (("/.dockerenv", "docker"), ("/run/.containerenv", "podman")):
        if os.path.exists(path):
            return f"{name} ({path})"
    named = os.environ.get("container")  # noqa: SIM112  systemd's convention: lxc, systemd-nspawn, podman
    if named:
        return f"{named} ($container)"
    groups = syscalls._read_text("/proc/self/cgroup") or ""
    for name in ("docker", "kubepods", "containerd", "libpod", "lxc"):
        if name in groups:
            return f"{name} (/proc/self/cgroup)"
    return ""


def _emulator() -> str:
    name = os.uname()
    text = name.version + (syscalls._read_text("/proc/version") or "")
    if "gVisor" in text or "Sun Jan 10 15:06:54 PST 2016" in text:  # the date that gVisor always gives
        return "gVisor"
    if name.release.endswith("-Microsoft"):
        return "WSL 1"
    processor = syscalls._read_text("/proc/cpuinfo") or ""
    if "VirtualApple" in processor:
        return "Rosetta"
    if name.machine == "x86_64" and "CPU implementer" in processor:
        return "an x86_64 program on an ARM machine"
    if name.machine == "aarch64" and "vendor_id" in processor:
        return "an ARM program on an x86 machine"
    return ""


# ------------------------------------------------------------------------------------------------------
# The layer that refused


def classify(failure: syscalls.Unavailable, evidence: tuple[str, ...]) -> tuple[str, str, str]:
    """Name the layer that refused a ring.

    Args: failure as raised at setup; evidence as gather() returned it.
    Returns: status, cause and advice.
    """
    cause, advice = failure.cause, failure.advice
    found = (fact.partition("=") for fact in (*evidence, *failure.evidence))
    facts = {name: value for name, _, value in found}
    refused = cause in ("policy", "absent") and _is_filtered(facts)
    odd = cause in ("flags", "unknown") and _answers_for_the_kernel(facts)
    if cause == "seccomp" or refused or odd:
        killed = failure.detail in ("seccomp-kill", "seccomp-untried")
        absent = None if killed else _surely_absent(failure.errno, facts)
        if absent:  # a filter that allows the calls would not help
            too = "A seccomp filter is also in force, and may refuse io_uring there."
            return "absent", absent[0], f"{absent[1]} {too}"
        filtered = syscalls.REASONS["seccomp"][1]
        behind = _BEHIND_THE_FILTER.get(facts.get("kernel.io_uring_disabled", ""), "")
        return "denied", "seccomp", f"{advice if killed else filtered} {_where_to_allow(facts)}{behind}"
    if cause in ("sysctl", "group"):
        return "denied", cause, advice
    if cause == "policy":
        return ("denied", *_which_policy(failure.errno, facts))
    if cause == "absent" and failure.errno == errno.ENOSYS:
        return ("absent", *_why_absent(facts, failure))
    if cause == "memlock":
        return ("limited", *_which_memory(facts, advice))
    if cause == "nofile":
        return "limited", cause, advice
    if cause == "not-linux":
        return "not-linux", cause, f"{advice} Run this on Linux, if only in a virtual machine, or do without."
    if "io_uring_enter(-1)" in facts:  # no flags were requested, so flags cannot be the cause
        return "unknown", "unknown", _UNHEARD_OF
    return "unknown", cause, advice


_UNHEARD_OF = (
    "No rule of this probe explains this answer; a filter or a sandbox may have given it. Run the probe once "
    "more, ask the administrator of this machine, and report it with the output of --json."
)


def _answers_for_the_kernel(facts: dict[str, str]) -> bool:
    """Return whether a filter answered io_uring_enter on descriptor -1.

    The kernel itself returns EBADF, whatever its policy, and ENOSYS if it lacks io_uring.
    """
    return facts.get("io_uring_enter(-1)", "EBADF") not in ("EBADF", "ENOSYS")


def _is_filtered(facts: dict[str, str]) -> bool:
    """Return whether a filter is in force and accounts for a refusal that the sysctl does not explain."""
    if _answers_for_the_kernel(facts):
        return True
    return "2" in (facts.get("Seccomp"), facts.get("PR_GET_SECCOMP"))


# Otherwise, a user who has changed the profile and meets the next refusal would think that the change had
# failed.
_BEHIND_THE_FILTER = {
    "1": " Behind the filter kernel.io_uring_disabled=1 allows only CAP_SYS_ADMIN and kernel.io_uring_group.",
    "2": " Behind the filter kernel.io_uring_disabled=2 refuses it: root has to set that to 0 as well.",
}


def _where_to_allow(facts: dict[str, str]) -> str:
    """Return where to pass a profile: for the detected container, or for the usual ones."""
    container = facts.get("container", "")
    for words, where in _PROFILES:
        if any(word in container for word in words):
            return f"{where}."
    return f"{'; '.join(where for _, where in _PROFILES)}."


_PROFILES = (
    (("kubepods",), "Kubernetes takes a profile in securityContext.seccompProfile"),
    (
        ("docker", "podman", "libpod", "containerd"),
        "Docker and Podman take a profile with --security-opt seccomp=PROFILE.json",
    ),
    (("systemd",), "systemd allows them with SystemCallFilter=@aio"),
)


def _which_policy(code: int | None, facts: dict[str, str]) -> tuple[str, str]:
    if code == errno.EACCES:
        return "lsm", (
            f"A security module refuses io_uring (active here: {facts.get('LSM', 'unknown')}; this process: "
            f"{facts.get('LSM context', 'unknown')}): find the denial in the audit log, and allow it."
        )
    return "unknown-policy", (
        "Neither the sysctl nor a seccomp filter refuses io_uring, and yet it is refused: by a security "
        "module, or by a sandbox around this machine, as in some container desktops. Ask its administrator."
    )


def _why_absent(facts: dict[str, str], failure: syscalls.Unavailable) -> tuple[str, str]:
    surely = _surely_absent(errno.ENOSYS, facts)
    if surely:
        return surely
    if failure.detail in ("no-ctypes", "no-mmap", "no-module", "no-numbers"):
        return "python", failure.advice
    return "config", (
        "This kernel is new enough and has no io_uring: most likely it was built without CONFIG_IO_URING. "
        "Otherwise the system calls are emulated, or a hidden filter answers instead of the kernel."
    )


def _surely_absent(code: int | None, facts: dict[str, str]) -> tuple[str, str] | None:
    """Find a reason that holds for either source of the answer, the kernel or a filter before it."""
    if "emulator" in facts and code == errno.ENOSYS:
        return "emulator", (
            f"The system calls are answered by an emulator ({facts['emulator']}) that has no io_uring: run "
            "on the real kernel, or update the emulator."
        )
    if facts.get("CONFIG_IO_URING") == "n":
        return "config", "This kernel was built without CONFIG_IO_URING: use another kernel."
    release = release_of(facts.get("uname", ""))
    if release and release < (5, 1):
        return "old-kernel", "io_uring came with Linux 5.1: use a newer kernel."
    return None


def _which_memory(facts: dict[str, str], advice: str) -> tuple[str, str]:
    limit = facts.get("RLIMIT_MEMLOCK", "")
    unlimited = limit.startswith("unlimited")
    may_lock = int(facts.get("CapEff") or "0", 16) >> _CAP_IPC_LOCK & 1
    if unlimited or may_lock:
        return "memory", (
            "The kernel has no memory for a ring, and no limit of this process explains it: free memory, "
            "raise the limit of the control group, or ask for fewer entries."
        )
    return "memlock", f"{advice} The limit in bytes is {limit or 'not known'}."


_CAP_IPC_LOCK = 14  # linux/capability.h


def release_of(text: str) -> tuple[int, int] | None:
    """Find the first two numbers of a kernel release.

    Args: text such as "6.18.44-x" or "Linux 6.1.0 x86_64".
    Returns: such as (6, 18), or None.
    """
    for word in text.split():
        numbers = gates.version(word)
        if len(numbers) > 1:
            return numbers[0], numbers[1]
    return None


def kernel_name() -> str:
    """Name the kernel: system, release and machine; without os.uname, the platform."""
    if not hasattr(os, "uname"):
        return sys.platform
    name = os.uname()
    return f"{name.sysname} {name.release} {name.machine}"
