"""Shapes of ``mlp``: real models, tails of tiles, edges."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vitkern.ops import _cases
from vitkern.ops._cpu import ACTIVATIONS
from vitkern.ops.mlp.call import MlpCall


@dataclass(frozen=True, kw_only=True)
class Case(_cases.Case):
    """``rows`` (...), the widths K, H and N of ``dims``, and what follows the products."""

    rows: tuple[int, ...]
    dims: tuple[int, int, int]
    bias1: bool = True
    bias2: bool = True
    activation: str | None = "gelu"
    gamma: bool = False
    residual: bool = True


def _model(name: str, rows: tuple[int, ...], dim: int, **options: bool) -> Case:
    return Case(
        name=name, tags=("model",), rows=rows, dims=(dim, 4 * dim, dim),
        **options,  # type: ignore[arg-type]
    )  # fmt: skip


def _edge(name: str, rows: tuple[int, ...], dims: tuple[int, int, int], **options: object) -> Case:
    return Case(
        name=name, tags=("edge",), rows=rows, dims=dims,
        **options,  # type: ignore[arg-type]
    )  # fmt: skip


_T = _cases.TAILS
# Rows and the three widths, each size in each place.
_TAILS = [
    (m, (_T[-1 - i], _T[(i * 8 + 3) % len(_T)], _T[(i * 5 + 7) % len(_T)]))
    for i, m in enumerate(_T)
]

CASES: tuple[Case, ...] = (
    _model("vit-ti", (1, 197), 192),
    _model("vit-s", (1, 197), 384),
    _model("vit-b", (1, 197), 768),
    _model("vit-b-batch8", (8, 197), 768),
    Case(name="vit-b-batch64", tags=("batch",), rows=(64, 197), dims=(768, 3072, 768)),
    Case(
        name="vit-b-batch64-scaled", tags=("batch",), rows=(64, 197), dims=(768, 3072, 768),
        gamma=True,
    ),
    _model("vit-l", (1, 197), 1024),
    _model("cait-s", (1, 196), 384, gamma=True),
    *(
        _model(f"swin-{size}-stage{stage}", (1, 56 >> stage, 56 >> stage), dim << stage)
        for size, dim in (("t", 96), ("b", 128))
        for stage in range(4)
    ),
    Case(
        name="detr", tags=("model",), rows=(1, 850), dims=(256, 2048, 256), activation="relu"
    ),
    *(
        Case(
            name=f"{m}x{'x'.join(map(str, dims))}", tags=("tail",), rows=(m,), dims=dims,
            bias1=i % 3 != 2, bias2=i % 5 != 4, activation=ACTIVATIONS[i % len(ACTIVATIONS)],
            gamma=i % 4 == 1, residual=i % 2 == 1,
        )
        for i, (m, dims) in enumerate(_TAILS)
    ),
    *(
        _edge(f"{activation}-all", (3, 19), (40, 50, 41), activation=activation, gamma=True)
        for activation in ACTIVATIONS
    ),
    _edge("long-hidden", (7,), (13, 1543, 9), residual=False),
    _edge("long-m", (1543,), (8, 9, 7), residual=False),
    # Enough rows for both gradients of a block of rows at a time.
    _edge("many-rows", (3201,), (23, 50, 9), gamma=True),
    _edge("many-rows-relu", (3074,), (8, 41, 16), bias1=False, activation="relu", residual=False),
    _edge("many-rows-wide", (2, 1031), (97, 33, 200), activation="gelu_tanh"),
    _edge("products-only", (11,), (16, 24, 16), bias1=False, bias2=False, residual=False),
    _edge("vector", (), (24, 96, 33)),
    _edge("no-rows", (0, 197), (48, 192, 48), gamma=True),
    _edge("no-hidden", (5,), (8, 0, 8)),
    _edge("no-outputs", (5,), (8, 12, 0)),
)  # fmt: skip


def make(
    case: Case,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> MlpCall:
    """The tensors of a case; weights are scaled so that the products are of unit size."""
    normal = _cases.Normal(dtype, device, generator)
    inputs, hidden, outputs = case.dims
    return MlpCall(
        x=normal(*case.rows, inputs),
        weight1=normal(hidden, inputs, std=inputs**-0.5),
        bias1=normal(hidden, std=0.5) if case.bias1 else None,
        weight2=normal(outputs, hidden, std=max(hidden, 1) ** -0.5),
        bias2=normal(outputs, std=0.5) if case.bias2 else None,
        activation=case.activation,
        gamma=normal(outputs, std=0.5) if case.gamma else None,
        residual=normal(*case.rows, outputs) if case.residual else None,
    )
