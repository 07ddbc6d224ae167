"""The kernels of ``window_attention`` in Triton: their configurations, and what these need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vitkern.ops._triton.kernel import Config, Kernel, Resources, config

_HERE = "vitkern.ops.window_attention"

_FEWEST = 2
"""Warps: in programs of one, and layouts that Triton 3.6 converts within a warp, the first row of a
tile of 16 was lost on an H100 (heads of 1, 3, 15; of 48 and 64 in float32's backward pass)."""


def _whole_forward_space(c: Mapping[str, Any], itemsize: int) -> Sequence[Config]:
    """A warp has 16 rows of scores, or 8; as many programs as a processor has at once, or more."""
    warps = max(c["BLOCK_N"] // 16, _FEWEST)
    share = 64 // c["BLOCK_N"]
    return [
        config(warps, 2, PER_PROCESSOR=4 * share), config(warps, 2, PER_PROCESSOR=16 * share),
        config(warps, 3, PER_PROCESSOR=4 * share), config(warps, 1, PER_PROCESSOR=8 * share),
        config(2 * warps, 1, PER_PROCESSOR=4 * share),
    ]  # fmt: skip


def _whole_backward_space(c: Mapping[str, Any], itemsize: int) -> Sequence[Config]:
    """Loads are not pipelined: their addresses would spill, as large tiles of few warps do."""
    warps = max(c["BLOCK_N"] // 16, _FEWEST)
    wide = [config(2 * warps, 1)]
    return wide if c["BLOCK_N"] * c["BLOCK_D"] >= 64 * 32 else [config(warps, 1), *wide]


def _whole_forward_model(c: Mapping[str, Any], itemsize: int) -> Resources:
    """Scores and their bias, the output; rows of q, k and v."""
    n, d = c["BLOCK_N"], c["BLOCK_D"]
    return Resources(3 * n * d * itemsize, 2 * n * n + n * d)


def _whole_backward_model(c: Mapping[str, Any], itemsize: int) -> Resources:
    """Scores, their bias, gradient and its sum, the gradients; rows of q, k, v and dout."""
    n, d = c["BLOCK_N"], c["BLOCK_D"]
    return Resources(4 * n * d * itemsize, 4 * n * n + 2 * n * d)


def _rows_space(c: Mapping[str, Any], itemsize: int) -> Sequence[Config]:
    """Blocks of queries, which stay, and of keys, which pass.

    In float32 small ones: a thread has its rows and columns of both operands in registers.
    """
    small = [config(4, 1, BLOCK_M=32, BLOCK_N=16), config(4, 1, BLOCK_M=16, BLOCK_N=16)]
    if itemsize == 4:
        return small
    return [
        config(4, 2, BLOCK_M=64, BLOCK_N=32), config(8, 2, BLOCK_M=128, BLOCK_N=64),
        config(2, 2, BLOCK_M=32, BLOCK_N=32), config(4, 1, BLOCK_M=32, BLOCK_N=32), *small,
    ]  # fmt: skip


def _keys_space(c: Mapping[str, Any], itemsize: int) -> Sequence[Config]:
    """Blocks of queries, which pass; those of keys are the caller's."""
    warps = max(c["BLOCK_N"] // 16, _FEWEST)
    small = [config(2 * warps, 1, BLOCK_M=16)]
    if itemsize == 4:
        return small
    return [
        config(warps, 2, BLOCK_M=32), config(warps, 1, BLOCK_M=64), config(warps, 1, BLOCK_M=32),
        *small,
    ]  # fmt: skip


def _forward_model(c: Mapping[str, Any], itemsize: int) -> Resources:
    m, n, d = c["BLOCK_M"], c["BLOCK_N"], c["BLOCK_D"]
    return Resources((m + 4 * n) * d * itemsize, m * n + m * d)


def _queries_model(c: Mapping[str, Any], itemsize: int) -> Resources:
    m, n, d = c["BLOCK_M"], c["BLOCK_N"], c["BLOCK_D"]
    return Resources((2 * m + 4 * n) * d * itemsize, 2 * m * n + m * d)


def _keys_model(c: Mapping[str, Any], itemsize: int) -> Resources:
    m, n, d = c["BLOCK_M"], c["BLOCK_N"], c["BLOCK_D"]
    return Resources((4 * m + 2 * n) * d * itemsize, 2 * m * n + 2 * n * d)


def _scores_model(c: Mapping[str, Any], itemsize: int) -> Resources:
    m, n, d = c["BLOCK_M"], c["BLOCK_N"], c["BLOCK_D"]
    return Resources((4 * m + 4 * n) * d * itemsize, 4 * m * n)


WHOLE_FORWARD = Kernel(
    f"{_HERE}.triton_whole_kernels", "whole_forward", _whole_forward_space, _whole_forward_model
)
WHOLE_BACKWARD = Kernel(
    f"{_HERE}.triton_whole_kernels", "whole_backward", _whole_backward_space, _whole_backward_model
)
BLOCKED_FORWARD = Kernel(
    f"{_HERE}.triton_blocked_kernels", "blocked_forward", _rows_space, _forward_model
)
BLOCKED_QUERIES = Kernel(
    f"{_HERE}.triton_blocked_kernels", "blocked_backward_queries", _rows_space, _queries_model
)
BLOCKED_KEYS = Kernel(
    f"{_HERE}.triton_blocked_kernels", "blocked_backward_keys", _keys_space, _keys_model
)
BLOCKED_SCORES = Kernel(
    f"{_HERE}.triton_blocked_kernels", "blocked_backward_scores", _rows_space, _scores_model
)
TABLE = Kernel(
    f"{_HERE}.triton_kernels",
    "table_gradient",
    space=lambda c, itemsize: [
        config(4, 2, BLOCK_R=16, BLOCK_N=64), config(4, 2, BLOCK_R=4, BLOCK_N=64),
        config(4, 2, BLOCK_R=16, BLOCK_N=256),
    ],
    model=lambda c, itemsize: Resources(0, 2 * c["BLOCK_R"] * c["BLOCK_N"]),
    tensor_cores=False,
)  # fmt: skip
