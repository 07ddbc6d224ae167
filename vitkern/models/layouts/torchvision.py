"""torchvision's ``VisionTransformer`` and ``SwinTransformer`` (both versions).

Swin's logits are theirs where the window divides every stage's map and is no larger than it, as it
is in the published models at their image size: torchvision pads before it shifts, and pads small
maps to a window where timm shrinks the window.
"""

from __future__ import annotations

import re

import torch

from vitkern.models.layouts._renaming import Rules, Weights, renamed, without

_VIT_RULES: Rules = (
    (r"^class_token$", "cls_token"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.ln\.", "norm."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.self_attention\.in_proj_(weight|bias)$", r".attn.qkv.\1"),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(0|linear_1)\.", ".mlp.fc1."),
    (r"\.mlp\.(3|linear_2)\.", ".mlp.fc2."),
    (r"^heads\.head\.", "head."),
)

# Features alternate: 0 embeds patches, odd ones are stages, even ones merge patches.
_SWIN_RULES: Rules = (
    (r"^features\.0\.0\.", "patch_embed.proj."),
    (r"^features\.0\.2\.", "patch_embed.norm."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
    (r"^head\.", "head.fc."),
)
_CONSTANTS = ("relative_position_index", "relative_coords_table")


def is_vit(weights: Weights) -> bool:
    """Whether the keys are those of torchvision's ViT."""
    return "conv_proj.weight" in weights


def is_swin(weights: Weights) -> bool:
    """Whether the keys are those of torchvision's Swin."""
    return "features.0.0.weight" in weights


def vit(weights: Weights) -> dict[str, torch.Tensor]:
    """The same weights under the keys of our ViT.

    Raises:
        ValueError: two keys become one.
    """
    return renamed(weights, _VIT_RULES)


def swin(weights: Weights) -> dict[str, torch.Tensor]:
    """The same weights under the keys of our Swin.

    Raises:
        ValueError: two keys become one.
    """
    return {
        re.sub(r"^features\.(\d+)\.", _stage, key): value
        for key, value in renamed(without(weights, _CONSTANTS), _SWIN_RULES).items()
    }


def swin_v2(weights: Weights) -> dict[str, torch.Tensor]:
    """The same weights under the keys of our Swin V2.

    The biases of q and v are parameters of their own; that of k, which they keep but set to zero
    at every call, is left out.

    Raises:
        ValueError: two keys become one.
    """
    result = {}
    for key, value in swin(weights).items():
        if key.endswith(".attn.qkv.bias") and len(value) % 3 == 0:
            prefix = key.removesuffix("qkv.bias")
            result[prefix + "q_bias"], _, result[prefix + "v_bias"] = value.chunk(3)
        else:
            result[key] = value
    return result


def _stage(match: re.Match[str]) -> str:
    number = int(match[1])
    return f"layers.{number // 2}." + ("blocks." if number % 2 else "downsample.")
