"""The learning rate at each optimizer step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from vitkern.training.config import TrainConfig

__all__ = ["Schedule", "factor"]


def factor(step: int, total: int, warmup: float, floor: float, cosine: bool) -> float:
    """What the highest rate is multiplied with in optimizer step ``step`` (from 0) of ``total``.

    Linear from 1 / warm-up steps to 1, then half a cosine that ends at ``floor`` in the last step.
    """
    rising = round(total * warmup)
    if step < rising:
        return max((step + 1) / rising, floor)
    if not cosine:
        return 1.0
    part = min((step - rising) / max(total - 1 - rising, 1), 1.0)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * part))


class Schedule:
    """The schedule that a :class:`TrainConfig` asks for, of an optimizer's groups.

    Rates are a function of the step, so that a checkpoint need not hold them; only "plateau" has
    a state.

    Args:
        optimizer: its groups' "lr" are the highest rates.
        config: ``schedule``, ``warmup``, ``min_lr`` and those of "plateau".
        total: optimizer steps of the whole training.
    """

    def __init__(self, optimizer: Optimizer, config: TrainConfig, total: int) -> None:
        self._groups = optimizer.param_groups
        self._highest = [group["lr"] for group in self._groups]
        self._config = config
        self._total = total
        # ReduceLROnPlateau wants an optimizer: the rate of this one is the scale of the others'.
        self._scale = SGD([torch.nn.Parameter(torch.zeros(()))], lr=1.0)
        self._plateau: ReduceLROnPlateau | None = None
        if config.schedule == "plateau":
            self._plateau = ReduceLROnPlateau(
                self._scale,
                mode="min" if config.monitor == "loss" else "max",
                factor=config.plateau_factor,
                patience=config.plateau_patience,
                threshold=0.0,
                min_lr=config.min_lr / config.lr,
                eps=0.0,
            )

    def set(self, step: int) -> float:
        """Sets the rates of optimizer step ``step``, from 0; returns the head's, the highest."""
        config, scale = self._config, self._scale.param_groups[0]["lr"]
        for group, highest in zip(self._groups, self._highest, strict=True):
            floor = min(config.min_lr / highest, 1.0)
            cosine = config.schedule == "cosine"
            part = factor(step, self._total, config.warmup, floor, cosine)
            group["lr"] = highest * max(scale * part, floor)
        return max(float(group["lr"]) for group in self._groups)

    def epoch(self, value: float | None) -> None:
        """After a validation that gave ``value``."""
        if self._plateau is not None and value is not None:
            self._plateau.step(value)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: plain data."""
        if self._plateau is None:
            return {}
        names = ("best", "num_bad_epochs", "last_epoch")
        return {
            "scale": self._scale.param_groups[0]["lr"],
            "plateau": {name: float(getattr(self._plateau, name)) for name in names},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What :meth:`state_dict` gave."""
        if self._plateau is not None:
            self._scale.param_groups[0]["lr"] = state["scale"]
            for name, value in state["plateau"].items():
                setattr(self._plateau, name, value)
