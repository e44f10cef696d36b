# SPDX-License-Identifier: MIT
"""Read a kernel header: its constants, and its structs with the offset of every member.

What it is: as much of C as ``linux/io_uring.h`` and the headers next to it use, without a compiler: #define
of integers, enum, struct, union, arrays, packed unions. Mirrors nothing.
Must not know: rawuring, except as the module passed to differences().
Invariant: anything that it cannot evaluate is skipped and named in ``Header.skipped``; nothing is guessed.
Read next: check_kernel.py, which uses it.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple


class Member(NamedTuple):
    """Name one member of a struct; those of nameless structs and unions count as the outer struct's."""

    name: str  # "open.flags" for a member of a nested struct without a tag
    type: str  # "__u32", "struct io_uring_buf", "struct" where there is no tag
    offset: int | None  # None from the first member on whose size is unknown
    size: int | None  # 0 for a flexible array
    length: int | None  # None unless an array
    signed: bool


class Struct(NamedTuple):
    """Hold a struct's members in header order."""

    name: str
    size: int | None
    align: int | None
    members: dict[str, Member]


class Header(NamedTuple):
    """Hold the contents of one or more headers."""

    constants: dict[str, int]
    structs: dict[str, Struct]
    skipped: tuple[str, ...]  # macros that are not integers, structs that could not be read


def parse(*paths: str | Path) -> Header:
    """Read headers as if they were one file.

    Args: paths in the order in which they include each other, the included first or last.
    Returns: constants and structs of all of them.
    Raises: OSError; ValueError if a file is not such a header.
    """
    return parse_text("\n".join(Path(path).read_text(encoding="utf-8", errors="replace") for path in paths))


def companions(path: str | Path) -> list[Path]:
    """Find the headers that io_uring.h was split into: the folder io_uring next to it.

    Args: path of io_uring.h.
    Returns: zcrx.h, query.h and bpf_filter.h, as far as they exist.
    """
    folder = Path(path).parent / "io_uring"
    return [file for name in ("zcrx", "query", "bpf_filter") if (file := folder / f"{name}.h").is_file()]


def parse_text(text: str) -> Header:
    """Read the text of a header.

    Args: text as in the file, with comments.
    Returns: its constants and structs, in order.
    Raises: ValueError if braces do not match.
    """
    macros, rest = _preprocess(text)
    return _Parser(macros, rest).run()


# ------------------------------------------------------------------------------------------------------
# Comparing with uapi.py

_MOVING = re.compile(r"_LAST$|_MAX$|^IORING_URING_CMD_MASK$")  # whose values change between releases
_PADDING = re.compile(r"^(_*pad\d*|_*resv\d*|rsvd|_*reserved)$")  # shrinks when a member is added
_NAMES = re.compile(r"^_*(IORING|IOSQE|IO_URING|IO_WQ|IOU_|SOCKET_URING|SPLICE_F_FD|ZCRX|io_|zcrx_)")
_GONE = ("io_uring_notification_slot", "io_uring_notification_register")  # in 6.0 and 6.1, never usable


def differences(header: Header, uapi: Any) -> list[str]:
    """List the differences of uapi.py from a header.

    An older header may lack names; its own names must be in uapi.py with the same value or place.

    Args: uapi is the module rawuring.uapi.
    Returns: one line per difference, in header order; none is the empty list.
    """
    found = []
    for name, value in header.constants.items():
        ours = uapi.__dict__.get(name)
        if ours is None:
            if _NAMES.match(name):
                found.append(f"{name} is not in uapi.py: {value}")
        elif ours != value and not _MOVING.search(name):
            found.append(f"{name} is {ours} in uapi.py and {value} in the header")
    for struct in header.structs.values():
        layout = uapi.__dict__.get(struct.name)
        if layout is not None:
            found += _struct_differences(struct, layout)
        elif _NAMES.match(struct.name) and struct.name not in _GONE:
            found.append(f"struct {struct.name} is not in uapi.py")
    return found


