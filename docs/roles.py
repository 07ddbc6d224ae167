"""Roles of reStructuredText in docstrings, as links for the site: mkdocs.yml names this file.

``:func:`~vitkern.ops.linear``` becomes a link where a page of ``docs/api`` has that name, and code
where none has.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|attr|data):`(~?)([\w.]+)`")


class Roles(griffe.Extension):
    """Rewrites each docstring as it is collected."""

    def __init__(self) -> None:
        pages = (Path(__file__).parent / "api").glob("*.md")
        self.documented = {
            name for page in pages for name in re.findall(r"^::: (\S+)$", page.read_text(), re.M)
        }

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for every module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(self._markdown, obj.docstring.value)

    def _markdown(self, role: re.Match[str]) -> str:
        short, name = role.groups()
        last = name.rpartition(".")[2]
        text = f"`{last if short else name}`"
        # An op's function has the name of its module, which stands before it.
        for target in (f"{name}.{last}", name):
            if target in self.documented:
                return f"[{text}][{target}]"
        return text
