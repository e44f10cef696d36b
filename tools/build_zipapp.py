#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Build rawuring-probe.pyz: the probe in one file, for a host that has only Python.

    python3 tools/build_zipapp.py                    writes dist/rawuring-probe.pyz
    python3 tools/build_zipapp.py --output FILE
    python3 -I -S rawuring-probe.pyz --quiet         runs anywhere, from Python 3.9 on

It contains the probe and the modules that it imports, as rawuring.vendor finds them, with licence, version
and hashes. The same checkout gives the same bytes: no times, no owners, and nothing is compressed, because
compressed bytes depend on the zlib at hand, and a bare Python may have none.

Must not know: the modules of the probe.
Invariant: no property of the building machine gets into the file.
Read next: rawuring/vendor.py.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import zipfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT))

from rawuring import vendor  # noqa: E402

# Older Pythons run this file up to the version check, so it must not use newer syntax.
MAIN = """\
# SPDX-License-Identifier: MIT
import sys

if sys.version_info < (3, 9):
    sys.exit("rawuring needs Python 3.9 or newer; this is Python %d.%d" % sys.version_info[:2])

import runpy

# A file in a zip is compiled at each start, so --forbid loads no more than it needs.
alone = "--forbid" in sys.argv and len(sys.argv) <= 3
runpy.run_module("rawuring.forbid" if alone else "rawuring.probe", run_name="__main__")
"""


def build() -> bytes:
    """Return the archive."""
    files = {f"rawuring/{name}": text for name, text in vendor.package(["probe"]).items()}
    files["__main__.py"] = MAIN
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as out:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system = 3  # Unix, wherever it is built
            info.external_attr = 0o100644 << 16
            out.writestr(info, files[name])
    return b"#!/usr/bin/env python3\n" + archive.getvalue()


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=CHECKOUT / "dist" / "rawuring-probe.pyz")
    output = parser.parse_args(arguments).output
    output.parent.mkdir(parents=True, exist_ok=True)
    data = build()
    output.write_bytes(data)
    os.chmod(output, 0o755)
    print(f"{output}: {len(data)} bytes ({' '.join(vendor.closure(['probe']))})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
