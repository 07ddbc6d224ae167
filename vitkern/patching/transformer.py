"""Adapters of the ViT pattern: multi-head attention, the MLP, and the pre-norm block of both.

The libraries' tables subclass these where their modules differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vitkern import ops
from vitkern.patching import compute, forms, parts, probe
from vitkern.patching.adapter import Adapter, Call, Match
from vitkern.patching.classes import loaded, title

if TYPE_CHECKING:
    from vitkern.patching.swap import Swap


class Attention(Adapter):
    """Self-attention with one Linear for q, k and v: children ``qkv``, ``attn_drop``, ``proj``,
    ``proj_drop``, and optionally ``q_norm``, ``k_norm``, ``norm`` (of the output), ``gate``."""

    ops = ("linear", "attention")

    def match(self, module: Any) -> Match:
        """Plain Linears, LayerNorms or none, plain dropouts."""
        m = module._modules
        reasons = parts.linear_reasons("qkv", m.get("qkv"))
        reasons += parts.linear_reasons("proj", m.get("proj"))
        for name in ("q_norm", "k_norm", "norm"):
            reasons += parts.optional_norm_reasons(name, m.get(name))
        if m.get("gate") is not None:
            reasons += parts.linear_reasons("gate", m["gate"])
        for name in ("attn_drop", "proj_drop"):
            reasons += parts.role_reasons(name, m.get(name), parts.DROPOUTS)
        if reasons:
            return Match(reasons)
        calls: list[Call] = [probe.linear(m["qkv"])]
        weight = m["qkv"].weight
        calls += [
            probe.layer_norm(m[name], weight)
            for name in ("q_norm", "k_norm", "norm")
            if type(m.get(name)) not in (nn.Identity, type(None))
        ]
        calls.append(probe.attention(m["qkv"], module.num_heads, module.head_dim))
        calls.append(probe.linear(m["proj"]))
        return Match(calls=calls)

    def scale(self, module: Any) -> float | None:
        """What scores are multiplied with."""
        scale: float = module.scale
        return scale

    def dropout_p(self, module: Any) -> float:
        """The rate of attention dropout, 0 in evaluation."""
        rate: float = module._modules["attn_drop"].p if module.training else 0.0
        return rate

    def plain(self, module: Any) -> bool:
        """Whether there is nothing but qkv, scores and projection."""
        m = module._modules
        for name in ("q_norm", "k_norm", "norm", "gate"):
            child = m.get(name)
            if child is not None and type(child) is not nn.Identity:
                return False
        weight = m["qkv"]._parameters["weight"]
        return (
            weight.shape[0] == 3 * weight.shape[1]
            and self.dropout_p(module) == 0.0
            and not parts.active(m["proj_drop"])
        )

    def attend(
        self,
        module: Any,
        x: torch.Tensor,
        backend: str | None,
        bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(B, N, C) -> (B, N, heads * head_dim): all of the attention but its projection."""
        m = module._modules
        batch, tokens = x.shape[0], x.shape[1]
        heads, head_dim = module.num_heads, module.head_dim
        qkv = compute.linear(m["qkv"], x, backend)
        q, k, v = qkv.reshape(batch, tokens, 3, heads, head_dim).unbind(2)  # (B, N, heads, d)
        if type(m["q_norm"]) is not nn.Identity:
            q = compute.layer_norm(m["q_norm"], q, backend)
        if type(m["k_norm"]) is not nn.Identity:
            k = compute.layer_norm(m["k_norm"], k, backend)
        y = ops.attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            bias=bias,
            scale=self.scale(module),
            dropout_p=self.dropout_p(module),
            backend=backend,
        )
        y = y.transpose(1, 2).reshape(batch, tokens, heads * head_dim)
        norm, gate = m.get("norm"), m.get("gate")
        if norm is not None and type(norm) is not nn.Identity:
            y = compute.layer_norm(norm, y, backend)
        if gate is not None:
            y = y * compute.linear(gate, x, backend).sigmoid()
        return y

    def forward(self, swap: Swap, module: Any, x: torch.Tensor) -> torch.Tensor:
        if x.dim() != 3:
            return swap.original(module, x)  # raises the module's own error
        y = self.attend(module, x, swap.backend)
        m = module._modules
        return compute.project(y, m["proj"], m["proj_drop"], swap.backend)


class Mlp(Adapter):
    """Two Linears: children ``fc1``, ``act``, ``drop1``, ``fc2``, ``drop2``, optionally ``norm``
    (between the two).

    Args:
        name: of the adapter.
        classes: that it takes.
        otherwise: takes those whose activation the ops do not have.
    """

    ops = ("mlp",)

    def __init__(self, name: str, *classes: str, otherwise: Adapter | None = None) -> None:
        super().__init__(name, *classes)
        self.otherwise = otherwise

    def match(self, module: nn.Module) -> Match:
        """Plain Linears, an activation that the ops have, plain dropouts, a LayerNorm or none."""
        m = module._modules
        reasons = parts.linear_reasons("fc1", m.get("fc1"))
        reasons += parts.linear_reasons("fc2", m.get("fc2"))
        reasons += parts.optional_norm_reasons("norm", m.get("norm"))
        for name in ("drop1", "drop2"):
            reasons += parts.role_reasons(name, m.get(name), parts.DROPOUTS)
        other = parts.activation_reasons("act", m.get("act"))
        if reasons or other:
            return Match(reasons + other, otherwise=None if reasons else self.otherwise)
        fc1, fc2, act = m["fc1"], m["fc2"], m["act"]
        assert fc1 is not None and fc2 is not None and act is not None
        activation = parts.activation(act)
        norm = m.get("norm")
        if norm is not None and type(norm) is not nn.Identity:
            first, second = probe.linear(fc1, activation), probe.linear(fc2)
            return Match(calls=[first, probe.layer_norm(norm, fc1._parameters["weight"]), second])
        return Match(calls=[probe.mlp(fc1, fc2, activation)])

    def plain(self, module: Any) -> bool:
        """Whether there is nothing but two products and an activation: no norm, no dropout."""
        m = module._modules
        norm = m.get("norm")
        return (
            (norm is None or type(norm) is nn.Identity)
            and not parts.active(m["drop1"])
            and not parts.active(m["drop2"])
        )

    def branch(
        self,
        module: Any,
        norm: nn.Module,
        x: torch.Tensor,
        backend: str | None,
        *,
        scale: nn.Module | None = None,
        drop_path: nn.Module,
    ) -> torch.Tensor:
        """``x + drop_path(scale(mlp(norm(x))))``: a block's second half, in one op where it can."""
        if not self.plain(module) or parts.active(drop_path):
            y = compute.layer_norm(norm, x, backend)
            return self.perceptron(module, y, backend, scale=scale, drop_path=drop_path, residual=x)
        m = module._modules
        fc1, fc2, n = m["fc1"], m["fc2"], norm._parameters
        gamma = None if scale is None else parts.gamma(scale)
        first, second = forms.weights((fc1, fc2), x, n["weight"], n["bias"], gamma)
        return ops.mlp_block(
            x,
            n["weight"],
            n["bias"],
            first,
            fc1._parameters["bias"],
            second,
            fc2._parameters["bias"],
            eps=norm.eps,  # type: ignore[arg-type]
            activation=parts.activation(m["act"]),
            gamma=gamma,
            backend=backend,
        )

    def perceptron(
        self,
        module: Any,
        x: torch.Tensor,
        backend: str | None,
        *,
        scale: nn.Module | None = None,
        drop_path: nn.Module | None = None,
        residual: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """``residual + drop_path(scale(mlp(x)))``; one op where nothing drops."""
        m = module._modules
        fc1, fc2, norm, drop1 = m["fc1"], m["fc2"], m.get("norm"), m["drop1"]
        normed = norm is not None and type(norm) is not nn.Identity
        if normed or parts.active(drop1) or parts.active(m["drop2"]):
            h = compute.linear(fc1, x, backend, activation=parts.activation(m["act"]))
            if parts.active(drop1):
                h = drop1(h)
            if normed:
                h = compute.layer_norm(norm, h, backend)
            return compute.project(
                h, fc2, m["drop2"], backend, scale=scale, drop_path=drop_path, residual=residual
            )
        dropping = drop_path is not None and parts.active(drop_path)
        gamma = None if scale is None else parts.gamma(scale)
        first, second = forms.weights((fc1, fc2), x, gamma, residual)
        y = ops.mlp(
            x,
            first,
            fc1._parameters["bias"],
            second,
            fc2._parameters["bias"],
            activation=parts.activation(m["act"]),
            gamma=gamma,
            residual=None if dropping else residual,
            backend=backend,
        )
        return compute.join(y, drop_path, residual) if dropping else y

    def forward(self, swap: Swap, module: Any, x: torch.Tensor) -> torch.Tensor:
        return self.perceptron(module, x, swap.backend)


def branch_reasons(module: nn.Module, *, scales: bool) -> list[str]:
    """Why the parts of a pre-norm block around its attention and its MLP are not plain."""
    m = module._modules
    reasons = []
    for index in ("1", "2"):
        reasons += parts.layer_norm_reasons("norm" + index, m.get("norm" + index))
        reasons += parts.role_reasons(
            "drop_path" + index, m.get("drop_path" + index), parts.DROP_PATHS
        )
        if scales:
            reasons += parts.role_reasons("ls" + index, m.get("ls" + index), parts.LAYER_SCALES)
    return reasons


def child_match(adapter: Adapter, name: str, module: nn.Module | None) -> Match:
    """The match of a child that must be of the adapter's classes; reasons name the child."""
    if module is None or type(module) not in loaded(*adapter.classes):
        wanted = " or ".join(dict.fromkeys(path.split(":")[1] for path in adapter.classes))
        kind = "missing" if module is None else title(type(module))
        return Match([f"{name} is {kind}, not {wanted}"])
    match = adapter.match(module)
    if not match.reasons:
        return match
    return Match([f"{name}: {reason}" for reason in match.reasons])


class Block(Adapter):
    """The pre-norm block: ``norm1``, ``attn``, ``ls1``, ``drop_path1``, ``norm2``, ``mlp``,
    ``ls2``, ``drop_path2``. The residual adds and the layer scales go into the products."""

    ops = ("layer_norm", "linear", "attention", "mlp")

    def __init__(self, name: str, *classes: str, attention: Attention, mlp: Mlp) -> None:
        super().__init__(name, *classes)
        self.attention = attention
        self.mlp = mlp

    def match(self, module: nn.Module) -> Match:
        """Attention and MLP that are matched themselves, and plain parts around them."""
        m: Any = module._modules
        attention = child_match(self.attention, "attn", m.get("attn"))
        mlp = child_match(self.mlp, "mlp", m.get("mlp"))
        reasons = branch_reasons(module, scales=True) + attention.reasons + mlp.reasons
        if reasons:
            return Match(reasons)
        return Match(
            calls=[
                probe.layer_norm(m["norm1"], m["attn"].qkv.weight),
                *attention.calls[:-1],
                probe.linear(m["attn"].proj, gamma=parts.gamma(m["ls1"]), residual=True),
                *mlp.calls,
            ],
            units=("norm1", "attn", "norm2", "mlp"),
        )

    def run(
        self,
        module: Any,
        x: torch.Tensor,
        backend: str | None,
        bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The whole block; ``bias`` is added to the attention's scores."""
        m = module._modules
        attn = m["attn"]
        a = attn._modules
        if bias is None and self.attention.plain(attn) and not parts.active(m["drop_path1"]):
            norm, gamma = m["norm1"]._parameters, parts.gamma(m["ls1"])
            layers = a["qkv"], a["proj"]
            qkv, proj = forms.weights(layers, x, norm["weight"], norm["bias"], gamma)
            x = ops.attention_block(
                x,
                norm["weight"],
                norm["bias"],
                qkv,
                a["qkv"]._parameters["bias"],
                proj,
                a["proj"]._parameters["bias"],
                num_heads=attn.num_heads,
                eps=m["norm1"].eps,
                scale=self.attention.scale(attn),
                gamma=gamma,
                backend=backend,
            )
        else:
            y = compute.layer_norm(m["norm1"], x, backend)
            y = self.attention.attend(attn, y, backend, bias)
            x = compute.project(
                y,
                a["proj"],
                a["proj_drop"],
                backend,
                scale=m["ls1"],
                drop_path=m["drop_path1"],
                residual=x,
            )
        return self.mlp.branch(
            m["mlp"], m["norm2"], x, backend, scale=m["ls2"], drop_path=m["drop_path2"]
        )

    def forward(self, swap: Swap, module: Any, x: torch.Tensor) -> torch.Tensor:
        if x.dim() != 3:
            return swap.original(module, x)
        return self.run(module, x, swap.backend)
