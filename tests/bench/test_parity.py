"""What parity lets through, and what not."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from vitkern.bench import parity
from vitkern.bench.models import Row
from vitkern.bench.parity import Check, Parity, ParityError

EPS = torch.finfo(torch.float32).eps


def one(value: float, name: str = "a") -> dict[str, torch.Tensor]:
    return {name: torch.tensor([value, 0.5])}


def truth(value: float, name: str = "a") -> dict[str, torch.Tensor]:
    return {name: torch.tensor([value, 0.5], dtype=torch.float64)}


def test_twice_eagers_error_passes_and_three_times_does_not() -> None:
    eager = one(2.0 + 1e-3)
    assert parity.compare("x", truth(2.0), eager, one(2.0 + 2e-3)).passed
    failed = parity.compare("x", truth(2.0), eager, one(2.0 - 3e-3))
    assert not failed.passed
    assert failed.error == pytest.approx(1.5e-3, rel=1e-3)  # relative to the largest value
    assert failed.eager_error == pytest.approx(5e-4, rel=1e-3)
    assert "error 0.0015, eager's 0.0005" in str(failed)


def test_a_few_roundings_pass_where_eager_is_exact() -> None:
    assert parity.compare("x", truth(1.0), one(1.0), one(1.0 + 3 * EPS)).passed
    assert not parity.compare("x", truth(1.0), one(1.0), one(1.0 + 6 * EPS)).passed


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_fails(value: float) -> None:
    failed = parity.compare("x", truth(1.0), one(1.0), one(value))
    assert not failed.passed
    assert failed.to_dict()["error"] is None


def test_small_tensors_count_as_large_ones_do() -> None:
    exact = truth(1000.0, "large") | truth(1e-3, "small") | truth(0.0, "zero")
    exact["small"], exact["zero"] = exact["small"] * 1e-3, exact["zero"] * 0.0
    right = {key: value.float() for key, value in exact.items()}
    wrong = right | {"small": right["small"] * 1.01}
    assert parity.compare("x", exact, right, right).passed
    assert not parity.compare("x", exact, right, wrong).passed
    rounded = right | {"zero": right["zero"] + 1e-7}
    assert parity.compare("x", exact, right, rounded).passed


def test_other_tensors_or_shapes_are_an_error() -> None:
    with pytest.raises(ValueError, match="not the same tensors"):
        parity.compare("x", truth(1.0), one(1.0), one(1.0, "b"))
    with pytest.raises(ValueError, match="not the same tensors"):
        parity.compare("x", truth(1.0), one(1.0), {"a": torch.zeros(2, 1)})


def test_require_raises_the_worst() -> None:
    good, bad = Check("good", 0.1, 0.1, 0.2), Check("bad", 0.3, 0.1, 0.2)
    Parity((good,)).require()
    assert Parity((good, bad)).worst is bad
    with pytest.raises(ParityError, match=r"bad: error 0\.3"):
        Parity((good, bad)).require()


class Tiny(nn.Module):
    """A model with dropout, so that random numbers matter."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 16), nn.Linear(16, 5)
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.second(self.dropout(torch.tanh(self.first(images.flatten(1)))))
        return out


@pytest.mark.parametrize("mode", ["eval", "train", "step"])
@pytest.mark.parametrize("wrong", [False, True])
def test_models(mode: str, wrong: bool) -> None:
    row = Row("tiny", 4, mode)
    eager = Tiny().train(row.trains)
    other = copy.deepcopy(eager)
    if wrong:
        other.first.bias.data[3] += 1e-3
    checked = parity.check(row, eager, other, torch.randn(4, 3, 2, 2))
    assert [c.name for c in checked.checks] == ["output"] + ["gradients"] * row.trains
    assert checked.passed != wrong
    assert all(parameter.grad is None for parameter in eager.parameters())


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_an_output_of_zeros_is_refused(mode: str) -> None:
    eager = Tiny().train(mode == "train")
    nn.init.zeros_(eager.second.weight)
    nn.init.zeros_(eager.second.bias)
    wrong = copy.deepcopy(eager)
    nn.init.normal_(wrong.first.weight)  # nothing of it reaches the output
    with pytest.raises(ParityError, match="reference output is all zeros"):
        parity.check(Row("tiny", 4, mode), eager, wrong, torch.randn(4, 3, 2, 2))


def test_a_wrong_gradient_alone_is_seen() -> None:
    eager = Tiny().train()
    other = copy.deepcopy(eager)
    other.second.bias.register_hook(lambda grad: grad * 1.001)
    checked = parity.check(Row("tiny", 4, "train"), eager, other, torch.randn(4, 3, 2, 2))
    assert {c.name: c.passed for c in checked.checks} == {"output": True, "gradients": False}
