// Rows of q, k, v and their gradients that lie anywhere in memory: copies as float32, and panels.
#pragma once
#include "../gemm/gemm.h"

namespace vitkern::VITKERN_ISA {

// out[0:n] = factor * row, as float32.
template <class T>
VK_INLINE void copy_row(const T* row, int64_t n, float factor, float* out) {
  const vf f = splat(factor);
  int64_t i = 0;
  for (; i + W <= n; i += W) store(out + i, load(row + i) * f);
  for (; i < n; i++) out[i] = to_float(row[i]) * factor;
}

// row[0:n] = factor * x.
template <class T>
VK_INLINE void store_row(const float* x, int64_t n, float factor, T* row) {
  const vf f = splat(factor);
  int64_t i = 0;
  for (; i + W <= n; i += W) store(row + i, load(x + i) * f);
  for (; i < n; i++) put(row + i, x[i] * factor);
}

// sums[0:n] += x[0:n]
VK_INLINE void add_row(const float* x, int64_t n, float* sums) {
  int64_t i = 0;
  for (; i + W <= n; i += W) store(sums + i, load(sums + i) + load(x + i));
  for (; i < n; i++) sums[i] += x[i];
}

// Dot product of two rows of n elements.
template <class T>
VK_INLINE float dot_rows(const T* a, const T* b, int64_t n) {
  vf s = {};
  int64_t i = 0;
  for (; i + W <= n; i += W) s = load(a + i) * load(b + i) + s;
  float total = sum(s);
  for (; i < n; i++) total += to_float(a[i]) * to_float(b[i]);
  return total;
}

typedef float v4 __attribute__((vector_size(16)));
VK_INLINE v4 load4(const float* p) {
  typedef float unaligned __attribute__((vector_size(16), aligned(4), may_alias));
  return *(const unaligned*)p;
}
VK_INLINE v4 load4(const bf16* p) {
  typedef uint16_t unaligned __attribute__((vector_size(8), aligned(2), may_alias));
  typedef uint32_t u4 __attribute__((vector_size(16)));
  return (v4)(__builtin_convertvector(*(const unaligned*)p, u4) << 16);
}

// Four elements from each of rows[0], rows[4], ... side by side.
template <class T>
VK_INLINE vf load_fours(T* const* rows, int64_t offset) {
#if VITKERN_WIDTH == 4
  return load4(rows[0] + offset);
#else
  const auto pair = [&](int q) __attribute__((always_inline)) {
    return __builtin_shufflevector(load4(rows[4 * q] + offset), load4(rows[4 * q + 4] + offset), 0, 1, 2, 3, 4, 5, 6, 7);
  };
#if VITKERN_WIDTH == 8
  return pair(0);
#else
  return __builtin_shufflevector(pair(0), pair(2), 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#endif
#endif
}

// A shuffle within every four lanes: indices 0 to 3 are a's, 4 to 7 are b's.
#define VK_LANE(i, quad) ((i) % 4 + 4 * (quad) + (i) / 4 * W)
#define VK_QUAD(i, j, k, l, quad) VK_LANE(i, quad), VK_LANE(j, quad), VK_LANE(k, quad), VK_LANE(l, quad)
#if VITKERN_WIDTH == 4
#define VK_QUADS(a, b, i, j, k, l) __builtin_shufflevector(a, b, VK_QUAD(i, j, k, l, 0))
#elif VITKERN_WIDTH == 8
#define VK_QUADS(a, b, i, j, k, l) __builtin_shufflevector(a, b, VK_QUAD(i, j, k, l, 0), VK_QUAD(i, j, k, l, 1))
#else
#define VK_QUADS(a, b, i, j, k, l)                                                                        \
  __builtin_shufflevector(a, b, VK_QUAD(i, j, k, l, 0), VK_QUAD(i, j, k, l, 1), VK_QUAD(i, j, k, l, 2), \
                          VK_QUAD(i, j, k, l, 3))
#endif

// Four columns of W rows, transposed: out[c] = rows[0..W)[c]. Four lanes are loaded at a time and put
// where they belong, so that no shuffle has to cross from one four to another (half the shuffles of
// transposing whole vectors).
template <class T>
VK_INLINE void transpose4(T* const* rows, int64_t offset, vf (&out)[4]) {
  vf r[4];
  VK_UNROLL
  for (int j = 0; j < 4; j++) r[j] = load_fours(rows + j, offset);
  const vf low01 = VK_QUADS(r[0], r[1], 0, 4, 1, 5), high01 = VK_QUADS(r[0], r[1], 2, 6, 3, 7);
  const vf low23 = VK_QUADS(r[2], r[3], 0, 4, 1, 5), high23 = VK_QUADS(r[2], r[3], 2, 6, 3, 7);
  out[0] = VK_QUADS(low01, low23, 0, 1, 4, 5);
  out[1] = VK_QUADS(low01, low23, 2, 3, 6, 7);
  out[2] = VK_QUADS(high01, high23, 0, 1, 4, 5);
  out[3] = VK_QUADS(high01, high23, 2, 3, 6, 7);
}
#undef VK_QUADS
#undef VK_QUAD
#undef VK_LANE

// W rows of k elements that lie anywhere, transposed into one vector column of a panel. What stands in
// for rows from `valid` on is of no use, but as finite as the others.
template <class T>
VK_INLINE void pack_transposed_rows(T* const* rows, int64_t offset, int valid, int64_t k, float* out, int64_t width) {
  T* all[W];
  if (valid < W) {
    for (int j = 0; j < W; j++) all[j] = rows[j < valid ? j : valid - 1];
    rows = all;
  }
  const int64_t whole = k / 4 * 4;
  for (int64_t i = 0; i < whole; i += 4) {
    vf columns[4];
    transpose4(rows, offset + i, columns);
    VK_UNROLL
    for (int c = 0; c < 4; c++) store(out + (i + c) * width, columns[c]);
  }
  for (int64_t i = whole; i < k; i++)
    for (int j = 0; j < W; j++) out[i * width + j] = read(rows[j] + offset + i);
}
// B = rows^T, n rows of k elements at `offset`.
template <class T>
VK_INLINE void pack_rows_transposed(T* const* rows, int64_t offset, int64_t n, int64_t k, float* out) {
  for (int64_t c = 0; c < n; c += W) {
    const int64_t p = c / NR, width = panel_width(n, p);
    pack_transposed_rows(rows + c, offset, (int)smaller<int64_t>(W, n - c), k, panel(out, k, p) + c % NR, width);
  }
}
// B = rows, n rows of k elements at `offset` (n is the product's inner dimension).
template <class T>
VK_INLINE void pack_rows(T* const* rows, int64_t offset, int64_t n, int64_t k, float* out) {
  for (int64_t p = 0; p < panels_of(k); p++) {
    const int64_t width = panel_width(k, p);
    float* o = panel(out, n, p);
    for (int64_t i = 0; i < n; i++)
      for (int64_t c = 0; c < width; c += W) {
        const T* s = rows[i] + offset + p * NR + c;
        const int64_t left = k - p * NR - c;
        store(o + i * width + c, left >= W ? load(s) : load_n(s, (int)left));
      }
  }
}

}  // namespace vitkern::VITKERN_ISA
