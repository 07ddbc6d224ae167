"""How long a piece of work takes at best on a GPU, from data sheets: a prediction, no measurement.

A kernel takes as long as what takes the longest in it: matrix products at the rate that the best
published ones sustain, exponentials, other arithmetic, traffic with memory, traffic with L2. These
overlap where a multiprocessor has two programs at a time; where it has one, its arithmetic comes
after its products. Programs come in waves, one for each multiprocessor; the last may be nearly
empty. Each launch costs GAP.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from vitkern.ops._triton.kernel import Resources
from vitkern.ops._triton.recorder import Work
from vitkern.ops._triton.targets import Target

GAP = 1.5e-6
"""Seconds between two kernels of a CUDA graph."""

_REGISTER_FILE = 65536
_THREADS = 2048
_SPECIAL = 16
"""Special functions a clock and multiprocessor."""


@dataclass(frozen=True)
class Estimate:
    """Seconds, by what takes them.

    Attributes:
        seconds: of the launch.
        bound: what it is limited by: "products", "exponentials", "arithmetic", "memory", "L2",
            "launch".
        waves: the share of the multiprocessors' time that waves fill.
    """

    seconds: float
    bound: str
    waves: float = 1.0


def estimate(
    work: Work, target: Target, *, half: bool, programs: int = 0, resident: int = 2
) -> Estimate:
    """The time of one launch.

    Args:
        work: what it does.
        target: on which GPU.
        half: whether products are of half-precision operands; float32 ones take no tensor core.
        programs: of the launch; 0 = many.
        resident: programs that a multiprocessor has at a time.
    """
    waves = 1.0
    if programs:
        waves = programs / (math.ceil(programs / target.processors) * target.processors)
    peak = target.half * target.sustained if half else target.single
    special = _SPECIAL * target.clock * target.processors
    times = {
        "products": work.flops / peak / waves,
        "exponentials": work.exponentials / special / waves,
        "arithmetic": work.scalar / (target.single / 2) / waves,
        "memory": (work.unique + work.written) / target.bandwidth,
        "L2": (work.read + work.written) / target.cache_bandwidth,
    }
    bound = max(times, key=lambda name: times[name])
    seconds = times[bound]
    if resident < 2:
        seconds = max(seconds, times["products"] + times["exponentials"] + times["arithmetic"])
    return Estimate(seconds + GAP, "launch" if seconds < GAP else bound, waves)


def resident(needs: Resources, warps: int, target: Target) -> int:
    """Programs that a multiprocessor can have at a time, by the kernel's own resource model."""
    threads = 32 * warps
    registers = threads * min(255, max(32, math.ceil(needs.registers / threads) + 48))
    by_shared = target.shared // needs.shared if needs.shared else 32
    return max(1, min(_REGISTER_FILE // registers, by_shared, _THREADS // threads, 32))
