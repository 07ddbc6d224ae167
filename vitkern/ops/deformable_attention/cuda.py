"""``deformable_attention`` in CUDA: csrc/cuda/deformable_attention.cu and deformable_values.cu."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from vitkern.dispatch import Backend
from vitkern.ops._cuda.device import DEVICE
from vitkern.ops._cuda.kernels import CudaKernels
from vitkern.ops._cuda.shapes import VECTOR, loads_vectors
from vitkern.ops._family import Outputs
from vitkern.ops.deformable_attention import operators
from vitkern.ops.deformable_attention.call import DeformableAttentionCall
from vitkern.ops.deformable_attention.whole_numbers import WholeNumbers

WARP = 32


def _fields(
    value: torch.Tensor,
    shapes: Sequence[int],
    locations: torch.Tensor,
    weights: torch.Tensor,
    vectors: bool,
) -> dict[str, Any]:
    """The fields that all kernels have; ``vectors``: channels move 16 bytes at a time."""
    batch, pixels, heads, width = value.shape
    each = VECTOR // value.element_size() if vectors else 1
    threads = -(-width // each)
    return {
        "locations": locations, "weights": weights, "batch": batch, "pixels": pixels,
        "queries": weights.shape[1], "heads": heads, "width": width, "levels": weights.shape[3],
        "points": weights.shape[4], "team": min(1 << (threads - 1).bit_length(), WARP),
        "vector": vectors, "locations_wide": locations.dtype is not value.dtype,
        "weights_wide": weights.dtype is not value.dtype, **operators.all_sizes(shapes),
    }  # fmt: skip


def _heads(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """(B, Q, heads * head_dim) as (B, Q, heads, head_dim)."""
    return tensor.unflatten(2, like.shape[2:])


def _launch(
    kernels: CudaKernels,
    outputs: Outputs,
    value: torch.Tensor,
    shapes: Sequence[int],
    locations: torch.Tensor,
    weights: torch.Tensor,
) -> None:
    (out,), value = outputs, value.contiguous()
    vectors = loads_vectors(value, _heads(out, value))
    fields = _fields(value, shapes, locations.contiguous(), weights.contiguous(), vectors)
    kernels.run("deformable_forward", value, value=value, out=out, **fields)


def _launch_backward(
    kernels: CudaKernels,
    outputs: Outputs,
    dout: torch.Tensor,
    value: torch.Tensor,
    shapes: Sequence[int],
    locations: torch.Tensor,
    weights: torch.Tensor,
    need_value: bool,
    need_locations: bool,
    need_weights: bool,
) -> None:
    dvalue, dlocations, dweights = outputs
    if weights.numel() == 0:  # no query: only the values can have a gradient, of zeros
        dvalue.zero_()
        return
    value, dout = value.contiguous(), dout.contiguous()
    weights = weights.contiguous()
    vectors = loads_vectors(value, _heads(dout, value))
    fields = _fields(value, shapes, locations.contiguous(), weights, vectors)
    if need_locations or need_weights:
        kernels.run(
            "deformable_points", value, value=value, dout=dout,
            dlocations=dlocations if need_locations else None,
            dweights=dweights if need_weights else None, **fields,
        )  # fmt: skip
    if need_value:
        n = WholeNumbers.of(dvalue, dout, weights)
        shared: dict[str, Any] = {
            "sums": n.sums, "most_dout": n.most_dout, "most_weight": n.most_weight, "unit": n.unit,
        }  # fmt: skip
        kernels.run("deformable_values", value, dout=dout, **shared, **fields)
        kernels.run("deformable_finish", value, dvalue=dvalue, count=dvalue.numel(), **shared)


def backend(kernels: CudaKernels) -> Backend:
    """The backend on these kernels."""

    def supports(call: DeformableAttentionCall) -> list[str]:
        """Reasons to refuse: those of every op, and what a warp cannot have."""
        reasons = kernels.refusals(call.value, call.sampling_locations, call.attention_weights)
        return reasons or operators.too_large(call)

    return operators.backend(kernels, supports, _launch, _launch_backward)


BACKEND = backend(DEVICE)
