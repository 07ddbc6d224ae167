"""Checks of arguments that several ops share. Each names the argument, what it got, what fits."""

from __future__ import annotations

import math
from typing import Any

import torch

from vitkern.ops.weights import ConvertedWeight

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def shape_of(tensor: torch.Tensor | ConvertedWeight) -> str:
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
    if dims is None or value.dim() == dims:
        return
    low, high = (dims, dims) if isinstance(dims, int) else dims
    if not low <= value.dim() <= high:
        wanted = str(low) if low == high else f"{low} to {high}"
        raise ValueError(
            f"{name} must have {wanted} dimensions, got {value.dim()} with shape {shape_of(value)}"
        )


def weight(name: str, value: Any, *others: Any) -> None:
    """``value`` is a floating-point matrix, or one in another form and no gradient is wanted.

    Args:
        name: how the user calls ``value``.
        others: the op's other tensors, checked or not.

    Raises:
        TypeError, ValueError: as :func:`tensor`.
        RuntimeError: as :func:`inference`.
    """
    if not isinstance(value, ConvertedWeight):
        tensor(name, value, dims=2)
    else:
        inference(name, value, *others)


def inference(name: str, value: Any, *others: Any) -> None:
    """No gradient is wanted where ``value`` is a converted weight.

    Raises:
        RuntimeError: the weight, or one of the op's other tensors, would need one.
    """
    if not isinstance(value, ConvertedWeight) or not torch.is_grad_enabled():
        return
    for one in (value, *others):
        wanted = one.source if isinstance(one, ConvertedWeight) else one
        if isinstance(wanted, torch.Tensor) and wanted.requires_grad:
            raise RuntimeError(
                f"{name} is {value!r}, which has no gradient: call it under torch.inference_mode()"
                " or torch.no_grad()"
            )


def shape(
    name: str, value: torch.Tensor | ConvertedWeight, expected: tuple[int, ...], meaning: str
) -> None:
    """``value`` has exactly the shape ``expected``, which ``meaning`` explains.

    Raises:
        ValueError: another shape.
    """
    if tuple(value.shape) != expected:
        raise ValueError(f"{name} must have shape {expected} ({meaning}), got {shape_of(value)}")


def same(
    anchor_name: str, anchor: torch.Tensor, **others: torch.Tensor | ConvertedWeight | None
) -> None:
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


def pair(name: str, value: Any, *, minimum: int) -> tuple[int, int]:
    """``value`` as a (height, width) pair of ints that are at least ``minimum``.

    Raises:
        TypeError: neither an int nor a pair of ints.
        ValueError: below ``minimum``.
    """
    both = (value, value) if type(value) is int else value
    # By type: a bool is an int too.
    if (
        not isinstance(both, (tuple, list))
        or len(both) != 2
        or type(both[0]) is not int
        or type(both[1]) is not int
    ):
        raise TypeError(f"{name} must be an int or a (height, width) pair of ints, got {value!r}")
    height, width = both
    if height < minimum or width < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value!r}")
    return height, width


