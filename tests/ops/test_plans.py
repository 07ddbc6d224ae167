"""Launches that are written down and repeated: the same bits as those that are decided anew."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.ops import harness
from vitkern import ops, use_backend
from vitkern.dispatch import OPERATORS, Backend
from vitkern.ops._composed import Composed
from vitkern.ops._family import Family
from vitkern.ops._plans import Plan, kind_of
from vitkern.ops._triton.operator import TRITON

FAMILIES: dict[str, Family] = {"triton": TRITON}
if harness.EMULATED:
    from vitkern.testing import EMULATED

    FAMILIES["cuda_emulated"] = EMULATED.family
if harness.ON_GPU:
    from vitkern.ops._cuda.device import DEVICE

    FAMILIES["cuda"] = DEVICE.family


def _params() -> Iterator[Any]:
    for op in harness.OPS:
        for backend in set(harness.kernels(op)) & FAMILIES.keys():
            for i, case in enumerate(harness.cases(op, "edge")):
                dtype = harness.DTYPES[i % 3]
                yield pytest.param(op, backend, case, dtype, id=f"{op}-{backend}-{case.name}")


PARAMS = sorted(_params(), key=lambda one: str(one.id))


def plans(backend: str) -> list[Plan]:
    """Those that there are."""
    return [
        plan
        for planned in FAMILIES[backend].planned.values()
        for plan in planned.kinds.values()
        if isinstance(plan, Plan)
    ]


def forget(backend: str) -> None:
    for planned in FAMILIES[backend].planned.values():
        planned.kinds.clear()


def test_there_are_some() -> None:
    wanted = harness.EMULATED or harness.ON_GPU or bool(os.environ.get("TRITON_INTERPRET"))
    assert bool(PARAMS) is wanted


@pytest.mark.parametrize("op, backend, case, dtype", PARAMS)
def test_the_same_bits(op: str, backend: str, case: Any, dtype: torch.dtype) -> None:
    """Of other values in other memory too, with what is not written left as NaN."""
    run = harness.runner(op, backend)
    calls = [harness.make(op, case, dtype, seed) for seed in (1, 2)]
    forget(backend)
    expected = []
    for call in calls:
        forget(backend)
        expected.append(harness.evaluate(run, call, grad=True))
    assert not plans(backend)
    harness.evaluate(run, calls[0], grad=True)
    with harness.poisoned():
        for _ in range(2):
            for call, values in zip(calls, expected, strict=True):
                got = harness.evaluate(run, call, grad=True)
                for name, value in values.items():
                    assert torch.equal(got[name], value), name
    tensors = harness.floating(calls[0])
    # CUDA's layer norm leaves a residual's scale to PyTorch.
    anew = "residual_scale" in tensors and backend != "triton"
    assert plans(backend) or anew or not all(t.numel() for t in tensors.values())


def _blocks() -> Iterator[Any]:
    for op in harness.BLOCKS:
        for backend in FAMILIES:
            # Slow where kernels are interpreted or emulated: some of the cases.
            some = harness.cases(op, "edge")[:: 1 if harness.ON_GPU else 4]
            for i, case in enumerate(some):
                dtype = harness.DTYPES[i % 3]
                yield pytest.param(op, backend, case, dtype, id=f"{op}-{backend}-{case.name}")


BLOCKS = list(_blocks()) if PARAMS else []


def composed(op: str) -> Composed[Any]:
    found = importlib.import_module(f"vitkern.ops.{op}")._COMPOSED
    assert isinstance(found, Composed)
    return found


@pytest.mark.parametrize("op, backend, case, dtype", BLOCKS)
def test_blocks_are_repeated_as_one(op: str, backend: str, case: Any, dtype: torch.dtype) -> None:
    """The bits of the ops that they are composed of, each decided anew."""
    run, kinds = harness.public(op, backend), composed(op).kinds
    calls = [harness.make(op, case, dtype, seed) for seed in (1, 2)]
    expected = []
    for call in calls:
        kinds.clear()
        forget(backend)
        expected.append(harness.evaluate(run, call, grad=False)["y0"])
    kinds.clear()
    with torch.no_grad():
        harness.evaluate(run, calls[0], grad=False)
        with harness.poisoned():
            for _ in range(2):
                for call, values in zip(calls, expected, strict=True):
                    got = harness.evaluate(run, call, grad=False)["y0"]
                    assert torch.equal(got, values)
                    assert got.stride() == values.stride()
    whole = all(t.numel() for t in harness.floating(calls[0]).values())
    assert not whole or [type(one) for one in kinds.values()] == [Plan]


@pytest.mark.parametrize("backend", sorted({one.values[1] for one in PARAMS}))
def test_a_block_that_is_asked_otherwise(backend: str) -> None:
    """Another backend, a gradient, or a compiler gets no plan, or one of its own."""
    op = "mlp_block"
    (case,) = (case for case in harness.cases(op, "edge") if case.name == "gelu-all")
    call, kinds = harness.make(op, case, torch.float32), composed(op).kinds
    kinds.clear()
    expected = harness.public(op, backend)(call)
    for _ in range(3):
        with use_backend(backend):
            got = harness.public(op)(call)
        assert torch.equal(got, expected)
        eager = harness.public(op, "eager")(call)
        torch.testing.assert_close(eager, expected)
    assert [(key[1], type(plan)) for key, plan in kinds.items()] == [(backend, Plan)]
    x = call.x.clone().requires_grad_()
    for _ in range(3):
        assert harness.public(op, backend)(call._replace(x=x)).requires_grad
    assert len(kinds) == 1


@pytest.mark.parametrize("backend", sorted({one.values[1] for one in PARAMS}))
def test_functions_of_pytorch_are_repeated_too(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What eager computes in a block; attention as long as its context is the same."""
    (case,) = (case for case in harness.cases("attention_block", "edge") if case.name == "all")
    calls = [harness.make("attention_block", case, torch.float32, seed) for seed in (1, 2)]
    run, kinds = harness.public("attention_block", backend), composed("attention_block").kinds
    for name in ("layer_norm", "linear", "attention"):
        backends = OPERATORS[name].backends
        theirs = replace(backends["eager"], name=backend, recorded=True)
        monkeypatch.setitem(backends, backend, theirs)
        kinds.clear()
        expected = [run(call) for call in calls]
        kinds.clear()
        run(calls[0])
        for _ in range(2):
            for call, values in zip(calls, expected, strict=True):
                assert torch.equal(run(call), values)
        (plan,) = kinds.values()
        assert isinstance(plan, Plan) and plan.holds
        with sdpa_kernel(SDPBackend.MATH):
            assert not plan.holds


