"""Quantized models in files: the same outputs, bit for bit, or a clear error and no change."""

from __future__ import annotations

import copy
import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import vitkern
from tests.patching import zoo
from tests.patching.test_forms import converted_layers
from tests.quantization.conftest import BACKENDS, everything, infer
from vitkern.ops import weights
from vitkern.ops.weights import Int8Weight
from vitkern.patching import forms
from vitkern.quantization import storage
from vitkern.quantization.file import write

EAGER: dict[str, Any] = {"backend": "eager"}


def fresh(name: str) -> nn.Module:
    """Of the same architecture, with other weights."""
    torch.manual_seed(7)
    return zoo.MODELS[name][0]().eval()


def contents(path: Path) -> tuple[Any, ...]:
    """All that is in a file; the order of metadata is any."""
    with safe_open(path, "pt") as opened:
        return opened.metadata(), {key: (t.dtype, t.tolist()) for key, t in load_file(path).items()}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A quantized ViT."""
    model = zoo.build("vit", torch.float32)
    vitkern.quantize(model, zoo.images("vit", torch.float32), keep=["*.fc2"], **EAGER)
    vitkern.save_quantized(model, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("activations", ["static", "dynamic"])
def test_outputs_are_the_same(
    name: str,
    model: nn.Module,
    images: torch.Tensor,
    activations: str,
    backend: str,
    tmp_path: Path,
) -> None:
    options: dict[str, Any] = {"activations": activations, "backend": backend}
    path = tmp_path / "model.safetensors"
    model.train()
    report = vitkern.quantize(model, images, observer="mse", **options)
    model.eval()
    wanted, before = infer(model, images), everything(model)
    vitkern.save_quantized(model, str(path))
    assert everything(model) == before
    other = fresh(name)
    loaded = vitkern.load_quantized(other, path, backend=backend)
    assert torch.equal(infer(other, images), wanted)
    assert [(x.name, x.form, x.range) for x in loaded.layers] == [
        (x.name, x.form, x.range) for x in report.layers
    ]
    assert (loaded.activations, loaded.error) == (activations, None)
    for key, layer in converted_layers(other):
        one, two = (forms.form_of(m) for m in (layer, model.get_submodule(key)))
        assert isinstance(one, Int8Weight) and isinstance(two, Int8Weight)
        for a, b in zip(one.quantized(), two.quantized(), strict=True):
            assert torch.equal(a, b)
    again = tmp_path / "again.safetensors"
    vitkern.save_quantized(other, again)
    assert contents(again) == contents(path)
    copied = copy.deepcopy(other)
    assert torch.equal(infer(copied, images), wanted)


def test_what_is_kept_stays_exact(file: Path) -> None:
    model, x = zoo.build("vit", torch.float32), zoo.images("vit", torch.float32)
    other = fresh("vit")
    report = vitkern.load_quantized(other, file, **EAGER)
    assert len(report.quantized) == 6
    mine, state = other.state_dict(), model.state_dict()
    quantized = {f"{layer.name}.weight" for layer in report.quantized}
    for key, value in state.items():
        assert torch.equal(mine[key], value) == (key not in quantized), key
        assert (mine[key] - value).norm() <= 0.01 * value.norm()
    vitkern.unpatch(other)
    assert torch.cosine_similarity(infer(other, x).flatten(), infer(model, x).flatten(), 0) > 0.999


def test_the_file(file: Path) -> None:
    tensors = load_file(file)
    state = zoo.build("vit", torch.float32).state_dict()
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    assert metadata["format"] == "vitkern.quantized"
    assert metadata["version"] == "2"
    assert metadata["model"] == "timm.VisionTransformer"
    layers = json.loads(metadata["layers"])
    assert set(tensors) == set(state) | {f"{name}.weight_scale" for name in layers}
    for name in layers:
        assert tensors[f"{name}.weight"].dtype == torch.int8
        assert tensors[f"{name}.weight_scale"].shape == state[f"{name}.weight"].shape[:1]
        assert layers[name]["low"] < layers[name]["high"]
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("patched", ["float32", "bfloat16"])
def test_products_of_the_rest(patched: str, tmp_path: Path) -> None:
    model, x = zoo.build("swin", torch.float32), zoo.images("swin", torch.float32)
    dtype = torch.bfloat16 if patched == "bfloat16" else None
    vitkern.patch(model, dtype=dtype, **EAGER)
    vitkern.quantize(model, x, keep=["*.attn.*"])
    vitkern.save_quantized(model, tmp_path / "model.safetensors")
    other = fresh("swin")
    vitkern.patch(other)  # in some other way
    vitkern.load_quantized(other, tmp_path / "model.safetensors", **EAGER)
    assert torch.equal(infer(other, x), infer(model, x))
    assert (forms.form_of(other.layers[0].blocks[0].attn.qkv) is None) == (patched == "float32")


@pytest.mark.parametrize("paired", [False, True])
def test_bfloat16_models(paired: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their parameters have no room for the int8 form, which is kept beside them."""
    for module in (weights, storage):
        monkeypatch.setattr(module, "needs_pairs", lambda: paired)
    model, x = zoo.build("vit", torch.bfloat16), zoo.images("vit", torch.bfloat16)
    vitkern.quantize(model, x, **EAGER)
    vitkern.save_quantized(model, tmp_path / "model.safetensors")
    other = fresh("vit").bfloat16()
    vitkern.load_quantized(other, tmp_path / "model.safetensors", **EAGER)
    assert torch.equal(infer(other, x), infer(model, x))
    for copied in (copy.deepcopy(other), pickle.loads(pickle.dumps(other))):
        assert torch.equal(infer(copied, x), infer(model, x))


