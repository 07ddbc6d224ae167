"""Windows of so few positions that their scores are one tile.

A program has a head and every so many-th window: what the table adds to the scores stays in
registers from window to window, and in the backward pass so does the sum of its gradients.
"""

import triton
import triton.language as tl

from vitkern.ops._triton.attention_kernels import (
    LOG2E,
    divisor,
    product,
    score_gradient,
    softmax,
)
from vitkern.ops.window_attention.triton_kernels import (
    corner,
    load_keys,
    load_rows,
    mask_whole,
    pair_bias,
    place,
    store_rows,
    wrapped_columns,
)


@triton.jit
def whole_forward(
    QKV, TABLE, PAD, OUT,
    windows, height, width, down, across, shift_y, shift_x, scale,
    qkv_image, qkv_y, qkv_x, qkv_channel, table_row, table_head, pad_step,
    WINDOW_H: tl.constexpr, WINDOW_W: tl.constexpr, HEAD_DIM: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    SHIFTED: tl.constexpr, PADDED: tl.constexpr, PAD_FIRST: tl.constexpr, WIDE: tl.constexpr,
    PER_PROCESSOR: tl.constexpr,
):  # fmt: skip
    """OUT (B, H, W, C), contiguous. PER_PROCESSOR sets the grid: (heads, programs a head)."""
    head, heads = tl.program_id(0), tl.num_programs(0)
    i = tl.arange(0, BLOCK_N)
    bias = pair_bias(TABLE, head, i[:, None], i[None, :], table_row, table_head, WINDOW_H, WINDOW_W)
    columns = wrapped_columns(i, shift_x, WINDOW_H, WINDOW_W, SHIFTED)
    q_first = head * HEAD_DIM
    k_first = (heads + head) * HEAD_DIM
    v_first = (2 * heads + head) * HEAD_DIM
    channels = heads * HEAD_DIM
    for window in range(tl.program_id(1), windows, tl.num_programs(1)):
        image, top, left = corner(window, down, across, WINDOW_H, WINDOW_W)
        y, x, inside = place(
            i, image, top, left, height, width, down, across, shift_y, shift_x,
            WINDOW_H, WINDOW_W, SHIFTED, PADDED, PAD_FIRST, WIDE,
        )  # fmt: skip
        qkv = QKV + image * qkv_image
        qkv_at = y * qkv_y + x * qkv_x
        out_at = (y * width + x) * channels
        q = load_rows(qkv, qkv_at, inside, q_first, qkv_channel, HEAD_DIM, BLOCK_D)
        padding = (i < WINDOW_H * WINDOW_W) & (inside == 0)
        k = load_keys(qkv, qkv_at, inside, padding, k_first, qkv_channel, PAD, pad_step,
                      HEAD_DIM, BLOCK_D, PADDED)  # fmt: skip
        v = load_keys(qkv, qkv_at, inside, padding, v_first, qkv_channel, PAD, pad_step,
                      HEAD_DIM, BLOCK_D, PADDED)  # fmt: skip
        s = product(q, tl.trans(k)) * (scale * LOG2E) + bias
        s = mask_whole(s, i, columns, top, left, down, across, shift_y,
                       WINDOW_H, WINDOW_W, SHIFTED)  # fmt: skip
        p, _, total = softmax(s, False)
        out = product(p.to(v.dtype), v) / divisor(total)[:, None]
        to = OUT + image * height * width * channels
        store_rows(to, out, out_at, inside, q_first, HEAD_DIM, BLOCK_D)


