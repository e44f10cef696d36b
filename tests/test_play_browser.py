# SPDX-License-Identifier: MIT
"""The page of play.py in a browser: every control is used, by mouse and by keyboard."""

from __future__ import annotations

import os
from pathlib import Path

import browser
import pytest
from test_trace import invented

from rawuring import play

pytestmark = pytest.mark.long

WIDTHS = (1400, 900, 390)


# Firefox with one Python only: the page is the same.
@pytest.fixture(scope="module", params=["chromium", pytest.param("firefox", marks=pytest.mark.once)])
def shown(request):
    """Yield a browser, whose console must be empty at the end of a test."""
    with browser.browser(request.param) as one:
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
    shown.value("1")  # so that earlier messages have arrived
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
    shown.load(page.as_uri() + "?#chapter-6")
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


def test_start_when_the_page_opens_then_one_request_goes_round_and_ways_lead_on(shown, page):
    shown.open(page, still=True)
    assert shown.value("tab + chapter.title + place") == "startOne NOP0"
    shown.click("#watch")
    assert shown.value("byId('watch').textContent + byId('play').textContent") == "PausePause"
    shown.click("#watch")
    shown.value("document.activeElement.blur()")
    seen = []
    for _ in range(9):
        shown.key("ArrowRight", 39)
        seen.append(shown.value("document.querySelector('#now .plain').textContent"))
    assert seen[0] == "We take a slot. Nobody else sees that."
    assert seen[3] == "We enter the kernel: a system call. It is to take one request, and need not wait."
    assert seen[5:7] == [
        "The kernel writes the answer to request 11 into slot 0. Its result is 0.",
        "The kernel announces the answer: now we may read it.",
    ]
    shown.click('[data-open="drive"]')
    assert shown.value("tab") == "drive"


def test_every_event_of_the_tour_then_it_is_said_in_plain_words(shown, page):
    shown.open(page)
    unsaid = shown.value("""(() => {
      const found = [];
      for (let number = 0; number < DATA.chapters.length; number++) {
        openChapter(number);
        for (const event of run.events) if (event && !plain(event) && !event.text) found.push(sentence(event));
      }
      return found;
    })()""")
    assert unsaid == []


def test_terms_when_clicked_then_they_are_explained_and_escape_ends_it(shown, page):
    shown.open(page)
    shown.click('[data-term="CQ"]')
    box = "byId('explained').hidden ? '' : byId('explained').textContent"
    assert "Completion queue" in shown.value(box)
    shown.value("document.querySelector('[data-term=NOP]').focus()")
    shown.key("Enter", 13, "\r")
    assert "No operation" in shown.value(box)
    shown.click("#unexplain")
    assert shown.value(box) == ""
    shown.value("explain('SQ')")
    shown.key("Escape", 27)
    assert shown.value(box) == ""
    # Each is written somewhere, so each can be found.
    texts = "DATA.chapters.flatMap((c) => [...c.text, ...c.steps.flatMap((s) => s.text)])"
    texts += ".concat(EXERCISES.flatMap((e) => [e.text, e.hint, e.way, e.why]), Object.values(SWITCHES).flat(),"
    texts += " [...Object.values(PROGRAM), ...Object.values(ACTIONS)].map((p) => p[2]), document.body.innerText).join(' ')"
    assert shown.value(f"Object.keys(TERMS).filter((t) => !linked({texts}).includes(`data-term=\"${{t}}\"`))") == []


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
    assert shown.value("document.activeElement.dataset.key") == "cqe[0]"  # redrawn, with the focus kept
    shown.click('[data-key="array"]')
    assert "index array" in shown.value(details)
    assert "ours" in shown.value("byId('requests').textContent")


def test_controls_then_each_of_them_does_something(shown, page):
    shown.open(page)
    shown.click('[data-tab="tour"]')
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


VIEWS = {
    "start": ("go(4); document.querySelector('[data-term=SQ]').click()", ("go(9)", "explain('')")),
    "tour": ("openChapter(5, 17)", ("choose('sqe[1]')", "choose('cqe[0]')", "choose('sq.kflags')")),
    "drive": ("openTab('drive'); for (const op of ['read', 'provide', 'multi', 'fsync']) {"
              " byId('operation').value = op; perform('short'); }", ("choose('sqe[0]')",)),
    "trouble": ("openTab('drive'); document.querySelector('[data-switch=mask]').click();"
                " for (let i = 0; i < 6; i++) perform('short')", ("choose('sq.sqe_tail')",)),
    "exercises": ("openTab('exercises')", ("1",)),
}  # fmt: skip


