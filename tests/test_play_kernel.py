# SPDX-License-Identifier: MIT
"""The kernel of the page behaves as fakekernel.py: each byte and each list, call by call.

What it is: FakeKernels that record each call and its effect, for the chapters of the tour and for 1,000
random programs, correct ones and broken ones; and the same calls made to the JavaScript, in node or, without
node, in chromium.
Must not know: how either of the two works.
Invariant: the programs are seeded, so each run compares the same.
Read next: rawuring/playkernel.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import random
import shutil
import subprocess
from types import SimpleNamespace

import browser
import pytest

from rawuring import fakekernel, play, playkernel, tour, uapi

U32 = 0xFFFFFFFF
PROGRAMS = 1000
CALLS = ("enter", "feed", "wake", "complete_late", "run_sq_thread", "put_sq_thread_to_sleep")

# Makes the calls of a program, and returns the first difference.
HARNESS = r"""
const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
const differences = (old, now) => {
  const found = [];
  now.forEach((byte, i) => { if (byte !== old[i]) found.push(i, byte); });
  return found;
};
const patch = (memory, changes) => { for (let i = 0; i < changes.length; i += 2) memory[changes[i]] = changes[i + 1]; };

function lists(kernel) {
  return [
    kernel.overflowed.map(([user_data, res, flags]) => [String(user_data), res, flags]),
    kernel.late.map(([user_data, res, flags]) => [String(user_data), res, flags]),
    [...kernel.polls].map(([user_data, [fd, mask]]) => [String(user_data), fd, mask, kernel.multishot.has(user_data)]),
    kernel.reads.map((each) => String(each.user_data)),
    [...kernel.pipes].map(([fd, bytes]) => [fd, hex(bytes)]),
    [...kernel.buffers].map(([group, all]) => [group, all.map((each) => each.map(String))]),
    kernel.sq_head, kernel.cq_tail,
  ];
}

