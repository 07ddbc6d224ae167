"""Training of detectors: DETR's losses, and average precision as COCO measures it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import DataLoader, Subset

from vitkern.data.detection import Objects, check_annotations, collate
from vitkern.models import SetCriterion, post_process
from vitkern.models.detr import Detections
from vitkern.models.detr.boxes import to_corners
from vitkern.models.detr.criterion import mean_over_processes
from vitkern.training import sampling
from vitkern.training.config import TrainConfig
from vitkern.training.evaluation import autocast
from vitkern.training.plots import plot_classes
from vitkern.training.task import Task

__all__ = ["Detection", "average_precision", "detections_of"]


class Detection(Task):
    """An image has any number of objects, and a DETR says where and what.

    Items of data sets are (image, :class:`~vitkern.data.detection.Objects`) pairs; what a data set
    lists in ``targets`` is checked before the training.

    Args:
        classes: names of the labels.
        loss: the criterion; one with its defaults if None.
    """

    metrics = ("map", "map_50", "map_75")
    inputs = ("images", "padding_mask")

    def __init__(self, classes: Sequence[str], loss: SetCriterion | None = None) -> None:
        super().__init__(classes, SetCriterion(len(classes)) if loss is None else loss)
        self.collate = collate

    def check(self, split: Any, name: str, *, training: bool) -> None:
        """Boxes and labels that the split lists in ``targets``, as
        :func:`~vitkern.data.detection.check_annotations`."""
        targets = getattr(split, "targets", None)
        if targets is not None:
            check_annotations(targets, len(self.classes), name)

    def check_settings(self, config: TrainConfig) -> None:
        """No layer has a rate of its own: a DETR's layers are in two stacks."""
        if config.layer_decay != 1 or config.lr_groups is not None:
            raise ValueError("layer_decay and lr_groups are for classifiers, not for detectors")

    def prepare(self, batch: Any, device: torch.device) -> tuple[tuple[Any, ...], Any]:
        """Images, their padding mask (or None), and targets."""
        if not isinstance(batch, dict) or "padding_mask" not in batch:
            raise ValueError("the training data must give objects with each image")
        mask = batch["padding_mask"]
        targets = [{k: v.to(device) for k, v in one.items()} for one in batch["targets"]]
        return (batch["images"].to(device), None if mask is None else mask.to(device)), targets

    def losses(self, outputs: Any, targets: Any, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Those of the criterion. Its sums are over the batch: each image gets the batch's loss.

        The mean of processes' losses is that of the whole batch. Processes weigh as much as they
        have images, which may be one more or less: so losses are divided by that.
        """
        found: dict[str, torch.Tensor] = self.loss(outputs, targets)
        error = found.pop("cardinality_error")  # a mean over images
        (mean,) = mean_over_processes([len(images)], images.device)
        found = {name: value * (mean / len(images)) for name, value in found.items()}
        return {**found, "cardinality_error": error, "loss": found["loss"].expand(len(images))}

    def evaluate(self, model: nn.Module, data: Any, **options: Any) -> dict[str, Any]:
        """What :func:`average_precision` gives, and "loss" and its parts of the last layer."""
        mode = model.training
        model.eval()
        try:
            detections, targets = detections_of(model, data, **options)
        finally:
            model.train(mode)
        # On the device: processes agree on its counts there, where their group may have no other.
        tensors = cast(dict[str, torch.Tensor], detections)
        moved = {name: value.to(options["device"]) for name, value in tensors.items()}
        with torch.no_grad():
            losses = self.loss(moved, targets)
        found = average_precision(detections, targets, len(self.classes))
        parts = {name: float(value) for name, value in losses.items()}
        return {"loss": parts.pop("loss"), "images": len(targets), **found, **parts}

    def draw(self, found: dict[str, Any], folder: Path) -> None:
        """precision.png: the average precision of each class."""
        plot_classes(found["map_by_class"], self.classes, "mAP", folder / "precision.png")


def detections_of(
    model: nn.Module,
    data: Any,
    *,
    batch_size: int,
    device: torch.device,
    precision: str = "fp32",
    workers: int = 0,
    rank: int = 0,
    processes: int = 1,
) -> tuple[Detections, list[Objects]]:
    """What a DETR's last layer says of each image, and what is there, in the data set's order.

    In a group of processes each does a part, and every one gets all. The caller has set the mode.

    Args:
        model: (B, C, H, W) and its padding mask -> :class:`Detections` of a fixed number of
            queries.
        data: (image, objects) pairs, at least one.
        batch_size: images at once, of this process.
        device: where the model is.
        precision: "fp32" or "bf16".
        workers: processes that load.
        rank: this process's number.
        processes: how many there are.

    Returns:
        Both on the host, detections in float32.

    Raises:
        ValueError: no images.
    """
    if len(data) == 0:
        raise ValueError("data must have at least one image, got an empty split")
    share, count = sampling.even_share(len(data), rank, processes)
    logits: list[torch.Tensor] = []
    boxes: list[torch.Tensor] = []
    targets: list[Objects] = []
    with torch.inference_mode(), autocast(device, precision):
        # A generator of its own: an epoch's validation draws nothing from the global one.
        for batch in DataLoader(
            Subset(data, share),
            batch_size,
            num_workers=workers,
            collate_fn=collate,
            generator=torch.Generator().manual_seed(0),
        ):
            mask = batch["padding_mask"]
            found = model(batch["images"].to(device), None if mask is None else mask.to(device))
            logits.extend(found["pred_logits"].float().cpu())
            boxes.extend(found["pred_boxes"].float().cpu())
            targets.extend(batch["targets"])
    mine = list(zip(share, logits, boxes, targets, strict=True))[:count]
    everything = mine if processes == 1 else sorted(gather_object(mine), key=lambda one: one[0])
    return {
        "pred_logits": torch.stack([one[1] for one in everything]),
        "pred_boxes": torch.stack([one[2] for one in everything]),
    }, [one[3] for one in everything]


def average_precision(
    detections: Detections, targets: Sequence[Objects], num_classes: int
) -> dict[str, Any]:
    """COCO's average precision, by torchmetrics and pycocotools, of every query's best class.

    Args:
        detections: of the last layer, all images.
        targets: their objects.
        num_classes: classes.

    Returns:
        Plain data: "map" (mean over the IoU thresholds 0.5, 0.55, ... 0.95 and over the classes
        that have objects), "map_50", "map_75"; "map_by_class", None for a class without objects;
        and "objects", how many there are. All but it are None where there is no object at all.

    Raises:
        ImportError: pycocotools is not installed.
    """
    from torchmetrics.detection import MeanAveragePrecision

    sizes = torch.stack([target["size"] for target in targets])
    found = post_process(detections, sizes, threshold=0.0)
    truth = [
        {
            "boxes": to_corners(target["boxes"]) * target["size"].flip(0).repeat(2),
            "labels": target["labels"],
        }
        for target in targets
    ]
    metric = MeanAveragePrecision(class_metrics=True)
    metric.update(cast(list[dict[str, torch.Tensor]], found), truth)
    values = metric.compute()
    by_class: list[float | None] = [None] * num_classes
    classes = values["classes"].reshape(-1).tolist()
    for label, value in zip(classes, values["map_per_class"].reshape(-1).tolist(), strict=True):
        by_class[label] = _defined(value)
    return {
        **{name: _defined(values[name].item()) for name in Detection.metrics},
        "map_by_class": by_class,
        "objects": sum(len(target["labels"]) for target in targets),
    }


def _defined(value: float) -> float | None:
    """COCO's -1 is no value."""
    return None if value < 0 else value
