# SPDX-License-Identifier: MIT
"""--forbid against known filters, one by one: a wrong verdict fails here.

What it is: a matrix of filters, each loaded in a child of one process, in which the probe then reports the
filter's action for every way in. The filter's action is the oracle.
Must not know: how an answer is judged.
Invariant: nothing here changes anything for the rest of the machine.
Read next: test_probe_denied.py.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from refusal import skip_without_seccomp
from test_probe import LINUX, WARM, run
from test_probe_denied import HIDDEN_PROC, NO_FILES, READ_ONLY, filtered

from rawuring import forbid

ROOT = Path(__file__).resolve().parent.parent
pytestmark = [pytest.mark.requires_io_uring, pytest.mark.skipif(not LINUX, reason="Linux only")]
# User-mode Linux serves int 0x80 with the table and the registers of the native entry.
USER_MODE = LINUX and "User Mode Linux" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
X86_64 = platform.machine() == "x86_64" and sys.maxsize > 2**32 and not USER_MODE

ALLOW, LOG, KILL = 0x7FFF0000, 0x7FFC0000, 0x80000000
ACTIONS = {"allow": ALLOW, "log": LOG, "kill": KILL, "trap": 0x00030000}
ACTIONS.update({name: 0x00050000 | getattr(errno, name) for name in ("EPERM", "ENOSYS", "EACCES")})
# A case: the filter's action for setup (with valid parameters, and with NULL), enter and register.
ONE_CALL = [
    tuple(action if position in where else other for position in range(4))
    for other in ("allow", "EPERM")
    for action in ACTIONS
    for where in ((0, 1), (2,), (3,))
]
ALL_CALLS = [(action,) * 4 for action in ACTIONS]
BY_ARGUMENT = [
    (true, null, rest, rest)
    for true, null in (
        ("allow", "EPERM"), ("EPERM", "allow"), ("kill", "allow"), ("allow", "kill"), ("ENOSYS", "EACCES"),
        ("log", "ENOSYS"), ("EPERM", "kill"), ("kill", "EPERM"),
    )
    for rest in ("EPERM", "allow", "kill")
]  # fmt: skip
CASES = sorted({*ONE_CALL, *ALL_CALLS, *BY_ARGUMENT})

RUNNER = """
import json, os, struct, sys
from rawuring import forbid, syscalls
import ctypes
numbers = syscalls.SYSCALL_NUMBERS[syscalls.abi()]
def load(actions):
    true, null, enter, register = actions
    low, high = (24, 28) if sys.byteorder == "little" else (28, 24)  # args[1]
    lines = [(0x20, 0, 0, 0), (0x15, 0, 6, numbers[0])]
    lines += [(0x20, 0, 0, low), (0x15, 0, 2, 0), (0x20, 0, 0, high), (0x15, 1, 0, 0)]
    lines += [(6, 0, 0, true), (6, 0, 0, null)]
    lines += [(0x15, 0, 1, numbers[1]), (6, 0, 0, enter), (0x15, 0, 1, numbers[2]), (6, 0, 0, register)]
    lines += [(6, 0, 0, 0x7FFF0000)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in lines))
    class Fprog(ctypes.Structure):
        _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
    fprog = Fprog(len(lines), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, ctypes.byref(fprog), 0, 0) == 0
for case in json.load(sys.stdin):
    pid = os.fork()
    if not pid:
        try:
            if load(case):
                print(json.dumps(forbid.as_dict(forbid.examine())), flush=True)
            else:
                print("null", flush=True)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
