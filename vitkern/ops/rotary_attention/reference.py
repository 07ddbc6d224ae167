"""``rotary_attention`` in plain PyTorch: the oracle, and the ``eager`` backend."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from vitkern.dispatch import Backend
from vitkern.ops.attention import reference as attention
from vitkern.ops.rotary_attention.call import RotaryAttentionCall


def normalised(
    x: torch.Tensor,
    norm: str | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
) -> torch.Tensor:
    """``x`` (..., head_dim), each row of it normalised, in its dtype."""
    if norm is None:
        return x
    # Parameters of float32 beside a half-precision x make PyTorch want both in one dtype.
    wide = next((p.dtype for p in (weight, bias) if p is not None), x.dtype)
    if norm == "layer":
        return F.layer_norm(x.to(wide), x.shape[-1:], weight, bias, eps).to(x.dtype)
    return F.rms_norm(x.to(wide), x.shape[-1:], weight, eps).to(x.dtype)


def turned(x: torch.Tensor, interleaved: bool) -> torch.Tensor:
    """What the sines multiply: of each pair (a, b) of elements, (-b, a).

    A pair are neighbours where ``interleaved``, else an element of each half.
    """
    if interleaved:
        return torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
    first, second = x.chunk(2, -1)
    return torch.cat((-second, first), -1)


def rotated(
    x: torch.Tensor, sin: torch.Tensor | None, cos: torch.Tensor | None, interleaved: bool
) -> torch.Tensor:
    """``x`` (B, heads, N, head_dim) with its last rows rotated, in its dtype."""
    if sin is None or cos is None:
        return x
    first = x.shape[2] - sin.shape[-2]
    still, moved = x[:, :, :first], x[:, :, first:]
    moved = (moved * cos + turned(moved, interleaved) * sin).to(x.dtype)
    return torch.cat((still, moved), 2) if first else moved


def prepared(call: RotaryAttentionCall) -> tuple[torch.Tensor, torch.Tensor]:
    """q and k, normalised and rotated."""
    q = normalised(call.q, call.norm, call.q_weight, call.q_bias, call.eps)
    k = normalised(call.k, call.norm, call.k_weight, call.k_bias, call.eps)
    return (
        rotated(q, call.sin, call.cos, call.interleaved),
        rotated(k, call.sin, call.cos, call.interleaved),
    )


def reference(call: RotaryAttentionCall) -> torch.Tensor:
    """Attention on normalised and rotated q and k."""
    return attention.reference(call.attention(*prepared(call)))


BACKEND = Backend(
    name="eager",
    supports=lambda call: [],
    forward=lambda call, needs_grad: (reference(call), ()),
)
