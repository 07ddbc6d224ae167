"""Benchmarks of ops: right ones are timed, wrong ones are not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests import needs
from vitkern.bench import ops
from vitkern.bench.ops import OpRow, measure, rows
from vitkern.bench.timing import Plan
from vitkern.dispatch import OPERATORS, UnsupportedInput
from vitkern.dispatch.backend import Backend

PLAN = Plan(min_rounds=2, min_seconds=0.0, sample_seconds=0.0)


def tail(op: str) -> str:
    return next(case.name for case in ops._cases(op).CASES if "tail" in case.tags)


@needs.library
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("op", ["linear", "layer_norm"])
def test_an_op_is_measured(op: str, dtype: str) -> None:
    result = measure(OpRow(op, "cpu", tail(op), dtype), PLAN)
    assert result.ok
    assert result.ratio_to_eager is not None
    assert result.ratio_to_eager.count == 2
    assert (result.share_of_peak is None) == (op == "layer_norm")  # which has no products
    row = json.loads(json.dumps(result.to_dict()))
    assert row["name"] == result.row.name
    assert row["form"] == dtype
    assert 0.0 <= row["check"]["error"] <= row["check"]["allowed"]


def test_a_wrong_op_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    eager = OPERATORS["linear"].backends["eager"]

    def forward(call: Any, needs_grad: bool) -> Any:
        out, saved = eager.forward(call, needs_grad)
        return out * 1.01, saved

    wrong = Backend("wrong", lambda call: [], forward)
    monkeypatch.setitem(OPERATORS["linear"].backends, "wrong", wrong)

    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("a wrong op was timed")

    monkeypatch.setattr(ops, "interleave", refuse)
    result = measure(OpRow("linear", "wrong", tail("linear")), PLAN)
    assert not result.ok
    assert result.to_dict()["ok"] is False
    assert result.seconds is None


def test_a_backend_that_refuses_says_so() -> None:
    with pytest.raises(UnsupportedInput):
        measure(OpRow("linear", "cpu", tail("linear"), "float16"), PLAN)


def test_names() -> None:
    row = OpRow("window_attention", "cpu", "swin-t-stage0", "bfloat16")
    assert OpRow.from_name(row.name) == row
    for name in ("", "mlp", "mlp-cpu", "mlp-cpu-float32", "mlp-cpu-a-float99"):
        with pytest.raises(ValueError, match="is no name of a benchmark"):
            OpRow.from_name(name)


@needs.library
def test_rows_are_of_every_op_that_has_a_kernel() -> None:
    found = rows()
    on_cpu = {name for name, operator in OPERATORS.items() if "cpu" in operator.backends}
    assert {row.op for row in found} == on_cpu
    assert all(row.backend != "eager" for row in found)
    assert len({row.name for row in found}) == len(found)
    assert rows("float16") == []
    assert {row.case for row in rows("float32", "tail")} & {tail("linear")}
