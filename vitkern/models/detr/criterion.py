"""The loss of a set of detections."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from vitkern.models import _check
from vitkern.models.detr.boxes import generalized_iou, to_corners
from vitkern.models.detr.matcher import HungarianMatcher, Match, Target
from vitkern.models.detr.model import Detections


class SetCriterion(nn.Module):
    """Cross-entropy of classes, L1 and GIoU of boxes, on every decoder layer, after matching.

    Carion et al., "End-to-End Object Detection with Transformers", 2020 (arXiv 2005.12872),
    sections 3.1 and appendix A.2. Each layer is matched by itself. The box losses are summed over
    the matched pairs and divided by the objects in the batch; the cross-entropy is the mean over
    all queries, "no object" weighted down. Where ``torch.distributed`` runs, objects and queries
    are counted in the mean over processes: the mean of the processes' losses is then that of one
    process with all their images.

    Args:
        num_classes: classes, without "no object".
        matcher: matches queries and objects; a :class:`HungarianMatcher` with its defaults if None.
        weight_class, weight_bbox, weight_giou: weights of the three losses.
        no_object_weight: of the class "no object" in the cross-entropy.

    Raises:
        TypeError: ``num_classes`` is not an int.
        ValueError: ``num_classes`` below 1, or a negative weight.
    """

    def __init__(
        self,
        num_classes: int,
        matcher: HungarianMatcher | None = None,
        *,
        weight_class: float = 1.0,
        weight_bbox: float = 5.0,
        weight_giou: float = 2.0,
        no_object_weight: float = 0.1,
    ) -> None:
        super().__init__()
        _check.integer("num_classes", num_classes, minimum=1)
        for name, weight in (
            ("weight_class", weight_class),
            ("weight_bbox", weight_bbox),
            ("weight_giou", weight_giou),
            ("no_object_weight", no_object_weight),
        ):
            if not weight >= 0:
                raise ValueError(f"{name} must be at least 0, got {weight}")
        self.num_classes = num_classes
        self.matcher = HungarianMatcher() if matcher is None else matcher
        self.weights = {
            "loss_class": weight_class,
            "loss_bbox": weight_bbox,
            "loss_giou": weight_giou,
        }
        self.no_object_weight = no_object_weight

    def forward(self, detections: Detections, targets: Sequence[Target]) -> dict[str, torch.Tensor]:
        """The losses.

        Args:
            detections: of B images, from :class:`DETR`; half precision counts in float32.
            targets: B of them, on any device.

        Returns:
            Scalars: ``loss``, the weighted sum of all, to be minimised; and without their weights
            ``loss_class``, ``loss_bbox`` and ``loss_giou`` of the last layer, of the i-th decoder
            layer before it with ``_i`` behind the name; and ``cardinality_error``, by how many the
            last layer misjudges the number of objects (without gradient).

        Raises:
            ImportError: SciPy is not installed.
            TypeError: labels that are not int64, or boxes that are not floating point.
            ValueError: logits of another number of classes, another number of targets, or targets
                of other shapes or out of range.
        """
        layers = [*detections.get("aux_outputs", []), detections]
        logits = _at_least_float32(torch.stack([layer["pred_logits"] for layer in layers]))
        boxes = _at_least_float32(torch.stack([layer["pred_boxes"] for layer in layers]))
        if logits.shape[-1] != self.num_classes + 1:
            raise ValueError(
                f"pred_logits must have {self.num_classes + 1} classes (num_classes + 1),"
                f" got {logits.shape[-1]}"
            )
        matches = self.matcher.match_layers(logits, boxes, targets)
        device = logits.device
        targets = [
            {"labels": target["labels"].to(device), "boxes": target["boxes"].to(boxes)}
            for target in targets
        ]
        pairs = sum(len(query) for query, _ in matches[0])  # as many in each layer
        others = logits.shape[1] * logits.shape[2] - pairs
        objects, queries = mean_over_processes(
            [
                sum(len(target["labels"]) for target in targets),
                pairs + self.no_object_weight * others,
            ],
            device,
        )
        objects = max(objects, 1.0)

        losses: dict[str, torch.Tensor] = {}
        for index, layer_matches in enumerate(matches):
            suffix = "" if index == len(matches) - 1 else f"_{index}"
            found = self._layer(
                logits[index], boxes[index], layer_matches, targets, objects, queries
            )
            losses.update({name + suffix: value for name, value in found.items()})
        weighted = [
            self.weights[name.rstrip("_0123456789")] * value for name, value in losses.items()
        ]
        losses["loss"] = torch.stack(weighted).sum()
        losses["cardinality_error"] = _cardinality_error(logits[-1].detach(), targets)
        return losses

    def _layer(
        self,
        logits: torch.Tensor,
        boxes: torch.Tensor,
        matches: Sequence[Match],
        targets: Sequence[Target],
        objects: float,
        queries: float,
    ) -> dict[str, torch.Tensor]:
        """The three losses of one decoder layer's (B, Q, ...) predictions."""
        pairs = list(zip(targets, matches, strict=True))
        image = torch.cat([query.new_full(query.shape, i) for i, (query, _) in enumerate(matches)])
        query = torch.cat([query for query, _ in matches])
        labels = torch.cat([target["labels"][chosen] for target, (_, chosen) in pairs])
        wanted = torch.cat([target["boxes"][chosen] for target, (_, chosen) in pairs])

        classes = labels.new_full(logits.shape[:2], self.num_classes)
        classes[image, query] = labels
        class_weights = logits.new_ones(self.num_classes + 1)
        class_weights[self.num_classes] = self.no_object_weight
        loss_class = F.cross_entropy(
            logits.flatten(0, 1), classes.flatten(), class_weights, reduction="sum"
        )
        found = boxes[image, query]
        overlap = generalized_iou(to_corners(found), to_corners(wanted))
        return {
            "loss_class": loss_class / queries,
            "loss_bbox": (found - wanted).abs().sum() / objects,
            "loss_giou": (1 - overlap).sum() / objects,
        }


def _at_least_float32(x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype == torch.float64 else x.float()


def mean_over_processes(values: Sequence[float], device: torch.device) -> list[float]:
    """Numbers of this process, averaged over the processes of a distributed run."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return list(values)
    total = torch.tensor(values, device=device, dtype=torch.float64)
    torch.distributed.all_reduce(total)
    mean: list[float] = (total / torch.distributed.get_world_size()).tolist()
    return mean


def _cardinality_error(logits: torch.Tensor, targets: Sequence[Target]) -> torch.Tensor:
    """How far the number of queries that see an object is from the truth, in the mean of images."""
    seen = (logits.argmax(-1) != logits.shape[-1] - 1).sum(1)
    there = torch.tensor([len(target["labels"]) for target in targets], device=logits.device)
    return (seen - there).abs().to(logits.dtype).mean()
