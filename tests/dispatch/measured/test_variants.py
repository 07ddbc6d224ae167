"""The choice among forms of a backend's kernel."""

from __future__ import annotations

import pytest
import torch

from tests.dispatch.measured.conftest import Timer
from vitkern.dispatch import measuring
from vitkern.dispatch.measured import STORE, fastest

CPU = torch.device("cpu")


def _pick(ran: list[str] | None = None, likeness: tuple[object, ...] = ((2, 3),)) -> str:
    def run(name: str) -> object:
        return lambda: None if ran is None else ran.append(name)

    return fastest("triton:toy.forward", CPU, ("first", "second"), lambda: likeness, run)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _second_wins(timer: Timer) -> None:
    timer.seconds = {"first": 2.0, "second": 1.0}


def test_outside_of_a_block_the_first_is_taken_and_nothing_runs(timer: Timer) -> None:
    ran: list[str] = []
    assert _pick(ran) == "first"
    assert ran == []


def test_the_winner_is_remembered(timer: Timer) -> None:
    ran: list[str] = []
    with measuring():
        assert _pick(ran) == "second"
        assert _pick(ran) == "second"
    assert timer.timed == [["first", "second"]]
    assert ran == ["first", "second"]
    assert _pick() == "second"
    assert _pick(likeness=((9, 9),)) == "first"
    STORE.forget()
    assert _pick() == "second"  # from the file


def test_what_cannot_be_timed_takes_what_was_measured_before(timer: Timer) -> None:
    """A launch that a CUDA graph captures."""

    def captured() -> str:
        return fastest(
            "triton:toy.forward", CPU, ("first", "second"), lambda: ((2, 3),),
            lambda name: lambda: None, lambda: False,
        )  # fmt: skip

    with measuring():
        assert captured() == "first"
    assert timer.timed == []
    with measuring():
        _pick()
        assert captured() == "second"
    assert captured() == "second"


def test_forms_are_no_choices_of_backends(timer: Timer) -> None:
    with measuring():
        _pick()
    assert STORE.overrides == {}
    assert STORE.overruled() == 0


def test_a_form_that_is_gone_is_not_taken(timer: Timer) -> None:
    with measuring():
        _pick()
    names = ("first", "third")
    found = fastest("triton:toy.forward", CPU, names, lambda: ((2, 3),), lambda name: lambda: None)
    assert found == "first"


def test_where_the_first_fails_the_call_itself_will_say_why(timer: Timer) -> None:
    timer.seconds = {"second": 1.0}
    with measuring():
        assert _pick() == "first"
