// Rows of A that are layer-normalised while they are packed: no pass of their own over memory. And rows
// that are packed once, where several tasks read them.
#pragma once
#include "layer_norm.h"

namespace vitkern::VITKERN_ISA {

template <class C, class T>
struct NormalizedRows {
  const T* data;
  int64_t stride, k;
  const float *weight, *bias;  // readable up to whole vectors, or null
  float eps;
  Range range = {};
  static constexpr bool costly = true;
  const float* block(int64_t row, int64_t n, float* buffer, int64_t* lda) const {
    using H = typename choose<C::pairs, bf16, float>::type;
    // Behind the packed rows: one row as float32.
    *lda = C::stride(k);
    float* wide = buffer + n * *lda;
    for (int64_t r = 0; r < n; r++) {
      const float* x = as_floats(data + (row + r) * stride, k, wide);
      float* out = buffer + r * *lda;
      float mean, scale;
      moments(x, k, eps, &mean, &scale);
      if constexpr (C::int8 || C::rounds || C::parts) {
        normalize(x, k, mean, scale, weight, bias, wide);
        C::put(wide, k, range, out, *lda);
      } else {
        normalize(x, k, mean, scale, weight, bias, (H*)out);
        C::end_row(out, k);
      }
    }
    return buffer;
  }
};

// Calls f(source) with x's rows as they are, or normalised. The vectors have room for two more.
template <class C, class T, class F>
VK_INLINE void with_rows(const T* x, int64_t stride, int64_t k, const Norm& norm, const Range& range,
                         PaddedVectors& vectors, const F& f) {
  if (!norm.on) return f(Rows<C, T>{x, stride, k, range});
  const float *weight = nullptr, *bias = nullptr;
  with_type(norm.type, [&](auto t) {
    weight = vectors.add((const decltype(t)*)norm.weight, k);
    bias = vectors.add((const decltype(t)*)norm.bias, k);
  });
  f(NormalizedRows<C, T>{x, stride, k, weight, bias, norm.eps, range});
}

// Rows that another source has packed.
struct ReadyRows {
  const float* data;
  int64_t lda_;
  const float* block(int64_t row, int64_t, float*, int64_t* lda) const {
    *lda = lda_;
    return data + row * lda_;
  }
};

// Calls f(source) with a source whose rows are cheap to ask for again, as a product does that splits the
// columns of few rows between tasks: costly rows are packed once, into the slot.
template <class C, class Source, class F>
static void with_ready_rows(const Runtime& rt, const Source& source, int64_t rows, int64_t columns, Slot slot,
                            const F& f) {
  if constexpr (Source::costly) {
    if (rows > 0 && columns > 0 && Grid<C::dot>(rt, rows, columns, C::steps(source.k)).column_blocks > 1) {
      const int64_t stride = C::stride(source.k), chunk = 16;
      float* out = (float*)rt.scratch(slot, rows * stride * 4);
      for_tasks(rt, (rows + chunk - 1) / chunk, [&](int64_t i) {
        const int64_t row = i * chunk, n = smaller(chunk, rows - row);
        int64_t lda;
        float* buffer = (float*)rt.scratch(kRowsA, (n * stride + padded_stride(source.k)) * 4);
        const float* packed = source.block(row, n, buffer, &lda);
        memcpy(out + row * stride, packed, n * stride * 4);
      });
      return f(ReadyRows{out, stride});
    }
  }
  f(source);
}

// The rows of x (normalised first where the norm is on) times the weight, of T's, through the epilogue. The
// vectors have room for two more.
template <class T, class X, class Y>
static void multiply_rows(const Runtime& rt, const X* x, int64_t stride, int64_t rows, const Norm& norm,
                          const Weight& w, PaddedVectors& vectors, const Epilogue<Y>& epilogue) {
  with_form<T>(w.form, [&](auto c) {
    using C = decltype(c);
    const Operand b = transposed_weight<C, T>(rt, kPackedB, w);
    with_rows<C>(x, stride, w.in, norm, b.range, vectors, [&](const auto& source) {
      with_ready_rows<C>(rt, source, rows, w.out, kNormed, [&](const auto& ready) {
        multiply_all<C::dot>(rt, ready, rows, b, w.out, C::steps(w.in), epilogue);
      });
    });
  });
}

// Rows [row, row + rows) of the source times b, through the epilogue, whose first row is `to`; on this thread.
template <class C, class Source, class T>
static void multiply_run(const Runtime& rt, const Source& source, int64_t row, int64_t rows, const Operand& b,
                         int64_t columns, int64_t k, const Epilogue<T>& epilogue, int64_t to) {
  const int64_t steps = C::steps(k), blocks = blocks_of<C::dot>(rows, steps);
  for (int64_t i = 0; i < blocks; i++) {
    const int64_t r = block_start<C::dot>(rows, i, blocks), n = block_start<C::dot>(rows, i + 1, blocks) - r;
    int64_t lda;
    float* buffer = (float*)rt.scratch(kRowsA, (n + 5) * padded_stride(steps + 2) * 4);
    const float* a = source.block(row + r, n, buffer, &lda);
    multiply_block<C::dot>(rt, a, lda, to + r, n, b, columns, steps, 0, panels_of<C::dot>(columns), epilogue);
  }
}

}  // namespace vitkern::VITKERN_ISA
