# SPDX-License-Identifier: MIT
"""uapi.py against a C compiler's reading of the kernel's headers.

What it is: every value, offset, size, type and release of uapi.py compared with tests/data/abi.json, in both
directions; the packing of every struct compared with bytes composed from abi.json alone.
Must not know: anything of rawuring except uapi.
Invariant: no number of the interface is repeated here; abi.json is the oracle.
Read next: test_uapi_header.py.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from rawuring import uapi
from tools import uapi_header

ABI = json.loads((Path(__file__).parent / "data" / "abi.json").read_text(encoding="utf-8"))
STRUCTS = ABI["structs"]
# Constants of fcntl.h, stat.h, falloc.h and fs.h that operations need and Python's os lacks.
COMPANION_GROUPS = ("at", "rename", "statx", "fallocate", "sync_file_range")
COMPANIONS = {
    name: value["value"]
    for name, value in ABI["other_constants"].items()
    if value["group"] in COMPANION_GROUPS and name != "STATX_ALL"  # the header calls it deprecated
}
CONSTANTS = {
    name: value for name, value in vars(uapi).items() if type(value) is int and name not in COMPANIONS
}
LAYOUTS = {
    name: value
    for name, value in vars(uapi).items()
    if isinstance(value, uapi.Layout) and not name.startswith("statx")
}
SYSTEM_HEADER = Path("/usr/include/linux/io_uring.h")


def rows(layout: uapi.Layout, base: int = 0, prefix: str = "") -> list[tuple[str, Any, int, int]]:
    """List name, format, offset and size as abi.json does: nested structs without a tag are opened up."""
    found = []
    for name, field in layout.fields.items():
        found.append((prefix + name, field.format, base + field.offset, field.size))
        if isinstance(field.format, uapi.Layout) and field.format.name not in STRUCTS:
            found += rows(field.format, base + field.offset, f"{prefix}{name}.")
    return found


def expected_format(row: dict[str, Any]) -> object:
    """Work out a member's format from abi.json: the kind, the size, the sign, the number of items."""
    if row["kind"] == "group":
        return "struct without a tag"
    count = row.get("count", 0) if row["kind"] in ("array", "flex") else None
    if row["type"].startswith("struct "):
        name = row["type"].split()[1]
        return name if count is None else (name, count)
    size = row["size"] if count is None else row["elem_size"]
    letter = {1: "b", 2: "h", 4: "i", 8: "q"}[size]
    letter = letter if row.get("signed") else letter.upper()
    return letter if count is None else f"{count}{letter}"


def shown_format(format: Any) -> object:
    """Write a format as expected_format() does."""
    if isinstance(format, tuple):
        return format[0].name, format[1]
    if isinstance(format, uapi.Layout):
        return format.name if format.name in STRUCTS else "struct without a tag"
    return format


# ------------------------------------------------------------------------------------------------------
# Constants


def test_constants_when_compared_with_the_headers_then_all_are_there_and_no_others() -> None:
    assert len(CONSTANTS) == 327
    assert {name: value["value"] for name, value in ABI["constants"].items()} == CONSTANTS


def test_companions_when_compared_with_the_headers_then_equal() -> None:
    assert len(COMPANIONS) > 40
    assert {name: vars(uapi)[name] for name in COMPANIONS} == COMPANIONS


def test_statx_when_compared_with_the_headers_then_size_and_offsets_are_equal() -> None:
    known = {
        name.rpartition(":")[2]: value["x86_64"]
        for name, value in ABI["libc_structs"].items()
        if name.startswith("offsetof:struct statx:")
    }
    assert len(known) > 15
    assert uapi.statx.size == ABI["libc_structs"]["sizeof:struct statx"]["x86_64"]
    assert {name: uapi.statx.fields[name].offset for name in known} == known
    ends = sorted((field.offset, field.offset + field.size) for field in uapi.statx.fields.values())
    assert [end for _, end in ends] == [start for start, _ in ends[1:]] + [uapi.statx.size]


def test_constants_when_they_differ_between_architectures_then_they_are_not_here() -> None:
    varying = [name for name, value in ABI["other_constants"].items() if "differs_on" in value]
    assert varying
    assert not set(varying) & set(vars(uapi))


