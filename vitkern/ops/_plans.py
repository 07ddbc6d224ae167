"""Launches of a call, written down once and then repeated.

What an operator launches, on which grids and with which numbers, follows from the shapes, strides,
dtypes and alignments of its arguments. On a GPU, deciding it in Python takes longer than most
kernels run. So the second call of a kind is written down, and later ones only fill in addresses.

A call is repeated only where all that it did is known: launches of kernels, memory allocated for
them and for its results, and functions of PyTorch that allocate what they give. Whatever else it
calls makes its kind one that is decided anew each time. (Numbers that Python reads out of a tensor
on the CPU, as ``tolist`` does, nobody sees: ops read none.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch

from vitkern.dispatch.measured import STORE, measures_forms
from vitkern.ops._recorder import Recorder, Result, recorder

Outputs = tuple[torch.Tensor, ...]

MOST = 4096
"""Kinds of calls that an operator keeps; then it forgets all."""

_Parameter = torch.nn.Parameter
_PLAIN = frozenset((type(None), bool, int, float, str))


class Plan:
    """What a kind of call does.

    Args:
        positions: of the tensors among the arguments.
        recorded: the call.
        results: where its results are, and sizes and strides.
        single: whether it gives one tensor and not a tuple.
    """

    def __init__(
        self,
        positions: tuple[int, ...],
        recorded: Recorder,
        results: Sequence[Result],
        single: bool,
    ) -> None:
        self._positions, self._steps = positions, tuple(recorded.steps)
        wanted = {index for index, _ in results}
        # None: a step gives it, or nothing is in it and nobody gets it.
        self._scratch = [
            (one.size(), one.stride(), one.dtype)
            if (one.numel() or i in wanted) and i not in recorded.computed
            else None
            for i, one in enumerate(recorded.scratch, len(positions))
        ]
        self._results, self._single = tuple(results), single
        # Replaced where other backends or forms of kernels are chosen from now on.
        self._overrides, self._variants = STORE.overrides, STORE.variants
        self._measured = measures_forms()
        self._settings = tuple(recorded.settings)

    @property
    def holds(self) -> bool:
        """Whether it does what would be decided now: for calls that are measured, if it was too."""
        return (
            self._variants is STORE.variants
            and self._overrides is STORE.overrides
            and (self._measured or not measures_forms())
            and all(setting() == value for setting, value in self._settings)
        )

    def __call__(self, arguments: tuple[Any, ...]) -> torch.Tensor | Outputs:
        """Repeat it."""
        bases = [arguments[i] for i in self._positions]
        first = bases[0]
        device = first.device
        for one in self._scratch:
            if one is None:
                bases.append(first)
            else:
                bases.append(torch.empty_strided(one[0], one[1], dtype=one[2], device=device))
        addresses = [one.data_ptr() for one in bases]
        if device.type != "cuda":
            for step in self._steps:
                step(bases, addresses, 0)
        else:
            index = device.index
            here = torch._C._cuda_getDevice() == index
            with nullcontext() if here else torch.cuda.device(device):
                stream = torch._C._cuda_getCurrentRawStream(index)
                for step in self._steps:
                    step(bases, addresses, stream)
        if self._single:
            return _result(bases, self._results[0])
        return tuple(_result(bases, one) for one in self._results)


def _result(bases: Sequence[torch.Tensor], which: Result) -> torch.Tensor:
    index, view = which
    base = bases[index]
    if view is None:
        return base
    size, stride, offset = view
    return base.as_strided(size, stride, base.storage_offset() + offset)


class _Met:
    """What is known of a kind of call that has no plan yet."""


_NEW, _CALLED, _MEASURED = _Met(), _Met(), _Met()


class Kinds(dict[Any, "Plan | _Met | None"]):
    """Kinds of calls that were met, and their plans; None: it cannot be repeated."""

    def plan(self, key: Any) -> Plan | None:
        """The plan for that kind, if there is one that holds."""
        found = self.get(key)
        return found if found.__class__ is Plan and found.holds else None

    def run(self, key: Any, decide: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """What the call gives: repeated, or decided, and written down if it was met before."""
        plan = self.get(key, _NEW)
        if plan.__class__ is Plan and plan.holds:
            return plan(arguments)
        if plan is None:
            return decide(*arguments)
        if plan is _MEASURED or (plan is _CALLED and not measures_forms()):
            result, self[key] = record(decide, arguments)
            return result
        if len(self) >= MOST:
            self.clear()
        # Not written down yet: it may compile, and measure forms of kernels.
        result = decide(*arguments)
        self[key] = _MEASURED if measures_forms() else _CALLED
        return result


class Planned:
    """Work that is decided at first, then repeated.

    Args:
        decide: ``decide(*arguments)`` allocates outputs and computes them: a tensor, or a tuple of
            several.
        recording: whether launches are only written down now, for another device.
        settings: what launches follow from beside the arguments; hashable. None: nothing.

    Attributes:
        decide: as given.
        kinds: of calls that were met.
    """

    def __init__(
        self,
        decide: Callable[..., torch.Tensor | Outputs],
        recording: Callable[[], Any],
        settings: Callable[[], Any] | None = None,
    ) -> None:
        self.decide, self.kinds = decide, Kinds()
        self._recording, self._settings = recording, settings

    def __call__(self, *arguments: Any) -> torch.Tensor | Outputs:
        """Outputs of the operator."""
        return self.run(kind_of(arguments), arguments)

    def run(self, kind: tuple[Any, ...] | None, arguments: tuple[Any, ...]) -> Any:
        """The same, where ``kind_of`` the arguments is known already."""
        writing = recorder()
        if writing is not None:  # this is a part of what is written down
            if self._settings is not None:
                writing.depends(self._settings)
            return self.decide(*arguments)
        if kind is None or self._recording():
            return self.decide(*arguments)
        key = (kind, None) if self._settings is None else (kind, self._settings())
        return self.kinds.run(key, self.decide, arguments)


def record(
    decide: Callable[..., torch.Tensor | Outputs], arguments: tuple[Any, ...]
) -> tuple[torch.Tensor | Outputs, Plan | None]:
    """What a call gives, and its plan; None where it cannot be repeated."""
    positions = tuple(i for i, one in enumerate(arguments) if isinstance(one, torch.Tensor))
    recorded = Recorder([arguments[i] for i in positions])
    with recorded.writing():
        result = decide(*arguments)
    outputs = (result,) if isinstance(result, torch.Tensor) else result
    results = [recorded.result(one) for one in outputs]
    if recorded.reason is not None:
        return result, None
    known = [one for one in results if one is not None]
    return result, Plan(positions, recorded, known, outputs is not result)


def kind_of(arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """All that launches follow from; None where it is not known, or memory is given twice.

    The first argument is a tensor; others are on its device.
    """
    kind: list[Any] = []
    addresses = []
    single = False
    device = arguments[0].device
    if device.type == "meta":
        return None
    try:
        for value in arguments:
            cls = value.__class__
            if cls is torch.Tensor or cls is _Parameter:
                address, dtype = value.data_ptr(), value.dtype
                # Not what is in its memory: minus that, or zeros that have none.
                if value.is_neg() or not (address or value.numel() == 0):
                    return None
                kind.append((value.shape, value.stride(), dtype, address & 15))
                if address:
                    addresses.append(address)
                single = single or dtype is torch.float32
            elif cls in _PLAIN:
                kind.append(value)
            elif cls is tuple or cls is list:
                kind.append(tuple(value))
            else:
                return None
    except RuntimeError:  # sparse or nested: no address, or no strides
        return None
    if len(set(addresses)) < len(addresses):
        return None
    kind.append(device)
    if single:
        kind.append(torch.backends.cuda.matmul.fp32_precision)
    return tuple(kind)
