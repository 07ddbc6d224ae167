"""Shapes of ``deformable_attention``: real models, tails of vectors, edges."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vitkern.ops import _cases
from vitkern.ops.deformable_attention.call import DeformableAttentionCall, Shapes


@dataclass(frozen=True, kw_only=True)
class Case(_cases.Case):
    """Sizes, and where the points are.

    ``where``: ``"around"`` everywhere on a map and a little around it; ``"far"`` mostly outside, by
    up to a million sizes, and some infinite or NaN; ``"centres"`` on centres of pixels and on the
    ring around a map, exact where heights and widths are powers of two; ``"pixels"`` as an
    encoder: around the query's own pixel, the queries are all pixels.
    """

    batch: int
    shapes: Shapes
    queries: int
    heads: int
    head_dim: int
    points: int
    where: str = "around"
    wide: bool = False  # float32 locations and weights, whatever value's dtype


def _levels(size: int, levels: int) -> Shapes:
    """Maps that halve from level to level, rounded up as by convolutions with a stride of 2."""
    sizes = [size]
    for _ in range(levels - 1):
        sizes.append((sizes[-1] + 1) // 2)
    return tuple((n, n) for n in sizes)


def _pixels(shapes: Shapes) -> int:
    return sum(height * width for height, width in shapes)


def _encoder(name: str, shapes: Shapes) -> Case:
    return Case(
        name=name, tags=("model",), batch=1, shapes=shapes, queries=_pixels(shapes), heads=8,
        head_dim=32, points=4, where="pixels",
    )  # fmt: skip


def _tail(name: str, head_dim: int, heads: int = 2, queries: int = 5, points: int = 3) -> Case:
    return Case(
        name=name, tags=("tail",), batch=2, shapes=((5, 7), (3, 4)), queries=queries, heads=heads,
        head_dim=head_dim, points=points,
    )  # fmt: skip


def _edge(
    name: str, batch: int, shapes: Shapes, queries: int, heads: int, head_dim: int, points: int,
    **options: object,
) -> Case:  # fmt: skip
    return Case(
        name=name, tags=("edge",), batch=batch, shapes=shapes, queries=queries, heads=heads,
        head_dim=head_dim, points=points, **options,  # type: ignore[arg-type]
    )  # fmt: skip


CASES: tuple[Case, ...] = (
    # Deformable DETR: strides 8 to 64, 300 queries; at a third of its usual size.
    _encoder("deformable-detr-encoder", ((34, 44), (17, 22), (9, 11), (5, 6))),
    Case(
        name="deformable-detr-decoder", tags=("model",), batch=2,
        shapes=((34, 44), (17, 22), (9, 11), (5, 6)), queries=300, heads=8, head_dim=32, points=4,
    ),
    # RT-DETR at 640 × 640: strides 8, 16 and 32.
    Case(
        name="rt-detr-decoder", tags=("model",), batch=1, shapes=_levels(80, 3), queries=300,
        heads=8, head_dim=32, points=4,
    ),
    Case(
        name="rt-detr-denoising", tags=("model",), batch=2, shapes=_levels(40, 3), queries=490,
        heads=8, head_dim=32, points=4,
    ),
    # Mask2Former's pixel decoder at 256 × 256, strides 32, 16 and 8.
    _encoder("mask2former-pixel-decoder", ((8, 8), (16, 16), (32, 32))),
    *(_tail(f"head_dim{d}", d) for d in (1, 2, 4, 7, 8, 9, 13, 15, 16, 17, 24, 33, 48, 100)),
    *(_tail(f"queries{n}", 8, queries=n) for n in (1, 33)),
    *(_tail(f"points{n}", 8, points=n) for n in (1, 5, 17)),
    *(_tail(f"heads{n}", 8, heads=n) for n in (1, 3)),
    _tail("head_dim256", 256),
    _tail("as-detr", 32, queries=9, points=4),
    _edge("no-images", 0, ((4, 4), (2, 2)), 5, 2, 8, 2),
    _edge("no-queries", 2, ((4, 4), (2, 2)), 0, 2, 8, 2),
    _edge("one-pixel", 2, ((1, 1),), 9, 2, 8, 4),
    _edge("levels-of-one-pixel", 1, ((1, 1), (1, 5), (6, 1)), 9, 2, 16, 4),
    _edge("one-row-and-one-column", 2, ((1, 33), (47, 1)), 7, 3, 12, 2),
    _edge("eight-levels", 1, ((6, 5),) * 8, 4, 2, 9, 1),
    _edge("far", 2, ((6, 9), (3, 5)), 40, 2, 16, 4, where="far"),
    _edge("centres", 2, ((4, 8), (2, 4), (1, 2)), 40, 2, 16, 4, where="centres"),
    _edge("wide-centres", 2, ((4, 8), (8, 16)), 9, 2, 16, 3, where="centres", wide=True),
    _edge("wide-locations", 2, ((12, 17), (5, 8)), 21, 2, 24, 4, wide=True),
)  # fmt: skip


def make(
    case: Case,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> DeformableAttentionCall:
    """The tensors of a case; weights are a softmax over a query's points."""
    normal = _cases.Normal(torch.float32, device, generator)
    of_points = (case.batch, case.queries, case.heads, len(case.shapes), case.points)
    value = normal(case.batch, _pixels(case.shapes), case.heads, case.head_dim)
    uniform = torch.rand((*of_points, 2), device=device, generator=generator)
    sizes = torch.tensor([[w, h] for h, w in case.shapes], device=device)[:, None]
    if case.where == "far":
        locations = _far(uniform)
    elif case.where == "centres":
        # Whole numbers from -2 to the size + 1 as positions: beyond both ends of a map.
        locations = ((uniform * (sizes + 4)).floor() - 1.5) / sizes
    elif case.where == "pixels":
        offsets = normal(*of_points, 2, std=2.0) / sizes
        locations = _own_pixels(case.shapes).to(device)[:, None, None, None] + offsets
    else:
        locations = uniform * 1.2 - 0.1
    scores = normal(*of_points).flatten(3)
    beside = torch.float32 if case.wide and dtype != torch.float64 else dtype
    return DeformableAttentionCall(
        value=value.to(dtype),
        spatial_shapes=case.shapes,
        sampling_locations=locations.to(beside),
        attention_weights=scores.softmax(-1).view(of_points).to(beside),
    )


def _far(uniform: torch.Tensor) -> torch.Tensor:
    """Locations of all sizes on both sides of a map; each tenth query's is no number."""
    signed = 2.0 * uniform - 1.0
    far = 0.5 + signed.sign() * 10.0 ** (7.0 * signed.abs() - 1.0)
    for first, value in enumerate((float("inf"), float("-inf"), float("nan"))):
        far[:, first::10, :, :, :, first % 2] = value
    return far


def _own_pixels(shapes: Shapes) -> torch.Tensor:
    """The (x, y) of each pixel of each level, as fractions: (S, 2)."""
    grids = [
        torch.cartesian_prod((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w)
        for h, w in shapes
    ]
    return torch.cat([grid.view(-1, 2) for grid in grids]).flip(-1)
