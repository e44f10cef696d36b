# SPDX-License-Identifier: MIT
"""The man page and the page of commands: they contain what --help prints, and man(1) shows them.

What it is: each word that a command's --help prints must be in both, and man and mandoc read the roff.
Must not know: how the pages are made.
Invariant: a command that is missing from them is a failure.
Read next: tools/man_page.py.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rawuring import __main__ as commands

ROOT = Path(__file__).resolve().parent.parent
MAN = ROOT / "data" / "share" / "man" / "man1" / "rawuring.1"
PAGE = ROOT / "docs" / "commands.md"
HELP = sorted(commands.COMMANDS)

pytestmark = pytest.mark.skipif(not MAN.exists(), reason="data/ in this copy")


def help_words(name):
    env = {**os.environ, "COLUMNS": "1000", "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", f"rawuring.{name}", "--help"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=60)
    text = re.sub(r"^(usage|options|optional arguments|positional arguments):", "", done.stdout, flags=re.M)
    return text.split()


@pytest.mark.parametrize("name", HELP)
def test_help_of_a_command_then_each_of_its_words_is_in_both_pages(name):
    wanted = help_words(name)
    assert len(wanted) > 10
    roff = MAN.read_text(encoding="utf-8").partition(f".SH {name.upper()}\n")
    man = roff[0].partition(".SH SYNOPSIS")[2] + roff[2].partition(".SH")[0]
    signs = {"\\-": "-", "\\(aq": "'", "\\(ha": "^", "\\(ti": "~", "\\&": "", "\\e": "\\"}
    for name_of_sign, sign in signs.items():
        man = man.replace(name_of_sign, sign)
    page = PAGE.read_text(encoding="utf-8").partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    assert [word for word in wanted if word not in man.split()] == []
    unmarked = page.replace("`", "").split()
    left_out = ["-h,", "--help", "show", "this", "help", "message", "and", "exit"]  # common to all commands
    assert [word for word in wanted if word not in unmarked and word not in left_out] == []


def test_every_command_then_both_pages_have_a_part_for_it():
    assert {name.lower() for name in re.findall(r"^\.SH (\w+)$", MAN.read_text(), re.M)} >= set(HELP)
    assert set(re.findall(r"^## (\w+)$", PAGE.read_text(), re.M)) >= set(HELP)


def test_man_when_it_reads_the_page_then_no_warning():
    if shutil.which("man") is None:
        pytest.skip("man")
    env = {**os.environ, "MANWIDTH": "80", "LC_ALL": "C.UTF-8"}
    command = ["man", "--warnings", "-E", "UTF-8", "-l", str(MAN)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
    if "groff" in done.stderr and done.returncode:
        pytest.skip("groff, for man")
    assert (done.returncode, done.stderr) == (0, "")
    assert "python3 -m rawuring.probe" in done.stdout


def test_mandoc_when_it_reads_the_page_then_only_the_date_is_missed():
    """It would have to be changed by hand; the version takes its place."""
    if shutil.which("mandoc") is None:
        pytest.skip("mandoc")
    command = ["mandoc", "-T", "lint", "-W", "warning", str(MAN)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    told = [line for line in (done.stdout + done.stderr).splitlines() if "missing date" not in line]
    assert told == []
