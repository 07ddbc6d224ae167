"""The measurement of a row: right models are timed, wrong ones are not."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from vitkern._library import load
from vitkern.bench import allocator, child, contention, measure
from vitkern.bench.contention import Contention
from vitkern.bench.models import Row
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


needs_library = pytest.mark.skipif(not load().available, reason="nothing to patch with")


@needs_library
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
        original = measure.patch

        def patch(model: torch.nn.Module) -> Any:
            model.register_forward_hook(lambda module, args, out: change(out))
            return original(model)

        monkeypatch.setattr(measure, "patch", patch)

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
    monkeypatch.setattr(measure, "patch", lambda model: report)
    result = measure.measure(ROW, PLAN, with_faults=True)
    assert result.ok  # it is right, and no failure
    assert result.notes[0] == f"not timed, nothing was patched: {reason}"
    assert result.eager is result.patched is result.speedup is result.memory is None


def test_a_mixture_of_backends_is_timed() -> None:
    both = (PatchedModule("a", "linear", "eager"), PatchedModule("b", "linear", "cpu + eager"))
    assert measure.nothing_patched(PatchReport(both, ())) is None
    assert measure.nothing_patched(PatchReport(both[:1], ())) is not None


@needs_library
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
    assert len(kept["peak"]) == 3 * load().available
    # Each pass has a few hundred by chance (the interpreter, the kernel's own): 0 to 300 were seen.
    assert returned["faults"]["eager"] > 2000  # 12 blocks, 12 results of 37 pages or more in each
    assert kept["faults"]["eager"] < returned["faults"]["eager"] / 3


@needs_library
def test_with_faults_both_are_reported(in_this_process: None) -> None:
    result = measure.measure(ROW, PLAN, with_memory=False, with_faults=True)
    if allocator.is_glibc():
        assert result.speedup_without_faults is not None
        assert result.faults_left is not None
    else:
        assert "page faults" in result.notes[-1]
