"""``quantize``: from calibration data to a model whose products run in int8."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from vitkern.dispatch import OPERATORS, check_backend_name
from vitkern.ops._cpu import drop_packed
from vitkern.ops.weights import Int8Weight
from vitkern.patching import probe
from vitkern.patching.api import patch
from vitkern.patching.swap import is_patched
from vitkern.quantization.calibration import (
    batches_of,
    compare,
    outputs,
    reference_outputs,
    undisturbed,
)
from vitkern.quantization.errors import errors_of
from vitkern.quantization.layers import (
    CannotQuantize,
    Layer,
    candidates,
    check_weights,
    kept,
    quantized_layers,
    unchanged_on_error,
)
from vitkern.quantization.observers import OBSERVERS, Range, observe
from vitkern.quantization.report import QuantizationReport, QuantizedLayer
from vitkern.quantization.sensitivity import meet_budget

ACTIVATIONS = ("static", "dynamic")


def quantize(
    model: nn.Module,
    calibration: Any = None,
    *,
    activations: str = "static",
    observer: str = "minmax",
    percentile: float = 99.99,
    error_budget: float | None = None,
    keep: Collection[str] = (),
    backend: str | None = None,
) -> QuantizationReport:
    """Has the matrix products of a model's patched modules computed in int8, in place.

    The arithmetic is that of :class:`vitkern.ops.weights.Int8Weight`: weights symmetric with a
    scale for each output channel, activations asymmetric. Parameters and the state dict stay; the
    int8 weights follow the parameters. Attention, norms and everything between products stay as
    they are, as do patch embeddings and classifier heads. For inference: such a model has no
    gradient. A model that is not patched yet is patched. Undone by :func:`vitkern.dequantize`,
    which leaves the model patched, and by :func:`vitkern.unpatch`.

    The model runs in evaluation mode, whatever its mode; that and the random numbers of PyTorch are
    as before afterwards. Nothing is changed where an error is raised.

    Args:
        model: the model, or any part of one that can be called; float32 or bfloat16.
        calibration: inputs as the model will get them: a tensor, or an iterable of tensors or of
            (tensor, target) batches, such as a DataLoader. All are kept in memory meanwhile: some
            hundred images are enough. Needed for static activations and for all measured errors.
        activations: "static": each layer's input has one range, which the calibration data gives;
            "dynamic": each token has its own, which is found in every call.
        observer: what makes a range of the values seen: "minmax" takes the extremes, "percentile"
            cuts the largest and the smallest off, "mse" takes the range with the least squared
            error. Counts for static activations only.
        percentile: of "percentile", in percent: what exceeds it is cut off, and as much below.
        error_budget: the largest relative error ``||y8 - y|| / ||y||`` of the model's output on the
            calibration data. Where it is exceeded, the most sensitive layers are kept, and as few
            as it takes: see :mod:`vitkern.quantization.sensitivity`.
        keep: layers to keep, a list, tuple or set: names, names of modules above them, or patterns
            ("blocks.*.mlp.fc2").
        backend: as in :func:`vitkern.patch`; the backend must take int8.

    Returns:
        What is in int8 and what is not, and the errors measured.

    Raises:
        TypeError, ValueError: arguments that make no sense; data of another dtype or device, with
            NaN or infinities, or that the model rejects; no data where some is needed.
        UnknownBackend: no op has a backend of that name (a ValueError).
        CannotQuantize: nothing to quantize; already quantized; weights that have no int8 form;
            layers that the data does not reach; a backend that refuses; a budget that no choice of
            layers meets.
        CannotPatch: the backend asked for by name refuses a module.
    """
    check_model(model)
    _check(calibration, activations, observer, percentile, error_budget)
    check_backend_name(backend)
    layers = candidates(model, backend)
    asked = kept(model, layers, keep)
    chosen = [layer for layer in layers if layer.name not in asked]
    if not chosen:
        why = "keep has all of them" if layers else "no Linear is in a module that vitkern patches"
        raise CannotQuantize(f"nothing to quantize: {why}")
    check_weights(chosen)
    taker, note = backend_of(chosen)
    with unchanged_on_error(model), undisturbed(model):
        batches = [] if calibration is None else batches_of(calibration, model)
        wanted = reference_outputs(model, batches)
        if not is_patched(model):
            _patch(model, chosen, backend)
        ranges: dict[str, Range] = {}
        if activations == "static":
            ranges = _ranges(model, chosen, batches, observer, percentile)
        for layer in chosen:
            layer.prepare(Int8Weight(layer.module.weight, *ranges.get(layer.name, (None, None))))
        rows = errors_of(chosen, lambda: outputs(model, batches))
        sensitive: dict[str, float] = {}
        if error_budget is not None:
            sensitive = meet_budget(
                chosen,
                error_budget,
                lambda: compare(outputs(model, batches), wanted)[0],
                lambda: compare(outputs(model, batches[:1]), wanted[:1])[0],
            )
        else:
            for layer in chosen:
                layer.quantize()
        # Their other packed forms, which nothing uses any more.
        drop_packed(layer.module.weight for layer in chosen if layer.name not in sensitive)
        total = compare(outputs(model, batches), wanted) if batches else (None, None)
    reasons = {name: f"error budget ({100 * e:.2g} % alone)" for name, e in sensitive.items()}
    reasons.update(dict.fromkeys(asked, "asked for"))
    how = observer if activations == "static" else ""
    return report_of(
        model, rows, reasons, QuantizationReport((), activations, how, taker, note, *total)
    )


def report_of(
    model: nn.Module,
    rows: dict[str, QuantizedLayer],
    reasons: dict[str, str],
    report: QuantizationReport,
) -> QuantizationReport:
    """``report`` with all layers of the model that have a weight: ``rows``, or why not in int8."""
    layers = []
    for name, module in model.named_modules():
        weight = module._parameters.get("weight")
        if weight is None or weight.dim() < 2:
            continue
        if name in rows and name not in reasons:
            layers.append(rows[name])
        else:
            reason = reasons.get(name, "not in a patched block")
            layers.append(QuantizedLayer(name, tuple(weight.shape), "kept", reason))
    return replace(report, layers=tuple(layers))


def check_model(model: Any) -> None:
    """``model`` is a module that has no int8 products yet.

    Raises:
        TypeError: no module.
        CannotQuantize: it has some.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    already = quantized_layers(model)
    if already:
        raise CannotQuantize(
            f"the model is quantized already ({len(already)} layers, the first is"
            f" {next(iter(already)) or 'itself'}): call vitkern.dequantize(model) first"
        )


