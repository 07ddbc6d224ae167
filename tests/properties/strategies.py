"""What calls of ops can be: the cases of ``vitkern/ops/<op>/cases.py`` with any sizes and options.

An op has one strategy, of its own ``Case``, with all its tensors. The rest is the same for all:
which optional tensors are left out, dtype, instruction set, layouts of memory and gradients.
"""

from __future__ import annotations

import importlib
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st

from tests.ops import harness
from vitkern.dispatch import OPERATORS
from vitkern.ops._cases import TAILS
from vitkern.ops._cpu import ACTIVATIONS

BLOCKS = harness.BLOCKS
OPS = (*harness.OPS, *BLOCKS)

Draw = Callable[..., Any]
FLAGS = st.booleans()


def sizes(least: int, most: int) -> st.SearchStrategy[int]:
    """Small ones, and those where tiles begin and end."""
    return st.integers(least, min(most, 9)) | st.sampled_from(
        [size for size in TAILS if least <= size <= most]
    )


ROWS = st.one_of(
    st.tuples(sizes(0, 97)),
    st.tuples(sizes(0, 5), sizes(0, 33)),
    st.tuples(sizes(1, 3), sizes(1, 3), sizes(1, 13)),
    st.just(()),
)
"""Sizes of the dimensions before the last."""

ACTIVATION = st.sampled_from(ACTIVATIONS)
EPS = st.sampled_from([1e-6, 1e-5, 0.1])
SCALE = st.none() | st.sampled_from([0.1, 1.0])


def attention(draw: Draw) -> dict[str, Any]:
    batch, heads, head_dim = draw(sizes(0, 3)), draw(sizes(1, 3)), draw(sizes(1, 97))
    queries, keys = draw(sizes(0, 97)), draw(sizes(0, 97))
    whole = (batch, heads, queries, keys)
    bias = tuple(draw(st.sampled_from([1, size])) for size in whole)
    return {
        "batch": batch, "heads": heads, "queries": queries, "keys": keys, "head_dim": head_dim,
        "bias": bias[draw(st.integers(0, 2)):],
        "kept": tuple(draw(st.integers(0, keys)) for _ in range(batch)),
        "scale": draw(SCALE), "dropout_p": draw(st.sampled_from([0.0, 0.0, 0.3])),
    }  # fmt: skip


def rotary_attention(draw: Draw) -> dict[str, Any]:
    case = attention(draw)
    rotates, planes = draw(FLAGS), [(), (case["heads"],), (case["batch"], 1), (1, case["heads"])]
    most = min(case["queries"], case["keys"])
    return case | {
        "head_dim": case["head_dim"] + case["head_dim"] % 2,
        "norm": draw(st.sampled_from([None, "layer", "rms"])), "affine": draw(FLAGS),
        "rotated": draw(st.integers(0, most)) if rotates else None,
        "planes": draw(st.sampled_from(planes)), "interleaved": draw(FLAGS),
    }  # fmt: skip


def windows(draw: Draw) -> dict[str, Any]:
    """Map, windows and heads; one that windows do not divide in half of the cases."""
    window = draw(sizes(1, 9)), draw(sizes(1, 9))
    size = tuple(
        side * draw(st.integers(1, 3)) + draw(st.just(0) | st.integers(0, side - 1))
        for side in window
    )
    return {
        "batch": draw(sizes(0, 2)), "size": size, "window": window,
        "shift": tuple(draw(st.integers(0, side - 1)) for side in window),
        "heads": draw(sizes(1, 3)), "head_dim": draw(sizes(1, 33)),
        "pad_first": draw(FLAGS), "scale": draw(SCALE),
    }  # fmt: skip


def window_attention(draw: Draw) -> dict[str, Any]:
    case = windows(draw)
    ragged = any(n % side for n, side in zip(case["size"], case["window"], strict=True))
    return case | {"pad": ragged}  # the public function passes none on where nothing is padded


def deformable_attention(draw: Draw) -> dict[str, Any]:
    return {
        "batch": draw(sizes(0, 2)), "heads": draw(sizes(1, 3)), "head_dim": draw(sizes(1, 33)),
        "shapes": tuple(draw(st.lists(st.tuples(sizes(1, 17), sizes(1, 17)), min_size=1,
                                      max_size=4))),
        "queries": draw(sizes(0, 33)), "points": draw(sizes(1, 5)),
        "where": draw(st.sampled_from(["around", "around", "far"])), "wide": draw(FLAGS),
    }  # fmt: skip


