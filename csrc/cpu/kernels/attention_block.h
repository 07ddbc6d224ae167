// Fused attention block: norm, qkv, attention, projection, LayerScale and residual in one call. A task takes
// some images through all of it; where that makes too few tasks, each step goes over all images, and what lies
// between stays in scratch memory that all layers of a model share.
#pragma once
#include "../args/attention_block.h"
#include "attention.h"
#include "linear.h"
#include "normalized_rows.h"

namespace vitkern::VITKERN_ISA {

// Rows that a task of a fused block has at least, where there are as many: fewer would not be worth reading the
// weights.
constexpr int64_t kRowsOfTask = 160;

// What attention's operands and results are in, inside a block of T's: bfloat16 where both products around it
// are in a shorter form than float32, and the processor multiplies pairs of bfloat16.
template <class T, class F>
static void with_inner(const Weight& qkv, const Weight& proj, const F& f) {
  if constexpr (VITKERN_BF16_DOT) {
    if (qkv.form != Form::native && proj.form != Form::native) return f(bf16{});
  }
  f(T{});
}
template <class C, class T>
using Inner = typename choose<VITKERN_BF16_DOT && (C::int8 || C::pairs), bf16, T>::type;

// qkv = norm(x) weight^T + bias
template <class T, class H>
static void qkv_of(const Runtime& rt, const T* x, int64_t rows, const Norm& norm, const Weight& weight,
                   const void* bias, H* qkv) {
  PaddedVectors vectors(rt, kVectors, 3, larger(weight.out, weight.in));
  Epilogue<H> e{qkv, weight.out};
  e.bias = vectors.add((const T*)bias, weight.out);
  multiply_rows<T>(rt, x, weight.in, rows, norm, weight, vectors, e);
}

// The epilogue y = x + gamma * (product + bias).
template <class T>
static Epilogue<T> onto(PaddedVectors& vectors, int64_t width, const T* bias, const T* gamma, const T* x, T* y) {
  Epilogue<T> e{y, width};
  e.bias = vectors.add(bias, width);
  e.gamma = vectors.add(gamma, width);
  e.residual = x;
  e.residual_stride = width;
  return e;
}

// y = x + gamma * (heads weight^T + bias)
template <class T, class H>
static void project(const Runtime& rt, const H* heads, int64_t rows, const Weight& weight, const void* bias,
                    const void* gamma, const T* x, T* y) {
  PaddedVectors vectors(rt, kVectors, 4, larger(weight.out, weight.in));
  multiply_rows<T>(rt, heads, weight.in, rows, Norm{}, weight, vectors,
                   onto(vectors, weight.out, (const T*)bias, (const T*)gamma, x, y));
}

// The calling thread alone.
VK_INLINE Runtime serial(const Runtime& rt) {
  return {1, [](int64_t tasks, void (*body)(void*, int64_t), void* context) {
            for (int64_t i = 0; i < tasks; i++) body(context, i);
          }, rt.scratch};
}

// Attention of `batch` images, between what qkv holds of them and `heads`.
template <class H>
static void attend_images(const Runtime& rt, const AttentionBlockArgs& a, int64_t batch, const H* qkv, H* heads) {
  const int64_t c = a.heads * a.head_dim;
  AttentionArgs attend{};
  attend.type = sizeof(H) == 4 ? Type::f32 : Type::bf16;
  attend.batch = batch, attend.heads = a.heads, attend.head_dim = a.head_dim;
  attend.queries = attend.keys = a.tokens;
  attend.q = qkv, attend.k = qkv + c, attend.v = qkv + 2 * c;
  attend.q_strides = attend.k_strides = attend.v_strides = Strides3{a.tokens * 3 * c, a.head_dim, 3 * c};
  attend.scale = a.scale;
  attend.out = heads;
  attention(rt, attend);
}

// Some images go through all of it while they are in the second-level cache.
template <class C, class T>
static void attention_block_by_images(const Runtime& rt, const AttentionBlockArgs& a, int64_t tasks) {
  using H = Inner<C, T>;
  const int64_t c = a.heads * a.head_dim;
  PaddedVectors vectors(rt, kVectors, 5, larger(a.qkv.out, a.qkv.in));
  const float* qkv_bias = vectors.add((const T*)a.qkv_bias, a.qkv.out);
  const Epilogue<T> second =
      onto(vectors, c, (const T*)a.proj_bias, (const T*)a.gamma, (const T*)a.x, (T*)a.y);
  const Operand by_qkv = transposed_weight<C, T>(rt, kPackedB, a.qkv);
  const Operand by_proj = transposed_weight<C, T>(rt, kPackedB2, a.proj);
  with_rows<C>((const T*)a.x, a.qkv.in, a.qkv.in, a.norm, by_qkv.range, vectors, [&](const auto& x) {
    for_tasks(rt, tasks, [&](int64_t i) {
      const int64_t first = a.batch * i / tasks, images = a.batch * (i + 1) / tasks - first;
      const int64_t row = first * a.tokens, rows = images * a.tokens;
      H* qkv = (H*)rt.scratch(kBlockQkv, rows * 3 * c * sizeof(H));
      H* heads = (H*)rt.scratch(kBlockHeads, rows * c * sizeof(H));
      Epilogue<H> into_qkv{qkv, 3 * c};
      into_qkv.bias = qkv_bias;
      multiply_run<C>(rt, x, row, rows, by_qkv, 3 * c, c, into_qkv, 0);
      attend_images(serial(rt), a, images, qkv, heads);
      multiply_run<C>(rt, Rows<C, H>{heads, c, c, by_proj.range}, 0, rows, by_proj, c, c, second, row);
    });
  });
}

template <class T>
static void attention_block_as(const Runtime& rt, const AttentionBlockArgs& a) {
  const int64_t rows = a.batch * a.tokens, c = a.heads * a.head_dim;
  if (rows == 0) return;
  const int64_t per_task = (kRowsOfTask + a.tokens - 1) / a.tokens, tasks = (a.batch + per_task - 1) / per_task;
  if (a.qkv.form == a.proj.form && (rt.threads == 1 || tasks >= 2 * rt.threads))
    return with_form<T>(a.qkv.form, [&](auto form) { attention_block_by_images<decltype(form), T>(rt, a, tasks); });
  with_inner<T>(a.qkv, a.proj, [&](auto inner) {
    using H = decltype(inner);
    H* qkv = (H*)rt.scratch(kBlockQkv, rows * 3 * c * sizeof(H));
    H* heads = (H*)rt.scratch(kBlockHeads, rows * c * sizeof(H));
    qkv_of(rt, (const T*)a.x, rows, a.norm, a.qkv, a.qkv_bias, qkv);
    attend_images(rt, a, a.batch, qkv, heads);
    project(rt, heads, rows, a.proj, a.proj_bias, a.gamma, (const T*)a.x, (T*)a.y);
  });
}
static void attention_block(const Runtime& rt, const AttentionBlockArgs& a) {
  with_type(a.type, [&](auto t) { attention_block_as<decltype(t)>(rt, a); });
}

}  // namespace vitkern::VITKERN_ISA
