# SPDX-License-Identifier: MIT
"""prep_*: byte for byte the same as liburing's helpers write, whatever the slot contained before."""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import struct
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from rawuring import ops, uapi

DATA = json.loads((Path(__file__).parent / "data" / "sqe_vectors.json").read_text())
USER_DATA = int(DATA["user_data"], 0)
HAVE = {name for name in vars(ops) if name.startswith("prep_")}
little = pytest.mark.skipif(sys.byteorder == "big", reason="the vectors are from a little-endian machine")

# Our names that differ from liburing's without its prefix, and the reasons.
RENAMED = {
    "__io_uring_prep_uring_cmd": "prep_uring_cmd_op",  # prep_uring_cmd is taken
    "__io_uring_set_target_fixed_file": "set_target_fixed_file",
    "io_uring_initialize_sqe": "initialize_sqe",
}
# Helpers that change an SQE instead of filling one.
MODIFIERS = {name for name in DATA["helpers"] if "prep_" not in name} | {"io_uring_prep_send_set_addr"}

# In C -1 becomes slot 0, which means an ordinary descriptor: prep_close_direct() would close stdin.
NO_SLOT = {"__io_uring_set_target_fixed_file", "io_uring_prep_close_direct"}


def counterpart(helper: str):
    name = RENAMED.get(helper, helper[len("io_uring_") :])
    return getattr(ops, name, None)


def number(value: object) -> int:
    return int(value, 0) if isinstance(value, str) else int(value)


def numbers(call: dict) -> list[int]:
    return [number(call["args"][name]) for name in call["arg_order"]]


def odd(value: int) -> bool:
    """Tell whether C might change the sign of a 32-bit argument."""
    return value < 0 or 2**31 <= value < 2**32


def as_c_would(vector: dict) -> Iterator[list[int]]:
    """Yield the arguments with C's silent conversions made explicit: ours reject values that do not fit."""
    choices = []
    for name, value in zip(vector["arg_order"], numbers(vector)):
        if odd(value) or name in vector.get("truncates", ()):
            masks = (2**64 - 1, 2**32 - 1, 2**16 - 1, 2**8 - 1)
            choices.append([value, *(value & mask for mask in masks), value - 2**32])
        else:
            choices.append([value])
    for choice in itertools.product(*choices):
        yield list(choice)


