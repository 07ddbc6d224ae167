"""``patch``, ``unpatch`` and ``patched``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from vitkern.dispatch import check_backend_name
from vitkern.ops._cpu import drop_packed, release_pool
from vitkern.patching import forms
from vitkern.patching.adapter import Adapter
from vitkern.patching.classes import title
from vitkern.patching.plan import Product, Step, plan
from vitkern.patching.registry import adapters
from vitkern.patching.report import NOTHING, PatchedModule, PatchReport, SkippedModule
from vitkern.patching.swap import Swap, swap_of


class CannotPatch(RuntimeError):
    """``patch`` would have skipped modules where it must not; ``skipped`` lists them.

    The message has a line for those with the same reasons.
    """

    def __init__(self, skipped: tuple[SkippedModule, ...]) -> None:
        self.skipped = skipped
        names: dict[str, list[str]] = {}
        for module in skipped:
            names.setdefault(module.why(), []).append(module.name or "(the model)")
        lines = [f"{len(skipped)} modules cannot be patched (the model is unchanged):"]
        lines += [f"  {', '.join(those)}: {why}" for why, those in names.items()]
        super().__init__("\n".join(lines) if skipped else NOTHING)


def patch(
    model: nn.Module,
    *,
    dtype: torch.dtype | None = None,
    backend: str | None = None,
    strict: bool = False,
) -> PatchReport:
    """Runs the modules of ``model`` that vitkern knows on vitkern's ops, in place.

    Only these instances change: they get a ``forward`` of their own. Parameters, buffers, the state
    dict, hooks, modes and types stay; ``unpatch`` restores everything. See :mod:`vitkern.patching`
    for what keeps working and how.

    A module is patched where a backend takes its ops in the dtype and on the device of its
    parameters. A LayerNorm or Linear that is not part of something larger gains nothing; it is
    patched only where a backend is asked for by name. ``model`` may be any part of a larger model.
    Calling it again with the same options changes nothing and returns an equal report; with others
    it patches anew, where layers that :func:`vitkern.quantize` made int8 stay so. Nothing is
    changed where an error is raised.

    Args:
        model: the model, or any module of it.
        dtype: torch.bfloat16 rounds the operands of all matrix products with weights of a float32
            model to bfloat16, in patched blocks and their parts; sums, inputs, outputs, norms,
            softmax and the residual stream stay float32, as do patch embeddings, heads and
            parameters. For inference: where a gradient is wanted, products are computed in
            float32. None is the dtype of the parameters, as it is for a bfloat16 model.
        backend: the backend that every op of every patched module must run on, at every call, or
            None: each call chooses, and modules that only ``eager`` could run are skipped.
            Modules that are not as an adapter knows them are skipped in either case.
        strict: raise instead of skipping, and where there is nothing to patch.

    Returns:
        What was patched, and what was skipped and why.

    Raises:
        TypeError: ``model`` is not a module, ``backend`` not a string or None, or ``dtype`` not a
            dtype or None.
        ValueError: another dtype than bfloat16, or one for a model in float64 or float16.
        UnknownBackend: no op has a backend of that name (a ValueError).
        CannotPatch: lists all modules with all reasons. ``strict``, and some module would be
            skipped or none patched; or the backend asked for by name refuses some module.
    """
    check_backend_name(backend)
    check_module(model)
    forms.check_dtype(dtype)
    steps = plan(model, backend, dtype)
    report = PatchReport(
        tuple(step.entry for step in steps if isinstance(step.entry, PatchedModule)),
        tuple(step.entry for step in steps if isinstance(step.entry, SkippedModule)),
        *_rest(model, steps),
    )
    refused = backend is not None and any(
        isinstance(step.entry, SkippedModule) and not step.match.reasons for step in steps
    )
    if refused or (strict and (report.skipped or not report.patched)):
        raise CannotPatch(report.skipped)
    taken = [step for step in steps if isinstance(step.entry, PatchedModule)]
    wanted = {id(step.module): step for step in taken}
    products = {id(p.layer): p for step in taken for p in step.products if p.form is not None}
    for module in model.modules():
        step, product = wanted.get(id(module)), products.get(id(module))
        if step is not None:
            units = tuple(name for name in step.match.units if id(module._modules[name]) in wanted)
            _swap(module, step.adapter, backend, step.entry.name, units, None)
        elif product is not None:
            give_form(product, backend)
        else:
            _restore(module)
    return report


def give_form(product: Product, backend: str | None) -> None:
    """Has ops take a layer's weight in a form.

    The layer gets a forward of its own, too, for where its parent calls it: as with hooks on it.
    """
    adapter = adapters()["torch.Linear"]
    _swap(product.layer, adapter, backend, product.name, (), product)


def _swap(
    module: nn.Module,
    adapter: Adapter,
    backend: str | None,
    name: str,
    units: tuple[str, ...],
    product: Product | None,
) -> None:
    """Gives the module such a forward, unless it has it already."""
    form, under = (None, None) if product is None else (product.form, product.under)
    old = swap_of(module)
    if (
        old is None
        or old.owner() is not module  # in a shallow copy
        or old.adapter is not adapter
        or old.backend != backend
        or old.units != units
        or not forms.alike(old.form, form)
        or not forms.alike(old.under, under)
    ):
        module.__dict__["forward"] = Swap(module, adapter, backend, name, units, form, under)


def unpatch(model: nn.Module) -> None:
    """Gives every patched module of ``model`` the forward of its class back.

    Instances are then exactly as they were before ``patch``. The packed forms of their weights are
    freed, and the memory that is kept for outputs to come. Does nothing to modules that are not
    patched. ``model`` may be a part of the model that was patched: only that part is restored, and
    modules above it that bypassed it call it again.

    Raises:
        TypeError: ``model`` is not a module.
    """
    check_module(model)
    for module in model.modules():
        if swap_of(module) is not None:
            drop_packed(module.parameters())
            _restore(module)
    release_pool()


@contextmanager
def patched(
    model: nn.Module,
    *,
    dtype: torch.dtype | None = None,
    backend: str | None = None,
    strict: bool = False,
) -> Iterator[PatchReport]:
    """``patch`` for a block of code; afterwards every module is as it was before it.

    A model that was patched already is patched as before at the end. Arguments and errors are
    those of :func:`patch`.
    """
    check_module(model)
    before = [(module, module.__dict__.get("forward")) for module in model.modules()]
    report = patch(model, dtype=dtype, backend=backend, strict=strict)
    try:
        yield report
    finally:
        unpatch(model)  # also what joined the model in the block
        for module, forward in before:
            _restore(module)
            if type(forward) is Swap:
                module.__dict__["forward"] = forward


def _rest(model: nn.Module, steps: list[Step]) -> tuple[tuple[tuple[str, int], ...], float]:
    """Classes of modules with parameters that are in no entry, how many of each; and the share of
    all parameters that patched modules have."""
    inside: dict[type, set[int]] = {PatchedModule: set(), SkippedModule: set()}
    for step in steps:
        inside[type(step.entry)].update(id(below) for below in step.module.modules())
    total = patched = 0
    others: Counter[str] = Counter()
    seen: set[int] = set()
    for module in model.modules():
        own = [p for p in module._parameters.values() if p is not None and id(p) not in seen]
        seen.update(id(parameter) for parameter in own)
        size = sum(parameter.numel() for parameter in own)
        total += size
        if id(module) in inside[PatchedModule]:
            patched += size
        elif own and id(module) not in inside[SkippedModule]:
            others[title(type(module))] += 1
    return tuple(others.most_common()), patched / total if total else 0.0


def check_module(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")


def _restore(module: nn.Module) -> None:
    if swap_of(module) is not None:
        del module.__dict__["forward"]
