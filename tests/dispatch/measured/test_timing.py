"""The measurement itself, with a clock that only the callables move."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import pytest

from vitkern.dispatch.measured import timing


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def __call__(self) -> float:
        return self.now

    def task(self, name: str, seconds: Iterable[float]) -> Callable[[], None]:
        durations = iter(seconds)

        def run() -> None:
            self.log.append(name)
            self.now += next(durations)

        return run


def steady(seconds: float) -> Iterable[float]:
    return itertools.repeat(seconds)


def test_in_turns_and_each_is_first_in_turn() -> None:
    clock = Clock()
    runs = {name: clock.task(name, steady(0.5)) for name in "ab"}
    found = timing.in_turns(runs, "a", clock)
    assert found == {"a": [0.5] * 3, "b": [0.5] * 3}  # three rounds: after those it is too long
    assert clock.log[4:] == ["a", "b", "b", "a", "a", "b"]


def test_the_first_call_does_not_count() -> None:
    clock = Clock()
    runs = {
        "a": clock.task("a", itertools.chain([99.0], steady(0.01))),
        "b": clock.task("b", steady(0.01)),
    }
    clock.now = -99.0
    assert max(timing.in_turns(runs, "a", clock)["a"]) < 0.011


def test_quick_ones_run_several_times_in_a_row() -> None:
    clock = Clock()
    runs = {name: clock.task(name, steady(0.0005)) for name in "ab"}
    found = timing.in_turns(runs, "a", clock)
    assert len(found["a"]) == timing.MIN_ROUNDS
    assert "".join(clock.log[4:12]) == "aaaabbbb"
    assert found["a"] == pytest.approx([0.0005] * timing.MIN_ROUNDS)


def test_it_goes_on_where_it_is_not_clear() -> None:
    clock = Clock()
    runs = {
        "a": clock.task("a", steady(0.01)),
        "b": clock.task("b", itertools.cycle([0.005, 0.02])),
    }
    assert len(timing.in_turns(runs, "a", clock)["a"]) == timing.MAX_ROUNDS


def test_what_takes_no_time_is_as_fast() -> None:
    """A device's clock shows none for calls that launch nothing."""
    runs: dict[str, Callable[[], object]] = {"a": list, "b": list}
    found = timing.in_turns(runs, "a", sample=lambda run, calls: 0.0)
    assert len(found["a"]) == len(found["b"]) == timing.MIN_ROUNDS
    assert timing.winner(found, "a") == "a"


@pytest.mark.parametrize("after", [0, 2, 5])
def test_what_raises_has_no_times(after: int) -> None:
    clock = Clock()

    def fail() -> float:
        raise RuntimeError

    broken = itertools.chain([0.01] * after, (fail() for _ in "x"))
    runs = {"a": clock.task("a", steady(0.01)), "b": clock.task("b", broken)}
    found = timing.in_turns(runs, "a", clock)
    assert list(found) == ["a"]
    assert len(found["a"]) == timing.MIN_ROUNDS
    assert timing.in_turns({"b": runs["b"]}, "b", clock) == {}


@pytest.mark.parametrize(
    "a, b, c, expected",
    [
        ([1.0] * 9, [0.9] * 9, [0.95] * 9, "b"),
        ([1.0] * 9, [0.98] * 9, [1.5] * 9, "a"),  # not by enough
        ([1.0] * 9, [0.5] * 6 + [1.1] * 3, [1.0] * 9, "a"),  # not often enough
        ([1.0, 3.0, 2.0] * 3, [0.9, 2.7, 1.8] * 3, [2.0] * 9, "b"),  # the rounds differ
        ([1.0] * 8 + [90.0], [1.1] * 9, [1.2] * 9, "a"),  # one was disturbed
    ],
)
def test_winner(a: list[float], b: list[float], c: list[float], expected: str) -> None:
    assert timing.winner({"a": a, "b": b, "c": c}, "a") == expected
