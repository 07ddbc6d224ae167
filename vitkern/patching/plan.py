"""What is to happen to each module of a model, and what the report says of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from vitkern.dispatch import OPERATORS, Operator
from vitkern.ops.weights import ConvertedWeight, Int8Weight
from vitkern.patching import forms
from vitkern.patching.adapter import Adapter, Call, Match
from vitkern.patching.classes import plain_class, title
from vitkern.patching.products import of_library
from vitkern.patching.registry import by_class
from vitkern.patching.report import PatchedModule, SkippedModule
from vitkern.patching.swap import swap_of

# Ops whose reference is just what a module does anyway: beside another op on a real backend they
# may run on `eager` without any harm.
_HARMLESS = ("layer_norm", "linear")


@dataclass
class Step:
    """What is to happen to one module."""

    module: nn.Module
    adapter: Adapter
    match: Match
    backend: str | None
    entry: PatchedModule | SkippedModule
    products: list[Product] = field(default_factory=list)


@dataclass
class Product:
    """A Linear below a patched module, and the form that it is to have."""

    name: str
    layer: nn.Linear
    form: ConvertedWeight | None
    under: ConvertedWeight | None


def plan(model: nn.Module, backend: str | None, dtype: torch.dtype | None = None) -> list[Step]:
    """Decides about every module that an adapter knows, in the order of ``named_modules``.

    Raises:
        ValueError: a product of a module that would be patched is not to be had in ``dtype``.
    """
    wanted = forms.Wanted(dtype)
    known = by_class()
    covered: set[int] = set()  # computed by the swap of a module above
    implied: set[int] = set()  # would be, but no backend takes that module: said once, there
    routed: set[int] = set()  # below a transparent one, whose ops their products run on as it is
    steps = []
    for name, module in model.named_modules():
        if id(module) in covered:
            continue
        adapter, match = _look(known, module)
        if adapter is None or match.ignored or (backend is None and adapter.only_if_asked):
            continue
        if id(module) in routed and (adapter.transparent or adapter.only_if_asked):
            continue
        if match.calls_like:
            like = _parameter_around(model, name)
            match = replace(match, calls=[make(like) for make in match.calls_like])
        plain = not match.reasons and adapter.forms
        layers = forms.layers_of(module, name) if plain else []
        products = [Product(key, layer, *wanted.stack(key, layer)) for key, layer in layers]
        if not adapter.forms and dtype is not None and not match.reasons:
            notes = filter(None, ("keeps its dtype", match.note))
            match = replace(match, note="; ".join(notes))
        entry = _entry(name, adapter, match, backend, products)
        if isinstance(entry, SkippedModule) and id(module) in implied:
            continue
        steps.append(Step(module, adapter, match, backend, entry, products))
        if adapter.transparent:
            if isinstance(entry, PatchedModule) and "linear" in adapter.ops:
                routed.update(_routed_below(module))
        elif isinstance(entry, PatchedModule):
            _mark(module, match.units, covered)
        elif not match.reasons:
            _mark(module, match.units, implied)
    return steps


def _routed_below(module: nn.Module) -> Iterator[int]:
    """The module and its descendants, without those below others' classes: these may run them again
    in a backward pass, as checkpoint wrappers do, when the module's own forward is over."""
    yield id(module)
    for child in module.children():
        if of_library(child):
            yield from _routed_below(child)


def _look(known: dict[type, Adapter], module: nn.Module) -> tuple[Adapter | None, Match]:
    """The adapter that knows the module, or a class that it derives from, and what it says."""
    adapter = known.get(plain_class(module))
    if adapter is None:
        base = next((cls for cls in type(module).__mro__ if cls in known), None)
        if base is None or known[base].quiet:
            return None, Match()
        return known[base], Match([_subclass_reason(module, base)])
    if "forward" in module.__dict__ and swap_of(module) is None:
        if adapter.quiet:
            return None, Match()
        return adapter, Match(["its forward was replaced on the instance"])
    match = adapter.match(module)
    if match.reasons and match.otherwise is not None:
        other = match.otherwise.match(module)
        if not other.reasons:
            note = "; ".join(
                [f"not fused: {', '.join(match.reasons)}", *filter(None, [other.note])]
            )
            return match.otherwise, replace(other, note=note)
    return adapter, match


