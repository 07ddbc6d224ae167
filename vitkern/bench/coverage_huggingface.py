"""Hugging Face's vision models for ``vitkern coverage``, from small configurations.

Widths, heads and images are those of real (small) models, layers are few. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from vitkern.bench.coverage import Subject

__all__ = ["CHANNELS_LAST", "huggingface"]

Kwargs = dict[str, Any]

_VIT: Kwargs = {
    "hidden_size": 192,
    "num_hidden_layers": 6,
    "num_attention_heads": 3,
    "intermediate_size": 768,
    "image_size": 224,
    "patch_size": 16,
}
_DINO: Kwargs = {key: value for key, value in _VIT.items() if key != "intermediate_size"}
_SWIN: Kwargs = {"image_size": 224, "embed_dim": 96, "depths": [2, 2, 2, 2]}
_RESNET: Kwargs = {
    "model_type": "resnet",
    "embedding_size": 32,
    "hidden_sizes": [32, 64, 96, 128],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "out_features": ["stage2", "stage3", "stage4"],
}
_DETR: Kwargs = {
    "use_timm_backbone": False,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "num_queries": 100,
}
_RT_DETR: Kwargs = {
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_queries": 100,
    "encoder_in_channels": [64, 96, 128],
    "backbone_config": {
        "model_type": "rt_detr_resnet",
        "embedding_size": 32,
        "hidden_sizes": [32, 64, 96, 128],
        "depths": [1, 1, 1, 1],
        "layer_type": "basic",
        "out_features": ["stage2", "stage3", "stage4"],
    },
}

# Run with channels last in memory, as those of ``coverage_models``.
CHANNELS_LAST = frozenset({"hf/rt-detr", "hf/rt-detr-v2"})

# name -> configuration class, its arguments, model class
_MODELS: dict[str, tuple[str, Kwargs, str]] = {
    "vit": ("ViTConfig", _VIT, "ViTForImageClassification"),
    "deit": ("DeiTConfig", _VIT, "DeiTForImageClassification"),
    "beit": (
        "BeitConfig",
        {**_VIT, "use_relative_position_bias": True, "layer_scale_init_value": 0.1},
        "BeitForImageClassification",
    ),
    "dinov2": ("Dinov2Config", _DINO, "Dinov2ForImageClassification"),
    "dinov2-swiglu": ("Dinov2Config", {**_DINO, "use_swiglu_ffn": True}, "Dinov2Model"),
    "dinov3": ("DINOv3ViTConfig", {**_VIT, "num_register_tokens": 4}, "DINOv3ViTModel"),
    "swin": ("SwinConfig", _SWIN, "SwinForImageClassification"),
    "swinv2": (
        "Swinv2Config",
        {**_SWIN, "image_size": 256, "window_size": 8},
        "Swinv2ForImageClassification",
    ),
    "clip-vision": ("CLIPVisionConfig", {**_VIT, "patch_size": 16}, "CLIPVisionModel"),
    "siglip-vision": ("SiglipVisionConfig", _VIT, "SiglipVisionModel"),
    "sam-vision": (
        "SamVisionConfig",
        {
            "hidden_size": 192,
            "num_hidden_layers": 4,
            "num_attention_heads": 3,
            "image_size": 256,
            "global_attn_indexes": [1, 3],
            "window_size": 7,
            "mlp_dim": 768,
            "output_channels": 64,
        },
        "SamVisionModel",
    ),
    "mask2former-swin": (
        "SwinConfig",
        {**_SWIN, "out_features": ["stage1", "stage2", "stage3", "stage4"]},
        "SwinBackbone",
    ),
    "detr": ("DetrConfig", {**_DETR, "backbone_config": _RESNET}, "DetrForObjectDetection"),
    "conditional-detr": (
        "ConditionalDetrConfig",
        {**_DETR, "backbone_config": _RESNET},
        "ConditionalDetrForObjectDetection",
    ),
    "deformable-detr": (
        "DeformableDetrConfig",
        {**_DETR, "backbone_config": _RESNET},
        "DeformableDetrForObjectDetection",
    ),
    "rt-detr": ("RTDetrConfig", _RT_DETR, "RTDetrForObjectDetection"),
    "rt-detr-v2": ("RTDetrV2Config", _RT_DETR, "RTDetrV2ForObjectDetection"),
    "mask2former": (
        "Mask2FormerConfig",
        {
            "backbone_config": {
                "model_type": "swin",
                **_SWIN,
                "out_features": ["stage1", "stage2", "stage3", "stage4"],
            },
            "encoder_layers": 2,
            "decoder_layers": 3,
            "num_queries": 100,
        },
        "Mask2FormerModel",
    ),
}


class PixelValues(nn.Module):
    """A Hugging Face model that is called with images alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> Any:
        """Whatever the model returns for ``pixel_values=images``."""
        return self.model(pixel_values=images)


def _builder(config: str, arguments: Kwargs, model: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import transformers

        values = dict(arguments)
        backbone = values.get("backbone_config")
        if isinstance(backbone, dict):
            options = {key: value for key, value in backbone.items() if key != "model_type"}
            values["backbone_config"] = transformers.AutoConfig.for_model(
                backbone["model_type"], **options
            )
        configuration = getattr(transformers, config)(**values)
        return PixelValues(getattr(transformers, model)(configuration))

    return build


def huggingface() -> list[Subject]:
    """The models, with ``hf/`` before their names."""
    found = []
    for name, (config, arguments, model) in _MODELS.items():
        size = arguments.get("image_size", 256)
        full, build = f"hf/{name}", _builder(config, arguments, model)
        last = full in CHANNELS_LAST
        found.append(Subject(full, build, (3, size, size), channels_last=last))
    return found
