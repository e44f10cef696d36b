# SPDX-License-Identifier: MIT
"""Interleaved rounds, minimum and median, and the ratio to a baseline.

Every system is measured once in each round, one after the other, so that a slow moment of the machine hits
all of them. Read the ratios: single times differ from machine to machine and from hour to hour.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

System = Callable[[], float]  # one round; returns nanoseconds per operation


def timed(
    operation: Callable[[], object],
    count: int,
    repeat: int = 20,
    before: Callable[[], object] | None = None,
    after: Callable[[], object] | None = None,
) -> System:
    """Make a round: the fastest of some repetitions of an operation that handles count items.

    before and after set up and clean up each repetition and are not timed.
    """

    def one_round() -> float:
        best = float("inf")
        for _ in range(repeat):
            if before is not None:
                before()
            start = time.perf_counter_ns()
            operation()
            best = min(best, time.perf_counter_ns() - start)
            if after is not None:
                after()
        return best / count

    return one_round


def compare(systems: dict[str, System], rounds: int) -> dict[str, dict[str, float]]:
    """Measure all systems in turn; the first is the baseline."""
    samples: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(rounds):
        for name, system in systems.items():
            samples[name].append(system())
    baseline = statistics.median(next(iter(samples.values())))
    return {
        name: {
            "median_ns": round(statistics.median(values), 1),
            "min_ns": round(min(values), 1),
            "ratio": round(statistics.median(values) / baseline, 2),
        }
        for name, values in samples.items()
    }


def machine() -> dict[str, str]:
    """Say what was measured on."""
    model = platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        model = platform.machine()
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": model,
        "kernel": platform.release().partition("-")[0],
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def table(title: str, results: dict[str, dict[str, float]]) -> str:
    """Write one comparison as a Markdown table."""
    lines = [f"| {title} | median ns | min ns | ratio |", "|---|---:|---:|---:|"]
    for name, row in results.items():
        lines.append(f"| {name} | {row['median_ns']:.0f} | {row['min_ns']:.0f} | {row['ratio']:.2f} |")
    return "\n".join(lines)


def main(description: str, benches: Callable[[bool], dict[str, dict[str, System]]]) -> None:
    """Run the benches that a script offers and print or store the results."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="two short rounds, to see that it works")
    parser.add_argument("--rounds", type=int, default=9, help="rounds, at least 7 for figures to quote")
    parser.add_argument("--json", metavar="FILE", help="store the results")
    options = parser.parse_args()
    rounds = 2 if options.quick else options.rounds
    here = machine()
    print("; ".join(here.values()), f"; {rounds} rounds", sep="")
    report = {"machine": here, "rounds": rounds, "results": {}}
    for title, systems in benches(options.quick).items():
        report["results"][title] = results = compare(systems, rounds)
        print("\n" + table(title, results))
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")
