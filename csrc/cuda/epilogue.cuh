// What follows a product while its result is in registers.
#pragma once

#include "activation.cuh"
#include "numeric.cuh"

namespace vitkern {

// For an (m, n) result, row-major and contiguous as c, pre, slope and activated are:
//   v += bias; pre = v; v = activation(v); v *= gamma; v += residual; c = v
// and with `slope`, which is what an activation was applied to:
//   v *= activation'(slope); activated = activation(slope)
// Each pointer may be null. `quads`: four neighbours of a row can be loaded and stored at once.
#define EPILOGUE_FIELDS(FIELD)                                                               \
  FIELD(void*, c) FIELD(const void*, bias) FIELD(const void*, gamma)                         \
  FIELD(const void*, residual) FIELD(const void*, slope) FIELD(void*, pre)                   \
  FIELD(void*, activated) FIELD(int64_t, residual_row) FIELD(int32_t, activation)            \
  FIELD(int32_t, quads)

constexpr int QUAD = 4;

template <class T>
struct Epilogue {
  T* c;
  const T* bias;
  const T* gamma;
  const T* residual;
  const T* slope;
  T* pre;
  T* activated;
  int64_t residual_row;
  int64_t m, n;
  Activation activation;
  bool quads;

  template <class Params>
  explicit Epilogue(const Params& p)
      : c(static_cast<T*>(p.c)),
        bias(static_cast<const T*>(p.bias)),
        gamma(static_cast<const T*>(p.gamma)),
        residual(static_cast<const T*>(p.residual)),
        slope(static_cast<const T*>(p.slope)),
        pre(static_cast<T*>(p.pre)),
        activated(static_cast<T*>(p.activated)),
        residual_row(p.residual_row),
        m(p.m),
        n(p.n),
        activation(static_cast<Activation>(p.activation)),
        quads(p.quads != 0) {}

  // Elements of a row from a column on, a multiple of QUAD. All of k is in them.
  __device__ __forceinline__ void operator()(int64_t row, int64_t column, float (&v)[QUAD],
                                             int64_t /*turn*/ = 0) const {
    if (row >= m || column >= n) return;
    const int count = n - column < QUAD ? static_cast<int>(n - column) : QUAD;
    const int64_t at = row * n + column;
    float other[QUAD];
    if (bias != nullptr) {
      fetch(other, bias + column, count);
#pragma unroll
      for (int i = 0; i < QUAD; ++i) v[i] += other[i];
    }
    if (pre != nullptr) put(pre + at, v, count);
    if (slope != nullptr) {
      fetch(other, slope + at, count);
      multiply_by_slope(v, other, activation);
      if (activated != nullptr) {
        activate(other, activation);
        put(activated + at, other, count);
      }
    } else {
      activate(v, activation);
    }
    if (gamma != nullptr) {
      fetch(other, gamma + column, count);
#pragma unroll
      for (int i = 0; i < QUAD; ++i) v[i] *= other[i];
    }
    if (residual != nullptr) {
      fetch(other, residual + row * residual_row + column, count);
#pragma unroll
      for (int i = 0; i < QUAD; ++i) v[i] += other[i];
    }
    put(c + at, v, count);
  }

 private:
  __device__ __forceinline__ void fetch(float (&values)[QUAD], const T* from, int count) const {
    if (quads) {
      load(values, from);
    } else {
#pragma unroll
      for (int i = 0; i < QUAD; ++i) values[i] = i < count ? to_float(from[i]) : 0.0f;
    }
  }
  __device__ __forceinline__ void put(T* to, const float (&values)[QUAD], int count) const {
    if (quads) {
      store(to, values);
    } else {
#pragma unroll
      for (int i = 0; i < QUAD; ++i) {
        if (i < count) to[i] = from_float<T>(values[i]);
      }
    }
  }
};

}  // namespace vitkern
