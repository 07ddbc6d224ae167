// The register tile: MR rows by NV vectors of C, all of K. Everything that multiplies matrices
// (linear, MLP, patch embedding, both attentions) goes through `multiply_tile`.
#pragma once
#include "../simd/vec.h"

namespace vitkern::VITKERN_ISA {

// The tile that fills the registers: accumulators, B's vectors and one broadcast of A.
#if VITKERN_WIDTH == 16
constexpr int MR = 9, NV = 3;  // 27 accumulators of 32 registers
#else
constexpr int MR = 6, NV = 2;  // 12 accumulators of 16 registers
#endif
constexpr int NR = NV * W;  // columns of a packed panel of B
constexpr int kPrefetch = 8 * NR;  // floats of B ahead: eight steps of K

// What one step of K is: a float of A times one of B, or two bfloat16 of each, with float32 sums; or four
// unsigned bytes of A times four signed ones of B, with int32 sums. All are 32 bits, so that addresses
// and panels are the same. Floats in parts (see parts.h) are pairs, too, three for two floats.
enum class Dot { f32, bf16_pairs, u8_s8, f32_parts };

#ifndef VITKERN_BF16_DOT
#define VITKERN_BF16_DOT 0  // 1: the instruction, 2: emulated, for tests
#endif

#ifndef VITKERN_AMX
#define VITKERN_AMX 0
#endif
// Whether products are computed in tile registers (see tiles.h) instead of in vectors.
template <Dot D>
constexpr bool kOnTiles = VITKERN_AMX && D != Dot::f32;
template <Dot D>
constexpr int kPanel = kOnTiles<D> ? 32 : NR;  // columns of a panel of B
template <Dot D>
constexpr int kStepsAtOnce = !kOnTiles<D> ? 1 : D == Dot::f32_parts ? 48 : 16;  // K is a multiple; zeros fill up

// Without VNNI the sum of two products of bytes has 16 bits, and saturates: weights must be such that
// it cannot (see pack_int8).
#if defined(__AVX512VNNI__) || !defined(__AVX2__) || defined(VITKERN_EXACT_INT8)
constexpr bool kSumsPairs = false;
#else
constexpr bool kSumsPairs = true;
#endif

VK_INLINE vi multiply_add_bytes(vi a, vi b, vi c) {
#if defined(VITKERN_EXACT_INT8) || !defined(__AVX2__)
  VK_UNROLL
  for (int shift = 0; shift < 32; shift += 8)
    c += (vi)(((vu)a >> shift) & 0xffu) * ((b << (24 - shift)) >> 24);
  return c;
#elif VITKERN_WIDTH == 16 && defined(__AVX512VNNI__)
  return (vi)_mm512_dpbusd_epi32((__m512i)c, (__m512i)a, (__m512i)b);
#elif VITKERN_WIDTH == 16
  const __m512i pairs = _mm512_maddubs_epi16((__m512i)a, (__m512i)b);
  return c + (vi)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
#else
  const __m256i pairs = _mm256_maddubs_epi16((__m256i)a, (__m256i)b);
  return c + (vi)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#endif
}

template <Dot D>
VK_INLINE vf multiply_add(vf a, vf b, vf c) {
  if constexpr (D == Dot::f32) return a * b + c;
  if constexpr (D == Dot::u8_s8) return (vf)multiply_add_bytes((vi)a, (vi)b, (vi)c);
#if VITKERN_BF16_DOT == 1
  return (vf)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)b);
#elif VITKERN_BF16_DOT == 2
  const vu high = (vu)splat_int((int32_t)0xffff0000);
  c = (vf)((vu)a << 16) * (vf)((vu)b << 16) + c;
  return (vf)((vu)a & high) * (vf)((vu)b & high) + c;
#else
  return c;  // never instantiated
#endif
}

// How a row of A is walked: `rows` apart in memory with consecutive k, or k by k with consecutive
// rows (A transposed).
enum class ALayout { row_major, transposed };

// Steps of K in one turn of the inner loop. Measured on Zen 3: 2 reaches 98 % of the peak, 4 makes
// the compiler copy registers and reaches 91 %.
constexpr int kUnroll = 2;

// Rows of memory, and one more matrix's, that a tile asks for while it is computed: a row a turn, since all
// at once would fill the queue in which B's lines wait as well.
struct Lines {
  const char *first, *second;  // second may be null
  int64_t first_stride, second_stride;  // bytes
  int bytes;
};

