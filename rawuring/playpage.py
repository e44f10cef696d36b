# SPDX-License-Identifier: MIT
# pyright: basic
"""The page of play.py: its style, its markup and its script.

What it is: three texts, and fill(), which combines them and the data of play.py into one file. They are
strings in a module, because a copy, a zip and a copy in one file contain only modules.
Mirrors: nothing.
Must not know: where the data come from.
Invariant: the page is ASCII, loads nothing (its Content-Security-Policy forbids it), and works by keyboard.
Read next: playtrace.py.

Unless said otherwise, any thread may call.

The program folds events to states. ``fold`` applies one event to a state, so the state at every place of the
scrubber is known, forward and back; ``draw`` shows one. A state is plain data: the words by name, the slots, the
requests (in the order in which their SQEs were filled), and the kernel's internal lists.
"""

from __future__ import annotations

import json

from . import playkernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"

STYLE = r"""
:root {
  color-scheme: light dark;
  --page: #f7f6f2; --card: #ffffff; --text: #1d2228; --soft: #525c66; --line: #d5d3cb;
  --us: #0b5cad; --us-pale: #dcebfa; --kernel: #a14a00; --kernel-pale: #fdeacf;
  --bad: #b3141b; --good: #1d6b34; --on: #ffffff; --shade: 0 1px 2px #0001, 0 4px 16px #0000000a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --card: #1d2228; --text: #e8e6e0; --soft: #a9b2bc; --line: #39424c;
    --us: #7db8f2; --us-pale: #1d3a57; --kernel: #f0a550; --kernel-pale: #4a3113;
    --bad: #ff8a80; --good: #7fd598; --on: #101418; --shade: none;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
code, .mono, pre, svg text { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
header { padding: 1.2rem 1.5rem .4rem; max-width: 1500px; margin: auto; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .3rem; letter-spacing: -.02em; display: flex; gap: .6rem; align-items: center; }
h1 svg { width: 2.4rem; height: 1.5rem; flex: none; fill: none; stroke-width: 5; stroke: var(--us); }
h1 svg .two { stroke: var(--kernel); }
h2 { font-size: 1.05rem; margin: 0 0 .5rem; }
h3 { font-size: 1rem; margin: .7rem 0 .3rem; }
p { margin: .5rem 0; }
.soft { color: var(--soft); }
.lead { max-width: 62rem; margin: 0; }
nav { display: flex; flex-wrap: wrap; gap: .4rem; margin-top: .8rem; }
button, select, input { font: inherit; color: inherit; }
button, select {
  background: var(--card); border: 1px solid var(--soft); border-radius: .45rem; padding: .3rem .7rem;
  min-height: 2.2rem; max-width: 100%; cursor: pointer;
}
#panel button { padding: .2rem .55rem; font-size: .93rem; min-height: 2rem; } #panel h3 { margin-top: 1rem; }
#panel input[type="number"] { background: var(--card); border: 1px solid var(--soft); border-radius: .45rem; padding: .2rem .4rem; }
button:hover:not(:disabled) { border-color: var(--us); background-color: var(--us-pale); }
button.main { background: var(--us); color: var(--on); border-color: var(--us); font-weight: 600; padding: .3rem 1rem; }
button.main:hover:not(:disabled) { background: var(--us); filter: brightness(1.12); }
#tabs { gap: 0; } #tabs button { border-radius: 0; margin-left: -1px; padding: .4rem 1rem; }
#tabs button:first-child { border-radius: .6rem 0 0 .6rem; margin-left: 0; } #tabs button:last-child { border-radius: 0 .6rem .6rem 0; }
.term {
  cursor: pointer; border-radius: .15rem; text-decoration: underline dotted var(--us); text-decoration-thickness: 2px; text-underline-offset: .2em;
}
#explained {
  position: fixed; left: 50%; bottom: 1rem; transform: translateX(-50%); width: min(42rem, calc(100vw - 1.5rem)); z-index: 5;
  background: var(--card); border: 2px solid var(--us); border-radius: .8rem; padding: .7rem 3rem .7rem 1rem; box-shadow: 0 6px 30px #0005;
}
#explained button { position: absolute; right: .5rem; top: .5rem; min-height: 1.9rem; padding: 0 .6rem; }
button:disabled { opacity: .45; cursor: not-allowed; }
button[aria-selected="true"], button[aria-selected="true"]:hover:not(:disabled), button[aria-pressed="true"], button[aria-pressed="true"]:hover:not(:disabled) {
  background: var(--us); color: var(--on); border-color: var(--us);
}
:focus-visible { outline: 3px solid var(--us); outline-offset: 2px; }
g:focus-visible { outline: none; }
g:focus-visible > .shape { stroke: var(--text); stroke-width: 4; }
main {
  display: grid; gap: 1rem; padding: 1rem 1.5rem 3rem; max-width: 1500px; margin: auto; align-items: start;
  grid-template-columns: minmax(17rem, 1.1fr) minmax(30rem, 2.3fr) minmax(16rem, 1fr);
}
.column { display: grid; gap: 1rem; min-width: 0; }
.card {
  background: var(--card); border: 1px solid var(--line); border-radius: .8rem; padding: .9rem 1rem; min-width: 0;
  box-shadow: var(--shade);
}
.rings { display: grid; grid-template-columns: 1fr 1fr; gap: .25rem; }
figure { margin: 0; min-width: 0; }
figure svg { width: 100%; height: auto; display: block; }
figcaption { text-align: center; }
.scrub { display: flex; flex-wrap: wrap; gap: .4rem; align-items: center; }
.scrub input { flex: 1 1 8rem; min-width: 6rem; accent-color: var(--us); height: 2.2rem; }
.scrub button { display: inline-flex; align-items: center; gap: .4rem; } .scrub svg { width: 1em; height: 1em; fill: currentColor; }
#now {
  min-height: 4.9em; margin: .6rem 0 0; padding: .5rem .7rem; border-left: .3rem solid var(--line);
  background: var(--page); border-radius: 0 .4rem .4rem 0; overflow-wrap: anywhere;
}
#now .plain { font-size: 1.12rem; line-height: 1.35; display: block; margin-bottom: .15rem; }
#now .bad-text { display: block; } #now .exact { font-size: .88rem; color: var(--soft); } #now .exact b { color: var(--text); }
#now.us { border-color: var(--us); } #now.kernel { border-color: var(--kernel); } #now.bad { border-color: var(--bad); }
.us-text { color: var(--us); font-weight: 600; } .kernel-text { color: var(--kernel); font-weight: 600; }
.bad-text { color: var(--bad); font-weight: 600; } .good-text { color: var(--good); font-weight: 600; }
.slot { cursor: pointer; }
.shape { stroke: var(--card); stroke-width: 2; }
.slot.ours .shape { fill: var(--us-pale); } .slot.theirs .shape { fill: var(--kernel-pale); }
.slot.ours.full .shape { fill: var(--us); } .slot.theirs.full .shape { fill: var(--kernel); }
.slot text { fill: var(--text); font-size: 18px; text-anchor: middle; pointer-events: none; }
.slot.full text { fill: var(--on); } .slot.narrow text { font-size: 14px; }
.slot.bad .shape { fill: var(--bad); stroke: var(--bad); } .slot.bad text { fill: var(--on); }
.mark { fill: none; stroke: var(--text); stroke-width: 4; pointer-events: none; }
.hub { fill: var(--text); text-anchor: middle; font-size: 16px; } .hub.big { font-size: 24px; font-weight: 700; }
.hub.small { fill: var(--soft); font-size: 15px; }
.arrow line { stroke-width: 3; } .arrow text { font-size: 17px; font-weight: 600; } .arrow.long text { font-size: 12px; }
.arrow.us line { stroke: var(--us); } .arrow.us text, .arrow.us path { fill: var(--us); }
.arrow.kernel line { stroke: var(--kernel); } .arrow.kernel text, .arrow.kernel path { fill: var(--kernel); }
.arrow.bad line { stroke: var(--bad); } .arrow.bad text, .arrow.bad path { fill: var(--bad); }
@keyframes pulse { from { opacity: .15; } to { opacity: 1; } }
@keyframes turn { from { transform: rotate(var(--from)); } }
@media (prefers-reduced-motion: no-preference) {
  .arrow.fresh { animation: turn .45s ease-out; } .slot .shape { transition: fill .2s; }
  .slot.fresh, tr.fresh td, .array .fresh { animation: pulse .5s ease-out; }
}
.legend { display: grid; grid-template-columns: repeat(2, minmax(0, max-content)); gap: .2rem 1.5rem; font-size: .87rem; justify-content: center; margin-top: .5rem; }
.legend i {
  display: inline-block; width: .9em; height: .9em; border-radius: .2em; margin-right: .35em; vertical-align: -.1em;
  border: 1px solid var(--soft);
}
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: .82rem; }
th, td { padding: .18rem .4rem .18rem 0; vertical-align: top; }
.scroll { overflow-x: auto; }
td button, .array button { padding: 0 .45rem; min-height: 1.75rem; border-color: var(--line); background: var(--page); }
.array { display: flex; flex-wrap: wrap; gap: .3rem; align-items: center; font-size: .9rem; margin-top: .4rem; }
dl { margin: 0; display: grid; grid-template-columns: max-content 1fr; gap: .2rem .8rem; font-size: .94rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.bytes { display: grid; grid-template-columns: 2.2rem repeat(8, 1fr); gap: 2px; font-size: .8rem; margin: .5rem 0; }
.bytes span { text-align: center; padding: .12rem 0; border-radius: .2rem; background: var(--page); }
.bytes .at { background: none; color: var(--soft); text-align: right; padding-right: .3rem; }
.bytes .f0 { background: var(--us-pale); } .bytes .f1 { background: var(--kernel-pale); }
ol.log { margin: 0; padding: 0; list-style: none; max-height: 24rem; overflow: auto; font-size: .9rem; }
ol.log button {
  width: 100%; text-align: left; border: 0; border-left: .25rem solid var(--line); border-radius: 0; background: none;
  padding: .12rem .5rem; min-height: 1.7rem; overflow-wrap: anywhere;
}
ol.log .us { border-left-color: var(--us); } ol.log .kernel { border-left-color: var(--kernel); }
ol.log .bad { border-left-color: var(--bad); }
ol.log button[aria-current="true"] { background: var(--us-pale); }
ol.log .title { font-weight: 600; padding: .5rem 0 .1rem; }
.spans text { font-size: 12px; fill: var(--text); } .spans .cursor { stroke: var(--text); stroke-width: 1.5; }
.spans .ours { fill: var(--us); } .spans .theirs { fill: var(--kernel); } .spans .wait { fill: var(--soft); }
.spans .later { opacity: .28; }
.trace { grid-template-columns: 1fr 1fr; } .trace .wide { grid-column: 1 / -1; } .tall { max-height: 30rem; overflow: auto; }
.trace .legend { display: flex; flex-wrap: wrap; justify-content: flex-start; } .trace td.mono { white-space: nowrap; } .trace td { padding-right: .8rem; } #ops td, .trace #requests td { white-space: nowrap; } #stages td:first-child { min-width: 9rem; }
.findings { padding: 0; margin: 0; list-style: none; display: grid; gap: .5rem; }
.findings li { border-left: .3rem solid var(--kernel); background: var(--page); padding: .4rem .7rem; border-radius: 0 .4rem .4rem 0; }
.findings .bad { border-color: var(--bad); } .findings .bad b { color: var(--bad); }
.lane { width: 45%; min-width: 8rem; } .lane span { display: block; height: .8rem; margin-top: .3rem; background: var(--kernel); border-radius: .15rem; }
.lane div { display: flex; height: .85rem; margin-top: .3rem; } .lane i { flex: 0 0 auto; min-width: 1px; }
.queued { background: var(--us-pale); outline: 1px solid var(--us); outline-offset: -1px; } .kernel-way { background: var(--kernel); }
.cq-way { background: var(--kernel-pale); outline: 1px solid var(--kernel); outline-offset: -1px; } .reaped-way { background: var(--soft); }
.handler-way { background: var(--us); }
.row { display: flex; flex-wrap: wrap; gap: .4rem; align-items: center; margin: .35rem 0; }
#panel .steps button { padding: .2rem .45rem; font-size: .88rem; }
.steps { display: grid; grid-template-columns: max-content 1fr; gap: .3rem .5rem; line-height: 1.25; align-items: center; font-size: .9rem; margin: .5rem 0; }
.steps button { text-align: left; }
.wanted { list-style: none; padding: 0; margin: .6rem 0; font-size: .93rem; } .wanted li { padding: .1rem 0; }
details { margin: .35rem 0; } summary { cursor: pointer; }
.skip { position: absolute; left: -100rem; } .skip:focus { left: 1rem; top: .5rem; background: var(--card); padding: .5rem; }
kbd { border: 1px solid var(--soft); border-radius: .25rem; padding: 0 .3rem; font-size: .85em; }
[hidden] { display: none !important; }
@media (max-width: 1180px) {
  main { grid-template-columns: minmax(15rem, 1fr) minmax(24rem, 2fr); }
  main > .column:last-child { grid-column: 1 / -1; grid-template-columns: 1fr 1fr; align-items: start; }
}
@media (max-width: 1000px) {
  header { padding: 1rem .8rem .2rem; } main { grid-template-columns: 1fr; padding: .8rem .8rem 4rem; gap: .8rem; }
  h1 { font-size: 1.5rem; } #panel p { max-width: 44rem; }
  main > .column { display: contents; } main > .column > * { order: 3; } #panel { order: 2; } #log-card { order: 4; }
  #bar { order: 0; position: sticky; top: 0; z-index: 3; padding: .5rem .6rem; border-radius: 0 0 .8rem .8rem; }
  #rings-card { order: 1; } [data-tab="drive"] #rings-card, [data-tab="exercises"] #rings-card { order: 3; }
  .scrub button { padding: .2rem .6rem; } #now { min-height: 5.2em; margin-top: .4rem; padding: .3rem .6rem; font-size: .95rem; }
  ol.log { max-height: 14rem; } #tabs button { padding: .35rem .6rem; font-size: .93rem; }
  .card { padding: .7rem .7rem; } .trace .card { grid-column: 1 / -1; }
}
@media (max-width: 620px) {
  .rings { grid-template-columns: 1fr; } figure svg { max-height: 18rem; }
  .slot text { font-size: 19px; } .arrow text { font-size: 18px; } .slot.narrow text { font-size: 15px; }
}
"""

