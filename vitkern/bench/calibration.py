"""What int8 is calibrated on: the same for ours and for NNCF."""

from __future__ import annotations

import torch

__all__ = ["batches"]

IMAGES = 8
"""At least."""


def batches(images: torch.Tensor) -> list[torch.Tensor]:
    """Other images of the kind and the shape of those that int8 will be judged on."""
    generator = torch.Generator().manual_seed(3)
    count = -(-IMAGES // images.shape[0])
    return [torch.randn(images.shape, generator=generator) for _ in range(count)]
