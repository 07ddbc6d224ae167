"""``attention`` in Triton."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from vitkern.ops._triton import availability
from vitkern.ops._triton.kernel import cdiv, pow2
from vitkern.ops._triton.operator import TRITON
from vitkern.ops._triton.recorder import SCORE_INSTRUCTIONS, Work
from vitkern.ops._triton.sums import column_sums
from vitkern.ops._triton.targets import target_of
from vitkern.ops.attention import operators
from vitkern.ops.attention import triton_spaces as spaces
from vitkern.ops.attention.call import AttentionCall

WIDEST = 256
"""A program has whole heads on chip."""

LOG2E = math.log2(math.e)


def supports(call: AttentionCall) -> list[str]:
    """Reasons to refuse: those of every op, and heads that do not fit on chip."""
    reasons = availability.refusals(call.q, call.k, call.v, call.bias)
    head_dim = call.q.shape[-1]
    if not reasons and head_dim > WIDEST:
        reasons.append(f"a head_dim of {head_dim}; takes at most {WIDEST}")
    return reasons


class _Inputs:
    """What forward and backward kernels have in common: arguments, constants, counts of work."""

    def __init__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        bias: torch.Tensor | None,
        mask: torch.Tensor | None,
        scale: float,
        dropout_p: float,
        seed: torch.Tensor | None,
    ) -> None:
        self.batch, self.heads, self.queries, self.head_dim = q.shape
        self.keys, self.pairs = k.shape[2], self.batch * self.heads
        self.operand, self.bias, self.mask = q, bias, mask
        self.tensors = (q, k, v, bias, mask)
        self.constants = {
            "HEAD_DIM": self.head_dim,
            "BLOCK_D": pow2(self.head_dim, 16),
            # Scores beside a bias are natural logarithms, others are to base 2.
            "NATURAL": bias is not None,
            "DROPS": seed is not None,
        }
        self.whole = spaces.whole(self.keys, self.constants["BLOCK_D"], q.element_size())
        if bias is not None:
            bias = bias.expand(self.batch, self.heads, self.queries, self.keys)
        self.arguments: dict[str, Any] = {
            "Q": q, "K": k, "V": v, "BIAS": bias, "MASK": mask, "SEED": seed,
            "heads": self.heads, "queries": self.queries, "keys": self.keys,
            "factor": scale if bias is not None else scale * LOG2E,
            "last_dropped": max(math.ceil(dropout_p * 2.0**32) - 1, 0),
            "enlarge": 1.0 / (1.0 - dropout_p),
            **strides("q", "image head row column", q),
            **strides("k", "image head row column", k),
            **strides("v", "image head row column", v),
            **strides("bias", "image head row column", bias),
            **strides("mask", "image key", mask),
        }  # fmt: skip

    def products(
        self, c: Mapping[str, Any], programs: int, steps: int, count: int
    ) -> dict[str, float]:
        """Work's of ``count`` products of a tile of scores, ``steps`` tiles a program."""
        tile = 2.0 * c["BLOCK_M"] * c["BLOCK_N"] * count
        useful = 2.0 * self.pairs * self.queries * self.keys * self.head_dim * count
        scores = programs * steps * float(c["BLOCK_M"] * c["BLOCK_N"])
        return {
            "flops": programs * steps * tile * c["BLOCK_D"],
            "useful": useful,
            "exponentials": scores,
            "scalar": SCORE_INSTRUCTIONS * scores,
        }

    @property
    def rows(self) -> float:
        """Bytes of q, or of anything of its shape and dtype."""
        return float(self.operand.numel() * self.operand.element_size())

    @property
    def columns(self) -> float:
        """Bytes of k, or of anything of its shape and dtype."""
        return float(self.pairs * self.keys * self.head_dim * self.operand.element_size())

    def beside(self, c: Mapping[str, Any], down: int) -> float:
        """Bytes of bias and mask that are loaded where every tile of scores is made once.

        A dimension of the bias that is shared is loaded once a tile; the mask once for each of
        ``down`` blocks of queries.
        """
        total = 0.0
        if self.bias is not None:
            height, width = ((1,) * (4 - self.bias.dim()) + tuple(self.bias.shape))[2:]
            if height != self.queries:
                height = cdiv(self.queries, c["BLOCK_M"])
            if width != self.keys:
                width = cdiv(self.keys, c["BLOCK_N"])
            total += self.pairs * height * width * self.bias.element_size()
        if self.mask is not None:
            total += self.pairs * down * self.keys
        return total