function differs(program) {
  let written = [];
  const copyOut = (address, data) => written.push([String(address), hex(data)]);
  const kernel = new FakeKernel({...program.options, copyOut});
  for (const opcode of program.slow_ops) kernel.slow_ops.add(opcode);
  for (const [number, step] of program.steps.entries()) {
    patch(kernel.ring, step.ring_before);
    patch(kernel.sqes, step.sqes_before);
    for (const [fd, data] of step.pipes) kernel.pipes.set(fd, (data.match(/../g) || []).map((pair) => parseInt(pair, 16)));
    kernel.at_most = step.at_most;
    kernel.failures = step.failures;
    const ring = kernel.ring.slice(), sqes = kernel.sqes.slice();
    const [name, ...args] = step.call;
    if (name === "feed") args[1] = args[1].match(/../g).map((pair) => parseInt(pair, 16));
    written = [];
    let result;
    try {
      const value = kernel[name](...args);
      result = value === undefined ? null : value;
    } catch (error) {
      result = error instanceof BrokenRing ? "broken: " + error.message : error instanceof KernelError
        ? "errno " + error.errno : String(error.stack);
    }
    const seen = [result, differences(ring, kernel.ring), differences(sqes, kernel.sqes), written, lists(kernel)];
    if (JSON.stringify(seen) !== JSON.stringify(step.after)) return [number, step, seen];
  }
  return null;
}
"""


class Traced(fakekernel.FakeKernel):
    """A FakeKernel that records each call from outside."""

    def __init__(self, **options):
        super().__init__(**options)
        self.program = {"options": options, "slow_ops": [], "steps": []}
        self._inside = False
        self._ring, self._sqes = bytes(self.ring), bytes(self.sqes)
        for name in CALLS:
            setattr(self, name, self._traced(name, getattr(self, name)))

    def _traced(self, name, method):
        def call(*arguments):
            if self._inside:
                return method(*arguments)
            given = [each.hex() if isinstance(each, bytes) else each for each in arguments]
            if name == "enter":
                given = [*given[1:4], 1 if len(given) > 4 and given[4] is not None else None]
            step = {
                "call": [name, *given], "at_most": list(self.at_most), "failures": list(self.failures),
                "pipes": [[fd, bytes(data).hex()] for fd, data in self.pipes.items()],
                "ring_before": differences(self._ring, self.ring),
                "sqes_before": differences(self._sqes, self.sqes),
            }  # fmt: skip
            self.program["slow_ops"] = sorted(self.slow_ops)
            ring, sqes, written = bytes(self.ring), bytes(self.sqes), []
            self._inside = True
            memmove = ctypes.memmove
            ctypes.memmove = lambda to, data, n: (written.append([str(to), data.hex()]), memmove(to, data, n))
            try:
                result = method(*arguments)
                return result
            except fakekernel.BrokenRing as error:
                result = f"broken: {error}"
                raise
            except OSError as error:
                result = f"errno {error.errno}"
                raise
            finally:
                ctypes.memmove = memmove
                self._inside = False
                step["after"] = [
                    result, differences(ring, self.ring), differences(sqes, self.sqes), written, lists(self),
                ]  # fmt: skip
                self.program["steps"].append(step)
                self._ring, self._sqes = bytes(self.ring), bytes(self.sqes)

        return call


def differences(old, now):
    found = []
    for i, byte in enumerate(now):
        if byte != old[i]:
            found += [i, byte]
    return found


def lists(kernel):
    return [
        [[str(user_data), res, flags] for user_data, res, flags in kernel.overflowed],
        [[str(user_data), res, flags] for user_data, res, flags in kernel.late],
        [[str(key), fd, mask, key in kernel.multishot] for key, (fd, mask) in kernel.polls.items()],
        [str(each["user_data"]) for each in kernel.reads],
        [[fd, bytes(data).hex()] for fd, data in kernel.pipes.items()],
        [[group, [[str(value) for value in each] for each in all_]] for group, all_ in kernel.buffers.items()],
        kernel.sq_head,
        kernel.cq_tail,
    ]


# ------------------------------------------------------------------------------------------------------
# Programs


class TracedKernels(tour.PythonKernel):
    """The tour's rings, on recording kernels."""

    def __init__(self):
        self.programs = []

    @contextlib.contextmanager
    def ring(self, entries, cq_entries=0, flags=0):
        self._kernel = Traced(entries=entries, cq_entries=cq_entries, flags=flags, poison=False)
        with fakekernel.FakeRing(self._kernel) as ring:
            yield ring
        self.programs.append(self._kernel.program)


def tour_programs():
    kernels = TracedKernels()
    tour.run(kernels, lambda text: None)
    return kernels.programs


SETUP = (
    uapi.IORING_SETUP_SQPOLL, uapi.IORING_SETUP_SUBMIT_ALL, uapi.IORING_SETUP_NO_SQARRAY,
    uapi.IORING_SETUP_CQE32, uapi.IORING_SETUP_SQE128,
)  # fmt: skip
OPCODES = (
    uapi.IORING_OP_NOP, uapi.IORING_OP_READ, uapi.IORING_OP_READ, uapi.IORING_OP_POLL_ADD,
    uapi.IORING_OP_POLL_ADD, uapi.IORING_OP_POLL_REMOVE, uapi.IORING_OP_ASYNC_CANCEL,
    uapi.IORING_OP_PROVIDE_BUFFERS, uapi.IORING_OP_FSYNC, uapi.IORING_OP_TIMEOUT, uapi.IORING_OP_LAST, 255,
)  # fmt: skip
NAMES = (1, 2, 3, 4, 5, 2**64 - 1, 2**53 + 1)


