"""Launches that are written down instead of made.

In a ``record`` block the ``triton`` backends take tensors on the meta device, and every kernel
launch is appended to a list. That is how kernels are compiled for GPUs that are not here, and how
their time on these is predicted: from the launches that the backends would make, not from a table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitkern.ops._triton.kernel import Config, Kernel
    from vitkern.ops._triton.targets import Target


SCORE_INSTRUCTIONS = 8.0
"""Of float32 for each score of attention: scale, bias, mask, largest, difference, sum, rounding."""


@dataclass(frozen=True)
class Work:
    """What a launch does, counted from its own tiling.

    Attributes:
        flops: of matrix products, padding of tiles included (2 a multiply-add).
        useful: of matrix products, without the padding.
        read: bytes from beyond a program's own chip memory: each tile as often as it is loaded.
        unique: of these, the bytes of distinct addresses: what the first load costs.
        written: bytes.
        exponentials: evaluations of exp2, rsqrt, division and their like (special function units).
        scalar: other float32 instructions outside of matrix products, roughly.
    """

    flops: float = 0.0
    useful: float = 0.0
    read: float = 0.0
    unique: float = 0.0
    written: float = 0.0
    exponentials: float = 0.0
    scalar: float = 0.0


@dataclass(frozen=True)
class Launch:
    """One launch as it would have been.

    Attributes:
        kernel: what would have run.
        config: with which configuration.
        candidates: all configurations that fit the target.
        arguments: by the name of the parameter; tensors are meta tensors.
        constants: of the kernel, the configuration's own not among them.
        grid: programs along three axes.
        work: what it would have done.
    """

    kernel: Kernel
    config: Config
    candidates: tuple[Config, ...]
    arguments: Mapping[str, Any]
    constants: Mapping[str, Any]
    grid: tuple[int, ...]
    work: Work


@dataclass
class Recording:
    """The launches of a ``record`` block, for one target."""

    target: Target
    launches: list[Launch]


ACTIVE: ContextVar[Recording | None] = ContextVar("vitkern_triton_recording", default=None)
"""Read in every call: a function around it would be felt."""


def recording() -> Recording | None:
    """The recording that is on in this thread or task."""
    return ACTIVE.get()


@contextmanager
def record(target: Target) -> Iterator[list[Launch]]:
    """Write launches down, as they would be made on ``target``, in this thread or task."""
    launches: list[Launch] = []
    token = ACTIVE.set(Recording(target, launches))
    try:
        yield launches
    finally:
        ACTIVE.reset(token)
