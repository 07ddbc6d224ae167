"""Why PyTorch computes a product itself: what ops do not take, and what gains nothing.

Of calls of :mod:`torch.nn.functional`, as a module makes them or a captured graph has them. Each
function gives the reason to leave the call to PyTorch, or None where an op computes the same.
"""

from __future__ import annotations

from typing import Any

import torch

from vitkern.patching.parts import is_plain

# Where the backend is not asked for by name, what gains nothing is left to PyTorch. Measured on two
# cores with AVX-512: a Linear by itself is as fast from 8 to 12 million multiply-adds on and slower
# below, and always slower in training; attention gains from one million on, but not with heads that
# are as wide as an image has tokens, where channels attend to channels.
SMALLEST_LINEAR = 1 << 23
SMALLEST_ATTENTION = 1 << 20
WIDEST_HEAD = 128
# Of a patch, in pixels: PyTorch's convolutions of 2x2 patches are faster than the op.
SMALLEST_PATCH = 16

_SMALL_LINEAR = f"has fewer than {SMALLEST_LINEAR} multiply-adds"
_SMALL_ATTENTION = f"has fewer than {SMALLEST_ATTENTION} multiply-adds a product"
_WIDE = f"has heads wider than {WIDEST_HEAD}"
_KINDS = "is of a tensor subclass"
_DTYPES = "is of dtypes that differ or are not floating point"


def linear(backend: str | None, input: Any, weight: Any, bias: Any = None) -> str | None:
    """Of ``F.linear(input, weight, bias)``."""
    # The cheapest check first: this is what small models pay for each of their linear layers.
    if not is_plain(input):
        return _KINDS
    if backend is None:
        if input.numel() * weight.shape[0] < SMALLEST_LINEAR:
            return _SMALL_LINEAR
        if _differentiates(input, weight, bias):
            return "is by itself and trained, where PyTorch's is faster"
    if not plain(weight, bias):
        return _KINDS
    if input.dim() == 0 or weight.dim() != 2:
        return "has a weight that is no matrix, or an input with no dimension"
    if bias is not None and bias.shape != weight.shape[:1]:
        return "has a bias that broadcasts"
    if input.shape[-1] != weight.shape[1]:
        return "has shapes that do not fit"  # raises PyTorch's own error
    return None if one_dtype(input, weight, bias) else _DTYPES


def attention(
    backend: str | None, query: Any, key: Any, value: Any, attn_mask: Any, dropout_p: float
) -> str | None:
    """Of ``F.scaled_dot_product_attention``, without ``is_causal``."""
    if not plain(query, key, value, attn_mask):
        return _KINDS
    if not one_dtype(query, key, value):
        return _DTYPES
    dims, leading = query.dim(), query.shape[:-2]
    if dims < 3 or key.shape != value.shape or key.shape[:-2] != leading:
        return "has grouped heads, leading sizes that broadcast, or another width of v"
    if key.shape[-1] != query.shape[-1] or query.shape[-1] == 0:
        return "has heads of no width, or shapes that do not fit"
    if not 0.0 <= dropout_p < 1.0:
        return "drops all weights"
    if backend is None:
        if query.numel() * key.shape[-2] < SMALLEST_ATTENTION:
            return _SMALL_ATTENTION
        if query.shape[-1] > WIDEST_HEAD:
            return _WIDE
    if attn_mask is None:
        return None
    if dims != 4 or not 2 <= attn_mask.dim() <= 4:
        return "has a mask beside other than 4 dimensions, or one that does not have 2 to 4"
    others = attn_mask.dtype not in (torch.bool, query.dtype)
    if others and not torch.is_autocast_enabled(query.device.type):
        return "has a mask of another dtype"
    return None


def window_attention(
    backend: str | None, qkv: Any, table: Any, pad: Any, window: tuple[int, int]
) -> str | None:
    """Of attention in windows of a (B, H, W, 3*C) map."""
    if not plain(qkv, table, pad):
        return _KINDS
    if not one_dtype(qkv, table, pad):
        return _DTYPES
    if backend is None and qkv.numel() // 3 * window[0] * window[1] < SMALLEST_ATTENTION:
        return _SMALL_ATTENTION
    return None


def patch_embed(
    input: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> str | None:
    """Of ``F.conv2d`` as an embedding of patches."""
    if not plain(input, weight, bias):
        return _KINDS
    if input.dim() != 4:
        return "has an input without a batch"
    if not one_dtype(input, weight, bias):
        return _DTYPES
    rows, columns = weight.shape[2:]
    channels, height, width = input.shape[1:]
    if rows * columns == 1:
        return "has a kernel of one pixel"
    if groups != 1 or channels != weight.shape[1]:
        return "is grouped"
    if _pair(stride) != (rows, columns) or _pair(dilation) != (1, 1):
        return "has a stride that is not its kernel's size"
    if _pair(padding) not in ((0, 0), ("valid", "valid")):
        return "is padded"
    if height % rows or width % columns or input.numel() == 0:
        return "has patches that do not divide the image"
    return None


def _pair(value: Any) -> tuple[Any, Any]:
    if isinstance(value, int | str):
        return (value, value)
    values = tuple(value)
    return values * 2 if len(values) == 1 else values


def plain(*tensors: Any) -> bool:
    """Whether all are ordinary tensors (or None, or fake): others mean something by themselves."""
    return all(is_plain(one) for one in tensors)


def one_dtype(first: torch.Tensor, *others: Any) -> bool:
    """Whether all are floating point and of one dtype, or autocast makes them so."""
    if not first.is_floating_point():
        return False
    if torch.is_autocast_enabled(first.device.type):
        return all(one is None or one.is_floating_point() for one in others)
    return all(one is None or one.dtype == first.dtype for one in others)


def _differentiates(*tensors: Any) -> bool:
    """Whether a gradient is wanted."""
    return torch.is_grad_enabled() and any(
        one is not None and one.requires_grad for one in tensors
    )  # fmt: skip
