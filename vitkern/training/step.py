"""One optimizer step: forward and backward of its batches, checks, clipping, update."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from vitkern.training.checkpoint import write_state
from vitkern.training.config import TrainConfig
from vitkern.training.evaluation import autocast
from vitkern.training.sampling import seed_all

__all__ = ["Mix", "NonFiniteLoss", "Stepper"]

Mix = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""MixUp and its like: a batch of images and labels to images and targets, labels or soft."""


class NonFiniteLoss(RuntimeError):
    """A loss or gradient is not finite; ``path`` is the file with the step's batches, or None.

    The weights are those from before the step.
    """

    def __init__(self, message: str, path: Path | None) -> None:
        super().__init__(message)
        self.path = path


class Stepper:
    """Does optimizer steps.

    Args:
        accelerator: of this process.
        model: prepared by it.
        optimizer: prepared by it.
        loss: (outputs, targets, images) -> (B,).
        mix: MixUp and its like, or None.
        config: clipping, precision, seed.
        num_classes: labels are below this.
        folder: where the batches of a step that fails are saved.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: Any,
        loss: nn.Module,
        mix: Mix | None,
        config: TrainConfig,
        num_classes: int,
        folder: Path,
    ) -> None:
        self._accelerator = accelerator
        self._model = model
        self._optimizer = optimizer
        self._loss = loss
        self._mix = mix
        self._config = config
        self._classes = num_classes
        self._folder = folder
        self._parameters = [p for p in model.parameters() if p.requires_grad]

    def __call__(
        self, step: int, window: Sequence[tuple[Any, list[int], int]]
    ) -> tuple[float, float]:
        """The step.

        Args:
            step: its number, from 0.
            window: for each batch what the loader gave, this process's images in it (none, and
                then the loader gave one for form's sake), and the images of all processes.

        Returns:
            The mean loss of all images of all processes, and the norm of the gradients.

        Raises:
            ValueError: a label out of range.
            NonFiniteLoss: before anything was updated.
        """
        accelerator, total = self._accelerator, sum(count for _, _, count in window)
        self._model.train()
        self._optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=accelerator.device)
        seen = []
        for place, (batch, mine, _) in enumerate(window):
            self._check_labels(batch[1])
            images = batch[0].to(accelerator.device)
            targets = batch[1].to(accelerator.device)
            seed_all(self._config.seed, 3, step, place, accelerator.process_index)
            if self._mix is not None:
                images, targets = self._mix(images, targets)
            seen.append({"images": images, "targets": targets})
            last = place == len(window) - 1
            # Gradients are exchanged once a step, with its last batch.
            with nullcontext() if last else accelerator.no_sync(self._model):
                with autocast(accelerator.device, self._config.precision):
                    outputs = self._model(images)
                losses = self._loss(outputs, targets, images)
                part = losses.sum() * ((1 if mine else 0) / total)
                # DDP takes the mean over processes; wanted is the sum of their shares.
                accelerator.backward(part * accelerator.num_processes)
            loss += part.detach()
        mean = float(accelerator.reduce(loss, "sum"))
        if not math.isfinite(mean):
            self._stop(step, f"the loss is {mean}", seen)
        limit = self._config.clip or math.inf
        norm = float(nn.utils.clip_grad_norm_(self._parameters, limit))
        if not math.isfinite(norm):
            self._stop(step, f"the loss is {mean:.4g}, but the norm of the gradients {norm}", seen)
        self._optimizer.step()
        return mean, norm

    def _check_labels(self, labels: torch.Tensor) -> None:
        if not isinstance(labels, torch.Tensor) or labels.is_floating_point() or labels.ndim != 1:
            raise ValueError("the training data must give an int label with each image")
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= self._classes:
            wrong = low if low < 0 else high
            raise ValueError(
                f"labels of the training split must be 0 to {self._classes - 1}, got {wrong}"
            )

    def _stop(self, step: int, why: str, seen: list[dict[str, torch.Tensor]]) -> None:
        rank = self._accelerator.process_index
        path: Path | None = self._folder / f"nonfinite-step-{step}-rank-{rank}.safetensors"
        assert path is not None
        try:
            write_state(path, {"step": step, "batches": seen})
            where = f"its images and targets are in {path}"
        except OSError as error:
            path, where = None, f"its images could not be saved: {error}"
        raise NonFiniteLoss(f"stopped in optimizer step {step}: {why}; {where}", path)
