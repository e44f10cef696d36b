# SPDX-License-Identifier: MIT
# pyright: basic
"""Copy the package into another project, whole, in part or as one file, and check such copies.

What it is: ``python -m rawuring.vendor DEST``, and ``--check`` for the copies that it has made.
Mirrors: pip's rules for its _vendor folder (unmodified, pure Python, no build step); CycloneDX 1.5 for
--sbom; sha256sum(1) for lists of hashes.
Must not know: what any module does. The import statements tell which modules belong together.
Invariant: the same package and the same options give the same bytes, on every Python and at any time; only
the .pyc files of --compiled belong to the Python that made them.
Read next: tests/test_vendor.py.

A copy is a folder NAME with a manifest (VENDORED.json) and a list for sha256sum (SHA256SUMS), or one file
NAME.py that ends with the manifest. The manifest holds the version, its origin, and the SHA-256 of each file.
Each copy can check itself without this module: ``python -m NAME --check``. In a partial copy the package
itself (__init__.py) has only the names of the copied modules; with --minimal the modules lack their
docstrings and comments; everything else is copied unchanged.

The one file is plain Python, with one section for each module. When NAME is imported, the file runs as the
package. When NAME.rings is imported, the same code object runs once more in the namespace of NAME.rings, and
only the section of rings does something. So each module keeps its own namespace and its own globals, a
traceback names the true line, debuggers and coverage work, and Python caches the file as any other.
"""

from __future__ import annotations

import ast
import hashlib
import json
import keyword
import os
import pkgutil
import re
import sys
from functools import lru_cache
from typing import NamedTuple

from . import command
from .__main__ import MANIFEST, SUMS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

PROJECT = "rawuring"
SCHEMA = 1

DONE, MODIFIED, USAGE, OUTDATED = 0, 1, 2, 3  # exit codes

_EPILOG = """\
Creates DEST/NAME, or DEST/NAME.py with --single-file. An earlier copy is replaced, unless it was modified.
--check takes a copy, or a folder that holds copies; without DEST, the copy that runs. Each copy can check
itself as well: python -m NAME --check.

exit code: 0 done, or: not modified and up to date; 1 modified (and nothing was written); 2 wrong usage, or no
such copy; 3 not modified, but different from the copy that this package would write now; 74 reading or
writing failed.
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
    """The operation that failed, and the remedy; `code` is the exit code of the command."""

    def __init__(self, message: str, code: int = USAGE) -> None:
        super().__init__(message)
        self.code = code


# ------------------------------------------------------------------------------------------------------
# The running package


def version() -> str:
    """Return the version of the running package."""
    return str(sys.modules[_package()].__version__)


def _package() -> str:
    return __name__.rpartition(".")[0] if __name__ != "__main__" else str(__package__)


def source(name: str) -> str:
    """Return the text of a module of the package, also from a zip; "__init__" is the package itself.

    Raises: VendorError if this Python has no source of it.
    """
    try:
        data = pkgutil.get_data(_package(), f"{name}.py")
    except OSError:
        data = None
    if data is None:
        raise VendorError(f"no source of {_package()}.{name} to copy: use a checkout or an installed package")
    return data.decode().replace("\r\n", "\n")


def modules() -> list[str]:
    """Name the modules of the package in reading order, each after those that it imports.

    The files themselves give the reading order: "Read next: rings.py."

    Raises: VendorError if this copy is one file, from which nothing can be copied.
    """
    listed = pkgutil.iter_modules(sys.modules[_package()].__path__)
    found = sorted(module.name for module in listed if module.name != "__main__")  # it is in every copy
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
    """Return the known modules that a module imports at run time, at its top or inside a function."""
    # `from . import __version__` names no module: it is in __init__.py, which every copy contains.
    return set(_names_imported(source(name)) & set(known)) - {name}


@lru_cache(maxsize=64)  # each is requested again for every part that needs it
def _names_imported(text: str) -> frozenset[str]:
    found: set[str] = set()
    for node in _executed(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.level:
            found.update([node.module] if node.module else [alias.name for alias in node.names])
    return frozenset(found)


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """Walk the statements of a tree except those under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            continue  # it contains no statements
        if isinstance(child, ast.If) and ast.dump(child.test) == ast.dump(_TYPE_CHECKING):
            child = ast.Module(child.orelse, [])
        yield child
        yield from _executed(child)


