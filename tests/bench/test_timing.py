"""Interleaving, with a clock that only moves when a callable says so."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest

from vitkern.bench.timing import Comparison, Plan, Summary, interleave, summarize


class Clock:
    """Seconds that pass when told to; ``log`` says who let them pass."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def __call__(self) -> float:
        return self.now

    def runs(self, name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.log.append(name)
            self.now += seconds

        return run


def plan(**options: float) -> Plan:
    defaults = {"warmup": 0, "min_rounds": 4, "min_seconds": 0.0, "sample_seconds": 0.0}
    return Plan(**(defaults | options))  # type: ignore[arg-type]


def test_rounds_take_turns_and_the_first_one_rotates() -> None:
    clock = Clock()
    runs = {"a": clock.runs("a", 2.0), "b": clock.runs("b", 1.0)}
    result = interleave(runs, plan(), clock=clock)
    # One call of each to warm up and one to see how long it takes; then the rounds.
    assert "".join(clock.log) == "aabb" + "abbaabba"
    assert result == Comparison({"a": (2.0,) * 4, "b": (1.0,) * 4})
    assert result.rounds == 4
    assert result.ratio("a", "b") == Summary(2.0, 2.0, 2.0, 4)


def test_three_callables_rotate() -> None:
    clock = Clock()
    interleave({name: clock.runs(name, 1.0) for name in "abc"}, plan(), clock=clock)
    assert "".join(clock.log) == "aabbcc" + "abc" + "bca" + "cab" + "abc"


def test_between_is_called_around_every_round_and_not_timed() -> None:
    clock = Clock()
    result = interleave(
        {"a": clock.runs("a", 1.0)}, plan(min_rounds=3), between=clock.runs("|", 5.0), clock=clock
    )
    assert "".join(clock.log) == "aa" + "|a|a|a|"
    assert result.seconds["a"] == (1.0, 1.0, 1.0)


def test_before_is_called_with_a_name_before_every_sample_and_not_timed() -> None:
    clock = Clock()

    def before(name: str) -> None:
        clock.runs(name.upper(), 5.0)()

    runs = {"a": clock.runs("a", 1.0), "b": clock.runs("b", 2.0)}
    result = interleave(runs, plan(min_rounds=2), before=before, clock=clock)
    assert "".join(clock.log) == "AaaBbb" + "AaBb" + "BbAa"
    assert result.seconds == {"a": (1.0, 1.0), "b": (2.0, 2.0)}


def test_fast_callables_are_called_several_times_in_a_sample() -> None:
    clock = Clock()
    runs = {"slow": clock.runs("s", 1.0), "fast": clock.runs("f", 0.001)}
    result = interleave(runs, plan(min_rounds=1, sample_seconds=0.05), clock=clock)
    last_round = "".join(clock.log).rpartition("s")[2]
    assert len(last_round) >= 50
    assert result.seconds["fast"][0] == pytest.approx(0.001)


def test_a_clock_that_stands_still_ends() -> None:
    clock = Clock()
    result = interleave(
        {"a": clock.runs("a", 0.0)}, plan(min_rounds=1, max_rounds=1, sample_seconds=1e-3),
        clock=clock,
    )  # fmt: skip
    assert result.seconds["a"] == (0.0,)


@pytest.mark.parametrize(
    "options, rounds",
    [
        ({"min_rounds": 2, "min_seconds": 10.0}, 10),
        ({"min_rounds": 12, "min_seconds": 10.0}, 12),
        ({"min_rounds": 2, "min_seconds": 10.0, "max_rounds": 5}, 5),
        ({"min_rounds": 9, "max_seconds": 6.0}, 6),
        ({"min_rounds": 9, "max_seconds": 1.0}, 3),
    ],
)
def test_how_many_rounds(options: dict[str, float], rounds: int) -> None:
    clock = Clock()
    assert interleave({"a": clock.runs("a", 1.0)}, plan(**options), clock=clock).rounds == rounds


def test_ratio_is_the_median_of_the_ratios_of_rounds() -> None:
    # The machine became slower by half, between rounds and once within one.
    times = Comparison({"a": (2.0, 2.0, 4.0, 4.0, 4.0), "b": (1.0, 1.0, 2.0, 2.0, 1.0)})
    assert times.ratio("a", "b").median == 2.0
    assert times.summary("a").median / times.summary("b").median == 4.0


def test_quartiles() -> None:
    assert summarize([5.0, 1.0, 3.0, 2.0, 4.0]) == Summary(3.0, 2.0, 4.0, 5)
    assert summarize([1.0, 2.0]) == Summary(1.5, 1.25, 1.75, 2)
    assert summarize([7.0]) == Summary(7.0, 7.0, 7.0, 1)
    assert Summary(3.0, 2.0, 4.0, 5).scaled(10.0) == Summary(30.0, 20.0, 40.0, 5)
    with pytest.raises(ValueError, match="no values"):
        summarize([])


def test_nothing_to_time() -> None:
    with pytest.raises(ValueError, match="nothing to time"):
        interleave({})


def test_garbage_collection_is_off_while_timing_only() -> None:
    clock = Clock()
    enabled = []
    assert gc.isenabled()
    interleave(
        {"a": clock.runs("a", 1.0)}, plan(), clock=clock,
        between=lambda: enabled.append(gc.isenabled()),
    )  # fmt: skip
    assert gc.isenabled()
    assert not any(enabled)


def test_garbage_collection_is_on_again_after_an_error() -> None:
    def fail() -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        interleave({"a": lambda: None}, plan(), between=fail)
    assert gc.isenabled()


def test_samples_by_another_clock() -> None:
    calls: list[int] = []

    def sample(run: Callable[[], object], count: int) -> float:
        calls.append(count)
        run()
        return 7.0

    plan = Plan(min_rounds=2, max_rounds=2, min_seconds=0.0)
    found = interleave({"one": lambda: None}, plan, sample=sample)
    assert found.seconds == {"one": (7.0, 7.0)}
    assert set(calls) == {1}
