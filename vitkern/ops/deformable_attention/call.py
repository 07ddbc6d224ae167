"""The checked arguments of ``deformable_attention``, as its backends see them."""

from __future__ import annotations

from typing import NamedTuple

import torch

Shapes = tuple[tuple[int, int], ...]

MOST_LEVELS = 8
"""Of kernels that take sizes as arguments of their own."""


class DeformableAttentionCall(NamedTuple):
    """``value`` (B, S, heads, head_dim), ``spatial_shapes`` a (height, width) for each level.

    ``sampling_locations`` (B, Q, heads, levels, points, 2) and ``attention_weights`` without the
    2 are each of value's dtype, or float32 beside a half-precision value.
    """

    value: torch.Tensor
    spatial_shapes: Shapes
    sampling_locations: torch.Tensor
    attention_weights: torch.Tensor

    @property
    def flat_shapes(self) -> list[int]:
        """Height, width, height, width ... as operators take them."""
        return [size for shape in self.spatial_shapes for size in shape]
