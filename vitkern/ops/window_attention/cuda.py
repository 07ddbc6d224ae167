"""``window_attention`` in CUDA: csrc/cuda/window_forward.cu and window_backward.cu."""

from __future__ import annotations

from typing import Any

import torch

from vitkern.dispatch import Backend
from vitkern.ops._cuda.device import DEVICE
from vitkern.ops._cuda.kernels import CudaKernels
from vitkern.ops._cuda.shapes import VECTOR, loads_vectors
from vitkern.ops._cuda.sums import column_sums
from vitkern.ops._family import Outputs
from vitkern.ops.window_attention import operators
from vitkern.ops.window_attention.call import WindowAttentionCall

WIDEST = 64
"""A block has whole heads in shared memory; Swin's have 32 elements."""

LARGEST = 2**14
"""Positions of a window; kernels divide by its width with 32 bits."""

BLOCKS_EACH = 6
"""Of a processor, for all windows together: a few at a time, and some more to even out."""


def _with_channels(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor with its channels side by side; mostly they are."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _fields(
    kernels: CudaKernels,
    qkv: torch.Tensor,
    table: torch.Tensor | None,
    pad: torch.Tensor | None,
    heads: int,
    window: tuple[int, int],
    shift: tuple[int, int],
    scale: float,
    pad_first: bool,
    dout: torch.Tensor | None = None,
) -> dict[str, Any]:
    """All fields of the kernels' struct, results as null."""
    qkv = _with_channels(qkv)
    dout = None if dout is None else _with_channels(dout)
    pad = None if pad is None else pad.contiguous()
    batch, height, width, channels = qkv.shape
    head_dim = channels // (3 * heads)
    dout_strides = (0, 0, 0) if dout is None else dout.stride()[:3]
    chunks = head_dim * qkv.element_size() % VECTOR == 0
    return {
        "qkv": qkv, "pad": pad, "dout": dout,
        # Each tile gathers from it: a head's entries next to each other.
        "table": None if table is None else table.t().contiguous(),
        "out": None, "lse": None, "delta": None, "dqkv": None, "dpad": None, "dscores": None,
        "dtable": None, "batch": batch, "heads": heads, "head_dim": head_dim, "height": height,
        "width": width, "down": -(-height // window[0]), "across": -(-width // window[1]),
        "window_h": window[0], "window_w": window[1], "shift_y": shift[0], "shift_x": shift[1],
        **dict(zip(("qkv_image", "qkv_y", "qkv_x"), qkv.stride(), strict=False)),
        **dict(zip(("dout_image", "dout_y", "dout_x"), dout_strides, strict=True)),
        **_split(kernels, qkv, heads, window), "scale": scale, "pad_first": pad_first,
        "aligned": chunks and loads_vectors(qkv, pad, dout), "tf32": kernels.tf32(qkv),
    }  # fmt: skip


def _split(
    kernels: CudaKernels, qkv: torch.Tensor, heads: int, window: tuple[int, int]
) -> dict[str, int]:
    """Windows that a block takes one after another: so many that all processors are kept busy."""
    batch, height, width = qkv.shape[:3]
    windows = batch * -(-height // window[0]) * -(-width // window[1])
    tiles = heads * (-(-window[0] * window[1] // 64)) ** 2
    wanted = -(-BLOCKS_EACH * kernels.processors(qkv.device) // tiles)
    each = max(-(-windows // wanted), 1)
    return {"each": each, "splits": -(-windows // each)}


def _launch(
    kernels: CudaKernels,
    outputs: Outputs,
    qkv: torch.Tensor,
    table: torch.Tensor | None,
    pad: torch.Tensor | None,
    heads: int,
    window_h: int,
    window_w: int,
    shift_y: int,
    shift_x: int,
    scale: float,
    pad_first: bool,
    save: bool,
) -> None:
    out, lse = outputs
    fields = _fields(
        kernels, qkv, table, pad, heads, (window_h, window_w), (shift_y, shift_x), scale, pad_first
    )
    kernels.run("window_forward", qkv, **fields | {"out": out, "lse": lse if save else None})


def _launch_backward(
    kernels: CudaKernels,
    outputs: Outputs,
    dout: torch.Tensor,
    qkv: torch.Tensor,
    table: torch.Tensor | None,
    pad: torch.Tensor | None,
    out: torch.Tensor | None,
    log_sums: torch.Tensor | None,
    heads: int,
    window_h: int,
    window_w: int,
    shift_y: int,
    shift_x: int,
    scale: float,
    pad_first: bool,
    need_qkv: bool,
    need_table: bool,
    need_pad: bool,
) -> None:
    assert log_sums is not None  # forward kept it: operators.backend was told so
    dqkv, dtable, dpad = outputs
    if not log_sums.numel():  # no images
        for gradient in outputs:
            gradient.zero_()
        return
    fields = _fields(
        kernels, qkv, table, pad, heads, (window_h, window_w), (shift_y, shift_x), scale,
        pad_first, dout,
    )  # fmt: skip
    fields |= {"out": out, "lse": log_sums, "delta": torch.empty_like(log_sums)}
    fields["dqkv"] = dqkv if need_qkv else None
    splits, positions = fields["splits"], window_h * window_w
    sums = padded = None
    if need_table:
        sums = qkv.new_empty((splits, heads * positions**2), dtype=torch.float32)
    if need_pad:
        batch, height, width, channels = qkv.shape
        size = fields["down"] * window_h * fields["across"] * window_w
        count = batch * (size - height * width)
        padded = qkv.new_empty((count, 2 * channels // 3), dtype=torch.float32)
    kernels.run("window_backward", qkv, **fields | {"dscores": sums, "dpad": padded})
    if padded is not None:
        # Queries of padded positions give nothing, so have no gradient.
        queries, others = dpad.split((dpad.numel() // 3, padded.shape[1]))
        queries.zero_()
        column_sums(kernels, padded, others)
    if sums is not None:
        total = sums[0]
        if splits > 1:
            total = torch.empty_like(total)
            column_sums(kernels, sums, total)
        kernels.run("window_table_gradient", qkv, **fields | {"dscores": total, "dtable": dtable})


def backend(kernels: CudaKernels) -> Backend:
    """The backend on these kernels."""

    def supports(call: WindowAttentionCall) -> list[str]:
        """Reasons to refuse: those of every op, and what does not fit on chip or in 32 bits."""
        reasons = kernels.refusals(call.qkv, call.bias_table, call.pad)
        head_dim = call.qkv.shape[-1] // (3 * call.num_heads)
        if not reasons and head_dim > WIDEST:
            reasons = [f"a head_dim of {head_dim}; takes at most {WIDEST}"]
        positions = call.window[0] * call.window[1]
        if not reasons and positions > LARGEST:
            reasons = [f"windows of {positions} positions; takes at most {LARGEST}"]
        return reasons

    return operators.backend(kernels, supports, _launch, _launch_backward, lambda call: True)


BACKEND = backend(DEVICE)
