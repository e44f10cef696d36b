# SPDX-License-Identifier: MIT
"""The probe's options for operators: --fix, --as, --profile.

What it is: each option in separate processes, under a filter if it matters; the programs that the output is
for read it, if they are installed here.
Must not know: how the texts are composed.
Invariant: nothing here changes anything for the rest of the machine.
Read next: test_forbid.py.
"""

from __future__ import annotations

import errno
import json
import os
import pwd
import re
import subprocess
from pathlib import Path

import pytest
from driver import kernel_release, release
from refusal import skip_without_seccomp
from test_forbid import USER_MODE
from test_probe import BECOME_NOBODY, FILTER, LINUX, MAIN, WARM, run, tell
from test_probe_denied import ENVIRONMENTS, ERRNO, KILL, filtered

from rawuring import inspect, profiles, remedies, report, syscalls

pytestmark = [pytest.mark.requires_io_uring, pytest.mark.skipif(not LINUX, reason="Linux only")]


def under(code: str, *arguments: str) -> subprocess.CompletedProcess:
    done = run("import sys\n" + code + MAIN, "-", *arguments)
    if done.returncode == 77:
        pytest.skip("seccomp filters (CONFIG_SECCOMP_FILTER, Linux 3.5), or root")
    assert done.stderr == "", done
    return done


# ------------------------------------------------------------------------------------------------------
# The page: it shows the output of the commands under a container's filter


def shown_on_the_page():
    """Return the commands of docs/operators.md, each with the lines that are shown below it."""
    page = Path(__file__).resolve().parent.parent / "docs" / "operators.md"
    if not page.exists():
        pytest.skip("docs/ in this copy")
    block = re.compile(r"```text\n\$ python3 -m rawuring\.(.*)\n((?:.*\n)*?)```")
    blocks = block.findall(page.read_text(encoding="utf-8"))
    return {command: [line for line in shown.splitlines() if line != "..."] for command, shown in blocks}


def test_page_for_operators_then_each_line_is_printed_where_a_filter_refuses():
    call = {"forbid": "forbid.main()", "probe": "probe.main(sys.argv[1:])"}
    shown = shown_on_the_page()
    assert [command.split()[0] for command in shown] == ["probe", "probe", "forbid", "inspect"]
    for command, lines in shown.items():
        name, *arguments = command.split()
        if name == "inspect":  # of the reader's host
            assert lines[0].split() == list(inspect._COLUMNS)
            continue
        code = f"from rawuring import {name}\nsys.argv[:] = ['', *sys.argv[2:]]\nsys.exit({call[name]})"
        done = run("import sys\n" + filtered(ERRNO | errno.EPERM) + code, "-", *arguments)
        skip_without_seccomp(done)
        assert done.stderr == ""
        if name == "forbid" and USER_MODE:  # whose 32-bit calls the filter does not see: open
            del lines[0]
        printed = [same_on_each_machine(line) for line in done.stdout.splitlines()]
        assert [line for line in lines if not is_among(same_on_each_machine(line), printed)] == [], command


def is_among(line, printed):
    """Look for a line; if no container is recognised, a hint gives the way for each of them."""
    what, _, how = line.rstrip(".").partition(" profile. ")
    return line in printed or (how and any(each.startswith(what) and how in each for each in printed))


def same_on_each_machine(line):
    """Drop the parts that differ between machines: kernel, system call table, number of ways tried."""
    line = re.sub(r" \(Linux .*\)$", "", line)
    return " ".join(line.replace(syscalls.abi(), "ABI").replace("x86_64", "ABI").split())


# ------------------------------------------------------------------------------------------------------
# --fix


