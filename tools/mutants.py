#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Remove each protection and check that its test fails: ``python3 tools/mutants.py [--quick] [NAME ...]``.

What it is: a list of (name, file, old text, new text, tests that must fail). Each is applied to a copy of
the checkout, and the tests run there; the program fails if a mutant survives its tests.
Must not know: how pytest is installed; it uses the Python that runs this file.
Invariant: the checkout itself is never changed; every run has a time limit, and a hang counts as a failed
test.
Read next: tests/faults.

The tests of a mutant also run on the unchanged copy, and must pass there, or their failure would prove
nothing; --sound omits that when the whole suite has just passed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple, NoReturn

ROOT = Path(__file__).resolve().parent.parent
LIMIT_S = 60
#: A test that misses a leak need not wait as long as one that must not find any on a busy machine.
PATIENCE_S = "6"
#: pytest says so where the child finds modules that the parent imported for it.
IMPORTED = "ignore::pytest.PytestAssertRewriteWarning"


class Mutant(NamedTuple):
    """One protection, and the tests that must fail without it."""

    name: str
    file: str
    old: str
    new: str
    tests: str
    quick: bool = False


FAULTS = "tests/faults/"
MUTANTS = (
    # 1. Memory
    Mutant(
        "close() does not drain", "rawuring/inflight.py",
        "                self._drain(ring, timeout_ns)\n", "                self.entries.clear()\n",
        FAULTS + "test_memory.py -k by_close", quick=True,
    ),
    Mutant(
        "a request is not held", "rawuring/inflight.py",
        "            self.entries[token] = (handler, holds, prep)",
        "            self.entries[token] = (handler, (), prep)",
        FAULTS + "test_memory.py -k forgotten_by_its_owner", quick=True,
    ),
    Mutant(
        "an entry leaves with the first CQE", "rawuring/inflight.py",
        "        if not flags & uapi.IORING_CQE_F_MORE:\n            del", "        if True:\n            del",
        "tests/test_request_rules.py tests/test_inflight.py -k multishot or final",
    ),
    Mutant(
        "a ring that is dropped without close() is not closed", "rawuring/handle.py",
        "                self._close(explicit=False)\n\n    def __repr__", "                self._release()\n\n    def __repr__",
        FAULTS + "test_memory.py -k by_forgetting",
    ),
    Mutant(
        "requests are not ended at interpreter exit", "rawuring/handle.py",
        "        ring._close(explicit=False)\n    except OSError", "        pass\n    except OSError",
        "tests/test_inflight.py " + FAULTS + "test_debug.py -k interpreter",
    ),
    Mutant(
        "allocate() leaks", "rawuring/buffers.py",
        "        return mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)",
        "        _L.append(mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))\n"
        "        _L.append(mmap.mmap(-1, 4096, prot=1))\n        return _L[-2]\n    _L.append(0)\n_L = []\ndef _x(nbytes):",
        FAULTS + "test_memory.py -k allocate_many",
    ),
    Mutant(
        "reads miss the buffer", "rawuring/inflight.py",
        "                prep(sqe, *given, token, **options)",
        "                prep(sqe, *given, token, **options)\n"
        "                sqe[16:24] = (int.from_bytes(sqe[16:24], 'little') + 8).to_bytes(8, 'little')",
        FAULTS + "test_memory.py -k checksum", quick=True,
    ),
    Mutant(
        "requests that handlers start during close() are abandoned", "rawuring/inflight.py",
        "                if self.entries or self._blocks:  # requests", "                if False:  # requests",
        FAULTS + "test_memory.py -k starts_again", quick=True,
    ),
    # 2. The environment
    Mutant(
        "only some errnos of setup are understood", "rawuring/params.py",
        "                raise syscalls.explain_setup_failure(code, what, flags) from None",
        "                if code == errno.EIO: raise\n"
        "                raise syscalls.explain_setup_failure(code, what, flags) from None",
        FAULTS + "test_environment.py -k setup_fails_with_any", quick=True,
    ),
    Mutant(
        "a ring that cannot be mapped keeps its descriptor", "rawuring/handle.py",
        "            self._open()\n        except BaseException:\n            self._release()\n",
        "            self._open()\n        except BaseException:\n",
        FAULTS + "test_environment.py -k mmap", quick=True,
    ),
    Mutant(
        "SQEs that enter rejected count as submitted", "rawuring/rings.py",
        "                    if submitted and not flags:\n",
        "                    sq.discard()\n                    if submitted and not flags:\n",
        FAULTS + "test_environment.py -k enter",
    ),
    Mutant(
        "a registration that failed is remembered", "rawuring/register.py",
        "def _register(ring: Ring, opcode: int, arg: Any, nr_args: int) -> int:\n",
        "def _register(ring: Ring, opcode: int, arg: Any, nr_args: int) -> int:\n    ring.resources['x', 0] = arg\n",
        FAULTS + "test_environment.py -k register_fails", quick=True,
    ),
    Mutant(
        "memory that could not be unregistered is released", "rawuring/register.py",
        "    _register(ring, uapi.IORING_UNREGISTER_BUFFERS, None, 0)\n    _forget(ring, \"buffer\")",
        "    _forget(ring, \"buffer\")\n    _register(ring, uapi.IORING_UNREGISTER_BUFFERS, None, 0)",
        FAULTS + "test_environment.py -k taking_back", quick=True,
    ),
    Mutant(
        "a short submit counts as a complete one", "rawuring/rings.py",
        "                submitted += before - left\n", "                submitted += before - left\n                sq.discard()\n",
        FAULTS + "test_environment.py -k random_faults",
    ),
    Mutant(
        "overflow is not fetched", "rawuring/rings.py",
        "self.sq._kflags)\n        if kflags or (self", "self.sq._kflags)\n        if kflags & ~2 or (self",
        "tests/test_rings.py -k overflow",
    ),
    Mutant(
        "a full queue is not noticed", "rawuring/queues.py",
        "        if count > space:\n            raise SubmissionQueueFull(",
        "        if False:\n            raise SubmissionQueueFull(",
        FAULTS + "test_environment.py -k full_queue", quick=True,
    ),
    Mutant(
        "an SQPOLL ring is closed without room", "rawuring/inflight.py",
        "            if ring.sq.space_left() and not last:\n", "            if not last:\n",
        "tests/test_inflight.py -k sqpoll",
    ),
    Mutant(
        "the SQPOLL thread is not waited for", "rawuring/fdmon.py",
        "        while ring.flags & uapi.IORING_SETUP_SQPOLL and not", "        while False and not",
        "tests/test_fdmon_polling.py -k more_changes",
    ),
    Mutant(
        "completions that were already fetched are waited for", "rawuring/fdmon.py",
        " or answers or self._early:", " or answers:",
        "tests/test_fdmon_polling.py -k taken_while",
    ),
    Mutant(
        "a handler is taken off the list in a call", "rawuring/inflight.py",
        "            del ready[0]  #", "            ready.popleft()  #",
        FAULTS + "test_environment.py -k at_any_moment_in_a_monitor",
    ),
    Mutant(
        "a completion is looked up in a call", "rawuring/inflight.py",
        "                handler = entries[token][0]\n", "                handler = entries.get(token)[0]\n",
        FAULTS + "test_environment.py -k at_any_moment_in_dispatch", quick=True,
    ),
    Mutant(
        "completions found by a handler's dispatch() wait for the next one", "rawuring/inflight.py",
        "        if self._left:  # older ones\n", "        if False:\n",
        "tests/test_inflight.py -k handlers_that_dispatch",
    ),
    Mutant(
        "completions in hand are forgotten by close()", "rawuring/inflight.py",
        "            self._others += self._left\n", "",
        "tests/test_inflight.py -k handler_closes",
    ),
    Mutant(
        "the memory of a block goes with its first completion", "rawuring/inflight.py",
        "            if 1 not in many.open:\n                del self._blocks[number]\n        return True", "            del self._blocks[number]\n        return True",
        "tests/test_inflight.py -k more_than_once", quick=True,
    ),
    Mutant(
        "the memory of a block goes with its first columns", "rawuring/inflight.py",
        "            if len(ended) < many.open.count(1):\n", "            if False:\n",
        "tests/test_inflight.py -k one_ends_first", quick=True,
    ),
    Mutant(
        "a block with requests without completions is accepted", "rawuring/inflight.py",
        "        if flags.strip(b\"\\0\") and any(", "        if False and any(",
        "tests/test_inflight.py -k cannot_be_started",
    ),
    Mutant(
        "columns are taken off their list in a call", "rawuring/inflight.py",
        "                    self._todo += cqes\n", "                    self._todo.extend(cqes)\n",
        FAULTS + "test_signals.py -k any_moment_of_a_block",
    ),
    Mutant(
        "requests of a block are not cancelled one by one", "rawuring/inflight.py",
        "                if still:\n", "                if still and not index:\n",
        "tests/test_inflight.py -k with_a_block_in_flight",
    ),
    Mutant(
        "a lone completion overtakes older ones", "rawuring/inflight.py",
        " and not (self._left or self._todo or self.ready):\n", ":\n",
        "tests/test_inflight.py -k older_completions",
    ),
    Mutant(
        "a completion is noted in a call", "rawuring/inflight.py",
        "            ready += ((handler, res, flags),)", "            ready.append((handler, res, flags))",
        FAULTS + "test_environment.py -k at_any_moment_in_a_monitor",
    ),
    Mutant(
        "a request leaves before it is answered", "rawuring/fdmon.py",
        "                if handler is not None:\n                    inflight.answer(handler, -self._code)\n                del self._requests[0]",
        "                del self._requests[0]\n                if handler is not None:\n                    inflight.answer(handler, -self._code)",
        FAULTS + "test_environment.py -k at_any_moment_in_a_monitor",
    ),
    Mutant(
        "a request that was not queued is forgotten", "rawuring/fdmon.py",
        "                if sq.sqe_tail == tail and handler", "                if False and handler",
        "tests/test_monitors.py -k prep_raises",
    ),
    Mutant(
        "EINTR is an error", "rawuring/syscalls.py",
        "        code = _set_errno(0)\n        if code not in (0, errno.EINTR):\n            raise OSError(code, f\"io_uring_enter",
        "        code = _set_errno(0)\n        if code not in (0,):\n            raise OSError(code, f\"io_uring_enter",
        FAULTS + "test_environment.py -k without_a_deadline",
    ),
    Mutant(
        "a wait with a deadline restarts after each signal", "rawuring/syscalls.py",
        "        return _FOR_EVER if self.deadline_ns is None else max(0, self.deadline_ns - time.monotonic_ns())",
        "        return 250_000_000",
        FAULTS + "test_environment.py -k neither_short",
    ),
    Mutant(
        "a forked child may use the ring", "rawuring/handle.py",
        "        ring._release(\"forked\")\n", "        pass\n",
        FAULTS + "test_environment.py -k forked_with", quick=True,
    ),
    Mutant(
        "deadlines on the wall clock", "rawuring/fdmon.py",
        "deadline = None if not timeout_ns else time.monotonic_ns() + timeout_ns",
        "deadline = None if not timeout_ns else time.time_ns() + timeout_ns",
        FAULTS + "test_environment.py -k wall_clock", quick=True,
    ),
    Mutant(
        "any thread may use a ring", "rawuring/rings.py",
        "        if get_ident() != self._owner:\n            self._refuse()\n        cq = self.cq\n        if self._timeouts",
        "        cq = self.cq\n        if self._timeouts",
        FAULTS + "test_environment.py -k every_other_thread",
    ),
    Mutant(
        "no fallback when setup fails", "rawuring/fdmon.py",
        "        except (OSError, ImportError, AttributeError) as error:", "        except PermissionError as error:",
        FAULTS + "test_environment.py -k setup_fails_with_any",
    ),
    Mutant(
        "a started program inherits the notifier", "rawuring/monitor.py",
        "    eventfd = getattr(os, \"eventfd\", None)", "    return os.pipe2(os.O_NONBLOCK)\n    eventfd = getattr(os, \"eventfd\", None)",
        FAULTS + "test_environment.py -k exec_then",
    ),
    # 3. Descriptors
    Mutant(
        "unregister() waits for the next select()", "rawuring/epollwait.py",
        "            if not self._epoll.closed and self.ring.state != \"forked\":",
        "            if False and not self._epoll.closed and self.ring.state != \"forked\":",
        "tests/test_selector.py -k modified_after_an_exception",
    ),
    Mutant(
        "a handler is not armed again", "rawuring/fdmon.py",
        "        # One-shot: armed again with the next submit, which makes it level-triggered.\n"
        "        self._rearm[node.token] = node.sqe",
        "        pass",
        FAULTS + "test_descriptors.py -k random_changes_of_a_monitor", quick=True,
    ),
    Mutant(
        "handlers are called after destroy()", "rawuring/monitor.py",
        " and self._wake_fds:\n                node.handler(", ":\n                node.handler(",
        "tests/test_monitors.py -k destroyed_by_a_handler",
    ),
    Mutant(
        "destroy() that raises leaves the notifier open", "rawuring/fdmon.py",
        "        finally:  # also when a handler", "        else:  # also when a handler",
        "tests/test_monitors.py -k destroyed_while_a_handler_raises",
    ),
    Mutant(
        "a stray event removes a registration", "rawuring/epollwait.py",
        "        if fd in self.keys:\n            # Publish", "        if False:\n            # Publish",
        "tests/test_selector.py -k put_out",
    ),
    Mutant(
        "a forked child may ask for fileno()", "rawuring/epollwait.py",
        "        self._check_ring()\n        self._direct", "        self._direct",
        "tests/test_selector.py -k forked_child_then_refused",
    ),
    Mutant(
        "hints are reported", "rawuring/fdmon.py",
        "                self.process_cq_ring([])\n            while True:",
        "                self.process_cq_ring(early := [])\n                if early:\n                    return early\n"
        "            while True:",
        "tests/test_monitors.py -k drained_between_two_waits",
    ),
    Mutant(
        "a removed handler is reported", "rawuring/fdmon.py",
        "            self._forget(node)  # its POLL_REMOVE, if still to be sent, will find the node idle\n"
        "            return\n",
        "            self._forget(node)\n",
        "tests/test_monitors.py " + FAULTS + "test_abuse.py -k TestMonitor or crosses",
    ),
    Mutant(
        "half-shut sockets are not parked", "rawuring/fdmon.py",
        "        if res == -errno.EINVAL or (res > 0 and not res & (node.events | _ALWAYS)):", "        if False:",
        "tests/test_monitors.py -k half_closed",
    ),
    # 4. Abuse
    Mutant(
        "wide descriptors are truncated", "rawuring/syscalls.py",
        "    if not -0x80000000 <= fd <= 0x7FFFFFFF:", "    if False:",
        FAULTS + "test_abuse.py -k ctypes_would_cut", quick=True,
    ),
    Mutant(
        "ints are accepted as images", "rawuring/buffers.py",
        "        if not isinstance(image, bytes):  #", "        if False:  #",
        FAULTS + "test_abuse.py -k ctypes_would_cut",
    ),
    Mutant(
        "restrictions leave an operation open", "rawuring/register.py",
        "    allowed = [_opcode_of(operation) for operation in operations]",
        "    allowed = [_opcode_of(operation) for operation in operations] + [uapi.IORING_OP_OPENAT]",
        FAULTS + "test_abuse.py -k harmful", quick=True,
    ),
    Mutant(
        "a token is found twice", "rawuring/inflight.py",
        "                if not flags & _MORE:\n                    del entries[token]\n            except",
        "                if token % 3:\n                    del entries[token]\n            except",
        FAULTS + "test_abuse.py -k TestInFlight",
    ),
    Mutant(
        "discard() does not return the dropped requests", "rawuring/queues.py",
        "        forgotten = [user_data for _, _, _, user_data in self.walk(head, tail)]", "        forgotten = []",
        FAULTS + "test_abuse.py -k TestRealRing",
    ),
    Mutant(
        "the second half of a wide SQE counts as one", "rawuring/queues.py",
        "(2 if self._mixed and slot[0] in _SQE128_OPS else 1)", "1",
        "tests/test_rings.py -k wide_slots",
    ),
    # 5. Debug mode
    Mutant(
        "canaries are not checked", "rawuring/debug.py",
        "        found = [damage for damage in map(damage_beside, holds) if damage]", "        found = []",
        FAULTS + "test_debug.py -k canary or behind", quick=True,
    ),
    Mutant(
        "invariants are not checked", "rawuring/debug.py",
        "        if self._state != \"open\" or not self._made_at:\n            return []", "        return []",
        FAULTS + "test_debug.py -k damaged", quick=True,
    ),
    Mutant(
        "debug mode cannot be switched off", "rawuring/handle.py",
        "os.environ.get(\"RAWURING_DEBUG\", \"0\") not in (\"\", \"0\")", "True",
        FAULTS + "test_debug.py -k not_even_imported", quick=True,
    ),
    Mutant(
        "leaks are reported without their place", "rawuring/debug.py",
        "        return f\"{super().__repr__()[:-1]} created at {self._made_at}>\"", "        return super().__repr__()",
        FAULTS + "test_debug.py -k place",
    ),
    # 6. Hostile values
    Mutant(
        "a negative wait_nr goes to the kernel", "rawuring/rings.py",
        "            if before and 0 <= wait_nr <= cq.ring_entries:", "            if before and wait_nr <= cq.ring_entries:",
        FAULTS + "test_hostile.py -k no_number", quick=True,
    ),
    Mutant(
        "cancel() takes a slot before it looks", "rawuring/inflight.py",
        "        if not isinstance(token, int) or not 0 <= token < 1 << 64:\n            raise ValueError(f\"{token!r} is",
        "        if False:\n            raise ValueError(f\"{token!r} is",
        FAULTS + "test_hostile.py -k no_token", quick=True,
    ),
    Mutant(
        "an invalid CQE blocks the queue", "rawuring/inflight.py",
        "                        if _is_cqe(each):\n", "                        if True:\n",
        FAULTS + "test_hostile.py -k no_completion",
    ),
    Mutant(
        "any index is accepted", "rawuring/handle.py",
        "            check_integers(index=index)\n", "            pass\n",
        FAULTS + "test_hostile.py -k no_index",
    ),
    Mutant(
        "bytes are accepted as an address", "rawuring/syscalls.py",
        "    elif isinstance(arg, (str, bytes)):", "    elif False:",
        FAULTS + "test_hostile.py -k no_address",
    ),
    Mutant(
        "any number is accepted as a signal", "rawuring/syscalls.py",
        "            if not 1 <= number <= 8 * self._sigmask_size:", "            if False:",
        FAULTS + "test_hostile.py -k no_signal",
    ),
    Mutant(
        "select() waits only as long as poll(2) can count", "rawuring/selector.py",
        "_LONGEST_NS if timeout > _LONGEST else math", "math",
        "tests/test_selector.py -k longer_than",
    ),
    Mutant(
        "ETIME is an error", "rawuring/syscalls.py",
        "        if code == errno.ETIME:\n            return 0\n", "",
        FAULTS + "test_errnos.py -k the_ring_says_so", quick=True,
    ),
    Mutant(
        "the monitor does not continue when the ring is lost", "rawuring/handle.py",
        "GONE = (errno.EBADF, errno.EOPNOTSUPP, errno.ENXIO)", "GONE = (errno.EBADF,)",
        FAULTS + "test_errnos.py -k the_monitor_says_so",
    ),
    # Promises: memory of requests
    Mutant(
        "memory is accepted as a collection of objects", "rawuring/inflight.py",
        "            holds = _objects(holds)\n        try:", "            holds = tuple(holds)\n        try:",
        "tests/test_request_memory.py -k holds", quick=True,
    ),
    Mutant(
        "a Pin instead of an address is not held", "rawuring/inflight.py",
        "            holds = (*found, *holds)\n", "            pass\n",
        "tests/test_request_memory.py -k pins_in_the_place_of_addresses", quick=True,
    ),
    Mutant(
        "more bytes than a Pin has", "rawuring/inflight.py",
        "        if size > memory.nbytes:", "        if False:",
        "tests/test_request_memory.py -k pins_in_the_place_of_addresses",
    ),
    Mutant(
        "read-only memory is written", "rawuring/inflight.py",
        "        if written and memory.readonly:", "        if False:",
        "tests/test_request_memory.py -k read_only",
    ),
    Mutant(
        "an address is held instead of a Pin", "rawuring/inflight.py",
        "                if type(each) is int:\n                    _refuse_number(each)", "                pass",
        "tests/test_request_memory.py -k hold_of_an_address",
    ),
    Mutant(
        "start() accepts a handler that is not callable", "rawuring/inflight.py",
        "            _refuse_handler(handler)\n        return self._start(", "            pass\n        return self._start(",
        "tests/test_request_memory.py -k cannot_be_called", quick=True,
    ),
    Mutant(
        "hold() accepts a handler that is not callable", "rawuring/inflight.py",
        "            _refuse_handler(handler)\n        if keepalive:", "            pass\n        if keepalive:",
        "tests/test_request_memory.py -k cannot_be_called",
    ),
    Mutant(
        "tokens are small numbers", "rawuring/inflight.py",
        "_tokens = itertools.count(TOKEN_BASE)", "_tokens = itertools.count(1)",
        "tests/test_request_memory.py -k token or plain_requests", quick=True,
    ),
    Mutant(
        "every unknown user_data counts as late", "rawuring/inflight.py",
        "            if user_data >> 56 == 1:  # a token\n", "            if True:\n",
        "tests/test_request_memory.py -k unknown",
    ),
    Mutant(
        "debug mode accepts an address that nothing covers", "rawuring/debug.py",
        "        if address >= _PAGE and not around:", "        if False:",
        "tests/test_request_memory.py -k watched", quick=True,
    ),
    Mutant(
        "debug mode accepts a token twice", "rawuring/debug.py",
        "        elif user_data in self._outstanding:\n            found = ", "        elif False:\n            found = ",
        "tests/test_request_memory.py -k used_twice",
    ),
    Mutant(
        "debug mode accepts a user_data from the range of tokens", "rawuring/debug.py",
        '        if user_data >> 56 != 1 or not self._tables:\n            return ""\n',
        '        if not any(user_data in table.entries for table in self._tables):\n            return ""\n',
        "tests/test_request_memory.py -k of_the_range",
    ),
    Mutant(
        "a long res is always a bundle", "rawuring/buffers.py",
        "(taken, left - taken) if bundle else (left, 0)", "(taken, left - taken)",
        "tests/test_request_memory.py -k beyond_the_buffer or datagram", quick=True,
    ),
    Mutant(
        "an impossible bundle takes the buffers that it has seen", "rawuring/buffers.py",
        "            pieces.append(Piece(bid, ",
        "            self._ours[bid] = not more\n            pieces.append(Piece(bid, ",
        "tests/test_request_memory.py -k bundle_that_cannot",
    ),
    Mutant(
        "the error of a receive is treated as the end of the data", "rawuring/buffers.py",
        "        if res < 0:\n            if flags & uapi.IORING_CQE_F_BUFFER:", "        if False:\n            if flags & 1:",
        "tests/test_request_memory.py -k error_of_a_receive", quick=True,
    ),
    Mutant(
        "the buffer of an error is not returned", "rawuring/buffers.py",
        "                self.recycle(self.claim(flags))", "                pass",
        "tests/test_request_memory.py -k error_of_a_receive",
    ),
    Mutant(
        "a type for each read-only view", "rawuring/buffers.py",
        "@functools.lru_cache(None)\ndef _py_buffer", "def _py_buffer",
        "tests/test_request_memory.py -k collector",
    ),
    Mutant(
        "a type for each size of a struct", "rawuring/buffers.py",
        "syscalls.array_type(ctypes.c_uint64, 1 <<", "(lambda kind, n: kind * n)(ctypes.c_uint64, 1 <<",
        "tests/test_request_memory.py -k collector",
    ),
    Mutant(
        "a builder accepts a float", "rawuring/buffers.py",
        '    if not hasattr(value, "__index__"):', "    if False:",
        "tests/test_request_memory.py -k builder",
    ),
    Mutant(
        "an offset is truncated to 64 bits", "rawuring/ops.py",
        "    if offset == -1:\n        offset = _U64\n    _pack(\n        sqe, 0, uapi.IORING_OP_READ, ",
        "    offset &= _U64\n    _pack(\n        sqe, 0, uapi.IORING_OP_READ, ",
        "tests/test_fields.py -k prep_read", quick=True,
    ),
    Mutant(
        "a descriptor is truncated to 32 bits", "rawuring/ops.py",
        "    if not -0x80000000 <= value <= 0x7FFFFFFF:\n", "    if False:\n",
        "tests/test_fields.py -k linkat or renameat or splice or tee", quick=True,
    ),
    Mutant(
        "a value that the kernel truncates to 32 bits is passed on", "rawuring/ops.py",
        "    if not 0 <= value <= _U32:\n        raise", "    if False:\n        raise",
        "tests/test_fields.py -k prep_connect or prep_timeout",
    ),
    Mutant(
        "slot -1 is descriptor 0", "rawuring/ops.py",
        "    if not 0 <= file_index < _ALLOC - 1:", "    if False:",
        "tests/test_fields.py -k slots",
    ),
    Mutant(
        "a monitor accepts an address instead of a Pin", "rawuring/monitor.py",
        "            if isinstance(each, int):\n                _refuse_number(each)", "            pass",
        "tests/test_request_memory.py -k monitor",
    ),
    Mutant(
        "one buffer is accepted as a list of buffers", "rawuring/buffers.py",
        '    if one or type(values).__name__ == "mmap":', "    if False:",
        "tests/test_request_memory.py -k one_buffer",
    ),
    # (end of memory of requests)
    # Promises: rings
    Mutant(
        "a ring can be copied", "rawuring/handle.py", "class RingHandle(Uncopyable):", "class RingHandle:",
        "tests/test_uncopyable.py", quick=True,
    ),
    Mutant(
        "memory can be copied", "rawuring/syscalls.py",
        "    def __reduce_ex__(self, protocol: Any) -> NoReturn:", "    def _refuse(self, protocol: Any) -> NoReturn:",
        "tests/test_uncopyable.py -k memory",
    ),
    Mutant(
        "a DEFER_TASKRUN ring's own descriptor has to wake epoll", "rawuring/rings.py",
        "        if not self._registered_only and not self.flags & uapi.IORING_SETUP_DEFER_TASKRUN:\n",
        "        if not self._registered_only:\n", "tests/test_ring_promises.py -k wakeup_fd",
    ),
    Mutant(
        "the eventfd is cleared although something was reaped", "rawuring/rings.py",
        "if self._wakeup_fd >= 0 and not cq.copied:", "if self._wakeup_fd >= 0:",
        "tests/test_ring_promises.py -k new_task_work_when",
    ),
    Mutant(
        "a closed ring is a cycle", "rawuring/handle.py",
        "        self.get_sqe = _REFUSED[state]", "        self.get_sqe = self._refuse",
        "tests/test_ring_promises.py -k left_for_the_collector", quick=True,
    ),
    Mutant(
        "a view of each slot is made at once", "rawuring/queues.py",
        "        end = min(entries, max(2 * done, done + count, 8))", "        end = entries",
        "tests/test_ring_promises.py -k views_only",
    ),
    Mutant(
        "slots are counted from place 0", "rawuring/queues.py",
        "            index = i & self.ring_mask\n            self._slots", "            index = i - self._first\n            self._slots",
        "tests/test_ring_promises.py -k taken_in_any_way",
    ),
    Mutant(
        "a handed-over ring keeps the other thread's index", "rawuring/handle.py",
        "        if self._by_index() and self not in this_thread().by_index:\n            self._lose_index()\n", "",
        "tests/test_ring_promises.py -k handed_over", quick=True,
    ),
    Mutant(
        "the end of a thread leaves its index in use", "rawuring/handle.py",
        "            if not ring.closed:\n                ring._lose_index()\n", "            pass\n",
        "tests/test_ring_promises.py -k ended",
    ),
    Mutant(
        "a ring dropped in another thread takes that thread's index", "rawuring/handle.py",
        'if state == "forked" or self not in here or not self._by_index():',
        'if state == "forked" or not self._by_index():',
        "tests/test_ring_promises.py -k forgotten_in_another_thread",
    ),
    Mutant(
        "a ring without a descriptor is handed over", "rawuring/handle.py",
        "        if self._registered_only and self not in this_thread().by_index:", "        if False:",
        "tests/test_ring_promises.py -k without_a_descriptor",
    ),
    Mutant(
        "an index that an exception swallowed stays taken", "rawuring/register.py",
        "        if taken != _ANY_INDEX:", "        if False:", "tests/test_ring_promises.py -k given_back",
    ),
    Mutant(
        "a ring that cannot be mapped again stays open", "rawuring/handle.py",
        "        # From here on until they are mapped, any exception leaves a ring whose state is \"broken\".\n"
        "        self._break()\n", "        self._owner_before = self._owner\n",
        "tests/test_ring_promises.py -k resize", quick=True,
    ),
    Mutant(
        "a broken ring is not mapped again to be drained", "rawuring/handle.py",
        "            try:\n                self._map_what_is_there()\n", "            try:\n                pass\n",
        "tests/test_ring_promises.py -k maps_them_and_drains",
    ),
    Mutant(
        "rings made while the interpreter exits prevent the end of all", "rawuring/handle.py",
        "        except RuntimeError:  # a set, or any", "        except KeyError:  # a set, or any",
        "tests/test_rings.py -k another_thread_makes_a_ring",
    ),
    Mutant(
        "an interrupted close is not completed", "rawuring/handle.py",
        "        self._owner = 0\n        self._state = state\n",
        "        self._owner = 0\n        self._state = state\n        self.closed = True\n",
        "tests/test_ring_promises.py -k next_close_ends_it",
    ),
    Mutant(
        "an interrupted close passes a table over", "rawuring/handle.py",
        "                # first line.\n                self._tell(explicit)\n",
        "                # first line.\n                pass\n",
        FAULTS + "test_moments.py -k in_close",
    ),
    Mutant(
        "an interrupted enable is not detected", "rawuring/rings.py",
        "            known = self.flags & uapi.IORING_SETUP_R_DISABLED\n", "            known = 0\n",
        "tests/test_ring_promises.py -k next_enable",
    ),
    Mutant(
        "memory for a ring may be too small", "rawuring/mapping.py",
        "        if nbytes < wanted:", "        if False:", "tests/test_ring_promises.py -k too_small",
    ),
    Mutant(
        "buffers are held when they are registered and not before", "rawuring/register.py",
        "    ring.resources[key] = memory\n", "    ring.resources[key] = ()\n",
        "tests/test_ring_promises.py -k ring_holds_them",
    ),
    Mutant(
        "a wait relies on the TIMEOUT of an earlier one", "rawuring/rings.py",
        "            if ended != self._timeouts_ended:\n", "            if not self._timeouts:\n",
        "tests/test_ring_promises.py -k earlier_wait_has_left and raised",
    ),
    Mutant(
        "a ring without a descriptor is moved", "rawuring/handle.py",
        "        self.fileno()  # a ring without a descriptor cannot be mapped\n", "",
        "tests/test_ring_promises.py -k before_anything_moves",
    ),
    Mutant(
        "a bad ring keeps others from being disowned", "rawuring/handle.py",
        "        except OSError:\n            continue  # other code has closed its descriptor", "        except OSError:\n            break  # ",
        "tests/test_ring_promises.py -k forked_child_disowns",
    ),
    Mutant(
        "callbacks after one that raised are not called", "rawuring/handle.py",
        "            if raised is not None and error.__context__ is outer:\n                error.__context__ = raised\n", "            raise\n",
        "tests/test_ring_promises.py -k raise", quick=True,
    ),
    Mutant(
        "requests that were never submitted are waited for", "rawuring/inflight.py",
        "                if not missing and 0 not in answers:", "                if False:",
        "tests/test_ring_promises.py -k never_submitted",
    ),
    Mutant(
        "requests that no cancellation finds are abandoned", "rawuring/inflight.py",
        "                    prep_nop(ring.get_sqe(), last, uapi.IOSQE_IO_DRAIN)", "                    prep_nop(ring.get_sqe(), last)",
        "tests/test_ring_promises.py -k cannot_be_ended",
    ),
    Mutant(
        "dropped tables are kept", "rawuring/inflight.py",
        "        _free_forgotten(ring.before_close)\n", "", "tests/test_ring_promises.py -k tables_are_made",
    ),
    Mutant(
        "tables that are still referenced are freed", "rawuring/inflight.py",
        "or _references(callbacks, i) > alone", "or _references(callbacks, i) > alone + 1",
        "tests/test_ring_promises.py -k tables_are_made",
    ),
    Mutant(
        "debug mode fails where it cannot write", "rawuring/debug.py",
        "    except (OSError, ValueError):\n        return\n\n\ndef _open_log", "    except KeyError:\n        return\n\n\ndef _open_log",
        "tests/test_ring_promises.py -k nowhere_to_write",
    ),
    Mutant(
        "SQEs that were never submitted are not reported", "rawuring/debug.py",
        "            self._warn_of_queued()\n", "", "tests/test_ring_promises.py -k submit_was_forgotten",
    ),
    Mutant(
        "a ring accepts anything as an integer", "rawuring/params.py",
        '        if isinstance(value, bool) or not hasattr(value, "__index__"):', "        if False:",
        "tests/test_ring_promises.py -k it_is_named", quick=True,
    ),
    Mutant(
        "the caller's error looks like the kernel's refusal", "rawuring/params.py",
        "    if (flags | wish) & uapi.IORING_SETUP_ATTACH_WQ and wq_fd is None:", "    if False:",
        "tests/test_ring_promises.py -k it_is_named",
    ),
    Mutant(
        "an offset outside of the mapping is used", "rawuring/mapping.py",
        "        if start + nbytes > room:\n", "        if start + nbytes > room + 4096:\n",
        "tests/test_rings.py -k offset_that_is_wrong",
    ),
    Mutant(
        "two words may share an offset", "rawuring/mapping.py",
        "        if start < end:\n", "        if start < end - 4:\n",
        "tests/test_rings.py -k offset_that_is_wrong",
    ),
    Mutant(
        "a word may overlap two", "rawuring/mapping.py",
        "        if start % alignment:\n", "        if False:\n", "tests/test_rings.py -k offset_that_is_wrong",
    ),
    Mutant(
        "any size in the mapping is accepted", "rawuring/mapping.py",
        "        if found != told:\n", "        if False:\n", "tests/test_rings.py -k mask_or_size",
    ),
    Mutant(
        "any mask in the mapping is accepted", "rawuring/queues.py",
        "    if mask != entries - 1:\n", "    if False:\n", "tests/test_rings.py -k mask_or_size",
    ),
    Mutant(
        "any indices in the mapping are accepted", "rawuring/queues.py",
        "    if (tail - head) & U32 > entries:\n", "    if False:\n", "tests/test_rings.py -k indices_further_apart",
    ),
    Mutant(
        "submit() swallows a signal handler's exception", "rawuring/rings.py",
        "                    if submitted and not flags:\n", "                    if sq.pending() < before and not flags:\n",
        "tests/test_rings.py -k oserror_when",
    ),
    Mutant(
        "a fake ring enters the kernel of this machine", "rawuring/fakekernel.py",
        "        self._call = self.kernel.enter\n", "        super()._bind()\n", "tests/test_rings.py -k fake_rings_at_once",
    ),
    Mutant(
        "debug mode does not see a wait that a region describes", "rawuring/rings.py",
        "        consumed = self._enter(before, wait_nr, self._wait_flags, index * uapi.io_uring_reg_wait.size)\n",
        "        consumed = Ring._enter(self, before, wait_nr, self._wait_flags, index * uapi.io_uring_reg_wait.size)\n",
        FAULTS + "test_debug.py -k region_describes",
    ),
    # (end of rings)
    # Promises: the monitor
    Mutant(
        "a descriptor that fits no field is accepted", "rawuring/monitor.py",
        "        if not 0 <= fd <= 0x7FFFFFFF:", "        if fd < 0:",
        "tests/test_monitors.py -k refused_at_the_door",
    ),
    Mutant(
        "a mask that fits no field is accepted", "rawuring/monitor.py",
        "        if not 0 <= events <= 0xFFFF:", "        if events < 0:",
        "tests/test_monitors.py -k refused_at_the_door",
    ),
    Mutant(
        "a handler that is not callable is accepted", "rawuring/monitor.py",
        "        if handler is not None and not callable(handler):", "        if False:",
        "tests/test_monitors.py -k refused_at_the_door",
    ),
    Mutant(
        "add() after destroy() succeeds silently", "rawuring/monitor.py",
        "            self._check()\n            intents", "            intents",
        "tests/test_monitors.py -k used_after_destroy",
    ),
    Mutant(
        "a poll that was sent is forgotten when a signal handler raises", "rawuring/fdmon.py",
        "            if node is not None and sq.sqe_tail != tail and", "            if False and",
        FAULTS + "test_moments.py -k arm",
    ),
    Mutant(
        "poll_add forgets a node that may be in the monitor", "rawuring/selector.py",
        "        self._nodes[fd] = (*old, new)", "        self._nodes[fd] = old",
        FAULTS + "test_moments.py -k poll_add",
    ),
    Mutant(
        "polls go out twice when a signal handler raises", "rawuring/fdmon.py",
        "                self._rearm = {}  # or second", "                pass  # or second",
        FAULTS + "test_moments.py -k rearming",
    ),
    Mutant(
        "polls go out twice when a signal handler raises between two pieces", "rawuring/fdmon.py",
        "            self._rearm = dict(islice(rearm.items(), done, None))", "            pass",
        FAULTS + "test_moments.py -k rearming",
    ),
    Mutant(
        "parked handlers wait for a late poll", "rawuring/fdmon.py",
        "                elif self._lot is not None and timeout_ns == 0 and", "                elif False and",
        "tests/test_monitors.py -k that_is_late",
    ),
    Mutant(
        "a removed handler is reported like others", "rawuring/fdmon.py",
        "res & node.exact and not node.deleted:", "res & node.exact:",
        "tests/test_monitors.py -k crosses_the_removal",
    ),
    Mutant(
        "any event is reported like others", "rawuring/fdmon.py",
        "0 < res == res & node.exact and", "0 < res and",
        "tests/test_monitors.py -k half_closed",
    ),
    Mutant(
        "a timeout is the previous one", "rawuring/syscalls.py",
        "        if timeout_ns != self._alone_ns:", "        if self._alone_ns < 0:",
        "tests/test_syscalls.py -k one_after_another",
    ),
    Mutant(
        "a monitor that has never waited wakes no outer loop", "rawuring/monitor.py",
        "                outer.register(self._wake_fds[0], POLLIN)\n", "",
        "tests/test_monitor_contract.py -k fresh",
    ),
    Mutant(
        "an outer loop watches the ring, which does not wake epoll with DEFER_TASKRUN", "rawuring/fdmon.py",
        "os.dup(self.ring.wakeup_fd())", "os.dup(self.ring.fileno())",
        "tests/test_monitor_contract.py -k woken_for_everything",
    ),
    Mutant(
        "a nested monitor stops with the ring", "rawuring/fdmon.py",
        "            instead._show_in(self._outer)\n", "",
        "tests/test_monitor_contract.py -k everything_public",
    ),
    Mutant(
        "a request of a nested monitor is not sent", "rawuring/fdmon.py",
        "        if self._outer is not None and not self._busy:\n            self.notify()", "        if False:\n            self.notify()",
        "tests/test_monitor_contract.py -k woken_for_everything",
    ),
    Mutant(
        "need_wait() of poll(2) knows intents only", "rawuring/fdmonpoll.py",
        "bool(self.submit_list) or len(self._nodes) > 1 or self._notified", "bool(self.submit_list)",
        "tests/test_monitors.py -k need_wait",
    ),
    Mutant(
        "a ring that was lost is drained", "rawuring/inflight.py",
        "            if ring.answers():\n                raise\n", "            raise\n",
        "tests/test_monitor_contract.py -k nobody_noticed",
    ),
    Mutant(
        "POLLPRI is requested of POLL_ADD", "rawuring/fdmon.py",
        "            if node.events & POLLPRI and", "            if False and",
        "tests/test_monitors.py -k every_mask",
    ),
    Mutant(
        "a file that never wakes is polled forever", "rawuring/fdmon.py",
        "            if error.errno == errno.EPERM and self._lot", "            if False and self._lot",
        "tests/test_monitors.py -k without_wanted_events",
    ),
    Mutant(
        "no poll(2) for SQEs that an SQPOLL thread has not consumed", "rawuring/fdmon.py",
        "                if late and timeout_ns is not None:", "                if False:",
        "tests/test_fdmon_polling.py -k no_time_to_wait",
    ),
    Mutant(
        "an orphan in the set of a nested poll monitor", "rawuring/fdmonpoll.py",
        "                self._show_all(self._outer)\n                return\n", "                return\n",
        "tests/test_monitor_contract.py -k used_again",
    ),
    Mutant(
        "the sets of a nested poll monitor are replaced because of themselves", "rawuring/fdmonpoll.py",
        "            if not fresh and (fd", "            if (fd",
        "tests/test_monitor_contract.py -k by_the_monitor_itself",
    ),
    Mutant(
        "a thread that releases a handler keeps the ring", "rawuring/handle.py",
        "                if self._state == \"open\":  # in the other states it is 0\n", "                if False:\n",
        "tests/test_fdmon_polling.py -k another_thread_may_wait",
    ),
    Mutant(
        "an orphan in the parking lot", "rawuring/fdmon.py",
        "        except OSError:\n            self._renew()\n", "        except OSError:\n            return\n",
        "tests/test_monitors.py -k its_file_lives_on",
    ),
    # (end of the monitor)
    # Promises: the selector and asyncio
    Mutant(
        "selector: the wait that was queued before an exception counts as sent", "rawuring/epollwait.py",
        "                    self._prepare_wait(self._wait.capacity)  # the old", "                    pass  # that",
        "tests/test_selector.py -k one_of_its_own",
    ),
    Mutant(
        "selector: a number beyond an int is accepted", "rawuring/selector.py",
        "        if fd > _MOST_FD:\n", "        if False:\n",
        "tests/test_selector.py -k no_file_object",
    ),
    Mutant(
        "selector: events are looked up by equality", "rawuring/selector.py",
        "mask = _MASK[events & _BOTH]  #", "mask = {0: 0, 1: 1, 2: 4, 3: 5}.get(events, 0)  #",
        "tests/test_selector.py -k no_events_then",
    ),
    Mutant(
        "selector: a vanished file is added again by its number", "rawuring/epollwait.py",
        "if not (isinstance(key[0], socket) and _still(key)):", "if _still(key) is False:",
        "tests/test_selector.py -k used_again_then_silent",
    ),
    Mutant(
        "selector: modify() of a number is queued", "rawuring/selector.py",
        "key, known = self._map[fileobj], self.trusting", "key, known = self._map[fileobj], True",
        "tests/test_selector.py -k by_now_then_that_one",
    ),
    Mutant(
        "selector: poll_add arms the new file of a reused number", "rawuring/selector.py",
        "        if self._unarmed:\n            self._drop_closed()\n", "",
        "tests/test_selector.py -k used_again_then_silent",
    ),
    Mutant(
        "selector: a change that was overtaken on its way is not sent again", "rawuring/epollwait.py",
        "                self._note(fd)\n                self._overtaken.discard(fd)\n",
        "                self._overtaken.discard(fd)\n",
        "tests/test_selector_machine.py -k overtaken",
    ),
    Mutant(
        "selector: changes on their way are forgotten when a signal handler raises", "rawuring/epollwait.py",
        "        for fd in tuple(_snapshot(dict, self._on_the_way)):\n            self._note(fd)\n", "",
        "tests/test_selector_machine.py -k struck",
    ),
    Mutant(
        "selector: a change while an older one is on its way only waits", "rawuring/epollwait.py",
        "        self._overtake(fd)\n        self._apply(fd)\n", "        return\n",
        "tests/test_selector.py -k the_wait_ends",
    ),
    Mutant(
        "selector: a note is stored on a list that was sent", "rawuring/epollwait.py",
        "change, pending = mask | self._known.get(fd, _NEW), self._pending", "change = mask | _NEW",
        "tests/test_selector.py -k selects_at_any_call",
    ),
    Mutant(
        "selector: a note is not checked again", "rawuring/epollwait.py",
        "(_ONE_STEP or (self.keys.get(fd) is key and self._pending is pending))", "(_ONE_STEP or True)",
        "tests/test_selector.py -k inside_modify",
    ),
    Mutant(
        "selector: an addition that may not have been sent is modified", "rawuring/epollwait.py",
        "self._known.update(dict.fromkeys(new, _NEW))", "self._known.update(dict.fromkeys(new, 0))",
        "tests/test_selector.py -k modified_after_an_exception",
    ),
    Mutant(
        "selector: its replacement is looked up where install() has put it", "rawuring/selector.py",
        "    strategy = _first_of_stdlib()\n", "    strategy = Stdlib(selectors.DefaultSelector)\n",
        "tests/test_aio.py -k denied_when_names",
    ),
    Mutant(
        "params: a descriptor whose ring a signal handler prevents is closed", "rawuring/params.py",
        "                    os.close(fd)\n                raise\n", "                    pass\n                raise\n",
        "tests/test_rings_kernel.py -k while_a_ring_is_made",
    ),
    Mutant(
        "asyncring: a request that was not sent is cancelled in the kernel", "rawuring/asyncring.py",
        "        slot = self._ring._slot_of(self._at - 1, self.token)\n", "        slot = None\n",
        "tests/test_asyncring.py -k before_it_is_sent",
    ),
    Mutant(
        "asyncring: a late result is dropped", "rawuring/asyncring.py",
        "        if self._late is not None and res >= 0:\n", "        if False:\n",
        "tests/test_asyncring.py -k comes_too_late",
    ),
    Mutant(
        "asyncring: the result of a task that is cancelled before it runs is dropped", "rawuring/asyncring.py",
        "                self._taken = True\n                self._abandon()\n", "                pass\n",
        "tests/test_asyncring.py -k result_is_there",
    ),
    Mutant(
        "asyncring: a stream begins without late data", "rawuring/asyncring.py",
        "            if _late_of and source.sock in _late_of:\n", "            if False:\n",
        "tests/test_asyncring_random.py",
    ),
    Mutant(
        "asyncring: without a group of buffers no multishot receive is started", "rawuring/asyncring.py",
        "        source.unable = group is None\n", "",
        "tests/test_asyncring.py -k has_no_groups",
    ),
    Mutant(
        "asyncring: requests that were not sent are dropped when the loop closes", "rawuring/asyncring.py",
        "            self.table.answer_unsent(-errno.ECANCELED)  # closing the table runs their handlers\n", "",
        "tests/test_asyncring.py -k closed_with_requests",
    ),
    Mutant(
        "asyncring: no timer of the loop's own behind a linked timeout", "rawuring/asyncring.py",
        "        future._stop_at(nanoseconds / 1e9)\n", "        future._stop_at(3600)\n",
        "tests/test_asyncring.py -k begins_in_a_worker",
    ),
    Mutant(
        "asyncring: blocks are not told that io_uring was lost", "rawuring/asyncring.py",
        "                if many.handler is not None:\n", "                if False:\n",
        "tests/test_asyncring.py -k taken_away_then_requests",
    ),
    Mutant(
        "asyncring: a stream without buffers is not told that io_uring was lost", "rawuring/asyncring.py",
        "            calls += [partial(source.handle, res, 0) for source in self._starved]\n", "",
        "tests/test_asyncring.py -k taken_away_then_a_stream",
    ),
    Mutant(
        "asyncring: any thread may take the ring", "rawuring/asyncring.py",
        "        if asyncio._get_running_loop() is not self._loop:\n", "        if False:\n",
        "tests/test_asyncring.py -k not_the_loops",
    ),
    Mutant(
        "asyncring: a cancellation without room is given up", "rawuring/asyncring.py",
        "        except (SubmissionQueueFull, OSError):  # no room for now\n"
        "            self._loop.call_later(delay, ", "        except (SubmissionQueueFull, OSError):\n"
        "            self._loop.call_later(3600, ",
        "tests/test_asyncring.py -k takes_nothing_for_now",
    ),
    Mutant(
        "asyncring: a chain that breaks leaves its descriptors to a task that is cancelled",
        "rawuring/asyncring.py", "        self._give_late(self._results)\n", "        super()._abandon()\n",
        "tests/test_asyncring.py -k breaks_and_its_task",
    ),
    Mutant(
        "asyncring: handlers run in whatever context", "rawuring/asyncring.py",
        "            context.copy().run(handler, res, flags)", "            handler(res, flags)",
        "tests/test_asyncring.py -k has_a_context",
    ),
    Mutant(
        "asyncring: an interrupted chain leaves an entry", "rawuring/asyncring.py",
        "                table.entries.pop(_token_of(sq._slots[at & sq.ring_mask]), None)\n",
        "                pass\n",
        "tests/test_asyncring.py -k raises_within_it",
    ),
    Mutant(
        "asyncring: a lone await on a loop that hides its queue takes two turns", "rawuring/asyncring.py",
        "            if before != self._alone:\n", "            if True:\n",
        "tests/test_asyncring.py -k awaits_alone",
    ),
    Mutant(
        "asyncring: a turn that the loop has lost is waited for", "rawuring/asyncring.py",
        "                at -= 1\n        self._handle", "                at -= 1\n            return\n        self._handle",
        "tests/test_asyncring.py -k where_a_function_begins",
    ),
    Mutant(
        "asyncring: a completion that a signal handler has lost cannot be cancelled", "rawuring/asyncring.py",
        "                self._ring._loop.call_later(_CANCEL_AGAIN, self._give_up)\n", "                pass\n",
        "tests/test_asyncring.py -k where_a_function_begins",
    ),
    Mutant(
        "aio: close() does not end the requests of its ring", "rawuring/aio.py",
        "                found.close()\n", "                pass\n",
        "tests/test_aio_uring.py -k loop_is_closed",
    ),
    Mutant(
        "aio: the ring of a loop is always a private one", "rawuring/aio.py",
        'getattr(self._selector, "requests", None)', "None",
        "tests/test_aio_uring.py -k running_then",
    ),
    Mutant(
        "aio: a lost ring remains the loop's", "rawuring/aio.py",
        "found is None or found.table is not table", "found is None",
        "tests/test_aio_uring.py -k ring_is_lost",
    ),
    Mutant(
        "aio: transports read 256 KiB at a time", "rawuring/aio.py",
        "        transport.max_size = _MAX_SIZE", "        pass", "tests/test_aio.py -k 64_kib",
    ),
    Mutant(
        "aio: long datagrams of Unix sockets are truncated", "rawuring/aio.py",
        " if sock.family in (AF_INET, AF_INET6) else transport", "", "tests/test_aio.py -k arrives_whole",
    ),
    Mutant(
        "aio: a dropped loop removes a socket without a number", "rawuring/aio.py",
        "if isinstance(fd, int) and fd < 0:", "if False:",
        "tests/test_aio.py -k forgotten",
    ),
    Mutant(
        "aio: run() inside a running loop creates another", "rawuring/aio.py",
        "    if asyncio._get_running_loop() is not None:", "    if False:",
        "tests/test_aio.py -k tasks_generators",
    ),
    Mutant(
        "selector: close() raises when io_uring was lost", "rawuring/epollwait.py",
        "if not (self._lost or taken_away):", "if not self._lost:",
        "tests/test_selector.py -k gone_at_the_end",
    ),
    Mutant(
        "a finalizer reports that io_uring was lost", "rawuring/inflight.py",
        "            if explicit:\n                raise\n            # Otherwise", "            raise\n            # Otherwise",
        "tests/test_selector.py -k gone_at_the_end",
    ),
    Mutant(
        "selector: without descriptors the next strategy", "rawuring/selector.py",
        "                break  # epoll needs one", "                continue  # epoll needs one",
        "tests/test_selector.py -k few_free",
    ),
    Mutant(
        "selector: requests of others are dropped with an exception", "rawuring/epollwait.py",
        "                if change or user_data == token:\n", "                if True:\n",
        "tests/test_selector_requests.py -k around_the_enter",
    ),
    Mutant(
        "selector: a TIMEOUT of the ring is taken for a change", "rawuring/epollwait.py",
        "                change = _CTL <= user_data < 2 * _CTL", "                change = bool(user_data & _CTL)",
        "tests/faults/test_errnos.py -k selector_says_so",
    ),
    Mutant(
        "selector: the set is queried although requests wait to be sent", "rawuring/epollwait.py",
        "            if self._serving and self._has_requests():\n", "            if False:\n",
        "tests/test_selector_requests.py -k between_two_selects",
    ),
    Mutant(
        "selector: descriptors that a handler has changed are reported", "rawuring/selector.py",
        "for key, events in found if self._map.get(key.fd) is key]", "for key, events in found]",
        "tests/test_selector_requests.py -k only_what_it_left",
    ),
    Mutant(
        "a monitor runs the last handler of a lost ring inside wait() and waits on", "rawuring/fdmon.py",
        "        if not (len(self.inflight) or self.inflight.ready):", "        if not len(self.inflight):",
        "tests/test_selector_requests.py -k ring_is_lost",
    ),
    Mutant(
        "selector: a change that a worker makes counts as made", "rawuring/epollwait.py",
        "        self._unanswered = self._unanswered + user_data if self._unanswered else user_data\n", "",
        "tests/test_selector.py -k worker_makes",
    ),
    Mutant(
        "selector: a change on its way is sent again before it completes", "rawuring/epollwait.py",
        "            while not unsent.issuperset(self._unanswered):\n", "            while False:\n",
        "tests/test_selector.py -k worker_makes",
    ),
    Mutant(
        "selector: an event that a signal handler kept from being reaped is taken for a new one", "rawuring/epollwait.py",
        "if self._cqes or cq.copied or cq.ready():", "if self._cqes or cq.ready():",
        "tests/test_selector.py -k is_reaped",
    ),
    Mutant(
        "a registration newer than the kernel waits for requests in flight", "rawuring/handle.py",
        "            if opcode > last:\n", "            if False:\n",
        "tests/test_rings_kernel.py -k newer_than_the_kernel",
    ),
    # (end of the selector and asyncio)
    # Promises: the probe and denied environments
    Mutant(
        "filters that kill are not looked for", "rawuring/params.py",
        "    seccomp.check()\n", "", "tests/test_seccomp.py -k everything_that_falls_back", quick=True,
    ),
    Mutant(
        "a query without a ring is made under a filter that kills", "rawuring/register.py",
        "    seccomp.check()  # perhaps no ring has been created before, and so no other code has checked\n", "",
        "tests/test_seccomp.py -k everything_that_falls_back",
    ),
    Mutant(
        "a filter that was loaded later is not noticed", "rawuring/seccomp.py",
        "    if _clean and syscalls._libc is not None and not _prctl_mode():", "    if _clean:",
        "tests/test_seccomp.py -k after_the_first_ring",
    ),
    Mutant(
        "one filter's answer is reused for the next", "rawuring/seccomp.py",
        "    if filters not in _deadly:", "    if not _deadly:",
        "tests/test_seccomp.py -k second_filter",
    ),
    Mutant(
        "the filter of another thread is checked", "rawuring/seccomp.py",
        '("/proc/thread-self/status", "/proc/self/status")', '("/proc/self/status",)',
        "tests/test_seccomp.py -k of_one_thread",
    ),
    Mutant(
        "without a child the calls are tried anyway", "rawuring/seccomp.py",
        "            raise _not_tried(failure) from None", "            return",
        "tests/test_seccomp.py -k no_child_to_ask",
    ),
    Mutant(
        "the child is created by a replaced os.fork", "rawuring/seccomp.py",
        "_fork(posix.fork)", "_fork(os.fork)", "tests/test_seccomp.py -k somebody_elses",
    ),
    Mutant(
        "a killed child dumps core", "rawuring/seccomp.py",
        "_in_child(work, dump_core=False)", "_in_child(work, dump_core=True)",
        "tests/test_seccomp.py -k no_core_dump",
    ),
    Mutant(
        "a transient answer is kept", "rawuring/probe.py",
        "_cached = found if found.lasting else None", "_cached = found",
        "tests/test_probe.py -k ran_short_while_asking",
    ),
    Mutant(
        "a limit that was reached during the survey is forgotten", "rawuring/survey.py",
        "        lasting=not _met.limits,\n", "", "tests/test_probe.py -k ran_short_while_asking",
    ),
    Mutant(
        "without a child nothing is probed", "rawuring/survey.py",
        '        if seccomp.state()[0] != "0":\n            raise', "        raise",
        "tests/test_probe.py -k asked_here_unless",
    ),
    Mutant(
        "--forbid: EFAULT to NULL parameters is a refusal", "rawuring/forbid.py",
        "_REFUSALS = (errno.EPERM,", "_REFUSALS = (errno.EFAULT, errno.EPERM,", "tests/test_forbid.py -k matrix",
    ),
    Mutant(
        "--forbid: valid parameters are not tried", "rawuring/forbid.py",
        "self.params() if true else None", "None", "tests/test_forbid.py -k matrix",
    ),
    Mutant(
        "--forbid: an answer that could be the kernel's is believed", "rawuring/forbid.py",
        "    filtered = mode ==", "    filtered = False and mode ==", "tests/test_forbid.py -k not_believed",
    ),
    Mutant(
        "--forbid: success without a ring is success", "rawuring/forbid.py",
        "        if result != expected:", "        if False:", "tests/test_forbid.py -k not_believed",
    ),
    Mutant(
        "--forbid: inherited rings are not looked for", "rawuring/forbid.py",
        '            if "[io_uring]" in os.readlink', '            if "[no]" in os.readlink',
        "tests/test_forbid.py -k a_ring_was_inherited",
    ),
    Mutant(
        "--forbid: a ring that needs no system call is overlooked", "rawuring/forbid.py",
        "    attempts += [_by_memory(fd) for fd in rings if _has_sqpoll(fd)]\n", "",
        "tests/test_forbid.py -k sqpoll",
    ),
    Mutant(
        "--forbid: only the native table is tried", "rawuring/forbid.py",
        '    if abi == "x86_64":\n        x32', '    if False:\n        x32',
        "tests/test_forbid.py -k native_table_only",
    ),
    Mutant(
        "--forbid: an untried way counts as closed", "rawuring/forbid.py",
        '    return None if "unknown" in states else True', "    return True",
        "tests/test_forbid.py -k could_not_be_tried",
    ),
    Mutant(
        "a refused item that may not exist is unknown", "rawuring/report.py",
        "    if finding.admitted is False:  # whether", "    if False:  # whether",
        "tests/test_probe.py -k register_refused",
    ),
    Mutant(
        "a closed stdout counts as written", "rawuring/command.py",
        "os.open(os.devnull, os.O_RDONLY)", "os.open(os.devnull, os.O_RDWR)",
        "tests/test_command_line.py -k stdout_is_closed",
    ),
    Mutant(
        "a Python without mmap ends in a traceback", "rawuring/survey.py",
        "    except ImportError as error:  # a module that", "    except ZeroDivisionError as error:  # a module that",
        "tests/test_probe.py -k without_a_module",
    ),
    Mutant(
        "unreadable files are not reported", "rawuring/evidence.py",
        '            unread.append(f"{path} ({error.strerror})")\n', "", "tests/test_probe.py -k could_not_be_read",
    ),
    Mutant(
        "--as: the child keeps its privileges", "rawuring/credentials.py",
        "            os.setuid(whom.uid)\n", "", "tests/test_operators.py -k his_ids",
    ),
    Mutant(
        "--as: the groups of the caller are kept", "rawuring/credentials.py",
        "            os.setgroups(whom.groups)\n", "            os.setgroups([0])\n", "tests/test_operators.py -k his_ids",
    ),
    Mutant(
        "--fix: the layer behind the filter is omitted", "rawuring/remedies.py",
        '        layers.append("sysctl")', "        pass", "tests/test_operators.py -k layer_that_refused",
    ),
    Mutant(
        "--profile: an unknown item is accepted", "rawuring/profiles.py",
        "        report.check(item)\n", "        pass\n", "tests/test_operators.py -k profile_that_is_none",
    ),
    Mutant(
        "a filter that kills is treated as one that refuses", "rawuring/evidence.py",
        'killed = failure.detail in ("seccomp-kill", "seccomp-untried")', "killed = False",
        "tests/test_evidence.py -k layer",
    ),
    Mutant(
        "a Python without ctypes is treated as a kernel without io_uring", "rawuring/evidence.py",
        '("no-ctypes", "no-mmap", "no-module", "no-numbers")', '("no-module", "no-numbers")',
        "tests/test_evidence.py -k layer",
    ),
    # (end of the probe and denied environments)
    # Promises: inventory and copies
    Mutant(
        "an old Python gets a traceback", "rawuring/__init__.py", "        sys.exit(_TOO_OLD)\n", "        pass\n",
        "tests/test_packages.py -k too_old",
    ),
    Mutant(
        "a partial copy has names of missing modules", "rawuring/vendor.py",
        '    found["__init__"] = _only_names_of(found["__init__"], set(names))\n', "",
        "tests/test_vendor.py -k names_are_those",
    ),
    Mutant(
        "--force keeps added files", "rawuring/vendor.py",
        " | (_added(manifest, present) if force else set())", "",
        "tests/test_vendor.py -k forced",
    ),
    Mutant(
        "--force writes through a link", "rawuring/vendor.py",
        "    if os.path.islink(path):  # its target is not ours\n        os.remove(path)\n", "",
        "tests/test_vendor.py -k forced",
    ),
    Mutant(
        "a link to a folder does not count as added", "rawuring/vendor.py",
        "        for name in names + links:\n            yield", "        for name in names:\n            yield",
        "tests/test_vendor.py -k forced",
    ),
    Mutant(
        "--minimal removes text that looks like a comment", "rawuring/vendor.py",
        'if line == "\\n" and number not in inside else', 'if line == "\\n" else',
        "tests/test_vendor.py -k look_like_comments",
    ),
    Mutant(
        "a .pyc is not checked", "rawuring/vendor.py",
        "            return _sha256(file.read())\n    except", "            return _sha256(file.read()[:99])\n    except",
        "tests/test_vendor.py -k compiled_copy",
    ),
    Mutant(
        "a minimal copy counts as a whole one", "rawuring/vendor.py",
        "    _refuse_to_copy_less(minimal)\n", "", "tests/test_vendor.py -k no_source_of or claims_to_be_whole",
    ),
    Mutant(
        "a copy that checks itself overlooks added files", "rawuring/__main__.py",
        '                found.append(name + ": added")\n', "                pass\n",
        "tests/test_vendor.py -k checks_itself",
    ),
    Mutant(
        "a list of hashes overlooks files that it does not name", "rawuring/vendor.py",
        '    differ = [f"{name}: added" for name in present - set(listed) - {SUMS}]\n', "    differ = []\n",
        "tests/test_vendor.py -k check_against",
    ),
    Mutant(
        "a process that ends meanwhile is an error", "rawuring/inspect.py",
        "            if error.errno in _ENDED:\n                counts", "            if error.errno == 0:\n                counts",
        "tests/test_inspect.py -k end_or_refuse",
    ),
    Mutant(
        "a ring that is closed meanwhile is an error", "rawuring/inspect.py",
        "            if error.errno in _ENDED:\n                continue  # closed",
        "            if error.errno == errno.ENOENT:\n                continue  # closed",
        "tests/test_inspect.py -k between_two_looks",
    ),
    Mutant(
        "a process can write control sequences to the viewer's terminal", "rawuring/inspect.py",
        "    return \"\".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)", "    return text",
        "tests/test_inspect.py -k terminal_can_show",
    ),
    Mutant(
        "memory of another file's mapping is counted", "rawuring/inspect.py",
        "        if line.endswith(RING_LINK):", "        if line.split()[4:5]:", "tests/test_inspect.py -k every_figure",
    ),
    Mutant(
        "a hung poll is reported after one look", "rawuring/inspect.py",
        'if ring["polls_woken"] and before["polls_woken"]:', 'if ring["polls_woken"]:',
        "tests/test_inspect.py -k unusual_then",
    ),
    Mutant(
        "a partial copy lists commands that it lacks", "rawuring/__main__.py",
        'if find_spec(f"{__package__}.{name}") is not None]', "]", "tests/test_vendor.py -k as_programs",
    ),
    # (end of inventory and copies)
    # Promises: signals and threads
    Mutant(
        "reap() counts requests that are no longer held", "rawuring/rings.py",
        "        self._reaped += len(cq.copied)\n        # No call from here on, len() included: the caller gets the CQEs, or the next call finds them here.\n"
        "        cqes, cq.copied = cq.copied, []\n",
        "        cqes, cq.copied = cq.copied, []\n        self._reaped += len(cqes)\n",
        FAULTS + "test_signals.py -k reaping", quick=True,
    ),
    Mutant(
        "columns are not left where a signal handler finds them", "rawuring/queues.py",
        "        self.copied = columns  # type: ignore[assignment]  # see fetch()\n        self.head = head\n        store_release(words, self._khead, head)\n",
        "        self.head = head\n        store_release(words, self._khead, head)\n        self.copied = columns  # type: ignore[assignment]\n",
        FAULTS + "test_signals.py -k reaping",
    ),
    Mutant(
        "columns that were not returned stay columns", "rawuring/queues.py",
        "            if self.copied:\n                self.copied = list(self.copied)", "            if False:\n                self.copied = list(self.copied)",
        FAULTS + "test_signals.py -k reaping",
    ),
    Mutant(
        "completions are out of sight while they are made into columns", "rawuring/rings.py",
        "            cq.copied = self.reap()  # back to where they are found if a signal handler raises\n            self._reaped = reaped\n"
        "            columns = Columns(b\"\".join(_CQE16.pack(*cqe) for cqe in cq.copied))\n",
        "            columns = Columns(b\"\".join(_CQE16.pack(*cqe) for cqe in self.reap()))\n            self._reaped = reaped\n",
        FAULTS + "test_signals.py -k reaping",
    ),
    Mutant(
        "the table reaps as its caller would", "rawuring/inflight.py",
        "            cqes = ring.reap()\n", "            cqes = ring.reap()\n            len(cqes)\n",
        FAULTS + "test_signals.py -k table_reaps", quick=True,
    ),
    Mutant(
        "a handler is taken off the list before it is called", "rawuring/inflight.py",
        "            self._run_next()\n", "            next(ready.popleft())\n",
        FAULTS + "test_signals.py -k between_any",
    ),
    Mutant(
        "an entry leaves the table before its handler is noted", "rawuring/inflight.py",
        "        if wanted:\n            if _HANDLERS", "        if not flags & uapi.IORING_CQE_F_MORE:\n            del self.entries[user_data]\n        if wanted:\n            if _HANDLERS",
        FAULTS + "test_signals.py -k between_any",
    ),
    Mutant(
        "the soak: a completion is out of sight for a moment", "rawuring/inflight.py",
        "            cqes = ring.reap()\n",
        "            cqes = ring.reap()\n            [None for _ in range(3000)]\n",
        FAULTS + "test_abuse.py -k everything_at_once",
    ),
    # (end of signals and threads)
    # The soak
    Mutant(
        "the soak: one event in a hundred is lost", "rawuring/epollwait.py",
        "            if events:\n                ready.append((key, events))\n        if timeout_ns",
        "            if events and time.monotonic_ns() % 97:\n                ready.append((key, events))\n        if timeout_ns",
        FAULTS + "test_abuse.py -k everything_at_once",
    ),
    Mutant(
        "the soak: a ring is never unmapped", "rawuring/handle.py",
        "        if not self._borrowed:\n            unmap(self._mappings)", "        _L.append(self._mappings)",
        FAULTS + "test_abuse.py -k everything_at_once",
    ),
    # Files
    Mutant(
        "a late descriptor of files.open_fd() in a thread stays open", "rawuring/files.py",
        "        if self.abandoned:\n            self._revoke()\n", "        if self.abandoned:\n            pass\n",
        "tests/test_files.py -k job_when_abandoned",
    ),
    Mutant(
        "a thread that has begun is not waited for", "rawuring/files.py",
        "            if not op.alone and not job.withdraw() and not future.done():\n                continue\n", "",
        "tests/test_files.py -k thread_has_begun",
    ),
    Mutant(
        "answers from the caches never let others run", "rawuring/files.py",
        "    _turn.until = perf_counter() + BUDGET_S\n", "    _turn.until = perf_counter() + 3600\n",
        "tests/test_files.py -k ready_answers",
    ),
    Mutant(
        "every task that waits for time goes on in each turn", "rawuring/files.py",
        "        if self._leads or self._waiting:\n", "        if False:\n",
        "tests/test_files.py -k few_go_on",
    ),
    Mutant(
        "one task more goes on in each turn, however many wait", "rawuring/files.py",
        "            self._count = max(self._count, 2 * count)\n", "            pass\n",
        "tests/test_files.py -k all_that_wait_go_on",
    ),
    Mutant(
        "a signal handler that raises between two turns stops those that wait", "rawuring/files.py",
        "        except BaseException:  # a signal handler has raised\n            self._schedule()\n            raise\n",
        "        except BaseException:\n            self._to_come().cancel()\n            raise\n",
        "tests/test_files.py -k raises_between_two_turns",
    ),
    Mutant(
        "without ctypes files are not read", "rawuring/fileops.py",
        "    except ImportError:  # as in _op()\n        return Op(plain)\n    finish",
        "    except NotImplementedError:\n        return Op(plain)\n    finish",
        "tests/test_files_everywhere.py -k ctypes",
    ),
    Mutant(
        "an offset of -1 is the position", "rawuring/fileops.py",
        "    if index(nbytes) < 0 or index(offset) < 0:\n", "    if index(nbytes) < 0 or index(offset) < -1:\n",
        "tests/test_files.py -k arguments_are_bad",
    ),
    Mutant(
        "an answer of no bytes is the end", "rawuring/fileops.py",
        "    if not got and want and not at_end(fd, offset):\n        return None\n", "",
        "tests/test_files.py -k short_answer",
    ),
    Mutant(
        "the kernel stops at a zero byte in a path", "rawuring/fileops.py",
        '    if 0 in encoded:\n        raise ValueError("embedded null byte")\n    return encoded\n', "    return encoded\n",
        "tests/test_files.py -k cannot_be",
    ),
    Mutant(
        "a request ignores that the file is a pipe", "rawuring/fileops.py",
        "    if not stat_module.S_ISREG(os.fstat(fd).st_mode):\n        os.lseek(fd, 0, os.SEEK_CUR)\n", "",
        "tests/test_files.py -k directory_or_a_pipe",
    ),
    Mutant(
        "a batch fails with the first EMFILE", "rawuring/filebatch.py",
        "        others = self.running or self._ended != run.seen\n", "        others = False\n",
        "tests/test_files_batches.py -k few_descriptors",
    ),
    Mutant(
        "a batch starts more than depth", "rawuring/filebatch.py",
        "        while len(running) + len(done) < self.depth and not self.stopping:\n",
        "        while len(running) < self.depth and not self.stopping:\n",
        "tests/test_files_batches.py -k never_more_than_depth",
    ),
    Mutant(
        "each file that is fetched becomes a request", "rawuring/filebatch.py",
        "            self._limit = max(1, self._limit // 2)\n", "",
        "tests/test_files_batches.py -k few_become_requests",
    ),
    Mutant(
        "a file that is late stops those behind it for good", "rawuring/filebatch.py",
        "                self._limit = min(2 * self._limit, self.depth)\n", "                pass\n",
        "tests/test_files_batches.py -k few_become_requests",
    ),
    Mutant(
        "a batch waits for nothing while files are fetched", "rawuring/filebatch.py",
        "        if self._fetched and len(self._awaited) < self._limit:\n", "        if False:\n",
        "tests/test_files_batches.py -k few_become_requests",
    ),
    Mutant(
        "a file that a thread opened for a cancelled task stays open", "rawuring/files.py",
        "                if isinstance(each, filebatch.Opened):\n                    each.close()\n",
        "                if isinstance(each, filebatch.Opened):\n                    each.take()\n",
        "tests/test_files_batches.py -k others_stay",
    ),
    Mutant(
        "a direct read that failed counts as done", "rawuring/filebatch.py",
        "        if res >= 0 and not self.stopping:\n", "        if not self.stopping:\n",
        "tests/test_files_batches.py -k a_direct_request_fails",
    ),
    Mutant(
        "a ring that is owned warns when it is forgotten", "rawuring/handle.py",
        "        elif self.owned:\n", "        elif False:\n",
        "tests/test_selector.py -k forgotten_in_a_cycle",
    ),
    Mutant(
        "a group of files fails with the first EMFILE", "rawuring/filebatch.py",
        "            if len(found) > begun and getattr(error, \"errno\", 0) in TOO_MANY:\n                break\n", "",
        "tests/test_files_batches.py -k all_are_read",
    ),
    Mutant(
        "threads that wait for a device stay one", "rawuring/filebatch.py",
        "        self._many.depth = self._most if slow else self._few\n", "",
        "tests/test_files_batches.py -k threads_wait",
    ),
    Mutant(
        "a thread continues when its batch is cancelled", "rawuring/filebatch.py",
        "            if perf_counter() > until or many.stopping:\n", "            if perf_counter() > until:\n",
        "tests/test_files_batches.py -k ends_after_the_item",
    ),
    Mutant(
        "a failed write leaves its temporary file", "rawuring/filebatch.py",
        "        if atomic and used is not None:\n", "        if False:\n",
        "tests/test_files_batches.py -k nothing_is_left",
    ),
    Mutant(
        "a tree is removed through a link", "rawuring/filebatch.py",
        '    if os.path.islink(path):\n        raise OSError("Cannot', '    if False:\n        raise OSError("Cannot',
        "tests/test_files_batches.py -k links_are_not_followed",
    ),
    Mutant(
        "a cancelled read of a file object loses its data", "rawuring/fileobjects.py",
        '            raw.put_back(self._sync, b"".join(parts))\n', "",
        "tests/test_fileobjects.py -k position_and_data",
    ),
    Mutant(
        "a write that raised is still written later", "rawuring/fileobjects.py",
        "            fits = self._pending + n <= self._size and not self._raw._notes\n",
        "            fits = self._pending + n <= self._size\n",
        "tests/test_fileobjects.py -k accepted_is_written_later",
    ),
    Mutant(
        "the operations of one file do not wait for each other", "rawuring/fileobjects.py",
        "            self._busy = True\n            return\n", "            return\n",
        "tests/test_fileobjects.py -k order_of_their_calls",
    ),
    Mutant(
        "two threads take O_DIRECT from a file at once", "rawuring/fileobjects.py",
        "        with self._without:\n            flags", "        if True:\n            flags",
        "tests/test_fileobjects.py -k written_at_once",
    ),
    Mutant(
        "an open that never begins is to be ended", "rawuring/files.py",
        "        if self.stop is not None and not self.withdraw():\n", "        if self.stop is not None:\n",
        "tests/test_files.py -k no_thread_has_begun",
    ),
    Mutant(
        "an interrupted delivery leaves the other results", "rawuring/files.py",
        "            if done:  # a signal", "            if False:  # a signal",
        "tests/test_files.py -k delivery_of_another",
    ),
    Mutant(
        "a buffer is returned inside recycle()", "rawuring/buffers.py",
        "        if self._recycling:\n", "        if False:\n", "tests/test_buffers.py -k returned_while_others",
    ),
    Mutant(
        "a pin holds its memory a moment too late", "rawuring/buffers.py",
        "        first = ctypes.c_char.from_buffer(memory)  # exp",
        "        view.release()\n        first = ctypes.c_char.from_buffer(memory)  # exp",
        "tests/test_buffers.py -k shrinks",
    ),
    # The page and the trace
    Mutant(
        "the handler of a table is not timed", "rawuring/trace.py",
        "        if entry is not None and callable(entry[0]) and type(entry[0]) is not _Timed:\n", "        if False:\n",
        "tests/test_trace.py -k of_a_table",
    ),
    Mutant(
        "a traced table shows the wrappers of its handlers", "rawuring/trace.py",
        "            if type(each.handler) is _Timed:\n", "            if False:\n",
        "tests/test_trace.py -k of_a_table",
    ),
    Mutant(
        "a returned slot keeps its time", "rawuring/trace.py",
        "            del self.taken[max(len(self.taken) + more, 0) :]\n", "            pass\n",
        "tests/test_trace.py -k given_back",
    ),
    Mutant(
        "a child writes the lines of its parent, too", "rawuring/trace.py",
        "            os.register_at_fork(after_in_child=log.begin)\n", "            pass\n",
        "tests/test_trace.py -k forked",
    ),
    Mutant(
        "two threads write the trace at once", "rawuring/trace.py",
        "lines, writing = self._lines, self._writing\n", "lines, writing = self._lines, allocate_lock()\n",
        "tests/test_trace.py -k two_threads_write",
    ),
    Mutant(
        "a traced ring takes the short paths", "rawuring/trace.py",
        "        self._plain = self._quick = self._direct = False  # every turn goes through _enter and _fetch\n        self._trace_log",
        "        self._trace_log",
        "tests/test_trace.py -k each_has_its_lines",
    ),
    Mutant(
        "a CQE is not counted among those of its ring", "rawuring/playtrace.py",
        "            known.reaped += 1\n", "",
        "tests/test_trace.py -k way_of_a_request",
    ),
    Mutant(
        "a call is credited with requests that it did not consume", "rawuring/playtrace.py",
        "            for _ in range(min(result, len(known.unsent))):\n", "            for _ in range(len(known.unsent)):\n",
        "tests/test_trace.py -k way_of_a_request",
    ),
    Mutant(
        "the absence of a worker now excludes one of long ago", "rawuring/playtrace.py",
        "            if not workers and time - request.submitted < WORKER_STAYS_NS:\n", "            if not workers:\n",
        "tests/test_trace.py -k way_of_a_request",
    ),
    Mutant(
        "the absence of workers in one process excludes those of another", "rawuring/playtrace.py",
        "            pid = str(ring).partition(\".\")[0]\n", "            pid = \"2\"\n",
        "tests/test_trace.py -k way_of_a_request",
    ),
    Mutant(
        "a trace that is damaged ends in a traceback", "rawuring/playtrace.py",
        "            except (LookupError, OverflowError, TypeError, ValueError):\n", "            except LookupError:\n",
        "tests/test_trace.py -k of_any_lines",
    ),
    Mutant(
        "the content of a trace can end the script around it", "rawuring/playpage.py",
        """.replace("<", "\\\\u003c")""", "",
        "tests/test_trace.py -k of_any_lines",
    ),
    Mutant(
        "the recorder looks once for several stores", "rawuring/play.py",
        "        if self.recorder is not None:\n            self.recorder.look()\n", "",
        "tests/test_play.py -k order_of_time",
    ),
    Mutant(
        "the page shows an address of this run", "rawuring/play.py",
        "            image[16:24] = SHOWN_ADDRESS.to_bytes(8, sys.byteorder)\n", "            pass\n",
        "tests/test_play.py -k same_bytes",
    ),
    # These need node or chromium, and so does the page.
    Mutant(
        "the page's kernel lets a CQE overtake those that wait", "rawuring/playkernel.py",
        "    if (this.overflowed.length || this.ready() === this.cq_entries) {\n", "    if (this.ready() === this.cq_entries) {\n",
        "tests/test_play_kernel.py",
    ),
    Mutant(
        "the page's kernel sleeps without a second look at the tail", "rawuring/playkernel.py",
        "    if (this.load(this.sq_off.tail) !== this.sq_head) {\n", "    if (false) {\n",
        "tests/test_play_kernel.py",
    ),
    Mutant(
        "the page's kernel forgets to lower CQ_OVERFLOW", "rawuring/playkernel.py",
        "    this.set_flag(C.IORING_SQ_CQ_OVERFLOW, waiting.length > 0);\n", "",
        "tests/test_play_kernel.py",
    ),
)  # fmt: skip


