"""Deformable attention: a program has a head of a block of queries, and goes from point to point.

The gradient of the values is added up by atomic operations in whole numbers, whose sums do not
depend on the order: the same bits in every run. A number is a fraction of the largest upstream
gradient times the largest weight, so that nothing overflows.
"""

import triton
import triton.language as tl

from vitkern.ops.deformable_attention.call import MOST_LEVELS

# A level's size is an argument of its own: no table has to be copied to the device at each call.
_SIZES = [f"{side}{level}" for level in range(MOST_LEVELS) for side in ("h", "w")]
_UNSPECIALISED = ["pixels", "queries", *_SIZES]


@triton.jit
def pick(LEVEL: tl.constexpr, n0, n1, n2, n3, n4, n5, n6, n7):
    """The argument of that number."""
    if LEVEL == 0:
        n = n0
    elif LEVEL == 1:
        n = n1
    elif LEVEL == 2:
        n = n2
    elif LEVEL == 3:
        n = n3
    elif LEVEL == 4:
        n = n4
    elif LEVEL == 5:
        n = n5
    elif LEVEL == 6:
        n = n6
    else:
        n = n7
    return n


@triton.jit
def pixel_beside(x, size):
    """Along one axis: the last pixel whose centre is not behind ``x``, how far ``x`` is behind it,
    and whether it and the next one are on the map. No comparison is true of a NaN."""
    inside = (x >= -1.0) & (x < size)
    x = tl.where(inside, x, 0.0)
    pixel = tl.floor(x)
    index = pixel.to(tl.int32)
    return index, x - pixel, inside & (index >= 0), inside & (index + 1 < size)


@triton.jit
def pixel_tile(VALUE, pixel, step, mask, column, width):
    """The channels of pixels, as float32; zeros where the mask is False."""
    at = pixel.to(tl.int64)[:, None] * step + column[None, :]
    return tl.load(VALUE + at, mask[:, None] & (column < width)[None, :], 0.0).to(tl.float32)


