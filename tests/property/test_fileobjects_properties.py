# SPDX-License-Identifier: MIT
"""files.open() beside the builtin's open(): the same operations give the same results and exceptions.

What it is: random modes, contents and operations, done to two files; each result, exception and position is
compared, and the files' contents at the end. The page cache's answers are removed at random.
Must not know: how the file objects work, except the size of their chunks.
Invariant: there are no exceptions but those that the comments name.
Read next: ../test_fileobjects.py.
"""

from __future__ import annotations

import asyncio
import builtins
import os
import sys
import warnings
from collections.abc import Iterator

import pytest
from hypothesis import given, strategies as st

from rawuring import fileobjects, fileops


class MuchBytes(bytes):
    """Bytes with a short repr()."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes from {self[:20]!r}>"


class MuchText(str):
    """Text with a short repr()."""

    def __repr__(self) -> str:
        return f"<{len(self)} characters from {self[:20]!r}>"


MODES = [f"{letter}{plus}" for letter in "rwax" for plus in ("", "+")]
sizes = st.one_of(st.none(), st.integers(-2, 40), st.integers(0, 20000))
some_bytes = st.one_of(
    st.binary(max_size=30),
    st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\r\n", b"\r", b"d" * 50]), max_size=30).map(b"".join),
    st.binary(min_size=1, max_size=40).map(lambda data: MuchBytes(data * 300)),
)
some_text = st.one_of(
    st.text("abcäöü€日𝄞\n\r", max_size=40),
    st.lists(st.sampled_from(["a", "bc", "\n", "\r\n", "\r", "é" * 30, "日本"]), max_size=40).map("".join),
    st.text("aä\n", min_size=1, max_size=20).map(lambda text: MuchText(text * 500)),
)
where = st.tuples(st.integers(-5, 60), st.sampled_from([0, 0, 0, 1, 2, 7]))

COMMON = [
    st.tuples(st.just("read"), st.tuples(sizes) | st.just(())),
    st.tuples(st.just("readline"), st.tuples(sizes) | st.just(())),
    st.tuples(st.just("readline"), st.just(())),
    st.tuples(st.just("readlines"), st.tuples(st.one_of(st.none(), st.integers(-1, 100)))),
    st.tuples(st.just("next"), st.just(())),
    st.tuples(st.just("tell"), st.just(())),
    st.tuples(st.just("tell"), st.just(())),
    st.tuples(st.just("flush"), st.just(())),
    st.tuples(st.just("truncate"), st.one_of(st.just(()), st.tuples(st.integers(-2, 50)))),
    st.tuples(st.sampled_from(["readable", "writable", "seekable", "isatty"]), st.just(())),
    st.tuples(st.just("write"), st.tuples(st.sampled_from([1, None, "text", b"bytes"]))),
]
binary_operations = st.lists(
    st.one_of(
        *COMMON,
        st.tuples(st.just("seek"), where),
        st.tuples(st.just("write"), st.tuples(some_bytes)),
        st.tuples(st.just("writelines"), st.tuples(st.lists(some_bytes, max_size=3))),
        st.tuples(
            st.sampled_from(["read1", "readinto", "readinto1", "peek"]), st.tuples(st.integers(-1, 60))
        ),
        st.tuples(st.sampled_from(["readinto"]), st.tuples(st.integers(0, 30000))),
    ),
    max_size=25,
)
text_operations = st.lists(
    st.one_of(
        *COMMON,
        st.tuples(st.just("seek"), st.tuples(st.just(0), st.sampled_from([0, 0, 1, 2, 2]))),
        st.tuples(st.just("seek"), st.tuples(st.sampled_from([-1, 1, 3]), st.sampled_from([1, 2, 9]))),
        st.tuples(st.just("seek to tell"), st.tuples(st.integers(0, 5))),
        st.tuples(st.just("write"), st.tuples(some_text)),
        st.tuples(st.just("writelines"), st.tuples(st.lists(some_text, max_size=3))),
    ),
    max_size=25,
)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("differential"))


class Cache:
    """The page cache as seen through read_now(): it is empty where its script says so."""

    def __init__(self, script: list[bool]) -> None:
        self.script = script
        self.real = fileops.read_now

    def __enter__(self) -> None:
        fileops.read_now = self.read_now  # type: ignore[assignment]

    def __exit__(self, *exception: object) -> None:
        fileops.read_now = self.real

    def read_now(self, *args: object) -> int | None:
        if self.script:
            self.script.append(self.script.pop(0))
            if self.script[-1]:
                return None
        return self.real(*args)  # type: ignore[arg-type]


def outcome_of(function, *args):
    """Call the builtin's method; return its result, or its exception and message."""
    try:
        return function(*args)
    except StopIteration:
        return "no more"
    except Exception as error:
        return error


