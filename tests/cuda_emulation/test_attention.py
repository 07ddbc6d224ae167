"""The CUDA kernels of ``attention`` and ``window_attention``, beyond the ops' own cases."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from tests.ops import harness

CASES = {
    "attention": ("dropout-all", "cross17x97", "bias-of-images"),
    "window_attention": ("ragged-shifted-shift-pad-value", "ragged-large-shift-pad"),
}
PAIRS = [(op, name) for op, names in CASES.items() for name in names]
ORDERS = ("forward", "reverse", "shuffled", "greedy", "greedy_reverse")
CASE = pytest.mark.parametrize("op, name", PAIRS)
DTYPE = pytest.mark.parametrize("dtype", harness.DTYPES, ids=harness.short)


def _call(op: str, name: str, dtype: torch.dtype) -> Any:
    return harness.make(op, next(c for c in harness.cases(op) if c.name == name), dtype)


def _results(op: str, call: Any) -> dict[str, torch.Tensor]:
    return harness.evaluate(harness.runner(op, "cuda_emulated"), call, grad=True)


@CASE
@DTYPE
def test_the_same_bits_whatever_the_order(op: str, name: str, dtype: torch.dtype) -> None:
    """Of threads, and whenever copies happen: nothing races, and no sum depends on who is first."""
    from vitkern.testing import emulation

    call, results = _call(op, name, dtype), []
    for order, copies in itertools.product(ORDERS, ("deferred", "eager")):
        with emulation(order, copies):
            results.append(_results(op, call))
    for other in results[1:]:
        for key, value in results[0].items():
            assert torch.equal(value, other[key]), key


@CASE
@DTYPE
@pytest.mark.parametrize("processors", [1, 1000])
def test_sums_of_few_and_of_many_blocks(
    op: str, name: str, dtype: torch.dtype, processors: int
) -> None:
    """A bias's gradient is in one sum or in many."""
    from vitkern.testing import Card, emulation

    with emulation(card=Card(processors)):
        harness.check(op, "cuda_emulated", _call(op, name, dtype), grad=True, poison=False)


@CASE
def test_tf32_where_it_is_allowed(op: str, name: str) -> None:
    from vitkern.testing import Card, emulation

    call = _call(op, name, torch.float32)
    with emulation(card=Card(tf32=True)):
        got = _results(op, call)
    truth = harness.evaluate(
        harness.reference(op), harness.convert(call, torch.Tensor.double), grad=True
    )
    for key, value in got.items():
        error = (value - truth[key]).abs().max() / truth[key].abs().max()
        # Operands of ten bits, a few products one after another: seen, and no more than that.
        assert 1e-6 < error < 2**-11 * 8, key


@DTYPE
@pytest.mark.parametrize("head_dim", [32, 64, 96, 128])
def test_no_bank_conflicts(head_dim: int, dtype: torch.dtype) -> None:
    from vitkern.testing import emulation

    case = next(c for c in harness.cases("attention", "tail") if c.name == "head_dim128")
    call = harness.make("attention", case, dtype)
    call = harness.convert(call, lambda t: t[..., :head_dim].contiguous())
    with emulation(count_banks=True) as library:
        library.counters(reset=True)
        _results("attention", call)
        counted = library.counters()
    assert counted.accesses > 1000
    assert counted.conflicts / counted.accesses <= 0.02


def test_a_head_that_is_too_wide_is_refused() -> None:
    import vitkern
    from vitkern import ops

    q = torch.zeros(1, 1, 4, 129)
    with pytest.raises(vitkern.UnsupportedInput, match="a head_dim of 129; takes at most 128"):
        ops.attention(q, q, q, backend="cuda_emulated")
    with pytest.raises(vitkern.UnsupportedInput, match="a head_dim of 65; takes at most 64"):
        ops.window_attention(
            torch.zeros(1, 4, 4, 3 * 65), num_heads=1, window_size=4, backend="cuda_emulated"
        )


def test_a_window_that_is_too_large_is_refused() -> None:
    import vitkern
    from vitkern import ops

    with pytest.raises(vitkern.UnsupportedInput, match="windows of 16512 positions"):
        ops.window_attention(
            torch.zeros(1, 128, 129, 3), num_heads=1, window_size=(128, 129),
            backend="cuda_emulated",
        )  # fmt: skip
