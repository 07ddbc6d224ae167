"""Small models of families beside ViT and Swin, of the libraries that have adapters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import timm
import timm.models
import torch
import torchvision
import transformers
from torch import nn

from vitkern import models
from vitkern.bench.coverage_huggingface import PixelValues


@dataclass(frozen=True)
class Family:
    """A model, an input for it, and what its report must show.

    Attributes:
        build: makes the model.
        size: of an input's images (or rows of tokens).
        classes: that must be patched in it, by their names.
    """

    build: Callable[[], nn.Module]
    size: tuple[int, ...]
    classes: tuple[str, ...]


_EVA: dict[str, Any] = {
    "img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 5,
}  # fmt: skip


def _timm(name: str, **options: Any) -> nn.Module:
    return timm.create_model(name, pretrained=False, num_classes=5, **options)


def hf(config: str, model: str, **options: Any) -> nn.Module:
    """A Hugging Face model of a configuration, called with images alone."""
    configuration = getattr(transformers, config)(**options)
    return PixelValues(getattr(transformers, model)(configuration))


_HF: dict[str, Any] = {
    "image_size": 32, "patch_size": 8, "hidden_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 3, "intermediate_size": 96,
}  # fmt: skip
_HF_SWIN: dict[str, Any] = {
    "image_size": 56, "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 3],
}  # fmt: skip
_HF_DETR: dict[str, Any] = {
    "use_timm_backbone": False, "d_model": 32, "encoder_layers": 1, "decoder_layers": 2,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48, "num_queries": 7, "activation_function": "gelu",
}  # fmt: skip


def _hf_detr(config: str, model: str) -> nn.Module:
    options: dict[str, Any] = {
        "embedding_size": 8, "hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 1, 1],
        "layer_type": "basic", "out_features": ["stage2", "stage3", "stage4"],
    }  # fmt: skip
    backbone = transformers.ResNetConfig(**options)
    return hf(config, model, **_HF_DETR, backbone_config=backbone)


def _hf_rt_detr_v2() -> nn.Module:
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    return hf(
        "RTDetrV2Config", "RTDetrV2Model", backbone_config=backbone, d_model=32, num_queries=7,
        encoder_hidden_dim=32, encoder_in_channels=[12, 16, 20], encoder_layers=1,
        encoder_ffn_dim=48, encoder_attention_heads=4, decoder_layers=1, decoder_ffn_dim=48,
        decoder_in_channels=[32, 32, 32], decoder_attention_heads=4,
    )  # fmt: skip


def _hf_mask2former() -> nn.Module:
    backbone = transformers.SwinConfig(
        image_size=64, embed_dim=16, depths=[1, 1, 1, 1], num_heads=[2, 2, 2, 2], window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    return hf(
        "Mask2FormerConfig", "Mask2FormerModel", backbone_config=backbone, hidden_dim=32,
        feature_size=32, mask_feature_size=32, encoder_feedforward_dim=48, dim_feedforward=48,
        encoder_layers=1, decoder_layers=2, num_queries=5, num_attention_heads=4,
    )  # fmt: skip


class Tokens(nn.Module):
    """PyTorch's transformer layers on tokens, with masks."""

    def __init__(self, *, norm_first: bool, batch_first: bool, masked: bool) -> None:
        super().__init__()
        options: dict[str, Any] = {
            "batch_first": batch_first,
            "norm_first": norm_first,
            "dim_feedforward": 40,
        }
        self.encoder = nn.TransformerEncoderLayer(24, 3, activation="gelu", **options)
        self.decoder = nn.TransformerDecoderLayer(24, 3, **options)
        self.masked = masked

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x is (B, N, 24), or (N, B, 24) where the layers want it so."""
        batch_first = self.encoder.self_attn.batch_first
        batch, tokens = x.shape[:2] if batch_first else (x.shape[1], x.shape[0])
        mask = padding = None
        if self.masked:
            mask = torch.ones(tokens, tokens, dtype=torch.bool).triu(3)
            padding = torch.zeros(batch, tokens, dtype=torch.bool)
            padding[0, -2:] = True
        y = self.encoder(x, src_mask=mask, src_key_padding_mask=padding)
        z: torch.Tensor = self.decoder(x, y, tgt_mask=mask, memory_key_padding_mask=padding)
        return z


class Cross(nn.Module):
    """``nn.MultiheadAttention`` with keys and values of other widths, and weights wanted."""

    def __init__(self, weights: bool = False) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(24, 3, kdim=8, vdim=16, batch_first=True)
        self.own = nn.MultiheadAttention(24, 3, bias=False, batch_first=True)
        self.weights = weights

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x is (B, N, 24)."""
        y, _ = self.attention(x, x[..., :8], x[..., 8:], need_weights=False)
        z, weights = self.own(y, x, x, need_weights=self.weights)
        return z if weights is None else z + weights.sum(-1, keepdim=True)