LOOKS = [("tour", width, dark) for width in WIDTHS for dark in (False, True)]
LOOKS += [(view, width, dark) for view in VIEWS if view != "tour" for width, dark in ((1400, False), (390, True))]


@pytest.mark.parametrize(("view", "width", "dark"), LOOKS)
def test_page_when_narrow_or_wide_then_nothing_is_cut_off_and_axe_finds_nothing(shown, page, view, width, dark):
    shown.open(page, width=width, dark=dark, still=True)
    if dark not in shown.looks:
        pytest.skip("these colours, which chromium shows")
    begin, choices = VIEWS[view]
    shown.value(begin)
    assert shown.value("document.documentElement.scrollWidth") <= width
    cut = "[...document.querySelectorAll('.card')].filter((e) => e.scrollWidth > e.clientWidth).length"
    assert shown.value(cut) == 0
    if os.environ.get("PLAY_PICTURES"):
        name = f"{view}-{width}-{'dark' if dark else 'light'}.png"
        shown.picture(Path(os.environ["PLAY_PICTURES"]) / name)
    axe = os.environ.get("AXE")
    if not axe:
        pytest.skip("contrast and labels: AXE must name axe.min.js (npm, axe-core)")
    shown.value(Path(axe).read_text(encoding="utf-8") + "; 1")
    for before in choices:
        found = shown.value(
            f"{before}; axe.run().then((r) => r.violations.map((v) => [v.id, v.nodes[0].html]))"
        )
        assert found == []


# ------------------------------------------------------------------------------------------------------
# You are the kernel


def do(shown, *acts):
    """Click buttons of the panel in turn, and choose operations: "op:read"."""
    for act in acts:
        if act.startswith("op:"):
            shown.value(f"byId('operation').value = '{act[3:]}'")
        elif act.startswith("without:"):
            shown.click(f'[data-switch="{act[8:]}"]')
        else:
            shown.click(f'[data-act="{act}"]')


def troubles(shown):
    """Return where the last steps showed trouble, and the messages."""
    return shown.value("run.events.filter((e) => e && e.trouble).map((e) => Object.entries(e.trouble)[0])")


def reaped(shown):
    return shown.value("machine.reaped")


@pytest.fixture
def drive(shown, page):
    shown.open(page, still=True)
    shown.click('[data-tab="drive"]')
    return shown


def test_drive_when_a_request_goes_round_then_each_of_its_moments_is_an_event(drive):
    do(drive, "get", "prep", "flush", "enter", "fetch")
    kinds = drive.value("run.events.slice(1).map((e) => e.name || e.kind)")
    assert kinds == ["sq.sqe_tail", "sqe[0]", "sq.ktail", "call", "sqe[0]", "cqe[0]", "cq.ktail", "sq.khead", "cq.khead"]
    assert reaped(drive) == [[1, 0, 0]]
    drive.click("#back")
    do(drive, "short")  # the next action is applied at the end, wherever the scrubber is
    assert drive.value("place === run.states.length - 1 && machine.number === 2")


def test_drive_when_requests_complete_then_in_the_order_that_was_chosen(drive):
    do(drive, "op:fsync", "short", "short", "op:timeout", "short", "late:2", "late:3", "late:1", "fetch")
    assert [cqe[:2] for cqe in reaped(drive)] == [[2, 0], [3, -62], [1, 0]]


def test_drive_with_multishot_and_provided_buffers_then_more_and_the_number_of_the_buffer(drive):
    do(drive, "op:multi", "short", "op:provide", "short", "op:select", "short", "feed", "fetch")
    assert reaped(drive) == [[2, 0, 0], [3, 8, 1]]  # the READ took everything, and nothing was left to poll for
    do(drive, "feed", "fetch")
    assert reaped(drive)[-1] == [1, 1, 2]
    do(drive, "op:select", "short", "short", "short", "fetch")
    assert [cqe[1:] for cqe in reaped(drive)[-3:]] == [[8, 1 << 16 | 1], [-105, 0], [-105, 0]]


def test_drive_when_a_cancel_comes_too_late_then_enoent_and_the_cqe_all_the_same(drive):
    drive.value("byId('target').value = 1")
    do(drive, "op:read", "short", "feed", "op:cancel", "short", "fetch")
    assert reaped(drive) == [[1, 8, 0], [2, -2, 0]]
    do(drive, "op:read", "short")
    drive.value("byId('target').value = 3; byId('link').checked = true")
    do(drive, "op:cancel", "short", "fetch")
    assert reaped(drive)[2:] == [[4, 0, 0], [3, -125, 0]]


