"""``deformable_attention`` on the CPU: csrc/cpu/deformable_attention.cpp."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vitkern.dispatch import Backend
from vitkern.dispatch.backend import Tensors
from vitkern.ops import _cpu
from vitkern.ops.deformable_attention.call import DeformableAttentionCall

MOST_PIXELS = 2**31 - 1
"""Pixels are numbered in 32 bits."""


def supports(call: DeformableAttentionCall) -> list[str]:
    """Reasons to refuse: those of every op, and more pixels than can be numbered."""
    reasons = _cpu.refusals(call.value, call.sampling_locations, call.attention_weights)
    if not reasons and call.value.shape[1] > MOST_PIXELS:
        reasons = [f"{call.value.shape[1]} pixels; takes at most {MOST_PIXELS}"]
    return reasons


def forward(call: DeformableAttentionCall, needs_grad: bool) -> tuple[torch.Tensor, Tensors]:
    """Keeps nothing: where the points are is found again."""
    out = torch.ops.vitkern_cpu.deformable_attention(
        call.value, call.flat_shapes, call.sampling_locations, call.attention_weights
    )
    return out, ()


def backward(
    call: DeformableAttentionCall,
    saved: Tensors,
    grads: tuple[torch.Tensor, ...],
    needs: tuple[bool, ...],
) -> Tensors:
    """One gradient per field, None where it is not wanted."""
    need_value, _, need_locations, need_weights = needs
    dvalue, dlocations, dweights = torch.ops.vitkern_cpu.deformable_attention_backward(
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


if _cpu.missing() is None:

    @torch.library.register_fake("vitkern_cpu::deformable_attention")
    def _(
        value: torch.Tensor,
        shapes: Sequence[int],
        locations: torch.Tensor,
        weights: torch.Tensor,
    ) -> torch.Tensor:
        batch, _, heads, head_dim = value.shape
        return value.new_empty((batch, locations.shape[1], heads * head_dim))

    @torch.library.register_fake("vitkern_cpu::deformable_attention_backward")
    def _(
        dout: torch.Tensor,
        value: torch.Tensor,
        shapes: Sequence[int],
        locations: torch.Tensor,
        weights: torch.Tensor,
        need_value: bool,
        need_locations: bool,
        need_weights: bool,
    ) -> tuple[torch.Tensor, ...]:
        return (
            value.new_empty(value.shape if need_value else 0),
            locations.new_empty(locations.shape if need_locations else 0),
            weights.new_empty(weights.shape if need_weights else 0),
        )


BACKEND = Backend("cpu", supports, forward, backward, _cpu.missing)
