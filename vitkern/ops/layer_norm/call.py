"""The checked arguments of ``layer_norm``, as its backends see them."""

from __future__ import annotations

from typing import NamedTuple

import torch


class LayerNormCall(NamedTuple):
    """``x`` (..., C); ``weight`` and ``bias`` (C,) or None; ``residual`` shaped like ``x``.

    ``residual_scale`` (B,), of the first dimension, is None where there is no residual.
    """

    x: torch.Tensor
    weight: torch.Tensor | None
    bias: torch.Tensor | None
    eps: float
    residual: torch.Tensor | None
    residual_scale: torch.Tensor | None = None


def scaled(values: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    """``values`` (B, ...), each sample times its number in ``scale`` (B,)."""
    return values if scale is None else values * scale.view(-1, *(1,) * (values.dim() - 1))


def scale_gradient(dsum: torch.Tensor, call: LayerNormCall) -> torch.Tensor:
    """The gradient of ``residual_scale`` from that of the sum: by PyTorch, for masks need none."""
    assert call.residual is not None and call.residual_scale is not None
    products = dsum.float() * call.residual.float()
    return products.flatten(1).sum(1).to(call.residual_scale.dtype)
