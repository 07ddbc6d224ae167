"""A vision transformer for radiographs and slices: large images, few of them."""

from __future__ import annotations

from typing import Any

from torch import nn

from vitkern.models.vision_transformer import VisionTransformer

_CHANNELS = (1, 3)


class MedicalViT(VisionTransformer):
    """:class:`VisionTransformer` with large images, wide MLPs, much dropout and a silent head.

    Images are 512×512 with one channel (or three, for colour or stacked windows). MLPs are half as
    wide again as usual (6 times the tokens' channels), the attention weights drop out at 0.1, the
    attention's projection too, the MLPs at 0.2 and the head at 0.5. The head starts from zero, so
    that every class is equally likely at first and no direction is preferred by chance; the
    encoder gets its first gradient at the second step.

    The defaults are those of the large configuration.

    Args:
        img_size, patch_size: sizes, an int or (height, width).
        in_chans: image channels, 1 or 3.
        num_classes: logits; 0 leaves the head out.
        embed_dim, depth, num_heads, mlp_ratio: as :class:`VisionTransformer`.
        drop_rate, proj_drop_rate, mlp_drop_rate, attn_drop_rate: dropout rates before the head,
            after the attention's projection, after the MLP's linear layers, and of the attention
            weights.
        options: other arguments of :class:`VisionTransformer`.

    Raises:
        TypeError, ValueError: as :class:`VisionTransformer`, or another ``in_chans``.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 512,
        patch_size: int | tuple[int, int] = 16,
        in_chans: int = 1,
        num_classes: int = 2,
        *,
        embed_dim: int = 1024,
        depth: int = 16,
        num_heads: int = 16,
        mlp_ratio: float = 6.0,
        drop_rate: float = 0.5,
        proj_drop_rate: float = 0.1,
        mlp_drop_rate: float | None = 0.2,
        attn_drop_rate: float = 0.1,
        **options: Any,
    ) -> None:
        if in_chans not in _CHANNELS:
            raise ValueError(f"in_chans must be 1 or 3, got {in_chans!r}")
        super().__init__(
            img_size,
            patch_size,
            in_chans,
            num_classes,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            drop_rate=drop_rate,
            proj_drop_rate=proj_drop_rate,
            mlp_drop_rate=mlp_drop_rate,
            attn_drop_rate=attn_drop_rate,
            **options,
        )
        if isinstance(self.head, nn.Linear):
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)
