# SPDX-License-Identifier: MIT
# pyright: basic
"""Draw the rings, the structs and the operations: ``python -m rawuring.layout``.

What it is: the memory of a ring as this kernel laid it out, with its real offsets; every struct of the
header, member by member; and the meaning that each operation gives to the members of an SQE. As text, JSON or
SVG.
Mirrors: pahole(1) for the structs; nothing for the rest.
Must not know: any offset, except in known_params, for machines without io_uring, which a test compares with
a kernel. Structs come from uapi.py, the meaning of operations from ops.written().
Invariant: everything that is drawn comes from a kernel, from uapi.py or from ops.py, so no picture can be out
of date.
Read next: tour.py.

Unless said otherwise, memory passed to a call may be freed when the call returns.
"""

from __future__ import annotations

import inspect
import os
import sys
import textwrap
from typing import NamedTuple

from . import command, fakekernel, ops, rings, uapi
from .ops import fillers
from .params import MAX_ENTRIES, broken_rule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, Callable

MAPPINGS = {
    "ring": ("IORING_OFF_SQ_RING", "the words of both queues, the CQEs, the index array"),
    "sqes": ("IORING_OFF_SQES", "the submission queue entries"),
}

# (queue, member of its offsets) -> (name, writer, meaning). A k: the kernel can change it.
WORDS = {
    ("sq", "head"): ("khead", "kernel", "SQEs before this index are read"),
    ("sq", "tail"): ("ktail", "us", "SQEs before this index are ready"),
    ("sq", "ring_mask"): ("ring_mask", "setup", "index & mask is the place in the ring"),
    ("sq", "ring_entries"): ("ring_entries", "setup", "the number of SQEs"),
    ("sq", "flags"): ("kflags", "kernel", "NEED_WAKEUP, CQ_OVERFLOW, TASKRUN"),
    ("sq", "dropped"): ("kdropped", "kernel", "invalid entries of the index array"),
    ("cq", "head"): ("khead", "us", "CQEs before this index are copied"),
    ("cq", "tail"): ("ktail", "kernel", "CQEs before this index are ready"),
    ("cq", "ring_mask"): ("ring_mask", "setup", "index & mask is the slot"),
    ("cq", "ring_entries"): ("ring_entries", "setup", "the number of CQE slots"),
    ("cq", "flags"): ("flags", "us", "CQ_EVENTFD_DISABLED"),
    ("cq", "overflow"): ("koverflow", "kernel", "CQEs that are lost for good"),
}


class Region(NamedTuple):
    """A region of a mapping."""

    mapping: str
    offset: int
    size: int
    name: str
    writer: str
    value: int | None
    meaning: str


# ------------------------------------------------------------------------------------------------------
# The rings


def known_params(entries: int, flags: int = 0, cq_entries: int = 0) -> dict[str, Any]:
    """Compute the result of io_uring_setup on Linux 6.18 and newer, x86-64, for machines without it.

    Args: as for io_uring_setup.
    Returns: io_uring_params as Layout.unpack() returns it.
    Source: Linux 6.18 io_uring/io_uring.c rings_size, io_uring_fill_params; compared with a kernel in
        tests/test_layout.py
    """
    line = 64  # SMP_CACHE_BYTES, to which the CQEs and the array are aligned
    sq = 1 << (entries - 1).bit_length()
    cq = 1 << ((cq_entries or 2 * sq) - 1).bit_length()
    no_array = bool(flags & uapi.IORING_SETUP_NO_SQARRAY)
    before_array = line + cq * 16
    if flags & uapi.IORING_SETUP_CQE32:
        before_array *= 2  # the kernel doubles the words before the CQEs as well
    array = (before_array + line - 1) // line * line
    packed = uapi.io_uring_params.pack(
        sq_entries=sq, cq_entries=cq, flags=flags, features=uapi.IORING_FEAT_SINGLE_MMAP,
        sq_off={
            "head": 0, "tail": 4, "ring_mask": 16, "ring_entries": 24, "dropped": 32, "flags": 36,
            "array": 0 if no_array else array,
        },
        cq_off={
            "head": 8, "tail": 12, "ring_mask": 20, "ring_entries": 28, "flags": 40, "overflow": 44,
            "cqes": line,
        },
    )  # fmt: skip
    return uapi.io_uring_params.unpack(packed)


