"""Weights from a local file, with an account of everything that does not fit."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

_SUFFIXES = (".safetensors", ".pt", ".pth")
_WRAPPERS = ("state_dict", "model")


def load_checkpoint(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Fills ``model`` with the weights in ``path``: every parameter, and nothing else.

    Values are copied into the model's parameters, on their device and in their dtype. The model is
    unchanged where an error is raised.

    Args:
        model: whose state dict the file must fit, key by key and shape by shape.
        path: a .safetensors file, or a .pt or .pth file that holds a state dict, either bare or
            under "state_dict" or "model"; the latter are read with ``weights_only=True``.

    Raises:
        FileNotFoundError: no such file.
        ImportError: a .safetensors file, and the package safetensors is not installed.
        ValueError: another suffix, a file without a state dict, or one that does not fit; the
            message lists every missing and unexpected key and every shape that differs.
    """
    path = Path(path)
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"checkpoint must end in {', '.join(_SUFFIXES)}, got {str(path)!r}")
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {str(path)!r} is not a file")
    weights = _read(path)
    misfits = _misfits(weights, model.state_dict())
    if misfits:
        listed = "\n  ".join(misfits)
        raise ValueError(
            f"checkpoint {str(path)!r} does not fit this {type(model).__name__}:\n  {listed}"
        )
    model.load_state_dict(weights)


def _read(path: Path) -> dict[str, torch.Tensor]:
    """The state dict in a file.

    Raises:
        ImportError, ValueError: as :func:`load_checkpoint`.
    """
    if path.suffix == ".safetensors":
        try:
            from safetensors.torch import load_file
        except ImportError as error:
            raise ImportError(
                f"checkpoint {str(path)!r} needs the package safetensors: pip install safetensors"
            ) from error
        return load_file(path)
    content: Any = torch.load(path, map_location="cpu", weights_only=True)
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise ValueError(
            f"checkpoint {str(path)!r} must hold a state dict, got {type(content).__name__}"
        )
    for key, value in content.items():
        if not isinstance(value, torch.Tensor):
            raise ValueError(
                f"checkpoint {str(path)!r} must hold a state dict of tensors,"
                f" got {type(value).__name__} under {key!r}"
            )
    return dict(content)


def _misfits(
    weights: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]
) -> list[str]:
    """A line for each key that is missing, unexpected or of another shape."""
    lines = []
    for key, value in expected.items():
        if key not in weights:
            lines.append(f"missing: {key} {tuple(value.shape)}")
        elif weights[key].shape != value.shape:
            lines.append(
                f"shape: {key} is {tuple(weights[key].shape)} in the checkpoint"
                f" and {tuple(value.shape)} in the model"
            )
    lines.extend(
        f"unexpected: {key} {tuple(value.shape)}"
        for key, value in weights.items()
        if key not in expected
    )
    return lines
