# SPDX-License-Identifier: MIT
"""The rules of the probe, one by one: the conclusion from each set of facts, without such a kernel.

What it is: evidence.classify() and the small decisions of survey.py on invented facts.
Must not know: any kernel.
Invariant: only examine_ring() makes io_uring calls here, on a separate ring.
Read next: test_probe_denied.py, where real environments lead to the same words.
"""

from __future__ import annotations

import errno
import gzip
import io
import re
import types

import pytest

from rawuring import evidence, report, rings, survey, syscalls, uapi

CAP_IPC_LOCK = f"CapEff={1 << 14:x}"


def refusal(code, cause, *facts, detail=""):
    failure = syscalls.Unavailable(code, "io_uring_setup", cause, "ADVICE", (), detail)
    failure.evidence = tuple(facts)
    return failure


@pytest.mark.parametrize(
    ("failure", "facts", "expected"),
    [
        (refusal(errno.ENOSYS, "absent", "io_uring_enter(-1)=EBADF"), ("Seccomp=2",), ("denied", "seccomp")),
        (refusal(errno.ENOSYS, "absent", "PR_GET_SECCOMP=2"), (), ("denied", "seccomp")),
        (refusal(errno.EPERM, "policy", "io_uring_enter(-1)=EPERM"), ("Seccomp=0",), ("denied", "seccomp")),
        (refusal(errno.EPERM, "policy"), ("Seccomp=0",), ("denied", "unknown-policy")),
        (refusal(errno.EACCES, "policy"), ("Seccomp=0",), ("denied", "lsm")),
        (refusal(errno.EPERM, "sysctl"), ("Seccomp=2",), ("denied", "sysctl")),
        (refusal(errno.EPERM, "group"), (), ("denied", "group")),
        (refusal(errno.ENOSYS, "absent"), ("emulator=gVisor", "CONFIG_IO_URING=n"), ("absent", "emulator")),
        (refusal(errno.ENOSYS, "absent"), ("CONFIG_IO_URING=n", "uname=Linux 4.9.0 x"), ("absent", "config")),
        (refusal(errno.ENOSYS, "absent"), ("uname=Linux 5.0.21 x",), ("absent", "old-kernel")),
        (refusal(errno.ENOSYS, "absent"), ("uname=Linux 5.1.0 x",), ("absent", "config")),
        (refusal(errno.ENOSYS, "absent", detail="no-io-uring"), (), ("absent", "config")),
        (refusal(errno.ENOSYS, "absent", detail="no-ctypes"), (), ("absent", "python")),
        (refusal(errno.ENOSYS, "absent", detail="no-mmap"), (), ("absent", "python")),
        (refusal(errno.ENOSYS, "absent", detail="no-module"), (), ("absent", "python")),
        (refusal(errno.ENOSYS, "absent", detail="no-numbers"), (), ("absent", "python")),
        # A container's filter on a kernel without io_uring, or in front of an emulator.
        (refusal(errno.EPERM, "seccomp"), ("Seccomp=2", "CONFIG_IO_URING=n"), ("absent", "config")),
        (refusal(errno.EPERM, "seccomp"), ("Seccomp=2", "uname=Linux 4.18.0 x"), ("absent", "old-kernel")),
        (refusal(errno.ENOSYS, "seccomp"), ("Seccomp=2", "emulator=an ARM program"), ("absent", "emulator")),
        (refusal(errno.EPERM, "seccomp"), ("Seccomp=2", "emulator=gVisor"), ("denied", "seccomp")),
        (
            refusal(errno.EPERM, "seccomp", detail="seccomp-kill"), ("Seccomp=2", "CONFIG_IO_URING=n"),
            ("denied", "seccomp"),
        ),
        (
            refusal(errno.EPERM, "seccomp", detail="seccomp-untried"), ("Seccomp=2", "CONFIG_IO_URING=n"),
            ("denied", "seccomp"),
        ),
        (refusal(errno.ENOMEM, "memlock"), ("RLIMIT_MEMLOCK=64 (hard 64)",), ("limited", "memlock")),
        (refusal(errno.ENOMEM, "memlock"), ("RLIMIT_MEMLOCK=unlimited (hard 64)",), ("limited", "memory")),
        (refusal(errno.ENOMEM, "memlock"), ("RLIMIT_MEMLOCK=64", CAP_IPC_LOCK), ("limited", "memory")),
        (refusal(errno.ENOMEM, "memlock"), ("RLIMIT_MEMLOCK=64", "CapEff=2000"), ("limited", "memlock")),
        (refusal(errno.EMFILE, "nofile"), (), ("limited", "nofile")),
        (refusal(errno.ENOSYS, "not-linux"), (), ("not-linux", "not-linux")),
        (refusal(errno.EIO, "unknown"), (), ("unknown", "unknown")),
        (refusal(errno.EIO, "unknown"), ("Seccomp=2",), ("unknown", "unknown")),  # a child that was killed
        (refusal(errno.EIO, "unknown", "io_uring_enter(-1)=EIO"), ("Seccomp=2",), ("denied", "seccomp")),
        (refusal(errno.EINVAL, "flags", "io_uring_enter(-1)=EINVAL"), (), ("denied", "seccomp")),
        (refusal(errno.EINVAL, "flags", "io_uring_enter(-1)=EBADF"), ("Seccomp=2",), ("unknown", "unknown")),
    ],
)
def test_refusal_then_layer(failure, facts, expected):
    assert evidence.classify(failure, facts)[:2] == expected


