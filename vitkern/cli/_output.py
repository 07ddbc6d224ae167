"""Printing: tables for people, JSON for programs."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TextIO, cast

from vitkern.cli._errors import Failure, Usage

if TYPE_CHECKING:
    from rich.console import Console

PICTURES = (".png", ".svg", ".pdf")
"""Endings of files that pictures are drawn in."""


def console() -> Console:
    """The output; where it is no terminal, wide enough that tables are not folded."""
    from rich.console import Console

    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(file=cast("IO[str]", _Trimmed(sys.stdout)), width=160, highlight=False)


class _Trimmed(io.TextIOBase):
    """Text without the spaces that rich fills lines with, for what reads the output as lines."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """By which rich chooses its boxes."""
        return self._file.encoding

    def write(self, text: str) -> int:
        """rich writes whole lines at once."""
        self._file.write(re.sub(r"[ \t]+$", "", text, flags=re.M))
        return len(text)

    def flush(self) -> None:
        """So that errors of a pipe come up."""
        self._file.flush()


def print_json(value: Any) -> None:
    """``value`` on the output."""
    print(json.dumps(value, indent=2, allow_nan=False))


def target(option: str, name: str | None) -> Path | None:
    """The file that an option names; None where it names none, or the output (``-``).

    Makes its folder, so that what cannot be written fails before the work, not after.

    Raises:
        Failure: it cannot be written; names the option.
    """
    if name in (None, "-"):
        return None
    path = Path(str(name))
    with writing(option, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise PermissionError(f"no permission to write in {path.parent}")
    return path


def check_picture(name: str | None) -> None:
    """The file that ``--picture`` names, if any, is of a kind that can be drawn.

    Raises:
        Usage: its ending is of no format that is drawn.
        Failure: there is nothing to draw with.
    """
    if name is None:
        return
    if Path(name).suffix not in PICTURES:
        raise Usage(f"--picture: {Path(name).name} ends in none of {', '.join(PICTURES)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise Failure("--picture: matplotlib is not installed: pip install matplotlib")


@contextmanager
def writing(option: str, path: Path) -> Iterator[None]:
    """Turn the system's errors about a file into one line that names the option.

    Raises:
        Failure: instead of OSError.
    """
    try:
        yield
    except OSError as error:
        block = next((one for one in path.parents if one.exists() and not one.is_dir()), None)
        why = error.strerror or str(error) if block is None else f"{block} is not a folder"
        raise Failure(f"{option}: cannot write {path}: {why}") from error


def begin(label: str, number: int, count: int) -> None:
    """A line for each row where the error stream is a file: minutes of silence look like a hang."""
    if not sys.stderr.isatty():
        print(f"{label} ({number} of {count})", file=sys.stderr, flush=True)


def show_progress(label: str, step: str) -> None:
    """One line on a terminal, which the next one overwrites; nothing elsewhere."""
    if sys.stderr.isatty():
        text = f"{label}: {step}" if step else ""
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