@pytest.mark.parametrize("action", [ERRNO | errno.EPERM, ERRNO | errno.ENOSYS, KILL])
def test_filter_refuses_then_a_profile_a_rule_a_pod_and_a_unit(action):
    text = under(filtered(action), "--fix")
    assert text.stdout.startswith("# io_uring: DENIED by seccomp (")
    assert text.returncode == 1
    data = json.loads(under(filtered(action), "--fix", "--json").stdout)
    assert data["layers"] == ["seccomp"]
    docker, rule, pod, unit = data["fixes"]
    profile = json.loads(docker["paste"])
    allowed = [each["names"] for each in profile["syscalls"] if each["action"] == "SCMP_ACT_ALLOW"]
    assert allowed == [["io_uring_setup", "io_uring_enter", "io_uring_register"]]
    (refused,) = [set(each["names"]) for each in profile["syscalls"] if each["action"] == "SCMP_ACT_ERRNO"]
    assert {"mount", "ptrace", "bpf", "kexec_load", "open_by_handle_at"} <= refused
    assert not {name for name in refused if name.startswith("io_uring")}
    assert "--security-opt seccomp=" in docker["where"]
    assert rule["paste"].startswith("jq ") and "io_uring_register" in rule["paste"]
    assert "localhostProfile: profiles/io_uring.json" in pod["paste"]
    assert unit["paste"].startswith("[Service]\nSystemCallFilter=")
    for fix in data["fixes"]:
        assert fix["paste"] in text.stdout
        assert f"# gives up: {fix['gives_up']}" in text.stdout
        assert fix["gives_up"]


def test_profile_then_as_the_runtimes_read_it():
    """The members and actions of the OCI runtime specification, which Docker, Podman and CRI share."""
    profile = remedies.profile()
    assert profile["defaultAction"] == "SCMP_ACT_ALLOW"
    for rule in profile["syscalls"]:
        assert rule["action"] in ("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO")
        assert len(set(rule["names"])) == len(rule["names"])
        assert set(rule) <= {"names", "action", "errnoRet", "args"}


@pytest.mark.parametrize(
    ("cause", "facts", "layers", "word"),
    [
        ("sysctl", (), ["sysctl"], "kernel.io_uring_disabled = 0"),
        ("group", (), ["group"], f"kernel.io_uring_group = {os.getgid()}" if LINUX else ""),
        ("seccomp", ("kernel.io_uring_disabled=2",), ["seccomp", "sysctl"], "kernel.io_uring_disabled = 1"),
        ("memlock", (), ["memlock"], "hard memlock 65536"),
        ("nofile", (), ["nofile"], "LimitNOFILE=65536"),
        ("lsm", (), ["lsm"], "audit2allow"),
        ("old-kernel", (), [], "nothing to paste"),
    ],
)
def test_layer_that_refused_then_what_is_for_it(capsys, cause, facts, layers, word):
    assert remedies.layers_of("denied", cause, facts) == layers
    remedies.print_text(layers, "io_uring: DENIED", "The advice.")
    text = capsys.readouterr().out
    assert word in text
    assert "The advice." in text.splitlines()[-1]
    for line in text.splitlines():
        assert line.isprintable()


def test_usable_then_nothing_to_paste_and_a_layer_by_name():
    done = tell("--fix")
    assert (done.returncode, "nothing to paste" in done.stdout) == (0, True)
    assert "kernel.io_uring_disabled = 0" in tell("--fix", "sysctl").stdout
    wrong = tell("--fix", "sysctrl")
    assert (wrong.returncode, "the layers are" in wrong.stderr) == (2, True)


def test_sysctl_lines_then_sysctl_s_own_form():
    for fix in remedies.fixes("sysctl"):
        for line in fix.paste.splitlines():
            key, _, value = line.partition(" = ")
            assert key in ("kernel.io_uring_disabled", "kernel.io_uring_group")
            assert value.isdecimal()


# ------------------------------------------------------------------------------------------------------
# --as


def test_as_somebody_then_his_ids_and_the_caller_s_afterwards():
    if os.getuid():
        pytest.skip("root, to become another user")
    data = json.loads(tell("--as", "nobody", "--json").stdout)
    facts = dict(fact.partition("=")[::2] for fact in data["evidence"])
    nobody = pwd.getpwnam("nobody")
    assert facts["ids"].startswith(f"uid {nobody.pw_uid} gid {nobody.pw_gid}, groups ")
    assert int(facts["CapEff"], 16) == 0
    assert data["usable"] is True
    bare = json.loads(tell("--unprivileged", "--json").stdout)
    assert "ids=uid 65534 gid 65534, groups none" in bare["evidence"]
    assert f"ids=uid 0 gid {os.getgid()}" in tell("--verbose").stdout


