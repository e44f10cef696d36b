# SPDX-License-Identifier: MIT
"""Shared code of the fault tests: the figures, children with limits, handmade seccomp filters."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PYPY = sys.implementation.name == "pypy"

#: Printed at the end of the run: see conftest.py.
figures: Counter[str] = Counter()


def _limits() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (180, 180))  # a third of it is used where Python is slow
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    size = 8 << 30 if PYPY else 4 << 30  # PyPy reserves more than it uses
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def run_child(
    script: str,
    *arguments: str,
    env: dict[str, str] | None = None,
    timeout: int = 60,
    flags: tuple[str, ...] = (),
) -> subprocess.CompletedProcess[str]:
    """Run a script in a new interpreter with limits; a hang is a failure."""
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", **(env or {})}
    command = [sys.executable, *flags, "-c", textwrap.dedent(script), *arguments]
    figures["child processes"] += 1
    return subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=timeout, preexec_fn=_limits, check=False
    )


def check_child(done: subprocess.CompletedProcess[str]) -> str:
    """Require that a child ended as expected, with nothing on stderr; return its output."""
    if done.stdout.startswith("SKIP "):
        pytest.skip(done.stdout[5:].strip())
    assert not done.returncode, (
        f"{name_of_status(done.returncode)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    )
    assert not done.stderr, done.stderr[-4000:]
    return done.stdout


def name_of_status(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit {code}"


class Struck(Exception):
    """Raised by a signal handler."""


def finalizing(frame: FrameType | None) -> bool:
    """Tell whether a frame runs in a finalizer, which swallows exceptions."""
    while frame is not None and frame.f_code.co_name != "__del__":
        frame = frame.f_back
    return frame is not None


@contextlib.contextmanager
def strike(
    at: int, handler: Callable[[], object] | None = None, files: tuple[str, ...] = ()
) -> Iterator[list[int]]:
    """Raise at the at-th moment at which CPython 3.11 and newer run signal handlers in the package.

    Or call a handler; or count the moments in some of its files only. Moments are the entry of a function and
    the return of a C function. (Signal handlers also run where a loop jumps back, which is right after
    a call wherever it matters.) Yields a list, empty if the block ended first.
    """
    struck: list[int] = []
    seen = 0

    def profile(frame: FrameType, event: str, arg: object) -> None:
        nonlocal seen
        folder, name = os.path.split(frame.f_code.co_filename)
        ours = folder == str(ROOT / "rawuring") and (not files or name in files)
        if ours and event in ("call", "c_return") and not struck:
            seen += 1
            if seen > at and not finalizing(frame):
                struck.append(frame.f_lineno)
                if handler is None:
                    raise Struck
                handler()
    try:
        sys.setprofile(profile)
        yield struck
    except Struck:
        assert struck
    finally:
        sys.setprofile(None)


@contextlib.contextmanager
def strike_anywhere(at: int) -> Iterator[list[int]]:
    """Raise before the at-th instruction of the package, as CPython before 3.11 and PyPy run signal handlers.

    Yields a list, empty if the block ended first.
    """
    struck: list[int] = []
    seen = 0

    def trace(frame: FrameType, event: str, arg: object) -> object:
        nonlocal seen
        if str(ROOT / "rawuring") != os.path.dirname(frame.f_code.co_filename):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and not struck:
            seen += 1
            if seen > at and not finalizing(frame):
                struck.append(frame.f_lineno)
                raise Struck
        return trace

    before = sys.gettrace()
    # CPython 3.12 traces instructions only if a frame asked for it before sys.settrace().
    sys._getframe().f_trace_opcodes = True
    try:
        sys.settrace(trace)
        yield struck
    except Struck:
        assert struck
    finally:
        sys.settrace(before)


#: For children: filter(CALL, FIELD) answers a system call with the errno given by one of its arguments,
#: or always with the same errno. x86-64 and the 64-bit table of arm64 and riscv64.
SECCOMP = r"""
import ctypes, errno, os, struct, sys
def _statement(code, k, jt=0, jf=0):
    return struct.pack("=HBBI", code, jt, jf, k)
def filter(number, argument=None, code=None, only=None):
    load, equal, ret, ret_a, alu_or = 0x20, 0x15, 0x06, 0x16, 0x44
    little = 0 if sys.byteorder == "little" else 4
    body = []
    if only is not None:  # (argument, value of its lower half)
        body += [_statement(load, 16 + 8 * only[0] + little), _statement(equal, only[1], 1, 0),
                 _statement(ret, 0x7FFF0000)]
    if code is not None:
        body.append(_statement(ret, 0x00050000 | code))
    else:
        body += [_statement(load, 16 + 8 * argument + little), _statement(equal, 0, 0, 1),
                 _statement(ret, 0x7FFF0000), _statement(alu_or, 0x00050000), _statement(ret_a, 0)]
    head = [_statement(load, 0), _statement(equal, number, 1, 0), _statement(ret, 0x7FFF0000)]
    program = b"".join(head + body)
    memory = ctypes.create_string_buffer(program, len(program))
    head = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(memory)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.c_void_p(ctypes.addressof(head)), 0, 0):
        print("SKIP seccomp filters (CONFIG_SECCOMP_FILTER, Linux 3.5)")
        sys.exit(0)
SETUP, ENTER, REGISTER = 425, 426, 427
MMAP = {"x86_64": 9}.get(os.uname().machine, 222)
"""
