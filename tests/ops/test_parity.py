"""Every backend gives what the reference gives: all cases, dtypes, layouts, instruction sets."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.ops import harness

# Processors take long for these shapes: one dtype and no gradients there.
MODELS = harness.params("model", only=harness.DTYPES if harness.ON_GPU else (torch.float32,))


@pytest.mark.parametrize(harness.ARGUMENTS, MODELS)
def test_models(
    op: str, backend: str, isa: str | None, case: Any, dtype: torch.dtype, layout: str
) -> None:
    call = harness.make(op, case, dtype)
    harness.check(op, backend, call, grad=harness.ON_GPU, layout=layout, poison=False)


@pytest.mark.parametrize(harness.ARGUMENTS, harness.params("tail", "edge", layouts=harness.LAYOUTS))
def test_inference(
    op: str, backend: str, isa: str | None, case: Any, dtype: torch.dtype, layout: str
) -> None:
    harness.check(op, backend, harness.make(op, case, dtype), grad=False, layout=layout)


@pytest.mark.parametrize(
    harness.ARGUMENTS,
    harness.params("tail", "edge", layouts=harness.LAYOUTS)
    + harness.params("tail", "edge", every_isa=True),
)
def test_training(
    op: str, backend: str, isa: str | None, case: Any, dtype: torch.dtype, layout: str
) -> None:
    with harness.on_isa(isa):
        harness.check(op, backend, harness.make(op, case, dtype), grad=True, layout=layout)
