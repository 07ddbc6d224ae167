"""Functions of :mod:`torch.nn.functional`, computed by ops.

Each takes a backend and the function's arguments. The result is NotImplemented where PyTorch is to
compute it: what ops do not take, what gains nothing (see ``suitable.py``), and what is wrong, for
PyTorch's own error.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from vitkern import ops
from vitkern.patching import suitable


def linear(
    backend: str | None, input: Any, weight: Any, bias: Any = None, *, out: Any = None
) -> Any:
    """``F.linear`` on ops; NotImplemented where PyTorch is to compute it."""
    if out is not None or suitable.linear(backend, input, weight, bias) is not None:
        return NotImplemented
    return ops.linear(input, weight, bias, backend=backend)


def attention(
    backend: str | None,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """``F.scaled_dot_product_attention`` on ops; NotImplemented where PyTorch is to compute it."""
    if isinstance(scale, torch.Tensor):
        return NotImplemented
    if suitable.attention(backend, query, key, value, attn_mask, dropout_p) is not None:
        return NotImplemented
    return attend(backend, query, key, value, attn_mask, dropout_p, scale=scale)


def attend(
    backend: str | None,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    *,
    scale: float | None = None,
) -> Any:
    """``F.scaled_dot_product_attention`` that is known to suit ``ops.attention``."""
    dims, leading, bias = query.dim(), query.shape[:-2], attn_mask
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        bias = torch.zeros_like(attn_mask, dtype=query.dtype)
        bias = bias.masked_fill(~attn_mask, float("-inf"))
    if dims != 4:
        query, key, value = (
            one.unsqueeze(1) if dims == 3 else one.flatten(0, dims - 4)
            for one in (query, key, value)
        )
    y = ops.attention(
        query, key, value, bias=bias, scale=scale, dropout_p=dropout_p, backend=backend
    )
    return y if dims == 4 else y.reshape(*leading, *y.shape[-2:])


def patch_embed(
    backend: str | None,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """A convolution whose stride is its kernel, on ops; NotImplemented for others.

    The result has channels last in memory, as what follows flattens and transposes it.
    """
    reason = suitable.patch_embed(input, weight, bias, stride, padding, dilation, groups)
    if reason is not None:
        return NotImplemented
    rows, columns = weight.shape[2:]
    if backend is None and rows * columns < suitable.SMALLEST_PATCH:
        return NotImplemented
    y = ops.patch_embed(input, weight, bias, backend=backend)
    return y.transpose(1, 2).unflatten(2, (input.shape[2] // rows, input.shape[3] // columns))


def multi_head(
    backend: str | None,
    query: Any,
    key: Any,
    value: Any,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Any,
    in_proj_bias: Any,
    bias_k: Any,
    bias_v: Any,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Any,
    out_proj_bias: Any,
    training: bool = True,
    key_padding_mask: Any = None,
    need_weights: bool = True,
    attn_mask: Any = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Any = None,
    k_proj_weight: Any = None,
    v_proj_weight: Any = None,
    static_k: Any = None,
    static_v: Any = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> Any:
    """``F.multi_head_attention_forward`` on ops; NotImplemented where PyTorch is to compute it.

    query (Nq, B, C), key and value (Nk, B, ...). Where weights are wanted, keys are added or given,
    or the mask is only hinted at, PyTorch computes it, and so it does what is small.
    """
    given = (bias_k, bias_v, static_k, static_v)
    if need_weights or add_zero_attn or any(one is not None for one in given):
        return NotImplemented
    if not suitable.plain(query, key, value) or query.dim() != 3:
        return NotImplemented
    if is_causal and attn_mask is None:
        return NotImplemented
    heads, width = num_heads, embed_dim_to_check
    batch, head_dim = query.shape[1], width // num_heads
    if query.shape[2] != width or key.shape[:2] != value.shape[:2] or head_dim * heads != width:
        return NotImplemented
    work = query.numel() * key.shape[0], max(query.numel(), key.numel()) * width
    if not masks_fit(attn_mask, key_padding_mask, (batch, heads, query.shape[0], key.shape[0])):
        return NotImplemented  # raises PyTorch's own error
    small = work[0] < suitable.SMALLEST_ATTENTION and work[1] < suitable.SMALLEST_LINEAR
    if backend is None and small:
        return NotImplemented
    if not use_separate_proj_weight and query is key and key is value:
        q, k, v = linear_or_own(backend, query, in_proj_weight, in_proj_bias).chunk(3, -1)
    else:
        weights = (q_proj_weight, k_proj_weight, v_proj_weight)
        if not use_separate_proj_weight:
            weights = in_proj_weight.chunk(3)
        biases = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
        q, k, v = (
            linear_or_own(backend, one, weight, bias)
            for one, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
    q, k, v = (one.unflatten(2, (heads, head_dim)).permute(1, 2, 0, 3) for one in (q, k, v))
    bias = added((attn_mask, key_padding_mask), query.dtype, batch, heads)
    y = attention_or_own(backend, q, k, v, bias, dropout_p if training else 0.0)
    y = y.permute(2, 0, 1, 3).flatten(2)
    return linear_or_own(backend, y, out_proj_weight, out_proj_bias), None


def masks_fit(mask: Any, padding: Any, sizes: tuple[int, int, int, int]) -> bool:
    """Whether masks of ``multi_head_attention_forward`` have the shapes that PyTorch takes.

    Args:
        mask: of scores, or None.
        padding: of keys, or None.
        sizes: batch, heads, queries, keys.
    """
    batch, heads, queries, keys = sizes
    if padding is not None and padding.shape != (batch, keys):
        return False
    return mask is None or mask.shape in ((queries, keys), (batch * heads, queries, keys))


def added(masks: tuple[Any, Any], dtype: torch.dtype, batch: int, heads: int) -> Any:
    """What the masks of ``multi_head_attention_forward`` add to (B, heads, Nq, Nk) scores.

    Args:
        masks: (Nq, Nk) or (B*heads, Nq, Nk), and (B, Nk); True ignores a key, numbers are added.
        dtype: of the scores.
        batch: images.
        heads: of each.
    """
    bias, padding = (
        torch.zeros_like(one, dtype=dtype).masked_fill(one, float("-inf"))
        if one is not None and one.dtype == torch.bool
        else one
        for one in masks
    )
    if bias is not None and bias.dim() == 3:
        bias = bias.unflatten(0, (batch, heads))
    if padding is None:
        return bias
    padding = padding[:, None, None, :]
    return padding if bias is None else bias + padding


def linear_or_own(backend: str | None, x: Any, weight: Any, bias: Any) -> Any:
    """A linear layer on ops, or PyTorch's where that is as fast."""
    y = linear(backend, x, weight, bias)
    return F.linear(x, weight, bias) if y is NotImplemented else y


def attention_or_own(
    backend: str | None, q: Any, k: Any, v: Any, bias: Any = None, dropout_p: float = 0.0
) -> Any:
    """Attention on ops, or PyTorch's where that is as fast."""
    y = attention(backend, q, k, v, bias, dropout_p)
    return (
        F.scaled_dot_product_attention(q, k, v, bias, dropout_p) if y is NotImplemented else y
    )  # fmt: skip
