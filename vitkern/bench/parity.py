"""Is the patched model right? Its error against float64, beside that of the eager model.

Parameters and images are converted to float64 exactly, so the float64 model computes what both
should have computed. The patched model passes where its largest error is at most **twice the eager
one's**, plus a few units of the last place (eager can be exact by luck). So the bound follows
model, shape and dtype, and there is no table of tolerances.

Errors are relative to the largest true value of the tensor. Of gradients, that of the worst
parameter counts, on either side: among hundreds of small tensors some are lucky in one order of
summation and not in another. A parameter whose true gradient is zero but for rounding (1e-9 of the
largest of all) is taken relative to the largest gradient.

Products in bfloat16 are held to the same bound, with an eager model in bfloat16. Of int8 eager has
nothing: the cosine of each image's output with the true one has to be :data:`MIN_COSINE` at least.

What fails is not timed: benchmarks call :meth:`Parity.require`, or report what failed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from vitkern.bench.models import Row
from vitkern.bench.passes import forward, train_step
from vitkern.patching import unpatch

__all__ = ["Check", "Parity", "ParityError", "check", "compare"]

UNITS = {torch.float32: 4.0, torch.bfloat16: 1.0, torch.float16: 1.0}
"""Units of the last place that are allowed beyond twice eager's error."""


MIN_COSINE = 0.99
"""Of int8. ViT and Swin have 0.9998 and better: the bound finds what is broken."""


class ParityError(AssertionError):
    """A patched model's error is too large to be timed, or cannot be known."""


@dataclass(frozen=True)
class Check:
    """One comparison: largest errors, relative to the largest true value."""

    name: str
    error: float
    eager_error: float
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether the error is within what is allowed. A NaN never is."""
        return self.error <= self.allowed

    def __str__(self) -> str:
        return (
            f"{self.name}: error {self.error:.2g}, eager's {self.eager_error:.2g},"
            f" allowed {self.allowed:.2g}"
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON, in which there is no infinity."""
        return {
            "name": self.name,
            "error": self.error if math.isfinite(self.error) else None,
            "eager_error": self.eager_error,
            "allowed": self.allowed,
        }


@dataclass(frozen=True)
class Parity:
    """The output's check, and the gradients' where there are some."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether all checks passed."""
        return all(one.passed for one in self.checks)

    @property
    def worst(self) -> Check:
        """The check that is nearest to failing, or furthest beyond."""
        return max(self.checks, key=lambda one: one.error / max(one.allowed, 1e-300))

    def require(self) -> None:
        """Raise ParityError unless all checks passed."""
        if not self.passed:
            raise ParityError(str(self.worst))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"passed": self.passed, "checks": [one.to_dict() for one in self.checks]}


Tensors = Mapping[str, torch.Tensor]


def compare(name: str, truth: Tensors, eager: Tensors, got: Tensors) -> Check:
    """Compare tensors of the same names; the worst one counts, on either side.

    Raises:
        ValueError: names or shapes differ.
    """
    for other in (eager, got):
        if {k: v.shape for k, v in other.items()} != {k: v.shape for k, v in truth.items()}:
            raise ValueError(f"{name}: not the same tensors")
    sizes = {key: _largest(value) for key, value in truth.items()}
    most = max(sizes.values(), default=0.0)
    scales = {key: size if size > 1e-9 * most else most or 1.0 for key, size in sizes.items()}
    dtype = next(iter(eager.values())).dtype if eager else torch.float32

    def worst(values: Tensors) -> float:
        errors = [
            _largest(value.double() - truth[key]) / scales[key] for key, value in values.items()
        ]
        return max(errors, default=0.0)

    eager_error = worst(eager)
    floor = UNITS.get(dtype, 4.0) * torch.finfo(dtype).eps
    return Check(name, worst(got), eager_error, 2.0 * eager_error + floor)


def _largest(values: torch.Tensor) -> float:
    """The largest magnitude; infinity where there is a NaN."""
    if values.numel() == 0:
        return 0.0
    largest = float(values.abs().max())
    return math.inf if math.isnan(largest) else largest


def check(row: Row, eager: nn.Module, patched: nn.Module, images: torch.Tensor) -> Parity:
    """Compare a patched model with the eager model that it is a copy of.

    In training, all three draw the same random numbers.

    Raises:
        ParityError: the true output is all zeros, so that there is nothing to compare.
    """
    oracle = copy.deepcopy(eager).double()
    unpatch(oracle)
    truth = _results(row, oracle, images.double())
    del oracle
    if not any(_largest(value) for value in truth["output"].values()):
        raise ParityError(
            "the reference output is all zeros (weights that are zero?), so nothing was compared"
        )
    ours = _results(row, patched, images)
    if row.form == "int8":
        plain = _results(row, eager, images)
        return Parity((_angle(*(found["output"]["output"] for found in (truth, plain, ours))),))
    if row.form == "bfloat16":
        eager, images = copy.deepcopy(eager).bfloat16(), images.bfloat16()
    plain = _results(row, eager, images)
    checks = [compare(kind, truth[kind], plain[kind], ours[kind]) for kind in truth if truth[kind]]
    return Parity(tuple(checks))


def _angle(truth: torch.Tensor, eager: torch.Tensor, got: torch.Tensor) -> Check:
    """1 - cosine, of the worst image: 0 is the same direction."""

    def of(values: torch.Tensor) -> float:
        return 1.0 - float(F.cosine_similarity(values.double(), truth, dim=-1).min())

    error = of(got)
    return Check(
        "1 - cosine", math.inf if math.isnan(error) else error, of(eager), 1.0 - MIN_COSINE
    )


def _results(
    row: Row, model: nn.Module, images: torch.Tensor
) -> dict[str, dict[str, torch.Tensor]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        # A step changes nothing of what is compared, and is PyTorch's on both sides.
        out = train_step(model, images) if row.trains else forward(model, images)()
    gradients = {
        name: parameter.grad for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }  # fmt: skip
    model.zero_grad(set_to_none=True)
    return {"output": {"output": out}, "gradients": gradients}
