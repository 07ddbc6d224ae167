"""``window_attention`` in Triton: straight from and to the map, which nothing partitions or rolls.

Windows of up to ``WHOLE`` positions are one tile of scores each; of others, blocks of queries meet
blocks of keys. :mod:`triton_launches` launches both.
"""

from __future__ import annotations

import torch

from vitkern.ops._family import Outputs
from vitkern.ops._triton import availability
from vitkern.ops._triton.operator import TRITON
from vitkern.ops.window_attention import operators
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


def _saves(call: WindowAttentionCall) -> bool:
    """Unless scores are of one tile, which are made again whole."""
    return not is_whole(call.qkv, call.num_heads, call.window)


BACKEND = operators.backend(TRITON, supports, _launch, _launch_backward, _saves)
