"""Multi-head self-attention over a sequence of tokens."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from vitkern.models import _check


class MultiHeadAttention(nn.Module):
    """Every token gathers values from every token, in several heads side by side.

    ``softmax(q kᵀ · scale) v`` in each head, then a projection of all heads together: Vaswani et
    al., "Attention Is All You Need", 2017 (arXiv 1706.03762). Norms of q and k: Dehghani et al.,
    "Scaling Vision Transformers to 22 Billion Parameters", 2023 (arXiv 2302.05442).

    Args:
        dim: channels of a token.
        num_heads: heads; must divide ``dim``.
        qkv_bias: give the q, k and v projections a bias.
        qk_norm: normalise q and k over the channels of a head.
        norm_layer: makes those norms.
        attn_drop: dropout rate of the attention weights.
        proj_drop: dropout rate of the output.

    Attributes:
        head_dim: ``dim / num_heads``.
        scale: ``1 / sqrt(head_dim)``.
        qkv: one linear layer for q, k and v; its outputs are ordered (3, num_heads, head_dim).

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
        qk_norm: bool = False,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
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

        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.q_norm = norm_layer(self.head_dim) if qk_norm else nn.Identity()
        self.k_norm = norm_layer(self.head_dim) if qk_norm else nn.Identity()
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attention among the tokens of each sample.

        Args:
            x: (B, N, dim).

        Returns:
            (B, N, dim), in x's dtype.

        Raises:
            ValueError: another shape.
        """
        _check.sequence("x", x, self.dim)
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, N, head_dim)
        x = F.scaled_dot_product_attention(
            self.q_norm(q),
            self.k_norm(k),
            v,
            dropout_p=self.attn_drop.p if self.training else 0.0,
            scale=self.scale,
        )
        x = x.transpose(1, 2).reshape(batch, tokens, dim)
        return self.proj_drop(self.proj(x))
