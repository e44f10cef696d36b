# SPDX-License-Identifier: MIT
# pyright: basic
"""The report of a survey: a verdict, text for people, data for programs.

What it is: the forms that probe.py prints, and queries of a finished survey.
Mirrors: bpftool feature probe's text and JSON, virt-host-validate's lines, kvm-ok's verdict and hint.
Must not know: how an answer is found. Its only system call is write, to stdout.
Invariant: the verdict comes first and the advice last, and all forms carry the same facts.
Read next: remedies.py.
"""

from __future__ import annotations

import errno
import os
import sys

from . import barriers, evidence, gates, survey, uapi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from .survey import Answer, Capabilities

SCHEMA = 1

#: The features of this library -> the items that each of them needs.
LIBRARY: dict[str, tuple[str, ...]] = {
    "monitor (fdmon)": ("OP:POLL_ADD", "OP:POLL_REMOVE"),
    "monitor of more descriptors than the ring has entries": ("FEAT:NODROP",),
    "userspace polling": (),
    "selector and asyncio, one-shot polls": ("OP:POLL_ADD", "OP:POLL_REMOVE"),
    "selector and asyncio, an epoll set": ("OP:POLL_ADD", "OP:EPOLL_CTL"),
    "selector and asyncio, an epoll set in one system call": ("OP:EPOLL_CTL", "OP:EPOLL_WAIT"),
    "timeouts without a request of their own": ("FEAT:EXT_ARG", "ENTER:EXT_ARG"),
    "idle waits that do not count as iowait": ("FEAT:NO_IOWAIT", "ENTER:NO_IOWAIT"),
    "completions on demand": ("SETUP:SINGLE_ISSUER", "SETUP:DEFER_TASKRUN", "SETUP:TASKRUN_FLAG"),
    "submission by a kernel thread": ("SETUP:SQPOLL", "FEAT:SQPOLL_NONFIXED"),
    "files": ("OP:OPENAT", "OP:CLOSE", "OP:READ", "OP:WRITE", "OP:FSYNC", "OP:STATX"),
    "sockets": ("OP:CONNECT", "OP:ACCEPT", "OP:SEND", "OP:RECV"),
    "registered buffers": ("REG:BUFFERS", "OP:READ_FIXED", "OP:WRITE_FIXED"),
    "registered files": ("REG:FILES", "SQE:FIXED_FILE"),
    "rings of provided buffers": ("REG:PBUF_RING", "SQE:BUFFER_SELECT"),
    "zero-copy send": ("OP:SEND_ZC",),
    "zero-copy receive": ("OP:RECV_ZC", "REG:ZCRX_IFQ"),
    "waiting for futexes": ("OP:FUTEX_WAIT", "OP:FUTEX_WAKE"),
    "messages between rings": ("OP:MSG_RING",),
}
# These read memory that the kernel writes, so they also need a fence.
_FENCED = ("userspace polling", "submission by a kernel thread")

USABLE, NOT_USABLE, USAGE, MISSING, UNKNOWN = 0, 1, 2, 3, 4
_WORDS: dict[Answer, str] = {True: "yes", False: "no", None: "unknown"}
_TITLES = {
    "OP": "operations",
    "SETUP": "setup flags",
    "FEAT": "features",
    "REG": "register operations",
    "ENTER": "enter flags",
    "SQE": "SQE flags",
}


# ------------------------------------------------------------------------------------------------------
# Queries


def name_of(item: str) -> str:
    """Find the kernel's name of an item such as "OP:RECV", "REG:PBUF_RING" or "REG:UNREGISTER_BUFFERS".

    Args: item is a kind of survey.KINDS, a colon, and the rest of the name; a full name is accepted too.
    Returns: the full name, such as "IORING_OP_RECV".
    Raises: ValueError for a name that the tables do not contain.
    """
    kind, _, rest = item.partition(":")
    if not rest:
        return _full_name(item)
    if kind not in survey.KINDS:
        kinds = ", ".join(f"{name}:" for name in survey.KINDS)
        raise ValueError(f"{item!r}: the kinds are {kinds} and KERNEL:")
    for name, _ in survey.family(kind):
        if name in (survey.KINDS[kind] + rest, f"IORING_{rest}", rest):
            return name
    known = [name[len(survey.KINDS[kind]) :] for name, _ in survey.family(kind)]
    what = f"{item!r}: the tables (Linux 7.2) contain no {survey.KINDS[kind]}{rest}"
    raise ValueError(what + _did_you_mean(rest.upper(), known))


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    import difflib

    near = difflib.get_close_matches(word, known, 1)
    return f"; did you mean {near[0]}?" if near else ""


