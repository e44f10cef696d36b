# SPDX-License-Identifier: MIT
"""Descriptors: closed, reused, duplicated, passed, half shut, very many, and changed at random."""

from __future__ import annotations

import faulthandler
import importlib.util
import os
import random
import selectors
import socket
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
from harness import ROOT, check_child, figures, run_child
from strategies import selector_of

from rawuring import fdmon, selector

pytestmark = pytest.mark.requires_io_uring

#: How many random changes each strategy goes through; RAWURING_CHURN=1000000 for the full size.
CHURN = int(os.environ.get("RAWURING_CHURN", "1500"))


def strategies():
    return [name for name in selector.STRATEGIES if name.startswith("io_uring:")]


@pytest.fixture(params=strategies())
def chosen(request):
    made = selector_of(request.param)
    yield made
    made.close()


def ready(chosen, timeout=0):
    return {(key.fd, events) for key, events in chosen.select(timeout)}


def both(chosen, change):
    """Do the same to an EpollSelector, and compare."""
    oracle = selectors.EpollSelector()
    try:
        yield from ((each, change(each)) for each in (chosen, oracle))
    finally:
        oracle.close()


def test_closed_while_watched_then_silent_as_epoll_is(chosen, pair):
    one, two = pair
    chosen.register(one, selectors.EVENT_READ)
    assert ready(chosen) == set()
    two.send(b"x")
    assert ready(chosen) == {(one.fileno(), 1)}
    fd = one.fileno()
    one.close()
    if chosen.backend != "io_uring:poll_add":  # which keeps a closed file open, as documented
        assert ready(chosen) == set()
    chosen.unregister(fd)
    assert ready(chosen) == set()


def test_number_used_again_at_once_then_events_of_the_new_file_only(chosen):
    for _ in range(50):
        one, two = socket.socketpair()
        chosen.register(one, selectors.EVENT_READ)
        two.send(b"x")
        assert ready(chosen) == {(one.fileno(), 1)}
        fd = one.fileno()
        chosen.unregister(one)
        one.close()
        again, peer = socket.socketpair()
        assert fd == again.fileno()  # the very same number
        chosen.register(fd, selectors.EVENT_READ)
        assert ready(chosen) == set()
        peer.send(b"y")
        assert ready(chosen) == {(fd, 1)}
        chosen.unregister(fd)
        for each in (two, again, peer):
            each.close()
        figures["numbers used again"] += 1


def test_copied_then_each_number_its_own(chosen, pair):
    one, two = pair
    copy = os.dup(one.fileno())
    try:
        chosen.register(one, selectors.EVENT_READ)
        chosen.register(copy, selectors.EVENT_WRITE)
        two.send(b"x")
        assert ready(chosen) == {(one.fileno(), 1), (copy, 2)}
        chosen.unregister(copy)
        os.close(copy)
        assert ready(chosen) == {(one.fileno(), 1)}
    finally:
        if copy in chosen.get_map():
            chosen.unregister(copy)
            os.close(copy)


def test_passed_to_ourselves_over_a_socket_then_it_works_after_the_original_is_gone(chosen, pair):
    one, two = pair
    r, w = os.pipe()
    socket_message = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, r.to_bytes(4, sys.byteorder))]
    one.sendmsg([b"."], socket_message)
    os.close(r)
    _, ancillary, _, _ = two.recvmsg(1, 64)
    passed = int.from_bytes(ancillary[0][2][:4], sys.byteorder)
    chosen.register(passed, selectors.EVENT_READ)
    assert ready(chosen) == set()
    os.write(w, b"x")
    assert ready(chosen) == {(passed, 1)}
    chosen.unregister(passed)
    os.close(passed)
    os.close(w)


@pytest.mark.parametrize("how", [socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR])
@pytest.mark.parametrize("events", [1, 2, 3])
@pytest.mark.parametrize("side", [0, 1])
def test_half_shut_then_the_answer_is_epolls(chosen, pair, how, events, side):
    pair[side].shutdown(how)
    oracle = selectors.EpollSelector()
    for each in (chosen, oracle):
        each.register(pair[0], events)
    assert ready(chosen) == ready(oracle)
    pair[1].close()
    assert ready(chosen) == ready(oracle)
    oracle.close()
    figures["events compared"] += 2


