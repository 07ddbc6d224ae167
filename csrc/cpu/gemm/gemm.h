// C = A * B with B packed: a block of rows at a time, which stays in the second-level cache, and K in
// pieces that keep a panel of B in the first.
#pragma once
#include "epilogue.h"
#include "pack.h"

namespace vitkern::VITKERN_ISA {

constexpr int64_t kBlockK = 384;  // at most this much of K at a time
// Rows of A at a time: a block of this many rows of K elements stays in the second-level cache.
VK_INLINE int64_t block_rows(int64_t k) {
  return smaller<int64_t>(192, larger<int64_t>(48, (64 << 10) / larger<int64_t>(1, k)));
}
// With no more rows than this, much of the time goes into reading B from memory for the first time.
constexpr int64_t kFewRows = 1024;
constexpr int64_t kFewRowsBlock = 128;  // so blocks are longer then, and each reads all of B once
VK_INLINE int64_t blocks_of(int64_t rows, int64_t k) {
  const int64_t block = rows <= kFewRows ? kFewRowsBlock : block_rows(k);
  return (rows + block - 1) / block;
}

// Rows of a float32 scratch matrix are never a multiple of 4 KiB apart: that would put the rows of
// a tile into the same cache sets.
VK_INLINE int64_t padded_stride(int64_t k) {
  int64_t s = round_up(k, 16);
  return s % 256 == 0 ? s + 16 : s;
}
// Whether tiles may read rows that are `stride` floats apart where they lie.
VK_INLINE bool good_stride(int64_t stride) { return stride % 512 != 0; }

// Rows of A in memory. `block` gives rows [row, row + n) as float32: in place, or in `buffer`.
template <class T>
struct PlainRows {
  const T* data;
  int64_t stride, k;
  const float* block(int64_t row, int64_t n, float* buffer, int64_t* lda) const {
    if constexpr (sizeof(T) == 4) {
      if (good_stride(stride)) {
        *lda = stride;
        return (const float*)data + row * stride;
      }
    }
    *lda = padded_stride(k);
    for (int64_t r = 0; r < n; r++) {
      const T* s = data + (row + r) * stride;
      float* o = buffer + r * *lda;
      int64_t i = 0;
      for (; i + W <= k; i += W) store(o + i, load(s + i));
      for (; i < k; i++) o[i] = to_float(s[i]);
    }
    return buffer;
  }
};

// The same rows as pairs of bfloat16, each pair in the place of a float; an odd last element is paired
// with zero.
struct PairRows {
  const bf16* data;
  int64_t stride, k;
  const float* block(int64_t row, int64_t n, float* buffer, int64_t* lda) const {
    const int64_t groups = (k + 1) / 2;
    if (k % 2 == 0 && stride % 2 == 0 && good_stride(stride / 2)) {
      *lda = stride / 2;
      return (const float*)(data + row * stride);
    }
    *lda = padded_stride(groups);
    for (int64_t r = 0; r < n; r++) {
      bf16* o = (bf16*)(buffer + r * *lda);
      memcpy(o, data + (row + r) * stride, k * 2);
      if (k % 2) o[k] = bf16{0};
    }
    return buffer;
  }
};

// How products of T's with a weight are computed, and what a row of K elements is then.
template <class T>
struct Compute {
  static constexpr Dot dot = VITKERN_BF16_DOT && sizeof(T) == 2 ? Dot::bf16_pairs : Dot::f32;
  static constexpr bool pairs = dot == Dot::bf16_pairs;
  static constexpr int64_t steps(int64_t k) { return pairs ? (k + 1) / 2 : k; }
  static auto rows(const T* data, int64_t stride, int64_t k) {
    if constexpr (pairs) return PairRows{data, stride, k};
    else return PlainRows<T>{data, stride, k};
  }
};

// Rows [row, row + n) times panels [first, last) of B (k, columns), through the epilogue. Runs on
// the calling thread. `a` is what the rows' block() gave; `row` only tells the epilogue where it is.
// `cold`: B is likely to come from memory, so it is asked for a piece ahead (it costs 1 % where B is
// in the caches).
template <Dot D = Dot::f32, class T>
static void multiply_block(const Runtime& rt, const float* a, int64_t lda, int64_t row, int64_t n,
                           const float* packed, int64_t columns, int64_t k, int64_t first, int64_t last,
                           const Epilogue<T>& epilogue, bool cold = false) {
  const RowTiles tiles(n);
  const int64_t pieces = larger<int64_t>(1, (k + kBlockK - 1) / kBlockK);
  const int64_t step = larger<int64_t>(1, round_up((k + pieces - 1) / pieces, 4));
  // A panel's sums of the pieces before the last one; one tile is enough where there is one piece.
  float* sums = (float*)rt.scratch(kPartial, (pieces > 1 ? n : MR) * NR * 4);
  for (int64_t p = first; p < last; p++) {
    const int64_t width = panel_width(columns, p), column = p * NR;
    const int live = (int)smaller<int64_t>(NR, columns - column), vectors = (int)(width / W);
    for (int64_t k0 = 0; k0 == 0 || k0 < k; k0 += step) {
      const int64_t kn = smaller(step, k - k0);
      const bool final = k0 + step >= k;
      const float* b = panel(packed, k, p) + k0 * width;
      // The piece after this one, a slice with every tile.
      const char* next = (const char*)(b + kn * width);
      const int64_t slice = (kn * width * 4 / tiles.count + 63) / 64 * 64;
      for (int64_t t = 0, r = 0; t < tiles.count; t++) {
        const int m = tiles.size(t);
        if (final) prefetch_tile(epilogue, row + r, m, column);
        if (cold)
          for (int64_t i = 0; i < slice; i += 64) __builtin_prefetch(next + t * slice + i, 0, 2);
        float* c = pieces > 1 ? sums + r * NR : sums;
        // Where it can, the tile applies the epilogue in registers, or the activation follows at once.
        TileEpilogue e;
        const bool easy = final && live == width && simple(epilogue, row + r, column, &e);
        const bool in_registers = easy && epilogue.activation == Activation::none;
        tile_function<ALayout::row_major, D>(m, vectors)(kn, a + r * lda + k0, lda, b, c, NR, k0 > 0,
                                                         in_registers ? &e : nullptr);
        if (easy && !in_registers) activate_tile(epilogue.activation, c, NR, m, vectors, e);
        else if (final && !easy) finish_tile(epilogue, row + r, m, column, live, c, NR);
        r += m;
      }
    }
  }
}

// A grid of tasks over rows and column panels: blocks of rows that fit the cache, and enough tasks
// to keep all threads busy to the end.
struct Grid {
  int64_t row_blocks, column_blocks, rows, panels;
  Grid(const Runtime& rt, int64_t rows_, int64_t columns, int64_t k)
      : row_blocks(blocks_of(rows_, k)), rows(rows_), panels(panels_of(columns)) {
    if (row_blocks > rt.threads) row_blocks = round_up(row_blocks, rt.threads);
    const int64_t wanted = rt.threads > 1 ? 8 * rt.threads : 1;
    column_blocks = larger<int64_t>(1, smaller(panels / 4, (wanted + row_blocks - 1) / larger<int64_t>(1, row_blocks)));
    // Whole rounds: every thread gets the same number of equal tasks.
    if (column_blocks > 1 && row_blocks % rt.threads != 0) {
      int64_t even = round_up(column_blocks, rt.threads);
      if (even <= panels) column_blocks = even;
    }
  }
  int64_t tasks() const { return row_blocks * column_blocks; }
  struct Task { int64_t row, n, first, last; };
  // Tasks that follow each other share the larger operand's block.
  Task task(int64_t i) const {
    const bool wide = panels * NR > rows;
    const int64_t rb = wide ? i % row_blocks : i / column_blocks, cb = wide ? i / row_blocks : i % column_blocks;
    const int64_t r0 = rows * rb / row_blocks, r1 = rows * (rb + 1) / row_blocks;
    return {r0, r1 - r0, panels * cb / column_blocks, panels * (cb + 1) / column_blocks};
  }
};

// C = A * B on all threads. `source.block(row, n, buffer, &lda)` gives rows of A as float32.
template <Dot D = Dot::f32, class Source, class T>
static void multiply_all(const Runtime& rt, const Source& source, int64_t rows, const float* packed,
                         int64_t columns, int64_t k, const Epilogue<T>& epilogue) {
  if (rows == 0 || columns == 0) return;
  const Grid grid(rt, rows, columns, k);
  for_tasks(rt, grid.tasks(), [&](int64_t i) {
    const Grid::Task t = grid.task(i);
    int64_t lda;
    // One row more than the block has, for sources that need it (NormalizedRows); with pairs of
    // bfloat16 that row is as long as two.
    float* buffer = (float*)rt.scratch(kRowsA, (t.n + 2) * padded_stride(k) * 4);
    const float* a = source.block(t.row, t.n, buffer, &lda);
    multiply_block<D>(rt, a, lda, t.row, t.n, packed, columns, k, t.first, t.last, epilogue,
                      rows <= kFewRows);
  });
}

// B = weight^T packed on all threads into `out` (packed_floats(n, steps(k)) floats).
template <class T>
static void pack_weight(const Runtime& rt, const T* weight, int64_t n, int64_t k, float* out) {
  const int64_t steps = Compute<T>::steps(k);
  for_tasks(rt, panels_of(n), [&](int64_t p) {
    float* to = panel(out, steps, p);
    if constexpr (Compute<T>::pairs) pack_panel_pairs(weight, n, k, p, to);
    else pack_panel_nk(weight, k, n, k, p, to);
  });
}

}  // namespace vitkern::VITKERN_ISA
