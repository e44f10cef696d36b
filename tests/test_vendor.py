# SPDX-License-Identifier: MIT
"""python -m rawuring.vendor: the copied files, the one-file form, the results of --check.

What it is: the tests of the tool; tools/test_copies.py runs the library's tests on its copies.
Must not know: which modules the package has.
Invariant: nothing is written outside of the test's own folder.
Read next: rawuring/vendor.py.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tokenize
import zipfile
from pathlib import Path

import pytest
import test_probe
import test_probe_denied

import rawuring
from rawuring import command as command_module, vendor

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "rawuring"
MODULES = vendor.modules()
IN_ONE_FILE = [name for name in MODULES if name != "vendor"]


def test_modules_then_in_the_order_of_reading():
    """The chain of "Read next: ..." in the files is the list of docs/modules.md."""
    lines = (ROOT / "docs" / "modules.md").read_text(encoding="utf-8").splitlines()
    listed = [line.split("`")[1][:-3] for line in lines if line.startswith("| `") and ".py` |" in line]
    assert [name for name in listed if name in IN_ONE_FILE] == IN_ONE_FILE


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess:
    """Run a bare interpreter."""
    return subprocess.run(
        [sys.executable, "-S", "-W", "error", *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, check=False, timeout=120,
    )


def command(*arguments: object) -> int:
    """Run the command here; return its exit code."""
    return vendor.main([str(argument) for argument in arguments])


# ------------------------------------------------------------------------------------------------------
# Dependencies


def test_modules_then_all_files_and_each_after_what_it_imports():
    assert set(MODULES) == {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    for position, name in enumerate(MODULES):
        assert vendor.imports(name, MODULES) <= set(MODULES[:position])


@pytest.mark.parametrize("name", MODULES)
def test_imports_then_those_that_a_search_of_the_text_finds(name):
    """An outside oracle, which does not parse trees."""
    found = set()
    text = re.sub(r"^if TYPE_CHECKING:\n(    .*\n|\n)*", "", vendor.source(name), flags=re.MULTILINE)
    for line in text.splitlines():
        words = line.split()
        if words[:2] == ["from", "."]:
            found.update(word.strip(",()") for word in words[3:])
        elif len(words) > 2 and words[0] == "from" and words[1].startswith(".") and words[2] == "import":
            found.add(words[1][1:])
    assert vendor.imports(name, MODULES) == found & set(MODULES)


def test_closure_then_imports_inside_functions_count_and_imports_for_types_do_not(tmp_path, monkeypatch):
    texts = {
        "a": "def f():\n    if x:\n        from .b import y\n",
        "b": "if TYPE_CHECKING:\n    from . import d\nelse:\n    from . import c\n",
        "c": "from . import __version__\n",
        "d": "",
    }
    monkeypatch.setattr(vendor, "source", texts.get)
    monkeypatch.setattr(vendor, "modules", lambda: ["d", "c", "b", "a"])
    assert vendor.closure(["a"]) == ["c", "b", "a"]
    assert vendor.closure(["b", "d"]) == ["d", "c", "b"]


def test_closure_when_no_such_module_then_an_error_that_names_them():
    with pytest.raises(vendor.VendorError, match=r"no module 'fdmonn'; the modules are: .*fdmon"):
        vendor.closure(["fdmonn"])


@pytest.mark.long
@pytest.mark.parametrize("one_file", [False, True])
def test_each_module_alone_then_it_imports_with_nothing_else_there(tmp_path, one_file):
    wanted = [name for name in MODULES if not one_file or name != "vendor"]
    for name in wanted:
        vendor.copy(str(tmp_path / "_vendor"), only=[name], name=f"only_{name}", one_file=one_file)
    code = (
        "import sys, importlib; sys.path.insert(0, sys.argv[1])\n"
        "for name in sys.argv[2].split():\n    importlib.import_module(f'_vendor.only_{name}.{name}')"
    )
    done = run("-I", "-c", code, tmp_path, " ".join(wanted), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_dynamic_imports_then_only_in_init():
    """The closure follows only import statements: not every part needs debug.py."""
    for name in MODULES:
        assert ("import_module(" in vendor.source(name)) is (name in ("handle", "files")), name
        assert "__import__(" not in vendor.source(name), name


@pytest.mark.requires_io_uring
@pytest.mark.parametrize(("only", "warned"), [("inflight", True), ("debug", False)])
def test_debug_mode_in_a_part_then_it_works_or_a_warning_says_that_it_is_not_there(tmp_path, only, warned):
    vendor.copy(str(tmp_path / "_vendor"), only=[only], name="part")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from _vendor.part import inflight, rings\n"
        "with rings.Ring(2) as ring:\n"
        "    print(hasattr(inflight.InFlight(ring), 'owner_of'), hasattr(ring, 'check'))"
    )
    env = {**os.environ, "RAWURING_DEBUG": "1", "RAWURING_DEBUG_LOG": "-"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert ("has no debug mode" in done.stderr) is warned
    assert done.stdout == ("False False\n" if warned else "True True\n")


# ------------------------------------------------------------------------------------------------------
# A copy


def test_folder_then_the_files_as_they_are_with_licence_version_and_hashes(tmp_path, capsys):
    assert command(tmp_path, "--name", "ring") == vendor.DONE
    copy = tmp_path / "ring"
    files = {path.name for path in copy.iterdir()}
    made = {"LICENSE", "py.typed", "VENDORED.json", "SHA256SUMS", "__main__.py"}
    assert files == {path.name for path in PACKAGE.glob("*.py")} | made
    for path in PACKAGE.glob("*.py"):
        assert (copy / path.name).read_bytes() == path.read_bytes()
    assert (copy / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    manifest = json.loads((copy / "VENDORED.json").read_text())
    assert manifest["version"] == rawuring.__version__
    assert (manifest["schema"], manifest["name"], manifest["only"]) == (1, "rawuring", [])
    assert manifest["licence"] == "MIT"
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((copy / name).read_bytes()).hexdigest() == digest
    assert set(manifest["files"]) == files - {"VENDORED.json", "SHA256SUMS"}
    assert str(tmp_path) not in (copy / "VENDORED.json").read_text()
    assert capsys.readouterr().out.startswith(f"{copy}: rawuring {rawuring.__version__} (uapi ")


def test_one_file_then_it_carries_licence_version_and_hashes(tmp_path):
    text = vendor.single_file(["ops"])
    for line in (ROOT / "LICENSE").read_text().splitlines():
        assert f"\n# {line}".rstrip() + "\n" in text
    manifest = json.loads(text.partition("# ======== manifest\n")[2].replace("\n# ", "\n")[2:])
    assert (manifest["version"], manifest["only"]) == (rawuring.__version__, ["ops"])
    assert set(manifest["files"]) == {"__init__.py", "__main__.py", "uapi.py", "ops.py"}
    assert manifest["files"]["ops.py"] == hashlib.sha256((PACKAGE / "ops.py").read_bytes()).hexdigest()


@pytest.mark.long
def test_copies_when_made_again_elsewhere_by_another_process_then_the_same_bytes(tmp_path):
    kinds = ((), ("--single-file", "--name=one"), ("--name=part", "--only=fdmon", "--only=ops"))
    for folder, seed in (("a", "1"), ("b", "2")):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT), "TZ": f"X{seed}"}
        for options in kinds:
            command = [sys.executable, "-m", "rawuring.vendor", str(tmp_path / folder), *options]
            subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL, timeout=60)
    found = [
        {path.relative_to(tmp_path / each): path.read_bytes() for path in (tmp_path / each).rglob("*.*")}
        for each in "ab"
    ]
    assert found[0] == found[1] and len(found[0]) > 20


OTHER_PYTHONS = sorted(
    str(path)
    for pattern in (".pyenv/versions/3.9.*", ".pyenv/versions/3.1[0-9].*")
    for path in Path.home().glob(f"{pattern}/bin/python")
)
DIGEST = """
import hashlib, json, sys
sys.path.insert(0, sys.argv[1])
from rawuring import vendor
found = [vendor.single_file(), json.dumps(vendor.package(minimal=True))]
print(*(hashlib.sha256(each.encode()).hexdigest() for each in found))
"""


@pytest.mark.long
@pytest.mark.skipif(not OTHER_PYTHONS, reason="another Python")
def test_copies_when_made_by_other_pythons_then_the_same_bytes(tmp_path):
    digests = {
        python: subprocess.run(
            [python, "-I", "-c", DIGEST, str(ROOT)], capture_output=True, text=True, check=True, timeout=120
        ).stdout.split()
        for python in [sys.executable, *OTHER_PYTHONS]
    }
    assert len(digests[sys.executable]) == 2
    for python, digest in digests.items():
        assert digest == digests[sys.executable], python


def test_order_of_options_then_the_same_bytes():
    assert vendor.single_file(["ops", "fdmon"]) == vendor.single_file(["fdmon", "ops", "fdmon"])
    assert vendor.package(["ops", "fdmon"]) == vendor.package(["fdmon", "ops"])


@pytest.mark.long
def test_copy_of_a_copy_then_the_same(tmp_path):
    vendor.copy(str(tmp_path / "host"), name="ring")
    done = run("-m", "host.ring.vendor", "again", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = tmp_path / "host" / "ring", tmp_path / "again" / "rawuring"
    for path in second.iterdir():
        assert path.read_bytes() == (first / path.name).read_bytes()
    assert run("-m", "host.ring.vendor", "--check", "host", cwd=tmp_path).returncode == 0


def test_package_in_a_zip_then_it_can_be_copied(tmp_path):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in PACKAGE.glob("*.py"):
            archive.write(path, f"rawuring/{path.name}")
    code = "import sys; sys.path.insert(0, 'all.zip'); from rawuring import vendor; vendor.copy('out')"
    done = run("-I", "-c", code, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert vendor.check(str(tmp_path / "out" / "rawuring")).code == vendor.DONE


@pytest.mark.parametrize("name", ["my-ring", "class", "1", "", "a.b", "../x"])
def test_name_that_cannot_be_imported_then_refused(tmp_path, name, capsys):
    assert command(tmp_path, f"--name={name}") == vendor.USAGE
    assert "identifier" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_vendor_in_one_file_then_refused(tmp_path, capsys):
    assert command(tmp_path, "--single-file", "--only", "vendor") == vendor.USAGE
    assert "copies files" in capsys.readouterr().err


PAGE = re.findall(r"python3 -m rawuring\.vendor ([^`\n]*)", (ROOT / "docs" / "vendoring.md").read_text())


@pytest.mark.long
@pytest.mark.parametrize("arguments", PAGE)
def test_commands_of_the_page_then_they_do_what_they_say(tmp_path, arguments, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if "--against" in arguments:
        vendor.copy("host/_vendor", only=["ops"])
        shutil.copy("host/_vendor/rawuring/SHA256SUMS", "FILE")
    elif "--check" in arguments or "--sbom" in arguments:
        vendor.copy("host/_vendor", one_file=True, only=["ops"])
    assert command(*arguments.split()) == vendor.DONE
    assert command("--check", "host/_vendor") == vendor.DONE
    if "--name ring" in arguments:
        done = run("-m", "host._vendor.ring.probe", "--quiet", cwd=tmp_path)
        assert done.stdout.startswith("io_uring:") and not done.stderr


def test_page_then_it_shows_each_way_to_copy():
    assert len(PAGE) == 9
    options = ("--only", "--single-file", "--check", "--minimal", "--compiled", "--sbom", "--against")
    assert all(any(option in each for each in PAGE) for option in options)


# ------------------------------------------------------------------------------------------------------
# Partial copies, and omissions


@pytest.mark.parametrize("one_file", [False, True])
@pytest.mark.parametrize("only", ["fdmon", "gates", "inflight", "uapi"])
def test_part_then_its_names_are_those_of_the_modules_that_are_there(tmp_path, only, one_file):
    vendor.copy(str(tmp_path), name="part", only=[only], one_file=one_file)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\nimport part\nfrom part import *\n"
        "assert {name for name in part.__all__ if name != '__version__'} == set(part._HOME)\n"
        "print(*sorted(part.__all__))"
    )
    done = run("-I", "-c", code, tmp_path, cwd=tmp_path)
    present = set(vendor.closure([only]))
    expected = {name for name, home in rawuring._HOME.items() if home in present}
    assert done.stderr == ""
    assert set(done.stdout.split()) == expected | {"__version__"}


def test_part_then_what_type_checkers_see_is_there_too():
    text = vendor.files(["fdmon"])["__init__.py"]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.level:
            modules = {node.module} if node.module else {alias.name for alias in node.names}
            assert modules <= set(vendor.closure(["fdmon"]))
    assert "\n    pass\nelse:\n" in vendor.files(["gates"])["__init__.py"]


@pytest.mark.parametrize("name", ["__init__", *MODULES])
def test_module_then_it_says_how_strictly_pyright_is_to_check_it(name):
    """Otherwise the settings of a copy's host would apply: tools/test_copies.py --types."""
    assert vendor.source(name).splitlines()[1] == "# pyright: basic"


