// Elementary functions on vectors, and the activations with their derivatives.
#pragma once
#include "vec.h"

namespace vitkern::VITKERN_ISA {

// a < b ? a : b and its like return b for a NaN in a, so the argument that may be one stands second.
VK_INLINE vf clamp(vf x, float low, float high) { return max(splat(low), min(splat(high), x)); }

// 2^x for -126.5 <= x < 127.5, relative error 2e-9 before rounding.
VK_INLINE vf exp2_bounded(vf x) {
  const vf magic = splat(12582912.f);  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  vf y = x + magic, f = x - (y - magic);
  vf p = splat(0.000153375769f);
  p = p * f + splat(0.00133998604f);
  p = p * f + splat(0.00961851953f);
  p = p * f + splat(0.05550329f);
  p = p * f + splat(0.240226466f);
  p = p * f + splat(0.693147206f);
  p = p * f + splat(1.f);
  return (vf)((vi)p + ((vi)y << 23));
}
// The same for every x: below -126 the result is 0, above 127.5 it is 2^127.5.
VK_INLINE vf exp2(vf x) {
  vf c = clamp(x, -126.5f, 127.49f);
  return select(splat(-126.f) <= c, exp2_bounded(c), c - c);  // c - c: 0, or NaN for a NaN
}
constexpr float kLog2e = 1.44269504088896341f;
VK_INLINE vf exp(vf x) { return exp2(x * splat(kLog2e)); }

// erfc(|x| / sqrt 2) / 2, the tail of the normal distribution, as p(|x|)^8 with p fitted by reweighted
// least squares: |x| times it is within 1.4e-7 of the truth everywhere. No division, which would take as
// long as half of the rest.
VK_INLINE vf normal_tail(vf x) {
  vf a = min(splat(6.f), abs(x));
  vf p = splat(-2.94533834e-07f);
  p = p * a + splat(7.45863554e-06f);
  p = p * a + splat(-6.01249812e-05f);
  p = p * a + splat(3.38498139e-05f);
  p = p * a + splat(0.00150521775f);
  p = p * a + splat(-0.000672905182f);
  p = p * a + splat(-0.0319274925f);
  p = p * a + splat(-0.0914575906f);
  p = p * a + splat(0.917004049f);
  p = p * p;
  p = p * p;
  return p * p;
}
VK_INLINE vf relu(vf x) { return max(splat(0.f), x); }

VK_INLINE vf gelu(vf x) { return relu(x) - min(splat(6.f), abs(x)) * normal_tail(x); }
// A function's value and its derivative.
struct ValueAndSlope {
  vf value, slope;
};
// x cdf(x) and cdf(x) + x density(x). The tail is the density times Mills' ratio (a rational fit,
// relative error 2e-8): near 0, where the derivative is 1/2, that is closer than normal_tail's eighth
// power. |x| counts as 6 beyond that, where what depends on it is below 4e-8.
VK_INLINE ValueAndSlope gelu_with_slope(vf x) {
  vf a = min(splat(6.f), abs(x)), bounded = (vf)((vu)a | ((vu)x & 0x80000000u));
  vf density = splat(0.398942280401f) * exp2_bounded(a * a * splat(-0.5f * kLog2e));
  vf p = splat(0.0307728113f), q = splat(0.030805772f);
  p = p * a + splat(0.246006405f);
  p = p * a + splat(0.807994798f);
  p = p * a + splat(1.25331412f);
  q = q * a + splat(0.245223179f);
  q = q * a + splat(0.847301779f);
  q = q * a + splat(1.44256999f);
  q = q * a + splat(1.f);
  vf tail = density * (p / q), cdf = x > splat(0.f) ? splat(1.f) - tail : tail;
  return {relu(x) - a * tail, cdf + bounded * density};
}

VK_INLINE vf sigmoid(vf x) { return splat(1.f) / (splat(1.f) + exp2(x * splat(-kLog2e))); }
// s and s (1 - s). Not by that difference: near 1 it has no more than the rounding error of s.
VK_INLINE ValueAndSlope sigmoid_with_slope(vf x) {
  vf e = exp2(x * splat(-kLog2e)), s = splat(1.f) / (splat(1.f) + e);
  return {s, e * s * s};
}
VK_INLINE vf silu(vf x, float slope) { return x * sigmoid(x * splat(slope)); }
VK_INLINE vf silu_derivative(vf x, float slope) {
  ValueAndSlope s = sigmoid_with_slope(x * splat(slope));
  return s.value + x * splat(slope) * s.slope;
}

// gelu_tanh(x) = x/2 (1 + tanh(u)) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3).
constexpr float kTanhSlope = 1.5957691216057308f, kTanhCubic = 0.044715f;
VK_INLINE vf gelu_tanh(vf x) {
  return x * sigmoid(splat(kTanhSlope) * x * (splat(1.f) + splat(kTanhCubic) * x * x));
}
VK_INLINE vf gelu_tanh_derivative(vf x) {
  vf x2 = x * x;
  ValueAndSlope s = sigmoid_with_slope(splat(kTanhSlope) * x * (splat(1.f) + splat(kTanhCubic) * x2));
  vf slope = splat(kTanhSlope) * (splat(1.f) + splat(3 * kTanhCubic) * x2);
  return s.value + x * slope * s.slope;
}

VK_INLINE vf activate(Activation f, vf x) {
  switch (f) {
    case Activation::gelu: return gelu(x);
    case Activation::gelu_tanh: return gelu_tanh(x);
    case Activation::relu: return relu(x);
    case Activation::silu: return silu(x, 1.f);
    case Activation::quick_gelu: return silu(x, 1.702f);
    case Activation::none: break;
  }
  return x;
}
VK_INLINE vf activation_derivative(Activation f, vf x) {
  switch (f) {
    case Activation::gelu: return gelu_with_slope(x).slope;
    case Activation::gelu_tanh: return gelu_tanh_derivative(x);
    case Activation::relu: return select(x > splat(0.f), splat(1.f), splat(0.f));
    case Activation::silu: return silu_derivative(x, 1.f);
    case Activation::quick_gelu: return silu_derivative(x, 1.702f);
    case Activation::none: break;
  }
  return splat(1.f);
}
VK_INLINE ValueAndSlope activate_with_slope(Activation f, vf x) {
  if (f == Activation::gelu) return gelu_with_slope(x);
  return {activate(f, x), activation_derivative(f, x)};
}

// Calls f with the activation as a constant, f(ActivationIs<...>()).
template <Activation F>
struct ActivationIs {
  static constexpr Activation value = F;
};
template <class F>
VK_INLINE void with_activation(Activation activation, const F& f) {
  switch (activation) {
    case Activation::none: return f(ActivationIs<Activation::none>());
    case Activation::gelu: return f(ActivationIs<Activation::gelu>());
    case Activation::gelu_tanh: return f(ActivationIs<Activation::gelu_tanh>());
    case Activation::relu: return f(ActivationIs<Activation::relu>());
    case Activation::silu: return f(ActivationIs<Activation::silu>());
    case Activation::quick_gelu: return f(ActivationIs<Activation::quick_gelu>());
  }
}

}  // namespace vitkern::VITKERN_ISA