def layer_norm(draw: Draw) -> dict[str, Any]:
    rows = draw(ROWS)
    return {
        "shape": (*rows, draw(sizes(1, 97))), "residual": True, "eps": draw(EPS),
        "drop_path": rows != () and draw(FLAGS),
    }  # fmt: skip


def linear(draw: Draw) -> dict[str, Any]:
    return {
        "rows": draw(ROWS), "inputs": draw(sizes(0, 97)), "outputs": draw(sizes(0, 97)),
        "activation": draw(ACTIVATION), "gamma": True, "residual": True,
    }  # fmt: skip


def mlp(draw: Draw) -> dict[str, Any]:
    return {
        "rows": draw(ROWS), "dims": (draw(sizes(1, 97)), draw(sizes(0, 97)), draw(sizes(0, 97))),
        "activation": draw(ACTIVATION), "gamma": True, "residual": True,
    }  # fmt: skip


def gated_mlp(draw: Draw) -> dict[str, Any]:
    return mlp(draw)


def patch_embed(draw: Draw) -> dict[str, Any]:
    patch = draw(sizes(1, 17)), draw(sizes(1, 17))
    height, width = (side * draw(sizes(1, 7)) for side in patch)
    images = (draw(sizes(0, 2)), draw(sizes(1, 5)), height, width)
    return {"images": images, "patch": patch, "dim": draw(sizes(1, 49))}


def attention_block(draw: Draw) -> dict[str, Any]:
    return {
        "batch": draw(sizes(0, 3)), "length": draw(sizes(0, 97)), "heads": draw(sizes(1, 3)),
        "head_dim": draw(sizes(1, 33)), "gamma": True, "eps": draw(EPS), "scale": draw(SCALE),
        "wide_norm": draw(FLAGS),
    }  # fmt: skip


def window_attention_block(draw: Draw) -> dict[str, Any]:
    return windows(draw) | {"gamma": True, "eps": draw(EPS), "wide_norm": draw(FLAGS)}


def mlp_block(draw: Draw) -> dict[str, Any]:
    return {
        "rows": draw(ROWS), "width": draw(sizes(1, 97)), "hidden": draw(sizes(0, 97)),
        "activation": draw(ACTIVATION), "gamma": True, "eps": draw(EPS), "wide_norm": draw(FLAGS),
    }  # fmt: skip


def optional(op: str) -> list[str]:
    """Fields of the op's calls that are a tensor or None, whatever the other fields are."""
    kinds = typing.get_type_hints(OPERATORS[op].call_type)
    return [
        name for name, kind in kinds.items()
        if {torch.Tensor, type(None)} <= set(typing.get_args(kind)) and name != "seed"
    ]  # fmt: skip


@dataclass(frozen=True)
class Example:
    """A call, and how it is computed."""

    case: Any
    dropped: frozenset[str]  # optional tensors that are None
    dtype: torch.dtype
    isa: str | None
    layouts: dict[str, str]
    needs: frozenset[str] | None  # which tensors require a gradient; None: inference
    seed: int

    def call(self, op: str, turn: int = 0) -> Any:
        """The call itself, in natural layouts; in other turns it has other values."""
        call = harness.make(op, self.case, self.dtype, self.seed + turn)
        call = call._replace(**dict.fromkeys(self.dropped))
        # What is expanded has fewer values, and its natural form has the same ones.
        fewer = harness.floating(harness.arrange_call(call, self.layouts))
        return call._replace(**{name: tensor.contiguous() for name, tensor in fewer.items()})


@st.composite
def examples(draw: Draw, op: str, backend: str) -> Example:
    """Any call that a backend takes."""
    case = importlib.import_module(f"vitkern.ops.{op}.cases").Case(
        name="drawn", tags=(), **globals()[op](draw)
    )
    fields = [
        name for name, kind in typing.get_type_hints(OPERATORS[op].call_type).items()
        if kind is torch.Tensor or torch.Tensor in typing.get_args(kind)
    ]  # fmt: skip
    views = st.sampled_from(harness.VIEWS)
    layouts = {name: draw(views) for name in (*fields, "grad")}
    subsets = st.frozensets(st.sampled_from(fields))
    # The gradient of relu jumps at 0, and only what is not normalised first is exact there.
    jumps = op in BLOCKS and getattr(case, "activation", None) == "relu"
    return Example(
        case=case,
        dropped=draw(st.frozensets(st.sampled_from(optional(op)))) if optional(op) else frozenset(),
        dtype=draw(st.sampled_from(harness.dtypes(op, backend))),
        isa=draw(st.sampled_from([None, *harness.isas(backend)])),
        layouts=layouts,
        needs=None if jumps else draw(st.none() | subsets),
        seed=draw(st.integers(0, 2**31 - 1)),
    )
