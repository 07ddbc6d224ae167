"""The registered operators of ``linear``, the same for each family of GPU kernels."""

from __future__ import annotations

from collections.abc import Callable

import torch

from vitkern.dispatch import Backend
from vitkern.dispatch.backend import Tensors
from vitkern.ops._cpu import ACTIVATIONS
from vitkern.ops._cuda.kernels import CudaKernels
from vitkern.ops._family import Family, empty_unless
from vitkern.ops.linear.call import LinearCall
from vitkern.ops.weights import rounds, source


def _allocate(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    activation: int,
    gamma: torch.Tensor | None,
    residual: torch.Tensor | None,
    half: bool,
    save: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (*x.shape[:-1], weight.shape[0])
    return x.new_empty(shape), empty_unless(save, x, shape)


def _allocate_backward(
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
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    width = weight.shape[0]
    return (
        empty_unless(need_x, x, x.shape),
        empty_unless(need_weight, x, weight.shape),
        empty_unless(need_bias, x, (width,)),
        empty_unless(need_gamma, x, (width,)),
    )


def backend(
    kernels: Family | CudaKernels,
    supports: Callable[[LinearCall], list[str]],
    launch: Callable[..., None],
    launch_backward: Callable[..., None],
) -> Backend:
    """The backend of a family, from what launches its kernels."""
    run = kernels.operator("linear", _allocate, launch)
    run_backward = kernels.operator("linear_backward", _allocate_backward, launch_backward)

    def forward(call: LinearCall, needs_grad: bool) -> tuple[torch.Tensor, Tensors]:
        """Keeps what the activation was applied to, where the gradient depends on it."""
        save = needs_grad and (call.activation is not None or call.gamma is not None)
        y, pre = run(
            call.x, source(call.weight), call.bias, ACTIVATIONS.index(call.activation),
            call.gamma, call.residual, rounds(call.weight), save,
        )  # fmt: skip
        return y, (pre,) if save else ()

    def backward(
        call: LinearCall,
        saved: Tensors,
        grads: tuple[torch.Tensor, ...],
        needs: tuple[bool, ...],
    ) -> Tensors:
        """The residual's gradient is the output's."""
        (dy,), (need_x, need_weight, need_bias, _, need_gamma, need_residual) = grads, needs
        dx = dweight = dbias = dgamma = None
        if need_x or need_weight or need_bias or need_gamma:
            dx, dweight, dbias, dgamma = run_backward(
                dy, call.x, call.weight, saved[0] if saved else None,
                ACTIVATIONS.index(call.activation), call.gamma,
                need_x, need_weight, need_bias, need_gamma,
            )  # fmt: skip
        return (
            dx if need_x else None,
            dweight if need_weight else None,
            dbias if need_bias else None,
            None,
            dgamma if need_gamma else None,
            dy if need_residual else None,
        )

    return kernels.backend(supports, forward, backward)
