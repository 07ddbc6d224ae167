"""``window_attention`` on the CPU: csrc/cpu/window_attention.cpp."""

from __future__ import annotations

import torch

from vitkern.dispatch import Backend
from vitkern.dispatch.backend import Tensors
from vitkern.ops import _cpu
from vitkern.ops.window_attention.call import WindowAttentionCall


def supports(call: WindowAttentionCall) -> list[str]:
    """Reasons to refuse: only those of every op."""
    return _cpu.refusals(call.qkv, call.bias_table, call.pad)


def forward(call: WindowAttentionCall, needs_grad: bool) -> tuple[torch.Tensor, Tensors]:
    """Keeps the output and the logarithm of each row's sum of exponentials."""
    out, lse = torch.ops.vitkern_cpu.window_attention(
        call.qkv,
        call.bias_table,
        call.pad,
        call.num_heads,
        *call.window,
        *call.shift,
        call.scale,
        call.pad_first,
        needs_grad,
    )
    return out, (out, lse) if needs_grad else ()


def backward(
    call: WindowAttentionCall,
    saved: Tensors,
    grads: tuple[torch.Tensor, ...],
    needs: tuple[bool, ...],
) -> Tensors:
    """One gradient per argument, None where it is not wanted."""
    wanted = needs[:3]  # qkv, bias_table, pad
    computed = torch.ops.vitkern_cpu.window_attention_backward(
        grads[0],
        call.qkv,
        call.bias_table,
        call.pad,
        *saved,
        call.num_heads,
        *call.window,
        *call.shift,
        call.scale,
        call.pad_first,
        *wanted,
    )
    results = (grad if need else None for grad, need in zip(computed, wanted, strict=True))
    return (*results, None, None, None, None, None)


if _cpu.missing() is None:

    @torch.library.register_fake("vitkern_cpu::window_attention")
    def _(
        qkv: torch.Tensor,
        bias_table: torch.Tensor | None,
        pad: torch.Tensor | None,
        num_heads: int,
        window_height: int,
        window_width: int,
        shift_height: int,
        shift_width: int,
        scale: float,
        pad_first: bool,
        save: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        batch, height, width, channels = qkv.shape
        rows = (height + window_height - 1) // window_height
        columns = (width + window_width - 1) // window_width
        lse = (batch, rows * columns, num_heads, window_height * window_width)
        return (
            qkv.new_empty((batch, height, width, channels // 3)),
            qkv.new_empty(lse if save else 0, dtype=torch.float32),
        )

    @torch.library.register_fake("vitkern_cpu::window_attention_backward")
    def _(
        dout: torch.Tensor,
        qkv: torch.Tensor,
        bias_table: torch.Tensor | None,
        pad: torch.Tensor | None,
        out: torch.Tensor,
        lse: torch.Tensor,
        num_heads: int,
        window_height: int,
        window_width: int,
        shift_height: int,
        shift_width: int,
        scale: float,
        pad_first: bool,
        need_qkv: bool,
        need_table: bool,
        need_pad: bool,
    ) -> tuple[torch.Tensor, ...]:
        table = bias_table.shape if need_table and bias_table is not None else 0
        return (
            qkv.new_empty(qkv.shape if need_qkv else 0),
            qkv.new_empty(table),
            qkv.new_empty(qkv.shape[-1] if need_pad and pad is not None else 0),
        )


BACKEND = Backend("cpu", supports, forward, backward, _cpu.missing)