def strides(name: str, dimensions: str, tensor: torch.Tensor | None) -> dict[str, int]:
    """A kernel's arguments for the strides of a tensor, zeros for none."""
    names = dimensions.split()
    values = [0] * len(names) if tensor is None else tensor.stride()
    return {f"{name}_{one}": value for one, value in zip(names, values, strict=True)}


def _unique(*tensors: torch.Tensor | None) -> float:
    """Bytes of distinct elements."""
    total = 0.0
    for tensor in tensors:
        if tensor is not None:
            sizes = zip(tensor.shape, tensor.stride(), strict=True)
            count = math.prod(size for size, stride in sizes if stride or not size)
            total += count * tensor.element_size()
    return total


def launch(
    outputs: tuple[torch.Tensor, ...],
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None,
    mask: torch.Tensor | None,
    scale: float,
    dropout_p: float,
    seed: torch.Tensor | None,
    save: bool,
) -> None:
    inputs = _Inputs(q, k, v, bias, mask, scale, dropout_p, seed)

    def work(c: Mapping[str, Any], grid: tuple[int, ...]) -> Work:
        down, across = cdiv(inputs.queries, c["BLOCK_M"]), cdiv(inputs.keys, c["BLOCK_N"])
        return Work(
            **inputs.products(c, grid[0], across, 2),
            read=inputs.rows + down * 2 * inputs.columns + inputs.beside(c, down),
            unique=_unique(*inputs.tensors),
            written=inputs.rows + 4.0 * outputs[1].numel(),
        )

    spaces.FORWARD(
        lambda c: (inputs.pairs * cdiv(inputs.queries, c["BLOCK_M"]),),
        {**inputs.arguments, "OUT": outputs[0], "LSE": outputs[1]},
        {**inputs.constants, "SAVE": save, "WHOLE": inputs.whole},
        work,
        operand=q,
    )


def launch_backward(
    outputs: tuple[torch.Tensor, ...],
    dout: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    bias: torch.Tensor | None,
    mask: torch.Tensor | None,
    scale: float,
    dropout_p: float,
    seed: torch.Tensor | None,
    need_q: bool,
    need_k: bool,
    need_v: bool,
    need_bias: bool,
) -> None:
    dq, dk, dv, dbias = outputs
    inputs = _Inputs(q, k, v, bias, mask, scale, dropout_p, seed)
    inputs.arguments |= {"DOUT": dout, **strides("dout", "image head row column", dout)}
    delta = torch.empty_like(lse)
    statistics = 4.0 * lse.numel()

    fused = inputs.whole > 0 and inputs.queries <= spaces.FUSED
    whole = inputs.whole if fused else 0

    def blocks(c: Mapping[str, Any]) -> tuple[int, int]:
        return cdiv(inputs.queries, c["BLOCK_M"]), cdiv(inputs.keys, c["BLOCK_N"])

    def work_queries(c: Mapping[str, Any], grid: tuple[int, ...]) -> Work:
        if not need_q:
            return Work(read=2 * inputs.rows, unique=_unique(dout, out), written=statistics)
        down, across = blocks(c)
        return Work(
            **inputs.products(c, grid[0], across, 3),
            read=3 * inputs.rows + statistics + down * 2 * inputs.columns + inputs.beside(c, down),
            unique=_unique(*inputs.tensors, dout, out, lse),
            written=inputs.rows + statistics,
        )

    def work_keys(c: Mapping[str, Any], grid: tuple[int, ...]) -> Work:
        down, across = blocks(c)
        scored = need_k or fused  # the gradient of scores is made
        reads = 1 if fused or not need_k else 2  # of a float32 a query
        return Work(
            **inputs.products(c, grid[0], down, 1 + scored + need_k + need_v + (fused and need_q)),
            read=(1 + scored) * inputs.columns
            + across * (2 * inputs.rows + reads * statistics)
            + inputs.beside(c, 1),
            unique=_unique(q, k, bias, mask, dout, lse, v if scored else None)
            + (reads - 1) * statistics,
            written=(need_k + need_v) * inputs.columns + (fused and need_q) * inputs.rows,
        )

    arguments = {**inputs.arguments, "scale": scale, "LSE": lse, "DELTA": delta}
    if inputs.queries and not fused:
        spaces.QUERIES(
            lambda c: (inputs.pairs * blocks(c)[0],),
            {**arguments, "OUT": out, "DQ": dq if need_q else None},
            inputs.constants,
            work_queries,
            operand=q,
        )
    if inputs.keys and (need_k or need_v or (fused and need_q)):
        spaces.KEYS(
            lambda c: (inputs.pairs * blocks(c)[1],),
            {**arguments, "DQ": dq if need_q and fused else None, "DK": dk if need_k else None,
             "DV": dv if need_v else None},
            {**inputs.constants, "WHOLE": whole},
            work_keys,
            operand=q,
        )  # fmt: skip
    if bias is not None and need_bias and dbias.numel():
        _launch_bias(dbias, inputs, lse, delta, whole)


