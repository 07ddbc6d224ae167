// The products of a linear layer's backward pass that have activations on both sides.
#pragma once
#include "weight.h"

namespace vitkern::VITKERN_ISA {

// totals[c] += the sum of column c: runs of rows in float, their sums in double.
static void add_columns(const float* z, int64_t stride, int64_t rows, int64_t columns, double* totals) {
  constexpr int64_t kRun = 16;
  for (int64_t r0 = 0; r0 < rows; r0 += kRun) {
    const int64_t r1 = smaller(rows, r0 + kRun);
    int64_t c = 0;
    for (; c + W <= columns; c += W) {
      vf s = {};
      for (int64_t r = r0; r < r1; r++) s = s + load(z + r * stride + c);
      for (int i = 0; i < W; i++) totals[c + i] += s[i];
    }
    for (; c < columns; c++)
      for (int64_t r = r0; r < r1; r++) totals[c] += z[r * stride + c];
  }
}

// dweight (out, in) = z^T x and dbias = the column sums of z, with z (rows, out) float32 and x's rows
// from `x(first column, columns)`, a source like PlainRows, each element through `map`. One task owns
// a block of dweight and walks all rows in order, so that the result does not depend on threads.
// `costly_map`: wider blocks, so that fewer tasks map the same element.
template <class T, class XSource, class Map>
static void weight_gradient(const Runtime& rt, int64_t rows, int64_t out, int64_t in, const float* z,
                            int64_t z_stride, const XSource& x, int64_t in_block, bool costly_map, const Map& map,
                            T* dweight, T* dbias) {
  // A block of z^T, cut into tiles of MR columns, stays in the second-level cache; a panel of x in the
  // first, where every tile uses it.
  const int64_t out_block = (costly_map ? 64 : 32) * MR, chunk = costly_map ? 192 : 320;
  const int64_t out_blocks = (out + out_block - 1) / out_block;
  in_block = round_up(larger<int64_t>(in_block, 1), NR);
  const int64_t in_blocks = larger<int64_t>(1, (in + in_block - 1) / in_block);  // dbias needs one
  for_tasks(rt, out_blocks * in_blocks, [&](int64_t task) {
    const int64_t o0 = task / in_blocks * out_block, on = smaller(out_block, out - o0);
    const int64_t i0 = task % in_blocks * in_block, in_n = smaller(in_block, in - i0);
    const int64_t lds = round_up(in_n, W) + 16;
    float* zt = (float*)rt.scratch(kRowsT, chunk * out_block * 4);
    float* xb = (float*)rt.scratch(kRowsA, chunk * padded_stride(in_n) * 4);
    float* b = (float*)rt.scratch(kPanelsB, chunk * NR * 4 + kPrefetchSlack);
    float* sums = (float*)rt.scratch(kPartial, (on * lds + 2 * out_block) * 4 + 64);
    double* bias = (double*)rt.scratch(kTile, out_block * 8);
    for (int64_t o = 0; o < on; o++) bias[o] = 0;
    if (rows == 0)
      for (int64_t i = 0; i < on * lds; i++) sums[i] = 0.f;
    const auto source = x(i0, in_n);
    const RowTiles tiles(on);
    for (int64_t r0 = 0; r0 < rows; r0 += chunk) {
      const int64_t n = smaller(chunk, rows - r0);
      const float* zr = z + r0 * z_stride + o0;
      if (dbias && i0 == 0) add_columns(zr, z_stride, n, on, bias);
      if (!dweight) continue;
      for (int64_t t = 0, o = 0; t < tiles.count; t++) {
        const int m = tiles.size(t);
        float* to = zt + o * n;
        if (m == MR) for (int64_t r = 0; r < n; r++) memcpy(to + r * MR, zr + r * z_stride + o, MR * 4);
        else for (int64_t r = 0; r < n; r++) for (int i = 0; i < m; i++) to[r * m + i] = zr[r * z_stride + o + i];
        o += m;
      }
      int64_t ldx;
      const float* xr = source.block(r0, n, xb, &ldx);
      for (int64_t p = 0; p < panels_of(in_n); p++) {
        pack_panel_kn(xr, ldx, in_n, n, p, b, map);
        const int vectors = (int)(panel_width(in_n, p) / W);
        for (int64_t t = 0, o = 0; t < tiles.count; t++) {
          const int m = tiles.size(t);
          tile_function<ALayout::transposed>(m, vectors)(n, zt + o * n, m, b, sums + o * lds + p * NR, lds, r0 > 0);
          o += m;
        }
      }
    }
    if (dweight)
      for (int64_t o = 0; o < on; o++)
        for (int64_t i = 0; i < in_n; i++) put(dweight + (o0 + o) * in + i0 + i, sums[o * lds + i]);
    if (dbias && i0 == 0)
      for (int64_t o = 0; o < on; o++) put(dbias + o0 + o, (float)bias[o]);
  });
}

// out[c] = sum over rows of f(row, c), W columns at a time: f(row, column, live columns) -> vf.
template <class T, class F>
static void column_sums(const Runtime& rt, int64_t rows, int64_t columns, T* out, const F& f) {
  constexpr int64_t kBlock = 4 * W;
  for_tasks(rt, (columns + kBlock - 1) / kBlock, [&](int64_t task) {
    for (int64_t c = task * kBlock; c < smaller(columns, (task + 1) * kBlock); c += W) {
      const int n = (int)smaller<int64_t>(W, columns - c);
      // Runs of rows in float, their sums in double: thousands of rows would lose digits otherwise.
      constexpr int64_t kRun = 16;
      double total[W] = {};
      for (int64_t r0 = 0; r0 < rows; r0 += kRun) {
        vf s = {};
        for (int64_t r = r0; r < smaller(rows, r0 + kRun); r++) s = s + f(r, c, n);
        for (int i = 0; i < W; i++) total[i] += s[i];
      }
      for (int i = 0; i < n && i < W; i++) put(out + c + i, (float)total[i]);
    }
  });
}

template <class T>
VK_INLINE vf load_up_to(const T* p, int n) { return n >= W ? load(p) : load_n(p, n); }

// z = dy * gamma * activation'(pre) as float32 rows `stride` apart; null gamma and pre drop out.
template <class T>
static void scaled_gradient(const Runtime& rt, int64_t rows, int64_t columns, const T* dy, const float* gamma,
                            const T* pre, Activation f, float* z, int64_t stride) {
  constexpr int64_t kRows = 16;
  for_tasks(rt, (rows + kRows - 1) / kRows, [&](int64_t task) {
    for (int64_t r = task * kRows; r < smaller(rows, (task + 1) * kRows); r++)
      for (int64_t c = 0; c < columns; c += W) {
        const int n = (int)smaller<int64_t>(W, columns - c);
        vf x = load_up_to(dy + r * columns + c, n);
        if (gamma) x = x * load(gamma + c);
        if (pre && f != Activation::none) x = x * activation_derivative(f, load_up_to(pre + r * columns + c, n));
        store(z + r * stride + c, x);  // rows are padded
      }
  });
}

}  // namespace vitkern::VITKERN_ISA
