"""Distillation: a student learns what a teacher says of each image, beside its label."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from vitkern.training.losses import CrossEntropy

__all__ = ["DistillationLoss"]


class DistillationLoss(nn.Module):
    """(1 - alpha) · loss of the labels + alpha · distance to the teacher.

    Soft (arXiv 1503.02531): T² · KL of the teacher's softmax to the student's, both of logits / T;
    T² keeps its gradients as large as the other part's. Hard (DeiT, arXiv 2012.12877): cross
    entropy with the teacher's choice.

    A student with a distillation token gives a pair in training: logits of the class token, which
    go with the labels, and of the distillation token, which go with the teacher.

    Args:
        teacher: (B, C, H, W) -> (B, classes). It is in evaluation mode from now on, and learns
            nothing.
        base: the loss of the labels.
        temperature: T, above 0.
        alpha: at least 0, at most 1.
        hard: as DeiT.

    Raises:
        ValueError: ``temperature`` or ``alpha`` is out of range.
    """

    def __init__(
        self,
        teacher: nn.Module,
        base: nn.Module | None = None,
        *,
        temperature: float = 3.0,
        alpha: float = 0.5,
        hard: bool = False,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be at least 0 and at most 1, got {alpha}")
        self.teacher = teacher.eval().requires_grad_(False)
        self.base = CrossEntropy() if base is None else base
        self.temperature, self.alpha, self.hard = temperature, alpha, hard

    def forward(
        self,
        outputs: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
        targets: torch.Tensor,
        images: torch.Tensor,
    ) -> torch.Tensor:
        """One loss an image.

        Args:
            outputs: (B, classes), or a pair of such.
            targets: (B,) labels or (B, classes) probabilities.
            images: (B, C, H, W), for the teacher.

        Returns:
            (B,), float32.
        """
        logits, distilled = outputs if isinstance(outputs, tuple) else (outputs, outputs)
        with torch.no_grad():
            said = self.teacher(images).float()
        if said.shape != distilled.shape:
            raise ValueError(
                f"teacher must have the student's {distilled.shape[1]} classes, got {said.shape[1]}"
            )
        if self.hard:
            distance = F.cross_entropy(distilled.float(), said.argmax(1), reduction="none")
        else:
            warm = self.temperature
            divergence = F.kl_div(
                (distilled.float() / warm).log_softmax(1),
                (said / warm).log_softmax(1),
                reduction="none",
                log_target=True,
            )
            distance = divergence.sum(1) * warm**2
        loss: torch.Tensor = self.base(logits, targets, images)
        return (1 - self.alpha) * loss + self.alpha * distance
