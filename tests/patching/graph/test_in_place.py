"""What changes values in place, or lies otherwise in memory, in the spellings that graphs have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.patching.graph.runs import same
from vitkern.patching.graph import GraphReport, graph_backend

Tensor = torch.Tensor
X = torch.randn(2, 7, 12)
W, B = torch.randn(20, 12) / 3, torch.randn(20)
Q, K, M = (torch.randn(2, 3, 7, 8) for _ in range(3))
IMAGES, KERNEL = torch.randn(2, 3, 8, 12), torch.randn(10, 3, 4, 4)
MODULES = [
    nn.LeakyReLU(0.1, inplace=True),
    nn.ReLU6(inplace=True),
    nn.ELU(inplace=True),
    nn.Hardtanh(inplace=True),
    nn.Hardswish(inplace=True),
]


def forward(function: Callable[..., Any], *inputs: Tensor) -> str:
    """Compares outputs, as autograd refuses such changes; gives why what was left."""
    inputs = tuple(one.double() for one in inputs)
    torch._dynamo.reset()
    reports: list[GraphReport] = []
    compiled = torch.compile(
        function, backend=graph_backend(report=reports, rest="eager", backend="eager")
    )
    with torch.no_grad():
        wanted = function(*(one.clone() for one in inputs))
        got = compiled(*(one.clone() for one in inputs))
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    return "\n".join(one.reason for report in reports for one in report.left) + "\n".join(
        one.note for report in reports for one in report.replaced
    )


@pytest.mark.parametrize("module", MODULES, ids=lambda module: type(module).__name__)
def test_modules_between(module: nn.Module) -> None:
    """The layer reads what was before, and the op would read what is after."""

    def function(x: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        x = x * 1.0
        hidden = F.linear(x, w, b)
        changed = module(x)
        return F.gelu(hidden), changed

    assert "in place" in forward(function, X, W, B)


def augmented(x: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    x = x * 1.0
    hidden = F.linear(x, w, b)
    x.__iadd__(1.0)
    return F.gelu(hidden), x


def test_operator_by_its_name() -> None:
    assert "in place" in forward(augmented, X, W, B)


def factor_in_place(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    y = F.linear(x, w, b)
    s = y.mul_(1.702).sigmoid()
    return y * s


def truncated(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = (q @ k.transpose(-2, -1)).softmax(-1).detach()
    return weights.to(torch.int32).to(q.dtype) @ v + q.sum()


def sum_with_itself(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1)
    scores = scores + scores
    return scores.softmax(-1) @ v


def keywords(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.relu(input=F.linear(x, w, b), inplace=True)


def no_batch(image: Tensor, kernel: Tensor) -> Tensor:
    return F.conv2d(image, kernel, stride=4).flatten(1)


def transposed_back(images: Tensor, kernel: Tensor) -> Tensor:
    tokens = F.conv2d(images, kernel, stride=4).flatten(2).transpose(1, 2)
    return tokens.transpose(1, 2).view(images.shape[0], -1)


def permuted_back(images: Tensor, kernel: Tensor) -> Tensor:
    tokens = F.conv2d(images, kernel, stride=4).permute(0, 2, 3, 1)
    return tokens.permute(0, 3, 1, 2).view(images.shape[0], -1)


def sequence_first(x: Tensor, y: Tensor) -> Tensor:
    total = x.transpose(0, 1) + y.transpose(0, 1)
    return total.transpose(0, 1).view(2, -1) + F.layer_norm(total, (12,)).sum()


CASES: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]] = {
    "factor-in-place": (factor_in_place, (X, W, B)),
    "truncated-weights": (truncated, (Q, K, M)),
    "sum-with-itself": (sum_with_itself, (Q, K, M)),
    "keywords": (keywords, (X, W, B)),
    "no-batch": (no_batch, (IMAGES[0], KERNEL)),
    "transposed-back": (transposed_back, (IMAGES, KERNEL)),
    "permuted-back": (permuted_back, (IMAGES, KERNEL)),
    "sequence-first": (sequence_first, (X, torch.randn_like(X))),
}


@pytest.mark.parametrize("name", CASES)
def test_same(name: str) -> None:
    function, inputs = CASES[name]
    same(function, *inputs)


def test_norm_of_a_width_that_changes() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x: F.layer_norm(x + x * 2.0, x.shape[-1:]), backend=graph_backend(rest="eager")
    )
    for width in (8, 12, 20):
        x = torch.randn(2, 3, width)
        torch.testing.assert_close(compiled(x), F.layer_norm(x * 3.0, (width,)))


def test_transforms_inside_are_pytorchs() -> None:
    v = torch.randn(12, 20) / 4

    def function(x: Tensor) -> Tensor:
        def loss(t: Tensor) -> Tensor:
            return F.linear(F.gelu(F.linear(t, W, B)), v).sum()

        result: Tensor = torch.func.grad(loss)(x)
        return result

    torch._dynamo.reset()
    reports: list[GraphReport] = []
    compiled = torch.compile(function, backend=graph_backend(report=reports, rest="eager"))
    torch.testing.assert_close(compiled(X), function(X))
    assert any("torch.func" in one.reason for report in reports for one in report.left)
