"""``gated_mlp`` in Triton: two products, the gate in the epilogue of the first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from vitkern.dispatch.backend import Tensors
from vitkern.ops._cpu import ACTIVATIONS
from vitkern.ops._family import Outputs, empty_unless
from vitkern.ops._products import matrix
from vitkern.ops._triton import availability, gemm, passes
from vitkern.ops._triton.gemm import Epilogue
from vitkern.ops._triton.kernel import Kernel, Resources, cdiv, config, target_for
from vitkern.ops._triton.operator import TRITON
from vitkern.ops._triton.recorder import Work
from vitkern.ops._triton.sums import column_sums
from vitkern.ops.gated_mlp.call import GatedMlpCall

_MODULE = "vitkern.ops.gated_mlp.triton_kernels"

_PRODUCT = Kernel(_MODULE, "gated_product", gemm.space, gemm.model)
_GRADIENT = Kernel(
    _MODULE, "gated_gradient",
    lambda c, itemsize: [
        config(4, 1, BLOCK_R=8, BLOCK_C=128), config(4, 1, BLOCK_R=16, BLOCK_C=64),
        config(4, 1, BLOCK_R=4, BLOCK_C=256),
    ],
    lambda c, itemsize: Resources(0, 6 * c["BLOCK_R"] * c["BLOCK_C"]), tensor_cores=False,
)  # fmt: skip


def supports(call: GatedMlpCall) -> list[str]:
    """Reasons to refuse: those of every op, and weights in other forms."""
    return availability.refusals(
        call.x, call.weight1, call.bias1, call.weight2, call.bias2, call.gamma, call.residual
    )


def _hidden(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    activation: int,
    hidden: torch.Tensor,
    pre: torch.Tensor | None,
) -> None:
    """``hidden`` (rows, H), and ``pre`` (..., 2*H) where it is wanted, of ``x`` (rows, K)."""
    (rows, inputs), outputs = x.shape, weight.shape[0]
    if not rows or not outputs:
        return
    how = gemm.plan(
        _PRODUCT, rows, outputs, inputs, weight,
        {"ACTIVATION": activation, "ALIGNED": gemm.aligned(x, weight)}, whole=True,
    )  # fmt: skip

    def work(constants: Mapping[str, Any], _: tuple[int, ...]) -> Work:
        traffic = gemm.size(bias), gemm.size(hidden, pre)
        return how.work(constants, (gemm.size(x), gemm.size(weight)), traffic)

    _PRODUCT(
        how.grid,
        {
            "A": x, "B": weight, "BIAS": bias, "C": hidden, "PRE": pre, **how.sizes(),
            "a_row": x.stride(0), "a_step": x.stride(1),
            "b_step": weight.stride(1), "b_column": weight.stride(0),
            "bias_step": 0 if bias is None else bias.stride(0),
        },
        how.constants,
        work,
        operand=weight,
    )  # fmt: skip


def _gradients(
    dhidden: torch.Tensor | None,
    pre: torch.Tensor,
    activation: int,
    *,
    dpre: torch.Tensor | None,
    hidden: torch.Tensor | None,
    dbias: torch.Tensor | None,
) -> None:
    """What ``gated_gradient`` gives, each where it is not None; ``dbias`` (2*H,) is dpre's sums."""
    rows, half = pre.shape[0], pre.shape[1] // 2
    if dbias is not None and not rows:
        dbias.zero_()
    if not rows or not half:
        return
    # Some programs for each processor, each with enough rows that its sums are few bytes.
    wanted = cdiv(4 * target_for(pre.device).processors, cdiv(half, 128))
    each = max(cdiv(rows, wanted), 32)
    programs = cdiv(rows, each)
    sums = None
    if dbias is not None:
        sums = pre.new_empty((programs, 2 * half), dtype=torch.float32)

    def work(_: Mapping[str, Any], grid: tuple[int, ...]) -> Work:
        read = gemm.size(dhidden, pre)
        return Work(read=read, unique=read, written=gemm.size(dpre, hidden, sums))

    _GRADIENT(
        lambda c: (programs, cdiv(half, c["BLOCK_C"])),
        {
            "DHIDDEN": dhidden, "PRE": pre, "DPRE": dpre, "HIDDEN": hidden, "SUMS": sums,
            "rows": rows, "half": half, "each": each,
        },
        {"ACTIVATION": activation},
        work,
        operand=pre,
    )  # fmt: skip
    if sums is not None and dbias is not None:
        column_sums(sums, dbias)


