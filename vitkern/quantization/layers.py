"""The layers that can be quantized: the Linears below patched modules, and what they hold now."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from vitkern.ops._cpu import drop_packed
from vitkern.ops.weights import Int8Weight
from vitkern.patching import forms
from vitkern.patching.api import give_form
from vitkern.patching.plan import Product, plan
from vitkern.patching.report import PatchedModule
from vitkern.patching.swap import is_patched, swap_of


class CannotQuantize(RuntimeError):
    """A model that cannot be quantized as asked; it is unchanged."""


@dataclass
class Layer:
    """A Linear that can be quantized, and its two forwards: what it has, and the one in int8.

    Attributes:
        name: as in ``model.named_modules()``.
        module: the Linear.
        backend: that of the patched module around it.
    """

    name: str
    module: nn.Linear
    backend: str | None

    def __post_init__(self) -> None:
        self._before: Any = self.module.__dict__.get("forward")
        self._after: Any = None
        self.form: Int8Weight | None = None

    def prepare(self, form: Int8Weight) -> None:
        """Sets the int8 form that :meth:`quantize` gives."""
        self.form = form
        self.restore()
        under = forms.form_of(self.module)
        give_form(Product(self.name, self.module, form, under), self.backend)
        self._after = self.module.__dict__["forward"]
        self.restore()

    def quantize(self) -> None:
        """From now on products take the weight in int8."""
        self.module.__dict__["forward"] = self._after

    def restore(self) -> None:
        """From now on products take the weight as they did before."""
        if self._before is not None:
            self.module.__dict__["forward"] = self._before
        else:
            self.module.__dict__.pop("forward", None)


def candidates(model: nn.Module, backend: str | None) -> list[Layer]:
    """The Linears below modules that are patched, or, where none is, that would be.

    Raises:
        ValueError: the model is patched with another backend than the one asked for.
    """
    found: dict[int, Layer] = {}
    for name, module in model.named_modules():
        swap = swap_of(module)
        if swap is None or type(module) is nn.Linear:
            continue
        if backend is not None and swap.backend != backend:
            raise ValueError(
                f"backend is {backend!r}, but the model is patched with backend={swap.backend!r}:"
                " call vitkern.unpatch(model) first, or leave backend out"
            )
        for key, layer in forms.layers_of(module, name):
            found[id(layer)] = Layer(key, layer, swap.backend)
    if not is_patched(model):
        for step in plan(model, "eager"):
            if isinstance(step.entry, PatchedModule):
                for product in step.products:
                    found[id(product.layer)] = Layer(product.name, product.layer, backend)
    order = {id(module): index for index, module in enumerate(model.modules())}
    return sorted(found.values(), key=lambda layer: order[id(layer.module)])


def quantized_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """The layers in int8, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if type(module) is nn.Linear and isinstance(forms.form_of(module), Int8Weight)
    }


def check_weights(layers: list[Layer], *, values: bool = True) -> None:
    """All weights can be had in int8; ``values`` says whether theirs count.

    Raises:
        CannotQuantize: a dtype or values that cannot.
    """
    for layer in layers:
        weight = layer.module.weight
        if weight.dtype not in (torch.float32, torch.bfloat16):
            raise CannotQuantize(
                f"{layer.name}.weight is {weight.dtype}; int8 is made of float32 or bfloat16"
            )
        if weight.is_meta:
            raise CannotQuantize(f"{layer.name}.weight is on the meta device: it has no values")
        if values and not bool(weight.detach().isfinite().all()):
            raise CannotQuantize(f"{layer.name}.weight has NaN or infinite values")


def kept(model: nn.Module, layers: list[Layer], keep: Collection[str]) -> set[str]:
    """Names of the layers that ``keep`` matches: by name, by a module above them, or as a pattern.

    Raises:
        TypeError: not a list, tuple or set of strings.
        ValueError: a pattern that matches no module of the model.
    """
    # Nothing that can be read only once, nor a str, which is a collection of its letters.
    if not isinstance(keep, (list, tuple, set, frozenset)) or not all(
        isinstance(pattern, str) for pattern in keep
    ):
        raise TypeError(f"keep must be a list, tuple or set of names or patterns, got {keep!r}")
    keep = tuple(keep)
    names = [name for name, _ in model.named_modules() if name]
    for pattern in keep:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.5)
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            raise ValueError(f"keep has {pattern!r}, which matches no module of the model{hint}")
    return {
        layer.name
        for layer in layers
        for pattern in keep
        if fnmatchcase(layer.name, pattern) or fnmatchcase(layer.name, f"{pattern}.*")
    }


def dequantize(model: nn.Module) -> None:
    """Has the products of a quantized model take their weights as before ``quantize``.

    The model stays patched, with bfloat16 products where it had such. Does nothing to layers that
    are not in int8. ``model`` may be a part of the model that was quantized.

    Raises:
        TypeError: ``model`` is not a module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    for name, layer in quantized_layers(model).items():
        swap = swap_of(layer)
        assert swap is not None
        drop_packed(layer.parameters())
        if swap.under is None:
            del layer.__dict__["forward"]
        else:
            give_form(Product(swap.name or name, layer, swap.under, None), swap.backend)


@contextmanager
def unchanged_on_error(model: nn.Module) -> Iterator[None]:
    """Puts every module's forward back where the block raises."""
    before = [(module, module.__dict__.get("forward")) for module in model.modules()]
    try:
        yield
    except BaseException:
        for module, forward in before:
            if forward is not None:
                module.__dict__["forward"] = forward
            else:
                module.__dict__.pop("forward", None)
        raise
