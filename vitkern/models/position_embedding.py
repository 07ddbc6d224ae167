"""Learned position embeddings, the tokens that stand before the patches, and resampling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from vitkern.models import _check


class PositionEmbedding(nn.Module):
    """Prepends class and register tokens to patch tokens and adds a learned position to each.

    Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020 (arXiv 2010.11929); registers: Darcet
    et al., "Vision Transformers Need Registers", 2023 (arXiv 2309.16588). ``VisionTransformer``
    holds the same three parameters itself, under the names that its checkpoints use.

    Args:
        grid_size: rows and columns of patches that the positions are learned for.
        embed_dim: channels of a token.
        class_token: prepend a class token.
        reg_tokens: how many register tokens to put after it.
        no_embed_class: only patches have a position; class and register tokens have none.

    Attributes:
        pos_embed: (1, N, embed_dim), N counting the prepended tokens unless ``no_embed_class``.
        cls_token: (1, 1, embed_dim) or None.
        reg_token: (1, reg_tokens, embed_dim) or None.

    Raises:
        TypeError: sizes that are not ints.
        ValueError: sizes below 1, or a negative ``reg_tokens``.
    """

    def __init__(
        self,
        grid_size: int | tuple[int, int],
        embed_dim: int,
        *,
        class_token: bool = True,
        reg_tokens: int = 0,
        no_embed_class: bool = False,
    ) -> None:
        super().__init__()
        self.grid_size = _check.pair("grid_size", grid_size, minimum=1)
        _check.integer("embed_dim", embed_dim, minimum=1)
        _check.integer("reg_tokens", reg_tokens, minimum=0)
        self.embed_dim = embed_dim
        self.no_embed_class = no_embed_class
        self.num_prefix_tokens = int(class_token) + reg_tokens
        positions = self.grid_size[0] * self.grid_size[1]
        if not no_embed_class:
            positions += self.num_prefix_tokens
        self.cls_token = learned_tokens(1, embed_dim, std=1e-6) if class_token else None
        self.reg_token = learned_tokens(reg_tokens, embed_dim, std=1e-6) if reg_tokens else None
        self.pos_embed = learned_tokens(positions, embed_dim, std=0.02)

    def forward(
        self, patches: torch.Tensor, grid_size: tuple[int, int] | None = None
    ) -> torch.Tensor:
        """Tokens for a transformer.

        Args:
            patches: (B, rows·columns, embed_dim).
            grid_size: (rows, columns) if they differ from those learned: positions are resampled.

        Returns:
            (B, prefix tokens + rows·columns, embed_dim).

        Raises:
            ValueError: patches of another shape.
        """
        grid = self.grid_size if grid_size is None else grid_size
        _check.sequence("patches", patches, self.embed_dim)
        if patches.shape[1] != grid[0] * grid[1]:
            raise ValueError(
                f"patches must hold {grid[0]}×{grid[1]} tokens (grid_size), got {patches.shape[1]}"
            )
        position = resample_position_embedding(
            self.pos_embed,
            self.grid_size,
            grid,
            num_prefix_tokens=0 if self.no_embed_class else self.num_prefix_tokens,
        )
        prefix = [token for token in (self.cls_token, self.reg_token) if token is not None]
        return embed_tokens(patches, position, prefix, no_embed_class=self.no_embed_class)


def learned_tokens(count: int, embed_dim: int, *, std: float) -> nn.Parameter:
    """A (1, count, embed_dim) parameter from a normal distribution truncated at ±2."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(1, count, embed_dim), std=std))


def embed_tokens(
    patches: torch.Tensor,
    position: torch.Tensor,
    prefix: Sequence[torch.Tensor],
    *,
    no_embed_class: bool = False,
) -> torch.Tensor:
    """``prefix`` tokens before ``patches``, with ``position`` added.

    Args:
        patches: (B, N, D).
        position: (1, P + N, D); with ``no_embed_class`` (1, N, D), for the patches alone.
        prefix: tokens of shape (1, n, D), P in all; the same for each of the B samples.
        no_embed_class: leave the prefix tokens without a position.

    Returns:
        (B, P + N, D).
    """
    if no_embed_class:
        patches = patches + position
    prefix = [tokens.expand(patches.shape[0], -1, -1) for tokens in prefix]
    tokens = torch.cat([*prefix, patches], dim=1)
    return tokens if no_embed_class else tokens + position


def resample_position_embedding(
    position: torch.Tensor,
    grid_size: tuple[int, int],
    new_grid_size: tuple[int, int],
    *,
    num_prefix_tokens: int = 0,
) -> torch.Tensor:
    """Positions learned for one grid of patches, for another: bicubic, with antialiasing.

    The positions of prefix tokens have no place in the image and stay as they are. Interpolates in
    float32 whatever the dtype, and differentiates through it; under ``torch.compile`` the gradient
    needs ``dynamic=False``, as PyTorch has no symbolic-size backward for this interpolation.

    Args:
        position: (1, num_prefix_tokens + rows·columns, D).
        grid_size: (rows, columns) of ``position``.
        new_grid_size: (rows, columns) wanted.
        num_prefix_tokens: leading tokens that are not on the grid.

    Returns:
        (1, num_prefix_tokens + new rows·new columns, D) in the dtype of ``position``; ``position``
        itself where the grids are equal.

    Raises:
        ValueError: a number of tokens that is not that of ``grid_size``, or an empty grid.
    """
    rows, columns = grid_size
    if position.dim() != 3 or position.shape[1] != num_prefix_tokens + rows * columns:
        raise ValueError(
            f"position must have shape (1, {num_prefix_tokens} + {rows}·{columns}, channels)"
            f" (num_prefix_tokens and grid_size), got {tuple(position.shape)}"
        )
    if new_grid_size[0] < 1 or new_grid_size[1] < 1:
        raise ValueError(f"new_grid_size must be at least 1, got {tuple(new_grid_size)}")
    if new_grid_size[0] == rows and new_grid_size[1] == columns:
        return position
    prefix, patches = position[:, :num_prefix_tokens], position[:, num_prefix_tokens:]
    image = patches.float().reshape(1, rows, columns, -1).permute(0, 3, 1, 2)
    image = F.interpolate(image, size=new_grid_size, mode="bicubic", antialias=True)
    patches = image.flatten(2).transpose(1, 2).to(position.dtype)
    return torch.cat([prefix, patches], dim=1)
