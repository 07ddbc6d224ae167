"""Which query answers for which object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import nn

from vitkern.models.detr.boxes import generalized_iou, to_corners
from vitkern.models.detr.model import LayerDetections

_UNUSABLE = 1e6
"""What a cost that is not a number counts as: more than every real one, and little enough to leave
the others their digits in SciPy's sums."""


class Target(TypedDict):
    """Objects of one image: ``labels`` (n,) int64 and ``boxes`` (n, 4) as (centre x, centre y,
    width, height) in shares of the image; n may be 0."""

    labels: torch.Tensor
    boxes: torch.Tensor


Match = tuple[torch.Tensor, torch.Tensor]
"""Indices of queries, and of the objects that they answer for: int64, of one length."""


class HungarianMatcher(nn.Module):
    """The one-to-one assignment of objects to queries with the least total cost.

    The cost of a pair is ``-cost_class · p[class] + cost_bbox · |box - box|₁ - cost_giou · GIoU``:
    Carion et al., "End-to-End Object Detection with Transformers", 2020 (arXiv 2005.12872),
    section 3.1. Queries outnumber objects; those left over answer for none.

    SciPy finds the assignment on the CPU, for every image of every decoder layer after one copy
    from the device.

    Args:
        cost_class, cost_bbox, cost_giou: weights of the three terms.

    Raises:
        ValueError: a negative weight, or none above zero.
    """

    def __init__(
        self, cost_class: float = 1.0, cost_bbox: float = 5.0, cost_giou: float = 2.0
    ) -> None:
        super().__init__()
        weights = {"cost_class": cost_class, "cost_bbox": cost_bbox, "cost_giou": cost_giou}
        for name, weight in weights.items():
            if not weight >= 0:
                raise ValueError(f"{name} must be at least 0, got {weight}")
        if not any(weights.values()):
            raise ValueError("one of cost_class, cost_bbox and cost_giou must be above 0")
        self.cost_class = cost_class
        self.cost_bbox = cost_bbox
        self.cost_giou = cost_giou

    def forward(self, detections: LayerDetections, targets: Sequence[Target]) -> list[Match]:
        """The match of each image.

        Args:
            detections: of B images.
            targets: B of them.

        Returns:
            For each image, indices on the detections' device, min(queries, objects) of them.

        Raises:
            ImportError: SciPy is not installed.
            TypeError, ValueError: as :meth:`match_layers`.
        """
        layers = self.match_layers(
            detections["pred_logits"][None], detections["pred_boxes"][None], targets
        )
        return layers[0]

    @torch.no_grad()
    def match_layers(
        self, logits: torch.Tensor, boxes: torch.Tensor, targets: Sequence[Target]
    ) -> list[list[Match]]:
        """The matches of several decoder layers at once.

        Args:
            logits: (L, B, Q, num_classes + 1).
            boxes: (L, B, Q, 4) as (centre x, centre y, width, height).
            targets: B of them.

        Returns:
            For each layer and image, as :meth:`forward`.

        Raises:
            ImportError: SciPy is not installed.
            TypeError: labels that are not int64, or boxes that are not floating point.
            ValueError: another number of targets, labels and boxes of other shapes, labels out of
                range, and boxes that are not finite or have a negative size.
        """
        check_targets(targets, logits.shape[1])
        counts = [len(target["labels"]) for target in targets]
        if not sum(counts):
            nothing = torch.empty(0, dtype=torch.int64, device=logits.device)
            return [[(nothing, nothing)] * logits.shape[1] for _ in range(len(logits))]
        compute = torch.float64 if logits.dtype == torch.float64 else torch.float32
        labels, target_boxes = _padded(targets, max(counts), logits.device, compute)
        classes = logits.shape[-1] - 1

        layers, batch, queries = logits.shape[:3]
        boxes = boxes.to(compute)[:, :, :, None]
        wanted = target_boxes[None, :, None]
        within = labels.clamp(0, classes - 1)[None, :, None].expand(layers, batch, queries, -1)
        likely = logits.to(compute).softmax(-1).gather(3, within)
        cost = (
            self.cost_bbox * (boxes - wanted).abs().sum(-1)
            - self.cost_class * likely
            - self.cost_giou * generalized_iou(to_corners(boxes), to_corners(wanted))
        )
        cost = cost.nan_to_num(nan=_UNUSABLE, posinf=_UNUSABLE, neginf=_UNUSABLE)

        bad_label = (labels < 0) | (labels >= classes)
        bad_box = ~target_boxes.isfinite().all(-1) | (target_boxes[..., 2:] < 0).any(-1)
        verdict = torch.stack((bad_label.any(1), bad_box.any(1)))
        on_host = torch.cat((verdict.to(compute).flatten(), cost.flatten())).cpu()
        _raise_for_bad_values(on_host[: 2 * batch].reshape(2, batch).bool().tolist(), classes)
        cost = on_host[2 * batch :].reshape(layers, batch, queries, -1)
        return _assign(cost, counts, logits.device)


