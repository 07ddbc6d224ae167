"""A linear layer with bias, activation, LayerScale and residual in the same pass."""

from __future__ import annotations

import torch

from vitkern.dispatch import Operator
from vitkern.ops import _check, _epilogue
from vitkern.ops.linear.call import LinearCall
from vitkern.ops.weights import ConvertedWeight

_OPERATOR = Operator("linear", LinearCall, __name__)


def linear(
    x: torch.Tensor,
    weight: torch.Tensor | ConvertedWeight,
    bias: torch.Tensor | None = None,
    *,
    activation: str | None = None,
    gamma: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    """``residual + gamma * activation(x @ weight.T + bias)``.

    ``gamma`` is LayerScale: Touvron et al., "Going deeper with Image Transformers", 2021
    (arXiv 2103.17239). ``gelu`` and ``silu``: Hendrycks and Gimpel, "Gaussian Error Linear
    Units", 2016 (arXiv 1606.08415); ``gelu`` is the exact one.

    Args:
        x: (..., K), float32, float64, bfloat16 or float16.
        weight: (N, K), x's dtype; or a :class:`~vitkern.ops.weights.ConvertedWeight`.
        bias: (N,), x's dtype, or None.
        activation: None, "gelu", "gelu_tanh", "relu", "silu" or "quick_gelu".
        gamma: (N,) or None. Where its dtype is not x's the result is promoted, as in PyTorch.
        residual: (..., N) or None; of any dtype, as ``gamma``.
        backend: name of the backend to use; None chooses automatically.

    Under autocast ``x``, ``weight`` and ``bias`` are taken in autocast's dtype; ``gamma`` and
    ``residual`` keep theirs.

    Returns:
        (..., N).

    Raises:
        TypeError: not floating-point tensors, or dtypes that do not go together.
        ValueError: shapes or devices that do not fit, or an unknown activation.
        UnsupportedInput: ``backend`` (or ``use_backend``) names one that refuses the call.
    """
    _check.tensor("x", x)
    _check.weight("weight", weight, x, bias, gamma, residual)
    width, inputs = weight.shape
    if x.dim() == 0 or x.shape[-1] != inputs:
        raise ValueError(
            f"x must have a last dimension of {inputs} (weight is"
            f" {_check.shape_of(weight)}), got shape {_check.shape_of(x)}"
        )
    _epilogue.check_activation(activation)
    output = () if residual is None else (*x.shape[:-1], width)
    tensors, shapes = (weight, bias, gamma, residual), (weight.shape, (width,), (width,), output)
    if _check.autocasts(x) or not _check.uniform(x, tensors, shapes):
        if bias is not None:
            _check.tensor("bias", bias)
            _check.shape("bias", bias, (width,), "weight's first dimension")
        _epilogue.check(x, width, gamma, residual)
        x, weight, bias = _check.autocast(x, weight, bias)
        _check.same("x", x, weight=weight, bias=bias)
        if not _epilogue.fits(x, gamma, residual):
            call = LinearCall(x, weight, bias, activation, None, None)
            return _epilogue.finish(_OPERATOR(call, backend), gamma, residual)
    y: torch.Tensor = _OPERATOR(LinearCall(x, weight, bias, activation, gamma, residual), backend)
    return y
