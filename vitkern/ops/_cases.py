"""What the tables of cases share. Tests, benchmarks and tuning all read the tables.

Tags: ``model``: a shape of a real model; ``batch``: at a batch that only GPUs take, which compile
gates read, for kernels have other tiles then; ``tail``: sizes that tiles of 6, 8, 16 or 48 do not
divide, or just do; ``edge``: empty, single or otherwise special.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch

# Tails of tiles: one, primes, and multiples of 6, 8, 16 and 48 with their neighbours.
TAILS = (1, 2, 3, 5, 7, 8, 9, 12, 13, 15, 16, 17, 23, 31, 32, 33, 47, 48, 49, 96, 97)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A row of a table: its name, its tags, and (in subclasses) the shapes and options."""

    name: str
    tags: tuple[str, ...]


CaseT = TypeVar("CaseT", bound=Case)


def select(cases: Iterable[CaseT], *tags: str) -> list[CaseT]:
    """The cases that have any of ``tags``."""
    return [case for case in cases if any(tag in case.tags for tag in tags)]


@dataclass(frozen=True)
class Normal:
    """Draws normally distributed tensors, the same for every dtype but for rounding."""

    dtype: torch.dtype
    device: torch.device | str = "cpu"
    generator: torch.Generator | None = None

    def __call__(self, *shape: int, std: float = 1.0, mean: float = 0.0) -> torch.Tensor:
        values = torch.randn(shape, device=self.device, generator=self.generator)
        return (values * std + mean).to(self.dtype)
