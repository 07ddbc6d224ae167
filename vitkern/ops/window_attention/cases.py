"""Shapes of ``window_attention``: real models, tails of tiles, edges."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vitkern.ops import _cases
from vitkern.ops.window_attention.call import WindowAttentionCall


@dataclass(frozen=True, kw_only=True)
class Case(_cases.Case):
    """``size`` is the map's, ``window`` and ``shift`` are (height, width)."""

    batch: int
    size: tuple[int, int]
    heads: int
    head_dim: int
    window: tuple[int, int]
    shift: tuple[int, int] = (0, 0)
    table: bool = True
    pad: bool = False
    pad_first: bool = False
    scale: float | None = None


def _swin(name: str, dim: int, size: int = 56, window: int = 7, batch: int = 1) -> tuple[Case, ...]:
    """Both blocks of every stage; the last stage is one window, which Swin does not shift."""
    return tuple(
        Case(
            name=f"{name}-stage{stage}" + ("-shifted" if shift else ""), tags=("model",),
            batch=batch, size=(size >> stage, size >> stage), heads=dim // 32 << stage,
            head_dim=32, window=(window, window), shift=(shift, shift),
        )
        for stage in range(4)
        for shift in ((0, window // 2) if size >> stage > window else (0,))
    )  # fmt: skip


def _small(
    tag: str, name: str, size: tuple[int, int], window: tuple[int, int], **options: object
) -> Case:
    defaults: dict[str, object] = {"batch": 2, "heads": 2, "head_dim": 16}
    return Case(
        name=name, tags=(tag,), size=size, window=window,
        **(defaults | options),  # type: ignore[arg-type]
    )  # fmt: skip


def _padded(
    name: str, size: tuple[int, int], window: tuple[int, int], **options: object
) -> list[Case]:
    """A map the window does not divide, in both orders, with and without the value of the pad."""
    return [
        _small(
            "edge", f"{name}-{'pad-shift' if first else 'shift-pad'}{'-value' if pad else ''}",
            size, window, pad_first=first, pad=pad, **options,
        )
        for first in (False, True)
        for pad in (False, True)
    ]  # fmt: skip


CASES: tuple[Case, ...] = (
    *_swin("swin-t", 96),
    *_swin("swin-b", 128),
    *_swin("swin-b-384", 128, size=96, window=12),
    *_swin("swin-t-batch8", 96, batch=8)[:2],
    Case(
        name="swin-t-detection", tags=("model",), batch=1, size=(200, 272), heads=3, head_dim=32,
        window=(7, 7), shift=(3, 3), pad=True, pad_first=True,
    ),
    *(
        _small("tail", f"head_dim{d}", (6, 9), (3, 3), head_dim=d, shift=(1, 1), heads=3)
        for d in (1, 2, 3, 8, 15, 16, 17, 24, 31, 32, 33, 48, 64)
    ),
    *(
        _small("tail", f"window{h}x{w}", (2 * h, 3 * w), (h, w), shift=(h // 2, w // 2))
        for h, w in ((1, 1), (1, 2), (1, 7), (2, 3), (5, 1), (4, 4), (3, 5), (7, 7), (8, 8),
                     (7, 5), (2, 13), (12, 12))
    ),
    _small("edge", "no-images", (14, 14), (7, 7), batch=0, shift=(3, 3)),
    _small("edge", "one-window", (7, 7), (7, 7), batch=1),
    _small("edge", "one-window-shifted", (7, 7), (7, 7), shift=(3, 2)),
    _small("edge", "one-position", (1, 1), (1, 1), batch=1, heads=1, head_dim=1),
    _small("edge", "shift-rows", (14, 21), (7, 7), shift=(3, 0)),
    _small("edge", "shift-columns", (8, 12), (4, 3), shift=(0, 2)),
    _small("edge", "shift-most", (8, 12), (4, 3), shift=(3, 2)),
    _small("edge", "no-table", (8, 12), (4, 3), shift=(2, 1), table=False),
    _small("edge", "scale", (8, 12), (4, 3), shift=(2, 1), scale=0.1, heads=5),
    *_padded("ragged", (10, 17), (7, 7)),
    *_padded("ragged-shifted", (10, 17), (7, 7), shift=(3, 3), heads=3),
    *_padded("ragged-rows", (9, 8), (4, 4), shift=(2, 1), head_dim=24),
    *_padded("ragged-columns", (8, 11), (2, 5), shift=(1, 2), batch=1),
    # More than 64 positions, and no multiple of 16.
    *_padded("ragged-large", (11, 14), (9, 9), shift=(4, 4), batch=1, heads=1),
    *_padded("ragged-one-axis", (13, 11), (7, 6), shift=(0, 2), table=False),
)  # fmt: skip


def make(
    case: Case,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> WindowAttentionCall:
    """The tensors of a case; the bias is large enough to matter."""
    normal = _cases.Normal(dtype, device, generator)
    channels = 3 * case.heads * case.head_dim
    rows = (2 * case.window[0] - 1) * (2 * case.window[1] - 1)
    return WindowAttentionCall(
        qkv=normal(case.batch, *case.size, channels),
        bias_table=normal(rows, case.heads) if case.table else None,
        pad=normal(channels) if case.pad else None,
        num_heads=case.heads,
        window=case.window,
        shift=case.shift,
        scale=case.head_dim**-0.5 if case.scale is None else case.scale,
        pad_first=case.pad_first,
    )