@pytest.mark.long
def test_twenty_thousand_descriptors_then_each_is_watched():
    """Both ends of socket pairs; fewer if the limit requires it."""
    script = """
        import os, resource, socket, sys, warnings
        from rawuring import fdmon, selector
        warnings.simplefilter("error")
        wanted = 20_000 + 100
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft == resource.RLIM_INFINITY or soft >= wanted:
            limit = wanted
        else:
            limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))
                limit = wanted
            except (ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        pairs = []
        for _ in range((limit - 100) // 2):
            one, two = socket.socketpair()
            pairs.append((one.detach(), two.detach()))
        fds = [fd for pair in pairs for fd in pair]
        monitor = fdmon.IoUringFDMon()
        nodes = [monitor.add(fd, 1) for fd in fds]
        assert monitor.wait(0) == []
        chosen = pairs[::97]
        for one, two in chosen:
            os.write(two, b"x")
        expected = {one for one, _ in chosen}
        found = {node.fd for node, _ in monitor.wait(0)}
        assert found == expected, len(found ^ expected)
        for node in nodes:
            monitor.remove(node)
        assert monitor.wait(0) == []
        monitor.destroy()
        with selector.IoUringSelector(trusting=True) as watching:
            for fd in fds:
                watching.register(fd, 1)
            assert {key.fd for key, _ in watching.select(0)} == expected
            for fd in fds:
                watching.unregister(fd)
            assert watching.select(0) == []
        os.closerange(fds[0], fds[-1] + 1)
        print(len(fds))
        """
    count = int(check_child(run_child(script, timeout=120)))
    assert count >= 400
    figures["descriptors at once"] = max(figures["descriptors at once"], count)


# ------------------------------------------------------------------------------------------------------
# Random churn against an oracle


def soak_module():
    spec = importlib.util.spec_from_file_location("soak", ROOT / "tools" / "soak.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["soak"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def patience():
    """Switch pytest's watchdog off for long runs: its look at a running thread crashed CPython 3.13.0."""
    if CHURN > 100_000:
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="module")
def soak():
    module = soak_module()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        yield module, module.Soak(9, Path(folder))


@pytest.mark.parametrize("name", strategies())
def test_random_changes_of_a_selector_then_every_answer_is_epolls(soak, patience, name):
    module, shared = soak
    selector_of(name).close()
    worker = module.SelectorChurn(shared, 1)
    worker.begin()
    worker.names = [name]
    before = shared.figures["changes"]
    while shared.figures["changes"] - before < CHURN:
        worker.step()
    figures["random changes"] += shared.figures["changes"] - before


def test_random_changes_of_a_monitor_then_every_answer_is_polls(soak, patience):
    module, shared = soak
    worker = module.MonitorChurn(shared, 2)
    worker.begin()
    before = shared.figures["changes"]
    while shared.figures["changes"] - before < CHURN:
        worker.step()
    figures["random changes"] += shared.figures["changes"] - before
    figures["events compared"] += shared.figures["events_compared"]


def test_registered_and_closed_without_a_word_then_no_other_handler_suffers():
    """Descriptors are closed at random while they are watched; open ones must still be reported."""
    chance = random.Random(4)
    with fdmon.IoUringFDMon() as monitor:
        living = {}
        for _ in range(400):
            one, two = socket.socketpair()
            fd = one.fileno()
            old = living.pop(fd, None)
            if old is not None:
                monitor.remove(old[0])
            living[fd] = monitor.add(fd, 1), one, two
            if len(living) > 20:
                fd = chance.choice(list(living))
                node, one, two = living.pop(fd)
                if chance.random() < 0.5:
                    one.close()  # before it is removed
                    monitor.wait(0)
                monitor.remove(node)
                one.close()
                two.close()
            fd = chance.choice(list(living))
            living[fd][2].send(b"x")
            assert fd in {node.fd for node, _ in monitor.wait(0)}
            living[fd][1].recv(100)
            assert fd not in {node.fd for node, _ in monitor.wait(0)}
            figures["random changes"] += 1
        for _, one, two in living.values():
            one.close()
            two.close()