BODY = r"""
<a class="skip" href="#stage">To the rings</a>
<header>
  <h1><svg viewBox="0 0 64 40" aria-hidden="true"><circle cx="22" cy="20" r="15"/><circle class="two" cx="42" cy="20" r="15"/></svg>Play with the rings</h1>
  <p class="lead soft">How a Linux program and its kernel talk through io_uring: each change of their shared memory is a step, forward and back.
    The same as text: <code>python -m rawuring.tour</code>.</p>
  <nav role="tablist" aria-label="What to do" id="tabs"></nav>
</header>
<main>
  <div class="column">
    <section class="card" id="panel" aria-label="What happens"></section>
    <section class="card" id="log-card" aria-labelledby="log-title"><h2 id="log-title">What has changed, in order</h2>
      <ol class="log" id="log" tabindex="0" aria-labelledby="log-title"></ol></section>
  </div>
  <div class="column" id="stage" tabindex="-1">
    <section class="card" id="bar" aria-label="The place in the recording">
      <div class="scrub" id="scrub">
        <button id="first" aria-label="To the beginning"><svg viewBox="0 0 16 16" aria-hidden="true"><path d="M2 2h2v12H2zM14 2v12L5 8z"/></svg></button>
        <button id="back" aria-label="One change back"><svg viewBox="0 0 16 16" aria-hidden="true"><path d="M12 2v12L3 8z"/></svg></button>
        <button id="play" class="main" aria-pressed="false">Play</button>
        <button id="forth" aria-label="One change forward"><svg viewBox="0 0 16 16" aria-hidden="true"><path d="M4 2v12l9-6z"/></svg></button>
        <button id="last" aria-label="To the end"><svg viewBox="0 0 16 16" aria-hidden="true"><path d="M12 2h2v12h-2zM2 2v12l9-6z"/></svg></button>
        <input id="place" type="range" min="0" value="0" aria-label="Place in the recording">
      </div>
      <p id="now" role="status" aria-live="polite"></p>
    </section>
    <section class="card" id="rings-card" aria-label="The rings">
      <div class="rings" id="rings"></div>
      <div class="legend" id="legend">
        <span><i style="background:var(--us-pale)"></i>ours (the program's), free</span>
        <span><i style="background:var(--kernel-pale)"></i>the kernel's, free</span>
        <span><i style="background:var(--us)"></i>ours, holds an entry</span>
        <span><i style="background:var(--kernel)"></i>the kernel's, holds an entry</span>
      </div>
    </section>
    <section class="card" aria-labelledby="words-title"><h2 id="words-title">The words</h2>
      <p class="soft">Those with a k are in the shared memory: one side writes, both read. sq.sqe_tail is private to the program.</p>
      <div class="scroll" tabindex="0" role="region" aria-label="Table of the words"><table id="words"></table></div>
      <div class="array" id="array"></div></section>
  </div>
  <div class="column">
    <section class="card" aria-labelledby="details-title"><h2 id="details-title">What changed last, or what you click</h2>
      <div id="details" aria-live="polite"></div></section>
    <section class="card" aria-labelledby="requests-title"><h2 id="requests-title">Requests, and who holds what</h2>
      <div id="requests"></div></section>
  </div>
</main>
<div id="explained" role="status" hidden></div>
"""

