"""The sine position embedding of feature maps."""

from __future__ import annotations

import math

import torch

from vitkern.models._built_once import built_once

_TEMPERATURE = 10000.0
_EPSILON = 1e-6


def sine_positions(padding_mask: torch.Tensor, channels: int, dtype: torch.dtype) -> torch.Tensor:
    """Sines and cosines of each token's row and column, at geometrically spaced frequencies.

    Rows and columns count from 1 over what is not padding, and are scaled so that the last is 2π:
    Carion et al., "End-to-End Object Detection with Transformers", 2020 (arXiv 2005.12872),
    appendix A.4. The first half of the channels says the row, the second half the column; in each,
    even channels are sines and odd channels the cosines of the same angle.

    Args:
        padding_mask: (B, H, W), bool; True is padding.
        channels: a multiple of 4.
        dtype: of the result; computed in float32 at least.

    Returns:
        (B, H·W, channels).

    Raises:
        ValueError: channels that are not a multiple of 4.
    """
    if channels < 4 or channels % 4:
        raise ValueError(f"channels must be a multiple of 4, got {channels}")
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    inside = (~padding_mask).to(compute)
    rows, columns = inside.cumsum(1), inside.cumsum(2)
    rows = rows / (rows[:, -1:, :] + _EPSILON) * (2 * math.pi)
    columns = columns / (columns[:, :, -1:] + _EPSILON) * (2 * math.pi)
    half = channels // 2
    exponents = torch.arange(0, half, 2, dtype=compute, device=padding_mask.device) / half
    wavelengths = _TEMPERATURE**exponents
    waves = []
    for position in (rows, columns):
        angles = position[..., None] / wavelengths
        waves.append(torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(3))
    return torch.cat(waves, dim=3).flatten(1, 2).to(dtype)


@built_once
def unpadded_sine_positions(
    height: int, width: int, channels: int, device: torch.device, dtype: torch.dtype
) -> torch.Tensor:
    """:func:`sine_positions` (1, H·W, channels) of a map without padding."""
    mask = torch.zeros((1, height, width), dtype=torch.bool, device=device)
    return sine_positions(mask, channels, dtype)
