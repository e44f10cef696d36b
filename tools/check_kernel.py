#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Can this kernel run the library, and does uapi.py still agree with a kernel header?

    python3 tools/check_kernel.py                 features this kernel lacks; exit 1 if the library cannot run
    python3 tools/check_kernel.py --header PATH   compare uapi.py with linux/io_uring.h; exit 1 on drift
    python3 tools/check_kernel.py --kernels       compare the since-kernels with the answers of real kernels

For packagers: it runs from a bare checkout, without installing anything. Several --header are read as one, so
the headers next to io_uring.h (io_uring/query.h, io_uring/zcrx.h ...) can be passed as well.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(1, str(Path(__file__).resolve().parent))

RECORDED = Path(__file__).resolve().parent.parent / "tests" / "data" / "kernels.json"


def check_kernel() -> int:
    """Print the items that this kernel lacks; return the exit code."""
    from rawuring import probe, report, uapi

    found = probe.capabilities(refresh=True)
    live = probe.prove() if found.usable else {}
    status, _, advice = report.conclude(found, live)
    print(probe.verdict(found, live))
    if not found.usable:
        print(f"  {found.error.partition(' Cause: ')[0]}")
        print("Without io_uring the library still imports, and fdmon.setup() falls back to poll(2).")
        print(f"hint: {advice}")
        return 1
    missing: dict[str, list[str]] = {}
    refused = []
    for name, finding in found.findings.items():
        if finding.supported is False:
            missing.setdefault(uapi.SINCE.get(name, "?"), []).append(name)
        elif finding.admitted is False:
            refused.append(name)
    for release in sorted(missing, key=_release_key):
        print(f"  missing here, in Linux {release}: {' '.join(missing[release])}")
    for name, result in live.items():
        if result != "ok":
            print(f"  FAILED {name}: {result}")
    for feature, state in probe.library(found).items():
        if not state["answer"]:
            word = "cannot" if state["answer"] is False else "may not"
            print(f"  a deployment {word} have: {feature} ({', '.join(state['missing'])})")
    if refused:
        print(f"  refused to this process: {' '.join(refused)}")
    runs = report.exit_code(status) == 0
    print("This kernel runs the library." if runs else f"This kernel cannot run the library. {advice}")
    return 0 if runs else 1


def check_kernels(path: Path) -> int:
    """Compare the since-kernels of uapi.py with recorded answers; return the exit code."""
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))["kernels"]
    except (OSError, ValueError, KeyError) as error:
        print(f"{path}: not readable as recorded answers: {error!r}", file=sys.stderr)
        return 2
    wrong = 0
    for kernel, answers in recorded.items():
        claims = wrong_claims(answers)
        for claim in claims:
            print(f"  {kernel}: {claim}")
        wrong += len(claims)
    print(f"the since-kernels of uapi.py: {wrong} wrong claims about {len(recorded)} recorded kernels")
    return 1 if wrong else 0


def wrong_claims(answers: dict) -> list[str]:
    """List the contradictions between the since-kernels and one kernel.

    A name must exist from its release on, and not before. "OP" and "REG" count operations from 0 up, the
    other kinds are masks. "code_of" is the release whose io_uring the kernel carries: 5.10.162 and later have
    that of 5.15, except features that need other parts of the kernel.
    """
    from rawuring import evidence, survey, uapi

    wrong = []
    lowest, highest = evidence.release_of(answers["release"]), evidence.release_of(answers["code_of"])
    for kind in survey.KINDS:
        answer = answers[kind]
        for name, value in survey.family(kind):
            there = value < answer if isinstance(answer, int) else bool(value & int(answer, 16))
            since = uapi.SINCE.get(name)
            if since is None:
                wrong.append(f"{name} has no since-kernel")
            elif _release_key(since) > highest if there else _release_key(since) <= lowest:
                wrong.append(f"{name} is {'present' if there else 'missing'}, and uapi.py says since {since}")
        unknown = _unknown(kind, answer)
        if unknown:
            wrong.append(f"{kind} {unknown} exists, and uapi.py lacks it")
    return wrong


def _unknown(kind: str, answer: object) -> str:
    from rawuring import survey

    values = [value for _, value in survey.family(kind)]
    if isinstance(answer, int):
        return str(answer - 1) if answer > len(set(values)) else ""
    rest = int(str(answer), 16) & ~sum(values)
    return hex(rest) if rest else ""


def check_header(paths: list[str]) -> int:
    """Compare uapi.py with a header; return the exit code."""
    import uapi_header

    from rawuring import uapi

    try:
        header = uapi_header.parse(*paths)
    except (OSError, ValueError) as error:
        print(f"cannot read the header: {error}", file=sys.stderr)
        return 2
    if not any(name.startswith("IORING_") for name in header.constants):
        # An empty comparison would look like agreement.
        print(f"{' '.join(paths)}: not an io_uring header: it has no IORING_ constant", file=sys.stderr)
        return 2
    drift = uapi_header.differences(header, uapi)
    for line in drift:
        print(f"  {line}")
    for name in header.skipped:
        print(f"  not understood, and so not compared: {name}")
    count = f"{len(header.constants)} constants and {len(header.structs)} structs of {paths[0]}"
    print(f"uapi.py has drifted from {count}: {len(drift)}" if drift else f"uapi.py agrees with {count}")
    return 1 if drift else 0


def _release_key(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in release.split(".")) if release != "?" else (99,)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit code: 0 good, 1 not, 2 wrong usage."""
    parser = argparse.ArgumentParser(description="Check this kernel, or a header, against the library.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--header", action="append", metavar="PATH", help="a kernel header to compare with")
    what.add_argument(
        "--kernels", nargs="?", type=Path, const=RECORDED, metavar="PATH",
        help="compare the since-kernels with recorded answers of real kernels",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    if options.header:
        return check_header(options.header)
    return check_kernels(options.kernels) if options.kernels else check_kernel()


if __name__ == "__main__":
    sys.exit(main())
