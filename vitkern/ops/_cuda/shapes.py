"""How tensors become what kernels take: rows whose columns are contiguous."""

from __future__ import annotations

import math

import torch

VECTOR = 16
"""Bytes that a thread loads at once."""


def rows(tensor: torch.Tensor) -> torch.Tensor:
    """(..., K) as (rows, K), copied only where columns are apart or rows have no one distance."""
    flat = tensor.reshape(math.prod(tensor.shape[:-1]), tensor.shape[-1])
    if flat.stride(1) == 1 or flat.shape[1] <= 1:
        return flat
    return flat.contiguous()


def loads_vectors(*tensors: torch.Tensor | None) -> bool:
    """Whether every row of each tensor begins at a multiple of VECTOR bytes and is one long."""
    return all(
        tensor is None
        or (
            tensor.data_ptr() % VECTOR == 0
            and tensor.shape[-1] * tensor.element_size() % VECTOR == 0
            and all(
                step * tensor.element_size() % VECTOR == 0
                for step, size in zip(tensor.stride()[:-1], tensor.shape[:-1], strict=True)
                if size > 1
            )
        )
        for tensor in tensors
    )
