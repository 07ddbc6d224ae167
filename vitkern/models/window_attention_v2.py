"""Attention inside windows as in Swin V2: cosines for scores, positions from a small network."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from vitkern.models import _check
from vitkern.models._built_once import built_once
from vitkern.models._derived import Derived
from vitkern.models.window_attention import add_mask, relative_position_index

_LARGEST_SCALE = 100.0
_LARGEST_BIAS = 16.0
_HIDDEN = 512


class WindowAttentionV2(nn.Module):
    """Multi-head self-attention among the tokens of each window, by cosine similarity.

    Scores are cosines of q and k, times a learned factor for each head that is kept below 100, plus
    a bias that an MLP computes from where one token lies relative to the other, on a logarithmic
    scale, so that it extends to windows larger than those of training. Liu et al., "Swin
    Transformer V2: Scaling Up Capacity and Resolution", 2021 (arXiv 2111.09883), section 3.

    Args:
        dim: channels of a token.
        num_heads: heads; must divide ``dim``.
        window_size: window size in tokens, an int or (height, width).
        qkv_bias: give the q and v projections a bias; k has none.
        attn_drop: dropout rate of the attention weights.
        proj_drop: dropout rate of the output.
        pretrained_window_size: window size that the weights were trained with, which scales the
            offsets; 0 where it is this one.

    Attributes:
        logit_scale: (num_heads, 1, 1), the logarithm of the factors.
        cpb_mlp: the MLP of the continuous position bias, from 2 to ``num_heads`` channels.
        qkv: one linear layer without bias for q, k and v, ordered (3, num_heads, head_dim).
        q_bias, v_bias: (dim,) or None.

    Raises:
        TypeError: ``dim``, ``num_heads`` or a window size is not of ints.
        ValueError: ``num_heads`` does not divide ``dim``, the window is empty, or a rate is outside
            [0, 1).
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int | tuple[int, int] = 7,
        *,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        pretrained_window_size: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        _check.heads("dim", dim, num_heads)
        _check.rate("attn_drop", attn_drop)
        _check.rate("proj_drop", proj_drop)
        self.dim = dim
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.window_size = _check.pair("window_size", window_size, minimum=1)
        self.window_area = self.window_size[0] * self.window_size[1]
        self.pretrained_window_size = _check.pair(
            "pretrained_window_size", pretrained_window_size, minimum=0
        )

        self.logit_scale = nn.Parameter(torch.full((num_heads, 1, 1), math.log(10.0)))
        self.cpb_mlp = nn.Sequential(
            nn.Linear(2, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, num_heads, bias=False)
        )
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias else None
        self.v_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias else None
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
        self._bias = Derived()
        self._table = Derived()

    def relative_position_bias(self) -> torch.Tensor:
        """(num_heads, N, N): what each head adds to the score of each pair of tokens.

        Computed once where no gradient is wanted, and kept until the MLP's parameters change.
        """
        return self._bias(list(self.cpb_mlp.parameters()), self._compute_bias)

    def relative_position_bias_table(self) -> torch.Tensor:
        """((2·height-1)·(2·width-1), num_heads): the bias of every offset, in Swin's order.

        Kept as :meth:`relative_position_bias` is.
        """
        return self._table(list(self.cpb_mlp.parameters()), self._compute_table)

    def _compute_table(self) -> torch.Tensor:
        weight = self.proj.weight
        offsets = log_spaced_offsets(
            self.window_size, self.pretrained_window_size, weight.device, weight.dtype
        )
        table: torch.Tensor = self.cpb_mlp(offsets)
        return _LARGEST_BIAS * table.sigmoid()

    def _compute_bias(self) -> torch.Tensor:
        index = relative_position_index(self.window_size, self.proj.weight.device)
        return self.relative_position_bias_table()[index].permute(2, 0, 1)

    def qkv_bias(self) -> torch.Tensor | None:
        """(3·dim,): the biases of q and v around zeros for k; None where there are none."""
        if self.q_bias is None or self.v_bias is None:
            return None
        return torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))

    def scale(self) -> torch.Tensor:
        """(num_heads, 1, 1): what each head multiplies cosines with, at most 100."""
        return self.logit_scale.clamp(max=math.log(_LARGEST_SCALE)).exp()

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Attention among the tokens of each window.

        Args:
            x: (B·windows, N, dim), the windows of one image after the other.
            mask: (windows, N, N), added to the scores of every head.

        Returns:
            (B·windows, N, dim), in x's dtype.

        Raises:
            ValueError: ``x`` or ``mask`` of another shape.
        """
        _check.sequence("x", x, self.dim)
        count, tokens, dim = x.shape
        if tokens != self.window_area:
            height, width = self.window_size
            raise ValueError(f"x must hold windows of {height}×{width} tokens, got {tokens} tokens")
        qkv = F.linear(x, self.qkv.weight, self.qkv_bias())
        qkv = qkv.reshape(count, tokens, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B·windows, heads, N, head_dim)
        cosines = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        scores = cosines * self.scale() + self.relative_position_bias()
        if mask is not None:
            scores = add_mask(scores, mask)
        weights = self.attn_drop(scores.softmax(dim=-1))
        x = (weights @ v).transpose(1, 2).reshape(count, tokens, dim)
        return self.proj_drop(self.proj(x))


@built_once
def log_spaced_offsets(
    window_size: tuple[int, int],
    pretrained_window_size: tuple[int, int],
    device: torch.device,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Every offset between two tokens of a window, as the position bias's MLP sees it.

    An offset is divided by the largest of the (pretrained) window, multiplied by 8, and its
    magnitude d replaced by log₂(1 + d) / log₂ 8. Computed in float32 whatever the dtype, as the
    published weights were trained with.

    Returns:
        ((2·height-1)·(2·width-1), 2), rows then columns, in the order of the bias table that
        :func:`relative_position_index` points into.
    """
    spaced = []
    for size, pretrained in zip(window_size, pretrained_window_size, strict=True):
        largest = max((pretrained if pretrained_window_size[0] > 0 else size) - 1, 1)
        offsets = torch.arange(1 - size, size, device=device, dtype=torch.float32) / largest * 8
        spaced.append(offsets.sign() * (offsets.abs() + 1).log2() / math.log2(8))
    rows, columns = torch.meshgrid(*spaced, indexing="ij")
    return torch.stack((rows, columns), dim=-1).flatten(0, 1).to(dtype)
