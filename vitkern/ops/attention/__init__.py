"""Scaled dot-product attention with additive bias, key padding and dropout."""

from __future__ import annotations

import torch

from vitkern.dispatch import Operator
from vitkern.ops.attention.call import AttentionCall
from vitkern.ops.attention.checks import checked

_OPERATOR = Operator("attention", AttentionCall, __name__)


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    key_padding_mask: torch.Tensor | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    backend: str | None = None,
) -> torch.Tensor:
    """``dropout(softmax(q @ k.T * scale + bias)) @ v``; a row with no key gives zeros.

    Vaswani et al., "Attention Is All You Need", 2017 (arXiv 1706.03762).

    Args:
        q: (B, heads, Nq, head_dim), float32, float64, bfloat16 or float16; any strides.
        k: (B, heads, Nk, head_dim), q's dtype; any strides.
        v: as ``k``.
        bias: 2 to 4 dimensions that broadcast to (B, heads, Nq, Nk), q's dtype, or None.
        key_padding_mask: (B, Nk) bool, True = ignore the key, or None.
        scale: what scores are multiplied with; None is ``head_dim ** -0.5``.
        dropout_p: chance to drop a weight, at least 0 and below 1. The mask follows from a seed
            that is drawn from PyTorch's generator, and is the same on every backend.
        backend: name of the backend to use; None chooses automatically.

    Under autocast all are taken in autocast's dtype.

    Returns:
        (B, heads, Nq, head_dim). On ``cpu`` and ``triton`` it is a view of a contiguous
        (B, Nq, heads, head_dim), so that ``.transpose(1, 2).reshape(B, Nq, -1)`` copies nothing.

    Raises:
        TypeError: not floating-point tensors (bool for the mask), or dtypes that do not go
            together.
        ValueError: shapes or devices that do not fit, or ``dropout_p`` out of range.
        UnsupportedInput: ``backend`` (or ``use_backend``) names one that refuses the call.
    """
    call = checked(q, k, v, bias, key_padding_mask, scale, dropout_p)
    out: torch.Tensor = _OPERATOR(call, backend)
    return out
