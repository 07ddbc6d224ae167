"""``F.multi_head_attention_forward`` in a graph, patterns that fail, and the names of modules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.patching.graph.runs import same
from vitkern.patching.graph.patterns import attention, linear


class Block(nn.Module):
    """A layer around ``nn.MultiheadAttention``, as users write one."""

    def __init__(self, *, weights: bool = False, masked: bool = False, zero: bool = False) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(24, 3, batch_first=True, add_zero_attn=zero)
        self.weights, self.masked = weights, masked

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = torch.ones(7, 7, dtype=torch.bool).triu(3) if self.masked else None
        y, weights = self.attention(
            x, x, x, attn_mask=mask, need_weights=self.weights, average_attn_weights=False
        )
        return x + y if weights is None else x + y + weights.sum((1, 3))[..., None]


X = torch.randn(2, 7, 24)


@pytest.mark.parametrize("masked", [False, True])
def test_found(masked: bool) -> None:
    run = same(Block(masked=masked).train(), X)
    assert "attention" in run.ops
    assert not run.left


@pytest.mark.parametrize("options", [{"weights": True}, {"zero": True}])
def test_left_and_said(options: dict[str, Any]) -> None:
    run = same(Block(**options).train(), X)
    assert "attention" not in run.ops
    assert "weights" in run.reasons


def test_names_are_those_of_named_modules() -> None:
    model = nn.Sequential(nn.Linear(24, 24), nn.ReLU(), Block().train())
    run = same(model, X)
    assert run.replaced
    for one in run.replaced:
        assert one.module in dict(model.named_modules())

    def called(x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = model.double()(x)
        return y

    for one in same(called, X).replaced:
        assert "L[" not in one.module


@pytest.mark.parametrize("part", ["starts", "propose"])
def test_a_pattern_that_fails_is_said_and_others_go_on(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise KeyError("odd")

    monkeypatch.setattr(linear, part, fails)
    run = same(nn.Sequential(nn.Linear(24, 24), Block().train()), X)
    assert "attention" in run.ops
    assert "could not be read: KeyError: 'odd'" in run.reasons
    assert attention.OP == "attention"
