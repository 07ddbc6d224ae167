// Attention, forward. A task is some queries of one (image, head): keys and values are packed into
// panels, then some rows of scores at a time stay in the first-level cache from Q K^T to P V.
#pragma once
#include "../args/attention.h"
#include "attention_rows.h"
#include "attention_tiles.h"
#include "dropout.h"
#include "pairs.h"

namespace vitkern::VITKERN_ISA {

// One (image, head) of the arguments.
template <class T>
struct Head {
  int64_t image, head, index, keys;  // keys: without those that the mask ends with
  const T *q, *k, *v, *bias;
  const uint8_t* mask;

  Head(const AttentionArgs& a, int64_t unit) : image(unit / a.heads), head(unit % a.heads), index(unit), keys(a.keys) {
    q = (const T*)a.q + image * a.q_strides.batch + head * a.q_strides.head;
    k = (const T*)a.k + image * a.k_strides.batch + head * a.k_strides.head;
    v = (const T*)a.v + image * a.v_strides.batch + head * a.v_strides.head;
    bias = a.bias ? (const T*)a.bias + image * a.bias_strides[0] + head * a.bias_strides[1] : nullptr;
    mask = a.key_padding_mask ? a.key_padding_mask + image * a.keys : nullptr;
    while (mask && keys > 0 && mask[keys - 1]) keys--;
  }
  // Row `row` of a tensor laid out (batch, rows, heads, head_dim).
  T* row_of(void* tensor, const AttentionArgs& a, int64_t rows, int64_t row) const {
    return (T*)tensor + ((image * rows + row) * a.heads + head) * a.head_dim;
  }
};

// s[0:n] += bias row, whose elements are `stride` apart.
template <class T>
static void add_bias(float* s, const T* bias, int64_t stride, int64_t n) {
  int64_t j = 0;
  if (stride == 0) {
    const vf b = splat(to_float(*bias));
    for (; j < n; j += W) store(s + j, load(s + j) + b);
    return;
  }
  if (stride == 1)
    for (; j + W <= n; j += W) store(s + j, load(s + j) + load(bias + j));
  for (; j < n; j++) s[j] += to_float(bias[j * stride]);
}

// s[j] = -inf where the mask says to ignore key j.
static void ignore_masked(float* s, const uint8_t* mask, int64_t n) {
  for (int64_t j = 0; j < n; j++) s[j] = mask[j] ? -kInfinity : s[j];
}

// Rows of scores at a time: as many as fit the budget, in whole tiles.
VK_INLINE int64_t tiles_per_block(int64_t row_floats, int64_t budget) {
  const int64_t tiles = budget / (row_floats * 4 * MR);
  return larger<int64_t>(1, smaller(tiles, kSoftmaxRows / MR));
}
constexpr int64_t kScoreBytes = 24 << 10;

template <class T, Base B>
static void attend(const Runtime& rt, const AttentionArgs& a, const Head<T>& h, int64_t first, int64_t last) {
  const int64_t n = h.keys, d = a.head_dim, padded = round_up(n, W);
  const int64_t ldq = padded_stride(d), lds = padded_stride(padded);
  const int64_t tiles_at_once = tiles_per_block(lds, kScoreBytes), block = tiles_at_once * MR;

  float* kt = (float*)rt.scratch(kPanelsB, (packed_floats(n, d) + packed_floats(d, n)) * 4 + 64);
  float* v = kt + packed_floats(n, d);
  for (int64_t p = 0; p < panels_of(n); p++) pack_panel_nk(h.k, a.k_strides.row, n, d, p, panel(kt, d, p));
  for (int64_t p = 0; p < panels_of(d); p++)
    pack_panel_kn(h.v, a.v_strides.row, d, n, p, panel(v, n, p), [](vf x) { return x; });
  float* q = (float*)rt.scratch(kOp, block * (ldq + lds) * 4);
  float* s = q + block * ldq;

  const Dropout dropout(a.dropout_p, a.seed);
  const float scale = B == Base::two ? a.scale * kLog2e : a.scale;
  const RowTiles tiles(last - first);
  int64_t row = first;
  for (int64_t t0 = 0; t0 < tiles.count; t0 += tiles_at_once) {
    const int64_t t1 = smaller(t0 + tiles_at_once, tiles.count);
    int64_t rows = 0;
    for (int64_t t = t0; t < t1; t++) rows += tiles.size(t);
    for (int64_t r = 0; r < rows; r++) copy_row(h.q + (row + r) * a.q_strides.row, d, scale, q + r * ldq);

    for (int64_t p = 0; p < panels_of(n); p++)
      for (int64_t t = t0, r = 0; t < t1; r += tiles.size(t), t++)
        tile_for<ScoreTile>(tiles.size(t))(d, q + r * ldq, ldq, panel(kt, d, p), panel_width(n, p),
                                           s + r * lds + p * NR, lds, nullptr, 0, nullptr);

    for (int64_t r = 0; r < rows; r++) {
      float* w = s + r * lds;
      if (h.bias) add_bias(w, h.bias + (row + r) * a.bias_strides[2], a.bias_strides[3], n);
      if (h.mask) ignore_masked(w, h.mask, n);
      end_row(w, n);
    }
    float tops[kSoftmaxRows], sums[kSoftmaxRows + W], factors[kSoftmaxRows + W];
    softmax_rows<B>(s, lds, rows, padded, tops, sums);
    normalizers(sums, rows, factors);
    T* out[kSoftmaxRows];
    for (int64_t r = 0; r < rows; r++) {
      const int64_t index = h.index * a.queries + row + r;
      if (dropout.on) {
        drop(dropout, index, s + r * lds, padded);
        factors[r] *= dropout.scale;
      }
      if (a.lse) a.lse[index] = log_sum<B>(tops[r], sums[r]);
      out[r] = h.row_of(a.out, a, a.queries, row + r);
    }

    for (int64_t p = 0; p < panels_of(d); p++)
      for (int64_t t = t0, r = 0; t < t1; r += tiles.size(t), t++)
        tile_for<ValueTile<T>>(tiles.size(t))(n, s + r * lds, lds, panel(v, n, p), smaller<int64_t>(NR, d - p * NR),
                                              factors + r, out + r, p * NR);
    row += rows;
  }
}

#if VITKERN_BF16_DOT
// Whether attend_pairs can do it. (Dropout is for training, where all the time is in the gradient.)
static bool multiplies_pairs(const AttentionArgs& a) {
  const auto even = [](const void* p, const Strides3& s) {
    return (uintptr_t)p % 4 == 0 && s.batch % 2 == 0 && s.head % 2 == 0 && s.row % 2 == 0;
  };
  return a.head_dim % 2 == 0 && even(a.k, a.k_strides) && a.scale > 0 && a.dropout_p == 0;
}

// The same where the processor multiplies pairs of bfloat16: weights of values are rounded to it.
template <Base B>
static void attend_pairs(const Runtime& rt, const AttentionArgs& a, const Head<bf16>& h, int64_t first, int64_t last) {
  const int64_t n = h.keys, d = a.head_dim, padded = round_up(n, W), block = kOnTiles<pairs::kDot> ? kTileRows : 3 * MR;
  const int64_t ldq = padded_stride(pairs::words(d)), lds = padded_stride(padded);
  const int64_t ldp = padded_stride(pairs::words(padded)), ldc = round_up(d, W);

  const bf16** rows_at = (const bf16**)rt.scratch(kTile, n * sizeof(bf16*));
  float* kt = (float*)rt.scratch(kPanelsB, (pairs::packed(n, d) + pairs::packed(d, n)) * 4 + 64);
  float* v = kt + pairs::packed(n, d);
  for (int64_t j = 0; j < n; j++) rows_at[j] = h.k + j * a.k_strides.row;
  pairs::pack_transposed(rows_at, 0, n, d, kt);
  for (int64_t j = 0; j < n; j++) rows_at[j] = h.v + j * a.v_strides.row;
  pairs::pack(rows_at, 0, n, d, v);
  float* q = (float*)rt.scratch(kOp, block * (ldq + ldp + lds + ldc) * 4);
  float *p = q + block * ldq, *s = p + block * ldp, *c = s + block * lds;
  memset(q, 0, block * (ldq + ldp) * 4);  // what lies behind head_dim and behind the keys

  const vf factor = splat(B == Base::two ? a.scale * kLog2e : 1.f);
  const auto logits = [=](int64_t r, int64_t j) __attribute__((always_inline)) { return load(s + r * lds + j); };
  pairs::begin();
  for (int64_t row = first; row < last; row += block) {
    const int64_t rows = smaller(block, last - row);
    for (int64_t r = 0; r < rows; r++) memcpy(q + r * ldq, h.q + (row + r) * a.q_strides.row, d * sizeof(bf16));
    pairs::multiply(q, ldq, rows, kt, n, d, s, lds);
    for (int64_t r = 0; r < rows; r++) {
      float* w = s + r * lds;
      if (h.bias) {
        for (int64_t j = 0; j < n; j += W) store(w + j, load(w + j) * splat(a.scale));
        add_bias(w, h.bias + (row + r) * a.bias_strides[2], a.bias_strides[3], n);
      }
      if (h.mask) ignore_masked(w, h.mask, n);
      end_row(w, n);
    }
    float tops[kSoftmaxRows], sums[kSoftmaxRows + W], factors[kSoftmaxRows + W];
    softmax_into<B>(rows, padded, logits, factor, (bf16*)p, 2 * ldp, tops, sums);
    normalizers(sums, rows, factors);
    pairs::multiply(p, ldp, rows, v, d, n, c, ldc);
    for (int64_t r = 0; r < rows; r++) {
      if (a.lse) a.lse[h.index * a.queries + row + r] = log_sum<B>(tops[r], sums[r]);
      store_row(c + r * ldc, d, factors[r], h.row_of(a.out, a, a.queries, row + r));
    }
  }
  pairs::end();
}
#endif

// The products in the dtype's own precision where the processor has instructions for them.
template <Base B, class T>
static void attend_best(const Runtime& rt, const AttentionArgs& a, const Head<T>& h, int64_t first, int64_t last) {
#if VITKERN_BF16_DOT
  if constexpr (sizeof(T) == 2)
    if (multiplies_pairs(a)) return attend_pairs<B>(rt, a, h, first, last);
#endif
  attend<T, B>(rt, a, h, first, last);
}

template <class T>
static void attention_as(const Runtime& rt, const AttentionArgs& a) {
  const int64_t units = a.batch * a.heads;
  if (units == 0 || a.queries == 0) return;
  // Few heads are cut into pieces of their queries, though every piece packs the keys again.
  int64_t pieces = 1;
  if (rt.threads > 1 && units < 4 * rt.threads)
    pieces = smaller((4 * rt.threads + units - 1) / units, larger<int64_t>(1, a.queries / 64));
  for_tasks(rt, units * pieces, [&](int64_t task) {
    const Head<T> head(a, task / pieces);
    const int64_t i = task % pieces, first = a.queries * i / pieces, last = a.queries * (i + 1) / pieces;
    if (a.bias) attend_best<Base::e>(rt, a, head, first, last);
    else attend_best<Base::two>(rt, a, head, first, last);
  });
}
static void attention(const Runtime& rt, const AttentionArgs& a) {
  with_type(a.type, [&](auto t) { attention_as<decltype(t)>(rt, a); });
}

}  // namespace vitkern::VITKERN_ISA