def _full_name(item: str) -> str:
    if any(item == name for kind in survey.KINDS for name, _ in survey.family(kind)):
        return item
    raise ValueError(f"{item!r} is neither a name in the tables nor of the form OP:RECV")


def check(item: str) -> None:
    """Reject an item that ask() would not understand.

    Args: item as for ask().
    Raises: ValueError for a name that the tables do not contain.
    """
    if item.startswith("KERNEL:"):
        _wanted_release(item)
    else:
        name_of(item)


def ask(found: Capabilities, item: str) -> tuple[Answer, str]:
    """Answer whether one item is available: supported and admitted.

    Args: found as probe.capabilities() returned it; item as for name_of(), or "KERNEL:6.1".
    Returns: yes, no or unknown, and how that was learned.
    Raises: ValueError for a name that the tables do not contain.
    """
    if item.startswith("KERNEL:"):
        wanted, here = _wanted_release(item), evidence.release_of(found.kernel)
        if found.status == "not-linux":  # another system numbers its releases differently
            return False, "inferred"
        return (None if here is None else here >= wanted), "inferred"
    finding = found.findings.get(name_of(item), survey.NOTHING)
    if finding.supported is False:
        return False, finding.how
    if finding.admitted is False:  # whether the kernel has it or not
        return False, finding.admitted_how
    if finding.supported and finding.admitted:
        return True, finding.admitted_how
    return None, finding.admitted_how or finding.how


def _wanted_release(item: str) -> tuple[int, int]:
    numbers = item[7:].split(".")
    if not all(number.isdecimal() for number in numbers) or len(numbers) not in (2, 3):
        raise ValueError(f"{item!r}: write it as KERNEL:6.1")
    if len(numbers) == 3:  # a comparison without it could answer yes wrongly
        raise ValueError(
            f"{item!r}: write it as KERNEL:{numbers[0]}.{numbers[1]}; the third number says nothing, because "
            "distributions patch a kernel and keep it"
        )
    return int(numbers[0]), int(numbers[1])


def library(found: Capabilities) -> dict[str, dict[str, Any]]:
    """Return which features of this library work here.

    Args: found as probe.capabilities() returned it.
    Returns: by feature, "answer" and the "missing" items.
    """
    profile = {}
    for feature, items in LIBRARY.items():
        answers = {item: ask(found, item)[0] for item in items}
        if feature in _FENCED:
            answers["a memory fence"] = barriers.ordered() if found.usable else None
        if not found.usable:
            answers["a ring"] = found.usable
        answer = False if False in answers.values() else None if None in answers.values() else True
        missing = [item for item, value in answers.items() if value is answer] if not answer else []
        profile[feature] = {"answer": answer, "missing": missing}
    return profile


def conclude(found: Capabilities, live: dict[str, str] | None = None) -> tuple[str, str, str]:
    """Weigh the survey and the live requests together.

    Args: found as probe.capabilities() returned it; live as probe.prove() returned it.
    Returns: status, cause and advice.
    """
    failed = [result for result in (live or {}).values() if result != "ok"]
    if not found.usable or not failed or found.denied:
        return found.status, found.cause, found.advice
    if any(word in result for result in failed for word in ("EMFILE", "ENFILE", "Too many open files")):
        return "limited", "nofile", (
            "A ring can be created, but too few descriptors are left: raise RLIMIT_NOFILE (ulimit -n)."
        )
    return "limited", "failed-requests", (
        "A ring can be created, but not every request works: see the failed ones."
    )


def exit_code(status: str) -> int:
    """Turn a status into the exit code of the command: usable and degraded are 0."""
    return {"usable": USABLE, "degraded": USABLE, "unknown": UNKNOWN}.get(status, NOT_USABLE)


