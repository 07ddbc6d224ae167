"""The checked arguments of ``linear``, as its backends see them."""

from __future__ import annotations

from typing import NamedTuple

import torch

from vitkern.ops.weights import ConvertedWeight


class LinearCall(NamedTuple):
    """``x`` (..., K), ``weight`` (N, K), ``bias`` and ``gamma`` (N,), ``residual`` (..., N)."""

    x: torch.Tensor
    weight: torch.Tensor | ConvertedWeight
    bias: torch.Tensor | None
    activation: str | None
    gamma: torch.Tensor | None
    residual: torch.Tensor | None
