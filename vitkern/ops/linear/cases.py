"""Shapes of ``linear``: real models, tails of tiles, edges."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vitkern.ops import _cases
from vitkern.ops._cpu import ACTIVATIONS
from vitkern.ops.linear.call import LinearCall


@dataclass(frozen=True, kw_only=True)
class Case(_cases.Case):
    """``rows`` (...), ``inputs`` K and ``outputs`` N, and what follows the product."""

    rows: tuple[int, ...]
    inputs: int
    outputs: int
    bias: bool = True
    activation: str | None = None
    gamma: bool = False
    residual: bool = False


def _model(name: str, rows: tuple[int, ...], inputs: int, outputs: int, **options: object) -> Case:
    return Case(
        name=name, tags=("model",), rows=rows, inputs=inputs, outputs=outputs,
        **options,  # type: ignore[arg-type]
    )  # fmt: skip


def _edge(name: str, rows: tuple[int, ...], inputs: int, outputs: int, **options: object) -> Case:
    return Case(
        name=name, tags=("edge",), rows=rows, inputs=inputs, outputs=outputs,
        **options,  # type: ignore[arg-type]
    )  # fmt: skip


def _transformer(name: str, rows: tuple[int, ...], dim: int) -> tuple[Case, ...]:
    """The four linear layers of a block."""
    return (
        _model(f"{name}-qkv", rows, dim, 3 * dim),
        _model(f"{name}-proj", rows, dim, dim, residual=True),
        _model(f"{name}-fc1", rows, dim, 4 * dim, activation="gelu"),
        _model(f"{name}-fc2", rows, 4 * dim, dim, residual=True),
    )


# Rows, inputs and outputs that tiles do not divide, each size in each place.
_TAILS = [
    (m, _cases.TAILS[-1 - i], _cases.TAILS[(i * 8 + 3) % len(_cases.TAILS)])
    for i, m in enumerate(_cases.TAILS)
]

CASES: tuple[Case, ...] = (
    *_transformer("vit-ti", (1, 197), 192),
    *_transformer("vit-s", (1, 197), 384),
    *_transformer("vit-b", (1, 197), 768),
    *_transformer("vit-b-batch8", (8, 197), 768),
    *_transformer("vit-l", (1, 197), 1024),
    Case(
        name="vit-b-batch64-fc2", tags=("batch",), rows=(64, 197), inputs=3072, outputs=768,
        residual=True,
    ),
    _model("vit-b-head", (1,), 768, 1000),
    _model("cait-s-proj", (1, 196), 384, 384, gamma=True, residual=True),
    *(
        case
        for size, dim in (("t", 96), ("b", 128))
        for stage in range(4)
        for case in _transformer(
            f"swin-{size}-stage{stage}", (1, 56 >> stage, 56 >> stage), dim << stage
        )
    ),
    *(
        _model(f"swin-t-merge{s}", (1, 28 >> s, 28 >> s), 384 << s, 192 << s, bias=False)
        for s in range(3)
    ),
    _model("detr-fc1", (1, 850), 256, 2048, activation="relu"),
    _model("detr-fc2", (1, 850), 2048, 256, residual=True),
    _model("detr-class", (1, 100), 256, 92),
    *(
        Case(
            name=f"{m}x{n}x{k}", tags=("tail",), rows=(m,), inputs=k, outputs=n,
            bias=i % 3 != 2, activation=ACTIVATIONS[i % len(ACTIVATIONS)],
            gamma=i % 4 == 1, residual=i % 2 == 1,
        )
        for i, (m, k, n) in enumerate(_TAILS)
    ),
    *(
        _edge(f"{name}-all", (3, 19), 40, 50, activation=name, gamma=True, residual=True)
        for name in ACTIVATIONS
    ),
    _edge("long-k", (7,), 1543, 17),
    _edge("long-n", (2,), 13, 1543, activation="gelu"),
    _edge("long-m", (1543,), 13, 7),
    _edge("gamma-only", (9,), 16, 24, gamma=True, bias=False),
    _edge("vector", (), 24, 33, activation="silu"),
    _edge("no-rows", (0, 197), 48, 64, activation="gelu", gamma=True),
    _edge("no-inputs", (5,), 0, 8),
    _edge("no-outputs", (5,), 8, 0),
)  # fmt: skip


def make(
    case: Case,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> LinearCall:
    """The tensors of a case; weights are scaled so that the products are of unit size."""
    normal = _cases.Normal(dtype, device, generator)
    return LinearCall(
        x=normal(*case.rows, case.inputs),
        weight=normal(case.outputs, case.inputs, std=max(case.inputs, 1) ** -0.5),
        bias=normal(case.outputs) if case.bias else None,
        activation=case.activation,
        gamma=normal(case.outputs, std=0.5) if case.gamma else None,
        residual=normal(*case.rows, case.outputs) if case.residual else None,
    )
