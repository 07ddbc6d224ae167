// C = A * B with B packed: a block of rows at a time, which stays in the second-level cache, and K in
// pieces that keep a panel of B in the first.
#pragma once
#include "epilogue.h"
#include "rows.h"
#include "tiles.h"

namespace vitkern::VITKERN_ISA {

constexpr int64_t kBlockK = 384;  // at most this much of K at a time
// Rows of A at a time: a block of this many rows of K elements stays in the second-level cache.
template <Dot D>
VK_INLINE int64_t block_rows(int64_t k) {
  // Tiles read B so fast that it has to be used for more rows; processors with them have larger caches.
  if (kOnTiles<D>) return smaller<int64_t>(320, larger<int64_t>(64, (256 << 10) / larger<int64_t>(1, k)));
  return smaller<int64_t>(192, larger<int64_t>(48, (64 << 10) / larger<int64_t>(1, k)));
}
// With no more rows than this, much of the time goes into reading B from memory for the first time.
constexpr int64_t kFewRows = 1024;
// So blocks are longer then, and each reads all of B once. Processors with wider vectors have larger caches.
template <Dot D>
constexpr int64_t kFewRowsBlock = kOnTiles<D> ? 256 : W == 16 ? 200 : 128;
template <Dot D = Dot::f32>
VK_INLINE int64_t blocks_of(int64_t rows, int64_t k) {
  const int64_t block = rows <= kFewRows ? kFewRowsBlock<D> : block_rows<D>(k);
  return (rows + block - 1) / block;
}
// Where block i of `blocks` begins: they are of the same length, as far as tile registers are filled.
template <Dot D>
VK_INLINE int64_t block_start(int64_t rows, int64_t i, int64_t blocks) {
  constexpr int64_t kWhole = kOnTiles<D> ? kTileRows : 1;
  return smaller(rows, (rows + kWhole - 1) / kWhole * i / blocks * kWhole);
}

// What multiply_block (below) does, on vectors.
template <Dot D, class T>
static void multiply_block_on_vectors(const Runtime& rt, const float* a, int64_t lda, int64_t row, int64_t n,
                                      const Operand& b_side, int64_t columns, int64_t k, int64_t first, int64_t last,
                                      const Epilogue<T>& epilogue, bool cold) {
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
      const float* b = panel(b_side.panels, k, p) + k0 * width;
      // The piece after this one, a slice with every tile.
      const char* next = (const char*)(b + kn * width);
      const int64_t slice = (kn * width * 4 / tiles.count + 63) / 64 * 64;
      for (int64_t t = 0, r = 0; t < tiles.count; t++) {
        const int m = tiles.size(t);
        const Lines lines = lines_of(epilogue, row + r, column);
        if (cold)
          for (int64_t i = 0; i < slice; i += 64) __builtin_prefetch(next + t * slice + i, 0, 2);
        float* c = pieces > 1 ? sums + r * NR : sums;
        // Where it can, the tile applies the epilogue in registers, or the activation follows at once.
        TileEpilogue e;
        const bool easy = final && live == width && simple(epilogue, row + r, column, &e);
        const bool in_registers = easy && epilogue.activation == Activation::none;
        if constexpr (D == Dot::u8_s8) {
          // Integers become floats with the last piece, whatever follows.
          TileEpilogue back = in_registers ? e : TileEpilogue{c, NR};
          back.scale = b_side.scale + column;
          back.sums = b_side.sums + column;
          back.rows = a + (r + 1) * lda - 2;
          tile_function<ALayout::row_major, D>(m, vectors)(kn, a + r * lda + k0, lda, b, c, NR, k0 > 0,
                                                           final ? &back : nullptr, final ? &lines : nullptr);
        } else {
          tile_function<ALayout::row_major, D>(m, vectors)(kn, a + r * lda + k0, lda, b, c, NR, k0 > 0,
                                                           in_registers ? &e : nullptr, final ? &lines : nullptr);
        }
        if (easy && !in_registers) activate_tile(epilogue.activation, c, NR, m, vectors, e);
        else if (final && !easy) finish_tile(epilogue, row + r, m, column, live, c, NR);
        r += m;
      }
    }
  }
}

