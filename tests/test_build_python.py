# SPDX-License-Identifier: MIT
"""tools/build_python.py with a simulated archive, compiler and make; tools/run_tests.py."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOL = ROOT / "tools" / "build_python.py"

#: It has python3.99 in two versions, the newer of which cannot be fetched, and logs its requests.
APT = """#!/bin/sh
echo "$(basename "$0") $*" >>"$LOG"
case "$*" in
*indextargets*) echo "http://mirror.invalid/debian stable Debian" ;;
*showsrc*) printf 'Version: 3.99.9-1\\nVersion: 3.99.10-1\\n' ;;
*3.99.10-1*) echo "404 Not Found" >&2; exit 100 ;;
*--download-only*) touch python3.99_3.99.9-1.dsc ;;
esac
"""

UNPACK = """#!/bin/sh
echo "dpkg-source $*" >>"$LOG"
mkdir source
cat >source/configure <<'EOS'
#!/bin/sh
echo "configure $*" >>"$LOG"
prefix=${1#--prefix=}
cat >Makefile <<EOM
all:
	true
install:
	mkdir -p \\$(DESTDIR)$prefix/bin
	printf '#!/bin/sh\\\\necho $BUILT\\\\n' >\\$(DESTDIR)$prefix/bin/python3.99t
	chmod +x \\$(DESTDIR)$prefix/bin/python3.99t
EOM
EOS
chmod +x source/configure
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make")


@pytest.fixture
def archive(tmp_path):
    """Return a function that runs the tool with fake programs, and their folder."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, script in (
        ("apt-get", APT), ("apt-cache", APT), ("dpkg-source", UNPACK), ("cc", "#!/bin/sh\n"),
    ):  # fmt: skip
        (tools / name).write_text(script)
        (tools / name).chmod(0o755)

    def run(*arguments: str, path: str = f"{tools}{os.pathsep}{os.environ['PATH']}", built: str = "3.99t"):
        environment = {
            **os.environ, "PATH": path, "XDG_CACHE_HOME": str(tmp_path / "cache"), "BUILT": built,
            "LOG": str(tmp_path / "log"),
        }  # fmt: skip
        return subprocess.run(
            [sys.executable, TOOL, *arguments], env=environment, capture_output=True, text=True, check=False
        )

    return run, tmp_path


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "cache" / "rawuring").iterdir())


@pytest.fixture
def run_tests(monkeypatch):
    """Import tools/run_tests.py."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("run_tests")


def test_built_from_the_newest_version_that_is_served_and_the_second_time_nothing_is_done(archive):
    run, folder = archive
    done = run("3.99t")
    program = folder / "cache" / "rawuring" / "python3.99t" / "bin" / "python3.99t"
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, str(program)), done
    assert left(folder) == ["python3.99t"]
    log = (folder / "log").read_text()
    assert "--disable-gil" in log and "--skip-patches" in log
    for line in log.splitlines():
        if line.startswith("apt") and "indextargets" not in line:
            # Lists, cache, sources and preferences are not the machine's.
            for place in ("Dir::State", "Dir::State::lists", "Dir::Cache", "Dir::Etc::sourcelist"):
                assert f"{place}={folder}/cache/rawuring/.build-" in line, line
    assert not [line for line in log.splitlines() if " install " in line and line.startswith("apt-get")]

    again = run("3.99t")
    assert (again.returncode, again.stdout) == (0, f"{program}\n")
    assert (folder / "log").read_text() == log


def test_what_was_built_is_something_else_then_it_is_not_installed(archive):
    run, folder = archive
    done = run("3.99t", built="3.98t")
    assert done.returncode == 77
    assert "does not report that it is 3.99t" in done.stdout.splitlines()[-1]
    assert left(folder) == ["python3.99t.log"]


def test_the_archive_has_none_or_a_tool_is_missing_then_77_and_the_reason(archive):
    run, folder = archive
    done = run("3.99t", path=str(folder / "nothing"))
    assert (done.returncode, "no apt-get, apt-cache" in done.stdout) == (77, True), done
    for name in ("apt-get", "apt-cache"):
        (folder / "tools" / name).write_text("#!/bin/sh\necho 'E: no such host' >&2\nexit 100\n")
    done = run("3.99t")
    assert (done.returncode, done.stdout.splitlines()[-1].endswith("E: no such host")) == (77, True), done
    assert left(folder) == []


