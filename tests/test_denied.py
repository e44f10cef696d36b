# SPDX-License-Identifier: MIT
"""The documented commands, examples and loops where io_uring is refused, as written on the pages.

What it is: for each kind of refusal one process, which loads a filter and then runs each of them in a
separate child. Code with a fallback returns its result; code that needs a ring ends with Unavailable, cause
and advice.
Must not know: how a refusal is detected.
Invariant: nothing is killed, and nothing ends in a traceback of this library; a command on a page that is
neither run here nor excused is a failure.
Read next: test_seccomp.py.
"""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from refusal import skip_without_seccomp
from test_docs import SNIPPETS, name
from test_probe import LINUX
from test_probe_denied import ERRNO, KILL, filtered

ROOT = Path(__file__).resolve().parent.parent
# The pages that name commands for users.
PAGES = [ROOT / "README.md"]
PAGES += [
    ROOT / "docs" / f"{name}.md"
    for name in ("index", "operators", "asyncio", "examples", "files", "probe", "vendoring")
]
pytestmark = [
    pytest.mark.requires_io_uring,
    pytest.mark.skipif(not LINUX, reason="Linux only"),
    pytest.mark.skipif(not (ROOT / "docs").exists(), reason="docs/ in this copy"),
]

# name -> the filter, and the reported cause.
REFUSALS = {
    "EPERM": (filtered(ERRNO | errno.EPERM), "seccomp"),
    "ENOSYS": (filtered(ERRNO | errno.ENOSYS), "seccomp"),
    "EMFILE": (filtered(ERRNO | errno.EMFILE, "0"), "nofile"),
    "killed": (filtered(KILL), "seccomp"),
}

