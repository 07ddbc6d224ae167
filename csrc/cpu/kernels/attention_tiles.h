// The two products of attention as register tiles with their own ends: scores start from a bias,
// weighted values are normalised and go to rows anywhere in memory.
#pragma once
#include "../gemm/gemm.h"
#include "softmax.h"

namespace vitkern::VITKERN_ISA {

// F::run<M, vectors> for M = m rows (1 to MR) and 1 to NV vectors of columns.
template <class F, int Vectors, int... M>
struct TileTable {
  static constexpr typename F::Function* functions[] = {F::template run<M, Vectors>...};
};
template <class F, int Vectors>
VK_INLINE typename F::Function* tile_of_rows(int m) {
#if VITKERN_WIDTH == 16
  return TileTable<F, Vectors, 1, 2, 3, 4, 5, 6, 7, 8, 9>::functions[m - 1];
#else
  return TileTable<F, Vectors, 1, 2, 3, 4, 5, 6>::functions[m - 1];
#endif
}
template <class F>
VK_INLINE typename F::Function* tile_for(int m, int vectors) {
#if VITKERN_WIDTH == 16
  if (vectors == 3) return tile_of_rows<F, 3>(m);
#endif
  return vectors == 2 ? tile_of_rows<F, 2>(m) : tile_of_rows<F, 1>(m);
}

// s[0:M, 0:Vectors*W] = start + Q * K^T; `start` null = zeros.
struct ScoreTile {
  typedef void Function(int64_t k, const float* q, int64_t ldq, const float* kt, float* s, int64_t lds,
                        const float* start, int64_t ld_start);
  template <int M, int Vectors>
  static void run(int64_t k, const float* q, int64_t ldq, const float* kt, float* s, int64_t lds, const float* start,
                  int64_t ld_start) {
    vf acc[M][Vectors];
    VK_UNROLL
    for (int r = 0; r < M; r++)
      VK_UNROLL
      for (int j = 0; j < Vectors; j++) acc[r][j] = vf{};
    if (start) {
      VK_UNROLL
      for (int r = 0; r < M; r++)
        VK_UNROLL
        for (int j = 0; j < Vectors; j++) acc[r][j] = load(start + r * ld_start + j * W);
    }
    multiply<M, Vectors, ALayout::row_major, Dot::f32>(k, q, ldq, kt, acc);
    VK_UNROLL
    for (int r = 0; r < M; r++)
      VK_UNROLL
      for (int j = 0; j < Vectors; j++) store(s + r * lds + j * W, acc[r][j]);
  }
};

// rows[r][column...] = factors[r] * (P * V)[r]; `live` of the tile's columns exist.
template <class T>
struct ValueTile {
  typedef void Function(int64_t k, const float* p, int64_t ldp, const float* v, const float* factors, T* const* rows,
                        int64_t column, int live);
  template <int M, int Vectors>
  static void run(int64_t k, const float* p, int64_t ldp, const float* v, const float* factors, T* const* rows,
                  int64_t column, int live) {
    // Long sums are sums of shorter ones, which keeps the rounding error small.
    alignas(64) float sums[M][Vectors * W];
    vf acc[M][Vectors];
    for (bool first = true;; first = false) {
      const int64_t n = k < kChain + kChain / 2 ? k : kChain;
      VK_UNROLL
      for (int r = 0; r < M; r++)
        VK_UNROLL
        for (int j = 0; j < Vectors; j++) acc[r][j] = vf{};
      multiply<M, Vectors, ALayout::row_major, Dot::f32>(n, p, ldp, v, acc);
      if (!first) {
        VK_UNROLL
        for (int r = 0; r < M; r++)
          VK_UNROLL
          for (int j = 0; j < Vectors; j++) acc[r][j] = acc[r][j] + load(&sums[r][j * W]);
      }
      k -= n;
      if (k == 0) break;
      VK_UNROLL
      for (int r = 0; r < M; r++)
        VK_UNROLL
        for (int j = 0; j < Vectors; j++) store(&sums[r][j * W], acc[r][j]);
      p += n;
      v += n * Vectors * W;
    }
    if (live == Vectors * W) {
      VK_UNROLL
      for (int r = 0; r < M; r++) {
        const vf f = splat(factors[r]);
        VK_UNROLL
        for (int j = 0; j < Vectors; j++) store(rows[r] + column + j * W, acc[r][j] * f);
      }
      return;
    }
    VK_UNROLL
    for (int r = 0; r < M; r++)
      VK_UNROLL
      for (int j = 0; j < Vectors; j++) {
        const int n = live - j * W;
        if (n >= W) store(rows[r] + column + j * W, acc[r][j] * splat(factors[r]));
        else if (n > 0) store_n(rows[r] + column + j * W, acc[r][j] * splat(factors[r]), n);
      }
  }
};

}  // namespace vitkern::VITKERN_ISA
