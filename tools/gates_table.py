#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Write the table of rawuring/gates.py into docs/kernels.md, between its two marks.

    python3 tools/gates_table.py
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from rawuring import gates  # noqa: E402

PAGE = ROOT / "docs" / "kernels.md"


def table() -> str:
    """Return the table as Markdown."""
    lines = ["| kernels | what they do | what the library does | source |", "|---|---|---|---|"]
    for gate in gates.GATES:
        span = f"{gate.since} to below {gate.below}" if gate.since and gate.below else ""
        span = span or (f"below {gate.below}" if gate.below else f"from {gate.since}")
        lines.append(f"| {span} | {gate.what} | {gate.library} | {gate.source} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write it."""
    text = PAGE.read_text(encoding="utf-8")
    marked = re.compile(r"(?<=<!-- gates -->\n).*(?=<!-- end -->)", re.DOTALL)
    PAGE.write_text(marked.sub(lambda _: table(), text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