def test_drive_when_the_ring_is_full_then_no_slot(drive):
    do(drive, "get", "get", "get", "get", "get")
    assert "SubmissionQueueFull" in drive.value("byId('now').textContent")
    do(drive, "discard")
    assert drive.value("machine.sqe_tail") == 0


@pytest.mark.parametrize(
    ("kind", "acts", "where", "says"),
    [
        ("4-8", ["without:mask", *["short"] * 5], "sq.sqe_tail", "behind the beginning of an array"),
        ("4-8", ["without:mask", *["short"] * 5], "sqe[0]", "runs once more"),
        ("4-8", ["without:head", "fetch"], "cqe[0]", "has not written this one"),
        ("4-8", ["without:head", "fetch", "without:head", "short"], "cq.khead", "overtook"),
        ("4-8", ["without:reuse", *["get", "prep"] * 4, "flush", "get", "prep"], "sqe[0]", "request is lost"),
        ("4-8", ["without:reuse", *["get", "prep"] * 4, "flush", "get", "prep", "flush", "enter"], "sq.ktail",
         "sq.ktail - sq.khead is 5, and the ring has 4 slots"),
        ("poll", ["without:release", "get", "prep", "flush", "thread"], "sqe[0]", "reads old contents"),
        ("4-8", ["op:read", "short", "free:1", "feed"], "memory", "freed before the final CQE"),
    ],
)  # fmt: skip
def test_drive_when_something_is_left_out_then_it_breaks_where_it_breaks(drive, kind, acts, where, says):
    drive.value(f"byId('kind').value = '{kind}'; byId('anew').click()")
    do(drive, *acts)
    found = troubles(drive)
    assert any(place == where and says in text for place, text in found), found


def test_drive_without_the_release_and_without_sqpoll_then_nothing_goes_wrong(drive):
    do(drive, "without:release", "short", "short", "fetch")
    assert troubles(drive) == [] and len(reaped(drive)) == 2
    assert "sees its own stores in order" in drive.value("byId('switch-says').textContent")


def test_drive_with_sqpoll_then_the_thread_sleeps_and_is_woken(drive):
    drive.value("byId('kind').value = 'poll'; byId('kind').dispatchEvent(new Event('change'))")
    do(drive, "sleep", "get", "prep", "flush", "thread", "flag", "fetch")
    assert reaped(drive) == [[1, 0, 0]]


def test_drive_at_random_then_what_is_drawn_is_what_the_memory_holds(drive):
    differs = drive.value("""(() => {
      let seed = 7;
      const chance = (n) => (seed = (seed * 1103515245 + 12345) & 0x7fffffff) % n;
      for (const kind of Object.keys(RINGS)) {
        for (let round = 0; round < 4; round++) {
          openMachine(kind);
          for (let n = 0; n < 25; n++) {
            const acts = [...byId("panel").querySelectorAll("[data-act]:not(:disabled)")];
            if (!acts.length) break;
            if (round > 1 && !chance(6)) machine.without.add(Object.keys(SWITCHES)[chance(5)]);
            byId("operation").selectedIndex = chance(byId("operation").length);
            byId("target").value = 1 + chance(9);
            byId("link").checked = !chance(5);
            perform(acts[chance(acts.length)].dataset.act);
            const state = run.states[run.states.length - 1], words = machine.snapshot();
            for (const name of Object.keys(state.words)) if (state.words[name] !== words[name]) return [kind, name];
            for (let i = 0; i < machine.kernel.sq_entries; i++) {
              if ((state.sqes[i] || "0".repeat(128)) !== machine.hex(i)) return [kind, "sqe", i];
            }
          }
        }
      }
      return null;
    })()""")
    assert differs is None


# ------------------------------------------------------------------------------------------------------
# Exercises

SOLUTIONS = (
    ["short", "short", "short", "short", "fetch", "events", "fetch"],
    ["without:fence", "get", "prep", "flush", "flag", "sleep", "drain"],
    ["op:nop", "short", "get", "flush", "enter"],
    ["flush", "enter", "late:1", "fetch"],
    ["free:1", "feed"],
)