def verdict(found: Capabilities, live: dict[str, str] | None = None) -> str:
    """Sum up in one line.

    Args: found as capabilities() returned it; live as prove() returned it, if it was called.
    Returns: a line that begins with "io_uring: " and one word in capitals.
    """
    status, cause, _ = conclude(found, live)
    details = [found.kernel]
    if status in ("usable", "degraded"):
        answers = list(found.opcodes.values())
        known = f"{answers.count(True)} of {len(answers)} known operations"
        details.append(f"at least {known}" if None in answers else known)
    failed = [name for name, result in (live or {}).items() if result != "ok"]
    if failed:
        details.append(f"a ring was created, but these failed: {', '.join(failed)}")
    if found.denied:
        details.append(f"{len(found.denied)} things refused")
    word = status.upper().replace("-", " ")
    by = f" by {cause.replace('-', ' ')}" if cause and status in ("denied", "limited", "degraded") else ""
    by = f" ({cause.replace('-', ' ')})" if status == "absent" else by
    return f"io_uring: {word}{by} ({', '.join(details)})"


# ------------------------------------------------------------------------------------------------------
# Data


def as_dict(found: Capabilities, live: dict[str, str], required: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return everything as a dict that JSON can hold; docs/probe.schema.json describes it.

    Args: found as capabilities() returned it; live as prove() returned it; required are items for ask().
    Returns: a dict with the key "schema" and stable keys.
    """
    status, cause, _ = conclude(found, live)
    data = found._asdict()
    findings = data.pop("findings")
    return {
        "schema": SCHEMA,
        "verdict": verdict(found, live),
        "version": version(),
        **data,
        "usable": {USABLE: True, UNKNOWN: None}.get(exit_code(status), False),  # live requests count, too
        "status": status,
        "cause": cause,
        "advice": _advice(found, live, required),
        "evidence": list(found.evidence),
        "denied": list(found.denied),
        "findings": {
            name: {**finding._asdict(), "since": uapi.SINCE.get(name)} for name, finding in findings.items()
        },
        "library": library(found),
        "gates": {gate.name: {"what": gate.what, "library": gate.library} for gate in _gates(found)},
        "required": {item: dict(zip(("answer", "how"), ask(found, item))) for item in required},
        "python": sys.version.split()[0],
        "implementation": sys.implementation.name,
        "fence": barriers.fence_kind() if found.usable else None,
        "live": live,
    }


def _gates(found: Capabilities) -> tuple[gates.Gate, ...]:
    """List the rows of gates.GATES that apply to this kernel, if it offers a ring."""
    return gates.applying() if found.usable else ()


def version() -> str:
    """Return the version of this library, whatever name a copy of it has."""
    return evidence.own_version()


def tables() -> dict[str, dict[str, str | None]]:
    """List all entries of the tables by kind, with the kernel that introduced each."""
    return {
        _TITLES[kind]: {name: uapi.SINCE.get(name) for name, _ in survey.family(kind)}
        for kind in survey.KINDS
    }


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Compare two reports.

    Args: a and b as as_dict() made them.
    Returns: a line for each difference.
    Raises: ValueError for an object that is not such a report.
    """
    left, right = (_flat_checked(report) for report in (a, b))
    lines = []
    for key in [*left, *(key for key in right if key not in left)]:
        if left.get(key) != right.get(key):
            lines.append(f"{key}: {left.get(key, 'not there')} -> {right.get(key, 'not there')}")
    return lines


def _flat_checked(report: dict[str, Any]) -> dict[str, str]:
    if not isinstance(report, dict) or report.get("schema") != SCHEMA:
        raise ValueError(f"not a report of this probe (schema {SCHEMA})")
    try:
        return _flat(report)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"a report of this probe that was damaged: {error!r}") from None


def _flat(report: dict[str, Any]) -> dict[str, str]:
    flat = {key: str(report.get(key)) for key in ("status", "cause", "kernel", "fence")}
    for fact in report["evidence"]:
        key, _, value = fact.partition("=")
        flat[key] = value
    for name, finding in report["findings"].items():
        flat[name] = _columns(finding["supported"], finding["admitted"])
    for name, feature in report["library"].items():
        flat[f"library: {name}"] = _WORDS[feature["answer"]]
    flat.update({f"live: {name}": result for name, result in report["live"].items()})
    return flat


