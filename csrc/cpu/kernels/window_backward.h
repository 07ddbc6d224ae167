// Gradient of window attention, written straight to the map: a position belongs to one window. A task
// is one head of some windows; how windows are grouped depends on the shapes alone, so that the sums
// over windows (of the bias table, of the padding) have one order, whatever the number of threads.
#pragma once
#include "attention_gradient.h"
#include "window_forward.h"

namespace vitkern::VITKERN_ISA {

template <class T>
struct WindowHooks {
  int64_t n, head_dim;
  float scale;
  const float* bias;  // of pairs of positions, in exponents of 2
  int64_t bias_stride;
  const int64_t* at;      // positions in the map, -1 = padding
  T *const *dk, *const *dv;
  float* pairs;            // sums of dS, (n, bias_stride)
  float *pad_k, *pad_v;   // sums of the padding's gradients
  bool whole_rows;
  Dropout dropout;
  int64_t first_row;

  void finish_scores(float* s, int64_t query, int64_t, int64_t) const {
    const float* row = bias + query * bias_stride;
    for (int64_t j = 0; j < n; j += W) store(s + j, load(s + j) + load(row + j));
  }
  void take(const float* ds, int64_t query, int64_t) const { add_row(ds, n, pairs + query * bias_stride); }
  void store_key(int64_t key, const float* k, const float* v) const {
    if (at[key] >= 0) {
      if (dk) store_row(k, head_dim, scale, dk[key]);
      if (dv) store_row(v, head_dim, 1.f, dv[key]);
    } else if (pad_k) {
      add_row(k, head_dim, pad_k);
      add_row(v, head_dim, pad_v);
    }
  }
};

// Sums of dS by entry of the bias table.
static void gather_pairs(const Windows& w, const float* pairs, int64_t stride, float* entries) {
  memset(entries, 0, w.table_rows() * 4);
  for (int64_t i = 0; i < w.positions(); i++)
    for (int64_t yj = 0; yj < w.wh; yj++) {
      float* to = entries + w.table_row(i / w.ww, i % w.ww, yj);
      const float* from = pairs + i * stride + yj * w.ww;
      for (int64_t xj = 0; xj < w.ww; xj++) to[-xj] += from[xj];
    }
}

// What a task leaves for the end: table entries, then the padding's dk and dv.
struct WindowPartials {
  int64_t chunks, heads, table, floats;
  float* data;