@pytest.mark.parametrize("name", MODULES)
def test_imports_for_types_then_they_are_in_the_closure(name):
    """A part that lacks one would fail in a type checker."""
    wanted = set()
    for node in ast.walk(ast.parse(vendor.source(name))):
        if isinstance(node, ast.ImportFrom) and node.level:
            wanted.update({node.module} if node.module else {alias.name for alias in node.names})
    assert wanted & set(MODULES) <= set(vendor.closure([name]))


def without_docstrings(text: str) -> str:
    """Dump a tree without docstrings: an oracle without line numbers."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        if documented and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
            if not node.body and not isinstance(node, ast.Module):
                node.body.append(ast.Pass())
    return ast.dump(tree)


@pytest.mark.long
@pytest.mark.parametrize("name", ["__init__", *MODULES])
def test_minimal_then_the_same_statements_without_docstrings_and_comments(name):
    text = vendor.source(name)
    found = vendor.without_comments(text)
    assert ast.dump(ast.parse(found)) == without_docstrings(text)
    assert vendor.without_comments(found) == found
    assert found.startswith("# SPDX-License-Identifier: MIT\n# pyright: basic\n")
    words = [tuple(line.split()) for line in text.splitlines()]
    beginnings = {each[:length] for each in words for length in range(len(each) + 1)}
    for line in found.splitlines():  # no line is composed of others
        assert line.strip() == "pass" or tuple(line.split()) in beginnings
    tokens = tokenize.generate_tokens(io.StringIO(found).readline)
    comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
    assert {each.partition(":")[0] for each in comments} <= {
        "# SPDX-License-Identifier", "# pyright", "# type",
    }  # fmt: skip


LOOKS_LIKE_COMMENTS = '''\
"""Doc."""

A = "# no"  # yes
B = """
# no



