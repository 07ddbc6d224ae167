"""Gated hidden values: with the product that they are made of, and their gradients."""

import triton
import triton.language as tl

from vitkern.ops._triton.gemm_kernels import halves, multiply_along, place
from vitkern.ops._triton.shared_kernels import activate, slope


@triton.jit
def load_bias(BIAS, column, known, step):
    """Entries of a bias in float32."""
    return tl.load(BIAS + column * step, known, 0.0).to(tl.float32)[None, :]


@triton.jit
def gated_product(
    A, B, BIAS, C, PRE,
    M, N, K, each, a_row, a_step, b_step, b_column, bias_step,
    ACTIVATION: tl.constexpr, EVEN_K: tl.constexpr, TF32: tl.constexpr,
    CLASS: tl.constexpr, DEPTH: tl.constexpr, ALIGNED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """``C (M, N/2) = activation(a) * b`` of the halves of ``PRE = A (M, K) @ B (K, N) + BIAS``.

    A tile has as many columns of one half as of the other, those that belong together, so that
    nothing but C is written, and PRE where it is not None. EVEN_K: every BLOCK_K divides K. CLASS,
    DEPTH and ALIGNED are for the choice of configurations only; ``each`` is K, of one program.
    """
    part: tl.constexpr = BLOCK_N // 2
    half = N // 2
    tile_m, tile_n = place(M, N, BLOCK_M, BLOCK_N, GROUP)
    row = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    j = tl.arange(0, BLOCK_N)
    within = tile_n * part + j % part
    column = tl.where(j < part, within, half + within)
    there = (within < half)[None, :]
    step = tl.arange(0, BLOCK_K)
    a_at = A + row[:, None].to(tl.int64) * a_row + step[None, :] * a_step
    b_at = B + step[:, None] * b_step + column[None, :].to(tl.int64) * b_column
    acc = multiply_along(
        a_at, b_at, row[:, None] < M, there, tl.program_id(1) * each, K, step, a_step, b_step,
        B.dtype.element_ty, BLOCK_M, BLOCK_N, BLOCK_K, EVEN_K, False, TF32, STAGES,
    )  # fmt: skip
    a, b = halves(acc, BLOCK_M, BLOCK_N)
    first = tile_n * part + tl.arange(0, part)
    known = first < half
    inside = (row[:, None] < M) & known[None, :]
    if BIAS is not None:
        a += load_bias(BIAS, first, known, bias_step)
        b += load_bias(BIAS, half + first, known, bias_step)
    row64 = row[:, None].to(tl.int64)
    if PRE is not None:
        at = row64 * N + first[None, :]
        tl.store(PRE + at, a.to(PRE.dtype.element_ty), inside)
        tl.store(PRE + at + half, b.to(PRE.dtype.element_ty), inside)
    hidden = activate(a, ACTIVATION) * b
    tl.store(C + row64 * half + first[None, :], hidden.to(C.dtype.element_ty), inside)


@triton.jit
def gated_gradient(
    DHIDDEN, PRE, DPRE, HIDDEN, SUMS,
    rows, half, each,
    ACTIVATION: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """DPRE (rows, 2 * half), HIDDEN (rows, half) and sums of DPRE's columns over a program's rows.

    Every pointer but PRE may be None: DHIDDEN where only HIDDEN is wanted. SUMS is (programs, 2 *
    half). All are contiguous.
    """
    column = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    known = column < half
    of_a = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    of_b = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    first = tl.program_id(0) * each
    last = tl.minimum(first + each, rows)
    for start in range(first, last, BLOCK_R):
        row = start + tl.arange(0, BLOCK_R)
        inside = (row[:, None] < last) & known[None, :]
        at = row[:, None].to(tl.int64) * half + column[None, :]
        at_pre = row[:, None].to(tl.int64) * (2 * half) + column[None, :]
        a = tl.load(PRE + at_pre, inside, 0.0).to(tl.float32)
        b = tl.load(PRE + at_pre + half, inside, 0.0).to(tl.float32)
        value = activate(a, ACTIVATION)
        if HIDDEN is not None:
            tl.store(HIDDEN + at, (value * b).to(HIDDEN.dtype.element_ty), inside)
        if DHIDDEN is not None:
            g = tl.load(DHIDDEN + at, inside, 0.0).to(tl.float32)
            da, db = g * b * slope(a, ACTIVATION), g * value
            if DPRE is not None:
                tl.store(DPRE + at_pre, da.to(DPRE.dtype.element_ty), inside)
                tl.store(DPRE + at_pre + half, db.to(DPRE.dtype.element_ty), inside)
            of_a += da
            of_b += db
    if SUMS is not None:
        to = SUMS + tl.program_id(0).to(tl.int64) * (2 * half) + column
        tl.store(to, tl.sum(of_a, 0), known)
        tl.store(to + half, tl.sum(of_b, 0), known)
