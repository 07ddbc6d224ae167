"""The Swin Transformer V2."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from vitkern.models import _check
from vitkern.models._recompute import Recomputing
from vitkern.models.layers import drop_path_rates, initialise_linear_layers
from vitkern.models.patch_embed import PatchEmbed
from vitkern.models.swin_block_v2 import PatchMergingV2, SwinBlockV2
from vitkern.models.swin_transformer import ClassifierHead, SwinStage, check_stages


class SwinTransformerV2(Recomputing):
    """Swin with cosine attention, positions from a small network, and norms after the branches.

    Liu et al., "Swin Transformer V2: Scaling Up Capacity and Resolution", 2021 (arXiv 2111.09883).
    Feature maps are (B, H, W, C) throughout.

    The state dict has the keys and shapes of timm's ``SwinTransformerV2``, and with its weights the
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
        qkv_bias: give the q and v projections a bias.
        drop_rate: dropout rate before the head.
        proj_drop_rate: dropout rate after the attention's projection and the MLP's linear layers.
        attn_drop_rate: dropout rate of the attention weights.
        drop_path_rate: stochastic depth of the last block; it rises linearly from 0 at the first.
        pretrained_window_sizes: window size of each stage that the weights were trained with; 0
            where it is the present one.

    Raises:
        TypeError: sizes and counts that are not ints.
        ValueError: sizes and counts out of range, ``depths``, ``num_heads`` and
            ``pretrained_window_sizes`` of different lengths, heads that do not divide a stage's
            channels, an ``img_size`` that is not whole patches, an unknown ``global_pool``, or a
            rate outside [0, 1).
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
        pretrained_window_sizes: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        _check.integer("num_classes", num_classes, minimum=0)
        _check.choice("global_pool", global_pool, ("avg", ""))
        _check.rate("drop_rate", drop_rate)
        _check.rate("proj_drop_rate", proj_drop_rate)
        _check.rate("attn_drop_rate", attn_drop_rate)
        check_stages(embed_dim, depths, num_heads)
        if pretrained_window_sizes is None:
            pretrained_window_sizes = (0,) * len(depths)
        if len(pretrained_window_sizes) != len(depths):
            raise ValueError(
                f"pretrained_window_sizes must have one int for each of {len(depths)} stages,"
                f" got {tuple(pretrained_window_sizes)}"
            )
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
                    block=SwinBlockV2,
                    merging=PatchMergingV2,
                    pretrained_window_size=pretrained_window_sizes[index],
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