def ask(entries: int, flags: int, cq_entries: int, source: str) -> tuple[dict[str, Any], str]:
    """Return the params of a ring.

    Args: source is "kernel", "python" (fakekernel.py), "known" (known_params), or "auto": this kernel, and if
        it refuses, known_params.
    Returns: the params, and a sentence that names their source.
    Raises: OSError for "kernel" if it refuses; ValueError for flags that no kernel accepts together.
    Lifetime: none; the ring is closed again.
    """
    if source == "python":
        kernel = fakekernel.FakeKernel(entries=entries, flags=flags, cq_entries=cq_entries)
        params = bytearray(uapi.io_uring_params.size)
        os.close(kernel.setup(entries, params))
        return uapi.io_uring_params.unpack(params), "the pure-Python kernel (fakekernel.py)"
    rule = broken_rule(flags)
    if rule:
        raise ValueError(rule)
    if flags & uapi.IORING_SETUP_CQSIZE and not cq_entries:
        cq_entries = 2 << (entries - 1).bit_length()  # the flag needs a number: the default without the flag
    if source in ("auto", "kernel"):
        try:
            answer = _ask_kernel(entries, flags, cq_entries or None)
            uname = os.uname()
            return answer, f"this kernel, {uname.sysname} {uname.release} {uname.machine}"
        except OSError as error:
            if source == "kernel":
                raise
            why = f" (this machine refused: {str(error).splitlines()[0]})"
    else:
        why = ""
    return known_params(entries, flags, cq_entries), "Linux from 6.18 on, x86-64, as known here" + why


def _ask_kernel(entries: int, flags: int, cq_entries: int | None) -> dict[str, Any]:
    """Create a ring, and for IORING_SETUP_ATTACH_WQ another one, whose workers it shares."""
    if not flags & uapi.IORING_SETUP_ATTACH_WQ:
        with rings.Ring(entries, flags=flags, cq_entries=cq_entries) as ring:
            return ring.params
    with rings.Ring(1, flags=flags & uapi.IORING_SETUP_SQPOLL) as other, rings.Ring(
        entries, flags=flags, cq_entries=cq_entries, wq_fd=other.fileno()
    ) as ring:
        return ring.params


def regions(params: dict[str, Any]) -> list[Region]:
    """List the regions of both mappings in the order of their offsets, gaps included.

    Args: params is the unpacked io_uring_params.
    """
    flags = params["flags"]
    cqe_size = 32 if flags & uapi.IORING_SETUP_CQE32 else 16
    sqe_size = 128 if flags & uapi.IORING_SETUP_SQE128 else 64
    constant = {"ring_mask": -1, "ring_entries": 0}
    found = []
    for (queue, member), (name, writer, meaning) in WORDS.items():
        offset = params[f"{queue}_off"][member]
        if member == "flags" and queue == "cq" and not offset:
            continue  # before 5.8
        entries = params[f"{queue}_entries"]
        value = entries + constant[member] if member in constant else None
        found.append(Region("ring", offset, 4, f"{queue}.{name}", writer, value, meaning))
    sq, cq = params["sq_entries"], params["cq_entries"]
    found.append(
        Region("ring", params["cq_off"]["cqes"], cq * cqe_size, f"cqes[{cq}]", "kernel", None,
               f"{cqe_size} bytes each: user_data, res, flags" + (", big_cqe" if cqe_size == 32 else ""))
    )  # fmt: skip
    if not flags & uapi.IORING_SETUP_NO_SQARRAY:
        meaning = "4 bytes each: index of the SQE at this place"
        found.append(Region("ring", params["sq_off"]["array"], sq * 4, f"array[{sq}]", "us", None, meaning))
    found.sort(key=lambda region: region.offset)
    found = _with_gaps(found)
    found.append(
        Region("sqes", 0, sq * sqe_size, f"sqes[{sq}]", "us", None, f"{sqe_size} bytes each: a request")
    )
    return found


def _with_gaps(found: list[Region]) -> list[Region]:
    end, result = 0, []
    for region in found:
        if region.offset > end:
            result.append(Region("ring", end, region.offset - end, "-", "nobody", None, "unused"))
        result.append(region)
        end = region.offset + region.size
    return result