SCRIPT = "import asyncio\nasync def main(): print('ran', flush=True)\nasyncio.run(main())\n"
TRACE = '["r", 0, "1.1", 8, 16, 0]\n["s", 1, "1.1", 1, 0, 0]\n["c", 2, "1.1", 1, 0, 0]\n'
PROBE = ("io_uring: ", 1)  # the beginning of the output, and the exit code
# A command of the pages, with ... for the rest -> its arguments here, its output and its exit code.
COMMANDS = {
    "python3 -m rawuring.probe": (["-m", "rawuring.probe"], *PROBE),
    "python3 -m rawuring.probe -q": (["-m", "rawuring.probe", "-q"], *PROBE),
    "python3 -m rawuring.probe -q --require OP:RECV,KERNEL:6.1": (
        ["-m", "rawuring.probe", "-q", "--require", "OP:RECV,KERNEL:6.1"], *PROBE,
    ),
    "python3 -m rawuring.probe --explain EPERM": (["-m", "rawuring.probe", "--explain", "EPERM"], "EPERM", 0),
    "python3 -m rawuring.probe --fix": (["-m", "rawuring.probe", "--fix"], "# io_uring: ", 1),
    "python3 -m rawuring.forbid": (["-m", "rawuring.forbid"], "io_uring: ", (0, 1, 4)),
    "python3 -m rawuring.tour": (["-m", "rawuring.tour"], "On the pure-Python kernel, because", 0),
    "python3 -m rawuring.play > ring.html": (["-m", "rawuring.play"], "<!", 0),
    "python3 -m rawuring.play run.jsonl > run.html": (["-m", "rawuring.play", "TMP/run.jsonl"], "<!", 0),
    "python3 -m rawuring.layout": (["-m", "rawuring.layout"], "A ring of 8 SQEs", 0),
    "python3 -m rawuring.inspect PID": (["-m", "rawuring.inspect", "self"], "", 1),  # which has no ring
    "python3 -m rawuring.inspect PID --explain": (["-m", "rawuring.inspect", "self", "--explain"], "", 1),
    "python3 -m rawuring.inspect --all": (["-m", "rawuring.inspect", "--all"], "", (0, 1, 4)),
    "python3 -m rawuring.aio script.py": (["-m", "rawuring.aio", "SCRIPT"], "ran\n", 0),
    "python3 examples/readme.py": (["examples/readme.py"], "Unavailable", 1),
    "python3 examples/cat.py README.md": (["examples/cat.py", "README.md"], "Unavailable", 1),
    "python3 -m rawuring": (["-m", "rawuring"], "usage: python -m rawuring COMMAND", 0),
    "python3 -m rawuring.vendor host/_vendor": (["-m", "rawuring.vendor", "TMP/host/_vendor"], "", 0),
    "python3 -m rawuring.vendor host/_vendor --name ring": (
        ["-m", "rawuring.vendor", "TMP/host/_vendor", "--name", "ring"], "", 0,
    ),
    "python3 -m host._vendor.ring.probe": (["-m", "host._vendor.ring.probe"], *PROBE),
    "python3 -m rawuring.vendor host/_vendor --only fdmon": (
        ["-m", "rawuring.vendor", "TMP/b", "--only", "fdmon"], "", 0,
    ),
    "python3 -m rawuring.vendor host/_vendor --single-file": (
        ["-m", "rawuring.vendor", "TMP/c", "--single-file"], "", 0,
    ),
    "python3 host/_vendor/rawuring.py probe": (["TMP/c/rawuring.py", "probe"], *PROBE),
    "python3 -m rawuring.vendor host/_vendor --minimal": (
        ["-m", "rawuring.vendor", "TMP/d", "--minimal"], "", 0,
    ),
    "python3 -m rawuring.vendor host/_vendor --compiled": (
        ["-m", "rawuring.vendor", "TMP/e", "--compiled"], "", 0,
    ),
    "python3 -m rawuring.vendor --check host/_vendor": (
        ["-m", "rawuring.vendor", "--check", "TMP/host/_vendor"], "", 0,
    ),
    "python3 -m host._vendor.rawuring probe": (["-m", "host._vendor.rawuring", "probe"], *PROBE),
    "python3 -m host._vendor.rawuring --check": (["-m", "host._vendor.rawuring", "--check"], "", 0),
    "python3 -I -S host/_vendor/rawuring --check": (["TMP/host/_vendor/rawuring", "--check"], "", 0),
    "python3 -m rawuring.vendor host/_vendor/rawuring --check --against FILE": (
        [
            "-m", "rawuring.vendor", "TMP/host/_vendor/rawuring", "--check", "--against",
            "TMP/host/_vendor/rawuring/SHA256SUMS",
        ], "", 0,
    ),
    "python3 -m rawuring.vendor --sbom host/_vendor": (
        ["-m", "rawuring.vendor", "--sbom", "TMP/host/_vendor"], "{", 0,
    ),
    "python3 tools/build_zipapp.py": (["tools/build_zipapp.py", "--output", "TMP/probe.pyz"], "", 0),
    "python3 -I -S dist/rawuring-probe.pyz": (["TMP/probe.pyz"], *PROBE),
}  # fmt: skip
# Run by other tests and by CI; they take minutes, or need a network.
EXCUSED = (
    "tools/run_tests.py", "tools/run_cpython_tests.py", "tools/try_libraries.py", "tools/build_packages.py",
    "tools/test_copies.py", "tools/build_docs.py", "tools/kernel_matrix", "tools/run_file_tests.py",
    "bench/run.py", "bench/files.py", "-m zipfile",
    "-m http.server",
    "-m pip",
)  # fmt: skip
# The options of the tables, and the commands that need no ring by their nature.
MORE = (
    (["-m", "rawuring.probe", "--quiet"], *PROBE),
    (["-m", "rawuring.probe", "--verbose"], *PROBE),
    (["-m", "rawuring.probe", "--json"], "{", 1),
    (["-m", "rawuring.probe", "--python"], "{", 1),
    (["-m", "rawuring.probe", "--require", "OP:RECV,SETUP:DEFER_TASKRUN,KERNEL:6.1"], *PROBE),
    (["-m", "rawuring.probe", "--list"], "operations:", 0),
    (["-m", "rawuring.probe", "--fix", "nofile"], "# io_uring: ", 1),
    (["-m", "rawuring.probe", "--profile", "libuv"], *PROBE),
    (["-m", "rawuring.probe", "--as", "0"], *PROBE),
    (["-m", "rawuring.layout", "--flags", "CQE32"], "A ring of 8 SQEs", 0),
    (["-m", "rawuring.layout", "--op", "RECV"], "", 0),
    (["-m", "rawuring.layout", "sqe"], "", 0),
    (["-m", "rawuring.layout", "--on", "kernel"], "rawuring.layout: ", 1),
    (["-m", "rawuring.tour", "--on", "kernel"], "", 1),
    (["-m", "rawuring.aio"], "asyncio on epoll: ", 0),
    (["-m", "rawuring.aio", "-v", "SCRIPT"], "", 0),
    (["examples/aio_echo_server.py"], "", 0),
    (["examples/aio_signals.py"], "", 0),
    (["examples/aio_subprocess.py"], "", 0),
    (["examples/aio_threads.py"], "", 0),
    (["examples/files_copy.py"], "", 0),
    (["examples/files_follow.py"], "['first', 'second']\nafter the rotation\n", 0),
    (["examples/files_hash.py"], "", 0),
    (["examples/files_hash.py", "--sync"], "", 0),
    (["examples/files_loader.py"], "4 batches", 0),
    (["examples/copy_linked.py", "README.md", "TMP/copy"], "Unavailable", 1),
    (["examples/random_reader.py", "README.md"], "Unavailable", 1),
    (["examples/echo_multishot.py"], "Unavailable", 1),
    (["examples/pass_fd.py", "README.md"], "Unavailable", 1),
    (["examples/walk_statx.py", "docs"], "Unavailable", 1),
)  # fmt: skip

