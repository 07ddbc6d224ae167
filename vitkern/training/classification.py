"""Training of classifiers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitkern.data.checks import check_labels, labels_of
from vitkern.training.config import TrainConfig
from vitkern.training.evaluation import evaluate
from vitkern.training.losses import CrossEntropy
from vitkern.training.plots import plot_confusion
from vitkern.training.task import Task

__all__ = ["Classification", "Mix"]

Mix = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""MixUp and its like: a batch of images and labels to images and targets, labels or soft."""


class Classification(Task):
    """An image has one label, and a model (B, C, H, W) -> (B, classes) says which.

    Items of data sets are (image, int label) pairs.

    Args:
        classes: names of the labels.
        loss: a module (outputs, targets, images) -> (B,); cross entropy if None.
        mix: MixUp and its like: (images, labels) -> (images, targets), or None.
    """

    metrics = ("accuracy", "f1", "auc")

    def __init__(
        self, classes: Sequence[str], loss: nn.Module | None = None, mix: Mix | None = None
    ) -> None:
        super().__init__(classes, CrossEntropy() if loss is None else loss)
        self.mix = mix

    def check(self, split: Any, name: str, *, training: bool) -> None:
        """Labels in an attribute ``targets`` are whole numbers in range; training has each."""
        labels = labels_of(split)
        if labels is not None:
            check_labels(labels, len(self.classes), name, every_class=training)

    def check_settings(self, config: TrainConfig) -> None:
        """All are for classifiers."""

    def prepare(self, batch: Any, device: torch.device) -> tuple[tuple[Any, ...], Any]:
        """Images and labels, mixed."""
        self._check_labels(batch[1])
        images, targets = batch[0].to(device), batch[1].to(device)
        if self.mix is not None:
            images, targets = self.mix(images, targets)
        return (images,), targets

    def losses(self, outputs: Any, targets: Any, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss alone."""
        return {"loss": self.loss(outputs, targets, images)}

    def evaluate(self, model: nn.Module, data: Any, **options: Any) -> dict[str, Any]:
        """As :func:`vitkern.training.evaluate`."""
        return evaluate(model, data, **options)

    def draw(self, found: dict[str, Any], folder: Path) -> None:
        """confusion.png."""
        plot_confusion(found["confusion"], self.classes, folder / "confusion.png")

    def _check_labels(self, labels: Any) -> None:
        if not isinstance(labels, torch.Tensor) or labels.is_floating_point() or labels.ndim != 1:
            raise ValueError("the training data must give an int label with each image")
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= len(self.classes):
            wrong = low if low < 0 else high
            raise ValueError(
                f"labels of the training split must be 0 to {len(self.classes) - 1}, got {wrong}"
            )
