"""The checked arguments of ``attention``, as its backends see them."""

from __future__ import annotations

from typing import NamedTuple

import torch


class AttentionCall(NamedTuple):
    """``q`` (B, heads, Nq, head_dim), ``k`` and ``v`` (B, heads, Nk, head_dim).

    ``bias`` broadcasts to (B, heads, Nq, Nk); ``key_padding_mask`` (B, Nk) is bool, True =
    ignore; ``seed`` is int64 with one element, and given exactly if ``dropout_p`` > 0.
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    bias: torch.Tensor | None
    key_padding_mask: torch.Tensor | None
    scale: float
    dropout_p: float
    seed: torch.Tensor | None
