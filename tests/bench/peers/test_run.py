"""The measurement of a row of peers, with systems that are made up beside eager PyTorch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from vitkern._library import load
from vitkern.bench import child
from vitkern.bench.models import Row
from vitkern.bench.passes import forward
from vitkern.bench.peers import onnx_runtime, run, systems
from vitkern.bench.peers.result import Entry, PeersResult
from vitkern.bench.peers.system import EAGER, OURS, Run, System, Unavailable, require
from vitkern.bench.timing import Plan

ROW = Row("vit_tiny_patch16_224", 2)
PLAN = Plan(min_rounds=3, min_seconds=0.0, sample_seconds=0.0)


class Clock:
    """Made up: a pass takes what its system says, and all else next to nothing."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1e-6
        return self.now


CLOCK = Clock()


def scaled(factor: float, seconds: float = 1.0) -> Callable[[nn.Module, torch.Tensor], Run]:
    """Eager's logits times a factor, after so many seconds of the made-up clock."""

    def build(model: nn.Module, images: torch.Tensor) -> Run:
        def once() -> torch.Tensor:
            CLOCK.now += seconds
            return forward(model, images)() * factor

        return once

    return build


PLAIN = System(EAGER, "PyTorch", "fp32", scaled(1.0))


def refusing(error: Exception) -> Callable[[nn.Module, torch.Tensor], Run]:
    def build(model: nn.Module, images: torch.Tensor) -> Run:
        raise error

    return build


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes a table of systems, and runs what is for new processes in this one."""

    def call(module: str, function: str, argument: Any, environment: Any) -> Any:
        assert (module, function) == ("peers.run", "time_here")
        return json.loads(json.dumps(run.time_here(argument)))

    def register(*found: System) -> None:
        monkeypatch.setattr(systems, "SYSTEMS", found)

    monkeypatch.setattr(child, "call", call)
    monkeypatch.setattr(run, "SETTLE", 0.0)
    monkeypatch.setattr(run, "clock", CLOCK)
    return register


def entries(result: PeersResult) -> dict[str, Entry]:
    return {entry.name: entry for entry in result.entries}


def test_all_systems_are_timed_and_ours_are_compared_with_the_fastest_peer(
    registered: Callable[..., None],
) -> None:
    registered(
        PLAIN,
        System("slow", "a", "fp32", scaled(1.0, seconds=2.0)),
        System("fast", "b", "fp32", scaled(1.0)),
        System("other precision", "b", "int8", scaled(1.01)),
        System("ours", OURS, "fp32", scaled(1.0, seconds=4.0)),
    )
    steps: list[str] = []
    result = run.measure(ROW, PLAN, progress=steps.append)
    assert steps == ["model", "float64", "peers: convert and time", ""]
    assert result.ok
    found = entries(result)
    assert all(entry.seconds and entry.seconds.count == 3 for entry in found.values())
    assert found[EAGER].speedup is not None
    assert found[EAGER].speedup.median == 1.0
    (one,) = result.against
    assert (one.ours, one.precision, one.peer) == ("ours", "fp32", "fast")
    assert one.ratio is not None
    assert one.ratio.median == pytest.approx(0.25, rel=1e-3)
    assert found["slow"].speedup is not None
    assert found["slow"].speedup.median == pytest.approx(0.5, rel=1e-3)
    assert found["slow"].error is not None
    assert found["slow"].error < 1e-5
    assert found["slow"].allowed is None
    assert found["ours"].allowed is not None
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["against"][0]["peer"] == "fast"


def test_a_peer_that_is_missing_or_fails_is_an_entry_with_its_reason(
    registered: Callable[..., None],
) -> None:
    registered(
        PLAIN,
        System("absent", "a", "fp32", refusing(AssertionError("built")), ("no_such_package",)),
        System("elsewhere", "a", "bf16", refusing(Unavailable("not on this processor"))),
        System("broken", "a", "int8", refusing(KeyError("no such operator"))),
        System("short", "a", "fp32", lambda model, images: lambda: torch.zeros(1, 3)),
        System("ours", OURS, "fp32", scaled(1.0)),
    )
    result = run.measure(ROW, PLAN)
    reasons = {name: entry.reason for name, entry in entries(result).items()}
    assert reasons == {
        EAGER: None,
        "absent": "not installed: pip install no_such_package",
        "elsewhere": "not on this processor",
        "broken": "fails: 'no such operator'",
        "short": "fails: logits: not the same tensors",
        "ours": None,
    }
    assert result.ok
    assert result.against[0].peer is result.against[0].ratio is None


def test_a_peer_that_deviates_is_timed_and_reported(registered: Callable[..., None]) -> None:
    def turned(model: nn.Module, images: torch.Tensor) -> Run:
        return lambda: forward(model, images)().flip(-1)

    def lost(model: nn.Module, images: torch.Tensor) -> Run:
        return lambda: torch.full_like(forward(model, images)(), torch.nan)

    registered(
        PLAIN, System("turned", "a", "fp32", turned), System("lost", "a", "fp32", lost),
        System("double", "a", "fp32", scaled(2.0)),
    )  # fmt: skip
    result = run.measure(ROW, PLAN)
    found = entries(result)
    assert result.ok
    assert found["turned"].seconds is not None
    assert found["turned"].cosine is not None
    assert found["turned"].cosine < 0.5
    assert found["double"].error == pytest.approx(1.0, rel=1e-4)
    assert found["double"].cosine == pytest.approx(1.0)
    plain = json.loads(json.dumps(result.to_dict(), allow_nan=False))["entries"][2]
    assert (plain["name"], plain["error"], plain["cosine"]) == ("lost", None, None)


def test_a_peer_that_is_much_slower_is_not_timed_in_turns(registered: Callable[..., None]) -> None:
    registered(
        PLAIN,
        System("slow", "a", "bf16", scaled(1.0, seconds=7.0)),
        System("ours", OURS, "fp32", scaled(1.0)),
    )
    result = run.measure(ROW, PLAN)
    found = entries(result)["slow"]
    assert found.seconds is None
    assert found.reason == "not timed: 7 times as slow as eager in one pass"
    assert not found.wrong
    assert result.ok


@pytest.mark.parametrize(
    "system, right",
    [
        (System("ours", OURS, "fp32", scaled(1.001)), False),
        (System("ours", OURS, "bf16", scaled(1.001)), True),  # eager in bfloat16 is no better
        (System("ours", OURS, "bf16", scaled(1.5)), False),
        (System("ours", OURS, "int8", scaled(1.5), min_cosine=0.99), True),
        (System("ours", OURS, "int8", scaled(-1.0), min_cosine=0.99), False),
        (System("ours", OURS, "fp32", refusing(RuntimeError("no kernel"))), False),
    ],
)
def test_ours_have_to_be_right_to_be_timed(
    registered: Callable[..., None], system: System, right: bool
) -> None:
    registered(PLAIN, system, System("peer", "a", "fp32", scaled(1.0)))
    result = run.measure(ROW, PLAN)
    ours = entries(result)["ours"]
    assert result.ok is right
    assert (ours.seconds is not None) is right
    assert ours.wrong is not right
    assert bool(result.against) is right
    assert (ours.reason is None) is right
    assert entries(result)["peer"].seconds is not None


def test_ours_that_cannot_run_here_are_no_failure(registered: Callable[..., None]) -> None:
    registered(PLAIN, System("ours", OURS, "fp32", refusing(Unavailable("no library"))))
    result = run.measure(ROW, PLAN)
    assert result.ok
    assert entries(result)["ours"].reason == "no library"


def test_a_system_that_takes_its_process_with_it_is_left_out(
    registered: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are measured in another process."""
    in_process, calls = child.call, []

    def call(module: str, function: str, argument: Any, environment: Any) -> Any:
        calls.append(dict(argument["excluded"]))
        try:
            return in_process(module, function, argument, environment)
        except KeyboardInterrupt as error:  # what nothing in it can catch
            raise child.ChildFailed("Segmentation fault") from error

    def dying(last: int) -> Callable[[nn.Module, torch.Tensor], Run]:
        def build(model: nn.Module, images: torch.Tensor) -> Run:
            passes = []

            def once() -> torch.Tensor:
                passes.append(1)
                if len(passes) == last:
                    raise KeyboardInterrupt
                return forward(model, images)()

            return once

        return build

    passes = 0

    def counted(model: nn.Module, images: torch.Tensor) -> Run:
        def once() -> torch.Tensor:
            nonlocal passes
            passes += 1
            return forward(model, images)()

        return once

    registered(PLAIN, System("counted", "a", "fp32", counted))
    run.measure(ROW, PLAN)

    monkeypatch.setattr(child, "call", call)
    registered(
        PLAIN,
        System("crash", "a", "fp32", refusing(KeyboardInterrupt())),  # type: ignore[arg-type]
        System("late", "a", "fp32", dying(3)),  # while it is timed
        System("ours", OURS, "fp32", scaled(1.0)),
        System("last", "a", "fp32", dying(passes)),  # while page faults are counted
    )
    calls.clear()
    result = run.measure(ROW, PLAN)
    why = "its process ended: Segmentation fault"
    gone = dict.fromkeys(("crash", "late", "last"), why)
    assert calls == [dict(list(gone.items())[:count]) for count in range(4)]
    assert {entry.name: entry.reason for entry in result.entries} == {
        EAGER: None, **gone, "ours": None,
    }  # fmt: skip
    assert result.ok


