// mlp: two linear layers and what is between them. The hidden rows of a block never leave the cache.
#pragma once
#include "linear.h"
#include "normalized_rows.h"

namespace vitkern::VITKERN_ISA {

// activation(pre) by rows, as the second product reads it.
template <class T>
struct Activated {
  const T* pre;
  int64_t k;
  Activation f;
  const float* block(int64_t row, int64_t n, float* buffer, int64_t* lda) const {
    using C = Compute<T>;
    using H = typename choose<C::pairs, T, float>::type;
    *lda = C::stride(k);
    for (int64_t r = 0; r < n; r++) {
      H* out = (H*)(buffer + r * *lda);
      C::end_row((float*)out, k);
      const T* in = pre + (row + r) * k;
      int64_t c = 0;
      for (; c + W <= k; c += W) store(out + c, activate(f, load(in + c)));
      if (c < k) store_n(out + c, activate(f, load_n(in + c, (int)(k - c))), (int)(k - c));
    }
    return buffer;
  }
};

template <class C, class T, class Source>
static void mlp_of(const Runtime& rt, const MlpArgs& a, const Source& x, const Operand& b1, const Operand& b2,
                   const float* bias1, const Epilogue<T>& second) {
  const int64_t hidden = a.weight1.out, in = a.weight1.in, out = a.weight2.out;
  const int64_t steps_in = C::steps(in), steps_hidden = C::steps(hidden);
  if constexpr (sizeof(T) != 4 && !C::int8) {
    if (a.pre1) {
      // For training: the pre-activation of all rows is kept, and activated on the way into the second
      // product.
      Epilogue<T> first{(T*)a.pre1, hidden};
      first.bias = bias1;
      multiply_all<C::dot>(rt, x, a.rows, b1, hidden, steps_in, first);
      multiply_all<C::dot>(rt, Activated<T>{(const T*)a.pre1, hidden, a.activation}, a.rows, b2, out, steps_hidden,
                           second);
      return;
    }
  }
  // Hidden rows, which the second product reads as they are, or converts.
  using H = typename choose<C::pairs, bf16, float>::type;
  constexpr bool converts = C::int8 || C::rounds || C::parts;
  const int64_t ldh = C::pairs ? 2 * padded_stride(steps_hidden) : padded_stride(hidden);
  // The first product of rows [row, ...) into h, and into pre1 for training.
  auto first = [&](H* h, int64_t row) {
    Epilogue<H> e{h, ldh};
    e.bias = bias1;
    e.activation = a.activation;
    if (a.pre1) e.pre = (H*)a.pre1 + row * hidden;
    e.side_stride = hidden;
    return e;
  };
  auto end_rows = [&](H* h, int64_t n) {
    if constexpr (C::pairs)
      for (int64_t r = 0; r < n; r++) C::end_row((float*)(h + r * ldh), hidden);
  };
  // Weights that no private cache holds are read anew for each block of rows.
  const bool large = (steps_in + C::steps(out)) * hidden * 4 > (4 << 20);
  constexpr int64_t kBlock = kOnTiles<C::dot> ? 256 : 128;  // with 200 an MLP of 1,568 rows was 5 % slower
  if (a.rows < rt.threads * kBlock * (large ? 4 : 1)) {
    // Too few rows to give every thread blocks: threads share the columns, and read each weight once.
    H* h = (H*)rt.scratch(kShared, a.rows * ldh * sizeof(H));
    end_rows(h, a.rows);
    with_ready_rows<C>(rt, x, a.rows, hidden, kNormed, [&](const auto& ready) {
      multiply_all<C::dot>(rt, ready, a.rows, b1, hidden, steps_in, first(h, 0));
    });
    with_ready_rows<C>(rt, Rows<C, H>{h, ldh, hidden, b2.range}, a.rows, out, kNormed, [&](const auto& ready) {
      multiply_all<C::dot>(rt, ready, a.rows, b2, out, steps_hidden, second);
    });
    return;
  }
  // On tiles blocks are as long as the second-level cache allows, which then counts the hidden rows as they are.
  const int64_t words = kOnTiles<C::dot> ? ldh * (int64_t)sizeof(H) / 4 : steps_hidden;
  const int64_t blocks = round_up(blocks_of<C::dot>(a.rows, larger(steps_in, words)), rt.threads);
  for_tasks(rt, blocks, [&](int64_t i) {
    const int64_t row = block_start<C::dot>(a.rows, i, blocks), n = block_start<C::dot>(a.rows, i + 1, blocks) - row;
    if (n == 0) return;
    H* h = (H*)rt.scratch(kHidden, n * ldh * sizeof(H));
    end_rows(h, n);
    int64_t lda;
    float* buffer = (float*)rt.scratch(kRowsA, (n * C::stride(in) + padded_stride(in)) * 4);
    const float* xr = x.block(row, n, buffer, &lda);
    multiply_block<C::dot>(rt, xr, lda, 0, n, b1, hidden, steps_in, 0, panels_of<C::dot>(hidden), first(h, row));
    const float* hr = (const float*)h;
    int64_t ldr = C::pairs ? ldh / 2 : ldh;
    if constexpr (converts) {
      buffer = (float*)rt.scratch(kRowsA, n * C::stride(hidden) * 4);
      hr = Rows<C, H>{h, ldh, hidden, b2.range}.block(0, n, buffer, &ldr);
    }
    multiply_block<C::dot>(rt, hr, ldr, row, n, b2, out, steps_hidden, 0, panels_of<C::dot>(out), second);
  });
}
template <class T>
static void mlp_as(const Runtime& rt, const MlpArgs& a) {
  const int64_t hidden = a.weight1.out, in = a.weight1.in, out = a.weight2.out;
  if (a.rows == 0 || (out == 0 && !a.pre1)) return;
  PaddedVectors vectors(rt, kVectors, 5, larger(larger(hidden, out), in));
  const float* bias1 = vectors.add((const T*)a.bias1, hidden);
  Epilogue<T> second{(T*)a.y, out};
  second.bias = vectors.add((const T*)a.bias2, out);
  second.gamma = vectors.add((const T*)a.gamma, out);
  second.residual = (const T*)a.residual;
  second.residual_stride = a.residual_stride;
  second.product = (T*)a.out2;
  second.side_stride = out;
  if (a.weight1.form != a.weight2.form) {  // one after the other
    T* h = (T*)rt.scratch(kShared, a.rows * hidden * sizeof(T));
    Epilogue<T> first{h, hidden};
    first.bias = bias1;
    first.activation = a.activation;
    multiply_rows<T>(rt, (const T*)a.x, a.x_stride, a.rows, a.norm, a.weight1, vectors, first);
    multiply_rows<T>(rt, (const T*)h, hidden, a.rows, Norm{}, a.weight2, vectors, second);
    return;
  }
  with_form<T>(a.weight1.form, [&](auto c) {
    using C = decltype(c);
    const Operand b1 = transposed_weight<C, T>(rt, kPackedB, a.weight1);
    const Operand b2 = transposed_weight<C, T>(rt, kPackedB2, a.weight2);
    with_rows<C>((const T*)a.x, a.x_stride, in, a.norm, b1.range, vectors,
                 [&](const auto& x) { mlp_of<C, T>(rt, a, x, b1, b2, bias1, second); });
  });
}
static void mlp(const Runtime& rt, const MlpArgs& a) {
  with_type(a.type, [&](auto t) { mlp_as<decltype(t)>(rt, a); });
}

}  // namespace vitkern::VITKERN_ISA
