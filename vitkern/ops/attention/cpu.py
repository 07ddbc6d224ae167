"""``attention`` on the CPU: csrc/cpu/attention.cpp."""

from __future__ import annotations

import torch

from vitkern.dispatch import Backend
from vitkern.dispatch.backend import Tensors
from vitkern.ops import _cpu
from vitkern.ops.attention.call import AttentionCall


def supports(call: AttentionCall) -> list[str]:
    """Reasons to refuse: only those of every op (the mask's dtype is another one)."""
    return _cpu.refusals(call.q, call.k, call.v, call.bias)


def forward(call: AttentionCall, needs_grad: bool) -> tuple[torch.Tensor, Tensors]:
    """Keeps the output and the logarithm of each row's sum of exponentials."""
    out, lse = torch.ops.vitkern_cpu.attention(
        call.q,
        call.k,
        call.v,
        call.bias,
        call.key_padding_mask,
        call.scale,
        call.dropout_p,
        call.seed,
        needs_grad,
    )
    return out, (out, lse) if needs_grad else ()


def backward(
    call: AttentionCall,
    saved: Tensors,
    grads: tuple[torch.Tensor, ...],
    needs: tuple[bool, ...],
) -> Tensors:
    """One gradient per argument, None where it is not wanted."""
    wanted = needs[:4]  # q, k, v, bias
    computed = torch.ops.vitkern_cpu.attention_backward(
        grads[0],
        call.q,
        call.k,
        call.v,
        *saved,
        call.bias,
        call.key_padding_mask,
        call.scale,
        call.dropout_p,
        call.seed,
        *wanted,
    )
    results = (grad if need else None for grad, need in zip(computed, wanted, strict=True))
    return (*results, None, None, None, None)


def _empty(like: torch.Tensor) -> torch.Tensor:
    """The layout of outputs and gradients: (B, N, heads, head_dim) in memory."""
    batch, heads, length, head_dim = like.shape
    return like.new_empty((batch, length, heads, head_dim)).transpose(1, 2)


if _cpu.missing() is None:

    @torch.library.register_fake("vitkern_cpu::attention")
    def _(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        bias: torch.Tensor | None,
        key_padding_mask: torch.Tensor | None,
        scale: float,
        dropout_p: float,
        seed: torch.Tensor | None,
        save: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return _empty(q), q.new_empty(q.shape[:3] if save else 0, dtype=torch.float32)

    @torch.library.register_fake("vitkern_cpu::attention_backward")
    def _(
        dout: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        out: torch.Tensor,
        lse: torch.Tensor,
        bias: torch.Tensor | None,
        key_padding_mask: torch.Tensor | None,
        scale: float,
        dropout_p: float,
        seed: torch.Tensor | None,
        need_q: bool,
        need_k: bool,
        need_v: bool,
        need_bias: bool,
    ) -> tuple[torch.Tensor, ...]:
        return (
            _empty(q) if need_q else q.new_empty(0),
            _empty(k) if need_k else q.new_empty(0),
            _empty(v) if need_v else q.new_empty(0),
            q.new_empty(bias.shape) if need_bias and bias is not None else q.new_empty(0),
        )


BACKEND = Backend("cpu", supports, forward, backward, _cpu.missing)
