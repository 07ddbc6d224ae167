"""Which calls are alike, and keys as text."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch

from vitkern.dispatch.measured.key import from_text, is_hashable, key_of, to_text
from vitkern.ops.weights import Bfloat16Weight, Int8Weight


class Call(NamedTuple):
    x: Any
    weight: Any = None
    size: Any = (2, 3)
    eps: Any = 1e-5


X = torch.zeros(2, 4)
W = torch.zeros(3, 4)


def test_equal_calls_have_equal_keys() -> None:
    assert key_of("op", Call(X)) == key_of("op", Call(torch.ones(2, 4)))
    assert key_of("op", Call(X)) != key_of("other", Call(X))


def test_weights_in_other_forms_are_told_apart() -> None:
    assert key_of("op", Call(X, Int8Weight(W))) == key_of("op", Call(X, Int8Weight(W + 1)))
    ranges = [key_of("op", Call(X, Int8Weight(W, low, 1.0))) for low in (-1.0, -2.0)]
    assert ranges[0] == ranges[1]
    weights = [
        W,
        Int8Weight(W),
        Int8Weight(W, -1.0, 1.0),
        Int8Weight(W.bfloat16()),
        Int8Weight(X),
        Int8Weight(W.T.contiguous().T),
        Int8Weight(torch.nn.Parameter(W, requires_grad=False)),  # its packed form is kept
        Bfloat16Weight(W),
    ]
    assert len({key_of("op", Call(X, weight)) for weight in weights}) == len(weights)


def test_a_gradient_counts_where_it_is_wanted() -> None:
    trained = Call(torch.zeros(2, 4, requires_grad=True))
    assert key_of("op", trained) != key_of("op", Call(X))
    with torch.no_grad():
        assert key_of("op", trained) == key_of("op", Call(X))


class Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize(
    "call",
    [
        Call(X, object()),
        Call(X, size=[2, 3]),
        Call(None),
        Call(X.to_sparse()),
        Call(torch.nested.nested_tensor([X], layout=torch.jagged)),
        Call(X.as_subclass(Subclass)),
        Call(X.to("meta")),
    ],
    ids=["object", "list", "no-tensor", "sparse", "nested", "subclass", "meta"],
)
def test_about_some_calls_nothing_can_be_decided(call: Call) -> None:
    assert key_of("op", call) is None


def test_a_key_may_be_impossible_to_look_up() -> None:
    key = key_of("op", Call(X, size=([2], 3)))
    assert key is not None
    assert not is_hashable(key)


@pytest.mark.parametrize("call", [Call(X), Call(X, Int8Weight(W)), Call(X.T, X, None, 0.25)])
def test_text_and_back(call: Call) -> None:
    key = key_of("op", call)
    assert key is not None
    text = to_text(key)
    assert text is not None
    assert from_text(text) == key
    assert hash(from_text(text)) == hash(key)


@pytest.mark.parametrize("eps", [float("inf"), float("nan")])
def test_some_keys_have_no_text(eps: float) -> None:
    key = key_of("op", Call(X, eps=eps))
    assert key is not None
    assert to_text(key) is None


@pytest.mark.parametrize(
    "text", ["", "(", "1", "()", "('op', 'cpu', 1)", "exit()", "({},)", "(1, 2, 3, 4)"]
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a key"):
        from_text(text)