"""


def examine_under(cases):
    numbers = [[ACTIONS.get(action, action) for action in case] for case in cases]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "RAWURING_DEBUG": "0"}
    done = subprocess.run(
        [sys.executable, "-c", RUNNER], input=json.dumps(numbers), env=env, capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(cases)
    if None in found:
        pytest.skip("seccomp filters (CONFIG_SECCOMP_FILTER, Linux 3.5)")
    return found


def position_of(attempt):
    return {"setup": int("NULL" in attempt["way"]), "enter": 2, "register": 3}[attempt["call"]]


def expected_state(case, attempt):
    """Return the filter's action for a call; the filter does not look at the architecture."""
    action = case[position_of(attempt)]
    if action in ("kill", "trap"):
        return "killed"
    return "open" if action in ("allow", "log") else "refused"


def test_matrix_of_filters_then_each_way_in_is_told_as_the_filter_has_it():
    for case, found in zip(CASES, examine_under(CASES)):
        states = set()
        for attempt in found["attempts"]:
            if attempt["abi"] == "x32" or attempt["state"] == "not tried":
                continue  # a number that this filter does not know; no executable memory
            if attempt["abi"] == "i386" and USER_MODE:
                continue
            if "no i386" in attempt["layer"]:
                continue
            state = expected_state(case, attempt)
            assert attempt["state"] == state, (case, attempt)
            states.add(state)
            if state == "refused":
                assert attempt["answer"] == case[position_of(attempt)], (case, attempt)
                assert "seccomp" in attempt["layer"], (case, attempt)
        assert found["closed"] is ("open" not in states), case
        assert found["verdict"].startswith("io_uring: CLOSED" if found["closed"] else "io_uring: OPEN"), case


@pytest.mark.parametrize(
    "code",
    [0, errno.EBADF, errno.EINVAL, errno.EFAULT, errno.EOPNOTSUPP, errno.EMFILE, errno.EIO, errno.ENXIO],
)
def test_filter_answers_as_an_open_kernel_might_then_it_is_not_believed(code):
    """No kernel gives one answer to everything: -1, no ring and NULL give different errors."""
    (found,) = examine_under([(0x00050000 | code,) * 4])
    assert found["closed"] is True, found["attempts"]
    assert {attempt["state"] for attempt in found["attempts"]} <= {"refused", "not tried"}


def test_filter_for_the_native_table_only_then_the_other_one_is_found_open():
    if not X86_64:
        pytest.skip("a second system call table that can be reached (x86-64)")
    native = "(0x20, 0, 0, 4), (0x15, 1, 0, 0xC000003E), (6, 0, 0, 0x7FFF0000), "  # AUDIT_ARCH_X86_64
    code = filtered(0x00050000 | errno.EPERM).replace("program = [", f"program = [{native}")
    done = run("import sys\n" + code + FORBID, "-", "--json")
    found = json.loads(done.stdout)
    if any(attempt["state"] == "not tried" for attempt in found["attempts"] if attempt["abi"] == "i386"):
        pytest.skip("executable memory for int 0x80")
    if any("no i386" in attempt["layer"] for attempt in found["attempts"]):
        pytest.skip("int 0x80 (CONFIG_IA32_EMULATION)")
    states = {(attempt["abi"], attempt["call"]): attempt["state"] for attempt in found["attempts"]}
    assert states["x86_64", "setup"] == "refused" and states["i386", "setup"] == "open"
    assert (found["closed"], done.returncode) == (False, 1)
    assert "other architectures" in found["advice"]


FORBID = "from rawuring import probe; sys.exit(probe.main(['--forbid', *sys.argv[2:]]))"


@pytest.fixture(scope="module")
def validate():
    schema = json.loads((ROOT / "docs" / "forbid.schema.json").read_text(encoding="utf-8"))
    return pytest.importorskip("fastjsonschema").compile(schema)


