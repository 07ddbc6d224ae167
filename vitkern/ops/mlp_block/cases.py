"""Shapes of ``mlp_block``: real models, tails of tiles, edges."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vitkern.ops import _cases
from vitkern.ops._cpu import ACTIVATIONS
from vitkern.ops.mlp_block.call import MlpBlockCall


@dataclass(frozen=True, kw_only=True)
class Case(_cases.Case):
    """``rows`` (...), the widths C and H, the optional tensors; ``wide_norm``: a float32 norm."""

    rows: tuple[int, ...]
    width: int
    hidden: int
    affine: bool = True
    wide_norm: bool = False
    bias1: bool = True
    bias2: bool = True
    gamma: bool = False
    activation: str | None = "gelu"
    eps: float = 1e-6


def _model(name: str, rows: tuple[int, ...], width: int, **options: bool) -> Case:
    return Case(
        name=name, tags=("model",), rows=rows, width=width, hidden=4 * width,
        **options,  # type: ignore[arg-type]
    )  # fmt: skip


def _edge(name: str, rows: tuple[int, ...], width: int, hidden: int, **options: object) -> Case:
    return Case(
        name=name, tags=("edge",), rows=rows, width=width, hidden=hidden,
        **options,  # type: ignore[arg-type]
    )  # fmt: skip


_T = _cases.TAILS
# Rows and the two widths, each size in each place.
_TAILS = [(m, _T[-1 - i], _T[(i * 8 + 3) % len(_T)]) for i, m in enumerate(_T)]

CASES: tuple[Case, ...] = (
    _model("vit-ti", (1, 197), 192),
    _model("vit-s", (1, 197), 384),
    _model("vit-b", (1, 197), 768),
    _model("vit-b-batch8", (8, 197), 768),
    _model("vit-l", (1, 197), 1024),
    _model("deit3-s", (1, 197), 384, gamma=True),
    *(
        _model(f"swin-{size}-stage{stage}", (1, 56 >> stage, 56 >> stage), dim << stage)
        for size, dim in (("t", 96), ("b", 128))
        for stage in range(4)
    ),
    *(
        Case(
            name=f"{m}x{width}x{hidden}", tags=("tail",), rows=(m,), width=width, hidden=hidden,
            affine=i % 4 != 3, bias1=i % 3 != 2, bias2=i % 5 != 4, gamma=i % 2 == 1,
            activation=ACTIVATIONS[i % len(ACTIVATIONS)],
        )
        for i, (m, width, hidden) in enumerate(_TAILS)
    ),
    *(
        _edge(f"{activation}-all", (3, 19), 40, 50, activation=activation, gamma=True)
        for activation in ACTIVATIONS
    ),
    _edge("wide-norm", (2, 19), 33, 50, wide_norm=True, gamma=True),
    _edge("long-hidden", (7,), 13, 1543),
    _edge("long-m", (1543,), 9, 8),
    _edge("products-only", (11,), 16, 24, affine=False, bias1=False, bias2=False),
    _edge("large-eps", (11,), 16, 24, eps=0.5),
    _edge("vector", (), 24, 96),
    _edge("no-rows", (0, 197), 48, 192, gamma=True),
    _edge("no-hidden", (5,), 8, 0),
)  # fmt: skip


def make(
    case: Case,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> MlpBlockCall:
    """The tensors of a case; weights are scaled so that the products are of unit size."""
    normal = _cases.Normal(dtype, device, generator)
    width, hidden = case.width, case.hidden
    norm = _cases.Normal(torch.float32 if case.wide_norm else dtype, device, generator)
    return MlpBlockCall(
        x=normal(*case.rows, width, std=2.0, mean=0.5),
        norm_weight=norm(width, std=0.2, mean=1.0) if case.affine else None,
        norm_bias=norm(width, std=0.2) if case.affine else None,
        weight1=normal(hidden, width, std=width**-0.5),
        bias1=normal(hidden, std=0.5) if case.bias1 else None,
        weight2=normal(width, hidden, std=max(hidden, 1) ** -0.5),
        bias2=normal(width, std=0.5) if case.bias2 else None,
        gamma=normal(width, std=0.5) if case.gamma else None,
        activation=case.activation,
        eps=case.eps,
    )
