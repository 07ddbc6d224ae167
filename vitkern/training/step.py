"""One optimizer step: forward and backward of its batches, checks, clipping, update."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import nn

from vitkern.training.checkpoint import write_state
from vitkern.training.config import TrainConfig
from vitkern.training.evaluation import autocast
from vitkern.training.sampling import seed_all
from vitkern.training.sharding import whole, without_exchange
from vitkern.training.task import Task

__all__ = ["NonFiniteLoss", "StepResult", "Stepper"]


class NonFiniteLoss(RuntimeError):
    """A loss or gradient is not finite; ``path`` is the file with the step's batches, or None.

    The weights are those from before the step.
    """

    def __init__(self, message: str, path: Path | None) -> None:
        super().__init__(message)
        self.path = path


class StepResult(NamedTuple):
    """What a step came to: the mean loss of all images of all processes, the norm of the gradients,
    and the other losses by name, in the mean too."""

    loss: float
    gradient_norm: float
    parts: dict[str, float]


class Stepper:
    """Does optimizer steps.

    Args:
        accelerator: of this process.
        model: prepared by it.
        optimizer: prepared by it.
        task: batches and losses.
        config: clipping, precision, seed.
        folder: where the batches of a step that fails are saved.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: Any,
        task: Task,
        config: TrainConfig,
        folder: Path,
    ) -> None:
        self._accelerator = accelerator
        self._model = model
        self._optimizer = optimizer
        self._task = task
        self._config = config
        self._folder = folder
        self._parameters = [p for p in model.parameters() if p.requires_grad]

    def __call__(self, step: int, window: Sequence[tuple[Any, list[int], int]]) -> StepResult:
        """The step.

        Args:
            step: its number, from 0.
            window: for each batch what the loader gave, this process's images in it (none, and
                then the loader gave one for form's sake), and the images of all processes.

        Raises:
            ValueError: wrong targets.
            NonFiniteLoss: before anything was updated.
        """
        accelerator, total = self._accelerator, sum(count for _, _, count in window)
        self._model.train()
        self._optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=accelerator.device)
        seen = []
        named: dict[str, torch.Tensor] = {}
        for place, (batch, mine, _) in enumerate(window):
            seed_all(self._config.seed, 3, step, place, accelerator.process_index)
            inputs, targets = self._task.prepare(batch, accelerator.device)
            names = self._task.inputs
            seen.append({**dict(zip(names, inputs, strict=True)), "targets": targets})
            share = len(mine) / total
            last = place == len(window) - 1
            # Gradients are exchanged once a step, with its last batch.
            waits = nullcontext() if last else without_exchange(self._model, accelerator)
            with waits:
                with autocast(accelerator.device, self._config.precision):
                    outputs = self._model(*inputs)
                losses = self._task.losses(outputs, targets, inputs[0])
                part = losses.pop("loss").sum() * ((1 if mine else 0) / total)
                # DDP and FSDP take the mean over processes; wanted is the sum of their shares.
                accelerator.backward(part * accelerator.num_processes)
            loss += part.detach()
            for name, value in losses.items():
                named[name] = named.get(name, 0) + value.detach() * share
        mean = float(accelerator.reduce(loss, "sum"))
        if not math.isfinite(mean):
            self._stop(step, f"the loss is {mean}", seen)
        limit = self._config.clip or math.inf
        norm = float(whole(nn.utils.clip_grad_norm_(self._parameters, limit)))
        if not math.isfinite(norm):
            self._stop(step, f"the loss is {mean:.4g}, but the norm of the gradients {norm}", seen)
        self._optimizer.step()
        parts = {name: float(accelerator.reduce(one, "sum")) for name, one in named.items()}
        return StepResult(mean, norm, parts)

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