def edit(
    path: Path,
    tensors: Callable[[dict[str, torch.Tensor]], object] = lambda _: None,
    **metadata: str,
) -> None:
    """Writes the file again with changes."""
    with safe_open(path, "pt") as opened:
        was = opened.metadata()
    values = load_file(path)
    tensors(values)
    write(values, {**was, **metadata}, path)


def flip(path: Path) -> None:
    """One bit of the weights."""
    data = bytearray(path.read_bytes())
    data[-5000] ^= 1
    path.write_bytes(data)


def flip_metadata(path: Path) -> None:
    """Another digit in the range of an input: still a number, and nothing else would tell."""
    data = path.read_bytes()
    place = re.search(rb'\\"low\\": -?\d\.\d*(\d)', data)
    assert place is not None
    at = place.start(1)
    path.write_bytes(data[:at] + b"%d" % ((int(data[at : at + 1]) + 1) % 10) + data[at + 1 :])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


FILES: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    "missing": (lambda path: path.unlink(), FileNotFoundError, "is not a file"),
    "truncated": (cut, ValueError, "is damaged or no safetensors file"),
    "empty": (lambda path: path.write_bytes(b""), ValueError, "is damaged or no safetensors"),
    "of text": (lambda path: path.write_text("hello" * 99), ValueError, "is damaged or no safe"),
    "of another kind": (
        lambda path: save_file({"x": torch.zeros(2)}, path),
        ValueError,
        "is no file of vitkern.save_quantized",
    ),
    "of another version": (
        lambda path: edit(path, version="1"),
        ValueError,
        "is of version 1 of its format.*reads version 2",
    ),
    "without layers": (lambda path: edit(path, layers="[]"), ValueError, "is damaged: its metadat"),
    "with layers too deep": (
        lambda path: edit(path, layers="[" * 100_000),
        ValueError,
        "is damaged: its metadata",
    ),
    **{
        f"with a range from {low} to {high}": (
            lambda path, low=low, high=high: edit(
                path,
                layers=f'{{"blocks.0.attn.qkv": {{"low": {low}, "high": {high},'
                ' "paired": true, "dtype": "float32"}}',
            ),
            ValueError,
            "is damaged: its metadata",
        )
        for low, high in (("3.0", "1.0"), ("0.0", "1e300"), ("-3e38", "3e38"), ("NaN", "1.0"))
    },
    "with an entry more": (
        lambda path: edit(path, lambda t: t.update(extra=torch.zeros(2))),
        ValueError,
        "does not fit this timm.VisionTransformer:\n  unexpected: extra",
    ),
    "with an entry fewer": (
        lambda path: edit(path, lambda t: t.pop("blocks.1.norm1.bias")),
        ValueError,
        r"missing: blocks\.1\.norm1\.bias",
    ),
    "with another shape": (
        lambda path: edit(path, lambda t: t.update({"pos_embed": torch.zeros(1, 5, 48)})),
        ValueError,
        r"shape of pos_embed: \(1, 5, 48\), the model's is \(1, 17, 48\)",
    ),
    "with another dtype": (
        lambda path: edit(path, lambda t: t.update({"norm.bias": t["norm.bias"].half()})),
        ValueError,
        r"dtype of norm.bias: torch.float16, the model's is torch.float32",
    ),
    "without int8": (
        lambda path: edit(
            path, lambda t: t.update({"blocks.0.mlp.fc1.weight": torch.zeros(192, 48)})
        ),
        ValueError,
        r"blocks\.0\.mlp\.fc1\.weight: torch.float32, not int8",
    ),
    "with scales that are not finite": (
        lambda path: edit(path, lambda t: t["blocks.0.mlp.fc1.weight_scale"].fill_(torch.inf)),
        ValueError,
        r"'blocks\.0\.mlp\.fc1\.weight' is no int8 form",
    ),
    "with values out of range": (
        lambda path: edit(path, lambda t: t["blocks.0.mlp.fc1.weight"].fill_(-128)),
        ValueError,
        r"'blocks\.0\.mlp\.fc1\.weight' is no int8 form.*at least -127",
    ),
    "with a bit flipped": (flip, ValueError, "is damaged: its checksum"),
    "with another digit in a range": (flip_metadata, ValueError, "is damaged: its checksum"),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("patched", [False, True])
