"""Hugging Face's Swin V2: the layers that are not shifted.

The others add the mask of their shift twice: -200 between regions, where Swin V2 and
``ops.window_attention`` have -100. Cosines are multiplied with up to 100, so that the smaller mask
does not hide a key from a query that is unlike all the others, and outputs would differ. Their own
forward runs, with the attention's products on ops.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from vitkern import ops
from vitkern.ops.window_attention.call import WindowAttentionCall
from vitkern.ops.window_attention.reference import relative_positions
from vitkern.patching import compute, parts, probe
from vitkern.patching.adapter import Adapter, Match

if TYPE_CHECKING:
    from vitkern.patching.swap import Swap

_MODEL = "transformers.models.swinv2.modeling_swinv2"
_PROJECTIONS = ("query", "key", "value")
_DROPPING = "dropout is active in training"


class SwinLayerV2(Adapter):
    """Window attention, norm, residual, MLP, norm and residual of (B, H*W, C) tokens.

    Children ``attention`` (``self`` and ``output``), ``layernorm_before``, ``drop_path``,
    ``intermediate``, ``output``, ``layernorm_after``. All but the attention are called as they are,
    and may be patched themselves.

    Dropout that acts, attentions that are asked for, and maps smaller than the window run the
    original forward.
    """

    ops = ("linear", "window_attention")
    forms = False  # as the modules that this one is made of

    def match(self, module: Any) -> Match:
        """An attention as the library made it, in a layer without a shift."""
        attention = module._modules.get("attention")
        reasons = parts.role_reasons("attention", attention, (f"{_MODEL}:Swinv2Attention",))
        if not reasons:
            reasons = [f"attention: {reason}" for reason in self._reasons(module, attention)]
        if module.shift_size != 0:
            reasons.append("adds the mask of its shift twice (-200), and the op once (-100)")
        if reasons:
            return Match(reasons)
        attn, output = attention._modules["self"], attention._modules["output"]
        a, dense, window = attn._modules, output._modules["dense"], attn.window_size
        rows = (2 * window[0] - 1) * (2 * window[1] - 1)
        qkv = dense.weight.new_empty((1, *window, 3 * dense.weight.shape[1]))
        table, pad = qkv.new_empty((rows, attn.num_attention_heads)), qkv.new_empty(qkv.shape[3])
        heads = attn.num_attention_heads
        drops = any(getattr(one, "p", 0.0) for one in self._dropouts(attention))
        return Match(
            calls=[
                *(probe.linear(a[name]) for name in _PROJECTIONS),
                WindowAttentionCall(qkv, table, pad, heads, tuple(window), (0, 0), 1.0, True),
                probe.linear(dense),
            ],
            units=("layernorm_before", "intermediate", "output", "layernorm_after"),
            note=f"training runs the original forward: {_DROPPING}" if drops else "",
        )

    def _reasons(self, module: Any, attention: Any) -> list[str]:
        attn, output = attention._modules.get("self"), attention._modules.get("output")
        reasons = parts.role_reasons("self", attn, (f"{_MODEL}:Swinv2SelfAttention",))
        reasons += parts.role_reasons("output", output, (f"{_MODEL}:Swinv2SelfOutput",))
        if reasons:
            return reasons
        for name in _PROJECTIONS:
            reasons += parts.linear_reasons(name, attn._modules.get(name))
        reasons += parts.linear_reasons("dense", output._modules.get("dense"))
        for owner in (attn, output):
            reasons += parts.role_reasons("dropout", owner._modules.get("dropout"), parts.DROPOUTS)
        reasons += parts.parameter_reasons("", attn, "logit_scale")
        window = tuple(attn.window_size)
        if window != (module.window_size, module.window_size):
            reasons.append(f"has window {window}, the layer {module.window_size}")
        index = attn.relative_position_index
        if type(index) is not torch.Tensor or index.is_meta:
            return reasons  # torch.export looks again with fake tensors, which have no values
        if not torch.equal(index, relative_positions(window, index.device)):
            reasons.append("relative_position_index is not that of Swin's relative positions")
        return reasons

    @staticmethod
    def _dropouts(attention: Any) -> tuple[Any, Any]:
        """That of the weights, and that of the result."""
        m = attention._modules
        return m["self"]._modules["dropout"], m["output"]._modules["dropout"]

    def forward(
        self,
        swap: Swap,
        module: Any,
        hidden_states: torch.Tensor,
        input_dimensions: Any,
        output_attentions: bool | None = False,
    ) -> Any:
        m, size = module._modules, tuple(input_dimensions)
        why: str | None = None
        if any(parts.active(one) for one in self._dropouts(m["attention"])):
            why = _DROPPING
        elif len(size) == 2 and min(size) < module.window_size:
            why = f"the map is smaller than its window {module.window_size}"
        elif output_attentions:
            why = "output_attentions=True: PyTorch computes the attention"
        # Shapes that do not fit raise the module's own error; shifts of a later day are its own.
        fits = hidden_states.dim() == 3 and len(size) == 2 and module.shift_size == 0
        if why is not None or not fits or hidden_states.shape[1] != size[0] * size[1]:
            return swap.original(
                module, hidden_states, input_dimensions, output_attentions, why=why
            )
        x = hidden_states.view(hidden_states.shape[0], *size, hidden_states.shape[2])
        y = self._attend(m["attention"], x, swap.backend).reshape(hidden_states.shape)
        x = hidden_states + m["drop_path"](m["layernorm_before"](y))
        y = m["output"](m["intermediate"](x))
        return (x + m["drop_path"](m["layernorm_after"](y)),)

    def _attend(self, attention: Any, x: torch.Tensor, backend: str | None) -> torch.Tensor:
        """The attention of a (B, H, W, C) map, with its projection."""
        attn = attention._modules["self"]
        a, window, heads = attn._modules, tuple(attn.window_size), attn.num_attention_heads
        pad = None
        if x.shape[1] % window[0] or x.shape[2] % window[1]:
            layers = [a[name]._parameters for name in _PROJECTIONS]
            pad = torch.cat(
                [
                    one["weight"].new_zeros(one["weight"].shape[0])
                    if one["bias"] is None
                    else one["bias"]
                    for one in layers
                ]
            )
        table = a["continuous_position_bias_mlp"](attn.relative_coords_table).view(-1, heads)
        scale = attn._parameters["logit_scale"].clamp(max=math.log(1.0 / 0.01)).exp()
        y = ops.window_attention(
            torch.cat([compute.linear(a[name], x, backend) for name in _PROJECTIONS], -1),
            16 * torch.sigmoid(table),
            num_heads=heads,
            window_size=(window[0], window[1]),
            logit_scale=scale.flatten(),
            pad_value=pad,
            pad_first=True,
            backend=backend,
        )
        return compute.linear(attention._modules["output"]._modules["dense"], y, backend)


ADAPTERS = (SwinLayerV2("transformers.Swinv2Layer", f"{_MODEL}:Swinv2Layer"),)
