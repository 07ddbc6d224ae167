"""What the ``cpu`` backends of all ops share: the library, common refusals, prepacked weights."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch

from vitkern._library import load

# The index of a name is the ``activation`` of csrc/registration.cpp.
ACTIVATIONS = (None, "gelu", "gelu_tanh", "relu", "silu", "quick_gelu")

_STATUS = load()
_DTYPES = (torch.float32, torch.bfloat16)
_STRIDED = torch.strided


def missing() -> str | None:
    """Why there is no CPU library on this machine, or None."""
    return None if _STATUS.available else _STATUS.reason


def refusals(*tensors: torch.Tensor | None) -> list[str]:
    """Reasons to refuse that hold for every op: no library, wrong device, dtype or layout."""
    if not _STATUS.available:
        return [f"no C++ library: {_STATUS.reason}"]
    for tensor in tensors:
        if tensor is None:
            continue
        if not tensor.is_cpu:
            return [f"a tensor on {tensor.device}; takes tensors on the CPU"]
        if tensor.dtype not in _DTYPES:
            return [f"dtype {tensor.dtype}; takes float32 and bfloat16"]
        if tensor.layout is not _STRIDED:
            return [f"layout {tensor.layout}; takes strided tensors"]
    return []


def block_refusals(
    x: torch.Tensor,
    norm_weight: torch.Tensor | None,
    norm_bias: torch.Tensor | None,
    *others: torch.Tensor | None,
) -> list[str]:
    """Reasons to refuse a fused block: those of every op, and dtypes that its kernel cannot mix."""
    reasons, dtype = refusals(x, norm_weight, norm_bias), x.dtype
    if reasons:
        return reasons
    for other in others:
        if other is not None and not (
            other.is_cpu and other.dtype is dtype and other.layout is _STRIDED
        ):
            return refusals(other) or [
                f"{other.dtype} beside x's {dtype}; takes one dtype for all but the norm"
            ]
    first = norm_bias if norm_weight is None else norm_weight
    if first is not None and (
        (norm_bias is not None and norm_bias.dtype is not first.dtype)
        or (first.dtype is not dtype and first.dtype is not torch.float32)
    ):
        return [f"a norm in other dtypes than x's {dtype} or float32, or in two"]
    return []


def no_gradient(*_: Any) -> NoReturn:
    """The backward of a fused block, whose public function composes where one is wanted.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError("fused blocks are for inference: call the public function for gradients")


class _Packed:
    """A packed weight, and what tells whether the weight has changed since."""

    __slots__ = ("address", "alias", "buffer", "dtype", "owner", "shape", "version")

    def __init__(self, weight: torch.Tensor, owner: weakref.ref[torch.Tensor]) -> None:
        self.owner = owner
        self.version = weight._version
        # Keeps the weight's memory from being handed out again while this entry can be hit: after
        # ``weight.data = other`` the address alone would not tell.
        self.alias = weight.detach()
        self.address = weight.data_ptr()
        self.dtype = weight.dtype
        self.shape = weight.shape
        self.buffer: torch.Tensor = torch.ops.vitkern_cpu.pack_weight(self.alias.flatten(1))


_cache: dict[int, _Packed] = {}
_lock = threading.Lock()


def packed(weight: torch.Tensor) -> torch.Tensor | None:
    """The prepacked form of ``weight``, kept until the weight changes or dies; None = not cached.

    Keyed on the parameter's identity, its version (in-place updates, optimizer steps and
    ``load_state_dict`` raise it) and its memory (``.to()`` and ``.data = ...`` change it). Writes
    through ``.data`` raise no version: the kernels compare a sample of the weight with the packed
    values in every call, and pack afresh where they differ.

    Not cached, and packed in each call instead: while torch.compile traces; weights that are not
    parameters (they are likely temporaries), that are being trained, or that are inference tensors
    (these have no version).
    """
    if torch.compiler.is_compiling() or (weight.requires_grad and torch.is_grad_enabled()):
        return None
    entry = _cache.get(id(weight))
    if (
        entry is not None
        and entry.owner() is weight
        and entry.version == weight._version
        and entry.address == weight.data_ptr()
        and entry.dtype is weight.dtype
        and entry.shape == weight.shape
    ):
        return entry.buffer
    if type(weight) is not torch.nn.Parameter or weight.is_inference():
        return None
    return _pack(weight)


def _pack(weight: torch.Tensor) -> torch.Tensor:
    key = id(weight)

    def forget(owner: weakref.ref[torch.Tensor]) -> None:
        entry = _cache.get(key)
        if entry is not None and entry.owner is owner:
            del _cache[key]

    with torch.no_grad():
        entry = _Packed(weight, weakref.ref(weight, forget))
    with _lock:
        _cache[key] = entry
    return entry.buffer


def packed_bytes() -> int:
    """Bytes that prepacked weights hold now."""
    return sum(entry.buffer.nbytes for entry in list(_cache.values()))


def clear_packed() -> None:
    """Drop every prepacked weight; the next call packs anew."""
    with _lock:
        _cache.clear()


def drop_packed(weights: Iterable[torch.Tensor]) -> None:
    """Drop the prepacked forms of these weights; the next call packs anew."""
    with _lock:
        for weight in weights:
            _cache.pop(id(weight), None)


def isas() -> list[str]:
    """Instruction sets that are compiled in and that this machine runs, widest last."""
    return torch.ops.vitkern_cpu.isas().split(",") if _STATUS.available else []


@contextmanager
def use_isa(name: str) -> Iterator[None]:
    """Force an instruction set for the whole process, to test or to compare one.

    Raises:
        ValueError: not compiled in, or this machine does not run it.
    """
    if name not in isas():
        raise ValueError(f"name is {name!r}; this machine runs {', '.join(isas()) or 'none'}")
    before = torch.ops.vitkern_cpu.isa()
    torch.ops.vitkern_cpu.set_isa(name)
    clear_packed()
    try:
        yield
    finally:
        torch.ops.vitkern_cpu.set_isa(before)
        clear_packed()