// acc += A[0:M, 0:k] * B[0:k, 0:NVEC*W], with B's rows one after the other.
template <int M, int NVEC, ALayout L, Dot D = Dot::f32>
VK_INLINE void multiply(int64_t k, const float* a, int64_t lda, const float* b, vf (&acc)[M][NVEC],
                        const Lines* lines = nullptr) {
  constexpr int ldb = NVEC * W;
  // Row pointers, three rows each, kept apart from the compiler's induction variables (it spills).
  constexpr int G = L == ALayout::row_major ? (M + 2) / 3 : 1;
  const float* p[G];
  VK_UNROLL
  for (int g = 0; g < G; g++) p[g] = a + 3 * g * lda;
  auto broadcast = [](const float* q) __attribute__((always_inline)) {
    if constexpr (D == Dot::f32) return splat(*q);
    int32_t word;  // not a number: arithmetic on it could change its bits
    memcpy(&word, q, 4);
    return (vf)splat_int(word);
  };
  auto step = [&](int u) __attribute__((always_inline)) {
    vf bv[NVEC];
    VK_UNROLL
    for (int j = 0; j < NVEC; j++) bv[j] = load(b + u * ldb + j * W);
    VK_UNROLL
    for (int r = 0; r < M; r++) {
      vf av = broadcast(L == ALayout::row_major ? p[r / 3] + (r % 3) * lda + u : p[0] + u * lda + r);
      VK_UNROLL
      for (int j = 0; j < NVEC; j++) {
        acc[r][j] = multiply_add<D>(av, bv[j], acc[r][j]);
        // Row by row, in place: with the products of several rows under way gcc runs out of registers
        // (bytes on Zen 3 0.94 of the peak instead of 0.87, floats on a Xeon 0.82 instead of 0.69).
#if defined(__AVX512F__)
        asm volatile("" : "+v"(acc[r][j]));
#elif defined(__AVX2__) && VITKERN_WIDTH == 8
        if constexpr (D == Dot::u8_s8) asm volatile("" : "+x"(acc[r][j]));
#endif
      }
    }
  };
  // The tile that follows, a line a turn, as A comes from the second-level cache: where its rows lie one
  // after the other this is all of them (measured on Zen 3: 0.92 to 0.935 of the peak).
  const float* ahead = a + M * lda;
  const char *first = lines ? lines->first : nullptr, *second = lines ? lines->second : nullptr;
  int asked = lines ? 0 : M;
  for (; k >= kUnroll; k -= kUnroll) {
    if (__builtin_expect(asked < M, 0)) {
      for (int i = 0; i < lines->bytes; i += 64) __builtin_prefetch(first + i, 1, 3);
      first += lines->first_stride;
      if (second) {
        for (int i = 0; i < lines->bytes; i += 64) __builtin_prefetch(second + i, 0, 3);
        second += lines->second_stride;
      }
      asked++;
    }
    if constexpr (L == ALayout::row_major) {
      __builtin_prefetch(ahead, 0, 3);
      ahead += 16;
    }
    VK_UNROLL
    for (int u = 0; u < kUnroll; u++) {
      VK_UNROLL
      for (int line = 0; line < ldb; line += 16) __builtin_prefetch(b + u * ldb + line + kPrefetch, 0, 3);
      step(u);
    }
    b += kUnroll * ldb;
    VK_UNROLL
    for (int g = 0; g < G; g++) {
      p[g] += L == ALayout::row_major ? kUnroll : kUnroll * lda;
      asm volatile("" : "+r"(p[g]));
    }
    asm volatile("" : "+r"(b));
  }
  for (; k > 0; k--) {
    step(0);
    b += ldb;
    VK_UNROLL
    for (int g = 0; g < G; g++) p[g] += L == ALayout::row_major ? 1 : lda;
  }
}

// At most this many products are added up one after the other; longer sums are sums of such pieces,
// which keeps the rounding error near that of the libraries (they block K as well).
constexpr int64_t kChain = 384;

// What a tile does with its result while it is still in registers, in place of storing it to C:
// out = residual + gamma * (C + bias). Null vectors and matrices drop out.
struct TileEpilogue {
  float* out;
  int64_t out_stride;
  const float *bias, *gamma;
  const float* residual;
  int64_t residual_stride;
  // Only where an activation follows the tile (see epilogue.h), by rows side_stride apart:
  float* pre;                  // gets C + bias
  const float* derivative_at;  // out = (C + bias) * activation'(this)
  int64_t side_stride;
  // Only of int8 products, whose C is (C - zero * sums) * step * scale first: by columns ...
  const float* scale;
  const int32_t* sums;
  const float* rows;  // ... and by rows, lda apart: the step, and the zero as an integer
};

