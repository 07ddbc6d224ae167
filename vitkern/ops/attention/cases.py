"""Shapes of ``attention``: real models, tails of tiles, edges."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vitkern.ops import _cases
from vitkern.ops.attention.call import AttentionCall


@dataclass(frozen=True, kw_only=True)
class Case(_cases.Case):
    """Sizes, the ``bias``'s shape, and how many keys of each image the mask leaves over.

    ``kept`` is None for no mask, otherwise a count per image: its last keys are masked.
    """

    batch: int
    heads: int
    queries: int
    keys: int
    head_dim: int
    bias: tuple[int, ...] | None = None
    kept: tuple[int, ...] | None = None
    scale: float | None = None
    dropout_p: float = 0.0


def _self(tag: str, name: str, batch: int, heads: int, length: int, head_dim: int) -> Case:
    return Case(
        name=name, tags=(tag,), batch=batch, heads=heads, queries=length, keys=length,
        head_dim=head_dim,
    )  # fmt: skip


def _edge(
    name: str, batch: int, heads: int, queries: int, keys: int, head_dim: int, **options: object
) -> Case:
    return Case(
        name=name, tags=("edge",), batch=batch, heads=heads, queries=queries, keys=keys,
        head_dim=head_dim, **options,  # type: ignore[arg-type]
    )  # fmt: skip


CASES: tuple[Case, ...] = (
    _self("model", "vit-ti", 1, 3, 197, 64),
    _self("model", "vit-s", 1, 6, 197, 64),
    _self("model", "vit-b", 1, 12, 197, 64),
    _self("model", "vit-b-batch8", 8, 12, 197, 64),
    _self("model", "vit-b-384", 1, 12, 577, 64),
    _self("model", "vit-b32", 1, 12, 50, 64),
    _self("model", "vit-l", 1, 16, 197, 64),
    _self("model", "vit-h14", 1, 16, 257, 80),
    _self("model", "deit-distilled-b", 1, 12, 198, 64),
    _self("model", "vit-s-no-class", 1, 6, 196, 64),
    Case(
        name="detr-encoder", tags=("model",), batch=2, heads=8, queries=850, keys=850,
        head_dim=32, kept=(850, 600),
    ),
    _self("model", "detr-queries", 2, 8, 100, 32),
    Case(
        name="detr-cross", tags=("model",), batch=2, heads=8, queries=100, keys=850,
        head_dim=32, kept=(850, 600),
    ),
    Case(
        name="beit-b", tags=("model",), batch=1, heads=12, queries=197, keys=197, head_dim=64,
        bias=(12, 197, 197),
    ),
    *(_self("tail", f"length{n}", 2, 2, n, 24) for n in (1, 2, 5, 7, 8, 15, 16, 17, 31, 47, 48)),
    *(_self("tail", f"length{n}", 1, 2, n, 32) for n in (49, 50, 96, 97, 196, 197)),
    *(_self("tail", f"head_dim{d}", 1, 2, 19, d) for d in (1, 2, 3, 8, 15, 16, 17, 24, 32, 33)),
    *(_self("tail", f"head_dim{d}", 1, 2, 19, d) for d in (47, 49, 64, 80, 96, 128)),
    *(
        Case(
            name=f"cross{nq}x{nk}", tags=("tail",), batch=2, heads=3, queries=nq, keys=nk,
            head_dim=d, bias=(nq, nk) if nk % 2 else None,
        )
        for nq, nk, d in ((1, 50, 32), (50, 1, 32), (7, 49, 24), (49, 7, 33), (17, 97, 16),
                          (97, 31, 8), (13, 577, 20))
    ),
    _edge("no-images", 0, 3, 49, 49, 32),
    _edge("no-images-all", 0, 3, 7, 9, 8, bias=(1, 3, 7, 9), kept=()),
    _edge("no-queries", 2, 3, 0, 9, 16),
    _edge("no-keys", 2, 3, 9, 0, 16),
    _edge("no-keys-all", 2, 3, 9, 0, 16, bias=(9, 0), kept=(0, 0)),
    _edge("bias-of-pairs", 2, 3, 19, 23, 16, bias=(19, 23)),
    _edge("bias-of-heads", 2, 3, 19, 23, 16, bias=(3, 19, 23)),
    _edge("bias-of-all", 2, 3, 19, 23, 16, bias=(2, 3, 19, 23)),
    _edge("bias-of-images", 2, 3, 19, 23, 16, bias=(2, 1, 19, 23)),
    _edge("bias-of-keys", 2, 3, 19, 23, 16, bias=(2, 1, 1, 23)),
    _edge("bias-of-queries", 2, 3, 19, 23, 16, bias=(1, 3, 19, 1)),
    _edge("bias-of-one", 2, 3, 19, 23, 16, bias=(1, 1)),
    _edge("mask", 3, 2, 17, 29, 16, kept=(29, 1, 16)),
    _edge("mask-all", 3, 2, 17, 29, 16, kept=(5, 0, 28)),
    _edge("mask-bias", 3, 2, 17, 29, 16, kept=(5, 0, 28), bias=(2, 17, 29)),
    _edge("scale", 1, 2, 19, 19, 16, scale=0.3),
    _edge("dropout", 2, 3, 33, 49, 16, dropout_p=0.25),
    _edge("dropout-all", 2, 2, 50, 31, 24, dropout_p=0.6, kept=(0, 20), bias=(2, 50, 31)),
)  # fmt: skip


def make(
    case: Case,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> AttentionCall:
    """The tensors of a case, laid out as a model does: views of (B, N, heads, head_dim)."""
    normal = _cases.Normal(dtype, device, generator)

    def heads(length: int) -> torch.Tensor:
        return normal(case.batch, length, case.heads, case.head_dim).transpose(1, 2)

    mask = None
    if case.kept is not None:
        kept = torch.tensor(case.kept, dtype=torch.int64, device=device)
        mask = torch.arange(case.keys, device=device) >= kept[:, None]
    seed = None
    if case.dropout_p > 0.0:
        seed = torch.tensor([0x0123_4567_89AB_CDEF], device=device)
    return AttentionCall(
        q=heads(case.queries),
        k=heads(case.keys),
        v=heads(case.keys),
        bias=None if case.bias is None else normal(*case.bias),
        key_padding_mask=mask,
        scale=case.head_dim**-0.5 if case.scale is None else case.scale,
        dropout_p=case.dropout_p,
        seed=seed,
    )
