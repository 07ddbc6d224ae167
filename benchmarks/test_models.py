"""Whole models, eager and patched: the rows of the table, or 40 with ``--wide``."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from benchmarks.conftest import Record
from vitkern.bench.measure import measure
from vitkern.bench.models import TARGETS, WIDE, Row, build
from vitkern.bench.passes import make_pass
from vitkern.bench.timing import Plan
from vitkern.patching import patch

PLAN = Plan(min_rounds=5, min_seconds=3.0, max_seconds=15.0)

pytest.importorskip("timm")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    config = metafunc.config
    rows = WIDE if config.getoption("--wide") else TARGETS
    rows = tuple(dataclasses.replace(row, dtype=config.getoption("--dtype")) for row in rows)
    metafunc.parametrize("row", rows, ids=[row.slug for row in rows])


def test_model(benchmark: Any, record: Record, row: Row) -> None:
    result = measure(row, PLAN)
    assert result.ok, "; ".join(result.notes)
    record("models", {"name": row.slug, **result.to_dict()})
    model, images = build(row)
    patch(model)
    benchmark.pedantic(make_pass(row, model, images), rounds=3, iterations=1, warmup_rounds=1)