def draw_rings(params: dict[str, Any], source: str) -> str:
    """Draw the rings as text.

    Args: params and source are from ask().
    """
    lines = [*_headline(params, source), ""]
    for mapping, (constant, what) in MAPPINGS.items():
        mine = [region for region in regions(params) if region.mapping == mapping]
        size = max(region.offset + region.size for region in mine)
        lines.append(f"mmap at {constant} ({getattr(uapi, constant):#x}), {size} bytes: {what}")
        lines.append(f"  {'offset':>6} {'bytes':>6}  {'word':<16} {'written by':<10} {'value':>6}  meaning")
        for r in mine:
            value = "" if r.value is None else str(r.value)
            lines.append(
                f"  {r.offset:>6} {r.size:>6}  {r.name:<16} {r.writer:<10} {value:>6}  {r.meaning}".rstrip()
            )
        lines.append("")
    lines += _picture(params)
    return "\n".join(lines) + "\n"


def _headline(params: dict[str, Any], source: str) -> list[str]:
    """Describe the drawing; in several lines if a kernel has refused, with the reason."""
    names = uapi.names_of_flags("IORING_SETUP_", params["flags"])
    flags = " ".join(name.replace("IORING_SETUP_", "") for name in names) or "no flags"
    sizes = f"{params['sq_entries']} SQEs and {params['cq_entries']} CQEs"
    return textwrap.wrap(f"A ring of {sizes} ({flags}), as laid out by {source}", 104)


def _picture(params: dict[str, Any]) -> list[str]:
    """Draw how the regions refer to each other."""
    sq, cq = params["sq_entries"], params["cq_entries"]
    array = not params["flags"] & uapi.IORING_SETUP_NO_SQARRAY
    through = f"array[index & {sq - 1}]" if array else f"(no array) index & {sq - 1}"
    return [
        f"  sq.khead .. sq.ktail  --> {through:<24} --> sqes[{sq}]   we fill, the kernel reads",
        f"  cq.khead .. cq.ktail  --> {f'index & {cq - 1}':<24} --> cqes[{cq}]   the kernel fills, we read",
        "  Indices run free and are masked on use: tail - head (mod 2**32) entries are in the queue.",
    ]


def rings_as_data(params: dict[str, Any], source: str) -> dict[str, Any]:
    """Return the same as draw_rings, for JSON.

    Args: params and source are from ask().
    """
    return {
        "schema": 1,
        "source": source,
        "flags": uapi.names_of_flags("IORING_SETUP_", params["flags"]),
        "sq_entries": params["sq_entries"],
        "cq_entries": params["cq_entries"],
        "sq_off": params["sq_off"],
        "cq_off": params["cq_off"],
        "regions": [region._asdict() for region in regions(params)],
    }


# ------------------------------------------------------------------------------------------------------
# The structs

_ALIASES = {"sqe": "io_uring_sqe", "cqe": "io_uring_cqe", "params": "io_uring_params"}
_C_TYPES = {"b": "s8", "B": "u8", "h": "s16", "H": "u16", "i": "s32", "I": "u32", "q": "s64", "Q": "u64"}


class Member(NamedTuple):
    """A member of a struct."""

    offset: int
    size: int
    type: str
    name: str
    since: str
    union: bool


def structs() -> dict[str, uapi.Layout]:
    """List every struct of uapi.py by name."""
    return {value.name: value for value in vars(uapi).values() if isinstance(value, uapi.Layout)}


def find_struct(name: str) -> uapi.Layout:
    """Find a struct by its name, or by "sqe", "cqe" or "params".

    Raises: ValueError, which names similar ones.
    """
    known = structs()
    found = known.get(_ALIASES.get(name, name)) or known.get(f"io_uring_{name}")
    if found is None:
        near = [other for other in known if name in other]
        raise ValueError(f"no struct {name!r}" + (f"; did you mean {', '.join(near)}?" if near else ""))
    return found


def members(layout: uapi.Layout) -> list[Member]:
    """List the members of a struct; those that share bytes with another are marked as a union."""
    fields = list(layout.fields.values())
    since = uapi.SINCE.get(layout.name, "")
    found = []
    for field in fields:
        overlap = any(other is not field and _overlap(field, other) for other in fields)
        first = uapi.SINCE.get(f"{layout.name}.{field.name}", since)
        found.append(Member(field.offset, field.size, _type(field.format), field.name, first, overlap))
    return found


def _overlap(one: uapi.Field, other: uapi.Field) -> bool:
    return one.offset < other.offset + other.size and other.offset < one.offset + one.size


