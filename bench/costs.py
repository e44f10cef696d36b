# SPDX-License-Identifier: MIT
"""Where the time goes: the table of docs/costs.md, made from a stored run of run.py.

    python3 bench/costs.py [RESULTS.json] [--write docs/costs.md]

Without a file it uses the newest run in results/ that contains the steps. steps.py has the steps and their
descriptions.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from readme_table import HERE, write_between
from run import STEPS_TITLE
from steps import LOOPED, STEPS

BEGIN, END = "<!-- costs: begin -->", "<!-- costs: end -->"


def stored() -> dict[str, Any]:
    """Read the newest stored run that has the steps."""
    for path in sorted((HERE / "results").glob("*.json"), reverse=True):
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if STEPS_TITLE in report["results"]:
            return report
    raise SystemExit("no stored run has the steps: python3 bench/run.py --only steps --json FILE")


def table(report: dict[str, Any]) -> str:
    """Write the generated part of the page."""
    results, here = report["results"][STEPS_TITLE], report["machine"]
    loop = results["an empty loop"]["median_ns"]
    machine = "; ".join(here[key] for key in ("date", "cpu", "kernel", "python"))
    lines = [
        f"Medians of {report['rounds']} rounds: {machine}. To measure again:",
        "`python3 bench/run.py --only steps --json FILE`, then "
        "`python3 bench/costs.py FILE --write docs/costs.md`.",
        "",
        "| step | ns | description |",
        "|---|---:|---|",
    ]
    for name, what in STEPS.items():
        if what and name in results:
            ns = results[name]["median_ns"]
            lines.append(f"| {name} | {max(0.1, ns - loop) if name in LOOPED else ns:.0f} | {what} |")
    return "\n".join(lines)


def main() -> None:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="?", help="a file that run.py --json wrote")
    parser.add_argument("--write", metavar="FILE", help="the page to update")
    options = parser.parse_args()
    report = json.loads(Path(options.results).read_text(encoding="utf-8")) if options.results else stored()
    part = table(report)
    print(part)
    if options.write:
        write_between(options.write, BEGIN, END, part)


if __name__ == "__main__":
    main()
