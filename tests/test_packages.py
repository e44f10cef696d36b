# SPDX-License-Identifier: MIT
"""The packages: what pyproject.toml promises, and the probe in one file.

What it is: the tests that need no foreign tools; tools/build_packages.py --check does the rest.
Must not know: which modules the probe needs.
Invariant: nothing is written in the checkout.
Read next: tools/build_packages.py.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from rawuring import probe, vendor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import build_zipapp  # noqa: E402

PYPROJECT = (ROOT / "pyproject.toml").read_text()


@pytest.fixture
def zipapp(tmp_path) -> Path:
    """Build the probe in one file."""
    assert build_zipapp.main(["--output", str(tmp_path / "probe.pyz")]) == 0
    return tmp_path / "probe.pyz"


def test_zipapp_then_what_the_probe_needs_and_nothing_of_this_machine(zipapp):
    archive = zipfile.ZipFile(zipapp)
    modules = {f"rawuring/{name}.py" for name in ["__init__", *vendor.closure(["probe"])]}
    others = {"__main__.py", "rawuring/LICENSE", "rawuring/VENDORED.json", "rawuring/py.typed"}
    others |= {"rawuring/SHA256SUMS", "rawuring/__main__.py"}
    assert set(archive.namelist()) == modules | others
    assert {each.date_time for each in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert {each.compress_type for each in archive.infolist()} == {zipfile.ZIP_STORED}
    assert str(ROOT).encode() not in zipapp.read_bytes()
    assert zipapp.read_bytes() == build_zipapp.build()


@pytest.mark.unwatched("the zipapp has no debug mode")
def test_zipapp_when_run_bare_then_it_answers_as_the_package_does(zipapp):
    command = [sys.executable, "-I", "-S", "-X", "dev", "-W", "error", str(zipapp), "--quiet"]
    done = subprocess.run(command, cwd=zipapp.parent, capture_output=True, text=True, timeout=60)
    assert done.stderr == "" and done.stdout.startswith("io_uring:")
    assert (done.returncode == 0) == (probe.capabilities().usable is True)


def test_zipapp_when_executed_then_it_needs_no_interpreter_named(zipapp):
    assert zipapp.read_bytes().startswith(b"#!/usr/bin/env python3\n")
    assert zipapp.stat().st_mode & 0o777 == 0o755


def test_zipapp_main_when_python_is_too_old_then_a_clear_message(zipapp, tmp_path):
    """The first lines of __main__.py must be understood by Pythons of any age."""
    text = zipfile.ZipFile(zipapp).read("__main__.py").decode()
    old = text.replace("import sys\n", "import sys; sys.version_info = (2, 7, 18)\n", 1)
    (tmp_path / "old.py").write_text(old)
    command = [sys.executable, str(tmp_path / "old.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "rawuring needs Python 3.9 or newer; this is Python 2.7\n"


# pyenv's shims run only versions that are switched on.
OLD_PYTHONS = sorted(
    {str(path) for path in Path.home().glob(".pyenv/versions/3.[678].*/bin/python")}
    | {path for path in (shutil.which(f"python3.{n}") for n in (6, 7, 8)) if path and "shims" not in path}
)


def run_probe_on(python: str, *code: str) -> subprocess.CompletedProcess:
    """Run ``python -m rawuring.probe`` of the checkout, or equivalent code."""
    arguments = code or ("-m", "rawuring.probe")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([python, *arguments], env=environment, capture_output=True, text=True, timeout=60)


def test_probe_when_python_claims_to_be_too_old_then_the_sentence_of_the_zipapp():
    code = "import runpy, sys; sys.version_info = (3, 7, 16); runpy.run_module('rawuring.probe')"
    done = run_probe_on(sys.executable, "-c", code)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "rawuring needs Python 3.9 or newer; this is Python 3.7\n"


def test_import_when_python_is_too_old_then_an_import_error_that_a_host_can_catch():
    code = (
        "import sys; sys.version_info = (3, 7, 16)\n"
        "try:\n    import rawuring\nexcept ImportError as error:\n    print(error)"
    )
    done = run_probe_on(sys.executable, "-c", code)
    assert (done.stdout, done.stderr) == ("rawuring needs Python 3.9 or newer; this is Python 3.7\n", "")


@pytest.mark.skipif(not OLD_PYTHONS, reason="Python 3.6 to 3.8")
@pytest.mark.parametrize("python", OLD_PYTHONS, ids=lambda path: re.sub(r"\W", "_", path))
def test_probe_when_python_is_too_old_then_one_sentence_and_no_syntax_error(python):
    done = run_probe_on(python)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"rawuring needs Python 3\.9 or newer; this is Python 3\.[678]\n", done.stderr)


def test_pyproject_then_the_command_exists_and_the_version_is_the_literal():
    entry = re.search(r'^rawuring-probe = "rawuring\.(\w+):(\w+)"$', PYPROJECT, re.MULTILINE)
    assert entry[1] == "probe" and getattr(probe, entry[2]) is probe.console
    assert 'dynamic = ["version"]' in PYPROJECT and "dependencies = []" in PYPROJECT


def test_sdist_then_every_folder_with_files_of_the_project_is_in_it():
    included = PYPROJECT.partition("[tool.flit.sdist]")[2].partition("]")[0]
    listed = set(re.findall(r'"([\w.]+/?)"', included))
    assert {"tests/", "tools/", "CHANGELOG.md", "DESIGN.md"} <= listed
    try:
        done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("git, with a checkout")
    tops = {name.partition("/")[0] + "/" * ("/" in name) for name in done.stdout.split()}
    # flit adds these itself.
    assert tops - listed <= {"rawuring/", "pyproject.toml", "README.md", "LICENSE"}