# Data, the fold, and the drawing of a state.
VIEW = r"""
"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const NAMES = DATA.names;
const U32 = 0xffffffff;
const byId = (id) => document.getElementById(id);
const escape = (text) => String(text).replace(/[&<>"]/g, (c) => ({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}[c]));
const distance = (a, b) => (a - b) >>> 0;
const opcodeName = (code) => Object.keys(NAMES.opcodes).find((name) => NAMES.opcodes[name] === code) || "opcode " + code;
const shortName = (op) => op.replace("ASYNC_", "").replace("PROVIDE_", "").replace("REMOVE", "REM");
const WHO = {us: "us", kernel: "kernel"};

function flagNames(value) {
  const names = [[1, "NEED_WAKEUP"], [2, "CQ_OVERFLOW"], [4, "TASKRUN"]];
  return names.filter(([bit]) => value & bit).map(([, name]) => name).join("|") || "0";
}

function cqeFlagNames(value) {
  const names = [[1, "BUFFER"], [2, "MORE"], [4, "SOCK_NONEMPTY"], [8, "NOTIF"]];
  const found = names.filter(([bit]) => value & bit).map(([, name]) => name);
  if (value & 1) found.push("buffer " + (value >>> 16));
  return found.join("|") || "0";
}

function resName(res) {
  const name = Object.keys(NAMES.errno).find((each) => NAMES.errno[each] === -res);
  return res < 0 ? "-" + (name || -res) : String(res);
}

// The 64 bytes of an SQE. Numbers beyond 2**53 do not occur here, except addresses, which are shown in hex.
function sqeFields(hex) {
  const bytes = new DataView(Uint8Array.from(hex.match(/../g), (pair) => parseInt(pair, 16)).buffer);
  const le = NAMES.little;
  return {
    opcode: bytes.getUint8(0), flags: bytes.getUint8(1), fd: bytes.getInt32(4, le), addr: bytes.getBigUint64(16, le),
    len: bytes.getUint32(24, le), user_data: Number(bytes.getBigUint64(32, le)), view: bytes,
  };
}

// -- the fold: one event applied to a state

function firstState(ring) {
  const state = {
    ring, words: {}, sqes: [], cqes: [], waits: [], overflow: [], requests: [], slotOf: {}, posted: {}, trouble: {},
    changed: "",
  };
  for (const [name, value] of Object.entries(ring.words)) {
    if (!name.endsWith("]")) state.words[name] = value;
  }
  for (const [name, slot] of Object.entries(ring.slots)) {
    const index = Number(name.slice(4, -1));
    if (slot.bytes) state.sqes[index] = slot.bytes;
    else state.cqes[index] = slot.cqe;
  }
  return state;
}

function fold(before, event) {
  const state = {
    ...before, words: {...before.words}, sqes: [...before.sqes], cqes: [...before.cqes],
    requests: before.requests.map((each) => ({...each})), slotOf: {...before.slotOf}, posted: {...before.posted},
    trouble: event.kind === "word" || event.kind === "copy" || event.kind === "call" ? {} : before.trouble,
    changed: event.name || "",
  };
  if (event.waits) state.waits = event.waits;
  if (event.overflow) state.overflow = event.overflow;
  if (event.trouble) state.trouble = event.trouble;
  if (event.kind === "word") foldWord(state, before, event);
  if (event.kind === "copy") foldCopy(state, event);
  for (const [user_data, , flags] of state.overflow) {
    const request = ofUserData(state, user_data);
    if (request && request.phase === "kernel" && !(flags & 2)) request.phase = "overflow";
  }
  return state;
}

function ofUserData(state, user_data) {
  const open = state.requests.filter((each) => each.user_data === user_data && each.phase !== "done");
  return open.find((each) => each.phase === "kernel" || each.phase === "overflow") || open[0];
}

function foldWord(state, before, event) {
  const name = event.name;
  if (name.startsWith("sqe[")) {
    const slot = Number(name.slice(4, -1));
    state.sqes[slot] = event.bytes;
    const fields = sqeFields(event.bytes);
    if (fields.opcode === 0xee) return; // the filling of a consumed slot
    const memory = [22, 31].includes(fields.opcode) && fields.len && !(fields.flags & 32)
      ? fields.len * (fields.opcode === 31 ? fields.fd : 1) : 0;
    const old = state.requests[state.slotOf[slot]];
    if (old && (old.phase === "published" || old.phase === "filled")) old.phase = "lost";
    state.slotOf[slot] = state.requests.length;
    state.requests.push({user_data: fields.user_data, op: opcodeName(fields.opcode), phase: "filled", memory, answers: 0});
    return;
  }
  if (name.startsWith("cqe[")) {
    const slot = Number(name.slice(4, -1));
    const [user_data, , flags] = state.cqes[slot] = event.cqe;
    const request = ofUserData(state, user_data);
    const index = before.words["cq.ktail"];
    if (request) {
      request.answers += 1;
      if (!(flags & 2)) request.phase = "posted";
      state.posted[index] = state.requests.indexOf(request);
    }
    return;
  }
  state.words[name] = event.new;
  if (name === "sq.ktail") {
    for (let i = event.old; i !== event.new && distance(event.new, i) <= state.ring.sq_entries; i = (i + 1) >>> 0) {
      const request = state.requests[state.slotOf[slotAt(state, i)]];
      if (request && request.phase === "filled") request.phase = "published";
    }
  } else if (name === "cq.khead") {
    for (let i = event.old; i !== event.new && distance(event.new, i) <= state.ring.cq_entries; i = (i + 1) >>> 0) {
      const request = state.requests[state.posted[i]];
      if (request && request.phase === "posted") request.phase = "done";
      delete state.posted[i];
    }
  } else if (name === "sq.sqe_tail" && event.new < event.old) {
    for (const request of state.requests) if (request.phase === "filled") request.phase = "discarded";
  }
}

function foldCopy(state, event) {
  const slot = Number(event.name.slice(4, -1));
  const number = state.slotOf[slot];
  const request = state.requests[number];
  if (!request) return;
  if (request.phase === "published" || request.phase === "filled") request.phase = "kernel";
  else { // the same bytes once more
    state.slotOf[slot] = state.requests.length;
    state.requests.push({...request, phase: "kernel", again: true, answers: 0});
  }
}

function slotAt(state, index) {
  const place = index & (state.ring.sq_entries - 1);
  return state.ring.array ? state.ring.array[place] : place;
}

// -- drawing

let chosen = "sq.ktail";

function point(radius, turn) {
  const angle = (turn - 0.25) * 2 * Math.PI;
  return [radius * Math.cos(angle), radius * Math.sin(angle)].map((x) => Math.round(x * 10) / 10);
}

function sector(inner, outer, from, to) {
  const [a, b, c, d] = [point(outer, from), point(outer, to), point(inner, to), point(inner, from)];
  const wide = to - from > 0.5 ? 1 : 0;
  return `M${a} A${outer} ${outer} 0 ${wide} 1 ${b} L${c} A${inner} ${inner} 0 ${wide} 0 ${d} Z`;
}

function owners(state, queue) {
  const {words, ring} = state;
  const found = [];
  if (queue === "sq") {
    for (let i = 0; i < ring.sq_entries; i++) found.push(["ours", false, "free: ours to fill"]);
    const head = words["sq.khead"], tail = words["sq.ktail"];
    for (let n = 0; n < Math.min(distance(tail, head), ring.sq_entries); n++) {
      found[slotAt(state, head + n)] = ["theirs", true, "published: the kernel's, until sq.khead has passed it"];
    }
    for (let n = 0; n < Math.min(distance(words["sq.sqe_tail"], tail), ring.sq_entries); n++) {
      found[slotAt(state, tail + n)] = ["ours", true, "taken by us, not published: the kernel does not know of it"];
    }
    return found;
  }
  for (let i = 0; i < ring.cq_entries; i++) found.push(["theirs", false, "free: the kernel's to fill"]);
  const head = words["cq.khead"], tail = words["cq.ktail"];
  for (let n = 0; n < Math.min(distance(tail, head), ring.cq_entries); n++) {
    found[(head + n) & (ring.cq_entries - 1)] = ["ours", true, "posted: ours to copy, until we move cq.khead over it"];
  }
  return found;
}

function slotLines(state, queue, i) {
  if (queue === "sq") {
    if (!state.sqes[i] || /^(00|ee)+$/.test(state.sqes[i])) return ["empty"];
    const fields = sqeFields(state.sqes[i]);
    return [shortName(opcodeName(fields.opcode)), "ud " + fields.user_data];
  }
  const cqe = state.cqes[i];
  return cqe ? ["ud " + cqe[0], (cqe[1] < 0 ? "" : "res ") + resName(cqe[1])] : ["empty"];
}

function ringSvg(state, queue) {
  const entries = state.ring[queue + "_entries"];
  const mask = entries - 1;
  const kind = queue === "sq" ? "sqe" : "cqe";
  let out = "", mark = "";
  owners(state, queue).forEach(([owner, full, says], i) => {
    const key = `${kind}[${i}]`;
    const lines = slotLines(state, queue, i);
    const [x, y] = point(107, (i + 0.5) / entries);
    const bad = state.trouble[key];
    const label = `[${i}] ${lines.join(" ")}: ${kind.toUpperCase()} slot ${i}, ${bad || says}`;
    const classes = ["slot", entries > 4 && "narrow", ...(bad ? ["bad"] : [owner, full && "full"]), key === state.changed && "fresh"];
    const texts = [String(i), ...lines].map((line, n, all) =>
      `<text aria-hidden="true" x="${x}" y="${y + 5 + (n - (all.length - 1) / 2) * 19}">${escape(n ? line : "[" + line + "]")} </text>`);
    out += `<g class="${classes.filter(Boolean).join(" ")}" role="button" tabindex="0" data-key="${key}"` +
      ` aria-label="${escape(label)}"><path class="shape" d="${sector(58, 152, i / entries, (i + 1) / entries)}"/>` +
      texts.join("") + "</g>";
    if (key === chosen) mark = `<path class="mark" d="${sector(58, 152, i / entries, (i + 1) / entries)}"/>`;
  });
  out += mark; // above its neighbours
  const arrows = queue === "sq"
    ? [["sq.khead", 0.18, 172, "kernel"], ["sq.ktail", 0.5, 182, "us"], ["sq.sqe_tail", 0.82, 172, "us"]]
    : [["cq.khead", 0.25, 172, "us"], ["cq.ktail", 0.75, 180, "kernel"]];
  for (const [name, share, radius, who] of arrows) {
    const value = state.words[name];
    const turn = ((value & mask) + share) / entries;
    const [x, y] = point(radius, turn), [a, b] = point(radius - 4, turn), [c, d] = point(156, turn);
    const anchor = x < 0 ? "end" : "start";
    const above = Math.abs(x) < 25; // or below: there is room for one line, beside the ring for two
    const bad = state.trouble[name];
    out += `<g class="arrow ${bad ? "bad" : who} ${value > 99999 ? "long" : ""} ${name === state.changed ? "fresh" : ""}" aria-hidden="true"` +
      ` style="--from:${(-360 * moved(name, value) / entries).toFixed(1)}deg">` +
      `<line x1="${a}" y1="${b}" x2="${c}" y2="${d}"/><path d="${tip(turn)}"/>` +
      (above ? `<text x="${x}" y="${y + (y < 0 ? -2 : 14)}" text-anchor="middle">${name.slice(3)} ${value}</text></g>`
        : `<text text-anchor="${anchor}"><tspan x="${x}" y="${y - 3 + y / 14}">${name.slice(3)} </tspan><tspan x="${x}" y="${y + 14 + y / 14}">${value}</tspan></text></g>`);
  }
  const [head, tail] = [state.words[queue + ".khead"], state.words[queue + ".ktail"]];
  const count = distance(tail, head);
  out += `<g aria-hidden="true"><text class="hub big" y="-8">${queue.toUpperCase()}</text>` +
    `<text class="hub" y="13">${count} of ${entries}</text><text class="hub small" y="32">mask ${mask}</text></g>`;
  const [word, at] = queue === "sq" ? ["ktail", tail] : ["khead", head];
  const caption = `${word} ${at} &amp; ${mask} = slot ${(at & mask) >>> 0}`;
  return `<figure><svg viewBox="-260 -200 520 400" role="group" aria-label="${queue === "sq" ? "Submission" : "Completion"} ` +
    `queue, ${count} of ${entries} entries">${out}</svg><figcaption class="soft mono">${caption}</figcaption></figure>`;
}

// By how many slots the last event has moved an index: its arrow turns from there.
function moved(name, value) {
  const event = run.events[place];
  if (!event || event.name !== name || event.kind !== "word") return 0;
  return Math.max(-4, Math.min(4, (value - event.old) | 0));
}

function tip(turn) {
  const [a, b, c] = [point(154, turn), point(164, turn - 0.009), point(164, turn + 0.009)];
  return `M${a} L${b} L${c} Z`;
}

function wordRows(state) {
  const rows = Object.entries(state.words).map(([name, value]) => {
    const word = DATA.words[name];
    const shown = name === "sq.kflags" ? flagNames(value) : value;
    const bad = state.trouble[name];
    return `<tr class="${name === state.changed ? "fresh" : ""}"><td><button data-key="${name}"` +
      ` aria-pressed="${name === chosen}" class="mono">${name}</button></td>` +
      `<td class="mono ${bad ? "bad-text" : ""}">${shown}</td>` +
      `<td class="${word.writer}-text">${WHO[word.writer]}</td><td>${escape(bad || word.meaning)}</td></tr>`;
  });
  return `<thead><tr><th scope="col">word</th><th scope="col">value</th><th scope="col">written by</th>` +
    `<th scope="col">meaning</th></tr></thead><tbody>${rows.join("")}</tbody>`;
}

function arrayRow(state) {
  if (!state.ring.array) return "<span>No index array: place i is slot i (IORING_SETUP_NO_SQARRAY).</span>";
  return "<span>index array:</span>" + state.ring.array.map((slot, place) =>
    `<button class="mono" data-key="array">[${place}] = ${slot}</button>`).join("");
}

// -- details of what was clicked

function details(state) {
  if (chosen === "array") {
    return `<p>The index array maps each place of the queue to an SQE slot, so that a program can fill
      slots in one order and submit them in another. We write it once, and do not read it again. From Linux 6.6 on it
      can be left out (IORING_SETUP_NO_SQARRAY).</p>`;
  }
  if (chosen.startsWith("sqe[")) return sqeDetails(state, Number(chosen.slice(4, -1)));
  if (chosen.startsWith("cqe[")) return cqeDetails(state, Number(chosen.slice(4, -1)));
  const word = DATA.words[chosen];
  const value = state.words[chosen];
  const entries = state.ring[chosen.slice(0, 2) + "_entries"];
  const rows = [
    ["value", chosen === "sq.kflags" ? flagNames(value) : value],
    ["in C", word.member], ["written by", WHO[word.writer]], ["ordered by", word.order], ["its partner", word.pair],
    ["meaning", word.meaning],
  ];
  if (/head|tail/.test(chosen)) rows.splice(1, 0, ["slot", `${value} & ${entries - 1} = ${value & (entries - 1)}`]);
  if (word.where) rows.push(["source", word.where + (word.code ? ": " + word.code : "")]);
  const bad = state.trouble[chosen];
  return (bad ? `<p class="bad-text">${escape(bad)}</p>` : "") +
    `<h3 class="mono">${chosen}</h3><dl>` + rows.map(([k, v]) => `<dt>${k}</dt><dd>${/C$|source/.test(k) ? escape(v) : linked(String(v))}</dd>`).join("") + "</dl>";
}

function sqeDetails(state, slot) {
  const owner = owners(state, "sq")[slot];
  const bad = state.trouble[`sqe[${slot}]`];
  let out = `<h3 class="mono">sqe[${slot}]</h3>` + (bad ? `<p class="bad-text">${escape(bad)}</p>` : "") +
    (owner ? `<p>${owner[2]}.</p>` : "");
  const hex = state.sqes[slot];
  if (!hex || /^0+$/.test(hex)) return out + "<p>64 bytes, all zero: not written yet.</p>";
  if (/^(ee)+$/.test(hex)) return out + "<p>64 bytes of 0xee: this kernel overwrites a slot that it has read, so that no program relies on it.</p>";
  const fields = sqeFields(hex);
  const operation = DATA.operations[fields.opcode];
  const uses = operation ? operation.uses : [[0, 1, "opcode", ""], [32, 8, "user_data", ""]];
  const owner_of = {};
  uses.forEach(([offset, size, member], n) => {
    for (let i = offset; i < offset + size; i++) owner_of[i] = [n % 2, member];
  });
  let cells = "";
  for (let row = 0; row < 64; row += 8) {
    cells += `<span class="at">${row}</span>`;
    for (let i = row; i < row + 8; i++) {
      const own = owner_of[i];
      cells += `<span class="${own ? "f" + own[0] : ""}" title="${own ? escape(own[1]) : "unused"}">${hex.slice(2 * i, 2 * i + 2)}</span>`;
    }
  }
  out += `<p class="mono">${escape(operation ? operation.call : opcodeName(fields.opcode))}</p>` +
    `<p>${escape(operation ? operation.summary : "")}</p>` +
    `<div class="bytes mono" role="img" aria-label="the 64 bytes in hexadecimal: ${hex.match(/.{16}/g).join(" ")}">${cells}</div>` +
    `<div class="scroll" tabindex="0" role="region" aria-label="The members of this SQE"><table><thead><tr><th scope="col">bytes</th>` +
    `<th scope="col">member</th><th scope="col">value</th><th scope="col">from</th></tr></thead><tbody>`;
  for (const [offset, size, member, source] of uses) {
    out += `<tr><td class="mono">${offset}${size > 1 ? "-" + (offset + size - 1) : ""}</td><td class="mono">${escape(member)}</td>` +
      `<td class="mono">${memberValue(fields.view, offset, size, member)}</td><td class="mono">${escape(source)}</td></tr>`;
  }
  return out + "</tbody></table></div><p class='soft'>All other bytes are zero: the whole SQE is written in one go, so nothing " +
    "of the slot's last request is left.</p>";
}

function memberValue(view, offset, size, member) {
  const le = NAMES.little;
  if (member === "fd") return view.getInt32(offset, le);
  if (member === "opcode") return view.getUint8(0) + " (" + opcodeName(view.getUint8(0)) + ")";
  if (member === "flags") {
    const value = view.getUint8(1);
    return Object.keys(NAMES.sqe_flags).filter((name) => value & NAMES.sqe_flags[name]).join(" ") || "0";
  }
  if (size === 8) {
    const value = view.getBigUint64(offset, le);
    return value === 0xffffffffffffffffn ? "-1" : /addr/.test(member) && value > 0xffffn ? "0x" + value.toString(16) : value.toString();
  }
  return size === 4 ? view.getUint32(offset, le) : size === 2 ? view.getUint16(offset, le) : view.getUint8(offset);
}

function cqeDetails(state, slot) {
  const owner = owners(state, "cq")[slot];
  const bad = state.trouble[`cqe[${slot}]`];
  const cqe = state.cqes[slot];
  let out = `<h3 class="mono">cqe[${slot}]</h3>` + (bad ? `<p class="bad-text">${escape(bad)}</p>` : "") + `<p>${owner[2]}.</p>`;
  if (!cqe) return out + "<p>16 bytes, all zero: not written yet.</p>";
  if (!owner[1]) {
    const early = slot === (state.words["cq.ktail"] & (state.ring.cq_entries - 1)) && state.changed === `cqe[${slot}]`;
    out += early ? "<p>Written but not published: until cq.ktail has moved, we must not read it.</p>"
      : "<p class='soft'>This entry was copied already.</p>";
  }
  const request = [...state.requests].reverse().find((each) => each.user_data === cqe[0]);
  const operation = request && DATA.operations[NAMES.opcodes[request.op]];
  let means = operation ? operation.res : "";
  if (cqe[1] < 0) means = `a negative errno: ${NAMES.strerror[-cqe[1]] || "errno " + -cqe[1]}`;
  const rows = [
    ["user_data", `${cqe[0]} (bytes 0-7), as it stood in the SQE` + (request ? `: ${request.op}` : "")],
    ["res", `${cqe[1]} (bytes 8-11)` + (cqe[1] < 0 ? ", " + resName(cqe[1]) : "")],
    ["flags", `${cqeFlagNames(cqe[2])} (bytes 12-15)`],
    ["res means", means || "0: done, there was nothing to count"],
    ["last one?", cqe[2] & 2 ? "no: F_MORE says that more will come for this request" : "yes: no F_MORE, the request is over"],
  ];
  return out + "<dl>" + rows.map(([k, v]) => `<dt>${linked(k)}</dt><dd>${escape(v)}</dd>`).join("") + "</dl>";
}

// -- requests over time

const PHASES = {
  filled: ["ours", "filled by us, not published", "ours"],
  published: ["theirs", "published: the SQE is the kernel's", "the kernel may use it at any time now"],
  kernel: ["theirs", "in the kernel: its SQE slot is free, the request is not", "the kernel's, until the final CQE"],
  overflow: ["wait", "done; its CQE waits outside the ring for room", "the kernel is done with it, and we cannot know yet"],
  posted: ["wait", "its CQE is in the ring", "ours as soon as we have seen the CQE"],
  done: ["", "reaped: over", "ours"],
  lost: ["", "overwritten before the kernel had read it: lost", "ours"],
  discarded: ["", "discarded before it was published", "ours"],
};

// Provided buffers stay with the kernel when their request is over.
const isPool = (request) => request.op === "PROVIDE_BUFFERS" && ["posted", "done"].includes(request.phase);

function requestsPanel(states, place) {
  const final = states[states.length - 1];
  if (!final.requests.length) return "<p class='soft'>None yet.</p>";
  const width = 300, left = 110, per = (width - left) / Math.max(states.length - 1, 1);
  let y = 4, shapes = "", says = "";
  final.requests.forEach((each, n) => {
    const rows = [[`${shortName(each.op)} ${each.user_data}`, 0]];
    if (each.memory) rows.push([`${each.memory} bytes`, 2]);
    for (const [name, memory] of rows) {
      shapes += `<text x="0" y="${y + 11}">${escape(name)}</text>`;
      const kindAt = (k) => {
        const request = states[k].requests[n];
        if (!request) return "";
        const kind = PHASES[request.phase][0];
        if (!memory) return kind;
        return request.phase === "filled" ? "ours" : isPool(request) || kind === "wait" ? "theirs" : kind;
      };
      // One rectangle for neighbours of a kind; what comes after the cursor is pale.
      let from = 0;
      for (let k = 1; k < states.length; k++) {
        if (kindAt(k) === kindAt(from) && k !== place && k < states.length - 1) continue;
        if (kindAt(from)) {
          shapes += `<rect class="${kindAt(from)} ${from >= place ? "later" : ""}" x="${(left + from * per).toFixed(1)}" y="${y}"` +
            ` width="${((k - from) * per).toFixed(1)}" height="${memory ? 6 : 13}"/>`;
        }
        from = k;
      }
      y += memory ? 14 : 19;
    }
    const now = states[place].requests[n];
    if (now) {
      says += `<li><b class="mono">${escape(now.op)} ${now.user_data}</b>${now.again ? " (once more)" : ""}: ${PHASES[now.phase][1]}` +
        (now.memory ? `. Its ${now.memory} bytes: ${isPool(now) ? "the kernel's, until a CQE says that one of the buffers was used" : PHASES[now.phase][2]}` : "") + ".</li>";
    }
  });
  const x = (left + place * per).toFixed(1);
  let out = `<svg class="spans" viewBox="0 0 ${width} ${y}" style="width:100%;height:auto" role="img" aria-label="` +
    `the requests over time; the list below says the same"><g>${shapes}</g><line class="cursor" x1="${x}" x2="${x}" y1="0" y2="${y}"/></svg>`;
  out += `<ul style="padding-left:1.1rem;font-size:.92rem">${says || "<li>None yet at this place.</li>"}</ul>`;
  const state = states[place];
  if (state.trouble.memory) out += `<p class="bad-text">${escape(state.trouble.memory)}</p>`;
  if (state.overflow.length) {
    out += `<p class="kernel-text">Waiting outside the ring: ${state.overflow.map((cqe) => "ud " + cqe[0]).join(", ")}</p>`;
  }
  return out;
}

// -- terms

const TERMS = {
  "SQ": "Submission queue: the ring into which the program puts requests. It moves the tail, the kernel the head.",
  "CQ": "Completion queue: the ring into which the kernel puts answers. It moves the tail, the program the head.",
  "SQE": "Submission queue entry: 64 bytes that describe a request: the operation, the descriptor, an address, a length, and user_data.",
  "CQE": "Completion queue entry: 16 bytes, the answer to a request: its user_data, the result (res), and flags.",
  "slot": "A place in a ring's array of entries. There are few of them, and they are used again and again.",
  "index": "A counter that only grows, and passes from 2**32 - 1 to 0. The mask turns it into a slot.",
  "mask": "The number of slots minus 1. As that number is a power of two, index & mask is the rest of a division: the slot.",
  "head": "The index of the next entry to be taken out. The side that takes entries out moves it.",
  "tail": "The index of the next entry to be put in. The side that puts entries in moves it, after filling them.",
  "user_data": "A number that the program chooses for each SQE. The CQE returns it, and so identifies the request. The rings abbreviate it: ud.",
  "res": "The result of a request: what the system call would have returned, such as a number of bytes; or a negative errno.",
  "errno": "The number of an error: 2 is ENOENT, no such thing; 9 is EBADF, no such descriptor.",
  "NOP": "No operation: a request that does nothing and is answered at once. It shows the way there and back.",
  "publish": "To store the new tail: from that store on, the other side may read the entries.",
  "reap": "To copy CQEs out of the CQ, and then to move its head: their slots are free again.",
  "io_uring_setup": "The system call that makes a ring.",
  "io_uring_enter": "The system call that makes the kernel read the SQ, and that can wait for completions.",
  "mapping": "Memory that mmap(2) has put into the program's address space. The kernel has the same memory: what one side stores, the other can load.",
  "descriptor": "The small number by which a process knows an open file, pipe or socket.",
  "pipe": "A queue of bytes in the kernel: what is written at one end is read at the other. Reading an empty one has to wait.",
  "release": "A store with a guarantee: a reader that sees it sees everything stored before it. So entries come first, and the tail after them.",
  "acquire": "A load with a guarantee: later loads return values at least as new. It is the partner of a release.",
  "full fence": "No access passes it: every store before it is visible before any load after it. Release and acquire do not guarantee that.",
  "in flight": "Submitted, but not yet completed with a last CQE.",
  "multishot": "A request that is answered again and again, until a CQE arrives without F_MORE.",
  "CQ_OVERFLOW": "A bit of sq.kflags: CQEs did not fit into the CQ, and wait on a list inside the kernel.",
  "NEED_WAKEUP": "A bit of sq.kflags: the kernel's thread sleeps, and io_uring_enter has to wake it.",
  "SQPOLL": "A kind of ring for which a thread of the kernel polls the SQ, so that submitting needs no system call.",
  "GETEVENTS": "A flag of io_uring_enter: also post the completions that are possible now.",
  "IOSQE_IO_LINK": "A flag of an SQE: the next one waits for this one, and is cancelled if it fails.",
  "POLL_ADD": "The request to be told when a descriptor is ready for reading or writing.",
  "POLL_REMOVE": "The request to end a POLL_ADD, which is named by its user_data.",
  "ASYNC_CANCEL": "The request to end another one, which is named by its user_data. Both are answered.",
  "TIMEOUT": "A request that is answered, with -ETIME, when a time has passed.",
  "DEFER_TASKRUN": "A flag of io_uring_setup: completions are made only when the program enters the kernel for them.",
  "inflight.py": "The file of rawuring with the table of requests in flight, which keeps their memory alive until the last CQE.",
  "fdmon.py": "The file of rawuring that waits for many descriptors with POLL_ADD, after the model of QEMU.",
  "buffer": "The memory that a request reads from, or writes into. The SQE contains only its address.",
  "barrier": "It keeps a CPU from changing the order in which others see its loads and stores: release, acquire, full fence.",
  "params": "The struct that io_uring_setup fills: the number of entries of each queue, and the place of each word in the mapping.",
  "index array": "Numbers of slots, one for each place of the SQ: so a program may fill slots in one order and send them in another.",
  "token": "A number that is used for one request only, and never again: so a late answer cannot be taken for another one's.",
  "ENOENT": "The error number for: it does not exist.",
  "ECANCELED": "The error number for: it was cancelled.",
  "EALREADY": "The error number for: it is already in progress.",
  "IORING_FEAT_NODROP": "A feature flag (from 5.5 on): the kernel keeps completions that do not fit into the CQ, and loses none.",
  "io_sq_thread": "The function of the kernel that SQPOLL's thread runs.",
  "store buffer": "The place where a CPU keeps its stores for a moment, before the other CPUs can see them.",
};
const LINKED = new RegExp("(?<![\\w.])(" + [...Object.keys(DATA.words || {}), ...Object.keys(TERMS)].sort((a, b) => b.length - a.length)
  .map((each) => each.replace(/[.*]/g, "\\$&")).join("|") + ")(ed|s|ing|es)?(?!\\w)", "g");

// Text in which the first of each term can be clicked, and each word of the rings.
function linked(text, seen = new Set()) {
  return escape(text).replace(LINKED, (whole, name) => {
    if (seen.has(name)) return whole;
    seen.add(name);
    const what = TERMS[name] ? `data-term="${name}"` : `data-key="${name}"`;
    return `<span class="term" role="button" tabindex="0" ${what}>${whole}</span>`; // a button would not break like text
  });
}

const paragraphs = (texts) => {
  const seen = new Set();
  return texts.map((each) => `<p>${linked(each, seen)}</p>`).join("");
};

function explain(term) {
  const box = byId("explained");
  box.hidden = !term;
  box.innerHTML = term ? `<b>${term}</b>. ${escape(TERMS[term])} <button id="unexplain" aria-label="Close">&times;</button>` : "";
}

// -- sentences

const FLAGS_SAY = {
  NEED_WAKEUP: ["The kernel's thread falls asleep, and signals that.", "The kernel's thread is awake again."],
  CQ_OVERFLOW: ["The kernel signals that answers wait outside the CQ for room.", "No answer waits outside the CQ any more."],
  TASKRUN: ["The kernel has work that it will do only when we enter.", "That work is done."],
};

// An event, described for readers who do not know the terms yet.
function plain(event) {
  const name = event.name || "", slot = /\[(\d+)\]/.exec(name);
  const by = event.kind === "word" && distance(event.new, event.old);
  const many = (n, one, more) => n === 1 ? one : more.replace("#", n);
  if (event.kind === "copy") return `The kernel copies the request out of slot ${slot[1]}.`;
  if (event.kind === "call") {
    const [count, least] = /\(fd, (\d+), (\d+)/.exec(event.text).slice(1).map(Number);
    return "We enter the kernel: a system call. " + [
      count ? many(count, "It is to take one request", "It is to take # requests") : "It has no request to take",
      least ? many(least, "and to come back with an answer.", "and to come back with # answers.") : "and need not wait.",
    ].join(", ");
  }
  if (event.kind !== "word") return "";
  if (name.startsWith("sqe[")) {
    if (event.new === null || /^(ee)+$/.test(event.bytes || "")) return "This kernel overwrites a slot that it has read, so that no program relies on it.";
    const fields = sqeFields(event.bytes);
    return `We write a request into slot ${slot[1]}: ${opcodeName(fields.opcode)}. Its answer will carry ${fields.user_data}.`;
  }
  if (name.startsWith("cqe[")) {
    const [user_data, res, flags] = event.cqe;
    const end = flags & 2 ? "More will come." : res < 0 ? `It says ${resName(res)}: ${NAMES.strerror[-res] || "an error"}.` : `Its result is ${res}.`;
    return `The kernel writes the answer to request ${user_data} into slot ${slot[1]}. ${end}`;
  }
  if (name === "sq.kflags") {
    return Object.entries({NEED_WAKEUP: 1, CQ_OVERFLOW: 2, TASKRUN: 4}).filter(([, bit]) => (event.old ^ event.new) & bit)
      .map(([flag, bit]) => FLAGS_SAY[flag][event.new & bit ? 0 : 1]).join(" ");
  }
  const back = by > U32 / 2;
  return {
    "sq.sqe_tail": back ? "We return slots that were not published." : many(by, "We take a slot. Nobody else sees that.", "We take # slots. Nobody else sees that."),
    "sq.ktail": many(by, "We publish it: now the kernel may read the request.", "We publish them: now the kernel may read # requests."),
    "sq.khead": many(by, "The kernel has read the request: its slot is ours again.", "The kernel has read # requests: their slots are ours again."),
    "cq.ktail": many(by, "The kernel announces the answer: now we may read it.", "The kernel announces # answers: now we may read them."),
    "cq.khead": many(by, "We have copied the answer: its slot is the kernel's again.", "We have copied # answers: their slots are the kernel's again."),
    "cq.koverflow": "The kernel counts answers that are lost for good.",
  }[name] || "";
}

function sentence(event) {
  if (event.kind !== "word") return event.kind === "copy" ? `the kernel copies ${event.name} (index ${event.index})` : event.text;
  const isFlags = event.name === "sq.kflags";
  const value = (v) => isFlags ? flagNames(v) : v;
  if (event.name.endsWith("]")) return `${event.name} = ${event.new === null ? "poison" : event.new}`;
  return `${event.name}: ${value(event.old)} -> ${value(event.new)}`;
}

const whoOf = (event) => event.trouble && Object.keys(event.trouble).length ? "bad"
  : event.by || {copy: "kernel", call: "us", outside: ""}[event.kind] || "";

function longSentence(event) {
  const says = plain(event);
  let out = `<b class="mono">${escape(sentence(event))}</b>`;
  if (event.kind === "word") out += ` <span class="${event.by}-text">by ${WHO[event.by]}</span>; ${linked(event.order)}`;
  if (event.kind === "copy") out += ". From here on it lives in the kernel; the slot is free once sq.khead has passed it";
  out = says ? `<span class="plain">${escape(says)}</span><span class="exact">${out}</span>` : `<span class="plain">${escape(sentence(event))}</span>`;
  for (const text of Object.values(event.trouble || {})) out += `<span class="bad-text">${escape(text)}</span>`;
  return out;
}

// The state at every place, and which step it belongs to. Place 0 is before the first event.
function unroll(chapter) {
  const states = [firstState(chapter.ring)], events = [null], steps = [-1];
  chapter.steps.forEach((step, number) => {
    for (const event of step.events.length ? step.events : [{kind: "note", text: "No word has changed."}]) {
      states.push(fold(states[states.length - 1], event));
      events.push(event);
      steps.push(number);
    }
  });
  return {states, events, steps};
}

let run = {states: [], events: [], steps: []};
let place = 0;
let chapter = null;

function draw() {
  const data = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset : {};
  const key = data.key || data.act || "";
  const kept = document.activeElement && document.activeElement.closest ? document.activeElement.closest("[id]") : null;
  const state = run.states[place];
  byId("rings").innerHTML = ringSvg(state, "sq") + ringSvg(state, "cq");
  byId("words").innerHTML = wordRows(state);
  byId("array").innerHTML = arrayRow(state);
  byId("details").innerHTML = details(state);
  byId("requests").innerHTML = requestsPanel(run.states, place);
  const slider = byId("place");
  slider.max = run.states.length - 1;
  slider.value = place;
  const event = run.events[place];
  slider.setAttribute("aria-valuetext", event ? sentence(event) : "before the first change");
  const now = byId("now");
  now.className = event ? whoOf(event) : "";
  now.innerHTML = event ? longSentence(event) : `<span class="plain">${BEFORE[tab]}</span>`;
  byId("first").disabled = byId("back").disabled = place === 0;
  byId("last").disabled = byId("forth").disabled = place === run.states.length - 1;
  drawLog();
  drawPanel();
  if (key && kept && kept.id) {
    const again = kept.querySelector(`[data-key="${CSS.escape(key)}"], [data-act="${CSS.escape(key)}"]`);
    if (again) again.focus({preventScroll: true});
  }
}

function drawLog() {
  let out = "", step = -1;
  run.events.forEach((event, k) => {
    if (!event) return;
    if (run.steps[k] !== step) {
      step = run.steps[k];
      const title = chapter.steps[step].title;
      if (title) out += `<li class="title">${escape(title)}</li>`;
    }
    out += `<li><button data-place="${k}" data-key="log${k}" class="mono ${whoOf(event)}" aria-current="${k === place}">${escape(sentence(event))}</button></li>`;
  });
  const log = byId("log");
  log.innerHTML = out || "<li class='soft'>Nothing yet.</li>";
  const current = log.querySelector('[aria-current="true"]');
  if (current) log.scrollTop = Math.max(0, current.offsetTop - log.offsetTop - log.clientHeight / 2);
}

function go(to) {
  place = Math.max(0, Math.min(run.states.length - 1, to));
  const name = run.events[place] && run.events[place].name;
  if (name && (DATA.words[name] || /^[sc]qe\[/.test(name))) chosen = name;
  draw();
}

function choose(key) {
  chosen = key;
  draw();
}
"""

