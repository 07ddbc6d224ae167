"""Matrix products with a fused epilogue: what ``linear``, ``mlp`` and ``patch_embed`` launch.

``product`` is the one product: operands of any strides, so that the three products of a layer's
backward are the same kernel. Where its tiles would leave most of a GPU idle it is split over K, and
``join`` adds the parts in a fixed order. ``gradient`` is the pass before the products of a
backward, where there is an activation, a gamma or a bias.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vitkern.ops._triton.kernel import Config, Kernel, Resources, cdiv, config
from vitkern.ops._triton.recorder import Work, recording
from vitkern.ops._triton.sums import column_sums
from vitkern.ops._triton.targets import Target, target_of
from vitkern.ops.weights import Bfloat16Weight, ConvertedWeight

MODULE = "vitkern.ops._triton.gemm_kernels"
STEP = 64
"""Every BLOCK_K divides it; parts of a split K are multiples of it."""

# Classes of products, by the rows and the number of tiles.
VECTOR, FEW, SMALL, LARGE = range(4)
# Rows of C that share a row of column sums: every BLOCK_M of the class is a multiple.
_SUM_ROWS = {VECTOR: 16, FEW: 32, SMALL: 32, LARGE: 64}

# BLOCK_M, BLOCK_N, BLOCK_K, warps, stages.
_TENSOR_CORE_TILES = {
    VECTOR: ((16, 64, 64, 4, 4), (16, 128, 64, 4, 4), (16, 32, 64, 4, 5)),
    FEW: ((32, 64, 64, 4, 4), (32, 128, 64, 4, 4), (32, 32, 64, 4, 5)),
    SMALL: (
        (64, 64, 64, 4, 4), (64, 128, 64, 4, 3), (128, 64, 64, 4, 3), (32, 64, 64, 4, 4),
        (64, 64, 32, 4, 5),
    ),
    LARGE: (
        (128, 128, 64, 8, 3), (128, 256, 64, 8, 3), (128, 128, 32, 8, 4), (128, 64, 64, 4, 3),
        (64, 128, 64, 4, 3), (64, 64, 64, 4, 4),
    ),
}  # fmt: skip
# Float32 without tensor cores: a thread has rows of A and columns of B in registers.
_FMA_TILES = {
    VECTOR: ((16, 64, 32, 4, 3), (16, 128, 16, 4, 3)),
    FEW: ((32, 64, 16, 4, 3), (32, 32, 32, 4, 3)),
    SMALL: ((64, 64, 16, 4, 3), (32, 64, 16, 4, 3), (64, 64, 16, 8, 3)),
    LARGE: ((128, 64, 16, 8, 3), (128, 128, 16, 8, 3), (64, 64, 16, 4, 3)),
}


def tensor_cores(constants: Mapping[str, Any], itemsize: int) -> bool:
    """Whether a product with these constants runs on them."""
    return bool(itemsize < 4 or constants["HALF"] or constants["TF32"])


def space(constants: Mapping[str, Any], itemsize: int) -> Sequence[Config]:
    """Tiles for the class; float32 in shared memory takes half the depth."""
    fast = tensor_cores(constants, itemsize)
    deep = 64 * 2 // itemsize if fast else STEP
    tiles = (_TENSOR_CORE_TILES if fast else _FMA_TILES)[constants["CLASS"]]
    return [
        config(warps, stages, BLOCK_M=m, BLOCK_N=n, BLOCK_K=min(k, deep), GROUP=8, STAGES=stages)
        for m, n, k, warps, stages in tiles
    ]


def model(constants: Mapping[str, Any], itemsize: int) -> Resources:
    """The buffers of the pipeline, and the accumulator, twice where there is more beside it."""
    m, n, k = constants["BLOCK_M"], constants["BLOCK_N"], constants["BLOCK_K"]
    shared = constants["STAGES"] * (m + n) * k * itemsize
    return Resources(shared, m * n * (2 if constants["ACTIVATION"] or constants["BESIDE"] else 1))


PRODUCT = Kernel(MODULE, "product", space, model)
_JOIN = Kernel(
    MODULE, "join",
    lambda c, itemsize: [
        config(4, 2, BLOCK_M=max(16, c["SUM_ROWS"]), BLOCK_N=64),
        config(8, 2, BLOCK_M=max(16, c["SUM_ROWS"]), BLOCK_N=128),
    ],
    lambda c, itemsize: Resources(0, 3 * c["BLOCK_M"] * c["BLOCK_N"]), tensor_cores=False,
)  # fmt: skip
_GRADIENT = Kernel(
    MODULE, "gradient",
    lambda c, itemsize: [
        config(4, 1, BLOCK_R=8, BLOCK_C=128), config(4, 1, BLOCK_R=16, BLOCK_C=64),
        config(4, 1, BLOCK_R=4, BLOCK_C=256),
    ],
    lambda c, itemsize: Resources(0, 6 * c["BLOCK_R"] * c["BLOCK_C"]), tensor_cores=False,
)  # fmt: skip
_ACTIVATED = Kernel(
    MODULE, "activated",
    lambda c, itemsize: [config(4, 1, BLOCK=1024), config(8, 1, BLOCK=2048)],
    lambda c, itemsize: Resources(0, 2 * c["BLOCK"]), tensor_cores=False,
)  # fmt: skip


def matrix(tensor: torch.Tensor) -> torch.Tensor:
    """(..., K) as (rows, K)."""
    return tensor.reshape(math.prod(tensor.shape[:-1]), tensor.shape[-1])


def source(weight: torch.Tensor | ConvertedWeight) -> torch.Tensor | ConvertedWeight:
    """The tensor that kernels load: the weight, or that which they round to bfloat16."""
    return weight.source if isinstance(weight, Bfloat16Weight) else weight


def rounds(weight: torch.Tensor | ConvertedWeight) -> bool:
    """Whether kernels round the operands of a product with this weight to bfloat16."""
    return isinstance(weight, Bfloat16Weight) and weight.dtype is torch.float32


def size(*tensors: torch.Tensor | None) -> float:
    """Bytes of the tensors together."""
    return float(sum(t.numel() * t.element_size() for t in tensors if t is not None))


def target(device: torch.device) -> Target:
    """What a launch on that device is for."""
    recorded = recording()
    return recorded.target if recorded else target_of(device)


def tf32(operand: torch.Tensor) -> bool:
    """Whether the user lets float32 products on CUDA take operands of ten bits."""
    return (
        operand.dtype is torch.float32
        and operand.device.type == "cuda"
        and torch.backends.cuda.matmul.fp32_precision == "tf32"
    )


def class_of(m: int, n: int, device: torch.device) -> int:
    """The class of a product with an (m, n) result."""
    if m <= 16:
        return VECTOR
    if m <= 32:
        return FEW
    tiles = cdiv(m, 128) * cdiv(n, 128)
    return LARGE if tiles >= target(device).processors else SMALL


@dataclass(frozen=True)
class Epilogue:
    """What follows a product with an (M, N) result: see the kernel of that name.

    ``slope``, ``pre`` and ``activated`` are (..., N) and contiguous, ``residual`` is (..., N) of
    any strides; ``sums`` (N,) gets the sums of the result's columns.
    """

    bias: torch.Tensor | None = None
    activation: int = 0
    gamma: torch.Tensor | None = None
    residual: torch.Tensor | None = None
    slope: torch.Tensor | None = None
    pre: torch.Tensor | None = None
    activated: torch.Tensor | None = None
    sums: torch.Tensor | None = None


def split(m: int, n: int, k: int, tile: Mapping[str, Any], operand: torch.Tensor) -> int:
    """In how many parts to cut K: more keep more processors busy, and write and read more.

    Costs are in multiply-adds of one processor, with the ratio of a GPU's arithmetic to its
    bandwidth of memory (or, as long as the parts are small, of cache) as some 100 a byte.
    """
    processors = target(operand.device).processors
    tiles = cdiv(m, tile["BLOCK_M"]) * cdiv(n, tile["BLOCK_N"])
    work, balance = tile["BLOCK_M"] * tile["BLOCK_N"], 100 if operand.dtype.itemsize < 4 else 20

    def cost(parts: int) -> float:
        waves = cdiv(tiles * parts, processors)
        moved = 8 * parts * m * n if parts > 1 else 0
        return waves * work * cdiv(k, parts) + balance * moved / processors

    most = min(max(k // (4 * STEP), 1), 64)
    return min(range(1, most + 1), key=cost)


def product(
    a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, after: Epilogue = Epilogue(),
    *, half: bool = False,
) -> None:  # fmt: skip
    """``c = epilogue(a @ b)``: a (M, K) and b (K, N) of any strides, c (..., N) contiguous.

    ``half``: operands are rounded to bfloat16.
    """
    (m, k), n = a.shape, b.shape[1]
    if m == 0 or n == 0:
        if after.sums is not None:
            after.sums.zero_()
        return
    kind = class_of(m, n, a.device)
    shared = {"EVEN_K": k % STEP == 0, "HALF": half, "TF32": tf32(b), "CLASS": kind}
    plain = {"ACTIVATION": 0, "SUM_ROWS": 0, "BESIDE": False, **shared}
    fit = PRODUCT.fitting(target(a.device), plain, b.dtype.itemsize)
    parts = split(m, n, k, dict(fit[0].constants), b)
    each = max(cdiv(cdiv(k, parts), STEP), 1) * STEP
    parts = max(cdiv(k, each), 1)
    partial = a.new_empty((parts, m, n), dtype=torch.float32) if parts > 1 else None
    finish = Finish(m, n, c, after, _SUM_ROWS[kind])

    def work(constants: Mapping[str, Any], grid: tuple[int, ...]) -> Work:
        return product_work(m, n, k, constants, grid, a, b, partial, finish)

    PRODUCT(
        lambda x: (cdiv(m, x["BLOCK_M"]) * cdiv(n, x["BLOCK_N"]), parts),
        {
            "A": a, "B": b, **(finish.nothing() if parts > 1 else finish.arguments()),
            "PARTIAL": partial, "M": m, "N": n, "K": k, "each": each,
            "a_row": a.stride(0), "a_step": a.stride(1),
            "b_step": b.stride(0), "b_column": b.stride(1),
        },
        plain if parts > 1 else {**shared, **finish.constants(), "BESIDE": finish.beside},
        work,
        operand=b,
    )  # fmt: skip
    finish(partial)


def product_work(
    m: int, n: int, k: int, constants: Mapping[str, Any], grid: tuple[int, ...],
    a: torch.Tensor, b: torch.Tensor, partial: torch.Tensor | None, finish: Finish,
) -> Work:  # fmt: skip
    """Every tile of C loads its rows of ``a`` and its columns of ``b``."""
    block_m, block_n, block_k = (constants[f"BLOCK_{x}"] for x in "MNK")
    rows, columns, parts = cdiv(m, block_m), cdiv(n, block_n), grid[1]
    each = cdiv(cdiv(k, parts), STEP) * STEP if parts > 1 else k
    steps = sum(cdiv(min(each, k - i * each), block_k) for i in range(parts))
    once_a, once_b = float(m * k * a.element_size()), float(k * n * b.element_size())
    extra, written = (0.0, size(partial)) if partial is not None else finish.traffic()
    return Work(
        flops=2.0 * rows * block_m * columns * block_n * steps * block_k,
        useful=2.0 * m * n * k,
        read=columns * once_a + rows * once_b + extra,
        unique=once_a + once_b + extra,
        written=written,
    )


class Finish:
    """An epilogue on its way to the kernel that runs it: the product's own, or ``join``."""

    def __init__(self, m: int, n: int, c: torch.Tensor, after: Epilogue, sum_rows: int) -> None:
        self.m, self.n, self.c, self.after = m, n, c, after
        self.sum_rows = sum_rows if after.sums is not None else 0
        self.sums = None
        if after.sums is not None:
            self.sums = c.new_empty((cdiv(m, sum_rows), n), dtype=torch.float32)

    @property
    def beside(self) -> bool:
        """Whether it loads or stores more tiles than C's."""
        after = self.after
        others = (after.residual, after.slope, after.pre, after.activated)
        return any(tensor is not None for tensor in others)

    def constants(self) -> dict[str, Any]:
        """Of the kernel that runs it."""
        return {"ACTIVATION": self.after.activation, "SUM_ROWS": self.sum_rows}

    def arguments(self) -> dict[str, Any]:
        """Of the kernel that runs it."""
        after, residual = self.after, self.after.residual
        residual = None if residual is None else residual.reshape(self.m, self.n)
        return {
            "BIAS": after.bias, "GAMMA": after.gamma, "RESIDUAL": residual,
            "SLOPE": None if after.slope is None else after.slope.contiguous(),
            "C": self.c, "PRE": after.pre, "ACTIVATED": after.activated, "SUMS": self.sums,
            "bias_step": 0 if after.bias is None else after.bias.stride(0),
            "gamma_step": 0 if after.gamma is None else after.gamma.stride(0),
            "residual_row": 0 if residual is None else residual.stride(0),
            "residual_column": 0 if residual is None else residual.stride(1),
        }  # fmt: skip

    def nothing(self) -> dict[str, Any]:
        """Arguments of a product that leaves the epilogue to ``join``."""
        names = ("BIAS", "GAMMA", "RESIDUAL", "SLOPE", "C", "PRE", "ACTIVATED", "SUMS")
        steps = ("bias_step", "gamma_step", "residual_row", "residual_column")
        return {**dict.fromkeys(names), **dict.fromkeys(steps, 0)}

    def traffic(self) -> tuple[float, float]:
        """Bytes that it reads (biases once: they stay in cache) and writes."""
        after = self.after
        return (
            size(after.bias, after.gamma, after.residual, after.slope),
            size(self.c, after.pre, after.activated, self.sums),
        )

    def __call__(self, partial: torch.Tensor | None) -> None:
        """What is left to do after a product, which left ``partial`` where it was split."""
        if partial is not None:
            self._join(partial)
        if self.sums is not None and self.after.sums is not None:
            column_sums(self.sums, self.after.sums)

    def _join(self, partial: torch.Tensor) -> None:
        m, n = self.m, self.n

        def work(_: Mapping[str, Any], grid: tuple[int, ...]) -> Work:
            read, written = self.traffic()
            read += size(partial)
            return Work(read=read, unique=read, written=written)

        _JOIN(
            lambda x: (cdiv(m, x["BLOCK_M"]) * cdiv(n, x["BLOCK_N"]),),
            {"PARTIAL": partial, **self.arguments(), "M": m, "N": n, "splits": partial.shape[0]},
            self.constants(),
            work,
            operand=partial,
        )


