"""The checked arguments of ``rotary_attention``, as its backends see them."""

from __future__ import annotations

from typing import NamedTuple

import torch

from vitkern.ops.attention.call import AttentionCall

NORMS = (None, "layer", "rms")
HALVES, INTERLEAVED = 1, 2
"""Which elements make a pair that is rotated: d and d + head_dim / 2, or neighbours."""


class RotaryAttentionCall(NamedTuple):
    """The fields of an ``AttentionCall``, and what is done to ``q`` and ``k`` first.

    Weights and biases are (head_dim,); ``sin`` and ``cos`` are (M, head_dim) or broadcast to (B,
    heads, M, head_dim), where the last M rows of q and of k are rotated. Both are None, or none is.
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    bias: torch.Tensor | None
    key_padding_mask: torch.Tensor | None
    scale: float
    dropout_p: float
    seed: torch.Tensor | None
    norm: str | None
    q_weight: torch.Tensor | None
    q_bias: torch.Tensor | None
    k_weight: torch.Tensor | None
    k_bias: torch.Tensor | None
    eps: float
    sin: torch.Tensor | None
    cos: torch.Tensor | None
    interleaved: bool

    def attention(self, q: torch.Tensor, k: torch.Tensor) -> AttentionCall:
        """What is left to do with the ``q`` and ``k`` that were made of this call's."""
        rest = (self.v, self.bias, self.key_padding_mask, self.scale, self.dropout_p, self.seed)
        return AttentionCall(q, k, *rest)
