"""WHAT can be computed: one package an op. See each function for its shapes and its source."""

from vitkern.ops.attention import attention
from vitkern.ops.layer_norm import layer_norm
from vitkern.ops.linear import linear
from vitkern.ops.mlp import mlp
from vitkern.ops.patch_embed import patch_embed
from vitkern.ops.window_attention import window_attention

__all__ = ["attention", "layer_norm", "linear", "mlp", "patch_embed", "window_attention"]
