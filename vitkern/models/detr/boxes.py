"""Boxes: their two forms, and how well two of them agree."""

from __future__ import annotations

import torch


def to_corners(boxes: torch.Tensor) -> torch.Tensor:
    """(..., 4) as (centre x, centre y, width, height) -> (..., 4) as (x1, y1, x2, y2)."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def to_centres(boxes: torch.Tensor) -> torch.Tensor:
    """(..., 4) as (x1, y1, x2, y2) -> (..., 4) as (centre x, centre y, width, height)."""
    first, second = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((first + second) / 2, second - first), dim=-1)


def generalized_iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Intersection over union, less the share of the enclosing box that neither covers.

    Rezatofighi et al., "Generalized Intersection over Union", 2019 (arXiv 1902.09630). Between -1
    and 1; unlike the plain ratio it has a gradient where the boxes do not touch. Two boxes that are
    the same point give 0.

    Args:
        a, b: (..., 4) as (x1, y1, x2, y2) with x1 ≤ x2 and y1 ≤ y2; shapes that broadcast.

    Returns:
        The broadcast shape without its last dimension.
    """
    area_a, area_b = _area(a[..., 2:] - a[..., :2]), _area(b[..., 2:] - b[..., :2])
    overlap = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    intersection = _area(overlap.clamp(min=0))
    union = area_a + area_b - intersection
    hull = _area(torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2]))
    tiny = torch.finfo(hull.dtype).tiny
    return intersection / union.clamp(min=tiny) - (hull - union) / hull.clamp(min=tiny)


def _area(size: torch.Tensor) -> torch.Tensor:
    """(..., 2) -> (...)."""
    return size[..., 0] * size[..., 1]