def run(tree: Path, tests: str) -> bool:
    """Run some tests in a copy; tell whether they passed."""
    words, _, chosen = tests.partition(" -k ")
    arguments = ["-q", "-x", "-p", "no:cacheprovider", "--tb=no", "-W", IMPORTED, *words.split()]
    if chosen:
        arguments += ["-k", chosen]
    with tempfile.TemporaryFile() as log:
        pid = os.fork()  # with pytest, which takes longer to import than most of these tests take
        if not pid:
            run_here(tree, arguments, log.fileno())
        child = os.pidfd_open(pid)
        ended = select.select([child], [], [], LIMIT_S)[0]
        os.close(child)
        with contextlib.suppress(ProcessLookupError):  # the child has not reached setsid(), or left nothing
            os.killpg(pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        log.seek(0)
        output = log.read()
    if not ended:
        return False
    # A skipped test detects nothing: on this interpreter the mutant would survive.
    if code in (2, 3, 4, 5) or (code == 0 and b" passed" not in output):
        raise SystemExit(f"pytest cannot run {tests!r}:\n{output.decode()[-2500:]}")
    return code == 0


def run_here(tree: Path, arguments: list[str], log: int) -> NoReturn:
    """Run pytest in this child, and end it."""
    import pytest

    code = 70
    try:
        os.setsid()
        os.chdir(tree)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ["RAWURING_TEST_PATIENCE_S"] = PATIENCE_S
        sys.path[0] = str(tree)
        code = int(pytest.main(arguments))
        sys.stdout.flush()
    finally:
        os._exit(code)


def stale(mutant: Mutant, text: str) -> str:
    """Return why the mutant no longer fits the file's text, or nothing.

    A mutant that is not Python would be "killed" by any test, and prove nothing.
    """
    if mutant.old not in text:
        return "STALE: the file no longer contains the text to replace"
    try:
        compile(text.replace(mutant.old, mutant.new, 1), mutant.file, "exec")
    except SyntaxError as e:
        return f"STALE: the result is not Python: {e}"
    return ""


def judge(mutant: Mutant, tree: Path, sound: dict[str, bool]) -> str:
    """Apply a mutant, run its tests, revert it; return the problem, or nothing."""
    path = tree / mutant.file
    text = path.read_text(encoding="utf-8")
    if problem := stale(mutant, text):
        return problem
    if mutant.tests not in sound:
        sound[mutant.tests] = run(tree, mutant.tests)
    if not sound[mutant.tests]:
        return "its tests fail without it, too"
    write(path, text.replace(mutant.old, mutant.new, 1))
    try:
        return "LIVES: no test misses the protection" if run(tree, mutant.tests) else ""
    finally:
        write(path, text)


def write(path: Path, text: str) -> None:
    """Change a source file, and delete its byte code: times and sizes may be the same as before."""
    path.write_text(text, encoding="utf-8")
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
        compiled.unlink()


def main() -> int:
    """Judge the mutants; the exit code is 1 if one survives."""
    parser = argparse.ArgumentParser(description="Remove each protection and check that its test fails.")
    parser.add_argument("names", nargs="*", help="parts of names (default: all)")
    parser.add_argument("--quick", action="store_true", help="one or two for each class of fault")
    parser.add_argument("--sound", action="store_true", help="skip the tests without a mutant: they have just passed")
    options = parser.parse_args()
    import hypothesis.stateful  # noqa: F401 # for the children; the list can be read without it
    import pytest  # noqa: F401

    chosen = [m for m in MUTANTS if not options.names or any(part in m.name for part in options.names)]
    if options.quick:
        chosen = [m for m in chosen if m.quick]
    problems, started = 0, time.monotonic()
    sound = {mutant.tests: True for mutant in chosen} if options.sound else {}
    with tempfile.TemporaryDirectory(prefix="rawuring-mutants-") as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".git", ".venv*", "__pycache__", ".*_cache"))
        for mutant in chosen:
            began = time.monotonic()
            problem = judge(mutant, tree, sound)
            problems += bool(problem)
            verdict, seconds = "BAD " if problem else "ok  ", time.monotonic() - began
            print(f"{verdict} {seconds:5.1f} s  {mutant.name}{': ' + problem if problem else ''}", flush=True)
    print(f"{len(chosen) - problems} of {len(chosen)} mutants were killed, {time.monotonic() - started:.0f} s")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
