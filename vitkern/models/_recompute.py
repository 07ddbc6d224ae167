"""Blocks that are computed again in the backward pass, so that less is kept for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

__all__ = ["Blocks", "Recomputing"]


class Recomputing(nn.Module):
    """A module, or a model of such modules, that can recompute its blocks.

    Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016 (arXiv 1604.06174). Results
    are the same, dropout included.
    """

    grad_checkpointing = False

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute every block in the backward pass, or keep what it needs, as at first."""
        for module in self.modules():
            if isinstance(module, Recomputing):
                module.grad_checkpointing = enable

    def run(self, block: nn.Module, *inputs: Any) -> Any:
        """``block(*inputs)``, of which only the inputs are kept, where that is wanted."""
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)


class Blocks(nn.Sequential, Recomputing):
    """Blocks one after the other."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What each block takes and gives."""
        for block in self:
            x = self.run(block, x)
        return x