def test_as_a_number_that_nobody_has_then_taken_and_a_name_refused():
    if os.getuid():
        pytest.skip("root, to become another user")
    assert "evidence: ids=uid 54321 gid 54321, groups none" in tell("--as", "54321").stdout
    wrong = tell("--as", "no-such-user")
    assert (wrong.returncode, "no such user" in wrong.stderr) == (2, True)


NOT_ROOT = """
import contextlib, io, os, pwd, sys
from rawuring import command, probe
with contextlib.redirect_stdout(io.StringIO()):
    probe.main(["-q"])
import ctypes, difflib, mmap, pprint
from rawuring import credentials
try:
    os.setgid(65534)
    os.setuid(65534)
except OSError:
    pass
command.run(lambda: probe.main(["--as", "1"]))
"""


def test_as_somebody_when_not_root_then_one_line():
    done = run(NOT_ROOT, "-")
    assert done.returncode == 74, done
    assert done.stderr.count("\n") == 1 and "run this as root" in done.stderr


@pytest.mark.parametrize(
    "arguments", [("--forbid", "--quiet"), ("--profile", "libuv"), ("--fix",), ("--quiet",)], ids=str
)
def test_as_somebody_with_another_question_then_its_answer_and_exit_code(arguments):
    if os.getuid():
        pytest.skip("root, to become another user")
    if "--profile" in arguments and kernel_release() < release("5.11"):
        pytest.skip("SQPOLL without privileges (Linux 5.11)")  # the profile's answer differs
    own, other = tell(*arguments), tell("--unprivileged", *arguments)
    assert (own.stdout, own.returncode) == (other.stdout, other.returncode)
    assert other.stderr == ""


def test_as_somebody_when_io_uring_is_denied_then_denied():
    done = under(filtered(KILL), "--unprivileged")
    if os.getuid():
        pytest.skip("root, to become another user")
    assert (done.stdout.startswith("io_uring: DENIED by seccomp"), done.returncode) == (True, 1)


# ------------------------------------------------------------------------------------------------------
# --profile


@pytest.mark.long
@pytest.mark.parametrize("name", profiles.PROFILES)
def test_profile_then_rows_that_the_tables_know_and_a_source_for_each(name):
    title, rows = profiles.load(name)
    assert title == name
    assert any(not row.optional for row in rows)
    for row in rows:
        assert row.source and row.what
        for item in row.items:
            report.check(item)
    text, data = tell("--profile", name), json.loads(tell("--profile", name, "--json").stdout)
    assert [row["what"] for row in data["rows"]] == [row.what for row in rows]
    assert text.returncode == {True: 0, False: 3, None: 4}[data["answer"]]
    for row in data["rows"]:
        assert row["answer"] is True or row["missing"]
        assert row["source"] in text.stdout


def test_profile_when_something_is_refused_then_that_row_and_exit_code_3():
    one = FILTER.replace("numbers[0]", "numbers[2]")
    done = run(one + MAIN, hex(ERRNO | errno.EPERM), "--profile", "tokio")
    skip_without_seccomp(done)
    assert "  list of the kernel's operations: no (REG:PROBE)" in done.stdout.splitlines()
    assert done.returncode == 3


def test_profile_where_io_uring_is_denied_then_no_ring_and_exit_code_1():
    done = under(filtered(KILL), "--profile", "qemu", "--json")
    data = json.loads(done.stdout)
    assert {row["answer"] for row in data["rows"]} == {False}
    assert {tuple(row["missing"]) for row in data["rows"]} == {("a ring",)}
    assert (data["answer"], done.returncode) == (False, 1)


