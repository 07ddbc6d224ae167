"""Attention to the tokens that a gate finds worth it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from vitkern.models import _check


class GatedSparseAttention(nn.Module):
    """Every token attends to the class token and to a share of the others, chosen by a gate.

    A linear layer and a sigmoid give each token a gate between 0 and 1. The tokens with the highest
    gates are the keys and values; the others are not even projected, so that N tokens of which K
    are kept cost N·K scores rather than N². Values are multiplied by their gates, which is how the
    gates learn (the choice itself has no gradient). The class token, which comes first, is always
    kept and has no gate.

    Args:
        dim: channels of a token.
        num_heads: heads; must divide ``dim``.
        qkv_bias: give the q, k and v projections a bias.
        attn_drop: dropout rate of the attention weights.
        proj_drop: dropout rate of the output.

    Raises:
        TypeError: ``dim`` or ``num_heads`` is not an int.
        ValueError: ``num_heads`` does not divide ``dim``, or a rate is outside [0, 1).
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        *,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        _check.heads("dim", dim, num_heads)
        _check.rate("attn_drop", attn_drop)
        _check.rate("proj_drop", proj_drop)
        self.dim = dim
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.scale = self.head_dim**-0.5

        self.gate = nn.Linear(dim, 1)
        self.q_proj = nn.Linear(dim, dim, bias=qkv_bias)
        self.k_proj = nn.Linear(dim, dim, bias=qkv_bias)
        self.v_proj = nn.Linear(dim, dim, bias=qkv_bias)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: torch.Tensor, keep_ratio: float = 1.0) -> torch.Tensor:
        """Attention among the tokens of each sample.

        Args:
            x: (B, N, dim), the class token first.
            keep_ratio: the share of the other tokens that is kept, rounded up.

        Returns:
            (B, N, dim), in x's dtype.

        Raises:
            ValueError: another shape, or a ratio outside (0, 1].
        """
        _check.sequence("x", x, self.dim)
        if not 0.0 < keep_ratio <= 1.0:
            raise ValueError(f"keep_ratio must be above 0 and at most 1, got {keep_ratio}")
        keys, gates = self._kept(x, kept_tokens(x.shape[1] - 1, keep_ratio))
        y = F.scaled_dot_product_attention(
            self._heads(self.q_proj(x)),
            self._heads(self.k_proj(keys)),
            self._heads(self.v_proj(keys) * gates),
            dropout_p=self.attn_drop.p if self.training else 0.0,
            scale=self.scale,
        )
        return self.proj_drop(self.proj(y.transpose(1, 2).reshape(x.shape)))

    def _kept(self, x: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The class token and ``count`` others (B, 1 + count, dim), and their gates (…, 1)."""
        others = x[:, 1:]
        gates = self.gate(others).sigmoid()
        if count < others.shape[1]:
            gates, chosen = gates.topk(count, dim=1)
            others = others.gather(1, chosen.expand(-1, -1, self.dim))
        ones = gates.new_ones(gates.shape[0], 1, 1)
        return torch.cat((x[:, :1], others), dim=1), torch.cat((ones, gates), dim=1)

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, dim) -> (B, heads, N, head_dim)."""
        return x.unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2)


def kept_tokens(tokens: int, keep_ratio: float) -> int:
    """How many of ``tokens`` a ratio keeps: rounded up."""
    return math.ceil(tokens * keep_ratio)
