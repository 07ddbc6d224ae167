"""The Swin Transformer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from vitkern.models import _check
from vitkern.models._recompute import Blocks, Recomputing
from vitkern.models.layers import drop_path_rates, initialise_linear_layers
from vitkern.models.patch_embed import PatchEmbed
from vitkern.models.swin_block import PatchMerging, SwinBlock


class SwinTransformer(Recomputing):
    """A pyramid of transformer stages whose attention stays inside shifted windows.

    Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", 2021
    (arXiv 2103.14030). Feature maps are (B, H, W, C) throughout.

    The state dict has the keys and shapes of timm's ``SwinTransformer``, and with its weights the
    model gives its logits.

    Args:
        img_size: image size, an int or (height, width).
        patch_size: patch size, an int or (height, width).
        in_chans: image channels.
        num_classes: logits; 0 leaves the head out.
        global_pool: what the head sees: "avg" (the mean of the last map) or "" (all of it).
        embed_dim: channels of the first stage; each later stage has twice as many.
        depths: blocks of each stage.
        num_heads: attention heads of each stage; must divide its channels.
        window_size: window size in tokens, an int or (height, width).
        always_partition: keep windows and shifts as they are where a stage's map is no larger than
            a window; otherwise such windows shrink to the map and do not shift.
        dynamic_img_size: accept every image size that the patch divides. Windows stay those of
            ``img_size``.
        mlp_ratio: hidden channels of the MLP for each channel of a token.
        qkv_bias: give the q, k and v projections a bias.
        drop_rate: dropout rate before the head.
        proj_drop_rate: dropout rate after the attention's projection and the MLP's linear layers.
        attn_drop_rate: dropout rate of the attention weights.
        drop_path_rate: stochastic depth of the last block; it rises linearly from 0 at the first.

    Raises:
        TypeError: sizes and counts that are not ints.
        ValueError: sizes and counts out of range, ``depths`` and ``num_heads`` of different
            lengths, heads that do not divide a stage's channels, an ``img_size`` that is not whole
            patches, an unknown ``global_pool``, or a rate outside [0, 1).
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 4,
        in_chans: int = 3,
        num_classes: int = 1000,
        *,
        global_pool: str = "avg",
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int | tuple[int, int] = 7,
        always_partition: bool = False,
        dynamic_img_size: bool = False,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
    ) -> None:
        super().__init__()
        _check.integer("num_classes", num_classes, minimum=0)
        _check.choice("global_pool", global_pool, ("avg", ""))
        _check.rate("drop_rate", drop_rate)
        _check.rate("proj_drop_rate", proj_drop_rate)
        _check.rate("attn_drop_rate", attn_drop_rate)
        check_stages(embed_dim, depths, num_heads)
        window_size = _check.pair("window_size", window_size, minimum=1)
        self.num_classes = num_classes
        self.global_pool = global_pool
        self.embed_dim = embed_dim
        self.num_features = embed_dim * 2 ** (len(depths) - 1)
        self.dynamic_img_size = dynamic_img_size

        self.patch_embed = PatchEmbed(
            img_size,
            patch_size,
            in_chans,
            embed_dim,
            norm_layer=nn.LayerNorm,
            flatten=False,
            strict_img_size=not dynamic_img_size,
        )
        rates = iter(drop_path_rates(drop_path_rate, sum(depths)))
        rows, columns = self.patch_embed.grid_size
        stages = []
        for index, (depth, heads) in enumerate(zip(depths, num_heads, strict=True)):
            stages.append(
                SwinStage(
                    embed_dim * 2**index,
                    (-(-rows // 2**index), -(-columns // 2**index)),
                    heads,
                    window_size,
                    [next(rates) for _ in range(depth)],
                    downsample=index > 0,
                    always_partition=always_partition,
                    mlp_ratio=mlp_ratio,
                    qkv_bias=qkv_bias,
                    attn_drop=attn_drop_rate,
                    proj_drop=proj_drop_rate,
                )
            )
        self.layers = nn.Sequential(*stages)
        self.norm = nn.LayerNorm(self.num_features)
        self.head = ClassifierHead(self.num_features, num_classes, global_pool, drop_rate)
        initialise_linear_layers(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits.

        Args:
            images: (B, in_chans, H, W), floating point.

        Returns:
            (B, num_classes); (B, num_features) where there is no head; with ``global_pool=""`` two
            map dimensions stand between the two.

        Raises:
            TypeError: images that are not a floating-point tensor.
            ValueError: images of another rank, number of channels or size than accepted.
        """
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """(B, in_chans, H, W) -> (B, rows, columns, num_features): the last map, normalised.

        Raises as :meth:`forward`.
        """
        return self.norm(self.layers(self.patch_embed(images)))

    def forward_head(self, features: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Logits of the last map.

        Args:
            features: (B, rows, columns, num_features), from :meth:`forward_features`.
            pre_logits: stop before the last linear layer.

        Returns:
            As :meth:`forward`; with ``pre_logits`` always ``num_features`` channels.
        """
        return self.head(features, pre_logits=pre_logits)


class SwinStage(nn.Module):
    """Patch merging (in all stages but the first), then blocks that shift alternately.

    Args:
        dim: channels of the stage's map.
        resolution: (rows, columns) of that map for the model's ``img_size``.
        num_heads: attention heads; must divide ``dim``.
        window_size: (height, width) in tokens.
        drop_paths: stochastic depth of each block; their number is the stage's depth.
        downsample: begin with patch merging, from ``dim / 2`` channels.
        always_partition: do not shrink windows that are larger than the map.
        block: makes a block; :class:`SwinBlock` or one with its arguments.
        merging: makes the patch merging; :class:`PatchMerging` or one with its arguments.
        block_options: the other keyword arguments of ``block``.
    """

    def __init__(
        self,
        dim: int,
        resolution: tuple[int, int],
        num_heads: int,
        window_size: tuple[int, int],
        drop_paths: Sequence[float],
        *,
        downsample: bool,
        always_partition: bool = False,
        block: Callable[..., nn.Module] = SwinBlock,
        merging: Callable[[int, int], nn.Module] = PatchMerging,
        **block_options: Any,
    ) -> None:
        super().__init__()
        self.downsample = merging(dim // 2, dim) if downsample else nn.Identity()
        shift_size = (window_size[0] // 2, window_size[1] // 2)
        if not always_partition:
            window_size, shift_size = fit_window(window_size, shift_size, resolution)
        self.blocks = Blocks(
            *(
                block(
                    dim,
                    num_heads,
                    window_size,
                    shift_size if index % 2 else 0,
                    drop_path_rate=rate,
                    **block_options,
                )
                for index, rate in enumerate(drop_paths)
            )
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, W, dim) -> (B, H, W, dim), or with patch merging
        (B, H, W, dim / 2) -> (B, ⌈H/2⌉, ⌈W/2⌉, dim)."""
        return self.blocks(self.downsample(x))


class ClassifierHead(nn.Module):
    """Pooling, dropout and a linear layer.

    Args:
        in_features: channels of the feature map.
        num_classes: logits; 0 leaves the linear layer out.
        global_pool: "avg" or "".
        drop_rate: dropout rate.
    """

    def __init__(
        self, in_features: int, num_classes: int, global_pool: str, drop_rate: float
    ) -> None:
        super().__init__()
        self.global_pool = global_pool
        self.drop = nn.Dropout(drop_rate)
        self.fc = nn.Linear(in_features, num_classes) if num_classes > 0 else nn.Identity()

    def forward(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """(B, H, W, in_features) -> (B, num_classes), or as ``global_pool`` says."""
        if self.global_pool == "avg":
            x = x.mean(dim=(1, 2))
        x = self.drop(x)
        return x if pre_logits else self.fc(x)


def fit_window(
    window_size: tuple[int, int], shift_size: tuple[int, int], resolution: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Window and shift for a map of ``resolution``, each direction by itself.

    Where the map is no larger than the window, the window shrinks to the map; there is then one
    window in that direction and nothing to shift.

    Returns:
        (window_size, shift_size).
    """
    height, width = (min(w, r) for w, r in zip(window_size, resolution, strict=True))
    down, right = (
        s if r > w else 0 for w, s, r in zip(window_size, shift_size, resolution, strict=True)
    )
    return (height, width), (down, right)


def check_stages(embed_dim: int, depths: Sequence[int], num_heads: Sequence[int]) -> None:
    """The stages' numbers fit together.

    Raises:
        TypeError: not ints, or not sequences of ints.
        ValueError: none, too few, or heads that do not divide a stage's channels.
    """
    for name, values in (("depths", depths), ("num_heads", num_heads)):
        if not isinstance(values, (tuple, list)):
            raise TypeError(f"{name} must be a sequence of ints, one a stage, got {values!r}")
    if not depths or len(depths) != len(num_heads):
        raise ValueError(
            "depths and num_heads must have one int a stage,"
            f" got depths={tuple(depths)} and num_heads={tuple(num_heads)}"
        )
    _check.integer("embed_dim", embed_dim, minimum=1)
    for index, (depth, heads) in enumerate(zip(depths, num_heads, strict=True)):
        _check.integer(f"depths[{index}]", depth, minimum=1)
        _check.integer(f"num_heads[{index}]", heads, minimum=1)
        channels = embed_dim * 2**index
        if channels % heads:
            raise ValueError(
                f"num_heads[{index}] must divide the stage's channels (embed_dim·2^{index} ="
                f" {channels}), got {heads}"
            )
