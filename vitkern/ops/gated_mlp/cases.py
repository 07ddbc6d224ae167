"""Shapes of ``gated_mlp``: real models, tails of tiles, edges."""

from __future__ import annotations

import torch

from vitkern.ops import _cases
from vitkern.ops._cpu import ACTIVATIONS
from vitkern.ops.gated_mlp.call import GatedMlpCall
from vitkern.ops.mlp import cases as mlp


class Case(mlp.Case):
    """As of ``mlp``: ``dims`` are K, H and N, so that ``weight1`` is (2*H, K)."""


def _model(name: str, rows: tuple[int, ...], dims: tuple[int, int, int], **options: bool) -> Case:
    return Case(name=name, tags=("model",), rows=rows, dims=dims, activation="silu", **options)


def _edge(name: str, rows: tuple[int, ...], dims: tuple[int, int, int], **options: object) -> Case:
    return Case(
        name=name, tags=("edge",), rows=rows, dims=dims,
        **({"activation": "silu"} | options),  # type: ignore[arg-type]
    )  # fmt: skip


_T = (1, 2, 7, 8, 13, 16, 31, 33, 48, 97)
# Rows and the three widths, each size in each place.
_TAILS = [
    (m, (_T[-1 - i], _T[(i * 3 + 2) % len(_T)], _T[(i * 7 + 5) % len(_T)]))
    for i, m in enumerate(_T)
]

CASES: tuple[Case, ...] = (
    _model("dinov2-g", (1, 257), (1536, 4096, 1536), gamma=True),
    _model("eva02-b", (1, 257), (768, 2048, 768)),
    _model("eva02-ti", (1, 257), (192, 512, 192)),
    _model("dinov3-h-plus", (1, 201), (1280, 5120, 1280), gamma=True),
    *(
        Case(
            name=f"{m}x{'x'.join(map(str, dims))}", tags=("tail",), rows=(m,), dims=dims,
            bias1=i % 3 != 2, bias2=i % 5 != 4, activation=ACTIVATIONS[4 - i % 5],
            gamma=i % 4 == 1, residual=i % 2 == 1,
        )
        for i, (m, dims) in enumerate(_TAILS)
    ),
    *(
        _edge(f"{activation}-all", (3, 19), (40, 50, 41), activation=activation, gamma=True)
        for activation in ACTIVATIONS
    ),
    _edge("long-m", (1543,), (8, 9, 7), gamma=True, residual=False),
    _edge("long-k", (7,), (1543, 13, 9), residual=False),
    _edge("wide", (65,), (16, 200, 24), gamma=True),
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
) -> GatedMlpCall:
    """The tensors of a case; weights are scaled so that the products are of unit size."""
    call = GatedMlpCall._make(mlp.make(case, dtype, device, generator))
    normal = _cases.Normal(dtype, device, generator)
    inputs, hidden, _ = case.dims
    return call._replace(
        weight1=normal(2 * hidden, inputs, std=inputs**-0.5),
        bias1=normal(2 * hidden, std=0.5) if case.bias1 else None,
    )
