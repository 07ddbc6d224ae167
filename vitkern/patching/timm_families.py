"""timm's families beside ViT and Swin: their attention, gated MLPs and merging layers."""

from __future__ import annotations

from vitkern.patching.products import Products

_MODELS = "timm.models"

ADAPTERS = (
    Products(
        "timm.attention",
        "timm.layers:AttentionRope",
        "timm.layers:DiffAttention",
        "timm.layers:AttentionPoolLatent",
        "timm.layers:AttentionPool2d",
        "timm.layers:RotAttentionPool2d",
        *(
            f"{_MODELS}.{name}"
            for name in (
                "beit:Attention",
                "cait:ClassAttn",
                "davit:ChannelAttention",
                "davit:ChannelAttentionV2",
                "davit:WindowAttention",
                "eva:EvaAttention",
                "hiera:MaskUnitAttention",
                "hieradet_sam2:MultiScaleAttention",
                "maxxvit:AttentionCl",
                "metaformer:Attention",
                "nest:Attention",
                "pvt_v2:Attention",
                "tiny_vit:Attention",
                "twins:GlobalSubSampleAttn",
                "twins:LocallyGroupedAttn",
                "vision_transformer_relpos:RelPosAttention",
                "vision_transformer_sam:Attention",
                "volo:Attention",
                "volo:ClassAttention",
            )
        ),
    ),
    Products(
        "timm.linears",
        "timm.layers:GatedMlp",
        "timm.layers:GlobalResponseNormMlp",
        "timm.layers:GluMlp",
        "timm.layers:SwiGLU",
        *(
            f"{_MODELS}.{name}"
            for name in (
                "cait:TalkingHeadAttn",
                "coat:FactorAttnConvRelPosEnc",
                "convit:GPSA",
                "convit:MHSA",
                "crossvit:CrossAttention",
                "edgenext:CrossCovarianceAttn",
                "efficientformer:Attention",
                "focalnet:FocalModulation",
                "gcvit:WindowAttentionGlobal",
                "levit:LinearNorm",
                "metaformer:MlpHead",
                "mvitv2:MultiScaleAttention",
                "mvitv2:MultiScaleAttentionPoolFirst",
                "pvt_v2:MlpWithDepthwiseConv",
                "swin_transformer_v2:PatchMerging",
                "swin_transformer_v2:WindowAttention",
                "swin_transformer_v2_cr:PatchMerging",
                "swin_transformer_v2_cr:WindowMultiHeadAttention",
                "tiny_vit:NormMlp",
                "tnt:Attention",
                "vitamin:GeGluMlp",
                "volo:OutlookAttention",
                "xcit:XCA",
            )
        ),
        ops=("linear",),
    ),
)
