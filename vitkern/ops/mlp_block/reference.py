"""``mlp_block`` in plain PyTorch: the oracle, and the ``eager`` backend."""

from __future__ import annotations

import torch

from vitkern.dispatch import Backend
from vitkern.ops.layer_norm.call import LayerNormCall
from vitkern.ops.layer_norm.reference import reference as layer_norm
from vitkern.ops.mlp.call import MlpCall
from vitkern.ops.mlp.reference import reference as mlp
from vitkern.ops.mlp_block.call import MlpBlockCall


def reference(call: MlpBlockCall) -> torch.Tensor:
    """The references of the ops it is made of, one after the other."""
    y = layer_norm(LayerNormCall(call.x, call.norm_weight, call.norm_bias, call.eps, None))
    assert isinstance(y, torch.Tensor)
    weights = (call.weight1, call.bias1, call.weight2, call.bias2)
    return mlp(MlpCall(y, *weights, call.activation, call.gamma, call.x))


BACKEND = Backend(
    name="eager",
    supports=lambda call: [],
    forward=lambda call, needs_grad: (reference(call), ()),
)
