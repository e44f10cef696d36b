# SPDX-License-Identifier: MIT
"""prep_*: byte for byte what liburing's helpers write, whatever was in the slot before."""

from __future__ import annotations

import ast
import json
import struct
import sys
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from rawuring import ops, uapi

DATA = json.loads((Path(__file__).parent / "data" / "sqe_vectors.json").read_text())
USER_DATA = int(DATA["user_data"], 0)
HAVE = {name for name in vars(ops) if name.startswith("prep_")}
# This version's operations; the others come with the whole kernel interface.
PREPARED = [vector for vector in DATA["vectors"] if vector["helper"][len("io_uring_") :] in HAVE]
little = pytest.mark.skipif(sys.byteorder == "big", reason="the vectors are from a little-endian machine")
SIZES = {"s32": (-(2**31), 2**31 - 1), "u32": (0, 2**32 - 1), "u64": (0, 2**64 - 1)}


def number(value: object) -> int:
    return int(value, 0) if isinstance(value, str) else int(value)


def fits(vector: dict) -> bool:
    """Tell whether every argument fits its field; C wraps the others silently, we refuse them."""
    values = [number(vector["args"][name]) for name in vector["arg_order"]]
    names = list(vector["arg_order"])
    return "truncates" not in vector and all(
        value >= 0 or name in ("fd", "offset", "file_index") for name, value in zip(names, values)
    )


@little
@pytest.mark.parametrize("before", [b"\0", b"\xff", b"\xa5"], ids=["zeros", "ones", "mixed"])
@pytest.mark.parametrize("vector", PREPARED, ids=lambda v: v["helper"][len("io_uring_prep_") :])
def test_same_bytes_as_liburing(vector, before):
    function = getattr(ops, vector["helper"][len("io_uring_") :])
    sqe = bytearray(before * 64)
    arguments = [number(vector["args"][name]) for name in vector["arg_order"]]
    if not fits(vector):
        with pytest.raises((struct.error, ValueError, OverflowError)):
            function(sqe, *arguments, USER_DATA)
        return
    function(sqe, *arguments, USER_DATA)
    assert sqe.hex() == vector["sqe"][:128]


def test_enough_was_compared():
    assert len(PREPARED) >= 40
    assert {
        "prep_nop",
        "prep_poll_add",
        "prep_poll_remove",
        "prep_poll_update",
        "prep_timeout",
        "prep_read",
    } <= HAVE
    assert {"prep_timeout_remove", "prep_timeout_update", "prep_write", "prep_cancel64"} <= HAVE


def test_each_function_packs_once():
    tree = ast.parse(Path(ops.__file__).read_text())
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("prep_"):
            calls = [call for call in ast.walk(node) if isinstance(call, ast.Call)]
            names = [call.func.id for call in calls if isinstance(call.func, ast.Name)]
            packs = [name for name in names if name.startswith("_pack")]
            assert len(packs) == 1, node.name


@pytest.mark.parametrize("name", sorted(HAVE))
def test_slot_too_small_or_read_only_then_an_error(name):
    function = getattr(ops, name)
    arguments = [1] * (function.__code__.co_argcount - 3)
    for sqe in (bytearray(63), memoryview(bytes(64))):
        with pytest.raises((struct.error, TypeError, ValueError, BufferError)):
            function(sqe, *arguments)


@given(
    fd=st.integers(-(2**31), 2**31 - 1), buf=st.integers(0, 2**64 - 1), nbytes=st.integers(0, 2**32 - 1),
    offset=st.integers(-1, 2**64 - 1), user_data=st.integers(0, 2**64 - 1), flags=st.integers(0, 255),
    rw_flags=st.integers(0, 2**32 - 1), before=st.binary(min_size=64, max_size=64),
)  # fmt: skip
def test_read_then_the_fields_say_what_was_asked(fd, buf, nbytes, offset, user_data, flags, rw_flags, before):
    sqe = bytearray(before)
    ops.prep_read(sqe, fd, buf, nbytes, offset, user_data, flags, rw_flags=rw_flags)
    fields = uapi.io_uring_sqe.unpack(sqe)
    expected = {
        "opcode": uapi.IORING_OP_READ,
        "flags": flags,
        "ioprio": 0,
        "fd": fd,
        "off": offset % 2**64,
        "addr": buf,
        "len": nbytes,
        "rw_flags": rw_flags,
        "user_data": user_data,
        "buf_index": 0,
        "personality": 0,
        "file_index": 0,
        "addr3": 0,
    }
    assert {name: fields[name] for name in expected} == expected
    assert bytes(sqe[56:]) == bytes(8)


@given(mask=st.integers(0, 2**32 - 1))
def test_poll_mask_on_a_big_endian_machine_then_halves_swapped(mask):
    old = ops._BIG_ENDIAN
    try:
        ops._BIG_ENDIAN = False
        assert ops.poll_mask(mask) == mask
        ops._BIG_ENDIAN = True
        swapped = ops.poll_mask(mask)
        assert (swapped & 0xFFFF, swapped >> 16) == (mask >> 16, mask & 0xFFFF)
    finally:
        ops._BIG_ENDIAN = old
