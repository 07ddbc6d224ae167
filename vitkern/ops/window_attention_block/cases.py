"""Shapes of ``window_attention_block``: real models, tails of tiles, edges."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vitkern.ops import _cases
from vitkern.ops.window_attention_block.call import WindowAttentionBlockCall


@dataclass(frozen=True, kw_only=True)
class Case(_cases.Case):
    """``size`` is the map's; which optional tensors there are; ``wide_norm``: a float32 norm."""

    batch: int
    size: tuple[int, int]
    heads: int
    head_dim: int
    window: tuple[int, int]
    shift: tuple[int, int] = (0, 0)
    table: bool = True
    affine: bool = True
    wide_norm: bool = False
    bias: bool = True
    gamma: bool = False
    pad_first: bool = False
    eps: float = 1e-5
    scale: float | None = None


def _swin(name: str, dim: int, size: int = 56, window: int = 7) -> tuple[Case, ...]:
    """Both blocks of every stage; the last stage is one window, which Swin does not shift."""
    return tuple(
        Case(
            name=f"{name}-stage{stage}" + ("-shifted" if shift else ""), tags=("model",),
            batch=1, size=(size >> stage, size >> stage), heads=dim // 32 << stage,
            head_dim=32, window=(window, window), shift=(shift, shift),
        )
        for stage in range(4)
        for shift in ((0, window // 2) if size >> stage > window else (0,))
    )  # fmt: skip


def _small(
    tag: str, name: str, size: tuple[int, int], window: tuple[int, int], **options: object
) -> Case:
    defaults: dict[str, object] = {"batch": 2, "heads": 2, "head_dim": 8}
    return Case(
        name=name, tags=(tag,), size=size, window=window,
        **(defaults | options),  # type: ignore[arg-type]
    )  # fmt: skip


def _padded(
    name: str, size: tuple[int, int], window: tuple[int, int], **options: object
) -> list[Case]:
    """A map the window does not divide, in both orders, with and without a bias of qkv."""
    return [
        _small(
            "edge", f"{name}-{'pad-shift' if first else 'shift-pad'}{'-bias' if bias else ''}",
            size, window, pad_first=first, bias=bias, **options,
        )
        for first in (False, True)
        for bias in (False, True)
    ]  # fmt: skip


CASES: tuple[Case, ...] = (
    *_swin("swin-t", 96),
    *_swin("swin-b", 128),
    *_swin("swin-b-384", 128, size=96, window=12),
    *(
        _small(
            "tail", f"window{h}x{w}", (2 * h, 3 * w), (h, w), shift=(h // 2, w // 2),
            gamma=i % 2 == 0, affine=i % 4 != 3,
        )
        for i, (h, w) in enumerate(((1, 1), (1, 2), (2, 3), (5, 1), (3, 5), (7, 7), (2, 13)))
    ),
    *(
        _small(
            "tail", f"{heads}x{d}", (6, 9), (3, 3), shift=(1, 1), heads=heads, head_dim=d,
            gamma=i % 2 == 1, table=i % 3 != 2,
        )
        for i, (heads, d) in enumerate(((1, 1), (3, 1), (1, 7), (3, 5), (3, 15), (1, 17), (3, 33)))
    ),
    _small("edge", "no-images", (14, 14), (7, 7), batch=0, shift=(3, 3), gamma=True),
    _small("edge", "one-window", (7, 7), (7, 7), batch=1),
    _small("edge", "one-position", (1, 1), (1, 1), batch=1, heads=1, head_dim=3),
    _small("edge", "all", (9, 11), (4, 3), shift=(2, 1), gamma=True, scale=0.1, heads=5, eps=1e-3),
    _small("edge", "wide-norm", (8, 12), (4, 3), shift=(2, 0), head_dim=11, wide_norm=True),
    _small("edge", "products-only", (8, 12), (4, 3), affine=False, bias=False, table=False),
    *_padded("ragged", (10, 17), (7, 7)),
    *_padded("ragged-shifted", (10, 17), (7, 7), shift=(3, 3), heads=3, gamma=True),
    *_padded("ragged-columns", (8, 11), (2, 5), shift=(1, 2), batch=1),
    # Rows of windows that are long enough to be a task each on the CPU.
    *_padded("long-rows", (11, 41), (4, 5), shift=(2, 2), head_dim=9),
)  # fmt: skip


def make(
    case: Case,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> WindowAttentionBlockCall:
    """The tensors of a case; weights are scaled so that the products are of unit size."""
    normal = _cases.Normal(dtype, device, generator)
    width = case.heads * case.head_dim
    entries = (2 * case.window[0] - 1) * (2 * case.window[1] - 1)
    norm = _cases.Normal(torch.float32 if case.wide_norm else dtype, device, generator)
    return WindowAttentionBlockCall(
        x=normal(case.batch, *case.size, width, std=2.0, mean=0.5),
        norm_weight=norm(width, std=0.2, mean=1.0) if case.affine else None,
        norm_bias=norm(width, std=0.2) if case.affine else None,
        qkv_weight=normal(3 * width, width, std=width**-0.5),
        qkv_bias=normal(3 * width, std=0.5) if case.bias else None,
        proj_weight=normal(width, width, std=width**-0.5),
        proj_bias=normal(width, std=0.5) if case.bias else None,
        gamma=normal(width, std=0.5) if case.gamma else None,
        bias_table=normal(entries, case.heads) if case.table else None,
        num_heads=case.heads,
        window=case.window,
        shift=case.shift,
        eps=case.eps,
        scale=case.head_dim**-0.5 if case.scale is None else case.scale,
        pad_first=case.pad_first,
    )
