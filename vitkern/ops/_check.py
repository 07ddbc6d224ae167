"""Checks of arguments that several ops share. Each names the argument, what it got, what fits."""

from __future__ import annotations

from typing import Any

import torch

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def shape_of(tensor: torch.Tensor) -> str:
    """A shape as users write it: ``(2, 3)``."""
    return str(tuple(tensor.shape))


def tensor(name: str, value: Any, *, dims: int | tuple[int, int] | None = None) -> None:
    """``value`` is a floating-point tensor with ``dims`` dimensions (or a range of them).

    Raises:
        TypeError: not a tensor, or not floating point.
        ValueError: the wrong number of dimensions.
    """
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if value.dtype not in FLOATING:
        raise TypeError(f"{name} must be float32, float64, bfloat16 or float16, got {value.dtype}")
    if dims is None:
        return
    low, high = (dims, dims) if isinstance(dims, int) else dims
    if not low <= value.dim() <= high:
        wanted = str(low) if low == high else f"{low} to {high}"
        raise ValueError(
            f"{name} must have {wanted} dimensions, got {value.dim()} with shape {shape_of(value)}"
        )


def shape(name: str, value: torch.Tensor, expected: tuple[int, ...], meaning: str) -> None:
    """``value`` has exactly the shape ``expected``, which ``meaning`` explains.

    Raises:
        ValueError: another shape.
    """
    if tuple(value.shape) != expected:
        raise ValueError(f"{name} must have shape {expected} ({meaning}), got {shape_of(value)}")


def same(anchor_name: str, anchor: torch.Tensor, **others: torch.Tensor | None) -> None:
    """All ``others`` that are given share the anchor's device and dtype.

    Raises:
        ValueError: a tensor on another device.
        TypeError: a tensor of another dtype.
    """
    device, dtype = anchor.device, anchor.dtype
    for name, value in others.items():
        if value is None or (value.dtype is dtype and value.device == device):
            continue
        if value.device != device:
            raise ValueError(
                f"{name} is on {value.device} but {anchor_name} is on {device};"
                " all tensors must be on one device"
            )
        raise TypeError(
            f"{name} is {value.dtype} but {anchor_name} is {dtype};"
            " all tensors must have one dtype (or run under autocast)"
        )


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def pair(name: str, value: Any, *, minimum: int) -> tuple[int, int]:
    """``value`` as a (height, width) pair of ints that are at least ``minimum``.

    Raises:
        TypeError: neither an int nor a pair of ints.
        ValueError: below ``minimum``.
    """
    both = (value, value) if isinstance(value, int) else value
    if not isinstance(both, (tuple, list)) or len(both) != 2 or not all(map(_is_int, both)):
        raise TypeError(f"{name} must be an int or a (height, width) pair of ints, got {value!r}")
    if min(both) < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value!r}")
    return both[0], both[1]


def probability(name: str, value: float) -> None:
    """``0 <= value < 1``.

    Raises:
        ValueError: outside.
    """
    if not 0.0 <= value < 1.0:
        raise ValueError(f"{name} must be at least 0 and below 1, got {value}")


def autocast(*tensors: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
    """Tensors (the first is not None) as autocast would give them to a matrix product.

    Unchanged where autocast is off, and for float64 tensors, which autocast leaves alone.
    """
    assert tensors[0] is not None
    kind = tensors[0].device.type
    if not torch.is_autocast_enabled(kind):
        return tensors
    dtype = torch.get_autocast_dtype(kind)
    return tuple(
        t.to(dtype) if t is not None and t.dtype in FLOATING and t.dtype != torch.float64 else t
        for t in tensors
    )
