"""The models of this package."""

from __future__ import annotations

from vitkern.patching import layers, transformer, windows
from vitkern.patching.adapter import Unsupported

ATTENTION = transformer.Attention("vitkern.MultiHeadAttention", "vitkern.models:MultiHeadAttention")
MLP = transformer.Mlp("vitkern.Mlp", "vitkern.models:Mlp")
_WINDOW_ATTENTION = "vitkern.models:WindowAttention"

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
    windows.PatchMerging("vitkern.PatchMerging", "vitkern.models:PatchMerging"),
    layers.PatchEmbed("vitkern.PatchEmbed", "vitkern.models:PatchEmbed"),
    Unsupported(
        "vitkern.WindowAttention",
        "window_attention",
        "computed as part of its SwinBlock, which is not patched",
        _WINDOW_ATTENTION,
    ),
)
