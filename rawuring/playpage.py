# SPDX-License-Identifier: MIT
# pyright: basic
"""The page of play.py: its style, its markup and its program.

What it is: three texts, and fill(), which puts them and the data of play.py into one file. They are strings of
a module, as a copy, a zip and a copy in one file carry modules and nothing else.
Mirrors: nothing.
Must not know: where the data come from.
Invariant: the page is ASCII, loads nothing (its Content-Security-Policy forbids it), and works by keyboard.
Read next: tests/test_play.py.

Unless said otherwise, any thread may call.

The program folds events to states. ``fold`` applies one event to a state, so the state at every place of the
scrubber is known, forward and back; ``draw`` shows one. A state is plain data: the words by name, the slots, the
requests (in the order in which their SQEs were filled), and what the kernel keeps on lists of its own.
"""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"

STYLE = r"""
:root {
  color-scheme: light dark;
  --page: #f7f6f2; --card: #ffffff; --text: #1d2228; --soft: #525c66; --line: #d5d3cb;
  --us: #0b5cad; --us-pale: #dcebfa; --kernel: #a14a00; --kernel-pale: #fdeacf;
  --bad: #b3141b; --bad-pale: #fde3e1; --good: #1d6b34; --good-pale: #dff3e3; --on: #ffffff;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --card: #1d2228; --text: #e8e6e0; --soft: #a9b2bc; --line: #39424c;
    --us: #7db8f2; --us-pale: #1d3a57; --kernel: #f0a550; --kernel-pale: #4a3113;
    --bad: #ff8a80; --bad-pale: #51201f; --good: #7fd598; --good-pale: #1b3f28; --on: #101418;
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
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .3rem; letter-spacing: -.01em; }
h2 { font-size: 1.05rem; margin: 0 0 .5rem; }
h3 { font-size: 1rem; margin: .7rem 0 .3rem; }
p { margin: .4rem 0; }
.soft { color: var(--soft); }
.lead { max-width: 62rem; margin: 0; }
nav { display: flex; flex-wrap: wrap; gap: .4rem; margin-top: .8rem; }
button, select, input { font: inherit; color: inherit; }
button, select {
  background: var(--card); border: 1px solid var(--soft); border-radius: .45rem; padding: .3rem .7rem;
  min-height: 2.2rem; cursor: pointer;
}
button:hover:not(:disabled) { border-color: var(--us); }
button:disabled { opacity: .45; cursor: not-allowed; }
button[aria-selected="true"], button[aria-pressed="true"] {
  background: var(--us); color: var(--on); border-color: var(--us);
}
:focus-visible { outline: 3px solid var(--us); outline-offset: 2px; }
g:focus-visible { outline: none; }
g:focus-visible > .shape { stroke: var(--text); stroke-width: 4; }
main {
  display: grid; gap: 1rem; padding: 1rem 1.5rem 3rem; max-width: 1500px; margin: auto; align-items: start;
  grid-template-columns: minmax(16rem, 1fr) minmax(30rem, 2.3fr) minmax(17rem, 1.1fr);
}
.column { display: grid; gap: 1rem; min-width: 0; }
.card {
  background: var(--card); border: 1px solid var(--line); border-radius: .7rem; padding: .9rem 1rem; min-width: 0;
}
.rings { display: grid; grid-template-columns: 1fr 1fr; gap: .5rem; }
figure { margin: 0; min-width: 0; }
figure svg { width: 100%; height: auto; display: block; }
figcaption { text-align: center; }
.scrub { display: flex; flex-wrap: wrap; gap: .4rem; align-items: center; }
.scrub input { flex: 1 1 10rem; min-width: 8rem; accent-color: var(--us); height: 2.2rem; }
#now {
  min-height: 3.4em; margin-top: .6rem; padding: .5rem .7rem; border-left: .3rem solid var(--line);
  background: var(--page); border-radius: 0 .4rem .4rem 0; overflow-wrap: anywhere;
}
#now.us { border-color: var(--us); } #now.kernel { border-color: var(--kernel); } #now.bad { border-color: var(--bad); }
.us-text { color: var(--us); font-weight: 600; } .kernel-text { color: var(--kernel); font-weight: 600; }
.bad-text { color: var(--bad); font-weight: 600; } .good-text { color: var(--good); font-weight: 600; }
.slot { cursor: pointer; }
.shape { stroke: var(--card); stroke-width: 2; }
.slot.ours .shape { fill: var(--us-pale); } .slot.theirs .shape { fill: var(--kernel-pale); }
.slot.ours.full .shape { fill: var(--us); } .slot.theirs.full .shape { fill: var(--kernel); }
.slot text { fill: var(--text); font-size: 16px; text-anchor: middle; pointer-events: none; }
.slot.full text { fill: var(--on); } .slot.narrow text { font-size: 13px; }
.slot.bad .shape { fill: var(--bad); stroke: var(--bad); } .slot.bad text { fill: var(--on); }
.slot.chosen .shape { stroke: var(--text); stroke-width: 4; }
.hub { fill: var(--text); text-anchor: middle; font-size: 16px; } .hub.big { font-size: 24px; font-weight: 700; }
.hub.small { fill: var(--soft); font-size: 15px; }
.arrow line { stroke-width: 2.5; } .arrow text { font-size: 16px; font-weight: 600; }
.arrow.us line { stroke: var(--us); } .arrow.us text, .arrow.us path { fill: var(--us); }
.arrow.kernel line { stroke: var(--kernel); } .arrow.kernel text, .arrow.kernel path { fill: var(--kernel); }
.arrow.bad line { stroke: var(--bad); } .arrow.bad text, .arrow.bad path { fill: var(--bad); }
@keyframes pulse { from { opacity: .15; } to { opacity: 1; } }
.fresh { animation: pulse .5s ease-out; }
@media (prefers-reduced-motion: reduce) { .fresh { animation: none; } }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .87rem; justify-content: center; }
.legend i {
  display: inline-block; width: .9em; height: .9em; border-radius: .2em; margin-right: .35em; vertical-align: -.1em;
  border: 1px solid var(--soft);
}
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: .82rem; }
th, td { padding: .18rem .4rem .18rem 0; vertical-align: top; }
.scroll { overflow-x: auto; }
td button, .array button { padding: 0 .45rem; min-height: 1.75rem; border-color: var(--line); background: var(--page); }
tr.fresh td, .array .fresh { animation: pulse .5s ease-out; }
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
.row { display: flex; flex-wrap: wrap; gap: .4rem; align-items: center; margin: .35rem 0; }
.skip { position: absolute; left: -100rem; } .skip:focus { left: 1rem; top: .5rem; background: var(--card); padding: .5rem; }
kbd { border: 1px solid var(--soft); border-radius: .25rem; padding: 0 .3rem; font-size: .85em; }
[hidden] { display: none !important; }
@media (max-width: 1180px) {
  main { grid-template-columns: minmax(15rem, 1fr) minmax(24rem, 2fr); }
  main > .column:last-child { grid-column: 1 / -1; grid-template-columns: 1fr 1fr; align-items: start; }
}
@media (max-width: 780px) {
  header { padding: 1rem .8rem .2rem; } main { grid-template-columns: 1fr; padding: .8rem .8rem 3rem; }
  .slot text, .arrow text { font-size: 18px; } .slot.narrow text { font-size: 14px; }
  main > .column { display: contents; } main > .column > * { order: 1; } #panel { order: 0; } #log-card { order: 2; }
  .rings { gap: 0; } ol.log { max-height: 14rem; }
  .card { padding: .7rem .7rem; }
}
@media (max-width: 520px) { .rings { grid-template-columns: 1fr; } figure svg { max-height: 19rem; } }
"""

