"""What ``quantize`` makes of a model, what it leaves alone, and what it says."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import vitkern
from tests.patching import zoo
from tests.patching.test_forms import converted_layers
from tests.quantization.conftest import BACKENDS, everything, hooks_of, infer
from vitkern.ops.weights import Bfloat16Weight, Int8Weight
from vitkern.patching import forms

EAGER: dict[str, Any] = {"backend": "eager"}
LAYERS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
CHOICES = [
    {"observer": "minmax"},
    {"observer": "percentile"},
    {"observer": "mse"},
    {"activations": "dynamic"},
]


def int8_layers(model: nn.Module) -> list[str]:
    return [n for n, m in model.named_modules() if isinstance(forms.form_of(m), Int8Weight)]


def relative(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((got - wanted).norm() / wanted.norm()).item()


def cosine(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return torch.cosine_similarity(got.double().flatten(), wanted.double().flatten(), 0).item()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", CHOICES)
def test_errors_are_those_of_the_quantized_model(
    model: nn.Module, images: torch.Tensor, options: dict[str, Any], backend: str
) -> None:
    wanted = infer(model, images)
    report = vitkern.quantize(model, images, **options, backend=backend)
    got = infer(model, images)
    assert not torch.equal(got, wanted)
    assert report.error == pytest.approx(relative(got, wanted), rel=1e-3)
    assert report.cosine == pytest.approx(cosine(got, wanted), abs=1e-6)
    assert 1e-3 < report.error < 0.1
    for layer in report.quantized:
        assert layer.weight_error is not None and 1e-4 < layer.weight_error < 0.02
        assert layer.output_error is not None and 1e-4 < layer.output_error < 0.05


def test_linears_of_patched_modules_are_quantized(model: nn.Module, images: torch.Tensor) -> None:
    report = vitkern.quantize(model, images, **EAGER)
    wanted = [name for name, _ in converted_layers(model)]
    assert int8_layers(model) == wanted
    assert [layer.name for layer in report.quantized] == wanted
    others = {layer.name: layer.reason for layer in report.kept}
    assert set(others) == {"patch_embed.proj", "head" if "blocks" in dir(model) else "head.fc"}
    assert set(others.values()) == {"not in a patched block"}
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert all(layer.shape == shapes[f"{layer.name}.weight"] for layer in report.layers)


def test_ranges_are_those_of_the_inputs(model: nn.Module, images: torch.Tensor) -> None:
    seen: dict[str, list[float]] = {}

    def look(name: str) -> Any:
        return lambda _, inputs: seen.setdefault(name, []).extend(
            [inputs[0].min().item(), inputs[0].max().item()]
        )

    plain = copy.deepcopy(model)
    for name, layer in converted_layers(plain):
        layer.register_forward_pre_hook(look(name))
    infer(plain, images)
    infer(plain, 1.5 * images)
    report = vitkern.quantize(model, [images, 1.5 * images], **EAGER)
    for layer in report.quantized:
        ends = (min(0.0, *seen[layer.name]), max(0.0, *seen[layer.name]))
        assert layer.range == pytest.approx(ends, rel=1e-4, abs=1e-5), layer.name
        form = forms.form_of(model.get_submodule(layer.name))
        assert isinstance(form, Int8Weight)
        assert (form.low, form.high) == layer.range


def mixed(images: torch.Tensor) -> torch.Tensor:
    """A batch of one large image and one small."""
    return torch.cat([9.0 * images[:1], 0.1 * images[:1]])


def test_dynamic_needs_no_data(model: nn.Module, images: torch.Tensor) -> None:
    wanted = infer(model, images)
    report = vitkern.quantize(model, activations="dynamic", **EAGER)
    assert (report.error, report.cosine) == (None, None)
    for layer in report.quantized:
        assert layer.range is None
        assert layer.output_error is None
        assert layer.weight_error is not None and layer.weight_error > 0
    got = infer(model, images)
    assert cosine(got, wanted) > 0.999
    # Each token by itself: it does not matter what else is in the batch.
    torch.testing.assert_close(infer(model, 9.0 * images[:1]), infer(model, mixed(images))[:1])
    vitkern.dequantize(model)
    vitkern.quantize(model, images, activations="dynamic", **EAGER)
    assert torch.equal(infer(model, images), got)


def loader(x: torch.Tensor) -> DataLoader[Any]:
    data = TensorDataset(x.repeat(3, 1, 1, 1), torch.arange(3 * len(x)))
    return DataLoader(data, batch_size=2, shuffle=True)


@pytest.mark.parametrize(
    "form",
    [
        lambda x: x,
        lambda x: [x],
        lambda x: [(x, torch.zeros(len(x)))],
        lambda x: ([x[:1], "target"], (x[1:],)),
        lambda x: iter([x[:1], x[1:]]),  # once only
        loader,
    ],
)
def test_kinds_of_calibration_data(form: Any) -> None:
    model, x = zoo.build("vit", torch.float32), zoo.images("vit", torch.float32)
    wanted = vitkern.quantize(copy.deepcopy(model), x, observer="mse", **EAGER)
    report = vitkern.quantize(model, form(x), observer="mse", **EAGER)
    assert len(report.quantized) == 8
    for got, layer in zip(report.quantized, wanted.quantized, strict=True):
        assert got.range == pytest.approx(layer.range, rel=1e-3, abs=1e-5)
    assert report.error == pytest.approx(wanted.error, rel=0.05)


@pytest.mark.parametrize("patched", ["not", "float32", "bfloat16"])
def test_dequantize_leaves_it_patched_as_before(
    model: nn.Module, images: torch.Tensor, patched: str
) -> None:
    if patched == "not":
        wanted = vitkern.patch(copy.deepcopy(model), **EAGER)
    else:
        dtype = torch.bfloat16 if patched == "bfloat16" else None
        wanted = vitkern.patch(model, dtype=dtype, **EAGER)
    before, state = infer(model, images), zoo.state_of(model)
    vitkern.quantize(model, images, keep=["*.fc2"], **EAGER)
    kept = [forms.form_of(layer) for name, layer in converted_layers(model) if "fc2" in name]
    assert all(type(form) is Bfloat16Weight for form in kept) == (patched == "bfloat16")
    assert not torch.equal(infer(model, images), before)
    vitkern.dequantize(model)
    assert int8_layers(model) == []
    torch.testing.assert_close(infer(model, images), before, rtol=1e-4, atol=1e-4)
    options = {"dtype": torch.bfloat16} if patched == "bfloat16" else {}
    if patched == "float32":
        assert zoo.state_of(model) == state
    state = zoo.state_of(model)
    assert vitkern.patch(model, **options, **EAGER) == wanted
    assert zoo.state_of(model) == state  # nothing was left to do
    vitkern.dequantize(model)  # nothing to undo
    assert zoo.state_of(model) == state


def test_unpatch_undoes_all_of_it(model: nn.Module, images: torch.Tensor) -> None:
    before = everything(model)
    vitkern.quantize(model, images, **EAGER)
    infer(model, images)
    vitkern.unpatch(model)
    assert everything(model) == before


@pytest.mark.parametrize("options", CHOICES)
def test_modes_hooks_and_random_numbers_are_as_before(options: dict[str, Any]) -> None:
    model, x = zoo.build("vit", torch.float32).train(), zoo.images("vit", torch.float32)
    model.blocks[1].eval()
    handle = model.blocks[0].mlp.fc1.register_forward_hook(lambda *_: None)
    _, *before = everything(model)
    report = vitkern.quantize(model, loader(x), **options, **EAGER)
    assert report.quantized
    assert everything(model)[1:] == tuple(before)
    handle.remove()
    assert sum(hooks_of(model)) == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_copies_stay_quantized(model: nn.Module, images: torch.Tensor, backend: str) -> None:
    report = vitkern.quantize(model, images, observer="mse", backend=backend)
    wanted = infer(model, images)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(infer(other, images), wanted)
        assert int8_layers(other) == [layer.name for layer in report.quantized]
        vitkern.dequantize(other)
    assert int8_layers(model)


def test_a_part_of_a_model(model: nn.Module, images: torch.Tensor) -> None:
    part = model.blocks[1] if hasattr(model, "blocks") else model.layers[1]
    seen = []
    handle = part.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    infer(model, images)
    handle.remove()
    report = vitkern.quantize(part, seen, **EAGER)
    assert len(report.quantized) == len(int8_layers(model)) < len(converted_layers(model))
    infer(model, images)


def test_bfloat16_models() -> None:
    model, x = zoo.build("vit", torch.bfloat16), zoo.images("vit", torch.bfloat16)
    wanted = infer(model, x)
    report = vitkern.quantize(model, x, **EAGER)
    assert infer(model, x).dtype == torch.bfloat16
    assert report.cosine is not None and report.cosine > 0.995
    assert cosine(infer(model, x), wanted) > 0.995


@pytest.mark.parametrize("backend", BACKENDS)
def test_layers_follow_their_parameters(
    model: nn.Module, images: torch.Tensor, backend: str
) -> None:
    vitkern.quantize(model, images, activations="dynamic", backend=backend)
    infer(model, images)
    plain = copy.deepcopy(model)
    vitkern.unpatch(plain)
    for m in (model, plain):
        m.load_state_dict({key: value * 1.25 for key, value in m.state_dict().items()}, strict=True)
    assert cosine(infer(model, images), infer(plain, images)) > 0.995


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        (["blocks.0.mlp.fc1"], {"blocks.0.mlp.fc1"}),
        ({"blocks.1"}, {f"blocks.1.{key}" for key in LAYERS}),
        (["blocks.*.mlp.fc2", "head"], {"blocks.0.mlp.fc2", "blocks.1.mlp.fc2"}),
        (("*.attn.*",), {f"blocks.{i}.attn.{key}" for i in "01" for key in ("qkv", "proj")}),
    ],
)  # fmt: skip
def test_keep(keep: Any, left: set[str]) -> None:
    model, x = zoo.build("vit", torch.float32), zoo.images("vit", torch.float32)
    report = vitkern.quantize(model, x, keep=keep, **EAGER)
    assert {name for name, _ in converted_layers(model)} - set(int8_layers(model)) == left
    assert {layer.name for layer in report.kept if layer.reason == "asked for"} == left


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("activations", ["static", "dynamic"])
def test_error_budget(activations: str, backend: str) -> None:
    """Kept are the layers that cost most, and one fewer would not do."""
    model, x = zoo.build("vit-layer-scale", torch.float32), zoo.images("vit", torch.float32)
    wanted = infer(model, x)
    options: dict[str, Any] = {"activations": activations, "backend": backend}
    all_of_it = vitkern.quantize(copy.deepcopy(model), x, **options)
    assert all_of_it.error is not None
    budget = 0.6 * all_of_it.error
    report = vitkern.quantize(model, x, error_budget=budget, **options)
    assert report.error is not None and report.error <= budget
    assert relative(infer(model, x), wanted) == pytest.approx(report.error, rel=1e-3)
    kept = [layer for layer in report.kept if layer.reason.startswith("error budget")]
    assert 0 < len(kept) < 8
    assert len(int8_layers(model)) == 8 - len(kept)
    alone = {}
    for name, _ in converted_layers(model):
        others = [other for other, _ in converted_layers(model) if other != name]
        single = vitkern.quantize(
            zoo.build("vit-layer-scale", torch.float32), x, keep=others, **options
        )
        alone[name] = single.error
    order = sorted(alone, key=lambda name: -alone[name])
    assert {layer.name for layer in kept} == set(order[: len(kept)])
    fewer = vitkern.quantize(
        zoo.build("vit-layer-scale", torch.float32), x, keep=order[: len(kept) - 1], **options
    )
    assert fewer.error is not None and fewer.error > budget


def test_a_wide_budget_keeps_nothing(model: nn.Module, images: torch.Tensor) -> None:
    report = vitkern.quantize(model, images, error_budget=0.5, **EAGER)
    assert len(report.quantized) == len(converted_layers(model))


def test_a_budget_that_cannot_be_met(model: nn.Module, images: torch.Tensor) -> None:
    before, wanted = everything(model), infer(model, images)
    with pytest.raises(
        vitkern.CannotQuantize, match=r"error_budget=1e-06.*relative error is 0\.00"
    ):
        vitkern.quantize(model, images, error_budget=1e-6, **EAGER)
    assert everything(model) == before
    assert torch.equal(infer(model, images), wanted)


def test_the_report(model: nn.Module, images: torch.Tensor) -> None:
    report = vitkern.quantize(model, images, keep=[converted_layers(model)[0][0]], **EAGER)
    values = json.loads(json.dumps(report.to_dict()))
    assert [layer["name"] for layer in values["layers"]] == [x.name for x in report.layers]
    assert values["layers"][-2]["range"] == list(report.layers[-2].range or ())
    console = Console(width=200)
    with console.capture() as capture:
        console.print(report)
    for text in (str(report), capture.get()):
        for layer in report.layers:
            assert layer.name in text
        assert "asked for" in text
        assert "not in a patched block" in text
        assert f"cosine similarity {report.cosine:.6f}" in text
        assert f"{len(report.quantized)} layers in int8 (static activations, minmax)" in text
    assert "per token" not in str(report)
    vitkern.dequantize(model)
    dynamic = vitkern.quantize(model, activations="dynamic", **EAGER)
    assert "per token" in str(dynamic)
    assert "cosine" not in str(dynamic)
    assert repr(dynamic).startswith("<QuantizationReport: ")


def test_the_report_says_where_no_kernel_takes_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither on a device without kernels; never in silence."""
    backends = vitkern.ops.linear.__globals__["_OPERATOR"].backends
    refuse = backends["cpu"].__class__("cpu", lambda call: ["not today"], backends["cpu"].forward)
    monkeypatch.setitem(backends, "cpu", refuse)
    model, x = zoo.build("vit", torch.float32), zoo.images("vit", torch.float32)
    report = vitkern.quantize(model, x)
    assert report.backend == "eager"
    assert "no kernel takes int8 here" in report.note
    assert "cpu: not today" in str(report)
    assert cosine(infer(model, x), infer(zoo.build("vit", torch.float32), x)) > 0.995
    before = zoo.state_of(other := zoo.build("vit", torch.float32))
    with pytest.raises(vitkern.CannotQuantize, match=r"'cpu' does not take blocks\.0.*not today"):
        vitkern.quantize(other, x, backend="cpu")
    assert zoo.state_of(other) == before


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("backend", BACKENDS)
def test_compiles(model: nn.Module, images: torch.Tensor, backend: str) -> None:
    vitkern.quantize(model, images, backend=backend)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(infer(compiled, images), infer(model, images), rtol=1e-4, atol=1e-4)
