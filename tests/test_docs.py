# SPDX-License-Identifier: MIT
"""The documentation is correct: snippets run, links resolve, generated parts are up to date.

What it is: each python block of README.md and docs/ is a test. A block that is followed by a text block
prints exactly that. A comment before it, "needs: FEATURE (5.6)", names its requirement.
Must not know: the content of the pages.
Invariant: nothing here reaches the network.
Read next: docs/index.md.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import driver
import pytest
from refusal import io_uring_refusal

import rawuring

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?:<!-- needs: (?P<needs>[^>]*?) -->\n)?```python\n(?P<code>.*?)```\n"
    r"(?:\n```text\n(?P<prints>.*?)```)?",
    re.DOTALL,
)

pytestmark = pytest.mark.skipif(not (ROOT / "docs").exists(), reason="docs/ in this copy")


class Snippet(NamedTuple):
    """One block of code of a page."""

    page: Path
    line: int
    needs: str
    code: str
    prints: str | None


def snippets():
    for page in (*PAGES, ROOT / "SECURITY.md"):
        text = page.read_text(encoding="utf-8")
        for found in BLOCK.finditer(text):
            line = text[: found.start("code")].count("\n") + 1
            yield Snippet(page, line, found["needs"] or "", found["code"], found["prints"])


SNIPPETS = list(snippets())


def name(snippet):
    return f"{snippet.page.relative_to(ROOT).as_posix()}:{snippet.line}"


def skip_where_it_cannot_run(needs: str) -> None:
    if not needs:
        return
    if io_uring_refusal():
        pytest.skip(f"{needs}: {io_uring_refusal()}")
    since = re.search(r"\((\d+\.\d+)\)", needs)
    if since and driver.kernel_release() < driver.release(since[1]):
        pytest.skip(f"{needs}: this is {os.uname().release}")


@pytest.mark.parametrize("snippet", SNIPPETS, ids=name)
def test_snippet_when_run_then_it_prints_what_the_page_says(snippet):
    if snippet.page.name == "README.md":
        pytest.skip("run by tests/test_readme.py as examples/readme.py, of which it is a copy")
    skip_where_it_cannot_run(snippet.needs)
    script = compile(snippet.code, f"{name(snippet)}", "exec")
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(script, {"__name__": "__main__", "__file__": str(snippet.page)})
    if snippet.prints is not None:
        assert out.getvalue() == snippet.prints


# asyncio and tempfile look for Windows features when they are imported.
ELSEWHERE = """
import asyncio, contextlib, ctypes, io, json, os, sys, tempfile

def no_libc(*arguments, **options):
    raise OSError("there is no such library")

sys.platform, ctypes.CDLL = "win32", no_libc
del os.uname, os.register_at_fork
for name, code, prints in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, name, "exec"), {"__name__": "__main__"})
    assert prints in (None, out.getvalue()), (name, out.getvalue())
"""


def test_snippets_that_need_no_kernel_when_on_another_system_then_they_print_the_same():
    anywhere = [
        (name(snippet), snippet.code, snippet.prints)
        for snippet in SNIPPETS
        if not snippet.needs and snippet.page.name != "README.md"
    ]
    assert len(anywhere) > 10
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE], input=json.dumps(anywhere), cwd=ROOT, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_snippets_when_counted_then_each_python_fence_is_one():
    pages = (*PAGES, *(page for page in ROOT.glob("*.md") if page not in PAGES))
    fences = sum(page.read_text(encoding="utf-8").count("```python") for page in pages)
    assert fences == len(SNIPPETS) > 20


def test_confusions_when_counted_then_twelve_and_each_has_a_program():
    text = (ROOT / "docs" / "confusions.md").read_text(encoding="utf-8")
    parts = re.split(r"^## \d+\. ", text, flags=re.MULTILINE)[1:]
    assert len(parts) == 12
    assert all("```python" in part and "```text" in part for part in parts)


# ------------------------------------------------------------------------------------------------------
# Links


def prose(page: Path) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_of_a_page_then_they_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", prose(page)):
        if "://" in target:
            assert re.fullmatch(r"https://[\w.-]+(/[\w./~%#?=&+-]*)?", target), target
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(there), f"{page.name}: {target}"


def test_pages_when_listed_then_each_is_in_the_site():
    listed = set(re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert listed == {page.relative_to(ROOT / "docs").as_posix() for page in PAGES[1:]}


def test_pages_and_pictures_then_links_lead_to_each_from_the_first():
    """By links alone: a code host does not show the site's menu."""
    docs = ROOT / "docs"
    waiting, reached = [docs / "index.md"], set()
    while waiting:
        page = waiting.pop()
        if page not in reached:
            reached.add(page)
            links = re.findall(r"\]\(([^)#:]+)", prose(page)) if page.suffix == ".md" else []
            waiting += [(page.parent / link).resolve() for link in links]
    assert {*docs.rglob("*.md"), *docs.rglob("*.svg")} <= reached


def test_examples_when_listed_then_each_is_on_the_page():
    text = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    names = {path.name for path in (ROOT / "examples").glob("*.py")} - {"readme.py"}
    assert set(re.findall(r"\(\.\./examples/(\w+\.py)\)", text)) == names


