# SPDX-License-Identifier: MIT
"""A ring in trouble: no wake-up, an index of another thread, a half-done change, one bad request of many."""

from __future__ import annotations

import collections
import contextlib
import errno
import functools
import gc
import itertools
import mmap
import os
import select
import subprocess
import sys
import threading
import time
import warnings

import pytest
from driver import in_a_thread, need_ring
from strikes import Struck

from rawuring import buffers, debug, fakekernel, fdmon, handle, inflight, ops, register, rings, syscalls, uapi
from rawuring.inflight import InFlight
from rawuring.selector import IoUringSelector

pytestmark = [pytest.mark.requires_io_uring, pytest.mark.leakcheck]
FLAGS = {name[13:]: value for name, value in vars(uapi).items() if name.startswith("IORING_SETUP_")}


def make(*names: str, **options) -> rings.Ring:
    """Make a ring with flags by name, or skip because this kernel does not know them."""
    flags = 0
    for name in names:
        flags |= FLAGS[name]
    return need_ring(flags=flags, **options)


# -- the descriptor that wakes

DEFER = ("SINGLE_ISSUER", "DEFER_TASKRUN")


@pytest.mark.parametrize(
    "names",
    [(), ("COOP_TASKRUN",), ("COOP_TASKRUN", "TASKRUN_FLAG"), DEFER, (*DEFER, "TASKRUN_FLAG"), ("SQPOLL",),
     (*DEFER, "NO_MMAP", "REGISTERED_FD_ONLY")],
    ids="|".join,
)  # fmt: skip
def test_completion_while_epoll_waits_on_wakeup_fd_then_woken_until_reap_returns_nothing(names):
    with make(*names) as ring, select.epoll() as epoll:
        epoll.register(ring.wakeup_fd(), select.EPOLLIN)
        assert ring.wakeup_fd() == ring.wakeup_fd()
        for target in (None, collections.deque()):
            for _ in range(3):
                while epoll.poll(0):
                    assert not ring.reap()
                timespec = buffers.timespec(20_000_000)  # completes while we sleep
                ops.prep_timeout(ring.get_sqe(), timespec.address, 0, 0, user_data=1)
                ring.submit()
                seen: list = []
                while not seen:
                    assert epoll.poll(20), "never woken"
                    if target is None:
                        seen += ring.reap()
                    else:
                        ring.reap_into(target)
                        seen += target
                        target.clear()
                assert [cqe[:2] for cqe in seen] == [(1, -errno.ETIME)]


def test_completions_were_there_before_wakeup_fd_then_it_is_readable():
    with make(*DEFER, "TASKRUN_FLAG") as ring:
        ops.prep_nop(ring.get_sqe(), 7)
        ring.submit()
        assert select.select([ring.wakeup_fd()], [], [], 20)[0]
        ops.prep_nop(ring.get_sqe(), 8)
        assert [cqe[0] for cqe in ring.submit_and_reap(2)] == [7, 8]


def test_new_task_work_when_something_was_reaped_then_still_readable():
    with make(*DEFER, "TASKRUN_FLAG") as ring, select.epoll() as epoll:
        fd = ring.wakeup_fd()
        epoll.register(fd, select.EPOLLIN)
        r, w = os.pipe()
        try:
            target = buffers.pin(buffers.allocate(8), writable=True)
            ops.prep_read(ring.get_sqe(), r, target.address, 8, -1, user_data=2)
            ops.prep_nop(ring.get_sqe(), 1)
            ring.submit_and_wait(1)
            os.write(w, b"x")  # task work is pending, and a CQE is available
            assert [cqe[0] for cqe in ring.reap()] == [1]
            assert epoll.poll(20)
            assert [cqe[0] for cqe in ring.reap()] == [2]
        finally:
            os.close(r)
            os.close(w)


def test_wakeup_fd_where_none_can_wake_then_the_flag_is_named():
    with make("IOPOLL") as ring, pytest.raises(ValueError, match="IORING_SETUP_IOPOLL"):
        ring.wakeup_fd()


def test_wakeup_fd_and_an_eventfd_of_the_program_then_one_of_them():
    with make(*DEFER) as ring:
        fd = syscalls.eventfd()
        try:
            register.register_eventfd(ring, fd)
            with pytest.raises(OSError, match="register_eventfd") as caught:
                ring.wakeup_fd()
            assert caught.value.errno == errno.EBUSY
            register.unregister_eventfd(ring)
            own = ring.wakeup_fd()
            register.unregister_eventfd(ring)
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(own)
        finally:
            os.close(fd)


