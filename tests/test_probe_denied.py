# SPDX-License-Identifier: MIT
"""The probe in environments that these tests make: verdict, layer, remedy and exit code, as text and as JSON.

Each environment is code that runs in a new process before the probe. It exits with 77 if it cannot be set up,
and the test is skipped. No test changes anything for the rest of the machine, except the one for the sysctl,
which must be enabled explicitly.
"""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from test_probe import BECOME_NOBODY, FILTER, LINUX, MAIN, WARM, run

from rawuring import probe, report, survey, uapi

ROOT = Path(__file__).resolve().parent.parent
pytestmark = [pytest.mark.requires_io_uring, pytest.mark.skipif(not LINUX, reason="Linux only")]

ERRNO = 0x00050000  # SECCOMP_RET_ERRNO
KILL = 0x80000000  # SECCOMP_RET_KILL_PROCESS


def filtered(action: int, call: str = "") -> str:
    """Return code that filters all three calls, or one."""
    code = FILTER.replace("int(sys.argv[1], 0)", str(action))
    for number in ("numbers[0]", "numbers[2]") if call else ():
        code = code.replace(number, f"numbers[{call}]")
    return code


# In a separate mount namespace, so that no other process sees it. CLONE_NEWNS, and then MS_REC|MS_PRIVATE.
PRIVATE_MOUNTS = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x20000) or libc.mount(None, b"/", None, 0x44000, None):
    sys.exit(77)
"""
HIDDEN_PROC = PRIVATE_MOUNTS + """
if libc.mount(b"none", b"/proc", b"tmpfs", 0, None) or os.path.exists("/proc/self"):
    sys.exit(77)
"""
READ_ONLY = PRIVATE_MOUNTS + """
if libc.mount(None, b"/", None, 0x1021, None):  # MS_REMOUNT|MS_BIND|MS_RDONLY
    sys.exit(77)
try:
    open("/written", "w")
    sys.exit(77)
except OSError:
    pass
"""
RESTRICTED_TASK = """
from rawuring import register, uapi
try:
    register.register_task_restrictions(
        sqe_ops=[{operations}], register_ops=range(uapi.IORING_REGISTER_LAST), sqe_flags_allowed=0xFF
    )
except OSError:
    sys.exit(77)
