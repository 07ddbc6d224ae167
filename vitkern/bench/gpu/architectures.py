"""The GPU architectures that kernels are compiled for."""

from __future__ import annotations

from dataclasses import dataclass

from vitkern.ops._triton.targets import TARGETS, Target


@dataclass(frozen=True)
class Architecture:
    """A compilation target.

    Attributes:
        name: ``sm_90`` or ``gfx942``.
        backend: Triton's name of it, ``cuda`` or ``hip``.
        number: Triton's number or name of it.
        threads: of a warp or wavefront.
        bounds: the smallest card of the architecture, whose shared memory configurations must fit.
    """

    name: str
    backend: str
    number: int | str
    threads: int
    bounds: Target


ARCHITECTURES = {
    one.name: one
    for one in (
        Architecture("sm_80", "cuda", 80, 32, TARGETS["a100"]),
        Architecture("sm_90", "cuda", 90, 32, TARGETS["h100"]),
        Architecture("sm_100", "cuda", 100, 32, TARGETS["b200"]),
        Architecture("sm_120", "cuda", 120, 32, TARGETS["rtx5090"]),
        # AMD's have 64 KB of local memory; their other figures are not used.
        Architecture("gfx942", "hip", "gfx942", 64, TARGETS["mi300x"]),
    )
}

MAIN = "sm_90"
"""The one whose configurations are all compiled, and whose registers are limited."""