# Near misses: exercise, actions.
NO_SOLUTIONS = (
    (0, ["short", "fetch", "short", "fetch", "short", "fetch"]),  # nothing overflows
    (0, ["short", "short", "short", "short", "fetch", "events"]),  # two are not reaped
    (1, ["get", "prep", "flush", "flag", "sleep"]),  # with the fence the thread sees the tail, and does not sleep
    (1, ["sleep", "without:fence", "get", "prep", "flush", "drain"]),  # nobody has read the flag
    (1, ["without:fence", "get", "prep", "flush", "flag", "drain", "sleep"]),
    (2, ["op:multi", "short", "op:nop", "feed", "feed", "fetch"]),  # they have MORE
    (2, ["short", "fetch", "short", "fetch"]),
    (3, ["discard", "short", "late:2", "fetch"]),  # another timeout
    (4, ["feed", "fetch", "free:1"]),
)  # fmt: skip


def open_exercise(shown, page, number):
    shown.open(page, still=True)
    shown.click('[data-tab="exercises"]')
    shown.value(f"byId('which').value = {number}; byId('which').dispatchEvent(new Event('change'))")


@pytest.mark.parametrize("number", range(len(SOLUTIONS)))
def test_exercise_when_it_is_done_then_it_says_so_and_not_before(shown, page, number):
    open_exercise(shown, page, number)
    assert shown.value("EXERCISES.length") == len(SOLUTIONS)
    verdict = "byId('verdict').textContent"
    for act in SOLUTIONS[number]:
        assert shown.value(verdict).startswith("Not yet")
        do(shown, act)
    answers = shown.value("EXERCISES[exercise].question ? EXERCISES[exercise].question[1] : []")
    right = shown.value("RIGHT[exercise]")
    for answer in sorted(range(len(answers)), key=lambda n: str(n) == right):  # the right one last
        assert "Solved" not in shown.value(verdict)
        shown.value(f"byId('answer').value = {answer}; byId('answer').dispatchEvent(new Event('change'))")
        assert answers[answer][1] in shown.value(verdict)  # the reason why it is wrong
    assert shown.value(verdict).startswith("Solved")
    do(shown, "op:nop", "short")
    assert shown.value(verdict).startswith("Solved")  # and stays solved
    shown.click("#anew")
    assert shown.value(verdict).startswith("Not yet")


@pytest.mark.parametrize(("number", "acts"), NO_SOLUTIONS)
def test_exercise_when_something_else_is_done_then_it_is_not_solved(shown, page, number, acts):
    open_exercise(shown, page, number)
    do(shown, *acts)
    assert shown.value("byId('verdict').textContent").startswith("Not yet")
    assert "to do" in shown.value("byId('wanted').textContent")


# ------------------------------------------------------------------------------------------------------
# The page of a trace


def test_trace_page_when_the_trace_is_hostile_then_its_text_is_text(shown, tmp_path):
    name = "<img src=x onerror=document.title=1>"
    lines = [f'["r",0,"{name}",4,8,0]', f'["s",1,"{name}",5,6,0]', '["s",1,"1.1",5,6,0]']
    path = tmp_path / "run.html"
    path.write_text(play.trace_page(lines), encoding="ascii")
    shown.open(path, still=True)
    assert name in shown.value("byId('left').textContent") and name in shown.value("byId('numbers').textContent")
    assert shown.value("document.images.length") == 0


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_trace_page_then_trouble_comes_first_and_the_requests_can_be_ordered(shown, tmp_path, width, dark):
    path = tmp_path / "run.html"
    path.write_text(play.trace_page([*invented(2000), '["s",9,"1.1",5000,6,0]']), encoding="ascii")
    shown.open(path, width=width, dark=dark, still=True)
    assert "1 request was still in flight" in shown.value("document.querySelector('main .card').textContent")
    first = "document.querySelector('#requests tbody td').textContent"
    assert shown.value(first) == "READ 1999"
    shown.value("byId('order').value = 'time'; byId('order').dispatchEvent(new Event('change'))")
    assert shown.value(f"{first} === 'READ ' + DATA.sample[0].user_data")
    shown.value("byId('scale').value = 'time'; byId('scale').dispatchEvent(new Event('change'))")
    assert "end" in shown.value("document.querySelector('#requests thead').textContent")
    shown.value("byId('only').value = 'READ'; byId('only').dispatchEvent(new Event('change'))")
    assert shown.value("document.querySelectorAll('#requests tbody tr').length") == 300
    assert "in the call that submitted it 100 %" in shown.value("byId('ops').textContent")
    assert shown.value("document.documentElement.scrollWidth") <= width
    assert "A sample: 300 of 2,000" in shown.value("byId('sampled').textContent")
    axe = os.environ.get("AXE")
    if axe:
        shown.value(Path(axe).read_text(encoding="utf-8") + "; 1")
        assert shown.value("axe.run().then((r) => r.violations.map((v) => [v.id, v.nodes[0].html]))") == []
