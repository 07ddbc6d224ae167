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
VK_INLINE void with_rows(const T* x, int64_t stride, int64_t k, const Norm& norm, PaddedVectors& vectors, const F& f) {
  if (!norm.on) return f(Compute<T>::rows(x, stride, k));
  const float *weight = nullptr, *bias = nullptr;
  with_type(norm.type, [&](auto t) {
    weight = vectors.add((const decltype(t)*)norm.weight, k);
    bias = vectors.add((const decltype(t)*)norm.bias, k);
  });
  f(NormalizedRows<T>{x, stride, k, weight, bias, norm.eps});
}

// Rows that another source has computed once, packed as it packs them.
struct ReadyRows {
  const float* data;
  int64_t lda_;
  const float* block(int64_t row, int64_t, float*, int64_t* lda) const {
    *lda = lda_;
    return data + row * lda_;
  }
};

// Calls f(source) with a source whose rows are cheap to ask for again, as a product does that splits
// the columns of few rows between tasks: normalised rows are computed once, into the slot.
template <class T, class Source, class F>
VK_INLINE void with_ready_rows(const Runtime& rt, const Source& source, int64_t, int64_t, Slot, const F& f) {
  f(source);
}
template <class T, class F>
static void with_ready_rows(const Runtime& rt, const NormalizedRows<T>& source, int64_t rows, int64_t columns,
                            Slot slot, const F& f) {
  const int64_t steps = Compute<T>::steps(source.k);
  if (Grid(rt, rows, columns, steps).column_blocks == 1) return f(source);
  const int64_t stride = padded_stride(steps), chunk = 16;
  float* out = (float*)rt.scratch(slot, (rows + 2) * stride * 4);
  for_tasks(rt, (rows + chunk - 1) / chunk, [&](int64_t i) {
    const int64_t row = i * chunk, n = smaller(chunk, rows - row);
    int64_t lda;
    float* buffer = (float*)rt.scratch(kRowsA, (chunk + 2) * padded_stride(source.k) * 4);
    source.block(row, n, buffer, &lda);
    memcpy(out + row * stride, buffer, n * stride * 4);
  });
  f(ReadyRows{out, stride});
}

}  // namespace vitkern::VITKERN_ISA
