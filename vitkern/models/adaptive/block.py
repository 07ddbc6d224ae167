"""The transformer block whose cost depends on the route."""

from __future__ import annotations

import torch
from torch import nn

from vitkern.models import _check
from vitkern.models.adaptive.attention import GatedSparseAttention
from vitkern.models.layers import Mlp, drop_path


class AdaptiveMlp(nn.Module):
    """MLPs one after the other, each on normalised tokens and added, of which the first few run.

    Args:
        dim: channels of a token.
        hidden_dim: hidden channels of all of them together.
        max_depth: their number; must not exceed ``hidden_dim``.
        drop: dropout rate after each linear layer.
        drop_path_rate: the probability that a sample loses one of them in training.

    Attributes:
        hidden_dims: hidden channels of each.

    Raises:
        TypeError: counts that are not ints.
        ValueError: counts out of range, or a rate outside [0, 1).
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        max_depth: int = 3,
        *,
        drop: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        _check.integer("max_depth", max_depth, minimum=1)
        _check.integer("hidden_dim", hidden_dim, minimum=max_depth)
        self.hidden_dims = [
            hidden_dim // max_depth + (index < hidden_dim % max_depth) for index in range(max_depth)
        ]
        self.norms = nn.ModuleList(nn.LayerNorm(dim, eps=1e-6) for _ in self.hidden_dims)
        self.mlps = nn.ModuleList(Mlp(dim, hidden, drop=drop) for hidden in self.hidden_dims)
        self.drop_path = drop_path(drop_path_rate)

    def forward(self, x: torch.Tensor, depth: int | None = None) -> torch.Tensor:
        """Tokens with what the first MLPs add to them.

        Args:
            x: (..., dim).
            depth: how many run; all if None.

        Returns:
            As ``x``.

        Raises:
            ValueError: a depth of less than 1 or more than there are.
        """
        depth = len(self.mlps) if depth is None else depth
        if not 1 <= depth <= len(self.mlps):
            raise ValueError(f"depth must be from 1 to {len(self.mlps)}, got {depth}")
        for index in range(depth):
            x = x + self.drop_path(self.mlps[index](self.norms[index](x)))
        return x


class AdaptiveBlock(nn.Module):
    """Gated sparse attention, then an MLP of adaptive depth.

    ::

        x = x + drop_path(attn(norm(x), keep_ratio))
        x = mlp(x, mlp_depth)

    Args:
        dim: channels of a token.
        num_heads: attention heads; must divide ``dim``.
        mlp_ratio: hidden channels of the MLPs together for each channel of a token.
        mlp_depth: how many MLPs there are.
        attn_drop: dropout rate of the attention weights.
        proj_drop: dropout rate after the attention's projection and the MLPs' linear layers.
        drop_path_rate: the probability that a sample loses a branch in training.

    Raises:
        TypeError: counts that are not ints.
        ValueError: ``num_heads`` does not divide ``dim``, counts out of range, or a rate outside
            [0, 1).
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4.0,
        mlp_depth: int = 3,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        _check.heads("dim", dim, num_heads)
        _check.positive("mlp_ratio", mlp_ratio)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.attn = GatedSparseAttention(dim, num_heads, attn_drop=attn_drop, proj_drop=proj_drop)
        self.drop_path = drop_path(drop_path_rate)
        self.mlp = AdaptiveMlp(
            dim, int(dim * mlp_ratio), mlp_depth, drop=proj_drop, drop_path_rate=drop_path_rate
        )

    def forward(self, x: torch.Tensor, keep_ratio: float, mlp_depth: int) -> torch.Tensor:
        """(B, N, dim) -> (B, N, dim), the class token first.

        Args:
            x: tokens.
            keep_ratio: as :meth:`GatedSparseAttention.forward`.
            mlp_depth: as :meth:`AdaptiveMlp.forward`.
        """
        x = x + self.drop_path(self.attn(self.norm(x), keep_ratio))
        return self.mlp(x, mlp_depth)
