"""The registered operators: schemas, and fake implementations with the right shapes and strides."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.ops import harness
from vitkern import ops
from vitkern.dispatch import OPERATORS
from vitkern.ops import _cpu


class _Recorder(TorchDispatchMode):
    """Keeps every call of an operator of one library, with its arguments."""

    def __init__(self, library: str) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []
        self._library = library

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == self._library:
            self.calls.append((func, args))
        return func(*args, **(kwargs or {}))


def _recorded(op: str, backend: str, call: Any, grad: bool) -> list[Any]:
    with _Recorder(f"vitkern_{backend}") as recorder:
        harness.evaluate(harness.runner(op, backend), call, grad=grad)
    return recorder.calls


PAIRS = [(op, backend) for op in harness.OPS for backend in harness.kernels(op)]


@pytest.mark.parametrize(
    harness.ARGUMENTS, [one for one in harness.params("edge") if one.values[1] != "eager"]
)
@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
def test_fake_is_like_real(
    op: str, backend: str, isa: str | None, case: Any, dtype: torch.dtype, layout: str, grad: bool
) -> None:
    """Sizes, strides and dtypes, of every output of every operator."""
    calls = _recorded(op, backend, harness.make(op, case, dtype), grad)
    assert len(calls) >= (2 if grad else 1)
    for operator, args in calls:
        real = operator(*args)
        with FakeTensorMode() as mode:
            fake = operator(*(mode.from_tensor(a) if torch.is_tensor(a) else a for a in args))
        pairs = zip(real, fake, strict=True) if isinstance(real, tuple) else [(real, fake)]
        for i, (one, other) in enumerate(pairs):
            assert one.shape == other.shape, (operator, i)
            assert one.dtype == other.dtype, (operator, i)
            assert one.device == other.device, (operator, i)
            assert one.numel() == 0 or one.stride() == other.stride(), (operator, i)


@pytest.mark.parametrize("op, backend", PAIRS)
def test_opcheck(op: str, backend: str) -> None:
    """PyTorch's own checks of schemas, fakes with symbolic shapes, and registrations."""
    calls = [harness.make(op, case) for case in harness.cases(op, "edge")]
    calls = sorted(
        (call for call in calls if call[0].numel()), key=lambda call: -len(harness.floating(call))
    )
    checked = set()
    for call in calls[:2]:
        for operator, args in _recorded(op, backend, call, grad=True):
            # The operators have no gradient of their own: dispatch's wrapper has it.
            args = tuple(a.detach() if torch.is_tensor(a) else a for a in args)
            torch.library.opcheck(operator, args)
            checked.add(operator.name().split("::")[1])
    assert {op, f"{op}_backward"} <= checked


@pytest.mark.parametrize("op", [op for op in harness.OPS if "cpu" in OPERATORS[op].backends])
def test_cpu_refuses_with_reasons(op: str) -> None:
    backend = OPERATORS[op].backends["cpu"]
    reasons = backend.supports(harness.make(op, harness.cases(op, "edge")[0], torch.float64))
    if _cpu.missing() is not None:
        assert reasons == [f"no C++ library: {_cpu.missing()}"]
    elif "cpu" in harness.kernels(op):
        assert reasons == ["dtype torch.float64; takes float32 and bfloat16"]
        meta = harness.convert(harness.small(op), lambda t: t.to("meta"))
        assert backend.supports(meta) == ["a tensor on meta; takes tensors on the CPU"]


def test_the_meta_device_works_on_the_reference() -> None:
    x, weight = torch.empty(2, 3, device="meta"), torch.empty(4, 3, device="meta")
    assert ops.linear(x, weight, backend="eager").shape == (2, 4)
    q = torch.empty(1, 2, 5, 8, device="meta")
    assert ops.attention(q, q, q).shape == q.shape