def _type(format: Any) -> str:
    if isinstance(format, uapi.Layout):
        return f"struct {format.name}"
    if isinstance(format, tuple):
        return f"struct {format[0].name}[{format[1] or ''}]"
    if len(format) == 1:
        return _C_TYPES[format]
    return f"{_C_TYPES[format[-1]]}[{format[:-1] if format[:-1] != '0' else ''}]"


def draw_struct(layout: uapi.Layout) -> str:
    """Draw a struct as text, a line for each member; members of a union have a bar."""
    lines = [f"struct {layout.name}, {layout.size} bytes", ""]
    lines.append(f"  {'offset':>6} {'bytes':>6}    {'type':<26} {'member':<20} since")
    last = -1
    for m in members(layout):
        bar = "|" if m.union else " "
        offset = "" if m.union and m.offset == last else str(m.offset)
        lines.append(f"  {offset:>6} {m.size:>6}  {bar} {m.type:<26} {m.name:<20} {m.since}".rstrip())
        last = m.offset
    lines += ["", "  | members that share their bytes with others: a union, or part of one"]
    return "\n".join(lines) + "\n"


def struct_as_data(layout: uapi.Layout) -> dict[str, Any]:
    """Return the same as draw_struct, for JSON."""
    listed = [member._asdict() for member in members(layout)]
    return {"schema": 1, "name": layout.name, "size": layout.size, "members": listed}


# ------------------------------------------------------------------------------------------------------
# The operations

class Use(NamedTuple):
    """The value that a prep function puts into one member."""

    offset: int
    size: int
    member: str
    source: str


class Operation(NamedTuple):
    """The meaning that one prep function gives to the members of an SQE."""

    function: str
    opcode: int
    signature: str
    summary: str
    since: str
    size: int
    uses: tuple[Use, ...]


def learn(name: str) -> Operation:
    """Find out which arguments a prep function writes where, by calling it.

    Bytes that are nonzero although every argument is zero are set by the function itself.

    Args: name of a function in ops.py.
    """
    function = fillers()[name]
    base, reached = ops.written(function)
    opcode = base[0]
    op_name = uapi.name_of("IORING_OP_", opcode)
    owner: dict[int, str] = {}
    uses = []
    for argument, changed in reached.items():
        owner.update(dict.fromkeys(changed, argument))
        for first, size in _runs(changed):
            source = argument + _added(function, base, argument, first, size)
            uses.append(Use(first, size, _member(first, size, argument, op_name), source))
    for first, size in _runs([i for i, byte in enumerate(base) if byte and i not in owner]):
        uses += _constants(base, first, size, op_name)
    size = 128 if opcode in (uapi.IORING_OP_NOP128, uapi.IORING_OP_URING_CMD128) else 64
    doc = inspect.getdoc(function) or "-"
    since = next((line[7:] for line in doc.splitlines() if line.startswith("Since: ")), "")
    since = since or ("5.1" if inspect.getdoc(function) else "")  # the head of ops.py says so
    signature = f"{name}({', '.join(_parameter(p) for p in _parameters(function))})"
    return Operation(name, opcode, signature, doc.splitlines()[0], since, size, tuple(sorted(uses)))


def _parameters(function: Callable[..., object]) -> Iterable[inspect.Parameter]:
    return inspect.signature(function).parameters.values()


def _parameter(parameter: inspect.Parameter) -> str:
    default = parameter.default
    return parameter.name if default is parameter.empty else f"{parameter.name}={default!r}"


def _added(function: Callable[..., None], base: bytes, argument: str, first: int, size: int) -> str:
    """Describe the change of an argument by the function: " | 2" for an added bit, " + 1"."""
    constant = int.from_bytes(base[first : first + size], sys.byteorder)
    if not constant:
        return ""
    bit = constant & -constant
    image = ops.filled(function, **{argument: bit})
    same = image is not None and image[first : first + size] == base[first : first + size]
    return f" {'|' if same else '+'} {constant}"


def _runs(places: Iterable[int]) -> list[tuple[int, int]]:
    """Join neighbours: (first, count)."""
    runs: list[list[int]] = []
    for place in places:
        if runs and runs[-1][0] + runs[-1][1] == place:
            runs[-1][1] += 1
        else:
            runs.append([place, 1])
    return [(first, size) for first, size in runs]


