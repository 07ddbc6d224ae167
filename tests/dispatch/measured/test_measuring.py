"""When something is timed, which backend is chosen then and later, and what a block leaves."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.dispatch.measured.conftest import Timer
from tests.dispatch.toy import ToyCall, double
from vitkern.dispatch import Operator, UnsupportedInput, measuring, use_backend
from vitkern.dispatch.measured import STORE, Decision, timing
from vitkern.dispatch.measured.key import key_of

X = torch.zeros(2, 3)
CALL = ToyCall(X, None, "a")


def test_outside_of_a_block_nothing_is_timed(toy: Operator[ToyCall], timer: Timer) -> None:
    assert toy.select(CALL).name == "double"
    assert timer.timed == []


def test_the_winner_computes_in_the_block_after_it_and_in_the_next_process(
    toy: Operator[ToyCall], timer: Timer, folder: Path
) -> None:
    with measuring():
        assert toy(CALL).eq(1).all()
        assert toy(CALL).eq(1).all()
    assert timer.timed == [["double", "eager"]]  # once, and not on the one that refuses
    assert toy(CALL).eq(1).all()
    assert len(list(folder.glob("decisions-*.json"))) == 1
    STORE.forget()
    assert toy(CALL).eq(1).all()
    with measuring() as measurement:
        toy(CALL)
    assert len(timer.timed) == 1
    (use,) = measurement.uses
    assert use.cached
    assert use.decision == Decision("eager", "double", {"double": 2.0, "eager": 1.0})


def test_the_first_of_the_order_keeps_its_place_where_it_wins(
    toy: Operator[ToyCall], timer: Timer
) -> None:
    timer.seconds = {"double": 1.0, "eager": 0.98}
    with measuring() as measurement:
        assert toy(CALL).eq(2).all()
    assert [use.backend for use in measurement.uses] == ["double"]
    assert STORE.overrides == {}  # calls outside of blocks have nothing to look up
    assert toy(CALL).eq(2).all()


OTHERS: dict[str, Callable[[], ToyCall]] = {
    "shape": lambda: ToyCall(torch.zeros(3, 2), None, "a"),
    "dtype": lambda: ToyCall(X.bfloat16(), None, "a"),
    "layout": lambda: ToyCall(torch.zeros(3, 2).T, None, "a"),
    "value": lambda: ToyCall(X, None, "b"),
    "present": lambda: ToyCall(X, X, "a"),
    "gradient": lambda: ToyCall(torch.zeros(2, 3, requires_grad=True), None, "a"),
    "parameter": lambda: ToyCall(torch.nn.Parameter(X, requires_grad=False), None, "a"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_decision_is_about_one_kind_of_call(
    toy: Operator[ToyCall], timer: Timer, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    takes_all = replace(toy.backends["double"], supports=lambda call: [])
    monkeypatch.setitem(toy.backends, "double", takes_all)
    with measuring():
        toy(CALL)
    other = OTHERS[what]()
    assert toy.select(other).name == "double"
    with measuring():
        toy(other)
    assert len(timer.timed) == 2
    assert toy.select(other).name == "eager"


def test_a_decision_is_about_a_number_of_threads(toy: Operator[ToyCall], timer: Timer) -> None:
    with measuring():
        toy(CALL)
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        assert toy.select(CALL).name == "double"
    finally:
        torch.set_num_threads(before)
    assert toy.select(CALL).name == "eager"


def test_a_decision_never_overrules_a_refusal(
    toy: Operator[ToyCall], timer: Timer, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = key_of("toy", CALL)
    assert key is not None
    STORE.load()
    STORE.add(key, Decision("picky", "double", {"picky": 1.0, "double": 2.0, "eager": 3.0}))
    assert toy.select(CALL).name == "double"
    with measuring():  # it was about other backends than take the call now
        assert toy.select(CALL).name == "eager"
    monkeypatch.setitem(
        toy.backends, "eager", replace(toy.backends["eager"], supports=lambda _: ["no"])
    )
    assert toy.select(CALL).name == "double"


def test_calls_that_cannot_be_looked_up_take_the_fixed_order(
    toy: Operator[ToyCall], timer: Timer
) -> None:
    odd = ToyCall(X, None, ([],))  # type: ignore[arg-type]
    with measuring():
        toy(CALL)
        assert toy.select(odd).name == "double"
    assert len(timer.timed) == 1
    assert toy.select(odd).name == "double"
    assert toy.select(CALL).name == "eager"


def test_a_backend_that_no_longer_exists_is_not_chosen(toy: Operator[ToyCall]) -> None:
    key = key_of("toy", CALL)
    assert key is not None
    STORE.load()
    STORE.add(key, Decision("gone", "double", {"gone": 1.0, "double": 2.0}))
    assert toy.select(CALL).name == "double"


def test_a_backend_asked_for_is_neither_timed_nor_overruled(
    toy: Operator[ToyCall], timer: Timer
) -> None:
    with measuring() as measurement:
        assert toy(CALL, "double").eq(2).all()
        with use_backend("double"):
            assert toy(CALL).eq(2).all()
        with pytest.raises(UnsupportedInput):
            toy(CALL, "picky")
    assert timer.timed == []
    assert measurement.uses == ()


def test_where_only_one_takes_the_call_there_is_nothing_to_time(
    toy: Operator[ToyCall], timer: Timer
) -> None:
    with measuring() as measurement:
        assert toy(ToyCall(X.double(), None, "a")).eq(1).all()
    assert timer.timed == []
    assert [(use.backend, use.decision) for use in measurement.uses] == [("eager", None)]


def test_where_the_first_of_the_order_fails_the_call_tells(
    toy: Operator[ToyCall], timer: Timer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measuring must not hide an error by going another way."""
    del timer.seconds["double"]
    with measuring():
        assert toy.select(CALL).name == "double"
    assert STORE.overrides == {}