# -- cost


def garbage_of(work) -> list[str]:
    """Do something twice; name the objects of the second time that only the collector frees."""
    work()
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        work()
        gc.collect()
        return [f"{type(each).__name__}: {each!r:.80}" for each in gc.garbage]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def closed() -> None:
    rings.Ring(8).close()


def used_and_closed() -> None:
    with rings.Ring(8, wish=rings.RECOMMENDED) as ring:
        table = InFlight(ring)
        ring.wakeup_fd()
        r, w = os.pipe()
        table.start(ops.prep_poll_add, r, select.POLLIN)
        table.start(ops.prep_nop, handler=lambda res, flags: None)
        ring.submit_and_wait(1, 1_000_000_000)
        table.dispatch(ring.reap())
    os.close(r)
    os.close(w)
    for call in (ring.get_sqe, ring.submit, ring.fileno):
        with contextlib.suppress(rings.RingClosed):
            call()


def forgotten() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ring = rings.Ring(8)
        InFlight(ring)
        del ring


def in_memory_of_ours() -> None:
    with contextlib.suppress(syscalls.Unavailable):
        rings.Ring(8, flags=uapi.IORING_SETUP_NO_MMAP).close()


def entered_by_index() -> None:
    with rings.Ring(8) as ring, contextlib.suppress(OSError):
        register.register_ring_fd(ring)
        register.register_buffers(ring, [buffers.allocate(4096)])


def registration_refused() -> None:
    with rings.Ring(8) as ring, contextlib.suppress(OSError):
        register.unregister_buffers(ring)


def refused() -> None:
    with contextlib.suppress(OSError):
        rings.Ring(8, flags=uapi.IORING_SETUP_ATTACH_WQ, wq_fd=0)


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="counts references")
@pytest.mark.parametrize("work", [
    closed, used_and_closed, forgotten, in_memory_of_ours, entered_by_index, registration_refused, refused,
])  # fmt: skip
def test_ring_is_done_with_then_nothing_is_left_for_the_collector(work):
    assert garbage_of(work) == []


@pytest.mark.unwatched("it looks at every slot")
def test_ring_of_1024_then_views_only_of_the_slots_in_use():
    with rings.Ring(1024) as ring:
        for count in (1, 2, 40):
            for i in range(count):
                ops.prep_nop(ring.get_sqe(), i)
            ring.submit_and_wait(count)
            assert len(ring.reap()) == count
        views = [each for each in gc.get_referents(ring.sq._slots) if isinstance(each, memoryview)]
        assert 40 <= len(views) <= 100
        assert len(ring.sq.slots) == 1024


@pytest.mark.parametrize("start", [0, 5, 2**32 - 3])
def test_slots_are_taken_in_any_way_then_each_is_the_one_at_its_place(start):
    kernel = fakekernel.FakeKernel(32, sq_start=start)
    sq = rings.SubmissionQueue(kernel.ring, kernel.sqes, kernel.sq_off, 0)
    takes = [1, 3, -1, 9, 2, -2, 20, -5, 32, -3, 7]  # negative: by push()
    for round_ in range(3):
        for take in takes:
            tail = sq.sqe_tail
            if take < 0:
                sq.push(bytes([round_ + 1]) * 64 * -take)
            for i in range(max(0, take)):
                sq.get_sqe()[:] = bytes([i + 1]) * 64
            for i in range(abs(take)):
                at = ((tail + i) % 32) * 64
                assert kernel.sqes[at : at + 64] == bytes([round_ + 1 if take < 0 else i + 1]) * 64
            assert len(sq.discard()) == abs(take)
            sq.sqe_tail = sq.published = tail + abs(take)  # as if the kernel had consumed them
            kernel.store(kernel.sq_off["head"], tail + abs(take))
            sq._move_limit()
    sq.release()


# -- an index belongs to a thread


def by_index(**options) -> rings.Ring:
    """Make a ring that is entered by an index of this thread."""
    ring = rings.Ring(8, **options)
    try:
        register.register_ring_fd(ring)
    except OSError as error:
        ring.close()
        pytest.skip(f"IORING_REGISTER_RING_FDS (Linux 5.18): {error}")
    return ring


