"""What ``quantize`` and ``dequantize`` refuse; the model is as before then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

import vitkern
from tests.patching import zoo
from tests.quantization.conftest import everything, infer

Error = type[Exception]
STATIC = {"activations": "static"}


def images(**options: Any) -> torch.Tensor:
    return zoo.images("vit", **options) if options else zoo.images("vit", torch.float32)


def with_value(value: float) -> torch.Tensor:
    x = images()
    x[1, 2, 3, 4] = value
    return x


def failing() -> Iterator[torch.Tensor]:
    yield images()
    raise OSError("disk on fire")


DATA: dict[str, tuple[Callable[[], Any], Error, str]] = {
    "another size": (
        lambda: torch.randn(2, 3, 40, 40),
        ValueError,
        r"rejects calibration batch 0 of shape \(2, 3, 40, 40\)",
    ),
    "another size later": (
        lambda: [images(), torch.randn(2, 1, 32, 32)],
        ValueError,
        r"rejects calibration batch 1 of shape \(2, 1, 32, 32\)",
    ),
    "a single image": (
        lambda: list(images()),
        ValueError,
        r"rejects calibration batch 0 of shape \(3, 32, 32\)",
    ),
    "no batches": (list, ValueError, "calibration is empty"),
    "an empty batch": (lambda: images()[:0], ValueError, r"batch 0 is empty.*\(0, 3, 32, 32\)"),
    "NaN": (lambda: with_value(float("nan")), ValueError, "batch 0 has NaN or infinite"),
    "infinity": (lambda: [images(), with_value(float("inf"))], ValueError, "batch 1 has NaN"),
    "too large": (lambda: images() * 1e38, ValueError, r"NaN or infinite values|NaN or infinite"),
    "float64": (lambda: images(dtype=torch.float64), TypeError, "float64.*weights are.*float32"),
    "bytes": (lambda: images().to(torch.uint8), TypeError, r"batch 0 is torch\.uint8"),
    "elsewhere": (
        lambda: images().to("meta"),
        ValueError,
        "batch 0 is on meta, but the model is on cpu",
    ),
    "numbers": (lambda: [1, 2], TypeError, "batch 0 must be a tensor or begin with one, got int"),
    "targets first": (lambda: [("cat", images())], TypeError, "batch 0 must be a tensor or begin"),
    "a path": (lambda: "images.pt", TypeError, "calibration must be a tensor.*got str"),
    "a dict": (lambda: {"x": images()}, TypeError, "calibration must be a tensor.*got dict"),
    "an array": (lambda: images().numpy(), TypeError, "batch 0 must be a tensor"),
    "failing": (failing, OSError, "disk on fire"),
    "none": (lambda: None, ValueError, "activations='static' needs calibration data"),
}


def unchanged(model: nn.Module, error: Error, message: str, *args: Any, **options: Any) -> None:
    x = images(dtype=next(model.parameters()).dtype)
    wanted = infer(model, x) if x.dtype in (torch.float32, torch.float64) else None
    before = everything(model)
    with pytest.raises(error, match=message):
        vitkern.quantize(model, *args, **options)
    assert everything(model) == before
    if wanted is not None:
        assert torch.equal(infer(model, x), wanted)


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("patched", [False, True])
def test_data(kind: str, patched: bool) -> None:
    make, error, message = DATA[kind]
    model = zoo.build("vit", torch.float32).train()
    if patched:
        vitkern.patch(model, backend="eager")
    unchanged(model, error, message, make(), backend="eager")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"activations": "per token"}, ValueError, "activations must be one of static, dynamic"),
        ({"activations": None}, ValueError, "activations must be one of"),
        ({"observer": "entropy"}, ValueError, "observer must be one of minmax, percentile, mse"),
        ({"percentile": 100.5}, ValueError, "percentile must be above 50 and at most 100, got 100"),
        ({"percentile": 0.9999}, ValueError, "percentile must be above 50"),
        ({"percentile": "99"}, TypeError, "percentile must be a number, got str"),
        ({"percentile": float("nan")}, ValueError, "percentile must be"),
        ({"error_budget": 0.0}, ValueError, "error_budget must be above 0"),
        ({"error_budget": float("inf")}, ValueError, "error_budget must be"),
        ({"error_budget": True}, TypeError, "error_budget must be a number, got bool"),
        ({"keep": "blocks.0"}, TypeError, "keep must be a list, tuple or set.*got 'blocks.0'"),
        ({"keep": [3]}, TypeError, r"keep must be a list, tuple or set.*got \[3\]"),
        ({"keep": iter(["blocks.0"])}, TypeError, "keep must be a list.*got <list_iterator"),
        ({"keep": None}, TypeError, "keep must be a list.*got None"),
        ({"keep": 3}, TypeError, "keep must be a list.*got 3"),
        ({"keep": ["blocks.0.mlp.fc3"]}, ValueError, "matches no module.*did you mean blocks"),
        ({"keep": ["*"]}, vitkern.CannotQuantize, "nothing to quantize: keep has all of them"),
        ({"backend": "cpuu"}, vitkern.UnknownBackend, "did you mean 'cpu'"),
        ({"backend": 3}, TypeError, "string or None"),
        ({"backend": "onednn"}, ValueError, "onednn"),
    ],
)
def test_options(options: dict[str, Any], error: Error, message: str) -> None:
    model = zoo.build("vit", torch.float32)
    unchanged(model, error, message, images(), **{"backend": "eager", **options})


def test_a_budget_needs_data() -> None:
    model = zoo.build("vit", torch.float32)
    options = {"activations": "dynamic", "error_budget": 0.1, "backend": "eager"}
    unchanged(model, ValueError, "error_budget needs calibration data", **options)


@pytest.mark.parametrize("value", [None, 3, torch.zeros(2), nn.Module])
def test_only_modules_are_taken(value: object) -> None:
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        vitkern.quantize(value, images())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        vitkern.dequantize(value)  # type: ignore[arg-type]


def test_quantizing_twice() -> None:
    model = zoo.build("vit", torch.float32)
    vitkern.quantize(model, images(), backend="eager", keep=["blocks.1"])
    message = r"already \(4 layers.*blocks\.0\.attn\.qkv.*vitkern\.dequantize"
    with torch.no_grad():
        unchanged(model, vitkern.CannotQuantize, message, images(), backend="eager")
        unchanged(model, vitkern.CannotQuantize, message, activations="dynamic")
    vitkern.dequantize(model)
    assert len(vitkern.quantize(model, images(), backend="eager").quantized) == 8


@pytest.mark.parametrize("model", [nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.ReLU())])
def test_nothing_to_quantize(model: nn.Module) -> None:
    with pytest.raises(vitkern.CannotQuantize, match="no Linear is in a module that vitkern patch"):
        vitkern.quantize(model, torch.randn(2, 4))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_dtypes_without_int8(dtype: torch.dtype) -> None:
    model = zoo.build("vit", dtype)
    message = f"blocks.0.attn.qkv.weight is {dtype}; int8 is made of float32 or bfloat16"
    unchanged(model, vitkern.CannotQuantize, message, images(dtype=dtype), backend="eager")


def test_weights_that_are_not_finite() -> None:
    model = zoo.build("vit", torch.float32)
    with torch.no_grad():
        model.blocks[1].mlp.fc2.weight[3, 5] = float("inf")
    before = zoo.state_of(model)
    with pytest.raises(vitkern.CannotQuantize, match=r"blocks\.1\.mlp\.fc2\.weight has NaN"):
        vitkern.quantize(model, activations="dynamic", backend="eager")
    assert zoo.state_of(model) == before


def test_a_model_that_is_patched_with_another_backend() -> None:
    model = zoo.build("vit", torch.float32)
    vitkern.patch(model, backend="eager")
    message = r"backend is 'cpu', but the model is patched with backend='eager'"
    unchanged(model, ValueError, message, images(), backend="cpu")


class _Lazy(nn.Module):
    """Its second block is for training only."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = zoo.build("vit", torch.float32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.vit.patch_embed(x)
        y = self.vit.blocks[0](y)
        return self.vit.blocks[1](y) if self.training else y


def test_layers_that_the_data_does_not_reach() -> None:
    model = _Lazy()
    message = r"does not reach vit\.blocks\.1\.attn\.qkv, .*fc2: keep them"
    unchanged(model, vitkern.CannotQuantize, message, images(), backend="eager")
    report = vitkern.quantize(model, images(), keep=["vit.blocks.1"], backend="eager")
    assert len(report.quantized) == 4


def test_interrupted_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    """By whatever: here in the last run, when all layers are in int8 already."""
    import vitkern.quantization.api as api

    def compare(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "compare", compare)
    model = zoo.build("vit", torch.float32).train()
    before = everything(model)
    with pytest.raises(KeyboardInterrupt):
        vitkern.quantize(model, images(), backend="eager")
    assert everything(model) == before
