"""``patch_embed`` in plain PyTorch: the oracle, and the ``eager`` backend."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from vitkern.dispatch import Backend
from vitkern.ops.patch_embed.call import PatchEmbedCall


def reference(call: PatchEmbedCall) -> torch.Tensor:
    """A convolution whose stride is its kernel, with the patches in one dimension."""
    grid = F.conv2d(call.images, call.weight, call.bias, stride=tuple(call.weight.shape[2:]))
    return grid.flatten(2).transpose(1, 2)


BACKEND = Backend(
    name="eager",
    supports=lambda call: [],
    forward=lambda call, needs_grad: (reference(call), ()),
)