# Commands without io_uring calls, and copies of the others, are tried under the severest refusal only.
ONCE = ("vendor", "TMP/", "tools/", "--list", "--explain", "--op", "sqe")

LOOPS = """
import asyncio, os, socket, warnings
warnings.simplefilter("ignore", RuntimeWarning)
import rawuring.aio, rawuring.fdmon, rawuring.selector
async def main():
    one, two = socket.socketpair()
    one.setblocking(False)
    two.send(b"x")
    with one, two:
        return await asyncio.get_running_loop().sock_recv(one, 1)
assert rawuring.aio.run(main()) == b"x"
if hasattr(asyncio, "Runner") and "loop_factory" in asyncio.run.__kwdefaults__:
    assert asyncio.run(main(), loop_factory=rawuring.aio.new_event_loop) == b"x"
loop = asyncio.SelectorEventLoop(rawuring.selector.IoUringSelector())
assert loop.run_until_complete(main()) == b"x"
loop.close()
rawuring.aio.install()
assert asyncio.run(main()) == b"x"
loop = rawuring.aio.new_event_loop()
assert loop.run_until_complete(main()) == b"x"
loop.close()
with rawuring.fdmon.setup() as monitor:
    read_end, write_end = os.pipe()
    seen = []
    node = monitor.add(read_end, 1, lambda node, events: seen.append(events))
    os.write(write_end, b"x")
    monitor.dispatch(monitor.wait(None))
    monitor.notify()
    assert seen == [1] and monitor.backend == "poll" and monitor.reason, (seen, monitor.reason)
from rawuring import asyncring, syscalls
async def ask():
    assert not asyncring.available()
    try:
        asyncring.running()
    except syscalls.Unavailable as error:
        assert error.cause and error.advice and str(error) == asyncring.reason(), (error, asyncring.reason())
        return error.cause
causes = {asyncio.run(ask())}
for make in (asyncio.SelectorEventLoop, rawuring.aio.new_event_loop):
    loop = make()
    causes.add(loop.run_until_complete(ask()))
    loop.close()
assert not asyncring.available() and len(causes) == 1 and causes.pop() in asyncring.reason()
print("ran")
"""
RUNNER = """
import argparse, asyncio, ctypes, json, os, runpy, select, signal, socket, subprocess
import sys, tempfile, warnings
FILTER
def run(command, code, folder):
    with tempfile.TemporaryFile(dir=folder) as out:
        pid = os.fork()
        if not pid:
            status = 70
            try:
                signal.alarm(60)  # ends a child that hangs
                os.dup2(out.fileno(), 1)
                os.dup2(out.fileno(), 2)
                sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
                sys.path[:0] = [folder, *os.environ["PYTHONPATH"].split(os.pathsep)]
                try:
                    if code:
                        names = {"__name__": "__main__", "__file__": command[0]}
                        exec(compile(code, command[0], "exec"), names)
                    elif command[0] == "-m":
                        sys.argv = command[1:]
                        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
                    else:
                        sys.argv = command
                        runpy.run_path(command[0], run_name="__main__")
                    status = 0
                except SystemExit as leaving:
                    status = leaving.code or 0
                except BaseException:
                    import traceback
                    traceback.print_exc()
                    status = 1
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(status)
        status = os.waitpid(pid, 0)[1]
        out.seek(0)
        code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        return code, out.read().decode(errors="replace")
jobs = json.load(sys.stdin)
print(json.dumps([run(*job, os.environ["TMP"]) for job in jobs]))
"""


