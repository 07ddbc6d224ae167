"""Transfer: weights from elsewhere, and a backbone that stays as it is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from vitkern.models import _checkpoint_files
from vitkern.models.position_embedding import resample_position_embedding
from vitkern.training.checkpoint import CheckpointError, read_state
from vitkern.training.parameters import count_layers, layer_of

__all__ = ["LoadReport", "freeze_backbone", "load_pretrained", "trainable_share"]

_HEADS = ("head", "head_dist", "fc", "classifier")


@dataclass(frozen=True)
class LoadReport:
    """What :func:`load_pretrained` did.

    Attributes:
        loaded: names that got a value.
        fresh: names of the head's parameters that kept theirs: they have another number of classes.
        resampled: names of position embeddings that were brought to another grid.
    """

    loaded: list[str]
    fresh: list[str]
    resampled: list[str]


def load_pretrained(model: nn.Module, source: str | os.PathLike[str]) -> LoadReport:
    """Fills ``model`` with weights from a file, a run or timm.

    A head of another number of classes stays fresh, and position embeddings of another grid are
    resampled (bicubic). All else must fit: nothing is skipped silently.

    Args:
        model: of ``vitkern.models`` or timm.
        source: a .safetensors, .pt or .pth file with a state dict, the folder of a run (its best
            weights), or a name of timm's, whose weights are downloaded unless they are in the
            cache.

    Raises:
        FileNotFoundError: no such file or name.
        ValueError: the weights do not fit; lists what. The model is unchanged.
    """
    weights = _weights(source)
    expected = model.state_dict()
    values: dict[str, torch.Tensor] = {}
    fresh, resampled, wrong = [], [], []
    for name, target in expected.items():
        value = weights.get(name)
        if value is not None and value.shape == target.shape:
            values[name] = value
        elif name.split(".")[0] in _HEADS:
            fresh.append(name)
        elif value is None:
            wrong.append(f"no {name}")
        elif name == "pos_embed" and value.shape[::2] == target.shape[::2]:
            values[name] = _resample(model, value, target)
            resampled.append(name)
        else:
            wrong.append(f"{name} is {tuple(value.shape)}, not {tuple(target.shape)}")
    wrong += [
        f"unknown {name}"
        for name in weights
        if name not in expected and name.split(".")[0] not in _HEADS
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(f"weights of {source} do not fit: {'; '.join(wrong[:5])}{more}")
    model.load_state_dict(values, strict=False)  # what is left out is in `fresh`
    return LoadReport(list(values), fresh, resampled)


def freeze_backbone(model: nn.Module, ratio: float = 1.0) -> float:
    """Has a share of the backbone, from below, learn nothing. The head always learns.

    Args:
        model: of ``vitkern.models`` or timm.
        ratio: 0 for nothing, 1 for embeddings, blocks and norms; in between the embeddings and the
            lower blocks.

    Returns:
        The share of all parameters that learn.

    Raises:
        ValueError: ``ratio`` is outside [0, 1], or the model has no head.
    """
    if not 0 <= ratio <= 1:
        raise ValueError(f"ratio must be at least 0 and at most 1, got {ratio}")
    if not any(name.split(".")[0] in _HEADS for name, _ in model.named_parameters()):
        raise ValueError(f"model must have a head, one of {', '.join(_HEADS)}")
    layers = count_layers(model)
    below = round(ratio * (layers + 1))
    for name, parameter in model.named_parameters():
        frozen = layer_of(name, model, layers) < below or ratio == 1
        parameter.requires_grad_(name.split(".")[0] in _HEADS or not frozen)
    return trainable_share(model)


def trainable_share(model: nn.Module) -> float:
    """The share of all parameters that need a gradient."""
    total = sum(parameter.numel() for parameter in model.parameters())
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return learning / total if total else 0.0


def _resample(model: nn.Module, value: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    prefix = 0 if getattr(model, "no_embed_class", False) else _prefix_tokens(model)
    old = round((value.shape[1] - prefix) ** 0.5)
    if old * old != value.shape[1] - prefix:
        raise ValueError(f"pos_embed of {value.shape[1]} tokens is of no square grid")
    embed: Any = model.patch_embed
    return resample_position_embedding(
        value, (old, old), tuple(embed.grid_size), num_prefix_tokens=prefix
    ).reshape(target.shape)


def _prefix_tokens(model: nn.Module) -> int:
    return int(getattr(model, "num_prefix_tokens", 1))


def _weights(source: str | os.PathLike[str]) -> Mapping[str, torch.Tensor]:
    path = Path(source)
    if path.is_dir():
        path = path / "best.safetensors"
    if path.is_file():
        return _from_file(path)
    if path.suffix in (".safetensors", ".pt", ".pth") or os.sep in str(source):
        raise FileNotFoundError(f"weights {str(source)!r} are no file and no run's folder")
    import timm

    name = str(source).removeprefix("timm:")
    if not timm.is_model(name):
        raise FileNotFoundError(f"weights {str(source)!r} are no file, no folder and no timm model")
    weights: Mapping[str, torch.Tensor] = timm.create_model(name, pretrained=True).state_dict()
    return weights


def _from_file(path: Path) -> Mapping[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                if "state" in (file.metadata() or {}):
                    state = read_state(path)
                    if "model" not in state:
                        raise CheckpointError(f"{path} has no model in it")
                    weights: Mapping[str, torch.Tensor] = state["model"]
                    return weights
        except SafetensorError as error:
            raise CheckpointError(f"{path} is damaged: {error}") from error
    return _checkpoint_files.read(path)
