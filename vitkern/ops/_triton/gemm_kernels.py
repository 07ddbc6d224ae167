"""Matrix products with what comes before and after them, and passes over what they multiply."""

import triton
import triton.language as tl

from vitkern.ops._triton.shared_kernels import activate, slope

RUN: tl.constexpr = tl.constexpr(512)
"""Of K, how much is summed at a time where single precision is all that sums have."""


@triton.jit
def place(M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP: tl.constexpr):
    """Row and column of this program's tile.

    Programs go down GROUP rows of tiles before they take the next column, so that those that run at
    the same time share what they read in L2.
    """
    tile = tl.program_id(0)
    rows, columns = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    first = tile // (GROUP * columns) * GROUP
    size = tl.minimum(rows - first, GROUP)
    within = tile % (GROUP * columns)
    return first + within % size, within // size


@triton.jit
def multiply(a, b, acc, HALF: tl.constexpr, TF32: tl.constexpr):
    """``acc + a @ b``; with HALF of operands rounded to bfloat16."""
    if HALF:
        a, b = a.to(tl.bfloat16), b.to(tl.bfloat16)
    if TF32:
        acc = tl.dot(a, b, acc, input_precision="tf32")
    else:
        acc = tl.dot(a, b, acc, input_precision="ieee")
    return acc


@triton.jit
def leave(acc, PARTIAL, row, column, M, N):
    """This program's part of a sum over K: PARTIAL (splits, M, N) float32."""
    at = (tl.program_id(1).to(tl.int64) * M + row[:, None]) * N + column[None, :]
    tl.store(PARTIAL + at, acc, (row[:, None] < M) & (column[None, :] < N))


