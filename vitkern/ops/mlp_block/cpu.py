"""``mlp_block`` on the CPU: csrc/cpu/blocks.cpp."""

from __future__ import annotations

import torch

from vitkern.dispatch import Backend
from vitkern.dispatch.backend import Tensors
from vitkern.ops import _cpu
from vitkern.ops.mlp_block.call import MlpBlockCall


def supports(call: MlpBlockCall) -> list[str]:
    """Reasons to refuse: those of every fused block, and of int8."""
    return _cpu.block_refusals(*call[:8]) or _cpu.int8_refusals(
        weight1=call.weight1, weight2=call.weight2
    )


def forward(call: MlpBlockCall, needs_grad: bool) -> tuple[torch.Tensor, Tensors]:
    """Keeps nothing: there is no backward."""
    y = _run(
        call.x,
        call.norm_weight,
        call.norm_bias,
        call.eps,
        *_cpu.operand(call.weight1),
        call.bias1,
        *_cpu.operand(call.weight2),
        call.bias2,
        _cpu.ACTIVATIONS.index(call.activation),
        call.gamma,
    )
    return y, ()


if _cpu.missing() is None:
    # Looked up once: a model calls it in every layer.
    _run = torch.ops.vitkern_cpu.mlp_block.default

    @torch.library.register_fake("vitkern_cpu::mlp_block")
    def _(
        x: torch.Tensor,
        norm_weight: torch.Tensor | None,
        norm_bias: torch.Tensor | None,
        eps: float,
        weight1: torch.Tensor,
        packed1: torch.Tensor | None,
        bias1: torch.Tensor | None,
        weight2: torch.Tensor,
        packed2: torch.Tensor | None,
        bias2: torch.Tensor | None,
        activation: int,
        gamma: torch.Tensor | None,
    ) -> torch.Tensor:
        return x.new_empty(x.shape)


BACKEND = Backend("cpu", supports, forward, _cpu.no_gradient, _cpu.missing)