@pytest.mark.parametrize("detail", sorted(syscalls.REASONS))
def test_reason_then_a_cause_of_the_fixed_set_and_words_that_are_complete(detail):
    words = dict.fromkeys(("gid", "call", "why", "error", "module", "platform"), "{WORD}")
    failure = syscalls.Unavailable.because(errno.EPERM, "setup", detail, ("fact=1",), **words)
    documented = re.search(r"fixed set \(([^)]*)\)", syscalls.Unavailable.__doc__)[1]
    assert failure.cause in documented.replace(",", " ").split()
    assert (failure.errno, failure.detail, failure.evidence) == (errno.EPERM, detail, ("fact=1",))
    assert failure.advice in str(failure)
    assert re.fullmatch("[A-Z].*[.]", failure.advice.replace("{WORD}", ""))


def test_words_change_then_the_layer_stays():
    """No rule reads an advice: the wording for a filter that kills is only for people."""
    facts = ("Seccomp=2", "CONFIG_IO_URING=n")
    for detail, cause in (("seccomp-kill", "seccomp"), ("seccomp", "config"), ("no-module", "python")):
        code, by = (errno.ENOSYS, "absent") if detail == "no-module" else (errno.EPERM, "seccomp")
        for advice in ("", "It kills. This Python has no ctypes: SYSCALL_NUMBERS."):
            failure = syscalls.Unavailable(code, "setup", by, advice, (), detail)
            assert evidence.classify(failure, facts if by == "seccomp" else ())[1] == cause


@pytest.mark.parametrize(("disabled", "told"), [("0", ""), ("1", "io_uring_group"), ("2", "set that to 0")])
def test_sysctl_behind_a_filter_then_both_are_named(disabled, told):
    facts = ("Seccomp=2", f"kernel.io_uring_disabled={disabled}")
    status, cause, advice = evidence.classify(refusal(errno.EPERM, "seccomp"), facts)
    assert (status, cause) == ("denied", "seccomp")
    assert "profile" in advice
    assert told in advice
    assert ("Behind the filter" in advice) is bool(told)


def test_answer_that_no_rule_explains_then_no_advice_to_do_what_was_just_done():
    facts = ("io_uring_enter(-1)=EBADF",)
    failure = syscalls.Unavailable.because(errno.EIO, "io_uring_setup", "unknown", facts)
    advice = evidence.classify(failure, ())[2]
    assert "for details" not in advice
    assert "--json" in advice


def test_locked_memory_then_the_limit_with_its_unit():
    """RLIMIT_MEMLOCK counts bytes, and ulimit -l, which the advice names, kilobytes."""
    advice = evidence.classify(refusal(errno.ENOMEM, "memlock"), ("RLIMIT_MEMLOCK=65536 (hard 65536)",))[2]
    assert advice.endswith("The limit in bytes is 65536 (hard 65536).")


def test_absent_behind_a_filter_then_both_are_named():
    failure = refusal(errno.EPERM, "seccomp")
    status, _, advice = evidence.classify(failure, ("Seccomp=2", "uname=Linux 4.18.0 x"))
    assert status == "absent"
    assert "5.1" in advice
    assert "seccomp" in advice


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"# X\nCONFIG_IO_URING=y\n", "y"),
        (b"# CONFIG_IO_URING is not set\nCONFIG_EPOLL=y\n", "n"),
        (b"CONFIG_EPOLL=y\nCONFIG_IO_URING_X=y\n", "n"),
        (b"", ""),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_kernel_configuration_then_yes_no_or_nothing(monkeypatch, data, answer, packed):
    def open_config(path, mode):
        if path.endswith(".gz") != packed:
            raise FileNotFoundError
        return io.BytesIO(gzip.compress(data) if packed else data)

    monkeypatch.setattr(evidence, "open", open_config, raising=False)
    uname = types.SimpleNamespace(release="6.1.0")
    monkeypatch.setattr(evidence, "os", types.SimpleNamespace(uname=lambda: uname))
    assert evidence._kernel_config() == answer


def test_setup_flag_when_a_limit_was_met_then_nothing_was_learned():
    known = survey.Finding(True, "query", None, "")
    for code in (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN):
        assert survey._setup_finding(known, code) == known
        assert survey._setup_finding(survey.NOTHING, code) == survey.NOTHING
    assert survey._setup_finding(survey.NOTHING, errno.EPERM).admitted is False
    assert survey._setup_finding(known, 0) == survey.Finding(True, "query", True, "tried")


