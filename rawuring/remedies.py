# SPDX-License-Identifier: MIT
# pyright: basic
"""Configuration to paste where io_uring is refused: ``python -m rawuring.probe --fix``.

What it is: for each layer that can refuse, the lines that allow io_uring, the files that they belong in, and
the protection that is lost.
Mirrors: audit2allow, which turns a refusal into a rule.
Must not know: how a refusal is diagnosed.
Invariant: the printed lines can be pasted unchanged, and this module changes nothing.
Read next: profiles.py.
"""

from __future__ import annotations

import json
import os
from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SCHEMA = 1
CALLS = ("io_uring_setup", "io_uring_enter", "io_uring_register")


class Fix(namedtuple("Fix", "layer where paste gives_up")):
    """One thing to paste.

    ``where`` names the file or the option; ``gives_up`` names the protection that is lost.
    """

    __slots__ = ()

    layer: str
    where: str
    paste: str
    gives_up: str


# The system calls that container runtimes refuse by default. Source: Docker's documentation, "Significant
# syscalls blocked by the default profile", and the mount calls of Linux 5.2 and newer.
_REFUSED_BY_DEFAULT = [
    "_sysctl", "acct", "add_key", "bpf", "clock_adjtime", "clock_settime", "create_module",
    "delete_module", "finit_module", "fsconfig", "fsmount", "fsopen", "fspick", "get_kernel_syms",
    "get_mempolicy", "init_module", "ioperm", "iopl", "kcmp", "kexec_file_load", "kexec_load", "keyctl",
    "lookup_dcookie", "mbind", "mount", "mount_setattr", "move_mount", "move_pages", "nfsservctl",
    "open_by_handle_at", "open_tree", "perf_event_open", "pivot_root", "process_vm_readv",
    "process_vm_writev", "ptrace", "query_module", "quotactl", "quotactl_fd", "reboot", "request_key",
    "set_mempolicy", "setns", "settimeofday", "stime", "swapoff", "swapon", "sysfs", "syslog", "umount",
    "umount2", "unshare", "uselib", "userfaultfd", "ustat", "vhangup", "vm86", "vm86old",
]  # fmt: skip
_SURFACE = "io_uring is attack surface of the kernel, and filters do not see the requests on a ring"


def profile() -> dict[str, Any]:
    """Make a seccomp profile that allows io_uring, valid for --security-opt and localhostProfile.

    Returns: the profile as data; it is a list of refused calls, while the runtimes' own are lists of allowed
        ones.
    """
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            {"names": _REFUSED_BY_DEFAULT, "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
            {"names": list(CALLS), "action": "SCMP_ACT_ALLOW"},
        ],
    }


def fragment() -> dict[str, Any]:
    """Make the one rule that is missing from a profile that lists the allowed calls."""
    return {"names": list(CALLS), "action": "SCMP_ACT_ALLOW"}


def _seccomp() -> list[Fix]:
    whole, rule = json.dumps(profile(), indent=1), json.dumps(fragment())
    weaker = (
        f"{_SURFACE}; and this profile lists refused calls, while the runtime's own lists allowed ones: "
        "calls that are newer than the profile are allowed"
    )
    return [
        Fix(
            "seccomp",
            "Docker, Podman, nerdctl: save as io_uring.json, then --security-opt seccomp=io_uring.json",
            whole, weaker,
        ),
        Fix(
            "seccomp",
            "or into the runtime's own, default.json (Podman: /usr/share/containers/seccomp.json)",
            f"jq '.syscalls += [{rule}]' default.json > io_uring.json", _SURFACE,
        ),
        Fix(
            "seccomp",
            "Kubernetes: io_uring.json into /var/lib/kubelet/seccomp/profiles of each node, and into the Pod",
            "securityContext:\n  seccompProfile:\n    type: Localhost\n"
            "    localhostProfile: profiles/io_uring.json",
            _SURFACE,
        ),
        Fix(
            "seccomp",
            "systemd, for a unit that already has a SystemCallFilter= (for others this line would refuse all "
            "other calls): systemctl edit UNIT",
            f"[Service]\nSystemCallFilter={' '.join(CALLS)}", _SURFACE,
        ),
    ]  # fmt: skip


