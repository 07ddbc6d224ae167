"""Patch embedding: products one of whose matrices lies in the images, patches as its rows.

Where an element of that matrix lies is a patch's place plus a pixel's place in it.
"""

import triton
import triton.language as tl

from vitkern.ops._triton.gemm_kernels import leave, multiply, place


@triton.jit
def of_patch(
    patch, grid_h, grid_w, of_image, of_row, of_column,
    PATCH_H: tl.constexpr, PATCH_W: tl.constexpr,
):  # fmt: skip
    """Offset of the first pixel of a patch."""
    image = patch // (grid_h * grid_w)
    y, x = patch // grid_w % grid_h, patch % grid_w
    return (
        image.to(tl.int64) * of_image
        + (y * PATCH_H).to(tl.int64) * of_row
        + (x * PATCH_W).to(tl.int64) * of_column
    )


@triton.jit
def of_pixel(pixel, of_channel, of_row, of_column, PATCH_H: tl.constexpr, PATCH_W: tl.constexpr):
    """Offset of a pixel (channel, row, column) from the first one of its patch."""
    channel = pixel // (PATCH_H * PATCH_W)
    y, x = pixel // PATCH_W % PATCH_H, pixel % PATCH_W
    return channel.to(tl.int64) * of_channel + y.to(tl.int64) * of_row + x * of_column


@triton.jit
def forward(
    IMAGES, B, BIAS, C, PARTIAL, M, N, K, each, grid_h, grid_w,
    of_image, of_channel, of_row, of_column, b_step, b_column, bias_step,
    PATCH_H: tl.constexpr, PATCH_W: tl.constexpr, EVEN_K: tl.constexpr, TF32: tl.constexpr,
    CLASS: tl.constexpr, DEPTH: tl.constexpr, ALIGNED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """``C (M, N) = patches (M, K) @ B (K, N) + BIAS``, or PARTIAL over ``each`` of K a program."""
    tile_m, tile_n = place(M, N, BLOCK_M, BLOCK_N, GROUP)
    row = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    at = of_patch(row, grid_h, grid_w, of_image, of_row, of_column, PATCH_H, PATCH_W)
    b_at = B + column[None, :].to(tl.int64) * b_column
    first = tl.program_id(1) * each
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in tl.range(first, tl.minimum(first + each, K), BLOCK_K, num_stages=STAGES):
        k = start + tl.arange(0, BLOCK_K)
        pixel = of_pixel(k, of_channel, of_row, of_column, PATCH_H, PATCH_W)
        rows, columns = row[:, None] < M, column[None, :] < N
        if not EVEN_K:
            rows, columns = rows & (k[None, :] < K), columns & (k[:, None] < K)
        a = tl.load(IMAGES + at[:, None] + pixel[None, :], rows, 0.0)
        b = tl.load(b_at + k[:, None].to(tl.int64) * b_step, columns, 0.0)
        acc = multiply(a, b, acc, False, TF32)
    if PARTIAL is not None:
        leave(acc, PARTIAL, row, column, M, N)
    else:
        if BIAS is not None:
            bias = tl.load(BIAS + column * bias_step, column < N, 0.0)
            acc += bias.to(tl.float32)[None, :]
        to = C + row[:, None].to(tl.int64) * N + column[None, :]
        tl.store(to, acc.to(C.dtype.element_ty), (row[:, None] < M) & (column[None, :] < N))


@triton.jit
def weight_gradient(
    A, IMAGES, C, PARTIAL, M, N, K, each, grid_h, grid_w,
    of_image, of_channel, of_row, of_column, a_row, a_step,
    PATCH_H: tl.constexpr, PATCH_W: tl.constexpr, EVEN_K: tl.constexpr, TF32: tl.constexpr,
    CLASS: tl.constexpr, DEPTH: tl.constexpr, ALIGNED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """``C (M, N) = A (M, K) @ patches (K, N)``, or PARTIAL over ``each`` of K a program."""
    tile_m, tile_n = place(M, N, BLOCK_M, BLOCK_N, GROUP)
    row = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    pixel = of_pixel(column, of_channel, of_row, of_column, PATCH_H, PATCH_W)
    a_at = A + row[:, None].to(tl.int64) * a_row
    first = tl.program_id(1) * each
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in tl.range(first, tl.minimum(first + each, K), BLOCK_K, num_stages=STAGES):
        k = start + tl.arange(0, BLOCK_K)
        at = of_patch(k, grid_h, grid_w, of_image, of_row, of_column, PATCH_H, PATCH_W)
        rows, columns = row[:, None] < M, column[None, :] < N
        if not EVEN_K:
            rows, columns = rows & (k[None, :] < K), columns & (k[:, None] < K)
        a = tl.load(a_at + k[None, :].to(tl.int64) * a_step, rows, 0.0)
        b = tl.load(IMAGES + at[:, None] + pixel[None, :], columns, 0.0)
        acc = multiply(a, b, acc, False, TF32)
    if PARTIAL is not None:
        leave(acc, PARTIAL, row, column, M, N)
    else:
        to = C + row[:, None].to(tl.int64) * N + column[None, :]
        tl.store(to, acc.to(C.dtype.element_ty), (row[:, None] < M) & (column[None, :] < N))


@triton.jit
def image_gradient(
    A, B, IMAGES, M, N, K, each, grid_h, grid_w,
    of_image, of_channel, of_row, of_column, a_row, a_step, b_step, b_column,
    PATCH_H: tl.constexpr, PATCH_W: tl.constexpr, EVEN_K: tl.constexpr, TF32: tl.constexpr,
    CLASS: tl.constexpr, DEPTH: tl.constexpr, ALIGNED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """``patches (M, N) = A (M, K) @ B (K, N)``: every pixel is of one patch."""
    tile_m, tile_n = place(M, N, BLOCK_M, BLOCK_N, GROUP)
    row = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    step = tl.arange(0, BLOCK_K)
    a_at = A + row[:, None].to(tl.int64) * a_row + step[None, :].to(tl.int64) * a_step
    b_at = B + step[:, None].to(tl.int64) * b_step + column[None, :].to(tl.int64) * b_column
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in tl.range(0, K, BLOCK_K, num_stages=STAGES):
        rows, columns = row[:, None] < M, column[None, :] < N
        if not EVEN_K:
            left = step < K - start
            rows, columns = rows & left[None, :], columns & left[:, None]
        acc = multiply(tl.load(a_at, rows, 0.0), tl.load(b_at, columns, 0.0), acc, False, TF32)
        a_at += BLOCK_K * a_step
        b_at += BLOCK_K * b_step
    at = of_patch(row, grid_h, grid_w, of_image, of_row, of_column, PATCH_H, PATCH_W)
    pixel = of_pixel(column, of_channel, of_row, of_column, PATCH_H, PATCH_W)
    to = IMAGES + at[:, None] + pixel[None, :]
    tl.store(to, acc.to(IMAGES.dtype.element_ty), (row[:, None] < M) & (column[None, :] < N))
