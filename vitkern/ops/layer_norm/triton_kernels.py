"""Layer norm: a program has whole rows on chip, so that mean and variance are of two passes."""

import triton
import triton.language as tl


@triton.jit
def forward(
    X, RESIDUAL, SCALE, WEIGHT, BIAS, Y, TOTAL, STATS,
    rows, width, eps, x_row, x_column, residual_row, residual_column, together, scale_step,
    weight_step, bias_step,
    BLOCK_C: tl.constexpr, SAVE: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """``Y = norm(X + SCALE * RESIDUAL) * WEIGHT + BIAS``; ``together`` rows share one of SCALE.

    STATS (rows, 2) gets mean and 1 / deviation.
    """
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    column = tl.arange(0, BLOCK_C)
    known = column < width
    inside = (row[:, None] < rows) & known[None, :]
    row64 = row[:, None].to(tl.int64)
    x = tl.load(X + row64 * x_row + column[None, :] * x_column, inside, 0.0).to(tl.float32)
    out = row64 * width + column[None, :]
    if RESIDUAL is not None:
        at = row64 * residual_row + column[None, :] * residual_column
        residual = tl.load(RESIDUAL + at, inside, 0.0).to(tl.float32)
        if SCALE is not None:
            scale = tl.load(SCALE + row // together * scale_step, row < rows, 0.0)
            residual *= scale.to(tl.float32)[:, None]
        x += residual
        # What is normalised is the sum as it is returned, rounding included.
        total = x.to(TOTAL.dtype.element_ty)
        tl.store(TOTAL + out, total, inside)
        x = total.to(tl.float32)
    # Rounded to nearest: of a constant row no deviation is left.
    count = tl.cast(width, tl.float32)
    mean = tl.div_rn(tl.sum(x, 1), count)
    centred = tl.where(inside, x - mean[:, None], 0.0)
    scale = tl.math.rsqrt(tl.sum(centred * centred, 1) / count + eps)
    y = centred * scale[:, None]
    if WEIGHT is not None:
        weight = tl.load(WEIGHT + column * weight_step, known, 0.0).to(tl.float32)
        y *= weight[None, :]
    if BIAS is not None:
        y += tl.load(BIAS + column * bias_step, known, 0.0).to(tl.float32)[None, :]
    tl.store(Y + out, y.to(Y.dtype.element_ty), inside)
    if SAVE:
        tl.store(STATS + row * 2, mean, row < rows)
        tl.store(STATS + row * 2 + 1, scale, row < rows)


@triton.jit
def backward(
    DY, DSUM, X, WEIGHT, STATS, SCALE, DX, DRESIDUAL, PARTIAL_WEIGHT, PARTIAL_BIAS,
    rows, width, each, dy_row, dy_column, dsum_row, dsum_column, x_row, x_column, weight_step,
    together, scale_step,
    BLOCK_C: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """DX (rows, width), and for each program the sums over its ``each`` rows for the parameters.

    DRESIDUAL, where it is not None, is ``SCALE * DX``: see ``forward``.
    """
    column = tl.arange(0, BLOCK_C)
    known = column < width
    weight = tl.full((BLOCK_C,), 1.0, tl.float32)
    if WEIGHT is not None:
        weight = tl.load(WEIGHT + column * weight_step, known, 0.0).to(tl.float32)
    dweight = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    dbias = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    first = tl.program_id(0) * each
    for start in range(first, tl.minimum(first + each, rows), BLOCK_R):
        row = start + tl.arange(0, BLOCK_R)
        inside = (row[:, None] < tl.minimum(first + each, rows)) & known[None, :]
        row64 = row[:, None].to(tl.int64)
        dy = tl.load(DY + row64 * dy_row + column[None, :] * dy_column, inside, 0.0).to(tl.float32)
        x = tl.load(X + row64 * x_row + column[None, :] * x_column, inside, 0.0).to(tl.float32)
        mean = tl.load(STATS + row * 2, row < rows, 0.0)
        scale = tl.load(STATS + row * 2 + 1, row < rows, 0.0)
        normal = tl.where(inside, (x - mean[:, None]) * scale[:, None], 0.0)
        dweight += dy * normal
        dbias += dy
        if DX is not None:
            g = dy * weight[None, :]
            part = tl.sum(g * normal, 1) / width
            dx = (g - tl.sum(g, 1)[:, None] / width - normal * part[:, None]) * scale[:, None]
            if DSUM is not None:
                at = row64 * dsum_row + column[None, :] * dsum_column
                dx += tl.load(DSUM + at, inside, 0.0).to(tl.float32)
            at = row64 * width + column[None, :]
            tl.store(DX + at, dx.to(DX.dtype.element_ty), inside)
            if DRESIDUAL is not None:
                of_sample = tl.load(SCALE + row // together * scale_step, row < rows, 0.0)
                dx *= of_sample.to(tl.float32)[:, None]
                tl.store(DRESIDUAL + at, dx.to(DRESIDUAL.dtype.element_ty), inside)
    at = tl.program_id(0).to(tl.int64) * width + column
    if PARTIAL_WEIGHT is not None:
        tl.store(PARTIAL_WEIGHT + at, tl.sum(dweight, 0), known)
    if PARTIAL_BIAS is not None:
        tl.store(PARTIAL_BIAS + at, tl.sum(dbias, 0), known)
