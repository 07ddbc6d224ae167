// Attention within windows, forward, straight from the unpartitioned map to the unpartitioned map.
#pragma once
#include "pairs.h"
#include "window_geometry.h"

namespace vitkern::VITKERN_ISA {

constexpr int64_t kWindowTiles = 3;  // tiles of rows between which the scores stay in the cache

// Where a task finds one window's positions, and the next window's.
template <class T>
struct WindowRows {
  const T **rows, **next;  // in qkv
  T** out;
  int64_t* at;

  WindowRows(const Runtime& rt, int64_t n) {
    const int64_t list = round_up(n, 8);
    char* p = (char*)rt.scratch(kTile, list * 8 * 4);
    rows = (const T**)p;
    next = rows + list;
    out = (T**)(next + list);
    at = (int64_t*)(out + list);
  }
};

// A task's buffers for one window.
struct WindowBuffers {
  float *q, *kt, *v, *s, *last_key;
  int64_t ldq, lds;

  WindowBuffers(const Runtime& rt, int64_t n, int64_t d)
      : ldq(padded_stride(round_up(d, W))), lds(padded_stride(round_up(n, W))) {
    const int64_t by_keys = round_up(packed_floats(n, d), 16), by_dims = round_up(packed_floats(d, n), 16);
    q = (float*)rt.scratch(kOp, ((n + 1) * ldq + by_keys + by_dims + kWindowTiles * MR * lds) * 4 + 64);
    last_key = q + n * ldq;
    kt = last_key + ldq;
    v = kt + by_keys;
    s = v + by_dims;
    memset(q, 0, (n + 1) * ldq * 4);  // what lies behind head_dim, for last_scores
  }
};

// Keys in panels. One key that would be alone in a vector is not: tiles compute it as slowly as eight.
VK_INLINE int64_t keys_in_tiles(int64_t n) { return n % W == 1 && n > 1 ? n - 1 : n; }

// q, k and v of one head of a window as the tiles read them. D: head_dim, or 0 = d.
template <int D, class T>
static void gather_head(const WindowRows<T>& w, const WindowBuffers& b, int64_t n, int64_t d, int64_t offset,
                        int64_t channels, float scale) {
  if (D) d = D;
  const int64_t ldq = D ? padded_stride(round_up(D, W)) : b.ldq, in_tiles = keys_in_tiles(n);
  float* q = b.q;
  for (int64_t i = 0; i < n; i++) copy_row(w.rows[i] + offset, d, scale, q + i * ldq);
  pack_rows_transposed(w.rows, channels + offset, in_tiles, d, b.kt);
  if (in_tiles < n) copy_row(w.rows[n - 1] + channels + offset, d, 1.f, b.last_key);
  pack_rows(w.rows, 2 * channels + offset, n, d, b.v);
}

// Scores of the last key where it is in no panel: s[r * lds] = pairs[r * stride] + q[r] . key, and
// what `pairs` has for the rest of the vector.
template <int D>
static void last_scores(int64_t d, const float* q, int64_t ldq, int64_t rows, const float* key, float* s, int64_t lds,
                        const float* pairs, int64_t stride) {
  if (D) d = D, ldq = padded_stride(round_up(D, W));
  for (int64_t r = 0; r < rows; r++) {
    vf sum = {};
    for (int64_t i = 0; i < d; i += W) sum = load(q + r * ldq + i) * load(key + i) + sum;
    store(s + r * lds, load(pairs + r * stride) + sum_everywhere(sum));
  }
}

// One head of one window.
template <int D, class T>
static void attend_window(const WindowAttentionArgs& a, const WindowRows<T>& w, const WindowBuffers& b, int64_t n,
                          int64_t head, const PairBias& bias, int64_t kind, const T* const* next, int64_t next_head,
                          float* lse) {
  const int64_t d = D ? D : a.head_dim, channels = a.heads * d, offset = head * d;
  const int64_t padded = round_up(n, W), in_tiles = keys_in_tiles(n);
  gather_head<D>(w, b, n, d, offset, channels, a.scale * kLog2e);
  const float* start = bias.of(kind, head);

  const RowTiles tiles(n);
  // What the next head (or window) reads and this one writes.
  const int64_t steps = tiles.count * panels_of(in_tiles), size = sizeof(T);
  Prefetch ahead{(const char* const*)next, (const char* const*)w.out, channels * size, next_head * d * size,
                 offset * size, d * size, n, (n + steps - 1) / steps, 0};
  for (int64_t t0 = 0, row = 0; t0 < tiles.count; t0 += kWindowTiles) {
    const int64_t t1 = smaller(t0 + kWindowTiles, tiles.count);
    int64_t rows = 0;
    for (int64_t t = t0; t < t1; rows += tiles.size(t), t++)
      tile_for<ScoreTile>(tiles.size(t))(d, b.q + (row + rows) * b.ldq, b.ldq, b.kt, round_up(in_tiles, W),
                                         b.s + rows * b.lds, b.lds, start + (row + rows) * bias.stride, bias.stride,
                                         &ahead);
    if (in_tiles < n)
      last_scores<D>(d, b.q + row * b.ldq, b.ldq, rows, b.last_key, b.s + in_tiles, b.lds,
                     start + row * bias.stride + in_tiles, bias.stride);

    float tops[kWindowTiles * MR], sums[kWindowTiles * MR + W], factors[kWindowTiles * MR + W];
    softmax_rows<Base::two>(b.s, b.lds, rows, padded, tops, sums);
    normalizers(sums, rows, factors);
    for (int64_t r = 0; lse && r < rows; r++) lse[row + r] = log_sum<Base::two>(tops[r], sums[r]);

    for (int64_t t = t0, r = 0; t < t1; r += tiles.size(t), t++)
      tile_for<ValueTile<T>>(tiles.size(t))(n, b.s + r * b.lds, b.lds, b.v, d, factors + r, w.out + row + r, offset);
    row += rows;
  }
}

#if VITKERN_BF16_DOT
// A task's buffers where pairs of bfloat16 are multiplied. All rows of a window are one block.
struct PairBuffers {
  float *q, *kt, *v, *s, *p, *c, *factors;
  int64_t ldq, ldp, lds, ldc;