def test_constants_when_assigned_then_each_once() -> None:
    tree = ast.parse(Path(uapi.__file__).read_text(encoding="utf-8"))
    assigned = [
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    ]
    assert len(assigned) == len(set(assigned))


# linux/futex.h itself is not ordered by value.
@pytest.mark.parametrize("group", sorted({value["group"] for value in ABI["constants"].values()} - {"futex"}))
def test_constants_when_a_family_counts_up_in_the_header_then_it_does_here(group: str) -> None:
    """Catch two swapped lines; masks, shifts and aliases are where the header has them."""
    family = [name for name in CONSTANTS if ABI["constants"][name]["group"] == group]
    starts = {  # a family of several lists, each with its own start
        "IORING_REGISTER_SRC_REGISTERED",
        "IORING_REGISTER_FILES_SKIP",
        "IO_URING_NAPI_TRACKING_DYNAMIC",
        "IORING_TIMEOUT_CLOCK_MASK",
        "IORING_CQE_BUFFER_SHIFT",
        "IORING_CQE_F_TSTAMP_HW",
        "IORING_OFF_PBUF_SHIFT",
        "IORING_MEM_REGION_REG_WAIT_ARG",
        "IORING_ZCRX_AREA_DMABUF",
        "ZCRX_REG_IMPORT",
        "ZCRX_FEATURE_RX_PAGE_SIZE",
        "ZCRX_EVENT_ALLOC_FAIL",
        "ZCRX_EVENT_DESC_FLAG_STATS",
        "ZCRX_CTRL_FLUSH_RQ",
        "IO_URING_BPF_CMD_FILTER",
        "MEMBARRIER_CMD_SHARED",
        "MEMBARRIER_CMD_FLAG_CPU",
        "IORING_OFF_MMAP_MASK",
    }
    for before, name in zip(family, family[1:]):
        if name not in starts:
            assert CONSTANTS[name] > CONSTANTS[before], (before, name)


# ------------------------------------------------------------------------------------------------------
# Structs


def test_structs_when_compared_with_the_headers_then_all_are_there_and_no_others() -> None:
    assert len(LAYOUTS) == 52
    assert set(LAYOUTS) == set(STRUCTS)


@pytest.mark.parametrize("name", STRUCTS)
def test_struct_when_compared_with_the_compiler_then_every_member_is_at_its_place(name: str) -> None:
    layout = LAYOUTS[name]
    assert (layout.name, layout.size) == (name, STRUCTS[name]["size"])
    ours = [(member, shown_format(format), *place) for member, format, *place in rows(layout)]
    theirs = [
        (row["name"], expected_format(row), row["offset"], row["size"]) for row in STRUCTS[name]["fields"]
    ]
    assert ours == theirs  # a list: header order counts


@pytest.mark.parametrize("name", STRUCTS)
def test_struct_when_its_members_are_laid_side_by_side_then_no_byte_is_left_over(name: str) -> None:
    """A hole would be bytes that no member reaches."""
    held: set[int] = set()
    for _, _, offset, size in rows(LAYOUTS[name]):
        assert offset >= 0
        if size:
            assert offset + size <= LAYOUTS[name].size
        held |= set(range(offset, offset + size))
    assert held == set(range(LAYOUTS[name].size))


@pytest.mark.parametrize("name", STRUCTS)
def test_struct_when_read_from_top_to_bottom_then_offsets_go_back_only_within_a_union(name: str) -> None:
    seen: set[int] = set()
    end = 0
    for _, _, offset, size in rows(LAYOUTS[name]):
        assert offset == end or offset in seen or not size
        seen |= set(range(offset, offset + size))
        end = max(end, offset + size)


def test_field_when_asked_then_it_tells_its_row() -> None:
    field = uapi.io_uring_params.fields["cq_off"]
    assert (field.name, field.format) == ("cq_off", uapi.io_cqring_offsets)
    assert repr(field) == "<cq_off <struct io_cqring_offsets, 40 bytes> at 80, 40 bytes>"
    assert repr(uapi.io_uring_sqe) == "<struct io_uring_sqe, 64 bytes>"


# ------------------------------------------------------------------------------------------------------
# Releases


