"""``attention_block`` in plain PyTorch: the oracle, and the ``eager`` backend."""

from __future__ import annotations

import torch

from vitkern.dispatch import Backend
from vitkern.ops.attention.call import AttentionCall
from vitkern.ops.attention.reference import reference as attention
from vitkern.ops.attention_block.call import AttentionBlockCall
from vitkern.ops.layer_norm.call import LayerNormCall
from vitkern.ops.layer_norm.reference import reference as layer_norm
from vitkern.ops.linear.call import LinearCall
from vitkern.ops.linear.reference import reference as linear


def reference(call: AttentionBlockCall) -> torch.Tensor:
    """The references of the ops it is made of, one after the other."""
    width = call.x.shape[2]
    y = layer_norm(LayerNormCall(call.x, call.norm_weight, call.norm_bias, call.eps, None))
    assert isinstance(y, torch.Tensor)
    qkv = linear(LinearCall(y, call.qkv_weight, call.qkv_bias, None, None, None))
    qkv = qkv.unflatten(-1, (3, call.num_heads, width // call.num_heads))
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    heads = attention(AttentionCall(q, k, v, None, None, call.scale, 0.0, None))
    heads = heads.transpose(1, 2).reshape(call.x.shape)
    return linear(LinearCall(heads, call.proj_weight, call.proj_bias, None, call.gamma, call.x))


BACKEND = Backend(
    name="eager",
    supports=lambda call: [],
    forward=lambda call, needs_grad: (reference(call), ()),
)
