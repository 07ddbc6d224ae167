"""Cosine attention on top of scaled dot products: queries and keys of length 1."""

from __future__ import annotations

import torch

# Shorter ones are divided by this, as torch.nn.functional.normalize does: zeros stay zeros.
_SHORTEST = 1e-12


def unit_queries_and_keys(qkv: torch.Tensor, logit_scale: torch.Tensor) -> torch.Tensor:
    """(..., 3*C), channels ordered (3, heads, head_dim), with q and k of length 1 in each head.

    q is multiplied by ``logit_scale`` (heads), so that dot products of q and k are the scores.
    """
    heads = logit_scale.shape[0]
    parts = qkv.unflatten(-1, (3, heads, -1))
    wide = torch.promote_types(qkv.dtype, torch.float32)  # 16 bits would make _SHORTEST 0
    length = torch.linalg.vector_norm(parts[..., :2, :, :], dim=-1, keepdim=True, dtype=wide)
    length = length.clamp_min(_SHORTEST)
    # One factor for each head of q, k and v, so that one pass writes the result.
    factors = torch.cat(
        (
            logit_scale[:, None] / length[..., 0, :, :],
            length[..., 1, :, :].reciprocal(),
            torch.ones_like(length[..., 0, :, :]),
        ),
        dim=-1,
    )
    if qkv.dtype == torch.float16:  # short vectors have factors that it cannot hold
        largest = torch.finfo(torch.float16).max
        factors = factors.clamp(-largest, largest)
    return (parts * factors.to(qkv.dtype).movedim(-1, -2).unsqueeze(-1)).flatten(-3)
