"""Sums of what programs leave behind, in a fixed order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from vitkern.ops._triton.kernel import Kernel, Resources, cdiv, config
from vitkern.ops._triton.recorder import Work

_SUMS = Kernel(
    "vitkern.ops._triton.shared_kernels",
    "column_sums",
    space=lambda constants, itemsize: [
        config(4, 2, BLOCK_R=32, BLOCK_C=64),
        config(4, 2, BLOCK_R=64, BLOCK_C=32),
        config(8, 2, BLOCK_R=128, BLOCK_C=32),
    ],
    model=lambda c, itemsize: Resources(0, 2 * c["BLOCK_R"] * c["BLOCK_C"]),
    tensor_cores=False,
)


def column_sums(partial: torch.Tensor, total: torch.Tensor) -> None:
    """``total[...] = partial.sum(0)``: (P, ...) float32, contiguous; ``total`` contiguous."""
    rows, width = partial.shape[0], total.numel()
    if width == 0:
        return

    def work(_: Mapping[str, Any], grid: tuple[int, ...]) -> Work:
        size = float(partial.numel() * 4)
        return Work(read=size, unique=size, written=width * total.element_size())

    _SUMS(
        lambda c: (cdiv(width, c["BLOCK_C"]),),
        {"X": partial, "Y": total, "ROWS": rows, "WIDTH": width},
        {},
        work,
        operand=partial,
    )