def test_bad_files(file: Path, kind: str, patched: bool) -> None:
    change, error, message = FILES[kind]
    change(file)
    model = fresh("vit").train()
    if patched:
        vitkern.patch(model, **EAGER)
    before = everything(model)
    with pytest.raises(error, match=message):
        vitkern.load_quantized(model, file, **EAGER)
    assert everything(model) == before


def smaller() -> nn.Module:
    model = fresh("vit")
    model.blocks = model.blocks[:1]
    return model


def quantized() -> nn.Module:
    model = fresh("vit")
    vitkern.quantize(model, activations="dynamic", **EAGER)
    return model


@pytest.mark.parametrize(
    ("build", "options", "error", "message"),
    [
        (smaller, {}, ValueError, r"no layer to quantize: blocks\.1\.attn\.qkv"),
        (lambda: fresh("swin"), {}, ValueError, "timm.VisionTransformer, which does not fit this"),
        (lambda: fresh("vit-layer-scale"), {}, ValueError, r"missing: blocks\.0\.ls1\.gamma"),
        (lambda: fresh("vit").double(), {}, ValueError, "torch.float32, the model's is torch.floa"),
        (lambda: nn.Linear(2, 2), {}, ValueError, "does not fit this torch.Linear"),
        (quantized, {}, vitkern.CannotQuantize, "quantized already"),
        (lambda: fresh("vit"), {"backend": "cpuu"}, vitkern.UnknownBackend, "did you mean 'cpu'"),
    ],
)
def test_models_that_do_not_fit(
    file: Path, build: Any, options: Any, error: type[Exception], message: str
) -> None:
    model = build()
    before = everything(model)
    with pytest.raises(error, match=message):
        vitkern.load_quantized(model, file, **{**EAGER, **options})
    assert everything(model) == before


def test_a_backend_that_refuses(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vitkern.dispatch import OPERATORS, Backend

    backends = OPERATORS["linear"].backends
    refusing = Backend("cpu", lambda call: ["not today"], backends["cpu"].forward)
    monkeypatch.setitem(backends, "cpu", refusing)
    model = fresh("vit")
    before = everything(model)
    with pytest.raises(vitkern.CannotQuantize, match="not today"):
        vitkern.load_quantized(model, file, backend="cpu")
    assert everything(model) == before


@pytest.mark.parametrize("value", [None, 3, nn.Linear])
def test_only_modules_are_taken(value: Any, file: Path) -> None:
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        vitkern.save_quantized(value, file)
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        vitkern.load_quantized(value, file)


def test_only_quantized_models_are_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"not quantized: call vitkern\.quantize first"):
        vitkern.save_quantized(fresh("vit"), tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_the_old_file_stays_where_writing_fails(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = file.read_bytes()
    model = quantized()

    def full(tensors: Any, path: Path, metadata: Any) -> None:
        Path(path).write_bytes(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="no space"):
        vitkern.save_quantized(model, file)
    assert list(file.parent.iterdir()) == [file]
    assert file.read_bytes() == before


def test_where_no_file_can_be(tmp_path: Path) -> None:
    model = quantized()
    with pytest.raises(FileNotFoundError, match="is not a directory"):
        vitkern.save_quantized(model, tmp_path / "no" / "model.safetensors")
    with pytest.raises(IsADirectoryError):
        vitkern.save_quantized(model, tmp_path)


def test_tied_parameters(tmp_path: Path) -> None:
    model, x = zoo.build("vit", torch.float32), zoo.images("vit", torch.float32)
    model.blocks[1].mlp.fc1.weight = model.blocks[0].mlp.fc1.weight
    model.blocks[1].norm1.weight = model.blocks[0].norm1.weight
    vitkern.quantize(model, x, **EAGER)
    vitkern.save_quantized(model, tmp_path / "model.safetensors")
    other = fresh("vit")
    vitkern.load_quantized(other, tmp_path / "model.safetensors", **EAGER)
    assert torch.equal(infer(other, x), infer(model, x))