def test_a_backend_of_others_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody sees what it launches."""
    linear, computed = OPERATORS["linear"], []

    def forward(call: Any, needs_grad: bool) -> tuple[torch.Tensor, tuple[()]]:
        computed.append(call)
        return linear.backends["eager"].forward(call, False)[0], ()

    for name in ("layer_norm", "mlp", "attention", "linear"):
        operator = OPERATORS[name]
        theirs = Backend("theirs", lambda call: [], operator.backends["eager"].forward)
        monkeypatch.setitem(operator.backends, "theirs", theirs)
    monkeypatch.setitem(linear.backends, "theirs", Backend("theirs", lambda call: [], forward))
    op = "attention_block"
    (case,) = (case for case in harness.cases(op, "edge") if case.name == "all")
    call, kinds = harness.make(op, case, torch.float32), composed(op).kinds
    kinds.clear()
    for i in range(4):
        harness.public(op, "theirs")(call)
        assert len(computed) == 2 * (i + 1)
    assert not kinds


@pytest.mark.parametrize("backend", sorted({one.values[1] for one in PARAMS}))
def test_other_alignments_and_shared_memory(backend: str) -> None:
    """Kinds of their own; one tensor twice is decided anew."""
    weight, x = (torch.randn(32, 32, device=harness.DEVICE) for _ in range(2))
    odd = torch.empty(32 * 32 + 1, device=harness.DEVICE)[1:].view(32, 32).copy_(x)
    forget(backend)
    for _ in range(3):
        for one in (x, odd):
            got = ops.linear(one, weight, activation="relu", backend=backend)
            torch.testing.assert_close(got, (x @ weight.T).relu())
        got = ops.linear(x, weight, residual=x, backend=backend)
        torch.testing.assert_close(got, x + x @ weight.T)
    assert kind_of((x, weight, x)) is None
    assert kind_of((x, weight)) != kind_of((odd, weight))
