"""Single layers, and small models, of classes that no family in ``families`` has."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import timm.layers
import timm.models
import torch
import torchvision
import transformers
from timm.models import mvitv2
from torch import nn
from transformers.models.sam.modeling_sam import SamAttention

from tests.patching.families import Family, hf


class Called(nn.Module):
    """A layer that is called with more than its input."""

    def __init__(self, layer: nn.Module, call: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.layer = layer
        self.call = call

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Whatever ``call`` gives."""
        return self.call(self.layer, x)


def _of(package: str, name: str) -> Any:
    return getattr(getattr(timm.models, package), name)


_TOKENS = (2, 9, 48)
_MAP = (2, 4, 4, 48)
_CHANNELS_FIRST = (2, 48, 4, 4)


def _layer(package: str, name: str, size: tuple[int, ...], *args: Any, **options: Any) -> Family:
    source = timm.layers if package == "layers" else getattr(timm.models, package)
    return Family(partial(getattr(source, name), *args, **options), size, (name,))


def _channels_last(package: str, name: str, *args: Any, **options: Any) -> Family:
    """A layer for (B, C, H, W) images, whose 1x1 convolutions are ours with channels last."""
    build = partial(_of(package, name), *args, **options)
    return Family(
        lambda: Called(build(), lambda m, x: m(x.permute(0, 3, 1, 2))), _MAP, (name, "Conv2d")
    )


def _multi_scale() -> nn.Module:
    config = mvitv2.MultiScaleVitCfg(
        depths=(1, 1), embed_dim=(16, 32), num_heads=(1, 2),
        kernel_qkv=(3, 3), stride_q=((1, 1), (2, 2)), stride_kv=((2, 2), (1, 1)),
    )  # fmt: skip
    return timm.models.MultiScaleVit(config, img_size=(32, 32), num_classes=5)


def _sam_attention() -> nn.Module:
    config = transformers.SamMaskDecoderConfig(hidden_size=48, num_attention_heads=3)
    config._attn_implementation = "sdpa"
    return Called(SamAttention(config), lambda m, x: m(x[:, None], x[:, None], x[:, None])[0])


def _trained_in_place(package: str, **options: Any) -> nn.Module:
    """An attention whose ``train`` returns nothing."""
    cls = _of(package, "Attention")
    layer = cls(48, key_dim=16, num_heads=3, attn_ratio=1, **options)
    return Called(layer, lambda m, x: m(x))


def _global_context() -> nn.Module:
    cls = _of("gcvit", "WindowAttentionGlobal")
    layer = cls(48, num_heads=3, window_size=(3, 3), use_global=True)
    return Called(layer, lambda m, x: m(x, x[:1]))


PARTS: dict[str, Family] = {
    "attention-pool": _layer("layers", "AttentionPoolLatent", _TOKENS, 48, num_heads=3),
    "attention-pool-2d": _layer(
        "layers", "AttentionPool2d", _CHANNELS_FIRST, 48, feat_size=4, num_heads=3
    ),
    "attention-pool-2d-rotary": _layer(
        "layers", "RotAttentionPool2d", _CHANNELS_FIRST, 48, ref_feat_size=4, num_heads=3
    ),
    "diff": _layer("layers", "DiffAttention", _TOKENS, 48, num_heads=3),
    "grn-mlp": _layer("layers", "GlobalResponseNormMlp", _MAP, 48, 96),
    "glu-mlp": _layer("layers", "GluMlp", _TOKENS, 48, 96),
    "convit-gpsa": _layer("convit", "GPSA", _TOKENS, 48, num_heads=3),
    "convit-mhsa": _layer("convit", "MHSA", _TOKENS, 48, num_heads=3),
    "crossvit": _layer("crossvit", "CrossAttention", _TOKENS, 48, num_heads=3),
    "davit-channels": _layer("davit", "ChannelAttentionV2", _TOKENS, 48, num_heads=3),
    "edgenext": _layer("edgenext", "CrossCovarianceAttn", _TOKENS, 48, num_heads=3),
    "efficientformer": Family(
        partial(_trained_in_place, "efficientformer", resolution=3), _TOKENS, ("Attention",)
    ),
    "gcvit": _layer("gcvit", "WindowAttentionGlobal", _TOKENS, 48, num_heads=3, window_size=(3, 3),
                    use_global=False),
    "gcvit-global": Family(_global_context, _TOKENS, ("WindowAttentionGlobal",)),
    "hiera-sam2": _layer("hieradet_sam2", "MultiScaleAttention", _MAP, 48, 48, num_heads=3),
    "maxxvit": _layer("maxxvit", "AttentionCl", _MAP, 48, 48, dim_head=16),
    "maxxvit-2d": _channels_last("maxxvit", "Attention2d", 48, 48, dim_head=16),
    "mlp-other-activation": _layer("layers", "Mlp", _TOKENS, 48, 96, act_layer=nn.ELU),
    "pointwise": Family(
        lambda: Called(nn.Conv2d(48, 24, 1), lambda m, x: m(x.permute(0, 3, 1, 2))), _MAP,
        ("Conv2d",),
    ),
    "visformer": _channels_last("visformer", "Attention", 48, num_heads=3),
    "metaformer": _layer("metaformer", "Attention", _TOKENS, 48, head_dim=16),
    "metaformer-head": _layer("metaformer", "MlpHead", (2, 48), 48, 5),
    "tiny-vit": Family(
        partial(_trained_in_place, "tiny_vit", resolution=(3, 3)), _TOKENS, ("Attention",)
    ),
    "tiny-vit-mlp": _layer("tiny_vit", "NormMlp", _TOKENS, 48, 96),
    "tnt": _layer("tnt", "Attention", _TOKENS, 48, 48, num_heads=3),
    "vitamin-mlp": _layer("vitamin", "GeGluMlp", _TOKENS, 48, 96),
    "volo": _layer("volo", "Attention", _MAP, 48, num_heads=3),
    "volo-class": _layer("volo", "ClassAttention", _TOKENS, 48, num_heads=3),
    "volo-outlook": _layer("volo", "OutlookAttention", _MAP, 48, num_heads=3),
    "coat": Family(
        partial(timm.models.CoaT, img_size=64, patch_size=4, embed_dims=(16,) * 4,
                serial_depths=(1,) * 4, parallel_depth=0, num_heads=8, mlp_ratios=(2,) * 4,
                num_classes=5),
        (1, 3, 64, 64), ("FactorAttnConvRelPosEnc", "Mlp"),
    ),
    "mvit": Family(_multi_scale, (1, 3, 32, 32), ("MultiScaleAttention", "Mlp")),
    "torchvision-maxvit": Family(
        partial(torchvision.models.MaxVit, (32, 32), 8, 4, [8, 8], [1, 1], 4, 0.0),
        (2, 3, 32, 32), ("PartitionAttentionLayer",),
    ),
    "hf-dinov2-registers": Family(
        partial(hf, "Dinov2WithRegistersConfig", "Dinov2WithRegistersModel", image_size=32,
                patch_size=8, hidden_size=48, num_hidden_layers=2, num_attention_heads=3),
        (2, 3, 32, 32),
        ("Dinov2WithRegistersAttention", "Dinov2WithRegistersMLP"),
    ),
    "hf-sam-attention": Family(_sam_attention, _TOKENS, ("SamAttention",)),
}  # fmt: skip
