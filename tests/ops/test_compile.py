"""torch.compile traces every public op in one graph, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from tests.ops import harness
from vitkern import ops

DEVICE = harness.DEVICE
# What is compiled: one case an op with most of its optional tensors.
CASES = {
    "attention": "mask-bias",
    "deformable_attention": "wide-locations",
    "gated_mlp": "silu-all",
    "layer_norm": "width48",
    "linear": "gelu-all",
    "mlp": "gelu-all",
    "patch_embed": "no-bias",
    "rotary_attention": "everything",
    "window_attention": "ragged-shifted-shift-pad-value",
}


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def named(op: str) -> Any:
    (case,) = (case for case in harness.cases(op) if case.name == CASES[op])
    return case


def public(op: str, backend: str, call: Any) -> Callable[..., Any]:
    """The public function of the call's tensors; its other arguments are the call's."""
    function = getattr(ops, op)
    rest = {n: v for n, v in harness.arguments(op, call).items() if not torch.is_tensor(v)}
    return lambda **tensors: function(**rest, **tensors, backend=backend)


def grown(call: Any, batch: int) -> Any:
    """The call with another size of its first dimension, where that is the batch's."""
    first = call[0].shape[0]

    def grow(value: Any) -> Any:
        if torch.is_tensor(value) and value.dim() > 1 and value.shape[0] == first:
            return value.detach()[:1].expand(batch, *value.shape[1:]).contiguous()
        return value

    weights = ("weight", "weight1", "weight2", "bias_table")
    return call._replace(
        **{n: grow(v) for n, v in zip(call._fields, call, strict=True) if n not in weights}
    )


def run(op: str, function: Callable[..., Any], call: Any) -> dict[str, torch.Tensor]:
    """Results and gradients of a function that takes the call's tensors."""

    def tensors(c: Any) -> dict[str, torch.Tensor]:
        return {n: v for n, v in harness.arguments(op, c).items() if torch.is_tensor(v)}

    return harness.evaluate(lambda c: function(**tensors(c)), call, grad=True)


@harness.triples()
def test_static(op: str, backend: str, dtype: torch.dtype) -> None:
    call = harness.make(op, named(op), dtype)
    function = public(op, backend, call)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=False)
    torch.testing.assert_close(run(op, compiled, call), run(op, function, call))


@pytest.mark.parametrize(
    "op, backend", [(op, backend) for op in harness.OPS for backend in harness.kernels(op)]
)
def test_dynamic_batch(op: str, backend: str) -> None:
    """One graph for every batch size but 0 and 1, which PyTorch specialises on."""
    call = harness.make(op, named(op))
    function = public(op, backend, call)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(function, fullgraph=True, backend=counter, dynamic=True)
    frames = []
    for batch in (11, 13, 2, 7):  # first a size that no other dimension has
        sized = grown(call, batch)
        torch.testing.assert_close(run(op, compiled, sized), run(op, function, sized))
        frames.append(counter.frame_count)
    assert len(set(frames)) == 1


@pytest.mark.parametrize("backend", harness.kernels("window_attention"))
def test_dynamic_map(backend: str) -> None:
    """One graph for windows on maps of any size that needs padding."""

    def function(qkv: torch.Tensor) -> torch.Tensor:
        return ops.window_attention(qkv, num_heads=2, window_size=4, shift_size=2, backend=backend)

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(function, fullgraph=True, backend=counter, dynamic=True)
    for height, width in ((9, 11), (13, 10), (7, 30)):
        qkv = torch.randn(2, height, width, 24, device=DEVICE)
        torch.testing.assert_close(compiled(qkv), function(qkv))
    assert counter.frame_count == 1


@pytest.mark.parametrize("backend", harness.backends("attention"))
def test_dropout(backend: str) -> None:
    """The seed is drawn inside the graph: it follows manual_seed, and differs call by call."""
    q, k, v = (torch.randn(2, 3, 9, 16, device=DEVICE, requires_grad=True) for _ in range(3))

    @torch.compile(fullgraph=True, backend="aot_eager")
    def function(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return ops.attention(q, k, v, dropout_p=0.5, backend=backend)

    def twice() -> list[torch.Tensor]:
        torch.manual_seed(3)
        return [function(q, k, v) for _ in range(2)]

    first, second = twice(), twice()
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert not torch.equal(*first)
    first[0].sum().backward()


def test_autocast() -> None:
    x, w = (torch.randn(n, 16, device=DEVICE, requires_grad=True) for n in (5, 24))

    @torch.compile(fullgraph=True, backend="aot_eager")
    def function(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
            residual = torch.ones(5, 24, device=DEVICE)
            return ops.linear(x, w, residual=residual, activation="gelu")

    y = function(x, w)
    assert y.dtype == torch.float32
    y.sum().backward()
    assert w.grad is not None
    assert w.grad.dtype == torch.float32


class _Block(torch.nn.Module):
    """A block with every op."""

    def __init__(self, backend: str | None) -> None:
        super().__init__()
        self.backend = backend
        self.patch = torch.nn.Conv2d(3, 32, 4, 4)
        self.norm = torch.nn.LayerNorm(32)
        self.qkv, self.proj = torch.nn.Linear(32, 96), torch.nn.Linear(32, 32)
        self.fc1, self.fc2 = torch.nn.Linear(32, 64), torch.nn.Linear(64, 32)
        self.table = torch.nn.Parameter(torch.randn(25, 2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        on, (batch, _, height, width) = self.backend, images.shape
        x = ops.patch_embed(images, self.patch.weight, self.patch.bias, backend=on)
        y = ops.layer_norm(x, self.norm.weight, self.norm.bias, backend=on)
        qkv = ops.linear(y, self.qkv.weight, self.qkv.bias, backend=on)
        windows = ops.window_attention(
            qkv.view(batch, height // 4, width // 4, 96), self.table, num_heads=2, window_size=3,
            shift_size=1, pad_value=self.qkv.bias, backend=on,
        ).view_as(x)  # fmt: skip
        q, k, v = qkv.view(batch, -1, 3, 2, 16).permute(2, 0, 3, 1, 4).unbind(0)
        heads = ops.attention(q, k, v, backend=on).transpose(1, 2).reshape(x.shape)
        x = ops.linear(heads + windows, self.proj.weight, self.proj.bias, residual=x, backend=on)
        y, x = ops.layer_norm(
            x, self.norm.weight, self.norm.bias, residual=heads.contiguous(), backend=on
        )
        return ops.mlp(
            y,
            self.fc1.weight,
            self.fc1.bias,
            self.fc2.weight,
            self.fc2.bias,
            residual=x,
            backend=on,
        )


@pytest.mark.slow
@pytest.mark.usefixtures("inductor")
def test_inductor() -> None:
    """The default compiler checks the strides that fake implementations promise."""
    block, images = _Block(None).to(DEVICE), torch.randn(2, 3, 20, 28, device=DEVICE)
    compiled = torch.compile(block, fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), block(images), rtol=1e-4, atol=1e-4)
    grads = []
    for model in (block, compiled):
        block.zero_grad()
        model(images).square().mean().backward()
        grads.append([p.grad.clone() for p in block.parameters() if p.grad is not None])
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-3, atol=1e-4)


def test_export() -> None:
    """torch.export gives a program that runs, with a dynamic batch."""
    block = _Block(None).eval().to(DEVICE)
    images = torch.randn(2, 3, 20, 28, device=DEVICE)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(block, (images,), dynamic_shapes=({0: batch},))
    other = torch.randn(3, 3, 20, 28, device=DEVICE)
    torch.testing.assert_close(program.module()(other), block(other))
