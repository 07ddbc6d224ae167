// Rows of A that are layer-normalised while they are packed: no pass of their own over memory.
#pragma once
#include "layer_norm.h"

namespace vitkern::VITKERN_ISA {

template <class T>
struct NormalizedRows {
  const T* data;
  int64_t stride, k;
  const float *weight, *bias;  // readable up to whole vectors, or null
  float eps;
  const float* block(int64_t row, int64_t n, float* buffer, int64_t* lda) const {
    using C = Compute<T>;
    using H = typename choose<C::pairs, T, float>::type;
    // Behind the packed rows: one row as float32.
    *lda = padded_stride(C::steps(k));
    float* wide = buffer + n * *lda;
    for (int64_t r = 0; r < n; r++) {
      const float* x = as_floats(data + (row + r) * stride, k, wide);
      float mean, scale;
      moments(x, k, eps, &mean, &scale);
      H* out = (H*)(buffer + r * *lda);
      normalize(x, k, mean, scale, weight, bias, out);
      if (C::pairs && k % 2) put(out + k, 0.f);
    }
    return buffer;
  }
};

// Calls f(source) with x's rows as they are, or normalised. The vectors have room for two more.
template <class T, class F>
VK_INLINE void with_rows(const T* x, int64_t stride, int64_t k, const Norm& norm, Vectors& vectors, const F& f) {
  if (!norm.on) return f(Compute<T>::rows(x, stride, k));
  const float *weight = nullptr, *bias = nullptr;
  with_type(norm.type, [&](auto t) {
    weight = vectors.add((const decltype(t)*)norm.weight, k);
    bias = vectors.add((const decltype(t)*)norm.bias, k);
  });
  f(NormalizedRows<T>{x, stride, k, weight, bias, norm.eps});
}

}  // namespace vitkern::VITKERN_ISA
