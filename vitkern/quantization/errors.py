"""What int8 costs each layer by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from vitkern.ops.weights import Int8Weight
from vitkern.quantization.layers import Layer
from vitkern.quantization.report import QuantizedLayer


def errors_of(layers: list[Layer], run: Callable[[], object]) -> dict[str, QuantizedLayer]:
    """The report's rows of prepared layers.

    ``run`` runs the model, in float, on the calibration data: each layer's int8 product is
    compared with its output, for the input that it has there. Where it runs nothing, output errors
    are None.
    """
    sums = {layer.name: [0.0, 0.0] for layer in layers}
    handles = []
    try:
        for layer in layers:
            hook = _comparison(layer, sums[layer.name])
            handles.append(layer.module.register_forward_hook(hook))
        run()
    finally:
        for handle in handles:
            handle.remove()
    return {layer.name: _row(layer, *sums[layer.name]) for layer in layers}


def _comparison(layer: Layer, sums: list[float]) -> Callable[[nn.Module, Any, Any], None]:
    """A hook that adds up the squares of errors and of outputs."""

    def compare(_: nn.Module, inputs: Any, y: torch.Tensor) -> None:
        assert layer.form is not None
        error = layer.form.product(inputs[0], layer.module.bias) - y
        sums[0] += error.double().square().sum().item()
        sums[1] += y.double().square().sum().item()

    return compare


def _row(layer: Layer, error: float, size: float) -> QuantizedLayer:
    form = layer.form
    assert form is not None
    return QuantizedLayer(
        layer.name,
        tuple(form.shape),
        "int8",
        range=None if form.low is None or form.high is None else (form.low, form.high),
        weight_error=weight_error(form),
        output_error=(error / size) ** 0.5 if size else None,
    )


def weight_error(form: Int8Weight) -> float:
    """``||w8 - w|| / ||w||``."""
    values, scale = form.quantized()
    weight = form.source.detach().float()
    size = weight.norm().item()
    return (values * scale[:, None] - weight).norm().item() / size if size else 0.0