def _columns(supported: Answer, admitted: Answer) -> str:
    if supported is admitted:
        return _WORDS[supported]
    return f"supported {_WORDS[supported]}, admitted {_WORDS[admitted]}"


# ------------------------------------------------------------------------------------------------------
# Text

_RED, _GREEN, _YELLOW = 31, 32, 33
_COLOURS = {USABLE: _GREEN, NOT_USABLE: _RED, UNKNOWN: _YELLOW}


def print_verdict(found: Capabilities, live: dict[str, str]) -> None:
    """Print the first line."""
    status = conclude(found, live)[0]
    colour = _YELLOW if status == "degraded" else _COLOURS[exit_code(status)]
    print(_colour(verdict(found, live), colour))


def print_required(found: Capabilities, required: tuple[str, ...], quiet: bool) -> None:
    """Print a line for each required item; quiet omits those that are available."""
    for item in required:
        answer, how = ask(found, item)
        if not (quiet and answer):
            since = "" if item.startswith("KERNEL:") else _why_missing(found, item)[len(item) :]
            learned = f" ({how}{since})" if how else f" (nothing could be learned{since})"
            print(f"required: {item}: {_answer(answer)}{learned}")


def print_text(found: Capabilities, live: dict[str, str], required: tuple[str, ...], verbose: bool) -> None:
    """Print the whole report for a person."""
    print_verdict(found, live)
    if found.error:
        print(f"  error: {found.error.partition(' Cause: ')[0]}")  # without cause and advice: they follow
    for fact in found.evidence:
        print(f"  evidence: {fact}{_MEANINGS.get(fact, '')}")
    if found.usable:
        kind = barriers.fence_kind()
        print(f"  memory barriers: {kind} ({_FENCES[kind]})")
        print("this library:")
        for feature, state in library(found).items():
            missing = f" ({', '.join(_why_missing(found, item) for item in state['missing'])})"
            print(f"  {feature}: {_answer(state['answer'])}{missing if state['missing'] else ''}")
        for kind in survey.KINDS:
            _print_kind(found, kind, verbose)
        for gate in _gates(found):
            print(f"kernels of this age: {gate.what}; this library: {gate.library}")
    for name, result in live.items():
        print(f"live: {name}: {_colour(result, _GREEN if result == 'ok' else _RED)}")
    print_required(found, required, quiet=False)
    print(f"hint: {_advice(found, live, required)}")


def _advice(found: Capabilities, live: dict[str, str], required: tuple[str, ...]) -> str:
    """Advise about the required items first, if nothing else is wrong."""
    status, _, advice = conclude(found, live)
    if exit_code(status) != USABLE:
        return advice
    answers = {item: ask(found, item)[0] for item in required}
    missing = [item for item, answer in answers.items() if answer is False]
    findings = {item: found.findings.get(name_of(item)) for item in missing if item[:7] != "KERNEL:"}
    refused = [item for item, finding in findings.items() if finding and finding.supported is not False]
    also = f" {advice}" if status == "degraded" else ""
    if refused:
        see = "." if also else ": see what restricts it."
        known = all(finding.supported for item, finding in findings.items() if item in refused and finding)
        names = ", ".join(refused)
        has = f"The kernel has {names} and refuses it" if known else f"{names} is refused"
        return f"{has} to this process{see}{also}"
    if missing:
        needed = ", ".join(item if item[:7] == "KERNEL:" else _with_since(item) for item in missing)
        return f"This kernel lacks required items ({needed}): use a newer one, or do without.{also}"
    unknown = [item for item, answer in answers.items() if answer is None]
    if unknown:
        return f"The probe cannot tell whether {', '.join(unknown)} may be used: try it in the program.{also}"
    return advice


# How this machine orders memory accesses: see the head of barriers.py.
_FENCES = {
    "lock": "the atomic instruction in Python's own locks",
    "libatomic": "GCC's run-time library",
    "stub": "one instruction in a page of executable memory",
    "membarrier": "a system call each time",
    "none": "none available: no SQPOLL, and every look at completions is preceded by io_uring_enter",
}