BODY = r"""
<a class="skip" href="#stage">To the rings</a>
<header>
  <h1>Play with the rings</h1>
  <p class="lead soft">io_uring is two queues in memory that a program shares with the kernel. Requests go into the
    submission queue (SQ), answers come out of the completion queue (CQ). Here each word that changes is a step,
    forward and back. The same as text: <code>python -m rawuring.tour</code>.</p>
  <nav role="tablist" aria-label="What to do" id="tabs"></nav>
</header>
<main>
  <div class="column">
    <section class="card" id="panel" aria-label="What happens"></section>
    <section class="card" id="log-card" aria-labelledby="log-title"><h2 id="log-title">What has changed, in order</h2>
      <ol class="log" id="log" tabindex="0" aria-labelledby="log-title"></ol></section>
  </div>
  <div class="column" id="stage" tabindex="-1">
    <section class="card" aria-label="The rings">
      <div class="scrub" id="scrub">
        <button id="first" aria-label="To the beginning">|&lt;</button>
        <button id="back" aria-label="One change back">&lt;</button>
        <input id="place" type="range" min="0" value="0" aria-label="Place in the recording">
        <button id="forth" aria-label="One change forward">&gt;</button>
        <button id="last" aria-label="To the end">&gt;|</button>
        <button id="play" aria-pressed="false">Play</button>
      </div>
      <p id="now" role="status" aria-live="polite"></p>
      <div class="rings" id="rings"></div>
      <div class="legend" id="legend">
        <span><i style="background:var(--us-pale)"></i>ours, free to fill</span>
        <span><i style="background:var(--us)"></i>ours, holds an entry</span>
        <span><i style="background:var(--kernel)"></i>the kernel's, to be read</span>
        <span><i style="background:var(--kernel-pale)"></i>the kernel's, free to fill</span>
      </div>
    </section>
    <section class="card" aria-labelledby="words-title"><h2 id="words-title">The words</h2>
      <div class="scroll" tabindex="0" role="region" aria-label="Table of the words"><table id="words"></table></div>
      <div class="array" id="array"></div></section>
  </div>
  <div class="column">
    <section class="card" aria-labelledby="details-title"><h2 id="details-title">Details</h2>
      <div id="details" aria-live="polite"></div></section>
    <section class="card" aria-labelledby="requests-title"><h2 id="requests-title">Requests, and who holds what</h2>
      <div id="requests"></div></section>
  </div>
</main>
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
  let out = "";
  owners(state, queue).forEach(([owner, full, says], i) => {
    const key = `${kind}[${i}]`;
    const lines = slotLines(state, queue, i);
    const [x, y] = point(107, (i + 0.5) / entries);
    const bad = state.trouble[key];
    const label = `[${i}] ${lines.join(" ")}: ${kind.toUpperCase()} slot ${i}, ${bad || says}`;
    const classes = ["slot", entries > 4 && "narrow", owner, full && "full", key === state.changed && "fresh", bad && "bad", key === chosen && "chosen"];
    const texts = [String(i), ...lines].map((line, n, all) =>
      `<text aria-hidden="true" x="${x}" y="${y + 5 + (n - (all.length - 1) / 2) * 18}">${escape(n ? line : "[" + line + "]")} </text>`);
    out += `<g class="${classes.filter(Boolean).join(" ")}" role="button" tabindex="0" data-key="${key}"` +
      ` aria-label="${escape(label)}"><path class="shape" d="${sector(58, 152, i / entries, (i + 1) / entries)}"/>` +
      texts.join("") + "</g>";
  });
  const arrows = queue === "sq"
    ? [["sq.khead", 0.18, 172, "kernel"], ["sq.ktail", 0.5, 182, "us"], ["sq.sqe_tail", 0.82, 172, "us"]]
    : [["cq.khead", 0.25, 172, "us"], ["cq.ktail", 0.75, 180, "kernel"]];
  for (const [name, share, radius, who] of arrows) {
    const value = state.words[name];
    const turn = ((value & mask) + share) / entries;
    const [x, y] = point(radius, turn), [a, b] = point(radius - 4, turn), [c, d] = point(156, turn);
    const anchor = Math.abs(x) < 25 ? "middle" : x < 0 ? "end" : "start";
    const dy = Math.abs(x) < 25 ? (y < 0 ? -2 : 12) : 5;
    const bad = state.trouble[name];
    out += `<g class="arrow ${bad ? "bad" : who} ${name === state.changed ? "fresh" : ""}" aria-hidden="true">` +
      `<line x1="${a}" y1="${b}" x2="${c}" y2="${d}"/><path d="${tip(turn)}"/>` +
      `<text x="${x}" y="${y + dy}" text-anchor="${anchor}">${name.slice(3)} ${value}</text></g>`;
  }
  const [head, tail] = [state.words[queue + ".khead"], state.words[queue + ".ktail"]];
  const count = distance(tail, head);
  out += `<g aria-hidden="true"><text class="hub big" y="-8">${queue.toUpperCase()}</text>` +
    `<text class="hub" y="13">${count} of ${entries}</text><text class="hub small" y="32">mask ${mask}</text></g>`;
  const caption = queue === "sq"
    ? `index ${tail} is slot ${tail} &amp; ${mask} = ${tail & mask}` : `index ${head} is slot ${head} &amp; ${mask} = ${head & mask}`;
  return `<figure><svg viewBox="-265 -205 530 410" role="group" aria-label="${queue === "sq" ? "Submission" : "Completion"} ` +
    `queue, ${count} of ${entries} entries">${out}</svg><figcaption class="soft mono">${caption}</figcaption></figure>`;
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
    return `<p>The index array says for each place of the queue which SQE slot is meant, so that a program can fill
      slots in one order and send them in another. It is written once, by us, and not looked at again. From Linux 6.6 it
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
    `<h3 class="mono">${chosen}</h3><dl>` + rows.map(([k, v]) => `<dt>${k}</dt><dd>${escape(v)}</dd>`).join("") + "</dl>";
}

function sqeDetails(state, slot) {
  const owner = owners(state, "sq")[slot];
  const bad = state.trouble[`sqe[${slot}]`];
  let out = `<h3 class="mono">sqe[${slot}]</h3>` + (bad ? `<p class="bad-text">${escape(bad)}</p>` : "") +
    (owner ? `<p>${owner[2]}.</p>` : "");
  const hex = state.sqes[slot];
  if (!hex || /^0+$/.test(hex)) return out + "<p>64 bytes, all zero: nothing was written here yet.</p>";
  if (/^(ee)+$/.test(hex)) return out + "<p>64 bytes of 0xee: this kernel overwrites a slot that it has read, so that nobody relies on it.</p>";
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
  if (!cqe) return out + "<p>16 bytes, all zero: nothing was written here yet.</p>";
  if (!owner[1]) {
    const early = slot === (state.words["cq.ktail"] & (state.ring.cq_entries - 1)) && state.changed === `cqe[${slot}]`;
    out += early ? "<p>Written, and not announced: until cq.ktail has moved, we must not look.</p>"
      : "<p class='soft'>What stands here was copied already.</p>";
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
  return out + "<dl>" + rows.map(([k, v]) => `<dt>${k}</dt><dd>${escape(v)}</dd>`).join("") + "</dl>";
}

// -- requests over time

const PHASES = {
  filled: ["ours", "filled by us, not published", "ours"],
  published: ["theirs", "published: the SQE is the kernel's", "the kernel may use it at any time now"],
  kernel: ["theirs", "in the kernel: its SQE slot is free, the request is not", "the kernel's, until the final CQE"],
  overflow: ["wait", "done; its CQE waits outside the ring for room", "the kernel is done with it, and we cannot know yet"],
  posted: ["wait", "its CQE is in the ring", "ours as soon as we have seen the CQE"],
  done: ["", "reaped: over", "ours"],
  discarded: ["", "discarded before it was published", "ours"],
};

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
      states.forEach((state, k) => {
        const request = state.requests[n];
        let kind = request ? PHASES[request.phase][0] : "";
        if (memory && kind === "wait") kind = "theirs";
        if (memory && request && request.phase === "filled") kind = "ours";
        if (!kind || k + 1 >= states.length && states.length > 1) return;
        shapes += `<rect class="${kind} ${k > place ? "later" : ""}" x="${(left + k * per).toFixed(1)}" y="${y}"` +
          ` width="${(per + 0.4).toFixed(1)}" height="${memory ? 6 : 13}"/>`;
      });
      y += memory ? 14 : 19;
    }
    const now = states[place].requests[n];
    if (now) {
      says += `<li><b class="mono">${escape(now.op)} ${now.user_data}</b>${now.again ? " (once more)" : ""}: ${PHASES[now.phase][1]}` +
        (now.memory ? `. Its ${now.memory} bytes: ${PHASES[now.phase][2]}` : "") + ".</li>";
    }
  });
  const x = (left + place * per).toFixed(1);
  let out = `<svg class="spans" viewBox="0 0 ${width} ${y}" style="width:100%;height:auto" role="img" aria-label="` +
    `the requests over time; the list below says the same"><g>${shapes}</g><line class="cursor" x1="${x}" x2="${x}" y1="0" y2="${y}"/></svg>`;
  out += `<ul style="padding-left:1.1rem;font-size:.92rem">${says || "<li>None yet at this place.</li>"}</ul>`;
  const state = states[place];
  if (state.overflow.length) {
    out += `<p class="kernel-text">Waiting outside the ring: ${state.overflow.map((cqe) => "ud " + cqe[0]).join(", ")}</p>`;
  }
  return out;
}

// -- sentences

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
  let out = `<b class="mono">${escape(sentence(event))}</b>`;
  if (event.kind === "word") out += ` <span class="${event.by}-text">by ${WHO[event.by]}</span>; ${escape(event.order)}`;
  if (event.kind === "copy") out += ". From here on it lives in the kernel; the slot is free once sq.khead has passed it";
  for (const text of Object.values(event.trouble || {})) out += `<br><span class="bad-text">${escape(text)}</span>`;
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
  const key = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.key : "";
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
  now.innerHTML = event ? longSentence(event) : "Before the first change. Go forward: <kbd>&rarr;</kbd> or the buttons.";
  byId("first").disabled = byId("back").disabled = place === 0;
  byId("last").disabled = byId("forth").disabled = place === run.states.length - 1;
  drawLog();
  drawPanel();
  if (key && kept && kept.id) {
    const again = kept.querySelector(`[data-key="${CSS.escape(key)}"]`);
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
let tab = "tour";

function openChapter(number, to) {
  chapter = DATA.chapters[number];
  run = unroll(chapter);
  chosen = "sq.ktail";
  place = 0;
  location.replace("#chapter-" + chapter.number);
  go(to || 0);
}

function drawPanel() {
  const panel = byId("panel");
  if (tab !== "tour") return PANELS[tab](panel);
  const number = DATA.chapters.indexOf(chapter);
  if (panel.dataset.shown !== "tour") {
    panel.innerHTML = `<h2><label for="chapter">The tour, chapter by chapter</label></h2><div class="row">
      <select id="chapter">${DATA.chapters.map((each, n) =>
        `<option value="${n}">${each.number}. ${escape(each.title)}</option>`).join("")}</select>
      <button id="next-chapter">Next chapter</button></div><div id="story"></div>
      <p class="soft">Keys: <kbd>&larr;</kbd> <kbd>&rarr;</kbd> one change, <kbd>Page Up</kbd> <kbd>Page Down</kbd> one
      step, <kbd>Home</kbd> <kbd>End</kbd>. Click a word or a slot for what it is.</p>`;
    panel.dataset.shown = "tour";
    byId("chapter").addEventListener("change", (event) => openChapter(Number(event.target.value)));
    byId("next-chapter").addEventListener("click", () =>
      openChapter((DATA.chapters.indexOf(chapter) + 1) % DATA.chapters.length));
  }
  byId("chapter").value = number;
  const step = run.steps[place];
  const story = step < 0 ? chapter.text : chapter.steps[step].text;
  const title = step < 0 ? "" : `<h3>${chapter.number}.${step + 1} ${escape(chapter.steps[step].title)}</h3>`;
  byId("story").innerHTML = title + (story.map((each) => `<p>${escape(each)}</p>`).join("") || "<p></p>");
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
  if (!on) return;
  if (place === run.states.length - 1) go(0);
  timer = setInterval(() => {
    if (place < run.states.length - 1) go(place + 1);
    else playOn(false);
  }, 1100);
}

// What a tab besides the tour puts into the panel, and what it does when it opens.
const PANELS = {}, OPENED = {};
const TABS = [["tour", "The tour, recorded"]];

function openTab(name) {
  playOn(false);
  tab = name;
  byId("panel").dataset.shown = "";
  for (const button of byId("tabs").children) {
    button.setAttribute("aria-selected", String(button.dataset.tab === name));
    button.tabIndex = button.dataset.tab === name ? 0 : -1;
  }
  if (name === "tour") openChapter(DATA.chapters.indexOf(chapter) < 0 ? 0 : DATA.chapters.indexOf(chapter));
  else OPENED[name]();
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
    const at = event.target.closest("[data-place]");
    if (at) return go(Number(at.dataset.place));
    const key = event.target.closest("[data-key]");
    if (key) choose(key.dataset.key);
  });
  document.addEventListener("keydown", (event) => {
    const target = event.target;
    if ((event.key === "Enter" || event.key === " ") && target.getAttribute("role") === "button") {
      event.preventDefault();
      return choose(target.dataset.key);
    }
    if (/INPUT|SELECT|TEXTAREA/.test(target.tagName) || event.ctrlKey || event.altKey || event.metaKey) return;
    const moves = {
      ArrowRight: () => go(place + 1), ArrowLeft: () => go(place - 1), Home: () => go(0),
      End: () => go(run.states.length - 1), PageDown: () => otherStep(1), PageUp: () => otherStep(-1),
    };
    if (moves[event.key]) {
      event.preventDefault();
      moves[event.key]();
    }
  });
  const wanted = /^#chapter-(\d+)$/.exec(location.hash);
  const number = wanted ? DATA.chapters.findIndex((each) => each.number === Number(wanted[1])) : 0;
  chapter = DATA.chapters[Math.max(number, 0)];
  openTab("tour");
}
"""

START = "\nstart();\n"


def fill(data: dict[str, Any], title: str) -> str:
    """Return the whole page.

    Args: data is plain data for JSON; title is plain text.
    """
    shown = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>{BODY}"
        f'<script type="application/json" id="data">{shown}</script>\n'
        f"<script>{VIEW}{RUN}{START}</script>\n</body>\n</html>\n"
    )