def answers_of(ring: rings.Ring, user_data: int) -> list[int]:
    ops.prep_nop(ring.get_sqe(), user_data)
    ring.submit_and_wait(1, 20_000_000_000)
    return [cqe[0] for cqe in ring.reap()]


def hand_over_and_use(first: rings.Ring) -> None:
    assert answers_of(first, 111) == [111]


def hand_over_and_close(first: rings.Ring) -> None:
    first.close()


def hand_over_and_unregister(first: rings.Ring) -> None:
    with pytest.raises(ValueError, match="not entered by an index"):
        register.unregister_ring_fd(first)


@pytest.mark.parametrize("what", [hand_over_and_use, hand_over_and_close, hand_over_and_unregister])
def test_ring_with_an_index_is_handed_over_then_the_other_threads_index_is_left_alone(what):
    def owner() -> None:
        first = by_index()
        before = first._enter_fd

        def other() -> None:
            with by_index() as second:
                assert second._enter_fd == before
                first.bind_thread()
                what(first)
                assert answers_of(second, 222) == [222]

        try:
            in_a_thread(other)
        finally:
            if not first.closed:
                first.bind_thread()
                first.close()

    in_a_thread(owner)  # whose end frees the indices still taken


def test_ring_with_an_index_is_forgotten_in_another_thread_then_that_threads_index_stays():
    def owner() -> None:
        box = [by_index()]

        def other() -> None:
            with by_index() as second, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                box.clear()
                gc.collect()
                assert answers_of(second, 222) == [222]

        in_a_thread(other)

    in_a_thread(owner)


def test_ident_of_an_ended_thread_is_used_again_then_the_ring_does_not_use_the_new_threads_index():
    first = in_a_thread(lambda: (by_index(), threading.get_ident()))
    ring, ident = first

    def other() -> bool:
        if threading.get_ident() != ident:
            return False
        with by_index() as second:  # the ring's index in the ended thread
            assert answers_of(ring, 111) == [111]
            assert answers_of(second, 222) == [222]
        return True

    try:
        if not any(in_a_thread(other) for _ in range(100)):
            pytest.skip("a thread with the same ident, which this system did not make")
    finally:
        ring.bind_thread()
        ring.close()


def without_descriptor() -> rings.Ring:
    ring = by_index()
    if not ring.features & uapi.IORING_FEAT_REG_REG_RING:
        ring.close()
        pytest.skip("IORING_FEAT_REG_REG_RING (Linux 6.3)")
    ring.close_fd()
    return ring


def test_ring_without_a_descriptor_is_handed_over_then_refused():
    with without_descriptor() as ring:
        with pytest.raises(rings.WrongThread, match="no descriptor"):
            in_a_thread(ring.bind_thread)
        assert answers_of(ring, 1) == [1]
        ring.bind_thread()
        assert answers_of(ring, 2) == [2]


def test_ring_without_a_descriptor_when_its_thread_has_ended_then_it_says_so_and_closes():
    ring = in_a_thread(without_descriptor)
    for use in (ring.get_sqe, ring.submit, ring.reap, ring.bind_thread):
        with pytest.raises(rings.RingClosed, match="broken"):
            use()
    ring.close()
    assert ring.state == "closed"


def test_disabled_ring_without_a_descriptor_is_enabled_elsewhere_then_refused():
    ring = make("R_DISABLED", "NO_MMAP", "REGISTERED_FD_ONLY")
    with ring:
        with pytest.raises(rings.WrongThread, match="no descriptor"):
            in_a_thread(ring.enable)
        ring.enable()
        assert answers_of(ring, 1) == [1]


def test_handler_raises_when_the_kernel_has_given_an_index_then_it_is_given_back(monkeypatch):
    def strike(self, index) -> None:
        raise KeyboardInterrupt

    by_index().close()
    with rings.Ring(8) as ring:
        with monkeypatch.context() as patch:
            patch.setattr(rings.Ring, "enter_by_index", strike)
            for _ in range(20):  # a thread has 16
                with pytest.raises(KeyboardInterrupt):
                    register.register_ring_fd(ring)
        register.register_ring_fd(ring)
        assert answers_of(ring, 1) == [1]


