"""``patch``, ``unpatch`` and ``patched``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from vitkern.dispatch import OPERATORS, Operator, check_backend_name
from vitkern.ops._cpu import drop_packed
from vitkern.patching.adapter import Adapter, Call, Match
from vitkern.patching.classes import plain_class, title
from vitkern.patching.registry import by_class
from vitkern.patching.report import NOTHING, PatchedModule, PatchReport, SkippedModule
from vitkern.patching.swap import Swap, swap_of

# Ops whose reference is just what a module does anyway: beside another op on a real backend they
# may run on `eager` without any harm.
_HARMLESS = ("layer_norm", "linear")


class CannotPatch(RuntimeError):
    """``patch`` would have skipped modules where it must not; ``skipped`` lists them."""

    def __init__(self, skipped: tuple[SkippedModule, ...]) -> None:
        self.skipped = skipped
        lines = [f"{len(skipped)} modules cannot be patched (the model is unchanged):"]
        lines += [f"  {s.name or '(the model)'}: {s.why()}" for s in skipped]
        super().__init__("\n".join(lines) if skipped else NOTHING)


def patch(model: nn.Module, *, backend: str | None = None, strict: bool = False) -> PatchReport:
    """Runs the modules of ``model`` that vitkern knows on vitkern's ops, in place.

    Only these instances change: they get a ``forward`` of their own. Parameters, buffers, the state
    dict, hooks, modes and types stay; ``unpatch`` restores everything. See :mod:`vitkern.patching`
    for what keeps working and how.

    A module is patched where a backend takes its ops in the dtype and on the device of its
    parameters. A LayerNorm or Linear that is not part of something larger gains nothing; it is
    patched only where a backend is asked for by name. ``model`` may be any part of a larger model.
    Calling it again with the same options changes nothing and returns an equal report; with others
    it patches anew. Nothing is changed where an error is raised.

    Args:
        model: the model, or any module of it.
        backend: the backend that every op of every patched module must run on, at every call, or
            None: each call chooses, and modules that only ``eager`` could run are skipped.
            Modules that are not as an adapter knows them are skipped in either case.
        strict: raise instead of skipping, and where there is nothing to patch.

    Returns:
        What was patched, and what was skipped and why.

    Raises:
        TypeError: ``model`` is not a module, or ``backend`` not a string or None.
        UnknownBackend: no op has a backend of that name (a ValueError).
        CannotPatch: lists all modules with all reasons. ``strict``, and some module would be
            skipped or none patched; or the backend asked for by name refuses some module.
    """
    check_backend_name(backend)
    _check_module(model)
    plan = _plan(model, backend)
    report = PatchReport(
        tuple(step.entry for step in plan if isinstance(step.entry, PatchedModule)),
        tuple(step.entry for step in plan if isinstance(step.entry, SkippedModule)),
        *_rest(model, plan),
    )
    refused = backend is not None and any(
        isinstance(step.entry, SkippedModule) and not step.match.reasons for step in plan
    )
    if refused or (strict and (report.skipped or not report.patched)):
        raise CannotPatch(report.skipped)
    wanted = {id(step.module): step for step in plan if isinstance(step.entry, PatchedModule)}
    for module in model.modules():
        step = wanted.get(id(module))
        if step is None:
            _restore(module)
        else:
            units = tuple(name for name in step.match.units if id(module._modules[name]) in wanted)
            if not step.is_done(units):
                swap = Swap(module, step.adapter, backend, step.entry.name, units)
                module.__dict__["forward"] = swap
    return report


def unpatch(model: nn.Module) -> None:
    """Gives every patched module of ``model`` the forward of its class back.

    Instances are then exactly as they were before ``patch``, and the packed forms of their weights
    are freed. Does nothing to modules that are not patched. ``model`` may be a part of the model
    that was patched: only that part is restored, and modules above it that bypassed it call it
    again.

    Raises:
        TypeError: ``model`` is not a module.
    """
    _check_module(model)
    for module in model.modules():
        if swap_of(module) is not None:
            drop_packed(module.parameters())
            _restore(module)


@contextmanager
def patched(
    model: nn.Module, *, backend: str | None = None, strict: bool = False
) -> Iterator[PatchReport]:
    """``patch`` for a block of code; afterwards every module is as it was before it.

    A model that was patched already is patched as before at the end. Arguments and errors are
    those of :func:`patch`.
    """
    _check_module(model)
    before = [(module, module.__dict__.get("forward")) for module in model.modules()]
    report = patch(model, backend=backend, strict=strict)
    try:
        yield report
    finally:
        unpatch(model)  # also what joined the model in the block
        for module, forward in before:
            _restore(module)
            if type(forward) is Swap:
                module.__dict__["forward"] = forward


def _rest(model: nn.Module, plan: list[_Step]) -> tuple[tuple[tuple[str, int], ...], float]:
    """Classes of modules with parameters that are in no entry, how many of each; and the share of
    all parameters that patched modules have."""
    inside: dict[type, set[int]] = {PatchedModule: set(), SkippedModule: set()}
    for step in plan:
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


def _check_module(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")


def _restore(module: nn.Module) -> None:
    if swap_of(module) is not None:
        del module.__dict__["forward"]


@dataclass
class _Step:
    """What is to happen to one module."""

    module: nn.Module
    adapter: Adapter
    match: Match
    backend: str | None
    entry: PatchedModule | SkippedModule

    def is_done(self, units: tuple[str, ...]) -> bool:
        """Whether the module is patched in this way already."""
        swap = swap_of(self.module)
        return (
            swap is not None
            and swap.owner() is self.module  # not so in a shallow copy
            and swap.adapter is self.adapter
            and swap.backend == self.backend
            and swap.units == units
        )


def _plan(model: nn.Module, backend: str | None) -> list[_Step]:
    """Decides about every module that an adapter knows, in the order of ``named_modules``."""
    known = by_class()
    covered: set[int] = set()  # computed by the swap of a module above
    implied: set[int] = set()  # would be, but no backend takes that module: said once, there
    steps = []
    for name, module in model.named_modules():
        if id(module) in covered:
            continue
        adapter, match = _look(known, module)
        if adapter is None or (backend is None and adapter.only_if_asked):
            continue
        entry = _entry(name, adapter, match, backend)
        if isinstance(entry, SkippedModule) and id(module) in implied:
            continue
        steps.append(_Step(module, adapter, match, backend, entry))
        if isinstance(entry, PatchedModule):
            _mark(module, match.units, covered)
        elif not match.reasons:
            _mark(module, match.units, implied)
    return steps


def _look(known: dict[type, Adapter], module: nn.Module) -> tuple[Adapter | None, Match]:
    """The adapter that knows the module, or a class that it derives from, and what it says."""
    adapter = known.get(plain_class(module))
    if adapter is None:
        base = next((cls for cls in type(module).__mro__ if cls in known), None)
        if base is None:
            return None, Match()
        return known[base], Match([_subclass_reason(module, base)])
    if "forward" in module.__dict__ and swap_of(module) is None:
        return adapter, Match(["its forward was replaced on the instance"])
    return adapter, adapter.match(module)


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
    name: str, adapter: Adapter, match: Match, backend: str | None
) -> PatchedModule | SkippedModule:
    """What the report says: asks the backends about the match's representative calls."""
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
    for operator, call in zip(operators, match.calls, strict=True):
        refused = _refusals(operator, call, candidates)
        for candidate, reasons in refused.items():
            for reason in reasons:
                refusals[candidate].setdefault(reason, []).append(operator.name)
        taker = next((candidate for candidate in candidates if not refused[candidate]), None)
        chosen.append(taker or "eager")
        harmful |= taker is None and (backend is not None or operator.name not in _HARMLESS)
    gains = backend is not None or any(name != "eager" for name in chosen)
    if harmful or not gains:
        return SkippedModule(
            name,
            op,
            {key: _worded(reasons, operators) for key, reasons in refusals.items() if reasons}
            or {"eager": ["computes what the module does already"]},
        )
    return PatchedModule(name, op, " + ".join(dict.fromkeys(chosen)), match.note)


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
    names = dict.fromkeys(name for operator in operators for name in operator.backends)
    return [name for name in names if name != "eager"]


def _refusals(operator: Operator[Any], call: Call, candidates: list[str]) -> dict[str, list[str]]:
    """Why each candidate would not compute ``call``."""
    return {
        name: operator.backends[name].supports(call)
        if name in operator.backends
        else ["has no such op"]
        for name in candidates
    }