@pytest.mark.parametrize("inputs", [(True, False), (False, True), (True, True)])
def test_the_time_includes_backward_and_leaves_no_gradient(
    toy: Operator[ToyCall], timer: Timer, inputs: tuple[bool, bool]
) -> None:
    x = torch.zeros(2, 3, requires_grad=inputs[0])
    bias = torch.ones(2, 3, requires_grad=inputs[1])
    timer.seconds = {"double": 1.0, "eager": 2.0}
    with measuring():
        out = toy(ToyCall(x, bias, "a"))
    names = [entry[0] for entry in double.LOG]
    assert names == ["forward", "backward", "forward"]  # the measurement's two, then the call's
    assert double.LOG[1][1] == (*inputs, False)
    assert x.grad is None
    assert bias.grad is None
    out.sum().backward()
    assert (x.grad is not None, bias.grad is not None) == inputs


def test_random_numbers_are_as_if_nothing_had_been_timed(
    toy: Operator[ToyCall], timer: Timer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(call: ToyCall, needs_grad: bool) -> tuple[Any, tuple[()]]:
        return call.x + torch.rand(2, 3), ()

    monkeypatch.setitem(toy.backends, "eager", replace(toy.backends["eager"], forward=forward))
    torch.manual_seed(0)
    expected = toy(CALL, "eager")
    torch.manual_seed(0)
    with measuring():
        assert torch.equal(toy(CALL), expected)


def test_what_a_candidate_calls_is_not_measured(
    toy: Operator[ToyCall], timer: Timer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(call: ToyCall, needs_grad: bool) -> tuple[Any, tuple[()]]:
        return toy(ToyCall(call.x[0], None, "inner")), ()

    monkeypatch.setitem(toy.backends, "eager", replace(toy.backends["eager"], forward=forward))
    timer.seconds = {"double": 1.0, "eager": 2.0}
    with measuring() as measurement:
        toy(CALL)
    assert len(timer.timed) == 1
    assert len(measurement.uses) == 1


def test_a_block_is_its_threads(toy: Operator[ToyCall], timer: Timer) -> None:
    with measuring():
        thread = threading.Thread(target=lambda: toy(CALL))
        thread.start()
        thread.join()
    assert timer.timed == []


def test_two_threads_do_not_time_at_once_and_do_not_repeat_each_other(
    toy: Operator[ToyCall], monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, most, timed = 0, 0, []
    both = threading.Barrier(2)

    def in_turns(runs: timing.Runs, static: str, **_: object) -> timing.Seconds:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        timed.append(static)
        threading.Event().wait(0.05)  # the other one has the time to come in, if it can
        inside -= 1
        return {"double": [2.0] * 9, "eager": [1.0] * 9}

    monkeypatch.setattr(timing, "in_turns", in_turns)
    chosen: list[str] = []

    def work(tag: str) -> None:
        with measuring():
            both.wait(10)
            chosen.append(toy.select(CALL).name)
            chosen.append(toy.select(ToyCall(X, None, tag)).name)

    threads = [threading.Thread(target=work, args=(tag,)) for tag in "bc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert chosen == ["eager"] * 4
    assert len(timed) == 3  # CALL once, and each thread's own
    assert most == 1


def test_an_error_in_the_block_keeps_what_was_measured(
    toy: Operator[ToyCall], timer: Timer
) -> None:
    with pytest.raises(KeyboardInterrupt), measuring():
        toy(CALL)
        raise KeyboardInterrupt
    STORE.forget()
    assert toy.select(CALL).name == "eager"


def test_compiled_code_takes_the_fixed_order(toy: Operator[ToyCall], timer: Timer) -> None:
    with measuring():
        toy(CALL)
    torch.compiler.reset()
    compiled = torch.compile(lambda x: toy(ToyCall(x, None, "a")), fullgraph=True, backend="eager")
    assert compiled(X).eq(2).all()
    assert toy(CALL).eq(1).all()
    with measuring():
        assert compiled(torch.zeros(5, 5)).eq(2).all()
    assert len(timer.timed) == 1
    torch.compiler.reset()
