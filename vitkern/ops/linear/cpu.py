"""``linear`` on the CPU: csrc/cpu/linear.cpp."""

from __future__ import annotations

import torch

from vitkern.dispatch import Backend
from vitkern.dispatch.backend import Tensors
from vitkern.ops import _cpu
from vitkern.ops.linear.call import LinearCall


def supports(call: LinearCall) -> list[str]:
    """Reasons to refuse: those of every op, and of int8."""
    return _cpu.refusals(
        call.x, call.weight, call.bias, call.gamma, call.residual
    ) or _cpu.int8_refusals(weight=call.weight)


def forward(call: LinearCall, needs_grad: bool) -> tuple[torch.Tensor, Tensors]:
    """Keeps what the activation was applied to, where the gradient depends on it."""
    save = needs_grad and (call.activation is not None or call.gamma is not None)
    y, pre = torch.ops.vitkern_cpu.linear(
        call.x,
        *_cpu.operand(call.weight, trained=needs_grad),
        call.bias,
        _cpu.ACTIVATIONS.index(call.activation),
        call.gamma,
        call.residual,
        save,
    )
    return y, (pre,) if save else ()


def backward(
    call: LinearCall,
    saved: Tensors,
    grads: tuple[torch.Tensor, ...],
    needs: tuple[bool, ...],
) -> Tensors:
    """The residual's gradient is the output's."""
    (dy,), (need_x, need_weight, need_bias, _, need_gamma, need_residual) = grads, needs
    dx = dweight = dbias = dgamma = None
    if need_x or need_weight or need_bias or need_gamma:
        dx, dweight, dbias, dgamma = torch.ops.vitkern_cpu.linear_backward(
            dy,
            call.x,
            call.weight,
            saved[0] if saved else None,
            _cpu.ACTIVATIONS.index(call.activation),
            call.gamma,
            need_x,
            need_weight,
            need_bias,
            need_gamma,
        )
    return (
        dx if need_x else None,
        dweight if need_weight else None,
        dbias if need_bias else None,
        None,
        dgamma if need_gamma else None,
        dy if need_residual else None,
    )


if _cpu.missing() is None:

    @torch.library.register_fake("vitkern_cpu::linear")
    def _(
        x: torch.Tensor,
        weight: torch.Tensor,
        packed: torch.Tensor | None,
        bias: torch.Tensor | None,
        activation: int,
        gamma: torch.Tensor | None,
        residual: torch.Tensor | None,
        save_pre: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (*x.shape[:-1], weight.shape[0])
        return x.new_empty(shape), x.new_empty(shape if save_pre else 0)

    @torch.library.register_fake("vitkern_cpu::linear_backward")
    def _(
        dy: torch.Tensor,
        x: torch.Tensor,
        weight: torch.Tensor,
        pre: torch.Tensor | None,
        activation: int,
        gamma: torch.Tensor | None,
        need_x: bool,
        need_weight: bool,
        need_bias: bool,
        need_gamma: bool,
    ) -> tuple[torch.Tensor, ...]:
        width = weight.shape[0]
        return (
            x.new_empty(x.shape if need_x else 0),
            x.new_empty(weight.shape if need_weight else 0),
            x.new_empty(width if need_bias else 0),
            x.new_empty(width if need_gamma else 0),
        )


BACKEND = Backend("cpu", supports, forward, backward, _cpu.missing)
