"""What the nodes of a graph compute, whichever way the model's author wrote it.

``x + y``, ``torch.add(x, y)`` and ``x.add(y)`` are three nodes to PyTorch and one here. A node is
*read* as a name and its arguments by name, without those that have their default value.
"""

from __future__ import annotations

import inspect
import operator
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

# name -> the functions that it stands for, and their parameters in order, each with its default.
# The names are those of tensors' methods, too.
_FUNCTIONS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "linear": ((F.linear,), {"input": None, "weight": None, "bias": None}),
    "conv2d": (
        (F.conv2d,),
        {"input": None, "weight": None, "bias": None, "stride": 1, "padding": 0, "dilation": 1,
         "groups": 1},
    ),
    "layer_norm": (
        (F.layer_norm,),
        {"input": None, "normalized_shape": None, "weight": None, "bias": None, "eps": 1e-5},
    ),
    "attention": (
        (F.scaled_dot_product_attention,),
        {"query": None, "key": None, "value": None, "attn_mask": None, "dropout_p": 0.0,
         "is_causal": False, "scale": None, "enable_gqa": False},
    ),
    "gelu": ((F.gelu,), {"input": None, "approximate": "none"}),
    "relu": ((F.relu, torch.relu), {"input": None, "inplace": False}),
    "silu": ((F.silu,), {"input": None, "inplace": False}),
    "sigmoid": ((torch.sigmoid, F.sigmoid), {"input": None}),
    "dropout": (
        (F.dropout, torch.dropout),
        {"input": None, "p": 0.5, "training": True, "inplace": False},
    ),
    "softmax": (
        (F.softmax, torch.softmax),
        {"input": None, "dim": None, "_stacklevel": 3, "dtype": None},
    ),
    "matmul": ((torch.matmul, torch.bmm, operator.matmul), {"input": None, "other": None}),
    "add": ((torch.add, operator.add, operator.iadd), {"input": None, "other": None, "alpha": 1}),
    "mul": ((torch.mul, torch.multiply, operator.mul, operator.imul),
            {"input": None, "other": None}),
    "div": ((torch.div, torch.divide, torch.true_divide, operator.truediv, operator.itruediv),
            {"input": None, "other": None, "rounding_mode": None}),
    "masked_fill": ((torch.masked_fill,), {"input": None, "mask": None, "value": None}),
    "transpose": ((torch.transpose,), {"input": None, "dim0": None, "dim1": None}),
    "permute": ((torch.permute,), {"input": None, "dims": None}),
    "flatten": ((torch.flatten,), {"input": None, "start_dim": 0, "end_dim": -1}),
    "view": ((torch.reshape,), {"input": None, "shape": None}),
    "contiguous": ((), {"input": None}),
    "clone": ((torch.clone,), {"input": None}),
    "unflatten": ((torch.unflatten,), {"input": None, "dim": None, "sizes": None}),
    "squeeze": ((torch.squeeze,), {"input": None, "dim": None}),
    "unsqueeze": ((torch.unsqueeze,), {"input": None, "dim": None}),
    "expand": ((), {"input": None, "sizes": None}),
    "getitem": ((operator.getitem,), {"input": None, "index": None}),
    "select": ((torch.select,), {"input": None, "dim": None, "index": None}),
    "unbind": ((torch.unbind,), {"input": None, "dim": 0}),
    "chunk": ((torch.chunk,), {"input": None, "chunks": None, "dim": 0}),
    "split": ((torch.split,), {"input": None, "sizes": None, "dim": 0}),
    "roll": ((torch.roll,), {"input": None, "shifts": None, "dims": None}),
    "pad": (
        (F.pad, torch._C._nn.pad), {"input": None, "pad": None, "mode": "constant", "value": None}
    ),
    "index_select": ((torch.index_select,), {"input": None, "dim": None, "index": None}),
    "to": ((), {"input": None, "dtype": None}),
    # PyTorch's own fused layers, in evaluation without gradients.
    "multi_head": ((F.multi_head_attention_forward,), {"input": None}),
    "fast_path": (
        (torch._native_multi_head_attention, torch._transformer_encoder_layer_fwd), {"input": None}
    ),
}  # fmt: skip
_METHODS = {
    name: name for name in _FUNCTIONS
    if name not in ("linear", "conv2d", "layer_norm", "attention", "getitem", "pad")
} | {"bmm": "matmul", "__matmul__": "matmul", "__add__": "add", "__radd__": "add",
     "__mul__": "mul", "__rmul__": "mul", "__truediv__": "div", "multiply": "mul", "divide": "div",
     "reshape": "view", "swapaxes": "transpose", "add_": "add", "mul_": "mul", "div_": "div",
     "__getitem__": "getitem",
     "relu_": "relu", "masked_fill_": "masked_fill", "type": "to", "type_as": "to",
     "float": "to"}  # fmt: skip
