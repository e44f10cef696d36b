# SPDX-License-Identifier: MIT
"""Tests that need the real kernel: setup flags, threads, fork, signals, garbage collection, SQPOLL."""

from __future__ import annotations

import ctypes
import errno
import gc
import itertools
import os
import select
import signal
import sys
import threading
import time

import leaks
import pytest
from strikes import Leave, Strikes

from rawuring import buffers, ops, params, register, rings, syscalls, uapi
from rawuring.rings import ForkedRing, Ring, WrongThread

pytestmark = [pytest.mark.requires_io_uring, pytest.mark.leakcheck]
MILLISECOND = 1_000_000
FLAGS = {name[13:]: value for name, value in vars(uapi).items() if name.startswith("IORING_SETUP_")}
NEEDED = {
    "SQ_AFF": "SQPOLL", "TASKRUN_FLAG": "COOP_TASKRUN", "DEFER_TASKRUN": "SINGLE_ISSUER",
    "REGISTERED_FD_ONLY": "NO_MMAP", "HYBRID_IOPOLL": "IOPOLL", "SQ_REWIND": "NO_SQARRAY",
}  # fmt: skip


def make(*names: str, **options) -> Ring:
    """Make a ring with flags by name, or skip because this kernel does not know them."""
    flags = 0
    for name in names:
        flags |= FLAGS[name]
    try:
        return Ring(options.pop("entries", 4), flags=flags, **options)
    except syscalls.Unavailable as error:
        since = [f"IORING_SETUP_{name} (Linux {uapi.SINCE['IORING_SETUP_' + name]})" for name in names]
        pytest.skip(f"{', '.join(since)}: {error}")


def nops(ring: Ring, count: int) -> list[int]:
    for i in range(count):
        ring.sqring_wait()  # an SQPOLL thread moves its head after the completions are visible
        sqe = ring.get_sqe()
        sqe[64:] = bytes(len(sqe) - 64)
        ops.prep_nop(sqe, i + 1)
    ring.submit_and_wait(count)
    found = []
    while len(found) < count:
        found += [cqe[0] for cqe in ring.reap()]
    return found


# -- every way to set up


@pytest.mark.parametrize(
    "names",
    [
        (), ("CLAMP",), ("SUBMIT_ALL",), ("COOP_TASKRUN",), ("COOP_TASKRUN", "TASKRUN_FLAG"), ("SQE128",),
        ("CQE32",), ("SINGLE_ISSUER",), ("SINGLE_ISSUER", "DEFER_TASKRUN"), ("SQPOLL",),
        ("SINGLE_ISSUER", "DEFER_TASKRUN", "TASKRUN_FLAG"), ("NO_MMAP",), ("NO_MMAP", "REGISTERED_FD_ONLY"),
        ("NO_SQARRAY",), ("CQE_MIXED",), ("SQE_MIXED",), ("NO_SQARRAY", "SQ_REWIND"),
        ("NO_MMAP", "NO_SQARRAY"), ("SQE128", "CQE32", "NO_SQARRAY"), ("CQE_MIXED", "SQE_MIXED"),
    ],
    ids=lambda names: "|".join(names) or "plain",
)  # fmt: skip
def test_ring_of_every_kind_then_nops_go_round(names):
    with make(*names) as ring:
        for _ in range(7):
            assert nops(ring, 3) == [1, 2, 3]
        stats = ring.statistics()
        assert (stats.reaped, stats.sq_pending, stats.cq_ready) == (21, 0, 0)


def test_two_mappings_then_the_same(monkeypatch):
    with make(single_mmap=False) as ring:
        assert ring._mappings[0] is not ring._mappings[1]
        for _ in range(7):
            assert nops(ring, 3) == [1, 2, 3]


def test_sizes_wanted_then_given():
    with make(entries=5, cq_entries=9) as ring:
        assert (ring.sq.ring_entries, ring.cq.ring_entries) == (8, 16)
    with make("CLAMP", entries=100_000) as ring:
        assert ring.sq.ring_entries == 32768