@triton.jit(do_not_specialize=_UNSPECIALISED)
def forward(
    VALUE, LOCATIONS, WEIGHTS, OUT, pixels, queries, heads, width, points,
    h0, w0, h1, w1, h2, w2, h3, w3, h4, w4, h5, w5, h6, w6, h7, w7,
    LEVELS: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_Q: tl.constexpr,
):  # fmt: skip
    """OUT (B, Q, heads, width); all tensors are contiguous."""
    program = tl.program_id(0)
    head = program % heads
    blocks = tl.cdiv(queries, BLOCK_Q)
    image = (program // heads // blocks).to(tl.int64)
    query = program // heads % blocks * BLOCK_Q + tl.arange(0, BLOCK_Q)
    known = query < queries
    column = tl.arange(0, BLOCK_D)
    row = (image * queries + query) * heads + head
    total = tl.zeros((BLOCK_Q, BLOCK_D), tl.float32)
    step = heads * width
    start = VALUE + (image * pixels * heads + head) * width
    for level in tl.static_range(LEVELS):
        rows = pick(level, h0, h1, h2, h3, h4, h5, h6, h7)
        columns = pick(level, w0, w1, w2, w3, w4, w5, w6, w7)
        for point in range(points):
            at = (row * LEVELS + level) * points + point
            weight = tl.load(WEIGHTS + at, known, 0.0).to(tl.float32)
            x = tl.load(LOCATIONS + 2 * at, known, -2.0).to(tl.float32) * columns - 0.5
            y = tl.load(LOCATIONS + 2 * at + 1, known, -2.0).to(tl.float32) * rows - 0.5
            left, right_share, left_is, right_is = pixel_beside(x, columns)
            above, below_share, above_is, below_is = pixel_beside(y, rows)
            pixel = above * columns + left
            upper = weight * (1.0 - below_share)
            lower = weight * below_share
            tile = pixel_tile(start, pixel, step, above_is & left_is, column, width)
            total += (upper * (1.0 - right_share))[:, None] * tile
            tile = pixel_tile(start, pixel + 1, step, above_is & right_is, column, width)
            total += (upper * right_share)[:, None] * tile
            tile = pixel_tile(start, pixel + columns, step, below_is & left_is, column, width)
            total += (lower * (1.0 - right_share))[:, None] * tile
            tile = pixel_tile(start, pixel + columns + 1, step, below_is & right_is, column, width)
            total += (lower * right_share)[:, None] * tile
        start += tl.cast(rows * columns, tl.int64) * step
    out = OUT + row[:, None] * width + column[None, :]
    tl.store(out, total.to(OUT.dtype.element_ty), known[:, None] & (column < width)[None, :])


@triton.jit(do_not_specialize=_UNSPECIALISED)
def point_gradients(
    DOUT, VALUE, LOCATIONS, WEIGHTS, DLOCATIONS, DWEIGHTS, pixels, queries, heads, width, points,
    h0, w0, h1, w1, h2, w2, h3, w3, h4, w4, h5, w5, h6, w6, h7, w7,
    LEVELS: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_Q: tl.constexpr,
):  # fmt: skip
    """Those of locations and weights, which are each query's own."""
    program = tl.program_id(0)
    head = program % heads
    blocks = tl.cdiv(queries, BLOCK_Q)
    image = (program // heads // blocks).to(tl.int64)
    query = program // heads % blocks * BLOCK_Q + tl.arange(0, BLOCK_Q)
    known = query < queries
    column = tl.arange(0, BLOCK_D)
    row = (image * queries + query) * heads + head
    inside = known[:, None] & (column < width)[None, :]
    dout = tl.load(DOUT + row[:, None] * width + column[None, :], inside, 0.0).to(tl.float32)
    step = heads * width
    start = VALUE + (image * pixels * heads + head) * width
    for level in tl.static_range(LEVELS):
        rows = pick(level, h0, h1, h2, h3, h4, h5, h6, h7)
        columns = pick(level, w0, w1, w2, w3, w4, w5, w6, w7)
        for point in range(points):
            at = (row * LEVELS + level) * points + point
            weight = tl.load(WEIGHTS + at, known, 0.0).to(tl.float32)
            x = tl.load(LOCATIONS + 2 * at, known, -2.0).to(tl.float32) * columns - 0.5
            y = tl.load(LOCATIONS + 2 * at + 1, known, -2.0).to(tl.float32) * rows - 0.5
            left, right_share, left_is, right_is = pixel_beside(x, columns)
            above, below_share, above_is, below_is = pixel_beside(y, rows)
            pixel = above * columns + left
            tile = pixel_tile(start, pixel, step, above_is & left_is, column, width)
            upper_left = tl.sum(dout * tile, 1)
            tile = pixel_tile(start, pixel + 1, step, above_is & right_is, column, width)
            upper_right = tl.sum(dout * tile, 1)
            tile = pixel_tile(start, pixel + columns, step, below_is & left_is, column, width)
            lower_left = tl.sum(dout * tile, 1)
            tile = pixel_tile(start, pixel + columns + 1, step, below_is & right_is, column, width)
            lower_right = tl.sum(dout * tile, 1)
            left_share, above_share = 1.0 - right_share, 1.0 - below_share
            if DWEIGHTS is not None:
                upper = left_share * upper_left + right_share * upper_right
                lower = left_share * lower_left + right_share * lower_right
                dweight = above_share * upper + below_share * lower
                tl.store(DWEIGHTS + at, dweight.to(DWEIGHTS.dtype.element_ty), known)
            if DLOCATIONS is not None:
                across = above_share * (upper_right - upper_left)
                across += below_share * (lower_right - lower_left)
                down = left_share * (lower_left - upper_left)
                down += right_share * (lower_right - upper_right)
                dx, dy = weight * columns * across, weight * rows * down
                tl.store(DLOCATIONS + 2 * at, dx.to(DLOCATIONS.dtype.element_ty), known)
                tl.store(DLOCATIONS + 2 * at + 1, dy.to(DLOCATIONS.dtype.element_ty), known)
        start += tl.cast(rows * columns, tl.int64) * step


@triton.jit
def exponent(MOST):
    """The e of the largest magnitude, which is below 2 ** e; clipped, so that 2 ** -e is finite."""
    bits = tl.load(MOST).to(tl.int32, bitcast=True)
    return tl.minimum(tl.maximum(((bits >> 23) & 0xFF) - 126, -120), 126)


@triton.jit
def is_number(MOST):
    """Whether the largest magnitude is finite."""
    return ((tl.load(MOST).to(tl.int32, bitcast=True) >> 23) & 0xFF) != 0xFF


@triton.jit
def power_of_two(e):
    """2 ** e for an e of at least -126 and at most 127."""
    return ((e + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def add_shares(SUMS, pixel, step, mask, column, width, shares):
    """SUMS[pixel] += shares, where the mask is True."""
    at = pixel.to(tl.int64)[:, None] * step + column[None, :]
    inside = mask[:, None] & (column < width)[None, :]
    tl.atomic_add(SUMS + at, shares.to(tl.int64), inside, sem="relaxed")


@triton.jit(do_not_specialize=_UNSPECIALISED)
def scatter(
    DOUT, LOCATIONS, WEIGHTS, MOST_DOUT, MOST_WEIGHT, SUMS, unit,
    pixels, queries, heads, width, points,
    h0, w0, h1, w1, h2, w2, h3, w3, h4, w4, h5, w5, h6, w6, h7, w7,
    LEVELS: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_Q: tl.constexpr,
):  # fmt: skip
    """SUMS (B, S, heads, width) int64, zeros before: ``unit`` is the most that a point can give."""
    program = tl.program_id(0)
    head = program % heads
    blocks = tl.cdiv(queries, BLOCK_Q)
    image = (program // heads // blocks).to(tl.int64)
    query = program // heads % blocks * BLOCK_Q + tl.arange(0, BLOCK_Q)
    known = query < queries
    column = tl.arange(0, BLOCK_D)
    row = (image * queries + query) * heads + head
    inside = known[:, None] & (column < width)[None, :]
    dout = tl.load(DOUT + row[:, None] * width + column[None, :], inside, 0.0).to(tl.float32)
    dout *= power_of_two(-exponent(MOST_DOUT))
    of_weight = power_of_two(-exponent(MOST_WEIGHT))
    step = heads * width
    start = SUMS + (image * pixels * heads + head) * width
    for level in tl.static_range(LEVELS):
        rows = pick(level, h0, h1, h2, h3, h4, h5, h6, h7)
        columns = pick(level, w0, w1, w2, w3, w4, w5, w6, w7)
        for point in range(points):
            at = (row * LEVELS + level) * points + point
            weight = tl.load(WEIGHTS + at, known, 0.0).to(tl.float32) * of_weight * unit
            x = tl.load(LOCATIONS + 2 * at, known, -2.0).to(tl.float32) * columns - 0.5
            y = tl.load(LOCATIONS + 2 * at + 1, known, -2.0).to(tl.float32) * rows - 0.5
            left, right_share, left_is, right_is = pixel_beside(x, columns)
            above, below_share, above_is, below_is = pixel_beside(y, rows)
            pixel = above * columns + left
            upper = weight * (1.0 - below_share)
            lower = weight * below_share
            shares = (upper * (1.0 - right_share))[:, None] * dout
            add_shares(start, pixel, step, above_is & left_is, column, width, shares)
            shares = (upper * right_share)[:, None] * dout
            add_shares(start, pixel + 1, step, above_is & right_is, column, width, shares)
            shares = (lower * (1.0 - right_share))[:, None] * dout
            add_shares(start, pixel + columns, step, below_is & left_is, column, width, shares)
            shares = (lower * right_share)[:, None] * dout
            add_shares(start, pixel + columns + 1, step, below_is & right_is, column, width, shares)
        start += tl.cast(rows * columns, tl.int64) * step


@triton.jit
def finish(SUMS, MOST_DOUT, MOST_WEIGHT, DVALUE, unit, count, BLOCK: tl.constexpr):
    """DVALUE from the sums of ``scatter``; all NaN where a gradient or a weight is not finite."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.load(SUMS + i, i < count, 0).to(tl.float32) / unit
    total *= power_of_two(exponent(MOST_DOUT))
    total *= power_of_two(exponent(MOST_WEIGHT))
    finite = is_number(MOST_DOUT) & is_number(MOST_WEIGHT)
    total = tl.where(finite, total, float("nan"))
    tl.store(DVALUE + i, total.to(DVALUE.dtype.element_ty), i < count)
