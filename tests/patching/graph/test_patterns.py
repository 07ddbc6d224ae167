"""What each pattern finds, in the spellings of several authors, and what it leaves alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.patching.graph.runs import Handwritten, same
from vitkern._library import load
from vitkern.patching.graph import GraphReport, graph_backend

Tensor = torch.Tensor
X = torch.randn(2, 7, 12)
W, B = torch.randn(20, 12) / 3, torch.randn(20)
V, C = torch.randn(12, 20) / 4, torch.randn(12)
G = torch.rand(12)
Q, K, M = (torch.randn(2, 3, 7, 8) for _ in range(3))
BIAS = torch.randn(3, 7, 7)
MASK = torch.rand(2, 1, 7, 7) < 0.3
MASK[..., 0] = False  # each query has a key
IMAGES, KERNEL = torch.randn(2, 3, 8, 12), torch.randn(10, 3, 4, 4)


def quick(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def mlp(activation: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def function(x: Tensor, w: Tensor, b: Tensor, v: Tensor, c: Tensor) -> Tensor:
        return F.linear(activation(F.linear(x, w, b)), v, c)

    return function


def scaled(x: Tensor, w: Tensor, b: Tensor, v: Tensor, c: Tensor, g: Tensor) -> Tensor:
    y = F.dropout(F.linear(F.dropout(F.gelu(F.linear(x, w, b)), 0.3, False), v, c), 0.0, True)
    return F.dropout(g * y, 0.1, False) + x


def attention(**options: Any) -> Callable[..., Tensor]:
    def function(q: Tensor, k: Tensor, v: Tensor, *mask: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, *mask, **options)

    return function


def written_in_place(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1)
    scores *= 0.3
    scores += bias
    return scores.softmax(-1) @ v


def written_masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    scores = (q * 0.3).matmul(k.transpose(2, 3)).masked_fill(mask, -math.inf)
    return torch.matmul(F.softmax(scores, dim=-1), v)


def written_flat(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Heads in the batch, but where the bias is added."""
    q, k, v = (one.flatten(0, 1) for one in (q, k, v))
    scores = torch.bmm(q, k.transpose(1, 2)).view(2, 3, 7, 7) + bias
    return torch.bmm(torch.softmax(scores.view(6, 7, 7), dim=2), v)


