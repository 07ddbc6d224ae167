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
      typedef double vd __attribute__((vector_size(W * 8), aligned(8), may_alias));
      *(vd*)(totals + c) += __builtin_convertvector(s, vd);
    }
    for (; c < columns; c++)
      for (int64_t r = r0; r < r1; r++) totals[c] += z[r * stride + c];
  }
}

// Rows^T in tiles of up to MR columns, as `tile` reads a transposed A.
struct TransposedRows {
  const float* data;
  int64_t stride;  // 0: packed, a tile after the other

  const float* tile(int64_t n, int64_t column) const { return data + (stride ? column : column * n); }
  int64_t lda(int columns) const { return stride ? stride : columns; }
};
// Rows a page apart share cache sets, and short tiles use little of each line.
VK_INLINE bool in_place(int64_t stride) { return W == 16 ? stride % 1024 != 0 : stride <= 576; }

// n rows as they are, or packed into `out`, where that pays. A row after the other is packed: the same few
// columns of many rows would lie in few sets of the cache.
VK_INLINE TransposedRows transposed_rows(const float* rows, int64_t stride, int64_t n, const RowTiles& tiles,
                                         float* out) {
  if (in_place(stride)) return {rows, stride};
  const int64_t whole = tiles.base == MR ? tiles.count : tiles.base + 1 == MR ? tiles.longer : 0;
  for (int64_t r = 0; r < n; r++) {
    const float* from = rows + r * stride;
    float* to = out;
    for (int64_t t = 0; t < tiles.count; t++) {
      const int m = t < whole ? MR : tiles.size(t);
      if (m == MR) memcpy(to + r * MR, from, MR * 4);
      else
        for (int i = 0; i < m; i++) to[r * m + i] = from[i];
      from += m, to += m * n;
    }
  }
  return {out, 0};
}

// Rows that the next panel will be made of, which are asked for while one is multiplied.
struct NextRows {
  const float* data = nullptr;  // null: none
  int64_t stride = 0;
};

// c = (accumulate ? c : 0) + a^T panel: as many rows as the tiles have columns, `width` columns, and sums over
// n.
VK_INLINE void multiply_tiles(const RowTiles& tiles, const TransposedRows& a, int64_t n, const float* panel,
                              int64_t width, float* c, int64_t ldc, bool accumulate, const NextRows& next = {}) {
  int64_t asked = 0;
  for (int64_t t = 0, r = 0; t < tiles.count; r += tiles.size(t), t++) {
    const int m = tiles.size(t);
    const Lines lines{(const char*)(next.data + asked * next.stride), nullptr, next.stride * 4, 0, NR * 4};
    const bool ask = next.data && asked + m <= n;
    tile_function<ALayout::transposed>(m, (int)(width / W))(n, a.tile(n, r), a.lda(m), panel, c + r * ldc, ldc,
                                                            accumulate, nullptr, ask ? &lines : nullptr);
    asked += m;
  }
}

#if VITKERN_AMX
// sums (on, in_n) = (accumulate ? sums : 0) + z^T x on tiles, for n rows of both, each element of x through `map`.
template <class Map>
static void multiply_chunk_in_parts(const Runtime& rt, const float* z, int64_t z_stride, int64_t on, const float* x,
                                    int64_t ldx, int64_t in_n, int64_t n, const Map& map, float* sums, int64_t lds,
                                    bool accumulate, double* totals) {
  using C = Compute<float>;
  const int64_t steps = C::steps(n), lda = C::stride(n), panels = panels_of<C::dot>(in_n);
  float* a = (float*)rt.scratch(kRowsT, on * lda * 4);
  put_transposed_parts(z, z_stride, n, on, a, lda, totals);
  float *b = (float*)rt.scratch(kPanelsB, packed_bytes_as<C>(in_n, n)), *reach = b + packed_floats(in_n, steps);
  pack_plain_in_parts(x, ldx, in_n, n, b, reach, map);
  Operand b_side(b);
  b_side.reach = reach;
  Epilogue<float> e{sums, lds};
  if (accumulate) e.residual = sums, e.residual_stride = lds;
  multiply_block<C::dot>(rt, a, lda, 0, on, b_side, in_n, steps, 0, panels, e);
}
#endif

