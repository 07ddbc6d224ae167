"""What attention kernels do with a tile of scores, on chip: softmax, its gradient, dropout.

Scores are logarithms: to base 2, where a product's scale can take up the factor ``LOG2E``, or
natural ones (``NATURAL``), where something is added that the factor could push out of float32's
range, such as a bias of ``torch.finfo.min``. A score of minus infinity is a key that is not there;
a row that has none is zeros and passes no gradient. All is float32 but the operands of products.
"""

import triton
import triton.language as tl

LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)
LN2: tl.constexpr = tl.constexpr(0.6931471805599453)
NONE: tl.constexpr = tl.constexpr(float("-inf"))


@triton.jit
def product(a, b):
    """``a @ b`` in float32; operands of float32 are multiplied as such, not in tf32."""
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def product_plus(a, b, sums):
    """``sums + a @ b``, as ``product``."""
    return tl.dot(a, b, sums, input_precision="ieee")


@triton.jit
def power(logarithms, NATURAL: tl.constexpr):
    """What these are the logarithms of."""
    if NATURAL:
        logarithms = logarithms * LOG2E
    return tl.exp2(logarithms)


@triton.jit
def softmax(scores, NATURAL: tl.constexpr):
    """``(weights, highest, total)`` of rows that are whole: weights (M, N) are before the division.

    ``highest`` and ``total`` (M,) are the rows' highest score and sum of weights.
    """
    highest = tl.max(scores, 1)
    weights = power(scores - finite(highest)[:, None], NATURAL)
    return weights, highest, tl.sum(weights, 1)


@triton.jit
def softmax_step(scores, highest, total, NATURAL: tl.constexpr):
    """``(weights, correction, highest, total)`` with another tile of the rows' scores.

    Starts from a ``highest`` of ``NONE`` and a ``total`` of 0. What was summed with the weights so
    far is to be multiplied with ``correction`` (M,).
    """
    higher = tl.maximum(highest, tl.max(scores, 1))
    base = finite(higher)
    weights = power(scores - base[:, None], NATURAL)
    correction = power(highest - base, NATURAL)
    return weights, correction, higher, total * correction + tl.sum(weights, 1)


@triton.jit
def finite(highest):
    """``highest``, and 0 for rows without a key: minus infinity from itself would be NaN."""
    return tl.where(highest == NONE, 0.0, highest)


@triton.jit
def divisor(total):
    """What the sums of weighted values are divided by: 1 for rows without a key."""
    return tl.where(total == 0.0, 1.0, total)


@triton.jit
def log_sum(highest, total, NATURAL: tl.constexpr):
    """The logarithm of each row's sum (M,), for ``weights_again``.

    For rows without a key plus infinity, from which their weights come out as zeros; backward
    kernels load it also for rows that are not there.
    """
    logarithm = tl.log2(divisor(total))
    if NATURAL:
        logarithm = logarithm * LN2
    return tl.where(total == 0.0, float("inf"), highest + logarithm)


@triton.jit
def weights_again(scores, log_sums, NATURAL: tl.constexpr):
    """The weights, divided: ``log_sums`` is what forward kept, broadcast to the scores.

    Products summed in another order than in forward can give scores beyond the sum of all; the
    limit of 1 keeps scores that are huge from making that infinite.
    """
    return power(tl.minimum(scores - log_sums, 0.0), NATURAL)


@triton.jit
def score_gradient(weights, dweights, delta):
    """The gradient of natural scores; ``delta`` is each row's sum of ``dout * out``, broadcast."""
    return weights * (dweights - delta)


@triton.jit
def mix(x):
    """A bijection of 32 bits, as ``attention/dropout.py`` has it."""
    x = x ^ (x >> 16)
    x = x * 0x7FEB352D
    x = x ^ (x >> 15)
    x = x * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def kept(seed, rows, columns, last_dropped):
    """Which weights dropout keeps, bit for bit as ``attention/dropout.py``.

    Args:
        seed: int64.
        rows, columns: of the weights, int64 and int32, broadcast against each other.
        last_dropped: the largest 32 bits that drop a weight: ``ceil(p * 2**32) - 1``.
    """
    low = rows.to(tl.uint32) * 0x85EBCA77 + seed.to(tl.uint32)
    start = low + (rows >> 32).to(tl.uint32) * 0xC2B2AE3D
    x = mix(columns.to(tl.uint32) * 0x9E3779B1 + start)
    return mix(x + (seed >> 32).to(tl.uint32)) > tl.cast(last_dropped, tl.uint32)
