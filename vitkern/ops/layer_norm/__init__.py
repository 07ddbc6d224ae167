"""Layer normalisation over the last dimension, with the residual add in the same pass."""

from __future__ import annotations

import torch

from vitkern.dispatch import Operator
from vitkern.ops import _check
from vitkern.ops.layer_norm.call import LayerNormCall

_OPERATOR = Operator("layer_norm", LayerNormCall, __name__)


def layer_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *,
    eps: float = 1e-5,
    residual: torch.Tensor | None = None,
    residual_scale: torch.Tensor | None = None,
    backend: str | None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` over the last dimension.

    Ba, Kiros and Hinton, "Layer Normalization", 2016 (arXiv 1607.06450). ``residual_scale`` is
    DropPath: Huang et al., "Deep Networks with Stochastic Depth", 2016 (arXiv 1603.09382).

    Args:
        x: (..., C), float32, float64, bfloat16 or float16; statistics are float32 or wider.
        weight: (C,) or None; x's dtype, or float32 beside a half-precision x.
        bias: (C,) or None; as ``weight``.
        eps: added to the biased variance.
        residual: shaped like ``x``; the sum ``x + residual`` is normalised and also returned.
        residual_scale: (B,) of x (B, ..., C), x's dtype, or None: what each sample's ``residual``
            is multiplied by first, 0 to drop it. On ``triton`` in the same pass, elsewhere by
            PyTorch before it.
        backend: name of the backend to use; None chooses automatically.

    Returns:
        ``y``, or ``(y, x + residual_scale * residual)`` where a residual is given, in x's dtype.

    Raises:
        TypeError: not floating-point tensors, or dtypes that do not go together.
        ValueError: shapes or devices that do not fit.
        UnsupportedInput: ``backend`` (or ``use_backend``) names one that refuses the call.
    """
    _check.tensor("x", x)
    if x.dim() == 0 or x.shape[-1] == 0:
        raise ValueError(f"x must have a last dimension of at least 1, got {_check.shape_of(x)}")
    width = x.shape[-1:]
    if residual_scale is not None and (residual is None or x.dim() < 2):
        raise ValueError(
            "residual_scale must be None without a residual, and for an x without samples:"
            f" x is {_check.shape_of(x)}"
        )
    given = (weight, bias, residual, residual_scale)
    if not _check.uniform(x, given, (width, width, x.shape, x.shape[:1])):
        for name, value in (("weight", weight), ("bias", bias)):
            if value is None:
                continue
            _check.tensor(name, value)
            _check.shape(name, value, tuple(width), "x's last dimension")
            if value.device != x.device:
                raise ValueError(f"{name} is on {value.device} but x is on {x.device}")
            if value.dtype != x.dtype and (
                value.dtype != torch.float32 or x.dtype not in (torch.bfloat16, torch.float16)
            ):
                raise TypeError(f"{name} is {value.dtype} but x is {x.dtype}")
        if residual is not None:
            _check.tensor("residual", residual)
            _check.shape("residual", residual, tuple(x.shape), "shaped like x")
            _check.same("x", x, residual=residual)
        if residual_scale is not None:
            _check.tensor("residual_scale", residual_scale)
            _check.shape("residual_scale", residual_scale, tuple(x.shape[:1]), "a number a sample")
            _check.same("x", x, residual_scale=residual_scale)
    call = LayerNormCall(x, weight, bias, _check.epsilon(eps), residual, residual_scale)
    return _OPERATOR(call, backend)
