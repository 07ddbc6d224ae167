"""One op on one backend beside eager PyTorch, on a shape of a real model.

The shapes are the cases that are tagged ``model``, which the tests read too. Blocks are compared
with their reference, which is what the modules of a model do one after the other. Weights are
parameters, as in a model, so that their packed forms are kept from call to call. The check in
float64 comes first, and eager finds memory at hand after it: the ratios are those without page
faults.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import vitkern.ops  # noqa: F401 - registers the ops
from vitkern.bench.contention import Contention, Meter
from vitkern.bench.flops import op_flops
from vitkern.bench.models import DTYPES
from vitkern.bench.parity import Check, compare
from vitkern.bench.peak import Peak, Share, share
from vitkern.bench.timing import Plan, Summary, interleave
from vitkern.dispatch import OPERATORS

__all__ = ["PLAN", "QUICK_PLAN", "OpResult", "OpRow", "measure", "rows"]

PLAN = Plan(min_rounds=5, min_seconds=0.1, max_seconds=2.0, sample_seconds=0.003)
QUICK_PLAN = Plan(min_rounds=3, min_seconds=0.01, max_seconds=0.5, sample_seconds=0.001)
PEAK_SECONDS = 0.003
"""Of a sample of the peak: calls are short, and so is what is sampled between them."""


@dataclass(frozen=True)
class OpRow:
    """One thing to measure: the op, who computes it, the name of a case, and the dtype."""

    op: str
    backend: str
    case: str
    dtype: str = "float32"

    @property
    def name(self) -> str:
        """Unique among the rows of a file."""
        return f"{self.op}-{self.backend}-{self.case}-{self.dtype}"

    @property
    def form(self) -> str:
        """Of the products, as :data:`vitkern.bench.peak.FORMS` names them."""
        return "bfloat16" if self.dtype == "bfloat16" else "float32"

    @staticmethod
    def from_name(name: str) -> OpRow:
        """The row of that name.

        Raises:
            ValueError: it is no such name.
        """
        op, _, rest = name.partition("-")
        backend, _, rest = rest.partition("-")
        case, _, dtype = rest.rpartition("-")
        if not case or dtype not in DTYPES:
            raise ValueError(f"{name!r} is no name of a benchmark of an op")
        return OpRow(op, backend, case, dtype)

    def make(self) -> Any:
        """The call."""
        case = next(one for one in _cases(self.op).CASES if one.name == self.case)
        return _make(self.op, case, self.dtype)


@dataclass(frozen=True)
class OpResult:
    """What was measured of a row; seconds are those of a call.

    Attributes:
        check: the error of the output, beside eager's.
        seconds: None where the output is wrong, which is not timed.
        flops: of the products; 0 where there are none.
    """

    row: OpRow
    check: Check
    flops: int
    seconds: Summary | None = None
    eager_seconds: Summary | None = None
    ratio_to_eager: Summary | None = None
    share_of_peak: Share | None = None
    contention: Contention | None = None

    @property
    def ok(self) -> bool:
        """Whether the output is right."""
        return self.check.passed

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        plain = {
            name: value.to_dict() if hasattr(value, "to_dict") else value
            for name, value in vars(self).items()
            if name != "row"
        }
        return {"name": self.row.name, "ok": self.ok, "form": self.row.form, **plain}


def rows(dtype: str = "float32", *tags: str) -> list[OpRow]:
    """Every op on every backend that takes its calls on this machine's CPU, on cases with ``tags``.

    Tags are ``model`` by default. Backends are asked about one small call of the op.
    """
    wanted = set(tags or ("model",))
    found = []
    for op, operator in sorted(OPERATORS.items()):
        cases = _cases(op)
        small = next(case for case in cases.CASES if "tail" in case.tags)
        refusals = operator.refusals(_make(op, small, dtype))
        found += [
            OpRow(op, backend, case.name, dtype)
            for backend, reasons in refusals.items()
            if backend != "eager" and not reasons
            for case in cases.CASES
            if wanted & set(case.tags)
        ]
    return found


def measure(row: OpRow, plan: Plan = PLAN) -> OpResult:
    """Check, then time in turns, on the threads that PyTorch uses now.

    Raises:
        UnsupportedInput: the backend does not take the case.
    """
    call = _as_parameters(row.make())
    runs = {side: _runner(row.op, side, call) for side in ("eager", row.backend)}
    with torch.inference_mode():
        exact = _tensors(_runner(row.op, "eager", _converted(call, torch.float64))())
        eager, got = (_tensors(runs[side]()) for side in ("eager", row.backend))
        result = OpResult(row, compare("output", exact, eager, got), op_flops(row.op, call))
        if not result.ok:
            return result
        del exact, eager, got
        peak, meter = Peak(PEAK_SECONDS, form=row.form), Meter()

        def between() -> None:
            peak.sample()
            meter.sample()

        times = interleave(runs, plan, between=between)
    return OpResult(
        row,
        result.check,
        result.flops,
        times.summary(row.backend),
        times.summary("eager"),
        times.ratio("eager", row.backend),
        share(result.flops, times.seconds[row.backend], peak),
        meter.result(),
    )


@functools.cache
def _cases(op: str) -> Any:
    return importlib.import_module(f"vitkern.ops.{op}.cases")


def _make(op: str, case: Any, dtype: str) -> Any:
    return _cases(op).make(case, DTYPES[dtype], "cpu", torch.Generator().manual_seed(1))


def _runner(op: str, backend: str, call: Any) -> Callable[[], Any]:
    return lambda: OPERATORS[op](call, backend)


def _floating(call: Any) -> dict[str, torch.Tensor]:
    return {
        name: value
        for name, value in zip(call._fields, call, strict=True)
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }


def _as_parameters(call: Any) -> Any:
    """The call with its weights as a model has them."""
    return call._replace(
        **{
            name: torch.nn.Parameter(value, requires_grad=False)
            for name, value in _floating(call).items()
            if "weight" in name
        }
    )


def _converted(call: Any, dtype: torch.dtype) -> Any:
    return call._replace(**{name: value.to(dtype) for name, value in _floating(call).items()})


def _tensors(output: Any) -> dict[str, torch.Tensor]:
    outputs = output if isinstance(output, tuple) else (output,)
    return {str(index): value for index, value in enumerate(outputs)}