class RandomProgram:
    """A program that mostly obeys the rules."""

    def __init__(self, seed):
        self.chance = chance = random.Random(seed)
        start = chance.choice([0, U32, U32 - 2, 2**31 - 1])
        self.kernel = Traced(
            entries=chance.choice([1, 2, 3, 4, 8]), cq_entries=chance.choice([0, 1, 2, 4, 16]),
            flags=sum(bit for bit in SETUP if chance.random() < 0.25), sq_start=start,
            cq_start=chance.choice([start, U32, 7]), poison=chance.random() < 0.5,
        )  # fmt: skip
        self.kernel.pipes.update({3: bytearray(), 4: bytearray()})
        slow = (uapi.IORING_OP_FSYNC, uapi.IORING_OP_TIMEOUT, uapi.IORING_OP_NOP)
        self.kernel.slow_ops.update(each for each in slow if chance.random() < 0.5)
        self.memory = ctypes.create_string_buffer(8192)
        self.tail = start
        kernel = self.kernel
        if not kernel.no_array:
            for i in range(kernel.sq_entries):
                kernel.store(kernel.sq_off["array"] + 4 * i, i)

    def run(self):
        for _ in range(self.chance.randrange(5, 30)):
            try:
                self.step()
            except (fakekernel.BrokenRing, OSError) as error:
                if isinstance(error, fakekernel.BrokenRing):
                    break
        return self.kernel.program

    def step(self):
        chance, kernel = self.chance, self.kernel
        action = chance.choice(["fill", "fill", "enter", "enter", "reap", "feed", "wake", "late", "sq", "odd"])
        if action == "fill":
            head = kernel.load(kernel.sq_off["head"])
            for _ in range(chance.randrange(1, 4)):
                if (self.tail - head) & U32 < kernel.sq_entries or chance.random() < 0.02:
                    self.fill()
            if chance.random() < 0.9:
                kernel.store(kernel.sq_off["tail"], self.tail)
        elif action == "enter":
            flags = uapi.IORING_ENTER_GETEVENTS if chance.random() < 0.6 else 0
            flags |= uapi.IORING_ENTER_SQ_WAKEUP if chance.random() < 0.5 else 0
            timeout = SimpleNamespace(deadline_ns=1) if chance.random() < 0.9 else None
            kernel.enter(5, chance.randrange(0, 10), chance.randrange(0, 4), flags, timeout)
        elif action == "reap":
            head = kernel.load(kernel.cq_off["head"])
            wild = 1 if chance.random() < 0.03 else 0
            kernel.store(kernel.cq_off["head"], head + chance.randrange(0, kernel.ready() + 1) + wild)
        elif action == "feed":
            kernel.feed(chance.choice([3, 4]), bytes(chance.randrange(256) for _ in range(chance.randrange(1, 9))))
        elif action == "wake":
            kernel.wake(chance.choice([3, 4, 9]), chance.choice([0, 1, 4, 5]))
        elif action == "late" and kernel.late:
            kernel.complete_late(chance.randrange(len(kernel.late)))
        elif action == "sq":
            chance.choice([kernel.run_sq_thread, kernel.put_sq_thread_to_sleep])()
        elif action == "odd":
            self.odd()

    def odd(self):
        chance, kernel = self.chance, self.kernel
        which = chance.randrange(4)
        if which == 0:
            kernel.at_most.append(chance.randrange(0, 3))
        elif which == 1:
            kernel.failures.append(chance.choice([0, 4, 11, 16]))
        elif which == 2 and not kernel.no_array:
            place = chance.randrange(kernel.sq_entries)
            kernel.store(kernel.sq_off["array"] + 4 * place, chance.randrange(kernel.sq_entries + 1))
        elif chance.random() < 0.1:
            kernel.store(kernel.sq_off["tail"], chance.randrange(2**32))

    def fill(self):
        chance, kernel = self.chance, self.kernel
        address = ctypes.addressof(self.memory) + chance.randrange(64) * 64
        opcode = chance.choice(OPCODES)
        fields = {
            "opcode": opcode, "flags": 0, "fd": chance.choice([3, 3, 4, 9]), "user_data": chance.choice(NAMES),
            "addr": address, "len": chance.randrange(0, 33), "off": chance.randrange(0, 100),
            "buf_group": chance.choice([0, 1]),
        }  # fmt: skip
        if chance.random() < 0.2:
            fields["flags"] |= uapi.IOSQE_IO_LINK
        if opcode == uapi.IORING_OP_READ and chance.random() < 0.4:
            fields["flags"] |= uapi.IOSQE_BUFFER_SELECT
        elif opcode == uapi.IORING_OP_POLL_ADD:
            fields["len"], fields["poll32_events"] = chance.choice([0, 0, 1, 1, 2]), chance.choice([1, 5])
        elif opcode in (uapi.IORING_OP_POLL_REMOVE, uapi.IORING_OP_ASYNC_CANCEL):
            fields["addr"], fields["len"] = chance.choice(NAMES), chance.choice([0, 0, 0, 1])
            fields["cancel_flags"] = chance.choice([0, 0, 0, 1])
        elif opcode == uapi.IORING_OP_PROVIDE_BUFFERS:
            fields["fd"] = chance.randrange(0, 4)
        sqe = uapi.io_uring_sqe.pack(**fields).ljust(kernel.sqe_size, b"\0")
        start = (self.tail & (kernel.sq_entries - 1)) * kernel.sqe_size
        whole = chance.random() < 0.99
        kernel.sqes[start : start + (len(sqe) if whole else 32)] = sqe if whole else sqe[:32]
        self.tail = (self.tail + 1) & U32


