"""Buffers and threads: several callers at once, results that stay, memory that does not grow."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Iterator

import psutil
import pytest
import torch
from torch import nn

import vitkern
from tests.patching import zoo
from vitkern.ops import _cpu

NAMES = ("vit", "swin", "swin-not-divisible")
THREADS, REPEATS = 4, 25


def patched(name: str) -> nn.Module:
    model = zoo.build(name, torch.float32)
    vitkern.patch(model)
    return model


def inputs(name: str, batch: int, count: int) -> list[torch.Tensor]:
    """Different ones, which start from the same seed."""
    shape = (batch, *zoo.MODELS[name][1][1:])
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def infer(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    with torch.inference_mode():
        return [model(x)]


def train(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    y = model(x)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), list(model.parameters()))]


@pytest.fixture
def _frequent_switches() -> Iterator[None]:
    """Threads take turns at every occasion, not every five milliseconds."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_frequent_switches")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("run", [infer, train])
def test_threads_at_once_give_what_one_gives(
    name: str, run: Callable[[nn.Module, torch.Tensor], list[torch.Tensor]]
) -> None:
    model = patched(name)
    # Batches of two sizes: each thread's scratch memory grows at another moment.
    images = [inputs(name, 2 + 3 * (number % 2), 1)[0] + number for number in range(THREADS)]
    expected = [run(model, x) for x in images]
    _cpu.clear_packed()  # so that the first calls pack the same weights at once
    start = threading.Barrier(THREADS)
    wrong: list[str] = []

    def work(number: int) -> None:
        start.wait(30)
        for repeat in range(REPEATS):
            turn = (number + repeat) % THREADS
            got = run(model, images[turn])
            for i, (one, other) in enumerate(zip(got, expected[turn], strict=True)):
                if not torch.equal(one, other):
                    wrong.append(f"thread {number}, call {repeat}, result {i}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("run", [infer, train])
def test_results_that_are_held_are_never_overwritten(
    name: str, run: Callable[[nn.Module, torch.Tensor], list[torch.Tensor]]
) -> None:
    model = patched(name)
    held: list[torch.Tensor] = []
    clones: list[torch.Tensor] = []
    for x in inputs(name, 2, 20):
        results = run(model, x)
        held += results
        clones += [result.clone() for result in results]
    assert len({result.data_ptr() for result in held}) == len(held)
    assert all(torch.equal(one, other) for one, other in zip(held, clones, strict=True))


def growth(call: Callable[[], object], first: int, last: int) -> tuple[int, int]:
    """Bytes by which the process and the packed weights grow from one call to the other."""
    process = psutil.Process()

    def memory() -> tuple[int, int]:
        gc.collect()
        return process.memory_info().rss, _cpu.packed_bytes()

    for _ in range(first):
        call()
    before = memory()
    for _ in range(last - first):
        call()
    after = memory()
    return after[0] - before[0], after[1] - before[1]


def largest_activation(model: nn.Module, x: torch.Tensor) -> int:
    """Bytes of the largest output of a block: no buffer of the blocks' kernels is smaller."""
    sizes: list[int] = []
    blocks = model.blocks if hasattr(model, "blocks") else model.layers[0].blocks
    hooks = [b.register_forward_hook(lambda m, args, y: sizes.append(y.nbytes)) for b in blocks]
    infer(model, x)
    for hook in hooks:
        hook.remove()
    return max(sizes)


@pytest.mark.parametrize("name, batch", [("vit", 16), ("swin", 4)])
def test_a_thousand_calls_need_no_more_memory_than_two_hundred(name: str, batch: int) -> None:
    model = patched(name)
    (x,) = inputs(name, batch, 1)
    one = largest_activation(model, x)
    assert one > 50_000  # or the bound would be below what the process itself varies by
    grown, packed = growth(lambda: infer(model, x), 200, 1000)
    assert packed == 0
    assert grown < 800 * one / 8


def test_weights_that_change_need_no_more_memory() -> None:
    """Packed anew in every call, as after each step of an optimizer."""
    model = patched("vit")
    (x,) = inputs("vit", 2, 1)

    def call() -> None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.0)  # another version, the same values
        infer(model, x)

    infer(model, x)
    total = max(_cpu.packed_bytes(), sum(p.nbytes for p in model.parameters()))
    grown, packed = growth(call, 100, 500)
    assert packed == 0
    assert grown < 400 * total / 8


def test_threads_that_end_leave_nothing() -> None:
    """Scratch memory is a thread's own; it goes with the thread."""
    model = patched("vit")
    (x,) = inputs("vit", 16, 1)
    one = largest_activation(model, x)

    def call() -> None:
        thread = threading.Thread(target=infer, args=(model, x))
        thread.start()
        thread.join()

    grown, _ = growth(call, 50, 350)
    assert grown < 300 * one / 2
