"""Values of a graph that are known when it is compiled: what is computed of buffers and numbers.

Swin's relative positions are in a buffer, and its shift mask is in another one or computed anew on
each call. Nothing of it depends on the images. Buffers may still change between calls: what was
read of them is an *assumption*, which :mod:`~vitkern.patching.graph.assumptions` checks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import unset_fake_temporarily

from vitkern.patching.graph.reading import nodes_in, read, value, writes, written

LARGEST = 1 << 26  # elements of a tensor that is worth computing here

# Functions and methods by name: they compute the same each time, and write, if at all, to their
# first argument.
_PURE = frozenset({
    "zeros", "ones", "full", "arange", "new_zeros", "new_ones", "new_full", "zeros_like",
    "ones_like", "full_like", "view", "reshape", "permute", "transpose", "movedim",
    "contiguous", "clone", "flatten", "unflatten", "squeeze", "unsqueeze", "expand", "repeat",
    "select", "unbind", "chunk", "split", "roll", "stack", "cat", "meshgrid", "where", "sum",
    "getitem", "setitem", "__getitem__", "__setitem__", "fill_", "zero_", "copy_",
    "masked_fill", "masked_fill_", "index_select", "add", "sub", "mul", "truediv", "floordiv",
    "mod", "pow", "neg", "iadd", "isub", "imul", "add_", "sub_", "mul_", "div", "div_", "abs",
    "eq", "ne", "lt", "le", "gt", "ge", "and_", "or_", "invert", "not_", "logical_and",
    "logical_or", "logical_not", "to", "type", "type_as", "float", "double", "half", "bfloat16",
    "long", "int", "bool"
})  # fmt: skip
# Those that take only the dtype and, of the last three, the shape of their first argument.
_LIKE = frozenset({"new_zeros", "new_ones", "new_full", "zeros_like", "ones_like", "full_like"})
_STORING = frozenset({"setitem", "__setitem__", "iadd", "isub", "imul"})
# What may give another view of its input's memory.
_VIEWS = frozenset({
    "view", "permute", "transpose", "movedim", "contiguous", "flatten", "unflatten", "squeeze",
    "unsqueeze", "expand", "select", "getitem", "unbind", "chunk", "split", "to"
})  # fmt: skip


@dataclass(frozen=True)
class Known:
    """A value that is known.

    Attributes:
        tensor: the value, on the CPU.
        nodes: that computed it, without inputs of the graph.
        assumed: inputs of the graph, and the values that they had, on the CPU.
    """

    tensor: torch.Tensor
    nodes: tuple[fx.Node, ...]
    assumed: dict[fx.Node, torch.Tensor]


def known(node: fx.Node) -> Known | None:
    """The value of a node; None where it depends on more than numbers and a module's buffers."""
    position = {one: i for i, one in enumerate(node.graph.nodes)}
    needed = _needed(node)
    if needed is None:
        return None
    stores = [one for one in position if position[one] < position[node] and writes(one)]
    while True:
        memory = {_memory(one) for one in needed} - {None}
        more = [one for one in stores if one not in needed and _touches(one, needed, memory)]
        if not more:
            break
        for one in more:
            target = written(one)
            if _name(one) not in _PURE or not isinstance(target, fx.Node):
                return None
            found = _needed(one)
            if found is None:
                return None
            needed |= found
    for one in needed:
        if writes(one) and any(base.op == "placeholder" for base in _bases(written(one))):
            return None  # a buffer that the graph itself changes
    return _computed(node, sorted(needed, key=position.__getitem__))


def _needed(node: fx.Node) -> set[fx.Node] | None:
    """The node and all that its value depends on."""
    found: set[fx.Node] = set()
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if one in found:
            continue
        found.add(one)
        if one.op == "placeholder":
            if _buffer(one) is None:
                return None
            continue
        if one.op not in ("call_function", "call_method") or _name(one) not in _PURE:
            return None
        if not _small(value(one)):
            return None
        waiting += nodes_in(*_dependent(one))
    return found


