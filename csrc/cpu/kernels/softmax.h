// Softmax of rows of scores in place. Rows are readable and writable up to whole vectors.
#pragma once
#if defined(__SSE__)
#include <immintrin.h>
#endif

#include "../gemm/micro.h"
#include "../simd/math.h"

namespace vitkern::VITKERN_ISA {

// a > b ? a : b in one instruction, of which compilers make two.
VK_INLINE vf maximum(vf a, vf b) {
#if VITKERN_WIDTH == 16 && defined(__AVX512F__)
  return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif VITKERN_WIDTH == 8 && defined(__AVX__)
  return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#elif VITKERN_WIDTH == 4 && defined(__SSE__)
  return (vf)_mm_max_ps((__m128)a, (__m128)b);
#else
  return max(a, b);
#endif
}

// Scores are exponents of 2 (log2 e is in the scale already) or of e. The latter where a bias comes
// from outside: one of -3e38, as masks have, must not overflow to -inf.
enum class Base { two, e };

// Base^x for x <= 0 (and up to 80), relative error 2e-7; 0 below 2^-126. Fewer operations than
// math.h's: 2^n is made in the exponent bits alone, where n = -127 gives 0.
template <Base B>
VK_INLINE vf power(vf x) {
  const vf magic = splat(12582912.f + 127.f);  // 1.5 * 2^23, and the exponent's offset
  const vf unit = splat(B == Base::e ? kLog2e : 1.f);
  vf c = maximum(splat(B == Base::e ? -88.03f : -127.f), x);
  vf y = c * unit + magic, f = c * unit - (y - magic), scale = (vf)((vi)y << 23);
  vf p = splat(0.00132647273f);
  p = p * f + splat(0.00967151299f);
  p = p * f + splat(0.0555073358f);
  p = p * f + splat(0.240222424f);
  p = p * f + splat(0.693147004f);
  return (scale * f) * p + scale;  // in floating point: a NaN of any payload stays one
}

// The maximum of all lanes, in every lane.
VK_INLINE vf max_everywhere(vf x) {
  if constexpr (W > 8) x = maximum(x, swap_lanes<8 % W>(x));
  if constexpr (W > 4) x = maximum(x, swap_lanes<4 % W>(x));
  x = maximum(x, swap_lanes<2>(x));
  return maximum(x, swap_lanes<1>(x));
}
constexpr float kInfinity = __builtin_inff();

// Sets what lies behind the n scores of a row, up to whole vectors, to -inf.
VK_INLINE void end_row(float* s, int64_t n) {
  const int64_t whole = n / W * W;
  if (whole == n) return;
  store(s + whole, select(iota() < splat_int((int)(n - whole)), load(s + whole), splat(-kInfinity)));
}

// s = Base^(s - shift) for n floats, a multiple of W; returns sums by lane.
template <Base B>
VK_INLINE vf exponentiate(float* s, int64_t n, vf shift) {
  vf total = {};
  for (int64_t j = 0; j < n; j += W) {
    vf e = power<B>(load(s + j) - shift);
    store(s + j, e);
    total = total + e;
  }
  return total;
}

// What to subtract from scores whose maximum this is.
VK_INLINE vf top_of(vf maximum) { return select(maximum == splat(-kInfinity), vf{}, maximum); }

// The maximum of n scores, a multiple of W, in every lane; 0 where all are -inf. Ignores NaNs (the
// exponentials have them).
VK_INLINE vf row_max(const float* s, int64_t n) {
  vf m0 = splat(-kInfinity), m1 = m0;
  int64_t j = 0;
  for (; j + 2 * W <= n; j += 2 * W) {
    m0 = maximum(load(s + j), m0);  // maximum(a, b) gives b where a is NaN
    m1 = maximum(load(s + j + W), m1);
  }
  if (j < n) m0 = maximum(load(s + j), m0);
  return top_of(max_everywhere(maximum(m0, m1)));
}

// Some rows of n scores, a multiple of W, become Base^(s - max s); `tops` gets what was subtracted,
// `sums` (room for W more) the sums. A row of -inf gives zeros and the sum 0; a NaN makes the sum NaN. One step for all
// rows and then the next: one row at a time would wait for its own maximum and its own sum.
constexpr int64_t kSoftmaxRows = 8 * MR;
template <Base B>
static void softmax_rows(float* s, int64_t stride, int64_t rows, int64_t n, float* tops, float* sums) {
  vf of_row[kSoftmaxRows];
  for (int64_t r = 0; r < rows; r++) of_row[r] = row_max(s + r * stride, n);
  for (int64_t r = 0; r < rows; r++) {
    tops[r] = of_row[r][0];
    of_row[r] = exponentiate<B>(s + r * stride, n, of_row[r]);
  }
  for (int64_t r = 0; r < rows; r++) sums[r] = sum_everywhere(of_row[r])[0];
  store(sums + rows, splat(1.f));
}

// The same of rows of factor * logits(row, column), a vector each and the factor positive, into rows of bfloat16
// that are `stride` apart.
template <Base B, class Logits>
static void softmax_into(int64_t rows, int64_t n, const Logits& logits, vf factor, bf16* out, int64_t stride,
                         float* tops, float* sums) {
  vf of_row[kSoftmaxRows];
  for (int64_t r = 0; r < rows; r++) {
    vf m0 = splat(-kInfinity), m1 = m0;
    int64_t j = 0;
    for (; j + 2 * W <= n; j += 2 * W) {
      m0 = maximum(logits(r, j), m0);
      m1 = maximum(logits(r, j + W), m1);
    }
    if (j < n) m0 = maximum(logits(r, j), m0);
    of_row[r] = top_of(max_everywhere(maximum(m0, m1)));
  }
  for (int64_t r = 0; r < rows; r++) {
    const vf top = of_row[r];
    bf16* row = out + r * stride;
    tops[r] = (top * factor)[0];
    vf total = {};
    for (int64_t j = 0; j < n; j += W) {
      // The factor comes last: fused with the difference, the largest logit's would not be 0.
      const vf e = power<B>((logits(r, j) - top) * factor);
      store(row + j, e);
      total = total + e;
    }
    of_row[r] = total;
  }
  for (int64_t r = 0; r < rows; r++) sums[r] = sum_everywhere(of_row[r])[0];
  store(sums + rows, splat(1.f));
}

// The factor that normalises a row.
VK_INLINE float normalizer(float sum) { return sum == 0.f ? 0.f : 1.f / sum; }
// Of some rows as softmax_rows leaves them; `factors` has room for W more.
VK_INLINE void normalizers(const float* sums, int64_t rows, float* factors) {
  for (int64_t r = 0; r < rows; r += W) {
    const vf t = load(sums + r);
    store(factors + r, select(t == vf{}, vf{}, splat(1.f) / t));
  }
}

// Natural logarithm of the sum of exponentials, +inf for a row with no key: e^(s - inf) is 0.
template <Base B>
VK_INLINE float log_sum(float top, float sum) {
  if (sum == 0.f) return kInfinity;
  return (B == Base::two ? top * 0.693147180559945f : top) + __builtin_logf(sum);
}

}  // namespace vitkern::VITKERN_ISA
