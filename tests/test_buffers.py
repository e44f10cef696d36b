# SPDX-License-Identifier: MIT
"""Pinning memory: the address is right, the memory stays, and what could move is refused."""

from __future__ import annotations

import array
import ctypes
import mmap
import struct
import sys

import pytest

from rawuring import buffers, uapi

PYPY = sys.implementation.name == "pypy"
needs_cpython = pytest.mark.skipif(PYPY, reason="PyPy may move such memory")


def peek(pin: buffers.Pin) -> bytes:
    return ctypes.string_at(pin.address, pin.nbytes)


@pytest.mark.parametrize(
    "memory",
    [
        b"bytes",
        pytest.param(bytearray(b"bytearray"), marks=needs_cpython),
        pytest.param(array.array("i", [1, 2, 3]), marks=needs_cpython),
        pytest.param(memoryview(bytearray(b"0123456789"))[2:7], marks=needs_cpython),
        pytest.param(memoryview(b"read-only")[1:5], marks=needs_cpython),
        (ctypes.c_char * 5)(*b"ctype"),
    ],
    ids=lambda memory: type(memory).__name__,
)
def test_pin_then_the_address_holds_the_bytes(memory):
    assert peek(buffers.pin(memory)) == memoryview(memory).tobytes()


def test_pin_mmap_then_a_write_through_the_address_shows():
    memory = buffers.allocate(8192)
    pin = buffers.pin(memory, writable=True)
    assert pin.address % mmap.PAGESIZE == 0
    ctypes.memset(pin.address + 5000, 7, 1)
    assert memory[5000] == 7


def test_pin_read_only_for_writing_then_type_error():
    with pytest.raises(TypeError, match="read-only bytes"):
        buffers.pin(b"abc", writable=True)


def test_pin_empty_then_no_address():
    pin = buffers.pin(b"")
    assert (pin.address, pin.nbytes) == (0, 0)


def test_pin_in_pieces_then_buffer_error():
    with pytest.raises(BufferError, match="contiguous"):
        buffers.pin(memoryview(b"abcdef")[::2])


def test_pin_without_a_buffer_then_type_error():
    with pytest.raises(TypeError):
        buffers.pin("text")


@needs_cpython
def test_pinned_bytearray_then_cannot_be_resized_until_the_pin_goes():
    memory = bytearray(10)
    pin = buffers.pin(memory, writable=True)
    for change in (lambda: memory.append(1), memory.clear, lambda: memory.extend(b"12")):
        with pytest.raises(BufferError):
            change()
    del pin
    memory.clear()


@pytest.mark.skipif(not PYPY, reason="only PyPy moves memory")
def test_bytearray_on_pypy_then_refused_with_advice():
    with pytest.raises(TypeError, match="allocate"):
        buffers.pin(bytearray(10))


@pytest.mark.parametrize("ns", [0, 1, 999_999_999, 1_000_000_000, 12_345_678_901])
def test_timespec_then_seconds_and_nanoseconds(ns):
    pin = buffers.timespec(ns)
    assert pin.nbytes == uapi.__dict__["__kernel_timespec"].size
    assert struct.unpack("=qq", peek(pin)) == divmod(ns, 1_000_000_000)


def test_negative_timespec_then_value_error():
    with pytest.raises(ValueError, match="negative"):
        buffers.timespec(-1)
