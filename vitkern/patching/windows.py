"""Adapter of the Swin block, and of the layer that halves a map between two stages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from vitkern import ops
from vitkern.patching import compute, forms, parts, probe
from vitkern.patching.adapter import Adapter, Match
from vitkern.patching.classes import loaded, title
from vitkern.patching.transformer import Mlp, branch_reasons, child_match

if TYPE_CHECKING:
    from vitkern.patching.swap import Swap

TABLE = "relative_position_bias_table"


def attention_reasons(
    attn: Any, classes: tuple[str, ...], parameters: tuple[str, ...]
) -> list[str]:
    """Why a window attention is not of the classes, or its Linears, dropouts and parameters, which
    are read and not called, are not plain."""
    if type(attn) not in loaded(*classes):
        kind = "missing" if attn is None else title(type(attn))
        return [f"attn is {kind}, not {classes[0].split(':')[1]}"]
    m = attn._modules
    reasons = parts.linear_reasons("qkv", m.get("qkv"))
    reasons += parts.linear_reasons("proj", m.get("proj"))
    reasons += parts.role_reasons("attn_drop", m.get("attn_drop"), parts.DROPOUTS)
    reasons += parts.role_reasons("proj_drop", m.get("proj_drop"), parts.DROPOUTS)
    reasons += parts.parameter_reasons("", attn, *parameters)
    return [f"attn: {reason}" for reason in reasons]


class SwinBlock(Adapter):
    """Window attention and an MLP on a (B, H, W, C) map, which is never partitioned.

    Children ``norm1``, ``attn`` (``qkv``, ``attn_drop``, ``proj``, ``proj_drop`` and the bias
    table), ``drop_path1``, ``norm2``, ``mlp``, ``drop_path2``. Shift, padding, partition, mask and
    bias lookup happen in the addressing of ``ops.window_attention``. The original pads the block's
    normalised input with zeros, so that padded positions have the bias of ``qkv`` as their q, k
    and v.

    The op has no dropout: training with attention dropout runs the original forward.
    """

    ops = ("layer_norm", "linear", "window_attention", "mlp")

    def __init__(self, name: str, *classes: str, attention: tuple[str, ...], mlp: Mlp) -> None:
        super().__init__(name, *classes)
        self.attention = attention
        self.mlp = mlp

    def match(self, module: Any) -> Match:
        """A window attention that is as the library made it, and plain parts around it."""
        m = module._modules
        mlp = child_match(self.mlp, "mlp", m.get("mlp"))
        reasons = branch_reasons(module, scales=False) + mlp.reasons
        reasons += self.attention_reasons(module, m.get("attn"))
        if reasons:
            return Match(reasons)
        attn = m["attn"]
        dropout = attn._modules["attn_drop"]
        return Match(
            calls=[
                probe.layer_norm(m["norm1"], attn.qkv.weight),
                probe.linear(attn.qkv),
                probe.window_attention(
                    attn.qkv,
                    attn._parameters[TABLE],
                    attn.num_heads,
                    module.window_size,
                    module.shift_size,
                ),
                probe.linear(attn.proj, residual=True),
                *mlp.calls,
            ],
            units=("norm1", "norm2", "mlp"),
            note=""
            if type(dropout) is nn.Identity or dropout.p == 0.0
            else "training runs the original forward: attention dropout",
        )

    def attention_reasons(self, module: Any, attn: Any) -> list[str]:
        """Why the block's window attention is not plain."""
        return attention_reasons(attn, self.attention, (TABLE,))

    def scale(self, attn: Any) -> float | None:
        """What scores are multiplied with."""
        scale: float = attn.scale
        return scale

    def drops_attention(self, attn: Any) -> bool:
        """Whether attention dropout is active."""
        return parts.active(attn._modules["attn_drop"])

    def forward(self, swap: Swap, module: Any, x: torch.Tensor) -> torch.Tensor:
        m, backend = module._modules, swap.backend
        attn = m["attn"]
        if x.dim() != 4:
            return swap.original(module, x)  # raises the module's own error
        window = module.window_size
        if self.drops_attention(attn):
            return swap.original(module, x, why="attention dropout is active in training")
        if x.shape[1] < window[0] or x.shape[2] < window[1]:
            return swap.original(module, x, why=f"the map is smaller than its window {window}")
        if not self.mask_fits(module, x):
            return swap.original(module, x)  # raises the module's own error
        qkv, proj = attn._modules["qkv"]._parameters, attn._modules["proj"]._parameters
        dropping = parts.active(attn._modules["proj_drop"]) or parts.active(m["drop_path1"])
        if dropping or qkv["weight"].shape[0] != 3 * qkv["weight"].shape[1]:
            x = self.attend(module, x, backend)
        else:
            norm, table = m["norm1"]._parameters, attn._parameters[TABLE]
            layers = attn._modules["qkv"], attn._modules["proj"]
            weights = forms.weights(layers, x, norm["weight"], norm["bias"], table)
            x = ops.window_attention_block(
                x,
                norm["weight"],
                norm["bias"],
                weights[0],
                qkv["bias"],
                weights[1],
                proj["bias"],
                table,
                num_heads=attn.num_heads,
                window_size=window,
                shift_size=module.shift_size,
                eps=m["norm1"].eps,
                scale=self.scale(attn),
                pad_first=False,
                backend=backend,
            )
        return self.mlp.branch(m["mlp"], m["norm2"], x, backend, drop_path=m["drop_path2"])

    def mask_fits(self, module: Any, x: torch.Tensor) -> bool:
        """Whether the block's mask is for maps of this size."""
        return True

    def attend(self, module: Any, x: torch.Tensor, backend: str | None) -> torch.Tensor:
        """The attention half of the block, op by op: with dropouts, or heads of another width."""
        m = module._modules
        attn = m["attn"]
        y = compute.layer_norm(m["norm1"], x, backend)
        y = compute.linear(attn._modules["qkv"], y, backend)
        y = ops.window_attention(
            y,
            attn._parameters[TABLE],
            num_heads=attn.num_heads,
            window_size=module.window_size,
            shift_size=module.shift_size,
            scale=self.scale(attn),
            pad_value=attn._modules["qkv"]._parameters["bias"],
            pad_first=False,
            backend=backend,
        )
        proj, dropout = attn._modules["proj"], attn._modules["proj_drop"]
        if not parts.active(dropout):
            return compute.project(y, proj, dropout, backend, drop_path=m["drop_path1"], residual=x)
        y = compute.linear(proj, y, backend)
        y = y * window_dropout(dropout, y, module.window_size, module.shift_size)
        return compute.join(y, m["drop_path1"], x)


