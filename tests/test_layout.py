# SPDX-License-Identifier: MIT
"""Pictures and tables agree with the kernel, the header and the prep functions."""

from __future__ import annotations

import errno
import json
import platform
import sys
from xml.etree import ElementTree

import driver
import pytest
from refusal import io_uring_refusal

from rawuring import fakekernel, layout, ops, rings, uapi

SHAPES = ["", "SQE128", "CQE32", "NO_SQARRAY", "SQE128,CQE32,NO_SQARRAY"]


@pytest.mark.requires_io_uring
@pytest.mark.parametrize("flags", ["CQSIZE", "ATTACH_WQ", "ATTACH_WQ,SQPOLL"])
def test_flags_that_want_more_than_a_bit_then_this_kernel_is_asked_with_it(flags):
    """A CQ size, and a ring whose workers are shared (5.5 and 5.6)."""
    try:
        params, source = layout.ask(8, layout.parse_flags(flags), 0, "kernel")
    except OSError as error:
        if error.errno != errno.EPERM and driver.kernel_release() >= (5, 13):
            raise
        pytest.skip(f"IORING_SETUP_{flags} (5.13 for SQPOLL without privileges): {error}")
    assert source.startswith("this kernel")
    assert params["flags"] == layout.parse_flags(flags)
    assert params["cq_entries"] == 16


@pytest.mark.requires_io_uring
@pytest.mark.parametrize("flags", SHAPES)
def test_known_params_when_compared_with_this_kernel_then_the_same(flags):
    mask = layout.parse_flags(flags)
    try:
        params, _ = layout.ask(8, mask, 0, "kernel")
    except OSError as error:
        pytest.skip(f"IORING_SETUP_{flags} (5.19, NO_SQARRAY 6.6): {error}")
    release = tuple(map(int, platform.release().split(".")[:2]))
    if platform.machine() != "x86_64" or release < (6, 12) or params["cq_off"]["cqes"] != 64:
        pytest.skip("the layout of Linux 6.18 on x86-64 with cache lines of 64 bytes, the known one")
    known = layout.known_params(8, mask)
    assert {key: known[key] for key in ("sq_entries", "cq_entries", "sq_off", "cq_off")} == {
        key: params[key] for key in ("sq_entries", "cq_entries", "sq_off", "cq_off")
    }


@pytest.mark.parametrize("source", ["known", "python", "kernel"])
@pytest.mark.parametrize("flags", SHAPES)
@pytest.mark.parametrize("entries", [1, 8, 100])
def test_regions_when_listed_then_they_cover_the_mappings_without_overlap(source, flags, entries):
    if source == "kernel" and io_uring_refusal():
        pytest.skip(f"io_uring (5.1): {io_uring_refusal()}")
    try:
        params, _ = layout.ask(entries, layout.parse_flags(flags), 0, source)
    except OSError as error:
        pytest.skip(f"IORING_SETUP_{flags} (5.19, NO_SQARRAY 6.6): {error}")
    for mapping in layout.MAPPINGS:
        end = 0
        for region in (r for r in layout.regions(params) if r.mapping == mapping):
            assert region.offset == end, region
            end += region.size
        sq, cq, sqes = rings.memory_sizes(params)
        if mapping == "sqes":
            assert end == sqes
        else:
            assert end == (cq if "NO_SQARRAY" in flags else max(sq, cq))


def test_regions_when_read_from_a_ring_then_mask_and_entries_are_the_values_there():
    with fakekernel.fake_ring(entries=8) as (kernel, ring):
        for region in layout.regions(ring.params):
            if region.value is not None:
                assert kernel.load(region.offset) == region.value, region


