"""What a system of the comparison is: a way to run a model, with a name and a precision."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

__all__ = [
    "EAGER",
    "FORMS",
    "OURS",
    "PRECISIONS",
    "Build",
    "Run",
    "System",
    "Unavailable",
    "require",
]

EAGER = "eager"
"""The name of the system that ratios are taken to."""

OURS = "vitkern"
"""The vendor of the systems that have to be right, and that the peers are compared with."""

PRECISIONS = ("fp32", "bf16", "int8")
"""From the finest, in the order of tables and pictures."""

Run = Callable[[], torch.Tensor]
"""One pass: the logits."""

Build = Callable[[nn.Module, torch.Tensor], Run]
"""Makes a pass of a model, which it leaves as it is, on these images."""


FORMS = {"fp32": "float32", "bf16": "bfloat16", "int8": "int8"}
"""What :mod:`vitkern.bench.peak` calls them."""


class Unavailable(Exception):
    """The system cannot run here; the message says why, in a few words."""


@dataclass(frozen=True)
class System:
    """One entry of the table.

    Attributes:
        name: for tables, of its own.
        vendor: who makes it; decides the colour in pictures.
        precision: one of ``PRECISIONS``.
        build: raises Unavailable where the system cannot run here; any other error is a failure.
        packages: what it imports; where one is missing, ``build`` is not called.
        min_cosine: the logits' smallest cosine that one of ours may have, instead of bench's own
            rule, which wants eager PyTorch in the same precision; int8 needs it.
    """

    name: str
    vendor: str
    precision: str
    build: Build
    packages: tuple[str, ...] = ()
    min_cosine: float | None = None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}"
            )
        if self.ours and self.precision == "int8" and self.min_cosine is None:
            raise ValueError("eager PyTorch has no int8 to be judged by: give min_cosine")

    @property
    def form(self) -> str:
        """Of its products, whose peak its share is of."""
        return FORMS[self.precision]

    @property
    def ours(self) -> bool:
        """Whether it is compared with the others, and has to be right."""
        return self.vendor == OURS

    @property
    def peer(self) -> bool:
        """Whether it is one that ours are compared with."""
        return not self.ours and self.name != EAGER


def require(packages: tuple[str, ...]) -> None:
    """All of these packages can be imported.

    Raises:
        Unavailable: names those that are missing.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise Unavailable(f"not installed: pip install {' '.join(missing)}")