_TYPE_CHECKING = ast.parse("TYPE_CHECKING", mode="eval").body


def closure(parts: Iterable[str]) -> list[str]:
    """Name the modules that some modules need, including themselves, in the order of modules().

    Raises: VendorError for a name that is not a module.
    """
    known = modules()
    wanted = list(parts)
    found: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name not in known:
            raise VendorError(f"no module {name!r}; the modules are: {' '.join(known)}")
        if name not in found:
            found.add(name)
            wanted.extend(imports(name, known))
    return [name for name in known if name in found]


# ------------------------------------------------------------------------------------------------------
# The contents of a copy


def files(only: Iterable[str] = (), *, minimal: bool = False) -> dict[str, str]:
    """Return the files of a copy with their text, without the manifest.

    Args: only names the wanted modules, by default all. minimal removes docstrings and comments.
    """
    names = ["__init__", "__main__", *_names(list(only))]
    found = {f"{name}.py": text for name, text in _texts(names, minimal).items()}
    return {"LICENSE": LICENCE, **found, "py.typed": ""}


def _names(parts: list[str]) -> list[str]:
    return closure(parts) if parts else modules()


def _texts(names: list[str], minimal: bool) -> dict[str, str]:
    """Return the modules as they are copied; the package itself has the names of the copied ones."""
    found = {name: source(name) for name in names}
    found["__init__"] = _only_names_of(found["__init__"], set(names))
    return {name: without_comments(text) for name, text in found.items()} if minimal else found


def package(
    only: Iterable[str] = (), *, minimal: bool = False, compiled: bool = False
) -> dict[str, str | bytes]:
    """Return the files of a copy with their content, the manifest last.

    Args: only and minimal as for files(). compiled adds a .pyc of this Python to each module: in a zip, such
        a Python uses it, and any other the source.
    """
    parts = sorted(set(only))
    found: dict[str, str | bytes] = dict(files(parts, minimal=minimal))
    if compiled:
        sources = [name for name in found if name.endswith(".py")]
        found.update((f"{name}c", _compile(name, str(found[name]))) for name in sources)
    manifest = _manifest(parts, "package", minimal, compiled)
    manifest["files"] = {name: _sha256(content) for name, content in found.items()}
    text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
    return {**found, SUMS: _sums({**manifest["files"], MANIFEST: _sha256(text)}), MANIFEST: text}


def _sums(hashes: dict[str, str]) -> str:
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(hashes.items()))


def _compile(name: str, text: str) -> bytes:
    """Return the .pyc of a module (PEP 552): checked against the hash of its source, no time in it."""
    import importlib.util
    import marshal

    code = compile(text, f"{PROJECT}/{name}", "exec", dont_inherit=True, optimize=0)
    checked = (0b11).to_bytes(4, "little")
    source_hash = importlib.util.source_hash(text.encode())
    return importlib.util.MAGIC_NUMBER + checked + source_hash + marshal.dumps(code)


def single_file(only: Iterable[str] = (), *, minimal: bool = False) -> str:
    """Return the text of the copy in one file.

    Args: as for files().
    Raises: VendorError if vendor itself is requested: from one file there is nothing to copy.
    """
    parts = sorted(set(only))
    if "vendor" in parts:
        raise VendorError("vendor cannot be part of one file, because it copies files")
    found = _texts(_sections(parts), minimal)
    found["__init__"] = _without_imports_for_types(found["__init__"])
    texts = {"": _head(list(found))}
    texts.update((name, _section(name, text)) for name, text in found.items())
    texts["__main__"] += _TAIL
    manifest = {
        **_manifest(parts, "file", minimal, False),
        "files": {f"{name}.py": _sha256(source(name)) for name in found},
        "sections": {name: _sha256(text) for name, text in texts.items()},
    }
    lines = json.dumps(manifest, indent=1, sort_keys=True).splitlines()
    return "".join(texts.values()) + _MANIFEST_MARK + "".join(f"# {line}\n" for line in lines)


