"""Shapes of ``patch_embed``: real models, tails of tiles, edges."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vitkern.ops import _cases
from vitkern.ops.patch_embed.call import PatchEmbedCall


@dataclass(frozen=True, kw_only=True)
class Case(_cases.Case):
    """``images`` (B, C, H, W), the ``patch`` (ph, pw) and the width ``dim`` of a token."""

    images: tuple[int, int, int, int]
    patch: tuple[int, int]
    dim: int
    bias: bool = True


def _model(name: str, size: int, patch: int, dim: int, batch: int = 1, channels: int = 3) -> Case:
    return Case(
        name=name, tags=("model",), images=(batch, channels, size, size),
        patch=(patch, patch), dim=dim,
    )  # fmt: skip


def _small(
    tag: str, name: str, batch: int, channels: int, grid: tuple[int, int],
    patch: tuple[int, int], dim: int, bias: bool = True,
) -> Case:  # fmt: skip
    return Case(
        name=name, tags=(tag,), dim=dim, patch=patch, bias=bias,
        images=(batch, channels, grid[0] * patch[0], grid[1] * patch[1]),
    )  # fmt: skip


CASES: tuple[Case, ...] = (
    _model("vit-ti16", 224, 16, 192),
    _model("vit-s16", 224, 16, 384),
    _model("vit-b16", 224, 16, 768),
    _model("vit-b16-batch8", 224, 16, 768, batch=8),
    _model("vit-b32", 224, 32, 768),
    _model("vit-l16", 224, 16, 1024),
    _model("vit-h14", 224, 14, 1280),
    _model("vit-b16-384", 384, 16, 768),
    _model("swin-t", 224, 4, 96),
    _model("swin-b", 224, 4, 128),
    _model("x-ray", 512, 16, 1024, channels=1),
    *(_small("tail", f"dim{d}", 2, 3, (3, 2), (4, 4), d) for d in (1, 5, 15, 16, 17, 31, 48, 49)),
    *(_small("tail", f"grid{n}", 1, 3, (n, 3), (4, 4), 24) for n in (1, 2, 5, 6, 7, 16, 17, 33)),
    *(_small("tail", f"channels{c}", 2, c, (3, 5), (3, 5), 13) for c in (1, 2, 4, 5, 13)),
    *(
        _small("tail", f"patch{h}x{w}", 2, 3, (4, 3), (h, w), 32, bias=h % 2 == 0)
        for h, w in ((1, 1), (1, 7), (2, 3), (5, 2), (7, 7), (8, 16), (14, 14), (16, 17), (33, 1))
    ),
    _small("edge", "no-images", 0, 3, (2, 2), (4, 4), 16),
    _small("edge", "one-patch", 1, 3, (1, 1), (16, 16), 48),
    _small("edge", "one-of-all", 1, 1, (1, 1), (1, 1), 1),
    _small("edge", "no-bias", 3, 3, (2, 5), (4, 4), 24, bias=False),
)


def make(
    case: Case,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> PatchEmbedCall:
    """The tensors of a case; weights are scaled so that the products are of unit size."""
    normal = _cases.Normal(dtype, device, generator)
    channels, (height, width) = case.images[1], case.patch
    return PatchEmbedCall(
        images=normal(*case.images),
        weight=normal(case.dim, channels, height, width, std=(channels * height * width) ** -0.5),
        bias=normal(case.dim) if case.bias else None,
    )
