"""Hugging Face's Swin: the layer, whose q, k and v are Linears of their own.

Its windows are not partitioned: as in ``windows.py``, with the map padded before it is shifted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from vitkern import ops
from vitkern.ops.window_attention.call import WindowAttentionCall
from vitkern.ops.window_attention.reference import relative_positions
from vitkern.patching import compute, forms, huggingface, parts, probe
from vitkern.patching.adapter import Adapter, Match
from vitkern.patching.mlps import FeedForward
from vitkern.patching.transformer import child_match
from vitkern.patching.windows import TABLE

if TYPE_CHECKING:
    from vitkern.patching.swap import Swap

_SWIN = "transformers.models.swin.modeling_swin"
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")
_DROPPING = "dropout is active in training"


class SwinLayer(Adapter):
    """Norm, window attention, residual, norm, MLP and residual of (B, H*W, C) tokens.

    Children ``layernorm_before``, ``attention`` (``q_proj``, ``k_proj``, ``v_proj``, ``o_proj`` and
    ``relative_position_bias``), ``layernorm_after``, ``mlp``, ``dropout``, ``drop_path``.

    Dropout that acts, attention implementations other than "sdpa" (the default), and maps smaller
    than the window run the original forward.

    Args:
        name: of the adapter.
        classes: that it takes.
        attention: theirs.
        bias: the class of its position bias.
        mlp: the adapter of theirs.
        drop_path: the class of theirs.
    """

    ops = ("layer_norm", "linear", "window_attention", "mlp")

    def __init__(
        self,
        name: str,
        *classes: str,
        attention: str,
        bias: str,
        mlp: FeedForward,
        drop_path: str,
    ) -> None:
        super().__init__(name, *classes)
        self.attention, self.bias, self.mlp = attention, bias, mlp
        self.drop_path = drop_path

    def match(self, module: Any) -> Match:
        """An attention as the library made it, and plain parts around it."""
        m = module._modules
        mlp = child_match(self.mlp, "mlp", m.get("mlp"))
        reasons = [*mlp.reasons]
        for name in ("layernorm_before", "layernorm_after"):
            reasons += parts.layer_norm_reasons(name, m.get(name))
        reasons += parts.role_reasons("dropout", m.get("dropout"), parts.DROPOUTS)
        paths = ("torch.nn:Identity", self.drop_path)
        reasons += parts.role_reasons("drop_path", m.get("drop_path"), paths)
        reasons += self._attention_reasons(m.get("attention"))
        if reasons:
            return Match(reasons)
        attn = m["attention"]
        a = attn._modules
        table = a["relative_position_bias"]._parameters[TABLE]
        window = tuple(a["relative_position_bias"].window_size)
        qkv = table.new_empty((1, *window, 3 * a["o_proj"].weight.shape[1]))
        bias, heads = a["q_proj"]._parameters["bias"], attn.num_attention_heads
        pad = None if bias is None else qkv.new_empty(qkv.shape[3])
        return Match(
            calls=[
                probe.layer_norm(m["layernorm_before"], a["q_proj"].weight),
                *(probe.linear(a[name]) for name in _PROJECTIONS),
                WindowAttentionCall(qkv, table, pad, heads, window, (0, 0), attn.scaling, True),
                probe.linear(a["o_proj"], residual=True),
                *mlp.calls,
            ],
            units=("layernorm_before", "attention", "layernorm_after", "mlp"),
            note="" if attn.attention_dropout == 0.0 and m["dropout"].p == 0.0
            else f"training runs the original forward: {_DROPPING}",
        )  # fmt: skip

    def _attention_reasons(self, attn: Any) -> list[str]:
        reasons = parts.role_reasons("attention", attn, (self.attention,))
        if reasons:
            return reasons
        a = attn._modules
        for name in (*_PROJECTIONS, "o_proj"):
            reasons += parts.linear_reasons(name, a.get(name))
        bias = a.get("relative_position_bias")
        reasons += parts.role_reasons("relative_position_bias", bias, (self.bias,))
        if reasons:
            return [f"attention: {reason}" for reason in reasons]
        reasons += parts.parameter_reasons("relative_position_bias", bias, TABLE)
        if attn.scaling != attn.head_dim**-0.5:
            reasons.append("scaling is not that of its heads")
        if len({a[name]._parameters["bias"] is None for name in _PROJECTIONS}) > 1:
            reasons.append("some of q, k and v have a bias, some have none")
        index = bias.relative_position_index
        if type(index) is torch.Tensor and not index.is_meta:
            expected = relative_positions(tuple(bias.window_size), index.device)
            if not torch.equal(index, expected.flatten()):
                reasons.append("relative_position_index is not that of Swin's relative positions")
        return [f"attention: {reason}" for reason in reasons]

    def forward(
        self,
        swap: Swap,
        module: Any,
        hidden_states: torch.Tensor,
        input_dimensions: Any,
        always_partition: bool = False,
        **kwargs: Any,
    ) -> Any:
        m = module._modules
        attn = m["attention"]
        why = self._why_not(module, attn, hidden_states, tuple(input_dimensions))
        if why is not None or any(one is not None and one is not False for one in kwargs.values()):
            return swap.original(
                module, hidden_states, input_dimensions, always_partition, why=why or None, **kwargs
            )
        batch, _, channels = hidden_states.shape
        x = hidden_states.view(batch, *input_dimensions, channels)
        x = self._attend(module, attn, x, swap.backend)
        return self._perceptron(m, x.view(hidden_states.shape), swap.backend), None

    def _why_not(self, module: Any, attn: Any, x: torch.Tensor, size: tuple[int, ...]) -> Any:
        """Why the original forward must run, "" where there is nothing to tell, or None."""
        if x.dim() != 3 or len(size) != 2 or x.shape[1] != size[0] * size[1]:
            return ""  # raises the module's own error
        if attn.config._attn_implementation != "sdpa":
            return f"the attention's implementation is {attn.config._attn_implementation!r}"
        dropping = attn.training and attn.attention_dropout > 0.0
        if dropping or parts.active(module._modules["dropout"]):
            return _DROPPING
        window = module.window_size
        if tuple(attn.relative_position_bias.window_size) != (window, window):
            return f"its window {window} is not that of its attention"
        # The original forward makes the window smaller, for good, or the shift zero.
        if min(size) < window:
            return f"the map is smaller than its window {window}"
        return "" if min(size) == window and module.shift_size > 0 else None

    def _attend(self, module: Any, attn: Any, x: torch.Tensor, backend: str | None) -> torch.Tensor:
        """The first half of the layer, of a (B, H, W, C) map."""
        m, a = module._modules, attn._modules
        y = compute.layer_norm(m["layernorm_before"], x, backend)
        window = module.window_size
        pad = None
        if x.shape[1] % window or x.shape[2] % window:
            biases = [a[name]._parameters["bias"] for name in _PROJECTIONS]
            pad = None if biases[0] is None else torch.cat(biases)
        y = ops.window_attention(
            torch.cat([compute.linear(a[name], y, backend) for name in _PROJECTIONS], -1),
            a["relative_position_bias"]._parameters[TABLE],
            num_heads=attn.num_attention_heads,
            window_size=window,
            shift_size=max(module.shift_size, 0),
            scale=attn.scaling,
            pad_value=pad,
            pad_first=True,
            backend=backend,
        )
        return compute.project(
            y, a["o_proj"], m["dropout"], backend, drop_path=m["drop_path"], residual=x
        )

    def _perceptron(self, m: Any, x: torch.Tensor, backend: str | None) -> torch.Tensor:
        """The second half, which drops nothing."""
        mlp, norm = m["mlp"], m["layernorm_after"]
        fc1, fc2, n = mlp._modules["fc1"], mlp._modules["fc2"], norm._parameters
        first, second = forms.weights((fc1, fc2), x, n["weight"], n["bias"])
        return ops.mlp_block(
            x,
            n["weight"],
            n["bias"],
            first,
            fc1._parameters["bias"],
            second,
            fc2._parameters["bias"],
            eps=norm.eps,
            activation=parts.activation(mlp._modules["activation_fn"]),
            backend=backend,
        )


ADAPTERS = (
    SwinLayer(
        "transformers.SwinLayer",
        f"{_SWIN}:SwinLayer",
        attention=f"{_SWIN}:SwinAttention",
        bias=f"{_SWIN}:SwinRelativePositionBias",
        mlp=huggingface.MLP,
        drop_path=f"{_SWIN}:SwinDropPath",
    ),
)
