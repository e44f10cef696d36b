# SPDX-License-Identifier: MIT
"""The page of play.py in a browser: every control is used, by mouse and by keyboard."""

from __future__ import annotations

import os
from pathlib import Path

import browser
import pytest

from rawuring import play

WIDTHS = (1400, 900, 390)


@pytest.fixture(scope="module")
def shown():
    """Yield a browser; nothing may be on its console at the end of a test."""
    with browser.browser() as one:
        yield one


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("play") / "ring.html"
    path.write_text(play.page(), encoding="ascii")
    return path


@pytest.fixture(autouse=True)
def _no_complaint(shown):
    shown.complaints.clear()
    yield
    shown.value("1")  # so that what was said before has arrived
    assert shown.complaints == []


def expected_words(chapter):
    """Return the words at each place of a chapter."""
    words = {name: value for name, value in chapter["ring"]["words"].items() if not name.endswith("]")}
    found = [dict(words)]
    for step in chapter["steps"]:
        for event in step["events"] or [{"kind": "note"}]:
            if event["kind"] == "word" and event["name"] in words:
                assert words[event["name"]] == event["old"]
                words[event["name"]] = event["new"]
            found.append(dict(words))
    return found


def test_scrubber_when_moved_forward_and_back_then_the_words_are_those_of_the_recording(shown, page):
    shown.open(page)
    for number, chapter in enumerate(play.record()):
        expected = expected_words(chapter)
        walk = "run.states[place].words"
        seen = shown.value(
            f"(() => {{ openChapter({number}); const seen = [{walk}];"
            f"while (place < run.states.length - 1) {{ byId('forth').click(); seen.push({walk}); }}"
            f"while (place > 0) {{ byId('back').click(); seen.push({walk}); }} return seen; }})()"
        )
        assert seen == expected + expected[-2::-1], chapter["title"]


def test_page_when_a_chapter_is_named_in_the_address_then_it_is_open(shown, page):
    shown.open(page)
    shown.send("Page.navigate", url=page.as_uri() + "?#chapter-6")
    shown.value("new Promise((done) => setTimeout(done, 0))")
    assert shown.value("chapter ? chapter.number : 0") == 6


def test_keys_then_they_move_the_scrubber(shown, page):
    shown.open(page)
    shown.value("openChapter(3); document.activeElement.blur()")
    for name, code, place in (
        ("ArrowRight", 39, 1), ("ArrowRight", 39, 2), ("ArrowLeft", 37, 1), ("End", 35, 19), ("Home", 36, 0),
        ("PageDown", 34, 6), ("PageDown", 34, 18), ("PageUp", 33, 6),
    ):  # fmt: skip
        shown.key(name, code)
        assert shown.value("place") == place, name
    assert "1 - " not in shown.value("byId('now').textContent")


def test_slots_and_words_when_clicked_or_entered_then_details(shown, page):
    shown.open(page)
    shown.value("openChapter(2, 2)")
    shown.click('[data-key="sqe[0]"]')
    details = "byId('details').textContent"
    text = shown.value(details)
    assert "prep_read" in text and "0x7f0000001000" in text and "user_data" in text
    assert shown.value("document.querySelectorAll('.bytes span:not(.at)').length") == 64
    shown.click('#words [data-key="cq.khead"]')
    assert "io_get_cqe" in shown.value(details) and "queues.py:" in shown.value(details)
    shown.value("go(run.states.length - 1); document.querySelector('g[data-key=\"cqe[0]\"]').focus()")
    shown.key("Enter", 13, "\r")
    text = shown.value(details)
    assert "res means" in text and "8 (bytes 8-11)" in text
    assert shown.value("document.activeElement.dataset.key") == "cqe[0]"  # it was drawn anew, and kept
    shown.click('[data-key="array"]')
    assert "index array" in shown.value(details)
    assert "ours" in shown.value("byId('requests').textContent")


def test_controls_then_each_of_them_does_something(shown, page):
    shown.open(page)
    shown.click("#next-chapter")
    assert shown.value("chapter.number") == 2
    for control, place in (("last", 9), ("back", 8), ("first", 0), ("forth", 1)):
        shown.click(f"#{control}")
        assert shown.value("place") == place
    shown.click("#play")
    assert shown.value("byId('play').textContent") == "Pause"
    shown.click("#play")
    assert shown.value("byId('play').textContent + timer") == "Play0"
    shown.value("byId('place').value = 5; byId('place').dispatchEvent(new Event('input'))")
    assert shown.value("place") == 5
    shown.value("byId('chapter').value = 5; byId('chapter').dispatchEvent(new Event('change'))")
    assert shown.value("location.hash") == "#chapter-6"
    shown.value("byId('log').querySelectorAll('button')[7].click()")
    assert shown.value("place") == 8


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_page_when_narrow_or_wide_then_nothing_is_cut_off_and_axe_finds_nothing(shown, page, width, dark):
    shown.open(page, width=width, dark=dark, still=True)
    shown.value("openChapter(5, 17); choose('sqe[1]')")
    assert shown.value("document.documentElement.scrollWidth") <= width
    if os.environ.get("PLAY_PICTURES"):
        shown.picture(Path(os.environ["PLAY_PICTURES"]) / f"play-{width}-{'dark' if dark else 'light'}.png")
    axe = os.environ.get("AXE")
    if not axe:
        pytest.skip("contrast and labels are not checked: AXE names no axe.min.js (npm, axe-core)")
    shown.value(Path(axe).read_text(encoding="utf-8") + "; 1")
    for before in ("choose('sqe[1]')", "choose('cqe[0]')", "choose('sq.kflags')"):
        found = shown.value(
            f"{before}; axe.run().then((r) => r.violations.map((v) => [v.id, v.nodes[0].html]))"
        )
        assert found == []