_BY_FUNCTION = {
    function: name for name, (functions, _) in _FUNCTIONS.items() for function in functions
}
# Functions that write to their first argument.
_WRITING = {
    operator.iadd, operator.imul, operator.isub, operator.itruediv, operator.imatmul,
    operator.ifloordiv, operator.ipow, operator.imod, operator.iand, operator.ior, operator.ixor,
    operator.setitem,
}  # fmt: skip
_VARIADIC = ("permute", "view", "expand")


@dataclass(frozen=True)
class Reading:
    """What a node computes.

    Attributes:
        name: a key of the table above.
        arguments: by name, with defaults.
    """

    name: str
    arguments: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]


def read(node: Any) -> Reading | None:
    """What ``node`` computes; None where it is none of what patterns are made of."""
    if not isinstance(node, fx.Node):
        return None
    if node.op == "call_function":
        name = _BY_FUNCTION.get(node.target)
    elif node.op == "call_method":
        name = _METHODS.get(str(node.target))
    else:
        return None
    if name is None:
        return None
    args, kwargs = list(node.args), dict(node.kwargs)
    if "self" in kwargs:
        kwargs["input"] = kwargs.pop("self")
    if name == "to":
        return _conversion(node)
    if name in ("fast_path", "multi_head"):
        return Reading(name, {"input": None})
    defaults = _FUNCTIONS[name][1]
    if name == "softmax" and node.target not in (F.softmax,):
        defaults = {"input": None, "dim": None, "dtype": None}  # as torch.softmax has them
    if name in _VARIADIC and len(args) > 1 and not isinstance(args[1], tuple | list):
        args = [args[0], tuple(args[1:])]
    if len(args) > len(defaults):
        return None
    arguments = defaults | dict(zip(defaults, args, strict=False))
    aliases = {"size": "shape", "train": "training", "axis": "dim", "axis0": "dim0",
               "axis1": "dim1"}  # fmt: skip
    kwargs = {aliases.get(key, key): value for key, value in kwargs.items()}
    if not kwargs.keys() <= defaults.keys():
        return None
    return Reading(name, arguments | kwargs)


def _conversion(node: fx.Node) -> Reading | None:
    """A cast that changes dtype only, or nothing: what it gives says which."""
    source, result = node.args[0] if node.args else None, value(node)
    given = value(source)
    if not isinstance(given, torch.Tensor) or not isinstance(result, torch.Tensor):
        return None
    if given.device != result.device:
        return None
    if not (given.dtype.is_floating_point and result.dtype.is_floating_point):
        return None  # to integers and back changes values
    return Reading("to", {"input": source, "dtype": result.dtype})


def value(node: Any) -> Any:
    """The fake tensor, or whatever, that Dynamo computed for a node."""
    return node.meta.get("example_value") if isinstance(node, fx.Node) else node


def shape(node: Any) -> tuple[Any, ...] | None:
    """The shape of a tensor in the graph; None of anything else."""
    found = value(node)
    return tuple(found.shape) if isinstance(found, torch.Tensor) else None


def writes(node: fx.Node) -> bool:
    """Whether a node changes one of its arguments in place, or may."""
    target = node.target
    if node.op == "call_method":
        return _underscored(str(target)) or bool(_INPLACE_METHOD.fullmatch(str(target)))
    if node.op != "call_function":
        return node.op == "call_module"
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.is_mutable
    if isinstance(target, torch._ops.OpOverloadPacket):
        return any(getattr(target, name)._schema.is_mutable for name in target.overloads())
    if isinstance(target, torch._ops.HigherOrderOperator):
        return True
    if target in _WRITING or _underscored(getattr(target, "__name__", "")):
        return True
    given = _given(node)
    if given.get("out") is not None or given.get("inplace"):
        return True
    return any(given.get(name) is not None for name in _WRITTEN.get(target, ()))


