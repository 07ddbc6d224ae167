"""Patch embedding: images to one token a patch."""

from __future__ import annotations

import torch

from vitkern.dispatch import Operator
from vitkern.ops import _check
from vitkern.ops.patch_embed.call import PatchEmbedCall

_OPERATOR = Operator("patch_embed", PatchEmbedCall, __name__)


def patch_embed(
    images: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    backend: str | None = None,
) -> torch.Tensor:
    """A convolution whose stride is its kernel: one token a patch, rows of patches first.

    Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020 (arXiv 2010.11929).

    Args:
        images: (B, C, H, W), float32, float64, bfloat16 or float16.
        weight: (D, C, ph, pw), images' dtype; ph divides H and pw divides W.
        bias: (D,), images' dtype, or None.
        backend: name of the backend to use; None chooses automatically.

    Under autocast all are taken in autocast's dtype.

    Returns:
        (B, (H / ph) * (W / pw), D).

    Raises:
        TypeError: not floating-point tensors, or dtypes that do not go together.
        ValueError: shapes or devices that do not fit; a patch that does not divide the images.
        UnsupportedInput: ``backend`` (or ``use_backend``) names one that refuses the call.
    """
    _check.tensor("images", images, dims=4)
    _check.tensor("weight", weight, dims=4)
    _, channels, height, width = images.shape
    if channels != weight.shape[1]:
        raise ValueError(
            f"images must have {weight.shape[1]} channels (weight is {_check.shape_of(weight)}),"
            f" got shape {_check.shape_of(images)}"
        )
    dim, _, patch_height, patch_width = weight.shape
    if weight.numel() == 0:
        raise ValueError(f"weight must have no empty dimension, got {_check.shape_of(weight)}")
    for name, size, patch in (("height", height, patch_height), ("width", width, patch_width)):
        if size < patch or size % patch:
            raise ValueError(
                f"images must have a {name} that is a multiple of the patch's {patch}, got {size}"
                f" (images {_check.shape_of(images)}, weight {_check.shape_of(weight)})"
            )
    if bias is not None:
        _check.tensor("bias", bias)
        _check.shape("bias", bias, (dim,), "weight's first dimension")
    images, weight, bias = _check.autocast(images, weight, bias)
    _check.same("images", images, weight=weight, bias=bias)
    y: torch.Tensor = _OPERATOR(PatchEmbedCall(images, weight, bias), backend)
    return y
