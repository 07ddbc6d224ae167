"""The history of a run, a line of JSON an event, in step with its checkpoints."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vitkern.training import files

__all__ = ["History", "read_history"]


def read_history(path: Path) -> list[dict[str, Any]]:
    """The lines of a history; one that a kill or a crash cut off is left out."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    return [entry for entry in map(_parse, text.splitlines()) if entry is not None]


def _parse(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


class History:
    """Appends to a file.

    A full disk stops no training: lines wait in memory until there is room.

    Args:
        path: the file; its folder exists.
        report: what is told once when lines cannot be written.
        active: whether to write at all; of several processes one does.
    """

    def __init__(self, path: Path, report: Callable[[str], None], active: bool = True) -> None:
        self.path = path
        self.entries: list[dict[str, Any]] = []
        self._waiting: list[str] = []
        self._report = report
        self._active = active

    def begin(self, step: int | None) -> None:
        """Keeps what happened up to optimizer step ``step``, of which there is a checkpoint; with
        None, nothing. What comes later will happen again.

        Raises:
            OSError: it cannot be written.
        """
        old = [] if step is None else read_history(self.path)
        self.entries = [one for one in old if one["step"] <= (step or 0)]
        if self._active:
            text = "".join(json.dumps(one) + "\n" for one in self.entries)
            files.write_bytes(self.path, text.encode())

    def add(self, entry: dict[str, Any]) -> None:
        """One line; it has "kind" and "step"."""
        self.entries.append(entry)
        if not self._active:
            return
        self._waiting.append(json.dumps(entry) + "\n")
        try:
            with open(self.path, "ab", buffering=0) as file:
                size, text = file.tell(), "".join(self._waiting).encode()
                if file.write(text) < len(text):
                    os.truncate(self.path, size)  # else these lines would be there twice
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            if len(self._waiting) == 1:
                self._report(f"history: cannot write {self.path}: {error.strerror or error}")
        else:
            self._waiting.clear()
