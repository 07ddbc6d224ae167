"""How a model is run through the graph backend in tests, and a model that is from no library."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from vitkern.bench.parity import compare
from vitkern.patching.graph import GraphReport, Left, Replaced, graph_backend


class Handwritten(nn.Module):
    """A vision transformer as somebody wrote it: attention written out, functions and methods.

    Args:
        dim: width of a token.
        heads: of attention.
        drop: of dropouts.
    """

    def __init__(self, dim: int = 24, heads: int = 3, drop: float = 0.0) -> None:
        super().__init__()
        self.heads, self.drop = heads, drop
        self.embed = nn.Conv2d(3, dim, 4, stride=4)
        self.position = nn.Parameter(torch.randn(1, 16, dim) / 10)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.out = nn.Linear(dim, dim)
        self.wide, self.narrow = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)
        self.gamma = nn.Parameter(torch.rand(dim))
        self.bias = nn.Parameter(torch.randn(heads, 16, 16))
        self.head = nn.Linear(dim, 5)

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, dim = x.shape
        width = dim // self.heads

        def split(y: torch.Tensor) -> torch.Tensor:
            return y.view(batch, length, self.heads, width).permute(0, 2, 1, 3)

        q, k, v = split(self.query(x)), split(self.key(x)), split(self.value(x))
        scores = torch.matmul(q, k.swapaxes(-1, -2)) / math.sqrt(width)
        scores = self.bias + scores
        weights = F.dropout(scores.softmax(dim=-1), self.drop, self.training)
        return self.out((weights @ v).transpose(1, 2).reshape(batch, length, dim))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.embed(images).flatten(2).transpose(1, 2) + self.position
        x = x + self.gamma * self.attend(self.norm1(x))
        y = F.dropout(F.silu(self.wide(self.norm2(x))), self.drop, self.training)
        x = torch.add(x, F.dropout(self.narrow(y), self.drop, self.training))
        return self.head(self.norm3(x).mean(1))


@dataclass
class Run:
    """What came out: values by name, and the reports of all graphs."""

    values: dict[str, torch.Tensor]
    reports: list[GraphReport]

    @property
    def replaced(self) -> list[Replaced]:
        return [one for report in self.reports for one in report.replaced]

    @property
    def left(self) -> list[Left]:
        return [one for report in self.reports for one in report.left]

    @property
    def ops(self) -> list[str]:
        return [one.op for one in self.replaced]

    @property
    def reasons(self) -> str:
        return "\n".join([one.reason for one in self.left] + [one.note for one in self.replaced])


def results(
    function: Callable[..., Any], inputs: tuple[torch.Tensor, ...], model: nn.Module | None
) -> dict[str, torch.Tensor]:
    """Outputs, and gradients of the inputs and of the model's parameters."""
    inputs = tuple(
        one.detach().clone().requires_grad_(one.is_floating_point()) for one in inputs
    )  # fmt: skip
    out = function(*inputs)
    outputs = out if isinstance(out, tuple) else (out,)
    values = {f"output {i}": one.detach().clone() for i, one in enumerate(outputs)}
    wanted = {f"input {i}": one for i, one in enumerate(inputs) if one.requires_grad}
    wanted |= dict(model.named_parameters()) if model is not None else {}
    total = sum(
        (one * torch.linspace(-1, 1, one.numel(), dtype=one.dtype).view(one.shape)).sum()
        for one in outputs
    )
    assert isinstance(total, torch.Tensor)
    grads = torch.autograd.grad(total, list(wanted.values()), allow_unused=True)
    values |= {name: grad for name, grad in zip(wanted, grads, strict=True) if grad is not None}
    return values


def through_graph(
    function: Callable[..., Any],
    *inputs: torch.Tensor,
    backend: str | None = "eager",
    rest: str = "eager",
    fullgraph: bool = True,
) -> Run:
    """The function's results through the backend."""
    torch._dynamo.reset()
    reports: list[GraphReport] = []
    compiled = torch.compile(
        function,
        backend=graph_backend(report=reports, rest=rest, backend=backend),
        fullgraph=fullgraph,
    )
    model = function if isinstance(function, nn.Module) else None
    return Run(results(compiled, inputs, model), reports)


def in_float32(model: nn.Module, x: torch.Tensor, **options: Any) -> Run:
    """At most twice as far from float64 as eager, gradients too, on the kernels that are built."""
    double = copy.deepcopy(model).double()
    truth = results(double, (x.double(),), double)
    eager = results(model, (x,), model)
    run = through_graph(model, x, **options)
    ours = {name: run.values[name] for name in truth}
    check = compare("values", truth, eager, ours)
    assert check.passed, check
    return run


def same(function: Callable[..., Any], *inputs: torch.Tensor, **options: Any) -> Run:
    """Through the backend in float64, where everything has to be as without it."""
    if isinstance(function, nn.Module):
        function = copy.deepcopy(function).double()
    inputs = tuple(one.double() if one.is_floating_point() else one for one in inputs)
    model = function if isinstance(function, nn.Module) else None
    wanted = results(function, inputs, model)
    run = through_graph(function, *inputs, **options)
    assert run.values.keys() == wanted.keys()
    for name, value in wanted.items():
        size = max(value.abs().max().item(), 1.0)
        torch.testing.assert_close(run.values[name], value, rtol=0, atol=1e-11 * size)
    return run
