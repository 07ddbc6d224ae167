"""The named models: which class, with which arguments. Names of ViT, DeiT and Swin are timm's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import nn

from vitkern.models.adaptive import AdaptiveViT
from vitkern.models.detr import DETR
from vitkern.models.medical_vit import MedicalViT
from vitkern.models.swin_transformer import SwinTransformer
from vitkern.models.swin_transformer_v2 import SwinTransformerV2
from vitkern.models.vision_transformer import VisionTransformer


@dataclass(frozen=True)
class Configuration:
    """A model's class and the arguments that differ from the class's defaults."""

    model: Callable[..., nn.Module]
    arguments: Mapping[str, Any]


def _vit(embed_dim: int, depth: int, num_heads: int, patch: int, image: int) -> Configuration:
    return Configuration(
        VisionTransformer,
        {
            "img_size": image,
            "patch_size": patch,
            "embed_dim": embed_dim,
            "depth": depth,
            "num_heads": num_heads,
        },
    )


def _medical(embed_dim: int, depth: int, num_heads: int) -> Configuration:
    return Configuration(
        MedicalViT, {"embed_dim": embed_dim, "depth": depth, "num_heads": num_heads}
    )


def _adaptive(
    embed_dim: int, depth: int, num_heads: int, image: int, classes: int = 1000
) -> Configuration:
    return Configuration(
        AdaptiveViT,
        {
            "img_size": image,
            "num_classes": classes,
            "embed_dim": embed_dim,
            "depth": depth,
            "num_heads": num_heads,
        },
    )


def _swin(
    embed_dim: int, third_depth: int, first_heads: int, window: int, image: int
) -> Configuration:
    return Configuration(
        SwinTransformer,
        {
            "img_size": image,
            "embed_dim": embed_dim,
            "depths": (2, 2, third_depth, 2),
            "num_heads": tuple(first_heads * 2**stage for stage in range(4)),
            "window_size": window,
        },
    )


def _swinv2(
    embed_dim: int,
    third_depth: int,
    first_heads: int,
    window: int,
    image: int,
    pretrained: int | None = None,
) -> Configuration:
    swin = _swin(embed_dim, third_depth, first_heads, window, image)
    arguments = dict(swin.arguments)
    if pretrained is not None:  # the last stage's map was half that window
        arguments["pretrained_window_sizes"] = (pretrained, pretrained, pretrained, pretrained // 2)
    return Configuration(SwinTransformerV2, arguments)


CONFIGURATIONS: Mapping[str, Configuration] = MappingProxyType(
    {
        # embed_dim, depth, num_heads, patch size, image size
        "vit_tiny_patch16_224": _vit(192, 12, 3, 16, 224),
        "vit_tiny_patch16_384": _vit(192, 12, 3, 16, 384),
        "vit_small_patch16_224": _vit(384, 12, 6, 16, 224),
        "vit_small_patch16_384": _vit(384, 12, 6, 16, 384),
        "vit_small_patch32_224": _vit(384, 12, 6, 32, 224),
        "vit_base_patch8_224": _vit(768, 12, 12, 8, 224),
        "vit_base_patch16_224": _vit(768, 12, 12, 16, 224),
        "vit_base_patch16_384": _vit(768, 12, 12, 16, 384),
        "vit_base_patch32_224": _vit(768, 12, 12, 32, 224),
        "vit_base_patch32_384": _vit(768, 12, 12, 32, 384),
        "vit_large_patch14_224": _vit(1024, 24, 16, 14, 224),
        "vit_large_patch16_224": _vit(1024, 24, 16, 16, 224),
        "vit_large_patch16_384": _vit(1024, 24, 16, 16, 384),
        "vit_large_patch32_384": _vit(1024, 24, 16, 32, 384),
        "vit_huge_patch14_224": _vit(1280, 32, 16, 14, 224),
        "deit_tiny_patch16_224": _vit(192, 12, 3, 16, 224),
        "deit_small_patch16_224": _vit(384, 12, 6, 16, 224),
        "deit_base_patch16_224": _vit(768, 12, 12, 16, 224),
        "deit_base_patch16_384": _vit(768, 12, 12, 16, 384),
        # embed_dim, blocks of the third stage, heads of the first stage, window, image size
        "swin_tiny_patch4_window7_224": _swin(96, 6, 3, 7, 224),
        "swin_small_patch4_window7_224": _swin(96, 18, 3, 7, 224),
        "swin_base_patch4_window7_224": _swin(128, 18, 4, 7, 224),
        "swin_base_patch4_window12_384": _swin(128, 18, 4, 12, 384),
        "swin_large_patch4_window7_224": _swin(192, 18, 6, 7, 224),
        "swin_large_patch4_window12_384": _swin(192, 18, 6, 12, 384),
        # and the window that was trained with, where it is another
        "swinv2_tiny_window8_256": _swinv2(96, 6, 3, 8, 256),
        "swinv2_tiny_window16_256": _swinv2(96, 6, 3, 16, 256),
        "swinv2_small_window8_256": _swinv2(96, 18, 3, 8, 256),
        "swinv2_small_window16_256": _swinv2(96, 18, 3, 16, 256),
        "swinv2_base_window8_256": _swinv2(128, 18, 4, 8, 256),
        "swinv2_base_window16_256": _swinv2(128, 18, 4, 16, 256),
        "swinv2_base_window12_192": _swinv2(128, 18, 4, 12, 192),
        "swinv2_base_window12to16_192to256": _swinv2(128, 18, 4, 16, 256, 12),
        "swinv2_base_window12to24_192to384": _swinv2(128, 18, 4, 24, 384, 12),
        "swinv2_large_window12_192": _swinv2(192, 18, 6, 12, 192),
        "swinv2_large_window12to16_192to256": _swinv2(192, 18, 6, 16, 256, 12),
        "swinv2_large_window12to24_192to384": _swinv2(192, 18, 6, 24, 384, 12),
        # embed_dim, depth, num_heads
        "medical_vit_small": _medical(384, 12, 6),
        "medical_vit_base": _medical(768, 12, 12),
        "medical_vit_large": _medical(1024, 16, 16),
        # embed_dim, depth, num_heads, image size, and the classes, where they are not 1000
        "adaptive_vit_tiny": _adaptive(192, 12, 3, 224),
        "adaptive_vit_small": _adaptive(384, 12, 6, 224),
        "adaptive_vit_base": _adaptive(768, 12, 12, 224),
        "adaptive_vit_satellite": _adaptive(1024, 20, 16, 256, 50),
        # COCO, 91 classes
        "detr_resnet50": Configuration(DETR, {"backbone": "resnet50"}),
        "detr_resnet101": Configuration(DETR, {"backbone": "resnet101"}),
    }
)
