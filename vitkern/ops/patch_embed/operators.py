"""The registered operators of ``patch_embed``, the same for each family of GPU kernels."""

from __future__ import annotations

from collections.abc import Callable

import torch

from vitkern.dispatch import Backend
from vitkern.dispatch.backend import Tensors
from vitkern.ops._cuda.kernels import CudaKernels
from vitkern.ops._family import Family, empty_unless
from vitkern.ops.patch_embed.call import PatchEmbedCall


def _allocate(
    images: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    patches = (images.shape[2] // weight.shape[2]) * (images.shape[3] // weight.shape[3])
    return images.new_empty((images.shape[0], patches, weight.shape[0]))


def _allocate_backward(
    dy: torch.Tensor,
    images: torch.Tensor,
    weight: torch.Tensor,
    need_images: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        empty_unless(need_images, images, images.shape),
        empty_unless(need_weight, images, weight.shape),
        empty_unless(need_bias, images, (weight.shape[0],)),
    )


def backend(
    kernels: Family | CudaKernels,
    supports: Callable[[PatchEmbedCall], list[str]],
    launch: Callable[..., None],
    launch_backward: Callable[..., None],
) -> Backend:
    """The backend of a family, from what launches its kernels."""
    run = kernels.operator("patch_embed", _allocate, launch)
    run_backward = kernels.operator("patch_embed_backward", _allocate_backward, launch_backward)

    def forward(call: PatchEmbedCall, needs_grad: bool) -> tuple[torch.Tensor, Tensors]:
        """Keeps nothing: backward reads the images again."""
        return run(call.images, call.weight, call.bias), ()

    def backward(
        call: PatchEmbedCall,
        saved: Tensors,
        grads: tuple[torch.Tensor, ...],
        needs: tuple[bool, ...],
    ) -> Tensors:
        """One gradient per argument, None where it is not wanted."""
        computed = run_backward(grads[0], call.images, call.weight, *needs)
        return tuple(grad if need else None for grad, need in zip(computed, needs, strict=True))

    return kernels.backend(supports, forward, backward)
