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

// W rows of a row-major matrix that lie anywhere, transposed into one vector column of a panel.
template <class T>
VK_INLINE void pack_transposed_rows(T* const* rows, int64_t offset, int valid, int64_t k, float* out, int64_t width) {
  int64_t i = 0;
  for (; i + W <= k; i += W) {
    vf r[W];
    VK_UNROLL
    for (int j = 0; j < W; j++) r[j] = j < valid ? load(rows[j] + offset + i) : vf{};
    transpose(r);
    VK_UNROLL
    for (int j = 0; j < W; j++) store(out + (i + j) * width, r[j]);
  }
  for (; i < k; i++)
    for (int j = 0; j < W; j++) out[i * width + j] = j < valid ? to_float(rows[j][offset + i]) : 0.f;
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
