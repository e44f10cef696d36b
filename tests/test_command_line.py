# SPDX-License-Identifier: MIT
"""The commands in hostile conditions: full disks, closed pipes, Ctrl-C, damaged files, odd arguments.

What it is: each ``python -m rawuring.X`` in a separate process, whose exit code and output are checked: none
may look like a crash.
Must not know: the output of the commands.
Invariant: no traceback, whatever the environment does.
Read next: test_packages.py.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import rawuring
from rawuring import command

ROOT = str(Path(rawuring.__file__).parent.parent)
# Each prints something, and none needs io_uring.
COMMANDS = (
    ("probe", "--list"),
    ("layout", "--on", "known"),
    ("tour", "--on", "python", "1"),
    ("play",),
    ("inspect", "self", "--json"),
    ("aio",),
    ("__main__",),
)
names = pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: arguments[0])


def run(*arguments, environment=(), **options):
    settings = {**os.environ, "PYTHONPATH": ROOT, "PYTHONWARNINGS": "", **dict(environment)}
    return subprocess.run(
        [sys.executable, "-m", f"rawuring.{arguments[0]}", *arguments[1:]], env=settings, timeout=60,
        **{"stderr": subprocess.PIPE, **options},
    )  # fmt: skip


def assert_no_crash(done):
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr, done.stderr.decode()


def package(*arguments):
    settings = {**os.environ, "PYTHONPATH": ROOT, "PYTHONWARNINGS": ""}
    return subprocess.run(
        [sys.executable, "-m", "rawuring", *arguments],
        env=settings, timeout=60, text=True, capture_output=True,
    )  # fmt: skip


def test_package_when_run_then_each_module_that_is_a_command_has_a_line():
    runnable = {
        path.stem for path in Path(rawuring.__file__).parent.glob("*.py")
        if '\nif __name__ == "__main__":\n' in path.read_text(encoding="utf-8")
    }  # fmt: skip
    for arguments in ([], ["-h"], ["--help"]):
        done = package(*arguments)
        lines = [line.split(maxsplit=1) for line in done.stdout.splitlines() if line.startswith("  ")]
        found = {name for name, words in lines if words} - {"--check"}
        assert found == runnable - {"__main__"} and not done.stderr and done.returncode == 0
        assert done.stdout.startswith("usage: python -m ")


def test_package_when_a_command_is_named_then_it_runs_as_its_module_does():
    for arguments in (["layout", "--on", "known"], ["tour", "--on", "python", "1"], ["layout", "nonsense"]):
        done, expected = package(*arguments), run(*arguments, stdout=subprocess.PIPE)
        assert done.returncode == expected.returncode
        assert (done.stdout, done.stderr) == (expected.stdout.decode(), expected.stderr.decode())


@pytest.mark.parametrize("arguments", [["nonsense"], ["rings"], ["-x"], ["--check", "more"]], ids=" ".join)
def test_package_when_asked_for_what_is_no_command_then_2_and_the_list(arguments):
    done = package(*arguments)
    assert done.returncode == 2 and not done.stdout and "usage" in done.stderr and "probe" in done.stderr
    assert done.stderr.startswith(f"there is no command '{arguments[0]}'\n") == (arguments[0][0] != "-")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@names
def test_command_when_the_disk_is_full_then_one_line_and_its_own_exit_code(arguments):
    with open("/dev/full", "w", encoding="ascii") as full:
        done = run(*arguments, stdout=full)
    assert_no_crash(done)
    assert done.returncode == command.FAILED
    assert b"No space left" in done.stderr and done.stderr.count(b"\n") == 1


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="no SIGPIPE")
@names
def test_command_when_the_reader_is_gone_then_ends_silently_by_sigpipe(arguments):
    read_end, write_end = os.pipe()
    os.close(read_end)
    with open(write_end, "wb") as out:
        done = run(*arguments, stdout=out)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, b"")


@pytest.mark.skipif(os.name != "posix", reason="no preexec_fn")
@names
def test_command_when_stdout_is_closed_then_as_when_it_cannot_be_written(arguments):
    shell = f'exec "$0" -m rawuring.{" ".join(arguments)} >&-'
    done = subprocess.run(
        ["sh", "-c", shell, sys.executable], env={**os.environ, "PYTHONPATH": ROOT},
        stderr=subprocess.PIPE, timeout=60,
    )  # fmt: skip
    assert_no_crash(done)
    assert done.returncode == command.FAILED
    assert done.stderr.count(b"\n") == 1 and b"Bad file descriptor" in done.stderr


def run_main(body):
    """Run command.run() with a main() of this body, in a separate process: run() changes signals."""
    program = f"from rawuring import command\ndef main(): {body}\ncommand.run(main)"
    return subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": ROOT}, stderr=subprocess.PIPE,
        timeout=60,
    )  # fmt: skip


@pytest.mark.skipif(os.name != "posix", reason="Windows ends a process otherwise")
def test_run_when_interrupted_then_dies_by_sigint_without_a_traceback():
    done = run_main("raise KeyboardInterrupt")
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")


def test_run_when_main_has_a_defect_then_the_traceback_stays():
    done = run_main("raise AssertionError('a defect')")
    assert b"Traceback" in done.stderr and done.returncode == 1


@pytest.mark.parametrize(
    "report",
    [
        {"schema": 1},
        {"schema": 1, "evidence": [1], "findings": {}, "library": {}, "live": {}},
        {"schema": 1, "evidence": [], "findings": {"IORING_OP_NOP": 1}, "library": {}, "live": {}},
        [],
    ],
    ids=("empty", "evidence", "finding", "list"),
)
def test_compare_when_a_report_is_damaged_then_says_so(report, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(report), encoding="ascii")
    done = run("probe", "--compare", str(path), str(path))
    assert_no_crash(done)
    assert done.returncode == 2 and b"report of this probe" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("probe", "--explain", ""),
        ("probe", "--explain", "\u00b2"),
        ("probe", "--require", "KERNEL:\u00b2.1"),
        ("inspect", "\u00b2"),
        ("layout", "--op", ""),
        ("layout", "--struct", ""),
        ("layout", "--on", "known", "--cq-entries", "3"),
        ("layout", "--on", "python", "--cq-entries", "-4"),
        ("aio", "no-such-file.py"),
        ("aio", "-m", "no_such_module"),
        ("aio", "-m", "no_such.module"),
    ],
    ids=" ".join,
)
def test_command_when_an_argument_makes_no_sense_then_usage_error(arguments):
    done = run(*arguments, stdout=subprocess.DEVNULL, environment=[("PYTHONUTF8", "1")])
    assert_no_crash(done)
    assert done.returncode == 2 and done.stderr


def test_aio_when_the_module_itself_lacks_an_import_then_the_traceback_names_it(tmp_path):
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("import missing_thing\n", encoding="ascii")
    done = run("aio", "-m", "pack.part", cwd=str(tmp_path))
    assert b"Traceback" in done.stderr and b"missing_thing" in done.stderr


# ------------------------------------------------------------------------------------------------------
# vendor


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vendor")
    done = run("vendor", str(folder), "--only", "uapi", stdout=subprocess.DEVNULL)
    if done.returncode:
        pytest.skip("this copy of the package cannot be copied")
    return folder / "rawuring"


@pytest.fixture
def copied(original, tmp_path):
    return shutil.copytree(original, tmp_path / "rawuring")


@pytest.mark.long
@pytest.mark.parametrize(
    "change",
    [{"files": [1]}, {"version": 2}, {"only": "uapi"}, {"form": "other"}, {"form": []}, {"files": None}],
    ids=str,
)
def test_vendor_when_a_manifest_is_damaged_then_says_so(change, copied):
    manifest = copied / "VENDORED.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **change}), encoding="ascii")
    for arguments in ((str(copied), "--check"), (str(copied.parent),)):
        done = run("vendor", *arguments, stdout=subprocess.DEVNULL)
        assert_no_crash(done)
        assert done.returncode == 2 and b"cannot read its manifest" in done.stderr


def test_vendor_when_a_copied_file_is_no_text_any_more_then_it_counts_as_changed(copied):
    (copied / "uapi.py").write_bytes(b"\xff\xfe")
    done = run("vendor", str(copied), "--check", stdout=subprocess.PIPE)
    assert_no_crash(done)
    assert done.returncode == 1 and b"uapi.py: changed" in done.stdout


def test_vendor_when_a_manifest_names_a_file_outside_then_it_is_not_removed(copied):
    outside = copied.parent / "precious"
    outside.write_text("", encoding="ascii")
    manifest = copied / "VENDORED.json"
    data = json.loads(manifest.read_text())
    data["files"]["../precious"] = "0"
    manifest.write_text(json.dumps(data), encoding="ascii")
    assert run("vendor", str(copied.parent), "--force", stdout=subprocess.DEVNULL).returncode == 0
    assert outside.exists()


def test_vendor_when_the_folder_cannot_be_made_then_one_line(tmp_path):
    (tmp_path / "file").write_text("", encoding="ascii")
    done = run("vendor", str(tmp_path / "file"), stdout=subprocess.DEVNULL)
    assert_no_crash(done)
    assert done.returncode == command.FAILED and done.stderr.count(b"\n") == 1


def test_vendor_when_the_terminal_cannot_show_the_path_then_it_is_escaped(tmp_path):
    done = run(
        "vendor", str(tmp_path / "\u00e9"), stdout=subprocess.PIPE,
        environment=[("PYTHONIOENCODING", "ascii"), ("PYTHONUTF8", "1")],
    )  # fmt: skip
    assert_no_crash(done)
    assert done.returncode == 0 and rb"\xe9" in done.stdout
