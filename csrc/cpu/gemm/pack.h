// B as the tiles read it: panels of some columns (NR for float32), each K rows of that many words, one after
// the other. The last panel is only as many whole vectors wide as it needs.
#pragma once
#include "micro.h"

namespace vitkern::VITKERN_ISA {

template <Dot D = Dot::f32>
VK_INLINE int64_t panels_of(int64_t n) {
  return (n + kPanel<D> - 1) / kPanel<D>;
}
// Columns of panel p, rounded up to whole vectors.
template <Dot D = Dot::f32>
VK_INLINE int64_t panel_width(int64_t n, int64_t p) {
  return smaller<int64_t>(kPanel<D>, round_up(n - p * kPanel<D>, W));
}
VK_INLINE int64_t packed_floats(int64_t n, int64_t k) { return round_up(n, W) * k; }
template <Dot D = Dot::f32, class F>
VK_INLINE F* panel(F* packed, int64_t k, int64_t p) {
  return packed + p * kPanel<D> * k;
}

// W columns of B^T, that is W rows of a row-major (n, k) matrix, into one vector column of a panel:
// out[i * width] = column i. Rows from `valid` on count as zeros.
template <class T>
VK_INLINE void pack_transposed(const T* rows, int64_t stride, int valid, int64_t k, float* out,
                               int64_t width) {
  int64_t i = 0;
  for (; i + W <= k; i += W) {
    vf r[W];
    VK_UNROLL
    for (int j = 0; j < W; j++) r[j] = j < valid ? load(rows + j * stride + i) : vf{};
    transpose(r);
    VK_UNROLL
    for (int j = 0; j < W; j++) store(out + (i + j) * width, r[j]);
  }
  for (; i < k; i++)
    for (int j = 0; j < W; j++) out[i * width + j] = j < valid ? read(rows + j * stride + i) : 0.f;
}

// One panel of B = weight^T, weight row-major (n, k).
template <Dot D = Dot::f32, class T>
static void pack_panel_nk(const T* weight, int64_t stride, int64_t n, int64_t k, int64_t p, float* out) {
  int64_t width = panel_width<D>(n, p);
  for (int64_t c = 0; c < width; c += W) {
    int64_t first = p * kPanel<D> + c;
    pack_transposed(weight + first * stride, stride, (int)smaller<int64_t>(W, n - first), k, out + c, width);
  }
}

// The same with pairs of bfloat16 along k in the place of floats.
template <class T>
static void pack_panel_pairs(const T* weight, int64_t n, int64_t k, int64_t p, float* out) {
  constexpr Dot D = Dot::bf16_pairs;
  if constexpr (sizeof(T) == 2) {
    if (k % 2 == 0) return pack_panel_nk<D>((const float*)weight, k / 2, n, k / 2, p, out);
  }
  const int64_t width = panel_width<D>(n, p);
  for (int64_t i = 0; i < k; i += 2)
    for (int64_t c = 0; c < width; c++) {
      const int64_t column = p * kPanel<D> + c;
      const T* w = weight + column * k + i;
      const bool live = column < n;
      bf16 pair[2] = {bf16{0}, bf16{0}};
      if (live) put(pair, to_float(w[0]));
      if (live && i + 1 < k) put(pair + 1, to_float(w[1]));
      memcpy(out + i / 2 * width + c, pair, 4);
    }
}

// One panel of B, row-major (k, n), each element through f.
template <class T, class F>
VK_INLINE void pack_panel_kn(const T* b, int64_t stride, int64_t n, int64_t k, int64_t p, float* out,
                             const F& f) {
  int64_t width = panel_width(n, p);
  for (int64_t i = 0; i < k; i++)
    for (int64_t c = 0; c < width; c += W) {
      const T* s = b + i * stride + p * NR + c;
      int64_t left = n - p * NR - c;
      store(out + i * width + c, f(left >= W ? load(s) : load_n(s, (int)left)));
    }
}

}  // namespace vitkern::VITKERN_ISA
