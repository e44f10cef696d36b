# SPDX-License-Identifier: MIT
"""The header parser: on small texts, and against the struct layout of ctypes.

What it is: one test per form that kernel headers use, and the treatment of forms that they do not use.
Must not know: the contents of the real header; test_uapi.py compares those.
Invariant: an unknown form is named in ``skipped``, never guessed.
Read next: tools/uapi_header.py.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, strategies as st

from rawuring import uapi
from tools.uapi_header import Header, companions, differences, parse, parse_text


def places(header: Header, name: str) -> dict[str, tuple[int | None, int | None]]:
    """Return offset and size by member."""
    return {member.name: (member.offset, member.size) for member in header.structs[name].members.values()}


# ------------------------------------------------------------------------------------------------------
# Constants


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("7", 7),
        ("0x1F", 31),
        ("010", 8),
        ("0", 0),
        ("(-2)", -2),
        ("1U << 31", 1 << 31),
        ("(1U << 3) | 0x4", 12),
        ("~0U", 0xFFFFFFFF),
        ("(~0U)", 0xFFFFFFFF),
        ("~0ULL", (1 << 64) - 1),
        ("~0", -1),
        ("0x80000000ULL", 1 << 31),
        ("((__u32)1 << BASE)", 1 << 5),
        ("(~(((__u64)1 << 48) - 1))", 0xFFFF << 48),
        ("((__kernel_rwf_t)0x00000100)", 256),
        ("BASE + 1", 6),
        ("(LATER | BASE)", 69),
        ("3 * 2 - 1 & 6 ^ 8 >> 1", (3 * 2 - 1) & 6 ^ (8 >> 1)),
    ],
)
def test_macro_when_its_value_is_an_integer_then_found(expression: str, value: int) -> None:
    header = parse_text(f"#define BASE 5\n#define X {expression}\n#define LATER 64\n")
    assert header.constants["X"] == value
    assert header.skipped == ()


@pytest.mark.parametrize("expression", ['"text"', "OTHER", "X", "sizeof(int)", "a ? b : c", "1 <<", "(1"])
def test_macro_when_it_is_no_integer_then_skipped_by_name(expression: str) -> None:
    header = parse_text(f"#define X {expression}\n")
    assert header.constants == {}
    assert header.skipped == ("X",)


def test_macro_when_empty_or_with_arguments_then_passed_over() -> None:
    assert parse_text("#define GUARD\n#define F(x) (x)\n") == Header({}, {}, ())


def test_macro_when_commented_split_or_indented_then_found() -> None:
    text = "/* #define A 1 */\n# define B 2 // two\n#define C (B | \\\n  4) /* a\n b */\n"
    assert parse_text(text).constants == {"B": 2, "C": 6}


def test_macro_when_defined_twice_then_the_first_counts() -> None:
    assert parse_text("#ifdef X\n#define A 1\n#else\n#define A 2\n#endif\n").constants == {"A": 1}


def test_condition_when_for_cplusplus_then_left_out() -> None:
    text = '#ifdef __cplusplus\nextern "C" {\n#define A 1\n#else\n#define B 2\n#endif\nenum { C };\n'
    assert parse_text(text).constants == {"B": 2, "C": 0}


def test_enum_when_values_are_left_out_then_it_counts_on() -> None:
    text = "enum named { A, B, C = 0x10, D, E = 1U << 31, F = A, G, };\nenum { H = D + 1, I };"
    expected = {"A": 0, "B": 1, "C": 16, "D": 17, "E": 1 << 31, "F": 0, "G": 1, "H": 18, "I": 19}
    assert parse_text(text).constants == expected


# ------------------------------------------------------------------------------------------------------
# Structs


def test_struct_when_it_has_every_form_of_member_then_all_are_placed() -> None:
    header = parse_text(
        """
        struct inner { __u16 a; __u64 b; };
        struct outer {
            __u8 one, pair[2];
            __s32 number; /* with a comment */
            union {
                __u64 wide;
                struct { __u32 low; __u32 high[1]; };
                __u8 short_name;
            };
            union { __u16 x; __u16 y; } __attribute__((packed));
            struct inner nested;
            struct { __u8 f; __be32 g; } named;
            unsigned int last;
            struct __kernel_timespec ts;
            __aligned_u64 /* __s32 * */ fds;
            const unsigned long long huge;
            struct inner many[2];
            __DECLARE_FLEX_ARRAY(struct inner, tail);
            __u8 cmd[0];
            __u64 more[];
        };
        """
    )
    assert header.structs["inner"][1:3] == (16, 8)
    assert places(header, "outer") == {
        "one": (0, 1),
        "pair": (1, 2),
        "number": (4, 4),
        "wide": (8, 8),
        "low": (8, 4),
        "high": (12, 4),
        "short_name": (8, 1),
        "x": (16, 2),
        "y": (16, 2),
        "nested": (24, 16),
        "named": (40, 8),
        "named.f": (40, 1),
        "named.g": (44, 4),
        "last": (48, 4),
        "ts": (56, 16),
        "fds": (72, 8),
        "huge": (80, 8),
        "many": (88, 32),
        "tail": (120, 0),
        "cmd": (120, 0),
        "more": (120, 0),
    }
    assert header.structs["outer"].size == 120
    members = header.structs["outer"].members
    assert members["number"].signed
    assert not members["low"].signed
    assert (members["many"].type, members["many"].length) == ("struct inner", 2)
    assert (members["tail"].type, members["tail"].length) == ("struct inner", 0)
    assert (members["cmd"].length, members["one"].length) == (0, None)
    assert header.skipped == ()


def test_struct_when_a_size_is_unknown_then_what_follows_has_no_place_and_it_is_skipped() -> None:
    header = parse_text("struct s { __u32 a; char *p; __u32 b; }; struct t { struct nowhere n; };")
    assert places(header, "s") == {"a": (0, 4), "p": (None, None), "b": (None, 4)}
    assert header.structs["s"].size is None
    assert header.skipped == ("struct s", "struct t")


def test_struct_when_an_array_has_a_constant_length_then_evaluated() -> None:
    header = parse_text("#define N 3\nstruct s { __u32 a[N + 1]; };")
    assert places(header, "s") == {"a": (0, 16)}


def test_other_declarations_when_between_then_passed_over() -> None:
    text = """
        struct forward;
        typedef int __bitwise some_t;
        static inline int f(struct s *s) { if (s) { return 1; } return 0; }
        int g(void);
        struct s { __u8 a; } __attribute__((packed));
    """
    assert list(parse_text(text).structs) == ["s"]


@pytest.mark.parametrize("text", ["enum { A", "struct s { __u8 a;", "struct s { __u8 a; "])
def test_header_when_a_brace_is_missing_then_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected, not"):
        parse_text(text)


SCALARS = {
    "__u8": ctypes.c_uint8,
    "__u16": ctypes.c_uint16,
    "__u32": ctypes.c_uint32,
    "__s32": ctypes.c_int32,
    "__u64": ctypes.c_uint64,
}


@st.composite
def bodies(draw: st.DrawFn, prefix: str = "m", depth: int = 2) -> tuple[str, list[Any], list[str]]:
    """Draw the members of a struct: as C text, as ctypes fields, and the names of those without a tag."""
    text, fields, anonymous = "", [], []
    for number in range(draw(st.integers(1, 5))):
        name = f"{prefix}{number}"
        if depth and draw(st.integers(0, 3)) == 0:
            kind = draw(st.sampled_from(("struct", "union")))
            inner, inner_fields, inner_anonymous = draw(bodies(f"{name}_", depth - 1))
            base = ctypes.Structure if kind == "struct" else ctypes.Union
            text += f"{kind} {{ {inner} }};"
            attributes = {"_anonymous_": inner_anonymous, "_fields_": inner_fields}
            fields.append((name, type(name, (base,), attributes)))
            anonymous.append(name)
        else:
            scalar = draw(st.sampled_from(sorted(SCALARS)))
            length = draw(st.integers(0, 3))
            text += f"{scalar} {name}[{length}]; " if length else f"{scalar} {name}; "
            fields.append((name, SCALARS[scalar] * length if length else SCALARS[scalar]))
    return text, fields, anonymous


@pytest.mark.skipif(ctypes.alignment(ctypes.c_uint64) != 8, reason="this ABI aligns 64 bits to 4")
@given(bodies())
def test_struct_when_drawn_at_random_then_placed_as_ctypes_does(
    drawn: tuple[str, list[Any], list[str]],
) -> None:
    text, fields, anonymous = drawn
    oracle = type("oracle", (ctypes.Structure,), {"_anonymous_": anonymous, "_fields_": fields})
    struct = parse_text(f"struct s {{ {text} }};").structs["s"]
    assert (struct.size, struct.align) == (ctypes.sizeof(oracle), ctypes.alignment(oracle))
    for name, member in struct.members.items():
        field = getattr(oracle, name)
        assert (member.offset, member.size) == (field.offset, field.size)


# ------------------------------------------------------------------------------------------------------
# Files, and drift


def test_parse_when_given_several_files_then_they_are_read_as_one(tmp_path: Path) -> None:
    main, part = tmp_path / "io_uring.h", tmp_path / "io_uring" / "zcrx.h"
    part.parent.mkdir()
    main.write_text("#include <linux/io_uring/zcrx.h>\n#define B (A + 1)\n", encoding="utf-8")
    part.write_text("#define A 1\n", encoding="utf-8")
    assert companions(main) == [part]
    assert parse(main, *companions(main)).constants == {"B": 2, "A": 1}
    assert companions(part) == []


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("#define IORING_SETUP_CLAMP (1U << 4)", []),
        (
            "#define IORING_SETUP_CLAMP (1U << 5)",
            ["IORING_SETUP_CLAMP is 16 in uapi.py and 32 in the header"],
        ),
        ("enum { IORING_OP_LAST = 3 };", []),
        ("#define IORING_SETUP_NEWER (1U << 31)", [f"IORING_SETUP_NEWER is not in uapi.py: {1 << 31}"]),
        ("#define UNRELATED 1", []),
        ("struct io_uring_newer { __u8 a; };", ["struct io_uring_newer is not in uapi.py"]),
        ("struct unrelated { __u8 a; };", []),
        ("struct io_uring_notification_slot { __u8 a; };", []),
        ("struct io_uring_buf { __u64 addr; __u32 len; __u16 bid; __u16 resv; };", []),
        ("struct io_uring_buf { __u64 addr; __u32 len; __u16 bid; __u16 pad; };", []),
        (
            "struct io_uring_buf { __u64 addr; __u16 bid; __u16 resv; __u32 len; };",
            [
                "io_uring_buf.bid is at 12 with 2 bytes in uapi.py and at 8 with 2 in the header",
                "io_uring_buf.len is at 8 with 4 bytes in uapi.py and at 12 with 4 in the header",
            ],
        ),
        (
            "struct io_uring_buf { __u64 addr; __u32 len; __u16 bid; __u16 flags; __u64 more; };",
            [
                "struct io_uring_buf has 16 bytes in uapi.py and 24 in the header",
                "io_uring_buf.flags is not in uapi.py",
                "io_uring_buf.more is not in uapi.py",
            ],
        ),
        (
            "struct io_uring_bpf_ctx { __u64 pad[2]; union { struct { __u64 flags, mode, resolve; } open;"
            "struct { __u32 family; __be32 port; } connect; }; };",
            ["io_uring_bpf_ctx.connect is at 16 with 24 bytes in uapi.py and at 16 with 8 in the header",
             "io_uring_bpf_ctx.connect.port is at 20 with 2 bytes in uapi.py and at 20 with 4 in the header"],
        ),
    ],
)  # fmt: skip
def test_differences_when_a_header_is_compared_then_each_is_one_line(text: str, lines: list[str]) -> None:
    assert differences(parse_text(text), uapi) == lines


def test_differences_when_uapi_lost_a_name_then_said() -> None:
    broken = SimpleNamespace(IORING_OP_NOP=0)
    header = parse_text("enum { IORING_OP_NOP, IORING_OP_READV };")
    assert differences(header, broken) == ["IORING_OP_READV is not in uapi.py: 1"]
