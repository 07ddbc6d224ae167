"""Prepacked weights are a cache that nothing can make stale, and that goes with its weight."""

from __future__ import annotations

import copy
import gc
import sys
import threading
from collections.abc import Callable

import pytest
import torch

from vitkern import ops
from vitkern.ops import _cpu

if _cpu.missing() is not None:
    pytest.skip("there is no C++ library here", allow_module_level=True)

X = torch.randn(7, 33)


@pytest.fixture(autouse=True)
def _empty() -> None:
    _cpu.clear_packed()


def frozen(rows: int = 50, dtype: torch.dtype = torch.float32) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.randn(rows, 33).to(dtype), requires_grad=False)


def right(weight: torch.Tensor) -> None:
    """The kernel uses the weight's present values."""
    expected = torch.nn.functional.linear(X.to(weight.dtype), weight)
    torch.testing.assert_close(ops.linear(X.to(weight.dtype), weight, backend="cpu"), expected)


def test_packed_once() -> None:
    weight = frozen()
    right(weight)
    first = _cpu.packed(weight)
    assert first is not None
    right(weight)
    assert _cpu.packed(weight) is first
    assert _cpu.packed_bytes() == first.nbytes


def _state_dict(weight: torch.nn.Parameter) -> None:
    module = torch.nn.Module()
    module.weight = weight
    module.load_state_dict({"weight": torch.randn_like(weight)})


def _optimizer(weight: torch.nn.Parameter) -> None:
    weight.requires_grad_()
    weight.grad = torch.randn_like(weight)
    torch.optim.SGD([weight], lr=1.0).step()
    weight.requires_grad_(False)


def _to_another_dtype(weight: torch.nn.Parameter) -> None:
    module = torch.nn.Module()
    module.weight = weight
    module.to(torch.bfloat16)


def _data_replaced(weight: torch.nn.Parameter) -> None:
    weight.data = torch.randn_like(weight)


def _data_written(weight: torch.nn.Parameter) -> None:
    weight.data.copy_(torch.randn_like(weight))


def _numpy_written(weight: torch.nn.Parameter) -> None:
    weight.numpy()[:] *= 2


CHANGES: list[Callable[[torch.nn.Parameter], object]] = [
    lambda w: w.mul_(2.0),
    lambda w: w.copy_(torch.randn_like(w)),
    lambda w: torch.nn.init.zeros_(w),
    _state_dict,
    _optimizer,
    _to_another_dtype,
    _data_replaced,
    _data_written,
    _numpy_written,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_a_changed_weight_is_packed_anew(change: Callable[[torch.nn.Parameter], object]) -> None:
    weight = frozen()
    right(weight)
    change(weight)
    right(weight)


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_a_changed_weight_of_an_mlp(change: Callable[[torch.nn.Parameter], object]) -> None:
    one, two = frozen(), torch.nn.Parameter(torch.randn(9, 50), requires_grad=False)
    for _ in range(2):
        x, second = X.to(one.dtype), two.to(one.dtype)
        expected = ops.mlp(x, one, None, second, None, backend="eager")
        largest = expected.abs().max().item()
        torch.testing.assert_close(
            ops.mlp(x, one, None, second, None, backend="cpu"),
            expected,
            rtol=0,
            atol=4 * torch.finfo(one.dtype).eps * max(largest, 8.0),
        )
        change(one)


def test_goes_with_its_weight() -> None:
    weight = frozen()
    right(weight)
    assert _cpu.packed_bytes() > 0
    del weight
    gc.collect()
    assert _cpu.packed_bytes() == 0


def test_weights_that_die_while_others_are_dropped() -> None:
    dying, kept = [frozen()], frozen()

    class Source(int):
        """Of an entry that is looked at."""

        def __hash__(self) -> int:
            dying.clear()
            return int(self)

    for weight in (*dying, kept):
        _cpu.packed(weight)
    for entry in _cpu._cache.values():
        entry.source = Source(entry.source)
    del weight
    _cpu.drop_packed([kept])
    assert not dying
    assert _cpu.packed_bytes() == 0


def test_a_weight_that_dies_while_all_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    class Emptied(dict[int, object]):
        """By another thread, after each look at it."""

        def get(self, key: int, default: object = None) -> object:
            entry = super().get(key, default)
            self.clear()
            return entry

    errors: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", errors.append)
    monkeypatch.setattr(_cpu, "_cache", Emptied())
    weight = frozen()
    _cpu.packed(weight)
    assert _cpu._cache
    del weight
    gc.collect()
    assert not _cpu._cache
    assert not errors


def test_copies_have_their_own() -> None:
    weight = frozen()
    right(weight)
    other = copy.deepcopy(weight)
    other.mul_(3.0)
    right(other)
    right(weight)


@pytest.mark.parametrize("trained", [False, True])
def test_nothing_is_kept_in_training(trained: bool) -> None:
    """Weights that an optimizer will change; frozen ones are kept, also where x has a gradient."""
    weight = frozen().requires_grad_(trained)
    x = X.clone().requires_grad_()
    ops.linear(x, weight, backend="cpu").sum().backward()
    assert (_cpu.packed_bytes() == 0) == trained
    assert x.grad is not None


def test_temporaries_are_not_kept() -> None:
    ops.linear(X, torch.randn(5, 33), backend="cpu")
    with torch.inference_mode():
        weight = torch.nn.Parameter(torch.randn(5, 33), requires_grad=False)
        ops.linear(X, weight, backend="cpu")
    assert _cpu.packed_bytes() == 0


def test_a_packed_weight_of_another_instruction_set_is_not_used() -> None:
    weight = frozen()
    right(weight)
    for isa in _cpu.isas():
        with _cpu.use_isa(isa):
            right(weight)
    right(weight)


def test_threads_share_a_weight() -> None:
    weight, errors = frozen(rows=300), []

    def work() -> None:
        try:
            for _ in range(20):
                right(weight)
                _cpu.clear_packed()
        except AssertionError as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
