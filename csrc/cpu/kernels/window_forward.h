// Attention within windows, forward, straight from the unpartitioned map to the unpartitioned map.
#pragma once
#include "window_geometry.h"

namespace vitkern::VITKERN_ISA {

// A task's buffers for one window.
template <class T>
struct WindowBuffers {
  const T **rows, **next;  // the window's positions in qkv, and the next window's
  T** out;
  int64_t* at;
  float *q, *kt, *v, *s;
  int64_t ldq, lds;

  WindowBuffers(const Runtime& rt, int64_t n, int64_t d) : ldq(padded_stride(d)), lds(padded_stride(round_up(n, W))) {
    const int64_t list = round_up(n, 8);
    char* p = (char*)rt.scratch(kTile, list * 8 * 4);
    rows = (const T**)p;
    next = rows + list;
    out = (T**)(next + list);
    at = (int64_t*)(out + list);
    q = (float*)rt.scratch(kOp, (n * ldq + packed_floats(n, d) + packed_floats(d, n) + MR * lds) * 4 + 256);
    kt = q + round_up(n * ldq, 16);
    v = kt + round_up(packed_floats(n, d), 16);
    s = v + round_up(packed_floats(d, n), 16);
  }
};

// Asks for the lines of one head of some positions.
template <class T>
VK_INLINE void prefetch_head(T* const* rows, int64_t count, int64_t offset, int64_t d) {
  for (int64_t i = 0; i < count; i++)
    for (int64_t c = 0; c < d * (int64_t)sizeof(T); c += 64)
      __builtin_prefetch((const char*)(rows[i] + offset) + c, 0, 2);
}

// One head of one window.
template <class T>
static void attend_window(const WindowAttentionArgs& a, const WindowBuffers<T>& b, int64_t n, int64_t head,
                          const PairBias& bias, int64_t kind, const T* const* next, int64_t next_head, float* lse) {
  const int64_t d = a.head_dim, channels = a.heads * d, padded = round_up(n, W), offset = head * d;
  const float scale = a.scale * kLog2e;
  for (int64_t i = 0; i < n; i++) copy_row(b.rows[i] + offset, d, scale, b.q + i * b.ldq);
  pack_rows_transposed(b.rows, channels + offset, n, d, b.kt);
  pack_rows(b.rows, 2 * channels + offset, n, d, b.v);
  const float* start = bias.of(kind, head);

  const RowTiles tiles(n);
  for (int64_t t = 0, r = 0; t < tiles.count; r += tiles.size(t), t++) {
    const int m = tiles.size(t);
    for (int64_t p = 0; p < panels_of(n); p++)
      tile_for<ScoreTile>(m, (int)(panel_width(n, p) / W))(d, b.q + r * b.ldq, b.ldq, panel(b.kt, d, p), b.s + p * NR,
                                                           b.lds, start + r * bias.stride + p * NR, bias.stride);
    if (next)
      for (int64_t part = 0; part < 3; part++) prefetch_head(next + r, m, part * channels + next_head * d, d);
    float factors[MR];
    for (int i = 0; i < m; i++) {
      float top;
      const float sum = softmax_row<Base::two>(b.s + i * b.lds, padded, &top);
      factors[i] = normalizer(sum);
      if (lse) lse[r + i] = log_sum<Base::two>(top, sum);
    }
    for (int64_t p = 0; p < panels_of(d); p++)
      tile_for<ValueTile<T>>(m, (int)(panel_width(d, p) / W))(
          n, b.s, b.lds, panel(b.v, n, p), factors, b.out + r, offset + p * NR, (int)smaller<int64_t>(NR, d - p * NR));
  }
}

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

template <class T>
static void window_attention_as(const Runtime& rt, const WindowAttentionArgs& a) {
  const Windows w(a);
  const int64_t n = w.positions(), d = a.head_dim, channels = a.heads * d, windows = a.batch * w.per_image();
  if (windows == 0) return;
  const PairBias bias = pair_bias(rt, w, (const T*)a.bias_table, a.heads);
  const T* padding = (const T*)a.pad;
  if (!padding) {
    T* zeros = (T*)rt.scratch(kVectors, 3 * channels * sizeof(T));
    memset((void*)zeros, 0, 3 * channels * sizeof(T));
    padding = zeros;
  }
  const WindowGrid grid(rt, windows, a.heads);
  for_tasks(rt, grid.tasks(), [&](int64_t i) {
    const WindowGrid::Task task = grid.task(i);
    WindowBuffers<T> b(rt, n, d);
    T* dropped = (T*)rt.scratch(kPartial, channels * sizeof(T));  // results of padded positions
    for (int64_t window = task.first; window < task.last; window++) {
      w.positions_of(window, b.at);
      rows_of(b.at, n, (T*)a.out, channels, dropped, b.out);
      rows_of(b.at, n, (const T*)a.qkv, 3 * channels, padding, b.rows);
      const bool more = window + 1 < task.last;
      if (more) {
        w.positions_of(window + 1, b.at);
        rows_of(b.at, n, (const T*)a.qkv, 3 * channels, padding, b.next);
      }
      for (int64_t head = task.first_head; head < task.last_head; head++) {
        const bool same = head + 1 < task.last_head;
        const T* const* next = same ? b.rows : more ? b.next : nullptr;
        attend_window(a, b, n, head, bias, w.kind_of(window), next, same ? head + 1 : task.first_head,
                      a.lse ? a.lse + (window * a.heads + head) * n : nullptr);
      }
    }
  });
}
static void window_attention(const Runtime& rt, const WindowAttentionArgs& a) {
  with_type(a.type, [&](auto t) { window_attention_as<decltype(t)>(rt, a); });
}

}  // namespace vitkern::VITKERN_ISA
