# SPDX-License-Identifier: MIT
"""What all tests share: the header of the report, two markers, the hypothesis profiles.

What it is: pytest's configuration in Python.
Must not know: any test.
Invariant: no test depends on chance or on time; hypothesis draws the same examples in every run.
Read next: test_imports.py.
"""

from __future__ import annotations

import functools
import gc
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("default", deadline=None, derandomize=True, max_examples=100)
hypothesis.settings.register_profile("small", deadline=None, derandomize=True, max_examples=20)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, max_examples=300, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_report_header() -> str:
    """Say what the tests run on."""
    return (
        f"kernel: {platform.system()} {platform.release()} {platform.machine()}; "
        f"{platform.python_implementation()} {platform.python_version()}"
    )


@functools.cache
def io_uring_refusal() -> str | None:
    """Return why there is no io_uring here, None where there is. Found by trying."""
    try:
        from rawuring.rings import Ring
        from rawuring.syscalls import Unavailable
    except ModuleNotFoundError as error:
        if error.name not in ("rawuring.rings", "rawuring.syscalls"):
            raise  # a file that was taken away is a reason to skip, a broken one is not
        return f"{error}"
    try:
        Ring(2).close()
    except Unavailable as error:
        return f"{error}"
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Honour the marker requires_io_uring."""
    if item.get_closest_marker("requires_io_uring") and io_uring_refusal():
        pytest.skip(f"io_uring (5.1): {io_uring_refusal()}")


@pytest.fixture
def requires_io_uring() -> None:
    """Skip where io_uring cannot be had; the marker's twin for parametrized tests and fixtures."""
    if io_uring_refusal():
        pytest.skip(f"io_uring (5.1): {io_uring_refusal()}")


@pytest.fixture(autouse=True)
def _leakcheck(request: pytest.FixtureRequest) -> Iterator[None]:
    """Honour the marker leakcheck: what the test opened, it closed."""
    if request.node.get_closest_marker("leakcheck") is None or not Path("/proc/self/fd").exists():
        yield
        return
    before = open_files()
    yield
    gc.collect()
    leaked = {fd: file for fd, file in open_files().items() if before.get(fd) != file}
    assert not leaked, f"left open: {leaked}"


def open_files() -> dict[int, str]:
    """Return descriptor -> what it refers to, without the one used for looking."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[int(fd)] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:  # the listing's own descriptor
            continue
    return found
