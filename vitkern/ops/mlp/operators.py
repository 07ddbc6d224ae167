"""The registered operators of ``mlp``, the same for each family of GPU kernels."""

from __future__ import annotations

from collections.abc import Callable

import torch

from vitkern.dispatch import Backend
from vitkern.dispatch.backend import Tensors
from vitkern.ops._cpu import ACTIVATIONS
from vitkern.ops._cuda.kernels import CudaKernels
from vitkern.ops._family import Family, empty_unless
from vitkern.ops.mlp.call import MlpCall
from vitkern.ops.weights import rounds, source


def _allocate(
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
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rows = x.shape[:-1]
    y = x.new_empty((*rows, weight2.shape[0]))
    return (
        y,
        empty_unless(save, x, (*rows, weight1.shape[0])),
        empty_unless(save and gamma is not None, x, y.shape),
    )


def _allocate_backward(
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
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    hidden, width = weight1.shape[0], weight2.shape[0]
    return (
        empty_unless(need_x, x, x.shape),
        empty_unless(need_weight1, x, weight1.shape),
        empty_unless(need_bias1, x, (hidden,)),
        empty_unless(need_weight2, x, weight2.shape),
        empty_unless(need_bias2, x, (width,)),
        empty_unless(need_gamma, x, (width,)),
    )


def backend(
    kernels: Family | CudaKernels,
    supports: Callable[[MlpCall], list[str]],
    launch: Callable[..., None],
    launch_backward: Callable[..., None],
) -> Backend:
    """The backend of a family, from what launches its kernels."""
    run = kernels.operator("mlp", _allocate, launch)
    run_backward = kernels.operator("mlp_backward", _allocate_backward, launch_backward)

    def forward(call: MlpCall, needs_grad: bool) -> tuple[torch.Tensor, Tensors]:
        """Keeps what the activation was applied to, and what gamma multiplied if there is one."""
        y, pre1, out2 = run(
            call.x, source(call.weight1), call.bias1, source(call.weight2), call.bias2,
            ACTIVATIONS.index(call.activation), call.gamma, call.residual,
            rounds(call.weight1), rounds(call.weight2), needs_grad,
        )  # fmt: skip
        return y, (pre1, None if call.gamma is None else out2) if needs_grad else ()

    def backward(
        call: MlpCall,
        saved: Tensors,
        grads: tuple[torch.Tensor, ...],
        needs: tuple[bool, ...],
    ) -> Tensors:
        """The residual's gradient is the output's."""
        (dy,), (pre1, out2) = grads, saved
        *first, _, need_gamma, need_residual = needs  # x, weights and biases; the activation
        wanted = (*first, need_gamma)
        results: list[torch.Tensor | None] = [None] * len(wanted)
        if any(wanted):
            computed = run_backward(
                dy, call.x, call.weight1, call.weight2, pre1, out2,
                ACTIVATIONS.index(call.activation), call.gamma, *wanted,
            )  # fmt: skip
            results = [grad if need else None for grad, need in zip(computed, wanted, strict=True)]
        return (*results[:5], None, results[5], dy if need_residual else None)

    return kernels.backend(supports, forward, backward)
