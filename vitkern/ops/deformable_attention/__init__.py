"""Multi-scale deformable attention: each query samples a few points of several maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from vitkern.dispatch import Operator
from vitkern.ops import _check
from vitkern.ops.deformable_attention.call import DeformableAttentionCall, Shapes

_INTS = (int, torch.SymInt)  # of sizes that are not known yet, where a graph is captured

_OPERATOR = Operator("deformable_attention", DeformableAttentionCall, __name__)


def deformable_attention(
    value: torch.Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: torch.Tensor,
    attention_weights: torch.Tensor,
    *,
    backend: str | None = None,
) -> torch.Tensor:
    """Sums of maps' values at a query's points, weighted; each value is interpolated bilinearly.

    Zhu et al., "Deformable DETR: Deformable Transformers for End-to-End Object Detection", 2020
    (arXiv 2010.04159), equation 3, without the projections around it. A map is sampled as
    ``grid_sample`` does with ``align_corners=False`` and zeros around: location (x, y) is at column
    ``x * W - 0.5`` and row ``y * H - 0.5``, and what lies outside is zero.

    Args:
        value: (B, S, heads, head_dim), float32, float64, bfloat16 or float16: the maps of all
            levels, one after the other, each row by row.
        spatial_shapes: (height, width) of each level, ints; S is the sum of their products.
        sampling_locations: (B, Q, heads, levels, points, 2), x and y as fractions of a map's width
            and height; value's dtype, or float32 beside a half-precision value (which is better:
            bfloat16 places a point no closer than to 1/256 of a map).
        attention_weights: (B, Q, heads, levels, points); dtypes as for ``sampling_locations``.
        backend: name of the backend to use; None chooses automatically.

    Any location is taken: points outside sample zeros, and so do infinite and NaN ones; their
    locations get a gradient of zero. At a pixel's centre, where the gradient of a location jumps,
    it is that of the side to the right (below). Nothing is cast under autocast but locations and
    weights that are narrower than value: these get a dtype that goes with it.

    Returns:
        (B, Q, heads * head_dim) in value's dtype, computed in float32 or wider.

    Raises:
        TypeError: not floating-point tensors, dtypes that do not go together, or shapes of levels
            that are not pairs of ints.
        ValueError: shapes or devices that do not fit.
        UnsupportedInput: ``backend`` (or ``use_backend``) names one that refuses the call.
    """
    _check.tensor("value", value, dims=4)
    batch, length, heads, head_dim = value.shape
    if heads < 1 or head_dim < 1:
        raise ValueError(
            "value must have at least one head and a head_dim of at least 1,"
            f" got shape {_check.shape_of(value)}"
        )
    shapes = _shapes(spatial_shapes, length)
    _check.tensor("sampling_locations", sampling_locations, dims=6)
    queries, points = sampling_locations.shape[1], sampling_locations.shape[4]
    of_points = (batch, queries, heads, len(shapes), points)
    given = (sampling_locations, attention_weights)
    if points < 1 or not _check.uniform(value, given, ((*of_points, 2), of_points)):
        _check_points(sampling_locations, attention_weights, of_points)
        if _check.autocasts(value):
            sampling_locations = _widened(sampling_locations, value)
            attention_weights = _widened(attention_weights, value)
        _check_beside("sampling_locations", sampling_locations, value)
        _check_beside("attention_weights", attention_weights, value)
    call = DeformableAttentionCall(value, shapes, sampling_locations, attention_weights)
    out: torch.Tensor = _OPERATOR(call, backend)
    return out


def _check_points(locations: torch.Tensor, weights: Any, of_points: tuple[int, ...]) -> None:
    """Raises unless both have the shapes (batch, queries, heads, levels, points), and 2."""
    meaning = "batch and heads as value's, a level for each of spatial_shapes, x and y"
    _check.shape("sampling_locations", locations, (*of_points, 2), meaning)
    if of_points[-1] < 1:
        raise ValueError(
            "sampling_locations must have at least one point a level,"
            f" got shape {_check.shape_of(locations)}"
        )
    _check.tensor("attention_weights", weights)
    _check.shape("attention_weights", weights, of_points, "as sampling_locations's")


def _shapes(given: Any, length: int) -> Shapes:
    """The (height, width) pairs of levels whose maps together have ``length`` pixels.

    Raises:
        TypeError: not a sequence of pairs of ints.
        ValueError: no level, one without pixels, or another sum.
    """
    what = "spatial_shapes must be a sequence of (height, width) pairs of ints"
    if isinstance(given, torch.Tensor):
        raise TypeError(f"{what}, got a tensor: give spatial_shapes.tolist()")
    if not isinstance(given, (tuple, list)):
        raise TypeError(f"{what}, got {type(given).__name__}")
    none = "spatial_shapes must have at least one level, and sizes of at least 1"
    if not given:
        raise ValueError(f"{none}, got {given!r}")
    total = 0
    for pair in given:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"{what}, got {given!r}")
        height, width = pair
        # By type: a bool is an int too.
        if type(height) not in _INTS or type(width) not in _INTS:
            raise TypeError(f"{what}, got {given!r}")
        if height < 1 or width < 1:
            raise ValueError(f"{none}, got {given!r}")
        total += height * width
    if total != length:
        raise ValueError(
            f"spatial_shapes {given!r} have {total} pixels together, but value has {length}"
        )
    return tuple((pair[0], pair[1]) for pair in given)


def _widened(tensor: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The tensor in a dtype that holds its own values and those of ``value``'s dtype."""
    return tensor.to(torch.promote_types(tensor.dtype, value.dtype))


def _check_beside(name: str, tensor: torch.Tensor, value: torch.Tensor) -> None:
    """Raises unless the tensor's device and dtype go with ``value``'s."""
    if tensor.device != value.device:
        raise ValueError(f"{name} is on {tensor.device} but value is on {value.device}")
    half = value.dtype in (torch.bfloat16, torch.float16)
    if tensor.dtype != value.dtype and not (half and tensor.dtype == torch.float32):
        raise TypeError(
            f"{name} is {tensor.dtype} but value is {value.dtype}; takes value's dtype, or float32"
            " beside a half-precision value"
        )
