"""``window_attention`` in plain PyTorch: the oracle, and the ``eager`` backend."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from vitkern.dispatch import Backend
from vitkern.ops.window_attention.call import WindowAttentionCall

# What Swin adds to the score of two positions that only the cyclic shift brought together.
MASKED = -100.0


def relative_positions(window: tuple[int, int], device: torch.device) -> torch.Tensor:
    """(N, N) int64: the row of the bias table for query i and key j of a window of N positions."""
    height, width = window
    y = torch.arange(height, device=device).repeat_interleave(width)
    x = torch.arange(width, device=device).repeat(height)
    dy = y[:, None] - y[None, :] + height - 1
    dx = x[:, None] - x[None, :] + width - 1
    return dy * (2 * width - 1) + dx


def shift_mask(
    size: tuple[int, int], window: tuple[int, int], shift: tuple[int, int], device: torch.device
) -> torch.Tensor:
    """(windows, N, N) bool: True where query and key are of different regions of the map.

    ``size`` is the padded map's; the last ``shift`` rows and columns of the shifted map are the
    ones that came around from the other side.
    """
    y = (torch.arange(size[0], device=device) >= size[0] - shift[0]).long()
    x = (torch.arange(size[1], device=device) >= size[1] - shift[1]).long()
    region = y[:, None] * 2 + x[None, :]
    region = _partition(region[None, :, :, None], window).flatten(2)[0]
    return region[:, :, None] != region[:, None, :]


def _partition(x: torch.Tensor, window: tuple[int, int]) -> torch.Tensor:
    """(B, H, W, C) -> (B, windows, N, C)."""
    x = x.unflatten(2, (-1, window[1])).unflatten(1, (-1, window[0]))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _merge(x: torch.Tensor, size: tuple[int, int], window: tuple[int, int]) -> torch.Tensor:
    """(B, windows, N, C) -> (B, H, W, C): the inverse of :func:`_partition`."""
    x = x.unflatten(2, window).unflatten(1, (size[0] // window[0], size[1] // window[1]))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _padded(x: torch.Tensor, size: tuple[int, int], value: torch.Tensor | None) -> torch.Tensor:
    """``x`` (B, H, W, C) grown to ``size`` at the bottom and the right."""
    height, width = x.shape[1:3]
    if (height, width) == size:
        return x
    x = F.pad(x, (0, 0, 0, size[1] - width, 0, size[0] - height))
    if value is None:
        return x
    y = torch.arange(size[0], device=x.device) < height
    inside = y[:, None] & (torch.arange(size[1], device=x.device) < width)[None, :]
    return torch.where(inside[:, :, None], x, value)


def reference(call: WindowAttentionCall) -> torch.Tensor:
    """Shift, pad (in the order asked for), attend within windows, and undo both."""
    (height, width), window = call.qkv.shape[1:3], call.window
    size = (-(-height // window[0]) * window[0], -(-width // window[1]) * window[1])
    back, forth = call.shift, (-call.shift[0], -call.shift[1])
    x = call.qkv
    if call.pad_first:
        x = _padded(x, size, call.pad).roll(forth, (1, 2))
    else:
        x = _padded(x.roll(forth, (1, 2)), size, call.pad)

    qkv = _partition(x, window).unflatten(-1, (3, call.num_heads, -1))
    q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).unbind(0)  # (B, windows, heads, N, head_dim)
    scores = q * call.scale @ k.transpose(-2, -1)
    if call.bias_table is not None:
        bias = call.bias_table[relative_positions(window, x.device)]
        scores = scores + bias.permute(2, 0, 1)
    if any(call.shift):
        apart = shift_mask(size, window, call.shift, x.device)
        scores = scores + apart[:, None].to(scores.dtype) * MASKED
    out = (scores.softmax(-1) @ v).transpose(2, 3).flatten(3)

    out = _merge(out, size, window)
    if call.pad_first:
        return out.roll(back, (1, 2))[:, :height, :width].contiguous()
    return out[:, :height, :width].roll(back, (1, 2))


BACKEND = Backend(
    name="eager",
    supports=lambda call: [],
    forward=lambda call, needs_grad: (reference(call), ()),
)
