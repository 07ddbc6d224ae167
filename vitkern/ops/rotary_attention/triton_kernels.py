"""What is done to queries and keys before attention, one pass over each; and its gradient.

Rows are numbered as they lie in the output, a contiguous (B, N, heads, head_dim). A row's pairs are
elements ``d`` and ``partner(d)``: where they are rotated, every element is loaded for itself and
as a partner, the second time from the first-level cache.
"""

import triton
import triton.language as tl

from vitkern.ops.rotary_attention import call

LAYER: tl.constexpr = tl.constexpr(call.NORMS.index("layer"))
HALVES: tl.constexpr = tl.constexpr(call.HALVES)
INTERLEAVED: tl.constexpr = tl.constexpr(call.INTERLEAVED)


@triton.jit
def partner(d, HEAD_DIM: tl.constexpr, ROTATION: tl.constexpr):
    """The other element of each pair, and the sign of its sine in the element itself."""
    if ROTATION == INTERLEAVED:
        first = d % 2 == 0
        other = tl.where(first, d + 1, d - 1)
    else:
        first = d < HEAD_DIM // 2
        other = tl.where(first, d + HEAD_DIM // 2, d - HEAD_DIM // 2)
    return other, tl.where(first, -1.0, 1.0)


@triton.jit
def split(row, heads, length):
    """Image, position and head (int64) of numbers of rows."""
    row = row.to(tl.int64)
    return row // heads // length, row // heads % length, row % heads


@triton.jit
def load_tile(X, start, d, step, inside):
    """Elements ``d`` of rows that begin at ``start``, in float32; zeros where there are none."""
    return tl.load(X + start[:, None] + d[None, :] * step, inside, 0.0).to(tl.float32)


@triton.jit
def statistics(x, inside, eps, HEAD_DIM: tl.constexpr, NORM: tl.constexpr):
    """Each row's mean, which an rms norm takes as 0, and what its difference is multiplied by."""
    mean = tl.zeros((x.shape[0],), tl.float32)
    if NORM == LAYER:
        mean = tl.div_rn(tl.sum(x, 1), tl.cast(HEAD_DIM, tl.float32))
    centred = tl.where(inside, x - mean[:, None], 0.0)
    return mean, tl.math.rsqrt(tl.sum(centred * centred, 1) / HEAD_DIM + eps)


@triton.jit
def scaled(x, WEIGHT, BIAS, d, known, weight_step, bias_step):
    """A normal ``x`` times the norm's weight plus its bias, of elements ``d``."""
    if WEIGHT is not None:
        x *= tl.load(WEIGHT + d * weight_step, known, 0.0).to(tl.float32)[None, :]
    if BIAS is not None:
        x += tl.load(BIAS + d * bias_step, known, 0.0).to(tl.float32)[None, :]
    return x


@triton.jit
def prepare(
    X, WEIGHT, BIAS, SIN, COS, OUT,
    rows, heads, length, still, eps, x_image, x_head, x_row, x_column, weight_step, bias_step,
    sin_image, sin_head, sin_row, sin_column, cos_image, cos_head, cos_row, cos_column,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, NORM: tl.constexpr, ROTATION: tl.constexpr,
    BLOCK_R: tl.constexpr,
):  # fmt: skip
    """OUT from X (B, heads, N, head_dim) of any strides; the first ``still`` positions stay."""
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    d = tl.arange(0, BLOCK_D)
    known = d < HEAD_DIM
    inside = (row < rows)[:, None] & known[None, :]
    image, position, head = split(row, heads, length)
    start = image * x_image + position * x_row + head * x_head
    x = load_tile(X, start, d, x_column, inside)
    if NORM:
        mean, scale = statistics(x, inside, eps, HEAD_DIM, NORM)
        x = (x - mean[:, None]) * scale[:, None]
        x = scaled(x, WEIGHT, BIAS, d, known, weight_step, bias_step)
    if ROTATION:
        other, sign = partner(d, HEAD_DIM, ROTATION)
        y = load_tile(X, start, other, x_column, inside)
        if NORM:
            y = (y - mean[:, None]) * scale[:, None]
            y = scaled(y, WEIGHT, BIAS, other, known, weight_step, bias_step)
        moves = inside & (position >= still)[:, None]
        of_sin = image * sin_image + head * sin_head + (position - still) * sin_row
        of_cos = image * cos_image + head * cos_head + (position - still) * cos_row
        sin = load_tile(SIN, of_sin, d, sin_column, moves)
        cos = load_tile(COS, of_cos, d, cos_column, moves)
        x = tl.where(moves, x * cos + sign[None, :] * y * sin, x)
    at = row[:, None].to(tl.int64) * HEAD_DIM + d[None, :]
    tl.store(OUT + at, x.to(OUT.dtype.element_ty), inside)


@triton.jit
def prepare_backward(
    DOUT, X, WEIGHT, SIN, COS, DX, PARTIAL_WEIGHT, PARTIAL_BIAS,
    rows, each, heads, length, still, eps,
    x_image, x_head, x_row, x_column, weight_step,
    sin_image, sin_head, sin_row, sin_column, cos_image, cos_head, cos_row, cos_column,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, NORM: tl.constexpr, ROTATION: tl.constexpr,
    BLOCK_R: tl.constexpr,
):  # fmt: skip
    """DX, where it is not None, from DOUT; both are laid out as OUT of ``prepare``.

    A program has ``each`` rows and leaves, for the norm's parameters, sums over them (head_dim,).
    """
    d = tl.arange(0, BLOCK_D)
    known = d < HEAD_DIM
    dweight = tl.zeros((BLOCK_R, BLOCK_D), tl.float32)
    dbias = tl.zeros((BLOCK_R, BLOCK_D), tl.float32)
    weight = tl.full((BLOCK_D,), 1.0, tl.float32)
    if WEIGHT is not None:
        weight = tl.load(WEIGHT + d * weight_step, known, 0.0).to(tl.float32)
    first = tl.program_id(0) * each
    last = tl.minimum(first + each, rows)
    for begin in range(first, last, BLOCK_R):
        row = begin + tl.arange(0, BLOCK_R)
        inside = (row < last)[:, None] & known[None, :]
        image, position, head = split(row, heads, length)
        at = row.to(tl.int64) * HEAD_DIM
        g = load_tile(DOUT, at, d, 1, inside)
        if ROTATION:
            # The rotation back: what the partner's sine took this element for has the other sign.
            other, sign = partner(d, HEAD_DIM, ROTATION)
            moves = inside & (position >= still)[:, None]
            of_sin = image * sin_image + head * sin_head + (position - still) * sin_row
            of_cos = image * cos_image + head * cos_head + (position - still) * cos_row
            sin = load_tile(SIN, of_sin, other, sin_column, moves)
            cos = load_tile(COS, of_cos, d, cos_column, moves)
            h = load_tile(DOUT, at, other, 1, inside)
            g = tl.where(moves, g * cos - sign[None, :] * h * sin, g)
        if NORM:
            start = image * x_image + position * x_row + head * x_head
            x = load_tile(X, start, d, x_column, inside)
            mean, scale = statistics(x, inside, eps, HEAD_DIM, NORM)
            normal = tl.where(inside, (x - mean[:, None]) * scale[:, None], 0.0)
            dweight += g * normal
            dbias += g
            g *= weight[None, :]
            part = tl.sum(g * normal, 1) / HEAD_DIM
            dx = g - normal * part[:, None]
            if NORM == LAYER:
                dx -= tl.sum(g, 1)[:, None] / HEAD_DIM
            g = dx * scale[:, None]
        if DX is not None:
            tl.store(DX + at[:, None] + d[None, :], g.to(DX.dtype.element_ty), inside)
    to = tl.program_id(0).to(tl.int64) * HEAD_DIM + d
    if PARTIAL_WEIGHT is not None:
        tl.store(PARTIAL_WEIGHT + to, tl.sum(dweight, 0), known)
    if PARTIAL_BIAS is not None:
        tl.store(PARTIAL_BIAS + to, tl.sum(dbias, 0), known)
