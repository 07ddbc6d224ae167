"""The registered operators of ``window_attention``, the same for each family of GPU kernels."""

from __future__ import annotations

from collections.abc import Callable

import torch

from vitkern.dispatch import Backend
from vitkern.dispatch.backend import Tensors
from vitkern.ops._cuda.kernels import CudaKernels
from vitkern.ops._family import Family, empty_unless
from vitkern.ops.window_attention.call import WindowAttentionCall


def _allocate(
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
) -> tuple[torch.Tensor, torch.Tensor]:
    batch, height, width, channels = qkv.shape
    windows = batch * -(-height // window_h) * -(-width // window_w)
    return (
        qkv.new_empty((batch, height, width, channels // 3)),
        empty_unless(save, qkv, (windows, heads, window_h * window_w), torch.float32),
    )


def _allocate_backward(
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
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rows = (2 * window_h - 1) * (2 * window_w - 1)
    return (
        empty_unless(need_qkv, qkv, qkv.shape),
        empty_unless(need_table, qkv, (rows, heads)),
        empty_unless(need_pad, qkv, (qkv.shape[-1],)),
    )


def backend(
    kernels: Family | CudaKernels,
    supports: Callable[[WindowAttentionCall], list[str]],
    launch: Callable[..., None],
    launch_backward: Callable[..., None],
    saves: Callable[[WindowAttentionCall], bool],
) -> Backend:
    """The backend of a family, from what launches its kernels.

    ``saves``: whether the backward of a call needs the output and each row's sum of exponentials.
    """
    run = kernels.operator("window_attention", _allocate, launch)
    run_backward = kernels.operator(
        "window_attention_backward", _allocate_backward, launch_backward
    )

    def forward(call: WindowAttentionCall, needs_grad: bool) -> tuple[torch.Tensor, Tensors]:
        """Keeps the output and the logarithm of each row's sum of exponentials, if needed."""
        save = needs_grad and saves(call)
        out, log_sums = run(
            call.qkv, call.bias_table, call.pad, call.num_heads, *call.window, *call.shift,
            call.scale, call.pad_first, save,
        )  # fmt: skip
        return out, (out, log_sums) if save else ()

    def backward(
        call: WindowAttentionCall,
        saved: Tensors,
        grads: tuple[torch.Tensor, ...],
        needs: tuple[bool, ...],
    ) -> Tensors:
        """One gradient per argument, None where it is not wanted."""
        wanted = needs[:3]  # qkv, bias_table, pad
        computed = run_backward(
            grads[0], call.qkv, call.bias_table, call.pad, *(saved or (None, None)),
            call.num_heads, *call.window, *call.shift, call.scale, call.pad_first, *wanted,
        )  # fmt: skip
        results = (grad if need else None for grad, need in zip(computed, wanted, strict=True))
        return (*results, None, None, None, None, None)

    return kernels.backend(supports, forward, backward)
