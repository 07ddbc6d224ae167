"""A transformer block's two-layer perceptron, with LayerScale and residual in the same pass."""

from __future__ import annotations

import torch

from vitkern.dispatch import Operator
from vitkern.ops import _epilogue
from vitkern.ops.mlp.call import MlpCall
from vitkern.ops.mlp.checks import checked
from vitkern.ops.weights import ConvertedWeight

_OPERATOR = Operator("mlp", MlpCall, __name__)


def mlp(
    x: torch.Tensor,
    weight1: torch.Tensor | ConvertedWeight,
    bias1: torch.Tensor | None,
    weight2: torch.Tensor | ConvertedWeight,
    bias2: torch.Tensor | None,
    *,
    activation: str | None = "gelu",
    gamma: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    """``residual + gamma * (activation(x @ weight1.T + bias1) @ weight2.T + bias2)``.

    The feed-forward layer of Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020 (arXiv
    2010.11929); ``gamma`` is LayerScale, Touvron et al., 2021 (arXiv 2103.17239).

    Args:
        x: (..., K), float32, float64, bfloat16 or float16.
        weight1: (H, K), x's dtype; or a :class:`~vitkern.ops.weights.ConvertedWeight`.
        bias1: (H,), x's dtype, or None.
        weight2: (N, H), as ``weight1``.
        bias2: (N,), x's dtype, or None.
        activation: None, "gelu" (exact), "gelu_tanh", "relu", "silu" or "quick_gelu".
        gamma: (N,) or None. Where its dtype is not x's the result is promoted, as in PyTorch.
        residual: (..., N) or None; of any dtype, as ``gamma``.
        backend: name of the backend to use; None chooses automatically.

    Under autocast ``x``, the weights and their biases are taken in autocast's dtype; ``gamma`` and
    ``residual`` keep theirs.

    Returns:
        (..., N).

    Raises:
        TypeError: not floating-point tensors, or dtypes that do not go together.
        ValueError: shapes or devices that do not fit, or an unknown activation.
        UnsupportedInput: ``backend`` (or ``use_backend``) names one that refuses the call.
    """
    call, fits = checked(x, weight1, bias1, weight2, bias2, activation, gamma, residual)
    if fits:
        y: torch.Tensor = _OPERATOR(call, backend)
        return y
    bare = call._replace(gamma=None, residual=None)
    return _epilogue.finish(_OPERATOR(bare, backend), gamma, residual)
