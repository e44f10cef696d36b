# SPDX-License-Identifier: MIT
"""Copy a file or a tree and show the progress; Ctrl-C stops it after the current step.

    python examples/files_copy.py [SOURCE TARGET]

The file system shares blocks if it can; otherwise the kernel copies. Without arguments it copies the
examples.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rawuring import files


def show(text: str) -> None:
    """Show progress on one line of a terminal, and nothing elsewhere."""
    if sys.stderr.isatty():
        print(f"\r{text}\033[K", end="", file=sys.stderr, flush=True)


async def copy(source: str, target: str) -> str:
    """Copy, and report what was copied."""
    if os.path.isdir(source):
        last = 0

        def count(copied: int) -> None:
            nonlocal last
            last = copied
            show(f"{copied} files")

        await files.copy_tree(source, target, symlinks=True, dirs_exist_ok=True, progress=count)
        return f"{last} files"
    size = await files.copy_file(source, target, progress=lambda at, size: show(f"{at} of {size} bytes"))
    return f"{size} bytes"


async def main(source: str = "", target: str = "") -> None:
    """Copy the named file or tree, or the examples."""
    if source and target:
        print(await copy(source, target))
        return
    with tempfile.TemporaryDirectory() as directory:
        here = os.path.dirname(os.path.abspath(__file__))
        print(await copy(__file__, os.path.join(directory, "one")))
        await copy(here, os.path.join(directory, "all"))
        print(sorted(os.listdir(here)) == sorted(os.listdir(os.path.join(directory, "all"))))


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]))
    except OSError as error:  # including shutil.Error, which lists each file
        sys.exit(f"{error}")
    except KeyboardInterrupt:
        sys.exit("stopped; the copied files remain")
