"""Floating-point operations of single calls of operators, PyTorch's and the library's own.

Matrix products only, two operations a multiply-add, as in :mod:`vitkern.bench.flops`. What a kernel
computes again in the backward pass (attention's scores) is not counted: it is no part of the task.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

__all__ = ["call_flops", "named_arguments"]

Arguments = Mapping[str, Any]


def named_arguments(
    func: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of a call by their names in the operator's schema."""
    names = (argument.name for argument in func._schema.arguments)
    return {**dict(zip(names, args, strict=False)), **kwargs}


def call_flops(func: torch._ops.OpOverload, arguments: Arguments, out: Any) -> int:
    """Operations of one call; 0 for what multiplies no matrices.

    Args:
        func: the operator.
        arguments: as :func:`named_arguments` gives them.
        out: what it returned.
    """
    namespace, name = func._schema.name.split("::")
    if namespace == "vitkern_cpu":
        return 2 * _PRODUCTS[name](arguments) if name in _PRODUCTS else 0
    if name in _SDPA:
        query, key, value = (arguments[one].shape for one in ("query", "key", "value"))
        return int(_SDPA[name] * sdpa_flop_count(query, key, value))
    if name in _FAST_PATHS:
        return 2 * _FAST_PATHS[name](arguments)
    counted = flop_registry.get(func.overloadpacket)
    return 0 if counted is None else int(counted(*arguments.values(), out_val=out))


# The CPU's fused attention, which PyTorch's counter does not know.
_SDPA = {
    "_scaled_dot_product_flash_attention_for_cpu": 1,
    "_scaled_dot_product_flash_attention_for_cpu_backward": 2,
}


def _native_attention(a: Arguments) -> int:
    """``nn.MultiheadAttention``'s fast path: four projections and two products of attention."""
    batch, queries, width = a["query"].shape
    keys = a["key"].shape[1]
    return int(2 * batch * width * ((queries + keys) * width + queries * keys))


def _native_encoder_layer(a: Arguments) -> int:
    """``nn.TransformerEncoderLayer``'s fast path: the same, and the MLP."""
    batch, tokens, width = a["src"].shape
    attention = 2 * batch * width * (2 * tokens * width + tokens * tokens)
    return int(attention + 2 * batch * tokens * a["ffn_weight_1"].numel())


# Layers of torch.nn that are one operator in evaluation.
_FAST_PATHS: dict[str, Callable[[Arguments], int]] = {
    "_native_multi_head_attention": _native_attention,
    "_transformer_encoder_layer_fwd": _native_encoder_layer,
}


def _linear(a: Arguments) -> int:
    return int(a["x"].numel()) * int(a["weight"].shape[0])


def _linear_backward(a: Arguments) -> int:
    return (a["need_x"] + a["need_weight"]) * _linear(a)


def _mlp_products(a: Arguments) -> tuple[int, int]:
    hidden, inputs = a["weight1"].shape
    rows = a["x"].numel() // max(inputs, 1)
    return rows * inputs * hidden, rows * hidden * a["weight2"].shape[0]


def _mlp(a: Arguments) -> int:
    return sum(_mlp_products(a))


def _mlp_backward(a: Arguments) -> int:
    first, second = _mlp_products(a)
    hidden_gradient = a["need_x"] or a["need_weight1"] or a["need_bias1"]
    return first * (a["need_x"] + a["need_weight1"]) + second * (
        a["need_weight2"] + hidden_gradient
    )


def _patch_embed(a: Arguments) -> int:
    batch, _, height, width = a["images"].shape
    patch_height, patch_width = a["weight"].shape[2:]
    return int(batch * (height // patch_height) * (width // patch_width) * a["weight"].numel())


def _patch_embed_backward(a: Arguments) -> int:
    return (a["need_images"] + a["need_weight"]) * _patch_embed(a)


def _attention(a: Arguments) -> int:
    batch, heads, queries, head_dim = a["q"].shape
    return 2 * int(batch * heads * queries * head_dim * a["k"].shape[2])


def _attention_backward(a: Arguments) -> int:
    return 2 * _attention(a)


def _windows(a: Arguments, batch: int, height: int, width: int, channels: int) -> int:
    down = math.ceil(height / a["window_height"])
    across = math.ceil(width / a["window_width"])
    positions = a["window_height"] * a["window_width"]
    return 2 * batch * down * across * positions * positions * channels


def _window_attention(a: Arguments) -> int:
    batch, height, width, channels = a["qkv"].shape
    return _windows(a, batch, height, width, channels // 3)


def _window_attention_backward(a: Arguments) -> int:
    return 2 * _window_attention(a)


def _projections(a: Arguments) -> int:
    return int(a["x"].numel()) * int(a["qkv_weight"].shape[0] + a["proj_weight"].shape[0])


def _attention_block(a: Arguments) -> int:
    batch, tokens, channels = a["x"].shape
    return _projections(a) + 2 * batch * tokens * tokens * channels


def _window_attention_block(a: Arguments) -> int:
    return _projections(a) + _windows(a, *a["x"].shape)


_PRODUCTS: dict[str, Callable[[Arguments], int]] = {
    "linear": _linear,
    "linear_backward": _linear_backward,
    "mlp": _mlp,
    "mlp_backward": _mlp_backward,
    "mlp_block": _mlp,
    "patch_embed": _patch_embed,
    "patch_embed_backward": _patch_embed_backward,
    "attention": _attention,
    "attention_backward": _attention_backward,
    "attention_block": _attention_block,
    "window_attention": _window_attention,
    "window_attention_backward": _window_attention_backward,
    "window_attention_block": _window_attention_block,
}
