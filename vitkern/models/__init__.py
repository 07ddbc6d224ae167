"""Reference vision transformers in plain PyTorch, without a kernel in sight.

They load timm's checkpoints and give timm's results, and they are what the kernels are patched into
and measured against.
"""

from vitkern.models.attention import MultiHeadAttention
from vitkern.models.detr import (
    DETR,
    CrossAttention,
    HungarianMatcher,
    SetCriterion,
    pad_images,
    post_process,
)
from vitkern.models.layers import DropPath, LayerScale, Mlp
from vitkern.models.patch_embed import PatchEmbed
from vitkern.models.position_embedding import PositionEmbedding
from vitkern.models.registry import create_model, list_models
from vitkern.models.swin_block import PatchMerging, SwinBlock
from vitkern.models.swin_transformer import SwinTransformer
from vitkern.models.transformer_block import TransformerBlock
from vitkern.models.vision_transformer import VisionTransformer
from vitkern.models.window_attention import WindowAttention

__all__ = [
    "DETR",
    "CrossAttention",
    "DropPath",
    "HungarianMatcher",
    "LayerScale",
    "Mlp",
    "MultiHeadAttention",
    "PatchEmbed",
    "PatchMerging",
    "PositionEmbedding",
    "SetCriterion",
    "SwinBlock",
    "SwinTransformer",
    "TransformerBlock",
    "VisionTransformer",
    "WindowAttention",
    "create_model",
    "list_models",
    "pad_images",
    "post_process",
]
