"""What holds on a GPU beside numbers: streams, graphs, no waiting, several cards, compiled code."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

import vitkern
from tests.ops import harness
from vitkern.bench import models, parity
from vitkern.bench.gpu import card
from vitkern.bench.gpu.cuda_timing import captured
from vitkern.dispatch.measured.gpu import sampler
from vitkern.models import create_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(card.missing() is not None, reason=str(card.missing())),
]

MODELS: dict[str, Callable[[], nn.Module]] = {
    "vit": lambda: create_model("vit_tiny_patch16_224", img_size=64, depth=2),
    "swin": lambda: create_model(
        "swin_tiny_patch4_window7_224", img_size=112, depths=(2, 2), num_heads=(3, 6),
        drop_path_rate=0.0,
    ),
}  # fmt: skip
SIZES = {"vit": 64, "swin": 112}
HALF = torch.bfloat16
every_model = pytest.mark.parametrize("name", MODELS)
SLEEP = 200_000_000
"""Cycles: a tenth of a second."""


def make(name: str, dtype: torch.dtype = HALF, device: str = "cuda:0") -> nn.Module:
    """An unpatched model, in evaluation."""
    torch.manual_seed(0)
    model = MODELS[name]()
    models.enliven(model)
    return model.to(device, dtype).eval()


def images(name: str, dtype: torch.dtype = HALF, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, SIZES[name], SIZES[name], generator=generator).to("cuda:0", dtype)


def patched(name: str, dtype: torch.dtype = HALF) -> nn.Module:
    model = make(name, dtype)
    vitkern.patch(model)
    return model


def step(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Forward and backward; gradients are added to what is there."""
    out: torch.Tensor = model(x)
    out.float().square().mean().backward()
    return out.detach()


@contextmanager
def no_waiting() -> Iterator[None]:
    """An operation that waits for the device is an error."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@every_model
@pytest.mark.parametrize("dtype", harness.DTYPES, ids=harness.short)
def test_all_of_a_patched_model_runs_on_kernels(name: str, dtype: torch.dtype) -> None:
    report = vitkern.patch(make(name, dtype))
    assert report.patched
    assert not report.skipped
    assert {module.backend for module in report.patched} <= {"triton", "cuda"}


@every_model
@pytest.mark.parametrize(
    "mode, dtype",
    # Gradients in float16 vanish without a scaled loss.
    [("eval", torch.float16), *((m, d) for m in ("eval", "train") for d in (torch.float32, HALF))],
    ids=str,
)
def test_patched_models_are_right(
    name: str, mode: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    row = models.Row(name, 2, mode, harness.short(dtype))
    eager = make(name, dtype).train(mode == "train")
    ours = copy.deepcopy(eager)
    vitkern.patch(ours)
    parity.check(row, eager, ours, images(name, dtype)).require()


@pytest.mark.parametrize("op", harness.OPS)
def test_ops_run_on_the_current_stream_and_do_not_wait(op: str) -> None:
    """Inputs get their values on a side stream that is busy: another stream would read zeros."""
    source = harness.place(harness.make(op, harness.cases(op, "edge")[-1]), torch.device("cuda"))
    for backend in ("triton", "cuda"):
        if vitkern.dispatch.OPERATORS[op].backends.get(backend) is None:
            continue
        run = harness.runner(op, backend)
        expected = harness.evaluate(run, source, grad=True)  # compiles
        inputs = harness.convert(source, torch.zeros_like)
        outputs = tuple(torch.zeros_like(y) for n, y in expected.items() if n.startswith("y"))
        upstream = harness.upstream(outputs, "natural")
        torch.cuda.synchronize()
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            torch.cuda._sleep(SLEEP)
            for one, values in zip(
                harness.floating(inputs).values(), harness.floating(source).values(), strict=True
            ):
                one.copy_(values)
            got = with_upstream(run, inputs, upstream)
            waited = side.query()
        assert not waited, "something waited for the stream"
        side.synchronize()
        for key, value in got.items():
            torch.testing.assert_close(value, expected[key], msg=lambda m, k=key: f"{k}: {m}")


def with_upstream(
    run: Callable[[Any], Any], call: Any, upstream: list[torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Outputs and gradients; as ``harness.evaluate``, which copies from the host."""
    call = harness.convert(call, lambda t: t.detach().requires_grad_())
    outputs = run(call)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    leaves = harness.floating(call)
    grads = torch.autograd.grad(outputs, list(leaves.values()), upstream, allow_unused=True)
    results = {f"y{i}": out.detach() for i, out in enumerate(outputs)}
    return results | {
        f"d{name}": grad for name, grad in zip(leaves, grads, strict=True) if grad is not None
    }


