"""Shapes of ``layer_norm``: real models, tails of tiles, edges."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vitkern.ops import _cases
from vitkern.ops.layer_norm.call import LayerNormCall


@dataclass(frozen=True, kw_only=True)
class Case(_cases.Case):
    """``shape`` (..., C), and which of the optional tensors there are."""

    shape: tuple[int, ...]
    affine: bool = True
    residual: bool = False
    drop_path: bool = False
    eps: float = 1e-6


def _model(name: str, *shape: int, **options: bool) -> Case:
    return Case(name=name, tags=("model",), shape=shape, **options)


def _edge(name: str, *shape: int, **options: bool) -> Case:
    return Case(name=name, tags=("edge",), shape=shape, **options)


CASES: tuple[Case, ...] = (
    _model("vit-ti", 1, 197, 192),
    _model("vit-s", 1, 197, 384),
    _model("vit-b", 1, 197, 768),
    _model("vit-b-residual", 1, 197, 768, residual=True),
    _model("vit-b-batch8", 8, 197, 768),
    _model("vit-l", 1, 197, 1024),
    _model("deit-distilled-b", 1, 198, 768),
    _model("vit-b-drop-path", 8, 197, 768, residual=True, drop_path=True),
    *(
        _model(f"swin-{size}-stage{stage}", 1, 56 >> stage, 56 >> stage, dim << stage)
        for size, dim in (("t", 96), ("b", 128))
        for stage in range(4)
    ),
    *(_model(f"swin-t-merge{s}", 1, 28 >> s, 28 >> s, 384 << s) for s in range(3)),
    _model("detr-encoder", 1, 850, 256, residual=True),
    _model("detr-queries", 2, 100, 256, residual=True),
    *(
        Case(name=f"width{c}", tags=("tail",), shape=(5, c), residual=i % 2 == 1)
        for i, c in enumerate(_cases.TAILS)
    ),
    *(Case(name=f"rows{n}", tags=("tail",), shape=(n, 33)) for n in (1, 2, 47, 97, 193)),
    _edge("no-rows", 0, 197, 48),
    _edge("no-rows-residual", 3, 0, 48, residual=True),
    _edge("vector", 40),
    _edge("drop-path", 5, 13, 33, residual=True, drop_path=True),
    _edge("drop-path-rows", 7, 48, affine=False, residual=True, drop_path=True),
    _edge("drop-path-map", 2, 3, 5, 17, residual=True, drop_path=True),
    _edge("drop-path-no-rows", 0, 3, 24, residual=True, drop_path=True),
    _edge("plain", 3, 50, 96, affine=False),
    _edge("plain-residual", 3, 50, 97, affine=False, residual=True),
    Case(name="large-eps", tags=("edge",), shape=(7, 24), eps=0.5),
)


def make(
    case: Case,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> LayerNormCall:
    """The tensors of a case; x has a mean that is not zero, as activations do."""
    normal = _cases.Normal(dtype, device, generator)
    width = case.shape[-1]
    return LayerNormCall(
        x=normal(*case.shape, std=2.0, mean=0.5),
        weight=normal(width, std=0.2, mean=1.0) if case.affine else None,
        bias=normal(width, std=0.2) if case.affine else None,
        eps=case.eps,
        residual=normal(*case.shape) if case.residual else None,
        # Some are dropped, as by DropPath; the others have a number of their own, which it has not.
        residual_scale=normal(case.shape[0], mean=0.7).relu() if case.drop_path else None,
    )
