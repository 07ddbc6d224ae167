// Products in AMX's tile registers: 32 rows by 32 columns of C at a time, over all of K. While one such
// square is multiplied, the one before it goes through the epilogue, which the vector units do.
#pragma once
#include "tile_epilogue.h"

namespace vitkern::VITKERN_ISA {

#if VITKERN_AMX
static_assert(W == kSide && kPanel<Dot::u8_s8> == kTileColumns && kStepsAtOnce<Dot::u8_s8> == kSide);
static_assert(kStepsAtOnce<Dot::f32_parts> == kPartsWords && kPlane == kSide);

// The calling thread's tile registers, all of 16 rows: 0 to 3 are C, 4 and 5 A, 6 and 7 B. They are released
// after every block: other libraries on the thread shape them for themselves. (No destructor does it: that needs
// symbols which other files have too.) Shaping takes as long as 13 products, so that rows which fill no tile are
// not worth a shape of their own.
VK_INLINE void shape_registers() {
  alignas(64) static const struct {
    uint8_t palette, start, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  } shape = {1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
  asm volatile("ldtilecfg %0" ::"m"(shape));
}
VK_INLINE void release_registers() { asm volatile("tilerelease"); }

// By name of the registers, as instructions need them.
#define VK_TILE_ZERO(t) asm volatile("tilezero %%tmm" #t ::)
#define VK_TILE_LOAD(t, from, stride) \
  asm volatile("tileloadd (%0,%1,1), %%tmm" #t ::"r"(from), "r"((int64_t)(stride)) : "memory")
#define VK_TILE_STORE(t, to, stride) \
  asm volatile("tilestored %%tmm" #t ", (%0,%1,1)" ::"r"(to), "r"((int64_t)(stride)) : "memory")
#define VK_TILE_DOT(c, a, b)                                                                                 \
  do {                                                                                                       \
    if constexpr (D == Dot::u8_s8) asm volatile("tdpbusd %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::);            \
    else asm volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::);                                    \
  } while (false)

// c (`ldc` words a row) = A * B, plus `before` if there is any, for `High` tiles of rows, at `upper`
// and `lower`, and `Wide` of columns; calls `meanwhile` with every product of tiles.
template <Dot D, int High, int Wide, class F>
static void multiply_square(int64_t k, const float* upper, const float* lower, int64_t lda, const float* b,
                            const float* before, int64_t ld_before, float* c, int64_t ldc, const F& meanwhile) {
  if (before) {
    VK_TILE_LOAD(0, before, ld_before * 4);
    if constexpr (Wide == 2) VK_TILE_LOAD(1, before + kSide, ld_before * 4);
    if constexpr (High == 2) VK_TILE_LOAD(2, before + kSide * ld_before, ld_before * 4);
    if constexpr (High == 2 && Wide == 2) VK_TILE_LOAD(3, before + kSide * ld_before + kSide, ld_before * 4);
  } else {
    VK_TILE_ZERO(0);
    if constexpr (Wide == 2) VK_TILE_ZERO(1);
    if constexpr (High == 2) VK_TILE_ZERO(2);
    if constexpr (High == 2 && Wide == 2) VK_TILE_ZERO(3);
  }
  auto load_a = [&](int64_t i) VK_ALWAYS {
    VK_TILE_LOAD(4, upper + i, lda * 4);
    if constexpr (High == 2) VK_TILE_LOAD(5, lower + i, lda * 4);
  };
  auto load_b = [&](int64_t i) VK_ALWAYS {
    VK_TILE_LOAD(6, b + i * Wide * kSide, Wide * 64);
    if constexpr (Wide == 2) VK_TILE_LOAD(7, b + i * Wide * kSide + kSide, Wide * 64);
  };
  auto multiply = [&]() VK_ALWAYS {
    VK_TILE_DOT(0, 4, 6);
    if constexpr (Wide == 2) VK_TILE_DOT(1, 4, 7);
    if constexpr (High == 2) VK_TILE_DOT(2, 5, 6);
    if constexpr (High == 2 && Wide == 2) VK_TILE_DOT(3, 5, 7);
    meanwhile();
  };
  for (int64_t i = 0; i < k; i += kStepsAtOnce<D>) {
    load_a(i);
    if constexpr (D == Dot::f32_parts) {
      // Small products first; each needs one more load of two tiles.
      load_b(2 * kSide), multiply();
      load_b(kSide), multiply();
      load_a(i + kSide), multiply();
      load_b(0), multiply();
      load_a(i + 2 * kSide), multiply();
      load_a(i), multiply();
    } else {
      load_b(0), multiply();
    }
    b += kStepsAtOnce<D> * Wide * kSide;
  }
  VK_TILE_STORE(0, c, ldc * 4);
  if constexpr (Wide == 2) VK_TILE_STORE(1, c + kSide, ldc * 4);
  if constexpr (High == 2) VK_TILE_STORE(2, c + kSide * ldc, ldc * 4);
  if constexpr (High == 2 && Wide == 2) VK_TILE_STORE(3, c + kSide * ldc + kSide, ldc * 4);
}

// The function for a square of so many rows and columns.
template <Dot D, class F>
VK_INLINE auto square_function(int64_t rows, int64_t columns) {
  return rows > kSide ? columns > kSide ? multiply_square<D, 2, 2, F> : multiply_square<D, 2, 1, F>
                      : columns > kSide ? multiply_square<D, 1, 2, F> : multiply_square<D, 1, 1, F>;
}

// Does nothing but products of what is in the registers; returns how many operations it did.
template <Dot D>
static double tile_flops(int64_t rounds) {
  shape_registers();
  for (int64_t i = 0; i < rounds; i++) {
    VK_TILE_DOT(0, 4, 6);
    VK_TILE_DOT(1, 4, 7);
    VK_TILE_DOT(2, 5, 6);
    VK_TILE_DOT(3, 5, 7);
  }
  release_registers();
  constexpr int per_word = D == Dot::u8_s8 ? 4 : 2;
  return (double)rounds * kTileRows * kTileColumns * kSide * per_word * 2;
}
#undef VK_TILE_ZERO
#undef VK_TILE_LOAD
#undef VK_TILE_STORE
#undef VK_TILE_DOT

// Lines of B that are asked for one after the other: into the second-level cache, as those of a first reading
// come from far away. (Into the first, where no loads are to spare, costs a third of the speed.)
struct LinesAhead {
  const char *line, *end;
  int64_t at_once;
  VK_ALWAYS void ask() {
    for (int64_t i = 0; i < at_once && line < end; i++, line += 64) __builtin_prefetch(line, 0, 2);
  }
};

// What a square's epilogue will read and write, a row with every product: it lies a row apart, where no hardware
// prefetcher looks.
struct RowsAhead {
  const char *out, *other;  // other may be null
  int64_t out_stride, other_stride, bytes;
  int rows;
  VK_ALWAYS void ask() {
    if (rows <= 0) return;
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(out + i, 0, 2);
    out += out_stride;
    if (other) {
      for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(other + i, 0, 2);
      other += other_stride;
    }
    rows--;
  }
};
template <class T>
VK_INLINE RowsAhead rows_ahead(const Epilogue<T>& e, int64_t row, int64_t column, int rows) {
  constexpr int64_t kSize = sizeof(T);
  const T* other = e.residual ? e.residual + row * e.residual_stride + column
                   : e.derivative_at ? e.derivative_at + row * e.side_stride + column : nullptr;
  return {(const char*)(e.out + row * e.out_stride + column), (const char*)other, e.out_stride * kSize,
          (e.residual ? e.residual_stride : e.side_stride) * kSize, kTileColumns * kSize, rows};
}

// Panels are taken by as many as this many bytes hold. They and those of the next turn stay in the second-level
// cache for all rows, while 32 rows after the other stay in the first: so C is written along its rows.
constexpr int64_t kPanelBytes = 256 << 10;
// Long rows stay there only if K comes in pieces, of this many words (5 to 10 % of an MLP over K = 3072; it costs
// as much over K = 768). Floats in parts come in pieces because each has sums of its own: a product of tiles rounds
// the sums six times for 32 floats, so that 768 of them round as often as 144 multiply-adds.
template <Dot D>
constexpr int64_t kTileK = D == Dot::f32_parts ? words_in_parts(2 * kChain) : 12 * kSide;
template <Dot D>
constexpr int64_t kLongRows = D == Dot::f32_parts ? kTileK<D> : 1024;

template <Dot D>
struct TilePieces {
  int64_t k, count, words;  // words of all but the last piece
  explicit TilePieces(int64_t k_) : k(k_), count(k > kLongRows<D> ? (k + kTileK<D> - 1) / kTileK<D> : 1) {
    words = larger<int64_t>(kStepsAtOnce<D>, round_up((k + count - 1) / count, kStepsAtOnce<D>));
  }
  int64_t size(int64_t i) const { return larger<int64_t>(0, smaller(words, k - i * words)); }
};

// How many products of tiles K is in so many words.
template <Dot D>
VK_INLINE int64_t products(int64_t words) {
  return D == Dot::f32_parts ? words / kPartsWords * 6 : words / kSide;
}

// What multiply_block (see gemm.h) does, on tiles. `lifted`: of floats in parts, some rows or columns may be.
template <Dot D, class T>
static void multiply_block_on_tiles(const Runtime& rt, const float* a, int64_t lda, int64_t row, int64_t n,
                                    const Operand& b_side, int64_t columns, int64_t k, int64_t first, int64_t last,
                                    const Epilogue<T>& epilogue, bool lifted = false) {
  if (n <= 0) return;
  const TilePieces<D> pieces(k);
  const int64_t groups = (n + kTileRows - 1) / kTileRows, panel_bytes = pieces.words * kTileColumns * 4;
  // Pieces of floats in parts: all panels over all rows, since rows of K = 3072 would come from memory for each.
  const bool by_panels = D == Dot::f32_parts && pieces.count > 1;
  const int64_t at_once =
      by_panels ? last - first : larger<int64_t>(1, smaller(last - first, kPanelBytes / panel_bytes));
  const int64_t ld_sums = at_once * kTileColumns + kSide;
  constexpr int64_t kSquare = kTileRows * kTileColumns;
  const int64_t sums_floats = pieces.count > 1 ? groups * kTileRows * ld_sums : 0;
  float* squares = (float*)rt.scratch(kPartial, (2 * kSquare + kSide * lda + sums_floats) * 4);
  // Rows that fill no tile are copied to where others follow, of whatever values.
  const int64_t whole = n / kSide * kSide;
  float *sums = squares + 2 * kSquare, *rest = sums + sums_floats;
  for (int64_t r = whole; r < n; r++) memcpy(rest + (r - whole) * lda, a + r * lda, k * 4);

  shape_registers();
  Square<D, T> before{};  // has no rows
  const FinishWhole<T> whole_square = lifted ? nullptr : whole_finisher<D>(epilogue);
  int64_t i = 0;  // of squares that are complete
  for (int64_t p0 = first; p0 < last; p0 += at_once)
    for (int64_t piece = 0; piece < pieces.count; piece++) {
      const int64_t k0 = piece * pieces.words, kn = pieces.size(piece), turns = larger<int64_t>(1, products<D>(kn));
      const bool final = piece + 1 == pieces.count;
      // Of a square's rows, as few as can be: more than a product of tiles leaves time for would keep tiles waiting.
      const int share = (int)larger<int64_t>(1, (kTileRows + turns - 1) / turns);
      const int64_t panels = smaller(at_once, last - p0);
      for (int64_t s = 0; s < groups * panels; s++) {
        const int64_t r = (by_panels ? s % groups : s / panels) * kTileRows;
        const int64_t p = p0 + (by_panels ? s / groups : s % panels);
        const int64_t width = panel_width<D>(columns, p), column = p * kTileColumns;
        const int rows = (int)smaller<int64_t>(kTileRows, n - r);
        // What this panel's place is taken by next: a part of it with each row of squares.
        const bool same_piece = by_panels ? p + 1 < last : final;
        const int64_t q = by_panels ? (same_piece ? p + 1 : final ? last : first) : p + (final ? at_once : 0);
        const int64_t next_piece = by_panels ? piece + !same_piece : final ? 0 : piece + 1;
        const int64_t wide = q < last ? panel_width<D>(columns, q) : 0;
        const int64_t bytes = pieces.size(next_piece) * wide * 4, part = round_up((bytes + groups - 1) / groups, 64);
        const int64_t from = r / kTileRows * part;
        const char* next = (const char*)(panel<D>(b_side.panels, k, q) + next_piece * pieces.words * wide);
        LinesAhead ahead{next + from, next + smaller(bytes, from + part), (part / 64 + turns - 1) / turns};
        RowsAhead aside = rows_ahead(epilogue, row + r, column, final ? rows : 0);
        auto meanwhile = [&]() VK_ALWAYS {
          ahead.ask();
          aside.ask();
          before.finish(share);
        };
        float* partial = sums + r * ld_sums + (p - p0) * kTileColumns;
        float* square = squares + i % 2 * kSquare;
        const float* upper = (r < whole ? a + r * lda : rest) + k0;
        const float* lower = (r + kSide < whole ? a + (r + kSide) * lda : rest) + k0;
        // Sums of the pieces before this one are added to by the products, or to those.
        constexpr bool kApart = D == Dot::f32_parts;
        const bool in_square = final || (kApart && piece > 0);
        square_function<D, decltype(meanwhile)>(rows, width)(
            kn, upper, lower, lda, panel<D>(b_side.panels, k, p) + k0 * width, !kApart && piece > 0 ? partial : nullptr,
            ld_sums, in_square ? square : partial, in_square ? kTileColumns : ld_sums, meanwhile);
        if (!in_square) continue;
        before.finish(kTileRows);
        before = {&epilogue, whole_square, {(kApart ? b_side.reach : b_side.scale) + column, b_side.sums + column, a + (r + 1) * lda - 2, lda},
                  square, row + r, column, rows, (int)smaller<int64_t>(kTileColumns, columns - column), (int)width};
        before.lifted = lifted;
        if (kApart && piece > 0) before.sums = partial, before.ld_sums = ld_sums, before.final = final;
        i++;
      }
    }
  release_registers();
  before.finish(kTileRows);
}
#endif

}  // namespace vitkern::VITKERN_ISA
