// The gradient of attention for one head, plain or of a window. The weights P are computed again from
// the scores (and, for many keys, their saved log sums); with D = rowsum(dO * O),
//   dV = P^T dO,  dS = P * (dO V^T - D),  dQ = scale dS K,  dK = scale dS^T Q.
#pragma once
#include "attention_rows.h"
#include "attention_tiles.h"
#include "dropout.h"

namespace vitkern::VITKERN_ISA {

// One head: pointers to the rows of its queries and keys.
template <class T>
struct HeadRows {
  int64_t queries, keys, head_dim;
  float scale;
  const T *const *q, *const *k, *const *v, *const *out, *const *dout;
  const float* lse;  // of each query
  T* const* dq;      // null = not wanted
  bool need_k, need_v, need_scores;
};

// C = A * B, or C += A * B, with A given by rows or (transposed) by its columns.
template <ALayout L>
static void multiply_panels(int64_t rows, int64_t k, const float* a, int64_t lda, const float* b, int64_t columns,
                            float* c, int64_t ldc, bool accumulate) {
  const RowTiles tiles(rows);
  for (int64_t p = 0; p < panels_of(columns); p++) {
    const int vectors = (int)(panel_width(columns, p) / W);
    for (int64_t t = 0, r = 0; t < tiles.count; r += tiles.size(t), t++)
      tile_function<L>(tiles.size(t), vectors)(k, L == ALayout::transposed ? a + r : a + r * lda, lda, panel(b, k, p),
                                               c + r * ldc + p * NR, ldc, accumulate);
  }
}

// Of one row: s = scores becomes the weights that multiplied V, ds = dO V^T becomes dS. `shift` and
// `delta` are the row's saved log sum and D; where the row is whole, its own sums give a better P and
// D (the saved ones are rounded, and a log sum of -3e38 knows nothing of the number of keys).
template <Base B>
static void softmax_gradient_row(float* s, float* ds, int64_t n, bool whole, float shift, float delta,
                                 const Dropout& dropout, int64_t row, int64_t first_key) {
  if (dropout.on)
    for (int64_t j = 0; j < n; j += W)
      store(ds + j, select(dropout.keep(row, first_key + j), load(ds + j) * splat(dropout.scale), vf{}));
  float factor = 1.f;
  const float total = sum_everywhere(exponentiate<B>(s, n, whole ? row_max(s, n) : splat(shift)))[0];
  if (whole) {
    vf dot0 = {}, dot1 = {};
    int64_t j = 0;
    for (; j + 2 * W <= n; j += 2 * W) {
      dot0 = load(s + j) * load(ds + j) + dot0;
      dot1 = load(s + j + W) * load(ds + j + W) + dot1;
    }
    if (j < n) dot0 = load(s + j) * load(ds + j) + dot0;
    factor = normalizer(total);
    delta = sum_everywhere(dot0 + dot1)[0] * factor;
  }
  const vf f = splat(factor), d = splat(delta);
  for (int64_t j = 0; j < n; j += W) {
    vf p = load(s + j) * f;
    store(s + j, p);
    store(ds + j, p * (load(ds + j) - d));
  }
  if (!dropout.on) return;
  drop(dropout, row, s, n, first_key);
  for (int64_t j = 0; j < n; j += W) store(s + j, load(s + j) * splat(dropout.scale));
}

// Queries at a time, a multiple of MR: enough for the sums over them to pay for loading and storing
// dK and dV, few enough for P and dS to stay in the second-level cache.
VK_INLINE int64_t gradient_block(int64_t queries, int64_t row_floats) {
  const int64_t fit = (160 << 10) / (2 * 4 * row_floats);
  const int64_t rows = smaller<int64_t>(96, larger<int64_t>(24, fit)) / MR * MR;
  return larger<int64_t>(MR, smaller(rows, round_up(queries, MR)));
}

// The part that keys [first, first + n) have in the gradients. Where these are not all keys, `deltas`
// holds D, and `dq_sums` (queries, ldd) collects the parts of dQ; otherwise they are null.
template <Base B, class T, class Hooks>
static void gradient_of_keys(const Runtime& rt, const HeadRows<T>& h, Hooks& hooks, const float* deltas, int64_t first,
                             int64_t n, float* dq_sums) {
  const int64_t d = h.head_dim, padded = round_up(n, W);
  const int64_t ldd = padded_stride(round_up(d, W)), lds = padded_stride(padded);
  const int64_t block = gradient_block(h.queries, lds);
  const bool need_scores = h.need_k || h.dq || h.need_scores;

  const int64_t by_keys = round_up(packed_floats(n, d), 16), by_dims = round_up(packed_floats(d, n), 16);
  float* kt = (float*)rt.scratch(kPanelsB, (2 * by_keys + by_dims) * 4 + 64);
  float *vt = kt + by_keys, *k = vt + by_keys;
  pack_rows_transposed(h.k + first, 0, n, d, kt);
  if (need_scores) pack_rows_transposed(h.v + first, 0, n, d, vt);
  if (h.dq) pack_rows(h.k + first, 0, n, d, k);
  const int64_t by_block = round_up(packed_floats(d, block), 16);
  float* q = (float*)rt.scratch(kRowsT, (2 * block * ldd + by_block) * 4 + 64);
  float *dout = q + block * ldd, *columns = dout + block * ldd;
  float* s = (float*)rt.scratch(kOp, (2 * block * lds + 2 * n * ldd) * 4 + 64);
  float *ds = s + block * lds, *dk = ds + block * lds, *dv = dk + n * ldd;
  if (h.queries == 0) memset(dk, 0, 2 * n * ldd * 4);

  const float to_scores = B == Base::two ? h.scale * kLog2e : h.scale;
  for (int64_t q0 = 0; q0 < h.queries; q0 += block) {
    const int64_t rows = smaller(block, h.queries - q0);
    for (int64_t r = 0; r < rows; r++) copy_row(h.q[q0 + r], d, to_scores, q + r * ldd);
    multiply_panels<ALayout::row_major>(rows, d, q, ldd, kt, n, s, lds, false);
    if (need_scores) {
      for (int64_t r = 0; r < rows; r++) copy_row(h.dout[q0 + r], d, 1.f, dout + r * ldd);
      multiply_panels<ALayout::row_major>(rows, d, dout, ldd, vt, n, ds, lds, false);
    }
    for (int64_t r = 0; r < rows; r++) {
      const float shift = deltas ? h.lse[q0 + r] * (B == Base::two ? kLog2e : 1.f) : 0.f;
      hooks.finish_scores(s + r * lds, q0 + r, first, n);
      softmax_gradient_row<B>(s + r * lds, ds + r * lds, padded, !deltas, shift,
                              deltas ? deltas[q0 + r] : 0.f, hooks.dropout, hooks.first_row + q0 + r, first);
      if (h.need_scores) hooks.take(ds + r * lds, q0 + r, n);
    }
    if (h.need_v) {
      pack_rows(h.dout + q0, 0, rows, d, columns);
      multiply_panels<ALayout::transposed>(n, rows, s, lds, columns, d, dv, ldd, q0 > 0);
    }
    if (h.need_k) {
      pack_rows(h.q + q0, 0, rows, d, columns);
      multiply_panels<ALayout::transposed>(n, rows, ds, lds, columns, d, dk, ldd, q0 > 0);
    }
    if (!h.dq) continue;
    if (dq_sums) {
      multiply_panels<ALayout::row_major>(rows, n, ds, lds, k, d, dq_sums + q0 * ldd, ldd, first > 0);
      continue;
    }
    float factors[MR];
    for (int i = 0; i < MR; i++) factors[i] = h.scale;
    const RowTiles tiles(rows);
    for (int64_t p = 0; p < panels_of(d); p++)
      for (int64_t t = 0, r = 0; t < tiles.count; r += tiles.size(t), t++)
        tile_for<ValueTile<T>>(tiles.size(t))(n, ds + r * lds, lds, panel(k, n, p), smaller<int64_t>(NR, d - p * NR),
                                              factors, h.dq + q0 + r, p * NR);
  }
  for (int64_t j = 0; j < n; j++)
    hooks.store_key(first + j, h.need_k ? dk + j * ldd : nullptr, h.need_v ? dv + j * ldd : nullptr);
}

// Hooks have: `whole_rows` (keys may not be cut into pieces), `dropout` and `first_row` (its row of
// query 0), finish_scores(s, query, first key, keys) that adds bias and masks and sets what lies behind
// to -inf, take(ds, query, keys) for the bias's gradient, and store_key(key, dk / scale, dv).
template <Base B, class T, class Hooks>
static void head_gradient(const Runtime& rt, const HeadRows<T>& h, Hooks& hooks) {
  constexpr int64_t kUncut = 384, kPiece = 256;
  if (hooks.whole_rows || h.keys <= kUncut) return gradient_of_keys<B>(rt, h, hooks, nullptr, 0, h.keys, nullptr);
  const int64_t d = h.head_dim, ldd = padded_stride(round_up(d, W)), pieces = (h.keys + kPiece - 1) / kPiece;
  float* deltas = (float*)rt.scratch(kHidden, (round_up(h.queries, 16) + h.queries * ldd) * 4);
  float* dq_sums = h.dq ? deltas + round_up(h.queries, 16) : nullptr;
  for (int64_t i = 0; i < h.queries; i++) deltas[i] = dot_rows(h.dout[i], h.out[i], d);
  for (int64_t p = 0; p < pieces; p++) {
    const int64_t first = h.keys * p / pieces, last = h.keys * (p + 1) / pieces;
    gradient_of_keys<B>(rt, h, hooks, deltas, first, last - first, dq_sums);
  }
  for (int64_t i = 0; h.dq && i < h.queries; i++) store_row(dq_sums + i * ldd, d, h.scale, h.dq[i]);
}

}  // namespace vitkern::VITKERN_ISA
