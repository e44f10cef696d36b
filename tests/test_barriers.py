# SPDX-License-Identifier: MIT
"""Barriers and words: every implementation gives the same words, and none is visible half-written."""

from __future__ import annotations

import struct
import sys

import pytest
from hypothesis import given, strategies as st

from rawuring import barriers, ops, rings, syscalls, uapi
from rawuring.fakekernel import fake_ring

WORD = st.integers(0, 2**32 - 1)


def kinds():
    yield "lock", barriers._lock_fence
    yield "none", barriers._no_fence
    for make in (
        barriers._libatomic_fence,
        lambda: barriers._stub_fence(syscalls.abi()),
        barriers._membarrier_fence,
    ):
        found = make()
        if found is not None:
            yield found


@pytest.mark.parametrize(("kind", "fence"), list(kinds()), ids=[kind for kind, _ in kinds()])
def test_every_fence_that_can_be_had_here_then_callable_again_and_again(kind, fence):
    for _ in range(1000):
        fence()


def test_fence_kind_then_one_of_those_explained():
    assert barriers.fence_kind() in ("lock", "libatomic", "stub", "membarrier", "none")
    assert barriers.ordered() == (barriers.fence_kind() != "none")
    barriers.full_fence()


@pytest.mark.parametrize("abi", ["riscv64", "toaster"])
def test_machine_without_a_lock_fence_then_something_else_or_none(monkeypatch, abi):
    monkeypatch.setattr(barriers, "_chosen", None)
    monkeypatch.setattr(barriers, "_fence", barriers._first_fence)
    monkeypatch.setattr(syscalls, "abi", lambda: abi)
    monkeypatch.setattr(barriers, "_libatomic", lambda: None)
    monkeypatch.setattr(barriers, "_executable", lambda code: 0)
    monkeypatch.setattr(barriers, "_membarrier_fence", lambda: None)
    assert barriers.fence_kind() == "none"
    assert not barriers.ordered()
    barriers.full_fence()


def word_classes():
    yield "native", barriers.map_words
    yield "bytewise", barriers._BytewiseWords
    libatomic = barriers._libatomic() if sys.platform.startswith("linux") else None
    if libatomic is not None:
        yield "libatomic", lambda memory: barriers._AtomicWords(memory, libatomic)


@pytest.mark.parametrize(("kind", "make"), list(word_classes()), ids=[kind for kind, _ in word_classes()])
@given(value=WORD, before=WORD)
def test_words_then_whole_and_at_their_place(kind, make, value, before):
    from rawuring.buffers import allocate

    memory = allocate(64)
    memory[:16] = struct.pack("=4I", 1, before, 3, 4)
    words = make(memory)
    assert barriers.load_acquire(words, 1) == before
    barriers.store_release(words, 1, value)
    assert words[1] == value
    assert struct.unpack("=4I", memory[:16]) == (1, value, 3, 4)
    barriers.release_words(words)


@given(old=WORD, step=st.integers(0, 65536))  # a CQ has no more entries
def test_bytewise_store_then_no_value_ahead_of_the_new_one(old, step):
    new = (old + step) & 0xFFFFFFFF
    memory = bytearray(struct.pack("=I", old))
    seen = []

    class Bytes:
        def __setitem__(self, index: int, value: int) -> None:
            memory[index] = value
            seen.append(struct.unpack("=I", memory)[0])

    words = barriers._BytewiseWords(bytearray(4))
    words._bytes = Bytes()
    words[0] = new
    assert seen[-1] == new
    for value in seen:  # before the new value or equal to it, modulo the wrap
        assert (new - value) & 0xFFFFFFFF < 2**31


def test_bytewise_load_while_the_word_changes_then_a_value_it_had():
    words = barriers._BytewiseWords(bytearray(4))
    reads = iter([0x01FF, 0x0100, 0x0100])  # the first is torn: half of 0x00ff, half of 0x0100
    words._words = type("Torn", (), {"__getitem__": lambda self, index: next(reads)})()
    assert words[0] == 0x0100


def test_no_fence_at_all_then_every_reap_enters_the_kernel_and_sqpoll_is_refused(monkeypatch):
    monkeypatch.setattr(barriers, "ordered", lambda: False)
    with pytest.raises(ValueError, match="fence"):
        rings.Ring(2, flags=uapi.IORING_SETUP_SQPOLL)
    with fake_ring(entries=4) as (kernel, ring):
        ops.prep_nop(ring.get_sqe(), 1)
        ring.submit()
        before = kernel.enters
        assert ring.reap() == [(1, 0, 0)]
        assert kernel.enters == before + 1
