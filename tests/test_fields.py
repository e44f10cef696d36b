# SPDX-License-Identifier: MIT
"""Every field of every request: values that do not fit are rejected, no two give the same bytes."""

from __future__ import annotations

import inspect
import itertools
import struct

import pytest

from rawuring import buffers, ops, register, rings, syscalls, uapi
from rawuring.fakekernel import fake_ring
from rawuring.inflight import InFlight

PREP = {
    name: prep
    for name, prep in vars(ops).items()
    if name.startswith("prep_") and name not in ("prep_send_set_addr",)
}
REFUSALS = (struct.error, ValueError, OverflowError)
#: The 64-bit parameters of liburing's prototypes, besides addresses and user_data. The rest has 32 bits or
#: fewer, in the kernel too, even in a field of 64.
WIDE = {"offset", "off_in", "off_out", "target", "new_user_data", "data"}
WIDE_IN = {
    ("prep_fallocate", "length"), ("prep_ftruncate", "length"), ("prep_fadvise64", "length"),
    ("prep_madvise64", "length"), ("prep_cmd_discard", "nbytes"), ("prep_futex_wake", "val"),
    ("prep_futex_wake", "mask"), ("prep_futex_wait", "val"), ("prep_futex_wait", "mask"), ("prep_rw", "addr"),
}  # fmt: skip
NARROW_IN = {("prep_files_update", "offset")}
#: The bits that the function always adds to a mask.
ADDED = {
    ("prep_timeout_update", "timeout_flags"): uapi.IORING_TIMEOUT_UPDATE,
    ("prep_cancel_fd", "cancel_flags"): uapi.IORING_ASYNC_CANCEL_FD,
    ("prep_multishot_accept", "ioprio"): uapi.IORING_ACCEPT_MULTISHOT,
    ("prep_multishot_accept_direct", "ioprio"): uapi.IORING_ACCEPT_MULTISHOT,
    ("prep_send_zc_fixed", "zc_flags"): uapi.IORING_RECVSEND_FIXED_BUF,
    ("prep_recv_multishot", "ioprio"): uapi.IORING_RECV_MULTISHOT,
    ("prep_recvmsg_multishot", "ioprio"): uapi.IORING_RECV_MULTISHOT,
    ("prep_fixed_fd_install", "flags"): uapi.IOSQE_FIXED_FILE,
    ("prep_msg_ring_cqe_flags", "msg_ring_flags"): uapi.IORING_MSG_RING_FLAGS_PASS,
    ("prep_read_multishot", "flags"): uapi.IOSQE_BUFFER_SELECT,
}
#: Each limit of a field and of an int in C, the adjacent values, and the values one turn further.
VALUES = sorted(
    {
        sign * (1 << bits) + beside
        for bits in (7, 8, 15, 16, 31, 32, 63, 64, 65, 128)
        for sign, beside in itertools.product((1, -1), range(-3, 4))
    }
    | set(range(-4, 6))
    | {-100, 2**32 - 100, 2**64 - 100}
)


def parameters(prep) -> list[str]:
    code = prep.__code__
    return [name for name in code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount] if name != "cmd"]


def fill(name: str, parameter: str, value: int) -> bytes:
    prep = PREP[name]
    sqe = bytearray(128 if name.endswith("128") else 64)
    prep(sqe, **{**dict.fromkeys(parameters(prep), 0), parameter: value})
    return bytes(sqe)


def addresses(name: str) -> set[str]:
    names = parameters(PREP[name])
    return {names[place] for place, *_ in ops.memory_arguments(PREP[name]) or ()}


CASES = [(name, parameter) for name in PREP for parameter in parameters(PREP[name])]


@pytest.mark.parametrize(("name", "parameter"), CASES)
def test_values_around_every_border_then_kept_whole_or_refused(name, parameter):
    made: dict[bytes, int] = {}
    refused = set()
    for value in VALUES:
        try:
            sqe = fill(name, parameter, value)
        except REFUSALS:
            refused.add(value)
            continue
        first = made.setdefault(sqe, value)
        # An offset of -1 is the file position, a slot of -1 is IORING_FILE_INDEX_ALLOC, as in C programs.
        if {value, first} not in ({-1, 2**64 - 1}, {-1, 2**32 - 1}):
            assert first ^ value in (0, ADDED.get((name, parameter), 0)), (first, value)
    bits = 32
    if parameter == "user_data" or parameter in WIDE | addresses(name) or (name, parameter) in WIDE_IN:
        bits = 64
    if (name, parameter) in NARROW_IN:
        bits = 32
    for value in VALUES:
        if not -(1 << bits - 1) <= value < 1 << bits:
            assert value in refused, value
    assert refused != set(VALUES)


@pytest.mark.parametrize(
    ("name", "parameter"),
    [case for case in CASES if case[1] not in ("user_data", "flags") and not case[0].endswith("128")],
)
def test_start_with_a_value_that_no_field_holds_then_overflow_error(name, parameter):
    prep = PREP[name]
    code = prep.__code__
    values = dict.fromkeys(parameters(prep), 0)
    for value in (2**64, 2**64 + 3, -(2**63) - 1, 2**128):
        values[parameter] = value
        names = [n for n in values if n not in ("user_data", "flags")]
        keywords = code.co_varnames[code.co_argcount :][: code.co_kwonlyargcount]
        positional = [values[n] for n in names if n not in keywords]
        options = {n: values[n] for n in names if n in keywords}
        with fake_ring(entries=2) as (_, ring):
            table = InFlight(ring)
            with pytest.raises(OverflowError, match=name):
                table.start(prep, *positional, **options)
            assert (len(table), ring.sq.pending()) == (0, 0)