def test_descriptor_is_disowned_then_close_gives_the_index_back():
    for _ in range(20):
        ring = by_index()
        if not ring.features & uapi.IORING_FEAT_REG_REG_RING:
            ring.close()
            pytest.skip("IORING_FEAT_REG_REG_RING (Linux 6.3)")
        os.close(ring.fileno())
        ring.disown_fd()
        assert answers_of(ring, 1) == [1]
        ring.close()


# -- half-done changes are reported


def strike_at_call(number: int, work) -> bool:
    """Do something and raise where a signal handler may: at the start of a function, and after calls.

    Args: number selects one of these places in the package, in the order in which they are reached.
    Returns: False if there are fewer places.
    """
    package, left = os.path.dirname(rings.__file__), [number]

    def look(frame, event, argument):
        if event != "c_call" and os.path.dirname(frame.f_code.co_filename) == package:
            left[0] -= 1
            if left[0] < 0:
                sys.setprofile(None)
                raise Struck

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        work()
    except Struck:
        return True
    finally:
        sys.setprofile(before)
    return False


def resizable() -> rings.Ring:
    """Make a ring that can be resized, or skip."""
    ring = rings.Ring(4, wish=rings.RECOMMENDED)
    try:
        register.resize_rings(ring, 8)
    except (OSError, ValueError) as error:
        ring.close()
        pytest.skip(f"IORING_REGISTER_RESIZE_RINGS (Linux 6.13): {error}")
    return ring


def read_in_flight(ring: rings.Ring, fd: int) -> tuple[InFlight, list[int]]:
    """Start a read that waits for data."""
    table, answers = InFlight(ring), []
    target = buffers.pin(buffers.allocate(64), writable=True)
    table.start(
        ops.prep_read, fd, target.address, 64, -1, holds=(target,), handler=lambda res, _: answers.append(res)
    )
    ring.submit()
    return table, answers


@pytest.fixture
def read_end():
    r, w = os.pipe()
    yield r
    os.close(r)
    os.close(w)


def test_rings_cannot_be_mapped_if_resized_then_broken_and_close_maps_them_and_drains(monkeypatch, read_end):
    ring = resizable()
    table, answers = read_in_flight(ring, read_end)
    with monkeypatch.context() as patch:
        def no_memory(*arguments):
            raise OSError(errno.ENOMEM, "Cannot allocate memory")

        patch.setattr(handle, "map_rings", no_memory)
        with pytest.raises(OSError, match="broken: close it") as caught:
            register.resize_rings(ring, 256)
    assert (caught.value.errno, ring.state, repr(ring)[:12]) == (errno.ENOMEM, "broken", "<Ring broken")
    for use in (ring.get_sqe, ring.submit, ring.reap, ring.fileno, ring.bind_thread, ring.sq.get_sqe):
        with pytest.raises(rings.RingClosed, match="broken"):
            use()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ring.close()
    assert (ring.state, answers, len(table)) == ("closed", [-errno.ECANCELED], 0)


def test_broken_ring_can_never_be_mapped_then_close_keeps_the_memory_and_says_so(monkeypatch, read_end):
    ring = resizable()
    table, answers = read_in_flight(ring, read_end)

    def no_memory(*arguments):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(handle, "map_rings", no_memory)
    with pytest.raises(OSError, match="broken: close it"):
        register.resize_rings(ring, 256)
    with pytest.warns(ResourceWarning, match="could not be ended"):
        ring.close()
    assert (ring.state, answers, len(table)) == ("closed", [], 0)


@pytest.mark.unwatched("debug mode makes additional calls")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # in what PyPy frees just then
def test_handler_raises_at_any_call_of_a_resize_then_broken_or_whole_and_close_drains(read_end):
    number, raised = 0, True
    states = set()
    while raised:
        ring = resizable()
        table, answers = read_in_flight(ring, read_end)
        raised = strike_at_call(number, lambda ring=ring: register.resize_rings(ring, 32, 128))
        states.add(ring.state)
        if ring.state == "open":
            assert answers_of(ring, 9) == [9]
        else:
            with pytest.raises(rings.RingClosed):
                ring.submit()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ring.close()
        assert (answers, len(table)) == ([-errno.ECANCELED], 0), number
        number += 1
        if sys.implementation.name != "cpython" and not number % 8:  # a collection takes longer than a round
            del ring, table
            gc.collect()  # PyPy's mappings own copies of the descriptor, and each costs the next ring calls
    assert states == {"open", "broken"}


