"""timm's Swin Transformer (version 1)."""

from __future__ import annotations

from typing import Any

import torch

from vitkern.ops.window_attention.reference import relative_positions
from vitkern.patching import windows
from vitkern.patching.adapter import Unsupported
from vitkern.patching.timm_vit import MLP

_ATTENTION = "timm.models.swin_transformer:WindowAttention"


class SwinBlock(windows.SwinBlock):
    """timm's block: shift mask and bias index are buffers, which a user may have changed."""

    def attention_reasons(self, module: Any, attn: Any) -> list[str]:
        reasons = super().attention_reasons(module, attn)
        if reasons:
            return reasons
        if attn.window_size != module.window_size:
            return [f"attn has window {attn.window_size}, the block {module.window_size}"]
        index = attn.relative_position_index
        if type(index) is not torch.Tensor or index.is_meta:
            return []  # torch.export looks again with fake tensors, which have no values
        expected = relative_positions(attn.window_size, index.device)
        if not torch.equal(index, expected):
            return ["attn.relative_position_index is not that of Swin's relative positions"]
        if getattr(module, "dynamic_mask", False):
            return []
        mask, dtype = module.attn_mask, module.norm1.weight.dtype
        wanted = module.get_attn_mask(device=index.device, dtype=dtype)
        if (mask is None) != (wanted is None) or (
            mask is not None and not torch.equal(mask.to(dtype), wanted)
        ):
            return ["attn_mask is not the mask of the block's shift"]
        return []

    def scale(self, attn: Any) -> float | None:
        return None if attn.fused_attn else attn.scale

    def drops_attention(self, attn: Any) -> bool:
        if attn.fused_attn:
            return bool(attn.training and attn._modules["attn_drop"].p > 0.0)
        return super().drops_attention(attn)


ADAPTERS = (
    SwinBlock(
        "timm.SwinTransformerBlock",
        "timm.models.swin_transformer:SwinTransformerBlock",
        attention=(_ATTENTION,),
        mlp=MLP,
    ),
    windows.PatchMerging("timm.PatchMerging", "timm.models.swin_transformer:PatchMerging"),
    Unsupported(
        "timm.WindowAttention",
        "window_attention",
        "computed as part of its SwinTransformerBlock, which is not patched",
        _ATTENTION,
    ),
)