def check_targets(targets: Sequence[Target], batch: int) -> None:
    """Targets have the shapes and dtypes of :class:`Target`, one for each image.

    Raises:
        TypeError, ValueError: as :meth:`HungarianMatcher.match_layers`.
    """
    if len(targets) != batch:
        raise ValueError(f"targets must be one for each of {batch} images, got {len(targets)}")
    for index, target in enumerate(targets):
        labels, boxes = target["labels"], target["boxes"]
        if labels.dtype != torch.int64:
            raise TypeError(f"targets[{index}]['labels'] must be int64, got {labels.dtype}")
        if not boxes.is_floating_point():
            raise TypeError(f"targets[{index}]['boxes'] must be floating point, got {boxes.dtype}")
        if labels.dim() != 1 or boxes.shape != (len(labels), 4):
            raise ValueError(
                f"targets[{index}] must hold labels of shape (n,) and boxes of shape (n, 4),"
                f" got {tuple(labels.shape)} and {tuple(boxes.shape)}"
            )


def _padded(
    targets: Sequence[Target], most: int, device: torch.device, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels (B, most) and boxes (B, most, 4) of all images; zeros fill up."""
    labels = torch.zeros(len(targets), most, dtype=torch.int64, device=device)
    boxes = torch.zeros(len(targets), most, 4, dtype=dtype, device=device)
    for index, target in enumerate(targets):
        labels[index, : len(target["labels"])] = target["labels"]
        boxes[index, : len(target["boxes"])] = target["boxes"]
    return labels, boxes


def _raise_for_bad_values(verdict: list[list[bool]], classes: int) -> None:
    """Raises for the first image whose labels or boxes are marked.

    Raises:
        ValueError: there is one.
    """
    for index, (bad_label, bad_box) in enumerate(zip(*verdict, strict=True)):
        if bad_label:
            raise ValueError(
                f"targets[{index}]['labels'] must be from 0 to {classes - 1} (num_classes - 1)"
            )
        if bad_box:
            raise ValueError(
                f"targets[{index}]['boxes'] must be finite (centre x, centre y, width, height)"
                " with no negative width or height"
            )


def _assign(cost: torch.Tensor, counts: Sequence[int], device: torch.device) -> list[list[Match]]:
    """The cheapest matches for costs (L, B, Q, most objects) on the host."""
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise ImportError("HungarianMatcher needs SciPy: pip install scipy") from error
    pairs: list[list[torch.Tensor]] = [
        [
            torch.stack(
                [
                    torch.as_tensor(side, dtype=torch.int64)
                    for side in linear_sum_assignment(image[:, :count].numpy())
                ]
            )
            for image, count in zip(layer, counts, strict=True)
        ]
        for layer in cost
    ]
    lengths = [pair.shape[1] for layer in pairs for pair in layer]
    together = torch.cat([pair for layer in pairs for pair in layer], dim=1).to(device)
    split = iter(together.split(lengths, dim=1))
    return [[(pair[0], pair[1]) for pair in (next(split) for _ in layer)] for layer in pairs]