def test_kernel_refuses_to_resize_then_the_ring_goes_on():
    with resizable() as ring:
        with pytest.raises(OSError, match="Invalid argument"):
            register.resize_rings(ring, 1 << 20)
        assert ring.state == "open"
        assert answers_of(ring, 9) == [9]


def test_ring_without_a_descriptor_when_resized_then_refused_before_anything_moves():
    with resizable() as ring:
        register.register_ring_fd(ring)
        ring.close_fd()
        with pytest.raises(ValueError, match="no descriptor"):
            register.resize_rings(ring, 32)
        assert answers_of(ring, 9) == [9]


@pytest.mark.unwatched("debug mode makes additional calls")
@pytest.mark.parametrize("flags", [0, uapi.IORING_SETUP_NO_MMAP], ids=["mapped", "in memory of ours"])
@pytest.mark.long
def test_handler_raises_at_any_call_of_close_then_the_next_close_ends_it(flags):
    def close_interrupted(number: int) -> bool:
        ring = make("NO_MMAP") if flags else rings.Ring(4)
        ops.prep_nop(ring.get_sqe(), 1)
        fd = ring.fileno()
        with contextlib.suppress(OSError):
            register.register_ring_fd(ring)
        raised = strike_at_call(number, ring.close)
        ring.close()
        assert ring.state == "closed"
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
        return raised

    # Each in a new thread, whose end frees the index that could not be returned.
    numbers = itertools.count()
    while in_a_thread(lambda: close_interrupted(next(numbers))):
        pass
    assert next(numbers) > 10


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # in a freed generator
def test_handler_raises_when_a_ring_was_enabled_then_the_next_enable_goes_on():
    with make("R_DISABLED", "SINGLE_ISSUER") as ring:
        number = 0
        while ring.flags & uapi.IORING_SETUP_R_DISABLED:
            strike_at_call(number, ring.enable)
            number += 1
        assert number > 1
        assert answers_of(ring, 1) == [1]
        with pytest.raises(OSError, match="bad state"):
            ring.enable()


def test_memory_for_a_ring_is_too_small_then_refused():
    page = mmap.PAGESIZE
    make("NO_MMAP").close()
    for rings_size, sqes_size in ((page, 64 * page), (64 * page, page)):
        with mmap.mmap(-1, rings_size) as first, mmap.mmap(-1, sqes_size) as second:
            with pytest.raises(ValueError, match="are too few"):
                rings.Ring(1024, memory=(first, second))
            gc.collect()


def test_handler_raises_when_buffers_were_registered_then_the_ring_holds_them(monkeypatch):
    with rings.Ring(4) as ring:
        memory = buffers.allocate(4096)

        def strike(*arguments):
            raise Struck

        with monkeypatch.context() as patch:
            patch.setattr(register, "_keep_buffers", strike)
            with pytest.raises(Struck):
                register.register_buffers(ring, [memory])
        held = [pin for each in ring.resources.values() for pins in each for pin in pins]
        assert [pin.nbytes for pin in held] == [4096]
        with pytest.raises(OSError, match="already registered"):
            register.register_buffers(ring, [memory])
        assert len(ring.resources) == 1  # memory that the kernel rejected is not held


def test_handler_raises_when_a_timeout_is_queued_then_the_next_wait_ends(monkeypatch):
    with rings.Ring(4) as ring:
        ring.features &= ~uapi.IORING_FEAT_EXT_ARG  # as before 5.11

        def strike(sqe):
            raise Struck

        with monkeypatch.context() as patch:
            patch.setattr(rings.SubmissionQueue, "put", lambda self, sqe: strike(sqe))
            with pytest.raises(Struck):
                ring.submit_and_wait(1, 60_000_000_000)  # not over before the TIMEOUT is queued
        ring.submit_and_wait(1, 1_000_000)
        assert ring.reap() == []