def _sections(parts: list[str]) -> list[str]:
    return ["__init__", *(name for name in _names(parts) if name != "vendor"), "__main__"]


def _manifest(parts: list[str], form: str, minimal: bool, compiled: bool) -> dict[str, Any]:
    names = _sections(parts) if form == "file" else ["__init__", "__main__", *_names(parts)]
    options = [f"--only {part}" for part in parts] + ["--single-file"] * (form == "file")
    options += ["--minimal"] * minimal + ["--compiled"] * compiled
    return {
        "schema": SCHEMA,
        "name": PROJECT,
        "version": version(),
        "purl": _purl(version()),
        "licence": "MIT",
        "spdx": "MIT",
        "upstream": {
            "project": PROJECT,
            "wheel": f"{PROJECT}-{version()}-py3-none-any.whl",
            "sdist": f"{PROJECT}-{version()}.tar.gz",
            "sha256": {f"{PROJECT}/{name}.py": _sha256(source(name)) for name in names},
        },
        "form": form,
        "only": parts,
        "minimal": minimal,
        "compiled": (sys.implementation.cache_tag or "") if compiled else "",
        "made_by": " ".join([f"python -m {PROJECT}.vendor DEST", *options]),
    }


def _purl(of: str) -> str:
    return f"pkg:pypi/{PROJECT}@{of}"


def _sha256(content: str | bytes) -> str:
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    return hashlib.sha256(data).hexdigest()


# ------------------------------------------------------------------------------------------------------
# Modules that are changed when copied


def _only_names_of(text: str, present: set[str]) -> str:
    """Return the package's __init__ without the names whose modules are missing."""
    lines: list[str | None] = list(text.splitlines(keepends=True))
    missing: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "_HOME":
            homes = ast.literal_eval(node.value or node.target)
            missing = {name for name, home in homes.items() if home not in present}
            _drop(lines, [k for k in getattr(node.value, "keys", ()) if k.value in missing])
        elif isinstance(node, ast.ImportFrom) and node.level:
            kept = [alias.name for alias in node.names if (node.module or alias.name) in present]
            if not kept:
                _drop(lines, [node])
            elif not node.module:
                lines[node.lineno - 1] = f"{' ' * node.col_offset}from . import {', '.join(kept)}\n"
    for node in ast.walk(ast.parse(text)):  # __all__ stands above of _HOME
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            _drop(lines, [name for name in getattr(node.value, "elts", ()) if name.value in missing])
    return _never_empty("".join(line for line in lines if line is not None))


def _without_imports_for_types(text: str) -> str:
    """Return the package's __init__ for one file, in which type checkers find classes, but no modules."""
    lines: list[str | None] = list(text.splitlines(keepends=True))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.level:
            _drop(lines, [node])
            if not node.module:
                indent = " " * node.col_offset
                names = "".join(f"{indent}{alias.name}: Any\n" for alias in node.names)
                lines[node.lineno - 1] = f"{indent}from typing import Any\n\n{names}"
    return _never_empty("".join(line for line in lines if line is not None))


def _never_empty(text: str) -> str:
    return text.replace("\nif TYPE_CHECKING:\nelse:\n", "\nif TYPE_CHECKING:\n    pass\nelse:\n")


def _drop(lines: list[str | None], nodes: Iterable[Any]) -> None:
    for node in nodes:
        lines[node.lineno - 1 : node.end_lineno] = [None] * (node.end_lineno - node.lineno + 1)


# The licence, and directives for type checkers.
_KEPT_COMMENT = re.compile(r"# (SPDX-License-Identifier|type|mypy|pyright):")


