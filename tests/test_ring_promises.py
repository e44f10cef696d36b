# SPDX-License-Identifier: MIT
"""A ring in trouble: nobody wakes, an index is another thread's, a change half done, one of many bad."""

from __future__ import annotations

import collections
import errno
import os
import select

import pytest
from driver import need_ring

from rawuring import buffers, ops, register, rings, syscalls, uapi

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
            os.write(w, b"x")  # task work is waiting, and a CQE is there
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
