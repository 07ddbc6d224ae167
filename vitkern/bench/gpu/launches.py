"""The launches of ops' own cases, as the ``triton`` backends would make them."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from vitkern.dispatch import OPERATORS
from vitkern.ops import _cases
from vitkern.ops._triton.kernel import NothingFits
from vitkern.ops._triton.recorder import Launch, record
from vitkern.ops._triton.targets import Target

SMALL = 65536
"""Bytes of shared memory on AMD's: too few for some of the kernels, which are left out there."""
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True)
class Source:
    """A launch, and what made it: the op's case and the dtype of its tensors."""

    op: str
    case: str
    dtype: str
    launch: Launch


def ops() -> list[str]:
    """Ops that have a ``triton`` backend."""
    import vitkern.ops  # noqa: F401 - registers them

    return sorted(name for name, op in OPERATORS.items() if "triton" in op.backends)


def of_case(op: str, case: Any, dtype: torch.dtype, target: Target, *, train: bool) -> list[Launch]:
    """What one call of a case launches on a target: forward, or forward and backward."""
    call = importlib.import_module(f"vitkern.ops.{op}.cases").make(case, dtype, "meta")
    return of_call(op, call, target, train=train)


def of_call(op: str, call: Any, target: Target, *, train: bool) -> list[Launch]:
    """What a call with meta tensors launches; nothing where the backend refuses it.

    Raises:
        NothingFits: the target is too small for a kernel that the call needs.
    """
    backend = OPERATORS[op].backends["triton"]
    assert backend.backward is not None
    with record(target) as launches:
        if backend.supports(call):
            return []
        output, saved = backend.forward(call, train)
        if train:
            outputs = output if isinstance(output, tuple) else (output,)
            needs = tuple(
                isinstance(value, torch.Tensor) and value.is_floating_point() for value in call
            )
            backend.backward(call, saved, tuple(torch.empty_like(y) for y in outputs), needs)
    return launches


def of_models(target: Target, dtypes: Iterable[torch.dtype] = DTYPES) -> Iterator[Source]:
    """Those of every case that is tagged ``model`` or ``batch``, of every op."""
    for op in ops():
        table = importlib.import_module(f"vitkern.ops.{op}.cases").CASES
        for case in _cases.select(table, "model", "batch"):
            for dtype in dtypes:
                for train in (False, True):
                    try:
                        launches = of_case(op, case, dtype, target, train=train)
                    except NothingFits:
                        if target.shared > SMALL:
                            raise
                        continue
                    for launch in launches:
                        yield Source(op, case.name, str(dtype).removeprefix("torch."), launch)
