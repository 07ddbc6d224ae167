"""What the ``cpu`` backends of all ops share: the library, common refusals, prepacked weights."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch

from vitkern._library import load
from vitkern.ops.weights import MOST_INPUTS, ConvertedWeight, Int8Weight, state_of

# The index of a name is the ``activation`` of csrc/registration.cpp.
ACTIVATIONS = (None, "gelu", "gelu_tanh", "relu", "silu", "quick_gelu")

_STATUS = load()
_DTYPES = (torch.float32, torch.bfloat16)
_STRIDED = torch.strided


def missing() -> str | None:
    """Why there is no CPU library on this machine, or None."""
    return None if _STATUS.available else _STATUS.reason


def refusals(*tensors: torch.Tensor | ConvertedWeight | None) -> list[str]:
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


def int8_refusals(**weights: torch.Tensor | ConvertedWeight) -> list[str]:
    """Reasons to refuse weights, given by the names that users have for them, as int8."""
    for name, weight in weights.items():
        if not isinstance(weight, Int8Weight):
            continue
        if sums_pairs() and not weight.paired:
            return [
                f"{name} in int8 that overflows 16-bit sums of two products;"
                " takes Int8Weight(paired=True)"
            ]
        if weight.shape[1] > MOST_INPUTS:
            return [
                f"{name} in int8 with K = {weight.shape[1]}, whose sums overflow 32 bits;"
                f" takes at most {MOST_INPUTS}"
            ]
    return []


def block_refusals(
    x: torch.Tensor,
    norm_weight: torch.Tensor | None,
    norm_bias: torch.Tensor | None,
    *others: torch.Tensor | ConvertedWeight | None,
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


Weight = torch.Tensor | ConvertedWeight


class _Packed:
    """A packed weight, and what tells whether the weight has changed since."""

    __slots__ = ("alias", "buffer", "owner", "source", "state")

    def __init__(self, weight: Weight, owner: weakref.ref[Weight]) -> None:
        source = _source(weight)
        self.owner = owner
        self.source = id(source)
        self.state = state_of(source)
        # Keeps the weight's memory from being handed out again while this entry can be hit: after
        # ``weight.data = other`` the address alone would not tell.
        self.alias = source.detach()
        self.buffer = _pack(weight)


_cache: dict[int, _Packed] = {}
_lock = threading.Lock()


def _source(weight: Weight) -> torch.Tensor:
    return weight.source if isinstance(weight, ConvertedWeight) else weight


def _pack(weight: Weight) -> torch.Tensor:
    run = torch.ops.vitkern_cpu
    if isinstance(weight, Int8Weight):
        values, scale = weight.quantized()
        packed: torch.Tensor = run.pack_int8(values, scale, weight.low, weight.high)
    else:
        rounded = isinstance(weight, ConvertedWeight)
        packed = run.pack_weight(_source(weight).detach().flatten(1), rounded)
    return packed


def operand(weight: Weight, trained: bool = False) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What a kernel takes: the weight itself, and its packed form, which says how to multiply.

    ``trained``: the call's gradient is wanted, so that a weight that requires one is about to
    change.
    """
    if trained and weight.requires_grad:
        return _source(weight), None
    return _source(weight), packed(weight)


def packed(weight: Weight) -> torch.Tensor | None:
    """The prepacked form of ``weight``, kept until the weight changes or dies; None = not cached.

    Keyed on the parameter's identity and its :func:`~vitkern.ops.weights.state_of`. Writes
    through ``.data`` raise no version: the kernels compare a sample of the weight with the packed
    values in every call, and pack afresh where they differ.

    Not cached, and packed in each call instead: while torch.compile traces; weights that are not
    parameters (they are likely temporaries), that are being trained, or that are inference tensors
    (these have no version). A converted weight is packed here then, for only it knows its form.
    """
    if isinstance(weight, torch.Tensor):
        weight = _whole(weight)
    source = _source(weight)
    converted = source is not weight
    if torch.compiler.is_compiling() or (source.requires_grad and torch.is_grad_enabled()):
        return _pack(weight) if converted else None
    entry = _cache.get(id(weight))
    if entry is not None and entry.owner() is weight and entry.state == state_of(source):
        return entry.buffer
    if type(source) is not torch.nn.Parameter or source.is_inference():
        return _pack(weight) if converted else None
    return _keep(weight)


