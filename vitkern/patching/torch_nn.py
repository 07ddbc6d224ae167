"""PyTorch's own layers, where no adapter of a library covers them.

In evaluation PyTorch has fast paths for its attention and encoder layers, each of them one
operator. So small calls are left to it whole, and the encoder layer is fused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from vitkern import ops
from vitkern.patching import compute, functional, layers, parts, products, suitable
from vitkern.patching.products import Products

if TYPE_CHECKING:
    from vitkern.patching.swap import Swap


# What an encoder layer's own forward calls.
_METHODS = frozenset({"_sa_block", "_ff_block"})


class Attending(Products):
    """Layers around ``nn.MultiheadAttention``: small calls run their own forward as it is."""

    def forward(self, swap: Swap, module: Any, *args: Any, **kwargs: Any) -> Any:
        x = args[0] if args else kwargs.get("query", kwargs.get("tgt"))
        if swap.backend is None and isinstance(x, torch.Tensor) and _small(x):
            return swap.original(module, *args, **kwargs)
        if isinstance(module, nn.MultiheadAttention) and _gives_weights(*args, **kwargs):
            # No op gives the weights of attention, and PyTorch has a fast path for them.
            why = "need_weights=True: PyTorch computes the attention"
            return swap.original(module, *args, why=why, **kwargs)
        return super().forward(swap, module, *args, **kwargs)


def _gives_weights(
    query: Any,
    key: Any = None,
    value: Any = None,
    key_padding_mask: Any = None,
    need_weights: bool = True,
    *args: Any,
    **kwargs: Any,
) -> bool:
    """Whether they ask ``nn.MultiheadAttention`` for its weights, as it gives by default."""
    return need_weights


def _small(x: torch.Tensor) -> bool:
    """Whether PyTorch is as fast for all products with these tokens, (..., C)."""
    return x.is_nested or x.dim() < 2 or x.numel() * x.shape[-1] < suitable.SMALLEST_LINEAR


class EncoderLayer(Attending):
    """``nn.TransformerEncoderLayer``: attention, then the MLP with its norm and residual in one op.

    With dropout that acts, a mask that is only hinted at, hooks on its children, or children that
    are not as PyTorch made them, its own code runs on ops.
    """

    def forward(
        self,
        swap: Swap,
        module: Any,
        src: torch.Tensor,
        src_mask: torch.Tensor | None = None,
        src_key_padding_mask: torch.Tensor | None = None,
        is_causal: bool = False,
    ) -> torch.Tensor:
        masks = (src_mask, src_key_padding_mask)
        odd = is_causal or src.is_nested or src.dim() != 3
        if (
            odd
            or torch.is_autocast_enabled(src.device.type)
            or (swap.backend is None and _small(src))
            or not self.fusible(module)
            or not self.masks_fit(module, src, masks)
        ):
            own: torch.Tensor = super().forward(swap, module, src, *masks, is_causal)
            return own
        m, backend = module._modules, swap.backend
        if module.norm_first:
            y = compute.layer_norm(m["norm1"], src, backend)
            x = src + self.attend(module, y, masks, backend)
            return self.perceptron(module, x, backend)
        x = compute.layer_norm(m["norm1"], src + self.attend(module, src, masks, backend), backend)
        return compute.layer_norm(m["norm2"], self.perceptron(module, x, backend), backend)

    def fusible(self, module: Any) -> bool:
        """Whether nothing but plain parts would be bypassed now."""
        m = module._modules
        attention = m["self_attn"]
        if type(attention) is not nn.MultiheadAttention or activation(module.activation) is None:
            return False
        reasons = parts.linear_reasons("linear1", m["linear1"])
        reasons += parts.linear_reasons("linear2", m["linear2"])
        for name in ("norm1", "norm2"):
            reasons += parts.layer_norm_reasons(name, m[name])
        for name in ("dropout", "dropout1", "dropout2"):
            reasons += parts.role_reasons(name, m[name], parts.DROPOUTS)
        reasons += parts.parameter_reasons("self_attn", attention, "in_proj_weight", "in_proj_bias")
        reasons += parts.linear_reasons("", attention._modules["out_proj"])
        if reasons or attention._parameters["in_proj_weight"] is None:
            return False
        if attention.bias_k is not None or attention.add_zero_attn:
            return False
        if attention.training and attention.dropout > 0.0:
            return False
        if any(parts.active(m[name]) for name in ("dropout", "dropout1", "dropout2")):
            return False
        if not _METHODS.isdisjoint(module.__dict__):
            return False
        return not products.watched_below(module)

    def masks_fit(
        self,
        module: Any,
        x: torch.Tensor,
        masks: tuple[torch.Tensor | None, torch.Tensor | None],
    ) -> bool:
        """Whether masks have the shapes of ``x``; others raise PyTorch's own error."""
        attention = module._modules["self_attn"]
        batch, tokens = x.shape[:2] if attention.batch_first else (x.shape[1], x.shape[0])
        return functional.masks_fit(*masks, (batch, attention.num_heads, tokens, tokens))

    def attend(
        self,
        module: Any,
        x: torch.Tensor,
        masks: tuple[torch.Tensor | None, torch.Tensor | None],
        backend: str | None,
    ) -> torch.Tensor:
        """Self-attention of ``x``, (B, N, C) or (N, B, C)."""
        attention = module._modules["self_attn"]
        p, out = attention._parameters, attention._modules["out_proj"]._parameters
        first = attention.batch_first
        qkv = functional.linear_or_own(backend, x, p["in_proj_weight"], p["in_proj_bias"])
        qkv = qkv.unflatten(2, (3, attention.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4) if first else qkv.permute(2, 1, 3, 0, 4)
        bias = functional.added(masks, x.dtype, q.shape[0], q.shape[1])
        y = functional.attention_or_own(backend, q, k, v, bias)
        y = (y.transpose(1, 2) if first else y.permute(2, 0, 1, 3)).flatten(2)
        return functional.linear_or_own(backend, y, out["weight"], out["bias"])

    def perceptron(self, module: Any, x: torch.Tensor, backend: str | None) -> torch.Tensor:
        """``x + mlp(norm2(x))``, or ``x + mlp(x)`` where the norm comes last."""
        m = module._modules
        first, second, norm = (m[name]._parameters for name in ("linear1", "linear2", "norm2"))
        weights = (first["weight"], first["bias"], second["weight"], second["bias"])
        name = activation(module.activation)
        if module.norm_first:
            return ops.mlp_block(
                x, norm["weight"], norm["bias"], *weights, eps=m["norm2"].eps, activation=name,
                backend=backend,
            )  # fmt: skip
        return ops.mlp(x, *weights, activation=name, residual=x, backend=backend)


def activation(function: Any) -> str | None:
    """The ops' name of a layer's activation, which may be a function; None if they have none."""
    if function is F.relu or type(function) is nn.ReLU:
        return "relu"
    if function is F.gelu:
        return "gelu"
    if type(function) is nn.GELU:
        return "gelu" if function.approximate == "none" else "gelu_tanh"
    return None


ADAPTERS = (
    layers.LayerNorm("torch.LayerNorm", "torch.nn:LayerNorm"),
    layers.Linear("torch.Linear", "torch.nn:Linear"),
    layers.PointwiseConvolution("torch.Conv2d", "torch.nn:Conv2d"),
    Attending("torch.attention", "torch.nn:MultiheadAttention", "torch.nn:TransformerDecoderLayer"),
    EncoderLayer("torch.TransformerEncoderLayer", "torch.nn:TransformerEncoderLayer"),
)