@pytest.mark.parametrize("environment", ["", HIDDEN_PROC, READ_ONLY], ids=["usual", "no proc", "read-only"])
@pytest.mark.parametrize("closed", [False, True])
def test_environment_then_text_json_and_exit_code_agree(environment, closed, validate):
    code = "import sys\n" + environment + (filtered(0x00050000 | errno.EPERM) if closed else "") + FORBID
    text, data, quiet = run(code, "-"), run(code, "-", "--json"), run(code, "-", "--quiet")
    if text.returncode == 77:
        pytest.skip("a mount namespace (root), or seccomp filters")
    found = json.loads(data.stdout)
    validate(found)
    lines = text.stdout.splitlines()
    assert text.stderr == data.stderr == ""
    assert lines[0] == found["verdict"] == quiet.stdout.strip()
    assert lines[-1] == f"hint: {found['advice']}"
    assert found["closed"] is closed
    assert {done.returncode for done in (text, data, quiet)} == {0 if closed else 1}
    assert set(found["calls"]) == {"setup", "enter", "register"}
    assert {each["state"] for each in found["calls"].values()} == {"refused" if closed else "open"}
    assert ("libuv" in text.stdout) is closed


INHERIT = """
from rawuring import rings, uapi
import os, sys
ring = rings.Ring(2)
os.set_inheritable(ring.fileno(), True)
os.environ["RING"] = str(ring.fileno())
FILTER
os.execv(sys.executable, [sys.executable, "-m", "rawuring.probe", "--forbid", "--json"])
"""


def inherit(code):
    done = run(INHERIT.replace("FILTER", code), "-", RAWURING_DEBUG="0")
    skip_without_seccomp(done)
    found = json.loads(done.stdout)
    return found, [attempt for attempt in found["attempts"] if "inherited" in attempt["way"]]


def test_setup_refused_and_a_ring_was_inherited_then_open_and_the_ring_is_named():
    found, inherited = inherit(filtered(0x00050000 | errno.EPERM, "0"))
    assert [(each["call"], each["state"]) for each in inherited] == [("enter", "open"), ("register", "open")]
    assert found["closed"] is False
    assert "inherited" in found["advice"]


def test_everything_refused_and_a_ring_was_inherited_then_closed():
    found, inherited = inherit(filtered(0x00050000 | errno.EPERM))
    assert [each["state"] for each in inherited] == ["refused"] * 2
    assert found["closed"] is True


def test_everything_refused_and_an_sqpoll_ring_was_inherited_then_open_all_the_same():
    """It needs no system call: a kernel thread reads its memory."""
    code = """
import os, sys
from rawuring import syscalls, uapi
params = bytearray(uapi.io_uring_params.pack(flags=uapi.IORING_SETUP_SQPOLL, sq_thread_idle=1))
ring = syscalls.io_uring_setup(2, params)  # exec() would end its thread
if os.fork():
    sys.exit(os.WEXITSTATUS(os.wait()[1]))
"""
    done = run(code + filtered(0x00050000 | errno.EPERM) + FORBID, "-", "--json")
    skip_without_seccomp(done)
    found = json.loads(done.stdout)
    inherited = [attempt["state"] for attempt in found["attempts"] if "inherited" in attempt["way"]]
    assert inherited == ["refused", "refused", "open"]
    assert (found["closed"], done.returncode) == (False, 1)


def test_a_ring_of_this_process_then_it_stays_as_it_was():
    from rawuring import buffers, ops, register, rings

    with rings.Ring(4) as ring:
        register.register_buffers(ring, [buffers.allocate(4096)])
        register.register_files(ring, [0])
        assert forbid.examine().closed is False
        ops.prep_nop(ring.get_sqe(), 1)
        ring.submit_and_wait(1)
        assert [cqe[0] for cqe in ring.reap()] == [1]
        register.register_files_update(ring, 0, [1])
        register.unregister_buffers(ring)


@pytest.mark.leakcheck
def test_examined_then_no_descriptor_and_no_child_left():
    assert forbid.examine().closed is False
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_no_child_can_be_made_then_open_is_seen_and_closed_is_not_claimed():
    code = "import ctypes, posix, sys\ndef refuse():\n    raise OSError(11, 'none')\nposix.fork = refuse\n"
    assert run(code + FORBID, "-", "--quiet").stdout.startswith("io_uring: OPEN")
    done = run(code + filtered(0x00050000 | errno.EPERM) + FORBID, "-", "--quiet")
    assert (done.stdout.startswith("io_uring: UNKNOWN"), done.returncode) == (True, 4)


