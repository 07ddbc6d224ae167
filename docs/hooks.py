"""Pages of the site that are files of the root: mkdocs.yml names this file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FROM_ROOT = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """The file of the root, its links as from ``docs``."""
    name = FROM_ROOT.get(page.file.src_uri)
    if name is None:
        return markdown
    text = (ROOT / name).read_text().replace("](docs/", "](")
    for here, there in FROM_ROOT.items():
        text = text.replace(f"]({there})", f"]({here})")
    return text
