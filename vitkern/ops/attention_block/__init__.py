"""The first half of a pre-norm transformer block: norm, attention, LayerScale and residual."""

from __future__ import annotations

import torch

from vitkern.dispatch import Operator
from vitkern.ops import _check
from vitkern.ops._composed import Composed
from vitkern.ops.attention import attention
from vitkern.ops.attention_block.call import AttentionBlockCall
from vitkern.ops.layer_norm import layer_norm
from vitkern.ops.linear import linear
from vitkern.ops.weights import ConvertedWeight

_OPERATOR = Operator("attention_block", AttentionBlockCall, __name__, composed=True)
_NAMES = ("norm_weight", "norm_bias", "qkv_weight", "qkv_bias", "proj_weight", "proj_bias", "gamma")


def _compose(call: AttentionBlockCall, backend: str | None) -> torch.Tensor:
    x, heads = call.x, call.num_heads
    y: torch.Tensor = layer_norm(x, call.norm_weight, call.norm_bias, eps=call.eps, backend=backend)  # type: ignore[assignment]
    qkv = linear(y, call.qkv_weight, call.qkv_bias, backend=backend)
    qkv = qkv.unflatten(-1, (3, heads, x.shape[2] // heads))
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    y = attention(q, k, v, scale=call.scale, backend=backend).transpose(1, 2).reshape(x.shape)
    return linear(
        y, call.proj_weight, call.proj_bias, gamma=call.gamma, residual=x, backend=backend
    )


_COMPOSED = Composed(_OPERATOR, _compose)


def attention_block(
    x: torch.Tensor,
    norm_weight: torch.Tensor | None,
    norm_bias: torch.Tensor | None,
    qkv_weight: torch.Tensor | ConvertedWeight,
    qkv_bias: torch.Tensor | None,
    proj_weight: torch.Tensor | ConvertedWeight,
    proj_bias: torch.Tensor | None,
    *,
    num_heads: int,
    eps: float = 1e-5,
    scale: float | None = None,
    gamma: torch.Tensor | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    """``x + gamma * projection(attention(qkv(layer_norm(x))))``.

    Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020 (arXiv 2010.11929); ``gamma`` is
    LayerScale, Touvron et al., 2021 (arXiv 2103.17239). For inference: one call, whose
    intermediates stay in memory that all layers share.

    Where a gradient is wanted, under autocast, where dtypes differ by more than float32
    ``norm_weight`` and ``norm_bias`` beside a half-precision ``x``, and where no backend but
    ``eager`` takes the call, the same is computed by :func:`vitkern.ops.layer_norm`,
    :func:`~vitkern.ops.linear` and :func:`~vitkern.ops.attention`, with the same ``backend``.
    So it is differentiable in every floating argument.

    Args:
        x: (B, N, C), float32, float64, bfloat16 or float16.
        norm_weight: (C,) or None; x's dtype, or float32 beside a half-precision x.
        norm_bias: (C,) or None; as ``norm_weight``.
        qkv_weight: (3*C, C), x's dtype; or a :class:`~vitkern.ops.weights.ConvertedWeight`.
            Outputs are ordered (3, num_heads, head_dim).
        qkv_bias: (3*C,), x's dtype, or None.
        proj_weight: (C, C), as ``qkv_weight``.
        proj_bias: (C,), x's dtype, or None.
        num_heads: number of heads, a divisor of C.
        eps: added to the norm's biased variance.
        scale: what scores are multiplied with; None is ``head_dim ** -0.5``.
        gamma: (C,) or None. Where its dtype is not x's the result is promoted, as in PyTorch.
        backend: name of the backend to use; None chooses automatically.

    Returns:
        (B, N, C).

    Raises:
        TypeError: not floating-point tensors, or dtypes that do not go together.
        ValueError: shapes or devices that do not fit.
        UnsupportedInput: ``backend`` (or ``use_backend``) names one that refuses the call.
    """
    _check.tensor("x", x, dims=3)
    scale = _check.scale(scale, _check.heads("x", x, num_heads))
    c = x.shape[2]
    tensors = (norm_weight, norm_bias, qkv_weight, qkv_bias, proj_weight, proj_bias, gamma)
    shapes = ((c,), (c,), (3 * c, c), (3 * c,), (c, c), (c,), (c,))
    _check.inference("qkv_weight", qkv_weight, x, *tensors)
    _check.inference("proj_weight", proj_weight, x, *tensors)
    fused = _check.block(x, _NAMES, tensors, shapes)
    call = AttentionBlockCall(x, *tensors, num_heads, _check.epsilon(eps), scale)
    return _COMPOSED(call, backend) if fused else _compose(call, backend)
