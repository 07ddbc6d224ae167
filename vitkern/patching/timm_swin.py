"""timm's Swin Transformers, versions 1 and 2."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from vitkern.ops.window_attention.reference import relative_positions
from vitkern.patching import windows, windows_v2
from vitkern.patching.adapter import Unsupported
from vitkern.patching.timm_vit import MLP

_ATTENTION = "timm.models.swin_transformer:WindowAttention"
_V2 = "timm.models.swin_transformer_v2"


def _buffer_reasons(block: Any, attn: Any) -> list[str]:
    """Why the bias index and the shift mask, which are buffers, are not what the op computes."""
    if attn.window_size != block.window_size:
        return [f"attn has window {attn.window_size}, the block {block.window_size}"]
    index = attn.relative_position_index
    if type(index) is not torch.Tensor or index.is_meta:
        return []  # torch.export looks again with fake tensors, which have no values
    expected = relative_positions(attn.window_size, index.device)
    if not torch.equal(index, expected):
        return ["attn.relative_position_index is not that of Swin's relative positions"]
    if getattr(block, "dynamic_mask", False):
        return []
    mask = block.attn_mask
    dtype = torch.float32 if mask is None else mask.dtype
    wanted = block.get_attn_mask(device=index.device, dtype=dtype)
    if (mask is None) != (wanted is None) or (mask is not None and not torch.equal(mask, wanted)):
        return ["attn_mask is not the mask of the block's shift"]
    return []


def _mask_fits(block: Any, x: torch.Tensor) -> bool:
    """Whether a map (B, H, W, C) is of the size that the shift mask was made for."""
    if getattr(block, "dynamic_mask", False) or block.attn_mask is None:
        return True
    return bool(tuple(x.shape[1:3]) == tuple(block.input_resolution))


class SwinBlock(windows.SwinBlock):
    """timm's block: shift mask and bias index are buffers, which a user may have changed."""

    def attention_reasons(self, module: Any, attn: Any) -> list[str]:
        return super().attention_reasons(module, attn) or _buffer_reasons(module, attn)

    def mask_fits(self, module: Any, x: torch.Tensor) -> bool:
        return _mask_fits(module, x)

    def scale(self, attn: Any) -> float | None:
        return None if attn.fused_attn else attn.scale

    def drops_attention(self, attn: Any) -> bool:
        if attn.fused_attn:
            return bool(attn.training and attn._modules["attn_drop"].p > 0.0)
        return super().drops_attention(attn)


class CosineAttention(windows_v2.CosineAttention):
    """timm's: ``k_bias`` is a buffer, and so are the offsets that the bias network sees."""

    parameters = ("logit_scale", "q_bias", "v_bias")

    def reasons(self, block: Any, attn: Any) -> list[str]:
        reasons = super().reasons(block, attn)
        if reasons:
            return reasons
        softmax = attn._modules.get("softmax")
        if type(softmax) is not nn.Softmax or softmax.dim not in (-1, 3):
            return [f"attn: softmax is {softmax!r}, not over keys"]
        if attn.q_bias is not None and attn._modules["qkv"]._parameters["bias"] is not None:
            return ["attn: qkv has a bias beside q_bias and v_bias"]
        return _buffer_reasons(block, attn)

    def mask_fits(self, block: Any, x: torch.Tensor) -> bool:
        return _mask_fits(block, x)

    def bias(self, attn: Any) -> torch.Tensor | None:
        if attn.q_bias is None:
            own: torch.Tensor | None = attn._modules["qkv"]._parameters["bias"]
            return own
        return torch.cat((attn.q_bias, attn.k_bias, attn.v_bias))

    def bias_table(self, attn: Any) -> torch.Tensor:
        table = attn.cpb_mlp(attn.relative_coords_table).view(-1, attn.num_heads)
        return 16 * torch.sigmoid(table)

    def logit_scale(self, attn: Any) -> torch.Tensor:
        scale: torch.Tensor = attn._parameters["logit_scale"]
        return scale.clamp(max=math.log(1.0 / 0.01)).exp().flatten()


ADAPTERS = (
    SwinBlock(
        "timm.SwinTransformerBlock",
        "timm.models.swin_transformer:SwinTransformerBlock",
        attention=(_ATTENTION,),
        mlp=MLP,
    ),
    windows_v2.SwinBlockV2(
        "timm.SwinTransformerV2Block",
        f"{_V2}:SwinTransformerV2Block",
        attention=CosineAttention(f"{_V2}:WindowAttention"),
        tokens=True,
    ),
    windows.PatchMerging("timm.PatchMerging", "timm.models.swin_transformer:PatchMerging"),
    Unsupported(
        "timm.WindowAttention",
        "window_attention",
        "computed as part of its SwinTransformerBlock, which is not patched",
        _ATTENTION,
    ),
)
