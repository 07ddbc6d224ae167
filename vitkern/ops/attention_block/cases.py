"""Shapes of ``attention_block``: real models, tails of tiles, edges."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vitkern.ops import _cases
from vitkern.ops.attention_block.call import AttentionBlockCall


@dataclass(frozen=True, kw_only=True)
class Case(_cases.Case):
    """Sizes, and which of the optional tensors there are; ``wide_norm``: its dtype is float32."""

    batch: int
    length: int
    heads: int
    head_dim: int
    affine: bool = True
    wide_norm: bool = False
    bias: bool = True
    gamma: bool = False
    eps: float = 1e-6
    scale: float | None = None


def _model(name: str, batch: int, length: int, heads: int, **options: bool) -> Case:
    return Case(
        name=name, tags=("model",), batch=batch, length=length, heads=heads, head_dim=64,
        **options,
    )  # fmt: skip


def _small(
    tag: str, name: str, batch: int, length: int, heads: int, head_dim: int, **options: object
) -> Case:
    return Case(
        name=name, tags=(tag,), batch=batch, length=length, heads=heads, head_dim=head_dim,
        **options,  # type: ignore[arg-type]
    )  # fmt: skip


CASES: tuple[Case, ...] = (
    _model("vit-ti", 1, 197, 3),
    _model("vit-s", 1, 197, 6),
    _model("vit-b", 1, 197, 12),
    _model("vit-b-batch8", 8, 197, 12),
    _model("vit-b-384", 1, 577, 12),
    _model("vit-l", 1, 197, 16),
    _model("deit3-s", 1, 197, 6, gamma=True),
    *(
        _small("tail", f"length{n}", 2, n, 2, 8, gamma=i % 2 == 0, bias=i % 3 != 2)
        for i, n in enumerate(_cases.TAILS)
    ),
    *(
        _small("tail", f"{heads}x{d}", 1, 19, heads, d, affine=i % 4 != 3, gamma=i % 2 == 1)
        for i, (heads, d) in enumerate(
            ((1, 1), (3, 1), (1, 7), (3, 5), (5, 3), (3, 15), (1, 17), (3, 33), (1, 49), (2, 97))
        )
    ),
    _small("edge", "no-images", 0, 19, 2, 16, gamma=True),
    _small("edge", "no-tokens", 3, 0, 2, 16),
    _small("edge", "all", 3, 23, 3, 16, gamma=True, scale=0.3, eps=1e-3),
    _small("edge", "wide-norm", 2, 23, 3, 11, gamma=True, wide_norm=True),
    _small("edge", "products-only", 2, 23, 2, 24, affine=False, bias=False),
    _small("edge", "large-eps", 2, 9, 2, 8, eps=0.5),
    _small("edge", "some-images-a-task", 7, 30, 2, 16, gamma=True),
)  # fmt: skip


def make(
    case: Case,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> AttentionBlockCall:
    """The tensors of a case; weights are scaled so that the products are of unit size."""
    normal = _cases.Normal(dtype, device, generator)
    width = case.heads * case.head_dim
    norm = _cases.Normal(torch.float32 if case.wide_norm else dtype, device, generator)
    return AttentionBlockCall(
        x=normal(case.batch, case.length, width, std=2.0, mean=0.5),
        norm_weight=norm(width, std=0.2, mean=1.0) if case.affine else None,
        norm_bias=norm(width, std=0.2) if case.affine else None,
        qkv_weight=normal(3 * width, width, std=width**-0.5),
        qkv_bias=normal(3 * width, std=0.5) if case.bias else None,
        proj_weight=normal(width, width, std=width**-0.5),
        proj_bias=normal(width, std=0.5) if case.bias else None,
        gamma=normal(width, std=0.5) if case.gamma else None,
        num_heads=case.heads,
        eps=case.eps,
        scale=case.head_dim**-0.5 if case.scale is None else case.scale,
    )
