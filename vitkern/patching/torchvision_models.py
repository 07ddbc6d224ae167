"""torchvision's vision transformers: ViT, Swin, Swin V2, MaxViT."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from vitkern import ops
from vitkern.ops.window_attention.reference import relative_positions
from vitkern.patching import compute, parts, probe
from vitkern.patching.adapter import Adapter, Match
from vitkern.patching.mlps import FeedForward
from vitkern.patching.products import Products, Routed
from vitkern.patching.windows import TABLE

if TYPE_CHECKING:
    from vitkern.patching.swap import Swap


class ShiftedWindowAttention(Adapter):
    """Swin's attention on a (B, H, W, C) map: children ``qkv`` and ``proj``, and the bias table.

    torchvision pads the map first and shifts it then, and does not shift along an axis that one
    window covers. Rates of dropout are attributes; with any of them active, and on maps smaller
    than the window, its own forward runs, with only the linear layers on ops.
    """

    ops = ("linear", "window_attention")
    forms = False  # its own forward, which calibration runs, reads weights without calling Linears
    parameters: tuple[str, ...] = (TABLE,)

    def match(self, module: Any) -> Match:
        """Plain Linears, the table a parameter, and the index that of Swin."""
        m = module._modules
        reasons = parts.linear_reasons("qkv", m.get("qkv"))
        reasons += parts.linear_reasons("proj", m.get("proj"))
        reasons += parts.parameter_reasons("", module, *self.parameters)
        if reasons:
            return Match(reasons)
        index = module.relative_position_index
        if type(index) is torch.Tensor and not index.is_meta:
            expected = relative_positions(tuple(module.window_size), index.device)
            if not torch.equal(index.reshape(expected.shape), expected):
                return Match(["relative_position_index is not that of Swin's relative positions"])
        window, shift = tuple(module.window_size), tuple(module.shift_size)
        return Match(
            calls=[
                probe.linear(m["qkv"]),
                probe.window_attention(
                    m["qkv"], self.probe_table(module), module.num_heads, window, shift
                ),
                probe.linear(m["proj"]),
            ]
        )

    def forward(self, swap: Swap, module: Any, x: torch.Tensor) -> torch.Tensor:
        m, window = module._modules, tuple(module.window_size)
        dropping = module.training and (module.attention_dropout > 0.0 or module.dropout > 0.0)
        if x.dim() != 4 or dropping or x.shape[1] < window[0] or x.shape[2] < window[1]:
            with Routed(swap, module):
                own: torch.Tensor = type(module).forward(module, x)
            return own
        shift = [
            0 if size <= one else by
            for one, size, by in zip(window, x.shape[1:3], module.shift_size, strict=True)
        ]
        weight, bias = m["qkv"]._parameters["weight"], self.bias(module)
        y = ops.window_attention(
            ops.linear(x, weight, bias, backend=swap.backend),
            num_heads=module.num_heads,
            window_size=window,
            shift_size=(shift[0], shift[1]),
            pad_value=bias,
            pad_first=True,
            backend=swap.backend,
            **self.positions(module),
        )
        return compute.linear(m["proj"], y, swap.backend)

    def bias(self, module: Any) -> torch.Tensor | None:
        """(3*C,) or None: the bias of q, k and v."""
        bias: torch.Tensor | None = module._modules["qkv"]._parameters["bias"]
        return bias

    def probe_table(self, module: Any) -> torch.Tensor:
        """A bias table for the representative call."""
        table: torch.Tensor = module._parameters[TABLE]
        return table

    def positions(self, module: Any) -> dict[str, Any]:
        """What scores are made of beside q and k."""
        return {"bias_table": module._parameters[TABLE]}


class ShiftedWindowAttentionV2(ShiftedWindowAttention):
    """That of Swin V2: cosines, and a network that makes the bias table. k has no bias."""

    parameters = ("logit_scale",)

    def bias(self, module: Any) -> torch.Tensor | None:
        bias = super().bias(module)
        if bias is None:
            return None
        q, _, v = bias.chunk(3)
        return torch.cat((q, torch.zeros_like(q), v))

    def probe_table(self, module: Any) -> torch.Tensor:
        rows = module.relative_coords_table.numel() // 2
        weight: torch.Tensor = module._modules["qkv"]._parameters["weight"]
        return weight.new_empty((rows, module.num_heads))

    def positions(self, module: Any) -> dict[str, Any]:
        table = module.cpb_mlp(module.relative_coords_table).view(-1, module.num_heads)
        scale = module._parameters["logit_scale"].clamp(max=math.log(100.0)).exp()
        return {"bias_table": 16 * torch.sigmoid(table), "logit_scale": scale.flatten()}


_SWIN = "torchvision.models.swin_transformer"

ADAPTERS = (
    FeedForward(
        "torchvision.MLP",
        "torchvision.ops.misc:MLP",
        "torchvision.models.vision_transformer:MLPBlock",
        fc1="0",
        act="1",
        fc2="3",
        drops=("2", "4"),
    ),
    ShiftedWindowAttention("torchvision.ShiftedWindowAttention", f"{_SWIN}:ShiftedWindowAttention"),
    ShiftedWindowAttentionV2(
        "torchvision.ShiftedWindowAttentionV2", f"{_SWIN}:ShiftedWindowAttentionV2"
    ),
    Products(
        "torchvision.Linears",
        f"{_SWIN}:PatchMerging",
        f"{_SWIN}:PatchMergingV2",
        ops=("linear",),
    ),
    Products(
        "torchvision.PartitionAttentionLayer",
        "torchvision.models.maxvit:PartitionAttentionLayer",
        written_out=True,
    ),
    Products(
        "torchvision.VisionTransformer",
        "torchvision.models.vision_transformer:VisionTransformer",
        ops=("patch_embed",),
    ),
)