  WindowPartials(const Runtime& rt, int64_t windows, int64_t heads_, int64_t table_, int64_t head_dim)
      : chunks(smaller<int64_t>(windows, 32)), heads(heads_), table(table_), floats(round_up(table + 2 * head_dim, 16)) {
    data = (float*)rt.scratch(kVectors2, larger<int64_t>(1, chunks * heads * floats) * 4);
  }
  int64_t tasks() const { return chunks * heads; }
  float* of(int64_t chunk, int64_t head) const { return data + (chunk * heads + head) * floats; }
  // Sums over the chunks, in the first one's place.
  const float* sum(int64_t head) const {
    for (int64_t c = 1; c < chunks; c++) add_row(of(c, head), floats, of(0, head));
    return of(0, head);
  }
};

template <class T>
static void window_attention_backward_as(const Runtime& rt, const WindowAttentionBackwardArgs& a) {
  const WindowAttentionArgs& f = a.forward;
  const Windows w(f);
  const int64_t n = w.positions(), d = f.head_dim, channels = f.heads * d, windows = f.batch * w.per_image();
  const int64_t table_rows = w.table_rows();
  if (windows == 0) {
    if (a.dbias_table) memset(a.dbias_table, 0, table_rows * f.heads * sizeof(T));
    if (a.dpad) memset(a.dpad, 0, 3 * channels * sizeof(T));
    return;
  }
  const PairBias bias = pair_bias(rt, w, (const T*)f.bias_table, f.heads);
  T* zeros = (T*)rt.scratch(kVectors, 3 * channels * sizeof(T));
  memset((void*)zeros, 0, 3 * channels * sizeof(T));
  const T* padding = f.pad ? (const T*)f.pad : zeros;
  const WindowPartials partials(rt, windows, f.heads, table_rows, d);

  for_tasks(rt, partials.tasks(), [&](int64_t task) {
    const int64_t chunk = task / f.heads, head = task % f.heads, offset = head * d;
    const int64_t list = round_up(n, 8);
    const int64_t pairs_floats = a.dbias_table ? round_up(n * bias.stride, 16) : 0;
    char* memory = (char*)rt.scratch(kTile, 9 * list * 8 + pairs_floats * 4 + round_up(d, 16) * 4);
    int64_t* at = (int64_t*)memory;
    const T **q = (const T**)(at + list), **k = q + list, **v = k + list, **out = v + list, **dout = out + list;
    T **dq = (T**)(dout + list), **dk = dq + list, **dv = dk + list;
    float* pairs = (float*)(dv + list);
    T* dropped = (T*)(pairs + pairs_floats);  // dQ of padded positions: zeros
    memset(pairs, 0, pairs_floats * 4);
    float *entries = partials.of(chunk, head), *pad_k = entries + table_rows, *pad_v = pad_k + d;
    memset(entries, 0, partials.floats * 4);

    const int64_t first = windows * chunk / partials.chunks, last = windows * (chunk + 1) / partials.chunks;
    for (int64_t window = first; window < last; window++) {
      w.positions_of(window, at);
      const T* qkv = (const T*)f.qkv + offset;
      rows_of(at, n, qkv, 3 * channels, padding + offset, q);
      rows_of(at, n, qkv + channels, 3 * channels, padding + channels + offset, k);
      rows_of(at, n, qkv + 2 * channels, 3 * channels, padding + 2 * channels + offset, v);
      rows_of(at, n, (const T*)f.out + offset, channels, (const T*)zeros, out);
      rows_of(at, n, (const T*)a.dout + offset, channels, (const T*)zeros, dout);
      if (a.dqkv) {
        T* dqkv = (T*)a.dqkv + offset;
        rows_of(at, n, dqkv, 3 * channels, dropped, dq);
        rows_of(at, n, dqkv + channels, 3 * channels, dropped, dk);
        rows_of(at, n, dqkv + 2 * channels, 3 * channels, dropped, dv);
      }
      const bool keys = a.dqkv || a.dpad;
      WindowHooks<T> hooks{n, d, f.scale, bias.of(w.kind_of(window), head), bias.stride, at, a.dqkv ? dk : nullptr,
                           a.dqkv ? dv : nullptr, pairs, a.dpad ? pad_k : nullptr, pad_v, true, Dropout(0, 0), 0};
      const HeadRows<T> rows{n, n, d, f.scale, q, k, v, out, dout, f.lse + (window * f.heads + head) * n,
                             a.dqkv ? dq : nullptr, keys, keys, a.dbias_table != nullptr};
      head_gradient<Base::two>(rt, rows, hooks);
    }
    if (a.dbias_table) gather_pairs(w, pairs, bias.stride, entries);
  });

  if (!a.dbias_table && !a.dpad) return;
  if (a.dpad) memset(a.dpad, 0, channels * sizeof(T));  // queries of padded positions have no effect
  for_tasks(rt, f.heads, [&](int64_t head) {
    const float* sums = partials.sum(head);
    if (a.dbias_table)
      for (int64_t i = 0; i < table_rows; i++) put((T*)a.dbias_table + i * f.heads + head, sums[i]);
    if (!a.dpad) return;
    store_row(sums + table_rows, d, f.scale, (T*)a.dpad + channels + head * d);
    store_row(sums + table_rows + d, d, 1.f, (T*)a.dpad + 2 * channels + head * d);
  });
}
static void window_attention_backward(const Runtime& rt, const WindowAttentionBackwardArgs& a) {
  with_type(a.forward.type, [&](auto t) { window_attention_backward_as<decltype(t)>(rt, a); });
}

}  // namespace vitkern::VITKERN_ISA
