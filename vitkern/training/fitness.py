"""Whether a model, its data and its settings fit together."""

from __future__ import annotations

from typing import Any

from torch import nn

from vitkern.training.config import TrainConfig
from vitkern.training.task import Task

__all__ = ["check_fitness", "check_types", "checkpoint_blocks"]


def check_types(model: nn.Module, config: TrainConfig) -> None:
    """A trainer's arguments are what they should be.

    Raises:
        TypeError: one is not.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(config, TrainConfig):
        raise TypeError(f"config must be a TrainConfig, got {type(config).__name__}")


def check_fitness(train: Any, valid: Any, config: TrainConfig, task: Task) -> None:
    """A trainer's data and settings fit its task.

    Raises:
        TypeError: targets of a wrong type.
        ValueError: the validation is the training data, an empty split, wrong targets, or settings
            that are not for this task.
    """
    if valid is train:
        raise ValueError("valid must not be the training data itself")
    measured = (*task.metrics, "loss")
    if valid is not None and config.monitor not in measured:
        raise ValueError(
            f"monitor must be one of what is measured, {', '.join(measured)}, got"
            f" {config.monitor!r}"
        )
    task.check_settings(config)
    for name, split, training in (("training", train, True), ("validation", valid, False)):
        if split is None:
            continue
        if len(split) == 0:
            raise ValueError(f"the {name} split has no images")
        task.check(split, name, training=training)


def checkpoint_blocks(model: nn.Module, wanted: bool) -> None:
    """Has a model recompute its blocks in the backward pass.

    Raises:
        ValueError: it is wanted, and the model cannot.
    """
    if not wanted:
        return
    switch = getattr(model, "set_grad_checkpointing", None)
    if not callable(switch):
        raise ValueError(
            f"gradient_checkpointing: {type(model).__name__} has no set_grad_checkpointing, as"
            " timm's models have"
        )
    switch(True)