@pytest.mark.parametrize("why", ["its request completed first", "a signal handler raised"])
def test_earlier_wait_has_left_its_timeout_then_the_next_ends_at_its_own(monkeypatch, why):
    """On 5.10 the first is usual: a poll of a ready file completes before the batch's next SQE begins."""
    long_ns = 20_000_000_000
    with rings.Ring(4) as ring:
        ring.features &= ~uapi.IORING_FEAT_EXT_ARG  # as before 5.11
        ring._quick = False
        before = time.monotonic_ns()
        put, enter = rings.SubmissionQueue.put, ring._call
        with monkeypatch.context() as patch:
            if why == "a signal handler raised":

                def interrupted(fd, to_submit, min_complete, flags, timeout=None):
                    enter(fd, to_submit, 0, flags, timeout)
                    raise Struck

                patch.setattr(ring, "_call", interrupted)
                with pytest.raises(Struck):
                    ring.submit_and_wait(1, long_ns)
            else:
                ops.prep_nop(ring.get_sqe(), 1)
                patch.setattr(rings.SubmissionQueue, "put", lambda sq, sqe: (ring.submit(), put(sq, sqe)))
                ring.submit_and_wait(1, long_ns)
                assert [cqe[0] for cqe in ring.reap()] == [1]
        for _ in range(3):
            ring.submit_and_wait(1, 1_000_000)
            assert ring.reap() == []
        ops.prep_nop(ring.get_sqe(), 2)
        ring.submit_and_wait(2, 1_000_000)  # the CQE ends what the first wait has left
        assert [cqe[0] for cqe in ring.reap()] == [2]
        assert time.monotonic_ns() - before < long_ns


def test_timeout_of_a_wait_was_not_sent_then_discard_names_the_requests_of_the_program(monkeypatch):
    with rings.Ring(4) as ring:
        ring.features &= ~uapi.IORING_FEAT_EXT_ARG  # as before 5.11
        ops.prep_nop(ring.get_sqe(), 1)

        def fail(*arguments):
            raise OSError(errno.EAGAIN, "no memory")

        with monkeypatch.context() as patch:
            patch.setattr(ring, "_call", fail)
            with pytest.raises(OSError, match="no memory"):
                ring.submit_and_wait(1, 60_000_000_000)
        assert ring.discard() == [1]
        assert ring.sq.pending() == 0


# -- one fault does not affect the others


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_descriptor_of_one_ring_is_gone_then_a_forked_child_disowns_the_others():
    several = [rings.Ring(4) for _ in range(5)]
    try:
        for bad in several[:-1]:
            os.close(bad.fileno())
        pid = os.fork()
        if not pid:
            os._exit(sum(ring.state != "forked" for ring in several))
        assert os.waitpid(pid, 0)[1] == 0
        assert answers_of(several[-1], 1) == [1]
    finally:
        for ring in several:
            with contextlib.suppress(OSError):
                ring.close()


def test_descriptor_of_one_ring_is_gone_then_the_others_are_drained_at_exit():
    code = (
        "import os, warnings; warnings.simplefilter('ignore')\n"
        "from rawuring import Ring, InFlight, ops\n"
        "several = [Ring(4) for _ in range(6)]\n"
        "for ring in several:\n"
        "    ring.before_close.append(lambda ring, explicit: print('drained', flush=True))\n"
        "for ring in several[:-1]:\n"
        "    os.close(ring.fileno())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
        env={**os.environ, "RAWURING_DEBUG": ""},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "drained\n" * 6, "")


def test_one_of_many_raises_then_the_rest_are_called_and_the_last_exception_has_the_others_as_context():
    called = []

    def call(number: int) -> None:
        called.append(number)
        if number in (1, 3):
            raise ValueError(number)

    with pytest.raises(ValueError, match="3") as caught:
        rings.call_all(functools.partial(call, number) for number in range(5))
    assert (called, str(caught.value.__context__)) == ([0, 1, 2, 3, 4], "1")
    with pytest.raises(ValueError, match="3") as caught:  # noqa: PT012 - as close() in a finally clause
        try:
            raise LookupError("outer")
        finally:
            rings.call_all(functools.partial(call, number) for number in range(5))
    first = caught.value.__context__
    assert (str(first), repr(first.__context__)) == ("1", "LookupError('outer')")


def test_handlers_raise_while_closing_then_those_behind_them_run():
    called = []

    def handler(number: int) -> None:
        called.append(number)
        raise ValueError(number)

    ring = rings.Ring(8)
    table = InFlight(ring)
    for number in range(4):
        table.start(ops.prep_nop, handler=lambda res, flags, number=number: handler(number))
    ring.submit()
    with pytest.raises(ValueError, match="3"):
        ring.close()
    assert (called, ring.state) == ([0, 1, 2, 3], "closed")