# The recorded tour, the scrubber, the tabs.
RUN = r"""
let timer = 0;
let tab = "start";
let toured = 0; // the chapter of the tour that was open last
const BEFORE = {
  start: "Press <b>Play</b>, or go step by step with <kbd>&rarr;</kbd>.",
  tour: "Before the first change. Go forward with <kbd>&rarr;</kbd> or the buttons.",
  drive: "A new ring. Press one of the buttons of the program.",
  exercises: "A new ring. Read the task, and press the buttons.",
};

function openChapter(number, to) {
  if (tab !== "tour") showTab("tour");
  toured = number;
  chapter = DATA.chapters[number];
  run = unroll(chapter);
  chosen = "sq.ktail";
  place = 0;
  location.replace("#chapter-" + chapter.number);
  go(to || 0);
}

function drawPanel() {
  const panel = byId("panel");
  document.querySelector("main").dataset.tab = tab;
  if (tab !== "tour") return PANELS[tab](panel);
  const number = DATA.chapters.indexOf(chapter);
  if (panel.dataset.shown !== "tour") {
    panel.innerHTML = `<h2><label for="chapter">The tour, chapter by chapter</label></h2><div class="row">
      <select id="chapter">${DATA.chapters.map((each, n) =>
        `<option value="${n}">${each.number}. ${escape(each.title)}</option>`).join("")}</select>
      <button id="next-chapter">Next chapter</button></div><div id="story"></div>
      <p class="soft">Keys: <kbd>&larr;</kbd> <kbd>&rarr;</kbd> one change, <kbd>Page Up</kbd> <kbd>Page Down</kbd> one
      step, <kbd>Home</kbd> <kbd>End</kbd>. Click a word or a slot for an explanation.</p>`;
    panel.dataset.shown = "tour";
    byId("chapter").addEventListener("change", (event) => openChapter(Number(event.target.value)));
    byId("next-chapter").addEventListener("click", () =>
      openChapter((DATA.chapters.indexOf(chapter) + 1) % DATA.chapters.length));
  }
  byId("chapter").value = number;
  const step = run.steps[place];
  const story = step < 0 ? chapter.text : chapter.steps[step].text;
  const title = step < 0 ? "" : `<h3>${chapter.number}.${step + 1} ${escape(chapter.steps[step].title)}</h3>`;
  byId("story").innerHTML = title + (paragraphs(story) || "<p></p>");
}

function otherStep(direction) {
  let to = place;
  const step = run.steps[place];
  if (direction > 0) {
    while (to < run.steps.length - 1 && run.steps[to + 1] <= step + 1) to += 1;
  } else {
    while (to > 0 && run.steps[to] >= step) to -= 1;
  }
  go(to);
}

function playOn(on) {
  clearInterval(timer);
  timer = 0;
  byId("play").setAttribute("aria-pressed", String(on));
  byId("play").textContent = on ? "Pause" : "Play";
  if (byId("watch")) byId("watch").textContent = on ? "Pause" : "Watch it";
  if (!on) return;
  if (place === run.states.length - 1) go(0);
  timer = setInterval(() => {
    if (place < run.states.length - 1) go(place + 1);
    else playOn(false);
  }, tab === "start" ? 2600 : 1300);
}

// What a tab besides the tour puts into the panel, and what it does when it opens.
const PANELS = {}, OPENED = {};
const TABS = [["start", "Start"], ["tour", "The tour"]];

// The beginning: one request, there and back, and what there is to see.
const ROUND = DATA.chapters.findIndex((each) => each.title === "One NOP");
PANELS.start = (panel) => {
  if (panel.dataset.shown !== "start") {
    panel.innerHTML = `<h2>One request, there and back</h2>${paragraphs([
      "To read a file or send a packet, a program usually calls the kernel and waits. With io_uring it writes the " +
        "request into memory that both can see, and continues. Later it finds the answer there.",
      "That memory is two rings of slots. Requests go into the SQ, answers come out of the CQ. Blue is ours, the program's; orange is the kernel's.",
      "The side that puts entries into a ring moves its tail; the side that takes them out moves its head. So each word has one writer, and no lock is needed.",
      "Here the program submits a request that does nothing (a NOP), and gets its answer: nine changes, which show all of io_uring.",
    ])}<div class="row"><button class="main" id="watch">Watch it</button></div>
      <div id="onward"></div><p class="soft">Click an underlined term for an explanation. Keys: <kbd>&larr;</kbd> <kbd>&rarr;</kbd> one change,
      <kbd>Space</kbd> plays.</p>`;
    panel.dataset.shown = "start";
    byId("watch").addEventListener("click", () => playOn(!timer));
    byId("watch").textContent = timer ? "Pause" : "Watch it";
  }
  const over = place === run.states.length - 1;
  if (over !== Boolean(byId("onward").innerHTML)) {
    byId("onward").innerHTML = over ? `<p class="good-text">That was it: head and tail of each ring are equal again.</p><div class="row">
      <button data-open="tour">The tour: reads, overflow, races</button><button data-open="drive">Drive a ring yourself</button>
      <button data-open="exercises">Five exercises</button></div>` : "";
  }
};
OPENED.start = () => {
  chapter = DATA.chapters[ROUND];
  run = unroll(chapter);
  chosen = "sq.ktail";
  location.replace("#start");
  go(0);
};

function openTab(name) {
  showTab(name);
  if (name === "tour") openChapter(toured);
  else OPENED[name]();
}

function showTab(name) {
  playOn(false);
  explain("");
  tab = name;
  byId("panel").dataset.shown = "";
  for (const button of byId("tabs").children) {
    button.setAttribute("aria-selected", String(button.dataset.tab === name));
    button.tabIndex = button.dataset.tab === name ? 0 : -1;
  }
}

function start() {
  byId("tabs").innerHTML = TABS.map(([name, title]) =>
    `<button role="tab" data-tab="${name}" aria-controls="panel">${title}</button>`).join("");
  byId("tabs").addEventListener("click", (event) => {
    if (event.target.dataset.tab) openTab(event.target.dataset.tab);
  });
  byId("tabs").addEventListener("keydown", (event) => {
    const step = {ArrowRight: 1, ArrowLeft: TABS.length - 1}[event.key];
    if (!step) return;
    const at = TABS.findIndex(([name]) => name === tab);
    openTab(TABS[(at + step) % TABS.length][0]);
    byId("tabs").querySelector('[aria-selected="true"]').focus();
    event.stopPropagation();
  });
  byId("tabs").hidden = TABS.length < 2;
  byId("first").addEventListener("click", () => go(0));
  byId("back").addEventListener("click", () => go(place - 1));
  byId("forth").addEventListener("click", () => go(place + 1));
  byId("last").addEventListener("click", () => go(run.states.length - 1));
  byId("play").addEventListener("click", () => playOn(!timer));
  byId("place").addEventListener("input", (event) => go(Number(event.target.value)));
  document.addEventListener("click", (event) => {
    const term = event.target.closest("[data-term]");
    if (term) return explain(term.dataset.term);
    if (event.target.id === "unexplain") return explain("");
    const open = event.target.closest("[data-open]");
    if (open) return openTab(open.dataset.open);
    const at = event.target.closest("[data-place]");
    if (at) return go(Number(at.dataset.place));
    const key = event.target.closest("[data-key]");
    if (!key) return;
    choose(key.dataset.key);
    if (!matchMedia("(min-width: 1001px)").matches) byId("details-title").scrollIntoView({block: "center"});
  });
  document.addEventListener("keydown", (event) => {
    const target = event.target;
    if ((event.key === "Enter" || event.key === " ") && target.getAttribute("role") === "button") {
      event.preventDefault();
      return target.dataset.term ? explain(target.dataset.term) : choose(target.dataset.key);
    }
    if (event.key === "Escape") return explain("");
    if (/INPUT|SELECT|TEXTAREA/.test(target.tagName) || event.ctrlKey || event.altKey || event.metaKey) return;
    const moves = {
      ArrowRight: () => go(place + 1), ArrowLeft: () => go(place - 1), Home: () => go(0),
      End: () => go(run.states.length - 1), " ": /BUTTON|SUMMARY/.test(target.tagName) ? null : () => playOn(!timer), PageDown: () => otherStep(1), PageUp: () => otherStep(-1),
    };
    if (moves[event.key]) {
      event.preventDefault();
      moves[event.key]();
    }
  });
  const wanted = /^#chapter-(\d+)$/.exec(location.hash);
  const number = wanted ? DATA.chapters.findIndex((each) => each.number === Number(wanted[1])) : 0;
  toured = Math.max(number, 0);
  openTab(wanted ? "tour" : "start");
}
"""