# no
"""
C = f"""
# {A} no



"""  # yes
D = 1  # type: ignore[x]  # why





class E(Exception):  # yes
    """Doc."""


def f():
    """Doc.

    # More.
    """

    # yes
    return (
        1  # yes
        # yes
    )
'''
WITHOUT = '''\
A = "# no"
B = """
# no



# no
"""
C = f"""
# {A} no



"""
D = 1  # type: ignore[x]  # why


class E(Exception):
    pass


def f():
    return (
        1
    )
'''


def test_minimal_when_strings_look_like_comments_then_they_stay():
    assert vendor.without_comments(LOOKS_LIKE_COMMENTS) == WITHOUT


@pytest.mark.long
def test_minimal_copy_when_used_then_it_works_and_is_no_source_of_a_whole_one(tmp_path):
    vendor.copy(str(tmp_path / "host"), name="ring", minimal=True)
    done = run("-m", "host.ring.probe", "--quiet", cwd=tmp_path)
    assert done.returncode in (0, 1, 4) and done.stdout.startswith("io_uring:") and not done.stderr
    assert run("-m", "host.ring.vendor", "--check", cwd=tmp_path).returncode == 0
    done = run("-m", "host.ring.vendor", "out", cwd=tmp_path)
    assert done.returncode == vendor.USAGE and "docstrings" in done.stderr
    assert not (tmp_path / "out").exists()
    assert run("-m", "host.ring.vendor", "out", "--minimal", cwd=tmp_path).returncode == 0
    assert (tmp_path / "out" / "rawuring" / "ops.py").read_bytes() == (
        tmp_path / "host" / "ring" / "ops.py"
    ).read_bytes()


def test_part_when_it_has_vendor_then_it_makes_no_copy_that_claims_to_be_whole(tmp_path):
    vendor.copy(str(tmp_path / "host"), name="ring", only=["vendor"])
    done = run("-m", "host.ring.vendor", "out", cwd=tmp_path)
    assert done.returncode == vendor.USAGE and "some modules" in done.stderr
    assert run("-m", "host.ring.vendor", "--check", "host", cwd=tmp_path).returncode == 0


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="CPython's zipimport, for such a .pyc")
def test_compiled_copy_in_a_zip_then_nothing_is_compiled_and_lines_are_shown(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "sys.addaudithook(lambda event, arguments: event == 'compile' and print('compiles', arguments[1]))\n"
        "from ring import Ring\nimport traceback\n"
        "try:\n    Ring(0)\nexcept ValueError:\n    print(traceback.format_exc())"
    )
    compiled_files = {}
    for compiled in (False, True):
        folder = tmp_path / f"host-{compiled}"
        copy = Path(vendor.copy(str(folder), name="ring", compiled=compiled, only=["rings"]))
        archive = shutil.make_archive(str(tmp_path / f"copy-{compiled}"), "zip", folder)
        done = run("-I", "-c", code, archive, cwd=tmp_path)
        assert "raise ValueError" in done.stdout, done
        compiled_files[compiled] = re.findall(r"^compiles .*\.zip.(\S+)$", done.stdout, re.MULTILINE)
    assert "ring/rings.py" in compiled_files[False]
    assert compiled_files[True] == []
    assert vendor.check(str(copy)).code == vendor.DONE
    (copy / "rings.pyc").write_bytes((copy / "rings.pyc").read_bytes()[:-1] + b"x")
    assert vendor.check(str(copy)).modified == ["rings.pyc: changed"]


def test_compiled_and_single_file_then_refused(tmp_path, capsys):
    assert command(tmp_path, "--single-file", "--compiled") == vendor.USAGE
    assert "folder" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------
# The supply chain


def test_manifest_then_where_it_comes_from():
    one = vendor.single_file(["ops"]).partition("manifest\n")[2]
    for text in (vendor.package(["ops"])["VENDORED.json"], one):
        manifest = json.loads(re.sub(r"(?m)^# ", "", text))
        assert manifest["purl"] == f"pkg:pypi/rawuring@{rawuring.__version__}"
        assert manifest["spdx"] == "MIT"
        upstream = manifest["upstream"]
        assert upstream["project"] == "rawuring"
        assert upstream["wheel"] == f"rawuring-{rawuring.__version__}-py3-none-any.whl"
        names = {"__init__", "__main__", "ops", "uapi"}
        assert set(upstream["sha256"]) == {f"rawuring/{name}.py" for name in names}
        for name, digest in upstream["sha256"].items():
            assert hashlib.sha256((ROOT / name).read_bytes()).hexdigest() == digest


def test_sums_then_sha256sum_agrees(tmp_path):
    copy = Path(vendor.copy(str(tmp_path), only=["fdmon"], minimal=True))
    listed = dict(line.split("  ")[::-1] for line in (copy / "SHA256SUMS").read_text().splitlines())
    assert set(listed) == {path.name for path in copy.iterdir()} - {"SHA256SUMS"}
    if shutil.which("sha256sum"):
        command = ["sha256sum", "-c", "--strict", "--quiet", "SHA256SUMS"]
        assert subprocess.run(command, cwd=copy, capture_output=True, check=False).returncode == 0
    for name, digest in listed.items():
        assert hashlib.sha256((copy / name).read_bytes()).hexdigest() == digest
    (copy / "SHA256SUMS").unlink()
    assert vendor.check(str(copy)).modified == ["SHA256SUMS: missing"]


@pytest.mark.parametrize("tagged", [False, True])
def test_check_against_a_list_then_every_byte_counts(copied, tmp_path, capsys, tagged):
    files = [copied] if copied.suffix else [path for path in copied.iterdir() if path.name != "SHA256SUMS"]
    form = "SHA256 ({1}) = {0}\n" if tagged else "{0}  {1}\n"
    sums = tmp_path / "kept-elsewhere"
    digest = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    sums.write_text("".join(form.format(digest[path.name], path.name) for path in files))
    assert command("--check", copied, "--against", sums) == vendor.DONE
    assert "as listed" in capsys.readouterr().out
    spoil(copied)
    assert command("--check", copied, "--against", sums) == vendor.MODIFIED
    assert f"  {copied.name if copied.suffix else 'ops.py'}: changed\n" in capsys.readouterr().out


def test_check_against_a_list_when_files_differ_then_which(tmp_path, monkeypatch):
    copy = Path(vendor.copy(str(tmp_path), only=["ops"]))
    sums = (copy / "SHA256SUMS").read_text()
    (copy / "more.py").write_text("")
    (copy / "ops.py").unlink()
    assert vendor.check_against(str(copy), sums) == ["more.py: added", "ops.py: missing"]
    monkeypatch.chdir(tmp_path)  # names relative to the current folder, as `sha256sum rawuring/*` prints them
    there = re.sub(r"(?m)  ", "  ./rawuring/", sums)
    assert vendor.check_against("rawuring", there) == ["more.py: added", "rawuring/ops.py: missing"]


@pytest.mark.parametrize("text", ["", "\n", "no list", "0" * 63 + "  x", "0" * 64 + " x"])
def test_check_against_when_it_is_no_list_then_2_and_the_line(copied, tmp_path, text, capsys):
    sums = tmp_path / "sums"
    sums.write_text(text)
    assert command("--check", copied, "--against", sums) == vendor.USAGE
    error = capsys.readouterr().err
    assert "line 1" in error or "empty" in error
    assert command("--check", copied, "--against", tmp_path / "nothing") == vendor.USAGE


def test_sbom_then_a_component_with_the_hashes_that_the_files_have(copied, capsys):
    assert command("--sbom", copied) == vendor.DONE
    found = json.loads(capsys.readouterr().out)
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.5")
    (component,) = found["components"]
    assert component["purl"] == f"pkg:pypi/rawuring@{rawuring.__version__}"
    assert component["licenses"] == [{"license": {"id": "MIT"}}]
    for file in component["components"]:
        path = copied.parent / file["name"]
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert file["hashes"] == [{"alg": "SHA-256", "content": digest}]
    assert "--only ops" in component["pedigree"]["notes"] and "modified" not in component["pedigree"]["notes"]
    spoil(copied)
    assert command("--sbom", copied.parent) == vendor.DONE
    assert "modified since" in json.loads(capsys.readouterr().out)["components"][0]["pedigree"]["notes"]


# ------------------------------------------------------------------------------------------------------
# A copy that checks itself


def check_itself(copied: Path) -> list[subprocess.CompletedProcess]:
    """Let a copy check itself in each way of calling it."""
    outside = copied.parent.parent
    module = f"{copied.parent.name}.{copied.stem}"
    return [
        run("-m", module, "--check", cwd=outside),
        run("-I", copied, "--check", cwd=outside),
    ]


def test_copy_when_it_checks_itself_then_as_vendor_does(copied):
    for done in check_itself(copied):
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"{copied}: rawuring {rawuring.__version__}\n  not modified\n"
    spoil(copied)
    for done in check_itself(copied):
        assert done.returncode == 1
        assert done.stdout.endswith(f"  modified:\n  {'ops' if copied.suffix else 'ops.py: changed'}\n")


def test_copy_when_it_checks_itself_then_added_missing_and_line_ends(tmp_path):
    copy = Path(vendor.copy(str(tmp_path / "host"), name="ring", only=["ops"]))
    for path in copy.iterdir():
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert {done.returncode for done in check_itself(copy)} == {0}
    (copy / "more.py").write_text("")
    (copy / "uapi.py").unlink()
    for done in check_itself(copy)[1:]:
        assert done.returncode == 1
        assert done.stdout.endswith("  modified:\n  more.py: added\n  uapi.py: missing\n")


@pytest.mark.parametrize("text", ["", "[]", "{}"])
def test_copy_when_its_manifest_is_spoiled_then_2(copied, text):
    if copied.suffix:
        copied.write_text(copied.read_text().partition("# ======== manifest\n")[0] + text)
    else:
        (copied / "VENDORED.json").write_text(text)
    for done in check_itself(copied):
        assert done.returncode == 2 and "manifest" in done.stderr and "Traceback" not in done.stderr


def test_copy_in_a_zip_then_it_checks_itself(copied, tmp_path):
    (copied.parent / "__init__.py").touch()
    archive = shutil.make_archive(str(tmp_path.parent / "zipped"), "zip", copied.parent)
    code = (
        f"import runpy, sys; sys.path[:0] = [{archive!r}]; sys.argv = ['', '--check']\n"
        "runpy.run_module('ring', run_name='__main__', alter_sys=True)"
    )
    done = run("-I", "-c", code, cwd=tmp_path)
    assert done.returncode == 0 and "  not modified\n" in done.stdout, done


# ------------------------------------------------------------------------------------------------------
# The one file


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    """Make the one file, in a package."""
    folder = tmp_path_factory.mktemp("one")
    return Path(vendor.copy(str(folder / "host" / "_vendor"), one_file=True, name="one"))


def normal(body: list[ast.stmt]) -> list[str]:
    """Dump statements; docstrings as inspect.getdoc() shows them."""
    documented = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for node in ast.walk(ast.Module(body, [])):
        if isinstance(node, documented) and ast.get_docstring(node):
            node.body[0].value.value = ast.get_docstring(node)
    return [ast.dump(node) for node in body]


@pytest.mark.long
def test_sections_then_each_is_its_module_statement_by_statement(one):
    tree = ast.parse(one.read_text())
    sections: dict[str, list[ast.stmt]] = {}
    for node in tree.body:
        test = re.match(r"if _SECTION == '(\w+)':", ast.unparse(node))
        if test:
            sections.setdefault(test[1], []).append(node)
    assert set(sections) == {"__init__", *IN_ONE_FILE, "__main__"}
    for name in [*IN_ONE_FILE, "__main__"]:
        (section,) = sections[name]
        module = ast.parse((PACKAGE / f"{name}.py").read_text())
        docstring, *body = module.body
        assigned, *copied = section.body
        assert ast.unparse(assigned.targets[0]) == "__doc__"
        assert assigned.value.value == docstring.value.value, name
        body = [node for node in body if getattr(node, "module", "") != "__future__"]
        assert normal(copied) == normal(body), name


def test_section_when_a_string_spans_lines_then_it_is_not_indented():
    text = (
        '# SPDX\n"""Doc.\n\n    Indented.\n"""\n\nfrom __future__ import annotations\n\n'
        'A = """\nfirst\n  second\n"""\nB = f"""\n{1 + 1}\n{f"{A}"}\n  x"""\nC = ["""\n""", "\\\n"]\n\n\n'
        'def f():\n    """One.\n\n    Two.\n    """\n    return """\nthree"""\n'
    )
    expected: dict[str, object] = {}
    exec(compile(text, "original", "exec"), expected)
    found: dict[str, object] = {"_SECTION": "m"}
    exec(compile("from __future__ import annotations\n" + vendor._section("m", text), "copy", "exec"), found)
    for name in ("A", "B", "C"):
        assert found[name] == expected[name]
    # Python 3.13 and newer strip docstrings, but not assigned strings.
    assert inspect.cleandoc(found["__doc__"]) == inspect.cleandoc(expected["__doc__"])
    assert found["f"]() == expected["f"]()
    assert inspect.getdoc(found["f"]) == inspect.getdoc(expected["f"])


def test_one_file_when_an_error_is_raised_then_the_traceback_shows_true_lines(one):
    code = "import sys; sys.path.insert(0, sys.argv[1])\nfrom host._vendor.one import Ring\nRing(0)"
    done = run("-I", "-c", code, one.parent.parent.parent, cwd=one.parent)
    line = int(done.stderr.rpartition(f'File "{one}", line ')[2].split(",")[0])
    shown = one.read_text().splitlines()[line - 1]
    assert shown.strip().startswith("raise ValueError") and shown.strip() in done.stderr


def test_one_file_in_a_zip_then_the_traceback_shows_the_lines_too(one, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(one, "one.py")
    code = (
        "import sys; sys.path.insert(0, 'x.zip')\nimport traceback\nfrom one import Ring\n"
        "try:\n    Ring(0)\nexcept ValueError:\n    traceback.print_exc()"
    )
    done = run("-I", "-c", code, cwd=tmp_path)
    assert "raise ValueError" in done.stderr and "one.py" in done.stderr


NAMESPACES = """
import sys, importlib
sys.path.insert(0, sys.argv[1])
names = sys.argv[2].split()
one = importlib.import_module("host._vendor.one")
assert not [name for name in sys.modules if name.startswith("host._vendor.one.")], "modules load on first use"
for name in names:
    module = importlib.import_module(f"host._vendor.one.{name}")
    assert module.__name__ == f"host._vendor.one.{name}" and module is getattr(one, name), name
    assert module.__doc__ and module.__doc__ != one.__doc__ and module.__file__ == one.__file__
    assert module.__spec__.name == module.__name__ and module.__package__ == "host._vendor.one"