def _check(
    calibration: Any,
    activations: Any,
    observer: Any,
    percentile: Any,
    error_budget: Any,
) -> None:
    """Arguments that need no model."""
    for name, value, values in (
        ("activations", activations, ACTIVATIONS),
        ("observer", observer, OBSERVERS),
    ):
        if value not in values:
            raise ValueError(f"{name} must be one of {', '.join(values)}, got {value!r}")
    for name, value, low, high in (
        ("percentile", percentile, 50.0, 100.0),
        ("error_budget", error_budget, 0.0, math.inf),
    ):
        if value is None and name == "error_budget":
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name} must be a number, got {type(value).__name__}")
        if not low < value <= high or math.isinf(value):
            raise ValueError(f"{name} must be above {low:g} and at most {high:g}, got {value}")
    if calibration is None and activations == "static":
        raise ValueError(
            "activations='static' needs calibration data; activations='dynamic' needs none"
        )
    if calibration is None and error_budget is not None:
        raise ValueError("error_budget needs calibration data to measure the error on")


def backend_of(layers: list[Layer]) -> tuple[str, str]:
    """The backends that compute these layers' products in int8, and what to know about them.

    Raises:
        CannotQuantize: a backend that was asked for by name refuses one.
    """
    backends = OPERATORS["linear"].backends
    takers: dict[str, None] = {}
    refusals: dict[str, str] = {}
    for layer in layers:
        call = probe.linear(layer.module)._replace(weight=Int8Weight(layer.module.weight))
        for name in backends if layer.backend is None else [layer.backend]:
            reasons = backends[name].supports(call) if name in backends else ["has no such op"]
            if not reasons:
                takers[name] = None
                break
            refusals[name] = "; ".join(reasons)
            if layer.backend is not None:
                raise CannotQuantize(
                    f"backend {name!r} does not take {layer.name} in int8: {refusals[name]}"
                )
    note = ""
    if "eager" in takers and refusals:
        why = " | ".join(f"{name}: {reasons}" for name, reasons in refusals.items())
        note = f"no kernel takes int8 here, so plain PyTorch computes it, no faster ({why})"
    return " + ".join(takers), note


def _patch(model: nn.Module, layers: list[Layer], backend: str | None) -> None:
    """Patches the model as if its layers were in int8, for that is what backends are to take."""
    for layer in layers:
        layer.prepare(Int8Weight(layer.module.weight))
        layer.quantize()
    patch(model, backend=backend)
    for layer in layers:
        layer.restore()


def _ranges(
    model: nn.Module,
    layers: list[Layer],
    batches: list[torch.Tensor],
    observer: str,
    percentile: float,
) -> dict[str, Range]:
    """The range of each layer's input.

    Raises:
        CannotQuantize: a layer that was not reached, or whose input is not finite.
    """
    modules = {layer.name: layer.module for layer in layers}
    ranges = observe(lambda: outputs(model, batches), modules, observer, percentile)
    unseen = [name for name in modules if name not in ranges]
    if unseen:
        raise CannotQuantize(
            f"the calibration data does not reach {', '.join(unseen)}: keep them, or use"
            " activations='dynamic'"
        )
    for name, ends in ranges.items():
        if not all(map(math.isfinite, ends)):
            raise CannotQuantize(f"{name} gets NaN or infinite inputs from the calibration data")
    return ranges
