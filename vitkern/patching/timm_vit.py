"""timm's VisionTransformer family: ViT, DeiT, DINOv2, CLIP and SigLIP towers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from vitkern.patching import compute, layers, transformer
from vitkern.patching.adapter import Unsupported
from vitkern.patching.products import Products

if TYPE_CHECKING:
    from vitkern.patching.swap import Swap


def mask_as_bias(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """timm's ``attn_mask`` as what is added to scores: True in a bool mask keeps a key."""
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(
            ~mask, float("-inf")
        )
    return mask.to(dtype)


class Attention(transformer.Attention):
    """timm's Attention, whose PyTorch-fused mode ignores its ``scale``."""

    def scale(self, module: Any) -> float | None:
        return None if module.fused_attn else module.scale

    def dropout_p(self, module: Any) -> float:
        dropout = module._modules["attn_drop"]
        owner = module if module.fused_attn else dropout
        return dropout.p if owner.training else 0.0

    def forward(
        self,
        swap: Swap,
        module: Any,
        x: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        is_causal: bool = False,
    ) -> torch.Tensor:
        if x.dim() != 3 or is_causal:
            why = "is_causal=True" if is_causal else None
            return swap.original(module, x, attn_mask, is_causal, why=why)
        bias = None if attn_mask is None else mask_as_bias(attn_mask, x.dtype)
        y = self.attend(module, x, swap.backend, bias)
        m = module._modules
        return compute.project(y, m["proj"], m["proj_drop"], swap.backend)


class Block(transformer.Block):
    """timm's Block."""

    def forward(
        self,
        swap: Swap,
        module: Any,
        x: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        is_causal: bool = False,
    ) -> torch.Tensor:
        if x.dim() != 3 or is_causal:
            # The block's own code, which calls its children: only the attention is not on ops.
            return swap.original(module, x, attn_mask, is_causal)
        bias = None if attn_mask is None else mask_as_bias(attn_mask, x.dtype)
        return self.run(module, x, swap.backend, bias)


class PatchEmbed(layers.PatchEmbed):
    """timm's PatchEmbed; ``output_fmt`` counts where ``flatten`` is off."""

    def channels_last(self, module: Any) -> bool:
        return bool(module.flatten) or module.output_fmt == "NHWC"


ATTENTION = Attention("timm.Attention", "timm.layers:Attention")
_LINEARS = Products("timm.Mlp.linears", ops=("linear",))  # of Mlps with other activations
MLP = transformer.Mlp("timm.Mlp", "timm.layers:Mlp", otherwise=_LINEARS)

ADAPTERS = (
    ATTENTION,
    MLP,
    _LINEARS,
    Block("timm.Block", "timm.models.vision_transformer:Block", attention=ATTENTION, mlp=MLP),
    PatchEmbed("timm.PatchEmbed", "timm.layers:PatchEmbed"),
    layers.LayerNorm("timm.LayerNorm", "timm.layers:LayerNorm"),
    Unsupported(
        "timm.other.blocks",
        "attention + mlp",
        "no adapter for this kind of block yet",
        "timm.models.vision_transformer:ResPostBlock",
        "timm.models.vision_transformer:ParallelScalingBlock",
        "timm.models.vision_transformer:DiffParallelScalingBlock",
        "timm.models.vision_transformer:ParallelThingsBlock",
    ),
)
