# SPDX-License-Identifier: MIT
"""The marker of the fault tests, and the figures at the end of a run."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from harness import figures
from leaks import footprint

HERE = Path(__file__).resolve().parent
_before: dict[str, int] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder."""
    for item in items:
        if HERE in Path(item.path).resolve().parents:
            item.add_marker(pytest.mark.faults)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Measure before the first test."""
    if not _before and item.get_closest_marker("faults"):
        _before.update(footprint())


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Count the tests."""
    if item.get_closest_marker("faults"):
        figures["tests"] += 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Report the injected faults."""
    if not _before:
        return
    gc.collect()
    after = footprint()
    terminalreporter.section("faults")
    for name, count in sorted(figures.items()):
        terminalreporter.write_line(f"{name}: {count:,}")
    for name, count in _before.items():
        terminalreporter.write_line(f"{name}: {count} before, {after[name]} after")
