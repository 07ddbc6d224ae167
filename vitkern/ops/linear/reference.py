"""``linear`` in plain PyTorch: the oracle, and the ``eager`` backend."""

from __future__ import annotations

import torch

from vitkern.dispatch import Backend
from vitkern.ops import _epilogue
from vitkern.ops.linear.call import LinearCall
from vitkern.ops.weights import product


def reference(call: LinearCall) -> torch.Tensor:
    """``residual + gamma * activation(x @ weight.T + bias)``."""
    y = product(call.x, call.weight, call.bias)
    return _epilogue.finish(_epilogue.activate(y, call.activation), call.gamma, call.residual)


BACKEND = Backend(
    name="eager",
    supports=lambda call: [],
    forward=lambda call, needs_grad: (reference(call), ()),
)
