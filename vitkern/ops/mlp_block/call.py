"""The checked arguments of ``mlp_block``, as its backends see them."""

from __future__ import annotations

from typing import NamedTuple

import torch

from vitkern.ops.weights import ConvertedWeight


class MlpBlockCall(NamedTuple):
    """``x`` (..., C), ``weight1`` (H, C), ``weight2`` (C, H), their biases (H,) and (C,).

    ``norm_weight``, ``norm_bias`` and ``gamma`` are (C,).
    """

    x: torch.Tensor
    norm_weight: torch.Tensor | None
    norm_bias: torch.Tensor | None
    weight1: torch.Tensor | ConvertedWeight
    bias1: torch.Tensor | None
    weight2: torch.Tensor | ConvertedWeight
    bias2: torch.Tensor | None
    gamma: torch.Tensor | None
    activation: str | None
    eps: float
