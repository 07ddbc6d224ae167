"""Any call of any op, on any backend, is as close to the truth as twice eager's error.

``pytest tests/properties --hypothesis-profile long`` draws thousands an op instead of a hundred.
Kernels for GPUs take part where they run: under ``TRITON_INTERPRET=1``, and in the emulation
with ``VITKERN_TEST_CUDA_EMULATED=1``; these get fewer, for they are slow.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings

from tests.ops import harness
from tests.properties import strategies

SLOWER = {"cpu": 1, "eager": 1}
"""By how much fewer examples a backend gets; all that are not named here get a fiftieth."""

ALIKE = 100
"""Calls of the same shapes in which eager's error is measured, too, where it was small by luck."""


def _compute(op: str, backend: str, example: strategies.Example) -> None:
    call = example.call(op)
    leaves = set(harness.floating(call))
    needs = None if example.needs is None else example.needs & leaves
    # A fused block is for inference: with a gradient its public function composes other ops.
    composed = op in strategies.BLOCKS and needs
    with harness.on_isa(example.isa):
        harness.check(
            op, backend, call, grad=bool(needs), needs=needs, layout=example.layouts,
            run=harness.public(op, backend) if composed else None,
            alike=lambda: (example.call(op, turn) for turn in range(1, ALIKE + 1)),
        )  # fmt: skip


@harness.pairs(*strategies.OPS)
def test_any_call(op: str, backend: str, record_property: Callable[[str, object], None]) -> None:
    """``--junitxml FILE`` writes how many calls were compared."""
    count = settings().max_examples // SLOWER.get(backend, 50)
    computed = 0

    @settings(max_examples=count)
    @given(example=strategies.examples(op, backend))
    def holds(example: strategies.Example) -> None:
        nonlocal computed
        _compute(op, backend, example)
        computed += 1

    holds()
    record_property("calls", computed)


@pytest.mark.parametrize("op", strategies.OPS)
def test_options_are_found(op: str) -> None:
    """Of each op the strategy has to know what can be left out, or nothing ever is."""
    assert strategies.optional(op) or op == "deformable_attention"
