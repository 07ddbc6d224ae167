"""Matrix products of ``linear``, ``mlp`` and ``patch_embed``.

With something to fuse they are csrc/cuda's; without, PyTorch's, which are cuBLASLt's on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch

from vitkern.ops._cuda.kernels import CudaKernels
from vitkern.ops._cuda.library import Field
from vitkern.ops._cuda.shapes import loads_vectors, rows
from vitkern.ops._cuda.sums import column_sums
from vitkern.ops._products import Epilogue, plain

QUAD = 4
"""Elements of a row that an epilogue loads and stores at once."""

TILE = 64
"""Rows and columns of the smallest tiles: csrc/cuda/gemm.cuh."""

SHARE = 1024
"""Bytes of k that a block has at least where several share a tile: 16 steps."""


def fields(after: Epilogue, c: torch.Tensor) -> dict[str, Field]:
    """An epilogue, of a kernel's struct (csrc/cuda/epilogue.cuh); ``c`` (..., N) is contiguous."""
    residual = None if after.residual is None else rows(after.residual)
    bias = None if after.bias is None else after.bias.contiguous()
    gamma = None if after.gamma is None else after.gamma.contiguous()
    slope = None if after.slope is None else after.slope.contiguous()
    residual_row = 0 if residual is None else residual.stride(0)
    n, each = c.shape[-1], QUAD * c.element_size()
    tensors = (c, bias, gamma, residual, slope, after.pre, after.activated)
    starts = all(tensor is None or tensor.data_ptr() % each == 0 for tensor in tensors)
    return {
        "c": c, "bias": bias, "gamma": gamma, "residual": residual, "slope": slope,
        "pre": after.pre, "activated": after.activated, "residual_row": residual_row,
        "activation": after.activation,
        "quads": starts and n % QUAD == 0 and residual_row % QUAD == 0,
    }  # fmt: skip


def product(
    kernels: CudaKernels, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, after: Epilogue
) -> None:
    """``c = epilogue(a @ b.T)``: a (M, K) and b (N, K) of any strides, c (..., N) contiguous."""
    m, n = a.shape[0], b.shape[0]
    if m == 0 or n == 0:
        return
    if after.is_bias():
        plain(a, b.t(), c, after.bias)
        return
    aligned = a.stride(1) == b.stride(1) == 1 and loads_vectors(a, b)
    splits = _splits(a, n, kernels.processors(c.device)) if aligned else 1
    partial = c.new_empty((splits, m, n), dtype=torch.float32) if splits > 1 else None
    kernels.run(
        "gemm", c, a=a, a_row=a.stride(0), a_step=a.stride(1), m=m, partial=partial,
        splits=splits, warpgroups=kernels.warpgroups(c.device),
        **of_columns(kernels, b, aligned), **fields(after, c),
    )  # fmt: skip


def _splits(a: torch.Tensor, n: int, processors: int) -> int:
    """Parts of k: as many as give every processor a block, where k is long enough."""
    m, k = a.shape
    tiles = -(-m // TILE) * -(-n // TILE)
    wanted = min(processors // tiles, k * a.element_size() // SHARE)
    if wanted < 2:
        return 1
    steps = -(-k * a.element_size() // TILE)
    each = -(-steps // wanted)
    return -(-steps // each)  # none of them is empty


def of_columns(kernels: CudaKernels, b: torch.Tensor, aligned: bool) -> dict[str, Any]:
    """Fields of every product: those about b (N, K)."""
    return {
        "b": b, "b_row": b.stride(0), "b_step": b.stride(1), "n": b.shape[0], "k": b.shape[1],
        "aligned": aligned, "processors": kernels.processors(b.device), "tf32": kernels.tf32(b),
    }  # fmt: skip


def gradient(
    kernels: CudaKernels,
    dy: torch.Tensor,
    pre: torch.Tensor | None,
    gamma: torch.Tensor | None,
    activation: int,
    *,
    dpre: bool,
    dbias: torch.Tensor | None,
    dgamma: torch.Tensor | None,
) -> torch.Tensor:
    """``dy * gamma * activation'(pre)`` (rows, N), and its sums of columns, in one pass over dy.

    Args:
        kernels: that compute it.
        dy: (..., N).
        pre: (..., N), contiguous: what the activation was applied to.
        gamma: (N,): what the activation's result was multiplied by.
        activation: index of.
        dpre: whether the product itself is needed; it is ``dy`` where nothing changes it.
        dbias, dgamma: (N,), get the sums of the result, and of ``dy * activation(pre)``.
    """
    changes = bool(activation) or gamma is not None
    dy = rows(dy)
    count, width = dy.shape
    out = dy.new_empty(dy.shape) if changes and dpre else None
    result = dy if out is None else out
    if width == 0 or (out is None and dbias is None and dgamma is None):
        return result
    # Some programs for each processor, each with enough rows that its sums are few bytes.
    wanted = -(-16 * kernels.processors(dy.device) // -(-width // 128))
    each = max(-(-count // wanted), 16)
    programs = -(-count // each)
    sums, gamma_sums = (
        None if total is None else dy.new_empty((programs, width), dtype=torch.float32)
        for total in (dbias, dgamma)
    )
    if programs:
        kernels.run(
            "gradient", dy,
            dy=dy, pre=None if pre is None else pre.contiguous(),
            gamma=None if gamma is None else gamma.contiguous(), dpre=out, dbias=sums,
            dgamma=gamma_sums, rows=count, width=width, dy_row=dy.stride(0), programs=programs,
            each=each, activation=activation,
        )  # fmt: skip
    for partial, total in ((sums, dbias), (gamma_sums, dgamma)):
        if partial is not None and total is not None:
            column_sums(kernels, partial, total)
    return result
