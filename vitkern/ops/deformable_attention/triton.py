"""``deformable_attention`` in Triton."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from vitkern.ops._triton import availability
from vitkern.ops._triton.kernel import Config, Kernel, Resources, cdiv, config, pow2
from vitkern.ops._triton.operator import TRITON
from vitkern.ops._triton.recorder import Work
from vitkern.ops.deformable_attention import operators
from vitkern.ops.deformable_attention.call import DeformableAttentionCall
from vitkern.ops.deformable_attention.whole_numbers import WholeNumbers

_MODULE = "vitkern.ops.deformable_attention.triton_kernels"


def supports(call: DeformableAttentionCall) -> list[str]:
    """Reasons to refuse: those of every op, and what a program cannot have."""
    reasons = availability.refusals(call.value, call.sampling_locations, call.attention_weights)
    return reasons or operators.too_large(call)


def _block(constants: Mapping[str, Any], elements: int, warps: int) -> Config:
    """As many queries as make up a number of elements."""
    return config(warps, 1, BLOCK_Q=min(max(elements // constants["BLOCK_D"], 1), 128))


def _space(constants: Mapping[str, Any], itemsize: int) -> Sequence[Config]:
    """Small blocks first: decoders have few queries."""
    sizes = ((512, 2), (1024, 4), (2048, 4), (512, 1))
    return [_block(constants, elements, warps) for elements, warps in sizes]


def _scatter_space(constants: Mapping[str, Any], itemsize: int) -> Sequence[Config]:
    """One: what adds up in memory cannot be run again to be timed. Of 64-bit numbers fit fewer."""
    return [_block(constants, 256, 2)]


def _tiles(count: int) -> Any:
    return lambda c, itemsize: Resources(0, count * c["BLOCK_Q"] * c["BLOCK_D"])


# Live at once: the sum or the upstream gradient, and a pixel's tile for each corner; or the
# upstream gradient, shares, and sums and addresses of 64 bits.
_FORWARD = Kernel(_MODULE, "forward", _space, _tiles(5), tensor_cores=False)
_POINTS = Kernel(_MODULE, "point_gradients", _space, _tiles(5), tensor_cores=False)
_SCATTER = Kernel(_MODULE, "scatter", _scatter_space, _tiles(9), tensor_cores=False)
_FINISH = Kernel(
    _MODULE, "finish",
    lambda constants, itemsize: [config(4, 1, BLOCK=1024), config(8, 1, BLOCK=4096)],
    lambda c, itemsize: Resources(0, 3 * c["BLOCK"]), tensor_cores=False,
)  # fmt: skip


class _Problem:
    """What all launches of a call share: contiguous tensors, sizes, and the count of programs."""

    def __init__(
        self,
        value: torch.Tensor,
        shapes: Sequence[int],
        locations: torch.Tensor,
        weights: torch.Tensor,
    ) -> None:
        self.locations, self.weights = locations.contiguous(), weights.contiguous()
        self.batch, self.queries, self.heads, self.levels, self.points = weights.shape
        self.pixels, self.width = value.shape[1], value.shape[3]
        self.arguments: dict[str, Any] = {
            "LOCATIONS": self.locations, "WEIGHTS": self.weights,
            "pixels": self.pixels, "queries": self.queries, "heads": self.heads,
            "width": self.width, "points": self.points, **operators.all_sizes(shapes),
        }  # fmt: skip
        self.constants = {"LEVELS": self.levels, "BLOCK_D": pow2(self.width)}

    def grid(self, c: Mapping[str, Any]) -> tuple[int, ...]:
        return (self.batch * self.heads * cdiv(self.queries, c["BLOCK_Q"]),)

    def work(self, itemsize: int, written: float, *others: torch.Tensor) -> Work:
        """Each point has four pixels from somewhere on its map, most of which others have too."""
        corners = 4.0 * self.weights.numel() * self.width
        maps = float(self.batch * self.pixels * self.heads * self.width * itemsize)
        once = float(sum(t.nbytes for t in (self.locations, self.weights, *others)))
        return Work(
            read=once + corners * itemsize, unique=once + min(maps, corners * itemsize),
            written=written, scalar=2.0 * corners,
        )  # fmt: skip


def _launch(
    outputs: tuple[torch.Tensor, ...],
    value: torch.Tensor,
    shapes: Sequence[int],
    locations: torch.Tensor,
    weights: torch.Tensor,
) -> None:
    p, (out,) = _Problem(value, shapes, locations, weights), outputs
    _FORWARD(
        p.grid,
        {**p.arguments, "VALUE": value.contiguous(), "OUT": out},
        p.constants,
        lambda c, grid: p.work(value.element_size(), out.nbytes),
        operand=value,
    )


def _launch_backward(
    outputs: tuple[torch.Tensor, ...],
    dout: torch.Tensor,
    value: torch.Tensor,
    shapes: Sequence[int],
    locations: torch.Tensor,
    weights: torch.Tensor,
    need_value: bool,
    need_locations: bool,
    need_weights: bool,
) -> None:
    p, dout = _Problem(value, shapes, locations, weights), dout.contiguous()
    dvalue, dlocations, dweights = outputs
    if p.weights.numel() == 0:  # no query: only the values can have a gradient, of zeros
        dvalue.zero_()
        return
    if need_locations or need_weights:
        _POINTS(
            p.grid,
            {
                **p.arguments, "DOUT": dout, "VALUE": value.contiguous(),
                "DLOCATIONS": dlocations if need_locations else None,
                "DWEIGHTS": dweights if need_weights else None,
            },
            p.constants,
            lambda c, grid: p.work(value.element_size(), dlocations.nbytes + dweights.nbytes, dout),
            operand=value,
        )  # fmt: skip
    if need_value:
        _value_gradient(p, dout, dvalue)


def _value_gradient(p: _Problem, dout: torch.Tensor, dvalue: torch.Tensor) -> None:
    n = WholeNumbers.of(dvalue, dout, p.weights)
    shared = {"MOST_DOUT": n.most_dout, "MOST_WEIGHT": n.most_weight, "SUMS": n.sums}
    added = 4.0 * p.weights.numel() * p.width * 8
    _SCATTER(
        p.grid,
        {**p.arguments, **shared, "DOUT": dout, "unit": n.unit},
        p.constants,
        lambda c, grid: p.work(0, added, dout),
        operand=dout,
    )
    count = dvalue.numel()
    _FINISH(
        lambda c: (cdiv(count, c["BLOCK"]),),
        {**shared, "DVALUE": dvalue, "unit": n.unit, "count": count},
        {},
        lambda c, grid: Work(read=n.sums.nbytes, unique=n.sums.nbytes, written=dvalue.nbytes),
        operand=dvalue,
    )


BACKEND = operators.backend(TRITON, supports, _launch, _launch_backward)
