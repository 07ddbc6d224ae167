"""The checked arguments of ``mlp``, as its backends see them."""

from __future__ import annotations

from typing import NamedTuple

import torch

from vitkern.ops.weights import ConvertedWeight


class MlpCall(NamedTuple):
    """``x`` (..., K), ``weight1`` (H, K), ``weight2`` (N, H), their biases (H,) and (N,).

    ``gamma`` is (N,), ``residual`` (..., N).
    """

    x: torch.Tensor
    weight1: torch.Tensor | ConvertedWeight
    bias1: torch.Tensor | None
    weight2: torch.Tensor | ConvertedWeight
    bias2: torch.Tensor | None
    activation: str | None
    gamma: torch.Tensor | None
    residual: torch.Tensor | None
