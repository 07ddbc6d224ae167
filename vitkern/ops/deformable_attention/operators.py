"""The registered operators of ``deformable_attention``, the same for each family of GPU kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from vitkern.dispatch import Backend
from vitkern.dispatch.backend import Tensors
from vitkern.ops._cuda.kernels import CudaKernels
from vitkern.ops._family import Family, empty_unless
from vitkern.ops.deformable_attention.call import MOST_LEVELS, DeformableAttentionCall

WIDEST = 256
"""A program has all channels of a head on chip."""
MOST_PIXELS = 2**31 - 1
"""Pixels are numbered in 32 bits."""


def too_large(call: DeformableAttentionCall) -> list[str]:
    """Reasons to refuse: what a program cannot have."""
    pixels, head_dim, levels = call.value.shape[1], call.value.shape[3], len(call.spatial_shapes)
    limits = {
        f"a head_dim of {head_dim}": (head_dim, WIDEST),
        f"{levels} levels": (levels, MOST_LEVELS),
        f"{pixels} pixels": (pixels, MOST_PIXELS),
    }
    return [f"{what}; takes at most {most}" for what, (n, most) in limits.items() if n > most]


def all_sizes(shapes: Sequence[int]) -> dict[str, int]:
    """``h0``, ``w0``, ``h1`` ... of as many levels as kernels have arguments for: 1 of no level."""
    names = [f"{side}{level}" for level in range(MOST_LEVELS) for side in ("h", "w")]
    return dict(zip(names, [*shapes, *[1] * (len(names) - len(shapes))], strict=True))


def _allocate(
    value: torch.Tensor,
    shapes: Sequence[int],
    locations: torch.Tensor,
    weights: torch.Tensor,
) -> torch.Tensor:
    batch, _, heads, head_dim = value.shape
    return value.new_empty((batch, locations.shape[1], heads * head_dim))


def _allocate_backward(
    dout: torch.Tensor,
    value: torch.Tensor,
    shapes: Sequence[int],
    locations: torch.Tensor,
    weights: torch.Tensor,
    need_value: bool,
    need_locations: bool,
    need_weights: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        empty_unless(need_value, value, value.shape),
        empty_unless(need_locations, locations, locations.shape),
        empty_unless(need_weights, weights, weights.shape),
    )


def backend(
    kernels: Family | CudaKernels,
    supports: Callable[[DeformableAttentionCall], list[str]],
    launch: Callable[..., None],
    launch_backward: Callable[..., None],
) -> Backend:
    """The backend of a family, from what launches its kernels."""
    run = kernels.operator("deformable_attention", _allocate, launch)
    run_backward = kernels.operator(
        "deformable_attention_backward", _allocate_backward, launch_backward
    )

    def forward(call: DeformableAttentionCall, needs_grad: bool) -> tuple[torch.Tensor, Tensors]:
        """Keeps nothing: where the points are is found again."""
        return run(
            call.value, call.flat_shapes, call.sampling_locations, call.attention_weights
        ), ()

    def backward(
        call: DeformableAttentionCall,
        saved: Tensors,
        grads: tuple[torch.Tensor, ...],
        needs: tuple[bool, ...],
    ) -> Tensors:
        """One gradient per field, None where it is not wanted."""
        need_value, _, need_locations, need_weights = needs
        dvalue, dlocations, dweights = run_backward(
            grads[0],
            call.value,
            call.flat_shapes,
            call.sampling_locations,
            call.attention_weights,
            need_value,
            need_locations,
            need_weights,
        )
        return (
            dvalue if need_value else None,
            None,
            dlocations if need_locations else None,
            dweights if need_weights else None,
        )

    return kernels.backend(supports, forward, backward)
