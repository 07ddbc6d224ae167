"""Weights from a file, a folder or the hub, with an account of everything that does not fit."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from torch import nn

from vitkern.models import _checkpoint_files
from vitkern.models.layouts import layout_of


def load_checkpoint(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> None:
    """Fills ``model`` with the weights of a checkpoint: every parameter, and nothing else.

    Weights of timm have our keys. Those of torchvision (ViT, Swin, Swin V2), of Hugging Face (ViT,
    Swin, Swinv2, DETR) and of Swin's authors are recognised by their keys and converted.

    Values are copied into the model's parameters, on their device and in their dtype. The model is
    unchanged where an error is raised.

    Args:
        model: whose state dict the (converted) weights must fit, key by key and shape by shape.
        path: a .safetensors file; a .pt, .pth or .bin file that holds a state dict, either
            bare or under "state_dict" or "model", which is read with ``weights_only=True``; a
            folder that holds ``model.safetensors``, its shards and their index, or
            ``pytorch_model.bin``, as ``save_pretrained`` writes it; or such a repository on the
            Hugging Face hub as ``organisation/name``, optionally with ``hf-hub:`` before it (which
            also says that no local folder is meant) and ``@revision`` behind it. timm's weights are
            there as ``timm/`` and their full name.
        cache_dir: of the hub's downloads; huggingface_hub's own if None.
        local_files_only: never ask the hub, use what is in its cache.

    Raises:
        FileNotFoundError: no such file, or a folder or repository without one of those files.
        ImportError: the package safetensors or huggingface_hub is needed and not installed.
        ValueError: another suffix, a file that is damaged, holds more than tensors or no state
            dict, a model on the meta device, or weights that do not fit; the message lists every
            missing and unexpected key and every shape and dtype that differs.
    """
    expected = model.state_dict()
    if any(value.is_meta for value in expected.values()):
        raise ValueError("model must not be on the meta device, which holds no values")
    weights: Mapping[str, torch.Tensor] = _checkpoint_files.read(
        path, cache_dir=cache_dir, local_files_only=local_files_only
    )
    layout = layout_of(weights, model)
    name = f"checkpoint {os.fspath(path)!r}"
    if layout is not None:
        name += f" (in the layout of {layout.name})"
        try:
            weights = layout.convert(weights)
        except ValueError as error:
            raise ValueError(f"{name} does not convert: {error}") from error
    misfits = _misfits(weights, expected)
    if misfits:
        listed = "\n  ".join(misfits)
        raise ValueError(f"{name} does not fit this {type(model).__name__}:\n  {listed}")
    model.load_state_dict(weights)


def _misfits(
    weights: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]
) -> list[str]:
    """A line for each key that is missing, unexpected, or of another shape or kind of number."""
    lines = []
    for key, value in expected.items():
        if key not in weights:
            lines.append(f"missing: {key} {tuple(value.shape)}")
        elif weights[key].shape != value.shape:
            lines.append(
                f"shape: {key} is {tuple(weights[key].shape)} in the checkpoint"
                f" and {tuple(value.shape)} in the model"
            )
        elif weights[key].is_floating_point() != value.is_floating_point():
            lines.append(
                f"dtype: {key} is {weights[key].dtype} in the checkpoint"
                f" and {value.dtype} in the model"
            )
    lines.extend(
        f"unexpected: {key} {tuple(value.shape)}"
        for key, value in weights.items()
        if key not in expected
    )
    return lines