def test_memory_of_the_callers_own_then_used_and_not_closed():
    memory = buffers.allocate(8192), buffers.allocate(4096)
    with make("NO_MMAP", memory=memory) as ring:
        assert nops(ring, 3) == [1, 2, 3]
    assert uapi.io_uring_sqe.unpack(memory[1], 64)["user_data"] == 2


def test_mixed_sqes_then_128_byte_slots_over_the_wrap():
    with make("SQE_MIXED", entries=4) as ring:
        for i in range(9):
            sqe = ring.sq.get_sqe128()
            sqe[:] = uapi.io_uring_sqe.pack(opcode=uapi.IORING_OP_NOP128, user_data=i).ljust(128, b"\0")
            ops.prep_nop(ring.get_sqe(), 100 + i)
            assert ring.submit_and_wait(2) >= 2
            assert [(cqe[0], cqe[1]) for cqe in ring.reap()] == [(i, 0), (100 + i, 0)]


def test_mixed_cqes_then_both_sizes_over_the_wrap():
    with make("CQE_MIXED", entries=4) as ring:
        for i in range(9):
            ops.prep_nop(ring.get_sqe(), i)
            sqe = ring.get_sqe()
            sqe[:] = uapi.io_uring_sqe.pack(
                opcode=uapi.IORING_OP_NOP, nop_flags=uapi.IORING_NOP_CQE32, off=7, addr=8, user_data=100 + i
            )
            ring.submit_and_wait(2)
            small, big = ring.reap()
            assert (small, big[0], big[1], len(big)) == ((i, 0, 0), 100 + i, 0, 5)


def test_disabled_ring_then_refused_until_enabled_by_the_thread_that_gets_it():
    with make("R_DISABLED", "SINGLE_ISSUER") as ring:
        ops.prep_nop(ring.get_sqe(), 5)
        with pytest.raises(OSError, match=r"enable\(\) first"):
            ring.submit()
        found = []

        def use() -> None:
            ring.enable()
            ring.submit_and_wait(1)
            found.extend(ring.reap())

        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
        assert found == [(5, 0, 0)]


def test_bound_by_the_kernel_then_bind_thread_is_refused():
    ring = make("SINGLE_ISSUER")
    caught = []

    def use() -> None:
        try:
            ring.bind_thread()
        except WrongThread as error:
            caught.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    ring.close()
    assert "SINGLE_ISSUER" in str(caught[0])


def test_sqpoll_that_sleeps_then_is_woken():
    with make("SQPOLL", sq_thread_idle_ms=1) as ring:
        for _ in range(5):
            # Work first: a thread that never had any does not sleep on a just booted 32-bit kernel.
            assert nops(ring, 4) == [1, 2, 3, 4]
            deadline = time.monotonic() + 60
            while not ring.sq.flags() & uapi.IORING_SQ_NEED_WAKEUP:
                assert time.monotonic() < deadline, "the kernel's thread never went to sleep"


def test_sqpoll_that_sleeps_then_is_woken_for_what_was_published_before():
    with make("SQPOLL", sq_thread_idle_ms=1) as ring:
        assert nops(ring, 1) == [1]
        deadline = time.monotonic() + 60
        while not ring.sq.flags() & uapi.IORING_SQ_NEED_WAKEUP:
            assert time.monotonic() < deadline, "the kernel's thread never went to sleep"
        ops.prep_nop(ring.get_sqe(), 2)
        ring.sq.flush()
        assert ring.submit() == 0  # nothing new is published, but the thread must be woken
        assert ring.submit_and_wait(1) == 0
        assert ring.reap() == [(2, 0, 0)]


def test_sqpoll_when_full_then_waits_for_room():
    with make("SQPOLL") as ring:
        sent = 0
        while sent < 200:
            try:
                ops.prep_nop(ring.get_sqe(), sent)
                sent += 1
            except rings.SubmissionQueueFull:
                ring.submit()
                ring.sqring_wait()
                ring.reap()
        ring.submit()
        assert sent == 200