def _allocate(
    x: torch.Tensor,
    weight1: torch.Tensor,
    bias1: torch.Tensor | None,
    weight2: torch.Tensor,
    bias2: torch.Tensor | None,
    activation: int,
    gamma: torch.Tensor | None,
    residual: torch.Tensor | None,
    save: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rows = x.shape[:-1]
    y = x.new_empty((*rows, weight2.shape[0]))
    return (
        y,
        empty_unless(save, x, (*rows, weight1.shape[0])),
        empty_unless(save and gamma is not None, x, y.shape),
    )


def _launch(
    outputs: Outputs,
    x: torch.Tensor,
    weight1: torch.Tensor,
    bias1: torch.Tensor | None,
    weight2: torch.Tensor,
    bias2: torch.Tensor | None,
    activation: int,
    gamma: torch.Tensor | None,
    residual: torch.Tensor | None,
    save: bool,
) -> None:
    (y, pre, out2), rows = outputs, matrix(x)
    hidden = x.new_empty((rows.shape[0], weight2.shape[1]))
    _hidden(rows, weight1, bias1, activation, hidden, pre if save else None)
    keep = out2 if save and gamma is not None else None
    gemm.product(hidden, weight2.t(), y, Epilogue(bias2, gamma=gamma, residual=residual, pre=keep))


def _allocate_backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    weight1: torch.Tensor,
    weight2: torch.Tensor,
    pre: torch.Tensor,
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
    outputs, width = weight1.shape[0], weight2.shape[0]
    return (
        empty_unless(need_x, x, x.shape),
        empty_unless(need_weight1, x, weight1.shape),
        empty_unless(need_bias1, x, (outputs,)),
        empty_unless(need_weight2, x, weight2.shape),
        empty_unless(need_bias2, x, (width,)),
        empty_unless(need_gamma, x, (width,)),
    )


def _launch_backward(
    outputs: Outputs,
    dy: torch.Tensor,
    x: torch.Tensor,
    weight1: torch.Tensor,
    weight2: torch.Tensor,
    pre: torch.Tensor,
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
    pre = matrix(pre.contiguous())
    hidden = pre.new_empty((pre.shape[0], weight2.shape[1])) if need_weight2 else None
    dhidden = dpre = None
    if first:
        dhidden = pre.new_empty((pre.shape[0], weight2.shape[1]))
        gemm.product(dout2, weight2, dhidden)
        dpre = torch.empty_like(pre) if need_x or need_weight1 else None
    if first or hidden is not None:
        _gradients(
            dhidden, pre, activation, dpre=dpre, hidden=hidden,
            dbias=dbias1 if need_bias1 else None,
        )  # fmt: skip
    if dpre is not None and need_x:
        gemm.product(dpre, weight1, dx)
    if dpre is not None and need_weight1:
        gemm.product(dpre.t(), matrix(x), dweight1)
    if hidden is not None:
        gemm.product(dout2.t(), hidden, dweight2)


_run = TRITON.operator("gated_mlp", _allocate, _launch)
_run_backward = TRITON.operator("gated_mlp_backward", _allocate_backward, _launch_backward)


def forward(call: GatedMlpCall, needs_grad: bool) -> tuple[torch.Tensor, Tensors]:
    """Keeps both halves before the activation, and what gamma multiplied if there is one."""
    operands: dict[str, Any] = call._asdict()
    operands["activation"] = ACTIVATIONS.index(call.activation)
    y, pre, out2 = _run(*operands.values(), needs_grad)
    return y, (pre, None if call.gamma is None else out2) if needs_grad else ()


def backward(
    call: GatedMlpCall,
    saved: Tensors,
    grads: tuple[torch.Tensor, ...],
    needs: tuple[bool, ...],
) -> Tensors:
    """The residual's gradient is the output's."""
    (dy,), (pre, out2) = grads, saved
    *first, _, need_gamma, need_residual = needs  # x, weights and biases; the activation
    wanted = (*first, need_gamma)
    results: list[torch.Tensor | None] = [None] * len(wanted)
    if any(wanted):
        computed = _run_backward(
            dy, call.x, call.weight1, call.weight2, pre, out2, ACTIVATIONS.index(call.activation),
            call.gamma, *wanted,
        )  # fmt: skip
        results = [grad if need else None for grad, need in zip(computed, wanted, strict=True)]
    return (*results[:5], None, results[5], dy if need_residual else None)


BACKEND = TRITON.backend(supports, forward, backward)