def windowed(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
    """As Swin's: a position bias for all windows, then a mask for each."""
    scores = q @ k.transpose(-2, -1) + bias.unsqueeze(0)
    scores = scores.view(2, 2, 3, 7, 7) + mask.unsqueeze(1).unsqueeze(0)
    return scores.view(-1, 3, 7, 7).softmax(-1) @ v


def both(x: Tensor, y: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    total = x + y
    return F.layer_norm(total, (12,), w, b, 1e-6), total * 2


def heat(operation: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """Scores scaled with a tensor, then a bias."""

    def function(q: Tensor, k: Tensor, v: Tensor, by: Tensor, bias: Tensor) -> Tensor:
        return (operation(q @ k.transpose(-2, -1), by) + bias).softmax(-1) @ v

    return function


def biased_first(q: Tensor, k: Tensor, v: Tensor, by: Tensor, bias: Tensor) -> Tensor:
    return ((q @ k.transpose(-2, -1) + bias) / by).softmax(-1) @ v


def root_of_size(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1) / torch.sqrt(torch.tensor(q.shape[-1]))).softmax(-1) @ v


ONE, EACH = torch.tensor(1.7), torch.rand(3, 1, 1) + 0.5
WINDOWS = tuple(torch.randn(4, 3, 7, 8) for _ in range(3))
FOUND: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...], list[str]]] = {
    "linear": (F.linear, (X, W, B), ["linear"]),
    "linear-no-bias": (F.linear, (X, W), ["linear"]),
    "linear-activation": (lambda x, w, b: F.relu(F.linear(x, w, b)), (X, W, B), ["linear"]),
    "linear-in-place": (lambda x, w, b: F.relu_(F.linear(x, w, b)), (X, W, B), ["linear"]),
    "linear-residual": (lambda x, w, c: x.add(F.linear(x, w, c)), (X, W[:12], C), ["linear"]),
    "linear-scale": (lambda x, w, g: F.linear(x, w) * g, (X, W[:12], G), ["linear"]),
    "mlp-gelu": (mlp(F.gelu), (X, W, B, V, C), ["mlp"]),
    "mlp-tanh": (mlp(lambda x: F.gelu(x, approximate="tanh")), (X, W, B, V, C), ["mlp"]),
    "mlp-silu": (mlp(F.silu), (X, W, B, V, C), ["mlp"]),
    "mlp-silu-written-out": (mlp(lambda x: x * x.sigmoid()), (X, W, B, V, C), ["mlp"]),
    "mlp-quick": (mlp(quick), (X, W, B, V, C), ["mlp"]),
    "mlp-relu": (mlp(torch.relu), (X, W, B, V, C), ["mlp"]),
    "mlp-scaled": (scaled, (X, W, B, V, C, G), ["mlp"]),
    "attention": (attention(), (Q, K, M), ["attention"]),
    "attention-scale": (attention(scale=0.2), (Q, K, M), ["attention"]),
    "attention-bias": (attention(), (Q, K, M, BIAS), ["attention"]),
    "attention-mask": (attention(), (Q, K, M, ~MASK), ["attention"]),
    "attention-3d": (attention(), (Q[0], K[0], M[0]), ["attention"]),
    "written-in-place": (written_in_place, (Q, K, M, BIAS), ["attention"]),
    "written-masked": (written_masked, (Q, K, M, MASK), ["attention"]),
    "written-flat": (written_flat, (Q, K, M, BIAS), ["attention"]),
    "scale-tensor": (heat(torch.mul), (Q, K, M, ONE, BIAS), ["attention"]),
    "scale-in-front": (heat(lambda x, by: by * x), (Q, K, M, ONE, BIAS), ["attention"]),
    "scale-divides": (heat(torch.div), (Q, K, M, ONE, BIAS), ["attention"]),
    "scale-divides-in-place": (heat(lambda x, by: x.div_(by)), (Q, K, M, ONE, BIAS), ["attention"]),
    "scale-of-heads": (heat(torch.mul), (Q, K, M, EACH, BIAS), ["attention"]),
    "scale-of-heads-divides": (heat(torch.div), (Q, K, M, EACH, BIAS), ["attention"]),
    "scale-integer": (heat(torch.div), (Q, K, M, torch.tensor(3), BIAS), ["attention"]),
    "scale-of-bias": (biased_first, (Q, K, M, ONE, BIAS), ["attention"]),
    "scale-other-dtype": (root_of_size, (Q, K, M), ["attention"]),
    "windowed": (windowed, (*WINDOWS, BIAS, torch.randn(2, 7, 7)), ["attention"]),
    "patches": (
        lambda x, w, b: F.conv2d(x, w, b, stride=4).flatten(2).transpose(1, 2),
        (IMAGES, KERNEL, B[:10]), ["patch_embed"],
    ),
    "patches-reshape": (
        lambda x, w: F.conv2d(x, w, stride=(4, 4)).reshape(2, 10, 6).permute(0, 2, 1),
        (IMAGES, KERNEL), ["patch_embed"],
    ),
    "patches-map": (
        lambda x, w: F.conv2d(x, w, stride=4).permute(0, 2, 3, 1), (IMAGES, KERNEL), ["patch_embed"]
    ),
    "norm-of-sum": (both, (X, torch.randn_like(X), G, C), ["layer_norm"]),
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_found(name: str) -> None:
    function, inputs, ops = FOUND[name]
    run = same(function, *inputs)
    assert run.ops == ops
    assert not run.left
    assert len(run.reports) == 1


def by_size(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1) @ v


def divided_by_size(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1) / q.shape[-1]).softmax(-1) @ v


def given_by_size(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.3)


def read_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1) * q.amax().item()).softmax(-1) @ v


@pytest.mark.parametrize("function", [by_size, divided_by_size, given_by_size, read_out])
def test_scales_that_are_symbols(function: Callable[..., Tensor]) -> None:
    """Numbers that the graph computes: of sizes that are dynamic, or read out of a tensor."""
    torch._dynamo.reset()
    reports: list[GraphReport] = []
    backend = graph_backend(report=reports, rest="aot_eager", backend="eager")
    with torch._dynamo.config.patch(capture_scalar_outputs=True):
        compiled = torch.compile(function, backend=backend, dynamic=True, fullgraph=True)
        for width in (8, 16):
            inputs = [torch.randn(2, 3, 7, width, dtype=torch.float64) for _ in range(3)]
            torch.testing.assert_close(compiled(*inputs), function(*inputs))
    assert reports
    assert all([one.op for one in found.replaced] == ["attention"] for found in reports)


