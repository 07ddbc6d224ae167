"""The models of ``vitkern coverage``: of each family of each library a small one, random weights.

timm: the smallest member (or nearly) of every family with attention or transformer MLPs, at its own
width and depth but for some that are made shallower, on images of 224 to 256 pixels. torchvision
and PyTorch: their transformers. Hugging Face: small configurations, of real widths and few layers;
see ``coverage_huggingface``.
"""

from __future__ import annotations

import fnmatch
import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from vitkern.bench import coverage_huggingface
from vitkern.bench.coverage import Subject

__all__ = ["CHANNELS_LAST", "choose", "subjects"]

# name -> image size. The families that timm builds of attention and MLPs.
_TIMM = {
    "vit_tiny_patch16_224": 224,
    "deit_tiny_patch16_224": 224,
    "deit3_small_patch16_224": 224,
    "vit_small_patch14_dinov2": 224,
    "vit_small_patch14_reg4_dinov2": 224,
    "vit_base_patch32_clip_224": 224,
    "vit_base_patch16_siglip_224": 224,
    "vit_relpos_small_patch16_224": 224,
    "vit_srelpos_small_patch16_224": 224,
    "samvit_base_patch16_224": 224,
    "naflexvit_base_patch16_gap": 224,
    "flexivit_small": 240,
    "beit_base_patch16_224": 224,
    "beitv2_base_patch16_224": 224,
    "eva02_tiny_patch14_224": 224,
    "vit_small_patch16_rope_224": 224,
    "vit_small_patch16_dinov3": 224,
    "cait_xxs24_224": 224,
    "xcit_nano_12_p16_224": 224,
    "convit_tiny": 224,
    "crossvit_tiny_240": 240,
    "coat_lite_tiny": 224,
    "coat_tiny": 224,
    "pit_ti_224": 224,
    "tnt_s_patch16_224": 224,
    "twins_pcpvt_small": 224,
    "twins_svt_small": 224,
    "pvt_v2_b0": 224,
    "volo_d1_224": 224,
    "levit_128s": 224,
    "nest_tiny": 224,
    "visformer_tiny": 224,
    "swin_tiny_patch4_window7_224": 224,
    "swinv2_tiny_window8_256": 256,
    "swinv2_cr_tiny_224": 224,
    "davit_tiny": 224,
    "gcvit_xxtiny": 224,
    "hiera_tiny_224": 224,
    "sam2_hiera_tiny": 224,
    "mvitv2_tiny": 224,
    "maxvit_tiny_rw_224": 224,
    "coatnet_nano_rw_224": 224,
    "tiny_vit_5m_224": 224,
    "mixer_s32_224": 224,
    "gmlp_s16_224": 224,
    "caformer_s18": 224,
    "vitamin_small_224": 224,
    "aimv2_large_patch14_224": 224,
}
# Mostly convolutions, with attention or MLPs in places: shown, but no goal is about them.
_TIMM_HYBRID = {
    "vit_small_r26_s32_224": 224,
    "poolformerv2_s12": 224,
    "focalnet_tiny_srf": 224,
    "convnext_atto": 224,
    "mobilevit_xxs": 256,
    "mobilevitv2_050": 256,
    "edgenext_xx_small": 256,
    "efficientformer_l1": 224,
    "efficientformerv2_s0": 224,
    "efficientvit_b0": 224,
    "efficientvit_m0": 224,
    "fastvit_sa12": 256,
    "nextvit_small": 224,
    "swiftformer_xs": 224,
    "inception_next_atto": 224,
    "botnet26t_256": 256,
    "resnet18": 224,
}
# Run with channels last in memory, eager too: PyTorch's 1x1 convolutions are as fast or faster so.
CHANNELS_LAST = coverage_huggingface.CHANNELS_LAST | {
    "timm/visformer_tiny", "timm/gcvit_xxtiny", "timm/maxvit_tiny_rw_224",
    "timm/coatnet_nano_rw_224", "timm/tiny_vit_5m_224", "timm/caformer_s18",
    "timm/vitamin_small_224", "torchvision/maxvit_t",
}  # fmt: skip
_OVERRIDES: dict[str, dict[str, Any]] = {
    "vit_small_patch14_dinov2": {"img_size": 224},
    "vit_small_patch14_reg4_dinov2": {"img_size": 224},
    "vit_small_patch16_dinov3": {"img_size": 224},
    "aimv2_large_patch14_224": {"depth": 2, "embed_dim": 512, "num_heads": 4},
    "beit_base_patch16_224": {"depth": 6, "embed_dim": 384, "num_heads": 6},
    "beitv2_base_patch16_224": {"depth": 6, "embed_dim": 384, "num_heads": 6},
    "cait_xxs24_224": {"depth": 6},
    "convit_tiny": {"depth": 6},
    "davit_tiny": {"depths": (1, 1, 2, 1)},
    "hiera_tiny_224": {"stages": (1, 2, 3, 2)},
    "maxvit_tiny_rw_224": {"depths": (1, 1, 2, 1)},
    "sam2_hiera_tiny": {"num_classes": 10},
    "swinv2_cr_tiny_224": {"depths": (2, 2, 2, 2)},
    "swinv2_tiny_window8_256": {"depths": (2, 2, 2, 2)},
    "tnt_s_patch16_224": {"depth": 6},
    "twins_pcpvt_small": {"depths": (2, 2, 3, 2)},
    "twins_svt_small": {"depths": (2, 2, 4, 2)},
}
_TORCHVISION = {"vit_b_32": 224, "swin_t": 224, "swin_v2_t": 256, "maxvit_t": 224}
_OURS = {"vit_tiny_patch16_224": 224, "swin_tiny_patch4_window7_224": 224}