def _parameter_around(model: nn.Module, name: str) -> torch.Tensor:
    """A floating-point parameter of the nearest module around the one of that name."""
    while name:
        name = name.rpartition(".")[0]
        for one in model.get_submodule(name).parameters():
            if one.is_floating_point():
                return one
    return torch.empty(0)


def _subclass_reason(module: nn.Module, base: type) -> str:
    parametrized: Any = getattr(module, "parametrizations", None)
    if parametrized is not None:
        return f"its parameters are parametrized ({', '.join(parametrized)})"
    return f"is a {title(type(module))}: a subclass of {title(base)} may compute something else"


def _mark(module: nn.Module, units: tuple[str, ...], marked: set[int]) -> None:
    """Marks what a swap of ``module`` computes itself: all below it but its units."""
    for name, child in module._modules.items():
        if child is not None and name not in units:
            marked.update(id(descendant) for descendant in child.modules())


def _entry(
    name: str, adapter: Adapter, match: Match, backend: str | None, products: list[Product]
) -> PatchedModule | SkippedModule:
    """What the report says: asks the backends about the match's representative calls."""
    converted = {id(p.layer.weight): p.form for p in products if p.form is not None}
    # Whoever quantized layers wants them so, on whatever backend.
    asked = backend is not None or any(isinstance(p.form, Int8Weight) for p in products)
    operators = [_operator_of(call) for call in match.calls]
    op = " + ".join(dict.fromkeys(operator.name for operator in operators) or adapter.ops)
    candidates = [backend] if backend is not None else _real_backends(operators)
    if match.reasons:
        return SkippedModule(
            name, op, {candidate: list(match.reasons) for candidate in candidates or ["eager"]}
        )
    chosen = []
    harmful = False
    refusals: dict[str, dict[str, list[str]]] = {candidate: {} for candidate in candidates}
    for operator, plain_call in zip(operators, match.calls, strict=True):
        values: list[Any] = [converted.get(id(value), value) for value in plain_call]
        call = type(plain_call)(*values)
        refused = _refusals(operator, call, candidates)
        for candidate, reasons in refused.items():
            for reason in reasons:
                refusals[candidate].setdefault(reason, []).append(operator.name)
        taker = next((candidate for candidate in candidates if not refused[candidate]), None)
        chosen.append(taker or "eager")
        if backend is not None:
            harmful |= taker is None
        elif not asked:
            harmful |= taker is None and operator.name not in _HARMLESS
    gains = asked or any(name != "eager" for name in chosen)
    if harmful or not gains:
        return SkippedModule(
            name,
            op,
            {
                key: _worded(refusals[key], operators)
                for key in _nearest_first([key for key in candidates if refusals[key]], match.calls)
            }
            or {"eager": ["computes what the module does already"]},
        )
    note = "; ".join(filter(None, [match.note, forms.note([p.form for p in products])]))
    return PatchedModule(name, op, " + ".join(dict.fromkeys(chosen)), note)


def _nearest_first(backends: list[str], calls: list[Call]) -> list[str]:
    """In their order, but for those for other devices than that of the calls, which come last: what
    keeps ``cpu`` from a model on the CPU matters more than that ``cuda`` has no GPU."""
    tensors = (value for call in calls for value in call if isinstance(value, torch.Tensor))
    on_cpu = any(tensor.is_cpu for tensor in tensors)
    return sorted(backends, key=lambda name: (name == "cpu") != on_cpu)


def _worded(reasons: dict[str, list[str]], operators: list[Operator[Any]]) -> list[str]:
    """Reasons that say which ops they are about, unless it is all."""
    return [
        reason if len(names) == len(operators) else f"{', '.join(dict.fromkeys(names))}: {reason}"
        for reason, names in reasons.items()
    ]


def _operator_of(call: Call) -> Operator[Any]:
    return next(op for op in OPERATORS.values() if op.call_type is type(call))


def _real_backends(operators: list[Operator[Any]]) -> list[str]:
    """Backends that automatic choice may gain from, in its order."""
    operators = operators or list(OPERATORS.values())
    names = dict.fromkeys(
        name
        for operator in operators
        for name, backend in operator.backends.items()
        if backend.automatic
    )
    return [name for name in names if name != "eager"]


def _refusals(operator: Operator[Any], call: Call, candidates: list[str]) -> dict[str, list[str]]:
    """Why each candidate would not compute ``call``."""
    return {
        name: operator.backends[name].supports(call)
        if name in operator.backends
        else ["has no such op"]
        for name in candidates
    }