# ------------------------------------------------------------------------------------------------------
# The comparison


def compare(programs):
    """Make all programs' calls to the JavaScript; return differences: [program, step, expected, seen]."""
    source = f"const NAMES = {json.dumps(play.names_as_data())};{playkernel.SOURCE}{HARNESS}"
    run = "programs.map(differs).findIndex((each) => each)"
    ask = f"(() => {{ const at = {run}; return at < 0 ? null : [at, ...differs(programs[at])]; }})()"
    node = shutil.which("node")
    if node:
        text = f"{source}\nconst programs = {json.dumps(programs)};\nconsole.log(JSON.stringify({ask}));"
        done = subprocess.run([node, "-"], input=text, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)
    with browser.browser() as one:
        for first in range(0, len(programs), 50):
            part = json.dumps(programs[first : first + 50])
            found = one.value(f"(() => {{ {source}\nconst programs = {part}; return {ask}; }})()")
            if found:
                return found
    return None


def test_chapters_of_the_tour_when_replayed_in_javascript_then_each_byte_is_the_same():
    programs = tour_programs()
    assert len(programs) == len(tour.CHAPTERS) and sum(len(each["steps"]) for each in programs) > 20
    assert compare(programs) is None


@pytest.mark.long
def test_random_programs_when_run_in_both_then_each_byte_is_the_same():
    programs = [RandomProgram(seed).run() for seed in range(PROGRAMS)]
    steps = [step for program in programs for step in program["steps"]]
    results = [step["after"][0] for step in steps]
    # They reach everything: broken rings, errnos, overflow, MORE, buffers, cancellations.
    for message in ("went backwards", "overtook", "not written whole", "entries published", "never end"):
        assert any(message in str(result) for result in results), message
    posted = [step["after"][4] for step in steps]
    assert any(overflowed for overflowed, *_ in posted) and any(polls for _, _, polls, *_ in posted)
    assert any(written for step in steps for written in step["after"][3])
    assert len(steps) > 5 * PROGRAMS
    assert compare(programs) is None


@pytest.mark.long
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("more ? C.IORING_CQE_F_MORE : 0", "C.IORING_CQE_F_MORE"),
        ("const count = Math.min(to_submit, queued,", "const count = Math.min(to_submit, 1,"),
        ("this.link_failed = true;\n      this.post(user_data, -E.ENOENT", "this.post(user_data, -E.ENOENT"),
        ("(tail - this.sq_head) >>> 0", "tail - this.sq_head"),
    ],
)
def test_comparison_when_the_javascript_is_broken_then_it_is_seen(monkeypatch, old, new):
    assert playkernel.SOURCE.count(old) == 1
    monkeypatch.setattr(playkernel, "SOURCE", playkernel.SOURCE.replace(old, new))
    assert compare([RandomProgram(seed).run() for seed in range(200)]) is not None
