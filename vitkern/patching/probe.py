"""Representative calls: what backends are asked about when a module is matched.

Each is made of the module's own parameters and an empty input with a single row: no shapes of real
inputs are known yet. Only ``supports`` sees them.
"""

from __future__ import annotations

from typing import Any

import torch

from vitkern.ops.attention.call import AttentionCall
from vitkern.ops.layer_norm.call import LayerNormCall
from vitkern.ops.linear.call import LinearCall
from vitkern.ops.mlp.call import MlpCall
from vitkern.ops.patch_embed.call import PatchEmbedCall
from vitkern.ops.window_attention.call import WindowAttentionCall


def layer_norm(norm: Any, like: torch.Tensor | None = None) -> LayerNormCall:
    """A call for a LayerNorm; ``like`` gives device and dtype where it has no weight."""
    weight, bias = norm._parameters["weight"], norm._parameters["bias"]
    anchor = weight if weight is not None else like
    width = norm.normalized_shape[0]
    x = torch.empty((1, width)) if anchor is None else anchor.new_empty((1, width))
    return LayerNormCall(x, weight, bias, norm.eps, None)


def linear(
    layer: Any,
    activation: str | None = None,
    gamma: torch.Tensor | None = None,
    residual: bool = False,
) -> LinearCall:
    """A call for a Linear and its epilogue."""
    weight, bias = layer._parameters["weight"], layer._parameters["bias"]
    x = weight.new_empty((1, weight.shape[1]))
    y = weight.new_empty((1, weight.shape[0])) if residual else None
    return LinearCall(x, weight, bias, activation, _same(gamma, weight), y)


def pointwise(conv: Any) -> LinearCall:
    """A call for a convolution of single pixels."""
    weight, bias = conv._parameters["weight"].flatten(1), conv._parameters["bias"]
    return LinearCall(weight.new_empty((1, weight.shape[1])), weight, bias, None, None, None)


def mlp(
    fc1: Any,
    fc2: Any,
    activation: str | None,
    gamma: torch.Tensor | None = None,
    residual: bool = False,
) -> MlpCall:
    """A call for two Linears."""
    first, second = fc1._parameters, fc2._parameters
    weight = first["weight"]
    x = weight.new_empty((1, weight.shape[1]))
    y = weight.new_empty((1, second["weight"].shape[0])) if residual else None
    return MlpCall(
        x,
        weight,
        first["bias"],
        second["weight"],
        second["bias"],
        activation,
        _same(gamma, weight),
        y,
    )


def attention(qkv: Any, heads: int, head_dim: int) -> AttentionCall:
    """A call with one token."""
    q = qkv._parameters["weight"].new_empty((1, heads, 1, head_dim))
    return AttentionCall(q, q, q, None, None, head_dim**-0.5, 0.0, None)


def window_attention(
    qkv: Any,
    table: torch.Tensor | None,
    heads: int,
    window: tuple[int, int],
    shift: tuple[int, int],
) -> WindowAttentionCall:
    """A call with one window."""
    weight, bias = qkv._parameters["weight"], qkv._parameters["bias"]
    x = weight.new_empty((1, *window, weight.shape[0]))
    scale = (weight.shape[0] // (3 * heads)) ** -0.5
    return WindowAttentionCall(x, table, bias, heads, window, shift, scale, False)


def patch_embed(conv: Any) -> PatchEmbedCall:
    """A call with one patch."""
    weight, bias = conv._parameters["weight"], conv._parameters["bias"]
    return PatchEmbedCall(weight.new_empty((1, *weight.shape[1:])), weight, bias)


def _same(gamma: torch.Tensor | None, weight: torch.Tensor) -> torch.Tensor | None:
    """Ops compose a gamma of another dtype themselves; backends never see it."""
    return gamma if gamma is not None and gamma.dtype == weight.dtype else None
