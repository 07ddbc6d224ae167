"""Attention: a program has a block of queries (or of keys) and goes over the keys (queries).

Tensors of queries and keys have any strides; outputs, their upstream gradient apart, are contiguous
(B, N, heads, head_dim). Programs of one image and head are neighbours, so that they share its keys
in the cache. Offsets within a tile are 32 bits, those of a tile 64.
"""

import triton
import triton.language as tl

from vitkern.ops._triton.attention_kernels import (
    NONE,
    divisor,
    kept,
    log_sum,
    product,
    product_plus,
    score_gradient,
    softmax,
    softmax_step,
    weights_again,
)


@triton.jit
def place(X, first, row, column, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    """Pointers (BLOCK_R, BLOCK_C) to the rows from ``first`` of a matrix with these strides."""
    rows, columns = tl.arange(0, BLOCK_R), tl.arange(0, BLOCK_C)
    start = X + tl.cast(first, tl.int64) * row
    return start + rows[:, None] * row + columns[None, :] * column


@triton.jit
def inside(first, count, BLOCK_R: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """Which elements of a tile of rows are there: the first ``count`` rows of the matrix are."""
    known = (first + tl.arange(0, BLOCK_R) < count)[:, None]
    if HEAD_DIM != BLOCK_D:
        known = known & (tl.arange(0, BLOCK_D) < HEAD_DIM)[None, :]
    return known


@triton.jit
def tile(
    X, first, count, row, column,
    BLOCK_R: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Rows of q, k or v (BLOCK_R, BLOCK_D), zeros beyond their end."""
    known = inside(first, count, BLOCK_R, HEAD_DIM, BLOCK_D)
    return tl.load(place(X, first, row, column, BLOCK_R, BLOCK_D), known, 0.0)


@triton.jit
def store(
    X, value, image, head, heads, first, count,
    BLOCK_R: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Write a tile of rows of a contiguous (B, count, heads, head_dim)."""
    start = X + (tl.cast(image, tl.int64) * count * heads + head) * HEAD_DIM
    known = inside(first, count, BLOCK_R, HEAD_DIM, BLOCK_D)
    at = place(start, first, heads * HEAD_DIM, 1, BLOCK_R, BLOCK_D)
    tl.store(at, value.to(X.dtype.element_ty), known)


@triton.jit
def plus_bias(
    scores, BIAS, rows_first, columns_first, rows_count, columns_count, row, column,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """``scores`` and their tile of the bias, where there is one."""
    if BIAS is not None:
        start = BIAS + tl.cast(columns_first, tl.int64) * column
        known = (rows_first + tl.arange(0, BLOCK_R) < rows_count)[:, None]
        known = known & (columns_first + tl.arange(0, BLOCK_C) < columns_count)[None, :]
        at = place(start, rows_first, row, column, BLOCK_R, BLOCK_C)
        scores += tl.load(at, known, 0.0).to(tl.float32)
    return scores


@triton.jit
def known_keys(MASK, first, keys, mask_key, BLOCK_N: tl.constexpr):
    """Which keys of a tile (BLOCK_N,) are there and not padding."""
    columns = first + tl.arange(0, BLOCK_N)
    known = columns < keys
    if MASK is not None:
        known = known & (tl.load(MASK + columns.to(tl.int64) * mask_key, known, 1) == 0)
    return known


@triton.jit
def forward(
    Q, K, V, BIAS, MASK, SEED, OUT, LSE,
    heads, queries, keys, factor, last_dropped, enlarge,
    q_image, q_head, q_row, q_column, k_image, k_head, k_row, k_column,
    v_image, v_head, v_row, v_column, bias_image, bias_head, bias_row, bias_column,
    mask_image, mask_key,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, NATURAL: tl.constexpr, DROPS: tl.constexpr,
    SAVE: tl.constexpr, WHOLE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """OUT, and LSE (B, heads, queries): the logarithms of the rows' sums.

    ``factor`` makes logarithms of products: to base 2, but natural ones beside a bias. ``enlarge``
    is 1 / (1 - dropout_p). A BLOCK_N of WHOLE has all keys: softmax takes one pass.
    """
    blocks = tl.cdiv(queries, BLOCK_M)
    pair, first = tl.program_id(0) // blocks, tl.program_id(0) % blocks * BLOCK_M
    image, head = (pair // heads).to(tl.int64), (pair % heads).to(tl.int64)
    K += image * k_image + head * k_head
    V += image * v_image + head * v_head
    if BIAS is not None:
        BIAS += image * bias_image + head * bias_head
    if MASK is not None:
        MASK += image * mask_image
    q = tile(
        Q + image * q_image + head * q_head, first, queries, q_row, q_column,
        BLOCK_M, HEAD_DIM, BLOCK_D,
    )  # fmt: skip
    rows = first + tl.arange(0, BLOCK_M)
    numbers = pair.to(tl.int64) * queries + rows
    if BLOCK_N == WHOLE:
        k = tile(K, 0, keys, k_row, k_column, BLOCK_N, HEAD_DIM, BLOCK_D)
        scores = plus_bias(
            product(q, tl.trans(k)) * factor, BIAS, first, 0, queries, keys, bias_row, bias_column,
            BLOCK_M, BLOCK_N,
        )  # fmt: skip
        known = known_keys(MASK, 0, keys, mask_key, BLOCK_N)
        scores = tl.where(known[None, :], scores, NONE)
        weights, highest, total = softmax(scores, NATURAL)
        if DROPS:
            columns = tl.arange(0, BLOCK_N)[None, :]
            keep = kept(tl.load(SEED), numbers[:, None], columns, last_dropped)
            weights = tl.where(keep, weights, 0.0)
        v = tile(V, 0, keys, v_row, v_column, BLOCK_N, HEAD_DIM, BLOCK_D)
        out = product(weights.to(v.dtype), v)
    else:
        highest = tl.full((BLOCK_M,), NONE, tl.float32)
        total = tl.zeros((BLOCK_M,), tl.float32)
        out = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
        for start in range(0, keys, BLOCK_N):
            k = tile(K, start, keys, k_row, k_column, BLOCK_N, HEAD_DIM, BLOCK_D)
            scores = plus_bias(
                product(q, tl.trans(k)) * factor, BIAS, first, start, queries, keys,
                bias_row, bias_column, BLOCK_M, BLOCK_N,
            )  # fmt: skip
            known = known_keys(MASK, start, keys, mask_key, BLOCK_N)
            scores = tl.where(known[None, :], scores, NONE)
            weights, correction, highest, total = softmax_step(scores, highest, total, NATURAL)
            if DROPS:
                columns = (start + tl.arange(0, BLOCK_N))[None, :]
                keep = kept(tl.load(SEED), numbers[:, None], columns, last_dropped)
                weights = tl.where(keep, weights, 0.0)
            v = tile(V, start, keys, v_row, v_column, BLOCK_N, HEAD_DIM, BLOCK_D)
            out = product_plus(weights.to(v.dtype), v, out * correction[:, None])
    out = out * (enlarge / divisor(total))[:, None]
    store(OUT, out, image, head, heads, first, queries, BLOCK_M, HEAD_DIM, BLOCK_D)
    if SAVE:
        tl.store(LSE + numbers, log_sum(highest, total, NATURAL), rows < queries)


@triton.jit
def backward_queries(
    Q, K, V, BIAS, MASK, SEED, OUT, LSE, DOUT, DELTA, DQ,
    heads, queries, keys, factor, scale, last_dropped, enlarge,
    q_image, q_head, q_row, q_column, k_image, k_head, k_row, k_column,
    v_image, v_head, v_row, v_column, bias_image, bias_head, bias_row, bias_column,
    mask_image, mask_key, dout_image, dout_head, dout_row, dout_column,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, NATURAL: tl.constexpr, DROPS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """DELTA (B, heads, queries), each row's sum of ``DOUT * OUT``, and DQ where it is wanted.

    Keys that are not there need no mask: they are loaded as zeros, their weights are finite.
    """
    blocks = tl.cdiv(queries, BLOCK_M)
    pair, first = tl.program_id(0) // blocks, tl.program_id(0) % blocks * BLOCK_M
    image, head = (pair // heads).to(tl.int64), (pair % heads).to(tl.int64)
    rows = first + tl.arange(0, BLOCK_M)
    numbers = pair.to(tl.int64) * queries + rows
    dout = tile(
        DOUT + image * dout_image + head * dout_head, first, queries, dout_row, dout_column,
        BLOCK_M, HEAD_DIM, BLOCK_D,
    )  # fmt: skip
    out = tile(
        OUT + (image * queries * heads + head) * HEAD_DIM, first, queries, heads * HEAD_DIM, 1,
        BLOCK_M, HEAD_DIM, BLOCK_D,
    )  # fmt: skip
    delta = tl.sum(dout.to(tl.float32) * out.to(tl.float32), 1)
    tl.store(DELTA + numbers, delta, rows < queries)
    if DQ is not None:
        K += image * k_image + head * k_head
        V += image * v_image + head * v_head
        if BIAS is not None:
            BIAS += image * bias_image + head * bias_head
        if MASK is not None:
            MASK += image * mask_image
        q = tile(
            Q + image * q_image + head * q_head, first, queries, q_row, q_column,
            BLOCK_M, HEAD_DIM, BLOCK_D,
        )  # fmt: skip
        lse = tl.load(LSE + numbers, rows < queries, float("inf"))
        dq = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
        for start in range(0, keys, BLOCK_N):
            k = tile(K, start, keys, k_row, k_column, BLOCK_N, HEAD_DIM, BLOCK_D)
            scores = plus_bias(
                product(q, tl.trans(k)) * factor, BIAS, first, start, queries, keys,
                bias_row, bias_column, BLOCK_M, BLOCK_N,
            )  # fmt: skip
            if MASK is not None:
                known = known_keys(MASK, start, keys, mask_key, BLOCK_N)
                scores = tl.where(known[None, :], scores, NONE)
            v = tile(V, start, keys, v_row, v_column, BLOCK_N, HEAD_DIM, BLOCK_D)
            dweights = product(dout, tl.trans(v))
            if DROPS:
                columns = (start + tl.arange(0, BLOCK_N))[None, :]
                keep = kept(tl.load(SEED), numbers[:, None], columns, last_dropped)
                dweights = tl.where(keep, dweights * enlarge, 0.0)
            weights = weights_again(scores, lse[:, None], NATURAL)
            dscores = score_gradient(weights, dweights, delta[:, None])
            dq = product_plus(dscores.to(k.dtype), k, dq)
        store(DQ, dq * scale, image, head, heads, first, queries, BLOCK_M, HEAD_DIM, BLOCK_D)


@triton.jit
def backward_keys(
    Q, K, V, BIAS, MASK, SEED, LSE, DELTA, DOUT, DQ, DK, DV,
    heads, queries, keys, factor, scale, last_dropped, enlarge,
    q_image, q_head, q_row, q_column, k_image, k_head, k_row, k_column,
    v_image, v_head, v_row, v_column, bias_image, bias_head, bias_row, bias_column,
    mask_image, mask_key, dout_image, dout_head, dout_row, dout_column,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, NATURAL: tl.constexpr, DROPS: tl.constexpr,
    WHOLE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """DK and DV, each where it is wanted. Tiles of scores are (keys, queries) here.

    DELTA is what ``backward_queries`` made. Where a program has all keys (WHOLE is not 0), it is
    not read, but made as the equal sum of weights by their gradients; and DQ too, where wanted.

    Queries that are not there have a sum of plus infinity, so weights of zero; keys that are not
    there are loaded as zeros, and what comes out for them is not stored.
    """
    blocks = tl.cdiv(keys, BLOCK_N)
    pair, first = tl.program_id(0) // blocks, tl.program_id(0) % blocks * BLOCK_N
    image, head = (pair // heads).to(tl.int64), (pair % heads).to(tl.int64)
    Q += image * q_image + head * q_head
    DOUT += image * dout_image + head * dout_head
    if BIAS is not None:
        BIAS += image * bias_image + head * bias_head
    if MASK is not None:
        padding = known_keys(MASK + image * mask_image, first, keys, mask_key, BLOCK_N) == 0
    k = tile(
        K + image * k_image + head * k_head, first, keys, k_row, k_column,
        BLOCK_N, HEAD_DIM, BLOCK_D,
    )  # fmt: skip
    if DK is not None or WHOLE:
        v = tile(
            V + image * v_image + head * v_head, first, keys, v_row, v_column,
            BLOCK_N, HEAD_DIM, BLOCK_D,
        )  # fmt: skip
    dk = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    dv = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for start in range(0, queries, BLOCK_M):
        rows = start + tl.arange(0, BLOCK_M)
        numbers = pair.to(tl.int64) * queries + rows
        q = tile(Q, start, queries, q_row, q_column, BLOCK_M, HEAD_DIM, BLOCK_D)
        scores = plus_bias(
            product(k, tl.trans(q)) * factor, BIAS, first, start, keys, queries,
            bias_column, bias_row, BLOCK_N, BLOCK_M,
        )  # fmt: skip
        if MASK is not None:
            scores = tl.where(padding[:, None], NONE, scores)
        lse = tl.load(LSE + numbers, rows < queries, float("inf"))
        weights = weights_again(scores, lse[None, :], NATURAL)
        dout = tile(DOUT, start, queries, dout_row, dout_column, BLOCK_M, HEAD_DIM, BLOCK_D)
        dropped = weights
        if DROPS:
            columns = (first + tl.arange(0, BLOCK_N))[:, None]
            keep = kept(tl.load(SEED), numbers[None, :], columns, last_dropped)
            dropped = tl.where(keep, weights, 0.0)
        if DV is not None:
            dv = product_plus(dropped.to(dout.dtype), dout, dv)
        if DK is not None or WHOLE:
            dweights = product(v, tl.trans(dout))
            if DROPS:
                dweights = tl.where(keep, dweights * enlarge, 0.0)
            if WHOLE:
                delta = tl.sum(weights * dweights, 0)
            else:
                delta = tl.load(DELTA + numbers, rows < queries, 0.0)
            dscores = score_gradient(weights, dweights, delta[None, :]).to(q.dtype)
            if DK is not None:
                dk = product_plus(dscores, q, dk)
            if WHOLE and DQ is not None:
                dq = product(tl.trans(dscores), k) * scale
                store(DQ, dq, image, head, heads, start, queries, BLOCK_M, HEAD_DIM, BLOCK_D)
    if DK is not None:
        store(DK, dk * scale, image, head, heads, first, keys, BLOCK_N, HEAD_DIM, BLOCK_D)
    if DV is not None:
        store(DV, dv * enlarge, image, head, heads, first, keys, BLOCK_N, HEAD_DIM, BLOCK_D)


@triton.jit
def backward_bias(
    Q, K, V, BIAS, MASK, SEED, LSE, DELTA, DOUT, DBIAS,
    heads, queries, keys, factor, last_dropped, enlarge,
    q_image, q_head, q_row, q_column, k_image, k_head, k_row, k_column,
    v_image, v_head, v_row, v_column, bias_image, bias_head, bias_row, bias_column,
    mask_image, mask_key, dout_image, dout_head, dout_row, dout_column,
    bias_images, bias_heads, bias_queries, bias_keys, pairs, each,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, NATURAL: tl.constexpr, DROPS: tl.constexpr,
    WHOLE: tl.constexpr, SUM_QUERIES: tl.constexpr, SUM_KEYS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The bias's gradient; DBIAS (splits, bias_images, bias_heads, bias_queries, bias_keys).

    A program has a tile of the bias and sums over ``each`` of the ``pairs`` of image and head that
    share it, in order; also over all queries or keys, where these share it. WHOLE is as in
    ``backward_keys``.
    """
    down, across = 1, 1
    if not SUM_QUERIES:
        down = tl.cdiv(queries, BLOCK_M)
    if not SUM_KEYS:
        across = tl.cdiv(keys, BLOCK_N)
    left, own_column = tl.program_id(0) // across, tl.program_id(0) % across
    left, own_row = left // down, left % down
    split, plane = left // (bias_images * bias_heads), left % (bias_images * bias_heads)
    heads_each = 1
    if bias_heads != heads:
        heads_each = heads
    # Steps go over pairs, in these over tiles of queries, in these over tiles of keys.
    tiles_down, tiles_across = 1, 1
    if SUM_QUERIES:
        tiles_down = tl.cdiv(queries, BLOCK_M)
    if SUM_KEYS:
        tiles_across = tl.cdiv(keys, BLOCK_N)
    inner = tiles_down * tiles_across
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(split * each * inner, tl.minimum(split * each + each, pairs) * inner):
        pair = step // inner
        first = (own_row + step % inner // tiles_across) * BLOCK_M
        start = (own_column + step % tiles_across) * BLOCK_N
        image = (plane // bias_heads + pair // heads_each).to(tl.int64)
        head = (plane % bias_heads + pair % heads_each).to(tl.int64)
        rows = first + tl.arange(0, BLOCK_M)
        numbers = (image * heads + head) * queries + rows
        q = tile(
            Q + image * q_image + head * q_head, first, queries, q_row, q_column,
            BLOCK_M, HEAD_DIM, BLOCK_D,
        )  # fmt: skip
        k = tile(
            K + image * k_image + head * k_head, start, keys, k_row, k_column,
            BLOCK_N, HEAD_DIM, BLOCK_D,
        )  # fmt: skip
        scores = plus_bias(
            product(q, tl.trans(k)) * factor, BIAS + image * bias_image + head * bias_head,
            first, start, queries, keys, bias_row, bias_column, BLOCK_M, BLOCK_N,
        )  # fmt: skip
        dout = tile(
            DOUT + image * dout_image + head * dout_head, first, queries, dout_row, dout_column,
            BLOCK_M, HEAD_DIM, BLOCK_D,
        )  # fmt: skip
        v = tile(
            V + image * v_image + head * v_head, start, keys, v_row, v_column,
            BLOCK_N, HEAD_DIM, BLOCK_D,
        )  # fmt: skip
        dweights = product(dout, tl.trans(v))
        if DROPS:
            columns = (start + tl.arange(0, BLOCK_N))[None, :]
            keep = kept(tl.load(SEED), numbers[:, None], columns, last_dropped)
            dweights = tl.where(keep, dweights * enlarge, 0.0)
        lse = tl.load(LSE + numbers, rows < queries, float("inf"))
        weights = weights_again(scores, lse[:, None], NATURAL)
        mask = MASK
        if MASK is not None:
            mask = MASK + image * mask_image
        known = known_keys(mask, start, keys, mask_key, BLOCK_N)
        weights = tl.where(known[None, :], weights, 0.0)
        if WHOLE:
            delta = tl.sum(weights * dweights, 1)
        else:
            delta = tl.load(DELTA + numbers, rows < queries, 0.0)
        sums += score_gradient(weights, dweights, delta[:, None])
    ROWS: tl.constexpr = 1 if SUM_QUERIES else BLOCK_M
    COLUMNS: tl.constexpr = 1 if SUM_KEYS else BLOCK_N
    if SUM_QUERIES:
        sums = tl.sum(sums, 0, keep_dims=True)
    if SUM_KEYS:
        sums = tl.sum(sums, 1, keep_dims=True)
    row = (own_row * BLOCK_M + tl.arange(0, ROWS))[:, None]
    column = (own_column * BLOCK_N + tl.arange(0, COLUMNS))[None, :]
    at = left.to(tl.int64) * bias_queries * bias_keys + row.to(tl.int64) * bias_keys + column
    tl.store(
        DBIAS + at, sums.to(DBIAS.dtype.element_ty), (row < bias_queries) & (column < bias_keys)
    )