@pytest.mark.parametrize("way", ["times", "given"])
def test_scales_that_are_inputs(way: str) -> None:
    """Floats that are not built into the graph."""

    def function(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        if way == "given":
            return F.scaled_dot_product_attention(q, k, v, scale=scale)
        return (q @ k.transpose(-2, -1) / scale).softmax(-1) @ v

    torch._dynamo.reset()
    reports: list[GraphReport] = []
    backend = graph_backend(report=reports, rest="aot_eager", backend="eager")
    inputs = [one.double() for one in (Q, K, M)]
    with torch._dynamo.config.patch(specialize_float=False):
        compiled = torch.compile(function, backend=backend)
        for scale in (0.3, 0.5, 0.7):
            torch.testing.assert_close(compiled(*inputs, scale), function(*inputs, scale))
    assert reports
    assert all([one.op for one in found.replaced] == ["attention"] for found in reports)


def hidden_used(x: Tensor, w: Tensor, b: Tensor, v: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    hidden = F.gelu(F.linear(x, w, b))
    return F.linear(hidden, v, c), hidden


def sum_used(x: Tensor, w: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    y = F.linear(x, w, c)
    return y + x, y.mean()


def weights_used(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    weights = (q @ k.transpose(-2, -1)).softmax(-1)
    return weights @ v, weights


def changed_between(x: Tensor, w: Tensor, c: Tensor, r: Tensor) -> Tensor:
    """The sum takes the residual as it is afterwards, and relu what was before: not one op."""
    r = r * 1.0
    y = F.relu(F.linear(x, w, c))
    r[:, 0].mul_(2.0)
    return y + r


def bias_changed(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Read once before and once after it is changed, by a view."""
    bias = bias * 1.0
    scores = q @ k.transpose(-2, -1) + bias
    bias[0].add_(1.0)
    return scores.softmax(-1) @ v + bias.sum()


def finite_mask(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1)).masked_fill(mask, -1e9).softmax(-1) @ v


def finite_where(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1)
    return (scores - scores.amax(-1, keepdim=True).detach() * bias).softmax(-1) @ v


LEFT: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...], list[str], str]] = {
    "hidden-used": (hidden_used, (X, W, B, V, C), ["linear", "linear"], ""),
    "product-used": (sum_used, (X, W[:12], C), ["linear"], ""),
    "weights-used": (weights_used, (Q, K, M), [], ""),
    "changed-between": (
        changed_between, (X, W[:12], C, torch.randn_like(X)), ["linear"], "in place"
    ),
    "bias-changed": (bias_changed, (Q, K, M, BIAS), [], "in place"),
    "finite-mask": (finite_mask, (Q, K, M, MASK), [], "changes its scores"),
    "other-scores": (finite_where, (Q, K, M, BIAS), [], "changes its scores"),
    "causal": (attention(is_causal=True), (Q, K, M), [], "is_causal"),
    "wide-values": (attention(), (Q, K, torch.randn(2, 3, 7, 5)), [], "another width of v"),
    "grouped": (attention(enable_gqa=True), (Q, K[:, :1], M[:, :1]), [], "grouped heads"),
    "alpha": (
        lambda x, w: torch.add(F.linear(x, w), x, alpha=2), (X, W[:12]), ["linear"], ""
    ),
    "broadcast-residual": (lambda x, w, c: F.linear(x, w) + c, (X, W[:12], C), ["linear"], ""),
    "overlapping": (
        lambda x, w: F.conv2d(x, w, stride=4, padding=2).flatten(2).transpose(1, 2),
        (IMAGES, KERNEL), [], "padded",
    ),
    "ragged": (
        lambda x, w: F.conv2d(x, w, stride=4).flatten(2).transpose(1, 2),
        (IMAGES[..., :10], KERNEL), [], "do not divide",
    ),
    "map-stays": (lambda x, w: F.conv2d(x, w, stride=4), (IMAGES, KERNEL), [], "not followed"),
    "two-dimensions": (
        lambda x, y: F.layer_norm(x + y, (7, 12)), (X, torch.randn_like(X)), [], ""
    ),
    "broadcast-sum": (lambda x, c: F.layer_norm(x + c, (12,)), (X, C), [], ""),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT)
def test_left(name: str) -> None:
    function, inputs, ops, reason = LEFT[name]
    run = same(function, *inputs)
    assert run.ops == ops
    assert reason in run.reasons


def test_a_model_of_no_library() -> None:
    run = same(Handwritten().eval(), torch.randn(2, 3, 16, 16))
    assert sorted(run.ops) == sorted(
        ["patch_embed", "linear", "linear", "linear", "attention", "linear", "mlp", "linear"]
    )
    fused = next(one for one in run.replaced if one.op == "mlp")
    assert fused.nodes == 6  # linear, silu, dropout, linear, dropout, add
    assert not run.left


def test_thresholds_and_their_reasons() -> None:
    run = same(Handwritten().eval(), torch.randn(2, 3, 16, 16), backend=None)
    assert not run.ops  # float64 has no backend but eager
    assert ("float64" if load().available else "no C++ library") in run.reasons
    assert "fewer than" in run.reasons