// How a weight's gradient is cut into tasks: blocks of the weight and, where these are few, slices of
// the rows, whose sums are added up in order. By shapes alone, so that results do not depend on the
// number of threads.
struct GradientGrid {
  int64_t rows, out, in, out_block, in_block, chunk, out_blocks, in_blocks, slices;
  GradientGrid(int64_t rows_, int64_t out_, int64_t in_, bool whole_rows, bool costly_map)
      : rows(rows_), out(out_), in(in_) {
    // A chunk of a block of z^T, cut into tiles of MR columns, stays in the second-level cache; a panel
    // of x in the first, where every tile uses it. The costlier x's elements, the wider the block.
    // (Tiles read both from the second: 512 by 384 over 256 rows are 1.3 MiB in parts.)
    out_block = VITKERN_AMX ? 512 : (costly_map ? 64 : 32) * MR;
    chunk = VITKERN_AMX ? 256 : costly_map ? 192 : 320;
    in_block = round_up(larger<int64_t>(whole_rows ? in : smaller<int64_t>(in, 384), 1), NR);
    out_blocks = (out + out_block - 1) / out_block;
    in_blocks = larger<int64_t>(1, (in + in_block - 1) / in_block);  // a bias has a gradient without inputs, too
    const int64_t blocks = larger<int64_t>(1, out_blocks * in_blocks);
    slices = larger<int64_t>(1, smaller((8 + blocks - 1) / blocks, rows / (2 * chunk)));
  }
  int64_t tasks() const { return slices * out_blocks * in_blocks; }
  int64_t first_row(int64_t slice) const { return rows * slice / slices; }
};

