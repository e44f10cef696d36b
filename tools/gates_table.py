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


def span(since: str, below: str) -> str:
    """Describe the range of kernels."""
    if since and below:
        return f"{since} to below {below}"
    return f"below {below}" if below else f"from {since}"


def table() -> str:
    """Return the table as Markdown."""
    lines = ["| kernels | behaviour | in this library | source |", "|---|---|---|---|"]
    for gate in gates.GATES:
        spans = ", ".join(span(*kernels) for kernels in gate.kernels)
        lines.append(f"| {spans} | {gate.what} | {gate.library} | {gate.source} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write it."""
    text = PAGE.read_text(encoding="utf-8")
    marked = re.compile(r"(?<=<!-- gates -->\n).*(?=<!-- end -->)", re.DOTALL)
    PAGE.write_text(marked.sub(lambda _: table(), text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