async def outcome_of_ours(function, *args):
    try:
        result = function(*args)
        return await result if hasattr(result, "__await__") else result
    except StopAsyncIteration:
        return "no more"
    except Exception as error:
        return error


CPYTHON = sys.implementation.name == "cpython"


def same(theirs, ours, path, our_path) -> bool:
    """Compare two outcomes; PyPy has its own exceptions and messages."""
    if not isinstance(theirs, Exception):
        return type(theirs) is type(ours) and theirs == ours
    if not CPYTHON:
        return isinstance(ours, Exception)
    return type(theirs) is type(ours) and str(theirs) == str(ours).replace(our_path, path)


def call(file, name, args, cookies):
    """Return an operation's method of either file, its arguments, and the new buffer that it fills."""
    if name in ("readinto", "readinto1"):
        buffer = bytearray(max(args[0], 0))
        method = getattr(file, name)
        return method, (buffer,), buffer
    if name == "seek to tell":
        return file.seek, (cookies[args[0] % len(cookies)] if cookies else 0,), None
    return getattr(file, name, None), args, None


async def compare(folder, content, mode, options, operations, chunk, text):
    theirs_path, ours_path = os.path.join(folder, "theirs"), os.path.join(folder, "ours")
    for path in (theirs_path, ours_path):
        if content is None or "x" in mode:
            if os.path.exists(path):
                os.unlink(path)
        else:
            with builtins.open(path, "wb") as file:
                file.write(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = outcome_of(lambda: builtins.open(theirs_path, mode, **options))  # noqa: SIM115
        ours = await outcome_of_ours(lambda: fileobjects.open(ours_path, mode, **options))
    if isinstance(theirs, Exception):
        assert same(theirs, ours, theirs_path, ours_path), (theirs, ours)
        return
    assert not isinstance(ours, Exception), ours
    if text and chunk:
        theirs._CHUNK_SIZE = ours._chunk = ours._like._CHUNK_SIZE = chunk
    elif text:
        ours._chunk = ours._like._CHUNK_SIZE
    cookies: list[int] = []
    our_cookies: list[int] = []
    iterating = False
    log = []
    try:
        for name, args in operations:
            if text and not CPYTHON and name.startswith("read") and args == (None,):
                continue  # PyPy accepts None
            if iterating and name in ("flush", "truncate", "write", "writelines"):
                continue  # during an iteration the builtin's tell() works again, with a wrong result
            if name == "next":
                one = outcome_of(lambda: next(theirs))
                other = await outcome_of_ours(lambda: ours.__anext__())
                iterating = text and one != "no more" and not isinstance(one, Exception)
            else:
                method, their_args, their_buffer = call(theirs, name, args, cookies)
                if method is None:
                    continue  # RawFile and BufferedFile have more than some of the builtin's classes
                one = outcome_of(method, *their_args)
                method, our_args, our_buffer = call(ours, name, args, our_cookies)
                other = await outcome_of_ours(method, *our_args)
                assert their_buffer == our_buffer, (log, name)
                if name == "tell" and isinstance(one, int):
                    cookies.append(one)
                    our_cookies.append(other)
                if text and not CPYTHON and name in ("tell", "seek to tell"):
                    continue  # PyPy packs its cookies differently
                if text and name == "readlines" and (isinstance(one, Exception) or (args[0] or 0) > 0):
                    iterating = True  # perhaps not at the end
                if name.startswith("seek") and not isinstance(one, Exception):
                    iterating = False
            log.append((name, args, one))
            assert same(one, other, theirs_path, ours_path), (log, other)
            if isinstance(one, UnicodeError):
                break  # no rule defines what remains of the text
    finally:
        one = outcome_of(theirs.close)
        other = await outcome_of_ours(ours.close)
    assert same(one, other, theirs_path, ours_path), (log, one, other)
    assert ours.closed
    for name in ("read", "readline", "tell", "flush", "seek"):
        args = (0,) if name == "seek" else ()
        one = outcome_of(getattr(theirs, name), *args)
        other = await outcome_of_ours(getattr(ours, name), *args)
        assert same(one, other, theirs_path, ours_path), (name, one, other)
    with builtins.open(theirs_path, "rb") as file, builtins.open(ours_path, "rb") as our_file:
        assert file.read() == our_file.read(), log


much = st.binary(min_size=10, max_size=30).map(lambda data: MuchBytes(data * 1000))
contents = st.one_of(st.none(), some_bytes, much)
caches = st.lists(st.booleans(), max_size=4)


@given(
    contents, st.sampled_from(MODES), st.sampled_from([-1, -1, 0, 1, 5, 16, 100]), binary_operations, caches
)
def test_binary_file_when_used_at_random_then_as_the_builtins(
    loop, folder, content, mode, buffering, operations, cache
) -> None:
    if any(cache) and buffering > 1:
        buffering = max(buffering, 100)  # each miss is a hop to a thread
    with Cache(cache):
        loop.run_until_complete(
            compare(folder, content, mode + "b", {"buffering": buffering}, operations, 0, False)
        )


ENCODINGS = [
    "utf-8", "utf-8", "latin-1", "utf-16", "utf-8-sig", "utf-16-le", "shift_jis", "iso2022_jp", "ascii",
]  # fmt: skip


@given(
    st.one_of(st.none(), some_text), st.sampled_from(MODES), st.sampled_from([-1, 1, 16]),
    st.sampled_from(ENCODINGS), st.sampled_from(["strict", "replace", "ignore", None]),
    st.sampled_from([None, None, "", "\n", "\r", "\r\n"]), st.sampled_from([0, 0, 1, 3, 10]), text_operations,
    caches,
)  # fmt: skip
def test_text_file_when_used_at_random_then_as_the_builtins(
    loop, folder, text, mode, buffering, encoding, errors, newline, chunk, operations, cache
) -> None:
    content = None if text is None else text.encode(encoding, "ignore")
    options = {"buffering": buffering, "encoding": encoding, "errors": errors, "newline": newline}
    with Cache(cache):
        loop.run_until_complete(compare(folder, content, mode, options, operations, chunk, True))


@pytest.mark.parametrize("mode", ["", "rw", "U", "bt", "b", "+", "r++", "rbb", "q", 3])
@pytest.mark.parametrize("options", [{}, {"buffering": 0}, {"encoding": "nothing"}, {"newline": "x"}])
def test_open_when_arguments_are_wrong_then_the_builtins_words(loop, folder, mode, options) -> None:
    path = os.path.join(folder, "there")
    with builtins.open(path, "wb"):
        theirs = outcome_of(lambda: builtins.open(path, mode, **options))  # noqa: SIM115
    ours = loop.run_until_complete(outcome_of_ours(lambda: fileobjects.open(path, mode, **options)))
    assert isinstance(theirs, Exception)
    assert same(theirs, ours, path, path), (theirs, ours)


