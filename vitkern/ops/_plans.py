"""Launches of an operator, written down once and then repeated.

What an operator launches, on which grids and with which numbers, follows from the shapes, strides,
dtypes and alignments of its arguments. On a GPU, deciding it in Python takes longer than most
kernels run. So the second call of a kind is written down, and later ones only fill in addresses.

A call is repeated only where all that it did is known: launches of kernels, memory allocated for
them, and PyTorch's matrix products. Whatever else it calls makes its kind one that is decided anew
each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vitkern.dispatch.measured import STORE, measures_forms

Outputs = tuple[torch.Tensor, ...]

MOST = 4096
"""Kinds of calls that an operator keeps; then it forgets all."""

_Parameter = torch.nn.Parameter
_PLAIN = frozenset((type(None), bool, int, float))
_aten = torch.ops.aten
_ALLOCATIONS = frozenset((
    _aten.empty.memory_format, _aten.new_empty.default, _aten.empty_like.default,
    _aten.empty_strided.default,
))  # fmt: skip
_INTO: dict[Any, Callable[..., object]] = {
    _aten.mm.out: lambda out, a, b: torch.mm(a, b, out=out),
    _aten.addmm.out: lambda out, bias, a, b: torch.addmm(bias, a, b, out=out),
}

_RECORDER: ContextVar[Recorder | None] = ContextVar("vitkern_plan", default=None)


def recorder() -> Recorder | None:
    """What writes down the launches of this thread or task, if anything does."""
    return _RECORDER.get()


class Place:
    """Where an address is: so many bytes behind the start of one of the call's tensors."""

    __slots__ = ("base", "offset")

    def __init__(self, base: int, offset: int) -> None:
        self.base, self.offset = base, offset


class Step(Protocol):
    """Something that a plan repeats."""

    def __call__(
        self, bases: Sequence[torch.Tensor], addresses: Sequence[int], stream: int
    ) -> None:
        """Do it with these tensors, which are the call's, and their addresses."""


