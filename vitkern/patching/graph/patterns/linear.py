"""Linear layers with what follows them: activation, second layer, LayerScale, residual."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import fx

from vitkern import ops
from vitkern.patching import suitable
from vitkern.patching.graph.candidate import Candidate, Unsuitable
from vitkern.patching.graph.reading import (
    Reading,
    only_user,
    read,
    shape,
    through_idle,
    writes,
)

OP = "linear"
_QUICK = 1.702  # QuickGELU: x * sigmoid(1.702 x)


def starts(reading: Reading) -> bool:
    """At every linear layer."""
    return reading.name == "linear"


def propose(node: fx.Node, reading: Reading, backend: str | None) -> Iterator[Candidate]:
    """An MLP, a layer with all that follows, a layer with its activation, the layer."""
    first = _layer(reading)
    activation, activated, so_far = _activation(node)
    nodes = [node, *so_far]
    end, passed = through_idle(activated)
    second, following = only_user(end), read(only_user(end))
    if (
        second is not None
        and following is not None
        and following.name == "linear"
        and following["input"] is end
    ):
        weight, bias = following["weight"], following["bias"]
        for tail, epilogue in tails(second):
            yield Candidate(
                "mlp", (*nodes, *passed, second, *tail), ops.mlp, (*first, weight, bias),
                {"activation": activation, "backend": backend, **epilogue},
            )  # fmt: skip
    for tail, epilogue in tails(activated):
        if activation is None and not tail:
            continue
        yield Candidate(
            "linear", (*nodes, *tail), ops.linear, first,
            {"activation": activation, "backend": backend, **epilogue},
        )  # fmt: skip
    yield Candidate("linear", (node,), alone, (*first, backend))


def alone(x: Any, weight: Any, bias: Any, backend: str | None) -> Any:
    """``ops.linear`` of a layer with nothing to fuse."""
    reason = suitable.linear(backend, x, weight, bias)
    if reason is not None:
        raise Unsuitable(reason)
    return ops.linear(x, weight, bias, backend=backend)


def _layer(reading: Reading) -> tuple[Any, Any, Any]:
    return reading["input"], reading["weight"], reading["bias"]


def _activation(node: fx.Node) -> tuple[str | None, fx.Node, list[fx.Node]]:
    """The op's name of the activation behind ``node``, the node of its value, and all its nodes."""
    end, passed = through_idle(node)
    users = list(end.users)
    readings = [read(user) for user in users]
    if len(users) == 1 and readings[0] is not None and readings[0]["input"] is end:
        name = _name(readings[0])
        if name is not None:
            return name, users[0], [*passed, users[0]]
    if len(users) == 2:
        found = _gated(end, users)
        if found is not None:
            name, last, between = found
            return name, last, [*passed, *between, last]
    return None, node, []


def _name(reading: Reading) -> str | None:
    if reading.name == "gelu":
        return {"none": "gelu", "tanh": "gelu_tanh"}.get(reading["approximate"])
    return reading.name if reading.name in ("relu", "silu") else None


def _gated(x: fx.Node, users: list[fx.Node]) -> tuple[str, fx.Node, list[fx.Node]] | None:
    """``x * sigmoid(factor * x)``: SiLU, or QuickGELU."""
    last = next((user for user in users if _is_product(user, x)), None)
    if last is None:
        return None
    reading = read(last)
    assert reading is not None
    gate = reading["other"] if reading["input"] is x else reading["input"]
    inner = read(gate)
    if inner is None or inner.name != "sigmoid":
        return None
    if inner["input"] is x:
        return "silu", last, [gate]
    scaled = read(inner["input"])
    if scaled is None or scaled.name != "mul" or writes(inner["input"]):
        return None
    if {scaled["input"], scaled["other"]} != {x, _QUICK}:
        return None
    return "quick_gelu", last, [inner["input"], gate]


def _is_product(node: fx.Node, x: fx.Node) -> bool:
    """Whether a node is ``x`` times another node."""
    reading = read(node)
    if reading is None or reading.name != "mul":
        return False
    factors = [reading["input"], reading["other"]]
    return x in factors and all(isinstance(one, fx.Node) for one in factors)


def tails(node: fx.Node) -> list[tuple[list[fx.Node], dict[str, Any]]]:
    """What LayerScale and residual make of ``node``, the longest first, nothing last."""
    tails: list[tuple[list[fx.Node], dict[str, Any]]] = [([], {})]
    tail: list[fx.Node] = []
    epilogue: dict[str, Any] = {}
    for name, wanted in (("mul", "gamma"), ("add", "residual")):
        end, passed = through_idle(node)
        user, reading = only_user(end), read(only_user(end))
        if user is None or reading is None or reading.name != name:
            continue
        if reading.arguments.get("alpha", 1) != 1:
            continue
        other = reading["other"] if reading["input"] is end else reading["input"]
        width = (shape(end) or ())[-1:]
        if not isinstance(other, fx.Node) or other is end:
            continue
        if shape(other) != (width if wanted == "gamma" else shape(end)):
            continue
        tail, epilogue = [*tail, *passed, user], {**epilogue, wanted: other}
        tails.insert(0, (tail, epilogue))
        node = user
    return tails