# A ring that the reader drives, and the exercises.
DRIVE = r"""
// -- a ring that the reader drives: the program's side here, the kernel's in FakeKernel

class LiveKernel extends FakeKernel {
  store(offset, value) {
    super.store(offset, value);
    if (this.machine) this.machine.look();
  }

  enter(to_submit, min_complete, flags, timeout) {
    const names = [[1, "GETEVENTS"], [2, "SQ_WAKEUP"]].filter(([bit]) => flags & bit).map(([, name]) => name);
    this.machine.note({kind: "call", text: `io_uring_enter(fd, ${to_submit}, ${min_complete}, ${names.join("|") || 0})`});
    return super.enter(to_submit, min_complete, flags, timeout);
  }

  consume_one() {
    const index = this.sq_head, slot = index & (this.sq_entries - 1);
    const event = {kind: "copy", name: `sqe[${slot}]`, index};
    if (this.machine.filledFor[slot] !== index) {
      event.trouble = {[event.name]: "The kernel reads old contents: this slot was not written for index " +
        `${index}. An old request runs once more, with its old user_data and its old addresses.`};
    }
    this.machine.note(event);
    return super.consume_one();
  }

  feed(fd, data) {
    this.machine.note({kind: "outside", text: `another program writes ${data.length} bytes into the pipe`});
    super.feed(fd, data);
  }
}

const RINGS = {
  "4-8": ["SQ of 4, CQ of 8", {entries: 4}],
  "4-4": ["SQ of 4, CQ of 4", {entries: 4, cq_entries: 4}],
  "2-2": ["SQ of 2, CQ of 2: overflows soon", {entries: 2, cq_entries: 2}],
  "poll": ["SQPOLL: a kernel thread submits", {entries: 4, flags: C.IORING_SETUP_SQPOLL}],
  "none": ["no index array", {entries: 4, flags: C.IORING_SETUP_NO_SQARRAY}],
  "wrap": ["indices just before 2**32", {entries: 4, sq_start: U32 - 1, cq_start: U32 - 1}],
};
const ACTIONS = {
  nop: ["NOP", () => ({opcode: OP.NOP}),
    "A NOP is done at once."],
  read: ["READ, 16 bytes from a pipe", (m) => ({opcode: OP.READ, fd: 3, addr: m.buffer(), len: 16, off: -1n}),
    "It waits until the pipe has data; then the kernel writes them into our buffer."],
  select: ["READ into a provided buffer", () => ({opcode: OP.READ, fd: 3, len: 16, off: -1n, flags: C.IOSQE_BUFFER_SELECT}),
    "It waits for data; then the kernel takes a buffer that PROVIDE_BUFFERS gave it, and says which."],
  provide: ["PROVIDE_BUFFERS, two of 16 bytes", (m) => ({opcode: OP.PROVIDE_BUFFERS, fd: 2, addr: m.buffer(), len: 16}),
    "It gives the kernel two buffers, for reads that let it choose one."],
  poll: ["POLL_ADD, once", () => ({opcode: OP.POLL_ADD, fd: 3, op_flags: 1}),
    "A POLL_ADD is answered once, when the pipe has data."],
  multi: ["POLL_ADD, multishot", () => ({opcode: OP.POLL_ADD, fd: 3, op_flags: 1, len: C.IORING_POLL_ADD_MULTI}),
    "It is multishot: answered at each event, until a CQE comes without MORE."],
  cancel: ["ASYNC_CANCEL of the target", (m) => ({opcode: OP.ASYNC_CANCEL, fd: -1, addr: BigInt(m.target)}),
    "An ASYNC_CANCEL ends the request with the user_data below. Both are answered."],
  timeout: ["TIMEOUT of one second", () => ({opcode: OP.TIMEOUT, fd: -1, len: 1}),
    "A TIMEOUT is answered with -ETIME. You decide when the second is over."],
  fsync: ["FSYNC, done when you say so", () => ({opcode: OP.FSYNC, fd: 4}),
    "It takes long: you decide when it is done, and so the order of the answers."],
};
const SWITCHES = {
  release: ["the release", "sq.ktail is stored plainly. On an SQPOLL ring the kernel's thread may see the tail before the SQE. " +
    "Without SQPOLL nothing happens: the kernel reads in our own thread, which sees its own stores in order. " +
    "That is why this mistake often goes unnoticed."],
  fence: ["the full fence", "SQPOLL: our store of sq.ktail may still be in the CPU's store buffer while we load NEED_WAKEUP."],
  mask: ["the mask", "sqes[index] in place of sqes[index & mask]."],
  head: ["the look at cq.ktail", "We copy one CQE too many, and move cq.khead past cq.ktail."],
  reuse: ["the look at sq.khead", "get_sqe() returns slots that the kernel has not read."],
};

class Machine {
  constructor(kind) {
    this.kind = kind;
    const options = RINGS[kind][1];
    this.kernel = new LiveKernel({...options, poison: false, copyOut: (...what) => this.copyOut(...what)});
    this.kernel.machine = null;
    this.kernel.pipes.set(3, []);
    this.kernel.slow_ops.add(OP.FSYNC).add(OP.TIMEOUT);
    this.sqpoll = Boolean(this.kernel.flags & C.IORING_SETUP_SQPOLL);
    this.mask = this.kernel.sq_entries - 1;
    let array = null;
    if (!this.kernel.no_array) {
      array = [...Array(this.kernel.sq_entries).keys()];
      array.forEach((i) => this.kernel.store(this.kernel.sq_off.array + 4 * i, i));
    }
    this.sqe_tail = this.published = this.kernel.sq_head;
    this.without = new Set();
    this.pending = []; // stores that only our CPU has seen: [text, function]
    this.filledFor = {}; // slot -> index
    this.taken = []; // indices that were taken and not filled
    this.number = 0;
    this.target = 1;
    this.link = false;
    this.buffers = [];
    this.freed = new Set();
    this.prepared = []; // user_data of what was prepared
    this.reaped = [];
    this.facts = {}; // what exercises look for
    this.broken = "";
    this.before = this.snapshot();
    this.ring = {
      sq_entries: this.kernel.sq_entries, cq_entries: this.kernel.cq_entries, array, sqpoll: this.sqpoll,
      words: {...this.before}, slots: {},
    };
    this.chapter = {number: 0, title: "", text: [], ring: this.ring, steps: []};
    this.run = unroll(this.chapter);
    this.shown = JSON.stringify([[], []]);
    this.kernel.machine = this;
  }

  // -- what the page shows

  snapshot() {
    const k = this.kernel, words = {"sq.sqe_tail": this.sqe_tail};
    for (let i = 0; i < k.sq_entries; i++) words[`sqe[${i}]`] = this.hex(i);
    for (const [name, at] of [["ktail", "tail"], ["khead", "head"], ["kflags", "flags"]]) words["sq." + name] = k.load(k.sq_off[at]);
    for (let i = 0; i < k.cq_entries; i++) {
      const at = k.cq_off.cqes + i * 16;
      words[`cqe[${i}]`] = [Number(k.words.getBigUint64(at, LE)), k.words.getInt32(at + 8, LE), k.words.getUint32(at + 12, LE)].join();
    }
    for (const [name, at] of [["ktail", "tail"], ["khead", "head"], ["koverflow", "overflow"]]) words["cq." + name] = k.load(k.cq_off[at]);
    return words;
  }

  hex(slot) {
    return Array.from(this.kernel.sqes.subarray(64 * slot, 64 * slot + 64), (byte) => byte.toString(16).padStart(2, "0")).join("");
  }

  look() {
    const before = this.before;
    this.before = this.snapshot();
    for (const name of Object.keys(before)) {
      if (before[name] === this.before[name]) continue;
      const event = {kind: "word", name, old: before[name], new: this.before[name]};
      if (name.startsWith("sqe[")) {
        const fields = sqeFields(event.new);
        Object.assign(event, {bytes: event.new, old: null, new: `${opcodeName(fields.opcode)} user_data=${fields.user_data}`});
      } else if (name.startsWith("cqe[")) {
        event.cqe = event.new.split(",").map(Number);
        event.new = `user_data=${event.cqe[0]} res=${resName(event.cqe[1])} flags=${cqeFlagNames(event.cqe[2])}`;
      }
      const word = DATA.words[name] || DATA.slots[name.slice(0, 3)];
      this.add({...event, by: word.writer, order: word.order});
    }
    this.noteLists();
  }

  note(event) {
    this.look();
    this.add(event);
  }

  noteLists() {
    const k = this.kernel;
    const waits = [...k.reads.map((each) => [Number(each.user_data), "data"]), ...[...k.polls.keys()].map((n) => [Number(n), "an event"]),
      ...k.late.map((each) => [Number(each[0]), "its end"])];
    const overflow = k.overflowed.map(([user_data, res, flags]) => [Number(user_data), res, flags]);
    if (overflow.length) this.facts.overflowed = true;
    const now = JSON.stringify([waits, overflow]);
    if (now === this.shown) return;
    this.shown = now;
    this.add({kind: "note", text: overflow.length ? `CQEs wait outside the ring: ${overflow.map((each) => "ud " + each[0]).join(", ")}`
      : waits.length ? `the kernel keeps ${waits.map(([n, what]) => `ud ${n} (waits for ${what})`).join(", ")}`
        : "the kernel no longer keeps anything", waits, overflow});
  }

  add(event) {
    const {states, events, steps} = this.run;
    this.chapter.steps[this.chapter.steps.length - 1].events.push(event);
    states.push(fold(states[states.length - 1], event));
    events.push(event);
    steps.push(this.chapter.steps.length - 1);
  }

  // Do one thing, as a step of its own; what breaks is shown where it breaks.
  step(title, action) {
    if (this.broken) return;
    this.chapter.steps.push({title, text: [], events: []});
    try {
      action();
    } catch (error) {
      if (!(error instanceof BrokenRing)) throw error;
      this.broken = error.message;
      const where = /overtook/.test(error.message) ? "cq.khead" : "sq.ktail";
      const [k, queue] = [this.kernel, where.slice(0, 2)];
      const off = k[queue + "_off"], count = distance(k.load(off.tail), k.load(off.head));
      this.note({kind: "note", name: where, text: "The ring is broken: " + error.message, trouble: {[where]: error.message +
        `: ${queue}.ktail - ${queue}.khead is ${count}, and the ring has ${k[queue + "_entries"]} slots. A real kernel does not notice: it works on with what it finds. Make a new ring.`}});
    }
    this.look();
    if (!this.chapter.steps[this.chapter.steps.length - 1].events.length) this.add({kind: "note", text: "No word has changed."});
  }

  tell(text, trouble) {
    this.note({kind: "note", text, ...(trouble ? {trouble, name: Object.keys(trouble)[0]} : {})});
  }

  // -- the program

  buffer() {
    const address = BigInt(0x7f0000000000 + 0x1000 * (this.number + 1));
    this.buffers.push([address, this.number + 1]);
    return address;
  }

  get_sqe() {
    const head = this.kernel.load(this.kernel.sq_off.head);
    if (!this.without.has("reuse") && distance(this.sqe_tail, head) >= this.kernel.sq_entries) {
      return this.tell("SubmissionQueueFull: the kernel has not read the slot that would be next", null);
    }
    this.taken.push(this.sqe_tail);
    this.sqe_tail = (this.sqe_tail + 1) >>> 0;
    this.look();
  }

  prep(action) {
    if (!this.taken.length) return this.tell("There is no slot to fill: get_sqe() first");
    const index = this.taken.shift();
    const fields = ACTIONS[action][1](this);
    this.number += 1;
    const sqe = new DataView(new ArrayBuffer(64));
    sqe.setUint8(0, fields.opcode);
    sqe.setUint8(1, (fields.flags || 0) | (this.link ? C.IOSQE_IO_LINK : 0));
    sqe.setInt32(4, fields.fd === undefined ? -1 : fields.fd, LE);
    sqe.setBigInt64(8, fields.off || 0n, LE);
    sqe.setBigUint64(16, fields.addr || 0n, LE);
    sqe.setUint32(24, fields.len || 0, LE);
    sqe.setUint32(28, fields.op_flags || 0, LE);
    sqe.setBigUint64(32, BigInt(this.number), LE);
    this.prepared.push(this.number);
    const slot = this.without.has("mask") ? index : index & this.mask;
    if (slot >= this.kernel.sq_entries) {
      return this.tell(`sqes[${index}] = ${opcodeName(fields.opcode)} user_data=${this.number}`, {"sq.sqe_tail":
        `Index ${index} is slot ${index & this.mask}, and these 64 bytes went ${64 * slot} bytes behind the beginning of an array of ` +
        `${64 * this.kernel.sq_entries}. The kernel will read slot ${index & this.mask}, which contains an old request.`});
    }
    const bytes = new Uint8Array(sqe.buffer);
    const write = () => {
      const [head, tail] = [this.kernel.load(this.kernel.sq_off.head), this.kernel.load(this.kernel.sq_off.tail)];
      let unread = false;
      for (let n = 0; n < Math.min(distance(tail, head), 64); n++) unread = unread || ((head + n) & this.mask) === slot;
      this.kernel.sqes.set(bytes, 64 * slot);
      this.filledFor[slot] = index;
      this.look();
      if (unread && index !== head) {
        this.tell(`sqe[${slot}] was overwritten`, {[`sqe[${slot}]`]:
          "This SQE was published, and the kernel had not read it: that request is lost without a trace."});
      }
    };
    if (this.sqpoll && this.without.has("release")) {
      this.pending.push([`sqe[${slot}]`, write]);
      this.tell(`sqe[${slot}] = ${opcodeName(fields.opcode)} user_data=${this.number} is in our CPU's store buffer: no other CPU sees it yet`);
    } else {
      write();
    }
  }

  flush() {
    const tail = this.sqe_tail;
    const store = () => this.kernel.store(this.kernel.sq_off.tail, tail);
    this.published = tail;
    this.taken = [];
    this.facts.looked = "";
    if (this.sqpoll && this.without.has("fence")) {
      this.pending.push(["sq.ktail", store]);
      this.tell(`sq.ktail = ${tail} is in our CPU's store buffer: no other CPU sees it yet`);
    } else if (this.sqpoll && this.without.has("release")) {
      store();
    } else {
      this.drain();
      store();
    }
  }

  drain() {
    const waiting = this.pending;
    this.pending = [];
    for (const [, store] of waiting) store();
    this.look();
  }

  enter(flags, min_complete = 0) {
    this.drain(); // a system call runs in our own thread, or orders what was before it
    const count = distance(this.published, this.kernel.load(this.kernel.sq_off.head));
    if (this.sqpoll) flags |= this.kernel.load(this.kernel.sq_off.flags) & 1 ? C.IORING_ENTER_SQ_WAKEUP : 0;
    this.kernel.enter(this.sqpoll ? 0 : count, min_complete, flags, 1);
  }

  lookAtFlag() {
    const flags = this.kernel.load(this.kernel.sq_off.flags);
    if (!this.without.has("fence")) this.drain();
    if (flags & C.IORING_SQ_NEED_WAKEUP) {
      this.facts.looked = "asleep";
      this.tell("NEED_WAKEUP is up: the thread sleeps, so we enter");
      this.enter(0);
    } else {
      this.facts.looked = "awake";
      this.tell("NEED_WAKEUP is down: the thread is awake, we think, and do not enter");
    }
  }

  fetch() {
    const k = this.kernel, head = k.load(k.cq_off.head), tail = k.load(k.cq_off.tail);
    const count = distance(tail, head) + (this.without.has("head") ? 1 : 0);
    if (!count) return this.tell("No CQE: cq.ktail and cq.khead are equal");
    if (distance(tail, head) > k.cq_entries) {
      return this.tell("RuntimeError: the CQ claims to hold more than it can", {"cq.khead":
        `cq.khead is past cq.ktail: ${tail} - ${head} is ${distance(tail, head)} modulo 2**32.`});
    }
    for (let n = 0; n < count; n++) {
      const slot = (head + n) & (k.cq_entries - 1), at = k.cq_off.cqes + 16 * slot;
      const cqe = [Number(k.words.getBigUint64(at, LE)), k.words.getInt32(at + 8, LE), k.words.getUint32(at + 12, LE)];
      if (n < distance(tail, head)) this.reaped.push(cqe);
      else {
        this.tell(`we copy cqe[${slot}]: user_data=${cqe[0]} res=${cqe[1]}`, {[`cqe[${slot}]`]:
          "The kernel has not written this one: we take an old answer, or zeros, for a completion."});
      }
    }
    k.store(k.cq_off.head, head + count);
  }

  discard() {
    const tail = this.kernel.load(this.kernel.sq_off.tail);
    this.sqe_tail = tail;
    this.taken = [];
    this.pending = this.pending.filter(([name]) => name === "sq.ktail");
    this.look();
  }

  // -- the kernel

  complete(user_data) {
    const k = this.kernel, at = k.late.findIndex((each) => Number(each[0]) === user_data);
    const request = this.run.states[this.run.states.length - 1].requests.find((each) => each.user_data === user_data);
    if (request && request.op === "TIMEOUT") k.late[at][1] = -E.ETIME;
    k.complete_late(at);
  }

  sleep() {
    const k = this.kernel;
    k.put_sq_thread_to_sleep();
    if (k.load(k.sq_off.flags) & 1) this.tell("the thread raised NEED_WAKEUP, looked at sq.ktail once more, and sleeps");
  }

  runThread() {
    if (this.kernel.load(this.kernel.sq_off.flags) & 1) return this.tell("The thread sleeps: it sees nothing until it is woken");
    if (!this.kernel.run_sq_thread()) this.tell("The thread loads sq.ktail, and finds nothing new");
  }

  free(user_data) {
    this.freed.add(user_data);
    const state = this.run.states[this.run.states.length - 1];
    const request = state.requests.find((each) => each.user_data === user_data);
    const early = request && !["done", "discarded"].includes(request.phase);
    this.tell(`the buffer of ud ${user_data} is freed` + (early ? ", and the request still names it" : ""));
  }

  copyOut(address, data, fields) {
    const owner = this.buffers.find(([start]) => address >= start && address < start + 0x1000n);
    const text = `the kernel writes ${data.length} bytes to 0x${address.toString(16)}`;
    if (owner && this.freed.has(owner[1])) {
      this.facts.wroteFreed = true;
      this.tell(text, {memory: `These bytes are no longer the buffer of ud ${owner[1]}: it was freed before the final CQE. ` +
        "Their next owner finds other bytes in them."});
    } else {
      this.tell(text + (fields.flags & C.IOSQE_BUFFER_SELECT ? ", a provided buffer" : ""));
    }
  }
}

let machine = null;

function openMachine(kind) {
  machine = new Machine(kind);
  chapter = machine.chapter;
  run = machine.run;
  chosen = "sq.ktail";
  go(0);
}

function act(title, action) {
  place = run.states.length - 1;
  machine.step(title, action);
  const bad = run.events.findIndex((event, k) => k > place && event && event.trouble);
  if (bad >= 0 && run.events[bad].name !== "memory") chosen = run.events[bad].name;
  go(bad >= 0 ? bad : run.states.length - 1); // there it is to be seen
}

const PROGRAM = {
  get: ["get_sqe()", () => machine.get_sqe(), "take a slot of the SQ"],
  prep: ["prep_...(sqe)", () => machine.prep(byId("operation").value), "write the request into it"],
  flush: ["flush()", () => machine.flush(), "publish: move sq.ktail"],
  flag: ["NEED_WAKEUP?", () => machine.lookAtFlag(), "if so, wake the thread (SQPOLL)"],
  enter: ["io_uring_enter()", () => machine.enter(0), "let the kernel read the SQ"],
  events: ["... GETEVENTS", () => machine.enter(C.IORING_ENTER_GETEVENTS), "and bring what waits"],
  fetch: ["fetch()", () => machine.fetch(), "copy the answers, move cq.khead"],
  discard: ["discard()", () => machine.discard(), "return slots that are not published"],
};
const SHORT = ["All of it: get, prep, flush, enter", () => {
  machine.get_sqe();
  if (machine.taken.length) machine.prep(byId("operation").value);
  machine.flush();
  if (machine.sqpoll) machine.lookAtFlag();
  else machine.enter(0);
}];

function controls() {
  const buttons = Object.entries(PROGRAM).map(([name, [title, , says]]) =>
    `<button data-act="${name}">${title}</button><span class="soft">${linked(says)}</span>`).join("");
  return `<h3>You are the program</h3>
    <div class="row"><label for="operation">Request</label><select id="operation">${Object.entries(ACTIONS).map(([name, [title]]) =>
      `<option value="${name}">${title}</option>`).join("")}</select></div><p class="soft" id="operation-says"></p>
    <div class="row"><button data-act="short" class="main">${SHORT[0]}</button></div><p class="soft">or one after the other:</p>
    <div class="steps">${buttons}</div>
    <div class="row"><label for="target">A cancel is for user_data</label><input id="target" type="number" min="1" value="1" style="width:4.5rem"></div>
    <div class="row"><label><input id="link" type="checkbox"> link to the next (IOSQE_IO_LINK)</label></div>
    <div class="row" id="memory-acts"></div>
    <h3>You are the kernel, and the world</h3><div class="row" id="kernel-acts"></div>
    <h3>Make a mistake: leave out</h3><div class="row">${Object.entries(SWITCHES).map(([name, [title, says]]) =>
      `<button data-switch="${name}" aria-pressed="false" title="${escape(says)}">${title}</button>`).join("")}</div>
    <p class="soft" id="switch-says"></p>`;
}

function kernelActs() {
  const k = machine.kernel, acts = [["feed", "write 8 bytes into the pipe"]];
  if (machine.sqpoll) acts.push(["thread", "the thread looks at the ring"], ["sleep", "the thread goes to sleep"]);
  if (machine.pending.length) acts.push(["drain", "our CPU's stores become visible"]);
  const {requests} = run.states[run.states.length - 1];
  for (const [user_data] of k.late) {
    const request = requests.find((each) => each.user_data === Number(user_data));
    acts.push(["late:" + user_data, request && request.op === "TIMEOUT" ? `the second of ud ${user_data} is over` : "complete ud " + user_data]);
  }
  return acts;
}

function memoryActs() {
  const acts = [];
  const requests = run.states[run.states.length - 1].requests;
  for (const [, number] of machine.buffers) {
    const request = requests.find((each) => each.user_data === number);
    if (request && !machine.freed.has(number) && !["filled", "discarded"].includes(request.phase)) {
      acts.push(["free:" + number, `free the buffer of ud ${number}`]);
    }
  }
  return acts;
}

function perform(name) {
  const [what, number] = name.split(":");
  machine.target = Number(byId("target").value) || 1;
  machine.link = byId("link").checked;
  const others = {
    short: SHORT,
    feed: ["Another program writes into the pipe", () => machine.kernel.feed(3, [...new TextEncoder().encode("io_uring")])],
    thread: ["The kernel's thread looks", () => machine.runThread()],
    sleep: ["The kernel's thread goes to sleep", () => machine.sleep()],
    drain: ["Our CPU's stores become visible", () => machine.drain()],
    late: ["The kernel completes ud " + number, () => machine.complete(Number(number))],
    free: ["The program frees a buffer", () => machine.free(Number(number))],
  };
  const [title, action] = PROGRAM[what] || others[what];
  const named = what === "prep" || what === "short" ? title.replace("...", byId("operation").value) : title;
  act(named, action);
}

function sayOperation() {
  byId("operation-says").innerHTML = linked(ACTIONS[byId("operation").value][2]);
}

function drawControls() {
  sayOperation();
  for (const [id, acts] of [["kernel-acts", kernelActs()], ["memory-acts", memoryActs()]]) {
    byId(id).innerHTML = acts.map(([name, title]) => `<button data-act="${name}">${title}</button>`).join("");
  }
  for (const button of byId("panel").querySelectorAll("[data-act]")) {
    const name = button.dataset.act;
    button.disabled = Boolean(machine.broken) || (name === "flag" && !machine.sqpoll);
  }
  for (const button of byId("panel").querySelectorAll("[data-switch]")) {
    button.setAttribute("aria-pressed", String(machine.without.has(button.dataset.switch)));
  }
  const says = [...machine.without].map((name) => SWITCHES[name][1]).join(" ") ||
    "Each is a mistake that programs make. The damage is shown where it occurs.";
  if (byId("switch-says").textContent !== says) byId("switch-says").innerHTML = linked(says);
}

PANELS.drive = (panel) => {
  if (panel.dataset.shown !== "drive") {
    panel.innerHTML = `<h2><label for="kind">A ring of your own</label></h2><div class="row"><select id="kind">${
      Object.entries(RINGS).map(([name, [title]]) => `<option value="${name}">${title}</option>`).join("")}</select>
      <button id="anew">New ring</button></div><p class="soft">As the program you submit requests, and as the kernel you decide when they are done.
      The slider goes back in time; your next action is added at the end. (This kernel is rawuring's fakekernel.py in JavaScript, tested against it byte by byte.)</p>` + controls();
    panel.dataset.shown = "drive";
    byId("kind").value = machine.kind;
    byId("anew").addEventListener("click", () => openMachine(byId("kind").value));
    byId("kind").addEventListener("change", () => openMachine(byId("kind").value));
  }
  drawControls();
};
OPENED.drive = () => openMachine(machine && !machine.exercise ? machine.kind : "4-8");
TABS.push(["drive", "Drive"]);

// -- exercises: a ring in a certain state, what is wanted of it, and where that does not show understanding, a question

const at = (name) => machine.kernel.load(name === "ktail" ? machine.kernel.sq_off.tail : machine.kernel.sq_off.flags);
const took = (number, res) => machine.reaped.some((cqe) => cqe[0] === number && cqe[1] === res);

// Requests that were answered twice, in the CQ or taken from it, without MORE.
function answeredTwice() {
  const state = machine.run.states[machine.run.states.length - 1];
  const there = state.cqes.filter((cqe, i) => cqe && owners(state, "cq")[i][1]);
  const seen = [...machine.reaped, ...there].filter((cqe) => !(cqe[2] & 2)).map((cqe) => cqe[0]);
  return seen.filter((number, i) => seen.indexOf(number) !== i);
}

const EXERCISES = [
  {
    title: "Make the CQ overflow, and lose nothing", kind: "2-2",
    text: "This CQ has room for two answers. Have three or more waiting at the same time, and then take every answer exactly once. " +
      "Watch sq.kflags, and cq.koverflow.",
    hint: "Two CQEs fill this CQ. Free slots alone do not bring the others: the kernel does not notice a store of cq.khead. It posts them when we enter with GETEVENTS.",
    way: "All of it, with a NOP, four times. fetch(). Enter with GETEVENTS. fetch().",
    wanted: [
      ["an answer found no room in the CQ", () => machine.facts.overflowed],
      ["every answer has been taken, once", () => machine.facts.overflowed && !machine.kernel.overflowed.length && machine.prepared.length >= 3 &&
        String(machine.reaped.map((cqe) => cqe[0]).sort()) === String([...machine.prepared].sort())],
    ],
    why: "CQ_OVERFLOW is in the SQ's flags word, because the CQ has none that the kernel writes. With IORING_FEAT_NODROP (5.5) completions that do not fit wait on a list, and cq.koverflow stays 0: nothing was lost.",
  },
  {
    title: "Lose a wake-up", kind: "poll",
    text: "A kernel thread submits here (SQPOLL). Reach a state in which an SQE is published, the thread sleeps, and you believe that it is awake. " +
      "The ring then waits forever, and the memory shows no error.",
    hint: "Leave out the full fence. Publish, look at NEED_WAKEUP, let the thread go to sleep, and only then let your store become visible.",
    way: "Leave out: the full fence. get_sqe(), prep, flush(): the store of sq.ktail waits in the store buffer. NEED_WAKEUP? The thread goes to sleep. Our CPU's stores become visible.",
    wanted: [
      ["you looked at NEED_WAKEUP after the last flush(), and it was down", () => machine.facts.looked === "awake"],
      ["the thread sleeps", () => at("kflags") & 1],
      ["an SQE is published but not read", () => !machine.pending.length && at("ktail") !== machine.kernel.sq_head],
    ],
    why: "We stored the tail and loaded the flag; the thread stored the flag and loaded the tail. A release and an acquire do not keep a load behind an earlier store, not even on x86. With a full fence on both sides at least one of the two sees the other's store.",
  },
  {
    title: "Explain two CQEs with one user_data", kind: "4-4",
    text: "Get two CQEs with the same user_data into the CQ, both without MORE, although that request was prepared once. Then say why.",
    hint: "A slot keeps the bytes of its last request. Use all four slots once; then take a slot and publish it without filling it.",
    way: "All of it, with a NOP. get_sqe(). flush(). io_uring_enter().",
    prepare: () => { for (let n = 0; n < 3; n++) { SHORT[1](); machine.fetch(); } },
    wanted: [["two CQEs have the same user_data", () => answeredTwice().length]],
    question: ["Why are there two?", [
      ["the kernel posted the answer twice", "It copied an SQE for each of them: look at what has changed, in order."],
      ["the request is a multishot one", "Then all its CQEs except the last would carry MORE."],
      ["the slot still held the old SQE, and was published again", ""],
      ["user_data is an address, and was reused", "Here it is a number that counts up: no two requests were prepared with the same one."],
    ]],
    why: "The kernel is not to blame: the slot kept all 64 bytes of its last request. Functions that set only a few members submit the rest of an old request; those of ops.py write all 64.",
  },
  {
    title: "Find why a timeout never fires", kind: "4-8",
    text: "This program has prepared a TIMEOUT of one second and entered the kernel. It has waited for an hour. Find out what is missing, " +
      "do it, let the second pass, and take the answer.",
    hint: "Compare sq.sqe_tail and sq.ktail. Which side knows of the SQE?",
    way: "flush(). io_uring_enter(). The second of ud 1 is over. fetch().",
    prepare: () => { byId("operation").value = "timeout"; machine.get_sqe(); machine.prep("timeout"); machine.kernel.enter(1, 0, 0, 1); },
    wanted: [
      ["the kernel has read the SQE of the first timeout", () => machine.run.states[machine.run.states.length - 1].requests.some((each) =>
        each.user_data === 1 && !["filled", "published", "discarded", "lost"].includes(each.phase))],
      ["its answer was taken: -ETIME", () => took(1, -E.ETIME)],
    ],
    question: ["What was missing?", [
      ["io_uring_enter() was not called", "It was, and found nothing to consume."],
      ["sq.ktail had not been moved: the SQE was not published", ""],
      ["the SQE was not filled", "It was: look at its 64 bytes."],
      ["the CQ was not checked", "It was empty."],
    ]],
    why: "The SQE was never published: sqe_tail is private to us, and the kernel sees only sq.ktail. A TIMEOUT starts when its SQE is consumed. (It completes with -ETIME, which is not a failure: this is its purpose.)",
  },
  {
    title: "Let the kernel write into memory that is no longer yours", kind: "4-8",
    text: "A READ waits for data from the pipe. Free its buffer too early, as a program does that closes, or returns, before the final CQE. " +
      "Then let the data arrive. After that, say when it would have been right.",
    hint: "A button for it appears as soon as the request has a buffer. A free SQE slot says nothing about the buffer.",
    way: "Free the buffer of ud 1. Write 8 bytes into the pipe.",
    prepare: () => { byId("operation").value = "read"; SHORT[1](); },
    wanted: [
      ["the buffer was freed, and the request still names it", () => machine.facts.wroteFreed || machine.freed.size],
      ["the kernel wrote into it", () => machine.facts.wroteFreed],
    ],
    question: ["When is the buffer ours again?", [
      ["when the SQE's slot is free", "It was free before the data arrived: the kernel still has the address."],
      ["when io_uring_enter() has returned", "It had returned, and the READ was still waiting."],
      ["when a cancel of the READ has been answered", "That CQE belongs to the cancel. The READ may still be in progress, and has a separate CQE."],
      ["with the last CQE of the READ itself", ""],
    ]],
    why: "The address went into the kernel with the SQE. The slot was free after enter; the memory is not ours before the final CQE. A cancel is itself a request: only the CQE of the READ says that the READ is over.",
  },
];
const RIGHT = EXERCISES.map((each) => each.question ? String(each.question[1].findIndex(([, reason]) => !reason)) : "");
let exercise = 0;

function openExercise(number) {
  exercise = number;
  byId("panel").dataset.shown = "";
  openMachine(EXERCISES[number].kind);
  if (EXERCISES[number].prepare) {
    byId("operation").value = "nop";
    act("What the program has done so far", EXERCISES[number].prepare);
  }
  machine.exercise = true;
}

PANELS.exercises = (panel) => {
  const each = EXERCISES[exercise];
  if (panel.dataset.shown !== "exercises") {
    panel.innerHTML = `<h2><label for="which">Exercise</label></h2><div class="row"><select id="which">${EXERCISES.map((one, n) =>
      `<option value="${n}">${n + 1}. ${one.title}</option>`).join("")}</select> <button id="anew">Again</button></div>
      ${paragraphs([each.text])}<details><summary>A hint</summary>${paragraphs([each.hint])}</details>
      <details><summary>The whole way</summary>${paragraphs([each.way])}</details>
      <ul class="wanted" id="wanted"></ul><div id="question"></div><p id="verdict" role="status"></p>` + controls();
    panel.dataset.shown = "exercises";
    byId("which").value = exercise;
    byId("which").addEventListener("change", (event) => openExercise(Number(event.target.value)));
    byId("anew").addEventListener("click", () => openExercise(exercise));
  }
  drawControls();
  const there = each.wanted.map(([, test]) => Boolean(test()));
  machine.done = machine.done || there.every(Boolean); // and stays so, whatever is tried then
  byId("wanted").innerHTML = each.wanted.map(([text], n) => {
    const yes = machine.done || there[n];
    return `<li class="${yes ? "good-text" : "soft"}">${yes ? "&#10003; done" : "&#9675; to do"}: ${text}</li>`;
  }).join("");
  const question = byId("question");
  if (machine.done && each.question && !question.innerHTML) {
    question.innerHTML = `<div class="row"><label for="answer">${each.question[0]}</label><select id="answer"><option value="">choose</option>${
      each.question[1].map(([text], n) => `<option value="${n}">${text}</option>`).join("")}</select></div>`;
    byId("answer").addEventListener("change", () => draw());
  }
  const given = byId("answer") ? byId("answer").value : "";
  const right = machine.done && given === RIGHT[exercise];
  const verdict = byId("verdict");
  verdict.className = right ? "good-text" : "soft";
  verdict.textContent = right ? "Solved. " + each.why
    : given ? "It is not that. " + each.question[1][Number(given)][1]
      : machine.done ? "It is there. Now answer the question."
        : "Not yet." + (machine.broken ? " The ring is broken: " + machine.broken + ". Press Again." : "");
};
OPENED.exercises = () => openExercise(exercise);
TABS.push(["exercises", "Exercises"]);

document.addEventListener("change", (event) => {
  if (event.target.id === "operation") sayOperation();
});
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-act], [data-switch]");
  if (!button) return;
  if (button.dataset.act) return perform(button.dataset.act);
  const name = button.dataset.switch;
  if (!machine.without.delete(name)) machine.without.add(name);
  drawControls();
});
"""