def _constants(base: bytes, first: int, size: int, op_name: str) -> list[Use]:
    """Name the constants that a function sets: the opcode, fd -1, a mode in ioprio ..."""
    uses = []
    while size:
        field = _field_at(first, op_name)
        taken = min(field.offset + field.size - first, size)
        raw = base[field.offset : field.offset + field.size]
        signed = isinstance(field.format, str) and field.format.islower()
        value = int.from_bytes(raw, sys.byteorder, signed=signed)
        shown = op_name if field.name == "opcode" else str(value)
        uses.append(Use(field.offset, field.size, _member(field.offset, field.size, "", op_name), shown))
        first, size = first + taken, size - taken
    return uses


def _field_at(place: int, op_name: str) -> uapi.Field:
    """Find the widest plain member that covers a byte."""
    fields = uapi.io_uring_sqe.fields
    if 8 <= place < 12 and op_name.startswith("IORING_OP_URING_CMD"):
        return fields["cmd_op"]  # the one narrow member that a function fills with a constant
    covering = [field for field in fields.values() if field.offset <= place < field.offset + field.size]
    return max(covering, key=lambda field: field.size)


def _member(offset: int, size: int, argument: str, op_name: str) -> str:
    """Choose among the names of a union the one that this operation uses."""
    fields = [f for f in uapi.io_uring_sqe.fields.values() if f.offset == offset and f.name[:2] != "__"]
    # Bits that a narrow argument does not reach still belong to its member.
    fitting = [f for f in fields if f.size == size] or [f for f in fields if f.size > size] or fields
    names = [field.name for field in fitting]
    if not names:
        return f"byte {offset}"
    if argument == "cmd":
        return "cmd"
    words = op_name.replace("IORING_OP_", "").lower()
    for right in (
        lambda name: name == argument,
        lambda name: bool(argument) and argument in name,
        lambda name: name.rstrip("0123456789").partition("_")[0].rstrip("0123456789") in words,
    ):
        chosen = [name for name in names if right(name)]
        if chosen:
            return chosen[0]
    return "file_index" if "file_index" in names else names[0]


def find_operations(name: str) -> list[Operation]:
    """Analyse every function of an operation.

    Args: name such as "RECV" or "IORING_OP_RECV", or a function's, "prep_recv".
    Raises: ValueError for an unknown one.
    """
    if name in fillers():
        return [learn(name)]
    full = name.upper() if name.upper().startswith("IORING_OP_") else f"IORING_OP_{name.upper()}"
    opcode = getattr(uapi, full, None)
    found = [operation for operation in map(learn, fillers()) if operation.opcode == opcode]
    if not found:
        raise ValueError(f"no operation {name!r}: python -m rawuring.layout --ops lists them")
    return found


def draw_operation(operation: Operation) -> str:
    """Draw the meaning of each SQE member for an operation."""
    op_name = uapi.name_of("IORING_OP_", operation.opcode)
    lines = [f"{op_name} ({operation.opcode}), since {operation.since or uapi.SINCE.get(op_name, '?')}"]
    lines += [f"  {operation.signature}", f"  {operation.summary}", ""]
    lines.append(f"  {'offset':>6} {'bytes':>6}  {'member':<18} holds")
    lines += [f"  {use.offset:>6} {use.size:>6}  {use.member:<18} {use.source}" for use in operation.uses]
    covered = {i for use in operation.uses for i in range(use.offset, use.offset + use.size)}
    zero = _runs([i for i in range(operation.size) if i not in covered])
    where = ", ".join(f"{first}" if size == 1 else f"{first}-{first + size - 1}" for first, size in zero)
    if zero:
        lines.append(f"  bytes {where} are zero")
    return "\n".join(lines) + "\n"


def operation_as_data(operation: Operation) -> dict[str, Any]:
    """Return the same as draw_operation, for JSON."""
    data = operation._asdict()
    data["uses"] = [use._asdict() for use in operation.uses]
    data["opcode_name"] = uapi.name_of("IORING_OP_", operation.opcode)
    return data


# ------------------------------------------------------------------------------------------------------
# SVG

_COLOURS = {"us": "#cfe8cf", "kernel": "#f6d5c3", "setup": "#dde3f0", "nobody": "#f2f2f2"}
_ROW = 22
# The same on a dark page: a rule of CSS counts more than an attribute.
_DARK = {"#cfe8cf": "#2b5a2a", "#f6d5c3": "#6b4a1f", "#dde3f0": "#26426e", "#f2f2f2": "#3a3d44",
         "#ffffff": "#16181d", "#111111": "#e8e8e8"}  # fmt: skip


