"""Adapter of the Swin V2 block, whose branches are normalised at their end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vitkern import ops
from vitkern.patching import compute, parts, probe
from vitkern.patching.adapter import Adapter, Match
from vitkern.patching.products import Routed
from vitkern.patching.windows import attention_reasons, window_dropout

if TYPE_CHECKING:
    from vitkern.patching.swap import Swap


class CosineAttention:
    """What a library's window attention of Swin V2 is made of. Subclasses say where it stands.

    Args:
        classes: the exact classes, as ``"package.module:Class"``.

    Attributes:
        parameters: those that are read, where the module has them.
    """

    parameters: tuple[str, ...] = ("logit_scale",)

    def __init__(self, *classes: str) -> None:
        self.classes = classes

    def reasons(self, block: Any, attn: Any) -> list[str]:
        """Why it is not plain: Linears, dropouts and parameters that are read and not called."""
        there = tuple(name for name in self.parameters if getattr(attn, name, None) is not None)
        return attention_reasons(attn, self.classes, there)

    def mask_fits(self, block: Any, x: torch.Tensor) -> bool:
        """Whether the block's mask is for maps of this size."""
        return True

    def why_not(self, attn: Any) -> str | None:
        """Why the original forward must run now, beside dropout of the attention's weights."""
        return None

    def note(self, attn: Any) -> str:
        """What a user should know, for the report."""
        dropout = attn._modules["attn_drop"]
        if type(dropout) is nn.Identity or dropout.p == 0.0:
            return ""
        return "training runs the original forward: attention dropout"

    def bias(self, attn: Any) -> torch.Tensor | None:
        """(3*C,): the bias of q, k and v."""
        raise NotImplementedError

    def bias_table(self, attn: Any) -> torch.Tensor:
        """(positions, heads): what is added to scores, by relative position."""
        raise NotImplementedError

    def logit_scale(self, attn: Any) -> torch.Tensor:
        """(heads): what cosines are multiplied with."""
        raise NotImplementedError


class SwinBlockV2(Adapter):
    """Cosine attention in windows of a (B, H, W, C) map, which is never partitioned, and an MLP.

    Children ``attn`` (``qkv``, ``attn_drop``, ``proj``, ``proj_drop``, and a network that makes the
    position bias), ``norm1``, ``drop_path1``, ``mlp``, ``norm2``, ``drop_path2``, and in some a
    last norm. All but the attention are called as they are, and may be patched themselves.

    The op has no dropout: training with attention dropout runs the original forward. Where the
    attention says that it cannot be in windows now, that runs with its products on ops.

    Args:
        name: of the adapter.
        classes: that it takes.
        attention: what theirs is made of.
        tokens: whether the MLP is given (B, N, C) tokens, not the map.
        last: the name of a norm of the result, or None.
    """

    ops = ("linear", "window_attention")
    written_out = True  # as in the original forward
    forms = False  # the original attention reads qkv's weight without calling it

    def __init__(
        self,
        name: str,
        *classes: str,
        attention: CosineAttention,
        tokens: bool = False,
        last: str | None = None,
    ) -> None:
        super().__init__(name, *classes)
        self.attention = attention
        self.tokens, self.last = tokens, last

    def match(self, module: Any) -> Match:
        """A window attention that is as the library made it."""
        attn = module._modules.get("attn")
        reasons = self.attention.reasons(module, attn)
        if reasons:
            return Match(reasons)
        m, window = attn._modules, module.window_size
        rows = (2 * window[0] - 1) * (2 * window[1] - 1)
        table = m["qkv"].weight.new_empty((rows, attn.num_heads))
        return Match(
            calls=[
                probe.linear(m["qkv"]),
                probe.window_attention(m["qkv"], table, attn.num_heads, window, module.shift_size),
                probe.linear(m["proj"]),
            ],
            units=("norm1", "mlp", "norm2", *(() if self.last is None else (self.last,))),
            note=self.attention.note(attn),
        )

    def forward(self, swap: Swap, module: Any, x: torch.Tensor) -> torch.Tensor:
        m, window = module._modules, module.window_size
        if x.dim() != 4:
            return swap.original(module, x)  # raises the module's own error
        if parts.active(m["attn"]._modules["attn_drop"]):
            return swap.original(module, x, why="attention dropout is active in training")
        why = self.attention.why_not(m["attn"])
        if why is not None:
            swap.tell(module, why)
            with Routed(swap, module):
                own: torch.Tensor = type(module).forward(module, x)
            return own
        if x.shape[1] < window[0] or x.shape[2] < window[1]:
            return swap.original(module, x, why=f"the map is smaller than its window {window}")
        if not self.attention.mask_fits(module, x):
            return swap.original(module, x)  # raises the module's own error
        x = x + m["drop_path1"](m["norm1"](self.attend(module, x, swap.backend)))
        size = x.shape[1:3]
        if self.tokens:
            x = x.flatten(1, 2)
        x = x + m["drop_path2"](m["norm2"](m["mlp"](x)))
        if self.last is not None:
            x = m[self.last](x)
        return x.unflatten(1, size) if self.tokens else x

    def attend(self, module: Any, x: torch.Tensor, backend: str | None) -> torch.Tensor:
        """The attention of the block, with its projection."""
        attn: Any = module._modules["attn"]
        m, bias = attn._modules, self.attention.bias(attn)
        y = ops.window_attention(
            ops.linear(x, m["qkv"]._parameters["weight"], bias, backend=backend),
            self.attention.bias_table(attn),
            num_heads=attn.num_heads,
            window_size=module.window_size,
            shift_size=module.shift_size,
            logit_scale=self.attention.logit_scale(attn),
            pad_value=bias,
            pad_first=False,
            backend=backend,
        )
        y = compute.linear(m["proj"], y, backend)
        if parts.active(m["proj_drop"]):
            y = y * window_dropout(m["proj_drop"], y, module.window_size, module.shift_size)
        return y
