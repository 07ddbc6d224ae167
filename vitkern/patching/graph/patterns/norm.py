"""Layer norm of a sum: both in one pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import fx

from vitkern import ops
from vitkern.patching.graph.candidate import Candidate
from vitkern.patching.graph.reading import Reading, read, shape

OP = "layer_norm"


def starts(reading: Reading) -> bool:
    """At norms over the last dimension whose input is a sum."""
    total = read(reading["input"]) if reading.name == "layer_norm" else None
    normalized = reading["normalized_shape"] if total is not None else None
    return (
        total is not None
        and total.name == "add"
        and isinstance(normalized, tuple | list)  # of a dynamic width it is a node
        and len(normalized) == 1
    )


def propose(node: fx.Node, reading: Reading, backend: str | None) -> Iterator[Candidate]:
    """The sum and the norm. Others may use the sum as well."""
    added = reading["input"]
    total = read(added)
    assert total is not None
    x, residual = total["input"], total["other"]
    if total["alpha"] != 1 or not isinstance(x, fx.Node) or not isinstance(residual, fx.Node):
        return
    if shape(x) != shape(added) or shape(residual) != shape(added):
        return  # one of them broadcasts
    yield Candidate(
        "layer_norm",
        (added, node),
        norm_of_sum,
        (x, residual, reading["weight"], reading["bias"], reading["eps"], backend),
        outputs=(added, node),
    )


def norm_of_sum(
    x: Any, residual: Any, weight: Any, bias: Any, eps: float, backend: str | None
) -> tuple[Any, Any]:
    """``x + residual``, and its norm."""
    y, total = ops.layer_norm(x, weight, bias, eps=eps, residual=residual, backend=backend)
    return total, y
