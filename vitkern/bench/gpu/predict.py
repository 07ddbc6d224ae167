"""A model's time on a GPU that is not here, predicted: its own kernels, eager, FlashAttention.

The model runs once on the meta device, which has shapes and no data. What the ``triton`` backend
launches is recorded; of PyTorch's own operators, the products are counted by PyTorch's counter, and
each reads its inputs and writes its outputs once, as separate kernels do. What was used last is
still in L2, and is not read from memory again.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from vitkern.bench.flops import model_flops
from vitkern.bench.gpu.roofline import Estimate, estimate, resident
from vitkern.bench.operator_flops import call_flops, named_arguments
from vitkern.ops._triton.recorder import Launch, Work, record
from vitkern.ops._triton.targets import Target
from vitkern.patching import patched

_TILES = (128, 64)
"""Queries and keys of a tile of FlashAttention at a head_dim of 64 or less."""
_WIDE_TILES = (128, 32)
_FREE = frozenset(
    [
        "view",
        "reshape",
        "expand",
        "permute",
        "transpose",
        "detach",
        "alias",
        "empty",
        "empty_like",
        "new_empty",
        "unbind",
        "slice",
        "select",
        "unsqueeze",
        "squeeze",
        "split",
        "chunk",
        "t",
        "_unsafe_view",
        "as_strided",
        "unfold",
        "narrow",
    ]
)
"""Operators that move no data."""


@dataclass(frozen=True)
class Kernel:
    """A launch, ours or PyTorch's.

    Attributes:
        name: of the kernel, or of PyTorch's operator.
        work: what it does.
        estimate: how long it takes.
    """

    name: str
    work: Work
    estimate: Estimate


@dataclass
class Prediction:
    """A model's launches on a target.

    Attributes:
        system: "triton", "eager, attention unfused" or "eager with FlashAttention".
        target: the GPU.
        kernels: in order.
        flops: of the model's products, whoever computes them.
    """

    system: str
    target: Target
    flops: int
    kernels: list[Kernel] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Of one pass."""
        return math.fsum(kernel.estimate.seconds for kernel in self.kernels)

    @property
    def share(self) -> float:
        """Of the GPU's peak of half-precision products, as in its data sheet."""
        return self.flops / self.seconds / self.target.half

    @property
    def bytes(self) -> float:
        """Read from memory and written to it."""
        return math.fsum(kernel.work.unique + kernel.work.written for kernel in self.kernels)

    def by_name(self) -> dict[str, tuple[int, float, str]]:
        """For each kernel: launches, seconds, and what bounds most of that time."""
        found: dict[str, tuple[int, float, dict[str, float]]] = {}
        for kernel in self.kernels:
            count, seconds, bounds = found.get(kernel.name, (0, 0.0, {}))
            spent = kernel.estimate.seconds
            bounds[kernel.estimate.bound] = bounds.get(kernel.estimate.bound, 0.0) + spent
            found[kernel.name] = (count + 1, seconds + spent, bounds)
        ordered = sorted(found.items(), key=lambda item: -item[1][1])
        return {
            name: (count, seconds, max(bounds, key=lambda one: bounds[one]))
            for name, (count, seconds, bounds) in ordered
        }

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "system": self.system,
            "target": self.target.name,
            "seconds": self.seconds,
            "share_of_peak": self.share,
            "bytes": self.bytes,
            "flops": self.flops,
            "kernels": {
                name: {"launches": count, "seconds": seconds, "bound": bound}
                for name, (count, seconds, bound) in self.by_name().items()
            },
        }


def predict(model: nn.Module, images: torch.Tensor, target: Target) -> list[Prediction]:
    """The three systems' passes of a model in evaluation mode, on meta tensors.

    Args:
        model: on the meta device, in the dtype to predict for; not patched. It is as it was after.
        images: on the meta device.
        target: the GPU.

    Raises:
        ValueError: the model or the images have data.
    """
    if any(tensor.device.type != "meta" for tensor in (*model.parameters(), images)):
        raise ValueError("model and images must be on the meta device")
    flops = model_flops(model, images)

    def run() -> None:
        with torch.no_grad():  # under inference_mode operators would come whole, not as products
            model(images)

    ours = Prediction("triton", target, flops)
    with record(target) as launches, patched(model):
        ours.kernels += _count(run, target, launches)
    eager = Prediction("eager, attention unfused", target, flops, _count(run, target, []))
    flash = Prediction("eager with FlashAttention", target, flops)
    with _Counter(target, []) as counter, _FlashAttention(counter):
        run()
    flash.kernels += counter.kernels
    return [ours, eager, flash]


