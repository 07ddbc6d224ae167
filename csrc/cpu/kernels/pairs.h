// Products of two operands that are both made in the call, in bfloat16 with float32 sums: what attention does
// where the processor multiplies pairs of bfloat16.
#pragma once
#include "attention_rows.h"

namespace vitkern::VITKERN_ISA {

#if VITKERN_BF16_DOT
namespace pairs {
constexpr Dot kDot = Dot::bf16_pairs;

// Words of a row of k elements, and rows of memory that `rows` rows of A take, as products read and write them.
VK_INLINE int64_t words(int64_t k) { return round_up((k + 1) / 2, kStepsAtOnce<kDot>); }
VK_INLINE int64_t whole_rows(int64_t rows) { return kOnTiles<kDot> ? round_up(rows, kSide) : rows; }
// Floats of B, packed.
VK_INLINE int64_t packed(int64_t columns, int64_t k) { return packed_floats(columns, words(k)); }

// Around some products, with nothing else in the tile registers.
VK_INLINE void begin() {
#if VITKERN_AMX
  shape_registers();
#endif
}
VK_INLINE void end() {
#if VITKERN_AMX
  release_registers();
#endif
}

// c = A * B for A's rows, `lda` words apart, of words(k) words, and B's columns, up to whole vectors; on tiles
// up to whole tiles of rows, too.
static void multiply(const float* a, int64_t lda, int64_t rows, const float* b, int64_t columns, int64_t k, float* c,
                     int64_t ldc) {
  const int64_t steps = words(k);
#if VITKERN_AMX
  const auto nothing = []() __attribute__((always_inline)) {};
  for (int64_t r = 0; r < rows; r += kTileRows)
    for (int64_t p = 0; p < panels_of<kDot>(columns); p++)
      square_function<kDot, decltype(nothing)>(rows - r, panel_width<kDot>(columns, p))(
          steps, a + r * lda, a + (r + kSide) * lda, lda, panel<kDot>(b, steps, p), nullptr, 0,
          c + r * ldc + p * kTileColumns, ldc, nothing);
#else
  const RowTiles tiles(rows);
  for (int64_t p = 0; p < panels_of<kDot>(columns); p++) {
    const int vectors = (int)(panel_width<kDot>(columns, p) / W);
    for (int64_t t = 0, r = 0; t < tiles.count; r += tiles.size(t), t++)
      tile_function<ALayout::row_major, kDot>(tiles.size(t), vectors)(
          steps, a + r * lda, lda, panel<kDot>(b, steps, p), c + r * ldc + p * NR, ldc, false);
  }
#endif
}

// B = rows^T: n rows of k elements, which may lie anywhere; k is even.
static void pack_transposed(const bf16* const* rows, int64_t offset, int64_t n, int64_t k, float* out) {
  const int64_t steps = words(k);
  for (int64_t c = 0; c < n; c += W) {
    const int64_t p = c / kPanel<kDot>, width = panel_width<kDot>(n, p);
    float* to = panel<kDot>(out, steps, p) + c % kPanel<kDot>;
    const float* at[W];
    const int valid = (int)smaller<int64_t>(W, n - c);
    for (int j = 0; j < W; j++) at[j] = (const float*)(rows[c + (j < valid ? j : valid - 1)] + offset);
    pack_transposed_rows(at, 0, W, k / 2, to, width);
    for (int64_t i = k / 2; i < steps; i++) store(to + i * width, vf{});
  }
}

// B = rows: n rows of k elements, n the product's inner dimension.
static void pack(const bf16* const* rows, int64_t offset, int64_t n, int64_t k, float* out) {
  const int64_t steps = words(n);
  for (int64_t p = 0; p < panels_of<kDot>(k); p++) {
    const int64_t width = panel_width<kDot>(k, p);
    float* to = panel<kDot>(out, steps, p);
    for (int64_t c = 0; c < width; c += W) {
      const int64_t at = offset + p * kPanel<kDot> + c;
      const int live = (int)smaller<int64_t>(W, k - p * kPanel<kDot> - c);
      auto bits = [&](int64_t i) __attribute__((always_inline)) {
        return (vu)(live == W ? load(rows[i] + at) : load_n(rows[i] + at, live));
      };
      int64_t i = 0;
      for (; i + 2 <= n; i += 2) store(to + i / 2 * width + c, (vf)(bits(i) >> 16 | bits(i + 1)));
      if (i < n) store(to + i / 2 * width + c, (vf)(bits(i) >> 16));
      for (i = (n + 1) / 2; i < steps; i++) store(to + i * width + c, vf{});
    }
  }
}
}  // namespace pairs
#endif

}  // namespace vitkern::VITKERN_ISA
