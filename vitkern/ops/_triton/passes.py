"""Passes before the products of a backward: what they multiply is made once, not for each tile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from vitkern.ops._triton.gemm import MODULE, size, target
from vitkern.ops._triton.kernel import Kernel, Resources, cdiv, config
from vitkern.ops._triton.recorder import Work
from vitkern.ops._triton.sums import column_sums

_GRADIENT = Kernel(
    MODULE, "gradient",
    lambda c, itemsize: [
        config(4, 1, BLOCK_R=8, BLOCK_C=128), config(4, 1, BLOCK_R=16, BLOCK_C=64),
        config(4, 1, BLOCK_R=4, BLOCK_C=256),
    ],
    lambda c, itemsize: Resources(0, 6 * c["BLOCK_R"] * c["BLOCK_C"]), tensor_cores=False,
)  # fmt: skip
_ACTIVATED = Kernel(
    MODULE, "activated",
    lambda c, itemsize: [config(4, 1, BLOCK=1024), config(8, 1, BLOCK=2048)],
    lambda c, itemsize: Resources(0, 2 * c["BLOCK"]), tensor_cores=False,
)  # fmt: skip


def gradient(
    dy: torch.Tensor,
    pre: torch.Tensor | None,
    gamma: torch.Tensor | None,
    activation: int,
    *,
    dpre: bool,
    dbias: torch.Tensor | None,
    dgamma: torch.Tensor | None,
) -> torch.Tensor:
    """``dy * gamma * activation'(pre)`` (rows, N), and its sums of columns, in one pass over dy.

    Args:
        dy: (rows, N).
        pre: (..., N), contiguous: what the activation was applied to.
        gamma: (N,): what the activation's result was multiplied by.
        activation: index of.
        dpre: whether the product itself is needed; it is ``dy`` where nothing changes it.
        dbias, dgamma: (N,), get the sums of the result, and of ``dy * activation(pre)``.
    """
    changes = bool(activation) or gamma is not None
    rows, width = dy.shape
    out = dy.new_empty(dy.shape) if changes and dpre else None
    result = dy if out is None else out
    if width == 0 or (out is None and dbias is None and dgamma is None):
        return result
    # Some programs for each processor, each with enough rows that its sums are few bytes.
    wanted = cdiv(4 * target(dy.device).processors, cdiv(width, 128))
    each = max(cdiv(rows, wanted), 32)
    programs = cdiv(rows, each)
    sums, gamma_sums = (
        None if total is None else dy.new_empty((programs, width), dtype=torch.float32)
        for total in (dbias, dgamma)
    )
    if not activation and dgamma is None:
        pre = None

    def work(_: Mapping[str, Any], grid: tuple[int, ...]) -> Work:
        read = size(dy, pre, gamma)
        return Work(read=read, unique=read, written=size(out, sums, gamma_sums))

    if programs:
        _GRADIENT(
            lambda x: (programs, cdiv(width, x["BLOCK_C"])),
            {
                "DY": dy, "PRE": None if pre is None else pre.contiguous(), "GAMMA": gamma,
                "DPRE": out, "SUMS": sums, "GAMMA_SUMS": gamma_sums,
                "rows": rows, "width": width, "each": each,
                "dy_row": dy.stride(0), "dy_column": dy.stride(1),
                "gamma_step": 0 if gamma is None else gamma.stride(0),
            },
            {"ACTIVATION": activation},
            work,
            operand=dy,
        )  # fmt: skip
    for partial, total in ((sums, dbias), (gamma_sums, dgamma)):
        if partial is not None and total is not None:
            column_sums(partial, total)
    return result


def activated(pre: torch.Tensor, activation: int) -> torch.Tensor:
    """The activation of ``pre``, in its dtype; contiguous."""
    pre = pre.contiguous()
    if not activation or not pre.numel():
        return pre
    result, count = torch.empty_like(pre), pre.numel()

    def work(_: Mapping[str, Any], grid: tuple[int, ...]) -> Work:
        return Work(read=size(pre), unique=size(pre), written=size(result))

    _ACTIVATED(
        lambda x: (cdiv(count, x["BLOCK"]),),
        {"PRE": pre, "Y": result, "size": count},
        {"ACTIVATION": activation},
        work,
        operand=pre,
    )
    return result