#if VITKERN_AMX
// What is known of some rows or columns of floats in parts.
struct Reaches {
  bool finite = true, ordinary = true;
  Reaches& add(float reach) {
    finite &= VITKERN_ISA::finite(reach), ordinary &= VITKERN_ISA::ordinary(reach);
    return *this;
  }
  // Whether others are multiplied with these; if so they count among them.
  bool joined_by(const Reaches& others) {
    if (finite != others.finite) return false;
    ordinary &= others.ordinary;
    return true;
  }
};

// The same of floats in parts that tiles would not multiply rightly: made whole again.
template <class T>
static void multiply_block_made_whole(const Runtime& rt, const float* a, int64_t lda, int64_t row, int64_t n,
                                      const Operand& b_side, int64_t columns, int64_t k, int64_t first, int64_t last,
                                      const Epilogue<T>& epilogue) {
  constexpr Dot D = Dot::f32_parts;
  const int64_t floats = floats_in_parts(k), stride = padded_stride(floats);
  float* rows = (float*)rt.scratch(kWholeRows, n * stride * 4);
  for (int64_t r = 0; r < n; r++) join_row(a + r * lda, k, a[(r + 1) * lda - 1], rows + r * stride);
  float* whole = (float*)rt.scratch(kWholePanel, floats * kPanel<D> * 4 + kPrefetch * 4);
  for (int64_t p = first; p < last; p++) {
    const int64_t column = p * kPanel<D>, live = smaller<int64_t>(kPanel<D>, columns - column);
    join_panel(panel<D>(b_side.panels, k, p), k, panel_width<D>(columns, p), b_side.reach + column, whole);
    multiply_block_on_vectors<Dot::f32>(rt, rows, stride, row, n, whole, live, floats, 0, 1, epilogue.from(column),
                                        false);
  }
}

// Runs of finite rows times runs of panels with finite columns alone on tiles, the rest made whole.
template <class T>
static void multiply_block_in_parts(const Runtime& rt, const float* a, int64_t lda, int64_t row, int64_t n,
                                    const Operand& b_side, int64_t columns, int64_t k, int64_t first, int64_t last,
                                    const Epilogue<T>& epilogue) {
  constexpr Dot D = Dot::f32_parts;
  auto panel_of = [&](int64_t p) {
    Reaches r;
    for (int64_t c = 0; k > 0 && c < panel_width<D>(columns, p); c++)  // without K there is no B
      r.add(b_side.reach[p * kPanel<D> + c]);
    return r;
  };
  for (int64_t p = first, q; p < last; p = q) {
    Reaches panels = panel_of(p);
    for (q = p + 1; q < last && panels.joined_by(panel_of(q));) q++;
    for (int64_t r = 0, s; r < n; r = s) {
      auto row_of = [&](int64_t i) { return Reaches().add(a[(i + 1) * lda - 1]); };
      Reaches rows = row_of(r);
      for (s = r + 1; s < n && rows.joined_by(row_of(s));) s++;
      const float* from = a + r * lda;
      if (panels.finite && rows.finite)
        multiply_block_on_tiles<D, T>(rt, from, lda, row + r, s - r, b_side, columns, k, p, q, epilogue,
                                      !(panels.ordinary && rows.ordinary));
      else multiply_block_made_whole<T>(rt, from, lda, row + r, s - r, b_side, columns, k, p, q, epilogue);
    }
  }
}
#endif

