"""``tune``: what it measures, and that the model and the process are as before afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import vitkern
from tests.patching import zoo
from vitkern.dispatch.measured import STORE, timing
from vitkern.ops import _cpu

if _cpu.missing() is not None:
    pytest.skip("there is no C++ library here", allow_module_level=True)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("VITKERN_CACHE_DIR", str(tmp_path))
    STORE.forget()
    yield
    STORE.forget()


@pytest.fixture(autouse=True)
def timed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Nothing waits for a clock: eager always takes half as long. What was timed."""
    timed: list[str] = []

    def in_turns(runs: timing.Runs, static: str, **_: object) -> timing.Seconds:
        timed.append(static)
        for run in runs.values():
            run()
        return {name: [1.0 if name == "eager" else 2.0] * 9 for name in runs}

    monkeypatch.setattr(timing, "in_turns", in_turns)
    return timed


def model_and_images(name: str = "vit") -> tuple[nn.Module, torch.Tensor]:
    return zoo.build(name, torch.float32), zoo.images(name, torch.float32)


@pytest.mark.parametrize("name, blocks", [("vit", "attention_block"), ("swin", "window_attention")])
def test_every_op_of_a_forward_is_measured_once(name: str, blocks: str, timed: list[str]) -> None:
    model, images = model_and_images(name)
    report = vitkern.tune(model, images)
    assert report.measured == len(timed) > 0
    assert {"patch_embed", "mlp_block"} < {use.op for use in report.uses}
    assert any(use.op.startswith(blocks) for use in report.uses)
    assert all(use.backend == "eager" and not use.cached for use in report.uses if use.decision)
    again = vitkern.tune(zoo.twin(model), images)
    assert again.measured == 0
    assert [use.cached for use in again.uses] == [use.decision is not None for use in report.uses]
    assert vitkern.tune(model, images[:1]).measured > 0  # another batch is another shape


def test_a_patched_model_takes_the_winners() -> None:
    model, images = model_and_images()
    with torch.inference_mode(), vitkern.patched(model):
        before = model(images)
    vitkern.tune(model, images)
    with torch.inference_mode():
        plain = model(images)
        with vitkern.patched(model):
            tuned = model(images)
    # What eager does bit for bit: every op's winner was its reference.
    with torch.inference_mode(), vitkern.patched(model, backend="eager"):
        assert torch.equal(tuned, model(images))
    torch.testing.assert_close(tuned, plain)
    assert not torch.equal(before, tuned)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("patched", [False, True])
def test_the_model_is_as_before(training: bool, patched: bool) -> None:
    vit, images = model_and_images("vit")
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5), vit).train(training)
    if patched:
        vitkern.patch(model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    images.requires_grad_(training)
    state = zoo.state_of(model)
    values = {name: value.clone() for name, value in model.state_dict().items()}
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    random = torch.get_rng_state()
    report = vitkern.tune(model, images)
    assert report.measured > 0
    assert any(use.trained for use in report.uses) == training
    assert zoo.state_of(model) == state
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in model.state_dict().items():
        assert torch.equal(value, values[name]), name
    for name, parameter in model.named_parameters():
        assert parameter.grad is grads[name]
        assert parameter.grad.eq(1).all()
    assert images.grad is None
    assert model.training == training


def test_an_error_of_the_model_leaves_it_as_before() -> None:
    model, images = model_and_images()
    state = zoo.state_of(model)
    with pytest.raises(AssertionError, match="height"):  # timm's own
        vitkern.tune(model, images[:, :, :8])
    assert zoo.state_of(model) == state


def test_checkpointed_blocks_are_measured_with_and_without_gradients() -> None:
    model, images = model_and_images()
    model.train().set_grad_checkpointing()
    uses = vitkern.tune(model, images).uses
    assert {use.trained for use in uses if use.op == "attention"} == {True}
    assert any(use.op == "mlp" and use.trained for use in uses)


def test_a_backend_asked_for_is_not_measured(timed: list[str]) -> None:
    model, images = model_and_images()
    vitkern.patch(model, backend="cpu")
    report = vitkern.tune(model, images)
    assert timed == []
    assert str(report) == "nothing to tune: no op of the model chooses its backend by itself"


def test_nothing_patched_is_said_and_why() -> None:
    model, images = zoo.build("vit"), zoo.images("vit")  # float64
    report = vitkern.tune(model, images)
    assert report.uses == ()
    assert "takes float32 and bfloat16" in str(report)
    assert "no module of a kind" in str(vitkern.tune(nn.Linear(2, 2).eval(), torch.zeros(1, 2)))


class Nested(nn.Module):
    """Gives its output in a dict of tuples."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor, scale: float) -> dict[str, Any]:
        return {"all": (self.inner(x) * scale, "text", [x])}


def test_outputs_may_be_nested_and_inputs_anything() -> None:
    model, images = model_and_images()
    report = vitkern.tune(Nested(model).train(), images, 2.0)
    assert all(use.trained for use in report.uses)


BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "model": (lambda: vitkern.tune(torch.relu, 1), TypeError, "must be a torch.nn.Module, got"),  # type: ignore[arg-type]
    "inputs": (lambda: vitkern.tune(nn.Linear(1, 1)), ValueError, "inputs must be .* got none"),
    "frozen": (
        lambda: vitkern.tune(nn.Linear(2, 2).requires_grad_(False), torch.zeros(1, 2)),
        ValueError,
        r"depends on no parameter that requires a gradient: call model\.eval\(\)",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_arguments(what: str) -> None:
    call, error, message = BAD[what]
    with pytest.raises(error, match=message):
        call()


def test_the_report_prints_as_a_table() -> None:
    from rich.console import Console

    model, images = model_and_images()
    report = vitkern.tune(model, images)
    lines = str(report).splitlines()
    assert lines[0].split() == [
        "op",
        "shapes",
        "dtype",
        "calls",
        "milliseconds",
        "winner",
        "cached",
    ]
    (line,) = (line for line in lines if line.startswith("mlp_block"))
    assert " 2x17x48 192x48 48x192 " in line  # each shape once
    assert " cpu 2e+03, eager 1e+03 " in line
    assert line.split()[-2:] == ["eager", "no"]
    assert "3 take another backend than the first of the fixed order" in lines[-1]
    console = Console(width=200)
    with console.capture() as capture:
        console.print(report)
    assert "2x17x48 192x48 48x192" in capture.get()
    assert report.path is not None and Path(report.path).is_file()
    assert report.path not in str(report.to_dict())