# The page of a trace.
TRACE_BODY = r"""
<header>
  <h1>What the rings did</h1>
  <p class="lead soft" id="lead"></p>
</header>
<main class="trace">
  <section class="card" aria-labelledby="findings-title"><h2 id="findings-title">What looks wrong</h2><div id="findings"></div></section>
  <section class="card" aria-labelledby="numbers-title"><h2 id="numbers-title">In numbers</h2><dl id="numbers"></dl></section>
  <section class="card wide" aria-labelledby="time-title"><h2 id="time-title">Over time</h2><div id="time"></div></section>
  <section class="card wide" aria-labelledby="stages-title"><h2 id="stages-title">Where the time of a request goes</h2>
    <p class="soft">A completion is first seen when a call returns, or begins, and finds it in the ring. So what the kernel took is known from above,
      and what the CQE waited from below.</p>
    <div class="scroll" tabindex="0" role="region" aria-label="Table of stages"><table id="stages"></table></div></section>
  <section class="card wide" aria-labelledby="ops-title"><h2 id="ops-title">Latency and way, by operation</h2>
    <p class="soft">From the call that submits until we have copied the last CQE. <b>At once</b>: done when a call that waited for nothing returned.
      <b>In the call</b>: done when it returned, and it waited. <b>Later</b>: the kernel armed a poll, waited for a timer or a disk, or gave it to a
      worker thread; <b>without a worker</b>, if the process had none then.</p>
    <div class="scroll" tabindex="0" role="region" aria-label="Table of latencies"><table id="ops"></table></div></section>
  <section class="card wide" aria-labelledby="batch-title"><h2 id="batch-title">Requests per call</h2><div id="batches"></div></section>
  <section class="card wide" aria-labelledby="requests-title"><h2 id="requests-title">Requests</h2>
    <p class="soft" id="sampled"></p>
    <div class="row"><label for="order">Order</label><select id="order"><option value="slow">the slowest first</option>
      <option value="time">by time</option></select><label for="only">Operation</label><select id="only"></select>
      <label for="scale">Bars begin</label><select id="scale"><option value="own">side by side</option>
      <option value="time">where they stand in the trace</option></select></div>
    <div class="legend" id="stage-legend"></div>
    <div class="scroll tall" tabindex="0" role="region" aria-label="Requests over time"><table id="requests"></table></div></section>
  <section class="card wide" id="left-card" aria-labelledby="left-title"><h2 id="left-title">In flight at the end</h2>
    <div class="scroll" tabindex="0" role="region" aria-label="Table of what was in flight"><table id="left"></table></div></section>
</main>
"""

