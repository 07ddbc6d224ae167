"""The models of this package."""

from __future__ import annotations

from typing import Any

import torch

from vitkern.patching import layers, transformer, windows, windows_v2
from vitkern.patching.adapter import Unsupported

ATTENTION = transformer.Attention("vitkern.MultiHeadAttention", "vitkern.models:MultiHeadAttention")
MLP = transformer.Mlp("vitkern.Mlp", "vitkern.models:Mlp")
_WINDOW_ATTENTION = "vitkern.models:WindowAttention"


class CosineAttention(windows_v2.CosineAttention):
    """Ours, which says itself what it is made of."""

    parameters = ("logit_scale", "q_bias", "v_bias")

    def bias(self, attn: Any) -> torch.Tensor | None:
        own: torch.Tensor | None = attn.qkv_bias()
        return own

    def bias_table(self, attn: Any) -> torch.Tensor:
        table: torch.Tensor = attn.relative_position_bias_table()
        return table

    def logit_scale(self, attn: Any) -> torch.Tensor:
        scale: torch.Tensor = attn.scale()
        return scale.flatten()


ADAPTERS = (
    ATTENTION,
    MLP,
    transformer.Block(
        "vitkern.TransformerBlock", "vitkern.models:TransformerBlock", attention=ATTENTION, mlp=MLP
    ),
    windows.SwinBlock(
        "vitkern.SwinBlock",
        "vitkern.models:SwinBlock",
        attention=(_WINDOW_ATTENTION,),
        mlp=MLP,
    ),
    windows_v2.SwinBlockV2(
        "vitkern.SwinBlockV2",
        "vitkern.models:SwinBlockV2",
        attention=CosineAttention("vitkern.models:WindowAttentionV2"),
    ),
    windows.PatchMerging("vitkern.PatchMerging", "vitkern.models:PatchMerging"),
    layers.PatchEmbed("vitkern.PatchEmbed", "vitkern.models:PatchEmbed"),
    Unsupported(
        "vitkern.WindowAttention",
        "window_attention",
        "computed as part of its SwinBlock, which is not patched",
        _WINDOW_ATTENTION,
    ),
)
