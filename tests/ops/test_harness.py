"""The harness finds what it is there to find."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.ops import harness
from vitkern.dispatch import OPERATORS, Backend
from vitkern.ops.attention.reference import reference as attend
from vitkern.ops.linear.reference import reference as multiply


def _mistaken(monkeypatch: pytest.MonkeyPatch, op: str, run: Callable[[Any], Any]) -> None:
    backend = Backend("mistaken", lambda call: [], lambda call, needs_grad: (run(call), ()))
    monkeypatch.setitem(OPERATORS[op].backends, "mistaken", backend)


def _first_nan(y: torch.Tensor) -> torch.Tensor:
    y = y.clone()
    y.view(-1)[0] = float("nan")
    return y


MISTAKES: list[tuple[str, str, str, Callable[[Any], Any]]] = [
    ("products in bfloat16", "linear", "y0: error",
     lambda c: multiply(harness.convert(c, torch.Tensor.bfloat16)).float()),
    ("another gelu", "linear", "y0: error", lambda c: multiply(c._replace(activation="gelu_tanh"))),
    ("residual forgotten", "linear", "y0: error", lambda c: multiply(c._replace(residual=None))),
    ("gradient cut", "linear", "dgamma: error",
     lambda c: multiply(c._replace(gamma=c.gamma.detach()))),
    ("another dtype", "linear", "is torch.float64", lambda c: multiply(c).double()),
    ("an element not written", "linear", "1 of 2850 not finite", lambda c: _first_nan(multiply(c))),
    ("mask ignored", "attention", "y0: error",
     lambda c: attend(c._replace(key_padding_mask=None))),
    ("scale off by a thousandth", "attention", "y0: error",
     lambda c: attend(c._replace(scale=c.scale * 1.001))),
]  # fmt: skip


@pytest.mark.parametrize(
    "op, message, run", [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES]
)
def test_mistakes_are_found(
    monkeypatch: pytest.MonkeyPatch, op: str, message: str, run: Callable[[Any], Any]
) -> None:
    _mistaken(monkeypatch, op, run)
    name = {"linear": "gelu-all", "attention": "mask-bias"}[op]
    (case,) = (case for case in harness.cases(op) if case.name == name)
    with pytest.raises(AssertionError, match=message):
        harness.check(op, "mistaken", harness.make(op, case), grad=True)


def test_eager_passes() -> None:
    for op in harness.OPS:
        # On GPUs the gradient of grid_sample is not deterministic, which is asked for by poison.
        poison = not (harness.ON_GPU and op == "deformable_attention")
        harness.check(op, "eager", harness.small(op), grad=True, poison=poison)
