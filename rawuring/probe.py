# SPDX-License-Identifier: MIT
# pyright: basic
"""What this kernel offers, who forbids it, and proof: ``python -m rawuring.probe``.

What it is: the answers as an API, cached, and the command.
Mirrors: bpftool feature probe, virt-host-validate.
Must not know: the monitor, or anything built on it.
Invariant: the kernel is asked once per process unless the answer is transient; every answer is yes, no or
unknown, found by probing and never by comparing versions; neither a descriptor nor a child is left behind.
Read next: monitor.py.

Unless said otherwise, memory passed to a call may be freed when the call returns, only the thread that owns a
ring may use it, and Linux 5.1 suffices.
"""

from __future__ import annotations

import json

from . import command, report, survey
from .report import MISSING, NOT_USABLE, SCHEMA, UNKNOWN, USABLE, USAGE, as_dict, library, verdict
from .survey import Capabilities, Finding, prove

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from .profiles import Row
    from .rings import Ring
    from .survey import Answer

__all__ = [
    "MISSING",
    "NOT_USABLE",
    "SCHEMA",
    "UNKNOWN",
    "USABLE",
    "USAGE",
    "Capabilities",
    "Finding",
    "as_dict",
    "capabilities",
    "examine_ring",
    "library",
    "main",
    "op_supported",
    "prove",
    "supports",
    "verdict",
]

_cached: Capabilities | None = None


def capabilities(refresh: bool = False) -> Capabilities:
    """Find out what the kernel offers to this process.

    A lasting answer is cached. A transient one (``lasting`` is False), obtained while descriptors, memory or
    processes were scarce, is not: the next call asks again.

    Args: refresh asks again instead of returning the earlier answer.
    Returns: the answers; usable is None when they could not be determined.
    Threads: any.
    """
    global _cached
    if _cached is not None and not refresh:
        return _cached
    found = survey.examine()
    _cached = found if found.lasting else None
    return found


def examine_ring(ring: Ring) -> Capabilities:
    """Find out what one ring allows: the restrictions of a ring hold for it alone.

    Args: ring is enabled and idle.
    Returns: the answers for this ring.
    Raises: ValueError for a ring with unreaped completions or queued requests.
    Since: 5.10
    """
    return survey.examine_ring(ring, capabilities())


def op_supported(name: str) -> Answer:
    """Return whether this kernel supports an operation.

    Args: name such as "IORING_OP_READ".
    Returns: True, False, or None if the kernel cannot be asked (before 5.6).
    Since: 5.6
    Mirrors: liburing io_uring_opcode_supported
    """
    return capabilities().opcodes.get(name)


def supports(*items: str) -> Answer:
    """Return whether this kernel has all of these items and allows this process to use them.

    Args: items such as "OP:RECV", "SETUP:DEFER_TASKRUN", "FEAT:EXT_ARG", "REG:PBUF_RING" or "KERNEL:6.1".
    Returns: False if one is missing, None if one is unknown and none is missing.
    Raises: ValueError for a name that the tables do not contain.
    """
    return _all(capabilities(), items)


def _all(found: Capabilities, items: tuple[str, ...]) -> Answer:
    answers = [report.ask(found, item)[0] for item in items]
    return False if False in answers else None if None in answers else True


# ------------------------------------------------------------------------------------------------------
# The command

_EPILOG = """\
items of --require, separated by commas:
  OP:RECV  SETUP:DEFER_TASKRUN  FEAT:EXT_ARG  REG:PBUF_RING  ENTER:NO_IOWAIT  SQE:CQE_SKIP_SUCCESS  KERNEL:6.1

exit code, also of --fix and --profile: 0 usable, and every required item is available; 1 not usable; 2 wrong
usage; 3 a required item is missing; 4 cannot tell. With --compare: 0 no difference, 1 differences, 2 not
readable. With --forbid: 0 all three calls are refused, 1 something is open, 4 cannot tell. In any form: 74
the output could not be written.
"""


