# SPDX-License-Identifier: MIT
"""Copies the package into another project, whole, in part or as one file, and checks such copies.

What it is: ``python -m rawuring.vendor DEST``, and ``--check`` for what it has made.
Mirrors: nothing; pip's rules for its _vendor folder (unmodified, pure Python, no build step) are the measure.
Must not know: what any module does. What belongs together is read from the import statements.
Invariant: the same package and the same options give the same bytes, on every Python and at any time.
Read next: tests/test_vendor.py.

A copy is a folder NAME with a manifest (VENDORED.json), or one file NAME.py that ends with the manifest. The
manifest holds the version, and the SHA-256 of each file as it was copied.

The one file is plain Python, with one section for each module. When NAME is imported, the file runs as the
package. When NAME.rings is imported, the same code object runs once more in the namespace of NAME.rings, and
only the section of rings does something. So each module keeps its own namespace and its own globals, a
traceback names the true line, debuggers and coverage work, and Python caches the file as any other.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import keyword
import os
import pkgutil
import re
import sys
import tokenize
from functools import lru_cache
from typing import NamedTuple

from . import command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

PROJECT = "rawuring"
MANIFEST = "VENDORED.json"
SCHEMA = 1

DONE, MODIFIED, USAGE, OUTDATED = 0, 1, 2, 3  # exit codes

_EPILOG = """\
DEST/NAME is made, or DEST/NAME.py with --single-file. A copy that was made earlier is replaced, unless it was
modified. --check takes a copy, or a folder that holds copies.

exit code: 0 done, or: not modified and up to date; 1 modified (and nothing was written); 2 wrong usage, or no
copy there; 3 not modified, but not what this package would write now; 74 the system refused to read or write.
"""

LICENCE = """\
MIT License

Copyright (c) 2026 The rawuring authors

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""


class VendorError(Exception):
    """What cannot be done, and what to do instead; `code` is the exit code of the command."""

    def __init__(self, message: str, code: int = USAGE) -> None:
        super().__init__(message)
        self.code = code


# ------------------------------------------------------------------------------------------------------
# The package that runs


def version() -> str:
    """Return the version of the running package."""
    return str(sys.modules[_package()].__version__)


def _package() -> str:
    return __name__.rpartition(".")[0] if __name__ != "__main__" else str(__package__)


def source(name: str) -> str:
    """Return the text of a module of the package, also from a zip; "__init__" is the package itself.

    Raises: VendorError where this Python has no source of it.
    """
    try:
        data = pkgutil.get_data(_package(), f"{name}.py")
    except OSError:
        data = None
    if data is None:
        raise VendorError(f"no source of {_package()}.{name} to copy: use a checkout or an installed package")
    return data.decode().replace("\r\n", "\n")


def modules() -> list[str]:
    """Name the modules of the package in the order of reading, each after those that it imports.

    The order of reading is the one that the files themselves give: "Read next: rings.py."

    Raises: VendorError where this copy is one file, from which nothing can be copied.
    """
    found = sorted(module.name for module in pkgutil.iter_modules(sys.modules[_package()].__path__))
    if not found:
        raise VendorError("this is a copy in one file: run the command from a whole package")
    waiting = {name: imports(name, found) for name in found}
    ordered: list[str] = []
    following = _read_next("__init__")
    while waiting:
        ready = [name for name, needs in waiting.items() if needs <= set(ordered)]
        name = following if following in ready else ready[0]
        ordered.append(name)
        del waiting[name]
        following = _read_next(name)
    return ordered


def _read_next(name: str) -> str:
    named = re.search(r"^Read next: (\w+)\.py", source(name), re.MULTILINE)
    return named[1] if named else ""


def imports(name: str, known: Iterable[str]) -> set[str]:
    """Return which of the known modules a module imports when it runs, at its top or inside a function."""
    # `from . import __version__` names no module: it is in __init__.py, which every copy has.
    return (_names_imported(source(name)) & set(known)) - {name}