def test_pages_when_read_in_order_then_next_is_the_next_of_the_menu():
    menu = re.findall(r": ([\w-]+)\.md$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert menu[0] == "index"  # which links to the rest
    for page, following in zip(menu[1:], menu[2:]):
        text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
        assert re.findall(r"^Next: .*\]\((.*)\.md\)", text, re.MULTILINE) == [following], page
    assert "\nNext: " not in (ROOT / "docs" / f"{menu[-1]}.md").read_text(encoding="utf-8")


def test_commands_named_in_the_pages_then_they_have_these_options():
    helps = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")  # held to --help by test_man_page.py
    named = re.compile(r"(?:^    |`|\$ )python3? -m rawuring\.(\w+)([^`#\n]*)", re.MULTILINE)
    count = 0
    for page in PAGES:
        for name, rest in named.findall(page.read_text(encoding="utf-8")):
            part = helps.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
            for option in re.findall(r" (-[a-z]|--[a-z-]+)(?= |$)", rest):
                assert re.search(rf"[`\s]{option}\b", part), f"{page.name}: {name} {option}"
                count += 1
    assert count > 20


def test_files_named_in_the_pages_then_they_exist():
    named = re.compile(r"`((?:rawuring|tests|tools|examples)/[\w/]+\.\w+)`")
    for page in PAGES[1:]:
        for found in named.findall(page.read_text(encoding="utf-8")):
            assert (ROOT / found).exists(), f"{page.name}: {found}"


def test_functions_in_the_tables_of_the_reading_pages_then_the_files_have_them():
    pages = (
        ("reading-rings.md", 1, ("queues", "handle", "rings")),
        ("reading-fdmon.md", 2, ("monitor", "fdmon")),
    )
    for page, column, files in pages:
        text = "".join((ROOT / "rawuring" / f"{name}.py").read_text(encoding="utf-8") for name in files)
        defined = set(re.findall(r"(?:def|class) (\w+)", text))
        rows = re.findall(r"^\| `.*", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.MULTILINE)
        cells = [row.split("|")[column] for row in rows]
        named = {name for cell in cells for name in re.findall(r"`(\w+)(?:\(\))?`", cell)}
        assert len(named) > 5
        assert named <= defined, page


# ------------------------------------------------------------------------------------------------------
# Generated parts


def build_docs():
    spec = importlib.util.spec_from_file_location("build_docs", ROOT / "tools" / "build_docs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_and_pictures_then_up_to_date():
    assert build_docs().outdated() == [], "run python3 tools/build_docs.py"


def test_build_docs_when_checked_then_the_exit_code_tells(tmp_path):
    command = [sys.executable, str(ROOT / "tools" / "build_docs.py"), "--check"]
    done = subprocess.run(command, timeout=120, check=False)
    assert done.returncode == 0


# ------------------------------------------------------------------------------------------------------
# The API reference: the input of mkdocstrings. build_docs.py --site checks that the site has every name.

DOCSTRING = """Cancel requests by user_data.

    Ring.submit() takes *args, `res` and ``2**56``; a list:

    * one of IORING_OP_*
    * x < y [1]

        block = Block(32)

    Args: target is a mask
        of IOSQE_*.
    Lifetime: until submit returns.
    """


def test_docstring_as_markdown_then_sections_are_a_list_and_nothing_is_lost():
    assert build_docs().markdown(DOCSTRING) == "\n\n".join((
        "Cancel requests by `user_data`.",
        "`Ring.submit()` takes \\*args, `res` and `2**56`; a list:",
        "* one of `IORING_OP_*`\n* x \\< y \\[1\\]",
        "```python\nblock = Block(32)\n```",
        "Args\n:   target is a mask of `IOSQE_*`.",
        "Lifetime\n:   until submit returns.",
    ))  # fmt: skip


def test_docstring_that_names_others_then_links_to_them():
    tool = build_docs()
    assert tool.markdown("buffers.pin(), not nowhere.pin(). See ops.py.") == (
        "[`buffers.pin()`][rawuring.buffers.pin], not `nowhere.pin()`. See [`ops.py`][rawuring.ops]."
    )


def test_every_docstring_as_markdown_then_each_word_is_still_there():
    """Compared without markup and spaces, which alone may change."""
    tool = build_docs()
    plain = re.compile(r"[\s`\\:]|\]\[rawuring[\w.]*\]|\[(?=`)|```(?:text|python)")
    count = 0
    for module in tool.MODULES:
        for node in ast.walk(tool.parse(module)):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                said = ast.get_docstring(node) or ""
                shown = re.sub(r"```(?:text|python)\n", "", tool.markdown(said))
                assert plain.sub("", shown) == plain.sub("", said), f"{module}: {said[:60]}"
                count += bool(said)
    assert count > 1000


def test_names_of_the_package_then_the_index_of_the_reference_has_each():
    text = build_docs().api_index()
    assert all(f"`{name}`" in text for name in rawuring.__all__ if name != "__version__")
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert menu.rstrip().rpartition("\n")[2].startswith("   "), "the reference is added after the menu"
    assert menu.count(build_docs().TOUR) == 1


def test_pages_when_they_name_a_test_then_it_exists() -> None:
    sources = [file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("*.py")]
    known = {each for text in sources for each in re.findall(r"def (test_\w+)", text)}
    for page in (*PAGES, ROOT / "SECURITY.md", ROOT / "DESIGN.md"):
        for named, dots in re.findall(r"`(test_\w+)(\.\.\.)?`", page.read_text(encoding="utf-8")):
            found = named in known or (dots and any(each.startswith(named) for each in known))
            assert found, f"{page.name}: {named}"
