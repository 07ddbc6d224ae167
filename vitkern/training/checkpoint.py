"""Checkpoints: one file each, complete or absent, with a checksum; and models' weights."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from vitkern.training import files, tree

__all__ = [
    "CheckpointError",
    "CheckpointStore",
    "CorruptCheckpoint",
    "check_fits",
    "check_settings",
    "read_state",
    "write_state",
]

_FORMAT = "vitkern-state-1"


class CheckpointError(ValueError):
    """There is no checkpoint to go on with, or it is of another model or another training."""


class CorruptCheckpoint(CheckpointError):
    """A file is not what was written."""


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Nested plain data and tensors as one safetensors file.

    Raises:
        TypeError: other things than plain data and tensors in ``state``.
        OSError: it cannot be written; what was there before is still there.
    """
    skeleton, tensors = tree.split(state)
    text = json.dumps(skeleton)
    metadata = {"format": _FORMAT, "state": text, "digest": tree.digest(text, tensors)}
    files.write_bytes(path, save(tensors, metadata))


def read_state(path: Path) -> dict[str, Any]:
    """What :func:`write_state` wrote, with tensors on the host.

    Raises:
        CorruptCheckpoint: cut off, altered, or of another kind.
        OSError: it cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} is not a file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, UnicodeDecodeError) as error:
        raise CorruptCheckpoint(f"{path.name} is damaged: {error}") from error
    if metadata.get("format") != _FORMAT:
        raise CorruptCheckpoint(f"{path.name} is no checkpoint of vitkern's trainer")
    text = metadata.get("state", "")
    if tree.digest(text, tensors) != metadata.get("digest"):
        raise CorruptCheckpoint(f"{path.name} is damaged: its checksum does not match")
    state: dict[str, Any] = tree.join(json.loads(text), tensors)
    return state


class CheckpointStore:
    """The checkpoints of a run, named by their optimizer step.

    Args:
        folder: where they are; it exists.
        keep: how many are kept, at least 2: one beside one that turns out to be damaged.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = max(keep, 2)

    def paths(self) -> list[Path]:
        """The checkpoints, newest first."""
        found = []
        for path in self.folder.glob("checkpoint-*.safetensors"):
            step = re.fullmatch(r"checkpoint-(\d+)\.safetensors", path.name)
            if step is not None:
                found.append((int(step[1]), path))
        return [path for _, path in sorted(found, reverse=True)]

    def save(self, step: int, state: Mapping[str, Any]) -> Path:
        """Writes one, and only then removes the oldest.

        Raises:
            OSError: it could not be written; the earlier ones are untouched.
        """
        path = self.folder / f"checkpoint-{step:09d}.safetensors"
        write_state(path, state)
        for old in self.paths()[self.keep :]:
            old.unlink(missing_ok=True)
        return path

    def newest(self, report: Callable[[str], None]) -> dict[str, Any] | None:
        """The newest that is undamaged; None where there is no file at all.

        Damaged ones are reported and renamed, so that they are never counted among the good.

        Raises:
            CheckpointError: there are checkpoints, and every one is damaged.
        """
        paths = self.paths()
        for path in paths:
            state = self._read(path, report)
            if state is not None:
                return state
        if paths:
            raise CheckpointError(
                f"every checkpoint in {self.folder} is damaged ({len(paths)} renamed to *.damaged):"
                " start again in another folder"
            )
        return None

    @staticmethod
    def _read(path: Path, report: Callable[[str], None]) -> dict[str, Any] | None:
        try:
            return read_state(path)
        except CorruptCheckpoint as error:
            report(f"{error}; trying the one before it")
            path.rename(path.with_name(f"{path.name}.damaged"))
            return None


def check_fits(
    weights: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], source: str
) -> None:
    """``weights`` have the names and shapes of ``expected``.

    Raises:
        CheckpointError: they are of another model; lists up to five differences.
    """
    lines = [f"no {key}" for key in expected if key not in weights]
    lines += [f"unknown {key}" for key in weights if key not in expected]
    lines += [
        f"{key} is {tuple(weights[key].shape)}, not {tuple(value.shape)}"
        for key, value in expected.items()
        if key in weights and weights[key].shape != value.shape
    ]
    if lines:
        more = f" and {len(lines) - 5} more" if len(lines) > 5 else ""
        raise CheckpointError(f"{source} is of another model: {'; '.join(lines[:5])}{more}")


def check_settings(was: Mapping[str, Any], now: Mapping[str, Any], source: str) -> None:
    """A run that goes on has the settings ``now`` that it began with.

    Raises:
        CheckpointError: some differ.
    """
    other = [
        f"{name} was {was.get(name)!r} and is {value!r}"
        for name, value in now.items()
        if was.get(name) != value
    ]
    if not other:
        return
    text = f"{source} is of other settings: {'; '.join(other)}"
    if was.get("epochs") != now["epochs"]:
        text += (
            ". A run cannot be made longer or shorter, for its learning rates depend on its length:"
            " begin another in a new folder, from its weights if wanted (transfer.weights)"
        )
    raise CheckpointError(text)
