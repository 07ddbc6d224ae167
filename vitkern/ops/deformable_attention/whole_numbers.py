"""Whole numbers that gradients of values are added up in, by atomic operations.

Their sums do not depend on the order: the same bits in every run. A number is a fraction of the
largest upstream gradient times the largest weight, so that nothing overflows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

_BITS = 58
"""Of a sum; four less than there could be."""


@dataclass(frozen=True)
class WholeNumbers:
    """What a launch needs.

    Attributes:
        sums: int64 zeros, shaped as the values.
        most_dout, most_weight: the largest magnitudes; float32, on the device.
        unit: the number that stands for the most that a point can give; a power of two.
    """

    sums: torch.Tensor
    most_dout: torch.Tensor
    most_weight: torch.Tensor
    unit: float

    @classmethod
    def of(
        cls, dvalue: torch.Tensor, dout: torch.Tensor, weights: torch.Tensor
    ) -> WholeNumbers:  # fmt: skip
        """For values like ``dvalue``; weights (B, Q, heads, levels, points), not empty."""
        most_dout, most_weight = (
            torch.linalg.vector_norm(t, float("inf"), dtype=torch.float32) for t in (dout, weights)
        )
        # Each point adds to a pixel once at most, and not more than 1 in these units.
        points = weights.shape[1] * weights.shape[4]
        sums = dvalue.new_zeros(dvalue.shape, dtype=torch.int64)
        return cls(sums, most_dout, most_weight, 2.0 ** (_BITS - points.bit_length()))
