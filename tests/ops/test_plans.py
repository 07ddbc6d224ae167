"""Launches that are written down and repeated: the same bits as those that are decided anew."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.ops import harness
from vitkern import ops
from vitkern.ops._family import Family
from vitkern.ops._plans import Plan, kind_of
from vitkern.ops._triton.operator import TRITON

FAMILIES: dict[str, Family] = {"triton": TRITON}
if harness.EMULATED:
    from vitkern.testing import EMULATED

    FAMILIES["cuda_emulated"] = EMULATED.family
if harness.ON_GPU:
    from vitkern.ops._cuda.device import DEVICE

    FAMILIES["cuda"] = DEVICE.family


def _params() -> Iterator[Any]:
    for op in harness.OPS:
        for backend in set(harness.kernels(op)) & FAMILIES.keys():
            for i, case in enumerate(harness.cases(op, "edge")):
                dtype = harness.DTYPES[i % 3]
                yield pytest.param(op, backend, case, dtype, id=f"{op}-{backend}-{case.name}")


PARAMS = sorted(_params(), key=lambda one: str(one.id))


def plans(backend: str) -> list[Plan]:
    """Those that there are."""
    return [
        plan
        for planned in FAMILIES[backend].planned.values()
        for plan in planned.kinds.values()
        if isinstance(plan, Plan)
    ]


def forget(backend: str) -> None:
    for planned in FAMILIES[backend].planned.values():
        planned.kinds.clear()


def test_there_are_some() -> None:
    wanted = harness.EMULATED or harness.ON_GPU or bool(os.environ.get("TRITON_INTERPRET"))
    assert bool(PARAMS) is wanted


@pytest.mark.parametrize("op, backend, case, dtype", PARAMS)
def test_the_same_bits(op: str, backend: str, case: Any, dtype: torch.dtype) -> None:
    """Of other values in other memory too, with what is not written left as NaN."""
    run = harness.runner(op, backend)
    calls = [harness.make(op, case, dtype, seed) for seed in (1, 2)]
    forget(backend)
    expected = []
    for call in calls:
        forget(backend)
        expected.append(harness.evaluate(run, call, grad=True))
    assert not plans(backend)
    harness.evaluate(run, calls[0], grad=True)
    with harness.poisoned():
        for _ in range(2):
            for call, values in zip(calls, expected, strict=True):
                got = harness.evaluate(run, call, grad=True)
                for name, value in values.items():
                    assert torch.equal(got[name], value), name
    tensors = harness.floating(calls[0])
    # CUDA's layer norm leaves a residual's scale to PyTorch.
    anew = "residual_scale" in tensors and backend != "triton"
    assert plans(backend) or anew or not all(t.numel() for t in tensors.values())


@pytest.mark.parametrize("backend", sorted({one.values[1] for one in PARAMS}))
def test_other_alignments_and_shared_memory(backend: str) -> None:
    """Kinds of their own; one tensor twice is decided anew."""
    weight, x = (torch.randn(32, 32, device=harness.DEVICE) for _ in range(2))
    odd = torch.empty(32 * 32 + 1, device=harness.DEVICE)[1:].view(32, 32).copy_(x)
    forget(backend)
    for _ in range(3):
        for one in (x, odd):
            got = ops.linear(one, weight, activation="relu", backend=backend)
            torch.testing.assert_close(got, (x @ weight.T).relu())
        got = ops.linear(x, weight, residual=x, backend=backend)
        torch.testing.assert_close(got, x + x @ weight.T)
    assert kind_of((x, weight, x)) is None
    assert kind_of((x, weight)) != kind_of((odd, weight))