def _struct_differences(struct: Struct, layout: Any) -> Iterator[str]:
    if struct.size not in (None, layout.size):
        yield f"struct {struct.name} has {layout.size} bytes in uapi.py and {struct.size} in the header"
    for name, member in struct.members.items():
        if _PADDING.match(name.rpartition(".")[2]):
            continue
        place = _place(layout, name)
        if place is None:
            yield f"{struct.name}.{name} is not in uapi.py"
        elif member.offset is not None and place != (member.offset, member.size):
            yield (
                f"{struct.name}.{name} is at {place[0]} with {place[1]} bytes in uapi.py "
                f"and at {member.offset} with {member.size} in the header"
            )


def _place(layout: Any, name: str) -> tuple[int, int] | None:
    outer, _, inner = name.partition(".")
    field = layout.fields.get(outer)
    if field is None or not inner:
        return field and (field.offset, field.size)
    place = _place(field.format, inner)
    return place and (field.offset + place[0], place[1])


# ------------------------------------------------------------------------------------------------------
# The preprocessor


def _preprocess(text: str) -> tuple[dict[str, str], str]:
    """Remove comments and directives.

    Of the conditions only __cplusplus is known to be false. Of all others both branches are read, and the
    first definition of a name counts.
    """
    text = re.sub(r"/\*.*?\*/|//[^\n]*", " ", text, flags=re.DOTALL)
    text = re.sub(r"\\\n", " ", text)
    macros: dict[str, str] = {}
    rest = []
    hidden: list[bool] = []
    for line in text.splitlines():
        directive = re.match(r"\s*#\s*(\w+)\s*(.*)", line)
        if directive is None:
            if not any(hidden):
                rest.append(line)
            continue
        word, argument = directive.groups()
        if word in ("if", "ifdef", "ifndef"):
            hidden.append(word == "ifdef" and argument.strip() == "__cplusplus")
        elif word == "endif" and hidden:
            hidden.pop()
        elif word == "else" and hidden:
            hidden[-1] = False
        elif word == "define" and not any(hidden):
            macro = re.match(r"(\w+)(\()?\s*(.*)", argument)
            if macro and not macro[2]:  # with "(" right after the name it takes arguments
                macros.setdefault(macro[1], macro[3].strip())
    return macros, "\n".join(rest)


# ------------------------------------------------------------------------------------------------------
# Enums and structs

