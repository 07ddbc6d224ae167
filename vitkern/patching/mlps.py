"""Adapters of MLPs under whatever names: linear, activation, linear; or the first two alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from vitkern import ops
from vitkern.patching import compute, forms, parts, probe
from vitkern.patching.adapter import Adapter, Match
from vitkern.patching.classes import title

if TYPE_CHECKING:
    from vitkern.patching.swap import Swap


class FeedForward(Adapter):
    """``drop2(fc2(drop1(act(fc1(x)))))``.

    Args:
        name: of the adapter.
        classes: that it takes.
        fc1: name of the first Linear among the children.
        act: of the activation.
        fc2: of the second Linear.
        drops: of the dropouts after the activation and at the end: children, or attributes that
            hold the rate of ``F.dropout``; None where there is none.
    """

    ops = ("mlp",)

    def __init__(
        self,
        name: str,
        *classes: str,
        fc1: str = "fc1",
        act: str = "activation_fn",
        fc2: str = "fc2",
        drops: tuple[str | None, str | None] = (None, None),
    ) -> None:
        super().__init__(name, *classes)
        self.fc1, self.act, self.fc2 = fc1, act, fc2
        self.drops = drops

    def match(self, module: nn.Module) -> Match:
        """Plain Linears, an activation that the ops have, and nothing else but dropouts."""
        m = module._modules
        reasons = parts.linear_reasons(self.fc1, m.get(self.fc1))
        reasons += parts.linear_reasons(self.fc2, m.get(self.fc2))
        reasons += parts.activation_reasons(self.act, m.get(self.act))
        for name in self.drops:
            if name in m:
                reasons += parts.role_reasons(name, m[name], parts.DROPOUTS)
        known = (self.fc1, self.act, self.fc2, *self.drops)
        reasons += [
            f"has another child, {name}, a {title(type(child))}"
            for name, child in m.items()
            if name not in known and child is not None
        ]
        if reasons:
            return Match(reasons)
        fc1, fc2, act = m[self.fc1], m[self.fc2], m[self.act]
        assert act is not None
        return Match(calls=[probe.mlp(fc1, fc2, parts.activation(act))])

    def forward(self, swap: Swap, module: Any, x: torch.Tensor) -> torch.Tensor:
        if x.is_nested:
            return swap.original(module, x)
        m, backend = module._modules, swap.backend
        fc1, fc2, activation = m[self.fc1], m[self.fc2], parts.activation(m[self.act])
        if any(self._rate(module, name) for name in self.drops):
            h = compute.linear(fc1, x, backend, activation=activation)
            h = compute.linear(fc2, self._drop(module, self.drops[0], h), backend)
            return self._drop(module, self.drops[1], h)
        first, second = forms.weights((fc1, fc2), x)
        return ops.mlp(
            x,
            first,
            fc1._parameters["bias"],
            second,
            fc2._parameters["bias"],
            activation=activation,
            backend=backend,
        )

    def _rate(self, module: Any, name: str | None) -> float:
        """The rate of a dropout now, 0 where it does nothing."""
        if name is None:
            return 0.0
        child = module._modules.get(name)
        if child is None:
            return float(getattr(module, name)) if module.training else 0.0
        return float(child.p) if parts.active(child) else 0.0

    def _drop(self, module: Any, name: str | None, x: torch.Tensor) -> torch.Tensor:
        if not self._rate(module, name):
            return x
        child = module._modules.get(name)
        y: torch.Tensor = F.dropout(x, getattr(module, str(name))) if child is None else child(x)
        return y


class Activated(Adapter):
    """``act(linear(x))``: one op.

    Args:
        name: of the adapter.
        classes: that it takes.
        linear: name of the Linear among the children.
        act: of the activation.
    """

    ops = ("linear",)

    def __init__(self, name: str, *classes: str, linear: str, act: str) -> None:
        super().__init__(name, *classes)
        self.linear, self.act = linear, act

    def match(self, module: nn.Module) -> Match:
        """A plain Linear and an activation that the ops have, and nothing else."""
        m = module._modules
        reasons = parts.linear_reasons(self.linear, m.get(self.linear))
        reasons += parts.activation_reasons(self.act, m.get(self.act))
        if set(m) != {self.linear, self.act}:
            reasons.append(f"has other children than {self.linear} and {self.act}")
        if reasons:
            return Match(reasons)
        act = m[self.act]
        assert act is not None
        return Match(calls=[probe.linear(m[self.linear], parts.activation(act))])

    def forward(self, swap: Swap, module: Any, x: torch.Tensor) -> torch.Tensor:
        m = module._modules
        activation = parts.activation(m[self.act])
        return compute.linear(m[self.linear], x, swap.backend, activation=activation)