def test_attached_ring_then_works():
    with make() as first, make(wq_fd=first.fileno()) as second:
        assert second.flags & uapi.IORING_SETUP_ATTACH_WQ
        assert nops(second, 2) == [1, 2]


def known_flags() -> list[str]:
    """Find the flags that this kernel accepts, each with the one that it requires."""
    return [name for name in FLAGS if answer({name, NEEDED.get(name, name)}) == 0]


def answer(names: set[str]) -> int:
    """Call the kernel directly; return 0 or the errno."""
    flags = 0
    for name in names:
        flags |= FLAGS[name]
    memory = buffers.allocate(8192), buffers.allocate(4096)
    pins = [buffers.pin(each, writable=True) for each in memory]
    fields = {}
    if "NO_MMAP" in names:
        fields = {"cq_off": {"user_addr": pins[0].address}, "sq_off": {"user_addr": pins[1].address}}
    if "CQSIZE" in names:
        fields["cq_entries"] = 4
    params = bytearray(uapi.io_uring_params.pack(flags=flags, **fields))
    try:
        fd = syscalls.io_uring_setup(2, params)
    except OSError as error:
        return error.errno
    if "REGISTERED_FD_ONLY" in names:
        update = (ctypes.c_char * 16).from_buffer_copy(uapi.io_uring_rsrc_update.pack(offset=fd))
        opcode = uapi.IORING_UNREGISTER_RING_FDS | uapi.IORING_REGISTER_USE_REGISTERED_RING
        assert syscalls.io_uring_register(fd, opcode, update, 1) == 1
    else:
        os.close(fd)
    return 0


def test_combinations_of_flags_then_our_rules_are_the_kernels():
    """Every single flag, pair and triple that this kernel knows."""
    known = [name for name in known_flags() if name not in ("ATTACH_WQ", "IOPOLL", "HYBRID_IOPOLL")]
    # SQPOLL starts a thread each time: with it, pairs are enough.
    sets = [set(c) for n in (1, 2, 3) for c in itertools.combinations(known, n) if n < 3 or "SQPOLL" not in c]
    checked = 0
    for names in sets:
        flags = 0
        for name in names:
            flags |= FLAGS[name]
        said = answer(names)
        for _ in range(50):
            if said != errno.ENOMEM:  # memory of closed rings is freed late
                break
            time.sleep(0.01)
            said = answer(names)
        rule = params.broken_rule(flags)
        assert (said == errno.EINVAL) == (rule is not None), (names, said, rule)
        checked += 1
    assert checked > len(known)


# -- waiting


def test_timeouts_then_neither_early_nor_very_late():
    with make() as ring:
        for timeout_ns in (1, 50_000, MILLISECOND, 20 * MILLISECOND):
            before = time.monotonic_ns()
            assert ring.submit_and_wait(1, timeout_ns) == 0
            assert time.monotonic_ns() - before >= timeout_ns
        assert ring.reap() == []


def test_min_wait_then_one_completion_is_enough_after_it():
    with make() as ring:
        if not ring.features & uapi.IORING_FEAT_MIN_TIMEOUT:
            with pytest.raises(ValueError, match="MIN_TIMEOUT"):
                ring.submit_and_wait(2, MILLISECOND, min_wait_usec=1)
            pytest.skip("IORING_FEAT_MIN_TIMEOUT (Linux 6.12)")
        ops.prep_nop(ring.get_sqe(), 1)
        before = time.monotonic_ns()
        ring.submit_and_wait(2, 60_000 * MILLISECOND, min_wait_usec=2000)
        assert 2 * MILLISECOND <= time.monotonic_ns() - before < 50_000 * MILLISECOND
        assert len(ring.reap()) == 1


def test_two_timeouts_then_completed_in_the_order_of_their_times():
    with make() as ring:
        long, short = buffers.timespec(30 * MILLISECOND), buffers.timespec(MILLISECOND)
        ops.prep_timeout(ring.get_sqe(), long.address, 0, 0, 1)
        ops.prep_timeout(ring.get_sqe(), short.address, 0, 0, 2)
        found = []
        while len(found) < 2:
            ring.submit_and_wait(1)
            found += ring.reap()
        assert [cqe[0] for cqe in found] == [2, 1]
        assert {cqe[1] for cqe in found} == {-errno.ETIME}


