# SPDX-License-Identifier: MIT
"""The recorded tour contains what the tour prints, and the page around it needs nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rawuring import play, playpage, tour

PACKAGE = Path(play.__file__).parent


@pytest.fixture(scope="module")
def chapters():
    return play.record()


def net_changes(events):
    """Return name -> (old, new) of the net changes of a step, as the tour prints them."""
    found = {}
    for event in events:
        if event["kind"] == "word":
            found[event["name"]] = (found.get(event["name"], (event["old"],))[0], event["new"])
    return {name: change for name, change in found.items() if change[0] != change[1]}


def test_recording_when_its_events_are_summed_then_each_step_is_what_the_tour_prints(chapters):
    printed = []
    tour.run(tour.PythonKernel(), printed.append)
    text = "".join(printed).partition("\n1. Setup")[2]
    line = re.compile(r"^    ([a-z][\w.\[\]]+) +(.*?)(?:  .*| us .*| kernel .*)$", re.MULTILINE)
    steps = re.split(r"\n\d+\.\d+ ", text)[1:]
    recorded = [step for chapter in chapters for step in chapter["steps"]]
    assert [step.partition("\n")[0] for step in steps] == [step["title"] for step in recorded]
    for shown, step in zip(steps, recorded):
        lines = set(line.findall(shown))
        expected = set()
        for name, (old, new) in net_changes(step["events"]).items():
            if name == "sq.kflags":
                old, new = tour._flags(old), tour._flags(new)
            expected.add((name, str(new) if name.endswith("]") else f"{old} -> {new}"))
        names = {name for name, _ in lines}
        assert names == {name for name, _ in expected}, step["title"]
        if "Remove it in time" not in step["title"]:  # printed in a sorted order
            assert lines == expected


def test_recording_then_the_changes_stand_in_the_order_of_time(chapters):
    enter = chapters[1]["steps"][3]["events"]
    assert [event.get("name", event["kind"]) for event in enter] == [
        "call", "sqe[0]", "cqe[0]", "cq.ktail", "sq.khead",
    ]  # fmt: skip
    assert [event["kind"] for event in enter] == ["call", "copy", "word", "word", "word"]
    read = chapters[2]["steps"]
    assert read[0]["events"][-1]["waits"] == [[12, "data in the pipe"]]
    assert read[1]["events"][0]["kind"] == "outside"
    overflow = [event["overflow"] for event in chapters[5]["steps"][1]["events"] if "overflow" in event]
    assert overflow == [[[43, 0, 0]], [[43, 0, 0], [44, 0, 0]]]


def test_recording_when_a_slot_is_filled_then_its_bytes_are_there(chapters):
    fill = chapters[1]["steps"][1]["events"][0]
    assert bytes.fromhex(fill["bytes"])[32:40] == (11).to_bytes(8, sys.byteorder)
    assert len(fill["bytes"]) == 128


def test_words_then_the_line_named_is_the_line_shown():
    for name, word in play.words_as_data().items():
        file, _, number = word["where"].partition(":")
        line = (PACKAGE / file).read_text(encoding="utf-8").splitlines()[int(number) - 1]
        assert word["code"] and line.strip() == word["code"], name
        assert word["meaning"] and word["member"] and word["pair"]


def test_words_when_there_is_no_source_then_the_file_alone(monkeypatch):
    def no_source(function):
        raise OSError("source code not available")

    monkeypatch.setattr(play.inspect, "getsourcelines", no_source)
    file = Path(play.SQ.flush.__code__.co_filename).name  # another file in a copy
    assert play.find_line(play.SQ.flush, "store_release(") == (file, "")


def test_page_then_it_is_small_ascii_and_alone():
    page = play.page()
    assert page.isascii() and len(page) < 400_000
    assert playpage.POLICY.startswith("default-src 'none'")
    assert not re.search(r"https?://|<link|<img|<iframe|@import|url\(|\bsrc=|XMLHttp|eval\(", page)
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1]
    assert len(json.loads(data)["chapters"]) == len(tour.CHAPTERS)


def test_page_when_made_twice_then_the_same_bytes():
    """In another process, with other addresses and another order of sets."""
    made = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "PYTHONHASHSEED": seed}
        command = [sys.executable, "-m", "rawuring.play"]
        done = subprocess.run(command, env=environment, capture_output=True, timeout=120, check=True)
        made.append(done.stdout)
    assert made[0] == made[1] and made[0].startswith(b"<!DOCTYPE html>")


def test_command_when_stdout_is_a_terminal_then_it_says_where_a_page_goes(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    with pytest.raises(SystemExit):
        play.main([])
    assert "> ring.html" in capsys.readouterr().err