@pytest.mark.parametrize("spare", range(5))
def test_few_descriptors_left_then_never_closed(spare):
    few = NO_FILES.replace("(free, 4096)", f"(free + {spare}, 4096)")
    done = run(WARM.replace("probe.main([])", 'probe.main(["--forbid"])') + few + FORBID, "-", "--quiet")
    assert done.stderr == ""
    assert done.returncode in (1, 4), done


@pytest.mark.parametrize(
    ("disabled", "mode", "layer"),
    [
        ("2", "0", "kernel.io_uring_disabled=2"),
        ("1", "2", "a seccomp filter, or kernel.io_uring_disabled=1"),
        ("0", "0", "a security module (active here: selinux)"),
    ],
)
def test_setup_refused_and_the_kernel_reached_then_the_layer_and_open(disabled, mode, layer):
    """The sysctl closes setup alone: inherited rings continue to work."""
    native = forbid._Native((425, 426, 427))
    plans = forbid._of_table("x86_64", native)
    codes = [errno.EPERM, errno.EPERM, errno.EBADF, errno.EOPNOTSUPP, errno.EINVAL, errno.EOPNOTSUPP]
    facts = (f"kernel.io_uring_disabled={disabled}", "LSM=selinux")
    attempts = forbid._judge(plans, [(code, 0) for code in codes], mode, facts)
    assert attempts[0].layer == layer
    assert [attempt.state for attempt in attempts] == ["refused"] * 2 + ["open"] * 4
    found = forbid.Report(forbid._conclude(attempts), tuple(attempts), facts, "Linux", mode)
    assert found.closed is False
    assert mode == "2" or "inherited" in forbid.advice(found)


def test_nothing_answers_then_a_kernel_without_io_uring_and_closed():
    plans = forbid._of_table("x86_64", forbid._Native((425, 426, 427)))
    attempts = forbid._judge(plans, [(errno.ENOSYS, 0)] * 6, "0", ())
    (layer,) = {attempt.layer for attempt in attempts}
    assert layer.startswith("a kernel without io_uring")
    assert forbid._conclude(attempts) is True


def test_one_way_of_many_could_not_be_tried_then_not_called_closed():
    refused = [forbid.Attempt(call, "", "", "EPERM", "refused", "") for call in forbid.CALLS]
    assert forbid._conclude(refused) is True
    assert forbid._conclude([*refused, refused[0]._replace(state="unknown")]) is None
    assert forbid._conclude([*refused, refused[0]._replace(state="not tried")]) is True
    assert forbid._conclude(refused[1:]) is None


def test_bare_interpreter_without_proc_and_read_only_then_the_one_file_answers(tmp_path):
    archive = tmp_path / "probe.pyz"
    subprocess.run(
        [sys.executable, str(ROOT / "tools" / "build_zipapp.py"), "--output", str(archive)], check=True,
        stdout=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip
    code = "import os, sys\n" + HIDDEN_PROC + READ_ONLY.replace(
        "if libc.unshare(0x20000) or libc.mount(None, b\"/\", None, 0x44000, None):\n    sys.exit(77)", ""
    )
    code += filtered(0x00050000 | errno.ENOSYS)
    code += f"os.execv(sys.executable, [sys.executable, '-I', '-S', {str(archive)!r}, '--forbid', '--json'])"
    done = run(code, "-")
    if done.returncode == 77:
        pytest.skip("a mount namespace (root), or seccomp filters")
    assert "Traceback" not in done.stderr  # PyPy warns about files that are missing in /proc
    assert (json.loads(done.stdout)["closed"], done.returncode) == (True, 0)
