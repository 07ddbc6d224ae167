"""The verdict of the do-no-harm benchmark, on ratios that are made up."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import conftest
from benchmarks.harm import CHANCE, SAME, Verdict, _place, too_few_decided, verdict


def noisy(median: float, count: int, noise: float, seed: int = 0) -> list[float]:
    generator = random.Random(seed)
    return [median * math.exp(generator.gauss(0.0, noise)) for _ in range(count)]


@pytest.mark.parametrize(
    "median, count, noise, expected",
    [
        (1.2, 15, 0.01, "harmless"),
        (1.0, 40, 0.01, "harmless"),
        (0.9, 15, 0.01, "slower"),
        (0.97, 60, 0.01, "slower"),
        (1.0, 15, 0.3, "undecided"),  # too noisy to tell, and so no pass
        (0.98, 15, 0.02, "undecided"),
        (0.5, 5, 0.0, "undecided"),  # too few rounds
        (2.0, 3, 0.0, "undecided"),
    ],
)
def test_outcome(median: float, count: int, noise: float, expected: str) -> None:
    assert verdict(noisy(median, count, noise), rows=40).outcome == expected


@pytest.mark.parametrize("median", [0.5, 2.0])
def test_on_a_busy_machine_nothing_is_decided(median: float) -> None:
    assert verdict([median] * 50, rows=40, busy=True).outcome == "undecided"


def test_one_slow_round_is_no_finding() -> None:
    assert verdict([1.1] * 14 + [0.1], rows=40).outcome == "harmless"


def test_all_rows_together_are_rarely_wrong() -> None:
    """Twins of eager, that differ by SAME: as many false findings as CHANCE allows."""
    runs = 300
    wrong = sum(
        any(
            verdict(noisy(1.0 - SAME, 20, 0.05, 40 * run + row), rows=40).outcome == "slower"
            for row in range(40)
        )
        for run in range(runs)
    )
    assert wrong / runs <= 1.5 * CHANCE


def test_the_bound_is_the_binomial_distributions() -> None:
    # Of 15 throws, 3 or fewer heads have a chance of 0.0176, 4 or fewer one of 0.0592.
    assert _place(15, 0.05) == 4
    assert [_place(n, 0.05) for n in (0, 4, 5, 8)] == [0, 0, 1, 2]
    found = verdict([float(i) for i in range(1, 16)], rows=1)
    assert (found.lower, found.upper) == (4.0, 12.0)


def test_json_has_no_infinity() -> None:
    assert verdict([1.0], rows=40).to_dict() == {
        "outcome": "undecided", "lower": None, "upper": None,
    }  # fmt: skip
    assert Verdict("slower", 0.5, 0.9).to_dict()["upper"] == 0.9


@pytest.mark.parametrize("undecided, enough", [(0, True), (10, True), (11, False), (40, False)])
def test_a_run_decides_three_quarters_of_its_rows(undecided: int, enough: bool) -> None:
    outcomes = ["harmless", "slower"] * 20
    outcomes[:undecided] = ["undecided"] * undecided
    why = too_few_decided(outcomes, 40)
    assert (why is None) == enough
    assert why is None or f"only {40 - undecided} of 40 rows were decided" in why


@pytest.mark.parametrize(
    "outcome, wide, status",
    [("undecided", True, 1), ("harmless", True, 0), ("undecided", False, 0), (None, True, 1)],
)
def test_a_wide_run_that_decides_too_little_is_an_error(
    outcome: str | None, wide: bool, status: int
) -> None:
    """None is a row that was skipped before anything was found."""
    options = {"--wide": wide, "--store": False}
    found = {} if outcome is None else {"harm": [{"outcome": outcome}]}
    config = SimpleNamespace(stash={conftest.ROWS: found})
    config.getoption = options.__getitem__
    session: Any = SimpleNamespace(
        config=config,
        exitstatus=0,
        items=[SimpleNamespace(nodeid=f"benchmarks/{conftest.HARM}[swin-b1]")],
    )
    conftest.pytest_sessionfinish(session)
    assert session.exitstatus == status


@pytest.mark.parametrize("store", [False, True])
def test_a_run_says_what_was_busy_and_where_its_results_are(store: bool) -> None:
    rows = {"ops": [{"contention": {"busy": True}}, {"contention": None}], "harm": [{}]}
    config: Any = SimpleNamespace(
        stash={conftest.ROWS: rows}, getoption={"--store": store}.__getitem__
    )
    busy, *stored = conftest.remarks(config)
    assert busy.startswith("other processes used the machine in 1 of 3 rows: do not believe")
    assert [line.startswith("stored: benchmarks/results/") for line in stored] == [True] * store
    rows.clear()
    assert conftest.remarks(config) == []
