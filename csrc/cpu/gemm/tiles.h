// Products in AMX's tile registers: 32 rows by 32 columns of C at a time, over all of K. While one such
// square is multiplied, the one before it goes through the epilogue, which the vector units do.
#pragma once
#include "epilogue.h"
#include "operand.h"

namespace vitkern::VITKERN_ISA {

constexpr int kSide = 16;  // rows of a tile register, and words of each
constexpr int kTileRows = 2 * kSide, kTileColumns = 2 * kSide;  // of a square

#if VITKERN_AMX
static_assert(W == kSide && kPanel<Dot::u8_s8> == kTileColumns && kStepsAtOnce<Dot::u8_s8> == kSide);

// The calling thread's tile registers, all of 16 rows: 0 to 3 are C, 4 and 5 A, 6 and 7 B. Released when this
// goes: other libraries on the thread shape them for themselves. Shaping takes as long as 13 products, so
// that rows which fill no tile are not worth a shape of their own.
class TileRegisters {
 public:
  TileRegisters() {
    alignas(64) static const struct {
      uint8_t palette, start, reserved[14];
      uint16_t row_bytes[16];
      uint8_t rows[16];
    } shape = {1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    asm volatile("ldtilecfg %0" ::"m"(shape));
  }
  TileRegisters(const TileRegisters&) = delete;
  ~TileRegisters() { asm volatile("tilerelease"); }
};

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

#define VK_ALWAYS __attribute__((always_inline))

// c (kTileColumns words a row) = A * B for `High` tiles of rows, at `upper` and `lower`, and `Wide` of columns;
// calls `meanwhile` with every 16 steps of K.
template <Dot D, int High, int Wide, class F>
static void multiply_square(int64_t k, const float* upper, const float* lower, int64_t lda, const float* b, float* c,
                            const F& meanwhile) {
  VK_TILE_ZERO(0);
  if constexpr (Wide == 2) VK_TILE_ZERO(1);
  if constexpr (High == 2) VK_TILE_ZERO(2);
  if constexpr (High == 2 && Wide == 2) VK_TILE_ZERO(3);
  for (int64_t i = 0; i < k; i += kSide) {
    VK_TILE_LOAD(4, upper + i, lda * 4);
    VK_TILE_LOAD(6, b, Wide * 64);
    if constexpr (Wide == 2) VK_TILE_LOAD(7, b + kSide, Wide * 64);
    if constexpr (High == 2) VK_TILE_LOAD(5, lower + i, lda * 4);
    VK_TILE_DOT(0, 4, 6);
    if constexpr (Wide == 2) VK_TILE_DOT(1, 4, 7);
    if constexpr (High == 2) VK_TILE_DOT(2, 5, 6);
    if constexpr (High == 2 && Wide == 2) VK_TILE_DOT(3, 5, 7);
    b += kSide * Wide * kSide;
    meanwhile();
  }
  constexpr int64_t kRow = kTileColumns * 4;
  VK_TILE_STORE(0, c, kRow);
  if constexpr (Wide == 2) VK_TILE_STORE(1, c + kSide, kRow);
  if constexpr (High == 2) VK_TILE_STORE(2, c + kSide * kTileColumns, kRow);
  if constexpr (High == 2 && Wide == 2) VK_TILE_STORE(3, c + kSide * kTileColumns + kSide, kRow);
}

// Does nothing but products of what is in the registers; returns how many operations it did.
template <Dot D>
static double tile_flops(int64_t rounds) {
  TileRegisters registers;
  for (int64_t i = 0; i < rounds; i++) {
    VK_TILE_DOT(0, 4, 6);
    VK_TILE_DOT(1, 4, 7);
    VK_TILE_DOT(2, 5, 6);
    VK_TILE_DOT(3, 5, 7);
  }
  constexpr int per_word = D == Dot::u8_s8 ? 4 : 2;
  return (double)rounds * kTileRows * kTileColumns * kSide * per_word * 2;
}
#undef VK_TILE_ZERO
#undef VK_TILE_LOAD
#undef VK_TILE_STORE
#undef VK_TILE_DOT

// A square that has been multiplied, on its way through the epilogue.
template <Dot D, class T>
struct Square {
  const Epilogue<T>* epilogue;
  float* c;
  int64_t row, column;
  int rows, live, columns;  // `live` columns are in C, `columns` in the panel
  // Of int8 products, as in TileEpilogue:
  const float* scale;
  const int32_t* sums;
  const float* steps;
  int64_t lda;
  int done = 0;

