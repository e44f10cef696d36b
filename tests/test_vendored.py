# SPDX-License-Identifier: MIT
"""The package copied under another name, and run from a zip file.

What it is: ``cp -r rawuring host/_vendor/zz``, then everything must work under the new name, without
site-packages and without the checkout.
Must not know: the contents of the files.
Invariant: no module called rawuring is ever imported in the new process.
Read next: test_docstrings.py.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import rawuring

PACKAGE = Path(rawuring.__file__).parent
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")

IMPORT_ALL = """
import sys, importlib
sys.path.insert(0, sys.argv[1])
for name in sys.argv[3].split():
    importlib.import_module(f"{sys.argv[2]}.{name}")
foreign = [name for name in sys.modules if name.partition(".")[0] == "rawuring"]
assert sys.argv[2] == "rawuring" or not foreign, foreign
print(sys.modules[sys.argv[2]].__file__)
"""

NOP = """
import sys, importlib
sys.path.insert(0, sys.argv[1])
package = importlib.import_module(sys.argv[2])
with package.Ring(2) as ring:
    package.ops.prep_nop(ring.get_sqe(), user_data=7)
    ring.submit_and_wait(1)
    print([tuple(cqe) for cqe in ring.reap()])
"""


@pytest.fixture
def vendored(tmp_path: Path) -> Path:
    """Copy the package to host/_vendor/zz, as a vendoring project would."""
    copy = tmp_path / "host" / "_vendor" / "zz"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in (tmp_path / "host", tmp_path / "host" / "_vendor"):
        (folder / "__init__.py").touch()
    return tmp_path


@pytest.fixture
def zipped(tmp_path: Path) -> Path:
    """Pack the package into a zip file."""
    inside = tmp_path / "tree"
    shutil.copytree(PACKAGE, inside / "rawuring", ignore=shutil.ignore_patterns("__pycache__"))
    return Path(shutil.make_archive(str(tmp_path / "rawuring-copy"), "zip", inside))


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a bare interpreter away from the checkout."""
    command = [sys.executable, "-S", "-W", "error", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


def run_script(script: str, path: Path, *arguments: str) -> str:
    """Run a script that puts path on sys.path; return its output."""
    done = run("-I", "-c", script, str(path), *arguments, cwd=path.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_vendored_copy_when_imported_then_every_module_comes_from_the_copy(vendored: Path) -> None:
    file = run_script(IMPORT_ALL, vendored, "host._vendor.zz", " ".join(MODULES))
    assert Path(file) == vendored / "host" / "_vendor" / "zz" / "__init__.py"


def test_zip_when_imported_then_every_module_comes_from_the_zip(zipped: Path) -> None:
    file = run_script(IMPORT_ALL, zipped, "rawuring", " ".join(MODULES))
    assert Path(file) == zipped / "rawuring" / "__init__.py"


@pytest.mark.requires_io_uring
@pytest.mark.skipif("ops" not in MODULES, reason="rawuring/ops.py in this copy")
def test_vendored_copy_when_a_nop_is_submitted_then_it_completes(vendored: Path) -> None:
    assert run_script(NOP, vendored, "host._vendor.zz") == "[(7, 0, 0)]"


@pytest.mark.requires_io_uring
@pytest.mark.skipif("ops" not in MODULES, reason="rawuring/ops.py in this copy")
def test_zip_when_a_nop_is_submitted_then_it_completes(zipped: Path) -> None:
    assert run_script(NOP, zipped, "rawuring") == "[(7, 0, 0)]"


@pytest.mark.skipif("probe" not in MODULES, reason="rawuring/probe.py in this copy")
def test_vendored_probe_when_run_as_a_module_then_it_reports(vendored: Path) -> None:
    done = run("-m", "host._vendor.zz.probe", cwd=vendored)
    assert done.returncode in (0, 1), done.stderr  # 1: it works, without io_uring
    assert done.stdout and not done.stderr
