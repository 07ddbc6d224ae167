"""A training on kernels is the training without them, but for rounding."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tests import needs

pytestmark = needs.library  # else nothing is patched, and a training is compared with itself
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "convergence.py"
STEPS, SHORT = 60, 30


@pytest.fixture(scope="module")
def convergence() -> ModuleType:
    """The example that draws docs/convergence.png."""
    spec = importlib.util.spec_from_file_location("vitkern_convergence", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def eager(convergence: ModuleType) -> list[float]:
    """Losses on plain PyTorch in float32."""
    found: list[float] = convergence.losses(STEPS, "fp32", patch=False)
    return found


def test_patched_losses_are_eagers_within_rounding(
    convergence: ModuleType, eager: list[float]
) -> None:
    """Rounding grows as training goes on: by no more than from weights that are a unit apart."""
    patched = convergence.losses(STEPS, "fp32", patch=True)
    nudged = convergence.losses(STEPS, "fp32", patch=False, nudge=True)
    assert eager[-1] < eager[0]
    assert patched != eager
    assert convergence.apart(eager, patched)["largest"] < 1e-2
    bound = max(20 * convergence.apart(eager, nudged)["mean"], 1e-5)
    assert convergence.apart(eager, patched)["mean"] < bound


def test_bf16_is_as_near_to_fp32_as_eagers(convergence: ModuleType, eager: list[float]) -> None:
    """In bfloat16 each step rounds by more than kernels and PyTorch differ."""
    both = [convergence.losses(SHORT, "bf16", patch=patch) for patch in (False, True)]
    assert both[0] != both[1]
    far = [convergence.apart(eager[:SHORT], one)["mean"] for one in both]
    assert 0 < far[0] < 0.05
    assert far[1] <= 2 * far[0]


@pytest.mark.slow
def test_both_converge_alike_in_bf16(convergence: ModuleType) -> None:
    ends = []
    for patch in (False, True):
        curve = convergence.losses(120, "bf16", patch=patch)
        ends.append(sum(curve[-20:]) / 20)
    assert ends[1] == pytest.approx(ends[0], rel=0.05)