  PairBuffers(const Runtime& rt, int64_t n, int64_t d)
      : ldq(padded_stride(pairs::words(d))), ldp(padded_stride(pairs::words(round_up(n, W)))),
        lds(padded_stride(round_up(n, W))), ldc(round_up(d, W)) {
    const int64_t rows = pairs::whole_rows(n);
    q = (float*)rt.scratch(kOp, (rows * (ldq + ldp + lds + ldc) + pairs::packed(n, d) + pairs::packed(d, n) + n + W) * 4 + 64);
    p = q + rows * ldq, s = p + rows * ldp, c = s + rows * lds;
    kt = c + rows * ldc, v = kt + pairs::packed(n, d), factors = v + pairs::packed(d, n);
    memset(q, 0, rows * (ldq + ldp) * 4);  // what lies behind head_dim and behind the keys
  }
};

// One head of one window, the same in pairs: weights of values are rounded to bfloat16.
template <int D>
static void attend_window_in_pairs(const WindowAttentionArgs& a, const WindowRows<bf16>& w, const PairBuffers& b,
                                   int64_t n, int64_t head, const PairBias& bias, int64_t kind, float* lse) {
  const int64_t d = D ? D : a.head_dim, channels = a.heads * d, offset = head * d;
  for (int64_t i = 0; i < n; i++) memcpy(b.q + i * b.ldq, w.rows[i] + offset, d * sizeof(bf16));
  pairs::pack_transposed(w.rows, channels + offset, n, d, b.kt);
  pairs::pack(w.rows, 2 * channels + offset, n, d, b.v);
  pairs::multiply(b.q, b.ldq, n, b.kt, n, d, b.s, b.lds);

  const float* start = bias.of(kind, head);
  const vf scale = splat(a.scale * kLog2e);
  for (int64_t row = 0; row < n; row += kSoftmaxRows) {
    const int64_t rows = smaller(kSoftmaxRows, n - row);
    float tops[kSoftmaxRows], sums[kSoftmaxRows + W];
    // Copies of what they need: stores of the weights could change members.
    const float *scores = b.s + row * b.lds, *biases = start + row * bias.stride;
    const int64_t lds = b.lds, ld_biases = bias.stride;
    const auto logits = [=](int64_t r, int64_t j) __attribute__((always_inline)) {
      return load(scores + r * lds + j) * scale + load(biases + r * ld_biases + j);
    };
    softmax_into<Base::two>(rows, round_up(n, W), logits, splat(1.f), (bf16*)(b.p + row * b.ldp), 2 * b.ldp, tops,
                            sums);
    normalizers(sums, rows, b.factors + row);
    for (int64_t r = 0; lse && r < rows; r++) lse[row + r] = log_sum<Base::two>(tops[r], sums[r]);
  }
  pairs::multiply(b.p, b.ldp, n, b.v, d, n, b.c, b.ldc);
  const float *c = b.c, *factors = b.factors;
  const int64_t ldc = b.ldc;
  for (int64_t r = 0; r < n; r++) store_row(c + r * ldc, d, factors[r], w.out[r] + offset);
}
#endif

// Tasks: runs of windows, and where there are few windows also groups of heads.
struct WindowGrid {
  int64_t windows, heads, runs, groups;
  WindowGrid(const Runtime& rt, int64_t windows_, int64_t heads_)
      : windows(windows_), heads(heads_), runs(1), groups(1) {
    if (rt.threads == 1 || windows == 0) return;
    runs = smaller<int64_t>(windows, 8 * rt.threads);
    if (windows < 4 * rt.threads) groups = smaller(heads, (4 * rt.threads + windows - 1) / windows);
  }
  int64_t tasks() const { return windows > 0 ? runs * groups : 0; }
  struct Task { int64_t first, last, first_head, last_head; };
  Task task(int64_t i) const {
    const int64_t r = i / groups, g = i % groups;
    return {windows * r / runs, windows * (r + 1) / runs, heads * g / groups, heads * (g + 1) / groups};
  }
};

// The part of the map that a buffer holds: positions from `start` on, and behind them, `before` places further
// than they lie in the map, some that come before these. By default all of the map.
struct MapPart {
  int64_t start = 0, before = 0;
  VK_INLINE int64_t local(int64_t at, int64_t start, int64_t before) {
    return at < 0 ? at : at >= start ? at - start : at + before;
  }
  void localize(int64_t* at, int64_t n) const {
    for (int64_t i = 0; start > 0 && i < n; i++) at[i] = local(at[i], start, before);
  }
};

// q, k and v of padded positions, as H's: a.pad, which are T's, or zeros.
template <class H, class T>
static const H* padding_of(const Runtime& rt, const WindowAttentionArgs& a, Slot slot) {
  if constexpr (sizeof(H) == sizeof(T))
    if (a.pad) return (const H*)a.pad;
  const int64_t n = 3 * a.heads * a.head_dim;
  H* padding = (H*)rt.scratch(slot, n * sizeof(H));
  for (int64_t i = 0; i < n; i++) put(padding + i, a.pad ? to_float(((const T*)a.pad)[i]) : 0.f);
  return padding;
}

// Calls f(rows, window, head, next, next head) for every head of every window of the task, with where the window's
// positions are in a.qkv and a.out, which hold that part of the map, and those of what comes next.
template <class T, class F>
static void for_window_heads(const Runtime& rt, const WindowAttentionArgs& a, const Windows& w, const T* padding,
                             const WindowGrid::Task& task, const MapPart& part, const F& f) {
  const int64_t n = w.positions(), channels = a.heads * a.head_dim;
  const WindowRows<T> r(rt, n);
  T* dropped = (T*)rt.scratch(kPartial, channels * sizeof(T));  // results of padded positions
  for (int64_t window = task.first; window < task.last; window++) {
    w.positions_of(window, r.at);
    part.localize(r.at, n);
    rows_of(r.at, n, (T*)a.out, channels, dropped, r.out);
    rows_of(r.at, n, (const T*)a.qkv, 3 * channels, padding, r.rows);
    const bool more = window + 1 < task.last;
    if (more) {
      w.positions_of(window + 1, r.at);
      part.localize(r.at, n);
      rows_of(r.at, n, (const T*)a.qkv, 3 * channels, padding, r.next);
    }
    for (int64_t head = task.first_head; head < task.last_head; head++) {
      const bool same = head + 1 < task.last_head;
      f(r, window, head, (const T* const*)(same ? r.rows : more ? r.next : nullptr), same ? head + 1 : task.first_head);
    }
  }
}

// Some heads of windows [task.first, task.last), from a.qkv to a.out, which hold that part of the map.
template <int D, class T>
static void attend_windows(const Runtime& rt, const WindowAttentionArgs& a, const Windows& w, const PairBias& bias,
                           const T* padding, const WindowGrid::Task& task, const MapPart& part) {
  const int64_t n = w.positions(), d = a.head_dim;
  const auto lse = [&](int64_t window, int64_t head) { return a.lse ? a.lse + (window * a.heads + head) * n : nullptr; };
#if VITKERN_BF16_DOT
  if constexpr (sizeof(T) == 2) {
    if (d % 2 == 0 && (uintptr_t)a.qkv % 4 == 0 && (uintptr_t)padding % 4 == 0) {
      const PairBuffers b(rt, n, d);
      pairs::begin();
      for_window_heads(rt, a, w, padding, task, part, [&](const auto& r, int64_t window, int64_t head, auto, int64_t) {
        attend_window_in_pairs<D>(a, r, b, n, head, bias, w.kind_of(window), lse(window, head));
      });
      return pairs::end();
    }
  }
#endif
  const WindowBuffers b(rt, n, d);
  for_window_heads(rt, a, w, padding, task, part,
                   [&](const auto& r, int64_t window, int64_t head, const T* const* next, int64_t next_head) {
                     attend_window<D>(a, r, b, n, head, bias, w.kind_of(window), next, next_head, lse(window, head));
                   });
}

template <int N>
struct Constant {
  static constexpr int value = N;
};
// Calls f with head_dim as a constant, where that is worth it, or with 0.
template <class F>
VK_INLINE void with_head_dim(int64_t head_dim, const F& f) {
  if (head_dim == 32) f(Constant<32>());  // all Swins
  else f(Constant<0>());
}

// All windows, from a.qkv to a.out, which are T's.
template <class T>
static void attend_all_windows(const Runtime& rt, const WindowAttentionArgs& a, const Windows& w, const PairBias& bias,
                               const T* padding) {
  const WindowGrid grid(rt, a.batch * w.per_image(), a.heads);
  with_head_dim(a.head_dim, [&](auto d) {
    for_tasks(rt, grid.tasks(),
              [&](int64_t i) { attend_windows<decltype(d)::value>(rt, a, w, bias, padding, grid.task(i), MapPart()); });
  });
}

template <class T>
static void window_attention_as(const Runtime& rt, const WindowAttentionArgs& a) {
  const Windows w(a);
  if (a.batch * w.per_image() == 0) return;
  const PairBias bias = pair_bias(rt, w, (const T*)a.bias_table, a.heads);
  attend_all_windows(rt, a, w, bias, padding_of<T, T>(rt, a, kVectors));
}
static void window_attention(const Runtime& rt, const WindowAttentionArgs& a) {
  with_type(a.type, [&](auto t) { window_attention_as<decltype(t)>(rt, a); });
}

}  // namespace vitkern::VITKERN_ISA
