"""The checks of ``mlp``'s and ``gated_mlp``'s arguments."""

from __future__ import annotations

import torch

from vitkern.ops import _check, _epilogue
from vitkern.ops.mlp.call import MlpCall
from vitkern.ops.weights import ConvertedWeight


def checked(
    x: torch.Tensor,
    weight1: torch.Tensor | ConvertedWeight,
    bias1: torch.Tensor | None,
    weight2: torch.Tensor | ConvertedWeight,
    bias2: torch.Tensor | None,
    activation: str | None,
    gamma: torch.Tensor | None,
    residual: torch.Tensor | None,
    *,
    parts: int = 1,
) -> tuple[MlpCall, bool]:
    """The call that these arguments make, and whether it can do all of it.

    Where it cannot, ``gamma`` and ``residual`` promote the result's dtype: they come after a call
    without them. ``parts``: how many times ``weight2``'s inputs ``weight1``'s outputs are.

    Raises:
        TypeError, ValueError: as ``mlp``.
    """
    _check.tensor("x", x)
    tensors = (weight1, bias1, weight2, bias2, gamma, residual)
    _check.weight("weight1", weight1, x, *tensors)
    _check.weight("weight2", weight2, x, *tensors)
    (hidden, inputs), width = weight1.shape, weight2.shape[0]
    if x.dim() == 0 or x.shape[-1] != inputs:
        raise ValueError(
            f"x must have a last dimension of {inputs} (weight1 is"
            f" {_check.shape_of(weight1)}), got shape {_check.shape_of(x)}"
        )
    if hidden % parts:
        raise ValueError(
            f"weight1 must have a first dimension that is a multiple of {parts}, got"
            f" {_check.shape_of(weight1)}"
        )
    _epilogue.check_activation(activation)
    output = () if residual is None else (*x.shape[:-1], width)
    shapes = (weight1.shape, (hidden,), (width, hidden // parts), (width,), (width,), output)
    fits = True
    if _check.autocasts(x) or not _check.uniform(x, tensors, shapes):
        meaning = "its second dimension is weight1's first"
        if parts > 1:
            meaning += f" over {parts}"
        _check.shape("weight2", weight2, (width, hidden // parts), meaning)
        if bias1 is not None:
            _check.tensor("bias1", bias1)
            _check.shape("bias1", bias1, (hidden,), "weight1's first dimension")
        if bias2 is not None:
            _check.tensor("bias2", bias2)
            _check.shape("bias2", bias2, (width,), "weight2's first dimension")
        _epilogue.check(x, width, gamma, residual)
        x, weight1, bias1, weight2, bias2 = _check.autocast(x, weight1, bias1, weight2, bias2)
        _check.same("x", x, weight1=weight1, bias1=bias1, weight2=weight2, bias2=bias2)
        fits = _epilogue.fits(x, gamma, residual)
    return MlpCall(x, weight1, bias1, weight2, bias2, activation, gamma, residual), fits
