"""The block of Swin V2, which normalises what a branch gives rather than what it takes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from vitkern.models import _check
from vitkern.models.layers import Mlp, drop_path
from vitkern.models.swin_block import concatenate_neighbours, shifted_window_attention
from vitkern.models.window_attention_v2 import WindowAttentionV2


class SwinBlockV2(nn.Module):
    """Attention inside (shifted) windows, then an MLP; each normalised, then added.

    ::

        x = x + drop_path1(norm1(window attention(x)))
        x = x + drop_path2(norm2(mlp(x)))

    Liu et al., "Swin Transformer V2: Scaling Up Capacity and Resolution", 2021 (arXiv 2111.09883),
    section 3.2. Norms start from zero, and so does every branch.

    Args:
        dim: channels of a token.
        num_heads: attention heads; must divide ``dim``.
        window_size: window size in tokens, an int or (height, width).
        shift_size: cyclic shift in tokens, an int or (height, width); less than the window.
        mlp_ratio: hidden channels of the MLP for each channel of a token.
        qkv_bias: give the q and v projections a bias.
        attn_drop: dropout rate of the attention weights.
        proj_drop: dropout rate after the attention's projection and the MLP's linear layers.
        drop_path_rate: the probability that a sample loses either branch in training.
        act_layer: makes the MLP's activation.
        norm_layer: makes the norms.
        pretrained_window_size: as :class:`WindowAttentionV2`.

    Raises:
        TypeError: sizes and counts that are not ints.
        ValueError: ``num_heads`` does not divide ``dim``, a shift is not less than the window, a
            rate is outside [0, 1), or ``mlp_ratio`` is not above 0.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int | tuple[int, int] = 7,
        shift_size: int | tuple[int, int] = 0,
        *,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        drop_path_rate: float = 0.0,
        act_layer: Callable[[], nn.Module] = nn.GELU,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        pretrained_window_size: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        _check.heads("dim", dim, num_heads)
        _check.positive("mlp_ratio", mlp_ratio)
        self.dim = dim
        self.window_size, self.shift_size = _check.window_and_shift(window_size, shift_size)

        self.attn = WindowAttentionV2(
            dim,
            num_heads,
            self.window_size,
            qkv_bias=qkv_bias,
            attn_drop=attn_drop,
            proj_drop=proj_drop,
            pretrained_window_size=pretrained_window_size,
        )
        self.norm1 = norm_layer(dim)
        self.drop_path1 = drop_path(drop_path_rate)

        self.mlp = Mlp(dim, int(dim * mlp_ratio), act_layer=act_layer, drop=proj_drop)
        self.norm2 = norm_layer(dim)
        self.drop_path2 = drop_path(drop_path_rate)
        for norm in (self.norm1, self.norm2):
            for parameter in norm.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, W, dim) -> (B, H, W, dim).

        Raises:
            ValueError: another shape.
        """
        _check.feature_map("x", x, self.dim)
        attended = shifted_window_attention(x, self.attn, self.window_size, self.shift_size)
        x = x + self.drop_path1(self.norm1(attended))
        return x + self.drop_path2(self.norm2(self.mlp(x)))


class PatchMergingV2(nn.Module):
    """Makes one token of each 2×2 neighbours: concatenates, maps linearly, normalises.

    Maps of odd height or width get a row or column of zeros.

    Args:
        dim: channels of a token.
        out_dim: channels of a merged token; ``2·dim`` if None.
        norm_layer: makes the norm over ``out_dim`` channels.

    Raises:
        TypeError: channels that are not ints.
        ValueError: channels below 1.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
    ) -> None:
        super().__init__()
        out_dim = 2 * dim if out_dim is None else out_dim
        _check.integer("dim", dim, minimum=1)
        _check.integer("out_dim", out_dim, minimum=1)
        self.dim = dim
        self.out_dim = out_dim
        self.reduction = nn.Linear(4 * dim, out_dim, bias=False)
        self.norm = norm_layer(out_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, W, dim) -> (B, ⌈H/2⌉, ⌈W/2⌉, out_dim).

        Raises:
            ValueError: another shape.
        """
        _check.feature_map("x", x, self.dim)
        return self.norm(self.reduction(concatenate_neighbours(x)))
