"""``window_attention_block`` in plain PyTorch: the oracle, and the ``eager`` backend."""

from __future__ import annotations

import torch

from vitkern.dispatch import Backend
from vitkern.ops.layer_norm.call import LayerNormCall
from vitkern.ops.layer_norm.reference import reference as layer_norm
from vitkern.ops.linear.call import LinearCall
from vitkern.ops.linear.reference import reference as linear
from vitkern.ops.window_attention.call import WindowAttentionCall
from vitkern.ops.window_attention.reference import reference as window_attention
from vitkern.ops.window_attention_block.call import WindowAttentionBlockCall


def reference(call: WindowAttentionBlockCall) -> torch.Tensor:
    """The references of the ops it is made of, one after the other."""
    y = layer_norm(LayerNormCall(call.x, call.norm_weight, call.norm_bias, call.eps, None))
    assert isinstance(y, torch.Tensor)
    qkv = linear(LinearCall(y, call.qkv_weight, call.qkv_bias, None, None, None))
    # Positions that are zero before qkv have its bias behind it.
    attend = WindowAttentionCall(
        qkv=qkv,
        bias_table=call.bias_table,
        pad=call.qkv_bias,
        num_heads=call.num_heads,
        window=call.window,
        shift=call.shift,
        scale=call.scale,
        pad_first=call.pad_first,
    )
    heads = window_attention(attend)
    return linear(LinearCall(heads, call.proj_weight, call.proj_bias, None, call.gamma, call.x))


BACKEND = Backend(
    name="eager",
    supports=lambda call: [],
    forward=lambda call, needs_grad: (reference(call), ()),
)
