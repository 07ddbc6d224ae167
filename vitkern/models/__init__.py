"""Reference vision transformers in plain PyTorch, without a kernel in sight.

They load timm's checkpoints and give timm's results, and they are what the kernels are patched into
and measured against.
"""

from vitkern.models.adaptive import AdaptiveViT, ComplexityEstimator, GatedSparseAttention
from vitkern.models.attention import MultiHeadAttention
from vitkern.models.checkpoint import load_checkpoint
from vitkern.models.detr import (
    DETR,
    CrossAttention,
    HungarianMatcher,
    SetCriterion,
    pad_images,
    post_process,
)
from vitkern.models.layers import DropPath, LayerScale, Mlp
from vitkern.models.medical_vit import MedicalViT
from vitkern.models.patch_embed import PatchEmbed
from vitkern.models.position_embedding import PositionEmbedding
from vitkern.models.registry import create_model, list_models
from vitkern.models.swin_block import PatchMerging, SwinBlock
from vitkern.models.swin_block_v2 import PatchMergingV2, SwinBlockV2
from vitkern.models.swin_transformer import SwinTransformer
from vitkern.models.swin_transformer_v2 import SwinTransformerV2
from vitkern.models.transformer_block import TransformerBlock
from vitkern.models.vision_transformer import VisionTransformer
from vitkern.models.window_attention import WindowAttention
from vitkern.models.window_attention_v2 import WindowAttentionV2

__all__ = [
    "DETR",
    "AdaptiveViT",
    "ComplexityEstimator",
    "CrossAttention",
    "DropPath",
    "GatedSparseAttention",
    "HungarianMatcher",
    "LayerScale",
    "MedicalViT",
    "Mlp",
    "MultiHeadAttention",
    "PatchEmbed",
    "PatchMerging",
    "PatchMergingV2",
    "PositionEmbedding",
    "SetCriterion",
    "SwinBlock",
    "SwinBlockV2",
    "SwinTransformer",
    "SwinTransformerV2",
    "TransformerBlock",
    "VisionTransformer",
    "WindowAttention",
    "WindowAttentionV2",
    "create_model",
    "list_models",
    "load_checkpoint",
    "pad_images",
    "post_process",
]