def main(arguments: list[str] | None = None, ring: Ring | None = None) -> int:
    """Run the command.

    Args: arguments without the program's name, by default those of the process; ring is the caller's, enabled
        and idle, and its restrictions are examined.
    Returns: the exit code: 0 usable, 1 not usable, 2 wrong usage, 3 a required item is missing, 4 cannot
        tell.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    required = tuple(item.strip() for item in options.require.split(",") if item.strip())
    # Import only the modules that are needed: in a zip each file is compiled at each start.
    rows: tuple[Row, ...] = ()
    whom = None
    try:
        for item in required:
            report.check(item)
        if options.fix:
            from . import remedies

            remedies.check(options.fix)
        if options.profile is not None:
            from . import profiles

            options.profile, rows = profiles.load(options.profile)
        if options.user is not None or options.unprivileged:
            from . import credentials

            whom = credentials.find(options.user)
        if options.explain is not None:
            print(*report.explain(options.explain), sep="\n")
            return USABLE
        if options.compare:
            return _compare(*options.compare)
    except ValueError as error:
        parser.error(str(error))
    if options.list:
        if options.json or options.python:
            _print_data(report.tables(), options.python)
        else:
            report.print_tables()
        return USABLE
    if whom is None:
        return _answer(options, required, rows, ring)
    _load_all(options)
    return credentials.run_as(whom, lambda: _answer(options, required, rows, None))


def _parser() -> argparse.ArgumentParser:
    import argparse

    parser = argparse.ArgumentParser(
        prog="python -m rawuring.probe",
        description="Say whether io_uring can be used here, what this kernel offers, and who forbids it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"rawuring {report.version()}")
    form, amount = parser.add_mutually_exclusive_group(), parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object")
    form.add_argument("--python", action="store_true", help="print one Python literal")
    amount.add_argument("-q", "--quiet", action="store_true", help="print the verdict and the missing items")
    amount.add_argument("-v", "--verbose", action="store_true", help="print every name and its source")
    parser.add_argument("--require", metavar="ITEMS", default="", help="exit with 3 if one is missing")
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument(
        "--forbid", action="store_true", help="exit with 0 only if it is closed in every way that is tried"
    )
    parser.add_argument(
        "--list", action="store_true", help="print all known names and their first kernel, without a survey"
    )
    parser.add_argument("--explain", metavar="ERRNO", help="say what an errno (EPERM, 1) can mean here")
    parser.add_argument("--compare", nargs=2, metavar=("A", "B"), help="compare two files made with --json")
    modes.add_argument(
        "--fix", nargs="?", const="", metavar="LAYER",
        help="print what to paste for the layer that refused, or for seccomp, sysctl, memlock, nofile, lsm",
    )  # fmt: skip
    modes.add_argument(
        "--profile", metavar="NAME",
        help="say whether a program's needs are met: qemu, libuv, node, tokio, mariadb, postgresql, fio, "
        "rawuring, or those in a file",
    )  # fmt: skip
    somebody = parser.add_mutually_exclusive_group()
    somebody.add_argument("--as", dest="user", metavar="USER", help="check as another user (root only)")
    somebody.add_argument("--unprivileged", action="store_true", help="check as nobody (root only)")
    return parser


def _answer(
    options: argparse.Namespace, required: tuple[str, ...], rows: tuple[Row, ...], ring: Ring | None
) -> int:
    if options.forbid:
        from . import forbid

        return forbid.tell(_form(options))
    if options.fix is not None:
        return _fix(options)
    if options.profile is not None:
        return _profile(options, rows)
    return _run(options, required, ring)


def _load_all(options: argparse.Namespace) -> None:
    """Import the late modules now: another user may not be able to read them."""
    if options.forbid:
        from . import forbid  # noqa: F401
    elif options.fix is not None:
        from . import remedies  # noqa: F401
    import difflib  # noqa: F401
    import pprint  # noqa: F401
    import signal  # noqa: F401
    import warnings  # noqa: F401
    from contextlib import suppress

    # If one of these is missing, the answer will report that.
    with suppress(ImportError):
        import ctypes  # noqa: F401
    with suppress(ImportError):
        import mmap  # noqa: F401
    with suppress(ImportError):
        import resource  # noqa: F401
    with suppress(ImportError):
        import zlib  # noqa: F401


def _fix(options: argparse.Namespace) -> int:
    from . import remedies

    found = capabilities()
    live = prove() if found.usable else {}
    status, cause, advice = report.conclude(found, live)
    layers = remedies.layers_of(status, cause, found.evidence)
    said = report.verdict(found, live)
    if options.fix:
        layers, advice = [options.fix], f"This is for {options.fix}, whatever refuses io_uring here."
    if options.json or options.python:
        _print_data(remedies.as_dict(layers, said, advice), options.python)
    else:
        remedies.print_text(layers, said, advice)
    return report.exit_code(status)


def _profile(options: argparse.Namespace, rows: tuple[Row, ...]) -> int:
    from . import profiles

    found = capabilities()
    said = report.verdict(found)
    if options.json or options.python:
        _print_data(profiles.as_dict(found, options.profile, rows, said), options.python)
    else:
        profiles.print_text(found, options.profile, rows, said)
    code = report.exit_code(found.status)
    return code or {True: USABLE, False: MISSING, None: UNKNOWN}[profiles.conclude(found, rows)]


def _form(options: argparse.Namespace) -> str:
    return next((form for form in ("json", "python", "quiet") if getattr(options, form)), "")


def _run(options: argparse.Namespace, required: tuple[str, ...], ring: Ring | None) -> int:
    found = capabilities() if ring is None else examine_ring(ring)
    live = prove() if found.usable and ring is None else {}
    if options.json or options.python:
        _print_data(as_dict(found, live, required), options.python)
    elif options.quiet:
        report.print_verdict(found, live)
        report.print_required(found, required, quiet=True)
    else:
        report.print_text(found, live, required, options.verbose)
    code = report.exit_code(report.conclude(found, live)[0])
    return code or {True: USABLE, False: MISSING, None: UNKNOWN}[_all(found, required)]


def _print_data(data: dict[str, Any], python: bool) -> None:
    if python:
        from pprint import pprint

        pprint(data, width=100)
    else:
        print(json.dumps(data, indent=1))


def _compare(a: str, b: str) -> int:
    reports = []
    for path in (a, b):
        try:
            with open(path, encoding="utf-8") as file:
                reports.append(json.load(file))
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: no JSON: {error}") from None
    lines = report.differences(*reports)
    print(*(lines or ["no difference"]), sep="\n")
    return 1 if lines else 0


def console() -> None:
    """Run the command as the installed script does.

    Raises: SystemExit, always.
    """
    command.run(main)


if __name__ == "__main__":
    console()
