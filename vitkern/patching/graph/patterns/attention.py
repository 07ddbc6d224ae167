"""Attention, as a function of PyTorch or written out.

In windows of a map too, where ``windows.py`` does not take what is around it as well: position bias
and shift mask are its bias then. A scale may be a number, a symbol, or a tensor that is the same
for all keys of a query.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import fx

from vitkern.patching import functional, suitable
from vitkern.patching.graph.candidate import Candidate, Unsuitable
from vitkern.patching.graph.reading import Reading, idle, only_user, read, value
from vitkern.patching.scores import Scores

OP = "attention"
Step = tuple[Any, ...]  # a method of Scores, and its arguments


def starts(reading: Reading) -> bool:
    """At PyTorch's function, and at every softmax over the last dimension."""
    return reading.name in ("attention", "softmax", "fast_path", "multi_head")


def propose(node: fx.Node, reading: Reading, backend: str | None) -> Iterator[Candidate]:
    """The attention that the node is, or is the middle of."""
    if reading.name == "fast_path":
        raise Unsuitable("is in a layer that PyTorch computes by one operator of its own")
    if reading.name == "multi_head":
        yield from _multi_head(node, backend)
        return
    if reading.name == "softmax":
        yield from _written_out(node, reading, backend)
        return
    names = ("query", "key", "value", "attn_mask", "dropout_p", "scale", "is_causal")
    yield Candidate(
        "attention", (node,), attention, (backend, *(reading[name] for name in names))
    )  # fmt: skip


def attention(
    backend: str | None,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    scale: Any = None,
    is_causal: bool = False,
) -> Any:
    """``F.scaled_dot_product_attention`` on ops."""
    if is_causal:
        raise Unsuitable("has is_causal=True, for which there is no op")
    reason = suitable.attention(backend, query, key, value, attn_mask, dropout_p)
    if reason is not None:
        raise Unsuitable(reason)
    if isinstance(scale, torch.SymFloat | torch.SymInt):  # which an op's number cannot be
        query, scale = query * scale, 1.0
    return functional.attend(backend, query, key, value, attn_mask, dropout_p, scale=scale)


def _multi_head(node: fx.Node, backend: str | None) -> Iterator[Candidate]:
    """``F.multi_head_attention_forward``, of which nobody uses the weights."""
    items = list(node.users)
    if not items or any(one.target is not operator.getitem for one in items):
        raise Unsuitable("has a result that is used whole")
    outputs = [one for one in items if one.args[1] == 0]
    if len(outputs) != 1 or any(one.users for one in items if one not in outputs):
        raise Unsuitable("has weights that are wanted, or no output that is")
    args = (backend, *node.args)
    yield Candidate(
        "attention", (node, *items), multi_head, args, dict(node.kwargs), (outputs[0],)
    )  # fmt: skip


def multi_head(backend: str | None, *args: Any, **kwargs: Any) -> Any:
    """The output of ``F.multi_head_attention_forward`` on ops."""
    result = functional.multi_head(backend, *args, **kwargs)
    if result is NotImplemented:
        raise Unsuitable("is small, or has weights wanted, keys added, or masks only hinted at")
    return result[0]


def written_out(
    q: Any, k_transposed: Any, v: Any, steps: tuple[Step, ...], dropout_p: float,
    backend: str | None,
) -> Any:  # fmt: skip
    """``dropout(softmax(steps(q @ k_transposed))) @ v`` as one op.

    Args:
        q: (*leading, Nq, d).
        k_transposed: (*leading, d, Nk).
        v: (*leading, Nk, d).
        steps: what happens between product and softmax: methods of
            :class:`~vitkern.patching.scores.Scores`, and their arguments.
        dropout_p: of the weights.
        backend: asked for by name, or None.
    """
    if torch.is_autocast_enabled(q.device.type):
        raise Unsuitable("is written out under autocast, which gives its softmax another dtype")
    if q.dtype != k_transposed.dtype or not q.is_floating_point() or q.dim() < 3:
        raise Unsuitable("has fewer than 3 dimensions, or dtypes that differ")
    if q.shape[:-2] != k_transposed.shape[:-2] or q.shape[-1] != k_transposed.shape[-2]:
        raise Unsuitable("has leading sizes that broadcast")
    attend = partial(_attend, backend, dropout_p)
    scores: Any = Scores(q, k_transposed.transpose(-2, -1), attend)
    for name, *operands in steps:
        if name == "masked":
            mask = operands[0]
            zeros = torch.zeros((), dtype=q.dtype, device=q.device)
            operands = [zeros.expand(mask.shape).masked_fill(mask, float("-inf"))]
            name = "plus"
        scores = getattr(scores, name)(*operands)
        if type(scores) is not Scores:
            raise Unsuitable(f"changes its scores in a way the op does not have ({name})")
    y = scores.softmax(-1).attention(v)
    if y is NotImplemented:
        raise Unsuitable("has values that are not shaped as its keys")
    return y


