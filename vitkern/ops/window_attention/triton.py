"""``window_attention`` in Triton: straight from and to the map, which nothing partitions or rolls.

Windows of up to ``WHOLE`` positions are one tile of scores each; of others, blocks of queries meet
blocks of keys. :mod:`triton_launches` launches both.
"""

from __future__ import annotations

import torch

from vitkern.dispatch import Backend
from vitkern.dispatch.backend import Tensors
from vitkern.ops._family import Outputs, empty_unless
from vitkern.ops._triton import availability
from vitkern.ops._triton.operator import operator
from vitkern.ops.window_attention import triton_launches as launches
from vitkern.ops.window_attention.call import WindowAttentionCall
from vitkern.ops.window_attention.triton_launches import Windows, is_whole

WIDEST = 256
"""A program has whole heads of its positions on chip."""


def supports(call: WindowAttentionCall) -> list[str]:
    """Reasons to refuse: those of every op, and heads that do not fit on chip."""
    reasons = availability.refusals(call.qkv, call.bias_table, call.pad)
    head_dim = call.qkv.shape[-1] // (3 * call.num_heads)
    if not reasons and head_dim > WIDEST:
        reasons.append(f"a head_dim of {head_dim}; takes at most {WIDEST}")
    return reasons


def _allocate(
    qkv: torch.Tensor,
    table: torch.Tensor | None,
    pad: torch.Tensor | None,
    heads: int,
    window_h: int,
    window_w: int,
    shift_y: int,
    shift_x: int,
    scale: float,
    pad_first: bool,
    save: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    batch, height, width, channels = qkv.shape
    windows = batch * -(-height // window_h) * -(-width // window_w)
    return (
        qkv.new_empty((batch, height, width, channels // 3)),
        empty_unless(save, qkv, (windows, heads, window_h * window_w), torch.float32),
    )


def _launch(
    outputs: Outputs,
    qkv: torch.Tensor,
    table: torch.Tensor | None,
    pad: torch.Tensor | None,
    heads: int,
    window_h: int,
    window_w: int,
    shift_y: int,
    shift_x: int,
    scale: float,
    pad_first: bool,
    save: bool,
) -> None:
    w = Windows(qkv, table, pad, heads, (window_h, window_w), (shift_y, shift_x), scale, pad_first)
    out, log_sums = outputs
    if w.whole:
        launches.whole_forward(w, out)
    else:
        launches.blocked_forward(w, out, log_sums if save else None)


def _allocate_backward(
    dout: torch.Tensor,
    qkv: torch.Tensor,
    table: torch.Tensor | None,
    pad: torch.Tensor | None,
    out: torch.Tensor | None,
    log_sums: torch.Tensor | None,
    heads: int,
    window_h: int,
    window_w: int,
    shift_y: int,
    shift_x: int,
    scale: float,
    pad_first: bool,
    need_qkv: bool,
    need_table: bool,
    need_pad: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rows = (2 * window_h - 1) * (2 * window_w - 1)
    return (
        empty_unless(need_qkv, qkv, qkv.shape),
        empty_unless(need_table, qkv, (rows, heads)),
        empty_unless(need_pad, qkv, (qkv.shape[-1],)),
    )


def _launch_backward(
    outputs: Outputs,
    dout: torch.Tensor,
    qkv: torch.Tensor,
    table: torch.Tensor | None,
    pad: torch.Tensor | None,
    out: torch.Tensor | None,
    log_sums: torch.Tensor | None,
    heads: int,
    window_h: int,
    window_w: int,
    shift_y: int,
    shift_x: int,
    scale: float,
    pad_first: bool,
    need_qkv: bool,
    need_table: bool,
    need_pad: bool,
) -> None:
    w = Windows(
        qkv, table, pad, heads, (window_h, window_w), (shift_y, shift_x), scale, pad_first, dout
    )
    dqkv, dtable, dpad = (
        grad if need else None
        for grad, need in zip(outputs, (need_qkv, need_table, need_pad), strict=True)
    )
    if out is None or log_sums is None:
        launches.whole_backward(w, dqkv, dtable, dpad)
    else:
        launches.blocked_backward(w, out, log_sums, dqkv, dtable, dpad)


_forward = operator("window_attention", _allocate, _launch)
_backward = operator("window_attention_backward", _allocate_backward, _launch_backward)


def forward(call: WindowAttentionCall, needs_grad: bool) -> tuple[torch.Tensor, Tensors]:
    """Keeps the output and each row's sum of exponentials, where scores are not of one tile."""
    save = needs_grad and not is_whole(call.qkv, call.num_heads, call.window)
    out, log_sums = _forward(
        call.qkv, call.bias_table, call.pad, call.num_heads, *call.window, *call.shift,
        call.scale, call.pad_first, save,
    )  # fmt: skip
    return out, (out, log_sums) if save else ()


def backward(
    call: WindowAttentionCall,
    saved: Tensors,
    grads: tuple[torch.Tensor, ...],
    needs: tuple[bool, ...],
) -> Tensors:
    """One gradient per argument, None where it is not wanted."""
    wanted = needs[:3]  # qkv, bias_table, pad
    computed = _backward(
        grads[0], call.qkv, call.bias_table, call.pad, *(saved or (None, None)),
        call.num_heads, *call.window, *call.shift, call.scale, call.pad_first, *wanted,
    )  # fmt: skip
    results = (grad if need else None for grad, need in zip(computed, wanted, strict=True))
    return (*results, None, None, None, None, None)


BACKEND = Backend("triton", supports, forward, backward, availability.missing)