def written(node: fx.Node) -> Any:
    """What a node that :func:`writes` changes: its first argument, as those that patterns have."""
    if node.args:
        return node.args[0]
    return node.kwargs.get("input", node.kwargs.get("self"))


# Setters and in-place operators by their names.
_INPLACE_METHOD = re.compile(
    r"__(setitem|i(add|sub|mul|truediv|floordiv|mod|pow|matmul|and|or|xor|lshift|rshift))__"
)
# Functions that write to an argument where these are given.
_WRITTEN: dict[Any, tuple[str, ...]] = {
    F.batch_norm: ("running_mean", "running_var"),
    F.instance_norm: ("running_mean", "running_var"),
    torch.batch_norm: ("running_mean", "running_var"),
    F.embedding: ("max_norm",),
    F.embedding_bag: ("max_norm",),
}


def _underscored(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__")


def _given(node: fx.Node) -> dict[str, Any]:
    """The arguments of a function by name; those by keyword where its names are not known."""
    assert callable(node.target)
    try:
        bound = inspect.signature(node.target).bind(*node.args, **node.kwargs).arguments
    except (TypeError, ValueError):
        return dict(node.kwargs)
    return {**bound, **bound.get("kwargs", {})}


def switches(node: fx.Node) -> bool:
    """Whether a node changes a mode (autocast, gradients) for those behind it."""
    module = getattr(node.target, "__module__", "") or ""
    name = getattr(node.target, "__name__", "")
    return node.op == "call_function" and (
        nesting(node) != 0
        or name.startswith(("_enter_", "_exit_", "_set_", "set_"))
        or module.startswith(("torch.amp.", "torch.autograd.grad_mode"))
    )


_NESTING = re.compile(r"_(vmap|grad|jvp|func)_(in|de)crement_nesting")


def nesting(node: fx.Node) -> int:
    """1 where a transform of ``torch.func`` begins, -1 where it ends, else 0."""
    found = _NESTING.fullmatch(getattr(node.target, "__name__", "") or "")
    return 0 if found is None else 1 if found[2] == "in" else -1


def only_user(node: fx.Node) -> fx.Node | None:
    """The node that uses ``node``, where it is one."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def idle(reading: Reading | None) -> bool:
    """Whether a node gives its input as it is: a dropout that drops nothing, a cast to the same."""
    if reading is None:
        return False
    if reading.name == "dropout":
        return not reading["training"] or reading["p"] == 0
    if reading.name == "to":
        given = value(reading["input"])
        return isinstance(given, torch.Tensor) and given.dtype == reading["dtype"]
    return False


def through_idle(node: fx.Node) -> tuple[fx.Node, list[fx.Node]]:
    """The last node of those behind ``node`` that only pass it on, and all of them."""
    passed: list[fx.Node] = []
    while True:
        user = only_user(node)
        reading = read(user)
        if user is None or reading is None or not idle(reading) or reading["input"] is not node:
            return node, passed
        node = user
        passed.append(user)


_LOCAL = re.compile(r"^L\['\w+'\]\.?")


def module_path(node: fx.Node) -> str:
    """Of the module that the node is in, as in ``named_modules()``; empty for the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    if not stack:
        return ""
    path = list(stack.values())[-1][0]
    # Dynamo's names of modules start with a local variable: self, or the model as s, fn ...
    return _LOCAL.sub("", path)


def source_line(node: fx.Node) -> str:
    """``file:line`` of the innermost call that made the node; empty where it is unknown."""
    lines = [line.strip() for line in (node.stack_trace or "").splitlines()]
    places = [line for line in lines if line.startswith('File "')]
    if not places:
        return ""
    file, line = places[-1].removeprefix('File "').split('", line ')[:2]
    return f"{file}:{line.partition(',')[0]}"


def nodes_in(*values: Any) -> Iterator[fx.Node]:
    """All nodes in nested arguments."""
    found: list[fx.Node] = []
    fx.map_arg(values, found.append)
    return iter(found)
