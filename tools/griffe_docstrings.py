# SPDX-License-Identifier: MIT
"""Pass this package's docstrings to mkdocstrings as Markdown, together with its comments "#: ...".

What it is: an extension of Griffe, which parses the package for the API reference (mkdocs.yml names it).
Must not know: how a docstring becomes Markdown; tools/build_docs.py does that.
Invariant: an attribute is shown if a comment describes it, or if it is a field of a record.
Read next: tools/build_docs.py.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import griffe

sys.path.insert(0, str(Path(__file__).resolve().parent))

import build_docs


class Docstrings(griffe.Extension):
    """Rewrite docstrings before they are rendered."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of any object."""
        if obj.docstring:
            obj.docstring.value = build_docs.markdown(obj.docstring.value)

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Use the comment above an attribute as its docstring."""
        if attr.docstring or attr.lineno is None or attr.name.startswith("_"):
            return
        text = Path(str(attr.filepath)).read_text(encoding="utf-8").splitlines()
        said = build_docs.remark(attr.lineno, text)
        field = attr.parent is not None and attr.parent.is_class and "instance-attribute" not in attr.labels
        if said or (field and attr.annotation is not None):
            attr.docstring = griffe.Docstring(said, parent=attr, lineno=attr.lineno)