from host._vendor.one import rings, syscalls, Ring, Unavailable
assert Ring is rings.Ring and Ring.__module__ == "host._vendor.one.rings", Ring.__module__
assert syscalls.Unavailable is Unavailable
assert Ring.submit.__globals__ is vars(rings), "one namespace for each module"
assert "ctypes" not in vars(rings) and "FDMon" not in vars(rings)
try:
    importlib.import_module("host._vendor.one.nothing")
except ModuleNotFoundError as error:
    assert error.name == "host._vendor.one.nothing"
else:
    raise AssertionError
importlib.reload(one)
assert importlib.reload(rings).Ring is not Ring
print(len([each for each in sys.meta_path if hasattr(each, "one_file_package")]))
"""


def test_one_file_then_modules_have_their_own_namespaces_and_load_on_first_use(one):
    done = run("-I", "-c", NAMESPACES, one.parent.parent.parent, " ".join(IN_ONE_FILE), cwd=one.parent)
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_two_files_in_one_process_then_neither_disturbs_the_other(one, tmp_path):
    for name in ("first", "second"):
        shutil.copy(one, tmp_path / f"{name}.py")
    code = (
        "import sys; sys.path.insert(0, '.')\nimport first, second.rings, first.rings\n"
        "assert first.rings.Ring is not second.rings.Ring\n"
        "print(first.rings.__file__, second.rings.__file__)"
    )
    done = run("-I", "-c", code, cwd=tmp_path)
    assert done.stderr == "" and "first.py" in done.stdout and "second.py" in done.stdout


PROGRAM = [["one.py", "probe"], ["-m", "one", "probe"], ["-m", "one.probe"], ["other-name.py", "probe"]]


@pytest.mark.long
@pytest.mark.parametrize("arguments", PROGRAM, ids=" ".join)
def test_one_file_as_a_program_then_it_runs_a_module(one, tmp_path, arguments):
    for name in ("one", "other-name"):
        shutil.copy(one, tmp_path / f"{name}.py")
    done = run(*arguments, "--quiet", cwd=tmp_path)
    assert done.returncode in (0, 1, 4), done.stderr
    assert done.stdout.startswith("io_uring:") and not done.stderr


def test_one_file_as_a_program_when_asked_for_nothing_then_it_says_what_there_is(one):
    done = run(one, "nonsense", cwd=one.parent)
    assert done.returncode == 2 and "probe" in done.stderr and "usage" in done.stderr and not done.stdout
    for right in ([], ["--help"]):
        done = run(one, *right, cwd=one.parent)
        assert done.returncode == 0 and "probe" in done.stdout and "usage" in done.stdout and not done.stderr


def listed(text: str) -> list[str]:
    """Name the commands of a list."""
    return [line.split()[0] for line in text.splitlines() if line.startswith("  ")]


@pytest.mark.long
def test_copies_as_programs_then_they_list_what_is_in_them(tmp_path):
    """A whole copy, parts with one command and with none, one file, and a zip; nothing else is available."""
    from rawuring.__main__ import COMMANDS

    for name, parts in (("all", []), ("part", ["tour"]), ("none", ["ops"])):
        vendor.copy(str(tmp_path), name=name, only=parts)
    vendor.copy(str(tmp_path), name="one", one_file=True)
    (tmp_path / "zip").mkdir()
    shutil.make_archive(str(tmp_path / "zip" / "packed"), "zip", tmp_path, "part")
    expected = {
        ("-m", "all"): list(COMMANDS), ("-m", "part"): ["tour"], ("-m", "none"): [], ("part",): ["tour"],
        ("-m", "one"): [name for name in COMMANDS if name != "vendor"],
        ("one.py",): [name for name in COMMANDS if name != "vendor"],
    }  # fmt: skip
    for command_line, names in expected.items():
        done = run(*command_line, cwd=tmp_path)
        assert (listed(done.stdout), done.stderr, done.returncode) == ([*names, "--check"], "", 0)
        assert done.stdout.startswith("usage: python ")
        done = run(*command_line, "nonsense", cwd=tmp_path)
        assert (listed(done.stderr), done.stdout, done.returncode) == ([*names, "--check"], "", 2)
        assert run(*command_line, "--check", cwd=tmp_path).returncode == 0
    for command_line in (("-m", "part"), ("-m", "one"), ("one.py",)):
        done = run(*command_line, "tour", "--on", "python", "1", cwd=tmp_path)
        assert done.stdout.startswith("On the pure-Python kernel") and not done.stderr
    code = (
        "import sys, runpy; sys.path[:0] = ['zip/packed.zip']\n"
        "runpy.run_module('part', None, '__main__', True)"
    )
    done = run("-I", "-c", code, cwd=tmp_path)
    assert (listed(done.stdout), done.stderr, done.returncode) == (["tour", "--check"], "", 0)
    done = run("-I", "-c", code, "--check", cwd=tmp_path)
    assert done.stdout.endswith("  not modified\n") and (done.stderr, done.returncode) == ("", 0)


def test_one_file_when_imported_then_python_caches_it(one, tmp_path):
    """The reason for sections of code instead of strings: one compilation, kept in __pycache__."""
    shutil.copy(one, tmp_path)
    assert run("-I", "-c", "import sys; sys.path[:0] = '.'; import one.rings", cwd=tmp_path).returncode == 0
    cached = list((tmp_path / "__pycache__").iterdir())
    assert [path.name.partition(".")[0] for path in cached] == ["one"]
    assert b"submit_and_wait" in cached[0].read_bytes()


# ------------------------------------------------------------------------------------------------------
# --check, and overwriting


@pytest.fixture(params=["folder", "one file"])
def copied(request, tmp_path) -> Path:
    """Make a copy, for tests of both kinds."""
    return Path(vendor.copy(str(tmp_path), name="ring", one_file=request.param == "one file", only=["ops"]))


def again(copied: Path, *options: str) -> int:
    """Make the same copy once more."""
    kind = ["--single-file"] if copied.suffix else []
    return command(copied.parent, "--name", "ring", "--only", "ops", *kind, *options)


def spoil(copied: Path) -> None:
    """Change one word of a copy."""
    path = copied if copied.suffix else copied / "ops.py"
    path.write_text(path.read_text().replace("def prep_nop(", "def prep_nope("))


def test_check_when_nothing_happened_then_0(copied, capsys):
    assert command("--check", copied) == vendor.DONE
    assert command("--check", copied.parent) == vendor.DONE
    good = f"{copied}: rawuring {rawuring.__version__}\n  not modified\n  up to date\n"
    assert capsys.readouterr().out == good * 2


def test_check_when_a_word_was_changed_then_1_and_where(copied, capsys):
    spoil(copied)
    assert command("--check", copied.parent) == vendor.MODIFIED
    out = capsys.readouterr().out
    assert "  modified:\n  section ops: changed\n" in out or "  modified:\n  ops.py: changed\n" in out


def test_check_when_only_line_ends_were_changed_then_0(copied):
    """Version control on another system may change line ends."""
    for path in [copied] if copied.suffix else copied.iterdir():
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert command("--check", copied) == vendor.DONE


def test_check_when_files_came_and_went_then_1_and_which(tmp_path, capsys):
    copy = Path(vendor.copy(str(tmp_path)))
    (copy / "ops.py").unlink()
    (copy / "sub").mkdir()
    (copy / "sub" / "more.py").write_text("")
    (copy / "__pycache__").mkdir()
    (copy / "__pycache__" / "x.pyc").write_bytes(b"")
    assert command("--check", tmp_path) == vendor.MODIFIED
    assert "  modified:\n  ops.py: missing\n  sub/more.py: added\n" in capsys.readouterr().out


def test_check_when_a_section_was_taken_out_then_1(tmp_path, capsys):
    path = Path(vendor.copy(str(tmp_path), one_file=True))
    text = path.read_text()
    path.write_text(re.sub(r"# =+ aio\.py =(?s:.*?)(?=# =+ \w+\.py =)", "", text))
    assert command("--check", path) == vendor.MODIFIED
    assert "  modified:\n  section aio: missing\n  up to date" in capsys.readouterr().out
    path.write_text(text.replace("# }", "# "))
    assert command("--check", path) == vendor.USAGE  # the manifest is damaged


def test_check_when_the_package_has_another_version_then_3(copied, monkeypatch, capsys):
    monkeypatch.setattr(rawuring, "__version__", "99.1")
    assert command("--check", copied) == vendor.OUTDATED
    assert f"it is {vendor.check(str(copied)).version}, this package is 99.1" in capsys.readouterr().out
    spoil(copied)
    assert command("--check", copied) == vendor.MODIFIED  # the worse of the two


def test_check_when_the_package_has_other_files_then_3(copied, monkeypatch, capsys):
    real = vendor.source
    monkeypatch.setattr(vendor, "source", lambda name: real(name) + "\n" * (name == "uapi"))
    assert command("--check", copied) == vendor.OUTDATED
    assert "the version is the same, but not: uapi.py" in capsys.readouterr().out


def test_check_when_the_part_is_no_more_then_3(copied, monkeypatch):
    real = vendor.modules()
    monkeypatch.setattr(vendor, "modules", lambda: [name for name in real if name != "ops"])
    assert command("--check", copied) == vendor.OUTDATED


@pytest.mark.parametrize("text", [None, "", "{}", "[1]", "not JSON", '{"name": "rawuring", "schema": 2}'])
def test_check_when_there_is_no_manifest_to_read_then_2(tmp_path, text, capsys):
    copy = tmp_path / "ring"
    copy.mkdir()
    if text is not None:
        (copy / "VENDORED.json").write_text(text)
    assert command("--check", copy) == vendor.USAGE
    assert "manifest" in capsys.readouterr().err or text is None
    assert command("--check", tmp_path / "nothing") == vendor.USAGE


def test_copy_again_then_it_is_replaced_and_what_is_no_part_of_it_goes(tmp_path):
    copy = Path(vendor.copy(str(tmp_path), only=["fdmon"]))
    assert (copy / "fdmon.py").exists()
    vendor.copy(str(tmp_path), only=["ops"])
    assert sorted(path.name for path in copy.glob("*.py")) == [
        "__init__.py", "__main__.py", "ops.py", "uapi.py",
    ]  # fmt: skip
    assert vendor.check(str(copy)).code == vendor.DONE


def test_copy_over_a_modified_one_then_refused_unless_forced(copied, capsys):
    spoil(copied)
    assert again(copied) == vendor.MODIFIED
    assert "ops" in capsys.readouterr().err
    assert command("--check", copied) == vendor.MODIFIED, "nothing was written"
    assert again(copied, "--force") == vendor.DONE
    assert command("--check", copied) == vendor.DONE


def test_copy_when_forced_then_added_files_go_and_the_next_update_needs_no_force(tmp_path):
    copy = Path(vendor.copy(str(tmp_path)))
    (copy / "notes.txt").write_text("theirs")
    (copy / "sub" / "deeper").mkdir(parents=True)
    (copy / "sub" / "deeper" / "x.py").write_text("")
    (copy / "sub" / "y.py").write_text("")
    with pytest.raises(vendor.VendorError, match=r"notes\.txt: added.*--force .* removes added files"):
        vendor.copy(str(tmp_path))
    assert (copy / "notes.txt").exists()
    vendor.copy(str(tmp_path), force=True)
    assert vendor.check(str(copy)).code == vendor.DONE
    assert not (copy / "sub").exists()
    vendor.copy(str(tmp_path))


@pytest.mark.skipif(not hasattr(os, "symlink") or os.name != "posix", reason="symbolic links")
def test_copy_when_forced_then_links_go_and_what_they_point_to_stays(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious.py").write_text("precious = 1\n")
    copy = Path(vendor.copy(str(tmp_path / "host"), only=["ops"]))
    (copy / "linked").symlink_to(outside)
    (copy / "ops.py").unlink()
    (copy / "ops.py").symlink_to(outside / "precious.py")
    assert vendor.check(str(copy)).modified == ["linked: added", "ops.py: changed"]
    vendor.copy(str(tmp_path / "host"), only=["ops"], force=True)
    assert vendor.check(str(copy)).code == vendor.DONE
    assert (outside / "precious.py").read_text() == "precious = 1\n"
    assert (copy / "ops.py").read_bytes() == (PACKAGE / "ops.py").read_bytes()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_copy_over_something_else_then_refused_even_when_forced(tmp_path, kind, capsys):
    path = tmp_path / ("ring.py" if kind == "file" else "ring")
    if kind == "folder":
        path.mkdir()
        path = path / "__init__.py"
    path.write_text("mine = 1\n")
    options = ["--single-file"] if kind == "file" else []
    assert command(tmp_path, "--name=ring", "--force", *options) == vendor.USAGE
    assert "not a copy" in capsys.readouterr().err
    assert path.read_text() == "mine = 1\n"
    # and a folder does not replace a file of the same name, nor vice versa
    assert command(tmp_path, "--name=ring", *([] if kind == "file" else ["--single-file"])) == vendor.USAGE


def test_copy_that_was_interrupted_then_it_counts_as_modified(tmp_path, monkeypatch):
    copy = Path(vendor.copy(str(tmp_path)))
    real = vendor.package

    def interrupted(only, **options):
        found = {name: f"{text}# new\n" for name, text in real(only, **options).items()}
        return {**found, "register.py": None}  # a file that cannot be written ends the copy there

    monkeypatch.setattr(vendor, "package", interrupted)
    with pytest.raises(TypeError):
        vendor.copy(str(tmp_path))
    assert vendor.check(str(copy)).modified


NOBODY = "import os\nos.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
IN_ENVIRONMENT = """
import contextlib, io, sys, tempfile
from rawuring import command, vendor
with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as folder:
    vendor.main([folder, "--only", "ops"])  # imports modules that could not be read in there
    vendor.main(["--check", folder])
