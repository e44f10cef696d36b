# SPDX-License-Identifier: MIT
"""Draw the table of the kernel's interface: encoded, admitted, exercised.

What it is: Markdown from the records of test runs, one column for each kernel. A run writes a record if
RAWURING_TABLE names a file::

    RAWURING_TABLE=6.18.json python -m pytest tests/test_every_opcode.py tests/test_every_register_op.py
    python tools/interface_table.py 6.18.json > docs/kernel-interface.md

Must not know: the tests.
Invariant: a cell says "yes" only if a test executed the operation on that kernel and passed.
Read next: tests/test_every_opcode.py.
"""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from rawuring import ops, register, uapi  # noqa: E402

HEAD = """# The kernel's interface

Which kernel has which operation and which registration, since when, and by which functions. The last columns
say what happened when the tests tried it on that kernel: **yes**, it was done, and its effect was seen;
**no**, the kernel does not have it, or was built without it; **untried**, the kernel may have it, but the
tests lacked something that it needs. The functions write the same bytes on every kernel; they are compared
with liburing's, or with the layout in the kernel's header. (Made by tools/interface_table.py.)
"""


def release(version: str) -> tuple[int, ...]:
    """Turn "6.12.3-x" into (6, 12)."""
    return tuple(map(int, version.split("-")[0].split(".")[:2]))


def cell(name: str, kernel: str, outcomes: list[str]) -> str:
    """Sum up the results of the tests of one operation."""
    if any(outcome.startswith("failed") for outcome in outcomes):
        return "FAILED"
    if any(outcome.startswith("passed") for outcome in outcomes):
        return "yes"
    # A test may need another operation too, whose absence proves nothing about this one.
    absent = any(f"{name} (Linux" in outcome for outcome in outcomes)
    return "no" if absent or release(uapi.SINCE[name]) > release(kernel) else "untried"


def functions_by_opcode() -> dict[int, list[str]]:
    """Find out which prep functions write which opcode, by calling them."""
    found: dict[int, list[str]] = {}
    for name, function in vars(ops).items():
        if name.startswith("prep_") and name not in ("prep_rw", "prep_uring_cmd_op", "prep_send_set_addr"):
            sqe = bytearray(128)
            required = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
            function(sqe, *[1] * (len(required) - 1))
            found.setdefault(sqe[0], []).append(name)
    return found


def functions_by_register_op() -> dict[str, list[str]]:
    """Find out which register functions name which opcode, from their source."""
    found: dict[str, list[str]] = {}
    sources = {name: inspect.getsource(f) for name, f in vars(register).items() if inspect.isfunction(f)}
    prefixes = ("IORING_REGISTER_", "IORING_UNREGISTER_")
    for opcode in (name for name in vars(uapi) if name.startswith(prefixes)):
        users = [name for name, text in sources.items() if f"uapi.{opcode}," in text]
        public = [name for name in users if not name.startswith("_")]
        for user in users:
            if user.startswith("_"):
                public += [name for name, text in sources.items() if f"{user}(" in text and name[0] != "_"]
        found[opcode] = public or (["Ring.enable"] if opcode.endswith("ENABLE_RINGS") else [])
    return found


def main(paths: list[str]) -> int:
    """Print the table."""
    if not paths or paths[0].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    runs = [json.loads(Path(path).read_text()) for path in paths]
    print(HEAD)
    titles = [run["kernel"].split("-")[0] for run in runs]
    for title, prefix in (("Operations", "IORING_OP_"), ("Registrations", "IORING_")):
        names = [
            name
            for name in runs[-1]["outcomes"]
            if name.startswith("IORING_OP_") == (prefix == "IORING_OP_")
        ]
        names.sort(key=lambda name: vars(uapi)[name])
        by_opcode, by_register = functions_by_opcode(), functions_by_register_op()
        print(f"## {title}\n")
        print("| " + " | ".join([title[:-1].lower(), "since", "functions", *titles]) + " |")
        print("|" + "---|" * (3 + len(titles)))
        for name in names:
            if prefix == "IORING_OP_":
                functions = by_opcode.get(vars(uapi)[name], [])
            else:
                functions = by_register.get(name, [])
            cells = [cell(name, run["kernel"], run["outcomes"].get(name, [])) for run in runs]
            shown = ", ".join(f"`{function}`" for function in functions)
            print(f"| `{name}` | {uapi.SINCE[name]} | {shown} | " + " | ".join(cells) + " |")
        print()
    print("Next: [tested kernels and known kernel bugs](kernels.md).")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
