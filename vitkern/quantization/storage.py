"""Quantized models in files: int8 weights, scales and ranges, and all else as it is."""

from __future__ import annotations

import importlib.metadata
import json
import os
from pathlib import Path

import torch
from torch import nn

from vitkern.dispatch import check_backend_name
from vitkern.ops.weights import Bfloat16Weight, Int8Weight, check_quantized, needs_pairs
from vitkern.patching import forms
from vitkern.patching.api import patch
from vitkern.patching.classes import title
from vitkern.patching.swap import swap_of
from vitkern.quantization.api import backend_of, check_model, report_of
from vitkern.quantization.errors import errors_of
from vitkern.quantization.file import FORMAT, VERSION, Entries, keys, read, write
from vitkern.quantization.layers import (
    Layer,
    candidates,
    check_weights,
    quantized_layers,
    unchanged_on_error,
)
from vitkern.quantization.report import QuantizationReport


def save_quantized(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Writes a quantized model to a file of safetensors, a quarter as large for its int8 layers.

    The file has, of each layer in int8, the int8 values under the weight's own name, the float32
    scales and the range of its input, and every other entry of the state dict as it is. It is
    written beside its place and moved there, so that there is never half a file.

    Args:
        model: quantized by :func:`vitkern.quantize`.
        path: where to; replaced if it exists.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: it is not quantized, or its state dict has more than tensors.
        OSError: the file cannot be written; nothing is left behind.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    layers = quantized_layers(model)
    if not layers:
        raise ValueError("model is not quantized: call vitkern.quantize first")
    tensors: dict[str, torch.Tensor] = {}
    for key, value in model.state_dict().items():
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"the state dict's {key!r} is a {type(value).__name__}, not a tensor")
        tensors[key] = _stored(value)
    entries: Entries = {}
    for name, layer in layers.items():
        form = forms.form_of(layer)
        assert isinstance(form, Int8Weight)
        weight, scales = keys(name)
        if scales in tensors:
            raise ValueError(f"the state dict has an entry {scales!r} of its own")
        tensors[weight], tensors[scales] = map(_stored, form.of(layer.weight).quantized())
        dtype = str(layer.weight.dtype).removeprefix("torch.")
        entries[name] = {
            "low": form.low,
            "high": form.high,
            "paired": form.paired,
            "dtype": dtype,
        }
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "vitkern": _own_version(),
        "model": title(type(model)),
        "products": "bfloat16" if _has_bfloat16(model) else "",
        "layers": json.dumps(entries),
    }
    write(tensors, metadata, Path(path))


def load_quantized(
    model: nn.Module, path: str | os.PathLike[str], *, backend: str | None = None
) -> QuantizationReport:
    """Fills a model of the same architecture from a file of :func:`save_quantized`.

    Parameters of layers that are in int8 there become ``values * scale``, what they were before is
    gone; all else is as it was stored. Then the model is patched, and gives the same outputs as the
    one that was saved: int8 values and scales are used as stored until the parameter changes. (A
    machine whose sums of two products are narrower than those of the machine that saved it makes a
    form of its own, and so does code that torch.compile makes.)

    Args:
        model: fresh or trained, patched or not, but not quantized.
        path: the file.
        backend: as in :func:`vitkern.patch`.

    Returns:
        The layers and ranges; without errors, which were measured on other data.

    Raises:
        TypeError: ``model`` is not a module.
        FileNotFoundError: no such file.
        ValueError: no file of this kind and version, or a damaged one; or a model that it does not
            fit: lists entries that are missing, unexpected, or of another shape or dtype.
        CannotQuantize: the model is quantized already, or ``backend`` refuses int8.
        CannotPatch: ``backend`` refuses a module.

    The model is unchanged where an error is raised.
    """
    check_model(model)
    check_backend_name(backend)
    path = Path(path)
    tensors, metadata, entries = read(path)
    found = {layer.name: layer for layer in candidates(model, None)}
    misfits = _misfits(model, tensors, entries, found)
    if misfits:
        raise ValueError(
            f"{str(path)!r} has a quantized {metadata.get('model', 'model')}, which does not fit"
            f" this {title(type(model))}:\n  " + "\n  ".join(shortened(misfits))
        )
    layers = [found[name] for name in entries]
    for layer in layers:
        layer.backend = backend
    check_weights(layers, values=False)
    taker, note = backend_of(layers)
    stored = {}
    for layer in layers:
        weight, scales = keys(layer.name)
        values, scale = stored[layer.name] = tensors[weight], tensors.pop(scales)
        try:
            check_quantized(values, scale, entries[layer.name]["paired"])
        except ValueError as error:
            raise ValueError(
                f"{str(path)!r} is damaged: {weight!r} is no int8 form of a weight: {error}"
            ) from error
        tensors[weight] = (values * scale[:, None]).to(layer.module.weight.dtype)
    with unchanged_on_error(model):
        for layer in layers:
            entry = entries[layer.name]
            paired = entry["paired"] or needs_pairs()
            form = Int8Weight(layer.module.weight, entry["low"], entry["high"], paired=paired)
            layer.prepare(form)
            layer.quantize()
        products = torch.bfloat16 if metadata.get("products") == "bfloat16" else None
        patch(model, dtype=products, backend=backend)
        model.load_state_dict(tensors)
    for name, module in quantized_layers(model).items():
        given = forms.form_of(module)
        assert isinstance(given, Int8Weight)
        if given.paired == entries[name]["paired"]:
            given.of(module.weight).adopt(*stored[name])
    static = any(entry["low"] is not None for entry in entries.values())
    return report_of(
        model,
        errors_of(layers, lambda: None),
        {},
        QuantizationReport((), "static" if static else "dynamic", "", taker, note),
    )


def _misfits(
    model: nn.Module, tensors: dict[str, torch.Tensor], entries: Entries, found: dict[str, Layer]
) -> list[str]:
    """All that keeps a model from being filled with what is in a file."""
    lines = [f"no layer to quantize: {name}" for name in entries if name not in found]
    state = model.state_dict()
    weights = {keys(name)[0]: entries[name]["dtype"] for name in entries}
    expected = {key: (value.shape, str(value.dtype)) for key, value in state.items()}
    for name in entries:
        weight, scales = keys(name)
        if weight in state:
            expected[scales] = (state[weight].shape[:1], "torch.float32")
    for key, (shape, dtype) in expected.items():
        if key not in tensors:
            lines.append(f"missing: {key}")
            continue
        value = tensors[key]
        given = str(value.dtype)
        if key in weights:
            given = f"torch.{weights[key]}" if value.dtype is torch.int8 else f"{given}, not int8"
        if value.shape != shape:
            lines.append(f"shape of {key}: {tuple(value.shape)}, the model's is {tuple(shape)}")
        elif given != dtype:
            lines.append(f"dtype of {key}: {given}, the model's is {dtype}")
    return lines + [f"unexpected: {key}" for key in tensors if key not in expected]


def shortened(lines: list[str], most: int = 10) -> list[str]:
    """The first ones, and how many more there are."""
    more = len(lines) - most
    return lines if more <= 1 else [*lines[:most], f"and {more} more"]


def _stored(tensor: torch.Tensor) -> torch.Tensor:
    """A copy for the file, which has no tensors that share memory."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _has_bfloat16(model: nn.Module) -> bool:
    swaps = filter(None, map(swap_of, model.modules()))
    return any(isinstance(form, Bfloat16Weight) for s in swaps for form in (s.form, s.under))


def _own_version() -> str:
    try:
        return importlib.metadata.version("vitkern")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
