"""The checked arguments of ``patch_embed``, as its backends see them."""

from __future__ import annotations

from typing import NamedTuple

import torch


class PatchEmbedCall(NamedTuple):
    """``images`` (B, C, H, W), ``weight`` (D, C, ph, pw) with ph | H and pw | W, ``bias`` (D,)."""

    images: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None
