"""timm's families beside ViT and Swin: their attention, gated MLPs and merging layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vitkern.patching import scores
from vitkern.patching.products import Products
from vitkern.patching.rebound import Rebound

_MODELS = "timm.models"


def _relative_positions(backend: str | None, original: Callable[..., Any]) -> Callable[..., Any]:
    """MViTv2's position bias, which it writes into the scores: made of zeros, and added."""

    def replaced(attn: Any, q: Any, *args: Any, **kwargs: Any) -> Any:
        if type(attn) is scores.Scores and not attn.known:
            bias = original(attn.q.new_zeros(attn.shape), q, *args, **kwargs)
            result = attn.plus(bias)
            if result is not NotImplemented:
                return result
        return original(scores.plain(attn), q, *args, **kwargs)

    return replaced


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
                "swin_transformer_v2:WindowAttention",
                "swin_transformer_v2_cr:WindowMultiHeadAttention",
                "tnt:Attention",
            )
        ),
        written_out=True,
    ),
    # Beside eager, alone at batch 1, on AMX with one thread: 0.78, 0.76 to 0.94, and 0.55 to 0.61.
    Products(
        "timm.attention-that-gains-nothing",
        f"{_MODELS}.visformer:Attention",
        f"{_MODELS}.maxxvit:Attention2d",
        f"{_MODELS}.xcit:XCA",
        written_out=True,
        only_if_asked=True,
    ),
    Rebound(
        "timm.MultiScaleAttention",
        f"{_MODELS}.mvitv2:MultiScaleAttention",
        function="cal_rel_pos_type",
        replacement=_relative_positions,
        ops=("linear", "attention"),
        written_out=True,
    ),
    Products("timm.patches", f"{_MODELS}.twins:PatchEmbed", ops=("patch_embed",)),
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
