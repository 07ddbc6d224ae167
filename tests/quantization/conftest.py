"""Models and data of these tests, and what they look like before and after."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests import needs
from tests.patching import zoo

BACKENDS = (
    "eager",
    pytest.param("cpu", marks=needs.library),
)
"""Those that compute in int8."""


@pytest.fixture(params=["vit-layer-scale", "swin"])
def name(request: pytest.FixtureRequest) -> str:
    """A model of either family."""
    return str(request.param)


@pytest.fixture
def model(name: str) -> nn.Module:
    """In evaluation mode, float32."""
    return zoo.build(name, torch.float32)


@pytest.fixture
def images(name: str) -> torch.Tensor:
    """A batch for it."""
    return zoo.images(name, torch.float32)


def infer(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The model's output without gradients."""
    with torch.no_grad():
        y: torch.Tensor = model(x)
    return y


def hooks_of(model: nn.Module) -> list[int]:
    """How many hooks each module has."""
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]


def everything(model: nn.Module) -> tuple[Any, ...]:
    """What must be the same after an error: attributes, modes, hooks, values, random numbers."""
    return (
        zoo.state_of(model),
        [module.training for module in model.modules()],
        hooks_of(model),
        {key: value._version for key, value in model.state_dict().items()},
        {key: value.tolist() for key, value in model.state_dict().items()},
        torch.get_rng_state().tolist(),
    )