"""
ALL_BUT_RECV = "value for name, value in uapi._family('IORING_OP_') if name != 'IORING_OP_RECV'"
RESTRICTED_TASK_BUT_RECV = RESTRICTED_TASK.replace("[{operations}]", f"[{ALL_BUT_RECV}]")
NO_MEMLOCK = "import resource\nresource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))\n" + BECOME_NOBODY
NO_FILES = (
    "import os, resource\nfree = os.dup(0); os.close(free)\n"
    "resource.setrlimit(resource.RLIMIT_NOFILE, (free, 4096))\n"
)

# name -> its code, then status, cause, exit code, a word of the remedy; and the feature of a skip.
ENVIRONMENTS = {
    "seccomp EPERM": (filtered(ERRNO | errno.EPERM), "denied", "seccomp", 1, "profile", "seccomp filters"),
    "seccomp ENOSYS": (filtered(ERRNO | errno.ENOSYS), "denied", "seccomp", 1, "profile", "seccomp filters"),
    "seccomp EOPNOTSUPP": (
        filtered(ERRNO | errno.EOPNOTSUPP), "denied", "seccomp", 1, "profile", "seccomp filters",
    ),
    "seccomp kills": (filtered(KILL), "denied", "seccomp", 1, "io_uring_setup", "seccomp filters"),
    "seccomp kills at enter": (filtered(KILL, "1"), "denied", "seccomp", 1, "_enter", "seccomp filters"),
    "seccomp EPERM at register": (
        filtered(ERRNO | errno.EPERM, "2"), "degraded", "seccomp", 0, "profile", "seccomp filters",
    ),
    "no descriptors": (WARM + NO_FILES, "limited", "nofile", 1, "RLIMIT_NOFILE", "RLIMIT_NOFILE"),
    "no locked memory": (
        WARM + NO_MEMLOCK, "limited", "memlock", 1, "RLIMIT_MEMLOCK",
        "ring memory that counts against RLIMIT_MEMLOCK (before 5.12 and from 6.14 on), as root",
    ),
    "no privileges": (WARM + BECOME_NOBODY, "usable", "", 0, "", "root, to become another user"),
    "hidden /proc": (HIDDEN_PROC, "usable", "", 0, "", "a mount namespace (root)"),
    "read-only": (READ_ONLY, "usable", "", 0, "", "a mount namespace (root)"),
    "task restricted to NOP": (
        RESTRICTED_TASK.replace("{operations}", "uapi.IORING_OP_NOP"),
        "denied", "task-restriction", 1, "sandbox", "IORING_REGISTER_RESTRICTIONS without a ring (Linux 7.0)",
    ),
    "task refused RECV": (
        RESTRICTED_TASK_BUT_RECV, "degraded", "task-restriction", 0, "IORING_OP_RECV",
        "IORING_REGISTER_RESTRICTIONS without a ring (Linux 7.0)",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def validate():
    schema = json.loads((ROOT / "docs" / "probe.schema.json").read_text(encoding="utf-8"))
    return pytest.importorskip("fastjsonschema").compile(schema)


def run_in(environment: str, feature: str, *arguments: str):
    done = run("import sys\n" + environment + MAIN, "-", *arguments)
    if done.returncode == 77:
        pytest.skip(feature)
    assert done.stderr == ""
    return done


@pytest.mark.long
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_environment_then_verdict_remedy_and_exit_code_as_text_and_json(name):
    code, status, cause, exit_code, remedy, feature = ENVIRONMENTS[name]
    text = run_in(code, feature)
    if status == "limited" and cause == "memlock" and text.returncode == 0:
        pytest.skip(feature)
    first, last = text.stdout.splitlines()[0], text.stdout.splitlines()[-1]
    by = f" by {cause.replace('-', ' ')}" if cause else ""
    assert first.startswith(f"io_uring: {status.upper()}{by} ("), text
    assert last.startswith("hint: ")
    assert remedy in last
    data = run_in(code, feature, "--json")
    found = json.loads(data.stdout)
    assert (found["status"], found["cause"], found["verdict"]) == (status, cause, first)
    assert found["advice"] in last
    assert found["usable"] is (status in ("usable", "degraded"))
    quiet = run_in(code, feature, "--quiet")
    assert quiet.stdout.splitlines() == [first]
    assert text.returncode == data.returncode == quiet.returncode == exit_code


@pytest.mark.long
@pytest.mark.parametrize("name", ["usable", *ENVIRONMENTS])
def test_environment_then_the_json_keeps_to_the_schema(name, validate):
    code, feature = (ENVIRONMENTS[name][0], ENVIRONMENTS[name][-1]) if name != "usable" else ("", "")
    validate(json.loads(run_in(code, feature, "--json").stdout))


def test_task_restriction_then_supported_and_admitted_differ():
    feature = "IORING_REGISTER_RESTRICTIONS without a ring (Linux 7.0)"
    required = "OP:RECV,OP:SEND"
    found = json.loads(run_in(RESTRICTED_TASK_BUT_RECV, feature, "--json", "--require", required).stdout)
    assert found["findings"]["IORING_OP_RECV"]["supported"] is True
    assert found["findings"]["IORING_OP_RECV"]["admitted"] is False
    assert found["denied"] == ["IORING_OP_RECV"]
    assert found["required"]["OP:RECV"]["answer"] is False
    assert found["required"]["OP:SEND"]["answer"] is True
    assert run_in(RESTRICTED_TASK_BUT_RECV, feature, "--require", "OP:RECV").returncode == 3


def test_hidden_proc_then_the_same_answers_with_less_evidence():
    usual = json.loads(run_in("", "", "--json").stdout)
    blind = json.loads(run_in(HIDDEN_PROC, "a mount namespace (root)", "--json").stdout)
    for key in ("usable", "status", "features", "setup_flags", "opcodes", "findings", "library", "live"):
        assert blind[key] == usual[key]
    assert not [fact for fact in blind["evidence"] if fact.startswith(("kernel.", "Seccomp", "CapEff"))]


@pytest.mark.parametrize("value", ["1", "2"])
def test_sysctl_then_named_and_restored(value):
    path = Path("/proc/sys/kernel/io_uring_disabled")
    if not os.environ.get("RAWURING_TEST_SYSCTL"):
        pytest.skip("RAWURING_TEST_SYSCTL, which allows a test that disables io_uring for the whole machine")
    if not path.exists():
        pytest.skip("kernel.io_uring_disabled (Linux 6.6)")
    before = path.read_text(encoding="ascii")
    try:
        path.write_text(value, encoding="ascii")
    except OSError:
        pytest.skip("root, to set a sysctl")
    try:
        code = WARM.replace("probe.main([])", "pass") + BECOME_NOBODY
        text, data = run_in(code, "root"), run_in(code, "root", "--json")
    finally:
        path.write_text(before, encoding="ascii")
    cause = {"1": "group", "2": "sysctl"}[value]
    assert text.stdout.startswith(f"io_uring: DENIED by {cause} (")
    assert "kernel.io_uring_" in text.stdout.splitlines()[-1]
    assert (json.loads(data.stdout)["cause"], text.returncode, data.returncode) == (cause, 1, 1)


# ------------------------------------------------------------------------------------------------------
# One ring


@pytest.fixture
def restricted():
    """Make rings that allow only the named operations."""
    from rawuring import register, rings

    made = []

    def make(**allowed):
        try:
            ring = rings.Ring(4, flags=uapi.IORING_SETUP_R_DISABLED)
            made.append(ring)
            register.register_restrictions(ring, **allowed)
            ring.enable()
        except OSError as error:
            pytest.skip(f"IORING_REGISTER_ENABLE_RINGS that works (Linux 5.10.162): {error}")
        return ring

    yield make
    for ring in made:
        ring.close()


def test_restricted_ring_then_only_what_it_admits_and_what_was_registered_stays(restricted, capsys):
    allowed = [uapi.IORING_REGISTER_PROBE, uapi.IORING_REGISTER_BUFFERS]
    ring = restricted(sqe_ops=[uapi.IORING_OP_NOP, uapi.IORING_OP_READ], register_ops=allowed)
    found = probe.examine_ring(ring)
    assert found.findings["IORING_OP_NOP128"].admitted is not True
    admitted = [name for name, _ in survey.family("OP") if found.findings[name].admitted]
    assert admitted == ["IORING_OP_NOP", "IORING_OP_READ"]
    registrations = {name for name, _ in survey.family("REG") if found.findings[name].admitted}
    assert {"IORING_REGISTER_PROBE", "IORING_REGISTER_BUFFERS"} <= registrations
    assert not registrations & {"IORING_REGISTER_FILES", "IORING_UNREGISTER_BUFFERS"}
    assert (found.status, found.cause, found.usable) == ("degraded", "ring-restriction", True)
    assert probe.main([], ring=ring) == 0
    text = capsys.readouterr().out
    assert text.startswith("io_uring: DEGRADED by ring restriction (")
    assert "another ring" in text.splitlines()[-1]
    assert probe.main(["--json", "--require", "OP:RECV"], ring=ring) == 3
    data = json.loads(capsys.readouterr().out)
    assert (data["status"], data["cause"]) == ("degraded", "ring-restriction")
    assert data["findings"]["IORING_OP_RECV"] == {
        "supported": True, "how": found.findings["IORING_OP_RECV"].how,
        "admitted": False, "admitted_how": "tried", "since": "5.6",
    }  # fmt: skip


def test_ring_that_admits_no_operation_then_denied(restricted, capsys):
    ring = restricted(register_ops=[uapi.IORING_REGISTER_PROBE], sqe_flags_allowed=0)
    if any(finding.admitted for name, finding in probe.examine_ring(ring).findings.items() if "_OP_" in name):
        pytest.skip("restrictions that refuse all operations if none is listed")
    assert probe.main([], ring=ring) == 1
    text = capsys.readouterr().out
    assert text.startswith("io_uring: DENIED by ring restriction (")
    assert "another ring" in text.splitlines()[-1]
    assert probe.main(["--json"], ring=ring) == 1
    assert json.loads(capsys.readouterr().out)["usable"] is False


def test_ring_that_demands_fixed_files_then_its_operations_are_admitted(restricted):
    ring = restricted(
        sqe_ops=[uapi.IORING_OP_READ], sqe_flags_required=uapi.IOSQE_FIXED_FILE,
        register_ops=[uapi.IORING_REGISTER_FILES],
    )  # fmt: skip
    found = probe.examine_ring(ring)
    assert [name for name, _ in survey.family("OP") if found.findings[name].admitted] == ["IORING_OP_READ"]


def test_ring_without_restrictions_then_as_the_process(request):
    from rawuring import register, rings

    with rings.Ring(8) as ring:
        register.register_files(ring, [0])
        found = probe.examine_ring(ring)
        assert found == probe.capabilities()
        register.register_files_update(ring, 0, [1])  # still registered


def test_ring_that_is_busy_then_refused():
    from rawuring import ops, rings

    with rings.Ring(8) as ring:
        ops.prep_nop(ring.get_sqe(), 1)
        with pytest.raises(ValueError, match="not idle"):
            probe.examine_ring(ring)
        ring.submit()
        with pytest.raises(ValueError, match="not idle"):
            probe.examine_ring(ring)
        assert len(ring.reap()) == 1
        assert probe.examine_ring(ring).usable


# ------------------------------------------------------------------------------------------------------
# The library behaves as its profile says


def test_profile_then_the_library_agrees():
    from rawuring import fdmon, rings, selector

    found = report.library(probe.capabilities(refresh=True))
    profile = {name: state["answer"] for name, state in found.items()}
    monitor = fdmon.setup()
    assert (monitor.backend == "io_uring") is profile["monitor (fdmon)"]
    monitor.destroy()
    for name, strategy in (
        ("one-shot polls", "io_uring:poll_add"),
        ("an epoll set", "io_uring:epoll_poll"),
        ("an epoll set in one system call", "io_uring:epoll_wait"),
    ):
        answer = profile[f"selector and asyncio, {name}"]
        try:
            with selector.IoUringSelector(strategy, fallback=False):
                works = True
        except OSError:
            works = False
        assert works is answer or answer is None, strategy
    with rings.Ring(2) as ring:
        there = bool(ring.features & uapi.IORING_FEAT_EXT_ARG)
        assert profile["timeouts without a request of their own"] is there