def test_profile_of_a_user_then_read_from_the_file(tmp_path):
    path = tmp_path / "mine.json"
    rows = [
        {"what": "polls", "items": ["OP:POLL_ADD"], "source": "mine.c"},
        {"what": "dreams", "items": ["KERNEL:99.0"], "optional": True},
    ]
    path.write_text(json.dumps({"name": "mine", "rows": rows}), encoding="utf-8")
    done = tell("--profile", str(path))
    assert done.returncode == 0
    assert "  dreams (optional): no (KERNEL:99.0)" in done.stdout.splitlines()
    assert "profile mine: every required item is available" in done.stdout
    rows[1]["optional"] = False
    path.write_text(json.dumps({"rows": rows}), encoding="utf-8")
    assert tell("--profile", str(path)).returncode == 3


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("[", "not JSON"), ("[]", "not a profile"), ('{"rows": []}', "not a profile"),
        ('{"rows": [1]}', "not a profile"),
        ('{"rows": [{"what": "x", "items": "OP:READ"}]}', "list of strings"),
        ('{"rows": [{"what": "x", "items": ["OP:RED"]}]}', "did you mean READ?"),
        ('{"rows": [{"what": "x", "items": [], "optional": 1}]}', "true or false"),
        (None, "is neither a profile (qemu, "),
    ],
)  # fmt: skip
def test_profile_that_is_none_then_usage_error_and_the_reason(tmp_path, content, word):
    path = tmp_path / "mine.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    done = tell("--profile", str(path))
    assert (done.returncode, done.stdout) == (2, "")
    assert word in " ".join(done.stderr.split()), done.stderr


def test_help_then_the_layers_and_profiles_that_there_are():
    text = " ".join(tell("--help").stdout.split())
    for layer in remedies.LAYERS:
        assert layer in text or layer == "group"  # of the sysctl
    for name in profiles.PROFILES:
        assert name in text or name in ("fdmon", "selector", "aio")  # parts of rawuring


def test_two_questions_at_once_then_usage_error():
    for arguments in (("--fix", "--forbid"), ("--profile", "fio", "--fix"), ("--as", "0", "--unprivileged")):
        assert tell(*arguments).returncode == 2


# ------------------------------------------------------------------------------------------------------
# Each question in each environment

QUESTIONS = (
    ["--fix"], ["--fix", "--json"], ["--profile", "libuv"], ["--profile", "aio", "--json"], ["--forbid"],
    ["--forbid", "--json"],
)  # fmt: skip
ASK = """
import contextlib, io, json, sys
from rawuring import probe
told = []
for question in QUESTIONS:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = probe.main(question)
    told.append((code, out.getvalue()))
print(json.dumps(told))
""".replace("QUESTIONS", repr(QUESTIONS))


@pytest.fixture(scope="module")
def schemas():
    compile_schema = pytest.importorskip("fastjsonschema").compile
    docs = Path(__file__).resolve().parent.parent / "docs"
    return {
        f"--{name}": compile_schema(json.loads((docs / f"{name}.schema.json").read_text(encoding="utf-8")))
        for name in ("fix", "profile", "forbid")
    }


@pytest.mark.long
@pytest.mark.parametrize("nobody", [False, True], ids=["root", "nobody"])
@pytest.mark.parametrize("name", ["usable", *ENVIRONMENTS])
def test_environment_then_each_question_has_an_answer_and_says_what_is_next(name, nobody, schemas):
    code = ENVIRONMENTS[name][0] if name != "usable" else ""
    warm = "import contextlib, io, os, sys\nwith contextlib.redirect_stdout(io.StringIO()):\n"
    warm += "".join(f"    {line}\n" for line in ASK.splitlines())
    code = "import sys\n" + warm + "probe._cached = None\n" + code.replace(WARM, "")
    if nobody and BECOME_NOBODY not in code:
        code += BECOME_NOBODY
    done = run(code + ASK, "-", RAWURING_DEBUG="0")
    if done.returncode == 77:
        pytest.skip("the parts of this environment, or root")
    assert (done.returncode, done.stderr) == (0, ""), done
    told = json.loads(done.stdout.splitlines()[-1])
    for question, (exit_code, text) in zip(QUESTIONS, told):
        assert exit_code in (0, 1, 3, 4), question
        if "--json" in question:
            data = json.loads(text)
            schemas[question[0]](data)
            assert data["verdict"].startswith("io_uring: ") and data["advice"]
        else:
            lines = text.splitlines()
            assert "io_uring: " in lines[0]
            assert "hint: " in lines[-1] or "nothing to paste: " in lines[-1]
    for text, data in ((told[0], told[1]), (told[4], told[5])):
        assert text[0] == data[0]
        assert json.loads(data[1])["verdict"] in text[1].splitlines()[0]
    closed = json.loads(told[5][1])["closed"]
    if name in ("seccomp EPERM", "seccomp ENOSYS", "seccomp EOPNOTSUPP", "seccomp kills"):
        assert closed is True
    else:
        assert closed is not True
