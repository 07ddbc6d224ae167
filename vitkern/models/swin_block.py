"""The Swin block, and the layer that halves a feature map between two stages."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from vitkern.models import _check
from vitkern.models.layers import Mlp, drop_path
from vitkern.models.window_attention import (
    WindowAttention,
    shifted_window_mask,
    window_partition,
    window_reverse,
)


class SwinBlock(nn.Module):
    """Attention inside (shifted) windows, then an MLP, each on normalised tokens and added.

    ::

        x = x + drop_path1(window attention(norm1(x)))
        x = x + drop_path2(mlp(norm2(x)))

    Blocks with and without a shift alternate, so that information crosses the windows' borders. Liu
    et al., "Swin Transformer", 2021 (arXiv 2103.14030), section 3.2.

    Args:
        dim: channels of a token.
        num_heads: attention heads; must divide ``dim``.
        window_size: window size in tokens, an int or (height, width).
        shift_size: cyclic shift in tokens, an int or (height, width); less than the window.
        mlp_ratio: hidden channels of the MLP for each channel of a token.
        qkv_bias: give the q, k and v projections a bias.
        attn_drop: dropout rate of the attention weights.
        proj_drop: dropout rate after the attention's projection and the MLP's linear layers.
        drop_path_rate: the probability that a sample loses either branch in training.
        act_layer: makes the MLP's activation.
        norm_layer: makes the norms.

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
    ) -> None:
        super().__init__()
        _check.heads("dim", dim, num_heads)
        _check.positive("mlp_ratio", mlp_ratio)
        self.dim = dim
        self.window_size, self.shift_size = _check.window_and_shift(window_size, shift_size)

        self.norm1 = norm_layer(dim)
        self.attn = WindowAttention(
            dim,
            num_heads,
            self.window_size,
            qkv_bias=qkv_bias,
            attn_drop=attn_drop,
            proj_drop=proj_drop,
        )
        self.drop_path1 = drop_path(drop_path_rate)

        self.norm2 = norm_layer(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), act_layer=act_layer, drop=proj_drop)
        self.drop_path2 = drop_path(drop_path_rate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, W, dim) -> (B, H, W, dim).

        Raises:
            ValueError: another shape.
        """
        _check.feature_map("x", x, self.dim)
        attended = shifted_window_attention(
            self.norm1(x), self.attn, self.window_size, self.shift_size
        )
        x = x + self.drop_path1(attended)
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class PatchMerging(nn.Module):
    """Makes one token of each 2×2 neighbours: concatenates, normalises, maps linearly.

    Maps of odd height or width get a row or column of zeros. Liu et al., "Swin Transformer", 2021
    (arXiv 2103.14030), section 3.1.

    Args:
        dim: channels of a token.
        out_dim: channels of a merged token; ``2·dim`` if None.
        norm_layer: makes the norm over ``4·dim`` channels.

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
        self.norm = norm_layer(4 * dim)
        self.reduction = nn.Linear(4 * dim, out_dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, W, dim) -> (B, ⌈H/2⌉, ⌈W/2⌉, out_dim).

        Raises:
            ValueError: another shape.
        """
        _check.feature_map("x", x, self.dim)
        return self.reduction(self.norm(concatenate_neighbours(x)))


def concatenate_neighbours(x: torch.Tensor) -> torch.Tensor:
    """The four tokens of each 2×2 square side by side: top left, bottom left, top right, bottom
    right. Odd maps get a row or column of zeros first.

    Args:
        x: (B, H, W, C).

    Returns:
        (B, ⌈H/2⌉, ⌈W/2⌉, 4·C).
    """
    below, right = x.shape[1] % 2, x.shape[2] % 2
    if below or right:
        x = F.pad(x, (0, 0, 0, right, 0, below))
    top_left, bottom_left = x[:, 0::2, 0::2], x[:, 1::2, 0::2]
    top_right, bottom_right = x[:, 0::2, 1::2], x[:, 1::2, 1::2]
    return torch.cat([top_left, bottom_left, top_right, bottom_right], dim=-1)


def shifted_window_attention(
    x: torch.Tensor,
    attention: Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor],
    window_size: tuple[int, int],
    shift_size: tuple[int, int],
) -> torch.Tensor:
    """Shift, pad to whole windows, attend, and undo both.

    The order of the first two matters where the window does not divide the map: the zeros stand
    after the last row and column of the shifted map, as in timm (not of the map itself, as in
    torchvision). They take part in the attention, as they do in the reference.

    Args:
        x: (B, H, W, C).
        attention: from windows (B·windows, N, C) and a mask (windows, N, N) or None to windows.
        window_size: (height, width) of a window.
        shift_size: rows and columns of the cyclic shift.

    Returns:
        (B, H, W, C).
    """
    height, width = x.shape[1:3]
    shifted = shift_size != (0, 0)
    if shifted:
        x = torch.roll(x, (-shift_size[0], -shift_size[1]), dims=(1, 2))

    rows, columns = -(-height // window_size[0]), -(-width // window_size[1])
    padded_height, padded_width = rows * window_size[0], columns * window_size[1]
    if (padded_height, padded_width) != (height, width):
        x = F.pad(x, (0, 0, 0, padded_width - width, 0, padded_height - height))

    mask = None
    if shifted:
        mask = shifted_window_mask(
            padded_height, padded_width, window_size, shift_size, x.device, x.dtype
        )
    windows = attention(window_partition(x, window_size), mask)
    x = window_reverse(windows, window_size, padded_height, padded_width)

    x = x[:, :height, :width]
    if shifted:
        x = torch.roll(x, shift_size, dims=(1, 2))
    return x
