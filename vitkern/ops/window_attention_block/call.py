"""The checked arguments of ``window_attention_block``, as its backends see them."""

from __future__ import annotations

from typing import NamedTuple

import torch

from vitkern.ops.weights import ConvertedWeight


class WindowAttentionBlockCall(NamedTuple):
    """``x`` (B, H, W, C), ``qkv_weight`` (3*C, C), ``proj_weight`` (C, C), their biases.

    ``norm_weight``, ``norm_bias`` and ``gamma`` are (C,), ``bias_table`` is
    ((2*wh-1)*(2*ww-1), heads); ``window`` and ``shift`` are (height, width).
    """

    x: torch.Tensor
    norm_weight: torch.Tensor | None
    norm_bias: torch.Tensor | None
    qkv_weight: torch.Tensor | ConvertedWeight
    qkv_bias: torch.Tensor | None
    proj_weight: torch.Tensor | ConvertedWeight
    proj_bias: torch.Tensor | None
    gamma: torch.Tensor | None
    bias_table: torch.Tensor | None
    num_heads: int
    window: tuple[int, int]
    shift: tuple[int, int]
    eps: float
    scale: float
    pad_first: bool
