"""Losses of a classifier, one number an image: the trainer averages them as batches need it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["CrossEntropy", "balanced_weights"]


class CrossEntropy(nn.Module):
    """Cross entropy with labels or soft targets.

    Args:
        label_smoothing: the share of a target that is spread evenly over all classes.
        weights: (classes,) what an image of each class counts; None for 1.
    """

    weights: torch.Tensor | None

    def __init__(self, label_smoothing: float = 0.0, weights: torch.Tensor | None = None) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.register_buffer("weights", weights, persistent=False)

    def forward(
        self, logits: torch.Tensor, targets: torch.Tensor, images: torch.Tensor
    ) -> torch.Tensor:
        """One loss an image.

        Args:
            logits: (B, classes), floating point.
            targets: (B,) int64 labels, or (B, classes) probabilities, as MixUp gives.
            images: (B, C, H, W); not used here, distillation does.

        Returns:
            (B,), float32.
        """
        return F.cross_entropy(
            logits.float(),
            targets if targets.ndim == 1 else targets.float(),
            weight=self.weights,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )


def balanced_weights(labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """What an image of each class counts, so that every class counts the same.

    images / (classes · images of the class), so that the mean over all images is 1.

    Args:
        labels: (N,) ints.
        num_classes: classes; each has an image.

    Returns:
        (num_classes,), float32.

    Raises:
        ValueError: a class without an image.
    """
    counts = torch.bincount(labels.long(), minlength=num_classes)
    if not counts.all():
        missing = [index for index, count in enumerate(counts.tolist()) if count == 0]
        raise ValueError(f"labels must have an image of every class; none of {missing}")
    return (len(labels) / (num_classes * counts.double())).float()
