"""The pre-norm transformer block."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from vitkern.models import _check
from vitkern.models.attention import MultiHeadAttention
from vitkern.models.layers import LayerScale, Mlp, drop_path


class TransformerBlock(nn.Module):
    """Attention, then an MLP, each on normalised tokens and added to what came in.

    ::

        x = x + drop_path1(ls1(attn(norm1(x))))
        x = x + drop_path2(ls2(mlp(norm2(x))))

    Args:
        dim: channels of a token.
        num_heads: attention heads; must divide ``dim``.
        mlp_ratio: hidden channels of the MLP for each channel of a token.
        qkv_bias: give the q, k and v projections a bias.
        qk_norm: normalise q and k.
        init_values: what :class:`LayerScale` starts from; no layer scale if None.
        attn_drop: dropout rate of the attention weights.
        proj_drop: dropout rate after the attention's projection and the MLP's linear layers.
        mlp_drop: that of the MLP's linear layers, where it is another.
        drop_path_rate: the probability that a sample loses either branch in training.
        act_layer: makes the MLP's activation.
        norm_layer: makes the norms.

    Raises:
        TypeError: ``dim`` or ``num_heads`` is not an int.
        ValueError: ``num_heads`` does not divide ``dim``, a rate is outside [0, 1), or
            ``mlp_ratio`` is not above 0.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_norm: bool = False,
        init_values: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        mlp_drop: float | None = None,
        drop_path_rate: float = 0.0,
        act_layer: Callable[[], nn.Module] = nn.GELU,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
    ) -> None:
        super().__init__()
        _check.heads("dim", dim, num_heads)
        _check.positive("mlp_ratio", mlp_ratio)

        def layer_scale() -> nn.Module:
            return nn.Identity() if init_values is None else LayerScale(dim, init_values)

        self.norm1 = norm_layer(dim)
        self.attn = MultiHeadAttention(
            dim,
            num_heads,
            qkv_bias=qkv_bias,
            qk_norm=qk_norm,
            norm_layer=norm_layer,
            attn_drop=attn_drop,
            proj_drop=proj_drop,
        )
        self.ls1 = layer_scale()
        self.drop_path1 = drop_path(drop_path_rate)

        self.norm2 = norm_layer(dim)
        mlp_drop = proj_drop if mlp_drop is None else mlp_drop
        self.mlp = Mlp(dim, int(dim * mlp_ratio), act_layer=act_layer, drop=mlp_drop)
        self.ls2 = layer_scale()
        self.drop_path2 = drop_path(drop_path_rate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, dim) -> (B, N, dim)."""
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x))))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
