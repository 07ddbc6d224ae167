"""Sums of what blocks leave behind, in a fixed order."""

from __future__ import annotations

import torch

from vitkern.ops._cuda.kernels import CudaKernels


def column_sums(kernels: CudaKernels, partial: torch.Tensor, total: torch.Tensor) -> None:
    """``total = partial.sum(0)``: partial (P, N) float32 and total (N,), both contiguous."""
    if total.numel():
        kernels.run(
            "column_sums", total, partial=partial, total=total, rows=partial.shape[0],
            width=total.numel(),
        )  # fmt: skip
