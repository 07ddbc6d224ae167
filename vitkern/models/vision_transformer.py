"""The Vision Transformer."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from vitkern.models import _check
from vitkern.models._recompute import Blocks, Recomputing
from vitkern.models.layers import drop_path_rates, initialise_linear_layers
from vitkern.models.patch_embed import PatchEmbed
from vitkern.models.position_embedding import (
    embed_tokens,
    learned_tokens,
    resample_position_embedding,
)
from vitkern.models.transformer_block import TransformerBlock

_LayerNorm = partial(nn.LayerNorm, eps=1e-6)


class VisionTransformer(Recomputing):
    """Patches of an image as the tokens of a pre-norm transformer encoder.

    Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at
    Scale", 2020 (arXiv 2010.11929); trained with less data: Touvron et al., "Training
    data-efficient image transformers & distillation through attention", 2020 (arXiv 2012.12877).

    The state dict has the keys and shapes of timm's ``VisionTransformer``, and with its weights the
    model gives its logits.

    Args:
        img_size: image size, an int or (height, width).
        patch_size: patch size, an int or (height, width).
        in_chans: image channels.
        num_classes: logits; 0 leaves the head out.
        global_pool: what the head sees: "token" (the class token), "avg" (the mean of the patch
            tokens) or "" (every token).
        embed_dim: channels of a token.
        depth: number of blocks.
        num_heads: attention heads; must divide ``embed_dim``.
        mlp_ratio: hidden channels of the MLP for each channel of a token.
        qkv_bias: give the q, k and v projections a bias.
        qk_norm: normalise q and k.
        init_values: what LayerScale starts from; no layer scale if None.
        class_token: prepend a class token.
        reg_tokens: how many register tokens to put after it (arXiv 2309.16588).
        no_embed_class: add positions to patch tokens only.
        fc_norm: normalise after pooling rather than before; None does so for "avg".
        dynamic_img_size: accept other image sizes and resample the position embedding to them.
        dynamic_img_pad: pad images with zeros to whole patches.
        drop_rate: dropout rate before the head.
        pos_drop_rate: dropout rate after the position embedding.
        proj_drop_rate: dropout rate after the attention's projection and the MLP's linear layers.
        mlp_drop_rate: that of the MLP's linear layers, where it is another.
        attn_drop_rate: dropout rate of the attention weights.
        drop_path_rate: stochastic depth of the last block; it rises linearly from 0 at the first.

    Raises:
        TypeError: sizes and counts that are not ints.
        ValueError: sizes and counts out of range, ``num_heads`` that does not divide ``embed_dim``,
            an ``img_size`` that is not whole patches, an unknown ``global_pool``, "token" pooling
            without a class token, or a rate outside [0, 1).
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        *,
        global_pool: str = "token",
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_norm: bool = False,
        init_values: float | None = None,
        class_token: bool = True,
        reg_tokens: int = 0,
        no_embed_class: bool = False,
        fc_norm: bool | None = None,
        dynamic_img_size: bool = False,
        dynamic_img_pad: bool = False,
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        mlp_drop_rate: float | None = None,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        _check.integer("num_classes", num_classes, minimum=0)
        _check.integer("depth", depth, minimum=1)
        _check.integer("reg_tokens", reg_tokens, minimum=0)
        _check.heads("embed_dim", embed_dim, num_heads)
        _check.choice("global_pool", global_pool, ("token", "avg", ""))
        if global_pool == "token" and not class_token:
            raise ValueError(
                "global_pool='token' needs class_token=True; without one use 'avg' or ''"
            )
        for name, rate in (
            ("drop_rate", drop_rate),
            ("pos_drop_rate", pos_drop_rate),
            ("proj_drop_rate", proj_drop_rate),
            ("attn_drop_rate", attn_drop_rate),
        ):
            _check.rate(name, rate)
        self.num_classes = num_classes
        self.global_pool = global_pool
        self.embed_dim = self.num_features = embed_dim
        self.num_prefix_tokens = int(class_token) + reg_tokens
        self.no_embed_class = no_embed_class
        self.dynamic_img_size = dynamic_img_size

        self.patch_embed = PatchEmbed(
            img_size,
            patch_size,
            in_chans,
            embed_dim,
            strict_img_size=not dynamic_img_size,
            dynamic_img_pad=dynamic_img_pad,
        )
        positions = self.patch_embed.num_patches
        if not no_embed_class:
            positions += self.num_prefix_tokens
        self.cls_token = learned_tokens(1, embed_dim, std=1e-6) if class_token else None
        self.reg_token = learned_tokens(reg_tokens, embed_dim, std=1e-6) if reg_tokens else None
        self.pos_embed = learned_tokens(positions, embed_dim, std=0.02)
        self.pos_drop = nn.Dropout(pos_drop_rate)

        self.blocks = Blocks(
            *(
                TransformerBlock(
                    embed_dim,
                    num_heads,
                    mlp_ratio=mlp_ratio,
                    qkv_bias=qkv_bias,
                    qk_norm=qk_norm,
                    init_values=init_values,
                    attn_drop=attn_drop_rate,
                    proj_drop=proj_drop_rate,
                    mlp_drop=mlp_drop_rate,
                    drop_path_rate=rate,
                    norm_layer=_LayerNorm,
                )
                for rate in drop_path_rates(drop_path_rate, depth)
            )
        )
        norm_after_pool = global_pool == "avg" if fc_norm is None else fc_norm
        self.norm = nn.Identity() if norm_after_pool else _LayerNorm(embed_dim)
        self.fc_norm = _LayerNorm(embed_dim) if norm_after_pool else nn.Identity()
        self.head_drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(embed_dim, num_classes) if num_classes > 0 else nn.Identity()
        initialise_linear_layers(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits.

        Args:
            images: (B, in_chans, H, W), floating point.

        Returns:
            (B, num_classes); (B, embed_dim) where there is no head; with ``global_pool=""`` a token
            dimension stands between the two.

        Raises:
            TypeError: images that are not a floating-point tensor.
            ValueError: images of another rank, number of channels or size than accepted.
        """
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """(B, in_chans, H, W) -> (B, prefix tokens + patches, embed_dim): the encoder's tokens.

        Raises as :meth:`forward`. The tokens are normalised unless the norm comes after pooling.
        """
        patches = self.patch_embed(images)
        grid = self.patch_embed.grid_of(images.shape[2], images.shape[3])
        return self.norm(self.blocks(self._embed(patches, grid)))

    def forward_head(self, tokens: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Logits of an encoder's tokens.

        Args:
            tokens: (B, N, embed_dim), from :meth:`forward_features`.
            pre_logits: stop before the last linear layer.

        Returns:
            As :meth:`forward`; with ``pre_logits`` always ``embed_dim`` channels.
        """
        if self.global_pool == "token":
            tokens = tokens[:, 0]
        elif self.global_pool == "avg":
            tokens = tokens[:, self.num_prefix_tokens :].mean(dim=1)
        tokens = self.head_drop(self.fc_norm(tokens))
        return tokens if pre_logits else self.head(tokens)

    def _embed(self, patches: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Patch tokens (B, N, D) with prefix tokens before them and positions added."""
        position: torch.Tensor = self.pos_embed
        if self.dynamic_img_size:
            position = resample_position_embedding(
                position,
                self.patch_embed.grid_size,
                grid,
                num_prefix_tokens=0 if self.no_embed_class else self.num_prefix_tokens,
            )
        prefix = [token for token in (self.cls_token, self.reg_token) if token is not None]
        tokens = embed_tokens(patches, position, prefix, no_embed_class=self.no_embed_class)
        return self.pos_drop(tokens)
