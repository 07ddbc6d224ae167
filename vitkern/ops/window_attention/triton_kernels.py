"""Windows in Triton: where their positions lie in the map, and the gradient of the bias table.

A position is a number below N = WINDOW_H * WINDOW_W, by rows of the window. Functions of pairs take
positions of queries and keys that broadcast: ``i[:, None]`` and ``j[None, :]``, or the reverse.
"""

import triton
import triton.language as tl

from vitkern.ops._triton.attention_kernels import LOG2E
from vitkern.ops.window_attention.reference import MASKED

APART: tl.constexpr = tl.constexpr(MASKED * 1.4426950408889634)


@triton.jit
def source(i, shift, size, padded, SHIFTED: tl.constexpr, PAD_FIRST: tl.constexpr):
    """Row or column of the map that row or column ``i`` of the shifted, padded map shows, and
    whether there is one: else it is padding."""
    inside = i < size
    if SHIFTED:
        i += shift
        if PAD_FIRST:
            i = tl.where(i >= padded, i - padded, i)
            inside = i < size
        else:
            i = tl.where(i >= size, i - size, i)
    return i, inside


@triton.jit
def corner(window, down, across, WINDOW_H: tl.constexpr, WINDOW_W: tl.constexpr):
    """Image of a window, and row and column of the shifted map where it begins."""
    within = window % (down * across)
    return (
        (window // (down * across)).to(tl.int64),
        within // across * WINDOW_H,
        within % across * WINDOW_W,
    )


@triton.jit
def place(
    position, image, top, left, height, width, down, across, shift_y, shift_x,
    WINDOW_H: tl.constexpr, WINDOW_W: tl.constexpr,
    SHIFTED: tl.constexpr, PADDED: tl.constexpr, PAD_FIRST: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Row and column of the map of positions of a window, and whether they are in it.

    WIDE: offsets within an image need 64 bits.
    """
    y, y_inside = source(
        top + position // WINDOW_W, shift_y, height, down * WINDOW_H, SHIFTED, PAD_FIRST
    )
    x, x_inside = source(
        left + position % WINDOW_W, shift_x, width, across * WINDOW_W, SHIFTED, PAD_FIRST
    )
    inside = position < WINDOW_H * WINDOW_W
    if PADDED:
        inside = inside & y_inside & x_inside
    if WIDE:
        y, x = y.to(tl.int64), x.to(tl.int64)
    return y, x, inside


@triton.jit
def load_rows(X, at, inside, first, step, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """(positions, BLOCK_D): HEAD_DIM channels from ``first`` on, of rows ``at``; else zeros."""
    d = tl.arange(0, BLOCK_D)
    real = inside[:, None] & (d < HEAD_DIM)[None, :]
    return tl.load(X + at[:, None] + (first + d)[None, :] * step, real, 0.0)


@triton.jit
def load_keys(
    X, at, inside, padding, first, step, PAD, pad_step,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """As ``load_rows``, but padded positions have what PAD has. (Queries there give nothing.)"""
    rows = load_rows(X, at, inside, first, step, HEAD_DIM, BLOCK_D)
    if PADDED and PAD is not None:
        d = tl.arange(0, BLOCK_D)
        pad = tl.load(PAD + (first + d) * pad_step, d < HEAD_DIM, 0.0)
        rows = tl.where(padding[:, None], pad[None, :], rows)
    return rows


@triton.jit
def store_rows(Y, value, at, inside, first, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """Write HEAD_DIM adjacent channels from ``first`` on, of rows ``at``."""
    d = tl.arange(0, BLOCK_D)
    real = inside[:, None] & (d < HEAD_DIM)[None, :]
    tl.store(Y + at[:, None] + (first + d)[None, :], value.to(Y.dtype.element_ty), real)


@triton.jit
def pair_bias(
    TABLE, head, query, key, table_row, table_head,
    WINDOW_H: tl.constexpr, WINDOW_W: tl.constexpr,
):  # fmt: skip
    """What the table adds to the scores of pairs, in exponents of 2; -inf behind the last key."""
    bias = tl.where(key < WINDOW_H * WINDOW_W, 0.0, float("-inf"))
    if TABLE is not None:
        from_query = query // WINDOW_W * (2 * WINDOW_W - 1) + query % WINDOW_W
        from_key = key // WINDOW_W * (2 * WINDOW_W - 1) + key % WINDOW_W
        row = from_query - from_key + (WINDOW_H - 1) * (2 * WINDOW_W - 1) + WINDOW_W - 1
        real = (query < WINDOW_H * WINDOW_W) & (key < WINDOW_H * WINDOW_W)
        entries = tl.load(TABLE + head * table_head + row * table_row, real, 0.0)
        bias = entries.to(tl.float32) * LOG2E + bias
    return bias


@triton.jit
def wrapped(
    position, shift_y, shift_x,
    WINDOW_H: tl.constexpr, WINDOW_W: tl.constexpr, SHIFTED: tl.constexpr,
):  # fmt: skip
    """Bit 1: its row came around from the other side, if the window is the last of its column.
    Bit 0: so did its column, if the window is the last of its row."""
    if SHIFTED:
        y = position // WINDOW_W >= WINDOW_H - shift_y
        x = position % WINDOW_W >= WINDOW_W - shift_x
        position = y.to(tl.int32) * 2 + x.to(tl.int32)
    return position


@triton.jit
def mask(
    scores, of_query, of_key, top, left, down, across,
    WINDOW_H: tl.constexpr, WINDOW_W: tl.constexpr, SHIFTED: tl.constexpr,
):  # fmt: skip
    """The scores, in exponents of 2, less Swin's 100 for pairs that only the shift brought
    together: ``of_query`` and ``of_key`` are what ``wrapped`` gives for them."""
    if SHIFTED:
        last_y = top == (down - 1) * WINDOW_H
        last_x = left == (across - 1) * WINDOW_W
        last = last_y.to(tl.int32) * 2 + last_x.to(tl.int32)
        scores = tl.where(((of_query ^ of_key) & last) == 0, scores, scores + APART)
    return scores


@triton.jit
def wrapped_columns(
    position, shift_x, WINDOW_H: tl.constexpr, WINDOW_W: tl.constexpr, SHIFTED: tl.constexpr
):
    """Bit i: the column of position i, of at most 64, is one that ``wrapped`` tells of."""
    bits = tl.cast(0, tl.int64)
    if SHIFTED:
        around = (position < WINDOW_H * WINDOW_W) & (position % WINDOW_W >= WINDOW_W - shift_x)
        bits = tl.sum(around.to(tl.int64) << position)
    return bits


@triton.jit
def mask_whole(
    scores, position, columns, top, left, down, across, shift_y,
    WINDOW_H: tl.constexpr, WINDOW_W: tl.constexpr, SHIFTED: tl.constexpr,
):  # fmt: skip
    """As ``mask``, from bits instead of a number for each position, which would take registers."""
    if SHIFTED:
        last_y = top == (down - 1) * WINDOW_H
        last_x = left == (across - 1) * WINDOW_W
        first = tl.where(last_y, (WINDOW_H - shift_y) * WINDOW_W, WINDOW_H * WINDOW_W)
        around = (tl.where(last_x, columns, 0) >> position).to(tl.int32) & 1
        around = around | ((position >= first).to(tl.int32) << 1)
        scores = tl.where(around[:, None] == around[None, :], scores, scores + APART)
    return scores


@triton.jit
def table_gradient(
    DSCORES, DTABLE, heads,
    WINDOW_H: tl.constexpr, WINDOW_W: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """DTABLE (rows, heads) from DSCORES (heads, N, N), float32: each row gathers its pairs."""
    head = tl.program_id(1)
    r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    known = r < (2 * WINDOW_H - 1) * (2 * WINDOW_W - 1)
    dy = r // (2 * WINDOW_W - 1) - (WINDOW_H - 1)
    dx = r % (2 * WINDOW_W - 1) - (WINDOW_W - 1)
    total = tl.zeros((BLOCK_R, BLOCK_N), tl.float32)
    for start in range(0, WINDOW_H * WINDOW_W, BLOCK_N):
        i = start + tl.arange(0, BLOCK_N)
        y = (i // WINDOW_W)[None, :] - dy[:, None]
        x = (i % WINDOW_W)[None, :] - dx[:, None]
        real = (i < WINDOW_H * WINDOW_W)[None, :] & known[:, None]
        real = real & (y >= 0) & (y < WINDOW_H) & (x >= 0) & (x < WINDOW_W)
        row = (head.to(tl.int64) * (WINDOW_H * WINDOW_W) + i) * (WINDOW_H * WINDOW_W)
        total += tl.load(DSCORES + row[None, :] + (y * WINDOW_W + x), real, 0.0)
    tl.store(DTABLE + r * heads + head, tl.sum(total, 1).to(DTABLE.dtype.element_ty), known)
