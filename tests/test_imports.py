# SPDX-License-Identifier: MIT
"""The order of the files, and that importing them does nothing.

What it is: the reading order of the package as a test, and one import of every file in a process where
everything that an import must not do raises.
Must not know: the contents of the files.
Invariant: a removed file is skipped; a file that is not in ORDER fails.
Read next: test_vendored.py.
"""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import rawuring

PACKAGE = Path(rawuring.__file__).parent

# A file imports only from files before it. This is also the order to read them in.
ORDER = (
    "uapi",
    "gates",
    "syscalls",
    "seccomp",
    "barriers",
    "params",
    "mapping",
    "queues",
    "handle",
    "rings",
    "ops",
    "buffers",
    "register",
    "inflight",
    "debug",
    "trace",
    "command",
    "__main__",
    "evidence",
    "forbid",
    "survey",
    "report",
    "remedies",
    "profiles",
    "credentials",
    "probe",
    "monitor",
    "fdmonpoll",
    "fdmon",
    "strategy",
    "epollwait",
    "selector",
    "asyncring",
    "aio",
    "fileops",
    "filebatch",
    "filesync",
    "files",
    "fileobjects",
    "filepath",
    "vendor",
    # Tools for readers: nothing above imports them.
    "fakekernel",
    "layout",
    "tour",
    "playkernel",
    "playpage",
    "playtrace",
    "play",
    "inspect",
)
# Those that may import asyncio.
ASYNCIO = ("asyncring", "aio", "files", "fileobjects")
PRESENT = [name for name in ORDER if (PACKAGE / f"{name}.py").exists()]


def imports(path: Path) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    """Yield (level, module, names) for each import statement of a file, at any depth."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield 0, alias.name, ()
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or "", tuple(alias.name for alias in node.names)


def own_imports(path: Path) -> set[str]:
    """Return the modules of the package that a file imports."""
    found: set[str] = set()
    for level, module, names in imports(path):
        if level:
            found.update([module] if module else names)
    return found


def outside_imports(path: Path) -> set[str]:
    """Return the top-level names of everything else that a file imports."""
    return {module.partition(".")[0] for level, module, _ in imports(path) if not level}


# ------------------------------------------------------------------------------------------------------
# The text of the files


def test_package_when_listed_then_every_file_is_in_the_order() -> None:
    found = {path.relative_to(PACKAGE).with_suffix("").as_posix() for path in PACKAGE.rglob("*.py")}
    assert found - {"__init__"} <= set(ORDER)


def test_order_when_the_package_is_whole_then_each_of_its_names_is_a_file() -> None:
    if not (PACKAGE.parent / "pyproject.toml").exists():
        pytest.skip("a copy, which may be partial")
    assert set(ORDER) == set(PRESENT)


@pytest.mark.parametrize("name", PRESENT)
def test_module_when_it_imports_from_the_package_then_only_what_stands_above(name: str) -> None:
    above = set(ORDER[: ORDER.index(name)])
    assert own_imports(PACKAGE / f"{name}.py") <= above


@pytest.mark.parametrize("name", ["__init__", *PRESENT])
def test_module_when_it_imports_anything_else_then_it_is_the_standard_library(name: str) -> None:
    outside = outside_imports(PACKAGE / f"{name}.py")
    assert "rawuring" not in outside, "imports inside the package are relative, or the vendored copy breaks"
    if name not in ASYNCIO:
        assert "asyncio" not in outside, f"only {ASYNCIO} import asyncio"
    if sys.version_info >= (3, 10):
        assert outside <= set(sys.stdlib_module_names)


@pytest.mark.parametrize("name", ["__init__", *PRESENT])
def test_module_when_it_imports_from_the_package_then_one_dot(name: str) -> None:
    assert {level for level, _, _ in imports(PACKAGE / f"{name}.py")} <= {0, 1}


# ------------------------------------------------------------------------------------------------------
# The effects of an import


def run(script: str, *arguments: str, options: tuple[str, ...] = ()) -> str:
    """Run a script with only the checkout on its path; return its output."""
    prelude = f"import sys\nsys.path.insert(0, {str(PACKAGE.parent)!r})\n"
    done = subprocess.run(
        [sys.executable, "-I", *options, "-W", "error", "-c", prelude + script, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


POISONED = """
import importlib, io, os
platform, outside, names = sys.argv[1], sys.argv[2].split(), sys.argv[3].split()

# The standard library may do anything at import; this library may not, so the former is imported first.
import ctypes, fcntl, mmap, pathlib, select, socket, subprocess, termios, threading
for name in outside:
    try:
        importlib.import_module(name)
    except ImportError:
        pass  # a module of another system, imported only there

def bomb(what):
    def explode(*args, **kwargs):
        sys.stderr.write(f"{what}{args} at import\\n")
        raise AssertionError(f"{what} at import")
    return explode

def only_python(opener, what):
    def open(file, *args, **kwargs):
        return opener(file, *args, **kwargs) if str(file).endswith((".py", ".pyc")) else bomb(what)(file)
    return open

import builtins
builtins.open = only_python(builtins.open, "open")
io.open = only_python(io.open, "io.open")
# The import system has its own stat and open, so these catch only us.
for module, forbidden in (
    (ctypes, ("CDLL", "PyDLL")),
    (ctypes.cdll, ("LoadLibrary",)),
    (mmap, ("mmap",)),
    (os, ("open", "stat", "lstat", "listdir", "scandir", "readlink", "access", "pipe", "fork", "system")),
    (socket, ("socket", "socketpair")),
    (subprocess, ("Popen",)),
    (threading.Thread, ("start",)),
):
    for name in forbidden:
        setattr(module, name, bomb(f"{getattr(module, '__name__', 'cdll')}.{name}"))