def test_since_when_compared_with_the_history_of_the_headers_then_all_names_agree() -> None:
    expected = {}
    for table in (ABI["constants"], STRUCTS):
        for name, entry in table.items():
            if entry.get("since"):
                expected[name] = entry["since"].replace("<=", "")  # older than io_uring itself
    for name, struct in STRUCTS.items():
        for row in struct["fields"]:
            if struct.get("since") and row.get("since") and row["since"] != struct["since"]:
                expected[f"{name}.{row['name']}"] = row["since"]
    assert expected == uapi.SINCE


def test_since_when_uncertain_then_it_says_so() -> None:
    uncertain = {
        name
        for table in (ABI["constants"], STRUCTS)
        for name, entry in table.items()
        if entry.get("since_uncertain")
    }
    assert uncertain == uapi.SINCE_UNCERTAIN
    assert set(uapi.SINCE) >= uapi.SINCE_UNCERTAIN


def test_since_when_read_as_a_history_then_releases_go_up_and_each_name_comes_once() -> None:
    releases = [tuple(map(int, release.split("."))) for release in uapi._HISTORY]
    assert releases == sorted(set(releases))
    names = [name for listed in uapi._HISTORY.values() for name in listed.split()]
    assert len(names) == len(set(names))


def test_since_when_a_member_is_listed_then_its_struct_is_older() -> None:
    age = {release: number for number, release in enumerate(uapi._HISTORY)}
    for name, release in uapi.SINCE.items():
        struct, _, member = name.partition(".")
        if member:
            assert member in LAYOUTS[struct].fields
            assert age[uapi.SINCE[struct]] < age[release]


# ------------------------------------------------------------------------------------------------------
# Packing, against bytes composed from abi.json


def ints(size: int, signed: bool) -> st.SearchStrategy[int]:
    """Draw ints of a size, its limits more often."""
    low, high = (-(1 << 8 * size - 1), (1 << 8 * size - 1) - 1) if signed else (0, (1 << 8 * size) - 1)
    return st.sampled_from((low, high, 0, 1)) | st.integers(low, high)


@st.composite
def values_and_bytes(draw: st.DrawFn, members: list[dict[str, Any]], size: int) -> tuple[Any, bytes]:
    """Draw values for some members that do not overlap, and the struct they should make."""
    values: dict[str, Any] = {}
    image = bytearray(size)
    held: set[int] = set()
    for row in draw(st.permutations(members)):
        place = range(row["offset"], row["offset"] + row["size"])
        if held & set(place) or "." in row["name"] or not draw(st.booleans()):
            continue
        held |= set(place)
        values[row["name"]], image[place.start : place.stop] = draw(value_and_bytes(row, members))
    return values, bytes(image)


@st.composite
def value_and_bytes(
    draw: st.DrawFn, row: dict[str, Any], neighbours: list[dict[str, Any]]
) -> tuple[Any, bytes]:
    """Draw a value for one member, and its bytes."""
    if row["kind"] in ("struct", "group"):
        if row["kind"] == "struct":
            members = STRUCTS[row["type"].split()[1]]["fields"]
        else:
            inner = f"{row['name']}."
            members = [
                {**other, "name": other["name"][len(inner) :], "offset": other["offset"] - row["offset"]}
                for other in neighbours
                if other["name"].startswith(inner)
            ]
        value, image = draw(values_and_bytes(members, row["size"]))
    elif row["kind"] == "flex":
        value, image = [], b""
    else:
        count = row.get("count", 1)
        one = row["size"] // count
        signed = row.get("signed", False)
        numbers = draw(st.lists(ints(one, signed), min_size=count, max_size=count))
        image = b"".join(number.to_bytes(one, sys.byteorder, signed=signed) for number in numbers)
        value = numbers if "count" in row else numbers[0]
    if isinstance(value, (list, dict)) and draw(st.booleans()):
        value = image
    return value, image


def assert_agrees(format: Any, given_value: Any, got: Any) -> None:
    """Compare packed with unpacked values, which have more names, and tuples for lists."""
    if isinstance(given_value, dict):
        for name, value in given_value.items():
            assert_agrees(format.fields[name].format, value, got[name])
    elif isinstance(given_value, bytes):
        assert encoded(format, got) == given_value
    else:
        assert got == (tuple(given_value) if isinstance(given_value, list) else given_value)


