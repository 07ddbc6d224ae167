"""Which parameters learn, how fast, and which decay."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from vitkern.training.config import TrainConfig

__all__ = ["count_layers", "layer_of", "parameter_groups"]

_BLOCK = re.compile(r"(?:^|\.)(?:blocks|layers)\.(\d+)(?:\.blocks\.(\d+))?(?:\.|$)")
_HEAD = re.compile(r"^(head|head_dist|fc_norm|norm|fc|classifier)(\.|$)")


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """AdamW's groups of all parameters that need a gradient.

    Matrices decay; vectors and scalars (biases, norms, layer scales) and what the model's
    ``no_weight_decay()`` names do not. With ``layer_decay`` below 1 the rate falls from the head
    through the blocks to the embeddings; with ``lr_groups`` it has three steps. A group has "lr",
    "weight_decay", "params" and "names".

    Raises:
        ValueError: no parameter needs a gradient.
    """
    listed = getattr(model, "no_weight_decay", None)
    spared = set(listed()) if callable(listed) else set()
    spared |= {"pos_embed", "cls_token", "dist_token", "reg_token"}
    layers = count_layers(model)
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decays = parameter.ndim > 1 and name not in spared and not _is_table(name)
        layer = layer_of(name, model, layers)
        rate = _rate(layer, layers, config)
        group = groups.setdefault(
            (rate, decays),
            {
                "params": [],
                "names": [],
                "lr": rate,
                "weight_decay": config.weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)
        group["names"].append(name)
    if not groups:
        raise ValueError("model has no parameter that needs a gradient: everything is frozen")
    return list(groups.values())


def count_layers(model: nn.Module) -> int:
    """Blocks of a ViT, of all stages of a Swin."""
    return len(_blocks(model))


def layer_of(name: str, model: nn.Module, layers: int) -> int:
    """0 for embeddings, 1 to ``layers`` for blocks from below, ``layers`` + 1 for the head.

    What stands between blocks, such as a Swin's patch merging, belongs to the block after it.
    """
    if _HEAD.match(name):
        return layers + 1
    found = _BLOCK.search(name)
    if found is None:
        return 0
    stage, block = int(found[1]), int(found[2] or 0)
    return _blocks(model).get((stage, block), layers) + 1


def _rate(layer: int, layers: int, config: TrainConfig) -> float:
    if config.lr_groups is None:
        return config.lr * config.layer_decay ** (layers + 1 - layer)
    lower, upper, head = config.lr_groups
    if layer == layers + 1:
        return head
    return lower if layer <= layers // 2 else upper


def _blocks(model: nn.Module) -> dict[tuple[int, int], int]:
    """The number of each block, from below, by its (stage, block); (block, 0) in a ViT."""
    places = set()
    for name, _ in model.named_parameters():
        found = _BLOCK.search(name)
        if found is not None and not (found[2] is None and ".downsample." in name):
            places.add((int(found[1]), int(found[2] or 0)))
    return {place: number for number, place in enumerate(sorted(places))}


def _is_table(name: str) -> bool:
    return name.endswith("relative_position_bias_table")
