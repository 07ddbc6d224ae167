"""Every CUDA kernel in the emulation, in every op that has them: tails, edges, models' shapes.

Dtypes, layouts of memory, orders of threads and moments of copies take turns from case to case.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.ops import harness
from vitkern.ops._cpu import ACTIVATIONS

MODES = list(itertools.product(("forward", "reverse", "shuffled", "greedy", "greedy_reverse"),
                               ("deferred", "eager")))  # fmt: skip
LARGEST = 2_000_000
"""Elements of a call's largest tensor that the emulation takes a second or two for."""


def _ops() -> list[str]:
    if not harness.EMULATED:
        return []
    import vitkern.testing

    return [op for op in harness.OPS if op in vitkern.testing.ops_with_kernels()]


def _small_enough(op: str, case: Any) -> bool:
    call = harness.make(op, case)
    return all(t.numel() <= LARGEST for t in harness.floating(call).values())


def _params(*tags: str) -> Iterator[Any]:
    for op in _ops():
        for i, case in enumerate(harness.cases(op, *tags)):
            for j in range(3):
                dtype, layout = harness.DTYPES[(i + j) % 3], harness.LAYOUTS[j]
                mode = MODES[(3 * i + j) % len(MODES)]
                name = "-".join((op, case.name, harness.short(dtype), layout, *mode))
                yield pytest.param(op, case, dtype, layout, mode, id=name)


@pytest.mark.parametrize("op, case, dtype, layout, mode", [*_params("tail", "edge")])
def test_outputs_and_gradients(
    op: str, case: Any, dtype: torch.dtype, layout: str, mode: tuple[str, str]
) -> None:
    from vitkern.testing import emulation

    with emulation(*mode):
        harness.check(op, "cuda_emulated", harness.make(op, case, dtype), grad=True, layout=layout)


@pytest.mark.parametrize(
    "op, case, dtype",
    [
        pytest.param(op, case, harness.DTYPES[i % 3], id=f"{op}-{case.name}")
        for op in _ops()
        for i, case in enumerate(harness.cases(op, "model"))
        if _small_enough(op, case)
    ],
)
def test_models(op: str, case: Any, dtype: torch.dtype) -> None:
    call = harness.make(op, case, dtype)
    harness.check(op, "cuda_emulated", call, grad=False, poison=False)


CARDS = {
    "few-processors": (1, False), "many-processors": (1000, False), "tf32": (3, True),
    "hopper": (1, False, True),
}  # fmt: skip


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("op", [op for op in _ops() if op in ("linear", "mlp", "patch_embed")])
@pytest.mark.parametrize("dtype", harness.DTYPES, ids=harness.short)
def test_other_cards(op: str, card: str, dtype: torch.dtype) -> None:
    """Large tiles, small ones, those of Hopper, and float32 on tensor cores where it may be."""
    from vitkern.testing import Card, emulation

    case = next(
        c for c in harness.cases(op, "model") if c.name in ("vit-ti-fc1", "vit-ti", "vit-ti16")
    )
    call, tf32 = harness.make(op, case, dtype), CARDS[card][1]
    with emulation("shuffled", "deferred", card=Card(*CARDS[card])):
        if not tf32 or dtype is not torch.float32:
            harness.check(op, "cuda_emulated", call, grad=True, poison=False)
            return
        got = harness.evaluate(harness.runner(op, "cuda_emulated"), call, grad=False)["y0"]
    truth = harness.evaluate(harness.reference(op), call, grad=False)["y0"]
    error = (got - truth).abs().max().item()
    # Two operands of ten bits a product, whose errors add up as random ones do.
    assert 1e-5 < error < 2**-11 * 8


@pytest.mark.parametrize("activation", [name for name in ACTIVATIONS if name is not None])
def test_slopes_of_activations(activation: str) -> None:
    harness.check_slopes(activation, "cuda_emulated")


def test_there_are_kernels() -> None:
    """Without them the tests above would be none."""
    assert _ops()
    for op in _ops():
        assert "cuda_emulated" in harness.kernels(op)


def test_automatic_choice_never_takes_the_emulation() -> None:
    from vitkern.dispatch import OPERATORS

    for op in _ops():
        for dtype in harness.DTYPES:
            call = harness.make(op, harness.cases(op, "tail")[-1], dtype)
            assert OPERATORS[op].select(call).name != "cuda_emulated"


def test_an_op_that_a_library_lacks_says_so() -> None:
    """A struct with other fields than the library's is refused before anything is launched."""
    from vitkern.testing import EMULATED

    with pytest.raises(TypeError, match=r"missing .*'rows'.*unknown .*'lines'"):
        EMULATED.run("column_sums", torch.zeros(1), lines=3)


def test_a_launch_that_is_refused_says_why() -> None:
    from vitkern.ops._cuda.library import LaunchFailed
    from vitkern.testing import EMULATED

    total = torch.zeros(math.prod((3, 4)))
    with pytest.raises(LaunchFailed, match="a grid that a GPU refuses"):
        EMULATED.run("column_sums", total, partial=total, total=total, rows=1, width=0)