def encoded(format: Any, got: Any) -> bytes:
    """Pack the result of unpack(): of overlapping members the largest."""
    if isinstance(format, uapi.Layout):
        return format.pack(**without_overlap(format, got))
    one = uapi.Layout("one", uapi.Field("value", format, 0).size, (("value", format, 0),))
    return one.pack(value=got)


def without_overlap(layout: uapi.Layout, got: dict[str, Any]) -> dict[str, Any]:
    """Choose members that hold every byte of a struct once."""
    values: dict[str, Any] = {}
    held: set[int] = set()
    for field in sorted(layout.fields.values(), key=lambda field: -field.size):
        place = set(range(field.offset, field.offset + field.size))
        if place and not held & place:
            held |= place
            value = got[field.name]
            nested = isinstance(field.format, uapi.Layout)
            values[field.name] = without_overlap(field.format, value) if nested else value
    return values


@pytest.mark.long
@pytest.mark.parametrize("name", STRUCTS)
def test_pack_when_given_any_members_then_bytes_are_as_the_compiler_lays_them_out(name: str) -> None:
    layout = LAYOUTS[name]

    @settings(max_examples=15)
    @given(values_and_bytes(STRUCTS[name]["fields"], STRUCTS[name]["size"]), st.integers(0, 9))
    def check(drawn: tuple[dict[str, Any], bytes], offset: int) -> None:
        values, image = drawn
        assert layout.pack(**values) == image
        assert_agrees(layout, values, layout.unpack(image))
        frame = bytearray(b"\xee" * (offset + layout.size + 3))
        layout.pack_into(frame, offset, **values)
        assert frame == b"\xee" * offset + image + b"\xee" * 3
        assert layout.unpack(memoryview(frame), offset) == layout.unpack(image)

    check()


@pytest.mark.parametrize("name", STRUCTS)
def test_unpack_when_given_any_bytes_then_packing_gives_them_back(name: str) -> None:
    layout = LAYOUTS[name]

    @settings(max_examples=10)  # each sets every bit of every member at random
    @given(st.binary(min_size=layout.size, max_size=layout.size))
    def check(image: bytes) -> None:
        got = layout.unpack(image)
        assert list(got) == list(layout.fields)
        assert layout.pack(**without_overlap(layout, got)) == image

    check()


def test_pack_when_nothing_is_given_then_all_bytes_are_zero() -> None:
    for layout in LAYOUTS.values():
        assert layout.pack() == bytes(layout.size)


def test_pack_into_when_the_buffer_was_used_before_then_nothing_of_it_survives() -> None:
    slot = bytearray(b"\xff" * 64)
    uapi.io_uring_sqe.pack_into(slot, 0, opcode=uapi.IORING_OP_NOP, user_data=7)
    assert bytes(slot) == uapi.io_uring_sqe.pack(user_data=7)


def test_pack_into_when_a_member_is_called_like_a_parameter_then_both_arrive() -> None:
    """io_uring_files_update has a member named offset."""
    buffer = bytearray(20)
    uapi.io_uring_files_update.pack_into(buffer, 4, offset=3)
    assert uapi.io_uring_files_update.unpack(buffer, 4)["offset"] == 3


def test_pack_when_a_struct_or_array_of_structs_is_given_as_dicts_then_it_is_placed() -> None:
    pair = uapi.Layout("pair", 32, (("bufs", (uapi.io_uring_buf, 2), 0),))
    packed = pair.pack(bufs=[{"addr": 1}, {"bid": 2}])
    assert packed == uapi.io_uring_buf.pack(addr=1) + uapi.io_uring_buf.pack(bid=2)
    assert [buf["bid"] for buf in pair.unpack(packed)["bufs"]] == [0, 2]


# ------------------------------------------------------------------------------------------------------
# Errors and their messages


