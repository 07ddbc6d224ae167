"""The weights of a module's products: parameters, or the other forms that they are taken in."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from vitkern.ops import _cpu
from vitkern.ops._cpu import Weight
from vitkern.ops.weights import Bfloat16Weight, ConvertedWeight, Int8Weight
from vitkern.patching.parts import is_plain
from vitkern.patching.swap import swap_of

BFLOAT16_NOTE = "bfloat16 for inference only"


def weights(layers: tuple[Any, ...], x: torch.Tensor, *others: torch.Tensor | None) -> list[Weight]:
    """What an op on ``x`` takes as the weights of ``layers``, which are Linears.

    Forms are for inference. Where a gradient of ``x``, of ``others`` (whatever else the op takes)
    or of the layers is wanted, weights in bfloat16 are taken as they are.

    Raises:
        RuntimeError: a gradient is wanted, and a layer is int8.
    """
    found: list[Weight] = []
    for layer in layers:
        weight: Weight = layer._parameters["weight"]
        swap = swap_of(layer)
        if swap is not None and swap.form is not None:
            if not _differentiates(layers, x, *others):
                weight = swap.converted(layer._parameters["weight"])
            elif type(swap.form) is Int8Weight:
                raise RuntimeError(
                    f"{swap.name or 'the layer'} is int8, which has no gradient: run the model"
                    " under torch.inference_mode() or torch.no_grad(), or make it float again by"
                    " vitkern.dequantize(model)"
                )
        found.append(weight)
    return found


def _differentiates(layers: tuple[Any, ...], *tensors: torch.Tensor | None) -> bool:
    """Whether a gradient is wanted."""
    if not torch.is_grad_enabled():
        return False
    if any(tensor is not None and tensor.requires_grad for tensor in tensors):
        return True
    return any(
        parameter is not None and parameter.requires_grad
        for layer in layers
        for parameter in layer._parameters.values()
    )


def form_of(module: nn.Module) -> ConvertedWeight | None:
    """The form of a Linear's weight, if it has one."""
    swap = swap_of(module)
    return None if swap is None else swap.form


def layers_of(module: nn.Module, name: str = "") -> list[tuple[str, nn.Linear]]:
    """The Linears below a patched module, by their names in the model: its products.

    ``module`` itself is none of them: a Linear that is patched alone keeps its dtype. There are
    none where the module's adapter has no forms.
    """
    swap = swap_of(module)
    if swap is not None and not swap.adapter.forms:
        return []
    return [
        (f"{name}.{key}" if name else key, child)
        for key, child in module.named_modules()
        if key and type(child) is nn.Linear and is_plain(child._parameters.get("weight"))
    ]


def alike(one: ConvertedWeight | None, other: ConvertedWeight | None) -> bool:
    """Whether two forms are the same, whatever weights they are of."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Int8Weight) and isinstance(other, Int8Weight):
        return (one.low, one.high, one.paired) == (other.low, other.high, other.paired)
    return True


class Wanted:
    """The forms that ``patch`` is to give: bfloat16 where asked for, and the int8 that there is.

    Args:
        dtype: ``patch``'s argument, checked.
    """

    def __init__(self, dtype: torch.dtype | None) -> None:
        self.dtype = dtype

    def stack(self, name: str, layer: nn.Linear) -> tuple[ConvertedWeight | None, ...]:
        """The form of a layer, and what it is above: what stays when an int8 form is removed.

        Raises:
            ValueError: a weight that is not to be had in bfloat16.
        """
        under: ConvertedWeight | None = None
        dtype = layer.weight.dtype
        if self.dtype is not None and dtype is not self.dtype:
            if dtype is not torch.float32:
                raise ValueError(
                    f"dtype={self.dtype} takes weights in torch.float32, got {name}.weight in"
                    f" {dtype}"
                )
            under = Bfloat16Weight(layer.weight)
        present = form_of(layer)
        if isinstance(present, Int8Weight):
            return present, under
        return under, None


def check_dtype(dtype: Any) -> None:
    """``dtype`` is one that products can be in.

    Raises:
        TypeError: neither a dtype nor None.
        ValueError: another dtype.
    """
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype must be torch.bfloat16 or None, got {dtype!r}")
    if dtype not in (None, torch.bfloat16):
        raise ValueError(f"dtype must be torch.bfloat16 or None, got {dtype}")


def note(forms: list[ConvertedWeight | None]) -> str:
    """What a report says of a module with such products."""
    notes = []
    count = sum(isinstance(form, Int8Weight) for form in forms)
    if count:
        notes.append("int8" if count == len(forms) else f"int8 in {count} of {len(forms)} products")
    if any(isinstance(form, Bfloat16Weight) for form in forms):
        slow = not _cpu.multiplies_bfloat16()
        notes.append(BFLOAT16_NOTE + ", no faster here: no instruction for it" * slow)
    return "; ".join(notes)