def _count(run: Callable[[], None], target: Target, launches: list[Launch]) -> list[Kernel]:
    """What ``run`` launches, in order; ``launches`` is the list that a recording appends to."""
    with _Counter(target, launches) as counter:
        run()
    return counter.kernels


class _Cache:
    """Which tensors L2 still has: the ones used last, up to half of it.

    Half, because addresses collide, and because large cards keep some data in both halves.
    """

    def __init__(self, target: Target) -> None:
        self._room = target.cache / 2
        self._kept: dict[int, torch.Tensor] = {}  # holds them, so that no other gets their place

    def use(self, tensors: list[torch.Tensor], work: Work) -> Work:
        """The work with the bytes that come from L2 taken off what is read from memory."""
        found = {t.untyped_storage()._cdata: t for t in tensors if t.numel()}
        hits = math.fsum(_size(t) for key, t in found.items() if key in self._kept)
        for key, tensor in found.items():
            self._kept.pop(key, None)
            self._kept[key] = tensor
        while self._kept and math.fsum(map(_size, self._kept.values())) > self._room:
            self._kept.pop(next(iter(self._kept)))
        return dataclasses.replace(work, unique=max(work.unique - hits, 0.0))


def _size(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


class _Counter(TorchDispatchMode):
    """Counts PyTorch's own operators, and the launches that ours were recorded to make."""

    def __init__(self, target: Target, launches: list[Launch]) -> None:
        super().__init__()
        self.kernels: list[Kernel] = []
        self._target, self._launches, self._cache = target, launches, _Cache(target)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        before = len(self._launches)
        out = func(*args, **kwargs)
        for launch in self._launches[before:]:
            self._launched(launch)
        name = func._schema.name.split("::")[1]
        if func.namespace == "vitkern_triton" or func.is_view or name in _FREE:
            return out
        arguments = named_arguments(func, args, kwargs)
        read = [t for value in arguments.values() for t in _tensors(value)]
        made = [t for t in _tensors(out) if t.numel()]
        if made:
            flops = float(call_flops(func, arguments, out))
            size = math.fsum(map(_size, read))
            written = math.fsum(map(_size, made))
            work = Work(flops=flops, useful=flops, read=size, unique=size, written=written)
            self.add(name, work, read + made, half=made[0].element_size() < 4)
        return out

    def _launched(self, launch: Launch) -> None:
        constants = {**launch.constants, **dict(launch.config.constants)}
        operands = [t for t in launch.arguments.values() if isinstance(t, torch.Tensor)]
        size = min(t.element_size() for t in operands)
        together = resident(launch.kernel.model(constants, size), launch.config.warps, self._target)
        self.add(
            launch.kernel.name, launch.work, operands, half=size < 4,
            programs=math.prod(launch.grid), resident=together,
        )  # fmt: skip

    def add(self, name: str, work: Work, tensors: list[torch.Tensor], **how: Any) -> None:
        """A launch that uses these tensors."""
        work = self._cache.use(tensors, work)
        self.kernels.append(Kernel(name, work, estimate(work, self._target, **how)))


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _tensors(one)


class _FlashAttention(TorchFunctionMode):
    """``scaled_dot_product_attention`` without a mask is one kernel, tiled as FlashAttention."""

    def __init__(self, counter: _Counter) -> None:
        super().__init__()
        self._counter = counter

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention or kwargs.get("attn_mask") is not None:
            return func(*args, **kwargs)
        q, k, v = args[:3]
        out = torch.empty_like(q)
        work, programs = _flash_work(q, k)
        self._counter.add(
            "flash_attention", work, [q, k, v, out], half=q.element_size() < 4, programs=programs
        )
        return out


def _flash_work(q: torch.Tensor, k: torch.Tensor) -> tuple[Work, int]:
    """What a launch does, and its programs."""
    batch, heads, queries, head_dim = q.shape
    keys, size = k.shape[2], q.element_size()
    block_m, block_n = _TILES if head_dim <= 64 else _WIDE_TILES
    tiles = batch * heads * math.ceil(queries / block_m)
    columns = math.ceil(keys / block_n) * block_n
    scores = tiles * block_m * columns
    once = float(batch * heads * head_dim * size)
    work = Work(
        flops=4.0 * scores * head_dim,
        useful=4.0 * batch * heads * queries * keys * head_dim,
        read=once * queries + 2.0 * tiles * columns * head_dim * size,
        unique=once * (queries + 2 * keys),
        written=once * queries,
        exponentials=float(scores),
        scalar=6.0 * scores,
    )
    return work, tiles