def _sysctl() -> list[Fix]:
    gid = os.getgid() if hasattr(os, "getgid") else 0
    return [
        Fix(
            "sysctl", "/etc/sysctl.d/60-io_uring.conf, then sysctl --system: for one group and CAP_SYS_ADMIN",
            f"kernel.io_uring_disabled = 1\nkernel.io_uring_group = {gid}",
            f"{_SURFACE}, to the members of group {gid} (that of this process)",
        ),
        Fix(
            "sysctl", "or the same file: for everybody", "kernel.io_uring_disabled = 0",
            f"{_SURFACE}, to every user of this machine",
        ),
    ]  # fmt: skip


def _limit(layer: str, name: str, unit: str, value: str, loss: str) -> list[Fix]:
    resource = {"memlock": "LimitMEMLOCK", "nofile": "LimitNOFILE"}[name]
    user = _user()
    return [
        Fix(
            layer, "/etc/security/limits.d/60-io_uring.conf, then log in again",
            f"{user} soft {name} {value}\n{user} hard {name} {value}", loss,
        ),
        Fix(layer, "systemd: systemctl edit UNIT", f"[Service]\n{resource}={value}{unit}", loss),
        Fix(layer, "Docker, Podman: an option of run", f"--ulimit {name}={_BYTES.get(name, value)}", loss),
    ]  # fmt: skip


_BYTES = {"memlock": str(64 << 20)}  # limits.conf counts KiB, --ulimit bytes


def _user() -> str:
    try:
        import pwd

        return pwd.getpwuid(os.getuid()).pw_name
    except (ImportError, KeyError, AttributeError):
        return "*"


def _lsm() -> list[Fix]:
    return [
        Fix(
            "lsm", "SELinux, as root: turns the recent denials into a rule",
            "ausearch -m avc -ts recent | audit2allow -M io_uring_local && semodule -i io_uring_local.pp",
            "the accesses that the policy denied to this domain; read io_uring_local.te before loading it",
        ),
        Fix(
            "lsm", "AppArmor: a line in the program's profile, from AppArmor 4 on",
            "io_uring,", f"{_SURFACE}, to the programs of this profile",
        ),
    ]  # fmt: skip


#: layer -> its fixes. The layers are causes of a Capabilities.
LAYERS = ("seccomp", "sysctl", "group", "memlock", "nofile", "lsm")


def check(layer: str) -> None:
    """Reject a layer that fixes() does not know.

    Args: layer is the user's word.
    Raises: ValueError that lists the known layers.
    """
    if layer not in LAYERS:
        raise ValueError(f"--fix {layer}: the layers are {', '.join(LAYERS)}")


def fixes(layer: str) -> list[Fix]:
    """List the fixes for one layer.

    Args: layer is one of LAYERS.
    Returns: the fixes, the narrowest first; none for a layer without any.
    """
    if layer == "seccomp":
        return _seccomp()
    if layer in ("sysctl", "group"):
        return _sysctl()
    if layer == "memlock":
        loss = "memory that cannot be swapped out, up to 64 MiB for all processes of the user"
        return _limit("memlock", "memlock", "K", str(64 << 10), loss)
    if layer == "nofile":
        loss = "the early stop of programs that leak descriptors"
        return _limit("nofile", "nofile", "", "65536", loss)
    return _lsm() if layer == "lsm" else []


def layers_of(status: str, cause: str, evidence: tuple[str, ...]) -> list[str]:
    """Name the layers that refuse io_uring, in the order of their checks.

    Args: status, cause and evidence of a probe.Capabilities.
    Returns: the cause, and the layer that would refuse it behind a filter.
    """
    facts = {name: value for name, _, value in (fact.partition("=") for fact in evidence)}
    layers = [cause] if cause in LAYERS and status != "usable" else []
    if cause == "seccomp" and facts.get("kernel.io_uring_disabled", "0") != "0":
        layers.append("sysctl")
    return layers


def as_dict(layers: list[str], verdict: str, advice: str) -> dict[str, Any]:
    """Return the fixes as a dict that JSON can hold; docs/fix.schema.json describes it."""
    return {
        "schema": SCHEMA,
        "verdict": verdict,
        "layers": layers,
        "fixes": [fix._asdict() for layer in layers for fix in fixes(layer)],
        "advice": advice,
    }


def print_text(layers: list[str], verdict: str, advice: str) -> None:
    """Print the fixes for a person: lines that begin with # are not for pasting."""
    print(f"# {verdict}")
    for layer in layers:
        for fix in fixes(layer):
            print(f"\n# {fix.where}\n{fix.paste}\n# gives up: {fix.gives_up}")
    print(f"\n# hint: {advice}" if layers else f"# nothing to paste: {advice}")
