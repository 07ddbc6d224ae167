"""``linear`` in CUDA: one product with everything else in its epilogue."""

from __future__ import annotations

import torch

from vitkern.dispatch import Backend
from vitkern.ops._cuda import gemm
from vitkern.ops._cuda.device import DEVICE
from vitkern.ops._cuda.kernels import CudaKernels
from vitkern.ops._family import Outputs
from vitkern.ops._products import Epilogue, matrix, plain
from vitkern.ops.linear import operators
from vitkern.ops.linear.call import LinearCall


def _launch(
    kernels: CudaKernels,
    outputs: Outputs,
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
    gemm.product(kernels, matrix(x), weight, y, after)


def _launch_backward(
    kernels: CudaKernels,
    outputs: Outputs,
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
    dpre = gemm.gradient(
        kernels, dy, pre, gamma, activation, dpre=need_x or need_weight,
        dbias=dbias if need_bias else None, dgamma=dgamma if need_gamma else None,
    )  # fmt: skip
    if need_x:
        plain(dpre, weight, dx)
    if need_weight:
        plain(dpre.t(), matrix(x), dweight)


def backend(kernels: CudaKernels) -> Backend:
    """The backend on these kernels."""

    def supports(call: LinearCall) -> list[str]:
        """Reasons to refuse: those of every op, and of weights in another form."""
        return kernels.refusals(call.x, call.weight, call.bias, call.gamma, call.residual)

    return operators.backend(kernels, supports, _launch, _launch_backward)


BACKEND = backend(DEVICE)