def _dependent(node: fx.Node) -> tuple[Any, Any]:
    """The arguments that a node's value depends on."""
    return node.args[1:] if _name(node) in _LIKE else node.args, node.kwargs


def _name(node: fx.Node) -> str:
    if node.op == "call_method":
        return str(node.target)
    return getattr(node.target, "__name__", "") if node.op == "call_function" else ""


def _small(found: Any) -> bool:
    """Whether a value is of numbers, or of tensors with a fixed size that is not huge."""
    if isinstance(found, torch.Tensor):
        sizes = tuple(found.shape)
        return all(type(size) is int for size in sizes) and found.numel() <= LARGEST
    if isinstance(found, tuple | list):
        return all(_small(one) for one in found)
    return not isinstance(found, torch.SymInt | torch.SymFloat | torch.SymBool)


def _buffer(node: fx.Node) -> torch.Tensor | None:
    """What a module has for an input of the graph; None where the input is no module's."""
    given = node.meta.get("grapharg")
    source = getattr(getattr(given, "source", None), "guard_source", None)
    of_module = getattr(source, "is_unspecialized_nn_module", lambda: False)()
    try:
        found = given.example if of_module and given is not None else None
    except Exception:  # Dynamo has let it go
        return None
    if type(found) is not torch.Tensor or found.requires_grad or found.is_inference():
        return None
    return found if _small(found) else None


def _memory(node: Any) -> int | None:
    """Which memory the value of a node lies in."""
    found = value(node)
    if not isinstance(found, torch.Tensor):
        return None
    memory: int = found.untyped_storage()._cdata
    return memory


def _bases(node: Any) -> Iterator[fx.Node]:
    """The node, and those that it may be a view of."""
    while isinstance(node, fx.Node):
        yield node
        reading = read(node)
        node = reading["input"] if reading is not None and reading.name in _VIEWS else None


def _touches(store: fx.Node, needed: set[fx.Node], memory: set[int | None]) -> bool:
    """Whether a node may write to what one of ``needed`` has given."""
    first_only = _name(store) in _STORING or _name(store).endswith("_")
    targets = [written(store)] if first_only else list(store.all_input_nodes)
    return any(
        _memory(one) in memory or any(base in needed for base in _bases(one)) for one in targets
    )


def _computed(node: fx.Node, needed: list[fx.Node]) -> Known | None:
    values: dict[fx.Node, Any] = {}
    assumed: dict[fx.Node, torch.Tensor] = {}
    with unset_fake_temporarily(), torch.no_grad():
        for one in needed:
            if one.op == "placeholder":
                buffer = _buffer(one)
                assert buffer is not None
                # Two of them: what is computed may be a view.
                values[one], assumed[one] = buffer.detach().cpu(), buffer.detach().cpu().clone()
                continue
            try:
                values[one] = _run(one, values)
            except Exception:  # a call that means something else here than in the graph
                return None
        found = values[node]
        if not isinstance(found, torch.Tensor):
            return None
        return Known(
            found.clone(), tuple(one for one in needed if one.op != "placeholder"), assumed
        )


def _run(node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    """What a node gives, on the CPU."""
    args, kwargs = list(node.args), dict(node.kwargs)
    if _name(node) in _LIKE:
        like = value(args.pop(0))
        sizes = tuple(like.shape) if _name(node).endswith("_like") else (0,)
        args.insert(0, torch.empty(sizes, dtype=like.dtype))
    args, kwargs = fx.map_arg((args, kwargs), values.__getitem__)
    args, kwargs = list(args), dict(kwargs)
    args = [torch.device("cpu") if isinstance(one, torch.device) else one for one in args]
    if kwargs.get("device") is not None:
        kwargs["device"] = "cpu"
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    assert callable(node.target)
    return node.target(*args, **kwargs)