def fill(vector: dict, arguments: list[int], before: bytes) -> bytes:
    """Return the SQE that our function writes into a slot with that content."""
    sqe = bytearray(before * (len(vector["sqe"]) // 2))
    function = counterpart(vector["helper"])
    if vector["helper"] in MODIFIERS:
        sqe[:] = bytes.fromhex(vector.get("fill", "00")) * 64
        struct.pack_into("=Q", sqe, 32, USER_DATA)
        for call in vector.get("before", ()):
            takes_user_data = call["helper"] not in MODIFIERS
            counterpart(call["helper"])(sqe, *numbers(call), *([USER_DATA] if takes_user_data else []))
        function(sqe, *arguments)
    else:
        # Most helpers keep flags that were set before; ours take them as an argument.
        kept = DATA["helpers"][vector["helper"]]["written"][2:4] == "00"
        before_it = vector.get("before", ()) if kept else ()
        flags = [call["args"]["flags"] for call in before_it if "set_flags" in call["helper"]]
        function(sqe, *arguments, USER_DATA, *flags)
    return bytes(sqe)


def same(vector: dict, sqe: bytes) -> bool:
    expected = bytes.fromhex(vector["sqe"])
    prepared_before = any(call["helper"] not in MODIFIERS for call in vector.get("before", ()))
    if prepared_before and vector["helper"] not in MODIFIERS:
        # liburing leaves remains of the slot's previous request; here nothing remains.
        decides = bytes.fromhex(DATA["helpers"][vector["helper"]]["written"])
        return all((a ^ b) & mask == 0 for a, b, mask in zip(expected, sqe, decides))
    return sqe[:64] == expected[:64]


@little
@pytest.mark.parametrize("before", [b"\0", b"\xff", b"\xa5"], ids=["zeros", "ones", "mixed"])
@pytest.mark.parametrize("vector", DATA["vectors"], ids=lambda v: v["helper"].replace("io_uring_", ""))
def test_same_bytes_as_liburing(vector, before):
    if counterpart(vector["helper"]) is None:
        pytest.fail(f"{vector['helper']} has no counterpart")
    wide = vector.get("truncates")
    try:
        sqe = fill(vector, numbers(vector), before)
    except (struct.error, ValueError, OverflowError):
        assert wide or any(map(odd, numbers(vector))), "a valid argument was rejected"
        for arguments in as_c_would(vector):
            try:
                sqe = fill(vector, arguments, before)
            except (struct.error, ValueError, OverflowError):
                continue
            if same(vector, sqe):
                return
        if vector["helper"] in NO_SLOT and wide:
            return
        raise
    assert not wide, f"{wide} should have been rejected, not truncated"
    assert same(vector, sqe), (sqe.hex(), vector["sqe"])


def test_every_helper_has_a_counterpart_with_the_same_number_of_arguments():
    missing = [helper for helper in DATA["helpers"] if counterpart(helper) is None]
    assert not missing
    assert len(DATA["helpers"]) == 111
    for helper, facts in DATA["helpers"].items():
        names = list(inspect.signature(counterpart(helper)).parameters)
        own = names[1 : len(facts["arg_order"]) + 1]
        assert names[0] == "sqe", helper
        assert len(own) == len(facts["arg_order"]), helper
        if helper not in MODIFIERS:
            assert names[len(own) + 1 : len(own) + 3] == ["user_data", "flags"], helper


def test_every_opcode_is_written_by_some_function():
    opcodes = {name: value for name, value in vars(uapi).items() if name.startswith("IORING_OP_")}
    del opcodes["IORING_OP_LAST"]
    written = set()
    for name in HAVE - {"prep_rw", "prep_uring_cmd_op", "prep_send_set_addr"}:
        function = getattr(ops, name)
        required = function.__code__.co_argcount - 1 - len(function.__defaults__ or ())
        sqe = bytearray(128)
        function(sqe, *[1] * required)
        written.add(sqe[0])
    assert written == set(opcodes.values())
    assert len(written) == 65


def test_each_function_packs_once():
    # The text from the loader, and the whole tree: a copy may be in a zip, or a section of one file.
    tree = ast.parse(inspect.getsource(ops))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert {node.name for node in functions} >= HAVE
    for node in functions:
        if node.name in HAVE - {"prep_send_set_addr"}:
            # One of two packs, if a flag chooses.
            fork = next((at for at in node.body if isinstance(at, ast.If) and packs_in(at.body)), None)
            if fork is None:
                assert packs_in(node.body) == 1, node.name
            else:
                assert packs_in(fork.body) == packs_in(fork.orelse) == 1, node.name
                assert packs_in(node.body) == 2, node.name


def packs_in(statements) -> int:
    calls = [call for each in statements for call in ast.walk(each) if isinstance(call, ast.Call)]
    names = [call.func.id for call in calls if isinstance(call.func, ast.Name)]
    return sum(name.startswith(("_pack", "pack_into", "prep_")) for name in names)


@pytest.mark.parametrize("flags", [256, -1, None, "1", 1.5, 1 << 64])
@pytest.mark.parametrize("name", ["prep_nop", "prep_poll_add"])
def test_flags_that_are_none_then_refused_and_otherwise_written(name, flags):
    """These two have two packs, between which the flags decide."""
    function, arguments = getattr(ops, name), [7, 1][: 2 * (name == "prep_poll_add")]
    with pytest.raises(struct.error):
        function(bytearray(64), *arguments, 9, flags)
    for good in (0, 1, 16, 255, False, True):
        sqe = bytearray(b"x" * 64)
        function(sqe, *arguments, 9, good)
        fields = uapi.io_uring_sqe.unpack(sqe)
        assert (fields["flags"], fields["user_data"]) == (good, 9)
        plain = bytearray(64)
        function(plain, *arguments, 9)
        plain[1] = good
        assert sqe == plain


@pytest.mark.parametrize("name", sorted(HAVE))
def test_slot_too_small_or_read_only_then_an_error(name):
    if name == "prep_send_set_addr":
        return  # it writes the middle only
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


FIELDS = [
    (ops.prep_cmd_sock, (3, 17, 1, 8, 0x1000, 4), {
        "cmd_op": 3, "fd": 17, "level": 1, "optname": 8, "optval": 0x1000, "optlen": 4, "__pad1": 0,
    }),
    (ops.prep_cmd_getsockname, (17, 0x1000, 0x2000, 1), {
        "cmd_op": uapi.SOCKET_URING_OP_GETSOCKNAME, "addr": 0x1000, "addr3": 0x2000, "optlen": 1, "__pad1": 0,
    }),
    (ops.prep_uring_cmd, (0x12345678, 5), {"cmd_op": 0x12345678, "fd": 5, "__pad1": 0}),
    (ops.prep_sendto, (5, 0x1000, 10, 1, 0x2000, 28), {
        "addr2": 0x2000, "addr_len": 28, "__pad3": (0,), "len": 10,
    }),
    (ops.prep_accept_direct, (5, 0, 0, 0, 7), {"file_index": 8}),
    (ops.prep_msg_ring_fd, (5, 3, uapi.IORING_FILE_INDEX_ALLOC, 9, 0), {
        "file_index": uapi.IORING_FILE_INDEX_ALLOC, "addr3": 3, "off": 9, "addr": 1,
    }),
    (ops.prep_splice, (6, -1, 7, 100, 50, 1), {
        "splice_fd_in": 6, "fd": 7, "splice_off_in": 2**64 - 1, "off": 100, "len": 50, "splice_flags": 1,
    }),
    (ops.prep_waitid, (1, 99, 0x1000, 4, 0), {"fd": 99, "len": 1, "addr2": 0x1000, "file_index": 4}),
    (ops.prep_read_multishot, (5, 0, -1, 3), {"buf_group": 3, "flags": uapi.IOSQE_BUFFER_SELECT}),
    (ops.prep_recv_zc, (5, 0, 2), {"zcrx_ifq_idx": 2, "ioprio": uapi.IORING_RECV_MULTISHOT}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("function", "arguments", "fields"), FIELDS, ids=lambda value: getattr(value, "__name__", "")
)
def test_fields_by_name_then_right_on_any_byte_order(function, arguments, fields):
    sqe = bytearray(b"\xff" * 64)
    function(sqe, *arguments)
    found = uapi.io_uring_sqe.unpack(sqe)
    assert {name: found[name] for name in fields} == fields


def test_set_fields_then_those_members_and_no_others():
    sqe = bytearray(64)
    ops.prep_nop(sqe, 5)
    ops.set_fields(sqe, personality=7, ioprio=8, addr_len=9, write_stream=0, user_data=6)
    found = uapi.io_uring_sqe.unpack(sqe)
    assert (found["personality"], found["ioprio"], found["user_data"]) == (7, 8, 6)
    before = bytes(sqe)
    for wrong in ({"nonsense": 1}, {"cmd": 1}):
        with pytest.raises(TypeError, match="no member"):
            ops.set_fields(sqe, **wrong)
    with pytest.raises(struct.error):
        ops.set_fields(sqe, personality=65536)
    assert bytes(sqe) == before


def test_command_that_is_too_long_then_value_error():
    with pytest.raises(ValueError, match="17 bytes does not fit into the 16"):
        ops.prep_uring_cmd(bytearray(64), 1, 2, cmd=bytes(17))
    sqe = bytearray(b"\xff" * 128)
    ops.prep_uring_cmd(sqe, 1, 2, cmd=b"x" * 80)
    assert sqe[48:] == b"x" * 80
    ops.prep_uring_cmd128(sqe, 1, 2, cmd=b"y")
    assert sqe[48:] == b"y" + bytes(79)
    with pytest.raises(ValueError, match="128 bytes, not 64"):
        ops.prep_uring_cmd128(bytearray(64), 1, 2)


def test_block_commands_then_numbered_as_this_machine_numbers_ioctls(monkeypatch):
    numbers = {"x86_64": 0x1200, "aarch64": 0x1200, "ppc64le": 0x20001200, "mips64": 0x20001200}
    for machine, number in numbers.items():
        uname = type("uname", (), {"machine": machine})
        monkeypatch.setattr(ops.os, "uname", lambda uname=uname: uname)
        sqe = bytearray(64)
        ops.prep_cmd_discard(sqe, 1, 0, 512)
        assert uapi.io_uring_sqe.unpack(sqe)["cmd_op"] == number


def test_prep_rw_then_every_field_where_the_header_has_it():
    sqe = bytearray(64)
    ops.prep_rw(
        sqe, 1, 2, 3, 4, -1, 6, 7, op_flags=8, ioprio=9, buf_index=10, personality=11, file_index=12
    )  # fmt: skip
    expected = uapi.io_uring_sqe.pack(
        opcode=1, fd=2, addr=3, len=4, off=2**64 - 1, user_data=6, flags=7, rw_flags=8, ioprio=9,
        buf_index=10, personality=11, file_index=12,
    )  # fmt: skip
    assert sqe == expected


@pytest.mark.parametrize(("level", "optname"), [(1 << 32, 0), (0, 1 << 32), (-1, 0), (0, -1)])
def test_halves_when_one_does_not_fit_then_refused_instead_of_spilling_over(level, optname):
    with pytest.raises(struct.error, match="32 bits"):
        ops.prep_cmd_sock(bytearray(64), 2, 3, level, optname, 0, 0)


@pytest.mark.parametrize(
    ("machine", "number"),
    [("x86_64", 0x1200), ("aarch64", 0x1200), ("ppc64le", 0x20001200), ("alpha", 0x20001200),
     ("sparc64", 0x20001200), ("mips64", 0x20001200)],
)  # fmt: skip
def test_block_command_then_direction_bits_of_the_machine(monkeypatch, machine, number):
    monkeypatch.setattr(ops.os, "uname", lambda: types.SimpleNamespace(machine=machine))
    assert ops._block_command(0) == number