# The meaning of facts whose names do not explain it.
_MEANINGS = {
    "kernel.io_uring_disabled=0": " (everybody may use io_uring)",
    "kernel.io_uring_disabled=1": " (only the members of kernel.io_uring_group, and CAP_SYS_ADMIN)",
    "kernel.io_uring_disabled=2": " (nobody may use io_uring)",
    "kernel.io_uring_group=-1": " (no group)",
    "Seccomp=0": " (no filter)",
    "Seccomp=2": " (a filter is in force)",
}


def _why_missing(found: Capabilities, item: str) -> str:
    """Name a missing item, with its release if the kernel lacks it."""
    try:
        finding = found.findings.get(name_of(item), survey.NOTHING)
    except ValueError:  # a description, not an item
        return item
    refused = finding.supported is not False and finding.admitted is False
    return f"{item}, refused to this process" if refused else _with_since(item)


def _with_since(item: str) -> str:
    return f"{item}, Linux {uapi.SINCE.get(name_of(item), '?')}"


def _answer(answer: Answer) -> str:
    return _colour(_WORDS[answer], {True: _GREEN, False: _RED, None: _YELLOW}[answer])


def _print_kind(found: Capabilities, kind: str, verbose: bool) -> None:
    prefix = survey.KINDS[kind]
    groups: dict[str, list[str]] = {}
    for name, _ in survey.family(kind):
        finding = found.findings.get(name, survey.NOTHING)
        short = name[len(prefix) :] if name.startswith(prefix) else name[len("IORING_") :]
        text = short if finding.supported else f"{short} ({uapi.SINCE.get(name, '?')})"
        groups.setdefault(_columns(finding.supported, finding.admitted), []).append(text)
    counts = ", ".join(f"{len(names)} {answer}" for answer, names in groups.items())
    print(f"{_TITLES[kind]}: {counts}")
    if verbose:
        _print_table(found, kind)
        return
    for answer, names in groups.items():
        if answer != "yes":
            _print_wrapped(f"{answer}:", names)


def _print_table(found: Capabilities, kind: str) -> None:
    print(f"  {'name':36} {'since':>6}  {'supported':20} {'admitted':20}")
    for name, _ in survey.family(kind):
        supported, how, admitted, admitted_how = found.findings.get(name, survey.NOTHING)
        left = f"{_WORDS[supported]} {f'({how})' if how else ''}"
        right = f"{_WORDS[admitted]} {f'({admitted_how})' if admitted_how else ''}"
        print(f"  {name:36} {uapi.SINCE.get(name, '?'):>6}  {left:20} {right}".rstrip())


def print_tables() -> None:
    """Print all entries of the tables."""
    for title, names in tables().items():
        print(f"{title}:")
        for name, since in names.items():
            mark = " or near it" if name in uapi.SINCE_UNCERTAIN else ""
            print(f"  {name:36} {since or '?':>6}{mark}")


def _print_wrapped(first: str, words: list[str]) -> None:
    line = f"  {first}"
    for item in words:
        if len(line) + len(item) > 98:
            print(line)
            line = "   "
        line += " " + item
    print(line)


def _colour(text: str, code: int) -> str:
    """Colour the text on a terminal, unless the user has disabled it (https://no-color.org)."""
    wanted = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return f"\x1b[{code}m{text}\x1b[0m" if wanted else text


# ------------------------------------------------------------------------------------------------------
# What an error means