@pytest.mark.parametrize("names", [(), ("SINGLE_ISSUER", "DEFER_TASKRUN")], ids=["plain", "DEFER_TASKRUN"])
def test_a_thousand_signals_a_second_then_handlers_run_and_nothing_is_lost(names):
    count = 0

    def handler(*_: object) -> None:
        nonlocal count
        count += 1

    with make(*names, entries=16) as ring:
        old = signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        try:
            total = 0
            deadline = time.monotonic_ns() + 400 * MILLISECOND
            while time.monotonic_ns() < deadline:
                total += 1
                assert nops(ring, 10) == list(range(1, 11))
                before = time.monotonic_ns()
                assert ring.submit_and_wait(1, 5 * MILLISECOND) == 0
                assert time.monotonic_ns() - before >= 5 * MILLISECOND
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, old)
        stats = ring.statistics()
        assert (stats.reaped, stats.cq_ready) == (10 * total, 0)
        timeouts = 0 if ring.features & uapi.IORING_FEAT_EXT_ARG else total  # SQEs before Linux 5.11
        assert stats.submitted == 10 * total + timeouts
        assert count > 10


def test_handlers_that_raise_at_any_moment_then_every_request_completes_once():
    """The return value of enter is lost, the SQEs are not: the kernel's head counts them."""

    with make(entries=64) as ring, Strikes() as strikes:
        sent = left = 0
        found: list[int] = []
        while left < 20:
            for _ in range(min(8, ring.sq.space_left())):
                sent += 1
                ops.prep_nop(ring.get_sqe(), sent)
            try:
                strikes.arm(0.0007)
                ring.submit_and_wait(9, MILLISECOND)
            except Leave:
                left += 1
            strikes.disarm()
            found += [cqe[0] for cqe in ring.reap()]
        ring.submit()
        found += [cqe[0] for cqe in ring.reap()]
        assert found == list(range(1, sent + 1))


@pytest.mark.skipif(
    sys.implementation.name != "cpython" or sys.version_info < (3, 11),
    reason="before CPython 3.11 a signal handler may run between any two bytecodes",
)
def test_handlers_that_raise_while_reaping_too_then_every_request_completes_once():
    class Leave(Exception):
        pass

    armed = False

    def handler(*_: object) -> None:
        nonlocal armed
        if armed:
            armed = False
            raise Leave

    with make(entries=64) as ring:
        old = signal.signal(signal.SIGALRM, handler)
        sent = left = before = 0
        found: list[int] = []
        sqe = bytearray(64)
        cqes: list = []
        try:
            while left < 300:
                try:
                    armed = True
                    signal.setitimer(signal.ITIMER_REAL, 0.0003)
                    while True:
                        before = ring.sq.sqe_tail
                        ops.prep_nop(sqe, sent + 1)
                        ring.put(sqe)
                        sent += 1
                        ring.submit()
                        cqes = ring.reap()
                        found, cqes = found + [cqe[0] for cqe in cqes], []
                except Leave:
                    left += 1
                found += [cqe[0] for cqe in cqes]
                cqes = []
                if ring.sq.sqe_tail != before and sent == ring.sq.sqe_tail - 1:
                    sent += 1  # struck between put() and its count
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, old)
        ring.submit()
        found += [cqe[0] for cqe in ring.reap()]
        assert found == list(range(1, sent + 1))


# -- the end of a ring


def test_forgotten_then_closed_with_a_warning():
    box = [make()]

    def forget() -> None:
        box.clear()
        for _ in range(5):
            gc.collect()

    with pytest.warns(ResourceWarning, match="unclosed <Ring"):
        forget()


