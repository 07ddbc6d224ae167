"""A two-layer perceptron with gated hidden values, such as SwiGLU."""

from __future__ import annotations

import torch

from vitkern.dispatch import Operator
from vitkern.ops import _epilogue
from vitkern.ops.gated_mlp.call import GatedMlpCall
from vitkern.ops.gated_mlp.reference import gated
from vitkern.ops.linear import linear
from vitkern.ops.mlp.checks import checked
from vitkern.ops.weights import ConvertedWeight

_OPERATOR = Operator("gated_mlp", GatedMlpCall, __name__, composed=True)


def gated_mlp(
    x: torch.Tensor,
    weight1: torch.Tensor | ConvertedWeight,
    bias1: torch.Tensor | None,
    weight2: torch.Tensor | ConvertedWeight,
    bias2: torch.Tensor | None,
    *,
    activation: str | None = "silu",
    gamma: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    """``residual + gamma * ((activation(a) * b) @ weight2.T + bias2)`` with a, b of ``weight1``.

    ``a`` and ``b`` are the halves of ``x @ weight1.T + bias1``, as in timm's ``SwiGLUPacked`` and
    DINOv2. With "silu" it is SwiGLU: Shazeer, "GLU Variants Improve Transformer", 2020 (arXiv
    2002.05202).

    Where no backend but ``eager`` takes the call, :func:`vitkern.ops.linear` computes both
    products with the same ``backend``, and PyTorch what is between them. So it is on ``cpu`` and
    ``cuda``, and with a :class:`~vitkern.ops.weights.ConvertedWeight`.

    Args:
        x: (..., K), float32, float64, bfloat16 or float16.
        weight1: (2*H, K), x's dtype; or a :class:`~vitkern.ops.weights.ConvertedWeight`. The first
            H outputs are those that the activation is applied to.
        bias1: (2*H,), x's dtype, or None.
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
    plain, fits = checked(x, weight1, bias1, weight2, bias2, activation, gamma, residual, parts=2)
    call = GatedMlpCall._make(plain)
    if not fits:
        call = call._replace(gamma=None, residual=None)
    y: torch.Tensor | None = _OPERATOR.whole(call, backend)
    if y is None:
        hidden = gated(linear(call.x, call.weight1, call.bias1, backend=backend), activation)
        y = linear(
            hidden, call.weight2, call.bias2, gamma=call.gamma, residual=call.residual,
            backend=backend,
        )  # fmt: skip
    return y if fits else _epilogue.finish(y, gamma, residual)