# errno -> its origin, and its meaning there; the most likely first.
_EXPLANATIONS: dict[str, tuple[tuple[str, str], ...]] = {
    "ENOSYS": (
        ("setup", "the kernel was built without CONFIG_IO_URING, or is older than 5.1"),
        ("setup", "a seccomp filter that answers ENOSYS; or an emulator: gVisor, WSL 1, qemu-user"),
    ),
    "EPERM": (
        ("setup", "a seccomp filter, the default of container runtimes: allow the three io_uring calls"),
        ("setup", "kernel.io_uring_disabled is 2; or 1, and the process is not in kernel.io_uring_group"),
        ("setup", "IORING_SETUP_SQPOLL without privilege, before 5.13"),
        ("setup", "a security module, or a sandbox around the machine"),
    ),
    "EACCES": (
        ("setup", "a security module (SELinux, AppArmor): see the audit log; or a seccomp filter"),
        ("register, CQE", "a restriction of the ring (5.10) or of the task (7.0) or a BPF filter refuses it"),
    ),
    "EOPNOTSUPP": (
        ("setup", "the filter of a managed container service"),
        ("CQE", "this file or socket does not support it; or the kernel was built without the operation"),
        ("enter, register", "the descriptor is not a ring"),
    ),
    "EINVAL": (
        ("setup", "a flag that this kernel does not know, or flags that exclude each other"),
        ("setup", "0 entries, more than 32768 without IORING_SETUP_CLAMP, or a CQ smaller than the SQ"),
        ("register", "an operation that this kernel does not know; with PROBE also memory that is not zero"),
        ("CQE", "an operation that this kernel does not know, or a field that must be zero"),
    ),
    "ENOMEM": (
        ("setup", "RLIMIT_MEMLOCK (before 5.12 and from 6.14 on), counted over all processes of the user"),
        ("setup", "no memory in the control group, or none in one piece"),
        ("register", "RLIMIT_MEMLOCK: registered buffers always count"),
    ),
    "EMFILE": (("setup", "RLIMIT_NOFILE: a ring takes one descriptor, three before Python 3.13"),),
    "ENFILE": (("setup", "the system has no descriptors left: fs.file-max"), ("CQE", "no free file slot")),
    "EFAULT": (("setup, register, CQE", "an address that is not mapped, or not writable"),),
    "EBADF": (
        ("enter", "not an open descriptor; for descriptor -1 it proves that the kernel has io_uring"),
        ("register", "descriptor -1 before 6.13"),
        ("CQE", "the request's descriptor is not open, or is O_PATH"),
    ),
    "EBADFD": (("enter", "the ring is disabled (IORING_SETUP_R_DISABLED): enable it"),),
    "EEXIST": (("enter", "IORING_SETUP_SINGLE_ISSUER, and this is another thread"),),
    "EBUSY": (
        ("enter", "the CQ overflowed: reap first"),
        ("register", "something is already registered: unregister it first"),
    ),
    "ENXIO": (("register", "nothing is registered"),),
    "EAGAIN": (("enter", "no memory for a request: reap, then try again"), ("CQE", "it would block")),
    "EINTR": (("enter", "a signal arrived; this library retries, so callers never see it"),),
    "ETIME": (("enter", "the timeout passed; this library returns instead"), ("CQE", "the TIMEOUT fired")),
    "EBADR": (("enter", "completions were lost for lack of memory (5.19)"),),
    "ECANCELED": (("CQE", "cancelled: by request, by a broken link, or with the thread that submitted it"),),
    "ENOBUFS": (("CQE", "no provided buffer was left; a multishot request ends with this error"),),
    "EALREADY": (("CQE", "too late to cancel: the request's own completion will arrive"),),
    "ENOENT": (("CQE", "no such request to cancel or remove; or no such file"),),
}


def explain(word: str) -> list[str]:
    """Explain an errno that io_uring returned.

    Args: word is a name such as "EPERM", or its number, with or without a minus.
    Returns: lines of text.
    Raises: ValueError for a word that is not an errno.
    """
    name = word.upper()
    if word.lstrip("-").isdecimal():
        name = errno.errorcode.get(int(word.lstrip("-")), word)
    name = {"ENOTSUP": "EOPNOTSUPP", "EWOULDBLOCK": "EAGAIN"}.get(name, name)
    if name not in _EXPLANATIONS and not hasattr(errno, name):
        near = _did_you_mean(name, errno.errorcode.values())
        raise ValueError(f"{word!r} is not an errno of this system{near}")
    number = getattr(errno, name, None)
    lines = [f"{name} ({number}, {os.strerror(number)})" if number else name]
    lines += [f"  from {place}: {meaning}" for place, meaning in _EXPLANATIONS.get(name, ())]
    if len(lines) == 1:
        lines.append("  not specific to io_uring: it is an error of the operation itself; see its man page")
    return [*lines, "  Run the probe without arguments to see which of these applies here."]