  // Some more rows.
  VK_ALWAYS void finish(int more) {
    if (done < rows) finish_some(smaller(more, rows - done));
  }

 private:
  __attribute__((noinline)) void finish_some(int more) {
    float* tile = c + done * kTileColumns;
    if constexpr (D == Dot::u8_s8) to_floats(tile, more);
    TileEpilogue e;
    if (live == columns && simple(*epilogue, row + done, column, &e))
      activate_tile(epilogue->activation, tile, kTileColumns, more, columns / W, e);
    else
      finish_tile(*epilogue, row + done, more, column, live, tile, kTileColumns);
    done += more;
  }
  void to_floats(float* tile, int more) const {
    for (int r = 0; r < more; r++) {
      const float* end = steps + (done + r) * lda;
      int32_t zero;
      memcpy(&zero, end + 1, 4);
      for (int j = 0; j < columns; j += W) {
        float* p = tile + r * kTileColumns + j;
        const vi sum = (vi)load(p) - (vi)load((const float*)sums + j) * splat_int(zero);
        store(p, __builtin_convertvector(sum, vf) * (splat(*end) * load(scale + j)));
      }
    }
  }
};

// The lines of a panel, asked for one after the other: into the second-level cache, as those of a first reading
// come from far away. (Into the first, where no loads are to spare, costs a third of the speed.)
struct PanelAhead {
  const char *line, *end;
  VK_ALWAYS void ask(int64_t lines) {
    for (; lines > 0 && line < end; lines--, line += 64) __builtin_prefetch(line, 0, 2);
  }
};

// What multiply_block (see gemm.h) does, on tiles.
template <Dot D, class T>
static void multiply_block_on_tiles(const Runtime& rt, const float* a, int64_t lda, int64_t row, int64_t n,
                                    const Operand& b_side, int64_t columns, int64_t k, int64_t first, int64_t last,
                                    const Epilogue<T>& epilogue) {
  if (n <= 0) return;
  constexpr int64_t kSquare = kTileRows * kTileColumns;
  float* squares = (float*)rt.scratch(kPartial, (2 * kSquare + kSide * lda) * 4);
  // Rows that fill no tile are copied to where others follow, of whatever values.
  const int64_t whole = n / kSide * kSide;
  float* rest = squares + 2 * kSquare;
  for (int64_t r = whole; r < n; r++) memcpy(rest + (r - whole) * lda, a + r * lda, k * 4);

  TileRegisters registers;
  Square<D, T> before{};  // has no rows
  const int64_t turns = larger<int64_t>(1, k / kSide), all_turns = turns * ((n + kTileRows - 1) / kTileRows);
  for (int64_t p = first, i = 0; p < last; p++) {
    const int64_t width = panel_width<D>(columns, p), column = p * kTileColumns;
    const float* b = panel<D>(b_side.panels, k, p);
    const char* next = (const char*)(b + k * width);
    PanelAhead ahead{next, p + 1 < last ? next + k * width * 4 : next};
    const int64_t lines = (k * width * 4 / 64 + all_turns - 1) / all_turns;
    for (int64_t r = 0; r < n; r += kTileRows, i++) {
      const int rows = (int)smaller<int64_t>(kTileRows, n - r);
      prefetch_tile(epilogue, row + r, rows, column);
      float* c = squares + i % 2 * kSquare;
      const int share = (int)((before.rows + turns - 1) / turns);
      auto meanwhile = [&]() VK_ALWAYS {
        ahead.ask(lines);
        before.finish(share);
      };
      const float *upper = r < whole ? a + r * lda : rest, *lower = r + kSide < whole ? a + (r + kSide) * lda : rest;
      const auto multiply = rows > kSide ? width > kSide ? multiply_square<D, 2, 2, decltype(meanwhile)>
                                                         : multiply_square<D, 2, 1, decltype(meanwhile)>
                                         : width > kSide ? multiply_square<D, 1, 2, decltype(meanwhile)>
                                                         : multiply_square<D, 1, 1, decltype(meanwhile)>;
      multiply(k, upper, lower, lda, b, c, meanwhile);
      before.finish(kTileRows);
      before = {&epilogue, c, row + r, column, rows, (int)smaller<int64_t>(kTileColumns, columns - column), (int)width,
                b_side.scale + column, b_side.sums + column, a + (r + 1) * lda - 2, lda};
    }
  }
  before.finish(kTileRows);
}
#undef VK_ALWAYS
#endif

}  // namespace vitkern::VITKERN_ISA
