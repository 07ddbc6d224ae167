"""What is written down of functions of PyTorch, and what is not: any device will do."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from vitkern import ops
from vitkern.dispatch import OPERATORS
from vitkern.ops._plans import Plan, kind_of, record

modes = pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
Mode = Callable[[], AbstractContextManager[object]]
Decide = Callable[..., torch.Tensor]


def planned(decide: Decide, *arguments: torch.Tensor) -> Plan:
    result, plan = record(decide, arguments)
    assert torch.equal(result, decide(*arguments))
    assert plan is not None
    return plan


def part(x: torch.Tensor) -> torch.Tensor:
    """A result that starts inside what a function of PyTorch gave."""
    return torch.ops.aten.unsafe_split(x, 2, 0)[1].t()  # type: ignore[no-any-return]


REPEATED: dict[str, Decide] = {
    "contiguous": lambda x: x.new_empty(6, 4).copy_(x.t().contiguous()),
    "reshape": lambda x: x.new_empty(24).copy_(x.t().reshape(24)),
    "to": lambda x: x.new_empty(4, 6).copy_(x.to(torch.float64)),
    "view": lambda x: x.new_empty(2, 12).copy_(x.reshape(2, 12)),
    "chunk": lambda x: (2 * x).chunk(2, 1)[1].contiguous(),
    "part": part,
}


@modes
@pytest.mark.parametrize("name", REPEATED)
def test_views_and_copies(name: str, mode: Mode) -> None:
    """Inference mode shows functions that may copy whole; they are repeated all the same."""
    decide = REPEATED[name]
    x, y = torch.randn(2, 4, 6)
    with mode():
        got = planned(decide, x)((y,))
        assert isinstance(got, torch.Tensor)
        assert torch.equal(got, decide(y))
        assert got.stride() == decide(y).stride()


REFUSED: dict[str, Decide] = {
    "itself": lambda x: x,
    "a value": lambda x: x * x.max().item(),
    "a branch": lambda x: x * 2 if x.sum() > 0 else x * 3,
    "a write": lambda x: (x * 1).mul_(3.0),
    "elsewhere": lambda x: x * (1 if x.new_empty(3, device="meta").is_meta else 2),
}


@modes
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_repeated(name: str, mode: Mode) -> None:
    with mode():
        assert record(REFUSED[name], (torch.randn(4, 6),))[1] is None


@modes
def test_arguments_that_overlap(mode: Mode) -> None:
    """Where another starts, of those of the next call: a part of the first is not the other."""
    rows = torch.randn(8, 6)

    def decide(x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return x[1:] * 2

    def product(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    with mode():
        assert record(decide, (rows[:4], rows[1:5]))[1] is None
        # Heads of one tensor lie between each other, and are arguments as a whole.
        packed = torch.randn(2, 1, 5, 3, 2, 8).permute(0, 3, 1, 4, 2, 5)
        plan, other = planned(product, *packed[0].unbind(0)), tuple(packed[1].unbind(0))
        assert torch.equal(plan(other), product(*other))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change, undo",
    [
        (torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp, False),
        (torch.backends.cuda.enable_flash_sdp, True),
        (torch.use_deterministic_algorithms, False),
    ],
)
def test_what_attention_chooses_by(change: Callable[[bool], None], undo: bool) -> None:
    x = torch.randn(1, 2, 5, 8).bfloat16()
    plan = planned(lambda x: F.scaled_dot_product_attention(x, x, x), x)
    assert plan.holds
    try:
        change(not undo)
        assert not plan.holds
    finally:
        change(undo)
    assert plan.holds


def test_another_backend_may_be_chosen() -> None:
    """A plan does not hold where there are other backends than when it was written down."""
    linear, x = OPERATORS["linear"], torch.randn(4, 6)
    plan = planned(lambda x: x * 2, x)
    assert plan.holds
    linear.add(linear.backends["eager"])
    assert not plan.holds


def test_a_plan_keeps_no_memory() -> None:
    x, computed = torch.randn(4, 6), []

    def decide(x: torch.Tensor) -> torch.Tensor:
        y = x.new_empty(6, 4).copy_(x.t().contiguous())
        computed.append(weakref.ref(y))
        return y * 2

    _, plan = record(decide, (x,))
    given = weakref.ref(x)
    del x
    gc.collect()
    assert plan is not None
    assert given() is None
    assert computed[0]() is None


def unusual() -> dict[str, torch.Tensor]:
    x = torch.randn(4, 6)
    return {
        "sparse rows": x.to_sparse_csr(),
        "sparse": x.to_sparse(),
        "nested": torch.nested.nested_tensor([x, x[1:]]),
        "negated": torch.view_as_complex(x.view(4, 3, 2)).conj().imag,
        "zeros without memory": torch._efficientzerotensor((4, 6)),
        "meta": x.to("meta"),
    }


@pytest.mark.parametrize("name", unusual())
def test_what_is_not_in_its_memory(name: str) -> None:
    """PyTorch's dispatcher knows what such a tensor means, or who can take it."""
    one = unusual()[name]
    assert name != "negated" or one.is_neg()
    assert kind_of((one,)) is None
    assert name == "meta" or kind_of((torch.randn(4, 6), one)) is None


@modes
def test_a_sparse_weight(mode: Mode) -> None:
    """Eager takes it, in a block too."""
    x, scale, w1, w2 = (torch.randn(*shape) for shape in ((3, 8), (8,), (16, 8), (8, 16)))
    run: Any = ops.mlp_block
    with mode():
        expected = run(x, scale, None, w1, None, w2, None)
        for _ in range(3):
            got = run(x, scale, None, w1.to_sparse_csr(), None, w2, None)
            torch.testing.assert_close(got, expected)
