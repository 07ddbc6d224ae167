"""``mlp`` in CUDA: two products, the activation in the epilogue of the first."""

from __future__ import annotations

import torch

from vitkern.dispatch import Backend
from vitkern.ops import _epilogue
from vitkern.ops._cpu import ACTIVATIONS
from vitkern.ops._cuda import gemm
from vitkern.ops._cuda.device import DEVICE
from vitkern.ops._cuda.gemm import Epilogue
from vitkern.ops._cuda.kernels import CudaKernels
from vitkern.ops._family import Outputs
from vitkern.ops._products import matrix, plain
from vitkern.ops.mlp import operators
from vitkern.ops.mlp.call import MlpCall


def _launch(
    kernels: CudaKernels,
    outputs: Outputs,
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
    (y, pre1, out2), inputs = outputs, matrix(x)
    hidden = x.new_empty((inputs.shape[0], weight1.shape[0]))
    first = Epilogue(bias1, activation, pre=pre1 if save else None)
    gemm.product(kernels, inputs, weight1, hidden, first)
    keep = out2 if save and gamma is not None else None
    second = Epilogue(bias2, gamma=gamma, residual=residual, pre=keep)
    gemm.product(kernels, hidden, weight2, y, second)


def _launch_backward(
    kernels: CudaKernels,
    outputs: Outputs,
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
    dout2 = gemm.gradient(
        kernels, dy, out2, gamma, 0, dpre=first or need_weight2,
        dbias=dbias2 if need_bias2 else None, dgamma=dgamma if need_gamma else None,
    )  # fmt: skip
    pre1 = matrix(pre1)
    hidden = pre1
    if first:
        # The product of dweight2 wants the hidden values. They are made where pre1 is on chip.
        dpre1 = torch.empty_like(pre1)
        if activation and need_weight2:
            hidden = torch.empty_like(pre1)
        # The kernel's operands have their rows along k: a copy of the weight, which is small.
        after = Epilogue(
            activation=activation, slope=pre1 if activation else None,
            activated=hidden if activation and need_weight2 else None,
        )  # fmt: skip
        columns = weight2.t().contiguous() if activation else weight2.t()
        gemm.product(kernels, dout2, columns, dpre1, after)
        if need_bias1:
            gemm.gradient(kernels, dpre1, None, None, 0, dpre=False, dbias=dbias1, dgamma=None)
        if need_x:
            plain(dpre1, weight1, dx)
        if need_weight1:
            plain(dpre1.t(), matrix(x), dweight1)
    elif need_weight2:
        hidden = _epilogue.activate(pre1, ACTIVATIONS[activation])
    if need_weight2:
        plain(dout2.t(), hidden, dweight2)


def backend(kernels: CudaKernels) -> Backend:
    """The backend on these kernels."""

    def supports(call: MlpCall) -> list[str]:
        """Reasons to refuse: those of every op, and of weights in another form."""
        return kernels.refusals(
            call.x, call.weight1, call.bias1, call.weight2, call.bias2, call.gamma, call.residual
        )

    return operators.backend(kernels, supports, _launch, _launch_backward)


BACKEND = backend(DEVICE)