@every_model
def test_a_model_on_a_side_stream(name: str) -> None:
    model, x = patched(name), images(name)
    with torch.inference_mode():
        expected = model(x)
        late, side = torch.zeros_like(x), torch.cuda.Stream()
        torch.cuda.synchronize()
        with torch.cuda.stream(side):
            torch.cuda._sleep(SLEEP)
            late.copy_(x)
            got = model(late)
        side.synchronize()
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


@every_model
def test_nothing_waits_for_the_device(name: str) -> None:
    model, x = patched(name), images(name)
    with torch.inference_mode():
        model(x)
    step(model.train(), x)
    with no_waiting():
        with torch.inference_mode():
            model.eval()(x)
        step(model.train(), x)


@every_model
@pytest.mark.parametrize("tuned", [False, True], ids=["untuned", "tuned"])
def test_a_captured_model(name: str, tuned: bool) -> None:
    """A CUDA graph gives the same bits, with the configurations that were measured, if any."""
    model, x = patched(name), images(name)
    if tuned:
        vitkern.tune(model, x)

    def run() -> torch.Tensor:
        with torch.inference_mode():
            return model(x)

    replay = captured(run)
    for seed in (1, 2):
        x.copy_(images(name, seed=seed))
        expected = run().clone()
        assert torch.equal(replay(), expected)
        assert expected.isfinite().all()


@every_model
def test_a_captured_training_step(name: str) -> None:
    model, x = patched(name).train(), images(name)

    def run() -> torch.Tensor:
        for p in model.parameters():
            if p.grad is not None:
                p.grad.zero_()
        return step(model, x)

    run()
    replay = captured(run)
    for seed in (1, 2):
        x.copy_(images(name, seed=seed))
        run()
        expected = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        replay()
        got = [p.grad for p in model.parameters() if p.grad is not None]
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other)


@every_model
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_compiled_in_one_graph(name: str, mode: str) -> None:
    torch.compiler.reset()
    model, x = patched(name, torch.float32).train(mode == "train"), images(name, torch.float32)
    compiled = torch.compile(model, fullgraph=True)
    if mode == "eval":
        with torch.inference_mode():
            torch.testing.assert_close(compiled(x), model(x), rtol=1e-3, atol=1e-3)
        return
    grads = []
    for run in (model, compiled):
        model.zero_grad(set_to_none=True)
        step(run, x)
        grads.append([p.grad for p in model.parameters() if p.grad is not None])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@every_model
def test_the_same_bits_again(name: str) -> None:
    """Forward and backward sum in a fixed order."""
    x, found = images(name), []
    for _ in range(2):
        model = patched(name).train()
        out = step(model, x)
        found.append([out, *(p.grad for p in model.parameters() if p.grad is not None)])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
@every_model
def test_tensors_on_a_second_gpu(name: str) -> None:
    """While the first is the current one."""
    model, x = patched(name), images(name)
    other, y = copy.deepcopy(model).to("cuda:1"), x.to("cuda:1")
    assert torch.cuda.current_device() == 0
    for module, inputs in ((model.train(), x), (other.train(), y)):
        step(module, inputs)
    for one, same in zip(model.parameters(), other.parameters(), strict=True):
        if one.grad is not None and same.grad is not None:
            torch.testing.assert_close(one.grad, same.grad.to("cuda:0"))


def test_a_measurement_is_of_the_gpu_alone() -> None:
    """What launching takes is not in it: a slow launch of little work."""
    x, wait = torch.zeros(16, device="cuda:0"), threading.Event().wait
    sample = sampler(x.device)
    assert sample is not None

    def slow() -> None:
        wait(1e-3)
        x.add_(1.0)

    assert sample(slow, 20) < 0.1 * 1e-3
    # One that keeps the GPU busy for SLEEP cycles is as long as that, however quickly launched.
    assert sample(lambda: torch.cuda._sleep(SLEEP // 10), 2) > SLEEP / 10 / 4e9