def _whole(weight: torch.Tensor) -> torch.Tensor:
    """The parameter that ``weight`` is a matrix view of, all of it; or ``weight`` itself.

    A convolution's weight is a parameter in four dimensions, and its view a new tensor each time.
    """
    base = weight._base
    if (
        type(base) is torch.nn.Parameter
        and base.shape[:1] == weight.shape[:1]
        and base.numel() == weight.numel()
        and base.dtype is weight.dtype
        and base.is_contiguous()
        and weight.is_contiguous()
    ):
        return base
    return weight


def _keep(weight: Weight) -> torch.Tensor:
    key = id(weight)

    def forget(owner: weakref.ref[Weight]) -> None:
        # Called wherever an owner dies, so maybe while this thread holds the lock: without it.
        entry = _cache.get(key)
        if entry is not None and entry.owner is owner:
            _cache.pop(key, None)

    with torch.no_grad():
        entry = _Packed(weight, weakref.ref(weight, forget))
    with _lock:
        _cache[key] = entry
    return entry.buffer


def packed_bytes() -> int:
    """Bytes that prepacked weights hold now."""
    return sum(entry.buffer.nbytes for entry in _cache.copy().values())


def clear_packed() -> None:
    """Drop every prepacked weight; the next call packs anew."""
    with _lock:
        _cache.clear()


def drop_packed(weights: Iterable[torch.Tensor]) -> None:
    """Drop all prepacked forms of these weights; the next call packs anew."""
    gone = {id(weight) for weight in weights}
    with _lock:
        for key, entry in _cache.copy().items():  # weights that die meanwhile need no lock
            if entry.source in gone:
                _cache.pop(key, None)


def pooled_bytes() -> int:
    """Bytes that the library keeps for large outputs to come (see csrc/cpu/pool.h)."""
    kept: int = torch.ops.vitkern_cpu.pooled_bytes() if _STATUS.available else 0
    return kept


def release_pool() -> None:
    """Free what is kept for outputs to come; those that live are not touched."""
    if _STATUS.available:
        torch.ops.vitkern_cpu.release_pool()


def sums_pairs() -> bool:
    """Whether the instruction set in use sums products of int8 two by two, in 16 bits."""
    pairs: bool = _STATUS.available and torch.ops.vitkern_cpu.sums_pairs()
    return pairs


# What is compiled keeps the answer for the processor that it was compiled on.
sums_pairs._dynamo_marked_constant = True  # type: ignore[attr-defined]


if _STATUS.available:

    @torch.library.register_fake("vitkern_cpu::pack_weight")
    def _(weight: torch.Tensor, bfloat16: bool) -> torch.Tensor:
        size = torch.ops.vitkern_cpu.packed_bytes(
            int(bfloat16), weight.dtype is torch.bfloat16, *weight.shape
        )
        return weight.new_empty(size, dtype=torch.uint8)

    @torch.library.register_fake("vitkern_cpu::pack_int8")
    def _(
        values: torch.Tensor,
        scale: torch.Tensor,
        low: float | None,
        high: float | None,
    ) -> torch.Tensor:
        size = torch.ops.vitkern_cpu.packed_bytes(2, False, *values.shape)
        return values.new_empty(size, dtype=torch.uint8)


def multiplies_bfloat16() -> bool:
    """Whether the instruction set in use does; others convert, and are as fast as in float32."""
    return _STATUS.available and torch.ops.vitkern_cpu.isa() in ("avx512_bf16", "amx")


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