def test_eager_that_fails_is_an_error(
    registered: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(*args: Any) -> Any:
        raise child.ChildFailed("no memory")

    registered(PLAIN)
    monkeypatch.setattr(child, "call", call)
    with pytest.raises(child.ChildFailed, match="no memory"):
        run.measure(ROW, PLAN)


def test_an_output_of_zeros_is_not_timed(
    registered: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = run.build

    def build(row: Row) -> Any:
        model, images = original(row)
        model.register_forward_hook(lambda module, args, out: out * 0.0)
        return model, images

    registered(PLAIN)
    monkeypatch.setattr(run, "build", build)
    result = run.measure(ROW, PLAN)
    assert not result.ok
    assert "the reference output is all zeros" in result.notes[0]


def test_systems_leave_the_model_to_the_next(registered: Callable[..., None]) -> None:
    """The real table's own entry patches a copy."""
    ours = next(system for system in systems.SYSTEMS if system.ours)
    registered(ours)
    model = nn.Sequential(nn.Linear(3, 3))
    before = dict(model.named_modules())
    with pytest.raises(Unavailable, match="nothing was patched"):
        ours.build(model, torch.zeros(1, 3))
    assert dict(model.named_modules()) == before


def test_everything_sleeps_before_each_sample(
    registered: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads that still spin would disturb whoever is next."""
    slept: list[float] = []
    registered(PLAIN, System("peer", "a", "fp32", scaled(1.0)))
    monkeypatch.setattr(run, "SETTLE", 0.25)
    monkeypatch.setattr(run.time, "sleep", slept.append)
    run.measure(ROW, PLAN)
    assert slept == [0.25] * 2 * (1 + 3)  # two systems: to warm up, and in each round


@pytest.mark.slow
def test_new_processes_measure_the_real_table_without_a_peer_that_kills_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other peers are left out, as their conversions are slow."""
    broken = tmp_path / "packages"
    for name in onnx_runtime.PACKAGES:
        (broken / name).mkdir(parents=True)
        (broken / name / "__init__.py").write_text("import os\nos.abort()\n")
    path = os.pathsep.join(filter(None, (str(broken), os.environ.get("PYTHONPATH"))))
    monkeypatch.setenv("PYTHONPATH", path)
    model, images = run.build(ROW)
    torch.save(run._references(model, images), tmp_path / "references.pt")
    left_out = {
        system.name: "left out"
        for system in systems.SYSTEMS
        if system.peer and system.vendor != "ONNX Runtime"
    }
    argument = {"row": ROW.to_dict(), "plan": vars(PLAN), "folder": str(tmp_path)}
    result = run._result(ROW, 10**9, run._in_a_process(argument, left_out))
    assert result.ok, [entry.reason for entry in result.entries]
    found = entries(result)
    assert (found["ONNX Runtime"].reason or "").startswith("its process ended: ")
    ran = {entry.name for entry in result.entries if entry.seconds is not None}
    assert EAGER in ran
    assert not ran & left_out.keys()
    if load().available:
        assert {system.name for system in systems.SYSTEMS if system.ours} <= ran
        assert result.floor is not None


def test_versions_name_every_package(registered: Callable[..., None]) -> None:
    registered(PLAIN, System("a", "a", "fp32", scaled(1.0), ("numpy", "no_such_package")))
    found = run.versions()
    assert found["no_such_package"] is None
    assert found["numpy"]
    assert found["torch"] == torch.__version__.partition("+")[0]


def test_the_table() -> None:
    names = [system.name for system in systems.SYSTEMS]
    assert len(set(names)) == len(names)
    assert names[0] == EAGER
    assert not systems.SYSTEMS[0].peer
    assert {system.precision for system in systems.SYSTEMS if system.peer} == {
        "fp32", "bf16", "int8",
    }  # fmt: skip


def test_bad_entries() -> None:
    with pytest.raises(ValueError, match="precision must be one of fp32, bf16, int8, got 'int4'"):
        System("a", "a", "int4", scaled(1.0))
    with pytest.raises(ValueError, match="min_cosine"):
        System("a", OURS, "int8", scaled(1.0))
    with pytest.raises(Unavailable, match="pip install no_such_one no_such_two"):
        require(("torch", "no_such_one", "no_such_two"))
