"""The checked arguments of ``window_attention``, as its backends see them."""

from __future__ import annotations

from typing import NamedTuple

import torch


class WindowAttentionCall(NamedTuple):
    """``qkv`` (B, H, W, 3*C), ``bias_table`` ((2*wh-1)*(2*ww-1), heads), ``pad`` (3*C).

    ``window`` and ``shift`` are (height, width); ``pad`` is None where nothing is padded.
    """

    qkv: torch.Tensor
    bias_table: torch.Tensor | None
    pad: torch.Tensor | None
    num_heads: int
    window: tuple[int, int]
    shift: tuple[int, int]
    scale: float
    pad_first: bool
