"""Hugging Face's vision models: attention and MLPs of transformers.

Attention runs on ``attention`` where the model's implementation is "sdpa", which is the default.
Others ("eager", "flex_attention") compute it themselves, and only linear layers are on ops.
"""

from __future__ import annotations

from vitkern.patching.mlps import Activated, FeedForward
from vitkern.patching.products import Products


def _classes(*names: str) -> tuple[str, ...]:
    """``"vit:ViTMLP"`` as the path of the class."""
    found = []
    for name in names:
        model, _, cls = name.partition(":")
        found.append(f"transformers.models.{model}.modeling_{model}:{cls}")
    return tuple(found)


MLP = FeedForward(
    "transformers.MLP",
    *_classes(
        "vit:ViTMLP",
        "deit:DeiTMLP",
        "beit:BeitMLP",
        "dinov2:Dinov2MLP",
        "dinov2_with_registers:Dinov2WithRegistersMLP",
        "swin:SwinMLP",
        "clip:CLIPMLP",
        "siglip:SiglipMLP",
    ),
)

ADAPTERS = (
    Products(
        "transformers.Attention",
        *_classes(
            "vit:ViTAttention",
            "deit:DeiTAttention",
            "beit:BeitAttention",
            "dinov2:Dinov2Attention",
            "dinov2_with_registers:Dinov2WithRegistersAttention",
            "dinov3_vit:DINOv3ViTAttention",
            "swin:SwinAttention",
            "clip:CLIPAttention",
            "siglip:SiglipAttention",
            "sam:SamAttention",
            "sam:SamVisionAttention",
            "sam:SamVisionSdpaAttention",
            "detr:DetrSelfAttention",
            "detr:DetrCrossAttention",
            "conditional_detr:ConditionalDetrSelfAttention",
            "conditional_detr:ConditionalDetrDecoderSelfAttention",
            "conditional_detr:ConditionalDetrDecoderCrossAttention",
            "deformable_detr:DeformableDetrSelfAttention",
            "rt_detr:RTDetrSelfAttention",
            "rt_detr_v2:RTDetrV2SelfAttention",
            "d_fine:DFineSelfAttention",
            "maskformer:MaskFormerDetrSelfAttention",
            "maskformer:MaskFormerDetrCrossAttention",
        ),
    ),
    Products(
        "transformers.Swinv2SelfAttention",
        *_classes("swinv2:Swinv2SelfAttention"),
        written_out=True,
    ),
    Products(
        "transformers.Linears",
        *_classes(
            "swinv2:Swinv2SelfOutput",
            "swinv2:Swinv2Output",
            "swinv2:Swinv2PatchMerging",
            "deformable_detr:DeformableDetrMultiscaleDeformableAttention",
            "deformable_detr:DeformableDetrMLPPredictionHead",
            "rt_detr:RTDetrMultiscaleDeformableAttention",
            "rt_detr:RTDetrMLPPredictionHead",
            "rt_detr_v2:RTDetrV2MLPPredictionHead",
            "d_fine:DFineMLPPredictionHead",
            "grounding_dino:GroundingDinoMultiscaleDeformableAttention",
            "mm_grounding_dino:MMGroundingDinoMultiscaleDeformableAttention",
            "lw_detr:LwDetrMultiscaleDeformableAttention",
            "rf_detr:RfDetrMultiscaleDeformableAttention",
            "mask2former:Mask2FormerAttention",
            "detr:DetrMLPPredictionHead",
            "conditional_detr:ConditionalDetrMLPPredictionHead",
            "dinov2:Dinov2SwiGLUFFN",
            "dinov3_vit:DINOv3ViTGatedMLP",
        ),
        ops=("linear",),
    ),
    MLP,
    FeedForward(
        "transformers.DetrMLP",
        *_classes(
            "detr:DetrMLP",
            "conditional_detr:ConditionalDetrMLP",
            "deformable_detr:DeformableDetrMLP",
            "rt_detr:RTDetrMLP",
            "rt_detr_v2:RTDetrV2MLP",
            "d_fine:DFineMLP",
            "maskformer:MaskFormerDetrMLP",
        ),
        drops=("activation_dropout", "dropout"),
    ),
    FeedForward(
        "transformers.DINOv3ViTMLP",
        *_classes("dinov3_vit:DINOv3ViTMLP"),
        fc1="up_proj",
        act="act_fn",
        fc2="down_proj",
    ),
    FeedForward(
        "transformers.SamMLPBlock",
        *_classes("sam:SamMLPBlock"),
        fc1="lin1",
        act="act",
        fc2="lin2",
    ),
    Activated(
        "transformers.Swinv2Intermediate",
        *_classes("swinv2:Swinv2Intermediate"),
        linear="dense",
        act="intermediate_act_fn",
    ),
    Products(
        "transformers.PatchEmbeddings",
        *_classes(
            "vit:ViTPatchEmbeddings",
            "deit:DeiTPatchEmbeddings",
            "beit:BeitPatchEmbeddings",
            "dinov2:Dinov2PatchEmbeddings",
            "dinov2_with_registers:Dinov2WithRegistersPatchEmbeddings",
            "dinov3_vit:DINOv3ViTEmbeddings",
            "swin:SwinPatchEmbeddings",
            "swinv2:Swinv2PatchEmbeddings",
            "clip:CLIPVisionEmbeddings",
            "siglip:SiglipVisionEmbeddings",
            "sam:SamPatchEmbeddings",
        ),
        ops=("patch_embed",),
    ),
    Products("transformers.PatchMerging", *_classes("swin:SwinPatchMerging"), ops=("linear",)),
)