def _svg(width: int, height: int, title: str, body: list[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="monospace" font-size="13" role="img">'
    )
    back = f'<rect width="{width}" height="{height}" fill="#ffffff"/>'
    rules = " ".join(f'[fill="{light}"] {{ fill: {dark} }}' for light, dark in _DARK.items())
    style = f"<style>@media (prefers-color-scheme: dark) {{ {rules} }}</style>"
    return "\n".join([head, f"<title>{_escape(title)}</title>", style, back, *body, "</svg>"]) + "\n"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _box(x: int, y: int, width: int, height: int, fill: str) -> str:
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{fill}" stroke="#555555"/>'


def _text(x: int, y: int, text: str, anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="#111111">{_escape(text)}</text>'


def rings_as_svg(params: dict[str, Any], source: str) -> str:
    """Draw the rings as an SVG picture.

    Args: params and source are from ask().
    """
    title = _headline(params, source)
    body = [_text(10, 20 + 18 * i, line) for i, line in enumerate(title)]
    y = 28 + 18 * len(title)
    for mapping, (constant, _what) in MAPPINGS.items():
        body.append(_text(10, y, f"mmap at {constant}"))
        y += 8
        for r in (region for region in regions(params) if region.mapping == mapping):
            body.append(_text(62, y + 15, str(r.offset), "end"))
            body.append(_box(70, y, 190, _ROW, _COLOURS[r.writer]))
            body.append(_text(78, y + 15, r.name if r.value is None else f"{r.name} = {r.value}"))
            body.append(_text(270, y + 15, r.meaning))
            y += _ROW
        y += 28
    for i, (writer, colour) in enumerate(_COLOURS.items()):
        body.append(_box(70 + i * 170, y - 12, 16, 16, colour))
        body.append(_text(92 + i * 170, y + 1, f"written by {writer}"))
    return _svg(840, y + 20, " ".join(title), body)


def struct_as_svg(layout: uapi.Layout) -> str:
    """Draw a struct as a grid of 8 bytes in a row; members that share bytes are stacked."""
    cells = [(m.offset, m.size, m.name) for m in members(layout) if m.size]
    return _grid(f"struct {layout.name}, {layout.size} bytes", layout.size, cells)


def operation_as_svg(operation: Operation) -> str:
    """Draw the SQE of an operation as a grid."""
    cells = [(use.offset, use.size, f"{use.member} = {use.source}") for use in operation.uses]
    title = f"{uapi.name_of('IORING_OP_', operation.opcode)}: {operation.function}"
    return _grid(title, operation.size, cells)


def _grid(title: str, size: int, cells: list[tuple[int, int, str]]) -> str:
    byte, left, body, y = 70, 60, [_text(10, 20, title)], 36
    for start in range(0, size, 8):
        levels = _levels([cell for cell in cells if cell[0] < start + 8 and start < cell[0] + cell[1]])
        body.append(_text(50, y + 15, str(start), "end"))
        body.append(_box(left, y, 8 * byte, _ROW * max(len(levels), 1), _COLOURS["nobody"]))
        for level in levels:
            for offset, length, name in level:
                first, last = max(offset, start), min(offset + length, start + 8)
                x, width = left + (first - start) * byte, (last - first) * byte
                fits = width // 8 - 1
                body.append(_box(x, y, width, _ROW, _COLOURS["setup"]))
                body.append(_text(x + 5, y + 15, name if len(name) <= fits else name[: fits - 1] + "~"))
            y += _ROW
        y += 0 if levels else _ROW
    return _svg(left + 8 * byte + 20, y + 20, title, body)


def _levels(cells: list[tuple[int, int, str]]) -> list[list[tuple[int, int, str]]]:
    """Put cells that overlap below each other."""
    levels: list[list[tuple[int, int, str]]] = []
    for cell in cells:
        for level in levels:
            if all(cell[0] >= other[0] + other[1] or other[0] >= cell[0] + cell[1] for other in level):
                level.append(cell)
                break
        else:
            levels.append([cell])
    return levels


# ------------------------------------------------------------------------------------------------------
# The command


def parse_flags(text: str) -> int:
    """Turn "SQE128,CQE32" into a mask of IORING_SETUP_*.

    Raises: ValueError for an unknown name.
    """
    mask = 0
    for name in filter(None, text.upper().replace("|", ",").split(",")):
        value = getattr(uapi, f"IORING_SETUP_{name.replace('IORING_SETUP_', '')}", None)
        if value is None:
            raise ValueError(f"no setup flag {name}")
        mask |= value
    return mask


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the requested drawing.

    Args: arguments are the command line's by default.
    Returns: the exit code: 1 if the kernel refused, 2 for an unknown name.
    """
    options = _parser().parse_args(arguments)
    try:
        answer = _answer(options)
    except ValueError as error:
        print(f"rawuring.layout: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"rawuring.layout: {error}", file=sys.stderr)
        return 1
    sys.stdout.write(answer)
    return 0


def _parser() -> Any:
    import argparse

    parser = argparse.ArgumentParser(
        prog="python -m rawuring.layout",
        description="Draw the memory of a ring, a struct of the kernel's, or the SQE of an operation.",
    )
    parser.add_argument("what", nargs="?", default="rings", help="rings (default), or a struct, such as sqe")
    parser.add_argument("--struct", metavar="NAME", help="a struct, member by member")
    parser.add_argument("--op", metavar="NAME", help="the SQE of an operation, such as prep_recv")
    parser.add_argument("--structs", action="store_true", help="list the structs")
    parser.add_argument("--ops", action="store_true", help="list the operations")
    parser.add_argument("--entries", type=int, default=8, help="SQ entries (8)")
    parser.add_argument("--cq-entries", type=int, default=0, help="CQ entries (twice as many)")
    parser.add_argument("--flags", default="", help="setup flags, such as SQE128,CQE32")
    parser.add_argument(
        "--on", choices=("auto", "kernel", "known", "python"), default="auto",
        help="whose layout: this kernel's; that of Linux 6.18 and newer; the pure-Python kernel's",
    )  # fmt: skip
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print data")
    form.add_argument("--svg", action="store_true", help="print a picture")
    return parser


def _answer(options: Any) -> str:
    if options.ops or options.structs:
        if options.svg:
            raise ValueError("a list has no picture: name a struct or an operation")
        return _list_operations(options.json) if options.ops else _list_structs(options.json)
    if options.op is not None:
        return _answer_operation(options)
    name = options.what if options.struct is None else options.struct
    if name != "rings":
        layout = find_struct(name)
        if options.json:
            return _json(struct_as_data(layout))
        return struct_as_svg(layout) if options.svg else draw_struct(layout)
    if not 1 <= options.entries <= MAX_ENTRIES:
        raise ValueError(f"--entries is between 1 and {MAX_ENTRIES}")
    if options.cq_entries and not options.entries <= options.cq_entries <= 2 * MAX_ENTRIES:
        raise ValueError(f"--cq-entries is between --entries and {2 * MAX_ENTRIES}")
    params, source = ask(options.entries, parse_flags(options.flags), options.cq_entries, options.on)
    if options.json:
        return _json(rings_as_data(params, source))
    return rings_as_svg(params, source) if options.svg else draw_rings(params, source)


def _answer_operation(options: Any) -> str:
    found = find_operations(options.op)
    if options.json:
        return _json([operation_as_data(operation) for operation in found])
    if options.svg:
        return operation_as_svg(found[0])
    return "\n".join(map(draw_operation, found))


def _list_operations(as_json: bool) -> str:
    lines: dict[int, list[str]] = {}
    for operation in map(learn, fillers()):
        lines.setdefault(operation.opcode, []).append(operation.function)
    listed = [(uapi.name_of("IORING_OP_", opcode), opcode, lines[opcode]) for opcode in sorted(lines)]
    if as_json:
        return _json([{"name": name, "opcode": code, "functions": each} for name, code, each in listed])
    return "".join(
        f"{opcode:>3}  {name.replace('IORING_OP_', ''):<18} {' '.join(names)}\n"
        for name, opcode, names in listed
    )


def _list_structs(as_json: bool) -> str:
    if as_json:
        return _json([{"name": name, "size": layout.size} for name, layout in structs().items()])
    return "".join(f"{layout.size:>5}  {name}\n" for name, layout in structs().items())


def _json(data: Any) -> str:
    import json

    return json.dumps(data, indent=1) + "\n"


if __name__ == "__main__":
    command.run(main)
