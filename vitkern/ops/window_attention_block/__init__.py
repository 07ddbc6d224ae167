"""The first half of a Swin block: norm, shifted-window attention, LayerScale and residual."""

from __future__ import annotations

import torch

from vitkern.dispatch import Operator
from vitkern.ops import _check
from vitkern.ops._composed import Composed
from vitkern.ops.layer_norm import layer_norm
from vitkern.ops.linear import linear
from vitkern.ops.weights import ConvertedWeight
from vitkern.ops.window_attention import window_attention
from vitkern.ops.window_attention_block.call import WindowAttentionBlockCall

_OPERATOR = Operator("window_attention_block", WindowAttentionBlockCall, __name__, composed=True)
_NAMES = (
    "norm_weight",
    "norm_bias",
    "qkv_weight",
    "qkv_bias",
    "proj_weight",
    "proj_bias",
    "gamma",
    "bias_table",
)


def _compose(call: WindowAttentionBlockCall, backend: str | None) -> torch.Tensor:
    x = call.x
    y: torch.Tensor = layer_norm(x, call.norm_weight, call.norm_bias, eps=call.eps, backend=backend)  # type: ignore[assignment]
    heads = window_attention(
        linear(y, call.qkv_weight, call.qkv_bias, backend=backend),
        call.bias_table,
        num_heads=call.num_heads,
        window_size=call.window,
        shift_size=call.shift,
        scale=call.scale,
        pad_value=call.qkv_bias,
        pad_first=call.pad_first,
        backend=backend,
    )
    return linear(
        heads, call.proj_weight, call.proj_bias, gamma=call.gamma, residual=x, backend=backend
    )


_COMPOSED = Composed(_OPERATOR, _compose)


def window_attention_block(
    x: torch.Tensor,
    norm_weight: torch.Tensor | None,
    norm_bias: torch.Tensor | None,
    qkv_weight: torch.Tensor | ConvertedWeight,
    qkv_bias: torch.Tensor | None,
    proj_weight: torch.Tensor | ConvertedWeight,
    proj_bias: torch.Tensor | None,
    bias_table: torch.Tensor | None = None,
    *,
    num_heads: int,
    window_size: int | tuple[int, int],
    shift_size: int | tuple[int, int] = 0,
    eps: float = 1e-5,
    scale: float | None = None,
    gamma: torch.Tensor | None = None,
    pad_first: bool = False,
    backend: str | None = None,
) -> torch.Tensor:
    """``x + gamma * projection(window_attention(qkv(layer_norm(x))))``.

    Liu et al., "Swin Transformer", 2021 (arXiv 2103.14030). For inference: one call, whose
    intermediates stay in memory that all layers share. A map that the window does not divide is
    padded, between norm and qkv, with zeros: the qkv of padded positions is ``qkv_bias``. See
    :func:`vitkern.ops.window_attention` for the shift's mask and the table.

    Where a gradient is wanted, under autocast, where dtypes differ by more than float32
    ``norm_weight`` and ``norm_bias`` beside a half-precision ``x``, and where no backend but
    ``eager`` takes the call, the same is computed by :func:`vitkern.ops.layer_norm`,
    :func:`~vitkern.ops.linear` and :func:`~vitkern.ops.window_attention`, with the same
    ``backend``. So it is differentiable in every floating argument.

    Args:
        x: (B, H, W, C), float32, float64, bfloat16 or float16.
        norm_weight: (C,) or None; x's dtype, or float32 beside a half-precision x.
        norm_bias: (C,) or None; as ``norm_weight``.
        qkv_weight: (3*C, C), x's dtype; or a :class:`~vitkern.ops.weights.ConvertedWeight`.
            Outputs are ordered (3, num_heads, head_dim).
        qkv_bias: (3*C,), x's dtype, or None.
        proj_weight: (C, C), as ``qkv_weight``.
        proj_bias: (C,), x's dtype, or None.
        bias_table: ((2*wh-1)*(2*ww-1), num_heads), x's dtype, or None.
        num_heads: number of heads, a divisor of C.
        window_size: int or (height, width), at most the map's size.
        shift_size: int or (height, width), at least 0 and below the window's.
        eps: added to the norm's biased variance.
        scale: what scores are multiplied with; None is ``head_dim ** -0.5``.
        gamma: (C,) or None. Where its dtype is not x's the result is promoted, as in PyTorch.
        pad_first: True pads, then shifts (torchvision); False shifts, then pads (timm).
        backend: name of the backend to use; None chooses automatically.

    Returns:
        (B, H, W, C).

    Raises:
        TypeError: not floating-point tensors, or dtypes that do not go together.
        ValueError: shapes, sizes or devices that do not fit.
        UnsupportedInput: ``backend`` (or ``use_backend``) names one that refuses the call.
    """
    _check.tensor("x", x, dims=4)
    scale = _check.scale(scale, _check.heads("x", x, num_heads))
    window, shift = _check.windows("x", x, window_size, shift_size)
    c = x.shape[3]
    entries = (2 * window[0] - 1) * (2 * window[1] - 1)
    tensors = (
        norm_weight,
        norm_bias,
        qkv_weight,
        qkv_bias,
        proj_weight,
        proj_bias,
        gamma,
        bias_table,
    )
    shapes = ((c,), (c,), (3 * c, c), (3 * c,), (c, c), (c,), (c,), (entries, num_heads))
    _check.inference("qkv_weight", qkv_weight, x, *tensors)
    _check.inference("proj_weight", proj_weight, x, *tensors)
    fused = _check.block(x, _NAMES, tensors, shapes)
    call = WindowAttentionBlockCall(
        x,
        *tensors,
        num_heads,
        window,
        shift,
        _check.epsilon(eps),
        scale,
        _check.flag("pad_first", pad_first),
    )
    return _COMPOSED(call, backend) if fused else _compose(call, backend)
