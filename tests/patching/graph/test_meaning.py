"""Nothing else changes: modes, randomness, sizes, layouts, hooks, other dtypes."""

from __future__ import annotations

from typing import Any

import pytest
import timm.models
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from tests import needs
from tests.patching.graph.runs import Handwritten, Run, in_float32, results, same, through_graph
from vitkern._library import load
from vitkern.bench.parity import compare
from vitkern.patching.graph import compile_graph, graph_backend

Tensor = torch.Tensor
X = torch.randn(2, 3, 16, 16)


@needs.library
@pytest.mark.parametrize("rest", ["eager", "aot_eager"])
def test_kernels_are_right(rest: str) -> None:
    run = in_float32(Handwritten().eval(), X, backend="cpu", rest=rest)
    assert {one.backend for one in run.replaced} == {"cpu"}
    assert len(run.replaced) == 8


def small_swin() -> nn.Module:
    return timm.models.SwinTransformer(
        img_size=28, patch_size=2, embed_dim=24, depths=(2,), num_heads=(2,), num_classes=4
    )


def small_vit() -> nn.Module:
    return timm.models.VisionTransformer(
        img_size=16, patch_size=4, embed_dim=24, depth=1, num_heads=2, num_classes=4,
        init_values=0.1,
    )  # fmt: skip


@needs.library
def test_libraries_models() -> None:
    vit = in_float32(small_vit().eval(), X, backend="cpu")
    assert sorted(vit.ops) == ["attention", "linear", "linear", "linear", "mlp", "patch_embed"]
    swin = in_float32(small_swin().eval(), torch.randn(2, 3, 28, 28), backend="cpu")
    expected = ["linear", "mlp", "mlp", "patch_embed", "window_attention", "window_attention"]
    assert sorted(swin.ops) == expected


