// Softmax of rows of scores in place. Rows are readable and writable up to whole vectors.
#pragma once
#include "../simd/math.h"

namespace vitkern::VITKERN_ISA {

// Scores are exponents of 2 (log2 e is in the scale already) or of e. The latter where a bias comes
// from outside: one of -3e38, as masks have, must not overflow to -inf.
enum class Base { two, e };

// Base^x for x <= 0 (and up to 80), relative error 2e-7; 0 below 2^-126. Fewer operations than
// math.h's: 2^n is made in the exponent bits alone, where n = -127 gives 0.
template <Base B>
VK_INLINE vf power(vf x) {
  const vf magic = splat(12582912.f + 127.f);  // 1.5 * 2^23, and the exponent's offset
  const vf unit = splat(B == Base::e ? kLog2e : 1.f);
  vf c = max(splat(B == Base::e ? -88.03f : -127.f), x);
  vf y = c * unit + magic, f = c * unit - (y - magic);
  vf p = splat(0.00132647273f);
  p = p * f + splat(0.00967151299f);
  p = p * f + splat(0.0555073358f);
  p = p * f + splat(0.240222424f);
  p = p * f + splat(0.693147004f);
  p = p * f + splat(1.f);
  return p * (vf)((vi)y << 23);  // a product: a NaN of any payload stays one
}

// Lane i gets lane i ^ N.
template <int N>
VK_INLINE vf swap_lanes(vf x) {
#define VK_SWAP(i) ((i) ^ N)
#if VITKERN_WIDTH == 4
  return __builtin_shufflevector(x, x, VK_SWAP(0), VK_SWAP(1), VK_SWAP(2), VK_SWAP(3));
#elif VITKERN_WIDTH == 8
  return __builtin_shufflevector(x, x, VK_SWAP(0), VK_SWAP(1), VK_SWAP(2), VK_SWAP(3), VK_SWAP(4), VK_SWAP(5),
                                 VK_SWAP(6), VK_SWAP(7));
#else
  return __builtin_shufflevector(x, x, VK_SWAP(0), VK_SWAP(1), VK_SWAP(2), VK_SWAP(3), VK_SWAP(4), VK_SWAP(5),
                                 VK_SWAP(6), VK_SWAP(7), VK_SWAP(8), VK_SWAP(9), VK_SWAP(10), VK_SWAP(11),
                                 VK_SWAP(12), VK_SWAP(13), VK_SWAP(14), VK_SWAP(15));
#endif
#undef VK_SWAP
}
// The maximum or the sum of all lanes, in every lane.
VK_INLINE vf max_everywhere(vf x) {
  if constexpr (W > 8) x = max(x, swap_lanes<8 % W>(x));
  if constexpr (W > 4) x = max(x, swap_lanes<4 % W>(x));
  x = max(x, swap_lanes<2>(x));
  return max(x, swap_lanes<1>(x));
}
VK_INLINE vf sum_everywhere(vf x) {
  if constexpr (W > 8) x = x + swap_lanes<8 % W>(x);
  if constexpr (W > 4) x = x + swap_lanes<4 % W>(x);
  x = x + swap_lanes<2>(x);
  return x + swap_lanes<1>(x);
}

constexpr float kInfinity = __builtin_inff();

// Sets what lies behind the n scores of a row, up to whole vectors, to -inf.
VK_INLINE void end_row(float* s, int64_t n) {
  const int64_t whole = n / W * W;
  if (whole == n) return;
  store(s + whole, select(iota() < splat_int((int)(n - whole)), load(s + whole), splat(-kInfinity)));
}

// s = Base^(s - shift) for n floats, a multiple of W; returns the sum.
template <Base B>
VK_INLINE float exponentiate(float* s, int64_t n, vf shift) {
  vf t0 = {}, t1 = {};
  int64_t j = 0;
  for (; j + 2 * W <= n; j += 2 * W) {
    vf e0 = power<B>(load(s + j) - shift), e1 = power<B>(load(s + j + W) - shift);
    store(s + j, e0);
    store(s + j + W, e1);
    t0 = t0 + e0;
    t1 = t1 + e1;
  }
  if (j < n) {
    vf e = power<B>(load(s + j) - shift);
    store(s + j, e);
    t0 = t0 + e;
  }
  return sum_everywhere(t0 + t1)[0];
}

// The maximum of n scores, a multiple of W, in every lane; 0 where all are -inf. Ignores NaNs (the
// exponentials have them).
VK_INLINE vf row_max(const float* s, int64_t n) {
  vf m0 = splat(-kInfinity), m1 = m0;
  int64_t j = 0;
  for (; j + 2 * W <= n; j += 2 * W) {
    m0 = max(load(s + j), m0);  // max(a, b) gives b where a is NaN
    m1 = max(load(s + j + W), m1);
  }
  if (j < n) m0 = max(load(s + j), m0);
  const vf m = max_everywhere(max(m0, m1));
  return select(m == splat(-kInfinity), vf{}, m);
}

// s = Base^(s - max s) for n floats, a multiple of W; returns the sum and, in `top`, what was
// subtracted. A row of -inf gives zeros and the sum 0; a NaN makes the sum NaN.
template <Base B>
VK_INLINE float softmax_row(float* s, int64_t n, float* top) {
  const vf m = row_max(s, n);
  *top = m[0];
  return exponentiate<B>(s, n, m);
}

// The factor that normalises a row.
VK_INLINE float normalizer(float sum) { return sum == 0.f ? 0.f : 1.f / sum; }

// Natural logarithm of the sum of exponentials, +inf for a row with no key: e^(s - inf) is 0.
template <Base B>
VK_INLINE float log_sum(float top, float sum) {
  if (sum == 0.f) return kInfinity;
  return (B == Base::two ? top * 0.693147180559945f : top) + __builtin_logf(sum);
}

}  // namespace vitkern::VITKERN_ISA
