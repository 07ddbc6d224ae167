"""The registered operators of ``attention``, the same for each family of GPU kernels."""

from __future__ import annotations

from collections.abc import Callable

import torch

from vitkern.dispatch import Backend
from vitkern.dispatch.backend import Tensors
from vitkern.ops._cuda.kernels import CudaKernels
from vitkern.ops._family import Family, empty_unless
from vitkern.ops.attention.call import AttentionCall


def joined(like: torch.Tensor) -> torch.Tensor:
    """The layout of outputs and gradients: (B, N, heads, head_dim) in memory."""
    batch, heads, length, head_dim = like.shape
    return like.new_empty((batch, length, heads, head_dim)).transpose(1, 2)


def _allocate(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None,
    mask: torch.Tensor | None,
    scale: float,
    dropout_p: float,
    seed: torch.Tensor | None,
    save: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    return joined(q), empty_unless(save, q, q.shape[:3], torch.float32)


def _allocate_backward(
    dout: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    bias: torch.Tensor | None,
    mask: torch.Tensor | None,
    scale: float,
    dropout_p: float,
    seed: torch.Tensor | None,
    need_q: bool,
    need_k: bool,
    need_v: bool,
    need_bias: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        joined(q) if need_q else q.new_empty(0),
        joined(k) if need_k else q.new_empty(0),
        joined(v) if need_v else q.new_empty(0),
        q.new_empty(bias.shape if need_bias and bias is not None else (0,)),
    )


def backend(
    kernels: Family | CudaKernels,
    supports: Callable[[AttentionCall], list[str]],
    launch: Callable[..., None],
    launch_backward: Callable[..., None],
) -> Backend:
    """The backend of a family, from what launches its kernels."""
    run = kernels.operator("attention", _allocate, launch)
    run_backward = kernels.operator("attention_backward", _allocate_backward, launch_backward)

    def forward(call: AttentionCall, needs_grad: bool) -> tuple[torch.Tensor, Tensors]:
        """Keeps the output and the logarithm of each row's sum of exponentials."""
        out, lse = run(*call, needs_grad)
        return out, (out, lse) if needs_grad else ()

    def backward(
        call: AttentionCall,
        saved: Tensors,
        grads: tuple[torch.Tensor, ...],
        needs: tuple[bool, ...],
    ) -> Tensors:
        """One gradient per argument, None where it is not wanted."""
        wanted = needs[:4]  # q, k, v, bias
        q, k, v, *rest = call
        computed = run_backward(grads[0], q, k, v, *saved, *rest, *wanted)
        results = (grad if need else None for grad, need in zip(computed, wanted, strict=True))
        return (*results, None, None, None, None)

    return kernels.backend(supports, forward, backward)
