"""A model's outputs on a data set, over all processes, and what they are worth."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import DataLoader, Subset

from vitkern.training import sampling
from vitkern.training.losses import CrossEntropy
from vitkern.training.metrics import classification_metrics

__all__ = ["autocast", "evaluate", "outputs_of"]


def autocast(device: torch.device, precision: str) -> Any:
    """The context of a forward pass in "fp32" or "bf16"."""
    if precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def outputs_of(
    model: Callable[[torch.Tensor], torch.Tensor],
    data: Any,
    *,
    batch_size: int,
    device: torch.device,
    precision: str = "fp32",
    workers: int = 0,
    rank: int = 0,
    processes: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What ``model`` gives for each image, and the labels, in the data set's order.

    In a group of processes each does a part, and every one gets all. The caller has set the mode.

    Args:
        model: (B, C, H, W) -> (B, n).
        data: (image, label) pairs, at least one; other items after these are left alone.
        batch_size: images at once, of this process.
        device: where the model is.
        precision: "fp32" or "bf16".
        workers: processes that load.
        rank: this process's number.
        processes: how many there are.

    Returns:
        (N, n) float32 and (N,) int64, on the host.

    Raises:
        ValueError: no images.
    """
    if len(data) == 0:
        raise ValueError("data must have at least one image, got an empty split")
    mine, count = sampling.even_share(len(data), rank, processes)
    found: list[torch.Tensor] = []
    labels: list[torch.Tensor] = []
    with torch.inference_mode(), autocast(device, precision):
        # A generator of its own: an epoch's validation draws nothing from the global one.
        for batch in DataLoader(
            Subset(data, mine),
            batch_size,
            num_workers=workers,
            generator=torch.Generator().manual_seed(0),
        ):
            found.append(model(batch[0].to(device)).float().cpu())
            labels.append(torch.as_tensor(batch[1]).long())
    part = (torch.cat(found)[:count], torch.cat(labels)[:count])
    if processes == 1:
        return part
    outputs = part[0].new_empty(len(data), part[0].shape[1])
    targets = part[1].new_empty(len(data))
    for number, (logits, truth) in enumerate(gather_object([part])):
        outputs[number::processes], targets[number::processes] = logits, truth
    return outputs, targets


def evaluate(model: nn.Module, data: Any, **options: Any) -> dict[str, Any]:
    """Loss and metrics of a classifier, in evaluation mode; its mode is as before afterwards.

    Args:
        model: a classifier.
        data: (image, label) pairs.
        options: those of :func:`outputs_of`.

    Returns:
        "loss" (cross entropy), "images", and what ``classification_metrics`` gives.

    Raises:
        ValueError: no images, or labels that the model has no logit for.
    """
    mode = model.training
    model.eval()
    try:
        logits, labels = outputs_of(model, data, **options)
    finally:
        model.train(mode)
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(
            f"labels must be 0 to {logits.shape[1] - 1}, as the model has {logits.shape[1]} logits;"
            f" got {labels.min().item()} to {labels.max().item()}"
        )
    loss = CrossEntropy()(logits, labels, logits).mean().item()
    metrics = classification_metrics(logits.double().softmax(1), labels)
    return {"loss": loss, "images": len(labels), **metrics}
