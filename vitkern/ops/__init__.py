"""WHAT can be computed: one package an op. See each function for its shapes and its source."""

from vitkern.ops.attention import attention
from vitkern.ops.attention_block import attention_block
from vitkern.ops.deformable_attention import deformable_attention
from vitkern.ops.gated_mlp import gated_mlp
from vitkern.ops.layer_norm import layer_norm
from vitkern.ops.linear import linear
from vitkern.ops.mlp import mlp
from vitkern.ops.mlp_block import mlp_block
from vitkern.ops.patch_embed import patch_embed
from vitkern.ops.rotary_attention import rotary_attention
from vitkern.ops.window_attention import window_attention
from vitkern.ops.window_attention_block import window_attention_block

__all__ = [
    "attention",
    "attention_block",
    "deformable_attention",
    "gated_mlp",
    "layer_norm",
    "linear",
    "mlp",
    "mlp_block",
    "patch_embed",
    "rotary_attention",
    "window_attention",
    "window_attention_block",
]
