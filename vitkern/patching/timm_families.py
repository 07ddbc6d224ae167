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
        "timm.attention-written-out",
        *(
            f"{_MODELS}.{name}"
            for name in (
                "cait:TalkingHeadAttn",
                "convit:GPSA",
                "convit:MHSA",
                "crossvit:CrossAttention",
                "edgenext:CrossCovarianceAttn",
                "efficientformer:Attention",
                "gcvit:WindowAttentionGlobal",
                "mvitv2:MultiScaleAttention",
                "swin_transformer_v2:WindowAttention",
                "swin_transformer_v2_cr:WindowMultiHeadAttention",
                "tnt:Attention",
                "xcit:XCA",
            )
        ),
        written_out=True,
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
                "coat:FactorAttnConvRelPosEnc",
                "davit:ChannelAttention",
                "davit:ChannelAttentionV2",
                "levit:LinearNorm",
                "metaformer:MlpHead",
                "pvt_v2:MlpWithDepthwiseConv",
                "swin_transformer_v2:PatchMerging",
                "swin_transformer_v2_cr:PatchMerging",
                "tiny_vit:NormMlp",
                "vitamin:GeGluMlp",
                "volo:OutlookAttention",
            )
        ),
        ops=("linear",),
    ),
)
