"""Attention inside the windows of a feature map, with Swin's relative position bias."""

from __future__ import annotations

import torch
from torch import nn

from vitkern.models import _check
from vitkern.models._built_once import built_once


class WindowAttention(nn.Module):
    """Multi-head self-attention among the tokens of each window.

    Scores get a learned bias that depends on where one token lies relative to the other. Liu et
    al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", 2021
    (arXiv 2103.14030).

    Args:
        dim: channels of a token.
        num_heads: heads; must divide ``dim``.
        window_size: window size in tokens, an int or (height, width).
        qkv_bias: give the q, k and v projections a bias.
        attn_drop: dropout rate of the attention weights.
        proj_drop: dropout rate of the output.

    Attributes:
        scale: ``1 / sqrt(dim / num_heads)``.
        qkv: one linear layer for q, k and v; its outputs are ordered (3, num_heads, head_dim).
        relative_position_bias_table: ((2·height-1)·(2·width-1), num_heads), a row for each offset
            between two tokens of a window.

    Raises:
        TypeError: ``dim``, ``num_heads`` or ``window_size`` is not of ints.
        ValueError: ``num_heads`` does not divide ``dim``, the window is empty, or a rate is outside
            [0, 1).
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int | tuple[int, int] = 7,
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
        self.window_size = _check.pair("window_size", window_size, minimum=1)
        self.window_area = self.window_size[0] * self.window_size[1]

        offsets = (2 * self.window_size[0] - 1) * (2 * self.window_size[1] - 1)
        self.relative_position_bias_table = nn.Parameter(
            nn.init.trunc_normal_(torch.empty(offsets, num_heads), std=0.02)
        )
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def relative_position_bias(self) -> torch.Tensor:
        """(num_heads, N, N): what each head adds to the score of each pair of tokens."""
        table = self.relative_position_bias_table
        index = relative_position_index(self.window_size, table.device)
        return table[index].permute(2, 0, 1)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Attention among the tokens of each window.

        Args:
            x: (B·windows, N, dim), the windows of one image after the other.
            mask: (windows, N, N), added to the scores of every head.

        Returns:
            (B·windows, N, dim), in x's dtype.

        Raises:
            ValueError: ``x`` or ``mask`` of another shape.
        """
        _check.sequence("x", x, self.dim)
        count, tokens, dim = x.shape
        if tokens != self.window_area:
            height, width = self.window_size
            raise ValueError(f"x must hold windows of {height}×{width} tokens, got {tokens} tokens")
        qkv = self.qkv(x).reshape(count, tokens, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B·windows, heads, N, head_dim)
        scores = (q * self.scale) @ k.transpose(-2, -1) + self.relative_position_bias()
        if mask is not None:
            scores = add_mask(scores, mask)
        weights = self.attn_drop(scores.softmax(dim=-1))
        x = (weights @ v).transpose(1, 2).reshape(count, tokens, dim)
        return self.proj_drop(self.proj(x))


def add_mask(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Scores of windows, with the mask of each window of an image added for every image and head.

    Args:
        scores: (B·windows, heads, N, N).
        mask: (windows, N, N).

    Returns:
        As ``scores``.

    Raises:
        ValueError: a mask of another shape.
    """
    count, heads, tokens, _ = scores.shape
    windows = mask.shape[0]
    if mask.shape != (windows, tokens, tokens) or windows < 1 or count % windows:
        raise ValueError(
            f"mask must have shape (windows, {tokens}, {tokens}), where windows divides"
            f" x's {count}, got {tuple(mask.shape)}"
        )
    images = scores.reshape(count // windows, windows, heads, tokens, tokens)
    return (images + mask[:, None]).flatten(0, 1)


def window_partition(x: torch.Tensor, window_size: tuple[int, int]) -> torch.Tensor:
    """Cuts a feature map into windows, which must divide it.

    Args:
        x: (B, H, W, C).
        window_size: (height, width).

    Returns:
        (B·windows, height·width, C), windows row by row and tokens row by row.
    """
    batch, height, width, channels = x.shape
    rows, columns = height // window_size[0], width // window_size[1]
    x = x.reshape(batch, rows, window_size[0], columns, window_size[1], channels)
    area = window_size[0] * window_size[1]
    return x.transpose(2, 3).reshape(batch * rows * columns, area, channels)


def window_reverse(
    windows: torch.Tensor, window_size: tuple[int, int], height: int, width: int
) -> torch.Tensor:
    """Puts windows together again: the inverse of :func:`window_partition`.

    Args:
        windows: (B·windows, height·width of a window, C).
        window_size: (height, width) of a window.
        height, width: of the feature map.

    Returns:
        (B, height, width, C).
    """
    rows, columns = height // window_size[0], width // window_size[1]
    batch, channels = windows.shape[0] // (rows * columns), windows.shape[-1]
    x = windows.reshape(batch, rows, columns, window_size[0], window_size[1], channels)
    return x.transpose(2, 3).reshape(batch, height, width, channels)


@built_once
def relative_position_index(window_size: tuple[int, int], device: torch.device) -> torch.Tensor:
    """The row of the bias table for each pair of tokens in a window.

    Returns:
        (N, N), int64: entry (i, j) numbers the offset from token j to token i, row by row from the
        most negative.
    """
    height, width = window_size
    row = torch.arange(height, device=device).repeat_interleave(width)
    column = torch.arange(width, device=device).repeat(height)
    rows_apart = row[:, None] - row[None, :] + height - 1
    columns_apart = column[:, None] - column[None, :] + width - 1
    return rows_apart * (2 * width - 1) + columns_apart


@built_once
def shifted_window_mask(
    height: int,
    width: int,
    window_size: tuple[int, int],
    shift_size: tuple[int, int],
    device: torch.device,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Keeps tokens apart that a cyclic shift brought into one window from opposite edges.

    A feature map shifted up and left has its first rows at the bottom and its first columns at the
    right. They share windows with tokens that are not their neighbours.

    Args:
        height, width: of the feature map, whole windows.
        window_size: (height, width) of a window.
        shift_size: rows and columns of the cyclic shift.
        device, dtype: of the result.

    Returns:
        (windows, N, N): 0 for a pair of tokens from one region of the map, -100 (which is what
        Swin's reference adds, rather than minus infinity) for a pair from two.
    """
    row_wrapped = torch.arange(height, device=device) >= height - shift_size[0]
    column_wrapped = torch.arange(width, device=device) >= width - shift_size[1]
    region = 2 * row_wrapped[:, None].int() + column_wrapped[None, :].int()
    regions = window_partition(region[None, :, :, None], window_size).squeeze(-1)  # (windows, N)
    strangers = regions[:, :, None] != regions[:, None, :]
    return torch.zeros(strangers.shape, device=device, dtype=dtype).masked_fill_(strangers, -100.0)
