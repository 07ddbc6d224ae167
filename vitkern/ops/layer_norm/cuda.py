"""``layer_norm`` in CUDA: csrc/cuda/layer_norm.cu."""

from __future__ import annotations

import torch

from vitkern.dispatch import Backend
from vitkern.ops._cuda.device import DEVICE
from vitkern.ops._cuda.kernels import CudaKernels
from vitkern.ops._cuda.shapes import loads_vectors, rows
from vitkern.ops._cuda.sums import column_sums
from vitkern.ops._family import Outputs
from vitkern.ops.layer_norm import operators
from vitkern.ops.layer_norm.call import LayerNormCall, scaled

WIDEST = 8192
"""Threads have whole rows in registers."""


def _is_wide(parameter: torch.Tensor | None, x: torch.Tensor) -> bool:
    """Whether it is float32 beside an x that is not."""
    return parameter is not None and parameter.dtype != x.dtype


def _launch(
    kernels: CudaKernels,
    outputs: Outputs,
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    residual: torch.Tensor | None,
    residual_scale: torch.Tensor | None,
    save: bool,
) -> None:
    (y, total, stats), width = outputs, x.shape[-1]
    x = rows(x)
    residual = None if residual is None else rows(scaled(residual, residual_scale))
    weight = None if weight is None else weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    if x.shape[0]:
        kernels.run(
            "layer_norm_forward", x,
            x=x, residual=residual, weight=weight, bias=bias,
            y=y, total=None if residual is None else total, stats=stats if save else None,
            rows=x.shape[0], width=width, x_row=x.stride(0),
            residual_row=0 if residual is None else residual.stride(0), eps=eps,
            weight_wide=_is_wide(weight, x), bias_wide=_is_wide(bias, x),
            vector=loads_vectors(x, residual, weight, bias, y),
        )  # fmt: skip


def _launch_backward(
    kernels: CudaKernels,
    outputs: Outputs,
    dy: torch.Tensor,
    dsum: torch.Tensor | None,
    x: torch.Tensor,
    weight: torch.Tensor | None,
    stats: torch.Tensor,
    residual_scale: torch.Tensor | None,
    need_x: bool,
    need_weight: bool,
    need_bias: bool,
    need_residual: bool,
) -> None:
    (dx, dweight, dbias, dresidual), width = outputs, x.shape[-1]
    x, dy = rows(x), rows(dy)
    dsum = None if dsum is None else rows(dsum)
    weight = None if weight is None else weight.contiguous()
    # Enough programs for each processor to hide how long memory takes: each leaves sums.
    count = x.shape[0]
    each = max(-(-count // (8 * kernels.processors(x.device))), 1)
    programs = -(-count // each)
    partial_weight, partial_bias = (
        x.new_empty((programs, width), dtype=torch.float32) if need else None
        for need in (need_weight, need_bias)
    )
    if programs:
        kernels.run(
            "layer_norm_backward", x,
            dy=dy, dsum=dsum, x=x, weight=weight, stats=stats, dx=dx if need_x else None,
            dweight=partial_weight, dbias=partial_bias, rows=count, width=width,
            dy_row=dy.stride(0), dsum_row=0 if dsum is None else dsum.stride(0),
            x_row=x.stride(0), programs=programs, each=each, weight_wide=_is_wide(weight, x),
            vector=loads_vectors(x, dy, dsum, weight),
        )  # fmt: skip
    if need_residual and residual_scale is not None:
        dresidual.copy_(scaled(dx, residual_scale))
    for partial, gradient in ((partial_weight, dweight), (partial_bias, dbias)):
        if partial is not None:
            column_sums(kernels, partial, gradient)


def backend(kernels: CudaKernels) -> Backend:
    """The backend on these kernels."""

    def supports(call: LayerNormCall) -> list[str]:
        """Reasons to refuse: those of every op, and rows that do not fit into registers."""
        reasons = kernels.refusals(
            call.x, call.weight, call.bias, call.residual, call.residual_scale
        )
        width = call.x.shape[-1]
        if not reasons and width > WIDEST:
            reasons = [f"a last dimension of {width}; takes at most {WIDEST}"]
        return reasons

    return operators.backend(kernels, supports, _launch, _launch_backward)


BACKEND = backend(DEVICE)
