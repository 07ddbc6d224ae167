"""Checks of arguments that the models share. Each names the argument, what it got, what fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def images(value: Any, in_chans: int) -> tuple[int, int]:
    """``value`` is a (B, in_chans, H, W) floating-point tensor; returns its (H, W).

    Raises:
        TypeError: not a tensor, or not floating point.
        ValueError: another number of dimensions or of channels.
    """
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"images must be a tensor, got {type(value).__name__}")
    if not value.is_floating_point():
        raise TypeError(f"images must be floating point, got {value.dtype}")
    if value.dim() != 4:
        raise ValueError(
            "images must have 4 dimensions (batch, channels, height, width),"
            f" got {value.dim()} with shape {tuple(value.shape)}"
        )
    if value.shape[1] != in_chans:
        raise ValueError(
            f"images must have {in_chans} channels (in_chans), got {value.shape[1]}"
            f" with shape {tuple(value.shape)}"
        )
    return value.shape[2], value.shape[3]


def sequence(name: str, value: torch.Tensor, channels: int) -> None:
    """``value`` is (batch, tokens, channels).

    Raises:
        ValueError: another shape.
    """
    if value.dim() != 3 or value.shape[2] != channels:
        raise ValueError(
            f"{name} must have shape (batch, tokens, {channels}), got {tuple(value.shape)}"
        )


def feature_map(name: str, value: torch.Tensor, channels: int) -> None:
    """``value`` is (batch, height, width, channels).

    Raises:
        ValueError: another shape.
    """
    if value.dim() != 4 or value.shape[3] != channels:
        raise ValueError(
            f"{name} must have shape (batch, height, width, {channels}), got {tuple(value.shape)}"
        )


def integer(name: str, value: Any, *, minimum: int) -> None:
    """``value`` is an int of at least ``minimum``.

    Raises:
        TypeError: not an int.
        ValueError: below ``minimum``.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")


def pair(name: str, value: Any, *, minimum: int) -> tuple[int, int]:
    """``value``, an int or a (height, width) pair of ints, as a pair.

    Raises:
        TypeError: neither an int nor a pair of ints.
        ValueError: an int below ``minimum``.
    """
    both = value if isinstance(value, (tuple, list)) else (value, value)
    if len(both) != 2 or not all(isinstance(v, int) and not isinstance(v, bool) for v in both):
        raise TypeError(f"{name} must be an int or a (height, width) pair of ints, got {value!r}")
    if min(both) < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value!r}")
    return both[0], both[1]


def rate(name: str, value: float) -> None:
    """``0 <= value < 1``, as dropout and stochastic depth need it.

    Raises:
        ValueError: outside.
    """
    if not 0.0 <= value < 1.0:
        raise ValueError(f"{name} must be at least 0 and below 1, got {value}")


def positive(name: str, value: float) -> None:
    """``value > 0``.

    Raises:
        ValueError: zero, negative or not a number.
    """
    if not value > 0:
        raise ValueError(f"{name} must be above 0, got {value}")


def heads(channels_name: str, channels: int, num_heads: int) -> None:
    """``num_heads`` divides ``channels``.

    Raises:
        TypeError: not ints.
        ValueError: not positive, or a remainder.
    """
    integer(channels_name, channels, minimum=1)
    integer("num_heads", num_heads, minimum=1)
    if channels % num_heads:
        raise ValueError(
            f"{channels_name} must be a multiple of num_heads,"
            f" got {channels_name}={channels} and num_heads={num_heads}"
        )


def choice(name: str, value: Any, accepted: Sequence[Any]) -> None:
    """``value`` is one of ``accepted``.

    Raises:
        ValueError: another value.
    """
    if value not in accepted:
        listed = ", ".join(repr(item) for item in accepted)
        raise ValueError(f"{name} must be one of {listed}, got {value!r}")


def boolean_mask(name: str, value: Any, shape: tuple[int, ...]) -> None:
    """``value`` is a bool tensor of this shape.

    Raises:
        TypeError: not a tensor, or of another dtype.
        ValueError: another shape.
    """
    if not isinstance(value, torch.Tensor) or value.dtype != torch.bool:
        got = value.dtype if isinstance(value, torch.Tensor) else type(value).__name__
        raise TypeError(f"{name} must be a bool tensor, got {got}")
    if value.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(value.shape)}")


def window_and_shift(window_size: Any, shift_size: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    """Window and cyclic shift, ints or (height, width) pairs of ints, as pairs.

    Raises:
        TypeError: neither ints nor pairs of ints.
        ValueError: an empty window, a negative shift, or a shift that is not less than the window.
    """
    window = pair("window_size", window_size, minimum=1)
    shift = pair("shift_size", shift_size, minimum=0)
    if shift[0] >= window[0] or shift[1] >= window[1]:
        raise ValueError(
            "shift_size must be less than window_size,"
            f" got shift_size={shift} and window_size={window}"
        )
    return window, shift
