"""torch.compile, as it comes, with frozen weights, and in bfloat16."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from vitkern.bench.passes import forward
from vitkern.bench.peers.system import Run

__all__ = ["bfloat16", "default", "frozen"]


def default(model: nn.Module, images: torch.Tensor) -> Run:
    """``torch.compile(model)``."""
    return forward(torch.compile(model), images)


def frozen(model: nn.Module, images: torch.Tensor) -> Run:
    """With weights as constants, which inductor folds and packs: for inference only."""
    from torch._inductor import config

    # As an option, so that the graph of the other one is not taken for this one; and as a setting,
    # because the tracer looks at that.
    compiled: Any = torch.compile(model, options={"freezing": True})

    def run() -> torch.Tensor:
        with torch.no_grad():  # inductor does not freeze where there could be a gradient
            out: torch.Tensor = compiled(images)
        return out

    with config.patch(freezing=True):
        run()
    return run


def bfloat16(model: nn.Module, images: torch.Tensor) -> Run:
    """A copy of the model in bfloat16, frozen."""
    return frozen(copy.deepcopy(model).bfloat16(), images.bfloat16())
