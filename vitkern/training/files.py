"""Files that are there whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["remove_temporaries", "write_bytes", "write_json"]

_MARK = ".part"


def write_bytes(path: Path, content: bytes) -> None:
    """Writes under another name, has the disk take it, and renames.

    After a crash at any moment ``path`` has its old content or the new one. Nothing is left behind
    where an error is raised.

    Raises:
        OSError: the disk is full, or what else keeps a file from being written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_MARK}")
    try:
        with open(temporary, "wb") as file:
            _write(file, content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """``value`` as JSON; as :func:`write_bytes`."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def remove_temporaries(folder: Path) -> None:
    """Deletes what killed processes had half written. For when no other process writes there."""
    for path in folder.glob(f".*{_MARK}"):
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _write(file: Any, content: bytes) -> None:
    file.write(content)


def _sync_folder(folder: Path) -> None:
    """Has the rename itself on the disk, where the system can do that."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