io.FileIO = type("FileIO", (io.FileIO,), {"__new__": bomb("io.FileIO")})

# Linux-only modules are hidden even under the name of Linux: no import needs them.
for name in ("fcntl", "termios", "resource", "pwd", "grp"):
    sys.modules[name] = None
for module, hidden in (
    (select, ("epoll", "poll", "POLLIN", "POLLOUT", "EPOLLIN", "EPOLLOUT")),
    (mmap, ("MAP_SHARED", "MAP_PRIVATE", "MAP_POPULATE", "PROT_READ", "PROT_WRITE")),
    (os, ("memfd_create", "eventfd", "sched_getaffinity", "register_at_fork", "O_CLOEXEC", "O_DIRECT")),
    (socket, ("AF_UNIX", "SOCK_CLOEXEC", "SOCK_NONBLOCK", "MSG_DONTWAIT")),
):
    for name in hidden:
        if hasattr(module, name):
            delattr(module, name)
if platform == "win32":
    os.name = "nt"
    del os.uname
sys.platform = platform

import rawuring
for name in names:
    importlib.import_module(f"rawuring.{name}")
print("imported", len(names))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux, the system to hide")
@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_import_when_everything_it_must_not_do_raises_then_all_files_import(platform: str) -> None:
    outside = set().union(*(outside_imports(path) for path in PACKAGE.glob("*.py")))
    printed = run(POISONED, platform, " ".join(sorted(outside)), " ".join(PRESENT))
    assert printed == f"imported {len(PRESENT)}\n"


TRACELESS = """
import importlib, os, pathlib, threading
names, outside = sys.argv[1].split(), sys.argv[2].split()
for name in outside:
    try:
        importlib.import_module(name)
    except ImportError:
        pass
def traces():
    tasks = [f"/proc/self/task/{task}/children" for task in os.listdir("/proc/self/task")]
    children = [pathlib.Path(task).read_text() for task in tasks if os.path.exists(task)]
    return sorted(os.listdir("/proc/self/fd")), threading.enumerate(), len(tasks), children
before = traces()
for name in names:
    importlib.import_module(f"rawuring.{name}")
after = traces()
assert before == after, (before, after)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_import_when_done_then_no_descriptor_thread_or_child_is_new() -> None:
    outside = set().union(*(outside_imports(path) for path in PACKAGE.glob("*.py")))
    run(TRACELESS, " ".join(PRESENT), " ".join(sorted(outside)))


def test_package_when_imported_then_no_file_of_it_but_itself() -> None:
    printed = run("import __future__; old = set(sys.modules); import rawuring; print(set(sys.modules) - old)")
    assert printed == "{'rawuring'}\n"


def test_import_when_a_ring_is_wanted_then_nothing_heavy_comes_along() -> None:
    """typing imports re and functools: 9 of 13 ms, and 2 of 3 MiB."""
    script = (
        "old = set(sys.modules)\n"
        "from rawuring import FDMon, InFlight, Ring, ops, pin\n"
        "import rawuring.register\n"
        "print(*({'typing', 're', 'enum', 'dataclasses', 'inspect'} & (set(sys.modules) - old)))\n"
    )
    assert run(script, options=("-S",)) == "\n"


@pytest.mark.parametrize("name", ["params", "rings", "inflight", "buffers", "register", "gates"])
def test_named_tuple_when_its_fields_are_annotated_then_they_are_its_fields(name: str) -> None:
    """Without typing.NamedTuple, a field's name is in two places, one of them with its type."""
    module = importlib.import_module(f"rawuring.{name}")
    found = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, tuple)]
    assert found
    for record in found:
        assert tuple(record.__annotations__) == record._fields


def test_import_when_timed_then_the_time_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Printed, never asserted: a busy machine is no bug."""
    script = (
        "import time, importlib\n"
        "for name in sys.argv[1].split():\n"
        "    start = time.perf_counter()\n"
        "    importlib.import_module(name)\n"
        "    print(f'{name} {(time.perf_counter() - start) * 1e3:.1f}')\n"
    )
    printed = run(script, " ".join(["rawuring", *(f"rawuring.{name}" for name in PRESENT)]))
    assert len(printed.splitlines()) == 1 + len(PRESENT)
    with capsys.disabled():
        print(f"\nimport, ms: {', '.join(printed.splitlines())}")


# ------------------------------------------------------------------------------------------------------
# The names of the package


def test_public_names_when_listed_then_all_and_home_and_dir_agree() -> None:
    assert set(rawuring.__all__) == {"__version__", *rawuring._HOME}
    assert set(rawuring.__all__) <= set(dir(rawuring))


@pytest.mark.parametrize("name", sorted(rawuring._HOME))
def test_public_name_when_fetched_then_it_is_its_modules(name: str) -> None:
    home = rawuring._HOME[name]
    if home not in PRESENT:
        pytest.skip(f"rawuring/{home}.py in this copy")
    value = getattr(rawuring, name)
    module = sys.modules[f"rawuring.{home}"]
    assert value is (module if name == home else getattr(module, name))


def test_public_names_when_type_checked_then_they_are_the_same() -> None:
    """The TYPE_CHECKING block repeats _HOME; nothing else would notice a difference."""
    found = {}
    for node in ast.walk(ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            found.update({alias.name: node.module or alias.name for alias in node.names})
    assert found == rawuring._HOME


def test_package_when_a_name_is_unknown_then_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'probing'"):
        rawuring.probing  # noqa: B018