def windows(
    name: str, x: torch.Tensor, window_size: Any, shift_size: Any
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Window and shift as pairs that fit the map ``x`` (B, H, W, C).

    Raises:
        TypeError: neither ints nor pairs of ints.
        ValueError: a window larger than the map, or a shift that is not below the window.
    """
    window = pair("window_size", window_size, minimum=1)
    shift = pair("shift_size", shift_size, minimum=0)
    _, height, width, _ = x.shape
    if window[0] > height or window[1] > width:
        raise ValueError(
            f"window_size {window} must not be larger than the map {(height, width)}"
            f" ({name} is {shape_of(x)})"
        )
    if shift[0] >= window[0] or shift[1] >= window[1]:
        raise ValueError(f"shift_size must be below window_size {window}, got {shift_size!r}")
    return window, shift


def heads(name: str, x: torch.Tensor, num_heads: Any, parts: int = 1) -> int:
    """The size of a head where x's last dimension is ``parts`` times ``num_heads`` of them.

    Raises:
        TypeError: ``num_heads`` is not an int.
        ValueError: ``num_heads`` is not positive, or does not divide the last dimension.
    """
    if type(num_heads) is not int:
        raise TypeError(f"num_heads must be an int, got {type(num_heads).__name__}")
    if num_heads < 1:
        raise ValueError(f"num_heads must be at least 1, got {num_heads}")
    channels: int = x.shape[-1]
    if channels == 0 or channels % (parts * num_heads):
        multiple = "num_heads" if parts == 1 else f"{parts} * num_heads"
        raise ValueError(
            f"{name} must have a last dimension that is a multiple of {multiple} ="
            f" {parts * num_heads}, got shape {shape_of(x)}"
        )
    return channels // (parts * num_heads)


def scale(value: Any, head_dim: int) -> float:
    """What scores are multiplied with; None is ``head_dim ** -0.5``.

    Raises:
        TypeError: neither a number nor None.
    """
    if value is None:
        default: float = head_dim**-0.5
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"scale must be a number or None, got {type(value).__name__}")
    if not -math.inf < value < math.inf:  # not isfinite: torch.compile may have a symbol here
        raise ValueError(f"scale must be finite, got {value}")
    return value


def number(name: str, value: Any) -> float:
    """``value`` as a float.

    Raises:
        TypeError: no number.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    return float(value)


def epsilon(value: Any) -> float:
    """What keeps a norm from dividing by zero.

    Raises:
        TypeError: no number.
        ValueError: negative, infinite or NaN.
    """
    eps = number("eps", value)
    if not 0.0 <= eps < math.inf:
        raise ValueError(f"eps must be finite and at least 0, got {value}")
    return eps


def flag(name: str, value: Any) -> bool:
    """``value`` is True or False.

    Raises:
        TypeError: anything else.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


def probability(name: str, value: Any) -> None:
    """``0 <= value < 1``.

    Raises:
        TypeError: no number.
        ValueError: outside.
    """
    number(name, value)
    if not 0.0 <= value < 1.0:
        raise ValueError(f"{name} must be at least 0 and below 1, got {value}")


def autocasts(x: torch.Tensor) -> bool:
    """Whether autocast is on for x's device; the meta device has none."""
    if x.is_meta:
        return False
    return torch.is_autocast_enabled("cpu" if x.is_cpu else x.device.type)


def autocast(*tensors: Any) -> tuple[Any, ...]:
    """Tensors (the first is not None) as autocast would give them to a matrix product.

    Unchanged where autocast is off, and for float64 tensors, which autocast leaves alone. Beside a
    converted weight, which decides itself how products are computed, they get the dtype of its
    activations instead.
    """
    if not autocasts(tensors[0]):
        return tensors
    converted = next((t for t in tensors if isinstance(t, ConvertedWeight)), None)
    if converted is None:
        dtype = torch.get_autocast_dtype(tensors[0].device.type)
    else:
        dtype = converted.dtype

    def cast(t: Any) -> Any:
        castable = isinstance(t, torch.Tensor) and t.dtype in FLOATING
        return t.to(dtype) if castable and t.dtype != torch.float64 else t

    return tuple(cast(t) for t in tensors)


Values = tuple[Any, ...]
Shapes = tuple[tuple[int, ...], ...]


def uniform(x: torch.Tensor, values: Values, shapes: Shapes) -> bool:
    """Whether each value is None or a tensor of x's dtype, on x's device, of its shape.

    The quick way to see that nothing is wrong; where it says no, other checks find out what is.
    """
    dtype, on_cpu = x.dtype, x.is_cpu
    try:
        for value, expected in zip(values, shapes):  # noqa: B905, of one length
            if value is not None and (
                value.dtype is not dtype
                or value.shape != expected
                or not (value.is_cpu if on_cpu else value.device == x.device)
            ):
                return False
    except AttributeError:  # not a tensor
        return False
    return True


def needs_grad(*tensors: torch.Tensor | None) -> bool:
    """Whether the result must be differentiable."""
    return any(t is not None and t.requires_grad for t in tensors)


def block(x: torch.Tensor, names: tuple[str, ...], values: Values, shapes: Shapes) -> bool:
    """Whether one call can compute a fused block on ``x``, or several are needed.

    Several, where a gradient is wanted, where autocast is on, or where dtypes differ: all must be
    x's, but the norm's parameters (together) may be float32 beside a half-precision x.

    Args:
        x: a floating-point tensor.
        names: how the user calls ``values``.
        values: norm's weight and bias, two weights each followed by its bias, gamma, any others.
            Only the two weights must not be None.
        shapes: of ``values``.

    Raises:
        TypeError: not floating-point tensors, or dtypes that do not go together.
        ValueError: shapes or devices that do not fit.
    """
    autocasting = autocasts(x)
    if not autocasting and values[2] is not None and values[4] is not None:
        fits = uniform(x, values, shapes)
        if not fits:
            first = values[1] if values[0] is None else values[0]
            fits = (
                _is_wide_beside(x, first)
                and first.device == x.device
                and uniform(first, values[:2], shapes[:2])
                and uniform(x, values[2:], shapes[2:])
            )
        if fits:
            return not (torch.is_grad_enabled() and needs_grad(x, *values))

    given = f"x is {shape_of(x)}"
    for i, (name, value, expected) in enumerate(zip(names, values, shapes, strict=True)):
        if value is None and i not in (2, 4):
            continue
        if i not in (2, 4) or not isinstance(value, ConvertedWeight):
            tensor(name, value)
        shape(name, value, expected, given)
        if value.device != x.device:
            raise ValueError(f"{name} is on {value.device} but x is on {x.device}")
        if i < 2 and value.dtype != x.dtype and not _is_wide_beside(x, value):
            raise TypeError(f"{name} is {value.dtype} but x is {x.dtype}")
    if not autocasting:
        others = dict(zip(names[2:], values[2:], strict=True))
        del others[names[6]]  # gamma promotes, as in ``linear`` and ``mlp``
        same("x", x, **others)
    return False


def _is_wide_beside(x: torch.Tensor, value: Any) -> bool:
    """Whether ``value`` is a float32 tensor and ``x`` of half precision."""
    return (
        isinstance(value, torch.Tensor)
        and value.dtype is torch.float32
        and x.dtype in (torch.bfloat16, torch.float16)
    )
