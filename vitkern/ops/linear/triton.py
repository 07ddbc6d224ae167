"""``linear`` in Triton: one product with everything else in its epilogue."""

from __future__ import annotations

import torch

from vitkern.dispatch import Backend
from vitkern.dispatch.backend import Tensors
from vitkern.ops._cpu import ACTIVATIONS
from vitkern.ops._family import empty_unless
from vitkern.ops._triton import availability, gemm, passes
from vitkern.ops._triton.operator import operator
from vitkern.ops.linear.call import LinearCall


def supports(call: LinearCall) -> list[str]:
    """Reasons to refuse: those of every op, and of weights as int8."""
    return availability.refusals(
        call.x, gemm.source(call.weight), call.bias, call.gamma, call.residual
    )


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
    after = gemm.Epilogue(bias, activation, gamma, residual, pre=pre if save else None)
    gemm.product(gemm.matrix(x), weight.t(), y, after, half=half)


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
        gemm.matrix(dy), pre, gamma, activation, dpre=need_x or need_weight,
        dbias=dbias if need_bias else None, dgamma=dgamma if need_gamma else None,
    )  # fmt: skip
    if need_x:
        gemm.product(dpre, weight, dx)
    if need_weight:
        gemm.product(dpre.t(), gemm.matrix(x), dweight)


_forward = operator("linear", _allocate, _launch)
_backward = operator("linear_backward", _allocate_backward, _launch_backward)


def forward(call: LinearCall, needs_grad: bool) -> tuple[torch.Tensor, Tensors]:
    """Keeps what the activation was applied to, where the gradient depends on it."""
    save = needs_grad and (call.activation is not None or call.gamma is not None)
    y, pre = _forward(
        call.x, gemm.source(call.weight), call.bias, ACTIVATIONS.index(call.activation),
        call.gamma, call.residual, gemm.rounds(call.weight), save,
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
        dx, dweight, dbias, dgamma = _backward(
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


BACKEND = Backend("triton", supports, forward, backward, availability.missing)
