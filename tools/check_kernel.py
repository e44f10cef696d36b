#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Can this kernel run the library, and does uapi.py still agree with a kernel header?

    python3 tools/check_kernel.py                 what this kernel lacks; exit 1 if it cannot run the library
    python3 tools/check_kernel.py --header PATH   compare uapi.py with linux/io_uring.h; exit 1 on drift

For people who build or vendor: it runs from a bare checkout, without installing anything. Several --header
are read as one, so the headers beside io_uring.h (io_uring/query.h, io_uring/zcrx.h ...) can be given too.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(1, str(Path(__file__).resolve().parent))


def check_kernel() -> int:
    """Print what this kernel lacks; return the exit code."""
    from rawuring import probe, uapi

    found = probe.capabilities(refresh=True)
    live = probe.prove() if found.usable else {}
    print(probe.verdict(found, live))
    if not found.usable:
        print(found.error)
        print("Without io_uring the library still imports, and fdmon.setup() falls back to poll(2).")
        return 1
    missing: dict[str, list[str]] = {}
    for answers in (found.features, found.setup_flags, found.opcodes):
        for name, answer in answers.items():
            if answer is False:
                missing.setdefault(uapi.SINCE.get(name, "?"), []).append(name)
    for release in sorted(missing, key=_release_key):
        print(f"  missing here, in Linux {release}: {' '.join(missing[release])}")
    failed = {name: result for name, result in live.items() if result != "ok"}
    for name, result in failed.items():
        print(f"  FAILED {name}: {result}")
    print("This kernel cannot run the library." if failed else "This kernel runs the library.")
    return 1 if failed else 0


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
        # Nothing to compare would look like agreement.
        print(f"{' '.join(paths)}: this is no io_uring header, it has no IORING_ constant", file=sys.stderr)
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
    parser.add_argument("--header", action="append", metavar="PATH", help="a kernel header to compare with")
    options = parser.parse_args(arguments)
    return check_header(options.header) if options.header else check_kernel()


if __name__ == "__main__":
    sys.exit(main())
