"""What follows the products of ``linear`` and ``mlp``: activation, LayerScale, residual."""

from __future__ import annotations

import difflib
from typing import Any

import torch
import torch.nn.functional as F

from vitkern.ops import _check
from vitkern.ops._cpu import ACTIVATIONS


def check_activation(activation: Any) -> None:
    """``activation`` is one of the names that every backend knows.

    Raises:
        ValueError: another value.
    """
    if activation in ACTIVATIONS:
        return
    names = [name for name in ACTIVATIONS if name is not None]
    near = difflib.get_close_matches(str(activation), names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"activation must be None or one of {', '.join(map(repr, names))}, got {activation!r}{hint}"
    )


def check(
    x: torch.Tensor,
    width: int,
    gamma: torch.Tensor | None,
    residual: torch.Tensor | None,
) -> None:
    """``gamma`` (width,) and ``residual`` (..., width) fit what ``x`` (..., K) becomes.

    Raises:
        TypeError: not floating-point tensors.
        ValueError: shapes or devices that do not fit.
    """
    if gamma is not None:
        _check.tensor("gamma", gamma)
        _check.shape("gamma", gamma, (width,), "the output width")
        if gamma.device != x.device:
            raise ValueError(f"gamma is on {gamma.device} but x is on {x.device}")
    if residual is not None:
        _check.tensor("residual", residual)
        _check.shape("residual", residual, (*x.shape[:-1], width), "shaped like the output")
        if residual.device != x.device:
            raise ValueError(f"residual is on {residual.device} but x is on {x.device}")


def fits(x: torch.Tensor, gamma: torch.Tensor | None, residual: torch.Tensor | None) -> bool:
    """Whether one call can do it all: no other dtype than x's, so nothing is promoted.

    Otherwise the caller gets the product from the backend and composes with :func:`finish`.
    """
    dtype = x.dtype
    return (gamma is None or gamma.dtype is dtype) and (residual is None or residual.dtype is dtype)


def finish(
    y: torch.Tensor, gamma: torch.Tensor | None, residual: torch.Tensor | None
) -> torch.Tensor:
    """``residual + gamma * y`` with PyTorch's type promotion."""
    if gamma is not None:
        y = y * gamma
    return y if residual is None else residual + y


def activate(x: torch.Tensor, activation: str | None) -> torch.Tensor:
    """The activation of that name, in plain PyTorch."""
    if activation == "gelu":
        return F.gelu(x)
    if activation == "gelu_tanh":
        return F.gelu(x, approximate="tanh")
    if activation == "relu":
        return F.relu(x)
    if activation == "silu":
        return F.silu(x)
    if activation == "quick_gelu":
        return x * torch.sigmoid(1.702 * x)
    return x
