"""``mlp`` on the CPU: csrc/cpu/mlp.cpp."""

from __future__ import annotations

import torch

from vitkern.dispatch import Backend
from vitkern.dispatch.backend import Tensors
from vitkern.ops import _cpu
from vitkern.ops.mlp.call import MlpCall


def supports(call: MlpCall) -> list[str]:
    """Reasons to refuse: those of every op, and of int8."""
    return _cpu.refusals(
        call.x, call.weight1, call.bias1, call.weight2, call.bias2, call.gamma, call.residual
    ) or _cpu.int8_refusals(weight1=call.weight1, weight2=call.weight2)


def forward(call: MlpCall, needs_grad: bool) -> tuple[torch.Tensor, Tensors]:
    """Keeps what the activation was applied to and, where there is a gamma, what it multiplied."""
    y, pre1, out2 = torch.ops.vitkern_cpu.mlp(
        call.x,
        *_cpu.operand(call.weight1, trained=needs_grad),
        call.bias1,
        *_cpu.operand(call.weight2, trained=needs_grad),
        call.bias2,
        _cpu.ACTIVATIONS.index(call.activation),
        call.gamma,
        call.residual,
        needs_grad,
    )
    if not needs_grad:
        return y, ()
    return y, (pre1, None if call.gamma is None else out2)


def backward(
    call: MlpCall,
    saved: Tensors,
    grads: tuple[torch.Tensor, ...],
    needs: tuple[bool, ...],
) -> Tensors:
    """The residual's gradient is the output's."""
    (dy,), (pre1, out2) = grads, saved
    need_x, need_weight1, need_bias1, need_weight2, need_bias2, _, need_gamma, need_residual = needs
    wanted = (need_x, need_weight1, need_bias1, need_weight2, need_bias2, need_gamma)
    results: list[torch.Tensor | None] = [None] * len(wanted)
    if any(wanted):
        computed = torch.ops.vitkern_cpu.mlp_backward(
            dy,
            call.x,
            call.weight1,
            call.weight2,
            pre1,
            out2,
            _cpu.ACTIVATIONS.index(call.activation),
            call.gamma,
            *wanted,
        )
        results = [grad if need else None for grad, need in zip(computed, wanted, strict=True)]
    return (*results[:5], None, results[5], dy if need_residual else None)


if _cpu.missing() is None:

    @torch.library.register_fake("vitkern_cpu::mlp")
    def _(
        x: torch.Tensor,
        weight1: torch.Tensor,
        packed1: torch.Tensor | None,
        bias1: torch.Tensor | None,
        weight2: torch.Tensor,
        packed2: torch.Tensor | None,
        bias2: torch.Tensor | None,
        activation: int,
        gamma: torch.Tensor | None,
        residual: torch.Tensor | None,
        save: bool,
    ) -> tuple[torch.Tensor, ...]:
        rows, hidden, width = x.shape[:-1], weight1.shape[0], weight2.shape[0]
        return (
            x.new_empty((*rows, width)),
            x.new_empty((*rows, hidden) if save else 0),
            x.new_empty((*rows, width) if save and gamma is not None else 0),
        )

    @torch.library.register_fake("vitkern_cpu::mlp_backward")
    def _(
        dy: torch.Tensor,
        x: torch.Tensor,
        weight1: torch.Tensor,
        weight2: torch.Tensor,
        pre1: torch.Tensor,
        out2: torch.Tensor | None,
        activation: int,
        gamma: torch.Tensor | None,
        need_x: bool,
        need_weight1: bool,
        need_bias1: bool,
        need_weight2: bool,
        need_bias2: bool,
        need_gamma: bool,
    ) -> tuple[torch.Tensor, ...]:
        hidden, width = weight1.shape[0], weight2.shape[0]
        return (
            x.new_empty(x.shape if need_x else 0),
            x.new_empty(weight1.shape if need_weight1 else 0),
            x.new_empty(hidden if need_bias1 else 0),
            x.new_empty(weight2.shape if need_weight2 else 0),
            x.new_empty(width if need_bias2 else 0),
            x.new_empty(width if need_gamma else 0),
        )


BACKEND = Backend("cpu", supports, forward, backward, _cpu.missing)