// dweight (out, in) = z^T x and dbias = the column sums of z, with z (rows, out) float32 and x's rows
// from `x(first column, columns)`, a source like PlainRows, each element through `map`. `whole_rows`:
// the source has no rows but whole ones. `costly_map`: fewer tasks should map the same element.
template <class T, class XSource, class Map>
static void weight_gradient(const Runtime& rt, int64_t rows, int64_t out, int64_t in, const float* z,
                            int64_t z_stride, const XSource& x, bool whole_rows, bool costly_map, const Map& map,
                            T* dweight, T* dbias) {
  const GradientGrid g(rows, out, in, whole_rows, costly_map);
  // Sums go straight to the gradient where they are all of it.
  const bool direct = dweight && sizeof(T) == 4 && g.slices == 1 && in % W == 0 && rows > 0;
  const int64_t lds = direct ? in : round_up(in, W) + 16, slice_floats = out * lds;
  double* bias = (double*)rt.scratch(kGradient, g.slices * (out * 8 + (direct ? 0 : slice_floats * 4)) + 64);
  float* partial = direct ? (float*)dweight : (float*)(bias + g.slices * out);
  for_tasks(rt, g.tasks(), [&](int64_t task) {
    const int64_t slice = task / (g.out_blocks * g.in_blocks), block = task % (g.out_blocks * g.in_blocks);
    const int64_t o0 = block / g.in_blocks * g.out_block, on = smaller(g.out_block, out - o0);
    const int64_t i0 = block % g.in_blocks * g.in_block, in_n = smaller(g.in_block, in - i0);
    const int64_t begin = g.first_row(slice), end = g.first_row(slice + 1);
    float* xb = (float*)rt.scratch(kRowsA, (g.chunk + 1) * padded_stride(in_n) * 4);
#if !VITKERN_AMX
    float* zt = (float*)rt.scratch(kRowsT, g.chunk * g.out_block * 4);
    float* b = (float*)rt.scratch(kPanelsB, g.chunk * NR * 4 + kPrefetchSlack);
    const RowTiles tiles(on);
#endif
    float* sums = partial + slice * slice_floats + o0 * lds + i0;
    double* bias_sums = bias + slice * out + o0;
    if (i0 == 0)
      for (int64_t o = 0; o < on; o++) bias_sums[o] = 0;
    if (rows == 0)
      for (int64_t o = 0; o < on; o++) memset(sums + o * lds, 0, in_n * 4);
    const auto source = x(i0, in_n);
    for (int64_t r0 = begin; r0 < end; r0 += g.chunk) {
      const int64_t n = smaller(g.chunk, end - r0);
      const float* zr = z + r0 * z_stride + o0;
      double* totals = dbias && i0 == 0 ? bias_sums : nullptr;
      if (totals && (!VITKERN_AMX || !dweight)) add_columns(zr, z_stride, n, on, totals);
      if (!dweight) continue;
      int64_t ldx;
      const float* xr = source.block(r0, n, xb, &ldx);
#if VITKERN_AMX
      multiply_chunk_in_parts(rt, zr, z_stride, on, xr, ldx, in_n, n, map, sums, lds, r0 > begin, totals);
#else
      const TransposedRows a = transposed_rows(zr, z_stride, n, tiles, zt);
      for (int64_t p = 0; p < panels_of(in_n); p++) {
        pack_panel_kn(xr, ldx, in_n, n, p, b, map);
        const NextRows next{p + 1 < panels_of(in_n) ? xr + (p + 1) * NR : nullptr, ldx};
        multiply_tiles(tiles, a, n, b, panel_width(in_n, p), sums + p * NR, lds, r0 > begin, next);
      }
#endif
    }
  });
  if (dweight && !direct)
    for_tasks(rt, (out + 15) / 16, [&](int64_t task) {
      for (int64_t o = task * 16; o < smaller(out, task * 16 + 16); o++)
        for (int64_t i = 0; i < in; i++) {
          float s = 0;
          for (int64_t slice = 0; slice < g.slices; slice++) s += partial[slice * slice_floats + o * lds + i];
          put(dweight + o * in + i, s);
        }
    });
  if (dbias)
    for (int64_t o = 0; o < out; o++) {
      double s = 0;
      for (int64_t slice = 0; slice < g.slices; slice++) s += bias[slice * out + o];
      put(dbias + o, (float)s);
    }
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

// z = dy * gamma * activation'(pre) as float32 rows `stride` apart; null gamma and pre drop out. Runs on
// the calling thread.
template <class T>
static void scale_rows(int64_t rows, int64_t columns, const T* dy, const float* gamma, const T* pre, Activation f,
                       float* z, int64_t stride) {
  for (int64_t r = 0; r < rows; r++)
    for (int64_t c = 0; c < columns; c += W) {
      const int n = (int)smaller<int64_t>(W, columns - c);
      vf x = load_up_to(dy + r * columns + c, n);
      if (gamma) x = x * load(gamma + c);
      if (pre && f != Activation::none) x = x * activation_derivative(f, load_up_to(pre + r * columns + c, n));
      store(z + r * stride + c, x);  // rows are padded
    }
}

// The same on all threads.
template <class T>
static void scaled_gradient(const Runtime& rt, int64_t rows, int64_t columns, const T* dy, const float* gamma,
                            const T* pre, Activation f, float* z, int64_t stride) {
  constexpr int64_t kRows = 16;
  for_tasks(rt, (rows + kRows - 1) / kRows, [&](int64_t task) {
    const int64_t r = task * kRows, at = r * columns;
    scale_rows(smaller(kRows, rows - r), columns, dy + at, gamma, pre ? pre + at : nullptr, f, z + r * stride, stride);
  });
}

}  // namespace vitkern::VITKERN_ISA
