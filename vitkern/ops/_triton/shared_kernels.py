"""``@triton.jit`` functions that several kernels call. All of them compute in float32."""

import triton
import triton.language as tl

from vitkern.ops._cpu import ACTIVATIONS

GELU: tl.constexpr = tl.constexpr(ACTIVATIONS.index("gelu"))
GELU_TANH: tl.constexpr = tl.constexpr(ACTIVATIONS.index("gelu_tanh"))
RELU: tl.constexpr = tl.constexpr(ACTIVATIONS.index("relu"))
SILU: tl.constexpr = tl.constexpr(ACTIVATIONS.index("silu"))
QUICK_GELU: tl.constexpr = tl.constexpr(ACTIVATIONS.index("quick_gelu"))


@triton.jit
def normal_cdf(x):
    """The standard normal distribution function: 0.5 * (1 + erf(x / sqrt(2)))."""
    return 0.5 + 0.5 * tl.math.erf(x * 0.7071067811865476)


@triton.jit
def sigmoid_with_slope(x):
    """``s`` and ``s * (1 - s)``, which near 1 would have no more than the rounding error of s."""
    e = tl.exp(-tl.abs(x))  # never infinite, whatever the sign
    larger = 1.0 / (1.0 + e)
    return tl.where(x >= 0.0, larger, e * larger), e * larger * larger


@triton.jit
def activate(x, ACTIVATION: tl.constexpr):
    """The activation of that index in ``ACTIVATIONS``."""
    if ACTIVATION == GELU:
        x = x * normal_cdf(x)
    elif ACTIVATION == GELU_TANH:
        # 0.5 * (1 + tanh(u)) is sigmoid(2 u).
        x = x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    elif ACTIVATION == RELU:
        x = tl.where(x < 0.0, 0.0, x)  # a NaN stays one
    elif ACTIVATION == SILU:
        x = x * tl.sigmoid(x)
    elif ACTIVATION == QUICK_GELU:
        x = x * tl.sigmoid(1.702 * x)
    return x


@triton.jit
def slope(x, ACTIVATION: tl.constexpr):
    """The derivative of ``activate`` at ``x``; of relu at 0 it is 0, as PyTorch has it."""
    if ACTIVATION == GELU:
        x = normal_cdf(x) + x * 0.3989422804014327 * tl.exp(-0.5 * x * x)
    elif ACTIVATION == GELU_TANH:
        s, ds = sigmoid_with_slope(1.5957691216057308 * (x + 0.044715 * x * x * x))
        x = s + x * ds * 1.5957691216057308 * (1.0 + 0.134145 * x * x)
    elif ACTIVATION == RELU:
        x = tl.where(x > 0.0, 1.0, 0.0)
    elif ACTIVATION == SILU:
        s, ds = sigmoid_with_slope(x)
        x = s + x * ds
    elif ACTIVATION == QUICK_GELU:
        s, ds = sigmoid_with_slope(1.702 * x)
        x = s + 1.702 * x * ds
    else:
        x = tl.full(x.shape, 1.0, tl.float32)
    return x


@triton.jit
def column_sums(X, Y, ROWS, WIDTH, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    """``Y[c] = sum of X[:, c]`` in a fixed order. X (ROWS, WIDTH) is float32 and contiguous.

    Partial sums of other kernels' programs end here: no atomics, the same bits in every run.
    """
    columns = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for first in range(0, ROWS, BLOCK_R):
        rows = first + tl.arange(0, BLOCK_R)
        inside = (rows[:, None] < ROWS) & (columns[None, :] < WIDTH)
        total += tl.load(X + rows[:, None].to(tl.int64) * WIDTH + columns[None, :], inside, 0.0)
    tl.store(Y + columns, tl.sum(total, 0).to(Y.dtype.element_ty), columns < WIDTH)
