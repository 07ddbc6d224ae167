"""The measurement of a row: right models are timed, wrong ones are not."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch

from tests import needs
from vitkern._library import load
from vitkern.bench import allocator, child, contention, measure
from vitkern.bench.contention import Contention
from vitkern.bench.forms import FormUnavailable
from vitkern.bench.models import PRODUCTS, Row
from vitkern.bench.timing import Plan
from vitkern.patching.report import PatchedModule, PatchReport, SkippedModule

ROW = Row("vit_tiny_patch16_224", 1)
PLAN = Plan(min_rounds=2, min_seconds=0.0, sample_seconds=0.0)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """New processes are slow to start: they are tested below."""

    def call(module: str, function: str, argument: Any, environment: Any) -> Any:
        return json.loads(json.dumps(getattr(measure, function)(argument)))

    monkeypatch.setattr(child, "call", call)


@needs.library
def test_a_row_is_measured(in_this_process: None) -> None:
    steps: list[str] = []
    result = measure.measure(ROW, PLAN, with_memory=False, progress=steps.append)
    assert steps == ["model", "parity", "time", ""]
    assert result.ok
    assert result.eager is not None
    assert result.eager.count == 2
    assert result.speedup is not None
    assert result.speedup.median > 0.0
    assert result.flops is not None
    assert result.faults is not None
    assert result.memory is result.speedup_without_faults is None
    assert json.loads(json.dumps(result.to_dict()))["row"]["model"] == ROW.model
    assert result.backends["cpu"] > 0
    assert result.patched_share is not None
    assert result.notes == []


@pytest.fixture
def sabotaged(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the patched model of the next measurement do something to its output."""

    def sabotage(change: Any) -> None:
        original = measure.prepare

        def prepare(model: torch.nn.Module, *others: Any) -> Any:
            model.register_forward_hook(lambda module, args, out: change(out))
            return original(model, *others)

        monkeypatch.setattr(measure, "prepare", prepare)

    return sabotage


def refuse_to_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def call(*args: Any, **options: Any) -> None:
        raise AssertionError("a wrong model was timed")

    monkeypatch.setattr(child, "call", call)


def test_a_wrong_model_is_not_timed(monkeypatch: pytest.MonkeyPatch, sabotaged: Any) -> None:
    refuse_to_time(monkeypatch)
    sabotaged(lambda out: out * 1.001)
    result = measure.measure(ROW, PLAN)
    assert not result.ok
    assert result.eager is None
    assert result.notes[-1].startswith("not timed, parity failed: output: error 0.001, eager's")


