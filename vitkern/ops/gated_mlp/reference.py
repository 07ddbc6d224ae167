"""``gated_mlp`` in plain PyTorch: the oracle, and the ``eager`` backend."""

from __future__ import annotations

import torch

from vitkern.dispatch import Backend
from vitkern.ops import _epilogue
from vitkern.ops.gated_mlp.call import GatedMlpCall
from vitkern.ops.weights import product


def gated(pre: torch.Tensor, activation: str | None) -> torch.Tensor:
    """``activation(a) * b`` of the halves a and b of the last dimension."""
    a, b = pre.chunk(2, -1)
    return _epilogue.activate(a, activation) * b


def reference(call: GatedMlpCall) -> torch.Tensor:
    """``residual + gamma * (gated(x @ weight1.T + bias1) @ weight2.T + bias2)``."""
    hidden = gated(product(call.x, call.weight1, call.bias1), call.activation)
    return _epilogue.finish(product(hidden, call.weight2, call.bias2), call.gamma, call.residual)


BACKEND = Backend(
    name="eager",
    supports=lambda call: [],
    forward=lambda call, needs_grad: (reference(call), ()),
)