_TYPES = {f"__{sign}{bits}": bits // 8 for sign in ("u", "s", "le", "be") for bits in (8, 16, 32, 64)}
_TYPES.update({"__aligned_u64": 8, "__kernel_rwf_t": 4, "__kernel_time64_t": 8})
_TYPES.update({"char": 1, "short": 2, "int": 4, "unsigned int": 4, "unsigned": 4})
_TYPES.update({"long long": 8, "unsigned long long": 8})
_SIGNED = re.compile(r"__s\d+$|__kernel_|int$|long long$|short$")

# Defined in another header, but used by value.
_KNOWN_STRUCTS = {"__kernel_timespec": Struct("__kernel_timespec", 16, 8, {})}


class _Parser:
    """Parse the tokens of the preprocessed text."""

    def __init__(self, macros: dict[str, str], text: str) -> None:
        self.tokens = re.findall(r"[A-Za-z_]\w*|\d\w*|<<|>>|\"[^\"]*\"|[^\s\w]", text)
        self.at = 0
        self.definitions: dict[str, str] = dict(macros)
        self.structs: dict[str, Struct] = {}
        self.skipped: list[str] = []
        self.values: dict[str, int | None] = {}

    def run(self) -> Header:
        while self.at < len(self.tokens):
            word, after = self.peek(), self.peek(1)
            if word == "enum" and (after == "{" or self.peek(2) == "{"):
                self.enum()
            elif word == "struct" and self.peek(2) == "{":
                self.struct()
            else:
                self.skip_declaration()
        constants = {}
        for name, expression in self.definitions.items():
            value = self.evaluate(name)
            if value is not None:
                constants[name] = value
            elif expression:  # an empty macro guards against a second inclusion
                self.skipped.append(name)
        return Header(constants, self.structs, tuple(self.skipped))

    def peek(self, ahead: int = 0) -> str:
        return self.tokens[self.at + ahead] if self.at + ahead < len(self.tokens) else ""

    def take(self, wanted: str = "") -> str:
        token = self.peek()
        if not token or (wanted and token != wanted):
            raise ValueError(f"{wanted or 'more'} expected, not {token or 'the end'!r}")
        self.at += 1
        return token

    def take_balanced(self, opening: str, closing: str) -> list[str]:
        """Take tokens up to the matching bracket, which is dropped."""
        self.take(opening)
        depth, start = 1, self.at
        while depth:
            token = self.take()
            depth += (token == opening) - (token == closing)
        return self.tokens[start : self.at - 1]

    def skip_declaration(self) -> None:
        """Skip a prototype, a typedef, a forward declaration or a function."""
        while self.at < len(self.tokens):
            if self.peek() == "{":
                self.take_balanced("{", "}")
                if self.peek() != ";":
                    return
            elif self.take() == ";":
                return

    def enum(self) -> None:
        self.take("enum")
        if self.peek() != "{":
            self.take()
        previous = ""
        for entry in _split(self.take_balanced("{", "}"), ","):
            if entry:
                name, *expression = entry
                following = f"({previous}) + 1" if previous else "0"
                self.definitions.setdefault(name, " ".join(expression[1:]) or following)
                previous = name
        self.skip_declaration()

    def struct(self) -> None:
        self.take("struct")
        name = self.take()
        members, size, align = self.members("struct")
        self.structs[name] = Struct(name, size, align, members)
        if size is None:
            self.skipped.append(f"struct {name}")
        self.skip_declaration()

    def members(self, kind: str) -> tuple[dict[str, Member], int | None, int | None]:
        """Take a body in braces and the attributes after it; place its members."""
        self.take("{")
        found: dict[str, Member] = {}
        end: int | None = 0  # of a struct: where the next member may begin; of a union: its size
        align: int | None = 1
        while self.peek() != "}":
            for inner, size, alignment in self.declaration():
                if size is None or alignment is None or end is None or align is None:
                    start = end = align = None
                else:
                    align = max(align, alignment)
                    start = -(-end // alignment) * alignment if kind == "struct" else 0
                    end = start + size if kind == "struct" else max(end, size)
                for member in inner:
                    offset = None if start is None or member.offset is None else start + member.offset
                    found[member.name] = member._replace(offset=offset)
        self.take("}")
        if self.attributes():
            align = align and 1
        if end is None or align is None:
            return found, None, None
        return found, -(-end // align) * align, align

    def attributes(self) -> bool:
        """Take an __attribute__((...)), if any; tell whether it is packed."""
        packed = False
        while self.peek() == "__attribute__":
            self.take()
            packed |= "packed" in self.take_balanced("(", ")")
        return packed

    def declaration(self) -> Iterator[tuple[list[Member], int | None, int | None]]:
        """Take one declaration; yield the members, size and alignment of each of its declarators."""
        if self.peek() in ("struct", "union") and self.peek(1) == "{":
            yield self.group()
        elif self.peek() == "__DECLARE_FLEX_ARRAY":
            self.take()
            kind, name = (" ".join(part) for part in _split(self.take_balanced("(", ")"), ","))
            _, align = self.measure(kind)
            yield [Member(name, kind, 0, 0, 0, bool(_SIGNED.match(kind)))], 0, align
            self.take(";")
        else:
            start = self.at
            while self.peek() not in (";", "}", ""):
                self.at += 1
            words = self.tokens[start : self.at]
            self.take(";")
            yield from self.declarators(words)

    def group(self) -> tuple[list[Member], int | None, int | None]:
        """Take a struct or union without a tag; with a name its members get that name and a dot."""
        members, size, align = self.members(self.take())
        inner = list(members.values())
        if self.peek() != ";":
            name = self.take()
            inner = [member._replace(name=f"{name}.{member.name}") for member in inner]
            inner.insert(0, Member(name, "struct", 0, size, None, False))
        self.take(";")
        return inner, size, align

    def declarators(self, words: list[str]) -> Iterator[tuple[list[Member], int | None, int | None]]:
        """Yield the declarations of "type a, b[3]", each as a list of one."""
        first, *others = _split(words, ",")
        name_at = first.index("[") - 1 if "[" in first else len(first) - 1
        kind = " ".join(word for word in first[:name_at] if word != "const")
        size, align = self.measure(kind)
        for name, *brackets in (first[name_at:], *others):
            count = None
            total = size
            if brackets:
                count = self.calculate(" ".join(brackets[1:-1]) or "0")
                total = None if size is None or count is None else size * count
            yield [Member(name, kind, 0, total, count, bool(_SIGNED.match(kind)))], total, align

    def measure(self, kind: str) -> tuple[int | None, int | None]:
        """Return size and alignment of a type, None if unknown: a pointer's depends on the machine."""
        if kind.startswith("struct "):
            struct = self.structs.get(kind[7:]) or _KNOWN_STRUCTS.get(kind[7:])
            return (struct.size, struct.align) if struct else (None, None)
        size = _TYPES.get(kind)
        return size, size

    def evaluate(self, name: str) -> int | None:
        """Return the value of a macro or an enum's member; None if it is not an integer."""
        if name not in self.values:
            self.values[name] = None  # so that a macro naming itself ends here
            if name in self.definitions:
                self.values[name] = self.calculate(self.definitions[name])
        return self.values[name]

    def calculate(self, expression: str) -> int | None:
        """Return the value of a C expression of integers."""
        unsigned = wide = False
        for cast in re.findall(r"\(\s*(\w+)\s*\)", expression):
            if cast in _TYPES:
                unsigned |= not _SIGNED.match(cast)
                wide |= _TYPES[cast] == 8
                expression = re.sub(rf"\(\s*{cast}\s*\)", "", expression)
        for suffix in re.findall(r"\b(?:0[xX][0-9a-fA-F]+|\d+)([uUlL]+)\b", expression):
            unsigned |= "u" in suffix.lower()
            wide |= "ll" in suffix.lower()
        expression = re.sub(r"\b(0[xX][0-9a-fA-F]+|\d+)[uUlL]+\b", r"\1", expression)
        expression = re.sub(r"\b0(?=[0-7]+\b)", "0o", expression)
        try:
            value = self.compute(ast.parse(expression.strip(), mode="eval").body)
        except (SyntaxError, ValueError, RecursionError):
            return None
        if value < 0 and unsigned:
            value &= 2**64 - 1 if wide else 2**32 - 1
        return value

    def compute(self, node: ast.AST) -> int:
        if isinstance(node, ast.Constant) and type(node.value) is int:
            return node.value
        if isinstance(node, ast.Name) and (value := self.evaluate(node.id)) is not None:
            return value
        if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
            return int(_UNARY[type(node.op)](self.compute(node.operand)))
        if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
            return int(_BINARY[type(node.op)](self.compute(node.left), self.compute(node.right)))
        raise ValueError(ast.dump(node))


_UNARY: dict[type, Any] = {ast.Invert: operator.invert, ast.USub: operator.neg, ast.UAdd: operator.pos}
_BINARY: dict[type, Any] = {
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.BitOr: operator.or_,
    ast.BitAnd: operator.and_,
    ast.BitXor: operator.xor,
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}


def _split(tokens: list[str], separator: str) -> list[list[str]]:
    """Split at the separators outside of brackets."""
    parts: list[list[str]] = [[]]
    depth = 0
    for token in tokens:
        depth += (token in "([{") - (token in ")]}")
        if token == separator and not depth:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts
