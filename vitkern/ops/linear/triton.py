"""``linear`` in Triton: one product with everything else in its epilogue."""

from __future__ import annotations

import torch

from vitkern.ops._products import Epilogue, matrix
from vitkern.ops._triton import availability, gemm, passes
from vitkern.ops._triton.operator import TRITON
from vitkern.ops.linear import operators
from vitkern.ops.linear.call import LinearCall
from vitkern.ops.weights import source


def supports(call: LinearCall) -> list[str]:
    """Reasons to refuse: those of every op, and of weights as int8."""
    return availability.refusals(call.x, source(call.weight), call.bias, call.gamma, call.residual)


def _launch(
    outputs: tuple[torch.Tensor, ...],
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    activation: int,
    gamma: torch.Tensor | None,
    residual: torch.Tensor | None,
    half: bool,
    save: bool,
) -> None:
    y, pre = outputs
    after = Epilogue(bias, activation, gamma, residual, pre=pre if save else None)
    gemm.product(matrix(x), weight.t(), y, after, half=half)


def _launch_backward(
    outputs: tuple[torch.Tensor, ...],
    dy: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    pre: torch.Tensor | None,
    activation: int,
    gamma: torch.Tensor | None,
    need_x: bool,
    need_weight: bool,
    need_bias: bool,
    need_gamma: bool,
) -> None:
    dx, dweight, dbias, dgamma = outputs
    dpre = passes.gradient(
        matrix(dy), pre, gamma, activation, dpre=need_x or need_weight,
        dbias=dbias if need_bias else None, dgamma=dgamma if need_gamma else None,
    )  # fmt: skip
    if need_x:
        gemm.product(dpre, weight, dx)
    if need_weight:
        gemm.product(dpre.t(), matrix(x), dweight)


BACKEND = operators.backend(TRITON, supports, _launch, _launch_backward)
