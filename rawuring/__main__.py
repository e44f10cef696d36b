# SPDX-License-Identifier: MIT
# pyright: basic
"""List the commands: ``python -m rawuring``; or run one: ``python -m rawuring COMMAND``.

What it is: the commands with one line each, for the modules that this copy contains; and the check of a copy
by itself: VENDORED.json, the manifest that vendor.py writes, lists the hashes of its files.
Mirrors: nothing.
Must not know: what a command does; how a copy is made.
Invariant: every copy contains this file, so it works alone, and also as path/to/NAME.
Read next: command.py.

``python -m NAME --check`` checks the copy NAME. A copy in one file has no folder, and checks itself before
this file runs. ``python -m rawuring.vendor --check NAME``, where rawuring is installed, also says whether the
copy is out of date.
"""

from __future__ import annotations

import os
import sys

MANIFEST = "VENDORED.json"
SUMS = "SHA256SUMS"
FOLDER = os.path.dirname(os.path.abspath(__file__))

#: The modules that are commands, and what each of them reports or does.
COMMANDS = {
    "probe": "what this kernel offers, who forbids it, what to do about it, and proof",
    "forbid": "whether io_uring is closed here: every way in, tried",
    "inspect": "the rings of a process, or of this host: how full they are, what they wait for",
    "tour": "io_uring in ten chapters: each word that changes, and who changes it",
    "play": "a page of HTML: rings to play with, or what a program's rings did (RAWURING_TRACE)",
    "layout": "the memory of the rings, the structs and the operations, as text, JSON or SVG",
    "aio": "runs an asyncio program on io_uring, unchanged",
    "vendor": "copies of this package: make, check, list",
}


def available() -> list[str]:
    """Name the commands whose modules exist here: a copy may contain a part of the package."""
    if not __package__:  # a folder that was started by its path
        return [name for name in COMMANDS if os.path.exists(os.path.join(FOLDER, f"{name}.py"))]
    from importlib.util import find_spec

    return [name for name in COMMANDS if find_spec(f"{__package__}.{name}") is not None]


def main() -> int:
    """List the commands, or check this copy.

    Returns: the exit code: 0; 1 for a copy that was modified; 2 for a wrong command line, or a manifest that
        cannot be read.
    """
    arguments = sys.argv[1:]
    if arguments == ["--check"]:
        return _check()
    wrong = arguments not in ([], ["-h"], ["--help"])
    sys.stdout.flush()
    if wrong and arguments[0][:1] != "-" and arguments[0] not in available():
        print(f"there is no command {arguments[0]!r}", file=sys.stderr)
    print(_usage(), end="", file=sys.stderr if wrong else sys.stdout)
    return 2 if wrong else 0


def _usage() -> str:
    names = available()
    one_file = hasattr(globals().get("__loader__"), "one_file_package")
    program = f"python {sys.argv[0]}" if one_file else f"python -m {__package__ or os.path.basename(FOLDER)}"
    may_check = one_file or _read(MANIFEST) is not None
    choices = (["COMMAND [ARGUMENTS]"] if names else []) + (["--check"] if may_check else [])
    lines = [f"usage: {program} {' | '.join(choices)}", ""]
    lines += [f"  {name:<9}{COMMANDS[name]}" for name in names]
    lines += ["  --check  whether this copy was modified"] if may_check else []
    return "\n".join(lines) + "\n"


# ------------------------------------------------------------------------------------------------------
# A copy checks itself


def _read(name: str) -> bytes | None:
    """Return a file of this package, also from a zip; None if it does not exist."""
    path = name.split("/")
    try:
        if os.path.isdir(FOLDER):
            with open(os.path.join(FOLDER, *path), "rb") as file:
                return file.read()
        # Not from FOLDER: a zip's loader knows its file by the path in sys.path, which may be relative.
        return bytes(globals()["__loader__"].get_data(os.path.join(os.path.dirname(__file__), *path)))
    except OSError:
        return None


def _digest(name: str, data: bytes) -> str:
    import hashlib

    text = not name.endswith(".pyc")  # version control may have changed the line ends
    return hashlib.sha256(data.replace(b"\r\n", b"\n") if text else data).hexdigest()


def _modified(hashes: dict[str, str]) -> list[str]:
    """Name the files that were changed, are missing, or were added."""
    found = []
    for name, expected in hashes.items():
        data = _read(name)
        if data is None:
            found.append(name + ": missing")
        elif _digest(name, data) != expected:
            found.append(name + ": changed")
    for folder, folders, names in os.walk(FOLDER):
        folders[:] = [each for each in folders if each != "__pycache__"]
        links = [each for each in folders if os.path.islink(os.path.join(folder, each))]
        for each in names + links:
            name = os.path.relpath(os.path.join(folder, each), FOLDER).replace(os.sep, "/")
            if name not in hashes and name not in (MANIFEST, SUMS):
                found.append(name + ": added")
    return sorted(found)


def _check() -> int:
    import json

    try:
        manifest = json.loads(_read(MANIFEST) or b"")
        what = f"rawuring {manifest['version']}"
        modified = _modified(dict(manifest["files"]))
    except (ValueError, KeyError, TypeError) as error:
        print(f"{FOLDER}: cannot read {MANIFEST}: {error}", file=sys.stderr)
        return 2
    print(f"{FOLDER}: {what}")
    for line in ["modified:", *modified] if modified else ["not modified"]:
        print(f"  {line}")
    return 1 if modified else 0


# ------------------------------------------------------------------------------------------------------


def _run() -> None:
    if __package__ and sys.argv[1:2] and sys.argv[1] in available():
        import runpy

        del sys.argv[0]
        runpy.run_module(f"{__package__}.{sys.argv[0]}", run_name="__main__", alter_sys=True)
        return
    import importlib

    try:
        # By name: a partial copy may lack the module, and the host's type checker would report that.
        command = importlib.import_module(".command", __package__ or "?")
    except ImportError:  # a part without commands, or a folder that was started by its path
        sys.exit(main())
    command.run(main)


if __name__ == "__main__":
    _run()