def named_in_the_pages():
    """Find the commands: separate lines, in the tables and in the text."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    found = re.findall(r"(?:^    |`)(python3? [^`#\n]*?) *(?:`|#|$)", text, re.MULTILINE)
    return {re.sub(r"^python ", "python3 ", each) for each in found} - {"python3 -I -S"}  # not a command


def test_commands_of_the_pages_then_each_is_run_here_or_excused():
    named = {each for each in named_in_the_pages() if not any(word in each for word in EXCUSED)}
    assert named - set(COMMANDS) == set()
    assert set(COMMANDS) - named == set(), "no longer on any page"


@pytest.mark.long
@pytest.mark.parametrize("refusal", REFUSALS)
def test_refused_then_all_of_it_does_what_it_says(refusal, tmp_path):
    code, cause = REFUSALS[refusal]
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "run.jsonl").write_text(TRACE)
    replace = {"SCRIPT": str(tmp_path / "script.py")}
    jobs = []
    for arguments, begin, status in (*COMMANDS.values(), *MORE):
        if refusal != "killed" and any(word in part for part in arguments for word in ONCE):
            continue
        command = [replace.get(word, word.replace("TMP/", f"{tmp_path}/")) for word in arguments]
        jobs.append((command, "", begin, status))
    jobs.append((["every way to a loop"], LOOPS, "ran\n", 0))
    for snippet in SNIPPETS:
        if refusal == "killed" and not snippet.needs and snippet.page.name != "README.md":
            jobs.append(([name(snippet)], snippet.code, snippet.prints or "", 0))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TMP": str(tmp_path)}
    env.update(PYTHONWARNINGS="", RAWURING_DEBUG="0")
    done = subprocess.run(
        [sys.executable, "-c", RUNNER.replace("FILTER", code)], env=env, cwd=ROOT, capture_output=True,
        input=json.dumps([job[:2] for job in jobs]), text=True, timeout=300, check=False,
    )  # fmt: skip
    skip_without_seccomp(done)
    assert (done.returncode, done.stderr) == (0, "")
    wrong = []
    for (command, _, begin, expected), (status, text) in zip(jobs, json.loads(done.stdout)):
        right = status in expected if isinstance(expected, tuple) else status == expected
        if begin == "Unavailable":  # a user's program: its own traceback, then the message
            last = text.splitlines()[-1]
            right &= "Unavailable: " in last and f"Cause: {cause}." in last
        else:
            right &= text.startswith(begin) or f"\n{begin}" in text
            right &= "Traceback" not in text
        if command[-1] == "rawuring.probe":
            right &= f" by {cause} (" in text.splitlines()[0]
        if not right:
            wrong.append(f"{' '.join(command)}: {status}, not {expected} and {begin!r}:\n{text[-1500:]}")
    assert not wrong, "\n\n".join(wrong)