def test_auto_when_the_kernel_refuses_then_what_is_known_and_said(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(1, "forbidden here")

    monkeypatch.setattr(rings, "Ring", refuse)
    params, source = layout.ask(8, 0, 0, "auto")
    assert "known" in source
    assert "forbidden here" in source
    assert params == layout.known_params(8)
    with pytest.raises(OSError, match="forbidden"):
        layout.ask(8, 0, 0, "kernel")


# ------------------------------------------------------------------------------------------------------
# Structs


@pytest.mark.parametrize("name", sorted(layout.structs()))
def test_struct_when_drawn_then_every_member_is_there_at_its_offset(name):
    struct_ = layout.find_struct(name)
    text = layout.draw_struct(struct_)
    data = layout.struct_as_data(struct_)
    assert {member["name"]: member["offset"] for member in data["members"]} == {
        field.name: field.offset for field in struct_.fields.values()
    }
    assert all(f" {field} " in text or f" {field}\n" in text for field in struct_.fields)
    ElementTree.fromstring(layout.struct_as_svg(struct_))


def test_union_when_marked_then_members_that_share_bytes_and_no_others():
    union = {member.name for member in layout.members(uapi.io_uring_sqe) if member.union}
    assert {"off", "addr2", "buf_index", "file_index", "addr3", "rw_flags"} <= union
    assert not union & {"opcode", "flags", "ioprio", "fd", "len", "user_data", "personality"}


def test_find_struct_when_unknown_then_similar_names():
    with pytest.raises(ValueError, match="io_uring_buf_ring"):
        layout.find_struct("buf_rin")


# ------------------------------------------------------------------------------------------------------
# Operations


def test_fillers_when_listed_then_each_operation_of_the_header_has_one():
    found = {layout.learn(name).opcode for name in layout.fillers()}
    assert found == set(range(uapi.IORING_OP_LAST))


@pytest.mark.parametrize("name", sorted(layout.fillers()))
def test_learned_places_when_used_to_build_the_sqe_then_it_is_the_functions(name):
    """The table alone, without the function, must give the same bytes."""
    operation = layout.learn(name)
    function = layout.fillers()[name]
    arguments = {}
    for number, use in enumerate(use for use in operation.uses if "(" not in use.source):
        argument = use.source.split(" ")[0]
        if argument.isidentifier() and not argument.startswith("IORING_"):
            arguments[argument] = b"" if argument == "cmd" else (number % 5) * 4 + 4
    sqe = bytearray(128)
    function(sqe, **arguments)
    for use in operation.uses:
        argument, _, extra = use.source.partition(" ")
        raw = int.from_bytes(sqe[use.offset : use.offset + use.size], sys.byteorder)
        if argument == "cmd":
            continue
        if argument not in arguments:
            value = getattr(uapi, argument, None)
            signed = int(argument) if value is None else value
            assert raw == signed & ((1 << 8 * use.size) - 1), use
        elif extra.startswith("+"):
            assert raw == arguments[argument] + 1, use
        elif extra.startswith("|"):
            assert raw == arguments[argument] | int(extra[2:]), use
        else:
            assert raw == arguments[argument], use


@pytest.mark.parametrize(
    ("name", "member", "source"),
    [
        ("prep_recv", "msg_flags", "msg_flags"),
        ("prep_recv_multishot", "ioprio", f"ioprio | {uapi.IORING_RECV_MULTISHOT}"),
        ("prep_poll_add", "poll32_events", "mask"),
        ("prep_splice", "splice_fd_in", "fd_in"),
        ("prep_openat_direct", "file_index", "file_index + 1"),
        ("prep_cmd_sock", "optname", "optname"),
        ("prep_nop", "fd", "-1"),
    ],
)
def test_member_when_named_then_by_the_operations_own_name(name, member, source):
    assert (member, source) in {(use.member, use.source) for use in layout.learn(name).uses}


def test_operation_when_the_function_changes_then_the_table_does(monkeypatch):
    def prep_nop(sqe, user_data=0, flags=0):
        ops.prep_rw(sqe, uapi.IORING_OP_NOP, -1, user_data, 0, 0)

    monkeypatch.setattr(ops, "prep_nop", prep_nop)
    assert ("addr", "user_data") in {(use.member, use.source) for use in layout.learn("prep_nop").uses}


# ------------------------------------------------------------------------------------------------------
# The command


@pytest.mark.parametrize(
    "arguments",
    [[], ["sqe"], ["--struct", "io_uring_buf_ring"], ["--op", "RECV"], ["--flags", "CQE32,SQE128"]],
)
def test_command_when_asked_for_each_form_then_it_is_well_formed(arguments, capsys):
    arguments = ["--on", "known", *arguments]
    assert layout.main(arguments) == 0
    assert capsys.readouterr().out.strip()
    assert layout.main([*arguments, "--json"]) == 0
    json.loads(capsys.readouterr().out)
    assert layout.main([*arguments, "--svg"]) == 0
    assert ElementTree.fromstring(capsys.readouterr().out).tag.endswith("svg")


def test_command_when_asked_for_lists_then_all_are_there(capsys):
    assert layout.main(["--ops"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in layout.fillers())
    assert layout.main(["--structs"]) == 0
    assert "io_uring_sqe" in capsys.readouterr().out
    assert layout.main(["--ops", "--json"]) == 0
    operations = json.loads(capsys.readouterr().out)
    assert {name for each in operations for name in each["functions"]} == set(layout.fillers())
    assert layout.main(["--structs", "--json"]) == 0
    assert {"name": "io_uring_sqe", "size": 64} in json.loads(capsys.readouterr().out)


def test_headline_when_a_kernel_gave_its_reasons_then_no_line_leaves_the_picture():
    """840 pixels have room for 104 letters."""
    source = "what is known (this machine refused: " + "a filter of the container forbids it, " * 9 + ")"
    picture = ElementTree.fromstring(layout.rings_as_svg(layout.known_params(8), source))
    texts = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert max(map(len, texts)) <= 104
    assert "forbids it" in "".join(texts)
    assert max(map(len, layout.draw_rings(layout.known_params(8), source).splitlines())) <= 110


@pytest.mark.parametrize(
    "arguments",
    [
        ["--op", "FLY"],
        ["--struct", "nothing"],
        ["--flags", "NONSENSE"],
        ["--flags", "SQ_AFF"],
        ["--entries", "0"],
        ["--ops", "--svg"],
    ],
)
def test_command_when_something_is_unknown_then_2_and_a_sentence(arguments, capsys):
    assert layout.main(arguments) == 2
    assert capsys.readouterr().err.startswith("rawuring.layout: ")


def test_regions_when_the_kernel_has_no_cq_flags_then_none_are_drawn():
    """Before 5.8 the offset is 0, that of another word."""
    params = layout.known_params(8)
    assert "cq.flags" in {region.name for region in layout.regions(params)}
    params["cq_off"]["flags"] = 0
    assert "cq.flags" not in {region.name for region in layout.regions(params)}
