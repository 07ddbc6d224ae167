"""The checked arguments of ``attention_block``, as its backends see them."""

from __future__ import annotations

from typing import NamedTuple

import torch

from vitkern.ops.weights import ConvertedWeight


class AttentionBlockCall(NamedTuple):
    """``x`` (B, N, C), ``qkv_weight`` (3*C, C), ``proj_weight`` (C, C), their biases.

    ``norm_weight``, ``norm_bias`` and ``gamma`` are (C,).
    """

    x: torch.Tensor
    norm_weight: torch.Tensor | None
    norm_bias: torch.Tensor | None
    qkv_weight: torch.Tensor | ConvertedWeight
    qkv_bias: torch.Tensor | None
    proj_weight: torch.Tensor | ConvertedWeight
    proj_bias: torch.Tensor | None
    gamma: torch.Tensor | None
    num_heads: int
    eps: float
    scale: float
