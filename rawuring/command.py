# SPDX-License-Identifier: MIT
# pyright: basic
"""How a command ends: ``run(main)`` turns a main() into an exit code.

What it is: the frame of every ``python -m`` of this package, but aio's, which runs its user's program.
Mirrors: what coreutils do with a closed pipe, a full disk and Ctrl-C; EX_IOERR of sysexits.h.
Must not know: what any command does.
Invariant: what the environment does to a command ends it with one line at most; a traceback means a defect.
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

#: The exit code when nothing could be written, or the system refused something else: no command's own.
FAILED = 74


def run(main: Callable[[], int]) -> None:
    """Call main and exit with what it returns.

    A reader that closes its end of the pipe ends the command silently by SIGPIPE, Ctrl-C by SIGINT; an
    OSError is told in one line. A stdout that was closed counts as one that cannot be written.

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
    """Drop what stands in the buffer: the interpreter would try to write it once more."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        pass
