"""``mlp`` in Triton: two products, the activation in the epilogue of the first."""

from __future__ import annotations

import torch

from vitkern.ops._products import matrix
from vitkern.ops._triton import availability, gemm, passes
from vitkern.ops._triton.gemm import Epilogue
from vitkern.ops._triton.operator import TRITON
from vitkern.ops.mlp import operators
from vitkern.ops.mlp.call import MlpCall
from vitkern.ops.weights import source


def supports(call: MlpCall) -> list[str]:
    """Reasons to refuse: those of every op, and of weights as int8."""
    return availability.refusals(
        call.x, source(call.weight1), call.bias1, source(call.weight2), call.bias2,
        call.gamma, call.residual,
    )  # fmt: skip


def _launch(
    outputs: tuple[torch.Tensor, ...],
    x: torch.Tensor,
    weight1: torch.Tensor,
    bias1: torch.Tensor | None,
    weight2: torch.Tensor,
    bias2: torch.Tensor | None,
    activation: int,
    gamma: torch.Tensor | None,
    residual: torch.Tensor | None,
    half1: bool,
    half2: bool,
    save: bool,
) -> None:
    (y, pre1, out2), rows = outputs, matrix(x)
    # The second product would round it anyway.
    dtype = torch.bfloat16 if half2 else x.dtype
    hidden = x.new_empty((rows.shape[0], weight1.shape[0]), dtype=dtype)
    first = Epilogue(bias1, activation, pre=pre1 if save else None)
    gemm.product(rows, weight1.t(), hidden, first, half=half1)
    keep = out2 if save and gamma is not None else None
    second = Epilogue(bias2, gamma=gamma, residual=residual, pre=keep)
    gemm.product(hidden, weight2.t(), y, second, half=half2)


def _launch_backward(
    outputs: tuple[torch.Tensor, ...],
    dy: torch.Tensor,
    x: torch.Tensor,
    weight1: torch.Tensor,
    weight2: torch.Tensor,
    pre1: torch.Tensor,
    out2: torch.Tensor | None,
    activation: int,
    gamma: torch.Tensor | None,
    need_x: bool,
    need_weight1: bool,
    need_bias1: bool,
    need_weight2: bool,
    need_bias2: bool,
    need_gamma: bool,
) -> None:
    dx, dweight1, dbias1, dweight2, dbias2, dgamma = outputs
    first = need_x or need_weight1 or need_bias1
    dout2 = passes.gradient(
        matrix(dy), out2, gamma, 0, dpre=first or need_weight2,
        dbias=dbias2 if need_bias2 else None, dgamma=dgamma if need_gamma else None,
    )  # fmt: skip
    pre1 = matrix(pre1.contiguous())
    hidden = pre1
    if first:
        # The product of dweight2 wants the hidden values. They are made where pre1 is on chip
        # anyway: while that product loads them, each would be made for every tile of columns.
        dpre1 = torch.empty_like(pre1)
        if activation and need_weight2:
            hidden = torch.empty_like(pre1)
        after = Epilogue(
            activation=activation, slope=pre1 if activation else None,
            activated=hidden if activation and need_weight2 else None,
            sums=dbias1 if need_bias1 else None,
        )  # fmt: skip
        gemm.product(dout2, weight2, dpre1, after)
        if need_x:
            gemm.product(dpre1, weight1, dx)
        if need_weight1:
            gemm.product(dpre1.t(), matrix(x), dweight1)
    elif need_weight2:
        hidden = passes.activated(pre1, activation)
    if need_weight2:
        gemm.product(dout2.t(), hidden, dweight2)


BACKEND = operators.backend(TRITON, supports, _launch, _launch_backward)
