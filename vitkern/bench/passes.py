"""One pass of a row: what is timed, measured for memory, and compared."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from vitkern.bench.models import Row

__all__ = ["forward", "make_pass", "train_step"]


def make_pass(row: Row, model: nn.Module, images: torch.Tensor) -> Callable[[], torch.Tensor]:
    """A forward under inference_mode, or a forward and backward with fresh gradients; with a step,
    AdamW's update follows, as :class:`vitkern.training.Trainer` does it."""
    if row.mode == "eval":
        return forward(model, images)
    if row.mode == "train":
        return lambda: train_step(model, images)
    fused = row.dtype == "float32"
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05, fused=fused)

    def run() -> torch.Tensor:
        out = train_step(model, images)
        optimizer.step()
        return out

    return run


def forward(
    model: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor
) -> Callable[[], torch.Tensor]:
    """A forward under inference_mode."""

    def run() -> torch.Tensor:
        with torch.inference_mode():
            return model(images)

    return run


def train_step(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Output of the forward; the gradients of the cross entropy are in the parameters.

    The label of image i is class i, modulo the classes there are.
    """
    model.zero_grad(set_to_none=True)
    out: torch.Tensor = model(images)
    labels = torch.arange(out.shape[0], device=out.device) % out.shape[1]
    F.cross_entropy(out, labels).backward()
    return out.detach()
