"""Every backend of every op against eager PyTorch, on the shapes of real models.

The shapes are the cases tagged ``model``, which the tests read too. Blocks are compared with their
reference, which is what the modules of a model do one after the other. Weights are parameters, as
in a model, so that their packed forms are kept from call to call. After the check in float64 eager
finds memory at hand and has few page faults: the ratios are those without.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.conftest import Record
from tests.ops import harness
from vitkern.bench.flops import op_flops
from vitkern.bench.models import DTYPES
from vitkern.bench.peak import Peak, share
from vitkern.bench.timing import Plan, interleave
from vitkern.dispatch import OPERATORS

PLAN = Plan(min_rounds=5, min_seconds=0.1, max_seconds=2.0, sample_seconds=0.003)

CASES = [
    pytest.param(op, backend, case, id=f"{op}-{backend}-{case.name}")
    for op in sorted(OPERATORS)
    for backend in harness.backends(op)
    for case in harness.cases(op, "model")
]


def as_parameters(call: Any) -> Any:
    """The call with its weights as a model has them."""
    return call._replace(
        **{
            name: torch.nn.Parameter(value, requires_grad=False)
            for name, value in harness.floating(call).items()
            if "weight" in name
        }
    )


@pytest.mark.parametrize("op, backend, case", CASES)
def test_op(
    benchmark: Any,
    record: Record,
    pytestconfig: pytest.Config,
    op: str,
    backend: str,
    case: Any,
) -> None:
    dtype = pytestconfig.getoption("--dtype")
    call = as_parameters(harness.make(op, case, DTYPES[dtype]))
    harness.check(op, backend, call, grad=False, poison=False)
    runs = {side: harness.runner(op, side) for side in ("eager", backend)}
    with torch.inference_mode():
        peak = Peak(0.003)
        times = interleave(
            {side: lambda run=run: run(call) for side, run in runs.items()},
            PLAN,
            between=peak.sample,
        )
        flops = op_flops(op, call)
        reached = share(flops, times.seconds[backend], peak)
        record(
            "ops",
            {
                "name": f"{op}-{backend}-{case.name}-{dtype}",
                "seconds": times.summary(backend).to_dict(),
                "eager_seconds": times.summary("eager").to_dict(),
                "ratio_to_eager": times.ratio("eager", backend).to_dict(),
                "flops": flops,
                "share_of_peak": reached and reached.to_dict(),
            },
        )
        benchmark.pedantic(runs[backend], (call,), rounds=5, iterations=1, warmup_rounds=1)