@lru_cache(maxsize=64)  # each is asked for again with every part that needs it
def _names_imported(text: str) -> frozenset[str]:
    found: set[str] = set()
    for node in _executed(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.level:
            found.update([node.module] if node.module else [alias.name for alias in node.names])
    return frozenset(found)


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """Walk the statements of a tree without what stands under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            continue  # no statement stands in one
        if isinstance(child, ast.If) and ast.dump(child.test) == ast.dump(_TYPE_CHECKING):
            child = ast.Module(child.orelse, [])
        yield child
        yield from _executed(child)


_TYPE_CHECKING = ast.parse("TYPE_CHECKING", mode="eval").body


def closure(parts: Iterable[str]) -> list[str]:
    """Name the modules that some modules need, themselves included, in the order of modules().

    Raises: VendorError for a name that is no module.
    """
    known = modules()
    wanted = list(parts)
    found: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name not in known:
            raise VendorError(f"no module {name!r}; there are: {' '.join(known)}")
        if name not in found:
            found.add(name)
            wanted.extend(imports(name, known))
    return [name for name in known if name in found]


# ------------------------------------------------------------------------------------------------------
# What a copy consists of


def files(only: Iterable[str] = ()) -> dict[str, str]:
    """Return the files of a copy with their text, without the manifest.

    Args: only names the parts that are wanted; all by default.
    """
    found = {f"{name}.py": source(name) for name in ["__init__", *_names(list(only))]}
    return {"LICENSE": LICENCE, **found, "py.typed": ""}


def _names(parts: list[str]) -> list[str]:
    return closure(parts) if parts else modules()


def package(only: Iterable[str] = ()) -> dict[str, str]:
    """Return the files of a copy with their text, and with the manifest last."""
    parts = sorted(set(only))
    found = files(parts)
    manifest = {**_manifest(parts, "package"), "files": {name: _sha256(text) for name, text in found.items()}}
    return {**found, MANIFEST: json.dumps(manifest, indent=1, sort_keys=True) + "\n"}


def single_file(only: Iterable[str] = ()) -> str:
    """Return the text of the copy in one file.

    Raises: VendorError when vendor itself is asked for: from one file there is nothing to copy.
    """
    parts = sorted(set(only))
    if "vendor" in parts:
        raise VendorError("vendor cannot be part of one file, because it copies files")
    found = _sections(parts)
    runnable = [name for name in found if _is_runnable(source(name))]
    texts = {"": _head(found, runnable)}
    texts.update((name, _section(name, source(name))) for name in found)
    texts["__main__"] = _TAIL
    manifest = {
        **_manifest(parts, "file"),
        "files": {f"{name}.py": _sha256(source(name)) for name in found},
        "sections": {name: _sha256(text) for name, text in texts.items()},
    }
    lines = json.dumps(manifest, indent=1, sort_keys=True).splitlines()
    return "".join(texts.values()) + _MANIFEST_MARK + "".join(f"# {line}\n" for line in lines)


def _sections(parts: list[str]) -> list[str]:
    return ["__init__", *(name for name in _names(parts) if name != "vendor")]


def _manifest(parts: list[str], form: str) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "name": PROJECT,
        "version": version(),
        "licence": "MIT",
        "form": form,
        "only": parts,
        "made_by": " ".join(
            [f"python -m {PROJECT}.vendor DEST"]
            + [f"--only {part}" for part in parts]
            + ["--single-file"] * (form == "file")
        ),
    }


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


# ------------------------------------------------------------------------------------------------------
# One file

_MARK = "# ======== {}.py "
_MARK_WIDTH = 106
_MANIFEST_MARK = "# ======== manifest\n"
_IS_MARK = re.compile(r"^# ======== (\w+)\.py =+$", re.MULTILINE)

_HEAD = '''\
# SPDX-License-Identifier: MIT
# ruff: noqa
# flake8: noqa
# mypy: ignore-errors
#
{licence}
"""{project} {version} in one file: io_uring from pure Python.

Written by ``python -m {project}.vendor --single-file``; the manifest at the end has the options and hashes.
``python -m {project}.vendor --check NAME.py`` tells whether it was modified, or is out of date.

NAME is whatever this file is called:

    from NAME import __version__, {example}{commands}

Each section below is one module of the package, in an order in which each imports only from those above it.
This file runs once as the package, and once more for each module that is imported, in the namespace of that
module, where only the section of that name does something. Lines are those of this file.
"""

from __future__ import annotations

# The section that this run is for: a module if the finder below loads it, else the package itself.
_SECTION = "__init__"
if hasattr(getattr(globals().get("__spec__"), "loader", None), "one_file_package"):
    _SECTION = __spec__.name.rpartition(".")[2]

if _SECTION == "__init__":
    import sys as _sys
    from importlib.machinery import ModuleSpec as _ModuleSpec

    _SECTIONS = {sections}
    _PROGRAMS = {programs}

    class _Finder:
        """Finds and loads the modules of this file, on sys.meta_path."""

        def __init__(self, package, code, file, loader, loaded_as):
            self.one_file_package = package
            self._code, self._file, self._loader, self._loaded_as = code, file, loader, loaded_as

        def find_spec(self, fullname, path=None, target=None):
            package, _, section = fullname.rpartition(".")
            if package != self.one_file_package or section not in _SECTIONS:
                return None
            spec = _ModuleSpec(fullname, self, origin=self._file)
            spec.has_location = True
            return spec

        def create_module(self, spec):
            return None

        def exec_module(self, module):
            exec(self._code, module.__dict__)

        def get_code(self, fullname):
            return self._code  # python -m NAME.section

        def get_source(self, fullname):
            return self._loader.get_source(self._loaded_as)  # tracebacks from a zip

    _IS_PROGRAM = __name__ == "__main__"
    _loader, _loaded_as = globals().get("__loader__"), __name__
    if _IS_PROGRAM:
        __name__ = __spec__.name if __spec__ else __file__.replace("\\\\", "/").rpartition("/")[2][:-3]
        if not __name__.replace(".", "_").isidentifier() or __name__ == "__main__":
            __name__ = "{project}"
        _sys.modules[__name__] = _sys.modules["__main__"]
    __package__ = __name__
    __path__ = []  # makes it a package; the finder needs no folder
    if __spec__ is None:
        __spec__ = _ModuleSpec(__name__, None, origin=__file__, is_package=True)
    __spec__.submodule_search_locations = __path__
    # A file that is loaded again takes the place of its first self.
    _sys.meta_path[:] = [old for old in _sys.meta_path if getattr(old, "one_file_package", None) != __name__]
    _sys.meta_path.append(_Finder(__name__, _sys._getframe().f_code, __file__, _loader, _loaded_as))

'''

_TAIL = """\
# ======== __main__.py ===================================================================================

if _SECTION == "__init__" and _IS_PROGRAM:
    if len(_sys.argv) < 2 or _sys.argv[1] not in _PROGRAMS:
        _asked = _sys.argv[1:2] in (["-h"], ["--help"])
        _usage = f"usage: python {_sys.argv[0]} {'|'.join(_PROGRAMS)} [ARGUMENTS]"
        print(_usage, file=_sys.stdout if _asked else _sys.stderr)
        _sys.exit(0 if _asked else 2)
    import runpy as _runpy

    del _sys.argv[0]
    _runpy.run_module(f"{__name__}.{_sys.argv[0]}", run_name="__main__", alter_sys=True)

"""


def _head(sections: list[str], programs: list[str]) -> str:
    return _HEAD.format(
        licence="".join(f"# {line}".rstrip() + "\n" for line in LICENCE.splitlines()),
        project=PROJECT,
        version=version(),
        sections=json.dumps(sections[1:]),
        programs=json.dumps(programs),
        example="rings" if "rings" in sections else sections[1],
        commands="".join(f"\n    python -m NAME.{each}   # or: python NAME.py {each}" for each in programs),
    )


def _is_runnable(text: str) -> bool:
    return '\nif __name__ == "__main__":\n' in text


def _section(name: str, text: str) -> str:
    """Turn a module into a section: indented, its docstring assigned, without the __future__ import."""
    mark = _MARK.format(name).ljust(_MARK_WIDTH, "=")
    keep, docstring, future = _lines_of_strings(text)
    lines = [f'{mark}\n\nif _SECTION == "{name}":\n']
    for number, line in enumerate(text.splitlines(), 1):
        if number == future:
            if lines[-1] == "\n":
                del lines[-1]
            continue
        if number == docstring:
            line = f"__doc__ = {line}"
        lines.append(f"{line}\n" if number in keep or not line else f"    {line}\n")
    while lines[-1] == "\n":
        del lines[-1]
    return "".join(lines) + "\n"


def _lines_of_strings(text: str) -> tuple[set[int], int, int]:
    """Find the lines that begin inside a string and so must stay as they are; the docstring; the future.

    The docstrings of functions and classes are indented with their code: whoever shows one strips the
    indentation. That of the module is not, because it is assigned.
    """
    keep: set[int] = set()
    docstring = future = 0
    begins, depth, first = True, 0, 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        kind = tokenize.tok_name[token.type]
        if kind == "FSTRING_START":  # Python 3.12 and newer take f-strings apart
            first, depth = first if depth else token.start[0], depth + 1
        elif kind == "FSTRING_END":
            depth -= 1
            if not depth:
                keep.update(range(first + 1, token.end[0] + 1))
        elif kind == "STRING":
            if begins and not docstring:
                docstring = token.start[0]
            if not begins or docstring == token.start[0]:
                keep.update(range(token.start[0] + 1, token.end[0] + 1))
        elif begins and token.string == "from" and token.line.startswith("from __future__ import"):
            assert token.line == "from __future__ import annotations\n", "the one __future__ of every file"
            future = token.start[0]
        if kind not in ("NL", "COMMENT"):
            begins = kind in ("NEWLINE", "INDENT", "DEDENT", "ENCODING")
    return keep, docstring, future


# ------------------------------------------------------------------------------------------------------
# What became of a copy


class Status(NamedTuple):
    """What check() found about one copy."""

    path: str
    version: str
    modified: list[str]  # "rings.py: changed", "rings.py: missing", "notes.py: added"
    outdated: str  # why it is not what would be written now; "" when it is

    @property
    def code(self) -> int:
        """Return the exit code."""
        return MODIFIED if self.modified else OUTDATED if self.outdated else DONE


def check(path: str) -> Status:
    """Compare a copy with its manifest, and its manifest with the running package.

    Args: path of the copy's folder, or of its file.
    Raises: VendorError where there is no copy.
    """
    manifest, modified = (_read_folder if os.path.isdir(path) else _read_file)(path)
    return Status(path, str(manifest["version"]), modified, _outdated(manifest))


def _read_folder(path: str) -> tuple[dict[str, Any], list[str]]:
    manifest = _parse_manifest(path, _read(os.path.join(path, MANIFEST)))
    modified = []
    present = set(_files_in(path))
    for name, expected in manifest["files"].items():
        if name not in present:
            modified.append(f"{name}: missing")
        elif _sha256(_read(os.path.join(path, name)) or "") != expected:
            modified.append(f"{name}: changed")
    # An added module would be found by an import, so it counts.
    modified += [f"{name}: added" for name in present - set(manifest["files"]) - {MANIFEST}]
    return manifest, sorted(modified)


def _files_in(path: str) -> Iterator[str]:
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            yield os.path.relpath(os.path.join(folder, name), path).replace(os.sep, "/")


def _read_file(path: str) -> tuple[dict[str, Any], list[str]]:
    text, _, comments = (_read(path) or "").partition(_MANIFEST_MARK)
    manifest = _parse_manifest(path, "".join(line[2:] for line in comments.splitlines(True)) or None)
    marks = [("", 0), *((mark[1], mark.start()) for mark in _IS_MARK.finditer(text))]
    ends = [start for _, start in marks[1:]] + [len(text)]
    found = {name: _sha256(text[start:end]) for (name, start), end in zip(marks, ends)}
    expected = manifest["sections"]
    modified = [f"{_title(name)}: missing" for name in expected if name not in found]
    modified += [f"{_title(name)}: added" for name in found if name not in expected]
    both = set(found) & set(expected)
    modified += [f"{_title(name)}: changed" for name in both if found[name] != expected[name]]
    return manifest, sorted(modified)


def _title(section: str) -> str:
    return f"section {section}" if section else "the head"


def _read(path: str) -> str | None:
    """Return the text of a file, with the line ends that it was written with; None where there is none."""
    try:
        with open(path, "rb") as file:
            return file.read().decode("utf-8", "surrogateescape").replace("\r\n", "\n")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


_KINDS: dict[str, dict[str, type]] = {"package": {"version": str, "only": list, "files": dict}}
_KINDS["file"] = {**_KINDS["package"], "sections": dict}


def _parse_manifest(path: str, text: str | None) -> dict[str, Any]:
    if text is None:
        raise VendorError(f"{path}: no copy of {PROJECT} (it has no manifest)")
    try:
        manifest = json.loads(text)
        if (manifest["name"], manifest["schema"]) != (PROJECT, SCHEMA):
            raise ValueError("made by something else, or by a newer version of this command")
        for key, kind in _KINDS[manifest["form"]].items():
            if not isinstance(manifest[key], kind):
                raise ValueError(f"{key!r} is no {kind.__name__}")
        return dict(manifest)
    except (ValueError, KeyError, TypeError) as error:
        raise VendorError(f"{path}: cannot read its manifest: {error}") from None


def _outdated(manifest: dict[str, Any]) -> str:
    if manifest["version"] != version():
        return f"it is {manifest['version']}, this package is {version()}"
    try:
        now = _would_write(manifest)
    except VendorError as error:
        return str(error)
    then = manifest["files"]
    differ = sorted(name for name in {*now, *then} if now.get(name) != then.get(name))
    return f"the version is the same, but not: {' '.join(differ)}" if differ else ""


def _would_write(manifest: dict[str, Any]) -> dict[str, str]:
    if manifest["form"] == "file":
        return {f"{name}.py": _sha256(source(name)) for name in _sections(manifest["only"])}
    return {name: _sha256(text) for name, text in files(manifest["only"]).items()}


def copies_in(path: str) -> list[str]:
    """Name the copies at a path: itself, or those that lie directly in that folder."""
    if not os.path.isdir(path) or os.path.exists(os.path.join(path, MANIFEST)):
        return [path]
    inside = [os.path.join(path, name) for name in sorted(os.listdir(path))]
    return [each for each in inside if _is_copy(each)]


def _is_copy(path: str) -> bool:
    if os.path.isdir(path):
        return os.path.exists(os.path.join(path, MANIFEST))
    return path.endswith(".py") and f"\n{_MANIFEST_MARK}" in (_read(path) or "")


# ------------------------------------------------------------------------------------------------------
# Writing


def copy(
    dest: str, *, only: Iterable[str] = (), one_file: bool = False, name: str = PROJECT, force: bool = False
) -> str:
    """Write a copy, in place of one that was made earlier, and return its path.

    Args: dest, the folder that gets it. only, the parts that are wanted. name, under which it is imported.
        force, to overwrite a copy that was modified; files that were added to it are left alone.
    Raises: VendorError where something else is in the way, or a modified copy.
    """
    if not name.isidentifier() or keyword.iskeyword(name):
        raise VendorError(f"{name!r} cannot be imported; --name takes one Python identifier")
    folder, file = os.path.join(dest, name), os.path.join(dest, f"{name}.py")
    path, other = (file, folder) if one_file else (folder, file)
    contents = {"": single_file(only)} if one_file else package(only)
    if os.path.exists(other):
        raise VendorError(f"{other} has the same name: remove it, or take another --name")
    stale = _old_files(path, force)
    os.makedirs(dest if one_file else path, exist_ok=True)
    for each, text in contents.items():  # the manifest is last: an interrupted copy counts as modified
        with open(os.path.join(path, each) if each else path, "w", encoding="utf-8", newline="\n") as out:
            out.write(text)
    for each in stale - set(contents):
        if os.path.exists(os.path.join(path, each)):
            os.remove(os.path.join(path, each))
    return path


def _old_files(path: str, force: bool) -> set[str]:
    """Return the files of an earlier copy, or refuse to go on."""
    if not os.path.exists(path) or (os.path.isdir(path) and not os.listdir(path)):
        return set()
    if not _is_copy(path):
        raise VendorError(f"{path} is there, and no copy of {PROJECT}: remove it, or take another --name")
    manifest, modified = (_read_folder if os.path.isdir(path) else _read_file)(path)
    if modified and not force:
        raise VendorError(f"{path} was modified ({', '.join(modified)}): --force overwrites it", MODIFIED)
    # Of names that lead out of the folder there are none among its files.
    return set(manifest["files"]) & set(_files_in(path)) if os.path.isdir(path) else set()


# ------------------------------------------------------------------------------------------------------
# The command


def main(arguments: list[str] | None = None) -> int:
    """Run the command.

    Args: arguments without the program's name; by default those of the process.
    Returns: the exit code: 0 good, 1 modified, 2 wrong usage or no copy there, 3 out of date.
    """
    import argparse

    parser = argparse.ArgumentParser(
        prog=f"python -m {PROJECT}.vendor",
        description="Copy the package into another project, or check such a copy.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dest", metavar="DEST", help="the folder that gets the copy, or what to check")
    parser.add_argument(
        "--only", metavar="MODULE", action="append", default=[],
        help="copy this module and those that it needs; can be repeated",
    )
    parser.add_argument("--single-file", action="store_true", help="write one file instead of a folder")
    parser.add_argument("--name", default=PROJECT, help="what the copy is called (default: %(default)s)")
    parser.add_argument("--force", action="store_true", help="overwrite a copy that was modified")
    parser.add_argument("--check", action="store_true", help="was a copy modified, is it out of date?")
    options = parser.parse_args(arguments)
    only = [part for each in options.only for part in each.split(",") if part]
    try:
        if options.check:
            return _print_check(options.dest)
        path = copy(
            options.dest, only=only, one_file=options.single_file, name=options.name, force=options.force
        )
    except VendorError as error:
        print(error, file=sys.stderr)
        return error.code
    names = _sections(only)[1:] if options.single_file else _names(only)
    print(f"{path}: {PROJECT} {version()} ({' '.join(names)})")
    return DONE


def _print_check(path: str) -> int:
    copies = copies_in(path)
    if not copies:
        raise VendorError(f"{path}: no copy of {PROJECT} in it")
    codes = set()
    for status in map(check, copies):
        codes.add(status.code)
        print(f"{status.path}: {PROJECT} {status.version}")
        for line in ["modified:", *status.modified] if status.modified else ["not modified"]:
            print(f"  {line}")
        print(f"  out of date: {status.outdated}" if status.outdated else "  up to date")
    return next(code for code in (MODIFIED, OUTDATED, DONE) if code in codes)


if __name__ == "__main__":
    command.run(main)
