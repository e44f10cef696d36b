# SPDX-License-Identifier: MIT
"""The form of the docstrings, the first line of every file, the length of every function.

What it is: the style guide as far as a program can check it.
Must not know: the claims of a docstring, which other tests check.
Invariant: the files are parsed, never imported, so that a broken one is checked as well.
Read next: the file that failed.
"""

from __future__ import annotations

import ast
import inspect
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Union

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
KEYS = ("Args", "Returns", "CQE", "Raises", "Lifetime", "Threads", "Since", "Mirrors", "Source")
LIFETIMES = ("none", "until submit returns", "until the final CQE", "until the notification CQE")
# Defaults that a module's head states for all its functions, and that a docstring must not repeat.
DEFAULTS = {
    "Lifetime": {"memory passed to a call may be freed when the call returns": ("none.",)},
    "Threads": {
        "any thread may call": ("any.",),
        "only the thread that owns a ring may use it": ("the owner only.", "the ring's owner only."),
        "only the waiter, the thread that calls wait(), may call": ("the waiter only.",),
    },
    "Since": {
        "Linux 5.1 suffices": ("5.1", "Linux 5.1", "5.1."),
        "Linux 5.5 suffices": ("5.5", "Linux 5.5", "5.5."),
    },
}
FUNCTION_LINES_MAX = 70

Function = (ast.FunctionDef, ast.AsyncFunctionDef)
Documented = Union[ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef]

MODULES = sorted((CHECKOUT / "rawuring").glob("*.py"))
FOLDERS = ("tests", "tools", "examples", "bench")
FILES = [*MODULES, *sorted(path for folder in FOLDERS for path in (CHECKOUT / folder).rglob("*.py"))]


def name_of(path: Path) -> str:
    """Name a file in the test's id."""
    return path.relative_to(CHECKOUT).as_posix()


def parse(path: Path) -> ast.Module:
    """Parse a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def definitions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, Documented]]:
    """Yield the functions, classes and methods that can be reached from outside, with their names."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (*Function, ast.ClassDef)):
            yield prefix + child.name, child
            if isinstance(child, ast.ClassDef):
                yield from definitions(child, f"{prefix}{child.name}.")
        elif isinstance(child, (ast.If, ast.Try)):
            yield from definitions(child, prefix)


def is_public(name: str) -> bool:
    """Tell whether no part of a dotted name is private; what Python itself calls counts as private."""
    return not any(part.startswith("_") for part in name.split("."))


def is_second_half(node: Documented) -> bool:
    """Tell whether the docstring belongs elsewhere: to a property's getter, an overload's implementation."""
    decorators = {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}
    return bool(decorators & {"setter", "deleter", "overload"})


def complaints(name: str, docstring: str, is_class: bool = False) -> Iterator[str]:
    """Yield the faults of one docstring; that of a class may be a noun phrase."""
    lines = docstring.splitlines()
    first = lines[0]
    if not first.endswith("."):
        yield "the first line does not end with '.'"
    if re.search(r"[.!?]\s+[A-Z]", first):
        yield "the first line is more than one sentence"
    if not is_class and not is_imperative(first):
        yield "the first line does not start with an imperative"
    if len(lines) > 1 and lines[1]:
        yield "no empty line after the first"
    keys = dict(re.findall(r"^([A-Z]\w*):(?: +|$)(.*)", docstring, re.MULTILINE))
    found = re.findall(r"^([A-Z]\w*):(?: |$)", docstring, re.MULTILINE)
    if unknown := [key for key in found if key not in KEYS]:
        yield f"unknown keys: {unknown}"
    elif found != sorted(set(found), key=KEYS.index):
        yield f"keys out of order or twice: {found}"
    if "Lifetime" in keys and not keys["Lifetime"].startswith(LIFETIMES):
        yield f"Lifetime is none of the four: {keys['Lifetime']!r}"
    if "Since" in keys and not re.search(r"\d+\.\d+", keys["Since"]):
        yield f"Since names no kernel: {keys['Since']!r}"
    if name.startswith("prep_") and (missing := {"CQE", "Mirrors"} - set(keys)):
        yield f"an operation lacks {sorted(missing)}"


def defaults_of(head: str) -> dict[str, tuple[str, ...]]:
    """Return how a docstring would repeat each default of the head, by key."""
    said = next((p for p in head.split("\n\n") if p.startswith("Unless said otherwise, ")), "")
    said = " ".join(said.split())
    found = {}
    for key, sentences in DEFAULTS.items():
        for sentence, repeated in sentences.items():
            if sentence in said:
                found[key] = repeated
    return found


def idle_keys(docstring: str, defaults: dict[str, tuple[str, ...]]) -> Iterator[str]:
    """Yield the conflicts of one docstring with the defaults of its module."""
    for key, value in re.findall(r"^(Lifetime|Threads|Since): +(.*(?:\n +.*)*)", docstring, re.MULTILINE):
        if key not in defaults:
            yield f"{key} without a default in the module's head"
        elif value in defaults[key]:
            yield f"says the module's default: {key}: {value}"


def is_imperative(sentence: str) -> bool:
    """Tell whether a sentence may be an imperative: no article, no 'returns', no 'returning'."""
    word = sentence.split()[0]
    if not word[0].isupper() or word in ("A", "An", "The", "This", "These", "It", "Its"):
        return False
    if word.endswith("s"):
        return word.endswith(("ss", "us"))
    return not word.endswith("ing") or word in ("Bring", "String", "Ring", "Ping")


# ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_public_definitions_when_read_then_docstrings_have_the_agreed_form(path: Path) -> None:
    wrong = []
    for name, node in definitions(parse(path)):
        if is_public(name) and not is_second_half(node):
            docstring = ast.get_docstring(node)
            is_class = isinstance(node, ast.ClassDef)
            found = complaints(name, docstring, is_class) if docstring else ["no docstring"]
            wrong += [f"{node.lineno} {name}: {complaint}" for complaint in found]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_docstrings_when_read_then_the_head_says_the_defaults_and_they_only_what_differs(path: Path) -> None:
    tree = parse(path)
    defaults = defaults_of(ast.get_docstring(tree) or "")
    wrong = [
        f"{node.lineno} {name}: {complaint}"
        for name, node in definitions(tree)
        for complaint in idle_keys(ast.get_docstring(node) or "", defaults)
    ]
    assert not wrong, "\n".join(wrong)


def test_package_when_read_then_its_head_says_the_defaults_of_all_modules() -> None:
    head = ast.get_docstring(parse(CHECKOUT / "rawuring" / "__init__.py")) or ""
    assert set(defaults_of(head)) == set(DEFAULTS)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_file_when_read_then_licence_first_and_docstring_next(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    if lines and lines[0].startswith("#!"):
        lines.pop(0)
    assert lines[:1] == ["# SPDX-License-Identifier: MIT"]
    docstring = ast.get_docstring(parse(path))
    assert docstring
    assert docstring.splitlines()[0].endswith((".", "?")), "the list of modules shows this line alone"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_functions_when_measured_then_none_is_too_long(path: Path) -> None:
    long = [f"{name}: {lines}" for name, lines in function_lines(path) if lines > FUNCTION_LINES_MAX]
    assert not long, f"over {FUNCTION_LINES_MAX} lines without docstring: {long}"


def test_functions_when_measured_then_the_lengths_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Printed, not asserted: aim for a median of 10 and nine of ten within 30."""
    lengths = sorted(lines for path in MODULES for _, lines in function_lines(path))
    p90 = lengths[len(lengths) * 9 // 10]
    with capsys.disabled():
        print(f"\nfunction lines: median {statistics.median(lengths):g}, p90 {p90}, max {lengths[-1]}")


def function_lines(path: Path) -> list[tuple[str, int]]:
    """Measure all functions of a file, private and nested ones too, without their docstrings."""
    found = []
    for node in ast.walk(parse(path)):
        if isinstance(node, Function):
            body = node.body[0]
            has_docstring = ast.get_docstring(node, clean=False) is not None
            docstring = (body.end_lineno or 0) - body.lineno + 1 if has_docstring else 0
            found.append((node.name, (node.end_lineno or 0) - node.lineno + 1 - docstring))
    return found


# ------------------------------------------------------------------------------------------------------
# The checks themselves


GOOD = """
    Read bytes of a file.

    Free text may stand here.

    Args: nbytes in bytes.
    CQE: bytes read.
    Lifetime: until the final CQE.
    Since: 5.6
    Mirrors: liburing io_uring_prep_read
"""


def test_check_when_the_form_is_right_then_no_complaint() -> None:
    assert list(complaints("prep_read", inspect.cleandoc(GOOD))) == []


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("a file.", "a file", "end with"),
        ("a file.", "a file. Or not.", "more than one"),
        ("Read", "Reads", "imperative"),
        ("Read", "Reading", "imperative"),
        ("Read", "The", "imperative"),
        ("file.\n", "file.\n    More.", "empty line"),
        ("Args:", "Note:", "unknown"),
        ("Args:", "Since:", "order"),
        ("Args: nbytes in bytes.\n    CQE: bytes read.", "CQE: x\n    Args: y", "order"),
        ("until the final CQE", "for ever", "none of the four"),
        ("5.6", "long ago", "kernel"),
        ("CQE: bytes read.", "", "lacks ['CQE']"),
    ],
)
def test_check_when_the_form_is_wrong_then_it_says_so(old: str, new: str, complaint: str) -> None:
    assert old in GOOD
    found = list(complaints("prep_read", inspect.cleandoc(GOOD.replace(old, new, 1))))
    assert any(complaint in text for text in found), found


HEAD = """Say something.

Unless said otherwise, memory passed to a call may be freed when the call returns, any thread may call, and
Linux 5.1 suffices.
"""


@pytest.mark.parametrize(
    ("line", "head", "complaint"),
    [
        ("Lifetime: none.", HEAD, "default"),
        ("Lifetime: none; push copies.", HEAD, ""),
        ("Threads: any.", HEAD, "default"),
        ("Threads: the owner only.", HEAD, ""),
        ("Threads: the owner only.", "Say something.", "head"),
        ("Since: 5.1", HEAD, "default"),
        ("Since: 5.1", "Say something.", "head"),
        ("Since: 5.1; 5.4 for the timeout", HEAD, ""),
    ],
)
def test_check_when_a_default_is_said_again_then_it_says_so(line: str, head: str, complaint: str) -> None:
    found = list(idle_keys(f"Do it.\n\n{line}", defaults_of(head)))
    assert bool(found) == bool(complaint) and complaint in "".join(found), found
