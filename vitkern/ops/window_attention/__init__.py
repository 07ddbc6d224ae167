"""Swin's attention within shifted windows of a feature map, with relative position bias."""

from __future__ import annotations

import torch

from vitkern.dispatch import Operator
from vitkern.ops import _check
from vitkern.ops.window_attention.call import WindowAttentionCall
from vitkern.ops.window_attention.cosine import unit_queries_and_keys

_OPERATOR = Operator("window_attention", WindowAttentionCall, __name__)


def window_attention(
    qkv: torch.Tensor,
    bias_table: torch.Tensor | None = None,
    *,
    num_heads: int,
    window_size: int | tuple[int, int],
    shift_size: int | tuple[int, int] = 0,
    scale: float | None = None,
    logit_scale: torch.Tensor | None = None,
    pad_value: torch.Tensor | None = None,
    pad_first: bool = False,
    backend: str | None = None,
) -> torch.Tensor:
    """Multi-head attention within windows of a map that is shifted cyclically, and shifted back.

    Liu et al., "Swin Transformer", 2021 (arXiv 2103.14030). Positions that only the shift brought
    into one window get -100 on their score, as in Swin. A map that the window does not divide is
    padded at the bottom and the right; as in timm and torchvision the padded positions are keys
    like others.

    Args:
        qkv: (B, H, W, 3*C), channels ordered (3, num_heads, head_dim); float32, float64,
            bfloat16 or float16.
        bias_table: ((2*wh-1)*(2*ww-1), num_heads), qkv's dtype, or None. Query i and key j of a
            window get row ``(yi-yj+wh-1)*(2*ww-1) + xi-xj+ww-1``.
        num_heads: number of heads.
        window_size: int or (height, width), at most the map's size.
        shift_size: int or (height, width), at least 0 and below the window's; 0 on an axis means
            no mask on it.
        scale: what scores are multiplied with; None is ``head_dim ** -0.5``.
        logit_scale: (num_heads), qkv's dtype, in place of ``scale``: scores are cosines of q and k
            times each head's factor, as in Swin V2 (Liu et al., 2021, arXiv 2111.09883, where the
            model keeps its logarithm). PyTorch brings q and k to length 1 before the kernel.
        pad_value: (3*C), qkv's dtype: the qkv of padded positions, which is a Swin's qkv bias;
            None is zeros.
        pad_first: True pads, then shifts (torchvision); False shifts, then pads (timm).
        backend: name of the backend to use; None chooses automatically.

    Under autocast all are taken in autocast's dtype.

    Returns:
        (B, H, W, C).

    Raises:
        TypeError: not floating-point tensors, or dtypes that do not go together.
        ValueError: shapes, sizes or devices that do not fit.
        UnsupportedInput: ``backend`` (or ``use_backend``) names one that refuses the call.
    """
    _check.tensor("qkv", qkv, dims=4)
    head_dim = _check.heads("qkv", qkv, num_heads, parts=3)
    window, shift = _check.windows("qkv", qkv, window_size, shift_size)
    _, height, width, channels = qkv.shape
    if logit_scale is not None and scale is not None:
        raise ValueError(f"scale must be None where logit_scale is given, got {scale!r}")
    scale = _check.scale(1.0 if logit_scale is not None else scale, head_dim)
    rows = (2 * window[0] - 1) * (2 * window[1] - 1)
    shapes = ((rows, num_heads), (channels,), (num_heads,))
    given = (bias_table, pad_value, logit_scale)
    if _check.autocasts(qkv) or not _check.uniform(qkv, given, shapes):
        if bias_table is not None:
            _check.tensor("bias_table", bias_table)
            meaning = "relative positions in the window, num_heads"
            _check.shape("bias_table", bias_table, (rows, num_heads), meaning)
        if pad_value is not None:
            _check.tensor("pad_value", pad_value)
            _check.shape("pad_value", pad_value, (channels,), "qkv's last dimension")
        if logit_scale is not None:
            _check.tensor("logit_scale", logit_scale)
            _check.shape("logit_scale", logit_scale, (num_heads,), "num_heads")
        qkv, bias_table, pad_value, logit_scale = _check.autocast(
            qkv, bias_table, pad_value, logit_scale
        )
        _check.same("qkv", qkv, bias_table=bias_table, pad_value=pad_value, logit_scale=logit_scale)
    if height % window[0] == 0 and width % window[1] == 0:
        pad_value = None
    if logit_scale is not None:
        qkv = unit_queries_and_keys(qkv, logit_scale)
        if pad_value is not None:
            pad_value = unit_queries_and_keys(pad_value, logit_scale)
    call = WindowAttentionCall(
        qkv,
        bias_table,
        pad_value,
        num_heads,
        window,
        shift,
        scale,
        _check.flag("pad_first", pad_first),
    )
    out: torch.Tensor = _OPERATOR(call, backend)
    return out
