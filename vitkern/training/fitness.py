"""Whether a model, its data and its settings fit together."""

from __future__ import annotations

from typing import Any

from torch import nn

from vitkern.data.checks import check_labels, labels_of
from vitkern.training.config import TrainConfig

__all__ = ["check_arguments", "checkpoint_blocks"]


def check_arguments(
    model: nn.Module, train: Any, valid: Any, config: TrainConfig, num_classes: int
) -> None:
    """A trainer's arguments fit together.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: the validation is the training data, an empty split, wrong labels.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(config, TrainConfig):
        raise TypeError(f"config must be a TrainConfig, got {type(config).__name__}")
    if valid is train:
        raise ValueError("valid must not be the training data itself")
    for name, split, every in (("training", train, True), ("validation", valid, False)):
        if split is None:
            continue
        if len(split) == 0:
            raise ValueError(f"the {name} split has no images")
        labels = labels_of(split)
        if labels is not None:
            check_labels(labels, num_classes, name, every_class=every)


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
