"""``patch_embed`` on the CPU: csrc/cpu/patch_embed.cpp."""

from __future__ import annotations

import torch

from vitkern.dispatch import Backend
from vitkern.dispatch.backend import Tensors
from vitkern.ops import _cpu
from vitkern.ops.patch_embed.call import PatchEmbedCall


def supports(call: PatchEmbedCall) -> list[str]:
    """Reasons to refuse: only those of every op."""
    return _cpu.refusals(call.images, call.weight, call.bias)


def forward(call: PatchEmbedCall, needs_grad: bool) -> tuple[torch.Tensor, Tensors]:
    """Keeps nothing: backward reads the images again."""
    trained = needs_grad and call.weight.requires_grad
    packed = None if trained else _cpu.packed(call.weight)
    return torch.ops.vitkern_cpu.patch_embed(call.images, call.weight, packed, call.bias), ()


def backward(
    call: PatchEmbedCall,
    saved: Tensors,
    grads: tuple[torch.Tensor, ...],
    needs: tuple[bool, ...],
) -> Tensors:
    """One gradient per argument, None where it is not wanted."""
    computed = torch.ops.vitkern_cpu.patch_embed_backward(
        grads[0], call.images, call.weight, *needs
    )
    return tuple(grad if need else None for grad, need in zip(computed, needs, strict=True))


if _cpu.missing() is None:

    @torch.library.register_fake("vitkern_cpu::patch_embed")
    def _(
        images: torch.Tensor,
        weight: torch.Tensor,
        packed: torch.Tensor | None,
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        patches = (images.shape[2] // weight.shape[2]) * (images.shape[3] // weight.shape[3])
        return images.new_empty((images.shape[0], patches, weight.shape[0]))

    @torch.library.register_fake("vitkern_cpu::patch_embed_backward")
    def _(
        dy: torch.Tensor,
        images: torch.Tensor,
        weight: torch.Tensor,
        need_images: bool,
        need_weight: bool,
        need_bias: bool,
    ) -> tuple[torch.Tensor, ...]:
        return (
            images.new_empty(images.shape if need_images else 0),
            images.new_empty(weight.shape if need_weight else 0),
            images.new_empty(weight.shape[0] if need_bias else 0),
        )


BACKEND = Backend("cpu", supports, forward, backward, _cpu.missing)