def _timm(name: str) -> nn.Module:
    import timm

    model: nn.Module = timm.create_model(name, pretrained=False, **_OVERRIDES.get(name, {}))
    return model


def _torchvision(name: str) -> nn.Module:
    import torchvision

    model: nn.Module = getattr(torchvision.models, name)(weights=None)
    return model


def _ours(name: str) -> nn.Module:
    from vitkern import models

    model: nn.Module = models.create_model(name)
    return model


class _Encoder(nn.Module):
    """``nn.TransformerEncoder`` on the pixels' patches: PyTorch's own layers, encoder or decoder.

    Args:
        decoder: a decoder's cross attention from the patches to the encoded ones, too.
    """

    def __init__(self, decoder: bool) -> None:
        super().__init__()
        width, heads = 192, 4
        self.patches = nn.Conv2d(3, width, 16, 16)
        layer = nn.TransformerEncoderLayer(width, heads, 768, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.decoder = None
        if decoder:
            one = nn.TransformerDecoderLayer(width, heads, 768, batch_first=True, activation="gelu")
            self.decoder = nn.TransformerDecoder(one, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x: torch.Tensor = self.patches(images).flatten(2).transpose(1, 2)
        y: torch.Tensor = self.encoder(x)
        return y if self.decoder is None else self.decoder(x, y)


def _square(size: int) -> tuple[int, int, int]:
    return (3, size, size)


def subjects() -> list[Subject]:
    """All models of the libraries that are installed."""
    found: list[Subject] = []

    def add(library: str, build: Callable[[str], nn.Module], table: dict[str, int],
            transformer: bool = True) -> None:  # fmt: skip
        for name, size in table.items():
            full = f"{library}/{name}"
            last = full in CHANNELS_LAST or not transformer
            one = Subject(
                full, partial(build, name), _square(size), transformer, channels_last=last
            )
            found.append(one)

    if importlib.util.find_spec("timm") is not None:
        add("timm", _timm, _TIMM)
        add("timm", _timm, _TIMM_HYBRID, transformer=False)
    if importlib.util.find_spec("torchvision") is not None:
        add("torchvision", _torchvision, _TORCHVISION)
    found.append(Subject("torch/encoder", partial(_Encoder, False), _square(224)))
    found.append(Subject("torch/encoder-decoder", partial(_Encoder, True), _square(224)))
    if importlib.util.find_spec("transformers") is not None:
        found.extend(coverage_huggingface.huggingface())
    add("vitkern", _ours, _OURS)
    return found


def choose(patterns: Sequence[str]) -> list[Subject]:
    """The models whose names match one of the shell patterns; all where there are none.

    A pattern without a slash is matched with the part of a name after the slash, too.

    Raises:
        ValueError: a pattern that matches nothing.
    """
    every = subjects()
    if not patterns:
        return every
    wanted: set[str] = set()
    for pattern in patterns:
        names = {
            one.name
            for one in every
            if fnmatch.fnmatchcase(one.name, pattern)
            or fnmatch.fnmatchcase(one.name.partition("/")[2], pattern)
        }
        if not names:
            libraries = ", ".join(dict.fromkeys(one.library for one in every))
            raise ValueError(
                f"models: no model matches {pattern!r}; names are library/model, with the"
                f" libraries {libraries} (see vitkern coverage --list)"
            )
        wanted |= names
    return [one for one in every if one.name in wanted]
