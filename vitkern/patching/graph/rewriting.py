"""Puts the candidates of the patterns into a graph, where they are right and an op takes them.

A candidate is right where

* nobody else uses what its inner nodes compute,
* inputs of the graph that it has read the values of keep them (which is checked on each call),
* nothing is changed in place, and no mode (autocast, gradients) changes, between its first and its
  last node: its inputs are read at the last one,
* a trial on the graph's fake tensors, in the modes that are on there, gives the same shapes and
  dtypes as the nodes did, on a backend that is not ``eager`` (unless that was asked for).

Where the op's result lies otherwise in memory than the nodes' did, and what follows could notice,
it is copied to lie as theirs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from types import ModuleType
from typing import Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

from vitkern.dispatch import UnsupportedInput, use_backend
from vitkern.dispatch.operator import OPERATORS
from vitkern.patching.graph.candidate import Candidate, Unsuitable
from vitkern.patching.graph.modes import Modes
from vitkern.patching.graph.patterns import PATTERNS
from vitkern.patching.graph.reading import (
    Reading,
    module_path,
    nesting,
    nodes_in,
    read,
    source_line,
    switches,
    value,
    writes,
    written,
)
from vitkern.patching.graph.report import Left, Replaced

_CALL = "vitkern_call"  # marks calls of ops in a node's meta


class Rewriter:
    """One captured graph, rewritten in place.

    Args:
        module: as Dynamo captured it: functions and methods of PyTorch, with example values.
        backend: that all ops run on; None chooses automatically.
    """

    def __init__(self, module: fx.GraphModule, backend: str | None) -> None:
        self.module, self.backend = module, backend
        self.graph = module.graph
        self._replaced: list[tuple[float, Replaced]] = []
        self._left: list[tuple[float, Left]] = []
        self._position = {node: float(i) for i, node in enumerate(self.graph.nodes)}
        self._barriers = [node for node in self.graph.nodes if writes(node) or switches(node)]
        self._gone: set[fx.Node] = set()
        self.assumed: dict[fx.Node, torch.Tensor] = {}
        # That of the example values: Dynamo gives backends a new one for what they trace.
        values = (value(node) for node in self.graph.nodes)
        self._fake_mode = next(
            (one.fake_mode for one in values if isinstance(one, FakeTensor)), nullcontext()
        )

    def run(self) -> None:
        """Rewrite the graph, and write down what was done."""
        for pattern in PATTERNS:
            transforms = 0  # of torch.func, which have no rules for the ops
            with Modes() as modes:
                for node in list(self.graph.nodes):
                    if node in self._gone:
                        continue
                    modes.follow(node)
                    transforms += nesting(node)
                    reading = read(node)
                    if reading is None or not self._starts(pattern, node, reading):
                        continue
                    if transforms:
                        self._leave(pattern, node, ["is in a transform of torch.func"])
                    else:
                        self._try(pattern, node)
        self.graph.lint()
        self.module.recompile()

    @property
    def replaced(self) -> tuple[Replaced, ...]:
        """What became ops, in the order of the graph."""
        return tuple(one for _, one in sorted(self._replaced, key=lambda pair: pair[0]))

    @property
    def left(self) -> tuple[Left, ...]:
        """What did not, in the order of the graph."""
        return tuple(one for _, one in sorted(self._left, key=lambda pair: pair[0]))

    def _try(self, pattern: ModuleType, node: fx.Node) -> None:
        """Takes the first candidate that is right."""
        reasons: list[str] = []
        candidates = self._candidates(pattern, node)
        while True:
            try:
                candidate = next(candidates, None)
            except Unsuitable as why:  # finds none, and ends
                candidate = None
                _add(reasons, str(why))
            except Exception as error:  # PyTorch computes it as before
                candidate = None
                _add(reasons, _failed(error))
            if candidate is None:
                break
            try:
                self._take(candidate, reasons)
                return
            except Unsuitable as why:
                _add(reasons, str(why))
        if reasons:
            self._leave(pattern, node, reasons)

    def _starts(self, pattern: ModuleType, node: fx.Node, reading: Reading) -> bool:
        """Whether a pattern starts at a node; one that fails does not, and is reported."""
        try:
            return bool(pattern.starts(reading))
        except Exception as error:
            self._leave(pattern, node, [_failed(error)])
            return False

    def _leave(self, pattern: ModuleType, node: fx.Node, reasons: list[str]) -> None:
        left = Left(pattern.OP, module_path(node), source_line(node), "; ".join(reasons))
        self._left.append((self._position[node], left))

    def _candidates(self, pattern: ModuleType, node: fx.Node) -> Iterator[Candidate]:
        # A generator, so that nothing of the pattern runs before the first candidate is asked for.
        yield from pattern.propose(node, read(node), self.backend)

    def _take(self, candidate: Candidate, notes: list[str]) -> None:
        """Replaces a candidate's nodes.

        Raises:
            Unsuitable: it is not right.
        """
        unread = _unread(candidate)
        at = self._check(candidate, unread)
        results, backend = self._trial(candidate)
        with self.graph.inserting_before(at):
            call = self.graph.call_function(candidate.call, candidate.args, candidate.kwargs)
            call.meta[_CALL] = True
            outputs = [call]
            if len(candidate.results) > 1:
                outputs = [self.graph.call_function(_item, (call, i)) for i in range(len(results))]
            made = [call, *(one for one in outputs if one is not call)]
            for i, (old, result) in enumerate(zip(candidate.results, results, strict=True)):
                order = _order_to_restore(old, result)
                if order is not None:
                    outputs[i] = self.graph.call_function(laid_out, (outputs[i], order))
                    made.append(outputs[i])
                    result = laid_out(result, order)
                outputs[i].meta["example_value"] = result
        for one in made:
            last = candidate.nodes[-1]
            kept = ("nn_module_stack", "stack_trace", "source_fn_stack")
            one.meta |= {key: last.meta[key] for key in kept if key in last.meta}
            self._position[one] = self._position[at]
        for old, new in zip(candidate.results, outputs, strict=True):
            old.replace_all_uses_with(new)
        gone = {*candidate.nodes, *unread}
        for old in sorted(gone, key=self._position.__getitem__, reverse=True):
            self.graph.erase_node(old)
            self._gone.add(old)
        self.assumed.update(candidate.assumed)
        replaced = Replaced(
            candidate.op,
            backend,
            _common([module_path(one) for one in candidate.nodes]),
            source_line(candidate.nodes[-1]),
            len(candidate.nodes),
            "; ".join(notes),
        )
        self._replaced.append((self._position[at], replaced))

    def _check(self, candidate: Candidate, unread: set[fx.Node]) -> fx.Node:
        """The node before which the call goes."""
        nodes, results = set(candidate.nodes), candidate.results
        gone = nodes | unread
        inner = nodes - set(results)
        for node in inner:
            if not gone.issuperset(node.users):
                raise Unsuitable(f"has an intermediate value, {node.name}, that is used elsewhere")
        for node in nodes:
            if writes(node):
                changed = written(node)
                if changed not in inner or len(changed.users) > 1:
                    raise Unsuitable(f"has a node, {node.name}, that changes its input in place")
        where = [self._position[node] for node in nodes]
        for barrier in self._barriers:
            if barrier in nodes or barrier in candidate.read or barrier in self._gone:
                continue
            if min(where) < self._position[barrier] < max(where):
                kind = "changes a mode" if switches(barrier) else "changes something in place"
                raise Unsuitable(f"has a node in between, {barrier.name}, that {kind}")
        at = min(results, key=self._position.__getitem__)
        for node in nodes_in(candidate.args, candidate.kwargs):
            if node in nodes:
                raise Unsuitable(f"has an input, {node.name}, that it computes itself")
            if self._position[node] >= self._position[at]:
                raise Unsuitable(f"has an input, {node.name}, that is computed later")
        return at

    def _trial(self, candidate: Candidate) -> tuple[list[torch.Tensor], str]:
        """The results on fake tensors, and the backend that gives them."""
        args, kwargs = fx.map_arg((candidate.args, candidate.kwargs), value)
        recorder = _Recorder()
        # PyTorch's C++ would take symbols for numbers in some operators (padding is one).
        with self._fake_mode, enable_python_dispatcher():
            try:
                with recorder:
                    found = candidate.call(*args, **kwargs)
                if recorder.backend(candidate.op) == "eager" and self.backend != "eager":
                    raise Unsuitable(f"is for no backend: {_refusals(candidate, args, kwargs)}")
            except Unsuitable:
                raise
            except UnsupportedInput as error:
                raise Unsuitable(_named(error.reasons)) from error
            except Exception as error:  # whatever it is, PyTorch computes it as before
                text = " ".join(str(error).split())
                raise Unsuitable(f"was refused: {type(error).__name__}: {text}") from error
        results = list(found) if len(candidate.results) > 1 else [found]
        for old, new in zip(candidate.results, results, strict=True):
            wanted = value(old)
            for what in ("shape", "dtype", "device"):
                if getattr(wanted, what) != getattr(new, what):
                    raise Unsuitable(
                        f"would have {what} {getattr(new, what)}, not {getattr(wanted, what)}"
                    )
        return results, recorder.backend(candidate.op)


class _Recorder(TorchDispatchMode):
    """Remembers which backend's operators ran."""

    def __init__(self) -> None:
        super().__init__()
        self._found: dict[str, str] = {}

    def backend(self, op: str) -> str:
        """Of the op, or of what it is computed by."""
        if op == "window_attention":  # with linear layers around it
            return self._found.get(op, "eager")
        return next(reversed(self._found.values()), "eager")

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        namespace = func.namespace
        if namespace.startswith("vitkern_"):
            name = func._schema.name.partition("::")[2]
            self._found.pop(name, None)
            self._found[name] = namespace.removeprefix("vitkern_")
        return func(*args, **(kwargs or {}))


