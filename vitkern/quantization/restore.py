"""A weight from its int8 form."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


def restored_weight(
    values: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype, paired: bool
) -> torch.Tensor:
    """A weight (N, K) whose int8 form is ``values`` (N, K) and ``scale`` (N,), bit for bit.

    It is ``values * scale``, but for what scales are computed from (the largest of a row, and, if
    ``paired``, sums of two neighbours): these are what gave ``scale``, which 127 * scale may miss
    by a unit in the last place.
    """
    largest = 127.0 * scale
    for towards in (math.inf, 0.0):
        other = torch.nextafter(127.0 * scale, torch.tensor(towards))
        hits = (largest / 127.0 != scale) & (other / 127.0 == scale)
        largest = torch.where(hits, other, largest)
    sizes = values.float().abs()
    weight = torch.where(sizes == 127.0, largest[:, None], sizes * scale[:, None])
    if paired:
        odd = values.shape[1] % 2
        pairs = F.pad(weight, (0, odd)).unflatten(1, (-1, 2))
        whole = F.pad(values.float(), (0, odd)).unflatten(1, (-1, 2))
        # The smaller is what the larger leaves, so that their sum is exact.
        rest = largest[:, None] - pairs.amax(2)
        full = (whole.sum(2).abs() == 127.0) & (whole.prod(2) > 0)
        smaller = torch.stack([pairs[..., 0] < pairs[..., 1], pairs[..., 0] >= pairs[..., 1]], 2)
        pairs = torch.where(full[..., None] & smaller, rest[..., None], pairs)
        weight = pairs.flatten(1)[:, : values.shape[1]]
    return (weight * values.sign()).to(dtype)
