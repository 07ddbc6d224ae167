// Activations and their slopes, in float32.
#pragma once

#include "platform.cuh"

namespace vitkern {

// As Python numbers them: vitkern.ops._cpu.ACTIVATIONS.
enum class Activation : int32_t {
  none = 0,
  gelu = 1,
  gelu_tanh = 2,
  relu = 3,
  silu = 4,
  quick_gelu = 5
};

constexpr float SQRT_HALF = 0.70710678f;          // 1 / sqrt(2)
constexpr float DENSITY_AT_0 = 0.39894228f;       // 1 / sqrt(2 pi), of the normal distribution
constexpr float TANH_SCALE = 0.79788456f;         // sqrt(2 / pi)
constexpr float TANH_CUBIC = 0.044715f;
constexpr float QUICK = 1.702f;

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// s and s (1 - s), which near 1 would have no more than the rounding error of s.
struct SigmoidAndSlope {
  float value, slope;
};
__device__ __forceinline__ SigmoidAndSlope sigmoid_with_slope(float x) {
  const float e = expf(-fabsf(x));  // never infinite, whatever the sign
  const float larger = 1.0f / (1.0f + e);
  return {x >= 0.0f ? larger : e * larger, e * larger * larger};
}

__device__ __forceinline__ float activate(float x, Activation activation) {
  switch (activation) {
    case Activation::gelu: return 0.5f * x * (1.0f + erff(x * SQRT_HALF));
    case Activation::gelu_tanh:
      return 0.5f * x * (1.0f + tanhf(TANH_SCALE * (x + TANH_CUBIC * x * x * x)));
    case Activation::relu: return x < 0.0f ? 0.0f : x;  // NaN stays NaN
    case Activation::silu: return x * sigmoid(x);
    case Activation::quick_gelu: return x * sigmoid(QUICK * x);
    case Activation::none: break;
  }
  return x;
}

__device__ __forceinline__ float slope(float x, Activation activation) {
  switch (activation) {
    case Activation::gelu:
      return 0.5f * (1.0f + erff(x * SQRT_HALF)) + x * DENSITY_AT_0 * expf(-0.5f * x * x);
    case Activation::gelu_tanh: {  // x sigmoid(2 u), where x/2 (1 + tanh(u)) is it
      const SigmoidAndSlope s =
          sigmoid_with_slope(2.0f * TANH_SCALE * (x + TANH_CUBIC * x * x * x));
      return s.value + x * s.slope * 2.0f * TANH_SCALE * (1.0f + 3.0f * TANH_CUBIC * x * x);
    }
    case Activation::relu: return x > 0.0f ? 1.0f : 0.0f;
    case Activation::silu: {
      const SigmoidAndSlope s = sigmoid_with_slope(x);
      return s.value + x * s.slope;
    }
    case Activation::quick_gelu: {
      const SigmoidAndSlope s = sigmoid_with_slope(QUICK * x);
      return s.value + QUICK * x * s.slope;
    }
    case Activation::none: break;
  }
  return 1.0f;
}

// Several values at once: one branch for all.
template <Activation KIND, int N>
__device__ __forceinline__ void activate_all(float (&x)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) x[i] = activate(x[i], KIND);
}
template <Activation KIND, int N>
__device__ __forceinline__ void multiply_by_slopes(float (&v)[N], const float (&x)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) v[i] *= slope(x[i], KIND);
}

template <int N>
__device__ __forceinline__ void activate(float (&x)[N], Activation activation) {
  switch (activation) {
    case Activation::gelu: return activate_all<Activation::gelu>(x);
    case Activation::gelu_tanh: return activate_all<Activation::gelu_tanh>(x);
    case Activation::relu: return activate_all<Activation::relu>(x);
    case Activation::silu: return activate_all<Activation::silu>(x);
    case Activation::quick_gelu: return activate_all<Activation::quick_gelu>(x);
    case Activation::none: return;
  }
}

// v activation'(x)
template <int N>
__device__ __forceinline__ void multiply_by_slope(float (&v)[N], const float (&x)[N],
                                                  Activation activation) {
  switch (activation) {
    case Activation::gelu: return multiply_by_slopes<Activation::gelu>(v, x);
    case Activation::gelu_tanh: return multiply_by_slopes<Activation::gelu_tanh>(v, x);
    case Activation::relu: return multiply_by_slopes<Activation::relu>(v, x);
    case Activation::silu: return multiply_by_slopes<Activation::silu>(v, x);
    case Activation::quick_gelu: return multiply_by_slopes<Activation::quick_gelu>(v, x);
    case Activation::none: return;
  }
}

}  // namespace vitkern