class Recorder(TorchDispatchMode):
    """Writes down what one call does.

    Args:
        bases: the call's tensors: arguments, then outputs.
    """

    def __init__(self, bases: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self._bases = list(bases)  # those that it allocates are added, and kept: so are addresses
        self._given = len(bases)
        self.steps: list[Step] = []
        self.reason: str | None = None
        self._paused = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is called in the block is part of a step, and not written down."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    @property
    def scratch(self) -> list[torch.Tensor]:
        """What the call allocated for itself."""
        return self._bases[self._given :]

    def refuse(self, reason: str) -> None:
        """The call cannot be repeated."""
        self.reason = self.reason or reason

    def places(self, fields: Mapping[Any, Any]) -> dict[Any, Place]:
        """Where the tensors among the values start; those without elements are left out."""
        found = {
            name: self.place(value)
            for name, value in fields.items()
            if isinstance(value, torch.Tensor) and value.numel()
        }
        return {name: place for name, place in found.items() if place is not None}

    def place(self, tensor: torch.Tensor) -> Place | None:
        """Where a tensor starts; None, and the call is refused, where that is not one place."""
        address = tensor.data_ptr()
        for index, base in enumerate(self._bases):
            if base.data_ptr() == address and base.numel():
                return Place(index, 0)
        inside = [
            Place(index, address - base.data_ptr())
            for index, base in enumerate(self._bases)
            if base.numel() and base.data_ptr() < address < base.data_ptr() + _extent(base)
        ]
        if len(inside) == 1:
            return inside[0]
        self.refuse(f"a tensor of shape {tuple(tensor.shape)} that is no part of one of the call's")
        return None

    def shaped(self, tensor: torch.Tensor) -> tuple[Any, ...] | None:
        """What ``view`` takes to make the tensor again; None, and refused, where it cannot."""
        place = self.place(tensor)
        if place is not None and self._bases[place.base].dtype is not tensor.dtype:
            self.refuse(f"a tensor in {tensor.dtype} of memory in another dtype")
            return None
        return None if place is None else (place, tensor.size(), tensor.stride())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self._paused:
            return result
        if func in _ALLOCATIONS:
            self._bases.append(result)
        elif func in _INTO:
            self._product(func, args, kwargs)
        elif func is _aten.clone.default:
            self._bases.append(result)
            self._call(torch.Tensor.copy_, result, args[0])
        elif func is _aten.copy_.default:
            self._call(torch.Tensor.copy_, *args[:2])
        elif func is _aten.new_zeros.default:
            self._bases.append(result)
            self._call(torch.Tensor.zero_, result)
        elif not _is_view(func):
            self.refuse(f"a call of {func}")
        return result

    def _product(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        out = kwargs.pop("out")
        if kwargs:
            self.refuse(f"{func} with {', '.join(kwargs)}")
        else:
            self._call(_INTO[func], out, *args)

    def _call(self, func: Callable[..., object], *tensors: torch.Tensor) -> None:
        shapes = [self.shaped(one) for one in tensors]
        if None not in shapes:
            self.steps.append(_Call(func, shapes))


class _Call:
    """A function of PyTorch whose first argument gets the result."""

    def __init__(self, func: Callable[..., object], shapes: list[Any]) -> None:
        self._func, self._shapes = func, shapes

    def __call__(
        self, bases: Sequence[torch.Tensor], addresses: Sequence[int], stream: int
    ) -> None:
        with torch.no_grad():  # operators have their own backward
            self._func(*(view(bases, *one) for one in self._shapes))


def view(
    bases: Sequence[torch.Tensor], place: Place, size: torch.Size, stride: tuple[int, ...]
) -> torch.Tensor:
    """The tensor that is at a place."""
    base = bases[place.base]
    start = base.storage_offset() + place.offset // base.element_size()
    return base.as_strided(size, stride, start)


class Plan:
    """What a kind of call does.

    Args:
        positions: of the tensors among the arguments.
        recorded: the call.
    """

    def __init__(self, positions: tuple[int, ...], recorded: Recorder) -> None:
        self._positions, self._steps = positions, tuple(recorded.steps)
        self._scratch = [(one.size(), one.stride(), one.dtype) for one in recorded.scratch]
        # Replaced where other forms of kernels are chosen from now on.
        self._variants, self._measured = STORE.variants, measures_forms()

    @property
    def holds(self) -> bool:
        """Whether it does what would be decided now: for calls that are measured, if it was too."""
        return self._variants is STORE.variants and (self._measured or not measures_forms())

    def __call__(self, arguments: tuple[Any, ...], outputs: Outputs) -> None:
        """Repeat it."""
        bases = [*(arguments[i] for i in self._positions), *outputs]
        first = outputs[0]
        device = first.device
        for size, stride, dtype in self._scratch:
            bases.append(torch.empty_strided(size, stride, dtype=dtype, device=device))
        addresses = [one.data_ptr() for one in bases]
        if device.type != "cuda":
            for step in self._steps:
                step(bases, addresses, 0)
            return
        index = device.index
        here = torch._C._cuda_getDevice() == index
        with nullcontext() if here else torch.cuda.device(device):
            stream = torch._C._cuda_getCurrentRawStream(index)
            for step in self._steps:
                step(bases, addresses, stream)


class Planned:
    """An operator's work: decided at first, then repeated.

    Args:
        allocate: gives the outputs, not yet computed.
        launch: ``launch(outputs, *arguments)`` computes them.
        recording: whether launches are only written down now, for another device.
        settings: what launches follow from beside the arguments; hashable.

    Attributes:
        kinds: of calls that were met, and their plans.
    """

    def __init__(
        self,
        allocate: Callable[..., torch.Tensor | Outputs],
        launch: Callable[..., None],
        recording: Callable[[], Any],
        settings: Callable[[], Any],
    ) -> None:
        self._allocate, self._launch, self._recording = allocate, launch, recording
        self._settings = settings
        self.kinds: dict[Any, Plan | _Met | None] = {}  # None: it cannot be repeated

    def __call__(self, *arguments: Any) -> torch.Tensor | Outputs:
        """Outputs of the operator."""
        return self.run(kind_of(arguments), arguments)

    def run(self, kind: tuple[Any, ...] | None, arguments: tuple[Any, ...]) -> Any:
        """The same, where ``kind_of`` the arguments is known already."""
        result = self._allocate(*arguments)
        outputs = (result,) if isinstance(result, torch.Tensor) else result
        if not any(output.numel() for output in outputs):
            return result
        if kind is None or self._recording():
            self._launch(outputs, *arguments)
            return result
        key = kind, self._settings()
        plan = self.kinds.get(key, _NEW)
        if plan.__class__ is Plan and plan.holds:
            plan(arguments, outputs)
        elif plan is None:
            self._launch(outputs, *arguments)
        elif plan is _MEASURED or (plan is _CALLED and not measures_forms()):
            self.kinds[key] = self._record(arguments, outputs)
        else:
            if len(self.kinds) >= MOST:
                self.kinds.clear()
            # Not written down yet: it may compile, and measure forms of kernels.
            self._launch(outputs, *arguments)
            self.kinds[key] = _MEASURED if measures_forms() else _CALLED
        return result

    def _record(self, arguments: tuple[Any, ...], outputs: Outputs) -> Plan | None:
        positions = tuple(i for i, one in enumerate(arguments) if isinstance(one, torch.Tensor))
        recorded = Recorder([*(arguments[i] for i in positions), *outputs])
        token = _RECORDER.set(recorded)
        try:
            with recorded:
                self._launch(outputs, *arguments)
        finally:
            _RECORDER.reset(token)
        return None if recorded.reason is not None else Plan(positions, recorded)


class _Met:
    """What is known of a kind of call that has no plan yet."""


_NEW, _CALLED, _MEASURED = _Met(), _Met(), _Met()


def kind_of(arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """All that launches follow from; None where it is not known, or memory is given twice.

    The first argument is a tensor.
    """
    kind: list[Any] = []
    addresses = []
    single = False
    for value in arguments:
        cls = value.__class__
        if cls is torch.Tensor or cls is _Parameter:
            if value.is_meta:
                return None
            address, dtype = value.data_ptr(), value.dtype
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
    if len(set(addresses)) < len(addresses):
        return None
    kind.append(arguments[0].device)
    if single:
        kind.append(torch.backends.cuda.matmul.fp32_precision)
    return tuple(kind)


def _extent(tensor: torch.Tensor) -> int:
    last = sum((n - 1) * step for n, step in zip(tensor.size(), tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size()


def _is_view(func: Any) -> bool:
    schema = func._schema
    return not schema.is_mutable and any(one.alias_info is not None for one in schema.returns)
