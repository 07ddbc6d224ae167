"""``attention`` in CUDA: csrc/cuda/attention_forward.cu and attention_backward.cu."""

from __future__ import annotations

import math
from typing import Any

import torch

from vitkern.dispatch import Backend
from vitkern.ops._cuda.device import DEVICE
from vitkern.ops._cuda.kernels import CudaKernels
from vitkern.ops._cuda.shapes import loads_vectors
from vitkern.ops._cuda.sums import column_sums
from vitkern.ops._family import Outputs
from vitkern.ops.attention import operators
from vitkern.ops.attention.call import AttentionCall

WIDEST = 128
"""A block has whole heads in shared memory."""


def _with_rows(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor with the elements of its last dimension side by side; mostly they are."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def _strides(name: str, dimensions: str, tensor: torch.Tensor | None) -> dict[str, int]:
    """Fields for the first strides of a tensor, zeros for none."""
    names = dimensions.split()
    values = (0,) * len(names) if tensor is None else tensor.stride()[: len(names)]
    return {f"{name}_{one}": value for one, value in zip(names, values, strict=True)}


def _fields(
    kernels: CudaKernels,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None,
    mask: torch.Tensor | None,
    scale: float,
    dropout_p: float,
    seed: torch.Tensor | None,
    dout: torch.Tensor | None = None,
) -> dict[str, Any]:
    """All fields of the kernels' struct, results as null."""
    q, k, v = (_with_rows(tensor) for tensor in (q, k, v))
    dout = None if dout is None else _with_rows(dout)
    (batch, heads, queries, head_dim), keys = q.shape, k.shape[2]
    if bias is not None:
        bias = bias.expand(batch, heads, queries, keys)
    rows = "image head row"
    return {
        "q": q, "k": k, "v": v, "bias": bias, "mask": mask, "seed": seed, "dout": dout,
        "out": None, "lse": None, "delta": None, "dq": None, "dk": None, "dv": None,
        "batch": batch, "heads": heads, "queries": queries, "keys": keys, "head_dim": head_dim,
        "threshold": math.ceil(dropout_p * 2.0**32), "enlarge": 1.0 / (1.0 - dropout_p),
        "scale": scale, "aligned": loads_vectors(q, k, v, dout), "tf32": kernels.tf32(q),
        **_strides("q", rows, q), **_strides("k", rows, k), **_strides("v", rows, v),
        **_strides("dout", rows, dout), **_strides("bias", "image head row column", bias),
        **_strides("mask", "image key", mask),
        "dscores": None, "planes": 0, "plane_heads": 1, "heads_each": 1, "shared": 0, "each": 0,
        "splits": 0,
    }  # fmt: skip


def _launch(
    kernels: CudaKernels,
    outputs: Outputs,
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
    out, lse = outputs
    fields = _fields(kernels, q, k, v, bias, mask, scale, dropout_p, seed)
    kernels.run("attention_forward", q, **fields | {"out": out, "lse": lse if save else None})


def _launch_backward(
    kernels: CudaKernels,
    outputs: Outputs,
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
    fields = _fields(kernels, q, k, v, bias, mask, scale, dropout_p, seed, dout)
    fields |= {"out": out, "lse": lse, "delta": torch.empty_like(lse)}
    if lse.numel():
        kernels.run("attention_delta", q, **fields)
    if dq.numel():
        kernels.run("attention_backward_queries", q, **fields | {"dq": dq})
    if dk.numel() or dv.numel():
        results = {"dk": dk if need_k else None, "dv": dv if need_v else None}
        kernels.run("attention_backward_keys", q, **fields | results)
    if dbias.numel():
        _bias_gradient(kernels, dbias, q, fields)


def _bias_gradient(
    kernels: CudaKernels, dbias: torch.Tensor, q: torch.Tensor, fields: dict[str, Any]
) -> None:
    """Sums over the pairs of image and head that share the bias, then over what else does.

    The pairs are split where one sum for each would leave processors idle.
    """
    batch, heads, queries, keys = (fields[n] for n in ("batch", "heads", "queries", "keys"))
    shape = (1,) * (4 - dbias.dim()) + tuple(dbias.shape)
    shared = (batch if shape[0] == 1 else 1) * (heads if shape[1] == 1 else 1)
    planes = shape[0] * shape[1]
    if not shared * queries * keys:
        dbias.zero_()
        return
    tiles = planes * -(-queries // 64) * -(-keys // 64)
    each = -(-shared // -(-2 * kernels.processors(q.device) // tiles))
    splits = -(-shared // each)
    dscores = q.new_empty((splits, *shape[:2], queries, keys), dtype=torch.float32)
    kernels.run(
        "attention_backward_bias", q,
        **fields | {"dscores": dscores, "planes": planes, "plane_heads": shape[1],
                    "heads_each": heads if shape[1] == 1 else 1, "shared": shared, "each": each,
                    "splits": splits},
    )  # fmt: skip
    if shape[2:] == (queries, keys):
        column_sums(kernels, dscores.view(splits, -1), dbias)
        return
    axes = [0, *(axis + 1 for axis in (2, 3) if shape[axis] == 1)]
    dbias.copy_(dscores.sum(axes, keepdim=True).view(dbias.shape))


def backend(kernels: CudaKernels) -> Backend:
    """The backend on these kernels."""

    def supports(call: AttentionCall) -> list[str]:
        """Reasons to refuse: those of every op, and heads that do not fit on chip."""
        reasons = kernels.refusals(call.q, call.k, call.v, call.bias)
        head_dim = call.q.shape[-1]
        if not reasons and head_dim > WIDEST:
            reasons = [f"a head_dim of {head_dim}; takes at most {WIDEST}"]
        return reasons

    return operators.backend(kernels, supports, _launch, _launch_backward)


BACKEND = backend(DEVICE)