// C[0:M, 0:NVEC*W] = (accumulate ? C : 0) + A * B, or what `finish` makes of it.
template <int M, int NVEC, ALayout L, Dot D>
static void tile(int64_t k, const float* a, int64_t lda, const float* b, float* c, int64_t ldc,
                 bool accumulate, const TileEpilogue* finish, const Lines* lines) {
  const int64_t chains = D != Dot::u8_s8 && k > kChain ? (k + kChain - 1) / kChain : 1;
  const int64_t step = (k / chains + kUnroll) / kUnroll * kUnroll;
  if (accumulate)
    for (int r = 0; r < M; r++)
      for (int j = 0; j < NVEC * W; j += 16) __builtin_prefetch(c + r * ldc + j, 1, 3);
  do {
    const int64_t n = k < step ? k : step;
    vf acc[M][NVEC];
    VK_UNROLL
    for (int r = 0; r < M; r++)
      VK_UNROLL
      for (int j = 0; j < NVEC; j++) acc[r][j] = vf{};
    multiply<M, NVEC, L, D>(n, a, lda, b, acc, lines);
    lines = nullptr;
    if (accumulate) {
      VK_UNROLL
      for (int r = 0; r < M; r++)
        VK_UNROLL
        for (int j = 0; j < NVEC; j++) {
          const vf before = load(c + r * ldc + j * W);
          if constexpr (D == Dot::u8_s8) acc[r][j] = (vf)((vi)acc[r][j] + (vi)before);
          else acc[r][j] = acc[r][j] + before;
        }
    }
    k -= n;
    if constexpr (D == Dot::u8_s8) {
      if (finish) {
        VK_UNROLL
        for (int r = 0; r < M; r++) {
          int32_t zero;
          memcpy(&zero, finish->rows + r * lda + 1, 4);
          VK_UNROLL
          for (int j = 0; j < NVEC; j++) {
            const vi sum = (vi)acc[r][j] - (vi)load((const float*)finish->sums + j * W) * splat_int(zero);
            acc[r][j] = __builtin_convertvector(sum, vf) * (splat(finish->rows[r * lda]) * load(finish->scale + j * W));
          }
        }
      }
    }
    if (finish && k == 0) {
      if (finish->bias) {
        VK_UNROLL
        for (int j = 0; j < NVEC; j++) {
          const vf bias = load(finish->bias + j * W);
          VK_UNROLL
          for (int r = 0; r < M; r++) acc[r][j] = acc[r][j] + bias;
        }
      }
      if (finish->gamma) {
        VK_UNROLL
        for (int j = 0; j < NVEC; j++) {
          const vf gamma = load(finish->gamma + j * W);
          VK_UNROLL
          for (int r = 0; r < M; r++) acc[r][j] = acc[r][j] * gamma;
        }
      }
      if (finish->residual) {
        VK_UNROLL
        for (int r = 0; r < M; r++)
          VK_UNROLL
          for (int j = 0; j < NVEC; j++)
            acc[r][j] = acc[r][j] + load(finish->residual + r * finish->residual_stride + j * W);
      }
      c = finish->out;
      ldc = finish->out_stride;
    }
    VK_UNROLL
    for (int r = 0; r < M; r++)
      VK_UNROLL
      for (int j = 0; j < NVEC; j++) store(c + r * ldc + j * W, acc[r][j]);
    accumulate = true;
    a += L == ALayout::row_major ? n : n * lda;
    b += n * NVEC * W;
  } while (k > 0);
}

struct TileFunction {
  void (*function)(int64_t, const float*, int64_t, const float*, float*, int64_t, bool, const TileEpilogue*,
                   const Lines*);
  void operator()(int64_t k, const float* a, int64_t lda, const float* b, float* c, int64_t ldc, bool accumulate,
                  const TileEpilogue* finish = nullptr, const Lines* lines = nullptr) const {
    function(k, a, lda, b, c, ldc, accumulate, finish, lines);
  }
};

template <ALayout L, Dot D, int NVEC, int... M>
struct TileRow {
  static constexpr TileFunction functions[] = {{tile<M, NVEC, L, D>}...};
};
template <ALayout L, Dot D, int NVEC>
VK_INLINE TileFunction tile_of(int m) {
#if VITKERN_WIDTH == 16
  return TileRow<L, D, NVEC, 1, 2, 3, 4, 5, 6, 7, 8, 9>::functions[m - 1];
#else
  return TileRow<L, D, NVEC, 1, 2, 3, 4, 5, 6>::functions[m - 1];
#endif
}
// The tile of m rows (1 to MR) and `vectors` (1 to NV) vectors of columns.
template <ALayout L, Dot D = Dot::f32>
VK_INLINE TileFunction tile_function(int m, int vectors) {
#if VITKERN_WIDTH == 16
  if (vectors == 3) return tile_of<L, D, 3>(m);
#endif
  return vectors == 2 ? tile_of<L, D, 2>(m) : tile_of<L, D, 1>(m);
}

// How `rows` rows are cut into tiles: as few as possible, and none much smaller than the others.
struct RowTiles {
  int64_t count, base, longer;  // `longer` tiles of base + 1 rows, then the rest of base rows
  explicit RowTiles(int64_t rows)
      : count((rows + MR - 1) / MR), base(count ? rows / count : 0), longer(count ? rows % count : 0) {}
  int size(int64_t i) const { return (int)(base + (i < longer)); }
};

}  // namespace vitkern::VITKERN_ISA