@pytest.mark.parametrize(
    ("struct", "values", "error", "message"),
    [
        ("io_uring_sqe", {"opcod": 1}, TypeError, "struct io_uring_sqe has no member 'opcod'"),
        ("io_uring_sqe", {"opcode": 256}, ValueError, "io_uring_sqe.opcode=256 is outside 0..255"),
        ("io_uring_sqe", {"ioprio": -1}, ValueError, "io_uring_sqe.ioprio=-1 is outside 0..65535"),
        ("io_uring_sqe", {"fd": 1 << 31}, ValueError, "is outside -2147483648..2147483647"),
        ("io_uring_sqe", {"off": -1}, ValueError, "io_uring_sqe.off=-1 is outside 0..18446744073709551615"),
        ("io_uring_sqe", {"len": 1.0}, TypeError, "io_uring_sqe.len takes an int, not float"),
        ("io_uring_sqe", {"len": None}, TypeError, "io_uring_sqe.len takes an int, not NoneType"),
        ("io_uring_sqe", {"len": b"\0\0\0\0"}, TypeError, "io_uring_sqe.len takes an int, not bytes"),
        ("io_uring_sqe", {"off": 0, "addr2": 0}, ValueError, "off and addr2 share bytes of a union"),
        ("io_uring_sqe", {"__pad1": 0, "off": 0}, ValueError, "__pad1 and off share bytes of a union"),
        ("io_uring_sqe", {"cmd": [1]}, ValueError, "takes 0 items, not 1: a flexible array"),
        ("io_uring_params", {"resv": [0, 0]}, ValueError, "io_uring_params.resv takes 3 items, not 2"),
        ("io_uring_params", {"resv": bytes(11)}, ValueError, "io_uring_params.resv takes 12 bytes, not 11"),
        ("io_uring_params", {"resv": 0}, TypeError, "resv takes a sequence or bytes, not int"),
        ("io_uring_params", {"resv": "abc"}, TypeError, "takes a sequence or bytes, not str"),
        ("io_uring_params", {"resv": [0, -1, 0]}, ValueError, "io_uring_params.resv[1]=-1 is outside"),
        ("io_uring_params", {"sq_off": 0}, TypeError, "sq_off takes a dict or bytes, not int"),
        ("io_uring_params", {"sq_off": {"hed": 0}}, TypeError, "io_sqring_offsets has no member 'hed'"),
        ("io_uring_params", {"sq_off": {"head": -1}}, ValueError, "params.sq_off.head=-1 is outside"),
        ("io_uring_params", {"sq_off": bytes(39)}, ValueError, "params.sq_off takes 40 bytes, not 39"),
        ("io_uring_bpf_ctx", {"open": {}, "socket": {}}, ValueError, "open and socket share bytes"),
    ],
)
def test_pack_when_a_value_is_wrong_then_the_error_names_it_and_nothing_is_written(
    struct: str, values: dict[str, Any], error: type[Exception], message: str
) -> None:
    layout = LAYOUTS[struct]
    with pytest.raises(error) as caught:
        layout.pack(**values)
    assert message in str(caught.value)
    buffer = bytearray(b"\xee" * layout.size)
    with pytest.raises(error):
        layout.pack_into(buffer, 0, **values)
    assert buffer == b"\xee" * layout.size


@pytest.mark.parametrize("offset", [-1, 1, 64])
def test_buffer_when_too_small_then_refused_and_not_grown(offset: int) -> None:
    """Assigning to a slice would let a bytearray grow; struct would take -1 as the last byte."""
    buffer = bytearray(64)
    message = f"struct io_uring_sqe takes 64 bytes: it does not fit at {offset} of 64"
    with pytest.raises(ValueError, match=message):
        uapi.io_uring_sqe.pack_into(buffer, offset, opcode=1)
    with pytest.raises(ValueError, match=message):
        uapi.io_uring_sqe.unpack(buffer, offset)
    assert buffer == bytes(64)


def test_buffer_when_read_only_then_refused() -> None:
    with pytest.raises(TypeError):
        uapi.io_uring_cqe.pack_into(bytes(16), 0, res=1)


# ------------------------------------------------------------------------------------------------------
# Names


@pytest.mark.parametrize("group", ["op", "register_op"])
def test_name_of_when_given_any_opcode_then_its_name(group: str) -> None:
    prefix = {"op": "IORING_OP_", "register_op": "IORING_REGISTER_"}[group]
    for name, constant in ABI["constants"].items():
        if constant["group"] == group and not constant.get("sentinel"):
            assert uapi.name_of(prefix, constant["value"]) == name


