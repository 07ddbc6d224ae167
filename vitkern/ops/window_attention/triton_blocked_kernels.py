"""Windows of any size: blocks of queries against blocks of keys.

Each program has one window and one head, but for ``blocked_backward_scores``, which sums over
windows what is owed to one tile of scores.
"""

import triton
import triton.language as tl

from vitkern.ops._triton.attention_kernels import (
    LOG2E,
    NONE,
    divisor,
    log_sum,
    product,
    product_plus,
    score_gradient,
    softmax_step,
    weights_again,
)
from vitkern.ops.window_attention.triton_kernels import (
    corner,
    load_keys,
    load_rows,
    mask,
    pair_bias,
    place,
    store_rows,
    wrapped,
)


@triton.jit
def blocked_forward(
    QKV, TABLE, PAD, OUT, LOG_SUMS,
    heads, height, width, down, across, shift_y, shift_x, scale,
    qkv_image, qkv_y, qkv_x, qkv_channel, table_row, table_head, pad_step,
    WINDOW_H: tl.constexpr, WINDOW_W: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    SHIFTED: tl.constexpr, PADDED: tl.constexpr, PAD_FIRST: tl.constexpr, WIDE: tl.constexpr,
    SAVE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """OUT (B, H, W, C), contiguous, and LOG_SUMS (windows, heads, N). Programs: blocks of queries
    of a head, heads of a window, windows."""
    N: tl.constexpr = WINDOW_H * WINDOW_W
    blocks: tl.constexpr = (N + BLOCK_M - 1) // BLOCK_M
    i = tl.program_id(0) % blocks * BLOCK_M + tl.arange(0, BLOCK_M)
    head = tl.program_id(0) // blocks % heads
    window = tl.program_id(0) // blocks // heads
    of_query = wrapped(i, shift_y, shift_x, WINDOW_H, WINDOW_W, SHIFTED)
    q_first = head * HEAD_DIM
    k_first = (heads + head) * HEAD_DIM
    v_first = (2 * heads + head) * HEAD_DIM
    channels = heads * HEAD_DIM
    image, top, left = corner(window, down, across, WINDOW_H, WINDOW_W)
    y, x, inside = place(
        i, image, top, left, height, width, down, across, shift_y, shift_x,
        WINDOW_H, WINDOW_W, SHIFTED, PADDED, PAD_FIRST, WIDE,
    )  # fmt: skip
    qkv = QKV + image * qkv_image
    qkv_at = y * qkv_y + x * qkv_x
    out_at = (y * width + x) * channels
    q = load_rows(qkv, qkv_at, inside, q_first, qkv_channel, HEAD_DIM, BLOCK_D)
    highest = tl.full((BLOCK_M,), NONE, tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    out = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for start in range(0, N, BLOCK_N):
        j = start + tl.arange(0, BLOCK_N)
        k_y, k_x, k_inside = place(
            j, image, top, left, height, width, down, across, shift_y, shift_x,
            WINDOW_H, WINDOW_W, SHIFTED, PADDED, PAD_FIRST, WIDE,
        )  # fmt: skip
        k_qkv_at = k_y * qkv_y + k_x * qkv_x
        padding = (j < N) & (k_inside == 0)
        k = load_keys(qkv, k_qkv_at, k_inside, padding, k_first, qkv_channel, PAD, pad_step,
                      HEAD_DIM, BLOCK_D, PADDED)  # fmt: skip
        v = load_keys(qkv, k_qkv_at, k_inside, padding, v_first, qkv_channel, PAD, pad_step,
                      HEAD_DIM, BLOCK_D, PADDED)  # fmt: skip
        of_key = wrapped(j, shift_y, shift_x, WINDOW_H, WINDOW_W, SHIFTED)
        s = product(q, tl.trans(k)) * (scale * LOG2E) + pair_bias(
            TABLE, head, i[:, None], j[None, :], table_row, table_head, WINDOW_H, WINDOW_W
        )
        s = mask(s, of_query[:, None], of_key[None, :], top, left, down, across,
                 WINDOW_H, WINDOW_W, SHIFTED)  # fmt: skip
        p, correction, highest, total = softmax_step(s, highest, total, False)
        out = product_plus(p.to(v.dtype), v, out * correction[:, None])
    out = out / divisor(total)[:, None]
    to = OUT + image * height * width * channels
    store_rows(to, out, out_at, inside, q_first, HEAD_DIM, BLOCK_D)
    if SAVE:
        row = (tl.cast(window, tl.int64) * heads + head) * N + i
        tl.store(LOG_SUMS + row, log_sum(highest, total, False), i < N)


@triton.jit
def blocked_backward_queries(
    DOUT, OUT, LOG_SUMS, QKV, TABLE, PAD, DQKV, DELTA,
    heads, height, width, down, across, shift_y, shift_x, scale,
    dout_image, dout_y, dout_x, dout_channel,
    qkv_image, qkv_y, qkv_x, qkv_channel, table_row, table_head, pad_step,
    WINDOW_H: tl.constexpr, WINDOW_W: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    SHIFTED: tl.constexpr, PADDED: tl.constexpr, PAD_FIRST: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The queries' part of DQKV, where it is not None, and DELTA (windows, heads, N): each query's
    sum of ``dout * out``. Programs as of the forward kernel."""
    N: tl.constexpr = WINDOW_H * WINDOW_W
    blocks: tl.constexpr = (N + BLOCK_M - 1) // BLOCK_M
    i = tl.program_id(0) % blocks * BLOCK_M + tl.arange(0, BLOCK_M)
    head = tl.program_id(0) // blocks % heads
    window = tl.program_id(0) // blocks // heads
    of_query = wrapped(i, shift_y, shift_x, WINDOW_H, WINDOW_W, SHIFTED)
    q_first = head * HEAD_DIM
    k_first = (heads + head) * HEAD_DIM
    v_first = (2 * heads + head) * HEAD_DIM
    channels = heads * HEAD_DIM
    image, top, left = corner(window, down, across, WINDOW_H, WINDOW_W)
    y, x, inside = place(
        i, image, top, left, height, width, down, across, shift_y, shift_x,
        WINDOW_H, WINDOW_W, SHIFTED, PADDED, PAD_FIRST, WIDE,
    )  # fmt: skip
    qkv = QKV + image * qkv_image
    qkv_at = y * qkv_y + x * qkv_x
    upstream = DOUT + image * dout_image
    dout_at = y * dout_y + x * dout_x
    position = y * width + x
    grad_at = position * (3 * channels)
    dout = load_rows(upstream, dout_at, inside, q_first, dout_channel, HEAD_DIM, BLOCK_D)
    given = OUT + image * height * width * channels
    out = load_rows(given, position * channels, inside, q_first, 1, HEAD_DIM, BLOCK_D)
    delta = tl.sum(dout.to(tl.float32) * out.to(tl.float32), 1)
    row = (tl.cast(window, tl.int64) * heads + head) * N + i
    tl.store(DELTA + row, delta, i < N)
    if DQKV is not None:
        log_sums = tl.load(LOG_SUMS + row, i < N, float("inf"))
        q = load_rows(qkv, qkv_at, inside, q_first, qkv_channel, HEAD_DIM, BLOCK_D)
        dq = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
        for start in range(0, N, BLOCK_N):
            j = start + tl.arange(0, BLOCK_N)
            k_y, k_x, k_inside = place(
                j, image, top, left, height, width, down, across, shift_y, shift_x,
                WINDOW_H, WINDOW_W, SHIFTED, PADDED, PAD_FIRST, WIDE,
            )  # fmt: skip
            k_qkv_at = k_y * qkv_y + k_x * qkv_x
            padding = (j < N) & (k_inside == 0)
            k = load_keys(qkv, k_qkv_at, k_inside, padding, k_first, qkv_channel, PAD, pad_step,
                          HEAD_DIM, BLOCK_D, PADDED)  # fmt: skip
            v = load_keys(qkv, k_qkv_at, k_inside, padding, v_first, qkv_channel, PAD, pad_step,
                          HEAD_DIM, BLOCK_D, PADDED)  # fmt: skip
            of_key = wrapped(j, shift_y, shift_x, WINDOW_H, WINDOW_W, SHIFTED)
            s = product(q, tl.trans(k)) * (scale * LOG2E) + pair_bias(
                TABLE, head, i[:, None], j[None, :], table_row, table_head, WINDOW_H, WINDOW_W
            )
            s = mask(s, of_query[:, None], of_key[None, :], top, left, down, across,
                     WINDOW_H, WINDOW_W, SHIFTED)  # fmt: skip
            p = weights_again(s, log_sums[:, None], False)
            ds = score_gradient(p, product(dout, tl.trans(v)), delta[:, None])
            dq = product_plus(ds.to(k.dtype), k, dq)
        to = DQKV + image * height * width * (3 * channels)
        store_rows(to, dq * scale, grad_at, inside, q_first, HEAD_DIM, BLOCK_D)


@triton.jit
def blocked_backward_keys(
    DOUT, LOG_SUMS, DELTA, QKV, TABLE, PAD, DQKV, PARTIAL_PAD,
    heads, height, width, down, across, shift_y, shift_x, scale,
    dout_image, dout_y, dout_x, dout_channel,
    qkv_image, qkv_y, qkv_x, qkv_channel, table_row, table_head, pad_step,
    WINDOW_H: tl.constexpr, WINDOW_W: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    SHIFTED: tl.constexpr, PADDED: tl.constexpr, PAD_FIRST: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """The keys' and values' part of DQKV, and PARTIAL_PAD (windows, blocks, 3C): what is owed to
    their padded positions. Programs: blocks of keys of a head, heads of a window, windows."""
    N: tl.constexpr = WINDOW_H * WINDOW_W
    blocks: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    block = tl.program_id(0) % blocks
    head = tl.program_id(0) // blocks % heads
    window = tl.program_id(0) // blocks // heads
    j = block * BLOCK_N + tl.arange(0, BLOCK_N)
    of_key = wrapped(j, shift_y, shift_x, WINDOW_H, WINDOW_W, SHIFTED)
    q_first = head * HEAD_DIM
    k_first = (heads + head) * HEAD_DIM
    v_first = (2 * heads + head) * HEAD_DIM
    channels = heads * HEAD_DIM
    image, top, left = corner(window, down, across, WINDOW_H, WINDOW_W)
    y, x, inside = place(
        j, image, top, left, height, width, down, across, shift_y, shift_x,
        WINDOW_H, WINDOW_W, SHIFTED, PADDED, PAD_FIRST, WIDE,
    )  # fmt: skip
    qkv = QKV + image * qkv_image
    upstream = DOUT + image * dout_image
    qkv_at = y * qkv_y + x * qkv_x
    grad_at = (y * width + x) * (3 * channels)
    padding = (j < N) & (inside == 0)
    k = load_keys(qkv, qkv_at, inside, padding, k_first, qkv_channel, PAD, pad_step,
                  HEAD_DIM, BLOCK_D, PADDED)  # fmt: skip
    v = load_keys(qkv, qkv_at, inside, padding, v_first, qkv_channel, PAD, pad_step,
                  HEAD_DIM, BLOCK_D, PADDED)  # fmt: skip
    dk = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    dv = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for start in range(0, N, BLOCK_M):
        i = start + tl.arange(0, BLOCK_M)
        q_y, q_x, q_inside = place(
            i, image, top, left, height, width, down, across, shift_y, shift_x,
            WINDOW_H, WINDOW_W, SHIFTED, PADDED, PAD_FIRST, WIDE,
        )  # fmt: skip
        q_qkv_at = q_y * qkv_y + q_x * qkv_x
        q_dout_at = q_y * dout_y + q_x * dout_x
        q = load_rows(qkv, q_qkv_at, q_inside, q_first, qkv_channel, HEAD_DIM, BLOCK_D)
        dout = load_rows(upstream, q_dout_at, q_inside, q_first, dout_channel, HEAD_DIM, BLOCK_D)
        row = (tl.cast(window, tl.int64) * heads + head) * N + i
        log_sums = tl.load(LOG_SUMS + row, i < N, float("inf"))
        delta = tl.load(DELTA + row, i < N, 0.0)
        # Keys down, queries across: so the weights are left operands of both sums.
        of_query = wrapped(i, shift_y, shift_x, WINDOW_H, WINDOW_W, SHIFTED)
        s = product(k, tl.trans(q)) * (scale * LOG2E) + pair_bias(
            TABLE, head, i[None, :], j[:, None], table_row, table_head, WINDOW_H, WINDOW_W
        )
        s = mask(s, of_query[None, :], of_key[:, None], top, left, down, across,
                 WINDOW_H, WINDOW_W, SHIFTED)  # fmt: skip
        p = weights_again(s, log_sums[None, :], False)
        dv = product_plus(p.to(dout.dtype), dout, dv)
        ds = score_gradient(p, product(v, tl.trans(dout)), delta[None, :])
        dk = product_plus(ds.to(q.dtype), q, dk)
    dk = dk * scale
    if DQKV is not None:
        to = DQKV + image * height * width * (3 * channels)
        store_rows(to, dk, grad_at, inside, k_first, HEAD_DIM, BLOCK_D)
        store_rows(to, dv, grad_at, inside, v_first, HEAD_DIM, BLOCK_D)
    if PARTIAL_PAD is not None:
        d = tl.arange(0, BLOCK_D)
        to = PARTIAL_PAD + (tl.cast(window, tl.int64) * blocks + block) * (3 * channels) + d
        tl.store(to + q_first, tl.zeros((BLOCK_D,), tl.float32), d < HEAD_DIM)
        tl.store(to + k_first, tl.sum(tl.where(padding[:, None], dk, 0.0), 0), d < HEAD_DIM)
        tl.store(to + v_first, tl.sum(tl.where(padding[:, None], dv, 0.0), 0), d < HEAD_DIM)


@triton.jit
def blocked_backward_scores(
    DOUT, LOG_SUMS, DELTA, QKV, TABLE, PAD, DSCORES,
    windows, heads, height, width, down, across, shift_y, shift_x, scale,
    dout_image, dout_y, dout_x, dout_channel,
    qkv_image, qkv_y, qkv_x, qkv_channel, table_row, table_head, pad_step,
    WINDOW_H: tl.constexpr, WINDOW_W: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    SHIFTED: tl.constexpr, PADDED: tl.constexpr, PAD_FIRST: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """DSCORES (programs, heads, N, N): sums over every so many-th window of what is owed to the
    scores. Programs: tiles of a head's scores, heads; programs a tile."""
    N: tl.constexpr = WINDOW_H * WINDOW_W
    rows: tl.constexpr = (N + BLOCK_M - 1) // BLOCK_M
    columns: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    i = tl.program_id(0) // columns % rows * BLOCK_M + tl.arange(0, BLOCK_M)
    j = tl.program_id(0) % columns * BLOCK_N + tl.arange(0, BLOCK_N)
    head = tl.program_id(0) // (rows * columns)
    of_query = wrapped(i, shift_y, shift_x, WINDOW_H, WINDOW_W, SHIFTED)
    of_key = wrapped(j, shift_y, shift_x, WINDOW_H, WINDOW_W, SHIFTED)
    q_first = head * HEAD_DIM
    k_first = (heads + head) * HEAD_DIM
    v_first = (2 * heads + head) * HEAD_DIM
    bias = pair_bias(TABLE, head, i[:, None], j[None, :], table_row, table_head, WINDOW_H, WINDOW_W)
    dscores = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for window in range(tl.program_id(1), windows, tl.num_programs(1)):
        image, top, left = corner(window, down, across, WINDOW_H, WINDOW_W)
        q_y, q_x, q_inside = place(
            i, image, top, left, height, width, down, across, shift_y, shift_x,
            WINDOW_H, WINDOW_W, SHIFTED, PADDED, PAD_FIRST, WIDE,
        )  # fmt: skip
        qkv = QKV + image * qkv_image
        q_qkv_at = q_y * qkv_y + q_x * qkv_x
        upstream = DOUT + image * dout_image
        q_dout_at = q_y * dout_y + q_x * dout_x
        y, x, inside = place(
            j, image, top, left, height, width, down, across, shift_y, shift_x,
            WINDOW_H, WINDOW_W, SHIFTED, PADDED, PAD_FIRST, WIDE,
        )  # fmt: skip
        qkv_at = y * qkv_y + x * qkv_x
        q = load_rows(qkv, q_qkv_at, q_inside, q_first, qkv_channel, HEAD_DIM, BLOCK_D)
        dout = load_rows(upstream, q_dout_at, q_inside, q_first, dout_channel, HEAD_DIM, BLOCK_D)
        padding = (j < N) & (inside == 0)
        k = load_keys(qkv, qkv_at, inside, padding, k_first, qkv_channel, PAD, pad_step,
                      HEAD_DIM, BLOCK_D, PADDED)  # fmt: skip
        v = load_keys(qkv, qkv_at, inside, padding, v_first, qkv_channel, PAD, pad_step,
                      HEAD_DIM, BLOCK_D, PADDED)  # fmt: skip
        row = (tl.cast(window, tl.int64) * heads + head) * N + i
        log_sums = tl.load(LOG_SUMS + row, i < N, float("inf"))
        delta = tl.load(DELTA + row, i < N, 0.0)
        s = product(q, tl.trans(k)) * (scale * LOG2E) + bias
        s = mask(s, of_query[:, None], of_key[None, :], top, left, down, across,
                 WINDOW_H, WINDOW_W, SHIFTED)  # fmt: skip
        p = weights_again(s, log_sums[:, None], False)
        dscores += score_gradient(p, product(dout, tl.trans(v)), delta[:, None])
    to = ((tl.program_id(1).to(tl.int64) * heads + head) * N + i) * N
    tl.store(DSCORES + to[:, None] + j[None, :], dscores, (i < N)[:, None] & (j < N)[None, :])
