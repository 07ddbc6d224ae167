"""Many calls and many steps: the same results to the last, and no more memory.

Some hundreds by default; with ``VITKERN_TEST_SOAK=1`` 10,000 forward passes and 1,000 steps of
training of each model, which take some minutes.
"""

from __future__ import annotations

import gc
import os

import psutil
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vitkern
from tests.patching import zoo
from vitkern.ops import _cpu

LONG = os.environ.get("VITKERN_TEST_SOAK") == "1"
FORWARDS, STEPS = (10_000, 1_000) if LONG else (200, 60)

GROWTH = 4 << 20
"""Bytes that the resident memory of a process varies by. After the first fifth of the calls there
are 160 more at least: an activation (50,000 bytes) that each kept would be twice as much."""

NAMES = ("vit", "swin")


def resident() -> int:
    gc.collect()
    size: int = psutil.Process().memory_info().rss
    return size


def batches(name: str, sizes: tuple[int, ...]) -> list[torch.Tensor]:
    shape = zoo.MODELS[name][1][1:]
    generator = torch.Generator().manual_seed(3)
    return [torch.randn((size, *shape), generator=generator) for size in sizes]


@pytest.mark.parametrize("products", [None, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_forward_passes(name: str, products: torch.dtype | None) -> None:
    """Batches of several sizes in turn, as a server gets them."""
    gc.collect()
    _cpu.clear_packed()  # of other tests' models, which may go at any moment
    model = zoo.build(name, torch.float32)
    vitkern.patch(model, dtype=products)
    images = batches(name, (4, 1, 3, 7))
    with torch.inference_mode():
        first = [model(x) for x in images]
        packed, before = 0, 0
        for call in range(FORWARDS):
            if call == FORWARDS // 5:
                packed, before = _cpu.packed_bytes(), resident()
            turn = call % len(images)
            assert torch.equal(model(images[turn]), first[turn]), f"call {call}"
    assert _cpu.packed_bytes() == packed
    assert resident() - before < GROWTH


def loss_of(model: nn.Module, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(x), labels)


@pytest.mark.parametrize("name", NAMES)
def test_steps_of_training(name: str) -> None:
    """Losses are eager's, and inference between steps sees the weights of that step.

    At this rate two runs stay together. At ten times the rate those of eager itself in float32 and
    in float64 part after some hundreds of steps, by a tenth of the loss and more.
    """
    model = zoo.MODELS[name][0]().train()
    runs = [model, zoo.twin(model), zoo.twin(model).double()]
    vitkern.patch(model)
    images = batches(name, (4,) * 6)
    labels = [torch.arange(4) + turn for turn in range(len(images))]
    optimizers = [torch.optim.SGD(one.parameters(), lr=2e-4) for one in runs]
    losses: list[list[float]] = []
    before = 0
    for step in range(STEPS):
        if step == STEPS // 5:
            before = resident()
        turn = step % len(images)
        losses.append([])
        for one, optimizer in zip(runs, optimizers, strict=True):
            optimizer.zero_grad()
            dtype = next(one.parameters()).dtype
            loss = loss_of(one, images[turn].to(dtype), labels[turn])
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
        if step % 20 == 0:
            copy = zoo.twin(model)
            vitkern.unpatch(copy)
            with torch.inference_mode():
                torch.testing.assert_close(model(images[0]), copy(images[0]), rtol=1e-4, atol=1e-5)
    assert resident() - before < GROWTH
    ours, eagers, exact = torch.tensor(losses, dtype=torch.float64).T
    assert exact[-6:].mean() < exact[:6].mean()  # it learns, or equal losses would say little
    rounding = 4 * torch.finfo(torch.float32).eps * exact.max()
    assert (ours - exact).abs().max() <= 2 * (eagers - exact).abs().max() + rounding