def test_signal_handler_raises_while_a_ring_is_made_then_its_descriptor_is_closed(monkeypatch):
    def unpack(*_):
        raise KeyboardInterrupt

    before = [name for name in os.listdir("/proc/self/fd") if leaks.is_ring(name)]
    monkeypatch.setattr(type(uapi.io_uring_params), "unpack", unpack)
    with pytest.raises(KeyboardInterrupt):
        Ring(2)
    assert [name for name in os.listdir("/proc/self/fd") if leaks.is_ring(name)] == before


def test_forked_then_the_child_is_refused_and_the_parent_not_disturbed():
    with make(entries=8) as ring:
        ops.prep_nop(ring.get_sqe(), 1)
        ring.submit()
        ops.prep_nop(ring.get_sqe(), 2)
        read_end, write_end = os.pipe()
        fd = ring.fileno()
        pid = os.fork()
        if not pid:
            report = []
            try:
                calls = (
                    ring.get_sqe, ring.submit, ring.submit_and_wait, ring.reap, ring.statistics, ring.fileno,
                    ring.bind_thread, lambda: ring.register(0), lambda: ring.push(bytes(64)),
                )  # fmt: skip
                for call in calls:
                    try:
                        call()
                        report.append("allowed")
                    except (ForkedRing, rings.RingClosed):
                        report.append("refused")
                ring.close()
                report.append(ring.state)
                rings_left = [f for f in os.listdir("/proc/self/fd") if leaks.is_ring(f)]
                report.append(f"{len(rings_left)} rings")
                with Ring(2) as own:
                    report.append(str(nops(own, 2)))
            finally:
                os.write(write_end, ",".join(report).encode())
                os._exit(0)
        os.close(write_end)
        os.waitpid(pid, 0)
        with os.fdopen(read_end) as file:
            assert file.read() == ",".join(["refused"] * 9 + ["forked", "0 rings", "[1, 2]"])
        assert ring.fileno() == fd
        ring.submit_and_wait(2)
        assert [cqe[0] for cqe in ring.reap()] == [1, 2]


def test_owner_thread_ended_then_anybody_may_close():
    box = []
    thread = threading.Thread(target=lambda: box.append(make()))
    thread.start()
    thread.join()
    box[0].close()
    assert box[0].closed


def test_descriptor_closed_behind_our_back_then_the_error_says_so():
    ring = make()
    os.close(ring.fileno())
    ops.prep_nop(ring.get_sqe(), 1)
    try:
        with pytest.raises(OSError, match="behind the ring's back"):
            ring.submit()
    finally:
        ring._fd = -1
        ring.close()


def test_failing_calls_in_a_signal_handler_then_our_errno_is_exact():
    going = True

    def handler(*_: object) -> None:
        try:
            syscalls.io_uring_register(-1, 0, None, 0)
        except OSError:
            if going:
                signal.setitimer(signal.ITIMER_REAL, 0.0005)  # one at a time, however slow the machine

    old = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0005)
    read_end, write_end = os.pipe()
    wrong = []
    try:
        deadline = time.monotonic() + 0.4
        while time.monotonic() < deadline:
            try:
                syscalls.io_uring_enter(read_end, 0, 0, 0)
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    wrong.append(error.errno)
    finally:
        # The handler of a pending signal may run after the timer is off, and must not re-arm it.
        going = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
        os.close(read_end)
        os.close(write_end)
    assert wrong == []


def test_ring_descriptor_then_readable_while_completions_wait():
    with make() as ring:
        oracle = select.poll()
        oracle.register(ring.fileno(), select.POLLIN)
        assert oracle.poll(0) == []
        ops.prep_nop(ring.get_sqe(), 1)
        ring.submit()
        assert oracle.poll(0) == [(ring.fileno(), select.POLLIN)]
        ring.reap()
        assert oracle.poll(0) == []