def window_dropout(
    dropout: nn.Module, like: torch.Tensor, window: tuple[int, int], shift: tuple[int, int]
) -> torch.Tensor:
    """What a dropout multiplies a map with, if it acts on the map's windows, as in the original.

    It is drawn for the windows of the shifted and padded map and put back into the map's order.
    """
    batch, height, width, channels = like.shape
    rows, columns = -(-height // window[0]), -(-width // window[1])
    ones = like.new_ones((batch * rows * columns, window[0] * window[1], channels))
    factors = dropout(ones).reshape(batch, rows, columns, *window, channels)
    factors = factors.transpose(2, 3).reshape(
        batch, rows * window[0], columns * window[1], channels
    )
    return factors[:, :height, :width].roll(shift, (1, 2))


class PatchMerging(Adapter):
    """2x2 neighbours into one token: children ``norm`` and ``reduction``. Pads only where a size is
    odd, and copies once."""

    ops = ("layer_norm", "linear")

    def match(self, module: nn.Module) -> Match:
        """A plain LayerNorm and a plain Linear."""
        m = module._modules
        reasons = parts.layer_norm_reasons("norm", m.get("norm"))
        reasons += parts.linear_reasons("reduction", m.get("reduction"))
        if reasons:
            return Match(reasons)
        reduction = probe.linear(m["reduction"])
        return Match(calls=[probe.layer_norm(m["norm"], reduction.x), reduction])

    def forward(self, swap: Swap, module: Any, x: torch.Tensor) -> torch.Tensor:
        m = module._modules
        if x.dim() != 4 or x.shape[3] != module.dim:
            return swap.original(module, x)
        height, width = x.shape[1], x.shape[2]
        if height % 2 or width % 2:
            x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
            height, width = x.shape[1], x.shape[2]
        x = x.reshape(x.shape[0], height // 2, 2, width // 2, 2, module.dim)
        x = x.permute(0, 1, 3, 4, 2, 5).flatten(3)
        y = compute.layer_norm(m["norm"], x, swap.backend)
        return compute.linear(m["reduction"], y, swap.backend)
