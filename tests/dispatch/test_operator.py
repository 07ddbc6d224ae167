"""The choice of a backend, its errors, and the one gradient wrapper."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import pytest
import torch
from torch.autograd import forward_ad

from tests.dispatch.toy import ToyCall, double
from vitkern.dispatch import (
    OPERATORS,
    Operator,
    UnknownBackend,
    UnsupportedInput,
    use_backend,
)

X = torch.zeros(2, 3)
PLAIN = ToyCall(X, None, "a")


def test_backends_are_found_among_modules(toy: Operator[ToyCall]) -> None:
    assert OPERATORS["toy"] is toy
    assert list(toy.backends) == ["double", "picky", "eager"]  # eager last: it is the fallback


def test_every_op_has_a_reference() -> None:
    names = (
        "attention", "deformable_attention", "layer_norm", "linear", "mlp", "patch_embed",
        "window_attention",
    )  # fmt: skip
    for name in (*names, "gated_mlp", "rotary_attention"):
        backends = OPERATORS[name].backends
        assert {"cpu" if name in names else "triton", "eager"} <= set(backends)
        assert list(backends)[-1] == "eager"
        assert all(backend.name == key for key, backend in backends.items())


def test_automatic_choice_is_the_first_that_takes_the_call(toy: Operator[ToyCall]) -> None:
    assert toy.select(PLAIN).name == "double"
    assert toy.select(ToyCall(X.double(), None, "a")).name == "eager"


def test_refusals_of_every_backend(toy: Operator[ToyCall]) -> None:
    assert toy.refusals(ToyCall(X.double(), None, "a")) == {
        "double": ["takes float32"],
        "picky": ["wrong moon", "tag 'a'"],
        "eager": [],
    }


def test_explicit_choice_raises_with_every_reason(toy: Operator[ToyCall]) -> None:
    with pytest.raises(UnsupportedInput) as caught:
        toy(PLAIN, "picky")
    assert caught.value.op == "toy"
    assert caught.value.reasons == {"picky": ["wrong moon", "tag 'a'"]}
    message = str(caught.value)
    assert "toy(x=float32[2x3], tag='a') is not supported" in message
    assert "picky: wrong moon; tag 'a'" in message


def test_a_backend_of_other_ops_only(toy: Operator[ToyCall]) -> None:
    with pytest.raises(UnsupportedInput, match="cpu: has no such op"):
        toy(PLAIN, "cpu")


def test_unknown_names_suggest_near_ones(toy: Operator[ToyCall]) -> None:
    with pytest.raises(UnknownBackend, match=r"'dobule' is unknown.*did you mean 'double'\?"):
        toy(PLAIN, "dobule")
    with pytest.raises(UnknownBackend, match=r"'xyz' is unknown; there are [a-z, ]*$"):
        toy(PLAIN, "xyz")
    with pytest.raises(ValueError, match="unknown"), use_backend("eagr"):
        pass


def test_an_argument_beats_the_block(toy: Operator[ToyCall]) -> None:
    with use_backend("double"):
        assert toy(PLAIN, "eager").eq(1).all()
        assert toy(PLAIN).eq(2).all()


def test_nothing_falls_back_from_an_explicit_choice(toy: Operator[ToyCall]) -> None:
    wide = ToyCall(X.double(), None, "a")
    with use_backend("double"), pytest.raises(UnsupportedInput, match="double: takes float32"):
        toy(wide)
    assert toy(wide).eq(1).all()


@pytest.mark.parametrize(
    "requires, grad_mode, expected",
    [(True, True, [("forward", True)]), (False, True, [("forward", False)]),
     (True, False, [("forward", False)])],
)  # fmt: skip
def test_state_is_kept_only_for_a_gradient(
    toy: Operator[ToyCall], requires: bool, grad_mode: bool, expected: list[Any]
) -> None:
    with torch.set_grad_enabled(grad_mode):
        out = toy(ToyCall(X.clone().requires_grad_(requires), None, "a"))
    log = double.LOG
    assert log == expected
    assert out.requires_grad == (requires and grad_mode)


def test_backward_gets_the_call_and_what_is_needed(toy: Operator[ToyCall]) -> None:
    bias = torch.ones(2, 3, requires_grad=True)
    toy(ToyCall(X, bias, "b")).sum().backward()
    assert double.LOG == [("forward", True), ("backward", (False, True, False), "b", 1)]
    assert bias.grad is not None
    assert bias.grad.eq(10).all()


@pytest.mark.parametrize("square", [False, True])
def test_second_derivatives_are_an_error(toy: Operator[ToyCall], square: bool) -> None:
    """Also where the upstream gradient is constant, and only the saved inputs would matter."""
    x = torch.ones(2, requires_grad=True)
    out = toy(ToyCall(x, torch.ones(2), "a"))
    loss = (out.square() if square else out).sum()
    (grad,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match="toy on backend 'double' has no second derivative"):
        (loss + grad.square().sum()).backward()


def test_an_input_changed_in_place_is_an_error(toy: Operator[ToyCall]) -> None:
    x = torch.zeros(2, requires_grad=True)
    out = toy(ToyCall(x, None, "a"))
    with torch.no_grad():
        x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_a_call_costs_few_python_functions() -> None:
    """The boundary's cost without a clock: functions entered from the public op to the kernel."""
    from vitkern import ops

    x, entered = torch.zeros(2, 16), []

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            entered.append(frame.f_code.co_name)

    ops.layer_norm(x)
    sys.setprofile(profile)
    try:
        ops.layer_norm(x)
    finally:
        sys.setprofile(None)
    assert len(entered) <= 31, entered  # of these, three to ask cuda, and four to ask triton


def test_a_forward_mode_derivative_is_not_dropped(toy: Operator[ToyCall]) -> None:
    """A backend has none; what PyTorch's own functions compute has."""
    x = torch.ones(2, 3)

    def run(value: torch.Tensor, backend: str) -> torch.Tensor:
        result: torch.Tensor = toy(ToyCall(value, None, "a"), backend)
        return result

    def derivative(backend: str) -> torch.Tensor:
        result: torch.Tensor = torch.func.jvp(lambda t: run(t, backend), (x,), (2 * x,))[1]
        return result

    assert torch.equal(derivative("eager"), 2 * x)
    with pytest.raises(NotImplementedError, match=r"toy on backend 'double'.*backend='eager'"):
        derivative("double")
    with forward_ad.dual_level():
        assert torch.equal(run(x, "double"), x + 2)  # none is wanted
        with pytest.raises(NotImplementedError, match="jvp"):
            run(forward_ad.make_dual(x, x), "double")
