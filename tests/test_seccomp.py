# SPDX-License-Identifier: MIT
"""Filters that kill: code with a fallback survives them, and reports why it made no call.

What it is: each case in a separate process, with a handmade filter. The process must survive, and take its
fallback.
Must not know: how a filter is detected.
Invariant: nothing here changes anything for the rest of the machine.
Read next: test_probe_denied.py.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_probe import BECOME_NOBODY, FILTER, LINUX, run
from test_probe_denied import HIDDEN_PROC, KILL, NO_FILES, filtered

from rawuring import seccomp

ROOT = Path(__file__).resolve().parent.parent
pytestmark = [pytest.mark.requires_io_uring, pytest.mark.skipif(not LINUX, reason="Linux only")]

EVERYTHING = """
import threading, warnings
warnings.simplefilter("ignore", RuntimeWarning)
from rawuring import aio, fdmon, layout, register, rings, selector, syscalls, tour
stop = threading.Event()
thread = threading.Thread(target=stop.wait, daemon=True)
thread.start()  # a process with threads, like most servers
try:
    rings.Ring(8)
except syscalls.Unavailable as error:
    assert error.cause == "seccomp" and "kills" in error.advice, error
else:
    raise AssertionError("a ring was made")
with fdmon.setup() as monitor:
    assert monitor.backend == "poll" and "kills" in monitor.reason, monitor.reason
with selector.IoUringSelector() as chosen:
    assert not chosen.backend.startswith("io_uring") and "kills" in chosen.reason, chosen.reason
async def main():
    return "ran"
assert aio.run(main()) == "ran"
try:
    register.query(0)
except OSError as error:
    assert "kills" in str(error), error
assert layout.main([]) == tour.main(["1"]) == aio.main([]) == 0
stop.set()
thread.join()
print("fine")
"""


def survive(code: str, *arguments: str) -> str:
    done = run("import sys\n" + code, *arguments, RAWURING_DEBUG="0")  # which writes to stderr
    if done.returncode == 77:
        pytest.skip("seccomp filters (CONFIG_SECCOMP_FILTER, Linux 3.5), or root")
    assert (done.returncode, done.stderr) == (0, ""), done
    assert done.stdout.endswith("fine\n"), done
    return done.stdout


@pytest.mark.parametrize("call", ["0", "1", "2"], ids=["setup", "enter", "register"])
def test_filter_that_kills_then_everything_that_falls_back_does(call):
    text = " ".join(survive(filtered(KILL, call) + EVERYTHING).split())
    assert "this machine refused" in text and "this machine's refused" in text


@pytest.mark.parametrize("action", [0, 0x00030000], ids=["KILL_THREAD", "TRAP"])
def test_filter_that_ends_the_process_in_another_way_then_the_same(action):
    survive(filtered(action) + EVERYTHING)


def test_filter_that_kills_where_there_is_no_proc_then_survived_as_well():
    survive(HIDDEN_PROC + filtered(KILL) + EVERYTHING)


def test_filter_that_kills_when_loaded_after_the_first_ring_then_noticed():
    survive("from rawuring import rings\nrings.Ring(2).close()\n" + filtered(KILL) + EVERYTHING)


def test_second_filter_kills_then_the_answer_about_the_first_is_not_believed():
    harmless = FILTER.replace("int(sys.argv[1], 0)", str(0x7FFF0000))  # SECCOMP_RET_ALLOW
    survive(harmless + "from rawuring import rings\nrings.Ring(2).close()\n" + filtered(KILL) + EVERYTHING)


def test_filter_that_allows_then_rings_and_one_child_for_all_of_them():
    survive(filtered(0x7FFC0000) + """
import posix
made, fork = [], posix.fork
def counted():
    made.append(1)
    return fork()
posix.fork = counted
from rawuring import rings
for _ in range(3):
    rings.Ring(2).close()
assert len(made) == 1, made
print("fine")
""")  # SECCOMP_RET_LOG


def test_filter_of_one_thread_then_only_that_thread_is_refused():
    survive("""
import threading
from rawuring import rings, syscalls
seen = {}
def confined():
    exec(compile(CODE, "filter", "exec"), {"__name__": "filter"})
    try:
        rings.Ring(2)
    except syscalls.Unavailable as error:
        seen["confined"] = error.cause
def free():
    rings.Ring(2).close()
    seen["free"] = "made"
for target in (free, confined, free):
    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
free()
assert seen == {"confined": "seccomp", "free": "made"}, seen
print("fine")
""".replace("CODE", repr(filtered(KILL))))


def test_filter_and_no_descriptor_to_look_with_then_the_descriptors_are_to_blame():
    survive("from rawuring import syscalls, rings\n" + filtered(KILL) + NO_FILES + """
try:
    rings.Ring(2)
except syscalls.Unavailable as error:
    assert error.cause == "nofile", error
print("fine")
""")


NO_CHILDREN = "import os, resource\nresource.setrlimit(resource.RLIMIT_NPROC, (0, 0))\n" + BECOME_NOBODY


def test_filter_and_no_child_to_ask_then_not_tried_and_said_so():
    loaded = "import ctypes, select\nfrom rawuring import fdmon, rings, syscalls\n"
    survive(loaded + NO_CHILDREN + filtered(KILL) + """
with fdmon.setup() as monitor:
    assert monitor.backend == "poll" and "not tried" in monitor.reason, monitor.reason
    assert "RLIMIT_NPROC" in monitor.reason, monitor.reason
print("fine")
""")


def test_killed_child_then_no_core_dump(tmp_path):
    pattern = Path("/proc/sys/kernel/core_pattern")
    if not pattern.exists() or pattern.read_text()[:1] in ("|", "/"):
        pytest.skip("core dumps in the working directory")
    code = filtered(KILL) + """
import os, resource
resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)
from rawuring import fdmon
fdmon.setup().destroy()
"""
    done = subprocess.run(
        [sys.executable, "-c", "import sys\n" + code], env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode in (0, 77), done
    assert os.listdir(tmp_path) == []


def test_child_when_somebody_else_holds_its_pipe_then_nobody_waits_for_him():
    """Like a process that another thread forked meanwhile: the pipe ends only when that process does."""
    hold, let_go = os.pipe()

    def leave_a_holder(say):
        say(7)
        if not os.fork():
            os.close(let_go)
            os.read(hold, 1)

    assert seccomp.in_child(leave_a_holder) == ([7], 0)
    os.close(hold)
    os.close(let_go)


def test_child_when_os_fork_is_somebody_elses_then_not_through_it(monkeypatch):
    """gevent replaces os.fork and os.waitpid with its own functions, which run its hub."""
    for name in ("fork", "waitpid"):
        monkeypatch.setattr(os, name, lambda *arguments: pytest.fail("patched"))
    assert seccomp.in_child(lambda say: say(errno.EPERM)) == ([errno.EPERM], 0)


def test_child_when_killed_then_what_it_said_before():
    def say_and_die(say):
        say(7)
        os.kill(os.getpid(), signal.SIGSYS)

    assert seccomp.in_child(say_and_die) == ([7], signal.SIGSYS)
