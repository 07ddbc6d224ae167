// The two products of attention for the rows of one register tile, with their own ends: scores start
// from a bias, weighted values are normalised and go to rows anywhere in memory.
#pragma once
#include "../gemm/gemm.h"
#include "softmax.h"

namespace vitkern::VITKERN_ISA {

// F::run<M> for M = m rows, 1 to MR.
template <class F, int... M>
struct TileTable {
  static constexpr typename F::Function* functions[] = {F::template run<M>...};
};
template <class F>
VK_INLINE typename F::Function* tile_for(int m) {
#if VITKERN_WIDTH == 16
  return TileTable<F, 1, 2, 3, 4, 5, 6, 7, 8, 9>::functions[m - 1];
#else
  return TileTable<F, 1, 2, 3, 4, 5, 6>::functions[m - 1];
#endif
}

// Calls f(first column, vectors of the panel as a constant) for every panel of `columns` columns.
template <int N>
struct Vectors {
  static constexpr int count = N;
};
template <class F>
VK_INLINE void for_panels(int64_t columns, const F& f) {
  int64_t c = 0;
  for (; columns - c > NR - W; c += NR) f(c, Vectors<NV>());
  if constexpr (NV > 2)
    if (columns - c > W) return f(c, Vectors<2>());
  if (columns > c) f(c, Vectors<1>());
}

// Lines of memory to ask for while tiles are computed, some rows at every panel: all at once would
// fill the queues of the cache. `part_bytes` lie between the three parts of a row to read.
struct Prefetch {
  const char* const* rows;  // null = nothing to read
  const char* const* out;
  int64_t part_bytes, rows_offset, out_offset, row_bytes, count, at_once, row;

  __attribute__((always_inline)) void lines(const char* p) const {
    for (int64_t i = 0; i < row_bytes; i += 64) __builtin_prefetch(p + i, 0, 3);
  }
  __attribute__((always_inline)) void step() {
    for (int64_t end = smaller(count, row + at_once); row < end; row++) {
      if (rows)
        for (int part = 0; part < 3; part++) lines(rows[row] + rows_offset + part * part_bytes);
      lines(out[row] + out_offset);
    }
  }
};

// s[0:M, 0:columns] = start + Q * K^T, whole vectors of columns; `start` null = zeros.
struct ScoreTile {
  typedef void Function(int64_t k, const float* q, int64_t ldq, const float* kt, int64_t columns, float* s,
                        int64_t lds, const float* start, int64_t ld_start, Prefetch* ahead);

  template <int M, int V>
  VK_INLINE void panel(int64_t k, const float* q, int64_t ldq, const float* kt, float* s, int64_t lds,
                       const float* start, int64_t ld_start) {
    vf acc[M][V];
    VK_UNROLL
    for (int r = 0; r < M; r++)
      VK_UNROLL
      for (int j = 0; j < V; j++) acc[r][j] = vf{};
    if (start) {
      VK_UNROLL
      for (int r = 0; r < M; r++)
        VK_UNROLL
        for (int j = 0; j < V; j++) acc[r][j] = load(start + r * ld_start + j * W);
    }
    multiply<M, V, ALayout::row_major>(k, q, ldq, kt, acc);
    VK_UNROLL
    for (int r = 0; r < M; r++)
      VK_UNROLL
      for (int j = 0; j < V; j++) store(s + r * lds + j * W, acc[r][j]);
  }

  template <int M>
  static void run(int64_t k, const float* q, int64_t ldq, const float* kt, int64_t columns, float* s, int64_t lds,
                  const float* start, int64_t ld_start, Prefetch* ahead) {
    for_panels(columns, [&](int64_t c, auto v) __attribute__((always_inline)) {
      panel<M, decltype(v)::count>(k, q, ldq, kt + c * k, s + c, lds, start ? start + c : nullptr, ld_start);
      if (ahead) ahead->step();
    });
  }
};

// rows[r][column + (0:columns)] = factors[r] * (P * V)[r].
template <class T>
struct ValueTile {
  typedef void Function(int64_t k, const float* p, int64_t ldp, const float* v, int64_t columns,
                        const float* factors, T* const* rows, int64_t column);

  template <int M, int V>
  VK_INLINE void panel(int64_t k, const float* p, int64_t ldp, const float* v, const float* factors, T* const* rows,
                       int64_t column, int64_t live) {
    // Long sums are sums of shorter ones, which keeps the rounding error small.
    alignas(W * 4) float sums[M][V * W];
    vf acc[M][V];
    for (bool first = true;; first = false) {
      const int64_t n = k < kChain + kChain / 2 ? k : kChain;
      VK_UNROLL
      for (int r = 0; r < M; r++)
        VK_UNROLL
        for (int j = 0; j < V; j++) acc[r][j] = vf{};
      multiply<M, V, ALayout::row_major>(n, p, ldp, v, acc);
      if (!first) {
        VK_UNROLL
        for (int r = 0; r < M; r++)
          VK_UNROLL
          for (int j = 0; j < V; j++) acc[r][j] = acc[r][j] + load(&sums[r][j * W]);
      }
      k -= n;
      if (k == 0) break;
      VK_UNROLL
      for (int r = 0; r < M; r++)
        VK_UNROLL
        for (int j = 0; j < V; j++) store(&sums[r][j * W], acc[r][j]);
      p += n;
      v += n * V * W;
    }
    if (live >= V * W) {
      VK_UNROLL
      for (int r = 0; r < M; r++) {
        const vf f = splat(factors[r]);
        VK_UNROLL
        for (int j = 0; j < V; j++) store(rows[r] + column + j * W, acc[r][j] * f);
      }
      return;
    }
    VK_UNROLL
    for (int r = 0; r < M; r++)
      VK_UNROLL
      for (int j = 0; j < V; j++) {
        const int64_t n = live - j * W;
        if (n >= W) store(rows[r] + column + j * W, acc[r][j] * splat(factors[r]));
        else if (n > 0) store_n(rows[r] + column + j * W, acc[r][j] * splat(factors[r]), (int)n);
      }
  }

  template <int M>
  static void run(int64_t k, const float* p, int64_t ldp, const float* v, int64_t columns, const float* factors,
                  T* const* rows, int64_t column) {
    for_panels(columns, [&](int64_t c, auto w) __attribute__((always_inline)) {
      panel<M, decltype(w)::count>(k, p, ldp, v + c * k, factors, rows, column + c, columns - c);
    });
  }
};

}  // namespace vitkern::VITKERN_ISA
