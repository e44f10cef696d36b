# SPDX-License-Identifier: MIT
"""Print the SHA-256 of files as sha256sum does, reading 64 of them concurrently, with asyncio or without.

    python examples/files_hash.py [--sync] [FILE...]

The hashes are printed in the order of completion. Without arguments it hashes the examples.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rawuring import files


def complain(path: str, data: object) -> bool:
    """Report a file that could not be read."""
    if isinstance(data, OSError):
        print(f"{path}: {data.strerror}", file=sys.stderr)
    return isinstance(data, OSError)


async def hash_files(paths: list[str]) -> dict[str, str]:
    """Hash files on the running loop; hashlib releases the GIL, so it runs in a thread."""
    found = {}
    async for path, data in files.read_each(paths, depth=64, return_exceptions=True):
        if not complain(path, data):
            digest = await files.call(hashlib.sha256, data) if len(data) > 1 << 20 else hashlib.sha256(data)
            found[path] = digest.hexdigest()
    return found


def hash_files_sync(paths: list[str]) -> dict[str, str]:
    """Hash files without a loop."""
    found = files.sync.read_each(paths, depth=64, return_exceptions=True)
    return {path: hashlib.sha256(data).hexdigest() for path, data in found if not complain(path, data)}


def main(arguments: list[str]) -> int:
    """Hash and print; return 1 if a file could not be read."""
    sync = "--sync" in arguments
    paths = [path for path in arguments if path != "--sync"]
    paths = paths or sorted(str(path) for path in Path(__file__).parent.glob("*.py"))
    found = hash_files_sync(paths) if sync else asyncio.run(hash_files(paths))
    for path in paths:
        if path in found:
            print(f"{found[path]}  {path}")
    return int(len(found) < len(set(paths)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