// Rows [row, row + n) times panels [first, last) of B (k, columns), through the epilogue. Runs on
// the calling thread. `a` is what the rows' block() gave; `row` only tells the epilogue where it is.
// `cold`: B is likely to come from memory, so it is asked for a piece ahead (it costs 1 % where B is
// in the caches).
template <Dot D = Dot::f32, class T>
static void multiply_block(const Runtime& rt, const float* a, int64_t lda, int64_t row, int64_t n,
                           const Operand& b_side, int64_t columns, int64_t k, int64_t first, int64_t last,
                           const Epilogue<T>& epilogue, bool cold = false) {
  if constexpr (!kOnTiles<D>) {
    multiply_block_on_vectors<D>(rt, a, lda, row, n, b_side, columns, k, first, last, epilogue, cold);
  } else {
#if VITKERN_AMX
    if constexpr (D == Dot::f32_parts) {
      multiply_block_in_parts(rt, a, lda, row, n, b_side, columns, k, first, last, epilogue);
    } else {
      multiply_block_on_tiles<D>(rt, a, lda, row, n, b_side, columns, k, first, last, epilogue);
    }
#endif
  }
}

// A grid of tasks over rows and column panels: blocks of rows that fit the cache, and enough tasks
// to keep all threads busy to the end.
template <Dot D>
struct Grid {
  int64_t row_blocks, column_blocks, rows, panels;
  Grid(const Runtime& rt, int64_t rows_, int64_t columns, int64_t k)
      : row_blocks(blocks_of<D>(rows_, k)), rows(rows_), panels(panels_of<D>(columns)) {
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
    const bool wide = panels * kPanel<D> > rows;
    const int64_t rb = wide ? i % row_blocks : i / column_blocks, cb = wide ? i / row_blocks : i % column_blocks;
    const int64_t r0 = block_start<D>(rows, rb, row_blocks), r1 = block_start<D>(rows, rb + 1, row_blocks);
    return {r0, r1 - r0, panels * cb / column_blocks, panels * (cb + 1) / column_blocks};
  }
};

// C = A * B on all threads. `source.block(row, n, buffer, &lda)` gives rows of A (see Rows).
template <Dot D = Dot::f32, class Source, class T>
static void multiply_all(const Runtime& rt, const Source& source, int64_t rows, const Operand& b,
                         int64_t columns, int64_t k, const Epilogue<T>& epilogue) {
  if (rows == 0 || columns == 0) return;
  const Grid<D> grid(rt, rows, columns, k);
  for_tasks(rt, grid.tasks(), [&](int64_t i) {
    const typename Grid<D>::Task t = grid.task(i);
    int64_t lda;
    // One row of float32 more than the block has, which is as long as up to four others.
    float* buffer = (float*)rt.scratch(kRowsA, (t.n + 5) * padded_stride(k + 2) * 4);
    const float* a = source.block(t.row, t.n, buffer, &lda);
    multiply_block<D>(rt, a, lda, t.row, t.n, b, columns, k, t.first, t.last, epilogue,
                      rows <= kFewRows);
  });
}

// B = weight^T packed on all threads into `out` (packed_floats(n, C::steps(k)) floats, and each column's
// reach behind them).
template <class C, class T>
static void pack_weight(const Runtime& rt, const T* weight, int64_t n, int64_t k, float* out) {
  const int64_t steps = C::steps(k);
  [[maybe_unused]] float* reach = out + packed_floats(n, steps);
  for_tasks(rt, panels_of<C::dot>(n), [&](int64_t p) {
    float* to = panel<C::dot>(out, steps, p);
    if constexpr (C::parts) {
      float* rows = (float*)rt.scratch(kRowsA, W * C::stride(k) * 4);
      pack_panel_in_parts(weight, n, k, p, rows, C::stride(k), to, reach + p * kPanel<C::dot>);
      return;
    }
    const int64_t words = (k + C::per_word - 1) / C::per_word, width = panel_width<C::dot>(n, p);
    if constexpr (C::pairs) pack_panel_pairs(weight, n, k, p, to);
    else pack_panel_nk(weight, k, n, k, p, to);
    memset(to + words * width, 0, (steps - words) * width * 4);
    if constexpr (C::rounds)
      for (int64_t i = 0; i < k * width; i += W) store(to + i, rounded_to_bf16(load(to + i)));
  });
}

}  // namespace vitkern::VITKERN_ISA
