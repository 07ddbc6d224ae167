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
    shapes = ((width,), "the output width"), ((*x.shape[:-1], width), "shaped like the output")
    for (name, value), (expected, meaning) in zip(
        (("gamma", gamma), ("residual", residual)), shapes, strict=True
    ):
        if value is None:
            continue
        _check.tensor(name, value)
        _check.shape(name, value, expected, meaning)
        if value.device != x.device:
            raise ValueError(f"{name} is on {value.device} but x is on {x.device}")


def fits(x: torch.Tensor, gamma: torch.Tensor | None, residual: torch.Tensor | None) -> bool:
    """Whether one call can do it all: no other dtype than x's, so nothing is promoted.

    Otherwise the caller gets the product from the backend and composes with :func:`finish`.
    """
    return all(value is None or value.dtype == x.dtype for value in (gamma, residual))


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