@triton.jit
def whole_backward(
    DOUT, QKV, TABLE, PAD, DQKV, DSCORES, PARTIAL_PAD,
    windows, height, width, down, across, shift_y, shift_x, scale,
    dout_image, dout_y, dout_x, dout_channel,
    qkv_image, qkv_y, qkv_x, qkv_channel, table_row, table_head, pad_step,
    WINDOW_H: tl.constexpr, WINDOW_W: tl.constexpr, HEAD_DIM: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    SHIFTED: tl.constexpr, PADDED: tl.constexpr, PAD_FIRST: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """DQKV (B, H, W, 3C), contiguous; sums over a program's windows of what is owed to the scores,
    DSCORES (programs, heads, N, N), and to the padded positions, PARTIAL_PAD (programs, 3C)."""
    head, heads = tl.program_id(0), tl.num_programs(0)
    i = tl.arange(0, BLOCK_N)
    real = i < WINDOW_H * WINDOW_W
    bias = pair_bias(TABLE, head, i[:, None], i[None, :], table_row, table_head, WINDOW_H, WINDOW_W)
    columns = wrapped_columns(i, shift_x, WINDOW_H, WINDOW_W, SHIFTED)
    q_first = head * HEAD_DIM
    k_first = (heads + head) * HEAD_DIM
    v_first = (2 * heads + head) * HEAD_DIM
    channels = heads * HEAD_DIM
    if DSCORES is not None:
        dscores = tl.zeros((BLOCK_N, BLOCK_N), tl.float32)
    if PARTIAL_PAD is not None:
        dk_pad = tl.zeros((BLOCK_D,), tl.float32)
        dv_pad = tl.zeros((BLOCK_D,), tl.float32)
    for window in range(tl.program_id(1), windows, tl.num_programs(1)):
        image, top, left = corner(window, down, across, WINDOW_H, WINDOW_W)
        y, x, inside = place(
            i, image, top, left, height, width, down, across, shift_y, shift_x,
            WINDOW_H, WINDOW_W, SHIFTED, PADDED, PAD_FIRST, WIDE,
        )  # fmt: skip
        qkv = QKV + image * qkv_image
        qkv_at = y * qkv_y + x * qkv_x
        upstream = DOUT + image * dout_image
        dout_at = y * dout_y + x * dout_x
        grad_at = (y * width + x) * (3 * channels)
        to = DQKV
        if DQKV is not None:
            to = DQKV + image * height * width * (3 * channels)
        padding = real & (inside == 0)
        q = load_rows(qkv, qkv_at, inside, q_first, qkv_channel, HEAD_DIM, BLOCK_D)
        k = load_keys(qkv, qkv_at, inside, padding, k_first, qkv_channel, PAD, pad_step,
                      HEAD_DIM, BLOCK_D, PADDED)  # fmt: skip
        s = product(q, tl.trans(k)) * (scale * LOG2E) + bias
        s = mask_whole(s, i, columns, top, left, down, across, shift_y,
                       WINDOW_H, WINDOW_W, SHIFTED)  # fmt: skip
        p, _, total = softmax(s, False)
        p = p / divisor(total)[:, None]
        # Each gradient is written as soon as it is there: registers are what is short.
        dout = load_rows(upstream, dout_at, inside, q_first, dout_channel, HEAD_DIM, BLOCK_D)
        if DQKV is not None or PARTIAL_PAD is not None:
            dv = product(tl.trans(p.to(q.dtype)), dout)
            if PARTIAL_PAD is not None:
                dv_pad += tl.sum(tl.where(padding[:, None], dv, 0.0), 0)
            if DQKV is not None:
                store_rows(to, dv, grad_at, inside, v_first, HEAD_DIM, BLOCK_D)
        v = load_keys(qkv, qkv_at, inside, padding, v_first, qkv_channel, PAD, pad_step,
                      HEAD_DIM, BLOCK_D, PADDED)  # fmt: skip
        # Rows of padded queries are zero from here on, since nothing is owed to what they gave.
        dp = product(dout, tl.trans(v))
        ds = score_gradient(p, dp, tl.sum(p * dp, 1)[:, None])
        if DSCORES is not None:
            dscores += ds
        if DQKV is not None or PARTIAL_PAD is not None:
            dk = product(tl.trans(ds.to(q.dtype)), q) * scale
            if PARTIAL_PAD is not None:
                dk_pad += tl.sum(tl.where(padding[:, None], dk, 0.0), 0)
            if DQKV is not None:
                store_rows(to, dk, grad_at, inside, k_first, HEAD_DIM, BLOCK_D)
                dq = product(ds.to(q.dtype), k) * scale
                store_rows(to, dq, grad_at, inside, q_first, HEAD_DIM, BLOCK_D)
    program = tl.program_id(1).to(tl.int64)
    if DSCORES is not None:
        row = ((program * heads + head) * (WINDOW_H * WINDOW_W) + i) * (WINDOW_H * WINDOW_W)
        tl.store(DSCORES + row[:, None] + i[None, :], dscores, real[:, None] & real[None, :])
    if PARTIAL_PAD is not None:
        d = tl.arange(0, BLOCK_D)
        to = PARTIAL_PAD + program * (3 * channels) + d
        tl.store(to + q_first, tl.zeros((BLOCK_D,), tl.float32), d < HEAD_DIM)
        tl.store(to + k_first, dk_pad, d < HEAD_DIM)
        tl.store(to + v_first, dv_pad, d < HEAD_DIM)
