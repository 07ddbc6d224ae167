"""Swin as its authors published it, in both versions: patches are merged at the end of a stage.

Older checkpoints of timm's have these keys too.
"""

from __future__ import annotations

import re

import torch

from vitkern.models.layouts._renaming import Rules, Weights, renamed, without

_CONSTANTS = ("relative_position_index", "relative_coords_table", "attn_mask")
_RULES: Rules = ((r"^head\.(weight|bias)$", r"head.fc.\1"),)


def is_swin(weights: Weights) -> bool:
    """Whether the first stage merges patches, or constants are stored: ours do neither."""
    return "layers.0.downsample.reduction.weight" in weights or any(
        key.endswith(_CONSTANTS) for key in weights
    )


def swin(weights: Weights) -> dict[str, torch.Tensor]:
    """The same weights under our keys.

    Raises:
        ValueError: two keys become one.
    """
    kept = renamed(without(weights, _CONSTANTS), _RULES)
    if "layers.0.downsample.reduction.weight" not in kept:
        return kept
    return {
        re.sub(
            r"^layers\.(\d+)\.downsample\.",
            lambda match: f"layers.{int(match[1]) + 1}.downsample.",
            key,
        ): value
        for key, value in kept.items()
    }