TRACE = r"""
"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const escape = (text) => String(text).replace(/[&<>"]/g, (c) => ({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}[c]));
const number = (n) => n.toLocaleString("en");

function time(ns) {
  for (const [unit, size] of [["s", 1e9], ["ms", 1e6], ["us", 1e3]]) if (ns >= size) return (ns / size).toFixed(ns >= 100 * size ? 0 : ns >= 10 * size ? 1 : 2) + " " + unit;
  return ns + " ns";
}

function head(...names) { return `<thead><tr>${names.map((name) => `<th scope="col">${name}</th>`).join("")}</tr></thead>`; }

// A chart of one row of numbers: bars, with the largest number beside it.
function chart(title, row, kind, each) {
  const most = Math.max(...row, 1), width = 600, height = 48, per = width / row.length;
  const bars = row.map((n, i) => n ? `<rect class="${kind}" x="${(i * per).toFixed(1)}" y="${(height - height * n / most).toFixed(1)}"` +
    ` width="${(per + 0.2).toFixed(1)}" height="${(height * n / most).toFixed(1)}"/>` : "").join("");
  return `<p class="soft">${title}: at most ${number(most)} ${each}</p><svg class="spans" viewBox="0 0 ${width} ${height}" ` +
    `preserveAspectRatio="none" style="width:100%;height:3rem" role="img" aria-label="${title}, at most ${number(most)} ${each}">${bars}</svg>`;
}

// The stages of a request: between which two of its moments, and their colour.
const PARTS = [
  ["queued", "queued"], ["kernel-way", "in the kernel"], ["cq-way", "its CQE waits"], ["reaped-way", "reaped, not handled"], ["handler-way", "in its handler"],
];
const beginOf = (each) => each.at.find((at) => at !== null);
const endOf = (each) => Math.max(...each.at.filter((at) => at !== null));

function bar(each, left, per) {
  const parts = PARTS.map(([kind, title], n) => {
    const [from, to] = [each.at[n], each.at[n + 1]];
    return from === null || to === null ? "" : `<i class="${kind}" style="width:${((to - from) * per).toFixed(3)}%" title="${title}: ${time(to - from)}"></i>`;
  });
  const says = PARTS.map(([, title], n) => each.at[n] === null || each.at[n + 1] === null ? "" : `${title} ${time(each.at[n + 1] - each.at[n])}`);
  return `<div role="img" aria-label="${says.filter(Boolean).join(", ")}" style="margin-left:${(left * per).toFixed(3)}%">${parts.join("")}</div>`;
}

function drawRequests() {
  const only = byId("only").value, own = byId("scale").value === "own";
  let shown = DATA.sample.filter((each) => !only || each.op === only);
  const took = (each) => each.at[3] - each.at[1];
  if (byId("order").value === "slow") shown = [...shown].sort((a, b) => took(b) - took(a));
  const first = own ? 0 : Math.min(0, ...shown.map(beginOf));
  const most = own ? Math.max(1, ...shown.map((each) => endOf(each) - beginOf(each))) : Math.max(1, DATA.duration, ...shown.map(endOf)) - first;
  byId("requests").innerHTML = head("request", "took", "result", "way", own ? `0 to ${time(most)}` : "from the beginning of the trace to its end") +
    "<tbody>" + shown.map((each) => `<tr><td class="mono">${escape(each.op)} ${escape(each.user_data)}</td><td class="mono">${time(took(each))}</td>` +
      `<td class="mono ${each.res < 0 ? "bad-text" : ""}">${each.res}</td><td>${escape(each.way)}</td><td class="lane">` +
      `${bar(each, own ? 0 : beginOf(each) - first, 100 / most)}</td></tr>`).join("") + "</tbody>";
}

function spread(row) {
  return [row.p50, row.p90, row.p99, row.max].map((ns) => `<td class="mono">${time(ns)}</td>`).join("");
}

function start() {
  const d = DATA;
  byId("lead").textContent = `${number(d.requests)} requests in ${time(d.duration)}, from ${number(d.lines)} lines of RAWURING_TRACE.`;
  byId("findings").innerHTML = d.findings.length ? `<ul class="findings">${d.findings.map((each) =>
    `<li class="${each.level}"><b>${escape(each.title)}</b>${each.text ? "<br>" + escape(each.text) : ""}</li>`).join("")}</ul>`
    : "<p class='good-text'>Nothing: no overflow, no failed call, no failed request, nothing left in flight.</p>";
  const share = (a, b) => b ? `${number(a)} (${Math.round(100 * a / b)} %)` : "none";
  const rows = [
    ["requests", number(d.requests)], ["completed", number(d.done)], ["CQEs besides", `${number(d.more)} (MORE, notifications, other rings)`],
    ["calls of io_uring_enter", number(d.calls)], ["calls per request", (d.calls / Math.max(d.requests, 1)).toFixed(3)],
    ["done when a submit returned", share(d.at_once, d.offered) + (d.offered ? " of those submitted without waiting" : "")],
    ["workers of io-wq", d.workers < 0 ? "not counted" : d.workers ? `at most ${d.workers} seen at a time` : "none seen"],
    ["rings", d.rings.map((each) => `${each.name}: SQ ${each.sq}, CQ ${each.cq}, ${each.flags}`).join("; ")],
  ];
  byId("numbers").innerHTML = rows.map(([k, v]) => `<dt>${k}</dt><dd>${escape(v)}</dd>`).join("");
  const each = `in ${time(d.bins.width)}`;
  byId("time").innerHTML = chart("Submitted", d.bins.submitted, "ours", each) + chart("Reaped", d.bins.reaped, "theirs", each) +
    chart("In flight", d.bins.in_flight, "wait", "at a time") + chart("Calls", d.bins.calls, "wait", each);
  byId("stages").innerHTML = head("stage", "median", "90 %", "99 %", "longest", "requests") + "<tbody>" + d.stages.map((stage) =>
    `<tr><td>${escape(stage.name)}</td>${spread(stage)}<td>${number(stage.count)}</td></tr>`).join("") + "</tbody>";
  byId("ops").innerHTML = head("operation", "requests", "failed", "median", "90 %", "99 %", "longest", "way") + "<tbody>" + d.operations.map((op) =>
    `<tr><td class="mono">${escape(op.name)}</td><td>${number(op.count)}</td><td class="${op.failed ? "bad-text" : ""}">${number(op.failed)}</td>${spread(op)}` +
    `<td>${op.ways.map(([way, count]) => `${escape(way)} ${Math.round(100 * count / op.count)} %`).join("<br>")}</td></tr>`).join("") + "</tbody>";
  const groups = new Map();
  for (const [size, count] of d.batches) {
    const low = 2 ** Math.floor(Math.log2(size)), name = low === 1 ? "1" : `${low} to ${2 * low - 1}`;
    groups.set(name, (groups.get(name) || 0) + count);
  }
  const most = Math.max(...groups.values(), 1);
  byId("batches").innerHTML = groups.size ? "<table>" + head("requests", "calls", "share") + "<tbody>" + [...groups].map(([name, count]) =>
    `<tr><td>${name}</td><td>${number(count)}</td><td class="lane"><span style="width:${(100 * count / most).toFixed(1)}%"></span></td></tr>`).join("") +
    "</tbody></table>" : "<p class='soft'>No call submitted anything: a kernel thread did (SQPOLL).</p>";
  byId("sampled").textContent = d.sample.length < d.done ? `A sample: ${d.sample.length} of ${number(d.done)}, the slowest hundred and others at ` +
    "even distances. Everything above is counted in full." : `All ${number(d.done)}.`;
  byId("sampled").textContent += " The number is its user_data; with # it is the number of a token that a table of rawuring gave it.";
  byId("only").innerHTML = "<option value=''>all</option>" + d.operations.map((op) => `<option>${escape(op.name)}</option>`).join("");
  for (const name of ["order", "only", "scale"]) byId(name).addEventListener("change", drawRequests);
  byId("stage-legend").innerHTML = PARTS.map(([kind, title]) => `<span><i class="${kind}"></i>${title}</span>`).join("");
  drawRequests();
  byId("left-card").hidden = !d.left_count;
  byId("left").innerHTML = head("operation", "user_data", "ring", "submitted after") + "<tbody>" + d.left.map((one) =>
    `<tr><td class="mono">${escape(one.op)}</td><td class="mono">${escape(one.user_data)}</td><td class="mono">${escape(one.ring)}</td>` +
    `<td class="mono">${time(one.since)}</td></tr>`).join("") + "</tbody>";
}
"""

START = "\nstart();\n"


def fill(data: dict[str, Any], title: str) -> str:
    """Return the whole page.

    Args: data is plain data for JSON; title is plain text.
    """
    body, program = BODY, f"{VIEW}{playkernel.SOURCE}{RUN}{DRIVE}"
    if data["kind"] == "trace":
        body, program = TRACE_BODY, TRACE
    # Without "<" nothing in it can end the script, or begin a comment that hides its end.
    shown = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>{body}"
        f'<script type="application/json" id="data">{shown}</script>\n'
        f"<script>{program}{START}</script>\n</body>\n</html>\n"
    )