@triton.jit
def epilogue(
    acc, tile_m, row, column, BIAS, GAMMA, RESIDUAL, SLOPE, C, PRE, ACTIVATED, SUMS,
    M, N, bias_step, gamma_step, residual_row, residual_column,
    ACTIVATION: tl.constexpr, SUM_ROWS: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """What follows a product; every pointer but C may be None. All but RESIDUAL are contiguous.

    Forward: ``C = RESIDUAL + GAMMA * activation(PRE)`` with ``PRE = acc + BIAS``. Backward, where
    SLOPE is what the activation was applied to: ``C = acc * activation'(SLOPE)``,
    ``ACTIVATED = activation(SLOPE)``. SUMS gets the sums of C's columns, a row of them for each
    SUM_ROWS rows of C: those of a tile that has more are in its first row, beside zeros.
    """
    inside = (row[:, None] < M) & (column[None, :] < N)
    known = column < N
    row64 = row[:, None].to(tl.int64)
    at = row64 * N + column[None, :]
    if BIAS is not None:
        acc += tl.load(BIAS + column * bias_step, known, 0.0).to(tl.float32)[None, :]
    if SLOPE is not None:
        pre = tl.load(SLOPE + at, inside, 0.0).to(tl.float32)
        acc *= slope(pre, ACTIVATION)
        if ACTIVATED is not None:
            tl.store(
                ACTIVATED + at, activate(pre, ACTIVATION).to(ACTIVATED.dtype.element_ty), inside
            )
    else:
        if PRE is not None:
            tl.store(PRE + at, acc.to(PRE.dtype.element_ty), inside)
        acc = activate(acc, ACTIVATION)
    if GAMMA is not None:
        acc *= tl.load(GAMMA + column * gamma_step, known, 0.0).to(tl.float32)[None, :]
    if RESIDUAL is not None:
        where = row64 * residual_row + column[None, :] * residual_column
        acc += tl.load(RESIDUAL + where, inside, 0.0).to(tl.float32)
    tl.store(C + at, acc.to(C.dtype.element_ty), inside)
    if SUMS is not None:
        tl.static_assert(BLOCK_M % SUM_ROWS == 0)
        total = tl.sum(tl.where(inside, acc, 0.0), 0)
        for part in tl.static_range(BLOCK_M // SUM_ROWS):
            block = tile_m * (BLOCK_M // SUM_ROWS) + part
            value = total if part == 0 else tl.zeros_like(total)
            tl.store(SUMS + block.to(tl.int64) * N + column, value, known & (block * SUM_ROWS < M))


@triton.jit
def halves(x, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """The left and the right half of the columns of a tile."""
    return tl.split(tl.permute(tl.reshape(x, (BLOCK_M, 2, BLOCK_N // 2)), (0, 2, 1)))


@triton.jit
def multiply_along(
    a_at, b_at, a_there, b_there, first, last, step, a_step, b_step,
    dtype: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    EVEN_K: tl.constexpr, HALF: tl.constexpr, TF32: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """(BLOCK_M, BLOCK_N): the product of A and B along K, from ``first`` to ``last``.

    ``a_at`` and ``b_at`` are the addresses of the first block, ``a_there`` the rows and ``b_there``
    the columns that there are; EVEN_K: no block is cut.
    """
    # A long K one by one would lose more than libraries do, which have several sums.
    SINGLE: tl.constexpr = dtype == tl.float32 and not (HALF or TF32)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    if SINGLE:
        total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in tl.range(first, last, BLOCK_K, num_stages=STAGES):
        if EVEN_K:
            a = tl.load(a_at, a_there, 0.0)
            b = tl.load(b_at, b_there, 0.0)
        else:
            left = step < last - start
            a = tl.load(a_at, a_there & left[None, :], 0.0)
            b = tl.load(b_at, b_there & left[:, None], 0.0)
        acc = multiply(a, b, acc, HALF, TF32)
        if SINGLE:  # noqa: SIM102 - known when it is compiled
            if (start - first + BLOCK_K) % RUN == 0:
                total += acc
                acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        a_at += BLOCK_K * a_step
        b_at += BLOCK_K * b_step
    if SINGLE:
        acc += total
    return acc


@triton.jit
def product(
    A, B, BIAS, GAMMA, RESIDUAL, SLOPE, C, PRE, ACTIVATED, SUMS, PARTIAL,
    M, N, K, each, a_row, a_step, b_step, b_column,
    bias_step, gamma_step, residual_row, residual_column,
    ACTIVATION: tl.constexpr, SUM_ROWS: tl.constexpr, EVEN_K: tl.constexpr, HALF: tl.constexpr,
    TF32: tl.constexpr,
    CLASS: tl.constexpr, DEPTH: tl.constexpr, ALIGNED: tl.constexpr, BESIDE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
    STAGES: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """``C (M, N) = epilogue(A (M, K) @ B (K, N))``, or PARTIAL over ``each`` of K a program.

    EVEN_K: every BLOCK_K divides K and ``each``. CLASS, DEPTH, ALIGNED and BESIDE are
    for the choice of configurations only.
    """
    tile_m, tile_n = place(M, N, BLOCK_M, BLOCK_N, GROUP)
    row = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    first = tl.program_id(1) * each
    last = tl.minimum(first + each, K)
    step = tl.arange(0, BLOCK_K)
    where = (first + step).to(tl.int64)
    a_at = A + row[:, None].to(tl.int64) * a_row + where[None, :] * a_step
    b_at = B + where[:, None] * b_step + column[None, :].to(tl.int64) * b_column
    acc = multiply_along(
        a_at, b_at, row[:, None] < M, column[None, :] < N, first, last, step, a_step, b_step,
        B.dtype.element_ty, BLOCK_M, BLOCK_N, BLOCK_K, EVEN_K, HALF, TF32, STAGES,
    )  # fmt: skip
    if PARTIAL is not None:
        leave(acc, PARTIAL, row, column, M, N)
    elif PARTS == 4:
        # One part after the other: what the epilogue has in registers beside acc is less.
        part: tl.constexpr = BLOCK_N // 4
        left, right = halves(acc, BLOCK_M, BLOCK_N)
        column = tile_n * BLOCK_N + tl.arange(0, part)
        first, second = halves(left, BLOCK_M, BLOCK_N // 2)
        epilogue(
            first, tile_m, row, column,
            BIAS, GAMMA, RESIDUAL, SLOPE, C, PRE, ACTIVATED, SUMS, M, N,
            bias_step, gamma_step, residual_row, residual_column, ACTIVATION, SUM_ROWS, BLOCK_M,
        )  # fmt: skip
        epilogue(
            second, tile_m, row, column + part,
            BIAS, GAMMA, RESIDUAL, SLOPE, C, PRE, ACTIVATED, SUMS, M, N,
            bias_step, gamma_step, residual_row, residual_column, ACTIVATION, SUM_ROWS, BLOCK_M,
        )  # fmt: skip
        third, fourth = halves(right, BLOCK_M, BLOCK_N // 2)
        epilogue(
            third, tile_m, row, column + 2 * part,
            BIAS, GAMMA, RESIDUAL, SLOPE, C, PRE, ACTIVATED, SUMS, M, N,
            bias_step, gamma_step, residual_row, residual_column, ACTIVATION, SUM_ROWS, BLOCK_M,
        )  # fmt: skip
        epilogue(
            fourth, tile_m, row, column + 3 * part,
            BIAS, GAMMA, RESIDUAL, SLOPE, C, PRE, ACTIVATED, SUMS, M, N,
            bias_step, gamma_step, residual_row, residual_column, ACTIVATION, SUM_ROWS, BLOCK_M,
        )  # fmt: skip
    elif PARTS == 2:
        half: tl.constexpr = BLOCK_N // 2
        left, right = halves(acc, BLOCK_M, BLOCK_N)
        column = tile_n * BLOCK_N + tl.arange(0, half)
        epilogue(
            left, tile_m, row, column,
            BIAS, GAMMA, RESIDUAL, SLOPE, C, PRE, ACTIVATED, SUMS, M, N,
            bias_step, gamma_step, residual_row, residual_column, ACTIVATION, SUM_ROWS, BLOCK_M,
        )  # fmt: skip
        epilogue(
            right, tile_m, row, column + half,
            BIAS, GAMMA, RESIDUAL, SLOPE, C, PRE, ACTIVATED, SUMS, M, N,
            bias_step, gamma_step, residual_row, residual_column, ACTIVATION, SUM_ROWS, BLOCK_M,
        )  # fmt: skip
    else:
        epilogue(
            acc, tile_m, row, column,
            BIAS, GAMMA, RESIDUAL, SLOPE, C, PRE, ACTIVATED, SUMS, M, N,
            bias_step, gamma_step, residual_row, residual_column, ACTIVATION, SUM_ROWS, BLOCK_M,
        )  # fmt: skip


@triton.jit
def join(
    PARTIAL, BIAS, GAMMA, RESIDUAL, SLOPE, C, PRE, ACTIVATED, SUMS,
    M, N, splits, bias_step, gamma_step, residual_row, residual_column,
    ACTIVATION: tl.constexpr, SUM_ROWS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """``C (M, N) = epilogue(sum of PARTIAL (splits, M, N))``, in a fixed order."""
    tile_m, tile_n = place(M, N, BLOCK_M, BLOCK_N, 1)
    row = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (row[:, None] < M) & (column[None, :] < N)
    at = PARTIAL + row[:, None].to(tl.int64) * N + column[None, :]
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for _ in range(splits):
        acc += tl.load(at, inside, 0.0)
        at += tl.cast(M, tl.int64) * N
    epilogue(
        acc, tile_m, row, column, BIAS, GAMMA, RESIDUAL, SLOPE, C, PRE, ACTIVATED, SUMS,
        M, N, bias_step, gamma_step, residual_row, residual_column,
        ACTIVATION, SUM_ROWS, BLOCK_M,
    )  # fmt: skip


@triton.jit
def gradient(
    DY, PRE, GAMMA, DPRE, SUMS, GAMMA_SUMS,
    rows, width, each, dy_row, dy_column, gamma_step,
    ACTIVATION: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """``DPRE = DY * GAMMA * activation'(PRE)``, and of each program's ``each`` rows two sums.

    SUMS: of DPRE; GAMMA_SUMS: of ``DY * activation(PRE)``. Every pointer but DY may be None.
    """
    column = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    known = column < width
    gamma = tl.full((BLOCK_C,), 1.0, tl.float32)
    if GAMMA is not None:
        gamma = tl.load(GAMMA + column * gamma_step, known, 0.0).to(tl.float32)
    total = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    of_gamma = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    first = tl.program_id(0) * each
    last = tl.minimum(first + each, rows)
    for start in range(first, last, BLOCK_R):
        row = start + tl.arange(0, BLOCK_R)
        inside = (row[:, None] < last) & known[None, :]
        row64 = row[:, None].to(tl.int64)
        at = row64 * width + column[None, :]
        dy = tl.load(DY + row64 * dy_row + column[None, :] * dy_column, inside, 0.0).to(tl.float32)
        dpre = dy * gamma[None, :]
        if PRE is not None:
            pre = tl.load(PRE + at, inside, 0.0).to(tl.float32)
            dpre *= slope(pre, ACTIVATION)
            if GAMMA_SUMS is not None:
                of_gamma += dy * activate(pre, ACTIVATION)
        if DPRE is not None:
            tl.store(DPRE + at, dpre.to(DPRE.dtype.element_ty), inside)
        total += dpre
    at = tl.program_id(0).to(tl.int64) * width + column
    if SUMS is not None:
        tl.store(SUMS + at, tl.sum(total, 0), known)
    if GAMMA_SUMS is not None:
        tl.store(GAMMA_SUMS + at, tl.sum(of_gamma, 0), known)


@triton.jit
def activated(PRE, Y, size, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr):
    """``Y = activation(PRE)``, both of ``size`` elements and contiguous."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    pre = tl.load(PRE + at, at < size, 0.0).to(tl.float32)
    tl.store(Y + at, activate(pre, ACTIVATION).to(Y.dtype.element_ty), at < size)