"""


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="root, to make an environment")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mount namespaces")
@pytest.mark.parametrize("environment", [test_probe_denied.READ_ONLY, NOBODY], ids=["read-only", "nobody"])
def test_environment_then_copies_can_be_checked_and_nothing_is_written(environment):
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folder is closed to other users
        os.chmod(folder, 0o755)
        host = Path(folder) / "host"
        copy = vendor.copy(str(host), name="ring", only=["ops"])
        for arguments, code in (
            (["--check", copy], vendor.DONE),
            (["--sbom", copy], vendor.DONE),
            ([f"{folder}/new"], command_module.FAILED),
            ([str(host), "--name", "ring", "--only", "uapi"], command_module.FAILED),
        ):
            call = f"command.run(lambda: vendor.main({arguments!r}))"
            done = test_probe.run(IN_ENVIRONMENT + environment + call)
            if done.returncode == 77:
                pytest.skip("a mount namespace (root)")
            assert (done.returncode, "Traceback" in done.stderr) == (code, False), done
            assert done.stderr.count("\n") == (1 if code else 0)
        assert vendor.check(copy).code == vendor.DONE
        assert [path.name for path in Path(folder).iterdir()] == ["host"]


def test_usage_when_no_such_option_then_2(capsys):
    with pytest.raises(SystemExit) as left:
        command("--nonsense")
    assert left.value.code == vendor.USAGE
