"""Matrix products with a fused epilogue: what ``linear``, ``mlp`` and ``patch_embed`` launch.

``product`` is the one product: operands of any strides, so that the three products of a layer's
backward are the same kernel. Where its tiles would leave most of a GPU idle it is split over K, and
``join`` adds the parts in a fixed order.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vitkern.ops._products import Epilogue, plain
from vitkern.ops._triton.kernel import Config, Kernel, Resources, cdiv, config
from vitkern.ops._triton.recorder import Work, recording
from vitkern.ops._triton.sums import column_sums
from vitkern.ops._triton.targets import Target, target_of

MODULE = "vitkern.ops._triton.gemm_kernels"
STEP = 64
"""The largest BLOCK_K; every one divides it, and parts of a split K are multiples of it."""

# Classes of products, by the rows and the number of tiles.
CLASSES = range(7)
VECTOR, FEW, SMALL, LARGE, WIDE, SQUARE, SLIM = CLASSES
# Rows of C that share a row of column sums: every BLOCK_M of the class is a multiple.
_SUM_ROWS = {VECTOR: 16, FEW: 32, SMALL: 32, LARGE: 64, WIDE: 64, SQUARE: 64, SLIM: 64}

# BLOCK_M, BLOCK_N, BLOCK_K, warps, stages.
_TENSOR_CORE_TILES = {
    VECTOR: ((16, 64, 64, 4, 4), (16, 128, 64, 4, 4), (16, 32, 64, 4, 5)),
    FEW: ((32, 64, 32, 4, 5), (32, 128, 64, 4, 3), (32, 32, 64, 4, 5)),
    SMALL: (
        (64, 64, 64, 8, 4), (64, 128, 64, 8, 3), (128, 64, 32, 8, 4), (32, 64, 32, 4, 4),
        (64, 64, 32, 4, 5),
    ),
    LARGE: (
        (128, 128, 64, 8, 3), (128, 256, 64, 8, 3), (128, 128, 32, 8, 4), (128, 64, 32, 8, 4),
        (64, 128, 64, 8, 3), (64, 64, 32, 4, 5),
    ),
}  # fmt: skip
# Large ones with thread blocks' own matrix units (Hopper, data-centre Blackwell).
_SQUARE, _WIDE, _SLIM = (128, 128, 64, 8, 3), (128, 256, 64, 8, 3), (64, 128, 64, 4, 3)
# The last one is what operands that are not aligned leave registers for.
_MORE = ((128, 128, 64, 4, 3), (64, 128, 64, 4, 4), (128, 64, 64, 4, 3), (64, 64, 32, 4, 5))
_TENSOR_CORE_TILES |= {
    SQUARE: (_SQUARE, _WIDE, _SLIM, *_MORE),
    WIDE: (_WIDE, _SQUARE, _SLIM, *_MORE),
    SLIM: (_SLIM, _SQUARE, _WIDE, *_MORE),
}
_RATES = {SQUARE: 0.93, WIDE: 1.0, SLIM: 0.7}
"""How fast a processor multiplies with the first tile of the class, while it has one to do.

