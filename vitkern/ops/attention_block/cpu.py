"""``attention_block`` on the CPU: csrc/cpu/blocks.cpp."""

from __future__ import annotations

import torch

from vitkern.dispatch import Backend
from vitkern.dispatch.backend import Tensors
from vitkern.ops import _cpu
from vitkern.ops.attention_block.call import AttentionBlockCall


def supports(call: AttentionBlockCall) -> list[str]:
    """Reasons to refuse: those of every fused block, and of int8."""
    return _cpu.block_refusals(*call[:8]) or _cpu.int8_refusals(
        qkv_weight=call.qkv_weight, proj_weight=call.proj_weight
    )


def forward(call: AttentionBlockCall, needs_grad: bool) -> tuple[torch.Tensor, Tensors]:
    """Keeps nothing: there is no backward."""
    y = _run(
        call.x,
        call.norm_weight,
        call.norm_bias,
        call.eps,
        *_cpu.operand(call.qkv_weight),
        call.qkv_bias,
        *_cpu.operand(call.proj_weight),
        call.proj_bias,
        call.gamma,
        call.num_heads,
        call.scale,
    )
    return y, ()


if _cpu.missing() is None:
    # Looked up once: a model calls it in every layer.
    _run = torch.ops.vitkern_cpu.attention_block.default

    @torch.library.register_fake("vitkern_cpu::attention_block")
    def _(
        x: torch.Tensor,
        norm_weight: torch.Tensor | None,
        norm_bias: torch.Tensor | None,
        eps: float,
        qkv_weight: torch.Tensor,
        qkv_packed: torch.Tensor | None,
        qkv_bias: torch.Tensor | None,
        proj_weight: torch.Tensor,
        proj_packed: torch.Tensor | None,
        proj_bias: torch.Tensor | None,
        gamma: torch.Tensor | None,
        num_heads: int,
        scale: float,
    ) -> torch.Tensor:
        return x.new_empty(x.shape)


BACKEND = Backend("cpu", supports, forward, _cpu.no_gradient, _cpu.missing)
