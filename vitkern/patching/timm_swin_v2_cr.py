"""timm's ``swin_transformer_v2_cr``: Swin V2 whose position bias is computed pair by pair."""

from __future__ import annotations

import math
from typing import Any

import torch

from vitkern.ops.window_attention.reference import relative_positions
from vitkern.patching import parts, windows_v2

_MODEL = "timm.models.swin_transformer_v2_cr"


def pairs(window: tuple[int, int], device: torch.device) -> torch.Tensor:
    """((2*wh-1)*(2*ww-1),) int64: a pair of places for each row of a bias table.

    A pair of query i and key j of the N places of a window is ``i*N + j``.
    """
    height, width = window
    y = torch.arange(1 - height, height, device=device)[:, None]
    x = torch.arange(1 - width, width, device=device)[None, :]
    query = y.clamp(min=0) * width + x.clamp(min=0)
    key = (-y).clamp(min=0) * width + (-x).clamp(min=0)
    return (query * (height * width) + key).flatten()


class CosineAttention(windows_v2.CosineAttention):
    """A network gives each pair of places its bias, of their offset only: once an offset will do.

    The network's dropout, while it acts, draws for each pair: then the original forward runs, with
    its products on ops.
    """

    def reasons(self, block: Any, attn: Any) -> list[str]:
        reasons = super().reasons(block, attn)
        if reasons:
            return reasons
        network = attn._modules.get("meta_mlp")
        reasons += parts.role_reasons("meta_mlp", network, ("timm.layers:Mlp",))
        if not reasons:
            for name in ("drop1", "drop2"):
                dropout = network._modules.get(name)
                reasons += parts.role_reasons(f"meta_mlp.{name}", dropout, parts.DROPOUTS)
        if attn.window_size != block.window_size:
            reasons.append(f"has window {attn.window_size}, the block {block.window_size}")
        if reasons:
            return [f"attn: {reason}" for reason in reasons]
        offsets = attn.relative_coordinates_log
        if type(offsets) is not torch.Tensor or offsets.is_meta:
            return []  # torch.export looks again with fake tensors, which have no values
        window, device = attn.window_size, offsets.device
        rows = offsets[pairs(window, device)][relative_positions(window, device).flatten()]
        if not torch.equal(offsets, rows):
            return ["attn.relative_coordinates_log is not of the offset alone"]
        return self._mask_reasons(block, offsets)

    def _mask_reasons(self, block: Any, like: torch.Tensor) -> list[str]:
        if block.dynamic_mask:
            return []
        mask = block.attn_mask
        dtype = like.dtype if mask is None else mask.dtype
        wanted = block.get_attn_mask(device=like.device, dtype=dtype)
        if (mask is None) != (wanted is None):
            return ["attn_mask is not the mask of the block's shift"]
        if mask is not None and not torch.equal(mask, wanted):
            return ["attn_mask is not the mask of the block's shift"]
        return []

    def mask_fits(self, block: Any, x: torch.Tensor) -> bool:
        """The mask was made for a map of a size, padded until the window divides it."""
        if block.dynamic_mask or block.attn_mask is None:
            return True
        sizes = zip(x.shape[1:3], block.feat_size, block.window_size, strict=True)
        return all(-(-size // window) == -(-own // window) for size, own, window in sizes)

    def why_not(self, attn: Any) -> str | None:
        network = attn._modules["meta_mlp"]._modules
        if parts.active(network["drop1"]) or parts.active(network["drop2"]):
            return "dropout of the position bias is active in training"
        return None

    def note(self, attn: Any) -> str:
        network = attn._modules["meta_mlp"]._modules
        rates = [getattr(network[name], "p", 0.0) for name in ("drop1", "drop2")]
        own = "training computes windows by attention: dropout of the position bias"
        return "; ".join(filter(None, (super().note(attn), own if any(rates) else "")))

    def bias(self, attn: Any) -> torch.Tensor | None:
        own: torch.Tensor | None = attn._modules["qkv"]._parameters["bias"]
        return own

    def bias_table(self, attn: Any) -> torch.Tensor:
        offsets = attn.relative_coordinates_log
        table: torch.Tensor = attn.meta_mlp(offsets[pairs(attn.window_size, offsets.device)])
        return table

    def logit_scale(self, attn: Any) -> torch.Tensor:
        scale: torch.Tensor = attn._parameters["logit_scale"]
        return scale.clamp(max=math.log(1.0 / 0.01)).exp()


ADAPTERS = (
    windows_v2.SwinBlockV2(
        "timm.SwinTransformerV2CrBlock",
        f"{_MODEL}:SwinTransformerV2CrBlock",
        attention=CosineAttention(f"{_MODEL}:WindowMultiHeadAttention"),
        tokens=True,
        last="norm3",
    ),
)