def test_wait_with_a_signal_mask_then_the_signal_comes_only_there():
    with rings.Ring(4) as ring:
        if not ring.features & uapi.IORING_FEAT_EXT_ARG:
            with pytest.raises(ValueError, match=r"sigmask needs .*5\.11"):
                ring.submit_and_wait(1, sigmask=[])
            pytest.skip("IORING_FEAT_EXT_ARG (Linux 5.11)")
        seen = []

        def strike(number, frame):
            seen.append(number)
            ops.prep_nop(ring.get_sqe(), 9)  # ends the wait: submit_and_wait continues after the handler
            ring.submit()

        previous = signal.signal(signal.SIGUSR1, strike)
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        try:
            signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)  # to this thread only
            assert ring.submit_and_wait(1, 1_000_000, sigmask=[signal.SIGUSR1, signal.SIGUSR2]) == 0
            assert seen == []
            ring.submit_and_wait(1, sigmask=[signal.SIGUSR2])
            assert (seen, ring.reap()) == ([signal.SIGUSR1], [(9, 0, 0)])
            assert signal.SIGUSR1 in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            signal.signal(signal.SIGUSR1, previous)


@pytest.mark.parametrize("without_descriptor", [False, True], ids=["both", "index only"])
def test_rings_by_index_then_the_index_is_free_after_close(without_descriptor):
    # A task has 16 of them.
    for _ in range(20):
        with rings.Ring(2) as ring:
            if not ring.features & uapi.IORING_FEAT_REG_REG_RING:
                pytest.skip("IORING_FEAT_REG_REG_RING (Linux 6.3)")
            register.register_ring_fd(ring)
            if without_descriptor:
                ring.close_fd()
            ring.submit_and_wait(0)


def test_ring_without_its_descriptor_then_works_by_index():
    with rings.Ring(4, wish=rings.RECOMMENDED) as ring:
        with pytest.raises(ValueError, match="not entered by an index"):
            ring.close_fd()
        if not ring.features & uapi.IORING_FEAT_REG_REG_RING:
            pytest.skip("IORING_FEAT_REG_REG_RING (Linux 6.3)")
        register.register_ring_fd(ring)
        fd = ring.fileno()
        ring.close_fd()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
        with pytest.raises(ValueError, match="has an index, no descriptor"):
            ring.fileno()
        ops.prep_nop(ring.get_sqe(), 5)
        ring.submit_and_wait(1)
        assert ring.reap() == [(5, 0, 0)]
        assert register.register_probe(ring)[uapi.IORING_OP_NOP]


def test_least_wait_without_a_timeout_then_one_completion_is_enough_and_none_is_not_waited_for():
    """Without a timeout min_wait_usec never reached the kernel; for 0 completions it waited forever."""
    with make() as ring:
        if not ring.features & uapi.IORING_FEAT_MIN_TIMEOUT:
            pytest.skip("IORING_FEAT_MIN_TIMEOUT (Linux 6.12)")
        ops.prep_nop(ring.get_sqe(), 7)
        assert ring.submit_and_wait(2, min_wait_usec=1000) == 1
        assert [cqe[0] for cqe in ring.reap()] == [7]
        assert ring.submit_and_wait(0, min_wait_usec=1000) == 0


@pytest.mark.parametrize(
    ("release", "newer"),
    [
        ("5.12", lambda ring: register.register_iowq_max_workers(ring, 1, 1)),
        ("5.17", lambda ring: register.register_ring_fd(ring)),
    ],
)
def test_registration_newer_than_the_kernel_then_einval_and_no_wait_for_requests_in_flight(release, newer):
    """Before Linux 5.18 the kernel waits until nothing is in flight before it looks at the opcode."""
    reader, writer = os.pipe()
    try:
        with make(entries=4) as ring:
            ring.features &= ~uapi.IORING_FEAT_LINKED_FILE
            if release == "5.12":
                ring.features &= ~uapi.IORING_FEAT_RSRC_TAGS
            ops.prep_poll_add(ring.get_sqe(), reader, select.POLLIN, 1)
            ring.submit()
            with pytest.raises(OSError, match=r"IORING_REGISTER_(IOWQ_MAX_WORKERS|RING_FDS)") as caught:
                newer(ring)
            assert caught.value.errno == errno.EINVAL
            assert caught.value.of_kernel
            assert register.register_probe(ring)  # older operations still reach the kernel
    finally:
        os.close(reader)
        os.close(writer)
