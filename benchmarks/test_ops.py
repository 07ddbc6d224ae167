"""Every backend of every op against eager PyTorch, on the shapes of real models.

What is measured, and how, is in :mod:`vitkern.bench.ops`.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.conftest import Record
from vitkern.bench import ops
from vitkern.dispatch import OPERATORS


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    found = ops.rows(metafunc.config.getoption("--dtype"))
    metafunc.parametrize("row", found, ids=[row.name for row in found])


def test_op(benchmark: Any, record: Record, row: ops.OpRow) -> None:
    result = ops.measure(row)
    assert result.ok, str(result.check)
    record("ops", result.to_dict())
    call = row.make()
    with torch.inference_mode():
        benchmark.pedantic(
            OPERATORS[row.op], (call, row.backend), rounds=5, iterations=1, warmup_rounds=1
        )