def _unread(candidate: Candidate) -> set[fx.Node]:
    """Those of the nodes that were read which nobody needs once the candidate is there."""
    found = {node for node in candidate.read if node.op != "placeholder"} - {*candidate.nodes}
    while True:
        gone = found.union(candidate.nodes)
        kept = {
            node
            for node in found
            if not gone.issuperset(node.users) or (writes(node) and written(node) not in gone)
        }
        if not kept:
            return found
        found -= kept


def _refusals(candidate: Candidate, args: Any, kwargs: Any) -> str:
    """Why no backend but ``eager`` takes the call."""
    reasons: dict[str, list[str]] = {}
    for name, backend in OPERATORS[candidate.op].backends.items():
        if name == "eager" or not backend.automatic:
            continue
        try:
            with use_backend(name):
                candidate.call(*args, **kwargs)
        except UnsupportedInput as error:
            reasons |= error.reasons
    return _named(reasons) or "none is built"


def _named(reasons: dict[str, list[str]]) -> str:
    return " | ".join(f"{name}: {'; '.join(why)}" for name, why in reasons.items())


def _add(reasons: list[str], reason: str) -> None:
    if reason not in reasons:
        reasons.append(reason)


def _failed(error: Exception) -> str:
    """The reason where a pattern raises what it should not: a compilation goes on without it."""
    return f"could not be read: {type(error).__name__}: {' '.join(str(error).split())}"