def test_a_name_that_is_no_version_then_usage(archive):
    run, _ = archive
    done = run("main")
    assert (done.returncode, "main is no version" in done.stderr) == (2, True)


def test_run_tests_then_finds_it_and_gives_it_a_hypothesis_that_is_not_compiled(
    run_tests, monkeypatch, tmp_path
):
    program = tmp_path / "rawuring" / "python3.99t" / "bin" / "python3.99t"
    program.parent.mkdir(parents=True)
    program.write_text(
        """#!/bin/sh\necho '["%s", "cpython", [3, 99, 1], "t"]'\n""" % program  # noqa: UP031
    )
    program.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert str(program) in run_tests.candidates()
    found = run_tests.ask(str(program))
    assert found.tag == "py3.99t"
    assert any("hypothesis" in each and "<6.131" in each for each in run_tests.requirements(found))
    usual = found._replace(abiflags="", version=(3, 99, 0))
    assert not any("<6.131" in each for each in run_tests.requirements(usual))
    monkeypatch.setattr(run_tests, "all_pythons", lambda first: [found, usual])
    chosen = {"all_pythons": False, "other_pythons": False, "newest": True, "python": None}
    options = type("Options", (), chosen)
    assert run_tests.wanted_pythons(options) == [usual]


def test_brief_then_each_python_is_left_what_no_other_shows(run_tests, monkeypatch):
    def python(implementation, version, abiflags=""):
        return run_tests.Python("python", implementation, version, abiflags)

    oldest, newest, threaded = (3, 9, 1), (3, 98, 0), (3, 99, 0)
    pythons = [
        python("cpython", (3, 11, 7)), python("cpython", oldest), python("cpython", newest),
        python("cpython", threaded, "t"), python("pypy", (3, 10, 0)),
    ]  # fmt: skip
    few = "not once and not long and not alike"
    expected = [
        few, "not once and (faults or not long)", "not once", few,
        "not once and not long and (faults or bytes or not alike)",
    ]  # fmt: skip
    started = []

    def run(python, options, arguments, scratch, part=0):
        started.append((python, arguments))
        return run_tests.Result(python.tag, 1, 0, 0, 0.0, 0)

    monkeypatch.setattr(run_tests, "run", run)
    monkeypatch.setattr(
        run_tests, "all_pythons", lambda first: [first, *(each for each in pythons if each != first)]
    )
    for each, marks in zip(pythons, expected):  # as .ci/run calls it
        monkeypatch.setattr(run_tests, "wanted_pythons", lambda options, each=each: [each])
        monkeypatch.setattr("sys.argv", ["run_tests.py", "--python", each.tag, "--brief"])
        assert run_tests.main() == 0
        assert started.pop() == (each, ["-m", marks]) and not started


@pytest.mark.parametrize(("arguments", "marks"), [([], ["-m", "not long"]), (["--long"], [])])
def test_run_tests_of_nothing_in_particular_then_each_file_once(run_tests, monkeypatch, arguments, marks):
    started = []

    def run(python, options, arguments, scratch, part=0):
        assert arguments[: len(marks)] == marks
        started.extend(arguments[len(marks) :])
        return run_tests.Result(python.tag, 1, 0, 0, 0.0, 0)

    monkeypatch.setattr(run_tests, "run", run)
    monkeypatch.setattr(run_tests, "prepare", lambda *_: sys.executable)
    monkeypatch.setattr("sys.argv", ["run_tests.py", *arguments])
    assert run_tests.main() == 0
    assert sorted(started) == sorted(
        str(each.relative_to(ROOT)) for each in (ROOT / "tests").rglob("test_*.py")
    )


def test_report_then_counts_and_the_names_of_what_failed(run_tests, tmp_path):
    (tmp_path / "test_x.py").write_text(
        "import pytest\n"
        "@pytest.fixture\n"
        "def broken():\n"
        "    raise OSError\n"
        "def test_good(): pass\n"
        "@pytest.mark.parametrize('x', ['a b'])\n"
        "def test_bad(x): assert 0\n"
        "def test_error(broken): pass\n"
        "def test_skipped(): pytest.skip('why')\n"
    )
    report = tmp_path / "report.xml"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={report}", "test_x.py"]
    subprocess.run(command, cwd=tmp_path, stdout=subprocess.DEVNULL, check=False)
    assert run_tests.count(report) == (1, 2, 1, ("test_x.py::test_bad[a b]", "test_x.py::test_error"))
    assert run_tests.count(tmp_path / "none.xml") == (0, 0, 0, ())
