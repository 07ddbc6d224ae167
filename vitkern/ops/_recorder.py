"""What one call does, written down: launches, memory, and functions of PyTorch.

Addresses become places in the call's own tensors, so that the same can be done with others
(``_plans.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from torch.utils._python_dispatch import TorchDispatchMode

Result = tuple[int, tuple[torch.Size, tuple[int, ...], int] | None]
"""A tensor that a call allocated, and where in it the result is: size, strides and offset."""

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

    def __call__(self, bases: list[torch.Tensor], addresses: list[int], stream: int) -> None:
        """Do it with these tensors, which are the call's, and their addresses."""


class Recorder(TorchDispatchMode):
    """Writes down what one call does.

    Args:
        bases: the call's tensors.
    """

    def __init__(self, bases: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self._bases = list(bases)  # those that it allocates are added, and kept: so are addresses
        self._given = len(bases)
        self.steps: list[Step] = []
        self.settings: list[tuple[Callable[[], Any], Any]] = []
        self.computed: set[int] = set()
        """Which tensors a step gives, in memory that it allocates itself."""
        self.reason: str | None = None
        self._paused = False

    @contextmanager
    def writing(self) -> Iterator[None]:
        """What is called in the block, in this thread or task, is written down."""
        token = _RECORDER.set(self)
        try:
            with self:
                yield
        finally:
            _RECORDER.reset(token)

    def depends(self, setting: Callable[[], Any]) -> None:
        """What is written down holds as long as this gives what it gives now."""
        if all(setting is not known for known, _ in self.settings):
            self.settings.append((setting, setting()))

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
        inside = [
            Place(index, address - base.data_ptr())
            for index, base in enumerate(self._bases)
            if base.numel() and base.data_ptr() <= address < base.data_ptr() + _extent(base)
        ]
        starts = [one for one in inside if one.offset == 0]
        # Of several views of one tensor (q, k, v) one may start inside another: it is meant if all
        # of it is.
        if starts and (
            len(starts) == len(inside) or self._bases[starts[0].base].numel() == tensor.numel()
        ):
            return starts[0]
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

    def result(self, tensor: torch.Tensor) -> Result | None:
        """Where a result is; None, and the call is refused, if it is not in what it allocated."""
        for index in range(self._given, len(self._bases)):
            base = self._bases[index]
            if tensor is base:
                return index, None
        place = self.place(tensor) if tensor.numel() else None
        if place is None or place.base < self._given:
            self.refuse(f"a result of shape {tuple(tensor.shape)} that it did not allocate")
            return None
        base = self._bases[place.base]
        if base.dtype is not tensor.dtype:
            self.refuse(f"a result in {tensor.dtype} of memory in another dtype")
            return None
        offset = place.offset // base.element_size()
        return place.base, (tensor.size(), tensor.stride(), offset)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._paused:
            return func(*args, **kwargs)
        if torch.is_inference_mode_enabled() and _is_view(func):
            with self:  # PyTorch left it whole, as ``contiguous``: its parts say if it is a copy
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if func in _ALLOCATIONS:
            self._allocated(result)
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
            self._function(func, args, kwargs, result)
        return result

    def _allocated(self, tensor: torch.Tensor) -> None:
        self._bases.append(tensor)
        if tensor.device != self._bases[0].device:
            self.refuse(f"memory on {tensor.device}")

    def _function(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        """A function of PyTorch that allocates what it gives."""
        results = result if isinstance(result, (tuple, list)) else (result,)
        computed = [one for one in results if isinstance(one, torch.Tensor)]
        given = [self.shaped(one) if isinstance(one, torch.Tensor) else None for one in args]
        nested = [*kwargs.values(), *(one for one in args if isinstance(one, (tuple, list)))]
        if not _is_pure(func) or not computed or any(_has_tensors(one) for one in nested):
            self.refuse(f"a call of {func}")
            return
        self.depends(_attention_kernels)
        first = len(self._bases)
        self._bases += computed
        self.computed.update(range(first, len(self._bases)))
        self.steps.append(_Function(func, args, given, kwargs, first))

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


class _Function:
    """A function of PyTorch that allocates its results.

    Args:
        func: it.
        args, kwargs: of the call that was written down; tensors are replaced.
        given: where tensors among ``args`` are, and their shapes.
        first: place of the first tensor that it gives.
    """

    def __init__(
        self, func: Any, args: tuple[Any, ...], given: list[Any], kwargs: dict[str, Any], first: int
    ) -> None:
        self._func, self._kwargs, self._first = func, kwargs, first
        self._args = [None if one is not None else a for one, a in zip(given, args, strict=True)]
        self._given = [(i, one) for i, one in enumerate(given) if one is not None]

    def __call__(self, bases: list[torch.Tensor], addresses: list[int], stream: int) -> None:
        args = self._args.copy()
        for i, one in self._given:
            args[i] = view(bases, *one)
        with torch.no_grad():  # operators have their own backward
            result = self._func(*args, **self._kwargs)
        place = self._first
        for one in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(one, torch.Tensor):
                bases[place], addresses[place] = one, one.data_ptr()
                place += 1


def view(
    bases: Sequence[torch.Tensor], place: Place, size: torch.Size, stride: tuple[int, ...]
) -> torch.Tensor:
    """The tensor that is at a place."""
    base = bases[place.base]
    start = base.storage_offset() + place.offset // base.element_size()
    return base.as_strided(size, stride, start)


def _extent(tensor: torch.Tensor) -> int:
    last = sum((n - 1) * step for n, step in zip(tensor.size(), tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size()


_UNSURE = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)


def _attention_kernels() -> tuple[Any, ...]:
    """What PyTorch's attention chooses by among the functions that it may call."""
    cuda = torch.backends.cuda
    return (
        cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled(),
        cuda.cudnn_sdp_enabled(), torch._C._get_sdp_priority_order(),
        cuda.fp16_bf16_reduction_math_sdp_allowed(), torch.are_deterministic_algorithms_enabled(),
    )  # fmt: skip


def _is_pure(func: Any) -> bool:
    """Whether what it gives is new memory, whose shape follows from those of the arguments."""
    schema = func._schema
    values = (*schema.arguments, *schema.returns)
    return (
        func.namespace == "aten"
        and not schema.is_mutable
        and all(one.alias_info is None for one in values)
        and not any(tag in func.tags for tag in _UNSURE)
    )


def _has_tensors(value: Any) -> bool:
    return isinstance(value, torch.Tensor) or (
        isinstance(value, (tuple, list)) and any(_has_tensors(one) for one in value)
    )


def _is_view(func: Any) -> bool:
    schema = func._schema
    return not schema.is_mutable and any(one.alias_info is not None for one in schema.returns)
