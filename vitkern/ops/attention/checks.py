"""The checks of ``attention``'s arguments."""

from __future__ import annotations

from typing import Any

import torch

from vitkern.ops import _check
from vitkern.ops.attention.call import AttentionCall


def checked(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None,
    key_padding_mask: torch.Tensor | None,
    scale: float | None,
    dropout_p: float,
) -> AttentionCall:
    """The call that these arguments of ``attention`` make, with a seed where weights are dropped.

    Raises:
        TypeError, ValueError: as ``attention``.
    """
    _check.tensor("q", q, dims=4)
    _check.tensor("k", k, dims=4)
    batch, heads, queries, head_dim = q.shape
    keys = k.shape[2]
    if head_dim < 1:
        raise ValueError(f"q must have a head_dim of at least 1, got shape {_check.shape_of(q)}")
    like_k = (batch, heads, keys, head_dim)
    if bias is not None or _check.autocasts(q) or not _check.uniform(q, (k, v), (like_k, like_k)):
        _check.shape("k", k, like_k, "batch, heads and head_dim as q's")
        _check.tensor("v", v, dims=4)
        _check.shape("v", v, like_k, "shaped like k")
        if bias is not None:
            _check.tensor("bias", bias, dims=(2, 4))
            _check_broadcast(bias, (batch, heads, queries, keys))
        q, k, v, bias = _check.autocast(q, k, v, bias)
        _check.same("q", q, k=k, v=v, bias=bias)
    if key_padding_mask is not None:
        _check_mask(key_padding_mask, q, (batch, keys))
    scale = _check.scale(scale, head_dim)
    _check.probability("dropout_p", dropout_p)
    seed = None
    if dropout_p > 0.0:
        seed = torch.randint(2**63 - 1, (1,), dtype=torch.int64, device=q.device)
    return AttentionCall(q, k, v, bias, key_padding_mask, scale, float(dropout_p), seed)


def _check_broadcast(bias: torch.Tensor, scores: tuple[int, ...]) -> None:
    """Raises ValueError unless ``bias`` broadcasts to the shape of the scores."""
    pairs = zip(reversed(bias.shape), reversed(scores), strict=False)
    if not all(size in (1, full) for size, full in pairs):
        raise ValueError(
            f"bias must broadcast to {scores} (batch, heads, queries, keys),"
            f" got shape {_check.shape_of(bias)}"
        )


def _check_mask(mask: Any, q: torch.Tensor, expected: tuple[int, int]) -> None:
    """Raises unless ``mask`` is a bool tensor of the ``expected`` shape, on q's device."""
    if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool:
        got = mask.dtype if isinstance(mask, torch.Tensor) else type(mask).__name__
        raise TypeError(f"key_padding_mask must be a bool tensor (True = ignore), got {got}")
    if mask.layout is not torch.strided:
        raise TypeError(f"key_padding_mask must be strided, got layout {mask.layout}")
    _check.shape("key_padding_mask", mask, expected, "batch, keys")
    if mask.device != q.device:
        raise ValueError(f"key_padding_mask is on {mask.device} but q is on {q.device}")