def test_a_model_that_fails_is_not_timed(monkeypatch: pytest.MonkeyPatch, sabotaged: Any) -> None:
    def fail(out: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no kernel here. And more.\nAnd more lines.")

    refuse_to_time(monkeypatch)
    sabotaged(fail)
    result = measure.measure(ROW, PLAN)
    assert (result.ok, result.parity) == (False, None)
    assert result.notes[-1] == "not timed, it fails: no kernel here"


def test_an_output_of_zeros_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_to_time(monkeypatch)
    original = measure.build

    def build(row: Row) -> Any:
        model, images = original(row)
        model.register_forward_hook(lambda module, args, out: out * 0.0)
        return model, images

    monkeypatch.setattr(measure, "build", build)
    result = measure.measure(ROW, PLAN)
    assert (result.ok, result.parity) == (False, None)
    assert "not timed, parity failed: the reference output is all zeros" in result.notes[-1]


@pytest.mark.parametrize(
    "report, reason",
    [
        (PatchReport((), ()), "no known modules"),
        (
            PatchReport((), (SkippedModule("a", "linear", {"cpu": ["no C++ library: why"]}),)),
            "cpu: no C++ library: why",
        ),
        (
            PatchReport((PatchedModule("a", "linear", "eager"),), ()),
            "all its modules run on the eager backend, which is plain PyTorch",
        ),
    ],
)
def test_where_nothing_was_patched_nothing_is_timed(
    monkeypatch: pytest.MonkeyPatch, report: PatchReport, reason: str
) -> None:
    """The ratio of two times of the same code is noise."""
    refuse_to_time(monkeypatch)
    monkeypatch.setattr(measure, "prepare", lambda *arguments: report)
    result = measure.measure(ROW, PLAN, with_faults=True)
    assert result.ok  # it is right, and no failure
    assert result.notes[0] == f"not timed, nothing was patched: {reason}"
    assert result.eager is result.patched is result.speedup is result.memory is None


def test_a_mixture_of_backends_is_timed() -> None:
    both = (PatchedModule("a", "linear", "eager"), PatchedModule("b", "linear", "cpu + eager"))
    assert measure.nothing_patched(PatchReport(both, ())) is None
    assert measure.nothing_patched(PatchReport(both[:1], ())) is not None


@needs.library
@pytest.mark.parametrize("found", [None, Contention(1.5, 2, 2)])
def test_the_process_that_times_tells_how_busy_others_were(
    in_this_process: None, monkeypatch: pytest.MonkeyPatch, found: Contention | None
) -> None:
    samples: list[str] = []
    monkeypatch.setattr(contention.Meter, "sample", lambda self: samples.append("sample"))
    monkeypatch.setattr(contention.Meter, "result", lambda self: found)
    result = measure.measure(ROW, PLAN, with_memory=False)
    assert result.contention == found
    assert len(samples) == 3  # before the first round, and after each
    plain = json.loads(json.dumps(result.to_dict()))["contention"]
    assert plain == (found and found.to_dict())


@pytest.mark.skipif(not allocator.is_glibc(), reason="needs glibc")
def test_a_process_that_keeps_its_memory_has_few_page_faults() -> None:
    plan = Plan(warmup=3, min_rounds=2, min_seconds=0.0, sample_seconds=0.0)
    argument = {"row": ROW.to_dict(), "plan": vars(plan)}
    kept, returned = (
        child.call("measure", "time_here", argument, environment)
        for environment in (allocator.KEEP, allocator.RETURN)
    )
    assert {name: len(seconds) for name, seconds in kept["seconds"].items()} == {
        "eager": 2, "patched": 2,
    }  # fmt: skip
    assert len(kept["peaks"]["float32"]) == 3 * load().available
    # Each pass has a few hundred by chance (the interpreter, the kernel's own): 0 to 300 were seen.
    assert returned["faults"]["eager"] > 2000  # 12 blocks, 12 results of 37 pages or more in each
    assert kept["faults"]["eager"] < returned["faults"]["eager"] / 3


@needs.library
def test_with_faults_both_are_reported(in_this_process: None) -> None:
    result = measure.measure(ROW, PLAN, with_memory=False, with_faults=True)
    if allocator.is_glibc():
        assert result.speedup_without_faults is not None
        assert result.faults_left is not None
    else:
        assert "page faults" in result.notes[-1]


FORMS = [dataclasses.replace(ROW, form=form) for form in PRODUCTS]


@needs.library
@pytest.mark.parametrize("row", FORMS, ids=str)
def test_products_in_another_form(in_this_process: None, row: Row) -> None:
    result = measure.measure(row, PLAN, with_memory=False)
    assert result.ok, result.notes
    assert result.parity is not None
    (check,) = result.parity.checks
    assert check.name == ("1 - cosine" if row.form == "int8" else "output")
    assert check.error > 10 * check.eager_error or row.form == "bfloat16"
    assert check.error > 1e-5  # float32 would be nearer: it is the form that ran
    assert result.to_dict()["peak_form"] == row.form
    assert result.speedup is not None


@needs.library
def test_each_side_has_its_share_of_the_peak_of_its_own_form(
    in_this_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {"float32": 100.0, "int8": 400.0}

    class Known(measure.Peak):
        def __init__(self, form: str = "float32") -> None:
            super().__init__(probe=lambda seconds: rates[form], form=form)

    monkeypatch.setattr(measure, "Peak", Known)
    result = measure.measure(FORMS[1], PLAN, with_memory=False)
    assert result.peak is not None and result.peak.median == rates["int8"]
    assert result.flops and result.eager and result.patched
    for side, share, form in (
        (result.eager, result.eager_share, "float32"),
        (result.patched, result.patched_share, "int8"),
    ):
        assert share is not None
        reached = result.flops / side.median / 1e9 / rates[form]
        assert share.of_best == pytest.approx(reached)


@needs.library
@pytest.mark.parametrize("row", FORMS, ids=str)
def test_wrong_products_are_not_timed(
    monkeypatch: pytest.MonkeyPatch, sabotaged: Any, row: Row
) -> None:
    refuse_to_time(monkeypatch)
    sabotaged(lambda out: out.flip(-1))
    result = measure.measure(row, PLAN)
    assert not result.ok
    assert "not timed, parity failed" in result.notes[-1]


def test_a_form_without_a_kernel_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*arguments: Any) -> None:
        raise FormUnavailable("int8: no kernel here")

    refuse_to_time(monkeypatch)
    monkeypatch.setattr(measure, "prepare", none)
    result = measure.measure(FORMS[1], PLAN)
    assert not result.ok
    assert result.notes == ["not timed: int8: no kernel here"]
