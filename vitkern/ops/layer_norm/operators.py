"""The registered operators of ``layer_norm``, the same for each family of GPU kernels."""

from __future__ import annotations

from collections.abc import Callable

import torch

from vitkern.dispatch import Backend
from vitkern.dispatch.backend import Tensors
from vitkern.ops._cuda.kernels import CudaKernels
from vitkern.ops._family import Family, empty_unless
from vitkern.ops.layer_norm.call import LayerNormCall, scale_gradient
from vitkern.ops.layer_norm.reference import Output


def _allocate(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    residual: torch.Tensor | None,
    residual_scale: torch.Tensor | None,
    save: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rows = x.numel() // x.shape[-1]
    return (
        x.new_empty(x.shape),
        empty_unless(residual is not None, x, x.shape),
        empty_unless(save, x, (rows, 2), torch.float32),
    )


def _allocate_backward(
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
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    like, width = x if weight is None else weight, x.shape[-1]
    return (
        empty_unless(need_x, x, x.shape),
        empty_unless(need_weight, like, (width,)),
        # The parameters' dtype is that of weight; a bias alone may have another one.
        empty_unless(need_bias, like, (width,), torch.float32 if weight is None else None),
        # Without a scale it is x's.
        empty_unless(need_residual and residual_scale is not None, x, x.shape),
    )


def backend(
    kernels: Family | CudaKernels,
    supports: Callable[[LayerNormCall], list[str]],
    launch: Callable[..., None],
    launch_backward: Callable[..., None],
) -> Backend:
    """The backend of a family, from what launches its kernels."""
    run = kernels.operator("layer_norm", _allocate, launch)
    run_backward = kernels.operator("layer_norm_backward", _allocate_backward, launch_backward)

    def forward(call: LayerNormCall, needs_grad: bool) -> tuple[Output, Tensors]:
        """Keeps the statistics, and the sum of a residual: it is what was normalised."""
        y, total, stats = run(*call, needs_grad)
        if call.residual is None:
            return y, (stats,) if needs_grad else ()
        return (y, total), (total, stats) if needs_grad else ()

    def backward(
        call: LayerNormCall,
        saved: Tensors,
        grads: tuple[torch.Tensor, ...],
        needs: tuple[bool, ...],
    ) -> Tensors:
        """``x`` and a scaled ``residual`` get the same gradient, for only their sum matters."""
        need_x, need_weight, need_bias, _, need_residual, need_scale = needs
        if call.residual is None:
            normalised, (stats,), (dy,), dsum = call.x, saved, grads, None
        else:
            (normalised, stats), (dy, dsum) = saved, grads  # type: ignore[assignment]
        dx, dweight, dbias, dresidual = run_backward(
            dy,
            dsum,
            normalised,
            call.weight,
            stats,
            call.residual_scale,
            need_x or need_residual or need_scale,
            need_weight,
            need_bias,
            need_residual,
        )
        if call.residual_scale is None:
            dresidual = dx
        return (
            dx if need_x else None,
            dweight if need_weight else None,
            dbias.to(call.bias.dtype) if need_bias and call.bias is not None else None,
            None,
            dresidual if need_residual else None,
            scale_gradient(dx, call) if need_scale and call.residual is not None else None,
        )

    return kernels.backend(supports, forward, backward)