def test_active_dropouts_split_the_mlp() -> None:
    """What drops stays PyTorch's, and draws the same numbers; attention's is the op's."""
    model = Handwritten(drop=0.3).double().train()
    model.attend = lambda x: x  # type: ignore[method-assign] - of this instance
    x = X.double()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        wanted = model(x)
    run = Run({}, [])
    torch._dynamo.reset()
    compiled = torch.compile(
        model, backend=graph_backend(report=run.reports, rest="eager", backend="eager")
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        torch.testing.assert_close(compiled(x), wanted)
    assert "mlp" not in run.ops
    assert run.ops.count("linear") == 3


def test_attention_dropout_is_the_ops() -> None:
    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = F.dropout((q @ k.mT * 0.4).softmax(-1), 0.25)
        return weights @ v

    q, k = (torch.randn(2, 2, 9, 4) for _ in range(2))
    v = torch.eye(9).expand(2, 2, 9, 9)[..., :4].contiguous()  # the output is weights
    run = Run({}, [])
    torch._dynamo.reset()
    compiled = torch.compile(
        function, backend=graph_backend(report=run.reports, rest="eager", backend="eager")
    )
    kept = (q @ k.mT * 0.4).softmax(-1)[..., :4] / 0.75
    out = compiled(q, k, v)
    assert run.ops == ["attention"]
    torch.testing.assert_close(out[out != 0], kept[out != 0])
    assert 0 < (out == 0).sum() < out.numel() / 2


def test_autocast_inside_and_outside() -> None:
    model = Handwritten().eval()

    def inside(x: Tensor) -> Tensor:
        x = x * 2.0
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = model.out(F.gelu(model.out(x)))
        return x + model.out(x.float())

    x = torch.randn(2, 7, 24)
    run = through_graph(inside, x)
    wanted = results(inside, (x,), None)
    for name, value in wanted.items():
        assert run.values[name].dtype == value.dtype
        torch.testing.assert_close(run.values[name], value, rtol=2e-2, atol=2e-2)
    assert run.ops == ["mlp", "linear"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        run = through_graph(model, X)
        wanted = results(model, (X,), model)
    assert run.values["output 0"].dtype == wanted["output 0"].dtype
    torch.testing.assert_close(run.values["output 0"], wanted["output 0"], rtol=5e-2, atol=5e-2)
    assert "attention" not in run.ops
    assert "under autocast" in run.reasons
    assert "mlp" in run.ops


def test_a_pattern_does_not_cross_a_mode() -> None:
    def function(x: Tensor, w: Tensor) -> Tensor:
        y = F.linear(x, w)
        with torch.no_grad():
            z = F.gelu(y)
        return z + x.sum()

    run = same(function, torch.randn(2, 24), torch.randn(8, 24))
    assert run.ops == ["linear"]
    assert "changes a mode" in run.reasons


def test_no_grad_and_inference_mode() -> None:
    model = Handwritten().double().eval()
    wanted = model(X.double())
    for mode in (torch.no_grad, torch.inference_mode):
        run = Run({}, [])
        torch._dynamo.reset()
        backend = graph_backend(report=run.reports, rest="aot_eager", backend="eager")
        with mode():
            torch.testing.assert_close(torch.compile(model, backend=backend)(X.double()), wanted)
        assert len(run.ops) == 8


@pytest.mark.parametrize("rest", ["eager", "aot_eager"])
def test_dynamic_batch(rest: str) -> None:
    """One graph for all sizes, shifted windows of a written-out Swin included."""
    models = [(Handwritten(), 16), (small_swin(), 28)]
    for model, size in models if rest == "eager" else models[:1]:
        model = model.double().eval()
        counter = CompileCounterWithBackend(graph_backend(rest=rest, backend="eager"))
        torch._dynamo.reset()
        compiled = torch.compile(model, fullgraph=True, backend=counter)
        for batch in (11, 5, 2):  # first a size that no other dimension has
            x = torch.randn(batch, 3, size, size, dtype=torch.float64)
            torch._dynamo.mark_dynamic(x, 0)
            torch.testing.assert_close(compiled(x), model(x))
        assert counter.frame_count == 1


def test_hooks_are_between() -> None:
    model = Handwritten().eval()
    model.wide.register_forward_hook(lambda module, args, out: out * 2.0)
    run = same(model, X)
    assert "mlp" not in run.ops
    assert len([one for one in run.ops if one == "linear"]) == 7


def test_layout_is_restored_where_it_is_seen() -> None:
    """The op's result lies otherwise in memory than a matrix product's."""

    def function(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        y = (q @ k.mT).softmax(-1) @ v
        return y.view(6, 7, 8) * 2.0, y

    inputs = tuple(torch.randn(2, 3, 7, 8) for _ in range(3))
    backend = "cpu" if load().available else "eager"
    torch._dynamo.reset()
    compiled = torch.compile(
        function, fullgraph=True, backend=graph_backend(rest="aot_eager", backend=backend)
    )
    for got, wanted in zip(compiled(*inputs), function(*inputs), strict=True):
        torch.testing.assert_close(got, wanted)
        assert got.stride() == wanted.stride()


@needs.library
def test_half_precision() -> None:
    """A written-out softmax in float32 of bfloat16 scores is what the op computes."""

    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = F.softmax(q @ k.mT * 0.35, dim=-1, dtype=torch.float32).to(q.dtype)
        return weights @ v

    inputs = tuple(torch.randn(2, 3, 40, 8, dtype=torch.bfloat16) for _ in range(3))
    run = through_graph(function, *inputs, backend="cpu")
    assert run.ops == ["attention"]
    exact = F.scaled_dot_product_attention(*(one.double() for one in inputs), scale=0.35)
    eager = function(*inputs)
    check = compare(
        "output", {"y": exact}, {"y": eager}, {"y": run.values["output 0"]}
    )  # fmt: skip
    assert check.passed, check


@needs.library
def test_unsupported_dtype_is_left_with_its_reason() -> None:
    run = same(Handwritten().eval(), X, backend="cpu")
    assert not run.ops
    assert all("cpu: " in one.reason for one in run.left if one.op == "linear")


def test_the_graph_computes_by_ops() -> None:
    """The nodes are gone: what is left of attention in the module is one call."""
    seen: list[str] = []

    def backend(module: torch.fx.GraphModule, inputs: Any) -> Any:
        compiled = compile_graph(module, inputs, options={"rest": "eager", "backend": "eager"})
        seen.extend(str(node.target) for node in module.graph.nodes)
        return compiled

    torch._dynamo.reset()
    torch.compile(Handwritten().eval(), backend=backend)(X)
    text = " ".join(seen)
    assert "softmax" not in text
    assert "written_out" in text
    assert "conv2d" not in text


def test_fast_paths_are_reported() -> None:
    layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    run = Run({}, [])
    torch._dynamo.reset()
    x = torch.randn(2, 5, 16)
    with torch.no_grad():
        backend = graph_backend(report=run.reports, rest="eager", backend="eager")
        torch.testing.assert_close(torch.compile(layer, backend=backend)(x), layer(x))
    assert "one operator of its own" in run.reasons
