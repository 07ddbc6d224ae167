"""Patches a model, with its products in float32, bfloat16 or int8."""

from __future__ import annotations

import torch
from torch import nn

from vitkern.bench import calibration
from vitkern.patching import PatchReport, patch
from vitkern.quantization import quantize

__all__ = ["FormUnavailable", "prepare"]


class FormUnavailable(RuntimeError):
    """No kernel here computes products in that form, and eager PyTorch would be timed instead."""


def prepare(model: nn.Module, images: torch.Tensor, form: str | None = None) -> PatchReport:
    """Patch ``model`` in place, as :func:`vitkern.patch` and :func:`vitkern.quantize` come.

    Args:
        model: in float32 where there is a form.
        images: what it will run on; int8 is calibrated on others of the same kind.
        form: ``"bfloat16"``, ``"int8"``, or None for that of the parameters.

    Raises:
        FormUnavailable: see there.
        CannotQuantize: the model has nothing to quantize.
    """
    report = patch(model, dtype=torch.bfloat16 if form == "bfloat16" else None)
    if form == "int8":
        quantized = quantize(model, calibration.batches(images))
        if "eager" in quantized.backend:
            raise FormUnavailable(f"int8: {quantized.note}")
    return report
