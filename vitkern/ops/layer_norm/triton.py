"""``layer_norm`` in Triton."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from vitkern.ops._triton import availability
from vitkern.ops._triton.kernel import Config, Kernel, Resources, cdiv, config, pow2
from vitkern.ops._triton.operator import TRITON
from vitkern.ops._triton.recorder import Work
from vitkern.ops._triton.sums import column_sums
from vitkern.ops._triton.targets import target_of
from vitkern.ops.layer_norm import operators
from vitkern.ops.layer_norm.call import LayerNormCall

WIDEST = 16384
"""A program has whole rows in registers."""

_MODULE = "vitkern.ops.layer_norm.triton_kernels"


def supports(call: LayerNormCall) -> list[str]:
    """Reasons to refuse: those of every op, and rows that do not fit on chip."""
    reasons = availability.refusals(
        call.x, call.weight, call.bias, call.residual, call.residual_scale
    )
    width = call.x.shape[-1]
    if not reasons and width > WIDEST:
        reasons.append(f"a last dimension of {width}; takes at most {WIDEST}")
    return reasons


def _forward_space(constants: Mapping[str, Any], itemsize: int) -> Sequence[Config]:
    return _space(constants["BLOCK_C"], 1024)


def _backward_space(constants: Mapping[str, Any], itemsize: int) -> Sequence[Config]:
    return _space(constants["BLOCK_C"], 512)  # five tiles live at once, not three


def _space(width: int, elements: int) -> Sequence[Config]:
    """A warp for every 256 columns, and rows that make up a number of elements, and twice that."""
    warps = min(max(width // 256, 1), 16)
    rows = max(elements // width, 1)
    return [config(warps, 1, BLOCK_R=rows), config(warps, 1, BLOCK_R=2 * rows),
            config(min(2 * warps, 16), 1, BLOCK_R=rows)]  # fmt: skip


# Live at once: forward x, the centred x and y; backward dy, x, the normal and two sums.
_FORWARD = Kernel(
    _MODULE, "forward", _forward_space,
    lambda c, itemsize: Resources(0, 3 * c["BLOCK_R"] * c["BLOCK_C"]), tensor_cores=False,
)  # fmt: skip
_BACKWARD = Kernel(
    _MODULE, "backward", _backward_space,
    lambda c, itemsize: Resources(0, 5 * c["BLOCK_R"] * c["BLOCK_C"]), tensor_cores=False,
)  # fmt: skip


def _bytes(*tensors: torch.Tensor | None) -> float:
    return float(sum(t.numel() * t.element_size() for t in tensors if t is not None))


def _launch(
    outputs: tuple[torch.Tensor, ...],
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    residual: torch.Tensor | None,
    residual_scale: torch.Tensor | None,
    save: bool,
) -> None:
    (y, total, stats), width = outputs, x.shape[-1]
    samples, x = x.shape[0], x.reshape(-1, width)
    rows = x.shape[0]
    if rows == 0:
        return
    residual = None if residual is None else residual.reshape(-1, width)

    def work(_: Mapping[str, Any], grid: tuple[int, ...]) -> Work:
        once = _bytes(x, residual, weight, bias)
        read = _bytes(x, residual) + grid[0] * _bytes(weight, bias)
        return Work(read=read, unique=once, written=_bytes(*outputs))

    _FORWARD(
        lambda c: (cdiv(rows, c["BLOCK_R"]),),
        {
            "X": x, "RESIDUAL": residual, "SCALE": residual_scale, "WEIGHT": weight, "BIAS": bias,
            "Y": y, "TOTAL": total, "STATS": stats, "rows": rows, "width": width, "eps": eps,
            "x_row": x.stride(0), "x_column": x.stride(1),
            "residual_row": 0 if residual is None else residual.stride(0),
            "residual_column": 0 if residual is None else residual.stride(1),
            **_per_sample(residual_scale, rows, samples),
            "weight_step": 0 if weight is None else weight.stride(0),
            "bias_step": 0 if bias is None else bias.stride(0),
        },
        {"BLOCK_C": pow2(width), "SAVE": save},
        work,
        operand=x,
    )  # fmt: skip


def _per_sample(scale: torch.Tensor | None, rows: int, samples: int) -> dict[str, int]:
    """A kernel's arguments for a scale: how many rows share a number, and its stride."""
    if scale is None:
        return {"together": 0, "scale_step": 0}
    return {"together": rows // samples, "scale_step": scale.stride(0)}


def _launch_backward(
    outputs: tuple[torch.Tensor, ...],
    dy: torch.Tensor,
    dsum: torch.Tensor | None,
    x: torch.Tensor,
    weight: torch.Tensor | None,
    stats: torch.Tensor,
    residual_scale: torch.Tensor | None,
    need_x: bool,
    need_weight: bool,
    need_bias: bool,
    need_residual: bool,
) -> None:
    (dx, dweight, dbias, dresidual), width = outputs, x.shape[-1]
    samples = x.shape[0]
    x, dy = x.reshape(-1, width), dy.reshape(-1, width)
    dsum = None if dsum is None else dsum.reshape(-1, width)
    rows = x.shape[0]
    # As many programs as fill the device twice, whatever the configuration: each leaves sums.
    each = max(cdiv(rows, 2 * target_of(x.device).processors), 1)
    programs = cdiv(rows, each)
    partial_weight, partial_bias = (
        x.new_empty((programs, width), dtype=torch.float32) if need else None
        for need in (need_weight, need_bias)
    )

    def work(_: Mapping[str, Any], grid: tuple[int, ...]) -> Work:
        once = _bytes(dy, dsum, x, stats, weight)
        written = _bytes(dx, dresidual, partial_weight, partial_bias)
        return Work(read=once + (grid[0] - 1) * _bytes(weight), unique=once, written=written)

    if programs:
        _BACKWARD(
            lambda c: (programs,),
            {
                "DY": dy, "DSUM": dsum, "X": x, "WEIGHT": weight, "STATS": stats,
                "DX": dx if need_x else None, "SCALE": residual_scale,
                "DRESIDUAL": dresidual if dresidual.numel() else None,
                "PARTIAL_WEIGHT": partial_weight, "PARTIAL_BIAS": partial_bias,
                "rows": rows, "width": width, "each": each,
                "dy_row": dy.stride(0), "dy_column": dy.stride(1),
                "dsum_row": 0 if dsum is None else dsum.stride(0),
                "dsum_column": 0 if dsum is None else dsum.stride(1),
                "x_row": x.stride(0), "x_column": x.stride(1),
                "weight_step": 0 if weight is None else weight.stride(0),
                **_per_sample(residual_scale, rows, samples),
            },
            {"BLOCK_C": pow2(width)},
            work,
            operand=x,
        )  # fmt: skip
    if partial_weight is not None:
        column_sums(partial_weight, dweight)
    if partial_bias is not None:
        column_sums(partial_bias, dbias)


BACKEND = operators.backend(TRITON, supports, _launch, _launch_backward)