Estimates: smaller tiles read more of L2, and two of them run at the same time.
"""
# Float32 without tensor cores: a thread has rows of A and columns of B in registers.
_FMA_TILES = {
    VECTOR: ((16, 64, 32, 4, 3), (16, 128, 16, 4, 3)),
    FEW: ((32, 64, 16, 4, 3), (32, 32, 32, 4, 3)),
    SMALL: ((64, 64, 16, 8, 3), (32, 64, 16, 4, 3), (128, 64, 16, 8, 3)),
    LARGE: ((128, 64, 16, 8, 3), (128, 128, 16, 8, 3), (64, 64, 16, 8, 3)),
}
_FMA_TILES |= dict.fromkeys((WIDE, SQUARE, SLIM), _FMA_TILES[LARGE])


def tensor_cores(constants: Mapping[str, Any], itemsize: int) -> bool:
    """Whether a product with these constants runs on them."""
    return bool(itemsize < 4 or constants.get("HALF") or constants["TF32"])


def space(constants: Mapping[str, Any], itemsize: int) -> Sequence[Config]:
    """Tiles for the class; float32 in shared memory takes half the depth.

    An epilogue that computes, or loads or stores more than C, takes a large tile in parts: at once,
    what it has beside the accumulator spills.
    """
    fast, deep = tensor_cores(constants, itemsize), constants["DEPTH"]
    if fast and itemsize == 4:
        deep = min(deep, STEP // 2)
    tiles = (_TENSOR_CORE_TILES if fast else _FMA_TILES)[constants["CLASS"]]
    found = []
    for m, n, k, warps, stages in tiles:
        sizes = {"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": min(k, deep), "GROUP": 8, "STAGES": stages}
        if "BESIDE" in constants:
            sizes["PARTS"] = _parts(constants, m * n // (32 * warps), warps)
        found.append(config(warps, stages, **sizes))
    return found


def _parts(constants: Mapping[str, Any], registers: int, warps: int) -> int:
    """In how many parts an epilogue takes a tile of which a thread has so many registers.

    Of few threads each has more to spare: two of their blocks fit a processor anyway.
    """
    if registers >= 128 and (constants["BESIDE"] or constants["ACTIVATION"]):
        return 4
    crowded = warps > 4 or constants["ACTIVATION"]
    return 2 if registers >= 64 and constants["BESIDE"] and crowded else 1


def model(constants: Mapping[str, Any], itemsize: int) -> Resources:
    """Buffers of the pipeline, and the accumulator: more, where the epilogue has more beside it.

    Operands that cannot be copied in vectors go through registers, with an address an element.
    """
    m, n, k = constants["BLOCK_M"], constants["BLOCK_N"], constants["BLOCK_K"]
    shared = constants["STAGES"] * (m + n) * k * itemsize
    fast = tensor_cores(constants, itemsize)
    registers = m * n if fast else 2 * m * n  # of runs, and of all of K
    if constants.get("ACTIVATION") or constants.get("BESIDE"):
        # Of two parts the compiler may have both at a time: counted as one.
        registers += m * n // (4 if constants.get("PARTS") == 4 else 1)
    if not constants["ALIGNED"] and fast:
        registers = max(registers, m * n + 2 * (m + n) * k)
    return Resources(shared, registers)


PRODUCT = Kernel(MODULE, "product", space, model)
_JOIN = Kernel(
    MODULE, "join",
    lambda c, itemsize: [
        config(4, 2, BLOCK_M=max(16, c["SUM_ROWS"]), BLOCK_N=64),
        config(8, 2, BLOCK_M=max(16, c["SUM_ROWS"]), BLOCK_N=128),
    ],
    lambda c, itemsize: Resources(0, 3 * c["BLOCK_M"] * c["BLOCK_N"]), tensor_cores=False,
)  # fmt: skip


def size(*tensors: torch.Tensor | None) -> float:
    """Bytes of the tensors together."""
    return float(sum(t.numel() * t.element_size() for t in tensors if t is not None))


def target(device: torch.device) -> Target:
    """What a launch on that device is for."""
    recorded = recording()
    return recorded.target if recorded else target_of(device)


def depth(k: int) -> int:
    """The largest BLOCK_K for products over ``k``: half of STEP where that divides a short one."""
    return STEP // 2 if k < 8 * STEP and k % STEP == STEP // 2 else STEP


def aligned(*tensors: torch.Tensor) -> bool:
    """Whether kernels load the operands in vectors: as Triton sees it, by multiples of 16."""
    return all(
        any(
            step == 1 and length % 16 == 0 for step, length in zip(t.stride(), t.shape, strict=True)
        )
        and all(step == 1 or step % 16 == 0 for step in t.stride())
        and t.storage_offset() * t.element_size() % 16 == 0
        for t in tensors
    )


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
    on, rows = target(device), cdiv(m, 128)
    if rows * cdiv(n, 128) < on.processors:
        return SMALL
    if on.capability[0] not in (9, 10):
        return LARGE

    def cost(one: int) -> float:
        """What the processor with most tiles multiplies."""
        tile_m, tile_n = _TENSOR_CORE_TILES[one][0][:2]
        tiles = cdiv(m, tile_m) * cdiv(n, tile_n)
        return cdiv(tiles, on.processors) * tile_m * tile_n / _RATES[one]

    return min(_RATES, key=cost)


_NOTHING = Epilogue()


@functools.lru_cache(4096)
def split(m: int, n: int, k: int, tile: tuple[int, int], processors: int, balance: int) -> int:
    """In how many parts to cut K: more keep more processors busy, and write and read more.

    Costs are in multiply-adds of one processor. ``balance``: how many of a GPU's take as long as
    a byte from its memory (or, while the parts are small, its cache); some 100 on tensor cores.
    """
    tiles, work = cdiv(m, tile[0]) * cdiv(n, tile[1]), tile[0] * tile[1]

    def cost(parts: int) -> float:
        waves = cdiv(tiles * parts, processors)
        moved = 8 * parts * m * n if parts > 1 else 0
        return waves * work * cdiv(k, parts) + balance * moved / processors

    most = min(max(k // (4 * STEP), 1), 64)
    return min(range(1, most + 1), key=cost)


@dataclass(frozen=True)
class Plan:
    """How a product with an (m, n) result over ``k`` is launched.

    ``constants`` are of every kernel of products; there are ``parts`` programs a tile, each of
    which sums over ``each`` of k, a multiple of STEP.
    """

    m: int
    n: int
    k: int
    constants: Mapping[str, Any]
    parts: int
    each: int

    def grid(self, constants: Mapping[str, Any]) -> tuple[int, int]:
        """Programs along two axes."""
        tiles = cdiv(self.m, constants["BLOCK_M"]) * cdiv(self.n, constants["BLOCK_N"])
        return tiles, self.parts

    def sizes(self) -> dict[str, int]:
        """Arguments of every kernel of products."""
        return {"M": self.m, "N": self.n, "K": self.k, "each": self.each}

    def partial(self, like: torch.Tensor) -> torch.Tensor | None:
        """What the parts leave, where there are several."""
        shape = (self.parts, self.m, self.n)
        return like.new_empty(shape, dtype=torch.float32) if self.parts > 1 else None

    def work(
        self, constants: Mapping[str, Any], sizes: tuple[float, float], traffic: tuple[float, float]
    ) -> Work:
        """Every tile of C loads its rows of A and its columns of B.

        ``sizes``: bytes of A and B; ``traffic``: bytes that the epilogue reads and writes.
        """
        block_m, block_n, block_k = (constants[f"BLOCK_{x}"] for x in "MNK")
        rows, columns = cdiv(self.m, block_m), cdiv(self.n, block_n)
        steps = sum(
            cdiv(min(self.each, self.k - part * self.each), block_k) for part in range(self.parts)
        )
        (of_a, of_b), (read, written) = sizes, traffic
        return Work(
            flops=2.0 * rows * block_m * columns * block_n * steps * block_k,
            useful=2.0 * self.m * self.n * self.k,
            read=columns * of_a + rows * of_b + read,
            unique=of_a + of_b + read,
            written=written,
        )


def plan(
    kernel: Kernel, m: int, n: int, k: int, operand: torch.Tensor, constants: Mapping[str, Any],
    *, whole: bool = False,
) -> Plan:  # fmt: skip
    """The plan for a product by a kernel, with its own constants; ``whole``: K is not split."""
    deep = depth(k)
    constants = {
        "EVEN_K": k % deep == 0, "DEPTH": deep, "TF32": tf32(operand),
        "CLASS": class_of(m, n, operand.device), **constants,
    }  # fmt: skip
    on, itemsize = target(operand.device), operand.dtype.itemsize
    first = dict(kernel.fitting(on, constants, itemsize)[0].constants)
    tile = first["BLOCK_M"], first["BLOCK_N"]
    balance = 100 if tensor_cores(constants, itemsize) else 20
    parts = 1 if whole else split(m, n, k, tile, on.processors, balance)
    each = max(cdiv(cdiv(k, parts), STEP), 1) * STEP
    return Plan(m, n, k, constants, max(cdiv(k, each), 1), each)


def product(
    a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, after: Epilogue = _NOTHING,
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
    if c.device.type == "cuda" and not half and not recording() and after.is_bias():
        plain(a, b, c, after.bias)
        return
    alone = {"ACTIVATION": 0, "SUM_ROWS": 0, "BESIDE": False}
    how = plan(PRODUCT, m, n, k, b, {"HALF": half, "ALIGNED": aligned(a, b), **alone})
    partial, finish = how.partial(c), Finish(how, c, after)
    own = alone if partial is not None else {**finish.constants(), "BESIDE": after.beside}

    def work(constants: Mapping[str, Any], _: tuple[int, ...]) -> Work:
        sizes = float(m * k * a.element_size()), float(k * n * b.element_size())
        return how.work(constants, sizes, finish.traffic(partial))

    PRODUCT(
        how.grid,
        {
            "A": a, "B": b, "PARTIAL": partial, **finish.arguments(partial), **how.sizes(),
            "a_row": a.stride(0), "a_step": a.stride(1),
            "b_step": b.stride(0), "b_column": b.stride(1),
        },
        {**how.constants, **own},
        work,
        operand=b,
    )  # fmt: skip
    finish(partial)


class Finish:
    """An epilogue on its way to the kernel that runs it: the product's own, or ``join``."""

    def __init__(self, how: Plan, c: torch.Tensor, after: Epilogue) -> None:
        self.m, self.n, self.c, self.after = how.m, how.n, c, after
        self.sums, self.sum_rows = None, 0
        if after.sums is not None:
            self.sum_rows = _SUM_ROWS[how.constants["CLASS"]]
            self.sums = c.new_empty((cdiv(how.m, self.sum_rows), how.n), dtype=torch.float32)

    def constants(self) -> dict[str, Any]:
        """Of the kernel that runs it."""
        return {"ACTIVATION": self.after.activation, "SUM_ROWS": self.sum_rows}

    def arguments(self, partial: torch.Tensor | None) -> dict[str, Any]:
        """Of the product: nothing where it leaves ``partial``."""
        left = partial is not None
        after = _NOTHING if left else self.after
        c, sums = (None, None) if left else (self.c, self.sums)
        residual = after.residual
        residual = None if residual is None else residual.reshape(self.m, self.n)
        return {
            "BIAS": after.bias, "GAMMA": after.gamma, "RESIDUAL": residual,
            "SLOPE": None if after.slope is None else after.slope.contiguous(),
            "C": c, "PRE": after.pre, "ACTIVATED": after.activated, "SUMS": sums,
            "bias_step": 0 if after.bias is None else after.bias.stride(0),
            "gamma_step": 0 if after.gamma is None else after.gamma.stride(0),
            "residual_row": 0 if residual is None else residual.stride(0),
            "residual_column": 0 if residual is None else residual.stride(1),
        }  # fmt: skip

    def traffic(self, partial: torch.Tensor | None) -> tuple[float, float]:
        """Bytes that it reads (biases once: they stay in cache) and writes; with the product."""
        if partial is not None:
            return 0.0, size(partial)
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
            read, written = self.traffic(None)
            read += size(partial)
            return Work(read=read, unique=read, written=written)

        _JOIN(
            lambda x: (cdiv(m, x["BLOCK_M"]) * cdiv(n, x["BLOCK_N"]),),
            {
                "PARTIAL": partial,
                **self.arguments(None),
                "M": m,
                "N": n,
                "splits": partial.shape[0],
            },
            self.constants(),
            work,
            operand=partial,
        )