@lru_cache(maxsize=64)
def without_comments(text: str) -> str:
    """Return a module without docstrings and comments; the remaining lines are unchanged.

    It uses line numbers, not ast.unparse(), whose output differs between Pythons.
    """
    lines: list[str | None] = list(text.splitlines(keepends=True))
    tree = ast.parse(text)
    for node in (tree, *_statements(tree)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            _drop_docstring(lines, node)
    inside: set[int] = set()  # lines that begin inside a string
    for first, last, found in _strings_and_comments(text):
        inside.update(range(first + 1, last + 1))
        if found[0][0] == "#" and not _KEPT_COMMENT.match(found[0]):
            code = (lines[first - 1] or "")[: found.start() - text.rfind("\n", 0, found.start()) - 1].rstrip()
            lines[first - 1] = f"{code}\n" if code else None
    kept: list[str] = []
    empty = 2  # consecutive lines; none at the beginning
    for number, line in enumerate(lines, 1):
        empty = empty + 1 if line == "\n" and number not in inside else 0 if line else empty
        if line and empty <= 2:
            kept.append(line)
    while kept and kept[-1] == "\n":
        del kept[-1]
    return "".join(kept)


def _drop_docstring(lines: list[str | None], node: Any) -> None:
    """Remove a docstring and the empty lines below it; an otherwise empty body gets pass."""
    if ast.get_docstring(node, clean=False) is None:
        return
    docstring = node.body[0]
    _drop(lines, [docstring])
    if len(node.body) == 1 and not isinstance(node, ast.Module):
        lines[docstring.lineno - 1] = f"{' ' * docstring.col_offset}pass\n"
    elif not isinstance(node, ast.Module):
        below = docstring.end_lineno
        while lines[below] == "\n":
            lines[below] = None
            below += 1


def _statements(node: ast.AST) -> Iterator[Any]:
    """Walk the statements of a tree: ast.walk() would go through ten times as many expressions."""
    for block in ("body", "handlers", "orelse", "finalbody"):
        for child in getattr(node, block, ()):
            yield child
            yield from _statements(child)


# Not tokenize, which takes ten times as long, and takes f-strings apart from Python 3.12 on. A string in an
# f-string has other quotes, as every Python before 3.12 requires.
_STRING_OR_COMMENT = re.compile(r"""#[^\n]*|("{3}|'{3}|"|')(?:\\.|(?!\1).)*\1""", re.DOTALL)


def _strings_and_comments(text: str) -> Iterator[tuple[int, int, re.Match[str]]]:
    """Yield the first line, the last line, and the match of each string and each comment."""
    line, end = 1, 0
    for found in _STRING_OR_COMMENT.finditer(text):
        first = line + text.count("\n", end, found.start())
        line, end = first + found[0].count("\n"), found.end()
        yield first, line, found


# ------------------------------------------------------------------------------------------------------
# One file

_MARK = "# ======== {}.py "
_MARK_WIDTH = 106
_MANIFEST_MARK = "# ======== manifest\n"
_IS_MARK = re.compile(r"^# ======== (\w+)\.py =+$", re.MULTILINE)

# The complaints of pyright about one namespace that is many. Each section passes as a separate file.
_UNCHECKED = """
ArgumentType AssignmentType AttributeAccessIssue CallIssue GeneralTypeIssues IndexIssue InvalidTypeForm
MissingImports OperatorIssue OptionalMemberAccess Redeclaration ReturnType
"""

_HEAD = '''\
# SPDX-License-Identifier: MIT
# ruff: noqa
# flake8: noqa
# mypy: ignore-errors
# pyright: basic, {unchecked}
#
{licence}
"""{project} {version} in one file: io_uring from pure Python.

Written by ``python -m {project}.vendor --single-file``; the manifest at the end has the options and hashes.
``python NAME.py --check`` tells whether it was modified, and ``python -m {project}.vendor --check NAME.py``,
where {project} is installed, whether it is out of date as well.

NAME is whatever this file is called:

    from NAME import __version__, {example}
    python NAME.py      # or python -m NAME: lists the commands

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
if _SECTION == "__init__" and _IS_PROGRAM:
    if _sys.argv[1:] == ["--check"]:
        import hashlib as _hashlib, json as _json, re as _re

        _text = _loader.get_data(__file__).decode("utf-8", "surrogateescape").replace("\\r\\n", "\\n")
        _text, _, _manifest = _text.partition("# ======== manifest\\n")
        _parts = _re.split(r"^(?=# ======== (\\w+)\\.py =+$)", _text, flags=_re.MULTILINE)
        _found = dict(zip(["", *_parts[1::2]], _parts[::2]))
        try:
            _manifest = _json.loads(_manifest.replace("\\n# ", "\\n")[2:])
            _expected, _version = dict(_manifest["sections"]), _manifest["version"]
        except (ValueError, KeyError, TypeError) as _error:
            print(f"{__file__}: cannot read its manifest: {_error}", file=_sys.stderr)
            _sys.exit(2)
        _names = sorted({*_expected, *_found})
        _hashes = {
            each: _hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
            for each, text in _found.items()
        }
        _bad = [each or "the head" for each in _names if _hashes.get(each) != _expected.get(each)]
        print(f"{__file__}: PROJECT {_version}")
        for _line in ["modified:", *_bad] if _bad else ["not modified"]:
            print(f"  {_line}")
        _sys.exit(1 if _bad else 0)
    import runpy as _runpy

    _runpy.run_module(f"{__name__}.__main__", run_name="__main__", alter_sys=True)

""".replace("PROJECT", PROJECT)


def _head(sections: list[str]) -> str:
    return _HEAD.format(
        licence="".join(f"# {line}".rstrip() + "\n" for line in LICENCE.splitlines()),
        unchecked=", ".join(f"report{each}=false" for each in _UNCHECKED.split()),
        project=PROJECT,
        version=version(),
        sections=json.dumps(sections[1:]),
        example="rings" if "rings" in sections else sections[1],
    )


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
        if line.startswith("# pyright:"):  # the last one of a file holds; that of the head is it
            continue
        if number == docstring:
            line = f"__doc__ = {line}"
        lines.append(f"{line}\n" if number in keep or not line else f"    {line}\n")
    while lines[-1] == "\n":
        del lines[-1]
    return "".join(lines) + "\n"


@lru_cache(maxsize=64)
def _lines_of_strings(text: str) -> tuple[frozenset[int], int, int]:
    """Find the lines that begin inside a string and so must not change; the docstring; the future.

    The docstrings of functions and classes are indented with their code: help() strips the indentation. That
    of the module is not, because it is assigned.
    """
    tree = ast.parse(text)
    expressions = (node for node in _statements(tree) if isinstance(node, ast.Expr))
    statements = {node.lineno for node in expressions if isinstance(node.value, ast.Constant)}
    docstring = tree.body[0].lineno if ast.get_docstring(tree) is not None else 0
    keep: set[int] = set()
    for first, last, _ in _strings_and_comments(text):
        if first == docstring or first not in statements:
            keep.update(range(first + 1, last + 1))
    futures = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    for node in futures:
        assert ast.unparse(node) == "from __future__ import annotations", "the one __future__ of every file"
    future = futures[0].lineno if futures else 0
    return frozenset(keep), docstring, future


# ------------------------------------------------------------------------------------------------------
# The state of a copy


class Status(NamedTuple):
    """The findings of check() about one copy."""

    path: str
    version: str
    modified: list[str]  # "rings.py: changed", "rings.py: missing", "notes.py: added"
    outdated: str  # why it differs from a new copy; "" if it does not

    @property
    def code(self) -> int:
        """Return the exit code."""
        return MODIFIED if self.modified else OUTDATED if self.outdated else DONE


def check(path: str) -> Status:
    """Compare a copy with its manifest, and its manifest with the running package.

    Args: path of the copy's folder, or of its file.
    Raises: VendorError if there is no copy.
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
        elif _digest(os.path.join(path, name)) != expected:
            modified.append(f"{name}: changed")
    if "purl" in manifest:  # older ones have no list
        sums = _sums({**manifest["files"], MANIFEST: _digest(os.path.join(path, MANIFEST))})
        if _read(os.path.join(path, SUMS)) != sums:
            modified.append(f"{SUMS}: {'changed' if SUMS in present else 'missing'}")
    # An import would find an added module, so it counts.
    modified += [f"{name}: added" for name in _added(manifest, present)]
    return manifest, sorted(modified)


def _added(manifest: dict[str, Any], present: set[str]) -> set[str]:
    return present - set(manifest["files"]) - {MANIFEST, SUMS}


def _files_in(path: str) -> Iterator[str]:
    """Yield the files of a folder, and links to folders, which are not followed."""
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if name != "__pycache__"]
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in names + links:
            yield os.path.relpath(os.path.join(folder, name), path).replace(os.sep, "/")


def _digest(path: str) -> str:
    """Hash a file as it was written; version control may have changed the line ends of text."""
    if not path.endswith(".pyc"):
        return _sha256(_read(path) or "")
    try:
        with open(path, "rb") as file:
            return _sha256(file.read())
    except OSError:
        return ""


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
    """Return the text of a file with its original line ends; None if it does not exist."""
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
            raise ValueError("made by another program, or by a newer version of this command")
        for key, kind in _KINDS[manifest["form"]].items():
            if not isinstance(manifest[key], kind):
                raise ValueError(f"{key!r} is not a {kind.__name__}")
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
    then = {name: digest for name, digest in manifest["files"].items() if not name.endswith(".pyc")}
    differ = sorted(name for name in {*now, *then} if now.get(name) != then.get(name))
    return f"the version is the same, but not: {' '.join(differ)}" if differ else ""


def _would_write(manifest: dict[str, Any]) -> dict[str, str]:
    if manifest["form"] == "file":
        return {f"{name}.py": _sha256(source(name)) for name in _sections(manifest["only"])}
    found = files(manifest["only"], minimal=manifest.get("minimal") is True)
    return {name: _sha256(text) for name, text in found.items()}


def copies_in(path: str) -> list[str]:
    """Name the copies at a path: the path itself, or those directly in that folder."""
    if not os.path.isdir(path) or os.path.exists(os.path.join(path, MANIFEST)):
        return [path]
    inside = [os.path.join(path, name) for name in sorted(os.listdir(path))]
    return [each for each in inside if _is_copy(each)]


def _is_copy(path: str) -> bool:
    if os.path.isdir(path):
        return os.path.exists(os.path.join(path, MANIFEST))
    return path.endswith(".py") and f"\n{_MANIFEST_MARK}" in (_read(path) or "")


# ------------------------------------------------------------------------------------------------------
# For the supply chain

_SUM = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)|SHA256 \((.+)\) = ([0-9a-fA-F]{64})")


def check_against(path: str, sums: str) -> list[str]:
    """Compare a copy, byte by byte, with hashes from elsewhere.

    Args: path of the copy's folder, or of its file. sums has the form of sha256sum, with or without --tag;
        its names are relative to the folder of the copy, or to the current one.
    Returns: the differences, as in Status.modified; files that the list does not name count as added.
    Raises: VendorError for a malformed or empty list.
    """
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    present = set(_files_in(path)) if os.path.isdir(path) else {os.path.basename(path)}
    listed: dict[str, str] = {}
    for number, line in enumerate(sums.splitlines(), 1):
        found = _SUM.fullmatch(line.strip())
        if found is None:
            raise VendorError(f"line {number} is not in the form of sha256sum: {line.strip()[:60]!r}")
        name, digest = found[2] or found[3], (found[1] or found[4]).lower()
        name = os.path.normpath(name).replace(os.sep, "/")
        if not os.path.lexists(os.path.join(folder, name)) and os.path.lexists(name):
            name = os.path.relpath(name, folder).replace(os.sep, "/")
        listed[name] = digest
    if not listed:
        raise VendorError("the list of hashes is empty")
    differ = [f"{name}: added" for name in present - set(listed) - {SUMS}]
    for name, digest in listed.items():
        if name not in present:
            differ.append(f"{name}: missing")
        elif _sha256(_bytes(os.path.join(folder, name))) != digest:
            differ.append(f"{name}: changed")
    return sorted(differ)


def _bytes(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def sbom(paths: Iterable[str]) -> dict[str, Any]:
    """Return the copies as a bill of materials: CycloneDX 1.5, without anything that changes with time.

    Args: paths of copies' folders or files. The hashes are those of the current files.
    Raises: VendorError if there is no copy.
    """
    components = [_component(path) for path in paths]
    return {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "components": components}


def _component(path: str) -> dict[str, Any]:
    manifest, modified = (_read_folder if os.path.isdir(path) else _read_file)(path)
    names = sorted(_files_in(path)) if os.path.isdir(path) else [""]
    files_now = {name: os.path.join(path, name) if name else path for name in names}
    same = {"type": "library", "name": PROJECT, "version": manifest["version"]}
    same["purl"] = _purl(manifest["version"])
    base = os.path.basename(os.path.abspath(path))
    how = [f"made by: {manifest.get('made_by')}", *(f"modified since: {each}" for each in modified)]
    return {
        **same,
        "bom-ref": f"{same['purl']}#{base}",
        "licenses": [{"license": {"id": "MIT"}}],
        "pedigree": {"ancestors": [same], "notes": "; ".join(how)},
        "components": [
            {
                "type": "file",
                "name": f"{base}/{name}" if name else base,
                "hashes": [{"alg": "SHA-256", "content": _sha256(_bytes(file))}],
            }
            for name, file in files_now.items()
            if os.path.isfile(file)
        ],
    }


# ------------------------------------------------------------------------------------------------------
# Writing


def copy(
    dest: str, *, only: Iterable[str] = (), one_file: bool = False, name: str = PROJECT, force: bool = False,
    minimal: bool = False, compiled: bool = False,
) -> str:
    """Write a copy, replacing an earlier one, and return its path.

    Args: dest is the folder for it; only, the wanted modules; name, the name to import it by; force
        overwrites a modified copy, and removes the files that were added to it. minimal removes docstrings
        and comments. compiled adds .pyc files of this Python, for zip files.
    Raises: VendorError if another file or a modified copy is in the way.
    """
    if not name.isidentifier() or keyword.iskeyword(name):
        raise VendorError(f"{name!r} cannot be imported; --name takes one Python identifier")
    if one_file and compiled:
        raise VendorError("--compiled needs a folder: --single-file has no separate files to compile")
    _refuse_to_copy_less(minimal)
    folder, file = os.path.join(dest, name), os.path.join(dest, f"{name}.py")
    path, other = (file, folder) if one_file else (folder, file)
    contents: dict[str, str | bytes] = (
        {"": single_file(only, minimal=minimal)}
        if one_file
        else package(only, minimal=minimal, compiled=compiled)
    )
    if os.path.exists(other):
        raise VendorError(f"{other} has the same name: remove it, or use another --name")
    stale = _old_files(path, force)
    os.makedirs(dest if one_file else path, exist_ok=True)
    for each, content in contents.items():  # the manifest is last: an interrupted copy counts as modified
        _write(os.path.join(path, each) if each else path, content)
    for each in stale - set(contents):
        _remove(path, each)
    return path


def _refuse_to_copy_less(minimal: bool) -> None:
    """Raise VendorError if the running package is itself a copy that lacks parts of the new one."""
    try:
        text = pkgutil.get_data(_package(), MANIFEST)
        manifest = json.loads(text or b"{}")
    except (OSError, ValueError):
        return
    lacks = ["some modules (--only)"] * bool(manifest.get("only"))
    lacks += ["docstrings (--minimal)"] * (manifest.get("minimal") is True and not minimal)
    if lacks:
        raise VendorError(f"this is itself a copy without {' and '.join(lacks)}: use a whole one")


def _write(path: str, content: str | bytes) -> None:
    if os.path.islink(path):  # its target is not ours
        os.remove(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    with open(path, "wb") as out:
        out.write(data)


def _remove(path: str, name: str) -> None:
    """Remove a file of a copy, and the folders that it leaves empty."""
    if os.path.lexists(os.path.join(path, name)):
        os.remove(os.path.join(path, name))
    folder = os.path.dirname(name)
    while folder and not os.listdir(os.path.join(path, folder)):
        os.rmdir(os.path.join(path, folder))
        folder = os.path.dirname(folder)


def _old_files(path: str, force: bool) -> set[str]:
    """Return the files of an earlier copy, or raise VendorError."""
    if not os.path.exists(path) or (os.path.isdir(path) and not os.listdir(path)):
        return set()
    if not _is_copy(path):
        raise VendorError(f"{path} exists, and is not a copy of {PROJECT}: remove it, or use another --name")
    manifest, modified = (_read_folder if os.path.isdir(path) else _read_file)(path)
    if modified and not force:
        raise VendorError(
            f"{path} was modified ({', '.join(modified)}): --force overwrites changed files, and removes "
            "added files",
            MODIFIED,
        )
    if not os.path.isdir(path):
        return set()
    # None of its files has a name that leads out of the folder.
    present = set(_files_in(path))
    return (set(manifest["files"]) | {SUMS}) & present | (_added(manifest, present) if force else set())


# ------------------------------------------------------------------------------------------------------
# The command


def main(arguments: list[str] | None = None) -> int:
    """Run the command.

    Args: arguments without the program's name; by default those of the process.
    Returns: the exit code: 0 good, 1 modified, 2 wrong usage or no such copy, 3 out of date.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.against and not options.check:
        parser.error("--against belongs to --check")
    if options.dest is None and not (options.check or options.sbom):
        parser.error("DEST is missing: the folder for the copy")
    dest = options.dest or os.path.dirname(os.path.abspath(str(sys.modules[_package()].__file__)))
    only = [part for each in options.only for part in each.split(",") if part]
    try:
        if options.sbom:
            return _print_sbom(dest)
        if options.against:
            return _print_against(dest, options.against)
        if options.check:
            return _print_check(dest)
        path = copy(
            dest, only=only, one_file=options.single_file, name=options.name, force=options.force,
            minimal=options.minimal, compiled=options.compiled,
        )  # fmt: skip
    except VendorError as error:
        print(error, file=sys.stderr)
        return error.code
    names = [name for name in _names(only) if name != "vendor" or not options.single_file]
    print(f"{path}: {PROJECT} {version()} ({' '.join(names)})")
    return DONE


def _parser() -> Any:
    import argparse

    parser = argparse.ArgumentParser(
        prog=f"python -m {PROJECT}.vendor",
        description="Copy the package into another project, or check such a copy.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "dest", metavar="DEST", nargs="?", help="the folder for the copy, or the copy to check"
    )
    parser.add_argument(
        "--only", metavar="MODULE", action="append", default=[],
        help="copy this module and those that it needs; repeatable",
    )  # fmt: skip
    parser.add_argument("--single-file", action="store_true", help="write one file instead of a folder")
    parser.add_argument("--minimal", action="store_true", help="remove docstrings and comments")
    parser.add_argument(
        "--compiled", action="store_true",
        help="add the .pyc files of this Python: in a zip, nothing is compiled at start",
    )  # fmt: skip
    parser.add_argument("--name", default=PROJECT, help="the name of the copy (default: %(default)s)")
    parser.add_argument(
        "--force", action="store_true", help="overwrite a modified copy, and remove added files"
    )
    parser.add_argument("--check", action="store_true", help="tell whether a copy is modified or out of date")
    parser.add_argument(
        "--against", metavar="FILE", help="with --check: compare with these hashes, as sha256sum prints them"
    )
    parser.add_argument("--sbom", action="store_true", help="print a copy as a CycloneDX bill of materials")
    return parser


def _copies_at(path: str) -> list[str]:
    copies = copies_in(path)
    if not copies:
        raise VendorError(f"{path}: no copy of {PROJECT} in it")
    return copies


def _print_sbom(path: str) -> int:
    print(json.dumps(sbom(_copies_at(path)), indent=1, sort_keys=True))
    return DONE


def _print_against(path: str, against: str) -> int:
    try:
        sums = sys.stdin.read() if against == "-" else _bytes(against).decode("utf-8", "replace")
    except OSError as error:
        raise VendorError(f"{against}: {error.strerror}") from None
    differ = check_against(path, sums)
    print(f"{path}:", *(differ or ["as listed"]), sep="\n  ")
    return MODIFIED if differ else DONE


def _print_check(path: str) -> int:
    codes = set()
    for status in map(check, _copies_at(path)):
        codes.add(status.code)
        print(f"{status.path}: {PROJECT} {status.version}")
        for line in ["modified:", *status.modified] if status.modified else ["not modified"]:
            print(f"  {line}")
        print(f"  out of date: {status.outdated}" if status.outdated else "  up to date")
    return next(code for code in (MODIFIED, OUTDATED, DONE) if code in codes)


if __name__ == "__main__":
    command.run(main)
