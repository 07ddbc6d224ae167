"""The second half of a pre-norm transformer block: norm, perceptron, LayerScale and residual."""

from __future__ import annotations

import torch

from vitkern.dispatch import Operator
from vitkern.ops import _check, _epilogue
from vitkern.ops._composed import Composed
from vitkern.ops.layer_norm import layer_norm
from vitkern.ops.mlp import mlp
from vitkern.ops.mlp_block.call import MlpBlockCall
from vitkern.ops.weights import ConvertedWeight

_OPERATOR = Operator("mlp_block", MlpBlockCall, __name__, composed=True)
_NAMES = ("norm_weight", "norm_bias", "weight1", "bias1", "weight2", "bias2", "gamma")


def _compose(call: MlpBlockCall, backend: str | None) -> torch.Tensor:
    x = call.x
    y: torch.Tensor = layer_norm(x, call.norm_weight, call.norm_bias, eps=call.eps, backend=backend)  # type: ignore[assignment]
    return mlp(
        y,
        call.weight1,
        call.bias1,
        call.weight2,
        call.bias2,
        activation=call.activation,
        gamma=call.gamma,
        residual=x,
        backend=backend,
    )


_COMPOSED = Composed(_OPERATOR, _compose)


def mlp_block(
    x: torch.Tensor,
    norm_weight: torch.Tensor | None,
    norm_bias: torch.Tensor | None,
    weight1: torch.Tensor | ConvertedWeight,
    bias1: torch.Tensor | None,
    weight2: torch.Tensor | ConvertedWeight,
    bias2: torch.Tensor | None,
    *,
    eps: float = 1e-5,
    activation: str | None = "gelu",
    gamma: torch.Tensor | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    """``x + gamma * mlp(layer_norm(x))``.

    Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020 (arXiv 2010.11929); ``gamma`` is
    LayerScale, Touvron et al., 2021 (arXiv 2103.17239). For inference: one call, whose
    intermediates stay in memory that all layers share.

    Where a gradient is wanted, under autocast, where dtypes differ by more than float32
    ``norm_weight`` and ``norm_bias`` beside a half-precision ``x``, and where no backend but
    ``eager`` takes the call, the same is computed by :func:`vitkern.ops.layer_norm` and
    :func:`~vitkern.ops.mlp`, with the same ``backend``. So it is differentiable in every
    floating argument.

    Args:
        x: (..., C), float32, float64, bfloat16 or float16.
        norm_weight: (C,) or None; x's dtype, or float32 beside a half-precision x.
        norm_bias: (C,) or None; as ``norm_weight``.
        weight1: (H, C), x's dtype; or a :class:`~vitkern.ops.weights.ConvertedWeight`.
        bias1: (H,), x's dtype, or None.
        weight2: (C, H), as ``weight1``.
        bias2: (C,), x's dtype, or None.
        eps: added to the norm's biased variance.
        activation: None, "gelu" (exact), "gelu_tanh", "relu", "silu" or "quick_gelu".
        gamma: (C,) or None. Where its dtype is not x's the result is promoted, as in PyTorch.
        backend: name of the backend to use; None chooses automatically.

    Returns:
        (..., C).

    Raises:
        TypeError: not floating-point tensors, or dtypes that do not go together.
        ValueError: shapes or devices that do not fit, or an unknown activation.
        UnsupportedInput: ``backend`` (or ``use_backend``) names one that refuses the call.
    """
    _check.tensor("x", x)
    tensors = (norm_weight, norm_bias, weight1, bias1, weight2, bias2, gamma)
    _check.weight("weight1", weight1, x, *tensors)
    _check.inference("weight2", weight2, x, *tensors)
    if x.dim() == 0 or x.shape[-1] == 0:
        raise ValueError(f"x must have a last dimension of at least 1, got {_check.shape_of(x)}")
    _epilogue.check_activation(activation)
    c, hidden = x.shape[-1], weight1.shape[0]
    shapes = ((c,), (c,), (hidden, c), (hidden,), (c, hidden), (c,), (c,))
    fused = _check.block(x, _NAMES, tensors, shapes)
    call = MlpBlockCall(x, *tensors, activation, _check.epsilon(eps))
    return _COMPOSED(call, backend) if fused else _compose(call, backend)
