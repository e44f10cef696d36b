# SPDX-License-Identifier: MIT
# pyright: basic
"""The kernel of the page: fakekernel.py in JavaScript.

What it is: SOURCE, a class FakeKernel with the names and the order of fakekernel.py, method by method, over
an ArrayBuffer instead of bytearrays. user_data and addresses are BigInts, all other values are numbers.
Mirrors: fakekernel.py; tests/test_play_kernel.py runs both with the same programs and compares every byte.
Must not know: the page.
Invariant: it behaves exactly as fakekernel.py. A change to one is a change to both.
Read next: playpage.py.

Unless said otherwise, any thread may call.

It needs a constant NAMES (play.names_as_data). The memory of requests belongs to the code that makes the
kernel: ``copyOut(address, bytes)`` takes the place of memmove.
"""

from __future__ import annotations

SOURCE = r"""
class BrokenRing extends Error {}

class KernelError extends Error { // an OSError
  constructor(errno) {
    super("errno " + errno);
    this.errno = errno;
  }
}

function require_(condition, what) {
  if (!condition) throw new BrokenRing(what);
}

const POISON = 0xee;
const C = NAMES.constants, OP = NAMES.opcodes, E = NAMES.errno, LE = NAMES.little;

function bitLength(n) { return n ? 32 - Math.clz32(n) : 0; }

class FakeKernel {
  constructor({entries = 8, cq_entries = 0, flags = 0, sq_start = 0, cq_start = 0, poison = true, copyOut = null}) {
    this.sq_entries = 1 << bitLength(entries - 1);
    this.cq_entries = 1 << bitLength((cq_entries || 2 * this.sq_entries) - 1);
    this.flags = flags;
    this.cqe_size = flags & C.IORING_SETUP_CQE32 ? 32 : 16;
    this.sqe_size = flags & C.IORING_SETUP_SQE128 ? 128 : 64;
    this.no_array = Boolean(flags & C.IORING_SETUP_NO_SQARRAY);
    this.sq_off = {head: 4, tail: 64, ring_mask: 24, ring_entries: 12, flags: 68, dropped: 72};
    this.cq_off = {head: 80, tail: 128, ring_mask: 96, ring_entries: 84, overflow: 88, cqes: 192};
    const array = 192 + this.cq_entries * this.cqe_size;
    this.sq_off.array = this.no_array ? 0 : array;
    this.ring = new Uint8Array(array + 4 * this.sq_entries);
    this.words = new DataView(this.ring.buffer);
    this.poison = poison;
    this.sqes = new Uint8Array(this.sq_entries * this.sqe_size).fill(poison ? POISON : 0);
    this.sq_head = this.sq_tail_seen = sq_start;
    this.published_before = 0;
    this.cq_tail = cq_start;
    for (const [offset, value] of [
      [this.sq_off.head, sq_start], [this.sq_off.tail, sq_start],
      [this.sq_off.ring_mask, this.sq_entries - 1], [this.sq_off.ring_entries, this.sq_entries],
      [this.cq_off.head, cq_start], [this.cq_off.tail, cq_start],
      [this.cq_off.ring_mask, this.cq_entries - 1], [this.cq_off.ring_entries, this.cq_entries],
    ]) this.words.setUint32(offset, value, LE);
    this.overflowed = [];
    this.late = [];
    this.slow_ops = new Set();
    this.polls = new Map();
    this.multishot = new Set();
    this.buffers = new Map();
    this.ready_fds = new Map();
    this.pipes = new Map();
    this.reads = [];
    this.at_most = [];
    this.failures = [];
    this.enters = 0;
    this.in_link = this.link_failed = false;
    this.copyOut = copyOut;
  }

  // -- shared words

  load(offset) { return this.words.getUint32(offset, LE); }

  store(offset, value) { this.words.setUint32(offset, value >>> 0, LE); }

  set_flag(bit, on) {
    const old = this.load(this.sq_off.flags);
    this.store(this.sq_off.flags, on ? old | bit : old & ~bit);
  }

  // -- submission

  enter(to_submit, min_complete, flags, timeout = null) {
    this.enters += 1;
    const code = this.failures.length ? this.failures.shift() : 0;
    if (code) throw new KernelError(code);
    let submitted;
    if (this.flags & C.IORING_SETUP_SQPOLL) {
      this.wake_sq_thread(flags);
      submitted = to_submit;
    } else {
      submitted = this.submit(to_submit);
      if (submitted < to_submit && submitted !== this.published_before) return submitted;
    }
    if (flags & C.IORING_ENTER_GETEVENTS) {
      this.flush_overflow();
      while (this.ready() < Math.min(min_complete, this.cq_entries)) {
        if (!this.late.length) {
          require_(timeout !== null, "this wait would never end");
          return submitted;
        }
        this.complete_late(0);
        this.flush_overflow();
      }
    }
    return submitted;
  }

  submit(to_submit) {
    const tail = this.load(this.sq_off.tail);
    const moved = (tail - this.sq_tail_seen) >>> 0;
    const queued = (tail - this.sq_head) >>> 0;
    require_(moved <= this.sq_entries || queued <= this.sq_entries, "the tail went backwards");
    require_(queued <= this.sq_entries, `${queued} entries published on a ring of ${this.sq_entries}`);
    this.sq_tail_seen = tail;
    this.published_before = queued;
    const count = Math.min(to_submit, queued, this.at_most.length ? this.at_most.shift() : queued);
    let done = 0;
    while (done < count) {
      done += 1;
      if (!this.consume_one() && !(this.flags & C.IORING_SETUP_SUBMIT_ALL)) break;
    }
    this.store(this.sq_off.head, this.sq_head);
    this.in_link = this.link_failed = false;
    return done;
  }

  consume_one() {
    let index = this.sq_head & (this.sq_entries - 1);
    this.sq_head = (this.sq_head + 1) >>> 0;
    if (!this.no_array) {
      index = this.load(this.sq_off.array + 4 * index);
      if (index >= this.sq_entries) {
        this.store(this.sq_off.dropped, this.load(this.sq_off.dropped) + 1);
        return true;
      }
    }
    const start = index * this.sqe_size;
    const sqe = this.sqes.slice(start, start + this.sqe_size);
    if (this.poison) {
      require_(!sqe.subarray(56, 64).includes(POISON), "an SQE was published that was not written whole");
      this.sqes.fill(POISON, start, start + this.sqe_size);
    }
    return this.issue_in_chain(this.unpack(sqe));
  }

  unpack(sqe) {
    const view = new DataView(sqe.buffer, sqe.byteOffset, sqe.byteLength);
    return {
      opcode: view.getUint8(0), flags: view.getUint8(1), fd: view.getInt32(4, LE), off: view.getBigUint64(8, LE),
      addr: view.getBigUint64(16, LE), len: view.getUint32(24, LE), poll32_events: view.getUint32(28, LE),
      cancel_flags: view.getUint32(28, LE), user_data: view.getBigUint64(32, LE), buf_group: view.getUint16(40, LE),
    };
  }

  issue_in_chain(fields) {
    if (!this.in_link) this.link_failed = false;
    this.in_link = Boolean(fields.flags & C.IOSQE_IO_LINK);
    if (this.link_failed) {
      this.post(fields.user_data, -E.ECANCELED, 0);
      return true;
    }
    if (fields.opcode >= NAMES.last) {
      this.post(fields.user_data, -E.EINVAL, 0);
      this.link_failed = true;
      return false;
    }
    this.issue(fields);
    return true;
  }

  issue(fields) {
    const {opcode, user_data} = fields;
    if (this.slow_ops.has(opcode)) {
      this.late.push([user_data, 0, 0]);
    } else if (opcode === OP.POLL_ADD && [0, C.IORING_POLL_ADD_MULTI].includes(fields.len)) {
      this.polls.set(user_data, [fields.fd, fields.poll32_events]);
      this.multishot.delete(user_data);
      if (fields.len) this.multishot.add(user_data);
      this.answer_poll(user_data);
    } else if (opcode === OP.POLL_REMOVE && !fields.len) {
      this.end(user_data, fields.addr, this.forget_poll(fields.addr));
    } else if (opcode === OP.ASYNC_CANCEL && !fields.cancel_flags) {
      this.end(user_data, fields.addr, this.forget(fields.addr));
    } else if (opcode === OP.PROVIDE_BUFFERS) {
      if (!this.buffers.has(fields.buf_group)) this.buffers.set(fields.buf_group, []);
      for (let i = 0; i < fields.fd; i++) {
        const address = fields.addr + BigInt(i * fields.len);
        this.buffers.get(fields.buf_group).push([address, fields.len, Number(fields.off) + i]);
      }
      this.post(user_data, 0, 0);
    } else if (opcode === OP.READ && this.pipes.has(fields.fd)) {
      this.read(fields);
    } else {
      this.post(user_data, 0, 0);
    }
  }

  // -- pipes and polls

  feed(fd, data) {
    this.pipes.get(fd).push(...data);
    this.answer_reads(fd);
    this.wake(fd, this.pipes.get(fd).length ? 1 : 0);
  }

  read(fields) {
    const select = fields.flags & C.IOSQE_BUFFER_SELECT;
    if (select && !(this.buffers.get(fields.buf_group) || []).length) {
      this.link_failed = true;
      this.post(fields.user_data, -E.ENOBUFS, 0);
      return;
    }
    this.reads.push(fields);
    this.answer_reads(fields.fd);
  }

  answer_reads(fd) {
    for (const fields of this.reads.filter((each) => each.fd === fd)) {
      let {addr: address, len: nbytes} = fields, flags = 0;
      if (!this.pipes.get(fd).length) return;
      this.reads.splice(this.reads.indexOf(fields), 1);
      if (fields.flags & C.IOSQE_BUFFER_SELECT) {
        const group = this.buffers.get(fields.buf_group);
        if (!group.length) {
          this.post(fields.user_data, -E.ENOBUFS, 0);
          continue;
        }
        const [start, room, number] = group.shift();
        address = start;
        nbytes = Math.min(nbytes || room, room);
        flags = (C.IORING_CQE_F_BUFFER | (number << C.IORING_CQE_BUFFER_SHIFT)) >>> 0;
      }
      const data = this.pipes.get(fd).splice(0, nbytes);
      this.copyOut(address, data, fields);
      this.post(fields.user_data, data.length, flags);
    }
  }

  wake(fd, mask) {
    this.ready_fds.set(fd, mask);
    this.answer_polls(fd);
  }

  answer_polls(fd) {
    for (const [user_data, [polled]] of [...this.polls]) {
      if (polled === fd) this.answer_poll(user_data);
    }
  }

  answer_poll(user_data) {
    const [fd, mask] = this.polls.get(user_data);
    const events = (this.ready_fds.get(fd) || 0) & mask;
    if (!events) return;
    const more = this.multishot.has(user_data) && !this.overflowed.length && this.ready() < this.cq_entries;
    if (!more) this.forget_poll(user_data);
    this.post(user_data, events, more ? C.IORING_CQE_F_MORE : 0);
  }

  forget_poll(user_data) {
    this.multishot.delete(user_data);
    return this.polls.delete(user_data);
  }

  forget(user_data) {
    if (this.forget_poll(user_data)) return true;
    for (const [waiting, name] of [[this.reads, (each) => each.user_data], [this.late, (each) => each[0]]]) {
      const at = waiting.findIndex((each) => name(each) === user_data);
      if (at >= 0) {
        waiting.splice(at, 1);
        return true;
      }
    }
    return false;
  }

  end(user_data, target, found) {
    if (found) {
      this.post(user_data, 0, 0);
      this.post(target, -E.ECANCELED, 0);
    } else {
      this.link_failed = true;
      this.post(user_data, -E.ENOENT, 0);
    }
  }

  // -- the thread of an SQPOLL ring

  run_sq_thread() {
    if (this.load(this.sq_off.flags) & C.IORING_SQ_NEED_WAKEUP) return 0;
    return this.submit(this.sq_entries);
  }

  put_sq_thread_to_sleep() {
    this.set_flag(C.IORING_SQ_NEED_WAKEUP, true);
    if (this.load(this.sq_off.tail) !== this.sq_head) {
      this.set_flag(C.IORING_SQ_NEED_WAKEUP, false);
      this.run_sq_thread();
    }
  }

  wake_sq_thread(enter_flags) {
    if (enter_flags & C.IORING_ENTER_SQ_WAKEUP) this.set_flag(C.IORING_SQ_NEED_WAKEUP, false);
    this.run_sq_thread();
  }

  // -- completion

  ready() { return (this.cq_tail - this.load(this.cq_off.head)) >>> 0; }

  post(user_data, res, flags) {
    require_(this.ready() <= this.cq_entries, "cq.khead overtook cq.ktail");
    if (this.overflowed.length || this.ready() === this.cq_entries) {
      this.overflowed.push([user_data, res, flags]);
      this.set_flag(C.IORING_SQ_CQ_OVERFLOW, true);
      return;
    }
    const offset = this.cq_off.cqes + (this.cq_tail & (this.cq_entries - 1)) * this.cqe_size;
    this.words.setBigUint64(offset, user_data, LE);
    this.words.setInt32(offset + 8, res, LE);
    this.words.setUint32(offset + 12, flags, LE);
    if (this.cqe_size === 32) {
      this.words.setBigUint64(offset + 16, user_data ^ 0xffffffffn, LE);
      this.words.setBigUint64(offset + 24, 32n, LE);
    }
    this.cq_tail = (this.cq_tail + 1) >>> 0;
    this.store(this.cq_off.tail, this.cq_tail);
  }

  flush_overflow() {
    const waiting = this.overflowed;
    this.overflowed = [];
    while (waiting.length && this.ready() < this.cq_entries) this.post(...waiting.shift());
    this.overflowed = waiting;
    this.set_flag(C.IORING_SQ_CQ_OVERFLOW, waiting.length > 0);
  }

  complete_late(position) {
    const [done] = this.late.splice(position, 1);
    this.post(...done);
  }
}
"""