@pytest.mark.filterwarnings("ignore:held, and never submitted:ResourceWarning")  # as debug mode warns
def test_held_and_never_submitted_then_close_neither_waits_nor_warns(monkeypatch):
    with rings.Ring(8) as ring:
        table, target = InFlight(ring), buffers.pin(buffers.allocate(64), writable=True)
        for _ in range(20):  # more than the ring has slots
            table.hold(None, target)
        ring.get_sqe()  # whose prep function raised
        monkeypatch.setattr(inflight, "_immortalize", lambda memory: pytest.fail("kept forever"))
        table.close(timeout_ns=600_000_000_000)
        assert len(table) == 0


@pytest.mark.filterwarnings("ignore:held, and never submitted:ResourceWarning")
def test_completions_were_lost_then_close_does_not_wait_for_them():
    with rings.Ring(8) as ring:
        table = InFlight(ring)
        for _ in range(3):
            table.start(ops.prep_nop)
        ring.submit_and_wait(3)
        ring.reap()  # and never dispatched
        table.close(timeout_ns=600_000_000_000)
        assert len(table) == 0


@pytest.mark.parametrize("before_511", [False, True])
@pytest.mark.parametrize("why", ["nothing finds it", "cancellations wait behind a request with IO_DRAIN"])
def test_request_cannot_be_ended_then_close_keeps_its_time_and_the_memory(
    monkeypatch, read_end, why, before_511
):
    """-ENOENT alone proves nothing: a cancellation of direct I/O in flight completes with it, too."""
    with rings.Ring(8) as ring:
        if before_511:  # there a TIMEOUT ends a wait, and also waits behind such a request
            ring.features &= ~uapi.IORING_FEAT_EXT_ARG
        table, answers = read_in_flight(ring, read_end)
        if "DRAIN" in why:
            table.start(ops.prep_nop, flags=uapi.IOSQE_IO_DRAIN)
            ring.submit()
        else:
            cancel = inflight.prep_cancel64
            # The cancellations name a request that does not exist, as if the kernel could not find this one.
            monkeypatch.setattr(
                inflight, "prep_cancel64", lambda sqe, _, flags, user_data=0: cancel(sqe, 1, 0, user_data)
            )
        monkeypatch.setattr(inflight, "_immortalize", lambda memory: None)
        kept: list = []
        monkeypatch.setattr(inflight, "_kept", kept)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            table.close(timeout_ns=300_000_000)
        if "DRAIN" in why and answers:
            return  # 5.10.46 still cancels it
        assert ["could not be ended" in str(each.message) for each in said] == [True]
        assert len(kept) == 1


@pytest.mark.skipif(not hasattr(sys, "getrefcount"), reason="counts references")
@pytest.mark.unwatched("debug mode has additional references")
def test_tables_are_made_and_forgotten_then_freed_and_the_others_stay(read_end):
    with rings.Ring(8) as ring:
        used, answers = read_in_flight(ring, read_end)
        del used
        empty = InFlight(ring)
        method = InFlight(ring).dispatch
        for _ in range(1000):
            InFlight(ring)
        assert [each.__self__ for each in ring.before_close][1:3] == [empty, method.__self__]
        assert len(ring.before_close) <= 4
        ring.close()
    assert answers in ([-errno.ECANCELED], [-errno.EINTR])  # on 5.10 a worker reads from pipes


@pytest.mark.filterwarnings("ignore:held, and never submitted:ResourceWarning")  # by another table
def test_ring_has_thousands_of_tables_then_close_drains_them_all():
    ring = rings.Ring(8)
    tables = [InFlight(ring) for _ in range(3000)]
    tables[0].start(ops.prep_nop)
    tables[-1].start(ops.prep_nop)
    ring.close()
    assert not any(tables)
    assert ring.before_close == []


