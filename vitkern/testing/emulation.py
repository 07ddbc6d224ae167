"""The kernels of csrc/cuda on the CPU: slow, and with eyes on every access of shared memory."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from vitkern._build import BuildError
from vitkern.ops._cuda.kernels import CudaKernels
from vitkern.ops._cuda.library import CudaLibrary
from vitkern.ops._family import Family
from vitkern.testing import build

ORDERS = ("forward", "reverse", "shuffled", "greedy", "greedy_reverse")
COPIES = ("deferred", "eager")
NAME = "cuda_emulated"


@dataclass(frozen=True)
class Counters:
    """What the emulation counted; the last two only where ``count_banks`` was set.

    Attributes:
        launches: of kernels.
        blocks: that ran.
        accesses: of shared memory, each of 128 bytes at the most.
        conflicts: passes that banks of shared memory needed beyond one an access.
    """

    launches: int
    blocks: int
    accesses: int
    conflicts: int


class EmulatedLibrary(CudaLibrary):
    """A library of kernels for the CPU."""

    def set(
        self,
        order: str = "forward",
        copies: str = "deferred",
        seed: int = 1,
        count_banks: bool = False,
    ) -> None:
        """How the next launches run.

        Args:
            order: in which threads run, one of ORDERS. ``greedy``: a warp runs until it waits for
                others.
            copies: when asynchronous copies happen: at the latest or at the earliest moment.
            seed: of ``shuffled``.
            count_banks: count conflicts; slower.
        """
        self.symbol("vitkern_emulation_set")(
            ORDERS.index(order), COPIES.index(copies), seed, count_banks
        )

    def counters(self, *, reset: bool = False) -> Counters:
        """Since they were reset."""
        values = (ctypes.c_long * 4)()
        self.symbol("vitkern_emulation_counters")(values, reset)
        return Counters(*values)


@functools.cache
def load() -> EmulatedLibrary:
    """The library of this source tree, built if it is not there or stale.

    Raises:
        BuildError: that is not possible.
    """
    return EmulatedLibrary(build.build(build.ROOT / "build" / "cuda-emulated"))


def missing() -> str | None:
    """Why there is no emulation here, or None. Builds it."""
    return _missing()


@functools.cache
def _missing() -> str | None:
    try:
        load()
    except BuildError as error:
        return str(error)
    return None


missing._dynamo_marked_constant = True  # type: ignore[attr-defined]


def of_device(device: torch.device) -> list[str]:
    """Reasons to refuse tensors on a device."""
    return [] if device.type == "cpu" else [f"a tensor on {device}; takes tensors on the CPU"]


@dataclass
class Card:
    """The card that is emulated.

    Attributes:
        processors: few, so that small tensors are cut as large ones are.
        tf32: whether products may round float32 to it.
        warpgroups: whether it has the instructions of Hopper.
    """

    processors: int = 3
    tf32: bool = False
    warpgroups: bool = False


CARD = Card()


def kernels_of(path: Path, name: str) -> CudaKernels:
    """Other kernels than those of this source tree: a library, and a name for its operators."""
    library = EmulatedLibrary(path)
    family = _family(name, lambda: None)
    return _kernels(family, lambda: library)


def _kernels(family: Family, load: Callable[[], CudaLibrary]) -> CudaKernels:
    return CudaKernels(
        family, load, of_device, lambda _: CARD.processors,
        lambda operand: CARD.tf32 and operand.dtype is torch.float32, lambda _: CARD.warpgroups,
    )  # fmt: skip


def _settings() -> tuple[int, bool, bool]:
    return CARD.processors, CARD.tf32, CARD.warpgroups


def _family(name: str, missing: Callable[[], str | None]) -> Family:
    return Family(name, ("CPU",), missing, automatic=False, settings=_settings)


EMULATED = _kernels(_family(NAME, missing), load)


@contextmanager
def emulation(
    order: str = "forward",
    copies: str = "deferred",
    *,
    seed: int = 1,
    count_banks: bool = False,
    card: Card | None = None,
) -> Iterator[EmulatedLibrary]:
    """Run kernels so in the block, in the whole process; see :meth:`EmulatedLibrary.set`."""
    library = load()
    library.set(order, copies, seed, count_banks)
    try:
        with on_card(card or CARD):
            yield library
    finally:
        library.set()


@contextmanager
def on_card(card: Card) -> Iterator[None]:
    """Choose kernels in the block, in the whole process, as on this card."""
    before = replace(CARD)
    _become(card)
    try:
        yield
    finally:
        _become(before)


def _become(card: Card) -> None:
    CARD.processors, CARD.tf32, CARD.warpgroups = card.processors, card.tf32, card.warpgroups
