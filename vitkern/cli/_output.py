"""Printing: tables for people, JSON for programs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitkern.cli._errors import Failure

if TYPE_CHECKING:
    from rich.console import Console


def console() -> Console:
    """The output; where it is no terminal, wide enough that tables are not folded."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160, highlight=False)


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
