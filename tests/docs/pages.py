"""What pages of the documentation contain: blocks of code; and how a guide's are followed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", *sorted(
    str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md")
))  # fmt: skip

_BLOCK = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.M | re.S)
SHELL = ("console", "sh", "bash", "shell")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: ``python``, ``diff``, ``console`` or none.
        title: of the file that it is, or that it changes; empty where it is run.
        long: whether it takes minutes.
        code: its lines.
        line: where it begins in the page.
    """

    language: str
    title: str
    long: bool
    code: str
    line: int

    def commands(self) -> list[str]:
        """The commands of a shell's block, without comments; a line that ends in \\ goes on."""
        joined = re.sub(r"\s*\\\n\s*", " ", self.code)
        lines = (re.sub(r"(^|\s+)#.*$", "", line).strip() for line in joined.splitlines())
        return [line for line in lines if line]


def blocks(page: str, root: Path = ROOT) -> list[Block]:
    """The fenced blocks of a page."""
    text = (root / page).read_text()
    return [
        Block(
            found[1],
            "".join(re.findall(r'title="([^"]*)"', found[2])),
            "long" in re.sub(r'"[^"]*"', "", found[2]).split(),
            found[3],
            text.count("\n", 0, found.start()) + 1,
        )
        for found in _BLOCK.finditer(text)
    ]


def hunks(block: Block) -> Iterator[tuple[str, str]]:
    """What stands in a file before and after each change of a ``diff`` block."""
    for part in re.split(r"^@@\n", block.code, flags=re.M):
        lines = part.splitlines(keepends=True)
        assert all(line[0] in " +-\n" for line in lines), part
        yield (
            "".join(line[1:] or line for line in lines if line[0] != "+"),
            "".join(line[1:] or line for line in lines if line[0] != "-"),
        )


def follow(block: Block, root: Path) -> None:
    """Do in a checkout what a block with a title says: write the file, or change it.

    Raises:
        AssertionError: what is to be changed is not in the file exactly once.
    """
    path = root / block.title
    if block.language != "diff":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.code)
        return
    text = path.read_text()
    for before, after in hunks(block):
        assert text.count(before) == 1, f"{block.title} has {text.count(before)} times:\n{before}"
        text = text.replace(before, after)
    path.write_text(text)