# -- words


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        (("8",), {}, TypeError, "entries must be an int, not str"),
        ((8.0,), {}, TypeError, "entries must be an int, not float"),
        ((True,), {}, TypeError, "entries must be an int, not bool"),
        ((None,), {}, TypeError, "entries must be an int, not NoneType"),
        ((8,), {"flags": "SQPOLL"}, TypeError, r"flags must be a mask of IORING_SETUP_\*, not str: 'SQPOLL'"),
        ((8,), {"wish": ["SQPOLL"]}, TypeError, r"wish must be a mask of IORING_SETUP_\*, not list"),
        ((8,), {"flags": -1}, ValueError, "flags=-1"),
        ((8,), {"wish": 1 << 32}, ValueError, "wish=4294967296"),
        ((8,), {"cq_entries": 16.0}, TypeError, "cq_entries must be an int, not float"),
        ((8,), {"min_entries": "4"}, TypeError, "min_entries must be an int, not str"),
        ((8,), {"sq_thread_cpu": 1.0}, TypeError, "sq_thread_cpu must be an int"),
        ((8,), {"sq_thread_idle_ms": 0.5}, TypeError, "sq_thread_idle_ms must be an int"),
        ((8,), {"sq_thread_idle_ms": -1}, ValueError, "sq_thread_idle_ms=-1"),
        ((8,), {"wq_fd": "5"}, TypeError, "wq_fd must be a descriptor, not str"),
        ((8,), {"wq_fd": -1}, ValueError, "wq_fd=-1"),
        ((8,), {"memory": b"x"}, TypeError, "memory must be a pair of buffers"),
        ((8,), {"flags": uapi.IORING_SETUP_CQSIZE}, ValueError, "IORING_SETUP_CQSIZE needs cq_entries"),
        ((8,), {"flags": uapi.IORING_SETUP_ATTACH_WQ}, ValueError, "IORING_SETUP_ATTACH_WQ needs wq_fd"),
        ((8,), {"wish": uapi.IORING_SETUP_CQSIZE}, ValueError, "IORING_SETUP_CQSIZE needs cq_entries"),
    ],
)
def test_argument_of_a_ring_is_wrong_then_it_is_named(arguments, options, error, words):
    with pytest.raises(error, match=words):
        rings.Ring(*arguments, **options)


def test_descriptor_was_closed_then_repr_shows_the_index():
    with without_descriptor() as ring:
        assert f"<Ring index={ring._enter_fd} sq=8 " in repr(ring)


def test_every_finalizer_of_an_object_that_was_never_made_then_silent():
    # A constructor that raises leaves such an object, and Python calls its finalizer.
    rings_, monitors = (rings.Ring, handle._Thread, debug.WatchedRing), (fdmon.PollFDMon, fdmon.IoUringFDMon)
    for kind in (*rings_, *monitors, IoUringSelector):
        kind.__new__(kind).__del__()


@pytest.mark.parametrize(
    ("target", "stderr"), [("", "2>&-"), ("/nonexistent/log", ""), ("/dev/full", "")]
)
def test_debug_mode_has_nowhere_to_write_then_the_program_works_the_same(target, stderr):
    code = (
        "from rawuring import Ring, InFlight, ops\n"
        "with Ring(4) as ring:\n"
        "    table = InFlight(ring)\n"
        "    table.start(ops.prep_nop, handler=lambda res, flags: print('res', res))\n"
        "    ring.submit_and_wait(1)\n"
        "    table.dispatch(ring.reap())\n"
    )
    env = {**os.environ, "RAWURING_DEBUG": "1", "RAWURING_DEBUG_LOG": target}
    done = subprocess.run(
        ["sh", "-c", f'"$0" -W error -c "$1" {stderr}', sys.executable, code], env=env, capture_output=True,
        text=True, check=False, cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "res 0\n", "")


def test_submit_was_forgotten_in_debug_mode_then_close_says_what_is_dropped(monkeypatch):
    monkeypatch.setenv("RAWURING_DEBUG", "1")
    monkeypatch.setenv("RAWURING_DEBUG_LOG", "-")
    ring = rings.Ring(4)
    ops.prep_nop(ring.get_sqe(), 77)
    with pytest.warns(ResourceWarning, match="1 SQEs were queued and never submitted.*nop user_data=77"):
        ring.close()


def test_fork_while_another_thread_has_a_lock_of_ours_then_the_child_needs_none_of_its(monkeypatch):
    """Free-threaded Python: each dictionary has a lock, and its holder's thread is not in the child."""

    class Locked(dict):
        def get(self, key):
            raise AssertionError("would wait forever")

    rings.Ring(2).close()  # which registers the fork() handlers
    monkeypatch.setattr(syscalls, "_array_types", Locked())
    pid = os.fork()
    if not pid:
        code = 1
        try:
            buffers.ints([1, 2, 3])
            with rings.Ring(2) as ring:
                ops.prep_nop(ring.get_sqe(), 7)
                ring.submit_and_wait(1)
                code = 0 if [cqe[0] for cqe in ring.reap()] == [7] else 2
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
