# SPDX-License-Identifier: MIT
# pyright: basic
"""How a command ends: ``run(main)`` turns a main() into an exit code.

What it is: the frame of every ``python -m`` of this package except aio's, which runs its user's program.
Mirrors: the behaviour of coreutils on a closed pipe, a full disk and Ctrl-C; EX_IOERR of sysexits.h.
Must not know: what any command does.
Invariant: a failure of the environment ends a command with one line at most; a traceback means a defect.
Read next: evidence.py.

Unless said otherwise, any thread may call.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: The exit code when the output could not be written, or another system call failed; no command uses it
#: itself.
FAILED = 74


def run(main: Callable[[], int]) -> None:
    """Call main and exit with its return value.

    A reader that closes its end of the pipe ends the command silently by SIGPIPE, Ctrl-C by SIGINT; an
    OSError is reported in one line. A closed stdout counts as one that cannot be written.

    Args: main is called without arguments.
    Raises: SystemExit, always.
    Threads: the main thread.
    """
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if sys.stdout is None:  # the descriptor is closed, and the next one opened would take its number
        closed = os.open(os.devnull, os.O_RDONLY)  # so that writing fails, with EBADF as on the closed one
        sys.stdout = open(closed, "w", encoding="utf-8")  # noqa: SIM115
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:  # names of files and processes need not fit the terminal
        reconfigure(errors="backslashreplace")
    try:
        try:
            code = main()
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
        code = 130  # where a signal does not end the process
    except OSError as error:
        print(f"{os.path.basename(sys.argv[0])}: {error}", file=sys.stderr)
        _forget_output()
        code = FAILED
    sys.exit(code)


def _forget_output() -> None:
    """Drop the buffered output: the interpreter would try to write it once more."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        pass