def gradient(
    dy: torch.Tensor,
    pre: torch.Tensor | None,
    gamma: torch.Tensor | None,
    activation: int,
    *,
    dpre: bool,
    dbias: torch.Tensor | None,
    dgamma: torch.Tensor | None,
) -> torch.Tensor:
    """``dy * gamma * activation'(pre)`` (rows, N), and its sums of columns, in one pass over dy.

    Args:
        dy: (rows, N).
        pre: (..., N), contiguous: what the activation was applied to.
        gamma: (N,): what the activation's result was multiplied by.
        activation: index of.
        dpre: whether the product itself is needed; it is ``dy`` where nothing changes it.
        dbias, dgamma: (N,), get the sums of the result, and of ``dy * activation(pre)``.
    """
    changes = bool(activation) or gamma is not None
    rows, width = dy.shape
    out = dy.new_empty(dy.shape) if changes and dpre else None
    result = dy if out is None else out
    if width == 0 or (out is None and dbias is None and dgamma is None):
        return result
    # Some programs for each processor, each with enough rows that its sums are few bytes.
    wanted = cdiv(4 * target(dy.device).processors, cdiv(width, 128))
    each = max(cdiv(rows, wanted), 32)
    programs = cdiv(rows, each)
    sums, gamma_sums = (
        None if total is None else dy.new_empty((programs, width), dtype=torch.float32)
        for total in (dbias, dgamma)
    )
    if not activation and dgamma is None:
        pre = None

    def work(_: Mapping[str, Any], grid: tuple[int, ...]) -> Work:
        read = size(dy, pre, gamma)
        return Work(read=read, unique=read, written=size(out, sums, gamma_sums))

    if programs:
        _GRADIENT(
            lambda x: (programs, cdiv(width, x["BLOCK_C"])),
            {
                "DY": dy, "PRE": None if pre is None else pre.contiguous(), "GAMMA": gamma,
                "DPRE": out, "SUMS": sums, "GAMMA_SUMS": gamma_sums,
                "rows": rows, "width": width, "each": each,
                "dy_row": dy.stride(0), "dy_column": dy.stride(1),
                "gamma_step": 0 if gamma is None else gamma.stride(0),
            },
            {"ACTIVATION": activation},
            work,
            operand=dy,
        )  # fmt: skip
    for partial, total in ((sums, dbias), (gamma_sums, dgamma)):
        if partial is not None and total is not None:
            column_sums(partial, total)
    return result


def activated(pre: torch.Tensor, activation: int) -> torch.Tensor:
    """The activation of ``pre``, in its dtype; contiguous."""
    pre = pre.contiguous()
    if not activation or not pre.numel():
        return pre
    result, count = torch.empty_like(pre), pre.numel()

    def work(_: Mapping[str, Any], grid: tuple[int, ...]) -> Work:
        return Work(read=size(pre), unique=size(pre), written=size(result))

    _ACTIVATED(
        lambda x: (cdiv(count, x["BLOCK"]),),
        {"PRE": pre, "Y": result, "size": count},
        {"ACTIVATION": activation},
        work,
        operand=pre,
    )
    return result
