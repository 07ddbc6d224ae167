"""DETR's encoder and decoder: post-norm layers with positions added at every attention."""

from __future__ import annotations

import torch
from torch import nn

from vitkern.models import _check
from vitkern.models._recompute import Recomputing
from vitkern.models.detr.attention import CrossAttention
from vitkern.models.layers import Mlp


class EncoderLayer(nn.Module):
    """Self-attention among the tokens of an image, then an MLP; each added, then normalised.

    ::

        x = norm1(x + self_attn(x + position, x + position, x))
        x = norm2(x + mlp(x))

    Carion et al., "End-to-End Object Detection with Transformers", 2020 (arXiv 2005.12872),
    appendix A.3.

    Args:
        dim: channels of a token.
        num_heads: attention heads; must divide ``dim``.
        mlp_dim: hidden channels of the MLP.
        drop: dropout rate of both branches and inside the MLP.
        attn_drop: dropout rate of the attention weights.

    Raises:
        TypeError: counts that are not ints.
        ValueError: ``num_heads`` does not divide ``dim``, or a rate is outside [0, 1).
    """

    def __init__(
        self, dim: int, num_heads: int, mlp_dim: int, *, drop: float = 0.0, attn_drop: float = 0.0
    ) -> None:
        super().__init__()
        self.self_attn = CrossAttention(dim, num_heads, attn_drop=attn_drop, proj_drop=drop)
        self.norm1 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, mlp_dim, act_layer=nn.ReLU, drop=drop)
        self.norm2 = nn.LayerNorm(dim)

    def forward(
        self,
        x: torch.Tensor,
        position: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Tokens that know of each other.

        Args:
            x: (B, N, dim).
            position: (B or 1, N, dim), added to queries and keys.
            key_padding_mask: (B, N), bool; True is padding.

        Returns:
            (B, N, dim).
        """
        placed = x + position
        x = self.norm1(x + self.self_attn(placed, placed, x, key_padding_mask))
        return self.norm2(x + self.mlp(x))


class DecoderLayer(nn.Module):
    """Self-attention among the object queries, attention to the image, then an MLP.

    ::

        x = norm1(x + self_attn(x + query_position, x + query_position, x))
        x = norm2(x + cross_attn(x + query_position, memory + position, memory))
        x = norm3(x + mlp(x))

    Args, Raises: as :class:`EncoderLayer`.
    """

    def __init__(
        self, dim: int, num_heads: int, mlp_dim: int, *, drop: float = 0.0, attn_drop: float = 0.0
    ) -> None:
        super().__init__()
        self.self_attn = CrossAttention(dim, num_heads, attn_drop=attn_drop, proj_drop=drop)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn = CrossAttention(dim, num_heads, attn_drop=attn_drop, proj_drop=drop)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, mlp_dim, act_layer=nn.ReLU, drop=drop)
        self.norm3 = nn.LayerNorm(dim)

    def forward(
        self,
        x: torch.Tensor,
        query_position: torch.Tensor,
        memory: torch.Tensor,
        position: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Queries that know of each other and of the image.

        Args:
            x: (B, Q, dim).
            query_position: (B or 1, Q, dim).
            memory: (B, N, dim), the encoder's tokens.
            position: (B or 1, N, dim), theirs.
            key_padding_mask: (B, N), bool; True is padding.

        Returns:
            (B, Q, dim).
        """
        placed = x + query_position
        x = self.norm1(x + self.self_attn(placed, placed, x))
        gathered = self.cross_attn(x + query_position, memory + position, memory, key_padding_mask)
        x = self.norm2(x + gathered)
        return self.norm3(x + self.mlp(x))


class Encoder(Recomputing):
    """A stack of :class:`EncoderLayer`.

    Args:
        depth: layers, 0 or more.
        dim, num_heads, mlp_dim, drop, attn_drop: as :class:`EncoderLayer`.

    Raises:
        TypeError, ValueError: as :class:`EncoderLayer`, or ``depth`` negative or not an int.
    """

    def __init__(
        self,
        depth: int,
        dim: int,
        num_heads: int,
        mlp_dim: int,
        *,
        drop: float = 0.0,
        attn_drop: float = 0.0,
    ) -> None:
        super().__init__()
        _check.integer("depth", depth, minimum=0)
        self.drop = nn.Dropout(drop)
        self.layers = nn.ModuleList(
            EncoderLayer(dim, num_heads, mlp_dim, drop=drop, attn_drop=attn_drop)
            for _ in range(depth)
        )

    def forward(
        self,
        x: torch.Tensor,
        position: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(B, N, dim) -> (B, N, dim); arguments as :meth:`EncoderLayer.forward`."""
        x = self.drop(x)
        for layer in self.layers:
            x = self.run(layer, x, position, key_padding_mask)
        return x


class Decoder(Recomputing):
    """A stack of :class:`DecoderLayer` whose every layer's output is normalised and returned.

    The norm serves the outputs only: the next layer sees the tokens as they were.

    Args:
        depth: layers, 1 or more.
        dim, num_heads, mlp_dim, drop, attn_drop: as :class:`EncoderLayer`.

    Raises:
        TypeError, ValueError: as :class:`EncoderLayer`, or ``depth`` below 1 or not an int.
    """

    def __init__(
        self,
        depth: int,
        dim: int,
        num_heads: int,
        mlp_dim: int,
        *,
        drop: float = 0.0,
        attn_drop: float = 0.0,
    ) -> None:
        super().__init__()
        _check.integer("depth", depth, minimum=1)
        self.layers = nn.ModuleList(
            DecoderLayer(dim, num_heads, mlp_dim, drop=drop, attn_drop=attn_drop)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(
        self,
        query_position: torch.Tensor,
        memory: torch.Tensor,
        position: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What each layer makes of queries that start from zero.

        Args:
            query_position: (1, Q, dim).
            memory, position, key_padding_mask: as :meth:`DecoderLayer.forward`.

        Returns:
            (depth, B, Q, dim), normalised.
        """
        x = memory.new_zeros(memory.shape[0], *query_position.shape[1:])
        outputs = []
        for layer in self.layers:
            x = self.run(layer, x, query_position, memory, position, key_padding_mask)
            outputs.append(self.norm(x))
        return torch.stack(outputs)
