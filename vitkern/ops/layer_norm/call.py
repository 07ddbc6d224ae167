"""The checked arguments of ``layer_norm``, as its backends see them."""

from __future__ import annotations

from typing import NamedTuple

import torch


class LayerNormCall(NamedTuple):
    """``x`` (..., C); ``weight`` and ``bias`` (C,) or None; ``residual`` shaped like ``x``."""

    x: torch.Tensor
    weight: torch.Tensor | None
    bias: torch.Tensor | None
    eps: float
    residual: torch.Tensor | None