def test_name_of_when_the_value_has_no_name_then_the_number() -> None:
    assert uapi.name_of("IORING_OP_", uapi.IORING_OP_LAST) == f"IORING_OP_<{uapi.IORING_OP_LAST}>"
    assert uapi.name_of("IORING_OP_", -1) == "IORING_OP_<-1>"


def test_name_of_when_there_is_an_alias_then_the_name_the_header_has_first() -> None:
    assert uapi.name_of("MEMBARRIER_CMD_", 1) == "MEMBARRIER_CMD_GLOBAL"


@pytest.mark.parametrize(
    ("prefix", "group"),
    [
        ("IORING_SETUP_", "setup_flag"),
        ("IORING_FEAT_", "feature"),
        ("IORING_ENTER_", "enter_flag"),
        ("IOSQE_", "sqe_flag"),
        ("IORING_CQE_F_", "cqe_flag"),
        ("IORING_SQ_", "sq_ring_flag"),
        ("IORING_ASYNC_CANCEL_", "cancel_flag"),
        ("RWF_", "rwf"),
    ],
)
def test_names_of_flags_when_given_all_then_all_names_in_the_order_of_the_bits(
    prefix: str, group: str
) -> None:
    names = {
        constant["value"]: name
        for name, constant in ABI["constants"].items()
        if constant["group"] == group and not name.endswith("SHIFT")
    }
    assert uapi.names_of_flags(prefix, sum(names)) == [names[bit] for bit in sorted(names)]
    for bit, name in names.items():
        assert uapi.names_of_flags(prefix, bit) == [name]


def test_names_of_flags_when_bits_have_no_name_then_they_come_last_as_one_number() -> None:
    mask = uapi.IOSQE_ASYNC | uapi.IOSQE_FIXED_FILE | 0x180
    assert uapi.names_of_flags("IOSQE_", mask) == ["IOSQE_FIXED_FILE", "IOSQE_ASYNC", "0x180"]
    assert uapi.names_of_flags("IOSQE_", 0) == []


def test_names_of_flags_when_there_is_an_alias_then_the_name_the_header_has_first() -> None:
    assert uapi.names_of_flags("MEMBARRIER_CMD_", 3) == [
        "MEMBARRIER_CMD_GLOBAL",
        "MEMBARRIER_CMD_GLOBAL_EXPEDITED",
    ]


# ------------------------------------------------------------------------------------------------------
# The header of this machine


@pytest.fixture(scope="module")
def system_header() -> uapi_header.Header:
    if not SYSTEM_HEADER.exists():
        pytest.skip(f"{SYSTEM_HEADER} of Linux 5.1 or later is not installed")
    companions = uapi_header.companions(SYSTEM_HEADER)
    return uapi_header.parse(*companions, SYSTEM_HEADER)


def test_system_header_when_compared_then_it_holds_nothing_else(system_header: uapi_header.Header) -> None:
    """The header may be older, or newer, in which case missing names are correct."""
    if system_header.constants["IORING_OP_LAST"] > uapi.IORING_OP_LAST:
        pytest.skip("a header of Linux 7.2 or older")
    assert len(system_header.constants) > 60
    assert uapi_header.differences(system_header, uapi) == []


def test_system_header_when_read_in_parallel_then_the_constants_come_in_the_same_order(
    system_header: uapi_header.Header,
) -> None:
    """The parser lists macros before enums, so the positions come from the text."""
    text = SYSTEM_HEADER.read_text(encoding="utf-8")
    place = {}
    for name in CONSTANTS:
        if definition := re.search(rf"^\s*(?:#\s*define\s+)?{name}\b", text, re.MULTILINE):
            place[name] = definition.start()
    assert len(place) > 60
    assert set(place) <= set(system_header.constants)
    assert list(place) == sorted(place, key=place.__getitem__)


def test_system_header_when_read_in_parallel_then_the_members_come_in_the_same_order(
    system_header: uapi_header.Header,
) -> None:
    """Members that were added later may be in between, but the order stays the same."""
    compared = 0
    for struct in system_header.structs.values():
        if struct.name in LAYOUTS:
            ours = [name for name, *_ in rows(LAYOUTS[struct.name]) if name in struct.members]
            assert ours == [name for name in struct.members if name in ours]
            compared += 1
    assert compared >= 8
