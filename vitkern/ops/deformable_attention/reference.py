"""``deformable_attention`` in plain PyTorch: the oracle, and the ``eager`` backend."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from vitkern.dispatch import Backend
from vitkern.ops.deformable_attention.call import DeformableAttentionCall

# Wholly outside of every map, whatever its size: no pixel of it is at 2 sizes before its first.
_BEFORE, _BEHIND = -2.0, 3.0


def reference(call: DeformableAttentionCall) -> torch.Tensor:
    """Each level is sampled by ``grid_sample``; half precision is computed in float32.

    Locations that are far outside, infinite or NaN are moved to just outside first: what
    ``grid_sample`` does with those depends on the device, and on how it was compiled.
    """
    batch, _, heads, head_dim = call.value.shape
    queries, points = call.sampling_locations.shape[1], call.sampling_locations.shape[4]
    if batch == 0 or queries == 0:  # grid_sample takes no empty batch; zeros with gradients
        weights = call.attention_weights.sum((-2, -1)) * call.sampling_locations.sum((-3, -2, -1))
        per_head = weights[..., None] * call.value.sum(1, keepdim=True)
        return per_head.flatten(2).to(call.value.dtype)
    wide = torch.promote_types(call.value.dtype, torch.float32)
    locations = call.sampling_locations.to(wide).nan_to_num(nan=_BEFORE).clamp(_BEFORE, _BEHIND)
    grids = (2.0 * locations - 1.0).transpose(1, 2).flatten(0, 1)  # (B * heads, Q, levels, P, 2)
    sizes = [height * width for height, width in call.spatial_shapes]
    sampled = [
        F.grid_sample(
            values.permute(0, 2, 3, 1).reshape(batch * heads, head_dim, *shape).to(wide),
            grids[:, :, level],
            mode="bilinear",
            padding_mode="zeros",
            align_corners=False,
        )
        for level, (values, shape) in enumerate(
            zip(call.value.split(sizes, 1), call.spatial_shapes, strict=True)
        )
    ]  # each (B * heads, head_dim, Q, P)
    weights = call.attention_weights.to(wide).transpose(1, 2).reshape(
        batch * heads, 1, queries, len(sizes) * points
    )  # fmt: skip
    out = (torch.stack(sampled, -2).flatten(-2) * weights).sum(-1)
    return out.view(batch, heads * head_dim, queries).transpose(1, 2).to(call.value.dtype)


BACKEND = Backend(
    name="eager",
    supports=lambda call: [],
    forward=lambda call, needs_grad: (reference(call), ()),
)
