"""Pieces of a forward that several adapters share: a norm, a projection, a residual branch."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from vitkern import ops
from vitkern.patching import forms, parts


def layer_norm(norm: Any, x: torch.Tensor, backend: str | None) -> torch.Tensor:
    """A layer norm over the last dimension."""
    p = norm._parameters
    y: torch.Tensor = ops.layer_norm(  # type: ignore[assignment]
        x, p["weight"], p["bias"], eps=norm.eps, backend=backend
    )
    return y


def linear(layer: nn.Module, x: torch.Tensor, backend: str | None, **epilogue: Any) -> torch.Tensor:
    """A linear layer, with whatever the op can do in the same pass."""
    p: Any = layer._parameters
    others = epilogue.get("gamma"), epilogue.get("residual")
    (weight,) = forms.weights((layer,), x, *others)
    return ops.linear(x, weight, p["bias"], backend=backend, **epilogue)


def project(
    x: torch.Tensor,
    layer: nn.Module,
    dropout: nn.Module,
    backend: str | None,
    *,
    scale: nn.Module | None = None,
    drop_path: nn.Module | None = None,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """``residual + drop_path(scale(dropout(layer(x))))``, in one op where nothing drops.

    Dropouts that are active run as the modules that they are, on tensors shaped as in the original
    forward, so they draw the same random numbers.
    """
    gamma = None if scale is None else parts.gamma(scale)
    if parts.active(dropout):
        y = dropout(linear(layer, x, backend))
        if gamma is not None:
            y = y * gamma
        return join(y, drop_path, residual)
    if drop_path is None or not parts.active(drop_path):
        return linear(layer, x, backend, gamma=gamma, residual=residual)
    return join(linear(layer, x, backend, gamma=gamma), drop_path, residual)


def join(
    y: torch.Tensor, drop_path: nn.Module | None, residual: torch.Tensor | None
) -> torch.Tensor:
    """The end of a residual branch: ``residual + drop_path(y)``."""
    if drop_path is not None:
        y = drop_path(y)
    return y if residual is None else residual + y