def _attend(
    backend: str | None, dropout_p: float, q: Any, k: Any, v: Any, bias: Any, scale: float
) -> Any:
    reason = suitable.attention(backend, q, k, v, bias, dropout_p)
    if reason is not None:
        raise Unsuitable(reason)
    return functional.attend(backend, q, k, v, bias, dropout_p, scale=scale)


@dataclass(frozen=True)
class WrittenOut:
    """Attention from its first product to its second.

    Attributes:
        q: the first factor of the first product.
        k_transposed: the second.
        v: the second factor of the second product.
        nodes: from one product to the other.
        steps: what changes scores, in order, and its nodes.
        dropout_p: of the weights.
    """

    q: Any
    k_transposed: Any
    v: Any
    nodes: tuple[fx.Node, ...]
    steps: tuple[tuple[fx.Node, Step], ...]
    dropout_p: float


def around(node: fx.Node, reading: Reading) -> WrittenOut | None:
    """From a softmax back to the first product, and on to the second; None where there is none.

    Raises:
        Unsuitable: there is, but what is in between is not what ops do.
    """
    given = value(reading["input"])
    if not isinstance(given, torch.Tensor) or given.dim() < 3:
        return None
    if reading["dim"] not in (-1, given.dim() - 1):
        return None
    last, dropout_p = node, 0.0
    after: list[fx.Node] = []
    while True:
        user, following = only_user(last), read(only_user(last))
        if user is None or following is None or following["input"] is not last:
            return None
        after.append(user)
        last = user
        if following.name == "matmul":
            break
        if following.name == "dropout" and following["training"]:
            if dropout_p or not 0.0 <= following["p"] < 1.0:
                return None
            dropout_p = float(following["p"])
        elif following.name != "to" and not idle(following):
            return None  # (what a cast gives fits v, and the trial sees whether that fits q)
    before = _steps(reading["input"])
    if before is None:
        raise Unsuitable("changes its scores in a way the op does not have")
    if not _widens(reading["dtype"], given.dtype):
        raise Unsuitable(f"has a softmax in {reading['dtype']}")
    product, nodes, steps = before
    return WrittenOut(
        product["input"],
        product["other"],
        following["other"],
        (*nodes, node, *after),
        tuple(steps),
        dropout_p,
    )


def _written_out(node: fx.Node, reading: Reading, backend: str | None) -> Iterator[Candidate]:
    found = around(node, reading)
    if found is None:
        return
    steps = tuple(step for _, step in found.steps)
    yield Candidate(
        "attention",
        found.nodes,
        written_out,
        (found.q, found.k_transposed, found.v, steps, found.dropout_p, backend),
    )


def _widens(dtype: torch.dtype | None, given: torch.dtype) -> bool:
    """Whether a softmax that computes in ``dtype`` is what ops do: in float32 or wider."""
    return dtype in (None, given) or (
        dtype == torch.float32 and given in (torch.bfloat16, torch.float16)
    )


def _steps(node: Any) -> tuple[Reading, list[fx.Node], list[tuple[fx.Node, Step]]] | None:
    """The product that scores come from, its node and those behind it, and what they do."""
    reading = read(node)
    if reading is None:
        return None
    if reading.name == "matmul":
        return reading, [node], []
    if idle(reading):
        found = _steps(reading["input"])
        return found and (found[0], [*found[1], node], found[2])
    scores, step = _step(reading)
    found = _steps(scores) if step is not None else None
    if found is None and reading.name in ("add", "mul"):  # the other way round
        swapped = {**reading.arguments, "input": reading["other"], "other": reading["input"]}
        scores, step = _step(Reading(reading.name, swapped))
        found = _steps(scores) if step is not None else None
    if found is None or step is None:
        return None
    return found[0], [*found[1], node], [*found[2], (node, step)]


def _step(reading: Reading) -> tuple[Any, Step | None]:
    """The scores that a node changes, and how; None for what ops cannot do."""
    scores = reading["input"]
    if reading.name == "add" and reading["alpha"] == 1 and isinstance(reading["other"], fx.Node):
        return scores, ("plus", reading["other"])
    if reading.name == "mul":
        return scores, ("times", reading["other"])
    if reading.name == "div" and reading["rounding_mode"] is None:
        return scores, ("over", reading["other"])
    if reading.name == "view" and reading["shape"] is not None:
        return scores, ("view", reading["shape"])
    if reading.name == "masked_fill" and reading["value"] == -math.inf:
        return scores, ("masked", reading["mask"])
    return scores, None