def test_operation_that_the_kernel_lacks_then_not_admitted_either(monkeypatch):
    monkeypatch.setattr(survey, "_probe_operations", lambda: {uapi.IORING_OP_NOP: True})
    monkeypatch.setattr(survey, "admitted_operations", lambda **named: {})
    findings, denied = survey._operations({}, False)
    assert findings["IORING_OP_READ"] == survey.Finding(False, "probe", False, "inferred")
    assert findings["IORING_OP_NOP"] == survey.Finding(True, "probe", None, "")
    assert denied == ()


@pytest.mark.parametrize(
    ("unknown", "expected"),
    [
        (-errno.EINVAL, {"NOP": True, "POLL_ADD": True, "POLL_REMOVE": True, "TIMEOUT": None}),
        (-errno.EBADF, {"NOP": True, "POLL_ADD": None, "POLL_REMOVE": True, "TIMEOUT": None}),
        (None, {"NOP": None, "POLL_ADD": None, "POLL_REMOVE": None, "TIMEOUT": None}),
    ],
    ids=["5.5", "5.4", "no answer"],
)
def test_operations_that_nothing_lists_then_known_by_what_an_unknown_one_does_not_answer(
    monkeypatch, unknown, expected
):
    results = dict.fromkeys((value for _, value in survey.family("OP")), -errno.EBADF)
    results[uapi.IORING_OP_NOP] = 0
    results[uapi.IORING_OP_POLL_REMOVE] = -errno.ENOENT
    results[uapi.IORING_OP_TIMEOUT] = -errno.EINVAL
    monkeypatch.setattr(survey, "_probe_operations", dict)
    monkeypatch.setattr(survey, "admitted_operations", lambda **named: results)
    monkeypatch.setattr(survey, "_answer_to_unknown", lambda: unknown)
    findings, _ = survey._operations({}, False)
    assert {name: findings[f"IORING_OP_{name}"].supported for name in expected} == expected


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ((), "Nothing is missing."),
        (("IORING_SETUP_SQ_REWIND",), "Newer kernels have 1 more feature."),  # 6.19 knows every operation
        (("IORING_OP_NOP128", "IORING_REGISTER_BPF_FILTER"), "Newer kernels have 2 more features."),
    ],
)
def test_usable_then_the_hint_says_that_nothing_is_to_be_done(missing, told):
    names = [name for kind in survey.KINDS for name, _ in survey.family(kind)]
    findings = {name: survey.Finding(name not in missing, "query", True, "tried") for name in names}
    assert survey._usable_advice(findings, 0, ()) == f"Nothing needs to be done. {told}"


def test_operations_unknown_then_the_hint_does_not_say_that_nothing_is_missing():
    names = [name for kind in survey.KINDS for name, _ in survey.family(kind)]
    findings = dict.fromkeys(names, survey.NOTHING)
    findings["IORING_OP_NOP"] = survey.Finding(True, "tried", True, "tried")
    assert "before 5.6" in survey._usable_advice(findings, 0, ())


class OneByOne:
    """A ring that delivers one completion at a time."""

    class sq:
        ring_entries = 128

    def __init__(self):
        self.queue = []

    def get_sqe(self):
        self.queue.append(bytearray(64))
        return self.queue[-1]

    def submit_and_wait(self, count, timeout_ns):
        assert count == 1

    def reap(self):
        return [(uapi.io_uring_sqe.unpack(self.queue.pop(0))["user_data"], -errno.EBADF, 0)]


def test_admitted_operations_when_answers_come_late_then_all_are_waited_for():
    answers = survey.admitted_operations(ring=OneByOne())
    assert set(answers) == {value for _, value in survey.family("OP")}
    assert set(answers.values()) == {-errno.EBADF}


@pytest.mark.requires_io_uring
def test_examine_ring_when_something_is_queued_then_refused():
    with rings.Ring(4) as ring:
        ring.get_sqe()
        with pytest.raises(ValueError, match="not idle"):
            survey.examine_ring(ring, _capabilities())


def _capabilities(**changes):
    return survey.Capabilities(True, "", "", "", (), "", {}, {}, {}, None, **changes)


@pytest.mark.parametrize(
    ("denied", "live", "expected"),
    [
        ((), {"NOP": "ok"}, ("usable", "")),
        ((), {"NOP": "failed: [Errno 24] Too many open files"}, ("limited", "nofile")),
        ((), {"NOP": "failed: res -5"}, ("limited", "failed-requests")),
        (("IORING_OP_NOP",), {"NOP": "failed: res -13"}, ("usable", "")),
    ],
)
def test_live_requests_that_failed_then_the_verdict(denied, live, expected):
    """Operations that a restriction forbids may fail: the survey has reported them already."""
    assert report.conclude(_capabilities(denied=denied), live)[:2] == expected