def _item(values: tuple[Any, ...], index: int) -> Any:
    return values[index]


def laid_out(x: torch.Tensor, order: tuple[int, ...]) -> torch.Tensor:
    """``x`` with its dimensions in memory in the given order, outermost first."""
    back = sorted(range(len(order)), key=order.__getitem__)
    return x.permute(order).contiguous().permute(back)


# Nodes that take their input however it lies. Results of the first lie in a way of their own, those
# of the last as their input does.
_OF_THEIR_OWN = ("linear", "layer_norm")
_COPYING = ("reshape", "flatten", "contiguous", torch.reshape, torch.flatten, torch.cat)
# Those whose result may lie as their input does.
_PASSING = ("transpose", "permute", "add", "mul", "gelu", "relu", "silu", "dropout", "to")


def _order_to_restore(old: fx.Node, new: torch.Tensor) -> tuple[int, ...] | None:
    """How a result is to lie in memory so that nobody notices; None for as it does."""
    wanted = value(old)
    if wanted.stride() == new.stride() or not _noticed(old):
        return None
    strides = wanted.stride()
    return tuple(sorted(range(len(strides)), key=lambda i: strides[i], reverse=True))


def _noticed(node: fx.Node) -> bool:
    """Whether any node behind may do something else where the value lies otherwise."""
    waiting, seen = list(node.users), set(node.users)
    while waiting:
        user = waiting.pop()
        reading = read(user)
        if _CALL in user.meta or user.target in _COPYING:
            continue
        if reading is None or writes(user):
            return True
        if reading.name in _OF_THEIR_OWN:
            continue
        if reading.name not in _PASSING:
            return True
        waiting += user.users.keys() - seen
        seen |= user.users.keys()
    return False


def _common(paths: list[str]) -> str:
    """The innermost module that all are in."""
    parts = [path.split(".") for path in paths]
    common: list[str] = []
    for names in zip(*parts, strict=False):
        if len(set(names)) > 1:
            break
        common.append(names[0])
    return ".".join(common)


__all__ = ["Rewriter", "laid_out"]
