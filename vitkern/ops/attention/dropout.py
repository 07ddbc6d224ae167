"""Which attention weights dropout keeps: a function of a seed and of the weight's place.

No mask is stored: forward and backward of every backend compute the same one. The C++ twin is
csrc/cpu/kernels/dropout.h; the two must agree bit for bit.
"""

from __future__ import annotations

import math

import torch

_LOW = 0xFFFFFFFF


def _times(x: torch.Tensor, factor: int) -> torch.Tensor:
    """``x * factor`` modulo 2**32, by halves: no int64 product here overflows."""
    low = (x & 0xFFFF) * factor
    high = ((x >> 16) * factor & 0xFFFF) << 16
    return low + high & _LOW


def _mix(x: torch.Tensor) -> torch.Tensor:
    """A bijection of 32 bits that spreads every bit over all (Wellons' lowbias32)."""
    x = x ^ (x >> 16)
    x = _times(x, 0x7FEB352D)
    x = x ^ (x >> 15)
    x = _times(x, 0x846CA68B)
    return x ^ (x >> 16)


def random_bits(seed: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """32 random bits, as int64, for each row and column (broadcast against each other)."""
    x = (
        _times(columns & _LOW, 0x9E3779B1)
        + _times(rows & _LOW, 0x85EBCA77)
        + _times(rows >> 32 & _LOW, 0xC2B2AE3D)
        + (seed & _LOW)
    )
    x = _mix(x & _LOW)
    return _mix(x + (seed >> 32 & _LOW) & _LOW)


def keep_mask(
    seed: torch.Tensor, batch: int, heads: int, queries: int, keys: int, dropout_p: float
) -> torch.Tensor:
    """(batch, heads, queries, keys) bool: True where the weight is kept, with chance 1 - p.

    A weight is kept where its bits, as an integer, are at least p * 2**32.
    """
    rows = torch.arange(batch * heads * queries, device=seed.device)
    columns = torch.arange(keys, device=seed.device)
    bits = random_bits(seed, rows.view(batch, heads, queries, 1), columns)
    return bits >= math.ceil(dropout_p * 2.0**32)
