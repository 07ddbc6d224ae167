"""What a model is trained for, as the trainer sees it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitkern.training.config import TrainConfig

__all__ = ["Task"]


class Task(ABC):
    """Batches, losses and metrics of a kind of model.

    Attributes:
        classes: names of the labels.
        loss: the module that computes the losses; the trainer moves it to its device.
        metrics: what a validation gives, other than "loss", that is the better the higher it is:
            what "monitor" may name, and what is drawn.
        inputs: names of the tensors that the model takes.
        collate: items of a data set -> a batch; None for PyTorch's own.
    """

    metrics: tuple[str, ...]
    inputs: tuple[str, ...] = ("images",)
    collate: Callable[[Any], Any] | None = None

    def __init__(self, classes: Sequence[str], loss: nn.Module) -> None:
        self.classes = list(classes)
        self.loss = loss

    @abstractmethod
    def check(self, split: Any, name: str, *, training: bool) -> None:
        """A split, not empty, has targets that this task can use.

        Raises:
            TypeError: targets of another type.
            ValueError: wrong targets; names the split and the first wrong one.
        """

    @abstractmethod
    def prepare(self, batch: Any, device: torch.device) -> tuple[tuple[Any, ...], Any]:
        """A batch on the device, augmented with PyTorch's global generator: the model's inputs, of
        which the first are images (B, C, H, W), and the targets.

        Raises:
            ValueError: wrong targets.
        """

    @abstractmethod
    def losses(self, outputs: Any, targets: Any, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """The losses by name.

        Returns:
            "loss", one number an image (B,), to be minimised; and scalars to look at.
        """

    @abstractmethod
    def evaluate(self, model: nn.Module, data: Any, **options: Any) -> dict[str, Any]:
        """Loss ("loss"), number of images ("images") and metrics of a model, as plain data.

        Args:
            model: its mode is as before afterwards.
            data: the split.
            options: batch_size (of this process), device, precision, workers, rank, processes.
        """

    @abstractmethod
    def check_settings(self, config: TrainConfig) -> None:
        """Settings make sense for this task.

        Raises:
            ValueError: one does not.
        """

    @abstractmethod
    def draw(self, found: dict[str, Any], folder: Path) -> None:
        """Pictures of what :meth:`evaluate` found.

        Raises:
            OSError: they cannot be written.
        """
