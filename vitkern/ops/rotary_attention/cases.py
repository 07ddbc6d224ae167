"""Shapes of ``rotary_attention``: real models, tails of tiles, edges."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vitkern.ops import _cases
from vitkern.ops.attention import cases as attention
from vitkern.ops.rotary_attention.call import RotaryAttentionCall


@dataclass(frozen=True, kw_only=True)
class Case(attention.Case):
    """``rotated``: how many of the last rows, and the leading dimensions of sin and cos."""

    norm: str | None = None
    affine: bool = True
    rotated: int | None = None
    planes: tuple[int, ...] = ()
    interleaved: bool = False


def _case(
    tag: str, name: str, batch: int, heads: int, length: int, head_dim: int, **options: object
) -> Case:
    return Case(
        name=name, tags=(tag,), batch=batch, heads=heads, queries=length, keys=length,
        head_dim=head_dim, **options,  # type: ignore[arg-type]
    )  # fmt: skip


CASES: tuple[Case, ...] = (
    _case("model", "vit-b-qk-norm", 1, 12, 197, 64, norm="layer"),
    _case("model", "eva02-b", 1, 12, 257, 64, rotated=256, interleaved=True),
    _case("model", "eva02-l", 1, 16, 1025, 64, rotated=1024, interleaved=True),
    _case("model", "dinov3-b", 1, 12, 201, 64, rotated=196),
    _case("model", "vit-b-rope-mixed", 1, 12, 197, 64, rotated=196, planes=(12,), interleaved=True),
    _case("model", "pe-rms", 1, 12, 197, 64, norm="rms", rotated=196),
    *(
        _case(
            "tail", f"head_dim{d}", 2, 3, 19, d, norm=("layer", "rms", None)[i % 3],
            rotated=(19, 13)[i % 2], interleaved=i % 4 < 2,
        )
        for i, d in enumerate((2, 4, 8, 14, 16, 18, 24, 32, 34, 48, 64, 80))
    ),
    *(_case("tail", f"norm-head_dim{d}", 2, 3, 19, d, norm="layer") for d in (1, 3, 17, 33)),
    *(
        _case("tail", f"length{n}", 2, 2, n, 24, norm="rms", rotated=max(n - 1, 1))
        for n in (1, 2, 15, 16, 17, 49, 97)
    ),
    _case("edge", "no-images", 0, 3, 17, 16, norm="layer", rotated=16),
    _case("edge", "nothing-first", 2, 3, 17, 16),
    _case("edge", "no-rows-rotated", 2, 3, 17, 16, rotated=0),
    _case("edge", "not-affine", 2, 3, 17, 16, norm="layer", affine=False),
    _case("edge", "tables-of-heads", 2, 3, 17, 16, rotated=12, planes=(3,), interleaved=True),
    _case("edge", "tables-of-images", 2, 3, 17, 16, rotated=17, planes=(2, 1)),
    _case("edge", "tables-of-all", 2, 3, 17, 16, rotated=17, planes=(2, 3), norm="rms"),
    _case(
        "edge", "everything", 2, 3, 33, 16, norm="layer", rotated=28, bias=(3, 33, 33),
        kept=(33, 20), scale=0.3,
    ),
    _case(
        "edge", "dropout", 2, 3, 33, 16, norm="rms", rotated=33, interleaved=True, dropout_p=0.25
    ),
    Case(
        name="cross", tags=("edge",), batch=2, heads=3, queries=9, keys=21, head_dim=24,
        norm="layer", rotated=8,
    ),
)  # fmt: skip


def make(
    case: Case,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> RotaryAttentionCall:
    """The tensors of a case; both elements of a pair have their own angle, as no model's have."""
    plain = attention.make(case, dtype, device, generator)
    normal = _cases.Normal(dtype, device, generator)
    width = case.head_dim

    def parameter(there: bool, mean: float) -> torch.Tensor | None:
        return normal(width, std=0.2, mean=mean) if there and case.affine else None

    sin = cos = None
    if case.rotated is not None:
        angles = normal(*case.planes, case.rotated, width, std=2.0)
        sin, cos = angles.sin(), angles.cos()
    norm, biased = case.norm is not None, case.norm == "layer"
    return RotaryAttentionCall(
        *plain,
        norm=case.norm,
        q_weight=parameter(norm, 1.0),
        q_bias=parameter(biased, 0.0),
        k_weight=parameter(norm, 1.0),
        k_bias=parameter(biased, 0.0),
        eps=1e-6,
        sin=sin,
        cos=cos,
        interleaved=case.interleaved,
    )
