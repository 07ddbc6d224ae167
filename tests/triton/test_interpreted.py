"""Every Triton kernel under Triton's interpreter: each of the ops' tails and edges once.

Run by ``make triton-check``, with ``TRITON_INTERPRET=1``. Dtypes and memory layouts take turns from
case to case, since the interpreter is slow; ``pytest tests/ops -k triton`` under the same variable
runs every combination, which takes hours.
"""

from __future__ import annotations

import gc
import importlib
import math
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.ops import harness
from vitkern import ops
from vitkern.ops._cpu import ACTIVATIONS
from vitkern.ops._plans import Plan
from vitkern.ops._triton import availability

pytestmark = pytest.mark.skipif(
    not availability.interpreted(), reason="make triton-check runs it, with TRITON_INTERPRET=1"
)

OPS = [op for op in harness.OPS if "triton" in harness.OPERATORS[op].backends]


def _params() -> Iterator[Any]:
    for op in OPS:
        for i, case in enumerate(harness.cases(op, "tail", "edge")):
            dtype, layout = harness.DTYPES[i % 3], harness.LAYOUTS[i // 3 % 3]
            if op == "window_attention" and math.prod(case.window) > 32 and case.head_dim > 8:
                # The small blocks of float32 take the interpreter minutes there. (81 positions in
                # float32 are among the cases with one head, which are fast.)
                dtype = dtype if case.heads == 1 else harness.DTYPES[1 + i % 2]
            name = f"{op}-{case.name}-{harness.short(dtype)}-{layout}"
            yield pytest.param(op, case, dtype, layout, id=name)


CASES = [*_params()] if availability.interpreted() else []


@pytest.mark.parametrize("op, case, dtype, layout", CASES)
def test_outputs_and_gradients(op: str, case: Any, dtype: torch.dtype, layout: str) -> None:
    call = harness.make(op, case, dtype)
    harness.check(op, "triton", call, grad=True, layout=layout)


@pytest.mark.parametrize("op, name", [("attention_block", "all"), ("mlp_block", "gelu-all")])
def test_blocks_are_repeated_as_one(op: str, name: str) -> None:
    """The third call of a kind is launches alone, and gives what the ops do."""
    (case,) = (case for case in harness.cases(op, "edge") if case.name == name)
    call = harness.make(op, case)
    run = harness.public(op, "triton")
    first = run(call)
    for _ in range(3):
        assert torch.equal(run(call), first)
    found = importlib.import_module(f"vitkern.ops.{op}")._COMPOSED.kinds
    assert any(isinstance(plan, Plan) for plan in found.values())


def test_a_negated_view() -> None:
    """Its memory has the opposite: what PyTorch's dispatcher is for."""
    x = torch.randn(4, 16, dtype=torch.complex64).conj().imag
    assert x.is_neg()
    for _ in range(3):
        got = ops.layer_norm(x, backend="triton")
        torch.testing.assert_close(got, torch.nn.functional.layer_norm(x, (16,)))


def test_a_plan_keeps_no_arguments() -> None:
    weight, given = torch.randn(16), []
    for _ in range(4):
        x = torch.randn(4, 16)
        given.append(weakref.ref(x))
        ops.layer_norm(x, weight, backend="triton")
    del x
    gc.collect()
    assert all(one() is None for one in given)


@pytest.mark.parametrize("activation", [name for name in ACTIVATIONS if name is not None])
def test_slopes_of_activations(activation: str) -> None:
    harness.check_slopes(activation, "triton")


def test_the_backend_is_there() -> None:
    """Without it the tests above would all fail: this one says why."""
    assert availability.missing() is None
    assert len(OPS) >= 7
    for op in OPS:
        assert "triton" in harness.kernels(op)


def test_use_backend_works_for_anyone_who_tries_it() -> None:
    import vitkern

    x = torch.randn(2, 5, 32)
    with vitkern.use_backend("triton"):
        y = vitkern.ops.layer_norm(x)
    torch.testing.assert_close(y, torch.nn.functional.layer_norm(x, (32,)))


def test_a_patched_model_runs_on_it() -> None:
    timm = pytest.importorskip("timm")
    import vitkern

    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, depth=1, embed_dim=32, num_heads=2, num_classes=5
    )
    images = torch.randn(2, 3, 32, 32)
    expected = model.eval()(images)
    expected.sum().backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    with vitkern.patched(model, backend="triton", strict=True):
        found = model(images)
        found.sum().backward()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, grads[name], rtol=1e-3, atol=1e-4, msg=name)