def test_slots_that_do_not_exist_then_refused_and_never_an_ordinary_descriptor():
    """prep_close_direct(-1) closed descriptor 0, and slot 2**32 - 2 was IORING_FILE_INDEX_ALLOC."""
    sqe = bytearray(64)
    for slot in (-1, -2, 2**32 - 1, 2**32 - 2, 2**32):
        with pytest.raises(struct.error):
            ops.prep_close_direct(sqe, slot)
        with pytest.raises(struct.error):
            ops.set_target_fixed_file(sqe, slot)
    for slot in (-2, 2**32 - 2, 2**32):
        with pytest.raises(struct.error):
            ops.prep_openat_direct(sqe, 0, 0, 0, 0, slot)
    for slot in (-1, uapi.IORING_FILE_INDEX_ALLOC):
        ops.prep_openat_direct(sqe, 0, 0, 0, 0, slot)
        assert sqe[44:48] == b"\xff" * 4


#: The members that hold one number.
MEMBERS = sorted(
    name for name, field in uapi.io_uring_sqe.fields.items()
    if isinstance(field.format, str) and len(field.format) == 1
)  # fmt: skip


@pytest.mark.parametrize("name", MEMBERS)
def test_members_set_by_name_then_kept_whole_or_refused(name):
    field = uapi.io_uring_sqe.fields[name]
    made: dict[bytes, int] = {}
    for value in VALUES:
        sqe = bytearray(64)
        try:
            ops.set_fields(sqe, **{name: value})
        except REFUSALS:
            assert bytes(sqe) == bytes(64)
            continue
        assert made.setdefault(bytes(sqe), value) == value
        block = ops.Block(1)
        block.set(name, [value])
        assert bytes(block.memory)[field.offset : field.offset + field.size] == (
            bytes(sqe)[field.offset : field.offset + field.size]
        )
    assert made


# ------------------------------------------------------------------------------------------------------
# The same for registrations


def numbers_of(function) -> list[str]:
    found = []
    for name, parameter in inspect.signature(function).parameters.items():
        if str(parameter.annotation) in ("int", "int | None", "str | int | Callable[..., Any]"):
            found.append(name)
    return found


REGISTRATIONS = [
    (name, parameter)
    for name, function in vars(register).items()
    if inspect.isfunction(function) and not name.startswith("_") and function.__module__ == register.__name__
    for parameter in numbers_of(function)
    # resize_rings() first asks the kernel for its abilities; a timeout has seconds of 64 bits.
    if name != "resize_rings" and parameter != "timeout_ns"
]
WIDE_REGISTRATIONS = {
    ("register_sync_cancel", "target"), ("register_region", "flags"),
    ("register_wait_reg", "entries"), ("register_ifq", "rq_entries"),  # their memory is allocated first
}  # fmt: skip
#: How the other arguments are filled, by their names.
OTHERS = {
    "memories": lambda: [buffers.allocate(4096)], "memory": lambda: buffers.allocate(4096),
    "tags": lambda: [1], "fds": lambda: [0], "instructions": list, "area": lambda: buffers.allocate(4096),
    "program": lambda: b"", "operation": lambda: 0,
}  # fmt: skip


#: Values that no field of 64 bits holds, and those that none of 32 bits does.
OUTSIDE_64, OUTSIDE_32 = [2**64, 2**64 + 3, 2**128, -(2**63) - 1], [2**32, 2**32 + 3, -(2**31) - 1]


@pytest.mark.requires_io_uring
@pytest.mark.parametrize(
    ("name", "parameter", "outside"),
    [
        (*case, value)
        for case in REGISTRATIONS
        for value in (OUTSIDE_64 if case in WIDE_REGISTRATIONS else OUTSIDE_64 + OUTSIDE_32)
    ],
)
def test_registration_with_a_value_that_no_field_holds_then_refused_before_the_call(
    name, parameter, outside, monkeypatch
):
    function = getattr(register, name)

    def call(self, opcode, arg, nr_args):
        syscalls._check_u32("nr_args", nr_args)
        return 0

    with rings.Ring(4) as ring, rings.Ring(4) as other:
        arguments = {}
        for each, given in inspect.signature(function).parameters.items():
            if each in ("ring", "dst"):
                arguments[each] = ring
            elif each == "src":
                arguments[each] = other
            elif each in OTHERS:
                arguments[each] = OTHERS[each]()
            elif given.default is inspect.Parameter.empty and given.kind is not inspect.Parameter.VAR_KEYWORD:
                arguments[each] = 1
        arguments[parameter] = outside
        monkeypatch.setattr(rings.Ring, "register", call)
        monkeypatch.setattr(register, "_register_blind", lambda *given: call(None, *given))
        try:
            with pytest.raises((struct.error, ValueError, OverflowError, TypeError)):
                function(**arguments)
        finally:
            monkeypatch.undo()
