"""Multi-head attention from one set of tokens to another."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from vitkern.models import _check


class CrossAttention(nn.Module):
    """Every query gathers values from every key that is not padding, in several heads.

    ``softmax(q kᵀ · scale) v`` in each head, then a projection of all heads together: Vaswani et
    al., "Attention Is All You Need", 2017 (arXiv 1706.03762), section 3.2. Queries, keys and values
    are projected separately, since DETR adds positions to the first two only; self-attention is the
    case where all come from the same tokens.

    Args:
        dim: channels of a token.
        num_heads: heads; must divide ``dim``.
        qkv_bias: give the q, k and v projections a bias.
        attn_drop: dropout rate of the attention weights.
        proj_drop: dropout rate of the output.

    Attributes:
        head_dim: ``dim / num_heads``.
        scale: ``1 / sqrt(head_dim)``.

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

        self.q_proj = nn.Linear(dim, dim, bias=qkv_bias)
        self.k_proj = nn.Linear(dim, dim, bias=qkv_bias)
        self.v_proj = nn.Linear(dim, dim, bias=qkv_bias)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attention from the tokens of ``query`` to those of ``key``.

        Args:
            query: (B, Nq, dim).
            key: (B, Nk, dim).
            value: (B, Nk, dim).
            key_padding_mask: (B, Nk), bool; True is a key to ignore.

        Returns:
            (B, Nq, dim), in query's dtype.

        Raises:
            TypeError: a mask that is not bool.
            ValueError: another shape.
        """
        for name, tokens in (("query", query), ("key", key), ("value", value)):
            _check.sequence(name, tokens, self.dim)
        if key.shape != value.shape or key.shape[0] != query.shape[0]:
            raise ValueError(
                "key and value must have one shape and query's batch size,"
                f" got {tuple(query.shape)}, {tuple(key.shape)} and {tuple(value.shape)}"
            )
        kept = None
        if key_padding_mask is not None:
            _check.boolean_mask("key_padding_mask", key_padding_mask, tuple(key.shape[:2]))
            kept = ~key_padding_mask[:, None, None, :]
        x = F.scaled_dot_product_attention(
            self._heads(self.q_proj(query)),
            self._heads(self.k_proj(key)),
            self._heads(self.v_proj(value)),
            attn_mask=kept,
            dropout_p=self.attn_drop.p if self.training else 0.0,
            scale=self.scale,
        )
        x = x.transpose(1, 2).reshape(query.shape)
        return self.proj_drop(self.proj(x))

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, dim) -> (B, heads, N, head_dim)."""
        return x.unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2)