_IMAGE = (2, 3, 32, 32)
_SWIN_IMAGE = (2, 3, 56, 56)

FAMILIES: dict[str, Family] = {
    "eva": Family(
        partial(timm.models.Eva, **_EVA, use_rot_pos_emb=True, swiglu_mlp=True, scale_mlp=True,
                qkv_fused=False, init_values=0.1),
        _IMAGE, ("EvaAttention", "SwiGLU", "PatchEmbed"),
    ),
    "eva-packed": Family(
        partial(timm.models.Eva, **_EVA, use_rot_pos_emb=True, qk_norm=True,
                norm_layer=nn.LayerNorm),
        _IMAGE, ("EvaAttention", "Mlp"),
    ),
    "dinov3": Family(
        partial(timm.models.Eva, **_EVA, attn_type="rope", use_rot_pos_emb=True, num_reg_tokens=2,
                rope_type="dinov3"),
        _IMAGE, ("AttentionRope", "Mlp"),
    ),
    "beit": Family(
        partial(timm.models.Beit, **_EVA, use_rel_pos_bias=True, init_values=0.1),
        _IMAGE, ("Attention", "Mlp"),
    ),
    "relpos": Family(
        partial(timm.models.VisionTransformerRelPos, **_EVA), _IMAGE, ("RelPosAttention", "Mlp"),
    ),
    "sam": Family(
        partial(timm.models.VisionTransformerSAM, **_EVA, use_rel_pos=True, window_size=3,
                global_attn_indexes=(1,), neck_chans=16),
        _IMAGE, ("Attention", "Mlp"),
    ),
    "cait": Family(
        partial(timm.models.Cait, **{**_EVA, "num_heads": 4}), _IMAGE,
        ("ClassAttn", "TalkingHeadAttn"),
    ),
    "xcit": Family(
        partial(timm.models.Xcit, **{**_EVA, "num_heads": 4, "cls_attn_layers": 1}), _IMAGE,
        ("XCA", "Mlp"),
    ),
    "twins": Family(
        partial(_timm, "twins_svt_small", img_size=64, embed_dims=(16, 24, 32, 40),
                num_heads=(2, 3, 4, 5), depths=(1, 1, 1, 2)),
        (1, 3, 64, 64), ("GlobalSubSampleAttn", "LocallyGroupedAttn", "Mlp"),
    ),
    "pvt": Family(
        partial(_timm, "pvt_v2_b0", depths=(1, 1, 1, 1), embed_dims=(16, 24, 32, 40),
                num_heads=(1, 2, 4, 5)),
        (1, 3, 64, 64), ("Attention", "MlpWithDepthwiseConv"),
    ),
    "nest": Family(
        partial(timm.models.Nest, img_size=32, patch_size=4, embed_dims=(16, 24), depths=(1, 1),
                num_levels=2, num_heads=(2, 3), num_classes=5),
        _IMAGE, ("Attention", "Mlp"),
    ),
    "hiera": Family(
        partial(timm.models.Hiera, img_size=(64, 64), embed_dim=16, num_heads=1,
                stages=(1, 1, 1, 1), num_classes=5),
        (1, 3, 64, 64), ("MaskUnitAttention", "Mlp"),
    ),
    "davit": Family(
        partial(timm.models.DaVit, depths=(1, 1), embed_dims=(16, 24), num_heads=(2, 3),
                window_size=4, num_classes=5),
        _IMAGE, ("ChannelAttention", "WindowAttention", "Mlp"),
    ),
    "swin-v2": Family(
        partial(timm.models.SwinTransformerV2, img_size=32, patch_size=2, embed_dim=16,
                depths=(2, 2), num_heads=(2, 4), window_size=4, num_classes=5),
        (1, 3, 32, 32), ("SwinTransformerV2Block", "PatchMerging", "Mlp"),
    ),
    "swin-v2-ragged": Family(
        partial(timm.models.SwinTransformerV2, img_size=(40, 44), patch_size=2, embed_dim=16,
                depths=(2, 2), num_heads=(2, 4), window_size=6, num_classes=5, qkv_bias=False),
        (2, 3, 40, 44), ("SwinTransformerV2Block", "PatchMerging", "Mlp"),
    ),
    "swin-v2-cr": Family(
        partial(timm.models.SwinTransformerV2Cr, img_size=32, patch_size=2, embed_dim=16,
                depths=(2, 2), num_heads=(2, 4), window_size=4, num_classes=5),
        (1, 3, 32, 32), ("SwinTransformerV2CrBlock", "PatchMerging", "Mlp"),
    ),
    "swin-v2-cr-ragged": Family(  # with a norm of the result, and a mask made on each call
        partial(timm.models.SwinTransformerV2Cr, img_size=(40, 44), patch_size=2, embed_dim=16,
                depths=(2, 2), num_heads=(2, 4), window_size=(6, 5), num_classes=5,
                extra_norm_period=2, strict_img_size=False),
        (2, 3, 40, 44), ("SwinTransformerV2CrBlock", "PatchMerging", "Mlp"),
    ),
    "our-swin-v2": Family(
        partial(models.SwinTransformerV2, img_size=40, patch_size=4, embed_dim=16,
                depths=(2, 2), num_heads=(2, 4), window_size=4, num_classes=5),
        (1, 3, 40, 40), ("SwinBlockV2", "Mlp"),
    ),
    "levit": Family(
        partial(_timm, "levit_128s", img_size=64, embed_dim=(16, 24, 32), num_heads=(2, 3, 4),
                depth=(1, 1, 1)),
        (2, 3, 64, 64), ("LinearNorm",),
    ),
    "mixer": Family(
        partial(timm.models.MlpMixer, img_size=32, patch_size=8, num_blocks=2, embed_dim=24,
                mlp_ratio=4, block_layer=timm.models.mlp_mixer.SpatialGatingBlock,
                mlp_layer=timm.layers.GatedMlp, num_classes=5),
        _IMAGE, ("GatedMlp",),
    ),
    "torchvision-vit": Family(
        partial(torchvision.models.VisionTransformer, 32, 8, 2, 3, 48, 96, num_classes=5),
        _IMAGE, ("MultiheadAttention", "MLPBlock", "VisionTransformer"),
    ),
    "torchvision-swin": Family(
        partial(torchvision.models.SwinTransformer, [2, 2], 16, [2, 2], [2, 4], [5, 4],
                num_classes=5),
        (2, 3, 26, 30), ("ShiftedWindowAttention", "PatchMerging", "MLP"),
    ),
    "torchvision-swin-covered": Family(  # the second stage's map is one window high: no shift there
        partial(torchvision.models.SwinTransformer, [2, 2], 16, [2, 2], [2, 4], [4, 4],
                num_classes=5),
        (2, 3, 14, 32), ("ShiftedWindowAttention", "PatchMerging", "MLP"),
    ),
    "torchvision-swin-v2": Family(
        partial(
            torchvision.models.SwinTransformer, [2, 2], 16, [2, 2], [2, 4], [4, 4], num_classes=5,
            block=torchvision.models.swin_transformer.SwinTransformerBlockV2,
            downsample_layer=torchvision.models.swin_transformer.PatchMergingV2,
        ),
        (1, 3, 32, 32), ("ShiftedWindowAttentionV2", "PatchMergingV2", "MLP"),
    ),
    "torch-post-norm": Family(
        partial(Tokens, norm_first=False, batch_first=True, masked=False), (2, 6, 24),
        ("TransformerEncoderLayer", "TransformerDecoderLayer"),
    ),
    "torch-pre-norm-masked": Family(
        partial(Tokens, norm_first=True, batch_first=True, masked=True), (2, 6, 24),
        ("TransformerEncoderLayer", "TransformerDecoderLayer"),
    ),
    "torch-batch-second-masked": Family(
        partial(Tokens, norm_first=False, batch_first=False, masked=True), (6, 2, 24),
        ("TransformerEncoderLayer", "TransformerDecoderLayer"),
    ),
    "torch-cross": Family(Cross, (2, 6, 24), ("MultiheadAttention",)),
    "torch-weights": Family(partial(Cross, weights=True), (2, 6, 24), ("MultiheadAttention",)),
    "hf-vit": Family(
        partial(hf, "ViTConfig", "ViTForImageClassification", **_HF), _IMAGE,
        ("ViTAttention", "ViTMLP", "ViTPatchEmbeddings"),
    ),
    "hf-deit": Family(
        partial(hf, "DeiTConfig", "DeiTModel", **_HF), _IMAGE, ("DeiTAttention", "DeiTMLP"),
    ),
    "hf-beit": Family(
        partial(hf, "BeitConfig", "BeitModel", **_HF, use_relative_position_bias=True,
                layer_scale_init_value=0.1),
        _IMAGE, ("BeitAttention", "BeitMLP"),
    ),
    "hf-dinov2": Family(
        partial(hf, "Dinov2Config", "Dinov2Model",
                **{k: v for k, v in _HF.items() if k != "intermediate_size"}),
        _IMAGE, ("Dinov2Attention", "Dinov2MLP"),
    ),
    "hf-dinov2-swiglu": Family(
        partial(hf, "Dinov2Config", "Dinov2Model", use_swiglu_ffn=True,
                **{k: v for k, v in _HF.items() if k != "intermediate_size"}),
        _IMAGE, ("Dinov2Attention", "Dinov2SwiGLUFFN"),
    ),
    "hf-dinov3": Family(
        partial(hf, "DINOv3ViTConfig", "DINOv3ViTModel", **_HF, num_register_tokens=2), _IMAGE,
        ("DINOv3ViTAttention", "DINOv3ViTMLP", "DINOv3ViTEmbeddings"),
    ),
    "hf-dinov3-gated": Family(
        partial(hf, "DINOv3ViTConfig", "DINOv3ViTModel", **_HF, use_gated_mlp=True), _IMAGE,
        ("DINOv3ViTAttention", "DINOv3ViTGatedMLP"),
    ),
    "hf-eager": Family(
        partial(hf, "ViTConfig", "ViTModel", **_HF, attn_implementation="eager"), _IMAGE,
        ("ViTAttention", "ViTMLP"),
    ),
    "hf-clip": Family(
        partial(hf, "CLIPVisionConfig", "CLIPVisionModel", **_HF), _IMAGE,
        ("CLIPAttention", "CLIPMLP", "CLIPVisionEmbeddings"),
    ),
    "hf-siglip": Family(
        partial(hf, "SiglipVisionConfig", "SiglipVisionModel", **_HF), _IMAGE,
        ("SiglipAttention", "SiglipMLP", "MultiheadAttention"),
    ),
    "hf-sam": Family(
        partial(hf, "SamVisionConfig", "SamVisionModel", hidden_size=24, num_hidden_layers=2,
                num_attention_heads=3, image_size=64, patch_size=8, window_size=3, mlp_dim=40,
                global_attn_indexes=[1], output_channels=8),
        (1, 3, 64, 64), ("SamVisionSdpaAttention", "SamMLPBlock", "SamPatchEmbeddings"),
    ),
    "hf-swin": Family(
        partial(hf, "SwinConfig", "SwinForImageClassification", **_HF_SWIN), (2, 3, 52, 56),
        ("SwinLayer", "SwinPatchMerging", "SwinPatchEmbeddings"),
    ),
    "hf-swin-backbone": Family(  # as in Mask2Former
        partial(hf, "SwinConfig", "SwinBackbone", **_HF_SWIN, out_features=["stage1", "stage2"]),
        _SWIN_IMAGE, ("SwinLayer",),
    ),
    "hf-swin-v2": Family(
        partial(hf, "Swinv2Config", "Swinv2Model", **{**_HF_SWIN, "window_size": 7}), _SWIN_IMAGE,
        ("Swinv2Layer", "Swinv2SelfAttention", "Swinv2SelfOutput", "Swinv2Intermediate",
         "Swinv2Output"),
    ),
    "hf-swin-v2-ragged": Family(
        partial(hf, "Swinv2Config", "Swinv2ForImageClassification",
                **{**_HF_SWIN, "window_size": 5, "image_size": 52, "qkv_bias": False}),
        (2, 3, 52, 52), ("Swinv2Layer", "Swinv2SelfAttention"),
    ),
    "hf-detr": Family(
        partial(_hf_detr, "DetrConfig", "DetrForObjectDetection"), (2, 3, 64, 96),
        ("DetrSelfAttention", "DetrCrossAttention", "DetrMLP", "DetrMLPPredictionHead"),
    ),
    "hf-conditional-detr": Family(
        partial(_hf_detr, "ConditionalDetrConfig", "ConditionalDetrForObjectDetection"),
        (2, 3, 64, 64),
        ("ConditionalDetrSelfAttention", "ConditionalDetrDecoderSelfAttention",
         "ConditionalDetrDecoderCrossAttention", "ConditionalDetrMLP"),
    ),
    "hf-deformable-detr": Family(
        partial(_hf_detr, "DeformableDetrConfig", "DeformableDetrForObjectDetection"),
        (2, 3, 64, 64),
        ("DeformableDetrSelfAttention", "DeformableDetrMultiscaleDeformableAttention",
         "MultiScaleDeformableAttention", "DeformableDetrMLP"),
    ),
    "hf-rt-detr-v2": Family(
        _hf_rt_detr_v2, (2, 3, 64, 64),
        ("RTDetrV2MultiscaleDeformableAttention", "RTDetrV2SelfAttention", "RTDetrV2MLP"),
    ),
    "hf-mask2former": Family(
        _hf_mask2former, (1, 3, 64, 64),
        ("Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention", "SwinLayer",
         "Mask2FormerAttention"),
    ),
}  # fmt: skip
