"""``layer_norm`` on the CPU: csrc/cpu/layer_norm.cpp."""

from __future__ import annotations

import torch

from vitkern.dispatch import Backend
from vitkern.dispatch.backend import Tensors
from vitkern.ops import _cpu
from vitkern.ops.layer_norm.call import LayerNormCall, scale_gradient, scaled
from vitkern.ops.layer_norm.reference import Output


def supports(call: LayerNormCall) -> list[str]:
    """Reasons to refuse: those of every op, and two parameters of two dtypes."""
    reasons = _cpu.refusals(call.x, call.weight, call.bias, call.residual, call.residual_scale)
    weight, bias = call.weight, call.bias
    if weight is not None and bias is not None and weight.dtype != bias.dtype:
        reasons.append(f"weight {weight.dtype} beside bias {bias.dtype}; takes one dtype for both")
    return reasons


def forward(call: LayerNormCall, needs_grad: bool) -> tuple[Output, Tensors]:
    """Keeps the statistics, and the sum where there is a residual: it is what was normalised."""
    residual = call.residual
    if residual is not None:
        residual = scaled(residual, call.residual_scale)
    y, total, stats = torch.ops.vitkern_cpu.layer_norm(
        call.x, call.weight, call.bias, call.eps, residual, needs_grad
    )
    if call.residual is None:
        return y, (stats,) if needs_grad else ()
    return (y, total), (total, stats) if needs_grad else ()


def backward(
    call: LayerNormCall,
    saved: Tensors,
    grads: tuple[torch.Tensor, ...],
    needs: tuple[bool, ...],
) -> Tensors:
    """``x`` and a scaled ``residual`` get the same gradient, since only their sum matters."""
    need_x, need_weight, need_bias, _, need_residual, need_scale = needs
    if call.residual is None:
        normalised, (stats,), (dy,), dsum = call.x, saved, grads, None
    else:
        (normalised, stats), (dy, dsum) = saved, grads  # type: ignore[assignment]
    dx, dweight, dbias = torch.ops.vitkern_cpu.layer_norm_backward(
        dy, dsum, normalised, call.weight, stats, need_x or need_residual or need_scale,
        need_weight, need_bias,
    )  # fmt: skip
    return (
        dx if need_x else None,
        dweight if need_weight else None,
        # The operator sees no bias, so beside a missing weight it cannot know this dtype.
        dbias.to(call.bias.dtype) if need_bias and call.bias is not None else None,
        None,
        scaled(dx, call.residual_scale) if need_residual else None,
        scale_gradient(dx, call) if need_scale and call.residual is not None else None,
    )


if _cpu.missing() is None:

    @torch.library.register_fake("vitkern_cpu::layer_norm")
    def _(
        x: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        eps: float,
        residual: torch.Tensor | None,
        save: bool,
    ) -> tuple[torch.Tensor, ...]:
        rows = x.numel() // x.shape[-1]
        return (
            x.new_empty(x.shape),
            x.new_empty(0 if residual is None else x.shape),
            x.new_empty((rows, 2) if save else 0, dtype=torch.float32),
        )

    @torch.library.register_fake("vitkern_cpu::layer_norm_backward")
    def _(
        dy: torch.Tensor,
        dsum: torch.Tensor | None,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        stats: torch.Tensor,
        need_x: bool,
        need_weight: bool,
        need_bias: bool,
    ) -> tuple[torch.Tensor, ...]:
        like = x if weight is None else weight
        return (
            x.new_empty(x.shape if need_x else 0),
            like.new_empty(x.shape[-1] if need_weight else 0),
            like.new_empty(x.shape[-1] if need_bias else 0),
        )


BACKEND = Backend("cpu", supports, forward, backward, _cpu.missing)