def _launch_bias(
    dbias: torch.Tensor, inputs: _Inputs, lse: torch.Tensor, delta: torch.Tensor, whole: int
) -> None:
    """Sums over what shares the bias, split where it would leave a device's processors idle."""
    images, heads, height, width = (1,) * (4 - dbias.dim()) + tuple(dbias.shape)
    pairs = (inputs.batch if images == 1 else 1) * (inputs.heads if heads == 1 else 1)
    pairs = min(pairs, inputs.pairs)  # of no images there is none
    tiles = images * heads * cdiv(height, 64) * cdiv(width, 64)
    wanted = cdiv(2 * target_of(dbias.device).processors, tiles)
    each = max(cdiv(pairs, wanted), 1)
    splits = max(cdiv(pairs, each), 1)
    result = dbias
    if splits > 1:
        result = dbias.new_empty((splits, *dbias.shape), dtype=torch.float32)
    sum_queries, sum_keys = height != inputs.queries, width != inputs.keys

    def tiles_of(c: Mapping[str, Any]) -> tuple[int, int]:
        return cdiv(inputs.queries, c["BLOCK_M"]), cdiv(inputs.keys, c["BLOCK_N"])

    def grid(c: Mapping[str, Any]) -> tuple[int, ...]:
        down, across = tiles_of(c)
        own = (1 if sum_queries else down) * (1 if sum_keys else across)
        return (splits * images * heads * own,)

    def work(c: Mapping[str, Any], _: tuple[int, ...]) -> Work:
        down, across = tiles_of(c)
        dout = inputs.arguments["DOUT"]
        statistics = lse.numel() * (4.0 if whole else 8.0)
        read = across * (2 * inputs.rows + statistics) + down * 2 * inputs.columns
        return Work(
            **inputs.products(c, inputs.pairs, down * across, 2),
            read=read + inputs.beside(c, down),
            unique=_unique(*inputs.tensors, dout) + statistics,
            written=float(result.numel() * result.element_size()),
        )

    spaces.BIAS(
        grid,
        {**inputs.arguments, "LSE": lse, "DELTA": delta, "DBIAS": result,
         "bias_images": images, "bias_heads": heads, "bias_queries": height, "bias_keys": width,
         "pairs": pairs, "each": each},
        {**inputs.constants, "WHOLE": whole, "SUM_QUERIES": sum_queries, "SUM_KEYS": sum_keys},
        work,
        operand=inputs.operand,
    )  # fmt: skip
    if splits > 1:
        column_sums(result, dbias)


BACKEND = operators.backend(TRITON, supports, launch, launch_backward)
